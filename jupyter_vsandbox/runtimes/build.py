"""From a recipe to an image: an immutable folder named by the digest of everything it was made of."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from jupyter_vsandbox.domain.errors import Exhausted, NotFound, Permanent
from jupyter_vsandbox.domain.model import GIB, Image, Shape
from jupyter_vsandbox.files import sync_folder, try_locked
from jupyter_vsandbox.qcow2 import require_alone
from jupyter_vsandbox.runtimes import bootstrap, hostconfig, mirror, payload
from jupyter_vsandbox.runtimes.catalog import Catalog
from jupyter_vsandbox.runtimes.diagnosis import diagnose
from jupyter_vsandbox.runtimes.process import Log, run
from jupyter_vsandbox.settings import private_folder
from jupyter_vsandbox.work import terminable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jupyter_vsandbox.runtimes.recipe import Recipe
    from jupyter_vsandbox.settings import Settings

NEEDED_BYTES = 4 * GIB
"""Free disk space without which no build is begun."""

APPEND = (
    "root=/dev/vda rootfstype=ext4 rw rootflags=noatime net.ifnames=0 mitigations=off lsm=yama "
    # Else each small allocation zeroes 2 MiB, which a clone then owns and a snapshot writes.
    "transparent_hugepage=madvise quiet"
)
"""The kernel command line that images are made for, the console aside. A disk that is not
``/dev/vda`` is found by ``root=LABEL=vsandbox``."""

PARTS = ("disk.qcow2", "vmlinuz", "initrd.img", "manifest.json")
"""The files of an image."""

_BUILDING = ".build-"
_IMAGE_ID = re.compile(r"[a-z0-9][a-z0-9._-]*-[0-9a-f]{12}")
_FORMAT = 1


class Progress(Protocol):
    """Told how a build goes on."""

    def __call__(self, stage: str, fraction: float | None, message: str) -> None:
        """One step.

        Args:
            stage: ``wait``, ``check``, ``system``, ``python``, ``disk``, ``done``; whoever goes on with
                what was built may add its own.
            fraction: how much of the whole build is done, 0 to 1 and never less than before;
                `None` while that cannot be said.
            message: one line for the user.
        """


def silent(stage: str, fraction: float | None, message: str) -> None:
    """A `Progress` that says nothing."""


def unheard(line: str) -> None:
    """Told the lines of a build's log by whom nobody listens to."""


def build(
    recipe: Recipe,
    settings: Settings,
    progress: Progress = silent,
    listen: Callable[[str], None] = unheard,
) -> Image:
    """Build `recipe`, or return the image that there is already.

    Called by the CLI and the server; blocks for minutes. Building twice is harmless. Two builds of one
    runtime, in whatever processes, come one after the other, and the second finds the first one's
    image. However a build ends, only a whole image is ever seen by `images` and `find`.

    Args:
        recipe: what to build.
        settings: where to.
        progress: told of each step; what it raises ends the build.
        listen: told each line of the log; what it raises ends the build.

    Raises:
        Exhausted: there is not enough free disk space.
        Unsupported: this host lacks a program or a right; the message says how to get it.
        InvalidRequest: the recipe names something that does not exist.
        Transient: the network failed.
        Permanent: it failed otherwise; the message holds the end of the log and the log's path.
    """
    arch = bootstrap.architecture()
    private_folder(settings.home)
    private_folder(settings.images)
    with _lock(recipe.name, settings, progress):
        _sweep(settings, recipe.name)
        digest = payload.digest(recipe, arch)
        if (existing := _load(settings.images / _id(recipe.name, digest))) is not None:
            progress("done", 1.0, f"{existing.id} is built already.")
            return existing
        progress("check", 0.0, "Checking what the build needs")
        bootstrap.require_tools()
        sources = mirror.sources_for(recipe.base.suite, override=settings.mirror)
        work = settings.images / f"{_BUILDING}{recipe.name}+{secrets.token_hex(6)}"
        try:
            with terminable():
                work.mkdir(mode=0o700)
                _require_space(work)
                _make(recipe, digest, arch, sources, work, settings, progress, listen)
                image = _publish(work, settings.images / _id(recipe.name, digest))
        except OSError as error:
            raise Permanent(f"Runtime {recipe.name!r}: the build failed: {error}.") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)
    progress("done", 1.0, f"{image.id} is ready.")
    return image


def images(settings: Settings) -> list[Image]:
    """All whole images, newest first."""
    if not settings.images.is_dir():
        return []
    found = (_load(folder) for folder in settings.images.iterdir())
    return sorted((image for image in found if image), key=lambda image: image.created, reverse=True)


