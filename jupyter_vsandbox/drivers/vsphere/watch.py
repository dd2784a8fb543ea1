"""What the virtual machines of our folder are, as the vCenter tells it, and which tasks have ended.

A thread waits on one PropertyCollector for both. Whoever changed a machine knows more than what is on
its way to that thread: it notes the change, and what arrives of a request that was made before is not
believed but looked up.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from pyVmomi import vim, vmodl

from jupyter_vsandbox.domain.errors import OutcomeUnknown, SandboxError, Transient
from jupyter_vsandbox.drivers.vsphere.errors import LOST, translate
from jupyter_vsandbox.drivers.vsphere.seen import (
    PATHS,
    Vm,
    busy_cores,
    changes_of,
    filter_of,
    vm_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from jupyter_vsandbox.drivers.vsphere.session import Session

T = TypeVar("T")

_TASK_PATHS = ("info.state", "info.result", "info.error")
_ENDED = frozenset({"success", "error"})
_WAIT_SECONDS = 20
_MARGIN_SECONDS = 15
_LONGEST_PAUSE = 5.0
_CLOSE_SECONDS = 2.0


@dataclass
class _Waiter:
    """Somebody waits for `test` to give something that is true."""

    test: Callable[[], Any]
    future: Future[Any]


class Watch:
    """Knows the machines of a folder. Used from any thread and any event loop.

    Args:
        session: with which to ask.
        folder: gives the vCenter's id of the folder; called in a thread.
        lost: called where there is no such folder.
    """

    def __init__(self, session: Session, folder: Callable[[], str], lost: Callable[[], None]) -> None:
        self._session = session
        self._folder = folder
        self._lost = lost
        self._lock = threading.RLock()
        self._vms: dict[str, Vm] = {}
        self._raw: dict[str, dict[str, Any]] = {}
        self._gone: set[str] = set()
        self._noted: dict[str, int] = {}
        self._round = 0
        self._entering: set[str] | None = None
        self._tasks: dict[str, Future[Any]] = {}
        self._ended: list[str] = []
        self._added: list[str] = []
        self._adding = False
        self._list: Any = None
        self._collector: Any = None
        self._waiters: list[_Waiter] = []
        self._cpu: dict[str, tuple[float, float, float]] = {}
        self._known = threading.Event()
        self._closed = threading.Event()
        self._trouble: SandboxError | None = None
        self._thread: threading.Thread | None = None

    # What is known.

    def all(self) -> list[Vm]:
        """All machines in the folder."""
        with self._lock:
            return list(self._vms.values())

    def get(self, ref: str) -> Vm | None:
        """One machine by the vCenter's id."""
        with self._lock:
            return self._vms.get(ref)

    async def ready(self, seconds: float) -> None:
        """Return when all is known.

        Raises:
            SandboxError: why it is not.
        """
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="vsphere-watch", daemon=True)
                self._thread.start()
        if not self._known.is_set():
            await self.until(
                lambda: self._known.is_set() or self._trouble, seconds, "Looking at the machines"
            )
            if not self._known.is_set() and self._trouble is not None:
                raise self._trouble

    async def until(self, test: Callable[[], T], seconds: float, what: str) -> T:
        """Return what `test` gives as soon as that is true; it is asked after each change.

        Raises:
            Transient: not in time.
        """
        waiter = _Waiter(test, Future())
        with self._lock:
            if found := test():
                return found
            self._waiters.append(waiter)
        try:
            async with asyncio.timeout(seconds if seconds else None):
                result: T = await asyncio.wrap_future(waiter.future)
                return result
        except TimeoutError as error:
            raise Transient(f"{what} was not over after {seconds:g} s.") from error
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._waiters.remove(waiter)

    def note(self, ref: str, **changes: Any) -> None:
        """A machine has been changed, or made, by the caller."""
        with self._lock:
            self._vms[ref] = replace(self._vms.get(ref) or Vm(ref), **changes)
            self._noted[ref] = self._round
            self._wake()

    def note_gone(self, ref: str) -> None:
        """A machine has been removed by the caller."""
        with self._lock:
            self._gone.add(ref)
            self._drop(ref)
            self._wake()

    async def refresh(self, ref: str) -> Vm | None:
        """Look at one machine now; `None` if it is gone."""
        found = await self._session.call(
            "Looking at a machine",
            lambda: self._session.read(vim.VirtualMachine, [ref], PATHS),
            harmless=True,
        )
        with self._lock:
            if ref not in found:
                self.note_gone(ref)
                return None
            self._put(ref, dict(found[ref]))
            self._noted[ref] = self._round
            self._wake()
            return self._vms[ref]

    async def refresh_all(self) -> None:
        """Look at all machines now."""
        with self._lock:
            before = dict(self._vms)
        found = await self._session.call("Looking at the machines", self._read_folder, harmless=True)
        with self._lock:
            for ref, values in found.items():
                if ref not in self._gone:
                    self._put(ref, dict(values))
                    self._noted[ref] = self._round
            for ref, vm in before.items():
                if ref not in found and self._vms.get(ref) is vm:
                    self._drop(ref)
            self._wake()

    # Tasks.

    async def ended(self, task: str, seconds: float, what: str) -> Any:
        """Return the result of a task when it has ended.

        One that is short has ended already: then this is one look, and nothing has to be watched.

        Raises:
            OutcomeUnknown: it has not in time, or it is not known any more.
            SandboxError: it failed.
        """
        with contextlib.suppress(Transient):
            found = await self._session.call(
                what, lambda: self._session.read(vim.Task, [task], _TASK_PATHS), harmless=True
            )
            if task not in found:
                raise OutcomeUnknown(f"{what}: the vCenter does not know its task any more.")
            if (values := found[task]).get("info.state") in _ENDED:
                return _result(values, what)
        future: Future[Any] = Future()
        with self._lock:
            self._tasks[task] = future
            self._added.append(task)
        try:
            await self._list_tasks()
            async with asyncio.timeout(seconds):
                values = await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise OutcomeUnknown(f"{what} has not ended after {seconds:g} s.") from error
        finally:
            with self._lock:
                self._tasks.pop(task, None)
                self._ended.append(task)
        return _result(values, what)

    async def _list_tasks(self) -> None:
        """Have the tasks that are new watched: one call for all that came while the one before was made."""
        with self._lock:
            if self._adding or self._list is None:  # where there is no list yet, it begins with all of them
                return
            self._adding = True
        try:
            # Others rely on it, too: not cancelled with the one whose turn it is.
            await asyncio.shield(asyncio.ensure_future(self._add_tasks()))
        finally:
            self._adding = False

    async def _add_tasks(self) -> None:
        while True:
            with self._lock:
                view, collector, added, ended = self._list, self._collector, self._added, self._ended
                self._added, self._ended = [], []
            if not added or view is None:
                return
            try:
                await self._session.call(
                    "Watching tasks",
                    lambda view=view, added=added, ended=ended: view.ModifyListView(  # type: ignore[misc]
                        add=[self._session.object(vim.Task, each) for each in added],
                        remove=[self._session.object(vim.Task, each) for each in ended],
                    ),
                    harmless=True,
                )
            except SandboxError:  # the thread begins anew then, with all that are waited for
                with contextlib.suppress(SandboxError):
                    await self._session.call(
                        "Watching tasks anew", collector.CancelWaitForUpdates, harmless=True
                    )

    # The thread.

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        if (collector := self._collector) is not None:
            with contextlib.suppress(vmodl.MethodFault, *LOST):
                collector.CancelWaitForUpdates()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)

    def _run(self) -> None:
        pause = 0.1
        while not self._closed.is_set():
            seen = self._session.logins
            try:
                if not seen:
                    self._session.renew(0)
                    seen = self._session.logins
                collector, views = self._begin()
                try:
                    version = ""
                    while not self._closed.is_set():
                        version = self._wait(collector, version)
                        pause = 0.1
                finally:
                    self._end(collector, views)
            except vim.fault.NotAuthenticated:
                with contextlib.suppress(SandboxError, vmodl.MethodFault, *LOST):
                    self._session.renew(seen)
                    continue
            except SandboxError as error:
                self._fail(error)
            except vmodl.fault.ManagedObjectNotFound as fault:
                self._lost()
                self._fail(translate(fault, "Watching the machines"))
            except vmodl.MethodFault as fault:
                self._fail(translate(fault, "Watching the machines"))
            except Exception as error:  # noqa: BLE001 - an answer that pyvmomi cannot read may raise anything
                self._fail(self._session.lost("Watching the machines", error))
            self._closed.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _fail(self, error: SandboxError) -> None:
        if self._closed.is_set():
            return
        with self._lock:
            self._trouble = error
            self._wake()

    def _begin(self) -> tuple[Any, list[Any]]:
        """Make what the vCenter is asked with, from the beginning."""
        stub = self._session.waiting_stub(_WAIT_SECONDS + _MARGIN_SECONDS)
        content = self._session.content
        with self._lock:
            tasks, self._added = list(self._tasks), []
        try:
            self._list = content.viewManager.CreateListView(
                [self._session.object(vim.Task, t) for t in tasks]
            )
        except vmodl.fault.ManagedObjectNotFound:  # the vCenter has been started anew
            self._list = content.viewManager.CreateListView()
            with self._lock:
                for future in self._tasks.values():
                    if not future.done():
                        future.set_result({})
        folder = self._session.object(vim.Folder, self._folder())
        view = content.viewManager.CreateContainerView(folder, [vim.VirtualMachine], True)
        made = content.propertyCollector.CreatePropertyCollector()
        collector = vmodl.query.PropertyCollector(made._moId, stub)
        self._collector = made
        collector.CreateFilter(filter_of(view, vim.VirtualMachine, PATHS), True)
        collector.CreateFilter(filter_of(self._list, vim.Task, _TASK_PATHS), True)
        return collector, [view, self._list]

    def _end(self, collector: Any, views: list[Any]) -> None:
        self._list = self._collector = None
        with contextlib.suppress(vmodl.MethodFault, *LOST):
            collector.DestroyPropertyCollector()
            for view in views:
                view.DestroyView()
        collector._stub.DropConnections()

    def _wait(self, collector: Any, version: str) -> str:
        here = self._round
        options = vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=_WAIT_SECONDS)
        update = collector.WaitForUpdatesEx(version, options)
        with self._lock:
            self._round += 1  # what is noted from now on is newer
        if update is None:
            return version
        tasks: dict[str, dict[str, Any]] = {}
        doubtful: set[str] = set()
        with self._lock:
            if not version:
                self._raw.clear()
                self._entering = set()
            self._noted = {ref: number for ref, number in self._noted.items() if number >= here}
            doubtful |= self._noted.keys()
            for ref, kind, values in changes_of(update):
                if kind == "task":
                    tasks.setdefault(ref, {}).update(values)
                elif kind == "leave":
                    self._drop(ref)
                elif ref not in self._gone and (kind == "enter" or ref in self._vms):
                    if self._entering is not None:
                        self._entering.add(ref)
                    self._put(ref, values, whole=kind == "enter", believe=ref not in self._noted)
            if self._entering is not None and not update.truncated:
                doubtful |= self._vms.keys() - self._entering
                self._entering = None
            for ref, values in tasks.items():
                future = self._tasks.get(ref)
                if future is not None and values.get("info.state") in _ENDED and not future.done():
                    future.set_result(values)
            doubtful &= self._vms.keys()
        while doubtful and not self._closed.is_set():
            doubtful = self._look_again(doubtful)
        with self._lock:
            if not update.truncated:
                self._trouble = None
                self._known.set()
            self._wake()
        version = str(update.version)
        return version

    def _look_again(self, refs: Collection[str]) -> set[str]:
        """Look at machines; returns those of which somebody has noted a change meanwhile."""
        again = set()
        with self._lock:
            before = {ref: self._vms[ref] for ref in refs if ref in self._vms}
        found = self._session.read(vim.VirtualMachine, list(before), PATHS)
        with self._lock:
            for ref, vm in before.items():
                if ref not in self._vms:
                    continue
                if self._vms[ref] is not vm:
                    again.add(ref)
                elif ref in found:
                    self._put(ref, dict(found[ref]))
                else:
                    self._drop(ref)
            self._wake()
        return again

    def _read_folder(self) -> Mapping[str, Mapping[str, Any]]:
        content = self._session.content
        folder = self._session.object(vim.Folder, self._folder())
        view = content.viewManager.CreateContainerView(folder, [vim.VirtualMachine], True)
        try:
            return self._session.retrieve(filter_of(view, vim.VirtualMachine, PATHS))
        finally:
            view.DestroyView()

    # With the lock held.

    def _put(self, ref: str, values: dict[str, Any], *, whole: bool = True, believe: bool = True) -> None:
        """Take in values; what is missing in a whole has none."""
        raw = {} if whole else self._raw.get(ref, {})
        raw.update(values)
        self._raw[ref] = raw
        if believe or ref not in self._vms:
            self._vms[ref] = vm_of(ref, raw, self._cpu_seconds(ref, raw))

    def _drop(self, ref: str) -> None:
        for table in (self._vms, self._raw, self._noted, self._cpu):
            table.pop(ref, None)

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.future.done() and (found := waiter.test()):
                waiter.future.set_result(found)

    def _cpu_seconds(self, ref: str, raw: Mapping[str, Any]) -> float:
        """The vCenter tells how busy a machine is; this adds up the time."""
        busy = busy_cores(raw)
        now = time.monotonic()
        at, rate, total = self._cpu.get(ref, (now, 0.0, 0.0))
        total += rate * (now - at)
        self._cpu[ref] = now, busy, total
        return total


def _result(values: Mapping[str, Any], what: str) -> Any:
    if values.get("info.state") == "success":
        return values.get("info.result")
    if values.get("info.state") == "error":
        raise translate(values["info.error"], what)
    raise OutcomeUnknown(f"{what}: the vCenter does not know its task any more.")
