"""The verbs that put a machine somewhere else in its history.

A rollback and a wake are one thing: the record says which snapshot the sandbox is at, then the
machine is put there. A process that dies in between leaves a sandbox that is as good as hibernated at it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox import faults
from jupyter_vsandbox.core.history import History
from jupyter_vsandbox.core.lifecycle import ADOPT_SECONDS, unless_ended
from jupyter_vsandbox.domain.errors import (
    InvalidRequest,
    InvalidState,
    NotFound,
    Permanent,
    SandboxError,
    Unsupported,
)
from jupyter_vsandbox.domain.model import Cause, State
from jupyter_vsandbox.files import copy_whole
from jupyter_vsandbox.link import AgentLink, new_keys
from jupyter_vsandbox.runtimes import build

if TYPE_CHECKING:
    from jupyter_vsandbox.domain.model import Sandbox, Snapshot


class Travel(History):
    """The part of the service that goes to points in time."""

    async def rollback(
        self, sandbox_id: str, snapshot_id: str, *, cells: bool = False, memory: bool = True
    ) -> Sandbox:
        """Put a sandbox back to one of its snapshots; what it leaves is a snapshot, too.

        Args:
            sandbox_id: which.
            snapshot_id: where to; a snapshot of this sandbox, or of another one of the same image.
            cells: put the notebook's cells back as well.
            memory: go on with the kernel of that moment; else only the disk is put back, and the
                sandbox is stopped.

        Raises:
            NotFound: there is no such snapshot.
            Unsupported: its memory cannot be loaded here, or it has none; the disk can.
            Permanent: it is damaged; the sandbox is left as it was.
        """
        target = self._store.get_snapshot(snapshot_id)
        async with self._settled(sandbox_id) as sandbox:
            self._check_usable(sandbox, target, memory=memory, cells=cells)
            if cells and sandbox.state is State.HIBERNATED and self._edited(sandbox):
                sandbox = await self._wake(sandbox)  # for what is left to hold the cells as they are now
            rolled = await self._travel(sandbox, target, memory=memory)
            if cells:
                faults.point("rollback.travelled")
                copy_whole(self.cells_of(target.id), Path(sandbox.notebook))
        return rolled

    async def promote(self, fork_id: str) -> Sandbox:
        """Put a fork in the place of the sandbox it came from.

        The origin keeps its id, its clients and its history, and continues where the fork is; what
        it was is a snapshot. The fork's history becomes part of its own, and the fork is gone.

        Raises:
            InvalidRequest: it is no fork, or its origin is gone.
        """
        fork = self.get(fork_id)
        try:
            origin_id = self.get(fork.origin).id if fork.origin else ""
        except NotFound:
            origin_id = ""
        if not origin_id:
            raise InvalidRequest(f"Sandbox {fork_id} is no fork of a sandbox that still exists.")
        async with self._between_cells(fork_id, now=False), self._settled(fork_id) as fork:
            if fork.state is State.HIBERNATED:
                target = self._store.get_snapshot(fork.snapshot)
            else:
                target = await self._snapshot(fork, Cause.FORK)
            faults.point("promote.begun")
            async with self._settled(origin_id) as origin:
                self._check_usable(origin, target, memory=target.memory)
                promoted = await self._travel(origin, target, memory=target.memory, take=True)
                faults.point("promote.travelled")
                self._store.move_history(fork_id, origin_id)
            faults.point("promote.moved")
        await self.delete(fork_id)
        return promoted

    async def hibernate(self, sandbox_id: str, *, now: bool = False) -> Sandbox:
        """Write memory to the disk and end the machine. Harmless twice.

        Args:
            sandbox_id: which.
            now: do not wait for the running cell to end; it goes on after the wake.

        Raises:
            InvalidState: it does not run.
            Exhausted: not enough disk; it runs on.
        """
        async with self._between_cells(sandbox_id, now), self._settled(sandbox_id) as sandbox:
            if sandbox.state is State.HIBERNATED:
                return sandbox
            if sandbox.state is not State.RUNNING:
                raise InvalidState(f"Sandbox {sandbox_id}", sandbox.state, {State.RUNNING})
            await self._snapshot(
                sandbox, Cause.HIBERNATION, resume=False, state=State.HIBERNATED, endpoint=None, keys=None
            )
            faults.point("hibernate.recorded")
            await self.driver(sandbox.driver).stop(sandbox_id, grace=0)
            faults.point("hibernate.ended")
            return self.get(sandbox_id)

    async def wake(self, sandbox_id: str) -> Sandbox:
        """Bring a hibernated sandbox back; one that runs is returned as it is.

        Raises:
            InvalidState: it is stopped; `start` boots it.
            Exhausted: its memory does not fit now.
        """
        async with self._settled(sandbox_id) as sandbox:
            if sandbox.state is State.RUNNING:
                return sandbox
            if sandbox.state is not State.HIBERNATED:
                raise InvalidState(f"Sandbox {sandbox_id}", sandbox.state, {State.HIBERNATED, State.RUNNING})
            return await self._wake(sandbox)

    async def reset(self, sandbox_id: str) -> Sandbox:
        """Put a sandbox back to its clean image; what it leaves is a snapshot."""
        async with self._settled(sandbox_id) as sandbox:
            driver = self.driver(sandbox.driver)
            image = build.get(sandbox.image, self.settings)
            shape = replace(sandbox.shape, gpu=image.shape.gpu)  # the store does not keep it
            template = await driver.template(image, shape, new_keys(), self._warm)
            await self._leave(sandbox)
            faults.point("reset.left")
            self._store.change(sandbox_id, state=State.RESTORING, endpoint=None, keys=None)
            faults.point("reset.recorded")
            try:
                await driver.delete(sandbox_id)
                faults.point("reset.deleted")
                endpoint = await driver.start(sandbox_id, template)
                faults.point("reset.started")
                self._store.change(sandbox_id, snapshot="")
                faults.point("reset.cleaned")
                return await self._adopt(
                    sandbox_id, driver, endpoint, template.keys, State.RUNNING, ADOPT_SECONDS
                )
            except BaseException:
                await self._asleep(self.get(sandbox_id))
                raise

    # The parts of a verb. All are called with the sandbox's lock held.

    async def _mend(self, sandbox: Sandbox) -> Sandbox:
        if sandbox.state is State.RESTORING:
            return await self._asleep(sandbox)
        return await super()._mend(sandbox)

    def _check_usable(self, sandbox: Sandbox, target: Snapshot, *, memory: bool, cells: bool = False) -> None:
        if target.sandbox != sandbox.id and self.get(target.sandbox).image != sandbox.image:
            raise InvalidRequest(f"Snapshot {target.name!r} is of another image than sandbox {sandbox.id}.")
        if memory and not target.memory:
            raise Unsupported(
                f"Snapshot {target.name!r} holds no memory. Its disk can be had: ask for the disk only."
            )
        if cells and not (target.cells and sandbox.notebook):
            raise InvalidRequest(f"Snapshot {target.name!r} holds no cells, or no notebook is known.")
        if cells and not self._cells_whole(target.id):
            raise Permanent(f"{self.cells_of(target.id)} is damaged: go back without the cells.")

    async def _leave(self, sandbox: Sandbox) -> None:
        """Snapshot what is about to be left; a hibernated sandbox is one already."""
        if sandbox.state is not State.HIBERNATED:
            await self._keep(sandbox, Cause.ROLLBACK)

    async def _leave_for(self, sandbox: Sandbox, target: Snapshot, *, memory: bool, take: bool) -> None:
        """Snapshot what is about to be left, once it is sure that `target` can be gone to.

        For a machine that runs here both is done at once, and where there is memory for two of it, so is
        what a restore begins with.
        """
        driver = self.driver(sandbox.driver)
        check = partial(driver.check_snapshot, sandbox.id, target.id, memory=memory, take=take)
        if not (memory and sandbox.state is State.RUNNING and self.on_this_host(sandbox)):
            await check()
            await self._leave(sandbox)
            return

        async def begin() -> None:
            await check(ahead=self._fits_twice(sandbox))

        checking = asyncio.create_task(begin())
        await asyncio.sleep(0)
        if checking.done():  # what is refused at once is so before anything is kept
            checking.result()
        try:
            await self._leave(sandbox)
        finally:
            await asyncio.wait([checking])  # not cancelled: a thread of it would go on
            failed = checking.exception()
        if failed is not None:
            await self._remove_snapshots([self._store.get_snapshot(self.get(sandbox.id).snapshot)])
            raise failed

    def _fits_twice(self, sandbox: Sandbox) -> bool:
        """Whether there is memory for one more machine of the size of one that runs."""
        try:
            self._require_memory(replace(sandbox, id=""), build.get(sandbox.image, self.settings))
        except SandboxError:
            return False
        return True

    async def _travel(
        self, sandbox: Sandbox, target: Snapshot, *, memory: bool, take: bool = False
    ) -> Sandbox:
        """Put a sandbox to `target`; where that fails, back to what it left."""
        try:
            await self._leave_for(sandbox, target, memory=memory, take=take)
            faults.point("rollback.left")
            left = self.get(sandbox.id).snapshot
            async with self._capacity():
                if memory and sandbox.state is not State.RUNNING:
                    await self._make_room(
                        sandbox, build.get(sandbox.image, self.settings), keep_standbys=False
                    )
                self._store.change(
                    sandbox.id, state=State.RESTORING, snapshot=target.id, endpoint=None, keys=None
                )
        except BaseException:
            with contextlib.suppress(SandboxError):
                await self.driver(sandbox.driver).resume(sandbox.id)
            raise
        faults.point("rollback.recorded")
        try:
            return await self._put(sandbox, target, memory=memory, take=take)
        except SandboxError:
            before = self._store.get_snapshot(left)
            self._store.change(sandbox.id, state=State.RESTORING, snapshot=left)
            await self._put(sandbox, before, memory=before.memory)
            raise

    async def _wake(self, sandbox: Sandbox) -> Sandbox:
        point = self._store.get_snapshot(sandbox.snapshot)
        async with self._capacity():
            await self._make_room(sandbox, build.get(sandbox.image, self.settings), keep_standbys=False)
            self._store.change(sandbox.id, state=State.RESTORING)
        faults.point("wake.recorded")
        await self._put(sandbox, point, memory=True)
        faults.point("wake.restored")
        # Those of its own that nobody needs any more; more than one if a wake was cut off here.
        hibernations = [s for s in self.history(sandbox.id) if s.cause is Cause.HIBERNATION]
        await self._remove_snapshots(s for s in hibernations if s.machine == sandbox.id)
        return self.get(sandbox.id)

    async def _put(self, sandbox: Sandbox, target: Snapshot, *, memory: bool, take: bool = False) -> Sandbox:
        """Bring the machine of a sandbox that is recorded as being restored to `target`."""
        driver = self.driver(sandbox.driver)
        try:
            endpoint = await driver.restore(sandbox.id, target.id, memory=memory, take=take)
            if endpoint is None or target.keys is None:
                return self._store.change(sandbox.id, state=State.STOPPED, endpoint=None, keys=None)
            if target.machine != sandbox.id:
                return await self._adopt(
                    sandbox.id, driver, endpoint, target.keys, State.RUNNING, ADOPT_SECONDS
                )
            # It is the machine it was, and its keys were never anybody else's.
            async with AgentLink(endpoint, target.keys) as link:
                resumed = link.request("resume", timeout=ADOPT_SECONDS, entropy=os.urandom(64).hex())
                await unless_ended(driver, sandbox.id, resumed)
                await link.set_clock()
            faults.point("restore.resumed")
            return self._store.change(sandbox.id, state=State.RUNNING, endpoint=endpoint, keys=target.keys)
        except BaseException:
            await self._asleep(sandbox)
            raise

    async def _asleep(self, sandbox: Sandbox) -> Sandbox:
        """What a restore that did not end well comes to: no machine, and the snapshot to wake from.

        One without memory is completed: its disk is put back.
        """
        driver = self.driver(sandbox.driver)
        await driver.stop(sandbox.id, grace=0)
        memory = False
        if current := self.get(sandbox.id).snapshot:
            with contextlib.suppress(SandboxError):
                memory = self._store.get_snapshot(current).memory
                if not memory:
                    await driver.restore(sandbox.id, current, memory=False)
        state = State.HIBERNATED if memory else State.STOPPED
        return self._store.change(sandbox.id, state=state, endpoint=None, keys=None)
