"""An upgrade tried in a fork: a command is run there, then the notebook, and its outputs are compared.

Jupyter's own client runs both, through a kernel that is attached to the fork. What a trial leaves is
hibernated: whoever opens the fork's notebook, or promotes the fork, goes on with its variables.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
from typing import TYPE_CHECKING, Any, TypeVar

from jupyter_client.manager import AsyncKernelManager
from nbclient.client import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from jupyter_vsandbox.domain.errors import Permanent, Unsupported
from jupyter_vsandbox.kernel.specs import ATTACH, spec_name
from jupyter_vsandbox.runtimes.catalog import Catalog
from jupyter_vsandbox.server.contract import ForkRequest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Mapping

    from jupyter_client.asynchronous.client import AsyncKernelClient
    from jupyter_server.services.kernels.kernelmanager import MappingKernelManager

    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.domain.model import Sandbox
    from jupyter_vsandbox.server import wire
    from jupyter_vsandbox.server.contract import TrialRequest
    from jupyter_vsandbox.server.forks import Forks, Made
    from jupyter_vsandbox.server.notebooks import Notebooks
    from jupyter_vsandbox.server.operations import Report
    from jupyter_vsandbox.server.worker import Worker

T = TypeVar("T")

READY_SECONDS = 120.0

_COMMAND = """
import subprocess, sys
with subprocess.Popen(
    ["/bin/bash", "-c", {command!r}],
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    universal_newlines=True,
) as process:
    for line in process.stdout:
        print(line, end="", flush=True)
sys.vsandbox_exit_code = process.returncode
"""
_EXIT_CODE = "__import__('sys').vsandbox_exit_code"


class Trials:
    """Runs trials.

    Args:
        service: for the verbs.
        worker: runs them.
        notebooks: those of the server.
        forks: makes the forks.
        kernels: the server's, whose configuration and kernelspecs are used.
    """

    def __init__(
        self,
        service: SandboxService,
        worker: Worker,
        notebooks: Notebooks,
        forks: Forks,
        kernels: MappingKernelManager,
    ) -> None:
        self._kernels = kernels
        self._service = service
        self._worker = worker
        self._notebooks = notebooks
        self._forks = forks

    def require(self, sandbox: Sandbox) -> None:
        """Raise `Unsupported` where the kernel of a sandbox is not one of Python."""
        language = Catalog.standard(self._service.settings).get(sandbox.runtime).language
        if language != "python":
            raise Unsupported(f"Upgrades can be tried with Python; {sandbox.runtime} runs {language}.")

    async def run(self, sandbox_id: str, request: TrialRequest, report: Report) -> wire.Json:
        """Fork, run the command, run the notebook; returns ``Trial`` of openapi.yaml.

        Where that fails or is cancelled, nothing is left of the fork.
        """
        report.progress("fork", None, "Forking the machine")
        made = await self._forks.make(sandbox_id, ForkRequest(now=request.now), report)
        try:
            report.cancellable(True)
            async with self._kernel(made.sandbox) as manager:
                report.progress("command", None, request.command)
                exit_code = await _command(manager, request.command, report)
                cells, failed = await self._cells(manager, made, report) if exit_code == 0 else ([], None)
                report.cancellable(False)
                await self._worker.call(self._service.hibernate(made.sandbox.id))
        except BaseException:
            await self._forks.undo(made)
            raise
        return {
            "fork": await self._forks.tell(made),
            "command": request.command,
            "exit_code": exit_code,
            "cells": cells,
            "failed": failed,
        }

    @contextlib.asynccontextmanager
    async def _kernel(self, sandbox: Sandbox) -> AsyncIterator[AsyncKernelManager]:
        """A kernel in a sandbox, let go at the end."""
        manager = AsyncKernelManager(
            kernel_name=spec_name(sandbox.runtime, sandbox.driver),
            config=self._kernels.config,
            kernel_spec_manager=self._kernels.kernel_spec_manager,
        )
        await manager.start_kernel(env={ATTACH: sandbox.id})
        try:
            yield manager
        finally:
            await manager.shutdown_kernel(now=True)

    async def _cells(
        self, manager: AsyncKernelManager, made: Made, report: Report
    ) -> tuple[list[Mapping[str, Any]], int | None]:
        """Run the fork's notebook in a new kernel; what changed, and which cell was the first to fail."""
        if not made.notebook:
            return [], None
        report.progress("cells", 0.0, "Restarting the kernel")
        await manager.restart_kernel(now=True)
        notebook = await self._notebooks.read(made.notebook)
        before = copy.deepcopy(notebook.cells)
        total = sum(cell.cell_type == "code" for cell in before) or 1
        # Not `async_execute`: that would take the server's signal handlers away.
        runner = NotebookClient(notebook, km=manager, timeout=None, allow_errors=True)
        runner.reset_execution_trackers()
        try:
            async with _client(manager) as runner.kc:
                for index, cell in enumerate(notebook.cells):
                    done = runner.code_cells_executed
                    report.progress("cells", done / total, f"Running cell {index + 1}")
                    await runner.async_execute_cell(cell, index, execution_count=done + 1)
                runner.set_widgets_metadata()
        except (CellExecutionError, DeadKernelError, RuntimeError) as error:
            raise Permanent(f"The notebook could not be run in the fork: {error}") from error
        await self._notebooks.write(made.notebook, notebook)
        return _changed(before, notebook.cells)


