"""Every verb on sandboxes, and the only writer of their records.

`Lifecycle` starts and ends machines; here are the verbs that travel in time. A rollback, a wake
and a fork are one thing: the record says which snapshot the sandbox is at, then the machine is put
there. A process that dies in between leaves a sandbox that is as good as hibernated at it.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox import faults
from jupyter_vsandbox.core import owner
from jupyter_vsandbox.core.changes import Records
from jupyter_vsandbox.core.labels import Labels
from jupyter_vsandbox.core.lifecycle import ADOPT_SECONDS, unless_ended
from jupyter_vsandbox.domain.errors import (
    Conflict,
    InvalidRequest,
    InvalidState,
    NotFound,
    Permanent,
    SandboxError,
    Unsupported,
)
from jupyter_vsandbox.domain.model import Cause, Sandbox, Snapshot, State
from jupyter_vsandbox.domain.retention import Retention
from jupyter_vsandbox.files import checksum, copy_whole, exhausted_if_full, locked
from jupyter_vsandbox.link import AgentLink, new_keys
from jupyter_vsandbox.runtimes import build
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

_HAS_MACHINE = frozenset({State.RUNNING, State.RESTORING, State.STOPPED, State.HIBERNATED})

_FOR_LATER = frozenset({Cause.ASKED, Cause.HIBERNATION})
"""Where the host may have another QEMU when it is wanted, and only the disk can be had."""

_PREFIXES = {
    Cause.ASKED: "snapshot",
    Cause.ROLLBACK: "before-rollback",
    Cause.PACKAGES: "before-packages",
    Cause.LONG_CELL: "after-long-cell",
}


class SandboxService(Labels):
    """All verbs. One per process is enough; several processes may have one at once."""

    # What there is.

    def history(self, sandbox_id: str) -> builtins.list[Snapshot]:
        """The snapshots of a sandbox, oldest first."""
        return self._store.snapshots(sandbox_id)

    def records(self) -> Records:
        """All sandboxes and snapshots of one moment."""
        return Records.of(*self._store.everything())

    def get_snapshot(self, snapshot_id: str) -> Snapshot:
        """One snapshot by its full id, of whichever sandbox.

        Raises:
            NotFound: there is none.
        """
        return self._store.get_snapshot(snapshot_id)

    def find_snapshot(self, sandbox_id: str, wanted: str) -> Snapshot:
        """The snapshot of a sandbox that has the name `wanted`, or whose id begins so.

        Raises:
            NotFound: there is none.
            InvalidRequest: there are several.
        """
        history = self.history(sandbox_id)
        found = [s for s in history if s.name == wanted] or [s for s in history if s.id.startswith(wanted)]
        if not wanted or not found:
            raise NotFound(
                f"Sandbox {sandbox_id} has no snapshot {wanted!r}; `jupyter vsandbox history {sandbox_id}` "
                "shows all."
            )
        if len(found) > 1:
            raise InvalidRequest(f"{wanted!r} fits {len(found)} snapshots; give more digits.")
        return found[0]

    async def settled(self, sandbox_id: str) -> Sandbox:
        """The record of a sandbox once nobody is at work on it; what a dead process left is mended.

        Raises:
            NotFound: it is gone.
        """
        async with self._settled(sandbox_id) as sandbox:
            return sandbox

    # The verbs.

    async def snapshot(
        self,
        sandbox_id: str,
        name: str = "",
        note: str = "",
        *,
        memory: bool = True,
        now: bool = False,
    ) -> Snapshot:
        """Keep a sandbox as it is: its disk, its memory if it runs, and its notebook's cells.

        Args:
            sandbox_id: which.
            name: for the snapshot, made up where it is "".
            note: free text.
            memory: keep the memory, too; a stopped sandbox has none.
            now: do not wait for the running cell to end.

        Raises:
            Conflict: the name is taken.
            InvalidState: it is neither running nor stopped.
            Exhausted: not enough disk.
        """
        async with self._between_cells(sandbox_id, now), self._settled(sandbox_id) as sandbox:
            return await self._snapshot(sandbox, Cause.ASKED, name, note, memory=memory)

    async def guard(self, sandbox_id: str, cause: Cause) -> None:
        """Snapshot a running sandbox though nobody asked, and let old snapshots of that kind go.

        `Settings.automatic_snapshots` and its like say how many there may be. The caller is between two
        cells, or does not care.

        Raises:
            Exhausted: not enough disk.
        """
        if not self.settings.automatic_snapshots:
            return
        async with self._settled(sandbox_id) as sandbox:
            if sandbox.state is State.RUNNING:
                await self._snapshot(sandbox, cause)
                await self._retire(sandbox_id)

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
            await self._check_usable(sandbox, target, memory=memory, cells=cells)
            if cells and sandbox.state is State.HIBERNATED and self._edited(sandbox):
                sandbox = await self._wake(sandbox)  # for what is left to hold the cells as they are now
            rolled = await self._travel(sandbox, target, memory=memory)
            if cells:
                faults.point("rollback.travelled")
                copy_whole(self.cells_of(target.id), Path(sandbox.notebook))
        return rolled

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
            the fork; running, or stopped where its beginning has no memory.
        """
        if snapshot_id:
            begin = self._store.get_snapshot(snapshot_id)
            sandbox = self.get(sandbox_id)
        else:
            async with self._between_cells(sandbox_id, now), self._settled(sandbox_id) as sandbox:
                if sandbox.state is State.HIBERNATED:
                    begin = self._store.get_snapshot(sandbox.snapshot)
                else:
                    begin = await self._snapshot(sandbox, Cause.FORK)
        faults.point("fork.begun")
        fork = await self._new_at(sandbox, begin, memory=begin.memory, name=name, origin=sandbox.id)
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

    @contextlib.asynccontextmanager
    async def passing(self, sandbox_id: str) -> AsyncIterator[Snapshot]:
        """A snapshot of a sandbox as it is, be it in the middle of a cell, removed when the block ends.

        Raises as `snapshot` does.
        """
        async with self._settled(sandbox_id) as sandbox:
            begin = await self._snapshot(sandbox, Cause.FORK)
        try:
            yield begin
        finally:
            async with self._lock(sandbox_id):
                with contextlib.suppress(NotFound):  # the sandbox may be gone by now
                    await self._remove_snapshots([begin])

    @contextlib.asynccontextmanager
    async def borrowed(self, sandbox_id: str) -> AsyncIterator[Sandbox]:
        """A sandbox that nobody uses, running, for the length of a block; it runs on after that.

        Raises as `claim` does.
        """
        claimed = await self.claim(sandbox_id, "")
        try:
            yield claimed
        finally:
            async with self._lock(sandbox_id):
                with contextlib.suppress(NotFound):
                    self._store.change(sandbox_id, owner="")

    async def _stopped_at(self, sandbox_id: str) -> Snapshot:
        async with self._settled(sandbox_id) as sandbox:
            if sandbox.state is not State.STOPPED:
                raise InvalidState(f"Sandbox {sandbox_id}", sandbox.state, {State.STOPPED})
            return await self._snapshot(sandbox, Cause.FORK)

    @contextlib.asynccontextmanager
    async def pinned(
        self, sandbox_id: str, snapshot_id: str = "", *, memory: bool = True, now: bool = False
    ) -> AsyncIterator[Snapshot]:
        """A snapshot whose files can be read for the length of a block; no verb disturbs it meanwhile.

        Args:
            sandbox_id: whose.
            snapshot_id: which; "" for the present, of which there is a snapshot as long as the block
                lasts. A hibernated sandbox is at one already.
            memory: keep the memory of the present, too, if it runs.
            now: do not wait for the running cell to end.
        """
        async with contextlib.AsyncExitStack() as cell:
            if not snapshot_id:
                await cell.enter_async_context(self._between_cells(sandbox_id, now))
            async with self._settled(sandbox_id) as sandbox:
                if sandbox.state is State.HIBERNATED:
                    snapshot_id = snapshot_id or sandbox.snapshot
                if snapshot_id:
                    yield self._store.get_snapshot(snapshot_id)
                    return
                taken = await self._snapshot(sandbox, Cause.FORK, memory=memory)
                try:
                    await cell.aclose()  # cells may go on
                    yield taken
                finally:
                    await self._remove_snapshots([taken])

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

    async def _new_at(
        self, sandbox: Sandbox, begin: Snapshot, *, memory: bool, name: str = "", origin: str = ""
    ) -> Sandbox:
        """A new sandbox of this process at a snapshot: running, or stopped without memory."""
        new = Sandbox(
            id=uuid.uuid4().hex[:12],
            runtime=sandbox.runtime,
            image=sandbox.image,
            driver=sandbox.driver,
            state=State.RESTORING,
            shape=sandbox.shape,
            created=time.time(),
            name=name,
            origin=origin,
            snapshot=begin.id,
            owner=owner.this_process(),
        )
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
                await self._check_usable(origin, target, memory=target.memory)
                promoted = await self._travel(origin, target, memory=target.memory)
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

    async def reset(self, sandbox_id: str) -> Sandbox:
        """Put a sandbox back to its clean image; what it leaves is a snapshot."""
        async with self._settled(sandbox_id) as sandbox:
            driver = self.driver(sandbox.driver)
            image = build.get(sandbox.image, self.settings)
            template = await driver.template(image, sandbox.shape, new_keys(), self._warm)
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

    async def claim(self, sandbox_id: str, kernel_id: str, notebook: str = "") -> Sandbox:
        """Give the calling process a sandbox that nobody uses, running.

        Raises:
            Conflict: another process uses it.
        """
        async with self._settled(sandbox_id) as sandbox:
            if sandbox.owner and owner.lives(sandbox.owner):
                raise Conflict(f"Sandbox {sandbox_id} is in use by another kernel; fork it to have your own.")
            mine = self._store.change(
                sandbox_id,
                owner=owner.this_process(),
                kernel_id=kernel_id,
                notebook=notebook or sandbox.notebook,
            )
            try:
                if mine.state is State.STOPPED:
                    return await self._boot(mine)
                return mine if mine.state is State.RUNNING else await self._wake(mine)
            except BaseException:
                self._store.change(
                    sandbox_id, owner="", kernel_id=sandbox.kernel_id, notebook=sandbox.notebook
                )
                raise

    def bound(self, notebook: str, runtime: str) -> str:
        """The id of the sandbox of a notebook; "" for none.

        Of several, one that no living process uses comes first, then the newest: each but the first was
        made because a kernel was in the others, see `claim`.
        """
        found = [s for s in self.list() if notebook and (s.notebook, s.runtime) == (notebook, runtime)]
        in_use = [bool(s.owner) and owner.lives(s.owner) for s in found]
        free = [sandbox for sandbox, used in zip(found, in_use, strict=True) if not used]
        return (free or found)[-1].id if found else ""

    def rebind(self, old: str, new: str) -> builtins.list[Sandbox]:
        """A notebook, or a folder with notebooks, has another path: their sandboxes go with them.

        What was bound to the new path was another notebook's, see `unbind`. Returns those that were bound.
        """
        self.unbind(new)
        return self._store.move_notebooks(old, new)

    def unbind(self, path: str) -> builtins.list[Sandbox]:
        """A notebook, or a folder with notebooks, was deleted: its sandboxes stay, named after it.

        They stay because what they hold was never in the notebook. They are not bound any more: the next
        notebook of that path, such as ``Untitled.ipynb``, is another one. Returns those that were bound.
        """
        return self._store.move_notebooks(path, "")

    def prunable(self, sandbox_id: str) -> builtins.list[Snapshot]:
        """The snapshots that nobody asked for and that no sandbox is at."""
        needed = {sandbox.snapshot for sandbox in self.list()}
        return [s for s in self.history(sandbox_id) if s.cause is not Cause.ASKED and s.id not in needed]

    async def prune(self, sandbox_id: str) -> builtins.list[Snapshot]:
        """Remove what `prunable` says; returns what was removed."""
        async with self._settled(sandbox_id):
            gone = self.prunable(sandbox_id)
            await self._remove_snapshots(gone)
        return gone

    async def remove_snapshot(self, snapshot_id: str) -> None:
        """Remove one snapshot; what follows it in the history stays.

        Raises:
            NotFound: there is none.
            Conflict: a sandbox is hibernated at it.
        """
        snapshot = self._store.get_snapshot(snapshot_id)
        async with self._settled(snapshot.sandbox):
            if asleep := await self._remove_snapshots([snapshot]):
                raise Conflict(f"Sandbox {asleep} is hibernated at {snapshot.name!r}; wake it first.")

    # The parts of a verb. All are called with the sandbox's lock held.

    @contextlib.asynccontextmanager
    async def _settled(self, sandbox_id: str) -> AsyncIterator[Sandbox]:
        """Hold the lock of a sandbox; a verb that was cut off by its process's end is undone first."""
        self.get(sandbox_id)
        async with self._lock(sandbox_id):
            sandbox = await self._mend(self.get(sandbox_id))
            if sandbox.state not in _HAS_MACHINE:
                raise InvalidState(f"Sandbox {sandbox_id}", sandbox.state, _HAS_MACHINE)
            yield sandbox

    async def _mend(self, sandbox: Sandbox) -> Sandbox:
        if sandbox.state is State.RESTORING:
            return await self._asleep(sandbox)
        return await super()._mend(sandbox)

    @contextlib.asynccontextmanager
    async def _between_cells(self, sandbox_id: str, now: bool) -> AsyncIterator[None]:
        if now:
            yield
        else:
            self.get(sandbox_id)
            async with locked(self.cell_lock(sandbox_id)):
                yield

    async def _snapshot(
        self,
        sandbox: Sandbox,
        cause: Cause,
        name: str = "",
        note: str = "",
        *,
        memory: bool = True,
        resume: bool = True,
        **values: object,
    ) -> Snapshot:
        history = self.history(sandbox.id)
        name = name or _free_name(cause, {s.name for s in history})
        if any(s.name == name for s in history):
            raise Conflict(f"Sandbox {sandbox.id} has a snapshot {name!r} already; choose another name.")
        if sandbox.state not in {State.RUNNING, State.STOPPED}:
            raise InvalidState(f"Sandbox {sandbox.id}", sandbox.state, {State.RUNNING, State.STOPPED})
        driver = self.driver(sandbox.driver)
        memory = memory and sandbox.state is State.RUNNING
        if not memory or cause in _FOR_LATER:
            await self._sync(sandbox)
        snapshot_id = uuid.uuid4().hex[:12]
        try:
            cells = self._keep_cells(sandbox, snapshot_id)
            faults.point("snapshot.begun")
            saved = await driver.snapshot(sandbox.id, snapshot_id, memory=memory, resume=resume)
            snapshot = Snapshot(
                id=snapshot_id,
                sandbox=sandbox.id,
                machine=sandbox.id,
                parent=sandbox.snapshot,
                name=name,
                note=note,
                cause=cause,
                created=time.time(),
                memory=memory,
                cells=cells,
                size=saved.size,
                pause=saved.pause,
                keys=sandbox.keys if memory else None,
            )
            faults.point("snapshot.saved")
            self._store.add_snapshot(snapshot, **values)
        except BaseException:
            self._forget_files(snapshot_id)
            await driver.forget([snapshot_id])
            if not resume:
                await driver.resume(sandbox.id)
            raise
        faults.point("snapshot.recorded")
        return snapshot

    def _keep_cells(self, sandbox: Sandbox, snapshot_id: str) -> bool:
        notebook = Path(sandbox.notebook)
        if not sandbox.notebook or not notebook.is_file():
            return False
        kept = self.cells_of(snapshot_id)
        private_folder(kept.parent)
        copy_whole(notebook, kept)
        with exhausted_if_full(kept.parent):
            self._checksum_of(snapshot_id).write_text(checksum(kept))
        return True

    async def _check_usable(
        self, sandbox: Sandbox, target: Snapshot, *, memory: bool, cells: bool = False
    ) -> None:
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
        await self.driver(sandbox.driver).check_snapshot(target.id, memory=memory)

    def _cells_whole(self, snapshot_id: str) -> bool:
        cells, kept = self.cells_of(snapshot_id), self._checksum_of(snapshot_id)
        # Earlier versions kept no checksum.
        return cells.exists() and (not kept.exists() or kept.read_bytes() == checksum(cells).encode())

    def _edited(self, sandbox: Sandbox) -> bool:
        """Whether the notebook differs from what the snapshot holds that a sandbox is at."""
        kept, notebook = self.cells_of(sandbox.snapshot), Path(sandbox.notebook)
        return notebook.is_file() and not (kept.exists() and filecmp.cmp(kept, notebook, shallow=False))

    async def _leave(self, sandbox: Sandbox) -> None:
        """Snapshot what is about to be left; a hibernated sandbox is one already."""
        if sandbox.state is not State.HIBERNATED:
            await self._snapshot(sandbox, Cause.ROLLBACK)

    async def _travel(self, sandbox: Sandbox, target: Snapshot, *, memory: bool) -> Sandbox:
        """Put a sandbox to `target`; where that fails, back to what it left."""
        await self._leave(sandbox)
        faults.point("rollback.left")
        left = self.get(sandbox.id).snapshot
        async with self._capacity():
            if memory and sandbox.state is not State.RUNNING:
                await self._make_room(sandbox, build.get(sandbox.image, self.settings), keep_standbys=False)
            self._store.change(
                sandbox.id, state=State.RESTORING, snapshot=target.id, endpoint=None, keys=None
            )
        faults.point("rollback.recorded")
        try:
            return await self._put(sandbox, target, memory=memory)
        except SandboxError:
            before = self._store.get_snapshot(left)
            self._store.change(sandbox.id, state=State.RESTORING, snapshot=left)
            await self._put(sandbox, before, memory=before.memory)
            raise

    async def _put(self, sandbox: Sandbox, target: Snapshot, *, memory: bool) -> Sandbox:
        """Bring the machine of a sandbox that is recorded as being restored to `target`."""
        driver = self.driver(sandbox.driver)
        try:
            await driver.stop(sandbox.id, grace=0)
            faults.point("restore.begun")
            endpoint = await driver.restore(sandbox.id, target.id, memory=memory)
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

    async def _retire(self, sandbox_id: str) -> None:
        """Remove the automatic snapshots that are beyond what the settings keep."""
        retention = Retention(
            self.settings.automatic_snapshots,
            self.settings.automatic_snapshot_age,
            self.settings.automatic_snapshot_bytes,
        )
        needed = {sandbox.snapshot for sandbox in self.list()}
        await self._remove_snapshots(retention.expired(self.history(sandbox_id), needed, time.time()))

    async def _remove_snapshots(self, snapshots: Iterable[Snapshot]) -> str:
        """Remove snapshots, but none that a sandbox is hibernated at; returns such a sandbox, or ""."""
        asleep = ""
        gone: builtins.list[Snapshot] = []
        for snapshot in snapshots:
            if found := self._store.remove_snapshot(snapshot.id):
                asleep = found
                continue
            faults.point("forget.recorded")
            self._forget_files(snapshot.id)
            gone.append(snapshot)
        if gone:
            await self.driver(self.get(gone[0].sandbox).driver).forget([s.id for s in gone])
        return asleep


def _free_name(cause: Cause, taken: set[str]) -> str:
    prefix = _PREFIXES.get(cause, str(cause))
    return next(name for i in range(1, len(taken) + 2) if (name := f"{prefix}-{i}") not in taken)
