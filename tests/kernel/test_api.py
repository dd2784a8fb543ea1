"""The whole journey of a notebook over REST and events, with a real server and real machines."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

from tests.kernel.server import SECONDS, TOKEN, Server, execute, printed, served
from tests.wire import check_answer, check_event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from tests.conftest import Home, Until

pytestmark = [pytest.mark.machine, pytest.mark.timeout(1200)]

KERNEL = "vsandbox-python-3.11"
OPERATION_SECONDS = 500.0
"""What a verb may take where guests are emulated on a busy host; a diff starts a copy of a machine."""
FILE = "/home/jovyan/x"
CELLS = (f"try: print(open({FILE!r}).read(), end='')\nexcept OSError: print('none', end='')", "1 + 1")
Event = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def notebook(home: Home) -> Path:
    """The notebook's file."""
    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    document.cells[0].outputs = [nbformat.v4.new_output("stream", name="stdout", text="none")]
    folder = home.settings.home.parent / "notebooks"
    folder.mkdir()
    path = folder / "a.ipynb"
    nbformat.write(document, path)
    return path


@pytest.fixture
def server(notebook: Path, until: Until) -> Iterator[Server]:
    """A real server in the notebook's folder."""
    with served(notebook.parent, until) as server:
        yield server


class Api:
    """The API of a server, and what it has told by events."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._events: list[Event] = []
        self._more = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def subscribed(self) -> AsyncIterator[Api]:
        """Collect events for the length of a block; each must keep to its schema."""
        url = f"ws{self._server.url.removeprefix('http')}api/events/subscribe?token={TOKEN}"
        channel = await websocket_connect(url)
        task = asyncio.create_task(self._collect(channel))
        try:
            yield self
        finally:
            channel.close()
            await task

    async def _collect(self, channel: Any) -> None:
        while (text := await channel.read_message()) is not None:
            event = json.loads(text)
            if "jupyter_vsandbox" in event["schema_id"]:
                async with self._more:
                    self._events.append(check_event(event))
                    self._more.notify_all()

    async def told(self, name: str, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Wait for an event of a kind, or find it among those that were told; it is told only once."""
        async with asyncio.timeout(OPERATION_SECONDS), self._more:
            while True:
                for event in self._events:
                    if event[0] == name and holds(event[1]):
                        self._events.remove(event)
                        return event[1]
                await self._more.wait()

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The status and the JSON of an answer, which keeps to openapi.yaml."""
        answer = await AsyncHTTPClient().fetch(
            f"{self._server.url}vsandbox/api/{path}",
            method=method,
            headers={"Authorization": f"token {TOKEN}"},
            body=None if body is None else json.dumps(body),
            allow_nonstandard_methods=True,
            request_timeout=SECONDS,
            raise_error=False,
        )
        document = json.loads(answer.body)
        check_answer(method, path, answer.code, document)
        if answer.code == 202:
            assert answer.headers["Location"].endswith(f"/vsandbox/api/operations/{document['id']}")
        return answer.code, document

    async def get(self, path: str) -> Any:
        """What there is."""
        status, document = await self.ask("GET", path)
        assert status == 200, document
        return document

    async def ended(self, begun: dict[str, Any]) -> dict[str, Any]:
        """Follow an operation by its events, to its end; all of it."""
        await self.told(
            "operation",
            lambda data: data["operation"]["id"] == begun["id"] and data["operation"]["state"] != "running",
        )
        return dict(await self.get(f"operations/{begun['id']}"))

    async def done(self, method: str, path: str, body: Any = None) -> Any:
        """Begin an operation that must succeed, follow it and return its result."""
        status, begun = await self.ask(method, path, body)
        assert status == 202, begun
        ended = await self.ended(begun)
        assert ended["state"] == "done", ended
        return ended["result"]


async def open_notebook(server: Server, name: str) -> tuple[dict[str, Any], Any]:
    """A session for a notebook, as JupyterLab asks for it, and the websocket of its kernel."""
    model = {"path": name, "name": name, "type": "notebook", "kernel": {"name": KERNEL}}
    session = await server.call("POST", "sessions", model)
    return session, await server.channels(session["kernel"]["id"])


async def value(channel: Any, expression: str) -> str:
    return printed(await execute(channel, f"print({expression})")).strip()


async def command_line(*words: str) -> None:
    """Another process."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "jupyter_vsandbox.cli", *words)
    assert await process.wait() == 0


