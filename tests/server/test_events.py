"""Events of changes that others make, and of the meters."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from jupyter_vsandbox.core import watch
from jupyter_vsandbox.domain.advice import Advice
from jupyter_vsandbox.domain.model import MIB, Cause, State, Usage
from jupyter_vsandbox.drivers import registry
from jupyter_vsandbox.server import events, meters
from tests.server.conftest import SANDBOX, SNAPSHOT
from tests.wire import EVENTS, check_event

SECONDS = 20.0
# Another process that writes to the store.
WRITE = f"""
import sys
from pathlib import Path
from jupyter_vsandbox.core.store import Store
store = Store(Path(sys.argv[1]))
store.change({SANDBOX.id!r}, name="from afar")
store.label_snapshot({SNAPSHOT.id!r}, note="from afar")
"""


class Events:
    """What the server tells a subscriber."""

    def __init__(self, socket):
        self._socket = socket

    async def next(self, *names):
        """The next event of one of these kinds."""
        async with asyncio.timeout(SECONDS):
            while True:
                event = json.loads(await self._socket.read_message())
                if event["schema_id"] in EVENTS:
                    name, data = check_event(event)
                    if name in names:
                        return data


@pytest.fixture
def subscribe(jp_serverapp, jp_ws_fetch):
    """Starts the extension as a server does, and subscribes."""

    async def subscribe():
        await jp_serverapp.extension_manager.start_all_extensions()
        socket = await jp_ws_fetch("api", "events", "subscribe")
        follower = jp_serverapp.web_app.settings["vsandbox_backend"]._follower
        async with asyncio.timeout(SECONDS):
            await follower.follows.wait()
        return Events(socket)

    return subscribe


async def test_what_another_process_writes_is_told(recorded, subscribe, settings):
    told = await subscribe()
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", WRITE, str(settings.database)], check=True)
    snapshot = await told.next("snapshot")
    assert (snapshot["action"], snapshot["snapshot"]["note"]) == ("changed", "from afar")
    sandbox = await told.next("sandbox")
    assert (sandbox["action"], sandbox["sandbox"]["name"]) == ("changed", "from afar")
    assert sandbox["sandbox"]["history"] == {"count": 1, "bytes": 1000, "warning": None}


async def test_what_comes_and_goes_is_told_once(recorded, subscribe):
    told = await subscribe()
    other = replace(SANDBOX, id="ba9876543210")
    recorded.add(other)
    assert (await told.next("sandbox"))["id"] == other.id
    recorded.add_snapshot(replace(SNAPSHOT, id="0" * 12, sandbox=other.id))
    assert (await told.next("snapshot"))["action"] == "added"
    assert (await told.next("sandbox", "snapshot"))["sandbox"]["history"]["count"] == 1
    recorded.remove(other.id)
    gone = await told.next("snapshot")
    assert (gone["action"], gone["id"], gone["sandbox"]) == ("removed", "0" * 12, other.id)
    assert await told.next("sandbox") == {"action": "removed", "id": other.id, "sandbox": None}
    recorded.change(SANDBOX.id, name="last")
    assert (await told.next("sandbox"))["sandbox"]["name"] == "last"


async def test_nothing_is_told_where_nothing_is_written(recorded, subscribe, monkeypatch):
    read = []
    everything = events.Store.everything
    monkeypatch.setattr(events.Store, "everything", lambda store: (read.append(1), everything(store))[1])
    await subscribe()
    before = len(read)
    await asyncio.sleep(3 * events.AGAIN_SECONDS)
    assert len(read) == before


async def test_recipes_and_images_are_told(subscribe, settings, ask):
    told = await subscribe()
    recipe = 'name = "mine"\n[base]\nsuite = "bookworm"\n[python]\n'
    assert (await ask("POST", "runtimes", {"recipe": recipe}))[0] == 201
    assert (await told.next("runtimes"))["reason"] == "recipes"
    (settings.images / ".build-x").mkdir()
    (settings.images / "python-3.11-0123456789ab").mkdir()
    while (await told.next("runtimes"))["reason"] != "images":
        pass


async def test_an_operation_is_told_to_its_end(recorded, subscribe, ask):
    told = await subscribe()
    status, begun = await ask("POST", f"sandboxes/{SANDBOX.id}/wake")
    assert status == 202
    while (operation := (await told.next("operation"))["operation"])["state"] == "running":
        pass
    # Its driver is not installed.
    assert (operation["id"], operation["state"], operation["verb"]) == (begun["id"], "failed", "wake")
    status, whole = await ask("GET", f"operations/{begun['id']}")
    assert whole["error"] == operation["error"]
    assert "fake" in whole["error"]["message"]


async def test_meters_tell_what_changed_and_no_more(recorded, subscribe, monkeypatch):
    monkeypatch.setattr(meters, "SECONDS", 0.05)
    monkeypatch.setattr(meters, "_SHORTEST", 0.01)
    usage = Usage(memory=10 * MIB, disk=5 * MIB, cpu=1.0)
    driver = SimpleNamespace(
        usage=lambda machine_id: usage,
        advice=Advice(),
        capabilities=SimpleNamespace(memory_anywhere=True),
    )
    monkeypatch.setattr(registry, "get", lambda name, settings: driver)
    told = await subscribe()
    first = (await told.next("usage"))["usages"]
    assert first[SANDBOX.id]["memory"] == 10 * MIB
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await told.next("usage")
    usage = replace(usage, memory=20 * MIB)
    assert (await told.next("usage"))["usages"][SANDBOX.id]["memory"] == 20 * MIB
    usage = replace(usage, memory=0, cpu=0.0)
    recorded.change(SANDBOX.id, state=State.STOPPED)
    slept = (await told.next("usage"))["usages"][SANDBOX.id]
    assert (slept["memory"], slept["disk"], slept["cpu"]) == (0, 5 * MIB, None)


async def test_a_snapshot_that_grows_old_is_told_without_a_change(recorded, subscribe, monkeypatch):
    removed = []

    async def nothing(*_):
        pass

    async def forget(snapshot_ids):
        removed.extend(snapshot_ids)

    driver = SimpleNamespace(
        usage=lambda machine_id: Usage(0, 0, 0.0),
        alive=lambda machine_id: True,
        connect=nothing,
        resume=nothing,
        forget=forget,
        accelerator=nothing,
        advice=Advice(seconds=4.0),
        capabilities=SimpleNamespace(memory_anywhere=False, on_this_host=False),
    )
    monkeypatch.setattr(registry, "get", lambda name, settings: driver)
    recorded.remove_snapshot(SNAPSHOT.id)
    told = await subscribe()
    now = time.time()
    mine = replace(SNAPSHOT, id="1" * 12, created=now)
    recorded.add_snapshot(mine)
    recorded.add_snapshot(replace(mine, id="2" * 12, name="automatic", cause=Cause.PACKAGES))
    recorded.change(SANDBOX.id, snapshot=mine.id)
    warnings = []
    while not warnings or "older" not in warnings[-1]:
        event = await told.next("snapshot")
        if event["id"] == mine.id and event["snapshot"]["warning"]:
            warnings.append(event["snapshot"]["warning"])
    assert "soon" in warnings[0]
    while (event := await told.next("snapshot"))["action"] != "removed":
        pass
    assert [event["id"]] == removed == ["2" * 12]
    sandbox = (await told.next("sandbox"))["sandbox"]
    assert "1 of the snapshots" in sandbox["history"]["warning"]
    assert sandbox["memory_anywhere"] is False


async def test_a_host_without_inotify_is_looked_at_now_and_then(tmp_path, monkeypatch):
    monkeypatch.setattr(watch, "WITHOUT_SECONDS", 0.01)
    monkeypatch.setattr(
        watch.ctypes, "CDLL", lambda *_, **__: SimpleNamespace(inotify_init1=lambda flags: -1)
    )
    with watch.Watch([tmp_path]) as here:
        assert await anext(here.changes()) == {(tmp_path, "")}
