"""``jupyter vsandbox``: look after runtimes, images and sandboxes from a terminal.

To add a command, write a function that takes a `Session` and the parsed arguments and returns an
exit code, and give it a line in `COMMANDS`. What is heavy is imported inside the functions, so
that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox import __version__
from jupyter_vsandbox.domain.errors import (
    Conflict,
    Exhausted,
    InvalidRequest,
    InvalidState,
    NotFound,
    SandboxError,
    Unsupported,
)
from jupyter_vsandbox.session import Session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from jupyter_vsandbox.core.service import SandboxService
    from jupyter_vsandbox.domain.checks import Check
    from jupyter_vsandbox.domain.model import Image
    from jupyter_vsandbox.settings import Settings

PROGRAM = "jupyter vsandbox"

_EXIT_CODES: tuple[tuple[type[SandboxError], int], ...] = (
    (InvalidRequest, 2),
    (NotFound, 3),
    (Conflict, 4),
    (InvalidState, 4),
    (Exhausted, 5),
    (Unsupported, 6),
)
_INTERRUPTED = 130
_EPILOG = """\
exit codes:
  0  it is done
  1  it failed
  2  the request is wrong: a misspelled option, name or setting
  3  there is no such runtime, image or sandbox
  4  somebody else is at work on it, or its state does not allow this
  5  not enough memory or disk
  6  this host cannot do it
  130  interrupted
