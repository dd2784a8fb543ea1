"""The host end of a kernel's channels: what a Jupyter connection file points at.

Listens on unix sockets in a private folder, checks the signature of what clients send, signs what
the kernel sends, and carries both over the link. See
https://jupyter-client.readthedocs.io/en/stable/messaging.html.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
from typing import TYPE_CHECKING

import zmq
import zmq.asyncio
from jupyter_client.session import Session

from jupyter_vsandbox.guest.protocol import DELIMITER
from jupyter_vsandbox.link import context

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    Frames = Sequence[zmq.Frame]
    Deliver = Callable[[bytes, Sequence[bytes | zmq.Frame]], Awaitable[None]]

_log = logging.getLogger(__name__)

PORTS = {"shell": 1, "iopub": 2, "stdin": 3, "control": 4, "hb": 5}
"""Last part of each socket's path; a connection file calls it the port."""

_SUBSCRIBED = 1
_SIGNED = 4  # header, parent header, metadata, content


class Relay:
    """Five sockets for clients, on one event loop.

    Args:
        folder: private folder for the sockets.
        key: signs messages between clients and this relay.
        signature_scheme: such as ``hmac-sha256``.
        deliver: called with channel and frames of each message for the kernel.
    """

    def __init__(self, folder: Path, key: bytes, signature_scheme: str, deliver: Deliver) -> None:
        self.prefix = folder / "k"
        self.beating = False
        """Whether to answer heartbeats."""
        self._session = Session(key=key, signature_scheme=signature_scheme)
        self._deliver = deliver
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
        body = frames[start + 2 :]
        signature = self._session.sign([frame.buffer for frame in body[:_SIGNED]])
        socket.send_multipart([*frames[: start + 1], signature, *body], copy=False)

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
            await self._deliver(channel.encode(), [*frames[: start + 1], b"", *body])

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


def _delimiter(frames: Frames) -> int | None:
    """Index of the delimiter of a whole message, `None` if it is none."""
    for index, frame in enumerate(frames):
        if frame.bytes == DELIMITER:
            return index if len(frames) >= index + 2 + _SIGNED else None
    return None
