"""Runs the demo notebook in a machine of its own, upgrades what it needs, and goes back, and forth.

Called by ``make demo``; builds and warms the image first if that has not been done, prints what took
how long and leaves the executed notebook in ``build/demo.ipynb``.
"""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from jupyter_vsandbox.config import load_settings
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.errors import SandboxError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_client.blocking import BlockingKernelClient
    from jupyter_client.manager import KernelManager

HERE = Path(__file__).parent
RESULT = HERE.parent / "build" / "demo.ipynb"
RUNTIME = "python-3.11"
SANDBOX = f"vsandbox-{RUNTIME}"
WHERE = "import platform, socket; print(socket.gethostname() + ', ' + platform.python_version())"


def first_result(kernel_name: str) -> tuple[float, str]:
    """Start a kernel, run one cell, end the kernel; seconds to the result, and the result."""
    begin = time.perf_counter()
    # A local ipykernel warns there of its open port.
    manager, client = start_new_kernel(kernel_name=kernel_name, stderr=subprocess.DEVNULL)
    try:
        printed = _printed(client, WHERE)
        return time.perf_counter() - begin, printed
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def _printed(client: BlockingKernelClient, code: str) -> str:
    texts: list[str] = []

    def collect(message: dict) -> None:
        if message["msg_type"] == "stream":
            texts.append(message["content"]["text"])

    client.execute_interactive(code, output_hook=collect, timeout=120)
    return "".join(texts).strip()


def _first_words(notebook: nbformat.NotebookNode) -> str:
    """The machine and the Python that the notebook's first cell printed."""
    text = next(cell for cell in notebook.cells if cell.cell_type == "code").outputs[0]["text"]
    words = dict(line.split() for line in text.splitlines())
    return f"{words['machine']}, {words['python']}"


OLD = "yearly.append(total, ignore_index=True)"
NEW = "pd.concat([yearly, pd.DataFrame([total])], ignore_index=True)"
UPGRADE = "%pip install --quiet --upgrade 'pandas>=2,<3'"


@contextmanager
def kernel(**env: str) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    """A sandbox kernel for the length of a block."""
    manager, client = start_new_kernel(kernel_name=SANDBOX, env=os.environ | env)
    try:
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def outcome(client: BlockingKernelClient, cells: list[str]) -> str:
    """Run cells until one fails; what came of it, and the version of pandas."""
    for cell in cells:
        content = client.execute_interactive(cell, output_hook=lambda _: None, timeout=600)["content"]
        if content["status"] != "ok":
            return f"{content['ename']}: {content['evalue']}"
    return f"works, pandas {_printed(client, 'print(pd.__version__)')}"


def upgrade_story(notebook: nbformat.NotebookNode) -> Iterator[tuple[str, float, str]]:
    """Old works, upgrade, broken, back, works; then keep the upgrade with the notebook mended.

    Yields:
        each step, its seconds and what came of it.
    """
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    with SandboxService(load_settings()) as service, kernel() as (manager, client):
        clock = time.perf_counter

        def lap(step: str, result: str) -> tuple[str, float, str]:
            nonlocal begin
            seconds, begin = clock() - begin, clock()
            return step, seconds, result

        begin = clock()
        yield lap("the notebook", outcome(client, cells))
        (sandbox,) = (s for s in service.list() if s.kernel_id == manager.kernel_id)
        taken = asyncio.run(service.snapshot(sandbox.id, "before the upgrade"))
        yield lap("snapshot", f"{taken.size >> 20} MiB, paused for {taken.pause * 1000:.0f} ms")
        _must(outcome(client, [UPGRADE, "import pandas as pd"]))
        manager.restart_kernel(now=True)
        client.wait_for_ready(timeout=120)
        yield lap("upgrade, restart", "pandas is another one now")
        yield lap("the notebook again", outcome(client, cells))
        asyncio.run(service.rollback(sandbox.id, taken.id))
        kept = _printed(client, "print(len(summary), 'rows of the summary are there')")
        yield lap("rollback", kept)
        yield lap("the notebook again", outcome(client, cells))

        left = next(s for s in service.history(sandbox.id) if s.name.startswith("before-rollback"))
        fork = asyncio.run(service.fork(sandbox.id, left.id))
        yield lap("fork of the upgraded state", "another machine beside the first")
        mended = [cell.replace(OLD, NEW) for cell in cells]
        with kernel(VSANDBOX_ATTACH=fork.id) as (_, other):
            yield lap("the mended notebook, there", outcome(other, mended))
            asyncio.run(service.promote(fork.id))
        yield lap("promote", _printed(client, "print(len(summary), 'rows, pandas', pd.__version__)"))
        asyncio.run(service.delete(sandbox.id))


def _must(result: str) -> None:
    if not result.startswith("works"):
        raise RuntimeError(result)


def main() -> int:
    """Run it all; the exit status is 0 when the notebook ran without an error."""
    console = Console()
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "jupyter_vsandbox.cli", "images", "build", RUNTIME], check=True)
    built = time.perf_counter() - begin
    notebook = nbformat.read(HERE / "demo.ipynb", as_version=4)
    native, native_where = first_result("python3")
    sandbox, sandbox_where = first_result(SANDBOX)
    begin = time.perf_counter()
    NotebookClient(notebook, kernel_name=SANDBOX, timeout=600).execute()
    whole = time.perf_counter() - begin
    notebook_where = _first_words(notebook)
    RESULT.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, RESULT)

    table = Table(
        "step", "seconds", "machine, Python", title="One notebook, its own machine", box=SIMPLE_HEAD
    )
    for step, seconds, where in (
        ("image, built and warm", built, f"{platform.node()}, {platform.python_version()}"),
        ("local kernel, first result", native, native_where),
        ("sandbox kernel, first result", sandbox, sandbox_where),
        ("demo notebook, all of it", whole, notebook_where),
    ):
        table.add_row(step, f"{seconds:7.2f}", where)
    console.print(table)
    story = Table(
        "step", "seconds", "what came of it", title="An upgrade, and both ways out", box=SIMPLE_HEAD
    )
    for step, seconds, result in upgrade_story(nbformat.read(HERE / "demo.ipynb", as_version=4)):
        story.add_row(step, f"{seconds:7.2f}", result)
    console.print(story)
    console.print(f"This host is {platform.node()}. The notebook with its outputs is in {RESULT}.")
    console.print(
        "Next: the same cells in Python 3.9, 3.11 and 3.13 at once. Two more images are built for that, "
        "which takes some minutes; Ctrl-C leaves it out, and `make compare` comes back to it."
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SandboxError as error:
        sys.exit(f"{type(error).__name__}: {error}")
