"""One QEMU process: started, found again, waited for and ended.

It runs in a session of its own and outlives the process that started it; whoever has its folder
finds it again by the pid written there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qemu.qmp import ConnectError, ExecuteError, QMPClient
from qemu.qmp.error import QMPError
from qemu.qmp.qmp_client import NegotiationError

from jupyter_vsandbox import faults
from jupyter_vsandbox.domain.errors import Permanent, Transient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)

QMP_SECONDS = 20.0
YAMA = Path("/proc/sys/kernel/yama/ptrace_scope")
_PR_SET_PTRACER = 0x59616D61
_PF_EXITING = 0x4  # include/linux/sched.h
_MIGRATION_POLL = 0.002  # QEMU sends no event unless asked to, and this takes some 20 ms
LOG = "qemu.log"
CONSOLE = "console.log"
_FLATTEN = "flatten"
_FLATTEN_SPEED = 128 * 1024 * 1024  # bytes per second: the guest wants its disk, too


@dataclass(frozen=True)
class Process:
    """A process that cannot be mistaken for another one with the same pid.

    Attributes:
        pid: process id.
        mark: what an argument begins with that no other process was started with.
    """

    pid: int
    mark: str

    def alive(self) -> bool:
        """Whether it still runs, or holds files that it had open (a zombie does neither)."""
        try:
            with open(f"/proc/{self.pid}/cmdline", "rb") as file:
                arguments = file.read()
            mark = b"\0" + os.fsencode(self.mark)
            return mark in b"\0" + arguments if arguments else self._ending()
        except (FileNotFoundError, ProcessLookupError):
            return False

    def _ending(self) -> bool:
        """Whether it is on its way out: its memory, and the command line with it, goes before its files."""
        with open(f"/proc/{self.pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        state, flags, threads = fields[0], int(fields[6]), int(fields[17])
        return bool(flags & _PF_EXITING) and (state not in b"ZX" or threads > 1)

    def kill(self) -> None:
        """End it at once."""
        with self._pidfd() as pidfd:
            if pidfd is not None:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

    async def wait(self) -> None:
        """Return when it runs no more."""
        loop = asyncio.get_running_loop()
        with self._pidfd() as pidfd:
            if pidfd is None:
                return
            ended = asyncio.Event()
            loop.add_reader(pidfd, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(pidfd)

    @contextlib.contextmanager
    def _pidfd(self) -> Iterator[int | None]:
        try:
            pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield None
            return
        try:
            # The descriptor pins the process, so the check after it cannot be overtaken.
            yield pidfd if self.alive() else None
        finally:
            os.close(pidfd)


class Qemu:
    """The QEMU process of one machine.

    Args:
        folder: holds its pid and error output.
        socket_path: its QMP socket, in a folder that only this user may enter.
    """

    def __init__(self, folder: Path, socket_path: Path) -> None:
        self.folder = folder
        self.socket_path = socket_path

    @property
    def process(self) -> Process | None:
        """The process as last started, which may have ended since."""
        try:
            return Process(int(self._pid_file.read_text()), f"{self.folder}/")
        except (FileNotFoundError, ValueError):
            return None

    @property
    def _pid_file(self) -> Path:
        return self.folder / "pid"

    def alive(self) -> bool:
        """Whether it runs."""
        process = self.process
        return process is not None and process.alive()

    def last_words(self) -> str:
        """What QEMU itself printed, and the end of the guest's console."""
        parts = []
        for name in (LOG, CONSOLE):
            with contextlib.suppress(FileNotFoundError):
                parts.append((self.folder / name).read_text(errors="replace")[-2000:].strip())
        return "\n".join(part for part in parts if part)

    async def launch(
        self,
        argv: Sequence[str],
        state: Path | None = None,
        prepare: Callable[[int], Awaitable[None]] | None = None,
    ) -> int:
        """Start `argv` with a QMP monitor added, wait until it answers, return the agent's port.

        Args:
            argv: the command line.
            state: device state to resume from, for a command line that defers that.
            prepare: awaited with the pid before the state is loaded.

        Raises:
            Permanent: it ended at once; the message says what it printed.
        """
        self.socket_path.unlink(missing_ok=True)
        self._pid_file.unlink(missing_ok=True)
        # The socket listens before QEMU exists: nothing has to be tried again until it does.
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(self.socket_path))
            self.socket_path.chmod(0o600)
            listener.listen(8)
            faults.point("launch.listening")
            fd = listener.fileno()
            command = [
                # A daemon of no parent: no zombie is left to whoever started it.
                "setsid",
                "--fork",
                *_traceable(),
                *argv,
                "-chardev",
                f"socket,id=qmp,fd={fd},server=on,wait=off",
                "-mon",
                "chardev=qmp,mode=control",
                "-pidfile",
                os.fspath(self._pid_file),
            ]
            await asyncio.to_thread(self._spawn, command, fd)
        faults.point("launch.spawned")
        async with self._starting() as execute:
            port = await execute.forwarded_port()
            faults.point("launch.answered")
            if prepare is not None and self.process is not None:
                await prepare(self.process.pid)
            if state is not None:
                await execute.load_state(state)
                faults.point("launch.loaded")
        return port

    async def load(self, state: Path) -> int:
        """Resume from a device state, where `launch` had none; returns and raises as that does."""
        async with self._starting() as execute:
            port = await execute.forwarded_port()
            await execute.load_state(state)
            faults.point("launch.loaded")
        return port

    @contextlib.asynccontextmanager
    async def _starting(self) -> AsyncIterator[Monitor]:
        """A QMP session of a process that ends where the block fails."""
        try:
            async with self.monitor() as execute:
                yield execute
        except BaseException as error:
            await self.end()
            if isinstance(error, Transient):
                raise Permanent(f"QEMU did not start: {self.last_words() or error}") from error
            raise

    def become(self, other: Qemu) -> None:
        """Take over the process of another one, which has none then; its own has ended."""
        files = ((other.folder / name, self.folder / name) for name in (LOG, CONSOLE, self._pid_file.name))
        for old, new in ((other.socket_path, self.socket_path), *files):
            with contextlib.suppress(FileNotFoundError):  # it has ended
                old.replace(new)

    def _spawn(self, command: Sequence[str], fd: int) -> None:
        with open(self.folder / LOG, "wb") as log:
            subprocess.run(
                command, check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(fd,), cwd="/"
            )

    @contextlib.asynccontextmanager
    async def monitor(self) -> AsyncIterator[Monitor]:
        """A QMP session. QEMU talks to one at a time; a second waits.

        Raises:
            Transient: QEMU is gone, refused a command, or took longer than `QMP_SECONDS`.
        """
        client = QMPClient()
        try:
            async with asyncio.timeout(QMP_SECONDS):
                client = await self._connected()
                yield Monitor(client)
        except ExecuteError as error:
            raise Transient(f"QEMU refused: {error}") from error
        except (ConnectError, QMPError, OSError) as error:
            raise Transient(f"QEMU does not answer: {error}") from error
        finally:
            with contextlib.suppress(QMPError, OSError, EOFError):
                await client.disconnect()

    async def _connected(self) -> QMPClient:
        """A client past QMP's greeting.

        One that a machine's event comes to in the middle of that, for instance as it begins to run, takes it
        for a wrong answer and gives up.
        """
        while True:
            client = QMPClient()
            try:
                await client.connect(os.fspath(self.socket_path))
            except ConnectError as error:
                broken = isinstance(error.exc, NegotiationError) and isinstance(error.exc.exc, AssertionError)
                if not broken:
                    raise
            else:
                return client

    async def end(self) -> None:
        """Kill the process if it runs, and forget it."""
        process = self.process
        if process is not None:
            process.kill()
            await process.wait()
        elif self.socket_path.exists():
            # It may not have written its pid yet; its monitor takes this as soon as it runs.
            with contextlib.suppress(Transient):
                async with self.monitor() as execute:
                    await execute("quit")
        self.socket_path.unlink(missing_ok=True)
        self._pid_file.unlink(missing_ok=True)


