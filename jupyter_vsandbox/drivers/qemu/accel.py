"""Find out whether KVM really runs guests on this host.

That ``/dev/kvm`` opens, and even creates a machine, proves nothing: on some clouds a boot sector
runs and every stock Linux kernel hangs. So two small guests are booted, each with a deadline:

1. a boot sector that writes to QEMU's exit device, which proves that firmware and a disk work;
2. a stock Linux kernel without a root file system, which must be seen to panic on its console.

The last one that KVM finished is then given to the emulator, with half the time that KVM took. If
the emulator makes it, KVM is a loss. The answer is kept until the host reboots.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import InvalidRequest, Unsupported
from jupyter_vsandbox.domain.model import Accelerator
from jupyter_vsandbox.drivers.qemu.binary import qemu_binary, qemu_version, stamp
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jupyter_vsandbox.settings import Settings

__all__ = ["Deadlines", "probe", "qemu_binary", "qemu_version"]

_log = logging.getLogger(__name__)

_DEVICE = Path("/dev/kvm")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CHOICES = ("auto", "kvm", "tcg")

# cli; mov dx,0xf4; mov al,0x2a; out dx,al; hlt; jmp to the hlt. QEMU's isa-debug-exit device ends
# the process with (value << 1) | 1.
_BOOT_CODE = bytes.fromhex("fa baf400 b02a ee f4 ebfd")
_BOOT_EXIT = (0x2A << 1) | 1
# SeaBIOS refuses disks smaller than one cylinder (16 heads of 63 sectors).
_BOOT_DISK_BYTES = 1024 * 1024
_PANIC = (b"Kernel panic", b"Unable to mount root")

_COMMON = ("-M", "q35", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot")


@dataclass(frozen=True)
class Deadlines:
    """How long each test guest may take, in seconds.

    Attributes:
        sector: for the boot sector; a tenth of a second is usual.
        kernel: for the Linux kernel; one second is usual.
        noise: a KVM run shorter than this is not compared with the emulator.
    """

    sector: float = 5.0
    kernel: float = 10.0
    noise: float = 0.5


@dataclass(frozen=True)
class _Run:
    """What became of one test guest: `fault` is "" if it did what it should."""

    seconds: float
    fault: str


@dataclass(frozen=True)
class _Verdict:
    """Whether KVM is usable, and why; `thorough` if more tests cannot change it."""

    usable: bool
    reason: str
    thorough: bool


async def probe(
    settings: Settings,
    kernel: Path | None = None,
    *,
    device: Path = _DEVICE,
    deadlines: Deadlines | None = None,
) -> Accelerator:
    """Return how guests are to be run on this host.

    Called by the driver before it starts a machine, and by ``doctor``. Calling it again is cheap:
    the answer is remembered in ``accelerator.json`` per boot of the host and build of QEMU. A first
    call under KVM takes a fraction of a second, and at worst the sum of the deadlines. If it is
    cancelled, the test guest is killed and nothing is remembered.

    Args:
        settings: `Settings.accelerator` says what the user wants.
        kernel: a bootable Linux kernel for the second test; by default the newest among the built
            images. An answer found without one is only remembered until there is one.
        device: KVM's device file.
        deadlines: how long the test guests may take.

    Raises:
        InvalidRequest: the setting is none of ``auto``, ``kvm`` and ``tcg``.
        Unsupported: QEMU is not installed, or KVM is demanded and does not work.
    """
    wish = settings.accelerator
    if wish not in _CHOICES:
        raise InvalidRequest(f"The accelerator must be one of {', '.join(_CHOICES)}, not {wish!r}.")
    binary = qemu_binary()
    if wish == "tcg":
        return Accelerator("tcg", "Software emulation was chosen in the settings.")
    if fault := _cannot_open(device):
        verdict = _Verdict(usable=False, reason=fault, thorough=True)
    else:
        kernel = kernel or _newest_kernel(settings)
        key = f"{_boot_id()} {stamp(binary)}"
        known = _recall(settings, key)
        if known is None or (kernel is not None and not known.thorough):
            known = await _examine(binary, kernel, deadlines or Deadlines())
            _remember(settings, key, known)
        verdict = known
    if verdict.usable:
        return Accelerator("kvm", verdict.reason)
    if wish == "kvm":
        raise Unsupported(
            f"KVM is demanded in the settings but cannot be used here. {verdict.reason} "
            "Or choose the accelerator 'auto' or 'tcg' (software emulation, slower)."
        )
    return Accelerator("tcg", verdict.reason)


def _cannot_open(device: Path) -> str:
    """Say why KVM's device cannot be opened and what helps; "" if it can."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return (
            f"{device} is missing: enable virtualization in the firmware (or nested virtualization, "
            "if this host is itself a virtual machine) and load the module: modprobe kvm_intel, or kvm_amd."
        )
    except PermissionError:
        return (
            f"You have no permission to open {device}: add yourself to group kvm "
            "(sudo usermod -aG kvm $USER) and log in again."
        )
    except OSError as error:
        return f"{device} cannot be opened ({error.strerror})."
    return ""


def _newest_kernel(settings: Settings) -> Path | None:
    """Return the kernel of the newest built image."""
    found: list[tuple[float, Path]] = []
    for path in settings.images.glob("[!.]*/vmlinuz"):  # a build's own folder begins with a dot
        with contextlib.suppress(OSError):  # an image may be removed meanwhile
            found.append((path.stat().st_mtime, path))
    return max(found)[1] if found else None


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:  # not Linux, or a sandboxed /proc
        return "unknown"


def _memory(settings: Settings) -> Path:
    return settings.home / "accelerator.json"


