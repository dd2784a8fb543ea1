"""Cells run in a sandbox's kernel over the link to its agent, without Jupyter."""

from __future__ import annotations

import ast
import asyncio
from typing import TYPE_CHECKING, Any

from jupyter_client.session import Session

from jupyter_vsandbox.link.client import AgentLink

if TYPE_CHECKING:
    from collections.abc import Sequence

    import zmq

    from jupyter_vsandbox.domain.model import Endpoint, LinkKeys

ANSWER_SECONDS = 60.0


async def ask(
    endpoint: Endpoint, keys: LinkKeys, code: str, value: str = "None", seconds: float = ANSWER_SECONDS
) -> dict[str, Any]:
    """What the kernel, started if there is none, replies to a cell; asked for an expression's value, too."""
    session = Session(key=b"")
    replied = asyncio.get_running_loop().create_future()

    def receive(channel: bytes, frames: Sequence[zmq.Frame]) -> None:
        if channel == b"shell" and not replied.done():
            _, parts = session.feed_identities([frame.bytes for frame in frames])
            replied.set_result(session.deserialize(parts)["content"])

    async with AgentLink(endpoint, keys, on_kernel=receive) as link:
        if not (await link.request("attach", timeout=seconds))["alive"]:
            await link.request("start_kernel", timeout=seconds)
        content = {
            "code": code,
            "silent": False,
            "store_history": False,
            "allow_stdin": False,
            "user_expressions": {"value": value},
        }
        await link.send(b"shell", session.serialize(session.msg("execute_request", content)))
        async with asyncio.timeout(seconds):
            return dict(await replied)


async def run(endpoint: Endpoint, keys: LinkKeys, code: str, seconds: float = ANSWER_SECONDS) -> str:
    """Run code; "ok", or the error's name."""
    answer = await ask(endpoint, keys, code, seconds=seconds)
    return str(answer.get("ename", answer["status"]))


async def evaluate(endpoint: Endpoint, keys: LinkKeys, code: str, value: str) -> Any:
    """Run code, then return the value of an expression made of literals."""
    answer = await ask(endpoint, keys, code, value)
    return ast.literal_eval(answer["user_expressions"]["value"]["data"]["text/plain"])
