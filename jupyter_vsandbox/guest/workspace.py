"""The notebook's folder in this machine: sshfs mounts it, and the agent carries its requests to the host.

sshfs speaks SFTP to a port of this machine's loopback, where the agent listens. The agent looks at no more
of a packet than its length: each request has one answer, so it knows how many are on their way and since
when. What is not answered in time ends the connection, for which sshfs tells its callers an I/O error
and makes a new one for the next. Where no host is to be asked (while the machine is warmed, or has no such
folder) the agent answers itself, as an empty folder would.
"""

import collections
import os
import pwd
import socket
import struct
import subprocess
import time
from typing import Callable, Deque, Dict, Optional, Tuple, Union

import zmq

from . import protocol

ANSWER_SECONDS = 30.0
MAX_CONNECTIONS = 4
MAX_ON_THEIR_WAY = 64
MAX_BYTES_ON_THEIR_WAY = 4 << 20
CHUNK = 1 << 18
FRESH_SECONDS = 1
CACHE_SECONDS = 3 * FRESH_SECONDS
"""So long may be taken for granted what was told of a file: by sshfs, whose seconds are whole ones and may be
two, and then by the system."""
MOUNT_SECONDS = 60.0
REMOUNT_SECONDS = 10.0
MOUNTS = "/proc/self/mountinfo"
SSHFS = [
    "sshfs",
    "-f",
    "-o",
    # The timeouts: what changes on the host is seen after `CACHE_SECONDS`; that long a listing also tells of
    # the files in it. no_check_root and delay_connect: nobody has to answer for it to be mounted.
    "directport={port},reconnect,delay_connect,no_check_root,cache_timeout={cache},allow_other,"
    "default_permissions,uid={uid},gid={gid},attr_timeout={cache},entry_timeout={cache},"
    "negative_timeout={cache},max_read=65536,max_write=65536,"
    "fsname=workspace,nosuid,nodev",
    "127.0.0.1:/",
]

INIT, VERSION, OPENDIR, READDIR, CLOSE = 1, 2, 11, 12, 4
LSTAT, FSTAT, STAT, REALPATH = 7, 8, 17, 16
STATUS, HANDLE, NAME, ATTRS = 101, 102, 104, 105
OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED = 0, 1, 2, 3
FOLDER = struct.pack(">II", 4, 0o40755)  # attributes: the permissions alone


def mount(user):  # type: (str) -> Optional[subprocess.Popen[bytes]]
    """Mount the folder for a user; returns sshfs once it has, `None` where it cannot.

    Nothing here may look into the folder: the agent would wait for itself.
    """
    place = protocol.WORKSPACE
    account = pwd.getpwnam(user)
    try:
        # What an agent that was killed has left there answers nobody.
        subprocess.call(["umount", "-l", place], stderr=subprocess.DEVNULL)
        os.makedirs(place, exist_ok=True)
        os.chown(place, account.pw_uid, account.pw_gid)
        facts = {"port": protocol.FILES_PORT, "cache": FRESH_SECONDS}
        facts.update(uid=account.pw_uid, gid=account.pw_gid)
        words = [word.format(**facts) for word in SSHFS]
        process = subprocess.Popen(words + [place], stdin=subprocess.DEVNULL)
    except OSError:
        return None
    poller = zmq.Poller()
    deadline = time.monotonic() + MOUNT_SECONDS
    with open(MOUNTS) as mounts:
        poller.register(mounts.fileno(), zmq.POLLERR | zmq.POLLPRI)
        while " {} ".format(place) not in mounts.read():
            left = deadline - time.monotonic()
            if left < 0 or process.poll() is not None:
                return None
            poller.poll(int(min(left, 1.0) * 1000))
            mounts.seek(0)
    return process


class Connection:
    """One connection of sshfs."""

    def __init__(self, connection):  # type: (socket.socket) -> None
        self.connection = connection
        self.stream = os.urandom(8)
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.taken = 0  # so much of `incoming` is counted, and waits for a host
        self.asked = collections.deque()  # type: Deque[Tuple[float, int]]
        self.bytes = 0
        self.begun = False

    @property
    def full(self):  # type: () -> bool
        """Whether no more may be asked before there are answers."""
        return len(self.asked) >= MAX_ON_THEIR_WAY or self.bytes >= MAX_BYTES_ON_THEIR_WAY


