"""What goes wrong between driver and vCenter ends well or in a clear error, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox.domain.errors import (
    Exhausted,
    NotFound,
    OutcomeUnknown,
    Permanent,
    Transient,
)
from jupyter_vsandbox.drivers.vsphere.templates import BASE
from jupyter_vsandbox.link import new_keys
from tests.vsphere.conftest import SHAPE, Lab, template, warm
from tests.vsphere.proxy import Proxy
from tests.vsphere.simulator import PASSWORD

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.vsphere.simulator import Simulator

ONE, OTHER = "a" * 12, "b" * 12
EARLY = "1" * 12


@pytest.fixture
def proxy(extended: Lab) -> Iterator[Proxy]:
    with Proxy(extended.simulator.port, extended.simulator.authority).running() as proxy:
        yield proxy


def terminate_sessions(lab: Lab) -> None:
    with lab.simulator.look() as content:
        mine = content.sessionManager.currentSession.key
        others = [s.key for s in content.sessionManager.sessionList if s.key != mine]
        content.sessionManager.TerminateSession(others)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "method",
    [
        "CloneVM_Task",
        "PowerOnVM_Task",
        "CreateSnapshot_Task",
        "PowerOffVM_Task",
        "RevertToSnapshot_Task",
        "ReconfigVM_Task",
        "RemoveSnapshot_Task",
        "Destroy_Task",
        "RetrievePropertiesEx",
        "WaitForUpdatesEx",
    ],
)
async def test_a_connection_that_breaks_does_no_harm(
    extended: Lab, proxy: Proxy, method: str, when: str
) -> None:
    lab = extended.other(port=proxy.port)
    driver = lab.driver()
    source = await template(driver, lab)
    proxy.lose(method, when)
    await driver.start(ONE, source)
    await driver.snapshot(ONE, EARLY, memory=True)
    await driver.stop(ONE, grace=0)
    assert await driver.restore(ONE, EARLY) is not None
    assert await driver.restore(OTHER, EARLY, memory=False) is None
    await driver.boot(OTHER, lab.image, SHAPE, new_keys())
    assert driver.machines() == {ONE, OTHER}
    assert driver.alive(ONE)
    assert driver.alive(OTHER)
    await driver.delete(OTHER)
    await driver.forget([EARLY])
    await driver.delete(ONE)
    assert proxy.lost
    assert lab.names() == []


async def test_a_session_that_is_killed_while_a_task_runs_is_replaced(extended: Lab) -> None:
    driver = extended.driver()
    source = await template(driver, extended)
    extended.simulator.ask("last?ms=1000")
    try:
        starting = asyncio.create_task(driver.start(ONE, source))
        await asyncio.sleep(0.5)
        terminate_sessions(extended)
        await starting
        assert driver.alive(ONE)
        deleting = asyncio.create_task(driver.delete(ONE))
        await asyncio.sleep(0.5)
        terminate_sessions(extended)
        await deleting
    finally:
        extended.simulator.ask("last?ms=0")
    assert driver._connection.session.logins >= 2
    assert extended.names() == []


async def test_a_start_that_is_cancelled_leaves_nothing(extended: Lab) -> None:
    driver = extended.driver()
    source = await template(driver, extended)
    extended.simulator.ask("last?ms=600")
    try:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await driver.start(ONE, source)
    finally:
        extended.simulator.ask("last?ms=0")
    assert driver.machines() == set()
    assert extended.names() == []


async def test_a_vcenter_that_is_started_anew_is_found_again(
    simulators: Callable[..., Simulator], new_lab: Callable[[Simulator], Lab]
) -> None:
    """The simulator forgets all that it had: that a real vCenter has it still, it cannot show."""
    lab = new_lab(simulators("extended", own=True))
    driver = lab.driver(call_seconds=1)
    await driver.start(ONE, await template(driver, lab))
    lab.simulator.kill()
    with pytest.raises(Transient, match="is not to be reached"):
        await driver.snapshot(ONE, EARLY, memory=True)
    assert driver.alive(ONE), "as long as nobody knows better"
    lab.simulator.start()
    ended = await asyncio.wait_for(driver.wait_exit(ONE), 20)
    assert ended == ""
    with pytest.raises(NotFound):
        await driver.boot(ONE, lab.image, SHAPE, new_keys())
    await driver.delete(ONE)


async def test_a_wrong_password_is_tried_once_and_never_shown(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JUPYTER_VSANDBOX_VSPHERE_PASSWORD", "battery staple")
    driver = lab.driver()
    for _ in range(2):
        with pytest.raises(Permanent, match="does not let 'sandboxes@example' in") as raised:
            await driver.connect()
    shown = f"{raised.value!r} {driver._connection.session.__dict__} {lab.settings.to_json()} {caplog.text}"
    assert "battery" not in shown
    monkeypatch.delenv("JUPYTER_VSANDBOX_VSPHERE_PASSWORD")
    with pytest.raises(Permanent, match="no password"):
        await lab.driver(call_seconds=11).connect()


async def test_the_password_may_be_in_a_file(lab: Lab, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUPYTER_VSANDBOX_VSPHERE_PASSWORD")
    (tmp_path / "password").write_text(f"{PASSWORD}\n")
    await lab.driver(password_file=str(tmp_path / "password")).connect()
    with pytest.raises(Permanent, match="missing"):
        await lab.driver(password_file=str(tmp_path / "missing")).connect()


async def test_a_certificate_of_nobody_is_not_trusted(lab: Lab) -> None:
    driver = lab.driver(ca="")
    with pytest.raises(Permanent, match=r"certificate of 127\.0\.0\.1 is not trusted"):
        await driver.connect()
    with pytest.raises(Permanent, match=r"VSphere\.ca"):
        await lab.driver(ca="/nowhere").connect()


async def test_what_is_configured_but_not_there_is_named(lab: Lab) -> None:
    for what in ("datacenter", "cluster", "datastore", "network"):
        with pytest.raises(NotFound, match=f"no {what} 'elsewhere'"):
            await lab.driver(**{what: "elsewhere"}).connect()
    with pytest.raises(Transient, match="not to be reached"):
        await lab.driver(port=1, call_seconds=1).connect()


async def test_an_image_that_is_gone_is_named(lab: Lab) -> None:
    driver = lab.driver()
    source = await template(driver, lab)
    with lab.simulator.look() as content:
        [image] = lab.simulator.folder(content, lab.settings.vcenter.folder).childEntity
        image.Destroy_Task()
    with pytest.raises(NotFound):
        await driver.start(ONE, source)
    with pytest.raises(NotFound, match="images publish"):
        await driver.template(lab.image, SHAPE, new_keys(), warm)
    assert lab.names() == []
    lab.simulator.make(lab.settings.vcenter.folder, lab.image.id, {}, snapshot=BASE)


async def test_a_name_that_is_taken_is_not_used(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain, the simulator has two of a name; a vCenter refuses, and so does the extended one."""
    driver = lab.driver()
    source = await template(driver, lab)
    digits = iter(["0a1b2c", "0a1b2c", "0d1e2f"])
    if lab.simulator.kind == "plain":
        pytest.skip("accepts a name twice")
    lab.simulator.make(lab.settings.vcenter.folder, f"vsandbox-{ONE}-0a1b2c", {})
    monkeypatch.setattr("jupyter_vsandbox.drivers.vsphere.verbs.nonce", lambda: next(digits))
    await driver.start(ONE, source)
    await driver.delete(ONE)
    assert lab.names() == [f"vsandbox-{ONE}-0a1b2c"]


