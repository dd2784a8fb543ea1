"""What is different between two moments, as the JSON of openapi.yaml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyter_vsandbox.domain.difference import Change, new_folders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from jupyter_vsandbox.core.inventories import Point
    from jupyter_vsandbox.domain.difference import Cell, Difference, Pair, Section
    from jupyter_vsandbox.domain.inventory import File, Inventory, Variable
    from jupyter_vsandbox.domain.model import Snapshot
    from jupyter_vsandbox.server import wire

FILES = 2000
"""That many rows of files are told."""


def difference(
    old: Point,
    new: Point,
    found: Difference,
    inventories: tuple[Inventory, Inventory],
    tell: Callable[[Snapshot], wire.Json],
) -> wire.Json:
    """A difference between two points.

    Args:
        old: the earlier moment, or the one to compare with.
        new: the other one.
        found: what is different.
        inventories: what it was found in.
        tell: makes the wire form of a snapshot.
    """
    rows = _file_rows(found.files.changes, inventories)
    return {
        "old": _point(old, tell),
        "new": _point(new, tell),
        "packages": _section(found.packages, lambda p: {"name": p.name, "old": p.old, "new": p.new}),
        "files": {
            "note": found.files.note,
            "unknown": list(found.files.unknown),
            "left_out": max(0, len(rows) - FILES),
            "changes": rows[:FILES],
        },
        "variables": _section(
            found.variables,
            lambda p: {"name": p.name, "old": _variable(p.old), "new": _variable(p.new)},
        ),
        "cells": _section(found.cells, _cell),
    }


def _point(point: Point, tell: Callable[[Snapshot], wire.Json]) -> wire.Json:
    snapshot = None if point.snapshot is None else tell(point.snapshot)
    return {"sandbox": point.sandbox.id, "snapshot": snapshot}


def _section(section: Section[Any], plainly: Callable[[Any], dict[str, object]]) -> wire.Json:
    return {
        "note": section.note,
        "unknown": list(section.unknown),
        "changes": [{"change": each.change.value, **plainly(each)} for each in section.changes],
    }


def _file_rows(
    changes: Iterable[Pair[File]], inventories: tuple[Inventory, Inventory]
) -> list[dict[str, object]]:
    """A row for each file; a folder that is new or gone as a whole is one row."""
    changes = list(changes)
    old, new = (each.files or {} for each in inventories)
    shown_as: dict[str, str] = {}
    for change, others in ((Change.ADDED, old), (Change.REMOVED, new)):
        shown_as |= new_folders([each.name for each in changes if each.change is change], others)
    folders: dict[str, list[Pair[File]]] = {}
    for each in changes:
        folders.setdefault(shown_as.get(each.name, each.name), []).append(each)
    return [
        {
            "change": inside[0].change.value,
            "path": path if path == inside[0].name else f"{path}/",
            "files": len(inside),
            "old": _total(each.old for each in inside),
            "new": _total(each.new for each in inside),
        }
        for path, inside in folders.items()
    ]


def _total(files: Iterable[File | None]) -> int | None:
    sizes = [each.size for each in files if each is not None]
    return sum(sizes) if sizes else None


def _variable(variable: Variable | None) -> dict[str, object] | None:
    return None if variable is None else {"type": variable.type, "size": variable.size}


def _cell(cell: Cell) -> dict[str, object]:
    return {
        "type": cell.type,
        "old_number": cell.old_number,
        "new_number": cell.new_number,
        "parts": list(cell.parts),
        "old": cell.old if cell.old_number is not None else None,
        "new": cell.new if cell.new_number is not None else None,
    }
