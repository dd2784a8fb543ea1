"""Pages of another process: what it changed is read, kept and put into a third one."""

from __future__ import annotations

import array
import contextlib
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from jupyter_vsandbox.drivers.qemu import memory
from jupyter_vsandbox.drivers.qemu.memory import PAGE, Pages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COUNT = 4096
CHILD = """
import mmap, sys
with open(sys.argv[1], "rb") as file:
    ram = mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
print(ram[0], flush=True)
for line in sys.stdin:
    page, value = map(int, line.split())
    if value >= 0:
        ram[page * 4096] = value
    print(ram[page * 4096], flush=True)
"""


class Process:
    """Maps a file copy-on-write, as a machine does with its template's memory."""

    def __init__(self, ram: Path) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(ram)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._child.pid
        self._answer()

    def _answer(self) -> int:
        assert self._child.stdout is not None
        return int(self._child.stdout.readline())

    def write(self, page: int, value: int) -> None:
        self._say(f"{page} {value}")
        assert self._answer() == value

    def read(self, page: int) -> int:
        self._say(f"{page} -1")
        return self._answer()

    def _say(self, line: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(line + "\n")
        self._child.stdin.flush()

    def end(self) -> None:
        self._child.communicate()


@pytest.fixture
def ram(tmp_path: Path) -> Path:
    path = tmp_path / "ram"
    path.write_bytes(bytes(COUNT * PAGE))
    return path


@contextlib.contextmanager
def process(ram: Path) -> Iterator[Process]:
    process = Process(ram)
    try:
        yield process
    finally:
        process.end()


def capture(pid: int, ram: Path) -> Pages:
    return memory.capture(pid, ram, memory.prepare(pid, ram))


def test_only_what_was_changed_is_read_and_it_comes_back(ram: Path, tmp_path: Path) -> None:
    changed = [*range(0, COUNT, 2), COUNT - 1]  # more runs than one call of the kernel takes
    with process(ram) as one:
        for page in changed:
            one.write(page, page % 250 + 1)
        one.read(1)  # only looked at
        pages = capture(one.pid, ram)
    assert list(pages.numbers) == changed
    pages.write(tmp_path)
    with process(ram) as other:
        memory.put_back(other.pid, ram, [tmp_path])
        assert [other.read(page) for page in changed] == [page % 250 + 1 for page in changed]
        assert other.read(1) == 0
    assert not any(ram.read_bytes())


def test_a_layer_holds_what_differs_from_those_below(ram: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("first", "second")]
    with process(ram) as one:
        one.write(3, 1)
        one.write(4, 1)
        first = capture(one.pid, ram)
        one.write(4, 2)
        one.write(9, 2)
        second = capture(one.pid, ram)
    for folder in folders:
        folder.mkdir()
    first.write(folders[0])
    second = second.without(folders[:1])
    assert list(second.numbers) == [4, 9]
    second.write(folders[1])
    with process(ram) as other:
        memory.put_back(other.pid, ram, folders)
        assert [other.read(page) for page in (3, 4, 9)] == [1, 2, 2]


def test_a_page_that_went_back_is_kept_above_the_one_it_differs_from(tmp_path: Path) -> None:
    def layer(value: int) -> Pages:
        return Pages(array.array("Q", [5]), bytearray([value]) * PAGE)

    folders = [tmp_path / "one", tmp_path / "two"]
    for value, folder in enumerate(folders, 1):
        folder.mkdir()
        layer(value).write(folder)
    assert list(layer(1).without(folders).numbers) == [5]
    assert list(layer(2).without(folders).numbers) == []


@pytest.mark.parametrize(
    "content", [bytes(2 * PAGE), random.Random(1).randbytes(2 * PAGE)], ids=["zeros", "noise"]
)
def test_pages_are_written_as_short_as_they_get_and_read_alike(content: bytes, tmp_path: Path) -> None:
    Pages(array.array("Q", [2, 7]), bytearray(content)).write(tmp_path)
    assert (tmp_path / memory.PAGES).stat().st_size <= (2 * PAGE if any(content) else 100)
    found = memory.load(tmp_path)
    assert list(found.numbers) == [2, 7]
    assert found.page(0) + found.page(1) == content


def test_pages_that_somebody_has_are_not_read_again(tmp_path: Path) -> None:
    Pages(array.array("Q", [1]), bytearray(PAGE)).write(tmp_path)
    with ThreadPoolExecutor() as threads:
        one, other = threads.map(memory.load, [tmp_path] * 2)
    assert one is other


def test_pages_that_were_mended_are_read_again(tmp_path: Path) -> None:
    whole = Pages(array.array("Q", [1]), bytearray(PAGE))
    Pages(array.array("Q", [2]), bytearray(PAGE)).write(tmp_path)
    damaged = memory.load(tmp_path)
    whole.write(tmp_path)
    assert list(memory.load(tmp_path).numbers) == [1] != list(damaged.numbers)


def test_pages_that_are_cut_off_are_not_read(tmp_path: Path) -> None:
    Pages(array.array("Q", range(64)), bytearray(64 * PAGE)).write(tmp_path)
    path = tmp_path / memory.PAGES
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(EOFError):
        memory.load(tmp_path)


def test_an_empty_layer_can_be_written_and_put_back(ram: Path, tmp_path: Path) -> None:
    with process(ram) as one:
        capture(one.pid, ram).write(tmp_path)
        memory.put_back(one.pid, ram, [tmp_path])
        assert one.read(0) == 0


def test_a_process_that_does_not_map_the_file_is_refused(ram: Path, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(bytes(PAGE))
    with process(ram) as one, pytest.raises(FileNotFoundError, match="other"):
        memory.prepare(one.pid, tmp_path / "other")
