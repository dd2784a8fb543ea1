"""The command line: exit codes, what goes to which stream, and the JSON."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from jupyter_vsandbox import __version__, cli, config, render
from jupyter_vsandbox.core import doctor, owner
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain import errors
from jupyter_vsandbox.domain.advice import Advice
from jupyter_vsandbox.domain.checks import Check, Status
from jupyter_vsandbox.domain.model import (
    GIB,
    MIB,
    Cause,
    Image,
    LinkKeys,
    Sandbox,
    Shape,
    Snapshot,
    State,
    Usage,
)
from jupyter_vsandbox.drivers import registry
from jupyter_vsandbox.kernel import specs
from jupyter_vsandbox.runtimes import build

SECRET = "Z" * 40
IMAGE = Image("python-3.11", "ab" * 32, "/images/x", Shape(GIB, 2), 700 * MIB, 1_700_000_000.0, "quiet")
SANDBOX = Sandbox(
    id="aaaa00000001",
    runtime="python-3.11",
    image=IMAGE.id,
    driver="qemu",
    state=State.RUNNING,
    shape=Shape(GIB, 2),
    created=1_700_000_000.0,
    kernel_id="k",
    notebook="work/\x1b[31mplot.ipynb",
    owner=owner.this_process(),
    keys=LinkKeys(SECRET, SECRET, SECRET, SECRET),
)


class Driver:
    """A driver whose machines do as they are told."""

    advice = Advice()

    def __init__(self):
        self.deleted = []
        self.without_templates = []
        self.broken = None
        self.full = ""

    async def connect(self):
        pass

    def usage(self, machine_id):
        return Usage(memory=40 * MIB, disk=3 * MIB, cpu=1.5)

    def alive(self, machine_id):
        return True

    async def stop(self, machine_id, grace):
        if machine_id == self.broken:
            raise errors.Permanent(f"Sandbox {machine_id} does not end.")

    async def delete(self, machine_id):
        self.deleted.append(machine_id)

    def machines(self):
        return set()

    def paused(self, machine_id):
        return False

    async def resume(self, machine_id):
        pass

    async def stalled(self, machine_id):
        return self.full

    def debris(self):
        return set()

    async def sweep(self, debris, snapshots):
        pass

    async def remove_templates(self, image_id):
        self.without_templates.append(image_id)


@pytest.fixture
def settings(settings, monkeypatch):
    """The test's own settings, also for the command line."""
    monkeypatch.setattr(config, "load_settings", lambda: settings)
    return settings


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(registry, "get", lambda name, settings: driver)
    monkeypatch.setattr(registry, "names", lambda: ["qemu"])
    return driver


@pytest.fixture
def built(monkeypatch):
    """Images and kernelspecs that live in two lists."""
    images, offered = [IMAGE], []

    def find(runtime, settings):
        if not images:
            raise errors.NotFound("It has no image yet.")
        return images[0]

    monkeypatch.setattr(build, "images", lambda settings: list(images))
    monkeypatch.setattr(build, "find", find)
    monkeypatch.setattr(build, "remove", lambda image_id, settings: images.remove(IMAGE))
    monkeypatch.setattr(specs, "install", lambda recipe: offered.append(recipe.name))
    monkeypatch.setattr(specs, "uninstall", offered.remove)
    monkeypatch.setattr(specs, "installed", offered.__contains__)
    return images, offered


@pytest.fixture
def run(capsys):
    """Run a command; returns exit code, standard output and standard error."""

    def run(*words):
        code = cli.main(words)
        said = capsys.readouterr()
        assert "Traceback" not in said.err or "--debug" in words
        return code, said.out, said.err

    return run


@pytest.fixture
def sandboxes(settings, driver):
    """Three sandboxes: one runs, one is stopped, one waits."""
    with SandboxService(settings) as service:
        for number, state in ((1, State.RUNNING), (2, State.STOPPED), (3, State.STANDBY)):
            service._store.add(
                dataclasses.replace(SANDBOX, id=f"{'abc'[number - 1] * 4}{number:08}", state=state)
            )


