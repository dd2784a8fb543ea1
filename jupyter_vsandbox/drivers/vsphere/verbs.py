"""What is done to one virtual machine: each function ends in the state that it is named after, or raises.

A task whose connection broke may have been done: then the machine is looked at, and the task is given again
only where it was not.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from pyVmomi import vim

from jupyter_vsandbox.domain.errors import (
    Conflict,
    InvalidState,
    NotFound,
    OutcomeUnknown,
    SandboxError,
    Transient,
)
from jupyter_vsandbox.drivers.vsphere import specs
from jupyter_vsandbox.drivers.vsphere.seen import DISK, MEMORY, OFF, ON, SUSPENDED, Point, Vm

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

    from jupyter_vsandbox.drivers.vsphere.connection import Connection
    from jupyter_vsandbox.drivers.vsphere.marks import Marks

T = TypeVar("T")

_TRIES = 3


async def whole(work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns. Cancelled, it ends when that has: what that made can be removed then."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            await task
        raise


def nonce() -> str:
    """What makes a name one that nobody has."""
    return uuid.uuid4().hex[:6]


async def make(
    connection: Connection,
    source: Vm,
    marks: Marks,
    submit: Callable[[str], Any],
    *,
    power: str,
    pool: str,
    memory_size: int = 0,
) -> Vm:
    """Have a virtual machine made of another one.

    Args:
        connection: to the vCenter.
        source: what it is made of.
        marks: what it will have.
        submit: gives the task for a name; in a thread.
        power: the state that it will be in.
        pool: the vCenter's id of the resource pool that it will be in.
        memory_size: bytes of memory that it will have; 0 for those of the source.
    """
    what = f"Cloning {source.name}"
    for _ in range(_TRIES):
        name = f"{connection.vcenter.prefix}-{marks.machine or marks.image}-{nonce()}"
        try:
            made = await connection.task(what, lambda name=name: submit(name))  # type: ignore[misc]
        except OutcomeUnknown:
            await _settle(connection, source.ref)
            await connection.watch.refresh_all()
            found = [vm for vm in connection.watch.all() if vm.name == name and vm.marks.role == marks.role]
            if not found:
                continue
            return found[0]
        except Conflict:  # somebody has such a name
            continue
        except NotFound:
            await connection.watch.refresh(source.ref)
            raise
        connection.watch.note(
            made._moId,
            name=name,
            marks=marks,
            power=power,
            pool=pool,
            memory_size=memory_size or source.memory_size,
        )
        return connection.watch.get(made._moId) or Vm(made._moId, name, marks, power)
    raise Transient(f"{what} did not happen, after {_TRIES} attempts; try again.")


async def _settle(connection: Connection, ref: str) -> None:
    """Return when no task on a machine is under way."""
    session = connection.session
    found = await session.call(
        "Looking for tasks", lambda: session.read(vim.VirtualMachine, [ref], ["recentTask"]), harmless=True
    )
    for task in found.get(ref, {}).get("recentTask", ()):
        with contextlib.suppress(SandboxError):
            await connection.watch.ended(task._moId, connection.vcenter.task_seconds, "A task before")


async def again(
    connection: Connection, ref: str, what: str, submit: Callable[[], Any], done: Callable[[Vm | None], bool]
) -> Any:
    """Have a task done to a machine that may be given twice; `done` tells whether it was done already."""
    for _ in range(_TRIES):
        try:
            return await connection.task(what, submit)
        except OutcomeUnknown:
            await _settle(connection, ref)
            if done(await connection.watch.refresh(ref)):
                return None
    raise Transient(f"{what} did not happen, after {_TRIES} attempts; try again.")


def _vm(connection: Connection, ref: str) -> Any:
    return connection.session.object(vim.VirtualMachine, ref)


async def power_on(connection: Connection, vm: Vm) -> None:
    """Have it run; one that is suspended goes on."""
    await _power(connection, vm, ON, "Powering on", lambda: _vm(connection, vm.ref).PowerOnVM_Task())


async def power_off(connection: Connection, vm: Vm) -> None:
    """Have it not run; harmless on one that is gone."""
    with contextlib.suppress(NotFound):
        await _power(connection, vm, OFF, "Powering off", lambda: _vm(connection, vm.ref).PowerOffVM_Task())


async def suspend(connection: Connection, vm: Vm) -> None:
    """Have it stand still, its memory in a file."""
    await _power(connection, vm, SUSPENDED, "Suspending", lambda: _vm(connection, vm.ref).SuspendVM_Task())


async def _power(connection: Connection, vm: Vm, wanted: str, word: str, submit: Callable[[], Any]) -> None:
    try:
        await again(
            connection,
            vm.ref,
            f"{word} {vm.name}",
            submit,
            lambda now: now is not None and now.power == wanted,
        )
    except InvalidState as error:
        if error.actual != wanted:
            raise
    connection.watch.note(vm.ref, power=wanted, **({} if wanted == ON else {"address": ""}))


async def configure(
    connection: Connection, vm: Vm, values: Mapping[str, str], marks: Marks | None = None
) -> None:
    """Write entries of ``extraConfig``, among them `marks`."""
    values = {**values, **(marks.options(vm.marks) if marks is not None else {})}
    if values:
        await again(
            connection,
            vm.ref,
            f"Configuring {vm.name}",
            lambda: _vm(connection, vm.ref).ReconfigVM_Task(specs.reconfigure(values)),
            lambda _: False,
        )
        connection.watch.note(vm.ref, marks=marks or vm.marks)


async def snapshot(connection: Connection, vm: Vm, snapshot_id: str, *, memory: bool) -> None:
    """Take a snapshot called `snapshot_id`; the guest is not asked to write its files."""
    what = f"Taking a snapshot of {vm.name}"
    made = await again(
        connection,
        vm.ref,
        what,
        lambda: _vm(connection, vm.ref).CreateSnapshot_Task(
            name=snapshot_id, description=MEMORY if memory else DISK, memory=memory, quiesce=False
        ),
        lambda now: now is not None and now.point(snapshot_id) is not None,
    )
    if made is not None:
        now = connection.watch.get(vm.ref) or vm
        point = Point(snapshot_id, made._moId, memory)
        connection.watch.note(vm.ref, points=(*now.points, point))


async def remove_snapshot(connection: Connection, vm: Vm, point: Point) -> None:
    """Remove one snapshot and fold its disk into what follows. Harmless on one that is gone."""
    with contextlib.suppress(NotFound):
        await again(
            connection,
            vm.ref,
            f"Removing a snapshot of {vm.name}",
            lambda: connection.session.object(vim.vm.Snapshot, point.ref).RemoveSnapshot_Task(
                removeChildren=False, consolidate=True
            ),
            lambda now: now is None or now.point(point.id) is None,
        )
    now = connection.watch.get(vm.ref) or vm
    connection.watch.note(vm.ref, points=tuple(each for each in now.points if each.ref != point.ref))


async def revert(connection: Connection, vm: Vm, point: Point, *, memory: bool) -> Vm:
    """Put a machine to one of its snapshots; without memory, it does not run after that."""
    await again(
        connection,
        vm.ref,
        f"Reverting {vm.name}",
        lambda: connection.session.object(vim.vm.Snapshot, point.ref).RevertToSnapshot_Task(
            suppressPowerOn=not memory
        ),
        lambda _: False,
    )
    now = await connection.watch.refresh(vm.ref)
    if now is None:
        raise NotFound(f"The virtual machine {vm.name} is gone.")
    wanted: Callable[[Connection, Vm], Awaitable[None]] = power_on if memory else power_off
    if now.power != (ON if memory else OFF):
        await wanted(connection, now)
    return connection.watch.get(vm.ref) or now


async def destroy(connection: Connection, vm: Vm) -> None:
    """Remove a machine, its snapshots and its files. Harmless on one that is gone."""
    if vm.power != OFF:
        await power_off(connection, vm)
    with contextlib.suppress(NotFound):
        for last in (False, True):
            try:
                await again(
                    connection,
                    vm.ref,
                    f"Removing {vm.name}",
                    lambda: _vm(connection, vm.ref).Destroy_Task(),
                    lambda now: now is None,
                )
                break
            except InvalidState:  # somebody has powered it on meanwhile
                if last:
                    raise
                await power_off(connection, replace(vm, power=ON))
    connection.watch.note_gone(vm.ref)
