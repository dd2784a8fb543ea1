"""How a program in the guest asks the host for something: through the agent's door."""

import json
import socket
from typing import Any, List

from . import protocol

CHUNK = 1 << 18


class VSandboxError(Exception):
    """The host could not do, or would not do, what was asked for."""

    def _render_traceback_(self):  # type: () -> List[str]
        """IPython shows this instead of a traceback, which would be of our own code."""
        return ["{}: {}".format(type(self).__name__, self)]


class BrokenOff(VSandboxError):
    """The machine was put back to, or forked from, the moment at which it waited for an answer.

    Args:
        why: for people.
        waited_for: whether other cells waited for this one in the life that is over.
    """

    def __init__(self, why, waited_for=False):  # type: (str, bool) -> None
        super().__init__(why)
        self.waited_for = waited_for


def ask(verb, **args):  # type: (str, **Any) -> Any
    """Ask for `verb` and wait for its result; an interrupt takes the request back.

    Raises:
        VSandboxError: the host refuses or fails, or there is none.
        BrokenOff: see there.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        try:
            door.connect(protocol.DOOR)
            line = json.dumps({"verb": verb, "args": args}).encode() + b"\n"
            if len(line) > protocol.MAX_REQUEST:
                raise VSandboxError(
                    "This is more than fits into a request ({} bytes of {}).".format(
                        len(line), protocol.MAX_REQUEST
                    )
                )
            try:
                door.sendall(line)
            except BrokenPipeError:
                pass  # refused; the reason can be read
            parts = []  # type: List[bytes]
            while not parts or not parts[-1].endswith(b"\n"):
                part = door.recv(CHUNK)
                if not part:
                    raise VSandboxError("The agent of this machine ended before it answered.")
                parts.append(part)
        except OSError as error:
            raise VSandboxError("The agent of this machine cannot be asked: {}".format(error)) from None
    answer = json.loads(b"".join(parts).decode())
    if "error" in answer:
        kind = answer.get("kind")
        if kind in (protocol.BROKEN_OFF, protocol.BROKEN_OFF_WAITED_FOR):
            raise BrokenOff(answer["error"], kind == protocol.BROKEN_OFF_WAITED_FOR)
        raise VSandboxError(answer["error"])
    return answer["result"]
