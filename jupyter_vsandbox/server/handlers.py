"""The routes below ``vsandbox/api``: authenticate, authorize, ask the backend once, answer."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar, cast

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from jupyter_server.utils import url_path_join
from tornado import web

from jupyter_vsandbox.domain.errors import SandboxError
from jupyter_vsandbox.server import contract, wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jupyter_vsandbox.server.backend import Backend
    from jupyter_vsandbox.server.operations import Operation

BACKEND = "vsandbox_backend"
R = TypeVar("R")
M = TypeVar("M", bound="Callable[..., Any]")

_executes = cast("Callable[[M], M]", authorized("execute"))


class _Handler(APIHandler):
    auth_resource = "vsandbox"

    @property
    def backend(self) -> Backend:
        return cast("Backend", self.settings[BACKEND])

    def body(self, kind: type[R]) -> R:
        """The request's body, checked against the schema that has the name of `kind`."""
        return contract.read(kind, self.request.body)

    async def answer(self, result: Awaitable[wire.Json], status: HTTPStatus = HTTPStatus.OK) -> None:
        """Send `result`."""
        body = await result
        self.set_status(status)
        await self.finish(json.dumps(body))

    async def accept(self, begun: Awaitable[Operation]) -> None:
        """Say that an operation has begun, and where it is."""
        operation = await begun
        self.set_status(HTTPStatus.ACCEPTED)
        self.set_header("Location", url_path_join(self.base_url, "vsandbox/api/operations", operation.id))
        await self.finish(json.dumps(wire.operation(operation, whole=True)))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Send an error: one of ours says what happened, others are left to the base class."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if not isinstance(error, SandboxError):
            super().write_error(status_code, **kwargs)
            return
        self.set_status(wire.status(error))
        self.finish(json.dumps(wire.problem(error)))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:  # noqa: ANN401 - the base class's
        """Log an error; one that the caller can mend is not worth it."""
        if not isinstance(value, SandboxError):
            super().log_exception(typ, value, tb)
        elif wire.status(value) >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self.log.warning("%s: %s", self.request.path, value, exc_info=(typ, value, tb))


class SandboxesHandler(_Handler):
    """All sandboxes."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """List them."""
        await self.answer(self.backend.sandboxes())


class SandboxHandler(_Handler):
    """One sandbox."""

    @web.authenticated
    @authorized
    async def get(self, sandbox: str) -> None:
        """Tell of it."""
        await self.answer(self.backend.sandbox(sandbox))

    @web.authenticated
    @authorized
    async def patch(self, sandbox: str) -> None:
        """Rename it."""
        await self.answer(self.backend.rename(sandbox, self.body(contract.SandboxChange)))

    @web.authenticated
    @authorized
    async def delete(self, sandbox: str) -> None:
        """Remove it."""
        await self.accept(self.backend.delete(sandbox))


class VerbHandler(_Handler):
    """A verb that needs no more words than its name."""

    def initialize(self, verb: str) -> None:
        """Called by tornado.

        Args:
            verb: which.
        """
        self.verb = verb

    @web.authenticated
    @_executes
    async def post(self, sandbox: str) -> None:
        """Do it."""
        await self.accept(self.backend.verb(sandbox, self.verb))


class PromoteHandler(_Handler):
    """A fork in the place of its origin."""

    @web.authenticated
    @_executes
    async def post(self, sandbox: str) -> None:
        """Put it there."""
        await self.accept(self.backend.promote(sandbox))


class RollbackHandler(_Handler):
    """Back to a snapshot."""

    @web.authenticated
    @_executes
    async def post(self, sandbox: str) -> None:
        """Go back."""
        await self.accept(self.backend.rollback(sandbox, self.body(contract.RollbackRequest)))


class ForksHandler(_Handler):
    """The forks of a sandbox."""

    @web.authenticated
    @_executes
    async def post(self, sandbox: str) -> None:
        """Make one."""
        await self.accept(self.backend.fork(sandbox, self.body(contract.ForkRequest)))


class TrialsHandler(_Handler):
    """Upgrades tried in forks of a sandbox."""

    @web.authenticated
    @_executes
    async def post(self, sandbox: str) -> None:
        """Try one."""
        await self.accept(self.backend.trial(sandbox, self.body(contract.TrialRequest)))


class SnapshotsHandler(_Handler):
    """The snapshots of a sandbox."""

    @web.authenticated
    @authorized
    async def get(self, sandbox: str) -> None:
        """List them."""
        await self.answer(self.backend.snapshots(sandbox))

    @web.authenticated
    @authorized
    async def post(self, sandbox: str) -> None:
        """Take one."""
        await self.accept(self.backend.take_snapshot(sandbox, self.body(contract.SnapshotRequest)))


class SnapshotHandler(_Handler):
    """One snapshot."""

    @web.authenticated
    @authorized
    async def patch(self, sandbox: str, snapshot: str) -> None:
        """Rename or annotate it."""
        request = self.body(contract.SnapshotChange)
        await self.answer(self.backend.change_snapshot(sandbox, snapshot, request))

    @web.authenticated
    @authorized
    async def delete(self, sandbox: str, snapshot: str) -> None:
        """Remove it."""
        await self.accept(self.backend.delete_snapshot(sandbox, snapshot))


class PruneHandler(_Handler):
    """The snapshots that nobody asked for."""

    @web.authenticated
    @authorized
    async def get(self, sandbox: str) -> None:
        """List them."""
        await self.answer(self.backend.prunable(sandbox))

    @web.authenticated
    @authorized
    async def post(self, sandbox: str) -> None:
        """Remove them."""
        await self.accept(self.backend.prune(sandbox))


class DiffsHandler(_Handler):
    """Comparisons of two moments."""

    @web.authenticated
    @_executes
    async def post(self) -> None:
        """Make one."""
        await self.accept(self.backend.diff(self.body(contract.DiffRequest)))


class OperationsHandler(_Handler):
    """The operations of this server."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """List them."""
        every = self.backend.operations.all()
        await self.finish(json.dumps({"operations": [wire.operation(each, whole=False) for each in every]}))


class OperationHandler(_Handler):
    """One operation."""

    @web.authenticated
    @authorized
    async def get(self, operation: str) -> None:
        """Tell of it."""
        found = self.backend.operations.get(operation)
        await self.finish(json.dumps(wire.operation(found, whole=True)))

    @web.authenticated
    @authorized
    async def delete(self, operation: str) -> None:
        """Cancel it."""
        await self.accept(self.backend.cancel(operation))


class RuntimesHandler(_Handler):
    """All runtimes."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """List them."""
        await self.answer(self.backend.host.runtimes())

    @web.authenticated
    @authorized
    async def post(self) -> None:
        """Add one."""
        added = self.backend.host.add_runtime(self.body(contract.RuntimeRequest))
        await self.answer(added, HTTPStatus.CREATED)


class BuildsHandler(_Handler):
    """The builds of a runtime."""

    @web.authenticated
    @_executes
    async def post(self, runtime: str) -> None:
        """Begin one."""
        await self.accept(self.backend.host.build(runtime))


class ImagesHandler(_Handler):
    """All images."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """List them."""
        await self.answer(self.backend.host.images())


class ImageHandler(_Handler):
    """One image."""

    @web.authenticated
    @authorized
    async def delete(self, image: str) -> None:
        """Remove it."""
        await self.accept(self.backend.host.delete_image(image))


class PoolsHandler(_Handler):
    """What sandboxes are placed in."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """List them."""
        await self.answer(self.backend.host.pools())


class DoctorHandler(_Handler):
    """This host."""

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Examine it."""
        await self.answer(self.backend.host.doctor())


