"""Snapshot, rollback, fork, promote, hibernate and reset, under a client that stays connected."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from jupyter_vsandbox import cli
from jupyter_vsandbox.core import capacity
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.errors import Conflict, Permanent
from jupyter_vsandbox.domain.model import MIB, Cause, State
from jupyter_vsandbox.drivers.qemu.driver import QemuDriver
from jupyter_vsandbox.drivers.qemu.points import MAX_DEPTH, Points
from jupyter_vsandbox.drivers.qemu.process import Qemu
from tests.kernel.conftest import START_SECONDS, Kernel, StartKernel, _shut_down, _start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jupyter_vsandbox.drivers.qemu.points import Point
    from tests.conftest import Home, Until

pytestmark = pytest.mark.machine

SET = """
import itertools
try: x
except NameError: x = 0
x += 1
open('/home/jovyan/x', 'w').write(str(x))
"""
GET = "[x, open('/home/jovyan/x').read()]"


@pytest.fixture
def service(home: Home) -> Iterator[SandboxService]:
    with SandboxService(home.settings) as service:
        yield service


@pytest.fixture
def kernel(start_kernel: StartKernel) -> Kernel:
    kernel = start_kernel()
    kernel.run(SET)
    return kernel


def attach(home: Home, sandbox_id: str) -> Kernel:
    """A kernel for a sandbox that nobody uses, asked for as in a shell."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VSANDBOX_ATTACH", sandbox_id)
        return _start(home, {})


def test_memory_and_disk_go_back_together_and_forth_again(kernel: Kernel, service: SandboxService) -> None:
    sandbox_id = kernel.sandbox.id
    kernel.run("file = open('/home/jovyan/x'); numbers = iter(range(9)); next(numbers)")
    first = asyncio.run(service.snapshot(sandbox_id, "first", "a note"))
    kernel.run(SET)
    kernel.run("import os; big = os.urandom(20 << 20); next(numbers)")
    second = asyncio.run(service.snapshot(sandbox_id))
    assert second.parent == first.id
    # The increment holds what changed, not all that the machine owns.
    assert 20 * MIB < second.size < 40 * MIB

    asyncio.run(service.rollback(sandbox_id, first.id))
    assert kernel.value(GET) == [1, "1"]
    assert kernel.value("[file.read(), next(numbers), 'big' in globals()]") == ["1", 1, False]
    asyncio.run(service.rollback(sandbox_id, second.id))
    assert kernel.value(GET) == [2, "2"]
    assert kernel.value("[len(big), next(numbers)]") == [20 << 20, 2]
    history = service.history(sandbox_id)
    assert [s.name for s in history] == ["first", "snapshot-1", "before-rollback-1", "before-rollback-2"]
    assert history[0].note == "a note"

    asyncio.run(service.remove_snapshot(first.id))
    assert [s.id for s in asyncio.run(service.prune(sandbox_id))] == [s.id for s in history[2:]]
    asyncio.run(service.rollback(sandbox_id, second.id))
    assert kernel.value(GET) == [2, "2"]


