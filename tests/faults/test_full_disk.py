"""A full disk: a verb says so, nothing is lost, and all goes on once there is room."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox import cli
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.errors import Exhausted
from jupyter_vsandbox.domain.model import MIB, State
from jupyter_vsandbox.drivers.qemu import disk
from tests.faults.subject import Subject, assert_tidy
from tests.guest import ask, evaluate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.conftest import Home, NewHome

pytestmark = pytest.mark.machine

SIZE = 1200 * MIB
STILL_SECONDS = 60.0
WRITE = """
import os
blocks = [bytes([number]) * (1 << 20) for number in range(48)]
with open('/home/jovyan/big', 'wb') as file:
    file.writelines(blocks)
    file.flush()
    os.fsync(file.fileno())
with open('/home/jovyan/big', 'rb') as file:
    same = all(file.read(1 << 20) == block for block in blocks)
"""


@pytest.fixture(scope="module")
def home(new_home: NewHome) -> Iterator[Home]:
    """A home on a small file system of its own; images and templates are elsewhere."""
    with new_home() as home, small(home.settings.home):
        yield home


@contextlib.contextmanager
def small(folder: Path) -> Iterator[None]:
    """A file system of `SIZE` in the place of a folder that has links and small files."""
    apart = folder.with_name("apart")
    shutil.copytree(folder, apart, symlinks=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", folder]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    try:
        shutil.copytree(apart, folder, symlinks=True, dirs_exist_ok=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def subject(home: Home) -> Iterator[Subject]:
    subject = Subject(home)
    yield subject
    home.remove(*State)


@contextlib.contextmanager
def full(home: Home, but: int) -> Iterator[None]:
    """The disk with no more than so many bytes free."""
    filler = home.settings.home / "filler"
    with open(filler, "wb") as file:
        if (size := disk.free(home.settings.home) - but) > 0:
            os.posix_fallocate(file.fileno(), 0, size)
    try:
        yield
    finally:
        filler.unlink()


VERBS: dict[str, Callable[[SandboxService, Subject], Awaitable[object]]] = {
    "snapshot": lambda service, subject: service.snapshot(subject.id),
    "hibernate": lambda service, subject: service.hibernate(subject.id),
    "fork": lambda service, subject: service.fork(subject.id),
    "rollback": lambda service, subject: service.rollback(subject.id, subject.kept, cells=True),
    "reset": lambda service, subject: service.reset(subject.id),
}


@pytest.mark.parametrize("room", [200 * MIB, 500_000, 100_000, 0])
def test_a_verb_fails_and_the_machine_runs_on(
    subject: Subject, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With little room it is refused at once; without that precaution it fails on the way."""
    subject.begin()

    async def check() -> None:
        with SandboxService(subject.home.settings) as service:
            with full(subject.home, room), monkeypatch.context() as context:
                if room < 100 * MIB:
                    context.setattr(disk, "RESERVE", 0)
                for verb in VERBS.values():
                    with pytest.raises(Exhausted, match=r"full|free"):
                        await verb(service, subject)
                assert await subject.observe(service, subject.id) == (State.RUNNING, subject.number)
                assert subject.notebook.read_text() == str(subject.number)
                assert [s.id for s in service.history(subject.id)] == [subject.kept]
                await assert_tidy(subject.home, service, layers=False)
            for name in ("snapshot", "hibernate", "rollback"):
                await VERBS[name](service, subject)
            kept = (State.RUNNING, subject.history[subject.kept])
            assert await subject.observe(service, subject.id) == kept
        with SandboxService(subject.home.settings) as service:
            await service.reconcile()
            await assert_tidy(subject.home, service)

    asyncio.run(check())


@pytest.mark.parametrize("verb", ["wake", "start"])
def test_what_sleeps_stays_so_until_there_is_room(subject: Subject, verb: str) -> None:
    subject.begin()

    async def check() -> None:
        with SandboxService(subject.home.settings) as service:
            if verb == "wake":
                await service.hibernate(subject.id)
            else:
                await service.let_go(subject.id)
            before = service.get(subject.id)
            with full(subject.home, 2 * MIB), pytest.raises(Exhausted, match="MiB are free"):
                await getattr(service, verb)(subject.id)
            assert service.get(subject.id).state is before.state
            if verb == "wake":
                await service.wake(subject.id)
                assert await subject.observe(service, subject.id) == (State.RUNNING, subject.number)
            await assert_tidy(subject.home, service)

    asyncio.run(check())


async def stalled(service: SandboxService, sandbox_id: str) -> str:
    """Why a machine stands still, as soon as it does."""
    deadline = time.monotonic() + STILL_SECONDS
    while not (why := await service.stalled(sandbox_id)) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.2)
    return why


@pytest.mark.parametrize("by", ["a verb", "itself"])
def test_a_guest_that_fills_the_disk_stands_still_and_goes_on_by(
    subject: Subject, by: str, capsys: pytest.CaptureFixture[str]
) -> None:
    subject.begin()

    async def check() -> None:
        with SandboxService(subject.home.settings) as service:
            sandbox = service.get(subject.id)
            assert sandbox.endpoint
            assert sandbox.keys
            with full(subject.home, 12 * MIB):
                cell = asyncio.create_task(ask(sandbox.endpoint, sandbox.keys, WRITE, seconds=180))
                why = await stalled(service, subject.id)
                assert "full" in why
                assert await asyncio.to_thread(cli.main, ["list", "--json"]) == 0
                said = capsys.readouterr()
                assert json.loads(said.out)[0]["stalled"] == why
                assert "goes on once there is room" in said.err
                await service.settled(subject.id)  # in vain
                assert not cell.done()
                watch = asyncio.create_task(service.ended(subject.id)) if by == "itself" else None
            if watch is None:
                await service.settled(subject.id)
            assert (await cell)["status"] == "ok"
            if watch is not None:
                watch.cancel()
            assert await evaluate(sandbox.endpoint, sandbox.keys, "", "same") is True

    asyncio.run(check())
