"""One encrypted connection to one agent: requests, events and the kernel's channels."""

from __future__ import annotations

import asyncio
import collections
import functools
import itertools
import logging
import os
import time
from typing import TYPE_CHECKING, Any

import zmq
import zmq.asyncio
from zmq.utils.monitor import parse_monitor_message

from jupyter_vsandbox.domain.errors import OutcomeUnknown, Permanent, Transient
from jupyter_vsandbox.domain.model import LinkKeys
from jupyter_vsandbox.guest import protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from jupyter_vsandbox.domain.model import Endpoint

    Frames = Sequence[zmq.Frame]

_log = logging.getLogger(__name__)
_RECONNECT_MS = 20
_RECONNECT_MAX_MS = 250
_HANDSHAKE_MS = 3000
_CLOCK_SECONDS = 0.01  # so far off a guest's clock may be
_CLOCK_ANSWER_SECONDS = 0.04  # an answer that took this long tells the time to half of it
_CLOCK_TRIES = 4
_CLOCK_TIMEOUT = 15.0
_MAX_UNTAKEN = 64 << 20
"""Bytes about files that may wait for a guest to take them; four times what one may ask for at once."""


@functools.cache
def _context_of(pid: int) -> zmq.asyncio.Context:
    return zmq.asyncio.Context()


def context() -> zmq.asyncio.Context:
    """The ZeroMQ context of this project's sockets in this process.

    Not the global one, which applications destroy when they are done with their own sockets.
    """
    return _context_of(os.getpid())


def new_keys() -> LinkKeys:
    """Fresh keys for both ends of one link."""
    server_public, server_secret = zmq.curve_keypair()
    client_public, client_secret = zmq.curve_keypair()
    return LinkKeys(
        server_public=server_public.decode(),
        server_secret=server_secret.decode(),
        client_public=client_public.decode(),
        client_secret=client_secret.decode(),
    )


