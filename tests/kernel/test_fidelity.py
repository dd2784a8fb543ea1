"""Random sequences of verbs on real machines, every state compared with a model's.

A few sequences run with the test suite; ``make fidelity`` runs 200.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_as_test

from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.model import Cause, State
from tests.conftest import RUNTIME
from tests.guest import evaluate

if TYPE_CHECKING:
    from jupyter_vsandbox.domain.model import Snapshot
    from tests.conftest import Home

SEQUENCES = int(os.environ.get("VSANDBOX_TEST_SEQUENCES", "4"))
STEPS = 12
AT_ONCE = 3
SECONDS_PER_SEQUENCE = 180
pytestmark = [pytest.mark.machine, pytest.mark.timeout(SEQUENCES * SECONDS_PER_SEQUENCE)]

SET = "x = {0}\nopen('/home/jovyan/x', 'w').write('{0}')"
GET = "[x, int(open('/home/jovyan/x').read())]"


@dataclass
class Expected:
    """What a sandbox must be: its counter, in memory and on the disk, and that of each snapshot."""

    counter: int
    awake: bool = True
    origin: str = ""
    history: dict[str, int] = field(default_factory=dict)


class Verbs(RuleBasedStateMachine):
    """The verbs of the service, and what each must do to a counter."""

    home: Home

    def __init__(self) -> None:
        super().__init__()
        self.service = SandboxService(self.home.settings)
        self.model: dict[str, Expected] = {}
        self.numbers = itertools.count(1)
        self.touched: set[str] = set()

    @initialize()
    def create(self) -> None:
        """Start the first sandbox."""
        sandbox = asyncio.run(self.service.create(RUNTIME))
        self.model[sandbox.id] = Expected(0)
        self._write(sandbox.id)

    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        """Change the counter."""
        self._write(self._wake(self._one(data)))

    @rule(data=st.data())
    def snapshot(self, data: st.DataObject) -> None:
        """Keep the present."""
        sandbox_id = self._wake(self._one(data))
        taken = asyncio.run(self.service.snapshot(sandbox_id))
        self.model[sandbox_id].history[taken.id] = self.model[sandbox_id].counter

    @precondition(lambda self: any(each.history for each in self.model.values()))
    @rule(data=st.data())
    def rollback(self, data: st.DataObject) -> None:
        """Go back, or forth."""
        sandbox_id, snapshot_id = self._point(data)
        asyncio.run(self.service.rollback(sandbox_id, snapshot_id))
        mine = self.model[sandbox_id]
        self._learn(sandbox_id)
        mine.counter, mine.awake = mine.history[snapshot_id], True

    @precondition(lambda self: len(self.model) < AT_ONCE)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        """Two of the present."""
        origin = self._one(data)
        fork = asyncio.run(self.service.fork(origin))
        self._learn(origin)
        self.model[fork.id] = Expected(self.model[origin].counter, origin=origin)

    @precondition(lambda self: len(self.model) < AT_ONCE and any(e.history for e in self.model.values()))
    @rule(data=st.data())
    def fork_of_the_past(self, data: st.DataObject) -> None:
        """Another one from a snapshot."""
        origin, snapshot_id = self._point(data)
        fork = asyncio.run(self.service.fork(origin, snapshot_id))
        self.model[fork.id] = Expected(self.model[origin].history[snapshot_id], origin=origin)

    @precondition(lambda self: self._forks())
    @rule(data=st.data())
    def promote(self, data: st.DataObject) -> None:
        """Put a fork in its origin's place."""
        fork_id = data.draw(st.sampled_from(self._forks()))
        fork = self.model[fork_id]
        asyncio.run(self.service.promote(fork_id))
        origin = self.model[fork.origin]
        for snapshot in self._kept(fork.origin):
            # New are those that the verb took: of the origin as it was, of the fork as it is.
            if snapshot.id not in fork.history:
                counter = fork.counter if snapshot.machine == fork_id else origin.counter
                origin.history.setdefault(snapshot.id, counter)
        origin.history |= fork.history
        origin.counter, origin.awake = fork.counter, True
        self.touched.add(fork.origin)
        del self.model[fork_id]

    @rule(data=st.data())
    def hibernate(self, data: st.DataObject) -> None:
        """Put one to sleep."""
        sandbox_id = self._one(data)
        asyncio.run(self.service.hibernate(sandbox_id))
        self.model[sandbox_id].awake = False

    @rule(data=st.data())
    def wake(self, data: st.DataObject) -> None:
        """Wake one."""
        self._wake(self._one(data))

    @precondition(lambda self: any(each.history for each in self.model.values()))
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        """Remove a snapshot; those that follow it must not mind."""
        sandbox_id, snapshot_id = self._point(data)
        if snapshot_id not in {s.snapshot for s in self.service.list() if s.state is State.HIBERNATED}:
            asyncio.run(self.service.remove_snapshot(snapshot_id))
            del self.model[sandbox_id].history[snapshot_id]

    @precondition(lambda self: len(self.model) > 1)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """Delete a sandbox and its history; its forks must not mind."""
        sandbox_id = self._one(data)
        asyncio.run(self.service.delete(sandbox_id))
        del self.model[sandbox_id]

    @invariant()
    def is_as_expected(self) -> None:
        """The sandbox that the last verb touched has the model's counter; all have its state."""
        known = {s.id: s.state is State.RUNNING for s in self.service.list()}
        assert known == {sandbox_id: each.awake for sandbox_id, each in self.model.items()}
        for sandbox_id in self.touched & self.model.keys():
            self._check(sandbox_id)
        self.touched.clear()

    def teardown(self) -> None:
        """Look at every sandbox once more, then remove them."""
        try:
            for sandbox_id in self.model:
                self._check(sandbox_id)
        finally:
            for sandbox in self.service.list():
                asyncio.run(self.service.delete(sandbox.id))
            self.service.close()
        assert self.home.leftovers() == []

    def _forks(self) -> list[str]:
        return [sandbox_id for sandbox_id, each in self.model.items() if each.origin in self.model]

    def _one(self, data: st.DataObject) -> str:
        sandbox_id: str = data.draw(st.sampled_from(list(self.model)))
        self.touched.add(sandbox_id)
        return sandbox_id

    def _point(self, data: st.DataObject) -> tuple[str, str]:
        sandbox_id = data.draw(st.sampled_from([i for i, each in self.model.items() if each.history]))
        self.touched.add(sandbox_id)
        return sandbox_id, data.draw(st.sampled_from(list(self.model[sandbox_id].history)))

    def _learn(self, sandbox_id: str) -> None:
        """Enter the snapshot that a verb took of the state before it."""
        mine = self.model[sandbox_id]
        for snapshot in self._kept(sandbox_id):
            mine.history.setdefault(snapshot.id, mine.counter)

    def _kept(self, sandbox_id: str) -> list[Snapshot]:
        """The history without what hibernation keeps until the sandbox wakes."""
        return [s for s in self.service.history(sandbox_id) if s.cause is not Cause.HIBERNATION]

    def _wake(self, sandbox_id: str) -> str:
        asyncio.run(self.service.wake(sandbox_id))
        self.model[sandbox_id].awake = True
        return sandbox_id

    def _write(self, sandbox_id: str) -> None:
        self.model[sandbox_id].counter = next(self.numbers)
        self._run(sandbox_id, SET.format(self.model[sandbox_id].counter))

    def _check(self, sandbox_id: str) -> None:
        expected = self.model[sandbox_id]
        if expected.awake:
            assert self._run(sandbox_id, "") == [expected.counter, expected.counter]

    def _run(self, sandbox_id: str, code: str) -> object:
        sandbox = self.service.get(sandbox_id)
        assert sandbox.endpoint
        assert sandbox.keys
        return asyncio.run(evaluate(sandbox.endpoint, sandbox.keys, code, GET))


def test_every_state_is_the_models(home: Home) -> None:
    run_as_test(
        type("VerbsHere", (Verbs,), {"home": home}),
        settings=settings(
            max_examples=SEQUENCES,
            stateful_step_count=STEPS,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
