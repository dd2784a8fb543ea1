"""The file that a sandbox travels in: whole or refused, whoever made it."""

import asyncio
import contextlib
import hashlib
import io
import json
import os
import tarfile
import threading
from dataclasses import asdict, replace

import pytest

from jupyter_vsandbox.core import archive
from jupyter_vsandbox.core.manifest import FORMAT, Content, Member
from jupyter_vsandbox.domain.errors import Conflict, Exhausted, NotFound, Permanent, Unsupported
from jupyter_vsandbox.domain.model import GIB, LinkKeys, Shape
from jupyter_vsandbox.work import Stopped, Work

KEYS = LinkKeys("a" * 40, "b" * 40, "c" * 40, "d" * 40)
CONTENT = Content(
    driver="qemu",
    runtime="python-3.11",
    image="python-3.11-0123456789ab",
    disk="ab" * 32,
    disk_size=7,
    shape=Shape(GIB, 1),
    machine="0123456789ab",
    name="first",
    note="a note",
    created=1.5,
    pause=0.25,
    keys=KEYS,
    needs={"QEMU version": "7.2"},
)
FILES = {
    "machine/disk.qcow2": os.urandom(5000),
    "machine/pages": bytes(range(256)) * 9000,
    "machine/index": b"",
    "cells.ipynb": b"{}",
}


@pytest.fixture
def sources(tmp_path):
    paths = {}
    for name, data in FILES.items():
        path = tmp_path / "from" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        paths[name] = path
    return paths


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


@pytest.fixture
def path(tmp_path, sources):
    target = tmp_path / "archives" / "mine"
    target.parent.mkdir()
    archive.write(target, CONTENT, sources, Work())
    return target


def unpack(path, folder, wanted=FILES):
    found = archive.load(path, Work())
    archive.extract(found, folder, wanted, Work())
    return found


def make(path, *entries, end=archive._END, manifest=None, members=None):
    """An archive as somebody with bad intentions would write it: with right checksums."""
    document = {
        "format": FORMAT,
        "content": asdict(CONTENT),
        "members": members
        if members is not None
        else [asdict(Member(e.name, e.size, sum_of(data))) for e, data in entries],
    }
    if manifest is not None:
        document = manifest(document)
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    first = tarfile.TarInfo(archive.MANIFEST)
    first.size = len(text)
    with open(path, "wb") as file:
        out = archive._Compressed(file)
        for entry, data in ((first, text), *entries):
            out.write(entry.tobuf(tarfile.GNU_FORMAT) + data + archive._padding(len(data)))
        out.write(end)
        out.close()
    return path


def sum_of(data):
    return hashlib.sha256(data).hexdigest()


def entry(name, data=b"data", /, **values):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in values.items():
        setattr(info, key, value)
    return info, data


def test_what_goes_in_comes_out(path, folder):
    assert path.stat().st_mode & 0o777 == 0o600
    found = unpack(path, folder)
    assert found.content == CONTENT
    assert not found.whole
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == FILES
    assert {p.stat().st_mode & 0o777 for p in folder.rglob("*") if p.is_file()} == {0o600}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_any_tar_that_knows_zstd_lists_it(path):
    data = archive.zstd.decompress(path.read_bytes())
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getnames() == [archive.MANIFEST, *FILES]


def test_only_what_is_wanted_is_written(path, folder):
    unpack(path, folder, {"cells.ipynb"})
    assert [p.name for p in folder.iterdir()] == ["cells.ipynb"]


def test_every_flipped_byte_is_found(path, folder):
    whole = path.read_bytes()
    # All of the ends, where headers, manifest and checksum are, and some of what is between them.
    places = {*range(600), *range(len(whole) - 600, len(whole)), *range(0, len(whole), 97)}
    for place in sorted(places & set(range(len(whole)))):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        with pytest.raises(Permanent, match=str(path)):
            unpack(path, folder)
    assert list(folder.iterdir()) == []