VERBS = ("start", "stop", "hibernate", "wake", "reset")
ROUTES: list[tuple[str, type[_Handler], dict[str, Any]]] = [
    ("/vsandbox/api/sandboxes", SandboxesHandler, {}),
    ("/vsandbox/api/sandboxes/{sandbox}", SandboxHandler, {}),
    *((f"/vsandbox/api/sandboxes/{{sandbox}}/{verb}", VerbHandler, {"verb": verb}) for verb in VERBS),
    ("/vsandbox/api/sandboxes/{sandbox}/promote", PromoteHandler, {}),
    ("/vsandbox/api/sandboxes/{sandbox}/rollback", RollbackHandler, {}),
    ("/vsandbox/api/sandboxes/{sandbox}/forks", ForksHandler, {}),
    ("/vsandbox/api/sandboxes/{sandbox}/trials", TrialsHandler, {}),
    ("/vsandbox/api/sandboxes/{sandbox}/snapshots", SnapshotsHandler, {}),
    ("/vsandbox/api/sandboxes/{sandbox}/snapshots/{snapshot}", SnapshotHandler, {}),
    ("/vsandbox/api/sandboxes/{sandbox}/prune", PruneHandler, {}),
    ("/vsandbox/api/diffs", DiffsHandler, {}),
    ("/vsandbox/api/operations", OperationsHandler, {}),
    ("/vsandbox/api/operations/{operation}", OperationHandler, {}),
    ("/vsandbox/api/runtimes", RuntimesHandler, {}),
    ("/vsandbox/api/runtimes/{runtime}/builds", BuildsHandler, {}),
    ("/vsandbox/api/images", ImagesHandler, {}),
    ("/vsandbox/api/images/{image}", ImageHandler, {}),
    ("/vsandbox/api/pools", PoolsHandler, {}),
    ("/vsandbox/api/doctor", DoctorHandler, {}),
]
"""Paths as openapi.yaml has them, their handlers and what those are made with."""


def routes() -> list[tuple[str, type[_Handler], dict[str, Any]]]:
    """The same with patterns in the place of paths."""
    return [
        (re.sub(r"{(\w+)}", r"(?P<\1>[^/]+)", path), handler, options) for path, handler, options in ROUTES
    ]
