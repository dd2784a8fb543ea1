"""File operations that cannot leave one folder, whoever asks for them.

Each step of a path is one ``openat2(2)`` below the folder before it, and none follows a symbolic link or
enters another file system: a guest resolves links itself and then asks for what they name. So a name is
what it says, and what is refused by name cannot be had by another one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    Entries = Generator[tuple[bytes, os.stat_result], None, None]

MAX_PATH = 4096
_OPENAT2 = 437  # on every architecture
_RESOLVE_NO_XDEV = 0x01
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RESOLVE = _RESOLVE_NO_XDEV | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH
_PIN = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_TRIES = 8
_REMOVED = b".fuse_hidden"
"""What the name of a file begins with that a guest has removed and still has open."""
_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def _open_below(folder: int, name: bytes, flags: int, mode: int = 0) -> int:
    """A file descriptor for `name` in `folder`; see ``openat2(2)``."""
    how = _How(flags | os.O_CLOEXEC, mode, _RESOLVE)
    found: int = _libc.syscall(_OPENAT2, folder, name, ctypes.byref(how), ctypes.sizeof(how))
    if found < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return found


@dataclass(frozen=True)
class Changes:
    """What to change of a file; `None` for what stays.

    Attributes:
        size: in bytes.
        mode: permissions; of other bits nothing is taken.
        times: of access and of change, in seconds since the epoch.
    """

    size: int | None = None
    mode: int | None = None
    times: tuple[int, int] | None = None


class Jail:
    """One folder and what is below it. All methods raise `OSError`; paths are bytes, separated by ``/``.

    It stays the same folder where that is renamed. Names that begin with a dot are not there, unless
    `hidden` says so, and cannot come to be: a folder with notebooks is often somebody's home.

    Args:
        root: the folder.
        away: folders that are not there, wherever below the root they are.
        writable: whether anything may be changed.
        hidden: whether names that begin with a dot are as others.

    Raises:
        Unsupported: this host's kernel cannot keep anybody in a folder, or the folder is not one to hand out.
        OSError: there is no such folder.
    """

    def __init__(
        self, root: Path, away: Sequence[Path] = (), *, writable: bool = True, hidden: bool = False
    ) -> None:
        self.writable = writable
        self._hidden = hidden
        real = root.resolve(strict=True)
        if real == Path(real.anchor):
            raise Unsupported(f"{root} is all of this host and no folder for a notebook.")
        self._away: set[tuple[int, int]] = set()
        self._held: set[tuple[int, int]] = set()
        for folder in away:
            self._keep_away(real, folder)
        self._root = os.open(real, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.close(_open_below(self._root, b".", os.O_PATH | os.O_DIRECTORY))
        except OSError as error:
            os.close(self._root)
            if error.errno != errno.ENOSYS and error.errno != errno.EPERM:
                raise
            raise Unsupported(
                "This host's kernel has no openat2(2) (Linux 5.6), or forbids it: no folder can be handed "
                "out to machines safely."
            ) from error

    def _keep_away(self, root: Path, folder: Path) -> None:
        if not folder.exists():
            return
        real = folder.resolve()
        if root.is_relative_to(real):
            raise Unsupported(f"{root} is within {folder}, which is not handed out to machines.")
        self._away.add(_identity(real.stat()))
        # They must not be moved, either: others look for it below them.
        self._held |= {_identity(above.stat()) for above in real.parents if above.is_relative_to(root)}

    def close(self) -> None:
        """Let go of the folder. Only once."""
        os.close(self._root)

    def stat(self, path: bytes) -> os.stat_result:
        """Facts about a file, or about the symbolic link that it is."""
        with self._pinned(path) as (_, facts):
            return facts

    def listing(self, path: bytes) -> Entries:
        """What is in a folder, as far as it can be told; the folder is open until the end or `close`."""
        with self._folder(self._parts(path)) as folder:
            readable = _open_below(folder, b".", os.O_RDONLY | os.O_DIRECTORY)
        return self._entries(readable)

    def _entries(self, folder: int) -> Entries:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = os.fsencode(entry.name)
                    with contextlib.suppress(OSError):
                        facts = entry.stat(follow_symlinks=False)
                        if not self._is_hidden(name) and _identity(facts) not in self._away:
                            yield name, facts
        finally:
            os.close(folder)

    def open(self, path: bytes, flags: int, mode: int = 0o666) -> int:
        """A file descriptor of a regular file.

        Args:
            path: of the file.
            flags: as of ``open(2)``, of which the way of access, ``O_CREAT``, ``O_EXCL``, ``O_TRUNC`` and
                ``O_APPEND`` count.
            mode: permissions of a new one.
        """
        access = flags & (os.O_ACCMODE | os.O_APPEND | os.O_TRUNC)
        creates = bool(flags & os.O_CREAT)
        if creates or flags & os.O_TRUNC or flags & os.O_ACCMODE != os.O_RDONLY:
            self._require_writable()
        parts = self._parts(path, creates=creates)
        if not parts:
            raise _refused(errno.EISDIR)
        with self._folder(parts[:-1]) as folder:
            for _ in range(_TRIES):
                if creates:
                    try:
                        fresh = access | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
                        return _open_below(folder, parts[-1], fresh, mode & 0o777)
                    except FileExistsError:
                        if flags & os.O_EXCL:
                            raise
                try:
                    return self._open_old(folder, parts[-1], access)
                except FileNotFoundError:
                    if not creates:
                        raise
        raise _refused(errno.ESTALE)  # it comes and goes

    def _open_old(self, folder: int, name: bytes, access: int) -> int:
        # First without effect: a device may do something when it is opened, a pipe waits.
        pinned = _open_below(folder, name, _PIN)
        try:
            facts = os.fstat(pinned)
            self._admit(facts)
            if not stat.S_ISREG(facts.st_mode):
                raise _refused(errno.EISDIR if stat.S_ISDIR(facts.st_mode) else errno.EACCES)
            return os.open(f"/proc/self/fd/{pinned}", access | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        finally:
            os.close(pinned)

    def readlink(self, path: bytes) -> bytes:
        """What a symbolic link says."""
        parts = self._parts(path)
        if not parts:
            raise _refused(errno.EINVAL)
        with self._folder(parts[:-1]) as folder:
            return os.readlink(parts[-1], dir_fd=folder)

    def mkdir(self, path: bytes, mode: int) -> None:
        """Make a folder."""
        with self._changed(path, creates=True) as (folder, name):
            os.mkdir(name, mode & 0o777, dir_fd=folder)

    def rmdir(self, path: bytes) -> None:
        """Remove an empty folder."""
        with self._changed(path) as (folder, name):
            self._require_movable(folder, name)
            os.rmdir(name, dir_fd=folder)

    def remove(self, path: bytes) -> None:
        """Remove a file that is no folder."""
        with self._changed(path) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def rename(self, old: bytes, new: bytes, *, replace: bool) -> None:
        """Give a file or folder another path, in place of what is there if `replace`."""
        with self._changed(old) as (source, name), self._changed(new, creates=True) as (target, to):
            self._require_movable(source, name)
            with contextlib.suppress(FileNotFoundError):
                self._require_movable(target, to)
                if not replace:
                    raise _refused(errno.EEXIST)
            os.rename(name, to, src_dir_fd=source, dst_dir_fd=target)

    def change(self, path: bytes, changes: Changes) -> None:
        """Change the size, permissions or times of a regular file, the latter two of a folder as well."""
        self._require_writable()
        with self._pinned(path) as (pinned, facts):
            kind = facts.st_mode
            if not (stat.S_ISREG(kind) or (stat.S_ISDIR(kind) and changes.size is None)):
                raise _refused(errno.EACCES)
            through = f"/proc/self/fd/{pinned}"
            if changes.size is not None:
                writer = os.open(through, os.O_WRONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                try:
                    os.ftruncate(writer, changes.size)
                finally:
                    os.close(writer)
            if changes.mode is not None:
                os.chmod(through, _permissions(changes.mode, kind))
            if changes.times is not None:
                os.utime(through, changes.times)

    def change_open(self, file: int, changes: Changes) -> None:
        """Likewise, of a file that `open` gave."""
        self._require_writable()
        if changes.size is not None:
            os.ftruncate(file, changes.size)
        if changes.mode is not None:
            os.fchmod(file, _permissions(changes.mode, os.fstat(file).st_mode))
        if changes.times is not None:
            os.utime(file, changes.times)

    def space(self) -> os.statvfs_result:
        """How much there is and how much is free."""
        with self._folder([]) as folder:
            return os.fstatvfs(folder)

    # How a path is resolved.

    def _parts(self, path: bytes, *, creates: bool = False) -> list[bytes]:
        if b"\0" in path:
            raise _refused(errno.EINVAL)
        if len(path) > MAX_PATH:
            raise _refused(errno.ENAMETOOLONG)
        parts = [part for part in path.split(b"/") if part not in (b"", b".")]
        if b".." in parts:
            raise _refused(errno.EACCES)
        if any(self._is_hidden(part) for part in parts):
            raise _refused(errno.EACCES if creates else errno.ENOENT)
        return parts

    def _is_hidden(self, name: bytes) -> bool:
        return not self._hidden and name.startswith(b".") and not name.startswith(_REMOVED)

    @contextlib.contextmanager
    def _folder(self, parts: Sequence[bytes]) -> Iterator[int]:
        at = os.dup(self._root)
        try:
            for part in parts:
                inner = _open_below(at, part, _PIN | os.O_DIRECTORY)
                os.close(at)
                at = inner
                self._admit(os.fstat(at))
            yield at
        finally:
            os.close(at)

    @contextlib.contextmanager
    def _pinned(self, path: bytes) -> Iterator[tuple[int, os.stat_result]]:
        parts = self._parts(path)
        with self._folder(parts[:-1]) as folder:
            pinned = _open_below(folder, parts[-1] if parts else b".", _PIN)
        try:
            facts = os.fstat(pinned)
            self._admit(facts)
            yield pinned, facts
        finally:
            os.close(pinned)

    @contextlib.contextmanager
    def _changed(self, path: bytes, *, creates: bool = False) -> Iterator[tuple[int, bytes]]:
        self._require_writable()
        parts = self._parts(path, creates=creates)
        if not parts:
            raise _refused(errno.EACCES)
        with self._folder(parts[:-1]) as folder:
            yield folder, parts[-1]

    def _require_writable(self) -> None:
        if not self.writable:
            raise _refused(errno.EROFS)

    def _require_movable(self, folder: int, name: bytes) -> None:
        identity = _identity(os.stat(name, dir_fd=folder, follow_symlinks=False))
        if identity in self._away or identity in self._held:
            raise _refused(errno.EACCES)

    def _admit(self, facts: os.stat_result) -> None:
        if _identity(facts) in self._away:
            raise _refused(errno.ENOENT)


def _identity(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_dev, facts.st_ino


def _permissions(mode: int, before: int) -> int:
    """Of a new mode nothing but who may read, write and execute; a folder keeps whose group files get."""
    kept = before & (stat.S_ISGID | stat.S_ISVTX) if stat.S_ISDIR(before) else 0
    return mode & 0o777 | kept


def _refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))
