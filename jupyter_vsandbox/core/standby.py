"""Keeps a warm machine in waiting, from a process of its own.

``python -m jupyter_vsandbox.core.standby SETTINGS RUNTIME`` makes one standby and ends. It is a
process so that it works alike for a server and for a notebook run that is over in a second.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import SandboxError
from jupyter_vsandbox.files import try_locked
from jupyter_vsandbox.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

# Let the machine that was just handed out run its first cell undisturbed.
DELAY_SECONDS = 2.0


def refill(settings: Settings, runtime: str) -> None:
    """See to it, in the background, that there is a standby of `runtime` again. Returns at once."""
    if settings.standby > 0:
        command = [sys.executable, "-m", __name__, settings.to_json(), runtime]
        subprocess.run(
            ["setsid", "--fork", *command],
            check=True,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


async def _fill(settings: Settings, runtime: str) -> None:
    from jupyter_vsandbox.core.service import SandboxService

    with (
        SandboxService(settings) as service,
        try_locked(settings.home / "locks" / f"standby-{runtime}") as mine,
    ):
        if not mine:
            return
        await asyncio.sleep(DELAY_SECONDS)
        while await service.create_standby(runtime) is not None:
            pass


def main(arguments: Sequence[str]) -> int:
    """Fill up the standbys; the exit status is 1 where there is no room for one."""
    settings, runtime = arguments
    try:
        asyncio.run(_fill(Settings.from_json(settings), runtime))
    except SandboxError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
