"""The host's end of the link, against sockets in the place of an agent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
import zmq
import zmq.asyncio

from jupyter_vsandbox.domain.model import Endpoint
from jupyter_vsandbox.guest import protocol
from jupyter_vsandbox.guest.protocol import framed
from jupyter_vsandbox.link import AgentLink, client, new_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

SECONDS = 10.0
STREAM = b"12345678"


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (  # as a guest of now speaks
            [[STREAM + framed(b"a") + framed(b"b")], [STREAM]],
            [[STREAM + framed(b"A") + framed(b"B")], [STREAM]],
        ),
        (  # as one of version 3 does
            [[protocol.FILES, STREAM, b"a"], [protocol.FILES, STREAM, b"b"], [protocol.FILES, STREAM, b""]],
            [[protocol.FILES, STREAM, b"A"], [protocol.FILES, STREAM, b"B"], [protocol.FILES, STREAM, b""]],
        ),
    ],
)
def test_about_files_it_speaks_as_the_guest_does(
    asked: Sequence[Sequence[bytes]], answered: Sequence[Sequence[bytes]]
) -> None:
    async def go() -> None:
        keys = new_keys()
        with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as agent:
            agent.linger = 0
            agent.curve_server = True
            agent.curve_secretkey = keys.server_secret.encode()
            port = agent.bind_to_random_port("tcp://127.0.0.1")
            came: list[tuple[bytes, bytes]] = []
            ended = asyncio.Event()

            def take(stream: bytes, packets: bytes) -> None:
                came.append((stream, packets))
                if not packets:
                    ended.set()

            async with (
                AgentLink(Endpoint("127.0.0.1", port), keys, on_files=take) as link,
                asyncio.timeout(SECONDS),
            ):
                await link._socket.send_multipart(protocol.pack({}))  # says who is there
                peer, *_ = await agent.recv_multipart()
                for frames in asked:
                    await agent.send_multipart([peer, *frames])
                await ended.wait()
                assert {stream for stream, _ in came} == {STREAM}
                assert b"".join(packets for _, packets in came) == framed(b"a") + framed(b"b")
                link.send_files(STREAM, framed(b"A") + framed(b"B"))
                link.send_files(STREAM, b"")
                for frames in answered:
                    assert (await agent.recv_multipart())[1:] == list(frames)

    asyncio.run(go())


def test_a_guest_that_takes_nothing_does_not_fill_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_MAX_UNTAKEN", 1 << 20)
    packets, count = framed(bytes(100_000)), 1000

    async def go() -> None:
        keys = new_keys()
        with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as agent:
            agent.linger, agent.rcvhwm = 0, 1
            agent.curve_server = True
            agent.curve_secretkey = keys.server_secret.encode()
            port = agent.bind_to_random_port("tcp://127.0.0.1")
            async with (
                AgentLink(Endpoint("127.0.0.1", port), keys) as link,
                asyncio.timeout(3 * SECONDS),
            ):
                await link._socket.send_multipart(protocol.pack({}))
                await agent.recv_multipart()
                for _ in range(count):
                    link.send_files(STREAM, packets)
                    await asyncio.sleep(0)
                taken = 0
                while await agent.poll(1000):
                    await agent.recv_multipart()
                    taken += 1
                assert 10 < taken < count / 2
                link.send_files(STREAM, packets)  # there is room again
                assert (await agent.recv_multipart())[1] == STREAM + packets

    asyncio.run(go())