def raiser(error):
    def fail(*_):
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequest("x"), 2),
        (errors.NotFound("x"), 3),
        (errors.Conflict("x"), 4),
        (errors.InvalidState("x", "running", {"stopped"}), 4),
        (errors.Exhausted("x"), 5),
        (errors.Unsupported("x"), 6),
        (errors.Transient("x"), 1),
        (errors.Permanent("x"), 1),
        (errors.OutcomeUnknown("x"), 1),
        (FileNotFoundError(2, "No such file or directory", "/gone"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_codes(settings, run, monkeypatch, error, code):
    monkeypatch.setattr(build, "images", raiser(error))
    found, out, err = run("images", "list")
    assert found == code
    assert out == ""
    assert err.startswith("jupyter vsandbox: ")
    assert err.count("\n") == 1


def test_every_exit_code_is_in_the_help(run):
    code, out, _ = run("--help")
    assert code == 0
    listed = {int(line.split()[0]) for line in out.partition("exit codes:")[2].split("\n") if line.strip()}
    assert listed == {0, 1, 2, 3, 4, 5, 6, 130}


def test_every_command_has_a_help_page(run):
    for command in cli.COMMANDS:
        code, out, _ = run(*command.words.split(), "--help")
        assert code == 0
        assert f"jupyter vsandbox {command.words}" in out


def test_a_command_without_a_help_text_is_hidden_but_works(settings, run, monkeypatch):
    hidden = cli.Command("standby", "", lambda session, arguments: 7)
    monkeypatch.setattr(cli, "COMMANDS", (*cli.COMMANDS, hidden))
    assert run("standby")[0] == 7
    assert "standby" not in run("--help")[1]


@pytest.mark.parametrize(
    "words", [(), ("images",), ("nonsense",), ("stop",), ("images", "build"), ("--nonsense",)]
)
def test_wrong_usage(run, words):
    code, out, err = run(*words)
    assert code == 2
    assert out == ""
    assert "usage: jupyter vsandbox" in err


def test_version(run):
    assert run("--version") == (0, f"{__version__}\n", "")


def test_help_loads_nothing_heavy():
    script = (
        "import sys; from jupyter_vsandbox.cli import main; code = main(['--help']);"
        "heavy = {'asyncio', 'rich', 'zmq', 'traitlets', 'jupyter_client', 'sqlite3'} & set(sys.modules);"
        "sys.exit(' '.join(heavy) or code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_pipe_is_no_error(tmp_path):
    script = "import sys; from jupyter_vsandbox.cli import main; sys.exit(main(['runtimes', '--json']))"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)},
    )
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == b""
    assert process.wait(60) == 1


@pytest.mark.parametrize("words", [("--json", "images", "rm", "nope"), ("images", "rm", "nope", "--json")])
def test_an_error_is_json_too(settings, built, run, words):
    code, out, err = run(*words)
    assert code == 3
    assert json.loads(out)["error"]["kind"] == "NotFound"
    assert "images list" in err


def test_debug_shows_where_an_error_came_from(settings, run, monkeypatch):
    monkeypatch.setattr(build, "images", raiser(errors.Permanent("broken")))
    assert "Traceback" in run("images", "list", "--debug")[2]


def test_a_file_where_the_home_folder_should_be(settings, run):
    settings.home.touch()
    code, _, err = run("list")
    assert code == 1
    (line,) = err.splitlines()
    assert line.startswith(f"jupyter vsandbox: {settings.home} cannot be made: a file is in its place.")
    assert "JUPYTER_VSANDBOX_HOME" in line


def test_list_as_json(sandboxes, run):
    code, out, err = run("list", "--json")
    assert (code, err) == (0, "")
    first = json.loads(out)[0]
    assert first == {
        "id": "aaaa00000001",
        "runtime": "python-3.11",
        "image": IMAGE.id,
        "driver": "qemu",
        "state": "running",
        "stalled": None,
        "created": "2023-11-14T22:13:20+00:00",
        "kernel_id": "k",
        "notebook": "work/\x1b[31mplot.ipynb",
        "owner_pid": os.getpid(),
        "memory_limit_bytes": GIB,
        "vcpus": 2,
        "memory_bytes": 40 * MIB,
        "disk_bytes": 3 * MIB,
        "cpu_seconds": 1.5,
    }
    assert SECRET not in out
    assert "\x1b" not in out


def test_list_says_what_stands_still_and_why(sandboxes, driver, run):
    driver.full = "the disk of /here is full"
    code, out, err = run("list")
    assert code == 0
    assert out.count("stalled") == 3
    assert "the disk of /here is full" in err


def test_list_as_a_table(sandboxes, run):
    code, out, _ = run("list")
    assert code == 0
    head, *rows = out.splitlines()
    assert head.split() == ["ID", "RUNTIME", "STATE", "NOTEBOOK", "AGE", "MEMORY", "DISK", "OWNER"]
    assert len(rows) == 3
    assert "40 MiB / 1.0 GiB" in rows[0]
    assert str(os.getpid()) in rows[0]
    assert "work/?[31mplot.ipynb" in rows[0]
    assert "\x1b" not in out
    assert SECRET not in out


def test_stop_takes_prefixes_and_names_each_once(sandboxes, settings, run):
    code, out, _ = run("stop", "aa", "bbbb", "aaaa", "--json")
    assert code == 0
    assert json.loads(out) == {"stopped": ["aaaa00000001", "bbbb00000002"], "failed": []}
    with SandboxService(settings) as service:
        assert service.get("aaaa00000001").state is State.STOPPED


