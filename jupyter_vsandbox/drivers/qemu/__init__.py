"""Machines on this host, run by an unpatched QEMU."""

from jupyter_vsandbox.drivers.qemu.driver import QemuDriver

__all__ = ["QemuDriver"]
