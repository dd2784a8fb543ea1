"""How snapshots are best kept where a machine runs: what goes by itself, and what people are warned of."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from jupyter_vsandbox.domain.model import Cause
from jupyter_vsandbox.domain.retention import AUTOMATIC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jupyter_vsandbox.domain.model import Snapshot
    from jupyter_vsandbox.domain.retention import Retention

_T = TypeVar("_T", int, float)

_WARNED = 0.75
"""What of the age limit is over when people are warned: there is time to act."""
_HOUR = 3600


@dataclass(frozen=True)
class Advice:
    """Limits on the snapshots of one machine; 0 is none.

    Automatic ones go when they exceed them. Of those that somebody asked for, people are warned.

    Attributes:
        seconds: none should be older.
        chain: no more should stand one above the other.
    """

    seconds: float = 0
    chain: int = 0

    def narrowed(self, retention: Retention, history: Sequence[Snapshot], current: str) -> Retention:
        """What to keep of the automatic snapshots: `retention`, and no more than this allows.

        Args:
            retention: what would be kept without this.
            history: all snapshots of a sandbox.
            current: id of the one that it is at.
        """
        named = sum(each.cause not in AUTOMATIC for each in chain(history, current))
        count = max(self.chain - named, 1) if self.chain else 0  # the last one undoes a rollback
        return replace(
            retention,
            count=_least(retention.count, count),
            seconds=_least(retention.seconds, self.seconds),
        )

    def of_snapshot(self, snapshot: Snapshot, now: float) -> str:
        """What to warn of at a snapshot that somebody asked for, "" for nothing."""
        if not self.seconds or snapshot.cause is not Cause.ASKED:
            return ""
        limit = f"{self.seconds / _HOUR:g} h, the age limit for snapshots here"
        age = now - snapshot.created
        if age >= self.seconds:
            return f"It is older than {limit}: delete it as soon as you can do without it."
        if age >= _WARNED * self.seconds:
            return f"It will soon be as old as {limit}: delete it when you can do without it."
        return ""

    def of_history(self, history: Sequence[Snapshot], current: str, now: float) -> str:
        """What to warn of at a sandbox, "" for nothing; arguments as for `narrowed`."""
        said = []
        long = len(chain(history, current))
        if self.chain and long > self.chain:
            said.append(
                f"{long} snapshots stand one above the other, and no more than {self.chain} should: "
                "each makes the disk slower."
            )
        old = sum(bool(self.of_snapshot(each, now)) for each in history)
        if old:
            said.append(
                f"{old} of the snapshots {'is' if old == 1 else 'are'} near the age limit of "
                f"{self.seconds / _HOUR:g} h, or beyond it."
            )
        return " ".join(said)

    def next(self, history: Sequence[Snapshot], now: float) -> float | None:
        """Seconds since 1970 when the next of these snapshots will have another warning, or go."""
        if not self.seconds:
            return None
        moments = (each.created + part * self.seconds for each in history for part in (_WARNED, 1))
        return min((each for each in moments if each > now), default=None)


def chain(history: Sequence[Snapshot], current: str) -> list[Snapshot]:
    """The snapshots below the one with the id `current`, itself included, as far as they are in a history."""
    known = {each.id: each for each in history}
    found = []
    while (each := known.pop(current, None)) is not None:
        found.append(each)
        current = each.parent
    return found


def _least(one: _T, other: _T) -> _T:
    """The stricter of two limits."""
    return min(one, other) if one and other else one or other
