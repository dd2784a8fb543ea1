"""Finding the Debian archive in a host's apt configuration."""

from pathlib import Path

import pytest

from jupyter_vsandbox.domain.errors import Unsupported
from jupyter_vsandbox.runtimes.mirror import DEBIAN_KEYRING, Source, sources_for

DEB822 = """\
# A comment
Types: deb deb-src
# Another one
URIs: https://mirror.example.org/debian
Suites: bookworm bookworm-updates
Components: main
  contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: https://mirror.example.org/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


def apt(tmp_path: Path, **files: str) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        stem, _, suffix = name.rpartition("_")
        folder = tmp_path if stem == "main" else tmp_path / "sources.list.d"
        (folder / f"{'sources' if stem == 'main' else stem}.{suffix}").write_text(text)
    return tmp_path


def lines(sources: list[Source]) -> list[str]:
    return [source.line("") for source in sources]


def test_deb822_sources_are_read_and_the_suite_is_swapped(tmp_path: Path) -> None:
    found = sources_for("trixie", apt(tmp_path, debian_sources=DEB822))
    assert lines(found) == [
        "deb https://mirror.example.org/debian trixie main",
        "deb https://mirror.example.org/debian trixie-updates main",
        "deb https://mirror.example.org/debian-security trixie-security main",
    ]
    assert {source.signed_by for source in found} == {DEBIAN_KEYRING}


def test_one_line_sources_are_read(tmp_path: Path) -> None:
    text = (
        "# deb http://no.example.org/debian bookworm main\n"
        "deb-src http://no.example.org/debian bookworm main\n"
        "deb [ arch=amd64 signed-by=/etc/keys/a.gpg ] http://a.example.org/debian bookworm main # end\n"
        "deb [trusted=yes] http://a.example.org/debian bookworm-security main\n"
    )
    assert sources_for("bullseye", apt(tmp_path, main_list=text)) == [
        Source("http://a.example.org/debian", "bullseye", ("main",), "/etc/keys/a.gpg"),
        Source("http://a.example.org/debian", "bullseye-security", ("main",), ""),
    ]


@pytest.mark.parametrize("suite", ["sid", "unstable"])
def test_a_rolling_suite_has_no_updates_and_no_security(tmp_path: Path, suite: str) -> None:
    found = sources_for(suite, apt(tmp_path, debian_sources=DEB822))
    assert lines(found) == [f"deb https://mirror.example.org/debian {suite} main"]


def test_old_releases_name_their_security_pocket_otherwise(tmp_path: Path) -> None:
    assert sources_for("buster", apt(tmp_path, debian_sources=DEB822))[-1].suite == "buster/updates"


def test_only_pockets_that_the_host_has_are_used(tmp_path: Path) -> None:
    text = "deb http://a.example.org/debian bookworm main\n"
    assert [source.suite for source in sources_for("trixie", apt(tmp_path, main_list=text))] == ["trixie"]


@pytest.mark.parametrize(
    "other",
    [
        "deb http://other.example.org/apt bookworm stable",
        "deb http://other.example.org/apt vendor-bookworm main",
        "deb http://other.example.org/apt bookworm-backports main",
        "deb [signed-by=/usr/share/keyrings/vendor.gpg] http://other.example.org/apt bookworm main",
        "deb file:/srv/mirror bookworm main",
        "deb cdrom:[Debian]/ bookworm main",
    ],
)
def test_other_publishers_under_debian_names_are_not_taken_for_debian(tmp_path: Path, other: str) -> None:
    found = sources_for("trixie", apt(tmp_path, a_list=other + "\n", b_sources=DEB822))
    assert {source.uri for source in found} == {
        "https://mirror.example.org/debian",
        "https://mirror.example.org/debian-security",
    }


@pytest.mark.parametrize("off", ["Enabled: no", "Types: deb-src", "URIs: file:/srv/mirror"])
def test_sources_that_are_off_do_not_count(tmp_path: Path, off: str) -> None:
    text = f"Types: deb\nURIs: http://a.example.org/debian\nSuites: bookworm\nComponents: main\n{off}\n"
    with pytest.raises(Unsupported, match="JUPYTER_VSANDBOX_MIRROR"):
        sources_for("bookworm", apt(tmp_path, a_sources=text))


def test_a_key_written_into_the_sources_file_is_not_a_path(tmp_path: Path) -> None:
    key = "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----\n"
    text = f"Types: deb\nURIs: http://a.example.org/debian\nSuites: trixie\nComponents: main\n{key}"
    assert sources_for("trixie", apt(tmp_path, a_sources=text))[0].signed_by == ""


def test_a_host_without_debian_sources_is_told_what_to_set(tmp_path: Path) -> None:
    folder = apt(tmp_path, main_list="deb http://other.example.org/ubuntu jammy main\n")
    with pytest.raises(Unsupported, match=r"JUPYTER_VSANDBOX_MIRROR.*debian-archive-keyring"):
        sources_for("bookworm", folder)
    with pytest.raises(Unsupported, match="bookworm"):
        sources_for("bookworm", tmp_path / "missing")


def test_the_setting_wins_over_the_host(tmp_path: Path) -> None:
    both = "https://my.example.org/debian https://my.example.org/security"
    found = sources_for("trixie", apt(tmp_path, debian_sources=DEB822), override=both)
    assert [(source.uri, source.suite) for source in found] == [
        ("https://my.example.org/debian", "trixie"),
        ("https://my.example.org/security", "trixie-security"),
    ]
    assert {source.signed_by for source in found} == {DEBIAN_KEYRING}
    assert [source.suite for source in sources_for("sid", tmp_path, override=both)] == ["sid"]


@pytest.mark.parametrize("wrong", ["my.example.org/debian", "/srv/mirror", "https://a https://b https://c"])
def test_a_setting_that_is_no_address_is_refused(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(Unsupported, match="must be one or two addresses"):
        sources_for("trixie", tmp_path, override=wrong)
