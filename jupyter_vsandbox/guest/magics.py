"""``%vsandbox`` and ``%%vsandbox``: what a cell can ask of the machine that it runs in.

Loaded into every Python kernel of a sandbox by /etc/ipython/ipython_config.py. It runs among the
user's packages, so it needs nothing but the standard library and what IPython itself hands over.
"""

import base64
import pickle
import re
import sys
import time
from typing import Any, Callable, Dict, List, Optional

from . import asking, compared, words
from .asking import BrokenOff, VSandboxError

# In `In` the cells are as IPython has rewritten them.
_OWN = re.compile(r"^\s*%{1,2}vsandbox\b|run_(?:line|cell)_magic\('vsandbox'", re.MULTILINE)
_MAGICS = ("%vsandbox", "%%vsandbox")
_SEEN = 3.0
"""Seconds for which completion remembers what there is."""


class Magics:
    """The two magics of one shell, and what is to be done once its cell has ended.

    Args:
        shell: IPython's.
    """

    def __init__(self, shell):  # type: (Any) -> None
        self.shell = shell
        self.ask = asking.ask  # type: Callable[..., Any]
        self.after = []  # type: List[Dict[str, Any]]
        self.refresh = None  # type: Optional[Callable[[], None]]
        self._known = (0.0, {})  # type: Any

    def vsandbox(self, line, cell=None):  # type: (str, Optional[str]) -> Any
        """Replaced by `words.HELP` below."""
        said = words.read(line, cell is not None)
        if said.verb is None:
            return self.panel()
        verb = "run_in" if said.verb == "in" else said.verb
        if cell is not None:
            return getattr(self, "_" + verb)(said, cell)
        return getattr(self, "_" + verb)(said)

    def panel(self):  # type: () -> Any
        """What ``%vsandbox`` alone shows."""
        from .panel import Panel

        return Panel(self)

    # The line magic.

    def _status(self, _):  # type: (Any) -> None
        print(status_text(self.ask("status")))

    def _history(self, _):  # type: (Any) -> None
        print(history_text(self.ask("history")))

    def _snapshot(self, said):  # type: (Any) -> None
        self.later(said.name, said.note, not said.disk_only)
        name = "A snapshot" if not said.name else "The snapshot {!r}".format(said.name)
        print("{} will be taken when this cell ends.".format(name))

    def later(self, name, note="", memory=True):  # type: (str, str, bool) -> None
        """Have a snapshot taken when the cell that runs has ended.

        Raises:
            VSandboxError: the name is taken.
        """
        taken = [each["name"] for each in self.ask("history")] + [each["name"] for each in self.after]
        if name and name in taken:
            raise VSandboxError("There is a snapshot {!r} already; choose another name.".format(name))
        self.after.append({"name": name, "note": note, "memory": memory})

    def _rollback(self, said):  # type: (Any) -> None
        self.ask("rollback", snapshot=said.name, notebook=said.cells)

    def _reset(self, _):  # type: (Any) -> None
        self.ask("reset")

    def _fork(self, said):  # type: (Any) -> None
        fork = self.ask("fork", name=said.name)
        name = fork["name"] or fork["id"]
        print("Fork {} is {}. `%%vsandbox in {}` runs a cell in it.".format(name, fork["state"], name))

    def _diff(self, said):  # type: (Any) -> None
        print(diff_text(self.ask("diff", old=said.old, new=said.new)))

    def _hibernate(self, _):  # type: (Any) -> None
        self.ask("hibernate")
        print("This sandbox will hibernate when no cell runs; the next cell wakes it.")

    def _try(self, said):  # type: (Any) -> None
        told = self.ask("try", command=said.command, cells=self.cells())
        columns = told["columns"]
        notes = [column["note"] for column in columns if column["note"]]
        if notes:
            raise VSandboxError(" ".join(notes))
        sources = self.cells()
        for each in told["changed"]:
            self.show(compared.Change(columns, each["number"], sources[each["number"]], each["diff"]))
        print(
            "{} of {} cells put out something else after {}.\n"
            "%vsandbox keep: go on there, with that. %vsandbox discard: forget it.".format(
                len(told["changed"]), len(sources), said.command
            )
        )

    def _keep(self, _):  # type: (Any) -> None
        self.ask("keep")

    def _discard(self, _):  # type: (Any) -> None
        self.ask("discard")
        print("The fork is gone; nothing has changed here.")

    def cells(self):  # type: () -> List[str]
        """The cells that ran before this one, without those that ask for something here."""
        history = self.shell.user_ns.get("In", [])[1:-1]
        return [cell for cell in history if cell.strip() and not _OWN.search(cell)]

    # The cell magic.

    def _run_in(self, said, cell):  # type: (Any, str) -> None
        ran = self.ask("run_in", fork=said.fork, code=cell, seconds=said.timeout)
        if ran["fresh"]:
            print("The fork was stopped; its kernel has been started anew.", file=sys.stderr)
        for output in ran["outputs"]:
            self.replay(output)
        if ran["status"] == "error":
            last = ran["outputs"][-1] if ran["outputs"] else {}
            raise CellError("{}: {}".format(last.get("ename"), last.get("evalue")))
        if ran["status"] != "ok":
            raise VSandboxError(compared.text(dict(ran, outputs=[])) or ran["status"])

    def replay(self, output):  # type: (Dict[str, Any]) -> None
        """Put an output of another kernel out here."""
        if output["output_type"] == "stream":
            print(output["text"], end="", file=sys.stderr if output["name"] == "stderr" else sys.stdout)
        elif output["output_type"] == "error":
            print("\n".join(output["traceback"]), file=sys.stderr)
        else:
            self.shell.display_pub.publish(data=output["data"], metadata=output.get("metadata", {}))

    def _compare(self, said, cell):  # type: (Any, str) -> None
        if not said.runtimes and not said.command:
            raise VSandboxError("Name the runtimes: %%vsandbox compare python-3.9 python-3.13")
        columns = self.ask(
            "compare",
            code=cell,
            runtimes=said.runtimes,
            command=said.command,
            given=self.given(said.given),
            seconds=said.timeout,
        )["columns"]
        found = compared.Comparison(columns)
        self.show(found)
        if said.json:
            self.shell.user_ns[said.json] = columns
        if said.assert_same and not compared.same(columns):
            names = ", ".join(column["name"] for column in columns)
            raise OutputsDiffer("The outputs of {} are not the same; they are above.".format(names))

    def show(self, comparison):  # type: (compared.Comparison) -> None
        """Put a comparison out."""
        data = {"text/html": comparison._repr_html_(), "text/plain": repr(comparison)}
        self.shell.display_pub.publish(data=data, metadata={})

    def given(self, names):  # type: (List[str]) -> str
        """These variables for a cell elsewhere."""
        if not names:
            return ""
        missing = [name for name in names if name not in self.shell.user_ns]
        if missing:
            raise VSandboxError("--with: there is no variable {}.".format(", ".join(missing)))
        try:
            data = pickle.dumps({name: self.shell.user_ns[name] for name in names}, protocol=4)
        except Exception as error:  # noqa: BLE001 - pickling runs whatever the variables' classes define
            raise VSandboxError("--with: {} cannot be pickled: {}".format(", ".join(names), error)) from None
        return base64.b64encode(data).decode()

    # What IPython calls.

    def cell_ended(self, result):  # type: (Any) -> None
        """Do what was asked for: the cell is over, and the next has not begun."""
        self._take(result)
        if self.refresh is not None:
            self.refresh()

    def _take(self, result):  # type: (Any) -> None
        while self.after:
            wanted = self.after.pop(0)
            try:
                taken = self.ask("snapshot", **wanted)
            except BrokenOff as error:
                self.after.clear()
                if error.waited_for:  # those cells are not to run in this life: an error aborts them
                    result.error_in_exec = error
                return
            except VSandboxError as error:
                print("No snapshot was taken: {}".format(error), file=sys.stderr)
            else:
                print(
                    "{}: {}, paused for {:.0f} ms.".format(
                        taken["name"], words.size(taken["size"]), taken["pause"] * 1000
                    )
                )

    def complete(self, _, event):  # type: (Any, Any) -> List[str]
        """For the completer of IPython before 8.6."""
        last, found = words.complete(event.text_until_cursor, self.known())
        # It takes a part of the last word for all of it: what follows a quotation mark, or a blank within.
        return [word[len(last) - len(event.symbol) :] for word in found]

    def known(self):  # type: () -> Dict[str, List[str]]
        """The names that completion can offer."""
        asked, names = self._known
        if time.monotonic() - asked > _SEEN:
            names = {}
            try:
                told = self.ask("status")
                names = {
                    "snapshots": told["snapshots"],
                    "forks": [fork["name"] or fork["id"] for fork in told["forks"]],
                    "runtimes": told["runtimes"],
                }
            except VSandboxError:
                pass
            self._known = (time.monotonic(), names)
        hidden = self.shell.user_ns_hidden
        variables = [n for n in self.shell.user_ns if not n.startswith("_") and n not in hidden]
        return dict(names, variables=variables)


