"""From a connection of the guest through its agent to the folder, and back."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox.guest import protocol, workspace
from jupyter_vsandbox.guest.protocol import framed
from jupyter_vsandbox.guest.workspace import Workspace
from jupyter_vsandbox.workspace import Jail, Serving, serving, sftp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECONDS = 10.0
INIT = struct.pack(">IBI", 5, 1, 3)
STREAM = b"12345678"
NO_PACKETS = [
    framed(b"x" * (sftp.MAX_PACKET + 1)),
    framed(b""),
    framed(b"whole") + b"\0\0\0\2x",
    framed(b"whole") + b"\0",
    b"x",
]


def lstat(path: bytes, number: int = 1) -> bytes:
    """A packet without its length."""
    return struct.pack(">BII", 7, number, len(path)) + path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(b"inside")
    return tmp_path


class Guest:
    """The agent's part, and what it has carried."""

    def __init__(self) -> None:
        self.host: Callable[[bytes, bytes], None] | None = None
        self.carried: list[tuple[bytes, bytes]] = []
        self.workspace = Workspace(self._carry)
        self.clients: list[socket.socket] = []

    def _carry(self, stream: bytes, packets: bytes | memoryview) -> bool:
        if self.host is None:
            return False
        self.carried.append((stream, bytes(packets)))
        self.host(*self.carried[-1])
        return True

    def connect(self) -> socket.socket:
        """A connection as sshfs makes it."""
        address = self.workspace._listener.getsockname()
        client = socket.create_connection(address, timeout=SECONDS)
        self.clients.append(client)
        self.turn()
        return client

    def turn(self) -> None:
        """Handle what there is, ready or not."""
        for _ in range(3):
            for descriptor in self.workspace.watched():
                self.workspace.handle(descriptor)

    def ask(self, client: socket.socket, packet: bytes) -> None:
        client.sendall(framed(packet))
        self.turn()


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Iterator[Guest]:
    monkeypatch.setattr(protocol, "FILES_PORT", 0)
    guest = Guest()
    yield guest
    guest.workspace.drop()
    guest.workspace._listener.close()
    for client in guest.clients:
        client.close()


def received(client: socket.socket) -> bytes:
    """One packet, b"" at the end."""
    head = client.recv(4, socket.MSG_WAITALL)
    return client.recv(struct.unpack(">I", head)[0], socket.MSG_WAITALL) if head else b""


def test_a_request_gets_its_answer_from_the_folder(guest: Guest, root: Path) -> None:
    async def go() -> bytes:
        answered = asyncio.Event()

        def send(stream: bytes, packet: bytes) -> None:
            guest.workspace.from_host(stream, memoryview(packet))
            answered.set()

        serving = Serving(Jail(root), send)
        guest.host = serving.take
        guest.workspace.serve(True)
        client = guest.connect()
        guest.ask(client, lstat(b"/file"))
        async with asyncio.timeout(SECONDS):
            await answered.wait()
        serving.close()
        assert received(client)[:1] == b"i"
        return received(client)

    assert asyncio.run(go()) == b""  # the end of the serving is the end of the connection


def test_what_is_asked_before_a_host_is_there_waits_for_it(guest: Guest) -> None:
    guest.workspace.serve(True)
    client = guest.connect()
    guest.ask(client, lstat(b"/file"))
    assert guest.carried == []
    guest.host = lambda stream, packet: None
    guest.workspace.drop(unasked=False)  # as for every host that attaches
    guest.workspace.serve(True)
    [(stream, packet)] = guest.carried
    assert packet == framed(lstat(b"/file"))
    guest.workspace.from_host(b"another", memoryview(framed(b"no answer")))
    guest.workspace.from_host(stream, memoryview(framed(b"answer")))
    assert received(client) == b"answer"


