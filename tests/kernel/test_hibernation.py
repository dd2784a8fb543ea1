"""Machines that hibernate by themselves, and messages that meet one that sleeps or is about to."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from jupyter_vsandbox.core import capacity
from jupyter_vsandbox.core.departure import hibernate_own
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.errors import Exhausted, Transient
from jupyter_vsandbox.domain.model import Cause, State
from jupyter_vsandbox.drivers.qemu.driver import QemuDriver
from jupyter_vsandbox.link.client import AgentLink
from tests.kernel.conftest import START_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Home, NewHome, Until
    from tests.kernel.conftest import Kernel, StartKernel

pytestmark = pytest.mark.machine

IDLE_SECONDS = 5.0
LONG_SECONDS = 3.0
COUNT = "import time\nn = 0\nprint('begun', flush=True)\nwhile n < 50:\n    n += 1\n    time.sleep(0.1)"


@pytest.fixture(scope="module")
def home(new_home: NewHome) -> Iterator[Home]:
    """A home where machines soon hibernate."""
    with new_home(hibernate_after=IDLE_SECONDS, long_cell=LONG_SECONDS) as home:
        yield home


@pytest.fixture
def service(home: Home) -> Iterator[SandboxService]:
    with SandboxService(home.settings) as service:
        yield service


def notebook(home: Home, name: str) -> str:
    return str(home.settings.home.parent / f"{name}.ipynb")


def begin(kernel: Kernel, code: str) -> str:
    """Start a cell that prints something first."""
    asked = kernel.client.execute(code)
    while True:
        message = kernel.client.get_iopub_msg(timeout=START_SECONDS)
        if message["parent_header"].get("msg_id") == asked and message["msg_type"] == "stream":
            return asked


def test_nobody_uses_it(kernel: Kernel, home: Home, service: SandboxService, until: Until) -> None:
    kernel.run("x = 1")
    kernel.client.hb_channel.unpause()
    for _ in range(20):
        kernel.client.kernel_info()
        with contextlib.suppress(pytest.fail.Exception):
            until(lambda: kernel.sandbox.state is State.HIBERNATED, IDLE_SECONDS / 2)
            break
    until(lambda: not home.processes())
    assert kernel.manager.is_alive()
    assert kernel.value("x") == 1
    assert service.history(kernel.sandbox.id) == []


def test_a_long_cell_keeps_it_awake_and_is_followed_by_a_snapshot(
    kernel: Kernel, service: SandboxService, until: Until
) -> None:
    process = kernel.process
    kernel.run(f"import time\ntime.sleep({2 * IDLE_SECONDS})\nx = 'done'")
    assert kernel.process == process
    until(lambda: service.history(kernel.sandbox.id))
    [after] = service.history(kernel.sandbox.id)
    assert (after.name, after.cause) == ("after-long-cell-1", Cause.LONG_CELL)
    kernel.run("x = 'later'")
    asyncio.run(service.rollback(kernel.sandbox.id, after.id))
    assert kernel.value("x") == "done"


def test_a_job_in_the_background_keeps_it_awake(kernel: Kernel, until: Until) -> None:
    kernel.run(
        "import threading, time\n"
        "def work():\n"
        "    global ended\n"
        f"    end = time.monotonic() + {2 * IDLE_SECONDS}\n"
        "    while time.monotonic() < end: pass\n"
        "    ended = time.time()\n"
        "threading.Thread(target=work).start()"
    )
    until(lambda: kernel.sandbox.state is State.HIBERNATED, START_SECONDS)
    asleep = time.time()
    assert kernel.value("ended") < asleep


def test_what_a_client_sends_meanwhile_is_not_lost(
    kernel: Kernel, service: SandboxService, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = kernel.value("slider.model_id", before="from ipywidgets import IntSlider\nslider = IntSlider()")
    paused, sent, keep = threading.Event(), threading.Event(), QemuDriver._keep

    def slowly(*args: Any) -> None:
        paused.set()
        assert sent.wait(START_SECONDS)
        keep(*args)

    monkeypatch.setattr(QemuDriver, "_keep", slowly)
    hibernating = threading.Thread(target=lambda: asyncio.run(service.hibernate(kernel.sandbox.id)))
    hibernating.start()
    assert paused.wait(START_SECONDS)
    data = {"method": "update", "state": {"value": 42}, "buffer_paths": []}
    session, channel = kernel.client.session, kernel.client.shell_channel
    channel.send(session.msg("comm_msg", {"comm_id": model, "data": data}))
    asked = kernel.client.complete("slid")
    sent.set()
    hibernating.join()
    while (reply := kernel.client.get_shell_msg(timeout=START_SECONDS))["parent_header"]["msg_id"] != asked:
        pass
    assert "slider" in reply["content"]["matches"]
    assert kernel.value("slider.value") == 42


def no_room(*_: object) -> None:
    raise Exhausted("There is no memory.")


async def no_answer(*_: object) -> None:
    raise Transient("The guest's agent did not answer.")


@pytest.mark.parametrize(
    ("where", "name", "broken", "told"),
    [(capacity, "require", no_room, "Exhausted"), (AgentLink, "set_clock", no_answer, "Transient")],
)
def test_a_machine_that_cannot_be_woken_sleeps_on(
    kernel: Kernel,
    service: SandboxService,
    monkeypatch: pytest.MonkeyPatch,
    where: object,
    name: str,
    broken: Callable[..., object],
    told: str,
) -> None:
    kernel.run(f"kept = {told!r}")
    asyncio.run(service.hibernate(kernel.sandbox.id))
    with monkeypatch.context() as patch:
        patch.setattr(where, name, broken)
        for _ in range(2):
            published: list[dict[str, Any]] = []
            reply = kernel.client.execute_interactive(
                "kept", timeout=START_SECONDS, output_hook=published.append
            )
            assert (reply["content"]["status"], reply["content"]["ename"]) == ("error", told)
            assert "error" in [message["msg_type"] for message in published]
    assert kernel.manager.is_alive()
    assert kernel.value("kept") == told


def test_a_kernel_that_sleeps_can_be_interrupted_and_restarted(
    kernel: Kernel, service: SandboxService
) -> None:
    kernel.run("x = 1\nopen('/tmp/kept', 'w').write('here')")
    asyncio.run(service.hibernate(kernel.sandbox.id))
    kernel.manager.interrupt_kernel()
    assert kernel.sandbox.state is State.HIBERNATED
    kernel.restart()
    assert kernel.value("['x' in globals(), open('/tmp/kept').read()]") == [False, "here"]
    asyncio.run(service.hibernate(kernel.sandbox.id))
    kernel.manager.restart_kernel(now=False)
    kernel.client.wait_for_ready(timeout=START_SECONDS)
    assert kernel.value("open('/tmp/kept').read()") == "here"


def test_what_a_process_leaves_behind_when_it_ends(
    start_kernel: StartKernel, home: Home, service: SandboxService
) -> None:
    quiet = start_kernel(JPY_SESSION_NAME=notebook(home, "quiet"))
    quiet.run("x = 1")
    busy = start_kernel(JPY_SESSION_NAME=notebook(home, "busy"))
    begin(busy, COUNT)
    nobody = start_kernel()
    nobody.run("x = 1")
    ids = {quiet.sandbox.id, busy.sandbox.id}

    slept = asyncio.run(hibernate_own(service, START_SECONDS))

    assert {sandbox.id for sandbox in slept} >= ids
    assert home.processes() == [nobody.process]
    for kernel in (quiet, busy, nobody):
        kernel.client.stop_channels()
        kernel.manager.shutdown_kernel()
    left = {s.id: s.state for s in home.records() if s.id in ids or s.kernel_id}
    assert left == dict.fromkeys(ids, State.HIBERNATED)

    again = start_kernel(JPY_SESSION_NAME=notebook(home, "quiet"))
    assert again.sandbox.id in ids
    assert again.value("x") == 1
    # The cell went on from where it was.
    again = start_kernel(JPY_SESSION_NAME=notebook(home, "busy"))
    assert again.sandbox.id in ids
    assert again.value("n") == 50


def test_where_the_disk_is_full_the_machine_stops_and_keeps_its_disk(
    start_kernel: StartKernel,
    home: Home,
    service: SandboxService,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kernel = start_kernel(JPY_SESSION_NAME=notebook(home, "full"))
    kernel.run("open('/home/jovyan/x', 'w').write('here')")
    sandbox_id = kernel.sandbox.id

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(QemuDriver, "_keep", full)
        assert sandbox_id not in [s.id for s in asyncio.run(hibernate_own(service, START_SECONDS))]
    assert f"Sandbox {sandbox_id} could not be hibernated, only its disk is kept" in caplog.text
    assert kernel.value("open('/home/jovyan/x').read()") == "here"
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel()
    assert service.get(sandbox_id).state is State.STOPPED


ENDS = """
import os, sys
from jupyter_client.manager import start_new_kernel
env = os.environ | {"JPY_SESSION_NAME": sys.argv[1]}
manager, client = start_new_kernel(kernel_name="vsandbox-python-3.11", env=env)
client.execute_interactive("x = 'still here'")
"""


def test_a_process_that_ends_with_a_kernel_hibernates_its_machine(
    start_kernel: StartKernel, home: Home, service: SandboxService
) -> None:
    path = notebook(home, "ended")
    subprocess.run([sys.executable, "-c", ENDS, path], check=True, timeout=2 * START_SECONDS)
    [left] = [sandbox for sandbox in service.list() if sandbox.notebook == path]
    assert (left.state, left.owner) == (State.HIBERNATED, "")
    kernel = start_kernel(JPY_SESSION_NAME=path)
    assert kernel.sandbox.id == left.id
    assert kernel.value("x") == "still here"
