"""Export and import: a sandbox goes on in a home that shares nothing with its own but the image."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from jupyter_vsandbox import cli
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.model import MIB, State
from tests.kernel.conftest import Kernel, _shut_down, _start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Home, NewHome, Until

pytestmark = [pytest.mark.machine, pytest.mark.timeout(900)]

BEGIN = """
import pathlib, random, site, socket
pathlib.Path('/home/jovyan/mine.txt').write_text('on the disk')
package = pathlib.Path(site.getsitepackages()[0], 'made_up.py')
package.write_text('answer = 42')
words, numbers, file = ['in', 'memory'], iter(range(9)), open('/home/jovyan/mine.txt')
next(numbers), file.read(3)
frame = bytes(range(256)) * (20 << 12)
"""
LATER = "words = 'later'; pathlib.Path('/home/jovyan/mine.txt').write_text('later')"
MEMORY = "[words, next(numbers), file.read(), len(frame), frame[-1]]"
DISK = "[open('/home/jovyan/mine.txt').read(), __import__('made_up').answer]"
IDENTITY = "[open('/etc/machine-id').read(), __import__('socket').gethostname(), os.urandom(8).hex()]"


@dataclass(frozen=True)
class Exported:
    """A running kernel, exported as it was at a snapshot, and gone on since."""

    kernel: Kernel
    archive: Path
    notebook: str
    told: dict[str, Any]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("archives")


@pytest.fixture(scope="module")
def exported(home: Home, folder: Path) -> Iterator[Exported]:
    notebook = folder / "mine.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("words")]), notebook)
    kernel = _start(home, {"JPY_SESSION_NAME": str(notebook)})
    try:
        kernel.run(BEGIN)
        with SandboxService(home.settings) as service:
            asyncio.run(service.snapshot(kernel.sandbox.id, "first", "before the change"))
        kernel.run(LATER)
        cells = notebook.read_text()
        notebook.write_text("later")
        archive = folder / "mine.vsandbox"
        capture = run("export", f"{kernel.sandbox.id}@first", str(archive))
        yield Exported(kernel, archive, cells, capture)
    finally:
        _shut_down(kernel)


def run(*words: str, code: int = 0) -> dict[str, Any]:
    """Run a command as in a shell; its JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "jupyter_vsandbox.cli", *words, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return dict(json.loads(done.stdout), said=done.stderr)


def attach(home: Home, sandbox_id: str) -> Kernel:
    return _start(home, {"VSANDBOX_ATTACH": sandbox_id})


def test_it_goes_on_with_all_it_had_as_another_machine(exported: Exported, new_home: NewHome) -> None:
    told = exported.told
    assert exported.archive.stat().st_mode & 0o777 == 0o600
    assert exported.archive.stat().st_size == told["size_bytes"]
    assert told["holds"] == ["memory", "disk"]
    assert told["estimated_bytes"] / 2 < told["size_bytes"] < told["estimated_bytes"] * 2
    assert told["said"].startswith("About ")
    with new_home(own_templates=True) as other:
        made = run("import", str(exported.archive), "--name", "guest")
        assert (made["state"], made["snapshot"]) == ("hibernated", "first")
        with SandboxService(other.settings) as service:
            [begin] = service.history(made["id"])
            assert (begin.name, begin.note, begin.memory) == ("first", "before the change", True)
            assert service.cells_of(begin.id).read_text() == exported.notebook
            assert (service.get(made["id"]).notebook, service.get(made["id"]).name) == ("", "guest")
            kernel = attach(other, made["id"])
            try:
                assert kernel.value(MEMORY) == [["in", "memory"], 1, "the disk", 20 * MIB, 255]
                assert kernel.value(DISK) == ["on the disk", 42]
                ours = exported.kernel.value(IDENTITY, "import os")
                assert not set(kernel.value(IDENTITY, "import os")) & set(ours)
                assert "words" in kernel.value("sorted(globals())")
                kernel.run(LATER)
                service_snapshot = asyncio.run(service.snapshot(made["id"], "second"))
                assert service_snapshot.size < begin.size / 2
                asyncio.run(service.rollback(made["id"], begin.id))
                assert kernel.value("[words, next(numbers)]") == [["in", "memory"], 1]
                asyncio.run(service.rollback(made["id"], service_snapshot.id))
                assert kernel.value("words") == "later"
            finally:
                _shut_down(kernel)
            assert service.get(made["id"]).state is State.STOPPED
    assert exported.kernel.value("words") == "later"


