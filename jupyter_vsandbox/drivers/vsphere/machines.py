"""What the vSphere driver knows of virtual machines, and how one comes to be and goes.

A machine is a virtual machine with our marks. Snapshots belong to the virtual machine that they were taken
of; one whose machine is deleted stays as a carrier for as long as a snapshot or a clone needs it.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from jupyter_vsandbox.domain.advice import Advice
from jupyter_vsandbox.domain.errors import NotFound, Transient, Unsupported
from jupyter_vsandbox.domain.model import Endpoint
from jupyter_vsandbox.drivers.vsphere import gpu, pools, specs, verbs
from jupyter_vsandbox.drivers.vsphere.connection import Connection
from jupyter_vsandbox.drivers.vsphere.marks import KEYS, Marks, Role
from jupyter_vsandbox.drivers.vsphere.seen import OFF, ON, Point, Vm
from jupyter_vsandbox.files import write_private
from jupyter_vsandbox.guest.protocol import PORT
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jupyter_vsandbox.domain.model import Shape
    from jupyter_vsandbox.settings import Settings

_OWNER = "vsphere-owner"
_CLONE_SECONDS = 60.0
"""How long an Instant Clone may take to tell an address of its own, which it asks DHCP for."""


class Machines:
    """The part of the driver that finds, makes and removes virtual machines.

    Args:
        settings: which vCenter, and where secrets are kept.
        pool: the resource pool for new machines, "" for the cluster's own.
    """

    def __init__(self, settings: Settings, pool: str = "") -> None:
        self._settings = settings
        self._pool = pool
        self._vcenter = settings.vcenter
        self._owner_id = ""
        # https://knowledge.broadcom.com/external/article/318825
        self.advice = Advice(self._vcenter.snapshot_age, self._vcenter.snapshot_chain)

    @property
    def _connection(self) -> Connection:
        return Connection.to(self._vcenter)

    @property
    def _owner(self) -> str:
        """What marks the machines of this home."""
        if not self._owner_id:
            path = private_folder(self._settings.home) / _OWNER
            with contextlib.suppress(FileExistsError):
                write_private(path, uuid.uuid4().hex)
            self._owner_id = path.read_text()
        return self._owner_id

    async def connect(self) -> None:
        """See `Driver`."""
        await self._connection.ready()

    def _cloning(self, image: Vm | None) -> tuple[bool, str]:
        """Whether to use Instant Clone, and why."""
        connection = self._connection
        if self._vcenter.clone == "linked":
            return False, "VSphere.clone asks for linked clones: machines boot."
        if connection.no_instant_clone:
            return False, f"{connection.no_instant_clone} Machines boot from linked clones."
        if self._vcenter.clone == "instant":
            return True, "VSphere.clone asks for Instant Clone: machines resume with a warm kernel."
        if image is None or not image.marks.notices:
            return (
                False,
                "The image is not made to be cloned while it runs: machines boot from linked clones.",
            )
        about = connection.session.content.about
        if tuple(map(int, about.apiVersion.split(".")[:2])) < (6, 7):
            return (
                False,
                f"vSphere {about.apiVersion} has no Instant Clone: machines boot from linked clones.",
            )
        return True, f"vSphere {about.apiVersion} has Instant Clone: machines resume with a warm kernel."

    def _vms(self, role: Role | None = None) -> list[Vm]:
        """What is ours, or everybody's; with a role, what is ours of that."""
        every = (vm for vm in self._connection.watch.all() if vm.marks.role)
        if role is None:
            return list(every)
        return [vm for vm in every if vm.marks.role == role and vm.marks.owner == self._owner]

    def _machines(self, machine_id: str) -> list[Vm]:
        return [vm for vm in self._vms(Role.MACHINE) if vm.marks.machine == machine_id]

    def _machine(self, machine_id: str, missing: str = "") -> Vm:
        for vm in self._machines(machine_id):
            return vm
        raise NotFound(missing or f"Sandbox {machine_id} has no virtual machine on {self._vcenter.host}.")

    def _runs(self, ref: str) -> bool:
        vm = self._connection.watch.get(ref)
        return vm is not None and vm.power == ON

    async def _endpoint(self, vm: Vm, seconds: float = 0) -> Endpoint:
        """Where the agent is, once the guest has told its address: in so many seconds, or those of a boot."""
        watch = self._connection.watch

        def settled() -> Vm | str:
            now = watch.get(vm.ref)
            if now is None or now.power != ON:
                return "gone"
            # An Instant Clone has that of its source until it has noticed; what answers there is the source.
            kind, _, ref = now.marks.base.partition(":")
            source = watch.get(ref) if kind == "vm" else None
            return "" if source is not None and source.address == now.address else now.address

        found = await watch.until(
            settled,
            seconds or self._vcenter.boot_seconds,
            f"Waiting for the address of {vm.name} from its VMware Tools",
        )
        if found == "gone":
            raise Transient(f"The virtual machine {vm.name} was powered off or removed while it started.")
        return Endpoint(str(found), PORT)

    async def _find(self, snapshot_id: str) -> tuple[Vm, Point]:
        """A snapshot, and whose it is; looked for anew before it is missing."""
        for look in (False, True):
            if look:
                await self._connection.watch.refresh_all()
            for vm in self._vms():
                point = vm.point(snapshot_id)
                if vm.marks.owner == self._owner and point is not None:
                    return vm, point
        raise NotFound(f"Snapshot {snapshot_id} is not on {self._vcenter.host} any more.")

    async def _retire(self, vm: Vm) -> None:
        """Remove a virtual machine, or make it a carrier where something needs it."""
        connection = self._connection
        await verbs.power_off(connection, vm)
        now = connection.watch.get(vm.ref)
        if now is None:
            return
        if self._needed(now):
            await verbs.configure(connection, now, {}, replace(now.marks, role=Role.CARRIER, machine=""))
        else:
            await verbs.destroy(connection, now)
            await self._collect()

    def _needed(self, vm: Vm) -> bool:
        """Whether a snapshot that is not forgotten, or another machine, needs a virtual machine."""
        forgotten = vm.marks.forgotten.split()
        return any(point.id not in forgotten for point in vm.points) or self._has_clones(vm)

    def _has_clones(self, vm: Vm) -> bool:
        bases = {each.marks.base for each in self._vms() if each.ref != vm.ref}
        return f"vm:{vm.ref}" in bases or any(point.id in bases for point in vm.points)

    async def _collect(self) -> None:
        """Remove what was kept only because something built on it that is gone."""
        while True:
            bases = {vm.marks.base for vm in self._vms()}
            for vm in self._vms():
                if vm.marks.owner != self._owner or vm.marks.role not in {Role.MACHINE, Role.CARRIER}:
                    continue
                if vm.marks.role == Role.CARRIER and not self._needed(vm):
                    await verbs.destroy(self._connection, vm)
                    break
                free = [p for p in vm.points if p.id in vm.marks.forgotten.split() and p.id not in bases]
                if free:
                    await verbs.remove_snapshot(self._connection, vm, free[0])
                    break
            else:
                return

    async def _linked(
        self, source: Vm, point: Point, marks: Marks, shape: Shape | None, values: Mapping[str, str]
    ) -> Vm:
        connection = self._connection
        place, pool = await connection.where(self._pool)
        session = connection.session
        reserve = pools.reserves(self._vcenter, self._pool)
        profile = gpu.profile(self._vcenter, self._pool, shape) if shape is not None else ""
        if profile:
            marks = replace(marks, gpu=profile)

        def submit(name: str) -> Any:
            spec = specs.linked_clone(
                session.object(vim.vm.Snapshot, point.ref),
                session.object(vim.ResourcePool, pool),
                session.object(vim.Datastore, place.datastore),
                {**values, **marks.options()},
                shape,
                reserve=reserve or bool(profile),  # ESXi powers on no GPU without
                devices=[gpu.device(profile)] if profile else [],
            )
            folder = session.object(vim.Folder, place.folder)
            return session.object(vim.VirtualMachine, source.ref).CloneVM_Task(folder, name, spec)

        memory = shape.memory if shape is not None else 0
        return await verbs.make(connection, source, marks, submit, power=OFF, pool=pool, memory_size=memory)

    async def _instant(self, source: Vm, marks: Marks) -> Endpoint:
        """Make a clone that goes on with the memory of its source, its link keys included.

        Raises:
            Unsupported: there is no such way here. What has been made is there still.
        """
        connection = self._connection
        vm = await verbs.whole(self._instantly(source, marks))
        seconds = min(_CLONE_SECONDS, self._vcenter.boot_seconds)
        try:
            return await self._endpoint(vm, seconds)
        except Transient as error:
            if not self._runs(vm.ref):
                raise
            connection.no_instant_clone = (
                f"After {seconds:g} s, the Instant Clone {vm.name} still had the address of {source.name}."
            )
            raise Unsupported(connection.no_instant_clone) from error

    async def _instantly(self, source: Vm, marks: Marks) -> Vm:
        connection = self._connection
        place, pool = await connection.where(self._pool)
        session = connection.session
        marks = replace(marks, base=f"vm:{source.ref}")

        def submit(name: str) -> Any:
            values = {KEYS: "", **marks.options()}
            spec = specs.instant_clone(
                name, session.object(vim.Folder, place.folder), session.object(vim.ResourcePool, pool), values
            )
            return session.object(vim.VirtualMachine, source.ref).InstantClone_Task(spec)

        try:
            vm = await verbs.make(connection, source, marks, submit, power=ON, pool=pool)
        except Unsupported as error:
            connection.no_instant_clone = f"{error}"
            raise
        now = await connection.watch.refresh(vm.ref)
        if now is not None and now.marks != marks:  # what an Instant Clone takes over is up to the vCenter
            await verbs.configure(connection, now, marks.options())
            connection.watch.note(vm.ref, marks=marks)
        return connection.watch.get(vm.ref) or vm
