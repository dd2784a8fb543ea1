"""The commands of ``jupyter vsandbox`` that carry sandboxes to other hosts; `cli` has their table."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from jupyter_vsandbox import render
from jupyter_vsandbox.core import inventories, transfers
from jupyter_vsandbox.domain.errors import InvalidRequest, NotFound
from jupyter_vsandbox.kernel import specs
from jupyter_vsandbox.runtimes import build
from jupyter_vsandbox.runtimes.catalog import Catalog
from jupyter_vsandbox.work import terminable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Coroutine
    from typing import Any

    from jupyter_vsandbox.domain.model import Sandbox
    from jupyter_vsandbox.session import Session

T = TypeVar("T")


def export(session: Session, arguments: argparse.Namespace) -> int:
    """Write a sandbox to a file, after telling how large that will be."""
    options = transfers.Options(not arguments.disk_only, arguments.whole, arguments.now)
    if not (arguments.file or arguments.dry_run):
        raise InvalidRequest("Name the file to write, or ask for the size only: --dry-run.")
    with session.service() as service:
        point = inventories.find(service, arguments.point)
        if arguments.dry_run:
            found = _run(transfers.estimate(service, point, options))
            session.output.answer(_estimate_dict(found), lambda: render.plain(_estimate_text(found)))
            return 0
        told: list[transfers.Estimate] = []

        def estimated(expected: transfers.Estimate) -> None:
            told.append(expected)
            session.output.err.print(render.plain(_estimate_text(expected)))

        target = Path(arguments.file).absolute()
        with render.progress(session.output.err) as progress:
            done = _run(transfers.export(service, point, target, options, estimated, progress))
    holds = [*(["memory"] if done.content.memory else []), "disk", *(["image"] if options.whole else [])]
    document = {
        "file": str(done.path),
        "size_bytes": done.size,
        "sandbox": point.sandbox.id,
        "snapshot": done.content.name,
        "image": done.content.image,
        "holds": holds,
        **{name: value for each in told for name, value in _estimate_dict(each).items()},
    }
    said = f"{target} has {' and '.join(holds)} of {point}: {render.size(done.size)}. It is for you only."
    session.output.answer(document, lambda: render.plain(said))
    return 0


def import_(session: Session, arguments: argparse.Namespace) -> int:
    """Make a sandbox of a file; say how to go on in it."""
    path = Path(arguments.file).absolute()
    with session.service() as service:
        with render.progress(session.output.err) as progress:
            made = _run(
                transfers.import_(service, path, progress, arguments.name, memory=not arguments.disk_only)
            )
        [begin] = service.history(made.id)
    _offer(session, made)
    spec = specs.spec_name(made.runtime)
    said = (
        f"{made.id} is {made.state} at {begin.name}. To go on in it: "
        f"VSANDBOX_ATTACH={made.id} jupyter console --kernel {spec}"
    )
    document = {"id": made.id, "state": made.state.value, "snapshot": begin.name, "image": made.image}
    session.output.answer(document, lambda: render.plain(said))
    return 0


def _offer(session: Session, sandbox: Sandbox) -> None:
    """See to it that there is a kernelspec to open the sandbox with."""
    if specs.installed(sandbox.runtime):
        return
    try:
        specs.install(Catalog.standard(session.settings).get(sandbox.runtime))
    except NotFound:  # it is unknown here, and came with its image
        language = build.language(build.get(sandbox.image, session.settings))
        specs.install(specs.Offer(sandbox.runtime, f"{sandbox.runtime} (sandbox)", language))


def _run(work: Coroutine[Any, Any, T]) -> T:
    with terminable():
        return asyncio.run(work)


def _estimate_text(found: transfers.Estimate) -> str:
    return f"About {render.size(found.archive)}, of up to {render.size(found.size)} before compression."


def _estimate_dict(found: transfers.Estimate) -> dict[str, int]:
    return {"estimated_bytes": found.archive, "uncompressed_bytes": found.size}
