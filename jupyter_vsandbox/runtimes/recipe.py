"""A recipe: what one runtime consists of, read from a TOML file and checked before anything is built."""

from __future__ import annotations

import difflib
import re
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

from jupyter_vsandbox.domain.errors import InvalidRequest
from jupyter_vsandbox.domain.model import GIB, MIB, Shape

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CONNECTION_FILE = "{connection_file}"
"""Stands in `Kernel.argv` for the path of the kernel's connection file."""

IPYKERNEL = ("/opt/venv/bin/python", "-m", "ipykernel_launcher", "-f", CONNECTION_FILE)
"""What starts the kernel of a recipe that has a Python environment and names nothing else."""

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_SUITE = re.compile(r"[a-z][a-z0-9-]*")
_LANGUAGE = re.compile(r"[A-Za-z][A-Za-z0-9+#_.-]*")
_DEBIAN_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(?:=[A-Za-z0-9.+:~-]+)?")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][^\r\n]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MODULE = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
_MODE = re.compile(r"0?[0-7]{3}")
_PROFILE = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9_.-]*)?")
_SIZE = re.compile(r"([0-9]+)\s*(M|G)(?:iB)?")


@dataclass(frozen=True)
class Base:
    """The Debian system underneath.

    Attributes:
        suite: the Debian release, for instance ``bookworm``.
        packages: Debian packages beyond those that every image has; ``NAME`` or ``NAME=VERSION``.
    """

    suite: str
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Python:
    """The notebook's virtual environment, ``/opt/venv``.

    Attributes:
        interpreter: absolute path, in the guest, of the Python that makes the environment.
        packages: pip requirements.
    """

    interpreter: str = "/usr/bin/python3"
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kernel:
    """How the guest starts the Jupyter kernel.

    Attributes:
        argv: the command; one of its words holds ``{connection_file}``.
        env: variables added to the kernel's environment.
        warm: modules that are imported once when the template is made, so that their files are in memory.
    """

    argv: tuple[str, ...] = IPYKERNEL
    env: Mapping[str, str] = field(default_factory=dict)
    warm: tuple[str, ...] = ()


@dataclass(frozen=True)
class File:
    """A file that the recipe adds to the guest; below ``/home/jovyan`` the user owns it, else root.

    Attributes:
        path: absolute path in the guest.
        content: its text.
        mode: permission bits.
    """

    path: str
    content: str
    mode: int = 0o644


@dataclass(frozen=True)
class Machine:
    """The machine's size.

    Attributes:
        memory: bytes.
        vcpus: virtual processors.
        disk: bytes that the disk can grow to.
        gpu: vGPU profile for machines on a vCenter, "" for none.
    """

    memory: int = GIB
    vcpus: int = 1
    disk: int = 16 * GIB
    gpu: str = ""

    @property
    def shape(self) -> Shape:
        """What a driver needs to know of it."""
        return Shape(memory=self.memory, vcpus=self.vcpus, gpu=self.gpu)


@dataclass(frozen=True)
class Recipe:
    """One runtime.

    Attributes:
        name: short and unique, for instance ``python-3.11``.
        display_name: what the kernel picker shows.
        language: the kernel's language, for instance ``python``.
        summary: one sentence on what is in it.
        base: the Debian system underneath.
        python: the notebook's Python environment, `None` for a kernel that needs none.
        kernel: how the kernel starts.
        files: files added to the guest.
        machine: the machine's size.
    """

    name: str
    display_name: str
    language: str
    summary: str
    base: Base
    python: Python | None
    kernel: Kernel
    files: tuple[File, ...]
    machine: Machine

    def ingredients(self) -> dict[str, object]:
        """Everything that changes the image; titles and descriptions do not."""
        everything = asdict(self)
        for title in ("display_name", "summary"):
            del everything[title]
        if not self.machine.gpu:  # images of recipes without one keep their digests
            del everything["machine"]["gpu"]
        return everything


def load(path: Path) -> Recipe:
    """Read the recipe in `path`.

    Raises:
        InvalidRequest: it cannot be read, or something in it is wrong; the message names the file,
            the key and what to write instead.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{path}: the recipe cannot be read: {error}.") from error
    return parse(text, str(path), default_name=path.stem)


def parse(text: str, origin: str, default_name: str = "") -> Recipe:
    """Make a recipe of TOML text.

    Args:
        text: the TOML document.
        origin: what error messages call it, usually the file's path.
        default_name: the runtime's name where the document has none.

    Raises:
        InvalidRequest: as `load`.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidRequest(f"{origin}: this is not valid TOML: {error}.") from error
    top = _Table(document, origin, "")
    name = top.string("name", default_name, _NAME, "Use up to 64 of a-z, 0-9, '.', '_' and '-'.")
    display_name = top.string("display_name", f"{name} (sandbox)")
    language = top.string("language", "python", _LANGUAGE, 'Write the language\'s name, such as "python".')
    summary = top.string("summary", "")
    recipe = Recipe(
        name=name,
        display_name=display_name,
        language=language,
        summary=summary,
        base=_base(top.table("base", required=True)),
        python=_python(top.table("python")) if "python" in document else None,
        kernel=_kernel(top.table("kernel", required="python" not in document), "python" in document),
        files=tuple(_file(table) for table in top.tables("files")),
        machine=_machine(top.table("machine")),
    )
    top.finish()
    return recipe


def _base(table: _Table) -> Base:
    suite = table.string("suite", None, _SUITE, 'Write a Debian release name, such as "bookworm".')
    mend = "Write Debian package names, NAME or NAME=VERSION."
    packages = table.strings("packages", (), _DEBIAN_PACKAGE, mend)
    table.finish()
    return Base(suite, packages)


