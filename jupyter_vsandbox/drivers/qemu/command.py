"""The command line of QEMU: the same devices, in the same order, for every way to start."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from jupyter_vsandbox.guest import protocol

if TYPE_CHECKING:
    from pathlib import Path

    from jupyter_vsandbox.domain.model import Shape

MACHINE = "q35"
KEYS_ENTRY = "opt/org.jupyter.vsandbox/link"


@dataclass(frozen=True)
class Command:
    """What differs between one QEMU process and another.

    Attributes:
        binary: QEMU's executable.
        accelerator: ``kvm`` or ``tcg``.
        translation_cache: bytes of translated code, for ``tcg``.
        shape: size of the machine.
        kernel: Linux kernel to boot.
        initrd: its initial file system.
        append: its command line, the console aside.
        disk: qcow2 overlay of this machine.
        keys: file with the agent's first link keys, read by a guest that boots.
        console: file that the guest's serial console is written to.
        ram: file that is the machine's memory, `None` for plain memory.
        share: write the machine's memory to `ram`; else `ram` is only read, copy-on-write.
        resume: wait for a device state to resume from, instead of booting.
    """

    binary: str
    accelerator: str
    translation_cache: int
    shape: Shape
    kernel: Path
    initrd: Path
    append: str
    disk: Path
    keys: Path
    console: Path
    ram: Path | None = None
    share: bool = False
    resume: bool = False

    @property
    def cpu(self) -> str:
        """QEMU's name of the processor that the guest sees."""
        return "max" if self.accelerator == "tcg" else "host"

    @property
    def devices(self) -> list[str]:
        """The devices, in their order."""
        return [value.partition(",")[0] for name, value in pairwise(self.argv()) if name == "-device"]

    def argv(self) -> list[str]:
        """The arguments, monitor excepted."""
        megabytes = self.shape.memory >> 20
        if self.ram is None:
            memory = f"memory-backend-ram,id=m,size={megabytes}M"
        else:
            share = "on" if self.share else "off"
            memory = f"memory-backend-file,id=m,size={megabytes}M,mem-path={self.ram},share={share}"
        tcg = self.accelerator == "tcg"
        return [
            self.binary,
            "-no-user-config",
            "-nodefaults",
            "-accel",
            # The cache defaults to a gigabyte of address space per process.
            f"tcg,thread=multi,tb-size={self.translation_cache >> 20}" if tcg else self.accelerator,
            # A device state as `xen-save-devices-state` writes it has no description section.
            "-machine",
            f"{MACHINE},memory-backend=m,suppress-vmdesc=on",
            "-object",
            memory,
            "-cpu",
            self.cpu,
            "-smp",
            str(self.shape.vcpus),
            "-m",
            f"{megabytes}M",
            "-display",
            "none",
            "-no-reboot",
            "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-chardev",
            f"file,id=console,path={self.console}",
            "-serial",
            "chardev:console",
            "-kernel",
            str(self.kernel),
            "-initrd",
            str(self.initrd),
            "-append",
            f"{self.append} console=ttyS0 panic=-1 vsandbox.network=slirp",
            "-fw_cfg",
            f"name={KEYS_ENTRY},file={self.keys}",
            "-blockdev",
            json.dumps(disk_node("disk0", self.disk)),
            "-device",
            "virtio-blk-pci,drive=disk0",
            "-netdev",
            f"user,id=net0,hostfwd=tcp:127.0.0.1:0-:{protocol.PORT}",
            "-device",
            "virtio-net-pci,netdev=net0,romfile=",
            "-device",
            "virtio-rng-pci",
            "-global",
            "migration.send-configuration=off",
            # A state is saved from a stopped machine; one that is loaded is to run at once.
            "-global",
            "migration.store-global-state=off",
            *(["-incoming", "defer"] if self.resume else []),
        ]


def disk_node(name: str, path: Path) -> dict[str, object]:
    """A block node that reads and writes the qcow2 file `path`."""
    return {
        "driver": "qcow2",
        "node-name": name,
        "discard": "unmap",
        "file": {"driver": "file", "filename": str(path), "discard": "unmap"},
    }
