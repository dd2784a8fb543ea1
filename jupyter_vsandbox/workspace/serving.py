"""Serves a `Jail` to one guest: streams of SFTP packets that come over its link.

The work is done in a thread of its own, so that a slow disk keeps nobody waiting but whoever uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
from typing import TYPE_CHECKING

from jupyter_vsandbox.guest import protocol
from jupyter_vsandbox.workspace import sftp

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_vsandbox.workspace.jail import Jail

_log = logging.getLogger(__name__)

MAX_STREAMS = 4
MAX_WAITING = 256
"""So many requests may wait to be answered; the agent sends fewer."""
MAX_WAITING_BYTES = 32 << 20
_MAX_ANSWERS = 256 << 10
"""After so many bytes of answers they are sent; before that, with all that was asked at once."""


class Serving:
    """Serves until it is closed. Belongs to the event loop that it is made on.

    Args:
        jail: what to serve; it is closed with this.
        send: called on the loop with a stream and packets for the guest, each after its length, b"" for the
            stream's end.
    """

    def __init__(self, jail: Jail, send: Callable[[bytes, bytes], None]) -> None:
        self._jail = jail
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._streams: set[bytes] = set()
        self._waiting = self._waiting_bytes = 0
        self._closed = False
        self._work: queue.SimpleQueue[tuple[bytes, list[bytes]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="vsandbox-files", daemon=True).start()

    def take(self, stream: bytes, data: bytes) -> None:
        """Packets of the guest, each after its length, b"" where it has closed the stream."""
        if self._closed or len(stream) > 64:
            return
        if not data:
            self._forget(stream)
            return
        full = stream not in self._streams and len(self._streams) >= MAX_STREAMS
        packets = _whole(data)
        waiting, size = self._waiting + len(packets), self._waiting_bytes + sum(map(len, packets))
        if full or not packets or waiting > MAX_WAITING or size > MAX_WAITING_BYTES:
            _log.warning("A guest asked for what it may not, or for more at once; its folder is cut off.")
            self._cut(stream)
            return
        self._streams.add(stream)
        self._waiting, self._waiting_bytes = waiting, size
        self._work.put((stream, packets))

    def reset(self) -> None:
        """End all streams: who made them has forgotten them."""
        for stream in list(self._streams):
            self._cut(stream)

    def close(self) -> None:
        """End all streams, telling the guest so, and let go of the folder. Harmless twice."""
        if not self._closed:
            for stream in list(self._streams):
                self._send(stream, b"")
            self._closed = True
            self._work.put(None)

    def _forget(self, stream: bytes) -> None:
        if stream in self._streams:
            self._streams.discard(stream)
            self._work.put((stream, []))

    def _cut(self, stream: bytes) -> None:
        self._forget(stream)
        self._send(stream, b"")

    def _answered(self, stream: bytes, packets: list[bytes], answers: bytes) -> None:
        self._waiting -= len(packets)
        self._waiting_bytes -= sum(map(len, packets))
        if stream not in self._streams or self._closed:
            return
        if answers:
            self._send(stream, answers)
        else:
            self._cut(stream)

    def _run(self) -> None:
        sessions: dict[bytes, sftp.Session] = {}
        try:
            while (item := self._work.get()) is not None:
                stream, packets = item
                if not packets:
                    if (session := sessions.pop(stream, None)) is not None:
                        session.close()
                    continue
                session = sessions.get(stream) or sessions.setdefault(stream, sftp.Session(self._jail))
                while packets:
                    answers, count = _answers(session, packets)
                    done, packets = packets[:count], packets[count:]
                    with contextlib.suppress(RuntimeError):  # the loop has ended before this
                        self._loop.call_soon_threadsafe(self._answered, stream, done, answers)
        finally:
            for session in sessions.values():
                session.close()
            self._jail.close()


def _whole(data: bytes) -> list[bytes]:
    """The packets that `data` is made of; none if it is not."""
    try:
        at = list(protocol.packets(data))
    except ValueError:
        return []
    return [data[start:end] for start, end in at] if at and at[-1][1] == len(data) else []


def _answers(session: sftp.Session, packets: list[bytes]) -> tuple[bytes, int]:
    """Answers, b"" where there can be none any more, and of how many packets."""
    answers = bytearray()
    count = 0
    try:
        while count < len(packets) and len(answers) < _MAX_ANSWERS:
            answers += protocol.framed(session.answer(packets[count]))
            count += 1
    except sftp.Malformed:
        return b"", len(packets)
    except Exception:  # noqa: BLE001 - the thread must go on for the others
        _log.exception("A request for a file failed.")
        return b"", len(packets)
    return bytes(answers), count
