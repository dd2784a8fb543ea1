"""Kernels in machines, started the way Jupyter starts them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import pytest
from jupyter_client.manager import KernelManager

from jupyter_vsandbox.kernel.specs import spec_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jupyter_client.blocking import BlockingKernelClient

    from jupyter_vsandbox.domain.model import Sandbox
    from tests.conftest import Home, NewHome

RUNTIME = "python-3.11"
START_SECONDS = 60.0
ANSWER_SECONDS = 60.0


@dataclass
class Kernel:
    """A running kernel and one client of it."""

    home: Home
    manager: KernelManager
    client: BlockingKernelClient

    @property
    def sandbox(self) -> Sandbox:
        """The record of its machine."""
        return next(sandbox for sandbox in self.home.records() if sandbox.kernel_id == self.manager.kernel_id)

    @property
    def process(self) -> int:
        """The pid of its QEMU."""
        return int((self.home.settings.sandboxes / self.sandbox.id / "pid").read_text())

    def run(self, code: str, client: BlockingKernelClient | None = None) -> str:
        """Run a cell that must succeed and return what it printed."""
        printed = []

        def collect(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = (client or self.client).execute_interactive(
            code, timeout=ANSWER_SECONDS, output_hook=collect, allow_stdin=False
        )
        content = reply["content"]
        assert content["status"] == "ok", "\n".join(content.get("traceback", [str(content)]))
        return "".join(printed)

    def value(self, expression: str, before: str = "") -> Any:
        """The value of an expression in the kernel, through JSON."""
        return json.loads(self.run(f"{before}\nimport json\nprint(json.dumps({expression}))"))

    def restart(self) -> None:
        """Restart it and wait until it answers."""
        self.manager.restart_kernel(now=True)
        self.client.wait_for_ready(timeout=START_SECONDS)


class StartKernel(Protocol):
    """Starts kernels that are shut down when the test, or the module, is over."""

    def __call__(self, *arguments: str, **env: str) -> Kernel:
        """Start one with `arguments` added to its command line and `env` to its environment."""


@pytest.fixture(scope="module")
def home(new_home: NewHome) -> Iterator[Home]:
    """The home of a module's kernels."""
    with new_home() as home:
        yield home


@pytest.fixture(scope="module")
def kernel(home: Home) -> Iterator[Kernel]:
    """One kernel for all tests of a module."""
    kernel = _start(home, {})
    try:
        yield kernel
    finally:
        _shut_down(kernel)


@pytest.fixture
def start_kernel(home: Home) -> Iterator[StartKernel]:
    """Starts kernels of one test's own."""
    kernels = []

    def start(*arguments: str, **env: str) -> Kernel:
        kernels.append(_start(home, env, arguments))
        return kernels[-1]

    yield start
    for kernel in kernels:
        _shut_down(kernel)


def _start(home: Home, env: dict[str, str], arguments: Sequence[str] = (), cwd: str = os.sep) -> Kernel:
    """Start a kernel; in ``/``, of which a machine gets nothing, unless `cwd` is given."""
    manager = KernelManager(kernel_name=spec_name(RUNTIME))
    manager.start_kernel(env=os.environ | env, extra_arguments=list(arguments), cwd=cwd)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=START_SECONDS)
    return Kernel(home, manager, client)


def _shut_down(kernel: Kernel) -> None:
    kernel.client.stop_channels()
    if kernel.manager.has_kernel:
        kernel.manager.shutdown_kernel(now=True)
