"""What sandboxes hold now and held then: asked of their guests, and kept for snapshots.

A snapshot never changes, so that its inventory is made once, when somebody first wants it: in a
copy of the machine, which is gone afterwards.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import uuid
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox.domain.errors import NotFound, Permanent, SandboxError, Transient, Unsupported
from jupyter_vsandbox.domain.inventory import VERSION, Inventory
from jupyter_vsandbox.domain.model import Sandbox, Snapshot, State
from jupyter_vsandbox.files import locked, try_locked, write_private
from jupyter_vsandbox.link import AgentLink
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    from jupyter_vsandbox.core.service import SandboxService

DISK_SECONDS = 300.0
VARIABLES_SECONDS = 60.0
_MAX_BYTES = 512 * 1024 * 1024
_BUSY = "a cell runs"


@dataclass(frozen=True)
class Point:
    """A moment in the life of a sandbox.

    Attributes:
        sandbox: whose.
        snapshot: which; `None` for the present.
    """

    sandbox: Sandbox
    snapshot: Snapshot | None

    def __str__(self) -> str:
        return f"{self.sandbox.id}@{self.snapshot.name}" if self.snapshot else f"{self.sandbox.id} now"


def find(service: SandboxService, words: str) -> Point:
    """The point that a user calls ``SANDBOX`` or ``SANDBOX@SNAPSHOT``, by names or beginnings of ids.

    Raises:
        NotFound: there is no such sandbox or snapshot.
        InvalidRequest: there are several.
    """
    sandbox_words, at, snapshot_words = words.partition("@")
    sandbox = service.resolve(sandbox_words)
    return Point(sandbox, service.find_snapshot(sandbox.id, snapshot_words) if at else None)


def find_two(service: SandboxService, first: str, second: str = "") -> tuple[Point, Point]:
    """Two points to compare; one that stands alone is compared with the present of its sandbox.

    A sandbox that stands alone is compared with its latest snapshot.

    Raises:
        NotFound: one does not exist, or there is no snapshot to compare with.
        InvalidRequest: the words fit several.
    """
    old = find(service, first)
    if second:
        return old, find(service, second)
    if old.snapshot is not None:
        return old, Point(old.sandbox, None)
    history = service.history(old.sandbox.id)
    if not history:
        raise NotFound(
            f"Sandbox {old.sandbox.id} has no snapshot to compare with; "
            f"`jupyter vsandbox snapshot {old.sandbox.id}` takes one."
        )
    return Point(old.sandbox, history[-1]), old


def notebook(service: SandboxService, point: Point) -> Path | None:
    """The file with the notebook's cells at a point; `None` where there is none."""
    if point.snapshot is None:
        path = Path(point.sandbox.notebook)
        return path if point.sandbox.notebook and path.is_file() else None
    return service.cells_of(point.snapshot.id) if point.snapshot.cells else None


async def inventory(service: SandboxService, point: Point, *, now: bool = False) -> Inventory:
    """What a sandbox holds at a point.

    A running sandbox is asked itself, its variables between two cells. Anything else is looked at
    in a copy, which needs memory for as long as that takes.

    Args:
        service: of the sandbox.
        point: which moment.
        now: leave the variables out where a cell runs, instead of waiting for its end.

    Raises:
        InvalidState: the sandbox is just being started or stopped.
        Exhausted: there is no memory for a copy.
        Transient: the guest did not answer in time.
        Permanent: its image is older than this command.
    """
    if point.snapshot is not None:
        return await _of_snapshot(service, point.sandbox.id, point.snapshot.id)
    sandbox = await service.settled(point.sandbox.id)
    if sandbox.state is State.HIBERNATED:
        return await _of_snapshot(service, sandbox.id, sandbox.snapshot)
    if sandbox.state is State.STOPPED:
        async with service.copy(sandbox.id) as copy:
            return await _ask(copy, without="it is stopped: only its disk is there")
    if now:
        with try_locked(service.cell_lock(sandbox.id)) as free:
            if not free:
                return await _ask(sandbox, without=_BUSY)
            variables = await _ask_variables(sandbox)
    else:
        async with locked(service.cell_lock(sandbox.id)):
            variables = await _ask_variables(sandbox)
    return await _ask(sandbox, variables)


