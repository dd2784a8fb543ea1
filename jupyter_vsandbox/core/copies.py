"""Sandboxes that begin where another one is, or was: forks, passing copies, and what was imported.

As a rollback does, each records first which snapshot the sandbox is at, and then puts its machine there.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from typing import TYPE_CHECKING

from jupyter_vsandbox import faults
from jupyter_vsandbox.core import owner
from jupyter_vsandbox.core.lifecycle import ADOPT_SECONDS
from jupyter_vsandbox.core.travel import Travel
from jupyter_vsandbox.domain.errors import InvalidState, NotFound, Unsupported
from jupyter_vsandbox.domain.model import Cause, Sandbox, Snapshot, State
from jupyter_vsandbox.runtimes import build

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable


class Copies(Travel):
    """The part of the service that makes sandboxes of snapshots."""

    async def fork(
        self, sandbox_id: str, snapshot_id: str = "", name: str = "", *, now: bool = False
    ) -> Sandbox:
        """Make a new sandbox that continues where another one is, or was.

        Args:
            sandbox_id: the origin, not disturbed beyond the pause of a snapshot.
            snapshot_id: where to begin; "" for the present.
            name: for the fork.
            now: do not wait for the running cell to end.

        Returns:
            the fork; running, or stopped where its beginning has no memory, or none that another machine
            can have.
        """
        if snapshot_id:
            begin = self._store.get_snapshot(snapshot_id)
            sandbox = self.get(sandbox_id)
        else:
            async with self._between_cells(sandbox_id, now), self._settled(sandbox_id) as sandbox:
                memory = True
                if sandbox.state is State.RUNNING and not self.memory_anywhere(sandbox):
                    try:
                        return await self._fork_running(sandbox, name)
                    except Unsupported:
                        memory = False
                if sandbox.state is State.HIBERNATED:
                    begin = self._store.get_snapshot(sandbox.snapshot)
                else:
                    begin = await self._snapshot(sandbox, Cause.FORK, memory=memory)
        faults.point("fork.begun")
        memory = begin.memory and self.memory_anywhere(sandbox)
        fork = await self._new_at(sandbox, begin, memory=memory, name=name, origin=sandbox.id)
        faults.point("fork.restored")
        return self._store.change(fork.id, owner="")

    @contextlib.asynccontextmanager
    async def copy(
        self, sandbox_id: str, snapshot_id: str = "", *, memory: bool = True
    ) -> AsyncIterator[Sandbox]:
        """A running machine to look around in, gone when the block ends; nobody is disturbed by it.

        It belongs to this process: should that die, the next one removes it.

        Args:
            sandbox_id: whose.
            snapshot_id: the moment; "" for the present of a sandbox that is stopped.
            memory: resume the kernel of that moment; else, and where the snapshot has no memory, its
                disk is booted, and no kernel runs.

        Raises:
            InvalidState: the present was asked for, and it is not stopped.
            Unsupported: its memory cannot be loaded here; its disk can.
            Exhausted: there is no memory for one more machine.
        """
        begin = self._store.get_snapshot(snapshot_id) if snapshot_id else await self._stopped_at(sandbox_id)
        made = ""
        try:
            memory = memory and begin.memory
            made = (await self._new_at(self.get(sandbox_id), begin, memory=memory)).id
            yield self.get(made) if memory else await self.start(made)
        finally:
            if made:
                await self.delete(made)
            if not snapshot_id:
                async with self._lock(sandbox_id):
                    with contextlib.suppress(NotFound):  # the sandbox may be gone by now
                        await self._remove_snapshots([begin])

    async def take_in(
        self, sandbox_id: str, arrive: Callable[[], Awaitable[tuple[Sandbox, Snapshot]]]
    ) -> Sandbox:
        """Record a sandbox that comes from elsewhere.

        Args:
            sandbox_id: its id, a new one.
            arrive: brings its files, and says what to record: the sandbox, being restored, and the
                snapshot that is all of its history.

        Returns:
            the sandbox, hibernated, or stopped where the snapshot has no memory.
        """
        try:
            # Held while the files come, so that nobody takes them for left behind.
            async with self._lock(sandbox_id):
                sandbox, begin = await arrive()
                self._store.add(sandbox, begin)
                if begin.memory:
                    return await self._asleep(sandbox)
                return await self._put(sandbox, begin, memory=False)
        except BaseException:
            await self.delete(sandbox_id)
            raise

    async def _stopped_at(self, sandbox_id: str) -> Snapshot:
        async with self._settled(sandbox_id) as sandbox:
            if sandbox.state is not State.STOPPED:
                raise InvalidState(f"Sandbox {sandbox_id}", sandbox.state, {State.STOPPED})
            return await self._snapshot(sandbox, Cause.FORK)

    async def _fork_running(self, sandbox: Sandbox, name: str) -> Sandbox:
        """A fork of a running machine that goes on without a snapshot."""
        driver = self.driver(sandbox.driver)
        if sandbox.keys is None:
            raise Unsupported(f"The keys of sandbox {sandbox.id} are not known.")
        new = _like(sandbox, State.STARTING, name, origin=sandbox.id)
        try:
            async with self._lock(new.id):
                self._store.add(new)
                faults.point("fork.recorded")
                endpoint = await driver.fork(new.id, sandbox.id)
                await self._adopt(new.id, driver, endpoint, sandbox.keys, State.RUNNING, ADOPT_SECONDS)
        except BaseException:
            await self.delete(new.id)
            raise
        return self._store.change(new.id, owner="")

    async def _new_at(
        self, sandbox: Sandbox, begin: Snapshot, *, memory: bool, name: str = "", origin: str = ""
    ) -> Sandbox:
        """A new sandbox of this process at a snapshot: running, or stopped without memory."""
        new = _like(sandbox, State.RESTORING, name, origin, begin.id)
        try:
            async with self._lock(new.id):
                async with self._capacity():
                    await self._make_room(new, build.get(new.image, self.settings), keep_standbys=False)
                    self._store.add(new)
                faults.point("fork.recorded")
                return await self._put(new, begin, memory=memory)
        except BaseException:
            await self.delete(new.id)
            raise


def _like(sandbox: Sandbox, state: State, name: str, origin: str, snapshot: str = "") -> Sandbox:
    """The record of a new sandbox of this process, made from the same as another one."""
    return Sandbox(
        id=uuid.uuid4().hex[:12],
        runtime=sandbox.runtime,
        image=sandbox.image,
        driver=sandbox.driver,
        state=state,
        shape=sandbox.shape,
        created=time.time(),
        name=name,
        origin=origin,
        snapshot=snapshot,
        owner=owner.this_process(),
        folder=sandbox.workspace,
    )
