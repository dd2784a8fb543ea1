"""The pages of guest memory that a machine has changed: read from its process, kept in files, put back.

A clone maps its template's memory copy-on-write, so the pages that are its own are the anonymous
ones of that mapping, see https://docs.kernel.org/admin-guide/mm/pagemap.html. A snapshot keeps
those that differ from its parent's. Two files hold them: ``index``, page numbers as 64-bit
little-endian integers in rising order, and ``pages``, the pages in the same order, compressed with zstd
unless that would make the file longer: its length tells.

Where the host does not let one process touch another's memory (Yama, seccomp), QEMU itself writes
the whole of it (`differing`), and a restored machine maps a patched copy of its own (`copy_with`):
the same snapshots, only slower.
"""

from __future__ import annotations

import array
import ctypes
import errno
import itertools
import mmap
import os
import re
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar
from weakref import WeakValueDictionary

from jupyter_vsandbox.compression import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

PAGE = 4096
INDEX = "index"
PAGES = "pages"
_OWN = bytes(int(top & 0xC0 != 0 and not top & 0x20) for top in range(256))
_MAX_VECTORS = 1024  # UIO_MAXIOV
_libc = ctypes.CDLL(None, use_errno=True)
process_vm_readv, process_vm_writev = _libc.process_vm_readv, _libc.process_vm_writev
process_vm_readv.restype = process_vm_writev.restype = ctypes.c_ssize_t
_LEGACY_VIDEO = range(0xA0, 0xC0)  # pages that an address reads as something else than memory
_STRETCH = 512
# A rollback waits for it. Below 0, what has no repetitions stays as it is: level 1 makes arrays of floats a
# twentieth shorter, and takes five times as long to read them.
_LEVEL = -1


@dataclass(frozen=True)
class Pages:
    """Some pages of a machine's memory.

    Attributes:
        numbers: of the pages, rising.
        data: the pages, one behind the other.
    """

    numbers: array.array[int]
    data: mmap.mmap | bytearray

    def page(self, position: int) -> bytes:
        """The page at a position of `numbers`."""
        return bytes(self.data[position * PAGE : (position + 1) * PAGE])

    def without(self, layers: Sequence[Path]) -> Pages:
        """Those that are not the same in `layers`, folders of `write`; later ones hide earlier ones."""
        if not layers:
            return self
        where = {number: at for at, number in enumerate(self.numbers)}
        same = set()
        for folder in reversed(layers):  # one at a time: each may be as large as the machine
            pages = load(folder)
            for at, number in enumerate(pages.numbers):
                mine = where.pop(number, None)
                if mine is not None and pages.page(at) == self.page(mine):
                    same.add(number)
        kept = array.array("Q")
        data = bytearray()
        for at, number in enumerate(self.numbers):
            if number not in same:
                kept.append(number)
                data += self.page(at)
        return Pages(kept, data)

    def write(self, folder: Path) -> None:
        """Write the two files."""
        (folder / INDEX).write_bytes(self.numbers.tobytes())
        path, size = folder / PAGES, len(self.numbers) * PAGE
        with memoryview(self.data) as view:
            with zstd.open(path, "wb", level=_LEVEL) as file:
                file.write(view[:size])
            if path.stat().st_size >= size:
                path.write_bytes(view[:size])


_lock = threading.Lock()
_locks: WeakValueDictionary[tuple[object, ...], threading.Lock] = WeakValueDictionary()
_loaded: WeakValueDictionary[tuple[object, ...], Pages] = WeakValueDictionary()


def load(folder: Path) -> Pages:
    """The pages that `Pages.write` wrote, not to be changed.

    Whoever wants some that another thread has, or is about to have, is given the same: a rollback puts back
    what its snapshot is compared with.
    """
    facts = [(folder / name).stat() for name in (INDEX, PAGES)]
    key = (folder, *((each.st_ino, each.st_mtime_ns) for each in facts))  # they may be mended meanwhile
    with _lock:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:
        pages = _loaded.get(key)
        if pages is None:
            pages = _loaded[key] = _load(folder)
        return pages


def _load(folder: Path) -> Pages:
    numbers = array.array("Q", (folder / INDEX).read_bytes())
    path, size = folder / PAGES, len(numbers) * PAGE
    if not numbers:
        return Pages(numbers, bytearray())
    if path.stat().st_size == size:
        with open(path, "rb") as file:
            return Pages(
                numbers, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
            )
    data = mmap.mmap(-1, size, mmap.MAP_PRIVATE)
    with zstd.open(path, "rb") as packed, memoryview(data) as view:
        done = 0
        while done < size and (count := packed.readinto(view[done:])):
            done += count
    if done != size:
        raise EOFError(f"{path} holds {done} bytes of {size}.")
    return Pages(numbers, data)


