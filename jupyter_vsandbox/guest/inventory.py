"""What is on this machine's disk: the files, and the packages of the kernel's interpreter.

A process of its own, so that the agent goes on carrying messages meanwhile. What it prints is
`pack`ed: the host reads it with `zlib` and `json`.
"""

import base64
import json
import os
import stat
import subprocess
import sys
import zlib
from typing import Any, Dict, Iterator, List, Optional, Tuple

from . import kernel, protocol

NICE = 10
PACKAGES_SECONDS = 120.0

# What changes by itself, or is another machine's own: nobody's work is in there. What is mounted
# (/proc, /sys, /dev, /run, the notebook's folder) is another file system and left out for that.
LEFT_OUT = frozenset(
    [
        # Mounted, too, but not even looked at: that would ask the host.
        protocol.WORKSPACE,
        "/etc/.updated",
        "/etc/hostname",
        "/etc/hosts",
        "/etc/machine-id",
        "/etc/resolv.conf",
        "/lost+found",
        "/opt/vsandbox",
        "/tmp",  # noqa: S108 - looked at, not used
        "/var/.updated",
        "/var/backups",
        "/var/cache",
        "/var/lib/apt/lists",
        "/var/lib/apt/periodic",
        "/var/lib/private/systemd",
        "/var/lib/systemd",
        "/var/log",
        "/var/tmp",  # noqa: S108
    ]
)
LEFT_OUT_NAMES = frozenset(["__pycache__", ".cache", ".ipynb_checkpoints"])
# IPython's own of its profile: history, its log and whatever says which process runs.
LEFT_OUT_OF_PROFILE = ("db", "history.sqlite", "log", "pid", "security")

# Runs in the kernel's interpreter, as the kernel's user.
PACKAGES = """\
import json, sys
sys.path[:] = [path for path in sys.path if path]
try:
    from importlib.metadata import distributions
except ImportError:
    from pkg_resources import working_set
    found = [(each.project_name, each.version) for each in working_set]
else:
    found = [(each.metadata["Name"], each.version) for each in distributions()]
names = {}
for name, version in found:
    if name and version:
        names.setdefault(name, version)
print(json.dumps(names))
"""


def files(top="/", left_out=LEFT_OUT):
    # type: (str, Any) -> Iterator[Tuple[str, int, int, int, int]]
    """Each file and link of the file system of `top`, other file systems below it left out.

    Yields:
        path, size in bytes, times of change of content and of inode in nanoseconds since the
        epoch, and mode with the kind of file.
    """
    try:
        device = os.lstat(top).st_dev
    except OSError:
        return
    waiting = [top]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                inside = list(entries)
        except OSError:  # it is gone, or a mount that does not answer
            continue
        profile = os.path.basename(folder).startswith("profile_")
        for entry in inside:
            if entry.path in left_out or entry.name in LEFT_OUT_NAMES:
                continue
            if profile and entry.name.startswith(LEFT_OUT_OF_PROFILE):
                continue
            try:
                facts = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            if facts.st_dev != device:
                continue
            if stat.S_ISDIR(facts.st_mode):
                waiting.append(entry.path)
            elif stat.S_ISREG(facts.st_mode) or stat.S_ISLNK(facts.st_mode):
                yield entry.path, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_mode


def packages(spec):  # type: (Dict[str, Any]) -> Optional[Dict[str, str]]
    """Names and versions of what is installed for the kernel of `spec`; `None` where nobody can tell."""
    if spec["language"] != "python":
        return None
    try:
        said = subprocess.check_output(
            [spec["argv"][0], "-c", PACKAGES],
            env=spec["env"],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PACKAGES_SECONDS,
            preexec_fn=kernel.as_user(spec["user"]),
        )
        found = json.loads(said.decode())
    except (OSError, subprocess.SubprocessError, ValueError):
        return None  # the interpreter is broken, which is worth a comparison of the rest
    return found if isinstance(found, dict) else None


def pack(document):  # type: (Dict[str, Any]) -> str
    """A document as text that fits into a message."""
    return base64.b64encode(zlib.compress(json.dumps(document).encode(), 6)).decode()


def main(arguments):  # type: (List[str]) -> None
    """Print the inventory of this machine, `pack`ed; the argument is the kernel's spec."""
    os.nice(NICE)
    with open(arguments[0]) as file:
        spec = json.load(file)
    sys.stdout.write(pack({"packages": packages(spec), "files": list(files())}))


if __name__ == "__main__":
    main(sys.argv[1:])
