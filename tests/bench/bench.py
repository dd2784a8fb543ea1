"""Measures what users wait for, next to a native ipykernel in the same run.

Called by ``make bench``. Prints a table and writes ``build/bench.json``:
``{"figures": {NAME: {"median", "min", "max", "n", "unit"}}}``.

A figure whose name ends in ``_vs_native`` is a ratio to the native figure taken right before it.
Starts are measured with a standby waiting, as a user has it from the second start on;
``start_cold_vs_native`` is without.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from versus_kishu import HELD, by_kishu, by_sandbox  # beside this file

from jupyter_vsandbox.config import load_settings
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.model import MIB, State
from jupyter_vsandbox.drivers.qemu.process import Qemu
from jupyter_vsandbox.kernel.comparison import Task, in_runtimes
from jupyter_vsandbox.runtimes import build
from jupyter_vsandbox.runtimes.catalog import Catalog

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_vsandbox.settings import Settings

RUNTIME = "python-3.11"
SANDBOX = f"vsandbox-{RUNTIME}"
NATIVE = "python3"
RESULT = Path(__file__).parents[2] / "build" / "bench.json"
FIRST_CELL = "print(6 * 7)"
READY_SECONDS = 180.0
DIRECT_PORTS = {name: 6001 + n for n, name in enumerate(("shell", "iopub", "stdin", "control", "hb"))}

DIRTY = 20 * MIB
HIBERNATED = 100

COMPARED = [RUNTIME, "python-3.9"]
COMPARED_CELL = "import pandas\nprint(pandas.DataFrame({'a': range(1000)}).describe())"

GOALS = {
    "compare_vs_single": "<= 1.5",
    "rollback_vs_native": "<= 1 (0.5)",
    "fork_vs_native": "<= 1 (0.5)",
    "wake_vs_native": "<= 1.2 (0.5)",
    "snapshot_pause_ms": "<= 50 (20)",
    "snapshot_bytes_per_dirty_byte": "<= 1.2",
    "hibernated_processes": "0",
    "list_100_hibernated_ms": "<= 1000",
    "start_vs_native": "<= 1 (0.5)",
    "vsphere_overhead_ratio": "<= 1.5",
    "clone_private_mb": "<= 50",
}


class Figures:
    """All samples by figure, with their units."""

    def __init__(self) -> None:
        self._samples: dict[str, list[float]] = {}
        self._units: dict[str, str] = {}

    def add(self, name: str, value: float, unit: str) -> None:
        """Add one sample to a figure."""
        self._samples.setdefault(name, []).append(value)
        self._units[name] = unit

    def summary(self) -> dict[str, dict[str, float | int | str]]:
        """What ``build/bench.json`` holds."""
        return {
            name: {
                "median": statistics.median(values),
                "min": min(values),
                "max": max(values),
                "n": len(values),
                "unit": self._units[name],
            }
            for name, values in self._samples.items()
        }


def run_cell(client: BlockingKernelClient, code: str) -> str:
    """Run a cell to its end; what it printed."""
    texts: list[str] = []

    def collect(message: dict) -> None:
        if message["msg_type"] == "stream":
            texts.append(message["content"]["text"])

    reply = client.execute_interactive(code, output_hook=collect, timeout=120)
    if reply["content"]["status"] != "ok":
        raise RuntimeError(f"{code!r} failed: {reply['content']}")
    return "".join(texts)


@contextmanager
def started(kernel_name: str, **env: str) -> Iterator[tuple[BlockingKernelClient, KernelManager, float]]:
    """A kernel that has run its first cell, and the seconds from the request to that result."""
    begin = time.perf_counter()
    manager = KernelManager(kernel_name=kernel_name)
    manager.start_kernel(env=os.environ | env)
    client = manager.client()
    client.start_channels()
    try:
        # Both kernels welcome a subscriber (JEP 65): from then on no output can be missed.
        client.get_iopub_msg(timeout=READY_SECONDS)
        if run_cell(client, FIRST_CELL) != "42\n":
            raise RuntimeError("the first cell printed something else")
        yield client, manager, time.perf_counter() - begin
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def standbys(service: SandboxService) -> list[str]:
    """The ids of the machines in waiting."""
    return [s.id for s in service.list() if s.state is State.STANDBY]


def await_standby(service: SandboxService) -> None:
    """Wait until a standby is there and nothing of ours is at work on one."""
    deadline = time.monotonic() + READY_SECONDS
    while not standbys(service) or any(s.state is State.STARTING for s in service.list()):
        if time.monotonic() > deadline:
            raise RuntimeError("no standby came up")
        time.sleep(0.2)
    time.sleep(0.5)


def bench_starts(figures: Figures, service: SandboxService, count: int) -> None:
    """Native and sandbox in turn: request to first result, memory of the clone that is idle then."""
    for _ in range(count):
        await_standby(service)
        with started(NATIVE) as (_, _, native):
            figures.add("native_start_ms", native * 1000, "ms")
        with started(SANDBOX) as (_, _, sandbox):
            figures.add("start_ms", sandbox * 1000, "ms")
            figures.add("start_vs_native", sandbox / native, "ratio")
            await_standby(service)
            running = [s for s in service.list() if s.state is State.RUNNING]
            memory = sum(service.usage(s.id).memory for s in running) / len(running)
            figures.add("clone_private_mb", memory / MIB, "MiB")


def bench_cold_starts(figures: Figures, service: SandboxService, count: int) -> None:
    """The same without a standby: a clone of the template is started for each."""
    for _ in range(count):
        await_standby(service)
        for waiting in standbys(service):
            asyncio.run(service.delete(waiting))
        with started(NATIVE) as (_, _, native):
            pass
        with started(SANDBOX) as (_, _, sandbox):
            figures.add("start_cold_ms", sandbox * 1000, "ms")
            figures.add("start_cold_vs_native", sandbox / native, "ratio")


def bench_roundtrips(figures: Figures, service: SandboxService, count: int) -> None:
    """A cell that does nothing: over relay and link, and straight to a kernel in the same machine."""
    await_standby(service)
    with started(SANDBOX) as (client, _, _), direct_client(client, service) as direct:
        for each in (client, direct):
            for _ in range(20):
                run_cell(each, "pass")
        for _ in range(count):
            seconds = []
            for each in (direct, client):
                begin = time.perf_counter()
                run_cell(each, "pass")
                seconds.append(time.perf_counter() - begin)
            figures.add("roundtrip_direct_ms", seconds[0] * 1000, "ms")
            figures.add("roundtrip_overhead_ms", (seconds[1] - seconds[0]) * 1000, "ms")


@contextmanager
def direct_client(client: BlockingKernelClient, service: SandboxService) -> Iterator[BlockingKernelClient]:
    """A client of a second kernel in the sandbox of `client`, through plain forwarded TCP ports."""
    connection = {f"{name}_port": port for name, port in DIRECT_PORTS.items()}
    connection |= {"transport": "tcp", "ip": "0.0.0.0", "key": "bench"}
    run_cell(
        client,
        f"import json, subprocess, sys\njson.dump({connection!r}, open('/tmp/direct.json', 'w'))\n"
        "direct = subprocess.Popen([sys.executable, '-m', 'ipykernel_launcher', '-f', '/tmp/direct.json'])\n"
        "import socket, time\n"
        "while socket.socket().connect_ex(('127.0.0.1', 6005)): time.sleep(0.1)",
    )
    (sandbox,) = (s for s in service.list() if s.state is State.RUNNING)
    settings = service.settings
    qemu = Qemu(settings.sandboxes / sandbox.id, settings.sockets / sandbox.id / "qmp")
    ports = asyncio.run(_forward(qemu))
    straight = BlockingKernelClient()
    info = {f"{name}_port": ports[name] for name in DIRECT_PORTS}
    straight.load_connection_info(info | {"transport": "tcp", "ip": "127.0.0.1", "key": b"bench"})
    straight.start_channels()
    try:
        straight.wait_for_ready(timeout=READY_SECONDS)
        yield straight
    finally:
        straight.stop_channels()


async def _forward(qemu: Qemu) -> dict[str, int]:
    async with qemu.monitor() as execute:
        for port in DIRECT_PORTS.values():
            await execute("human-monitor-command", command_line=f"hostfwd_add net0 tcp:127.0.0.1:0-:{port}")
        text = await execute("human-monitor-command", command_line="info usernet")
    forwards = [line.split() for line in text.splitlines() if "HOST_FORWARD" in line]
    by_guest_port = {int(words[5]): int(words[3]) for words in forwards}
    return {name: by_guest_port[port] for name, port in DIRECT_PORTS.items()}


def bench_timetravel(figures: Figures, service: SandboxService, count: int) -> None:
    """From the verb to the first result after it; snapshots with `DIRTY` bytes changed."""
    await_standby(service)
    with started(SANDBOX) as (client, manager, _):
        (sandbox,) = (s for s in service.list() if s.kernel_id == manager.kernel_id)
        # In place, and nothing that could be compressed.
        run_cell(
            client, f"data = bytearray({DIRTY}); noise = open('/dev/urandom', 'rb', buffering=0); x = 42"
        )
        start = asyncio.run(service.snapshot(sandbox.id))
        for _ in range(count):
            with started(NATIVE) as (_, _, native):
                pass
            run_cell(client, "noise.readinto(data); None")
            taken = asyncio.run(service.snapshot(sandbox.id))
            figures.add("snapshot_pause_ms", taken.pause * 1000, "ms")
            figures.add("snapshot_bytes_per_dirty_byte", taken.size / DIRTY, "ratio")

            begin = time.perf_counter()
            asyncio.run(service.rollback(sandbox.id, start.id))
            figures.add("rollback_verb_ms", (time.perf_counter() - begin) * 1000, "ms")
            first_result(figures, "rollback", client, begin, native)

            begin = time.perf_counter()
            asyncio.run(service.hibernate(sandbox.id))
            figures.add("hibernate_verb_ms", (time.perf_counter() - begin) * 1000, "ms")
            figures.add("hibernated_processes", int(service.alive(sandbox.id)), "")
            first_result(figures, "wake", client, time.perf_counter(), native)

            begin = time.perf_counter()
            fork = asyncio.run(service.fork(sandbox.id))
            figures.add("fork_verb_ms", (time.perf_counter() - begin) * 1000, "ms")
            with started(SANDBOX, VSANDBOX_ATTACH=fork.id) as (other, _, _):
                first_result(figures, "fork", other, begin, native)
            asyncio.run(service.delete(fork.id))
        forks = []
        for _ in range(HIBERNATED):
            forks.append(asyncio.run(service.fork(sandbox.id, start.id)))
            asyncio.run(service.hibernate(forks[-1].id))
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "jupyter_vsandbox.cli", "list"], check=True, capture_output=True
        )
        figures.add("list_100_hibernated_ms", (time.perf_counter() - begin) * 1000, "ms")
        for fork in forks:
            asyncio.run(service.delete(fork.id))


def bench_kishu(figures: Figures, service: SandboxService, count: int) -> dict[str, dict[str, bool]]:
    """A session of 200 MB kept and brought back by Kishu and by a sandbox; what each brought back."""
    came_back = {}
    asyncio.run(service.prepare(RUNTIME))
    for _ in range(count):
        kishu = by_kishu(run_cell)
        await_standby(service)
        with started(SANDBOX) as (client, manager, _):
            (sandbox,) = (s for s in service.list() if s.kernel_id == manager.kernel_id)
            ours = by_sandbox(run_cell, client, sandbox.id, service)
        came_back = {"Kishu": dict(kishu.held), "sandbox": dict(ours.held)}
        for name, outcome in (("kishu", kishu), ("sandbox", ours)):
            figures.add(f"session_keep_{name}_ms", outcome.keep * 1000, "ms")
            figures.add(f"session_back_{name}_ms", outcome.back * 1000, "ms")
            figures.add(f"session_step_{name}_mb", outcome.size / MIB, "MiB")
            figures.add(f"session_held_{name}", sum(outcome.held.values()), f"of {len(HELD)}")
    return came_back


def bench_compare(figures: Figures, service: SandboxService, count: int) -> None:
    """A cell in two runtimes at once, next to the slower of the two alone; machines included."""
    for runtime in COMPARED:
        build.build(Catalog.standard(service.settings).get(runtime), service.settings)
        asyncio.run(service.prepare(runtime))
    task = Task((COMPARED_CELL,), READY_SECONDS)
    for _ in range(count):
        alone = [_compared(service, [runtime], task) for runtime in COMPARED]
        together = _compared(service, COMPARED, task)
        figures.add("compare_ms", together * 1000, "ms")
        figures.add("compare_vs_single", together / max(alone), "ratio")


def _compared(service: SandboxService, runtimes: list[str], task: Task) -> float:
    """The seconds that a comparison takes, without standbys."""
    for waiting in standbys(service):
        asyncio.run(service.delete(waiting))
    begin = time.perf_counter()
    columns = asyncio.run(in_runtimes(service, runtimes, task))
    seconds = time.perf_counter() - begin
    if any(column.note or column.cells[0].status != "ok" for column in columns):
        raise RuntimeError(f"the compared cell failed: {columns}")
    return seconds


def first_result(
    figures: Figures, name: str, client: BlockingKernelClient, begin: float, native: float
) -> None:
    """Ask a kernel that was restored for what it held, and add both figures of `name`."""
    if run_cell(client, "print(x)") != "42\n":
        raise RuntimeError(f"{name}: the kernel lost its variable")
    seconds = time.perf_counter() - begin
    figures.add(f"{name}_ms", seconds * 1000, "ms")
    figures.add(f"{name}_vs_native", seconds / native, "ratio")


def show(
    summary: dict[str, dict[str, float | int | str]],
    came_back: dict[str, dict[str, bool]],
    settings: Settings,
) -> None:
    """Print the tables."""
    table = Table(title="jupyter_vsandbox bench", box=SIMPLE_HEAD)
    table.add_column("figure", no_wrap=True)
    for name in ("median", "min", "max", "n", "unit", "target"):
        table.add_column(name, justify="right")
    for name, figure in summary.items():
        numbers = (f"{figure[key]:.2f}" for key in ("median", "min", "max"))
        table.add_row(name, *numbers, str(figure["n"]), str(figure["unit"]), GOALS.get(name, ""))
    console = Console()
    console.print(table)
    if came_back:
        held = Table("what came back", *came_back, title="a session of 200 MB", box=SIMPLE_HEAD)
        for thing in HELD:
            held.add_row(thing, *("yes" if each[thing] else "no" for each in came_back.values()))
        console.print(held)
    with SandboxService(settings) as service:
        console.print(asyncio.run(service.driver("qemu").accelerator()).reason)


def bench_vsphere(figures: Figures, service: SandboxService, count: int) -> None:
    """Time many sandboxes on a vCenter, and see how much of that is not the vCenter's."""
    from on_vsphere import AT_A_TIME, COUNT, DELAY, measure  # beside this file; needs the simulator

    for _ in range(count):
        done = measure()
        figures.add("vsphere_sandboxes_per_s", COUNT / done.seconds, "1/s")
        figures.add("vsphere_overhead_ratio", done.overhead(DELAY, AT_A_TIME), "ratio")


PARTS = {
    "starts": (bench_starts, 1),
    "cold": (bench_cold_starts, 1),
    "roundtrips": (bench_roundtrips, 5),
    "timetravel": (bench_timetravel, 1),
    "compare": (bench_compare, 0.5),
    "kishu": (bench_kishu, 0.5),
    "vsphere": (bench_vsphere, 0.1),
}
"""What can be measured, and how many samples it has per sample of a start."""


def main() -> int:
    """Measure, print and write; the exit status says only that it ran."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-n", type=int, default=10, help="samples per start figure (default 10)")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)} (default all)")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    settings = load_settings()
    figures, came_back = Figures(), dict[str, dict[str, bool]]()
    try:
        with SandboxService(settings) as service:
            asyncio.run(service.prepare(RUNTIME))
            for name, (measure, share) in PARTS.items():
                if name in (arguments.parts or PARTS):
                    came_back |= measure(figures, service, max(1, int(share * arguments.n))) or {}
    finally:  # what was measured is worth having
        summary = figures.summary()
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps({"figures": summary, "came_back": came_back}, indent=1) + "\n")
        show(summary, came_back, settings)
    return 0


if __name__ == "__main__":
    sys.exit(main())
