"""A host on which building costs nothing: programs are there, and what they do is made up."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox.runtimes import bootstrap, build, hostconfig, recipe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from jupyter_vsandbox.runtimes.process import Log
    from jupyter_vsandbox.runtimes.recipe import Recipe

MINIMAL = """
name = "tiny"
[base]
suite = "bookworm"
[python]
packages = ["ipykernel"]
"""


@pytest.fixture
def tiny() -> Recipe:
    """The smallest recipe."""
    return recipe.parse(MINIMAL, "tiny.toml")


@dataclass
class FakePrograms:
    """Stands in for `process.run`: makes the files that mmdebstrap and qemu-img would make.

    Attributes:
        commands: what was run.
        envs: the environment of each.
        failing: program -> lines that it prints before it fails.
        on_run: called at the start of each program.
    """

    commands: list[list[str]] = field(default_factory=list)
    envs: list[Mapping[str, str]] = field(default_factory=list)
    failing: dict[str, list[str]] = field(default_factory=dict)
    on_run: Callable[[str], None] = lambda program: None

    def __call__(
        self,
        command: Sequence[str],
        log: Log,
        watch: Callable[[str], None] = lambda line: None,
        *,
        env: Mapping[str, str],
        pass_fds: Sequence[int] = (),
    ) -> int:
        program = "mmdebstrap" if "mmdebstrap" in command else command[0]
        self.commands.append(list(command))
        self.envs.append(env)
        self.on_run(program)
        if program in self.failing:
            for line in self.failing[program]:
                watch(log.write(line))
            return 1
        if program == "mmdebstrap":
            for line in ("Get:1 x bookworm/main amd64 bash amd64 5 [1 kB]", "@vsandbox 0.50 Half", "done"):
                watch(log.write(line))
            for option in command:
                if option.startswith("--customize-hook=download "):
                    _, inside, outside = shlex.split(option.partition("=")[2])
                    Path(outside).write_text(f"contents of {inside}\n")
        else:
            Path(command[-1]).write_bytes(b"QFI\xfb" + bytes(8192))
        return 0


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakePrograms:
    """A host that has all programs and a mirror, and on which none of them really runs."""
    keyring = tmp_path / "keyring.gpg"
    keyring.write_bytes(b"key")
    fake = FakePrograms()
    monkeypatch.setattr(bootstrap, "DEBIAN_KEYRING", str(keyring))
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name, path=None: f"/usr/bin/{name}")
    monkeypatch.setattr(hostconfig, "_output", lambda command, environ: "")
    monkeypatch.setattr(build, "run", fake)
    return fake
