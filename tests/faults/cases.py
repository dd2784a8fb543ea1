"""Where in which verb what is killed."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COUNT = int(os.environ.get("VSANDBOX_TEST_FAULTS", "12"))
"""How many cases to run; 0 for all."""
SEED = int(os.environ.get("VSANDBOX_TEST_SEED", "0"))
"""Which ones."""

SNAPSHOT = (
    "snapshot.begun snapshot.layered snapshot.drafted snapshot.attached snapshot.paused snapshot.devices "
    "snapshot.captured snapshot.switched snapshot.linked snapshot.resumed snapshot.kept snapshot.named "
    "snapshot.based snapshot.saved snapshot.recorded"
)

KILLED: Mapping[str, str] = {
    "snapshot": SNAPSHOT,
    "rollback": "snapshot.switched snapshot.saved restore.layered launch.listening launch.spawned "
    "launch.answered restore.filled restore.waiting rollback.left rollback.recorded restore.begun "
    "launch.loaded restore.launched restore.linked restore.based restore.tidied restore.resumed "
    "rollback.travelled",
    "rollback-disk": "rollback.left rollback.recorded restore.begun restore.layered restore.linked "
    "restore.tidied",
    "fork": "snapshot.paused snapshot.recorded fork.begun fork.recorded restore.layered launch.spawned "
    "restore.filled restore.launched restore.linked adopt.named adopt.rekeyed fork.restored",
    "promote": "snapshot.captured promote.begun snapshot.linked:2 rollback.recorded restore.launched "
    "adopt.rekeyed promote.travelled promote.moved delete.recorded delete.folder",
    "hibernate": "snapshot.paused snapshot.switched snapshot.linked snapshot.kept snapshot.named "
    "snapshot.saved snapshot.recorded hibernate.recorded hibernate.ended",
    "wake": "wake.recorded launch.spawned restore.filled restore.launched restore.linked restore.resumed "
    "wake.restored forget.recorded collect.layers",
    "reset": "reset.left reset.recorded delete.folder reset.deleted create.folder create.layered "
    "create.linked reset.started reset.cleaned adopt.rekeyed",
    "rm": "delete.recorded delete.ended delete.folder delete.layer forget.marked collect.layers "
    "collect.snapshots delete.forgotten",
    "prune": "forget.recorded forget.marked collect.layers collect.snapshots",
    "create": "create.recorded create.folder create.layered create.linked launch.spawned launch.loaded "
    "create.started adopt.named adopt.rekeyed",
    "start": "start.recorded start.keyed start.based start.booted",
    "stop": "stop.recorded stop.asked stop.ended",
}
"""At these points the process that does the verb."""

QEMU_KILLED: Mapping[str, str] = {
    "snapshot": "snapshot.layered snapshot.attached snapshot.paused snapshot.devices snapshot.captured "
    "snapshot.switched snapshot.resumed snapshot.kept snapshot.saved",
    "rollback": "rollback.left launch.answered restore.filled restore.launched restore.based",
    "fork": "restore.launched adopt.rekeyed",
    "promote": "promote.travelled",
    "hibernate": "snapshot.captured snapshot.kept hibernate.recorded",
    "wake": "restore.filled restore.linked",
    "reset": "reset.left reset.started",
    "create": "create.started",
}
"""At these points the machine that the verb is about."""

NEXT_KILLED: Mapping[str, str] = {"rollback": "restore.waiting rollback.left rollback.recorded"}
"""At these points the machine that waits to take its place."""

SERVER_KILLED: Mapping[str, str] = {
    "snapshot": "snapshot.captured",
    "rollback": "rollback.left restore.launched",
    "fork": "fork.recorded",
    "hibernate": "hibernate.recorded",
    "reset": "reset.deleted",
}
"""At these points another process, which has a kernel in the sandbox."""


@dataclass(frozen=True)
class Case:
    """One thing that goes wrong."""

    victim: str
    verb: str
    point: str

    def __str__(self) -> str:
        return f"{self.victim}-{self.verb}-{self.point}"


ALL = [
    Case(victim, verb, point)
    for victim, points in (
        ("command", KILLED),
        ("qemu", QEMU_KILLED),
        ("next", NEXT_KILLED),
        ("server", SERVER_KILLED),
    )
    for verb, names in points.items()
    for point in names.split()
]

# Slow: an image is booted. `test_a_template_that_was_cut_off_is_made_anew` is about them.
TEMPLATE = ("template.launched", "template.saved")


def chosen(count: int, seed: int) -> Sequence[Case]:
    """Some of all, spread over the verbs; 0 is all."""
    if not count:
        return ALL
    shuffled = random.Random(seed).sample(ALL, len(ALL))
    verbs = [[case for case in shuffled if case.verb == verb] for verb in KILLED]
    return [case for row in zip_longest(*verbs) for case in row if case is not None][:count]
