"""What ``doctor`` says of good and of broken hosts."""

import asyncio
import json
import os
import platform

import pytest

from jupyter_vsandbox import __version__
from jupyter_vsandbox.core import doctor
from jupyter_vsandbox.domain.checks import Check, Status
from jupyter_vsandbox.domain.errors import NotFound, Unsupported
from jupyter_vsandbox.domain.model import GIB, Image, Shape
from jupyter_vsandbox.drivers import registry
from jupyter_vsandbox.drivers.qemu.checks import check_pagemap, checks
from jupyter_vsandbox.runtimes import bootstrap, build
from jupyter_vsandbox.settings import Settings

_QEMU = '#!/bin/sh\n[ "$1" = --version ] && { echo "QEMU emulator version 9.8.7"; exit; }\nexit 1\n'


class Driver:
    """A driver that finds what it is told to find."""

    def __init__(self, *found):
        self.found = list(found)

    async def checks(self):
        return self.found


@pytest.fixture
def driver(monkeypatch):
    driver = Driver(Check("QEMU", Status.OK, "9.8.7"))
    monkeypatch.setattr(registry, "get", lambda name, settings: driver)
    return driver


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A PATH with QEMU's programs and nothing else that matters."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("qemu-system-x86_64", "qemu-img"):
        (folder / name).write_text(_QEMU)
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def examine(settings):
    """Examine, and return the report with its checks by name."""
    report = asyncio.run(doctor.examine(settings))
    return report, {check.name: check for check in report.checks}


def test_a_good_host_is_ok_and_left_as_it_was(settings, driver):
    report, found = examine(settings)
    assert report.ok
    assert found["QEMU"].detail == "9.8.7"
    assert __version__ in found["versions"].detail
    assert platform.python_version() in found["versions"].detail
    assert "GiB available" in found["memory"].detail
    assert found["images"].status is Status.WARN
    assert not settings.home.exists()


def test_the_report_is_plain_json(settings, driver):
    driver.found.append(Check("accelerator", Status.WARN, "tcg", "Use KVM."))
    report, _ = examine(settings)
    document = json.loads(json.dumps(report.to_dict()))
    assert document["ok"] is True
    assert {"name": "accelerator", "status": "warn", "detail": "tcg", "mend": "Use KVM."} in document[
        "checks"
    ]


def test_what_the_driver_misses_makes_it_fail(settings, driver):
    driver.found.append(Check("qemu-img", Status.FAIL, "gone", "install it"))
    report, _ = examine(settings)
    assert not report.ok


def test_a_driver_that_is_not_installed_is_a_failed_check(settings, monkeypatch):
    def refuse(name, settings):
        raise NotFound("There is no driver 'qemu'.")

    monkeypatch.setattr(registry, "get", refuse)
    report, found = examine(settings)
    assert not report.ok
    assert found["driver qemu"].mend


@pytest.mark.parametrize("folder", ["", "images", "templates", "sandboxes", "runtimes"])
def test_a_file_where_a_folder_should_be(settings, driver, folder):
    target = settings.home / folder
    target.parent.mkdir(exist_ok=True)
    target.touch()
    report, found = examine(settings)
    assert not report.ok
    assert str(target) in found["home folder"].detail
    assert f"Move {target} away" in found["home folder"].mend


def test_a_file_above_the_home_folder(tmp_path, driver):
    (tmp_path / "file").touch()
    report, found = examine(Settings(home=tmp_path / "file" / "home"))
    assert not report.ok
    assert "JUPYTER_VSANDBOX_HOME" in found["home folder"].mend


def test_a_dangling_link_as_home(settings, driver):
    settings.home.symlink_to(settings.home.parent / "nowhere")
    report, _ = examine(settings)
    assert not report.ok


def test_a_home_that_cannot_be_written(settings, driver, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    report, found = examine(settings)
    assert not report.ok
    assert "may not write" in found["home folder"].detail


@pytest.mark.parametrize(
    ("free", "status"),
    [(GIB - 1, Status.FAIL), (GIB, Status.WARN), (5 * GIB - 1, Status.WARN), (5 * GIB, Status.OK)],
)
def test_disk_space_has_two_limits(settings, free, status):
    check = doctor.judge_disk(settings.home, free)
    assert check.status is status
    assert bool(check.mend) is (status is not Status.OK)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n", Status.OK),
        ("MemTotal: 8388608 kB\nMemAvailable: 1000000 kB\n", Status.WARN),
        ("MemTotal: 8388608 kB\n", Status.WARN),
        ("nonsense\n", Status.WARN),
    ],
)
def test_memory(tmp_path, text, status):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(text)
    assert doctor.check_memory(meminfo).status is status


def test_missing_build_tools_are_only_a_warning(settings, driver, monkeypatch):
    def refuse():
        raise Unsupported("Building an image needs mmdebstrap. Install with: sudo apt install mmdebstrap")

    monkeypatch.setattr(bootstrap, "require_tools", refuse)
    report, found = examine(settings)
    assert report.ok
    assert found["image building"].status is Status.WARN
    assert "sudo apt install mmdebstrap" in found["image building"].detail


def test_images_are_current_or_outdated(settings, driver, monkeypatch):
    image, gone = (
        Image(name, "0" * 64, "", Shape(GIB, 1), 0, 0.0, "") for name in ("python-3.11", "gone-1.0")
    )

    def find(runtime, _):
        if runtime == "gone-1.0":
            raise NotFound("There is no runtime 'gone-1.0'.")
        return image

    monkeypatch.setattr(build, "images", lambda _: [image, gone])
    monkeypatch.setattr(build, "find", find)
    _, found = examine(settings)
    assert found["image of python-3.11"].status is Status.OK
    assert found["image of gone-1.0"].status is Status.WARN
    assert "images" not in found


def test_a_broken_recipe_is_named(settings, driver):
    settings.user_recipes.mkdir(parents=True)
    (settings.user_recipes / "mine.toml").write_text("name = ")
    report, found = examine(settings)
    assert report.ok
    assert found["recipe mine.toml"].status is Status.WARN


def test_emulation_is_a_warning_that_tells_its_price(settings, programs):
    found = {
        check.name: check for check in asyncio.run(checks(Settings(home=settings.home, accelerator="tcg")))
    }
    assert found["QEMU"].detail == f"9.8.7 at {programs}/qemu-system-x86_64"
    assert found["qemu-img"].detail == f"{programs}/qemu-img"
    assert found["accelerator"].status is Status.WARN
    assert "ten times slower" in found["accelerator"].detail
    assert "not a security boundary" in found["accelerator"].detail


def test_no_qemu_fails_and_tells_the_command(settings, programs, monkeypatch):
    monkeypatch.setenv("PATH", str(programs / "empty"))
    found = {check.name: check for check in asyncio.run(checks(settings))}
    for name in ("QEMU", "qemu-img", "accelerator"):
        assert found[name].status is Status.FAIL
        assert "apt-get install qemu-system-x86 qemu-utils" in found[name].detail


def test_a_qemu_that_does_not_run_fails(settings, programs):
    (programs / "qemu-system-x86_64").write_text("#!/bin/sh\nexit 127\n")
    found = {
        check.name: check for check in asyncio.run(checks(Settings(home=settings.home, accelerator="tcg")))
    }
    assert found["QEMU"].status is Status.FAIL


def test_page_map_of_this_process():
    assert check_pagemap().status is Status.OK


def test_page_map_missing_or_empty(tmp_path):
    assert check_pagemap(tmp_path / "none").status is Status.WARN
    (tmp_path / "empty").touch()
    assert check_pagemap(tmp_path / "empty").status is Status.WARN
