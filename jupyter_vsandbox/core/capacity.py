"""Whether one more machine fits into this host's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import Exhausted
from jupyter_vsandbox.domain.model import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jupyter_vsandbox.domain.model import Shape
    from jupyter_vsandbox.settings import Settings

PROCESS_OVERHEAD = 64 * MIB
"""Bytes that a machine takes beyond its guest's memory and its translated code."""


def cost(shape: Shape, settings: Settings) -> int:
    """Bytes that a machine of this size may come to take."""
    return shape.memory + PROCESS_OVERHEAD + settings.translation_cache


def available() -> int:
    """Bytes that the host could give to new processes, ``MemAvailable`` of proc(5)."""
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no line MemAvailable")


def budget(in_use: int, settings: Settings) -> int:
    """Bytes that may be promised to all machines together; `in_use` is what they take right now."""
    return int((settings.memory_budget or available() + in_use) * settings.memory_overcommit)


def require(shape: Shape, running: Iterable[Shape], in_use: int, settings: Settings) -> None:
    """Raise `Exhausted` if a machine of `shape` does not fit beside those that run.

    Memory is promised in full to each machine, `Settings.memory_overcommit` times over, since
    clones share what they have not changed.

    Args:
        shape: size of the new machine.
        running: sizes of the machines that have memory promised to them.
        in_use: bytes that those machines take right now.
        settings: budget and overcommit.
    """
    limit = budget(in_use, settings)
    promised = sum(cost(other, settings) for other in running)
    needed = cost(shape, settings)
    free = limit - promised
    if needed > free:
        raise Exhausted(
            f"Not enough memory for one more sandbox: it needs {needed // MIB} MiB and "
            f"{max(free, 0) // MIB} MiB are free (of {limit // MIB} MiB, "
            f"{promised // MIB} MiB are promised to others). Shut a kernel down, or see "
            "`jupyter vsandbox list` for what runs."
        )
