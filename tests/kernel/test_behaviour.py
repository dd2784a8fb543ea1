"""What a kernel must do beyond answering cells, seen from a Jupyter client."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import pytest
from jupyter_client.blocking import BlockingKernelClient

from jupyter_vsandbox.domain.model import MIB

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Until
    from tests.kernel.conftest import Kernel, StartKernel

pytestmark = pytest.mark.machine

SECONDS = 60.0


def reply_to(kernel: Kernel, message_id: str, channel: str = "shell") -> dict[str, Any]:
    """The reply to one request, whatever comes before it."""
    receive = getattr(kernel.client, f"get_{channel}_msg")
    while True:
        message: dict[str, Any] = receive(timeout=SECONDS)
        if message["parent_header"].get("msg_id") == message_id:
            return message


def connect(kernel: Kernel) -> BlockingKernelClient:
    """One more client, as another process would make it."""
    client = BlockingKernelClient(connection_file=kernel.manager.connection_file)
    client.load_connection_file()
    client.start_channels()
    return client


@pytest.mark.parametrize("code", ["while True:\n    pass", "import time\ntime.sleep(100)"])
def test_interrupt_ends_the_cell_and_keeps_the_kernel(kernel: Kernel, code: str) -> None:
    kernel.run("kept = 42")
    busy = kernel.client.execute(f"print('begun', flush=True)\n{code}")
    while True:
        message = kernel.client.get_iopub_msg(timeout=SECONDS)
        if message["parent_header"].get("msg_id") == busy and message["msg_type"] == "stream":
            break

    kernel.manager.interrupt_kernel()

    content = reply_to(kernel, busy)["content"]
    assert (content["status"], content["ename"]) == ("error", "KeyboardInterrupt")
    kernel.client.kernel_info(reply=True, timeout=SECONDS)  # after errors it aborts what comes at once
    assert kernel.value("kept") == 42


def test_restart_begins_anew_in_the_same_machine(kernel: Kernel) -> None:
    where = "[__import__('socket').gethostname(), open('/tmp/left').read()]"
    kernel.run("gone = 1\nopen('/tmp/left', 'w').write('here')")
    sandbox, process, before = kernel.sandbox, kernel.process, kernel.value(where)

    kernel.restart()

    assert kernel.value("'gone' in globals()") is False
    assert kernel.value(where) == before
    assert (kernel.sandbox, kernel.process) == (sandbox, process)


def test_an_orderly_restart_runs_exit_handlers(kernel: Kernel) -> None:
    kernel.run("import atexit\natexit.register(lambda: open('/tmp/farewell', 'w').write('bye'))")
    kernel.manager.restart_kernel(now=False)
    kernel.client.wait_for_ready(timeout=SECONDS)
    assert kernel.value("open('/tmp/farewell').read()") == "bye"


def test_input_asks_the_client(kernel: Kernel) -> None:
    asked = []

    def answer(message: dict[str, Any]) -> None:
        asked.append(message["content"]["prompt"])
        kernel.client.input("Ada")

    reply = kernel.client.execute_interactive(
        "name = input('Who? ')", stdin_hook=answer, allow_stdin=True, timeout=SECONDS
    )

    assert reply["content"]["status"] == "ok"
    assert asked == ["Who? "]
    assert kernel.value("name") == "Ada"


def test_a_comm_carries_data_and_buffers_both_ways(kernel: Kernel) -> None:
    kernel.run(
        "def opened(comm, message):\n"
        "    @comm.on_msg\n"
        "    def echo(message):\n"
        "        comm.send(message['content']['data'], buffers=message['buffers'])\n"
        "get_ipython().kernel.comm_manager.register_target('echo', opened)"
    )
    session, channel = kernel.client.session, kernel.client.shell_channel
    channel.send(session.msg("comm_open", {"comm_id": "c1", "target_name": "echo", "data": {}}))
    message = session.msg("comm_msg", {"comm_id": "c1", "data": {"value": 7}})
    session.send(channel.socket, message, buffers=[bytes(range(256))])

    while True:
        echo = kernel.client.get_iopub_msg(timeout=SECONDS)
        if echo["msg_type"] == "comm_msg":
            break
    assert echo["content"]["data"] == {"value": 7}
    assert [bytes(buffer) for buffer in echo["buffers"]] == [bytes(range(256))]


def test_a_widget_is_shown_and_follows_its_front_end(kernel: Kernel) -> None:
    model = kernel.value("slider.model_id", before="from ipywidgets import IntSlider\nslider = IntSlider()")
    session, channel = kernel.client.session, kernel.client.shell_channel
    data = {"method": "update", "state": {"value": 42}, "buffer_paths": []}
    channel.send(session.msg("comm_msg", {"comm_id": model, "data": data}))
    assert kernel.value("slider.value") == 42


def test_a_display_of_50_megabytes_comes_whole(kernel: Kernel) -> None:
    size = 50 * MIB
    shown = kernel.client.execute(
        "import random\n"
        "from IPython.display import publish_display_data\n"
        f"text = random.Random(1).randbytes({size // 2}).hex()\n"
        "publish_display_data({'text/plain': text})\n"
        "del text"
    )
    while True:
        message = kernel.client.get_iopub_msg(timeout=3 * SECONDS)
        if message["parent_header"].get("msg_id") == shown and message["msg_type"] == "display_data":
            break
    text = message["content"]["data"]["text/plain"]
    assert len(text) == size
    expected = kernel.value(
        "hashlib.sha256(text.encode()).hexdigest()",
        before=f"import hashlib, random\ntext = random.Random(1).randbytes({size // 2}).hex()",
    )
    assert hashlib.sha256(text.encode()).hexdigest() == expected


def test_a_subshell_answers_while_the_kernel_is_busy(kernel: Kernel) -> None:
    client = kernel.client
    created = client.session.msg("create_subshell_request", {})
    client.control_channel.send(created)
    subshell = reply_to(kernel, created["msg_id"], "control")["content"]["subshell_id"]
    busy = client.execute("while 'done' not in globals():\n    import time; time.sleep(0.05)")

    aside = client.session.msg("execute_request", {"code": "done = True", "silent": False})
    aside["header"]["subshell_id"] = subshell
    client.shell_channel.send(aside)

    waited = {aside["msg_id"], busy}
    while waited:  # they end at the same time: either may answer first
        reply = client.get_shell_msg(timeout=SECONDS)
        assert reply["content"]["status"] == "ok"
        waited.discard(reply["parent_header"]["msg_id"])
    deleted = client.session.msg("delete_subshell_request", {"subshell_id": subshell})
    client.control_channel.send(deleted)
    assert reply_to(kernel, deleted["msg_id"], "control")["content"]["status"] == "ok"


def test_two_clients_get_each_their_own_replies(kernel: Kernel) -> None:
    other = connect(kernel)
    try:
        other.wait_for_ready(timeout=SECONDS)
        mine = [kernel.client.execute(f"{number}") for number in range(5)]
        theirs = [other.execute(f"{number}") for number in range(5)]
        for client, requests in ((kernel.client, mine), (other, theirs)):
            replies = [client.get_shell_msg(timeout=SECONDS) for _ in requests]
            assert [reply["parent_header"]["msg_id"] for reply in replies] == requests
        seen = set()
        while not seen >= {*mine, *theirs}:  # what a kernel publishes goes to all
            message = other.get_iopub_msg(timeout=SECONDS)
            if message["msg_type"] == "execute_result":
                seen.add(message["parent_header"]["msg_id"])
    finally:
        other.stop_channels()


def test_a_message_with_a_wrong_signature_is_ignored(kernel: Kernel) -> None:
    client = connect(kernel)
    key = client.session.key
    try:
        client.session.key = b"guessed"
        client.execute("forged = True")
        client.session.key = key
        client.wait_for_ready(timeout=SECONDS)
    finally:
        client.stop_channels()
    assert kernel.value("'forged' in globals()") is False


def test_the_environment_names_the_notebook_and_not_the_host(
    start_kernel: StartKernel, tmp_path: Path
) -> None:
    notebook = str(tmp_path / "a.ipynb")
    kernel = start_kernel(JPY_SESSION_NAME=notebook, JPY_PARENT_PID="1", GREETING="hello")
    environment = kernel.value("dict(os.environ)", before="import os")
    assert environment["JPY_SESSION_NAME"] == notebook
    assert environment["GREETING"] == "hello"
    assert environment["HOME"] == "/home/jovyan"
    assert "JPY_PARENT_PID" not in environment
    assert "JUPYTER_VSANDBOX_HOME" not in environment
    assert kernel.sandbox.notebook == notebook


def test_arguments_reach_the_kernel_at_its_start_and_at_a_restart(start_kernel: StartKernel) -> None:
    kernel = start_kernel(
        "--InteractiveShell.ast_node_interactivity=all", "--HistoryManager.hist_file=:memory:"
    )
    told = "[get_ipython().ast_node_interactivity, get_ipython().history_manager.hist_file]"
    assert kernel.value(told) == ["all", ":memory:"]
    kernel.restart()
    assert kernel.value(told) == ["all", ":memory:"]


def test_a_package_can_be_installed_and_imported(kernel: Kernel) -> None:
    kernel.run("%pip install --quiet --disable-pip-version-check --no-deps humanize")
    assert kernel.value("humanize.intcomma(1234567)", before="import humanize") == "1,234,567"


def test_heartbeats_are_answered(kernel: Kernel, until: Until) -> None:
    kernel.client.hb_channel.unpause()
    until(kernel.client.hb_channel.is_beating)
