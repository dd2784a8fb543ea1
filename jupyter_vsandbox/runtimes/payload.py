"""What goes into an image besides packages, and the digest of all that an image is made of."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from jupyter_vsandbox.runtimes.hostconfig import HostConfig
    from jupyter_vsandbox.runtimes.mirror import Source
    from jupyter_vsandbox.runtimes.recipe import Recipe

BUILDER_VERSION = 2
"""Raised whenever the same inputs would come out as another image."""

AGENT_REQUIREMENTS = ("pyzmq>=22",)
USER = "jovyan"
HOME = f"/home/{USER}"
BUILD_FOLDER = "/tmp/vsandbox-build"  # noqa: S108 - in the guest, while it is built
_LIBRARY = "/opt/vsandbox/lib/vsandbox_guest"
_ASSETS = Path(__file__).parent / "assets"
_GUEST = Path(__file__).parent.parent / "guest"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_EVERYWHERE = [
    "apt",
    "apt-utils",
    "bash",
    "ca-certificates",
    "debian-archive-keyring",
    "fuse3",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "libnss-myhostname",
    "lz4",
    "procps",
    "python3",
    "python3-venv",
    "sshfs",
    "sudo",
    "systemd",
    "systemd-sysv",
    "tzdata",
    "udev",
]
_RESOLVER_INSIDE = frozenset({"stretch", "buster", "bullseye"})


def packages(recipe: Recipe, architecture: str) -> list[str]:
    """The Debian packages to install, dependencies aside."""
    chosen = [*_EVERYWHERE, f"linux-image-cloud-{architecture}"]
    if recipe.base.suite not in _RESOLVER_INSIDE:
        chosen.append("systemd-resolved")
    # A recipe may hold one of ours at a version: NAME=VERSION.
    named = {package.partition("=")[0] for package in recipe.base.packages}
    return [*(package for package in chosen if package not in named), *recipe.base.packages]


def inputs(recipe: Recipe, architecture: str) -> dict[str, object]:
    """All that decides what an image holds. The mirror and the host's configuration are not part of it."""
    return {
        "builder": BUILDER_VERSION,
        "architecture": architecture,
        "recipe": recipe.ingredients(),
        "packages": packages(recipe, architecture),
        "agent": list(AGENT_REQUIREMENTS),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data, _ in _own_files()},
    }


def digest(recipe: Recipe, architecture: str) -> str:
    """Hexadecimal SHA-256 over `inputs`."""
    text = json.dumps(inputs(recipe, architecture), sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def early_files(recipe: Recipe, sources: list[Source], host: HostConfig) -> bytes:
    """A tar archive of files that must be there before the packages are configured."""
    files: dict[str, tuple[bytes, int]] = {}
    for name, data, mode in _own_files():
        kind, _, rest = name.partition("/")
        if kind == "rootfs":
            files[rest] = (data, mode)
        elif kind == "guest":
            files[f"{_LIBRARY}/{rest}"] = (data, mode)
        else:
            files[f"{BUILD_FOLDER}/{rest}"] = (data, mode)
    for path, text in host.files.items():
        files[path] = (text.encode(), 0o644)
    files["/etc/vsandbox/kernel.json"] = (kernel_json(recipe, host).encode(), 0o644)
    files[f"{BUILD_FOLDER}/host-certificates.pem"] = (("\n".join(host.certificates) + "\n").encode(), 0o644)
    files[f"{BUILD_FOLDER}/agent.txt"] = (_lines(AGENT_REQUIREMENTS), 0o644)
    files[f"{BUILD_FOLDER}/packages.txt"] = (_lines(recipe.python.packages if recipe.python else ()), 0o644)
    # systemd-resolved's package takes the one away that mmdebstrap put there.
    files[f"{BUILD_FOLDER}/resolv.conf"] = (Path("/etc/resolv.conf").read_bytes(), 0o644)
    interpreter = recipe.python.interpreter if recipe.python else ""
    files[f"{BUILD_FOLDER}/params.sh"] = (f"INTERPRETER={shlex.quote(interpreter)}\n".encode(), 0o644)
    for source in sources:
        keyring = Path(source.signed_by)
        if source.signed_by and not source.signed_by.startswith("/usr/share/keyrings/debian-archive-"):
            files[f"/etc/apt/keyrings/{keyring.name}"] = (keyring.read_bytes(), 0o644)
    return _tar(files)


def late_files(recipe: Recipe, sources: list[Source]) -> bytes:
    """A tar archive of files that replace what packages bring: the recipe's own, and apt's sources."""
    files = {file.path: (file.content.encode(), file.mode) for file in recipe.files}
    files.setdefault("/etc/apt/sources.list", (_guest_sources(sources).encode(), 0o644))
    return _tar(files)


def kernel_json(recipe: Recipe, host: HostConfig) -> str:
    """What the agent reads to start the kernel."""
    env = {
        "PATH": f"/opt/venv/bin:{_PATH}" if recipe.python else _PATH,
        "HOME": HOME,
        "USER": USER,
        "LOGNAME": USER,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
    }
    if recipe.python:
        env["VIRTUAL_ENV"] = "/opt/venv"
    env |= host.env
    env |= recipe.kernel.env
    document = {
        "argv": list(recipe.kernel.argv),
        "env": env,
        "cwd": HOME,
        "user": USER,
        "language": recipe.language,
        "warm": list(recipe.kernel.warm),
    }
    return json.dumps(document, indent=2) + "\n"


def _guest_sources(sources: list[Source]) -> str:
    lines = []
    for source in sources:
        keyring = source.signed_by
        if keyring and not keyring.startswith("/usr/share/keyrings/debian-archive-"):
            keyring = f"/etc/apt/keyrings/{Path(keyring).name}"
        lines.append(source.line(keyring) + "\n")
    return "".join(lines)


def _own_files() -> Iterator[tuple[str, bytes, int]]:
    """This project's files that images hold or are made with: name, content and mode, always in one order."""
    for label, top, pattern in (("", _ASSETS, "*"), ("guest/", _GUEST, "*.py")):
        for path in sorted(top.rglob(pattern)):
            if path.is_file() and "__pycache__" not in path.parts:
                data = path.read_bytes()
                # By content: a wheel does not keep the executable bit.
                mode = 0o755 if data.startswith(b"#!") else 0o644
                name = label + path.relative_to(top).as_posix()
                yield name if "/" in name else f"build/{name}", data, mode


def _lines(words: tuple[str, ...]) -> bytes:
    return "".join(f"{word}\n" for word in words).encode()


def _tar(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """An archive without entries for folders, so that unpacking it changes none that exist."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, (data, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode = len(data), mode
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()
