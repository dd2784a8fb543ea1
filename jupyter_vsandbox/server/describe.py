"""Everything that is told of a sandbox: its record, and what has to be looked up for it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jupyter_vsandbox.core import owner
from jupyter_vsandbox.domain.errors import SandboxError
from jupyter_vsandbox.server import wire

if TYPE_CHECKING:
    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.domain.model import Accelerator, Sandbox
    from jupyter_vsandbox.server.meters import Meters
    from jupyter_vsandbox.server.notebooks import Notebooks
    from jupyter_vsandbox.server.worker import Worker


class Describe:
    """Makes the wire form of sandboxes.

    Args:
        service: whose.
        worker: runs what blocks.
        meters: knows what they take.
        notebooks: knows the paths of their notebooks.
    """

    def __init__(self, service: SandboxService, worker: Worker, meters: Meters, notebooks: Notebooks) -> None:
        self._service = service
        self._worker = worker
        self._meters = meters
        self._notebooks = notebooks

    async def every(self) -> list[wire.Json]:
        """All sandboxes, oldest first."""
        records = await asyncio.to_thread(self._service.records)
        drivers = {sandbox.driver for sandbox in records.sandboxes.values()}
        accelerators = {driver: await self._accelerator(driver) for driver in drivers}

        def describe() -> list[wire.Json]:
            return [
                self._describe(
                    sandbox, records.histories.get(sandbox.id, (0, 0)), accelerators[sandbox.driver]
                )
                for sandbox in records.sandboxes.values()
            ]

        return await asyncio.to_thread(describe)

    async def one(self, sandbox_id: str) -> wire.Json:
        """One sandbox as it is now.

        Raises:
            NotFound: there is none.
        """
        sandbox = await asyncio.to_thread(self._service.get, sandbox_id)
        history = await asyncio.to_thread(self._service.history, sandbox_id)
        return await self.record(sandbox, (len(history), sum(each.size for each in history)))

    async def record(self, sandbox: Sandbox, history: tuple[int, int]) -> wire.Json:
        """A record, with the number and the size in bytes of its snapshots."""
        accelerator = await self._accelerator(sandbox.driver)
        return await asyncio.to_thread(self._describe, sandbox, history, accelerator)

    def _describe(
        self, sandbox: Sandbox, history: tuple[int, int], accelerator: Accelerator | None
    ) -> wire.Json:
        snapshots, size = history
        facts = wire.Facts(
            gauge=self._meters.read(sandbox),
            accelerator=accelerator,
            in_use=bool(sandbox.owner) and owner.lives(sandbox.owner),
            snapshots=snapshots,
            bytes=size,
            warning=self._service.history_warning(sandbox),
            memory_anywhere=self._memory_anywhere(sandbox),
            notebook=self._notebooks.path(sandbox.notebook) if sandbox.notebook else None,
        )
        return wire.sandbox(sandbox, facts)

    def _memory_anywhere(self, sandbox: Sandbox) -> bool | None:
        try:
            return self._service.memory_anywhere(sandbox)
        except SandboxError:
            return None

    async def _accelerator(self, driver: str) -> Accelerator | None:
        async def ask() -> Accelerator:
            return await self._service.driver(driver).accelerator()

        try:
            return await self._worker.call(ask())
        except SandboxError:
            # For instance a driver that is no longer installed: its sandboxes are listed all the same.
            return None