def test_who_waits_too_long_is_told(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    guest.host = lambda stream, packet: None
    guest.workspace.serve(True)
    waiting, idle = guest.connect(), guest.connect()
    assert guest.workspace.deadline() is None
    guest.ask(waiting, lstat(b"/file"))
    due = guest.workspace.deadline()
    assert due is not None
    guest.workspace.expire()
    guest.ask(waiting, lstat(b"/more"))
    monkeypatch.setattr(workspace, "ANSWER_SECONDS", 0.0)
    guest.workspace.expire()
    assert received(waiting) == b""
    assert guest.workspace.deadline() is None
    assert guest.carried[-1] == (guest.carried[0][0], b"")
    guest.ask(idle, lstat(b"/file"))  # is not affected
    assert guest.carried[-1][1] == framed(lstat(b"/file"))


@pytest.mark.parametrize("begun", [True, False])
def test_another_life_of_the_machine_knows_nothing_of_the_one_before(guest: Guest, begun: bool) -> None:
    guest.host = (lambda stream, packet: None) if begun else None
    guest.workspace.serve(True)
    client = guest.connect()
    guest.ask(client, lstat(b"/file"))
    guest.workspace.drop()
    assert received(client) == b""
    again = guest.connect()
    guest.host = lambda stream, packet: None
    guest.ask(again, lstat(b"/file"))
    assert len({stream for stream, _ in guest.carried}) == 1 + begun


def test_without_a_folder_there_is_an_empty_one_that_takes_nothing(guest: Guest) -> None:
    client = guest.connect()
    client.sendall(INIT)
    guest.turn()
    assert received(client)[:5] == struct.pack(">BI", 2, 3)
    for path in (b"/", b".", b""):
        guest.ask(client, lstat(path, 9))
        assert received(client) == struct.pack(">BIII", 105, 9, 4, 0o40755)
    guest.ask(client, lstat(b"/file", 9))
    assert received(client) == struct.pack(">BIIII", 101, 9, 2, 0, 0)
    guest.ask(client, struct.pack(">BII", 11, 10, 1) + b"/")
    handle = received(client)[5:]
    guest.ask(client, struct.pack(">BI", 12, 11) + handle)
    assert received(client) == struct.pack(">BIIII", 101, 11, 1, 0, 0)
    guest.ask(client, struct.pack(">BI", 4, 12) + handle)
    assert received(client) == struct.pack(">BIIII", 101, 12, 0, 0, 0)
    for kind in (3, 13, 14, 15, 18, 200):
        guest.ask(client, struct.pack(">BII", kind, 13, 4) + b"/new")
        assert received(client) == struct.pack(">BIIII", 101, 13, 3, 0, 0)
    guest.workspace.serve(True)  # now there is one, which knows nothing of that
    assert received(client) == b""


def test_without_a_folder_all_that_is_asked_at_once_is_answered(guest: Guest) -> None:
    client = guest.connect()
    count = 2 * workspace.MAX_ON_THEIR_WAY + 1
    client.sendall(b"".join(framed(lstat(b"/", number)) for number in range(count)))
    guest.turn()
    numbers = [struct.unpack_from(">BI", received(client))[1] for _ in range(count)]
    assert numbers == list(range(count))


@pytest.mark.parametrize("size", [0, protocol.MAX_PACKET + 1, 2**32 - 1])
def test_what_is_no_packet_ends_the_connection(guest: Guest, size: int) -> None:
    client = guest.connect()
    client.sendall(struct.pack(">I", size) + b"x")
    guest.turn()
    assert received(client) == b""


def test_there_is_an_end_to_what_the_agent_takes(guest: Guest) -> None:
    guest.host = lambda stream, packet: None
    guest.workspace.serve(True)
    client = guest.connect()
    asked = [framed(lstat(b"/file", number)) for number in range(workspace.MAX_ON_THEIR_WAY + 3)]
    client.sendall(b"".join(asked))
    guest.turn()
    [(stream, packets)] = guest.carried
    assert packets == b"".join(asked[:-3])
    assert 0 in guest.workspace.watched().values()
    guest.workspace.from_host(stream, memoryview(framed(b"answer") * 2))
    assert guest.carried[1:] == [(stream, b"".join(asked[-3:-1]))]
    guest.workspace.from_host(stream, memoryview(framed(b"answer") * 2))
    assert guest.carried[2:] == [(stream, asked[-1])]
    assert 0 not in guest.workspace.watched().values()
    assert [received(client) for _ in range(4)] == [b"answer"] * 4
    for _ in range(workspace.MAX_CONNECTIONS - 1):
        guest.connect()
    assert received(guest.connect()) == b""


def test_who_hangs_up_asks_for_nothing_more(guest: Guest) -> None:
    guest.host = lambda stream, packets: None
    guest.workspace.serve(True)
    client = guest.connect()
    client.sendall(framed(lstat(b"/file")) * (workspace.MAX_ON_THEIR_WAY + 1))
    guest.turn()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    [(stream, _)] = guest.carried
    guest.workspace.from_host(stream, memoryview(framed(b"answer")))
    assert guest.carried[1:] == [(stream, b"")]


class Sent:
    """What a serving has sent, and a wait for it."""

    def __init__(self) -> None:
        self.packets: list[tuple[bytes, bytes]] = []
        self.came = asyncio.Event()

    def __call__(self, stream: bytes, packet: bytes) -> None:
        self.packets.append((stream, packet))
        self.came.set()

    async def wait(self, count: int) -> None:
        async with asyncio.timeout(SECONDS):
            while len(self.packets) < count:
                self.came.clear()
                await self.came.wait()


def test_a_guest_that_asks_for_too_much_is_cut_off(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        held = threading.Event()
        answer = sftp.Session.answer

        def slow(session: sftp.Session, packet: bytes) -> bytes:
            held.wait(SECONDS)
            return answer(session, packet)

        monkeypatch.setattr(sftp.Session, "answer", slow)
        sent = Sent()
        served = Serving(Jail(root), sent)
        for number in range(serving.MAX_WAITING + 10):
            served.take(STREAM, framed(lstat(b"file", number)))
        assert (STREAM, b"") in sent.packets
        held.set()
        for number, data in enumerate(NO_PACKETS):
            served.take(b"%d" % number, data)
            assert sent.packets[-1] == (b"%d" % number, b"")
        served.close()

    asyncio.run(go())


def test_what_is_asked_at_once_is_answered_at_once_unless_it_is_much(root: Path) -> None:
    async def go() -> None:
        sent = Sent()
        served = Serving(Jail(root), sent)
        (root / "large").write_bytes(bytes(sftp.MAX_READ))
        opened = struct.pack(">BII", 3, 1, 5) + b"large" + struct.pack(">II", 1, 0)
        served.take(STREAM, framed(lstat(b"file", 7)) + framed(lstat(b"none", 8)) + framed(opened))
        await sent.wait(1)
        [(_, answers)] = sent.packets
        found = [answers[start:end] for start, end in protocol.packets(answers)]
        assert [struct.unpack_from(">BI", answer) for answer in found] == [(105, 7), (101, 8), (102, 1)]
        read = framed(struct.pack(">BI", 5, 9) + found[2][5:] + struct.pack(">QI", 0, sftp.MAX_READ))
        served.take(STREAM, read * 2)
        await sent.wait(3)
        assert [len(answers) for _, answers in sent.packets[1:]] == [4 + 9 + sftp.MAX_READ] * 2
        served.close()

    asyncio.run(go())


def test_only_so_many_connections_are_served(root: Path) -> None:
    async def go() -> None:
        sent = Sent()
        served = Serving(Jail(root), sent)
        for number in range(serving.MAX_STREAMS + 1):
            served.take(b"%d" % number, framed(lstat(b"file")))
        await sent.wait(serving.MAX_STREAMS + 1)
        assert [stream for stream, packet in sent.packets if not packet] == [b"%d" % serving.MAX_STREAMS]
        served.take(b"0", b"")
        served.take(b"new", framed(lstat(b"file")))
        await sent.wait(serving.MAX_STREAMS + 2)
        assert sent.packets[-1][1]
        served.take(b"1", framed(b"\x03"))  # what cannot be answered ends its stream
        await sent.wait(serving.MAX_STREAMS + 3)
        assert sent.packets[-1] == (b"1", b"")
        served.close()
        served.close()
        assert {stream for stream, packet in sent.packets[-4:] if not packet} == {b"1", b"2", b"3", b"new"}

    asyncio.run(go())