Magics.vsandbox.__doc__ = words.HELP


class CellError(VSandboxError):
    """The cell failed where it ran; its traceback is above."""


class OutputsDiffer(VSandboxError, AssertionError):
    """A comparison that was to find no difference has found one."""


def status_text(told):  # type: (Dict[str, Any]) -> str
    """What ``%vsandbox status`` prints."""
    lines = [
        "{} ({}), {}".format(told["name"] or told["id"], told["runtime"], told["state"]),
        "memory {} of {}, disk {}".format(
            words.size(told["memory"]), words.size(told["shape"]["memory"]), words.size(told["disk"])
        ),
        "{} snapshots".format(len(told["snapshots"])),
    ]
    lines += ["fork {}: {}".format(fork["name"] or fork["id"], fork["state"]) for fork in told["forks"]]
    return "\n".join(lines)


def history_text(snapshots):  # type: (List[Dict[str, Any]]) -> str
    """What ``%vsandbox history`` prints."""
    if not snapshots:
        return "There is no snapshot yet; %vsandbox snapshot NAME takes one."
    rows = [
        (
            "*" if each["current"] else "",
            str(each["name"]),
            time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(each["created"])),
            words.size(each["size"]),
            " + ".join(["disk"] + [part for part in ("memory", "cells") if each[part]]),
            str(each["note"] or each["cause"]),
        )
        for each in snapshots
    ]
    return words.columns(rows, ("", "NAME", "TAKEN", "SIZE", "HOLDS", "WHY"))


