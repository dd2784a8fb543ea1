"""The errors of every verb.

SandboxError
├── NotFound            the runtime, image or sandbox named does not exist
├── Conflict            somebody else is at work on the same sandbox or name
├── InvalidState        the sandbox is not in a state that allows the verb
├── InvalidRequest      the caller's words are wrong (a name, a recipe, a size)
├── Unsupported         this driver or this host can never do it
├── Exhausted           not enough memory or disk; nothing was started
├── Transient           it failed, and may succeed if tried again
├── Permanent           it failed, and trying again will not help
└── OutcomeUnknown      it may have happened: look before trying again

A message says what happened, to which thing, and what to do about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection


class SandboxError(Exception):
    """The root of all errors that this project raises on purpose."""


class NotFound(SandboxError):
    """The runtime, image or sandbox named does not exist."""


class Conflict(SandboxError):
    """Somebody else is at work on the same sandbox, image or name."""


class InvalidState(SandboxError):
    """The sandbox is not in a state that allows the verb.

    Args:
        subject: what the verb was asked of, as a user would name it.
        actual: the state it is in.
        allowed: the states in which the verb is possible.
    """

    def __init__(self, subject: str, actual: str, allowed: Collection[str]) -> None:
        super().__init__(f"{subject} is {actual}; this needs it to be {' or '.join(sorted(allowed))}.")
        self.actual = actual
        self.allowed = frozenset(allowed)


class InvalidRequest(SandboxError):
    """The caller's words are wrong: a name, a recipe, a size.

    Args:
        message: which, and what to write instead.
        field: what holds them, where the request has fields.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class Unsupported(SandboxError):
    """This driver or this host cannot do it."""


class Exhausted(SandboxError):
    """Not enough memory or disk is free; nothing was started."""


class Transient(SandboxError):
    """It failed, and may succeed if tried again."""


class Permanent(SandboxError):
    """It failed, and trying again will not help."""


class OutcomeUnknown(SandboxError):
    """It may have happened: look at the machine's real state before trying again."""
