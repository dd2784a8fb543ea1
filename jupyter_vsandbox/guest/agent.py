"""The one process of ours in the guest: carries the kernel's channels and does what the host asks.

Single-threaded: one poll over the link to the host, the kernel's sockets and the death of
children. It holds no credential but the keys of its own link, and everything it is asked for
comes over that link.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import IO, Any, Callable, Dict, List, Optional, Set, Tuple, Union

import zmq
from zmq.utils import z85

from . import door, identity, kernel, protocol

KEYS_FILE = "/run/vsandbox/link.json"
SPEC_FILE = "/etc/vsandbox/kernel.json"
REBIND_SECONDS = 5.0
WARM_SECONDS = 300.0
WARM_ROUNDS = 5
WARM_CODE = "print(1 + 1)"  # leaves nothing behind, and what it prints is seen by nobody
ZAP_ADDRESS = "inproc://zeromq.zap.01"


class Failure(Exception):
    """A request that cannot be carried out; its text goes to the host."""


def told(content):  # type: (Dict[str, Any]) -> str
    """What the kernel has for the user expression ``variables``; all in `content` is the user's."""
    try:
        value = content["user_expressions"]["variables"]
        if value["status"] == "ok":
            return str(value["data"]["text/plain"])
        raise Failure(value["evalue"])
    except (KeyError, TypeError):
        raise Failure(content.get("evalue") or content.get("status")) from None


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


