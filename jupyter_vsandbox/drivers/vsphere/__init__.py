"""Machines on a vCenter, through pyvmomi. Nothing of that is imported before somebody asks for a vCenter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import Unsupported

if TYPE_CHECKING:
    from jupyter_vsandbox.drivers.base import Driver
    from jupyter_vsandbox.settings import Settings


def make(settings: Settings, pool: str = "") -> Driver:
    """Make the driver; see `registry.get`.

    Raises:
        Unsupported: no vCenter is configured, or pyvmomi is not installed.
    """
    if not settings.vcenter.host:
        raise Unsupported("No vCenter is configured: set VSphere.host in jupyter_vsandbox_config.py.")
    try:
        from jupyter_vsandbox.drivers.vsphere.driver import VSphereDriver
    except ModuleNotFoundError as error:
        raise Unsupported(f"{error}: pip install 'jupyter_vsandbox[vsphere]'.") from error
    return VSphereDriver(settings, pool)


__all__ = ["make"]
