"""Overlays that are written here, compared with those of qemu-img."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

from jupyter_vsandbox import qcow2
from jupyter_vsandbox.domain.errors import Permanent

needs_qemu_img = pytest.mark.skipif(not shutil.which("qemu-img"), reason="needs qemu-img")


def qemu_img(*words):
    return subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True, text=True).stdout


def told(path):
    """What qemu-img says of a file, its name and what it takes on the disk aside."""
    found = json.loads(qemu_img("info", "--output=json", path))
    return {key: value for key, value in found.items() if key not in {"filename", "actual-size", "children"}}


@needs_qemu_img
@pytest.mark.parametrize("size", ["64K", "1000K", "4G", "10000000M", "5T"])
def test_an_overlay_is_what_qemu_img_makes(size, tmp_path):
    base, theirs, ours = (tmp_path / name for name in ("base", "theirs", "ours"))
    qemu_img("create", "-q", "-f", "qcow2", base, size)
    qemu_img("create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, theirs)
    qcow2.write_overlay(ours, base)
    assert told(ours) == told(theirs)
    assert "No errors" in qemu_img("check", ours)
    assert qcow2.header(ours) == qcow2.header(theirs)
    # Where the name of the backing file is differs: they list the names of features before it.
    mine, its = ours.read_bytes(), theirs.read_bytes()
    assert mine[:8] + mine[16:112] == its[:8] + its[16:112]
    assert mine[1 << 16 :] == its[1 << 16 :]


@needs_qemu_img
def test_an_overlay_takes_writes_and_shows_what_is_below(tmp_path):
    base, top = tmp_path / "base", tmp_path / "top"
    qemu_img("create", "-q", "-f", "qcow2", base, "1G")
    write(base, 0, "0x61")
    write(base, 600 << 20, "0x62")
    qcow2.write_overlay(top, base)
    write(top, 600 << 20, "0x63")
    for place, pattern in ((0, "0x61"), (600 << 20, "0x63"), (1 << 20, "0x0")):
        said = subprocess.run(
            ["qemu-io", "-c", f"read -P {pattern} {place} 4096", top],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert "verification failed" not in said
    assert "No errors" in qemu_img("check", top)


def write(path, place, pattern):
    subprocess.run(
        ["qemu-io", "-c", f"write -P {pattern} {place} 4096", path], check=True, capture_output=True
    )


def test_an_overlay_of_something_else_is_refused(tmp_path):
    (tmp_path / "base").write_bytes(b"something else")
    with pytest.raises(Permanent, match="no qcow2 file"):
        qcow2.write_overlay(tmp_path / "top", tmp_path / "base")
    assert not (tmp_path / "top").exists()
