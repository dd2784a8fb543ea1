"""One notebook, unchanged, through the clients that people run notebooks with."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pexpect
import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

from jupyter_vsandbox.domain.model import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tornado.websocket import WebSocketClientConnection

    from tests.conftest import Home, Until

pytestmark = pytest.mark.machine

KERNEL = "vsandbox-python-3.11"
SECONDS = 120.0
CELLS = (
    "import socket\nhost = socket.gethostname()",
    "import pandas\nprint(pandas.Series([40, 2]).sum(), host)",
)
TOKEN = "secret"


@pytest.fixture(scope="module")
def notebook(home: Home) -> Path:
    """The notebook's file."""
    document = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS],
        metadata={
            "kernelspec": {"name": KERNEL, "display_name": "Python 3.11 (sandbox)", "language": "python"}
        },
    )
    folder = home.settings.home.parent / "notebooks"
    folder.mkdir()
    path = folder / "a.ipynb"
    nbformat.write(document, path)
    return path


def assert_ran_in_a_sandbox(text: str) -> None:
    assert text.startswith("42 sandbox-"), text


def run(notebook: Path, *command: str) -> None:
    """Run a module's program in the notebook's folder."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=notebook.parent,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_nbclient(notebook: Path) -> None:
    output = notebook.with_name("nbclient.ipynb")
    run(notebook, "jupyter", "execute", str(notebook), f"--output={output.stem}")
    cell = nbformat.read(output, as_version=4).cells[-1]
    assert_ran_in_a_sandbox(cell.outputs[0].text)


def test_papermill(notebook: Path) -> None:
    output = notebook.with_name("papermill.ipynb")
    run(notebook, "papermill", "--no-progress-bar", str(notebook), str(output))
    cell = nbformat.read(output, as_version=4).cells[-1]
    assert_ran_in_a_sandbox(cell.outputs[0].text)


def test_jupyter_console(notebook: Path) -> None:
    cells = [cell.source for cell in nbformat.read(notebook, as_version=4).cells]
    console = pexpect.spawn(
        sys.executable,
        ["-m", "jupyter", "console", "--simple-prompt", f"--kernel={KERNEL}"],
        timeout=SECONDS,
        encoding="utf-8",
        cwd=str(notebook.parent),
    )
    try:
        for line in "\n".join(cells).splitlines():
            console.expect(r"In \[\d+\]: ")
            console.sendline(line)
        console.expect(r"42 sandbox-\w+\s")
        console.expect(r"In \[\d+\]: ")
        console.sendline("quit")
        console.expect(pexpect.EOF)
    finally:
        console.close(force=True)


@dataclass
class Server:
    """A running Jupyter server."""

    url: str

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

    async def channels(self, kernel_id: str) -> WebSocketClientConnection:
        """The websocket of a kernel."""
        url = f"ws{self.url.removeprefix('http')}api/kernels/{kernel_id}/channels?token={TOKEN}"
        return await websocket_connect(url)


@pytest.fixture
def server(notebook: Path, home: Home, until: Until) -> Iterator[Server]:
    """A real server, on loopback with a token, in the notebook's folder."""
    runtime = Path(os.environ["JUPYTER_RUNTIME_DIR"])
    log = home.settings.home.parent / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter_server", "--port=0", "--ip=127.0.0.1", "--no-browser"),
                *(
                    f"--ServerApp.root_dir={notebook.parent}",
                    f"--IdentityProvider.token={TOKEN}",
                    "--allow-root",
                ),
            ],
            cwd=notebook.parent,
            stdout=file,
            stderr=file,
        )
    try:
        info = runtime / f"jpserver-{process.pid}.json"
        until(lambda: info.exists() or process.poll() is not None, SECONDS)
        assert process.poll() is None, log.read_text()
        yield Server(json.loads(info.read_text())["url"])
    finally:
        process.terminate()
        process.wait(SECONDS)


async def execute(
    socket: WebSocketClientConnection, code: str, wait_for: str = "idle"
) -> list[dict[str, Any]]:
    """Run a cell; everything about it up to status idle, or to the first message of another type."""
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": "test", "version": "5.3"}
    content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
    request = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    await socket.write_message(json.dumps(request | {"buffers": []}))
    return await answers(socket, header["msg_id"], wait_for)


async def answers(socket: WebSocketClientConnection, request: str, wait_for: str) -> list[dict[str, Any]]:
    """Messages about one request, up to the one that is waited for."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(SECONDS):
        while True:
            text = await socket.read_message()
            assert isinstance(text, str), "the server closed the websocket"
            message = json.loads(text)
            if message["parent_header"].get("msg_id") != request:
                continue
            found.append(message)
            if wait_for in {message["msg_type"], message["content"].get("execution_state")}:
                return found


def printed(messages: list[dict[str, Any]]) -> str:
    return "".join(message["content"]["text"] for message in messages if message["msg_type"] == "stream")


async def test_server(server: Server, notebook: Path, home: Home) -> None:
    session = await server.call(
        "POST",
        "sessions",
        {"path": notebook.name, "name": notebook.name, "type": "notebook", "kernel": {"name": KERNEL}},
    )
    kernel_id = session["kernel"]["id"]
    socket = await server.channels(kernel_id)
    try:
        for cell in nbformat.read(notebook, as_version=4).cells:
            messages = await execute(socket, cell.source)
        assert_ran_in_a_sandbox(printed(messages))
        [sandbox] = home.records()
        assert sandbox.kernel_id == kernel_id
        assert sandbox.notebook.endswith(notebook.name)

        begun = await execute(socket, "print('begun', flush=True)\nwhile True:\n    pass", "stream")
        await server.call("POST", f"kernels/{kernel_id}/interrupt")
        messages = await answers(socket, begun[0]["parent_header"]["msg_id"], "idle")
        assert "KeyboardInterrupt" in {m["content"].get("ename") for m in messages}
        assert_ran_in_a_sandbox(printed(await execute(socket, "print(42, host)")))

        await server.call("POST", f"kernels/{kernel_id}/restart")
        assert printed(await execute(socket, "print('host' in globals())")) == "False\n"
        assert [s.id for s in home.records()] == [sandbox.id]
    finally:
        socket.close()

    await server.call("DELETE", f"sessions/{session['id']}")
    assert home.processes() == []
    [kept] = home.records()
    assert (kept.id, kept.state, kept.owner) == (sandbox.id, State.STOPPED, "")


async def test_a_server_that_ends_takes_its_kernels_along(server: Server) -> None:
    kernel = await server.call("POST", "kernels", {"name": KERNEL})
    assert kernel["execution_state"]
    # That nothing is left is seen when the server and the home are closed.