def test_every_cut_is_found(path, folder):
    whole = path.read_bytes()
    for length in {0, 1, 20, archive._TRAILER, archive._TRAILER + 1, *range(50, len(whole), 333)}:
        path.write_bytes(whole[:length])
        with pytest.raises(Permanent, match=str(path)):
            unpack(path, folder)
    path.write_bytes(whole + b"x")
    with pytest.raises(Permanent, match=str(path)):
        unpack(path, folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("text", [b"", b"no archive" * 99, archive.zstd.compress(b"no tar" * 999)])
def test_what_is_no_archive_is_refused(tmp_path, text):
    other = tmp_path / "other"
    other.write_bytes(text)
    with pytest.raises(Permanent, match=str(other)):
        archive.load(other, Work())
    with pytest.raises(NotFound, match="nowhere"):
        archive.length(tmp_path / "nowhere")


def test_what_the_manifest_does_not_vouch_for_is_refused(tmp_path, folder):
    wrong = [asdict(Member("machine/pages", 4, "00" * 32))]
    made = make(tmp_path / "x", entry("machine/pages"), members=wrong)
    with pytest.raises(Permanent, match=r"machine/pages in it is damaged"):
        unpack(made, folder)


@pytest.mark.parametrize(
    "name",
    [
        "../outside",
        "/tmp/outside",
        "machine/../../outside",
        "machine/sub/outside",
        "machine/.hidden",
        "machine/",
        "other/file",
        "machine/a\n",
        "manifest.json",
        "",
    ],
)
def test_a_name_from_outside_is_refused(tmp_path, folder, name):
    made = make(tmp_path / "x", entry(name))
    with pytest.raises(Permanent, match="no archive that this program has made"):
        unpack(made, folder, {name})
    assert list(folder.iterdir()) == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["into", "x"]


@pytest.mark.parametrize(
    "values",
    [
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"type": tarfile.LNKTYPE, "linkname": "../../x"},
        {"type": tarfile.DIRTYPE},
        {"type": tarfile.CHRTYPE},
        {"type": tarfile.GNUTYPE_SPARSE},
        {"type": tarfile.XHDTYPE},
        {"type": tarfile.GNUTYPE_LONGNAME},
        {"name": "../../outside"},
        {"size": 5},
    ],
)
def test_a_member_that_is_not_as_announced_is_refused(tmp_path, folder, values):
    announced = [asdict(Member("machine/pages", 4, sum_of(b"data")))]
    made = make(tmp_path / "x", entry("machine/pages", **values), members=announced)
    with pytest.raises(Permanent, match="no archive that this program has made"):
        unpack(made, folder, {"machine/pages"})
    assert [p for p in folder.rglob("*") if p.is_file()] == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ["into", "x"]


def test_more_or_less_than_announced_is_refused(tmp_path, folder):
    one, other = entry("machine/a"), entry("machine/b")
    announced = [asdict(Member("machine/a", 4, sum_of(b"data")))]
    with pytest.raises(Permanent, match="more in it"):
        unpack(make(tmp_path / "more", one, other, members=announced), folder, ())
    with pytest.raises(Permanent, match="more in it"):
        unpack(make(tmp_path / "tail", one, end=archive._END + b"x"), folder, ())
    with pytest.raises(Permanent, match="ends too early"):
        unpack(make(tmp_path / "less", members=announced, end=b""), folder, ())
    with pytest.raises(Permanent, match="no archive that"):
        unpack(make(tmp_path / "twice", one, one), folder, ())


def test_a_small_file_cannot_fill_the_memory(tmp_path, folder):
    bomb = [asdict(Member("machine/pages", 1 << 40, "00" * 32))]
    info = entry("machine/pages")[0]
    info.size = 1 << 40
    made = make(tmp_path / "x", (info, bytes(64 << 20)), members=bomb)
    found = archive.load(made, Work())
    stepped = []
    with pytest.raises(Permanent, match="ends too early"):
        archive.extract(found, folder, (), Work(stepped.append))
    assert max(stepped) <= archive._CHUNK