def test_of_the_present_the_disk_alone_can_go(exported: Exported, new_home: NewHome, folder: Path) -> None:
    sandbox_id = exported.kernel.sandbox.id
    with SandboxService(exported.kernel.home.settings) as service:
        before = service.history(sandbox_id), service.get(sandbox_id)
        size = run("export", sandbox_id, "--disk-only", "--dry-run")
        told = run("export", sandbox_id, str(folder / "disk"), "--disk-only")
        assert told["estimated_bytes"] == pytest.approx(size["estimated_bytes"], rel=0.5)
        assert told["holds"] == ["disk"]
        assert (service.history(sandbox_id), service.get(sandbox_id)) == before
        assert exported.kernel.value("words") == "later"
    assert run("export", sandbox_id, str(folder / "disk"), code=4)["error"]["kind"] == "Conflict"
    with new_home(own_templates=True) as other:
        made = run("import", str(folder / "disk"))
        assert (made["state"], made["snapshot"]) == ("stopped", "exported")
        kernel = attach(other, made["id"])
        try:
            assert kernel.value(DISK) == ["later", 42]
        finally:
            _shut_down(kernel)


def test_memory_that_does_not_fit_here_is_refused_and_the_disk_can_be_had(
    exported: Exported, new_home: NewHome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with new_home(own_templates=True) as other:
        monkeypatch.setattr("jupyter_vsandbox.drivers.qemu.accel.qemu_version", lambda: "99.0")
        assert cli.main(["import", str(exported.archive)]) == 6
        said = capsys.readouterr().err
        assert "QEMU version" in said
        assert "disk only" in said
        assert other.leftovers() == []
        assert cli.main(["import", str(exported.archive), "--disk-only"]) == 0
        [made] = other.records()
        assert made.state is State.STOPPED


def test_where_the_image_has_another_disk_the_image_must_come_along(
    exported: Exported, new_home: NewHome, folder: Path
) -> None:
    whole = folder / "whole"
    told = run("export", f"{exported.kernel.sandbox.id}@first", str(whole), "--whole")
    assert told["holds"] == ["memory", "disk", "image"]
    with new_home(own_templates=True) as other:
        images = other.settings.images
        shared = images.resolve()
        images.unlink()
        shutil.copytree(shared / told["image"], images / told["image"])
        disk = images / told["image"] / "disk.qcow2"
        disk.chmod(0o600)
        with open(disk, "r+b") as file:
            file.seek(-1, 2)
            file.write(b"x")
        refused = run("import", str(exported.archive), code=6)["error"]
        assert "--whole" in refused["message"]
        assert other.leftovers() == []

        made = run("import", str(whole))
        assert made["image"] != told["image"]
        kernel = attach(other, made["id"])
        try:
            assert kernel.value(MEMORY) == [["in", "memory"], 1, "the disk", 20 * MIB, 255]
            assert kernel.value(DISK) == ["on the disk", 42]
        finally:
            _shut_down(kernel)
        # From now on the image is here, and stays as long as somebody needs it.
        again = run("import", str(exported.archive))
        assert again["image"] == made["image"]
        run("images", "rm", made["image"], code=4)
        run("rm", made["id"], again["id"])
        run("images", "rm", made["image"])
        assert disk.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_one_that_is_cut_off_leaves_nothing(
    exported: Exported, tmp_path: Path, until: Until, number: signal.Signals
) -> None:
    kernel = exported.kernel
    # A shell's background jobs ignore Ctrl-C, and what they start does, too.
    words = ["env", "--default-signal=INT", sys.executable, "-m", "jupyter_vsandbox.cli", "export"]
    command = subprocess.Popen(
        [*words, kernel.sandbox.id, str(tmp_path / "cut"), "--whole"], stderr=subprocess.DEVNULL
    )
    until(lambda: list(tmp_path.iterdir()))
    command.send_signal(number)
    assert command.wait(60) != 0
    if number == signal.SIGKILL:  # the next one tidies up
        run("export", kernel.sandbox.id, str(tmp_path / "cut"), "--disk-only")
        (tmp_path / "cut").unlink()
    assert list(tmp_path.iterdir()) == []
    assert list(kernel.home.settings.archives.iterdir()) == []
    with SandboxService(kernel.home.settings) as service:
        assert [each.name for each in service.history(kernel.sandbox.id)] == ["first"]
    assert kernel.value("words") == "later"