class AgentLink:
    """A connection to the agent of one sandbox; use as an async context manager.

    The connection is made, and made again after it broke, in the background. Belongs to the
    event loop it was entered on.

    Args:
        endpoint: where the agent listens.
        keys: the link's keys.
        on_kernel: called with channel and frames of each message from the kernel.
        on_event: called with each event of the agent, ``{"event": NAME, ...}``.
        on_reconnect: called when the connection stands again after it broke.
        on_files: called with a stream and packets of the guest's that are about the notebook's folder.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        keys: LinkKeys,
        on_kernel: Callable[[bytes, Frames], None] | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        on_reconnect: Callable[[], None] | None = None,
        on_files: Callable[[bytes, bytes], None] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._keys = keys
        self._on_kernel = on_kernel
        self._on_event = on_event
        self._on_reconnect = on_reconnect
        self._on_files = on_files
        self._files_apart = False  # the guest speaks version 3
        self._untaken: collections.deque[tuple[zmq.MessageTracker, int]] = collections.deque()
        self._ids = itertools.count()
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._socket: zmq.asyncio.Socket | None = None
        self._monitor: zmq.asyncio.Socket | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        socket = context().socket(zmq.DEALER)
        socket.curve_serverkey = self._keys.server_public.encode()
        socket.curve_publickey = self._keys.client_public.encode()
        socket.curve_secretkey = self._keys.client_secret.encode()
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = 0
        socket.reconnect_ivl = _RECONNECT_MS
        socket.reconnect_ivl_max = _RECONNECT_MAX_MS
        socket.handshake_ivl = _HANDSHAKE_MS
        events = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED
        self._monitor = monitor = socket.get_monitor_socket(events)
        socket.connect(self._endpoint.url)
        self._socket = socket
        self._tasks = [asyncio.create_task(self._read(socket)), asyncio.create_task(self._watch(monitor))]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Drop the connection; what waits for an answer gets `OutcomeUnknown`. Harmless twice."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        if self._socket is not None:
            self._socket.disable_monitor()
            self._socket.close()
            self._socket = None
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        self._give_up()

    def _give_up(self) -> None:
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(OutcomeUnknown("The link to the guest broke before it answered."))
        self._answers.clear()

    async def request(self, verb: str, *, timeout: float, **args: Any) -> dict[str, Any]:
        """Ask the agent for `verb` and wait for its answer.

        Args:
            verb: one of the agent's verbs.
            timeout: seconds to wait, the connection's making included.
            **args: JSON values; not validated here.

        Raises:
            Transient: no answer in time.
            OutcomeUnknown: the link was closed meanwhile.
            Permanent: the agent answered with an error.
        """
        if self._socket is None:
            raise OutcomeUnknown("The link to the guest is closed.")
        number = next(self._ids)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        await self._socket.send_multipart(protocol.pack({"id": number, "verb": verb, "args": args}))
        try:
            async with asyncio.timeout(timeout):
                message = await answer
        except TimeoutError:
            raise Transient(f"The guest's agent did not answer {verb!r} within {timeout:g} s.") from None
        finally:
            self._answers.pop(number, None)
        if "error" in message:
            raise Permanent(f"The guest's agent could not {verb!r}: {message['error']}")
        result: dict[str, Any] = message["result"]
        return result

    async def set_clock(self) -> None:
        """Set the guest's clock as NTP does: by its offset from the middle of a question and its answer.

        Raises:
            SandboxError: as `request` does.
        """
        quickest, offset = float("inf"), 0.0
        for _ in range(_CLOCK_TRIES):
            asked = time.time()
            shown = (await self.request("clock", timeout=_CLOCK_TIMEOUT))["time"]
            answered = time.time()
            if answered - asked < quickest:
                quickest, offset = answered - asked, shown - (asked + answered) / 2
            if quickest <= _CLOCK_ANSWER_SECONDS:
                break
        if abs(offset) > _CLOCK_SECONDS:
            await self.request("clock", timeout=_CLOCK_TIMEOUT, step=-offset)

    async def send(self, channel: bytes, frames: Sequence[bytes | zmq.Frame]) -> None:
        """Pass a client's message on to the kernel."""
        if self._socket is not None:
            await self._socket.send_multipart([channel, *frames], copy=False)

    def send_files(self, stream: bytes, packets: bytes) -> None:
        """Answer a guest's packets, or end a stream with b"".

        Nothing happens once the link is closed, or where the guest does not take what it has asked for.
        """
        if not self._files_apart:
            self._send_untaken(stream + packets)
            return
        for start, end in protocol.packets(packets) if packets else [(0, 0)]:
            self._send_untaken(protocol.FILES, stream, packets[start:end])

    def _send_untaken(self, *frames: bytes) -> None:
        """Send without waiting, and without ever keeping much."""
        while self._untaken and self._untaken[0][0].done:
            self._untaken.popleft()
        if self._socket is None or sum(size for _, size in self._untaken) > _MAX_UNTAKEN:
            return
        last = zmq.Frame(frames[-1], track=True, copy=False)
        self._untaken.append((last.tracker, len(frames[-1])))
        self._socket.send_multipart([*frames[:-1], last], copy=False)

    def _files(self, frames: Frames) -> None:
        self._files_apart = len(frames) > 1
        if self._on_files is None:
            return
        if not self._files_apart:
            stream, packets = protocol.stream(frames[0].buffer)
            self._on_files(stream, bytes(packets))
        elif len(frames) == 3:
            packet = frames[2].bytes
            self._on_files(frames[1].bytes, protocol.framed(packet) if packet else b"")

    async def _read(self, socket: zmq.asyncio.Socket) -> None:
        while True:
            frames: Frames = await socket.recv_multipart(copy=False)
            channel = protocol.FILES if len(frames) == 1 else frames[0].bytes
            if channel == protocol.FILES:
                self._files(frames)
                continue
            if channel != protocol.AGENT:
                if self._on_kernel is not None:
                    self._on_kernel(channel, frames[1:])
                continue
            try:
                message = protocol.unpack(frames[1].bytes)
            except (ValueError, IndexError):
                _log.warning("The agent at %s sent what is no message.", self._endpoint.url)
                continue
            if "event" in message:
                if self._on_event is not None:
                    self._on_event(message)
                continue
            waiting = self._answers.get(message.get("id", -1))
            if waiting is not None and not waiting.done():
                waiting.set_result(message)

    async def _watch(self, monitor: zmq.asyncio.Socket) -> None:
        """Notice that the connection broke, and that it stands again."""
        connected = broken = False
        while True:
            event = parse_monitor_message(await monitor.recv_multipart())["event"]
            if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                if broken and self._on_reconnect is not None:
                    self._on_reconnect()
                connected, broken = True, False
            elif connected:
                connected, broken = False, True
                self._give_up()
