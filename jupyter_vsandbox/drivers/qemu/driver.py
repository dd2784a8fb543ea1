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
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import NotFound
from jupyter_vsandbox.domain.model import Endpoint, Usage
from jupyter_vsandbox.drivers.base import Capabilities
from jupyter_vsandbox.drivers.qemu import accel, template
from jupyter_vsandbox.drivers.qemu.checks import checks
from jupyter_vsandbox.drivers.qemu.command import Command
from jupyter_vsandbox.drivers.qemu.disk import create_overlay, size
from jupyter_vsandbox.drivers.qemu.process import Qemu
from jupyter_vsandbox.files import write_private
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    from jupyter_vsandbox.domain.checks import Check
    from jupyter_vsandbox.domain.model import Accelerator, Image, LinkKeys, Shape
    from jupyter_vsandbox.drivers.base import Template, Warm
    from jupyter_vsandbox.settings import Settings

_DISK = "disk.qcow2"
_CONSOLE = "console.log"
_KEYS = "keys.json"


class QemuDriver:
    """Runs machines with the QEMU of this host. Implements `Driver`; see there for the promises."""

    name = "qemu"
    capabilities = Capabilities(memory_clones=True)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def checks(self) -> list[Check]:
        """See `Driver`."""
        return await checks(self._settings)

    async def accelerator(self) -> Accelerator:
        """See `Driver`."""
        return await accel.probe(self._settings)

    async def template(self, image: Image, shape: Shape, keys: LinkKeys, warm: Warm) -> Template:
        """See `Driver`."""
        accelerator = await accel.probe(self._settings, Path(image.folder) / "vmlinuz")
        version = await asyncio.to_thread(accel.qemu_version)
        command = self._command(Path(image.folder), image.append, shape, accelerator.name, Path())
        folder = private_folder(self._settings.templates) / template.template_id(image, command, version)
        if (ready := template.load(folder)) is not None:
            return ready
        sockets = private_folder(self._settings.sockets / f"t{os.getpid()}")
        try:
            return await template.ensure(folder, sockets, image, command, keys, warm)
        finally:
            with contextlib.suppress(OSError):
                sockets.rmdir()

    async def start(self, machine_id: str, source: Template) -> Endpoint:
        """See `Driver`."""
        origin = self._settings.templates / source.id
        try:
            folder = private_folder(self._settings.sandboxes) / machine_id
            folder.mkdir(mode=0o700)
            await create_overlay(folder / _DISK, origin / template.DISK)
            write_private(folder / _KEYS, "{}")
            command = replace(
                self._command(origin, source.append, source.shape, source.accelerator, folder),
                kernel=origin / template.KERNEL,
                initrd=origin / template.INITRD,
                ram=origin / template.RAM,
                resume=True,
            )
            return await self._launch(machine_id, command, origin / template.STATE)
        except BaseException:
            await self.delete(machine_id)
            raise

    async def boot(self, machine_id: str, image: Image, shape: Shape, keys: LinkKeys) -> Endpoint:
        """See `Driver`."""
        folder = self._folder(machine_id)
        if not (folder / _DISK).exists():
            raise NotFound(f"Sandbox {machine_id} has no disk any more; start a new one.")
        accelerator = await accel.probe(self._settings, Path(image.folder) / "vmlinuz")
        (folder / _KEYS).unlink(missing_ok=True)
        write_private(folder / _KEYS, json.dumps(asdict(keys)))
        try:
            command = self._command(Path(image.folder), image.append, shape, accelerator.name, folder)
            return await self._launch(machine_id, command)
        except BaseException:
            await self.stop(machine_id, grace=0)
            raise

    async def stop(self, machine_id: str, grace: float) -> None:
        """See `Driver`."""
        qemu = self._qemu(machine_id)
        process = qemu.process
        if process is not None and grace > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await process.wait()
        await qemu.end()
        shutil.rmtree(self._settings.sockets / machine_id, ignore_errors=True)

    async def delete(self, machine_id: str) -> None:
        """See `Driver`."""
        await self.stop(machine_id, grace=0)
        # Not in a thread: those are gone already when a process ends, and then it matters most.
        shutil.rmtree(self._folder(machine_id), ignore_errors=True)

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
        disk = size(qemu.folder / _DISK)
        process = qemu.process
        if process is None or not process.alive():
            return Usage(memory=0, disk=disk, cpu=0.0)
        return Usage(memory=_private_memory(process.pid), disk=disk, cpu=_cpu_seconds(process.pid))

    def machines(self) -> set[str]:
        """See `Driver`."""
        with contextlib.suppress(FileNotFoundError):
            return {entry.name for entry in self._settings.sandboxes.iterdir()}
        return set()

    def remove_templates(self, image_id: str) -> None:
        """See `Driver`."""
        with contextlib.suppress(FileNotFoundError):
            for folder in self._settings.templates.iterdir():
                found = template.load(folder)
                if found is not None and found.image == image_id:
                    shutil.rmtree(folder)

    def _folder(self, machine_id: str) -> Path:
        return self._settings.sandboxes / machine_id

    def _qemu(self, machine_id: str) -> Qemu:
        return Qemu(self._folder(machine_id), self._settings.sockets / machine_id / "qmp")

    def _command(self, image: Path, append: str, shape: Shape, accelerator: str, folder: Path) -> Command:
        return Command(
            binary=accel.qemu_binary(),
            accelerator=accelerator,
            translation_cache=self._settings.translation_cache,
            shape=shape,
            kernel=image / "vmlinuz",
            initrd=image / "initrd.img",
            append=append,
            disk=folder / _DISK,
            keys=folder / _KEYS,
            console=folder / _CONSOLE,
        )

    async def _launch(self, machine_id: str, command: Command, state: Path | None = None) -> Endpoint:
        private_folder(self._settings.sockets / machine_id)
        port = await self._qemu(machine_id).launch(command.argv(), state)
        return Endpoint("127.0.0.1", port)


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
