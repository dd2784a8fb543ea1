"""A published disk boots by itself, on hardware like that which the driver has ESXi make: QEMU stands for it.

UEFI, an NVMe disk and a vmxnet3 card, and a guest that takes its host for VMware. What is proven,
and what only ESXi shows, is in tests/vcsim/README.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest

from jupyter_vsandbox.core.lifecycle import _identity
from jupyter_vsandbox.domain.errors import OutcomeUnknown
from jupyter_vsandbox.domain.model import Endpoint
from jupyter_vsandbox.drivers.qemu import accel
from jupyter_vsandbox.drivers.vsphere.marks import KEYS, MACHINE, keys_option
from jupyter_vsandbox.drivers.vsphere.publish import convert
from jupyter_vsandbox.guest.protocol import PORT
from jupyter_vsandbox.link import AgentLink, new_keys
from jupyter_vsandbox.qcow2 import image_tool
from jupyter_vsandbox.runtimes import bootable
from jupyter_vsandbox.settings import Settings
from tests.guest import evaluate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_vsandbox.domain.model import Image, LinkKeys
    from tests.conftest import Until

FIRMWARE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
pytestmark = [
    pytest.mark.machine,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(not FIRMWARE[0].exists(), reason="UEFI for QEMU is not installed: make simulator"),
]

PARENT, CLONE = "a" * 12, "b" * 12
CARD, CLONES_CARD = "00:50:56:01:02:03", "00:50:56:0a:0b:0c"
CLONES_ADDRESS = "10.0.2.16"
"""What QEMU's network gives to the second card that asks."""
NOTICED = f"This is machine {CLONE} now, at {CLONES_ADDRESS}"
CONSOLE = "console.log"
STUB = Path(__file__).with_name("vmware-rpctool")
BOOT_SECONDS = 600.0
MAC = "import subprocess\nwith open('/sys/class/net/eth0/address') as file:\n    mac = file.read().strip()"
ASK = f"""
def ask(command):
    return subprocess.run(command, shell=True, capture_output=True, text=True).stdout
answers = (
    ask("sudo vmware-rpctool 'info-get {KEYS}'"),
    ask("sudo systemctl is-active vsandbox-clone; sudo systemctl is-enabled vsandbox-tools"),
    ask("ldd /usr/bin/vmtoolsd /usr/lib/*/open-vm-tools/plugins/vmsvc/libguestInfo.so"),
)
"""


def play_vmware(disk: Path) -> None:
    """Put a program into a disk that tells what VMware would."""
    lines = ["cd /usr/bin", "rm vmware-rpctool", f"write {STUB} vmware-rpctool"]
    lines.append("set_inode_field vmware-rpctool mode 0100755")
    script = disk.with_suffix(".debugfs")
    script.write_text("\n".join(lines) + "\n")
    system = f"{disk}?offset={bootable.ROOT_OFFSET}"
    subprocess.run(["/sbin/debugfs", "-w", "-f", script, system], check=True, capture_output=True)


@dataclass(frozen=True)
class Hardware:
    """What a machine is made of, as far as that differs.

    Attributes:
        disk: QEMU's device.
        card: QEMU's device.
        mac: of the card.
        name: what guestinfo says which machine it is.
        address: where QEMU's network sends what comes for the agent, "" for the first that it gives.
    """

    disk: str
    card: str
    mac: str = CARD
    name: str = PARENT
    address: str = ""


@dataclass(frozen=True)
class Machine:
    """One that runs.

    Attributes:
        endpoint: of its agent.
        monitor: QEMU's, for commands.
        process: QEMU's.
    """

    endpoint: Endpoint
    monitor: TextIO
    process: subprocess.Popen[str]

    def save(self, path: Path) -> None:
        """Write memory and devices to a file, and end."""
        self.monitor.write(f'migrate "exec:cat >{path}"\nquit\n')
        self.monitor.flush()
        self.process.wait()


@contextlib.contextmanager
def machine(
    disk: Path,
    memory: int,
    keys: LinkKeys,
    accelerator: str,
    hardware: Hardware,
    saved: Path | None = None,
) -> Iterator[Machine]:
    """A machine that ESXi might have made, with the network of QEMU; it boots, or goes on from `saved`."""
    folder = disk.parent
    if saved is None:
        shutil.copy(FIRMWARE[1], folder / "vars.fd")
    told = {**keys_option(keys), MACHINE: hardware.name}
    info: list[str] = []
    for key, value in told.items():
        (folder / key).write_text(value)
        info += ["-fw_cfg", f"name=opt/vcsim/{key},file={folder / key}"]
    command = [
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
        *("-machine", "q35,vmport=off", "-accel", accelerator, "-m", f"{memory >> 20}M"),
        # Without the bit that says that there is a hypervisor, a guest believes the name of the machine.
        *("-cpu", ("max" if accelerator == "tcg" else "host") + ",-hypervisor"),
        *("-smbios", "type=1,manufacturer=VMware,, Inc.,product=VMware7,,1"),
        *("-drive", f"if=pflash,format=raw,readonly=on,file={FIRMWARE[0]}"),
        *("-drive", f"if=pflash,format=raw,file={folder / 'vars.fd'}"),
        *("-drive", f"if=none,id=disk,file={disk}", "-device", f"{hardware.disk},drive=disk"),
        *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:0-{hardware.address}:{PORT}"),
        *("-device", f"{hardware.card},netdev=net,mac={hardware.mac},romfile="),
        *("-serial", f"file:{folder / CONSOLE}", "-monitor", "stdio"),
        *info,
        *(("-incoming", f"exec:cat {saved}") if saved is not None else ()),
    ]
    pipe = subprocess.PIPE
    with (
        (folder / "qemu.log").open("w") as log,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True) as qemu,
    ):
        try:
            assert qemu.stdin is not None
            assert qemu.stdout is not None
            qemu.stdin.write("info usernet\ncont\n")
            qemu.stdin.flush()
            port = next(int(line.split()[3]) for line in qemu.stdout if "HOST_FORWARD" in line)
            yield Machine(Endpoint("127.0.0.1", port), qemu.stdin, qemu)
        except BaseException as error:
            error.add_note((folder / CONSOLE).read_text(errors="replace")[-8000:])
            error.add_note((folder / "qemu.log").read_text())
            raise
        finally:
            qemu.kill()


