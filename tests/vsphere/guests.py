"""Guests for the simulated vCenter: what it says is done to virtual machines, is done to machines of QEMU.

It stands for ESXi and VMware Tools: logs in by itself, watches a folder, and tells the vCenter the addresses
of guests. A virtual machine that is powered on for the first time gets a warm machine that is given the link
keys of its ``guestinfo``, as one has that boots with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import threading
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from pyVmomi import vim

from jupyter_vsandbox.core.lifecycle import _identity
from jupyter_vsandbox.domain.errors import OutcomeUnknown
from jupyter_vsandbox.domain.model import LinkKeys
from jupyter_vsandbox.drivers.qemu import QemuDriver
from jupyter_vsandbox.drivers.vsphere.marks import KEYS, Role
from jupyter_vsandbox.drivers.vsphere.seen import OFF, ON, Vm
from jupyter_vsandbox.drivers.vsphere.session import Session
from jupyter_vsandbox.drivers.vsphere.watch import Watch
from jupyter_vsandbox.guest.protocol import PORT
from jupyter_vsandbox.link import AgentLink, new_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_vsandbox.domain.model import Endpoint, Image
    from jupyter_vsandbox.drivers.base import Driver, Template
    from jupyter_vsandbox.settings import Credentials, Settings, VCenter

SETTLE_SECONDS = 300.0
_NETWORK = 128 + os.getpid() % 126
"""Guests of several processes are told apart by it."""
_KNOWN = {Role.PARENT, Role.DRAFT, Role.MACHINE, Role.CARRIER}


@dataclass
class Guest:
    """The machine of QEMU that stands for a virtual machine.

    Attributes:
        id: its name for the driver.
        address: where its agent is for everybody.
        made: whether it has a disk yet.
        points: the snapshots that it has.
        reverted: the last time that it was put back.
        door: carries connections to it.
        target: where it is right now.
        end: waits for it to end by itself.
    """

    address: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    made: bool = False
    points: set[str] = field(default_factory=set)
    reverted: str = ""
    door: asyncio.Server | None = None
    target: Endpoint | None = None
    end: asyncio.Task[None] | None = None


class Guests:
    """Follows a vCenter in a thread of its own, for the length of a block.

    Args:
        vcenter: which, and the folder.
        who: who logs in.
        settings: where the machines of QEMU are.
        image: what they are made from.
    """

    def __init__(self, vcenter: VCenter, who: Credentials, settings: Settings, image: Image) -> None:
        self._vcenter = vcenter
        self._session = Session(vcenter, lambda: who)
        self._folder = ""
        self._watch = Watch(self._session, self._find_folder, lambda: None)
        self._qemu = QemuDriver(settings)
        self._image = image
        self._template: Template | None = None
        self._guests: dict[str, Guest] = {}
        self._numbers = itertools.count(1)
        self._seen: dict[str, Any] = {}
        self._busy = False
        self._error: BaseException | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._task: asyncio.Task[None] | None = None

    def _find_folder(self) -> str:
        if not self._folder:
            parent = self._session.content.rootFolder.childEntity[0].vmFolder
            found = [
                c for c in parent.childEntity if isinstance(c, vim.Folder) and c.name == self._vcenter.folder
            ]
            self._folder = found[0]._moId
        return self._folder

    def __enter__(self) -> Guests:
        self._thread.start()
        self._call(self._begin())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._watch.close()
        self._session.close()

    def _call(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SETTLE_SECONDS)

    def settle(self) -> None:
        """Return when all that the vCenter has said by now is done."""
        self._call(self._settled())
        if self._error is not None:
            raise self._error

    def followed_by(self, driver: Driver) -> Driver:
        """A driver whose verbs end when QEMU has done them, too, as a vCenter's tasks end after ESXi."""
        return cast("Driver", _Followed(driver, self))

    async def _settled(self) -> None:
        await self._watch.refresh_all()
        while self._changed() or self._busy:
            if self._error is not None:
                return
            await asyncio.sleep(0.05)

    async def _begin(self) -> None:
        async def warm(endpoint: Endpoint, keys: LinkKeys) -> None:
            async with AgentLink(endpoint, keys) as link:
                await link.request("info", timeout=SETTLE_SECONDS)
                await link.request("warm", timeout=SETTLE_SECONDS, load=True)

        self._template = await self._qemu.template(self._image, self._image.shape, new_keys(), warm)
        await self._watch.ready(30)
        self._task = asyncio.create_task(self._follow_all())

    async def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for guest in self._guests.values():
            await self._remove(guest)

    async def _remove(self, guest: Guest) -> None:
        self._expect_end(guest)
        await self._qemu.delete(guest.id)
        await self._qemu.forget(guest.points)
        if guest.door is not None:
            guest.door.close()

    # What the vCenter says.

    def _facts(self, vm: Vm) -> Any:
        return vm.power, vm.points, self._option(vm.ref, "vcsim.reverted"), vm.marks.role in _KNOWN

    def _option(self, ref: str, key: str) -> str:
        options = self._watch._raw.get(ref, {}).get("config.extraConfig") or ()
        return next((str(each.value) for each in options if each.key == key), "")

    def _changed(self) -> list[str]:
        here = {vm.ref: self._facts(vm) for vm in self._watch.all()}
        new = [ref for ref, facts in here.items() if self._seen.get(ref) != facts]
        return new + [ref for ref in self._seen if ref not in here]

    async def _follow_all(self) -> None:
        try:
            while True:
                changed = await self._watch.until(self._changed, 0, "A change")
                self._busy = True
                for ref in changed:
                    await self._follow(ref)
                self._busy = False
        except BaseException as error:
            self._error = error
            raise
        finally:
            self._busy = False

    async def _follow(self, ref: str) -> None:
        vm = self._watch.get(ref)
        if vm is None:
            self._seen.pop(ref, None)
            if (gone := self._guests.pop(ref, None)) is not None:
                await self._remove(gone)
            return
        facts = self._seen[ref] = self._facts(vm)
        if vm.marks.role not in _KNOWN:
            return
        if ref not in self._guests:
            number = next(self._numbers)
            self._guests[ref] = Guest(f"127.{_NETWORK}.{number >> 8}.{number & 255}")
        guest = self._guests[ref]
        for point in vm.points:
            if point.id not in guest.points:
                await self._qemu.snapshot(guest.id, point.id, memory=point.memory, resume=vm.power == ON)
                guest.points.add(point.id)
        told = False
        if facts[2] != guest.reverted:
            guest.reverted = facts[2]
            snapshot = guest.reverted.partition("@")[0]
            [back] = [each for each in vm.points if each.ref == snapshot]
            self._expect_end(guest)
            await self._qemu.stop(guest.id, grace=0)
            guest.target = await self._qemu.restore(guest.id, back.id, memory=back.memory)
        elif vm.power == ON and not self._qemu.alive(guest.id):
            guest.target = await self._power_on(vm, guest)
            told = True
        elif vm.power == OFF and self._qemu.alive(guest.id):
            self._expect_end(guest)
            await self._qemu.stop(guest.id, grace=0)
        if vm.power == ON and (told or not vm.address):
            await self._tell(vm, guest)
        if vm.power == ON and guest.end is None:
            guest.end = asyncio.create_task(self._power_off(vm.ref, guest))
        gone = guest.points - {point.id for point in vm.points}
        await self._qemu.forget(gone)
        guest.points -= gone

    # What is done then.

    def _expect_end(self, guest: Guest) -> None:
        """It is ended from here."""
        if guest.end is not None:
            guest.end.cancel()
            guest.end = None

    async def _power_off(self, ref: str, guest: Guest) -> None:
        """Have the vCenter know when a guest has powered itself off."""
        await self._qemu.wait_exit(guest.id)
        guest.end = None
        await self._session.call(
            "Telling the end", lambda: self._session.object(vim.VirtualMachine, ref).PowerOffVM_Task()
        )

    async def _power_on(self, vm: Vm, guest: Guest) -> Endpoint | None:
        assert self._template is not None
        kind, _, source = vm.marks.base.partition(":")
        if not guest.made and kind == "vm":
            guest.made = True
            moment = uuid.uuid4().hex[:12]
            await self._qemu.snapshot(self._guests[source].id, moment, memory=True)
            try:
                return await self._qemu.restore(guest.id, moment)
            finally:
                await self._qemu.forget([moment])
        told = json.loads(self._option(vm.ref, KEYS))
        keys = LinkKeys(told["server_public"], told["client_public"], "", told["server_secret"])
        if not guest.made and not vm.marks.base:
            guest.made = True
            endpoint = await self._qemu.start(guest.id, self._template)
            async with AgentLink(endpoint, self._template.keys) as link:
                await link.request("adopt", timeout=SETTLE_SECONDS, keys=told, **_identity(guest.id))
                with contextlib.suppress(OutcomeUnknown):  # its only answer is that the link breaks
                    await link.request("rekey", timeout=SETTLE_SECONDS)
            return endpoint
        if not guest.made:
            guest.made = True
            await self._qemu.restore(guest.id, vm.marks.base, memory=False)
        return await self._qemu.boot(guest.id, self._image, self._image.shape, keys)

    async def _tell(self, vm: Vm, guest: Guest) -> None:
        """Have the guest reached at its address, and the vCenter know that."""
        if guest.door is None:
            guest.door = await asyncio.start_server(self._carrier(guest), guest.address, PORT)
        values = {"SET.guest.ipAddress": guest.address, "SET.guest.toolsRunningStatus": "guestToolsRunning"}
        spec = vim.vm.ConfigSpec(
            extraConfig=[vim.option.OptionValue(key=key, value=value) for key, value in values.items()]
        )
        await self._session.call(
            "Telling the address",
            lambda: self._session.object(vim.VirtualMachine, vm.ref).ReconfigVM_Task(spec),
        )

    def _carrier(self, guest: Guest) -> Callable[..., Any]:
        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                assert guest.target is not None
                there, back = await asyncio.open_connection(guest.target.host, guest.target.port)
                await asyncio.wait(
                    [
                        asyncio.create_task(_pour(reader, back)),
                        asyncio.create_task(_pour(there, writer)),
                    ],
                    return_when=asyncio.FIRST_COMPLETED,
                )
                back.close()
            writer.close()

        return carry


class _Followed:
    """See `Guests.followed_by`."""

    def __init__(self, driver: Driver, guests: Guests) -> None:
        self._driver, self._guests = driver, guests

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._driver, name)
        if name == "wait_exit" or not asyncio.iscoroutinefunction(found):
            return found

        async def done(*words: Any, **named: Any) -> Any:
            try:
                return await found(*words, **named)
            finally:
                await asyncio.to_thread(self._guests.settle)

        return done


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
