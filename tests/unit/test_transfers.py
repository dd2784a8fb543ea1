"""What is imported can be opened, and of what is refused nothing is left."""

import asyncio
import hashlib
import json
import struct
from dataclasses import replace

import pytest

from jupyter_vsandbox import config, transfer
from jupyter_vsandbox.core import archive, owner, transfers
from jupyter_vsandbox.core.manifest import Content
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.errors import Exhausted, NotFound, Permanent, Unsupported
from jupyter_vsandbox.domain.model import GIB, Sandbox, Shape, State
from jupyter_vsandbox.kernel import specs
from jupyter_vsandbox.render import Output
from jupyter_vsandbox.runtimes import build
from jupyter_vsandbox.runtimes.build import silent
from jupyter_vsandbox.session import Session
from jupyter_vsandbox.work import Work


def disk(backing=b""):
    """A qcow2 file, as far as its header goes."""
    fields = (b"QFI\xfb", 3, 104 if backing else 0, len(backing), 16, GIB, 0, 0)
    return struct.pack(">4sIQIIQI36xQ", *fields).ljust(104, b"\0") + backing


DISK = disk()
MANIFEST = {
    "format": 1,
    "runtime": "python-3.11",
    "digest": "ab" * 32,
    "shape": {"memory": GIB, "vcpus": 1},
    "created": 1.0,
    "append": "quiet",
}
IMAGE = {
    "image/disk.qcow2": DISK,
    "image/vmlinuz": b"kernel",
    "image/initrd.img": b"initrd",
    "image/manifest.json": json.dumps(MANIFEST).encode(),
}
CONTENT = Content(
    driver="qemu",
    runtime="python-3.11",
    image="python-3.11-abababababab",
    disk=hashlib.sha256(DISK).hexdigest(),
    disk_size=len(DISK),
    shape=Shape(GIB, 1),
    machine="0123456789ab",
    name="first",
    note="",
    created=1.5,
    pause=0.0,
)


@pytest.fixture
def make(tmp_path):
    """Write an archive with these members."""

    def make(files, **values):
        sources = {}
        for number, (name, data) in enumerate(files.items()):
            sources[name] = tmp_path / f"member{number}"
            sources[name].write_bytes(data)
        archive.write(tmp_path / "mine", replace(CONTENT, **values), sources, Work())
        return tmp_path / "mine"

    return make


@pytest.fixture
def refuse(settings):
    """Import a file, see it refused with an error of a kind, and return what that said."""

    def refuse(path, kind, **options):
        with SandboxService(settings) as service:
            with pytest.raises(kind) as caught:
                asyncio.run(transfers.import_(service, path, silent, **options))
            assert service.list() == []
        assert build.images(settings) == []
        for folder in (settings.archives, settings.snapshots, settings.layers, settings.home / "cells"):
            assert [left for left in folder.rglob("*") if left.is_file()] == []
        assert list(settings.archives.glob("*")) == []
        return str(caught.value)

    return refuse


def test_without_its_image_it_is_refused(make, refuse):
    said = refuse(make({"machine/disk.qcow2": DISK}), Unsupported)
    assert CONTENT.image in said
    assert "--whole" in said


def test_of_a_driver_that_is_not_here_it_is_refused(make, refuse):
    assert "elsewhere" in refuse(make({"machine/disk.qcow2": DISK}, driver="elsewhere"), NotFound)


def test_a_disk_that_would_read_this_hosts_files_is_refused(make, refuse):
    hostile = {"machine/disk.qcow2": disk(b"/etc/passwd"), "cells.ipynb": b"{}"}
    assert "refers to other files" in refuse(make(IMAGE | hostile), Permanent)


def test_an_image_that_would_read_this_hosts_files_is_refused(make, refuse):
    hostile = disk(b"/etc/passwd")
    files = IMAGE | {"machine/disk.qcow2": DISK, "image/disk.qcow2": hostile}
    path = make(files, disk=hashlib.sha256(hostile).hexdigest(), disk_size=len(hostile))
    assert "refers to other files" in refuse(path, Permanent)


def test_an_image_of_another_sandbox_is_refused(make, refuse):
    path = make(IMAGE | {"machine/disk.qcow2": DISK}, disk="00" * 32)
    assert "not the one that its sandbox needs" in refuse(path, Permanent)


def test_part_of_an_image_is_refused(make, refuse):
    files = IMAGE | {"machine/disk.qcow2": DISK}
    del files["image/vmlinuz"]
    assert "not whole" in refuse(make(files), Permanent)


def test_one_without_a_machine_is_refused(make, refuse):
    assert "no disk.qcow2" in refuse(make(IMAGE), Permanent)


def test_without_room_nothing_is_begun(make, refuse, monkeypatch):
    monkeypatch.setattr(transfers, "_RESERVE", 1 << 60)
    assert "JUPYTER_VSANDBOX_HOME" in refuse(make(IMAGE | {"machine/disk.qcow2": DISK}), Exhausted)


def test_what_dead_processes_left_goes(settings):
    for name in (f"{owner.this_process()}:aa", "1:1:bb", "x"):
        (settings.archives / name / "machine").mkdir(parents=True)
    with SandboxService(settings) as service:
        asyncio.run(service.reconcile())
    assert [left.name for left in settings.archives.iterdir()] == [f"{owner.this_process()}:aa"]


@pytest.mark.parametrize(
    ("runtime", "title", "language"),
    [("mine-1", "mine-1 (sandbox)", "r"), ("python-3.11", "Python 3.11 (sandbox)", "python")],
)
def test_there_is_a_kernelspec_to_open_it_with(settings, monkeypatch, tmp_path, runtime, title, language):
    for name, data in IMAGE.items():
        (tmp_path / name.partition("/")[2]).write_bytes(data)
    manifest = MANIFEST | {"runtime": runtime, "inputs": {"recipe": {"language": "r"}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    image = build.adopt(tmp_path, dict.fromkeys(build.PARTS, "00" * 32), settings)
    made = Sandbox("a" * 12, runtime, image.id, "qemu", State.HIBERNATED, Shape(GIB, 1), 1.0)
    offered = []
    monkeypatch.setattr(specs, "install", lambda recipe: offered.append(specs.kernel_json(recipe)))
    monkeypatch.setattr(specs, "installed", lambda _: bool(offered))
    monkeypatch.setattr(config, "load_settings", lambda: settings)
    for _ in range(2):
        transfer._offer(Session(Output("jupyter vsandbox")), made)
    [spec] = offered
    assert (spec["display_name"], spec["language"]) == (title, language)
    assert spec["metadata"]["vsandbox"]["runtime"] == runtime
