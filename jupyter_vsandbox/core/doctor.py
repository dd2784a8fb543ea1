"""Examines the host and the project's own folders, and says what to mend."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox import __version__
from jupyter_vsandbox.domain.checks import Check, Status
from jupyter_vsandbox.domain.errors import SandboxError, Unsupported
from jupyter_vsandbox.domain.model import GIB
from jupyter_vsandbox.drivers import registry
from jupyter_vsandbox.runtimes import bootstrap, build
from jupyter_vsandbox.runtimes.catalog import Catalog

if TYPE_CHECKING:
    from jupyter_vsandbox.settings import Settings

_DISK_WARN = 5 * GIB
_DISK_FAIL = 1 * GIB
_MEMORY_WARN = 1 * GIB

_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Report:
    """All that an examination found, in the order to show it."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether sandboxes can run; warnings do not count."""
        return all(check.status is not Status.FAIL for check in self.checks)

    def to_dict(self) -> dict[str, object]:
        """Return the report as plain values, for JSON."""
        return {"ok": self.ok, "checks": [check.to_dict() for check in self.checks]}


async def examine(settings: Settings, driver: str = "qemu") -> Report:
    """Look at everything that sandboxes need; nothing is installed or mended.

    The first call after a boot of the host may take as long as the driver needs to try out its
    accelerator. What is broken becomes a check, not an exception.

    Args:
        settings: whose folders to look at.
        driver: the name of the driver to examine.
    """
    home, tools, runtimes, driven = await asyncio.gather(
        asyncio.to_thread(check_home, settings),
        asyncio.to_thread(_check_tools),
        asyncio.to_thread(_check_runtimes, settings),
        _check_driver(settings, driver),
    )
    versions = f"jupyter_vsandbox {__version__}, Python {platform.python_version()}, {platform.platform()}"
    return Report((Check("versions", Status.OK, versions), *driven, *home, check_memory(), tools, *runtimes))


async def _check_driver(settings: Settings, name: str) -> list[Check]:
    try:
        return await registry.get(name, settings).checks()
    except Unsupported as error:
        return [
            Check(f"driver {name}", Status.FAIL, str(error), "Do what it says, or choose another driver.")
        ]
    except SandboxError as error:
        return [
            Check(f"driver {name}", Status.FAIL, str(error), "pip install --force-reinstall jupyter_vsandbox")
        ]


def check_home(settings: Settings) -> list[Check]:
    """Look at the folders that the project writes to, and at the space left there."""
    name = "home folder"
    home = settings.home
    for folder in (home, settings.images, settings.templates, settings.sandboxes, settings.user_recipes):
        if os.path.lexists(folder) and not folder.is_dir():
            mend = f"Move {folder} away, or set JUPYTER_VSANDBOX_HOME to another folder."
            return [Check(name, Status.FAIL, f"{folder} should be a folder, but is something else", mend)]
    there = home
    while not os.path.lexists(there):
        there = there.parent
    elsewhere = "Set JUPYTER_VSANDBOX_HOME to a folder that you may write to."
    if not there.is_dir():
        return [Check(name, Status.FAIL, f"{home} cannot be made: {there} is not a folder", elsewhere)]
    if not os.access(there, os.W_OK | os.X_OK):
        return [Check(name, Status.FAIL, f"you may not write to {there}", elsewhere)]
    if there == home and home.stat().st_uid != os.getuid():
        return [Check(name, Status.FAIL, f"{home} belongs to another user", elsewhere)]
    detail = str(home) if there == home else f"{home} (made when it is first needed)"
    return [Check(name, Status.OK, detail), judge_disk(home, shutil.disk_usage(there).free)]


def judge_disk(home: Path, free: int) -> Check:
    """Say whether `free` bytes are enough for images and sandboxes below `home`."""
    detail = f"{free / GIB:.1f} GiB free for {home}"
    mend = "Free some space, or set JUPYTER_VSANDBOX_HOME to a folder on a larger disk."
    if free < _DISK_FAIL:
        return Check("disk space", Status.FAIL, detail, mend)
    if free < _DISK_WARN:
        return Check("disk space", Status.WARN, f"{detail}; an image takes one to three", mend)
    return Check("disk space", Status.OK, detail)


def check_memory(meminfo: Path = _MEMINFO) -> Check:
    """Say how much memory the host has, and how much of it is free for machines."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        values = {line.partition(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        total, available = values["MemTotal"], values["MemAvailable"]
    except (OSError, ValueError, IndexError, KeyError):
        return Check("memory", Status.WARN, f"{meminfo} does not tell how much there is")
    detail = f"{available / GIB:.1f} GiB available of {total / GIB:.1f}"
    if available < _MEMORY_WARN:
        return Check("memory", Status.WARN, detail, "Stop sandboxes or other programs before starting more.")
    return Check("memory", Status.OK, detail)


def _check_tools() -> Check:
    """Look for what is needed to build images, and for nothing else."""
    name = "image building"
    try:
        bootstrap.require_tools()
    except SandboxError as error:
        return Check(name, Status.WARN, str(error), "Needed to build images only, not to run them.")
    return Check(name, Status.OK, "mmdebstrap, mke2fs and Debian's archive keys are installed")


def _check_runtimes(settings: Settings) -> list[Check]:
    """Look at the recipes, and at what has been built of them."""
    catalog = Catalog.standard(settings)
    checks = [
        Check(f"recipe {broken.path.name}", Status.WARN, str(broken.error)) for broken in catalog.broken
    ]
    built = {image.runtime for image in build.images(settings)}
    if not built:
        mend = "jupyter vsandbox images build NAME; `jupyter vsandbox runtimes` shows the names."
        return [*checks, Check("images", Status.WARN, "no runtime has been built yet", mend)]
    return [*checks, *(_check_image(runtime, settings) for runtime in sorted(built))]


def _check_image(runtime: str, settings: Settings) -> Check:
    name = f"image of {runtime}"
    try:
        return Check(name, Status.OK, f"{build.find(runtime, settings).id} is current")
    except (SandboxError, OSError) as error:
        return Check(name, Status.WARN, str(error))
