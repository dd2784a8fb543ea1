"""The host end of a kernel's channels: what a Jupyter connection file points at.

Listens on unix sockets in a private folder, checks the signature of what clients send, signs what
the kernel sends, and carries both over the link. See
https://jupyter-client.readthedocs.io/en/stable/messaging.html.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import logging
import os
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Protocol

import zmq
import zmq.asyncio
from jupyter_client.session import Session

from jupyter_vsandbox.domain.errors import OutcomeUnknown, SandboxError
from jupyter_vsandbox.guest.protocol import DELIMITER
from jupyter_vsandbox.link import context

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    Frames = Sequence[zmq.Frame]

_log = logging.getLogger(__name__)

PORTS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
"""Last part of each socket's path; a connection file calls it the port."""

PASSIVE = frozenset(
    {
        "comm_info_request",
        "connect_request",
        # JupyterLab's, before any comm: what is then said over that counts.
        "create_subshell_request",
        "debug_request",
        "delete_subshell_request",
        "history_request",
        "kernel_info_request",
        "list_subshell_request",
        "usage_request",
    }
)
"""What front ends ask by themselves, some over and over: it keeps no machine awake and wakes none."""

WIDGETS = "jupyter.widget.control"
"""Target of the comms over which front ends ask by themselves for the widgets of a notebook, see
https://github.com/jupyter-widgets/ipywidgets/blob/main/packages/schema/messages.md."""

_ASKS = frozenset({"shell", "control"})
_KERNEL_INFO = "kernel_info_request"
_SUBSCRIBED = 1
_SIGNED = 4  # header, parent header, metadata, content
_STATUS_BYTES = 200
"""No ``status`` has a longer content; longer ones need not be looked into."""


class Delivery(Enum):
    """What becomes of a message."""

    NOW = auto()
    ON_WAKING = auto()
    """The relay keeps it until `Relay.ask_again`, and answers itself what it knows."""
    NEVER = auto()


class KernelEnd(Protocol):
    """Takes what clients send."""

    async def ready_for(self, msg_type: str, code: str, *, passive: bool) -> Delivery:
        """Return when it is clear whether a message can be delivered.

        Args:
            msg_type: of the message.
            code: the source, if it is a cell's.
            passive: whether the front end sends it by itself.

        Raises:
            SandboxError, OSError: it cannot be delivered now; whoever sent it is told why.
        """

    async def deliver(self, channel: bytes, frames: Sequence[bytes | zmq.Frame]) -> None:
        """Hand a message to the kernel."""

    def cells_done(self) -> None:
        """Every cell that was delivered is answered."""


@dataclass
class _Request:
    """What a client sent and the kernel has not dealt with.

    Attributes:
        due: what is missing of its answer: the ``reply``, or status ``idle`` on iopub.
        passive: whether the front end sent it by itself.
        begun: whether the kernel has said that it is busy with it.
    """

    channel: str
    idents: Sequence[zmq.Frame]
    header: dict[str, Any]
    frames: Sequence[bytes | zmq.Frame]
    due: set[str]
    passive: bool
    begun: bool = False

    @property
    def kind(self) -> str:
        return str(self.header["msg_type"])

    @property
    def is_cell(self) -> bool:
        return self.kind == "execute_request"


