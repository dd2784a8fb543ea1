"""A notebook in "vSphere": real guests, the simulator for the vCenter, QEMU for the rest (see `Guests`)."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jupyter_client.manager import KernelManager

from jupyter_vsandbox.config import load_settings
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.domain.model import State
from jupyter_vsandbox.drivers.vsphere.connection import Connection
from jupyter_vsandbox.drivers.vsphere.marks import Marks, Role
from jupyter_vsandbox.drivers.vsphere.templates import BASE
from jupyter_vsandbox.kernel import specs
from jupyter_vsandbox.runtimes.catalog import Catalog
from jupyter_vsandbox.settings import Credentials, VCenter
from tests.conftest import RUNTIME, Home
from tests.guest import evaluate
from tests.vsphere.guests import Guests
from tests.vsphere.simulator import PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from jupyter_vsandbox.domain.model import Image, Sandbox
    from tests.conftest import NewHome
    from tests.vsphere.simulator import Simulator

pytestmark = pytest.mark.machine

DRIVER = "vsphere"
FOLDER = "notebooks"
SECONDS = 120.0


class Notebook:
    """A kernel in a virtual machine, and the verbs on its sandbox."""

    def __init__(self, home: Home, guests: Guests) -> None:
        self.home, self.guests = home, guests
        self.manager = KernelManager(kernel_name=specs.spec_name(RUNTIME, DRIVER))
        self.manager.start_kernel(env=os.environ | {"JPY_SESSION_NAME": str(home.settings.home / "a.ipynb")})
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=SECONDS)

    @property
    def sandbox(self) -> Sandbox:
        return next(s for s in self.home.records() if s.kernel_id == self.manager.kernel_id)

    def run(self, code: str) -> str:
        printed: list[str] = []

        def collect(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = self.client.execute_interactive(code, timeout=SECONDS, output_hook=collect, allow_stdin=False)
        assert reply["content"]["status"] == "ok", reply["content"]
        return "".join(printed).strip()

    def do(self, verb: Callable[[SandboxService], Any]) -> Any:
        """Do something with the service, and wait until QEMU has followed."""

        async def work() -> Any:
            with SandboxService(self.home.settings) as service:
                return await verb(service)

        done = asyncio.run(work())
        self.guests.settle()
        return done

    def shut_down(self) -> None:
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def simulator(simulators: Callable[..., Simulator]) -> Simulator:
    return simulators("extended", tools=False)


@pytest.fixture(scope="module")
def notebook(new_home: NewHome, image: Image, simulator: Simulator) -> Iterator[Notebook]:
    vcenter: dict[str, Any] = {
        "host": "127.0.0.1",
        "port": simulator.port,
        "ca": str(simulator.authority.ca),
        "folder": FOLDER,
        "network": "VM Network",
        "boot_seconds": 300.0,
    }
    marks = Marks(role=Role.IMAGE, image=image.id, notices="clones")
    simulator.make(FOLDER, image.id, marks.options(), snapshot=BASE)
    who = Credentials(USER, PASSWORD)
    with (
        new_home() as host,
        Guests(replace(VCenter(**vcenter), parallel=4), who, host.settings, image) as guests,
        new_home() as there,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("JUPYTER_VSANDBOX_VSPHERE_USER", USER)
        environment.setenv("JUPYTER_VSANDBOX_VSPHERE_PASSWORD", PASSWORD)
        config = Path(os.environ["JUPYTER_CONFIG_DIR"], "jupyter_vsandbox_config.json")
        config.write_text(json.dumps({**json.loads(config.read_text()), "VSphere": vcenter}))
        settings = load_settings()
        spec = Path(os.environ["JUPYTER_PATH"], "kernels", specs.spec_name(RUNTIME, DRIVER), "kernel.json")
        spec.parent.mkdir()
        spec.write_text(json.dumps(specs.kernel_json(Catalog.standard(settings).get(RUNTIME), DRIVER)))
        home = Home(settings)
        notebook = Notebook(home, guests)
        try:
            yield notebook
        finally:
            notebook.shut_down()
            home.remove(*State)
            with SandboxService(settings) as service:
                asyncio.run(service.driver(DRIVER).remove_templates(image.id))
            left = simulator.names(FOLDER)
            guests.settle()
            Connection.to(settings.vcenter).close()
            assert left == [image.id]
            assert there.leftovers() == []


def test_a_notebook_travels_in_time_on_a_vcenter(notebook: Notebook) -> None:
    sandbox = notebook.sandbox
    assert sandbox.driver == DRIVER
    notebook.run("value = 'first'; open('mine', 'w').write(value)")
    first = notebook.do(lambda service: service.snapshot(sandbox.id, "first"))
    assert first.memory
    notebook.run("value = 'second'; open('mine', 'w').write(value)")
    notebook.do(lambda service: service.rollback(sandbox.id, first.id))
    assert notebook.run("print(value, open('mine').read())") == "first first"

    fork = notebook.do(lambda service: service.fork(sandbox.id, name="fork"))
    assert fork.state is State.RUNNING
    there = asyncio.run(evaluate(fork.endpoint, fork.keys, "value += ' in the fork'", "value"))
    assert there == "first in the fork"
    assert notebook.run("print(value)") == "first"

    notebook.do(lambda service: service.promote(fork.id))
    assert notebook.run("print(value)") == "first in the fork"
    assert [s.id for s in notebook.home.records()] == [sandbox.id]
    notebook.do(lambda service: service.rollback(sandbox.id, first.id))
    assert notebook.run("print(value)") == "first"

    notebook.run("value = 'asleep'")
    notebook.do(lambda service: service.hibernate(sandbox.id))
    assert notebook.sandbox.state is State.HIBERNATED
    assert notebook.run("print(value)") == "asleep"
