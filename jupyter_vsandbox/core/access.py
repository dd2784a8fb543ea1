"""What there is: sandboxes, their machines as they are now, and where their files and locks are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from jupyter_vsandbox import faults
from jupyter_vsandbox.core import owner
from jupyter_vsandbox.core.store import Store
from jupyter_vsandbox.domain.advice import Advice
from jupyter_vsandbox.domain.errors import InvalidRequest, NotFound, SandboxError
from jupyter_vsandbox.drivers import registry
from jupyter_vsandbox.files import locked
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    import contextlib
    from pathlib import Path

    from jupyter_vsandbox.domain.model import Sandbox, Usage
    from jupyter_vsandbox.drivers.base import Driver
    from jupyter_vsandbox.settings import Settings

KERNEL_SOCKETS = "k"
"""What the names of folders begin with that hold the sockets of a kernel's clients."""


class Access:
    """The part of the service that looks, and the ground that the others stand on.

    Args:
        settings: where everything is, and the limits.
    """

    def __init__(self, settings: Settings) -> None:
        faults.arm()
        self.settings = settings
        private_folder(settings.home)
        private_folder(settings.sockets)
        self._locks = private_folder(settings.home / "locks")
        self._store = Store(settings.database)
        self._drivers: dict[str, Driver] = {}
        self._reconciled = False

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What there is.

    def list(self) -> list[Sandbox]:
        """All sandboxes, oldest first."""
        return self._store.all()

    def get(self, sandbox_id: str) -> Sandbox:
        """One sandbox by its full id.

        Raises:
            NotFound: there is none.
        """
        return self._store.get(sandbox_id)

    def resolve(self, prefix: str) -> Sandbox:
        """The one sandbox whose name is, or whose id begins with, `prefix`.

        Raises:
            NotFound: there is none.
            InvalidRequest: there are several.
        """
        every = self._store.all() if prefix else []
        found = [s for s in every if s.name == prefix] or [s for s in every if s.id.startswith(prefix)]
        if not found:
            raise NotFound(f"There is no sandbox {prefix!r}; `jupyter vsandbox list` shows all.")
        if len(found) > 1:
            raise InvalidRequest(f"{prefix!r} fits {len(found)} sandboxes; give more digits.")
        return found[0]

    def usage(self, sandbox_id: str) -> Usage:
        """What a sandbox takes from its host now."""
        return self.driver(self.get(sandbox_id).driver).usage(sandbox_id)

    def on_this_host(self, sandbox: Sandbox) -> bool:
        """Whether the machine of a sandbox takes memory of this host; not, where its driver is missing."""
        try:
            return self.driver(sandbox.driver).capabilities.on_this_host
        except SandboxError:
            return False

    def memory_anywhere(self, sandbox: Sandbox) -> bool:
        """Whether a fork of a snapshot of a sandbox can have its memory; else only one of the present can.

        Raises:
            NotFound: its driver is missing.
        """
        return self.driver(sandbox.driver).capabilities.memory_anywhere

    def advice(self, sandbox: Sandbox) -> Advice:
        """How the snapshots of a sandbox are best kept; no limits, where its driver is missing."""
        try:
            return self.driver(sandbox.driver).advice
        except SandboxError:
            return Advice()

    def alive(self, sandbox_id: str) -> bool:
        """Whether the machine of a sandbox runs."""
        return self.driver(self.get(sandbox_id).driver).alive(sandbox_id)

    async def stalled(self, sandbox_id: str) -> str:
        """Why the running machine of a sandbox stands still by itself, "" if it does not.

        Every verb lets it go on, and it does where there is a reason to no more.
        """
        return await self.driver(self.get(sandbox_id).driver).stalled(sandbox_id)

    def client_sockets(self, kernel_id: str) -> Path:
        """Where this process puts the sockets of a kernel's clients; not made yet.

        Once the process is gone, `reconcile` removes it.
        """
        return self.settings.sockets / f"{KERNEL_SOCKETS}{owner.this_process()}:{kernel_id[:6]}"

    def cell_lock(self, sandbox_id: str) -> Path:
        """The file whose lock is held while a cell runs, by whoever delivers cells to the kernel.

        Who takes it is between two cells.
        """
        return self._locks / f"{sandbox_id}.cell"

    def cells_of(self, snapshot_id: str) -> Path:
        """Where the notebook is that a snapshot holds."""
        return self.settings.home / "cells" / f"{snapshot_id}.ipynb"

    def _checksum_of(self, snapshot_id: str) -> Path:
        """Where the SHA-256 of `cells_of` is."""
        return self.cells_of(snapshot_id).with_suffix(".sha256")

    def inventory_of(self, snapshot_id: str) -> Path:
        """Where it is written what a snapshot holds, once somebody has asked; its folder may be missing."""
        return self.settings.home / "inventories" / f"{snapshot_id}.json"

    def _forget_files(self, snapshot_id: str) -> None:
        """Remove what is kept of a snapshot beside the driver's files. Harmless twice."""
        self.cells_of(snapshot_id).unlink(missing_ok=True)
        self._checksum_of(snapshot_id).unlink(missing_ok=True)
        self.inventory_of(snapshot_id).unlink(missing_ok=True)

    def driver(self, name: str) -> Driver:
        """The driver called `name`."""
        if name not in self._drivers:
            self._drivers[name] = registry.get(name, self.settings)
        return self._drivers[name]

    def _lock(self, sandbox_id: str) -> contextlib.AbstractAsyncContextManager[None]:
        return locked(self._locks / sandbox_id)

    def _capacity(self) -> contextlib.AbstractAsyncContextManager[None]:
        return locked(self._locks / "capacity")
