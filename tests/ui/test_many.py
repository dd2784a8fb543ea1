"""The sidebar with many sandboxes and snapshots: how fast, how accessible, how quiet. No machine runs."""

from __future__ import annotations

import random
import statistics
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from jupyter_vsandbox.core.store import Store
from jupyter_vsandbox.domain.model import MIB, Cause, Sandbox, Shape, Snapshot, State
from tests.ui.conftest import PICTURES, Lab, Server, bare_home, serve, window

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

    from jupyter_vsandbox.settings import Settings
    from tests.conftest import Until

# With the server and the browser that the first test waits for.
pytestmark = pytest.mark.timeout(600)

SANDBOXES = 200
SNAPSHOTS = 500
PAINT_MILLISECONDS = 300.0
QUIET_MILLISECONDS = 8000
NARROW_PIXELS = 300
NOTEBOOK = "many.ipynb"
STOPS = [
    "This Notebook Section",
    "Keep the machine as it is",
    "Boot the machine",
    "Put the machine back to its clean image",
    "History Section",
    "Packages, files, variables and cells that differ",
    "Now",
    f"More for “{NOTEBOOK}”",
    "Sandboxes Section",
    "experiment 1",
    "Delete “experiment 1”",
    "More for “experiment 1”",
    "Runtimes Section",
    "Add a runtime from a recipe file",
    "Build Python 3.9",
    "Build Python 3.11",
    "Build Python 3.13",
]
MOST_STOPS = 100


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, until: Until, request: pytest.FixtureRequest
) -> Iterator[Server]:
    """A server whose store holds many records, and nothing else."""
    base = tmp_path_factory.mktemp("many")
    with bare_home(base) as settings, serve(base / "notebooks", until, request.path.stem) as server:
        _fill(settings, server.folder)
        yield server


@pytest.fixture(scope="module")
def lab(browser: Browser, server: Server) -> Iterator[Lab]:
    """A window with a notebook that has no kernel, and a stopped sandbox with a long history."""
    with window(browser, server) as lab:
        lab.write(NOTEBOOK, "1 + 1", kernel="vsandbox-nowhere")
        lab.go(NOTEBOOK)
        lab.dialog().locator(".jp-mod-reject").click()  # there is no kernel of that name
        expect(lab.state()).to_have_text("stopped")
        yield lab


def test_paints_fast(lab: Lab):
    lab.picture("many")
    tree = lab.panel.get_by_role("tree", name=f"History of {NOTEBOOK}")
    assert int(tree.get_by_role("treeitem").first.get_attribute("aria-setsize") or 0) > 100
    assert tree.get_by_role("treeitem").count() < 100
    paints = lab.page.evaluate(
        """async () => {
            const shell = window.jupyterapp.shell;
            const shown = () => document.querySelector('#jp-vsandbox-history [role=treeitem]')?.offsetParent;
            const painted = () => new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)));
            const times = [];
            for (let i = 0; i < 6; i++) {
                shell.collapseRight();
                await painted();
                if (shown()) throw new Error('it did not hide');
                const begin = performance.now();
                shell.activateById('jp-vsandbox-sidebar');
                do await painted(); while (!shown());
                times.push(performance.now() - begin);
            }
            return times;
        }"""
    )
    scrolls = lab.page.evaluate(
        """async () => {
            const rows = document.querySelector('#jp-vsandbox-history .jp-VSandbox-rows');
            const times = [];
            let last = performance.now();
            for (let i = 0; i < 60; i++) {
                rows.scrollTop += 97;
                await new Promise(requestAnimationFrame);
                const now = performance.now();
                times.push(now - last);
                last = now;
            }
            return times;
        }"""
    )
    shown = [round(each) for each in paints]
    figures = (
        f"paints of the panel, the first one first: {shown} ms\n"
        f"frames while scrolling: median {statistics.median(scrolls):.1f}, worst {max(scrolls):.1f} ms\n"
    )
    (PICTURES / "paints.txt").write_text(figures)
    assert statistics.median(paints) < PAINT_MILLISECONDS, figures
    lab.picture("scrolled")


def test_has_no_serious_violation(lab: Lab):
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        lab.page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme
        )
        light = "true" if theme.endswith("Light") else "false"
        expect(lab.page.locator(f"body[data-jp-theme-light={light}]")).to_be_attached()
        lab.picture(theme.split()[-1].lower())
        assert lab.serious("#jp-vsandbox-sidebar") == []


def test_is_quiet_when_idle(lab: Lab):
    requests: list[str] = []
    lab.page.on("request", lambda request: requests.append(request.url))
    lab.page.wait_for_timeout(QUIET_MILLISECONDS)
    assert [url for url in requests if "vsandbox" in url] == []


def test_goes_by_keys(lab: Lab):
    tree = lab.panel.get_by_role("tree", name=f"History of {NOTEBOOK}")
    tree.locator("[tabindex='0'][role=treeitem]").focus()
    focused = lab.page.locator(":focus")
    first = focused.get_attribute("aria-posinset")
    assert first == "1"
    for key, place in (("ArrowDown", 2), ("ArrowDown", 3), ("ArrowUp", 2), ("Home", 1)):
        lab.page.keyboard.press(key)
        expect(focused).to_have_attribute("aria-posinset", str(place))
    lab.page.keyboard.press("End")
    size = focused.get_attribute("aria-setsize") or ""
    expect(focused).to_have_attribute("aria-posinset", size)
    expect(focused).to_be_in_viewport()
    lab.picture("end-key")
    lab.page.keyboard.press("Enter")
    expect(lab.page.get_by_role("menuitem", name="Roll Back to Here")).to_be_visible()
    lab.picture("context-menu")
    lab.page.keyboard.press("Escape")


