"""From an image, which boots where QEMU is given its kernel, to a disk that boots by itself on ESXi.

On it are an EFI system partition with systemd-boot (UAPI's Boot Loader Specification), and the image's root
file system with what `additions` gets. It takes no rights: e2fsprogs and mtools write the file systems.
"""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox import programs
from jupyter_vsandbox.domain.errors import Permanent, Unsupported
from jupyter_vsandbox.domain.model import MIB
from jupyter_vsandbox.files import exhausted_if_full
from jupyter_vsandbox.qcow2 import header, image_tool
from jupyter_vsandbox.runtimes import additions, bootstrap

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from jupyter_vsandbox.domain.model import Image
    from jupyter_vsandbox.settings import Settings

ARCHITECTURE = "amd64"
"""Of the processors that ESXi runs on."""
ESP_OFFSET, ESP_SIZE = MIB, 128 * MIB
ROOT_OFFSET = ESP_OFFSET + ESP_SIZE
_ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
"""A root file system for x86-64, see UAPI's Discoverable Partitions Specification."""
_SECTOR = 512
_ENV = {"PATH": bootstrap.PATH, "LC_ALL": "C.UTF-8", "MTOOLS_SKIP_CHECK": "1"}
_LOADER_CONF = "default vsandbox.conf\ntimeout 0\neditor no\n"
_LOADER_ENTRY = """\
title jupyter_vsandbox
linux /vmlinuz
initrd /initrd.img
options {options}
"""
_ENTRY = re.compile(r"/\d+/(?P<mode>\d+)/\d+/\d+/(?P<name>[^/]+)/\d*/")
_PROMPT = "debugfs: "
_EXPECTED = re.compile(rf"debugfs [\d.]+ .*|{_PROMPT}.*|Allocated inode: \d+|")


async def make(
    image: Image, settings: Settings, folder: Path, progress: Callable[[str, float | None, str], None]
) -> Path:
    """Make the disk, sparse, and return where it is. Called by `Driver.publish`.

    Args:
        image: is not changed.
        settings: say where packages come from.
        folder: an empty one, left to the caller with all that is in it.
        progress: told of each step.

    Raises:
        Unsupported: a program is missing, or the image is for other processors.
        Permanent: it cannot be made.
        Exhausted: the disk is full.
    """
    source = Path(image.folder)
    inputs = json.loads((source / "manifest.json").read_text(encoding="utf-8")).get("inputs", {})
    arch = inputs.get("architecture", ARCHITECTURE)
    if arch != ARCHITECTURE:
        raise Unsupported(f"Image {image.id} is for {arch}, and ESXi needs one for {ARCHITECTURE}.")
    disk = folder / "disk.raw"
    with exhausted_if_full(folder):
        progress("disk", None, f"Copying the file system of {image.id}")
        await _lay_out(disk, source / "disk.qcow2")
        system = f"{disk}?offset={ROOT_OFFSET}"
        progress("packages", None, "Getting VMware Tools and a boot loader")
        status = folder / "status"
        await _debugfs(system, [f"dump /var/lib/dpkg/status {status}"])
        extra = folder / "extra"
        extra.mkdir()
        suite = str(inputs["recipe"]["base"]["suite"])
        added = await additions.get(suite, arch, status, settings, extra)
        progress("disk", None, "Adding them to the file system")
        await _add(system, added.root)
        loader = added.loader
        if loader is None:
            loader = folder / "loader.efi"
            await _debugfs(system, [f"dump /{additions.LOADER} {loader}"])
        await programs.run("e2fsck", "-f", "-n", system, package="e2fsprogs", env=_ENV)
        progress("disk", None, "Writing the boot loader")
        await _make_esp(disk, loader, source, image.append)
    return disk


async def _lay_out(disk: Path, source: Path) -> None:
    """Make `disk` with its partitions, the second of them filled with the qcow2 file `source`."""
    size = header(source).size
    with disk.open("wb") as file:
        file.truncate(ROOT_OFFSET + size + MIB)
    table = (
        "label: gpt\n"
        f"start={ESP_OFFSET // _SECTOR}, size={ESP_SIZE // _SECTOR}, type=uefi, name=vsandbox-esp\n"
        f"start={ROOT_OFFSET // _SECTOR}, size={size // _SECTOR}, type={_ROOT_TYPE}, name=vsandbox-root\n"
    )
    await programs.run("sfdisk", "--quiet", str(disk), package="fdisk", stdin=table, env=_ENV)
    target = {
        "driver": "raw",
        "offset": ROOT_OFFSET,
        "size": size,
        "file": {"driver": "file", "filename": str(disk)},
    }
    await image_tool(
        *("convert", "-n", "--target-is-zero", "-f", "qcow2"),
        *(str(source), f"json:{json.dumps(target)}"),
    )


