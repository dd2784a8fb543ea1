"""Removing images, which sandboxes may need."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import Conflict
from jupyter_vsandbox.domain.model import State
from jupyter_vsandbox.drivers import registry
from jupyter_vsandbox.runtimes import build

if TYPE_CHECKING:
    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.domain.model import Image


async def remove(service: SandboxService, image: Image) -> None:
    """Remove an image and its templates, and end the standbys that run on it.

    Raises:
        Conflict: sandboxes of users need it.
    """
    users = [sandbox for sandbox in service.list() if sandbox.image == image.id]
    needed = [sandbox.id for sandbox in users if sandbox.state is not State.STANDBY]
    if needed:
        raise Conflict(
            f"Image {image.id} is needed by sandboxes {', '.join(needed)}: their disks build on it. "
            f"Remove those first: jupyter vsandbox rm {' '.join(needed)}"
        )
    for sandbox in users:
        await service.delete(sandbox.id)
    for name in registry.in_use(service.settings):
        await service.driver(name).remove_templates(image.id)
    await asyncio.to_thread(build.remove, image.id, service.settings)
