"""The records that travel between the layers, and the states of a sandbox."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import InvalidState

if TYPE_CHECKING:
    from collections.abc import Mapping

MIB = 1024 * 1024
GIB = 1024 * MIB


class State(StrEnum):
    """Where a sandbox is in its life."""

    STARTING = "starting"
    """Recorded and paid for in memory, but nobody can use it yet."""
    STANDBY = "standby"
    """Running and warm, waiting for somebody to claim it."""
    RUNNING = "running"
    RESTORING = "restoring"
    """On its way to its snapshot; where nobody is at work on that any more, as good as hibernated."""
    HIBERNATED = "hibernated"
    """No machine, but disk and memory are kept in its snapshot."""
    STOPPING = "stopping"
    STOPPED = "stopped"
    """No machine, but its disk is kept."""


_TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.STARTING: frozenset({State.STANDBY, State.RUNNING, State.STOPPING, State.STOPPED}),
        State.STANDBY: frozenset({State.RUNNING, State.STOPPING, State.STOPPED}),
        State.RUNNING: frozenset(
            {State.STOPPING, State.STOPPED, State.STARTING, State.RESTORING, State.HIBERNATED}
        ),
        State.RESTORING: frozenset({State.RUNNING, State.HIBERNATED, State.STOPPING, State.STOPPED}),
        State.HIBERNATED: frozenset({State.RESTORING, State.STOPPED}),
        State.STOPPING: frozenset({State.STOPPED}),
        State.STOPPED: frozenset({State.STARTING, State.RESTORING}),
    }
)
if set(_TRANSITIONS) != set(State):  # pragma: no cover
    raise AssertionError("every state needs its row in the transition table")


def check_transition(subject: str, actual: State, target: State) -> None:
    """Raise `InvalidState` unless a sandbox may go from `actual` to `target`."""
    if target not in _TRANSITIONS[actual]:
        raise InvalidState(subject, actual, {s for s in State if target in _TRANSITIONS[s]})


@dataclass(frozen=True)
class Endpoint:
    """Where a guest's agent listens, as seen from this host."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """The address in ZeroMQ's notation."""
        return f"tcp://{self.host}:{self.port}"


@dataclass(frozen=True)
class LinkKeys:
    """The CURVE keys of one link, Z85 text of 40 characters each.

    The agent is the CURVE server; it admits the one client whose public key it was given.
    See https://rfc.zeromq.org/spec/26/.
    """

    server_public: str
    client_public: str
    client_secret: str = field(repr=False)
    server_secret: str = field(repr=False)


@dataclass(frozen=True)
class Shape:
    """The size of a machine.

    Attributes:
        memory: guest memory in bytes.
        vcpus: number of virtual processors.
        gpu: the vGPU profile that it asks for, "" for none; drivers that have none take no notice.
    """

    memory: int
    vcpus: int
    gpu: str = ""


@dataclass(frozen=True)
class Image:
    """What a runtime builds to: immutable files in one folder.

    Attributes:
        runtime: the runtime's name, for instance ``python-3.11``.
        digest: hexadecimal SHA-256 over everything the image was built from.
        folder: holds ``disk.qcow2``, ``vmlinuz``, ``initrd.img`` and ``manifest.json``.
        shape: the machine size that the recipe asks for.
        size: bytes that the folder takes on disk.
        created: seconds since the epoch.
        append: kernel command line that the image is made for, the console aside.
    """

    runtime: str
    digest: str
    folder: str
    shape: Shape
    size: int
    created: float
    append: str

    @property
    def id(self) -> str:
        """Short unique name, ``RUNTIME-DIGEST12``; also the folder's name."""
        return f"{self.runtime}-{self.digest[:12]}"


@dataclass(frozen=True)
class Accelerator:
    """How this host runs guests.

    Attributes:
        name: QEMU's name for it, ``kvm`` or ``tcg``.
        reason: why this one, in a sentence for the user.
        emulated: whether guest code is translated in software (about ten times slower, and
            not a security boundary in QEMU's own words).
    """

    name: str
    reason: str

    @property
    def emulated(self) -> bool:
        """Whether guest code is translated in software."""
        return self.name == "tcg"


@dataclass(frozen=True)
class Sandbox:
    """One machine and what is known of it.

    Attributes:
        id: 12 hexadecimal digits.
        runtime: the runtime's name.
        image: `Image.id` of what it was started from.
        driver: which driver runs it.
        state: where it is in its life.
        shape: the machine's size.
        created: seconds since the epoch.
        kernel_id: the Jupyter kernel it serves, "" for none.
        notebook: the notebook it serves, "" for none.
        owner: `PID:STARTTIME` of the process that uses it, "" for none (a standby).
        endpoint: where its agent listens, `None` while there is no machine.
        keys: the link's keys, `None` while there is no machine.
        name: what the user calls it, "" for nothing.
        origin: the sandbox it was forked from, "" for none.
        snapshot: where it is in its history: the snapshot it was last taken or restored from, ""
            for the clean image.
        folder: what its kernel was given to work in, "" for nothing.
    """

    id: str
    runtime: str
    image: str
    driver: str
    state: State
    shape: Shape
    created: float
    kernel_id: str = ""
    notebook: str = ""
    owner: str = ""
    endpoint: Endpoint | None = None
    keys: LinkKeys | None = field(default=None, repr=False)
    name: str = ""
    origin: str = ""
    snapshot: str = ""
    folder: str = ""

    @property
    def workspace(self) -> str:
        """The folder of this host that its kernel works in, that of its notebook first; "" for none."""
        return os.path.dirname(self.notebook) if self.notebook else self.folder


class Cause(StrEnum):
    """Why a snapshot was taken."""

    ASKED = "asked"
    """Somebody asked for it; it goes only when somebody says so."""
    ROLLBACK = "rollback"
    """What a rollback, promotion or reset was about to leave."""
    FORK = "fork"
    """Where a fork began."""
    HIBERNATION = "hibernation"
    PACKAGES = "packages"
    """Taken before a cell that installs or removes packages."""
    LONG_CELL = "long-cell"
    """Taken after cells that ran for long."""


@dataclass(frozen=True)
class Snapshot:
    """A point in the life of a sandbox.

    Attributes:
        id: 12 hexadecimal digits.
        sandbox: whose history it is in.
        parent: the snapshot before it, "" for none.
        name: unique in the history, given by the user or made up.
        note: free text.
        cause: why it was taken.
        created: seconds since the epoch.
        memory: whether it holds memory, not only the disk.
        cells: whether it holds the notebook's cells.
        size: bytes it takes beyond its parent.
        pause: seconds that the machine stood still for it.
        keys: the link's keys at that moment, `None` without memory.
        machine: the sandbox whose name and keys the machine bore; a promoted fork's history moves,
            and this stays.
    """

    id: str
    sandbox: str
    machine: str
    parent: str
    name: str
    note: str
    cause: Cause
    created: float
    memory: bool
    cells: bool
    size: int
    pause: float
    keys: LinkKeys | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Usage:
    """What a machine takes from its host right now.

    Attributes:
        memory: private resident memory in bytes.
        disk: bytes that its own layers take on disk.
        cpu: seconds of processor time since its start.
    """

    memory: int
    disk: int
    cpu: float
