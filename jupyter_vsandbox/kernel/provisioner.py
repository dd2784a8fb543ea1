"""The kernel provisioner: Jupyter's contract on one side, a `KernelMachine` on the other.

See https://jupyter-client.readthedocs.io/en/stable/provisioning.html for who calls what when. A
restart keeps the machine and starts only the kernel process anew: ``kill`` and ``terminate`` are
called alike for restarts and shutdowns, so the machine is released in ``cleanup`` alone.
"""

from __future__ import annotations

import functools
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from traitlets import Unicode

from jupyter_vsandbox.config import load_settings
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.kernel.engine import Engine
from jupyter_vsandbox.kernel.machine import KernelMachine
from jupyter_vsandbox.kernel.relay import PORTS
from jupyter_vsandbox.kernel.specs import ATTACH

if TYPE_CHECKING:
    from jupyter_client.connect import KernelConnectionInfo
    from jupyter_client.session import Session

    from jupyter_vsandbox.settings import Settings

# Facts of this host that would mislead a guest, even where a caller adds them.
_NOT_FOR_GUESTS = frozenset(
    {"JPY_PARENT_PID", "PYDEVD_USE_FRAME_EVAL", "PATH", "HOME", "USER", "VIRTUAL_ENV", ATTACH}
)
_STOP_SECONDS = 10.0


class SandboxProvisioner(KernelProvisionerBase):
    """Runs a kernel in a virtual machine of its own."""

    runtime: str = Unicode(  # type: ignore[assignment]
        help="Name of the runtime to start, as in `jupyter vsandbox runtimes`.", config=True
    )
    driver: str = Unicode(  # type: ignore[assignment]
        "qemu", help="Name of the driver that runs the machine.", config=True
    )

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._machine: KernelMachine | None = None
        self._attach = ""
        self._arguments: list[str] = []
        self._session: Session | None = None
        self._reaped = True

    @property
    def has_process(self) -> bool:
        """See the base class: whether there is a kernel to poll, signal or wait for."""
        return self._machine is not None and not self._reaped

    async def poll(self) -> int | None:
        """See the base class: `None` while the kernel lives, or its exit status."""
        return self._machine.returncode if self._machine is not None else 0

    async def wait(self) -> int | None:
        """See the base class."""
        if self._machine is None:
            return 0
        returncode = await Engine.instance().call(self._machine.wait())
        self._reaped = True
        return returncode

    async def send_signal(self, signum: int) -> None:
        """See the base class; 0 only asks and is answered by `poll`."""
        if self._machine is not None and signum != 0:
            await Engine.instance().call(self._machine.signal(signum))

    async def kill(self, restart: bool = False) -> None:
        """See the base class."""
        await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart: bool = False) -> None:
        """See the base class."""
        await self.send_signal(signal.SIGTERM)

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """See the base class: points the connection file at the relay's sockets."""
        manager = self.parent
        if manager is None:
            raise RuntimeError("A SandboxProvisioner needs a kernel manager as its parent.")
        if manager.transport_encryption == "required":
            raise RuntimeError(
                "A sandbox kernel listens in a private folder; its clients cannot ask for CURVE."
            )
        kwargs.pop("transport_encryption", None)
        self._arguments = kwargs.pop("extra_arguments", None) or []
        engine = Engine.instance()
        service = await engine.call(_service(load_settings(self.config)))
        manager.transport = "ipc"
        manager.ip = str(service.client_sockets(self.kernel_id) / "k")
        for name, port in PORTS.items():
            setattr(manager, f"{name}_port", port)
        env = kwargs.get("env")
        manager.write_connection_file(jupyter_session=(env or {}).get("JPY_SESSION_NAME", ""))
        self.connection_info = manager.get_connection_info()
        self._session = manager.session
        self._attach = (env or os.environ).get(ATTACH, "")
        added = {name: value for name, value in (env or {}).items() if os.environ.get(name) != value}
        kwargs = await super().pre_launch(cmd=[], **kwargs)
        kwargs["env"] = {n: v for n, v in (self.kernel_spec.env | added).items() if n not in _NOT_FOR_GUESTS}
        if self._machine is None:
            self._machine = await engine.call(_machine(service, self.runtime, self.driver, self.kernel_id))
            engine.at_exit(self, functools.partial(self._machine.release, keep_memory=True))
        return kwargs

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """See the base class: a new sandbox, or after a restart a new kernel in the same one."""
        if self._machine is None or self._session is None:
            raise RuntimeError("pre_launch was not called.")
        env, session = kwargs["env"], self._session
        cwd = _folder(kwargs.get("cwd") or "", self._attach)
        try:
            await Engine.instance().call(
                self._machine.launch(
                    key=session.key,
                    signature_scheme=session.signature_scheme,
                    env=env,
                    cwd=cwd,
                    notebook=_notebook(env.get("JPY_SESSION_NAME", ""), cwd),
                    attach=self._attach,
                    arguments=self._arguments,
                )
            )
        except BaseException:
            if not self._machine.sandbox_id:
                self._forget()
            raise
        self._reaped = False
        return self.connection_info

    async def cleanup(self, restart: bool = False) -> None:
        """See the base class: the machine goes, unless this is a restart."""
        if self._machine is None:
            return
        if restart:
            await Engine.instance().call(_rebind(self._machine))
        else:
            await Engine.instance().call(self._machine.release())
            self._forget()

    def get_shutdown_wait_time(self, recommended: float = 5.0) -> float:
        """See the base class."""
        return max(recommended, _STOP_SECONDS)

    async def get_provisioner_info(self) -> dict[str, Any]:
        """See the base class."""
        info = await super().get_provisioner_info()
        info["sandbox"] = self._machine.sandbox_id if self._machine is not None else ""
        return info

    def _forget(self) -> None:
        Engine.instance().at_exit(self, None)
        self._machine = None
        self._reaped = True


_services: dict[Settings, SandboxService] = {}


async def _service(settings: Settings) -> SandboxService:
    if settings not in _services:
        _services[settings] = SandboxService(settings)
    return _services[settings]


def _folder(cwd: str, attach: str) -> str:
    """The folder that a kernel works in, "" for that of the sandbox, if it has one.

    Where none is given, it is that of who starts the kernel, as for a local one. Of ``/`` nothing is had.
    """
    if not cwd and attach:
        return ""
    folder = os.path.abspath(cwd)
    return "" if folder == os.sep else folder


def _notebook(session: str, cwd: str) -> str:
    """Path of the notebook that a session's name tells of, "" for none.

    Jupyter Server gives the path of a file, of which not all is known if the session has no name, and for a
    console the folder joined with "Console 1", which is no file and nothing to come back to.
    """
    path = Path(session)
    if not path.is_absolute():
        path = Path(cwd or os.getcwd(), path.name)
    is_document = session and not session.endswith("/") and (path.suffix or path.is_file())
    return str(path) if is_document else ""


async def _machine(service: SandboxService, runtime: str, driver: str, kernel_id: str) -> KernelMachine:
    return KernelMachine(service, runtime, driver, kernel_id)


async def _rebind(machine: KernelMachine) -> None:
    machine.rebind()
