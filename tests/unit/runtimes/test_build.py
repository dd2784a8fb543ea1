"""Building: an image is whole or not there at all, whatever happens."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from jupyter_vsandbox.domain.errors import Exhausted, InvalidRequest, NotFound, Permanent, Unsupported
from jupyter_vsandbox.domain.model import GIB, Shape
from jupyter_vsandbox.runtimes import bootstrap, build, payload
from jupyter_vsandbox.runtimes.recipe import Recipe
from jupyter_vsandbox.settings import Settings

from .conftest import MINIMAL, FakePrograms


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    """Settings with a folder of its own and a mirror."""
    return Settings(home=tmp_path / "home", mirror="https://example.org/debian")


def leftovers(settings: Settings) -> list[str]:
    return sorted(path.name for path in settings.images.glob(".build-*"))


def test_a_build_makes_an_image(here: Settings, tiny: Recipe, programs: FakePrograms) -> None:
    image = build.build(tiny, here)
    folder = Path(image.folder)
    assert folder == here.images / image.id
    assert sorted(path.name for path in folder.iterdir()) == [
        "disk.qcow2",
        "initrd.img",
        "manifest.json",
        "vmlinuz",
    ]
    assert image.digest == payload.digest(tiny, bootstrap.architecture())
    assert image.id == f"tiny-{image.digest[:12]}"
    assert image.shape == Shape(memory=GIB, vcpus=1)
    assert image.size > 8192
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["packages"]["system"] == ["contents of /tmp/vsandbox-build/system.txt"]
    assert manifest["inputs"]["recipe"]["base"]["suite"] == "bookworm"
    assert "example.org" not in (folder / "manifest.json").read_text()
    assert build.find(tiny, here) == image
    assert build.images(here) == [image]
    assert leftovers(here) == []
    assert here.images.stat().st_mode & 0o777 == 0o700


def test_building_again_finds_what_is_there(here: Settings, tiny: Recipe, programs: FakePrograms) -> None:
    image = build.build(tiny, here)
    commands = len(programs.commands)
    assert build.build(tiny, here) == image
    assert len(programs.commands) == commands


def test_progress_grows_to_one(here: Settings, tiny: Recipe, programs: FakePrograms) -> None:
    seen: list[tuple[str, float | None, str]] = []
    image = build.build(tiny, here, lambda *step: seen.append(step))
    fractions = [fraction for _, fraction, _ in seen if fraction is not None]
    assert fractions == sorted(fractions)
    assert seen[-1] == ("done", 1.0, f"{image.id} is ready.")
    assert [stage for stage in dict.fromkeys(stage for stage, _, _ in seen)] == [
        "check",
        "system",
        "disk",
        "done",
    ]


def test_find_says_how_to_build(here: Settings, tiny: Recipe, programs: FakePrograms) -> None:
    with pytest.raises(NotFound, match=r"no image yet.*jupyter vsandbox images build tiny"):
        build.find(tiny, here)
    old = build.build(tiny, here)
    changed = replace(tiny, machine=replace(tiny.machine, vcpus=2))
    with pytest.raises(NotFound, match=r"has changed.*jupyter vsandbox images build tiny"):
        build.find(changed, here)
    new = build.build(changed, here)
    assert {image.id for image in build.images(here)} == {old.id, new.id}
    assert build.find(changed, here).shape.vcpus == 2


def test_find_by_name_uses_the_standard_catalog(here: Settings, programs: FakePrograms) -> None:
    with pytest.raises(NotFound, match=r"no runtime 'tiny'.*python-3\.11"):
        build.find("tiny", here)
    here.user_recipes.mkdir(parents=True)
    (here.user_recipes / "tiny.toml").write_text(MINIMAL)
    with pytest.raises(NotFound, match="images build tiny"):
        build.find("tiny", here)


@pytest.mark.parametrize("program", ["mmdebstrap", "qemu-img"])
def test_a_failed_build_leaves_nothing_but_its_log(
    program: str, here: Settings, tiny: Recipe, programs: FakePrograms
) -> None:
    programs.failing[program] = ["E: Unable to locate package no-such"]
    with pytest.raises(InvalidRequest, match="'no-such'") as caught:
        build.build(tiny, here)
    log = here.home / "logs" / "build-tiny.log"
    assert str(log) in str(caught.value)
    assert "no-such" in log.read_text()
    assert leftovers(here) == []
    assert build.images(here) == []
    programs.failing.clear()
    assert build.build(tiny, here) == build.find(tiny, here)


def test_an_error_of_the_operating_system_is_ours(
    here: Settings, tiny: Recipe, programs: FakePrograms
) -> None:
    def fail(program: str) -> None:
        raise OSError(5, "Input/output error")

    programs.on_run = fail
    with pytest.raises(Permanent, match="Input/output error"):
        build.build(tiny, here)
    assert leftovers(here) == []


def test_too_little_space_is_told_before_anything_runs(
    here: Settings, tiny: Recipe, programs: FakePrograms, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10 * GIB, 9 * GIB, GIB)
    monkeypatch.setattr(build.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(Exhausted, match=r"needs 4 GiB .* 1\.0 GiB are free"):
        build.build(tiny, here)
    assert programs.commands == []
    assert leftovers(here) == []


def test_missing_programs_are_told_before_anything_runs(
    here: Settings, tiny: Recipe, programs: FakePrograms, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name, path=None: None)
    with pytest.raises(Unsupported, match=r"sudo apt install .*mmdebstrap"):
        build.build(tiny, here)
    assert programs.commands == []


@pytest.mark.parametrize("part", ["disk.qcow2", "vmlinuz", "initrd.img", "manifest.json"])
def test_an_image_without_one_of_its_parts_does_not_count(
    part: str, here: Settings, tiny: Recipe, programs: FakePrograms
) -> None:
    image = build.build(tiny, here)
    (Path(image.folder) / part).unlink()
    assert build.images(here) == []
    with pytest.raises(NotFound):
        build.find(tiny, here)
    assert build.build(tiny, here).id == image.id
    assert len(build.images(here)) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "runtime": "other"}'])
def test_a_manifest_that_says_something_else_does_not_count(
    text: str, here: Settings, tiny: Recipe, programs: FakePrograms
) -> None:
    manifest = Path(build.build(tiny, here).folder) / "manifest.json"
    manifest.chmod(0o600)
    manifest.write_text(text)
    assert build.images(here) == []


def test_an_image_is_removed(here: Settings, tiny: Recipe, programs: FakePrograms) -> None:
    image = build.build(tiny, here)
    assert build.get(image.id, here) == image
    build.remove(image.id, here)
    assert build.images(here) == []
    assert leftovers(here) == []
    with pytest.raises(NotFound, match="none at all"):
        build.remove(image.id, here)


def test_a_broken_image_can_be_removed(here: Settings, tiny: Recipe, programs: FakePrograms) -> None:
    image = build.build(tiny, here)
    (Path(image.folder) / "vmlinuz").unlink()
    build.remove(image.id, here)
    assert not Path(image.folder).exists()


@pytest.mark.parametrize("name", ["..", ".", "", "../x", "tiny", ".lock-tiny", "tiny-0123456789ab/.."])
def test_only_images_can_be_removed(name: str, here: Settings, tiny: Recipe, programs: FakePrograms) -> None:
    image = build.build(tiny, here)
    with pytest.raises(NotFound, match=image.id):
        build.remove(name, here)
    assert build.images(here) == [image]


def test_a_second_builder_waits_and_finds_it_done(
    here: Settings, tiny: Recipe, programs: FakePrograms
) -> None:
    building, waiting = threading.Event(), threading.Event()

    def on_run(program: str) -> None:
        building.set()
        assert waiting.wait(30)

    programs.on_run = on_run
    ids: list[str] = []
    first = threading.Thread(target=lambda: ids.append(build.build(tiny, here).id))
    first.start()
    assert building.wait(30)
    stages: list[str] = []

    def progress(stage: str, fraction: float | None, message: str) -> None:
        stages.append(stage)
        if stage == "wait":
            assert fraction is None
            waiting.set()

    second = build.build(tiny, here, progress)
    first.join(30)
    assert ids == [second.id]
    assert stages == ["wait", "done"]
    assert len([command for command in programs.commands if "mmdebstrap" in command]) == 1


def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_are_not(
    here: Settings, tiny: Recipe, programs: FakePrograms
) -> None:
    here.images.mkdir(parents=True)
    for name in (".build-tiny+01", ".build-dead+02", ".build-alive-x+03"):
        (here.images / name / "tmp").mkdir(parents=True)
    with build._lock("alive-x", here, build.silent):
        build.build(tiny, here)
        assert leftovers(here) == [".build-alive-x+03"]
    build.build(replace(tiny, name="other"), here)
    assert leftovers(here) == []


CHILD = """
import signal
import sys
from pathlib import Path
from jupyter_vsandbox.runtimes import bootstrap, build, hostconfig, recipe
from jupyter_vsandbox.settings import Settings

