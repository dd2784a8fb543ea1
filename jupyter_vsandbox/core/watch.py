"""Tells when something in a folder changes, by inotify(7).

The libraries for this look at a clock many times a second; this sleeps in the kernel.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import struct
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable
    from pathlib import Path

_log = logging.getLogger(__name__)

# From <sys/inotify.h>.
_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
_OVERFLOW = 0x4000
_MASK = _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_EVENT = struct.Struct("iIII")
_BUFFER = 64 * 1024
WITHOUT_SECONDS = 2.0
"""How often everything may have changed where the host has no inotify left to give."""


class Watch:
    """Watches folders, not what is below them. Belongs to one event loop.

    Args:
        folders: must exist.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders: dict[int, Path] = {}
        self._every = frozenset((folder, "") for folder in folders)
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            for folder, _ in self._every if self._fd >= 0 else ():
                number = libc.inotify_add_watch(self._fd, os.fsencode(folder), _MASK)
                if number < 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(folder))
                self._folders[number] = folder
        except OSError as error:
            _log.warning("Changes are looked for every %g s: %s", WITHOUT_SECONDS, error)
            self.close()
        else:
            if self._fd < 0:
                reason = os.strerror(ctypes.get_errno())
                _log.warning("Changes are looked for every %g s: no inotify: %s", WITHOUT_SECONDS, reason)

    def close(self) -> None:
        """Stop watching. Harmless twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def changes(self) -> AsyncGenerator[frozenset[tuple[Path, str]], None]:
        """What changed, as folders and names in them; "" is all names, where too much changed at once."""
        if self._fd < 0:
            while True:
                await asyncio.sleep(WITHOUT_SECONDS)
                yield self._every
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        loop.add_reader(self._fd, readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                try:
                    data = os.read(self._fd, _BUFFER)
                except BlockingIOError:
                    continue
                yield self._parse(data)
        finally:
            loop.remove_reader(self._fd)

    def _parse(self, data: bytes) -> frozenset[tuple[Path, str]]:
        found = set()
        at = 0
        while at < len(data):
            number, mask, _, length = _EVENT.unpack_from(data, at)
            name = data[at + _EVENT.size : at + _EVENT.size + length].rstrip(b"\0")
            at += _EVENT.size + length
            if mask & _OVERFLOW:
                return self._every
            if number in self._folders:
                found.add((self._folders[number], os.fsdecode(name)))
        return frozenset(found)
