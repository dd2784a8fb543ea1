"""One notebook, unchanged, through the clients that people run notebooks with."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import nbformat
import pexpect
import pytest

from jupyter_vsandbox.domain.model import State
from tests.kernel.server import SECONDS, Server, answers, execute, printed, served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Home, Until

pytestmark = pytest.mark.machine

KERNEL = "vsandbox-python-3.11"
CELLS = (
    "import socket\nhost = socket.gethostname()",
    "import pandas\nprint(pandas.Series([40, 2]).sum(), host)",
)


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


@pytest.fixture
def server(notebook: Path, until: Until) -> Iterator[Server]:
    """A real server in the notebook's folder."""
    with served(notebook.parent, until) as server:
        yield server


async def test_server(server: Server, notebook: Path, home: Home) -> None:
    session = await server.open(notebook.name, KERNEL)
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
