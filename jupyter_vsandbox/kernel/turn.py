"""Whose turn it is in a kernel: that of cells, or of a verb that waits for a moment between two."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from jupyter_vsandbox.files import locked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


class CellTurn:
    """Holds a sandbox's cell lock from the first cell that is delivered until all are answered.

    Args:
        after: awaited with the seconds that the cells took, before the lock is free for others.
    """

    def __init__(self, after: Callable[[float], Awaitable[None]]) -> None:
        self._after = after
        self._held = contextlib.AsyncExitStack()
        self._began = 0.0
        self._leaving: asyncio.Task[None] | None = None
        self.running = False
        """Whether cells have the turn."""

    async def take(self, lock: Path) -> None:
        """Wait for the lock, unless cells have it."""
        if not self.running:
            await self._held.enter_async_context(locked(lock))
            self.running = True
            self._began = time.monotonic()

    def end(self) -> None:
        """Every cell is answered. Harmless twice."""
        if self.running:
            self.running = False
            held, self._held = self._held, contextlib.AsyncExitStack()
            self._leaving = asyncio.create_task(self._leave(held, time.monotonic() - self._began))

    async def _leave(self, held: contextlib.AsyncExitStack, seconds: float) -> None:
        async with held:
            await self._after(seconds)
