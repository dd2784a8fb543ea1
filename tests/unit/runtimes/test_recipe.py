"""Recipes: what is read from them, and that every mistake is named with its file, key and mend."""

from pathlib import Path

import pytest

from jupyter_vsandbox.domain.errors import InvalidRequest
from jupyter_vsandbox.domain.model import GIB, MIB, Shape
from jupyter_vsandbox.runtimes import recipe
from jupyter_vsandbox.runtimes.catalog import BUILTIN
from jupyter_vsandbox.runtimes.recipe import IPYKERNEL, File

FULL = """
name = "python-3.9"
display_name = "Python 3.9"
language = "python"
summary = "An old one"
[base]
suite = "bullseye"
packages = ["git", "libpq-dev=13.1-1"]
[python]
interpreter = "/opt/python/bin/python3"
packages = ["ipykernel<7", "numpy"]
[kernel]
argv = ["/opt/venv/bin/python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
env = { OMP_NUM_THREADS = "1" }
warm = ["numpy", "matplotlib.pyplot"]
[[files]]
path = "/etc/motd"
content = "hello"
[[files]]
path = "/home/jovyan/run.sh"
content = "#!/bin/sh"
mode = "0755"
[machine]
memory = "512M"
vcpus = 2
disk = "20G"
"""


def test_everything_in_a_recipe_is_read() -> None:
    read = recipe.parse(FULL, "x.toml")
    assert (read.name, read.display_name, read.language, read.summary) == (
        "python-3.9",
        "Python 3.9",
        "python",
        "An old one",
    )
    assert read.base.suite == "bullseye"
    assert read.base.packages == ("git", "libpq-dev=13.1-1")
    assert read.python is not None
    assert read.python.interpreter == "/opt/python/bin/python3"
    assert read.python.packages == ("ipykernel<7", "numpy")
    assert read.kernel.env == {"OMP_NUM_THREADS": "1"}
    assert read.kernel.warm == ("numpy", "matplotlib.pyplot")
    assert read.files == (File("/etc/motd", "hello", 0o644), File("/home/jovyan/run.sh", "#!/bin/sh", 0o755))
    assert read.machine.shape == Shape(memory=512 * MIB, vcpus=2)
    assert read.machine.disk == 20 * GIB


def test_what_is_left_out_has_defaults() -> None:
    read = recipe.parse('[base]\nsuite = "trixie"\n[python]\n', "x.toml", default_name="mine")
    assert read.name == "mine"
    assert read.display_name == "mine (sandbox)"
    assert read.kernel.argv == IPYKERNEL
    assert read.machine.shape == Shape(memory=GIB, vcpus=1)
    assert read.python is not None
    assert read.python.interpreter == "/usr/bin/python3"


def test_a_kernel_without_python_names_its_command() -> None:
    text = '[base]\nsuite = "trixie"\npackages = ["r-base"]\n[kernel]\nargv = ["R", "{connection_file}"]\n'
    assert recipe.parse(text, "r.toml", default_name="r").python is None
    with pytest.raises(InvalidRequest, match=r"r\.toml: kernel: it is missing"):
        recipe.parse('[base]\nsuite = "trixie"\n', "r.toml", default_name="r")


@pytest.mark.parametrize(
    ("old", "new", "key", "mend"),
    [
        ('name = "python-3.9"', 'name = "../up"', "name", "a-z"),
        ('name = "python-3.9"', 'name = "a+b"', "name", "a-z"),
        ('name = "python-3.9"', "name = 3", "name", "quotes"),
        ('summary = "An old one"', 'sumary = "x"', "sumary", "'summary'"),
        ('language = "python"', 'language = "py thon"', "language", "python"),
        ('suite = "bullseye"', 'suite = "a b"', "base.suite", "bookworm"),
        ('suite = "bullseye"', "", "base.suite", "Add it"),
        ('"git"', '"git; rm -rf /"', "base.packages", "NAME"),
        ('"git"', '"git,vim"', "base.packages", "NAME"),
        ('["git", "libpq-dev=13.1-1"]', '"git"', "base.packages", 'list|\\["one"'),
        ('"ipykernel<7"', '"--index-url=https://example.org"', "python.packages", "options"),
        ('"ipykernel<7"', '"a\\nb"', "python.packages", "options"),
        ('"/opt/python/bin/python3"', '"python3"', "python.interpreter", "path in the guest"),
        ('"{connection_file}"', '"x"', "kernel.argv", "connection_file"),
        ('OMP_NUM_THREADS = "1"', "OMP_NUM_THREADS = 1", "kernel.env.OMP_NUM_THREADS", "quotes"),
        ('OMP_NUM_THREADS = "1"', '"A B" = "1"', "kernel.env.A B", "letters"),
        ('"matplotlib.pyplot"', '"os; evil()"', "kernel.warm", "module names"),
        ('path = "/etc/motd"', 'path = "etc/motd"', "files[0].path", "/etc/motd"),
        ('path = "/etc/motd"', 'path = "/etc/../root"', "files[0].path", "/etc/motd"),
        ('path = "/etc/motd"', 'path = "//etc/motd"', "files[0].path", "/etc/motd"),
        ('mode = "0755"', 'mode = "rwx"', "files[1].mode", "0644"),
        ('mode = "0755"', "mode = 755", "files[1].mode", "quotes"),
        ('mode = "0755"', 'owner = "root"', "files[1].owner", "Known here"),
        ('memory = "512M"', 'memory = "512"', "machine.memory", "2G"),
        ('memory = "512M"', 'memory = "1M"', "machine.memory", "256M"),
        ("vcpus = 2", "vcpus = 0", "machine.vcpus", "from 1"),
        ("vcpus = 2", "vcpus = true", "machine.vcpus", "from 1"),
        ('disk = "20G"', 'disk = "1G"', "machine.disk", "4096M"),
    ],
)
def test_a_mistake_is_named_with_file_key_and_mend(old: str, new: str, key: str, mend: str) -> None:
    assert old in FULL
    with pytest.raises(InvalidRequest, match=mend) as caught:
        recipe.parse(FULL.replace(old, new, 1), "site/x.toml")
    assert str(caught.value).startswith(f"site/x.toml: {key}: ")


@pytest.mark.parametrize("text", ["name = ", "[base]\n[base]\n"])
def test_broken_toml_names_the_file(text: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^x\.toml: this is not valid TOML: "):
        recipe.parse(text, "x.toml")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("base = 1\n[python]", "base"),
        ('files = ["x"]\n[base]\nsuite = "x"\n[python]', "files"),
        ("python = []\n[base]\nsuite = 'x'", "python"),
    ],
)
def test_a_table_that_is_none_is_refused(text: str, key: str) -> None:
    with pytest.raises(InvalidRequest, match=rf"x\.toml: {key}: .*table"):
        recipe.parse(text, "x.toml", default_name="x")


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidRequest, match=r"bad\.toml: the recipe cannot be read"):
        recipe.load(tmp_path / "bad.toml")
    with pytest.raises(InvalidRequest, match=r"none\.toml: the recipe cannot be read"):
        recipe.load(tmp_path / "none.toml")


@pytest.mark.parametrize("path", sorted(BUILTIN.glob("*.toml")), ids=lambda path: path.stem)
def test_built_in_recipes_are_sound(path: Path) -> None:
    read = recipe.load(path)
    assert read.name == path.stem
    assert read.summary
    assert read.python is None or "ipykernel" in " ".join(read.python.packages)
