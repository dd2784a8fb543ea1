"""openapi.yaml as the server reads it: bodies of requests are checked against its schemas.

Each request is a class with the name, the fields and the defaults of a schema there.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import jsonschema
import yaml

from jupyter_vsandbox.domain.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class SandboxChange:
    """What a sandbox is to be called."""

    name: str


@dataclass(frozen=True)
class SnapshotRequest:
    """A snapshot to take."""

    name: str = ""
    note: str = ""
    disk_only: bool = False
    now: bool = False


@dataclass(frozen=True)
class SnapshotChange:
    """What a snapshot is to be called; `None` leaves what there is."""

    name: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class RollbackRequest:
    """Where to go back to."""

    snapshot: str
    cells: bool = False
    memory: bool = True


@dataclass(frozen=True)
class ForkRequest:
    """Where a fork begins; at the present where `snapshot` is ""."""

    snapshot: str = ""
    name: str = ""
    now: bool = False
    notebook: bool = True


@dataclass(frozen=True)
class TrialRequest:
    """What to try."""

    command: str
    now: bool = False


@dataclass(frozen=True)
class DiffRequest:
    """Two moments: ids of a sandbox and of one of its snapshots, if it is not the present."""

    old: Mapping[str, str]
    new: Mapping[str, str]
    now: bool = False


@dataclass(frozen=True)
class RuntimeRequest:
    """A recipe file."""

    recipe: str
    replace: bool = False


R = TypeVar("R")

_QUOTED = 300
"""How much of what is wrong is told; it may be all of a long body."""


def read(kind: type[R], body: bytes) -> R:
    """A request of the schema that has the name of the class.

    Raises:
        InvalidRequest: it is not; the field is named.
    """
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_refuse)
        json.dumps(document, ensure_ascii=False).encode("utf-8")  # no halves of surrogate pairs
    except (UnicodeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"The request's body is not JSON: {error}") from error
    for wrong in _validator(kind.__name__).iter_errors(document):
        raise _refusal(wrong)
    return kind(**document)


@cache
def document() -> dict[str, Any]:
    """All of openapi.yaml."""
    loaded: dict[str, Any] = yaml.safe_load(
        resources.files(__package__).joinpath("openapi.yaml").read_text("utf-8")
    )
    return loaded


@cache
def _validator(name: str) -> jsonschema.Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": document()["components"]}
    return jsonschema.Draft202012Validator(schema)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _refusal(error: jsonschema.ValidationError) -> InvalidRequest:
    where = ".".join(map(str, error.absolute_path))
    wrong = ""
    if error.validator == "required":
        wrong = next(name for name in error.validator_value if name not in error.instance)
    elif error.validator == "additionalProperties":
        wrong = next(name for name in error.instance if name not in error.schema["properties"])
    if wrong:
        where = f"{where}.{wrong}" if where else wrong
    message = error.message if len(error.message) < _QUOTED else f"{error.message[:_QUOTED]}…"
    return InvalidRequest(f"{where or 'The body'}: {message}.", where)
