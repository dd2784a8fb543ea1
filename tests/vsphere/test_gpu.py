"""Virtual GPUs. That there is one, and that a host can do what it says, only a real one shows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from pyVmomi import vim

from jupyter_vsandbox.domain.errors import Exhausted, Unsupported
from jupyter_vsandbox.domain.model import GIB, MIB
from jupyter_vsandbox.link import new_keys
from jupyter_vsandbox.settings import ResourcePool
from tests.vsphere.conftest import SHAPE, Lab, template, warm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_vsandbox.drivers.base import Template
    from jupyter_vsandbox.drivers.vsphere.driver import VSphereDriver

ONE, OTHER = "a" * 12, "b" * 12
EARLY, LATE = "1" * 12, "2" * 12
PROFILE, BIG = "grid_t4-4q", "grid_t4-16q"


async def with_gpu(driver: VSphereDriver, lab: Lab) -> Template:
    """The template of a recipe that asks for a GPU."""
    return await driver.template(lab.image, replace(SHAPE, memory=256 * MIB, gpu=PROFILE), new_keys(), warm)


def profiles(lab: Lab, machine_id: str) -> list[str]:
    """The vGPUs of a machine, as somebody else sees them."""
    with lab.simulator.look() as content:
        [vm] = [
            vm
            for vm in lab.simulator.folder(content, lab.settings.vcenter.folder).childEntity
            if machine_id in vm.name
        ]
        devices: list[Any] = vm.config.hardware.device
        return [
            each.backing.vgpu for each in devices if isinstance(each, vim.vm.device.VirtualPCIPassthrough)
        ]


@pytest.fixture
def told(extended: Lab) -> Iterator[Lab]:
    """A lab whose hosts say that they cannot keep the memory of a machine with the profile."""
    extended.simulator.ask(f"gpu?profile={PROFILE}&memory=0&suspend=0")
    yield extended
    extended.simulator.ask("gpu?profile=none")


async def test_a_profile_comes_from_the_recipe_or_else_the_pool(lab: Lab) -> None:
    pool = ResourcePool(f"gpus-{lab.simulator.kind}", gpu=BIG)
    lab = lab.other(pools=(pool,), clone="auto")
    driver = lab.driver()
    source = await with_gpu(driver, lab)
    assert source.accelerator == "linked", "what has a GPU is not cloned while it runs"
    await driver.start(ONE, source)
    assert profiles(lab, ONE) == [PROFILE]
    inside = lab.driver(pool.name)
    await inside.start(OTHER, await with_gpu(inside, lab))
    assert profiles(lab, OTHER) == [BIG]
    with pytest.raises(Unsupported, match=r"has a GPU.*disk"):
        await driver.fork("c" * 12, ONE)
    await driver.delete(ONE)
    await driver.delete(OTHER)
    assert lab.names() == []


async def test_without_a_profile_there_is_no_gpu(lab: Lab) -> None:
    driver = lab.driver()
    await driver.start(ONE, await template(driver, lab))
    assert profiles(lab, ONE) == []
    await driver.delete(ONE)


async def test_memory_that_cannot_be_reserved_for_a_gpu_is_refused_first(lab: Lab) -> None:
    driver = lab.driver()
    source = await with_gpu(driver, lab)
    with pytest.raises(Exhausted, match="cannot reserve"):
        await driver.start(ONE, replace(source, shape=replace(source.shape, memory=1024 * GIB)))
    assert lab.names() == []


async def test_memory_is_refused_where_the_host_cannot_keep_it_and_the_disk_is_offered(told: Lab) -> None:
    driver = told.driver()
    await driver.start(ONE, await with_gpu(driver, told))
    with pytest.raises(Unsupported, match=rf"Host \S+ cannot keep the memory .*{PROFILE}.*disk only"):
        await driver.snapshot(ONE, EARLY, memory=True)
    await driver.snapshot(ONE, EARLY, memory=False)
    with pytest.raises(Unsupported, match="Stop it instead"):
        await driver.snapshot(ONE, LATE, memory=True, resume=False)
    assert not driver.paused(ONE)
    assert driver.alive(ONE)
    # A machine made of the snapshot has the device, too, and is known to have it.
    assert await driver.restore(OTHER, EARLY, memory=False) is None
    assert profiles(told, OTHER) == [PROFILE]
    await driver.boot(OTHER, told.image, SHAPE, new_keys())
    with pytest.raises(Unsupported, match=PROFILE):
        await driver.snapshot(OTHER, LATE, memory=True)
    await driver.delete(ONE)
    await driver.delete(OTHER)
    await driver.forget([EARLY])
    assert told.names() == []


async def test_a_host_that_keeps_no_disk_either_needs_the_machine_to_be_stopped(told: Lab) -> None:
    told.simulator.ask(f"gpu?profile={PROFILE}&disk=0")
    driver = told.driver()
    await driver.start(ONE, await with_gpu(driver, told))
    for memory in (True, False):
        with pytest.raises(Unsupported, match="Stop it first"):
            await driver.snapshot(ONE, EARLY, memory=memory)
    await driver.stop(ONE, grace=0)
    await driver.snapshot(ONE, EARLY, memory=False)
    await driver.delete(ONE)
    await driver.forget([EARLY])
    assert told.names() == []


async def test_memory_is_kept_where_the_host_can(told: Lab) -> None:
    told.simulator.ask(f"gpu?profile={PROFILE}&memory=1&suspend=0")
    driver = told.driver()
    await driver.start(ONE, await with_gpu(driver, told))
    await driver.snapshot(ONE, EARLY, memory=True)
    with pytest.raises(Unsupported, match="Stop it instead"):
        await driver.snapshot(ONE, LATE, memory=True, resume=False)
    told.simulator.ask(f"gpu?profile={PROFILE}&memory=1&suspend=1")
    await driver.snapshot(ONE, LATE, memory=True, resume=False)
    await driver.delete(ONE)
    await driver.forget([EARLY, LATE])
    assert told.names() == []
