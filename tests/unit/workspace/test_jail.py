"""Nobody leaves the folder that a machine was given, whatever is asked for and whoever moves things about."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox.domain.errors import Unsupported
from jupyter_vsandbox.workspace import jail as jail_module
from jupyter_vsandbox.workspace.jail import Changes, Jail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = b"not for guests"
RACES = 3000


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the root, with a file."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_bytes(SECRET)
    return folder


@pytest.fixture
def root(tmp_path: Path, outside: Path) -> Path:
    """The folder that is handed out, with every kind of way out of it that a host may have left there."""
    root = tmp_path / "root"
    (root / "inner" / "deep").mkdir(parents=True)
    (root / "file").write_bytes(b"inside")
    (root / "inner" / "file").write_bytes(b"deep inside")
    (root / "absolute").symlink_to(outside)
    (root / "relative").symlink_to("../outside")
    (root / "to-file").symlink_to(outside / "secret")
    (root / "chain").symlink_to("relative")
    (root / "inner" / "up").symlink_to("../..")
    (root / "loop").symlink_to("loop")
    (root / "proc").symlink_to("/proc/self/root")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "key").write_bytes(SECRET)
    (root / ".bashrc").write_bytes(SECRET)
    (root / "to-hidden").symlink_to(".hidden")
    (root / "to-key").symlink_to(".hidden/key")
    return root


@pytest.fixture
def jail(root: Path) -> Iterator[Jail]:
    """The folder, writable."""
    with contextlib.closing(Jail(root)) as jail:
        yield jail


@contextlib.contextmanager
def refused(*numbers: int) -> Iterator[None]:
    """The block must end with an error of the system's, of one of `numbers` if there are any."""
    with pytest.raises(OSError) as raised:  # noqa: PT011 - it has a number
        yield
    assert not numbers or raised.value.errno in numbers


def read(jail: Jail, path: bytes) -> bytes:
    """What is in a file."""
    file = jail.open(path, os.O_RDONLY)
    try:
        return os.read(file, 1000)
    finally:
        os.close(file)


def names(jail: Jail, path: bytes = b"/") -> set[bytes]:
    """What is in a folder."""
    return {name for name, _ in jail.listing(path)}


