"""When a machine counts as unused, on a clock of the test's own."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from jupyter_vsandbox.kernel import idle

HOUR = 3600.0
REST = 0.01  # of a processor: about what a machine takes that does nothing


class World:
    """Its time goes on when somebody sleeps."""

    def __init__(self):
        self.now = 0.0
        self.uses = []
        self.jobs = []
        self.ended = asyncio.Event()
        self.timer = None

    def cpu(self):
        jobs = sum(share * max(0.0, min(self.now, end) - begin) for begin, end, share in self.jobs)
        return REST * self.now + jobs

    async def sleep(self, seconds):
        until = self.now + seconds
        while self.uses and self.uses[0] <= until:
            self.now = self.uses.pop(0)
            self.timer.used()
        self.now = until
        await asyncio.sleep(0)

    async def idle_at(self):
        """When the timer ended."""
        self.timer = idle.IdleTimer(HOUR, self.cpu, self.ended.set)
        self.timer.start()
        async with asyncio.timeout(10):
            await self.ended.wait()
        return self.now


@pytest.fixture
def world(monkeypatch):
    world = World()
    monkeypatch.setattr(idle, "time", SimpleNamespace(monotonic=lambda: world.now))
    monkeypatch.setattr(idle, "asyncio", SimpleNamespace(sleep=world.sleep, create_task=asyncio.create_task))
    return world


async def test_nothing_happens(world):
    assert await world.idle_at() == pytest.approx(HOUR)


@pytest.mark.parametrize("uses", [[1], [60, 1800, 3599], [3545, 3595, 7000, 7001]])
async def test_the_time_begins_anew_with_each_use(world, uses):
    world.uses = list(uses)
    assert await world.idle_at() == pytest.approx(uses[-1] + HOUR)


@pytest.mark.parametrize(
    ("begin", "end", "share"),
    [(0, 3 * HOUR, 1.0), (600, 2400, 0.5), (3550, 3 * HOUR, 0.3), (3590, 3600, 1.0)],
)
async def test_a_job_in_the_background_is_use(world, begin, end, share):
    world.jobs = [(begin, end, share)]
    assert end <= await world.idle_at() <= end + 2 * HOUR


async def test_never_means_never(world):
    timer = idle.IdleTimer(0, world.cpu, world.ended.set)
    timer.start()
    timer.used()
    await asyncio.sleep(0)
    assert world.now == 0.0
    timer.stop()


async def test_stopped_is_stopped(world):
    timer = idle.IdleTimer(HOUR, world.cpu, world.ended.set)
    timer.start()
    timer.stop()
    timer.stop()
    for _ in range(100):
        await asyncio.sleep(0)
    assert not world.ended.is_set()
