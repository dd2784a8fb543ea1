"""qcow2 files: what their headers say, see docs/interop/qcow2.txt in QEMU's source, and who converts them."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from jupyter_vsandbox import programs
from jupyter_vsandbox.domain.errors import Permanent

_HEADER = struct.Struct(">4sIQI4xQI36xQ")
_MAGIC = b"QFI\xfb"


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
    return Header(backing, size, version == 3 and not encryption and not features)


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
