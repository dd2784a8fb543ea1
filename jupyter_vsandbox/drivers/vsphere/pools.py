"""The resource pools that machines are in: what they have, and whether there is room for one more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from jupyter_vsandbox.domain.errors import Exhausted
from jupyter_vsandbox.domain.model import MIB
from jupyter_vsandbox.domain.pool import Pool, Share
from jupyter_vsandbox.drivers.vsphere import inventory
from jupyter_vsandbox.drivers.vsphere.seen import ON

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jupyter_vsandbox.drivers.vsphere.connection import Connection
    from jupyter_vsandbox.drivers.vsphere.seen import Vm
    from jupyter_vsandbox.settings import ResourcePool, VCenter


async def pools(connection: Connection, driver: str) -> list[Pool]:
    """The cluster's own pool, then those that are configured; these are made when they are first used.

    Args:
        connection: to the vCenter.
        driver: the driver's name.
    """

    def look() -> tuple[str, Mapping[str, Any], dict[str, Mapping[str, Any]]]:
        place, session = connection.place(), connection.session
        own = session.read(vim.ResourcePool, [place.pool], ["name", "config", "runtime"])[place.pool]
        return place.pool, own, inventory.pools(session, place)

    ref, own, there = await connection.look("Looking at pools", look)
    found = [_pool(connection, f"{own['name']}", driver, ref, own, None)]
    for wanted in connection.vcenter.pools:
        name = f"{driver}:{wanted.name}"
        if wanted.name in there:
            values = there[wanted.name]
            found.append(_pool(connection, wanted.name, name, str(values["ref"]), values, wanted))
        else:
            found.append(_not_made(wanted, name))
    return found


def reserves(vcenter: VCenter, name: str) -> bool:
    """Whether the machines of a pool have all of their memory reserved."""
    return any(pool.name == name and pool.reserve for pool in vcenter.pools)


async def admit(connection: Connection, name: str, memory: int, *, reserve: bool = False) -> None:
    """Refuse to power on one more machine where a pool has no room for it.

    Args:
        connection: to the vCenter.
        name: of the pool, "" for the cluster's own.
        memory: bytes that the machine will have.
        reserve: whether those will be reserved, whatever the pool says.

    Raises:
        Exhausted: it would exceed the pool's limit, or what can be reserved.
    """
    wanted = next((pool for pool in connection.vcenter.pools if pool.name == name), None)
    limit = wanted.memory_limit if wanted is not None else 0
    reserve = reserve or reserves(connection.vcenter, name)
    if not (limit or reserve):
        return
    _, ref = await connection.where(name)
    running = _running(connection, ref)
    promised = sum(vm.memory_size for vm in running)
    if limit and promised + memory > limit:
        raise Exhausted(
            f"Pool {name!r} has no room for one more machine: it needs {memory // MIB} MiB, "
            f"and {promised // MIB} of {limit // MIB} MiB are given to {len(running)}."
        )
    if reserve:
        session = connection.session
        found = await connection.look(
            "Looking at the pool", lambda: session.read(vim.ResourcePool, [ref], ["runtime"])
        )
        free = int(found[ref]["runtime"].memory.unreservedForVm or 0)
        if memory > free:
            raise Exhausted(
                f"Pool {name or 'of the cluster'!r} cannot reserve {memory // MIB} MiB for one more machine: "
                f"{free // MIB} MiB are left."
            )


def _running(connection: Connection, ref: str) -> list[Vm]:
    return [vm for vm in connection.watch.all() if vm.pool == ref and vm.power == ON]


def _pool(
    connection: Connection,
    name: str,
    driver: str,
    ref: str,
    values: Mapping[str, Any],
    wanted: ResourcePool | None,
) -> Pool:
    config, runtime = values["config"], values["runtime"]
    promised = sum(vm.memory_size for vm in _running(connection, ref))
    memory = _share(config.memoryAllocation, runtime.memory, MIB)
    # By the same figures as `admit`.
    limits = [wanted.memory_limit - promised] if wanted is not None and wanted.memory_limit else []
    if wanted is not None and wanted.reserve:
        limits.append(int(runtime.memory.unreservedForVm or 0))
    free = [each for each in (memory.free, *limits) if each is not None]
    return Pool(
        name=name,
        driver=driver,
        memory=Share(memory.limit, memory.reservation, memory.used, max(min(free), 0) if free else None),
        promised=promised,
        cpu=_share(config.cpuAllocation, runtime.cpu, 1),
    )


def _share(allocation: Any, usage: Any, unit: int) -> Share:
    """What a vCenter tells of a pool: `allocation` in units of so much, `usage` in ones."""
    limit = int(-1 if allocation.limit is None else allocation.limit)
    used, most = int(usage.overallUsage or 0), int(usage.maxUsage or 0)
    return Share(
        limit=limit * unit if limit >= 0 else None,
        reservation=int(allocation.reservation or 0) * unit,
        used=used,
        free=max(most - used, 0) if most else None,
    )


def _not_made(pool: ResourcePool, driver: str) -> Pool:
    return Pool(
        name=pool.name,
        driver=driver,
        memory=Share(pool.memory_limit or None, pool.memory_reservation, 0, pool.memory_limit or None),
        promised=0,
        cpu=Share(pool.cpu_limit or None, pool.cpu_reservation, 0, pool.cpu_limit or None),
    )
