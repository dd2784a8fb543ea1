"""`diff`: exactly what was changed is shown, and the kernel that is asked does not notice."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from jupyter_vsandbox import cli
from jupyter_vsandbox.core import inventories
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.model import State

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Home
    from tests.kernel.conftest import Kernel, StartKernel

pytestmark = [pytest.mark.machine, pytest.mark.timeout(900)]

BEGIN = """
import threading, types, numpy as np, pandas as pd
frame = pd.DataFrame({'a': range(100_000), 'b': ['x'] * 100_000})
words, lock, made = {'one', 'two', 'three'}, threading.Lock(), (i for i in range(3))
def twice(x): return 2 * x
gone = 1
old = sorted(globals())
"""
CHANGE = """
import pathlib, site, shutil
frame.loc[5, 'a'] = -1
extra = np.zeros(1000)
def twice(x): return x + x
del gone
home = pathlib.Path('/home/jovyan')
(home / 'new.txt').write_text('12345')
(home / 'folder').mkdir()
for name in 'abc': (home / 'folder' / name).write_text('')
packages = pathlib.Path(site.getsitepackages()[0])
[info] = packages.glob('pandas-*.dist-info')
metadata = info / 'METADATA'
metadata.write_text(metadata.read_text().replace('\\nVersion: ', '\\nVersion: 1!', 1))
made_up = packages / 'Made_Up-7.0.dist-info'
made_up.mkdir()
(made_up / 'METADATA').write_text('Metadata-Version: 2.1\\nName: Made_Up\\nVersion: 7.0\\n')
"""


def diff(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert cli.main(["diff", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def changes(document: Any, section: str) -> dict[str, str]:
    """What became of each thing, by its name."""
    part = document[section]
    assert part["compared"], part["note"]
    return {each.get("name", each.get("path")): each["change"] for each in part["changes"]}


def ask(kernel: Kernel) -> list[Any]:
    """Execution count and namespace, as a cell that counts sees them."""
    reply = kernel.client.execute_interactive("names = sorted(globals())", timeout=60)
    return [
        reply["content"]["execution_count"],
        kernel.value("[n for n in names if n != 'names' and n[:2] != '_i']"),
    ]


def test_what_was_changed_is_shown_and_nothing_else(
    start_kernel: StartKernel, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.ipynb"
    cells = [new_code_cell("x = 1\ny = 2"), new_code_cell("print(x)")]
    nbformat.write(new_notebook(cells=cells), path)
    kernel = start_kernel(JPY_SESSION_NAME=str(path))
    kernel.run(BEGIN)
    sandbox_id = kernel.sandbox.id
    with SandboxService(home.settings) as service:
        taken = asyncio.run(service.snapshot(sandbox_id, "first"))

        before = ask(kernel)
        kernel.run("del names")
        same = diff(capsys, sandbox_id)
        after = ask(kernel)
        assert after[0] == before[0] + 3  # `value` and `del`, and none of ours
        assert set(after[1]) ^ set(before[1]) == {"json"}
        for section in ("packages", "files", "cells"):
            assert changes(same, section) == {}
        # What the cells of this test itself left since the snapshot.
        assert changes(same, "variables") == {"json": "added"}
        assert same["variables"]["unknown"] == ["lock", "made"]
        assert service.inventory_of(taken.id).is_file()
        assert [s.id for s in service.list()] == [sandbox_id]  # the copy is gone

        kernel.run(CHANGE + "\ndel names, json")
        cells[0].source = "x = 1\ny = 3"
        cells[1].execution_count = 5
        nbformat.write(new_notebook(cells=[*cells, new_code_cell("new")]), path)
        found = diff(capsys, f"{sandbox_id}@first", sandbox_id[:8])
        assert changes(found, "packages") == {"pandas": "changed", "Made_Up": "added"}
        [pandas] = [each for each in found["packages"]["changes"] if each["name"] == "pandas"]
        assert pandas["new"] == f"1!{pandas['old']}"
        files = changes(found, "files")
        assert sorted((path.rpartition("/")[2], change) for path, change in files.items()) == [
            ("METADATA", "added"),
            ("METADATA", "changed"),
            ("a", "added"),
            ("b", "added"),
            ("c", "added"),
            ("new.txt", "added"),
        ]
        new = dict.fromkeys(("extra", "home", "info", "made_up", "metadata", "name", "packages"), "added")
        new |= dict.fromkeys(("pathlib", "shutil", "site"), "added")
        assert changes(found, "variables") == new | {
            "frame": "changed",
            "twice": "changed",
            "gone": "removed",
        }
        assert [(c["change"], c["old_number"], c["new_number"]) for c in found["cells"]["changes"]] == [
            ("changed", 1, 1),
            ("added", None, 3),
        ]
        capsys.readouterr()
        assert cli.main(["diff", sandbox_id]) == 0
        said = capsys.readouterr().out
        assert "/home/jovyan/folder/ (3 files)" in said
        assert "+y = 3" in said

        asyncio.run(service.remove_snapshot(taken.id))
        assert not service.inventory_of(taken.id).exists()

        # Another machine, which sleeps and is not woken by it.
        fork = asyncio.run(service.fork(sandbox_id))
        asyncio.run(service.hibernate(fork.id))
        kernel.run("later = 1")
        across = diff(capsys, fork.id, sandbox_id)
        for section in ("packages", "files"):
            assert changes(across, section) == {}
        assert changes(across, "variables") == {"later": "added"}
        assert service.get(fork.id).state is State.HIBERNATED

        # In the middle of a cell, where nobody wants to wait for its end.
        kernel.client.execute("open('/home/jovyan/within', 'w').close(); import time; time.sleep(300)")
        found = diff(capsys, fork.id, sandbox_id, "--now")
        assert changes(found, "files") == {"/home/jovyan/within": "added"}
        assert not found["variables"]["compared"]


def test_of_a_disk_and_of_a_kernel_in_a_cell_only_files_and_packages_are_told(
    start_kernel: StartKernel, home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    kernel = start_kernel()
    sandbox_id = kernel.sandbox.id
    with SandboxService(home.settings) as service:
        disk = asyncio.run(service.snapshot(sandbox_id, "disk", memory=False))
        kernel.run("open('/home/jovyan/later', 'w').write('1')")
        kernel.client.execute("import time; time.sleep(60)")
        while kernel.client.get_iopub_msg(timeout=30)["msg_type"] != "execute_input":
            pass  # it has not begun yet
        asyncio.run(service.snapshot(sandbox_id, "within", now=True))
        found = diff(capsys, f"{sandbox_id}@disk", f"{sandbox_id}@within")
        assert changes(found, "files") == {"/home/jovyan/later": "added"}
        assert changes(found, "packages") == {}
        assert "disk holds no memory; it is in the middle of a cell" in found["variables"]["note"]
        assert not found["cells"]["compared"]
        # A stopped machine is looked at without a trace.
        asyncio.run(service.stop(sandbox_id))
        history, record, every = service.history(sandbox_id), service.get(sandbox_id), service.list()
        now = asyncio.run(inventories.inventory(service, inventories.find(service, sandbox_id)))
        assert now.files is not None
        assert "/home/jovyan/later" in now.files
        assert now.variables is None
        assert service.history(sandbox_id) == history
        assert service.get(sandbox_id) == record
        assert service.list() == every
        assert service.inventory_of(disk.id).is_file()
