"""Adds those of the host's certificates that the new system does not trust yet. Runs in the chroot."""

from __future__ import annotations

import hashlib
import os
import re
import sys

BLOCK = re.compile(r"-----BEGIN CERTIFICATE-----\s+(.*?)\s+-----END CERTIFICATE-----", re.DOTALL)


def bodies(path: str) -> list[str]:
    """The base64 text of each certificate in the file `path`."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="ascii", errors="replace") as file:
        return ["".join(body.split()) for body in BLOCK.findall(file.read())]


def main(host: str, bundle: str, folder: str) -> None:
    """Write every certificate of `host` that `bundle` lacks to a file of its own in `folder`."""
    known = set(bodies(bundle))
    os.makedirs(folder, exist_ok=True)
    for body in bodies(host):
        if body in known:
            continue
        known.add(body)
        name = hashlib.sha256(body.encode()).hexdigest()[:16]
        lines = "\n".join(body[i : i + 64] for i in range(0, len(body), 64))
        with open(os.path.join(folder, f"host-{name}.crt"), "w", encoding="ascii") as file:
            file.write(f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n")


if __name__ == "__main__":
    main(*sys.argv[1:4])
