"""The words of the magics, what they show, and the door that they ask through."""

import json
import select
import socket
import sys
import tempfile
import threading
import types
from pathlib import Path

import ipywidgets
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from jupyter_vsandbox.guest import asking, compared, door, magics, panel, protocol, words
from jupyter_vsandbox.guest.asking import BrokenOff, VSandboxError
from jupyter_vsandbox.kernel import native


def test_words_are_read():
    said = words.read("snapshot 'before the upgrade' --note \"it's\" --disk-only")
    assert (said.verb, said.name, said.note, said.disk_only) == (
        "snapshot",
        "before the upgrade",
        "it's",
        True,
    )
    assert words.read("").verb is None
    assert words.read("rollback a  # back").name == "a"
    assert words.read("try pip install -U 'a b' --x").command == "pip install -U 'a b' --x"
    said = words.read('compare a b --with x y --fork "pip install -U pandas" --assert-same', cell=True)
    assert (said.runtimes, said.given, said.command) == (["a", "b"], ["x", "y"], "pip install -U pandas")
    assert said.assert_same


@pytest.mark.parametrize(
    ("line", "cell", "complaint"),
    [
        ("nonsense", False, "no %vsandbox nonsense"),
        ("nonsense", True, "no %%vsandbox nonsense"),
        ("rollback", False, "required: NAME"),
        ("rollback a --memory", False, "unrecognized arguments"),
        ("snapshot 'a", False, "No closing quotation"),
        ("try", False, "Say what to try"),
        ("compare a", False, "takes a cell"),
        ("status", True, "takes no cell"),
        ("", True, "compare RUNTIME"),
        ("compare a --json 1x", True, "variable's name"),
        ("in", True, "required: NAME"),
    ],
)
def test_wrong_words_are_explained(line, cell, complaint):
    with pytest.raises(VSandboxError, match=complaint):
        words.read(line, cell)


def test_every_verb_is_in_the_help_and_has_its_method():
    for verb in words.VERBS:
        assert f"%vsandbox {verb}" in words.HELP
        assert hasattr(magics.Magics, f"_{verb}")
    for verb in words.CELL_VERBS:
        assert f"%%vsandbox {verb}" in words.HELP
    assert magics.Magics.vsandbox.__doc__ == words.HELP


@pytest.mark.parametrize(
    ("typed", "last", "offered"),
    [
        ("%vsandbox s", "s", ["status", "snapshot"]),
        ("%vsandbox snapshot --n", "--n", ["--note"]),
        ("%vsandbox rollback ", "", ['"before the upgrade"', "first", "--cells"]),
        ("%vsandbox  rollback f", "f", ["first"]),
        ('%vsandbox rollback "', "", ['before the upgrade"', 'first"', '--cells"']),
        ('%vsandbox rollback "bef', "bef", ['before the upgrade"']),
        ("%vsandbox rollback 'before the up", "before the up", ["before the upgrade'"]),
        ('%vsandbox diff "before the upgrade" f', "f", ["first"]),
        ("%%vsandbox c", "c", ["compare"]),
        ("%%vsandbox in ", "", ["f", "--timeout"]),
        ("%%vsandbox compare py", "py", ["python-3.9"]),
        ("%%vsandbox compare python-3.9 --with d", "d", ["df"]),
    ],
)
def test_completion_offers_what_may_come(typed, last, offered):
    known = {"snapshots": ["before the upgrade", "first"], "forks": ["f"]}
    known |= {"runtimes": ["python-3.9"], "variables": ["df"]}
    assert words.complete(typed, known) == (last, offered)


def test_completion_fits_both_kinds_of_ipython(tmp_path, monkeypatch):
    one = magics.Magics(Shell())
    one.known = lambda: {"snapshots": ["before the upgrade"]}
    line = "%vsandbox rollback 'before the up"
    # What IPython before 8.6 takes for the last word.
    event = types.SimpleNamespace(text_until_cursor=line, symbol="up")
    assert one.complete(None, event) == ["upgrade'"]
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    magics.register(shell, one)
    with provisionalcompleter():
        found = {c.text: (c.start, c.end) for c in shell.Completer.completions(line, len(line))}
    assert found == {"before the upgrade'": (line.index("before"), len(line))}


