"""Where QEMU's programs are, and which version they have."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

from jupyter_vsandbox.domain.errors import Permanent, Unsupported

INSTALL = "apt-get install qemu-system-x86 qemu-utils"
"""The command that installs what this driver needs, for messages."""

# Red Hat's packages keep the emulator out of PATH under another name.
_ELSEWHERE = Path("/usr/libexec/qemu-kvm")
_VERSION = re.compile(r"version (\d+(?:\.\d+)+)")
_VERSION_SECONDS = 10.0


def qemu_binary() -> str:
    """Return the absolute path of the x86-64 system emulator.

    Raises:
        Unsupported: it is not installed.
    """
    if found := shutil.which("qemu-system-x86_64"):
        return os.path.abspath(found)
    if os.access(_ELSEWHERE, os.X_OK):
        return str(_ELSEWHERE)
    raise Unsupported(f"QEMU is not installed (no qemu-system-x86_64 in PATH): {INSTALL}")


def qemu_img_binary() -> str:
    """Return the absolute path of ``qemu-img``.

    Raises:
        Unsupported: it is not installed.
    """
    if found := shutil.which("qemu-img"):
        return os.path.abspath(found)
    raise Unsupported(f"qemu-img is not installed: {INSTALL}")


def stamp(binary: str) -> str:
    """Return a word that changes whenever the program `binary` is replaced; costs one ``stat``."""
    real = Path(binary).resolve()
    status = real.stat()
    return f"{real}:{status.st_size}:{status.st_mtime_ns}"


def qemu_version(binary: str | None = None) -> str:
    """Return QEMU's version, for instance ``7.2.22``.

    Blocks for some tens of milliseconds the first time; call it in a thread from an event loop.

    Args:
        binary: the program to ask; the one that `qemu_binary` finds by default.

    Raises:
        Unsupported: QEMU is not installed.
        Permanent: the program is there but does not tell its version.
    """
    program = binary or qemu_binary()
    return _version(program, stamp(program))


@functools.lru_cache(maxsize=8)
def _version(program: str, _stamp: str) -> str:
    try:
        answer = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise Permanent(f"{program} --version failed ({error}); reinstall it: {INSTALL}") from error
    match = _VERSION.search(answer.stdout)
    if match is None:
        raise Permanent(
            f"{program} --version says {answer.stdout[:80]!r}, not a version; reinstall it: {INSTALL}"
        )
    return match[1]
