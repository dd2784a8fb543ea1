"""A vCenter for the tests of the vSphere driver: govmomi's simulator, plain and with what is ours.

Nothing boots in it. What it cannot show is said where a test is left out for that.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from jupyter_vsandbox.domain.model import GIB, Image, Shape
from jupyter_vsandbox.drivers.vsphere import connection
from jupyter_vsandbox.drivers.vsphere.driver import VSphereDriver
from jupyter_vsandbox.drivers.vsphere.marks import Marks, Role
from jupyter_vsandbox.drivers.vsphere.templates import BASE
from jupyter_vsandbox.link import new_keys
from jupyter_vsandbox.settings import Settings, VCenter
from tests.vsphere.simulator import PASSWORD, ROOT, USER, Authority, Simulator, authority_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jupyter_vsandbox.domain.model import Endpoint, LinkKeys

SHAPE = Shape(memory=GIB, vcpus=1)


@dataclass(frozen=True)
class Lab:
    """A simulator, and what a driver is made with that uses it.

    Attributes:
        simulator: the vCenter.
        settings: of a home of this test, and a folder of its own there.
        image: one that is published there.
    """

    simulator: Simulator
    settings: Settings
    image: Image

    def driver(self, pool: str = "", **vcenter: Any) -> VSphereDriver:
        """A driver that knows nothing yet but what this process does."""
        return VSphereDriver(self.other(**vcenter).settings, pool)

    def other(self, **vcenter: Any) -> Lab:
        """The same with other settings of the vCenter."""
        return replace(
            self, settings=replace(self.settings, vcenter=replace(self.settings.vcenter, **vcenter))
        )

    def names(self) -> list[str]:
        """The names of all virtual machines but the image's."""
        return [n for n in self.simulator.names(self.settings.vcenter.folder) if n != self.image.id]

    def logged_in(self) -> int:
        """How many sessions there are beside the one that looks."""
        with self.simulator.look() as content:
            return len(content.sessionManager.sessionList) - 1


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority_in(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def simulators(authority: Authority) -> Iterator[Callable[..., Simulator]]:
    """Starts simulators, one of a kind unless another one is asked for."""
    subprocess.run(["make", "--silent", "vcenter"], cwd=ROOT, check=True)
    running: dict[tuple[str, ...], Simulator] = {}
    every: list[Simulator] = []

    def get(kind: str, *more: str, own: bool = False, tools: bool = True) -> Simulator:
        options = ("-tools", *more) if tools else more
        if own or (kind, *options) not in running:
            every.append(Simulator(kind, authority, *options))
            if own:
                return every[-1]
            running[kind, *options] = every[-1]
        return running[kind, *options]

    yield get
    for simulator in every:
        simulator.kill()


@pytest.fixture
def new_lab(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Callable[[Simulator], Lab]]:
    """Makes labs; what is opened in them is closed at the end."""
    monkeypatch.setenv("JUPYTER_VSANDBOX_VSPHERE_USER", USER)
    monkeypatch.setenv("JUPYTER_VSANDBOX_VSPHERE_PASSWORD", PASSWORD)

    def make(simulator: Simulator) -> Lab:
        folder = request.node.name[:60].replace("/", "-")
        image = Image("python-3.11", "d" * 64, "", SHAPE, 0, 0.0, "")
        marks = Marks(role=Role.IMAGE, image=image.id, notices="clones")
        simulator.make(folder, image.id, marks.options(), snapshot=BASE)
        vcenter = VCenter(
            host="127.0.0.1",
            port=simulator.port,
            ca=str(simulator.authority.ca),
            folder=folder,
            network="VM Network",
            clone="linked",
            call_seconds=10,
            task_seconds=20,
            boot_seconds=10,
        )
        return Lab(simulator, replace(settings, vcenter=vcenter), image)

    yield make
    for each in list(connection._shared.values()):
        each.close()


@pytest.fixture(params=["plain", "extended"])
def lab(
    request: pytest.FixtureRequest,
    simulators: Callable[..., Simulator],
    new_lab: Callable[[Simulator], Lab],
) -> Lab:
    """A lab on the simulator as it is, and one on the extended one."""
    return new_lab(simulators(request.param))


@pytest.fixture
def extended(simulators: Callable[..., Simulator], new_lab: Callable[[Simulator], Lab]) -> Lab:
    """A lab on the extended simulator."""
    return new_lab(simulators("extended"))


async def warm(endpoint: Endpoint, keys: LinkKeys) -> None:
    """There is no guest that could be warmed."""


async def template(driver: VSphereDriver, lab: Lab) -> Any:
    """The template of the lab's image."""
    return await driver.template(lab.image, SHAPE, new_keys(), warm)
