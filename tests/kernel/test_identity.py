"""Two sandboxes cloned from one warm template are two machines, not one twice."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import pytest

from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.link import AgentLink
from tests.conftest import RUNTIME
from tests.guest import evaluate

if TYPE_CHECKING:
    from jupyter_vsandbox.domain.model import Sandbox
    from tests.conftest import Home
    from tests.kernel.conftest import Kernel, StartKernel

pytestmark = pytest.mark.machine

CLOCK_SECONDS = 0.050
FACTS = """
import os, random, socket, uuid
import numpy
facts = {
    "urandom": os.urandom(16).hex(),
    "uuid": str(uuid.uuid4()),
    "random": random.random(),
    "numpy": numpy.random.random(),
    "machine-id": open("/etc/machine-id").read().strip(),
    "mac": open("/sys/class/net/eth0/address").read().strip(),
    "hostname": socket.gethostname(),
    "kernel entropy": open("/proc/sys/kernel/random/uuid").read().strip(),
}
"""


@pytest.fixture(scope="module")
def facts(kernel: Kernel) -> dict[str, Any]:
    """The first cell's view of one machine."""
    return kernel.value("facts", before=FACTS)


def test_everything_that_must_be_unique_is(facts: dict[str, Any], start_kernel: StartKernel) -> None:
    others = start_kernel().value("facts", before=FACTS)
    assert {name for name in facts if facts[name] == others[name]} == set()


def test_the_hostname_is_the_sandboxes(facts: dict[str, Any], kernel: Kernel) -> None:
    assert facts["hostname"] == f"sandbox-{kernel.sandbox.id}"
    assert kernel.value("socket.gethostbyname(socket.gethostname())", before="import socket").startswith(
        "127."
    )


async def test_the_clock_is_the_hosts(kernel: Kernel) -> None:
    sandbox = kernel.sandbox
    assert sandbox.endpoint is not None
    assert sandbox.keys is not None
    async with AgentLink(sandbox.endpoint, sandbox.keys) as link:
        await link.request("info", timeout=60)
        before = time.time()
        guest = (await link.request("info", timeout=60))["time"]
        after = time.time()
    assert before - CLOCK_SECONDS <= guest <= after + CLOCK_SECONDS


UNIQUE = """
import os, socket, uuid
facts = [
    os.urandom(16).hex(),
    str(uuid.uuid4()),
    open("/etc/machine-id").read().strip(),
    open("/sys/class/net/eth0/address").read().strip(),
    socket.gethostname(),
]
"""


def test_fifty_forks_share_nothing_that_must_differ(home: Home) -> None:
    seen: list[list[str]] = []
    with SandboxService(home.settings) as service:

        async def look(sandbox: Sandbox) -> None:
            seen.append(await evaluate(sandbox.endpoint, sandbox.keys, UNIQUE, "facts"))

        async def fork_all() -> None:
            origin = await service.create(RUNTIME)
            await look(origin)
            begin = await service.snapshot(origin.id)
            for _ in range(50):
                fork = await service.fork(origin.id, begin.id)
                await look(fork)
                await service.delete(fork.id)
            await service.delete(origin.id)

        asyncio.run(fork_all())
    assert [len(set(fact)) for fact in zip(*seen, strict=True)] == [51] * 5


def test_the_clock_is_the_hosts_after_every_way_back(home: Home) -> None:
    async def off(sandbox: Sandbox) -> float:
        """Seconds between the guest's clock and the nearest moment of the host's it may be."""
        async with AgentLink(sandbox.endpoint, sandbox.keys) as link:
            await link.request("info", timeout=60)
            before = time.time()
            guest = (await link.request("info", timeout=60))["time"]
            return max(before - guest, guest - time.time(), 0.0)

    async def travel(service: SandboxService) -> list[float]:
        sandbox = await service.create(RUNTIME)
        begin = await service.snapshot(sandbox.id)
        await asyncio.sleep(2)
        found = [await off(await service.rollback(sandbox.id, begin.id))]
        await service.hibernate(sandbox.id)
        await asyncio.sleep(2)
        found += [
            await off(await service.wake(sandbox.id)),
            await off(await service.fork(sandbox.id)),
            await off(await service.reset(sandbox.id)),
        ]
        for each in service.list():
            await service.delete(each.id)
        return found

    with SandboxService(home.settings) as service:
        assert max(asyncio.run(travel(service))) < CLOCK_SECONDS