def _traceable() -> list[str]:
    """What starts a command such that this user's other processes may copy its memory, if need be.

    Yama, on by default in Ubuntu, lets only ancestors do that unless the process agrees with
    ``PR_SET_PTRACER``; that outlives an exec, but not a fork.
    """
    try:
        if YAMA.read_text().strip() != "1":
            return []
    except OSError:
        return []
    agree = f"import ctypes, os, sys; ctypes.CDLL(None).prctl({_PR_SET_PTRACER}, ctypes.c_ulong(-1))"
    return [sys.executable, "-I", "-S", "-c", f"{agree}; os.execvp(sys.argv[1], sys.argv[1:])"]


def _append(path: Path, more: Path) -> None:
    with open(path, "ab") as file, open(more, "rb") as rest:
        shutil.copyfileobj(rest, file, 1 << 20)


class Monitor:
    """Runs QMP commands, https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client

    async def __call__(self, command: str, **arguments: Any) -> Any:  # noqa: ANN401 - JSON
        """Run one command and return its result; underscores in names stand for dashes."""
        return await self._client.execute(command, {k.replace("_", "-"): v for k, v in arguments.items()})

    async def save_state(self, path: Path) -> None:
        """Write the state of the stopped machine's devices to a new file.

        Memory that is shared with a file is not part of it (capability ``x-ignore-shared``).

        Raises:
            Permanent: QEMU could not; the file is incomplete.
        """
        with self._as_state(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)) as fd:
            await self._ignore_shared_memory()
            await self("getfd", fdname="state")
            await self("migrate", uri="fd:state")
            while True:
                answer = await self("query-migrate")
                if answer["status"] == "completed":
                    break
                if answer["status"] in {"failed", "cancelled"}:
                    raise Permanent(f"QEMU could not save the machine's state: {answer.get('error-desc')}")
                await asyncio.sleep(_MIGRATION_POLL)
            os.fsync(fd)

    async def load_state(self, path: Path) -> None:
        """Begin to resume from a state that `save_state` wrote; QEMU ends if it cannot."""
        with self._as_state(os.open(path, os.O_RDONLY)):
            await self._ignore_shared_memory()
            await self("getfd", fdname="state")
            await self("migrate-incoming", uri="fd:state")

    async def save_devices(self, path: Path) -> None:
        """Write the state of the stopped machine's devices, and no memory at all, to a new file.

        Unlike `save_state` this leaves out memory that is private to the process, too.
        """
        await self("xen-save-devices-state", filename=os.fspath(path), live=False)

    async def save_memory(self, path: Path, size: int) -> None:
        """Write all memory of the stopped machine to a new file.

        Args:
            path: of the file; the memory in the order of its backend.
            size: of the memory, bytes.
        """
        # Memory that would reach into the PCI hole of the q35 machine goes on above 4 GiB.
        low = size if size < 0xB0000000 else 0x80000000
        await self("pmemsave", val=0, size=low, filename=os.fspath(path))
        if size > low:
            above = path.with_name(f"{path.name}-above")
            try:
                await self("pmemsave", val=1 << 32, size=size - low, filename=os.fspath(above))
                await asyncio.to_thread(_append, path, above)
            finally:
                above.unlink(missing_ok=True)

    async def top_node(self) -> str:
        """Name of the block node that the machine's disk writes to."""
        return str((await self._disk())["node-name"])

    async def top_file(self) -> str:
        """The file behind `top_node`."""
        return str((await self._disk())["image"]["filename"])

    async def flatten(self, base: Path) -> None:
        """Begin to copy into the disk's top layer all that is between it and `base`.

        When that is done, some time after this returned, the top layer builds on `base` itself. Machine
        and layers may be used meanwhile, and one that ends before that is none the worse.
        """
        top = await self.top_node()
        await self("block-stream", job_id=_FLATTEN, device=top, base=os.fspath(base), speed=_FLATTEN_SPEED)

    async def end_flatten(self, *, complete: bool) -> None:
        """Have no `flatten` at work any more: wait for it, or break it off. Harmless if there is none."""
        with self._client.listener(("BLOCK_JOB_COMPLETED", "BLOCK_JOB_CANCELLED")) as events:
            try:
                if complete:
                    await self("block-job-set-speed", device=_FLATTEN, speed=0)  # no limit
                else:
                    await self("block-job-cancel", device=_FLATTEN)
            except ExecuteError:  # there is none, or it ended just now
                return
            await events.get()

    async def _disk(self) -> dict[str, Any]:
        (inserted,) = [each["inserted"] for each in await self("query-block") if each.get("inserted")]
        return dict(inserted)

    @contextlib.contextmanager
    def _as_state(self, fd: int) -> Iterator[int]:
        """Send QEMU a descriptor along with the next command."""
        try:
            self._client.send_fd_scm(fd)
            yield fd
        finally:
            os.close(fd)

    async def _ignore_shared_memory(self) -> None:
        await self(
            "migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}]
        )

    async def forwarded_port(self) -> int:
        """The host port of the only forward, chosen by the host's kernel."""
        text = await self("human-monitor-command", command_line="info usernet")
        for line in str(text).splitlines():
            words = line.split()
            if words and words[0].startswith("TCP[HOST_FORWARD]"):
                return int(words[3])
        raise Permanent(f"QEMU has no forward to its agent: {text}")
