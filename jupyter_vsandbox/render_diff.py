"""How the command line shows what is different between two moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Group
from rich.text import Text

from jupyter_vsandbox.cells import changed_lines
from jupyter_vsandbox.domain.difference import Change, new_folders
from jupyter_vsandbox.domain.model import GIB, MIB
from jupyter_vsandbox.render import plain, snapshot_dict, table

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from rich.console import RenderableType

    from jupyter_vsandbox.core.inventories import Point
    from jupyter_vsandbox.domain.difference import Cell, Difference, Pair, Section
    from jupyter_vsandbox.domain.inventory import File, Inventory, Variable

T = TypeVar("T")

ROWS = 50
"""That many rows of a table are shown; JSON has all."""
LINES = 8
"""That many changed lines of a cell are shown."""
_MARKS = {Change.ADDED: "+", Change.CHANGED: "~", Change.REMOVED: "-"}


def difference_text(
    old: Point, new: Point, difference: Difference, inventories: tuple[Inventory, Inventory]
) -> Group:
    """Make the tables of ``diff``, one for each kind of thing, and say what could not be compared."""
    packages, variables, cells = difference.packages, difference.variables, difference.cells
    unknown = variables.unknown
    return Group(
        plain(f"{old} -> {new}"),
        *_section(
            "Packages",
            packages,
            ("", "NAME", "OLD", "NEW"),
            [(_MARKS[p.change], p.name, p.old or "-", p.new or "-") for p in packages.changes],
        ),
        *_section(
            "Files",
            difference.files,
            ("", "PATH", "OLD", "NEW"),
            _file_rows(difference.files.changes, inventories),
        ),
        *_section(
            "Variables",
            variables,
            ("", "NAME", "OLD", "NEW"),
            [(_MARKS[v.change], v.name, _value(v.old), _value(v.new)) for v in variables.changes],
        ),
        *([plain(f"  cannot be told: {', '.join(unknown)}")] if unknown else []),
        *_section(
            "Cells",
            cells,
            ("", "CELL", "TYPE", "WHAT"),
            [row for c in cells.changes for row in _cell_rows(c)],
        ),
    )


def _section(
    title: str, section: Section[T], columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> list[RenderableType]:
    if section.note:
        return [Text(f"\n{title}: not compared", style="bold"), plain(f"  {section.note}")]
    heading = Text(f"\n{title}: {_count(len(section.changes), 'change')}", style="bold")
    if not rows:
        return [heading]
    shown: list[RenderableType] = [heading, table(columns, rows[:ROWS])]
    if len(rows) > ROWS:
        shown.append(plain(f"  and {len(rows) - ROWS} more rows; --json has all"))
    return shown


def _file_rows(
    changes: Sequence[Pair[File]], inventories: tuple[Inventory, Inventory]
) -> list[tuple[str, ...]]:
    """A row for each file; a folder that is new or gone as a whole is one row."""
    old, new = (each.files or {} for each in inventories)
    shown_as: dict[str, str] = {}
    for change, others in ((Change.ADDED, old), (Change.REMOVED, new)):
        shown_as |= new_folders([each.name for each in changes if each.change is change], others)
    folders: dict[str, list[Pair[File]]] = {}
    for each in changes:
        folders.setdefault(shown_as.get(each.name, each.name), []).append(each)
    rows = []
    for path, inside in folders.items():
        name = path if path == inside[0].name else f"{path}/ ({_count(len(inside), 'file')})"
        sizes = [_total(each.old for each in inside), _total(each.new for each in inside)]
        rows.append((_MARKS[inside[0].change], name, *sizes))
    return rows


def _total(files: Iterable[File | None]) -> str:
    sizes = [each.size for each in files if each is not None]
    return size(sum(sizes)) if sizes else "-"


def _value(variable: Variable | None) -> str:
    return "-" if variable is None else f"{variable.type}, {size(variable.size)}"


def _cell_rows(cell: Cell) -> list[tuple[str, ...]]:
    number = cell.new_number if cell.new_number is not None else cell.old_number
    what = ", ".join(cell.parts) or cell.change.value
    lines = changed_lines(cell)
    rows: list[tuple[str, ...]] = [(_MARKS[cell.change], str(number), cell.type, what)]
    rows += [("", "", "", line) for line in lines[:LINES]]
    if len(lines) > LINES:
        rows.append(("", "", "", f"and {len(lines) - LINES} more lines"))
    return rows


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def size(count: int) -> str:
    """Return a number of bytes, small ones exactly."""
    for unit, length in (("GiB", GIB), ("MiB", MIB), ("KiB", 1024)):
        if count >= length:
            return f"{count / length:.1f} {unit}"
    return f"{count} B"


def difference_dict(old: Point, new: Point, difference: Difference) -> dict[str, object]:
    """Return a difference as plain values."""
    return {
        "old": _point_dict(old),
        "new": _point_dict(new),
        "packages": _section_dict(
            difference.packages, lambda p: {"name": p.name, "old": p.old, "new": p.new}
        ),
        "files": _section_dict(
            difference.files, lambda p: {"path": p.name, "old": _file_dict(p.old), "new": _file_dict(p.new)}
        ),
        "variables": _section_dict(
            difference.variables,
            lambda p: {"name": p.name, "old": _variable_dict(p.old), "new": _variable_dict(p.new)},
        ),
        "cells": _section_dict(
            difference.cells,
            lambda c: {
                "type": c.type,
                "old_number": c.old_number,
                "new_number": c.new_number,
                "parts": list(c.parts),
                "old": c.old if c.old_number is not None else None,
                "new": c.new if c.new_number is not None else None,
            },
        ),
    }


def _point_dict(point: Point) -> dict[str, object]:
    return {
        "sandbox": point.sandbox.id,
        "snapshot": snapshot_dict(point.snapshot) if point.snapshot else None,
    }


def _section_dict(section: Section[Any], plainly: Callable[[Any], dict[str, object]]) -> dict[str, object]:
    changes: Collection[Any] = section.changes
    return {
        "compared": not section.note,
        "note": section.note or None,
        "unknown": list(section.unknown),
        "changes": [{"change": each.change.value, **plainly(each)} for each in changes],
    }


def _file_dict(file: File | None) -> dict[str, object] | None:
    return None if file is None else {"size_bytes": file.size, "mode": f"{file.mode & 0o7777:04o}"}


def _variable_dict(variable: Variable | None) -> dict[str, object] | None:
    return None if variable is None else {"type": variable.type, "size_bytes": variable.size}
