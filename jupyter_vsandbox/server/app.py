"""The extension's life in the server: made with its configuration, closed with the server."""

from __future__ import annotations

from jupyter_server.extension.application import ExtensionApp

from jupyter_vsandbox.config import VSandbox, load_settings
from jupyter_vsandbox.core.departure import hibernate_own
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.server import contents
from jupyter_vsandbox.server.backend import Backend
from jupyter_vsandbox.server.handlers import BACKEND, ROUTES

STOP_SECONDS = 60.0


class VSandboxExtension(ExtensionApp):
    """Serves ``vsandbox/api``, described in openapi.yaml."""

    name = "vsandbox"
    classes = [VSandbox]  # noqa: RUF012 -- the base class is annotated so
    load_other_extensions = True

    _service: SandboxService | None = None

    def initialize_settings(self) -> None:
        """Called by the server once its configuration is complete."""
        settings = load_settings(self.config)
        self._service = SandboxService(settings)
        self.settings[BACKEND] = Backend(settings, self._service)
        if self.serverapp is not None:
            contents.follow(self.serverapp, self._service)

    def initialize_handlers(self) -> None:
        """Called by the server after `initialize_settings`."""
        self.handlers.extend(ROUTES)

    async def stop_extension(self) -> None:
        """Called by the server when it stops, before it shuts its kernels down: those are asleep then."""
        if self._service is not None:
            await hibernate_own(self._service, STOP_SECONDS)
            self._service.close()
