"""The REST interface, against openapi.yaml."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import sqlite3
from types import SimpleNamespace

import pytest
from tornado.httpclient import HTTPClientError

from jupyter_vsandbox.core import capacity, doctor
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain import errors
from jupyter_vsandbox.domain.advice import Advice
from jupyter_vsandbox.domain.checks import Check, Status
from jupyter_vsandbox.domain.model import GIB, MIB, Accelerator, Usage
from jupyter_vsandbox.domain.pool import Pool, Share
from jupyter_vsandbox.drivers import registry
from jupyter_vsandbox.server import contract, wire
from jupyter_vsandbox.server.handlers import ROUTES
from tests.server.conftest import SANDBOX, SNAPSHOT
from tests.wire import METHODS, OPENAPI, RESULTS, check_schema

ENDPOINTS = [
    (verb.upper(), path, operation.get("x-action", "read" if verb == "get" else "write"))
    for path, verbs in OPENAPI["paths"].items()
    for verb, operation in verbs.items()
    if verb in METHODS
]
ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


def test_openapi_describes_every_route_and_no_other():
    described = {(path, verb) for verb, path, _ in ENDPOINTS}
    served = {
        (path, verb.upper()) for path, handler, _ in ROUTES for verb in METHODS if verb in vars(handler)
    }
    assert served == described


REQUESTS = [name for name, kind in vars(contract).items() if dataclasses.is_dataclass(kind)]


@pytest.mark.parametrize("schema", REQUESTS)
def test_requests_have_the_fields_and_defaults_of_their_schemas(schema):
    kind = getattr(contract, schema)
    described = OPENAPI["components"]["schemas"][schema]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    assert set(fields) == set(described["properties"])
    required = {name for name, field in fields.items() if field.default is dataclasses.MISSING}
    assert required == set(described.get("required", ()))
    for name, details in described["properties"].items():
        if "default" in details:
            assert fields[name].default == details["default"]


@pytest.mark.usefixtures("recorded")
async def test_sandboxes(jp_fetch, monkeypatch):
    async def accelerator():
        return Accelerator("tcg", "no KVM here")

    def usage(machine_id):
        return Usage(memory=7 * MIB, disk=8 * MIB, cpu=9.5)

    driver = SimpleNamespace(
        accelerator=accelerator,
        usage=usage,
        advice=Advice(),
        capabilities=SimpleNamespace(memory_anywhere=True),
    )
    monkeypatch.setattr(registry, "get", lambda name, settings: driver)
    body = json.loads((await jp_fetch("vsandbox/api/sandboxes")).body)
    check_schema("Sandboxes", body)
    assert body["sandboxes"] == [
        {
            "id": "0123456789ab",
            "name": "",
            "runtime": "python-3.11",
            "image": "python-3.11-0123456789ab",
            "driver": "fake",
            "accelerator": "tcg",
            "emulated": True,
            "state": "running",
            "shape": {"memory": GIB, "vcpus": 1},
            "created": 1.5,
            "kernel": "vsandbox-python-3.11-fake",
            "kernel_id": "kernel-1",
            "notebook": "work/a.ipynb",
            "notebook_path": None,
            "in_use": False,
            "origin": "",
            "snapshot": "abcdefabcdef",
            "history": {"count": 1, "bytes": 1000, "warning": None},
            "memory_anywhere": True,
            "usage": {"memory": 7 * MIB, "disk": 8 * MIB, "cpu_seconds": 9.5, "cpu": None},
        }
    ]


@pytest.mark.usefixtures("recorded")
async def test_sandboxes_of_a_driver_that_is_gone_are_listed(jp_fetch):
    body = json.loads((await jp_fetch("vsandbox/api/sandboxes")).body)
    check_schema("Sandboxes", body)
    assert [each["emulated"] for each in body["sandboxes"]] == [None]


@pytest.mark.usefixtures("recorded")
async def test_no_secret_leaves_the_server(jp_fetch):
    for path in ("sandboxes", f"sandboxes/{SANDBOX.id}", f"sandboxes/{SANDBOX.id}/snapshots"):
        body = (await jp_fetch("vsandbox/api", path)).body.decode()
        for secret in ("SECRET", "192.0.2.7", "54321", "OWNER"):
            assert secret not in body


async def test_runtimes(jp_fetch, settings):
    settings.user_recipes.mkdir(parents=True, exist_ok=True)
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

    monkeypatch.setattr(SandboxService, "records", fail)
    with pytest.raises(HTTPClientError) as caught:
        await jp_fetch("vsandbox/api/sandboxes")
    assert caught.value.code == status
    body = json.loads(caught.value.response.body)
    check_schema("Problem", body)
    assert body == {"message": str(error), "kind": type(error).__name__, "field": None}


def test_every_error_has_its_status_and_is_described():
    described = OPENAPI["components"]["schemas"]["Problem"]["properties"]["kind"]["enum"]
    assert {kind.__name__ for kind in ERRORS} == set(described)
    assert set(wire._STATUS) | {errors.SandboxError} == set(ERRORS)


async def test_an_answer_names_the_field_that_is_wrong(recorded, ask):
    here = f"sandboxes/{SANDBOX.id}"
    for method, path, body, field in (
        ("PATCH", here, {}, "name"),
        ("PATCH", here, {"name": "a@b"}, "name"),
        ("POST", f"{here}/snapshots", {"now": "yes"}, "now"),
        ("POST", f"{here}/snapshots", {"nmae": "x"}, "nmae"),
        ("POST", "diffs", {"old": {}, "new": {"sandbox": SANDBOX.id}}, "old.sandbox"),
        ("POST", "diffs", {"old": {"sandbox": SANDBOX.id}, "new": {"sandbox": "x"}}, "new.sandbox"),
        ("POST", "runtimes", {"recipe": "[base]"}, "recipe"),
        ("POST", f"{here}/snapshots", "{", None),
        ("POST", f"{here}/snapshots", "[]", None),
        ("POST", f"{here}/snapshots", b"\xff", None),
        ("POST", f"{here}/snapshots", '{"note": "\\ud800"}', None),
        ("POST", f"{here}/snapshots", '{"now": NaN}', None),
        ("POST", f"{here}/snapshots", "[" * 100_000, None),
        ("POST", f"{here}/snapshots", None, None),
    ):
        status, problem = await ask(method, path, body)
        assert (status, problem["kind"], problem["field"]) == (400, "InvalidRequest", field), (path, body)


async def test_what_does_not_exist_is_not_found_at_once(recorded, ask):
    nowhere, here = "sandboxes/ffffffffffff", f"sandboxes/{SANDBOX.id}"
    for method, path, body in (
        *(("POST", f"{nowhere}/{verb}", None) for verb in ("start", "wake", "promote", "prune")),
        ("GET", f"{nowhere}/snapshots", None),
        ("GET", f"{nowhere}/prune", None),
        ("DELETE", nowhere, None),
        ("PATCH", nowhere, {"name": "x"}),
        ("POST", f"{nowhere}/forks", {}),
        ("POST", f"{nowhere}/snapshots", {}),
        ("POST", f"{nowhere}/trials", {"command": "true"}),
        ("POST", f"{here}/rollback", {"snapshot": "ffffffffffff"}),
        ("POST", f"{here}/forks", {"snapshot": "ffffffffffff"}),
        ("DELETE", f"{here}/snapshots/ffffffffffff", None),
        (
            "POST",
            "diffs",
            {"old": {"sandbox": SANDBOX.id, "snapshot": "f" * 12}, "new": {"sandbox": SANDBOX.id}},
        ),
        ("GET", "operations/ffffffffffff", None),
        ("DELETE", "operations/ffffffffffff", None),
        ("POST", "runtimes/none/builds", None),
        ("DELETE", "images/none", None),
    ):
        status, problem = await ask(method, path, body)
        assert (status, problem["kind"]) == (404, "NotFound"), (method, path)
    assert (await ask("GET", "operations"))[1] == {"operations": []}


async def test_names_and_notes(recorded, ask):
    here = f"sandboxes/{SANDBOX.id}"
    assert (await ask("PATCH", here, {"name": "mine"}))[1]["name"] == "mine"
    recorded.add(dataclasses.replace(SANDBOX, id="ba9876543210"))
    assert (await ask("PATCH", "sandboxes/ba9876543210", {"name": "mine"}))[0] == 409
    assert (await ask("PATCH", here, {"name": "mine"}))[0] == 200
    status, snapshot = await ask("PATCH", f"{here}/snapshots/{SNAPSHOT.id}", {"note": "other"})
    assert (status, snapshot["name"], snapshot["note"]) == (200, "first", "other")
    recorded.add_snapshot(dataclasses.replace(SNAPSHOT, id="0" * 12, name="second"))
    assert (await ask("PATCH", f"{here}/snapshots/{SNAPSHOT.id}", {"name": "second"}))[0] == 409
    assert [each["name"] for each in (await ask("GET", f"{here}/snapshots"))[1]["snapshots"]] == [
        "second",
        "first",
    ]


async def test_a_recipe_becomes_a_runtime_of_ones_own(ask, settings):
    recipe = 'name = "mine"\n[base]\nsuite = "bookworm"\n[python]\n'
    status, runtime = await ask("POST", "runtimes", {"recipe": recipe})
    assert (status, runtime["name"], runtime["own"], runtime["image"]) == (201, "mine", True, None)
    assert (settings.user_recipes / "mine.toml").read_text() == recipe
    assert (await ask("POST", "runtimes", {"recipe": recipe}))[0] == 409
    other = recipe + 'packages = ["pandas"]'
    assert (await ask("POST", "runtimes", {"recipe": other, "replace": True}))[0] == 201
    assert (settings.user_recipes / "mine.toml").read_text() == other
    status, problem = await ask("POST", "runtimes", {"recipe": 'name = "../x"\n[base]\nsuite = "a"'})
    assert (status, problem["field"]) == (400, "recipe")
    assert "name" in problem["message"]
    listed = {each["name"]: each["own"] for each in (await ask("GET", "runtimes"))[1]["runtimes"]}
    assert (listed["mine"], listed["python-3.11"]) == (True, False)


async def test_a_pool_says_what_is_promised(recorded, ask, settings, monkeypatch):
    [pool] = (await ask("GET", "pools"))[1]["pools"]
    assert pool["memory"]["used"] == 0  # nobody can tell: the driver is not installed
    driver = SimpleNamespace(
        usage=lambda machine_id: Usage(memory=7 * MIB, disk=0, cpu=0),
        capabilities=SimpleNamespace(on_this_host=True),
    )
    monkeypatch.setattr(registry, "get", lambda name, settings: driver)
    [pool] = (await ask("GET", "pools"))[1]["pools"]
    assert pool["sandboxes"] == [SANDBOX.id]
    assert pool["memory"]["promised"] == capacity.cost(SANDBOX.shape, settings)
    assert pool["memory"]["used"] == 7 * MIB
    assert pool["memory"]["free"] == pool["memory"]["limit"] - pool["memory"]["promised"]
    assert pool["vcpus"]["promised"] == 1
    assert (pool["driver"], pool["cpu"]) == ("", None)


async def test_a_pool_elsewhere_is_told_unless_it_is_not_to_be_reached(recorded, ask, monkeypatch):
    answers = [
        [Pool("lab", "fake", Share(None, GIB, 7, None), 2 * GIB, Share(3000, 0, 5, 2995))],
        errors.Transient("The vCenter is not to be reached."),
    ]

    async def pools():
        answer = answers.pop(0)
        if isinstance(answer, errors.SandboxError):
            raise answer
        return answer

    driver = SimpleNamespace(pools=pools, capabilities=SimpleNamespace(on_this_host=False))
    monkeypatch.setattr(registry, "in_use", lambda settings: ["fake"])
    monkeypatch.setattr(registry, "get", lambda name, settings: driver)
    host, pool = (await ask("GET", "pools"))[1]["pools"]
    assert host["sandboxes"] == []
    assert pool == {
        "name": "lab",
        "driver": "fake",
        "memory": {"limit": None, "reservation": GIB, "used": 7, "free": None, "promised": 2 * GIB},
        "cpu": {"limit": 3000, "reservation": 0, "used": 5, "free": 2995},
        "vcpus": {"host": None, "promised": 1},
        "sandboxes": [SANDBOX.id],
    }
    assert [pool["name"] for pool in (await ask("GET", "pools"))[1]["pools"]] == ["host"]


async def test_an_operation_is_where_the_answer_says(
    recorded, jp_fetch, jp_base_url, http_server_client, ask
):
    body = json.dumps({"name": "taken"})
    await jp_fetch("vsandbox/api/sandboxes", SANDBOX.id, method="PATCH", body=body)
    status, problem = await ask("POST", f"sandboxes/{SANDBOX.id}/forks", {"name": "taken"})
    assert (status, problem["kind"]) == (409, "Conflict")
    answer = await jp_fetch("vsandbox/api/sandboxes", SANDBOX.id, "wake", method="POST", body="")
    location = answer.headers["Location"]
    assert location.startswith(f"{jp_base_url}vsandbox/api/operations/")
    headers = {"Authorization": answer.request.headers["Authorization"]}
    found = json.loads((await http_server_client.fetch(location, headers=headers)).body)
    assert found["id"] == json.loads(answer.body)["id"] == location.rpartition("/")[2]
    assert (found["verb"], found["sandbox"]) == ("wake", SANDBOX.id)


async def test_the_server_answers_while_somebody_else_keeps_the_store(recorded, ask, jp_fetch, settings):
    here = f"sandboxes/{SANDBOX.id}"
    with contextlib.closing(sqlite3.connect(settings.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        rename = asyncio.create_task(ask("PATCH", here, {"name": "x"}))
        annotate = asyncio.create_task(ask("PATCH", f"{here}/snapshots/{SNAPSHOT.id}", {"note": "x"}))
        listing = asyncio.create_task(ask("GET", "sandboxes"))
        for _ in range(20):
            await jp_fetch("api/status", request_timeout=5)
        assert [rename.done(), annotate.done()] == [False, False]
        other.execute("ROLLBACK")
    assert [status for status, _ in await asyncio.gather(rename, annotate, listing)] == [200, 200, 200]


def test_every_verb_has_its_result_described():
    verbs = set(OPENAPI["components"]["schemas"]["Operation"]["properties"]["verb"]["enum"])
    assert verbs == {*RESULTS, "delete", "delete_snapshot", "delete_image"}
