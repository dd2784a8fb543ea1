"""What a user does with the sidebar, in a real browser and with real machines.

Tests share one window. Those of ``work.ipynb`` share its machine, too, in the state in which the one
before leaves it: each looks only at what it has done itself.
"""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.ui.conftest import TOKEN

if TYPE_CHECKING:
    from tests.conftest import Home
    from tests.ui.conftest import Lab, Server

pytestmark = pytest.mark.machine

LONG = 240_000
"""Milliseconds; a copy of the machine is started and asked, or the notebook is run again."""
SETTLED_MILLISECONDS = 5000
"""Longer than a wake-up takes."""
LOUD = {"error", "warning"}
WORK = "work.ipynb"
PACKAGE = "vega_datasets"
HAS_PACKAGE = f"import importlib.util; print(importlib.util.find_spec('{PACKAGE}') is not None)"


@pytest.fixture
def work(lab: Lab) -> Lab:
    """The window with ``work.ipynb`` in front."""
    if not (lab.server.folder / WORK).exists():
        lab.write(WORK, "import sys")
    lab.open(WORK)
    return lab


def test_travel(lab: Lab):
    card = lab.page.locator(".jp-LauncherCard[data-category=Notebook][title='Python 3.11 (sandbox)']")
    expect(card).to_be_visible()
    lab.picture("launcher")
    card.click()
    expect(lab.state()).to_have_text("running")
    lab.idle()
    lab.run("x = 'old'")
    lab.snapshot("before")
    lab.picture("snapshot")
    lab.run("x = 'new'")
    lab.run(f"%pip uninstall -y -q {PACKAGE}")
    # Taken by itself, before the packages changed.
    expect(lab.row("before-packages-1")).to_be_visible()
    expect(lab.run(HAS_PACKAGE)).to_have_text("False")
    lab.snapshot("after")

    lab.on_row(lab.row("before"), "What changed since")
    diff = lab.page.locator(".jp-VSandbox-diff")
    variables, packages = (diff.get_by_role("table", name=name) for name in ("Variables", "Packages"))
    expect(variables.get_by_role("row").filter(has_text="x")).to_contain_text("changed", timeout=LONG)
    expect(packages.get_by_role("row").filter(has_text="vega")).to_contain_text("removed")
    lab.picture("diff")
    assert lab.serious(".jp-VSandbox-diff") == []
    lab.close(diff)

    lab.on_row(lab.row("before"), "Roll back to")
    expect(lab.dialog()).to_contain_text("Nothing is lost for good")
    lab.picture("rollback-dialog")
    lab.page.keyboard.press("Escape")
    expect(lab.dialog()).to_have_count(0)
    lab.on_row(lab.row("before"), "Roll back to")
    lab.accept()
    expect(lab.told("is back at “before”")).to_be_visible()
    lab.picture("rolled-back")
    expect(lab.run("print(x)")).to_have_text("old")
    expect(lab.run(HAS_PACKAGE)).to_have_text("True")
    lab.picture("old-value")


def test_cells_go_back_and_forth(work: Lab):
    work.run("kept = 1")
    work.snapshot("with-cells")
    work.run("thought_better_of = 2")
    cells = work.notebook.locator(".jp-CodeCell .cm-content")
    expect(cells.last).to_have_text("thought_better_of = 2")

    work.on_row(work.row("with-cells"), "Roll back to")
    work.dialog().get_by_text("The cells of the notebook, too").click()
    work.picture("dialog")
    work.accept()
    expect(cells.last).to_have_text("kept = 1")
    work.picture("cells-are-back")
    expect(work.run("print('thought_better_of' in globals())")).to_have_text("False")
    work.told("is back at “with-cells”").get_by_role("button", name="Undo").click()
    expect(cells.last).to_have_text("thought_better_of = 2")
    expect(work.run("print(thought_better_of)")).to_have_text("2")
    work.picture("undone")


def test_names_and_notes(work: Lab):
    work.snapshot("mistyped")
    work.context_menu(work.row("mistyped"), "Rename…")
    work.accept("well named")
    expect(work.row("mistyped")).to_have_count(0)
    work.context_menu(work.row("well named"), "Annotate…")
    work.accept("the model that won")
    expect(work.row("well named").locator(".jp-VSandbox-note")).to_have_text("the model that won")
    work.picture("annotated")
    work.context_menu(work.sandbox(WORK), "Rename Sandbox…")
    work.accept("my experiment")
    expect(work.sandbox("my experiment")).to_contain_text(WORK)
    expect(work.machine).to_contain_text("my experiment")
    work.context_menu(work.sandbox("my experiment"), "Rename Sandbox…")
    work.accept("")
    expect(work.sandbox(WORK)).to_be_visible()

    work.context_menu(work.row("well named"), "Delete…")
    expect(work.dialog()).to_contain_text("removed for good")
    work.accept()
    expect(work.row("well named")).to_have_count(0)


