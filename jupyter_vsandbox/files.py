"""Files that appear whole or not at all, and locks between processes."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Write a new file that only its owner may read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def copy_whole(source: Path, target: Path) -> None:
    """Make `target` a copy of `source` in one step; its permissions stay, and a link to it does."""
    target = target.resolve()
    draft = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    try:
        shutil.copyfile(source, draft)
        if target.exists():
            shutil.copymode(target, draft)
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Flush all files below `path`, and its entries, to the disk."""
    for entry in [*path.rglob("*"), path]:
        if entry.is_symlink():
            continue
        fd = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder that becomes `target` in one step when the block ends well, and vanishes otherwise.

    What a killed process leaves behind has a name that starts with ``.new-``.
    """
    draft = target.parent / f".new-{target.name}-{uuid.uuid4().hex[:8]}"
    draft.mkdir(mode=0o700)
    try:
        yield draft
        sync_folder(draft)
        draft.rename(target)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


@contextlib.asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Hold the lock that the file `path` stands for, across processes; waits in a thread."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            await asyncio.to_thread(fcntl.flock, fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def try_locked(path: Path) -> Iterator[bool]:
    """Hold the same kind of lock if it is free; says whether it was."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)