def change(**values):
    return lambda document: document | {"content": document["content"] | values}


@pytest.mark.parametrize(
    "manifest",
    [
        lambda _: b"",
        lambda _: b"[]",
        lambda _: b"{" * 5000,
        lambda _: b"[" * 100_000,
        lambda _: b" " * (archive._MAX_MANIFEST + 1),
        lambda document: {"format": FORMAT},
        lambda document: document | {"members": [{}]},
        lambda document: document | {"members": [asdict(Member("machine/a", -1, "00" * 32))]},
        lambda document: document | {"members": [asdict(Member(f"machine/a{n}", 0, "00")) for n in range(9)]},
        change(image="../x"),
        change(driver=None),
        change(disk="x"),
        change(created="now"),
        change(created=float("nan")),
        change(pause=-1),
        change(shape={"memory": 0, "vcpus": 1}),
        change(shape={"memory": 10**30, "vcpus": 1}),
        change(keys={"server_public": "x"}),
        change(keys=asdict(KEYS) | {"client_secret": "\n" * 40}),
        change(needs=[]),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(tmp_path, manifest):
    made = make(tmp_path / "x", manifest=manifest)
    with pytest.raises(Permanent, match="no archive that this program has made"):
        archive.load(made, Work())


def test_a_later_format_is_named(tmp_path):
    made = make(tmp_path / "x", manifest=lambda document: document | {"format": 2})
    with pytest.raises(Unsupported, match="another version"):
        archive.load(made, Work())


def test_keys_are_not_shown(path):
    assert "b" * 40 not in repr(archive.load(path, Work()))


def test_nothing_is_overwritten(path, sources):
    before = path.read_bytes()
    with pytest.raises(Conflict, match="already"):
        archive.write(path, CONTENT, sources, Work())
    assert path.read_bytes() == before
    with pytest.raises(NotFound, match="no folder"):
        archive.write(path / "sub" / "x", CONTENT, sources, Work())


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_one_that_fails_leaves_nothing(tmp_path, sources, steps):
    left = [steps]

    def told(_):
        left[0] -= 1
        if not left[0]:
            raise OSError(28, "No space left on device")

    target = tmp_path / "to" / "x"
    target.parent.mkdir()
    with pytest.raises((Exhausted, OSError), match="No space left"):
        archive.write(target, CONTENT, sources, Work(told))
    assert list(target.parent.iterdir()) == []


def test_a_dead_draft_goes_and_a_living_one_stays(tmp_path, sources):
    target = tmp_path / "[x]"
    (tmp_path / ".new-[x]-dead").touch()
    (tmp_path / ".new-other-dead").touch()
    with archive._draft(target) as living:
        with contextlib.suppress(Permanent), archive._draft(target):
            assert os.path.exists(living.name)
            raise Permanent
        archive.write(tmp_path / "y", CONTENT, sources, Work())
        assert os.fstat(living.fileno()).st_nlink == 1
    assert sorted(p.name for p in tmp_path.glob("*") if p.is_file()) == [".new-other-dead", "[x]", "y"]


def test_cancelled_work_ends_before_its_caller_goes_on():
    begun, ended = threading.Event(), []

    def forever(work):
        try:
            while True:
                begun.set()
                work.step(1)
        except Stopped:
            ended.append(True)
            raise

    async def cancel():
        work = Work()
        task = asyncio.create_task(work.run(lambda: forever(work)))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended

    asyncio.run(cancel())


def test_a_guess_at_the_size_is_of_what_is_like_the_sample():
    assert archive.compressed_size(1000, b"") == 1000
    assert archive.compressed_size(1 << 30, bytes(1 << 20)) < 1 << 20
    noise = os.urandom(1 << 16)
    assert archive.compressed_size(1 << 30, noise) == pytest.approx(1 << 30, rel=0.01)


def test_content_without_keys_has_no_memory():
    assert CONTENT.memory
    assert not replace(CONTENT, keys=None).memory
