"""What ``doctor --driver vsphere`` asks of a vCenter."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from jupyter_vsandbox.domain.checks import Check, Status
from jupyter_vsandbox.domain.errors import SandboxError
from jupyter_vsandbox.domain.model import MIB
from jupyter_vsandbox.drivers.vsphere.inventory import Place, find_place, pools
from jupyter_vsandbox.drivers.vsphere.marks import Role
from jupyter_vsandbox.guest.protocol import PORT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jupyter_vsandbox.drivers.vsphere.connection import Connection

_REACH_SECONDS = 3.0

_VM = "VirtualMachine."
PRIVILEGES: Mapping[str, tuple[str, ...]] = {
    "folder": (
        "Folder.Create",
        f"{_VM}Inventory.Create",
        f"{_VM}Inventory.CreateFromExisting",
        f"{_VM}Inventory.Delete",
        f"{_VM}Provisioning.Clone",
        f"{_VM}Config.AddNewDisk",
        f"{_VM}Config.AddRemoveDevice",
        f"{_VM}Config.AdvancedConfig",
        f"{_VM}Config.CPUCount",
        f"{_VM}Config.Memory",
        f"{_VM}Config.Resource",
        f"{_VM}Config.Settings",
        f"{_VM}Interact.PowerOff",
        f"{_VM}Interact.PowerOn",
        f"{_VM}Interact.Suspend",
        f"{_VM}State.CreateSnapshot",
        f"{_VM}State.RemoveSnapshot",
        f"{_VM}State.RevertToSnapshot",
    ),
    "pool": ("Resource.AssignVMToPool", "Resource.CreatePool", "VApp.Import"),
    "datastore": ("Datastore.AllocateSpace",),
    "network": ("Network.Assign",),
}
"""What the role needs, by what it is needed on."""


async def checks(connection: Connection) -> list[Check]:
    """Examine a vCenter; never raises one of the project's errors."""
    vcenter = connection.vcenter
    name = "vCenter"
    try:
        about = await connection.session.call(
            "Logging in", lambda: connection.session.content.about, harmless=True
        )
        said = f"{about.fullName} at {vcenter.host}, API {about.apiVersion}"
    except SandboxError as error:
        return [Check(name, Status.FAIL, str(error), "Mend what it names; nothing else could be looked at.")]
    found = [Check(name, Status.OK, said)]
    try:
        place = await connection.look(
            "Finding what is configured", lambda: find_place(connection.session, vcenter)
        )
        found.append(
            Check("inventory", Status.OK, f"all that is configured is there; folder: {vcenter.folder}")
        )
        found.append(await _privileges(connection, place))
        found += await _pools(connection, place)
        await connection.ready()
        found.append(_images(connection))
        found.append(await _reach(connection))
    except SandboxError as error:
        found.append(Check("inventory", Status.FAIL, str(error), "Mend what it names in the configuration."))
    return found


async def _privileges(connection: Connection, place: Place) -> Check:
    session = connection.session
    network = vim.dvs.DistributedVirtualPortgroup if place.portgroup else vim.Network
    on = {
        "folder": session.object(vim.Folder, place.folder),
        "pool": session.object(vim.ResourcePool, place.pool),
        "datastore": session.object(vim.Datastore, place.datastore),
        "network": session.object(network, place.network),
    }

    def lacking() -> list[str]:
        manager = session.content.authorizationManager
        key = session.content.sessionManager.currentSession.key
        missing = []
        for what, wanted in PRIVILEGES.items():
            [answer] = manager.HasPrivilegeOnEntities([on[what]], key, list(wanted))
            missing += [f"{each.privId} ({what})" for each in answer.privAvailability if not each.isGranted]
        return missing

    missing = await session.call("Looking at privileges", lacking, harmless=True)
    if missing:
        return Check(
            "privileges", Status.FAIL, f"missing: {', '.join(missing)}", "Add them to the role of the user."
        )
    return Check("privileges", Status.OK, f"all {sum(map(len, PRIVILEGES.values()))} are there")


async def _pools(connection: Connection, place: Place) -> list[Check]:
    there = await connection.look("Looking at pools", lambda: pools(connection.session, place))
    return [_pool(pool.name, pool.memory_limit, there.get(pool.name)) for pool in connection.vcenter.pools]


def _pool(name: str, limit: int, there: Mapping[str, Any] | None) -> Check:
    title = f"pool {name}"
    if there is None:
        return Check(title, Status.OK, "is made when it is first used")
    memory, runtime = there["config"].memoryAllocation, there["runtime"].memory
    used, free = int(runtime.overallUsage or 0) // MIB, int(runtime.unreservedForVm or 0) // MIB
    detail = f"{used} MiB in use, {free} free"
    if limit and memory.limit != limit // MIB:
        return Check(
            title,
            Status.WARN,
            f"{detail}; its limit is {memory.limit} MiB, and {limit // MIB} are configured",
            "A pool that is there is not changed: do it in the vCenter, or mend VSphere.pools.",
        )
    return Check(title, Status.OK, detail)


def _images(connection: Connection) -> Check:
    images = [vm.marks.image for vm in connection.watch.all() if vm.marks.role == Role.IMAGE]
    if not images:
        mend = "jupyter vsandbox images publish RUNTIME --driver vsphere"
        return Check("published images", Status.WARN, "there are none", mend)
    return Check("published images", Status.OK, ", ".join(sorted(images)))


async def _reach(connection: Connection) -> Check:
    """Whether this host reaches a guest; there may be none to try."""
    name = "guest network"
    machines = [vm for vm in connection.watch.all() if vm.marks.role == Role.MACHINE and vm.address]
    if not machines:
        return Check(name, Status.OK, f"no machine runs that could be reached; it will be at TCP port {PORT}")
    address = machines[0].address
    try:
        async with asyncio.timeout(_REACH_SECONDS):
            _, writer = await asyncio.open_connection(address, PORT)
    except OSError as error:
        mend = f"Let this host reach TCP port {PORT} of the network {connection.vcenter.network!r}."
        return Check(name, Status.FAIL, f"{address}:{PORT} of {machines[0].name}: {error}", mend)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return Check(name, Status.OK, f"{address}:{PORT} of {machines[0].name} answers")
