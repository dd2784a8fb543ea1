"""Which machines the memory of a snapshot fits: those that are in all of this as the one it is of."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import Unsupported
from jupyter_vsandbox.drivers.qemu import accel
from jupyter_vsandbox.drivers.qemu.command import MACHINE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jupyter_vsandbox.drivers.base import Template
    from jupyter_vsandbox.drivers.qemu.command import Command
    from jupyter_vsandbox.drivers.qemu.points import Point

INSTEAD = "Its disk can be used all the same: ask for the disk only."


def facts(source: Template, clone: Command) -> dict[str, str]:
    """What a device state and pages depend on, by a name for people.

    Args:
        source: the template whose memory the pages are changes to.
        clone: the command line of its clones.
    """
    # Made anew, a template has the same name and another memory.
    mark = hashlib.sha256(source.keys.server_public.encode()).hexdigest()[:8]
    processor = "" if source.accelerator == "tcg" else f" ({accel.processor()})"
    return {
        "template": f"{source.id}, made as {mark}",
        "QEMU version": accel.qemu_version(),
        "machine type": MACHINE,
        "accelerator": source.accelerator,
        "CPU": f"{clone.cpu}{processor}",
        "memory": f"{source.shape.memory >> 20} MiB",
        "vCPUs": str(source.shape.vcpus),
        "devices": ", ".join(clone.devices),
    }


def require(point: Point, here: Mapping[str, str]) -> None:
    """Raise `Unsupported` unless `here` are the facts that a snapshot was taken with."""
    differs = [
        f"{name} {there} (here it is {here.get(name, 'none')})"
        for name, there in point.machine.items()
        if here.get(name) != there
    ]
    if differs:
        raise Unsupported(f"The memory of snapshot {point.id} needs {'; '.join(differs)}. {INSTEAD}")
