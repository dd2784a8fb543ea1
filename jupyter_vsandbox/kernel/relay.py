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
from typing import TYPE_CHECKING, Any, Protocol

import zmq
import zmq.asyncio
from jupyter_client.session import Session

from jupyter_vsandbox.guest.protocol import DELIMITER
from jupyter_vsandbox.link import context

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    Frames = Sequence[zmq.Frame]

_log = logging.getLogger(__name__)

PORTS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
"""Last part of each socket's path; a connection file calls it the port."""

_ASKS = frozenset({"shell", "control"})
_SUBSCRIBED = 1
_SIGNED = 4  # header, parent header, metadata, content


class KernelEnd(Protocol):
    """Takes what clients send."""

    async def ready_for(self, channel: str, msg_type: str, code: str) -> bool:
        """Return when a message, `code` if it is a cell's, may be delivered; false if it is to be dropped."""

    async def deliver(self, channel: bytes, frames: Sequence[bytes | zmq.Frame]) -> None:
        """Hand a message to the kernel."""

    def cells_done(self) -> None:
        """Every cell that was delivered is answered."""


@dataclass(frozen=True)
class _Request:
    """A request that the kernel has not answered."""

    channel: str
    idents: Sequence[zmq.Frame]
    header: dict[str, Any]
    frames: Sequence[bytes | zmq.Frame]

    @property
    def is_cell(self) -> bool:
        return bool(self.header["msg_type"] == "execute_request")


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
        self._epoch = 0
        self._outstanding: dict[str, _Request] = {}
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
        if self._epoch:
            # A kernel that was put back counts its messages from an earlier number again.
            header = json.loads(body[0].bytes)
            header["msg_id"] += f"_{self._epoch}"
            body[0] = zmq.Frame(json.dumps(header).encode())
        signature = self._session.sign([frame.buffer for frame in body[:_SIGNED]])
        socket.send_multipart([*frames[: start + 1], signature, *body], copy=False)
        if name in _ASKS and self._outstanding:
            self._answered(json.loads(body[1].bytes).get("msg_id", ""))

    def forget(self) -> None:
        """The kernel that was asked is gone, and those who asked know."""
        self._outstanding.clear()
        self._kernel.cells_done()

    @property
    def waiting(self) -> bool:
        """Whether clients wait for answers."""
        return bool(self._outstanding)

    async def ask_again(self) -> None:
        """The kernel never got what is outstanding: its machine was asleep already."""
        for request in self._outstanding.values():
            await self._kernel.deliver(request.channel.encode(), request.frames)

    async def rewound(self) -> None:
        """The kernel is another one than was asked: abort the cells, ask it the rest."""
        self._epoch += 1
        outstanding, self._outstanding = self._outstanding, {}
        self._kernel.cells_done()
        for msg_id, request in outstanding.items():
            if not request.is_cell:
                self._outstanding[msg_id] = request
                await self._kernel.deliver(request.channel.encode(), request.frames)
                continue
            reply = self._session.msg(
                "execute_reply", content={"status": "aborted", "execution_count": 0}, parent=request.header
            )
            idents = [frame.bytes for frame in request.idents]
            await self._sockets[request.channel].send_multipart(self._session.serialize(reply, ident=idents))
            idle = self._session.msg("status", content={"execution_state": "idle"}, parent=request.header)
            await self._sockets["iopub"].send_multipart(self._session.serialize(idle, ident=b"status"))

    def _answered(self, msg_id: str) -> None:
        request = self._outstanding.pop(msg_id, None)
        if request is not None and not any(each.is_cell for each in self._outstanding.values()):
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
            code = _code(body[3]) if header["msg_type"] == "execute_request" else ""
            if not await self._kernel.ready_for(channel, header["msg_type"], code):
                continue
            if channel in _ASKS and header["msg_type"].endswith("_request"):
                self._outstanding[header["msg_id"]] = _Request(channel, frames[:start], header, message)
            await self._kernel.deliver(channel.encode(), message)

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


def _header(frame: zmq.Frame) -> dict[str, Any] | None:
    """The header in a frame, `None` if it lacks what every header has."""
    try:
        header = json.loads(frame.bytes)
    except ValueError:
        return None
    whole = isinstance(header, dict) and all(isinstance(header.get(n), str) for n in ("msg_id", "msg_type"))
    return header if whole else None


def _code(frame: zmq.Frame) -> str:
    """The source in the content of a request to execute it, "" if there is none."""
    try:
        return str(json.loads(frame.bytes)["code"])
    except (ValueError, LookupError, TypeError):
        return ""


def _delimiter(frames: Frames) -> int | None:
    """Index of the delimiter of a whole message, `None` if it is none."""
    for index, frame in enumerate(frames):
        if frame.bytes == DELIMITER:
            return index if len(frames) >= index + 2 + _SIGNED else None
    return None
