"""Two hundred sandboxes, 32 at a time: no error, and nothing is left."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.vsphere.many import churn

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.vsphere.conftest import Lab
    from tests.vsphere.simulator import Simulator


@pytest.mark.timeout(300)
async def test_two_hundred_sandboxes_leave_nothing(
    simulators: Callable[..., Simulator], new_lab: Callable[[Simulator], Lab]
) -> None:
    """Extended: plain, the simulator dies of machines that are removed at once."""
    lab = new_lab(simulators("extended", "-delay", "20"))
    before = lab.logged_in()
    driver = lab.driver(call_seconds=60, boot_seconds=60, task_seconds=120)
    with lab.simulator.look() as content:
        folders = len(content.rootFolder.childEntity[0].vmFolder.childEntity)
    done = await churn(driver, lab.image, 200, 32)
    assert done.calls >= 200 * 8
    assert lab.logged_in() == before + 1
    assert driver._connection.session.logins == 1
    driver._connection.close()
    assert lab.logged_in() == before
    assert lab.names() == []
    with lab.simulator.look() as content:
        assert len(content.rootFolder.childEntity[0].vmFolder.childEntity) == folders
        host = content.rootFolder.childEntity[0].hostFolder.childEntity[0]
        assert not host.resourcePool.resourcePool
