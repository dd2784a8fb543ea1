"""Comparisons: what becomes of their columns."""

from __future__ import annotations

import asyncio

import pytest

from jupyter_vsandbox.kernel import comparison


async def test_each_column_of_a_comparison_that_is_cancelled_cleans_up_to_its_end():
    begun, cleaned = asyncio.Barrier(3), []

    async def column(steps):
        try:
            await begun.wait()
            await asyncio.Event().wait()
        finally:
            for _ in range(steps):
                await asyncio.sleep(0)
            cleaned.append(steps)

    comparing = asyncio.create_task(comparison._all([column(0), column(20)]))
    await begun.wait()
    comparing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await comparing
    assert cleaned == [0, 20]