async def test_a_notebook_travels_in_time_over_the_api(server: Server, notebook: Path, home: Home) -> None:
    async with Api(server).subscribed() as api:
        session, channel = await open_notebook(server, notebook.name)
        await execute(channel, f"x = 1\nopen({FILE!r}, 'w').write('one')")
        [sandbox] = (await api.get("sandboxes"))["sandboxes"]
        here = f"sandboxes/{sandbox['id']}"
        assert sandbox["kernel_id"] == session["kernel"]["id"]
        assert (sandbox["notebook_path"], sandbox["in_use"], sandbox["state"]) == ("a.ipynb", True, "running")
        assert sandbox["usage"]["memory"] > 0
        await api.told("sandbox", lambda data: data["id"] == sandbox["id"])
        usage = await api.told("usage", lambda data: sandbox["id"] in data["usages"])
        assert usage["usages"][sandbox["id"]]["memory"] > 0
        assert [pool["sandboxes"] for pool in (await api.get("pools"))["pools"]] == [[sandbox["id"]]]

        # A snapshot, and what differs from it.
        first = await api.done("POST", f"{here}/snapshots", {"name": "first", "note": "a note"})
        assert (first["name"], first["note"], first["cause"], first["cells"]) == (
            "first",
            "a note",
            "asked",
            True,
        )
        added = await api.told("snapshot", lambda data: data["action"] == "added")
        assert added["snapshot"] == first
        changed = await api.told("sandbox", lambda data: data["sandbox"]["history"]["count"] == 1)
        assert changed["sandbox"]["snapshot"] == first["id"]
        await execute(channel, f"x = 2\nopen({FILE!r}, 'w').write('two')")
        points = {
            "old": {"sandbox": sandbox["id"], "snapshot": first["id"]},
            "new": {"sandbox": sandbox["id"]},
        }
        difference = await api.done("POST", "diffs", points)
        assert [each["name"] for each in difference["variables"]["changes"]] == ["x"]
        assert FILE in [each["path"] for each in difference["files"]["changes"]]

        # Another process does something.
        await command_line("snapshot", sandbox["id"], "from-afar")
        afar = await api.told("snapshot", lambda data: (data["snapshot"] or {}).get("name") == "from-afar")
        status, problem = await api.ask("PATCH", f"{here}/snapshots/{afar['id']}", {"name": "first"})
        assert (status, problem["kind"]) == (409, "Conflict")
        status, renamed = await api.ask("PATCH", f"{here}/snapshots/{afar['id']}", {"name": "second"})
        assert (status, renamed["name"], renamed["note"]) == (200, "second", "")
        await api.told("snapshot", lambda data: data["action"] == "changed" and data["snapshot"] == renamed)
        assert (await api.ask("PATCH", here, {"name": "mine"}))[1]["name"] == "mine"

        # Back, and forth again.
        back = await api.done("POST", f"{here}/rollback", {"snapshot": first["id"], "cells": True})
        assert (back["sandbox"]["snapshot"], back["sandbox"]["state"]) == (first["id"], "running")
        assert await value(channel, "x") == "1"
        await api.done("POST", f"{here}/rollback", {"snapshot": back["undo"]})
        assert await value(channel, "x") == "2"

        # A fork in a notebook of its own, which takes the place of the first.
        fork = await api.done("POST", f"{here}/forks", {"name": "other"})
        assert (fork["notebook"], fork["kernel"]) == ("a-fork.ipynb", KERNEL)
        assert nbformat.read(notebook.with_name("a-fork.ipynb"), as_version=4).cells[0].source == CELLS[0]
        assert (fork["sandbox"]["notebook_path"], fork["sandbox"]["in_use"]) == ("a-fork.ipynb", False)
        fork_session, fork_channel = await open_notebook(server, fork["notebook"])
        assert await value(fork_channel, "x") == "2"
        await execute(fork_channel, "x = 'from the fork'")
        assert await value(channel, "x") == "2"
        found = await api.get(f"sandboxes/{fork['sandbox']['id']}")
        assert (found["kernel_id"], found["origin"]) == (fork_session["kernel"]["id"], sandbox["id"])
        promoted = await api.done("POST", f"sandboxes/{fork['sandbox']['id']}/promote")
        assert promoted["id"] == sandbox["id"]
        await api.told(
            "sandbox", lambda data: (data["id"], data["action"]) == (fork["sandbox"]["id"], "removed")
        )
        assert await value(channel, "x") == "from the fork"
        assert [each["id"] for each in await server.call("GET", "sessions")] == [session["id"]]
        fork_channel.close()

        # To sleep and up again.
        assert (await api.done("POST", f"{here}/hibernate"))["state"] == "hibernated"
        assert home.processes() == []
        await api.told("sandbox", lambda data: (data["sandbox"] or {}).get("state") == "hibernated")
        assert (await api.done("POST", f"{here}/wake"))["state"] == "running"
        assert await value(channel, "x") == "from the fork"

        # What goes, and what stays.
        prunable = await api.get(f"{here}/prune")
        assert prunable["bytes"] > 0
        assert await api.done("POST", f"{here}/prune") == prunable
        gone = {each["id"] for each in prunable["snapshots"]}
        while gone:
            removed = await api.told("snapshot", lambda data: data["action"] == "removed")
            gone.discard(removed["id"])
        assert await api.done("DELETE", f"{here}/snapshots/{first['id']}") is None
        left = (await api.get(f"{here}/snapshots"))["snapshots"]
        assert renamed["id"] in {each["id"] for each in left}

        channel.close()
        assert await api.done("DELETE", here) is None
        assert await server.call("GET", "sessions") == []
        await api.told("sandbox", lambda data: (data["id"], data["action"]) == (sandbox["id"], "removed"))
        assert (await api.ask("GET", here))[0] == 404


