"""Two commands on one sandbox at once: the outcome is that of one after the other, or one is refused."""

from __future__ import annotations

import asyncio
import itertools
import random
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.model import State
from tests.faults.cases import COUNT, SEED
from tests.faults.subject import Subject, assert_tidy, renumber

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Home, NewHome

pytestmark = pytest.mark.machine

REFUSED = {
    3,
    4,
}  # there is no such thing (any more); somebody else is at work, or its state does not allow this
_VERBS = ["snapshot", "rollback", "fork", "promote", "hibernate", "reset", "stop", "prune"]
PAIRS = [*itertools.combinations(_VERBS, 2), ("rm", "snapshot"), ("rm", "fork")]
FEW = 4


@pytest.fixture(scope="module")
def home(new_home: NewHome) -> Iterator[Home]:
    with new_home() as home:
        yield home


@pytest.fixture(scope="module")
def subject(home: Home) -> Iterator[Subject]:
    subject = Subject(home)
    yield subject
    home.remove(*State)


async def fork_of(subject: Subject) -> tuple[str, int]:
    with SandboxService(subject.home.settings) as service:
        fork = await service.fork(subject.id)
        return fork.id, await renumber(service, fork.id, next(subject.numbers))


@pytest.mark.parametrize("verbs", random.Random(SEED).sample(PAIRS, FEW) if COUNT else PAIRS, ids="-".join)
def test_both_or_one(verbs: tuple[str, str], subject: Subject) -> None:
    subject.begin()
    fork, fork_number = asyncio.run(fork_of(subject)) if "promote" in verbs else ("", 0)
    words = {
        "snapshot": ["snapshot", subject.id, "taken"],
        "rollback": ["rollback", subject.id, "kept"],
        "promote": ["promote", fork],
    }
    commands = [
        subprocess.Popen(
            [sys.executable, "-m", "jupyter_vsandbox.cli", *words.get(verb, [verb, subject.id])],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for verb in verbs
    ]
    said = [command.communicate()[1] for command in commands]
    codes = [command.returncode for command in commands]
    assert 0 in codes, said
    assert set(codes) <= {0} | REFUSED, said
    asyncio.run(look(verbs, subject, fork, fork_number))


async def look(verbs: tuple[str, str], subject: Subject, fork: str, fork_number: int) -> None:
    with SandboxService(subject.home.settings) as service:
        await service.reconcile()
        await assert_tidy(subject.home, service)
        if "rm" in verbs:
            assert subject.id not in {sandbox.id for sandbox in service.list()}
            return
        before, kept = subject.number, subject.history[subject.kept]
        numbers: set[int | None] = {before}
        numbers |= {kept} if "rollback" in verbs else set()
        numbers |= {fork_number} if "promote" in verbs else set()
        numbers |= {None} if "reset" in verbs else set()
        assert (await subject.observe(service, subject.id))[1] in numbers
        for other in service.list():
            if other.id != subject.id:
                assert other.id == fork or other.origin == subject.id
                assert (await subject.observe(service, other.id))[1] in numbers
                await service.delete(other.id)
        for snapshot in service.history(subject.id):
            if snapshot.memory:
                assert await subject.restores(service, snapshot.id) in numbers | {kept}
