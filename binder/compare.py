"""Runs the notebook that compares three runtimes, in a machine of its own.

Called by ``make compare``; builds and warms the images that are missing first, prints what each cell
put out and leaves the executed notebook in ``build/compare.ipynb``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
RESULT = HERE.parent / "build" / "compare.ipynb"
RUNTIMES = ("python-3.9", "python-3.11", "python-3.13")
SANDBOX = "vsandbox-python-3.11"


def texts(cell: nbformat.NotebookNode) -> Iterator[str]:
    """What a cell put out, as text."""
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        elif output.output_type != "error":
            yield output.data["text/plain"]


def main() -> int:
    """Run it; the exit status is 0 when the notebook ran without an error."""
    console = Console()
    for runtime in RUNTIMES:
        subprocess.run([sys.executable, "-m", "jupyter_vsandbox.cli", "images", "build", runtime], check=True)
    notebook = nbformat.read(HERE / "compare.ipynb", as_version=4)
    begin = time.perf_counter()
    try:
        NotebookClient(notebook, kernel_name=SANDBOX, timeout=1200).execute()
    finally:
        RESULT.parent.mkdir(exist_ok=True)
        nbformat.write(notebook, RESULT)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            console.rule()
            console.print(cell.source, style="bold", markup=False, highlight=False)
            console.print("\n".join(texts(cell)), markup=False, highlight=False)
    console.print(
        f"It took {time.perf_counter() - begin:.0f} s. The notebook with its outputs is in {RESULT}."
    )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CellExecutionError as error:
        sys.exit(str(error))
