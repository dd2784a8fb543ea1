"""The notebook's folder in its machine, through all that can happen to the machine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox.core import inventories
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.guest.protocol import WORKSPACE
from tests.kernel.conftest import RUNTIME, _shut_down, _start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Home, NewHome, Until
    from tests.kernel.conftest import Kernel

pytestmark = pytest.mark.machine

SEEN_SECONDS = 30.0
OUTCOME = """
def outcome(do):
    try:
        return do()
    except OSError as error:
        return type(error).__name__, error.errno
"""
EIO = 5


def folder_of(home: Home) -> Path:
    """The folder of the notebooks in a home."""
    return home.settings.home.parent / "project"


def furnish(folder: Path) -> Path:
    """A folder as somebody would have it; returns its notebook."""
    folder.mkdir()
    (folder / "data.csv").write_text("a,b\n1,2\n")
    (folder / "helpers.py").write_text("answer = 42\n")
    (folder / ".secret").write_text("key")
    (folder / "up").symlink_to("..")
    (folder / "link").symlink_to("data.csv")
    notebook = folder / "notebook.ipynb"
    notebook.write_text("{}")
    return notebook


@pytest.fixture(scope="module")
def kernel(home: Home) -> Iterator[Kernel]:
    """A notebook's kernel for all tests of this module but the last two."""
    kernel = _start(home, {"JPY_SESSION_NAME": str(furnish(folder_of(home)))})
    try:
        kernel.run(OUTCOME)
        yield kernel
    finally:
        _shut_down(kernel)


@pytest.fixture
def folder(home: Home, kernel: Kernel) -> Path:
    """The folder of that notebook."""
    return folder_of(home)


@pytest.fixture
def service(home: Home) -> Iterator[SandboxService]:
    with SandboxService(home.settings) as service:
        yield service


def test_a_notebook_reads_imports_and_writes_as_it_does_natively(
    kernel: Kernel, folder: Path, until: Until
) -> None:
    assert kernel.value("os.getcwd()", "import os") == WORKSPACE
    kernel.run("import helpers, pandas as pd\nframe = pd.read_csv('data.csv')")
    assert kernel.value("[helpers.answer, int(frame.b[0])]") == [42, 2]
    kernel.run(
        "frame.to_csv('out.csv', index=False)\nos.mkdir('made')\nopen('made/x', 'wb').write(bytes(300_000))"
    )
    assert (folder / "out.csv").read_text() == (folder / "data.csv").read_text()
    assert (folder / "made" / "x").read_bytes() == bytes(300_000)
    kernel.run("os.replace('made/x', 'out.csv')\nos.rmdir('made')\nopen('out.csv', 'a').write('end')")
    assert (folder / "out.csv").read_bytes() == bytes(300_000) + b"end"
    # What changes on the host is seen, soon.
    (folder / "data.csv").write_text("a,b\n3,4,5\n")
    (folder / "late.txt").write_text("late")
    until(lambda: kernel.value("open('data.csv').read()") == "a,b\n3,4,5\n", SEEN_SECONDS)
    until(lambda: kernel.value("os.path.exists('late.txt')"), SEEN_SECONDS)


def test_what_is_hidden_or_outside_is_not_there(kernel: Kernel, folder: Path) -> None:
    listed = set(kernel.value("os.listdir()", "import os"))
    assert {"data.csv", "notebook.ipynb", "up"} <= listed
    assert not any(name.startswith(".") for name in listed)
    assert kernel.value("os.path.exists('.secret')") is False
    assert kernel.value("outcome(lambda: open('.bashrc', 'w'))") == ["PermissionError", 13]
    # A link leads where it says, in the guest; newer versions of sshfs follow none that leads out.
    assert kernel.value("open('link').read() == open('data.csv').read()") is True
    assert kernel.value("os.path.exists('up/home')") is False
    assert kernel.value("outcome(lambda: os.symlink('/etc', 'etc'))")[0] in ("PermissionError", "OSError")
    assert kernel.value("outcome(lambda: os.mkfifo('pipe'))")[0] in ("PermissionError", "OSError")
    assert not (folder / "etc").is_symlink()


def test_it_is_not_rolled_back_and_goes_on_after_that(
    kernel: Kernel, folder: Path, service: SandboxService
) -> None:
    (folder / "large").write_bytes(bytes(4_000_000))
    kernel.run("file = open('large', 'rb', 0)\nfile.read(9)\nx = 1\nopen('/home/jovyan/inside', 'w').close()")
    taken = asyncio.run(service.snapshot(kernel.sandbox.id))
    kernel.run("x = 2\nopen('after.txt', 'w').write('kept')\nos.remove('/home/jovyan/inside')")

    asyncio.run(service.rollback(kernel.sandbox.id, taken.id))

    assert kernel.value("[x, os.path.exists('/home/jovyan/inside')]") == [1, True]
    assert kernel.value("open('after.txt').read()") == "kept"
    assert kernel.value("outcome(lambda: os.pread(file.fileno(), 9, 3_000_000))") == ["OSError", EIO]
    kernel.run("open('again.txt', 'w').write('written')")
    assert (folder / "again.txt").read_text() == "written"