def column(name, *outputs, status="ok", note="", **versions):
    cell = {"status": status, "seconds": 1.0, "truncated": False, "outputs": list(outputs)}
    return {"name": name, "versions": versions, "note": note, "cells": [] if note else [cell]}


def stream(text):
    return {"output_type": "stream", "name": "stdout", "text": text}


def test_what_differs_is_marked_and_what_does_not_is_not():
    columns = [column("a", stream("1\n<b>\n"), python="3.9"), column("b", stream("1\n<i>\n"), python="3.13")]
    assert not compared.same(columns)
    assert (
        compared.as_text(columns)
        == "a (python 3.9), 1.00 s\n  1\n  <b>\n\nb (python 3.13), 1.00 s\n  1\n! <i>"
    )
    shown = compared.as_html(columns)
    assert "&lt;i&gt;</mark>" in shown
    assert "<i>" not in shown
    assert shown.count("<mark") == 1
    assert compared.same([columns[0], columns[0]])


def test_addresses_and_counters_are_no_difference():
    first = {"output_type": "execute_result", "execution_count": 1, "data": {"text/plain": "<a at 0x7f0123>"}}
    second = first | {"execution_count": 9, "data": {"text/plain": "<a at 0x7fffff>"}}
    assert compared.same([column("a", first), column("b", second)])
    assert not compared.same([column("a", first), column("b", first, status="error")])
    assert not compared.same([column("a", first), column("b", note="no memory")])
    assert compared.changed_cells([column("a", first), column("b", second)]) == []
    assert compared.changed_cells([column("a", first), column("b", stream("x"))]) == [0]


def test_a_changed_cell_is_shown_with_what_nbdime_tells():
    columns = [column("as it is", stream("<1>\n")), column("after it", stream("<2>\n"))]
    diff = "## modified /cells/0/outputs/0/text:\n-  <1>\n+  <2>\n"
    change = compared.Change(columns, 0, "print(x)\n", diff)
    assert repr(change) == "print(x)\n" + diff
    shown = change._repr_html_()
    assert "print(x)</pre><table" in shown
    assert '<span style="color:#c23030">-  &lt;1&gt;</span>' in shown
    assert "! <2>" in repr(compared.Change(columns, 0, "print(x)", ""))


def test_a_comparison_that_must_find_no_difference_fails_without_a_traceback():
    one = magics.Magics(Shell())
    one.show = lambda _: None
    one.ask = lambda verb, **_: {"columns": [column("a", stream("1")), column("b", stream(verb))]}
    with pytest.raises(AssertionError) as caught:
        one.vsandbox("compare a b --assert-same", "1")
    assert caught.value._render_traceback_() == [
        "OutputsDiffer: The outputs of a, b are not the same; they are above."
    ]


def test_rich_outputs_errors_and_floods_are_shown():
    error = {"output_type": "error", "ename": "KeyError", "evalue": "'x'", "traceback": []}
    image = {"output_type": "display_data", "data": {"image/png": 'aGk="><script>', "text/plain": "<Figure>"}}
    table = {"output_type": "execute_result", "data": {"text/html": "<table>1</table>", "text/plain": "1"}}
    shown = compared.as_html(
        [column("a", image, table, error), column("b", status="died"), column("c", note="<no>")]
    )
    assert 'src="data:image/png;base64,aGk=script"' in shown
    assert "<table>1</table>" in shown
    assert "KeyError: &#x27;x&#x27;" in shown
    assert "The kernel died." in shown
    assert "&lt;no&gt;" in shown
    flood = compared.as_html([column("a", stream("ab" * (5 << 20)))])
    assert len(flood) < 2 * compared.SHOWN
    assert "characters more" in flood


