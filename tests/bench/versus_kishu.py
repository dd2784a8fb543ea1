"""The same session kept and brought back by Kishu (on PyPI) and by a sandbox.

Kishu checkpoints the variables of a native kernel after each cell. The session holds a 200 MB
DataFrame, an open file, a generator and a running thread; all are changed, then the state before is
asked for. What is there again is looked at from outside, one thing at a time.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jupyter_client.blocking import BlockingKernelClient

    from jupyter_vsandbox.core.service import SandboxService

    Run = Callable[[BlockingKernelClient, str], str]

PYTHON = Path(__file__).parents[2] / "build" / "kishu" / "bin" / "python"
SECONDS = 300.0

SESSION = (
    "import itertools, os, tempfile, threading, numpy, pandas",
    "frame = pandas.DataFrame(numpy.arange(25_000_000.0).reshape(-1, 10))",
    "path = os.path.join(tempfile.mkdtemp(), 'data')\nfile = open(path, 'w+')\n"
    "file.write('old')\nfile.flush()",
    "numbers = (n for n in itertools.count())\nfirst = next(numbers)",
    "stop = threading.Event()\nthread = threading.Thread(target=stop.wait, daemon=True)\nthread.start()",
)
STEP = "frame.iloc[0, 0] = 7.0"
CHANGE = (
    "frame.iloc[0, 0] = 8.0\nfile.write('new')\nfile.flush()\n"
    "first = next(numbers)\nstop.set()\nthread.join()"
)
HELD = {
    "DataFrame": "frame.shape == (2_500_000, 10) and frame.iloc[0, 0] == 7",
    "open file": "not file.closed and file.tell() == 3 and file.fileno() > 0",
    "the file's content": "open(path).read() == 'old'",
    "generator": "next(numbers) == 1",
    "running thread": "thread.is_alive() and not stop.is_set()",
}


@dataclass(frozen=True)
class Outcome:
    """What it took to keep the session after `STEP` and to bring it back after `CHANGE`.

    Attributes:
        keep: seconds, `STEP` itself included.
        back: seconds.
        size: bytes written for `STEP`.
        held: which of the things in `HELD` were as they had been.
    """

    keep: float
    back: float
    size: int
    held: Mapping[str, bool]


def held(run: Callable[[str], str]) -> dict[str, bool]:
    """Which of the things in `HELD` a kernel has as they were."""
    found = {}
    for name, expression in HELD.items():
        code = f"try: print({expression})\nexcept Exception: print(False)"
        found[name] = run(code).strip() == "True"
    return found


@contextmanager
def native() -> Iterator[BlockingKernelClient]:
    """A native kernel of Kishu's own environment."""
    with TemporaryDirectory() as folder:
        spec = Path(folder) / "kishu" / "kernel.json"
        spec.parent.mkdir()
        argv = [str(PYTHON), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        spec.write_text(json.dumps({"argv": argv, "display_name": "Kishu", "language": "python"}))
        manager = KernelManager(
            kernel_name="kishu",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[folder]),
            connection_file=str(Path(folder) / "kernel-kishu.json"),  # it wants such a name
        )
        # Its test mode leaves out waiting for a front end to save the notebook: there is none here.
        home = {"HOME": folder, "ENV_KISHU_TEST_MODE": "1"}
        manager.start_kernel(env=os.environ | home, cwd=folder)
        client = manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=SECONDS)
            yield client
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)


def by_kishu(run: Run) -> Outcome:
    """A checkpoint, which Kishu takes at the end of each cell, and a checkout."""
    with native() as client, TemporaryDirectory() as folder:
        notebook = Path(folder) / "session.ipynb"
        nbformat.write(nbformat.v4.new_notebook(), notebook)
        run(client, f"from kishu.jupyterint import init_kishu\ninit_kishu({str(notebook)!r})")
        database = Path(run(client, "print(_kishu.database_path())").strip())
        for cell in SESSION:
            run(client, cell)
        before = database.stat().st_size
        begin = time.perf_counter()
        run(client, STEP)
        keep = time.perf_counter() - begin
        size = database.stat().st_size - before
        kept = run(client, "print(_kishu._kishu_branch.get_head().commit_id)").strip()
        run(client, CHANGE)
        begin = time.perf_counter()
        run(client, f"_kishu.checkout({kept!r}, skip_notebook=True)")
        return Outcome(keep, time.perf_counter() - begin, size, held(lambda code: run(client, code)))


def by_sandbox(run: Run, client: BlockingKernelClient, sandbox_id: str, service: SandboxService) -> Outcome:
    """A snapshot of the machine and a rollback."""
    for cell in SESSION:
        run(client, cell)
    asyncio.run(service.snapshot(sandbox_id))
    begin = time.perf_counter()
    run(client, STEP)
    taken = asyncio.run(service.snapshot(sandbox_id))
    keep = time.perf_counter() - begin
    run(client, CHANGE)
    begin = time.perf_counter()
    asyncio.run(service.rollback(sandbox_id, taken.id))
    run(client, "pass")
    return Outcome(keep, time.perf_counter() - begin, taken.size, held(lambda code: run(client, code)))
