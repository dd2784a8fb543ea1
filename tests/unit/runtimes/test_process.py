"""Running a program: its lines are kept, and it never outlives the call."""

import os
from pathlib import Path

import pytest

from jupyter_vsandbox.runtimes.process import Log, run

ENV = {"PATH": os.environ["PATH"]}


def test_lines_are_logged_and_watched(tmp_path: Path) -> None:
    seen: list[str] = []
    script = "echo out; echo err >&2; exit 3"
    with Log(tmp_path / "logs" / "x.log") as log:
        assert run(["sh", "-c", script], log, seen.append, env=ENV) == 3
    assert sorted(seen) == ["err", "out"]
    text = (tmp_path / "logs" / "x.log").read_text()
    assert text.startswith("$ sh -c")
    assert "\nout\n" in text
    assert "err" in log.quote()


def test_passwords_in_addresses_are_left_out(tmp_path: Path) -> None:
    with Log(tmp_path / "x.log") as log:
        run(["echo", "from https://me:secret@example.org/simple"], log, env=ENV)
    text = (tmp_path / "x.log").read_text()
    assert "secret" not in text
    assert "https://***@example.org/simple" in text


def test_the_environment_is_only_what_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VSANDBOX_TEST", "leaked")
    with Log(tmp_path / "x.log") as log:
        run(["sh", "-c", 'echo "[$VSANDBOX_TEST][$OTHER]"'], log, env={**ENV, "OTHER": "given"})
    assert log.tail[-1] == "[][given]"


@pytest.mark.parametrize("stubborn", ["", "trap '' TERM; "])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_call_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], stubborn: str
) -> None:
    monkeypatch.setattr("jupyter_vsandbox.runtimes.process._GRACE_SECONDS", 0.2 if stubborn else 30.0)
    pids: list[int] = []

    def watch(line: str) -> None:
        pids.append(int(line))
        raise error

    with Log(tmp_path / "x.log") as log, pytest.raises(error):
        run(["sh", "-c", f"{stubborn}echo $$; sleep 600; sleep 600"], log, watch, env=ENV)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
