"""The mmdebstrap command, what it needs, and how its output becomes progress."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jupyter_vsandbox.domain.errors import Unsupported
from jupyter_vsandbox.runtimes import bootstrap, recipe
from jupyter_vsandbox.runtimes.bootstrap import Outputs, Watcher
from jupyter_vsandbox.runtimes.hostconfig import HostConfig
from jupyter_vsandbox.runtimes.mirror import Source
from jupyter_vsandbox.runtimes.recipe import Recipe

SOURCES = [
    Source("https://example.org/debian", "trixie", signed_by="/keys/a.gpg"),
    Source("https://example.org/security", "trixie-security"),
]


def command(read: Recipe, folder: Path = Path("/images/.build-x+1")) -> list[str]:
    host = HostConfig(apt_options=('Acquire::Retries "3"',))
    return bootstrap.command(read, SOURCES, host, Outputs(folder), 7, "amd64")


def test_the_command_follows_recipe_sources_and_host(tiny: Recipe) -> None:
    argv = command(tiny)
    start = argv.index("mmdebstrap")
    assert "--variant=apt" in argv[start:]
    assert '--aptopt=Acquire::Retries "3"' in argv
    assert argv[-4:] == [
        "bookworm",
        "/dev/null",
        "deb [signed-by=/keys/a.gpg] https://example.org/debian trixie main",
        f"deb [signed-by={bootstrap.DEBIAN_KEYRING}] https://example.org/security trixie-security main",
    ]
    include = next(option for option in argv if option.startswith("--include="))
    assert {"python3", "sudo", "linux-image-cloud-amd64"} <= set(include.partition("=")[2].split(","))


@pytest.mark.parametrize("suite", ["bullseye", "trixie", "sid"])
def test_any_suite_is_built_the_same_way(suite: str, tiny: Recipe) -> None:
    other = recipe.parse(
        f'name = "tiny"\n[base]\nsuite = "{suite}"\n[python]\npackages = ["ipykernel"]\n', "x"
    )
    differing = set(command(tiny)) ^ set(command(other))
    assert {option for option in differing if not option.startswith("--include=")} == {"bookworm", suite}


def test_the_disk_has_the_recipes_size_and_is_written_through_the_descriptor(tiny: Recipe) -> None:
    hook = next(option for option in command(tiny) if "mke2fs" in option)
    assert "/proc/self/fd/7 16777216k" in hook
    assert "-L vsandbox" in hook


def test_folders_with_blanks_survive_the_hooks(tiny: Recipe) -> None:
    argv = command(tiny, Path("/my images/.build-x+1"))
    downloads = [shlex.split(option.partition("=")[2]) for option in argv if "=download " in option]
    assert ["download", "/boot/vsandbox/vmlinuz", "/my images/.build-x+1/vmlinuz"] in downloads
    assert {len(words) for words in downloads} == {3}


@pytest.mark.parametrize(("uid", "mode"), [(0, "root"), (1000, "unshare")])
def test_an_ordinary_user_builds_in_a_user_namespace(
    uid: int, mode: str, tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(bootstrap, "may_mount", lambda: uid == 0)
    argv = command(tiny)
    assert f"--mode={mode}" in argv
    assert ("--kill-child" in argv) == (uid == 0)
    assert (bootstrap.scratch(tmp_path) == tmp_path / "tmp") == (uid == 0)
    assert bootstrap.scratch(tmp_path / "with blank") == Path("/var/tmp")


def test_root_of_a_container_builds_without_mounting_anything(
    tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for rights in (True, False):
        monkeypatch.setattr(bootstrap, "may_mount", lambda rights=rights: rights)
        argv = command(tiny)
        assert "--mode=root" in argv
        assert ("unshare" in argv) == rights
        hook = next(option for option in argv if "mke2fs" in option)
        assert any("/dev/shm" in option for option in argv) != rights
        # Before the packages are configured: their programs expect it.
        assert ("/dev/null" in next(option for option in argv if "essential-hook" in option)) != rights
        assert ("debugfs" in hook) != rights
        assert ("mount --bind" in hook) == ("unshare --mount" in hook) == rights


def test_a_system_that_was_made_without_devices_gets_its_console(tmp_path: Path) -> None:
    (tmp_path / "system" / "dev").mkdir(parents=True)
    disk = tmp_path / "disk.raw"
    env = {"PATH": bootstrap.PATH}
    make = ["mke2fs", "-q", "-F", "-t", "ext4", "-d", str(tmp_path / "system"), str(disk), "8m"]
    subprocess.run(make, env=env, check=True)
    command = bootstrap.with_console(str(disk))
    subprocess.run(["sh", "-c", command, "sh", str(tmp_path / "system")], env=env, check=True)
    ask = ["debugfs", "-R", "stat /dev/console", str(disk)]
    said = subprocess.run(ask, env=env, capture_output=True, text=True, check=True).stdout
    assert "Type: character special    Mode:  0600" in said
    assert "Device major/minor number: 05:01" in said


def test_who_may_not_mount_is_known_by_its_capabilities() -> None:
    ask = "from jupyter_vsandbox.runtimes import bootstrap; print(bootstrap.may_mount())"
    drop = ["setpriv", "--bounding-set=-sys_admin"] if os.geteuid() == 0 else []
    said = subprocess.run([*drop, sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"


def test_missing_programs_come_with_the_command_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(bootstrap, "DEBIAN_KEYRING", str(tmp_path / "none.gpg"))
    monkeypatch.setattr(bootstrap.shutil, "which", lambda name, path=None: None)
    with pytest.raises(Unsupported) as caught:
        bootstrap.require_tools()
    packages = str(caught.value).partition("sudo apt install ")[2].split()
    assert packages == [
        "debian-archive-keyring",
        "e2fsprogs",
        "mmdebstrap",
        "qemu-utils",
        "uidmap",
        "util-linux",
    ]
    assert "mke2fs" in str(caught.value)


def test_an_unknown_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap.platform, "machine", lambda: "riscv64")
    with pytest.raises(Unsupported, match="riscv64"):
        bootstrap.architecture()
    monkeypatch.setattr(bootstrap.platform, "machine", lambda: "aarch64")
    assert bootstrap.architecture() == "arm64"


def test_progress_only_grows_and_names_what_happens() -> None:
    seen: list[tuple[str, float, str]] = []
    watch = Watcher(lambda stage, fraction, text: seen.append((stage, fraction, text)))
    lines = ["0 upgraded, 100 newly installed, 0 to remove"]
    lines += [f"Get:{n} https://example.org bookworm/main amd64 lib{n} amd64 1.0 [4 kB]" for n in range(300)]
    lines += [f"Unpacking lib{n}:amd64 (1.0) ..." for n in range(300)]
    lines += ["something else", "@vsandbox 0.15 Installing the notebook environment", "Collecting numpy"]
    lines += ["@vsandbox 0.05 Out of order", "@vsandbox 1.00 Configured"]
    for line in lines:
        watch(line)
    fractions = [fraction for _, fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < 0.01
    assert fractions[-1] == pytest.approx(0.95)
    assert seen[0] == ("system", fractions[0], "Downloading lib0")
    assert seen[300][2] == "Unpacking lib0"
    assert seen[-1][0] == "python"
    assert "Collecting numpy" in [text for _, _, text in seen]
