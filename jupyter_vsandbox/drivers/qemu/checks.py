"""What ``doctor`` asks of a host that is to run QEMU machines."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.checks import Check, Status
from jupyter_vsandbox.domain.errors import SandboxError
from jupyter_vsandbox.drivers.qemu import accel
from jupyter_vsandbox.drivers.qemu.binary import INSTALL, qemu_binary, qemu_img_binary, qemu_version

if TYPE_CHECKING:
    from jupyter_vsandbox.settings import Settings

_PAGEMAP = Path("/proc/self/pagemap")
_PRESENT = 1 << 63
"""The page is in memory: https://docs.kernel.org/admin-guide/mm/pagemap.html."""


async def checks(settings: Settings) -> list[Check]:
    """Examine the host; never raises one of the project's errors or an `OSError`."""
    return [
        await asyncio.to_thread(_check_qemu),
        _check_qemu_img(),
        await _check_accelerator(settings),
        check_pagemap(),
    ]


def _check_qemu() -> Check:
    try:
        binary = qemu_binary()
        return Check("QEMU", Status.OK, f"{qemu_version(binary)} at {binary}")
    except (SandboxError, OSError) as error:
        return Check("QEMU", Status.FAIL, str(error), INSTALL)


def _check_qemu_img() -> Check:
    try:
        return Check("qemu-img", Status.OK, qemu_img_binary())
    except SandboxError as error:
        return Check("qemu-img", Status.FAIL, str(error), INSTALL)


async def _check_accelerator(settings: Settings) -> Check:
    try:
        found = await accel.probe(settings)
    except (SandboxError, OSError) as error:
        return Check(
            "accelerator", Status.FAIL, str(error), "Mend what it names, or choose another accelerator."
        )
    if not found.emulated:
        return Check("accelerator", Status.OK, f"{found.name}. {found.reason}")
    detail = (
        f"{found.name} (software emulation). {found.reason} CPU-bound code runs about ten times slower, "
        "and QEMU's emulation is not a security boundary: run only code that you would run without a sandbox."
    )
    mend = (
        ""
        if settings.accelerator == "tcg"
        else (
            "Use a host whose KVM runs Linux guests. "
            f"To measure again without a reboot, remove {settings.home / 'accelerator.json'}."
        )
    )
    return Check("accelerator", Status.WARN, detail, mend)


def check_pagemap(path: Path = _PAGEMAP) -> Check:
    """See whether a process's page map tells which of its pages are in memory.

    Looks up a page of this process that has just been written to. Snapshots of running machines
    use it to write only the pages that a machine has changed.

    Args:
        path: the page map of this process.
    """
    name = "page map"
    mend = "Run on a Linux host that shows /proc/PID/pagemap (CONFIG_PROC_PAGE_MONITOR, no restricted /proc)."
    with mmap.mmap(-1, mmap.PAGESIZE) as page:
        page[0] = 1
        buffer = ctypes.c_char.from_buffer(page)
        address = ctypes.addressof(buffer)
        del buffer  # an exported buffer would keep the page from being closed
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                entry = os.pread(fd, 8, address // mmap.PAGESIZE * 8)
            finally:
                os.close(fd)
        except OSError as error:
            detail = (
                f"/proc/PID/pagemap cannot be read ({error.strerror}); snapshots of memory will be slower."
            )
            return Check(name, Status.WARN, detail, mend)
    if len(entry) == 8 and int.from_bytes(entry, "little") & _PRESENT:
        return Check(name, Status.OK, "/proc/PID/pagemap tells which pages are in memory")
    return Check(
        name, Status.WARN, "/proc/PID/pagemap tells nothing; snapshots of memory will be slower.", mend
    )
