"""Which outputs a trial says have changed."""

from __future__ import annotations

from nbformat import v4

from jupyter_vsandbox.server.trials import _changed


def code(source, *outputs):
    return v4.new_code_cell(source, outputs=list(outputs))


def test_outputs_are_compared_and_not_when_or_how_often_a_cell_ran():
    text = v4.new_output("stream", name="stdout", text="1\n")
    one = v4.new_output("execute_result", data={"text/plain": "1"}, execution_count=1)
    later = v4.new_output("execute_result", data={"text/plain": "1"}, execution_count=9)
    two = v4.new_output("execute_result", data={"text/plain": "2"}, execution_count=9)
    error = v4.new_output("error", ename="ImportError", evalue="x", traceback=[])
    before = [v4.new_markdown_cell("# m"), code("a", one), code("b", one), code("c", text), code("d")]
    after = [
        v4.new_markdown_cell("# m"),
        code("a", later),
        code("b", two),
        code("c", error),
        code("d", error),
    ]
    changed, failed = _changed(before, after)
    assert failed == 4
    assert changed == [
        {"number": 3, "source": "b", "old": [one], "new": [two]},
        {"number": 4, "source": "c", "old": [text], "new": [error]},
        {"number": 5, "source": "d", "old": [], "new": [error]},
    ]
