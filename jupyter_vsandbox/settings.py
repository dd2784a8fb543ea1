"""Where the project keeps its files, and every knob, as plain values.

The environment is read here and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

# Unix socket paths are limited to 107 bytes (man 7 unix); the longest name below a runtime
# folder is "/<12 digits>/control" plus a margin.
_LONGEST_RUNTIME = 107 - 32


def _home() -> Path:
    if explicit := os.environ.get("JUPYTER_VSANDBOX_HOME"):
        return Path(explicit).expanduser().absolute()
    data = os.environ.get("JUPYTER_DATA_DIR")
    if data:
        return Path(data).absolute() / "vsandbox"
    xdg = os.environ.get("XDG_DATA_HOME")
    base = Path(xdg) if xdg else Path.home() / ".local" / "share"
    return base / "jupyter" / "vsandbox"


@dataclass(frozen=True)
class ResourcePool:
    """A share of a cluster, made where it is missing.

    Attributes:
        name: of the resource pool.
        memory_limit: bytes that its machines may take together; 0 for no limit.
        memory_reservation: bytes that it has in any case.
        cpu_limit: MHz that its machines may take together; 0 for no limit.
        cpu_reservation: MHz that it has in any case.
        shares: ``low``, ``normal`` or ``high``: what it gets where others want the same.
        reserve: whether each machine has all of its memory reserved.
        gpu: the vGPU profile that each machine gets, "" for that of its recipe.
    """

    name: str
    memory_limit: int = 0
    memory_reservation: int = 0
    cpu_limit: int = 0
    cpu_reservation: int = 0
    shares: str = "normal"
    reserve: bool = False
    gpu: str = ""


@dataclass(frozen=True)
class VCenter:
    """A vCenter, and where on it sandboxes are. No secret is in here.

    Attributes:
        host: its name; "" for none.
        port: where it listens.
        user: who logs in; else the environment says.
        password_file: holds the password and nothing else; else the environment or the keyring has it.
        ca: file with the certificates to trust, "" for those of the host.
        datacenter: its name, "" for the only one.
        cluster: of the cluster or host that machines run on, "" for the only one.
        folder: of virtual machines, made where it is missing; all that is ours is in there.
        datastore: for disks, "" for the only one.
        network: what machines are connected to, "" for the only one.
        prefix: what names of our virtual machines begin with.
        clone: ``instant``, ``linked``, or ``auto`` for Instant Clone where it is to be had.
        pools: resource pools; machines of none are in the cluster's own.
        parallel: calls at a time.
        call_seconds: what a call may take.
        task_seconds: what a task may take.
        boot_seconds: how long a guest may take to tell its address.
        snapshot_age: seconds that a snapshot should stay at most; 0 for no limit.
        snapshot_chain: how many snapshots should stand one above the other at most; 0 for no limit.
    """

    host: str = ""
    port: int = 443
    user: str = ""
    password_file: str = ""
    ca: str = ""
    datacenter: str = ""
    cluster: str = ""
    folder: str = "vsandbox"
    datastore: str = ""
    network: str = ""
    prefix: str = "vsandbox"
    clone: str = "auto"
    pools: tuple[ResourcePool, ...] = ()
    parallel: int = 32
    call_seconds: float = 60
    task_seconds: float = 900
    boot_seconds: float = 240
    snapshot_age: float = 72 * 3600
    snapshot_chain: int = 3


@dataclass(frozen=True)
class Credentials:
    """What a vCenter is told by whoever logs in."""

    user: str
    password: str = field(repr=False)


def credentials(vcenter: VCenter) -> Credentials:
    """The user, and the password "" where neither environment nor file tells it.

    From ``JUPYTER_VSANDBOX_VSPHERE_USER`` and ``JUPYTER_VSANDBOX_VSPHERE_PASSWORD``; what is configured
    comes before the environment.

    Raises:
        OSError: the file cannot be read.
    """
    user = vcenter.user or os.environ.get("JUPYTER_VSANDBOX_VSPHERE_USER", "")
    if vcenter.password_file:
        return Credentials(user, Path(vcenter.password_file).expanduser().read_text().rstrip("\n"))
    return Credentials(user, os.environ.get("JUPYTER_VSANDBOX_VSPHERE_PASSWORD", ""))


@dataclass(frozen=True)
class Settings:
    """All settings of one process.

    Attributes:
        home: images, templates, sandboxes and the store live below; created with mode 0700.
        recipe_folders: extra folders with recipes, later ones win over earlier and built-in ones.
        accelerator: ``auto``, ``kvm`` or ``tcg``.
        standby: how many warm machines to keep running per runtime that was used; 0 for none.
        standby_seconds: an unclaimed standby powers itself off after this time.
        memory_budget: bytes that all machines together may claim; 0 means what the host has.
        memory_overcommit: how many bytes of guest memory to promise per byte of host memory.
        translation_cache: bytes of translated code each emulated machine may keep.
        automatic_snapshots: how many snapshots that nobody asked for to keep per sandbox (before package
            changes and rollbacks, after long cells); 0 to take none by themselves and keep the rest.
        automatic_snapshot_age: seconds that they are kept; 0 for no limit.
        automatic_snapshot_bytes: how much those of a sandbox may take; 0 for no limit.
        long_cell: seconds that cells must have run for a snapshot after them; 0 for none.
        hibernate_after: seconds without use after which a kernel's sandbox hibernates; 0 for never.
        workspace: what a machine may do with its notebook's folder: ``write``, ``read`` or ``none``.
        workspace_hidden: whether names in it that begin with a dot are there, too.
        mirror: the Debian archive to build images from, where the host's own apt sources name none;
            optionally followed by a blank and the security archive. From ``JUPYTER_VSANDBOX_MIRROR``.
        vcenter: what the vSphere driver talks to.
    """

    home: Path = field(default_factory=_home)
    recipe_folders: tuple[Path, ...] = ()
    accelerator: str = "auto"
    standby: int = 1
    standby_seconds: float = 4 * 3600.0
    memory_budget: int = 0
    memory_overcommit: float = 1.5
    translation_cache: int = 64 * 1024 * 1024
    automatic_snapshots: int = 10
    automatic_snapshot_age: float = 30 * 24 * 3600
    automatic_snapshot_bytes: int = 8 * 1024**3
    long_cell: float = 60
    hibernate_after: float = 3600
    workspace: str = "write"
    workspace_hidden: bool = False
    mirror: str = field(default_factory=lambda: os.environ.get("JUPYTER_VSANDBOX_MIRROR", ""))
    vcenter: VCenter = VCenter()

    def to_json(self) -> str:
        """All values, for another process of this package."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        values = json.loads(text)
        values["home"] = Path(values["home"])
        values["recipe_folders"] = tuple(map(Path, values["recipe_folders"]))
        vcenter = values["vcenter"]
        vcenter["pools"] = tuple(ResourcePool(**pool) for pool in vcenter["pools"])
        values["vcenter"] = VCenter(**vcenter)
        return cls(**values)

    @property
    def images(self) -> Path:
        """Folder of built images."""
        return self.home / "images"

    @property
    def templates(self) -> Path:
        """Folder of warm templates."""
        return self.home / "templates"

    @property
    def sandboxes(self) -> Path:
        """Folder with a folder per sandbox."""
        return self.home / "sandboxes"

    @property
    def snapshots(self) -> Path:
        """Folder with a folder per snapshot."""
        return self.home / "snapshots"

    @property
    def layers(self) -> Path:
        """Folder of the disks that sandboxes and snapshots are made of."""
        return self.home / "layers"

    @property
    def archives(self) -> Path:
        """Folder of what is on its way into an archive, or out of one."""
        return self.home / "archives"

    @property
    def database(self) -> Path:
        """The SQLite store."""
        return self.home / "vsandbox.sqlite"

    @property
    def user_recipes(self) -> Path:
        """The user's own recipes."""
        return self.home / "runtimes"

    @property
    def sockets(self) -> Path:
        """Folder for unix sockets: below `home` where their paths stay short enough."""
        inside = self.home / "run"
        if len(os.fsencode(inside)) <= _LONGEST_RUNTIME:
            return inside
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        tag = f"vsandbox-{os.getuid()}-{hashlib.sha256(os.fsencode(self.home)).hexdigest()[:8]}"
        return Path(runtime or tempfile.gettempdir()) / tag


def fault() -> str:
    """What goes wrong in this process, for tests: see `faults`."""
    return os.environ.get("JUPYTER_VSANDBOX_FAULT", "")


def private_folder(path: Path) -> Path:
    """Make `path` (and its parents) and return it; nobody but its owner may look inside.

    Raises:
        PermissionError: somebody else owns it.
        NotADirectoryError: something else is there.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(
            f"{path} cannot be made: a file is in its place. Move that away, or set JUPYTER_VSANDBOX_HOME "
            "to another folder."
        ) from None
    status = path.stat()
    if status.st_uid != os.getuid():
        raise PermissionError(f"{path} belongs to another user; choose another JUPYTER_VSANDBOX_HOME.")
    if status.st_mode & 0o077:
        path.chmod(0o700)
    return path
