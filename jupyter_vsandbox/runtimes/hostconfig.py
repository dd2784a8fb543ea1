"""What a guest inherits from this host so that it can install software: indexes, proxies, certificates.

These are pip's, uv's and apt's own settings and the usual variables of the environment, not knobs of
this project. Whatever points at the host itself (``file:``, loopback addresses) means nothing in a
guest and is left out.
"""

from __future__ import annotations

import ast
import ipaddress
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

GUEST_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
"""The trust store of a Debian guest."""

_BUNDLE_VARIABLES = (
    "SSL_CERT_FILE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "CURL_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
)
_SYSTEM_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
)
_DISTRIBUTION = Path("/usr/share/ca-certificates")
_LOCAL = Path("/usr/local/share/ca-certificates")
_PROXY_VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_PIP_LINE = re.compile(r"(?P<section>[^.=]+)\.(?P<key>[^=]+)=(?P<value>.*)")
_PIP_SECTIONS = {"global": 0, "install": 1, ":env:": 2}
_PIP_PLAIN = ("timeout", "retries")
_APT_LINE = re.compile(r'(?P<key>[\w:.-]+) "(?P<value>.*)";')
_APT_KEYS = re.compile(
    r"Acquire::(?:(?:https?|ftp)::(?:Proxy(?:::.+)?|Timeout|Verify-Peer|Verify-Host)"
    r"|Check-Valid-Until|Check-Date|Retries|ForceIPv4)",
    re.IGNORECASE,
)
_CHILD_SECONDS = 60.0


@dataclass(frozen=True)
class HostConfig:
    """What of the host's configuration goes into a guest.

    Attributes:
        files: text of configuration files by their path in the guest.
        env: variables for the kernel's environment.
        build_env: variables for the programs that run during the build, on this host.
        apt_options: options for apt during the build.
        certificates: PEM blocks that the host trusts beyond its distribution's own.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    build_env: Mapping[str, str] = field(default_factory=dict)
    apt_options: tuple[str, ...] = ()
    certificates: tuple[str, ...] = ()


def read(environ: Mapping[str, str] | None = None) -> HostConfig:
    """Read this host's configuration.

    Args:
        environ: the environment, by default this process's.
    """
    environ = os.environ if environ is None else environ
    pip = pip_settings(_output([sys.executable, "-m", "pip", "config", "list"], environ))
    apt = apt_options(_output(["apt-config", "dump"], environ))
    certificates = _certificates(environ, pip)
    files: dict[str, str] = {}
    if text := pip_conf(pip):
        files["/etc/pip.conf"] = text
    if text := uv_toml(_uv_indexes(environ), pip):
        files["/etc/uv/uv.toml"] = text
    if guest_apt := [option for option in apt if not _is_local_option(option)]:
        files["/etc/apt/apt.conf.d/90host"] = "".join(f"{option};\n" for option in guest_apt)
    proxies = {
        key: value
        for key, value in environ.items()
        if key.lower() in _PROXY_VARIABLES and value.isprintable()
    }
    env = {key: value for key, value in proxies.items() if key.lower() == "no_proxy" or not is_local(value)}
    bundles = {key for key in _BUNDLE_VARIABLES if environ.get(key)}
    if certificates:
        bundles |= {"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"}
    env |= dict.fromkeys(sorted(bundles), GUEST_BUNDLE)
    return HostConfig(files, env, proxies, tuple(apt), tuple(certificates))


def is_local(address: str) -> bool:
    """Whether an index's, a proxy's or a folder's address means something on this host only."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    if "://" not in address and (address.startswith(("/", ".", "~", "file:")) or ":" not in address):
        return True
    if parts.scheme == "file":
        return True
    host = parts.hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in {"", "localhost"} or host.endswith(".localhost")


def pip_settings(listing: str) -> dict[str, str]:
    """The settings in the output of ``pip config list``, the one that counts for ``pip install`` of each."""
    ranked: dict[str, tuple[int, str]] = {}
    for line in listing.splitlines():
        match = _PIP_LINE.fullmatch(line.strip())
        if match is None or match["section"] not in _PIP_SECTIONS:
            continue
        try:
            value = ast.literal_eval(match["value"])
        except (ValueError, SyntaxError):
            continue
        key = match["key"].replace("_", "-").lower()
        rank = _PIP_SECTIONS[match["section"]]
        if key not in ranked or ranked[key][0] <= rank:
            ranked[key] = (rank, str(value))
    settings = {key: value for key, (_, value) in ranked.items()}
    if "default-timeout" in settings:
        settings.setdefault("timeout", settings.pop("default-timeout"))
    return settings


