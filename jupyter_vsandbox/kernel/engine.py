"""One background thread with an event loop, for all sandboxes of this process.

Jupyter's managers run on loops that come and go (nbclient, papermill, the blocking client) or
that must not be kept waiting (the server's); a relay needs one that is always there.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")

CLOSE_SECONDS = 10.0


class Engine:
    """The thread. Get it with `Engine.instance()`."""

    _instance: Engine | None = None
    _guard = threading.Lock()

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._closers: dict[object, Callable[[], Awaitable[None]]] = {}
        threading.Thread(target=self._loop.run_forever, name="vsandbox", daemon=True).start()
        atexit.register(self._close)

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

        asyncio.run_coroutine_threadsafe(close_all(), self._loop).result(CLOSE_SECONDS)
