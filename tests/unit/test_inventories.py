"""Points by their names, and what is kept of snapshots."""

import asyncio
import base64
import json
import zlib

import pytest

from jupyter_vsandbox.core import inventories
from jupyter_vsandbox.core.inventories import Point
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.errors import InvalidState, NotFound, Permanent, Transient
from jupyter_vsandbox.domain.inventory import Inventory, Variable
from jupyter_vsandbox.domain.model import Cause, Sandbox, Shape, Snapshot, State

SANDBOX = Sandbox("aaaa00000001", "python-3.11", "i", "qemu", State.STOPPED, Shape(1, 1), 1.0, name="mine")


def snapshot(number, **values):
    facts = {"memory": True, "cells": False, "size": 1, "pause": 0.0, "note": "", "parent": ""}
    return Snapshot(
        id=f"{number:012x}",
        sandbox=SANDBOX.id,
        machine=SANDBOX.id,
        name=f"s{number}",
        cause=Cause.ASKED,
        created=float(number),
        **facts | values,
    )


@pytest.fixture
def service(settings):
    with SandboxService(settings) as service:
        service._store.add(SANDBOX)
        yield service


def packed(document):
    return {"data": base64.b64encode(zlib.compress(json.dumps(document).encode())).decode()}


def test_points_are_found_by_names_and_ids(service):
    first, second = snapshot(1), snapshot(2)
    service._store.add_snapshot(first)
    service._store.add_snapshot(second)
    now = service.get(SANDBOX.id)
    assert inventories.find(service, "mine") == Point(now, None)
    assert inventories.find(service, "aaaa@s1") == Point(now, first)
    assert inventories.find(service, f"mine@{second.id}") == Point(now, second)
    assert inventories.find_two(service, "mine") == (Point(now, second), Point(now, None))
    assert inventories.find_two(service, "mine@s1") == (Point(now, first), Point(now, None))
    assert inventories.find_two(service, "mine", "mine@s1") == (Point(now, None), Point(now, first))
    for words in ("other", "mine@other", "mine@"):
        with pytest.raises(NotFound):
            inventories.find(service, words)


def test_one_without_a_snapshot_has_nothing_to_compare_with(service):
    with pytest.raises(NotFound, match="takes one"):
        inventories.find_two(service, "mine")


def test_what_is_kept_is_read_again_and_goes_with_its_snapshot(service):
    service._store.add_snapshot(snapshot(1))
    path = service.inventory_of(snapshot(1).id)
    found = Inventory({"a": "1"}, {}, {"x": Variable("int", 28, None)})
    inventories._keep(path, found)
    assert path.stat().st_mode & 0o077 == 0
    point = inventories.find(service, "mine@s1")
    assert asyncio.run(inventories.inventory(service, point)) == found
    service._forget_files(snapshot(1).id)
    assert not list(path.parent.iterdir())


@pytest.mark.parametrize("text", ["", "{", "{}", '{"version": 0}', "[]"])
def test_what_is_kept_and_cannot_be_read_is_made_anew(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    assert inventories._load(path) is None


def test_an_answer_of_a_guest_is_unpacked(service):
    answer = packed({"packages": None, "files": [["/a", 1, 2, 3, 4]]})
    found = inventories._parse(answer, {"notes": {"variables": "it is stopped"}})
    assert list(found.files) == ["/a"]
    assert set(found.notes) == {"variables", "packages"}


@pytest.mark.parametrize("answer", [{}, {"data": 5}, {"data": "!"}, {"data": "eA=="}, packed([]), packed({})])
def test_an_answer_that_makes_no_sense_is_refused(answer):
    with pytest.raises(Permanent, match="cannot be understood"):
        inventories._parse(answer, {})


def test_an_answer_that_would_fill_the_memory_is_refused(monkeypatch):
    monkeypatch.setattr(inventories, "_MAX_BYTES", 1000)
    with pytest.raises(Permanent, match="cannot be understood"):
        inventories._parse(packed({"packages": {}, "files": [["/" + "a" * 5000, 1, 1, 1, 1]]}), {})


def test_a_guest_that_does_not_know_the_verb_is_of_an_older_image():
    with pytest.raises(Permanent, match=r"images build python-3\.11"):
        inventories._require_verb(SANDBOX, Permanent("Failure: no verb 'inventory'"))


def test_a_machine_on_its_way_cannot_be_asked():
    with pytest.raises(Transient, match="try again"):
        asyncio.run(inventories._ask(SANDBOX))


def test_only_a_stopped_machine_is_copied_as_it_is_now(service):
    for state in (State.STARTING, State.STANDBY):
        service._store.change(SANDBOX.id, state=state)

    async def copy():
        async with service.copy(SANDBOX.id):
            pass

    with pytest.raises(InvalidState):
        asyncio.run(copy())
