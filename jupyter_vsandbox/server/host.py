"""What the handlers ask of runtimes, images, pools and the host, in the words of the wire."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

from jupyter_vsandbox.core import doctor, images, pools
from jupyter_vsandbox.domain.errors import Conflict, InvalidRequest, NotFound, SandboxError
from jupyter_vsandbox.files import write_private
from jupyter_vsandbox.kernel import specs
from jupyter_vsandbox.runtimes import build
from jupyter_vsandbox.runtimes import recipe as recipes
from jupyter_vsandbox.runtimes.catalog import Catalog
from jupyter_vsandbox.server import wire
from jupyter_vsandbox.server.operations import Phase
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.domain.model import Image
    from jupyter_vsandbox.runtimes.recipe import Recipe
    from jupyter_vsandbox.server.contract import RuntimeRequest
    from jupyter_vsandbox.server.operations import Operation, Operations, Report
    from jupyter_vsandbox.server.worker import Worker
    from jupyter_vsandbox.settings import Settings


class Host:
    """Answers the requests that are not about a sandbox.

    Args:
        settings: those of the service.
        service: not closed here.
        operations: where builds are followed.
        worker: runs what blocks.
    """

    def __init__(
        self, settings: Settings, service: SandboxService, operations: Operations, worker: Worker
    ) -> None:
        self._settings = settings
        self._service = service
        self._operations = operations
        self._worker = worker

    async def runtimes(self) -> wire.Json:
        """All runtimes, and the recipe files that cannot be used."""
        return await asyncio.to_thread(self._runtimes)

    async def add_runtime(self, request: RuntimeRequest) -> wire.Json:
        """Keep a recipe among the user's own.

        Raises:
            InvalidRequest: it is no recipe; the message names the key.
            Conflict: there is one of that name, and it is not to be replaced.
        """
        return await asyncio.to_thread(self._add_runtime, request)

    async def build(self, runtime: str) -> Operation:
        """Begin to build the image of a runtime, or join the build that goes on.

        Raises:
            NotFound: there is no such runtime.
            InvalidRequest: its recipe is broken.
        """
        recipe = await asyncio.to_thread(lambda: Catalog.standard(self._settings).get(runtime))
        for each in self._operations.all():
            if (each.verb, each.runtime, each.phase) == ("build", recipe.name, Phase.RUNNING):
                return each

        async def work(report: Report) -> wire.Json:
            image = await self._worker.call(self._build(recipe, report))
            report.cancellable(False)
            report.progress("warm", None, "Making it ready to be cloned")
            await asyncio.to_thread(specs.install, recipe)
            await self._worker.call(self._service.prepare(recipe.name))
            return wire.image(image)

        return self._operations.begin("build", work, runtime=recipe.name, cancellable=True)

    async def images(self) -> wire.Json:
        """All images that are built."""
        found = await asyncio.to_thread(build.images, self._settings)
        return {"images": [wire.image(each) for each in found]}

    async def delete_image(self, image_id: str) -> Operation:
        """Begin to remove an image.

        Raises:
            NotFound: there is none.
        """
        image = await asyncio.to_thread(build.get, image_id, self._settings)

        async def work(_: Report) -> None:
            await self._worker.call(images.remove(self._service, image))
            await asyncio.to_thread(self._withdraw, image.runtime)

        return self._operations.begin("delete_image", work)

    async def pools(self) -> wire.Json:
        """What sandboxes are placed in."""
        return {"pools": [wire.pool(each) for each in await self._worker.call(pools.every(self._service))]}

    async def doctor(self) -> wire.Json:
        """What an examination of the host finds."""
        return (await self._worker.call(doctor.examine(self._settings))).to_dict()

    def _runtimes(self) -> wire.Json:
        catalog = Catalog.standard(self._settings)
        return {
            "runtimes": [self._runtime(catalog, name) for name in catalog.names()],
            "broken": [wire.broken(each) for each in catalog.broken],
        }

    def _runtime(self, catalog: Catalog, name: str) -> wire.Json:
        recipe = catalog.get(name)
        own = catalog.path(name).parent == self._settings.user_recipes
        return wire.runtime(recipe, self._image(recipe), own=own)

    def _image(self, recipe: Recipe) -> Image | None:
        try:
            return build.find(recipe, self._settings)
        except NotFound:
            return None

    def _add_runtime(self, request: RuntimeRequest) -> wire.Json:
        try:
            recipe = recipes.parse(request.recipe, "recipe")
        except InvalidRequest as error:
            raise InvalidRequest(str(error), "recipe") from error
        path = private_folder(self._settings.user_recipes) / f"{recipe.name}.toml"
        if path.exists() and not request.replace:
            raise Conflict(f"There is a recipe {recipe.name!r} of yours already; ask for it to be replaced.")
        draft = path.with_name(f".{path.name}.new")
        draft.unlink(missing_ok=True)
        write_private(draft, request.recipe)
        draft.replace(path)
        return self._runtime(Catalog.standard(self._settings), recipe.name)

    def _withdraw(self, runtime: str) -> None:
        """Take a runtime that is not built any more out of the kernel picker."""
        try:
            build.find(runtime, self._settings)
        except SandboxError:
            specs.uninstall(runtime)

    async def _build(self, recipe: Recipe, report: Report) -> Image:
        """Build in a thread; cancelled, return when the build has ended."""
        stop = threading.Event()

        def progress(stage: str, fraction: float | None, message: str) -> None:
            report.progress(stage, fraction, message)
            _unless(stop)

        def listen(line: str) -> None:
            report.line(line)
            _unless(stop)

        task = asyncio.create_task(asyncio.to_thread(build.build, recipe, self._settings, progress, listen))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            stop.set()
            with contextlib.suppress(_StoppedError, SandboxError):
                await task
            raise


class _StoppedError(Exception):
    """A build is to end."""


def _unless(stop: threading.Event) -> None:
    if stop.is_set():
        raise _StoppedError
