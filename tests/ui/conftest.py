"""JupyterLab in a browser, with machines behind its notebooks."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from playwright.sync_api import expect, sync_playwright

from jupyter_vsandbox.domain.model import State
from jupyter_vsandbox.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Locator, Page

    from tests.conftest import Home, NewHome, Until

RUNTIME = "python-3.11"
KERNEL = "vsandbox-python-3.11"
PICTURES = Path(__file__).parents[2] / "test-reports" / "ui"
AXE = Path(__file__).parents[2] / "labextension" / "node_modules" / "axe-core" / "axe.min.js"
START_SECONDS = 60.0
PATIENCE_MILLISECONDS = 120_000
"""Guests may be emulated, and the host busy with other tests."""
TOKEN = "for-this-test-only"
CHROMIUM = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

expect.set_options(timeout=PATIENCE_MILLISECONDS)


@dataclass
class Server:
    """A ``jupyter lab`` in a process of its own, at an address that it keeps."""

    until: Until
    folder: Path
    log: Path
    port: int = field(default_factory=lambda: _free_port())
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [
            sys.executable,
            *("-m", "jupyterlab", "--no-browser", "--allow-root"),
            f"--port={self.port}",
            "--ServerApp.port_retries=0",
            f"--IdentityProvider.token={TOKEN}",
            f"--ServerApp.root_dir={self.folder}",
        ]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        self.until(self._answers, START_SECONDS)

    def kill(self) -> None:
        """End it without a word to anybody."""
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """End it as a user does."""
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{self.url}/api", timeout=5).close()
            return True
        return False


@dataclass
class Lab:
    """JupyterLab as it is in the browser."""

    page: Page
    server: Server
    name: str = ""
    pictures: int = 0
    errors: list[str] = field(default_factory=list)

    @property
    def panel(self) -> Locator:
        """The sidebar."""
        return self.page.locator("#jp-vsandbox-sidebar")

    @property
    def machine(self) -> Locator:
        """What the sidebar tells of the notebook in front."""
        return self.panel.locator(".jp-VSandbox-machine")

    @property
    def notebook(self) -> Locator:
        """The notebook in front."""
        return self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)").last

    def picture(self, name: str) -> None:
        """Keep what is seen."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.pictures += 1
        self.page.screenshot(path=PICTURES / f"{self.name}-{self.pictures:02}-{name}.png")

    def write(self, name: str, *sources: str, kernel: str = KERNEL) -> None:
        """Put a notebook into the server's folder."""
        notebook = nbformat.v4.new_notebook(
            metadata={
                "kernelspec": {
                    "name": kernel,
                    "display_name": "Python 3.11 (sandbox)",
                    "language": "python",
                }
            },
            cells=[nbformat.v4.new_code_cell(source) for source in sources],
        )
        nbformat.write(notebook, self.server.folder / name)

    def go(self, path: str = "") -> None:
        """Load JupyterLab anew, with a notebook in place of all that was open."""
        place = f"lab/tree/{path}" if path else "lab"
        self.page.goto(f"{self.server.url}/{place}?token={TOKEN}&reset")
        self.show()

    def open(self, path: str) -> None:
        """Have a notebook in front, and nothing else open, and its machine running."""
        if "/lab" not in self.page.url:
            self.go(path)
        elif self.evaluate("shell => shell.currentWidget?.context?.path") != path:
            self.page.evaluate(
                """async path => {
                    const {commands, serviceManager} = window.jupyterapp;
                    await commands.execute('docmanager:save-all');
                    await commands.execute('application:close-all');
                    await serviceManager.sessions.shutdownAll();
                    await commands.execute('docmanager:open', {path});
                }""",
                path,
            )
        expect(self.state()).to_have_text("running")
        self.idle()

    def evaluate(self, function: str) -> Any:
        """What a function of JupyterLab's shell returns."""
        return self.page.evaluate(f"() => ({function})(window.jupyterapp.shell)")

    def close(self, view: Locator) -> None:
        """Close a view of the main area, which is in front."""
        self.evaluate("shell => shell.currentWidget.close()")
        expect(view).to_have_count(0)

    def idle(self) -> None:
        """Wait until the kernel of the notebook in front answers."""
        kernel = self.page.locator("#jp-main-statusbar [title^='Change kernel']")
        expect(kernel).to_contain_text("Idle")

    def show(self) -> None:
        """Show the sidebar."""
        tab = self.page.locator("li[data-id=jp-vsandbox-sidebar]")
        expect(tab).to_be_visible()
        if tab.get_attribute("aria-selected") != "true":
            tab.click()
        expect(self.panel).to_be_visible()

    def state(self) -> Locator:
        """What state the panel shows for the notebook in front."""
        return self.machine.locator(".jp-VSandbox-machineTitle .jp-VSandbox-state")

    def run(self, source: str, notebook: Locator | None = None) -> Locator:
        """Run `source` in a new last cell and return where its output is."""
        panel = notebook or self.notebook
        cells = panel.locator(".jp-CodeCell")
        last = cells.last
        last.locator(".cm-content").click()
        if (last.locator(".cm-content").inner_text()).strip():
            self.page.keyboard.press("Escape")
            self.page.keyboard.press("b")
            last = cells.last
            last.locator(".cm-content").click()
        self.page.keyboard.insert_text(source)
        self.page.keyboard.press("Control+Enter")
        expect(last.locator(".jp-InputPrompt")).to_have_text(re.compile(r"\[\d+\]:"))
        return last.locator(".jp-OutputArea-output")

    def dialog(self) -> Locator:
        """The dialog that is open."""
        return self.page.locator(".jp-Dialog")

    def accept(self, text: str | None = None) -> None:
        """Say yes to the dialog that is open, once `text` is in its field."""
        if text is not None:
            self.dialog().locator("input").fill(text)
        self.dialog().locator(".jp-mod-accept").click()
        expect(self.dialog()).to_have_count(0)

    def told(self, text: str) -> Locator:
        """The notification that says something."""
        return self.page.locator(".Toastify__toast").filter(has_text=text)

    def row(self, name: str) -> Locator:
        """The row of the history with that name."""
        return self._rows("snapshot", name)

    def sandbox(self, name: str) -> Locator:
        """The row of all sandboxes with that name."""
        return self._rows("sandbox", name)

    def _rows(self, kind: str, name: str) -> Locator:
        name_of = self.page.locator(".jp-VSandbox-rowName > span:first-child")
        named = name_of.filter(has_text=re.compile(f"^{re.escape(name)}$"))
        return self.panel.locator(f".jp-VSandbox-row[data-kind={kind}]").filter(has=named)

    def snapshot(self, name: str) -> None:
        """Take a snapshot by the button in the section's title."""
        self.tool("snapshot")
        self.accept(name)
        expect(self.row(name)).to_be_visible()

    def on_row(self, row: Locator, button: str) -> None:
        """Press a button that a row shows while it is pointed at."""
        row.hover()
        row.get_by_role("button", name=button).click()

    def context_menu(self, row: Locator, item: str) -> None:
        """Choose from the context menu of a row."""
        row.click(button="right")
        self.page.get_by_role("menuitem", name=item).click()

    def tool(self, name: str) -> None:
        """Press a button in the title of a section."""
        self.panel.locator(f".lm-AccordionPanel-title [data-jp-item-name={name}] jp-button").click()

    def button(self, name: str) -> Locator:
        """A button below the meters."""
        return self.machine.get_by_role("button", name=name)

    def serious(self, part: str) -> list[tuple[str, str, list[str]]]:
        """What axe-core finds in a part of the page that keeps people from using it."""
        if not self.page.evaluate("() => 'axe' in window"):
            self.page.add_script_tag(path=AXE)
        found = self.page.evaluate("part => axe.run(part, {resultTypes: ['violations']})", part)
        return [
            (each["impact"], each["id"], [node["html"][:160] for node in each["nodes"]][:3])
            for each in found["violations"]
            if each["impact"] in {"serious", "critical"}
        ]


