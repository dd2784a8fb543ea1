"""Files that appear whole or not at all, samples of them, and locks between processes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import Exhausted, Permanent, Transient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOTHING = 1024 * 1024  # bytes that are as good as none
_PIECE = 65536


# Threads of their own: those who wait for a lock must not use up the ones that its holder needs.
_waiting = ThreadPoolExecutor(max_workers=256, thread_name_prefix="vsandbox-lock")


def write_private(path: Path, text: str) -> None:
    """Write a new file that only its owner may read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_whole(source: Path, target: Path) -> None:
    """Make `target`, which may exist, a copy of `source` in one step.

    Raises:
        Exhausted: the disk is full; `target` is as it was.
    """
    target = target.resolve()
    draft = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    try:
        with exhausted_if_full(target.parent):
            shutil.copyfile(source, draft)
            with contextlib.suppress(FileNotFoundError):
                shutil.copymode(target, draft)
            _sync(draft)
            draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def exhausted_if_full(folder: Path) -> Iterator[None]:
    """Say so where the block fails for the disk that `folder` is on, which is full.

    Raises:
        Exhausted: it is.
    """
    try:
        yield
    except (OSError, Permanent, Transient) as error:
        if isinstance(error, OSError):
            full = error.errno in _FULL
        else:  # a program's, which may not say why
            disk = os.statvfs(folder)
            full = disk.f_bavail * disk.f_frsize < _NOTHING
        if not full:
            raise
        raise Exhausted(
            f"The disk of {folder} is full. Free some: `jupyter vsandbox prune` removes the snapshots that "
            "nobody asked for. What was kept before is whole."
        ) from error


def sync_folder(path: Path) -> None:
    """Flush all files below `path`, and its entries, to the disk."""
    for entry in [*path.rglob("*"), path]:
        if not entry.is_symlink():
            _sync(entry)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
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
    _sync(target.parent)


@contextlib.asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Hold the lock that the file `path` stands for, across processes; waits in a thread.

    The file may be removed by whoever holds it.
    """
    while True:
        fd = _open_lock(path)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.get_running_loop().run_in_executor(_waiting, fcntl.flock, fd, fcntl.LOCK_EX)
            if not _is_at(fd, path):
                continue
            yield
            return
        finally:
            os.close(fd)


@contextlib.contextmanager
def try_locked(path: Path) -> Iterator[bool]:
    """Hold the same kind of lock if it is free; says whether it was."""
    fd = _open_lock(path)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield _is_at(fd, path)
    finally:
        os.close(fd)


def _open_lock(path: Path) -> int:
    with exhausted_if_full(path.parent):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _is_at(fd: int, path: Path) -> bool:
    """Whether a lock is still the one that others would take."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except FileNotFoundError:
        return False


def sample(path: Path, count: int) -> bytes:
    """Pieces of a file, `count` at most, from all over it; zeros, as in holes, are left out."""
    size = path.stat().st_size
    taken = []
    with open(path, "rb") as file:
        for number in range(count):
            file.seek(size * number // count // _PIECE * _PIECE)
            taken.append(file.read(_PIECE))
    return b"".join(piece for piece in dict.fromkeys(taken) if piece.strip(b"\0"))
