"""What a user does with the sidebar, in a real browser and with real machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from tests.ui.conftest import Lab

pytestmark = pytest.mark.machine


def test_travel(lab: Lab):
    lab.write("travel.ipynb", "import sys")
    lab.open("travel.ipynb")
    lab.picture("opened")

    lab.run("x = 'old'")
    lab.snapshot("before")
    lab.picture("snapshot")
    lab.run("x = 'new'")
    lab.snapshot("after")

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
