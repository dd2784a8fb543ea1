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

from jupyter_vsandbox.domain.errors import Exhausted
from jupyter_vsandbox.guest.protocol import DELIMITER
from jupyter_vsandbox.kernel.relay import PORTS, Delivery, Relay
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
        self.asleep = False

    async def ready_for(self, msg_type, code, *, passive):
        if msg_type == "shutdown_request":
            return Delivery.NEVER
        return Delivery.ON_WAKING if self.asleep and passive else Delivery.NOW

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


async def test_a_cell_waits_until_a_kernel_that_was_put_back_has_answered(folder):
    session = Session(key=KEY)
    async with relayed(folder) as (relay, kernel), client(relay, "shell", b"one") as shell:
        await relay.rewound()
        await relay.hold_cells()
        _, asked = await kernel.next()
        parent = {"header": session.unpack(asked[2])}
        assert parent["header"]["msg_type"] == "kernel_info_request"
        cell = session.msg("execute_request", {})
        await shell.send_multipart(session.serialize(cell))
        async with client(relay, "control", b"two") as control:
            # What is no cell goes on meanwhile; and when it has arrived, the cell has as well.
            await control.send_multipart(message(session, "debug_request"))
            assert (await kernel.next())[0] == b"control"
        assert kernel.messages.empty()
        assert relay.waiting, "a machine that falls asleep meanwhile is woken"
        await relay.ask_again(taken=0, cells=0)
        assert (await kernel.next())[0] == b"control"
        _, asked = await kernel.next()
        relay.from_kernel(b"shell", answer(session, parent, "kernel_info_reply", {}, b""))
        assert kernel.messages.empty(), "that was the answer to the first question"
        parent = {"header": session.unpack(asked[2])}
        relay.from_kernel(b"shell", answer(session, parent, "kernel_info_reply", {}, b""))
        assert cell["msg_id"].encode() in (await kernel.next())[1][3]
        assert await shell.poll(100) == 0, "the answer is nobody's but the relay's"


async def test_a_kernel_that_is_gone_holds_no_cell(folder):
    session = Session(key=KEY)
    async with relayed(folder) as (relay, kernel), client(relay, "shell", b"one") as shell:
        await relay.hold_cells()
        await kernel.next()
        relay.forget()
        await shell.send_multipart(message(session))
        assert b"execute_request" in (await kernel.next())[1][3]


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


def answer(session, sent, kind, content, ident):
    return framed(*session.serialize(session.msg(kind, content, parent=sent["header"]), ident=ident))


async def _send(shell, kernel, session, kind):
    sent = session.msg(kind, {})
    await shell.send_multipart(session.serialize(sent))
    await kernel.next()
    return sent


async def test_a_cell_is_done_when_its_reply_and_idle_have_come(folder):
    session = Session(key=KEY)
    async with relayed(folder) as (relay, kernel), client(relay, "shell", b"one") as shell:
        for order in ((b"shell", b"iopub"), (b"iopub", b"shell")):
            sent = await _send(shell, kernel, session, "execute_request")
            parts = {
                b"shell": answer(session, sent, "execute_reply", {"status": "ok"}, b"one"),
                b"iopub": answer(session, sent, "status", {"execution_state": "idle"}, b"status"),
            }
            before = kernel.dones
            busy = answer(session, sent, "status", {"execution_state": "busy"}, b"status")
            relay.from_kernel(b"iopub", busy)
            relay.from_kernel(order[0], parts[order[0]])
            assert (relay.in_cell, kernel.dones) == (True, before)
            relay.from_kernel(order[1], parts[order[1]])
            assert (relay.in_cell, kernel.dones) == (False, before + 1)


async def test_a_cell_of_a_kernel_that_never_tells_that_it_is_idle_is_done_with_the_next(folder):
    session = Session(key=KEY)
    async with relayed(folder) as (relay, kernel), client(relay, "shell", b"one") as shell:
        for kind in ("execute_request", "comm_msg", "kernel_info_request"):
            sent = await _send(shell, kernel, session, kind)
            if kind != "comm_msg":
                relay.from_kernel(b"shell", answer(session, sent, "any_reply", {}, b"one"))
        assert not relay.in_cell
        assert not relay.waiting