async def _add(system: str, root: Path) -> None:
    """Add the files of a folder to a file system, and look whether they arrived."""
    top = await _listed(system, [Path("/")])
    linked = {path.name for path, mode in top.items() if stat.S_ISLNK(mode)}
    paths = await asyncio.to_thread(_follow, root, linked)
    folders = [Path("/"), *(Path("/", path.relative_to(root)) for path in paths if _is_folder(path))]
    said = await _debugfs(system, commands(root, paths, await _listed(system, folders)), writing=True)
    wrong = [line for line in said.splitlines() if not _EXPECTED.fullmatch(line)]
    if wrong:
        raise Permanent(f"The disk cannot be made: files did not get into its file system: {wrong[0]}")


def _follow(root: Path, linked: Collection[str]) -> list[Path]:
    """All that is below `root`, once that is in /usr which a file system has there: /lib may be a link."""
    for name in linked:
        if (root / name).is_dir():
            shutil.copytree(root / name, root / "usr" / name, symlinks=True, dirs_exist_ok=True)
            shutil.rmtree(root / name)
    return sorted(root.rglob("*"))


def commands(root: Path, paths: Iterable[Path], there: Mapping[Path, int]) -> list[str]:
    """What has debugfs(8) add files.

    Args:
        root: the folder that they are in.
        paths: files, folders and links below it, each after its folder.
        there: what the file system has already, see `_listed`.
    """
    found = []
    for path in paths:
        target = Path("/", path.relative_to(root))
        if _is_folder(path) and stat.S_ISDIR(there.get(target, 0)):
            continue
        found.append(f'cd "{target.parent}"')  # what makes something knows no path but that
        if target in there:
            found.append(f'rm "{target.name}"')
        if _is_folder(path):
            found.append(f'mkdir "{target.name}"')
        elif path.is_symlink():
            found.append(f'symlink "{target.name}" "{path.readlink()}"')
        else:
            found.append(f'write "{path}" "{target.name}"')
    return found


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


async def _listed(system: str, folders: Iterable[Path]) -> dict[Path, int]:
    """The modes of what is in folders of a file system; those that it has not are left out."""
    printed = await _debugfs(system, [f'ls -p "{folder}"' for folder in folders])
    found: dict[Path, int] = {}
    folder = Path("/")
    for line in printed.splitlines():
        if line.startswith(_PROMPT):
            folder = Path(line.removeprefix(f'{_PROMPT}ls -p "').removesuffix('"'))
        elif match := _ENTRY.fullmatch(line.strip()):
            found[folder / match["name"]] = int(match["mode"], 8)
    return found


async def _debugfs(system: str, lines: Iterable[str], *, writing: bool = False) -> str:
    """Have debugfs(8) do some things; whether each was done, only what it says tells."""
    with tempfile.NamedTemporaryFile("w", suffix=".debugfs") as file:
        file.write("".join(f"{line}\n" for line in lines))
        file.flush()
        words = ["debugfs", *(["-w"] if writing else []), "-f", file.name, system]
        return await programs.run(*words, package="e2fsprogs", env=_ENV, complain=writing)


async def _make_esp(disk: Path, loader: Path, source: Path, append: str) -> None:
    options = re.sub(r"\broot=\S+", "root=LABEL=" + bootstrap.DISK_LABEL, " ".join(append.split()))
    # Without a serial port, Linux leaves the last of them out.
    text = _LOADER_ENTRY.format(options=f"{options} console=tty0 console=ttyS0")
    conf, entry = disk.with_name("loader.conf"), disk.with_name("vsandbox.conf")
    conf.write_text(_LOADER_CONF, encoding="utf-8")
    entry.write_text(text, encoding="utf-8")
    where = f"{disk}@@{ESP_OFFSET}"

    async def tool(*words: str) -> None:
        await programs.run(words[0], "-i", where, *words[1:], package="mtools", env=_ENV)

    await tool(
        "mformat", "-F", "-T", str(ESP_SIZE // _SECTOR), "-h", "64", "-s", "32", "-v", "VSANDBOX", "::"
    )
    await tool("mmd", "::/EFI", "::/EFI/BOOT", "::/loader", "::/loader/entries")
    for file, target in (
        (loader, "EFI/BOOT/BOOTX64.EFI"),
        (conf, "loader/loader.conf"),
        (entry, "loader/entries/vsandbox.conf"),
        (source / "vmlinuz", "vmlinuz"),
        (source / "initrd.img", "initrd.img"),
    ):
        await tool("mcopy", str(file), f"::/{target}")
