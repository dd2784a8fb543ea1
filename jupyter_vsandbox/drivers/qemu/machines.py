"""What the QEMU driver keeps of each machine, and how one is launched.

A machine has a folder: a link to the layer of the disk that it writes to, and what its memory
builds on. Whether it runs, and where, its `Qemu` knows. A folder like that within it is of the process that
is to take its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import NotFound, Unsupported
from jupyter_vsandbox.domain.model import Endpoint
from jupyter_vsandbox.drivers.qemu import accel, fitting, template
from jupyter_vsandbox.drivers.qemu.command import Command
from jupyter_vsandbox.drivers.qemu.points import MAX_DEPTH, Point, Points
from jupyter_vsandbox.drivers.qemu.process import CONSOLE, Qemu
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    from jupyter_vsandbox.domain.model import Image, Shape
    from jupyter_vsandbox.drivers.base import Template
    from jupyter_vsandbox.settings import Settings

DISK = "disk.qcow2"
KEYS = "keys.json"
ORIGIN = "origin.json"
PAUSED = "paused"
WHOLE = "memory"


@dataclass(frozen=True)
class Origin:
    """What the memory of a running machine builds on.

    Attributes:
        template: whose memory it maps.
        base: the snapshot that it was last taken or restored from, "" for none.
    """

    template: str
    base: str


class Machines:
    """The part of the driver that knows where everything is."""

    def __init__(self, settings: Settings, pool: str = "") -> None:
        if pool:
            raise NotFound(f"The driver qemu has no pools, and so none called {pool!r}.")
        self._settings = settings
        self._points = Points(settings.snapshots, settings.layers)

    def machines(self) -> set[str]:
        """See `Driver`."""
        with contextlib.suppress(FileNotFoundError):
            return {entry.name for entry in self._settings.sandboxes.iterdir()}
        return set()

    def _folder(self, machine_id: str) -> Path:
        return self._settings.sandboxes / machine_id

    def _qemu(self, machine_id: str) -> Qemu:
        return Qemu(self._folder(machine_id), self._settings.sockets / machine_id / "qmp")

    def _clone(self, source: Template, folder: Path) -> Command:
        """The command line of a machine that resumes above the memory of a template."""
        origin = self._settings.templates / source.id
        return replace(
            self._command(origin, source.append, source.shape, source.accelerator, folder),
            kernel=origin / template.KERNEL,
            initrd=origin / template.INITRD,
            disk=(folder / DISK).resolve(),  # snapshots move the link on
            ram=origin / template.RAM,
            resume=True,
        )

    def _set_disk(self, folder: Path, layer: Path) -> None:
        _replace_link(folder / DISK, layer)

    def _origin(self, folder: Path) -> Origin | None:
        try:
            return Origin(**json.loads((folder / ORIGIN).read_text()))
        except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: the host lost its power
            return None

    def _set_origin(self, folder: Path, origin: Origin) -> None:
        draft = folder / f".{ORIGIN}"
        draft.write_text(json.dumps(asdict(origin)))
        draft.replace(folder / ORIGIN)

    def _command(self, image: Path, append: str, shape: Shape, accelerator: str, folder: Path) -> Command:
        return Command(
            binary=accel.qemu_binary(),
            accelerator=accelerator,
            translation_cache=self._settings.translation_cache,
            shape=shape,
            kernel=image / "vmlinuz",
            initrd=image / "initrd.img",
            append=append,
            disk=folder / DISK,
            keys=folder / KEYS,
            console=folder / CONSOLE,
        )

    async def _blank(self, image: Image, command: Command) -> Template:
        """What the memory of a machine that boots builds on."""
        nowhere = replace(command, disk=Path(), keys=Path(), console=Path())
        version = await asyncio.to_thread(accel.qemu_version)
        name = f"blank-{template.template_id(image, nowhere, version)}"
        return await template.ensure_blank(private_folder(self._settings.templates) / name, image, command)

    async def _launch(self, machine_id: str, command: Command, state: Path | None = None) -> Endpoint:
        (self._folder(machine_id) / PAUSED).unlink(missing_ok=True)
        private_folder(self._settings.sockets / machine_id)
        qemu = self._qemu(machine_id)
        port = await qemu.launch(command.argv(), state)
        await self._flatten(qemu, command.disk)
        return Endpoint("127.0.0.1", port)

    async def _flatten(self, qemu: Qemu, layer: Path) -> None:
        """Have the running machine copy into the layer it writes to what too deep a chain holds below.

        Reads slow down with each layer. What snapshots hold is not touched, so the copy takes space until
        they are gone.
        """
        below = self._points.below(layer)
        if len(below) > MAX_DEPTH:
            async with qemu.monitor() as execute:
                await execute.flatten(below[-1])

    def _template(self, template_id: str) -> Template | None:
        return template.load(self._settings.templates / template_id)

    def _facts(self, source: Template) -> dict[str, str]:
        return fitting.facts(source, self._clone(source, Path()))

    async def _check_loadable(self, point: Point) -> None:
        """Raise `Unsupported` unless this host can load the memory of a snapshot."""
        if not point.memory:
            raise Unsupported(f"Snapshot {point.id} has no memory. {fitting.INSTEAD}")
        source = self._template(point.template)
        if source is None:
            raise Unsupported(
                f"The memory of snapshot {point.id} needs the template {point.template}, which is gone. "
                f"{fitting.INSTEAD}"
            )
        here = self._facts(source)
        if source.accelerator != "tcg":  # which every host has
            here["accelerator"] = (await accel.probe(self._settings)).name
        fitting.require(f"snapshot {point.id}", point.machine, here)


def _replace_link(path: Path, target: Path) -> None:
    draft = path.with_name(f".{path.name}")
    draft.unlink(missing_ok=True)
    draft.symlink_to(target)
    draft.replace(path)
