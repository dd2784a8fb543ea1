"""Points in the code where a test makes this process die or stand still, or the disk seem full.

Each is behind a step that changed something on disk, in the store or in a machine, and is named
``verb.step``. The environment arms one of them (`settings.fault`): ``kill@snapshot.captured`` is SIGKILL
there; ``stop@`` is SIGSTOP, for the test to end something else before it lets this process go on;
``full@`` is the error of a full disk. ``:2`` at the end means the second time that the point is passed.
"""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import dataclass

from jupyter_vsandbox import settings


@dataclass
class _Fault:
    """What is armed.

    Attributes:
        action: ``kill``, ``stop`` or ``full``.
        point: where.
        left: how often the point is still to be passed, this time included.
    """

    action: str
    point: str
    left: int

    def strike(self) -> None:
        self.left -= 1
        if self.left:
            return
        if self.action == "full":
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} (armed)", self.point)
        os.kill(os.getpid(), signal.SIGKILL if self.action == "kill" else signal.SIGSTOP)


_armed: _Fault | None = None


def arm() -> None:
    """Arm what the environment asks for. Called before the first verb; harmless twice."""
    global _armed
    if _armed is None and (wish := settings.fault()):
        action, _, point = wish.partition("@")
        name, _, times = point.partition(":")
        if action not in {"kill", "stop", "full"}:
            raise ValueError(f"JUPYTER_VSANDBOX_FAULT asks for {action!r}; there are kill, stop and full.")
        _armed = _Fault(action, name, int(times or 1))


def point(name: str) -> None:
    """What happens here, behind the step `name`; nothing, unless it is armed."""
    if _armed is not None and _armed.point == name:
        _armed.strike()