async def test_what_a_machine_that_fell_asleep_may_not_have_got_is_asked_again_but_no_cell(folder):
    session = Session(key=KEY)
    async with relayed(folder) as (relay, kernel), client(relay, "shell", b"one") as shell:
        cell = await _send(shell, kernel, session, "execute_request")
        assert (relay.in_cell, relay.waiting) == (True, True)
        relay.from_kernel(b"iopub", answer(session, cell, "status", {"execution_state": "busy"}, b"status"))
        assert (relay.in_cell, relay.waiting) == (True, False), "it has begun, and goes on after a sleep"
        comm = await _send(shell, kernel, session, "comm_msg")
        question = await _send(shell, kernel, session, "complete_request")
        assert relay.waiting
        await relay.ask_again(taken=1, cells=1)
        asked = b"".join([*(await kernel.next())[1], *(await kernel.next())[1]]).decode()
        assert kernel.messages.empty()
        assert comm["header"]["msg_id"] in asked
        assert question["header"]["msg_id"] in asked
        assert cell["header"]["msg_id"] not in asked
        idle = answer(session, comm, "status", {"execution_state": "idle"}, b"status")
        relay.from_kernel(b"iopub", idle)
        relay.from_kernel(b"shell", answer(session, question, "complete_reply", {}, b"one"))
        assert not relay.waiting


async def test_a_cell_that_was_on_its_way_to_a_machine_that_fell_asleep_is_sent_again(folder):
    session = Session(key=KEY)
    async with relayed(folder) as (relay, kernel), client(relay, "shell", b"one") as shell:
        relay.count_from(7)
        done = await _send(shell, kernel, session, "execute_request")
        relay.from_kernel(b"shell", answer(session, done, "execute_reply", {}, b"one"))
        await shell.recv_multipart()
        running, *lost = [await _send(shell, kernel, session, "execute_request") for _ in range(3)]
        for _ in range(2):  # it may fall asleep on the way once more
            await relay.ask_again(taken=9, cells=1)
            again = [b"".join((await kernel.next())[1]).decode() for _ in lost]
            assert all(cell["header"]["msg_id"] in sent for cell, sent in zip(lost, again, strict=True))
            assert kernel.messages.empty()
        await relay.ask_again(taken=11, cells=3)
        assert kernel.messages.empty()
        assert running["header"]["msg_id"] not in again


async def test_a_cell_whose_answer_was_lost_as_the_machine_fell_asleep_is_not_run_again(folder):
    session = Session(key=KEY)
    async with relayed(folder) as (relay, kernel), client(relay, "shell", b"one") as shell:
        sent = await _send(shell, kernel, session, "execute_request")
        before = kernel.dones
        await relay.ask_again(taken=1, cells=0)
        reply = session.deserialize(session.feed_identities(await shell.recv_multipart())[1])
        assert (reply["content"]["status"], reply["content"]["ename"]) == ("error", "OutcomeUnknown")
        assert reply["parent_header"]["msg_id"] == sent["header"]["msg_id"]
        assert (relay.in_cell, kernel.dones) == (False, before + 1)
        assert kernel.messages.empty()


