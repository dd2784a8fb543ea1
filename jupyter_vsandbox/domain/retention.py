"""Which of the snapshots that nobody asked for may go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.model import Cause

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from jupyter_vsandbox.domain.model import Snapshot

AUTOMATIC = frozenset({Cause.ROLLBACK, Cause.PACKAGES, Cause.LONG_CELL})
"""The causes that a retention is for: any other snapshot has a user, or a sandbox that stands on it."""


@dataclass(frozen=True)
class Retention:
    """How much of the automatic snapshots of one sandbox to keep; 0 is no limit.

    Attributes:
        count: how many.
        seconds: for how long.
        bytes: how much they may take together, each beyond its parent.
    """

    count: int = 0
    seconds: float = 0
    bytes: int = 0

    def expired(self, history: Sequence[Snapshot], needed: Collection[str], now: float) -> list[Snapshot]:
        """The snapshots that are to go.

        Args:
            history: the snapshots of one sandbox, oldest first.
            needed: ids of snapshots that sandboxes stand on.
            now: seconds since 1970.
        """
        automatic = [each for each in history if each.cause in AUTOMATIC]
        gone, taken = [], 0
        for rank, each in enumerate(reversed(automatic)):
            taken += each.size
            too_many = self.count and rank >= self.count
            too_old = self.seconds and now - each.created > self.seconds
            too_big = self.bytes and taken > self.bytes and rank
            if each.id not in needed and (too_many or too_old or too_big):
                gone.append(each)
        return gone