def test_the_tab_key_reaches_all(lab: Lab):
    tree = lab.panel.get_by_role("tree", name=f"History of {NOTEBOOK}")
    tree.locator("[tabindex='0'][role=treeitem]").focus()
    lab.page.keyboard.press("Home")
    lab.page.locator("li[data-id=jp-vsandbox-sidebar]").focus()
    reached: list[str] = []
    while len(reached) < MOST_STOPS:
        lab.page.keyboard.press("Tab")
        found = lab.page.evaluate(
            """() => {
                const at = document.activeElement;
                const inside = at.closest('#jp-vsandbox-sidebar') !== null;
                return inside ? at.ariaLabel || at.title || at.innerText : '';
            }"""
        )
        if found:
            reached.append(found)
        elif reached:
            break
    assert [each for each in STOPS if not any(found.startswith(each) for found in reached)] == []
    # Of a tree and of a toolbar one is reached, and the others by arrow keys from there.
    assert len(reached) == len(STOPS)
    lab.panel.get_by_title("Keep the machine as it is").last.focus()
    lab.page.keyboard.press("ArrowRight")
    assert lab.page.evaluate("() => document.activeElement.title").startswith(
        "Put the machine back to a snap"
    )
    lab.page.keyboard.press("Enter")
    expect(lab.dialog()).to_contain_text("Roll back to")
    lab.picture("dialog-by-keys")
    lab.page.keyboard.press("Escape")
    expect(lab.dialog()).to_have_count(0)


def test_fits_the_left_and_a_narrow_place(lab: Lab):
    def switch() -> None:
        lab.page.locator("li[data-id=jp-vsandbox-sidebar]").click(button="right")
        lab.page.get_by_role("menuitem", name="Switch Sidebar Side").click()

    switch()
    left = lab.page.locator("#jp-left-stack #jp-vsandbox-sidebar")
    lab.show()
    expect(left.locator(".jp-VSandbox-machine")).to_be_visible()
    expect(lab.state()).to_have_text("stopped")
    lab.picture("left")
    switch()
    expect(left).to_have_count(0)
    lab.show()

    box = lab.panel.bounding_box() or {}
    lab.page.mouse.move(box["x"] - 1, 400)
    lab.page.mouse.down()
    lab.page.mouse.move(box["x"] + box["width"], 400, steps=4)
    lab.page.mouse.up()
    lab.page.set_viewport_size({"width": 900, "height": 600})
    lab.panel.hover()
    narrow = lab.panel.bounding_box() or {}
    assert narrow["width"] < NARROW_PIXELS
    lab.picture("narrow")
    too_wide = lab.page.evaluate(
        """() => {
            const panel = document.querySelector('#jp-vsandbox-sidebar');
            const end = panel.getBoundingClientRect().right;
            return [...panel.querySelectorAll('button, jp-button, .jp-VSandbox-section, [role=meter]')]
                .filter(each => each.checkVisibility() && each.getBoundingClientRect().right > end + 0.5)
                .map(each => each.title || each.className);
        }"""
    )
    assert too_wide == []
    lab.page.set_viewport_size({"width": 1440, "height": 900})


def test_says_that_the_server_is_gone(lab: Lab, server: Server):
    server.kill()
    expect(lab.panel.get_by_role("status").first).to_contain_text("The server does not answer")
    expect(lab.panel.locator(".jp-VSandbox-state:visible")).to_have_count(0)
    lab.picture("gone")
    server.start()
    expect(lab.state()).to_have_text("stopped")
    expect(lab.panel.get_by_text("The server does not answer")).to_have_count(0)
    lab.picture("back")


def _fill(settings: Settings, folder: Path) -> None:
    chance = random.Random(4)
    now = time.time()
    shape = Shape(512 * MIB, 1)
    with closing(Store(settings.database)) as store:
        first = _id(0)
        store.add(
            Sandbox(
                first,
                "python-3.11",
                "python-3.11-0",
                "qemu",
                State.STOPPED,
                shape,
                now - 9e5,
                notebook=str(folder / NOTEBOOK),
            )
        )
        forks = 6
        history: list[str] = [""]
        for number in range(SNAPSHOTS):
            parent = history[-1] if chance.random() < 0.95 else chance.choice(history[-40:])
            cause = chance.choice([Cause.ASKED, Cause.ASKED, Cause.PACKAGES, Cause.LONG_CELL, Cause.ROLLBACK])
            snapshot = Snapshot(
                id=_id(10_000 + number),
                sandbox=first,
                machine=first,
                parent=parent,
                name=f"{cause} {number}",
                note="the model that won" if number % 50 == 49 else "",
                cause=cause,
                created=now - (SNAPSHOTS - number) * 1700,
                memory=True,
                cells=True,
                size=chance.randrange(2 * MIB, 90 * MIB),
                pause=chance.uniform(0.02, 0.2),
            )
            store.add_snapshot(snapshot)
            history.append(snapshot.id)
        for number in range(1, SANDBOXES):
            fork = number <= forks
            store.add(
                Sandbox(
                    _id(number),
                    "python-3.11",
                    "python-3.11-0",
                    "qemu",
                    State.STOPPED,
                    shape,
                    now - number * 3600,
                    name=f"experiment {number}",
                    origin=first if fork else "",
                    snapshot=history[-number * 9] if fork else "",
                )
            )


def _id(number: int) -> str:
    return f"{number:012x}"
