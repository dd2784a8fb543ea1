"""How files get into a file system that nobody mounts."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox import programs
from jupyter_vsandbox.domain.errors import Permanent, Unsupported
from jupyter_vsandbox.runtimes import additions, bootable

if TYPE_CHECKING:
    from pathlib import Path

ENV = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}


def fill(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            path.symlink_to(text.removeprefix("-> "))
        else:
            path.write_text(text)
    return folder


def look(disk: Path, command: str) -> str:
    return run("debugfs", "-R", command, disk)


def run(*words: str | Path) -> str:
    return subprocess.run(words, env=ENV, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """A file system like a Debian's, with /lib for a link."""
    files = {"lib": "-> usr/lib", "usr/lib/old": "old", "etc/tools.conf": "theirs"}
    run("mke2fs", "-q", "-t", "ext4", "-d", fill(tmp_path / "system", files), tmp_path / "disk", "8M")
    return tmp_path / "disk"


async def test_files_are_added_and_replaced(disk: Path, tmp_path: Path) -> None:
    files = {
        "lib/udev/rules": "a rule",
        "usr/lib/x/libx.so.1": "-> libx.so.1.0",
        "usr/lib/x/libx.so.1.0": "library",
        "etc/tools.conf": "ours",
        "opt/new/a program": "#!/bin/sh",
    }
    root = fill(tmp_path / "root", files)
    (root / "opt/new/a program").chmod(0o755)
    await bootable._add(str(disk), root)
    assert look(disk, "cat /usr/lib/udev/rules") == "a rule"
    assert look(disk, "cat /lib/udev/rules") == "a rule", "/lib is still a link"
    assert look(disk, "cat /usr/lib/old") == "old"
    assert look(disk, "cat /etc/tools.conf") == "ours"
    assert 'Fast link dest: "libx.so.1.0"' in look(disk, "stat /usr/lib/x/libx.so.1")
    program = look(disk, 'stat "/opt/new/a program"')
    assert "Mode:  0755" in program
    assert "User:     0   Group:     0" in program
    run("e2fsck", "-fn", disk)


async def test_a_file_system_without_room_is_told(disk: Path, tmp_path: Path) -> None:
    root = fill(tmp_path / "root", {"large": "x" * (16 << 20)})
    with pytest.raises(Permanent, match="did not get into its file system: write: Could not allocate block"):
        await bootable._add(str(disk), root)


def test_our_services_start_and_programs_can_be_run(tmp_path: Path) -> None:
    additions._add_own(tmp_path)
    wanted = {path.name for path in (tmp_path / "etc/systemd/system/multi-user.target.wants").iterdir()}
    assert wanted == {"vsandbox-clone.service", "vsandbox-tools.service"}
    for name in ("take-keys", "watch-clone"):
        assert os.access(tmp_path / "opt/vsandbox/vmware" / name, os.X_OK)


async def test_what_a_program_lacks_or_says_is_told() -> None:
    with pytest.raises(Unsupported, match="apt-get install nothing-such"):
        await programs.run("no-such-program", package="nothing-such")
    with pytest.raises(Permanent, match="sh -c failed: what went wrong"):
        await programs.run("sh", "-c", "echo what went wrong >&2; exit 3", package="dash")
    assert await programs.run("cat", package="coreutils", stdin="back") == "back"
