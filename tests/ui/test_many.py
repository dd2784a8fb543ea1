"""The sidebar with many sandboxes and snapshots: how fast, how accessible, how quiet. No machine runs."""

from __future__ import annotations

import random
import statistics
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from jupyter_vsandbox.core.store import Store
from jupyter_vsandbox.domain.model import MIB, Cause, Sandbox, Shape, Snapshot, State
from jupyter_vsandbox.settings import Settings
from tests.ui.conftest import PICTURES, TOKEN, Lab, Server, furnish_lab

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from tests.conftest import Until

AXE = Path(__file__).parents[2] / "labextension" / "node_modules" / "axe-core" / "axe.min.js"
SANDBOXES = 200
SNAPSHOTS = 500
PAINT_MILLISECONDS = 300.0
QUIET_MILLISECONDS = 8000
NOTEBOOK = "many.ipynb"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, until: Until) -> Iterator[Server]:
    """A server whose store holds many records, and nothing else."""
    base = tmp_path_factory.mktemp("many")
    with pytest.MonkeyPatch.context() as environment:
        home = base / "home"
        environment.setenv("JUPYTER_VSANDBOX_HOME", str(home))
        for name in ("CONFIG", "DATA", "RUNTIME"):
            environment.setenv(f"JUPYTER_{name}_DIR", str(base / name.lower()))
        environment.setenv("IPYTHONDIR", str(base / "ipython"))
        furnish_lab()
        folder = base / "notebooks"
        folder.mkdir()
        PICTURES.mkdir(parents=True, exist_ok=True)
        server = Server(until, folder, PICTURES / "server-many.log")
        server.start()
        _fill(Settings(home=home), folder)
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def lab(browser: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A window with a notebook that has no kernel, and a stopped sandbox with a long history."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    lab = Lab(page, server, request.node.name.removeprefix("test_"))
    lab.write(NOTEBOOK, "1 + 1")
    _open(lab)
    lab.show()
    expect(lab.state()).to_have_text("stopped")
    try:
        yield lab
    finally:
        lab.picture("end")
        context.close()


def test_paints_fast(lab: Lab):
    lab.picture("many")
    tree = lab.panel.get_by_role("tree", name=f"History of {NOTEBOOK}")
    assert int(tree.get_by_role("treeitem").first.get_attribute("aria-setsize") or 0) > 100
    assert tree.get_by_role("treeitem").count() < 100
    _open(lab)
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
    lab.page.add_script_tag(path=AXE)
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        lab.page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme
        )
        light = "true" if theme.endswith("Light") else "false"
        expect(lab.page.locator(f"body[data-jp-theme-light={light}]")).to_be_attached()
        lab.picture(theme.split()[-1].lower())
        result = lab.page.evaluate("() => axe.run('#jp-vsandbox-sidebar', {resultTypes: ['violations']})")
        serious = [
            (each["impact"], each["id"], [node["html"][:160] for node in each["nodes"]][:3])
            for each in result["violations"]
        ]
        assert [each for each in serious if each[0] in {"serious", "critical"}] == []


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


def test_says_that_the_server_is_gone(lab: Lab, server: Server):
    server.kill()
    expect(lab.panel.get_by_role("status").first).to_contain_text("The server does not answer")
    expect(lab.panel.locator(".jp-VSandbox-state:visible")).to_have_count(0)
    lab.picture("gone")
    server.start()
    expect(lab.state()).to_have_text("stopped")
    expect(lab.panel.get_by_text("The server does not answer")).to_have_count(0)
    lab.picture("back")


def _open(lab: Lab) -> None:
    lab.page.goto(f"{lab.server.url}/lab/tree/{NOTEBOOK}?token={TOKEN}&reset")
    lab.page.locator(".jp-Dialog .jp-mod-reject").click()
    expect(lab.page.locator(".jp-VSandbox-status")).to_contain_text("stopped")


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
