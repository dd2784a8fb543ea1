"""Runtimes in the sidebar: a recipe is added, a build fails, another one is cancelled. No machine runs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.ui.conftest import Lab, Server, bare_home, serve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Locator

    from tests.conftest import Until

# Builds need what machine tests need, and the network.
pytestmark = pytest.mark.machine

RECIPE = """
name = "mine"
display_name = "Mine (sandbox)"
summary = "One that cannot be built"
[base]
suite = "bookworm"
packages = ["no-package-is-called-so"]
[python]
packages = ["ipykernel"]
"""


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, until: Until, request: pytest.FixtureRequest
) -> Iterator[Server]:
    """A server where nothing is built."""
    base = tmp_path_factory.mktemp("runtimes")
    with bare_home(base), serve(base / "notebooks", until, request.path.stem) as server:
        yield server


def runtime(lab: Lab, name: str) -> Locator:
    """What the sidebar tells of a runtime."""
    return lab.panel.get_by_role("list", name="Runtimes").locator("> li").filter(has_text=name)


def add(lab: Lab, path: Path, recipe: str) -> None:
    """Add a runtime from a file."""
    path.write_text(recipe)
    with lab.page.expect_file_chooser() as chooser:
        lab.tool("add")
    chooser.value.set_files(path)


def test_a_recipe_is_added_and_its_build_fails(lab: Lab, tmp_path: Path):
    add(lab, tmp_path / "broken.toml", 'name = "broken"\nsuite = "bookworm"\n')
    expect(lab.told("recipe: base: it is missing")).to_be_visible()
    lab.picture("no-recipe")
    lab.told("recipe: base").get_by_role("button", name="Hide notification").click()
    add(lab, tmp_path / "mine.toml", RECIPE)
    expect(lab.told("Mine (sandbox) is there; build it next.")).to_be_visible()
    mine = runtime(lab, "Mine (sandbox)")
    expect(mine).to_contain_text("your own")
    expect(mine).to_contain_text("not built")

    add(lab, tmp_path / "mine.toml", RECIPE.replace("One that", "Really one that"))
    expect(lab.dialog()).to_contain_text("There is a recipe 'mine' of yours already")
    lab.accept()
    mine.get_by_role("button", name="Build").click()
    expect(mine.get_by_role("progressbar", name="Build of mine")).to_be_visible()
    expect(mine.get_by_role("log")).not_to_be_empty()
    lab.picture("building")
    expect(mine.locator(".jp-VSandbox-warning")).to_contain_text("no-package-is-called-so")
    expect(mine.get_by_role("log")).to_contain_text("no-package-is-called-so")
    expect(mine.get_by_role("button", name="Build")).to_be_enabled()
    lab.picture("failed")
    lab.told("was not built").get_by_role("button", name="Hide notification").click()


def test_a_build_is_followed_and_cancelled(lab: Lab, server: Server):
    chosen = runtime(lab, "Python 3.11 (sandbox)")
    expect(chosen).to_contain_text("not built")
    chosen.get_by_role("button", name="Build").click()
    expect(chosen.get_by_role("log")).to_contain_text(re.compile("\\w+"))
    expect(chosen.get_by_role("status")).not_to_be_empty()
    # How far it is, not only that it goes on.
    expect(chosen.get_by_role("progressbar")).to_have_attribute("value", re.compile(r"0\.[0-9]+"))
    lab.picture("building")
    chosen.get_by_role("button", name="Cancel").click()
    expect(chosen.get_by_role("button", name="Build")).to_be_enabled()
    expect(chosen.get_by_role("progressbar")).to_have_count(0)
    expect(chosen).to_contain_text("not built")
    lab.picture("cancelled")
    assert list((server.folder.parent / "home" / "images").glob("[!.]*")) == []