def test_a_mistyped_id_stops_nothing(sandboxes, driver, run):
    code, out, err = run("rm", "aaaa", "ffff")
    assert code == 3
    assert out == ""
    assert "ffff" in err
    assert driver.deleted == []


def test_one_failure_does_not_keep_the_others(sandboxes, driver, run):
    driver.broken = "aaaa00000001"
    code, out, err = run("stop", "aaaa", "cccc", "--json")
    assert code == 1
    document = json.loads(out)
    assert document["stopped"] == ["cccc00000003"]
    assert document["failed"] == [
        {"id": "aaaa00000001", "kind": "Permanent", "message": "Sandbox aaaa00000001 does not end."}
    ]
    assert "does not end" in err


def test_rm_removes(sandboxes, driver, settings, run):
    assert run("rm", "aaaa", "bbbb")[:2] == (0, "aaaa00000001, bbbb00000002 removed.\n")
    with SandboxService(settings) as service:
        assert [sandbox.id for sandbox in service.list()] == ["cccc00000003"]


def test_uninstall_removes_all_but_what_the_user_wrote(sandboxes, driver, settings, built, run, monkeypatch):
    removed = []
    monkeypatch.setattr(specs, "ours", lambda: ["vsandbox-python-3.11"])
    monkeypatch.setattr(specs, "remove", removed.append)
    (settings.home / "images").mkdir()
    recipe = settings.user_recipes / "mine.toml"
    recipe.parent.mkdir()
    recipe.write_text("mine")
    code, _, err = run("uninstall")
    assert (code, "This removes 2 sandboxes" in err) == (2, True)
    code, _, err = run("uninstall", "--yes")
    assert (code, "aaaa00000001" in err, driver.deleted, removed) == (4, True, [], [])

    with SandboxService(settings) as service:
        for sandbox in service.list():
            service._store.change(sandbox.id, owner="")
    code, out, _ = run("uninstall", "--yes", "--json")
    assert (code, json.loads(out)["sandboxes"]) == (0, ["aaaa00000001", "bbbb00000002"])
    assert set(driver.deleted) == {"aaaa00000001", "bbbb00000002", "cccc00000003"}
    assert removed == ["vsandbox-python-3.11"]
    assert (list(settings.home.iterdir()), recipe.read_text()) == ([settings.user_recipes], "mine")


def test_build_tells_its_progress_and_installs_the_kernelspec(settings, built, run, monkeypatch):
    def make(recipe, settings, progress):
        progress("wait", None, "Waiting for another build")
        progress("system", 0.2, "Installing \x1b[31mDebian [bold]")
        progress("system", 0.3, "Installing \x1b[31mDebian [bold]")
        return IMAGE

    prepared = []

    async def prepare(service, runtime):
        prepared.append(runtime)

    monkeypatch.setattr(build, "build", make)
    monkeypatch.setattr(SandboxService, "prepare", prepare)
    code, out, err = run("images", "build", "python-3.11", "--json")
    assert code == 0
    assert json.loads(out)["id"] == IMAGE.id
    assert err.splitlines() == [
        "Waiting for another build",
        "Installing ?[31mDebian [bold]",
        "Making it ready to be cloned",
    ]
    assert built[1] == prepared == ["python-3.11"]


def test_build_draws_a_bar_on_a_terminal(capsys):
    from rich.console import Console

    with render.progress(Console(file=sys.stderr, force_terminal=True, width=100)) as progress:
        progress("wait", None, "Waiting")
        progress("disk", 0.5, "Writing [bold]")
    said = capsys.readouterr().err
    assert "50%" in said
    assert "Writing [bold]" in said


def test_a_failed_build_installs_no_kernelspec(settings, built, run, monkeypatch):
    monkeypatch.setattr(build, "build", raiser(errors.Exhausted("No space.")))
    assert run("images", "build", "python-3.11")[0] == 5
    assert built[1] == []


def test_building_an_unknown_runtime(settings, run):
    code, _, err = run("images", "build", "cobol-85")
    assert code == 3
    assert "python-3.11" in err


def test_an_image_that_sandboxes_need_is_kept(sandboxes, built, driver, run):
    code, _, err = run("images", "rm", "python-3.11")
    assert code == 4
    assert "aaaa00000001" in err
    assert "cccc00000003" not in err
    assert built[0] == [IMAGE]
    assert driver.without_templates == []


