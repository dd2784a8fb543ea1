"""What sandboxes are placed in: this host, and the pools that drivers have elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from jupyter_vsandbox.core import capacity
from jupyter_vsandbox.core.lifecycle import ACTIVE
from jupyter_vsandbox.domain.errors import SandboxError
from jupyter_vsandbox.domain.pool import Pool, Share
from jupyter_vsandbox.drivers import registry

if TYPE_CHECKING:
    from jupyter_vsandbox.core.service import SandboxService

HOST = "host"
_ANSWER_SECONDS = 5.0
"""What is elsewhere is left out where it takes longer to tell: this host's pool waits for nobody."""

_log = logging.getLogger(__name__)


async def every(service: SandboxService) -> list[Pool]:
    """All pools; those of a driver that is not to be reached just now are left out."""
    found = [host(service)]
    for name in registry.in_use(service.settings):
        driver = service.driver(name)
        if driver.capabilities.on_this_host:
            continue
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                told = await driver.pools()
        except (SandboxError, TimeoutError) as error:
            _log.info("The pools of the driver %s are not known: %s", name, error)
        else:
            found += [_with_sandboxes(pool, service) for pool in told]
    return found


def host(service: SandboxService) -> Pool:
    """The pool of this host, by the figures that a start is admitted by."""
    active = [s for s in service.list() if s.state in ACTIVE and service.on_this_host(s)]
    used = 0
    for each in active:
        with contextlib.suppress(SandboxError):  # its driver is no longer installed
            used += service.driver(each.driver).usage(each.id).memory
    budget = capacity.budget(used, service.settings)
    promised = sum(capacity.cost(each.shape, service.settings) for each in active)
    return Pool(
        name=HOST,
        driver="",
        memory=Share(limit=budget, reservation=0, used=used, free=max(budget - promised, 0)),
        promised=promised,
        cpus=len(os.sched_getaffinity(0)),
        vcpus=sum(each.shape.vcpus for each in active),
        sandboxes=tuple(each.id for each in active),
    )


def _with_sandboxes(pool: Pool, service: SandboxService) -> Pool:
    inside = [s for s in service.list() if s.state in ACTIVE and s.driver == pool.driver]
    return replace(
        pool, vcpus=sum(each.shape.vcpus for each in inside), sandboxes=tuple(each.id for each in inside)
    )
