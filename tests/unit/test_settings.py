"""Private folders are private, or refused with the way to mend it."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from jupyter_vsandbox.settings import Settings, private_folder


def test_a_folder_that_was_open_is_closed(tmp_path):
    folder = tmp_path / "open"
    folder.mkdir(mode=0o755)
    assert stat.S_IMODE(private_folder(folder).stat().st_mode) == 0o700
    assert stat.S_IMODE(private_folder(tmp_path / "a" / "new").stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_in_its_place_is_left_alone(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="Move that away, or set JUPYTER_VSANDBOX_HOME"):
        private_folder(tmp_path / name)
    assert (tmp_path / "file").read_text() == "mine"


def test_settings_survive_the_way_to_another_process(tmp_path):
    settings = Settings(home=tmp_path, recipe_folders=(Path("/a"), Path("/b")), standby=3, accelerator="tcg")
    assert Settings.from_json(settings.to_json()) == settings


def test_sockets_move_where_their_paths_stay_short_enough(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert Settings(home=Path("/short")).sockets == Path("/short/run")
    long = Settings(home=tmp_path / ("x" * 100))
    assert long.sockets.parent == Path("/run/user/1")
    assert long.sockets != Settings(home=tmp_path / ("y" * 100)).sockets
