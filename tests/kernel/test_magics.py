"""``%vsandbox`` in cells of sandbox kernels."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

from jupyter_vsandbox.domain.model import State
from jupyter_vsandbox.kernel.specs import spec_name
from jupyter_vsandbox.runtimes import build
from jupyter_vsandbox.runtimes.catalog import Catalog
from jupyter_vsandbox.settings import Settings
from tests.kernel.conftest import RUNTIME, START_SECONDS, Kernel, StartKernel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Home, Until

pytestmark = [pytest.mark.machine, pytest.mark.timeout(1200)]

OLD = "python-3.9"
COMPARE_SECONDS = 300.0
LIES = """
import json, os, random, socket
dice = random.Random(7)
words = ["status", "history", "rollback", "discard", "keep", "run_in", "fork", "", None, 7, "x" * 70000]
values = [None, 1, -1, "../../x", "/", "aaaabbbbcccc", [], {}, "\\ud800", "\\0", "x" * 70000, [[[]]], 1e999]
def lie():
    kind = dice.randrange(4)
    if kind == 0:
        return os.urandom(dice.randrange(1, 300))
    args = {dice.choice(["snapshot", "fork", "code", "name", "id"]): dice.choice(values) for _ in range(3)}
    line = json.dumps({"verb": dice.choice(words), "args": dice.choice([args, args, None, []])}).encode()
    return {1: line, 2: line[:-3], 3: b"[" * dice.randrange(1, 100000)}[kind]
answers = []
for number in range(COUNT):
    with socket.socket(socket.AF_UNIX) as door:
        door.connect("/run/vsandbox/ask")
        try:
            door.sendall(lie() + b"\\n" * dice.randrange(1, 3))
            if number % 3 == 0:
                door.shutdown(socket.SHUT_WR)
            door.settimeout(30)
            said = door.recv(1 << 16)
        except (BrokenPipeError, ConnectionResetError):
            continue
        if said:
            answers.append(b'"error"' in said or b'"result"' in said)
