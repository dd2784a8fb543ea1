"""The SFTP server: what sshfs asks for, and what nobody should."""

from __future__ import annotations

import contextlib
import os
import random
import stat
import struct
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox.workspace import sftp
from jupyter_vsandbox.workspace.jail import Jail
from jupyter_vsandbox.workspace.sftp import Malformed, Session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CASES = 24_000
OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE, UNSUPPORTED = 0, 1, 2, 3, 4, 5, 8
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY = 101, 102, 103, 104, 105, 201
OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT, OPENDIR, READDIR = range(3, 13)
REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, READLINK, SYMLINK, EXTENDED = *range(13, 21), 200
READING, WRITING, APPENDING, CREATING, TRUNCATING, EXCLUSIVELY = 1, 2, 4, 8, 16, 32
NOTHING = struct.pack(">I", 0)


def text(value: bytes) -> bytes:
    return struct.pack(">I", len(value)) + value


def numbers(*values: int) -> bytes:
    return struct.pack(f">{len(values)}I", *values)


class Client:
    """Asks a session, and reads its answers."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.count = 0

    def ask(self, kind: int, rest: bytes) -> tuple[int, bytes]:
        """The kind and the rest of the answer."""
        self.count += 1
        answer = self.session.answer(struct.pack(">BI", kind, self.count) + rest)
        assert struct.unpack_from(">I", answer, 1) == (self.count,)
        return answer[0], answer[5:]

    def status(self, kind: int, rest: bytes) -> int:
        """The code of an answer that is a status."""
        answered, rest = self.ask(kind, rest)
        assert answered == STATUS
        return int.from_bytes(rest[:4], "big")

    def open(self, path: bytes, flags: int, attributes: bytes = NOTHING) -> bytes:
        """A handle, as it goes into a packet."""
        kind, handle = self.ask(OPEN, text(path) + numbers(flags) + attributes)
        assert kind == HANDLE
        return handle


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "inner").mkdir(parents=True)
    (root / "file").write_bytes(b"inside")
    (root / "link").symlink_to("file")
    (tmp_path / "secret").write_bytes(b"secret")
    return root


@pytest.fixture
def client(root: Path) -> Iterator[Client]:
    with contextlib.closing(Jail(root)) as jail, contextlib.closing(Session(jail)) as session:
        yield Client(session)


def test_it_says_what_it_speaks(client: Client) -> None:
    answer = client.session.answer(struct.pack(">BI", 1, 3))
    assert answer[:5] == struct.pack(">BI", 2, 3)
    assert b"posix-rename@openssh.com" in answer


def test_a_file_is_written_and_read(client: Client, root: Path) -> None:
    handle = client.open(b"/new", READING | WRITING | CREATING | EXCLUSIVELY, numbers(4, 0o600))
    assert client.status(WRITE, handle + struct.pack(">Q", 3) + text(b"late")) == OK
    assert client.status(WRITE, handle + struct.pack(">Q", 0) + text(b"in ")) == OK
    assert client.ask(READ, handle + struct.pack(">QI", 1, 4)) == (DATA, text(b"n la"))
    assert client.status(READ, handle + struct.pack(">QI", 7, 1)) == EOF
    assert client.status(FSETSTAT, handle + struct.pack(">IQ", 1, 2)) == OK
    kind, facts = client.ask(FSTAT, handle)
    assert (kind, struct.unpack_from(">IQ", facts)) == (ATTRS, (15, 2))
    assert client.status(EXTENDED, text(b"fsync@openssh.com") + handle) == OK
    assert client.status(CLOSE, handle) == OK
    assert client.status(CLOSE, handle) == FAILURE
    assert client.status(READ, handle + struct.pack(">QI", 0, 1)) == FAILURE
    assert (root / "new").read_bytes() == b"in"
    assert stat.S_IMODE((root / "new").stat().st_mode) == 0o600


def test_appending_and_truncating(client: Client, root: Path) -> None:
    handle = client.open(b"file", WRITING | APPENDING)
    assert client.status(WRITE, handle + struct.pack(">Q", 0) + text(b"!")) == OK
    assert (root / "file").read_bytes() == b"inside!"
    client.open(b"file", WRITING | CREATING | TRUNCATING)
    assert (root / "file").read_bytes() == b""


def test_a_folder_is_listed_whole_and_once(client: Client, root: Path) -> None:
    made = {f"file {number}".encode() for number in range(250)}
    for name in made:
        (root / "inner" / os.fsdecode(name)).touch()
    _, handle = client.ask(OPENDIR, text(b"/inner"))
    found = []
    while True:
        kind, rest = client.ask(READDIR, handle)
        if kind == STATUS:
            break
        count, at = int.from_bytes(rest[:4], "big"), 4
        for _ in range(count):
            size = int.from_bytes(rest[at : at + 4], "big")
            found.append(rest[at + 4 : at + 4 + size])
            at += 2 * (4 + size) + 32
        assert at == len(rest)
    assert sorted(found) == sorted(made)
    assert client.status(CLOSE, handle) == OK


def test_names_change(client: Client, root: Path) -> None:
    assert client.status(MKDIR, text(b"made") + numbers(4, 0o700)) == OK
    assert client.status(RENAME, text(b"file") + text(b"made/file")) == OK
    (root / "other").write_bytes(b"other")
    assert client.status(RENAME, text(b"other") + text(b"made/file")) == FAILURE
    replace = text(b"posix-rename@openssh.com")
    assert client.status(EXTENDED, replace + text(b"other") + text(b"made/file")) == OK
    assert (root / "made" / "file").read_bytes() == b"other"
    assert client.status(RMDIR, text(b"made")) == FAILURE
    assert client.status(REMOVE, text(b"made/file")) == OK
    assert client.status(RMDIR, text(b"made")) == OK
    assert client.status(LSTAT, text(b"made")) == NO_SUCH_FILE
    assert client.ask(READLINK, text(b"link")) == (NAME, numbers(1) + text(b"file") * 2 + NOTHING)
    assert client.ask(REALPATH, text(b"a/../../b/.")) == (NAME, numbers(1) + text(b"/b") * 2 + NOTHING)
    assert client.ask(EXTENDED, text(b"statvfs@openssh.com") + text(b"/"))[0] == EXTENDED_REPLY


def test_links_are_not_made_and_owners_stay(client: Client, root: Path) -> None:
    assert client.status(SYMLINK, text(b"/etc") + text(b"etc")) == UNSUPPORTED
    assert (
        client.status(EXTENDED, text(b"hardlink@openssh.com") + text(b"file") + text(b"hard")) == UNSUPPORTED
    )
    assert client.status(SETSTAT, text(b"file") + numbers(2, 0, 0)) == PERMISSION_DENIED
    assert client.status(SETSTAT, text(b"file") + numbers(4, 0o4777)) == OK
    assert stat.S_IMODE((root / "file").stat().st_mode) == 0o777
    assert sorted(path.name for path in root.iterdir()) == ["file", "inner", "link"]


def test_there_is_an_end_to_what_may_be_open(client: Client) -> None:
    handles = [client.open(b"file", READING) for _ in range(sftp.MAX_HANDLES)]
    assert client.status(OPEN, text(b"file") + numbers(READING) + NOTHING) == FAILURE
    assert client.status(OPENDIR, text(b"/")) == FAILURE
    assert client.status(CLOSE, handles[0]) == OK
    client.open(b"file", READING)


def test_what_is_too_large_is_not_read_and_what_cannot_be_is_told(client: Client) -> None:
    handle = client.open(b"file", READING | WRITING)
    for offset in (2**63, 2**64 - 1):
        assert client.status(READ, handle + struct.pack(">QI", offset, 10)) == FAILURE
        assert client.status(WRITE, handle + struct.pack(">Q", offset) + text(b"x")) == FAILURE
        assert client.status(FSETSTAT, handle + struct.pack(">IQ", 1, offset)) == FAILURE
    kind, data = client.ask(READ, handle + struct.pack(">QI", 0, 2**32 - 1))
    assert (kind, data) == (DATA, text(b"inside"))


@pytest.mark.parametrize("packet", [b"", b"\x03", b"\x03\0\0\0"])
def test_what_has_no_number_has_no_answer(client: Client, packet: bytes) -> None:
    with pytest.raises(Malformed):
        client.session.answer(packet)


def test_whatever_comes_is_answered_and_stays_inside(client: Client, root: Path, tmp_path: Path) -> None:
    """Packets that are cut, lengthened, of wrong lengths, out of order, or of noise, in one session."""
    chance = random.Random(20261125)
    handles = [text(b""), text(b"\0" * 8), text(struct.pack(">Q", 2**64 - 1))]
    words = [
        *(b"", b"/", b".", b"..", b"file", b"inner", b"link", b"inner/x", b"/file/", b"../secret", b"\0"),
        *(b"inner/../../secret", b"/etc/passwd", b".hidden", b"\xff\n", b"a" * 5000, b"x/" * 2000, b"new"),
    ]
    before = (tmp_path / "secret").read_bytes()
    answered: set[int] = set()

    def part() -> bytes:
        kind = chance.randrange(8)
        if kind < 3:
            return text(chance.choice(words))
        if kind < 5:
            return chance.choice(handles)
        if kind == 5:
            return numbers(
                chance.choice([0, 1, 2, 4, 8, 15, 26, 63, 2**31, 2**32 - 1, chance.getrandbits(32)])
            )
        if kind == 6:
            return struct.pack(">Q", chance.choice([0, 1, 5, 2**20, 2**63, 2**64 - 1]))
        return chance.randbytes(chance.randrange(20))

    for number in range(CASES):
        kind = chance.choice([*range(22), 200, 200, 3, 3, 11, 201, 255])
        rest = b"".join(part() for _ in range(chance.randrange(6)))
        if kind == EXTENDED and chance.random() < 0.7:
            names = ["posix-rename@openssh.com", "statvfs@openssh.com", "fsync@openssh.com", "what@ever"]
            rest = text(chance.choice(names).encode()) + rest
        if kind == OPEN and chance.random() < 0.5:
            rest = text(chance.choice(words)) + numbers(chance.randrange(64), 0)
        if chance.random() < 0.2:
            rest = rest[: chance.randrange(len(rest) + 1)]
        answer = client.session.answer(struct.pack(">BI", kind, number) + rest)
        assert len(answer) <= sftp.MAX_PACKET
        if kind == 1:
            continue
        assert struct.unpack_from(">I", answer, 1) == (number,)
        answered.add(answer[0])
        if answer[0] == HANDLE:
            handles.append(answer[5:])
            (root / "file").touch()  # what was removed comes again
    assert answered == {STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY}
    assert (tmp_path / "secret").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", "secret"]
