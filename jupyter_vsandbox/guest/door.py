"""The door of the guest: a unix socket on which programs here ask the host for something.

One request per connection, a line of JSON each way, see `protocol`. Whoever hangs up takes the
request back. Every program in the guest may ask: the machine is its user's, and the host decides.
"""

import errno
import json
import os
import socket
from typing import Any, Callable, Dict, Optional

import zmq

from . import protocol

CHUNK = 1 << 18


def refusal(why, kind="refused"):  # type: (str, str) -> str
    """The line that tells of an error."""
    return json.dumps({"error": why, "kind": kind})


class Caller:
    """One connection: first its request comes in, then its answer goes out."""

    def __init__(self, number, connection):  # type: (int, socket.socket) -> None
        self.number = number
        self.connection = connection
        self.request = bytearray()
        self.asked = False
        self.answer = None  # type: Optional[memoryview]


class Door:
    """Takes requests and gives answers; the agent polls what is `watched`.

    Args:
        path: of the socket.
        ask: called with number, verb and arguments of each request.
        withdraw: called with the number of a request whose asker has hung up.
    """

    def __init__(self, path, ask, withdraw):
        # type: (str, Callable[[int, str, Dict[str, Any]], None], Callable[[int], None]) -> None
        self._ask = ask
        self._withdraw = withdraw
        self._callers = {}  # type: Dict[int, Caller]
        self._count = 0
        try:
            os.unlink(path)  # an agent that was killed leaves it
        except OSError:
            pass
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        self._listener.bind(path)
        os.chmod(path, 0o666)  # noqa: S103 - see above
        self._listener.listen(protocol.MAX_ASKING)

    def watched(self):  # type: () -> Dict[int, int]
        """The file descriptors to poll, and for what."""
        watched = {self._listener.fileno(): int(zmq.POLLIN)}
        for descriptor, caller in self._callers.items():
            watched[descriptor] = int(zmq.POLLIN if caller.answer is None else zmq.POLLOUT)
        return watched

    def handle(self, descriptor):  # type: (int) -> None
        """Go on with a descriptor that is ready."""
        if descriptor == self._listener.fileno():
            self._accept()
            return
        caller = self._callers.get(descriptor)
        if caller is None:
            return
        try:
            if caller.answer is not None:
                self._send(caller)
            else:
                self._receive(caller)
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up(caller)

    def answer(self, number, line):  # type: (int, str) -> None
        """Give an answer, a JSON text without line breaks; nothing happens if nobody waits for it."""
        for caller in list(self._callers.values()):
            if caller.number == number and caller.asked and caller.answer is None:
                caller.answer = memoryview(line.encode() + b"\n")
                self.handle(caller.connection.fileno())

    def break_off(self, why, waited_for=False):  # type: (str, bool) -> None
        """Tell all who wait that their requests were made in another life of this machine.

        Args:
            why: for people.
            waited_for: whether the kernel has cells that it was sent in that life and has not begun.
        """
        kind = protocol.BROKEN_OFF_WAITED_FOR if waited_for else protocol.BROKEN_OFF
        for caller in list(self._callers.values()):
            if caller.asked:
                self.answer(caller.number, refusal(why, kind))

    def _accept(self):  # type: () -> None
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.ECONNABORTED):
                return
            raise
        connection.setblocking(False)
        self._count += 1
        caller = Caller(self._count, connection)
        self._callers[connection.fileno()] = caller
        if len(self._callers) > protocol.MAX_ASKING:
            self._refuse(caller, "too many programs of this machine ask at once")

    def _receive(self, caller):  # type: (Caller) -> None
        data = caller.connection.recv(CHUNK)
        if not data or caller.asked:  # gone, or more than one request
            self._hang_up(caller)
            return
        caller.request += data
        line, end, rest = bytes(caller.request).partition(b"\n") if b"\n" in data else (b"", b"", b"")
        if len(caller.request) > protocol.MAX_REQUEST:
            self._refuse(caller, "the request is larger than {} bytes".format(protocol.MAX_REQUEST))
        elif rest:
            self._refuse(caller, "there is more than one request")
        elif end:
            caller.request = bytearray()
            self._take(caller, line)

    def _take(self, caller, line):  # type: (Caller, bytes) -> None
        try:
            message = protocol.unpack(line)
            verb, args = message["verb"], message.get("args", {})
            if not isinstance(verb, str) or not isinstance(args, dict):
                raise ValueError("a verb is text, its arguments are an object")
            caller.asked = True
            self._ask(caller.number, verb, args)
        except (KeyError, ValueError, RecursionError) as error:
            self._refuse(caller, "this is no request: {}".format(error))

    def _refuse(self, caller, why):  # type: (Caller, str) -> None
        caller.asked = True
        self.answer(caller.number, refusal(why))

    def _send(self, caller):  # type: (Caller) -> None
        while caller.answer:
            caller.answer = caller.answer[caller.connection.send(caller.answer[:CHUNK]) :]
        self._forget(caller)

    def _hang_up(self, caller):  # type: (Caller) -> None
        waiting = caller.asked and caller.answer is None
        self._forget(caller)
        if waiting:
            self._withdraw(caller.number)

    def _forget(self, caller):  # type: (Caller) -> None
        self._callers.pop(caller.connection.fileno(), None)
        caller.connection.close()
