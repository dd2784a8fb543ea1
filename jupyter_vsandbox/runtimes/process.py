"""Running a long program with a log: its lines are kept, watched and, when it fails, quoted."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections import deque
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
_GRACE_SECONDS = 15.0
_QUOTED = 200
"""How much of a line an error message quotes; pip's can be pages long."""


class Log:
    """A log file whose latest lines are at hand; passwords in addresses are left out.

    Args:
        path: the file, overwritten.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tail: deque[str] = deque(maxlen=400)
        self._file: IO[str] | None = None

    def __enter__(self) -> Log:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, line: str) -> str:
        """Add a line and return it as it was written."""
        line = _CREDENTIALS.sub("***@", line.rstrip())
        self.tail.append(line)
        if self._file is not None:
            self._file.write(line + "\n")
            self._file.flush()
        return line

    def quote(self, lines: int = 12) -> str:
        """The last lines, for an error message."""
        return "\n".join(f"  {line[:_QUOTED]}" for line in list(self.tail)[-lines:])


def run(
    command: Sequence[str],
    log: Log,
    watch: Callable[[str], None] = lambda line: None,
    *,
    env: Mapping[str, str],
    pass_fds: Sequence[int] = (),
) -> int:
    """Run `command` to its end and return its exit status, handing every line it prints to `watch`.

    The program gets a session of its own. However this call is left (an interrupt, an error in
    `watch`), the program and its children have ended by then.
    """
    log.write("$ " + " ".join(command))
    with subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env=dict(env),
        pass_fds=tuple(pass_fds),
        start_new_session=True,
    ) as process:
        try:
            if process.stdout is None:  # pragma: no cover - a pipe was asked for
                raise AssertionError
            for line in process.stdout:
                watch(log.write(line))
            return process.wait()
        finally:
            if process.poll() is None:
                _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)
            return
