"""The outputs of one cell in several machines, side by side."""

import difflib
import html
import json
import re
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

SHOWN = 20000
"""That many characters of an output are shown; the rest is in what ``--json`` gives."""
DIFFED = 400
"""That many lines of two texts are compared one by one."""

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")
_STYLE = "border:1px solid #8884;padding:4px 8px;vertical-align:top;text-align:left"
_PRE = "margin:0;white-space:pre-wrap;text-align:left"
_IMAGES = ("image/png", "image/jpeg", "image/gif")


def plain(output):  # type: (Dict[str, Any]) -> str
    """An output as text."""
    kind = output.get("output_type")
    if kind == "stream":
        return _ANSI.sub("", str(output.get("text", "")))
    if kind == "error":
        return "{}: {}".format(output.get("ename"), output.get("evalue"))
    data = output.get("data") or {}
    if "text/plain" in data:
        return str(data["text/plain"])
    return "<{}>".format(", ".join(sorted(data)))


def text(cell):  # type: (Dict[str, Any]) -> str
    """All outputs of a cell as text, and how it ended if not well."""
    parts = [plain(output).rstrip("\n") for output in cell.get("outputs", [])]
    if cell.get("truncated"):
        parts.append("… and more than is kept")
    ended = {"timeout": "It ran for too long and was interrupted.", "died": "The kernel died."}
    status = str(cell.get("status"))
    if status in ended:
        parts.append(ended[status])
    return "\n".join(parts)


def meaning(cell):  # type: (Dict[str, Any]) -> str
    """What two cells have in common where nothing is different: addresses and counters do not count."""
    parts = []  # type: List[Any]
    for output in cell.get("outputs", []):
        data = {
            kind: value
            for kind, value in (output.get("data") or {}).items()
            if not kind.startswith("application/vnd.jupyter.widget")
        }
        parts.append([output.get("output_type"), output.get("name"), plain(output), data])
    whole = json.dumps([cell.get("status"), parts], sort_keys=True)
    return _ADDRESS.sub("0x…", whole)


def same(columns):  # type: (List[Dict[str, Any]]) -> bool
    """Whether all machines put out the same."""
    found = {json.dumps([column["note"], [meaning(cell) for cell in column["cells"]]]) for column in columns}
    return len(found) <= 1


def changed_cells(columns):  # type: (Sequence[Mapping[str, Any]]) -> List[int]
    """The numbers, from 0, of the cells that did not put out the same everywhere."""
    count = max([len(column["cells"]) for column in columns] or [0])
    changed = []
    for number in range(count):
        cells = [column["cells"][number] if number < len(column["cells"]) else None for column in columns]
        if len({meaning(cell) if cell else "" for cell in cells}) > 1:
            changed.append(number)
    return changed


def title(column):  # type: (Dict[str, Any]) -> str
    """Name and versions of a machine."""
    versions = sorted(column["versions"].items(), key=lambda item: (item[0] != "python", item[0]))
    told = ", ".join("{} {}".format(*version) for version in versions)
    return "{} ({})".format(column["name"], told) if told else str(column["name"])


def seconds(cell):  # type: (Dict[str, Any]) -> str
    """How long a cell took."""
    return "{:.2f} s".format(cell["seconds"]) if cell["seconds"] < 10 else "{:.0f} s".format(cell["seconds"])


def as_text(columns, number=0):  # type: (List[Dict[str, Any]], int) -> str
    """The outputs of a cell one below the other, with what differs from the first marked."""
    parts = []
    first = None  # type: Optional[str]
    for column in columns:
        cell = column["cells"][number] if number < len(column["cells"]) else None
        head = title(column) if cell is None else "{}, {}".format(title(column), seconds(cell))
        body = column["note"] if cell is None else text(cell)
        if first is None:
            first, lines = body, ["  " + line for line in body.splitlines()]
        else:
            marks = _marked(first, body)[1]
            lines = [("! " if marked else "  ") + line for line, marked in marks]
        parts.append("\n".join([head] + lines))
    return "\n\n".join(parts)[:SHOWN]


def as_html(columns, number=0):  # type: (List[Dict[str, Any]], int) -> str
    """The outputs of a cell in a table, a column per machine; what differs from the first is marked."""
    heads, bodies = [], []
    first = None  # type: Optional[Dict[str, Any]]
    for column in columns:
        cell = column["cells"][number] if number < len(column["cells"]) else None
        took = "" if cell is None else "<br><small>{}</small>".format(html.escape(seconds(cell)))
        heads.append('<th style="{}">{}{}</th>'.format(_STYLE, html.escape(title(column)), took))
        if cell is None:
            bodies.append('<td style="{}"><em>{}</em></td>'.format(_STYLE, html.escape(column["note"])))
            continue
        differs = first is not None and meaning(first) != meaning(cell)
        edge = ";border-top:3px solid #d9822b" if differs else ""
        inside = _outputs(cell, text(first) if first is not None and differs else None)
        bodies.append('<td style="{}{}">{}</td>'.format(_STYLE, edge, inside))
        first = first or cell
    return (
        '<table class="vsandbox-compare" style="border-collapse:collapse"><thead><tr>{}</tr></thead>'
        "<tbody><tr>{}</tr></tbody></table>"
    ).format("".join(heads), "".join(bodies))