def _changed(before: list[Any], after: list[Any]) -> tuple[list[Mapping[str, Any]], int | None]:
    changed: list[Mapping[str, Any]] = []
    failed = None
    for number, (old, new) in enumerate(zip(before, after, strict=True), 1):
        if old.cell_type != "code":
            continue
        if failed is None and any(output.output_type == "error" for output in new.outputs):
            failed = number
        if _comparable(old.outputs) != _comparable(new.outputs):
            changed.append({"number": number, "source": old.source, "old": old.outputs, "new": new.outputs})
    return changed, failed


def _comparable(outputs: list[Any]) -> list[Any]:
    """Outputs without what says only when and how often a cell ran."""
    return [{**each, "execution_count": None, "metadata": None} for each in outputs]


async def _command(manager: AsyncKernelManager, command: str, report: Report) -> int:
    """Run a command in the guest's shell, its output becomes the log; returns its exit status."""
    rest = ""

    def hear(message: Mapping[str, Any]) -> None:
        nonlocal rest
        if message["msg_type"] == "stream":
            *lines, rest = (rest + message["content"]["text"]).split("\n")
            for line in lines:
                report.line(line)

    try:
        async with _client(manager) as client:
            code = f"exec({_COMMAND.format(command=command)!r}, {{}})"
            asked = client.execute_interactive(
                code,
                store_history=False,
                allow_stdin=False,
                output_hook=hear,
                user_expressions={"exit_code": _EXIT_CODE},
                timeout=None,
            )
            reply = await _unless_ended(manager, asked)
        if rest:
            report.line(rest)
        content = reply["content"]
        if content["status"] != "ok":
            reason = content.get("evalue", content["status"])
            raise Permanent(f"The command could not be run in the fork: {reason}")
        return int(content["user_expressions"]["exit_code"]["data"]["text/plain"])
    except (RuntimeError, KeyError, ValueError) as error:
        raise Permanent(f"The kernel of the fork did not run the command: {error}") from error


async def _unless_ended(manager: AsyncKernelManager, asked: Coroutine[Any, Any, T]) -> T:
    """Wait for `asked`, but not for a kernel that has ended.

    Raises:
        Permanent: it has.
    """
    if manager.provisioner is None:
        raise Permanent("There is no kernel in the fork.")
    answer = asyncio.create_task(asked)
    tasks: list[asyncio.Task[Any]] = [answer, asyncio.create_task(manager.provisioner.wait())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            raise Permanent("The kernel of the fork ended while the command ran.")
        return answer.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def _client(manager: AsyncKernelManager) -> AsyncIterator[AsyncKernelClient]:
    """A client of a kernel that has answered."""
    client: AsyncKernelClient = manager.client()
    client.start_channels()
    client.allow_stdin = False
    try:
        await client.wait_for_ready(timeout=READY_SECONDS)
        yield client
    finally:
        client.stop_channels()
