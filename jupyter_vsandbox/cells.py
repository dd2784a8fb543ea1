"""What is different between two notebooks: nbdime finds it, told as cells."""

from __future__ import annotations

import difflib
import io
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox.domain.difference import Cell, Change, Section
from jupyter_vsandbox.domain.errors import Permanent

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def compare(old: Path | None, new: Path | None) -> Section[Cell]:
    """Compare two notebooks, cell by cell; `None` for one that is not known.

    How often and when a cell ran is no difference.

    Raises:
        Permanent: one of the files is no notebook.
    """
    if old is None or new is None:
        return Section(note="no notebook is known, or the snapshot holds none")
    from nbdime import diff_notebooks  # takes seconds

    before, after = _read(old), _read(new)
    return Section(tuple(_cells(before["cells"], after["cells"], diff_notebooks(before, after))))


def outputs_text(number: int, old: Sequence[Any], new: Sequence[Any]) -> str:
    """What nbdime tells of the difference between the outputs of a cell; "" for none.

    Args:
        number: of the cell, from 0.
        old: its outputs, as a notebook has them.
        new: likewise.
    """
    import nbformat
    from nbdime import diff_notebooks
    from nbdime.diffing.notebooks import diff_single_outputs
    from nbdime.prettyprint import PrettyPrintConfig, pretty_print_diff

    # Other programs than this one are not to be run with what a guest has put out.
    told = PrettyPrintConfig(out=io.StringIO(), use_git=False, use_diff=False, use_color=False)
    before, after = (nbformat.from_dict(list(outputs)) for outputs in (old, new))  # type: ignore[no-untyped-call]
    if [_kind(output) for output in before] == [_kind(output) for output in after]:
        for place, (was, now) in enumerate(zip(before, after, strict=True)):
            path = f"/cells/{number}/outputs/{place}"
            pretty_print_diff(was, diff_single_outputs(was, now), path, told)
        return str(told.out.getvalue())
    notebooks: list[Any] = [
        nbformat.from_dict({"cells": [{"cell_type": "code", "id": "cell", "source": "", "outputs": outputs}]})  # type: ignore[no-untyped-call]
        for outputs in (before, after)
    ]
    for cells in diff_notebooks(*notebooks):
        for cell in cells["diff"]:
            pretty_print_diff(notebooks[0].cells[cell["key"]], cell["diff"], f"/cells/{number}", told)
    return str(told.out.getvalue())


def _kind(output: Any) -> tuple[str, str]:  # noqa: ANN401 - JSON
    return output["output_type"], output.get("name", "")


def _read(path: Path) -> dict[str, Any]:
    import nbformat

    try:
        notebook: Any = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise Permanent(f"{path} cannot be read as a notebook: {error}") from error
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for ran in (cell, *cell.get("outputs", ())):
            if "execution_count" in ran:
                ran["execution_count"] = None
    return dict(notebook)


def _cells(old: list[Any], new: list[Any], diff: list[Any]) -> Iterator[Cell]:
    ahead = 0  # by how much the place in the new notebook is ahead of that in the old one
    for entry in next((each["diff"] for each in diff if each["key"] == "cells"), []):
        here: int = entry["key"]
        if entry["op"] == "addrange":
            for offset, cell in enumerate(entry["valuelist"]):
                number = here + ahead + offset + 1
                yield Cell(Change.ADDED, cell["cell_type"], None, number, (), "", cell["source"])
            ahead += len(entry["valuelist"])
        elif entry["op"] == "removerange":
            for number in range(here, here + entry["length"]):
                cell = old[number]
                yield Cell(Change.REMOVED, cell["cell_type"], number + 1, None, (), cell["source"], "")
            ahead -= entry["length"]
        else:
            was, now = old[here], new[here + ahead]
            parts = tuple(sorted({each["key"] for each in entry["diff"]} - {"id"}))
            if parts:
                yield Cell(
                    Change.CHANGED,
                    now["cell_type"],
                    here + 1,
                    here + ahead + 1,
                    parts,
                    was["source"],
                    now["source"],
                )


def changed_lines(cell: Cell) -> list[str]:
    """The lines of a cell that went, after ``-``, and those that came, after ``+``."""
    lines = difflib.unified_diff(cell.old.splitlines(), cell.new.splitlines(), n=0, lineterm="")
    return [line for line in list(lines)[2:] if not line.startswith("@@")]
