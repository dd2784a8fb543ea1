"""Fault points: each name in the code is in a test's list, and an armed one strikes when it should."""

from __future__ import annotations

import ast
import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import jupyter_vsandbox
from tests.faults import cases

SOURCE = Path(jupyter_vsandbox.__file__).parent


def points():
    """The name of every call of `faults.point`, as often as it is there."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "faults.point":
                [name] = node.args
                yield ast.literal_eval(name)


def test_every_point_has_a_case_and_every_case_a_point():
    tested = {case.point.partition(":")[0] for case in cases.ALL} | set(cases.TEMPLATE)
    assert set(points()) == tested


def test_there_are_enough_cases_and_none_twice():
    assert len(cases.ALL) == len(set(cases.ALL)) >= 100


def test_a_few_are_spread_over_the_verbs():
    few = cases.chosen(len(cases.KILLED), seed=1)
    assert {case.verb for case in few} == set(cases.KILLED)
    assert few != cases.chosen(len(cases.KILLED), seed=2)


def strike(fault, *names):
    """What becomes of a process that passes points by these names."""
    code = (
        "import sys; from jupyter_vsandbox import faults; faults.arm()\n"
        "for name in sys.argv[1:]:\n"
        "    print(name, flush=True); faults.point(name)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *names],
        env={"JUPYTER_VSANDBOX_FAULT": fault},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_process_dies_where_it_is_told_to():
    done = strike("kill@b", "a", "b", "c")
    assert (done.returncode, done.stdout.split()) == (-signal.SIGKILL, ["a", "b"])


def test_a_point_can_be_passed_before_it_strikes():
    done = strike("kill@b:2", "b", "a", "b", "c")
    assert (done.returncode, done.stdout.split()) == (-signal.SIGKILL, ["b", "a", "b"])


def test_the_disk_seems_full():
    done = strike("full@a", "a")
    assert done.returncode == 1
    assert f"OSError: [Errno {errno.ENOSPC}]" in done.stderr


@pytest.mark.parametrize("fault", ["", "kill@nowhere"])
def test_nothing_happens_elsewhere(fault):
    assert strike(fault, "a", "b").returncode == 0


def test_a_misspelled_fault_is_no_silent_success():
    assert "there are kill, stop and full" in strike("maim@a", "a").stderr
