"""The first member of an archive: what is in it, and of which sandbox."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox.domain.errors import Unsupported
from jupyter_vsandbox.domain.model import MIB, LinkKeys, Shape

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMAT = 1
CELLS = "cells.ipynb"
MACHINE = "machine"
IMAGE = "image"
_MEMBER = re.compile(rf"{re.escape(CELLS)}|(?:{MACHINE}|{IMAGE})/[a-z][a-z0-9]*(?:\.[a-z0-9]+)?")
_MAX_MEMBERS = 32
_MAX_COUNT = 1 << 48
_MAX_SECONDS = 1e11
_HEX = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"[!-~]{40}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Content:
    """What an archive says of the sandbox in it.

    Attributes:
        driver: name of the driver that wrote the machine's files.
        runtime: the runtime's name.
        image: `Image.id` where the archive was made.
        disk: SHA-256 of that image's disk, which the machine's disk builds on.
        disk_size: its length, bytes.
        shape: size of the machine.
        machine: the sandbox whose name and keys the machine bore, see `Snapshot`.
        name: of the snapshot.
        note: of the snapshot.
        created: when the snapshot was taken, seconds since the epoch.
        pause: of the snapshot, seconds.
        keys: the link's keys at that moment, `None` without memory.
        needs: what must be the same for the memory to be loaded, as the driver says; empty without memory.
    """

    driver: str
    runtime: str
    image: str
    disk: str
    disk_size: int
    shape: Shape
    machine: str
    name: str
    note: str
    created: float
    pause: float
    keys: LinkKeys | None = field(default=None, repr=False)
    needs: Mapping[str, str] = field(default_factory=dict)

    @property
    def memory(self) -> bool:
        """Whether there is memory, not only a disk."""
        return self.keys is not None


@dataclass(frozen=True)
class Member:
    """A file in an archive.

    Attributes:
        name: of the file, ``/`` between folder and name.
        size: bytes.
        sha256: hexadecimal.
    """

    name: str
    size: int
    sha256: str


def compose(content: Content, members: Sequence[Member]) -> bytes:
    """The text of a manifest."""
    document = {"format": FORMAT, "content": asdict(content), "members": [asdict(m) for m in members]}
    return json.dumps(document, indent=1).encode()


def parse(text: bytes) -> tuple[Content, tuple[Member, ...]]:
    """The inverse of `compose`, for text from anybody.

    Raises:
        ValueError: it makes no sense.
        Unsupported: it is of another version.
    """
    try:
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise Unsupported(
                f"it is of another version of jupyter_vsandbox, in format {document['format']!r:.20} where "
                f"this one reads {FORMAT}."
            )
        members = tuple(
            Member(_fit(each["name"], _MEMBER), _count(each["size"]), _fit(each["sha256"], _HEX))
            for each in document["members"]
        )
        if len({member.name for member in members}) != len(members) or len(members) > _MAX_MEMBERS:
            raise ValueError("that there are several members of a name, or too many")
        return _content(document["content"]), members
    except (AttributeError, KeyError, RecursionError, TypeError) as error:
        raise ValueError(str(error)) from error


def _content(document: Mapping[str, Any]) -> Content:
    keys = document["keys"]
    if keys is not None:
        keys = LinkKeys(**{name: _fit(key, _KEY) for name, key in keys.items()})
    shape = document["shape"]
    return Content(
        driver=_fit(document["driver"], _WORD),
        runtime=_fit(document["runtime"], _WORD),
        image=_fit(document["image"], _WORD),
        disk=_fit(document["disk"], _HEX),
        disk_size=_count(document["disk_size"]),
        shape=Shape(_count(shape["memory"], least=MIB), _count(shape["vcpus"], least=1)),
        machine=_fit(document["machine"], _WORD),
        name=str(document["name"])[:200],
        note=str(document["note"])[:10000],
        created=_seconds(document["created"]),
        pause=_seconds(document["pause"]),
        keys=keys,
        needs={str(name): str(value) for name, value in document["needs"].items()},
    )


def _fit(value: object, pattern: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(repr(value)[:80])
    return value


def _count(value: object, least: int = 0) -> int:
    if not isinstance(value, int) or not least <= value <= _MAX_COUNT:
        raise ValueError(repr(value)[:80])
    return value


def _seconds(value: object) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= _MAX_SECONDS:
        raise ValueError(repr(value)[:80])
    return float(value)