async def _of_snapshot(service: SandboxService, sandbox_id: str, snapshot_id: str) -> Inventory:
    path = service.inventory_of(snapshot_id)
    if (kept := await asyncio.to_thread(_load, path)) is not None:
        return kept
    snapshot = service.get_snapshot(snapshot_id)  # perhaps in the history of what this was forked from
    if snapshot.memory:
        try:
            async with service.copy(sandbox_id, snapshot_id) as copy:
                found = await _ask(copy, await _ask_variables(copy))
        except Unsupported as error:
            # Perhaps it can another time, so this is not kept.
            async with service.copy(sandbox_id, snapshot_id, memory=False) as copy:
                return await _ask(copy, without=str(error))
    else:
        async with service.copy(sandbox_id, snapshot_id, memory=False) as copy:
            found = await _ask(copy, without=f"{snapshot.name} holds no memory")
    if found.variables is not None or not snapshot.memory:
        await asyncio.to_thread(_keep, path, found)
        try:
            service.get_snapshot(snapshot_id)
        except NotFound:  # removed meanwhile
            await asyncio.to_thread(path.unlink, missing_ok=True)
    return found


def _load(path: Path) -> Inventory | None:
    try:
        document = json.loads(path.read_text())
        return Inventory.from_dict(document) if document["version"] == VERSION else None
    except (FileNotFoundError, ValueError, TypeError, KeyError, Permanent):
        return None  # it is made anew


def _keep(path: Path, found: Inventory) -> None:
    draft = private_folder(path.parent) / f".{path.name}-{uuid.uuid4().hex[:8]}"
    try:
        write_private(draft, json.dumps(found.to_dict()))
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _link(sandbox: Sandbox) -> AgentLink:
    if sandbox.endpoint is None or sandbox.keys is None:
        raise Transient(f"Sandbox {sandbox.id} is on its way to another state; try again.")
    return AgentLink(sandbox.endpoint, sandbox.keys)


async def _ask_variables(sandbox: Sandbox) -> dict[str, Any]:
    """Part of an inventory's document: the kernel's variables, or a note."""
    try:
        async with _link(sandbox) as link:
            answer = await link.request("variables", timeout=VARIABLES_SECONDS)
    except Transient:
        return {"notes": {"variables": "the kernel did not answer in time"}}
    except Permanent as error:
        _require_verb(sandbox, error)
        return {"notes": {"variables": str(error)}}
    if answer.get("variables") is None:
        return {"notes": {"variables": str(answer.get("why"))}}
    return {"variables": answer["variables"]}


async def _ask(sandbox: Sandbox, variables: dict[str, Any] | None = None, *, without: str = "") -> Inventory:
    """The inventory of a running machine, with what was found out of its variables."""
    document = variables or {"notes": {"variables": without}}
    try:
        async with _link(sandbox) as link:
            answer = await link.request("inventory", timeout=DISK_SECONDS)
    except Permanent as error:
        _require_verb(sandbox, error)
        raise
    return await asyncio.to_thread(_parse, answer, document)


def _parse(answer: dict[str, Any], document: dict[str, Any]) -> Inventory:
    try:
        unpacking = zlib.decompressobj()
        data = unpacking.decompress(base64.b64decode(answer["data"]), _MAX_BYTES)
        disk = json.loads(data)
        document = document | {"packages": disk["packages"], "files": disk["files"]}
    except (KeyError, TypeError, ValueError, RecursionError, zlib.error) as error:
        raise Permanent(f"What the guest says that it holds cannot be understood: {error}") from error
    if document["packages"] is None:
        notes = document.get("notes", {}) | {
            "packages": "its kernel is not one of Python, or Python is broken"
        }
        document = document | {"notes": notes}
    return Inventory.from_dict(document)


def _require_verb(sandbox: Sandbox, error: SandboxError) -> None:
    """Raise another `Permanent` where a guest of an older image knows nothing of inventories."""
    if "no verb" in str(error):
        raise Permanent(
            f"The image of sandbox {sandbox.id} is older than `diff`: `jupyter vsandbox images build "
            f"{sandbox.runtime}`, and start a new one."
        ) from error
