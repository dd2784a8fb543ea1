"""What the handlers ask of sandboxes, in the words of the wire; nothing here blocks the server's loop."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox import cells
from jupyter_vsandbox.core import inventories
from jupyter_vsandbox.core.inventories import Point
from jupyter_vsandbox.domain.difference import compare
from jupyter_vsandbox.domain.errors import InvalidState, NotFound
from jupyter_vsandbox.domain.model import Cause, State
from jupyter_vsandbox.server import turns, wire, wire_diff
from jupyter_vsandbox.server.aging import Aging
from jupyter_vsandbox.server.describe import Describe
from jupyter_vsandbox.server.events import Follower
from jupyter_vsandbox.server.forks import Forks
from jupyter_vsandbox.server.host import Host
from jupyter_vsandbox.server.meters import Meters
from jupyter_vsandbox.server.operations import Operations
from jupyter_vsandbox.server.trials import Trials
from jupyter_vsandbox.server.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from jupyter_vsandbox.core.changes import Records
    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.domain.model import Sandbox, Snapshot
    from jupyter_vsandbox.server import contract
    from jupyter_vsandbox.server.events import Bus
    from jupyter_vsandbox.server.kernels import Kernels
    from jupyter_vsandbox.server.notebooks import Notebooks
    from jupyter_vsandbox.server.operations import Operation, Report
    from jupyter_vsandbox.settings import Settings


_log = logging.getLogger(__name__)


class Backend:
    """Answers the extension's requests. Made, used and closed on the server's event loop.

    Args:
        settings: those of the service.
        service: not closed here.
        bus: where changes are told.
        notebooks: those of the server.
        kernels: the server's.
    """

    def __init__(
        self,
        settings: Settings,
        service: SandboxService,
        bus: Bus,
        notebooks: Notebooks,
        kernels: Kernels,
    ) -> None:
        self._service = service
        self._kernels = kernels
        self._bus = bus
        self._worker = Worker()
        self._meters = Meters(service)
        self._describe = Describe(service, self._worker, self._meters, notebooks)
        self._forks = Forks(service, self._worker, notebooks, self._describe)
        self._trials = Trials(service, self._worker, notebooks, self._forks, kernels.manager)
        self._aging = Aging(service, self._worker, self._describe, bus)
        self._follower = Follower(settings, bus, self._describe.record, self._tell, self._follow)
        self._tasks: list[asyncio.Task[None]] = []
        self.operations = Operations(bus.operation)
        self.host = Host(settings, service, self.operations, self._worker)

    def start(self) -> None:
        """Begin to tell changes."""

        def usage(data: Mapping[str, object]) -> bool:
            return self._bus.emit("usage", data)

        self._tasks = [
            asyncio.create_task(self._follower.run()),
            asyncio.create_task(self._meters.tell(usage)),
            asyncio.create_task(self._aging.run()),
        ]
        for task in self._tasks:
            task.add_done_callback(_complain)

    def _follow(self, records: Records) -> None:
        running = [each.id for each in records.sandboxes.values() if each.state is State.RUNNING]
        self._meters.follow(running, records.sandboxes)
        self._aging.follow(records)

    async def close(self) -> None:
        """End what goes on: what can be cancelled is, the rest is waited for."""
        await self.operations.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._worker.close()

    # Sandboxes.

    async def sandboxes(self) -> wire.Json:
        """All sandboxes of this user."""
        return {"sandboxes": await self._describe.every()}

    async def sandbox(self, sandbox_id: str) -> wire.Json:
        """One sandbox."""
        return await self._describe.one(sandbox_id)

    async def rename(self, sandbox_id: str, request: contract.SandboxChange) -> wire.Json:
        """Give a sandbox another name."""
        await self._worker.call(self._service.rename(sandbox_id, request.name))
        return await self._describe.one(sandbox_id)

    async def delete(self, sandbox_id: str) -> Operation:
        """Begin to remove a sandbox and all that it has; its kernel, if it is ours, is shut down."""
        sandbox = await self._existing(sandbox_id)

        async def work(_: Report) -> None:
            await self._kernels.end(sandbox.kernel_id)
            await self._worker.call(self._service.delete(sandbox_id))

        return self.operations.begin("delete", work, sandbox=sandbox_id)

    async def verb(self, sandbox_id: str, verb: str) -> Operation:
        """Begin ``start``, ``stop``, ``hibernate``, ``wake`` or ``reset``."""
        if verb == "stop":
            return await self._begin_ending("stop", sandbox_id, self._service.stop)
        done = self._start if verb == "start" else getattr(self._service, verb)
        return await self._begin(verb, sandbox_id, lambda: done(sandbox_id), self._described)

    async def promote(self, fork_id: str) -> Operation:
        """Begin to put a fork in the place of its origin."""
        return await self._begin_ending("promote", fork_id, self._service.promote)

    async def rollback(self, sandbox_id: str, request: contract.RollbackRequest) -> Operation:
        """Begin to put a sandbox back to a snapshot."""
        target = await asyncio.to_thread(self._service.get_snapshot, request.snapshot)

        async def back() -> wire.Json:
            before = self._service.get(sandbox_id)
            await self._service.rollback(sandbox_id, target.id, cells=request.cells, memory=request.memory)
            left = [each.id for each in self._service.history(sandbox_id) if each.cause is Cause.ROLLBACK]
            undo = before.snapshot if before.state is State.HIBERNATED else left[-1]
            return {"snapshot": target.id, "undo": undo}

        async def tell(done: wire.Json) -> wire.Json:
            return {**done, "sandbox": await self._describe.one(sandbox_id)}

        return await self._begin("rollback", sandbox_id, back, tell)

    async def fork(self, sandbox_id: str, request: contract.ForkRequest) -> Operation:
        """Begin to fork a sandbox."""
        await self._existing(sandbox_id)
        await asyncio.to_thread(self._service.require_free, request.name)
        if request.snapshot:
            await self._snapshot(sandbox_id, request.snapshot)

        async def work(report: Report) -> wire.Json:
            return await self._forks.tell(await self._forks.make(sandbox_id, request, report))

        return self.operations.begin("fork", work, sandbox=sandbox_id, cancellable=True)

    async def trial(self, sandbox_id: str, request: contract.TrialRequest) -> Operation:
        """Begin to try a command in a fork."""
        sandbox = await self._existing(sandbox_id)
        await asyncio.to_thread(self._trials.require, sandbox)

        async def work(report: Report) -> wire.Json:
            return await self._trials.run(sandbox_id, request, report)

        return self.operations.begin("trial", work, sandbox=sandbox_id, cancellable=True)

    # Snapshots.

    async def snapshots(self, sandbox_id: str) -> wire.Json:
        """The history of a sandbox."""
        await self._existing(sandbox_id)

        def tell() -> list[wire.Json]:
            return [self._tell(each) for each in self._service.history(sandbox_id)]

        return {"snapshots": await asyncio.to_thread(tell)}

    async def take_snapshot(self, sandbox_id: str, request: contract.SnapshotRequest) -> Operation:
        """Begin to keep a sandbox as it is."""
        await self._existing(sandbox_id)

        def take() -> Coroutine[Any, Any, Snapshot]:
            return self._service.snapshot(
                sandbox_id, request.name, request.note, memory=not request.disk_only, now=True
            )

        async def work(report: Report) -> wire.Json:
            said = "Taking the snapshot"
            if request.now:
                taking = turns.at_once(take, said, report)
            else:
                taking = turns.between_cells(self._service, sandbox_id, take, said, report)
            return await asyncio.to_thread(self._tell, await self._worker.call(taking))

        return self.operations.begin("snapshot", work, sandbox=sandbox_id, cancellable=True)

    async def change_snapshot(
        self, sandbox_id: str, snapshot_id: str, request: contract.SnapshotChange
    ) -> wire.Json:
        """Give a snapshot another name or note."""
        await self._snapshot(sandbox_id, snapshot_id)
        changed = self._service.annotate(snapshot_id, name=request.name, note=request.note)
        return await asyncio.to_thread(self._tell, await self._worker.call(changed))

    async def delete_snapshot(self, sandbox_id: str, snapshot_id: str) -> Operation:
        """Begin to remove a snapshot."""
        await self._snapshot(sandbox_id, snapshot_id)
        return await self._begin(
            "delete_snapshot", sandbox_id, lambda: self._service.remove_snapshot(snapshot_id), _nothing
        )

    async def prunable(self, sandbox_id: str) -> wire.Json:
        """Which snapshots a prune would remove."""
        await self._existing(sandbox_id)
        return wire.prunable(await asyncio.to_thread(self._service.prunable, sandbox_id))

    async def prune(self, sandbox_id: str) -> Operation:
        """Begin to remove the snapshots that nobody asked for."""

        async def tell(gone: list[Snapshot]) -> wire.Json:
            return wire.prunable(gone)

        return await self._begin("prune", sandbox_id, lambda: self._service.prune(sandbox_id), tell)

    async def diff(self, request: contract.DiffRequest) -> Operation:
        """Begin to compare two moments."""
        old, new = await self._point(request.old), await self._point(request.new)

        async def look(report: Report) -> wire.Json:
            # Before the machines are looked at: that takes time, and a notebook goes on.
            notebooks = (inventories.notebook(self._service, point) for point in (old, new))
            changed = await asyncio.to_thread(cells.compare, *notebooks)
            # One after the other: two copies at once need twice the memory.
            report.progress("work", None, f"Looking into {old}")
            before = await inventories.inventory(self._service, old, now=request.now)
            report.progress("work", 0.5, f"Looking into {new}")
            after = await inventories.inventory(self._service, new, now=request.now)
            found = await asyncio.to_thread(compare, before, after, changed)
            return wire_diff.difference(old, new, found, (before, after), self._tell)

        async def work(report: Report) -> wire.Json:
            return await self._worker.call(look(report))

        return self.operations.begin("diff", work, sandbox=new.sandbox.id, cancellable=True)

    async def cancel(self, operation_id: str) -> Operation:
        """Ask an operation to end."""
        return self.operations.cancel(operation_id)

    # What they share.

    async def _begin(
        self,
        verb: str,
        sandbox_id: str,
        act: Callable[[], Coroutine[Any, Any, Any]],
        tell: Callable[[Any], Coroutine[Any, Any, wire.Json | None]],
    ) -> Operation:
        """Begin a verb that runs to its end.

        Args:
            verb: its name.
            sandbox_id: must exist.
            act: does it, in the worker.
            tell: makes the operation's result of what `act` returned.
        """
        await self._existing(sandbox_id)

        async def work(_: Report) -> wire.Json | None:
            return await tell(await self._worker.call(act()))

        return self.operations.begin(verb, work, sandbox=sandbox_id)

    async def _begin_ending(
        self, verb: str, sandbox_id: str, act: Callable[[str], Coroutine[Any, Any, Sandbox]]
    ) -> Operation:
        """Begin a verb that takes its machine away from a kernel; if that is ours, it is shut down then."""
        sandbox = await self._existing(sandbox_id)

        async def work(_: Report) -> wire.Json:
            async with self._kernels.ending(sandbox.kernel_id):
                after = await self._worker.call(act(sandbox_id))
                return await self._describe.one(after.id)  # with its kernel, a disposable one is gone

        return self.operations.begin(verb, work, sandbox=sandbox_id)

    async def _start(self, sandbox_id: str) -> Sandbox:
        """Boot a sandbox for nobody in particular."""
        sandbox = await self._service.settled(sandbox_id)
        if sandbox.state is State.RUNNING:
            return sandbox
        if sandbox.state is not State.STOPPED:
            raise InvalidState(f"Sandbox {sandbox_id}", sandbox.state, {State.STOPPED, State.RUNNING})
        await self._service.start(sandbox_id)
        return await self._service.offer(sandbox_id)

    def _tell(self, snapshot: Snapshot) -> wire.Json:
        """For threads."""
        return wire.snapshot(snapshot, self._service.warning(snapshot))

    async def _described(self, sandbox: Sandbox) -> wire.Json:
        return await self._describe.one(sandbox.id)

    async def _existing(self, sandbox_id: str) -> Sandbox:
        return await asyncio.to_thread(self._service.get, sandbox_id)

    async def _snapshot(self, sandbox_id: str, snapshot_id: str) -> Snapshot:
        """A snapshot in the history of a sandbox."""
        await self._existing(sandbox_id)
        snapshot = await asyncio.to_thread(self._service.get_snapshot, snapshot_id)
        if snapshot.sandbox != sandbox_id:
            raise NotFound(f"Sandbox {sandbox_id} has no snapshot {snapshot_id}.")
        return snapshot

    async def _point(self, wanted: Mapping[str, str]) -> Point:
        sandbox = await self._existing(wanted["sandbox"])
        snapshot_id = wanted.get("snapshot")
        return Point(sandbox, await self._snapshot(sandbox.id, snapshot_id) if snapshot_id else None)


def _complain(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("Changes of sandboxes are not told any more", exc_info=error)


async def _nothing(_: None) -> None:
    return None
