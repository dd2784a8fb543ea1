"""What every command of ``jupyter vsandbox`` works with."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.render import Output
    from jupyter_vsandbox.settings import Settings


@dataclass
class Session:
    """What every command needs: a voice, settings and the service."""

    output: Output

    @cached_property
    def settings(self) -> Settings:
        """The user's settings."""
        from jupyter_vsandbox.config import load_settings

        return load_settings()

    @contextlib.contextmanager
    def service(self) -> Iterator[SandboxService]:
        """Open the store for the length of a block."""
        from jupyter_vsandbox.core.service import SandboxService

        with SandboxService(self.settings) as service:
            yield service
