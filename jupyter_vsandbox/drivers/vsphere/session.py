"""One login to a vCenter for all of this process, and a bridge to pyvmomi's blocking calls.

Calls run in a bounded number of threads, each with a deadline. One that could not be sent, or that the
vCenter refused because the session was over, is made again; so is a harmless one whose connection broke.
Any other whose connection broke may have been carried out: `OutcomeUnknown`, and the caller looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from pyVim.connect import SmartStubAdapter
from pyVmomi import SoapStubAdapter, vim, vmodl

from jupyter_vsandbox.domain.errors import OutcomeUnknown, Permanent, SandboxError, Transient
from jupyter_vsandbox.drivers.vsphere.errors import LOST, UNSENT, describe, translate, untrusted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from jupyter_vsandbox.settings import Credentials, VCenter

T = TypeVar("T")

_RENEWALS = 3
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0
_REFUSED_SECONDS = 60.0
"""How long a refused password is not tried again: accounts are locked for less."""


class _Unsent(Exception):
    """The call was not made; its cause says why."""


class Session:
    """A login. Used from any thread and any event loop.

    Args:
        vcenter: which.
        find: gives the credentials, when they are needed.
    """

    def __init__(self, vcenter: VCenter, find: Callable[[], Credentials]) -> None:
        self._vcenter = vcenter
        self._find = find
        self._threads = ThreadPoolExecutor(vcenter.parallel, thread_name_prefix="vsphere")
        self._lock = threading.Lock()
        self._stub: Any = None
        self._content: Any = None
        self._refused: tuple[float, SandboxError] | None = None
        self.logins = 0
        self.calls = 0

    @property
    def content(self) -> Any:
        """What the vCenter offers; there is some once somebody has logged in."""
        return self._content

    def object(self, kind: Any, ref: str) -> Any:
        """The managed object of a kind that has the id `ref`."""
        return kind(ref, self._stub)

    async def call(
        self, what: str, function: Callable[[], T], *, harmless: bool = False, seconds: float = 0
    ) -> T:
        """Return what `function`, which makes one call, returns in a thread.

        Args:
            what: what it does, for messages.
            function: makes the call with objects of `object` and `content`.
            harmless: whether it may be made twice.
            seconds: until when to try; 0 for what is configured.

        Raises:
            OutcomeUnknown: it may have been carried out.
            Transient: the vCenter is not to be reached.
            Permanent: it refuses the login, or its certificate is not trusted.
            SandboxError: whatever `translate` makes of its answer.
        """
        deadline = time.monotonic() + (seconds or self._vcenter.call_seconds)
        pause, renewals = _FIRST_PAUSE, 0
        while True:
            seen = self.logins
            try:
                return await self._threaded(what, function, deadline, harmless)
            except vim.fault.NotAuthenticated as fault:  # and therefore not carried out
                renewals += 1
                if renewals > _RENEWALS:
                    raise translate(fault, what) from fault
                with contextlib.suppress(_Unsent):
                    await self._threaded(what, lambda seen=seen: self.renew(seen), deadline, True)  # type: ignore[misc]
                continue
            except vmodl.MethodFault as fault:
                raise translate(fault, what) from fault
            except (_Unsent, *LOST) as error:
                cause = error.__cause__ if isinstance(error, _Unsent) and error.__cause__ else error
                if untrusted(cause):
                    raise self._distrust(cause) from error
                if not harmless and not isinstance(error, (_Unsent, *UNSENT)):
                    raise OutcomeUnknown(
                        f"{what}: the connection to {self._vcenter.host} broke before the answer "
                        f"({describe(cause)})."
                    ) from error
                if time.monotonic() + pause > deadline:
                    raise self._unreachable(what, describe(cause)) from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _threaded(self, what: str, function: Callable[[], T], deadline: float, harmless: bool) -> T:
        future = self._threads.submit(self._signed_in, function)
        try:
            async with asyncio.timeout(max(deadline - time.monotonic(), 0.001)):
                return await asyncio.wrap_future(future)
        except TimeoutError as error:
            if future.cancel() or harmless:
                raise self._unreachable(what, "no answer in time") from error
            raise OutcomeUnknown(f"{what}: {self._vcenter.host} has not answered in time.") from error

    def _signed_in(self, function: Callable[[], T]) -> T:
        if not self.logins:
            try:
                self.renew(0)
            except (socket.gaierror, *LOST) as error:
                raise _Unsent from error
        self.calls += 1
        return function()

    def renew(self, seen: int) -> None:
        """Log in again, in a thread, unless somebody has done so since there were `seen` logins."""
        with self._lock:
            if self.logins != seen:
                return
            if self._refused is not None and time.monotonic() < self._refused[0]:
                raise self._refused[1]
            if self._stub is None:
                self._stub = self._connect()
            who = self._credentials()
            self._stub.cookie = ""
            content: Any = vim.ServiceInstance("ServiceInstance", self._stub).RetrieveContent()
            try:
                content.sessionManager.Login(who.user, who.password)
            except vim.fault.InvalidLogin as fault:
                error = Permanent(
                    f"{self._vcenter.host} does not let {who.user!r} in with this password: set VSphere.user"
                    " and VSphere.password_file or JUPYTER_VSANDBOX_VSPHERE_PASSWORD."
                )
                self._refused = (time.monotonic() + _REFUSED_SECONDS, error)
                raise error from fault
            self._content = content
            self.logins += 1

    def _credentials(self) -> Credentials:
        try:
            return self._find()
        except OSError as error:
            raise Permanent(f"VSphere.password_file cannot be read: {error}") from error

    def trust(self) -> ssl.SSLContext:
        """What certificates are checked with."""
        try:
            return ssl.create_default_context(cafile=self._vcenter.ca or None)
        except (OSError, ssl.SSLError) as error:
            raise Permanent(f"VSphere.ca, {self._vcenter.ca}, holds no certificates: {error}") from error

    def _connect(self) -> Any:
        try:
            stub = SmartStubAdapter(
                host=self._vcenter.host,
                port=self._vcenter.port,
                sslContext=self.trust(),
                httpConnectionTimeout=self._vcenter.call_seconds,
            )
        except Exception as error:
            if type(error) is Exception:  # it speaks HTTP, but as no vCenter that is up
                raise ConnectionRefusedError(f"{error}") from error
            raise
        stub.poolSize = self._vcenter.parallel
        return stub

    def waiting_stub(self, seconds: float) -> Any:
        """A connection of the same session for calls that take up to `seconds`."""
        stub = SoapStubAdapter(
            host=self._vcenter.host,
            port=self._vcenter.port,
            path="/sdk",
            version=self._stub.version,
            sslContext=self.trust(),
            httpConnectionTimeout=seconds,
            poolSize=1,
        )
        stub.cookie = self._stub.cookie
        return stub

    def close(self) -> None:
        """Log out, if anybody has logged in."""
        with self._lock:
            if self.logins:
                with contextlib.suppress(vmodl.MethodFault, *LOST):
                    self._content.sessionManager.Logout()
                self.logins = 0
            if self._stub is not None:
                self._stub.DropConnections()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def read(self, kind: Any, refs: Iterable[str], paths: Iterable[str]) -> Mapping[str, Mapping[str, Any]]:
        """Properties of objects by their id, in a thread; those that are gone are missing.

        Raises:
            vim.fault.NotAuthenticated: also where only a ``missingSet`` says so.
        """
        return self.read_objects(kind, [self.object(kind, ref) for ref in refs], paths)

    def read_objects(
        self, kind: Any, objects: Iterable[Any], paths: Iterable[str]
    ) -> Mapping[str, Mapping[str, Any]]:
        """The same for objects that are of subclasses of `kind`."""
        spec = vmodl.query.PropertyCollector
        filters = spec.FilterSpec(
            objectSet=[spec.ObjectSpec(obj=each) for each in objects],
            propSet=[spec.PropertySpec(type=kind, pathSet=list(paths))],
            reportMissingObjectsInResults=True,
        )
        return self.retrieve(filters)

    def retrieve(self, filters: Any) -> Mapping[str, Mapping[str, Any]]:
        """What the vCenter's own collector finds now; see `read`."""
        collector = self._content.propertyCollector
        found: dict[str, Mapping[str, Any]] = {}
        page = collector.RetrievePropertiesEx([filters], vmodl.query.PropertyCollector.RetrieveOptions())
        while page is not None:
            for each in page.objects:
                for missing in each.missingSet:
                    if isinstance(missing.fault, vim.fault.NotAuthenticated):
                        raise missing.fault
                    if isinstance(missing.fault, vmodl.fault.ManagedObjectNotFound):
                        break
                else:
                    found[each.obj._moId] = {value.name: value.val for value in each.propSet}
            page = collector.ContinueRetrievePropertiesEx(page.token) if page.token else None
        return found

    def lost(self, what: str, error: BaseException) -> SandboxError:
        """What to say of a harmless call that the way to the vCenter failed."""
        return self._distrust(error) if untrusted(error) else self._unreachable(what, describe(error))

    def _distrust(self, error: BaseException) -> SandboxError:
        return Permanent(
            f"The certificate of {self._vcenter.host} is not trusted: {error}. Set VSphere.ca to a file with "
            "the certificate of the authority that signed it."
        )

    def _unreachable(self, what: str, why: str) -> SandboxError:
        return Transient(f"{what}: {self._vcenter.host}:{self._vcenter.port} is not to be reached ({why}).")