def _recall(settings: Settings, key: str) -> _Verdict | None:
    """Return the remembered verdict if it was found on this boot, with this QEMU."""
    try:
        document = json.loads(_memory(settings).read_text(encoding="utf-8"))
        if document["key"] != key:
            return None
        usable, reason, thorough = document["kvm"], document["reason"], document["thorough"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not isinstance(reason, str):
        return None
    return _Verdict(usable=usable is True, reason=reason, thorough=thorough is True)


def _remember(settings: Settings, key: str, verdict: _Verdict) -> None:
    """Write the verdict down, whole or not at all; a failure only costs the next caller time."""
    document = {"key": key, "kvm": verdict.usable, "reason": verdict.reason, "thorough": verdict.thorough}
    target = _memory(settings)
    try:
        folder = private_folder(settings.home)
        handle, name = tempfile.mkstemp(prefix=".accelerator-", dir=folder)
        try:
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(document, file, indent=1)
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        _log.warning("Could not remember the accelerator in %s: %s", target, error)


async def _examine(binary: str, kernel: Path | None, deadlines: Deadlines) -> _Verdict:
    """Boot the test guests under KVM, then race the emulator against it."""
    with tempfile.TemporaryDirectory(prefix="vsandbox-probe-") as name:
        folder = Path(name)
        test = _sector_test(folder)
        what = "a boot sector"
        run = await _boot_sector(binary, "kvm", test, folder, deadlines.sector)
        if run.fault:
            return _Verdict(usable=False, reason=_broken(what, run), thorough=True)
        if kernel is not None:
            test = ("-m", "256M", "-kernel", str(kernel), "-append", "console=ttyS0 panic=-1 quiet")
            what = "a Linux kernel"
            run = await _boot_kernel(binary, "kvm", test, folder, deadlines.kernel)
            if run.fault:
                return _Verdict(usable=False, reason=_broken(what, run), thorough=True)
        boot = _boot_sector if kernel is None else _boot_kernel
        if run.seconds >= deadlines.noise:
            rival = await boot(binary, "tcg", test, folder, run.seconds / 2)
            if not rival.fault:
                reason = (
                    f"KVM is slower than emulation on this host: {what} took {run.seconds:.1f} s "
                    f"under KVM and {rival.seconds:.1f} s emulated."
                )
                return _Verdict(usable=False, reason=reason, thorough=kernel is not None)
        reason = f"KVM works: {what} ran in {run.seconds:.1f} s."
        return _Verdict(usable=True, reason=reason, thorough=kernel is not None)


def _broken(what: str, run: _Run) -> str:
    return f"KVM opens on this host, but {what} does not run under it: {run.fault}."


def _sector_test(folder: Path) -> tuple[str, ...]:
    """Write the boot disk and return the arguments that boot it."""
    disk = folder / "boot.raw"
    with disk.open("wb") as file:
        file.write(_BOOT_CODE.ljust(510, b"\0") + b"\x55\xaa")
        file.truncate(_BOOT_DISK_BYTES)
    drive = f"file={_quoted(disk)},format=raw,if=none,id=disk,readonly=on"
    exit_device = f"isa-debug-exit,iobase={0xF4:#x},iosize=4"
    return ("-m", "64M", "-drive", drive, "-device", "virtio-blk-pci,drive=disk", "-device", exit_device)


def _quoted(path: Path) -> str:
    """Return `path` as a value in QEMU's comma-separated notation."""
    return str(path).replace(",", ",,")


async def _boot_sector(
    binary: str, accelerator: str, test: Sequence[str], folder: Path, deadline: float
) -> _Run:
    code, seconds, error = await _run(binary, accelerator, test, folder, deadline)
    if code == _BOOT_EXIT:
        return _Run(seconds, "")
    return _Run(seconds, _fault(code, deadline, error))


async def _boot_kernel(
    binary: str, accelerator: str, test: Sequence[str], folder: Path, deadline: float
) -> _Run:
    serial = folder / f"serial-{accelerator}"
    arguments = (*test, "-serial", f"file:{_quoted(serial)}")
    code, seconds, error = await _run(binary, accelerator, arguments, folder, deadline)
    if code != 0:
        return _Run(seconds, _fault(code, deadline, error))
    said = serial.read_bytes() if serial.exists() else b""
    if any(word in said for word in _PANIC):
        return _Run(seconds, "")
    return _Run(seconds, "QEMU ended, but the kernel said nothing on its console")


def _fault(code: int | None, deadline: float, error: str) -> str:
    if code is None:
        return f"it was still not done after {deadline:.1f} s"
    return f"QEMU ended with code {code}" + (f" ({error})" if error else "")


async def _run(
    binary: str, accelerator: str, arguments: Sequence[str], folder: Path, deadline: float
) -> tuple[int | None, float, str]:
    """Run QEMU to its end or to the deadline; it is dead and reaped when this returns or raises.

    Its output goes to a file, not to a pipe, so that no grandchild can keep us waiting.

    Returns:
        The exit code (`None` if the deadline came first), the seconds it took, and the last line on
        its standard error.
    """
    model = "host" if accelerator == "kvm" else "max"
    command = (binary, "-accel", accelerator, "-cpu", model, *_COMMON, *arguments)
    errors = folder / f"errors-{accelerator}"
    started = time.monotonic()
    with errors.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file
        )
    code: int | None = None
    try:
        async with asyncio.timeout(deadline):
            code = await process.wait()
    except TimeoutError:
        pass
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    seconds = time.monotonic() - started
    lines = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return code, seconds, lines[-1][:200] if lines else ""
