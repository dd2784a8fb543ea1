"""A sandbox that verbs are cut off on, and what must hold of it and of its home afterwards."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.model import State
from jupyter_vsandbox.drivers.qemu.driver import QemuDriver
from tests.conftest import RUNTIME
from tests.guest import evaluate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Home

SET = "import os; x = {0}; open('/home/jovyan/x', 'w').write('{0}'); os.sync()"
FILE = "/home/jovyan/x"
GET = "[globals().get('x'), int(open('/home/jovyan/x').read()) if os.path.exists('/home/jovyan/x') else None]"


@dataclass
class Subject:
    """One sandbox and a model of it: a number in its memory and on its disk.

    Attributes:
        home: where it is.
        id: of the sandbox, "" before `begin`.
        kept: of the snapshot that it always comes back to.
        number: what it holds now.
        history: what each of its snapshots holds, as far as that is known.
    """

    home: Home
    id: str = ""
    kept: str = ""
    number: int = 0
    history: dict[str, int] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def notebook(self) -> Path:
        """Its notebook, whose only content is the number."""
        return self.home.settings.home.parent / "mine.ipynb"

    def begin(self) -> None:
        """Have it running, its number new, and no snapshot but the one to come back to."""
        asyncio.run(self._begin())

    async def _begin(self) -> None:
        with SandboxService(self.home.settings) as service:
            if self.id not in {sandbox.id for sandbox in service.list()}:
                self.id = (await service.create(RUNTIME, notebook=str(self.notebook))).id
                service._store.change(self.id, owner="")
                await self.write(service)
                self.kept = (await service.snapshot(self.id, "kept")).id
                self.history = {self.kept: self.number}
            for other in service.list():
                if other.id != self.id:
                    await service.delete(other.id)
            sandbox = await service.settled(self.id)
            if sandbox.state is State.HIBERNATED:
                await service.wake(self.id)
            elif sandbox.state is State.STOPPED:
                await service.rollback(self.id, self.kept)
            for snapshot in service.history(self.id):
                if snapshot.id != self.kept:
                    await service.remove_snapshot(snapshot.id)
            self.history = {self.kept: self.history[self.kept]}
            await self.write(service)

    async def write(self, service: SandboxService) -> None:
        """Give it, and its notebook, a new number."""
        self.number = await renumber(service, self.id, next(self.numbers))
        self.notebook.write_text(str(self.number))

    async def observe(self, service: SandboxService, sandbox_id: str) -> tuple[State, int | None]:
        """The state of a sandbox and its number; one that is hibernated is woken to see."""
        sandbox = await service.settled(sandbox_id)
        if sandbox.state is State.STOPPED:
            return sandbox.state, read_disk(self.home, sandbox_id)
        if sandbox.state is State.HIBERNATED:
            await service.wake(sandbox_id)
        return sandbox.state, await self.number_of(service, sandbox_id)

    async def number_of(self, service: SandboxService, sandbox_id: str) -> int | None:
        """The number of a sandbox that runs, the same in memory and on disk."""
        memory, disk = await _cell(service, sandbox_id)
        assert memory == disk
        return memory

    async def restores(self, service: SandboxService, snapshot_id: str) -> int | None:
        """The number that a snapshot restores to."""
        await service.rollback(self.id, snapshot_id)
        return await self.number_of(service, self.id)


async def renumber(service: SandboxService, sandbox_id: str, number: int) -> int:
    """Give a sandbox a number."""
    await _cell(service, sandbox_id, SET.format(number))
    return number


async def _cell(service: SandboxService, sandbox_id: str, code: str = "import os") -> Any:
    sandbox = service.get(sandbox_id)
    assert sandbox.endpoint
    assert sandbox.keys
    return await evaluate(sandbox.endpoint, sandbox.keys, code, GET)


def read_disk(home: Home, sandbox_id: str) -> int | None:
    """The number on the disk of a machine that does not run, as a boot would find it."""
    with tempfile.TemporaryDirectory() as name:
        raw = Path(name) / "raw"
        disk = home.settings.sandboxes / sandbox_id / "disk.qcow2"
        subprocess.run(["qemu-img", "convert", "-O", "raw", disk.resolve(), raw], check=True)
        replay = ["e2fsck", "-E", "journal_only", "-y", raw]
        subprocess.run(replay, check=False, capture_output=True, env=os.environ | _SBIN)
        cat = subprocess.run(
            ["debugfs", "-R", f"cat {FILE}", raw],
            capture_output=True,
            text=True,
            env=os.environ | _SBIN,
            check=True,
        )
    return int(cat.stdout) if cat.stdout else None


_SBIN = {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}


async def assert_tidy(home: Home, service: SandboxService, *, layers: bool = True) -> None:
    """Nothing is half-made, damaged, without a record, paused or left behind; of layers, if asked for."""
    settings, driver = home.settings, service.driver("qemu")
    assert isinstance(driver, QemuDriver)
    points = driver._points
    snapshots = {s.id: s for sandbox in service.list() for s in service.history(sandbox.id)}
    assert set(snapshots) == service._store.snapshot_ids()

    found = {path.name for path in settings.snapshots.glob("*")}
    bases = {each.id for i in snapshots for each in points.chain(points.get(i).base)}
    machines = [settings.sandboxes / sandbox.id for sandbox in service.list()]
    origins = [origin.base for folder in machines if (origin := driver._origin(folder)) and origin.base]
    built_on = bases | {each.id for base in origins for each in points.chain(base)}
    assert set(snapshots) <= found <= set(snapshots) | built_on
    for name in found:
        points.verify(points.get(name), memory=points.get(name).memory)

    def needed() -> set[Path]:
        tops = [(folder / "disk.qcow2").resolve() for folder in machines]
        tops += [settings.layers / points.get(name).disk for name in found]
        return {layer for top in tops for layer in points.layers_of(top)}

    if layers and set(settings.layers.glob("*")) != needed():
        # A disk may have been flattened meanwhile: what it stood on goes at the next start.
        for sandbox in service.list():
            if sandbox.state is State.RUNNING:
                async with driver._qemu(sandbox.id).monitor() as execute:
                    await execute.end_flatten(complete=True)
        with SandboxService(settings) as again:
            await again.reconcile()
        assert set(settings.layers.glob("*")) == needed()
    assert all(layer.exists() for layer in needed())

    # One that was to be made at a snapshot and is hibernated there has nothing of its own yet.
    asleep = {sandbox.id for sandbox in service.list() if sandbox.state is State.HIBERNATED}
    found = {path.name for path in settings.sandboxes.glob("*")}
    assert found | asleep == {sandbox.id for sandbox in service.list()}
    assert list(settings.sandboxes.glob("*/next-*")) == []
    assert {path.name.partition(".")[0] for path in (settings.home / "cells").glob("*")} <= set(snapshots)
    running = [sandbox for sandbox in service.list() if sandbox.state is State.RUNNING]
    assert len(home.processes()) == len(running)
    for sandbox in running:
        async with driver._qemu(sandbox.id).monitor() as execute:
            assert (await execute("query-status"))["status"] == "running"
    assert {sandbox.state for sandbox in service.list()} <= {State.RUNNING, State.HIBERNATED, State.STOPPED}
    locks = {path.name.partition(".")[0] for path in (settings.home / "locks").glob("*")}
    assert locks <= {sandbox.id for sandbox in service.list()} | {"capacity"}
