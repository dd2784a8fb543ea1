"""Runs the demo notebook in a machine of its own and says how long everything took.

Called by ``make demo``; builds and warms the image first if that has not been done, prints a table and
leaves the executed notebook in ``build/demo.ipynb``.
"""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from jupyter_client.blocking import BlockingKernelClient

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
    console.print(f"This host is {platform.node()}. The notebook with its outputs is in {RESULT}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