async def test_an_upgrade_is_tried_and_kept(server: Server, notebook: Path) -> None:
    async with Api(server).subscribed() as api:
        _, channel = await open_notebook(server, notebook.name)
        await execute(channel, "x = 1")
        [sandbox] = (await api.get("sandboxes"))["sandboxes"]
        here = f"sandboxes/{sandbox['id']}"

        trial = await api.done(
            "POST", f"{here}/trials", {"command": f"echo -n new | tee {FILE}; echo; echo said"}
        )
        assert (trial["exit_code"], trial["failed"]) == (0, None)
        [first, second] = trial["cells"]
        assert (first["number"], first["old"][0]["text"], first["new"][0]["text"]) == (1, "none", "new")
        assert (second["number"], second["old"]) == (2, [])
        [operation] = [
            each for each in (await api.get("operations"))["operations"] if each["verb"] == "trial"
        ]
        assert (await api.get(f"operations/{operation['id']}"))["log"] == ["new", "said"]
        fork = trial["fork"]
        assert (fork["sandbox"]["state"], fork["sandbox"]["in_use"]) == ("hibernated", False)
        copy = nbformat.read(notebook.with_name(fork["notebook"]), as_version=4)
        assert copy.cells[0].outputs[0].text == "new"
        assert await value(channel, "x") == "1"

        _, long = await api.ask("POST", f"{here}/trials", {"command": "echo begun; sleep 1000"})
        await api.told("operation", lambda data: "begun" in data["lines"])
        assert (await api.ask("DELETE", f"operations/{long['id']}"))[0] == 202
        assert (await api.ended(long))["state"] == "cancelled"
        _, killed = await api.ask("POST", f"{here}/trials", {"command": "kill -9 $PPID"})
        assert (await api.ended(killed))["error"]["kind"] == "Permanent"
        every = {each["id"] for each in (await api.get("sandboxes"))["sandboxes"]}
        assert every == {sandbox["id"], fork["sandbox"]["id"]}

        # What is built already is not built again.
        images = {each["id"]: each for each in (await api.get("images"))["images"]}
        image = images[sandbox["image"]]
        assert await api.done("POST", "runtimes/python-3.11/builds") == image

        await api.done("POST", f"sandboxes/{fork['sandbox']['id']}/promote")
        assert await value(channel, f"open({FILE!r}).read()") == "new"
        assert await value(channel, "'x' in globals()") == "False"
        channel.close()
