"""What a sandbox holds at one moment: packages, files and variables, as its guest tells it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox.domain.errors import Permanent

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

VERSION = 1
"""Of the document that `Inventory.to_dict` makes."""


@dataclass(frozen=True)
class File:
    """A file or symbolic link.

    Attributes:
        size: in bytes.
        modified: when its content changed, nanoseconds since the epoch in the guest.
        touched: when its inode changed, likewise.
        mode: permissions and kind, as in stat(2).
    """

    size: int
    modified: int
    touched: int
    mode: int


@dataclass(frozen=True)
class Variable:
    """A variable of a kernel.

    Attributes:
        type: name of its class.
        size: about how many bytes it takes.
        fingerprint: equal for equal content, `None` where the guest could not tell.
    """

    type: str
    size: int
    fingerprint: str | None


@dataclass(frozen=True)
class Inventory:
    """What is there at one moment; a part is `None` where it could not be told.

    Attributes:
        packages: versions by names.
        files: by path.
        variables: by name.
        notes: why a part is `None`, by the part's name.
    """

    packages: Mapping[str, str] | None
    files: Mapping[str, File] | None
    variables: Mapping[str, Variable] | None
    notes: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that `from_dict` understands."""
        files, variables = self.files, self.variables
        return {
            "version": VERSION,
            "packages": self.packages,
            "files": None
            if files is None
            else [[path, f.size, f.modified, f.touched, f.mode] for path, f in files.items()],
            "variables": None
            if variables is None
            else {name: [v.type, v.size, v.fingerprint] for name, v in variables.items()},
            "notes": dict(self.notes),
        }

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Inventory:
        """The inverse of `to_dict`; also reads what a guest sends, who is not to be trusted.

        Raises:
            Permanent: it is not what `to_dict` makes.
        """
        try:
            if document.get("version", VERSION) != VERSION:
                raise ValueError("of another version")
            return cls(
                packages=_packages(document.get("packages")),
                files=_files(document.get("files")),
                variables=_variables(document.get("variables")),
                notes={str(part): str(note) for part, note in document.get("notes", {}).items()},
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise Permanent(f"What the guest says that it holds cannot be understood: {error}") from error


def _packages(found: dict[str, Any] | None) -> dict[str, str] | None:
    return None if found is None else {str(name): str(version) for name, version in found.items()}


def _files(found: Iterable[list[Any]] | None) -> dict[str, File] | None:
    return None if found is None else {str(path): File(*map(int, facts)) for path, *facts in found}


def _variables(found: dict[str, Any] | None) -> dict[str, Variable] | None:
    if found is None:
        return None
    return {
        str(name): Variable(str(kind), int(size), None if print_ is None else str(print_))
        for name, (kind, size, print_) in found.items()
    }
