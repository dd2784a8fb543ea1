"""The wire between a host and the agent in its guest.

One ZeroMQ connection (host: DEALER, agent: ROUTER, CURVE) carries multipart messages whose first
frame names a channel:

* ``shell``, ``control``, ``stdin``, ``iopub``: the rest are the frames of a Jupyter message as
  the kernel's own socket sends or takes them, unsigned.
* ``agent``: the second frame is a JSON object. A request is ``{"id", "verb", "args"}``, its answer
  ``{"id", "result"}`` or ``{"id", "error"}``, an event ``{"event", ...}``.
"""

import json
from typing import Any, Dict, List

VERSION = 2
"""Both ends must speak the same; a guest says its own in the answer to ``attach``."""

PORT = 5555
"""TCP port of the agent inside the guest."""

AGENT = b"agent"
CHANNELS = (b"shell", b"control", b"stdin", b"iopub")
DELIMITER = b"<IDS|MSG>"

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
    message = json.loads(frame.decode())
    if not isinstance(message, dict):
        raise ValueError("not a JSON object")
    return message
