"""What a kernel is for, as far as Jupyter tells."""

from __future__ import annotations

import os

import pytest

from jupyter_vsandbox.kernel.provisioner import _folder, _notebook


@pytest.mark.parametrize(
    ("session", "notebook"),
    [
        ("/notebooks/a.ipynb", "/notebooks/a.ipynb"),
        ("/notebooks/no longer there.md", "/notebooks/no longer there.md"),
        ("sub/a.ipynb", "/notebooks/sub/a.ipynb"),  # a session without a name: its path in the server's root
        ("/notebooks/sub/Console 1", ""),
        ("/notebooks/v1.5/", ""),  # a session with an empty name
        ("", ""),
    ],
)
def test_a_session_is_named_after_its_notebook(session, notebook):
    assert _notebook(session, "/notebooks/sub") == notebook


def test_a_file_may_have_any_name(tmp_path):
    path = tmp_path / "notes"
    path.touch()
    assert _notebook(str(path), "") == str(path)
    assert _notebook("a.ipynb", "") == os.path.join(os.getcwd(), "a.ipynb")


@pytest.mark.parametrize(
    ("cwd", "attach", "folder"),
    [
        ("/notebooks", "", "/notebooks"),
        ("/notebooks", "abc", "/notebooks"),
        ("sub", "", "/project/sub"),
        ("", "", "/project"),  # nbconvert, papermill and console give none
        ("", "abc", ""),
        ("/", "", ""),
    ],
)
def test_a_kernel_works_where_a_local_one_would(cwd, attach, folder, monkeypatch):
    monkeypatch.setattr(os, "getcwd", lambda: "/project")
    assert _folder(cwd, attach) == folder
