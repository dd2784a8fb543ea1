"""Tells when a kernel's machine has not been used for a while."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LAST_SECONDS = 60.0
"""How long before the end it is looked at whether the machine computes: a job may have begun late."""
_CLOCK_SECONDS = 0.01
_BUSY_SHARE = 0.05
"""What of one processor a machine may take that does nothing; more is a job in its background."""


class IdleTimer:
    """Calls back once, when nothing has happened for so long. Belongs to one event loop.

    Args:
        seconds: how long; 0 for never.
        cpu: tells how many seconds of processor time the machine has used.
        then: called when the time is over.
    """

    def __init__(self, seconds: float, cpu: Callable[[], float], then: Callable[[], None]) -> None:
        self._seconds = seconds
        self._cpu = cpu
        self._then = then
        self._used = 0.0
        self._task: asyncio.Task[None] | None = None

    def used(self) -> None:
        """The machine was used: the time begins anew."""
        self._used = time.monotonic()

    def start(self) -> None:
        """Begin to measure, now."""
        self.stop()
        self.used()
        if self._seconds:
            self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Measure no more. Harmless twice."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self) -> None:
        last = min(_LAST_SECONDS, self._seconds / 2)
        while True:
            began, cpu = time.monotonic(), self._cpu()
            rest = self._used + self._seconds - began
            if rest <= _CLOCK_SECONDS:
                self._then()
                return
            await asyncio.sleep(rest - last if rest > last else rest)
            slept = time.monotonic() - began
            if self._used <= began and self._cpu() - cpu > _BUSY_SHARE * slept:
                self.used()
