"""qcow2 files: their headers, see docs/interop/qcow2.txt in QEMU's source, and who converts them."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from jupyter_vsandbox import programs
from jupyter_vsandbox.domain.errors import Permanent

_HEADER = struct.Struct(">4sIQI4xQI36xQ")
_MAGIC = b"QFI\xfb"
_VERSION = 3
_WHOLE_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII8x")
_EXTENSIONS = struct.pack(
    ">II5s3xII", 0xE2792ACA, 5, b"qcow2", 0, 0
)  # the backing file's format, and no more
_CLUSTER_BITS = 16
_REFCOUNT_ORDER = 4  # counters of 2 bytes
_PER_L1_ENTRY = 1 << 2 * _CLUSTER_BITS - 3  # bytes of disk: a table in a cluster, of entries of 8 bytes


@dataclass(frozen=True)
class Header:
    """Facts of a qcow2 file.

    Attributes:
        backing: what it builds on, `None` for nothing.
        size: of the disk, bytes.
        plain: whether its data is all in it, unencrypted, and no feature is used that an older QEMU
            does not know.
    """

    backing: Path | None
    size: int
    plain: bool


def header(path: Path) -> Header:
    """Read the header of `path`.

    Raises:
        Permanent: it is no qcow2 file.
    """
    with open(path, "rb") as file:
        start = file.read(_HEADER.size)
        if len(start) < _HEADER.size or not start.startswith(_MAGIC):
            raise Permanent(f"{path} is no qcow2 file.")
        _, version, offset, length, size, encryption, features = _HEADER.unpack(start)
        file.seek(offset)
        backing = Path(os.fsdecode(file.read(length))) if offset else None
    return Header(backing, size, version == _VERSION and not encryption and not features)


def write_overlay(path: Path, backing: Path) -> None:
    """Write a new file that holds nothing yet and builds on the qcow2 file `backing`.

    The same as ``qemu-img create``, in a hundredth of the time.

    Raises:
        Permanent: `backing` is no qcow2 file.
        OSError: it is not there, or the disk is full. There may be a part of the file.
    """
    size, name = header(backing).size, os.fsencode(backing)
    entries = -(-size // _PER_L1_ENTRY)
    refcounts, block, table = (number << _CLUSTER_BITS for number in (1, 2, 3))
    used = 3 + -(-entries * 8 >> _CLUSTER_BITS)
    head = _WHOLE_HEADER.pack(
        _MAGIC,
        _VERSION,
        _WHOLE_HEADER.size + len(_EXTENSIONS),
        len(name),
        _CLUSTER_BITS,
        size,
        0,  # no encryption
        entries,
        table,
        refcounts,
        1,  # cluster of the refcount table
        *(0, 0),  # no internal snapshots
        *(0, 0, 0),  # no features
        _REFCOUNT_ORDER,
        _WHOLE_HEADER.size,
    )
    with open(path, "xb") as file:
        file.write(head + _EXTENSIONS + name)
        file.seek(refcounts)
        file.write(struct.pack(">Q", block))
        file.seek(block)
        file.write(struct.pack(">H", 1) * used)
        file.truncate(table + entries * 8)


def require_alone(path: Path) -> Header:
    """The header of a file of unknown origin that must not make QEMU open any other file.

    Raises:
        Permanent: it is not such a file.
    """
    found = header(path)
    if found.backing is not None or not found.plain:
        raise Permanent(f"{path.name} refers to other files or is encrypted: it is not of this program.")
    return found


async def image_tool(*words: str) -> None:
    """Run ``qemu-img``; cancelled, it is ended.

    Raises:
        Unsupported: it is not installed.
        Permanent: it failed; the message has what it said.
    """
    await programs.run("qemu-img", *words, package="qemu-utils")
