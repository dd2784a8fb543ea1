"""The one process of ours in the guest: carries the kernel's channels and does what the host asks.

Single-threaded: one poll over the link to the host, the kernel's sockets and the death of
children. It holds no credential but the keys of its own link, and everything it is asked for
comes over that link.
"""

import ctypes
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Dict, List, Optional, Union

import zmq

from . import identity, kernel, protocol
from .serving import Failure, Later, Serving
from .workspace import CACHE_SECONDS

KEYS_FILE = "/run/vsandbox/link.json"
SPEC_FILE = "/etc/vsandbox/kernel.json"
WARM_SECONDS = 900.0
WARM_ROUNDS = 5
WARM_CODE = "print(1 + 1)"  # leaves nothing behind, and what it prints is seen by nobody


def told(content):  # type: (Dict[str, Any]) -> str
    """What the kernel has for the user expression ``variables``; all in `content` is the user's."""
    try:
        value = content["user_expressions"]["variables"]
        if value["status"] == "ok":
            return str(value["data"]["text/plain"])
        raise Failure(value["evalue"])
    except (KeyError, TypeError):
        raise Failure(content.get("evalue") or content.get("status")) from None


class Agent(Serving):
    """Serves one host at a time.

    Args:
        keys: ``server_public``, ``server_secret`` and ``client_public`` in Z85.
        spec: what kernel to run, see `kernel.Kernel`.
    """

    def __init__(self, keys, spec):  # type: (Dict[str, str], Dict[str, Any]) -> None
        super().__init__(keys, spec)
        self.next_keys = None  # type: Optional[Dict[str, str]]
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
        }

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

    def attach(self, env=None, workspace=False):
        # type: (Optional[Dict[str, str]], bool) -> Dict[str, Any]
        """Make the asking host the one that the kernel's messages go to.

        Args:
            env: environment variables to add to a kernel that is already running.
            workspace: whether that host has the notebook's folder for this machine. A kernel that is in
                there leaves it if not.
        """
        self.power_off_at = None
        self.workspace.serve(workspace)
        leave = not workspace and self.kernel is not None and self.kernel.cwd == protocol.WORKSPACE
        if self.kernel is not None and (env or leave):
            self.kernel.resume(env, leave=leave)
        facts = {"protocol": protocol.VERSION, "workspace": self.workspace.mounted}
        return dict(self.kernel_status(), **facts)

    def resume(self, entropy):  # type: (str) -> Dict[str, Any]
        """Go on as the machine this was, after it was put back to an earlier moment or woken.

        Args:
            entropy: hexadecimal digits.
        """
        self.peer = None
        self.workspace.drop()
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
        self.workspace.drop()
        self.door.break_off("This machine is a copy of the one that asked for this.", self._cells_wait())
        identity.feed_entropy(bytes.fromhex(entropy))
        identity.set_hostname(hostname)
        identity.set_machine_id(machine_id)
        identity.set_mac(mac)
        if self.kernel is not None:
            self.kernel.resume(reseed=True)
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

    def start_kernel(self, env=None, arguments=None):
        # type: (Optional[Dict[str, str]], Optional[List[str]]) -> Dict[str, Any]
        """Start a kernel process, ending the one that runs; see `kernel.Kernel`."""
        self._no_kernel()
        if self.kernel is not None:
            self.kernel.close()
            self.kernel = None
        # One that is started for nobody yet is for a notebook, and can leave its folder if it is not.
        inside = self.workspace.by_host or (self.peer is None and self.spec["language"] == "python")
        cwd = protocol.WORKSPACE if inside else self.spec["cwd"]
        self.kernel = kernel.Kernel(self.context, self.spec, env or {}, cwd, arguments or [])
        return self.kernel_status()

    def signal(self, number):  # type: (int) -> Dict[str, Any]
        """Send the signal `number` to the kernel and what it started."""
        if self.kernel is not None:
            self.kernel.signal(number)
        return self.kernel_status()

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
        loading = None
        if load and self.spec.get("warm"):
            loading = subprocess.Popen(
                [self.spec["argv"][0], "-c", "import " + ", ".join(self.spec["warm"])],
                env=self.spec["env"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self._drain(current, loading)
        for _ in range(WARM_ROUNDS):
            current.request("kernel_info_request", {})
            current.execute(WARM_CODE if self.spec["language"] == "python" else "", silent=False)
            self._drain(current)
        if load and self.spec["language"] == "python":
            # The first completion loads a parser and all of the builtins: a minute under emulation.
            current.request("complete_request", {"code": "zi", "cursor_pos": 2})
            self._drain(current)
        if load:
            # What it has seen of the empty folder, a clone must not take for its notebook's.
            self.workspace.drop()
            threading.Event().wait(CACHE_SECONDS + 0.1)
        return self.kernel_status()

    def _drain(self, current, loading=None):
        # type: (kernel.Kernel, Optional[subprocess.Popen[bytes]]) -> None
        """Wait until the agent's own requests are answered, and a process has ended."""
        poller = zmq.Poller()
        for peer in current.sockets.values():
            poller.register(peer, zmq.POLLIN)
        deadline = time.monotonic() + WARM_SECONDS
        files = {}  # type: Dict[int, int]
        while not current.idle() or (loading is not None and loading.poll() is None):
            if current.returncode() is not None or time.monotonic() > deadline:
                raise Failure("the kernel did not answer: " + current.log_tail())
            # It may wait for its folder itself.
            watched = {number: events for number, events in self.workspace.watched().items() if events}
            if files != watched:
                for descriptor in files:
                    poller.unregister(descriptor)
                files = watched
                for descriptor, events in files.items():
                    poller.register(descriptor, events)
            ready = dict(poller.poll(100))
            self.serve_files(ready)
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
        # Not `os.sync`, which may wait for the notebook's folder, and that for the agent.
        disk = os.open("/", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(disk) != 0:
                raise Failure(os.strerror(ctypes.get_errno()))
        finally:
            os.close(disk)
        return {}


def main():  # type: () -> None
    """Read the keys that the host gave this machine, then serve."""
    with open(KEYS_FILE if os.path.exists(KEYS_FILE) else protocol.CONFIG_FILE) as file:
        keys = json.load(file)
    with open(SPEC_FILE) as file:
        spec = json.load(file)
    agent = Agent(keys, spec)
    agent.workspace.mount(spec["user"])
    agent.run()


if __name__ == "__main__":
    main()
