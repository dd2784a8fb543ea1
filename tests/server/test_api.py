"""The REST interface, against openapi.yaml."""

from __future__ import annotations

import json
from importlib import resources
from types import SimpleNamespace

import jsonschema
import pytest
import yaml
from jupyter_server.auth import Authorizer
from tornado.httpclient import HTTPClientError

from jupyter_vsandbox.core import doctor
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.core.store import Store
from jupyter_vsandbox.domain import errors
from jupyter_vsandbox.domain.checks import Check, Status
from jupyter_vsandbox.domain.model import GIB, Accelerator, Endpoint, LinkKeys, Sandbox, Shape, State
from jupyter_vsandbox.drivers import registry
from jupyter_vsandbox.server import wire
from jupyter_vsandbox.server.handlers import ROUTES

PATHS = [path for path, _ in ROUTES]
OPENAPI = yaml.safe_load(resources.files("jupyter_vsandbox.server").joinpath("openapi.yaml").read_text())
ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]

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


def check_schema(name, body):
    schema = {"$ref": f"#/components/schemas/{name}", "components": OPENAPI["components"]}
    jsonschema.validate(body, schema, jsonschema.Draft202012Validator)


class NobodyMayRead(Authorizer):
    def is_authorized(self, handler, user, action, resource):
        return (action, resource) != ("read", "vsandbox")


@pytest.fixture
def recorded(settings, jp_serverapp):
    store = Store(settings.database)
    store.add(SANDBOX)
    yield
    store.close()


def test_openapi_describes_every_route_and_no_other():
    described = {(path, verb.upper()) for path, verbs in OPENAPI["paths"].items() for verb in verbs}
    served = {
        (path, verb)
        for path, handler in ROUTES
        for verb in ("GET", "POST", "PUT", "PATCH", "DELETE")
        if verb.lower() in vars(handler)
    }
    assert served == described


@pytest.mark.parametrize("path", PATHS)
async def test_nobody_gets_in_without_a_token(path, http_server_client, jp_base_url, jp_serverapp):
    with pytest.raises(HTTPClientError) as caught:
        await http_server_client.fetch(jp_base_url.rstrip("/") + path)
    assert caught.value.code == 403


class TestUnauthorized:
    @pytest.fixture
    def jp_server_config(self, jp_server_config):
        jp_server_config["ServerApp"]["authorizer_class"] = NobodyMayRead
        return jp_server_config

    @pytest.mark.parametrize("path", PATHS)
    async def test_a_token_alone_is_not_enough(self, path, jp_fetch):
        with pytest.raises(HTTPClientError) as caught:
            await jp_fetch(path)
        assert caught.value.code == 403


@pytest.mark.usefixtures("recorded")
async def test_sandboxes(jp_fetch, monkeypatch):
    async def accelerator():
        return Accelerator("tcg", "no KVM here")

    monkeypatch.setattr(registry, "get", lambda name, settings: SimpleNamespace(accelerator=accelerator))
    body = json.loads((await jp_fetch("vsandbox/api/sandboxes")).body)
    check_schema("Sandboxes", body)
    assert body["sandboxes"] == [
        {
            "id": "0123456789ab",
            "runtime": "python-3.11",
            "image": "python-3.11-0123456789ab",
            "driver": "fake",
            "state": "running",
            "shape": {"memory": GIB, "vcpus": 1},
            "created": 1.5,
            "kernel_id": "kernel-1",
            "notebook": "work/a.ipynb",
            "emulated": True,
        }
    ]


@pytest.mark.usefixtures("recorded")
async def test_sandboxes_of_a_driver_that_is_gone_are_listed(jp_fetch):
    body = json.loads((await jp_fetch("vsandbox/api/sandboxes")).body)
    check_schema("Sandboxes", body)
    assert [each["emulated"] for each in body["sandboxes"]] == [None]


@pytest.mark.usefixtures("recorded")
async def test_no_secret_leaves_the_server(jp_fetch):
    body = (await jp_fetch("vsandbox/api/sandboxes")).body.decode()
    for secret in ("SECRET", "192.0.2.7", "54321", "OWNER"):
        assert secret not in body


async def test_runtimes(jp_fetch, settings):
    settings.user_recipes.mkdir(parents=True)
    (settings.user_recipes / "wrong.toml").write_text("base = 7")
    body = json.loads((await jp_fetch("vsandbox/api/runtimes")).body)
    check_schema("Runtimes", body)
    runtimes = {each["name"]: each for each in body["runtimes"]}
    assert runtimes["python-3.11"]["image"] is None
    assert [each["path"] for each in body["broken"]] == [str(settings.user_recipes / "wrong.toml")]


async def test_doctor(jp_fetch, monkeypatch):
    async def examine(settings):
        return doctor.Report((Check("memory", Status.WARN, "little", "Stop something."),))

    monkeypatch.setattr(doctor, "examine", examine)
    body = json.loads((await jp_fetch("vsandbox/api/doctor")).body)
    check_schema("Report", body)
    assert body["ok"] is True


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidRequest("100 % wrong"), 400),
        (errors.NotFound("gone"), 404),
        (errors.InvalidState("Sandbox 1", "stopped", {"running"}), 409),
        (errors.Transient("busy"), 503),
        (errors.Permanent("broken"), 500),
    ],
)
async def test_an_error_says_what_happened(error, status, jp_fetch, monkeypatch):
    def fail(self):
        raise error

    monkeypatch.setattr(SandboxService, "list", fail)
    with pytest.raises(HTTPClientError) as caught:
        await jp_fetch("vsandbox/api/sandboxes")
    assert caught.value.code == status
    body = json.loads(caught.value.response.body)
    check_schema("Problem", body)
    assert body == {"message": str(error), "kind": type(error).__name__}


def test_every_error_has_its_status_and_is_described():
    described = OPENAPI["components"]["schemas"]["Problem"]["properties"]["kind"]["enum"]
    assert {kind.__name__ for kind in ERRORS} == set(described)
    assert set(wire._STATUS) | {errors.SandboxError} == set(ERRORS)
