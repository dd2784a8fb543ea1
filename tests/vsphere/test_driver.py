"""The verbs of the vSphere driver, against a vCenter without guests.

The simulator shows that requests are well-formed and that the driver finds its way in what a vCenter answers.
It has no disks and no memory: that a clone shares the one and a revert brings back the other, it cannot show.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox.domain.errors import InvalidState, NotFound, Unsupported
from jupyter_vsandbox.domain.model import Usage
from jupyter_vsandbox.drivers.vsphere import machines
from jupyter_vsandbox.drivers.vsphere.marks import MACHINE, Role
from jupyter_vsandbox.drivers.vsphere.seen import ON
from jupyter_vsandbox.link import new_keys
from jupyter_vsandbox.work import Work
from tests.vsphere.conftest import SHAPE, Lab, template, warm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jupyter_vsandbox.drivers.vsphere.driver import VSphereDriver
    from jupyter_vsandbox.drivers.vsphere.seen import Vm
    from tests.vsphere.simulator import Simulator

ONE, OTHER = "a" * 12, "b" * 12
EARLY, LATE = "1" * 12, "2" * 12


async def started(driver: VSphereDriver, lab: Lab, machine_id: str = ONE) -> str:
    endpoint = await driver.start(machine_id, await template(driver, lab))
    return endpoint.host


async def test_a_machine_from_its_start_to_its_end(lab: Lab) -> None:
    driver, other = lab.driver(), lab.driver()
    address = await started(driver, lab)
    assert address.startswith("127.")
    assert other.alive(ONE)
    assert other.machines() == {ONE}
    ended = asyncio.create_task(driver.wait_exit(ONE))
    await driver.stop(ONE, grace=0)
    assert ONE in lab.names()[0]
    assert "powered off" in await ended
    assert not driver.alive(ONE)
    assert driver.machines() == {ONE}
    await driver.stop(ONE, grace=0)
    again = await driver.boot(ONE, lab.image, SHAPE, new_keys())
    assert again.host not in {"", address}
    assert driver.alive(ONE)
    await driver.delete(ONE)
    await driver.delete(ONE)
    assert driver.machines() == set()
    assert driver.usage(ONE) == Usage(0, 0, 0.0)
    assert await driver.wait_exit(ONE) == ""
    assert lab.names() == []


async def test_a_machine_that_ends_by_itself_is_seen_to(lab: Lab) -> None:
    driver = lab.driver()
    await started(driver, lab)
    ended = asyncio.create_task(driver.wait_exit(ONE))
    with lab.simulator.look() as content:
        lab.simulator.folder(content, lab.settings.vcenter.folder).childEntity[-1].PowerOff()
    assert "powered off" in await asyncio.wait_for(ended, 5)
    await driver.delete(ONE)


async def test_there_is_a_template_once_and_its_keys_stay(lab: Lab) -> None:
    made = await asyncio.gather(*(template(lab.driver(), lab) for _ in range(3)))
    assert made == [made[0]] * 3
    with pytest.raises(NotFound, match="images publish"):
        await lab.driver(folder="elsewhere").template(lab.image, SHAPE, new_keys(), warm)


@pytest.mark.parametrize("memory", [True, False])
async def test_a_snapshot_is_restored_any_number_of_times(lab: Lab, memory: bool) -> None:
    driver = lab.driver()
    await started(driver, lab)
    await driver.snapshot(ONE, EARLY, memory=memory)
    await driver.snapshot(ONE, LATE, memory=memory)
    assert driver.alive(ONE)
    for _ in range(2):
        await driver.check_snapshot(ONE, EARLY, memory=memory)
        await driver.stop(ONE, grace=0)
        endpoint = await driver.restore(ONE, EARLY, memory=memory)
        assert driver.alive(ONE) is memory
        assert (endpoint is not None) is memory
    if not memory:
        with pytest.raises(Unsupported, match="no memory"):
            await driver.check_snapshot(ONE, EARLY, memory=True)
    # In this order: the plain simulator dies of the other, see debian.patch.
    for _ in range(2):
        await driver.forget([LATE])
        await driver.forget([EARLY])
    with pytest.raises(NotFound):
        await driver.check_snapshot(ONE, EARLY, memory=memory)
    await driver.delete(ONE)
    assert lab.names() == []


async def test_what_hibernates_stands_still_until_it_is_stopped(lab: Lab) -> None:
    driver = lab.driver()
    await started(driver, lab)
    await driver.snapshot(ONE, EARLY, memory=True, resume=False)
    assert driver.paused(ONE)
    await driver.resume(ONE)
    assert driver.alive(ONE)
    assert not driver.paused(ONE)
    await driver.snapshot(ONE, LATE, memory=True, resume=False)
    await driver.stop(ONE, grace=0)
    assert not driver.alive(ONE)
    with pytest.raises(InvalidState):
        await driver.snapshot(ONE, "3" * 12, memory=True)
    assert await driver.restore(ONE, LATE) is not None
    assert driver.alive(ONE)
    await driver.delete(ONE)


async def test_a_snapshot_outlives_its_machine_as_long_as_somebody_needs_it(lab: Lab) -> None:
    driver = lab.driver()
    await started(driver, lab)
    await driver.snapshot(ONE, EARLY, memory=True)
    with pytest.raises(Unsupported, match="ask for the disk only"):
        await driver.restore(OTHER, EARLY)
    assert await driver.restore(OTHER, EARLY, memory=False) is None
    await driver.boot(OTHER, lab.image, SHAPE, new_keys())
    await driver.delete(ONE)
    assert driver.machines() == {OTHER}
    assert len(lab.names()) == 2
    await driver.forget([EARLY])
    assert len(lab.names()) == 2, "a disk builds on it"
    await driver.delete(OTHER)
    assert lab.names() == []


async def test_a_machine_takes_the_place_of_another(lab: Lab) -> None:
    driver = lab.driver()
    await started(driver, lab, ONE)
    await started(driver, lab, OTHER)
    await driver.snapshot(ONE, EARLY, memory=True)
    await driver.snapshot(OTHER, LATE, memory=True)
    await driver.stop(ONE, grace=0)
    assert await driver.restore(ONE, LATE, take=True) is not None
    assert driver.machines() == {ONE}
    assert len(lab.names()) == 2, "what it was can be gone back to"
    await driver.stop(ONE, grace=0)
    assert await driver.restore(ONE, EARLY) is not None
    await driver.delete(ONE)
    await driver.forget([EARLY, LATE])
    assert lab.names() == []


async def test_what_a_dead_process_left_is_swept_up(lab: Lab) -> None:
    driver = lab.driver()
    await started(driver, lab)
    await driver.snapshot(ONE, EARLY, memory=True)
    await driver.snapshot(ONE, LATE, memory=True)
    debris = driver.debris()
    await driver.sweep(debris, {LATE})
    await driver.check_snapshot(ONE, LATE, memory=True)
    with pytest.raises(NotFound):
        await driver.check_snapshot(ONE, EARLY, memory=True)
    await driver.delete(ONE)
    assert len(lab.names()) == 1
    await driver.sweep(driver.debris(), set())
    assert lab.names() == []


async def test_nobody_elses_machine_is_seen_or_touched(lab: Lab, tmp_path) -> None:
    driver = lab.driver()
    await started(driver, lab)
    [mine] = lab.names()
    lookalikes = [f"vsandbox-{ONE}-0a1b2c", f"vsandbox-{OTHER}-0a1b2c"]
    for name in lookalikes:
        lab.simulator.make(lab.settings.vcenter.folder, name, {"guestinfo.vsandbox.machine": ONE})
    lab.simulator.make(
        lab.settings.vcenter.folder,
        "of another home",
        {"vsandbox.role": "machine", "vsandbox.owner": "somebody", "vsandbox.machine": OTHER},
    )
    await driver._connection.watch.refresh_all()
    assert driver.machines() == {ONE}
    await driver.delete(OTHER)
    await driver.sweep(driver.debris(), set())
    await driver.delete(ONE)
    assert mine not in lab.names()
    assert set(lab.names()) == {*lookalikes, "of another home"}


async def test_a_running_machine_is_forked(extended: Lab) -> None:
    """That the fork goes on with the memory of the other one, only a real vCenter shows."""
    driver = extended.driver(clone="auto")
    assert "Instant Clone" in (await driver.accelerator()).reason
    endpoint = await driver.start(ONE, await template(driver, extended))
    fork = await driver.fork(OTHER, ONE)
    assert fork.host != endpoint.host
    assert driver.machines() == {ONE, OTHER}
    await driver.delete(ONE)
    await driver.delete(OTHER)
    [parent] = extended.names()
    await driver.remove_templates(extended.image.id)
    assert extended.names() == [], parent


async def test_a_clone_is_not_taken_for_the_machine_that_it_is_of(
    simulators: Callable[..., Simulator], new_lab: Callable[[Simulator], Lab]
) -> None:
    """What Tools told before they were cloned, the vCenter shows for the clone until they tell it anew."""
    lab = new_lab(simulators("extended", tools=False))
    driver = lab.driver(clone="instant")
    await driver.connect()
    watch = driver._connection.watch

    def known(machine_id: str, address: str) -> bool:
        return any(vm.marks.machine == machine_id and vm.address == address for vm in watch.all())

    async def tell(machine_id: str, address: str) -> None:
        await watch.until(lambda: machine_id in driver.machines() and driver.alive(machine_id), 10, "A start")
        await asyncio.to_thread(lab.simulator.tell, lab.settings.vcenter.folder, machine_id, address)
        await watch.until(lambda: known(machine_id, address), 10, "The address")

    first = replace(await template(lab.driver(clone="linked"), lab), accelerator="linked")
    start = asyncio.create_task(driver.start(ONE, first))
    await tell(ONE, "127.0.0.11")
    assert (await start).host == "127.0.0.11"
    fork = asyncio.create_task(driver.fork(OTHER, ONE))
    await tell(OTHER, "127.0.0.11")
    assert not fork.done()
    await tell(OTHER, "127.0.0.12")
    assert (await fork).host == "127.0.0.12"
    with lab.simulator.look() as content:
        vms = lab.simulator.folder(content, lab.settings.vcenter.folder).childEntity
        values = [{each.key: each.value for each in vm.config.extraConfig} for vm in vms]
    told = {each.get(MACHINE) for each in values}
    assert told == {None, ONE, OTHER}, "each can tell that it is another one"
    for machine_id in (ONE, OTHER):
        await driver.delete(machine_id)
    assert lab.names() == []


async def test_where_a_clone_keeps_its_address_machines_boot(
    simulators: Callable[..., Simulator], new_lab: Callable[[Simulator], Lab], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines, "_CLONE_SECONDS", 1.0)
    lab = new_lab(simulators("extended", tools=False))
    driver = lab.driver(clone="auto")
    await driver.connect()
    watch = driver._connection.watch

    async def tell(runs: Callable[[Vm], bool], address: str) -> None:
        await watch.until(lambda: any(vm.power == ON and runs(vm) for vm in watch.all()), 10, "A start")
        [vm] = [vm for vm in watch.all() if vm.power == ON and runs(vm)]
        await asyncio.to_thread(lab.simulator.tell, lab.settings.vcenter.folder, vm.name, address)

    def is_clone(vm: Vm) -> bool:
        return vm.marks.machine == ONE and vm.marks.base.startswith("vm:")

    parent = asyncio.create_task(template(driver, lab))
    await tell(lambda vm: vm.marks.role == Role.DRAFT, "127.0.0.11")
    start = asyncio.create_task(driver.start(ONE, await parent))
    await tell(is_clone, "127.0.0.11")
    await tell(lambda vm: vm.marks.machine == ONE and not is_clone(vm), "127.0.0.12")
    assert (await start).host == "127.0.0.12"
    [mine] = [vm for vm in watch.all() if vm.marks.machine == ONE]
    assert not is_clone(mine)
    assert "still had the address" in (await driver.accelerator()).reason
    with pytest.raises(Unsupported, match="disk"):
        await driver.fork(OTHER, ONE)
    await driver.delete(ONE)
    await driver.remove_templates(lab.image.id)
    assert lab.names() == []


async def test_a_warm_machine_that_ended_is_replaced(extended: Lab) -> None:
    driver = extended.driver(clone="instant")
    await template(driver, extended)
    [ended] = extended.names()
    with extended.simulator.look() as content:
        extended.simulator.folder(content, extended.settings.vcenter.folder).childEntity[-1].PowerOff()
    await driver._connection.watch.refresh_all()
    await driver.start(ONE, await template(driver, extended))
    await driver.delete(ONE)
    [parent] = extended.names()
    assert parent != ended
    await driver.remove_templates(extended.image.id)
    assert extended.names() == []


async def test_where_there_is_no_instant_clone_machines_boot_and_it_is_said(simulators, new_lab) -> None:
    lab = new_lab(simulators("plain"))
    driver = lab.driver(clone="auto")
    first = await template(driver, lab)
    assert first.accelerator == "instant"
    await driver.start(ONE, first)
    assert driver.alive(ONE)
    accelerator = await driver.accelerator()
    assert accelerator.name == "linked-clone"
    assert "failed" in accelerator.reason
    with pytest.raises(Unsupported, match="disk"):
        await driver.fork(OTHER, ONE)
    assert (await template(driver, lab)).accelerator == "linked"
    await driver.delete(ONE)
    await driver.remove_templates(lab.image.id)
    assert lab.names() == []


async def test_all_of_a_process_log_in_once_and_out_at_the_end(lab: Lab) -> None:
    before = lab.logged_in()
    driver = lab.driver()
    ids = [uuid.uuid4().hex[:12] for _ in range(5)]
    source = await template(driver, lab)
    await asyncio.gather(*(lab.driver().start(each, source) for each in ids))
    assert lab.logged_in() == before + 1
    assert driver.machines() == set(ids)
    await asyncio.gather(*(driver.delete(each) for each in ids))
    driver._connection.close()
    assert lab.logged_in() == before
    assert lab.names() == []


async def test_a_process_that_ends_logs_out(lab: Lab) -> None:
    before = lab.logged_in()
    script = (
        "import asyncio, sys\n"
        "from jupyter_vsandbox.drivers import registry\n"
        "from jupyter_vsandbox.settings import Settings\n"
        "driver = registry.get('vsphere', Settings.from_json(sys.argv[1]))\n"
        "asyncio.run(driver.connect())\n"
        "print(driver.machines())\n"
    )
    command = [sys.executable, "-W", "error", "-c", script, lab.settings.to_json()]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("set()\n", "")
    assert lab.logged_in() == before


async def test_a_task_that_takes_its_time_is_waited_for(extended: Lab) -> None:
    driver = extended.driver()
    source = await template(driver, extended)
    extended.simulator.ask("last?ms=400")
    try:
        ids = [uuid.uuid4().hex[:12] for _ in range(8)]
        await asyncio.gather(*(driver.start(each, source) for each in ids))
        assert driver.machines() == set(ids)
        await asyncio.gather(*(driver.delete(each) for each in ids))
    finally:
        extended.simulator.ask("last?ms=0")
    assert extended.names() == []


async def test_nothing_is_exported_and_it_is_said_what_to_do_instead(lab: Lab, tmp_path: Path) -> None:
    driver = lab.driver()
    await started(driver, lab)
    await driver.snapshot(ONE, EARLY, memory=True)
    with pytest.raises(Unsupported, match="as OVF"):
        await driver.measure(EARLY, lab.image, memory=True)
    with pytest.raises(Unsupported, match="as OVF"):
        await driver.export_snapshot(EARLY, lab.image, tmp_path, Work(lambda _: None), memory=False)
    with pytest.raises(Unsupported, match="driver qemu"):
        await driver.check_import({}, SHAPE)
    with pytest.raises(Unsupported, match="driver qemu"):
        await driver.import_snapshot(LATE, lab.image, SHAPE, tmp_path, memory=False)
    await driver.delete(ONE)
    await driver.forget([EARLY])
    assert lab.names() == []
