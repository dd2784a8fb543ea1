"""Files that appear whole or not at all, and locks that hold even where their files are removed."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest

from jupyter_vsandbox import files
from jupyter_vsandbox.domain.errors import Exhausted, Permanent
from jupyter_vsandbox.files import copy_whole, exhausted_if_full, locked, try_locked


def test_a_copy_takes_the_place_of_a_file_and_its_mode(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("new")
    target.write_text("old and longer")
    target.chmod(0o640)
    (tmp_path / "link").symlink_to(target)
    copy_whole(source, tmp_path / "link")
    assert (target.read_text(), target.stat().st_mode & 0o777) == ("new", 0o640)
    assert (tmp_path / "link").is_symlink()


def test_a_copy_that_does_not_fit_leaves_the_file(tmp_path, monkeypatch):
    def full(source, draft):
        draft.write_text("ha")
        raise OSError(errno.ENOSPC, "No space left on device")

    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("half")
    target.write_text("old")
    monkeypatch.setattr(files.shutil, "copyfile", full)
    with pytest.raises(Exhausted, match=str(tmp_path)):
        copy_whole(source, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "target"]
    assert target.read_text() == "old"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_as_such(tmp_path, number):
    with pytest.raises(Exhausted, match="is full"), exhausted_if_full(tmp_path):
        raise OSError(number, os.strerror(number))


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), Permanent("broken")])
def test_another_error_is_not(tmp_path, error):
    with pytest.raises(type(error)), exhausted_if_full(tmp_path):
        raise error


def test_a_program_that_fails_on_a_full_disk_does_so_for_that(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_NOTHING", 1 << 62)
    with pytest.raises(Exhausted), exhausted_if_full(tmp_path):
        raise Permanent("An IO error has occurred")


def test_who_waits_for_a_lock_whose_file_is_removed_waits_for_the_next_one(tmp_path):
    path = tmp_path / "lock"
    order = []

    async def one(first, second):
        async with locked(path):
            first.set()
            await second.wait()
            path.unlink()
        async with locked(path):
            order.append("one")

    async def other(first, second):
        await first.wait()
        waiting = asyncio.create_task(hold())
        while not waiting.done() and not second.is_set():
            await asyncio.sleep(0)
            second.set()
        await waiting

    async def hold():
        async with locked(path):
            with try_locked(path) as free:
                order.append(free)

    async def both():
        first, second = asyncio.Event(), asyncio.Event()
        await asyncio.gather(one(first, second), other(first, second))

    asyncio.run(both())
    assert sorted(map(str, order)) == ["False", "one"]
    with try_locked(path) as free:
        assert free


def test_many_who_wait_for_a_lock_leave_its_holder_a_thread(tmp_path):
    turns = []

    async def turn(number):
        async with locked(tmp_path / "lock"):
            turns.append(await asyncio.to_thread(lambda: number))

    async def all_turns():
        async with asyncio.timeout(30):
            await asyncio.gather(*map(turn, range(60)))

    asyncio.run(all_turns())
    assert sorted(turns) == list(range(60))