def test_it_is_there_after_a_night_and_a_restart(
    kernel: Kernel, folder: Path, service: SandboxService
) -> None:
    asyncio.run(service.hibernate(kernel.sandbox.id))
    (folder / "data.csv").write_text("changed while it slept")
    assert kernel.value("open('data.csv').read()") == "changed while it slept"
    kernel.restart()
    kernel.run(OUTCOME)
    assert kernel.value("[os.getcwd(), open('data.csv').read()]", "import os") == [
        WORKSPACE,
        "changed while it slept",
    ]


def test_a_fork_shares_it_and_a_comparison_reads_it(
    kernel: Kernel, home: Home, folder: Path, service: SandboxService
) -> None:
    fork = asyncio.run(service.fork(kernel.sandbox.id))
    assert fork.workspace == str(folder)
    other = _start(home, {"VSANDBOX_ATTACH": fork.id})
    try:
        other.run("open('from-fork.txt', 'w').write('fork')")
        assert kernel.value("open('from-fork.txt').read()") == "fork"
    finally:
        _shut_down(other)
    asyncio.run(service.delete(fork.id))
    compared = kernel.value(
        f"ask('compare', code={COMPARED!r}, runtimes=[{RUNTIME!r}])",
        "from vsandbox_guest.asking import ask",
    )
    [column] = compared["columns"]
    [output] = column["cells"][0]["outputs"]
    assert output["text"].split() == ["fork", "PermissionError"]
    assert not (folder / "compared.txt").exists()


COMPARED = """
print(open('from-fork.txt').read())
try:
    open('compared.txt', 'w')
except OSError as error:
    print(type(error).__name__)
"""


def test_no_inventory_looks_into_it(kernel: Kernel, service: SandboxService) -> None:
    point = inventories.Point(kernel.sandbox, None)
    found = asyncio.run(inventories.inventory(service, point))
    assert found.files
    assert not any(path.startswith(WORKSPACE) for path in found.files)


def test_it_follows_the_notebook(kernel: Kernel, home: Home, folder: Path, service: SandboxService) -> None:
    elsewhere = home.settings.home.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "other.txt").write_text("other")
    service.rebind(str(folder / "notebook.ipynb"), str(elsewhere / "notebook.ipynb"))
    assert kernel.value("os.listdir()", "import os") == ["other.txt"]
    # Its kernel is shut down and started again, in the machine as it was left.
    _shut_down(kernel)
    again = _start(home, {"JPY_SESSION_NAME": str(elsewhere / "notebook.ipynb")})
    try:
        assert again.value("os.listdir()", "import os") == ["other.txt"]
    finally:
        _shut_down(again)


def test_a_kernel_that_is_given_no_folder_has_that_of_who_starts_it(
    new_home: NewHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_home() as home:
        furnish(folder_of(home))
        monkeypatch.chdir(folder_of(home))
        kernel = _start(home, {}, cwd="")
        try:
            assert kernel.value("open('data.csv').read()") == "a,b\n1,2\n"
        finally:
            _shut_down(kernel)


def test_a_machine_may_only_read_it(new_home: NewHome) -> None:
    with new_home(workspace="read") as home:
        kernel = _start(home, {"JPY_SESSION_NAME": str(furnish(folder_of(home)))})
        try:
            kernel.run(OUTCOME + "import os, helpers")
            assert kernel.value("[helpers.answer, os.getcwd()]") == [42, WORKSPACE]
            for change in (
                "open('data.csv', 'w')",
                "os.remove('data.csv')",
                "os.mkdir('x')",
                "os.rename('up', 'x')",
            ):
                assert kernel.value(f"outcome(lambda: {change})") == ["PermissionError", 13]
            assert (folder_of(home) / "data.csv").read_text() == "a,b\n1,2\n"
        finally:
            _shut_down(kernel)


def test_where_there_is_none_the_kernel_works_in_its_own_home(new_home: NewHome) -> None:
    with new_home(workspace="none") as home:
        kernel = _start(home, {"JPY_SESSION_NAME": str(furnish(folder_of(home)))})
        try:
            kernel.run(OUTCOME + "import os\nopen('mine.txt', 'w').write('here')")
            assert kernel.value("[os.getcwd(), os.listdir('work')]") == ["/home/jovyan", []]
            assert kernel.value("outcome(lambda: open('work/x', 'w'))") == ["PermissionError", 13]
            kernel.restart()
            assert kernel.value("[os.getcwd(), open('mine.txt').read()]", "import os") == [
                "/home/jovyan",
                "here",
            ]
        finally:
            _shut_down(kernel)