class Agent:
    """Serves one host at a time.

    Args:
        keys: ``server_public``, ``server_secret`` and ``client_public`` in Z85.
        spec: what kernel to run, see `kernel.Kernel`.
    """

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
        self.next_keys = None  # type: Optional[Dict[str, str]]
        self.jobs = []  # type: List[Tuple[subprocess.Popen[bytes], IO[bytes], Later]]
        self.asked = []  # type: List[Later]
        # As ZeroMQ itself writes it, or unbinding does not find it.
        self.endpoint = "tcp://0.0.0.0:{}".format(protocol.PORT)
        self.link = self._bind(keys)
        self.door = door.Door(protocol.DOOR, self._asked, self._withdrawn)
        self.verbs = {
            "answer": self.answer,
            "attach": self.attach,
            "adopt": self.adopt,
            "resume": self.resume,
            "rekey": self.rekey,
            "clock": self.clock,
            "start_kernel": self.start_kernel,
            "signal": self.signal,
            "kernel": self.kernel_status,
            "warm": self.warm,
            "standby": self.standby,
            "info": self.info,
            "inventory": self.inventory,
            "variables": self.variables,
            "sync": self.sync,
            "poweroff": self.poweroff,
        }  # type: Dict[str, Callable[..., Union[Dict[str, Any], Later]]]

    # The link.

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
            for descriptor, events in self.door.watched().items():
                poller.register(descriptor, events)
            # While nobody is attached the kernel's messages wait in its sockets.
            current = self.kernel
            if current is not None and (self.peer is not None or not current.idle()):
                for peer in current.sockets.values():
                    poller.register(peer, zmq.POLLIN)
            link = self.link
            while self.link is link and self.kernel is current and self._poll(poller, current):
                pass

    def _poll(self, poller, current):  # type: (zmq.Poller, Optional[kernel.Kernel]) -> bool
        """Handle what is ready; False when the set of sockets to poll has changed."""
        timeout = None
        if self.power_off_at is not None:
            timeout = max(0, int((self.power_off_at - time.monotonic()) * 1000) + 1)
        ready = dict(poller.poll(timeout))
        if self.power_off_at is not None and time.monotonic() >= self.power_off_at:
            self.power_off_at = None
            self.poweroff()
        if self.zap in ready:
            self._admit()
        if self.wake.fileno() in ready:
            self._children()
        before = self._polled()
        for descriptor in self.door.watched():
            if descriptor in ready:
                self.door.handle(descriptor)
        if current is not None:
            for channel, peer in current.sockets.items():
                if peer in ready:
                    self._from_kernel(current, channel, peer)
        if self.link in ready:
            self._from_host()
        return before == self._polled()

    def _polled(self):  # type: () -> Tuple[object, ...]
        """What decides which sockets are polled."""
        return self.peer, self.kernel is not None and self.kernel.idle(), self.door.watched()

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
            if len(frames) < 3:
                continue
            sender, channel = frames[0].bytes, frames[1].bytes
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

    def _asked(self, number, verb, args):  # type: (int, str, Dict[str, Any]) -> None
        if self.peer is None:
            self.door.answer(number, door.refusal("No host is connected to this machine now."))
        self._event("asked", number=number, verb=verb, args=args)

    def _cells_wait(self):  # type: () -> bool
        """Whether there are cells behind the one that the kernel runs."""
        return self.kernel is not None and self.kernel.cells > 1

    def _withdrawn(self, number):  # type: (int) -> None
        self._event("withdrawn", number=number)

    # The verbs.

    def answer(self, number, line):  # type: (int, str) -> Dict[str, Any]
        """Give a program of this machine the answer to what it asked for."""
        self.door.answer(number, line)
        return {}

    def clock(self, step=0.0):  # type: (float) -> Dict[str, Any]
        """Move the wall clock by `step` seconds and say what it shows then, in seconds.

        A step is right however long the request took; a time of day would be late.
        """
        if step:
            identity.set_clock(time.time() + step)
        return {"time": time.time()}

    def attach(self, env=None, cwd=""):
        # type: (Optional[Dict[str, str]], str) -> Dict[str, Any]
        """Make the asking host the one that the kernel's messages go to.

        Args:
            env: environment variables to add to a kernel that is already running.
            cwd: folder to change to, where it exists.
        """
        self.power_off_at = None
        cwd = cwd if cwd and os.path.isdir(cwd) else ""
        if self.kernel is not None and (env or cwd):
            self.kernel.resume(env or {}, cwd, reseed=False)
        return dict(self.kernel_status(), protocol=protocol.VERSION)

    def resume(self, entropy):  # type: (str) -> Dict[str, Any]
        """Go on as the machine this was, after it was put back to an earlier moment or woken.

        Args:
            entropy: hexadecimal digits.
        """
        self.peer = None
        self.door.break_off(
            "This machine was put back to the moment at which it asked for this.", self._cells_wait()
        )
        identity.feed_entropy(bytes.fromhex(entropy))
        return {}

    def adopt(self, keys, entropy, hostname, machine_id, mac):
        # type: (Dict[str, str], str, str, str, str) -> Dict[str, Any]
        """Become another machine than the one this was cloned from.

        Args:
            keys: of the link, once `rekey` is asked for.
            entropy: hexadecimal digits.
            hostname: new name.
            machine_id: 32 hexadecimal digits.
            mac: new address of the network card.
        """
        self.door.break_off("This machine is a copy of the one that asked for this.", self._cells_wait())
        identity.feed_entropy(bytes.fromhex(entropy))
        identity.set_hostname(hostname)
        identity.set_machine_id(machine_id)
        identity.set_mac(mac)
        if self.kernel is not None:
            self.kernel.resume({}, "", reseed=True)
        self.next_keys = keys
        return {}

    def rekey(self):  # type: () -> Dict[str, Any]
        """Use the keys that `adopt` brought. Never answered: the link breaks, the host connects anew."""
        if self.next_keys is None:
            raise Failure("nothing to change to; adopt first")
        keys, self.next_keys = self.next_keys, None
        # An agent that is killed and started again is still the agent of this machine.
        with os.fdopen(os.open(KEYS_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(keys, file)
        self.peer = None
        self.admitted.clear()
        # Closes the connections made through it as well.
        self.link.unbind(self.endpoint)
        self.link.close(0)
        self.link = self._bind(keys)
        return {}

    def _no_kernel(self):  # type: () -> None
        """Whoever waits for the kernel's variables waits in vain."""
        for later in self.asked:
            later.answer({"variables": None, "why": "the kernel ended"})
        self.asked.clear()

    def start_kernel(self, env=None, cwd=""):  # type: (Optional[Dict[str, str]], str) -> Dict[str, Any]
        """Start a kernel process, ending the one that runs."""
        self._no_kernel()
        if self.kernel is not None:
            self.kernel.close()
            self.kernel = None
        self.kernel = kernel.Kernel(self.context, self.spec, env or {}, cwd)
        return self.kernel_status()

    def signal(self, number):  # type: (int) -> Dict[str, Any]
        """Send the signal `number` to the kernel and what it started."""
        if self.kernel is not None:
            self.kernel.signal(number)
        return self.kernel_status()

    def kernel_status(self):  # type: () -> Dict[str, Any]
        """Whether the kernel lives, and how many cells it owes; exit status and last words if not."""
        if self.kernel is None:
            return {"alive": False, "returncode": None, "log": ""}
        returncode = self.kernel.returncode()
        if returncode is None:
            alive = {"alive": True, "returncode": None, "pid": self.kernel.process.pid, "log": ""}
            return dict(alive, cells=self.kernel.cells)
        return {"alive": False, "returncode": returncode, "log": self.kernel.log_tail()}

    def warm(self, load=False):  # type: (bool) -> Dict[str, Any]
        """Start the kernel if there is none and have it answer once, so that its code is warm.

        Args:
            load: also import the spec's ``warm`` modules in a process thrown away after, so that
                their files are in the page cache.
        """
        if self.kernel is None:
            self.start_kernel()
        current = self.kernel
        if current is None:
            raise Failure("no kernel could be started")
        if load and self.spec.get("warm"):
            python = self.spec["argv"][0]
            subprocess.call(
                [python, "-c", "import " + ", ".join(self.spec["warm"])],
                env=self.spec["env"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=WARM_SECONDS,
            )
        for _ in range(WARM_ROUNDS):
            current.request("kernel_info_request", {})
            current.execute(WARM_CODE if self.spec["language"] == "python" else "", silent=False)
            self._drain(current)
        if load and self.spec["language"] == "python":
            # The first completion loads a parser and all of the builtins: a minute under emulation.
            current.request("complete_request", {"code": "zi", "cursor_pos": 2})
            self._drain(current)
        return self.kernel_status()

    def _drain(self, current):  # type: (kernel.Kernel) -> None
        """Wait until the agent's own requests are answered."""
        poller = zmq.Poller()
        for peer in current.sockets.values():
            poller.register(peer, zmq.POLLIN)
        deadline = time.monotonic() + WARM_SECONDS
        while not current.idle():
            if current.returncode() is not None or time.monotonic() > deadline:
                raise Failure("the kernel did not answer: " + current.log_tail())
            ready = dict(poller.poll(100))
            for channel, peer in current.sockets.items():
                if peer in ready:
                    self._from_kernel(current, channel, peer)

    def standby(self, seconds):  # type: (float) -> Dict[str, Any]
        """Power off after `seconds` unless a host attaches before."""
        self.power_off_at = time.monotonic() + seconds
        return {}

    def info(self):  # type: () -> Dict[str, Any]
        """Facts about this machine: sizes in bytes."""
        disk = os.statvfs("/")
        return {
            "protocol": protocol.VERSION,
            "python": sys.version.split()[0],
            "pyzmq": zmq.pyzmq_version(),
            "hostname": socket.gethostname(),
            "disk_total": disk.f_blocks * disk.f_frsize,
            "disk_free": disk.f_bavail * disk.f_frsize,
            "time": time.time(),
        }

    def inventory(self):  # type: () -> Later
        """The files on the disk and the packages of the kernel's interpreter, see `inventory.pack`."""
        later = Later()
        output = tempfile.TemporaryFile(dir=kernel.RUN)  # noqa: SIM115 - `_children` closes it
        command = [sys.executable, "-m", "{}.inventory".format(__package__), SPEC_FILE]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output)
        self.jobs.append((process, output, later))
        return later

    def variables(self):  # type: () -> Union[Dict[str, Any], Later]
        """The kernel's variables once no cell runs; `None`, and why, where it has none to tell of."""
        if self.spec["language"] != "python":
            return {"variables": None, "why": "its kernel is not one of Python"}
        if self.kernel is None or self.kernel.returncode() is not None:
            return {"variables": None, "why": "no kernel runs"}
        if self.kernel.cells:  # in a copy of the machine, too, where it is left in the middle
            return {"variables": None, "why": "it is in the middle of a cell"}
        later = Later()
        self.asked.append(later)

        def on_reply(content):  # type: (Dict[str, Any]) -> None
            if later in self.asked:
                self.asked.remove(later)
            try:
                later.answer({"variables": json.loads(told(content))})
            except (Failure, RecursionError, ValueError) as error:
                later.fail("the kernel did not tell its variables: {}".format(error))

        self.kernel.variables(on_reply)
        return later

    def sync(self):  # type: () -> Dict[str, Any]
        """Write all that was changed to the disk."""
        os.sync()
        return {}

    def poweroff(self):  # type: () -> Dict[str, Any]
        """Shut the machine down in order."""
        subprocess.Popen(["systemctl", "--no-block", "poweroff"], stdin=subprocess.DEVNULL)
        return {}


def main():  # type: () -> None
    """Read the keys that the host gave this machine, then serve."""
    with open(KEYS_FILE if os.path.exists(KEYS_FILE) else protocol.CONFIG_FILE) as file:
        keys = json.load(file)
    with open(SPEC_FILE) as file:
        spec = json.load(file)
    Agent(keys, spec).run()


if __name__ == "__main__":
    main()
