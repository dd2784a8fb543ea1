"""Long work: it tells how far it is, and ends in order when it is cancelled or terminated."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


class Stopped(Exception):
    """Ends the thread of work that was cancelled; nobody else sees it."""


class Work:
    """One piece of work.

    Args:
        told: called with how many more bytes are dealt with, from whatever thread.
    """

    def __init__(self, told: Callable[[int], None] | None = None) -> None:
        self._told = told
        self._stop = threading.Event()

    def step(self, count: int) -> None:
        """Called by the work: so many more bytes are dealt with.

        Raises:
            Stopped: it was cancelled.
        """
        if self._stop.is_set():
            raise Stopped
        if self._told is not None:
            self._told(count)

    async def run(self, function: Callable[[], T]) -> T:
        """Return what `function` returns in a thread.

        Cancelled, it returns when the thread has ended, so that what that made can be removed.
        """
        task = asyncio.ensure_future(asyncio.to_thread(function))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._stop.set()
            with contextlib.suppress(Exception):
                await task
            raise


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Let SIGTERM unwind the block as Ctrl-C does, where nobody else has taken charge of that signal."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
