"""What happens to notebooks through the contents manager happens to the records of their sandboxes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from jupyter_vsandbox.core.store import Store
from tests.server.test_api import SANDBOX

NOTEBOOK = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


@pytest.fixture
def store(settings, jp_serverapp):
    store = Store(settings.database)
    yield store
    store.close()


@pytest.fixture
def bind(store, jp_root_dir, jp_fetch):
    async def bind(sandbox_id, path):
        """Make a notebook and bind a sandbox to it, as a kernel's start does."""
        file = jp_root_dir / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(NOTEBOOK))
        store.add(replace(SANDBOX, id=sandbox_id, notebook=str(file)))

    return bind


@pytest.fixture
def request_(jp_fetch, jp_serverapp):
    async def request(method, url, **body):
        await jp_fetch("api", "contents", url, method=method, body=json.dumps(body) if body else None)
        await jp_serverapp.event_logger.gather_listeners()

    return request


async def test_renamed(bind, request_, store, jp_root_dir):
    await bind("1", "a.ipynb")
    await bind("2", "sub/b.ipynb")
    await request_("PATCH", "a.ipynb", path="sub/c d.ipynb")
    await request_("PATCH", "sub", path="other")
    found = {s.id: s.notebook for s in store.all()}
    assert found == {"1": str(jp_root_dir / "other/c d.ipynb"), "2": str(jp_root_dir / "other/b.ipynb")}


async def test_a_copy_has_no_sandbox(bind, request_, store, jp_root_dir):
    await bind("1", "a.ipynb")
    await request_("POST", "", copy_from="a.ipynb")
    assert (jp_root_dir / "a-Copy1.ipynb").exists()
    assert [s.notebook for s in store.all()] == [str(jp_root_dir / "a.ipynb")]


async def test_deleted(bind, request_, store):
    await bind("1", "a.ipynb")
    await bind("2", "b.ipynb")
    await request_("DELETE", "a.ipynb")
    assert [(s.id, s.notebook.rpartition("/")[2], s.name) for s in store.all()] == [
        ("1", "", "a.ipynb"),
        ("2", "b.ipynb", ""),
    ]


async def test_what_was_there_before_gives_way(bind, request_, store, jp_root_dir):
    await bind("1", "a.ipynb")
    await bind("2", "b.ipynb")
    (jp_root_dir / "b.ipynb").unlink()  # behind the server's back
    await request_("PATCH", "a.ipynb", path="b.ipynb")
    assert [(s.id, s.notebook, s.name) for s in store.all()] == [
        ("1", str(jp_root_dir / "b.ipynb"), ""),
        ("2", "", "b.ipynb"),
    ]


async def test_a_kernel_that_goes_on_with_another_notebook_takes_its_sandbox_along(
    bind, request_, jp_fetch, store, jp_root_dir
):
    async def sessions(method, *path, **body):
        answer = await jp_fetch("api", "sessions", *path, method=method, body=json.dumps(body))
        return json.loads(answer.body)

    async def save(path):
        await request_("PUT", path, type="notebook", format="json", content=NOTEBOOK)

    def found():
        return {s.id: (s.notebook.rpartition("/")[2], s.name) for s in store.all()}

    for each, path in (("1", "a.ipynb"), ("2", "new.ipynb")):
        await bind(each, path)
    session = {"path": "a.ipynb", "name": "a", "type": "notebook"}
    first = await sessions("POST", **session, kernel={"name": "python3"})
    store.change("1", kernel_id=first["kernel"]["id"])
    # A second notebook that uses the kernel, too, is none to follow.
    await sessions("POST", **session | {"path": "guest.ipynb"}, kernel=first["kernel"])
    await save("guest.ipynb")
    await save("a.ipynb")
    assert found() == {"1": ("a.ipynb", ""), "2": ("new.ipynb", "")}

    await sessions("PATCH", first["id"], path="new.ipynb", name="new")
    assert found()["1"] == ("a.ipynb", "")
    await save("new.ipynb")
    assert found() == {"1": ("new.ipynb", ""), "2": ("", "new.ipynb")}
    await jp_fetch("api", "sessions", first["id"], method="DELETE")
