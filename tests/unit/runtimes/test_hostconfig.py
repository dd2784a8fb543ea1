"""What a guest inherits from its host, and what it must not."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jupyter_vsandbox.runtimes import hostconfig
from jupyter_vsandbox.runtimes.hostconfig import GUEST_BUNDLE

PEM = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"
PIP = """\
:env:.index-url='https://env.example.org/simple'
:env:.default-timeout='180'
global.cert='/etc/company.pem'
global.extra-index-url='file:///srv/simple\\nhttps://extra.example.org/simple http://localhost:3141/x'
global.find-links='/srv/wheels'
global.index-url='https://global.example.org/simple'
global.trusted-host='env.example.org'
install.proxy='http://proxy.example.org:3128'
list.format='columns'
"""


@pytest.fixture(autouse=True)
def bare_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host without certificates or settings of its own."""
    monkeypatch.setattr(hostconfig, "_output", lambda command, environ: "")
    monkeypatch.setattr(hostconfig, "_SYSTEM_BUNDLES", ())
    monkeypatch.setattr(hostconfig, "_DISTRIBUTION", tmp_path / "distribution")
    monkeypatch.setattr(hostconfig, "_LOCAL", tmp_path / "local")


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("https://example.org/simple", False),
        ("http://10.0.0.1:3128", False),
        ("proxy.example.org:3128", False),
        ("https://user:word@example.org/simple", False),
        ("file:///srv/simple", True),
        ("/srv/wheels", True),
        ("./wheels", True),
        ("wheels", True),
        ("http://localhost:3141/", True),
        ("http://127.0.0.1:3141/", True),
        ("http://[::1]:3141/", True),
        ("localhost:3128", True),
    ],
)
def test_addresses_that_mean_something_on_the_host_only(address: str, local: bool) -> None:
    assert hostconfig.is_local(address) is local


def test_pip_settings_are_merged_as_pip_does() -> None:
    settings = hostconfig.pip_settings(PIP)
    assert settings["index-url"] == "https://env.example.org/simple"
    assert settings["timeout"] == "180"
    assert "format" not in settings


def test_the_guests_pip_has_the_hosts_indexes_and_nothing_local() -> None:
    text = hostconfig.pip_conf(hostconfig.pip_settings(PIP))
    assert "index-url = https://env.example.org/simple" in text
    assert "extra-index-url = https://extra.example.org/simple\n" in text
    assert "trusted-host = env.example.org" in text
    assert "proxy = http://proxy.example.org:3128" in text
    assert "timeout = 180" in text
    assert f"cert = {GUEST_BUNDLE}" in text
    for local in ("file:", "localhost", "/srv", "company", "global.example"):
        assert local not in text


def test_uv_has_its_own_indexes_or_pips() -> None:
    pip = hostconfig.pip_settings(PIP)
    from_pip = tomllib.loads(hostconfig.uv_toml({}, pip))
    assert from_pip["index"] == [
        {"url": "https://extra.example.org/simple"},
        {"url": "https://env.example.org/simple", "default": True},
    ]
    own = tomllib.loads(hostconfig.uv_toml({"default": ["https://uv.example.org/simple"], "extra": []}, pip))
    assert own["index"][-1] == {"url": "https://uv.example.org/simple", "default": True}
    assert "index" not in tomllib.loads(hostconfig.uv_toml({}, {}))


def test_apt_options_are_only_those_that_reach_an_archive() -> None:
    dump = (
        'Acquire::http::Proxy "http://localhost:3142";\nAcquire::https::Proxy "http://p.example.org:1";\n'
        'Acquire::Check-Valid-Until "false";\nAcquire::http::Proxy "";\nDir::Etc "etc/apt";\n'
        'APT::Default-Release "x";\n'
    )
    assert hostconfig.apt_options(dump) == [
        'Acquire::http::Proxy "http://localhost:3142"',
        'Acquire::https::Proxy "http://p.example.org:1"',
        'Acquire::Check-Valid-Until "false"',
    ]


def test_a_local_proxy_serves_the_build_but_not_the_guest(monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = {"apt-config": 'Acquire::http::Proxy "http://localhost:3142";\nAcquire::Retries "3";\n'}
    monkeypatch.setattr(hostconfig, "_output", lambda command, environ: outputs.get(command[0], ""))
    environ = {
        "http_proxy": "http://127.0.0.1:8080",
        "HTTPS_PROXY": "http://p.example.org:1",
        "no_proxy": "localhost",
    }
    config = hostconfig.read(environ)
    assert config.build_env == environ
    assert config.env == {"HTTPS_PROXY": "http://p.example.org:1", "no_proxy": "localhost"}
    assert config.files["/etc/apt/apt.conf.d/90host"] == 'Acquire::Retries "3";\n'
    assert 'Acquire::http::Proxy "http://localhost:3142"' in config.apt_options


def test_certificates_beyond_the_distributions_are_passed_on(tmp_path: Path) -> None:
    for folder, body in (("distribution", "ZGlzdHJv"), ("local", "bG9jYWw=")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.crt").write_text(PEM.format(body))
    bundle = tmp_path / "bundle.pem"
    bundle.write_text("# comment\n" + PEM.format("ZGlzdHJv") + PEM.format("Y29tcGFueQ==") * 2)
    config = hostconfig.read({"SSL_CERT_FILE": str(bundle), "PIP_CERT": "/does/not/exist"})
    assert [block.splitlines()[1] for block in config.certificates] == ["Y29tcGFueQ==", "bG9jYWw="]
    assert config.env == {
        "SSL_CERT_FILE": GUEST_BUNDLE,
        "PIP_CERT": GUEST_BUNDLE,
        "REQUESTS_CA_BUNDLE": GUEST_BUNDLE,
    }


def test_a_host_with_nothing_special_passes_nothing_on() -> None:
    config = hostconfig.read({})
    assert config.certificates == ()
    assert config.env == {}
    assert config.apt_options == ()


def test_this_hosts_real_settings_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    files = hostconfig.read({**os.environ, "PIP_INDEX_URL": "https://env.example.org/simple"}).files
    assert "index-url = https://env.example.org/simple" in files["/etc/pip.conf"]
    assert tomllib.loads(files["/etc/uv/uv.toml"])["native-tls"] is True


def test_the_guest_learns_certificates_that_it_lacks(tmp_path: Path) -> None:
    script = Path(hostconfig.__file__).parent / "assets" / "trust.py"
    (tmp_path / "host.pem").write_text(PEM.format("a25vd24=") + PEM.format("bmV3") + PEM.format("bmV3"))
    (tmp_path / "bundle.pem").write_text(PEM.format("a25vd24="))
    command = [sys.executable, script, tmp_path / "host.pem", tmp_path / "bundle.pem", tmp_path / "out"]
    subprocess.run(command, check=True)
    assert [path.read_text() for path in (tmp_path / "out").iterdir()] == [PEM.format("bmV3")]
