"""The extension's life in the server: made with its configuration, closed with the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyter_server.extension.application import ExtensionApp

from jupyter_vsandbox.config import VSandbox, load_settings
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.server.backend import Backend
from jupyter_vsandbox.server.events import Bus
from jupyter_vsandbox.server.handlers import BACKEND, routes
from jupyter_vsandbox.server.kernels import Kernels
from jupyter_vsandbox.server.notebooks import Notebooks

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


class VSandboxExtension(ExtensionApp):
    """Serves ``vsandbox/api``, described in openapi.yaml."""

    name = "vsandbox"
    classes = [VSandbox]  # noqa: RUF012 -- the base class is annotated so
    load_other_extensions = True

    _service: SandboxService | None = None
    _backend: Backend | None = None

    def initialize_settings(self) -> None:
        """Called by the server once its configuration is complete."""
        settings = load_settings(self.config)
        kernels = Kernels(self.settings["kernel_manager"], self.settings["session_manager"])
        self._service = SandboxService(settings)
        self._backend = Backend(
            settings,
            self._service,
            Bus(self.settings["event_logger"]),
            Notebooks(self.settings["contents_manager"], kernels.manager.root_dir),
            kernels,
        )
        self.settings[BACKEND] = self._backend

    def initialize_handlers(self) -> None:
        """Called by the server after `initialize_settings`."""
        self.handlers.extend(routes())

    async def _start_jupyter_server_extension(self, serverapp: ServerApp) -> None:
        """Called by the server once its event loop runs."""
        if self._backend is not None:
            self._backend.start()

    async def stop_extension(self) -> None:
        """Called by the server when it stops."""
        if self._backend is not None:
            await self._backend.close()
        if self._service is not None:
            self._service.close()
