"""Which sandbox a kernel gets: its notebook's, one that was asked for, or a new one."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jupyter_vsandbox.core.standby import refill
from jupyter_vsandbox.domain.errors import Conflict, NotFound
from jupyter_vsandbox.domain.model import State

if TYPE_CHECKING:
    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.domain.model import Sandbox

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A sandbox for a kernel, running and this process's.

    Attributes:
        booted: whether it was booted, and so has no kernel yet.
        notice: what the user should know of it, "" for nothing.
    """

    sandbox: Sandbox
    booted: bool = False
    notice: str = ""


@dataclass(frozen=True)
class Choice:
    """Chooses for one kernel.

    Attributes:
        service: for the verbs.
        runtime: name of its runtime.
        driver: name of the driver for a new sandbox.
        kernel_id: Jupyter's id of it.
    """

    service: SandboxService
    runtime: str
    driver: str
    kernel_id: str

    async def first(self, notebook: str, attach: str = "") -> Found:
        """The sandbox to start in.

        Where another kernel is in the notebook's, this one gets a new one and a notice of that; which of
        the two the notebook finds the next time is up to `SandboxService.bound`.

        Args:
            notebook: path of what the kernel is for, "" for nothing.
            attach: id of the sandbox to use, "" for the notebook's own or a new one.

        Raises:
            Conflict: another kernel uses the one that was asked for.
        """
        used: Conflict | None = None
        if mine := attach or self.service.bound(notebook, self.runtime, self.driver):
            before = await self.service.settled(mine)
            try:
                claimed = await self.service.claim(mine, self.kernel_id, notebook)
            except Conflict as error:
                if attach:
                    raise
                used = error
            else:
                return Found(claimed, before.state is State.STOPPED)
        created = await self._new(notebook)
        if self.service.on_this_host(created):  # elsewhere, nothing is kept running for nobody
            refill(self.service.settings, self.runtime)
        if used is None:
            return Found(created)
        notice = f"{notebook} runs in two kernels at once; this one has a new machine, {created.id}. {used}"
        _log.warning("%s", notice)
        return Found(created, notice=notice)

    async def again(self, sandbox_id: str, notebook: str) -> Sandbox:
        """A machine again, from what the sandbox was, or a new sandbox if that was deleted."""
        try:
            if (await self.service.settled(sandbox_id)).state is State.HIBERNATED:
                return await self.service.wake(sandbox_id)
            return await self.service.start(sandbox_id)
        except NotFound:
            return await self._new(notebook)

    async def _new(self, notebook: str) -> Sandbox:
        return await self.service.create(
            self.runtime, driver=self.driver, kernel_id=self.kernel_id, notebook=notebook
        )