class Relay:
    """Five sockets for clients, on one event loop.

    Args:
        folder: private folder for the sockets.
        key: signs messages between clients and this relay.
        signature_scheme: such as ``hmac-sha256``.
        kernel: where messages of clients go.
    """

    def __init__(self, folder: Path, key: bytes, signature_scheme: str, kernel: KernelEnd) -> None:
        self.prefix = folder / "k"
        self.beating = False
        """Whether to answer heartbeats."""
        self.notice = ""
        """What the next cell prints first, for its user to read."""
        self._epoch = 0
        self._kernel_info: dict[str, Any] | None = None
        self._outstanding: dict[str, _Request] = {}
        self._sent = 0
        self._widget_comms: set[str] = set()
        self._question = b""
        self._settled = asyncio.Event()
        self._settled.set()
        self._holding = False
        self._session = Session(key=key, signature_scheme=signature_scheme)
        self._kernel = kernel
        self._sockets: dict[str, zmq.asyncio.Socket] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Listen."""
        for channel in PORTS:
            socket = context().socket(zmq.XPUB if channel == "iopub" else zmq.ROUTER)
            socket.linger = 0
            socket.sndhwm = socket.rcvhwm = 0
            if channel == "iopub":
                socket.xpub_verbose = True
            self._sockets[channel] = socket
            self._bind(channel)
        self._tasks = [
            *(asyncio.create_task(self._pump(name)) for name in ("shell", "control", "stdin")),
            asyncio.create_task(self._welcome()),
            asyncio.create_task(self._beat()),
        ]

    def rebind(self) -> None:
        """Make the sockets' files again: a kernel manager removes them at each restart.

        Clients that are connected stay so.
        """
        for channel, socket in self._sockets.items():
            with contextlib.suppress(zmq.ZMQError):
                socket.unbind(self._url(channel))
            self._bind(channel)

    async def close(self) -> None:
        """Stop listening. Harmless twice."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        for channel, socket in self._sockets.items():
            socket.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(channel))
        self._sockets.clear()

    def from_kernel(self, channel: bytes, frames: Frames) -> None:
        """Sign a message of the kernel and hand it to the client, or clients, it is for."""
        name = channel.decode()
        socket = self._sockets.get(name)
        start = _delimiter(frames)
        if socket is None or start is None:
            return
        if name == "iopub" and b"iopub_welcome" in frames[start + 2].bytes:
            return  # meant for the agent; clients get one from here
        body: list[Any] = list(frames[start + 2 :])
        if self._question and self._question in body[1].bytes:
            if name == "shell":
                self._settled.set()
            return  # nobody but the relay asked
        if self._epoch:
            # A kernel that was put back counts its messages from an earlier number again.
            header = json.loads(body[0].bytes)
            header["msg_id"] += f"_{self._epoch}"
            body[0] = zmq.Frame(json.dumps(header).encode())
        signature = self._session.sign([frame.buffer for frame in body[:_SIGNED]])
        socket.send_multipart([*frames[: start + 1], signature, *body], copy=False)
        if self._outstanding and (part := _part_of_answer(name, body)):
            msg_id = json.loads(body[1].bytes).get("msg_id", "")
            request = self._outstanding.get(msg_id)
            if part == "reply" and request is not None and request.kind == _KERNEL_INFO:
                self._kernel_info = json.loads(body[3].bytes)
            self._answered(msg_id, part)

    def forget(self) -> None:
        """The kernel that was asked is gone, and those who asked know."""
        self._outstanding.clear()
        self._settled.set()
        self._kernel.cells_done()

    @property
    def waiting(self) -> bool:
        """Whether somebody waits for an answer that no cell has to end for, or for a cell to begin."""
        asked = [each for each in self._outstanding.values() if not (each.is_cell or each.passive)]
        cells = [each for each in self._outstanding.values() if each.is_cell]
        return self._holding or bool(asked) or bool(cells and not any(each.begun for each in cells))

    @property
    def in_cell(self) -> bool:
        """Whether a cell runs, or waits in the kernel to be run."""
        return any(request.is_cell for request in self._outstanding.values())

    @property
    def ending(self) -> bool:
        """Whether the kernel was asked to end, and has not answered."""
        return any(request.kind == "shutdown_request" for request in self._outstanding.values())

    def count_from(self, taken: int) -> None:
        """Count cells as the agent does, which has passed on `taken` of them and now waits for more."""
        self._sent = taken

    async def ask_again(self, taken: int, cells: int) -> None:
        """The kernel may not have got what is outstanding: its machine was about to sleep.

        Machines sleep between cells, or in the middle of one that then goes on. One that was told to
        while a cell was on its way has not got that, or its answer did not get here.

        Args:
            taken: how many cells the agent has passed on to the kernel.
            cells: how many of them the kernel has not answered.
        """
        waiting = [
            msg_id for msg_id, each in self._outstanding.items() if each.is_cell and "reply" in each.due
        ]
        lost = min(len(waiting), max(0, self._sent - taken))
        self._sent = taken + lost
        answered = waiting[: max(0, len(waiting) - lost - cells)]
        for msg_id, request in list(self._outstanding.items()):
            if msg_id in answered:
                del self._outstanding[msg_id]
                await self._refuse(
                    request, OutcomeUnknown("The cell ran, and its result was lost on the way.")
                )
            elif not request.is_cell or msg_id in waiting[len(waiting) - lost :]:
                await self._kernel.deliver(request.channel.encode(), request.frames)
        if answered and not self.in_cell:
            self._kernel.cells_done()
        if not self._settled.is_set():
            await self.hold_cells()

    async def hold_cells(self) -> None:
        """Deliver no cell until the kernel has answered a question that waits behind all that it was sent.

        A kernel that fails in one cell aborts those behind it, and for a moment whatever comes. One that
        was put back to where cells waited is about to, and the cell that a user then sends is another.
        """
        message = self._session.msg("kernel_info_request", content={})
        self._question = json.dumps(message["header"]["msg_id"]).encode()
        self._settled.clear()
        delimiter, _, *body = self._session.serialize(message)
        await self._kernel.deliver(b"shell", [delimiter, b"", *body])

    async def refuse(self, error: Exception) -> None:
        """Answer what would have been asked again with an error."""
        for msg_id, request in list(self._outstanding.items()):
            if not request.is_cell:
                del self._outstanding[msg_id]
                await self._refuse(request, error)

    async def rewound(self) -> None:
        """The kernel is another one than was asked: abort the cells, ask it the rest."""
        self._epoch += 1
        outstanding, self._outstanding = self._outstanding, {}
        self._kernel.cells_done()
        for msg_id, request in outstanding.items():
            if request.is_cell:
                if "reply" in request.due:
                    await self._reply(request, {"status": "aborted", "execution_count": 0})
                await self._publish(request, "status", {"execution_state": "idle"})
            elif "reply" in request.due:
                self._outstanding[msg_id] = request
                await self._kernel.deliver(request.channel.encode(), request.frames)

    async def _inform(self, request: _Request, kernel_info: dict[str, Any]) -> None:
        """Answer for a kernel that sleeps: nothing of it changes in its sleep."""
        await self._publish(request, "status", {"execution_state": "busy"})
        await self._reply(request, kernel_info)
        await self._publish(request, "status", {"execution_state": "idle"})

    async def _refuse(self, request: _Request, error: Exception) -> None:
        said = {"ename": type(error).__name__, "evalue": str(error), "traceback": [f"{error}"]}
        if request.is_cell:
            await self._publish(request, "status", {"execution_state": "busy"})
            await self._publish(request, "error", said)
        if "reply" in request.due:
            await self._reply(request, {"status": "error", "execution_count": 0, **said})
        await self._publish(request, "status", {"execution_state": "idle"})

    async def _reply(self, request: _Request, content: dict[str, Any]) -> None:
        kind = f"{request.kind.removesuffix('_request')}_reply"
        reply = self._session.msg(kind, content=content, parent=request.header)
        idents = [frame.bytes for frame in request.idents]
        await self._sockets[request.channel].send_multipart(self._session.serialize(reply, ident=idents))

    async def _publish(self, request: _Request, kind: str, content: dict[str, Any]) -> None:
        message = self._session.msg(kind, content=content, parent=request.header)
        await self._sockets["iopub"].send_multipart(self._session.serialize(message, ident=kind.encode()))

    def _answered(self, msg_id: str, part: str) -> None:
        request = self._outstanding.get(msg_id)
        if request is None:
            return
        request.begun |= part == "busy"
        request.due.discard(part)
        if not request.due:
            for earlier, each in list(self._outstanding.items()):
                if "reply" not in each.due:  # some kernels never say that they are idle again
                    del self._outstanding[earlier]
                if earlier == msg_id:
                    break
            if not self.in_cell:
                self._kernel.cells_done()

    def _bind(self, channel: str) -> None:
        self._sockets[channel].bind(self._url(channel))
        os.chmod(self._path(channel), 0o600)

    def _path(self, channel: str) -> str:
        return f"{self.prefix}-{PORTS[channel]}"

    def _url(self, channel: str) -> str:
        return f"ipc://{self._path(channel)}"

    async def _pump(self, channel: str) -> None:
        socket = self._sockets[channel]
        while True:
            frames: Frames = await socket.recv_multipart(copy=False)
            start = _delimiter(frames)
            if start is None:
                _log.warning("Ignored what is no Jupyter message on %s.", channel)
                continue
            body = frames[start + 2 :]
            signature = self._session.sign([frame.buffer for frame in body[:_SIGNED]])
            if not hmac.compare_digest(signature, frames[start + 1].bytes):
                _log.warning("Ignored a message on %s with a wrong signature.", channel)
                continue
            message: Sequence[bytes | zmq.Frame] = [*frames[: start + 1], b"", *body]
            header = _header(body[0])
            if header is None:
                _log.warning("Ignored a message on %s whose header is none.", channel)
                continue
            kind = header["msg_type"]
            code = str(_content(body[3]).get("code", "")) if kind == "execute_request" else ""
            passive = kind in PASSIVE or self._is_of_widgets(kind, body[3])
            request = _Request(channel, frames[:start], header, message, _due(channel, kind), passive)
            try:
                delivery = await self._delivery(request, code)
            except (SandboxError, OSError) as error:
                await self._refuse(request, error)
                continue
            if delivery is Delivery.NEVER:
                continue
            asleep = delivery is Delivery.ON_WAKING
            if asleep and request.kind == _KERNEL_INFO and self._kernel_info is not None:
                await self._inform(request, self._kernel_info)
                continue
            if request.due:
                self._outstanding[header["msg_id"]] = request
            self._sent += request.is_cell
            if asleep:
                # Jupyter Server keeps what it hears first from its clients, which wait for a status then.
                await self._publish(request, "status", {"execution_state": "idle"})
                continue
            await self._kernel.deliver(channel.encode(), message)
            if self.notice and request.is_cell:
                notice, self.notice = self.notice, ""
                await self._publish(request, "stream", {"name": "stderr", "text": f"{notice}\n"})

    def _is_of_widgets(self, kind: str, content: zmq.Frame) -> bool:
        """Whether a message only asks for the widgets that there are, see `WIDGETS`."""
        opened = kind == "comm_open"
        if not opened and not (self._widget_comms and kind in {"comm_msg", "comm_close"}):
            return False
        said = _content(content)
        comm = str(said.get("comm_id", ""))
        if opened and said.get("target_name") == WIDGETS:
            self._widget_comms.add(comm)
        known = comm in self._widget_comms
        if kind == "comm_close":
            self._widget_comms.discard(comm)
        return known

    async def _delivery(self, request: _Request, code: str) -> Delivery:
        """See `KernelEnd.ready_for`; a cell also waits for what `hold_cells` asked, in whatever order."""
        while True:
            if request.is_cell:
                self._holding = not self._settled.is_set()
                await self._settled.wait()
                self._holding = False
            delivery = await self._kernel.ready_for(request.kind, code, passive=request.passive)
            if delivery is not Delivery.NOW or not request.is_cell or self._settled.is_set():
                return delivery

    async def _welcome(self) -> None:
        """Tell each new subscriber that it will miss nothing from here on (JEP 65)."""
        socket = self._sockets["iopub"]
        while True:
            request = await socket.recv()
            if request[:1] == bytes([_SUBSCRIBED]):
                topic = request[1:]
                message = self._session.msg("iopub_welcome", content={"subscription": topic.decode()})
                await socket.send_multipart(self._session.serialize(message, ident=topic))

    async def _beat(self) -> None:
        socket = self._sockets["hb"]
        while True:
            frames = await socket.recv_multipart()
            if self.beating:
                await socket.send_multipart(frames)


