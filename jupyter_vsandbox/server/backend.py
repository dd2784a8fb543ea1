"""What the handlers ask, in the words of the wire; nothing here blocks the server's event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jupyter_vsandbox.core import doctor
from jupyter_vsandbox.domain.errors import NotFound, SandboxError
from jupyter_vsandbox.runtimes import build
from jupyter_vsandbox.runtimes.catalog import Catalog
from jupyter_vsandbox.server import wire

if TYPE_CHECKING:
    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.domain.model import Image
    from jupyter_vsandbox.runtimes.recipe import Recipe
    from jupyter_vsandbox.settings import Settings


class Backend:
    """Answers the extension's requests.

    Args:
        settings: those of the service.
        service: not closed here.
    """

    def __init__(self, settings: Settings, service: SandboxService) -> None:
        self._settings = settings
        self._service = service

    async def sandboxes(self) -> wire.Json:
        """All sandboxes of this user."""
        sandboxes = await asyncio.to_thread(self._service.list)
        drivers = {sandbox.driver for sandbox in sandboxes}
        emulated = {driver: await self._emulated(driver) for driver in drivers}
        return {"sandboxes": [wire.sandbox(each, emulated[each.driver]) for each in sandboxes]}

    async def runtimes(self) -> wire.Json:
        """All runtimes, and the recipe files that cannot be used."""
        return await asyncio.to_thread(self._runtimes)

    async def doctor(self) -> wire.Json:
        """What an examination of the host finds."""
        return (await doctor.examine(self._settings)).to_dict()

    async def _emulated(self, driver: str) -> bool | None:
        try:
            return (await self._service.driver(driver).accelerator()).emulated
        except SandboxError:
            # For instance a driver that is no longer installed: its sandboxes are listed all the same.
            return None

    def _runtimes(self) -> wire.Json:
        catalog = Catalog.standard(self._settings)
        recipes = [catalog.get(name) for name in catalog.names()]
        return {
            "runtimes": [wire.runtime(recipe, self._image(recipe)) for recipe in recipes],
            "broken": [wire.broken(each) for each in catalog.broken],
        }

    def _image(self, recipe: Recipe) -> Image | None:
        try:
            return build.find(recipe, self._settings)
        except NotFound:
            return None
