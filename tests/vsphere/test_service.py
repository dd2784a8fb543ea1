"""What the service makes of a vCenter: above all, nothing that it does not know."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox.core import transfers
from jupyter_vsandbox.core.inventories import Point
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.errors import SandboxError, Transient, Unsupported
from jupyter_vsandbox.domain.model import MIB, Cause, Sandbox, State
from jupyter_vsandbox.link import new_keys
from tests.vsphere.conftest import SHAPE, Lab, template, warm

if TYPE_CHECKING:
    from pathlib import Path

    from jupyter_vsandbox.settings import Settings

ONE, OTHER = "a" * 12, "b" * 12
DEAD = "1:1"


def sandbox(sandbox_id: str, state: State, owner: str = "", notebook: str = "a.ipynb") -> Sandbox:
    return Sandbox(
        sandbox_id, "python-3.11", "", "vsphere", state, SHAPE, 0.0, owner=owner, notebook=notebook
    )


async def test_a_vcenter_that_is_down_costs_nobody_a_sandbox(lab: Lab) -> None:
    down = lab.other(port=1, call_seconds=1)
    with SandboxService(down.settings) as service:
        service._store.add(sandbox(ONE, State.RUNNING, DEAD))
        service._store.add(sandbox(OTHER, State.STANDBY, notebook=""))
        await service.reconcile()
        with pytest.raises(Transient, match="not to be reached"):
            await service.stop(ONE)
        with pytest.raises(SandboxError):
            await service.settled(ONE)
        assert [each.state for each in service.list()] == [State.RUNNING, State.STANDBY]


async def test_what_a_vcenter_has_and_nobody_knows_is_removed(lab: Lab) -> None:
    driver = lab.driver()
    source = await template(driver, lab)
    await driver.start(ONE, source)
    await driver.start(OTHER, source)
    await driver.snapshot(OTHER, "1" * 12, memory=True)
    lab.simulator.make(
        lab.settings.vcenter.folder, "another", {"vsandbox.role": "machine", "vsandbox.owner": "x"}
    )
    with SandboxService(lab.settings) as service:
        service._store.add(replace(sandbox(ONE, State.RUNNING), driver="vsphere:some-pool"))
        await service.reconcile()
        assert driver.machines() == {ONE}
        assert [ONE in name for name in lab.names() if name != "another"] == [True]
        assert service.get(ONE).state is State.RUNNING
        await driver.stop(ONE, grace=0)
        assert (await service.settled(ONE)).state is State.STOPPED
    await driver.delete(ONE)
    assert lab.names() == ["another"]


async def test_an_export_is_refused_before_there_is_a_snapshot_for_it(lab: Lab, tmp_path: Path) -> None:
    driver = lab.driver()
    await driver.start(ONE, await template(driver, lab))
    with SandboxService(lab.settings) as service:
        service._store.add(sandbox(ONE, State.RUNNING))
        point = Point(service.get(ONE), None)
        with pytest.raises(Unsupported, match="as OVF"):
            await transfers.estimate(service, point, transfers.Options())
        target = tmp_path / "a.vsandbox"
        with pytest.raises(Unsupported, match="as OVF"):
            await transfers.export(service, point, target, transfers.Options(), print, print)
        assert service.history(ONE) == []
    await driver.delete(ONE)


async def test_snapshots_that_nobody_asked_for_go_by_the_policy_of_the_vcenter(lab: Lab) -> None:
    driver = lab.driver()
    await driver.start(ONE, await template(driver, lab))
    with SandboxService(lab.settings) as service:
        service._store.add(sandbox(ONE, State.RUNNING, notebook=""))
        for _ in range(3):
            await service.guard(ONE, Cause.PACKAGES)
        assert len(service.history(ONE)) == 3
        await service.snapshot(ONE, "mine", now=True)
        *automatic, mine = [each.name for each in service.history(ONE)]
        assert (len(automatic), mine) == (2, "mine"), "three stand one above the other"
        for name in ("more", "most", "too many"):
            await service.snapshot(ONE, name, now=True)
        assert [each.name for each in service.history(ONE) if each.cause is Cause.PACKAGES] == automatic[1:]
        assert "5 snapshots stand one above the other" in service.history_warning(service.get(ONE))
        names = {each.id for each in service.history(ONE)}
    vm = driver._machine(ONE)
    assert {point.id for point in vm.points} == names
    old = lab.other(snapshot_age=1e-6)
    with SandboxService(old.settings) as service:
        await service.expire(ONE)
        assert all(each.cause is Cause.ASKED for each in service.history(ONE))
        assert all("older" in service.warning(each) for each in service.history(ONE))
        assert "4 of the snapshots are near the age limit" in service.history_warning(service.get(ONE))
        await service.delete(ONE)
    assert lab.names() == []


async def test_a_rollback_leaves_the_disk_where_the_host_keeps_no_memory(extended: Lab) -> None:
    extended.simulator.ask("gpu?profile=grid_t4-4q&memory=0&suspend=0")
    driver = extended.driver()
    shape = replace(SHAPE, memory=256 * MIB, gpu="grid_t4-4q")
    await driver.start(ONE, await driver.template(extended.image, shape, new_keys(), warm))
    with SandboxService(extended.settings) as service:
        service._store.add(sandbox(ONE, State.RUNNING))
        with pytest.raises(Unsupported, match="disk only"):
            await service.snapshot(ONE, now=True)
        first = await service.snapshot(ONE, memory=False, now=True)
        await service.rollback(ONE, first.id, memory=False)
        assert [(each.cause, each.memory) for each in service.history(ONE)] == [
            (Cause.ASKED, False),
            (Cause.ROLLBACK, False),
        ]
        await service.delete(ONE)
    extended.simulator.ask("gpu?profile=none")
    assert extended.names() == []


def test_a_notebook_has_a_sandbox_of_each_driver(settings: Settings) -> None:
    with SandboxService(settings) as service:
        service._store.add(sandbox(ONE, State.STOPPED))
        service._store.add(replace(sandbox(OTHER, State.STOPPED), driver="qemu"))
        assert service.bound("a.ipynb", "python-3.11", "vsphere") == ONE
        assert service.bound("a.ipynb", "python-3.11") == OTHER
        assert service.bound("a.ipynb", "python-3.11", "vsphere:iot-pool") == ""
