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

from jupyter_vsandbox.workspace import sftp

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_vsandbox.workspace.jail import Jail

_log = logging.getLogger(__name__)

MAX_STREAMS = 4
MAX_WAITING = 256
"""So many requests may wait to be answered; the agent sends fewer."""
MAX_WAITING_BYTES = 32 << 20


class Serving:
    """Serves until it is closed. Belongs to the event loop that it is made on.

    Args:
        jail: what to serve; it is closed with this.
        send: called on the loop with a stream and a packet for the guest, b"" for the stream's end.
    """

    def __init__(self, jail: Jail, send: Callable[[bytes, bytes], None]) -> None:
        self._jail = jail
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._streams: set[bytes] = set()
        self._waiting = self._waiting_bytes = 0
        self._closed = False
        self._work: queue.SimpleQueue[tuple[bytes, bytes] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="vsandbox-files", daemon=True).start()

    def take(self, stream: bytes, packet: bytes) -> None:
        """A packet of the guest, b"" where it has closed the stream."""
        if self._closed or len(stream) > 64:
            return
        if not packet:
            if stream in self._streams:
                self._streams.discard(stream)
                self._work.put((stream, b""))
            return
        full = stream not in self._streams and len(self._streams) >= MAX_STREAMS
        flooded = self._waiting >= MAX_WAITING or self._waiting_bytes >= MAX_WAITING_BYTES
        if full or flooded or len(packet) > sftp.MAX_PACKET:
            _log.warning("A guest asked for more of its folder than it may at once; it is cut off.")
            self._cut(stream)
            return
        self._streams.add(stream)
        self._waiting += 1
        self._waiting_bytes += len(packet)
        self._work.put((stream, packet))

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

    def _cut(self, stream: bytes) -> None:
        if stream in self._streams:
            self._streams.discard(stream)
            self._work.put((stream, b""))
        self._send(stream, b"")

    def _answered(self, stream: bytes, size: int, answer: bytes | None) -> None:
        self._waiting -= 1
        self._waiting_bytes -= size
        if stream not in self._streams or self._closed:
            return
        if answer is None:
            self._cut(stream)
        else:
            self._send(stream, answer)

    def _run(self) -> None:
        sessions: dict[bytes, sftp.Session] = {}
        try:
            while (item := self._work.get()) is not None:
                stream, packet = item
                if not packet:
                    if (session := sessions.pop(stream, None)) is not None:
                        session.close()
                    continue
                session = sessions.get(stream) or sessions.setdefault(stream, sftp.Session(self._jail))
                answer = None
                try:
                    answer = session.answer(packet)
                except sftp.Malformed:
                    pass
                except Exception:  # noqa: BLE001 - the thread must go on for the others
                    _log.exception("A request for a file failed.")
                with contextlib.suppress(RuntimeError):  # the loop has ended before this
                    self._loop.call_soon_threadsafe(self._answered, stream, len(packet), answer)
        finally:
            for session in sessions.values():
                session.close()
            self._jail.close()
