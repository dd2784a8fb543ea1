"""The snapshots of sandboxes: taking, finding and removing them.

Nothing here puts a machine anywhere else.
"""

from __future__ import annotations

import contextlib
import filecmp
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox import faults
from jupyter_vsandbox.core.changes import Records
from jupyter_vsandbox.core.labels import Labels
from jupyter_vsandbox.domain.advice import Advice
from jupyter_vsandbox.domain.errors import (
    Conflict,
    InvalidRequest,
    InvalidState,
    NotFound,
    SandboxError,
    Unsupported,
)
from jupyter_vsandbox.domain.model import Cause, Sandbox, Snapshot, State
from jupyter_vsandbox.domain.retention import Retention
from jupyter_vsandbox.files import checksum, copy_whole, exhausted_if_full, locked
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator, Iterable


_HAS_MACHINE = frozenset({State.RUNNING, State.RESTORING, State.STOPPED, State.HIBERNATED})

_FOR_LATER = frozenset({Cause.ASKED, Cause.HIBERNATION})
"""Where the host may have another QEMU when it is wanted, and only the disk can be had."""

_PREFIXES = {
    Cause.ASKED: "snapshot",
    Cause.ROLLBACK: "before-rollback",
    Cause.PACKAGES: "before-packages",
    Cause.LONG_CELL: "after-long-cell",
}


class History(Labels):
    """The part of the service that keeps points in time."""

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
            taken = await self._snapshot(sandbox, Cause.ASKED, name, note, memory=memory)
            if self.advice(sandbox).chain:
                with contextlib.suppress(SandboxError):  # that something else stays is no fault of this one
                    await self._retire(sandbox_id)
        return taken

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
                await self._keep(sandbox, cause)
                await self._retire(sandbox_id)

    def warning(self, snapshot: Snapshot) -> str:
        """What people are to be warned of at a snapshot, "" for nothing."""
        with contextlib.suppress(NotFound):
            return self.advice(self.get(snapshot.sandbox)).of_snapshot(snapshot, time.time())
        return ""

    def history_warning(self, sandbox: Sandbox) -> str:
        """What people are to be warned of at the history of a sandbox, "" for nothing."""
        advice = self.advice(sandbox)
        if advice == Advice():
            return ""
        return advice.of_history(self.history(sandbox.id), sandbox.snapshot, time.time())

    def expired(self, sandbox_id: str) -> builtins.list[Snapshot]:
        """The automatic snapshots that are beyond what settings and driver allow."""
        sandbox, history = self.get(sandbox_id), self.history(sandbox_id)
        settings = self.settings
        retention = Retention(
            settings.automatic_snapshots, settings.automatic_snapshot_age, settings.automatic_snapshot_bytes
        )
        retention = self.advice(sandbox).narrowed(retention, history, sandbox.snapshot)
        needed = {each.snapshot for each in self.list()}
        return retention.expired(history, needed, time.time())

    async def expire(self, sandbox_id: str) -> None:
        """Remove what `expired` says."""
        async with self._settled(sandbox_id):
            await self._retire(sandbox_id)

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

    @contextlib.asynccontextmanager
    async def _between_cells(self, sandbox_id: str, now: bool) -> AsyncIterator[None]:
        if now:
            yield
        else:
            self.get(sandbox_id)
            async with locked(self.cell_lock(sandbox_id)):
                yield

    async def _keep(self, sandbox: Sandbox, cause: Cause) -> Snapshot:
        """A snapshot that nobody asked for: of the disk alone, where the memory cannot be kept."""
        try:
            return await self._snapshot(sandbox, cause)
        except Unsupported:
            return await self._snapshot(sandbox, cause, memory=False)

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

    def _cells_whole(self, snapshot_id: str) -> bool:
        cells, kept = self.cells_of(snapshot_id), self._checksum_of(snapshot_id)
        # Earlier versions kept no checksum.
        return cells.exists() and (not kept.exists() or kept.read_bytes() == checksum(cells).encode())

    def _edited(self, sandbox: Sandbox) -> bool:
        """Whether the notebook differs from what the snapshot holds that a sandbox is at."""
        kept, notebook = self.cells_of(sandbox.snapshot), Path(sandbox.notebook)
        return notebook.is_file() and not (kept.exists() and filecmp.cmp(kept, notebook, shallow=False))

    async def _retire(self, sandbox_id: str) -> None:
        """Remove the automatic snapshots that are beyond what is allowed."""
        await self._remove_snapshots(self.expired(sandbox_id))

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