def find(runtime: str | Recipe, settings: Settings) -> Image:
    """The image of `runtime` as its recipe is now.

    Args:
        runtime: a name to look up in the standard catalog, or a recipe.
        settings: where images are.

    Raises:
        NotFound: it has not been built since its recipe last changed, or there is no such runtime.
        InvalidRequest: its recipe is broken.
    """
    recipe = Catalog.standard(settings).get(runtime) if isinstance(runtime, str) else runtime
    digest = payload.digest(recipe, bootstrap.architecture())
    image = _load(settings.images / _id(recipe.name, digest))
    if image is not None:
        return image
    older = [image for image in images(settings) if image.runtime == recipe.name]
    state = "has changed since its image was built" if older else "has no image yet"
    mend = f"Build it with: jupyter vsandbox images build {recipe.name}"
    raise NotFound(f"Runtime {recipe.name!r} {state}. {mend}")


def get(image_id: str, settings: Settings) -> Image:
    """One image by its id.

    Raises:
        NotFound: there is none of that id.
    """
    image = _load(settings.images / image_id) if _IMAGE_ID.fullmatch(image_id) else None
    if image is None:
        existing = ", ".join(image.id for image in images(settings)) or "none at all"
        raise NotFound(f"There is no image {image_id!r}. There is: {existing}.")
    return image


def parts(image: Image) -> dict[str, Path]:
    """The files of an image, by name."""
    return {name: Path(image.folder) / name for name in PARTS}


def language(image: Image) -> str:
    """The language of an image's kernel, "python" where that is not told."""
    manifest = json.loads((Path(image.folder) / "manifest.json").read_text(encoding="utf-8"))
    try:
        return str(manifest["inputs"]["recipe"]["language"])
    except (KeyError, TypeError):
        return "python"


def adopt(folder: Path, checksums: Mapping[str, str], settings: Settings) -> Image:
    """Make an image of files that come from elsewhere; they are moved. Harmless twice.

    It is named by what it is, not by what it says that it was made of: so it never takes the place of
    what a recipe builds to.

    Args:
        folder: has the files of an image, see `PARTS`.
        checksums: SHA-256 of each.
        settings: where images are.

    Raises:
        Permanent: it is no whole image.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        manifest |= {"created": time.time(), "digest": ""}
        image = _image(manifest, folder, 0)
        facts = [
            image.runtime,
            image.append,
            _shape_dict(image.shape),
            *(checksums[name] for name in PARTS[:-1]),
        ]
        require_alone(folder / "disk.qcow2")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise Permanent(f"The image that came with it is not whole: {error}.") from error
    manifest["digest"] = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    image_id = _id(image.runtime, manifest["digest"])
    if not _IMAGE_ID.fullmatch(image_id) or image.shape.memory <= 0 or image.shape.vcpus <= 0:
        raise Permanent(f"The image that came with it cannot be used: it is called {image_id!r}.")
    private_folder(settings.images)
    with _lock(image.runtime, settings, silent):
        _sweep(settings, image.runtime)
        if (existing := _load(settings.images / image_id)) is not None:
            return existing
        work = settings.images / f"{_BUILDING}{image.runtime}+{secrets.token_hex(6)}"
        try:
            work.mkdir(mode=0o700)
            for name in PARTS[:-1]:
                shutil.move(folder / name, work / name)
            (work / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
            return _publish(work, settings.images / image_id)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def remove(image_id: str, settings: Settings) -> None:
    """Delete an image. Whether a template or a sandbox still needs it is for the caller to know.

    Raises:
        NotFound: there is no such image.
    """
    folder = settings.images / image_id
    if not (_IMAGE_ID.fullmatch(image_id) and folder.is_dir()):
        folder = Path(get(image_id, settings).folder)  # tells what there is
    # Renamed first, so that half an image is never seen.
    doomed = settings.images / f"{_BUILDING}{image_id[:-13]}+{secrets.token_hex(6)}"
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _make(
    recipe: Recipe,
    digest: str,
    arch: str,
    sources: list[mirror.Source],
    work: Path,
    settings: Settings,
    progress: Progress,
    listen: Callable[[str], None],
) -> None:
    """Fill `work` with the parts of an image."""
    progress("check", 0.01, "Reading this host's package settings")
    host = hostconfig.read()
    outputs = bootstrap.Outputs(work)
    outputs.part("early.tar").write_bytes(payload.early_files(recipe, sources, host))
    outputs.part("late.tar").write_bytes(payload.late_files(recipe, sources))
    env = {"PATH": bootstrap.PATH, "HOME": "/root", "LC_ALL": "C.UTF-8", **host.build_env}
    env["TMPDIR"] = str(bootstrap.scratch(work))
    watcher = bootstrap.Watcher(lambda stage, share, text: progress(stage, 0.02 + 0.90 * share, text))

    def watch(line: str) -> None:
        listen(line)
        watcher(line)

    with Log(settings.home / "logs" / f"build-{recipe.name}.log") as log:
        descriptor = os.open(outputs.raw, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(descriptor, 0o666)  # for the build's other user ids; the folder is closed
            argv = bootstrap.command(recipe, sources, host, outputs, descriptor, arch)
            if run(argv, log, watch, env=env, pass_fds=[descriptor]) != 0:
                raise diagnose(recipe, log)
        finally:
            os.close(descriptor)
        progress("disk", 0.93, "Writing the disk image")
        convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2"]
        if run([*convert, str(outputs.raw), str(work / "disk.qcow2")], log, env=env) != 0:
            raise diagnose(recipe, log)
    progress("disk", 0.98, "Writing the manifest")
    manifest = {
        "format": _FORMAT,
        "runtime": recipe.name,
        "digest": digest,
        "shape": _shape_dict(recipe.machine.shape),
        "created": time.time(),
        "append": APPEND,
        "kernel": outputs.part("kernel.txt").read_text(encoding="utf-8").strip(),
        "packages": {
            kind: outputs.part(f"{kind}.txt").read_text(encoding="utf-8").splitlines()
            for kind in ("system", "python")
        },
        "inputs": payload.inputs(recipe, arch),
    }
    (work / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def _publish(work: Path, folder: Path) -> Image:
    """Turn the finished folder `work` into the image in `folder`, at once and for good."""
    for path in work.iterdir():
        if path.name not in PARTS:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in PARTS:
        (work / name).chmod(0o444)
    sync_folder(work)
    if folder.exists():  # one that is not whole, or it would have been found
        folder.rename(work.with_name(work.name + "-old"))
        shutil.rmtree(work.with_name(work.name + "-old"), ignore_errors=True)
    work.rename(folder)
    _sync(folder.parent)
    image = _load(folder)
    if image is None:
        raise Permanent(f"{folder} was just built and is not whole; look at its manifest.json.")
    return image


def _load(folder: Path) -> Image | None:
    """The image in `folder`, `None` unless it is whole."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        sizes = [(folder / name).stat().st_blocks * 512 for name in PARTS]
        image = _image(manifest, folder, sum(sizes))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return image if image.id == folder.name else None


