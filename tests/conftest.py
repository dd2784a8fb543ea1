"""What all tests share: settings of their own, and for machine tests an image and homes to use it in."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pytest

from jupyter_vsandbox.config import load_settings
from jupyter_vsandbox.core.service import SandboxService
from jupyter_vsandbox.core.store import Store
from jupyter_vsandbox.domain.model import State
from jupyter_vsandbox.kernel import specs
from jupyter_vsandbox.runtimes import build
from jupyter_vsandbox.runtimes.catalog import Catalog
from jupyter_vsandbox.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator, Iterator

    from jupyter_vsandbox.domain.model import Image, Sandbox

pytest_plugins = ["pytest_jupyter.jupyter_server"]

RUNTIME = "python-3.11"
MACHINE_SECONDS = 600.0
"""What a machine test may take: the first one builds the image and makes the template."""
LEAVE_SECONDS = 30.0
LOG_CHARACTERS = 8000

_homes: list[Home] = []


@dataclass(frozen=True)
class Home:
    """Where the sandboxes of a test are.

    Attributes:
        settings: of every process that the test starts.
    """

    settings: Settings

    def records(self) -> list[Sandbox]:
        """What the store knows."""
        if not self.settings.database.exists():
            return []
        with contextlib.closing(Store(self.settings.database)) as store:
            return store.all()

    def processes(self) -> list[int]:
        """The pids of all QEMUs that run; one that is dead but not yet reaped does not."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                program, *arguments = (entry / "cmdline").read_bytes().split(b"\0")
                if b"qemu" in program and any(os.fsencode(self.settings.home) in word for word in arguments):
                    found.append(int(entry.name))
        return found

    def leftovers(self) -> list[str]:
        """All that machines leave behind: processes, folders, sockets, locks and records."""
        found = [f"process {pid}" for pid in self.processes()]
        s = self.settings
        for folder in (s.sandboxes, s.sockets, s.snapshots, s.archives):
            found += map(str, folder.rglob("*"))
        for lock in (self.settings.home / "locks").glob("*"):
            if not lock.name.startswith(("capacity", "standby-")):
                found.append(str(lock))
        return found + [repr(sandbox) for sandbox in self.records()]

    def sweep(self) -> None:
        """Remove what processes that were killed left behind, as the next one does when it starts."""

        async def reconcile() -> None:
            with SandboxService(self.settings) as service:
                await service.reconcile()

        run(reconcile())

    def remove_kept(self) -> None:
        """Delete the sandboxes that were let go and wait for somebody to come back to them."""
        with SandboxService(self.settings) as service:
            kept = {s.id for s in service.list() if not s.owner and not service.disposable(s)}
        run(self._delete(lambda sandbox: sandbox.id in kept))

    def remove(self, *states: State) -> None:
        """Delete the sandboxes that are in one of `states`."""
        run(self._delete(lambda sandbox: sandbox.state in states))

    async def _delete(self, which: Callable[[Sandbox], bool]) -> None:
        with SandboxService(self.settings) as service:
            for sandbox in service.list():
                if which(sandbox):
                    await service.delete(sandbox.id)


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, in a thread: a browser's driver has a loop in the tests' own."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()


class Until(Protocol):
    """Waits with a deadline."""

    def __call__(self, holds: Callable[[], object], seconds: float = 30.0) -> None:
        """Wait until `holds` is true; fail if it is not within `seconds`."""


class NewHome(Protocol):
    """Makes homes for machine tests."""

    def __call__(
        self, *, own_templates: bool = False, **config: Any
    ) -> contextlib.AbstractContextManager[Home]:
        """A home with the built image, in the environment for the length of a block.

        Nothing may be left in it at the end.

        Args:
            own_templates: begin without templates.
            **config: configuration of ``VSandbox``; no standby is kept unless it says so.
        """


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings whose folders are all this test's own; nothing of the user's is seen or touched."""
    # Sockets go there where the test's folder has too long a path for them.
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    home = tmp_path / "vsandbox"
    monkeypatch.setenv("JUPYTER_VSANDBOX_HOME", str(home))
    return Settings(home=home, standby=0)


@pytest.fixture(scope="session")
def image() -> Image:
    """The runtime's image in the user's home: built, and its template made, if there is none yet."""
    settings = Settings(standby=0)
    image = build.build(Catalog.standard(settings).get(RUNTIME), settings)

    async def warm() -> None:
        with SandboxService(settings) as service:
            await service.delete((await service.create(RUNTIME)).id)

    run(warm())
    return image


@pytest.fixture(scope="session")
def new_home(image: Image, until: Until) -> NewHome:
    """Makes homes that share the image and its template, and nothing else."""
    shared = Path(image.folder).parent.parent

    def nothing_left(home: Home) -> bool:
        home.remove(State.STANDBY)  # one may be on its way still
        home.remove_kept()
        return not home.leftovers()

    @contextlib.contextmanager
    def make(*, own_templates: bool = False, **config: Any) -> Iterator[Home]:
        # Not below pytest's folder: that is closed to other users, and too long for sockets.
        with tempfile.TemporaryDirectory(prefix="vsandbox-test-") as name:
            yield from furnish(Path(name), own_templates, config)

    def furnish(base: Path, own_templates: bool, config: dict[str, Any]) -> Iterator[Home]:
        base.chmod(0o755)
        home = base / "home"
        home.mkdir(mode=0o700)
        for name in ["images"] if own_templates else ["images", "templates"]:
            (home / name).symlink_to(shared / name)
        if (shared / "accelerator.json").exists():
            shutil.copy(shared / "accelerator.json", home)
        spec = base / "share" / "kernels" / specs.spec_name(RUNTIME) / "kernel.json"
        spec.parent.mkdir(parents=True)
        spec.write_text(json.dumps(specs.kernel_json(Catalog.standard(Settings(home=home)).get(RUNTIME))))
        (base / "config").mkdir()
        (base / "config" / "jupyter_vsandbox_config.json").write_text(
            json.dumps({"VSandbox": {"standby": 0} | config})
        )
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("JUPYTER_VSANDBOX_HOME", str(home))
            environment.setenv("JUPYTER_PATH", str(base / "share"))
            for name in ("CONFIG", "DATA", "RUNTIME"):
                environment.setenv(f"JUPYTER_{name}_DIR", str(base / name.lower()))
            environment.setenv("IPYTHONDIR", str(base / "ipython"))
            here = Home(load_settings())
            _homes.append(here)
            try:
                yield here
                with contextlib.suppress(pytest.fail.Exception):
                    until(lambda: nothing_left(here), LEAVE_SECONDS)
                left = here.leftovers()
                assert not left, "\n".join(left)
            finally:
                _homes.remove(here)
                here.remove(*State)

    return make


@pytest.fixture(scope="session")
def until() -> Until:
    """Waits with a deadline."""

    def wait(holds: Callable[[], object], seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                pytest.fail(f"Still not so after {seconds:g} s.")
            time.sleep(0.05)

    return wait


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("machine") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(MACHINE_SECONDS))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what is known of the machines to the report of a test that failed."""
    report = yield
    if report.failed:
        for home in _homes:
            for name in ("qemu.log", "console.log"):
                for path in home.settings.sandboxes.glob(f"*/{name}"):
                    text = path.read_text(errors="replace")[-LOG_CHARACTERS:]
                    report.sections.append((f"{name} of sandbox {path.parent.name}", text))
            report.sections.append(("Records of sandboxes", "\n".join(map(repr, home.records()))))
    return report
