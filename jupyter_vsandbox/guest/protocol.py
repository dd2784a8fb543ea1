"""The wire between a host and the agent in its guest.

One ZeroMQ connection (host: DEALER, agent: ROUTER, CURVE) carries multipart messages whose first
frame names a channel:

* ``shell``, ``control``, ``stdin``, ``iopub``: the rest are the frames of a Jupyter message as
  the kernel's own socket sends or takes them, unsigned.
* ``agent``: the second frame is a JSON object. A request is ``{"id", "verb", "args"}``, its answer
  ``{"id", "result"}`` or ``{"id", "error"}``, an event ``{"event", ...}``.

A message of one frame is about files: `STREAM` bytes that name a stream, then whole packets of SFTP, each
after its length, or nothing at the stream's end. In a stream each request of the guest has one answer of the
host's, in their order. (In version 3 the frames were ``files``, the stream's name, and one packet without its
length or an empty one at the end; hosts speak that still.)

Programs in the guest ask the host through the agent. They connect to the unix socket `DOOR`, send
one line, the JSON object ``{"verb", "args"}``, and are sent one, ``{"result"}`` or ``{"error",
"kind"}``. The agent passes a request on as the event ``{"event": "asked", "number", "verb",
"args"}``; the host answers with its verb ``answer`` (``number``, and ``line`` to send). An asker that
hangs up is told of by ``{"event": "withdrawn", "number"}``. What the host does for a guest it does
to that guest's own sandbox and its forks; it reads the verbs and checks them in
``kernel/guest_wire.py``.
"""

import json
import struct
from typing import Any, Dict, Iterator, List, Tuple, Union

VERSION = 4
"""What a guest says that it speaks, in the answer to ``attach``."""

SPOKEN = (3, VERSION)
"""What hosts speak."""

PORT = 5555
"""TCP port of the agent inside the guest."""

DOOR = "/run/vsandbox/ask"
"""Where programs in the guest ask for something."""

MAX_REQUEST = 4 << 20
"""Bytes of one such request."""

MAX_ASKING = 16
"""So many of them may wait for answers at once."""

BROKEN_OFF = "broken-off"
"""The ``kind`` of an error that says: this was asked in another life of this machine."""

BROKEN_OFF_WAITED_FOR = "broken-off-waited-for"
"""Likewise, and other cells were waiting for the one that asked."""

WORKSPACE = "/home/jovyan/work"
"""Where the notebook's folder is in the guest."""

FILES_PORT = 5556
"""TCP port of the guest's loopback at which the agent takes requests for files."""

MAX_PACKET = 256 * 1024 + 1024
"""Bytes of one of those."""

STREAM = 8
"""Bytes of the name of a stream of them."""

AGENT = b"agent"
FILES = b"files"
CHANNELS = (b"shell", b"control", b"stdin", b"iopub")
DELIMITER = b"<IDS|MSG>"

_LENGTH = struct.Struct(">I")

CONFIG_FILE = "/sys/firmware/qemu_fw_cfg/by_name/opt/org.jupyter.vsandbox/link/raw"
"""Where a guest under QEMU finds its first link keys (readable by root only)."""


def pack(message):  # type: (Dict[str, Any]) -> List[bytes]
    """The frames of a message on the agent channel."""
    return [AGENT, json.dumps(message).encode()]


def unpack(frame):  # type: (bytes) -> Dict[str, Any]
    """The message in a frame of the agent channel.

    Raises:
        ValueError: it is not a JSON object.
    """
    try:
        message = json.loads(frame.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(message, dict):
        raise ValueError("not a JSON object")
    return message


def stream(frame):  # type: (memoryview) -> Tuple[bytes, memoryview]
    """The name of a stream, and its packets, in the frame of a message about files."""
    return bytes(frame[:STREAM]), frame[STREAM:]


def framed(packet):  # type: (bytes) -> bytes
    """A packet of SFTP after its length."""
    return _LENGTH.pack(len(packet)) + packet


def packets(data, at=0):  # type: (Union[bytes, bytearray, memoryview], int) -> Iterator[Tuple[int, int]]
    """Where the whole packets that follow each other in `data`, from `at` on, start and end, lengths aside.

    Raises:
        ValueError: something there is no packet.
    """
    while len(data) - at >= _LENGTH.size:
        size = _LENGTH.unpack_from(data, at)[0]
        if not 0 < size <= MAX_PACKET:
            raise ValueError("no packet has {} bytes".format(size))
        start, at = at + _LENGTH.size, at + _LENGTH.size + size
        if len(data) < at:
            return
        yield start, at
