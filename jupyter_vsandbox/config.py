"""Configuration at the Jupyter edge: traitlets in, plain `Settings` out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_core.paths import jupyter_config_path
from traitlets import Bool, Dict, Enum, Float, Int, List, TraitError, Unicode, default
from traitlets.config import Config, Configurable
from traitlets.config.loader import (
    ConfigFileNotFound,
    JSONFileConfigLoader,
    PyFileConfigLoader,
)

from jupyter_vsandbox.domain.errors import InvalidRequest
from jupyter_vsandbox.settings import ResourcePool, Settings, VCenter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traitlets.config.loader import FileConfigLoader

BASENAME = "jupyter_vsandbox_config"
_CONTENTS_MANAGERS = (
    "ContentsManager",
    "AsyncContentsManager",
    "FileContentsManager",
    "AsyncFileContentsManager",
    "LargeFileManager",
    "AsyncLargeFileManager",
)


class VSandbox(Configurable):
    """The sandboxes of this user: a trait for each field of `Settings`, with the same default."""

    home = Unicode(
        help="Folder for images, templates, sandboxes and the store. The environment variable "
        "JUPYTER_VSANDBOX_HOME sets the default."
    ).tag(config=True)

    recipe_folders = List(
        Unicode(),
        default_value=[],
        help="More folders with recipes (*.toml). A recipe in a later folder replaces one of the same "
        "name in an earlier folder or among the built-in ones; the user's own replace them all.",
    ).tag(config=True)

    accelerator = Enum(
        ["auto", "kvm", "tcg"],
        default_value=Settings.accelerator,
        help="How guests run: 'kvm' needs hardware virtualization; 'tcg' emulates, which is about ten "
        "times slower and no security boundary; 'auto' takes KVM where a guest really boots on it.",
    ).tag(config=True)

    standby = Int(
        Settings.standby,
        min=0,
        help="How many warm machines to keep running for each runtime that was used; 0 for none.",
    ).tag(config=True)

    standby_seconds = Float(
        Settings.standby_seconds,
        min=0.0,
        help="A warm machine that nobody claims powers itself off after this many seconds.",
    ).tag(config=True)

    memory_budget = Int(
        Settings.memory_budget,
        min=0,
        help="Bytes of memory that all machines together may claim; 0 means what the host has.",
    ).tag(config=True)

    memory_overcommit = Float(
        Settings.memory_overcommit,
        min=0.0,
        help="Bytes of guest memory to promise for each byte of host memory.",
    ).tag(config=True)

    translation_cache = Int(
        Settings.translation_cache,
        min=0,
        help="Bytes of translated code that each emulated machine may keep.",
    ).tag(config=True)

    automatic_snapshots = Int(
        Settings.automatic_snapshots,
        min=0,
        help="How many snapshots that nobody asked for to keep per sandbox: those taken before a cell "
        "installs or removes packages, after long cells and before rollbacks. 0 to take none by themselves.",
    ).tag(config=True)

    automatic_snapshot_age = Float(
        Settings.automatic_snapshot_age, min=0, help="Seconds to keep such snapshots; 0 for no limit."
    ).tag(config=True)

    automatic_snapshot_bytes = Int(
        Settings.automatic_snapshot_bytes,
        min=0,
        help="Bytes that such snapshots of one sandbox may take; 0 for no limit.",
    ).tag(config=True)

    long_cell = Float(
        Settings.long_cell,
        min=0,
        help="Seconds that cells must have run for a snapshot after them; 0 for none.",
    ).tag(config=True)

    hibernate_after = Float(
        Settings.hibernate_after,
        min=0,
        help="Seconds after which a kernel's machine hibernates by itself: without a cell, a message of a "
        "client or noticeable use of the processor. The next message wakes it. 0 for never.",
    ).tag(config=True)

    workspace = Enum(
        ["write", "read", "none"],
        default_value=Settings.workspace,
        help="What a machine may do with the folder of its notebook, which is ~/work in there: 'write' to "
        "read and write it, as a local kernel does, 'read' to read it, 'none' to have none. No snapshot "
        "holds it.",
    ).tag(config=True)

    workspace_hidden = Bool(
        help="Whether a machine sees and may write what begins with a dot in that folder, which is often a "
        "home with keys in it. The default is what ContentsManager.allow_hidden says.",
    ).tag(config=True)

    mirror = Unicode(
        help="The Debian archive to build images from where the host's own apt sources name none, "
        "optionally followed by a blank and the security archive. The environment variable "
        "JUPYTER_VSANDBOX_MIRROR sets the default."
    ).tag(config=True)

    @default("home")
    def _default_home(self) -> str:
        return str(Settings().home)

    @default("workspace_hidden")
    def _default_workspace_hidden(self) -> bool:
        managers = (self.config[name] for name in _CONTENTS_MANAGERS if name in self.config)
        return any(manager.get("allow_hidden") is True for manager in managers)

    @default("mirror")
    def _default_mirror(self) -> str:
        return Settings().mirror

    def settings(self) -> Settings:
        """Return the same values without traitlets."""
        return Settings(
            home=Path(self.home).expanduser().absolute(),
            recipe_folders=tuple(Path(folder).expanduser().absolute() for folder in self.recipe_folders),
            accelerator=self.accelerator,
            standby=self.standby,
            standby_seconds=self.standby_seconds,
            memory_budget=self.memory_budget,
            memory_overcommit=self.memory_overcommit,
            translation_cache=self.translation_cache,
            automatic_snapshots=self.automatic_snapshots,
            automatic_snapshot_age=self.automatic_snapshot_age,
            automatic_snapshot_bytes=self.automatic_snapshot_bytes,
            long_cell=self.long_cell,
            hibernate_after=self.hibernate_after,
            workspace=self.workspace,
            workspace_hidden=self.workspace_hidden,
            mirror=self.mirror,
            vcenter=VSphere(parent=self).settings(),
        )


class VSphere(Configurable):
    """The vCenter of the vSphere driver: a trait for each field of `VCenter`, with the same default.

    There is none for the password: it comes from a file, from the environment variable
    JUPYTER_VSANDBOX_VSPHERE_PASSWORD or from the keyring's entry for service "jupyter_vsandbox HOST".
    """

    host = Unicode(VCenter.host, help="The vCenter's name; without one there is no vSphere.").tag(config=True)

    port = Int(VCenter.port, min=1, max=65535, help="The port that the vCenter listens on.").tag(config=True)

    user = Unicode(
        VCenter.user,
        help="Who logs in. Without it, the environment variable JUPYTER_VSANDBOX_VSPHERE_USER says.",
    ).tag(config=True)

    password_file = Unicode(
        VCenter.password_file, help="A file with the password and nothing else, for your eyes only."
    ).tag(config=True)

    ca = Unicode(
        VCenter.ca,
        help="A file with the certificates (PEM) that the vCenter's is checked against; without it, those "
        "that this host trusts. It is always checked.",
    ).tag(config=True)

    datacenter = Unicode(VCenter.datacenter, help="The datacenter; needs no name where there is one.").tag(
        config=True
    )

    cluster = Unicode(
        VCenter.cluster, help="The cluster, or host, that machines run on; needs no name where there is one."
    ).tag(config=True)

    folder = Unicode(
        VCenter.folder,
        help="The folder of virtual machines that all of ours are in, made where it is missing.",
    ).tag(config=True)

    datastore = Unicode(
        VCenter.datastore, help="The datastore for disks; needs no name where there is one."
    ).tag(config=True)

    network = Unicode(
        VCenter.network,
        help="The network that machines are connected to; needs no name where there is one. It must hand out "
        "addresses, and this host must reach them.",
    ).tag(config=True)

    prefix = Unicode(VCenter.prefix, help="What the names of our virtual machines begin with.").tag(
        config=True
    )

    clone = Enum(
        ["auto", "instant", "linked"],
        default_value=VCenter.clone,
        help="How machines come to be: 'linked' boots from a linked clone; 'instant' clones a running one "
        "with a warm kernel; 'auto' does that where the vCenter can, and boots where it cannot.",
    ).tag(config=True)

    pools = List(
        Dict(),
        default_value=[],
        help="Resource pools to offer, made where they are missing. Each is a dictionary with a 'name' and, "
        "as wanted, 'memory_limit' and 'memory_reservation' in bytes, 'cpu_limit' and 'cpu_reservation' in "
        "MHz, 'shares' ('low', 'normal' or 'high'), 'reserve' (true: each machine has its memory "
        "reserved), and 'gpu' (the vGPU profile that each machine gets, whatever its recipe says).",
    ).tag(config=True)

    parallel = Int(VCenter.parallel, min=1, help="How many calls to make at a time.").tag(config=True)

    call_seconds = Float(VCenter.call_seconds, min=1.0, help="Seconds that a call may take.").tag(config=True)

    task_seconds = Float(
        VCenter.task_seconds, min=1.0, help="Seconds that a task, such as a clone, may take."
    ).tag(config=True)

    boot_seconds = Float(
        VCenter.boot_seconds, min=1.0, help="Seconds that a guest may take to boot and tell its address."
    ).tag(config=True)

    snapshot_age = Float(
        VCenter.snapshot_age,
        min=0.0,
        help="Seconds that a snapshot should stay at most; 0 for no limit. VMware advises 72 hours. Older "
        "ones that nobody asked for are removed, of the others people are warned.",
    ).tag(config=True)

    snapshot_chain = Int(
        VCenter.snapshot_chain,
        min=0,
        help="How many snapshots of a machine should stand one above the other at most; 0 for no limit. "
        "VMware advises 2 to 3, and allows 32. More that nobody asked for are removed, of others people are "
        "warned.",
    ).tag(config=True)

    def settings(self) -> VCenter:
        """Return the same values without traitlets.

        Raises:
            InvalidRequest: a pool is not described as it should be.
        """
        values = {name: getattr(self, name) for name in self.trait_names(config=True)}
        pools = []
        for pool in self.pools:
            try:
                pools.append(ResourcePool(**pool))
            except TypeError as error:
                raise InvalidRequest(f"Mend VSphere.pools, {pool}: {error}") from error
        return VCenter(**values | {"pools": tuple(pools)})


def load_settings(config: Config | None = None) -> Settings:
    """Return the settings that hold in this process.

    Each source overrides the ones before it: the defaults, ``jupyter_vsandbox_config.py`` and
    ``.json`` on Jupyter's configuration path, in its order of precedence, `config`. The files
    are read here because nbclient, papermill and the command line have no server to read them.

    Args:
        config: the configuration of the surrounding application, if there is one.

    Raises:
        InvalidRequest: a file cannot be read, or a value is not of its kind.
    """
    merged = Config()
    try:
        for loader in _loaders():
            try:
                merged.merge(loader.load_config())
            except ConfigFileNotFound:
                continue
            except Exception as error:  # a Python file may raise anything
                raise InvalidRequest(f"{loader.full_filename} cannot be read: {error}") from error
        if config is not None:
            merged.merge(config)
        return VSandbox(config=merged).settings()
    except TraitError as error:
        raise InvalidRequest(f"Mend the configuration: {error}") from error


def _loaders() -> Iterator[FileConfigLoader]:
    for folder in reversed(jupyter_config_path()):
        yield PyFileConfigLoader(f"{BASENAME}.py", path=folder)
        yield JSONFileConfigLoader(f"{BASENAME}.json", path=folder)
