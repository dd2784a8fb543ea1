"""What the fault tests measure is printed at the end."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

Measured = dict[str, list[float]]
KEY = pytest.StashKey[Measured]()


@pytest.fixture(scope="session")
def measured(pytestconfig: pytest.Config) -> Measured:
    """Seconds by what they were needed for."""
    return pytestconfig.stash.setdefault(KEY, {})


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    for name, seconds in config.stash.get(KEY, {}).items():
        median, most = statistics.median(seconds), max(seconds)
        terminalreporter.write_line(
            f"{name}: median {median:.2f} s, at most {most:.2f} s, {len(seconds)} times"
        )
