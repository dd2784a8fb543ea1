"""What is said after ``%vsandbox``, read; and the help and completion of it."""

import argparse
import shlex
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

from .asking import VSandboxError

if TYPE_CHECKING:
    from typing import NoReturn  # not in the first releases of 3.6

HELP = """\
Snapshots, rollback and forks of the machine that this notebook runs in.

    %vsandbox                     a panel with buttons
    %vsandbox status              what this sandbox is, and its forks
    %vsandbox snapshot [NAME]     keep disk, memory and cells once this cell has ended
              --note TEXT         say why
              --disk-only         without memory
    %vsandbox history             the snapshots
    %vsandbox rollback NAME       put everything back; ends this cell at once
              --cells             the notebook's file, too
    %vsandbox fork [NAME]         a second machine that goes on from here
    %vsandbox diff A [B]          packages, files, variables and cells that differ; B: now
    %vsandbox hibernate           memory to disk once no cell runs; the next cell wakes it
    %vsandbox reset               back to the clean image; ends this cell at once
    %vsandbox try COMMAND         in a fork, run it and all cells so far; show which outputs change
    %vsandbox keep                let the fork of that take the place of this sandbox
    %vsandbox discard             or remove it

    %%vsandbox in NAME            run the cell in a fork of this sandbox
    %%vsandbox compare RUNTIME …  run the cell in a new sandbox of each runtime, side by side
              --with NAME …       with these variables
              --fork COMMAND      also in copies of this sandbox, as it is and after the command
              --assert-same       fail if the outputs differ
              --json NAME         put all there is to know into a variable
              --timeout SECONDS   that long each may run

A rollback takes a snapshot first, so that it can be undone. A name with blanks goes into quotes.
"""

VERBS = (
    "status snapshot history rollback fork diff hibernate reset try keep discard".split()  # noqa: SIM905
)
CELL_VERBS = ["compare", "in"]
SECONDS = 600.0


class Parser(argparse.ArgumentParser):
    """One that raises instead of ending the process."""

    def error(self, message):  # type: (str) -> NoReturn
        """Called by argparse when the words are wrong."""
        raise VSandboxError("{}. {}`%vsandbox?` shows what there is.".format(message, self._usage()))

    def exit(self, status=0, message=None):  # type: (int, Any) -> NoReturn
        """Called by argparse after ``--help``."""
        raise VSandboxError(message or self._usage())

    def _usage(self):  # type: () -> str
        return " ".join(self.format_usage().split()) + ". "


def parser(cell):  # type: (bool) -> Parser
    """Reads the words of the line magic, or of the first line of a `cell`."""
    top = Parser(prog="%%vsandbox" if cell else "%vsandbox", add_help=False)
    verbs = top.add_subparsers(dest="verb", parser_class=Parser)

    def verb(name):  # type: (str) -> argparse.ArgumentParser
        return verbs.add_parser(name, prog="{} {}".format(top.prog, name), add_help=False)

    if cell:
        verb("in").add_argument("fork", metavar="NAME")
        verbs.choices["in"].add_argument("--timeout", type=float, default=SECONDS, metavar="SECONDS")
        compare = verb("compare")
        compare.add_argument("runtimes", nargs="*", metavar="RUNTIME")
        compare.add_argument("--with", dest="given", nargs="+", default=[], metavar="NAME")
        compare.add_argument("--fork", dest="command", default="", metavar="COMMAND")
        compare.add_argument("--assert-same", action="store_true")
        compare.add_argument("--json", default="", metavar="NAME")
        compare.add_argument("--timeout", type=float, default=SECONDS, metavar="SECONDS")
        return top
    for name in ("status", "history", "hibernate", "reset", "keep", "discard"):
        verb(name)
    snapshot = verb("snapshot")
    snapshot.add_argument("name", nargs="?", default="", metavar="NAME")
    snapshot.add_argument("--note", default="", metavar="TEXT")
    snapshot.add_argument("--disk-only", action="store_true")
    rollback = verb("rollback")
    rollback.add_argument("name", metavar="NAME")
    rollback.add_argument("--cells", action="store_true")
    verb("fork").add_argument("name", nargs="?", default="", metavar="NAME")
    diff = verb("diff")
    diff.add_argument("old", metavar="A")
    diff.add_argument("new", nargs="?", default="", metavar="B")
    return top


