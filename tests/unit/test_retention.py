"""What of the automatic snapshots goes."""

from __future__ import annotations

import pytest

from jupyter_vsandbox.domain.model import Cause, Snapshot
from jupyter_vsandbox.domain.retention import Retention


def _history(*causes: Cause) -> list[Snapshot]:
    return [
        Snapshot(
            id=str(i),
            sandbox="s",
            machine="s",
            parent="",
            name=f"n{i}",
            note="",
            cause=cause,
            created=i,
            memory=True,
            cells=False,
            size=10,
            pause=0,
        )
        for i, cause in enumerate(causes)
    ]


HISTORY = _history(Cause.PACKAGES, Cause.ASKED, Cause.ROLLBACK, Cause.FORK, Cause.LONG_CELL)


@pytest.mark.parametrize(
    ("retention", "gone"),
    [
        (Retention(), []),
        (Retention(count=3), []),
        (Retention(count=1), ["2", "0"]),
        (Retention(seconds=95), ["2", "0"]),
        (Retention(bytes=20), ["0"]),
        (Retention(bytes=1), ["2", "0"]),
    ],
)
def test_the_oldest_automatic_ones_go(retention: Retention, gone: list[str]) -> None:
    assert [each.id for each in retention.expired(HISTORY, (), now=98)] == gone


def test_what_a_sandbox_stands_on_stays() -> None:
    assert [each.id for each in Retention(count=1).expired(HISTORY, {"2"}, now=98)] == ["0"]
