"""The store: records survive, states change only as they may, and a standby is claimed once."""

from __future__ import annotations

import sqlite3
import threading
from dataclasses import replace

import pytest

from jupyter_vsandbox.core.store import Store
from jupyter_vsandbox.domain import errors
from jupyter_vsandbox.domain.model import GIB, Cause, Endpoint, LinkKeys, Sandbox, Shape, Snapshot, State

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


def snapshot(number: int, parent: str = "", sandbox: str = "a1") -> Snapshot:
    return Snapshot(
        id=f"s{number}",
        sandbox=sandbox,
        machine=sandbox,
        parent=parent,
        name=f"name-{number}",
        note="",
        cause=Cause.ASKED,
        created=float(number),
        memory=True,
        cells=False,
        size=1,
        pause=0.1,
        keys=SANDBOX.keys,
    )


def test_a_snapshot_and_where_its_sandbox_is_are_recorded_together(store):
    store.add(SANDBOX)
    assert store.add_snapshot(snapshot(1), state=State.RUNNING).snapshot == "s1"
    assert store.get("a1").state is State.RUNNING
    assert store.snapshots("a1") == [snapshot(1)]
    assert store.get_snapshot("s1").keys == SANDBOX.keys
    with pytest.raises(errors.Conflict, match="name-1"):
        store.add_snapshot(replace(snapshot(2), name="name-1"))
    with pytest.raises(errors.InvalidState):
        store.add_snapshot(snapshot(3), state=State.STANDBY)
    assert [s.id for s in store.snapshots("a1")] == ["s1"]


def test_what_followed_a_snapshot_that_is_removed_follows_its_parent(store):
    store.add(SANDBOX)
    for number in (1, 2, 3):
        store.add_snapshot(snapshot(number, parent=f"s{number - 1}" if number > 1 else ""))
    store.remove_snapshot("s2")
    assert [(s.id, s.parent) for s in store.snapshots("a1")] == [("s1", ""), ("s3", "s1")]
    store.remove_snapshot("s3")
    assert store.get("a1").snapshot == "s1"
    with pytest.raises(errors.NotFound):
        store.get_snapshot("s3")


def test_a_history_moves_to_another_sandbox_and_names_stay_unique(store):
    store.add(SANDBOX)
    store.add(replace(SANDBOX, id="b2"))
    store.add_snapshot(snapshot(1))
    store.add_snapshot(replace(snapshot(2, sandbox="b2"), name="name-1"))
    store.move_history("b2", "a1")
    assert [(s.name, s.machine) for s in store.snapshots("a1")] == [("name-1", "a1"), ("name-1-b2", "b2")]
    store.remove("b2")
    assert len(store.snapshots("a1")) == 2
    store.remove("a1")
    assert store.snapshots("a1") == []


def test_notebooks_move_with_their_folder_and_nothing_else_does(store):
    paths = {"1": "/w/a.ipynb", "2": "/w/sub/b.ipynb", "3": "/w/sub.ipynb", "4": "/w/subs/c.ipynb", "5": ""}
    for id_, path in paths.items():
        store.add(replace(SANDBOX, id=id_, notebook=path))
    assert [s.id for s in store.move_notebooks("/w/sub", "/w/new")] == ["2"]
    assert [s.id for s in store.move_notebooks("/w/a.ipynb", "/w/sub/a.ipynb")] == ["1"]
    assert {s.id: s.notebook for s in store.all()} == paths | {"1": "/w/sub/a.ipynb", "2": "/w/new/b.ipynb"}
    assert store.move_notebooks("/w/%", "/x") == []


def test_without_its_notebook_a_sandbox_is_named_after_it(store):
    store.add(replace(SANDBOX, id="1", notebook="/w/a.ipynb"))
    store.add(replace(SANDBOX, id="2", notebook="/w/b.ipynb", name="mine"))
    moved = store.move_notebooks("/w", "")
    assert [(s.notebook, s.name) for s in moved] == [("", "a.ipynb"), ("", "mine")]


def test_a_store_of_the_first_version_is_brought_up_to_date(path):
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE snapshots")
        for column in ("name", "origin", "snapshot", "folder"):
            db.execute(f"ALTER TABLE sandboxes DROP COLUMN {column}")
        db.execute("PRAGMA user_version = 1")
    db.close()
    store = Store(path)
    store.add(SANDBOX)
    store.add_snapshot(snapshot(1))
    assert store.get("a1").snapshot == "s1"
    store.close()


def at(store, sandbox_id, snapshot_id, state):
    """A sandbox that was forked at a snapshot and is in a state."""
    store.add(replace(SANDBOX, id=sandbox_id, snapshot=snapshot_id, state=State.RESTORING))
    if state is not State.RESTORING:
        store.change(sandbox_id, state=state)


@pytest.mark.parametrize("state", [State.HIBERNATED, State.RESTORING])
def test_a_snapshot_that_a_sandbox_sleeps_at_stays(store, state):
    store.add(SANDBOX)
    store.add_snapshot(snapshot(1))
    at(store, "b2", snapshot(1).id, state)
    assert store.remove_snapshot(snapshot(1).id) == "b2"
    assert store.get_snapshot(snapshot(1).id) == snapshot(1)
    store.remove("b2")
    assert store.remove_snapshot(snapshot(1).id) == ""
    assert store.snapshot_ids() == set()


@pytest.mark.parametrize("state", [State.HIBERNATED, State.RESTORING])
def test_what_a_fork_sleeps_at_outlives_its_origin(store, state):
    store.add(SANDBOX)
    store.add_snapshot(snapshot(1))
    store.add_snapshot(snapshot(2))
    for fork in ("b2", "c3"):
        at(store, fork, snapshot(1).id, state)
    assert store.remove(SANDBOX.id) == ["s2"]
    assert store.snapshots("b2") == [replace(snapshot(1), sandbox="b2")]
    assert store.remove("b2") == []
    assert store.remove("c3") == [snapshot(1).id]


def test_what_a_fork_inherits_gets_a_name_that_is_free(store):
    store.add(SANDBOX)
    store.add_snapshot(snapshot(1))
    at(store, "b2", snapshot(1).id, State.RUNNING)
    store.add_snapshot(replace(snapshot(1), id="s2", sandbox="b2", machine="b2"))
    store.change("b2", state=State.RESTORING, snapshot=snapshot(1).id)
    store.remove(SANDBOX.id)
    assert {s.name for s in store.snapshots("b2")} == {snapshot(1).name, f"{snapshot(1).name}-a1"}


def test_nobody_sets_out_for_a_snapshot_that_is_gone(store):
    store.add(replace(SANDBOX, state=State.RUNNING))
    with pytest.raises(errors.NotFound, match="s9"):
        store.add(replace(SANDBOX, id="b2", snapshot="s9"))
    with pytest.raises(errors.NotFound, match="s9"):
        store.change("a1", state=State.RESTORING, snapshot="s9")
    assert store.get("a1").state is State.RUNNING


def test_a_full_disk_is_told_and_what_was_there_stays(store):
    store.add(SANDBOX)
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(errors.Exhausted, match="disk is full"):
        [store.add(replace(SANDBOX, id=f"b{number}")) for number in range(1000)]
    store._db.execute("PRAGMA max_page_count = 100000")
    store.add(replace(SANDBOX, id="later"))
    assert {"a1", "later"} <= {sandbox.id for sandbox in store.all()}
