"""What a guest tells of its disk and its kernel's variables."""

import base64
import collections
import enum
import json
import os
import pwd
import sys
import threading
import time
import types
import zlib

import pytest

from jupyter_vsandbox.guest import inventory, variables


class TestFiles:
    def test_files_and_links_are_listed_with_their_facts(self, tmp_path):
        (tmp_path / "sub").mkdir()
        (tmp_path / "sub" / "a").write_text("12345")
        (tmp_path / "link").symlink_to("sub/a")
        os.mkfifo(tmp_path / "pipe")
        found = {path: facts for path, *facts in inventory.files(str(tmp_path))}
        assert set(found) == {str(tmp_path / "sub" / "a"), str(tmp_path / "link")}
        stat = (tmp_path / "sub" / "a").stat()
        assert found[str(tmp_path / "sub" / "a")] == [5, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_mode]

    def test_what_changes_by_itself_is_left_out(self, tmp_path):
        for name in ("__pycache__/x.pyc", ".cache/pip", "logs/a", "profile_default/history.sqlite-journal"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "profile_default" / "startup.py").touch()
        found = inventory.files(str(tmp_path), {str(tmp_path / "logs")})
        assert [path for path, *_ in found] == [str(tmp_path / "profile_default" / "startup.py")]

    def test_other_file_systems_are_left_out(self):
        assert not [
            path for path, *_ in inventory.files("/proc", ()) if path.startswith("/proc/sys/fs/binfmt")
        ]

    def test_a_folder_that_is_gone_is_empty(self, tmp_path):
        assert list(inventory.files(str(tmp_path / "gone"))) == []


class TestPackages:
    @pytest.fixture
    def spec(self):
        user = pwd.getpwuid(os.getuid()).pw_name
        return {"language": "python", "argv": [sys.executable, "-m", "x"], "env": {}, "user": user}

    @pytest.fixture(autouse=True)
    def same_user(self, monkeypatch):
        monkeypatch.setattr(inventory.kernel, "as_user", lambda name: None)

    def test_they_are_those_of_the_kernels_interpreter(self, spec, tmp_path):
        info = tmp_path / "Made_Up-7.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Made_Up\nVersion: 7.0\n")
        spec["env"] = {"PYTHONPATH": str(tmp_path)}
        found = inventory.packages(spec)
        assert found["Made_Up"] == "7.0"
        assert "pytest" in found

    def test_another_language_or_a_broken_interpreter_has_none(self, spec, tmp_path):
        assert inventory.packages(dict(spec, language="R")) is None
        assert inventory.packages(dict(spec, argv=[str(tmp_path / "gone")])) is None
        assert inventory.packages(dict(spec, argv=["false"])) is None

    def test_the_document_can_be_unpacked(self):
        assert json.loads(zlib.decompress(base64.b64decode(inventory.pack({"a": ["\udce4"]})))) == {
            "a": ["\udce4"]
        }


Pair = collections.namedtuple("Pair", "a b")


class Plain:
    def __init__(self, value):
        self.value = value


class Colour(enum.Enum):
    RED = 1


class Foreign:
    """Runs code of its own when it is pickled, which must not happen."""

    calls = 0

    def __reduce__(self):
        type(self).calls += 1
        return (Foreign, ())


class Proxy:
    """Answers whatever it is asked for, perhaps by a request over the network."""

    def __getattr__(self, name):
        raise AssertionError(f"asked for {name}")


def fingerprint(value):
    return variables.fingerprint(value, 0, time.monotonic() + 60)


def in_main(code, name):
    """What `code` defines as `name`, as a cell of a notebook does."""
    space = {"__name__": "__main__"}
    exec(code, space)
    return space[name]


