"""Where a driver is tested: on this host, and on a vCenter that is simulated and has real guests."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import pytest

from jupyter_vsandbox.domain.errors import Permanent
from jupyter_vsandbox.drivers import registry
from jupyter_vsandbox.drivers.vsphere.connection import Connection
from jupyter_vsandbox.drivers.vsphere.marks import Marks, Role
from jupyter_vsandbox.drivers.vsphere.templates import BASE
from jupyter_vsandbox.settings import Credentials, VCenter
from tests.vsphere.guests import Guests
from tests.vsphere.simulator import PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jupyter_vsandbox.domain.model import Image
    from jupyter_vsandbox.drivers.base import Driver
    from tests.conftest import Home, NewHome
    from tests.vsphere.simulator import Simulator

FOLDER = "contract"


class Stand(Protocol):
    """What there is around a driver under test."""

    home: Home

    def driver(self) -> Driver:
        """A driver that has just been made: what it knows of machines it finds where they are."""

    def leftovers(self) -> list[str]:
        """All that machines leave behind."""

    def failing(self, snapshot_id: str) -> contextlib.AbstractContextManager[type[Exception]]:
        """For the length of a block, no such snapshot can be taken; what the attempt raises."""


@dataclass
class Here:
    """This host, for the driver `qemu`."""

    home: Home

    def driver(self) -> Driver:
        return registry.get("qemu", self.home.settings)

    def leftovers(self) -> list[str]:
        return self.home.leftovers()

    @contextlib.contextmanager
    def failing(self, snapshot_id: str) -> Iterator[type[Exception]]:
        in_the_way = self.home.settings.snapshots / snapshot_id
        in_the_way.parent.mkdir(exist_ok=True)
        in_the_way.write_text("in the way")
        yield OSError
        in_the_way.unlink()


@dataclass
class There:
    """A vCenter, for the driver `vsphere`."""

    home: Home
    guests: Guests
    simulator: Simulator

    def driver(self) -> Driver:
        return self.guests.followed_by(registry.get("vsphere", self.home.settings))

    def leftovers(self) -> list[str]:
        with self.simulator.look() as content:
            found = {
                vm.name: Marks.of((each.key, each.value) for each in vm.config.extraConfig).role
                for vm in self.simulator.folder(content, FOLDER).childEntity
            }
        kept = {Role.IMAGE, Role.PARENT}
        return [name for name, role in found.items() if role not in kept] + self.home.leftovers()

    @contextlib.contextmanager
    def failing(self, snapshot_id: str) -> Iterator[type[Exception]]:
        self.simulator.ask("fail?task=CreateSnapshot&fault=FileFault")
        yield Permanent


@contextlib.contextmanager
def on_vcenter(new_home: NewHome, image: Image, simulator: Simulator) -> Iterator[There]:
    """A vCenter whose guests are machines of QEMU; nothing may be left on it at the end."""
    vcenter = VCenter(
        host="127.0.0.1",
        port=simulator.port,
        ca=str(simulator.authority.ca),
        folder=FOLDER,
        network="VM Network",
        boot_seconds=300.0,
    )
    marks = Marks(role=Role.IMAGE, image=image.id, notices="clones")
    simulator.make(FOLDER, image.id, marks.options(), snapshot=BASE)
    who = Credentials(USER, PASSWORD)
    with (
        new_home() as host,
        Guests(replace(vcenter, parallel=4), who, host.settings, image) as guests,
        new_home(own_templates=True) as home,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("JUPYTER_VSANDBOX_VSPHERE_USER", USER)
        environment.setenv("JUPYTER_VSANDBOX_VSPHERE_PASSWORD", PASSWORD)
        settings = replace(home.settings, vcenter=vcenter)
        try:
            there = There(replace(home, settings=settings), guests, simulator)
            yield there
            asyncio.run(there.driver().remove_templates(image.id))
            assert simulator.names(FOLDER) == [image.id]
        finally:
            Connection.to(vcenter).close()
