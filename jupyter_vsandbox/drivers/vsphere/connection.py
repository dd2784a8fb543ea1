"""What all drivers of this process share that talk to the same vCenter: one login, one watch, one place."""

from __future__ import annotations

import atexit
import contextlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from jupyter_vsandbox.domain.errors import NotFound, Permanent, SandboxError
from jupyter_vsandbox.drivers.vsphere.inventory import Place, find_place, find_pool
from jupyter_vsandbox.drivers.vsphere.session import Session
from jupyter_vsandbox.drivers.vsphere.watch import Watch
from jupyter_vsandbox.settings import credentials

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_vsandbox.settings import Credentials, VCenter

T = TypeVar("T")

_KEYRING = "jupyter_vsandbox {}"

_shared: dict[VCenter, Connection] = {}
_lock = threading.Lock()


class Connection:
    """A vCenter, as this process knows it.

    Args:
        vcenter: which.
    """

    def __init__(self, vcenter: VCenter) -> None:
        self.vcenter = vcenter
        self.session = Session(vcenter, lambda: find_credentials(vcenter))
        self.watch = Watch(self.session, lambda: self.place().folder, self.forget_place)
        self.no_instant_clone = ""
        """Why there is no Instant Clone, once that was seen."""
        self._lock = threading.Lock()
        self._place: Place | None = None
        self._pools: dict[str, str] = {}

    @classmethod
    def to(cls, vcenter: VCenter) -> Connection:
        """The one connection of this process; it is closed when the process ends."""
        with _lock:
            if vcenter not in _shared:
                _shared[vcenter] = cls(vcenter)
            return _shared[vcenter]

    def close(self) -> None:
        """Log out; the next `to` makes a new connection."""
        with _lock:
            if _shared.get(self.vcenter) is self:
                del _shared[self.vcenter]
        self.watch.close()
        self.session.close()

    async def ready(self) -> None:
        """Return when it is known what machines there are.

        Raises:
            SandboxError: why that is not to be known.
        """
        await self.watch.ready(self.vcenter.call_seconds)

    def place(self) -> Place:
        """Where sandboxes are; for threads."""
        with self._lock:
            if self._place is None:
                self._place = find_place(self.session, self.vcenter)
            return self._place

    def pool(self, name: str) -> str:
        """The vCenter's id of a resource pool, "" for the cluster's own; for threads."""
        place = self.place()
        if not name:
            return place.pool
        with self._lock:
            if name not in self._pools:
                self._pools[name] = find_pool(self.session, self.vcenter, place, name)
            return self._pools[name]

    async def where(self, pool: str) -> tuple[Place, str]:
        """The place, and the vCenter's id of a resource pool; known after the first time."""
        if self._place is None or (pool and pool not in self._pools):
            await self.look("Finding what is configured", lambda: self.pool(pool))
        place = self.place()
        return place, self._pools[pool] if pool else place.pool

    def forget_place(self) -> None:
        """Look anew the next time: something of it was not there."""
        with self._lock:
            self._place = None
            self._pools = {}

    async def look(self, what: str, function: Callable[[], T]) -> T:
        """Return what a function returns that makes several harmless calls."""
        try:
            return await self.session.call(what, function, harmless=True)
        except NotFound:
            self.forget_place()
            raise

    async def task(self, what: str, submit: Callable[[], Any]) -> Any:
        """Have a task done and return its result.

        Raises:
            OutcomeUnknown: it may have been done.
            SandboxError: it was not.
        """
        task = await self.session.call(what, lambda: submit()._moId)
        return await self.watch.ended(task, self.vcenter.task_seconds, what)


def find_credentials(vcenter: VCenter) -> Credentials:
    """Who logs in with what: from configuration, file, environment or keyring, in this order.

    Raises:
        Permanent: nobody says.
    """
    found = credentials(vcenter)
    if found.user and not found.password:
        with contextlib.suppress(ImportError):
            import keyring

            with contextlib.suppress(keyring.errors.KeyringError):
                service = _KEYRING.format(vcenter.host)
                found = replace(found, password=keyring.get_password(service, found.user) or "")
    if not (found.user and found.password):
        raise Permanent(
            f"There is no {'password' if found.user else 'user'} for {vcenter.host}. Set VSphere.user and "
            "VSphere.password_file, or JUPYTER_VSANDBOX_VSPHERE_USER and _PASSWORD, or "
            f"`keyring set '{_KEYRING.format(vcenter.host)}' USER`."
        )
    return found


@atexit.register
def _close_all() -> None:
    for connection in list(_shared.values()):
        with contextlib.suppress(SandboxError):
            connection.close()
