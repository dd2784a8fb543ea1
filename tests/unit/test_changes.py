"""What happened between two readings of the store."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jupyter_vsandbox.core.changes import Changes, Records, between
from jupyter_vsandbox.core.store import Store
from jupyter_vsandbox.domain.errors import Conflict, NotFound
from jupyter_vsandbox.domain.model import GIB, Cause, Sandbox, Shape, Snapshot, State

ONE = Sandbox("1" * 12, "python-3.11", "image", "qemu", State.RUNNING, Shape(GIB, 1), 1.0)
TWO = replace(ONE, id="2" * 12, created=2.0)
FIRST = Snapshot("a" * 12, ONE.id, ONE.id, "", "first", "", Cause.ASKED, 1.0, True, False, 10, 0.1)
SECOND = replace(FIRST, id="b" * 12, name="second", parent=FIRST.id, created=2.0)
NOTHING = Changes((), (), (), (), ())


def test_nothing_happened():
    records = Records.of([ONE, TWO], [FIRST])
    assert between(records, Records.of([ONE, TWO], [FIRST])) == NOTHING
    assert records.histories == {ONE.id: (1, 10)}


def test_sandboxes_come_change_and_go():
    named = replace(TWO, name="x")
    assert between(Records.of([ONE], []), Records.of([ONE, TWO], [])) == replace(NOTHING, sandboxes=(TWO,))
    changed = between(Records.of([ONE, TWO], []), Records.of([ONE, named], []))
    assert changed == replace(NOTHING, sandboxes=(named,))
    assert between(Records.of([ONE, TWO], []), Records.of([TWO], [])) == replace(NOTHING, gone=(ONE.id,))


def test_a_sandbox_changes_with_its_history():
    none, one, two = Records.of([ONE], []), Records.of([ONE], [FIRST]), Records.of([ONE], [FIRST, SECOND])
    assert between(one, two) == replace(NOTHING, added=(SECOND,), sandboxes=(ONE,))
    assert between(one, none) == replace(NOTHING, removed=(FIRST,), sandboxes=(ONE,))
    noted = replace(SECOND, note="x")
    assert between(two, Records.of([ONE], [FIRST, noted])) == replace(NOTHING, changed=(noted,))


def test_a_history_that_moves_changes_both():
    moved = replace(FIRST, sandbox=TWO.id)
    changes = between(Records.of([ONE, TWO], [FIRST]), Records.of([ONE, TWO], [moved]))
    assert changes == replace(NOTHING, changed=(moved,), sandboxes=(ONE, TWO))


@pytest.fixture
def stores(tmp_path):
    ours, theirs = Store(tmp_path / "store"), Store(tmp_path / "store")
    yield ours, theirs
    ours.close()
    theirs.close()


def test_a_store_notices_what_others_write(stores):
    ours, theirs = stores
    before = ours.version()
    assert ours.version() == before
    theirs.add(ONE)
    theirs.add_snapshot(FIRST)
    assert ours.version() != before
    assert ours.everything() == ([replace(ONE, snapshot=FIRST.id)], [FIRST])


def test_a_snapshot_gets_another_name_or_note(stores):
    store, _ = stores
    store.add(ONE)
    store.add_snapshot(FIRST)
    store.add_snapshot(SECOND)
    assert store.label_snapshot(FIRST.id, note="x") == replace(FIRST, note="x")
    assert store.label_snapshot(FIRST.id, name="third", note="").name == "third"
    with pytest.raises(Conflict, match="'second'"):
        store.label_snapshot(FIRST.id, name="second")
    with pytest.raises(NotFound):
        store.label_snapshot("f" * 12, name="x")
    assert store.get_snapshot(FIRST.id).name == "third"
