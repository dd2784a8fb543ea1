"""What programs in a guest ask for, done to that guest's own sandbox and its forks, and answered.

`guest_wire` has the requests. None of them names a sandbox: the asking one is known by its link, its
forks and snapshots are looked up among its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox import cells
from jupyter_vsandbox.core import inventories
from jupyter_vsandbox.domain import difference
from jupyter_vsandbox.domain.errors import Conflict, InvalidRequest, NotFound, SandboxError, Transient
from jupyter_vsandbox.domain.model import State
from jupyter_vsandbox.guest.protocol import MAX_ASKING
from jupyter_vsandbox.kernel import changes, comparison, guest_wire
from jupyter_vsandbox.kernel.folder import Shared
from jupyter_vsandbox.kernel.guest_wire import number as number_of
from jupyter_vsandbox.kernel.runner import Runner
from jupyter_vsandbox.runtimes import build

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.domain.model import Sandbox, Snapshot

_log = logging.getLogger(__name__)

BURST = 40
PER_SECOND = 10.0
"""Requests of one guest: so many at once, and so many on and on."""
MAX_FORKS = 8
"""So many forks a guest may make of itself; others can make more."""
MAX_ROWS = 200
TRIED = "try"
"""Name of the fork that a command is tried in."""

# They take this machine from under the asker, so nothing that becomes of the asker may stop them.
_AWAY = (guest_wire.Rollback, guest_wire.Reset, guest_wire.Keep)
_LONG = (guest_wire.Compare, guest_wire.Try, guest_wire.RunIn, guest_wire.Diff, guest_wire.Fork)
_MAX_LONG = 2
# The others wait for each other.
_AT_ONCE = (*_LONG, guest_wire.Status, guest_wire.History, guest_wire.Hibernate)


class GuestRequests:
    """The requests of one guest at a time. Belongs to the event loop it is called on.

    Args:
        service: for the verbs.
        answer: sends number and line of an answer to the guest.
    """

    def __init__(self, service: SandboxService, answer: Callable[[int, str], Awaitable[object]]) -> None:
        self._service = service
        self._answer = answer
        self._asked: dict[int, asyncio.Task[None]] = {}
        self._every: set[asyncio.Task[None]] = set()
        self._stoppable: set[asyncio.Task[None]] = set()
        self._long: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()
        self._hibernating: asyncio.Task[None] | None = None
        self._allowed = float(BURST)
        self._counted = time.monotonic()

    def take(self, event: Mapping[str, Any], sandbox_id: str) -> None:
        """An event of the guest's agent: something is asked for, or taken back. Raises nothing."""
        number = number_of(event)
        if number is None:
            _log.debug("Sandbox %s asked for something without a number.", sandbox_id)
        elif event.get("event") == "withdrawn":
            self._stop(self._asked.get(number))
        elif number not in self._asked and len(self._asked) < 2 * MAX_ASKING:  # as its agent keeps it
            self._begin(number, event, sandbox_id)

    def _begin(self, number: int, event: Mapping[str, Any], sandbox_id: str) -> None:
        try:
            self._admit()
            request = guest_wire.request(event)
            if isinstance(request, _LONG) and len(self._long) >= _MAX_LONG:
                raise Conflict(f"{_MAX_LONG} such requests of this machine are under way; wait for them.")
        except SandboxError as error:
            task = asyncio.create_task(self._send(number, _failed(error)))
            self._stoppable.add(task)
        else:
            task = asyncio.create_task(self._handle(number, request, sandbox_id))
            if isinstance(request, _LONG):
                self._long.add(task)
            if not isinstance(request, _AWAY):
                self._stoppable.add(task)
        self._every.add(task)
        self._asked[number] = task
        task.add_done_callback(lambda done: self._done(number, done))

    def _admit(self) -> None:
        now = time.monotonic()
        self._allowed = min(BURST, self._allowed + (now - self._counted) * PER_SECOND)
        self._counted = now
        if self._allowed < 1 or len(self._asked) >= MAX_ASKING:
            raise Transient("This machine asks for too much at once; try again in a while.")
        self._allowed -= 1

    def _done(self, number: int, task: asyncio.Task[None]) -> None:
        if self._asked.get(number) is task:
            del self._asked[number]
        for tasks in (self._every, self._stoppable, self._long):
            tasks.discard(task)

    def _stop(self, task: asyncio.Task[None] | None) -> None:
        """Cancel what may be; once: a second time would cut the cleaning up off."""
        if task in self._stoppable and not task.cancelling():
            task.cancel()

    def drop(self) -> None:
        """The link to those who asked is gone: what they wait for ends, what was begun apart goes on.

        In another life of the machine the same numbers come again.
        """
        for task in self._asked.values():
            self._stop(task)
        self._asked.clear()

    async def close(self) -> None:
        """End all and clean up; what cannot be stopped is waited for. Harmless twice."""
        self.drop()
        waiting = set(self._every)
        if self._hibernating is not None:
            self._hibernating.cancel()
            waiting.add(self._hibernating)
        await asyncio.gather(*waiting, return_exceptions=True)

    async def _handle(self, number: int, request: guest_wire.Request, sandbox_id: str) -> None:
        try:
            if isinstance(request, _AT_ONCE):
                result = await self._do(request, sandbox_id)
            else:
                async with self._turn:
                    result = await self._do(request, sandbox_id)
            line = json.dumps({"result": result})
        except SandboxError as error:
            if isinstance(request, _AWAY):  # who asked may be back in another life, and never hear it
                _log.warning("Sandbox %s could not %s: %s", sandbox_id, type(request).__name__.lower(), error)
            line = _failed(error)
        except Exception:  # noqa: BLE001 - whatever went wrong, the guest must hear of it
            _log.exception("A request of sandbox %s failed", sandbox_id)
            line = json.dumps({"error": "The host failed to do this; its log has more.", "kind": "internal"})
        else:
            if isinstance(request, _AWAY):
                return  # the machine that asked is no more
        await self._send(number, line)

    async def _send(self, number: int, line: str) -> None:
        with contextlib.suppress(SandboxError):
            await self._answer(number, line)

    # The verbs.

    async def _do(self, request: guest_wire.Request, mine: str) -> object:
        match request:
            case guest_wire.Status():
                return self._status(mine)
            case guest_wire.History():
                current = self._service.get(mine).snapshot
                return [_snapshot_dict(each, current) for each in self._service.history(mine)]
            case guest_wire.Snapshot():
                taken = await self._service.snapshot(
                    mine, request.name, request.note, memory=request.memory, now=True
                )
                return _snapshot_dict(taken, taken.id)
            case guest_wire.Rollback():
                target = self._service.find_snapshot(mine, request.snapshot)
                return (await self._service.rollback(mine, target.id, cells=request.notebook)).id
            case guest_wire.Reset():
                return (await self._service.reset(mine)).id
            case guest_wire.Keep():
                return (await self._service.promote(self._fork(mine, TRIED).id)).id
            case guest_wire.Discard():
                await self._service.delete(self._fork(mine, TRIED).id)
                return {}
            case guest_wire.Hibernate():
                return self._hibernate(mine)
            case guest_wire.Fork():
                return await self._make_fork(mine, request.name)
            case guest_wire.Diff():
                return await self._diff(mine, request)
            case guest_wire.RunIn():
                return await self._run_in(mine, request)
            case guest_wire.Compare():
                return await self._compare(mine, request)
            case guest_wire.Try():
                return await self._try(mine, request)

    def _status(self, mine: str) -> dict[str, Any]:
        sandbox, usage = self._service.get(mine), self._service.usage(mine)
        return {
            "id": sandbox.id,
            "name": sandbox.name,
            "runtime": sandbox.runtime,
            "state": sandbox.state,
            "created": sandbox.created,
            "memory": usage.memory,
            "disk": usage.disk,
            "shape": asdict(sandbox.shape),
            "snapshots": [each.name for each in self._service.history(mine)],
            "forks": [_fork_dict(fork) for fork in self._forks(mine)],
            "runtimes": sorted({image.runtime for image in build.images(self._service.settings)}),
        }

    def _forks(self, mine: str) -> list[Sandbox]:
        return [sandbox for sandbox in self._service.list() if sandbox.origin == mine]

    def _fork(self, mine: str, wanted: str) -> Sandbox:
        forks = self._forks(mine)
        found = [f for f in forks if f.name == wanted] or [f for f in forks if f.id == wanted]
        if not found:
            names = ", ".join(fork.name or fork.id for fork in forks) or "none"
            raise NotFound(f"This sandbox has no fork {wanted!r}. There is: {names}.")
        return found[0]

    async def _make_fork(self, mine: str, name: str) -> dict[str, Any]:
        forks = self._forks(mine)
        if name and any(fork.name == name for fork in forks):
            raise Conflict(f"This sandbox has a fork {name!r} already; choose another name.")
        if len(forks) >= MAX_FORKS:
            raise InvalidRequest(f"This sandbox has {len(forks)} forks; remove one with jupyter vsandbox rm.")
        return _fork_dict(await self._service.fork(mine, name=name, now=True))

    def _hibernate(self, mine: str) -> dict[str, Any]:
        """Hibernate between two cells: now is in the middle of one."""

        async def later() -> None:
            try:
                await self._service.hibernate(mine)
            except SandboxError as error:
                _log.warning("Sandbox %s did not hibernate: %s", mine, error)

        if self._hibernating is None or self._hibernating.done():
            self._hibernating = asyncio.create_task(later())
        return {}

    async def _diff(self, mine: str, request: guest_wire.Diff) -> dict[str, Any]:
        find = self._service.find_snapshot
        sandbox = self._service.get(mine)
        old = inventories.Point(sandbox, find(mine, request.old))
        new = inventories.Point(sandbox, find(mine, request.new) if request.new else None)
        books = (inventories.notebook(self._service, old), inventories.notebook(self._service, new))
        changed = await asyncio.to_thread(cells.compare, *books)
        found = [await inventories.inventory(self._service, point, now=True) for point in (old, new)]
        result = await asyncio.to_thread(difference.compare, found[0], found[1], changed)
        return {
            "old": old.snapshot.name if old.snapshot else "now",
            "new": new.snapshot.name if new.snapshot else "now",
            "packages": _section(result.packages),
            "files": _section(result.files),
            "variables": _section(result.variables),
            "cells": _section(result.cells),
        }

    async def _run_in(self, mine: str, request: guest_wire.RunIn) -> dict[str, Any]:
        fork = self._fork(mine, request.fork)
        lost = fork.state is State.STOPPED
        shared = Shared(self._service.settings, fork.workspace)
        async with self._service.borrowed(fork.id) as sandbox, Runner(sandbox, shared) as runner:
            ran = await runner.run(request.code, request.seconds)
        return comparison.cell_dict(ran) | {"fresh": lost}

    async def _compare(self, mine: str, request: guest_wire.Compare) -> dict[str, Any]:
        if not request.runtimes and not request.command:
            raise InvalidRequest("compare needs the name of a runtime, or --fork COMMAND.")
        task = comparison.Task((request.code,), request.seconds, request.given, self._to_read(mine))
        for runtime in request.runtimes:
            build.find(runtime, self._service.settings)
        if request.command:
            columns = await comparison.in_copies(self._service, mine, request.command, task, request.runtimes)
        else:
            columns = await comparison.in_runtimes(self._service, request.runtimes, task)
        return {"columns": [comparison.column_dict(column) for column in columns]}

    def _to_read(self, mine: str) -> Shared:
        """The folder for machines that do the same at once: who wrote there would disturb the others."""
        return Shared(self._service.settings, self._service.get(mine).workspace, read_only=True)

    async def _try(self, mine: str, request: guest_wire.Try) -> dict[str, Any]:
        with contextlib.suppress(NotFound):
            await self._service.delete(self._fork(mine, TRIED).id)
        fork = await self._service.fork(mine, name=TRIED, now=True)
        done = False
        try:
            task = comparison.Task(request.cells, request.seconds, shared=self._to_read(mine))
            ran = await comparison.in_fork(self._service, fork, request.command, task)
            columns = [comparison.column_dict(column) for column in ran]
            whole = not any(column.note for column in ran)
            changed = await changes.told(columns) if whole else []
            done = whole
        finally:
            if not done:
                await self._service.delete(fork.id)
        return {"columns": columns, "changed": changed}


def _failed(error: SandboxError) -> str:
    return json.dumps({"error": str(error), "kind": type(error).__name__})


def _snapshot_dict(snapshot: Snapshot, current: str) -> dict[str, Any]:
    return {
        "name": snapshot.name,
        "note": snapshot.note,
        "cause": snapshot.cause,
        "created": snapshot.created,
        "memory": snapshot.memory,
        "cells": snapshot.cells,
        "size": snapshot.size,
        "pause": snapshot.pause,
        "current": snapshot.id == current,
    }


def _fork_dict(fork: Sandbox) -> dict[str, Any]:
    return {"id": fork.id, "name": fork.name, "state": fork.state}


def _section(section: difference.Section[Any]) -> dict[str, Any]:
    rows = [asdict(each) | {"change": each.change} for each in section.changes[:MAX_ROWS]]
    return {"rows": rows, "count": len(section.changes), "note": section.note}
