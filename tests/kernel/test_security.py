"""What other users of the host can get at: nothing."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zmq
import zmq.asyncio

from jupyter_vsandbox.domain.errors import Transient
from jupyter_vsandbox.guest import protocol
from jupyter_vsandbox.link import AgentLink, new_keys

if TYPE_CHECKING:
    from jupyter_vsandbox.domain.model import Endpoint, LinkKeys
    from tests.kernel.conftest import Kernel

pytestmark = pytest.mark.machine

SILENCE_SECONDS = 3.0

# Becomes the user `nobody`, then tries all paths and says which it got something out of.
STRANGER = """
import json, os, pwd, socket, stat, sys
question = json.load(sys.stdin)
if os.getuid() == 0:
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
assert os.getuid() != question["owner"]
got = []
for path in question["folders"]:
    try:
        got.append([path, os.listdir(path)])
    except PermissionError:
        pass
for path in question["files"]:
    try:
        got.append([path, len(open(path, "rb").read(1))])
    except PermissionError:
        pass
for path in question["sockets"]:
    try:
        socket.socket(socket.AF_UNIX).connect(path)
        got.append([path, "connected"])
    except PermissionError:
        pass
json.dump({"uid": os.getuid(), "got": got}, sys.stdout)
"""

# The connection that any local process can make to the agent's forward.
CALLER = """
import json, os, pwd, sys
import zmq
question = json.load(sys.stdin)
if os.getuid() == 0:
    os.setgroups([])
    os.setuid(pwd.getpwnam("nobody").pw_uid)
assert os.getuid() != question["owner"]
socket = zmq.Context().socket(zmq.DEALER)
socket.linger = 0
if question["server_public"]:
    socket.curve_serverkey = question["server_public"].encode()
    socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
socket.connect(question["url"])
socket.send_multipart([b"agent", json.dumps({"id": 1, "verb": "info"}).encode()])
json.dump({"answered": bool(socket.poll(question["milliseconds"]))}, sys.stdout)
"""


@pytest.fixture(scope="module")
def elevation() -> list[str]:
    """What a command needs before it to become another user."""
    if os.getuid() == 0:
        return []
    if subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("only root, or a user with sudo, can try as another user")
    return ["sudo", "-n"]


def ask(elevation: list[str], program: str, question: dict[str, Any]) -> dict[str, Any]:
    """Run a program as another user."""
    done = subprocess.run(
        [*elevation, sys.executable, "-c", program],
        input=json.dumps(question | {"owner": os.getuid()}),
        capture_output=True,
        text=True,
        cwd="/",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_files_and_sockets_are_closed_to_others(kernel: Kernel, elevation: list[str]) -> None:
    secret = "printed by a cell"
    kernel.run(f"print({secret!r})")
    home = kernel.home.settings.home
    paths = {home, *home.rglob("*"), *kernel.home.settings.sockets.rglob("*")}
    paths.add(Path(kernel.manager.connection_file))
    question: dict[str, list[str]] = {"folders": [], "files": [], "sockets": []}
    for path in map(str, paths):
        mode = os.stat(path).st_mode
        kind = "folders" if stat.S_ISDIR(mode) else "sockets" if stat.S_ISSOCK(mode) else "files"
        if kind == "sockets":
            assert stat.S_IMODE(mode) == 0o600, path
        question[kind].append(path)
    assert len(question["sockets"]) == 6  # five channels and QEMU's monitor
    assert len(question["files"]) > 5
    assert stat.S_IMODE(os.stat(home).st_mode) == 0o700

    answer = ask(elevation, STRANGER, question)
    assert answer["got"] == []


@pytest.mark.parametrize("mechanism", ["NULL", "CURVE"])
def test_the_agent_answers_nobody_without_a_key(kernel: Kernel, elevation: list[str], mechanism: str) -> None:
    sandbox = kernel.sandbox
    assert sandbox.endpoint is not None
    assert sandbox.keys is not None
    question = {
        "url": sandbox.endpoint.url,
        # The server's key is no secret by design; only the client's own counts.
        "server_public": sandbox.keys.server_public if mechanism == "CURVE" else "",
        "milliseconds": SILENCE_SECONDS * 1000,
    }
    assert ask(elevation, CALLER, question) == {"answered": False}


async def answers(endpoint: Endpoint, keys: LinkKeys, seconds: float) -> bool:
    async with AgentLink(endpoint, keys) as link:
        try:
            await link.request("info", timeout=seconds)
        except Transient:
            return False
        return True


async def test_only_the_keys_of_the_sandbox_itself_fit(kernel: Kernel) -> None:
    sandbox = kernel.sandbox
    assert sandbox.endpoint is not None
    assert sandbox.keys is not None
    [manifest] = kernel.home.settings.templates.glob(f"{sandbox.image}-*/template.json")
    template = type(sandbox.keys)(**json.loads(manifest.read_text())["keys"])
    stranger = type(sandbox.keys)(**(asdict(new_keys()) | {"server_public": sandbox.keys.server_public}))

    assert await answers(sandbox.endpoint, sandbox.keys, 60)
    assert not await answers(sandbox.endpoint, template, SILENCE_SECONDS)
    assert not await answers(sandbox.endpoint, stranger, SILENCE_SECONDS)
    # And none of that cost the kernel its link.
    assert kernel.value("40 + 2") == 42


async def test_a_stranger_cannot_reach_the_kernel_through_the_link(kernel: Kernel) -> None:
    """A frame on a kernel's channel without a key is as good as none."""
    sandbox = kernel.sandbox
    assert sandbox.endpoint is not None
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.DEALER)
    try:
        socket.linger = 0
        socket.connect(sandbox.endpoint.url)
        header = json.dumps({"msg_id": "1", "msg_type": "execute_request", "session": "s", "version": "5.3"})
        content = json.dumps({"code": "broken_in = True", "silent": False})
        body = [header.encode(), b"{}", b"{}", content.encode()]
        await socket.send_multipart([b"shell", protocol.DELIMITER, b"", *body])
        assert await socket.poll(SILENCE_SECONDS * 1000) == 0
    finally:
        socket.close()
        context.term()
    assert kernel.value("'broken_in' in globals()") is False
