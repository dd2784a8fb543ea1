"""Builds over REST: their log and progress, cancelling, and the one that goes on already."""

from __future__ import annotations

import asyncio
import json
import threading

import pytest

from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.model import GIB, Image, Shape
from jupyter_vsandbox.kernel import specs
from jupyter_vsandbox.runtimes import build
from tests.server.conftest import SANDBOX

IMAGE = Image("python-3.11", "0" * 64, "/nowhere", Shape(GIB, 1), 5, 1.0, "")


@pytest.fixture
def builder(monkeypatch):
    """A build that prints and goes on when it is told to."""
    go_on, ended, after = threading.Event(), threading.Event(), []

    def make(recipe, settings, progress, listen):
        try:
            progress("system", 0.25, "Unpacking")
            listen("line 1")
            go_on.wait(30)
            listen("line 2")
            progress("done", 1.0, "ready")
            return IMAGE
        finally:
            ended.set()

    async def prepare(service, runtime):
        after.append(("prepared", runtime))

    monkeypatch.setattr(build, "build", make)
    monkeypatch.setattr(specs, "install", lambda recipe: after.append(("installed", recipe.name)))
    monkeypatch.setattr(SandboxService, "prepare", prepare)
    yield go_on, ended, after
    go_on.set()


async def until(ask, operation, holds):
    """Ask for an operation until something is so."""
    async with asyncio.timeout(30):
        while not holds(found := (await ask("GET", f"operations/{operation['id']}"))[1]):
            pass
    return found


async def test_a_build_is_followed_to_its_end(ask, builder):
    go_on, _, after = builder
    status, begun = await ask("POST", "runtimes/python-3.11/builds")
    assert (status, begun["verb"], begun["runtime"], begun["cancellable"]) == (
        202,
        "build",
        "python-3.11",
        True,
    )
    running = await until(ask, begun, lambda found: found["log"])
    assert running["log"] == ["line 1"]
    assert running["progress"] == {"stage": "system", "fraction": 0.25, "message": "Unpacking"}
    assert (await ask("POST", "runtimes/python-3.11/builds"))[1]["id"] == begun["id"]
    go_on.set()
    done = await until(ask, begun, lambda found: found["state"] != "running")
    assert (done["state"], done["result"]["digest"], done["log"]) == (
        "done",
        IMAGE.digest,
        ["line 1", "line 2"],
    )
    assert after == [("installed", "python-3.11"), ("prepared", "python-3.11")]
    assert (await ask("POST", "runtimes/python-3.11/builds"))[1]["id"] != begun["id"]


async def test_a_cancelled_build_has_ended(ask, builder):
    go_on, ended, after = builder
    _, begun = await ask("POST", "runtimes/python-3.11/builds")
    await until(ask, begun, lambda found: found["log"])
    status, asked = await ask("DELETE", f"operations/{begun['id']}")
    assert (status, asked["cancellable"]) == (202, False)
    assert (await ask("DELETE", f"operations/{begun['id']}"))[0] == 202
    assert (await ask("GET", f"operations/{begun['id']}"))[1]["state"] == "running"  # it is at something
    go_on.set()
    done = await until(ask, begun, lambda found: found["state"] != "running")
    assert (done["state"], ended.is_set(), after) == ("cancelled", True, [])


@pytest.fixture
def image(settings, jp_serverapp):
    """The image that `SANDBOX` runs on."""
    folder = settings.images / SANDBOX.image
    folder.mkdir(parents=True)
    for name in ("disk.qcow2", "vmlinuz", "initrd.img"):
        (folder / name).write_text("x")
    manifest = {
        "format": 1,
        "runtime": SANDBOX.runtime,
        "digest": SANDBOX.image.rpartition("-")[2] + "0" * 52,
        "shape": {"memory": GIB, "vcpus": 1},
        "created": 1.0,
        "append": "",
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


async def test_an_image_goes_once_nothing_needs_it(ask, image, recorded, monkeypatch):
    withdrawn = []
    monkeypatch.setattr(specs, "uninstall", withdrawn.append)
    [listed] = (await ask("GET", "images"))[1]["images"]
    assert listed["id"] == SANDBOX.image
    _, begun = await ask("DELETE", f"images/{SANDBOX.image}")
    refused = await until(ask, begun, lambda found: found["state"] != "running")
    assert (refused["error"]["kind"], image.exists(), withdrawn) == ("Conflict", True, [])
    recorded.remove(SANDBOX.id)
    _, begun = await ask("DELETE", f"images/{SANDBOX.image}")
    done = await until(ask, begun, lambda found: found["state"] != "running")
    assert (done["state"], image.exists(), withdrawn) == ("done", False, [SANDBOX.runtime])
