"""A thread with an event loop, where the verbs run: the server's own loop never waits for a disk."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

THREADS = 64
"""Verbs that wait for a lock take one each; the default would be a handful."""


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end, even where the caller is cancelled; then as if it had not been."""
    task = asyncio.ensure_future(work)
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    return task.result()


class Worker:
    """The thread; it begins at once."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(THREADS, thread_name_prefix="vsandbox-server"))
        self._thread = threading.Thread(target=self._loop.run_forever, name="vsandbox-server", daemon=True)
        self._thread.start()

    async def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the thread and wait for it on the caller's loop.

        Cancelled, it cancels `work` and returns when that has ended.
        """
        here = asyncio.get_running_loop()
        ended = asyncio.Event()
        tasks: list[asyncio.Task[T]] = []

        def tell(_: asyncio.Task[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed
                here.call_soon_threadsafe(ended.set)

        def begin() -> None:
            tasks.append(self._loop.create_task(work))
            tasks[0].add_done_callback(tell)

        self._loop.call_soon_threadsafe(begin)
        cancelled: asyncio.CancelledError | None = None
        while not ended.is_set():
            try:
                await ended.wait()
            except asyncio.CancelledError as error:
                cancelled = error
                self._loop.call_soon_threadsafe(lambda: tasks[0].cancel())
        if cancelled is not None and tasks[0].cancelled():
            raise cancelled
        return tasks[0].result()

    def close(self) -> None:
        """End the thread. What still runs in it is cut off. Harmless twice."""
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
