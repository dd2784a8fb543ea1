"""A published disk boots by itself, on hardware like that which the driver has ESXi make: QEMU stands for it.

UEFI, an NVMe disk and a vmxnet3 card, and a guest that takes its host for VMware. What is proven,
and what only ESXi shows, is in tests/vcsim/README.md.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


@contextlib.contextmanager
def machine(disk: Path, memory: int, keys: LinkKeys, accelerator: str) -> Iterator[Endpoint]:
    """A machine that ESXi might have made, with the network of QEMU."""
    folder = disk.parent
    shutil.copy(FIRMWARE[1], folder / "vars.fd")
    told = {**keys_option(keys), MACHINE: PARENT}
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
        *("-drive", f"if=none,id=disk,format=raw,file={disk}", "-device", "nvme,serial=disk,drive=disk"),
        *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:0-:{PORT}"),
        *("-device", f"vmxnet3,netdev=net,mac={CARD},romfile="),
        *("-serial", f"file:{folder / 'console.log'}", "-monitor", "stdio"),
        *info,
    ]
    pipe = subprocess.PIPE
    with (
        (folder / "qemu.log").open("w") as log,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True) as qemu,
    ):
        try:
            assert qemu.stdin is not None
            assert qemu.stdout is not None
            qemu.stdin.write("info usernet\n")
            qemu.stdin.flush()
            port = next(int(line.split()[3]) for line in qemu.stdout if "HOST_FORWARD" in line)
            yield Endpoint("127.0.0.1", port)
        except BaseException as error:
            error.add_note((folder / "console.log").read_text(errors="replace")[-8000:])
            raise
        finally:
            qemu.kill()


async def test_a_published_disk_boots_and_a_clone_of_it_asks_for_an_address(
    image: Image, tmp_path: Path, until: Until
) -> None:
    console = tmp_path / "console.log"
    folder = tmp_path / "disk"
    folder.mkdir()
    made = await bootable.make(image, Settings(), folder, lambda *_: None)
    sent = await convert(made, tmp_path)
    shutil.rmtree(folder)
    disk = tmp_path / "disk.raw"
    await image_tool("convert", "-f", "vmdk", "-O", "raw", str(sent), str(disk))
    play_vmware(disk)
    keys, own = new_keys(), new_keys()
    accelerator = (await accel.probe(Settings(), Path(image.folder) / "vmlinuz")).name
    with machine(disk, image.shape.memory, keys, accelerator) as endpoint:
        async with AgentLink(endpoint, keys) as link:
            await link.request("info", timeout=BOOT_SECONDS)
            await link.request("warm", timeout=BOOT_SECONDS)
        assert await evaluate(endpoint, keys, "answer = 6 * 7", "answer") == 42
        assert await evaluate(endpoint, keys, MAC, "mac") == CARD
        left, services, linked = await evaluate(endpoint, keys, ASK, "answers")
        assert left.strip() == "", "the keys are taken away"
        assert services == "active\nenabled\n"
        assert "libvmtools.so.0 => " in linked
        assert "not found" not in linked

        await become_sandbox(endpoint, keys, own)
        assert await evaluate(endpoint, own, "", "(answer, ask('hostname').strip())") == (
            42,
            f"sandbox-{PARENT}",
        )

        # What an Instant Clone finds: its card has another address, and so has guestinfo another machine.
        become = f"ip link set eth0 address {CLONES_CARD}; vmware-rpctool 'info-set {MACHINE} {CLONE}'"
        await evaluate(
            endpoint, own, f"subprocess.Popen(['sudo', 'sh', '-c', \"sleep 1; {become}\"])", "None"
        )
        # It is not asked there: a card of QEMU's takes no packets any more soon after a driver met it anew.
        until(
            lambda: f"This is machine {CLONE} now, at {CLONES_ADDRESS}" in console.read_text(), BOOT_SECONDS
        )


async def become_sandbox(endpoint: Endpoint, keys: LinkKeys, own: LinkKeys) -> None:
    """What the service does with a machine once it has been reached."""
    given: dict[str, Any] = json.loads(keys_option(own)[KEYS])
    async with AgentLink(endpoint, keys) as link:
        await link.request("adopt", timeout=60, keys=given, **(_identity(PARENT) | {"mac": CARD}))
        with contextlib.suppress(OutcomeUnknown):  # its only answer is that the link breaks
            await link.request("rekey", timeout=60)
