"""What a process does with its sandboxes when it ends: what somebody can come back to hibernates.

A running cell is no reason to wait: memory is kept in the middle of it, and it goes on after the wake.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING

from jupyter_vsandbox.core import owner
from jupyter_vsandbox.domain.errors import NotFound, SandboxError
from jupyter_vsandbox.domain.model import State

if TYPE_CHECKING:
    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.domain.model import Sandbox

_log = logging.getLogger(__name__)

_AT_ONCE = 4
"""So many hibernate at the same time: what each has changed in memory is held a second time meanwhile."""


async def hibernate_own(service: SandboxService, seconds: float) -> list[Sandbox]:
    """Hibernate all that the calling process uses and somebody can come back to; those that did.

    Where that fails, or takes longer than `seconds` for all, a sandbox runs on, and it is logged.
    """
    here = owner.this_process()
    running = [s for s in service.list() if s.owner == here and s.state is State.RUNNING]
    kept = [sandbox for sandbox in running if not service.disposable(sandbox)]
    slots = asyncio.Semaphore(_AT_ONCE)

    async def hibernate(sandbox: Sandbox) -> bool:
        async with slots:
            return await _hibernate(service, sandbox.id)

    tasks = [asyncio.create_task(hibernate(sandbox)) for sandbox in kept]
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=seconds)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if late:
            _log.warning("%d sandboxes could not be hibernated within %g s.", len(late), seconds)
    ended = zip(kept, tasks, strict=True)
    return [sandbox for sandbox, task in ended if not task.cancelled() and task.result()]


async def leave(service: SandboxService, sandbox_id: str) -> None:
    """Like `SandboxService.let_go`, but of what is kept the memory is kept as well. Harmless twice."""
    with contextlib.suppress(NotFound):
        sandbox = service.get(sandbox_id)
        if sandbox.state is State.RUNNING and not service.disposable(sandbox):
            await _hibernate(service, sandbox_id)
    await service.let_go(sandbox_id)


async def _hibernate(service: SandboxService, sandbox_id: str) -> bool:
    try:
        await service.hibernate(sandbox_id, now=True)
    except (SandboxError, OSError) as error:  # for instance a disk that is full
        _log.warning("Sandbox %s could not be hibernated, only its disk is kept: %s", sandbox_id, error)
        return False
    return True
