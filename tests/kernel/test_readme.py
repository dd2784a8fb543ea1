"""Every command of the README is run here, as it stands there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

if TYPE_CHECKING:
    from tests.conftest import Until

pytestmark = pytest.mark.machine

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMANDS = [line for block in BLOCK.findall((ROOT / "README.md").read_text()) for line in block.splitlines()]


def environment() -> dict[str, str]:
    """The one that the README makes is the one that these tests run in."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def test_the_readme_has_commands() -> None:
    assert {"make demo", "make lab"} <= set(COMMANDS)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", [line for line in COMMANDS if line != "make lab"])
def test_command(command: str) -> None:
    done = subprocess.run(
        ["sh", "-c", command], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if command == "make demo":
        assert "sandbox kernel, first result" in done.stdout
        assert "Error" not in (ROOT / "build" / "demo.ipynb").read_text()
        assert re.search(r"^python-3\.13 \(python 3\.13\.\d+, pandas 2\.", done.stdout, re.MULTILINE)
        assert "! AttributeError: 'DataFrame' object has no attribute 'append'" in done.stdout


@pytest.mark.timeout(300)
def test_make_lab_offers_the_sandbox_kernels(until: Until) -> None:
    lab = subprocess.Popen(
        ["make", "lab", "ARGS=--no-browser --ip=127.0.0.1 --port=0 --allow-root"],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        assert lab.stdout is not None
        url = next(match[0] for line in lab.stdout if (match := re.search(r"http://127\S+token=\w+", line)))
        base, _, token = url.partition("/lab?token=")
        request = Request(f"{base}/api/kernelspecs", headers={"Authorization": f"token {token}"})
        offered: dict[str, object] = {}

        def answers() -> bool:
            with contextlib.suppress(URLError), urlopen(request) as answer:
                offered.update(json.load(answer)["kernelspecs"])
            return bool(offered)

        until(answers, 60)  # the address is told before anybody listens there
        assert "vsandbox-python-3.11" in offered
    finally:
        os.killpg(lab.pid, signal.SIGTERM)
        lab.communicate(timeout=60)
