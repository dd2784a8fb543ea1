"""The notebook's folder for a machine: whether it may have it, and that it is served over its link."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import SandboxError
from jupyter_vsandbox.workspace import Jail, Serving

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_vsandbox.settings import Settings

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shared:
    """A folder for a machine.

    Attributes:
        settings: what machines may do with folders, and what is no folder for them.
        path: of the folder, "" for none.
        read_only: whether the machine may not write, whatever the settings say.
    """

    settings: Settings
    path: str
    read_only: bool = False

    def jail(self) -> Jail | None:
        """The folder opened, `None` where there is to be none.

        Raises:
            SandboxError, OSError: it cannot be had.
        """
        if not self.path or self.settings.workspace == "none":
            return None
        return Jail(
            Path(self.path),
            (self.settings.home, self.settings.sockets),
            writable=self.settings.workspace == "write" and not self.read_only,
            hidden=self.settings.workspace_hidden,
        )


class Folder:
    """Serves one machine's folder while there is a link to it."""

    def __init__(self) -> None:
        self._shared: Shared | None = None
        self._serving: Serving | None = None
        self._send: Callable[[bytes, bytes], None] = _nobody
        self.why_not = ""
        """Why there should be one and is not, for people; "" where all is as it should be."""

    @property
    def served(self) -> bool:
        """Whether there is one."""
        return self._serving is not None

    async def open(self, shared: Shared, send: Callable[[bytes, bytes], None]) -> None:
        """Serve a folder, if it is to be had, over the link that `send` sends over."""
        jail = None
        self.why_not = ""
        try:
            jail = await asyncio.to_thread(shared.jail)  # a folder may be far away
        except (SandboxError, OSError) as error:
            self.why_not = f"This machine does not have the folder of its notebook: {error}"
            _log.warning("%s", self.why_not)
        self.close()
        self._shared, self._send = shared, send
        self._serving = Serving(jail, send) if jail is not None else None

    async def move(self, shared: Shared) -> None:
        """Serve another folder from now on, if it is another one; what is open in the old one is lost."""
        if self._serving is not None and shared.path and shared != self._shared:
            await self.open(shared, self._send)

    def take(self, stream: bytes, packets: bytes) -> None:
        """Packets of the guest's."""
        if self._serving is not None:
            self._serving.take(stream, packets)
        elif packets:
            self._send(stream, b"")

    def reset(self) -> None:
        """The link was cut, and made again: what the guest had open is lost."""
        if self._serving is not None:
            self._serving.reset()

    def close(self) -> None:
        """Serve nothing any more. Harmless twice."""
        if self._serving is not None:
            self._serving.close()
            self._serving = None
        self._send = _nobody


def _nobody(_stream: bytes, _packets: bytes) -> None:
    """There is no link."""