"""


@dataclass(frozen=True)
class Command:
    """A line in the table of commands.

    Attributes:
        words: what the user types, ``images build``.
        help: one line; a command without is not listed.
        run: does it and returns the exit code.
        argument: what follows the words: name, help and `argparse`'s ``nargs``.
        more: what else follows: a name or an option, and the keywords of `argparse` for it.
    """

    words: str
    help: str
    run: Callable[[Session, argparse.Namespace], int]
    argument: tuple[str, str, str | None] | None = None
    more: tuple[tuple[str, Mapping[str, Any]], ...] = ()


# The commands.


def doctor(session: Session, arguments: argparse.Namespace) -> int:
    """Examine what sandboxes need. Fails if none could run."""
    import asyncio

    from jupyter_vsandbox.core.doctor import Report, examine
    from jupyter_vsandbox.render import checks_text

    with session.output.err.status("Examining this host"):
        report = asyncio.run(examine(session.settings, arguments.driver))
        report = Report((*report.checks, *_check_kernelspecs(session.settings)))
    session.output.answer(report.to_dict(), lambda: checks_text(report.checks))
    return 0 if report.ok else 1


def runtimes(session: Session, _: argparse.Namespace) -> int:
    """List the recipes."""
    from jupyter_vsandbox import render
    from jupyter_vsandbox.runtimes import build
    from jupyter_vsandbox.runtimes.catalog import Catalog

    catalog = Catalog.standard(session.settings)
    recipes = [catalog.get(name) for name in catalog.names()]
    built: dict[str, str] = {}
    for recipe in recipes:
        with contextlib.suppress(NotFound):
            built[recipe.name] = build.find(recipe, session.settings).id
    for broken in catalog.broken:
        session.output.err.print(render.plain(f"{broken.error}"))
    session.output.answer(
        [render.runtime_dict(recipe, built.get(recipe.name)) for recipe in recipes],
        lambda: render.runtime_table(recipes, built),
    )
    return 0


def images_build(session: Session, arguments: argparse.Namespace) -> int:
    """Build an image, offer it in the kernel picker and start it once, so that others start from there."""
    import asyncio

    from jupyter_vsandbox import render
    from jupyter_vsandbox.kernel import specs
    from jupyter_vsandbox.runtimes import build
    from jupyter_vsandbox.runtimes.catalog import Catalog

    recipe = Catalog.standard(session.settings).get(arguments.name)
    with render.progress(session.output.err) as progress:
        image = build.build(recipe, session.settings, progress)
        specs.install(recipe)
        progress("warm", None, "Making it ready to be cloned")
        with session.service() as service:
            asyncio.run(service.prepare(recipe.name))
    session.output.answer(
        render.image_dict(image),
        lambda: render.plain(f"{image.id} is built, and {recipe.display_name!r} is in the kernel picker."),
    )
    return 0


def images_list(session: Session, _: argparse.Namespace) -> int:
    """List the images that are built."""
    from jupyter_vsandbox import render
    from jupyter_vsandbox.runtimes import build

    found = build.images(session.settings)
    session.output.answer([render.image_dict(image) for image in found], lambda: render.image_table(found))
    return 0


def images_rm(session: Session, arguments: argparse.Namespace) -> int:
    """Remove an image that no sandbox needs, its templates and, if it was the current one, its kernelspec."""
    import asyncio

    from jupyter_vsandbox import render
    from jupyter_vsandbox.core import images
    from jupyter_vsandbox.kernel import specs
    from jupyter_vsandbox.runtimes import build

    image = _find_image(arguments.id, build.images(session.settings))
    with session.service() as service:
        asyncio.run(images.remove(service, image))
    try:
        build.find(image.runtime, session.settings)
    except SandboxError:  # no image of the recipe as it is now
        specs.uninstall(image.runtime)
    session.output.answer({"removed": [image.id]}, lambda: render.plain(f"{image.id} is removed."))
    return 0


def list_sandboxes(session: Session, _: argparse.Namespace) -> int:
    """List the sandboxes, oldest first, once those that nobody can use any more are gone."""
    import asyncio

    from jupyter_vsandbox import render

    rows = []
    with session.service() as service:
        asyncio.run(service.reconcile())
        for sandbox in service.list():
            with contextlib.suppress(NotFound):  # it went away meanwhile
                stalled = asyncio.run(service.stalled(sandbox.id))
                if stalled:
                    said = f"Sandbox {sandbox.id} stands still: {stalled}. It goes on once there is room."
                    session.output.err.print(render.plain(said))
                rows.append(render.Row(sandbox, service.usage(sandbox.id), stalled))
    session.output.answer([render.sandbox_dict(row) for row in rows], lambda: render.sandbox_table(rows))
    return 0


def stop(session: Session, arguments: argparse.Namespace) -> int:
    """Shut machines down and keep their disks."""
    import asyncio

    with session.service() as service:
        return asyncio.run(_each(session, service, arguments.id, "stopped", service.stop))


def rm(session: Session, arguments: argparse.Namespace) -> int:
    """End sandboxes and remove all that they have."""
    import asyncio

    with session.service() as service:
        return asyncio.run(_each(session, service, arguments.id, "removed", service.delete))


def hibernate(session: Session, arguments: argparse.Namespace) -> int:
    """Write memories to the disk and end the machines."""
    import asyncio

    with session.service() as service:
        return asyncio.run(_each(session, service, arguments.id, "hibernated", service.hibernate))


def wake(session: Session, arguments: argparse.Namespace) -> int:
    """Bring hibernated sandboxes back."""
    import asyncio

    with session.service() as service:
        return asyncio.run(_each(session, service, arguments.id, "awake", service.wake))


def _late(name: str, module: str = "timetravel") -> Callable[[Session, argparse.Namespace], int]:
    """A command of another module, which is imported when it is run."""

    def run(session: Session, arguments: argparse.Namespace) -> int:
        import importlib

        code: int = getattr(importlib.import_module(f"jupyter_vsandbox.{module}"), name)(session, arguments)
        return code

    return run


_SANDBOX = ("id", "a sandbox's id or name, or the beginning of its id", None)
_SANDBOXES = ("id", "a sandbox's id or name, or the beginning of its id", "+")
_NOW = ("--now", {"action": "store_true", "help": "do not wait for the running cell to end"})
_DISK_ONLY = ("--disk-only", {"action": "store_true", "help": "leave the memory out"})

_DRIVER = ("--driver", {"default": "qemu", "metavar": "NAME", "help": "what runs machines: qemu or vsphere"})

COMMANDS = (
    Command("doctor", "examine this host and say what to mend", doctor, more=(_DRIVER,)),
    Command("runtimes", "list the runtimes that can be built", runtimes),
    Command(
        "images build",
        "build the image of a runtime and put it into the kernel picker",
        images_build,
        ("name", "a runtime's name, for instance python-3.11", None),
    ),
    Command(
        "images publish",
        "bring an image to a vCenter and put the runtime into the kernel picker, once for each pool",
        _late("publish", "publishing"),
        ("name", "a runtime's name, for instance python-3.11; its image is built already", None),
        (("--driver", {"required": True, "metavar": "NAME", "help": "where to: vsphere"}),),
    ),
    Command("images list", "list the images that are built", images_list),
    Command(
        "images rm",
        "remove an image",
        images_rm,
        ("id", "an image's id, or the beginning of one", None),
    ),
    Command("list", "list the sandboxes and what they take from this host", list_sandboxes),
    Command(
        "snapshot",
        "keep a sandbox as it is: disk, memory and cells",
        _late("snapshot"),
        _SANDBOX,
        (
            ("name", {"nargs": "?", "metavar": "NAME", "help": "what to call the snapshot"}),
            ("--note", {"default": "", "help": "free text"}),
            _NOW,
            _DISK_ONLY,
        ),
    ),
    Command(
        "rollback",
        "put a sandbox back to one of its snapshots; files in its notebook's folder stay as they are",
        _late("rollback"),
        _SANDBOX,
        (
            ("snapshot", {"metavar": "SNAPSHOT", "help": "a snapshot's name, or the beginning of its id"}),
            ("--cells", {"action": "store_true", "help": "put the notebook's cells back as well"}),
            _DISK_ONLY,
        ),
    ),
    Command(
        "fork",
        "make a new sandbox that continues where another one is",
        _late("fork"),
        _SANDBOX,
        (
            ("--at", {"default": "", "metavar": "SNAPSHOT", "help": "begin at this snapshot instead"}),
            ("--name", {"default": "", "help": "what to call the fork"}),
            _NOW,
        ),
    ),
    Command("promote", "put a fork in the place of the sandbox it came from", _late("promote"), _SANDBOX),
    Command("hibernate", "write memories to the disk and end the machines", hibernate, _SANDBOXES),
    Command("wake", "bring hibernated sandboxes back", wake, _SANDBOXES),
    Command("reset", "put a sandbox back to its clean image", _late("reset"), _SANDBOX),
    Command("history", "list the snapshots of a sandbox", _late("history"), _SANDBOX),
    Command(
        "diff",
        "show what is different between two moments: packages, files, variables and cells",
        _late("diff"),
        ("point", "SANDBOX, as it is now, or SANDBOX@SNAPSHOT; names or beginnings of ids", None),
        (
            (
                "other",
                {
                    "nargs": "?",
                    "default": "",
                    "metavar": "POINT",
                    "help": "likewise; without it a sandbox is compared with its latest snapshot, "
                    "and a snapshot with its sandbox",
                },
            ),
            ("--now", {"action": "store_true", "help": "leave the variables out where a cell runs"}),
        ),
    ),
    Command(
        "export",
        "write a sandbox to a file that opens on other hosts",
        _late("export", "transfer"),
        ("point", "SANDBOX, as it is now, or SANDBOX@SNAPSHOT; names or beginnings of ids", None),
        (
            ("file", {"nargs": "?", "default": "", "metavar": "FILE", "help": "a new file"}),
            _DISK_ONLY,
            ("--whole", {"action": "store_true", "help": "put the image in, for hosts that do not have it"}),
            ("--dry-run", {"action": "store_true", "help": "only say how large it would be"}),
            _NOW,
        ),
    ),
    Command(
        "import",
        "make a sandbox of a file that export wrote, of somebody whom you trust",
        _late("import_", "transfer"),
        ("file", "an archive", None),
        (
            ("--name", {"default": "", "help": "what to call the sandbox"}),
            _DISK_ONLY,
        ),
    ),
    Command(
        "prune",
        "remove the snapshots of a sandbox that nobody asked for",
        _late("prune"),
        _SANDBOX,
        (("--dry-run", {"action": "store_true", "help": "only show what would go"}),),
    ),
    Command("stop", "shut sandboxes down; their disks are kept", stop, _SANDBOXES),
    Command("rm", "end sandboxes and remove all that they have", rm, _SANDBOXES),
    Command(
        "uninstall",
        "remove all sandboxes, images and kernelspecs, before pip removes the program",
        _late("uninstall", "removal"),
        None,
        (("--yes", {"action": "store_true", "help": "really do so"}),),
    ),
)
_GROUPS = {"images": "build, publish, list and remove images"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors become one line on standard error."""
    if argv is None:  # whoever is asked to end tidies up, as at Ctrl+C
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        arguments = make_parser().parse_args(argv)
    except SystemExit as end:  # --help, --version, or a usage error that argparse has told of
        return end.code if isinstance(end.code, int) else 2
    from jupyter_vsandbox.render import Output

    output = Output(PROGRAM, json=getattr(arguments, "json", False), debug=getattr(arguments, "debug", False))
    try:
        code: int = arguments.run(Session(output), arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write(f"{PROGRAM}: interrupted\n")
        return _INTERRUPTED
    except BrokenPipeError:  # see https://docs.python.org/3/library/signal.html#note-on-sigpipe
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 1
    except (SandboxError, OSError) as error:
        output.fail(error)
        return _exit_code(error)
    return code


def make_parser() -> argparse.ArgumentParser:
    """Make the parser from `COMMANDS`."""
    # Accepted before and after the command: SUPPRESS keeps the one from undoing the other.
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--json", action="store_true", help="print one JSON document to standard output")
    common.add_argument("--debug", action="store_true", help="show where an error came from")
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Jupyter kernels that each run in a virtual machine of their own.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=__version__)
    top = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    groups = {}
    for command in COMMANDS:
        *group, word = command.words.split()
        where = top
        if group:
            if group[0] not in groups:
                inner = top.add_parser(group[0], help=_GROUPS[group[0]], description=_GROUPS[group[0]])
                groups[group[0]] = inner.add_subparsers(required=True, metavar="COMMAND", title="commands")
            where = groups[group[0]]
        if command.help:  # argparse lists what has a help text, even an empty one
            one = where.add_parser(word, parents=[common], help=command.help, description=command.help)
        else:
            one = where.add_parser(word, parents=[common])
        if command.argument is not None:
            name, text, count = command.argument
            one.add_argument(name, nargs=count, metavar=name.upper(), help=text)
        for name, keywords in command.more:
            one.add_argument(name, **keywords)
        one.set_defaults(run=command.run)
    return parser


