"""The routes below ``vsandbox/api``: authenticate, authorize, ask the backend once, answer."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from tornado import web

from jupyter_vsandbox.domain.errors import SandboxError
from jupyter_vsandbox.server import wire

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from jupyter_vsandbox.server.backend import Backend

BACKEND = "vsandbox_backend"


class _Handler(APIHandler):
    auth_resource = "vsandbox"

    @property
    def backend(self) -> Backend:
        return cast("Backend", self.settings[BACKEND])

    async def answer(self, result: Awaitable[wire.Json]) -> None:
        """Send `result`, or the error that it ends with."""
        try:
            body = await result
        except SandboxError as error:
            status = wire.status(error)
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                self.log.warning("%s: %s", self.request.path, error, exc_info=True)
            self.set_status(status)
            body = wire.problem(error)
        await self.finish(json.dumps(body))


class SandboxesHandler(_Handler):
    """``vsandbox/api/sandboxes``."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """List the sandboxes."""
        await self.answer(self.backend.sandboxes())


class RuntimesHandler(_Handler):
    """``vsandbox/api/runtimes``."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """List the runtimes."""
        await self.answer(self.backend.runtimes())


class DoctorHandler(_Handler):
    """``vsandbox/api/doctor``."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Examine the host."""
        await self.answer(self.backend.doctor())


ROUTES: list[tuple[str, type[APIHandler]]] = [
    (r"/vsandbox/api/sandboxes", SandboxesHandler),
    (r"/vsandbox/api/runtimes", RuntimesHandler),
    (r"/vsandbox/api/doctor", DoctorHandler),
]