def _python(table: _Table) -> Python:
    interpreter = table.string("interpreter", "/usr/bin/python3")
    if not interpreter.startswith("/") or any(letter.isspace() for letter in interpreter):
        table.refuse("interpreter", f"{interpreter!r} is not an absolute path", "Write a path in the guest.")
    mend = 'Write pip requirements such as "pandas" or "numpy<2"; options are not possible.'
    packages = table.strings("packages", (), _REQUIREMENT, mend)
    table.finish()
    return Python(interpreter, packages)


def _kernel(table: _Table, python: bool) -> Kernel:
    argv = table.strings("argv", IPYKERNEL if python else None)
    if not any(CONNECTION_FILE in word for word in argv):
        table.refuse("argv", f"no word holds {CONNECTION_FILE}", f"Add it, as in {list(IPYKERNEL)}.")
    env_table = table.table("env")
    env = {key: env_table.string(key, None) for key in env_table.keys()}  # noqa: SIM118 - not a dict
    for key in env:
        if not _VARIABLE.fullmatch(key):
            env_table.refuse(key, "this is not a variable's name", "Use letters, digits and '_'.")
    warm = table.strings("warm", (), _MODULE, 'Write module names, such as "matplotlib.pyplot".')
    table.finish()
    return Kernel(argv, env, warm)


def _file(table: _Table) -> File:
    path = table.string("path", None)
    plain = path == str(PurePosixPath(path)) and ".." not in path.split("/")
    if not plain or not path.startswith("/") or path.startswith("//") or path == "/":
        table.refuse("path", f"{path!r} is not a plain absolute path", "Write a path such as /etc/motd.")
    content = table.string("content", None)
    mode = table.string("mode", "0644", _MODE, 'Write permission bits in quotes, such as "0644".')
    table.finish()
    return File(path, content, int(mode, 8))


def _machine(table: _Table) -> Machine:
    memory = table.size("memory", "1G", 256 * MIB, 1024 * GIB)
    vcpus = table.integer("vcpus", 1, 1, 64)
    disk = table.size("disk", "16G", 4 * GIB, 2048 * GIB)
    gpu = table.string("gpu", "", _PROFILE, 'Write the name of a vGPU profile, such as "grid_t4-4q".')
    table.finish()
    return Machine(memory, vcpus, disk, gpu)


class _Table:
    """A TOML table that remembers which keys were asked for, so that the others can be refused."""

    def __init__(self, content: Mapping[str, Any], origin: str, where: str) -> None:
        self._content = content
        self._origin = origin
        self._where = where
        self._known: list[str] = []

    def keys(self) -> list[str]:
        return list(self._content)

    def refuse(self, key: str, problem: str, mend: str) -> NoReturn:
        raise InvalidRequest(f"{self._origin}: {self._path(key)}: {problem}. {mend}")

    def finish(self) -> None:
        """Refuse the keys that nobody asked for."""
        for key in self._content:
            if key not in self._known:
                near = difflib.get_close_matches(key, self._known, n=1)
                mend = (
                    f"Did you mean {near[0]!r}?" if near else f"Known here: {', '.join(sorted(self._known))}."
                )
                self.refuse(key, "there is no such key", mend)

    def string(
        self, key: str, default: str | None, pattern: re.Pattern[str] | None = None, mend: str = ""
    ) -> str:
        value = self._take(key, default)
        if not isinstance(value, str):
            self.refuse(key, f"{value!r} is not a string", "Put it in quotes.")
        if "\0" in value:
            self.refuse(key, "it holds a NUL character", "Take that out.")
        if pattern is not None and not pattern.fullmatch(value):
            self.refuse(key, f"{value!r} is not possible", mend)
        return value

    def strings(
        self,
        key: str,
        default: tuple[str, ...] | None,
        pattern: re.Pattern[str] | None = None,
        mend: str = "",
    ) -> tuple[str, ...]:
        value = self._take(key, default)
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            self.refuse(key, "this must be a list of strings", 'Write it as ["one", "two"].')
        for item in value:
            if "\0" in item or (pattern is not None and not pattern.fullmatch(item)):
                self.refuse(key, f"{item!r} is not possible", mend or "Take the NUL character out.")
        return tuple(value)

    def integer(self, key: str, default: int, least: int, most: int) -> int:
        value = self._take(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            self.refuse(key, f"{value!r} is not possible", f"Write a whole number from {least} to {most}.")
        return value

    def size(self, key: str, default: str, least: int, most: int) -> int:
        value = self.string(key, default, _SIZE, 'Write a size in quotes, such as "512M" or "2G".')
        match = _SIZE.fullmatch(value)
        if match is None:  # pragma: no cover - string() has checked it
            raise AssertionError(value)
        size = int(match[1]) * (GIB if match[2] == "G" else MIB)
        if not least <= size <= most:
            limits = f"{least // MIB}M to {most // GIB}G"
            self.refuse(key, f"{value!r} is out of bounds", f"Write a size from {limits}.")
        return size

    def table(self, key: str, required: bool = False) -> _Table:
        value = self._take(key, None if required else {})
        if not isinstance(value, dict):
            self.refuse(key, f"{value!r} is not a table", f"Write it as [{self._path(key)}].")
        return _Table(value, self._origin, self._path(key))

    def tables(self, key: str) -> list[_Table]:
        value = self._take(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.refuse(key, "this must be a list of tables", f"Write each as [[{self._path(key)}]].")
        path = self._path(key)
        return [_Table(item, self._origin, f"{path}[{number}]") for number, item in enumerate(value)]

    def _path(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def _take(self, key: str, default: object) -> Any:  # noqa: ANN401 - what TOML holds
        self._known.append(key)
        if key in self._content:
            return self._content[key]
        if default is None:
            self.refuse(key, "it is missing", "Add it.")
        return default
