"""Which cells put out something else after a command than before it, and what nbdime tells of that."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox import cells
from jupyter_vsandbox.guest import compared

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_CELLS = 20
"""Of so many cells nbdime tells; whoever shows them has the outputs of the others, too."""
MAX_OUTPUTS = 10
MAX_LINES = 200
MAX_CHARACTERS = 20_000
"""So much of a cell, and of each output, nbdime is given: it takes its time in squares."""

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")


async def told(columns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The cells that put out something else in the second of two columns: number, and the difference as text.

    Args:
        columns: as `comparison.column_dict` has them.
    """
    before, after = (column["cells"] for column in columns)
    changes: list[dict[str, Any]] = []
    for number in compared.changed_cells(columns):
        diff = ""
        if len(changes) < MAX_CELLS:
            old, new = (_outputs(each, number) for each in (before, after))
            diff = await asyncio.to_thread(cells.outputs_text, number, old, new)
        changes.append({"number": number, "diff": diff})
    return changes


def _outputs(column: Sequence[Mapping[str, Any]], number: int) -> list[dict[str, Any]]:
    """The outputs of a cell, as far as nbdime is given them; none where it never ran."""
    outputs = column[number]["outputs"] if number < len(column) else []
    return [_output(output) for output in outputs[:MAX_OUTPUTS]]


def _output(output: Mapping[str, Any]) -> dict[str, Any]:
    kind = output["output_type"]
    if kind == "stream":
        return {"output_type": kind, "name": output["name"], "text": _text(output["text"])}
    if kind == "error":
        evalue = _text(output["evalue"])
        return {"output_type": kind, "ename": output["ename"], "evalue": evalue, "traceback": []}
    data = {
        mime: _text(value if isinstance(value, str) else json.dumps(value, indent=1))
        for mime, value in output["data"].items()
        if not mime.startswith("application/vnd.jupyter.widget")
    }
    # Which number the cell has is no difference.
    ran = {"execution_count": None} if kind == "execute_result" else {}
    return {"output_type": kind, "data": data, "metadata": {}, **ran}


def _text(whole: str) -> str:
    """A text without colours and addresses, and not too long."""
    lines = whole[:MAX_CHARACTERS].splitlines(keepends=True)
    shown = "".join(lines[:MAX_LINES])
    if len(shown) < len(whole):
        shown += f"\n… and {len(whole) - len(shown)} characters more"
    return _ADDRESS.sub("0x…", _ANSI.sub("", shown))
