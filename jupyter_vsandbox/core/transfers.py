"""Sandboxes that go to other hosts in archives, and those that come from there.

The driver writes files that need nothing of this host but the image's disk, and makes a snapshot of
such files; `archive` is what they travel in. An image is named by what it was made of, and two
hosts that build one recipe get different disks: so an archive says which disk it is for, by its
checksum, unless it brings the whole image with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import time
import uuid
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox.core import archive, owner
from jupyter_vsandbox.core.manifest import CELLS, IMAGE, MACHINE, Content
from jupyter_vsandbox.domain.errors import Exhausted, NotFound, Permanent, Unsupported
from jupyter_vsandbox.domain.model import MIB, Cause, Sandbox, Snapshot, State
from jupyter_vsandbox.files import sample
from jupyter_vsandbox.runtimes import build
from jupyter_vsandbox.settings import private_folder
from jupyter_vsandbox.work import Work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from jupyter_vsandbox.core.archive import Archive
    from jupyter_vsandbox.core.inventories import Point
    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.domain.model import Image
    from jupyter_vsandbox.drivers.base import Driver
    from jupyter_vsandbox.runtimes.build import Progress
    from jupyter_vsandbox.settings import Settings

_DISK = "disk.qcow2"
_PRESENT = "exported"
_RESERVE = 256 * MIB
_SAMPLE_PIECES = 128


@dataclass(frozen=True)
class Options:
    """What of a sandbox to export, and when.

    Attributes:
        memory: the memory, where there is one, as well as the disk.
        whole: the image as well, so that the other host need not have it.
        now: do not wait for the running cell to end.
    """

    memory: bool = True
    whole: bool = False
    now: bool = False


@dataclass(frozen=True)
class Estimate:
    """How large an archive will be.

    Attributes:
        size: bytes that go into it, at most.
        archive: about how many bytes the archive will have.
    """

    size: int
    archive: int


@dataclass(frozen=True)
class Exported:
    """What an export came to.

    Attributes:
        path: the archive.
        size: its size, bytes.
        content: what is in it.
    """

    path: Path
    size: int
    content: Content


async def estimate(service: SandboxService, point: Point, options: Options) -> Estimate:
    """Tell how large an archive would be; nothing is written.

    Raises:
        InvalidState: the sandbox is just being started or stopped.
        Unsupported: its memory cannot be exported; its disk can.
    """
    _require_exports(service, point)
    async with _snapshot(service, point, options) as snapshot:
        return await _measure(service, point.sandbox, snapshot, options)


async def export(
    service: SandboxService,
    point: Point,
    target: Path,
    options: Options,
    estimated: Callable[[Estimate], None],
    progress: Progress,
) -> Exported:
    """Write a sandbox, as it is or was at a snapshot, to a new file.

    A sandbox that runs is disturbed by no more than a snapshot: cells go on after it. The archive
    holds keys and all that the machine knows, and only its owner may read it. Failed or cancelled, it
    leaves nothing.

    Args:
        service: of the sandbox.
        point: which moment.
        target: the archive; there is no such file yet.
        options: what of it.
        estimated: told how large the archive will be, before it is begun.
        progress: told how it goes on.

    Raises:
        Conflict: `target` is there already.
        NotFound: its folder is not there, or the snapshot is gone.
        Exhausted: not enough disk.
        Unsupported: its memory cannot be exported; its disk can.
    """
    archive.require_free(target)
    _require_exports(service, point)
    await service.reconcile()
    image = build.get(point.sandbox.image, service.settings)
    meter = _Meter(progress)
    work = Work(meter.told)
    with _staging(service.settings) as folder:
        async with _snapshot(service, point, options) as snapshot:
            expected = await _measure(service, point.sandbox, snapshot, options)
            estimated(expected)
            _require_space(folder, expected.size)
            memory = options.memory and snapshot.memory
            meter.part(0.2, expected.size, f"Collecting {point}")
            needs = await _stage(service, snapshot, image, folder, work, memory=memory)
        meter.part(0.3, image.size, f"Reading image {image.id}")
        content = await _describe(point, snapshot, image, needs, work)
        sources = {
            str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()
        }
        if options.whole:
            sources |= {f"{IMAGE}/{name}": path for name, path in build.parts(image).items()}
        total = sum(each.stat().st_size for each in sources.values())
        meter.part(1.0, archive.PASSES * total, f"Writing {target.name}")
        size = await work.run(lambda: archive.write(target, content, sources, work))
    return Exported(target, size, content)


def _require_exports(service: SandboxService, point: Point) -> None:
    """Refuse what cannot be, before there is a snapshot for it."""
    if why := service.driver(point.sandbox.driver).capabilities.not_exported:
        raise Unsupported(why)


async def import_(
    service: SandboxService, path: Path, progress: Progress, name: str = "", *, memory: bool = True
) -> Sandbox:
    """Make a new sandbox of an archive.

    It has one snapshot, and is hibernated at it; of a disk alone, it is stopped. An archive can come
    from anybody: it is checked in full before anything is kept of it. Yet its memory is loaded by
    QEMU itself, which trusts that, so take only the disk of those whom you do not trust.

    Args:
        service: to belong to.
        path: the archive.
        progress: told how it goes on.
        name: for the sandbox.
        memory: take the memory as well, where there is one.

    Raises:
        NotFound: there is no such file, or no such driver here.
        Permanent: the archive is damaged, or is none.
        Unsupported: the image here has another disk, or the memory cannot be loaded here; the
            message says what can be done.
        Exhausted: not enough disk.
    """
    settings = service.settings
    await service.reconcile()
    meter = _Meter(progress)
    work = Work(meter.told)
    meter.part(0.2, archive.length(path), f"Checking {path.name}")
    found = await work.run(lambda: archive.load(path, work))
    content = found.content
    driver = service.driver(content.driver)
    meter.part(0.4, content.disk_size, "Looking for its image")
    image = await work.run(lambda: _image_of(content, settings, work))
    if image is None and not found.whole:
        raise _other_image(content, settings)
    memory = memory and content.memory
    if memory:
        await driver.check_import(content.needs, content.shape)
    wanted = {name for name in found.names if not name.startswith(f"{IMAGE}/") or image is None}
    needed = sum(member.size for member in found.members if member.name in wanted)
    meter.part(1.0, sum(member.size for member in found.members), f"Unpacking {path.name}")
    with _staging(settings) as folder:
        _require_space(folder, needed)
        await work.run(lambda: archive.extract(found, folder, wanted, work))
        known = {each.id for each in build.images(settings)}
        images = [] if image is None else [image]
        try:
            if not images:
                await work.run(lambda: images.append(_adopt(found, folder / IMAGE, settings)))
            return await _settle(service, driver, content, images[0], folder, name, memory=memory)
        except BaseException:
            for image in images:
                if image.id not in known:
                    build.remove(image.id, settings)
            raise


# The parts of an export.


@asynccontextmanager
async def _snapshot(service: SandboxService, point: Point, options: Options) -> AsyncIterator[Snapshot]:
    which = point.snapshot.id if point.snapshot is not None else ""
    async with service.pinned(point.sandbox.id, which, memory=options.memory, now=options.now) as snapshot:
        yield snapshot


async def _measure(
    service: SandboxService, sandbox: Sandbox, snapshot: Snapshot, options: Options
) -> Estimate:
    image = build.get(sandbox.image, service.settings)
    driver = service.driver(sandbox.driver)
    extent = await driver.measure(snapshot.id, image, memory=options.memory and snapshot.memory)
    size, about = extent.size, archive.compressed_size(extent.size, extent.sample)
    if options.whole:
        some = await asyncio.to_thread(sample, Path(image.folder) / _DISK, _SAMPLE_PIECES)
        size, about = size + image.size, about + archive.compressed_size(image.size, some)
    return Estimate(size, about)


async def _stage(
    service: SandboxService, snapshot: Snapshot, image: Image, folder: Path, work: Work, *, memory: bool
) -> Mapping[str, str]:
    """Collect the files of a snapshot; returns what its memory needs."""
    (folder / MACHINE).mkdir(mode=0o700)
    if snapshot.cells:
        shutil.copyfile(service.cells_of(snapshot.id), folder / CELLS)
    driver = service.driver(service.get(snapshot.sandbox).driver)
    return await driver.export_snapshot(snapshot.id, image, folder / MACHINE, work, memory=memory)


async def _describe(
    point: Point, snapshot: Snapshot, image: Image, needs: Mapping[str, str], work: Work
) -> Content:
    disk = Path(image.folder) / _DISK
    return Content(
        driver=point.sandbox.driver,
        runtime=point.sandbox.runtime,
        image=image.id,
        disk=await work.run(lambda: _checksum(disk, work)),
        disk_size=disk.stat().st_size,
        shape=point.sandbox.shape,
        machine=snapshot.machine,
        name=point.snapshot.name if point.snapshot is not None else _PRESENT,
        note=snapshot.note,
        created=snapshot.created,
        pause=snapshot.pause,
        keys=snapshot.keys if needs else None,
        needs=needs,
    )


# The parts of an import.


def _image_of(content: Content, settings: Settings, work: Work) -> Image | None:
    """The image whose disk an archive is for."""
    alike = [image for image in build.images(settings) if image.runtime == content.runtime]
    for image in sorted(alike, key=lambda image: image.id != content.image):
        disk = Path(image.folder) / _DISK
        if disk.stat().st_size == content.disk_size and _checksum(disk, work) == content.disk:
            return image
    return None


def _adopt(found: Archive, folder: Path, settings: Settings) -> Image:
    """Make an image of what came in an archive."""
    brought = [member for member in found.members if member.name.startswith(f"{IMAGE}/")]
    sums = {member.name.partition("/")[2]: member.sha256 for member in brought}
    if sums.get(_DISK) != found.content.disk:
        raise Permanent(f"{found.path}: the image in it is not the one that its sandbox needs.")
    return build.adopt(folder, sums, settings)


def _other_image(content: Content, settings: Settings) -> Unsupported:
    try:
        build.get(content.image, settings)
    except NotFound:
        why = "which is not here"
    else:
        why = "and the one that was built here from the same recipe has another disk"
    return Unsupported(
        f"This archive needs image {content.image}, {why}. Nothing was imported. "
        "Export it again with --whole: then the image comes with it."
    )


async def _settle(
    service: SandboxService,
    driver: Driver,
    content: Content,
    image: Image,
    folder: Path,
    name: str,
    *,
    memory: bool,
) -> Sandbox:
    """Turn the files of an archive into a sandbox."""
    snapshot_id, sandbox_id = uuid.uuid4().hex[:12], uuid.uuid4().hex[:12]
    cells = folder / CELLS

    async def arrive() -> tuple[Sandbox, Snapshot]:
        saved = await driver.import_snapshot(
            snapshot_id, image, content.shape, folder / MACHINE, memory=memory
        )
        if has_cells := cells.is_file():
            private_folder(service.cells_of(snapshot_id).parent)
            shutil.move(cells, service.cells_of(snapshot_id))
        begin = Snapshot(
            id=snapshot_id,
            sandbox=sandbox_id,
            machine=content.machine,
            parent="",
            name=content.name,
            note=content.note,
            cause=Cause.ASKED,  # whatever it was there: here, it goes only when somebody says so
            created=content.created,
            memory=memory,
            cells=has_cells,
            size=saved.size,
            pause=content.pause,
            keys=content.keys if memory else None,
        )
        sandbox = Sandbox(
            id=sandbox_id,
            runtime=image.runtime,
            image=image.id,
            driver=content.driver,
            state=State.RESTORING,
            shape=content.shape,
            created=time.time(),
            name=name,
            snapshot=snapshot_id,
        )
        return sandbox, begin

    try:
        return await service.take_in(sandbox_id, arrive)
    except BaseException:
        service.cells_of(snapshot_id).unlink(missing_ok=True)
        await driver.forget([snapshot_id])
        raise


# What both share.


class _Meter:
    """Tells a `Progress` how many bytes are dealt with, one part of the work after the other."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._message = ""
        self._low = self._high = 0.0
        self._done = self._total = 0

    def part(self, share: float, total: int, message: str) -> None:
        """Begin a part: `share` of the whole is done when it has dealt with `total` bytes."""
        self._low, self._high = self._high, share
        self._done, self._total, self._message = 0, total, message
        self.told(0)

    def told(self, count: int) -> None:
        """So many more bytes are dealt with."""
        self._done += count
        part = min(self._done / self._total, 1.0) if self._total else 0.0
        self._progress("archive", self._low + (self._high - self._low) * part, self._message)


@contextmanager
def _staging(settings: Settings) -> Iterator[Path]:
    """A private folder for the length of a block."""
    folder = private_folder(settings.archives) / f"{owner.this_process()}:{uuid.uuid4().hex[:8]}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _require_space(folder: Path, size: int) -> None:
    free = os.statvfs(folder)
    if free.f_bavail * free.f_frsize < size + _RESERVE:
        raise Exhausted(
            f"Only {free.f_bavail * free.f_frsize // MIB} MiB are free in {folder.parent}, and "
            f"{(size + _RESERVE) // MIB} MiB are needed for a while. Free some, or set "
            "JUPYTER_VSANDBOX_HOME to a larger disk."
        )


def _checksum(path: Path, work: Work) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(MIB):
            digest.update(data)
            work.step(len(data))
    return digest.hexdigest()
