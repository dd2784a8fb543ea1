"""Locks between processes."""

import asyncio

from jupyter_vsandbox.files import locked


def test_many_who_wait_for_a_lock_leave_its_holder_a_thread(tmp_path):
    turns = []

    async def turn(number):
        async with locked(tmp_path / "lock"):
            turns.append(await asyncio.to_thread(lambda: number))

    async def all_turns():
        async with asyncio.timeout(30):
            await asyncio.gather(*map(turn, range(60)))

    asyncio.run(all_turns())
    assert sorted(turns) == list(range(60))
