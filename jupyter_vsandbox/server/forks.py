"""A fork with a notebook of its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox.kernel.specs import spec_name
from jupyter_vsandbox.server import turns

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.domain.model import Sandbox
    from jupyter_vsandbox.server import wire
    from jupyter_vsandbox.server.contract import ForkRequest
    from jupyter_vsandbox.server.describe import Describe
    from jupyter_vsandbox.server.notebooks import Notebooks
    from jupyter_vsandbox.server.operations import Report
    from jupyter_vsandbox.server.worker import Worker


@dataclass(frozen=True)
class Made:
    """A fork.

    Attributes:
        sandbox: the new one.
        notebook: path of its notebook for the contents API, "" for none.
    """

    sandbox: Sandbox
    notebook: str


class Forks:
    """Makes forks.

    Args:
        service: for the verbs.
        worker: runs them.
        notebooks: writes the copies.
        describe: tells of sandboxes.
    """

    def __init__(
        self, service: SandboxService, worker: Worker, notebooks: Notebooks, describe: Describe
    ) -> None:
        self._service = service
        self._worker = worker
        self._notebooks = notebooks
        self._describe = describe

    async def make(self, sandbox_id: str, request: ForkRequest, report: Report) -> Made:
        """Fork a sandbox, write its notebook and bind it to that; all of it or nothing."""
        fork = await self._worker.call(self._fork(sandbox_id, request, report))
        notebook = ""
        try:
            if request.notebook:
                notebook = await self._copy(sandbox_id, fork)
            if notebook:
                bound = self._service.bind(fork.id, self._notebooks.file(notebook))
                fork = await self._worker.call(bound)
        except BaseException:
            await self.undo(Made(fork, notebook))
            raise
        return Made(fork, notebook)

    async def undo(self, made: Made) -> None:
        """Remove a fork and its notebook."""
        await self._worker.call(self._service.delete(made.sandbox.id))
        if made.notebook:
            await self._notebooks.remove(made.notebook)

    async def tell(self, made: Made) -> wire.Json:
        """A fork as ``Fork`` of openapi.yaml."""
        return {
            "sandbox": await self._describe.one(made.sandbox.id),
            "kernel": spec_name(made.sandbox.runtime, made.sandbox.driver),
            "notebook": made.notebook or None,
        }

    async def _fork(self, sandbox_id: str, request: ForkRequest, report: Report) -> Sandbox:
        def fork() -> Coroutine[Any, Any, Sandbox]:
            return self._service.fork(sandbox_id, request.snapshot, request.name, now=True)

        if request.now or request.snapshot:
            return await turns.at_once(fork, "Starting the fork", report)
        return await turns.between_cells(self._service, sandbox_id, fork, "Starting the fork", report)

    async def _copy(self, sandbox_id: str, fork: Sandbox) -> str:
        """Write the notebook of the fork; returns its path, "" where there is nothing to copy."""
        origin = await asyncio.to_thread(self._service.get, sandbox_id)
        path = self._notebooks.path(origin.notebook) if origin.notebook else None
        kept = await asyncio.to_thread(self._service.get_snapshot, fork.snapshot)
        if path is None or not kept.cells:
            return ""
        return await self._notebooks.copy(path, self._service.cells_of(kept.id))
