"""The relay on real sockets: signatures, routing, welcome, and new socket files for old clients."""

from __future__ import annotations

import asyncio
import stat
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import zmq
import zmq.asyncio
from jupyter_client.session import Session

from jupyter_vsandbox.guest.protocol import DELIMITER
from jupyter_vsandbox.kernel.relay import PORTS, Relay
from jupyter_vsandbox.link import context

KEY = b"the key of the connection file"
SECONDS = 10


@pytest.fixture
def folder():
    # pytest's own folders are too long for a unix socket.
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


class Kernel:
    """Stands at the far end of the link and keeps what arrives."""

    def __init__(self):
        self.messages = asyncio.Queue()
        self.dones = 0

    async def ready_for(self, channel, msg_type, code):
        return msg_type != "shutdown_request"

    def cells_done(self):
        self.dones += 1

    async def deliver(self, channel, frames):
        await self.messages.put((channel, [bytes(frame) for frame in frames]))

    async def next(self):
        async with asyncio.timeout(SECONDS):
            return await self.messages.get()


@asynccontextmanager
async def relayed(folder):
    kernel = Kernel()
    relay = Relay(folder, KEY, "hmac-sha256", kernel)
    await relay.open()
    try:
        yield relay, kernel
    finally:
        await relay.close()


@asynccontextmanager
async def client(relay, channel, identity=b"client"):
    socket = context().socket({"iopub": zmq.SUB, "hb": zmq.REQ}.get(channel, zmq.DEALER))
    socket.linger = 0
    socket.rcvtimeo = SECONDS * 1000
    if channel == "iopub":
        socket.subscribe(b"")
    else:
        socket.identity = identity
    socket.connect(f"ipc://{relay.prefix}-{PORTS[channel]}")
    try:
        yield socket
    finally:
        socket.close()


def message(session, msg_type="execute_request", content=None, ident=None):
    return session.serialize(session.msg(msg_type, content or {}), ident=ident)


def framed(*frames):
    return [zmq.Frame(frame) for frame in frames]


def test_a_request_arrives_unsigned_and_its_reply_comes_back_signed(folder):
    async def check():
        session = Session(key=KEY)
        async with (
            relayed(folder) as (relay, kernel),
            client(relay, "shell", b"one") as one,
            client(relay, "shell", b"two"),
        ):
            sent = message(session)
            await one.send_multipart(sent)
            channel, frames = await kernel.next()
            assert channel == b"shell"
            assert frames == [b"one", DELIMITER, b"", *sent[2:]]
            relay.from_kernel(b"shell", framed(b"one", DELIMITER, b"", *sent[2:], b"buffer"))
            reply = await one.recv_multipart()
            _, parts = session.feed_identities(reply)
            assert session.deserialize(parts)["buffers"] == [b"buffer"]

    asyncio.run(check())


@pytest.mark.parametrize(
    "frames",
    [
        message(Session(key=b"another key")),
        message(Session(key=b"")),
        [b"no message at all"],
        [DELIMITER, b"", b"{}"],
    ],
)
def test_what_is_not_signed_with_the_key_goes_nowhere(folder, frames, caplog):
    async def check():
        async with relayed(folder) as (relay, kernel), client(relay, "control") as one:
            await one.send_multipart(frames)
            good = message(Session(key=KEY), "kernel_info_request")
            await one.send_multipart(good)
            _, arrived = await kernel.next()
            assert arrived[3:] == good[2:]
            assert kernel.messages.empty()

    asyncio.run(check())
    assert "Ignored" in caplog.text


def test_a_subscriber_is_welcomed_and_the_kernels_own_welcome_dropped(folder):
    async def check():
        session = Session(key=KEY)
        async with relayed(folder) as (relay, _), client(relay, "iopub") as subscriber:
            _, parts = session.feed_identities(await subscriber.recv_multipart())
            assert session.deserialize(parts)["msg_type"] == "iopub_welcome"
            for msg_type in ("iopub_welcome", "status"):
                relay.from_kernel(b"iopub", framed(*message(Session(key=b""), msg_type, ident=b"topic")))
            _, parts = session.feed_identities(await subscriber.recv_multipart())
            assert session.deserialize(parts)["msg_type"] == "status"

    asyncio.run(check())


