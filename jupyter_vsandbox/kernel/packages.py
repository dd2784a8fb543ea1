"""Whether a cell installs or removes packages, as far as its text tells.

IPython's ways to run a command: ``!``, ``%pip`` and its like (the ``%`` may be left out), and cells
that a shell runs, see https://ipython.readthedocs.io/en/stable/interactive/magics.html.
"""

from __future__ import annotations

import re

_SHELL_CELL = re.compile(r"%%(?:bash|sh|script|system|sx|!)")
_COMMAND_LINE = re.compile(r"(?:\w+\s*=\s*)?(?:!|%(?:system|sx|pip|conda|mamba|micromamba|uv)\b)")
_AUTOMAGIC = re.compile(r"(?:pip|conda|mamba|micromamba|uv)\s+(?!=)")
_CHANGE = re.compile(
    r"(?:^|[\s!%;&|/('\"])"
    r"(?:pip[\d.]*|uv(?:\s+pip)?|conda|mamba|micromamba|apt|apt-get|aptitude|dpkg)"
    r"(?:\s+-\S+)*\s+"
    r"(?:install|uninstall|reinstall|remove|purge|update|upgrade|dist-upgrade|full-upgrade|autoremove"
    r"|sync|add|-i)(?=\s|$|['\")])"
)


def changes_packages(code: str) -> bool:
    """Whether a cell's source asks pip, uv, conda, mamba or apt to change what is installed."""
    lines = [line.strip() for line in code.replace("\\\n", " ").split("\n")]
    in_shell = bool(_SHELL_CELL.match(next(filter(None, lines), "")))
    return any(
        _CHANGE.search(line)
        for line in lines
        if not line.startswith("#") and (in_shell or _COMMAND_LINE.match(line) or _AUTOMAGIC.match(line))
    )
