"""A Jupyter server with the extension, and nothing of the user's."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from jupyter_vsandbox.core.store import Store
from jupyter_vsandbox.domain.model import GIB, Cause, Endpoint, LinkKeys, Sandbox, Shape, Snapshot, State
from tests.wire import check_answer

if TYPE_CHECKING:
    from jupyter_vsandbox.settings import Settings

KEYS = LinkKeys(*(f"SECRET-{part}" for part in ("sp", "cp", "cs", "ss")))
SANDBOX = Sandbox(
    id="0123456789ab",
    runtime="python-3.11",
    image="python-3.11-0123456789ab",
    driver="fake",
    state=State.RUNNING,
    shape=Shape(memory=GIB, vcpus=1),
    created=1.5,
    kernel_id="kernel-1",
    notebook="work/a.ipynb",
    owner="OWNER-4711:1",
    endpoint=Endpoint("192.0.2.7", 54321),
    keys=KEYS,
)
SNAPSHOT = Snapshot(
    id="abcdefabcdef",
    sandbox=SANDBOX.id,
    machine=SANDBOX.id,
    parent="",
    name="first",
    note="a note",
    cause=Cause.ASKED,
    created=2.5,
    memory=True,
    cells=False,
    size=1000,
    pause=0.05,
    keys=KEYS,
)


@pytest.fixture
def jp_server_config(settings: Settings) -> dict[str, Any]:
    return {
        "ServerApp": {
            "jpserver_extensions": {"jupyter_vsandbox": True},
        },
        "VSandbox": {"home": str(settings.home), "standby": 0},
    }


@pytest.fixture
def store(settings, jp_serverapp):
    """The store as another process has it open."""
    with contextlib.closing(Store(settings.database)) as store:
        yield store


@pytest.fixture
def recorded(store):
    """A sandbox with a snapshot, of a driver that is not installed."""
    store.add(SANDBOX)
    store.add_snapshot(SNAPSHOT)
    return store


@pytest.fixture
def ask(jp_fetch):
    """Asks the server and returns the status and the JSON of whatever it answers."""

    async def ask(method, path, body=None, **options):
        text = body if isinstance(body, str | bytes) or body is None else json.dumps(body)
        options.setdefault("request_timeout", 60)
        answer = await jp_fetch(
            "vsandbox/api",
            path,
            method=method,
            body=text,
            allow_nonstandard_methods=True,
            raise_error=False,
            **options,
        )
        document = json.loads(answer.body)
        check_answer(method, path, answer.code, document)
        return answer.code, document

    return ask