async def test_a_kernel_that_sleeps_is_introduced_and_asked_the_rest_when_it_wakes(folder):
    session = Session(key=KEY)
    async with (
        relayed(folder) as (relay, kernel),
        client(relay, "shell", b"one") as shell,
        client(relay, "control", b"two") as control,
        client(relay, "iopub") as iopub,
    ):
        await iopub.recv_multipart()  # the welcome
        first = await _send(shell, kernel, session, "kernel_info_request")
        told = {"status": "ok", "implementation": "ipython"}
        relay.from_kernel(b"shell", answer(session, first, "kernel_info_reply", told, b"one"))
        await shell.recv_multipart()

        kernel.asleep = True
        widgets = session.msg("comm_info_request", {})
        await shell.send_multipart(session.serialize(widgets))
        asked = session.msg("kernel_info_request", {})
        await control.send_multipart(session.serialize(asked))
        reply = session.deserialize(session.feed_identities(await control.recv_multipart())[1])
        assert (reply["msg_type"], reply["content"]) == ("kernel_info_reply", told)
        frames = [await iopub.recv_multipart() for _ in range(3)]
        published = [session.deserialize(session.feed_identities(each)[1]) for each in frames]
        states = {asked["msg_id"]: [], widgets["msg_id"]: []}
        for each in published:
            states[each["parent_header"]["msg_id"]].append(each["content"]["execution_state"])
        assert states == {asked["msg_id"]: ["busy", "idle"], widgets["msg_id"]: ["idle"]}
        assert reply["parent_header"]["msg_id"] == asked["msg_id"]
        assert kernel.messages.empty()
        assert not relay.waiting

        await relay.ask_again(taken=0, cells=0)
        channel, arrived = await kernel.next()
        assert (channel, widgets["msg_id"] in b"".join(arrived).decode()) == (b"shell", True)
        assert kernel.messages.empty()


async def test_asking_for_widgets_wakes_no_machine_and_using_one_does(folder):
    session = Session(key=KEY)

    async def say(kind, comm, **content):
        sent = session.msg(kind, {"comm_id": comm, "data": {}, **content})
        await shell.send_multipart(session.serialize(sent))
        return sent["msg_id"]

    async with relayed(folder) as (relay, kernel), client(relay, "shell", b"one") as shell:
        kernel.asleep = True
        kept = [
            await say("create_subshell_request", "a"),
            await say("comm_open", "a", target_name="jupyter.widget.control"),
            await say("comm_msg", "a"),
            await say("comm_close", "a"),
        ]
        for kind, comm in (("comm_msg", "a"), ("comm_msg", "b"), ("comm_open", "b"), ("comm_msg", "b")):
            used = await say(kind, comm, target_name="jupyter.widget")
            _, arrived = await kernel.next()
            assert used in b"".join(arrived).decode()
        assert kernel.messages.empty()
        await relay.ask_again(taken=0, cells=0)
        for asked in kept:
            assert asked in b"".join((await kernel.next())[1]).decode()


async def test_what_cannot_be_delivered_is_answered_with_the_error(folder):
    session = Session(key=KEY)
    async with (
        relayed(folder) as (relay, kernel),
        client(relay, "shell") as shell,
        client(relay, "iopub") as iopub,
    ):
        await iopub.recv_multipart()  # the welcome

        async def never(msg_type, code, *, passive):
            raise Exhausted("There is no memory.")

        kernel.ready_for = never
        sent = session.msg("execute_request", {})
        await shell.send_multipart(session.serialize(sent))
        frames = [await iopub.recv_multipart() for _ in range(3)]
        published = [session.deserialize(session.feed_identities(each)[1]) for each in frames]
        reply = session.deserialize(session.feed_identities(await shell.recv_multipart())[1])
        assert [each["msg_type"] for each in published] == ["status", "error", "status"]
        assert published[-1]["content"]["execution_state"] == "idle"
        content = {"status": reply["content"]["status"], "evalue": reply["content"]["evalue"]}
        assert content == {"status": "error", "evalue": "There is no memory."}
        assert {each["parent_header"]["msg_id"] for each in [*published, reply]} == {sent["msg_id"]}


async def test_a_notice_is_printed_by_the_first_cell_alone(folder):
    session = Session(key=KEY)
    async with (
        relayed(folder) as (relay, kernel),
        client(relay, "shell") as shell,
        client(relay, "iopub") as iopub,
    ):
        await iopub.recv_multipart()  # the welcome
        relay.notice = "This is a new machine."
        await _send(shell, kernel, session, "kernel_info_request")
        cells = [await _send(shell, kernel, session, "execute_request") for _ in range(2)]
        printed = session.deserialize(session.feed_identities(await iopub.recv_multipart())[1])
        assert printed["content"] == {"name": "stderr", "text": "This is a new machine.\n"}
        assert printed["parent_header"]["msg_id"] == cells[0]["msg_id"]
        assert await iopub.poll(100) == 0
