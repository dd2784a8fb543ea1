"""``%load_ext jupyter_vsandbox`` in a kernel on the host: what needs no sandbox below the notebook."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox.config import load_settings
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.errors import SandboxError
from jupyter_vsandbox.guest import words
from jupyter_vsandbox.guest.asking import VSandboxError
from jupyter_vsandbox.guest.magics import Magics, register
from jupyter_vsandbox.kernel import comparison, guest_wire
from jupyter_vsandbox.kernel.engine import Engine
from jupyter_vsandbox.kernel.folder import Shared
from jupyter_vsandbox.runtimes import build

if TYPE_CHECKING:
    import argparse


class NativeMagics(Magics):
    """``%vsandbox`` for a kernel that is no sandbox's: `status` and `compare`.

    Args:
        shell: IPython's.
    """

    def __init__(self, shell: Any) -> None:  # noqa: ANN401 - IPython has no types
        super().__init__(shell)
        self.ask = self._ask

    def vsandbox(self, line: str, cell: str | None = None) -> Any:  # noqa: ANN401 - as it is there
        """Replaced by `words.HELP` below."""
        said = words.read(line, cell is not None)
        compares = said.verb == "compare" and not said.command
        if not compares and said.verb not in (None, "status"):
            verb = "compare --fork" if said.verb == "compare" else said.verb
            raise VSandboxError(
                f"{verb} needs a notebook that runs in a sandbox: "
                "choose a kernel with '(sandbox)' in its name."
            )
        return super().vsandbox(line, cell)

    def panel(self) -> None:
        """What there is, as text: this kernel has nothing that buttons could do."""
        self._status(None)

    def _status(self, _: argparse.Namespace | None) -> None:
        told = self._ask("status")
        print("This kernel runs on the host, in no sandbox. Runtimes:", ", ".join(told["runtimes"]) or "none")  # noqa: T201 - a magic's output
        if told["sandboxes"]:
            print(words.columns(told["sandboxes"], ("ID", "RUNTIME", "STATE", "NAME")))  # noqa: T201

    def _ask(self, verb: str, **args: Any) -> Any:  # noqa: ANN401 - as `asking.ask`
        try:
            return Engine.instance().wait(_answer(guest_wire.request({"verb": verb, "args": args})))
        except SandboxError as error:
            raise VSandboxError(str(error)) from None


NativeMagics.vsandbox.__doc__ = words.HELP


async def _answer(request: guest_wire.Request) -> dict[str, Any]:
    settings = await asyncio.to_thread(load_settings)
    with SandboxService(settings) as service:
        if not isinstance(request, guest_wire.Compare):
            return {
                "runtimes": sorted({image.runtime for image in build.images(settings)}),
                "snapshots": [],
                "forks": [],
                "sandboxes": [(s.id, s.runtime, str(s.state), s.name) for s in service.list()],
            }
        for runtime in request.runtimes:
            build.find(runtime, settings)
        task = comparison.Task(
            (request.code,),
            request.seconds,
            request.given,
            Shared(settings, os.getcwd(), read_only=True),
        )
        found = await comparison.in_runtimes(service, request.runtimes, task)
        return {"columns": [comparison.column_dict(column) for column in found]}


def load(shell: Any) -> None:  # noqa: ANN401 - IPython has no types
    """Give a shell the magics, unless it has those of a sandbox."""
    if "vsandbox" not in shell.magics_manager.magics["line"]:
        register(shell, NativeMagics(shell))
