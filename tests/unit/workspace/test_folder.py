"""Which folder a machine gets, and what it may do there."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox.guest import protocol
from jupyter_vsandbox.kernel.folder import Folder, Shared

if TYPE_CHECKING:
    from pathlib import Path

    from jupyter_vsandbox.settings import Settings


def lstat(path: bytes) -> bytes:
    return protocol.framed(b"\x07\0\0\0\x01" + len(path).to_bytes(4, "big") + path)


@pytest.mark.parametrize(
    ("policy", "read_only", "writable"),
    [("write", False, True), ("write", True, False), ("read", False, False), ("read", True, False)],
)
def test_the_policy_says_what_a_machine_may_do(
    settings: Settings, tmp_path: Path, policy: str, read_only: bool, writable: bool
) -> None:
    jail = Shared(replace(settings, workspace=policy), str(tmp_path), read_only).jail()
    assert jail is not None
    with contextlib.closing(jail):
        assert jail.writable is writable


def test_without_folder_or_leave_there_is_none(settings: Settings, tmp_path: Path) -> None:
    assert Shared(settings, "").jail() is None
    assert Shared(replace(settings, workspace="none"), str(tmp_path)).jail() is None


def test_the_own_home_is_kept_out(settings: Settings) -> None:
    settings.home.mkdir()
    (settings.home / "vsandbox.sqlite").touch()
    jail = Shared(replace(settings, workspace_hidden=True), str(settings.home.parent)).jail()
    assert jail is not None
    with contextlib.closing(jail), pytest.raises(FileNotFoundError):
        jail.stat(os.fsencode(settings.home.name) + b"/vsandbox.sqlite")


def test_it_is_served_moved_and_let_go(settings: Settings, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for place in (old, new):
        place.mkdir()
        (place / place.name).touch()

    async def go() -> None:
        answers: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()

        async def kind(stream: bytes, path: bytes) -> int:
            folder.take(stream, lstat(path))
            while True:
                async with asyncio.timeout(10):
                    answered, packet = await answers.get()
                if answered == stream and packet:
                    return packet[4]

        folder = Folder()
        folder.take(b"early", lstat(b"old"))
        await folder.open(Shared(settings, str(old)), lambda *packet: answers.put_nowait(packet))
        assert folder.served
        assert await kind(b"1", b"old") == 105
        await folder.move(Shared(settings, str(old)))
        assert await kind(b"1", b"old") == 105
        await folder.move(Shared(settings, ""))  # its notebook is deleted
        assert await kind(b"1", b"old") == 105
        await folder.move(Shared(settings, str(new)))
        assert await kind(b"2", b"old") == 101
        assert await kind(b"2", b"new") == 105
        await folder.move(Shared(settings, str(tmp_path / "missing")))
        assert "missing" in folder.why_not
        folder.take(b"3", lstat(b"new"))
        while (await answers.get()) != (b"3", b""):
            pass
        folder.close()
        folder.close()

    asyncio.run(go())