@pytest.fixture(scope="module")
def published(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The disk that is sent, unpacked."""
    folder = tmp_path_factory.mktemp("published")
    made = asyncio.run(bootable.make(image, Settings(), folder, lambda *_: None))
    sent = asyncio.run(convert(made, tmp_path_factory.mktemp("sent")))
    made.unlink()
    disk = folder / "disk.raw"
    asyncio.run(image_tool("convert", "-f", "vmdk", "-O", "raw", str(sent), str(disk)))
    play_vmware(disk)
    return disk


@pytest.fixture
def disk(published: Path, tmp_path: Path) -> Path:
    """One to write to."""
    disk = tmp_path / "disk.qcow2"
    asyncio.run(image_tool("create", "-f", "qcow2", "-F", "raw", "-b", str(published), str(disk)))
    return disk


@pytest.fixture(scope="module")
def accelerator(image: Image) -> str:
    return asyncio.run(accel.probe(Settings(), Path(image.folder) / "vmlinuz")).name


async def test_a_published_disk_boots_on_the_hardware_of_esxi(
    image: Image, disk: Path, accelerator: str, until: Until
) -> None:
    keys, own = new_keys(), new_keys()
    hardware = Hardware("nvme,serial=disk", "vmxnet3")
    with machine(disk, image.shape.memory, keys, accelerator, hardware) as parent:
        endpoint = parent.endpoint
        await warmed(endpoint, keys)
        assert await evaluate(endpoint, keys, MAC, "mac") == CARD
        left, services, linked = await evaluate(endpoint, keys, ASK, "answers")
        assert left.strip() == "", "the keys are taken away"
        assert services == "active\nenabled\n"
        assert "libvmtools.so.0 => " in linked
        assert "not found" not in linked

        await become_sandbox(endpoint, keys, own, PARENT, CARD)
        found = await evaluate(endpoint, own, "", "(answer, ask('hostname').strip())")
        assert found == (42, f"sandbox-{PARENT}")

        # The driver of this card meets it anew. The machine is not asked then: QEMU's takes no packets any
        # more soon after.
        become = f"ip link set eth0 address {CLONES_CARD}; vmware-rpctool 'info-set {MACHINE} {CLONE}'"
        await evaluate(
            endpoint, own, f"subprocess.Popen(['sudo', 'sh', '-c', \"sleep 1; {become}\"])", "None"
        )
        until(lambda: NOTICED in (disk.parent / CONSOLE).read_text(), BOOT_SECONDS)


async def test_a_clone_of_a_running_machine_gets_an_address_of_its_own(
    image: Image, disk: Path, accelerator: str, until: Until
) -> None:
    """What Instant Clone does, done by QEMU: memory goes on in a machine whose card has another MAC address.

    QEMU moves no NVMe disk, and its vmxnet3 takes no packets after its driver met it anew: both are virtio's.
    """
    keys, own = new_keys(), new_keys()
    parent = Hardware("virtio-blk-pci", "virtio-net-pci")
    clone = replace(parent, mac=CLONES_CARD, name=CLONE, address=CLONES_ADDRESS)
    saved = disk.with_name("saved")
    with machine(disk, image.shape.memory, keys, accelerator, parent) as running:
        await warmed(running.endpoint, keys)
        running.save(saved)
    with machine(disk, image.shape.memory, keys, accelerator, clone, saved) as running:
        endpoint = running.endpoint
        assert await evaluate(endpoint, keys, MAC, "(answer, mac)") == (42, CLONES_CARD)
        until(lambda: NOTICED in (disk.parent / CONSOLE).read_text(), BOOT_SECONDS)
        await become_sandbox(endpoint, keys, own, CLONE, CLONES_CARD)
        found = await evaluate(endpoint, own, ASK, "(answer, ask('hostname').strip())")
        assert found == (42, f"sandbox-{CLONE}")


async def warmed(endpoint: Endpoint, keys: LinkKeys) -> None:
    """Wait until a machine has booted and its kernel is warm, and give that a value to remember."""
    async with AgentLink(endpoint, keys) as link:
        await link.request("info", timeout=BOOT_SECONDS)
        await link.request("warm", timeout=BOOT_SECONDS)
    assert await evaluate(endpoint, keys, "answer = 6 * 7", "answer") == 42


async def become_sandbox(endpoint: Endpoint, keys: LinkKeys, own: LinkKeys, name: str, mac: str) -> None:
    """What the service does with a machine once it has been reached."""
    given: dict[str, Any] = json.loads(keys_option(own)[KEYS])
    async with AgentLink(endpoint, keys) as link:
        await link.request("adopt", timeout=60, keys=given, **(_identity(name) | {"mac": mac}))
        with contextlib.suppress(OutcomeUnknown):  # its only answer is that the link breaks
            await link.request("rekey", timeout=60)