# What the commands share.


async def _each(
    session: Session,
    service: SandboxService,
    prefixes: Sequence[str],
    done: str,
    verb: Callable[[str], Awaitable[object]],
) -> int:
    """Do `verb` to each sandbox; a mistyped id stops all, a failure only its own."""
    from jupyter_vsandbox import render

    ids = dict.fromkeys(service.resolve(prefix).id for prefix in prefixes)
    succeeded: list[str] = []
    failed: list[dict[str, str]] = []
    code = 0
    for one in ids:
        try:
            await verb(one)
        except (SandboxError, OSError) as error:
            session.output.complain(error)
            failed.append({"id": one, **render.error_dict(error)})
            code = code or _exit_code(error)
        else:
            succeeded.append(one)
    said = f"{', '.join(succeeded)} {done}." if succeeded else f"Nothing {done}."
    session.output.answer({done: succeeded, "failed": failed}, lambda: render.plain(said))
    return code


def _find_image(prefix: str, images: Sequence[Image]) -> Image:
    """Return the one image whose id is, or begins with, `prefix`."""
    found = [image for image in images if image.id == prefix]
    found = found or [image for image in images if prefix and image.id.startswith(prefix)]
    if not found:
        raise NotFound(f"There is no image {prefix!r}; `{PROGRAM} images list` shows all.")
    if len(found) > 1:
        names = ", ".join(image.id for image in found)
        raise InvalidRequest(f"{prefix!r} fits {len(found)} images: {names}. Give more of the id.")
    return found[0]


def _check_kernelspecs(settings: Settings) -> list[Check]:
    """See whether the kernel picker offers each runtime that is built."""
    from jupyter_vsandbox.domain.checks import Check, Status
    from jupyter_vsandbox.kernel import specs
    from jupyter_vsandbox.runtimes import build

    checks = []
    for runtime in sorted({image.runtime for image in build.images(settings)}):
        name = f"kernelspec of {runtime}"
        if specs.installed(runtime):
            checks.append(Check(name, Status.OK, specs.spec_name(runtime)))
        else:
            mend = f"{PROGRAM} images build {runtime}"
            checks.append(
                Check(name, Status.WARN, "missing: the kernel picker does not offer this runtime", mend)
            )
    return checks


def _exit_code(error: Exception) -> int:
    return next((code for kind, code in _EXIT_CODES if isinstance(error, kind)), 1)


if __name__ == "__main__":
    sys.exit(main())
