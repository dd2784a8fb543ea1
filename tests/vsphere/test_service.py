"""What the service makes of a vCenter: above all, nothing that it does not know."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.errors import SandboxError, Transient
from jupyter_vsandbox.domain.model import Sandbox, State
from tests.vsphere.conftest import SHAPE, Lab, template

if TYPE_CHECKING:
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


def test_a_notebook_has_a_sandbox_of_each_driver(settings: Settings) -> None:
    with SandboxService(settings) as service:
        service._store.add(sandbox(ONE, State.STOPPED))
        service._store.add(replace(sandbox(OTHER, State.STOPPED), driver="qemu"))
        assert service.bound("a.ipynb", "python-3.11", "vsphere") == ONE
        assert service.bound("a.ipynb", "python-3.11") == OTHER
        assert service.bound("a.ipynb", "python-3.11", "vsphere:iot-pool") == ""