def _image(manifest: Any, folder: Path, size: int) -> Image:  # noqa: ANN401 - JSON
    if manifest["format"] != _FORMAT:
        raise ValueError(manifest["format"])
    told = manifest["shape"]
    shape = Shape(memory=int(told["memory"]), vcpus=int(told["vcpus"]), gpu=str(told.get("gpu", "")))
    return Image(
        runtime=str(manifest["runtime"]),
        digest=str(manifest["digest"]),
        folder=str(folder),
        shape=shape,
        size=size,
        created=float(manifest["created"]),
        append=str(manifest["append"]),
    )


def _shape_dict(shape: Shape) -> dict[str, object]:
    """What there is of a shape; one without a GPU is written as before there were any."""
    return {name: value for name, value in asdict(shape).items() if value}


def _id(runtime: str, digest: str) -> str:
    return f"{runtime}-{digest[:12]}"


def _require_space(work: Path) -> None:
    for folder in {work, bootstrap.scratch(work)}:
        free = shutil.disk_usage(folder).free
        if free < NEEDED_BYTES:
            raise Exhausted(
                f"A build needs {NEEDED_BYTES / GIB:.0f} GiB of free disk space in {folder}, and "
                f"{free / GIB:.1f} GiB are free. Nothing was built. Free some, or move JUPYTER_VSANDBOX_HOME."
            )


@contextlib.contextmanager
def _lock(runtime: str, settings: Settings, progress: Progress) -> Iterator[None]:
    """Hold the one lock of `runtime`'s builds; the kernel lets go of it when its holder dies."""
    descriptor = os.open(settings.images / f".lock-{runtime}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("wait", None, f"Another build of {runtime} is going on; waiting for it.")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sweep(settings: Settings, held: str) -> None:
    """Remove what dead builders have left. Whoever builds holds the runtime's lock; `held` is held by us."""
    for leftover in settings.images.glob(f"{_BUILDING}*+*"):
        runtime = leftover.name.removeprefix(_BUILDING).rpartition("+")[0]
        if runtime == held:
            shutil.rmtree(leftover, ignore_errors=True)
            continue
        with try_locked(settings.images / f".lock-{runtime}") as dead:
            if dead:
                shutil.rmtree(leftover, ignore_errors=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
