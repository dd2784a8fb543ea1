"""The file that a sandbox travels in: a tar archive, compressed with zstd, every byte accounted for.

First comes ``manifest.json``: what is in the archive, with the size and SHA-256 of each member. The
members follow in its order. At the end, in a frame that zstd skips, is the SHA-256 of all before
it. So ``tar --zstd -tf`` lists an archive, and what is damaged or cut off is found before anything
else is read. Names and sizes are checked all the same: whoever made an archive may mean harm.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import os
import tarfile
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from jupyter_vsandbox.compression import zstd
from jupyter_vsandbox.core import manifest
from jupyter_vsandbox.core.manifest import IMAGE, Member
from jupyter_vsandbox.domain.errors import Conflict, Exhausted, NotFound, Permanent, Unsupported
from jupyter_vsandbox.files import try_locked

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

    from jupyter_vsandbox.core.manifest import Content
    from jupyter_vsandbox.work import Work

MANIFEST = "manifest.json"
PASSES = 2
"""So often `write` reads each file, and tells of it."""
_MAX_MANIFEST = 1024 * 1024
_CHUNK = 1024 * 1024
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_SKIPPED = bytes.fromhex("502a4d18") + (32).to_bytes(4, "little")  # RFC 8878, 3.1.2
_TRAILER = len(_SKIPPED) + 32
_LEVEL = 3
_THREADS = 4


@dataclass(frozen=True)
class Archive:
    """An archive that was found whole.

    Attributes:
        path: the file.
        content: what it says of its sandbox.
        members: the files in it, in their order.
    """

    path: Path
    content: Content
    members: tuple[Member, ...]

    @property
    def names(self) -> set[str]:
        """The names of its members."""
        return {member.name for member in self.members}

    @property
    def whole(self) -> bool:
        """Whether it has the image in it."""
        return any(name.startswith(f"{IMAGE}/") for name in self.names)


def write(target: Path, content: Content, sources: Mapping[str, Path], work: Work) -> int:
    """Write a new archive; `target` appears when it is complete, readable by its owner only.

    Args:
        target: the file.
        content: what to say of the sandbox.
        sources: the file of each member, by the member's name.
        work: is told of each byte of the sources `PASSES` times.

    Returns:
        the size of the archive, bytes.

    Raises:
        Conflict: `target` is there already.
        Exhausted: the disk is full.
    """
    require_free(target)
    members = [
        Member(name, path.stat().st_size, _checksum(path, path.stat().st_size, work))
        for name, path in sources.items()
    ]
    text = manifest.compose(content, members)
    with _draft(target) as file:
        out = _Compressed(file)
        out.write(_tar_header(MANIFEST, len(text)))
        out.write(text)
        out.write(_padding(len(text)))
        for member in members:
            out.write(_tar_header(member.name, member.size))
            with open(sources[member.name], "rb") as source:
                for data in _chunks(source, member.size):
                    work.step(len(data))
                    out.write(data)
            out.write(_padding(member.size))
        out.write(_END)
        out.close()
        return file.tell()


def require_free(target: Path) -> None:
    """Raise an error unless `target` can become a new file."""
    if target.exists() or target.is_symlink():
        raise Conflict(f"{target} is there already; choose another name, or remove it first.")
    if not target.parent.is_dir():
        raise NotFound(f"There is no folder {target.parent} to write {target.name} to.")


def compressed_size(size: int, sample: bytes) -> int:
    """About how large `size` bytes will be that are like `sample`."""
    if not sample:
        return size
    return size * len(zstd.compress(sample, _LEVEL)) // len(sample)


def length(path: Path) -> int:
    """Bytes of an archive.

    Raises:
        NotFound: there is no such file.
    """
    if not path.is_file():
        raise NotFound(f"There is no file {path}.")
    return path.stat().st_size


def load(path: Path, work: Work) -> Archive:
    """Check an archive and read its manifest.

    Args:
        path: the file.
        work: is told of each byte of the file once.

    Raises:
        Permanent: it is damaged, cut off, or no archive of this program.
        Unsupported: it is of a later version.
    """
    with open(path, "rb") as file:
        _verify(path, file, work)
        return _open(path, file)[0]


def extract(archive: Archive, folder: Path, wanted: Collection[str], work: Work) -> None:
    """Write members of an archive to new files below `folder`; the others are only checked.

    Args:
        archive: from `load`.
        folder: private and empty; what is there after an error is for the caller to remove.
        wanted: names of members.
        work: is told of each byte of the members once.

    Raises:
        Permanent: something is not as the manifest says; the message names it.
    """
    with open(archive.path, "rb") as file:
        again, stream = _open(archive.path, file)
        if again != archive:
            raise Permanent(f"{archive.path} was changed while it was read; try again.")
        for member in archive.members:
            stream.tar_header(member.name, member.size)
            digest = hashlib.sha256()
            with open(_place(folder, member.name) if member.name in wanted else os.devnull, "wb") as out:
                for data in stream.chunks(member.size):
                    digest.update(data)
                    out.write(data)
                    work.step(len(data))
            if digest.hexdigest() != member.sha256:
                raise Permanent(f"{archive.path}: {member.name} in it is damaged; nothing was taken from it.")
            stream.skip_padding(member.size)
        stream.finish()


# Writing.


class _Compressed:
    """Compresses what is written to it, and ends it with a checksum."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._zstd = zstd.ZstdCompressor(
            options={
                zstd.CompressionParameter.compression_level: _LEVEL,
                zstd.CompressionParameter.checksum_flag: 1,
                zstd.CompressionParameter.nb_workers: min(
                    _THREADS, os.cpu_count() or 1, zstd.CompressionParameter.nb_workers.bounds()[1]
                ),
            }
        )

    def write(self, data: bytes) -> None:
        self._put(self._zstd.compress(data))

    def close(self) -> None:
        self._put(self._zstd.flush())
        self._file.write(_SKIPPED + self._digest.digest())

    def _put(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)