def diff_text(told):  # type: (Dict[str, Any]) -> str
    """What ``%vsandbox diff`` prints."""
    marks = {"added": "+", "removed": "-", "changed": "~"}
    lines = ["{} -> {}".format(told["old"], told["new"])]
    for part in ("packages", "files", "variables", "cells"):
        section = told[part]
        head = section["note"] or "{} changed".format(section["count"] or "none")
        lines.append("{}: {}".format(part.capitalize(), head))
        for row in section["rows"]:
            lines.append("  {} {}".format(marks[row["change"]], _row(part, row)))
        hidden = section["count"] - len(section["rows"])
        if hidden > 0:
            lines.append("  … and {} more".format(hidden))
    return "\n".join(lines)


def _row(part, row):  # type: (str, Dict[str, Any]) -> str
    if part == "cells":
        source = (row["new"] or row["old"]).strip().split("\n")[0][:70]
        return "[{}] {}".format(row["new_number"] or row["old_number"], source)
    if part == "packages":
        return "{} {} -> {}".format(row["name"], row["old"] or "-", row["new"] or "-")
    if part == "variables":
        kinds = [each["type"] if each else "-" for each in (row["old"], row["new"])]
        return "{} ({})".format(row["name"], kinds[0] if kinds[0] == kinds[1] else " -> ".join(kinds))
    return str(row["name"])


def register(shell, magics):  # type: (Any, Any) -> None
    """Make the magics, their help and their completion known to a shell."""
    shell.register_magic_function(magics.vsandbox, "line_cell", "vsandbox")
    try:
        from IPython.core.completer import SimpleCompletion

        matchers = shell.Completer.custom_matchers
    except (ImportError, AttributeError):
        for key in _MAGICS:
            shell.set_hook("complete_command", magics.complete, str_key=key)
        return

    def match(context):  # type: (Any) -> Dict[str, Any]
        line = context.text_until_cursor
        if line.lstrip().partition(" ")[0] not in _MAGICS or not line.lstrip().partition(" ")[1]:
            return {"completions": []}
        last, found = words.complete(line, magics.known())
        offered = [SimpleCompletion(text=word, type="magic") for word in found]
        return {"completions": offered, "matched_fragment": last, "suppress": True, "ordered": True}

    match.matcher_api_version = 2  # type: ignore[attr-defined]
    match.matcher_identifier = "vsandbox"  # type: ignore[attr-defined]
    matchers.append(match)


def load_ipython_extension(shell):  # type: (Any) -> None
    """Called by IPython."""
    magics = Magics(shell)
    register(shell, magics)
    shell.events.register("post_run_cell", magics.cell_ended)
