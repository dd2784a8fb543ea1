"""The SFTP protocol, version 3, as sshfs speaks it: a packet in, a packet out.

See https://datatracker.ietf.org/doc/html/draft-ietf-secsh-filexfer-02 and, for the extensions, OpenSSH's
PROTOCOL. Whoever sends the packets may lie: what is malformed is answered as such, and what is asked for
is done by a `Jail`. Links of both kinds are not made, owners not changed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox.workspace.jail import Changes

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_vsandbox.workspace.jail import Entries, Jail

VERSION = 3
MAX_PACKET = 256 * 1024 + 1024
MAX_READ = 256 * 1024
MAX_HANDLES = 512
_NAMES = 100  # in an answer to READDIR

_INIT, _VERSION_ANSWER = 1, 2
_STATUS, _HANDLE, _DATA, _NAME, _ATTRS, _EXTENDED_REPLY = 101, 102, 103, 104, 105, 201
_OK, _EOF, _NO_SUCH_FILE, _PERMISSION_DENIED, _FAILURE, _BAD_MESSAGE, _UNSUPPORTED = 0, 1, 2, 3, 4, 5, 8
_READ, _WRITE, _APPEND, _CREAT, _TRUNC, _EXCL = 1, 2, 4, 8, 16, 32
_SIZE, _UIDGID, _PERMISSIONS, _TIMES, _MORE = 1, 2, 4, 8, 0x80000000
_EXTENSIONS = (
    (b"posix-rename@openssh.com", b"1"),
    (b"statvfs@openssh.com", b"2"),
    (b"fsync@openssh.com", b"1"),
)
_STATUS_OF = {
    errno.ENOENT: _NO_SUCH_FILE,
    errno.ENOTDIR: _NO_SUCH_FILE,
    errno.EACCES: _PERMISSION_DENIED,
    errno.EPERM: _PERMISSION_DENIED,
    errno.EROFS: _PERMISSION_DENIED,
}


class Malformed(Exception):
    """A packet that is none."""


class _Packet:
    """Reads the fields of a packet, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _take(self, size: int) -> bytes:
        if len(self._data) - self._at < size:
            raise Malformed("it ends too early")
        self._at += size
        return self._data[self._at - size : self._at]

    def byte(self) -> int:
        return self._take(1)[0]

    def number(self) -> int:
        return int.from_bytes(self._take(4), "big")

    def large(self) -> int:
        return int.from_bytes(self._take(8), "big")

    def text(self) -> bytes:
        return self._take(self.number())

    def changes(self) -> Changes:
        """Attributes to set; an owner, which sshfs sends only for ``chown``, is an error."""
        flags = self.number()
        size = self.large() if flags & _SIZE else None
        if flags & _UIDGID:
            raise PermissionError(errno.EPERM, "the owner stays")
        mode = self.number() if flags & _PERMISSIONS else None
        times = (self.number(), self.number()) if flags & _TIMES else None
        if flags & ~(_SIZE | _PERMISSIONS | _TIMES):
            raise Malformed("attributes of no known kind")
        return Changes(size, mode, times)


