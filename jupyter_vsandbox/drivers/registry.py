"""Finds drivers by name through the entry points ``jupyter_vsandbox.drivers``."""

from __future__ import annotations

import contextlib
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import NotFound, Unsupported

if TYPE_CHECKING:
    from jupyter_vsandbox.drivers.base import Driver
    from jupyter_vsandbox.settings import Settings

_GROUP = "jupyter_vsandbox.drivers"


def names() -> list[str]:
    """The names of all installed drivers."""
    return sorted(entry_points(group=_GROUP).names)


def in_use(settings: Settings) -> list[str]:
    """The names of the drivers that may have machines with these settings."""
    found = []
    for name in names():
        with contextlib.suppress(Unsupported):
            get(name, settings)
            found.append(name)
    return found


def get(name: str, settings: Settings) -> Driver:
    """Make the driver called `name`; ``NAME:POOL`` is one whose new machines are in a pool of it.

    Raises:
        NotFound: no such driver is installed, or it has no pools.
        Unsupported: it is not configured.
    """
    name, _, pool = name.partition(":")
    for entry in entry_points(group=_GROUP, name=name):
        driver: Driver = entry.load()(settings, pool)
        return driver
    raise NotFound(f"There is no driver {name!r}; installed are: {', '.join(names())}.")