def test_prune_and_reset(work: Lab):
    work.run("pruned = 1")
    work.snapshot("asked for")
    work.button("Reset").click()
    expect(work.dialog()).to_contain_text("clean image of python-3.11")
    work.picture("reset-dialog")
    work.accept()
    expect(work.state()).to_have_text("resetting…")
    expect(work.state()).to_have_text("running")
    expect(work.run("print('pruned' in globals())")).to_have_text("False")

    automatic = work.panel.locator("#jp-vsandbox-history").locator(".jp-mod-automatic, .jp-VSandbox-fold")
    expect(automatic.first).to_be_visible()
    work.context_menu(work.sandbox(WORK), "Prune History…")
    expect(work.dialog()).to_contain_text(re.compile(r"which frees up to [\d.]+ [KMG]?B"))
    work.picture("prune-dialog")
    work.accept()
    expect(automatic).to_have_count(0)
    expect(work.row("asked for")).to_be_visible()
    work.picture("pruned")


def test_fork_and_promote(work: Lab):
    work.run("y = 41")
    work.tool("fork")
    fork = work.page.locator(".jp-NotebookPanel").nth(1)
    expect(fork).to_be_visible()
    work.picture("beside")
    expect(work.machine).to_contain_text("fork of")
    work.idle()
    expect(work.run("y += 1; print(y)", fork)).to_have_text("42")
    first = work.page.locator(".jp-NotebookPanel").nth(0)
    expect(work.run("print(y)", first)).to_have_text("41")
    work.picture("both-go-on")

    fork.locator(".cm-content").last.click()
    work.button("Promote").click()
    expect(work.dialog()).to_contain_text(f"{WORK} goes on with the machine of this fork")
    work.dialog().get_by_role("checkbox").check()
    work.accept()
    expect(work.sandbox("work-fork.ipynb")).to_have_count(0)
    expect(work.page.locator(".jp-NotebookPanel")).to_have_count(1)
    assert not (work.server.folder / "work-fork.ipynb").exists()
    first.locator(".cm-content").last.click()
    expect(work.state()).to_have_text("running")
    expect(work.run("print(y)", first)).to_have_text("42")
    work.picture("promoted")


def test_stop_and_delete(work: Lab):
    work.on_row(work.sandbox(WORK), "Stop")
    expect(work.dialog()).to_contain_text("the variables in its memory do not")
    work.accept()
    expect(work.state()).to_have_text("stopped")
    # Its kernel ended with it: Jupyter would start that anew.
    kernel = work.page.locator("#jp-main-statusbar [title^='Change kernel']")
    expect(kernel).to_contain_text(re.compile("No Kernel|Disconnected"))
    expect(work.machine.get_by_role("meter", name="Memory")).to_have_count(0)
    expect(work.machine.get_by_role("meter", name="Disk")).to_be_visible()
    work.picture("stopped")
    work.on_row(work.sandbox(WORK), "Delete")
    expect(work.dialog()).to_contain_text(re.compile(r"its disk and its \d+ snapshots? are removed for good"))
    work.picture("delete-dialog")
    work.accept()
    expect(work.sandbox(WORK)).to_have_count(0)


def test_hibernate(lab: Lab):
    lab.write("sleep.ipynb", "import sys")
    lab.open("sleep.ipynb")
    lab.run("z = 7")
    lab.button("Hibernate").click()
    expect(lab.state()).to_have_text("hibernated")
    expect(lab.machine.get_by_role("meter", name="Memory")).to_have_count(0)
    expect(lab.machine.get_by_role("meter", name="Disk")).to_be_visible()
    lab.picture("hibernated")

    # A page that is opened wakes nothing.
    lab.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save-all')")
    lab.page.reload()
    expect(lab.state()).to_have_text("hibernated")
    lab.idle()
    states: list[str] = []
    lab.page.expose_function("told", lambda text: states.append(text))
    lab.page.evaluate(
        """() => {
            const title = document.querySelector('.jp-VSandbox-machineTitle');
            new MutationObserver(() => window.told(title.innerText))
                .observe(title, {subtree: true, childList: true, characterData: true});
        }"""
    )
    lab.page.wait_for_timeout(SETTLED_MILLISECONDS)
    assert states == []
    expect(lab.state()).to_have_text("hibernated")
    lab.picture("still-hibernated")

    lab.button("Wake").click()
    expect(lab.state()).to_have_text("running")
    expect(lab.run("print(z)")).to_have_text("7")
    lab.picture("awake")


