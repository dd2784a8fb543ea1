"""Finds drivers by name through the entry points ``jupyter_vsandbox.drivers``."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import NotFound

if TYPE_CHECKING:
    from jupyter_vsandbox.drivers.base import Driver
    from jupyter_vsandbox.settings import Settings

_GROUP = "jupyter_vsandbox.drivers"


def names() -> list[str]:
    """The names of all installed drivers."""
    return sorted(entry_points(group=_GROUP).names)


def get(name: str, settings: Settings) -> Driver:
    """Make the driver called `name`.

    Raises:
        NotFound: no such driver is installed.
    """
    for entry in entry_points(group=_GROUP, name=name):
        driver: Driver = entry.load()(settings)
        return driver
    raise NotFound(f"There is no driver {name!r}; installed are: {', '.join(names())}.")
