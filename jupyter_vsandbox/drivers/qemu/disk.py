"""qcow2 overlays, made with qemu-img."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import Exhausted, Permanent, Unsupported
from jupyter_vsandbox.files import exhausted_if_full

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


async def create_overlay(path: Path, backing: Path) -> None:
    """Make the empty qcow2 file `path` that takes the writes above `backing`.

    Raises:
        Exhausted: less than `RESERVE` bytes are free.
        Permanent: qemu-img failed.
    """
    require_room(path.parent)
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(backing), str(path)]
    try:
        done = await asyncio.to_thread(
            subprocess.run, command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise Unsupported("qemu-img is not installed: apt-get install qemu-utils") from None
    if done.returncode:
        with contextlib.suppress(OSError):
            os.unlink(path)
        with exhausted_if_full(path.parent):
            raise Permanent(f"qemu-img could not make {path}: {done.stderr.strip()}")


def size(path: Path) -> int:
    """Bytes that a file takes on its disk; 0 if there is none."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0
