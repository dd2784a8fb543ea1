"""Virtual GPUs: which profile a machine gets, and whether its host can take a snapshot of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from jupyter_vsandbox.domain.errors import Unsupported
from jupyter_vsandbox.drivers.vsphere.seen import OFF

if TYPE_CHECKING:
    from jupyter_vsandbox.domain.model import Shape
    from jupyter_vsandbox.drivers.vsphere.connection import Connection
    from jupyter_vsandbox.drivers.vsphere.seen import Vm
    from jupyter_vsandbox.settings import VCenter

INSTEAD = "Its disk can be had: ask for the disk only."
_ON_HOST = "config.sharedGpuCapabilities"


def profile(vcenter: VCenter, pool: str, shape: Shape) -> str:
    """The vGPU profile of new machines in a pool, "" for none: the pool's, else their recipe's."""
    own = next((each.gpu for each in vcenter.pools if each.name == pool), "")
    return own or shape.gpu


def device(name: str) -> Any:
    """What is added to a machine to give it a vGPU of the profile `name`."""
    passthrough = vim.vm.device.VirtualPCIPassthrough
    return vim.vm.device.VirtualDeviceSpec(
        operation="add", device=passthrough(key=-104, backing=passthrough.VmiopBackingInfo(vgpu=name))
    )


async def check_snapshot(connection: Connection, vm: Vm, *, memory: bool, suspend: bool = False) -> None:
    """Refuse a snapshot of a running machine whose host cannot take one.

    https://developer.broadcom.com/xapis/virtual-infrastructure-json-api/latest has what a host says of that
    under HostSharedGpuCapabilities.

    Args:
        connection: to the vCenter.
        vm: the machine.
        memory: whether it is to have the memory.
        suspend: whether the machine is to be suspended for it.

    Raises:
        Unsupported: the host says that it cannot, with the profile that the machine has.
    """
    if not vm.marks.gpu or vm.power == OFF:
        return
    session = connection.session

    def look() -> tuple[str, list[Any]]:
        machine = session.read(vim.VirtualMachine, [vm.ref], ["runtime.host"])
        if (host := machine.get(vm.ref, {}).get("runtime.host")) is None:
            return "", []
        values = session.read(vim.HostSystem, [host._moId], ["name", _ON_HOST]).get(host._moId, {})
        return str(values.get("name", "")), list(values.get(_ON_HOST) or ())

    name, profiles = await connection.look("Looking at the GPUs of the host", look)
    known = next((each for each in profiles if each.vgpu == vm.marks.gpu), None)
    if known is None:  # an old host: what it cannot do, it will say then
        return
    what, having = f"Host {name} cannot keep the", f"of a machine that has the vGPU profile {known.vgpu}."
    if not memory and not known.diskSnapshotSupported:
        raise Unsupported(f"{what} disk {having} Stop it first: then it can.")
    if suspend and not (known.suspendSupported and known.memorySnapshotSupported):
        raise Unsupported(f"{what} memory {having} Stop it instead: its disk stays.")
    if memory and not known.memorySnapshotSupported:
        disk = INSTEAD if known.diskSnapshotSupported else "Stop it first: then its disk can be kept."
        raise Unsupported(f"{what} memory {having} {disk}")