def snapshot(folder: Path) -> dict[str, object]:
    """All that there is below a folder, with content and permissions."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in [folder, *folder.rglob("*")]
    }


OPERATIONS: dict[str, Callable[[Jail, bytes], object]] = {
    "read": lambda jail, path: read(jail, path),
    "write": lambda jail, path: os.close(jail.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)),
    "append": lambda jail, path: os.close(jail.open(path, os.O_WRONLY | os.O_APPEND)),
    "list": lambda jail, path: list(jail.listing(path)),
    "mkdir": lambda jail, path: jail.mkdir(path, 0o777),
    "rmdir": lambda jail, path: jail.rmdir(path),
    "remove": lambda jail, path: jail.remove(path),
    "rename away": lambda jail, path: jail.rename(path, b"stolen", replace=True),
    "rename to": lambda jail, path: jail.rename(b"file", path, replace=True),
    "truncate": lambda jail, path: jail.change(path, Changes(size=0)),
    "chmod": lambda jail, path: jail.change(path, Changes(mode=0o777)),
    "utime": lambda jail, path: jail.change(path, Changes(times=(1, 1))),
}
WAYS_OUT = [
    b"..",
    b"../outside",
    b"../outside/secret",
    b"/../outside/secret",
    b"inner/../../outside/secret",
    b"inner/./../../outside/secret/",
    b"//..//outside//secret",
    b"absolute/secret",
    b"relative/secret",
    b"relative/new",
    b"chain/secret",
    b"inner/up/outside/secret",
    b"inner/up/outside/new",
    b"inner/deep/../up/../outside/secret",
    b"proc/etc/passwd",
    b"loop/x",
    b"to-hidden/key",
    b"to-hidden/new",
    b".hidden",
    b".hidden/key",
    b"inner/../.hidden/key",
    b".bashrc",
    b".new",
    b"inner/.new",
    b"file/../../outside/secret",
    b"secret\0",
    b"\0",
    b"a" * 300,
    b"a/" * 3000,
]


@pytest.mark.parametrize("path", WAYS_OUT, ids=lambda path: repr(path[:40]))
@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_way_out(jail: Jail, root: Path, outside: Path, operation: str, path: bytes) -> None:
    before = snapshot(outside), snapshot(root / ".hidden"), (root / ".bashrc").read_bytes()
    with refused():
        OPERATIONS[operation](jail, path)
    assert (snapshot(outside), snapshot(root / ".hidden"), (root / ".bashrc").read_bytes()) == before
    assert not (root / ".new").exists()
    assert not (root / "stolen").exists()


@pytest.mark.parametrize("operation", ["read", "write", "append", "list", "truncate", "chmod", "utime"])
@pytest.mark.parametrize(
    "link", [b"absolute", b"absolute/", b"relative", b"to-file", b"to-key", b"to-hidden", b"loop", b"proc"]
)
def test_a_link_is_a_link_and_is_not_followed(
    jail: Jail, root: Path, outside: Path, link: bytes, operation: str
) -> None:
    before = snapshot(outside), snapshot(root / ".hidden")
    with refused():
        OPERATIONS[operation](jail, link)
    assert stat.S_ISLNK(jail.stat(link).st_mode)
    assert jail.readlink(link) == os.fsencode(os.readlink(root / link.decode()))
    assert (snapshot(outside), snapshot(root / ".hidden")) == before


def test_a_link_can_be_moved_and_removed_and_its_target_stays(jail: Jail, root: Path, outside: Path) -> None:
    jail.rename(b"to-file", b"inner/moved", replace=False)
    jail.remove(b"inner/moved")
    jail.rename(b"file", b"absolute", replace=True)  # takes the link's place
    assert (root / "absolute").read_bytes() == b"inside"
    assert (outside / "secret").read_bytes() == SECRET


def test_what_is_there_can_be_used(jail: Jail, root: Path) -> None:
    assert read(jail, b"/inner/file") == read(jail, b"inner//./file/") == b"deep inside"
    file = jail.open(b"inner/new", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
    os.write(file, b"written")
    jail.change_open(file, Changes(size=3, mode=0o6751, times=(5, 7)))
    os.close(file)
    made = root / "inner" / "new"
    assert made.read_bytes() == b"wri"
    assert stat.S_IMODE(made.stat().st_mode) == 0o751
    assert made.stat().st_mtime == 7
    with pytest.raises(FileExistsError):
        jail.open(b"inner/new", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    with pytest.raises(FileExistsError):
        jail.rename(b"file", b"inner/new", replace=False)
    jail.rename(b"file", b"inner/new", replace=True)
    assert made.read_bytes() == b"inside"
    jail.mkdir(b"more", 0o7777)
    assert stat.S_IMODE((root / "more").stat().st_mode) & 0o7000 == 0
    jail.rename(b"inner/new", b"more/new", replace=False)
    jail.remove(b"more/new")
    jail.rmdir(b"more")
    assert jail.space().f_blocks > 0


def test_names_of_every_kind(jail: Jail, root: Path) -> None:
    odd = [b"line\nbreak", b"\xff\xfe no text", b" ", b"-rf", b"*", b"a" * 255, "größe".encode()]
    for name in odd:
        os.close(jail.open(name, os.O_WRONLY | os.O_CREAT))
    assert set(odd) <= names(jail)
    assert set(odd) <= set(os.listdir(os.fsencode(root)))


def test_hidden_names_are_listed_only_where_they_are_to_be(root: Path, jail: Jail) -> None:
    assert not any(name.startswith(b".") for name in names(jail))
    with contextlib.closing(Jail(root, hidden=True)) as open_jail:
        assert {b".hidden", b".bashrc"} <= names(open_jail)
        assert read(open_jail, b".hidden/key") == SECRET
        os.close(open_jail.open(b".new", os.O_WRONLY | os.O_CREAT))


def test_a_folder_to_read_is_not_written(root: Path) -> None:
    before = snapshot(root)
    with contextlib.closing(Jail(root, writable=False)) as jail:
        assert read(jail, b"file") == b"inside"
        for name in (
            "write",
            "append",
            "mkdir",
            "rmdir",
            "remove",
            "rename away",
            "truncate",
            "chmod",
            "utime",
        ):
            for path in (b"file", b"inner", b"inner/deep", b"new"):
                with refused(errno.EROFS):
                    OPERATIONS[name](jail, path)
        for flags in (os.O_RDONLY | os.O_TRUNC, os.O_RDONLY | os.O_CREAT, os.O_RDWR):
            with refused(errno.EROFS):
                jail.open(b"file", flags)
    assert snapshot(root) == before


@pytest.mark.parametrize(
    "flags", [os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_CREAT | os.O_TRUNC]
)
def test_what_is_no_file_is_not_opened(jail: Jail, root: Path, flags: int) -> None:
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(root)  # its path may be too long
        listening.bind("socket")
        os.chdir(here)
        for name in (b"pipe", b"socket", b"inner", b"/"):
            with refused():  # and at once: nobody has the pipe's other end
                jail.open(name, flags)


def test_the_own_home_is_not_there(tmp_path: Path) -> None:
    home = tmp_path / "root" / "data" / "vsandbox"
    home.mkdir(parents=True)
    (home / "vsandbox.sqlite").write_bytes(SECRET)
    with contextlib.closing(Jail(tmp_path / "root", [home, tmp_path / "missing"], hidden=True)) as jail:
        assert names(jail, b"data") == set()
        for operation in OPERATIONS.values():
            for path in (b"data/vsandbox", b"data/vsandbox/vsandbox.sqlite", b"data/vsandbox/new"):
                with refused():
                    operation(jail, path)
        with pytest.raises(PermissionError):
            jail.rename(b"data", b"other", replace=True)
        (tmp_path / "root" / "data").rename(tmp_path / "root" / "moved")  # the host may
        with pytest.raises(FileNotFoundError):
            read(jail, b"moved/vsandbox/vsandbox.sqlite")
    assert (tmp_path / "root" / "moved" / "vsandbox" / "vsandbox.sqlite").read_bytes() == SECRET


def test_what_is_handed_out_is_a_folder_for_notebooks(tmp_path: Path) -> None:
    (tmp_path / "home" / "sandboxes").mkdir(parents=True)
    with pytest.raises(Unsupported, match="all of this host"):
        Jail(Path("/"))
    for inside in ("home", "home/sandboxes"):
        with pytest.raises(Unsupported, match="not handed out"):
            Jail(tmp_path / inside, [tmp_path / "home"])
    with pytest.raises(FileNotFoundError):
        Jail(tmp_path / "missing")


def test_without_the_kernel_s_help_nothing_is_served(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jail_module, "_OPENAT2", 100_000)
    open_files = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Unsupported, match="openat2"):
        Jail(root)
    assert len(os.listdir("/proc/self/fd")) == open_files


@pytest.mark.skipif(not os.path.ismount("/dev/pts"), reason="there is no file system below another one")
def test_another_file_system_is_not_entered() -> None:
    with contextlib.closing(Jail(Path("/dev"))) as devices, refused(errno.EXDEV, errno.ENOENT):
        devices.stat(b"pts/ptmx")


@pytest.mark.parametrize("operation", ["read", "write", "truncate", "remove", "rename to", "mkdir"])
def test_a_folder_that_becomes_a_link_meanwhile_leads_nowhere(
    jail: Jail, root: Path, outside: Path, operation: str
) -> None:
    """One thread swaps a folder and a link to the outside, the other goes through it."""
    (root / "swap").mkdir()
    (root / "link").symlink_to(outside)
    stop = threading.Event()
    swaps = 0

    def swap() -> None:
        nonlocal swaps
        while not stop.is_set():
            os.rename(root / "swap", root / "aside")
            os.rename(root / "link", root / "swap")
            os.rename(root / "swap", root / "link")
            os.rename(root / "aside", root / "swap")
            swaps += 1

    before = snapshot(outside)
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(RACES):
            with contextlib.suppress(OSError):
                assert OPERATIONS[operation](jail, b"swap/secret") != SECRET
            with contextlib.suppress(OSError):
                (root / "file").touch()
    finally:
        stop.set()
        thread.join()
    assert swaps > 10
    assert snapshot(outside) == before


def test_nothing_stays_open(jail: Jail) -> None:
    open_files = len(os.listdir("/proc/self/fd"))
    for path in [*WAYS_OUT, b"file", b"inner", b"new", b"to-file"]:
        for operation in OPERATIONS.values():
            with contextlib.suppress(OSError):
                operation(jail, path)
    assert len(os.listdir("/proc/self/fd")) == open_files
