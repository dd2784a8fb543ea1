"""Snapshots on disk: a folder each, immutable, sharing what they have in common.

A snapshot's disk is a layer, a qcow2 file in a folder of layers that later ones build on. Its
memory is a device state and the pages that differ from its base's, the snapshot before it. A
snapshot that is forgotten stays as long as another one, or a machine, builds on it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import uuid
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import NotFound, Permanent
from jupyter_vsandbox.drivers.qemu.disk import create_overlay
from jupyter_vsandbox.drivers.qemu.memory import INDEX, PAGES
from jupyter_vsandbox.files import write_private
from jupyter_vsandbox.qcow2 import header
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

STATE = "state"
DISK = "disk"
MAX_DEPTH = 10
"""So many snapshots, or layers, may stand on one another before one is written whole."""
_MANIFEST = "manifest.json"
_FORGOTTEN = "forgotten"
_YOUNG_SECONDS = 120.0  # somebody may be about to refer to it


@dataclass(frozen=True)
class Point:
    """A snapshot's manifest.

    Attributes:
        id: the snapshot's.
        disk: name of its layer.
        memory: whether there is a device state and pages.
        template: the template whose memory it builds on.
        base: the snapshot whose pages it builds on, "" for none.
        machine: what must be the same for the state to be loaded.
        checksums: SHA-256 of each file; ``disk`` is the layer.
    """

    id: str
    disk: str
    memory: bool = False
    template: str = ""
    base: str = ""
    machine: Mapping[str, str] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)


class Points:
    """All snapshots of this home.

    Args:
        folder: holds a folder per snapshot.
        layers: holds the disks' layers.
    """

    def __init__(self, folder: Path, layers: Path) -> None:
        self.folder = folder
        self.layers = layers

    def path(self, snapshot_id: str) -> Path:
        """Where a snapshot's files are."""
        return self.folder / snapshot_id

    def get(self, snapshot_id: str) -> Point:
        """The manifest of a snapshot.

        Raises:
            NotFound: there is none.
        """
        try:
            return Point(**json.loads((self.path(snapshot_id) / _MANIFEST).read_text()))
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"The files of snapshot {snapshot_id} are gone.") from None

    def chain(self, snapshot_id: str) -> list[Point]:
        """A snapshot and all whose pages it builds on, oldest first."""
        found: list[Point] = []
        while snapshot_id:
            found.append(self.get(snapshot_id))
            snapshot_id = found[-1].base
        return found[::-1]

    def verify(self, point: Point, *, memory: bool) -> None:
        """Compare the files of a snapshot, and of all that it builds on, with their checksums.

        Raises:
            Permanent: one differs; the message names it.
        """
        needed = [(point, name) for name in point.checksums if memory or name == DISK]
        if memory:
            needed += [(each, name) for each in self.chain(point.base) for name in (INDEX, PAGES)]
        for each, name in needed:
            if not self._whole(each, name):
                raise Permanent(
                    f"{self._file(each, name)} is damaged: snapshot {point.id} cannot be used any more. "
                    "Choose another one from the history."
                )

    def pages_whole(self, chain: Iterable[Point]) -> bool:
        """Whether the pages of all of `chain` are as they were written."""
        return all(self._whole(each, name) for each in chain for name in (INDEX, PAGES))

    def _file(self, point: Point, name: str) -> Path:
        return self.layers / point.disk if name == DISK else self.path(point.id) / name

    def _whole(self, point: Point, name: str) -> bool:
        path = self._file(point, name)
        return path.exists() and checksum(path) == point.checksums[name]

    def write(self, draft: Path, point: Point) -> None:
        """Write a manifest."""
        write_private(draft / _MANIFEST, json.dumps(asdict(point)))

    def size(self, snapshot_id: str) -> int:
        """Bytes that a snapshot's own files take."""
        paths = [*self.path(snapshot_id).iterdir(), self.layers / self.get(snapshot_id).disk]
        return sum(path.stat().st_blocks * 512 for path in paths if path.exists())

    async def new_layer(self, backing: Path) -> Path:
        """Make the empty layer above `backing`."""
        path = private_folder(self.layers) / f"{uuid.uuid4().hex[:16]}.qcow2"
        await create_overlay(path, backing)
        return path

    def below(self, layer: Path) -> list[Path]:
        """What a layer builds on, from its backing file to the one that is no layer: a template's disk."""
        found: list[Path] = []
        while layer.parent == self.layers and (backing := backing_of(layer)) is not None:
            found.append(backing)
            layer = backing
        return found

    def forget(self, snapshot_id: str) -> None:
        """Let a snapshot go as soon as nothing builds on it. Harmless twice."""
        if (self.path(snapshot_id) / _MANIFEST).exists():
            (self.path(snapshot_id) / _FORGOTTEN).touch()

    def collect(self, bases: Iterable[str], disks: Iterable[Path]) -> None:
        """Remove all that nothing builds on.

        Args:
            bases: snapshots that machines build on.
            disks: layers that machines write to.
        """
        points = {point.id: point for point in self._all()}
        kept: set[str] = set()
        for start in [*bases, *(i for i in points if not (self.path(i) / _FORGOTTEN).exists())]:
            current = start
            while current in points and current not in kept:
                kept.add(current)
                current = points[current].base
        for snapshot_id in points.keys() - kept:
            shutil.rmtree(self.path(snapshot_id), ignore_errors=True)
        needed: set[Path] = set()
        for top in [*disks, *(self.layers / points[i].disk for i in kept)]:
            needed.update((top, *self.below(top)))
        if self.layers.is_dir():
            for layer in self.layers.iterdir():
                if layer not in needed and not _young(layer):
                    layer.unlink(missing_ok=True)
        if self.folder.is_dir():
            for draft in self.folder.glob(".new-*"):
                if not _young(draft):
                    shutil.rmtree(draft, ignore_errors=True)

    def _all(self) -> Iterator[Point]:
        if self.folder.is_dir():
            for entry in self.folder.iterdir():
                if not entry.name.startswith(".") and (entry / _MANIFEST).exists():
                    yield self.get(entry.name)


def checksums(folder: Path, layer: Path, *, memory: bool) -> dict[str, str]:
    """SHA-256 of a snapshot's files."""
    found = {DISK: checksum(layer)}
    if memory:
        found |= {name: checksum(folder / name) for name in (STATE, INDEX, PAGES)}
    return found


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def backing_of(path: Path) -> Path | None:
    """What a layer builds on, `None` if that cannot be told."""
    try:
        return header(path).backing
    except (FileNotFoundError, Permanent):
        return None


def _young(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_ctime < _YOUNG_SECONDS
    except FileNotFoundError:
        return True
