"""Machines that hibernate by themselves, and messages that meet one that sleeps or is about to."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from jupyter_vsandbox import faults
from jupyter_vsandbox.core import capacity
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.errors import Exhausted, Transient
from jupyter_vsandbox.domain.model import Cause, State
from jupyter_vsandbox.drivers.qemu.driver import QemuDriver
from jupyter_vsandbox.link.client import AgentLink
from tests.kernel.conftest import START_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Home, NewHome, Until
    from tests.kernel.conftest import Kernel

pytestmark = pytest.mark.machine

IDLE_SECONDS = 5.0
LONG_SECONDS = 3.0


@pytest.fixture(scope="module")
def home(new_home: NewHome) -> Iterator[Home]:
    """A home where machines soon hibernate."""
    with new_home(hibernate_after=IDLE_SECONDS, long_cell=LONG_SECONDS) as home:
        yield home


@pytest.fixture
def service(home: Home) -> Iterator[SandboxService]:
    with SandboxService(home.settings) as service:
        yield service


def test_nobody_uses_it(kernel: Kernel, home: Home, service: SandboxService, until: Until) -> None:
    kernel.run("x = 1")
    kernel.client.hb_channel.unpause()
    until(lambda: kernel.sandbox.state is State.HIBERNATED, START_SECONDS)
    # What tools ask every few seconds is no reason to wake, nor is a page that is opened.
    kernel.client.control_channel.send(kernel.client.session.msg("usage_request", {}))
    widgets = kernel.client.comm_info()
    assert kernel.client.kernel_info(reply=True, timeout=START_SECONDS)["content"]["status"] == "ok"
    assert kernel.client.hb_channel.is_beating()
    until(lambda: not home.processes())
    assert kernel.manager.is_alive()
    kernel.client.execute("x += 1")
    assert kernel.client.get_shell_msg(timeout=START_SECONDS)["parent_header"]["msg_id"] == widgets
    assert kernel.value("x") == 2
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


def test_a_cell_that_meets_a_machine_just_stopped_to_sleep_runs_once(
    kernel: Kernel, service: SandboxService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process hibernates it without asking whether a cell runs."""
    kernel.run("x = 1")
    sent = []

    def point(name: str) -> None:
        if name == "snapshot.captured":
            sent.append(kernel.client.execute("x += 1"))
            # On the loop of the verb: meanwhile the cell is on its way to a machine that stands.
            time.sleep(1)

    monkeypatch.setattr(faults, "point", point)
    asyncio.run(service.hibernate(kernel.sandbox.id, now=True))
    reply = kernel.client.get_shell_msg(timeout=START_SECONDS)
    assert ([reply["parent_header"]["msg_id"]], reply["content"]["status"]) == (sent, "ok")
    assert kernel.value("x") == 2


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
    kernel.manager.restart_kernel(now=False)
    kernel.client.wait_for_ready(timeout=START_SECONDS)
    assert kernel.value("['x' in globals(), open('/tmp/kept').read()]") == [False, "here"]
