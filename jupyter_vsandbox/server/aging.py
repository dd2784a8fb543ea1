"""Sees to snapshots that grow old while nothing else happens: tells of warnings, removes automatic ones."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from jupyter_vsandbox.core.changes import Records
from jupyter_vsandbox.domain.advice import Advice
from jupyter_vsandbox.domain.errors import SandboxError
from jupyter_vsandbox.server import wire

if TYPE_CHECKING:
    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.domain.model import Sandbox, Snapshot
    from jupyter_vsandbox.server.describe import Describe
    from jupyter_vsandbox.server.events import Bus
    from jupyter_vsandbox.server.worker import Worker

_LONGEST_SECONDS = 3600.0
"""A host that sleeps stops the clock that is waited by."""

_log = logging.getLogger(__name__)


class Aging:
    """Waits for the moment at which a snapshot is too old, or soon will be. Belongs to the server's loop.

    Args:
        service: whose snapshots.
        worker: runs what blocks.
        describe: makes the wire form of sandboxes.
        bus: where warnings are told.
    """

    def __init__(self, service: SandboxService, worker: Worker, describe: Describe, bus: Bus) -> None:
        self._service = service
        self._worker = worker
        self._describe = describe
        self._bus = bus
        self._records = Records()
        self._changed = asyncio.Event()
        self._told: dict[str, str] = {}

    def follow(self, records: Records) -> None:
        """Say what there is."""
        self._records = records
        self._changed.set()

    async def run(self) -> None:
        """See to it, until cancelled."""
        while True:
            self._changed.clear()
            now = time.time()
            due = now + _LONGEST_SECONDS
            for sandbox, history, advice in await asyncio.to_thread(self._advised, self._records):
                await self._look(sandbox, history, advice, now)
                due = min(due, advice.next(history, now) or due)
            try:
                async with asyncio.timeout(max(due - time.time(), 0)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _advised(self, records: Records) -> list[tuple[Sandbox, list[Snapshot], Advice]]:
        """The sandboxes whose snapshots have limits; for threads."""
        found = []
        for sandbox in records.sandboxes.values():
            advice = self._service.advice(sandbox) if sandbox.id in records.histories else Advice()
            if advice != Advice():
                history = [each for each in records.snapshots.values() if each.sandbox == sandbox.id]
                found.append((sandbox, history, advice))
        return found

    async def _look(self, sandbox: Sandbox, history: list[Snapshot], advice: Advice, now: float) -> None:
        warnings = {each: advice.of_snapshot(each, now) for each in history}
        new = [each for each, warning in warnings.items() if self._told.get(each.id, "") != warning]
        self._told = {each: said for each, said in self._told.items() if each in self._records.snapshots}
        self._told |= {each.id: warnings[each] for each in new}
        for each in new:
            self._bus.snapshot("changed", each, wire.snapshot(each, warnings[each]))
        try:
            if new:
                self._bus.sandbox("changed", sandbox.id, await self._describe.one(sandbox.id))
            if await asyncio.to_thread(self._service.expired, sandbox.id):
                await self._worker.call(self._service.expire(sandbox.id))
        except SandboxError as error:  # it is gone, or being worked on; the next change brings it up again
            _log.info("The snapshots of sandbox %s are looked at later: %s", sandbox.id, error)
