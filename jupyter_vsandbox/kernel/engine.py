"""One background thread with an event loop, for all sandboxes of this process.

Jupyter's managers run on loops that come and go (nbclient, papermill, the blocking client) or
that must not be kept waiting (the server's); a relay needs one that is always there.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")
_log = logging.getLogger(__name__)

CLOSE_SECONDS = 60.0


class Engine:
    """The thread. Get it with `Engine.instance()`."""

    _instance: Engine | None = None
    _guard = threading.Lock()

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._closers: dict[object, Callable[[], Awaitable[None]]] = {}
        threading.Thread(target=self._loop.run_forever, name="vsandbox", daemon=True).start()
        # Before atexit's functions, which find no thread pool any more to write memory with, and, as
        # the last to register is the first to be called, before the end of the pool.
        threading._register_atexit(self._close)  # type: ignore[attr-defined]  # noqa: SLF001

    @classmethod
    def instance(cls) -> Self:
        """The engine of this process; a forked child gets its own."""
        with cls._guard:
            if cls._instance is None or cls._instance.pid != os.getpid():
                cls._instance = cls()
            return cls._instance  # type: ignore[return-value]

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the thread and wait for it on the caller's loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the thread and wait for it here; an interrupt cancels it and waits for that."""
        ended = threading.Event()

        async def tracked() -> T:
            try:
                return await work
            finally:
                ended.set()

        future = asyncio.run_coroutine_threadsafe(tracked(), self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            ended.wait(CLOSE_SECONDS)
            raise

    def at_exit(self, key: object, close: Callable[[], Awaitable[None]] | None) -> None:
        """Have `close` awaited if the process ends without doing it; `None` takes that back."""
        if close is None:
            self._closers.pop(key, None)
        else:
            self._closers[key] = close

    def _close(self) -> None:
        if self.pid != os.getpid() or not self._closers:
            return

        async def close_all() -> None:
            await asyncio.gather(*(close() for close in self._closers.values()), return_exceptions=True)

        closed = asyncio.run_coroutine_threadsafe(close_all(), self._loop)
        try:
            closed.result(CLOSE_SECONDS)
        except TimeoutError:  # the machines run on, and their notebooks find them again
            _log.warning("Some sandboxes did not end within %g s and run on.", CLOSE_SECONDS)
