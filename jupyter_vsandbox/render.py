"""How the command line shows things: tables for people, plain values for ``--json``."""

from __future__ import annotations

import contextlib
import json
import sys
import time
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rich.console import Console, Group
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from jupyter_vsandbox.domain.checks import Status
from jupyter_vsandbox.domain.model import GIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import TextIO

    from rich.console import RenderableType

    from jupyter_vsandbox.domain.checks import Check
    from jupyter_vsandbox.domain.model import Image, Sandbox, Snapshot, Usage
    from jupyter_vsandbox.runtimes.build import Progress
    from jupyter_vsandbox.runtimes.recipe import Recipe

_STYLES = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}
# Wide enough that nothing is cut off in a pipe or a file.
_PLAIN_WIDTH = 1000


@dataclass(frozen=True)
class Row:
    """A sandbox and what it takes from the host; `stalled` says why its machine stands still by itself."""

    sandbox: Sandbox
    usage: Usage
    stalled: str = ""


@dataclass(frozen=True)
class Output:
    """The two streams: what was asked goes to standard output, all else to standard error.

    Attributes:
        program: the name in front of errors.
        json: print one JSON document instead of tables.
        debug: show where an error came from.
    """

    program: str
    json: bool = False
    debug: bool = False

    @property
    def err(self) -> Console:
        """Standard error, for what is said on the way."""
        return console(sys.stderr)

    def answer(self, document: object, human: Callable[[], RenderableType]) -> None:
        """Print the outcome: `document` as JSON, or what `human` returns."""
        if self.json:
            sys.stdout.write(json.dumps(document, indent=2) + "\n")
        else:
            console(sys.stdout).print(human())

    def complain(self, error: Exception) -> None:
        """Say on standard error what went wrong."""
        if self.debug:
            traceback.print_exception(error)
        sys.stderr.write(f"{self.program}: {error_message(error)}\n")

    def fail(self, error: Exception) -> None:
        """Complain about an error that is the outcome of it all."""
        self.complain(error)
        if self.json:
            self.answer({"error": error_dict(error)}, str)


def console(file: TextIO) -> Console:
    """Return a console for `file`; where that is no terminal, lines are never wrapped."""
    return Console(file=file, highlight=False, width=None if file.isatty() else _PLAIN_WIDTH)


def plain(text: str) -> Text:
    """Return `text` without markup, and without what could steer a terminal."""
    return Text("".join(letter if letter.isprintable() else "?" for letter in text))


def size(count: int) -> str:
    """Return a number of bytes as people write it."""
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.0f} MiB"


def age(seconds: float) -> str:
    """Return a span of time in its largest unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{int(seconds / length)} {unit}"
    return f"{max(int(seconds), 0)} s"


def moment(seconds: float) -> str:
    """Return seconds since the epoch in ISO 8601, UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Make a table of plain texts."""
    grid = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        grid.add_row(*(plain(cell) for cell in row))
    return grid


def sandbox_table(rows: Iterable[Row]) -> Table:
    """Make the table of ``list``."""
    now = time.time()
    return table(
        ("ID", "RUNTIME", "STATE", "NOTEBOOK", "AGE", "MEMORY", "DISK", "OWNER"),
        (
            (
                row.sandbox.id,
                row.sandbox.runtime,
                "stalled" if row.stalled else row.sandbox.state,
                row.sandbox.notebook or "-",
                age(now - row.sandbox.created),
                f"{size(row.usage.memory)} / {size(row.sandbox.shape.memory)}",
                size(row.usage.disk),
                _owner(row.sandbox) or "-",
            )
            for row in rows
        ),
    )


def history_table(
    history: Sequence[Snapshot], current: str, warnings: Mapping[str, str], warning: str
) -> RenderableType:
    """Make the table of ``history``; a star marks where the sandbox is.

    Args:
        history: its snapshots.
        current: the id of the one that it is at.
        warnings: what to warn of at each, by their ids; "" for nothing.
        warning: what to warn of at all together.
    """
    now = time.time()
    names = {snapshot.id: snapshot.name for snapshot in history}
    rows = table(
        ("", "ID", "NAME", "AFTER", "AGE", "SIZE", "PAUSE", "HOLDS", "NOTE"),
        (
            (
                "*" if snapshot.id == current else "",
                snapshot.id,
                snapshot.name,
                names.get(snapshot.parent, snapshot.parent) or "-",
                age(now - snapshot.created),
                size(snapshot.size),
                f"{snapshot.pause * 1000:.0f} ms",
                ", ".join(_holds(snapshot)),
                snapshot.note,
            )
            for snapshot in history
        ),
    )
    said = [f"{each.name}: {warnings[each.id]}" for each in history if warnings[each.id]]
    return Group(rows, *(plain(each) for each in filter(None, [*said, warning])))


def _holds(snapshot: Snapshot) -> list[str]:
    return ["disk"] + ["memory"] * snapshot.memory + ["cells"] * snapshot.cells


def snapshot_dict(snapshot: Snapshot, warning: str = "") -> dict[str, object]:
    """Return a snapshot, and what to warn of at it, as plain values; its keys are nobody's business."""
    return {
        "id": snapshot.id,
        "sandbox": snapshot.sandbox,
        "parent": snapshot.parent or None,
        "name": snapshot.name,
        "note": snapshot.note,
        "cause": snapshot.cause.value,
        "created": moment(snapshot.created),
        "holds": _holds(snapshot),
        "size_bytes": snapshot.size,
        "pause_seconds": snapshot.pause,
        "warning": warning or None,
    }


