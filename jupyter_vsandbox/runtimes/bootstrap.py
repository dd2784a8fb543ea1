"""Making the root file system with mmdebstrap: what it needs, the command, and its progress."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import Unsupported
from jupyter_vsandbox.runtimes import payload
from jupyter_vsandbox.runtimes.mirror import DEBIAN_KEYRING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jupyter_vsandbox.runtimes.hostconfig import HostConfig
    from jupyter_vsandbox.runtimes.mirror import Source
    from jupyter_vsandbox.runtimes.recipe import Recipe

DISK_LABEL = "vsandbox"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "qemu-img": "qemu-utils",
    "debugfs": "e2fsprogs",
    "mke2fs": "e2fsprogs",
    "unshare": "util-linux",
    "setpriv": "util-linux",
}
_CAP_SYS_ADMIN = 21
_ROOTLESS_TOOLS = {"newuidmap": "uidmap"}
_NOT_INSTALLED = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/share/bug/*",
)
_APT_STEP = re.compile(
    r"Get:\d+ .* (?P<get>[a-z0-9][\w.+-]+) \w+ |Unpacking (?P<unpack>\S+)|Setting up (?P<set>\S+)"
)
_VERBS = {"get": "Downloading", "unpack": "Unpacking", "set": "Setting up"}
_PACKAGES = 160
"""About how many packages a system has; what apt itself says of it comes in two parts."""
# Where nothing can be mounted, ordinary users need the folder all the same: Python's process pools do. Where
# root may make no devices either (Podman, Buildah), a file has to do for /dev/null while the build runs.
_DEV = (
    'install -d -m 1777 "$1/dev/shm"; [ -c "$1/dev/null" ] || { : >"$1/dev/null"; chmod 0666 "$1/dev/null"; }'
)
# apt cannot work below a path with anything else in it.
_PLAIN_PATH = re.compile(r"[A-Za-z0-9/._+~-]+")


@dataclass(frozen=True)
class Outputs:
    """Where a build leaves its parts.

    Attributes:
        folder: the build's own folder.
    """

    folder: Path

    @property
    def raw(self) -> Path:
        """The file system, sparse."""
        return self.folder / "disk.raw"

    def part(self, name: str) -> Path:
        """One of ``vmlinuz``, ``initrd.img``, ``system.txt``, ``python.txt``, ``kernel.txt``."""
        return self.folder / name


def architecture() -> str:
    """Debian's name for this host's processor.

    Raises:
        Unsupported: images cannot be built for it.
    """
    machine = platform.machine()
    if machine not in _ARCHITECTURES:
        known = " and ".join(sorted(_ARCHITECTURES))
        raise Unsupported(f"Images can be built on {known}, and this machine is {machine}.")
    return _ARCHITECTURES[machine]


def require_tools() -> None:
    """Raise `Unsupported`, with the command that helps, unless everything a build needs is installed."""
    wanted = _TOOLS | ({} if os.geteuid() == 0 else _ROOTLESS_TOOLS)
    missing = {tool: package for tool, package in wanted.items() if shutil.which(tool, path=PATH) is None}
    if not Path(DEBIAN_KEYRING).exists():
        missing[DEBIAN_KEYRING] = "debian-archive-keyring"
    if missing:
        packages = " ".join(sorted(set(missing.values())))
        raise Unsupported(
            f"Building an image needs {', '.join(sorted(missing))}. Install with: sudo apt install {packages}"
        )


def may_mount() -> bool:
    """Whether this process is root with all its rights: in most containers root may mount nothing."""
    if os.geteuid() != 0:
        return False
    status = Path("/proc/self/status").read_text(encoding="ascii")
    capabilities = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return capabilities is not None and bool(int(capabilities[1], 16) >> _CAP_SYS_ADMIN & 1)


def scratch(folder: Path) -> Path:
    """Where mmdebstrap may unpack the system: in the build's own `folder` where that is possible.

    An ordinary user's build runs under other user ids, which cannot enter the user's folders.
    """
    if os.geteuid() == 0 and _PLAIN_PATH.fullmatch(str(folder)):
        inside = folder / "tmp"
        inside.mkdir(mode=0o755, exist_ok=True)
        return inside
    return Path("/var/tmp")  # noqa: S108 - mmdebstrap makes an unguessable folder in it


def command(
    recipe: Recipe,
    sources: Sequence[Source],
    host: HostConfig,
    outputs: Outputs,
    disk_fd: int,
    arch: str,
) -> list[str]:
    """The mmdebstrap command that makes the file system of `recipe`.

    Args:
        recipe: what to build.
        sources: apt sources, the release itself first.
        host: apt options are taken from it.
        outputs: holds ``early.tar`` and ``late.tar``; kernel, initrd and package lists are written there.
        disk_fd: an inherited descriptor of the sparse file. Under other user ids its path cannot be
            entered, but ``/proc/self/fd`` can be opened.
        arch: Debian's name for the processor.
    """
    folder = payload.BUILD_FOLDER
    disk = f"/proc/self/fd/{disk_fd}"
    root = os.geteuid() == 0
    mounts = may_mount() or not root
    # A bind mount does not show what is mounted inside (/proc, /sys, /dev); where nothing can be, nothing is.
    look = (
        'mount --bind "$1" "$1/mnt"; '
        'for folder in tmp run; do mount -t tmpfs -o mode=1777 none "$1/mnt/$folder"; done; '
        'chmod 0755 "$1/mnt/run"; system="$1/mnt"; '
        if mounts
        else 'rm -rf "$1"/tmp/* "$1"/run/*; system="$1"; '
    )
    make_disk = (
        f"set -e; {look}"
        f"MKE2FS_CONFIG=/proc/self/fd/8 mke2fs -q -F -t ext4 -L {DISK_LABEL} -m 0 -J size=32 "
        f'-d "$system" {disk} {recipe.machine.disk // 1024}k'
        f"{'' if mounts else '; ' + with_console(disk)}"
    )
    apart = "exec unshare --mount" if mounts else "exec"
    keep_config = f'exec 8<"$1{folder}/mke2fs.conf"; chroot "$1" sh {folder}/seal.sh; '
    hooks = [
        *([] if mounts else [("essential", _DEV)]),
        ("essential", f"tar-in {shlex.quote(str(outputs.part('early.tar')))} /"),
        ("customize", f"tar-in {shlex.quote(str(outputs.part('late.tar')))} /"),
        ("customize", f'chroot "$1" sh {folder}/customize.sh'),
        *(
            ("customize", f"download {inside} {shlex.quote(str(outputs.part(Path(inside).name)))}")
            for inside in (
                "/boot/vsandbox/vmlinuz",
                "/boot/vsandbox/initrd.img",
                *(f"{folder}/{name}.txt" for name in ("system", "python", "kernel")),
            )
        ),
        ("customize", f'set -e; {keep_config}{apart} sh -c {shlex.quote(make_disk)} sh "$1"'),
    ]
    prefix = ["setpriv", "--pdeathsig", "KILL" if root and mounts else "TERM", "--"]
    if root and mounts:
        # However it ends, no process and no mount of the build is left on the host.
        prefix += ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
    return [
        *prefix,
        "mmdebstrap",
        f"--mode={'root' if root else 'unshare'}",
        "--variant=apt",
        "--format=null",
        "--verbose",
        f"--architectures={arch}",
        f"--include={','.join(payload.packages(recipe, arch))}",
        *(f"--aptopt={option}" for option in ('Acquire::Languages "none"', *host.apt_options)),
        *(f"--dpkgopt={option}" for option in _NOT_INSTALLED),
        *(f"--{kind}-hook={hook}" for kind, hook in hooks),
        recipe.base.suite,
        "/dev/null",
        *(source.line(source.signed_by or DEBIAN_KEYRING) for source in sources),
    ]


def with_console(disk: str) -> str:
    """A shell command that gives the file system in `disk` the console without which no init starts.

    For a system, in the folder ``$1``, that was made where nobody may make a device.
    """
    return (
        '[ -c "$1/dev/console" ] || printf "cd dev\\nmknod console c 5 1\\nsif console mode 020600\\n" '
        f"| debugfs -w -f - {disk}"
    )


class Watcher:
    """Turns the lines of a build into progress from 0 to 1.

    Args:
        report: called with a stage (``system`` or ``python``), the fraction, and a line to show.
    """

    _SHARE = 0.55
    """The part of the time that the Debian packages take; the rest is `customize.sh` and the file system."""

    def __init__(self, report: Callable[[str, float, str], None]) -> None:
        self._report = report
        self._expected = 0
        self._seen = 0
        self._stage = "system"
        self._fraction = 0.0
        self._pip_lines = 0

    def __call__(self, line: str) -> None:
        """Take notice of one line."""
        if line.startswith("@vsandbox "):
            _, fraction, text = line.split(" ", 2)
            self._stage = "python" if "notebook" in text or self._stage == "python" else self._stage
            self._pip_lines = 0
            self._advance(self._SHARE + (0.95 - self._SHARE) * float(fraction), text)
        elif match := re.search(r"(\d+) newly installed", line):
            self._expected += int(match[1])
        elif match := _APT_STEP.match(line):
            self._seen += 1
            share = min(1.0, self._seen / (3.0 * max(self._expected, _PACKAGES)))
            verb, name = next((verb, name) for verb, name in match.groupdict().items() if name)
            self._advance(self._SHARE * share, f"{_VERBS[verb]} {name.split(':')[0]}")
        elif re.match(r"(?:Collecting|  Downloading|Installing collected)", line):
            self._pip_lines += 1
            room = 0.25 * self._pip_lines / (self._pip_lines + 30.0)
            self._advance(max(self._fraction, self._SHARE + 0.05 + room), line.strip()[:100])

    def _advance(self, fraction: float, text: str) -> None:
        self._fraction = max(self._fraction, min(fraction, 1.0))
        self._report(self._stage, self._fraction, text)