@contextmanager
def _draft(target: Path) -> Iterator[IO[bytes]]:
    """A file that becomes `target` when the block ends well, and vanishes otherwise.

    It is locked for as long as that is open, so that what a killed process has left is known by its
    lock being free.
    """
    prefix = f".new-{target.name}-"
    for left in target.parent.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError), try_locked(left) as dead:
            if dead:
                left.unlink()
    draft = target.parent / f"{prefix}{uuid.uuid4().hex[:8]}"
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())
            require_free(target)
            draft.rename(target)
    except BaseException as error:
        draft.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise Exhausted(f"There is no room for {target}: {error.strerror}.") from error
        raise


def _checksum(path: Path, size: int, work: Work) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for data in _chunks(file, size):
            digest.update(data)
            work.step(len(data))
    return digest.hexdigest()


def _chunks(file: IO[bytes], size: int) -> Iterator[bytes]:
    while size:
        data = file.read(min(size, _CHUNK))
        if not data:
            raise Permanent(f"{file.name} became shorter while it was read.")
        yield data
        size -= len(data)


def _tar_header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600
    return entry.tobuf(tarfile.GNU_FORMAT)


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


# Reading.


def _verify(path: Path, file: IO[bytes], work: Work) -> None:
    """Compare all of a file with the checksum at its end."""
    size = os.fstat(file.fileno()).st_size
    if size <= _TRAILER:
        raise Permanent(f"{path} is no archive of a sandbox, or it is cut off.")
    digest = hashlib.sha256()
    for data in _chunks(file, size - _TRAILER):
        digest.update(data)
        work.step(len(data))
    if file.read(_TRAILER) != _SKIPPED + digest.digest():
        raise Permanent(
            f"{path} is damaged or cut off, or no archive of a sandbox: its checksum does not fit. "
            "Copy or export it again."
        )


def _open(path: Path, file: IO[bytes]) -> tuple[Archive, _Stream]:
    """Read the manifest; the stream then stands at the first member."""
    file.seek(0)
    stream = _Stream(path, file)
    size = stream.tar_header(MANIFEST, None)
    if size > _MAX_MANIFEST:
        raise stream.unknown(f"{MANIFEST} is too long")
    text = b"".join(stream.chunks(size))
    stream.skip_padding(size)
    try:
        content, members = manifest.parse(text)
    except ValueError as error:
        raise stream.unknown(f"{MANIFEST} says {error}") from error
    except Unsupported as error:
        raise Unsupported(f"{path}: {error}") from None
    return Archive(path, content, members), stream


def _place(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    return path


class _Stream:
    """The decompressed content of an archive, read in order."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file
        self._left = os.fstat(file.fileno()).st_size - _TRAILER
        self._zstd = zstd.ZstdDecompressor()
        self._ready = b""

    def unknown(self, why: str) -> Permanent:
        return Permanent(f"{self._path} is no archive that this program has made: {why}.")

    def tar_header(self, name: str, size: int | None) -> int:
        """Read the header of the member that must come now."""
        try:
            entry = tarfile.TarInfo.frombuf(b"".join(self.chunks(_BLOCK)), "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise self.unknown(f"where {name} should be, {error}") from error
        if (
            entry.name != name
            or entry.type != tarfile.REGTYPE
            or entry.size < 0
            or size not in {None, entry.size}
        ):
            raise self.unknown(f"{name} is not where it should be")
        return entry.size

    def chunks(self, size: int) -> Iterator[bytes]:
        """The next `size` bytes."""
        while size:
            self._ready = self._ready or self._next()
            if not self._ready:
                raise self.unknown("it ends too early")
            data, self._ready = self._ready[:size], self._ready[size:]
            size -= len(data)
            yield data

    def skip_padding(self, size: int) -> None:
        for _ in self.chunks(-size % _BLOCK):
            pass

    def finish(self) -> None:
        """Raise `Permanent` unless this is the end."""
        end = b"".join(self.chunks(len(_END))) == _END and not (self._ready or self._next())
        if not end or self._left or self._zstd.unused_data or not self._zstd.eof:
            raise self.unknown("there is more in it than its manifest says")

    def _next(self) -> bytes:
        """Some more bytes, b"" at the end; never so many that a small file could fill the memory."""
        data = b""
        try:
            while not data and not self._zstd.eof:
                more = self._file.read(min(self._left, _CHUNK)) if self._zstd.needs_input else b""
                if self._zstd.needs_input and not more:
                    break
                self._left -= len(more)
                data = self._zstd.decompress(more, _CHUNK)
        except zstd.ZstdError as error:
            raise self.unknown(f"it cannot be decompressed ({error})") from error
        return data
