"""What there is around machines: pools, published images and the examination by ``doctor``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pyVmomi import vim

from jupyter_vsandbox.domain.checks import Status
from jupyter_vsandbox.domain.errors import Exhausted, InvalidRequest, NotFound, Permanent
from jupyter_vsandbox.domain.model import GIB, MIB, Image
from jupyter_vsandbox.drivers import registry
from jupyter_vsandbox.drivers.vsphere.templates import BASE
from jupyter_vsandbox.link import new_keys
from jupyter_vsandbox.settings import ResourcePool
from tests.vsphere.conftest import SHAPE, Lab, template, warm

if TYPE_CHECKING:
    from pathlib import Path

    from jupyter_vsandbox.drivers.base import Progress

ONE, OTHER, THIRD = "a" * 12, "b" * 12, "c" * 12
POOL = ResourcePool("iot-pool", memory_limit=2 * GIB, memory_reservation=GIB, cpu_limit=3000, shares="low")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a built image, of which nothing is looked at."""
    return tmp_path_factory.mktemp("image")


async def empty_disk(folder: Path, progress: Progress) -> Path:
    """A disk with nothing on it; what boots is tested in test_boot.py."""
    progress("disk", None, "Making a disk")
    with (folder / "disk.raw").open("wb") as file:
        file.truncate(16 * MIB)
    return folder / "disk.raw"


@pytest.fixture
def image(folder: Path, request: pytest.FixtureRequest) -> Image:
    digest = request.node.name.encode().hex()[:64].ljust(64, "0")
    return Image("python-3.13", digest, str(folder), SHAPE, 0, 0.0, "")


async def test_a_pool_is_made_from_configuration_and_refuses_first(lab: Lab) -> None:
    name = f"iot-{lab.settings.vcenter.folder}"[:70]
    lab = lab.other(pools=(replace(POOL, name=name),))
    driver = lab.driver(name)
    assert [pool.name for pool in await driver.pools()] == ["Resources", name], "not made yet, but told"
    source = await template(driver, lab)
    await driver.start(ONE, source)
    with lab.simulator.look() as content:
        host = content.rootFolder.childEntity[0].hostFolder.childEntity[0]
        [pool] = [each for each in host.resourcePool.resourcePool if each.name == name]
        memory, cpu = pool.config.memoryAllocation, pool.config.cpuAllocation
        assert (memory.limit, memory.reservation, memory.shares.level) == (2048, 1024, "low")
        assert (cpu.limit, cpu.reservation) == (3000, 0)
        assert [ONE in vm.name for vm in pool.vm] == [True]
    await driver.start(OTHER, source)
    with pytest.raises(Exhausted, match="no room for one more machine: it needs 1024 MiB, and 2048 of 2048"):
        await driver.start(THIRD, source)
    await lab.driver().start(THIRD, source)
    await driver.stop(ONE, grace=0)
    await driver.delete(THIRD)
    await driver.start(THIRD, source)
    with pytest.raises(Exhausted, match="no room"):
        await driver.boot(ONE, lab.image, SHAPE, new_keys())
    assert not driver.alive(ONE)
    assert ONE in driver.machines()
    own, there = await driver.pools()
    assert (own.driver, own.promised) == ("vsphere", 0)
    assert (there.name, there.driver, there.promised) == (name, f"vsphere:{name}", 2 * GIB)
    assert (there.memory.limit, there.memory.reservation, there.memory.free) == (2 * GIB, GIB, 0)
    assert there.cpu is not None
    assert (there.cpu.limit, there.cpu.reservation) == (3000, 0)
    for each in (ONE, OTHER, THIRD):
        await driver.delete(each)
    assert lab.names() == []


async def test_a_machine_whose_memory_cannot_be_reserved_is_refused(lab: Lab) -> None:
    pool = ResourcePool(f"reserved-{lab.simulator.kind}", reserve=True)
    lab = lab.other(pools=(pool,))
    driver = lab.driver(pool.name)
    source = await template(driver, lab)
    huge = replace(source, shape=replace(SHAPE, memory=1024 * GIB))
    with pytest.raises(Exhausted, match="cannot reserve"):
        await driver.start(ONE, huge)
    await driver.delete(ONE)
    assert lab.names() == []


