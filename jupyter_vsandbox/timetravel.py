"""The commands of ``jupyter vsandbox`` that travel in time; `cli` has their table."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jupyter_vsandbox import cells, render, render_diff
from jupyter_vsandbox.core import inventories
from jupyter_vsandbox.domain.difference import compare
from jupyter_vsandbox.domain.model import State

if TYPE_CHECKING:
    import argparse

    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.domain.inventory import Inventory
    from jupyter_vsandbox.domain.model import Sandbox
    from jupyter_vsandbox.session import Session

DISK_ONLY = (
    "It has the disk alone, and boots with its first kernel: here, the memory of a snapshot goes back into "
    "its own machine only."
)


def snapshot(session: Session, arguments: argparse.Namespace) -> int:
    """Keep a sandbox as it is."""
    with session.service() as service:
        sandbox = service.resolve(arguments.id)
        with session.output.err.status("Waiting for the running cell to end (--now does not)"):
            taken = asyncio.run(
                service.snapshot(
                    sandbox.id,
                    arguments.name or "",
                    arguments.note,
                    memory=not arguments.disk_only,
                    now=arguments.now,
                )
            )
    said = f"{taken.name}: {render.size(taken.size)}, paused for {taken.pause * 1000:.0f} ms."
    session.output.answer(render.snapshot_dict(taken), lambda: render.plain(said))
    return 0


def rollback(session: Session, arguments: argparse.Namespace) -> int:
    """Put a sandbox back; say how to undo it."""
    with session.service() as service:
        sandbox = service.resolve(arguments.id)
        target = service.find_snapshot(sandbox.id, arguments.snapshot)
        rolled = asyncio.run(
            service.rollback(sandbox.id, target.id, cells=arguments.cells, memory=not arguments.disk_only)
        )
        undo = service.history(sandbox.id)[-1].name
    said = (
        f"{rolled.id} is at {target.name} and {rolled.state}. "
        f"To undo: jupyter vsandbox rollback {rolled.id} {undo}"
    )
    document = {"id": rolled.id, "snapshot": target.name, "undo": undo}
    session.output.answer(document, lambda: render.plain(said))
    return 0


def fork(session: Session, arguments: argparse.Namespace) -> int:
    """Make a sandbox that continues where another one is, or was."""
    with session.service() as service:
        sandbox = service.resolve(arguments.id)
        begin = service.find_snapshot(sandbox.id, arguments.at).id if arguments.at else ""
        made = asyncio.run(service.fork(sandbox.id, begin, arguments.name, now=arguments.now))
        lost = made.state is State.STOPPED and not service.memory_anywhere(sandbox)
    if lost:
        session.output.err.print(render.plain(DISK_ONLY))
    return _tell(session, made, f"is a fork of {sandbox.id}")


def promote(session: Session, arguments: argparse.Namespace) -> int:
    """Put a fork in the place of its origin."""
    with session.service() as service:
        promoted = asyncio.run(service.promote(service.resolve(arguments.id).id))
    return _tell(session, promoted, "continues where its fork was")


def reset(session: Session, arguments: argparse.Namespace) -> int:
    """Put a sandbox back to its clean image."""
    with session.service() as service:
        clean = asyncio.run(service.reset(service.resolve(arguments.id).id))
    return _tell(session, clean, "is as its image was")


def history(session: Session, arguments: argparse.Namespace) -> int:
    """List the snapshots of a sandbox."""
    with session.service() as service:
        sandbox = service.resolve(arguments.id)
        found = service.history(sandbox.id)
        warnings = {each.id: service.warning(each) for each in found}
        warning = service.history_warning(sandbox)
    session.output.answer(
        [render.snapshot_dict(each, warnings[each.id]) for each in found],
        lambda: render.history_table(found, sandbox.snapshot, warnings, warning),
    )
    return 0


def diff(session: Session, arguments: argparse.Namespace) -> int:
    """Show what is different between two moments."""
    with session.service() as service:
        old, new = inventories.find_two(service, arguments.point, arguments.other)
        # Before the machines are looked at: that takes time, and a notebook goes on.
        changed = cells.compare(inventories.notebook(service, old), inventories.notebook(service, new))
        with session.output.err.status("Looking into the machines"):
            found = asyncio.run(_look(service, old, new, now=arguments.now))
    difference = compare(*found, changed)
    session.output.answer(
        render_diff.difference_dict(old, new, difference),
        lambda: render_diff.difference_text(old, new, difference, found),
    )
    return 0


async def _look(
    service: SandboxService, old: inventories.Point, new: inventories.Point, *, now: bool
) -> tuple[Inventory, Inventory]:
    # One after the other: two copies at once need twice the memory.
    return (
        await inventories.inventory(service, old, now=now),
        await inventories.inventory(service, new, now=now),
    )


def prune(session: Session, arguments: argparse.Namespace) -> int:
    """Remove the snapshots that nobody asked for, or show which those are."""
    with session.service() as service:
        sandbox = service.resolve(arguments.id)
        gone = service.prunable(sandbox.id) if arguments.dry_run else asyncio.run(service.prune(sandbox.id))
    freed = sum(each.size for each in gone)
    verb = "would be freed" if arguments.dry_run else "freed"
    names = ", ".join(each.name for each in gone) or "nothing to remove"
    session.output.answer(
        {"removed": [] if arguments.dry_run else [each.id for each in gone], "bytes": freed},
        lambda: render.plain(f"{names}: up to {render.size(freed)} {verb}."),
    )
    return 0


def _tell(session: Session, sandbox: Sandbox, what: str) -> int:
    said = f"{sandbox.id} {what} and {sandbox.state}."
    session.output.answer({"id": sandbox.id, "state": sandbox.state.value}, lambda: render.plain(said))
    return 0
