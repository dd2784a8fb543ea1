"""A notebook and its machine find each other: after it moved, after a process ended, after a reboot."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox.core.departure import hibernate_own
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.model import State
from jupyter_vsandbox.drivers.qemu.driver import QemuDriver
from tests.kernel.conftest import ANSWER_SECONDS, RUNTIME, START_SECONDS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.conftest import Home, Until
    from tests.kernel.conftest import Kernel, StartKernel

pytestmark = pytest.mark.machine

COUNT = "import time\nn = 0\nprint('begun', flush=True)\nwhile n < 50:\n    n += 1\n    time.sleep(0.1)"


@pytest.fixture
def service(home: Home) -> Iterator[SandboxService]:
    with SandboxService(home.settings) as service:
        yield service


def notebook(home: Home, name: str) -> str:
    return str(home.settings.home.parent / f"{name}.ipynb")


def begin(kernel: Kernel, code: str) -> str:
    """Start a cell that prints something first."""
    asked = kernel.client.execute(code)
    while True:
        message = kernel.client.get_iopub_msg(timeout=START_SECONDS)
        if message["parent_header"].get("msg_id") == asked and message["msg_type"] == "stream":
            return asked


def write(home: Home, name: str, text: str) -> Path:
    path = home.settings.home.parent / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_a_machine_follows_its_notebook_while_it_runs(
    start_kernel: StartKernel, home: Home, service: SandboxService
) -> None:
    old, new = write(home, "old.ipynb", "old cells"), write(home, "sub/new.ipynb", "new cells")
    kernel = start_kernel(JPY_SESSION_NAME=str(old))
    sandbox_id = kernel.sandbox.id
    kernel.run("x = 1")

    service.rebind(str(old), str(new))

    assert kernel.sandbox.notebook == str(new)
    taken = asyncio.run(service.snapshot(sandbox_id))
    assert service.cells_of(taken.id).read_text() == "new cells"
    write(home, "sub/new.ipynb", "changed")
    asyncio.run(service.rollback(sandbox_id, taken.id, cells=True))
    assert (old.read_text(), new.read_text()) == ("old cells", "new cells")
    left = service.find_snapshot(sandbox_id, "before-rollback-1")
    assert service.cells_of(left.id).read_text() == "changed"
    assert kernel.value("x") == 1

    # The next notebook of the old path is another one, and finds nothing of it.
    service.unbind(str(old))
    other = start_kernel(JPY_SESSION_NAME=str(old))
    assert other.sandbox.id != sandbox_id


def test_cells_that_were_edited_while_the_machine_slept_are_kept_by_a_rollback(
    start_kernel: StartKernel, home: Home, service: SandboxService
) -> None:
    path = write(home, "slept.ipynb", "first")
    kernel = start_kernel(JPY_SESSION_NAME=str(path))
    sandbox_id = kernel.sandbox.id
    taken = asyncio.run(service.snapshot(sandbox_id, "first"))
    kernel.run("x = 'second'")
    asyncio.run(service.hibernate(sandbox_id))
    path.write_text("edited while it slept")
    path.chmod(0o640)

    asyncio.run(service.rollback(sandbox_id, taken.id, cells=True))

    assert path.read_text() == "first"
    assert path.stat().st_mode & 0o777 == 0o640
    assert kernel.value("'x' in globals()") is False
    left = service.history(sandbox_id)[-1]
    assert service.cells_of(left.id).read_text() == "edited while it slept"
    asyncio.run(service.rollback(sandbox_id, left.id, cells=True))
    assert path.read_text() == "edited while it slept"
    assert kernel.value("x") == "second"


def test_the_second_kernel_of_a_notebook_is_told_that_it_has_a_machine_of_its_own(
    start_kernel: StartKernel, home: Home, service: SandboxService, caplog: pytest.LogCaptureFixture
) -> None:
    path = notebook(home, "twice")
    first = start_kernel(JPY_SESSION_NAME=path)
    first.run("x = 1")
    second = start_kernel(JPY_SESSION_NAME=path)
    ids = {s.id for s in service.list() if s.notebook == path}
    assert ids == {first.sandbox.id, second.sandbox.id}
    said = f"{path} runs in two kernels at once; this one has a new machine, {second.sandbox.id}."
    assert said in caplog.text

    printed: list[str] = []
    second.client.execute_interactive(
        "x = 2",
        timeout=ANSWER_SECONDS,
        output_hook=lambda each: printed.append(each["content"].get("text", "")),
    )
    assert said in "".join(printed)
    assert second.run("print(x)") == "2\n"
    assert first.run("print(x)") == "1\n"

    # Nothing is lost, and of those that are free the newest is found.
    second_id = second.sandbox.id
    second.client.stop_channels()
    second.manager.shutdown_kernel()
    assert service.bound(path, RUNTIME) == second_id


CRASH = """
import os, signal, sys
from jupyter_client.manager import start_new_kernel
env = os.environ | {"JPY_SESSION_NAME": sys.argv[1]}
manager, client = start_new_kernel(kernel_name="vsandbox-python-3.11", env=env)
client.execute_interactive("x = 'here'; open('/home/jovyan/x', 'w').write(x); import os; os.sync()")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_after_a_reboot_notebooks_go_on_from_what_was_hibernated_or_from_the_disk(
    start_kernel: StartKernel, home: Home, service: SandboxService, until: Until
) -> None:
    notebooks = {name: notebook(home, name) for name in ("asleep", "running")}
    for path in notebooks.values():
        crashed = subprocess.run([sys.executable, "-c", CRASH, path], check=False, timeout=2 * START_SECONDS)
        assert crashed.returncode == -signal.SIGKILL
    ids = {s.notebook: s.id for s in service.list() if s.notebook in notebooks.values()}
    asyncio.run(service.hibernate(ids[notebooks["asleep"]]))
    for process in home.processes():
        os.kill(process, signal.SIGKILL)
    until(lambda: not home.processes())
    shutil.rmtree(home.settings.sockets)
    assert service.get(ids[notebooks["running"]]).state is State.RUNNING  # as far as anybody knows

    for name, found in (("asleep", [True, "here"]), ("running", [False, "here"])):
        kernel = start_kernel(JPY_SESSION_NAME=notebooks[name])
        assert kernel.sandbox.id == ids[notebooks[name]]
        assert kernel.value("['x' in globals(), open('/home/jovyan/x').read()]") == found


