"""The vSphere driver: every verb of the contract, on a vCenter.

A machine is a virtual machine with our marks. Snapshots belong to the virtual machine that they were taken
of; one whose machine is deleted stays as a carrier for as long as a snapshot or a clone needs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from pyVmomi import vim

from jupyter_vsandbox.domain.errors import (
    Exhausted,
    InvalidState,
    NotFound,
    SandboxError,
    Transient,
    Unsupported,
)
from jupyter_vsandbox.domain.model import MIB, Accelerator, Endpoint, LinkKeys, Usage
from jupyter_vsandbox.drivers.base import Capabilities, Saved, Template
from jupyter_vsandbox.drivers.vsphere import specs, verbs
from jupyter_vsandbox.drivers.vsphere.connection import Connection
from jupyter_vsandbox.drivers.vsphere.marks import Marks, Role, keys_option
from jupyter_vsandbox.drivers.vsphere.watch import OFF, ON, SUSPENDED, Point, Vm
from jupyter_vsandbox.files import locked, write_private
from jupyter_vsandbox.guest.protocol import PORT
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from jupyter_vsandbox.domain.checks import Check
    from jupyter_vsandbox.domain.model import Image, Shape
    from jupyter_vsandbox.drivers.base import Extent, Progress, Warm
    from jupyter_vsandbox.settings import Settings
    from jupyter_vsandbox.work import Work

BASE = "vsandbox-base"
"""The snapshot of a published image that machines build on."""
LONGEST_CHAIN = 31
"""vSphere allows 32 snapshots one above the other: https://knowledge.broadcom.com/external/article/318825."""
_OWNER = "vsphere-owner"
_INSTEAD = "Its disk can be had: ask for the disk only."
_NOT_EXPORTED = (
    "Machines on vSphere are not exported to files. Take what you need out of the notebook, or have the "
    "vCenter export the virtual machine {name} as OVF."
)


