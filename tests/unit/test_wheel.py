"""The wheel: everything is in it, and it works where there is no Node."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "jupyter_vsandbox"
LABEXTENSION = "share/jupyter/labextensions/jupyter-vsandbox"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if not (PACKAGE / "labextension" / "static").is_dir() and not shutil.which("npm"):
        pytest.skip("the JupyterLab extension is not built, and there is no npm to build it")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    environ = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    prefix = tmp_path_factory.mktemp("prefix")
    venv.create(prefix)
    pip(prefix, "install", "--no-deps", "--no-index", wheel)
    return prefix


def pip(prefix, *words):
    command = [sys.executable, "-m", "pip", "--python", prefix / "bin" / "python", "--quiet", *words]
    subprocess.run(command, check=True)


def listing(installed, *command):
    """What a `jupyter` command prints where only the installed wheel is seen, and no Node."""
    environ = {
        "PATH": "",
        "HOME": str(installed),
        "JUPYTER_PATH": str(installed / "share/jupyter"),
        "JUPYTER_CONFIG_PATH": str(installed / "etc/jupyter"),
        "PYTHONPATH": str(next(installed.glob("lib/python*/site-packages"))),
    }
    done = subprocess.run(
        [sys.executable, "-m", *command],
        check=True,
        capture_output=True,
        text=True,
        env=environ,
        cwd=installed,
    )
    return done.stdout + done.stderr


def test_every_file_of_the_package_is_there(names):
    kept = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and PACKAGE / "labextension" not in path.parents
    }
    assert kept - names == set()
    for pattern in ("runtimes/builtin/*.toml", "guest/*.py", "server/openapi.yaml", "py.typed"):
        assert any(Path(name).match(f"jupyter_vsandbox/{pattern}") for name in names), pattern


def test_what_jupyter_reads_is_shared_data(names):
    shared = {name.partition(".data/data/")[2] for name in names if ".data/data/" in name}
    assert {
        "etc/jupyter/jupyter_server_config.d/jupyter_vsandbox.json",
        f"{LABEXTENSION}/install.json",
        f"{LABEXTENSION}/package.json",
        f"{LABEXTENSION}/schemas/jupyter-vsandbox/plugin.json",
        f"{LABEXTENSION}/static/style.js",
    } <= shared
    assert any(name.startswith(f"{LABEXTENSION}/static/remoteEntry.") for name in shared)
    assert f"{LABEXTENSION}/build_log.json" not in shared


def test_no_folder_of_this_host_is_named_in_it(wheel):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            assert str(ROOT).encode() not in archive.read(name), name


def test_jupyterlab_finds_it(installed):
    lines = listing(installed, "jupyterlab.labextensions", "list")
    assert str(installed / "share/jupyter/labextensions") in lines
    assert "jupyter-vsandbox v" in lines
    line = next(line for line in lines.splitlines() if "jupyter-vsandbox v" in line)
    assert "enabled" in line
    assert "OK" in line


def test_jupyter_server_finds_it(installed):
    lines = listing(installed, "jupyter_server.extension.serverextension", "list").splitlines()
    line = next(
        line for line in lines if "jupyter_vsandbox " in line and "Validating" not in line and "OK" in line
    )
    assert "jupyter_vsandbox" in line


INSTALL = """
from jupyter_vsandbox.kernel import specs
print(specs.install(specs.Offer("python-0.9", "Python 0.9 (sandbox)", "python")))
"""


def test_uninstalling_leaves_nothing(wheel, tmp_path):
    prefix, home = tmp_path / "prefix", tmp_path / "home"
    venv.create(prefix)
    before = {path for path in prefix.rglob("*") if path.is_file()}
    pip(prefix, "install", "--no-deps", "--no-index", wheel)
    # The dependencies are those of this environment; the program is the one that was just installed.
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "JUPYTER_VSANDBOX_HOME": str(home),
        "PYTHONPATH": sysconfig.get_path("purelib"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def python(*words):
        command = [prefix / "bin" / "python", *words]
        return subprocess.run(command, capture_output=True, text=True, env=environ, cwd=tmp_path)

    assert str(prefix) in python("-c", INSTALL).stdout
    (home / "images").mkdir(parents=True)
    refused = python("-m", "jupyter_vsandbox.cli", "uninstall")
    assert (refused.returncode, home.exists()) == (2, True)
    assert "1 kernelspecs" in refused.stderr
    done = python("-m", "jupyter_vsandbox.cli", "uninstall", "--yes")
    assert done.returncode == 0, done.stderr
    pip(prefix, "uninstall", "--yes", "jupyter_vsandbox")
    assert {path for path in prefix.rglob("*") if path.is_file()} - before == set()
    assert not home.exists()
    assert [path for path in tmp_path.rglob("*") if path.is_file() and prefix not in path.parents] == []