def _outputs(cell, other):  # type: (Dict[str, Any], Optional[str]) -> str
    """The outputs of a cell; lines that `other`, a text, does not have are marked."""
    known = None if other is None else set(_ADDRESS.sub("0x…", other).splitlines())
    parts = []
    for output in cell.get("outputs", []):
        data = output.get("data") or {}
        image = next((kind for kind in _IMAGES if kind in data), None)
        if image is not None:
            source = re.sub(r"[^A-Za-z0-9+/=]", "", str(data[image]))
            parts.append('<img style="max-width:100%" src="data:{};base64,{}">'.format(image, source))
        elif "text/html" in data and len(str(data["text/html"])) <= SHOWN:
            parts.append("<div>{}</div>".format(data["text/html"]))
        else:
            parts.append(_pre(plain(output), known, output.get("output_type") == "error"))
    rest = text(dict(cell, outputs=[]))
    if rest:
        parts.append("<em>{}</em>".format(html.escape(rest)))
    return "".join(parts) or "<em>no output</em>"


def _pre(whole, known, error):  # type: (str, Any, bool) -> str
    shown = whole[:SHOWN]
    lines = []
    for line in shown.split("\n"):
        safe = html.escape(line)
        if known is not None and line and _ADDRESS.sub("0x…", line) not in known:
            safe = '<mark style="background:#d9822b55;color:inherit">{}</mark>'.format(safe)
        lines.append(safe)
    if len(whole) > len(shown):
        lines.append("<em>… {} characters more; --json NAME has all</em>".format(len(whole) - len(shown)))
    color = ";color:#c23030" if error else ""
    return '<pre style="{}{}">{}</pre>'.format(_PRE, color, "\n".join(lines))


def _marked(old, new):  # type: (str, str) -> Tuple[List[Tuple[str, bool]], List[Tuple[str, bool]]]
    """The lines of two texts, each with whether the other lacks it."""
    before, after = old.splitlines(), new.splitlines()
    gone, come = [True] * len(before), [True] * len(after)
    keys = [[_ADDRESS.sub("0x…", line) for line in each[:DIFFED]] for each in (before, after)]
    for start, other, length in difflib.SequenceMatcher(None, keys[0], keys[1], False).get_matching_blocks():
        gone[start : start + length] = [False] * length
        come[other : other + length] = [False] * length
    return list(zip(before, gone)), list(zip(after, come))


def diff_html(diff):  # type: (str) -> str
    """What nbdime tells of a difference, in its colours."""
    colors = {"-": "#c23030", "+": "#1c8a3c", "#": "#3b6ea8"}
    lines = []
    for line in diff.splitlines():
        color = colors.get(line[:1])
        safe = html.escape(line)
        lines.append('<span style="color:{}">{}</span>'.format(color, safe) if color else safe)
    return '<pre class="vsandbox-diff" style="{}">{}</pre>'.format(_PRE, "\n".join(lines))


class Comparison:
    """Shows itself in a notebook, or as text."""

    def __init__(self, columns):  # type: (List[Dict[str, Any]]) -> None
        self.columns = columns

    def _repr_html_(self):  # type: () -> str
        return as_html(self.columns)

    def __repr__(self):  # type: () -> str
        return as_text(self.columns)


class Change(Comparison):
    """One cell of several whose outputs have changed; likewise.

    Args:
        columns: of before and after.
        number: of the cell, from 0.
        source: of the cell.
        diff: what nbdime tells of it, "" if it tells nothing.
    """

    def __init__(self, columns, number, source, diff):
        # type: (List[Dict[str, Any]], int, str, str) -> None
        super().__init__(columns)
        self.number = number
        self.source = source.rstrip("\n")
        self.diff = diff

    def _repr_html_(self):  # type: () -> str
        head = '<pre style="{}">{}</pre>'.format(_PRE, html.escape(self.source))
        table = as_html(self.columns, self.number)
        return head + table + (diff_html(self.diff) if self.diff else "")

    def __repr__(self):  # type: () -> str
        return "{}\n{}".format(self.source, self.diff or as_text(self.columns, self.number))