class VSphereDriver:
    """Runs machines on a vCenter. Implements `Driver`; see there for the promises.

    Args:
        settings: which vCenter, and where secrets are kept.
        pool: the resource pool for new machines, "" for the cluster's own.
    """

    name = "vsphere"
    capabilities = Capabilities(
        memory_clones=True, memory_snapshots=True, on_this_host=False, memory_anywhere=False
    )

    def __init__(self, settings: Settings, pool: str = "") -> None:
        self._settings = settings
        self._pool = pool
        self._vcenter = settings.vcenter
        self._owner_id = ""

    # Contract: the host.

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

    async def checks(self) -> list[Check]:
        """See `Driver`."""
        from jupyter_vsandbox.drivers.vsphere.checks import checks

        return await checks(self._connection)

    async def accelerator(self) -> Accelerator:
        """See `Driver`."""
        await self.connect()
        images = [vm for vm in self._vms() if vm.marks.role == Role.IMAGE]
        instant, why = self._cloning(images[0] if images else None)
        return Accelerator("instant-clone" if instant else "linked-clone", why)

    def _cloning(self, image: Vm | None) -> tuple[bool, str]:
        """Whether to use Instant Clone, and why."""
        connection = self._connection
        if self._vcenter.clone == "linked":
            return False, "VSphere.clone asks for linked clones: machines boot."
        if connection.no_instant_clone:
            return False, f"{connection.no_instant_clone} Machines boot from linked clones."
        if self._vcenter.clone == "instant":
            return True, "VSphere.clone asks for Instant Clone: machines resume with a warm kernel."
        if image is None or "instant" not in image.marks.size.split():
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

    # Contract: templates.

    async def template(self, image: Image, shape: Shape, keys: LinkKeys, warm: Warm) -> Template:
        """See `Driver`."""
        await self.connect()
        source = self._image(image.id)
        instant, _ = self._cloning(source)
        kind = "instant" if instant else "linked"
        name = f"vsphere-{kind}-{image.id}-{shape.memory // MIB}-{shape.vcpus}"
        folder = private_folder(self._settings.templates)
        async with locked(folder / f".{name}.lock"):
            keys = _kept_keys(folder / f"{name}.json", keys)
            made = Template(name, image.id, image.append, shape, kind, keys)
            if instant and self._parent(made) is None:
                await self._make_parent(made, source, warm)
        return made

    async def publish(self, image: Image, progress: Progress) -> bool:
        """See `Driver`."""
        await self.connect()
        async with locked(private_folder(self._settings.templates) / f".vsphere-publish-{image.id}.lock"):
            with contextlib.suppress(NotFound):
                self._base(self._image(image.id))
                return False
            await self._publish(image, progress)
        return True

    async def _publish(self, image: Image, progress: Progress) -> None:
        from jupyter_vsandbox.drivers.vsphere.publish import publish

        connection = self._connection
        draft = Marks(role=Role.DRAFT, owner=self._owner, machine=f"publish-{image.id}", image=image.id)
        try:
            ref = await publish(connection, self._settings, image, draft, self._pool, progress)
            vm = await connection.watch.refresh(ref)
            if vm is None:
                raise NotFound(f"The virtual machine of image {image.id} is gone again.")
            progress("snapshot", None, f"Taking the snapshot that machines of {image.id} build on")
            await verbs.snapshot(connection, vm, BASE, memory=False)
            now = connection.watch.get(ref) or vm
            await verbs.configure(connection, now, {}, Marks(role=Role.IMAGE, image=image.id))
        except BaseException:
            with contextlib.suppress(SandboxError):
                await connection.watch.refresh_all()
            for left in self._vms(Role.DRAFT):
                if left.marks.machine == draft.machine:
                    await verbs.destroy(connection, left)
            raise

    async def _make_parent(self, template: Template, source: Vm, warm: Warm) -> None:
        draft = Marks(role=Role.DRAFT, owner=self._owner, machine=template.id, image=template.image)
        vm: Vm | None = None
        try:
            vm = await verbs.whole(
                self._linked(source, self._base(source), draft, template.shape, keys_option(template.keys))
            )
            await verbs.power_on(self._connection, vm)
            await warm(await self._endpoint(vm), template.keys)
            await verbs.configure(self._connection, vm, {}, replace(draft, role=Role.PARENT))
        except BaseException:
            for left in self._vms(Role.DRAFT):
                if left.marks.machine == template.id:
                    await verbs.destroy(self._connection, left)
            raise

    def _parent(self, template: Template) -> Vm | None:
        """The warm machine of a template, if it runs."""
        parents = (vm for vm in self._vms(Role.PARENT) if vm.marks.machine == template.id)
        return next((vm for vm in parents if vm.power == ON), None)

    def _image(self, image_id: str) -> Vm:
        found = [vm for vm in self._vms() if vm.marks.role == Role.IMAGE and vm.marks.image == image_id]
        if not found:
            raise NotFound(
                f"Image {image_id} is not on {self._vcenter.host}. Publish it: jupyter vsandbox images "
                f"publish {image_id.rpartition('-')[0]} --driver vsphere"
            )
        return found[0]

    def _base(self, image: Vm) -> Point:
        point = image.point(BASE)
        if point is None:
            raise NotFound(
                f"The virtual machine {image.name} has no snapshot {BASE!r} any more: publish it anew."
            )
        return point

    async def remove_templates(self, image_id: str) -> None:
        """See `Driver`."""
        with contextlib.suppress(FileNotFoundError):
            for path in self._settings.templates.glob(f"vsphere-*-{image_id}-*.json"):
                path.unlink(missing_ok=True)
        await self.connect()
        for vm in [*self._vms(Role.PARENT), *self._vms(Role.DRAFT)]:
            if vm.marks.image == image_id:
                await self._retire(vm)

    # Contract: machines.

    async def start(self, machine_id: str, source: Template) -> Endpoint:
        """See `Driver`."""
        await self.connect()
        await self._admit(source.shape)
        marks = Marks(role=Role.MACHINE, owner=self._owner, machine=machine_id, image=source.image)
        try:
            vm = await self._resumed(source, marks) if source.accelerator == "instant" else None
            if vm is None:
                image = self._image(source.image)
                vm = await verbs.whole(
                    self._linked(image, self._base(image), marks, source.shape, keys_option(source.keys))
                )
                await verbs.power_on(self._connection, vm)
            return await self._endpoint(vm)
        except BaseException:
            await self.delete(machine_id)
            raise

    async def _resumed(self, source: Template, marks: Marks) -> Vm | None:
        """A clone of a warm machine; `None` where it turns out that there can be none, and may be another."""
        parent = self._parent(source)
        if parent is None:
            raise NotFound(f"The warm machine of {source.id} is gone; the next start makes one.")
        try:
            return await verbs.whole(self._instant(parent, marks, source.keys))
        except Unsupported:
            if self._vcenter.clone == "instant":
                raise
            return None

    async def fork(self, machine_id: str, source_id: str) -> Endpoint:
        """See `Driver`."""
        await self.connect()
        source = self._machine(source_id)
        instant, why = self._cloning(next((vm for vm in self._vms() if vm.marks.role == Role.IMAGE), None))
        if not instant:
            raise Unsupported(f"The memory of sandbox {source_id} cannot be cloned. {why} {_INSTEAD}")
        if source.power != ON:
            raise InvalidState(f"Sandbox {source_id}", "not running", {"running"})
        marks = Marks(role=Role.MACHINE, owner=self._owner, machine=machine_id, image=source.marks.image)
        try:
            vm = await verbs.whole(self._instant(source, marks, None))
            return await self._endpoint(vm)
        except BaseException:
            await self.delete(machine_id)
            raise

    async def boot(self, machine_id: str, image: Image, shape: Shape, keys: LinkKeys) -> Endpoint:
        """See `Driver`. Returns only once the guest has told its address."""
        await self.connect()
        vm = self._machine(machine_id, f"Sandbox {machine_id} has no disk any more; start a new one.")
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

    # Contract: snapshots.

    async def snapshot(
        self, machine_id: str, snapshot_id: str, *, memory: bool, resume: bool = True
    ) -> Saved:
        """See `Driver`. A vCenter does not tell how long the machine stood still, so `Saved.pause` is 0."""
        await self.connect()
        vm = self._machine(machine_id)
        connection = self._connection
        if memory and vm.power == OFF:
            raise InvalidState(f"Sandbox {machine_id}", "not running", {"running"})
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
        await self.connect()
        vm, point = await self._find(snapshot_id)
        mine = self._machines(machine_id)
        if memory:
            self._check_memory(machine_id, vm, point, take=take)
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
            role=Role.MACHINE, owner=self._owner, machine=machine_id, image=vm.marks.image, base=snapshot_id
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
        self, machine_id: str, snapshot_id: str, *, memory: bool, take: bool = False
    ) -> None:
        """See `Driver`."""
        await self.connect()
        vm, point = await self._find(snapshot_id)
        if memory:
            self._check_memory(machine_id, vm, point, take=take)

    def _check_memory(self, machine_id: str, vm: Vm, point: Point, *, take: bool) -> None:
        if not point.memory:
            raise Unsupported(f"Snapshot {point.id} has no memory. {_INSTEAD}")
        if not take and vm.marks.machine not in {machine_id, ""}:
            raise Unsupported(
                "vSphere puts memory back only into the virtual machine that it is of, and snapshot "
                f"{point.id} is one of sandbox {vm.marks.machine}. {_INSTEAD}"
            )

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
        """See `Driver`: a vCenter asks a question, of which nobody here knows the answer."""
        return ""

    async def measure(self, snapshot_id: str, image: Image, *, memory: bool) -> Extent:
        """See `Driver`."""
        vm, _ = await self._find(snapshot_id)
        raise Unsupported(_NOT_EXPORTED.format(name=vm.name))

    async def export_snapshot(
        self, snapshot_id: str, image: Image, folder: Path, work: Work, *, memory: bool
    ) -> Mapping[str, str]:
        """See `Driver`."""
        vm, _ = await self._find(snapshot_id)
        raise Unsupported(_NOT_EXPORTED.format(name=vm.name))

    async def check_import(self, needs: Mapping[str, str], shape: Shape) -> None:
        """See `Driver`."""
        raise Unsupported("An archive goes to a machine of this host only: import it with the driver qemu.")

    async def import_snapshot(
        self, snapshot_id: str, image: Image, shape: Shape, folder: Path, *, memory: bool
    ) -> Saved:
        """See `Driver`."""
        raise Unsupported("An archive goes to a machine of this host only: import it with the driver qemu.")

    # Contract: what there is.

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

    # Parts.

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

    async def _endpoint(self, vm: Vm) -> Endpoint:
        """Where the agent is, once the guest has told its address."""
        watch = self._connection.watch

        def settled() -> Vm | str:
            now = watch.get(vm.ref)
            return "gone" if now is None or now.power != ON else now.address

        found = await watch.until(
            settled, self._vcenter.boot_seconds, f"Waiting for the address of {vm.name} from its VMware Tools"
        )
        if found == "gone":
            raise Transient(f"The virtual machine {vm.name} was powered off or removed while it started.")
        return Endpoint(str(found), PORT)

    async def _admit(self, shape: Shape) -> None:
        """Refuse a start that the pool has no room for.

        Raises:
            Exhausted: it has not.
        """
        wanted = next((pool for pool in self._vcenter.pools if pool.name == self._pool), None)
        connection = self._connection
        if wanted is None:
            return
        _, pool = await connection.where(self._pool)
        running = [vm for vm in connection.watch.all() if vm.pool == pool and vm.power == ON]
        promised = sum(vm.memory_size for vm in running)
        if wanted.memory_limit and promised + shape.memory > wanted.memory_limit:
            raise Exhausted(
                f"Pool {self._pool!r} has no room for one more machine: it needs {shape.memory // MIB} MiB, "
                f"and {promised // MIB} of {wanted.memory_limit // MIB} MiB are given to {len(running)}."
            )
        if wanted.reserve:
            session = connection.session
            found = await connection.look(
                "Looking at the pool", lambda: session.read(vim.ResourcePool, [pool], ["runtime"])
            )
            free = int(found[pool]["runtime"].memory.unreservedForVm or 0)
            if shape.memory > free:
                raise Exhausted(
                    f"Pool {self._pool!r} cannot reserve {shape.memory // MIB} MiB for one more machine: "
                    f"{free // MIB} MiB are left."
                )

    async def _linked(
        self, source: Vm, point: Point, marks: Marks, shape: Shape | None, values: Mapping[str, str]
    ) -> Vm:
        connection = self._connection
        place, pool = await connection.where(self._pool)
        session = connection.session
        reserve = any(each.name == self._pool and each.reserve for each in self._vcenter.pools)

        def submit(name: str) -> Any:
            spec = specs.linked_clone(
                session.object(vim.vm.Snapshot, point.ref),
                session.object(vim.ResourcePool, pool),
                session.object(vim.Datastore, place.datastore),
                {**values, **marks.options()},
                shape,
                reserve=reserve,
            )
            folder = session.object(vim.Folder, place.folder)
            return session.object(vim.VirtualMachine, source.ref).CloneVM_Task(folder, name, spec)

        memory = shape.memory if shape is not None else 0
        return await verbs.make(connection, source, marks, submit, power=OFF, pool=pool, memory_size=memory)

    async def _instant(self, source: Vm, marks: Marks, keys: LinkKeys | None) -> Vm:
        connection = self._connection
        place, pool = await connection.where(self._pool)
        session = connection.session
        marks = replace(marks, base=f"vm:{source.ref}")

        def submit(name: str) -> Any:
            values = {**(keys_option(keys) if keys is not None else {}), **marks.options()}
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


def _kept_keys(path: Path, new: LinkKeys) -> LinkKeys:
    """The keys of a template, the same for all processes of this home. Called with its lock held."""
    try:
        return LinkKeys(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        path.unlink(missing_ok=True)
        write_private(path, json.dumps(asdict(new)))
        return new


async def close(settings: Settings) -> None:
    """Log out of a vCenter; what needs it logs in again."""
    await asyncio.to_thread(Connection.to(settings.vcenter).close)
