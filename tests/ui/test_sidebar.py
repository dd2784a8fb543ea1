"""What a user does with the sidebar, in a real browser and with real machines."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from tests.conftest import Home
    from tests.ui.conftest import Lab, Server

pytestmark = pytest.mark.machine

LONG = 240_000
"""Milliseconds; a copy of the machine is started and asked, or the notebook is run again."""


def test_travel(lab: Lab):
    lab.write("travel.ipynb", "import sys")
    lab.open("travel.ipynb")
    lab.picture("opened")
    lab.run("x = 'old'")
    lab.snapshot("before")
    lab.picture("snapshot")
    lab.run("x = 'new'")
    lab.snapshot("after")

    lab.row("before").hover()
    lab.row("before").get_by_role("button", name="Roll back to").click()
    expect(lab.dialog()).to_contain_text("Nothing is lost for good")
    lab.picture("rollback-dialog")
    lab.page.keyboard.press("Escape")
    expect(lab.dialog()).to_have_count(0)

    lab.row("before").get_by_role("button", name="Roll back to").click()
    lab.accept()
    expect(lab.page.get_by_text("is back at “before”")).to_be_visible()
    lab.picture("rolled-back")
    expect(lab.run("print(x)")).to_have_text("old")
    lab.picture("old-value")


def test_compare(lab: Lab):
    lab.write("compare.ipynb", "import sys")
    lab.open("compare.ipynb")
    lab.run("x = 'old'")
    lab.snapshot("before")
    lab.run("x = 'new'")
    lab.row("before").hover()
    lab.row("before").get_by_role("button", name="What changed since").click()
    table = lab.page.get_by_role("table", name="Variables")
    expect(table.get_by_role("row").filter(has_text="x")).to_contain_text("changed", timeout=LONG)
    lab.picture("diff")


def test_fork(lab: Lab):
    lab.write("work.ipynb", "import sys")
    lab.open("work.ipynb")
    lab.run("y = 41")
    lab.tool("fork")
    fork = lab.page.locator(".jp-NotebookPanel").nth(1)
    expect(fork).to_be_visible()
    lab.picture("beside")
    expect(lab.machine).to_contain_text("fork of")
    lab.idle()
    expect(lab.run("y += 1; print(y)", fork)).to_have_text("42")
    first = lab.page.locator(".jp-NotebookPanel").nth(0)
    expect(lab.run("print(y)", first)).to_have_text("41")
    lab.picture("both-go-on")


def test_hibernate(lab: Lab):
    lab.write("sleep.ipynb", "import sys")
    lab.open("sleep.ipynb")
    lab.run("z = 7")
    lab.button("Hibernate").click()
    expect(lab.state()).to_have_text("hibernated")
    lab.picture("hibernated")
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
    lab.button("Try an Upgrade").click()
    lab.dialog().locator("input").fill("echo upgrading; touch /home/jovyan/new")
    lab.accept()
    trial = lab.page.locator(".jp-VSandbox-trial")
    lab.picture("trying")
    expect(trial.get_by_role("button", name="Keep")).to_be_enabled(timeout=LONG)
    expect(trial.get_by_role("group", name="Before")).to_contain_text("False")
    expect(trial.get_by_role("group", name="After")).to_contain_text("True")
    lab.picture("tried")
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
    expect(lab.state()).to_have_text("running")
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
    lab.open("server.ipynb")
    expect(lab.run("print(v)")).to_have_text("3")
    lab.picture("variable-still-there")
