"""``jupyter vsandbox uninstall``: removes what pip did not write and so leaves behind; `cli` has its line."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

from jupyter_vsandbox import render
from jupyter_vsandbox.core import owner
from jupyter_vsandbox.domain.errors import Conflict, InvalidRequest
from jupyter_vsandbox.domain.model import State
from jupyter_vsandbox.kernel import specs
from jupyter_vsandbox.runtimes import build

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.session import Session
    from jupyter_vsandbox.settings import Settings


def uninstall(session: Session, arguments: argparse.Namespace) -> int:
    """Remove all sandboxes, images and kernelspecs, and the home but for recipes of the user's own.

    Raises:
        InvalidRequest: it was not said that this is wanted; nothing is removed.
        Conflict: a running Jupyter uses a sandbox; nothing is removed.
    """
    settings = session.settings
    kernels, images, size = specs.ours(), build.images(settings), _size(settings.home)
    with session.service() as service:
        sandboxes = [each for each in service.list() if each.state is not State.STANDBY]
        what = (
            f"{len(sandboxes)} sandboxes with their snapshots, {len(images)} images, {len(kernels)} "
            f"kernelspecs and what else is in {settings.home}, {render.size(size)} in all"
        )
        if not arguments.yes:
            raise InvalidRequest(f"This removes {what}, for good. If that is wanted, add --yes.")
        if used := [each.id for each in sandboxes if each.owner and owner.lives(each.owner)]:
            raise Conflict(f"A running Jupyter uses sandboxes {', '.join(used)}. Shut that down first.")
        asyncio.run(_delete(service))
    for kernel in kernels:
        specs.remove(kernel)
    kept = _clear(settings)
    said = f"Removed {what}." + (f" Recipes of your own stay in {kept}." if kept else "")
    document = {
        "sandboxes": [each.id for each in sandboxes],
        "images": [each.id for each in images],
        "kernelspecs": kernels,
        "home": str(settings.home),
        "recipes": str(kept or ""),
    }
    session.output.answer(document, lambda: render.plain(f"{said} Last: pip uninstall jupyter_vsandbox"))
    return 0


async def _delete(service: SandboxService) -> None:
    for sandbox in service.list():
        await service.delete(sandbox.id)
    await service.reconcile()  # machines that nobody has a record of


def _clear(settings: Settings) -> Path | None:
    """Empty the home; the folder of the user's recipes is returned if it stays."""
    shutil.rmtree(settings.sockets, ignore_errors=True)
    kept = settings.user_recipes if any(settings.user_recipes.glob("*")) else None
    if kept is None:
        shutil.rmtree(settings.home)
        return None
    for path in settings.home.iterdir():
        if path != kept:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return kept


def _size(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if not path.is_symlink())
