"""What leaves this host, and what comes from others: pages, disks, and what a memory needs."""

import array
import json
import os
import shutil
import struct
import subprocess

import pytest

from jupyter_vsandbox import qcow2
from jupyter_vsandbox.domain.errors import NotFound, Permanent
from jupyter_vsandbox.drivers.qemu import portable
from jupyter_vsandbox.drivers.qemu.disk import create_overlay
from jupyter_vsandbox.drivers.qemu.memory import PAGE, Pages, load
from jupyter_vsandbox.drivers.qemu.points import Point, Points
from jupyter_vsandbox.runtimes import build
from jupyter_vsandbox.work import Work

MANIFEST = {
    "format": 1,
    "runtime": "python-3.11",
    "digest": "ab" * 32,
    "shape": {"memory": 1 << 30, "vcpus": 1},
    "created": 1.0,
    "append": "quiet",
    "inputs": {"recipe": {"language": "r"}},
}
SUMS = {name: f"{number}" * 64 for number, name in enumerate(build.PARTS)}

needs_qemu_img = pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")


def page(letter):
    return letter * PAGE


def header(path, *, version=3, backing=b"", size=1 << 20, encryption=0, features=0):
    fields = (b"QFI\xfb", version, 104 if backing else 0, len(backing), 16, size, encryption)
    path.write_bytes(struct.pack(">4sIQIIQI36xQ", *fields, features).ljust(104, b"\0") + backing)
    return path


def keep(folder, pages):
    folder.mkdir()
    data = b"".join(pages[number] for number in sorted(pages))
    Pages(array.array("Q", sorted(pages)), bytearray(data)).write(folder)
    return folder


def test_the_pages_that_leave_are_all_that_are_not_zero(tmp_path):
    ram = tmp_path / "ram"
    ram.write_bytes(page(b"\0") + page(b"a") + page(b"b") + page(b"c"))
    os.truncate(ram, 3000 * PAGE)
    layers = [
        keep(tmp_path / "1", {1: page(b"x"), 2: page(b"\0"), 2999: page(b"e")}),
        keep(tmp_path / "2", {1: page(b"y")}),
    ]
    (tmp_path / "out").mkdir()
    told = []
    portable.write_memory(ram, layers, tmp_path / "out", Work(told.append))
    found = load(tmp_path / "out")
    pages = {number: found.page(at) for at, number in enumerate(found.numbers)}
    assert pages == {1: page(b"y"), 3: page(b"c"), 2999: page(b"e")}
    assert sum(told) == 3 * PAGE
    portable.require_pages(tmp_path / "out", 3000 * PAGE)


@pytest.mark.parametrize(
    ("numbers", "pages"),
    [([0, 1], 1), ([0], 2), ([1, 0], 2), ([0, 0], 2), ([4], 1), ([1 << 60], 1)],
)
def test_pages_that_are_not_of_such_a_memory_are_refused(tmp_path, numbers, pages):
    (tmp_path / "index").write_bytes(array.array("Q", numbers).tobytes())
    (tmp_path / "pages").write_bytes(bytes(pages * PAGE))
    with pytest.raises(Permanent, match="those of a machine"):
        portable.require_pages(tmp_path, 4 * PAGE)


def test_an_index_that_was_cut_is_refused(tmp_path):
    (tmp_path / "index").write_bytes(bytes(7))
    (tmp_path / "pages").write_bytes(b"")
    with pytest.raises(Permanent):
        portable.require_pages(tmp_path, 4 * PAGE)
    (tmp_path / "index").write_bytes(b"")
    portable.require_pages(tmp_path, 4 * PAGE)


@pytest.mark.parametrize(
    "values",
    [
        {"backing": b"/etc/passwd"},
        {"backing": b'json:{"driver":"file","filename":"/etc/passwd"}'},
        {"features": 1 << 2},  # its data is in another file
        {"features": 1 << 40},
        {"encryption": 1},
        {"version": 2},
    ],
)
def test_a_disk_that_refers_to_other_files_is_refused(tmp_path, values):
    path = header(tmp_path / "disk.qcow2", **values)
    with pytest.raises(Permanent, match=r"disk\.qcow2"):
        qcow2.require_alone(path)


def test_what_is_no_disk_is_refused(tmp_path):
    for text in (b"", b"QFI\xfb", b"#!" * 99):
        (tmp_path / "disk.qcow2").write_bytes(text)
        with pytest.raises(Permanent, match="no qcow2"):
            qcow2.require_alone(tmp_path / "disk.qcow2")


async def test_a_disk_for_another_disk_is_refused(tmp_path):
    base = header(tmp_path / "base", size=1 << 30)
    with pytest.raises(Permanent, match="another size"):
        await portable.put_on(header(tmp_path / "disk.qcow2", size=1 << 31), base)


