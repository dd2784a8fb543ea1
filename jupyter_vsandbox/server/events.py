"""Tells subscribers of the server's event bus what changed, in whatever process it was changed.

The store's file is watched, and what is in it is compared with what was told before: the one source
of what is told of sandboxes and snapshots, this server's own verbs included.
"""

from __future__ import annotations

import asyncio
import contextlib
from importlib import resources
from typing import TYPE_CHECKING

from jupyter_vsandbox.core.changes import Records, between
from jupyter_vsandbox.core.store import Store
from jupyter_vsandbox.core.watch import Watch
from jupyter_vsandbox.server import wire
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from jupyter_events import EventLogger

    from jupyter_vsandbox.core.changes import Changes
    from jupyter_vsandbox.domain.model import Sandbox, Snapshot
    from jupyter_vsandbox.server.operations import Operation
    from jupyter_vsandbox.settings import Settings

    Describe = Callable[[Sandbox, tuple[int, int]], Awaitable[wire.Json]]

SCHEMAS = "https://events.jupyter.org/jupyter_vsandbox"
SETTLE_SECONDS = 0.03
"""Writes come in bursts: the file changes a little before its content can be read."""
AGAIN_SECONDS = 1.0
"""A write that was seen too early is seen then."""


class Bus:
    """The server's event bus, with this project's schemas.

    Args:
        logger: of the server.
    """

    def __init__(self, logger: EventLogger) -> None:
        self._logger = logger
        with resources.as_file(resources.files(__package__) / "event_schemas") as folder:
            for path in sorted(folder.glob("*.yaml")):
                logger.register_event_schema(path)

    def emit(self, name: str, data: wire.Json) -> bool:
        """Tell an event of the schema `name`; returns whether anybody listens."""
        return self._logger.emit(schema_id=f"{SCHEMAS}/{name}/v1", data=dict(data)) is not None

    def sandbox(self, action: str, sandbox_id: str, told: wire.Json | None) -> None:
        """A sandbox is not what it was."""
        self.emit("sandbox", {"action": action, "id": sandbox_id, "sandbox": told})

    def snapshot(self, action: str, snapshot: Snapshot, told: wire.Json | None) -> None:
        """A snapshot is not what it was."""
        values = {"action": action, "id": snapshot.id, "sandbox": snapshot.sandbox, "snapshot": told}
        self.emit("snapshot", values)

    def operation(self, operation: Operation, lines: list[str]) -> None:
        """An operation went on; see `Listener`."""
        self.emit("operation", {"operation": wire.operation(operation, whole=False), "lines": lines})


class Follower:
    """Tells what changes in the store and among images and recipes.

    Args:
        settings: where those are.
        bus: where to tell it.
        describe: makes the wire form of a sandbox of its record, and the number and size of its snapshots.
        tell: makes the wire form of a snapshot.
        noticed: told all records, at the beginning and whenever they changed.
    """

    def __init__(
        self,
        settings: Settings,
        bus: Bus,
        describe: Describe,
        tell: Callable[[Snapshot], wire.Json],
        noticed: Callable[[Records], None],
    ) -> None:
        self._settings = settings
        self._bus = bus
        self._describe = describe
        self._tell_snapshot = tell
        self._noticed = noticed
        self._records = Records()
        self._version = 0
        self._comparing = asyncio.Lock()
        self.follows = asyncio.Event()
        """Set once whatever changes from then on is told."""

    async def run(self) -> None:
        """Tell what changes, until cancelled."""
        home, images, recipes = (
            private_folder(folder)
            for folder in (self._settings.home, self._settings.images, self._settings.user_recipes)
        )
        others = [folder for folder in self._settings.recipe_folders if folder.is_dir()]
        store = await asyncio.to_thread(Store, self._settings.database)
        again: asyncio.Task[None] | None = None
        try:
            with Watch({home, images, recipes, *others}) as watch:
                self._version, records = await asyncio.to_thread(_read, store)
                self._records = records
                self._noticed(records)
                self.follows.set()
                async with contextlib.aclosing(watch.changes()) as every:
                    async for changed in every:
                        self._tell_files(changed, home, images)
                        if any(folder == home and self._is_store(name) for folder, name in changed):
                            await asyncio.sleep(SETTLE_SECONDS)
                            await self._compare(store)
                            if again is None or again.done():
                                again = asyncio.create_task(self._compare_again(store))
        finally:
            if again is not None:
                again.cancel()
                await asyncio.gather(again, return_exceptions=True)
            store.close()

    async def _compare_again(self, store: Store) -> None:
        await asyncio.sleep(AGAIN_SECONDS)
        await self._compare(store)

    async def _compare(self, store: Store) -> None:
        async with self._comparing:
            if await asyncio.to_thread(store.version) == self._version:
                return
            version, records = await asyncio.to_thread(_read, store)
            changes = between(self._records, records)
            self._version, self._records = version, records
            self._noticed(records)
            await self._tell(changes)

    def _is_store(self, name: str) -> bool:
        return not name or name.startswith(self._settings.database.name)

    def _tell_files(self, changed: frozenset[tuple[Path, str]], home: Path, images: Path) -> None:
        """Tell of recipes, and of images but not of what a build is still at."""
        if any(folder == images and not name.startswith(".") for folder, name in changed):
            self._bus.emit("runtimes", {"reason": "images"})
        if any(folder not in {home, images} for folder, _ in changed):
            self._bus.emit("runtimes", {"reason": "recipes"})

    async def _tell(self, changes: Changes) -> None:
        for action, snapshots in (("added", changes.added), ("changed", changes.changed)):
            for each in snapshots:
                told = await asyncio.to_thread(self._tell_snapshot, each)
                self._bus.snapshot(action, each, told)
        for each in changes.removed:
            self._bus.snapshot("removed", each, None)
        for sandbox in changes.sandboxes:
            history = self._records.histories.get(sandbox.id, (0, 0))
            described = await self._describe(sandbox, history)
            self._bus.sandbox("changed", sandbox.id, described)
        for sandbox_id in changes.gone:
            self._bus.sandbox("removed", sandbox_id, None)


def _read(store: Store) -> tuple[int, Records]:
    version = store.version()  # before: what is written in between is looked at once more
    return version, Records.of(*store.everything())