@pytest.mark.parametrize("task", ["CloneVm", "PowerOn"])
async def test_a_full_datastore_ends_a_start(extended: Lab, task: str) -> None:
    """Only the extended simulator has such faults; that a datastore is full, it cannot show."""
    driver = extended.driver()
    source = await template(driver, extended)
    extended.simulator.ask(f"fail?task={task}&fault=NoDiskSpace")
    with pytest.raises(Exhausted, match="No disk space"):
        await driver.start(ONE, source)
    assert driver.machines() == set()
    assert extended.names() == []


async def test_a_full_datastore_ends_a_snapshot_and_the_machine_runs_on(extended: Lab) -> None:
    driver = extended.driver()
    await driver.start(ONE, await template(driver, extended))
    for resume in (True, False):
        extended.simulator.ask("fail?task=CreateSnapshot&fault=NoDiskSpace")
        with pytest.raises(Exhausted):
            await driver.snapshot(ONE, EARLY, memory=True, resume=resume)
        assert driver.alive(ONE)
        assert not driver.paused(ONE)
    await driver.delete(ONE)
    assert extended.names() == []


async def test_a_machine_that_is_removed_behind_our_back_is_gone(lab: Lab) -> None:
    driver = lab.driver()
    await driver.start(ONE, await template(driver, lab))
    await driver.snapshot(ONE, EARLY, memory=True)
    ended = asyncio.create_task(driver.wait_exit(ONE))
    with lab.simulator.look() as content:
        vm = lab.simulator.folder(content, lab.settings.vcenter.folder).childEntity[-1]
        vm.PowerOffVM_Task()
        vm.Destroy_Task()
    await asyncio.wait_for(ended, 5)
    with pytest.raises((NotFound, OutcomeUnknown)):
        await driver.restore(ONE, EARLY)
    await driver.stop(ONE, grace=0)
    await driver.forget([EARLY])
    await driver.delete(ONE)
    assert driver.machines() == set()
    assert lab.names() == []