def block(command, log, watch, *, env, pass_fds=()):
    print("building", flush=True)
    sys.stdin.read()

# A shell starts what it puts in the background with SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
build.run = block
bootstrap.require_tools = lambda: None
hostconfig._output = lambda command, environ: ""
settings = Settings(home=Path(sys.argv[1]), mirror="https://example.org/debian")
build.build(recipe.parse(sys.argv[2], "tiny.toml"), settings)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_builder_leaves_no_image_and_does_not_block_the_next(
    number: signal.Signals, here: Settings, tiny: Recipe, programs: FakePrograms
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(here.home), MINIMAL],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"building\n"
        assert len(leftovers(here)) == 1
        child.send_signal(number)
        assert child.wait(30) != 0
    assert len(leftovers(here)) == (1 if number == signal.SIGKILL else 0)
    assert build.images(here) == []
    image = build.build(tiny, here)
    assert build.images(here) == [image]
    assert leftovers(here) == []


def test_sigterm_is_as_before_after_a_build(here: Settings, tiny: Recipe, programs: FakePrograms) -> None:
    during: list[object] = []
    programs.on_run = lambda program: during.append(signal.getsignal(signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    build.build(tiny, here)
    assert signal.getsignal(signal.SIGTERM) is before
    assert during[0] is not signal.SIG_DFL