class _File:
    """An open file."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def close(self) -> None:
        os.close(self.descriptor)


class _Listing:
    """An open folder."""

    def __init__(self, entries: Entries) -> None:
        self.entries = entries

    def close(self) -> None:
        self.entries.close()


class Session:
    """The state of one client: what it has open. Not for several threads at once.

    Args:
        jail: what is served.
    """

    def __init__(self, jail: Jail) -> None:
        self._jail = jail
        self._handles: dict[bytes, _File | _Listing] = {}
        self._count = 0
        self._verbs: dict[int, Callable[[_Packet], tuple[int, bytes]]] = {
            3: self._open,
            4: self._close,
            5: self._read,
            6: self._write,
            7: self._stat,
            8: self._fstat,
            9: self._setstat,
            10: self._fsetstat,
            11: self._opendir,
            12: self._readdir,
            13: self._remove,
            14: self._mkdir,
            15: self._rmdir,
            16: self._realpath,
            17: self._stat,
            18: self._rename,
            19: self._readlink,
            200: self._extended,
        }

    def close(self) -> None:
        """Close all that is open. Harmless twice."""
        for handle in self._handles.values():
            with contextlib.suppress(OSError):
                handle.close()
        self._handles.clear()

    def answer(self, data: bytes) -> bytes:
        """The answer to a packet, both without their length.

        Raises:
            Malformed: it has no number that an answer could bear.
        """
        packet = _Packet(data)
        kind = packet.byte()
        number = packet.number()
        if kind == _INIT:
            pairs = b"".join(_text(name) + _text(value) for name, value in _EXTENSIONS)
            return struct.pack(">BI", _VERSION_ANSWER, VERSION) + pairs
        verb = self._verbs.get(kind)
        try:
            answer = _status(_UNSUPPORTED) if verb is None else verb(packet)
        except Malformed:
            answer = _status(_BAD_MESSAGE)
        except OSError as error:
            answer = _status(_STATUS_OF.get(error.errno or 0, _FAILURE))
        except (ValueError, OverflowError, MemoryError):  # a number that no file has
            answer = _status(_FAILURE)
        return struct.pack(">BI", answer[0], number) + answer[1]

    # The verbs: each takes the rest of a packet and gives the kind and the rest of its answer.

    def _open(self, packet: _Packet) -> tuple[int, bytes]:
        path, wanted, changes = packet.text(), packet.number(), packet.changes()
        writing = os.O_RDWR if wanted & _READ else os.O_WRONLY
        flags = writing if wanted & _WRITE else os.O_RDONLY
        for bit, flag in (
            (_APPEND, os.O_APPEND),
            (_CREAT, os.O_CREAT),
            (_TRUNC, os.O_TRUNC),
            (_EXCL, os.O_EXCL),
        ):
            flags |= flag if wanted & bit else 0
        self._require_room()
        return self._keep(
            _File(self._jail.open(path, flags, 0o666 if changes.mode is None else changes.mode))
        )

    def _close(self, packet: _Packet) -> tuple[int, bytes]:
        handle = self._handles.pop(packet.text(), None)
        if handle is None:
            return _status(_FAILURE)
        handle.close()
        return _status(_OK)

    def _read(self, packet: _Packet) -> tuple[int, bytes]:
        file, offset, size = self._file(packet), packet.large(), packet.number()
        data = os.pread(file, min(size, MAX_READ), offset)
        return (_DATA, _text(data)) if data or not size else _status(_EOF)

    def _write(self, packet: _Packet) -> tuple[int, bytes]:
        file, offset, data = self._file(packet), packet.large(), memoryview(packet.text())
        while data:
            written = os.pwrite(file, data, offset)
            data, offset = data[written:], offset + written
        return _status(_OK)

    def _stat(self, packet: _Packet) -> tuple[int, bytes]:
        return _ATTRS, _attributes(self._jail.stat(packet.text()))

    def _fstat(self, packet: _Packet) -> tuple[int, bytes]:
        return _ATTRS, _attributes(os.fstat(self._file(packet)))

    def _setstat(self, packet: _Packet) -> tuple[int, bytes]:
        self._jail.change(packet.text(), packet.changes())
        return _status(_OK)

    def _fsetstat(self, packet: _Packet) -> tuple[int, bytes]:
        self._jail.change_open(self._file(packet), packet.changes())
        return _status(_OK)

    def _opendir(self, packet: _Packet) -> tuple[int, bytes]:
        self._require_room()
        return self._keep(_Listing(self._jail.listing(packet.text())))

    def _readdir(self, packet: _Packet) -> tuple[int, bytes]:
        handle = self._handles.get(packet.text())
        if not isinstance(handle, _Listing):
            return _status(_FAILURE)
        found = []
        for name, facts in handle.entries:
            found.append(_name(name, _attributes(facts)))
            if len(found) == _NAMES:
                break
        return (_NAME, struct.pack(">I", len(found)) + b"".join(found)) if found else _status(_EOF)

    def _remove(self, packet: _Packet) -> tuple[int, bytes]:
        self._jail.remove(packet.text())
        return _status(_OK)

    def _mkdir(self, packet: _Packet) -> tuple[int, bytes]:
        path, changes = packet.text(), packet.changes()
        self._jail.mkdir(path, 0o777 if changes.mode is None else changes.mode)
        return _status(_OK)

    def _rmdir(self, packet: _Packet) -> tuple[int, bytes]:
        self._jail.rmdir(packet.text())
        return _status(_OK)

    def _realpath(self, packet: _Packet) -> tuple[int, bytes]:
        # By the words alone, as a guest has no use for more.
        path = os.path.normpath(b"/" + packet.text()[: 2 * MAX_READ // 256]).replace(b"//", b"/")
        return _NAME, struct.pack(">I", 1) + _name(path, struct.pack(">I", 0))

    def _rename(self, packet: _Packet) -> tuple[int, bytes]:
        self._jail.rename(packet.text(), packet.text(), replace=False)
        return _status(_OK)

    def _readlink(self, packet: _Packet) -> tuple[int, bytes]:
        said = self._jail.readlink(packet.text())
        return _NAME, struct.pack(">I", 1) + _name(said, struct.pack(">I", 0))

    def _extended(self, packet: _Packet) -> tuple[int, bytes]:
        match packet.text():
            case b"posix-rename@openssh.com":
                self._jail.rename(packet.text(), packet.text(), replace=True)
                return _status(_OK)
            case b"statvfs@openssh.com":
                return _EXTENDED_REPLY, _space(self._jail.space())
            case b"fsync@openssh.com":
                os.fsync(self._file(packet))
                return _status(_OK)
        return _status(_UNSUPPORTED)

    def _file(self, packet: _Packet) -> int:
        handle = self._handles.get(packet.text())
        if not isinstance(handle, _File):
            raise OSError(errno.EBADF, "no open file")
        return handle.descriptor

    def _require_room(self) -> None:
        if len(self._handles) >= MAX_HANDLES:
            raise OSError(errno.EMFILE, "too many open files")

    def _keep(self, opened: _File | _Listing) -> tuple[int, bytes]:
        self._count += 1
        handle = struct.pack(">Q", self._count)  # one that is closed is nobody's any more
        self._handles[handle] = opened
        return _HANDLE, _text(handle)


def _status(code: int) -> tuple[int, bytes]:
    return _STATUS, struct.pack(">III", code, 0, 0)  # no text: nobody reads it


def _text(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _name(name: bytes, attributes: bytes) -> bytes:
    return _text(name) + _text(name) + attributes


def _attributes(facts: os.stat_result) -> bytes:
    return struct.pack(
        ">IQIIIII",
        _SIZE | _UIDGID | _PERMISSIONS | _TIMES,
        facts.st_size,
        facts.st_uid,
        facts.st_gid,
        facts.st_mode,
        _seconds(facts.st_atime),
        _seconds(facts.st_mtime),
    )


def _seconds(when: float) -> int:
    return min(max(int(when), 0), 0xFFFFFFFF)


def _space(facts: Any) -> bytes:  # noqa: ANN401 - os.statvfs_result
    return struct.pack(
        ">11Q",
        facts.f_bsize,
        facts.f_frsize,
        facts.f_blocks,
        facts.f_bfree,
        facts.f_bavail,
        facts.f_files,
        facts.f_ffree,
        facts.f_favail,
        0,
        0,
        facts.f_namemax,
    )
