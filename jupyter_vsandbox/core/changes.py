"""What is different between two readings of the store: pure functions."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jupyter_vsandbox.domain.model import Sandbox, Snapshot


@dataclass(frozen=True)
class Records:
    """All records of one moment.

    Attributes:
        sandboxes: by their ids, oldest first.
        snapshots: likewise.
        histories: number and size in bytes of the snapshots of each sandbox that has some.
    """

    sandboxes: Mapping[str, Sandbox] = field(default_factory=dict)
    snapshots: Mapping[str, Snapshot] = field(default_factory=dict)
    histories: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, sandboxes: Iterable[Sandbox], snapshots: Iterable[Snapshot]) -> Records:
        """Those records."""
        snapshots = list(snapshots)
        histories: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        for each in snapshots:
            count, size = histories[each.sandbox]
            histories[each.sandbox] = (count + 1, size + each.size)
        return cls(
            {sandbox.id: sandbox for sandbox in sandboxes},
            {each.id: each for each in snapshots},
            dict(histories),
        )


@dataclass(frozen=True)
class Changes:
    """What happened between two moments.

    Attributes:
        added: snapshots that were not there.
        changed: snapshots that are not what they were.
        removed: snapshots that are gone, as they were.
        sandboxes: those that are new, or that changed or whose history did.
        gone: ids of the sandboxes that are gone.
    """

    added: tuple[Snapshot, ...]
    changed: tuple[Snapshot, ...]
    removed: tuple[Snapshot, ...]
    sandboxes: tuple[Sandbox, ...]
    gone: tuple[str, ...]


def between(old: Records, new: Records) -> Changes:
    """What happened between `old` and `new`."""
    before, after = old.snapshots, new.snapshots
    return Changes(
        added=tuple(each for each in after.values() if each.id not in before),
        changed=tuple(each for each in after.values() if before.get(each.id, each) != each),
        removed=tuple(each for each in before.values() if each.id not in after),
        sandboxes=tuple(
            each
            for each in new.sandboxes.values()
            if old.sandboxes.get(each.id) != each or old.histories.get(each.id) != new.histories.get(each.id)
        ),
        gone=tuple(each for each in old.sandboxes if each not in new.sandboxes),
    )
