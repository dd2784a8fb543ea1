"""Carries the kernel's channels to the host and back, and the host's questions to `Agent`'s verbs.

Single-threaded: one poll over the link to the host, the kernel's sockets and the death of
children.
"""

import signal
import socket
import subprocess
import time
from typing import IO, Any, Callable, Dict, List, Optional, Set, Tuple, Union

import zmq
from zmq.utils import z85

from . import door, kernel, protocol, workspace

REBIND_SECONDS = 5.0
ZAP_ADDRESS = "inproc://zeromq.zap.01"


class Failure(Exception):
    """A request that cannot be carried out; its text goes to the host."""


class Later:
    """The answer of a verb that takes its time; the agent serves others meanwhile."""

    def __init__(self):  # type: () -> None
        self.send = None  # type: Optional[Callable[[Dict[str, Any]], None]]

    def answer(self, result):  # type: (Dict[str, Any]) -> None
        """Give the answer; only the first counts."""
        self._give({"result": result})

    def fail(self, why):  # type: (str) -> None
        """Give an error as the answer; only the first counts."""
        self._give({"error": why})

    def _give(self, answer):  # type: (Dict[str, Any]) -> None
        send, self.send = self.send, None
        if send is not None:
            send(answer)


class Serving:
    """The part of the agent that waits and hands on."""

    def __init__(self, keys, spec):  # type: (Dict[str, str], Dict[str, Any]) -> None
        self.context = zmq.Context()
        self.spec = spec
        self.kernel = None  # type: Optional[kernel.Kernel]
        self.peer = None  # type: Optional[bytes]
        self.power_off_at = None  # type: Optional[float]
        self.admitted = set()  # type: Set[bytes]
        self.zap = self.context.socket(zmq.REP)
        self.zap.bind(ZAP_ADDRESS)
        # A child's death makes this socket readable: nothing is polled for.
        self.wake, wake_writer = socket.socketpair()
        self.wake.setblocking(False)
        wake_writer.setblocking(False)
        self._wake_writer = wake_writer
        signal.set_wakeup_fd(wake_writer.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.jobs = []  # type: List[Tuple[subprocess.Popen[bytes], IO[bytes], Later]]
        self.asked = []  # type: List[Later]
        # As ZeroMQ itself writes it, or unbinding does not find it.
        self.endpoint = "tcp://0.0.0.0:{}".format(protocol.PORT)
        self.link = self._bind(keys)
        self.door = door.Door(protocol.DOOR, self._asked, self._withdrawn)
        self.workspace = workspace.Workspace(self._carry)
        self.verbs = {}  # type: Dict[str, Callable[..., Union[Dict[str, Any], Later]]]

    def _bind(self, keys):  # type: (Dict[str, str]) -> zmq.Socket[Any]
        self.admitted.add(keys["client_public"].encode())
        link = self.context.socket(zmq.ROUTER)
        link.curve_server = True
        link.curve_publickey = keys["server_public"].encode()
        link.curve_secretkey = keys["server_secret"].encode()
        link.zap_domain = b"vsandbox"
        link.sndhwm = link.rcvhwm = 0
        link.linger = 1000
        link.router_handover = True
        deadline = time.monotonic() + REBIND_SECONDS
        while True:
            try:
                link.bind(self.endpoint)
                return link
            except zmq.ZMQError as error:
                # The listener that was unbound a moment ago closes in ZeroMQ's own thread.
                if error.errno != zmq.EADDRINUSE or time.monotonic() > deadline:
                    raise
                time.sleep(0.001)

    def _admit(self):  # type: () -> None
        """Answer one question of ZeroMQ's authentication, https://rfc.zeromq.org/spec/27/."""
        frames = self.zap.recv_multipart()
        version, request_id = frames[0], frames[1]
        public = z85.encode(frames[6]) if len(frames) > 6 and frames[5] == b"CURVE" else b""
        status = (b"200", b"OK") if public in self.admitted else (b"400", b"not the host of this machine")
        self.zap.send_multipart([version, request_id, status[0], status[1], b"", b""])

    def run(self):  # type: () -> None
        """Serve until the machine goes down."""
        while True:
            poller = zmq.Poller()
            poller.register(self.zap, zmq.POLLIN)
            poller.register(self.link, zmq.POLLIN)
            poller.register(self.wake, zmq.POLLIN)
            for descriptor, events in self._descriptors().items():
                poller.register(descriptor, events)
            # While nobody is attached the kernel's messages wait in its sockets.
            current = self.kernel
            if current is not None and (self.peer is not None or not current.idle()):
                for peer in current.sockets.values():
                    poller.register(peer, zmq.POLLIN)
            link = self.link
            polled = self._polled()
            while self.link is link and self.kernel is current and polled == self._polled():
                self._poll(poller, current)

    def _poll(self, poller, current):  # type: (zmq.Poller, Optional[kernel.Kernel]) -> None
        """Handle what is ready."""
        first = [when for when in (self.power_off_at, self.workspace.deadline()) if when is not None]
        timeout = max(0, int((min(first) - time.monotonic()) * 1000) + 1) if first else None
        ready = dict(poller.poll(timeout))
        if self.power_off_at is not None and time.monotonic() >= self.power_off_at:
            self.power_off_at = None
            self.poweroff()
        self.workspace.expire()
        if self.zap in ready:
            self._admit()
        if self.wake.fileno() in ready:
            self._children()
        for descriptor in self.door.watched():
            if descriptor in ready:
                self.door.handle(descriptor)
        self.serve_files(ready)
        if current is not None:
            for channel, peer in current.sockets.items():
                if peer in ready:
                    self._from_kernel(current, channel, peer)
        if self.link in ready:
            self._from_host()

    def _polled(self):  # type: () -> Tuple[object, ...]
        """What decides which sockets are polled."""
        return self.peer, self.kernel is not None and self.kernel.idle(), self._descriptors()

    def _descriptors(self):  # type: () -> Dict[int, int]
        watched = self.door.watched()
        watched.update(self.workspace.watched())
        return watched

    def _from_kernel(self, current, channel, peer):
        # type: (kernel.Kernel, bytes, zmq.Socket[Any]) -> None
        for _ in range(64):
            try:
                frames = peer.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            if not current.idle() and current.is_own(channel, [f.bytes for f in frames]):
                continue
            if channel == b"shell":
                current.count_cells(frames, b'"execute_reply"', -1)
            if self.peer is not None:
                self.link.send_multipart([self.peer, channel, *frames], copy=False)

    def _from_host(self):  # type: () -> None
        link = self.link
        for _ in range(64):
            try:
                frames = link.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            sender = frames[0].bytes
            if len(frames) == 2:
                if sender == self.peer:
                    self.workspace.from_host(*protocol.stream(frames[1].buffer))
                continue
            channel = frames[1].bytes
            if channel == protocol.AGENT:
                self._request(link, sender, frames[2].bytes)
            elif sender == self.peer and self.kernel is not None and channel in self.kernel.sockets:
                if channel == b"shell":
                    self.kernel.count_cells(frames[2:], b'"execute_request"', 1)
                self.kernel.sockets[channel].send_multipart(frames[2:], copy=False)
            if self.link is not link:
                return

    def _request(self, link, sender, frame):  # type: (zmq.Socket[Any], bytes, bytes) -> None
        answer = {}  # type: Dict[str, Any]
        try:
            message = protocol.unpack(frame)
            answer["id"] = message.get("id")
            verb = message.get("verb", "")
            if verb not in self.verbs:
                raise Failure("no verb {!r}".format(verb))
            if verb == "attach":
                if sender != self.peer:
                    self.door.break_off("The host was connected anew before it answered; ask again.")
                    self.workspace.drop(unasked=False)
                self.peer = sender
            result = self.verbs[verb](**message.get("args", {}))
            if isinstance(result, Later):
                result.send = lambda given: self._answer(link, sender, dict(answer, **given))
                return
            answer["result"] = result
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the host must hear of it
            answer["error"] = "{}: {}".format(type(error).__name__, error)
        self._answer(link, sender, answer)

    def _answer(self, link, sender, answer):
        # type: (zmq.Socket[Any], bytes, Dict[str, Any]) -> None
        if self.link is link:
            link.send_multipart([sender] + protocol.pack(answer))

    def _children(self):  # type: () -> None
        try:
            while self.wake.recv(64):
                pass
        except BlockingIOError:
            pass
        self.workspace.child_ended()
        for job in [job for job in self.jobs if job[0].poll() is not None]:
            self.jobs.remove(job)
            process, output, later = job
            with output:
                output.seek(0)
                if process.returncode == 0:
                    later.answer({"data": output.read().decode()})
                else:
                    later.fail("the inventory ended with {}".format(process.returncode))
        if self.kernel is not None and self.kernel.returncode() is not None:
            self._no_kernel()
            self._event("kernel_exited", **self.kernel_status())

    def _event(self, name, **content):  # type: (str, **Any) -> None
        if self.peer is not None:
            self.link.send_multipart([self.peer] + protocol.pack(dict(content, event=name)))

    def _carry(self, stream, packets):  # type: (bytes, Union[bytes, memoryview]) -> bool
        if self.peer is None:
            return False
        self.link.send_multipart([self.peer, b"".join((stream, packets))])
        return True

    def serve_files(self, ready):  # type: (Dict[Any, int]) -> None
        """Go on with what is ready of the notebook's folder."""
        for descriptor in self.workspace.watched():
            if descriptor in ready:
                self.workspace.handle(descriptor)

    def _asked(self, number, verb, args):  # type: (int, str, Dict[str, Any]) -> None
        if self.peer is None:
            self.door.answer(number, door.refusal("No host is connected to this machine now."))
        self._event("asked", number=number, verb=verb, args=args)

    def _cells_wait(self):  # type: () -> bool
        """Whether there are cells behind the one that the kernel runs."""
        return self.kernel is not None and self.kernel.cells > 1

    def _withdrawn(self, number):  # type: (int) -> None
        self._event("withdrawn", number=number)

    def _no_kernel(self):  # type: () -> None
        """Whoever waits for the kernel's variables waits in vain."""
        for later in self.asked:
            later.answer({"variables": None, "why": "the kernel ended"})
        self.asked.clear()

    def kernel_status(self):  # type: () -> Dict[str, Any]
        """Whether the kernel lives, and how many cells it owes; exit status and last words if not."""
        if self.kernel is None:
            return {"alive": False, "returncode": None, "log": ""}
        returncode = self.kernel.returncode()
        if returncode is None:
            alive = {"alive": True, "returncode": None, "pid": self.kernel.process.pid, "log": ""}
            return dict(alive, cells=self.kernel.cells, taken=self.kernel.taken)
        return {"alive": False, "returncode": returncode, "log": self.kernel.log_tail()}

    def poweroff(self):  # type: () -> Dict[str, Any]
        """Shut the machine down in order."""
        subprocess.Popen(["systemctl", "--no-block", "poweroff"], stdin=subprocess.DEVNULL)
        return {}
