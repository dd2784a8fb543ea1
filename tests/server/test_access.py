"""Nobody gets in who may not, at any endpoint, and nothing has happened then."""

from __future__ import annotations

import json

import pytest
from jupyter_server.auth import Authorizer
from tornado.httpclient import HTTPClientError

from tests.server.conftest import SANDBOX, SNAPSHOT
from tests.server.test_api import ENDPOINTS

IDS = {"sandbox": SANDBOX.id, "snapshot": SNAPSHOT.id, "operation": "0" * 12, "runtime": "x", "image": "x"}
# Would each be accepted.
BODIES = {
    "rollback": {"snapshot": SNAPSHOT.id},
    "trials": {"command": "true"},
    "diffs": {"old": {"sandbox": SANDBOX.id}, "new": {"sandbox": SANDBOX.id}},
    "runtimes": {"recipe": 'name = "x"\n[base]\nsuite = "bookworm"\n[python]'},
    SANDBOX.id: {"name": "changed"},
    SNAPSHOT.id: {"name": "changed"},
}


def request_of(method, path):
    """The path with ids in it, and the keywords of a fetch with a good body."""
    path = path.format(**IDS)
    body = json.dumps(BODIES.get(path.rpartition("/")[2], {}))
    return path, {"method": method, "body": None if method in {"GET", "DELETE"} else body}


@pytest.fixture
def untouched(recorded, jp_serverapp, settings):
    """Fails where anything was done."""

    def everything():
        operations = jp_serverapp.web_app.settings["vsandbox_backend"].operations.all()
        return recorded.everything(), operations, list(settings.user_recipes.glob("*"))

    before = everything()
    assert before[0][0]
    yield
    assert everything() == before


@pytest.fixture
def refused(http_server_client, jp_base_url, untouched):
    """Sends requests to all endpoints that must be refused; nothing else happens."""

    async def refused(headers, endpoints):
        for method, path, _ in endpoints:
            path, options = request_of(method, path)
            with pytest.raises(HTTPClientError) as caught:
                await http_server_client.fetch(jp_base_url.rstrip("/") + path, headers=headers, **options)
            assert (caught.value.code, method, path) == (403, method, path)
            assert b"python-3.11" not in caught.value.response.body

    return refused


async def test_without_a_token(refused):
    await refused({}, ENDPOINTS)


async def test_with_a_wrong_token(refused):
    await refused({"Authorization": "token 0123456789abcdef"}, ENDPOINTS)


async def test_from_another_site_in_a_browser_that_is_logged_in(refused, cookies):
    changing = [each for each in ENDPOINTS if each[0] != "GET"]
    await refused({"Cookie": cookies}, changing)
    await refused({"Cookie": cookies, "X-XSRFToken": "2|00000000|wrong|1700000000"}, changing)


@pytest.fixture
def cookies(http_server_client, jp_base_url, jp_auth_header, jp_asyncio_loop):
    """What a browser holds once its user has logged in; enough to read."""

    async def log_in():
        answer = await http_server_client.fetch(jp_base_url + "api/me", headers=jp_auth_header)
        cookies = "; ".join(each.partition(";")[0] for each in answer.headers.get_list("Set-Cookie"))
        headers = {"Cookie": cookies, "Referer": f"http://{answer.effective_url.split('/')[2]}/"}
        await http_server_client.fetch(jp_base_url + "vsandbox/api/sandboxes", headers=headers)
        return cookies

    return jp_asyncio_loop.run_until_complete(log_in())


class May(Authorizer):
    """Lets everybody do `action` to sandboxes, and nothing else."""

    action = ""

    def is_authorized(self, handler, user, action, resource):
        return (action, resource) == (self.action, "vsandbox")


@pytest.mark.parametrize("action", ["read", "write", "execute"])
class TestAuthorized:
    @pytest.fixture
    def jp_server_config(self, jp_server_config, action, monkeypatch):
        monkeypatch.setattr(May, "action", action)
        jp_server_config["ServerApp"]["authorizer_class"] = May
        return jp_server_config

    async def test_a_permission_is_good_for_no_other_action(self, action, refused, jp_auth_header):
        await refused(jp_auth_header, [each for each in ENDPOINTS if each[2] != action])

    async def test_that_permission_is_enough(self, action, recorded, ask):
        for method, path in [each[:2] for each in ENDPOINTS if each[2] == action]:
            path, options = request_of(method, path)
            status, _ = await ask(method, path.removeprefix("/vsandbox/api/"), options["body"])
            assert (status in {200, 201, 202, 404, 409}, method, path, status) == (True, method, path, status)