@pytest.mark.parametrize("room", [1, 2])
def test_a_rollback_runs_two_machines_at_once_only_where_there_is_memory_for_two(
    room: int, kernel: Kernel, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = room * capacity.cost(kernel.sandbox.shape, home.settings)
    with SandboxService(replace(home.settings, memory_budget=budget, memory_overcommit=1.0)) as service:
        driver, running = service.driver("qemu"), []
        assert isinstance(driver, QemuDriver)
        launch = driver._launch_next

        async def counted(machine_id: str, point: Point) -> Path:
            folder = await launch(machine_id, point)
            running.append(len(home.processes()))
            return folder

        monkeypatch.setattr(driver, "_launch_next", counted)
        first = asyncio.run(service.snapshot(kernel.sandbox.id))
        kernel.run(SET)
        alone = len(home.processes())
        asyncio.run(service.rollback(kernel.sandbox.id, first.id))
    assert running == [alone - 1 + room]
    assert kernel.value(GET) == [1, "1"]


def test_a_rollback_in_the_middle_of_a_cell_aborts_it(
    kernel: Kernel, service: SandboxService, until: Until
) -> None:
    first = asyncio.run(service.snapshot(kernel.sandbox.id))
    asked = kernel.client.execute("import time\nx = 'lost'\nwhile True:\n    time.sleep(0.1)")
    until(lambda: kernel.client.get_iopub_msg(timeout=10)["msg_type"] == "execute_input")
    asyncio.run(service.rollback(kernel.sandbox.id, first.id))
    reply = kernel.client.get_shell_msg(timeout=START_SECONDS)
    assert reply["parent_header"]["msg_id"] == asked
    assert reply["content"]["status"] == "aborted"
    assert kernel.value("x") == 1


def test_a_snapshot_waits_for_the_cell_to_end(kernel: Kernel, service: SandboxService) -> None:
    kernel.client.execute("import time\ntime.sleep(3)\nx = 'whole'")
    while kernel.client.get_iopub_msg(timeout=30)["msg_type"] != "execute_input":
        pass  # it has not begun yet
    taken = asyncio.run(service.snapshot(kernel.sandbox.id))
    kernel.run("x = 'later'")
    asyncio.run(service.rollback(kernel.sandbox.id, taken.id))
    assert kernel.value("x") == "whole"


def test_a_fork_goes_its_own_way_and_takes_the_place_of_its_origin(
    kernel: Kernel, service: SandboxService, home: Home
) -> None:
    before = "import os, socket, uuid, random"
    facts = (
        "[open('/etc/machine-id').read(), socket.gethostname(), os.urandom(8).hex(), str(uuid.uuid4()),"
        " random.random()]"
    )
    kernel.run(before)
    fork = asyncio.run(service.fork(kernel.sandbox.id, name="test"))
    assert (fork.state, fork.origin, fork.owner) == (State.RUNNING, kernel.sandbox.id, "")
    other = attach(home, fork.id)
    try:
        assert other.value(GET) == [1, "1"]
        ours, theirs = kernel.value(facts, before), other.value(facts, before)
        assert not set(ours) & set(theirs)
        assert abs(other.value("time.time()", "import time") - time.time()) < 2
        other.run(SET)
        assert kernel.value(GET) == [1, "1"]
    finally:
        _shut_down(other)
    assert service.get(fork.id).state is State.STOPPED  # its disk waits

    again = attach(home, fork.id)
    try:
        assert again.value("open('/home/jovyan/x').read()") == "2"
        again.run("x = 'from the fork'")
        promoted = asyncio.run(service.promote(fork.id))
        assert promoted.id == kernel.sandbox.id
        assert kernel.value(GET) == ["from the fork", "2"]
    finally:
        _shut_down(again)
    assert fork.id not in {sandbox.id for sandbox in service.list()}
    [left] = [s for s in service.history(promoted.id) if s.name == "before-rollback-1"]
    asyncio.run(service.rollback(promoted.id, left.id))
    assert kernel.value(GET) == [1, "1"]


def test_the_next_message_wakes_a_hibernated_machine(
    kernel: Kernel, service: SandboxService, home: Home
) -> None:
    hibernated = asyncio.run(service.hibernate(kernel.sandbox.id))
    assert hibernated.state is State.HIBERNATED
    assert home.processes() == []
    assert kernel.manager.is_alive()
    assert kernel.value(GET) == [1, "1"]
    assert service.history(kernel.sandbox.id) == []
    asyncio.run(service.hibernate(kernel.sandbox.id))
    assert kernel.value(GET) == [1, "1"]


def test_reset_gives_the_clean_image_and_can_be_undone(kernel: Kernel, service: SandboxService) -> None:
    asyncio.run(service.reset(kernel.sandbox.id))
    assert kernel.value("['x' in globals(), os.path.exists('/home/jovyan/x')]", "import os") == [False, False]
    [left] = service.history(kernel.sandbox.id)
    asyncio.run(service.rollback(kernel.sandbox.id, left.id))
    assert kernel.value(GET) == [1, "1"]


def test_a_damaged_snapshot_is_refused_and_nothing_changes(
    kernel: Kernel, service: SandboxService, home: Home
) -> None:
    for name in ("state", "index", "pages"):
        taken = asyncio.run(service.snapshot(kernel.sandbox.id, name))
        path = home.settings.snapshots / taken.id / name
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o600)
        path.write_bytes(data)
        kernel.run(SET)
        process = kernel.process
        with pytest.raises(Permanent, match=str(path)):
            asyncio.run(service.rollback(kernel.sandbox.id, taken.id))
        assert kernel.process == process
    assert kernel.value(GET) == [4, "4"]
    # What is taken from now on does not build on what is damaged.
    whole = asyncio.run(service.snapshot(kernel.sandbox.id))
    kernel.run(SET)
    asyncio.run(service.rollback(kernel.sandbox.id, whole.id))
    assert kernel.value(GET) == [4, "4"]


