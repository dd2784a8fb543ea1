"""The kernel process in the guest and the agent's sockets to it."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import time
import uuid
from typing import Any, Callable, Dict, List, Optional, Set

import zmq

from . import protocol

RUN = "/run/vsandbox"
PORTS = {b"shell": 1, b"iopub": 2, b"stdin": 3, b"control": 4}
HEARTBEAT_PORT = 5

# Runs in the kernel, silently, before a client's first message: works on Python 2.7 and later,
# and leaves no name behind.
RESUME = """\
def _vsandbox_resume(env, leave, reseed):
    import os, sys
    os.environ.update(env)
    if leave and os.getcwd() == leave[0]:
        os.chdir(leave[1])
    if reseed:
        if "random" in sys.modules:
            sys.modules["random"].seed()
        if "numpy.random" in sys.modules:
            sys.modules["numpy.random"].seed()
_vsandbox_resume({env!r}, {leave!r}, {reseed!r})
del _vsandbox_resume
"""

# Not by the agent, which would wait for itself: it carries what that asks of the host.
CHANGE_FOLDER = ["/bin/sh", "-c", 'cd "$0" 2>/dev/null; exec "$@"']

# One expression, so that no name is needed for what it calls.
VARIABLES = """\
(lambda space: [eval(compile({source!r}, "<vsandbox>", "exec"), space), space["Report"](globals())][1])\
({{"__name__": "vsandbox_variables"}})"""


def as_user(name):  # type: (str) -> Callable[[], None]
    """What a child process calls to become the user `name`."""
    account = pwd.getpwnam(name)

    def become_user():  # type: () -> None
        os.initgroups(account.pw_name, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
        os.umask(0o022)

    return become_user


class Kernel:
    """One kernel process; start another by making another.

    Args:
        context: for the sockets.
        spec: ``argv``, ``env``, ``cwd``, ``user`` and ``language`` as in /etc/vsandbox/kernel.json.
        env: added to the spec's environment.
        cwd: the folder to start in, where it can be entered; else it is the spec's.
        arguments: added to the spec's command line.
    """

    def __init__(self, context, spec, env, cwd, arguments):
        # type: (zmq.Context[Any], Dict[str, Any], Dict[str, str], str, List[str]) -> None
        self.spec = spec
        self.cwd = cwd
        self.session = uuid.uuid4().hex
        self.cells = self.taken = 0
        self._due = {}  # type: Dict[str, Set[bytes]]
        self._on_reply = {}  # type: Dict[str, Callable[[Dict[str, Any]], None]]
        account = pwd.getpwnam(spec["user"])
        self.folder = os.path.join(RUN, "kernel-" + uuid.uuid4().hex[:8])
        os.mkdir(self.folder, 0o700)
        os.chown(self.folder, account.pw_uid, account.pw_gid)
        connection_file = os.path.join(self.folder, "connection.json")
        ports = {"{}_port".format(name.decode()): port for name, port in PORTS.items()}
        with open(connection_file, "w") as file:
            # No key: only this user can open the sockets, and the relay signs on the host.
            json.dump(
                dict(
                    ports,
                    hb_port=HEARTBEAT_PORT,
                    transport="ipc",
                    ip=os.path.join(self.folder, "k"),
                    key="",
                    signature_scheme="hmac-sha256",
                ),
                file,
            )
        os.chown(connection_file, account.pw_uid, account.pw_gid)

        with open(os.path.join(self.folder, "kernel.log"), "wb") as log:
            self.process = subprocess.Popen(
                CHANGE_FOLDER
                + [cwd]
                + [arg.replace("{connection_file}", connection_file) for arg in spec["argv"]]
                + arguments,
                env=dict(spec["env"], **env),
                cwd=spec["cwd"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=as_user(spec["user"]),
            )
        # Replies to a shell request and questions on stdin find the same peer by this name.
        identity = uuid.uuid4().hex.encode()
        self.sockets = {}  # type: Dict[bytes, zmq.Socket[Any]]
        for channel, port in PORTS.items():
            peer = context.socket(zmq.SUB if channel == b"iopub" else zmq.DEALER)
            peer.linger = 0
            peer.sndhwm = peer.rcvhwm = 0
            peer.reconnect_ivl = 10
            if channel == b"iopub":
                peer.subscribe(b"")
            else:
                peer.identity = identity
            peer.connect("ipc://{}-{}".format(os.path.join(self.folder, "k"), port))
            self.sockets[channel] = peer

    def returncode(self):  # type: () -> Optional[int]
        """`None` while the process lives, else its exit status (negative: the signal)."""
        return self.process.poll()

    def signal(self, number):  # type: (int) -> None
        """Send a signal to the kernel and to what it started, as a terminal would."""
        if self.returncode() is None:
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                pass

    def close(self):  # type: () -> None
        """End the process and forget its sockets."""
        self.signal(signal.SIGKILL)
        self.process.wait()
        for peer in self.sockets.values():
            peer.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log_tail(self, size=4096):  # type: (int) -> str
        """The end of what the process printed outside cells."""
        try:
            with open(os.path.join(self.folder, "kernel.log"), "rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - size))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    # The agent's own requests, told apart from the clients' by their session.

    def request(self, msg_type, content):  # type: (str, Dict[str, Any]) -> str
        """Send a shell request of the agent's own; returns its message id."""
        msg_id = uuid.uuid4().hex
        header = {
            "msg_id": msg_id,
            "msg_type": msg_type,
            "session": self.session,
            "username": "vsandbox",
            "version": "5.3",
            "date": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        }
        body = [json.dumps(part).encode() for part in (header, {}, {}, content)]
        self.sockets[b"shell"].send_multipart([protocol.DELIMITER, b""] + body)
        self._due[msg_id] = {b"shell", b"iopub"}
        return msg_id

    def is_own(self, channel, frames):  # type: (bytes, List[bytes]) -> bool
        """Whether a message from the kernel answers a request of the agent's own.

        Parses only while such an answer is due: a reply on shell and ``status: idle`` on iopub.
        """
        if not self._due:
            return False
        start = frames.index(protocol.DELIMITER)
        parent = json.loads(frames[start + 3].decode())
        due = self._due.get(parent.get("msg_id"))
        if due is None:
            return False
        if channel == b"shell":
            on_reply = self._on_reply.pop(parent["msg_id"], None)
            if on_reply is not None:
                on_reply(json.loads(frames[start + 5].decode()))
        if channel == b"shell" or json.loads(frames[start + 5].decode()).get("execution_state") == "idle":
            due.discard(channel)
        if not due:
            del self._due[parent["msg_id"]]
        return True

    def count_cells(self, frames, kind, step):  # type: (List[Any], bytes, int) -> None
        """Count a client's message on shell, if it is of a `kind`.

        `taken` cells have come from clients, and `cells` of them are not answered.

        Args:
            frames: of the message.
            kind: the ``msg_type`` in quotes.
            step: what to add.
        """
        for number, frame in enumerate(frames[:-2]):
            if frame.bytes == protocol.DELIMITER:
                if kind in frames[number + 2].bytes:  # parsing each header would take longer
                    self.cells = max(0, self.cells + step)
                    self.taken += max(0, step)
                return

    def idle(self):  # type: () -> bool
        """Whether all requests of the agent's own are answered."""
        return not self._due

    def resume(self, env=None, leave=False, reseed=False):
        # type: (Optional[Dict[str, str]], bool, bool) -> None
        """Change what a kernel that is already running stands on.

        Args:
            env: environment variables to add.
            leave: whether to go to the spec's folder from the one that it was started in, if it is there.
            reseed: whether it is to draw other random numbers than its like.
        """
        if self.spec["language"] == "python":
            steps = (self.cwd, self.spec["cwd"]) if leave else ()
            self.execute(RESUME.format(env=env or {}, leave=steps, reseed=reseed), silent=True)
            self.cwd = self.spec["cwd"] if leave else self.cwd

    def execute(self, code, silent):  # type: (str, bool) -> str
        """Run code that leaves no trace in history; returns the message id."""
        content = {
            "code": code,
            "silent": silent,
            "store_history": False,
            "allow_stdin": False,
            "stop_on_error": False,
            "user_expressions": {} if silent else {"_": "1 + 1"},
        }
        return self.request("execute_request", content)

    def variables(self, on_reply):  # type: (Callable[[Dict[str, Any]], None]) -> None
        """Have the kernel, once it is between two cells, describe its variables.

        Args:
            on_reply: called with the content of its ``execute_reply``; what was asked for is the user
                expression ``variables``.
        """
        path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "variables.py")
        with open(path) as file:
            expression = VARIABLES.format(source=file.read())
        content = {
            "code": "",
            "silent": True,
            "store_history": False,
            "allow_stdin": False,
            "stop_on_error": False,
            "user_expressions": {"variables": expression},
        }
        self._on_reply[self.request("execute_request", content)] = on_reply