print(all(answers), len(answers) > COUNT // 3)
"""


@pytest.fixture(scope="module")
def old_image(home: Home) -> str:
    """Another runtime, built."""
    settings = Settings(standby=0)
    return build.build(Catalog.standard(settings).get(OLD), settings).id


def reply(kernel: Kernel, code: str, seconds: float = COMPARE_SECONDS) -> tuple[dict[str, Any], str]:
    """What the kernel replies to a cell, and all that it put out, as text."""
    texts: list[str] = []

    def collect(message: dict[str, Any]) -> None:
        content = message["content"]
        if message["msg_type"] == "stream":
            texts.append(content["text"])
        elif message["msg_type"] in ("display_data", "execute_result"):
            texts.append(content["data"]["text/plain"])

    answer = kernel.client.execute_interactive(code, timeout=seconds, output_hook=collect, allow_stdin=False)
    return answer["content"], "".join(texts)


def test_a_snapshot_is_taken_at_the_end_of_its_cell_and_what_waited_behind_it_does_not_run_again(
    kernel: Kernel,
) -> None:
    cells = ["x = 1\n%vsandbox snapshot first --note 'a note'\nx = 2", "x = 3", "x = 4"]
    asked = [kernel.client.execute(cell) for cell in cells]
    while kernel.client.get_shell_msg(timeout=START_SECONDS)["parent_header"]["msg_id"] != asked[-1]:
        pass
    history = kernel.run("%vsandbox history")
    assert "first" in history
    assert "a note" in history
    kernel.run("y = 'not there yet'")
    content, _ = reply(kernel, "%vsandbox rollback first\nx = 'not reached'")
    assert content["status"] == "aborted"
    # The kernel that was put back aborts what waited for it then, and nothing that comes after.
    assert kernel.value("[x, 'y' in globals()]") == [2, False]
    assert "before-rollback-1" in kernel.run("%vsandbox history")
    content, _ = reply(kernel, "%vsandbox snapshot first")
    assert "choose another name" in content["evalue"]
    content, text = reply(kernel, "%vsandbox diff first before-rollback-1")
    assert content["status"] == "ok", content
    assert "~ x (int)" in text
    assert "+ y (" in text


def test_help_and_completion_know_what_there_is(kernel: Kernel) -> None:
    for question in ("%vsandbox?", "%%vsandbox?"):
        content, _ = reply(kernel, question)
        assert "%vsandbox rollback NAME" in content["payload"][0]["data"]["text/plain"]
    kernel.run('%vsandbox snapshot "with a blank"')
    for line, words in {
        "%vsandbox sn": ["snapshot"],
        "%%vsandbox compare python-3.1": [RUNTIME],
        '%vsandbox rollback "with': ['with a blank"'],
    }.items():
        answer = kernel.client.complete(line, len(line), reply=True, timeout=START_SECONDS)["content"]
        assert set(words) <= set(answer["matches"])
        assert all(word.startswith(line[answer["cursor_start"] :]) for word in answer["matches"])


def test_buttons_of_the_panel_do_what_they_say(kernel: Kernel) -> None:
    shown: list[dict[str, Any]] = []
    kernel.client.execute_interactive("%vsandbox", timeout=COMPARE_SECONDS, output_hook=shown.append)
    data = next(m["content"]["data"] for m in shown if m["msg_type"] == "execute_result")
    assert "%vsandbox? shows what can be done" in data["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in data
    states = [m["content"] for m in shown if m["msg_type"] == "comm_open"]
    buttons = {each["data"]["state"].get("description"): each["comm_id"] for each in states}
    assert {"Snapshot", "Roll back", "Fork", "Hibernate", "Refresh"} <= set(buttons)
    before = len(kernel.run("%vsandbox history").splitlines())
    click = {"comm_id": buttons["Snapshot"], "data": {"method": "custom", "content": {"event": "click"}}}
    kernel.client.shell_channel.send(kernel.client.session.msg("comm_msg", click))
    assert len(kernel.run("%vsandbox history").splitlines()) == before + 1


def test_a_fork_runs_cells_of_its_own(kernel: Kernel) -> None:
    kernel.run("x = 1\n%vsandbox fork other")
    assert reply(kernel, "%%vsandbox in other\nx += 1\nprint('there', x)\nx")[1] == "there 2\n2"
    assert kernel.value("x") == 1
    content, _ = reply(kernel, "%%vsandbox in other\n1 / 0")
    assert content["ename"] == "CellError"
    assert "ZeroDivisionError" in content["evalue"]
    content, _ = reply(kernel, "%%vsandbox in other\n%vsandbox status")
    assert "sent here by another" in content["evalue"]
    content, _ = reply(kernel, "%%vsandbox in nobody\n1")
    assert "no fork 'nobody'" in content["evalue"]
    assert "fork other: running" in kernel.run("%vsandbox status")
    fork = next(sandbox for sandbox in kernel.home.records() if sandbox.name == "other")
    assert not fork.owner


def test_what_lies_to_the_door_gets_an_error(kernel: Kernel) -> None:
    before = {sandbox.id for sandbox in kernel.home.records()}
    assert kernel.run(LIES.replace("COUNT", "300")) == "True True\n"
    assert {sandbox.id for sandbox in kernel.home.records()} == before
    assert kernel.value("6 * 7") == 42
    assert "running" in kernel.run("import time; time.sleep(5)\n%vsandbox status")


def test_hibernate_waits_for_the_cell_and_the_next_one_wakes(kernel: Kernel, until: Until) -> None:
    kernel.run("x = 'kept'\n%vsandbox hibernate")
    until(lambda: kernel.sandbox.state is State.HIBERNATED, 60)
    assert kernel.value("x") == "kept"


def test_runtimes_differ(kernel: Kernel, old_image: str) -> None:
    kernel.run("offset = 41")
    line = f"%%vsandbox compare {OLD} {RUNTIME} --json found --with offset"
    content, text = reply(kernel, line + "\nprint('hello')\nimport tomllib\nprint(offset)")
    assert content["status"] == "ok", content
    assert "ModuleNotFoundError" in text
    assert kernel.value("[[cell['status'] for cell in column['cells']] for column in found]") == [
        ["error"],
        ["ok"],
    ]
    assert kernel.value("[column['versions']['python'][:4] for column in found]") == ["3.9.", "3.11"]
    assert kernel.value("found[1]['cells'][0]['outputs'][0]['text']") == "hello\n41\n"
    content, text = reply(
        kernel, f"%%vsandbox compare {OLD} {RUNTIME} --assert-same\nimport sys\nsys.version_info[1]"
    )
    assert "! 11" in text
    assert [content["ename"], len(content["traceback"])] == ["OutputsDiffer", 1]
    assert f"outputs of {OLD}, {RUNTIME} are not the same" in content["evalue"]


def test_a_kernel_of_the_host_compares(home: Home) -> None:
    others = len(home.records())
    manager, client = start_new_kernel(kernel_name="python3", stderr=subprocess.DEVNULL)
    try:
        kernel = Kernel(home, manager, client)
        kernel.run("%load_ext jupyter_vsandbox")
        line = f"%%vsandbox compare {RUNTIME} --json found\nimport os\nos.path.exists('/etc/vsandbox')"
        assert reply(kernel, line)[1].endswith("  True")
        assert "no sandbox. Runtimes:" in kernel.run("%vsandbox")
        assert len(home.records()) == others
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_cells_behave_in_a_comparison_as_they_would_alone(kernel: Kernel) -> None:
    _, text = reply(kernel, f"%%vsandbox compare {RUNTIME}\nif:")
    assert "SyntaxError" in text
    reply(kernel, f"%%vsandbox compare {RUNTIME} --json found\nprint('ab' * (5 << 20))")
    assert kernel.value("len(found[0]['cells'][0]['outputs'][0]['text'])") == (10 << 20) + 1
    _, text = reply(kernel, f"%%vsandbox compare {RUNTIME} --timeout 2\nwhile True: pass")
    assert "ran for too long" in text
    _, text = reply(kernel, f"%%vsandbox compare {RUNTIME}\nimport os\nos._exit(3)")
    assert "kernel died" in text


def endless(port: int, *runtimes: str) -> str:
    """A comparison that never ends; each of its sandboxes calls a port of this host when it has begun."""
    call = f"import socket\nsocket.create_connection(('10.0.2.2', {port}))"
    return f"%%vsandbox compare {' '.join(runtimes)}\n{call}\nwhile True: pass"


@pytest.fixture
def called() -> Iterator[socket.socket]:
    """Hears who calls."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(COMPARE_SECONDS)
        yield server


def test_an_interrupt_ends_a_comparison_and_removes_its_sandboxes(
    kernel: Kernel, old_image: str, called: socket.socket, until: Until
) -> None:
    others = len(kernel.home.records())
    kernel.client.execute(endless(called.getsockname()[1], OLD, RUNTIME))
    for _ in (OLD, RUNTIME):
        called.accept()[0].close()
    assert len(kernel.home.records()) == others + 2
    kernel.manager.interrupt_kernel()
    content = kernel.client.get_shell_msg(timeout=START_SECONDS)["content"]
    assert content["ename"] == "KeyboardInterrupt"
    until(lambda: len(kernel.home.records()) == others, 60)


def test_a_kernel_that_dies_takes_its_comparison_along(
    start_kernel: StartKernel, called: socket.socket, until: Until
) -> None:
    kernel = start_kernel()
    others = len(kernel.home.records())
    kernel.client.execute(endless(called.getsockname()[1], RUNTIME))
    called.accept()[0].close()
    kernel.manager.shutdown_kernel(now=True)
    until(lambda: len(kernel.home.records()) == others - 1, 60)


def test_a_command_is_compared_tried_discarded_kept_and_undone(start_kernel: StartKernel) -> None:
    kernel = start_kernel()
    others = len(kernel.home.records())
    kernel.run("import packaging\nprint(packaging.__version__)")
    kernel.run("y = 6 * 7\nprint(y)")
    upgrade = "pip install -q packaging==22.0"
    line = f'%%vsandbox compare --fork "{upgrade}" --json found'
    content, text = reply(kernel, line + "\nimport packaging\npackaging.__version__", 600)
    assert content["status"] == "ok", content
    assert "! '22.0'" in text
    [[before, _], [after, version]] = kernel.value("[[c['name'], c['versions']['packaging']] for c in found]")
    assert (before, after, version) == ("as it is", f"after {upgrade}", "22.0")

    content, text = reply(kernel, "%vsandbox try echo nothing", 600)
    assert "0 of 3 cells" in text, content
    assert len(kernel.home.records()) == others + 1
    assert "nothing has changed" in reply(kernel, "%vsandbox discard")[1]
    assert len(kernel.home.records()) == others
    content, _ = reply(kernel, "%vsandbox keep")
    assert "no fork 'try'" in content["evalue"]

    content, text = reply(kernel, f"%vsandbox try {upgrade}", 600)
    assert content["status"] == "ok", content
    assert "## modified /cells/0/outputs/0/text:" in text
    assert "\n+  22.0\n" in text
    assert "1 of 3 cells" in text
    assert kernel.value("packaging.__version__") != "22.0"
    assert reply(kernel, "%vsandbox keep", 120)[0]["status"] == "aborted"
    assert kernel.value("[packaging.__version__, y]") == ["22.0", 42]
    assert len(kernel.home.records()) == others  # its fork is gone

    assert reply(kernel, "%vsandbox reset\nz = 1", 120)[0]["status"] == "aborted"
    assert kernel.value("packaging.__version__", "import packaging") != "22.0"
    assert kernel.value("'y' in globals()") is False


def test_notebook_that_shows_the_magics(home: Home) -> None:
    path = Path(__file__).parents[2] / "binder" / "magics.ipynb"
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name=spec_name(RUNTIME)).execute()
