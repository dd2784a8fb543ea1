"""Which machines the memory of a snapshot fits: those that are in all of this as the one it is of."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import Unsupported
from jupyter_vsandbox.drivers.qemu import accel
from jupyter_vsandbox.drivers.qemu.command import MACHINE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jupyter_vsandbox.drivers.base import Template
    from jupyter_vsandbox.drivers.qemu.command import Command

INSTEAD = "Its disk can be used all the same: ask for the disk only."
_CPU_INFO = Path("/proc/cpuinfo")
_CPU_FACT = re.compile(r"^(vendor_id|cpu family|model|model name|stepping|flags)\s*: (.*)$", re.MULTILINE)


def machine(command: Command) -> dict[str, str]:
    """What a device state depends on, by a name for people."""
    emulated = command.accelerator == "tcg"
    return {
        "QEMU version": accel.qemu_version(),
        "machine type": MACHINE,
        "accelerator": command.accelerator,
        "CPU": command.cpu if emulated else f"{command.cpu}, {processor(_CPU_INFO.read_text())}",
        "memory": f"{command.shape.memory >> 20} MiB",
        "vCPUs": str(command.shape.vcpus),
        "devices": ", ".join(command.devices),
    }


def processor(cpuinfo: str) -> str:
    """What a guest sees of a host's processor: its name, and a digest of all that makes it out.

    Args:
        cpuinfo: the content of proc(5) ``cpuinfo``.
    """
    facts: dict[str, str] = {}
    for name, value in _CPU_FACT.findall(cpuinfo):
        facts.setdefault(name, " ".join(sorted(value.split())) if name == "flags" else value)
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
    return f"{facts.get('model name', 'unknown')} ({digest})"


def facts(source: Template, clone: Command) -> dict[str, str]:
    """What a device state depends on, and pages that are changes to the memory of a template.

    Args:
        source: the template.
        clone: the command line of its clones.
    """
    # Made anew, a template has the same name and another memory.
    mark = hashlib.sha256(source.keys.server_public.encode()).hexdigest()[:8]
    return {"template": f"{source.id}, made as {mark}", **machine(clone)}


def require(subject: str, there: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Raise `Unsupported` unless `here` are the facts that the memory of `subject` was taken with."""
    differs = [
        f"{name} {there.get(name, 'none')} (here it is {here.get(name, 'none')})"
        for name in {**there, **here}
        if here.get(name) != there.get(name)
    ]
    if differs:
        raise Unsupported(f"The memory of {subject} needs {'; '.join(differs)}. {INSTEAD}")
