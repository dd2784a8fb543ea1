"""Many sandboxes on a vCenter that is slow to answer: made, snapshotted, rolled back and deleted."""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyVmomi import SoapStubAdapter

from jupyter_vsandbox.link import new_keys

if TYPE_CHECKING:
    from jupyter_vsandbox.domain.model import Endpoint, Image, LinkKeys
    from jupyter_vsandbox.drivers.base import Driver


@dataclass
class Churn:
    """What it came to.

    Attributes:
        seconds: in all.
        calls: made by all verbs; not the one that waits for news all the time.
    """

    seconds: float
    calls: int

    def overhead(self, delay: float, at_a_time: int) -> float:
        """How much longer it took than the calls alone, each delayed by so many seconds."""
        return self.seconds / (self.calls * delay / at_a_time)


class Counted:
    """Counts all calls that pyvmomi makes, for the length of a block."""

    def __init__(self) -> None:
        self.calls = 0
        self._lock = threading.Lock()
        self._invoke: Any = SoapStubAdapter.InvokeMethod

    def __enter__(self) -> Counted:
        counted = self

        def invoke(stub: Any, mo: Any, info: Any, args: Any, *more: Any) -> Any:
            if info.wsdlName != "WaitForUpdatesEx":
                with counted._lock:
                    counted.calls += 1
            return counted._invoke(stub, mo, info, args, *more)

        SoapStubAdapter.InvokeMethod = invoke
        return self

    def __exit__(self, *_: object) -> None:
        SoapStubAdapter.InvokeMethod = self._invoke


async def churn(driver: Driver, image: Image, count: int, at_a_time: int) -> Churn:
    """Have `count` sandboxes live and die, `at_a_time` at once."""

    async def warm(endpoint: Endpoint, keys: LinkKeys) -> None:
        """There is no guest."""

    source = await driver.template(image, image.shape, new_keys(), warm)
    turn = asyncio.Semaphore(at_a_time)

    async def live() -> None:
        machine, snapshot = uuid.uuid4().hex[:12], uuid.uuid4().hex[:12]
        async with turn:
            await driver.start(machine, source)
            await driver.snapshot(machine, snapshot, memory=True)
            await driver.stop(machine, grace=0)
            await driver.restore(machine, snapshot)
            await driver.forget([snapshot])
            await driver.delete(machine)

    with Counted() as counted:
        begin = time.perf_counter()
        await asyncio.gather(*(live() for _ in range(count)))
        return Churn(time.perf_counter() - begin, counted.calls)