@pytest.fixture
def open_door(monkeypatch):
    """A door, polled in a thread as the agent does, and what was asked of it."""
    seen = types.SimpleNamespace(asked=[], withdrawn=[], ended=False)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "ask")
        monkeypatch.setattr(protocol, "DOOR", path)

        def ask(number, verb, args):
            seen.asked.append((number, verb, args))
            if verb == "echo":
                seen.door.answer(number, json.dumps({"result": args}))
            elif verb == "break":
                seen.door.break_off("put back")

        seen.door = door.Door(path, ask, seen.withdrawn.append)

        def poll():
            while not seen.ended:
                poller = select.poll()
                for descriptor, events in seen.door.watched().items():
                    poller.register(descriptor, {1: select.POLLIN, 2: select.POLLOUT}[events])
                for descriptor, _ in poller.poll(20):
                    seen.door.handle(descriptor)

        thread = threading.Thread(target=poll)
        thread.start()
        yield seen
        seen.ended = True
        thread.join()
        seen.door._listener.close()
        for caller in seen.door._callers.values():
            caller.connection.close()


def test_a_question_is_answered(open_door):
    assert asking.ask("echo", text="ä" * 100_000) == {"text": "ä" * 100_000}
    with pytest.raises(BrokenOff, match="put back"):
        asking.ask("break")
    with pytest.raises(VSandboxError, match="more than fits"):
        asking.ask("echo", text="x" * protocol.MAX_REQUEST)


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"{}\n",
        b"[]\n",
        b'{"verb": 1}\n',
        b'{"verb": "a", "args": []}\n',
        b"\xff\n",
        b"[" * 99999 + b"\n",
        b'{"verb": "echo"}\n{"verb": "echo"}\n',
        b"x" * (protocol.MAX_REQUEST + 10),
    ],
)
def test_what_is_no_request_is_refused(open_door, line):
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(10)
        caller.connect(protocol.DOOR)
        caller.sendall(line)
        assert b'"error"' in caller.recv(1000)
    assert open_door.asked == []


def test_who_hangs_up_takes_the_request_back(open_door, until):
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(protocol.DOOR)
        caller.sendall(b'{"verb": "wait"}\n')
        until(lambda: open_door.asked, 10)
    until(lambda: open_door.withdrawn == [open_door.asked[0][0]], 10)
    open_door.door.answer(open_door.asked[0][0], "{}")  # nobody waits for it


def test_too_many_at_once_are_refused(open_door):
    callers = [socket.socket(socket.AF_UNIX) for _ in range(protocol.MAX_ASKING + 1)]
    for caller in callers[:-1]:
        caller.connect(protocol.DOOR)
        caller.sendall(b'{"verb": "wait"}\n')
    callers[-1].settimeout(10)
    callers[-1].connect(protocol.DOOR)
    assert b"too many" in callers[-1].recv(1000)
    for caller in callers:
        caller.close()


class Shell:
    """As much of IPython as the magics touch."""

    def __init__(self, **user_ns):
        self.user_ns = user_ns
        self.user_ns_hidden = {}


def test_cells_that_ask_for_something_here_are_not_run_elsewhere():
    shell = Shell(
        In=["", "x = 1", "get_ipython().run_line_magic('vsandbox', 'try pip')", "%vsandbox", "y", "now"]
    )
    assert magics.Magics(shell).cells() == ["x = 1", "y"]


def test_variables_are_given_or_it_is_said_why_not():
    shell = Shell(x=1, f=lambda: 1)
    assert magics.Magics(shell).given([]) == ""
    assert magics.Magics(shell).given(["x"])
    with pytest.raises(VSandboxError, match="no variable z"):
        magics.Magics(shell).given(["x", "z"])
    with pytest.raises(VSandboxError, match="f cannot be pickled"):
        magics.Magics(shell).given(["f"])