def _due(channel: str, kind: str) -> set[str]:
    """What a kernel answers to a message of a client: `_Request.due`."""
    if channel in _ASKS and kind.endswith("_request"):
        return {"reply", "idle"} if kind == "execute_request" else {"reply"}
    return {"idle"} if kind.startswith("comm_") else set()


def _part_of_answer(channel: str, body: Sequence[zmq.Frame]) -> str:
    """Which part of an answer a message of the kernel is: its state ``busy`` or ``idle``, or ``reply``."""
    if channel in _ASKS:
        return "reply"
    if channel != "iopub" or len(body[3]) > _STATUS_BYTES or b'"execution_state"' not in body[3].bytes:
        return ""
    content = json.loads(body[3].bytes)
    return str(content.get("execution_state", "")) if isinstance(content, dict) else ""


def _header(frame: zmq.Frame) -> dict[str, Any] | None:
    """The header in a frame, `None` if it lacks what every header has."""
    try:
        header = json.loads(frame.bytes)
    except ValueError:
        return None
    whole = isinstance(header, dict) and all(isinstance(header.get(n), str) for n in ("msg_id", "msg_type"))
    return header if whole else None


def _content(frame: zmq.Frame) -> dict[str, Any]:
    """The content of a message, empty if it is none."""
    try:
        content = json.loads(frame.bytes)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _delimiter(frames: Frames) -> int | None:
    """Index of the delimiter of a whole message, `None` if it is none."""
    for index, frame in enumerate(frames):
        if frame.bytes == DELIMITER:
            return index if len(frames) >= index + 2 + _SIGNED else None
    return None
