"""Whatever is sent, nothing breaks: requests made up of openapi.yaml by schemathesis, good ones and bad."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from jupyter_vsandbox.core.store import Store
from jupyter_vsandbox.settings import Settings
from tests.server.conftest import SANDBOX, SNAPSHOT
from tests.server.test_access import IDS
from tests.wire import OPENAPI, PREFIX, check_answer

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "secret"
SECONDS = 60.0
EXAMPLES = 15
API = schemathesis.openapi.from_dict(OPENAPI)
OPERATIONS = {each.ok().label: each.ok() for each in API.get_all_operations()}
WITH_BODY = [label for label, each in OPERATIONS.items() if each.definition.raw.get("requestBody")]
few = hypothesis_settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)


@dataclass
class Served:
    """A server of its own process, with one sandbox of a driver that is not installed."""

    url: str
    settings: Settings
    log: Path

    def send(self, method: str, path: str, **options: Any) -> requests.Response:
        """One request; the answer must keep to openapi.yaml, and the server must not stumble."""
        headers = dict(options.pop("headers", None) or {}) | {"Authorization": f"token {TOKEN}"}
        url = f"{self.url}{PREFIX.removeprefix('/')}/{path}"
        response = requests.request(method, url, headers=headers, timeout=SECONDS, **options)
        assert response.status_code < 500 or response.status_code in {501, 503, 507}, response.text
        assert "Traceback" not in self.log.read_text()
        return response

    def everything(self) -> object:
        """All that a request could change."""
        with contextlib.closing(Store(self.settings.database)) as store:
            records = store.everything()
        operations = self.send("GET", "operations").json()
        return records, operations, sorted(self.settings.user_recipes.glob("*"))


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    """The server."""
    with tempfile.TemporaryDirectory(prefix="vsandbox-test-") as name, pytest.MonkeyPatch.context() as env:
        base = Path(name)
        env.setenv("JUPYTER_VSANDBOX_HOME", str(base / "home"))
        for kind in ("CONFIG", "DATA", "RUNTIME"):
            env.setenv(f"JUPYTER_{kind}_DIR", str(base / kind.lower()))
        (base / "home").mkdir(mode=0o700)
        settings = Settings(home=base / "home")
        with contextlib.closing(Store(settings.database)) as store:
            store.add(SANDBOX)
            store.add_snapshot(SNAPSHOT)
        log = base / "log"
        options = [
            *(
                "--port=0",
                "--ip=127.0.0.1",
                "--no-browser",
                "--allow-root",
                f"--IdentityProvider.token={TOKEN}",
            ),
            *(f"--ServerApp.root_dir={base}", "--ServerApp.jpserver_extensions={'jupyter_vsandbox': True}"),
        ]
        with log.open("wb") as file:
            command = [sys.executable, "-m", "jupyter_server", *options]
            process = subprocess.Popen(command, cwd=base, stdout=file, stderr=file)
        try:
            info = base / "runtime" / f"jpserver-{process.pid}.json"
            deadline = time.monotonic() + SECONDS
            while not info.exists() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            assert info.exists(), log.read_text()
            served = Served(json.loads(info.read_text())["url"], settings, log)
            while True:  # it tells its address a little before it listens there
                with contextlib.suppress(requests.ConnectionError):
                    served.send("GET", "operations")
                    break
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield served
        finally:
            process.terminate()
            process.wait(SECONDS)


def path_of(case: schemathesis.Case) -> str:
    return case.formatted_path.removeprefix(f"{PREFIX}/")


@pytest.mark.parametrize("label", OPERATIONS)
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_nothing_breaks(label: str, mode: GenerationMode, served: Served) -> None:
    operation = OPERATIONS[label]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.path_parameters):
        return  # nothing to get wrong

    @few
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        options = case.as_transport_kwargs(base_url=served.url.rstrip("/"))
        for name in ("method", "url"):
            options.pop(name)
        response = served.send(case.method, path_of(case), **options)
        if "?" not in path_of(case) and "#" not in path_of(case):
            with contextlib.suppress(ValueError):
                check_answer(case.method, path_of(case), response.status_code, response.json())

    send()


@pytest.mark.parametrize("label", WITH_BODY)
def test_a_bad_body_for_something_that_exists_does_nothing(label: str, served: Served) -> None:
    """Of a sandbox that is there: all that is wrong is the body, and it is refused."""
    operation = OPERATIONS[label]
    method, template = label.split(" ")
    path = template.format(**IDS).removeprefix(f"{PREFIX}/")
    content = operation.definition.raw["requestBody"]["content"]["application/json"]
    schema = content["schema"] | {"components": OPENAPI["components"]}
    validator = jsonschema.Draft202012Validator(schema)
    before = served.everything()

    def refused(body: bytes) -> None:
        response = served.send(method, path, data=body)
        assert (response.status_code, response.json()["kind"]) == (400, "InvalidRequest"), body
        check_answer(method, path, response.status_code, response.json())

    @few
    @given(case=operation.as_strategy(generation_mode=GenerationMode.NEGATIVE), junk=st.binary(max_size=40))
    def send(case: schemathesis.Case, junk: bytes) -> None:
        with contextlib.suppress(TypeError, ValueError):
            text = json.dumps(case.body)
            if not validator.is_valid(json.loads(text)):
                refused(text.encode())
            refused(text.encode()[:-1] + b",")
        refused(junk + b"\xff")

    send()
    assert served.everything() == before
