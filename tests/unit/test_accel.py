"""The accelerator probe, against a program called qemu-system-x86_64 that behaves as told."""

import asyncio
import json
import os
import time
from pathlib import Path

import pytest

from jupyter_vsandbox.domain.errors import InvalidRequest, Unsupported
from jupyter_vsandbox.drivers.qemu import accel
from jupyter_vsandbox.drivers.qemu.accel import Deadlines, probe
from jupyter_vsandbox.drivers.qemu.binary import qemu_version
from jupyter_vsandbox.settings import Settings

# $STAGE is sector or kernel, $ACCEL is kvm or tcg, $SERIAL the file that stands for the console.
_HEAD = r"""#!/bin/sh
[ "$1" = --version ] && { echo "QEMU emulator version 9.8.7 (fake)"; exit 0; }
echo "$*" >> "$(dirname "$0")/calls"
ACCEL=$2 STAGE=sector SERIAL=/dev/null
for word; do case $word in -kernel) STAGE=kernel;; file:*) SERIAL=${word#file:};; esac; done
panic() { echo "Kernel panic - not syncing: VFS: Unable to mount root fs" > "$SERIAL"; exit 0; }
works() { [ $STAGE = kernel ] && panic; exit 85; }
hangs() { echo $$ >> "$(dirname "$0")/hung"; exec sleep 600; }
"""
_QUICK = Deadlines(sector=5, kernel=5, noise=60)
_SHORT = Deadlines(sector=1, kernel=1, noise=60)


class Host:
    """A folder with the fake program, a home, a device and a kernel."""

    def __init__(self, folder, monkeypatch):
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.device = folder / "kvm"
        self.device.touch()
        self.kernel = folder / "vmlinuz"
        self.kernel.touch()
        self.settings = Settings(home=folder / "home")
        monkeypatch.setenv("PATH", f"{self.bin}:/usr/bin:/bin")

    def qemu(self, behaviour):
        """Install a program that does `behaviour`."""
        program = self.bin / "qemu-system-x86_64"
        program.write_text(_HEAD + behaviour)
        program.chmod(0o755)

    def probe(self, kernel=None, deadlines=_QUICK, **changes):
        """Probe once."""
        settings = Settings(home=self.settings.home, **changes)
        return asyncio.run(probe(settings, kernel, device=self.device, deadlines=deadlines))

    @property
    def calls(self):
        """The accelerator and stage of each call so far."""
        log = self.bin / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        return [(line.split()[1], "kernel" if "-kernel" in line else "sector") for line in lines]

    @property
    def hung(self):
        """The process ids of the calls that were to hang."""
        return [int(line) for line in (self.bin / "hung").read_text().split()]


@pytest.fixture
def host(tmp_path, monkeypatch):
    return Host(tmp_path, monkeypatch)


def test_kvm_that_runs_a_boot_sector_is_used(host):
    host.qemu("works")
    found = host.probe()
    assert (found.name, found.emulated) == ("kvm", False)
    assert host.calls == [("kvm", "sector")]


def test_a_kernel_is_tried_after_the_boot_sector(host):
    host.qemu("works")
    assert host.probe(host.kernel).name == "kvm"
    assert host.calls == [("kvm", "sector"), ("kvm", "kernel")]


def test_the_kernel_of_a_built_image_is_found(host):
    host.qemu("works")
    for name in ("python-3.11-0123456789ab", ".build-x@0"):
        (host.settings.images / name).mkdir(parents=True)
        (host.settings.images / name / "vmlinuz").touch()
    host.probe()
    assert ("kvm", "kernel") in host.calls
    log = (host.bin / "calls").read_text()
    assert "python-3.11-0123456789ab/vmlinuz" in log
    assert ".build" not in log


@pytest.mark.parametrize("stage", ["sector", "kernel"])
def test_a_guest_that_hangs_is_killed_at_its_deadline(host, stage):
    host.qemu(f"[ $STAGE = {stage} ] && hangs; works")
    started = time.monotonic()
    found = host.probe(host.kernel, _SHORT if stage == "sector" else Deadlines(sector=5, kernel=1, noise=60))
    assert time.monotonic() - started < 10
    assert found.emulated
    assert "still not done after 1.0 s" in found.reason
    assert ("boot sector" if stage == "sector" else "Linux kernel") in found.reason
    [pid] = host.hung
    with pytest.raises(ProcessLookupError):  # dead, and reaped: a zombie could still be signalled
        os.kill(pid, 0)


def test_a_grandchild_that_keeps_the_streams_open_is_not_waited_for(host):
    host.qemu("sleep 8 & exit 1")
    started = time.monotonic()
    assert host.probe().emulated
    assert time.monotonic() - started < 6


def test_cancelling_kills_the_guest_and_remembers_nothing(host):
    host.qemu("hangs")

    async def give_up():
        async with asyncio.timeout(0.5):
            await probe(host.settings, device=host.device, deadlines=Deadlines(sector=600))

    with pytest.raises(TimeoutError):
        asyncio.run(give_up())
    with pytest.raises(ProcessLookupError):
        os.kill(host.hung[0], 0)
    assert not (host.settings.home / "accelerator.json").exists()


