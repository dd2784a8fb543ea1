"""The store: records survive, states change only as they may, and a standby is claimed once."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace

import pytest

from jupyter_vsandbox.core.store import Store
from jupyter_vsandbox.domain import errors
from jupyter_vsandbox.domain.model import GIB, Endpoint, LinkKeys, Sandbox, Shape, State

SHAPE = Shape(GIB, 1)
SANDBOX = Sandbox(
    id="a1",
    runtime="python-3.11",
    image="python-3.11-0123",
    driver="qemu",
    state=State.STARTING,
    shape=SHAPE,
    created=100.0,
    endpoint=Endpoint("127.0.0.1", 4711),
    keys=LinkKeys("sp", "cp", "cs", "ss"),
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store.sqlite"


@pytest.fixture
def store(path):
    store = Store(path)
    yield store
    store.close()


def test_a_record_comes_back_as_it_was(store, path):
    store.add(SANDBOX)
    again = Store(path)
    assert again.get("a1") == SANDBOX
    assert again.all() == [SANDBOX]
    again.close()


def test_only_its_owner_may_read_the_file(store, path):
    assert path.stat().st_mode & 0o077 == 0


def test_an_id_is_taken_once(store):
    store.add(SANDBOX)
    with pytest.raises(errors.Conflict):
        store.add(SANDBOX)


def test_what_is_not_there(store):
    with pytest.raises(errors.NotFound):
        store.get("b2")
    with pytest.raises(errors.NotFound):
        store.change("b2", owner="")
    store.remove("b2")


def test_a_forbidden_change_of_state_changes_nothing(store):
    store.add(replace(SANDBOX, state=State.STOPPED))
    with pytest.raises(errors.InvalidState) as caught:
        store.change("a1", state=State.RUNNING, owner="7:7")
    assert caught.value.actual == State.STOPPED
    assert store.get("a1") == replace(SANDBOX, state=State.STOPPED)


def test_a_change_for_another_state_is_refused(store):
    store.add(SANDBOX)
    with pytest.raises(errors.InvalidState):
        store.change("a1", expected=State.RUNNING, state=State.STOPPED)
    assert store.get("a1") == SANDBOX


def test_an_allowed_change(store):
    store.add(SANDBOX)
    changed = store.change("a1", state=State.RUNNING, owner="7:7", endpoint=None)
    assert changed == store.get("a1") == replace(SANDBOX, state=State.RUNNING, owner="7:7", endpoint=None)


def claim(store, *, image=SANDBOX.image, shape=SHAPE, newer_than=0.0, owner="1:1"):
    return store.claim_standby("qemu", image, shape, newer_than, owner, "kernel", "n.ipynb")


@pytest.mark.parametrize(
    "wanted", [{"image": "python-3.11-ffff"}, {"shape": Shape(GIB, 2)}, {"newer_than": 100.0}]
)
def test_a_standby_that_does_not_fit_is_left_alone(store, wanted):
    store.add(replace(SANDBOX, state=State.STANDBY))
    assert claim(store, **wanted) is None
    assert store.get("a1").state is State.STANDBY


def test_of_many_claims_at_once_each_standby_goes_to_one(store, path):
    for number in range(5):
        store.add(replace(SANDBOX, id=f"s{number}", state=State.STANDBY))
    claimed, start = [], threading.Barrier(10)

    def contend(number):
        mine = Store(path)
        start.wait()
        claimed.append(claim(mine, owner=f"{number}:1"))
        mine.close()

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got = [sandbox for sandbox in claimed if sandbox is not None]
    assert sorted(sandbox.id for sandbox in got) == [f"s{number}" for number in range(5)]
    assert all(store.get(sandbox.id).owner == sandbox.owner for sandbox in got)
    assert {sandbox.state for sandbox in got} == {State.RUNNING}


def test_a_file_of_a_later_version_is_refused(path):
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(errors.Permanent, match="later version"):
        Store(path)


def test_what_is_no_database_is_refused(path):
    path.write_text("not a database, but long enough to be looked at as one" * 20)
    with pytest.raises(errors.Permanent, match="Move it away"):
        Store(path)
