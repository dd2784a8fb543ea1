"""Sandboxes follow their notebooks: to another path, and out of the way of the next one of that path.

A copy is a new notebook without a sandbox, so there is nothing to do for it. "Save as" is two things:
JupyterLab opens the new file beside the old one's kernel, with a kernel and so a machine of its own; other
front ends go on in it with the same kernel, and its machine goes along. What happens to files behind the
server's back is not seen. See https://jupyter-server.readthedocs.io/en/latest/operators/events.html.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from jupyter_core.utils import ensure_async
from jupyter_server.utils import ApiPath, to_os_path

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp

    from jupyter_vsandbox.core.service import SandboxService

SCHEMA = "https://events.jupyter.org/jupyter_server/contents_service/v1"


def follow(server: ServerApp, service: SandboxService) -> None:
    """Have what the contents manager tells of renamed and deleted files change the sandboxes' records."""

    def path_of(api_path: str) -> str:
        # As `MappingKernelManager.cwd_for_path` makes the path that a kernel is told.
        return to_os_path(ApiPath(api_path.strip("/")), server.kernel_manager.root_dir)

    async def saved(path: str) -> None:
        """What is saved tells which notebook a kernel is at; that it went there, nothing tells."""
        manager: Any = server.session_manager  # its methods have no types
        every: list[dict[str, Any]] = await ensure_async(manager.list_sessions())
        users: dict[str, set[str]] = {}
        for session in every:
            users.setdefault(session["kernel"]["id"], set()).add(path_of(session["path"]))
        for kernel_id, notebooks in users.items():
            if path in notebooks:
                gone_along = await asyncio.to_thread(service.follow, kernel_id, notebooks, path)
                if gone_along is not None:
                    server.log.info("Sandbox %s is now that of %s.", gone_along.id, path)

    async def listen(logger: object, schema_id: str, data: dict[str, Any]) -> None:
        path = path_of(data["path"])
        if data["action"] == "save":
            await saved(path)
        elif data["action"] == "rename":
            moved = await asyncio.to_thread(service.rebind, path_of(data["source_path"]), path)
            for sandbox in moved:
                server.log.info("Sandbox %s is now that of %s.", sandbox.id, sandbox.notebook)
        elif data["action"] == "delete":
            for sandbox in await asyncio.to_thread(service.unbind, path):
                server.log.info(
                    "%s is deleted; its sandbox %s is kept as %r until `jupyter vsandbox rm %s`.",
                    *(path, sandbox.id, sandbox.name, sandbox.id),
                )

    if server.event_logger is not None:
        server.event_logger.add_listener(schema_id=SCHEMA, listener=listen)