def test_a_snapshot_waits_for_the_end_of_the_cell(capsys):
    asked, waiting = [], []

    def ask(verb, **args):
        asked.append((verb, args))
        if verb == "history":
            return [{"name": "taken"}]
        if args["name"] == "broken":
            raise BrokenOff("put back", waited_for=bool(waiting))
        return {"name": args["name"], "size": 2e6, "pause": 0.01}

    one = magics.Magics(Shell())
    one.ask = ask
    with pytest.raises(VSandboxError, match="taken' already"):
        one.vsandbox("snapshot taken")
    one.vsandbox("snapshot a --note n")
    assert [verb for verb, _ in asked] == ["history", "history"]
    result = types.SimpleNamespace(error_in_exec=None)
    one.cell_ended(result)
    assert asked[-1] == ("snapshot", {"name": "a", "note": "n", "memory": True})
    assert "a: 2.0 MB, paused for 10 ms." in capsys.readouterr().out
    assert result.error_in_exec is None
    one.vsandbox("snapshot broken")
    one.vsandbox("snapshot never")
    one.cell_ended(result)
    assert result.error_in_exec is None  # else the next cell would be aborted
    waiting.append("a cell")
    one.vsandbox("snapshot broken")
    one.vsandbox("snapshot never")
    one.cell_ended(result)
    assert isinstance(result.error_in_exec, BrokenOff)
    assert one.after == []


def test_without_widgets_the_panel_is_text(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    one = magics.Magics(Shell())
    status = {"name": "", "id": "abc", "runtime": "r", "state": "running", "memory": 1, "disk": 1}
    status |= {"shape": {"memory": 1}, "snapshots": [], "forks": []}
    one.ask = lambda verb: {"status": status, "history": []}[verb]
    bundle = one.vsandbox("")._repr_mimebundle_()
    assert list(bundle) == ["text/plain"]
    assert bundle["text/plain"].startswith("abc (r), running")


def test_widgets_of_every_age_make_the_panel(monkeypatch):
    one = magics.Magics(Shell())
    status = {"name": "", "id": "abc", "runtime": "r", "state": "running", "memory": 1, "disk": 1}
    status |= {"shape": {"memory": 1}, "snapshots": [], "forks": []}
    one.ask = lambda verb: {"status": status, "history": []}[verb]
    own = ipywidgets.HTML()._repr_mimebundle_()[panel.VIEW]
    # Before version 8 it had `_ipython_display_` in its place.
    monkeypatch.delattr(ipywidgets.Widget, "_repr_mimebundle_")
    shown, make = [], panel.Panel._widgets
    monkeypatch.setattr(panel.Panel, "_widgets", lambda self: shown.append(make(self)) or shown[0])
    bundle = one.vsandbox("")._repr_mimebundle_()
    assert bundle[panel.VIEW] == own | {"model_id": shown[0].model_id}
    assert bundle["text/plain"].startswith("abc (r), running")


def test_a_native_kernel_says_what_needs_a_sandbox(settings):
    one = native.NativeMagics(Shell())
    for line in ("snapshot", "history", "fork", "hibernate"):
        with pytest.raises(VSandboxError, match=r"needs a notebook that runs in a sandbox"):
            one.vsandbox(line)
    with pytest.raises(VSandboxError, match="compare --fork needs"):
        one.vsandbox("compare --fork 'pip install x'", "1")
    with pytest.raises(VSandboxError, match="no runtime 'nothing'"):
        one.vsandbox("compare nothing", "1")


def test_a_native_kernel_tells_what_there_is(settings, capsys):
    native.NativeMagics(Shell()).vsandbox("status")
    assert "runs on the host" in capsys.readouterr().out


def test_buttons_of_the_panel_ask_and_cells_refresh_it():
    asked = []
    status = {"name": "", "id": "abc", "runtime": "r", "state": "running", "memory": 1, "disk": 1}
    status |= {"shape": {"memory": 1}, "snapshots": [], "forks": []}

    def ask(verb, **args):
        asked.append((verb, args))
        if verb == "fork":
            raise VSandboxError("no room")
        return {"status": status, "history": []}.get(verb)

    one = magics.Magics(Shell())
    one.ask = ask
    view = one.vsandbox("")._widgets()
    name, snapshot, _, fork, *_ = view.children[1].children
    name.value = "first"
    snapshot.click()
    assert ("snapshot", {"name": "first"}) in asked
    fork.click()
    status["state"] = "changed"
    one.cell_ended(types.SimpleNamespace(error_in_exec=None))
    assert "changed" in view.children[0].value
