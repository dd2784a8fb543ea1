"""Memory is promised to so many machines and no more, and a refusal has the figures."""

from __future__ import annotations

import pytest

from jupyter_vsandbox.core import capacity
from jupyter_vsandbox.domain.errors import Exhausted
from jupyter_vsandbox.domain.model import GIB, MIB, Shape
from jupyter_vsandbox.settings import Settings

SHAPE = Shape(GIB, 1)


def settings(machines: float, overcommit: float = 1.0) -> Settings:
    one = capacity.cost(SHAPE, Settings())
    return Settings(memory_budget=int(machines * one), memory_overcommit=overcommit)


def test_the_last_that_fits_fits():
    capacity.require(SHAPE, [SHAPE] * 2, 0, settings(3))


def test_one_more_is_refused_with_what_is_needed_and_free():
    limits = settings(3.5)
    with pytest.raises(Exhausted) as caught:
        capacity.require(SHAPE, [SHAPE] * 3, 0, limits)
    needed = capacity.cost(SHAPE, limits) // MIB
    assert f"needs {needed} MiB and {needed // 2} MiB are free" in str(caught.value)


def test_overcommit_stretches_the_budget():
    capacity.require(SHAPE, [SHAPE] * 3, 0, settings(2, overcommit=2.0))


def test_without_a_budget_the_host_and_what_the_machines_have_already_count(monkeypatch):
    one = capacity.cost(SHAPE, Settings())
    monkeypatch.setattr(capacity, "available", lambda: one)
    limits = Settings(memory_overcommit=1.0)
    capacity.require(SHAPE, [SHAPE], one, limits)
    with pytest.raises(Exhausted):
        capacity.require(SHAPE, [SHAPE], one // 2, limits)


def test_available_is_what_the_kernel_says():
    assert 0 < capacity.available() < 2**50
