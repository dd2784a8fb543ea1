"""Many kernels at once, and what happens when the next one does not fit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from jupyter_client.manager import AsyncKernelManager

from jupyter_vsandbox.core import capacity
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.errors import Exhausted
from jupyter_vsandbox.domain.model import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_vsandbox.domain.model import Image
    from tests.conftest import Home, NewHome

pytestmark = pytest.mark.machine

KERNEL = "vsandbox-python-3.11"
KERNELS = 20
SECONDS = 180.0


@pytest.fixture
def cost(image: Image, home: Home) -> int:
    """Bytes that one machine is promised."""
    return capacity.cost(image.shape, home.settings)


@pytest.fixture
def roomy(new_home: NewHome, cost: int) -> Iterator[Home]:
    """Room for just that many. Promised in full, that is more than small hosts have, or it takes."""
    with new_home(memory_budget=KERNELS * cost, memory_overcommit=1.0) as home:
        yield home


@pytest.fixture
def cramped(new_home: NewHome, cost: int) -> Iterator[Home]:
    """Room for two and a half."""
    with new_home(memory_budget=2 * cost + cost // 2, memory_overcommit=1.0) as home:
        yield home


async def first_result(manager: AsyncKernelManager) -> str:
    """Start a kernel; what its first cell evaluates to."""
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=SECONDS)
        request = client.execute("40 + 2")
        while True:
            message = await client.get_iopub_msg(timeout=SECONDS)
            if message["msg_type"] == "execute_result" and message["parent_header"]["msg_id"] == request:
                return str(message["content"]["data"]["text/plain"])
    finally:
        client.stop_channels()


async def test_twenty_kernels_start_at_once_and_the_next_one_is_refused(roomy: Home, cost: int) -> None:
    managers = [AsyncKernelManager(kernel_name=KERNEL) for _ in range(KERNELS)]
    try:
        assert await asyncio.gather(*map(first_result, managers)) == ["42"] * KERNELS
        assert len(roomy.records()) == len(roomy.processes()) == KERNELS
        before = roomy.leftovers()

        with pytest.raises(Exhausted, match=f"needs {cost // MIB} MiB and 0 MiB are free"):
            await AsyncKernelManager(kernel_name=KERNEL).start_kernel()

        assert roomy.leftovers() == before
    finally:
        await asyncio.gather(*(m.shutdown_kernel(now=True) for m in managers if m.has_kernel))
    assert roomy.leftovers() == []


async def test_of_several_that_start_at_once_only_as_many_as_fit(
    cramped: Home, image: Image, cost: int
) -> None:
    with SandboxService(cramped.settings) as one, SandboxService(cramped.settings) as other:
        outcomes = await asyncio.gather(
            *(service.create(image.runtime) for service in (one, other, one, other)), return_exceptions=True
        )
        refusals = [outcome for outcome in outcomes if isinstance(outcome, Exhausted)]
        started = [outcome.id for outcome in outcomes if not isinstance(outcome, BaseException)]
        assert (len(started), len(refusals)) == (2, 2), outcomes
        assert {sandbox.id for sandbox in cramped.records()} == set(started)
        assert all(f"{cost // 2 // MIB} MiB are free" in str(refusal) for refusal in refusals)

        await one.delete(started[0])
        started[0] = (await other.create(image.runtime)).id

        for sandbox_id in started:
            await one.delete(sandbox_id)
