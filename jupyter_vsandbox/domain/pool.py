"""What machines are placed in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """What a pool has of one thing: bytes of memory, or MHz of processors.

    Attributes:
        limit: the most that its machines may have together, `None` for no limit.
        reservation: what it has in any case.
        used: what its machines take right now.
        free: what one more machine finds, `None` where that is not known.
    """

    limit: int | None
    reservation: int
    used: int
    free: int | None


@dataclass(frozen=True)
class Pool:
    """A named share of memory and processors.

    Attributes:
        name: what it is called.
        driver: `Sandbox.driver` of the sandboxes in it, "" for whatever takes memory of this host.
        memory: in bytes.
        promised: bytes of memory that its running machines may come to take.
        cpu: in MHz, `None` where processors are not shared out.
        cpus: processors of this host, `None` where its machines are elsewhere.
        vcpus: virtual processors of the sandboxes in it.
        sandboxes: ids of the sandboxes in it that are up, or on their way.
    """

    name: str
    driver: str
    memory: Share
    promised: int
    cpu: Share | None = None
    cpus: int | None = None
    vcpus: int = 0
    sandboxes: tuple[str, ...] = ()
