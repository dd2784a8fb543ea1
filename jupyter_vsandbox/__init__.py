"""Jupyter kernels that each run in a virtual machine of their own."""

from importlib.metadata import version
from typing import Any

__version__ = version("jupyter_vsandbox")


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Called by Jupyter Server."""
    from jupyter_vsandbox.server.app import VSandboxExtension

    return [{"module": "jupyter_vsandbox.server.app", "app": VSandboxExtension}]


def load_ipython_extension(shell: Any) -> None:  # noqa: ANN401 - IPython has no types
    """Called by ``%load_ext jupyter_vsandbox``."""
    from jupyter_vsandbox.kernel.native import load

    load(shell)


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    """Called by ``jupyter-builder develop``."""
    return [{"src": "labextension", "dest": "jupyter-vsandbox"}]
