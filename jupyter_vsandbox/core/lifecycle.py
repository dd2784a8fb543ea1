"""How sandboxes come, run and go: the half of the service that knows nothing of snapshots.

The shape of a verb: take the sandbox's lock, check its state, act through the driver, record,
and on failure leave nothing half-made.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import time
import uuid
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox import faults
from jupyter_vsandbox.core import capacity, owner
from jupyter_vsandbox.core.access import KERNEL_SOCKETS, Access
from jupyter_vsandbox.domain.errors import (
    NotFound,
    OutcomeUnknown,
    Permanent,
    SandboxError,
)
from jupyter_vsandbox.domain.model import Cause, Sandbox, State
from jupyter_vsandbox.drivers import registry
from jupyter_vsandbox.files import try_locked
from jupyter_vsandbox.link import AgentLink, new_keys
from jupyter_vsandbox.runtimes import build

if TYPE_CHECKING:
    import builtins
    from collections.abc import Coroutine

    from jupyter_vsandbox.domain.model import Endpoint, Image, LinkKeys
    from jupyter_vsandbox.drivers.base import Driver

_log = logging.getLogger(__name__)

BOOT_SECONDS = 240.0
WARM_SECONDS = 900.0
"""To load what a runtime warms up takes minutes where the host emulates and is busy."""
ADOPT_SECONDS = 60.0
POWEROFF_SECONDS = 30.0
SYNC_SECONDS = 20.0
_MEND_SECONDS = 3.0
_STILL_SECONDS = 5.0
_STANDBY_MARGIN = 60.0  # a standby this near to its end is not worth claiming
ACTIVE = frozenset({State.STARTING, State.STANDBY, State.RUNNING, State.RESTORING, State.STOPPING})
"""The states in which a sandbox has memory promised to it."""


class Lifecycle(Access):
    """The part of the service that starts and ends machines."""

    async def create(
        self, runtime: str, *, driver: str = "qemu", kernel_id: str = "", notebook: str = ""
    ) -> Sandbox:
        """Give the calling process a new sandbox with a warm kernel: a standby, or a new clone.

        Raises:
            NotFound: the runtime is unknown, or its image is not built.
            Exhausted: memory or disk would run out.
            Permanent: the machine did not start.
        """
        await self.reconcile()
        image = build.find(runtime, self.settings)
        claimed = self._store.claim_standby(
            driver,
            image.id,
            image.shape,
            time.time() - self.settings.standby_seconds + _STANDBY_MARGIN,
            owner.this_process(),
            kernel_id,
            notebook,
        )
        if claimed is not None:
            if self.driver(claimed.driver).alive(claimed.id):
                return claimed
            await self.delete(claimed.id)
        return await self._clone(image, driver, State.RUNNING, kernel_id, notebook)

    async def create_standby(self, runtime: str, driver: str = "qemu") -> Sandbox | None:
        """Start a machine for nobody, so that the next `create` is instant.

        Returns:
            The standby, or `None` where there are `Settings.standby` of them already.
        """
        await self.reconcile()
        image = build.find(runtime, self.settings)
        waiting = [s for s in self._store.all() if s.state is State.STANDBY and s.image == image.id]
        for sandbox in list(waiting):
            if not self.driver(driver).alive(sandbox.id):  # it has powered itself off
                await self.delete(sandbox.id)
                waiting.remove(sandbox)
        if len(waiting) >= self.settings.standby:
            return None
        return await self._clone(image, driver, State.STANDBY)

    async def prepare(self, runtime: str, driver: str = "qemu") -> None:
        """Make the template and the standbys of a runtime now, so that no start has to wait for it.

        Standbys of an older image of the same runtime end. Raises as `create` does.
        """
        image = build.find(runtime, self.settings)
        for sandbox in self._store.all():
            if sandbox.state is State.STANDBY and sandbox.runtime == runtime and sandbox.image != image.id:
                await self.delete(sandbox.id)
        await self.driver(driver).template(image, image.shape, new_keys(), self._warm)
        while await self.create_standby(runtime, driver) is not None:
            pass

    async def start(self, sandbox_id: str) -> Sandbox:
        """Boot a sandbox that has no machine (any more) from its disk, for the calling process.

        Its kernel is not started. One that runs is returned as it is. Raises as `create` does.
        """
        async with self._lock(sandbox_id):
            sandbox = await self._mend(self.get(sandbox_id))
            return sandbox if sandbox.state is State.RUNNING else await self._boot(sandbox)

    async def _boot(self, sandbox: Sandbox) -> Sandbox:
        driver = self.driver(sandbox.driver)
        image = build.get(sandbox.image, self.settings)
        async with self._capacity():
            self._require_memory(sandbox, image)
            self._store.change(sandbox.id, state=State.STARTING, owner=owner.this_process())
        faults.point("start.recorded")
        try:
            keys = new_keys()
            endpoint = await driver.boot(sandbox.id, image, sandbox.shape, keys)
            faults.point("start.booted")
            return await self._adopt(sandbox.id, driver, endpoint, keys, State.RUNNING, BOOT_SECONDS)
        except BaseException:
            await driver.stop(sandbox.id, grace=0)
            self._store.change(sandbox.id, state=State.STOPPED, endpoint=None, keys=None)
            raise

    async def stop(self, sandbox_id: str) -> Sandbox:
        """Shut the machine of a sandbox down in order; its disk is kept. Harmless twice."""
        async with self._lock(sandbox_id):
            sandbox = await self._mend(self.get(sandbox_id))
            if sandbox.state is State.STOPPED:
                return sandbox
            driver = self.driver(sandbox.driver)
            self._store.change(sandbox_id, state=State.STOPPING)
            faults.point("stop.recorded")
            grace = 0.0
            if sandbox.endpoint is not None and sandbox.keys is not None and driver.alive(sandbox_id):
                with contextlib.suppress(SandboxError):
                    async with AgentLink(sandbox.endpoint, sandbox.keys) as link:
                        await link.request("poweroff", timeout=5)
                        grace = POWEROFF_SECONDS
            faults.point("stop.asked")
            await driver.stop(sandbox_id, grace)
            faults.point("stop.ended")
            return self._store.change(sandbox_id, state=State.STOPPED, owner="", endpoint=None, keys=None)

    async def let_go(self, sandbox_id: str) -> None:
        """End what the calling process used: a disposable sandbox goes, of another one the disk stays.

        Harmless twice.
        """
        with contextlib.suppress(NotFound):
            if self.disposable(self.get(sandbox_id)):
                await self.delete(sandbox_id)
                return
            async with self._lock(sandbox_id):
                sandbox = self.get(sandbox_id)
                values: dict[str, Any] = {}
                if sandbox.state is State.RUNNING:
                    await self._sync(sandbox)
                    values = {"state": State.STOPPED, "endpoint": None, "keys": None}
                self._store.change(sandbox_id, owner="", kernel_id="", **values)
                await self.driver(sandbox.driver).stop(sandbox_id, grace=0)

    def disposable(self, sandbox: Sandbox) -> bool:
        """Whether a sandbox ends with its kernel: nobody can come back to it, or asked to keep it."""
        kept = sandbox.notebook or sandbox.origin or sandbox.name
        return not kept and not any(s.cause is Cause.ASKED for s in self._store.snapshots(sandbox.id))

    async def _sync(self, sandbox: Sandbox, seconds: float = SYNC_SECONDS) -> None:
        """Have a running guest write all to its disk."""
        if sandbox.endpoint is not None and sandbox.keys is not None:
            with contextlib.suppress(SandboxError):
                async with AgentLink(sandbox.endpoint, sandbox.keys) as link:
                    await link.request("sync", timeout=seconds)

    async def delete(self, sandbox_id: str) -> None:
        """End a sandbox and remove all that it has; once begun, also for a caller that is cancelled.

        Harmless twice.
        """
        deleting = asyncio.create_task(self._delete(sandbox_id))
        try:
            await asyncio.shield(deleting)
        except asyncio.CancelledError:
            await asyncio.wait([deleting])
            raise

    async def _delete(self, sandbox_id: str) -> None:
        async with self._lock(sandbox_id):
            with contextlib.suppress(NotFound):
                driver = self.driver(self.get(sandbox_id).driver)
                # First: what is left without a record, `reconcile` removes and nobody uses.
                history = self._store.remove(sandbox_id)
                faults.point("delete.recorded")
                await driver.delete(sandbox_id)
                if history:
                    await driver.forget(history)
                for snapshot_id in history:
                    self._forget_files(snapshot_id)
                faults.point("delete.forgotten")
        for lock in (self._locks / sandbox_id, self.cell_lock(sandbox_id)):
            lock.unlink(missing_ok=True)

    async def reconcile(self) -> None:
        """Once per process: mend and remove what dead processes have left behind.

        A sandbox serves one process; when that is gone without having said so (it was killed, or
        the host went down), nobody comes back to a disposable one. A verb that was cut off is undone or
        completed. What is left of files is removed unless a verb is under way: whoever makes some
        holds the lock of a sandbox until they are recorded.
        """
        if self._reconciled:
            return
        self._reconciled = True
        drivers = await self._reachable()
        debris = {name: driver.debris() for name, driver in drivers.items()}
        files = [self.cells_of("*"), self._checksum_of("*"), self.inventory_of("*")]
        kept = [path for each in files for path in each.parent.glob(each.name)]
        machines: dict[str, Driver] = {}
        for driver in drivers.values():
            machines.update(dict.fromkeys(driver.machines(), driver))
        # Read after the folders: a sandbox is recorded before it has one.
        for sandbox in self._store.all():
            machines.pop(sandbox.id, None)
            if sandbox.driver.partition(":")[0] not in drivers:
                continue
            abandoned = bool(sandbox.owner) and not owner.lives(sandbox.owner)
            ended = sandbox.state is State.STANDBY and not self.driver(sandbox.driver).alive(sandbox.id)
            if ended or (abandoned and self._worthless(sandbox)):
                await self.delete(sandbox.id)
            else:
                await self._reconcile_one(sandbox, abandoned)
        for machine_id, driver in machines.items():
            await driver.delete(machine_id)
        for folder in self.settings.sockets.glob(f"{KERNEL_SOCKETS}*"):
            if not owner.lives(folder.name.removeprefix(KERNEL_SOCKETS).rpartition(":")[0]):
                shutil.rmtree(folder, ignore_errors=True)
        for folder in self.settings.archives.glob("*"):
            if not owner.lives(folder.name.rpartition(":")[0]):
                shutil.rmtree(folder, ignore_errors=True)
        if self._at_rest():
            snapshots = self._store.snapshot_ids()
            for name, left in debris.items():
                await drivers[name].sweep(left, snapshots)
            for path in kept:
                if path.name.partition(".")[0] not in snapshots:
                    path.unlink(missing_ok=True)

    async def _reachable(self) -> dict[str, Driver]:
        """The drivers whose machines can be looked at."""
        found = {}
        for name in registry.in_use(self.settings):
            try:
                await self.driver(name).connect()
            except SandboxError as error:
                _log.warning("The machines of the driver %s are left as they are: %s", name, error)
            else:
                found[name] = self.driver(name)
        return found

    async def _reconcile_one(self, sandbox: Sandbox, abandoned: bool) -> None:
        with contextlib.suppress(NotFound), try_locked(self._locks / sandbox.id) as free:
            if free:
                current = self.get(sandbox.id)
                driver = self.driver(current.driver)
                runs = current.state in {State.RUNNING, State.STANDBY}
                rests = current.state in {State.STOPPED, State.HIBERNATED}
                alive = driver.alive(current.id)
                if not ((runs and alive) or (rests and not alive)) or driver.paused(current.id):
                    # Whoever uses one that cannot be mended is told then.
                    with contextlib.suppress(SandboxError):
                        await self._mend(current)
            if abandoned:  # its machine, if that still runs, is found again with all it holds
                self._store.change(sandbox.id, owner="", kernel_id="")

    def _worthless(self, sandbox: Sandbox) -> bool:
        """Whether nothing is lost with a sandbox whose process is gone."""
        unborn = sandbox.state is State.STARTING and not sandbox.snapshot
        return self.disposable(sandbox) or (unborn and not self.usage(sandbox.id).disk)

    def _at_rest(self) -> bool:
        """Whether no verb is under way on any sandbox, nor has been a moment ago; forgets unused locks."""
        known = {sandbox.id for sandbox in self._store.all()}
        for path in self._locks.iterdir():
            name, _, of_cells = path.name.partition(".")
            if name == "capacity" or name.startswith("standby-") or (of_cells and name in known):
                continue
            with try_locked(path) as free:
                if not (free or of_cells):
                    return False
                if free and name not in known:
                    path.unlink(missing_ok=True)
        return True

    async def _mend(self, sandbox: Sandbox) -> Sandbox:
        """End what a process that died left half-done. Called with the lock of the sandbox held."""
        driver = self.driver(sandbox.driver)
        await driver.connect()
        alive = driver.alive(sandbox.id)
        match sandbox.state:
            case State.RUNNING if alive:
                await driver.resume(sandbox.id)
                return sandbox
            case State.STANDBY | State.RESTORING:
                return sandbox
            case State.STOPPED | State.HIBERNATED:
                if alive:
                    await driver.stop(sandbox.id, grace=0)
                return sandbox
        if alive and sandbox.state is State.STOPPING:
            with contextlib.suppress(SandboxError):
                await unless_ended(driver, sandbox.id, self._sync(sandbox, _MEND_SECONDS))
        await driver.stop(sandbox.id, grace=0)
        return self._store.change(sandbox.id, state=State.STOPPED, endpoint=None, keys=None)

    async def ended(self, sandbox_id: str) -> str:
        """Return when the machine of a sandbox runs no more, with the last it said.

        A verb may be about to start it again; `_mend` says what became of one that ended by itself. One that
        stands still though nobody is at work on it is let run on meanwhile.
        """
        exited = asyncio.create_task(self.driver(self.get(sandbox_id).driver).wait_exit(sandbox_id))
        try:
            while not (await asyncio.wait([exited], timeout=_STILL_SECONDS))[0]:
                with contextlib.suppress(SandboxError):
                    await self._let_run_on(sandbox_id)
            return exited.result()
        finally:
            exited.cancel()

    async def _let_run_on(self, sandbox_id: str) -> None:
        driver = self.driver(self.get(sandbox_id).driver)
        # That a command was killed, or that there is room on the disk again, is no event for anybody.
        if stalled := await driver.stalled(sandbox_id):
            _log.warning("The machine of sandbox %s stands still: %s.", sandbox_id, stalled)
        if stalled or driver.paused(sandbox_id):
            with try_locked(self._locks / sandbox_id) as free:
                if free:
                    await self._mend(self.get(sandbox_id))

    # How a machine comes to life.

    async def _clone(
        self, image: Image, driver_name: str, state: State, kernel_id: str = "", notebook: str = ""
    ) -> Sandbox:
        driver = self.driver(driver_name)
        template = await driver.template(image, image.shape, new_keys(), self._warm)
        sandbox = Sandbox(
            id=uuid.uuid4().hex[:12],
            runtime=image.runtime,
            image=image.id,
            driver=driver_name,
            state=State.STARTING,
            shape=image.shape,
            created=time.time(),
            kernel_id=kernel_id,
            notebook=notebook,
            owner=owner.this_process(),
        )
        try:
            async with self._lock(sandbox.id):
                async with self._capacity():
                    await self._make_room(sandbox, image, keep_standbys=state is State.STANDBY)
                    self._store.add(sandbox)
                faults.point("create.recorded")
                endpoint = await driver.start(sandbox.id, template)
                faults.point("create.started")
                return await self._adopt(sandbox.id, driver, endpoint, template.keys, state, ADOPT_SECONDS)
        except BaseException:
            await self.delete(sandbox.id)
            raise

    async def _adopt(
        self,
        sandbox_id: str,
        driver: Driver,
        endpoint: Endpoint,
        keys: LinkKeys,
        state: State,
        seconds: float,
    ) -> Sandbox:
        """Make a machine that was just restored or booted itself and nobody else."""
        own = new_keys()
        identity = _identity(sandbox_id)
        if mac := await driver.mac(sandbox_id):
            identity["mac"] = mac
        async with AgentLink(endpoint, keys) as link:
            await unless_ended(
                driver,
                sandbox_id,
                link.request(
                    "adopt",
                    timeout=seconds,
                    keys={
                        "server_public": own.server_public,
                        "server_secret": own.server_secret,
                        "client_public": own.client_public,
                    },
                    **identity,
                ),
            )
            await link.set_clock()
            faults.point("adopt.named")
            with contextlib.suppress(OutcomeUnknown):  # its only answer is that the link breaks
                await link.request("rekey", timeout=ADOPT_SECONDS)
        faults.point("adopt.rekeyed")
        waiting = state is State.STANDBY
        if waiting:
            async with AgentLink(endpoint, own) as link:
                await unless_ended(driver, sandbox_id, link.request("warm", timeout=ADOPT_SECONDS))
                await link.request("standby", timeout=10, seconds=self.settings.standby_seconds)
        values: dict[str, Any] = {"owner": ""} if waiting else {}
        return self._store.change(sandbox_id, state=state, endpoint=endpoint, keys=own, **values)

    async def _warm(self, endpoint: Endpoint, keys: LinkKeys) -> None:
        async with AgentLink(endpoint, keys) as link:
            await link.request("info", timeout=BOOT_SECONDS)
            await link.request("warm", timeout=WARM_SECONDS, load=True)

    async def _make_room(self, sandbox: Sandbox, image: Image, *, keep_standbys: bool) -> None:
        """Check that the sandbox fits; machines that wait for nobody in particular give way."""
        while True:
            try:
                self._require_memory(sandbox, image)
            except SandboxError:
                waiting = [s for s in self._store.all() if s.state is State.STANDBY]
                if keep_standbys or not waiting:
                    raise
                await self.delete(waiting[0].id)
            else:
                return

    def _require_memory(self, sandbox: Sandbox, image: Image) -> None:
        if not self.on_this_host(sandbox):
            return
        others = [
            s for s in self._store.all() if s.state in ACTIVE and s.id != sandbox.id and self.on_this_host(s)
        ]
        in_use = sum(self.driver(s.driver).usage(s.id).memory for s in others)
        capacity.require(image.shape, [s.shape for s in others], in_use, self.settings)


def _identity(sandbox_id: str) -> dict[str, Any]:
    """What makes a machine this sandbox's: always the same but for entropy."""
    digest = hashlib.sha256(sandbox_id.encode()).hexdigest()
    mac = bytes([0x52, 0x54, 0x00]) + bytes.fromhex(digest[:6])
    return {
        "hostname": f"sandbox-{sandbox_id}",
        "machine_id": digest[:32],
        "mac": mac.hex(":"),
        "entropy": os.urandom(64).hex(),
    }


async def unless_ended(driver: Driver, sandbox_id: str, request: Coroutine[Any, Any, object]) -> None:
    """Wait for `request`, but not for a machine that has ended.

    Raises:
        Permanent: it has; the message has the end of what it said.
    """
    asked = asyncio.create_task(request)
    exited = asyncio.create_task(driver.wait_exit(sandbox_id))
    tasks: builtins.list[asyncio.Task[Any]] = [asked, exited]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if asked.done():
            asked.result()
            return
        raise Permanent(f"The machine of sandbox {sandbox_id} ended while it started: {exited.result()}")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
