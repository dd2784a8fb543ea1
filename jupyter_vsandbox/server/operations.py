"""What was begun and takes a while: followed by events, asked for by id, cancelled where it can be."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import deque
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from jupyter_vsandbox.domain.errors import Conflict, NotFound, Permanent, SandboxError, Transient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Result = Mapping[str, object] | None
    Work = Callable[["Report"], Awaitable[Result]]

_log = logging.getLogger(__name__)

RUNNING_AT_ONCE = 50
KEPT = 200
KEPT_SECONDS = 3600.0
LINES = 2000
"""How many lines of a log are kept."""
CLOSE_SECONDS = 30.0
"""How long the server's end waits for what cannot be cancelled."""
TOLD_EVERY = 0.2
"""Seconds between two events of one operation that only went on."""


class Phase(StrEnum):
    """Where an operation is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Progress:
    """How far an operation is.

    Attributes:
        stage: what it does, one of the words of openapi.yaml.
        fraction: how much of it all is done, 0 to 1; `None` while that cannot be said.
        message: one line for the user.
    """

    stage: str
    fraction: float | None
    message: str


@dataclass(frozen=True)
class Operation:
    """One operation as it is at some moment.

    Attributes:
        id: 12 hexadecimal digits.
        verb: what is done.
        sandbox: id of the sandbox that it was asked of, "" for none.
        runtime: name of the runtime that is built, "" for none.
        began: seconds since the epoch.
        phase: where it is.
        ended: seconds since the epoch, `None` while it runs.
        cancellable: whether it can be cancelled now.
        progress: how far it is, `None` where nothing is known.
        error: why it failed.
        result: what came of it.
        log: what it printed, the latest lines.
    """

    id: str
    verb: str
    sandbox: str
    runtime: str
    began: float
    phase: Phase = Phase.RUNNING
    ended: float | None = None
    cancellable: bool = False
    progress: Progress | None = None
    error: SandboxError | None = None
    result: Result = None
    log: deque[str] = field(default_factory=lambda: deque(maxlen=LINES))


class Listener(Protocol):
    """Told of all operations."""

    def __call__(self, operation: Operation, lines: list[str]) -> None:
        """An operation is not what it was.

        Args:
            operation: as it is now.
            lines: what it printed since the call before.
        """


class Report:
    """How the work of an operation tells of itself, from whatever thread."""

    def __init__(self, operations: Operations, operation_id: str, loop: asyncio.AbstractEventLoop) -> None:
        self._operations = operations
        self._id = operation_id
        self._loop = loop

    def progress(self, stage: str, fraction: float | None, message: str) -> None:
        """One step; see `Progress`."""
        self._call(lambda: self._operations.change(self._id, progress=Progress(stage, fraction, message)))

    def line(self, text: str) -> None:
        """One line was printed."""
        self._call(lambda: self._operations.print(self._id, text))

    def cancellable(self, can: bool) -> None:
        """From here on it can be cancelled, or cannot."""
        self._call(lambda: self._operations.change(self._id, cancellable=can))

    def _call(self, change: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the server has ended
            self._loop.call_soon_threadsafe(change)


class Operations:
    """All of this server's. Belongs to its event loop.

    Args:
        listener: told of every change.
    """

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._all: dict[str, Operation] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._untold: dict[str, list[str]] = {}

    def all(self) -> list[Operation]:
        """All that are known, oldest first."""
        self._forget()
        return list(self._all.values())

    def get(self, operation_id: str) -> Operation:
        """One by its id.

        Raises:
            NotFound: there is none, or it ended long ago.
        """
        self._forget()
        if operation_id not in self._all:
            raise NotFound(f"There is no operation {operation_id}; those that ended are forgotten in time.")
        return self._all[operation_id]

    def begin(
        self, verb: str, work: Work, *, sandbox: str = "", runtime: str = "", cancellable: bool = False
    ) -> Operation:
        """Begin `work`; returns at once.

        Raises:
            Transient: there are too many already.
        """
        self._forget()
        if len(self._tasks) >= RUNNING_AT_ONCE:
            raise Transient(f"{RUNNING_AT_ONCE} operations are going on; wait until some have ended.")
        operation = Operation(
            uuid.uuid4().hex[:12], verb, sandbox, runtime, time.time(), cancellable=cancellable
        )
        self._all[operation.id] = operation
        self._listener(operation, [])
        report = Report(self, operation.id, asyncio.get_running_loop())
        self._tasks[operation.id] = asyncio.create_task(self._run(operation.id, work, report))
        return operation

    def cancel(self, operation_id: str) -> Operation:
        """Ask an operation to end; harmless for one that has, or that was asked before.

        It cannot be cancelled from then on: that is how all who follow it see that it was asked.

        Raises:
            NotFound: there is none.
            Conflict: it cannot be cancelled, or cannot any more.
        """
        operation = self.get(operation_id)
        if operation.phase is Phase.RUNNING and not self._tasks[operation_id].cancelling():
            if not operation.cancellable:
                raise Conflict(
                    f"Operation {operation_id} ({operation.verb}) cannot be cancelled now; let it end."
                )
            self._cancel(operation_id)
            self.change(operation_id, cancellable=False)
        return self.get(operation_id)

    async def close(self) -> None:
        """Cancel all that can be cancelled and wait for the others, but not for ever.

        One may wait for a cell that never ends.
        """
        tasks = list(self._tasks.values())
        for operation_id in self._tasks:
            if self._all[operation_id].cancellable:
                self._cancel(operation_id)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
            for task in late:
                task.cancel()

    def change(self, operation_id: str, **values: object) -> None:
        """Change what is known of a running operation. Only `Report` calls this, and `print`."""
        operation = self._all[operation_id]
        if operation.phase is Phase.RUNNING:
            self._all[operation_id] = replace(operation, **values)  # type: ignore[arg-type]
            self._tell_soon(operation_id)

    def print(self, operation_id: str, text: str) -> None:
        """Add a line to the log of a running operation."""
        if self._all[operation_id].phase is Phase.RUNNING:
            self._all[operation_id].log.append(text)
            self._tell_soon(operation_id)
            self._untold[operation_id].append(text)

    def _cancel(self, operation_id: str) -> None:
        # A task that is cancelled before its first step never takes one.
        asyncio.get_running_loop().call_soon(self._tasks[operation_id].cancel)

    def _tell_soon(self, operation_id: str) -> None:
        if operation_id not in self._untold:
            self._untold[operation_id] = []
            asyncio.get_running_loop().call_later(TOLD_EVERY, self._tell, operation_id)

    def _tell(self, operation_id: str) -> None:
        if (lines := self._untold.pop(operation_id, None)) is not None:
            self._listener(self._all[operation_id], lines[-LINES:])

    async def _run(self, operation_id: str, work: Work, report: Report) -> None:
        values: dict[str, object]
        try:
            values = {"phase": Phase.DONE, "result": await work(report)}
            await asyncio.sleep(0)  # what was reported last is on its way through the loop
        except asyncio.CancelledError:
            values = {"phase": Phase.CANCELLED}
        except SandboxError as error:
            values = {"phase": Phase.FAILED, "error": error}
        except Exception as error:  # noqa: BLE001 - whoever follows the operation is told, too
            _log.error("Operation %s failed", self._all[operation_id].verb, exc_info=error)
            values = {"phase": Phase.FAILED, "error": Permanent(f"{type(error).__name__}: {error}")}
        ended = replace(self._all[operation_id], ended=time.time(), cancellable=False, **values)  # type: ignore[arg-type]
        self._all[operation_id] = ended
        del self._tasks[operation_id]
        self._listener(ended, self._untold.pop(operation_id, [])[-LINES:])

    def _forget(self) -> None:
        ended = [each for each in self._all.values() if each.ended is not None]
        ended.sort(key=lambda each: each.ended or 0)
        limit = time.time() - KEPT_SECONDS
        for rank, each in enumerate(ended):
            if rank < len(ended) - KEPT or (each.ended or 0) < limit:
                del self._all[each.id]
