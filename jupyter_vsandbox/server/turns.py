"""Verbs that wait for their turn between two cells, and can be cancelled until it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from jupyter_vsandbox.files import locked
from jupyter_vsandbox.server.worker import to_its_end

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.server.operations import Report

    Act = Callable[[], Coroutine[Any, Any, "T"]]

T = TypeVar("T")


async def at_once(act: Act[T], message: str, report: Report) -> T:
    """Run `act` to its end, whoever cancels, and say so; `message` is what it does."""
    report.cancellable(False)
    report.progress("work", None, message)
    return await to_its_end(act())


async def between_cells(
    service: SandboxService, sandbox_id: str, act: Act[T], message: str, report: Report
) -> T:
    """The same once no cell runs in a sandbox; `act` itself does not wait for that."""
    report.progress("cell", None, "Waiting for the running cell to end")
    async with locked(service.cell_lock(sandbox_id)):
        return await at_once(act, message, report)