def image_table(images: Iterable[Image]) -> Table:
    """Make the table of ``images list``."""
    now = time.time()
    return table(
        ("ID", "RUNTIME", "AGE", "SIZE", "MEMORY", "CPUS"),
        (
            (
                image.id,
                image.runtime,
                age(now - image.created),
                size(image.size),
                size(image.shape.memory),
                str(image.shape.vcpus),
            )
            for image in images
        ),
    )


def runtime_table(recipes: Iterable[Recipe], built: dict[str, str]) -> Table:
    """Make the table of ``runtimes``; `built` says which image is the current one of a runtime."""
    return table(
        ("NAME", "TITLE", "BUILT", "SUMMARY"),
        (
            (recipe.name, recipe.display_name, "yes" if recipe.name in built else "-", recipe.summary)
            for recipe in recipes
        ),
    )


def checks_text(checks: Iterable[Check]) -> Text:
    """Return what ``doctor`` found, and below each fault what helps."""
    lines = []
    for check in checks:
        mark = Text(f"{check.status.value:<5}", style=_STYLES[check.status])
        lines.append(Text.assemble(mark, (f"{check.name}: ", "bold"), plain(check.detail)))
        if check.mend:
            lines.append(Text.assemble("     -> ", plain(check.mend)))
    return Text("\n").join(lines)


_STEPS = 20  # that many lines, about, tell of it where no bar can be drawn


@contextlib.contextmanager
def progress(err: Console) -> Iterator[Progress]:
    """Show how a build, an export or an import goes on: a bar on a terminal, else a line now and then."""
    if not err.is_terminal:
        last, told = "", -1

        def tell(stage: str, fraction: float | None, message: str) -> None:
            nonlocal last, told
            step = told if fraction is None else int(fraction * _STEPS)
            if message != last and (fraction is None or step != told):
                last, told = message, step
                err.print(plain(message))

        yield tell
        return
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Bar(*columns, console=err) as bar:
        task = bar.add_task("", total=1.0)

        def draw(stage: str, fraction: float | None, message: str) -> None:
            bar.update(task, completed=fraction, description=plain(message).plain)

        yield draw


def sandbox_dict(row: Row) -> dict[str, object]:
    """Return a sandbox as plain values; its keys and address are nobody's business."""
    sandbox = row.sandbox
    owner = _owner(sandbox)
    return {
        "id": sandbox.id,
        "runtime": sandbox.runtime,
        "image": sandbox.image,
        "driver": sandbox.driver,
        "state": sandbox.state.value,
        "stalled": row.stalled or None,
        "created": moment(sandbox.created),
        "kernel_id": sandbox.kernel_id or None,
        "notebook": sandbox.notebook or None,
        "owner_pid": int(owner) if owner.isdigit() else None,
        "memory_limit_bytes": sandbox.shape.memory,
        "vcpus": sandbox.shape.vcpus,
        "memory_bytes": row.usage.memory,
        "disk_bytes": row.usage.disk,
        "cpu_seconds": row.usage.cpu,
    }


def image_dict(image: Image) -> dict[str, object]:
    """Return an image as plain values."""
    return {
        "id": image.id,
        "runtime": image.runtime,
        "digest": image.digest,
        "folder": image.folder,
        "created": moment(image.created),
        "size_bytes": image.size,
        "memory_limit_bytes": image.shape.memory,
        "vcpus": image.shape.vcpus,
    }


def runtime_dict(recipe: Recipe, image: str | None) -> dict[str, object]:
    """Return a runtime as plain values; `image` is the id of its current image."""
    return {
        "name": recipe.name,
        "display_name": recipe.display_name,
        "language": recipe.language,
        "summary": recipe.summary,
        "suite": recipe.base.suite,
        "memory_limit_bytes": recipe.machine.shape.memory,
        "vcpus": recipe.machine.shape.vcpus,
        "image": image,
    }


def _owner(sandbox: Sandbox) -> str:
    """Return the process id from `Sandbox.owner`."""
    return sandbox.owner.partition(":")[0]


def error_dict(error: Exception) -> dict[str, str]:
    """Return an error as plain values."""
    return {"kind": type(error).__name__, "message": error_message(error)}


def error_message(error: Exception) -> str:
    """Return what an error says, without ``[Errno 17]``."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__
