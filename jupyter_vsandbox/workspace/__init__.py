"""The host's end of the notebook's folder in a guest: a jail of the kernel's making, served by SFTP."""

from jupyter_vsandbox.workspace.jail import Jail
from jupyter_vsandbox.workspace.serving import Serving

__all__ = ["Jail", "Serving"]
