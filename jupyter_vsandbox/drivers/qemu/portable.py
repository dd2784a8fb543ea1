"""Snapshots that leave this host, and such as come from another one.

Each host boots its templates itself, so two templates of one image differ in memory and disk. What
leaves is therefore no difference from a template: ``index`` and ``pages`` hold all pages that are
not zero, as if the machine had booted (see `template.ensure_blank`), and ``disk.qcow2`` holds, in
one layer, all that differs from the image's own disk.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import itertools
import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import Permanent
from jupyter_vsandbox.drivers.base import Extent
from jupyter_vsandbox.drivers.qemu.disk import create_overlay, size
from jupyter_vsandbox.drivers.qemu.memory import INDEX, PAGE, PAGES, load
from jupyter_vsandbox.drivers.qemu.points import STATE, backing_of, checksums
from jupyter_vsandbox.files import new_folder, sample, sync_folder
from jupyter_vsandbox.qcow2 import header, image_tool, require_alone
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jupyter_vsandbox.domain.model import Shape
    from jupyter_vsandbox.drivers.qemu.points import Point, Points
    from jupyter_vsandbox.work import Work

DISK = "disk.qcow2"
MEMORY_FILES = (STATE, INDEX, PAGES)
_STRETCH = 1024  # pages
_PIECES = 256
_NUMBER = array.array("Q").itemsize


def layers_above(layer: Path, base: Path) -> list[Path]:
    """A layer and those that it builds on, down to `base`, which is not among them.

    Raises:
        Permanent: it does not build on `base`.
    """
    found, current, base = [], layer, base.resolve()
    while current.resolve() != base:
        found.append(current)
        below = backing_of(current)
        if below is None:
            raise Permanent(f"{layer} does not build on {base}, the disk of its image.")
        current = below
    return found


def measure(points: Points, point: Point, ram: Path | None, base: Path) -> Extent:
    """How much `write` will write; with the same arguments."""
    disks = layers_above(points.layers / point.disk, base)
    layers = [] if ram is None else [points.path(each.id) for each in points.chain(point.id)]
    memory = [] if ram is None else [ram, *(layer / PAGES for layer in layers)]
    sizes = {path: size(path) for path in (*disks, *memory)}
    all_of_it = sum(sizes.values())
    some = b"".join(sample(path, _PIECES * sizes[path] // all_of_it) for path in sizes if all_of_it)
    total = sum(sizes[path] for path in disks)
    if ram is not None:
        pages = _count_pages(ram, layers)
        total += size(points.path(point.id) / STATE) + pages * (PAGE + _NUMBER)
    return Extent(total, some)


def _count_pages(ram: Path, layers: Sequence[Path]) -> int:
    """How many pages are in a sparse file or in layers above it."""
    marks = bytearray(ram.stat().st_size // PAGE)
    with open(ram, "rb") as file:
        end = 0
        with contextlib.suppress(OSError):  # ENXIO: there is nothing but a hole any more
            while True:
                begin = os.lseek(file.fileno(), end, os.SEEK_DATA)
                end = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
                first, behind = begin // PAGE, -(-end // PAGE)
                marks[first:behind] = b"\1" * (behind - first)
    for layer in layers:
        for number in array.array("Q", (layer / INDEX).read_bytes()):
            marks[number] = 1
    return marks.count(1)


async def write(points: Points, point: Point, ram: Path | None, base: Path, folder: Path, work: Work) -> None:
    """Write the files of a snapshot.

    Args:
        points: where it is.
        point: the snapshot.
        ram: the memory of its template, `None` to leave its own out.
        base: the disk of its image.
        folder: for the files.
        work: is told of the bytes of its memory.
    """
    await flatten(points.layers / point.disk, base, folder / DISK)
    if ram is not None:
        layers = [points.path(each.id) for each in points.chain(point.id)]
        shutil.copyfile(points.path(point.id) / STATE, folder / STATE)
        await work.run(lambda: write_memory(ram, layers, folder, work))


async def take(points: Points, point: Point, shape: Shape, base: Path, folder: Path) -> None:
    """Make a snapshot of files that `write` wrote, perhaps; they are moved.

    Args:
        points: where it is to be.
        point: the snapshot, checksums aside.
        shape: size of the machine.
        base: the disk of its image.
        folder: holds the files.

    Raises:
        Permanent: they are not such files. There is no snapshot then.
    """
    for name in (DISK, *(MEMORY_FILES if point.memory else ())):
        if not (folder / name).is_file():
            raise Permanent(f"There is no {name} in what came from elsewhere.")
    await put_on(folder / DISK, base)
    if point.memory:
        await asyncio.to_thread(require_pages, folder, shape.memory)
    layer = private_folder(points.layers) / point.disk
    try:
        with new_folder(private_folder(points.folder) / point.id) as draft:
            shutil.move(folder / DISK, layer)
            sync_folder(layer)
            for name in MEMORY_FILES if point.memory else ():
                shutil.move(folder / name, draft / name)
            sums = await asyncio.to_thread(checksums, draft, layer, memory=point.memory)
            points.write(draft, replace(point, checksums=sums))
    except BaseException:
        layer.unlink(missing_ok=True)
        raise


def write_memory(ram: Path, layers: Sequence[Path], folder: Path, work: Work) -> None:
    """Write all pages that are not zero.

    Args:
        ram: the template's memory.
        layers: of the snapshots above it, oldest first.
        folder: gets ``index`` and ``pages``.
        work: is told of the bytes written.
    """
    above: dict[int, bytes] = {}
    for layer in layers:  # later ones hide earlier ones
        changed = load(layer)
        above.update((number, changed.page(at)) for at, number in enumerate(changed.numbers))
    nothing = bytes(PAGE)
    numbers = array.array("Q")
    with open(ram, "rb") as file, open(folder / PAGES, "wb") as out:
        for first in itertools.count(0, _STRETCH):
            data = file.read(_STRETCH * PAGE)
            if not data:
                break
            before = len(numbers)
            for number, at in enumerate(range(0, len(data), PAGE), first):
                page = above.get(number) or data[at : at + PAGE]
                if page != nothing:
                    numbers.append(number)
                    out.write(page)
            work.step((len(numbers) - before) * PAGE)
    (folder / INDEX).write_bytes(numbers.tobytes())


async def flatten(layer: Path, base: Path, target: Path) -> None:
    """Write all that differs between a layer and `base`, which it builds on, to one file.

    The file does not say what it builds on: `put_on` does.
    """
    below = backing_of(layers_above(layer, base)[-1])  # as the chain calls it, for qemu-img to know it
    create_overlay(target, layer)
    await image_tool("rebase", "-f", "qcow2", "-F", "qcow2", "-b", str(below), str(target))
    await image_tool("rebase", "-u", "-f", "qcow2", "-b", "", str(target))


async def put_on(layer: Path, base: Path) -> None:
    """Let a file of `flatten`, of whatever origin, build on `base`.

    Raises:
        Permanent: it is no such file, or not for such a disk.
    """
    if require_alone(layer).size != header(base).size:
        raise Permanent(f"{layer.name} is for a disk of another size than {base}.")
    await image_tool("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(layer))


def require_pages(folder: Path, memory: int) -> None:
    """Raise `Permanent` unless the pages in a folder of whatever origin are those of such a memory."""
    index = (folder / INDEX).stat().st_size
    if index % _NUMBER == 0 and (folder / PAGES).stat().st_size == index // _NUMBER * PAGE:
        numbers = array.array("Q", (folder / INDEX).read_bytes())
        rising = all(one < other for one, other in itertools.pairwise(numbers))
        if rising and (not numbers or numbers[-1] < memory // PAGE):
            return
    raise Permanent(f"{INDEX} and {PAGES} are not those of a machine with {memory >> 20} MiB of memory.")