async def test_a_pool_that_is_not_configured_or_wrongly_is_named(lab: Lab) -> None:
    lab = lab.other(pools=(replace(POOL, name="odd", shares="some"),))
    source = await template(lab.driver(), lab)
    with pytest.raises(InvalidRequest, match="shares 'some'"):
        await registry.get("vsphere:odd", lab.settings).start(ONE, source)
    with pytest.raises(NotFound, match="has: odd"):
        await registry.get("vsphere:even", lab.settings).start(ONE, source)


async def test_an_image_is_published_once_and_machines_start_from_it(lab: Lab, image: Image) -> None:
    """That the bytes arrive and boot, only a real ESXi shows; the simulator throws them away."""
    driver = lab.driver()
    told: list[tuple[str, float | None, str]] = []
    assert await driver.publish(image, empty_disk, lambda *step: told.append(step))
    assert list(dict.fromkeys(step[0] for step in told)) == ["disk", "convert", "upload", "snapshot"]
    assert [step[1] for step in told if step[0] == "upload"][-1] == 1.0
    assert not await lab.driver().publish(image, empty_disk, lambda *step: pytest.fail(f"{step}"))
    with lab.simulator.look() as content:
        [vm] = [
            each
            for each in lab.simulator.folder(content, lab.settings.vcenter.folder).childEntity
            if image.id in each.name
        ]
        assert [tree.name for tree in vm.snapshot.rootSnapshotList] == [BASE]
        devices = vm.config.hardware.device
        [disk] = [each for each in devices if isinstance(each, vim.vm.device.VirtualDisk)]
        assert disk.capacityInKB == 16 * 1024
        assert any(isinstance(each, vim.vm.device.VirtualVmxnet3) for each in devices)
    source = await driver.template(image, SHAPE, new_keys(), warm)
    await driver.start(ONE, source)
    assert len((await driver.mac(ONE)).split(":")) == 6
    await driver.delete(ONE)
    assert len(lab.names()) == 1


async def test_an_upload_that_fails_leaves_nothing(
    lab: Lab, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = lab.driver()

    def stop(stage: str, *_: object) -> None:
        if stage == "upload":
            raise Permanent("the plug was pulled")

    with pytest.raises(Permanent, match="plug"):
        await driver.publish(image, empty_disk, stop)
    assert lab.names() == []
    assert list(lab.settings.home.glob(".publish-*")) == []
    assert await driver.publish(image, empty_disk, lambda *_: None)


async def test_doctor_says_what_is_there_and_what_is_missing(extended: Lab) -> None:
    """Who may do what, the plain simulator does not know."""
    pool = replace(POOL, name="watched")
    lab = extended.other(pools=(pool, ResourcePool("later")))
    driver = lab.driver("watched")
    await driver.start(ONE, await template(driver, lab))
    checks = {check.name: check for check in await driver.checks()}
    assert set(checks) == {
        "vCenter",
        "inventory",
        "privileges",
        "pool watched",
        "pool later",
        "published images",
        "guest network",
    }
    guest = checks.pop("guest network")
    assert guest.status is Status.FAIL, "nothing listens there"
    assert "TCP port" in guest.mend
    assert {check.status for check in checks.values()} == {Status.OK}
    assert lab.image.id in checks["published images"].detail
    lab.simulator.ask("lack?privilege=VirtualMachine.State.RevertToSnapshot")
    try:
        checks = {check.name: check for check in await driver.checks()}
    finally:
        lab.simulator.ask("lack?privilege=")
    assert checks["privileges"].status is Status.FAIL
    assert checks["privileges"].detail == "missing: VirtualMachine.State.RevertToSnapshot (folder)"
    await driver.delete(ONE)
    changed = lab.driver(pools=(replace(pool, memory_limit=8 * GIB),))
    checks = {check.name: check for check in await changed.checks()}
    assert checks["pool watched"].status is Status.WARN
    assert f"{8 * GIB // MIB} are configured" in checks["pool watched"].detail


async def test_doctor_is_clear_where_there_is_no_vcenter(lab: Lab) -> None:
    [check] = await lab.driver(port=1, call_seconds=1).checks()
    assert check.status is Status.FAIL
    assert "not to be reached" in check.detail
    checks = await lab.driver(datastore="elsewhere").checks()
    assert checks[-1].status is Status.FAIL
    assert "no datastore 'elsewhere'" in checks[-1].detail
