"""The vSphere driver: every verb of the contract, on a vCenter."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from pyVmomi import vim

from jupyter_vsandbox.domain.errors import (
    Exhausted,
    InvalidState,
    NotFound,
    SandboxError,
    Transient,
    Unsupported,
)
from jupyter_vsandbox.domain.model import Accelerator, Usage
from jupyter_vsandbox.drivers.base import Capabilities, Saved
from jupyter_vsandbox.drivers.vsphere import gpu, pools, verbs
from jupyter_vsandbox.drivers.vsphere.checks import checks
from jupyter_vsandbox.drivers.vsphere.gpu import INSTEAD
from jupyter_vsandbox.drivers.vsphere.marks import Marks, Role, keys_option
from jupyter_vsandbox.drivers.vsphere.seen import OFF, ON, SUSPENDED
from jupyter_vsandbox.drivers.vsphere.templates import Templates

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from jupyter_vsandbox.domain.checks import Check
    from jupyter_vsandbox.domain.model import Endpoint, Image, LinkKeys, Shape
    from jupyter_vsandbox.domain.pool import Pool
    from jupyter_vsandbox.drivers.base import Extent, Template
    from jupyter_vsandbox.drivers.vsphere.seen import Point, Vm
    from jupyter_vsandbox.work import Work

LONGEST_CHAIN = 31
"""vSphere allows 32 snapshots one above the other: https://knowledge.broadcom.com/external/article/318825."""
_NOT_EXPORTED = (
    "Machines on vSphere are not exported to files. Take what you need out of the notebook, or have the "
    "vCenter export the virtual machine, which has the sandbox's id in its name, as OVF."
)