@pytest.fixture(autouse=True)
def jp_asyncio_loop() -> None:
    """Instead of pytest-jupyter's: the browser's driver has a running loop in this thread."""


@pytest.fixture(autouse=True)
def jp_server_cleanup() -> None:
    """Instead of pytest-jupyter's: no server runs in this process."""


@pytest.fixture(scope="module")
def lab_home(new_home: NewHome) -> Iterator[Home]:
    """The home of a module's machines."""
    with new_home() as home:
        furnish_lab()
        yield home
        home.sweep()
        home.remove(*State)  # those of notebooks wait for somebody to come back


@pytest.fixture(scope="module")
def server(
    lab_home: Home, until: Until, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Server]:
    """A running ``jupyter lab``."""
    with serve(tmp_path_factory.mktemp("notebooks"), until, request.path.stem) as server:
        yield server
    # Those of a server that was killed have nobody who lets them go.
    lab_home.remove(*State)


@contextlib.contextmanager
def serve(folder: Path, until: Until, name: str) -> Iterator[Server]:
    """A running ``jupyter lab`` whose notebooks are in `folder`, and whose log is named after `name`."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    server = Server(until, folder, PICTURES / f"server-{name}.log")
    server.start()
    try:
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def bare_home(base: Path) -> Iterator[Settings]:
    """A home in the environment for the length of a block, in which no machine can run."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("JUPYTER_VSANDBOX_HOME", str(base / "home"))
        for name in ("CONFIG", "DATA", "RUNTIME"):
            environment.setenv(f"JUPYTER_{name}_DIR", str(base / name.lower()))
        environment.setenv("IPYTHONDIR", str(base / "ipython"))
        furnish_lab()
        (base / "notebooks").mkdir()
        yield Settings(home=base / "home")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium: the browsers that playwright brings are not needed."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        pytest.fail("There is no chromium; `make browser` installs it.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def lab(browser: Browser, server: Server) -> Iterator[Lab]:
    """JupyterLab in a window that the tests of a module share; `open` begins anew in it."""
    with window(browser, server) as lab:
        lab.go()
        yield lab


@contextlib.contextmanager
def window(browser: Browser, server: Server) -> Iterator[Lab]:
    """A window of its own, with nothing in it."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MILLISECONDS)
    page.set_default_navigation_timeout(PATIENCE_MILLISECONDS)
    lab = Lab(page, server)
    page.on("dialog", lambda dialog: dialog.accept())  # that a notebook is not saved
    page.on("pageerror", lambda error: lab.errors.append(f"{error}\n{error.stack}"))
    try:
        yield lab
    finally:
        context.close()


@pytest.fixture(autouse=True)
def witness(lab: Lab, request: pytest.FixtureRequest) -> Iterator[None]:
    """Pictures of a test are named after it, the last one shows its end; no script may have failed."""
    lab.name = request.node.name.removeprefix("test_")
    lab.pictures = 0
    lab.errors.clear()
    yield
    lab.picture("end")
    assert lab.errors == []


def furnish_lab() -> None:
    """Configure JupyterLab: no news, which are fetched from elsewhere, and an object to reach it by."""
    pages = {
        "disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True},
        "exposeAppInBrowser": True,
    }
    config = Path(os.environ["JUPYTER_CONFIG_DIR"]) / "labconfig" / "page_config.json"
    config.parent.mkdir(parents=True)
    config.write_text(json.dumps(pages))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
