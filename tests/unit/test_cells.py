"""The comparison of two notebooks."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from jupyter_vsandbox import cells
from jupyter_vsandbox.domain.difference import Cell, Change
from jupyter_vsandbox.domain.errors import Permanent


def printed(text, count=1):
    return new_output("execute_result", {"text/plain": text}, execution_count=count)


@pytest.fixture
def changes(tmp_path):
    """Compares two lists of cells."""

    def compare(old, new):
        paths = [tmp_path / "old.ipynb", tmp_path / "new.ipynb"]
        for path, inside in zip(paths, (old, new), strict=True):
            nbformat.write(new_notebook(cells=inside), path)
        return cells.compare(*paths).changes

    return compare


def test_cells_are_added_changed_and_removed(changes):
    first, text, last = new_code_cell("x = 1\ny = 2", id="a"), new_markdown_cell("gone", id="b"), None
    last = new_code_cell("last()", id="c")
    new = new_code_cell("x = 1\ny = 3", id="a")
    found = changes([first, text, last], [new, last, new_code_cell("more", id="d")])
    assert found == (
        Cell(Change.CHANGED, "code", 1, 1, ("source",), "x = 1\ny = 2", "x = 1\ny = 3"),
        Cell(Change.REMOVED, "markdown", 2, None, (), "gone", ""),
        Cell(Change.ADDED, "code", None, 3, (), "", "more"),
    )
    assert cells.changed_lines(found[0]) == ["-y = 2", "+y = 3"]
    assert cells.changed_lines(found[2]) == ["+more"]


def test_a_cell_after_an_insertion_keeps_its_own_number(changes):
    one, two = new_code_cell("alpha = 1", id="a"), new_code_cell("omega = 'long enough'", id="b")
    new = new_code_cell("omega = 'long enough!'", id="b")
    found = changes(
        [one, two], [one, new_code_cell("between", id="c"), new_markdown_cell("too", id="d"), new]
    )
    assert [(c.change, c.old_number, c.new_number) for c in found] == [
        (Change.ADDED, None, 2),
        (Change.ADDED, None, 3),
        (Change.CHANGED, 2, 4),
    ]


def test_when_a_cell_ran_is_no_difference_and_what_it_printed_is(changes):
    def cell(count, text):
        when = {"execution": {"iopub.status.busy": f"2030-01-0{count}T00:00:00Z"}}
        return new_code_cell(
            "1", id="a", execution_count=count, outputs=[printed(text, count)], metadata=when
        )

    assert changes([cell(1, "1")], [cell(2, "1")]) == ()
    [other] = changes([cell(1, "1")], [cell(1, "2")])
    assert other.parts == ("outputs",)


def test_a_file_that_is_no_notebook_is_named(tmp_path):
    path = tmp_path / "broken.ipynb"
    path.write_text("{")
    with pytest.raises(Permanent, match=str(path)):
        cells.compare(path, path)


def test_without_a_notebook_there_is_a_note(tmp_path):
    assert "no notebook" in cells.compare(None, tmp_path).note


def stream(text, name="stdout"):
    return {"output_type": "stream", "name": name, "text": text}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            [stream("1\n2\n")],
            [stream("1\n3\n")],
            "## modified /cells/4/outputs/0/text:\n@@ -1,2 +1,2 @@\n   1\n-  2\n+  3\n",
        ),
        (
            [printed("'a'")],
            [printed("'b'", None)],
            "## modified /cells/4/outputs/0/data/text/plain:\n-  'a'\n+  'b'\n",
        ),
        ([], [stream("new")], "## inserted before /cells/4/outputs/0:\n+  output:"),
        ([stream("same")], [stream("same")], ""),
    ],
)
def test_outputs_that_differ_are_told_as_nbdime_tells_them(old, new, told):
    text = cells.outputs_text(4, old, new)
    assert told in text
    assert bool(text) == bool(told)
