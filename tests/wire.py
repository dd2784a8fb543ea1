"""Holds what the server says against openapi.yaml and the schemas of its events."""

from __future__ import annotations

import re
from importlib import resources
from typing import Any

import jsonschema
import yaml

from jupyter_vsandbox.server import contract

OPENAPI = contract.document()
METHODS = ("get", "post", "put", "patch", "delete")
PREFIX = "/vsandbox/api"
EVENTS = {
    schema["$id"]: schema
    for file in (resources.files("jupyter_vsandbox.server") / "event_schemas").iterdir()
    for schema in [yaml.safe_load(file.read_text())]
}
RESULTS = {
    "snapshot": "Snapshot",
    "rollback": "Rollback",
    "fork": "Fork",
    "trial": "Trial",
    "prune": "Prunable",
    "diff": "Difference",
    "build": "Image",
    **dict.fromkeys(("start", "stop", "hibernate", "wake", "reset", "promote"), "Sandbox"),
}
_PATTERNS = {re.compile(re.sub(r"{\w+}", "[^/]+", path)): path for path in OPENAPI["paths"]}


def check_schema(name: str, body: Any) -> None:
    """Fail unless `body` is what the schema `name` describes."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": OPENAPI["components"]}
    jsonschema.validate(body, schema, jsonschema.Draft202012Validator)


def check_answer(method: str, path: str, status: int, body: Any) -> None:
    """Fail unless openapi.yaml says that `path` may answer so; `path` is relative to the API's."""
    [template] = [
        template for pattern, template in _PATTERNS.items() if pattern.fullmatch(f"{PREFIX}/{path}")
    ]
    responses = OPENAPI["paths"][template][method.lower()]["responses"]
    response = responses.get(str(status), responses["default"])
    assert status >= 400 or str(status) in responses, (method, path, status)
    if "$ref" in response:
        response = OPENAPI["components"]["responses"][response["$ref"].rpartition("/")[2]]
    if "content" in response:
        schema = response["content"]["application/json"]["schema"]
        check_schema(schema["$ref"].rpartition("/")[2], body)
    if isinstance(body, dict) and body.get("state") == "done" and "verb" in body and "result" in body:
        if body["verb"] in RESULTS:
            check_schema(RESULTS[body["verb"]], body["result"])
        else:
            assert body["result"] is None


def check_event(event: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Fail unless it is one of ours that keeps to its schema; returns its short name and its data."""
    data = dict(event)
    schema_id = data.pop("schema_id")
    jsonschema.validate(data, EVENTS[schema_id], jsonschema.Draft7Validator)
    name = schema_id.split("/")[-2]
    if name in {"sandbox", "snapshot"}:
        assert (data[name] is None) == (data["action"] == "removed")
        if data[name] is not None:
            check_schema(name.title(), data[name])
    elif name == "operation":
        check_schema("Operation", data["operation"])
        assert not {"result", "log"} & set(data["operation"])
    elif name == "usage":
        for usage in data["usages"].values():
            check_schema("Usage", usage)
    return name, data