def test_what_a_process_leaves_behind_when_it_ends(
    start_kernel: StartKernel, home: Home, service: SandboxService
) -> None:
    quiet = start_kernel(JPY_SESSION_NAME=notebook(home, "quiet"))
    quiet.run("x = 1")
    busy = start_kernel(JPY_SESSION_NAME=notebook(home, "busy"))
    begin(busy, COUNT)
    nobody = start_kernel()
    nobody.run("x = 1")
    ids = {quiet.sandbox.id, busy.sandbox.id}

    slept = asyncio.run(hibernate_own(service, START_SECONDS))

    assert {sandbox.id for sandbox in slept} == ids
    assert home.processes() == [nobody.process]
    for kernel in (quiet, busy, nobody):
        kernel.client.stop_channels()
        kernel.manager.shutdown_kernel()
    left = {s.id: s.state for s in home.records() if s.id in ids or s.kernel_id}
    assert left == dict.fromkeys(ids, State.HIBERNATED)

    again = start_kernel(JPY_SESSION_NAME=notebook(home, "quiet"))
    assert again.sandbox.id in ids
    assert again.value("x") == 1
    # The cell went on from where it was.
    again = start_kernel(JPY_SESSION_NAME=notebook(home, "busy"))
    assert again.sandbox.id in ids
    assert again.value("n") == 50


def test_where_the_disk_is_full_the_machine_stops_and_keeps_its_disk(
    start_kernel: StartKernel,
    home: Home,
    service: SandboxService,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    kernel = start_kernel(JPY_SESSION_NAME=notebook(home, "full"))
    kernel.run("open('/home/jovyan/x', 'w').write('here')")
    sandbox_id = kernel.sandbox.id

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(QemuDriver, "_keep", full)
        assert sandbox_id not in [s.id for s in asyncio.run(hibernate_own(service, START_SECONDS))]
    assert f"Sandbox {sandbox_id} could not be hibernated, only its disk is kept" in caplog.text
    assert kernel.value("open('/home/jovyan/x').read()") == "here"
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel()
    assert service.get(sandbox_id).state is State.STOPPED


ENDS = """
import os, sys
from jupyter_client.manager import start_new_kernel
env = os.environ | {"JPY_SESSION_NAME": sys.argv[1]}
manager, client = start_new_kernel(kernel_name="vsandbox-python-3.11", env=env)
client.execute_interactive("x = 'still here'")
"""


def test_a_process_that_ends_with_a_kernel_hibernates_its_machine(
    start_kernel: StartKernel, home: Home, service: SandboxService
) -> None:
    path = notebook(home, "ended")
    subprocess.run([sys.executable, "-c", ENDS, path], check=True, timeout=2 * START_SECONDS)
    [left] = [sandbox for sandbox in service.list() if sandbox.notebook == path]
    assert (left.state, left.owner) == (State.HIBERNATED, "")
    kernel = start_kernel(JPY_SESSION_NAME=path)
    assert kernel.sandbox.id == left.id
    assert kernel.value("x") == "still here"