def read(line, cell=False):  # type: (str, bool) -> argparse.Namespace
    """The words of a line.

    Raises:
        VSandboxError: they are wrong; the message says how they should be.
    """
    first, _, rest = line.strip().partition(" ")
    if first == "try" and not cell:  # all the rest is for the shell
        if not rest.strip():
            raise VSandboxError("Say what to try: %vsandbox try pip install -U PACKAGE")
        return argparse.Namespace(verb="try", command=rest.strip())
    try:
        words = shlex.split(line, comments=True)
    except ValueError as error:
        raise VSandboxError("{}: {}".format(line.strip(), error)) from None
    if cell and not words:
        raise VSandboxError("Say `%%vsandbox compare RUNTIME …` or `%%vsandbox in NAME`.")
    if words and words[0] in CELL_VERBS and not cell:
        raise VSandboxError("{0} takes a cell: begin it with %%vsandbox {0}".format(words[0]))
    if words and words[0] in VERBS and cell:
        raise VSandboxError("{0} takes no cell: %vsandbox {0}".format(words[0]))
    if words and words[0] not in (CELL_VERBS if cell else VERBS):
        magic, there = ("%%vsandbox", CELL_VERBS) if cell else ("%vsandbox", VERBS)
        raise VSandboxError("There is no {} {}. There is: {}.".format(magic, words[0], ", ".join(there)))
    found = parser(cell).parse_args(words)
    if getattr(found, "json", "") and not found.json.isidentifier():
        raise VSandboxError("--json {!r} cannot be a variable's name.".format(found.json))
    return found


def complete(line, known):  # type: (str, Dict[str, List[str]]) -> Tuple[str, List[str]]
    """What is there of the last word of a line that is just being written, and what it may become.

    Args:
        line: up to the cursor.
        known: names of ``snapshots``, ``forks``, ``runtimes`` and ``variables``.
    """
    magic, _, rest = line.lstrip().partition(" ")
    words, quote, last = _split(rest)
    if not words:
        first = CELL_VERBS if magic.startswith("%%") else VERBS
    else:
        offered = _arguments(words, known)
        first = [word + quote if quote else _quoted(word) for word in offered]
    return last, [word for word in first if word.startswith(last)]


def _split(rest):  # type: (str) -> Tuple[List[str], str, str]
    """The whole words, the quotation mark that is open, "" for none, and what is there of the last word."""
    words, quote, last = [], "", ""  # type: List[str], str, str
    for character in rest:
        if quote:
            quote, last = ("", last) if character == quote else (quote, last + character)
        elif character in "'\"":
            quote = character
        elif character == " ":
            words += [last] if last else []
            last = ""
        else:
            last += character
    return words, quote, last


def _quoted(word):  # type: (str) -> str
    return '"{}"'.format(word) if " " in word else word


def _arguments(before, known):  # type: (List[str], Dict[str, List[str]]) -> List[str]
    verb = before[0]
    options = {
        "snapshot": ["--note", "--disk-only"],
        "rollback": ["--cells"],
        "compare": ["--with", "--fork", "--assert-same", "--json", "--timeout"],
        "in": ["--timeout"],
    }  # type: Dict[str, List[str]]
    names = {
        "rollback": "snapshots",
        "diff": "snapshots",
        "in": "forks",
        "compare": "variables" if "--with" in before else "runtimes",
    }
    return known.get(names.get(verb, ""), []) + options.get(verb, [])


def columns(rows, head):  # type: (Sequence[Tuple[str, ...]], Tuple[str, ...]) -> str
    """A table as plain text."""
    every = [head] + list(rows)
    widths = [max(len(row[i]) for row in every) for i in range(len(head))]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths)).rstrip() for row in every]
    return "\n".join(lines)


def size(count):  # type: (float) -> str
    """Bytes for people."""
    return "{:.1f} GB".format(count / 1e9) if count >= 1e9 else "{:.1f} MB".format(count / 1e6)
