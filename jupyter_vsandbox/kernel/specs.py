"""Writes the kernelspecs through which Jupyter offers the runtimes.

See https://jupyter-client.readthedocs.io/en/stable/kernels.html#kernel-specs.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

if TYPE_CHECKING:
    from jupyter_vsandbox.runtimes.recipe import Recipe


LOGO = "logo-svg.svg"
"""What launchers show of a kernel, by this name."""

ATTACH = "VSANDBOX_ATTACH"
"""Environment variable for a kernel that is to run in a sandbox that exists: its id."""


@dataclass(frozen=True)
class Offer:
    """What Jupyter shows of a runtime that has no recipe here.

    Attributes:
        name: the runtime's name.
        display_name: what the kernel picker shows.
        language: the kernel's language, for instance ``python``.
    """

    name: str
    display_name: str
    language: str


_TITLES = {"vsphere": "vSphere"}
_TRAILING = re.compile(r"\s*\([^()]*\)$")


def spec_name(runtime: str, driver: str = "qemu") -> str:
    """The kernel's name in Jupyter; `driver` may be ``NAME:POOL``."""
    return f"vsandbox-{runtime}" + ("" if driver == "qemu" else f"-{driver.replace(':', '-')}".lower())


def display_name(recipe: Recipe | Offer, driver: str = "qemu") -> str:
    """What the kernel picker shows: "Python 3.11 (vSphere, iot-pool)"."""
    if driver == "qemu":
        return recipe.display_name
    name, _, pool = driver.partition(":")
    where = ", ".join(filter(None, (_TITLES.get(name, name), pool)))
    return f"{_TRAILING.sub('', recipe.display_name)} ({where})"


def kernel_json(recipe: Recipe | Offer, driver: str = "qemu") -> dict[str, object]:
    """The content of ``kernel.json``."""
    return {
        # Never run on the host: the provisioner starts what the guest's own recipe says.
        "argv": ["jupyter-vsandbox", "{connection_file}"],
        "display_name": display_name(recipe, driver),
        "language": recipe.language,
        "interrupt_mode": "signal",
        "kernel_protocol_version": "5.5",
        "metadata": {
            "debugger": recipe.language == "python",
            "kernel_provisioner": {
                "provisioner_name": "vsandbox",
                "config": {"runtime": recipe.name, "driver": driver},
            },
            "vsandbox": {"runtime": recipe.name, "driver": driver},
        },
    }


def install(recipe: Recipe | Offer, driver: str = "qemu") -> str:
    """Write or replace the kernelspec of a runtime in this Python environment, or for this user.

    Returns:
        the folder it is in.
    """
    in_environment = sys.prefix != sys.base_prefix
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "kernel.json").write_text(json.dumps(kernel_json(recipe, driver), indent=1) + "\n")
        (Path(folder) / LOGO).write_text(resources.files(__package__).joinpath(LOGO).read_text())
        return KernelSpecManager().install_kernel_spec(
            folder,
            kernel_name=spec_name(recipe.name, driver),
            user=not in_environment,
            prefix=sys.prefix if in_environment else None,
        )


def uninstall(runtime: str) -> None:
    """Remove the kernelspecs of a runtime, for whatever driver. Harmless if there is none."""
    for name in KernelSpecManager().find_kernel_specs():
        if name == spec_name(runtime) or name.startswith(spec_name(runtime, "vsphere")):
            remove(name)


def remove(kernel: str) -> None:
    """Remove a kernelspec by its name. Harmless if there is none."""
    with contextlib.suppress(NoSuchKernel):
        KernelSpecManager().remove_kernel_spec(kernel)


def ours() -> list[str]:
    """The names of all kernelspecs that start sandboxes, also of runtimes that have no recipe any more."""
    every = KernelSpecManager().get_all_specs()
    return sorted(name for name, found in every.items() if "vsandbox" in found["spec"].get("metadata", {}))


def installed(runtime: str) -> bool:
    """Whether Jupyter offers the runtime."""
    return spec_name(runtime) in KernelSpecManager().find_kernel_specs()
