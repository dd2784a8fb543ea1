"""What a machine goes on in at a snapshot: a process that is launched, and filled, before it takes its place.

It has a folder within that of the machine, where whoever mends finds and ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox import faults
from jupyter_vsandbox.domain.errors import NotFound, Unsupported
from jupyter_vsandbox.domain.model import Endpoint
from jupyter_vsandbox.drivers.qemu import template
from jupyter_vsandbox.drivers.qemu.machines import DISK, KEYS, ORIGIN, PAUSED, WHOLE, Machines, Origin
from jupyter_vsandbox.drivers.qemu.memory import copy_with, put_back
from jupyter_vsandbox.drivers.qemu.points import STATE
from jupyter_vsandbox.drivers.qemu.process import Qemu
from jupyter_vsandbox.files import exhausted_if_full, write_private
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    from jupyter_vsandbox.drivers.qemu.points import Point

_NEXT = "next-"


class Resuming(Machines):
    """The part of the driver that puts machines to snapshots, and ends what does not go on."""

    def paused(self, machine_id: str) -> bool:
        """See `Driver`."""
        return (self._folder(machine_id) / PAUSED).exists() or bool(self._nexts(machine_id))

    async def stop(self, machine_id: str, grace: float) -> None:
        """See `Driver`."""
        qemu = self._qemu(machine_id)
        process = qemu.process
        if process is not None and grace > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await process.wait()
        await qemu.end()
        await self._end_next(machine_id)
        shutil.rmtree(self._settings.sockets / machine_id, ignore_errors=True)

    async def _rest_at(self, machine_id: str, point: Point) -> None:
        """Put the disk of a machine, which does not run then, to a snapshot."""
        await asyncio.to_thread(self._points.verify, point, memory=False)
        folder = self._folder(machine_id)
        await self.stop(machine_id, grace=0)
        faults.point("restore.begun")
        layer = self._points.new_layer(self._points.layers / point.disk)
        faults.point("restore.layered")
        self._set_disk(folder, layer)
        faults.point("restore.linked")
        (folder / ORIGIN).unlink(missing_ok=True)

    async def _resume_at(self, machine_id: str, point: Point) -> Endpoint:
        """Let a machine go on at a snapshot, in the process that was launched for that, if there is one."""
        folder = self._folder(machine_id)
        qemu = self._qemu(machine_id)
        coming = next((each for each in self._nexts(machine_id) if self._is_at(each, point)), None)
        if coming is None:
            await self.stop(machine_id, grace=0)
            coming = await self._launch_next(machine_id, point)
        elif qemu.process is not None:
            qemu.process.kill()  # what it has, nobody waits for: that takes a while
        faults.point("restore.begun")
        port = await self._next_qemu(coming).load(self._points.path(point.id) / STATE)
        qemu.become(self._next_qemu(coming))
        (folder / PAUSED).unlink(missing_ok=True)
        (folder / KEYS).unlink(missing_ok=True)
        faults.point("restore.launched")
        (coming / DISK).replace(folder / DISK)
        faults.point("restore.linked")
        (coming / ORIGIN).replace(folder / ORIGIN)
        shutil.rmtree(coming)
        faults.point("restore.based")
        await self._flatten(qemu, (folder / DISK).resolve())
        return Endpoint("127.0.0.1", port)

    async def _launch_next(self, machine_id: str, point: Point) -> Path:
        """Launch what is to take a machine's place, with the memory of a snapshot, and its disk a new layer.

        It waits for the device state, and can be found in the folder that is returned.
        """
        verified = asyncio.create_task(asyncio.to_thread(self._points.verify, point, memory=True))
        verified.add_done_callback(lambda task: task.cancelled() or task.exception())
        source = self._template(point.template)
        if source is None:
            raise NotFound(f"The template of snapshot {point.id} is gone.")
        origin = self._settings.templates / source.id
        layers = [self._points.path(each.id) for each in self._points.chain(point.id)]
        await self._end_next(machine_id)
        folder = self._new_next(machine_id)
        qemu = self._next_qemu(folder)

        async def fill(pid: int) -> None:
            filling = asyncio.to_thread(put_back, pid, origin / template.RAM, layers)
            [error] = await asyncio.gather(filling, return_exceptions=True)
            await verified  # first: what is damaged fails in any way
            if isinstance(error, OSError):
                raise Unsupported(str(error)) from error
            if error is not None:
                raise error
            faults.point("restore.filled")

        try:
            with exhausted_if_full(folder):
                write_private(folder / KEYS, "{}")
                layer = self._points.new_layer(self._points.layers / point.disk)
                faults.point("restore.layered")
                self._set_disk(folder, layer)
                command = self._clone(source, folder)
                try:
                    await qemu.launch(command.argv(), prepare=fill)
                except Unsupported:
                    await verified
                    own = folder / WHOLE
                    await asyncio.to_thread(copy_with, origin / template.RAM, layers, own)
                    await qemu.launch(replace(command, ram=own).argv())
                    own.unlink()  # its memory for as long as it runs
                self._set_origin(folder, Origin(source.id, point.id))
                faults.point("restore.waiting")
        except BaseException:
            await self._end_next(machine_id)
            raise
        return folder

    def _is_at(self, folder: Path, point: Point) -> bool:
        return self._origin(folder) == Origin(point.template, point.id) and self._next_qemu(folder).alive()

    def _nexts(self, machine_id: str) -> list[Path]:
        return list(self._folder(machine_id).glob(f"{_NEXT}*"))

    def _new_next(self, machine_id: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=_NEXT, dir=self._folder(machine_id)))

    def _next_qemu(self, folder: Path) -> Qemu:
        sockets = private_folder(self._settings.sockets / folder.parent.name)
        return Qemu(folder, sockets / folder.name.removeprefix(_NEXT))

    async def _end_next(self, machine_id: str) -> None:
        """End what was to take a machine's place, and remove all that it has. Harmless if there is none."""
        for folder in self._nexts(machine_id):
            await self._next_qemu(folder).end()
            layer = (folder / DISK).resolve()
            shutil.rmtree(folder, ignore_errors=True)
            if layer.parent == self._points.layers:
                layer.unlink(missing_ok=True)