class TestFingerprint:
    @pytest.mark.parametrize(
        ("value", "equal", "other"),
        [
            (1, 1, 2),
            ("a", "a", "b"),
            ([1, {"k": b"v"}], [1, {"k": b"v"}], [1, {"k": b"w"}]),
            ({"x", "y", "z"}, {"z", "x", "y"}, {"x", "y"}),
            (Pair(1, 2), Pair(1, 2), Pair(1, 3)),
            (Plain([1]), Plain([1]), Plain([2])),
            (Colour.RED, Colour.RED, 1),
            (types.SimpleNamespace(a=1), types.SimpleNamespace(a=1), types.SimpleNamespace(a=2)),
            (bytearray(5 << 20), bytearray(5 << 20), bytearray((5 << 20) - 1) + b"1"),
            (json, json, os),
            (len, len, abs),
        ],
    )
    def test_equal_content_has_equal_ones(self, value, equal, other):
        assert fingerprint(value) is not None
        assert fingerprint(value) == fingerprint(equal) != fingerprint(other)

    @pytest.mark.parametrize(
        ("code", "same", "other"),
        [
            ("def f(x): return x", "\n\ndef f(x): return x", "def f(x): return -x"),
            ("def f(x=1): pass", "def f(x=1): pass", "def f(x=2): pass"),
            ("def f(x): return f(x)", "def f(x): return f(x)", "def f(x): return g(x)"),
            (
                "def f(): return [i for i in x]",
                "def f(): return [i for i in x]",
                "def f(): return [j for j in y]",
            ),
            (
                "class f:\n  def m(self): return 1",
                "class f:\n  def m(self): return 1",
                "class f:\n  def m(self): return 2",
            ),
            (
                "class f:\n  @property\n  def p(self): 1",
                "class f:\n  @property\n  def p(self): 1",
                "class f: pass",
            ),
        ],
    )
    def test_code_in_a_notebook_goes_by_what_it_does(self, code, same, other):
        first = fingerprint(in_main(code, "f"))
        assert first is not None
        assert first == fingerprint(in_main(same, "f")) != fingerprint(in_main(other, "f"))

    @pytest.mark.parametrize(
        "value", [threading.Lock(), (i for i in ()), sys.stdout, Foreign(), [Foreign()], [].append]
    )
    def test_what_cannot_be_told_without_a_risk_has_none(self, value):
        assert fingerprint(value) is None
        assert Foreign.calls == 0

    def test_a_proxy_is_not_asked_for_anything(self):
        assert fingerprint(Proxy()) is None
        assert variables.variables({"proxy": Proxy()})["proxy"][2] is None

    def test_a_loop_ends(self):
        loop = []
        loop.append(loop)
        deep = []
        for _ in range(100_000):
            deep = [deep]
        assert fingerprint(loop) is not None
        assert fingerprint(deep) is None

    def test_too_much_has_none(self, monkeypatch):
        assert variables.fingerprint(1, variables.MAX_BYTES + 1, time.monotonic() + 60) is None
        assert variables.fingerprint(1, 0, time.monotonic() - 1) is None
        monkeypatch.setattr(variables, "MAX_BYTES", 1000)
        assert fingerprint(["x" * 600, "y" * 600]) is None
        monkeypatch.setattr(variables, "MAX_OBJECTS", 2000)
        assert fingerprint(list(range(10_000))) is None


class TestVariables:
    def test_they_are_those_that_who_shows(self):
        mine = [1]
        space = {"a": 1, "_b": 2, "exit": mine, "In": mine, 5: 6}
        assert set(variables.variables(space, {"exit": mine, "In": []})) == {"a", "In"}

    def test_type_and_size_are_told(self):
        text = "x" * 1000
        found = variables.variables({"text": text, "plain": Plain(1)})
        assert found["text"][:2] == ["str", sys.getsizeof(text)]
        assert found["plain"][0] == f"{__name__}.Plain"

    def test_those_that_come_too_late_have_no_fingerprint(self):
        assert [each[2] for each in variables.variables({"a": 1, "b": "2"}, seconds=-1).values()] == [
            None,
            None,
        ]

    def test_a_report_is_json_and_leaves_its_namespace_alone(self):
        space = {"a": 1}
        assert set(json.loads(repr(variables.Report(space)))) == {"a"}
        assert space == {"a": 1}
