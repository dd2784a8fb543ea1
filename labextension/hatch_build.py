"""Builds the browser part when a wheel, an sdist or an editable install is made."""

from __future__ import annotations

import logging
from pathlib import Path
from shutil import which

from hatch_jupyter_builder.utils import compare_recursive_mtime, npm_builder, recursive_mtime

_SOURCES = ("schema", "src", "style", "package.json", "package-lock.json", "tsconfig.json")


def build(target: str, version: str, path: str, output: str, command: str) -> None:
    """Run npm where the built files are missing or older than their sources.

    An editable install on a host without npm goes on without the browser part. A wheel does not:
    the build hook's `ensured-targets` refuse it.
    """
    built = Path(output)
    editable = version == "editable"
    # The log names folders of the host that built, so releases go without, and have none of it
    # unless development files are what was built last.
    log = built / "build_log.json"
    if not _stale(Path(path), built) and (editable or not log.exists()):
        return
    if editable and not which("npm"):
        logging.getLogger(__name__).warning("There is no npm: installing without the JupyterLab extension.")
        built.mkdir(exist_ok=True)
        return
    npm_builder(target, version, path=path, build_cmd=command, npm="npm")
    if not editable:
        log.unlink(missing_ok=True)


def _stale(project: Path, built: Path) -> bool:
    if not (built / "package.json").exists():
        return True
    cutoff = recursive_mtime(built)
    return any(compare_recursive_mtime(project / source, cutoff) for source in _SOURCES)
