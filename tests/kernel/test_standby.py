"""Warm machines in waiting: made by themselves, handed out once, and gone when nobody comes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.model import State

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from jupyter_vsandbox.domain.model import Sandbox
    from tests.conftest import Home, NewHome, Until
    from tests.kernel.conftest import StartKernel

pytestmark = pytest.mark.machine

RUNTIME = "python-3.11"
FILL_SECONDS = 90.0
SHORT_SECONDS = 3.0


@pytest.fixture(scope="module")
def home(new_home: NewHome) -> Iterator[Home]:
    with new_home(standby=1) as home:
        yield home


@pytest.fixture
def pair(new_home: NewHome) -> Iterator[Home]:
    """A home that keeps two standbys."""
    with new_home(standby=2) as home:
        yield home


@pytest.fixture
def hasty(new_home: NewHome) -> Iterator[Home]:
    """A home whose standbys wait a moment only."""
    with new_home(standby=1, standby_seconds=SHORT_SECONDS) as home:
        yield home


def standbys(home: Home) -> list[Sandbox]:
    return [sandbox for sandbox in home.records() if sandbox.state is State.STANDBY]


def test_a_start_leaves_a_standby_that_the_next_one_gets(
    start_kernel: StartKernel, home: Home, until: Until, tmp_path: Path
) -> None:
    first = start_kernel()
    until(lambda: standbys(home), FILL_SECONDS)
    [waiting] = standbys(home)
    assert waiting.owner == ""

    notebook = str(tmp_path / "b.ipynb")
    second = start_kernel(JPY_SESSION_NAME=notebook)

    assert second.sandbox.id == waiting.id != first.sandbox.id
    assert second.sandbox.notebook == notebook
    assert second.value("os.environ['JPY_SESSION_NAME']", before="import os") == notebook
    until(lambda: standbys(home), FILL_SECONDS)


async def test_no_two_starts_get_the_same_standby(pair: Home) -> None:
    services = [SandboxService(pair.settings) for _ in range(4)]
    try:
        made = {(await services[0].create_standby(RUNTIME)).id for _ in range(2)}
        assert await services[0].create_standby(RUNTIME) is None

        got = await asyncio.gather(*(service.create(RUNTIME) for service in services))

        ids = [sandbox.id for sandbox in got]
        assert len(set(ids)) == 4
        assert made < set(ids)
        assert {sandbox.state for sandbox in got} == {State.RUNNING}
        await asyncio.gather(*(services[0].delete(sandbox_id) for sandbox_id in ids))
    finally:
        for service in services:
            service.close()


async def test_a_standby_that_nobody_claims_powers_itself_off(hasty: Home) -> None:
    with SandboxService(hasty.settings) as service:
        sandbox = await service.create_standby(RUNTIME)
        assert sandbox is not None
        async with asyncio.timeout(FILL_SECONDS):
            await service.ended(sandbox.id)
        assert hasty.processes() == []
    with SandboxService(hasty.settings) as later:
        await later.reconcile()
    assert hasty.leftovers() == []


async def test_a_standby_near_its_end_is_left_alone(hasty: Home) -> None:
    with SandboxService(hasty.settings) as service:
        waiting = await service.create_standby(RUNTIME)
        assert waiting is not None
        sandbox = await service.create(RUNTIME)
        assert sandbox.id != waiting.id
        await service.delete(sandbox.id)
