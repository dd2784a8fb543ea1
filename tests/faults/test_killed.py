"""Whatever is killed, wherever: nothing that was kept is lost, and nothing half-made is used or stays.

A few cases run with the test suite; ``make faults`` runs all.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.model import State
from tests.conftest import RUNTIME
from tests.faults.cases import COUNT, SEED, TEMPLATE, Case, chosen
from tests.faults.subject import Subject, assert_tidy, renumber

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.conftest import Home, NewHome, Until
    from tests.faults.conftest import Measured

pytestmark = pytest.mark.machine

# What has no command: a verb of the service.
SERVICE = """
import asyncio, sys
from jupyter_vsandbox.config import load_settings
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.errors import SandboxError
with SandboxService(load_settings()) as service:
    try:
        asyncio.run(getattr(service, sys.argv[1])(sys.argv[2]))
    except SandboxError as error:
        sys.exit(str(error))
"""

# A program that has a kernel in a sandbox, says so, and does not end by itself.
SERVER = f"""
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="vsandbox-{RUNTIME}")
print("ready", flush=True)
input()
"""


@pytest.fixture(scope="module")
def home(new_home: NewHome) -> Iterator[Home]:
    with new_home() as home:
        yield home
        home.sweep()


@pytest.fixture(scope="module")
def subject(home: Home) -> Iterator[Subject]:
    """One for all cases: how it comes out of one is how it goes into the next."""
    subject = Subject(home)
    yield subject
    home.remove(*State)


async def prepare(subject: Subject, verb: str) -> tuple[list[str], str, int]:
    """The command of a verb, once all that it needs is there; the fork it is about, and the fork's number."""
    fork, number = "", 0
    with SandboxService(subject.home.settings) as service:
        if verb == "wake":
            await service.hibernate(subject.id)
        elif verb == "start":
            await service.let_go(subject.id)
        elif verb == "prune":
            await service.rollback(subject.id, subject.kept)
            await subject.write(service)
        elif verb in {"promote", "rm"}:
            fork = (await service.fork(subject.id)).id
            number = await renumber(service, fork, next(subject.numbers))
            if verb == "rm":
                await service.snapshot(fork)
    words = {
        "snapshot": ["snapshot", subject.id, "taken"],
        "rollback": ["rollback", subject.id, "kept", "--cells"],
        "rollback-disk": ["rollback", subject.id, "kept", "--disk-only"],
        "promote": ["promote", fork],
        "rm": ["rm", fork],
        "create": ["create", RUNTIME],
    }.get(verb, [verb, subject.id])
    how = ["-c", SERVICE] if verb in {"create", "start"} else ["-m", "jupyter_vsandbox.cli"]
    return [sys.executable, *how, *words], fork, number


