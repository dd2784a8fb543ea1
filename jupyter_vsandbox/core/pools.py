"""What sandboxes are placed in. There is one pool so far: what this host gives to them."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jupyter_vsandbox.core import capacity
from jupyter_vsandbox.core.lifecycle import ACTIVE
from jupyter_vsandbox.domain.errors import SandboxError

if TYPE_CHECKING:
    from jupyter_vsandbox.core.service import SandboxService

HOST = "host"


@dataclass(frozen=True)
class Pool:
    """A share of memory and processors.

    Attributes:
        name: what it is called.
        budget: bytes that may be promised to machines.
        promised: bytes that are.
        used: bytes that those machines take right now.
        cpus: processors of the host.
        vcpus: virtual processors of the machines in it.
        sandboxes: ids of the sandboxes that have memory promised to them.
    """

    name: str
    budget: int
    promised: int
    used: int
    cpus: int
    vcpus: int
    sandboxes: tuple[str, ...]


def host(service: SandboxService) -> Pool:
    """The pool of this host, by the figures that a start is admitted by."""
    active = [s for s in service.list() if s.state in ACTIVE and service.on_this_host(s)]
    used = 0
    for each in active:
        with contextlib.suppress(SandboxError):  # its driver is no longer installed
            used += service.driver(each.driver).usage(each.id).memory
    return Pool(
        name=HOST,
        budget=capacity.budget(used, service.settings),
        promised=sum(capacity.cost(each.shape, service.settings) for each in active),
        used=used,
        cpus=len(os.sched_getaffinity(0)),
        vcpus=sum(each.shape.vcpus for each in active),
        sandboxes=tuple(each.id for each in active),
    )
