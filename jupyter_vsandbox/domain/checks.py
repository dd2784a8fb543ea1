"""What an examination of the host finds: one record per thing looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How one check came out."""

    OK = "ok"
    WARN = "warn"
    """Sandboxes run, but something is slower or missing."""
    FAIL = "fail"
    """No sandbox can run before this is mended."""


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what was looked at, in a word or two.
        status: how it came out.
        detail: what was found.
        mend: what to do about it, "" where there is nothing to do.
    """

    name: str
    status: Status
    detail: str
    mend: str = ""

    def to_dict(self) -> dict[str, str]:
        """Return the check as plain strings, for JSON."""
        return {"name": self.name, "status": self.status.value, "detail": self.detail, "mend": self.mend}
