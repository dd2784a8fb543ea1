"""What is different between two moments of sandboxes: pure functions over two inventories."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from jupyter_vsandbox.domain.inventory import File, Inventory, Variable

T = TypeVar("T")
C = TypeVar("C")


class Change(StrEnum):
    """What became of a thing."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True)
class Pair(Generic[T]):
    """A named thing before and after; `None` where it was not there.

    Attributes:
        name: a package's, a file's path, a variable's.
        old: as it was.
        new: as it is.
    """

    name: str
    old: T | None
    new: T | None

    @property
    def change(self) -> Change:
        """What became of it."""
        if self.old is None:
            return Change.ADDED
        return Change.REMOVED if self.new is None else Change.CHANGED


@dataclass(frozen=True)
class Cell:
    """A notebook's cell that is not what it was.

    Attributes:
        change: what became of it.
        type: ``code``, ``markdown`` or ``raw``.
        old_number: its place in the old notebook, from 1; `None` where it was added.
        new_number: its place in the new one; `None` where it was removed.
        parts: which parts of a changed cell changed, ``source`` and ``outputs`` among them.
        old: its source as it was, "" where it was added.
        new: its source as it is, "" where it was removed.
    """

    change: Change
    type: str
    old_number: int | None
    new_number: int | None
    parts: tuple[str, ...]
    old: str
    new: str


@dataclass(frozen=True)
class Section(Generic[C]):
    """The changes of one kind.

    Attributes:
        changes: in the order of names, of cells in the order of the notebook.
        note: why there is nothing to compare, "" where there is.
        unknown: names of what may have changed and may not.
    """

    changes: tuple[C, ...] = ()
    note: str = ""
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """All that is different between two moments."""

    packages: Section[Pair[str]] = field(default_factory=Section)
    files: Section[Pair[File]] = field(default_factory=Section)
    variables: Section[Pair[Variable]] = field(default_factory=Section)
    cells: Section[Cell] = field(default_factory=Section)


def compare(old: Inventory, new: Inventory, cells: Section[Cell]) -> Difference:
    """Compare two inventories; what `cells` says of the notebooks is passed on."""
    return Difference(_packages(old, new), _files(old, new), _variables(old, new), cells)


def _packages(old: Inventory, new: Inventory) -> Section[Pair[str]]:
    if old.packages is None or new.packages is None:
        return Section(note=_why(old, new, "packages"))
    # A name may be spelled in many ways, https://peps.python.org/pep-0503/#normalized-names.
    before, after = ({_normal(n): (n, v) for n, v in each.items()} for each in (old.packages, new.packages))
    changes = []
    for key in sorted(before.keys() | after.keys()):
        name, was = before.get(key, ("", None))
        name, now = after.get(key, (name, None))
        if was != now:
            changes.append(Pair(name, was, now))
    return Section(tuple(changes))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _files(old: Inventory, new: Inventory) -> Section[Pair[File]]:
    if old.files is None or new.files is None:
        return Section(note=_why(old, new, "files"))
    return Section(tuple(_pairs(old.files, new.files)))


def _variables(old: Inventory, new: Inventory) -> Section[Pair[Variable]]:
    if old.variables is None or new.variables is None:
        return Section(note=_why(old, new, "variables"))
    changes, unknown = [], []
    for pair in _pairs(old.variables, new.variables):
        if _certain(pair):
            changes.append(pair)
        else:
            unknown.append(pair.name)
    # Equal records without fingerprints are no proof of equality.
    unknown += [
        name
        for name, variable in new.variables.items()
        if variable.fingerprint is None and old.variables.get(name) == variable
    ]
    return Section(tuple(changes), unknown=tuple(sorted(unknown)))


def _certain(pair: Pair[Variable]) -> bool:
    """Whether two unequal records of a variable prove that it changed: a missing fingerprint does not."""
    if pair.old is None or pair.new is None:
        return True
    if (pair.old.type, pair.old.size) != (pair.new.type, pair.new.size):
        return True
    return pair.old.fingerprint is not None and pair.new.fingerprint is not None


def _pairs(old: Mapping[str, T], new: Mapping[str, T]) -> Iterable[Pair[T]]:
    for name in sorted(old.keys() | new.keys()):
        pair = Pair(name, old.get(name), new.get(name))
        if pair.old != pair.new:
            yield pair


def _why(old: Inventory, new: Inventory, part: str) -> str:
    notes = dict.fromkeys(each.notes[part] for each in (old, new) if part in each.notes)
    return "; ".join(notes) or "one of the two does not tell"


def new_folders(paths: Collection[str], others: Iterable[str]) -> dict[str, str]:
    """The folder to show in the place of each path: the topmost one that holds none of `others`.

    A folder with only one of the paths is not worth it; a path that has no such folder stands for
    itself.

    Args:
        paths: files that were added, or that were removed.
        others: all files of the inventory that does not have them.
    """
    known = {folder for path in others for folder in PurePosixPath(path).parents}
    found = {}
    for path in paths:
        fresh = [folder for folder in PurePosixPath(path).parents if folder not in known]
        found[path] = str(fresh[-1]) if fresh else path
    count = Counter(found.values())
    return {path: folder if count[folder] > 1 else path for path, folder in found.items()}
