"""The QEMU driver: every verb of the contract, on this host.

A start maps the template's memory file copy-on-write, resumes from its device state and puts an
empty overlay on its disk, so nothing is copied.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import time
import uuid
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox import faults
from jupyter_vsandbox.domain.advice import Advice
from jupyter_vsandbox.domain.errors import InvalidState, NotFound, Permanent, Transient, Unsupported
from jupyter_vsandbox.domain.model import Endpoint, Usage
from jupyter_vsandbox.drivers.base import Capabilities, Saved
from jupyter_vsandbox.drivers.qemu import accel, fitting, portable, template
from jupyter_vsandbox.drivers.qemu.checks import checks
from jupyter_vsandbox.drivers.qemu.command import disk_node
from jupyter_vsandbox.drivers.qemu.disk import require_room, size
from jupyter_vsandbox.drivers.qemu.machines import DISK, KEYS, PAUSED, WHOLE, Origin
from jupyter_vsandbox.drivers.qemu.memory import capture, differing, prepare
from jupyter_vsandbox.drivers.qemu.points import MAX_DEPTH, STATE, Point, checksums
from jupyter_vsandbox.drivers.qemu.resuming import Resuming
from jupyter_vsandbox.files import exhausted_if_full, new_folder, write_private
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from jupyter_vsandbox.domain.checks import Check
    from jupyter_vsandbox.domain.model import Accelerator, Image, LinkKeys, Shape
    from jupyter_vsandbox.domain.pool import Pool
    from jupyter_vsandbox.drivers.base import Extent, MakeDisk, Progress, Template, Warm
    from jupyter_vsandbox.drivers.qemu.memory import Pages
    from jupyter_vsandbox.work import Work

_MAKING = "t"  # of the socket folders of those who make a template


class QemuDriver(Resuming):
    """Runs machines with the QEMU of this host. Implements `Driver`; see there for the promises."""

    name = "qemu"
    capabilities = Capabilities(
        memory_clones=True, memory_snapshots=True, on_this_host=True, memory_anywhere=True
    )

    advice = Advice()

    async def connect(self) -> None:
        """See `Driver`; all that there is, is on this host."""

    async def checks(self) -> list[Check]:
        """See `Driver`."""
        return await checks(self._settings)

    async def pools(self) -> list[Pool]:
        """See `Driver`; there is none but this host."""
        return []

    async def accelerator(self) -> Accelerator:
        """See `Driver`."""
        return await accel.probe(self._settings)

    async def publish(self, image: Image, make_disk: MakeDisk, progress: Progress) -> bool:
        """See `Driver`; images are built where this driver has them."""
        return False

    async def template(self, image: Image, shape: Shape, keys: LinkKeys, warm: Warm) -> Template:
        """See `Driver`."""
        accelerator = await accel.probe(self._settings, Path(image.folder) / "vmlinuz")
        version = await asyncio.to_thread(accel.qemu_version)
        command = self._command(Path(image.folder), image.append, shape, accelerator.name, Path())
        folder = private_folder(self._settings.templates) / template.template_id(image, command, version)
        if (ready := template.load(folder)) is not None:
            return ready
        sockets = private_folder(self._settings.sockets / f"{_MAKING}{os.getpid()}")
        try:
            return await template.ensure(folder, sockets, image, command, keys, warm)
        finally:
            with contextlib.suppress(OSError):
                sockets.rmdir()

    async def start(self, machine_id: str, source: Template) -> Endpoint:
        """See `Driver`."""
        origin = self._settings.templates / source.id
        folder = private_folder(self._settings.sandboxes) / machine_id
        try:
            with exhausted_if_full(folder.parent):
                folder.mkdir(mode=0o700)
                write_private(folder / KEYS, "{}")
                faults.point("create.folder")
                layer = self._points.new_layer(origin / template.DISK)
                faults.point("create.layered")
                self._set_disk(folder, layer)
                self._set_origin(folder, Origin(source.id, ""))
                faults.point("create.linked")
                return await self._launch(machine_id, self._clone(source, folder), origin / template.STATE)
        except BaseException:
            await self.delete(machine_id)
            raise

    async def fork(self, machine_id: str, source_id: str) -> Endpoint:
        """See `Driver`."""
        raise Unsupported("Memory is forked from a snapshot.")

    async def mac(self, machine_id: str) -> str:
        """See `Driver`; each machine is alone in its network."""
        return ""

    async def boot(self, machine_id: str, image: Image, shape: Shape, keys: LinkKeys) -> Endpoint:
        """See `Driver`."""
        folder = self._folder(machine_id)
        if not (folder / DISK).exists():
            raise NotFound(f"Sandbox {machine_id} has no disk any more; start a new one.")
        accelerator = await accel.probe(self._settings, Path(image.folder) / "vmlinuz")
        require_room(folder)
        try:
            with exhausted_if_full(folder):
                (folder / KEYS).unlink(missing_ok=True)
                write_private(folder / KEYS, json.dumps(asdict(keys)))
                faults.point("start.keyed")
                command = self._command(Path(image.folder), image.append, shape, accelerator.name, folder)
                blank = await self._blank(image, command)
                self._set_origin(folder, Origin(blank.id, ""))
                faults.point("start.based")
                ram = self._settings.templates / blank.id / template.RAM
                command = replace(command, disk=(folder / DISK).resolve(), ram=ram)
                return await self._launch(machine_id, command)
        except BaseException:
            await self.stop(machine_id, grace=0)
            raise

    async def snapshot(
        self, machine_id: str, snapshot_id: str, *, memory: bool, resume: bool = True
    ) -> Saved:
        """See `Driver`."""
        qemu = self._qemu(machine_id)
        process = qemu.process if qemu.alive() else None
        folder = self._folder(machine_id)
        origin = self._origin(folder)
        if memory and (process is None or origin is None):
            raise InvalidState(f"Sandbox {machine_id}", "not running", {"running"})
        source = self._template(origin.template) if memory and origin is not None else None
        if memory and source is None:
            raise Unsupported(f"The template of sandbox {machine_id} is gone: only its disk can be kept.")
        layer = (folder / DISK).resolve()
        above = self._points.new_layer(layer)
        faults.point("snapshot.layered")
        pause = 0.0
        pages: Pages | None = None
        snapshots = private_folder(self._settings.snapshots)
        try:
            with (
                exhausted_if_full(snapshots),
                new_folder(snapshots / snapshot_id) as draft,
                exhausted_if_full(snapshots),
            ):
                faults.point("snapshot.drafted")
                if process is None:
                    self._set_disk(folder, above)
                    faults.point("snapshot.linked")
                else:
                    ram = self._settings.templates / origin.template / template.RAM if origin else Path()
                    room = None
                    with contextlib.suppress(OSError):
                        room = await asyncio.to_thread(prepare, process.pid, ram) if memory else None
                    async with qemu.monitor() as execute:
                        # A disk that is being flattened takes no layer. What comes too fast for that waits.
                        await execute.end_flatten(complete=len(self._points.below(layer)) > 2 * MAX_DEPTH)
                        name = f"layer-{above.stem}"
                        await execute("blockdev-add", **disk_node(name, above) | {"backing": None})
                        faults.point("snapshot.attached")
                        top = await execute.top_node()
                        (folder / PAUSED).touch()
                        begin = time.perf_counter()
                        await execute("stop")
                        try:
                            faults.point("snapshot.paused")
                            if memory:
                                await execute.save_devices(draft / STATE)
                                faults.point("snapshot.devices")
                                with contextlib.suppress(OSError):
                                    if room is not None:
                                        pages = await asyncio.to_thread(capture, process.pid, ram, room)
                                faults.point("snapshot.captured")
                                if pages is None:
                                    await execute.save_memory(draft / WHOLE, ram.stat().st_size)
                            await execute("blockdev-snapshot", node=top, overlay=name)
                            faults.point("snapshot.switched")
                            self._set_disk(folder, above)
                            faults.point("snapshot.linked")
                        finally:
                            if resume:
                                await execute("cont")
                                faults.point("snapshot.resumed")
                                (folder / PAUSED).unlink()
                        pause = time.perf_counter() - begin
                await asyncio.to_thread(self._keep, draft, snapshot_id, layer, origin, source, pages)
                faults.point("snapshot.kept")
            faults.point("snapshot.named")
        except BaseException:
            await self._go_on(machine_id)
            if (folder / DISK).resolve() != above:
                above.unlink(missing_ok=True)
            raise
        if memory and origin is not None:
            self._set_origin(folder, Origin(origin.template, snapshot_id))
        faults.point("snapshot.based")
        if resume and process is not None:
            await self._flatten(qemu, above)
        return Saved(self._points.size(snapshot_id), pause)

    def _keep(
        self,
        draft: Path,
        snapshot_id: str,
        layer: Path,
        origin: Origin | None,
        source: Template | None,
        pages: Pages | None,
    ) -> None:
        """Complete a snapshot's folder: of memory, if there is a `source`, only what the chain lacks."""
        point = Point(snapshot_id, layer.name)
        if origin is not None and source is not None:
            chain: list[Point] = []
            with contextlib.suppress(NotFound, Permanent):  # damaged, it is not built on
                chain = self._points.chain(origin.base)
            base = origin.base
            if len(chain) >= MAX_DEPTH or not self._points.pages_whole(chain):
                chain = []
            if not chain:
                base = ""
            layers = [self._points.path(each.id) for each in chain]
            if pages is None:
                pages = differing(
                    draft / WHOLE, self._settings.templates / origin.template / template.RAM, layers
                )
                (draft / WHOLE).unlink()
            pages.without(layers).write(draft)
            point = Point(snapshot_id, layer.name, True, origin.template, base, self._facts(source))
        sums = checksums(draft, layer, memory=source is not None)
        self._points.write(draft, replace(point, checksums=sums, below=self._points.sums_below(layer)))

    async def restore(
        self, machine_id: str, snapshot_id: str, *, memory: bool = True, take: bool = False
    ) -> Endpoint | None:
        """See `Driver`."""
        point = self._points.get(snapshot_id)
        if memory:
            await self._check_loadable(point)
        folder = private_folder(self._settings.sandboxes) / machine_id
        fresh = not folder.exists()
        try:
            with exhausted_if_full(folder.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
                before = (folder / DISK).resolve()
                endpoint = await (self._resume_at if memory else self._rest_at)(machine_id, point)
                if before.parent == self._points.layers and before != (folder / DISK).resolve():
                    before.unlink(missing_ok=True)
                faults.point("restore.tidied")
        except BaseException:
            await self._end_next(machine_id)
            if fresh:
                await self.delete(machine_id)
            raise
        return endpoint

    async def check_snapshot(
        self, machine_id: str, snapshot_id: str, *, memory: bool, take: bool = False, ahead: bool = False
    ) -> None:
        """See `Driver`."""
        point = self._points.get(snapshot_id)
        if memory:
            await self._check_loadable(point)
        if memory and ahead:
            await self._launch_next(machine_id, point)
        else:
            await asyncio.to_thread(self._points.verify, point, memory=memory)

    async def measure(self, snapshot_id: str, image: Image, *, memory: bool) -> Extent:
        """See `Driver`."""
        point, ram = await self._portable(snapshot_id, memory=memory)
        base = Path(image.folder) / template.DISK
        return await asyncio.to_thread(portable.measure, self._points, point, ram, base)

    async def export_snapshot(
        self, snapshot_id: str, image: Image, folder: Path, work: Work, *, memory: bool
    ) -> Mapping[str, str]:
        """See `Driver`."""
        point, ram = await self._portable(snapshot_id, memory=memory)
        await work.run(lambda: self._points.verify(point, memory=memory))
        await portable.write(self._points, point, ram, Path(image.folder) / template.DISK, folder, work)
        source = self._template(point.template)
        return {} if ram is None or source is None else fitting.machine(self._clone(source, Path()))

    async def _portable(self, snapshot_id: str, *, memory: bool) -> tuple[Point, Path | None]:
        """A snapshot, and the memory of its template where its own is wanted."""
        point = self._points.get(snapshot_id)
        if not memory:
            return point, None
        await self._check_loadable(point)
        return point, self._settings.templates / point.template / template.RAM

    async def check_import(self, needs: Mapping[str, str], shape: Shape) -> None:
        """See `Driver`."""
        accelerator = await accel.probe(self._settings)
        here = self._command(Path(), "", shape, accelerator.name, Path())
        fitting.require("the archive", needs, fitting.machine(here))

    async def import_snapshot(
        self, snapshot_id: str, image: Image, shape: Shape, folder: Path, *, memory: bool
    ) -> Saved:
        """See `Driver`."""
        point = Point(snapshot_id, f"{uuid.uuid4().hex[:16]}.qcow2")
        if memory:
            accelerator = await accel.probe(self._settings)
            command = self._command(Path(image.folder), image.append, shape, accelerator.name, folder)
            blank = await self._blank(image, command)
            point = replace(point, memory=True, template=blank.id, machine=self._facts(blank))
        await portable.take(self._points, point, shape, Path(image.folder) / template.DISK, folder)
        return Saved(self._points.size(snapshot_id), 0.0)

    async def resume(self, machine_id: str) -> None:
        """See `Driver`."""
        await self._end_next(machine_id)
        await self._go_on(machine_id)

    async def _go_on(self, machine_id: str) -> None:
        folder = self._folder(machine_id)
        qemu = self._qemu(machine_id)
        if not (folder / PAUSED).exists():
            if await self.stalled(machine_id):
                async with qemu.monitor() as execute:
                    await execute("cont")
            return
        if qemu.alive():
            async with qemu.monitor() as execute:
                # Whether or not the snapshot came so far: what the machine writes to is its disk.
                self._set_disk(folder, Path(await execute.top_file()))
                await execute("cont")
        (folder / PAUSED).unlink(missing_ok=True)

    async def stalled(self, machine_id: str) -> str:
        """See `Driver`."""
        qemu = self._qemu(machine_id)
        if not qemu.alive():
            return ""
        try:
            async with qemu.monitor() as execute:
                status = (await execute("query-status"))["status"]
        except Transient:  # it is about to end, or busy
            return ""
        # https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html#enum-run-state-RunState
        return f"the disk of {self._points.layers} is full" if status == "io-error" else ""

    async def forget(self, snapshot_ids: Collection[str]) -> None:
        """See `Driver`."""
        for snapshot_id in snapshot_ids:
            self._points.forget(snapshot_id)
        self._collect()

    def debris(self) -> Collection[str]:
        """See `Driver`."""
        return {str(path) for path in self._points.debris()}

    async def sweep(self, debris: Collection[str], snapshots: Collection[str]) -> None:
        """See `Driver`."""
        for name in template.drafts(self._settings.templates):
            await template.clear_abandoned(self._settings.templates / name)
        self._clear_sockets()
        self._collect(self._points.sweep({Path(each) for each in debris}, snapshots))

    def _clear_sockets(self) -> None:
        for folder in self._settings.sockets.glob(f"{_MAKING}*"):
            if not Path("/proc", folder.name.removeprefix(_MAKING)).exists():
                shutil.rmtree(folder, ignore_errors=True)

    def _collect(self, loose: Collection[Path] = ()) -> None:
        machines = self.machines()
        folders = [self._folder(each) for each in machines]
        folders += [folder for each in machines for folder in self._nexts(each)]
        # In this order: what a machine comes to build on meanwhile builds on what it builds on now.
        origins = [origin for folder in folders if (origin := self._origin(folder)) is not None]
        disks = ((folder / DISK).resolve() for folder in folders)
        self._points.collect((each.base for each in origins), disks, loose)

    async def delete(self, machine_id: str) -> None:
        """See `Driver`."""
        await self.stop(machine_id, grace=0)
        faults.point("delete.ended")
        # Not in a thread: those are gone already when a process ends, and then it matters most.
        folder = self._folder(machine_id)
        layers = self._points.layers_of((folder / DISK).resolve())
        origin = self._origin(folder)
        shutil.rmtree(folder, ignore_errors=True)
        faults.point("delete.folder")
        for layer in layers[:1]:
            layer.unlink(missing_ok=True)
        faults.point("delete.layer")
        if len(layers) > 1 or (origin is not None and origin.base):
            self._collect(layers[1:])  # a forgotten snapshot may have waited for this

    async def wait_exit(self, machine_id: str) -> str:
        """See `Driver`."""
        qemu = self._qemu(machine_id)
        process = qemu.process
        if process is not None:
            await process.wait()
        return qemu.last_words()

    def alive(self, machine_id: str) -> bool:
        """See `Driver`."""
        return self._qemu(machine_id).alive()

    def usage(self, machine_id: str) -> Usage:
        """See `Driver`."""
        qemu = self._qemu(machine_id)
        disk = size(qemu.folder / DISK)
        process = qemu.process
        if process is None or not process.alive():
            return Usage(memory=0, disk=disk, cpu=0.0)
        return Usage(memory=_private_memory(process.pid), disk=disk, cpu=_cpu_seconds(process.pid))

    async def remove_templates(self, image_id: str) -> None:
        """See `Driver`."""
        await asyncio.to_thread(self._remove_templates, image_id)

    def _remove_templates(self, image_id: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            for folder in self._settings.templates.iterdir():
                found = template.load(folder)
                if found is not None and found.image == image_id:
                    shutil.rmtree(folder)


def _private_memory(pid: int) -> int:
    """Bytes of memory that no other process shares, from proc(5) ``smaps_rollup``."""
    total = 0
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
        for line in file:
            if line.startswith(("Private_Dirty:", "Swap:")):
                total += int(line.split()[1]) * 1024
    return total


def _cpu_seconds(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
