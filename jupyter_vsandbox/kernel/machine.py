"""One Jupyter kernel in one sandbox: the machine, the link to it and the relay before it.

Lives on the engine's loop; the provisioner is its only caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox.core.standby import refill
from jupyter_vsandbox.domain.errors import InvalidState, NotFound, Permanent, SandboxError
from jupyter_vsandbox.domain.model import Cause, State
from jupyter_vsandbox.files import locked
from jupyter_vsandbox.guest import protocol
from jupyter_vsandbox.kernel.guest_requests import GuestRequests
from jupyter_vsandbox.kernel.packages import changes_packages
from jupyter_vsandbox.kernel.relay import Relay
from jupyter_vsandbox.link import AgentLink
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import zmq

    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.domain.model import Sandbox

_log = logging.getLogger(__name__)

ANSWER_SECONDS = 15.0
SIGNAL_SECONDS = 5.0
MACHINE_LOST = 70
"""What `poll` says when not the kernel but its machine or agent is gone (EX_SOFTWARE)."""


class KernelMachine:
    """Starts, restarts, signals and releases one kernel.

    Args:
        service: for the verbs on the sandbox.
        runtime: name of the runtime to start.
        driver: name of the driver to start it with.
        kernel_id: Jupyter's id of the kernel.
    """

    def __init__(self, service: SandboxService, runtime: str, driver: str, kernel_id: str) -> None:
        self._service = service
        self._runtime = runtime
        self._driver = driver
        self._kernel_id = kernel_id
        self._sandbox: Sandbox | None = None
        self._link: AgentLink | None = None
        self._relay: Relay | None = None
        self._watch: asyncio.Task[None] | None = None
        self._exited = asyncio.Event()
        self._connected = asyncio.Event()
        self._asleep = asyncio.Event()
        self._waking = asyncio.Lock()
        self._cell = contextlib.AsyncExitStack()
        self._in_cell = False
        self._cell_began = 0.0
        self._ending = False
        self._guest_requests = GuestRequests(service, self._answer)
        self.returncode: int | None = None
        """`None` while the kernel lives."""

    @property
    def sandbox_id(self) -> str:
        """The sandbox's id, "" before there is one."""
        return self._sandbox.id if self._sandbox else ""

    async def launch(
        self,
        key: bytes,
        signature_scheme: str,
        env: Mapping[str, str],
        cwd: str,
        notebook: str,
        attach: str = "",
    ) -> None:
        """Start the kernel: the first time in a new sandbox, later in the same one.

        Args:
            key: of the connection file.
            signature_scheme: of the connection file.
            env: environment variables to add for the kernel.
            cwd: folder to start in, where the guest has it.
            notebook: path of what the kernel is for, "" if that is not known.
            attach: id of the sandbox to use, "" for the notebook's own or a new one.
        """
        fresh = self._sandbox is None
        booted = started = False
        try:
            if fresh:
                self._sandbox, booted = await self._find(notebook, attach)
            elif not self._reachable():
                await self._disconnect()
                self._sandbox = await self._restart_machine(notebook)
                booted = True
            await self._open_relay(key, signature_scheme)
            await self._connect()
            if self._link is not None:
                await self._link.set_clock()  # a standby may have waited for hours
            status = await self._attach(env=dict(env), cwd=cwd)
            if status["protocol"] != protocol.VERSION:
                raise Permanent(
                    f"The image of {self._runtime} speaks version {status['protocol']} of the link's "
                    f"protocol, this host {protocol.VERSION}: jupyter vsandbox images build {self._runtime}"
                )
            if booted or not fresh or not status["alive"]:
                if self._relay is not None:
                    self._relay.forget()
                await self._request("start_kernel", env=dict(env), cwd=cwd, timeout=ANSWER_SECONDS)
            self.returncode = None
            self._ending = False
            self._exited.clear()
            self._asleep.clear()
            self._connected.set()
            if self._watch is None or self._watch.done():
                self._watch = asyncio.create_task(self._watch_machine())
            if self._relay is not None:
                self._relay.beating = True
            started = True
        finally:
            if not started and fresh:
                await self.release()

    async def signal(self, number: int) -> None:
        """Signal the kernel and what it started. A machine that does not answer SIGKILL is ended."""
        if self.returncode is not None:
            return
        if self._asleep.is_set():  # there is no kernel process, and none is woken to be ended
            if number in (signal.SIGTERM, signal.SIGKILL):
                self._exit(0, "it was hibernated")
            return
        self._ending = number in (signal.SIGTERM, signal.SIGKILL)
        try:
            status = await self._request("signal", number=number, timeout=SIGNAL_SECONDS)
        except SandboxError as error:
            if number != signal.SIGKILL:
                _log.warning("Could not signal the kernel in sandbox %s: %s", self.sandbox_id, error)
                return
            # Another process may just have hibernated it; then it stays so.
            with contextlib.suppress(NotFound, InvalidState):
                await self._service.stop(self.sandbox_id)
            self._exit(MACHINE_LOST, f"it did not answer and was ended ({error})")
        else:
            if not status["alive"]:
                self._exit(status["returncode"], status["log"])

    async def wait(self) -> int:
        """Wait until the kernel has ended; returns its exit status."""
        await self._exited.wait()
        return self.returncode if self.returncode is not None else MACHINE_LOST

    def rebind(self) -> None:
        """Listen again where the kernel manager has removed the sockets' files."""
        if self._relay is not None:
            self._relay.rebind()

    async def release(self) -> None:
        """Let go of everything, a disposable sandbox included. Harmless twice."""
        await self._guest_requests.close()
        await self._disconnect()
        self.cells_done()
        if self._relay is not None:
            folder = self._relay.prefix.parent
            await self._relay.close()
            self._relay = None
            with contextlib.suppress(OSError):
                folder.rmdir()
        if self._sandbox is not None:
            await self._service.let_go(self._sandbox.id)
            self._sandbox = None
        if self.returncode is None:
            self.returncode = 0
            self._exited.set()

    # Below: the parts of a launch.

    async def _find(self, notebook: str, attach: str) -> tuple[Sandbox, bool]:
        """The sandbox to use, and whether it was booted and so has no kernel yet."""
        mine = attach or self._service.bound(notebook, self._runtime)
        if mine:
            before = await self._service.settled(mine)
            claimed = await self._service.claim(mine, self._kernel_id, notebook)
            return claimed, before.state is State.STOPPED
        created = await self._service.create(
            self._runtime, driver=self._driver, kernel_id=self._kernel_id, notebook=notebook
        )
        refill(self._service.settings, self._runtime)
        return created, False

    def _reachable(self) -> bool:
        if self._link is None or self._sandbox is None:
            return False
        try:
            current = self._service.get(self._sandbox.id)
        except NotFound:
            return False
        return current.state is State.RUNNING and self._service.alive(current.id)

    async def _restart_machine(self, notebook: str) -> Sandbox:
        """A machine again, from the disk the sandbox had, or a new sandbox if that was deleted."""
        try:
            if (await self._service.settled(self.sandbox_id)).state is State.HIBERNATED:
                return await self._service.wake(self.sandbox_id)
            return await self._service.start(self.sandbox_id)
        except NotFound:
            return await self._service.create(
                self._runtime, driver=self._driver, kernel_id=self._kernel_id, notebook=notebook
            )

    async def _open_relay(self, key: bytes, signature_scheme: str) -> None:
        if self._relay is None:
            folder = private_folder(self._service.client_sockets(self._kernel_id))
            self._relay = Relay(folder, key, signature_scheme, self)
            await self._relay.open()

    async def _connect(self) -> None:
        if self._link is None and self._sandbox is not None:
            if self._sandbox.endpoint is None or self._sandbox.keys is None:
                raise Permanent(f"Sandbox {self._sandbox.id} has no machine.")
            self._link = AgentLink(
                self._sandbox.endpoint,
                self._sandbox.keys,
                on_kernel=self._from_kernel,
                on_event=self._on_event,
                on_reconnect=self._on_reconnect,
            )
            await self._link.__aenter__()

    async def _disconnect(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        await self._unlink()

    async def _unlink(self) -> None:
        self._connected.clear()
        self._guest_requests.drop()
        if self._link is not None:
            await self._link.close()
            self._link = None

    async def _attach(self, **args: Any) -> dict[str, Any]:
        return await self._request("attach", timeout=ANSWER_SECONDS, **args)

    async def _request(self, verb: str, *, timeout: float, **args: Any) -> dict[str, Any]:
        if self._link is None:
            raise Permanent(f"There is no link to sandbox {self.sandbox_id}.")
        return await self._link.request(verb, timeout=timeout, **args)

    # What happens by itself.

    async def ready_for(self, channel: str, msg_type: str, code: str) -> bool:
        """See `KernelEnd`: a cell waits for its turn, and whatever comes first wakes the machine.

        Before a cell that changes packages, there is a snapshot.
        """
        if self._asleep.is_set() and msg_type == "shutdown_request":
            return False
        if msg_type == "execute_request" and not self._in_cell:
            await self._cell.enter_async_context(locked(self._service.cell_lock(self.sandbox_id)))
            self._in_cell = True
            self._cell_began = time.monotonic()
        while not (self._connected.is_set() or self._exited.is_set()):
            if self._asleep.is_set():
                await self._wake()
                continue
            events = (self._connected, self._exited, self._asleep)
            waits = [asyncio.create_task(event.wait()) for event in events]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        if self._connected.is_set() and changes_packages(code):
            await self._guard(Cause.PACKAGES)
        return True

    async def deliver(self, channel: bytes, frames: Sequence[bytes | zmq.Frame]) -> None:
        """See `KernelEnd`."""
        if self._link is not None:
            await self._link.send(channel, frames)

    def cells_done(self) -> None:
        """See `KernelEnd`."""
        if self._in_cell:
            self._in_cell = False
            held, self._cell = self._cell, contextlib.AsyncExitStack()
            self._released = asyncio.create_task(self._leave_cell(held))

    async def _leave_cell(self, held: contextlib.AsyncExitStack) -> None:
        long = self._service.settings.long_cell
        if long and time.monotonic() - self._cell_began >= long and self._connected.is_set():
            await self._guard(Cause.LONG_CELL)
        await held.aclose()

    async def _guard(self, cause: Cause) -> None:
        try:
            await self._service.guard(self.sandbox_id, cause)
        except SandboxError as error:
            _log.warning("No snapshot of sandbox %s for %s: %s", self.sandbox_id, cause, error)

    async def _wake(self) -> None:
        async with self._waking:
            if not self._asleep.is_set():
                return
            try:
                self._sandbox = await self._service.wake(self.sandbox_id)
            except SandboxError as error:
                self._exit(MACHINE_LOST, f"it could not be woken: {error}")
                return
            await self._connect()
            await self._attach()
            if self._relay is not None:
                await self._relay.ask_again()
            self._asleep.clear()
            self._connected.set()
            self._watch = asyncio.create_task(self._watch_machine())

    def _from_kernel(self, channel: bytes, frames: Sequence[zmq.Frame]) -> None:
        if self._relay is not None:
            self._relay.from_kernel(channel, frames)

    def _on_event(self, event: dict[str, Any]) -> None:
        if event["event"] == "kernel_exited":
            self._exit(event["returncode"], event["log"])
        elif event["event"] in ("asked", "withdrawn"):
            self._guest_requests.take(event, self.sandbox_id)

    async def _answer(self, number: int, line: str) -> None:
        await self._request("answer", timeout=ANSWER_SECONDS, number=number, line=line)

    def _on_reconnect(self) -> None:
        self._guest_requests.drop()
        self._watch_reconnect = asyncio.create_task(self._reattach())

    async def _reattach(self) -> None:
        """The link was cut: if the agent was killed, its kernel is gone with it."""
        try:
            status = await self._attach()
        except SandboxError as error:
            _log.warning("Lost sandbox %s: %s", self.sandbox_id, error)
            return
        if not status["alive"]:
            self._exit(MACHINE_LOST, "its agent was started anew")

    async def _watch_machine(self) -> None:
        """Follow the sandbox to wherever the verbs of any process put it."""
        while True:
            last_words = await self._service.ended(self.sandbox_id)
            await self._unlink()
            try:
                current = await self._service.settled(self.sandbox_id)
                if current.state is State.RUNNING:
                    self._sandbox = current
                    await self._connect()
                    status = await self._attach()
                    if self._relay is not None:
                        await self._relay.rewound()
                    if status["alive"]:
                        self._connected.set()
                        continue
                    last_words = "there is no kernel at that point of its history"
            except SandboxError as error:
                last_words = f"{last_words} {error}"
            else:
                if current.state is State.HIBERNATED:
                    self._asleep.set()
                    if self._relay is not None and self._relay.waiting:
                        self._woken = asyncio.create_task(self._wake())
                    return
            self._exit(MACHINE_LOST, f"its machine ended: {last_words}")
            return

    def _exit(self, returncode: int | None, reason: str) -> None:
        if self.returncode is None:
            level = logging.WARNING if returncode and not self._ending else logging.DEBUG
            _log.log(
                level, "Sandbox %s: the kernel ended with status %s. %s", self.sandbox_id, returncode, reason
            )
            self.returncode = MACHINE_LOST if returncode is None else returncode
            if self._relay is not None:
                self._relay.beating = False
                self._relay.forget()
            self._exited.set()