def test_the_heart_beats_only_while_the_kernel_lives(folder):
    async def check():
        async with relayed(folder) as (relay, _):
            relay.beating = True
            async with client(relay, "hb") as living:
                await living.send(b"ping")
                assert await living.recv() == b"ping"
            relay.beating = False
            async with client(relay, "hb", b"other") as dead:
                await dead.send(b"ping")
                assert await dead.poll(300) == 0

    asyncio.run(check())


def test_socket_files_come_back_and_connected_clients_stay(folder):
    async def check():
        session = Session(key=KEY)
        async with relayed(folder) as (relay, kernel), client(relay, "shell", b"old") as old:
            await old.send_multipart(message(session))
            await kernel.next()
            for path in folder.iterdir():
                path.unlink()
            relay.rebind()
            assert len(list(folder.iterdir())) == len(PORTS)
            async with client(relay, "shell", b"new") as new:
                await new.send_multipart(message(session))
                assert (await kernel.next())[1][0] == b"new"
            await old.send_multipart(message(session))
            assert (await kernel.next())[1][0] == b"old"

    asyncio.run(check())


def test_sockets_are_their_owners_alone_and_gone_in_the_end(folder):
    async def check():
        async with relayed(folder):
            assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
        assert list(folder.iterdir()) == []

    asyncio.run(check())


async def _ask(folder, what):
    """Ask something, rewind the kernel, and return what the client and the kernel then got."""
    session = Session(key=KEY)
    async with relayed(folder) as (relay, kernel), client(relay, "shell") as shell:
        sent = session.msg(what, {})
        await shell.send_multipart(session.serialize(sent))
        await kernel.next()
        await relay.rewound()
        if what != "execute_request":
            return sent, await kernel.next(), kernel
        frames = await shell.recv_multipart()
        return sent, session.deserialize(session.feed_identities(frames)[1]), kernel


async def test_a_cell_that_a_rollback_cut_off_is_answered_as_aborted(folder):
    sent, reply, kernel = await _ask(folder, "execute_request")
    assert reply["msg_type"] == "execute_reply"
    assert reply["content"]["status"] == "aborted"
    assert reply["parent_header"]["msg_id"] == sent["header"]["msg_id"]
    assert kernel.dones == 1


async def test_a_question_that_a_rollback_cut_off_is_asked_again(folder):
    sent, (channel, frames), _ = await _ask(folder, "complete_request")
    assert channel == b"shell"
    assert sent["header"]["msg_id"].encode() in b"".join(frames)


async def test_message_ids_stay_unique_when_the_kernel_counts_again(folder):
    session = Session(key=KEY)
    again = session.serialize(session.msg("status", {"execution_state": "idle"}))
    ids = set()
    async with relayed(folder) as (relay, _), client(relay, "iopub") as iopub:
        await iopub.recv_multipart()  # the welcome
        for _ in range(3):
            relay.from_kernel(b"iopub", [zmq.Frame(frame) for frame in again])
            frames = await iopub.recv_multipart()
            ids.add(session.deserialize(session.feed_identities(frames)[1])["header"]["msg_id"])
            await relay.rewound()
    assert len(ids) == 3


@pytest.mark.parametrize("header", [b"[]", b"no json", b'{"msg_id": 1}'])
async def test_a_signed_message_without_a_header_does_not_stop_the_relay(folder, header):
    session = Session(key=KEY)
    parts = [header, b"{}", b"{}", b"{}"]
    async with relayed(folder) as (relay, kernel), client(relay, "shell") as shell:
        await shell.send_multipart([DELIMITER, session.sign(parts), *parts])
        await shell.send_multipart(message(session))
        _, frames = await kernel.next()
        assert b"execute_request" in frames[-4]
