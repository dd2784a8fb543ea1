"""Runs cells in a sandbox's kernel over the link to its agent, and collects what they put out."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import nbformat
from jupyter_client.session import Session

from jupyter_vsandbox.domain.errors import SandboxError, Transient
from jupyter_vsandbox.guest.protocol import MAX_ASKING
from jupyter_vsandbox.kernel import guest_wire
from jupyter_vsandbox.kernel.folder import Folder
from jupyter_vsandbox.link import AgentLink

if TYPE_CHECKING:
    from collections.abc import Sequence

    import zmq

    from jupyter_vsandbox.domain.model import Sandbox
    from jupyter_vsandbox.kernel.folder import Shared

ANSWER_SECONDS = 60.0
INTERRUPT_SECONDS = 15.0
MAX_BYTES = 24 << 20
"""So much output of a cell is kept."""

_OUTPUTS = frozenset({"display_data", "error", "execute_result", "stream"})
_ABORTED_TRIES = 3
_REFUSAL = "This cell was sent here by another notebook's machine; ask for it there."


@dataclass(frozen=True)
class Ran:
    """What came of a cell.

    Attributes:
        status: ``ok``, ``error``, ``timeout`` (it was interrupted, and perhaps ended) or ``died`` (the
            kernel has).
        outputs: as a notebook has them.
        seconds: that it took.
        truncated: whether there was more output than is kept.
        values: those of the user expressions, as the kernel describes them.
    """

    status: str
    outputs: tuple[dict[str, Any], ...] = ()
    seconds: float = 0.0
    truncated: bool = False
    values: dict[str, Any] = field(default_factory=dict)


class _Cell:
    """A request on its way: takes the messages that belong to it."""

    def __init__(self, msg_id: str) -> None:
        self.msg_id = msg_id
        self.reply: dict[str, Any] | None = None
        self.idle = False
        self.done = asyncio.Event()
        self.outputs: list[dict[str, Any]] = []
        self.size = 0
        self.truncated = False
        self._clear_next = False

    def take(self, channel: str, message: dict[str, Any], size: int) -> None:
        """A message of the kernel that answers this request."""
        kind, content = message["header"]["msg_type"], message["content"]
        if channel == "shell":
            self.reply = content
        elif kind == "status":
            self.idle = self.idle or content["execution_state"] == "idle"
        elif kind == "clear_output":
            if content.get("wait"):
                self._clear_next = True
            else:
                self._clear()
        elif kind == "update_display_data":
            self._update(content)
        elif kind in _OUTPUTS:
            if self._clear_next:
                self._clear()
            self.size += size
            if self.size > MAX_BYTES:
                self.truncated = True
            else:
                self._add(kind, message)
        if self.idle and self.reply is not None:
            self.done.set()

    def _clear(self) -> None:
        self._clear_next = False
        self.outputs.clear()
        self.size = 0

    def _add(self, kind: str, message: dict[str, Any]) -> None:
        content = message["content"]
        last = self.outputs[-1] if self.outputs else {}
        if kind == "stream" and last.get("name") == content["name"]:
            last["parts"].append(content["text"])
            return
        if kind == "stream":
            stream = {"output_type": "stream", "name": content["name"], "parts": [content["text"]]}
            self.outputs.append(stream)
            return
        output = dict(nbformat.v4.output_from_msg(message))  # type: ignore[no-untyped-call]
        output["display_id"] = content.get("transient", {}).get("display_id")
        self.outputs.append(output)

    def _update(self, content: dict[str, Any]) -> None:
        wanted = content.get("transient", {}).get("display_id")
        for output in self.outputs:
            if wanted is not None and output.get("display_id") == wanted:
                output["data"], output["metadata"] = content["data"], content["metadata"]

    def told(self) -> tuple[dict[str, Any], ...]:
        """The outputs as a notebook has them."""
        for output in self.outputs:
            output.pop("display_id", None)
            if "parts" in output:
                output["text"] = "".join(output.pop("parts"))
        return tuple(self.outputs)


class Runner:
    """A running sandbox whose kernel nobody else uses; use as an async context manager.

    Args:
        sandbox: whose kernel.
        shared: the folder that its cells work in, `None` for none.
    """

    def __init__(self, sandbox: Sandbox, shared: Shared | None = None) -> None:
        if sandbox.endpoint is None or sandbox.keys is None:
            raise Transient(f"Sandbox {sandbox.id} is on its way to another state; try again.")
        self._shared = shared
        self._folder = Folder()
        self._link = AgentLink(
            sandbox.endpoint,
            sandbox.keys,
            on_kernel=self._receive,
            on_event=self._on_event,
            on_files=self._folder.take,
        )
        self._session = Session()
        self._session.auth = None  # what the link carries is unsigned; an empty key would be warned of
        self._cell: _Cell | None = None
        self._dead = False
        self._refusing: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._link.__aenter__()
        try:
            if self._shared is not None:
                await self._folder.open(self._shared, self._link.send_files)
            attached = await self._link.request(
                "attach", timeout=ANSWER_SECONDS, workspace=self._folder.served
            )
            if not attached["alive"]:
                await self._link.request("start_kernel", timeout=ANSWER_SECONDS)
        except BaseException:
            self._folder.close()
            await self._link.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._refusing:
            task.cancel()
        self._folder.close()
        await self._link.close()

    async def restart(self) -> None:
        """Start the kernel anew; its variables are lost."""
        await self._link.request("start_kernel", timeout=ANSWER_SECONDS)
        self._dead = False

    async def run(
        self,
        code: str,
        seconds: float,
        *,
        silent: bool = False,
        history: bool = True,
        values: dict[str, str] | None = None,
    ) -> Ran:
        """Run one cell to its end, or its deadline; a cell that is not to go on is interrupted.

        Args:
            code: of the cell.
            seconds: the deadline, that of a start of the kernel included.
            silent: as Jupyter has it.
            history: whether the cell counts.
            values: names and expressions to evaluate after it, where it succeeds.

        Raises:
            SandboxError: the link to the guest broke.
        """
        content = {
            "code": code,
            "silent": silent,
            "store_history": history and not silent,
            "allow_stdin": False,
            "stop_on_error": False,
            "user_expressions": values or {},
        }
        # A kernel that was copied in the middle of a cell ends that first, and what is queued with it.
        for left in itertools.count(-_ABORTED_TRIES):
            await self._settle(seconds)
            if self._dead:
                return Ran("died")
            ran = await self._once(content, seconds)
            if ran.status != "aborted" or left == 0:
                return ran
        raise AssertionError

    async def _settle(self, seconds: float) -> None:
        message = self._session.msg("kernel_info_request", content={})
        with contextlib.suppress(TimeoutError):
            await self._wait(self._begin(message), message, seconds)

    async def _once(self, content: dict[str, Any], seconds: float) -> Ran:
        message = self._session.msg("execute_request", content=content)
        cell = self._begin(message)
        began = time.monotonic()
        status = ""
        try:
            await self._wait(cell, message, seconds)
        except TimeoutError:
            status = "timeout"
            await self._interrupt(cell)
        except asyncio.CancelledError:
            await self._interrupt(None)
            raise
        took = time.monotonic() - began
        reply = cell.reply or {}
        status = status or ("died" if self._dead else str(reply.get("status")))
        values = reply.get("user_expressions")
        return Ran(status, cell.told(), took, cell.truncated, values if isinstance(values, dict) else {})

    def _begin(self, message: dict[str, Any]) -> _Cell:
        self._cell = _Cell(message["header"]["msg_id"])
        return self._cell

    async def _wait(self, cell: _Cell, message: dict[str, Any], seconds: float) -> None:
        await self._link.send(b"shell", self._session.serialize(message))
        async with asyncio.timeout(seconds):
            await cell.done.wait()

    async def _interrupt(self, cell: _Cell | None) -> None:
        with contextlib.suppress(SandboxError, TimeoutError):
            await self._link.request("signal", timeout=INTERRUPT_SECONDS, number=int(signal.SIGINT))
            if cell is not None:
                async with asyncio.timeout(INTERRUPT_SECONDS):
                    await cell.done.wait()

    def _receive(self, channel: bytes, frames: Sequence[zmq.Frame]) -> None:
        cell = self._cell
        if cell is None or channel not in (b"shell", b"iopub"):
            return
        try:
            _, parts = self._session.feed_identities([frame.bytes for frame in frames])
            message = self._session.deserialize(parts)
            if message["parent_header"].get("msg_id") == cell.msg_id:
                cell.take(channel.decode(), message, sum(len(frame) for frame in frames))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return  # what is no message of a kernel

    def _on_event(self, event: dict[str, Any]) -> None:
        if event.get("event") == "kernel_exited":
            self._dead = True
            if self._cell is not None:
                self._cell.done.set()
        elif event.get("event") == "asked" and len(self._refusing) < MAX_ASKING:
            task = asyncio.create_task(self._refuse(guest_wire.number(event)))
            self._refusing.add(task)
            task.add_done_callback(self._refusing.discard)

    async def _refuse(self, number: int | None) -> None:
        """What asks here would wait for ever: nobody else listens to this machine meanwhile."""
        line = json.dumps({"error": _REFUSAL, "kind": "Unsupported"})
        with contextlib.suppress(SandboxError):
            if number is not None:
                await self._link.request("answer", timeout=ANSWER_SECONDS, number=number, line=line)
