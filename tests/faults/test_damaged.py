"""A snapshot that is damaged, or of another kind of machine, is refused, and the sandbox not touched."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.errors import Permanent, Unsupported
from jupyter_vsandbox.domain.model import State
from jupyter_vsandbox.drivers.qemu.driver import QemuDriver
from tests.faults.subject import Subject

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.conftest import Home, NewHome

pytestmark = pytest.mark.machine


@pytest.fixture(scope="module")
def home(new_home: NewHome) -> Iterator[Home]:
    with new_home() as home:
        yield home


@pytest.fixture(scope="module")
def service(home: Home) -> Iterator[SandboxService]:
    with SandboxService(home.settings) as service:
        yield service


@pytest.fixture(scope="module")
def subject(home: Home, service: SandboxService) -> Iterator[Subject]:
    """With two snapshots, the second of which builds on the first, and a state after them."""
    subject = Subject(home)
    subject.begin()

    async def go_on() -> None:
        subject.history[(await service.snapshot(subject.id, "second")).id] = subject.number
        await subject.write(service)

    asyncio.run(go_on())
    yield subject
    home.remove(*State)


def files(subject: Subject, service: SandboxService) -> dict[str, tuple[Path, bool]]:
    """The files that the second snapshot needs, and whether it does without memory, too."""
    base, top = subject.history
    driver = service.driver("qemu")
    assert isinstance(driver, QemuDriver)
    points = driver._points
    assert points.get(top).base == base
    return {
        "state": (points.path(top) / "state", False),
        "index": (points.path(top) / "index", False),
        "pages": (points.path(top) / "pages", False),
        "manifest": (points.path(top) / "manifest.json", True),
        "layer": (points.layers / points.get(top).disk, True),
        "index below": (points.path(base) / "index", False),
        "pages below": (points.path(base) / "pages", False),
        "manifest below": (points.path(base) / "manifest.json", False),
        "layer below": (points.layers / points.get(base).disk, True),
    }


NAMES = [
    "state",
    "index",
    "pages",
    "manifest",
    "layer",
    "index below",
    "pages below",
    "manifest below",
    "layer below",
]


def flip(path: Path, at: float = 0.5) -> bytes:
    """Change one bit of a file; returns what it was."""
    before = path.read_bytes()
    data = bytearray(before)
    data[int(len(data) * at)] ^= 1
    rewrite(path, bytes(data))
    return before


def rewrite(path: Path, data: bytes) -> None:
    mode = path.stat().st_mode
    path.chmod(0o600)
    path.write_bytes(data)
    path.chmod(mode)


VERBS: dict[str, Callable[[SandboxService, Subject, str], Awaitable[object]]] = {
    "rollback": lambda service, subject, top: service.rollback(subject.id, top),
    "rollback to the disk": lambda service, subject, top: service.rollback(subject.id, top, memory=False),
    "fork": lambda service, subject, top: service.fork(subject.id, top),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_named_and_nothing_changes(
    subject: Subject, service: SandboxService, name: str
) -> None:
    path, of_disk = files(subject, service)[name]
    _, top = subject.history

    async def check() -> None:
        before = flip(path)
        try:
            for verb, run in VERBS.items():
                if of_disk or verb != "rollback to the disk":
                    with pytest.raises(Permanent, match=str(path)):
                        await run(service, subject, top)
            assert [sandbox.id for sandbox in service.list()] == [subject.id]
            assert await subject.observe(service, subject.id) == (State.RUNNING, subject.number)
            # What is taken from now on does not build on damaged memory, only on the disk that there is,
            # unless that was flattened meanwhile.
            later = await service.snapshot(subject.id)
            driver = service.driver("qemu")
            assert isinstance(driver, QemuDriver)
            points = driver._points
            if path in points.layers_of(points.layers / points.get(later.id).disk):
                with pytest.raises(Permanent, match=str(path)):
                    await service.rollback(subject.id, later.id)
            else:
                assert await subject.restores(service, later.id) == subject.number
        finally:
            rewrite(path, before)
        for snapshot in service.history(subject.id):
            if snapshot.id not in subject.history:
                await service.remove_snapshot(snapshot.id)

    asyncio.run(check())


@pytest.mark.parametrize("garbage", [b"", b"\xff\xfe", b"[]", b"{}", b'{"id": 1}', b"null"])
def test_a_manifest_of_garbage_is_named(subject: Subject, service: SandboxService, garbage: bytes) -> None:
    _, top = subject.history
    path = files(subject, service)["manifest"][0]
    before = path.read_bytes()
    rewrite(path, garbage)
    try:
        with pytest.raises(Permanent, match=str(path)):
            asyncio.run(service.rollback(subject.id, top))
    finally:
        rewrite(path, before)


def test_damaged_cells_are_named_and_the_machine_can_be_had(
    subject: Subject, service: SandboxService
) -> None:
    _, top = subject.history
    path = service.cells_of(top)
    before = flip(path)

    async def check() -> None:
        with pytest.raises(Permanent, match=str(path)):
            await service.rollback(subject.id, top, cells=True)
        assert subject.notebook.read_text() == str(subject.number)
        rewrite(path, before)
        await service.rollback(subject.id, top, cells=True)
        assert subject.notebook.read_text() == str(subject.history[top])
        await subject.write(service)

    asyncio.run(check())


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("QEMU version", "6.2.0"),
        ("machine type", "pc"),
        ("accelerator", "kvm"),
        ("CPU", "host (Intel 8086)"),
        ("memory", "2048 MiB"),
        ("vCPUs", "16"),
        ("devices", "virtio-gpu-pci"),
        ("template", "another"),
        ("moon", "full"),
    ],
)
def test_the_memory_of_another_kind_of_machine_is_refused_and_its_disk_offered(
    subject: Subject, service: SandboxService, fact: str, value: str
) -> None:
    _, top = subject.history
    path = files(subject, service)["manifest"][0]
    before = path.read_bytes()
    driver = service.driver("qemu")
    assert isinstance(driver, QemuDriver)
    point = driver._points.get(top)
    path.unlink()
    driver._points.write(path.parent, replace(point, machine={**point.machine, fact: value}))

    async def check() -> None:
        for verb in ("rollback", "fork"):
            with pytest.raises(Unsupported, match=rf"{fact} .*{value.partition(' ')[0]}.*disk only"):
                await VERBS[verb](service, subject, top)
        assert await subject.observe(service, subject.id) == (State.RUNNING, subject.number)

    try:
        asyncio.run(check())
    finally:
        rewrite(path, before)


def test_a_template_that_is_gone_or_made_anew_is_another_machine(
    subject: Subject, service: SandboxService, home: Home, tmp_path: Path
) -> None:
    _, top = subject.history
    driver = service.driver("qemu")
    assert isinstance(driver, QemuDriver)
    point = driver._points.get(top)
    shared, own = home.settings.templates.resolve(), tmp_path / "templates"
    own.mkdir()
    home.settings.templates.unlink()
    home.settings.templates.symlink_to(own)

    async def refused(match: str) -> None:
        with pytest.raises(Unsupported, match=rf"{match}.*disk only"):
            await service.rollback(subject.id, top)

    try:
        asyncio.run(refused("is gone"))
        anew = own / point.template
        anew.mkdir()
        record = json.loads((shared / point.template / "template.json").read_text())
        record["keys"]["server_public"] = "x" * 40
        (anew / "template.json").write_text(json.dumps(record))
        asyncio.run(refused("made as"))
    finally:
        home.settings.templates.unlink()
        home.settings.templates.symlink_to(shared)


def test_the_disk_alone_of_another_kind_of_machine_can_be_had(
    subject: Subject, service: SandboxService, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, top = subject.history

    async def check() -> None:
        with monkeypatch.context() as context:
            context.setattr("jupyter_vsandbox.drivers.qemu.accel.qemu_version", lambda: "99")
            with pytest.raises(Unsupported, match=r"QEMU version .*99.*disk only"):
                await service.rollback(subject.id, top)
            await service.rollback(subject.id, top, memory=False)
        assert await subject.observe(service, subject.id) == (State.STOPPED, subject.history[top])

    asyncio.run(check())
