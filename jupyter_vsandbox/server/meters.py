"""What machines take from the host, told while they run and somebody listens."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import SandboxError
from jupyter_vsandbox.domain.model import MIB, State, Usage
from jupyter_vsandbox.server import wire
from jupyter_vsandbox.server.wire import Gauge

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.domain.model import Sandbox

SECONDS = 5.0
"""How often running machines are looked at."""
_SHORTEST = 0.5
"""Seconds without which processor time says nothing about a rate."""
_NOTICED_CPU = 0.01
_NOTICED_BYTES = MIB
NOTHING = Usage(memory=0, disk=0, cpu=0.0)


class Meters:
    """Reads what machines take; belongs to the server's loop, `read` to any thread.

    Args:
        service: whose sandboxes.
    """

    def __init__(self, service: SandboxService) -> None:
        self._service = service
        self._seen: dict[str, tuple[float, float, float | None]] = {}
        self._told: dict[str, Gauge] = {}
        self._running: frozenset[str] = frozenset()
        self._changed = asyncio.Event()

    def read(self, sandbox: Sandbox) -> Gauge:
        """What a sandbox takes now; zeros where its driver is not installed, and no rate where it rests."""
        try:
            usage = self._service.driver(sandbox.driver).usage(sandbox.id)
        except (SandboxError, OSError):  # OSError: it is ending or being deleted just now
            usage = NOTHING
        now = time.monotonic()
        then, cpu, rate = self._seen.get(sandbox.id, (now, usage.cpu, None))
        if now - then >= _SHORTEST:
            rate = max(0.0, usage.cpu - cpu) / (now - then)
        if sandbox.id not in self._seen or now - then >= _SHORTEST:
            self._seen[sandbox.id] = (now, usage.cpu, rate)
        return Gauge(usage, rate if sandbox.state is State.RUNNING else None)

    def follow(self, running: Collection[str], known: Collection[str]) -> None:
        """Say which machines run, and which sandboxes there are at all."""
        self._running = frozenset(running)
        self._changed.set()
        for old in self._seen.keys() - set(known):
            del self._seen[old]

    async def tell(self, emit: Callable[[Mapping[str, object]], bool]) -> None:
        """Until cancelled, tell what changed noticeably.

        Args:
            emit: tells it; says whether anybody listens.
        """
        heard = False
        while True:
            if not self._running and not self._told:
                self._changed.clear()
                await self._changed.wait()
            looked_at = sorted(self._running)
            # While nobody listens, one machine is looked at to find out when somebody does.
            found = await asyncio.to_thread(self._look, looked_at if heard else looked_at[:1])
            noticed = {each: gauge for each, gauge in found.items() if self._noticed(each, gauge)}
            # Those that sleep now still have a disk.
            noticed |= await asyncio.to_thread(self._look, sorted(self._told.keys() - self._running))
            if noticed:
                heard = emit({"usages": {each: wire.gauge(gauge) for each, gauge in noticed.items()}})
                self._told |= noticed if heard else {}
            self._told = {each: gauge for each, gauge in self._told.items() if each in self._running}
            await asyncio.sleep(SECONDS)

    def _look(self, sandboxes: list[str]) -> dict[str, Gauge]:
        found = {}
        for each in sandboxes:
            with contextlib.suppress(SandboxError):  # it is gone
                found[each] = self.read(self._service.get(each))
        return found

    def _noticed(self, sandbox_id: str, gauge: Gauge) -> bool:
        told = self._told.get(sandbox_id)
        return (
            told is None
            or abs((gauge.cpu or 0) - (told.cpu or 0)) >= _NOTICED_CPU
            or abs(gauge.usage.memory - told.usage.memory) >= _NOTICED_BYTES
            or abs(gauge.usage.disk - told.usage.disk) >= _NOTICED_BYTES
        )
