"""A machine, agent, kernel or owner that is killed: noticed soon, mended by a restart, and nothing left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

from jupyter_vsandbox.core.service import SandboxService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conftest import Home, Until
    from tests.kernel.conftest import Kernel, StartKernel

pytestmark = pytest.mark.machine

KERNEL = "vsandbox-python-3.11"
NOTICE_SECONDS = 60.0
KILL_AGENT = "!sudo systemctl kill --signal=KILL vsandbox-agent"
KILL_KERNEL = "import os; os.kill(os.getpid(), 9)"
KILL_MACHINE = "!echo b | sudo tee /proc/sysrq-trigger"

# A program that has a kernel, says so, and does not end by itself.
OWNER = f"""
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name={KERNEL!r})
print("ready", flush=True)
client.execute_interactive("import time; time.sleep(1000)")
"""


def kill_machine(kernel: Kernel) -> None:
    os.kill(kernel.process, signal.SIGKILL)


def kill_agent(kernel: Kernel) -> None:
    kernel.client.execute(KILL_AGENT)


def kill_kernel(kernel: Kernel) -> None:
    kernel.client.execute(KILL_KERNEL)


@pytest.mark.parametrize("kill", [kill_machine, kill_agent, kill_kernel])
def test_a_killed_kernel_is_seen_to_be_dead_and_restarts(
    start_kernel: StartKernel, home: Home, until: Until, kill: Callable[[Kernel], None]
) -> None:
    kernel = start_kernel()
    kernel.run("open('/home/jovyan/kept', 'w').write('here')\n!sync")
    sandbox = kernel.sandbox.id
    assert kernel.manager.is_alive()

    kill(kernel)
    until(lambda: not kernel.manager.is_alive(), NOTICE_SECONDS)

    kernel.restart()
    assert kernel.manager.is_alive()
    assert kernel.value("open('/home/jovyan/kept').read()") == "here"
    assert kernel.sandbox.id == sandbox

    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel()
    assert home.leftovers() == []


@pytest.mark.parametrize("code", [KILL_MACHINE, KILL_AGENT, KILL_KERNEL])
def test_a_notebook_run_ends_with_dead_kernel_error(home: Home, code: str) -> None:
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(f"{code}\nimport time; time.sleep(1000)")]
    )
    with pytest.raises(DeadKernelError):
        NotebookClient(notebook, kernel_name=KERNEL, timeout=NOTICE_SECONDS).execute()
    assert home.leftovers() == []


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[str]]:
    """A process with a kernel that runs a cell for long."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd="/"
    )
    try:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        yield owner
    finally:
        owner.kill()
        owner.communicate()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_owner_leaves_nothing_once_somebody_looks(
    home: Home, owner: subprocess.Popen[str], number: int
) -> None:
    assert len(home.records()) == len(home.processes()) == 1
    owner.send_signal(number)
    owner.wait(NOTICE_SECONDS)
    assert home.leftovers() != []

    with SandboxService(home.settings) as service:
        asyncio.run(service.reconcile())

    assert home.leftovers() == []


def test_an_interrupted_owner_leaves_nothing(home: Home, owner: subprocess.Popen[str]) -> None:
    owner.send_signal(signal.SIGINT)
    owner.wait(NOTICE_SECONDS)
    assert home.leftovers() == []
