"""Tells whether the process that uses a sandbox still lives."""

from __future__ import annotations

import os


def _started(pid: int) -> str | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in b"ZX" else fields[19].decode()


def this_process() -> str:
    """The `Sandbox.owner` of what this process uses: pid and start time, proc(5) field 22."""
    return f"{os.getpid()}:{_started(os.getpid())}"


def lives(owner: str) -> bool:
    """Whether the process named by a `Sandbox.owner` still runs."""
    pid, _, started = owner.partition(":")
    return pid.isdigit() and _started(int(pid)) == started
