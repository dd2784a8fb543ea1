"""The contract that every driver keeps.

A machine is named by its sandbox's id; a driver finds all it needs to know of it from that id, in
any process of the same user. Order of calls: `connect`, `template` (once per image and shape), then per
machine `start`, `fork` or `restore`, any of `wait_exit`, `usage`, `snapshot`, `restore`, `boot`, `stop`,
and at last `delete`. The caller holds a lock per machine: two verbs on one machine never run at
once, but for `snapshot` and a `check_snapshot` that does something ahead. Verbs on different machines do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping
    from pathlib import Path

    from jupyter_vsandbox.domain.advice import Advice
    from jupyter_vsandbox.domain.checks import Check
    from jupyter_vsandbox.domain.model import Accelerator, Endpoint, Image, LinkKeys, Shape, Usage
    from jupyter_vsandbox.domain.pool import Pool
    from jupyter_vsandbox.work import Work

    Warm = Callable[[Endpoint, LinkKeys], Awaitable[None]]
    Progress = Callable[[str, float | None, str], None]
    MakeDisk = Callable[[Path, Progress], Awaitable[Path]]


@dataclass(frozen=True)
class Template:
    """A booted image with a warm kernel, ready to be cloned.

    Attributes:
        id: unique among this driver's templates.
        image: `Image.id`.
        append: `Image.append`.
        shape: size of its clones.
        keys: what a fresh clone's agent is reached with, until it is given its own.
        accelerator: what it was made with; its clones run on the same.
    """

    id: str
    image: str
    append: str
    shape: Shape
    accelerator: str
    keys: LinkKeys = field(repr=False)


@dataclass(frozen=True)
class Saved:
    """What a snapshot came to.

    Attributes:
        size: bytes that it takes on disk beyond what it shares with its parent.
        pause: seconds that the machine stood still; 0 for one that did not run.
    """

    size: int
    pause: float


@dataclass(frozen=True)
class Extent:
    """How much an export will come to.

    Attributes:
        size: bytes, at most.
        sample: some of them, from all over, that tell how far they can be compressed.
    """

    size: int
    sample: bytes


@dataclass(frozen=True)
class Capabilities:
    """What a driver can do beyond starting and stopping, as data."""

    memory_clones: bool
    """`start` resumes a running kernel instead of booting."""
    memory_snapshots: bool
    """`snapshot` can keep the memory of a running machine, and `restore` bring it back."""
    on_this_host: bool
    """Machines take the memory of this host."""
    memory_anywhere: bool
    """`restore` can bring it back in any machine; else only where it was, and `fork` is for others."""
    not_exported: str = ""
    """Why snapshots are not written to files, and what to do instead; "" where they are."""


class Driver(Protocol):
    """Runs machines of one kind. Knows nothing of Jupyter."""

    name: str
    capabilities: Capabilities
    advice: Advice
    """How many snapshots a machine should have, and for how long."""

    async def connect(self) -> None:
        """Get to know what there is; what is no coroutine below tells only what is known.

        Called before anything else; twice is harmless, and costs nothing.

        Raises:
            Transient: what runs the machines is not to be reached.
            Permanent: it does not let this user in.
        """

    async def checks(self) -> list[Check]:
        """Examine the host; never raises. Called by ``doctor``."""

    async def pools(self) -> list[Pool]:
        """The pools that its machines may be in, as they are now; which sandboxes those are is not told.

        Called only where `Capabilities.on_this_host` is false. Raises as `connect` does.
        """

    async def accelerator(self) -> Accelerator:
        """How guests are run on this host, found out once per boot of the host."""

    async def publish(self, image: Image, make_disk: MakeDisk, progress: Progress) -> bool:
        """Bring an image to where its machines are made; returns whether it was not there yet.

        `make_disk` is called where it has to be sent: given an empty folder and `progress`, it makes a raw
        disk there that boots by itself, and returns its path. `progress` is told the stage, the share of it
        that is done (`None`: unknown), and a line for people. Cancelled or failed, it leaves nothing behind.

        Raises:
            Exhausted: there is no room for it.
        """

    async def template(self, image: Image, shape: Shape, keys: LinkKeys, warm: Warm) -> Template:
        """Return the template for an image, made now if there is none.

        Called before each start; safe to call at once from several processes: one makes it, the
        others wait. `warm` is awaited when the machine's agent can be expected to answer and
        must return once the kernel is warm. `keys` become those of its clones. Cancelled or failed,
        it leaves nothing behind.

        Raises:
            Permanent: the machine did not boot; the message has the end of its console.
        """

    async def start(self, machine_id: str, template: Template) -> Endpoint:
        """Start a clone of a template.

        Returns when the machine runs and its agent is reached soon with the template's keys;
        every clone must be given an identity and keys of its own before it is used.

        Raises:
            Permanent: it did not start. Nothing of the machine is left.
        """

    async def fork(self, machine_id: str, source_id: str) -> Endpoint:
        """Start a machine that goes on where another one is right now, which is not disturbed.

        Called only where `Capabilities.memory_anywhere` is false. It has the other's keys until it is given
        its own.

        Raises:
            InvalidState: the other one does not run.
            Unsupported: there is no such way; a snapshot of its disk can be restored.
        """

    async def mac(self, machine_id: str) -> str:
        """The MAC address that the network knows a machine by; "" where it may take any.

        Called before a new machine is given its identity. Raises as `connect` does.
        """

    async def boot(self, machine_id: str, image: Image, shape: Shape, keys: LinkKeys) -> Endpoint:
        """Start a stopped machine from its own disk.

        Returns as soon as the boot has begun and it is known where the agent will be; that takes as long
        as the guest needs.
        """

    async def snapshot(
        self, machine_id: str, snapshot_id: str, *, memory: bool, resume: bool = True
    ) -> Saved:
        """Keep the machine as it is now, to be restored any number of times.

        Only what changed since the snapshot it was last taken or restored from is written. The
        machine runs on after a short pause, and does so too where this fails; a failed snapshot
        leaves nothing behind. Its disk alone can also be kept while it does not run.

        Args:
            machine_id: which.
            snapshot_id: name of the new snapshot.
            memory: keep memory and devices of the running machine as well.
            resume: let the machine run on; else it stays paused, for `stop` to end it.

        Raises:
            InvalidState: memory was asked for and it does not run.
            Exhausted: not enough disk.
        """

    async def restore(
        self, machine_id: str, snapshot_id: str, *, memory: bool = True, take: bool = False
    ) -> Endpoint | None:
        """Put a machine, new or not, to a snapshot of its own or of another machine. If it runs, that ends.

        With memory it runs when this returns, and its agent is reached with the keys it had when the
        snapshot was taken. Without, only the disk is put back, nothing runs, and `None` is returned. `take`:
        the machine that the snapshot is of is about to be deleted, and may be used up for this.

        Raises:
            NotFound: the snapshot's files are gone.
            Permanent: a file is damaged; it is named.
            Unsupported: this host or this QEMU cannot load its memory; its disk can be had.
        """

    async def check_snapshot(
        self, machine_id: str, snapshot_id: str, *, memory: bool, take: bool = False, ahead: bool = False
    ) -> None:
        """Raise what `restore` would: called before a machine is ended to be put there.

        Args:
            machine_id: which.
            snapshot_id: where to.
            memory: as for `restore`.
            take: as for `restore`.
            ahead: a `restore` comes next, and there is memory for two such machines: what can be done for
                it while this one runs may be done now, at the same time as a `snapshot`. `resume` and `stop`
                undo that. Cancelled or failed, it leaves nothing behind.
        """

    async def measure(self, snapshot_id: str, image: Image, *, memory: bool) -> Extent:
        """Tell beforehand what `export_snapshot` will write, without reading it all; raises the same."""

    async def export_snapshot(
        self, snapshot_id: str, image: Image, folder: Path, work: Work, *, memory: bool
    ) -> Mapping[str, str]:
        """Write a snapshot to files that need nothing of this host but the image.

        Nothing is changed. Cancelled or failed, it may leave files in `folder`.

        Args:
            snapshot_id: which.
            image: what its machine was made from.
            folder: empty; gets files with simple names and no folders. Their format is the driver's.
            work: is told of the bytes written.
            memory: write memory and devices as well as the disk.

        Returns:
            what must be the same on the host where its memory is loaded, for `check_import`.

        Raises:
            NotFound: the snapshot's files are gone.
            Permanent: one is damaged; it is named.
            Unsupported: its memory cannot be loaded here, so nobody knows where it can; its disk can. With
                `Capabilities.not_exported`: always.
        """

    async def check_import(self, needs: Mapping[str, str], shape: Shape) -> None:
        """Raise `Unsupported` if memory with these needs cannot be loaded on this host."""

    async def import_snapshot(
        self, snapshot_id: str, image: Image, shape: Shape, folder: Path, *, memory: bool
    ) -> Saved:
        """Make a new snapshot of files that `export_snapshot` wrote on whatever host; they are moved.

        The files may be of anybody's making. Cancelled or failed, it leaves no snapshot.

        Args:
            snapshot_id: name of the snapshot.
            image: has the very disk that the exported one was made from.
            shape: size of the machine.
            folder: holds the files.
            memory: take memory and devices as well as the disk; `check_import` found no obstacle.

        Raises:
            Permanent: the files are not what such an export writes.
        """

    async def resume(self, machine_id: str) -> None:
        """Let a machine run on that stands still.

        A `snapshot` left it so, on purpose or because it was cut off, or it could not write its disk
        (`stalled`); where that is so still, it stands still again at once. What `check_snapshot` did ahead is
        undone. Harmless on any other.
        """

    def paused(self, machine_id: str) -> bool:
        """Whether a `snapshot` has paused the machine, or a `check_snapshot` has done something ahead.

        Where nobody is at work on it, `resume` is due.
        """

    async def stalled(self, machine_id: str) -> str:
        """Why a running machine stands still by itself, "" if it does not: the host's disk is full."""

    async def forget(self, snapshot_ids: Collection[str]) -> None:
        """Remove snapshots. What others or running machines share with them stays. Harmless twice."""

    async def stop(self, machine_id: str, grace: float) -> None:
        """End the machine, keep its disk. Harmless on one that is not running.

        Args:
            machine_id: which.
            grace: seconds that the guest, already asked to power off, gets before it is cut off.
        """

    async def delete(self, machine_id: str) -> None:
        """End the machine and remove all that it has. Harmless twice."""

    async def wait_exit(self, machine_id: str) -> str:
        """Return once the machine does not run (any more), with the last it said, or ""."""

    def alive(self, machine_id: str) -> bool:
        """Whether the machine runs."""

    def usage(self, machine_id: str) -> Usage:
        """What it takes from the host now; zeros where it does not run."""

    def machines(self) -> set[str]:
        """The ids of all machines that have anything on this host, running or not."""

    def debris(self) -> Collection[str]:
        """What may have been left behind by processes that died, for `sweep` to look at."""

    async def sweep(self, debris: Collection[str], snapshots: Collection[str]) -> None:
        """Remove of `debris` what is no part of `snapshots` or of a machine.

        Called when no verb has been under way since `debris` was asked for.

        Args:
            debris: what `debris` said.
            snapshots: all that there are.
        """

    async def remove_templates(self, image_id: str) -> None:
        """Forget the templates of an image. Clones that run are not disturbed."""
