"""Copies of notebooks for forks, beside the origin's and never over another file."""

from __future__ import annotations

import os

import nbformat
import pytest

from jupyter_vsandbox.domain.errors import Permanent
from jupyter_vsandbox.server.notebooks import Notebooks


@pytest.fixture
def notebooks(jp_serverapp, jp_root_dir):
    return Notebooks(jp_serverapp.contents_manager, str(jp_root_dir))


@pytest.fixture
def cells(tmp_path):
    """The notebook that a snapshot holds."""
    path = tmp_path / "cells.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x = 1")]), path)
    return path


async def test_a_copy_gets_a_free_name_beside_the_origin(notebooks, cells, jp_root_dir):
    (jp_root_dir / "a b").mkdir()
    for expected in ("a b/ü.1-fork.ipynb", "a b/ü.1-fork-1.ipynb", "a b/ü.1-fork-2.ipynb"):
        assert await notebooks.copy("a b/ü.1.ipynb", cells) == expected
        written = nbformat.read(jp_root_dir / expected, as_version=4)
        assert [cell.source for cell in written.cells] == ["x = 1"]
    assert await notebooks.copy("top.ipynb", cells) == "top-fork.ipynb"
    await notebooks.remove("top-fork.ipynb")
    await notebooks.remove("top-fork.ipynb")
    assert not (jp_root_dir / "top-fork.ipynb").exists()


async def test_what_cannot_be_written_says_so(notebooks, cells, tmp_path):
    with pytest.raises(Permanent, match="beside"):
        await notebooks.copy("nowhere/a.ipynb", cells)
    cells.write_text("{")
    with pytest.raises(Permanent, match="beside"):
        await notebooks.copy("a.ipynb", cells)
    with pytest.raises(Permanent, match=r"a\.ipynb"):
        await notebooks.read("a.ipynb")


def test_paths_are_those_of_the_contents_api(notebooks, jp_root_dir):
    inside = os.path.join(jp_root_dir, "sub", "a.ipynb")
    assert notebooks.path(inside) == "sub/a.ipynb"
    assert notebooks.file("sub/a.ipynb") == inside
    for outside in ("/elsewhere/a.ipynb", f"{jp_root_dir}-not/a.ipynb", "a.ipynb", str(jp_root_dir)):
        assert notebooks.path(outside) is None
