"""Two sandboxes cloned from one warm template are two machines, not one twice."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from jupyter_vsandbox.link import AgentLink

if TYPE_CHECKING:
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
