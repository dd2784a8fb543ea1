"""What a disk for VMware's hardware has and an image has not: VMware Tools, a boot loader, and files of ours.

Debian's cloud kernel, which images have, drives ESXi's NVMe disks and its own network cards as it is. VMware
Tools bring tens of megabytes of libraries along, so they are added where an image is published, not where it
is built.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox import programs
from jupyter_vsandbox.runtimes import bootstrap, hostconfig, mirror

if TYPE_CHECKING:
    from jupyter_vsandbox.settings import Settings

LOADER = "usr/lib/systemd/boot/efi/systemd-bootx64.efi"
OWN = Path(__file__).parent / "vmware"
"""Our files, as they are in the guest."""

_LOADER_INSIDE = frozenset({"stretch", "buster", "bullseye"})
"""The releases where systemd itself brings its boot loader."""
_NOT_INSTALLED = tuple(f"usr/share/{name}" for name in ("man", "info", "locale", "lintian", "bug"))


@dataclass(frozen=True)
class Additions:
    """What was got.

    Attributes:
        root: a folder of files for the root file system, all root's.
        loader: systemd-boot, `None` where the image has it.
    """

    root: Path
    loader: Path | None


def packages(suite: str) -> list[str]:
    """The Debian packages to add, dependencies aside."""
    return ["open-vm-tools", *([] if suite in _LOADER_INSIDE else ["systemd-boot-efi"])]


async def get(suite: str, arch: str, status: Path, settings: Settings, folder: Path) -> Additions:
    """Get all that is to be added.

    Args:
        suite: the Debian release of the image.
        arch: Debian's name for its processor.
        status: the image's ``/var/lib/dpkg/status``: what is installed is not got again.
        settings: whose mirror to use.
        folder: an empty one to work in.

    Raises:
        Unsupported: a program is missing, or there is no Debian archive to get packages from.
        Permanent: the packages are not to be had; the message has what apt said.
    """
    host = hostconfig.read()
    env = {"PATH": bootstrap.PATH, "HOME": str(folder), "LC_ALL": "C.UTF-8", **host.build_env}
    debs = await _download(suite, arch, status, settings, host, folder, env)
    root = folder / "root"
    root.mkdir()
    for deb in debs:
        await programs.run("dpkg-deb", "--extract", str(deb), str(root), package="dpkg", env=env)
    loader = (root / LOADER).rename(folder / "loader.efi") if (root / LOADER).exists() else None
    _prune(root)
    _add_own(root)
    return Additions(root, loader)


async def _download(
    suite: str,
    arch: str,
    status: Path,
    settings: Settings,
    host: hostconfig.HostConfig,
    folder: Path,
    env: dict[str, str],
) -> list[Path]:
    """Have apt fetch packages, and those that they need and `status` has not, in folders of its own."""
    apt = folder / "apt"
    for name in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/sources.list.d"):
        (apt / name).mkdir(parents=True)
    archives = apt / "var/cache/apt/archives"
    for path in (apt / "var/lib/apt/lists/partial", archives / "partial", apt / "var/log/apt"):
        path.mkdir(parents=True)
    sources = mirror.sources_for(suite, override=settings.mirror)
    lines = [source.line(source.signed_by or mirror.DEBIAN_KEYRING) for source in sources]
    (apt / "etc/apt/sources.list").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = [
        f'Dir "{apt}/"',
        f'Dir::State::status "{status}"',
        f'APT::Architecture "{arch}"',
        f'APT::Architectures {{ "{arch}"; }}',
        'APT::Sandbox::User "root"',
        'APT::Install-Recommends "false"',
        'Acquire::Languages "none"',
        *host.apt_options,
    ]
    (apt / "apt.conf").write_text("".join(f"{option};\n" for option in options), encoding="utf-8")
    env = env | {"APT_CONFIG": str(apt / "apt.conf"), "DEBIAN_FRONTEND": "noninteractive"}
    await programs.run("apt-get", "update", "--quiet", "--error-on=any", package="apt", env=env)
    wanted = packages(suite)
    await programs.run("apt-get", "install", "--yes", "--download-only", *wanted, package="apt", env=env)
    return sorted(archives.glob("*.deb"))


def _prune(root: Path) -> None:
    """Take away what images leave out, too."""
    for name in _NOT_INSTALLED:
        shutil.rmtree(root / name, ignore_errors=True)
    for path in list((root / "usr/share/doc").rglob("*")):
        if not path.is_dir() and path.name != "copyright":
            path.unlink()


def _add_own(root: Path) -> None:
    """Add our files, and have those services start that are to."""
    for path in OWN.rglob("*"):
        if not path.is_file():
            continue
        data, target = path.read_bytes(), root / path.relative_to(OWN)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        # By content: a wheel does not keep the executable bit.
        target.chmod(0o755 if data.startswith(b"#!") else 0o644)
        if b"WantedBy=multi-user.target" in data:
            wants = target.parent / "multi-user.target.wants"
            wants.mkdir(exist_ok=True)
            (wants / path.name).symlink_to(f"../{path.name}")