def test_an_image_goes_with_its_standbys_templates_and_kernelspec(sandboxes, built, driver, run):
    built[1].append("python-3.11")
    assert run("rm", "aaaa", "bbbb")[0] == 0
    code, out, _ = run("images", "rm", "python-3.11", "--json")
    assert code == 0
    assert json.loads(out) == {"removed": [IMAGE.id]}
    assert built == ([], [])
    assert "cccc00000003" in driver.deleted
    assert driver.without_templates == [IMAGE.id]


def test_a_prefix_of_several_images_is_refused(settings, run, monkeypatch):
    other = dataclasses.replace(IMAGE, digest="cd" * 32)
    monkeypatch.setattr(build, "images", lambda settings: [IMAGE, other])
    code, _, err = run("images", "rm", "python")
    assert code == 2
    assert other.id in err


def test_images_list(settings, built, run):
    assert IMAGE.id in run("images", "list")[1]
    [image] = json.loads(run("images", "list", "--json")[1])
    assert (image["id"], image["size_bytes"]) == (IMAGE.id, 700 * MIB)


def test_runtimes(settings, built, run):
    documents = json.loads(run("runtimes", "--json")[1])
    mine = next(document for document in documents if document["name"] == "python-3.11")
    assert mine["image"] == IMAGE.id
    assert mine["language"] == "python"
    assert "python-3.11" in run("runtimes")[1]


def test_a_broken_recipe_does_not_hide_the_others(settings, built, run):
    settings.user_recipes.mkdir(parents=True)
    (settings.user_recipes / "mine.toml").write_text("name = ")
    code, out, err = run("runtimes")
    assert code == 0
    assert "python-3.11" in out
    assert "mine.toml" in err


@pytest.mark.parametrize(("status", "code"), [(Status.OK, 0), (Status.WARN, 0), (Status.FAIL, 1)])
def test_doctor(settings, built, run, monkeypatch, status, code):
    async def examine(settings, driver):
        return doctor.Report((Check("accelerator", status, "as it is", "Mend it."),))

    monkeypatch.setattr(doctor, "examine", examine)
    found, out, _ = run("doctor")
    assert found == code
    lines = out.splitlines()
    assert lines[:2] == [f"{status.value:<5}accelerator: as it is", "     -> Mend it."]
    assert (
        lines[2] == "warn kernelspec of python-3.11: missing: the kernel picker does not offer this runtime"
    )
    built[1].append("python-3.11")
    found, out, _ = run("doctor", "--json")
    document = json.loads(out)
    assert found == code
    assert document["ok"] is (code == 0)
    assert document["checks"][1]["status"] == "ok"


def test_an_export_needs_a_file_and_a_sandbox(sandboxes, run, tmp_path):
    code, _, err = run("export", "aaaa")
    assert code == 2
    assert "--dry-run" in err
    assert run("export", "nowhere", str(tmp_path / "x"))[0] == 3
    (tmp_path / "x").touch()
    code, _, err = run("export", "aaaa", str(tmp_path / "x"))
    assert code == 4
    assert "already" in err
    assert run("export", "aaaa", str(tmp_path / "none" / "x"))[0] == 3


def test_what_cannot_be_imported_is_named(settings, driver, run, tmp_path):
    code, _, err = run("import", str(tmp_path / "none"))
    assert code == 3
    assert str(tmp_path / "none") in err
    (tmp_path / "x").write_bytes(b"something else" * 99)
    code, out, err = run("import", str(tmp_path / "x"), "--json")
    assert code == 1
    assert str(tmp_path / "x") in err
    assert json.loads(out)["error"]["kind"] == "Permanent"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (7200, "2 h"), (200000, "2 d")]
)
def test_ages(seconds, text):
    assert render.age(seconds) == text


def test_a_command_that_is_asked_to_end_tidies_up():
    code = (
        "import os, signal, sys\n"
        "from jupyter_vsandbox import cli\n"
        "cli.Session = lambda output: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.argv = ['jupyter-vsandbox', 'list']\n"
        "sys.exit(cli.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "jupyter vsandbox: interrupted\n")


@pytest.mark.usefixtures("sandboxes")
def test_history_warns_of_what_is_old(settings, driver, run):
    with SandboxService(settings) as service:
        taken = Snapshot(
            "1" * 12, SANDBOX.id, SANDBOX.id, "", "mine", "", Cause.ASKED, 1.0, True, False, 9, 0.1
        )
        service._store.add_snapshot(taken)
    code, out, _ = run("history", SANDBOX.id)
    assert (code, "older" in out) == (0, False)
    driver.advice = Advice(seconds=3600.0)
    assert "mine: It is older than 1 h" in run("history", SANDBOX.id)[1]
    assert "1 of the snapshots is near" in run("history", SANDBOX.id)[1]
    [told] = json.loads(run("--json", "history", SANDBOX.id)[1])
    assert "older than 1 h" in told["warning"]
