"""Snapshots that leave this host, and such as come from another one.

Each host boots its templates itself, so two templates of one image differ in memory and disk. What
leaves is therefore no difference from a template: ``index`` and ``pages`` hold all pages that are
not zero, as if the machine had booted (see `template.ensure_blank`), and ``disk.qcow2`` holds, in
one layer, all that differs from the image's own disk.
"""

from __future__ import annotations

import array
import asyncio
import hashlib
import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import Permanent, Unsupported
from jupyter_vsandbox.drivers.base import Extent
from jupyter_vsandbox.drivers.qemu.binary import INSTALL
from jupyter_vsandbox.drivers.qemu.disk import create_overlay, size
from jupyter_vsandbox.drivers.qemu.memory import INDEX, PAGE, PAGES, load
from jupyter_vsandbox.drivers.qemu.points import STATE, backing_of
from jupyter_vsandbox.files import sample
from jupyter_vsandbox.qcow2 import header, require_alone

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jupyter_vsandbox.drivers.qemu.command import Command
    from jupyter_vsandbox.work import Work

DISK = "disk.qcow2"
MEMORY_FILES = (STATE, INDEX, PAGES)
_STRETCH = 1024  # pages
_PIECES = 512
_NUMBER = array.array("Q").itemsize
_CPU_INFO = Path("/proc/cpuinfo")
_CPU_FACT = re.compile(r"^(vendor_id|cpu family|model|model name|stepping|flags)\s*: (.*)$", re.MULTILINE)


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


def measure(disks: Sequence[Path], memory: Sequence[Path]) -> Extent:
    """How much there is in some files.

    Args:
        disks: of `layers_above`.
        memory: the template's memory and the pages of the snapshots above it; none for a disk alone.
    """
    sizes = {path: size(path) for path in (*disks, *memory)}
    total = sum(sizes.values())
    return Extent(total, b"".join(sample(path, _PIECES * sizes[path] // total) for path in sizes if total))


def write_memory(ram: Path, layers: Sequence[Path], folder: Path, work: Work) -> None:
    """Write all pages that are not zero.

    Args:
        ram: the template's memory.
        layers: of the snapshots above it, oldest first.
        folder: gets ``index`` and ``pages``.
        work: is told of the bytes written.
    """
    known = [load(layer) for layer in layers]
    where = {number: (pages, at) for pages in known for at, number in enumerate(pages.numbers)}
    nothing = bytes(PAGE)
    numbers = array.array("Q")
    with open(ram, "rb") as file, open(folder / PAGES, "wb") as out:
        for first in itertools.count(0, _STRETCH):
            data = file.read(_STRETCH * PAGE)
            if not data:
                break
            before = len(numbers)
            for number, at in enumerate(range(0, len(data), PAGE), first):
                if number in where:
                    pages, position = where[number]
                    page = pages.page(position)
                else:
                    page = data[at : at + PAGE]
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
    await create_overlay(target, layer)
    await _image_tool("rebase", "-f", "qcow2", "-F", "qcow2", "-b", str(below), str(target))
    await _image_tool("rebase", "-u", "-f", "qcow2", "-b", "", str(target))


async def put_on(layer: Path, base: Path) -> None:
    """Let a file of `flatten`, of whatever origin, build on `base`.

    Raises:
        Permanent: it is no such file, or not for such a disk.
    """
    if require_alone(layer).size != header(base).size:
        raise Permanent(f"{layer.name} is for a disk of another size than {base}.")
    await _image_tool("rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", str(base), str(layer))


def require_pages(folder: Path, memory: int) -> None:
    """Raise `Permanent` unless the pages in a folder of whatever origin are those of such a memory."""
    index = (folder / INDEX).stat().st_size
    if index % _NUMBER == 0 and (folder / PAGES).stat().st_size == index // _NUMBER * PAGE:
        numbers = array.array("Q", (folder / INDEX).read_bytes())
        rising = all(one < other for one, other in itertools.pairwise(numbers))
        if rising and (not numbers or numbers[-1] < memory // PAGE):
            return
    raise Permanent(f"{INDEX} and {PAGES} are not those of a machine with {memory >> 20} MiB of memory.")


def move_memory(source: Path, target: Path) -> None:
    """Move the files of a memory between folders."""
    for name in MEMORY_FILES:
        shutil.move(source / name, target / name)


def require_files(folder: Path, *, memory: bool) -> None:
    """Raise `Permanent` if a file is missing."""
    for name in (DISK, *(MEMORY_FILES if memory else ())):
        if not (folder / name).is_file():
            raise Permanent(f"There is no {name} in what came from elsewhere.")


def needs(command: Command, version: str) -> dict[str, str]:
    """What must be the same where a device state is loaded.

    Args:
        command: of the machine.
        version: of QEMU.
    """
    nowhere = Path()
    bare = replace(
        command,
        binary="",
        translation_cache=0,
        append="",
        kernel=nowhere,
        initrd=nowhere,
        disk=nowhere,
        keys=nowhere,
        console=nowhere,
        ram=nowhere,
        resume=True,
    )
    return {
        "QEMU version": version,
        "accelerator": command.accelerator,
        "processor": "emulated" if command.accelerator == "tcg" else processor(_CPU_INFO.read_text()),
        "list of devices": hashlib.sha256(json.dumps(bare.argv()).encode()).hexdigest()[:12],
    }


def processor(cpuinfo: str) -> str:
    """What a guest sees of a host's processor: its name, and a digest of all that makes it out.

    Args:
        cpuinfo: the content of proc(5) ``cpuinfo``.
    """
    facts: dict[str, str] = {}
    for name, value in _CPU_FACT.findall(cpuinfo):
        facts.setdefault(name, " ".join(sorted(value.split())) if name == "flags" else value)
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]
    return f"{facts.get('model name', 'unknown')} ({digest})"


def require_same(there: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Raise `Unsupported` unless two results of `needs` are the same."""
    for name in {**here, **there}:
        if here.get(name) != there.get(name):
            raise Unsupported(
                f"The machine's memory needs {name} {there.get(name)}; here it is {here.get(name)}. "
                "Its disk can be used all the same: ask for the disk only."
            )


async def _image_tool(*words: str) -> None:
    try:
        process = await asyncio.create_subprocess_exec(
            "qemu-img",
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError:
        raise Unsupported(f"qemu-img is not installed: {INSTALL}") from None
    try:
        _, said = await process.communicate()
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise Permanent(f"qemu-img {words[0]} failed: {said.decode(errors='replace').strip()}")
