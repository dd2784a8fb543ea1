"""Clients that stay usable while the machine under them is snapshotted, rolled back, hibernated and woken."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

import nbformat
import pexpect
import pytest
from nbclient import NotebookClient

from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.model import State
from tests.kernel.server import SECONDS, Server, answers, begin, execute, printed, send, served

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.conftest import Home, Until

pytestmark = pytest.mark.machine

KERNEL = "vsandbox-python-3.11"
# A cell that says when it runs, and can be seen to have been whole.
COUNT = "import time\nn = 0\nprint('begun', flush=True)\nwhile n < 30:\n    n += 1\n    time.sleep(0.1)"
FOR_EVER = "print('begun', flush=True)\nwhile True:\n    time.sleep(0.1)"


@pytest.fixture
def service(home: Home) -> Iterator[SandboxService]:
    with SandboxService(home.settings) as service:
        yield service


@pytest.fixture(scope="module")
def folder(home: Home) -> Path:
    """Where notebooks are."""
    folder = home.settings.home.parent / "notebooks"
    folder.mkdir()
    return folder


def write(path: Path, *cells: str) -> None:
    nodes = [nbformat.v4.new_code_cell(cell) for cell in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=nodes), path)


async def test_a_browser(folder: Path, service: SandboxService, until: Until) -> None:
    write(folder / "a.ipynb", "x = 1")
    with served(folder, until) as server:
        session = await server.open("a.ipynb", KERNEL)
        kernel_id = session["kernel"]["id"]
        [sandbox] = service.list()
        one, other = await server.channels(kernel_id), await server.channels(kernel_id)
        try:
            await execute(one, "x = 1\nimport time, ipywidgets\nslider = ipywidgets.IntSlider()")
            first = await service.snapshot(sandbox.id, "first")
            await _snapshot_in_the_middle(service, sandbox.id, one)
            await _rollback_in_the_middle(service, sandbox.id, first.id, one, other)
            await _rollback_while_it_asks(service, sandbox.id, first.id, one)
            await _hibernate(service, sandbox.id, one, other)
            await _roll_cells_back(service, sandbox.id, server, one)
        finally:
            one.close()
            other.close()
        await server.call("PATCH", "contents/a.ipynb", {"path": "b.ipynb"})
        until(lambda: service.get(sandbox.id).notebook == str(folder / "b.ipynb"))
        await _end_in_the_middle(service, sandbox.id, server)
        assert "Sandbox" not in server.log.read_text().replace(f"Sandbox {sandbox.id} is now that of", "")

    with served(folder, until) as server:
        session = await server.open("b.ipynb", KERNEL)
        assert service.get(sandbox.id).kernel_id == session["kernel"]["id"]
        socket = await server.channels(session["kernel"]["id"])
        try:
            assert printed(await execute(socket, "print(x, n)")) == "1 30\n"
        finally:
            socket.close()
        await server.call("DELETE", f"sessions/{session['id']}")
        assert service.get(sandbox.id).state is State.STOPPED


async def _snapshot_in_the_middle(service: SandboxService, sandbox_id: str, socket: Any) -> None:
    asked = await begin(socket, COUNT)
    await answers(socket, asked, "stream")
    await service.snapshot(sandbox_id, "middle", now=True)
    reply = await answers(socket, asked, "execute_reply", "idle")
    assert "ok" in {message["content"].get("status") for message in reply}
    assert printed(await execute(socket, "print(n)")) == "30\n"


async def _rollback_in_the_middle(
    service: SandboxService, sandbox_id: str, to: str, one: Any, other: Any
) -> None:
    running = await begin(one, f"x = 'lost'\n{FOR_EVER}")
    await answers(one, running, "stream")
    queued = await begin(other, "x = 'never'")
    question = await send(other, "complete_request", {"code": "slid", "cursor_pos": 4})
    await service.rollback(sandbox_id, to)
    for socket, request in ((one, running), (other, queued)):
        [reply] = [
            message
            for message in await answers(socket, request, "execute_reply", "idle")
            if message["msg_type"] == "execute_reply"
        ]
        assert reply["content"]["status"] == "aborted"
    reply = (await answers(other, question, "complete_reply"))[-1]
    assert "slider" in reply["content"]["matches"]
    for socket in (one, other):
        assert printed(await execute(socket, "print(x)")) == "1\n"
    # A widget of before still is what its front end thinks.
    model = printed(await execute(one, "print(slider.model_id)")).strip()
    data = {"method": "update", "state": {"value": 42}, "buffer_paths": []}
    await answers(other, await send(other, "comm_msg", {"comm_id": model, "data": data}), "idle")
    assert printed(await execute(one, "print(slider.value)")) == "42\n"


async def _rollback_while_it_asks(service: SandboxService, sandbox_id: str, to: str, socket: Any) -> None:
    asked = await begin(socket, "name = input('Who? ')", allow_stdin=True)
    await answers(socket, asked, "input_request")
    await service.rollback(sandbox_id, to)
    messages = await answers(socket, asked, "execute_reply", "idle")
    assert "aborted" in {message["content"].get("status") for message in messages}
    await send(socket, "input_reply", {"value": "too late"}, "stdin")
    again = await begin(socket, "name = input('Who? ')", allow_stdin=True)
    await answers(socket, again, "input_request")
    await send(socket, "input_reply", {"value": "Ada"}, "stdin")
    await answers(socket, again, "execute_reply", "idle")
    assert printed(await execute(socket, "print(name, x)")) == "Ada 1\n"


async def _hibernate(service: SandboxService, sandbox_id: str, one: Any, other: Any) -> None:
    await service.hibernate(sandbox_id)
    both = [await begin(each, f"print({number}, x)") for number, each in enumerate((one, other))]
    for number, (socket, request) in enumerate(zip((one, other), both, strict=True)):
        assert printed(await answers(socket, request, "execute_reply", "idle")) == f"{number} 1\n"


async def _roll_cells_back(service: SandboxService, sandbox_id: str, server: Server, socket: Any) -> None:
    taken = await service.snapshot(sandbox_id, "cells")
    opened = await server.call("GET", "contents/a.ipynb")
    opened["content"]["cells"][0]["source"] = "x = 2"
    saved = await server.call(
        "PUT", "contents/a.ipynb", {k: opened[k] for k in ("content", "type", "format")}
    )
    await execute(socket, "x = 2")
    await service.rollback(sandbox_id, taken.id, cells=True)
    now = await server.call("GET", "contents/a.ipynb")
    assert now["content"]["cells"][0]["source"] == "x = 1"
    assert now["last_modified"] > saved["last_modified"]  # by which JupyterLab sees that it changed
    assert printed(await execute(socket, "print(x)")) == "1\n"
    left = service.history(sandbox_id)[-1]
    assert nbformat.read(service.cells_of(left.id), as_version=4).cells[0].source == "x = 2"
    listed = await server.call("GET", "contents")
    assert [each["path"] for each in listed["content"]] == ["a.ipynb"]


async def _end_in_the_middle(service: SandboxService, sandbox_id: str, server: Server) -> None:
    [session] = await server.call("GET", "sessions")
    socket = await server.channels(session["kernel"]["id"])
    await execute(socket, COUNT, "stream")
    await asyncio.to_thread(server.stop)
    socket.close()
    left = service.get(sandbox_id)
    assert (left.state, left.owner) == (State.HIBERNATED, "")


class Traveller(NotebookClient):
    """Awaits a verb whenever a cell prints that it has begun."""

    def __init__(self, document: Any, verbs: dict[int, Callable[[], Awaitable[Any]]]) -> None:
        super().__init__(document, kernel_name=KERNEL, timeout=int(SECONDS))
        self.verbs = verbs
        self.tasks: list[asyncio.Task[Any]] = []

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] == "stream" and (verb := self.verbs.pop(cell_index, None)):
            self.tasks.append(asyncio.create_task(verb()))
        return super().process_message(msg, cell, cell_index)


async def test_nbclient(service: SandboxService) -> None:
    cells = ["x = 1\nimport time", COUNT, "print(n)\nx = 2", FOR_EVER, "print(x, n)"]
    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])

    def its_id() -> str:
        return next(each.id for each in service.list() if each.kernel_id)

    async def roll_back() -> None:
        await service.rollback(its_id(), service.find_snapshot(its_id(), "middle").id)

    client = Traveller(
        document,
        {
            1: lambda: service.snapshot(its_id(), "middle", now=True),
            2: lambda: service.hibernate(its_id()),
            3: roll_back,
        },
    )
    await client.async_execute()
    await asyncio.gather(*client.tasks)
    outputs = ["".join(output.get("text", "") for output in cell.outputs) for cell in document.cells]
    # The last cell finds the kernel where the second left it in the middle, and waits for that to end.
    assert outputs == ["", "begun\n", "30\n", "begun\n", "1 30\n"]


def test_the_console(service: SandboxService, folder: Path) -> None:
    console = pexpect.spawn(
        sys.executable,
        ["-m", "jupyter", "console", "--simple-prompt", f"--kernel={KERNEL}"],
        timeout=SECONDS,
        encoding="utf-8",
        cwd=str(folder),
    )
    try:
        console.expect(r"In \[\d+\]: ")
        console.sendline("import time; x = 1")
        console.expect(r"In \[\d+\]: ")
        [sandbox] = [each for each in service.list() if each.kernel_id]
        first = asyncio.run(service.snapshot(sandbox.id))

        console.sendline("print('be' + 'gun', flush=True); time.sleep(3); print('do' + 'ne')")
        console.expect("begun")
        asyncio.run(service.snapshot(sandbox.id, now=True))
        console.expect("done")
        console.expect(r"In \[\d+\]: ")

        console.sendline("x = 2; print('be' + 'gun', flush=True); time.sleep(1000)")
        console.expect("begun")
        asyncio.run(service.rollback(sandbox.id, first.id))
        console.expect(r"In \[\d+\]: ")
        console.sendline("print('x is', x)")
        console.expect("x is 1")
        console.expect(r"In \[\d+\]: ")

        asyncio.run(service.hibernate(sandbox.id))
        console.sendline("print('x is still', x)")
        console.expect("x is still 1")
        console.expect(r"In \[\d+\]: ")
        console.sendline("quit")
        console.expect(pexpect.EOF)
    finally:
        console.close(force=True)
