"""What is sent to a vCenter to have machines made: pure functions, pyvmomi's records out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from jupyter_vsandbox.domain.model import MIB

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jupyter_vsandbox.domain.model import Shape

_CHILD_DISK = "createNewChildDiskBacking"
"""A linked clone: https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/ has it under
VirtualMachineRelocateDiskMoveOptions."""


def options(values: Mapping[str, str]) -> list[Any]:
    """Entries of ``extraConfig``; an empty value removes one."""
    return [vim.option.OptionValue(key=key, value=value) for key, value in values.items()]


def linked_clone(
    snapshot: Any,
    pool: Any,
    datastore: Any,
    values: Mapping[str, str],
    shape: Shape | None,
    *,
    reserve: bool,
    devices: Sequence[Any] = (),
) -> Any:
    """A clone that shares its disk with a snapshot, and is not powered on yet.

    Args:
        snapshot: what it builds on.
        pool: where it goes.
        datastore: where its own files go.
        values: its ``extraConfig``.
        shape: its size, `None` for that of its source.
        reserve: whether all of its memory is reserved.
        devices: changes to its devices.
    """
    config = vim.vm.ConfigSpec(extraConfig=options(values), deviceChange=list(devices))
    if shape is not None:
        config.numCPUs = shape.vcpus
        config.memoryMB = shape.memory // MIB
        if reserve:
            config.memoryAllocation = vim.ResourceAllocationInfo(reservation=shape.memory // MIB)
    return vim.vm.CloneSpec(
        location=vim.vm.RelocateSpec(pool=pool, datastore=datastore, diskMoveType=_CHILD_DISK),
        snapshot=snapshot,
        config=config,
        powerOn=False,
        template=False,
    )


def image_machine(
    name: str, shape: Shape, disk: int, datastore: str, network: Any, values: Mapping[str, str]
) -> Any:
    """A machine with one disk and one network card, both of the kinds that ESXi is fastest with.

    What boots on it is made in ``runtimes/bootable.py``, for UEFI and unsigned. Debian's cloud kernels have
    the driver of an NVMe disk built in, and its UEFI for QEMU boots from one, not from PVSCSI: so the whole
    way is tested. It takes virtual hardware of version 13, ESXi 6.5.

    Args:
        name: of the virtual machine.
        shape: its size.
        disk: bytes of its disk.
        datastore: the name of where it is.
        network: what its card is connected to.
        values: its ``extraConfig``.
    """
    device = vim.vm.device
    controller, first = -101, 0
    devices = [
        device.VirtualNVMEController(key=controller, busNumber=0),
        device.VirtualDisk(
            key=-102,
            controllerKey=controller,
            unitNumber=first,
            capacityInKB=disk // 1024,
            backing=device.VirtualDisk.FlatVer2BackingInfo(
                fileName="", diskMode="persistent", thinProvisioned=True
            ),
        ),
        device.VirtualVmxnet3(
            key=-103,
            addressType="generated",
            backing=network,
            connectable=device.VirtualDevice.ConnectInfo(
                startConnected=True, allowGuestControl=True, connected=False
            ),
        ),
    ]
    spec = device.VirtualDeviceSpec
    return vim.vm.ConfigSpec(
        name=name,
        numCPUs=shape.vcpus,
        memoryMB=shape.memory // MIB,
        guestId="debian10_64Guest",
        firmware="efi",
        bootOptions=vim.vm.BootOptions(efiSecureBootEnabled=False),
        files=vim.vm.FileInfo(vmPathName=f"[{datastore}]"),
        extraConfig=options(values),
        deviceChange=[
            spec(
                operation="add",
                device=each,
                **({"fileOperation": "create"} if isinstance(each, device.VirtualDisk) else {}),
            )
            for each in devices
        ],
    )


def instant_clone(name: str, folder: Any, pool: Any, values: Mapping[str, str]) -> Any:
    """A clone that shares disk and memory with a machine that runs."""
    return vim.vm.InstantCloneSpec(
        name=name, location=vim.vm.RelocateSpec(folder=folder, pool=pool), config=options(values)
    )


def reconfigure(values: Mapping[str, str]) -> Any:
    """Entries of ``extraConfig`` to write."""
    return vim.vm.ConfigSpec(extraConfig=options(values))
