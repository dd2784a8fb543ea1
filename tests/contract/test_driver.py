"""The contract of `jupyter_vsandbox.drivers.base`, kept by every driver.

vSphere's is tested on a simulated vCenter whose guests are machines of QEMU (see `tests.vsphere.guests`).
What that cannot show is said at the test, by the mark ``not_shown``.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import shutil
import uuid
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox.domain.errors import NotFound, Permanent, SandboxError, Unsupported
from jupyter_vsandbox.domain.model import MIB, Usage
from jupyter_vsandbox.drivers.qemu import memory
from jupyter_vsandbox.link import AgentLink, new_keys
from jupyter_vsandbox.work import Work
from tests.contract.stands import Here, on_vcenter
from tests.guest import ANSWER_SECONDS, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from jupyter_vsandbox.domain.model import Endpoint, Image, LinkKeys
    from jupyter_vsandbox.drivers.base import Driver, Template, Warm
    from tests.conftest import Home, NewHome
    from tests.contract.stands import Stand
    from tests.vsphere.simulator import Simulator

pytestmark = pytest.mark.machine

DRIVERS = ["qemu", "vsphere"]
BOOT_SECONDS = 300.0
GRACE_SECONDS = 60.0


@pytest.fixture(scope="module", params=DRIVERS)
def name(request: pytest.FixtureRequest) -> str:
    """The driver under test."""
    return str(request.param)


@pytest.fixture(scope="module")
def stand(name: str, new_home: NewHome, image: Image, request: pytest.FixtureRequest) -> Iterator[Stand]:
    """Where it is tested."""
    if name == "vsphere":
        simulators: Callable[..., Simulator] = request.getfixturevalue("simulators")
        with on_vcenter(new_home, image, simulators("extended", tools=False)) as there:
            yield there
    else:
        with new_home(own_templates=True) as home:
            yield Here(home)


@pytest.fixture(autouse=True)
def _shown(name: str, request: pytest.FixtureRequest) -> None:
    for mark in request.node.iter_markers("not_shown"):
        if why := mark.kwargs.get(name):
            pytest.skip(why)


@pytest.fixture
def elsewhere(new_home: NewHome) -> Iterator[Home]:
    """Another home, in which there is nothing but the image."""
    with new_home(own_templates=True) as home:
        yield home


@pytest.fixture
def driver(stand: Stand) -> Driver:
    """A driver that has just been made: what it knows of machines it finds where they are."""
    return stand.driver()


def deny(*_: object) -> int:
    """A system call that the host does not permit."""
    ctypes.set_errno(errno.EPERM)
    return -1


@dataclass
class Made:
    """What became of several requests for one template."""

    templates: Sequence[Template]
    warmed: int


@pytest.fixture(scope="module")
def made(stand: Stand, image: Image) -> Made:
    """The template, asked for three times at once."""
    warmed = []

    async def warm(endpoint: Endpoint, keys: LinkKeys) -> None:
        warmed.append(endpoint)
        async with AgentLink(endpoint, keys) as link:
            await link.request("info", timeout=BOOT_SECONDS)
            await link.request("warm", timeout=BOOT_SECONDS)

    async def make() -> list[Template]:
        drivers = [stand.driver() for _ in range(3)]
        return await asyncio.gather(*(d.template(image, image.shape, new_keys(), warm) for d in drivers))

    return Made(asyncio.run(make()), len(warmed))


@pytest.fixture
def template(made: Made) -> Template:
    """A warm template."""
    return made.templates[0]


@contextlib.asynccontextmanager
async def machine(driver: Driver, template: Template) -> AsyncIterator[tuple[str, Endpoint]]:
    """A clone for the length of a block: its id and where its agent is."""
    machine_id = uuid.uuid4().hex[:12]
    try:
        yield machine_id, await driver.start(machine_id, template)
    finally:
        await driver.delete(machine_id)


async def never(endpoint: Endpoint, keys: LinkKeys) -> None:
    pytest.fail("this template is made already")


async def fail(endpoint: Endpoint, keys: LinkKeys) -> None:
    raise RuntimeError("not warm")


async def hang(endpoint: Endpoint, keys: LinkKeys) -> None:
    await asyncio.Event().wait()


async def test_checks_and_accelerator_are_for_people(driver: Driver) -> None:
    assert [check for check in await driver.checks() if not (check.name and check.detail)] == []
    assert (await driver.accelerator()).reason


async def test_a_template_is_made_once(driver: Driver, made: Made, image: Image) -> None:
    first, *others = made.templates
    assert made.warmed == 1
    assert others == [first, first]
    assert (first.image, first.shape) == (image.id, image.shape)
    assert await driver.template(image, image.shape, new_keys(), never) == first


@pytest.mark.parametrize(
    ("warm", "error", "seconds"), [(fail, RuntimeError, BOOT_SECONDS), (hang, TimeoutError, 5)]
)
async def test_a_template_that_fails_leaves_nothing(
    driver: Driver, stand: Stand, image: Image, warm: Warm, error: type[Exception], seconds: float
) -> None:
    templates = stand.home.settings.templates
    before = sorted(path for path in templates.glob("*") if path.is_dir())
    shape = replace(image.shape, memory=image.shape.memory // 2)
    with pytest.raises(error):
        async with asyncio.timeout(seconds):
            await driver.template(image, shape, new_keys(), warm)
    assert sorted(path for path in templates.glob("*") if path.is_dir()) == before
    assert stand.leftovers() == []


async def test_a_machine_from_its_start_to_its_end(
    driver: Driver, stand: Stand, image: Image, template: Template
) -> None:
    machine_id = uuid.uuid4().hex[:12]
    try:
        endpoint = await driver.start(machine_id, template)
        other = stand.driver()
        assert other.alive(machine_id)
        assert machine_id in other.machines()
        assert await run(endpoint, template.keys, "open('kept', 'w').write('here')") == "ok"

        # Asked to power off and given the time, it writes all that it has.
        async with AgentLink(endpoint, template.keys) as link:
            await link.request("poweroff", timeout=ANSWER_SECONDS)
        await driver.stop(machine_id, GRACE_SECONDS)
        assert not driver.alive(machine_id)
        assert await driver.wait_exit(machine_id)
        assert machine_id in driver.machines()
        assert driver.usage(machine_id) == Usage(0, driver.usage(machine_id).disk, 0.0)
        await driver.stop(machine_id, 0)

        keys = new_keys()
        endpoint = await driver.boot(machine_id, image, image.shape, keys)
        assert driver.alive(machine_id)
        assert await run(endpoint, keys, "assert open('kept').read() == 'here'", BOOT_SECONDS) == "ok"
        await driver.stop(machine_id, 0)
        assert not driver.alive(machine_id)
    finally:
        await driver.delete(machine_id)
    await driver.delete(machine_id)
    assert machine_id not in driver.machines()
    assert not driver.alive(machine_id)
    assert await driver.wait_exit(machine_id) == ""
    assert driver.usage(machine_id) == Usage(0, 0, 0.0)
    assert stand.leftovers() == []


async def test_clones_share_nothing_that_they_change(driver: Driver, template: Template) -> None:
    async with machine(driver, template) as (_, one), machine(driver, template) as (_, other):
        assert one != other
        wrote, read = "value = open('mine', 'w').write('x')", "open('mine').read()"
        assert await run(one, template.keys, wrote) == "ok"
        assert await run(one, template.keys, read) == "ok"
        assert await run(other, template.keys, read) == "FileNotFoundError"
        assert await run(other, template.keys, "value") == "NameError"
    async with machine(driver, template) as (_, later):
        assert await run(later, template.keys, read) == "FileNotFoundError"


@pytest.mark.not_shown(vsphere="the simulator's machines take nothing: ESXi tells what one does")
async def test_what_an_idle_clone_takes_is_told(driver: Driver, image: Image, template: Template) -> None:
    async with machine(driver, template) as (machine_id, endpoint):
        async with AgentLink(endpoint, template.keys) as link:
            await link.request("info", timeout=ANSWER_SECONDS)
        usage = driver.usage(machine_id)
        assert 0 < usage.memory < image.shape.memory
        assert usage.disk > 0
        assert usage.cpu > 0
        if driver.capabilities.memory_clones:
            assert driver.usage(machine_id).memory < 128 * MIB


async def test_wait_exit_returns_when_the_machine_ends(driver: Driver, template: Template) -> None:
    async with machine(driver, template) as (machine_id, endpoint):
        ended = asyncio.create_task(driver.wait_exit(machine_id))
        async with AgentLink(endpoint, template.keys) as link:
            await link.request("info", timeout=ANSWER_SECONDS)
            assert not ended.done()
            await link.request("poweroff", timeout=ANSWER_SECONDS)
        async with asyncio.timeout(GRACE_SECONDS):
            await ended
        assert not driver.alive(machine_id)


async def test_a_machine_that_was_deleted_cannot_boot(driver: Driver, stand: Stand, image: Image) -> None:
    with pytest.raises(NotFound):
        await driver.boot("0123456789ab", image, image.shape, new_keys())
    assert stand.leftovers() == []


async def snapshot_twice(driver: Driver, template: Template, *, denied: bool = False) -> None:
    """Two snapshots of a machine, and back to each of them, and on from there in another machine."""
    taken, left = "a" * 12, "b" * 12
    fork = uuid.uuid4().hex[:12]
    check = "assert value == {!r} and open('mine').read() == {!r}"
    async with machine(driver, template) as (machine_id, endpoint):
        try:
            begun = "value, file = 'first', open('mine', 'w'); file.write('x'); file.flush()"
            assert await run(endpoint, template.keys, begun) == "ok"
            saved = await driver.snapshot(machine_id, taken, memory=True)
            assert await run(endpoint, template.keys, "value = 'second'; file.write('y')") == "ok"
            assert await run(endpoint, template.keys, "file.flush()") == "ok"
            again = await driver.snapshot(machine_id, left, memory=True)
            if driver.name == "qemu":  # a vCenter does not tell the one, and the simulator not the other
                assert saved.pause > 0
                assert saved.size > MIB
                # One that QEMU wrote is not the larger for pages that were touched and not changed.
                assert again.size < saved.size or denied

            if driver.capabilities.memory_anywhere:
                other = await driver.restore(fork, taken)
                expected = check.format("first", "x")
            else:
                with pytest.raises(Unsupported, match="disk only"):
                    await driver.restore(fork, taken)
                other = await driver.fork(fork, machine_id)
                expected = check.format("second", "xy")
            assert other is not None
            assert await run(other, template.keys, expected) == "ok"
            assert await run(other, template.keys, "value, _ = 'fork', file.write('z')") == "ok"
            # The one that it was taken from has gone on all the while.
            assert await run(endpoint, template.keys, check.format("second", "xy")) == "ok"
            await driver.stop(machine_id, 0)
            for point, value, text in ((taken, "first", "x"), (left, "second", "xy"), (taken, "first", "x")):
                back = await driver.restore(machine_id, point)
                assert back is not None
                assert await run(back, template.keys, check.format(value, text)) == "ok"
                await driver.stop(machine_id, 0)

            await driver.forget([taken])
            back = await driver.restore(machine_id, left)  # it builds on what was forgotten
            assert back is not None
            assert await run(back, template.keys, check.format("second", "xy")) == "ok"
        finally:
            await driver.delete(fork)
            await driver.delete(machine_id)
            await driver.forget([taken, left])


async def test_a_snapshot_is_restored_any_number_of_times(
    driver: Driver, stand: Stand, template: Template
) -> None:
    await snapshot_twice(driver, template)
    assert stand.leftovers() == []


async def test_what_is_done_ahead_of_a_restore_disturbs_nothing(
    driver: Driver, stand: Stand, template: Template
) -> None:
    then, now = "a" * 12, "b" * 12
    async with machine(driver, template) as (machine_id, endpoint):
        ahead = partial(driver.check_snapshot, machine_id, then, memory=True, ahead=True)
        try:
            assert await run(endpoint, template.keys, "value = 'then'") == "ok"
            await driver.snapshot(machine_id, then, memory=True)
            assert await run(endpoint, template.keys, "value = 'now'") == "ok"
            await asyncio.gather(ahead(), driver.snapshot(machine_id, now, memory=True))
            assert await run(endpoint, template.keys, "assert value == 'now'") == "ok"
            await driver.resume(machine_id)
            assert not driver.paused(machine_id)
            assert await run(endpoint, template.keys, "assert value == 'now'") == "ok"
            await ahead()
            back = await driver.restore(machine_id, then)  # though it runs
            assert back is not None
            assert not driver.paused(machine_id)
            assert await run(back, template.keys, "assert value == 'then'") == "ok"
            await ahead()
            back = await driver.restore(machine_id, now)  # which is another one
            assert back is not None
            assert await run(back, template.keys, "assert value == 'now'") == "ok"
            await ahead()
        finally:
            await driver.delete(machine_id)
            await driver.forget([then, now])
    assert stand.leftovers() == []


@pytest.mark.not_shown(vsphere="ESXi reads the memory of its machines by itself")
@pytest.mark.parametrize("denied", [("read", "write"), ("write",)])
async def test_snapshots_do_without_the_memory_of_other_processes(
    driver: Driver, stand: Stand, template: Template, denied: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for what in denied:  # as Yama and seccomp do
        monkeypatch.setattr(memory, f"process_vm_{what}v", deny)
    await snapshot_twice(driver, template, denied=True)
    assert stand.leftovers() == []


async def test_the_disk_can_be_had_where_the_memory_cannot(
    driver: Driver, stand: Stand, image: Image, template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with machine(driver, template) as (machine_id, endpoint):
        there = machine_id if driver.capabilities.memory_anywhere else uuid.uuid4().hex[:12]
        try:
            assert await run(endpoint, template.keys, "open('kept', 'w').write('here')") == "ok"
            async with AgentLink(endpoint, template.keys) as link:
                await link.request("sync", timeout=ANSWER_SECONDS)
            await driver.snapshot(machine_id, "c" * 12, memory=True)
            await driver.stop(machine_id, 0)
            why = "disk only"
            if driver.capabilities.memory_anywhere:
                why = "QEMU 99.*disk only"
                monkeypatch.setattr("jupyter_vsandbox.drivers.qemu.accel.qemu_version", lambda: "QEMU 99")
            with pytest.raises(Unsupported, match=why):
                await driver.check_snapshot(there, "c" * 12, memory=True)
            with pytest.raises(Unsupported, match=why):
                await driver.restore(there, "c" * 12)
            monkeypatch.undo()
            assert await driver.restore(there, "c" * 12, memory=False) is None
            keys = new_keys()
            endpoint = await driver.boot(there, image, image.shape, keys)
            assert await run(endpoint, keys, "assert open('kept').read() == 'here'", BOOT_SECONDS) == "ok"
        finally:
            await driver.delete(there)
            await driver.delete(machine_id)
            await driver.forget(["c" * 12])
    assert stand.leftovers() == []


@pytest.mark.not_shown(vsphere="it says what to do instead, see tests/vsphere/test_driver.py")
async def test_a_snapshot_goes_on_where_nothing_but_the_image_is_known(
    driver: Driver, stand: Stand, image: Image, template: Template, elsewhere: Home, tmp_path: Path
) -> None:
    out, spoilt = tmp_path / "out", tmp_path / "spoilt"
    out.mkdir()
    async with machine(driver, template) as (machine_id, endpoint):
        begun = "value, file = 'first', open('mine', 'w'); file.write('x'); file.flush()"
        assert await run(endpoint, template.keys, begun) == "ok"
        await driver.snapshot(machine_id, "f" * 12, memory=True)
        assert await run(endpoint, template.keys, "value = 'second'") == "ok"
        told: list[int] = []
        extent = await driver.measure("f" * 12, image, memory=True)
        needs = await driver.export_snapshot("f" * 12, image, out, Work(told.append), memory=True)
        assert sum(told) <= sum(each.stat().st_size for each in out.iterdir()) <= extent.size
        assert await run(endpoint, template.keys, "assert value == 'second'") == "ok"
        await driver.forget(["f" * 12])
    assert stand.leftovers() == []
    shutil.copytree(out, spoilt)
    os.truncate(max(spoilt.iterdir(), key=lambda each: each.stat().st_size), 4096)
    there = Here(elsewhere).driver()
    with pytest.raises(Unsupported, match="disk only"):
        await there.check_import(dict.fromkeys(needs, "another"), image.shape)
    await there.check_import(needs, image.shape)
    for folder in (tmp_path / "empty", spoilt):
        with pytest.raises(Permanent):
            await there.import_snapshot("f" * 12, image, image.shape, folder, memory=True)
        assert elsewhere.leftovers() == []
    saved = await there.import_snapshot("f" * 12, image, image.shape, out, memory=True)
    assert saved.size > MIB
    try:
        back = await there.restore("a" * 12, "f" * 12)
        assert back is not None
        check = "assert value == 'first' and open('mine').read() == 'x'"
        assert await run(back, template.keys, check) == "ok"
    finally:
        await there.delete("a" * 12)
        await there.forget(["f" * 12])


async def test_a_failed_snapshot_leaves_nothing_and_the_machine_runs_on(
    driver: Driver, stand: Stand, template: Template
) -> None:
    async with machine(driver, template) as (machine_id, endpoint):
        with stand.failing("d" * 12) as error, pytest.raises(error):
            await driver.snapshot(machine_id, "d" * 12, memory=True)
        assert await run(endpoint, template.keys, "open('mine', 'w').write('x')") == "ok"
        await driver.snapshot(machine_id, "d" * 12, memory=True)
        await driver.forget(["d" * 12])
        with pytest.raises(NotFound):
            await driver.check_snapshot(machine_id, "e" * 12, memory=True)


async def test_templates_are_removed_under_running_clones(
    driver: Driver, stand: Stand, image: Image, template: Template
) -> None:
    """Comes last: the template is gone after it."""
    async with machine(driver, template) as (_, endpoint):
        await driver.remove_templates(image.id)
        assert await run(endpoint, template.keys, "import pandas") == "ok"
        with pytest.raises(SandboxError):
            await driver.start(uuid.uuid4().hex[:12], template)
        assert len(driver.machines()) == 1
    assert stand.leftovers() == []
