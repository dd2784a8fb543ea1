"""Snapshots on disk: what is kept, what is removed, and what is found to be damaged."""

from __future__ import annotations

import struct

import pytest

from jupyter_vsandbox.domain.errors import NotFound, Permanent
from jupyter_vsandbox.drivers.qemu.points import INDEX, PAGES, STATE, Point, Points, checksums


@pytest.fixture
def points(tmp_path):
    points = Points(tmp_path / "snapshots", tmp_path / "layers")
    points.folder.mkdir()
    points.layers.mkdir()
    return points


def layer(points, name, below=""):
    """A file with the head of a qcow2 file, which is all that is looked at."""
    path = points.layers / name
    backing = str(points.layers / below) if below else "/image/disk.qcow2"
    head = struct.pack(">4sIQI", b"QFI\xfb", 3, 32, len(backing)).ljust(32, b"\0")
    path.write_bytes(head + backing.encode() + name.encode())
    return path


def snapshot(points, name, disk, base=""):
    folder = points.path(name)
    folder.mkdir()
    for file in (STATE, INDEX, PAGES):
        (folder / file).write_text(f"{file} of {name}")
    own = points.layers / disk
    point = Point(
        name, disk, True, "t", base, {}, checksums(folder, own, memory=True), points.sums_below(own)
    )
    points.write(folder, point)
    return point


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_manifest_comes_back(points):
    layer(points, "one")
    point = snapshot(points, "s1", "one")
    assert points.get("s1") == point
    points.verify(point, memory=True)
    with pytest.raises(NotFound, match="s2"):
        points.get("s2")


def test_every_layer_below_is_looked_at(points):
    layer(points, "one")
    layer(points, "two", "one")
    layer(points, "three", "two")
    snapshot(points, "s1", "one")
    top = snapshot(points, "s3", "three")  # nobody kept what is between
    assert set(top.below) == {"one", "two"}
    for name in ("one", "two", "three"):
        path = points.layers / name
        before = path.read_bytes()
        path.write_bytes(before + b"!")
        with pytest.raises(Permanent, match=str(path)):
            points.verify(top, memory=False)
        path.write_bytes(before)
    points.verify(top, memory=True)


def test_a_layer_that_was_damaged_before_does_not_pass_as_whole(points):
    layer(points, "one")
    snapshot(points, "s1", "one")
    with open(points.layers / "one", "ab") as file:
        file.write(b"!")
    layer(points, "two", "one")
    with pytest.raises(Permanent, match="one"):
        points.verify(snapshot(points, "s2", "two"), memory=False)


@pytest.mark.parametrize("position", range(0, 300, 7))
def test_no_changed_bit_of_a_manifest_is_overlooked(points, position):
    layer(points, "one")
    snapshot(points, "s1", "one")
    path = points.path("s1") / "manifest.json"
    data = bytearray(path.read_bytes())
    data[position % len(data)] ^= 1
    path.write_bytes(data)
    with pytest.raises(Permanent, match=str(path)):
        points.get("s1")


def test_what_is_forgotten_stays_while_something_builds_on_it(points):
    layer(points, "one")
    layer(points, "two", "one")
    snapshot(points, "s1", "one")
    snapshot(points, "s2", "two", base="s1")
    points.forget("s1")
    points.collect([], [])
    assert names(points.folder) == ["s1", "s2"]
    points.forget("s2")
    points.collect(["s2"], [])
    assert names(points.folder) == ["s1", "s2"]
    points.collect([], [points.layers / "one"])
    assert (names(points.folder), names(points.layers)) == ([], ["one"])


def test_a_layer_that_nobody_refers_to_yet_is_not_touched(points):
    layer(points, "one")
    snapshot(points, "s1", "one")
    points.forget("s1")
    layer(points, "new")
    (points.folder / ".new-s2-0").mkdir()
    points.collect([], [])
    assert (names(points.folder), names(points.layers)) == ([".new-s2-0"], ["new"])


def test_a_sweep_removes_what_nothing_refers_to(points):
    for name, below in (("one", ""), ("two", "one"), ("loose", ""), ("unknown", ""), ("mine", "")):
        layer(points, name, below)
    snapshot(points, "s1", "one")
    snapshot(points, "s2", "two", base="s1")
    snapshot(points, "s3", "unknown")
    (points.folder / ".new-s4-0").mkdir()
    debris = points.debris()
    layer(points, "later")
    loose = points.sweep(debris, {"s2"})
    points.collect([], [points.layers / "mine"], loose)
    assert names(points.folder) == ["s1", "s2"]  # the one that it builds on, too
    assert names(points.layers) == ["later", "mine", "one", "two"]


def test_a_damaged_manifest_hinders_no_other_and_can_be_forgotten(points):
    for name in ("one", "two"):
        layer(points, name)
    snapshot(points, "s1", "one")
    snapshot(points, "s2", "two")
    (points.path("s1") / "manifest.json").write_text("{")
    points.forget("s2")
    points.collect([], [])
    assert (names(points.folder), names(points.layers)) == (["s1"], ["one"])
    points.forget("s1")
    points.collect([], [])
    assert names(points.folder) == []