def prepare(pid: int, ram: Path) -> mmap.mmap:
    """Make room for `capture` while the machine still runs: memory that is new takes time to touch.

    Raises:
        OSError: the process has a copy of its own, or may not be looked at.
    """
    count = sum(length for _, length in _own(pid, *_mapping(pid, ram)))
    room = mmap.mmap(-1, (count + count // 8 + 4096) * PAGE, mmap.MAP_PRIVATE)
    with open("/dev/zero", "rb", buffering=0) as zeros:
        zeros.readinto(room)  # with MAP_POPULATE, no other thread would run meanwhile
    return room


def capture(pid: int, ram: Path, room: mmap.mmap) -> Pages:
    """Read the pages that a stopped machine has changed.

    Args:
        pid: of its process.
        ram: the file that it maps copy-on-write.
        room: from `prepare`.

    Raises:
        OSError: the host does not let this process read that one's memory.
    """
    low, high = _mapping(pid, ram)
    runs = _own(pid, low, high)
    count = sum(length for _, length in runs)
    if count * PAGE > len(room):
        room = mmap.mmap(-1, count * PAGE)
    _copy(process_vm_readv, pid, low, runs, room)
    return Pages(array.array("Q", (n for first, length in runs for n in range(first, first + length))), room)


def put_back(pid: int, ram: Path, layers: Sequence[Path]) -> None:
    """Write the pages of all `layers`, oldest first, to the memory of a machine that does not run yet.

    Raises:
        OSError: the host does not let this process write to that one's memory.
    """
    low, _ = _mapping(pid, ram)
    for folder in layers:
        pages = load(folder)
        if pages.numbers:
            _copy(process_vm_writev, pid, low, _runs(pages.numbers), pages.data)


def differing(whole: Path, ram: Path, layers: Sequence[Path]) -> Pages:
    """The pages of a memory written as a whole that are not those of `ram`, or are in `layers`."""
    numbers = {number for folder in layers for number in array.array("Q", (folder / INDEX).read_bytes())}
    with open(whole, "rb") as now, open(ram, "rb") as then:
        for first in itertools.count(0, _STRETCH):
            mine, base = now.read(_STRETCH * PAGE), then.read(_STRETCH * PAGE)
            if not mine:
                break
            if mine != base:
                pages = range(0, len(mine), PAGE)
                numbers.update(
                    first + at // PAGE for at in pages if mine[at : at + PAGE] != base[at : at + PAGE]
                )
        rising = array.array("Q", sorted(numbers.difference(_LEGACY_VIDEO)))
        data = bytearray()
        for number in rising:
            data += os.pread(now.fileno(), PAGE, number * PAGE)
    return Pages(rising, data)


def copy_with(ram: Path, layers: Sequence[Path], to: Path) -> None:
    """Copy `ram` with the pages of all `layers`, oldest first, to a new file."""
    subprocess.run(["cp", "--sparse=always", "--reflink=auto", "--", ram, to], check=True)
    with open(to, "r+b", buffering=0) as file:
        for folder in layers:
            pages = load(folder)
            for position, number in enumerate(pages.numbers):
                os.pwrite(file.fileno(), pages.page(position), number * PAGE)


class _Vector(ctypes.Structure):
    """``struct iovec``."""

    _fields_: ClassVar = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def _copy(
    call: Callable[..., int], pid: int, low: int, runs: Sequence[tuple[int, int]], data: mmap.mmap | bytearray
) -> None:
    """Copy between runs of pages of another process and memory of this one, see process_vm_readv(2)."""
    anchor = (ctypes.c_char * len(data)).from_buffer(data)
    local = ctypes.addressof(anchor)
    for start in range(0, len(runs), _MAX_VECTORS):
        part = runs[start : start + _MAX_VECTORS]
        remote = (_Vector * len(part))(*(_Vector(low + first * PAGE, n * PAGE) for first, n in part))
        size = sum(length for _, length in part) * PAGE
        done = call(
            pid, ctypes.byref(_Vector(local, size)), ctypes.c_ulong(1), remote, ctypes.c_ulong(len(part)), 0
        )
        if done != size:
            code = ctypes.get_errno()
            raise OSError(code, f"A machine's memory could not be copied: {os.strerror(code)}")
        local += size


def _own(pid: int, low: int, high: int) -> list[tuple[int, int]]:
    """The runs of pages that are the process's own: number of the first, how many."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as file:
        entries = os.pread(file.fileno(), (high - low) // PAGE * 8, low // PAGE * 8)
    # The flags are in the most significant byte: present, swapped, of a file.
    marks = entries[7::8].translate(_OWN)
    return [(run.start(), run.end() - run.start()) for run in re.finditer(b"\1+", marks)]


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    marks = bytearray(numbers[-1] + 1)
    for number in numbers:
        marks[number] = 1
    return [(run.start(), run.end() - run.start()) for run in re.finditer(b"\1+", marks)]


def _mapping(pid: int, ram: Path) -> tuple[int, int]:
    suffix = f" {ram.resolve()}"
    with open(f"/proc/{pid}/maps") as file:
        for line in file:
            if line.rstrip("\n").endswith(suffix):
                low, high = line.split(maxsplit=1)[0].split("-")
                return int(low, 16), int(high, 16)
    raise FileNotFoundError(errno.ENOENT, f"Process {pid} does not map", os.fspath(ram))
