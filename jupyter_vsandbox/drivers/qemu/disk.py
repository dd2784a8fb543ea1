"""qcow2 overlays, and room on the disk for them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import Exhausted, Permanent
from jupyter_vsandbox.files import exhausted_if_full
from jupyter_vsandbox.qcow2 import write_overlay

if TYPE_CHECKING:
    from pathlib import Path

RESERVE = 256 * 1024 * 1024
"""Bytes that must stay free on the disk for a machine to be started."""


def free(folder: Path) -> int:
    """Bytes that are free on the disk that `folder` is on."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def require_room(folder: Path) -> None:
    """Raise `Exhausted` if less than `RESERVE` bytes are free on the disk that `folder` is on."""
    if free(folder) < RESERVE:
        raise Exhausted(
            f"Only {free(folder) >> 20} MiB are free in {folder}; a machine needs {RESERVE >> 20} MiB to "
            "start. Free some, or set JUPYTER_VSANDBOX_HOME to a larger disk."
        )


def create_overlay(path: Path, backing: Path) -> None:
    """Make the empty qcow2 file `path` that takes the writes above `backing`.

    Raises:
        Exhausted: less than `RESERVE` bytes are free.
        Permanent: there is no `backing`, or it is damaged.
    """
    require_room(path.parent)
    try:
        with exhausted_if_full(path.parent):
            write_overlay(path, backing)
    except FileNotFoundError as error:
        raise Permanent(f"The disk {backing} is gone.") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def size(path: Path) -> int:
    """Bytes that a file takes on its disk; 0 if there is none."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
