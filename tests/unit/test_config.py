"""Configuration: every setting has its trait, and every way to set it works."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from traitlets.config import Config

from jupyter_vsandbox.config import BASENAME, VSandbox, VSphere, load_settings
from jupyter_vsandbox.domain.errors import InvalidRequest
from jupyter_vsandbox.settings import ResourcePool, Settings, VCenter


@pytest.fixture
def config_folder(tmp_path, monkeypatch):
    folder = tmp_path / "config"
    folder.mkdir()
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(folder))
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(tmp_path / "chosen"))
    monkeypatch.delenv("JUPYTER_NO_CONFIG", raising=False)
    return folder


def test_every_setting_has_a_documented_trait():
    traits = VSandbox.class_traits(config=True)
    own = {name: trait for name, trait in traits.items() if trait.this_class is VSandbox}
    assert {*own, "vcenter"} == {field.name for field in dataclasses.fields(Settings)}
    assert all(trait.help for trait in own.values())
    traits = VSphere.class_traits(config=True)
    own = {name: trait for name, trait in traits.items() if trait.this_class is VSphere}
    assert set(own) == {field.name for field in dataclasses.fields(VCenter)}
    assert all(trait.help for trait in own.values())


@pytest.mark.usefixtures("config_folder")
def test_without_configuration_the_defaults_hold(settings):
    assert load_settings() == Settings()


@pytest.mark.usefixtures("config_folder")
def test_every_trait_reaches_its_setting():
    values = {
        "home": "/srv/vsandbox",
        "recipe_folders": ["/srv/recipes"],
        "accelerator": "tcg",
        "standby": 3,
        "standby_seconds": 5.0,
        "memory_budget": 7,
        "memory_overcommit": 2.5,
        "translation_cache": 11,
        "automatic_snapshots": 4,
        "automatic_snapshot_age": 5.5,
        "automatic_snapshot_bytes": 6,
        "long_cell": 7.5,
        "hibernate_after": 8.5,
        "workspace": "read",
        "workspace_hidden": True,
        "mirror": "https://mirror.example/debian",
    }
    vcenter = {
        "host": "vcenter.example",
        "port": 8443,
        "user": "sandboxes",
        "password_file": "/srv/password",
        "ca": "/srv/ca.pem",
        "datacenter": "A",
        "cluster": "B",
        "folder": "C",
        "datastore": "D",
        "network": "E",
        "prefix": "lab",
        "clone": "instant",
        "pools": [{"name": "iot-pool", "memory_limit": 7, "shares": "low"}],
        "parallel": 8,
        "call_seconds": 9.5,
        "task_seconds": 10.5,
        "boot_seconds": 11.5,
        "snapshot_age": 12.5,
        "snapshot_chain": 13,
    }
    settings = load_settings(Config(VSandbox=values, VSphere=vcenter))
    pools = (ResourcePool("iot-pool", memory_limit=7, shares="low"),)
    assert dataclasses.replace(settings.vcenter, pools=()) == VCenter(**vcenter | {"pools": ()})
    assert settings.vcenter.pools == pools
    assert Settings.from_json(settings.to_json()) == settings
    paths = {"home": Path("/srv/vsandbox"), "recipe_folders": (Path("/srv/recipes"),)}
    assert dataclasses.replace(settings, vcenter=VCenter()) == Settings(**values | paths)


@pytest.mark.usefixtures("config_folder")
@pytest.mark.parametrize("manager", ["ContentsManager", "AsyncLargeFileManager"])
def test_machines_see_hidden_files_where_the_file_browser_does(manager):
    assert load_settings(Config({manager: {"allow_hidden": True}})).workspace_hidden is True
    assert load_settings(Config({manager: {"allow_hidden": False}})).workspace_hidden is False
    shown = Config({manager: {"allow_hidden": True}, "VSandbox": {"workspace_hidden": False}})
    assert load_settings(shown).workspace_hidden is False


def test_files_are_read_and_overridden(config_folder):
    (config_folder / f"{BASENAME}.py").write_text("c.VSandbox.standby = 2; c.VSandbox.memory_budget = 2")
    chosen = config_folder.parent / "chosen"
    chosen.mkdir()
    (chosen / f"{BASENAME}.py").write_text("c.VSandbox.memory_budget = 3")
    (config_folder / f"{BASENAME}.json").write_text(json.dumps({"VSandbox": {"accelerator": "tcg"}}))
    settings = load_settings(Config(VSandbox={"translation_cache": 4}))
    assert settings.standby == 2
    assert settings.memory_budget == 3
    assert settings.accelerator == "tcg"
    assert settings.translation_cache == 4


def test_a_wrong_value_is_named(config_folder):
    with pytest.raises(InvalidRequest, match="accelerator"):
        load_settings(Config(VSandbox={"accelerator": "magic"}))
    with pytest.raises(InvalidRequest, match="memory_limits"):
        load_settings(Config(VSphere={"pools": [{"name": "iot-pool", "memory_limits": 7}]}))
    (config_folder / f"{BASENAME}.py").write_text("c.VSandbox.standby = ")
    with pytest.raises(InvalidRequest, match=f"{BASENAME}.py"):
        load_settings()
