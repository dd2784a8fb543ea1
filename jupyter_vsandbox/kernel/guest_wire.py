"""What a guest may ask of its host: the requests, and the reading of what it sends.

Nothing that comes from a guest can be trusted, its kind and size included. What passes here is
well-formed; `guest_requests` looks every name up among what is the guest's own.
"""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox.domain.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

MAX_NAME = 64
MAX_NOTE = 2000
MAX_COMMAND = 4000
MAX_CODE = 2 << 20
MAX_RUNTIMES = 6
MAX_CELLS = 2000
MAX_SECONDS = 24 * 3600.0
MAX_NUMBER = 1 << 53

_NAME = re.compile(r"[^\W_][\w.:+@ -]*")
_RUNTIME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")


@dataclass(frozen=True)
class Status:
    """What and how the sandbox is, its forks, and which runtimes there are."""


@dataclass(frozen=True)
class History:
    """The snapshots of the sandbox."""


@dataclass(frozen=True)
class Snapshot:
    """Keep the sandbox as it is; see `SandboxService.snapshot`."""

    name: str = ""
    note: str = ""
    memory: bool = True


@dataclass(frozen=True)
class Rollback:
    """Put the sandbox back to one of its snapshots. Answered only if it fails."""

    snapshot: str
    notebook: bool = False


@dataclass(frozen=True)
class Fork:
    """Make a sandbox that goes on from here."""

    name: str = ""


@dataclass(frozen=True)
class Diff:
    """What differs between two snapshots, or, where `new` is "", one and the present."""

    old: str
    new: str = ""


@dataclass(frozen=True)
class Hibernate:
    """Hibernate once no cell runs."""


@dataclass(frozen=True)
class Reset:
    """Put the sandbox back to its clean image. Answered only if it fails."""


@dataclass(frozen=True)
class Compare:
    """Run a cell in a disposable sandbox of each runtime.

    Attributes:
        code: the cell.
        runtimes: names of runtimes.
        command: run the cell also in two copies of the asking sandbox, in one of them after this
            command of the shell; "" for none.
        given: pickled variables for the cell, in base64.
        seconds: that long the cell may run.
    """

    code: str
    runtimes: tuple[str, ...] = ()
    command: str = ""
    given: str = ""
    seconds: float = 600.0


@dataclass(frozen=True)
class RunIn:
    """Run a cell in a fork of the sandbox."""

    fork: str
    code: str
    seconds: float = 600.0


@dataclass(frozen=True)
class Try:
    """Run a command of the shell in a fork, and these cells there and in a copy without the command."""

    command: str
    cells: tuple[str, ...] = ()
    seconds: float = 600.0


@dataclass(frozen=True)
class Keep:
    """Put the fork that was tried in the place of the sandbox. Answered only if it fails."""


@dataclass(frozen=True)
class Discard:
    """Remove the fork that was tried."""


Request = (
    Status
    | History
    | Snapshot
    | Rollback
    | Fork
    | Diff
    | Hibernate
    | Reset
    | Compare
    | RunIn
    | Try
    | Keep
    | Discard
)

VERBS: Mapping[str, type[Request]] = {
    "status": Status,
    "history": History,
    "snapshot": Snapshot,
    "rollback": Rollback,
    "fork": Fork,
    "diff": Diff,
    "hibernate": Hibernate,
    "reset": Reset,
    "compare": Compare,
    "run_in": RunIn,
    "try": Try,
    "keep": Keep,
    "discard": Discard,
}


def number(event: Mapping[str, Any]) -> int | None:
    """The number of the request that an event is about; `None` if it has none that is one."""
    value = event.get("number")
    return value if type(value) is int and 0 <= value < MAX_NUMBER else None


def request(event: Mapping[str, Any]) -> Request:
    """The request in an event.

    Raises:
        InvalidRequest: it is none; the message says why, in few words.
    """
    verb, args = event.get("verb"), event.get("args")
    kind = VERBS.get(verb) if isinstance(verb, str) else None
    if kind is None:
        raise InvalidRequest(f"There is no verb {_short(verb)}. There is: {', '.join(VERBS)}.")
    if not isinstance(args, dict):
        raise InvalidRequest(f"The arguments of {verb} must be an object.")
    known = {field.name: field for field in fields(kind)}
    if unknown := [name for name in args if name not in known]:
        raise InvalidRequest(f"{verb} takes no argument {_short(unknown[0])}.")
    for name, field in known.items():
        if name not in args and field.default is MISSING:
            raise InvalidRequest(f"{verb} needs the argument {name!r}.")
    return kind(**{name: _CHECKS[name](name, value) for name, value in args.items()})


def _text(limit: int) -> Callable[[str, object], str]:
    def check(name: str, value: object) -> str:
        if not isinstance(value, str):
            raise InvalidRequest(f"{name} must be text.")
        if len(value) > limit:
            raise InvalidRequest(f"{name} is longer than {limit} characters.")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(f"{name} holds what is no character.") from None
        return value

    return check


def _line(limit: int) -> Callable[[str, object], str]:
    text = _text(limit)

    def check(name: str, value: object) -> str:
        if not text(name, value).isprintable():
            raise InvalidRequest(f"{name} must be one line of printable characters.")
        return str(value)

    return check


def _name(name: str, value: object) -> str:
    text = _line(MAX_NAME)(name, value)
    if text and not _NAME.fullmatch(text):
        raise InvalidRequest(
            f"{name} {_short(text)} must begin with a letter or digit and have only those, blanks and "
            "any of ._-:+@ in it."
        )
    return text


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false.")
    return value


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_SECONDS:
        raise InvalidRequest(f"{name} must be a number of seconds, at most {MAX_SECONDS:g}.")
    return float(value)


def _runtimes(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_RUNTIMES:
        raise InvalidRequest(f"{name} must be a list of at most {MAX_RUNTIMES}.")
    for each in value:
        if not isinstance(each, str) or not _RUNTIME.fullmatch(each):
            raise InvalidRequest(f"{_short(each)} cannot be a runtime's name.")
    if len(set(value)) != len(value):
        raise InvalidRequest("A runtime is named twice.")
    return tuple(value)


def _cells(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_CELLS:
        raise InvalidRequest(f"{name} must be a list of at most {MAX_CELLS}.")
    code = _text(MAX_CODE)
    return tuple(code(name, each) for each in value)


def _given(name: str, value: object) -> str:
    text = _text(2 * MAX_CODE)(name, value)
    if not _BASE64.fullmatch(text):
        raise InvalidRequest(f"{name} must be in base64.")
    return text


def _short(value: object) -> str:
    """A value for a message; `repr` of what is nested or huge would be a burden."""
    return repr(value[:40]) if isinstance(value, str) else f"of type {type(value).__name__}"


_CHECKS: Mapping[str, Callable[[str, object], Any]] = {
    "cells": _cells,
    "code": _text(MAX_CODE),
    "command": _line(MAX_COMMAND),
    "fork": _name,
    "given": _given,
    "memory": _flag,
    "name": _name,
    "new": _name,
    "note": _line(MAX_NOTE),
    "notebook": _flag,
    "old": _name,
    "runtimes": _runtimes,
    "seconds": _seconds,
    "snapshot": _name,
}
