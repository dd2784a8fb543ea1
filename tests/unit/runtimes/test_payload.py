"""What an image is made of: the digest changes with it and with nothing else, and the files that go in."""

import io
import json
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from jupyter_vsandbox.runtimes import payload, recipe
from jupyter_vsandbox.runtimes.hostconfig import HostConfig
from jupyter_vsandbox.runtimes.mirror import Source
from jupyter_vsandbox.runtimes.recipe import Recipe

BASE = 'name = "tiny"\n[base]\nsuite = "bookworm"\n[python]\npackages = ["ipykernel"]\n'
SOURCES = [
    Source("https://example.org/debian", "bookworm", signed_by="/usr/share/keyrings/debian-archive-x.gpg")
]


def digest(text: str = BASE) -> str:
    return payload.digest(recipe.parse(text, "x.toml"), "amd64")


def members(data: bytes) -> dict[str, tuple[str, int]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {}
        for member in archive:
            file = archive.extractfile(member)
            assert file is not None, f"{member.name} is not a plain file"
            assert (member.uid, member.gid) == (0, 0)
            files["/" + member.name] = (file.read().decode(), member.mode)
        return files


@pytest.mark.parametrize(
    "text",
    [
        BASE.replace("bookworm", "trixie"),
        BASE.replace('"ipykernel"', '"ipykernel", "numpy"'),
        BASE + '[machine]\nmemory = "2G"\n',
        BASE + '[machine]\ndisk = "32G"\n',
        BASE + '[kernel]\nenv = { A = "b" }\n',
        BASE + '[kernel]\nwarm = ["numpy"]\n',
        BASE + '[[files]]\npath = "/etc/a"\ncontent = "b"\n',
        BASE.replace("tiny", "other"),
    ],
)
def test_the_digest_changes_with_the_recipe(text: str) -> None:
    assert digest(text) != digest()


def test_the_digest_does_not_change_with_titles_and_layout() -> None:
    assert digest('summary = "Better words"\ndisplay_name = "Tiny"\n# comment\n' + BASE) == digest()
    assert re.fullmatch("[0-9a-f]{64}", digest())


@pytest.mark.parametrize("change", ["guest", "asset", "version", "agent", "architecture"])
def test_the_digest_changes_with_what_is_ours(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Recipe
) -> None:
    for name in ("guest", "assets"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text("1")
    monkeypatch.setattr(payload, "_GUEST", tmp_path / "guest")
    monkeypatch.setattr(payload, "_ASSETS", tmp_path / "assets")
    before = payload.digest(tiny, "amd64")
    (tmp_path / "guest" / "__pycache__").mkdir()
    (tmp_path / "guest" / "__pycache__" / "a.py").write_text("not counted")
    (tmp_path / "guest" / "notes.txt").write_text("not counted")
    assert payload.digest(tiny, "amd64") == before
    if change == "guest":
        (tmp_path / "guest" / "a.py").write_text("2")
    elif change == "asset":
        (tmp_path / "assets" / "a.py").write_text("2")
    elif change == "version":
        monkeypatch.setattr(payload, "BUILDER_VERSION", 999)
    elif change == "agent":
        monkeypatch.setattr(payload, "AGENT_REQUIREMENTS", ("pyzmq>=99",))
    assert payload.digest(tiny, "arm64" if change == "architecture" else "amd64") != before


def test_the_digest_does_not_depend_on_host_or_mirror(tiny: Recipe) -> None:
    text = json.dumps(payload.inputs(tiny, "amd64"))
    assert "example.org" not in text
    assert "pip.conf" not in text


def test_the_systems_packages_fit_its_release(tiny: Recipe) -> None:
    bookworm = payload.packages(tiny, "amd64")
    assert "systemd-resolved" in bookworm
    assert "linux-image-cloud-amd64" in bookworm
    bullseye = recipe.parse(BASE.replace("bookworm", "bullseye"), "x.toml")
    assert "systemd-resolved" not in payload.packages(bullseye, "amd64")
    assert "linux-image-cloud-arm64" in payload.packages(tiny, "arm64")


def test_a_recipe_may_hold_a_package_of_ours_at_a_version() -> None:
    text = BASE.replace(
        "[python]", 'packages = ["git", "linux-image-cloud-amd64=5.10.1-1", "sudo"]\n[python]'
    )
    chosen = payload.packages(recipe.parse(text, "x.toml"), "amd64")
    assert "linux-image-cloud-amd64=5.10.1-1" in chosen
    assert "linux-image-cloud-amd64" not in chosen
    assert chosen.count("sudo") == 1
    assert "git" in chosen


def test_early_files_hold_agent_system_and_host_settings(tiny: Recipe) -> None:
    host = HostConfig(files={"/etc/pip.conf": "[global]\n"}, certificates=("PEM",))
    files = members(payload.early_files(tiny, SOURCES, host))
    assert any(path.startswith("/opt/vsandbox/lib/vsandbox_guest/") for path in files)
    assert files["/etc/systemd/system/vsandbox-agent.service"][1] == 0o644
    assert files["/etc/initramfs-tools/hooks/vsandbox"][1] == 0o755
    assert files["/etc/pip.conf"] == ("[global]\n", 0o644)
    assert files["/tmp/vsandbox-build/packages.txt"][0] == "ipykernel\n"
    assert files["/tmp/vsandbox-build/agent.txt"][0] == "pyzmq>=22\n"
    assert files["/tmp/vsandbox-build/host-certificates.pem"][0] == "PEM\n"
    assert files["/tmp/vsandbox-build/params.sh"][0] == "INTERPRETER=/usr/bin/python3\n"
    assert not [path for path in files if "keyrings" in path]


def test_a_keyring_of_the_hosts_own_goes_along(tiny: Recipe, tmp_path: Path) -> None:
    (tmp_path / "company.gpg").write_text("key")
    sources = [Source("https://example.org/debian", "bookworm", signed_by=str(tmp_path / "company.gpg"))]
    files = members(payload.early_files(tiny, sources, HostConfig()))
    assert files["/etc/apt/keyrings/company.gpg"][0] == "key"
    guest = members(payload.late_files(tiny, sources))["/etc/apt/sources.list"][0]
    assert guest == "deb [signed-by=/etc/apt/keyrings/company.gpg] https://example.org/debian bookworm main\n"


def test_late_files_are_the_recipes_and_apts_sources() -> None:
    text = BASE + '[[files]]\npath = "/home/jovyan/a.sh"\ncontent = "#!/bin/sh"\nmode = "0755"\n'
    files = members(payload.late_files(recipe.parse(text, "x.toml"), SOURCES))
    assert files["/home/jovyan/a.sh"] == ("#!/bin/sh", 0o755)
    assert "deb [signed-by=/usr/share/keyrings/debian-archive-x.gpg]" in files["/etc/apt/sources.list"][0]


def test_the_kernels_settings_put_the_recipes_words_last() -> None:
    text = BASE + '[kernel]\nenv = { LANG = "fr_FR.UTF-8", A = "b" }\nwarm = ["numpy"]\n'
    host = HostConfig(env={"SSL_CERT_FILE": "/bundle", "A": "host"})
    read = json.loads(payload.kernel_json(recipe.parse(text, "x.toml"), host))
    assert read["argv"][0] == "/opt/venv/bin/python"
    assert read["env"]["PATH"].startswith("/opt/venv/bin:")
    assert read["env"]["VIRTUAL_ENV"] == "/opt/venv"
    assert (read["env"]["LANG"], read["env"]["A"], read["env"]["SSL_CERT_FILE"]) == (
        "fr_FR.UTF-8",
        "b",
        "/bundle",
    )
    assert (read["user"], read["cwd"], read["language"]) == ("jovyan", "/home/jovyan", "python")
    assert read["warm"] == ["numpy"]


def test_a_kernel_without_python_has_no_environment_of_it() -> None:
    text = (
        'name = "r"\nlanguage = "R"\n[base]\nsuite = "trixie"\n[kernel]\nargv = ["R", "{connection_file}"]\n'
    )
    env = json.loads(payload.kernel_json(recipe.parse(text, "x.toml"), HostConfig()))["env"]
    assert "VIRTUAL_ENV" not in env
    assert "/opt/venv" not in env["PATH"]


@pytest.mark.parametrize("script", sorted((Path(payload.__file__).parent / "assets").glob("*.sh")), ids=str)
def test_shell_scripts_parse(script: Path) -> None:
    subprocess.run(["sh", "-n", script], check=True)


def test_no_address_of_anybody_is_written_into_the_package() -> None:
    address = re.compile(r"https?://[\w-]+\.[\w.-]+")
    folder = Path(payload.__file__).parent
    for path in folder.rglob("*"):
        if path.is_file() and path.suffix != ".pyc":
            lines = path.read_text().splitlines()
            assert not [line for line in lines if address.search(line) and not line.startswith("#")], path
