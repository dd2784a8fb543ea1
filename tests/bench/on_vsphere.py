"""Two hundred sandboxes on a simulated vCenter that takes 300 ms for each call, 32 at a time."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # for what the tests know of the simulator

from jupyter_vsandbox.domain.model import GIB, Image, Shape
from jupyter_vsandbox.drivers.vsphere.driver import VSphereDriver
from jupyter_vsandbox.drivers.vsphere.marks import Marks, Role
from jupyter_vsandbox.drivers.vsphere.templates import BASE
from jupyter_vsandbox.settings import Settings, VCenter
from tests.vsphere.many import Churn, churn
from tests.vsphere.simulator import PASSWORD, USER, Simulator, authority_in

COUNT, AT_A_TIME = 200, 32
DELAY = 0.3
FOLDER = "bench"


def measure() -> Churn:
    """Let them live and die.

    Raises:
        RuntimeError: one was left.
    """
    os.environ["JUPYTER_VSANDBOX_VSPHERE_USER"] = USER
    os.environ["JUPYTER_VSANDBOX_VSPHERE_PASSWORD"] = PASSWORD
    image = Image("python-3.11", "d" * 64, "", Shape(GIB, 1), 0, 0.0, "")
    with tempfile.TemporaryDirectory() as folder:
        authority = authority_in(Path(folder))
        simulator = Simulator("extended", authority, "-tools", "-delay", str(int(1000 * DELAY)))
        try:
            marks = Marks(role=Role.IMAGE, image=image.id)
            simulator.make(FOLDER, image.id, marks.options(), snapshot=BASE)
            vcenter = VCenter(
                host="127.0.0.1",
                port=simulator.port,
                ca=str(authority.ca),
                folder=FOLDER,
                network="VM Network",
                clone="linked",
                parallel=AT_A_TIME,
            )
            driver = VSphereDriver(Settings(home=Path(folder) / "home", vcenter=vcenter))
            done = asyncio.run(churn(driver, image, COUNT, AT_A_TIME))
            if left := set(simulator.names(FOLDER)) - {image.id}:
                raise RuntimeError(f"left on the vCenter: {left}")
            return done
        finally:
            simulator.kill()