def test_a_verb_that_was_cut_off_leaves_a_machine_that_runs_on(
    kernel: Kernel, service: SandboxService, home: Home
) -> None:
    sandbox = kernel.sandbox
    folder = home.settings.sandboxes / sandbox.id

    async def pause() -> None:
        async with Qemu(folder, home.settings.sockets / sandbox.id / "qmp").monitor() as execute:
            await execute("stop")

    (folder / "paused").touch()
    asyncio.run(pause())
    assert asyncio.run(service.settled(sandbox.id)).state is State.RUNNING
    assert kernel.value("x") == 1


def test_two_verbs_at_once_do_not_mix(kernel: Kernel, service: SandboxService) -> None:
    async def both() -> list[Any]:
        one = service.snapshot(kernel.sandbox.id, "same")
        return await asyncio.gather(one, service.snapshot(kernel.sandbox.id, "same"), return_exceptions=True)

    results = asyncio.run(both())
    assert sorted(type(result).__name__ for result in results) == [Conflict.__name__, "Snapshot"]


def test_the_command_line_does_it_all(kernel: Kernel, home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str) -> Any:
        assert cli.main([*words, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    sandbox_id = kernel.sandbox.id
    taken = run("snapshot", sandbox_id, "first", "--note", "before the upgrade")
    assert taken["holds"] == ["disk", "memory"]
    kernel.run(SET)
    undo = run("rollback", sandbox_id, "first")["undo"]
    assert kernel.value(GET) == [1, "1"]
    run("rollback", sandbox_id, undo)
    assert kernel.value(GET) == [2, "2"]
    fork = run("fork", sandbox_id, "--name", "test", "--at", "first")
    assert run("promote", "test")["id"] == sandbox_id != fork["id"]
    assert kernel.value(GET) == [1, "1"]
    assert run("hibernate", sandbox_id)["hibernated"] == [sandbox_id]
    assert run("wake", sandbox_id)["awake"] == [sandbox_id]
    assert kernel.value(GET) == [1, "1"]
    names = [snapshot["name"] for snapshot in run("history", sandbox_id)]
    assert names[0] == "first"
    assert len(names) == len(set(names))
    assert run("prune", sandbox_id, "--dry-run")["removed"] == []
    assert run("prune", sandbox_id)["removed"]
    assert run("reset", sandbox_id)["state"] == "running"
    assert cli.main(["rollback", sandbox_id, "nowhere"]) == 3


def test_a_notebook_finds_its_machine_again(
    start_kernel: StartKernel, home: Home, service: SandboxService
) -> None:
    notebook = str(home.settings.home.parent / "mine.ipynb")
    kernel = start_kernel(JPY_SESSION_NAME=notebook)
    kernel.run(SET)
    sandbox_id = kernel.sandbox.id
    asyncio.run(service.hibernate(sandbox_id))
    _shut_down(kernel)
    assert service.get(sandbox_id).state is State.HIBERNATED
    kernel = start_kernel(JPY_SESSION_NAME=notebook)
    assert kernel.sandbox.id == sandbox_id
    assert kernel.value(GET) == [1, "1"]
    _shut_down(kernel)
    assert service.get(sandbox_id).state is State.STOPPED
    kernel = start_kernel(JPY_SESSION_NAME=notebook)
    assert kernel.sandbox.id == sandbox_id
    assert kernel.value("['x' in globals(), open('/home/jovyan/x').read()]") == [False, "1"]
    # A machine that was booted can be snapshotted like one that was cloned.
    kernel.run(SET)
    taken = asyncio.run(service.snapshot(sandbox_id))
    kernel.run(SET)
    asyncio.run(service.rollback(sandbox_id, taken.id))
    assert kernel.value(GET) == [1, "1"]


CRASH = """
import os, signal, sys
from jupyter_client.manager import start_new_kernel
env = os.environ | {"JPY_SESSION_NAME": sys.argv[1]}
manager, client = start_new_kernel(kernel_name="vsandbox-python-3.11", env=env)
client.execute_interactive("x = 'still here'")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_notebook_finds_its_running_machine_after_a_crash(
    start_kernel: StartKernel, home: Home, service: SandboxService
) -> None:
    notebook = str(home.settings.home.parent / "crashed.ipynb")
    crashed = subprocess.run([sys.executable, "-c", CRASH, notebook], check=False)
    assert crashed.returncode == -signal.SIGKILL
    asyncio.run(service.reconcile())
    [left] = [sandbox for sandbox in service.list() if sandbox.notebook == notebook]
    assert (left.state, left.owner) == (State.RUNNING, "")
    kernel = start_kernel(JPY_SESSION_NAME=notebook)
    assert kernel.sandbox.id == left.id
    assert kernel.value("x") == "still here"


def test_a_cell_that_changes_packages_can_be_undone(kernel: Kernel, service: SandboxService) -> None:
    sandbox_id = kernel.sandbox.id
    kernel.run("!pip list > /dev/null")
    assert service.history(sandbox_id) == []
    kernel.run("%pip uninstall --yes pandas")
    (before,) = service.history(sandbox_id)
    assert (before.name, before.cause) == ("before-packages-1", Cause.PACKAGES)
    installed = "import importlib.metadata as m\nfound = any(d.name == 'pandas' for d in m.distributions())"
    assert not kernel.value("found", before=installed)
    asyncio.run(service.rollback(sandbox_id, before.id))
    assert kernel.value("found", before=installed)
    assert kernel.value("x") == 1


def test_only_the_latest_automatic_snapshots_stay(kernel: Kernel, home: Home) -> None:
    sandbox_id = kernel.sandbox.id
    with SandboxService(replace(home.settings, automatic_snapshots=2)) as service:
        asyncio.run(service.snapshot(sandbox_id, "mine"))
        for _ in range(3):
            asyncio.run(service.guard(sandbox_id, Cause.PACKAGES))
        names = [s.name for s in service.history(sandbox_id)]
    assert names == ["mine", "before-packages-2", "before-packages-3"]


def test_a_deep_disk_is_flattened_while_the_machine_runs(
    kernel: Kernel, service: SandboxService, home: Home, until: Until
) -> None:
    sandbox_id = kernel.sandbox.id
    points = Points(home.settings.snapshots, home.settings.layers)

    def depth() -> int:
        return len(points.below((home.settings.sandboxes / sandbox_id / "disk.qcow2").resolve()))

    taken = []
    for _ in range(MAX_DEPTH + 1):
        kernel.run(SET)
        taken.append(asyncio.run(service.snapshot(sandbox_id)))
    until(lambda: depth() <= 2)  # the last snapshot broke it off, or came after it
    assert kernel.value(GET) == [MAX_DEPTH + 2, str(MAX_DEPTH + 2)]
    for number in (0, MAX_DEPTH):
        asyncio.run(service.rollback(sandbox_id, taken[number].id))
        assert kernel.value(GET) == [number + 2, str(number + 2)]
    asyncio.run(service.prune(sandbox_id))
    for snapshot in taken[:-1]:
        asyncio.run(service.remove_snapshot(snapshot.id))
    assert kernel.value(GET) == [MAX_DEPTH + 2, str(MAX_DEPTH + 2)]
