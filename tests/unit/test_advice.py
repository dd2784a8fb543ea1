"""What is advised on the snapshots of a machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jupyter_vsandbox.domain.advice import Advice, chain
from jupyter_vsandbox.domain.model import Cause, Snapshot
from jupyter_vsandbox.domain.retention import Retention

FIRST = Snapshot("1", "s", "s", "", "one", "", Cause.ASKED, 0.0, True, False, 10, 0.0)
SECOND = replace(FIRST, id="2", parent="1", name="two", cause=Cause.PACKAGES, created=3600.0)
THIRD = replace(FIRST, id="3", parent="2", name="three", created=7200.0)
BESIDE = replace(FIRST, id="4", parent="1", name="four", cause=Cause.LONG_CELL, created=9000.0)
HISTORY = [FIRST, SECOND, THIRD, BESIDE]
ADVICE = Advice(seconds=4 * 3600.0, chain=2)


def test_a_chain_is_what_a_machine_stands_on() -> None:
    assert [each.id for each in chain(HISTORY, "3")] == ["3", "2", "1"]
    assert [each.id for each in chain(HISTORY, "4")] == ["4", "1"]
    assert chain(HISTORY, "elsewhere") == []


@pytest.mark.parametrize(
    ("snapshot", "hours", "said"),
    [
        (FIRST, 2.9, ""),
        (FIRST, 3.1, "will soon be as old as 4 h"),
        (FIRST, 4.1, "older than 4 h"),
        (SECOND, 9, ""),
    ],
)
def test_who_asked_for_a_snapshot_is_warned_before_it_is_too_old(
    snapshot: Snapshot, hours: float, said: str
) -> None:
    warning = ADVICE.of_snapshot(snapshot, hours * 3600)
    assert (said in warning) if said else not warning
    assert Advice().of_snapshot(snapshot, 1e9) == ""


def test_a_history_is_too_long_or_too_old() -> None:
    assert ADVICE.of_history(HISTORY, "4", 0.0) == ""
    assert "3 snapshots stand one above the other" in ADVICE.of_history(HISTORY, "3", 0.0)
    assert "1 of the snapshots is near" in ADVICE.of_history(HISTORY, "4", 3.5 * 3600)
    assert "2 of the snapshots are near" in ADVICE.of_history(HISTORY, "4", 9 * 3600)
    assert Advice().of_history(HISTORY, "3", 1e9) == ""


def test_automatic_snapshots_are_kept_within_it() -> None:
    kept = Retention(count=10, seconds=1e9, bytes=7)
    assert ADVICE.narrowed(kept, HISTORY, "4") == Retention(count=1, seconds=4 * 3600, bytes=7)
    assert ADVICE.narrowed(kept, HISTORY, "3") == Retention(count=1, seconds=4 * 3600, bytes=7)
    assert replace(ADVICE, chain=5).narrowed(kept, HISTORY, "3").count == 3
    assert ADVICE.narrowed(Retention(), HISTORY, "") == Retention(count=2, seconds=4 * 3600)
    assert Advice().narrowed(kept, HISTORY, "3") == kept


def test_the_next_moment_is_when_a_warning_changes() -> None:
    assert ADVICE.next(HISTORY, 0.0) == 3 * 3600
    assert ADVICE.next(HISTORY, 3 * 3600) == 4 * 3600
    assert ADVICE.next(HISTORY, 1e9) is None
    assert Advice(chain=3).next(HISTORY, 0.0) is None
