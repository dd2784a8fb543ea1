"""What all tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

pytest_plugins = ["pytest_jupyter.jupyter_server"]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings whose folders are all this test's own; nothing of the user's is seen or touched."""
    # Sockets go there where the test's folder has too long a path for them.
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    home = tmp_path / "vsandbox"
    monkeypatch.setenv("JUPYTER_VSANDBOX_HOME", str(home))
    return Settings(home=home, standby=0)