def create(path):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "4M"], check=True)


def write_at(path, place, text):
    source = path.with_suffix(".part")
    source.write_bytes(text)
    words = ["qemu-io", "-f", "qcow2", "-c", f"write -q -s {source} {place} {len(text)}", str(path)]
    subprocess.run(words, check=True)


def content(path, tmp_path):
    subprocess.run(["qemu-img", "convert", "-O", "raw", path, tmp_path / "raw"], check=True)
    return (tmp_path / "raw").read_bytes()


@needs_qemu_img
async def test_a_chain_becomes_one_layer_that_builds_on_the_same_disk_elsewhere(tmp_path):
    base = tmp_path / "base"
    create(base)
    write_at(base, 0, b"a" * 4096)
    write_at(base, 1 << 20, b"b" * 4096)
    layers = [base]
    for number, (place, text) in enumerate([(0, b"A" * 512), (1 << 20, bytes(4096)), (3 << 20, b"c" * 9)]):
        layers.append(tmp_path / f"layer{number}")
        create_overlay(layers[-1], layers[-2])
        write_at(layers[-1], place, text.ljust(4096, b"."))
    top = layers[-1]
    assert portable.layers_above(top, base) == layers[:0:-1]
    await portable.flatten(top, base, tmp_path / "flat")
    assert qcow2.require_alone(tmp_path / "flat").backing is None
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(base, elsewhere / "disk.qcow2")
    await portable.put_on(tmp_path / "flat", elsewhere / "disk.qcow2")
    assert qcow2.header(tmp_path / "flat").backing == elsewhere / "disk.qcow2"
    assert content(tmp_path / "flat", tmp_path) == content(top, tmp_path)
    with pytest.raises(Permanent, match="does not build on"):
        portable.layers_above(top, elsewhere / "disk.qcow2")


def test_a_measure_samples_what_there_is(tmp_path):
    points = Points(tmp_path / "snapshots", tmp_path / "layers")
    points.layers.mkdir()
    points.folder.mkdir()
    base = header(tmp_path / "base")
    layer = header(points.layers / "layer", backing=os.fsencode(base))
    with open(layer, "ab") as file:
        file.write(os.urandom(1 << 20))
    point = Point("a" * 12, "layer", memory=True)
    points.write(keep(points.path(point.id), {0: page(b"x"), 5000: page(b"y")}), point)
    ram = tmp_path / "ram"
    ram.write_bytes(b"\1" * (1 << 20))
    os.truncate(ram, 1 << 30)
    disk, both = (portable.measure(points, point, memory, base) for memory in (None, ram))
    assert 1 << 20 <= disk.size < 2 << 20
    assert disk.size + (1 << 20) + PAGE <= both.size < disk.size + (1 << 20) + 4 * PAGE
    assert set(disk.sample) > {1}
    assert both.sample.count(b"\1" * 4096) > disk.sample.count(b"\1" * 4096) == 0


@pytest.fixture
def brought(tmp_path):
    folder = tmp_path / "brought"
    folder.mkdir()
    for name in ("vmlinuz", "initrd.img"):
        (folder / name).write_bytes(b"x")
    header(folder / "disk.qcow2")
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))
    return folder


def test_an_image_from_elsewhere_is_named_by_what_it_is(settings, brought, tmp_path):
    shutil.copytree(brought, tmp_path / "again")
    image = build.adopt(brought, SUMS, settings)
    assert image.runtime == "python-3.11"
    assert image.digest != MANIFEST["digest"]
    assert build.get(image.id, settings) == image
    assert build.language(image) == "r"
    assert build.adopt(tmp_path / "again", SUMS, settings) == image
    with pytest.raises(NotFound):  # not what the recipe builds to
        build.find("python-3.11", settings)
    assert [p.name for p in settings.images.iterdir() if not p.name.startswith(".lock")] == [image.id]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / "manifest.json").unlink(),
        lambda folder: (folder / "manifest.json").write_text("[]"),
        lambda folder: (folder / "manifest.json").write_text(json.dumps(MANIFEST | {"runtime": "../x"})),
        lambda folder: (folder / "manifest.json").write_text(json.dumps(MANIFEST | {"shape": {}})),
        lambda folder: (folder / "disk.qcow2").unlink(),
        lambda folder: header(folder / "disk.qcow2", backing=b"/etc/passwd"),
    ],
)
def test_what_is_no_image_is_not_taken(settings, brought, spoil):
    spoil(brought)
    with pytest.raises(Permanent):
        build.adopt(brought, SUMS, settings)
    assert build.images(settings) == []
