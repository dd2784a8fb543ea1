"""One Jupyter kernel in one sandbox: the machine, the link to it and the relay before it.

Lives on the engine's loop; the provisioner is its only caller.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox.core.departure import leave
from jupyter_vsandbox.domain.errors import InvalidState, NotFound, Permanent, SandboxError
from jupyter_vsandbox.domain.model import Cause, State
from jupyter_vsandbox.files import try_locked
from jupyter_vsandbox.guest import protocol
from jupyter_vsandbox.kernel.choice import Choice
from jupyter_vsandbox.kernel.folder import Folder, Shared
from jupyter_vsandbox.kernel.guest_requests import GuestRequests
from jupyter_vsandbox.kernel.idle import IdleTimer
from jupyter_vsandbox.kernel.packages import changes_packages
from jupyter_vsandbox.kernel.relay import Delivery, Relay
from jupyter_vsandbox.kernel.turn import CellTurn
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
        self._kernel_id = kernel_id
        self._choice = Choice(service, runtime, driver, kernel_id)
        self._sandbox: Sandbox | None = None
        self._link: AgentLink | None = None
        self._folder = Folder()
        self._relay: Relay | None = None
        self._watch: asyncio.Task[None] | None = None
        self._exited = asyncio.Event()
        self._connected = asyncio.Event()
        self._asleep = asyncio.Event()
        self._waking = asyncio.Lock()
        self._turn = CellTurn(self._after_cells)
        self._idle = IdleTimer(service.settings.hibernate_after, self._cpu, self._nobody_uses_it)
        self._ending = False
        self._notice = ""
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
        arguments: Sequence[str] = (),
    ) -> None:
        """Start the kernel: the first time in a new sandbox, later in the same one.

        Args:
            key: of the connection file.
            signature_scheme: of the connection file.
            env: environment variables to add for the kernel.
            cwd: folder of this host to work in where no notebook is known, "" for none.
            notebook: path of what the kernel is for, "" if that is not known.
            attach: id of the sandbox to use, "" for the notebook's own or a new one.
            arguments: added to the kernel's command line; the warm kernel, which has none, gives way.
        """
        process: dict[str, Any] = {"env": dict(env)}
        if arguments:
            process["arguments"] = list(arguments)
        async with self._waking:  # a message may be waking it at this moment
            fresh = self._sandbox is None
            booted = started = False
            try:
                if fresh:
                    found = await self._choice.first(notebook, attach)
                    self._sandbox, booted, self._notice = found.sandbox, found.booted, found.notice
                elif not self._reachable():
                    await self._disconnect()
                    self._sandbox = await self._choice.again(self.sandbox_id, notebook)
                    booted = True
                if cwd and self._sandbox is not None and self._sandbox.folder != cwd:
                    self._sandbox = await self._service.place(self.sandbox_id, cwd)
                await self._open_relay(key, signature_scheme)
                await self._connect()
                if self._link is not None:
                    await self._link.set_clock()  # a standby may have waited for hours
                status = await self._attach(env=dict(env))
                self._tell(status)
                if status["protocol"] not in protocol.SPOKEN:
                    raise Permanent(
                        f"The image of {self._runtime} speaks version {status['protocol']} of the link's "
                        f"protocol, this host {protocol.VERSION}: "
                        f"jupyter vsandbox images build {self._runtime}"
                    )
                if booted or not fresh or not status["alive"] or arguments:
                    if self._relay is not None:
                        self._relay.forget()
                    status = await self._request("start_kernel", **process, timeout=ANSWER_SECONDS)
                else:
                    await self._hold_cells_behind(status)
                if self._relay is not None:
                    self._relay.count_from(status.get("taken", 0))
                self.returncode = None
                self._ending = False
                self._exited.clear()
                self._ready()
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
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SIGNAL_SECONDS):
                await self._talkable()
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

    async def release(self, *, keep_memory: bool = False) -> None:
        """Let go of everything, a disposable sandbox included. Harmless twice.

        Args:
            keep_memory: hibernate a sandbox that somebody can come back to, in the middle of a cell, too.
        """
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
            if keep_memory:
                await leave(self._service, self._sandbox.id)
            else:
                await self._service.let_go(self._sandbox.id)
            self._sandbox = None
        if self.returncode is None:
            self.returncode = 0
            self._exited.set()

    # Below: the parts of a launch.

    def _reachable(self) -> bool:
        if self._link is None or self._sandbox is None:
            return False
        try:
            current = self._service.get(self._sandbox.id)
        except NotFound:
            return False
        return current.state is State.RUNNING and self._service.alive(current.id)

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
                on_files=self._folder.take,
            )
            await self._link.__aenter__()
            await self._folder.open(self._shared(self._sandbox), self._link.send_files)

    async def _disconnect(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        await self._unlink()

    def _ready(self) -> None:
        """The kernel can be talked to, and from now on the machine is followed."""
        self._asleep.clear()
        self._connected.set()
        self._idle.start()
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(self._watch_machine())

    async def _unlink(self) -> None:
        self._idle.stop()
        self._connected.clear()
        self._guest_requests.drop()
        self._folder.close()
        if self._link is not None:
            await self._link.close()
            self._link = None

    async def _attach(self, **args: Any) -> dict[str, Any]:
        served = self._folder.served
        return await self._request("attach", timeout=ANSWER_SECONDS, workspace=served, **args)

    def _tell(self, status: Mapping[str, Any]) -> None:
        """Have the next cell print what its user should know."""
        folder = self._folder.why_not
        if self._folder.served and not status.get("workspace"):
            folder = f"Sandbox {self.sandbox_id} could not mount the folder of its notebook."
        if self._relay is not None:
            self._relay.notice = " ".join(filter(None, (self._notice, folder)))
        self._notice = ""

    def _shared(self, sandbox: Sandbox) -> Shared:
        return Shared(self._service.settings, sandbox.workspace)

    async def _request(self, verb: str, *, timeout: float, **args: Any) -> dict[str, Any]:
        if self._link is None:
            raise Permanent(f"There is no link to sandbox {self.sandbox_id}.")
        return await self._link.request(verb, timeout=timeout, **args)

    # What happens by itself.

    async def ready_for(self, msg_type: str, code: str, *, passive: bool) -> Delivery:
        """See `KernelEnd`: a cell waits for its turn, and what a user does wakes the machine.

        Before a cell that changes packages, there is a snapshot.
        """
        if not passive:
            self._idle.used()
        is_cell, guarded = msg_type == "execute_request", not changes_packages(code)
        while True:
            if is_cell and not self._turn.running:
                await self._take_turn()
            elif not await self._talkable():
                if msg_type == "shutdown_request":  # its memory is not to be lost
                    self._exit(0, "it was hibernated")
                if msg_type in {"shutdown_request", "usage_request"}:
                    return Delivery.NEVER
                if passive and await self._sleeps_on():
                    return Delivery.ON_WAKING
                try:
                    await self._wake()
                except (SandboxError, OSError):
                    if self._relay is None or not self._relay.in_cell:
                        self._turn.end()
                    raise
            elif is_cell and not self._turn.running:  # what a rollback aborted has taken the turn along
                continue
            elif not guarded and self._connected.is_set():
                guarded = True
                await self._guard(Cause.PACKAGES)
            else:
                return Delivery.NOW

    async def _sleeps_on(self) -> bool:
        async with self._waking:  # something may be waking it at this moment
            return self._asleep.is_set()

    async def _take_turn(self) -> None:
        await self._turn.take(self._service.cell_lock(self.sandbox_id))
        if self._connected.is_set() and not self._is_where_it_was():
            # A verb is at work on it, or was and that is about to be noticed.
            with contextlib.suppress(SandboxError):
                await self._service.settled(self.sandbox_id)
            if not self._is_where_it_was():
                self._connected.clear()
        with contextlib.suppress(NotFound):  # its notebook may be somewhere else by now
            await self._folder.move(self._shared(self._service.get(self.sandbox_id)))

    def _is_where_it_was(self) -> bool:
        with contextlib.suppress(NotFound):
            current = self._service.get(self.sandbox_id)
            here = self._sandbox.endpoint if self._sandbox is not None else None
            return current.state is State.RUNNING and current.endpoint == here
        return False

    async def _talkable(self) -> bool:
        """Wait while a verb is at work on the machine; false if it then sleeps."""
        if not (self._connected.is_set() or self._exited.is_set()):
            events = (self._connected, self._exited, self._asleep)
            waits = [asyncio.create_task(event.wait()) for event in events]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        return not self._asleep.is_set() or self._exited.is_set()

    async def deliver(self, channel: bytes, frames: Sequence[bytes | zmq.Frame]) -> None:
        """See `KernelEnd`."""
        if self._link is not None:
            await self._link.send(channel, frames)

    def cells_done(self) -> None:
        """See `KernelEnd`."""
        self._idle.used()
        self._turn.end()

    async def _after_cells(self, seconds: float) -> None:
        long = self._service.settings.long_cell
        if long and seconds >= long and self._connected.is_set():
            await self._guard(Cause.LONG_CELL)

    async def _guard(self, cause: Cause) -> None:
        try:
            await self._service.guard(self.sandbox_id, cause)
        except (SandboxError, OSError) as error:
            _log.warning("No snapshot of sandbox %s for %s: %s", self.sandbox_id, cause, error)

    def _cpu(self) -> float:
        with contextlib.suppress(NotFound):
            return self._service.usage(self.sandbox_id).cpu
        return 0.0

    def _nobody_uses_it(self) -> None:
        # Not a part of the timer, which ends when the machine does.
        self._dozing = asyncio.create_task(self._doze())

    async def _doze(self) -> None:
        """Hibernate a machine that has not been used for a while, unless somebody has begun to."""
        async with self._waking:
            with try_locked(self._service.cell_lock(self.sandbox_id)) as between_cells:
                waiting = self._relay is not None and self._relay.waiting
                if between_cells and self._connected.is_set() and not waiting:
                    self._connected.clear()  # what comes from now on waits for the machine to wake
                    try:
                        # What was sent before has arrived when this is answered.
                        await self._request("kernel", timeout=ANSWER_SECONDS)
                        await self._service.hibernate(self.sandbox_id, now=True)
                        _log.info("Sandbox %s was not in use and hibernates.", self.sandbox_id)
                        return
                    except (SandboxError, OSError) as error:
                        _log.warning("Sandbox %s was not in use and stays awake: %s", self.sandbox_id, error)
                    if self._link is not None:
                        self._connected.set()
            if self._link is not None:  # else it is on its way elsewhere, and that is followed
                self._idle.start()

    async def _wake(self) -> None:
        """Bring a hibernated machine back.

        Raises:
            SandboxError, OSError: it still sleeps, or cannot be reached; the next message tries again.
        """
        async with self._waking:
            if not self._asleep.is_set() or self._exited.is_set():
                return
            try:
                self._sandbox = await self._service.wake(self.sandbox_id)
                await self._connect()
                status = await self._attach()
            except (SandboxError, OSError) as error:  # for instance a disk that is full
                _log.warning("Sandbox %s could not be woken: %s", self.sandbox_id, error)
                await self._unlink()
                raise
            if not status["alive"]:
                self._exit(MACHINE_LOST, "its kernel is gone")
                return
            if self._relay is not None:
                await self._relay.ask_again(status["taken"], status["cells"])
            self._ready()

    async def _wake_for_those_who_wait(self) -> None:
        try:
            await self._wake()
        except (SandboxError, OSError) as error:
            if self._relay is not None:
                await self._relay.refuse(error)

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
        self._folder.reset()
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
                        self._relay.count_from(status.get("taken", 0))
                    if status["alive"]:
                        await self._hold_cells_behind(status)
                        self._connected.set()
                        self._idle.start()
                        continue
                    last_words = "there is no kernel at that point of its history"
            except (SandboxError, OSError) as error:
                last_words = f"{last_words} {error}"
            else:
                if current.state is State.HIBERNATED:
                    self._fall_asleep()
                    return
            self._exit(MACHINE_LOST, f"its machine ended: {last_words}")
            return

    async def _hold_cells_behind(self, status: Mapping[str, Any]) -> None:
        """Where cells wait in the kernel that were sent in another life of its machine, or of its origin."""
        if self._relay is not None and status.get("cells", 0) > 1:
            await self._relay.hold_cells()

    def _fall_asleep(self) -> None:
        self._asleep.set()
        if self._relay is not None and self._relay.ending:
            self._exit(0, "it was hibernated")
        elif self._relay is not None and self._relay.waiting:
            self._woken = asyncio.create_task(self._wake_for_those_who_wait())

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
