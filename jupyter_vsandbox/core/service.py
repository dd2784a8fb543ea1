"""Every verb on sandboxes, and the only writer of their records.

The service is made of layers, each a module of this package that knows those before it alone:
`Access` (what there is), `Lifecycle` (how machines start and end), `Labels` (names), `History`
(snapshots), `Travel` (to a snapshot and back), `Copies` (new sandboxes from snapshots), and here
who uses a sandbox.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from jupyter_vsandbox.core import owner
from jupyter_vsandbox.core.copies import Copies
from jupyter_vsandbox.domain.errors import Conflict, NotFound
from jupyter_vsandbox.domain.model import Sandbox, State

if TYPE_CHECKING:
    import builtins
    from collections.abc import AsyncIterator


class SandboxService(Copies):
    """All verbs. One per process is enough; several processes may have one at once."""

    async def claim(self, sandbox_id: str, kernel_id: str, notebook: str = "") -> Sandbox:
        """Give the calling process a sandbox that nobody uses, running.

        Raises:
            Conflict: another process uses it.
        """
        async with self._settled(sandbox_id) as sandbox:
            if sandbox.owner and owner.lives(sandbox.owner):
                raise Conflict(f"Sandbox {sandbox_id} is in use by another kernel; fork it to have your own.")
            mine = self._store.change(
                sandbox_id,
                owner=owner.this_process(),
                kernel_id=kernel_id,
                notebook=notebook or sandbox.notebook,
            )
            try:
                if mine.state is State.STOPPED:
                    return await self._boot(mine)
                return mine if mine.state is State.RUNNING else await self._wake(mine)
            except BaseException:
                self._store.change(
                    sandbox_id, owner="", kernel_id=sandbox.kernel_id, notebook=sandbox.notebook
                )
                raise

    @contextlib.asynccontextmanager
    async def borrowed(self, sandbox_id: str) -> AsyncIterator[Sandbox]:
        """A sandbox that nobody uses, running, for the length of a block; it runs on after that.

        Raises as `claim` does.
        """
        claimed = await self.claim(sandbox_id, "")
        try:
            yield claimed
        finally:
            async with self._lock(sandbox_id):
                with contextlib.suppress(NotFound):
                    self._store.change(sandbox_id, owner="")

    def bound(self, notebook: str, runtime: str, driver: str = "qemu") -> str:
        """The id of the sandbox of a notebook that a driver runs; "" for none.

        Of several, one that no living process uses comes first, then the newest: each but the first was
        made because a kernel was in the others, see `claim`.
        """
        wanted = (notebook, runtime, driver)
        found = [s for s in self.list() if notebook and (s.notebook, s.runtime, s.driver) == wanted]
        in_use = [bool(s.owner) and owner.lives(s.owner) for s in found]
        free = [sandbox for sandbox, used in zip(found, in_use, strict=True) if not used]
        return (free or found)[-1].id if found else ""

    def rebind(self, old: str, new: str) -> builtins.list[Sandbox]:
        """A notebook, or a folder with notebooks, has another path: their sandboxes go with them.

        What was bound to the new path was another notebook's, see `unbind`. Returns those that were bound.
        """
        self.unbind(new)
        return self._store.move_notebooks(old, new)

    def unbind(self, path: str) -> builtins.list[Sandbox]:
        """A notebook, or a folder with notebooks, was deleted: its sandboxes stay, named after it.

        They stay because what they hold was never in the notebook. They are not bound any more: the next
        notebook of that path, such as ``Untitled.ipynb``, is another one. Returns those that were bound.
        """
        return self._store.move_notebooks(path, "")