class VSphereDriver(Templates):
    """Runs machines on a vCenter. Implements `Driver`; see there for the promises."""

    name = "vsphere"
    capabilities = Capabilities(
        memory_clones=True,
        memory_snapshots=True,
        on_this_host=False,
        memory_anywhere=False,
        not_exported=_NOT_EXPORTED,
    )

    async def checks(self) -> list[Check]:
        """See `Driver`."""
        return await checks(self._connection)

    async def pools(self) -> list[Pool]:
        """See `Driver`."""
        await self.connect()
        return await pools.pools(self._connection, self.name)

    async def accelerator(self) -> Accelerator:
        """See `Driver`."""
        await self.connect()
        images = [vm for vm in self._vms() if vm.marks.role == Role.IMAGE]
        instant, why = self._cloning(images[0] if images else None)
        return Accelerator("instant-clone" if instant else "linked-clone", why)

    async def start(self, machine_id: str, source: Template) -> Endpoint:
        """See `Driver`."""
        await self.connect()
        await pools.admit(
            self._connection,
            self._pool,
            source.shape.memory,
            reserve=bool(gpu.profile(self._vcenter, self._pool, source.shape)),
        )
        marks = Marks(role=Role.MACHINE, owner=self._owner, machine=machine_id, image=source.image)
        try:
            if source.accelerator == "instant" and (resumed := await self._resumed(source, marks)):
                return resumed
            image = self._image(source.image)
            vm = await verbs.whole(
                self._linked(image, self._base(image), marks, source.shape, keys_option(source.keys))
            )
            await verbs.power_on(self._connection, vm)
            return await self._endpoint(vm)
        except BaseException:
            await self.delete(machine_id)
            raise

    async def fork(self, machine_id: str, source_id: str) -> Endpoint:
        """See `Driver`."""
        await self.connect()
        source = self._machine(source_id)
        instant, why = self._cloning(next((vm for vm in self._vms() if vm.marks.role == Role.IMAGE), None))
        if not instant:
            raise Unsupported(f"The memory of sandbox {source_id} cannot be cloned. {why} {INSTEAD}")
        if source.power != ON:
            raise InvalidState(f"Sandbox {source_id}", "not running", {"running"})
        if source.marks.gpu:
            raise Unsupported(
                f"The memory of sandbox {source_id}, which has a GPU, cannot be cloned. {INSTEAD}"
            )
        await self._admit(source)
        marks = Marks(role=Role.MACHINE, owner=self._owner, machine=machine_id, image=source.marks.image)
        try:
            return await self._instant(source, marks)
        except BaseException:
            await self.delete(machine_id)
            raise

    async def _admit(self, vm: Vm) -> None:
        """Refuse to power on a machine, or one more like it, where its pool has no room."""
        reserve = bool(vm.marks.gpu)
        await pools.admit(self._connection, self._pool, vm.memory_size, reserve=reserve)

    async def mac(self, machine_id: str) -> str:
        """See `Driver`; port groups drop what comes from another address than the vCenter's."""
        await self.connect()
        session, vm = self._connection.session, self._machine(machine_id)
        found = await self._connection.look(
            "Looking at the network card",
            lambda: session.read(vim.VirtualMachine, [vm.ref], ["config.hardware.device"]),
        )
        devices = found.get(vm.ref, {}).get("config.hardware.device") or ()
        cards = [each for each in devices if isinstance(each, vim.vm.device.VirtualEthernetCard)]
        return str(cards[0].macAddress or "") if cards else ""

    async def boot(self, machine_id: str, image: Image, shape: Shape, keys: LinkKeys) -> Endpoint:
        """See `Driver`. Returns only once the guest has told its address."""
        await self.connect()
        vm = self._machine(machine_id, f"Sandbox {machine_id} has no disk any more; start a new one.")
        await self._admit(vm)
        try:
            await verbs.configure(self._connection, vm, keys_option(keys))
            await verbs.power_on(self._connection, vm)
            return await self._endpoint(vm)
        except BaseException:
            await self.stop(machine_id, grace=0)
            raise

    async def stop(self, machine_id: str, grace: float) -> None:
        """See `Driver`."""
        await self.connect()
        for vm in self._machines(machine_id):
            if vm.power == ON and grace > 0:
                with contextlib.suppress(Transient):
                    await self._connection.watch.until(
                        lambda ref=vm.ref: not self._runs(ref),  # type: ignore[misc]
                        grace,
                        f"Waiting for sandbox {machine_id} to power off",
                    )
            now = self._connection.watch.get(vm.ref)
            if now is not None and now.power != OFF:
                await verbs.power_off(self._connection, now)

    async def delete(self, machine_id: str) -> None:
        """See `Driver`."""
        await self.connect()
        for vm in self._machines(machine_id):
            await verbs.whole(self._retire(vm))

    async def snapshot(
        self, machine_id: str, snapshot_id: str, *, memory: bool, resume: bool = True
    ) -> Saved:
        """See `Driver`. A vCenter does not tell how long the machine stood still, so `Saved.pause` is 0."""
        await self.connect()
        vm = self._machine(machine_id)
        connection = self._connection
        if memory and vm.power == OFF:
            raise InvalidState(f"Sandbox {machine_id}", "not running", {"running"})
        await gpu.check_snapshot(connection, vm, memory=memory, suspend=memory and not resume)
        if len(vm.points) >= LONGEST_CHAIN:
            raise Exhausted(
                f"Sandbox {machine_id} has {len(vm.points)} snapshots, and vSphere allows no more one above "
                f"the other. Remove some: jupyter vsandbox prune {machine_id}"
            )
        try:
            if memory and not resume:
                await verbs.whole(verbs.suspend(connection, vm))
                vm = connection.watch.get(vm.ref) or vm
            await verbs.whole(verbs.snapshot(connection, vm, snapshot_id, memory=memory))
        except BaseException:
            await self.forget([snapshot_id])
            await self.resume(machine_id)
            raise
        return Saved(await self._size(vm, snapshot_id), 0.0)

    async def _size(self, vm: Vm, snapshot_id: str) -> int:
        """Bytes of the files that came with a snapshot; 0 where the vCenter does not tell."""
        session = self._connection.session
        with contextlib.suppress(SandboxError):
            found = await self._connection.look(
                "Looking at files", lambda: session.read(vim.VirtualMachine, [vm.ref], ["layoutEx"])
            )
            layout = found.get(vm.ref, {}).get("layoutEx")
            now = self._connection.watch.get(vm.ref)
            point = now.point(snapshot_id) if now is not None else None
            if layout is not None and point is not None:
                sizes = {file.key: int(file.size or 0) for file in layout.file}
                return sum(
                    sizes.get(each.dataKey, 0) + sizes.get(each.memoryKey, 0)
                    for each in layout.snapshot
                    if each.key._moId == point.ref
                )
        return 0

    async def restore(
        self, machine_id: str, snapshot_id: str, *, memory: bool = True, take: bool = False
    ) -> Endpoint | None:
        """See `Driver`."""
        await self.stop(machine_id, grace=0)
        vm, point = await self._find(snapshot_id)
        mine = self._machines(machine_id)
        if memory:
            self._check_memory(machine_id, vm, point, take=take)
            await self._admit(vm)
            for other in mine:
                if other.ref != vm.ref:
                    await verbs.whole(self._retire(other))
            if vm.marks.machine != machine_id:
                taken = replace(vm.marks, role=Role.MACHINE, machine=machine_id)
                await verbs.configure(self._connection, vm, {}, taken)
            now = await verbs.whole(verbs.revert(self._connection, vm, point, memory=True))
            return await self._endpoint(now)
        if vm in mine:
            await verbs.whole(verbs.revert(self._connection, vm, point, memory=False))
            return None
        marks = Marks(
            role=Role.MACHINE,
            owner=self._owner,
            machine=machine_id,
            image=vm.marks.image,
            base=snapshot_id,
            gpu=vm.marks.gpu,
        )
        try:
            await verbs.whole(self._linked(vm, point, marks, None, {}))
        except BaseException:
            if not mine:
                await self.delete(machine_id)
            raise
        for other in mine:
            await verbs.whole(self._retire(other))
        return None

    async def check_snapshot(
        self, machine_id: str, snapshot_id: str, *, memory: bool, take: bool = False, ahead: bool = False
    ) -> None:
        """See `Driver`; nothing is done ahead."""
        await self.connect()
        vm, point = await self._find(snapshot_id)
        if memory:
            self._check_memory(machine_id, vm, point, take=take)

    def _check_memory(self, machine_id: str, vm: Vm, point: Point, *, take: bool) -> None:
        if not point.memory:
            raise Unsupported(f"Snapshot {point.id} has no memory. {INSTEAD}")
        if not take and vm.marks.machine not in {machine_id, ""}:
            raise Unsupported(
                "vSphere puts memory back only into the virtual machine that it is of, and snapshot "
                f"{point.id} is one of sandbox {vm.marks.machine}. {INSTEAD}"
            )

    async def forget(self, snapshot_ids: Collection[str]) -> None:
        """See `Driver`."""
        await self.connect()
        for snapshot_id in snapshot_ids:
            try:
                vm, point = await self._find(snapshot_id)
            except NotFound:
                continue
            if any(each.marks.base == snapshot_id for each in self._vms()):
                await verbs.configure(self._connection, vm, {}, vm.marks.forget(snapshot_id))
            elif vm.marks.role == Role.CARRIER and not self._needed(
                replace(vm, marks=vm.marks.forget(snapshot_id))
            ):
                await verbs.whole(verbs.destroy(self._connection, vm))
            else:
                await verbs.whole(verbs.remove_snapshot(self._connection, vm, point))
        await self._collect()

    async def resume(self, machine_id: str) -> None:
        """See `Driver`."""
        await self.connect()
        for vm in self._machines(machine_id):
            if vm.power == SUSPENDED:
                await verbs.power_on(self._connection, vm)

    async def stalled(self, machine_id: str) -> str:
        """See `Driver`. ESXi asks then, for instance where the datastore is full; people answer."""
        asked = [vm.question for vm in self._machines(machine_id) if vm.question]
        return f"the vCenter waits for an answer to: {asked[0]}" if asked else ""

    async def measure(self, snapshot_id: str, image: Image, *, memory: bool) -> Extent:
        """See `Driver`."""
        raise Unsupported(_NOT_EXPORTED)

    async def export_snapshot(
        self, snapshot_id: str, image: Image, folder: Path, work: Work, *, memory: bool
    ) -> Mapping[str, str]:
        """See `Driver`."""
        raise Unsupported(_NOT_EXPORTED)

    async def check_import(self, needs: Mapping[str, str], shape: Shape) -> None:
        """See `Driver`."""
        raise Unsupported("An archive goes to a machine of this host only: import it with the driver qemu.")

    async def import_snapshot(
        self, snapshot_id: str, image: Image, shape: Shape, folder: Path, *, memory: bool
    ) -> Saved:
        """See `Driver`."""
        raise Unsupported("An archive goes to a machine of this host only: import it with the driver qemu.")

    def paused(self, machine_id: str) -> bool:
        """See `Driver`."""
        return any(vm.power == SUSPENDED for vm in self._machines(machine_id))

    def alive(self, machine_id: str) -> bool:
        """See `Driver`."""
        return any(vm.power != OFF for vm in self._machines(machine_id))

    def usage(self, machine_id: str) -> Usage:
        """See `Driver`."""
        found = self._machines(machine_id)
        return Usage(
            sum(vm.memory for vm in found), sum(vm.disk for vm in found), sum(vm.cpu for vm in found)
        )

    def machines(self) -> set[str]:
        """See `Driver`."""
        return {vm.marks.machine for vm in self._vms(Role.MACHINE)}

    async def wait_exit(self, machine_id: str) -> str:
        """See `Driver`."""
        await self.connect()
        watch = self._connection.watch
        await watch.until(lambda: not self.alive(machine_id), 0, f"The end of sandbox {machine_id}")
        left = self._machines(machine_id)
        return f"The virtual machine {left[0].name} is powered off." if left else ""

    def debris(self) -> Collection[str]:
        """See `Driver`."""
        ours = [vm for vm in self._vms() if vm.marks.owner == self._owner]
        points = {point.id for vm in ours for point in vm.points}
        return points | {vm.ref for vm in ours if vm.marks.role in {Role.CARRIER, Role.DRAFT}}

    async def sweep(self, debris: Collection[str], snapshots: Collection[str]) -> None:
        """See `Driver`."""
        for vm in [*self._vms(Role.DRAFT), *self._vms(Role.CARRIER)]:
            if vm.marks.role == Role.DRAFT and vm.ref in debris:
                await self._retire(vm)
        ours = [vm for vm in self._vms() if vm.marks.owner == self._owner]
        await self.forget(
            [p.id for vm in ours for p in vm.points if p.id in debris and p.id not in snapshots]
        )
