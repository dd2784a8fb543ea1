"""A real Jupyter server, and cells over its websockets as a browser sends them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tornado.websocket import WebSocketClientConnection

    from tests.conftest import Until

SECONDS = 120.0
TOKEN = "secret"


@dataclass
class Server:
    """A running Jupyter server.

    Attributes:
        url: where it answers.
        process: its process.
        log: what it says.
    """

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """One REST call; the answer's JSON."""
        answer = await AsyncHTTPClient().fetch(
            f"{self.url}api/{path}",
            method=method,
            headers={"Authorization": f"token {TOKEN}"},
            body=None if body is None else json.dumps(body),
            allow_nonstandard_methods=True,
            request_timeout=SECONDS,
        )
        return json.loads(answer.body) if answer.body else None

    async def open(self, path: str, kernel: str) -> Any:
        """Open a notebook in its folder: its session."""
        name = Path(path).name
        return await self.call(
            "POST", "sessions", {"path": path, "name": name, "type": "notebook", "kernel": {"name": kernel}}
        )

    async def channels(self, kernel_id: str) -> WebSocketClientConnection:
        """The websocket of a kernel."""
        url = f"ws{self.url.removeprefix('http')}api/kernels/{kernel_id}/channels?token={TOKEN}"
        return await websocket_connect(url)

    def stop(self) -> None:
        """End it as a service manager does."""
        self.process.terminate()
        self.process.wait(SECONDS)


@contextlib.contextmanager
def served(folder: Path, until: Until) -> Iterator[Server]:
    """A server on loopback with a token, whose notebooks are in `folder`."""
    log = folder.parent / "server.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter_server", "--port=0", "--ip=127.0.0.1", "--no-browser"),
                *(f"--ServerApp.root_dir={folder}", f"--IdentityProvider.token={TOKEN}", "--allow-root"),
            ],
            cwd=folder,
            stdout=file,
            stderr=file,
        )
    try:
        info = Path(os.environ["JUPYTER_RUNTIME_DIR"]) / f"jpserver-{process.pid}.json"
        until(lambda: info.exists() or process.poll() is not None, SECONDS)
        assert process.poll() is None, log.read_text()
        told = json.loads(info.read_text())
        until(lambda: _listens(told["port"]), SECONDS)  # it tells where before it does
        yield Server(told["url"], process, log)
    finally:
        process.terminate()
        process.wait(SECONDS)


def _listens(port: int) -> bool:
    with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


async def send(
    websocket: WebSocketClientConnection, kind: str, content: dict[str, Any], channel: str = "shell"
) -> str:
    """Send a message; its id."""
    header = {"msg_id": uuid.uuid4().hex, "msg_type": kind, "session": "test", "version": "5.3"}
    request = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": channel}
    await websocket.write_message(json.dumps(request | {"buffers": []}))
    return str(header["msg_id"])


async def begin(websocket: WebSocketClientConnection, code: str, *, allow_stdin: bool = False) -> str:
    """Send a cell; the request's id."""
    content = {"code": code, "silent": False, "store_history": True, "allow_stdin": allow_stdin}
    return await send(websocket, "execute_request", content)


async def execute(
    websocket: WebSocketClientConnection, code: str, wait_for: str = "idle"
) -> list[dict[str, Any]]:
    """Run a cell; everything about it up to status idle, or to the first message of another type."""
    return await answers(websocket, await begin(websocket, code), wait_for)


async def answers(websocket: WebSocketClientConnection, request: str, *wait_for: str) -> list[dict[str, Any]]:
    """Messages about one request, until each of what is waited for was among them."""
    found: list[dict[str, Any]] = []
    missing = set(wait_for)
    async with asyncio.timeout(SECONDS):
        while missing:
            text = await websocket.read_message()
            assert isinstance(text, str), "the server closed the websocket"
            message = json.loads(text)
            if message["parent_header"].get("msg_id") == request:
                found.append(message)
                missing -= {message["msg_type"], message["content"].get("execution_state")}
    return found


def printed(messages: list[dict[str, Any]]) -> str:
    """What a cell printed."""
    return "".join(message["content"]["text"] for message in messages if message["msg_type"] == "stream")
