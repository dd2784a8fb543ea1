"""The kernels of this server, where a verb takes a machine away from one for good.

Jupyter starts a kernel that ended by itself anew, in a new sandbox, unless it was told before.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from jupyter_core.utils import ensure_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from jupyter_server.services.kernels.kernelmanager import MappingKernelManager
    from jupyter_server.services.sessions.sessionmanager import SessionManager


class Kernels:
    """Ends kernels, with their sessions.

    Args:
        manager: of the server's kernels; may be one of coroutines.
        sessions: of the server.
    """

    def __init__(self, manager: MappingKernelManager, sessions: SessionManager) -> None:
        self.manager = manager
        self._sessions: Any = sessions  # its methods have no types

    async def end(self, kernel_id: str) -> None:
        """Shut a kernel down, if it is one of this server's. Its sandbox is let go as after any shutdown."""
        if not self._ours(kernel_id):
            return
        every: list[dict[str, Any]] = await ensure_async(self._sessions.list_sessions())
        found = [each["id"] for each in every if each["kernel"]["id"] == kernel_id]
        for session in found:
            await ensure_async(self._sessions.delete_session(session))
        if not found:
            manager: Any = self.manager
            await ensure_async(manager.shutdown_kernel(kernel_id, now=True))

    @contextlib.asynccontextmanager
    async def ending(self, kernel_id: str) -> AsyncIterator[None]:
        """Take away the machine of a kernel in the block; it ends when that went well."""
        if not self._ours(kernel_id):
            yield
            return
        kernel: Any = self.manager.get_kernel(kernel_id)
        kernel.stop_restarter()
        try:
            yield
        except BaseException:
            kernel.start_restarter()
            raise
        await self.end(kernel_id)

    def _ours(self, kernel_id: str) -> bool:
        return bool(kernel_id) and kernel_id in self.manager