class Workspace:
    """Carries packets; the agent polls what is `watched`.

    Args:
        carry: called with a stream and packets for the host, b"" for the stream's end; false where no host
            is there to take them.
    """

    def __init__(self, carry):  # type: (Callable[[bytes, Union[bytes, memoryview]], bool]) -> None
        self._carry = carry
        self._user = ""
        self._sshfs = None  # type: Optional[subprocess.Popen[bytes]]
        self._mounted = 0.0
        self.by_host = False
        self._connections = {}  # type: Dict[int, Connection]
        self._streams = {}  # type: Dict[bytes, Connection]
        # One for good: to map as much memory for each request takes an emulated machine a millisecond.
        self._chunk = memoryview(bytearray(CHUNK))
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.setblocking(False)
        self._listener.bind(("127.0.0.1", protocol.FILES_PORT))
        self._listener.listen(MAX_CONNECTIONS)

    def mount(self, user):  # type: (str) -> None
        """Mount the folder for a user; see `mount`."""
        self._user = user
        self._sshfs = mount(user)
        self._mounted = time.monotonic()

    @property
    def mounted(self):  # type: () -> bool
        """Whether there is a folder to be seen in this machine."""
        return self._sshfs is not None

    def child_ended(self):  # type: () -> None
        """Mount it again if it is sshfs that has ended, unless it does so all the time."""
        if self._sshfs is not None and self._sshfs.poll() is not None:
            self._sshfs = None
            if time.monotonic() - self._mounted > REMOUNT_SECONDS:
                self.mount(self._user)

    def watched(self):  # type: () -> Dict[int, int]
        """The file descriptors to poll, and for what."""
        watched = {self._listener.fileno(): int(zmq.POLLIN)}
        for descriptor, each in self._connections.items():
            watched[descriptor] = (0 if each.full else int(zmq.POLLIN)) | (
                int(zmq.POLLOUT) if each.outgoing else 0
            )
        return watched

    def deadline(self):  # type: () -> Optional[float]
        """When, by the monotonic clock, something will have waited for too long."""
        first = [each.asked[0][0] for each in self._connections.values() if each.asked]
        return min(first) + ANSWER_SECONDS if first else None

    def expire(self):  # type: () -> None
        """End the connections whose requests have waited for too long."""
        now = time.monotonic()
        for each in list(self._connections.values()):
            if each.asked and each.asked[0][0] + ANSWER_SECONDS <= now:
                self._end(each)

    def handle(self, descriptor):  # type: (int) -> None
        """Go on with a descriptor that is ready."""
        if descriptor == self._listener.fileno():
            self._accept()
            return
        each = self._connections.get(descriptor)
        if each is None:
            return
        try:
            if each.outgoing:
                self._send(each)
            if not each.full:
                self._receive(each)
        except BlockingIOError:
            pass
        except OSError:
            self._end(each)

    def serve(self, by_host):  # type: (bool) -> None
        """A host is there, and answers from now on, or the agent does if not `by_host`."""
        if by_host != self.by_host:
            self.drop(unasked=False)
            self.by_host = by_host
        for each in list(self._connections.values()):
            self._pass_on(each)

    def drop(self, unasked=True):  # type: (bool) -> None
        """Whoever answered until now is there no more: nobody knows what was open.

        Args:
            unasked: end also the connections of which nothing was passed on yet.
        """
        for each in list(self._connections.values()):
            if each.begun or unasked:
                self._end(each)

    def from_host(self, stream, packets):  # type: (bytes, memoryview) -> None
        """Packets of the host for a stream, b"" for its end."""
        each = self._streams.get(stream)
        if each is None:
            return
        if not packets:
            self._end(each)
            return
        self._answer(each, packets)
        self._pass_on(each)  # there may be room now for what has come

    def _accept(self):  # type: () -> None
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * CHUNK)
        if len(self._connections) >= MAX_CONNECTIONS:
            connection.close()
            return
        each = Connection(connection)
        self._connections[connection.fileno()] = each
        self._streams[each.stream] = each

    def _receive(self, each):  # type: (Connection) -> None
        size = each.connection.recv_into(self._chunk)
        if not size:
            self._end(each)
            return
        each.incoming += self._chunk[:size]
        self._pass_on(each)

    def _pass_on(self, each):  # type: (Connection) -> None
        """Hand on what has come as a whole, as far as there is room for it."""
        try:
            self._hand_on(each)
            while self._take(each):
                self._hand_on(each)
        except ValueError:
            self._end(each)

    def _take(self, each):  # type: (Connection) -> bool
        before, now = each.taken, time.monotonic()
        for start, end in protocol.packets(each.incoming, each.taken):
            if each.full:
                break
            each.asked.append((now, end - start))
            each.bytes += end - start
            each.taken = end
        return each.taken > before

    def _hand_on(self, each):  # type: (Connection) -> None
        if not each.taken:
            return
        with memoryview(each.incoming)[: each.taken] as packets:
            if not self.by_host:
                answers = [
                    protocol.framed(nothing(bytes(packets[start:end])))
                    for start, end in protocol.packets(packets)
                ]
            elif not self._carry(each.stream, packets):
                return
        del each.incoming[: each.taken]
        each.taken = 0
        each.begun = True
        if not self.by_host:
            self._answer(each, memoryview(b"".join(answers)))

    def _answer(self, each, packets):  # type: (Connection, memoryview) -> None
        for _ in protocol.packets(packets):
            if each.asked:
                each.bytes -= each.asked.popleft()[1]
        try:
            while packets and not each.outgoing:
                packets = packets[each.connection.send(packets) :]
        except BlockingIOError:
            pass
        except OSError:
            self._end(each)
        each.outgoing += packets

    def _send(self, each):  # type: (Connection) -> None
        while each.outgoing:
            sent = each.connection.send(each.outgoing)
            del each.outgoing[:sent]

    def _end(self, each):  # type: (Connection) -> None
        if self._streams.pop(each.stream, None) is None:
            return
        self._connections.pop(each.connection.fileno(), None)
        each.connection.close()
        each.taken = 0
        each.incoming.clear()  # or it would be passed on as of a stream that has ended
        if each.begun and self.by_host:
            self._carry(each.stream, b"")


def nothing(packet):  # type: (bytes) -> bytes
    """What an empty folder that takes nothing answers, see draft-ietf-secsh-filexfer-02."""
    kind, number = packet[0], packet[1:5]
    if kind == INIT:
        return struct.pack(">BI", VERSION, 3)
    if kind in (STAT, LSTAT):
        if packet[9:].strip(b"/.") == b"":
            return struct.pack(">B", ATTRS) + number + FOLDER
        return _status(number, NO_SUCH_FILE)
    if kind == OPENDIR:
        return struct.pack(">B", HANDLE) + number + struct.pack(">I", 1) + b"d"
    if kind in (READDIR, CLOSE):
        return _status(number, EOF if kind == READDIR else OK)
    return _status(number, PERMISSION_DENIED)


def _status(number, code):  # type: (bytes, int) -> bytes
    return struct.pack(">B", STATUS) + number + struct.pack(">III", code, 0, 0)
