"""The same cells in several machines at the same time: of other runtimes, or copies of one sandbox.

The machines are made for it and gone afterwards, however it ends; they belong to this process, so that
the next one removes them should this one be killed.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox.domain.errors import SandboxError
from jupyter_vsandbox.kernel.runner import Ran, Runner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Sequence

    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.domain.model import Sandbox
    from jupyter_vsandbox.kernel.folder import Shared

PREPARE_SECONDS = 120.0
COMMAND_SECONDS = 1800.0
MAX_MODULES = 30
_MAX_VERSIONS = 10_000  # characters
_IMPORTS = re.compile(r"^[ \t]*(?:from[ \t]+(\w+)|import[ \t]+(\w[\w., \t]*))", re.MULTILINE)
_VERSIONS = (
    "(lambda sys, json, names: json.dumps(dict([('python', sys.version.split()[0])] + [(name, "
    "str(sys.modules[name].__version__)[:40]) for name in names if hasattr(sys.modules.get(name), "
    "'__version__')])))(__import__('sys'), __import__('json'), {names!r})"
)
_GIVE = "globals().update(__import__('pickle').loads(__import__('base64').b64decode({given!r})))\n"


@dataclass(frozen=True)
class Task:
    """What every machine is to do.

    Attributes:
        cells: run one after the other, whatever becomes of one of them.
        seconds: that long each may run.
        given: pickled variables, in base64, that they find; "" for none.
        shared: the folder that they work in, `None` for none.
    """

    cells: tuple[str, ...]
    seconds: float
    given: str = ""
    shared: Shared | None = None


@dataclass(frozen=True)
class Column:
    """What came of it in one machine.

    Attributes:
        name: the runtime, or what else tells it from the others.
        cells: what came of each cell; fewer than were asked for where the kernel died.
        versions: of Python and the modules that the cells import.
        note: why there is nothing to show, or less than was asked for; "" where there is all.
    """

    name: str
    cells: tuple[Ran, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    note: str = ""


async def in_runtimes(service: SandboxService, runtimes: Sequence[str], task: Task) -> list[Column]:
    """Do a task in a new sandbox of each runtime."""
    return await _all([_column(name, _new(service, name), task) for name in runtimes])


async def in_copies(
    service: SandboxService, sandbox_id: str, command: str, task: Task, runtimes: Sequence[str] = ()
) -> list[Column]:
    """Do a task in two copies of a sandbox, in one of them after a shell command, and in `runtimes`.

    The kernels of the copies are started anew, so that what the command installs counts.

    Raises:
        SandboxError: no snapshot of the sandbox can be taken.
    """
    async with service.passing(sandbox_id) as begin:
        return await _all(
            [
                _column("as it is", service.copy(sandbox_id, begin.id), task, command=""),
                _column(f"after {command}", service.copy(sandbox_id, begin.id), task, command=command),
                *(_column(name, _new(service, name), task) for name in runtimes),
            ]
        )


async def in_fork(service: SandboxService, fork: Sandbox, command: str, task: Task) -> list[Column]:
    """Do a task in a copy of where a fork began, and in the fork itself after a shell command."""
    return await _all(
        [
            _column("as it is", service.copy(fork.origin, fork.snapshot), task, command=""),
            _column(f"after {command}", service.borrowed(fork.id), task, command=command),
        ]
    )


@contextlib.asynccontextmanager
async def _new(service: SandboxService, runtime: str) -> AsyncIterator[Sandbox]:
    sandbox = await service.create(runtime)
    try:
        yield sandbox
    finally:
        await service.delete(sandbox.id)


async def _all(columns: Sequence[Awaitable[Column]]) -> list[Column]:
    """Wait for all; where one fails or the caller is cancelled, until all have cleaned up."""
    tasks = [asyncio.ensure_future(column) for column in columns]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            if not task.cancelling():  # a second time would cut the cleaning up off
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _column(
    name: str,
    machine: contextlib.AbstractAsyncContextManager[Sandbox],
    task: Task,
    *,
    command: str | None = None,
) -> Column:
    """One machine's part; a `command`, "" for none, is for a kernel that is started anew."""
    try:
        async with machine as sandbox, Runner(sandbox, task.shared) as runner:
            if command is not None:
                if command and (why := await _install(runner, command)):
                    return Column(name, note=why)
                await runner.restart()
            if task.given and (why := await _give(runner, task.given)):
                return Column(name, note=why)
            return await _run(name, runner, task)
    except SandboxError as error:
        return Column(name, note=str(error))


async def _run(name: str, runner: Runner, task: Task) -> Column:
    ran: list[Ran] = []
    for cell in task.cells:
        ran.append(await runner.run(cell, task.seconds))
        if ran[-1].status in ("died", "timeout"):
            return Column(name, tuple(ran))
    return Column(name, tuple(ran), await versions(runner, task.cells))


async def _install(runner: Runner, command: str) -> str:
    """Run a command of the shell; why it failed, "" if it did not."""
    cell = f"get_ipython().system({command!r})"
    done = await runner.run(cell, COMMAND_SECONDS, history=False, values={"code": "_exit_code"})
    code = done.values.get("code", {}).get("data", {}).get("text/plain")
    if done.status == "ok" and code == "0":
        return ""
    said = "".join(str(output.get("text", "")) for output in done.outputs)
    return f"{command} failed ({code or done.status}): {said[-2000:]}"


async def _give(runner: Runner, given: str) -> str:
    done = await runner.run(_GIVE.format(given=given), PREPARE_SECONDS, history=False)
    if done.status == "ok":
        return ""
    why = next((f"{o.get('ename')}: {o.get('evalue')}" for o in done.outputs if "ename" in o), done.status)
    return f"The variables of --with cannot be loaded there: {why}"


async def versions(runner: Runner, cells: Sequence[str]) -> dict[str, str]:
    """Of Python and what the cells import, as far as the kernel tells."""
    expression = _VERSIONS.format(names=imports(cells))
    asked = await runner.run("", PREPARE_SECONDS, silent=True, values={"versions": expression})
    return read_versions(asked.values.get("versions"))


def imports(cells: Sequence[str]) -> list[str]:
    """The names of modules that cells seem to import, at most `MAX_MODULES`."""
    names: dict[str, None] = {}
    for cell in cells:
        for one, several in _IMPORTS.findall(cell):
            for words in (one or several).split(","):
                names.update(dict.fromkeys(words.strip().split(" ")[0].split(".")[:1]))
    return [name for name in names if name.isidentifier()][:MAX_MODULES]


def read_versions(value: Any) -> dict[str, str]:  # noqa: ANN401 - whatever a guest's kernel says
    """What a kernel tells of versions; nothing where that is not what was asked for."""
    try:
        text = value["data"]["text/plain"]
        if len(text) > _MAX_VERSIONS:
            return {}
        told = json.loads(ast.literal_eval(text))
        return {str(name): str(version) for name, version in told.items()}
    except (LookupError, TypeError, ValueError, SyntaxError, AttributeError, RecursionError, MemoryError):
        return {}


def column_dict(column: Column) -> dict[str, Any]:
    """A column for an answer."""
    return {
        "name": column.name,
        "versions": column.versions,
        "note": column.note,
        "cells": [cell_dict(ran) for ran in column.cells],
    }


def cell_dict(ran: Ran) -> dict[str, Any]:
    """What came of a cell for an answer."""
    return {
        "status": ran.status,
        "seconds": round(ran.seconds, 3),
        "truncated": ran.truncated,
        "outputs": list(ran.outputs),
    }