def strike(case: Case, command: Sequence[str], subject: Subject) -> None:
    """Run a command, and kill what the case says when it is at its point."""
    action = "kill" if case.victim == "command" else "stop"
    env = os.environ | {"JUPYTER_VSANDBOX_FAULT": f"{action}@{case.point}"}
    with contextlib.ExitStack() as ends:
        server = ends.enter_context(serving(subject)) if case.victim == "server" else None
        process = ends.enter_context(
            subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
        ends.callback(process.kill)
        if case.victim == "command":
            _, said = process.communicate()
            assert process.returncode == -signal.SIGKILL, f"{case.point} was not passed: {said}"
            return
        came = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        assert came is not None
        assert came.si_code == os.CLD_STOPPED, f"{case.point} was not passed: {process.communicate()[1]}"
        if server is not None:
            server.kill()
            server.wait()
        else:
            folder = subject.home.settings.sandboxes / subject.id
            if case.victim == "next":
                (folder,) = folder.glob("next-*")
            own = int((folder / "pid").read_text())
            others = set(subject.home.processes()) - {own}
            for pid in others if case.verb in {"create", "fork"} else {own}:
                os.kill(pid, signal.SIGKILL)
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate()
        assert "Traceback" not in said
        assert process.returncode == 0 or case.victim in {"qemu", "next"}, said


@contextlib.contextmanager
def serving(subject: Subject) -> Iterator[subprocess.Popen[str]]:
    """A process with a kernel in the sandbox."""
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=os.environ | {"VSANDBOX_ATTACH": subject.id},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield server
    finally:
        server.kill()
        server.communicate()


def outcomes(case: Case, before: int, kept: int, fork: int) -> set[tuple[State, int | None]]:
    """What may have become of the sandbox: it is as before the verb, or as after it, awake or not."""
    after: dict[str, set[tuple[State, int | None]]] = {
        "rollback": {(State.HIBERNATED, kept), (State.RUNNING, kept)},
        "rollback-disk": {(State.HIBERNATED, kept), (State.STOPPED, kept)},
        "promote": {(State.HIBERNATED, fork), (State.RUNNING, fork)},
        "hibernate": {(State.HIBERNATED, before)},
        "wake": {(State.HIBERNATED, before)},
        "reset": {(State.HIBERNATED, before), (State.RUNNING, None), (State.STOPPED, None)},
        "start": {(State.STOPPED, before)},
        "stop": {(State.STOPPED, before)},
    }
    found = {(State.RUNNING, before)} | after.get(case.verb, set())
    if case.victim == "qemu" and case.verb not in {"create", "fork"}:
        found |= {(State.STOPPED, number) for _, number in found}
    return found


@pytest.mark.parametrize("case", chosen(COUNT, SEED), ids=str)
def test_nothing_is_lost(case: Case, subject: Subject, measured: Measured) -> None:
    subject.begin()
    command, fork, fork_number = asyncio.run(prepare(subject, case.verb))
    strike(case, command, subject)
    asyncio.run(look(case, subject, fork, fork_number, measured))


async def look(case: Case, subject: Subject, fork: str, fork_number: int, measured: Measured) -> None:
    begun = time.perf_counter()
    with SandboxService(subject.home.settings) as service:
        await service.reconcile()
        await service.settled(subject.id)
        measured.setdefault("Until all is mended", []).append(time.perf_counter() - begun)
        await assert_tidy(subject.home, service)

        before, kept = subject.number, subject.history[subject.kept]
        state, number = await subject.observe(service, subject.id)
        if state is not State.STOPPED:
            measured.setdefault("Until it answers", []).append(time.perf_counter() - begun)
        assert (state, number) in outcomes(case, before, kept, fork_number)
        assert service.get(subject.id).owner == ""
        cells = {str(before), str(kept)} if case.verb == "rollback" else {str(before)}
        assert subject.notebook.read_text() in cells
        assert case.verb != "rm" or fork not in {sandbox.id for sandbox in service.list()}
        for other in service.list():
            if other.id != subject.id:
                assert other.id == fork or other.origin == subject.id
                at, its = await subject.observe(service, other.id)
                assert its == (fork_number or before)
                assert at is not State.STOPPED or case.victim == "qemu"
                await service.delete(other.id)

        for snapshot in service.history(subject.id):
            if snapshot.id != subject.kept or case.verb in {"rollback", "prune", "promote", "reset"}:
                expected = fork_number if snapshot.machine != subject.id else before
                expected = subject.history.get(snapshot.id, expected)
                if case.verb != "prune" or snapshot.id == subject.kept:
                    assert await subject.restores(service, snapshot.id) == expected


def test_a_machine_that_a_killed_command_left_paused_goes_on_where_it_has_a_kernel(
    subject: Subject, until: Until
) -> None:
    subject.begin()
    command, _, _ = asyncio.run(prepare(subject, "snapshot"))
    paused = subject.home.settings.sandboxes / subject.id / "paused"
    with serving(subject):
        strike(Case("command", "snapshot", "snapshot.paused"), command, subject)
        assert paused.exists()
        until(lambda: not paused.exists())

        async def number() -> int | None:
            with SandboxService(subject.home.settings) as service:
                return await subject.number_of(service, subject.id)

        assert asyncio.run(number()) == subject.number


@pytest.mark.skipif(COUNT > 0, reason="boots an image each time: `make faults`")
@pytest.mark.parametrize("point", TEMPLATE)
def test_a_template_that_was_cut_off_is_made_anew(point: str, new_home: NewHome) -> None:
    with new_home(own_templates=True) as home:
        command = [sys.executable, "-c", SERVICE, "create", RUNTIME]
        env = os.environ | {"JUPYTER_VSANDBOX_FAULT": f"kill@{point}"}
        assert subprocess.run(command, env=env, check=False).returncode == -signal.SIGKILL
        assert list(home.settings.templates.glob(".new-*"))

        async def again() -> None:
            with SandboxService(home.settings) as service:
                await service.reconcile()
                assert list(home.settings.templates.glob(".new-*")) == []
                assert home.leftovers() == []
                await service.delete((await service.create(RUNTIME)).id)

        asyncio.run(again())
