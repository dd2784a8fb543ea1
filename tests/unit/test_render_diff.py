"""How differences are shown, to people and to programs."""

import io
import json

import pytest

from jupyter_vsandbox import render, render_diff
from jupyter_vsandbox.core.inventories import Point
from jupyter_vsandbox.domain.difference import Cell, Change, Section, compare
from jupyter_vsandbox.domain.inventory import File, Inventory, Variable
from jupyter_vsandbox.domain.model import Sandbox, Shape, State

HERE = Point(Sandbox("aaaa00000001", "python-3.11", "i", "qemu", State.RUNNING, Shape(1, 1), 1.0), None)
FRAME = "pandas.core.frame.DataFrame"
CELLS = Section((Cell(Change.CHANGED, "code", 1, 2, ("source",), "x = 1\ny = 2", "x = 1\ny = 3"),))


def file(size):
    return File(size, 1, 1, 0o100644)


OLD = Inventory({"pandas": "1.5.3"}, {"/home/x": file(3000)}, {"df": Variable(FRAME, 2048, "a")})
NEW = Inventory(
    {"pandas": "2.2.0"},
    {"/home/x": file(5), "/home/n/a": file(5), "/home/n/\x1b[31mb": file(6)},
    {"df": Variable(FRAME, 2048, "b"), "lock": Variable("lock", 56, None)},
)


def text(old, new, cells=CELLS):
    stream = io.StringIO()
    shown = render_diff.difference_text(HERE, HERE, compare(old, new, cells), (old, new))
    render.console(stream).print(shown)
    return [" ".join(line.split()) for line in stream.getvalue().splitlines()]


def test_each_section_has_its_count_and_its_table():
    lines = text(OLD, NEW)
    assert [line for line in lines if line.endswith(("change", "changes"))] == [
        "Packages: 1 change",
        "Files: 3 changes",
        "Variables: 2 changes",
        "Cells: 1 change",
    ]
    for line in (
        "~ pandas 1.5.3 2.2.0",
        "+ /home/n/ (2 files) - 11 B",
        "~ /home/x 2.9 KiB 5 B",
        f"~ df {FRAME}, 2.0 KiB {FRAME}, 2.0 KiB",
        "~ 2 code source",
        "+y = 3",
    ):
        assert line in lines


def test_what_was_not_compared_is_said():
    stopped = Inventory(OLD.packages, OLD.files, None, {"variables": "it is stopped"})
    lines = text(stopped, OLD, Section(note="no notebook is known"))
    assert lines[lines.index("Variables: not compared") + 1] == "it is stopped"
    assert lines[lines.index("Cells: not compared") + 1] == "no notebook is known"
    assert "cannot be told: lock" in text(NEW, NEW)


def test_long_tables_are_cut():
    many = Inventory({f"p{n:03}": "1" for n in range(60)}, {}, {})
    lines = text(Inventory({}, {}, {}), many)
    assert "Packages: 60 changes" in lines
    assert "and 10 more rows; --json has all" in lines
    assert "+ p049 - 1" in lines
    assert "+ p050 - 1" not in lines


def test_the_document_has_all():
    document = json.loads(json.dumps(render_diff.difference_dict(HERE, HERE, compare(OLD, NEW, CELLS))))
    assert list(document) == ["old", "new", "packages", "files", "variables", "cells"]
    assert document["old"] == {"sandbox": "aaaa00000001", "snapshot": None}
    assert document["packages"]["changes"] == [
        {"change": "changed", "name": "pandas", "old": "1.5.3", "new": "2.2.0"}
    ]
    assert [each["path"] for each in document["files"]["changes"]] == [*sorted(NEW.files)]
    assert document["files"]["changes"][-1]["new"] == {"size_bytes": 5, "mode": "0644"}
    assert document["variables"]["changes"][1]["new"] == {"type": "lock", "size_bytes": 56}
    assert document["cells"]["changes"][0]["parts"] == ["source"]
    assert document["variables"] | {"changes": []} == {
        "compared": True,
        "note": None,
        "unknown": [],
        "changes": [],
    }


@pytest.mark.parametrize(
    ("count", "said"), [(5, "5 B"), (2048, "2.0 KiB"), (3 << 20, "3.0 MiB"), (1 << 30, "1.0 GiB")]
)
def test_small_sizes_are_exact(count, said):
    assert render_diff.size(count) == said
