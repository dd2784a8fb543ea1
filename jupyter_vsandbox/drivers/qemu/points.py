"""Snapshots on disk: a folder each, immutable, sharing what they have in common.

A snapshot's disk is a layer, a qcow2 file in a folder of layers that later ones build on. Its
memory is a device state and the pages that differ from its base's, the snapshot before it. A
snapshot that is forgotten stays as long as another one, or a machine, builds on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import uuid
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from jupyter_vsandbox import faults
from jupyter_vsandbox.domain.errors import NotFound, Permanent
from jupyter_vsandbox.drivers.qemu.disk import create_overlay
from jupyter_vsandbox.drivers.qemu.memory import INDEX, PAGES
from jupyter_vsandbox.files import checksum, write_private
from jupyter_vsandbox.qcow2 import header
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping
    from pathlib import Path

STATE = "state"
DISK = "disk"
MAX_DEPTH = 10
"""So many snapshots, or layers, may stand on one another before one is written whole."""
_MANIFEST = "manifest.json"
_FORGOTTEN = "forgotten"
_DIGEST = "sha256"


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
        below: SHA-256 of each layer that its own builds on, by name.
    """

    id: str
    disk: str
    memory: bool = False
    template: str = ""
    base: str = ""
    machine: Mapping[str, str] = field(default_factory=dict)
    checksums: Mapping[str, str] = field(default_factory=dict)
    below: Mapping[str, str] = field(default_factory=dict)


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
            Permanent: it is damaged.
        """
        path = self.path(snapshot_id) / _MANIFEST
        try:
            record = json.loads(path.read_bytes())
            digest = record.pop(_DIGEST, "")
            if digest and digest != _digest(record):
                raise ValueError("its checksum is another")
            return Point(**record)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"The files of snapshot {snapshot_id} are gone.") from None
        except (ValueError, TypeError, AttributeError) as error:  # ValueError: no JSON, no UTF-8
            raise _damaged(path, snapshot_id) from error

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
                raise _damaged(self._file(each, name), point.id)
        for name, expected in point.below.items():
            if not _is(self.layers / name, expected):
                raise _damaged(self.layers / name, point.id)

    def pages_whole(self, chain: Iterable[Point]) -> bool:
        """Whether the pages of all of `chain` are as they were written."""
        return all(self._whole(each, name) for each in chain for name in (INDEX, PAGES))

    def _file(self, point: Point, name: str) -> Path:
        return self.layers / point.disk if name == DISK else self.path(point.id) / name

    def _whole(self, point: Point, name: str) -> bool:
        return _is(self._file(point, name), point.checksums[name])

    def write(self, draft: Path, point: Point) -> None:
        """Write a manifest."""
        record = asdict(point)
        write_private(draft / _MANIFEST, json.dumps(record | {_DIGEST: _digest(record)}))

    def sums_below(self, layer: Path) -> dict[str, str]:
        """SHA-256 of each layer below one, as the snapshots that froze them have it."""
        lower = [each.name for each in self.layers_of(layer)[1:]]
        known: dict[str, str] = {}
        if lower:
            for point in self._all():
                known |= {point.disk: point.checksums[DISK], **point.below}
        return {name: known.get(name) or checksum(self.layers / name) for name in lower}

    def layers_of(self, top: Path) -> list[Path]:
        """A layer and those that it builds on, the template's disk excepted."""
        return [layer for layer in (top, *self.below(top)) if layer.parent == self.layers]

    def size(self, snapshot_id: str) -> int:
        """Bytes that a snapshot's own files take."""
        paths = [*self.path(snapshot_id).iterdir(), self.layers / self.get(snapshot_id).disk]
        return sum(path.stat().st_blocks * 512 for path in paths if path.exists())

    def new_layer(self, backing: Path) -> Path:
        """Make the empty layer above `backing`."""
        path = private_folder(self.layers) / f"{uuid.uuid4().hex[:16]}.qcow2"
        create_overlay(path, backing)
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
            faults.point("forget.marked")

    def collect(self, bases: Iterable[str], disks: Iterable[Path], loose: Collection[Path] = ()) -> None:
        """Remove the forgotten snapshots that nothing builds on, and the layers that were theirs alone.

        No other layer is looked at: somebody may be about to refer to it.

        Args:
            bases: snapshots that machines build on.
            disks: layers that machines write to.
            loose: more layers to remove if nothing builds on them.
        """
        points = {point.id: point for point in self._all()}
        kept: set[str] = set()
        for start in [*bases, *(i for i in points if not (self.path(i) / _FORGOTTEN).exists())]:
            current = start
            while current in points and current not in kept:
                kept.add(current)
                current = points[current].base
        needed: set[Path] = set()
        for top in [*disks, *(self.layers / points[i].disk for i in kept)]:
            layer: Path | None = top
            while layer is not None and layer.parent == self.layers and layer not in needed:
                needed.add(layer)
                layer = backing_of(layer)
        gone = points.keys() - kept
        candidates = set(loose).union(*(self.layers_of(self.layers / points[i].disk) for i in gone))
        # Layers first: what is left of a snapshot says which they were.
        for loose_one in candidates - needed:
            loose_one.unlink(missing_ok=True)
        faults.point("collect.layers")
        for folder in self.folder.glob(f"*/{_FORGOTTEN}"):
            if folder.parent.name not in kept:  # one whose manifest is damaged is there, too
                shutil.rmtree(folder.parent, ignore_errors=True)
        faults.point("collect.snapshots")

    def debris(self) -> set[Path]:
        """All that may have been left behind: every layer, and every folder of a snapshot or a draft."""
        return {path for folder in (self.folder, self.layers) if folder.is_dir() for path in folder.iterdir()}

    def sweep(self, debris: Collection[Path], snapshots: Collection[str]) -> list[Path]:
        """Forget what is none of `snapshots`, remove drafts; returns the layers that may be loose."""
        for path in debris:
            if path.parent == self.folder and path.name not in snapshots:
                if (path / _MANIFEST).exists() and not path.name.startswith(".new-"):
                    self.forget(path.name)
                else:
                    shutil.rmtree(path, ignore_errors=True)
        return [path for path in debris if path.parent == self.layers]

    def _all(self) -> Iterator[Point]:
        """Every manifest that can be read; nobody can use a snapshot without."""
        if self.folder.is_dir():
            for entry in self.folder.iterdir():
                if not entry.name.startswith("."):
                    with contextlib.suppress(NotFound, Permanent):
                        yield self.get(entry.name)


def checksums(folder: Path, layer: Path, *, memory: bool) -> dict[str, str]:
    """SHA-256 of a snapshot's files."""
    found = {DISK: checksum(layer)}
    if memory:
        found |= {name: checksum(folder / name) for name in (STATE, INDEX, PAGES)}
    return found


def backing_of(path: Path) -> Path | None:
    """What a layer builds on, `None` if that cannot be told."""
    try:
        return header(path).backing
    except (FileNotFoundError, Permanent):
        return None


def _is(path: Path, expected: str) -> bool:
    return path.exists() and checksum(path) == expected


def _digest(record: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _damaged(path: Path, snapshot_id: str) -> Permanent:
    return Permanent(
        f"{path} is damaged: snapshot {snapshot_id} cannot be used any more. Choose another one from the "
        "history."
    )
