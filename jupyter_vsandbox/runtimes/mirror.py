"""The Debian archive that this host already uses, for building systems of any release from it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from jupyter_vsandbox.domain.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DEBIAN_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"

_RELEASES = frozenset(
    [
        "jessie",
        "stretch",
        "buster",
        "bullseye",
        "bookworm",
        "trixie",
        "forky",
        "duke",
        "sid",
        "oldoldstable",
        "oldstable",
        "stable",
        "testing",
        "unstable",
    ]
)
_ROLLING = frozenset({"sid", "unstable", "experimental"})
_OLD_SECURITY = frozenset({"jessie", "stretch", "buster"})
_SCHEMES = frozenset({"http", "https", "mirror", "mirror+http", "mirror+https"})
_POCKET = re.compile(r"(?P<release>[a-z]+)(?P<pocket>-updates|-security|/updates)?/?")
_OPTION = re.compile(r"\[(?P<options>[^\]]*)\]")


@dataclass(frozen=True)
class Source:
    """One line of an apt sources list.

    Attributes:
        uri: where the archive is.
        suite: the release, or a pocket of it such as ``bookworm-security``.
        components: for instance ``("main",)``.
        signed_by: path of the keyring, "" for apt's own trusted keys.
    """

    uri: str
    suite: str
    components: tuple[str, ...] = ("main",)
    signed_by: str = ""

    def line(self, signed_by: str | None = None) -> str:
        """The source in apt's one-line format, optionally with another keyring's path."""
        keyring = self.signed_by if signed_by is None else signed_by
        option = f"[signed-by={keyring}] " if keyring else ""
        return f"deb {option}{self.uri} {self.suite} {' '.join(self.components)}"


def sources_for(suite: str, apt: Path = Path("/etc/apt"), override: str = "") -> list[Source]:
    """The sources to build `suite` from, the release itself first.

    Args:
        suite: a Debian release name.
        apt: the host's apt configuration folder.
        override: the ``mirror`` setting: one URI, or the main archive's and the security archive's
            with a blank between; used in place of the host's sources.

    Raises:
        Unsupported: the host's sources name no Debian archive and there is no override.
    """
    if override:
        return _chosen(suite, override)
    found = list(_debian(host_sources(apt)))
    pockets: dict[str, Source] = {}
    for pocket in ("", "-updates", "-security"):
        candidates = [source for source, its in found if its == pocket]
        if candidates:
            pockets[pocket] = max(candidates, key=_trust)
    if "" not in pockets:
        raise Unsupported(
            f"No Debian archive was found in {apt}/sources.list or {apt}/sources.list.d, so {suite!r} cannot "
            "be built here. Set JUPYTER_VSANDBOX_MIRROR to a Debian archive's address (optionally followed "
            f"by a blank and the security archive's) and install {DEBIAN_KEYRING} "
            "(`apt install debian-archive-keyring`)."
        )
    if suite in _ROLLING:
        pockets = {"": pockets[""]}
    return [
        replace(source, suite=suite + _pocket(suite, pocket), components=("main",))
        for pocket, source in pockets.items()
    ]


def host_sources(apt: Path) -> list[Source]:
    """All enabled binary sources of the host, in apt's order."""
    sources: list[Source] = []
    for path in (apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))):
        if path.suffix not in {".list", ".sources"} or not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        sources += _deb822(text) if path.suffix == ".sources" else _one_line(text)
    return sources


def _chosen(suite: str, override: str) -> list[Source]:
    main, *security = override.split()
    for uri in (main, *security):
        if urlsplit(uri).scheme not in _SCHEMES or len(security) > 1:
            raise Unsupported(
                f"JUPYTER_VSANDBOX_MIRROR is {override!r}; it must be one or two addresses "
                "that start with http:// or https://."
            )
    sources = [Source(main, suite, signed_by=DEBIAN_KEYRING)]
    if security and suite not in _ROLLING:
        sources.append(Source(security[0], suite + _pocket(suite, "-security"), signed_by=DEBIAN_KEYRING))
    return sources


def _pocket(suite: str, pocket: str) -> str:
    return "/updates" if pocket == "-security" and suite in _OLD_SECURITY else pocket


def _debian(sources: Iterable[Source]) -> Iterator[tuple[Source, str]]:
    """The sources that are Debian's own archive, each with its pocket, such as ``-updates``."""
    for source in sources:
        match = _POCKET.fullmatch(source.suite)
        if (
            match is None
            or match["release"] not in _RELEASES
            or "main" not in source.components
            or urlsplit(source.uri).scheme not in _SCHEMES
        ):
            continue
        pocket = match["pocket"] or ""
        yield source, "-security" if pocket == "/updates" else pocket


def _trust(source: Source) -> int:
    """How likely this is Debian itself; others publish under Debian's release names too."""
    if "debian-archive" in source.signed_by:
        return 2
    return 0 if source.signed_by else 1


def _one_line(text: str) -> Iterator[Source]:
    for raw in text.splitlines():
        line = raw.split("#", 1)[0].strip()
        if not line.startswith("deb "):
            continue
        options = _OPTION.search(line)
        signed_by = ""
        if options is not None:
            line = line.replace(options[0], " ", 1)
            for option in options["options"].split():
                key, _, value = option.partition("=")
                if key.lower() == "signed-by":
                    signed_by = _keyring(value)
        words = line.split()
        if len(words) >= 3:
            yield Source(words[1], words[2], tuple(words[3:]), signed_by)


def _deb822(text: str) -> Iterator[Source]:
    for paragraph in re.split(r"\n[ \t]*(?:\n|$)", text):
        fields: dict[str, str] = {}
        key = ""
        for line in paragraph.splitlines():
            if line.startswith("#") or not line.strip():
                continue
            if line[0] in " \t" and key:
                fields[key] += "\n" + line.strip()
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        off = fields.get("enabled", "yes").lower() in {"no", "false"}
        if off or "deb" not in fields.get("types", "").split():
            continue
        components = tuple(fields.get("components", "").split())
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(uri, suite, components, _keyring(fields.get("signed-by", "")))


def _keyring(value: str) -> str:
    """A keyring's path; keys written out in the sources file and fingerprints count as none."""
    first = value.replace(",", " ").split()
    return first[0] if first and first[0].startswith("/") else ""