def test_a_kernel_that_says_nothing_has_not_run(host):
    host.qemu("[ $STAGE = kernel ] && exit 0; works")
    found = host.probe(host.kernel)
    assert found.emulated
    assert "said nothing" in found.reason


def test_the_reason_quotes_qemu(host):
    host.qemu('echo "failed to initialize kvm: Device or resource busy" >&2; exit 1')
    found = host.probe()
    assert found.emulated
    assert "code 1 (failed to initialize kvm: Device or resource busy)" in found.reason


def test_kvm_slower_than_emulation_is_not_used(host):
    host.qemu("[ $ACCEL = kvm ] && sleep 2; works")
    found = host.probe(deadlines=Deadlines(noise=0.5))
    assert found.emulated
    assert "slower than emulation" in found.reason
    assert host.calls == [("kvm", "sector"), ("tcg", "sector")]


def test_kvm_is_used_where_emulation_takes_as_long(host):
    host.qemu("[ $ACCEL = tcg ] && hangs; sleep 0.6; works")
    assert host.probe(deadlines=Deadlines(noise=0.5)).name == "kvm"


@pytest.mark.parametrize("behaviour", ["works", "exit 1"])
def test_the_answer_is_remembered(host, behaviour):
    host.qemu(behaviour)
    first = host.probe(host.kernel)
    calls = host.calls
    assert host.probe() == first
    assert host.probe(host.kernel) == first
    assert host.calls == calls
    assert [path.name for path in host.settings.home.iterdir()] == ["accelerator.json"]


def test_an_answer_without_a_kernel_holds_until_there_is_one(host):
    host.qemu("[ $STAGE = kernel ] && exit 1; works")
    assert host.probe().name == "kvm"
    assert host.probe().name == "kvm"
    assert host.probe(host.kernel).name == "tcg"
    assert host.probe().name == "tcg"
    assert host.calls == [("kvm", "sector"), ("kvm", "sector"), ("kvm", "kernel")]


def test_another_qemu_is_probed_again(host):
    host.qemu("exit 1")
    assert host.probe().name == "tcg"
    host.qemu("works # rebuilt")
    assert host.probe().name == "kvm"


def test_another_boot_is_probed_again(host, monkeypatch):
    host.qemu("works")
    host.probe()
    boot_id = host.settings.home / "boot_id"
    boot_id.write_text("another\n")
    monkeypatch.setattr(accel, "_BOOT_ID", boot_id)
    host.probe()
    assert len(host.calls) == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"key": 1}', '{"key": "', "\x00"])
def test_a_damaged_memory_is_measured_anew(host, text):
    host.qemu("works")
    host.settings.home.mkdir()
    memory = host.settings.home / "accelerator.json"
    memory.write_text(text)
    assert host.probe().name == "kvm"
    assert json.loads(memory.read_text())["kvm"] is True


def test_a_home_that_cannot_be_written_costs_only_time(host, caplog):
    host.qemu("works")
    host.settings.home.touch()
    assert host.probe().name == "kvm"
    assert "Could not remember" in caplog.text


def test_a_missing_device_means_emulation(host):
    host.qemu("works")
    host.device.unlink()
    found = host.probe()
    assert found.emulated
    assert "is missing" in found.reason
    assert "modprobe" in found.reason
    assert host.calls == []


def test_a_forbidden_device_names_the_group(host, monkeypatch):
    host.qemu("works")
    real = os.open

    def refuse(path, *rest, **more):  # root may open anything, whatever its mode
        if path == host.device:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    found = host.probe()
    assert found.emulated
    assert "group kvm" in found.reason


def test_kvm_demanded_but_broken_is_an_error(host):
    host.qemu("exit 1")
    with pytest.raises(Unsupported, match=r"demanded.*code 1"):
        host.probe(accelerator="kvm")


def test_emulation_demanded_is_not_probed(host):
    host.qemu("works")
    assert host.probe(accelerator="tcg").emulated
    assert host.calls == []


def test_an_unknown_accelerator_is_refused(host):
    host.qemu("works")
    with pytest.raises(InvalidRequest, match="hvf"):
        host.probe(accelerator="hvf")


@pytest.mark.parametrize("wish", ["auto", "kvm", "tcg"])
def test_no_qemu_tells_how_to_install_it(host, monkeypatch, wish):
    monkeypatch.setenv("PATH", str(host.bin))
    with pytest.raises(Unsupported, match="apt-get install qemu-system-x86 qemu-utils"):
        host.probe(accelerator=wish)


def test_the_version_follows_the_program(host):
    host.qemu("works")
    assert qemu_version() == "9.8.7"
    program = Path(host.bin / "qemu-system-x86_64")
    program.write_text(program.read_text().replace("9.8.7", "10.0.12"))
    assert qemu_version() == "10.0.12"
