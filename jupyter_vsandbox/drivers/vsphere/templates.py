"""What machines on a vCenter are cloned from: published images, and warm machines of them."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import NotFound, SandboxError, Unsupported
from jupyter_vsandbox.domain.model import MIB, LinkKeys
from jupyter_vsandbox.drivers.base import Template
from jupyter_vsandbox.drivers.vsphere import gpu, pools, verbs
from jupyter_vsandbox.drivers.vsphere.machines import Machines
from jupyter_vsandbox.drivers.vsphere.marks import KEYS, Marks, Role, keys_option
from jupyter_vsandbox.drivers.vsphere.publish import publish
from jupyter_vsandbox.drivers.vsphere.seen import ON, Point, Vm
from jupyter_vsandbox.files import locked, write_private
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    from pathlib import Path

    from jupyter_vsandbox.domain.model import Endpoint, Image, Shape
    from jupyter_vsandbox.drivers.base import MakeDisk, Progress, Warm

BASE = "vsandbox-base"
"""The snapshot of a published image that machines build on."""


class Templates(Machines):
    """The part of the driver that publishes images and keeps templates."""

    async def template(self, image: Image, shape: Shape, keys: LinkKeys, warm: Warm) -> Template:
        """See `Driver`."""
        await self.connect()
        source = self._image(image.id)
        profile = gpu.profile(self._vcenter, self._pool, shape)
        instant = self._cloning(source)[0] and not profile  # what has a GPU is not cloned while it runs
        kind = "instant" if instant else "linked"
        name = f"vsphere-{kind}-{image.id}-{shape.memory // MIB}-{shape.vcpus}"
        if pools.reserves(self._vcenter, self._pool):  # a clone has of its source what it reserves
            name += "-reserved"
        folder = private_folder(self._settings.templates)
        async with locked(folder / f".{name}.lock"):
            keys = _kept_keys(folder / f"{name}.json", keys)
            made = Template(name, image.id, image.append, shape, kind, keys)
            if instant and self._parent(made) is None:
                for ended in self._vms(Role.PARENT):
                    if ended.marks.machine == made.id:
                        await self._retire(ended)
                await self._make_parent(made, source, warm)
        return made

    async def remove_templates(self, image_id: str) -> None:
        """See `Driver`."""
        with contextlib.suppress(FileNotFoundError):
            for path in self._settings.templates.glob(f"vsphere-*-{image_id}-*.json"):
                path.unlink(missing_ok=True)
        await self.connect()
        for vm in [*self._vms(Role.PARENT), *self._vms(Role.DRAFT)]:
            if vm.marks.image == image_id:
                await self._retire(vm)

    async def publish(self, image: Image, make_disk: MakeDisk, progress: Progress) -> bool:
        """See `Driver`."""
        await self.connect()
        async with locked(private_folder(self._settings.templates) / f".vsphere-publish-{image.id}.lock"):
            with contextlib.suppress(NotFound):
                self._base(self._image(image.id))
                return False
            await self._publish(image, make_disk, progress)
        return True

    async def _publish(self, image: Image, make_disk: MakeDisk, progress: Progress) -> None:
        connection = self._connection
        draft = Marks(role=Role.DRAFT, owner=self._owner, machine=f"publish-{image.id}", image=image.id)
        try:
            ref = await publish(connection, self._settings, image, make_disk, draft, self._pool, progress)
            vm = await connection.watch.refresh(ref)
            if vm is None:
                raise NotFound(f"The virtual machine of image {image.id} is gone again.")
            progress("snapshot", None, f"Taking the snapshot that machines of {image.id} build on")
            await verbs.snapshot(connection, vm, BASE, memory=False)
            now = connection.watch.get(ref) or vm
            await verbs.configure(
                connection, now, {}, Marks(role=Role.IMAGE, image=image.id, notices="clones")
            )
        except BaseException:
            with contextlib.suppress(SandboxError):
                await connection.watch.refresh_all()
            for left in self._vms(Role.DRAFT):
                if left.marks.machine == draft.machine:
                    await verbs.destroy(connection, left)
            raise

    async def _make_parent(self, template: Template, source: Vm, warm: Warm) -> None:
        draft = Marks(role=Role.DRAFT, owner=self._owner, machine=template.id, image=template.image)
        await pools.admit(self._connection, self._pool, template.shape.memory)
        try:
            vm = await verbs.whole(
                self._linked(source, self._base(source), draft, template.shape, keys_option(template.keys))
            )
            await verbs.power_on(self._connection, vm)
            await warm(await self._endpoint(vm), template.keys)
            await verbs.configure(self._connection, vm, {KEYS: ""}, replace(draft, role=Role.PARENT))
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

    async def _resumed(self, source: Template, marks: Marks) -> Endpoint | None:
        """Clone a warm machine; `None` where it turns out that there can be none, and may be another."""
        parent = self._parent(source)
        if parent is None:
            raise NotFound(f"The warm machine of {source.id} is gone; the next start makes one.")
        try:
            return await self._instant(parent, marks)
        except Unsupported:
            if self._vcenter.clone == "instant":
                raise
            for left in self._machines(marks.machine):
                await self._retire(left)
            return None


def _kept_keys(path: Path, new: LinkKeys) -> LinkKeys:
    """The keys of a template, the same for all processes of this home. Called with its lock held."""
    try:
        return LinkKeys(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        path.unlink(missing_ok=True)
        write_private(path, json.dumps(asdict(new)))
        return new
