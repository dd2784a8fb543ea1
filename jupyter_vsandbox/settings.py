"""Where the project keeps its files, and every knob, as plain values.

The environment is read here and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass, field, fields
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
        mirror: the Debian archive to build images from, where the host's own apt sources name none;
            optionally followed by a blank and the security archive. From ``JUPYTER_VSANDBOX_MIRROR``.
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
    mirror: str = field(default_factory=lambda: os.environ.get("JUPYTER_VSANDBOX_MIRROR", ""))

    def to_json(self) -> str:
        """All values, for another process of this package."""
        return json.dumps({f.name: getattr(self, f.name) for f in fields(self)}, default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`."""
        values = json.loads(text)
        values["home"] = Path(values["home"])
        values["recipe_folders"] = tuple(map(Path, values["recipe_folders"]))
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
