"""What people call sandboxes and snapshots, and whose a sandbox is.

These verbs touch the record only, never a machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyter_vsandbox.core import owner
from jupyter_vsandbox.core.lifecycle import Lifecycle
from jupyter_vsandbox.domain.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Collection

    from jupyter_vsandbox.domain.model import Sandbox, Snapshot


class Labels(Lifecycle):
    """The part of the service that names things."""

    def require_free(self, name: str, sandbox_id: str = "") -> None:
        """Raise `Conflict` if a sandbox other than `sandbox_id` is called `name`.

        Two at once may still both get it; whoever uses the name then is asked for more.
        """
        for each in self.list():
            if name and each.name == name and each.id != sandbox_id:
                raise Conflict(f"Sandbox {each.id} is called {name!r} already; choose another name.")

    async def rename(self, sandbox_id: str, name: str) -> Sandbox:
        """Give a sandbox another name, or none.

        Raises:
            NotFound: there is no such sandbox.
            Conflict: another one has that name.
        """
        self.require_free(name, sandbox_id)
        return self._store.change(sandbox_id, name=name)

    async def annotate(
        self, snapshot_id: str, *, name: str | None = None, note: str | None = None
    ) -> Snapshot:
        """Give a snapshot another name or note; `None` leaves what there is.

        Raises:
            NotFound: there is no such snapshot.
            Conflict: its history has another one of that name.
        """
        values = {key: value for key, value in (("name", name), ("note", note)) if value is not None}
        return self._store.label_snapshot(snapshot_id, **values)

    async def bind(self, sandbox_id: str, notebook: str) -> Sandbox:
        """Make a sandbox that of a notebook: a new kernel for that attaches to it.

        Args:
            sandbox_id: which.
            notebook: the path of its file on this host, as Jupyter tells it kernels.

        Raises:
            NotFound: there is no such sandbox.
            Conflict: a living process uses it for another notebook.
        """
        async with self._lock(sandbox_id):
            sandbox = self.get(sandbox_id)
            if sandbox.notebook != notebook and sandbox.owner and owner.lives(sandbox.owner):
                raise Conflict(f"Sandbox {sandbox_id} is in use by the kernel of another notebook.")
            return self._store.change(sandbox_id, notebook=notebook)

    def follow(self, kernel_id: str, notebooks: Collection[str], notebook: str) -> Sandbox | None:
        """A notebook is saved: if its kernel's sandbox is bound to one that the kernel left, it goes along.

        What was bound to the saved one was another notebook's, and stays under that one's name.

        Args:
            kernel_id: Jupyter's id of the kernel.
            notebooks: paths of all that use the kernel now.
            notebook: path of the one of them that is saved.

        Returns:
            the sandbox; `None` if it is bound to one that uses the kernel, or if there is none.
        """
        for sandbox in self.list():
            if sandbox.kernel_id == kernel_id and sandbox.notebook not in notebooks:
                self._store.move_notebooks(notebook, "")
                return self._store.change(sandbox.id, notebook=notebook)
        return None

    async def place(self, sandbox_id: str, folder: str) -> Sandbox:
        """Remember what the kernel of a sandbox was given to work in, for where no notebook is known.

        Raises:
            NotFound: there is no such sandbox.
        """
        return self._store.change(sandbox_id, folder=folder)

    async def offer(self, sandbox_id: str) -> Sandbox:
        """Leave a sandbox that the calling process has started to whoever asks for it first.

        Raises:
            NotFound: there is no such sandbox.
        """
        return self._store.change(sandbox_id, owner="")
