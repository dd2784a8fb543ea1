"""Makes a template: boots an image with its memory in a file, and freezes it when it is warm.

The memory file of a template must never be mapped shared again: that would corrupt it for all
clones, so it is made read-only.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox import faults
from jupyter_vsandbox.domain.errors import Exhausted
from jupyter_vsandbox.domain.model import Endpoint, LinkKeys, Shape
from jupyter_vsandbox.drivers.base import Template
from jupyter_vsandbox.drivers.qemu.disk import RESERVE, create_overlay
from jupyter_vsandbox.drivers.qemu.process import CONSOLE, Qemu
from jupyter_vsandbox.files import locked, new_folder, try_locked, write_private

if TYPE_CHECKING:
    from jupyter_vsandbox.domain.model import Image
    from jupyter_vsandbox.drivers.base import Warm
    from jupyter_vsandbox.drivers.qemu.command import Command

_log = logging.getLogger(__name__)

RAM = "ram"
STATE = "state"
DISK = "disk.qcow2"
KERNEL = "vmlinuz.head"
INITRD = "initrd.empty"
_MANIFEST = "template.json"
_SETUP_SECTORS_AT = 0x1F1


def template_id(image: Image, command: Command, qemu_version: str) -> str:
    """The name of a template: everything that its saved state depends on.

    Args:
        image: what it is made from.
        command: with nothing of a particular machine in it.
        qemu_version: saved states do not fit another.
    """
    nowhere = replace(command, kernel=Path(), initrd=Path())  # wherever the image happens to be
    inputs = json.dumps([image.digest, nowhere.argv(), qemu_version])
    return f"{image.id}-{hashlib.sha256(inputs.encode()).hexdigest()[:8]}"


def load(folder: Path) -> Template | None:
    """The template in `folder`, `None` if there is none."""
    try:
        record = json.loads((folder / _MANIFEST).read_text())
    except (FileNotFoundError, NotADirectoryError):  # there are lock files, too
        return None
    record["shape"] = Shape(**record["shape"])
    record["keys"] = LinkKeys(**record["keys"])
    return Template(**record)


async def ensure(
    folder: Path, sockets: Path, image: Image, command: Command, keys: LinkKeys, warm: Warm
) -> Template:
    """Return the template in `folder`, made now if there is none.

    Args:
        folder: where it is, or comes to be; its name is the template's id.
        sockets: private folder for the QMP socket.
        image: what to boot.
        command: with binary, accelerator and shape right; all files are set here.
        keys: for its clones' agents.
        warm: see `Driver.template`.
    """
    async with locked(_lock(folder)):
        if (ready := load(folder)) is not None:
            return ready
        await _clear_drafts(folder)
        free = os.statvfs(folder.parent)
        if free.f_bavail * free.f_frsize < command.shape.memory + RESERVE:
            raise Exhausted(
                f"Only {free.f_bavail * free.f_frsize >> 20} MiB are free in {folder.parent}; a template of "
                f"{image.runtime} may need {command.shape.memory + RESERVE >> 20} MiB."
            )
        _log.info("Booting %s once, to clone it from then on; this takes about half a minute.", image.id)
        with new_folder(folder) as draft:
            template = Template(folder.name, image.id, image.append, command.shape, command.accelerator, keys)
            await _make(draft, sockets / "template.qmp", image, command, template, warm)
            write_private(draft / _MANIFEST, json.dumps(asdict(template)))
        return template


async def ensure_blank(folder: Path, image: Image, command: Command) -> Template:
    """Return the template in `folder` whose memory is all zeros: nothing starts from it.

    What a machine that boots has in its memory can be saved as its difference from that, and loaded
    again like a clone's.
    """
    async with locked(_lock(folder)):
        if (ready := load(folder)) is not None:
            return ready
        with new_folder(folder) as draft:
            (draft / RAM).touch(mode=0o600)
            os.truncate(draft / RAM, command.shape.memory)
            _write_stubs(draft, command.kernel)
            keys = LinkKeys("", "", "", "")
            blank = Template(folder.name, image.id, image.append, command.shape, command.accelerator, keys)
            write_private(draft / _MANIFEST, json.dumps(asdict(blank)))
        return blank


def drafts(templates: Path) -> set[str]:
    """The names of the templates that somebody makes, or was killed over."""
    return {path.name.removeprefix(".new-").rpartition("-")[0] for path in templates.glob(".new-*")}


async def clear_abandoned(folder: Path) -> None:
    """Remove what a killed process left of an attempt at the template in `folder`, if nobody makes it."""
    with try_locked(_lock(folder)) as free:
        if free:
            await _clear_drafts(folder)


def _lock(folder: Path) -> Path:
    return folder.parent / f".{folder.name}.lock"


async def _clear_drafts(folder: Path) -> None:
    """Remove what a killed process left of an attempt at this template, its QEMU first."""
    for draft in folder.parent.glob(f".new-{folder.name}-*"):
        await Qemu(draft, draft / "qmp").end()
        shutil.rmtree(draft)


async def _make(
    draft: Path, socket_path: Path, image: Image, command: Command, template: Template, warm: Warm
) -> None:
    create_overlay(draft / DISK, (Path(image.folder) / DISK).resolve())
    (draft / RAM).touch(mode=0o600)
    os.truncate(draft / RAM, command.shape.memory)
    keys = draft / "keys.json"
    write_private(keys, json.dumps(asdict(template.keys)))
    command = replace(
        command, disk=draft / DISK, ram=draft / RAM, share=True, keys=keys, console=draft / CONSOLE
    )
    qemu = Qemu(draft, socket_path)
    try:
        port = await qemu.launch(command.argv())
        faults.point("template.launched")
        await warm(Endpoint("127.0.0.1", port), template.keys)
        async with qemu.monitor() as execute:
            await execute("stop")
            await execute.save_state(draft / STATE)
        faults.point("template.saved")
    finally:
        await qemu.end()
    keys.unlink()
    _write_stubs(draft, command.kernel)
    # But not RAM: QEMU opens it for writing even where it maps it privately, which only root may then.
    for name in (STATE, DISK, KERNEL, INITRD):
        (draft / name).chmod(0o400)


def _write_stubs(draft: Path, kernel: Path) -> None:
    """What clones are given in place of a kernel and its initrd, which QEMU would load and never use.

    The head of a bzImage is enough for QEMU to set its devices up as it did for the template, see
    https://docs.kernel.org/arch/x86/boot.html. It saves each clone 20 MiB and the time to read them.
    """
    with open(kernel, "rb") as file:
        head = file.read(_SETUP_SECTORS_AT + 1)
        sectors = head[_SETUP_SECTORS_AT] or 4
        file.seek(0)
        (draft / KERNEL).write_bytes(file.read((sectors + 2) * 512))
    (draft / INITRD).write_bytes(bytes(512))