def test_try_an_upgrade(lab: Lab):
    lab.write("try.ipynb", "import os; print(os.path.exists('/home/jovyan/new'))")
    lab.open("try.ipynb")
    lab.notebook.locator(".cm-content").first.click()
    lab.page.keyboard.press("Control+Enter")
    expect(lab.notebook.locator(".jp-OutputArea-output").first).to_have_text("False")
    trial = lab.page.locator(".jp-VSandbox-trial")

    lab.button("Try an Upgrade").click()
    lab.accept("echo it does not work; exit 3")
    discard = trial.get_by_role("button", name="Discard")
    expect(discard).to_be_enabled(timeout=LONG)
    expect(trial).to_contain_text("exit code 3")
    expect(trial.get_by_role("log")).to_contain_text("it does not work")
    assert lab.serious(".jp-VSandbox-trial") == []
    lab.picture("failed")
    discard.click()
    expect(trial).to_contain_text("nothing is left of the trial")
    expect(lab.sandbox("try-fork.ipynb")).to_have_count(0)
    lab.close(trial)

    lab.button("Try an Upgrade").click()
    lab.accept("echo upgrading; touch /home/jovyan/new")
    lab.picture("trying")
    expect(trial.get_by_role("button", name="Keep")).to_be_enabled(timeout=LONG)
    expect(trial.get_by_role("group", name="Before")).to_contain_text("False")
    expect(trial.get_by_role("group", name="After")).to_contain_text("True")
    lab.picture("tried")
    assert lab.serious(".jp-VSandbox-trial") == []
    trial.get_by_role("button", name="Keep").click()
    expect(trial).to_contain_text("Kept")
    expect(lab.page.locator(".jp-NotebookPanel .jp-OutputArea-output").first).to_have_text("True")
    lab.picture("kept")


def test_qemu_is_killed(lab: Lab, lab_home: Home):
    lab.write("crash.ipynb", "import sys")
    lab.open("crash.ipynb")
    lab.run("w = 1")
    record = next(each for each in lab_home.records() if each.notebook.endswith("crash.ipynb"))
    pid = int((lab_home.settings.sandboxes / record.id / "pid").read_text())
    os.kill(pid, signal.SIGKILL)
    expect(lab.machine.filter(has_text="running")).to_have_count(0)
    lab.picture("killed")
    # Jupyter restarts the kernel by itself, from the disk that was left.
    expect(lab.dialog()).to_contain_text("It will restart automatically")
    lab.accept()
    expect(lab.state()).to_have_text("running")
    lab.idle()
    expect(lab.run("print('w' in globals())")).to_have_text("False")
    lab.picture("recovered")


def test_server_is_restarted(lab: Lab, server: Server):
    lab.write("server.ipynb", "import sys")
    lab.open("server.ipynb")
    lab.run("v = 3")
    server.kill()
    expect(lab.panel.get_by_text("The server does not answer")).to_be_visible()
    lab.picture("server-gone")
    server.start()
    expect(lab.panel.get_by_text("The server does not answer")).to_have_count(0)
    lab.picture("server-back")
    lab.go("server.ipynb")
    lab.open("server.ipynb")
    expect(lab.run("print(v)")).to_have_text("3")
    lab.picture("variable-still-there")


def test_in_notebook_7(lab: Lab):
    lab.write("seven.ipynb", "x = 'old'", "x = 'new'", "print(x)")
    said: list[str] = []
    lab.page.on("console", lambda line: said.append(line.text) if line.type in LOUD else None)
    lab.page.goto(f"{lab.server.url}/notebooks/seven.ipynb?token={TOKEN}")
    lab.page.get_by_role("menuitem", name="Kernel").click()
    lab.page.locator(".lm-Menu-item[data-type=submenu]").filter(has_text="Sandbox").click()
    lab.page.get_by_role("menuitem", name="Show the Sandbox Panel").click()
    expect(lab.state()).to_have_text("running")
    expect(lab.page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")).to_be_visible()
    run = lab.page.get_by_role("button", name="Run this cell and advance")
    prompts = lab.page.locator(".jp-CodeCell .jp-InputPrompt")
    run.click()
    expect(prompts.nth(0)).to_have_text("[1]:")
    lab.snapshot("before")
    run.click()
    expect(prompts.nth(1)).to_have_text("[2]:")
    lab.on_row(lab.row("before"), "Roll back to")
    lab.accept()
    expect(lab.told("is back at “before”")).to_be_visible()
    run.click()
    expect(lab.page.locator(".jp-OutputArea-output").first).to_have_text("old")
    lab.picture("old-value")
    lab.on_row(lab.row("before"), "What changed since")
    diff = lab.page.locator(".jp-VSandbox-diff")
    expect(diff.get_by_role("heading", name="Variables")).to_be_visible(timeout=LONG)
    lab.picture("diff")
    with lab.page.context.expect_page() as opened:
        lab.tool("fork")
    expect(opened.value.locator(".jp-CodeCell").first).to_be_visible()
    opened.value.close()
    lab.page.goto(f"{lab.server.url}/tree?token={TOKEN}")
    expect(lab.page.locator(".jp-DirListing-item").filter(has_text="seven-fork.ipynb")).to_be_visible()
    lab.picture("tree")
    assert [line for line in said if "vsandbox" in line.lower()] == []
    # Notebook 7.6 fails in scripts of its own, with or without the extension.
    lab.errors[:] = [error for error in lab.errors if "jupyter-vsandbox" in error]