def pip_conf(settings: Mapping[str, str]) -> str:
    """The guest's ``pip.conf``, "" where there is nothing to say."""
    lines: list[str] = []
    for key in ("index-url", "extra-index-url", "find-links", "proxy"):
        addresses = [address for address in settings.get(key, "").split() if not is_local(address)]
        if addresses:
            lines.append(f"{key} = " + "\n    ".join(addresses))
    if hosts := settings.get("trusted-host", "").split():
        lines.append("trusted-host = " + "\n    ".join(hosts))
    lines += [f"{key} = {settings[key]}" for key in _PIP_PLAIN if settings.get(key, "").strip()]
    # pip brings certificates of its own; only this makes it trust the guest's.
    lines.append(f"cert = {GUEST_BUNDLE}")
    lines.append("disable-pip-version-check = true")
    return "[global]\n" + "\n".join(lines) + "\n"


def uv_toml(uv: Mapping[str, list[str]], pip: Mapping[str, str]) -> str:
    """The guest's ``uv.toml``.

    Args:
        uv: the host's uv indexes, under the keys ``default`` and ``extra``.
        pip: the host's pip settings, used where uv has no indexes of its own.
    """
    default = uv.get("default") or pip.get("index-url", "").split()
    extra = uv.get("extra") or pip.get("extra-index-url", "").split()
    lines = ["native-tls = true"]
    if hosts := pip.get("trusted-host", "").split():
        lines.append(f"allow-insecure-host = {json.dumps(hosts)}")
    for address in extra:
        if not is_local(address):
            lines += ["", "[[index]]", f"url = {json.dumps(address)}"]
    for address in default[:1]:
        if not is_local(address):
            lines += ["", "[[index]]", f"url = {json.dumps(address)}", "default = true"]
    return "\n".join(lines) + "\n"


def apt_options(dump: str) -> list[str]:
    """Those options in the output of ``apt-config dump`` that reaching an archive depends on."""
    options = []
    for line in dump.splitlines():
        match = _APT_LINE.fullmatch(line.strip())
        if match and match["value"] and _APT_KEYS.fullmatch(match["key"]):
            options.append(f'{match["key"]} "{match["value"]}"')
    return options


def certificates_in(text: str) -> list[str]:
    """The PEM certificate blocks in `text`."""
    return _CERTIFICATE.findall(text)


def _is_local_option(option: str) -> bool:
    key, _, value = option.partition(" ")
    value = value.strip('"')
    return "proxy" in key.lower() and value != "DIRECT" and is_local(value)


def _certificates(environ: Mapping[str, str], pip: Mapping[str, str]) -> list[str]:
    """What the host trusts and its distribution does not bring, each certificate once."""
    distribution = _blocks(_DISTRIBUTION.rglob("*.crt"))
    paths = [Path(path) for path in _SYSTEM_BUNDLES]
    paths += [Path(environ[key]) for key in _BUNDLE_VARIABLES if environ.get(key)]
    if "cert" in pip:
        paths.append(Path(pip["cert"]))
    paths += sorted(_LOCAL.rglob("*.crt"))
    known = {_body(block) for block in distribution}
    found: list[str] = []
    for block in _blocks(paths):
        if _body(block) not in known:
            known.add(_body(block))
            found.append(block)
    return found


def _blocks(paths: Iterable[Path]) -> list[str]:
    blocks: list[str] = []
    for path in dict.fromkeys(paths):
        try:
            blocks += certificates_in(path.read_text(encoding="ascii", errors="replace"))
        except OSError:
            continue
    return blocks


def _body(block: str) -> str:
    return "".join(block.split())


def _uv_indexes(environ: Mapping[str, str]) -> dict[str, list[str]]:
    default = environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL") or ""
    extra = f"{environ.get('UV_INDEX', '')} {environ.get('UV_EXTRA_INDEX_URL', '')}"
    indexes = {
        "default": [_without_name(word) for word in default.split()],
        "extra": [_without_name(word) for word in extra.split()],
    }
    config = environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME', '')}/.config"
    for path in (Path(config, "uv", "uv.toml"), Path("/etc/uv/uv.toml")):
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        entries = document.get("index", [])
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and isinstance(entry.get("url"), str):
                kind = "default" if entry.get("default") is True else "extra"
                indexes[kind].append(entry["url"])
        if isinstance(address := document.get("index-url"), str):
            indexes["default"].append(address)
        if isinstance(addresses := document.get("extra-index-url"), list):
            indexes["extra"] += [address for address in addresses if isinstance(address, str)]
    return indexes


def _without_name(index: str) -> str:
    """uv allows ``NAME=ADDRESS``."""
    return re.sub(r"^[A-Za-z0-9_.-]+=(?=[a-z]+:)", "", index)


def _output(command: list[str], environ: Mapping[str, str]) -> str:
    """What `command` prints, "" where it does not exist or fails: the host simply has no such settings."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=dict(environ), timeout=_CHILD_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
