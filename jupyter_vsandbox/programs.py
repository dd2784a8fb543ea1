"""Other programs, run to their end without holding up an event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import Permanent, Unsupported

if TYPE_CHECKING:
    from collections.abc import Mapping

_SAID = 400
"""How many characters of what a failed program said a message quotes."""


async def run(
    *words: str, package: str, stdin: str = "", env: Mapping[str, str] | None = None, complain: bool = False
) -> str:
    """Run a program and return what it printed; cancelled, it is ended.

    Args:
        words: its name and arguments.
        package: Debian's that has it.
        stdin: what it reads.
        env: its environment, which also says where it is looked for; `None`: that of this process.
        complain: return what it complained of, too.

    Raises:
        Unsupported: it is not installed.
        Permanent: it failed; the message has what it said.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT if complain else asyncio.subprocess.PIPE,
            env=env,
        )
    except FileNotFoundError:
        raise Unsupported(f"{words[0]} is not installed: sudo apt-get install {package}") from None
    try:
        printed, said = await process.communicate(stdin.encode())
    except BaseException:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        told = (said or printed).decode(errors="replace").strip()
        raise Permanent(f"{' '.join(words[:2])} failed: {told[-_SAID:]}")
    return printed.decode(errors="replace")
