"""What a failed build's log means, as one error that says what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain.errors import (
    Exhausted,
    InvalidRequest,
    Permanent,
    SandboxError,
    Transient,
    Unsupported,
)

if TYPE_CHECKING:
    from jupyter_vsandbox.runtimes.process import Log
    from jupyter_vsandbox.runtimes.recipe import Recipe


@dataclass(frozen=True)
class _Cause:
    """One way to fail.

    Attributes:
        pattern: what the log then says; its first group that matched is ``{0}`` in the texts.
        kind: the error to raise.
        problem: what happened; may name ``{suite}``.
        mend: what to do about it.
    """

    pattern: re.Pattern[str]
    kind: type[SandboxError]
    problem: str
    mend: str


# The first that fits counts: a full disk or a dead network also make other things fail.
_CAUSES = tuple(
    _Cause(re.compile(pattern, re.MULTILINE), kind, problem, mend)
    for pattern, kind, problem, mend in (
        (
            r"No space left on device|Disk quota exceeded|You don't have enough free space",
            Exhausted,
            "the disk is full",
            "Free some space and build again.",
        ),
        (
            r"Temporary failure (?:in name resolution|resolving)|Could not resolve|NameResolutionError"
            r"|NewConnectionError|Could not connect|Connection (?:failed|timed out|refused)"
            r"|Network is unreachable|Read timed out|ConnectTimeoutError|ConnectionResetError"
            r"|Hash Sum mismatch",
            Transient,
            "the network, or what it leads to, failed",
            "Check the network and the proxy and index settings of apt and pip, then build again.",
        ),
        (
            r"(?:Unable to locate package|Couldn't find any package by (?:glob|regex)) '?([^\s']+)"
            r"|Package '?([^\s']+)'? has no installation candidate",
            InvalidRequest,
            "Debian {suite} has no package {0!r}",
            "Correct the recipe's base.packages.",
        ),
        (
            r"Version '([^']+)' for '[^']+' was not found",
            InvalidRequest,
            "Debian {suite} has no version {0!r} of a package",
            "Correct the recipe's base.packages.",
        ),
        (
            r"Failed to fetch \S+/([^/\s]+\.deb)\s+404",
            Transient,
            "the archive announces {0!r} and does not have it",
            "Build again when the archive is in order, or name a version that it has "
            "(NAME=VERSION) in the recipe's base.packages.",
        ),
        (
            r"does not have a Release file|Release\s+404|no Release file",
            InvalidRequest,
            "the archive has no release {suite!r}",
            "Correct the recipe's base.suite, or set JUPYTER_VSANDBOX_MIRROR to an archive that has it.",
        ),
        (
            r"NO_PUBKEY|is not signed|EXPKEYSIG|[Ii]nvalid signature",
            Permanent,
            "the archive's signature could not be checked",
            "Update the host's debian-archive-keyring.",
        ),
        (
            r"No matching distribution found for ([^\n]+)",
            InvalidRequest,
            "the package index has nothing that satisfies {0!r} for this Python",
            "Correct the recipe's python.packages.",
        ),
        (
            r"Invalid requirement: ([^\n]+)",
            InvalidRequest,
            "pip does not understand {0}",
            "Correct the recipe's python.packages.",
        ),
        (
            r"Cannot install ([^\n]+?) because these package versions have conflicting dependencies"
            r"|ResolutionImpossible",
            InvalidRequest,
            "some of the recipe's Python packages ({0}) exclude one another",
            "Correct the recipe's python.packages.",
        ),
        (
            r"(?:Failed building wheel for|subprocess-exited-with-error|Failed to build) ?([^\n]*)",
            InvalidRequest,
            "a Python package has no wheel for this Python and could not be compiled ({0})",
            "Choose another version in the recipe's python.packages, or add the compiler it needs "
            "(build-essential, python3-dev) to base.packages.",
        ),
        (
            r"(?:env|setpriv): [^\n]*?([^\s'\u2018\u2019]+)['\u2019]?: No such file or directory",
            InvalidRequest,
            "the new system has no {0}",
            "Correct the recipe's python.interpreter, or add its package to base.packages.",
        ),
        (
            r"newuidmap|/etc/subuid|unshare\(\) failed|unshare failed|user namespace",
            Unsupported,
            "this host does not let this user make a root file system",
            "Have an administrator allow user namespaces and give you a range in /etc/subuid and "
            "/etc/subgid, or build as root.",
        ),
    )
)
_UNKNOWN = _Cause(re.compile(""), Permanent, "the build failed", "The log says why.")


def diagnose(recipe: Recipe, log: Log) -> SandboxError:
    """The error that the failed build of `recipe` amounts to, with the end of its `log`."""
    text = "\n".join(log.tail)
    cause, match = next(
        ((cause, match) for cause in _CAUSES if (match := cause.pattern.search(text))), (_UNKNOWN, None)
    )
    subject = next((group for group in match.groups() if group), "") if match else ""
    problem = cause.problem.format(subject.strip(), suite=recipe.base.suite)
    return cause.kind(
        f"Runtime {recipe.name!r} was not built: {problem}. {cause.mend} "
        f"The last lines of {log.path}:\n{log.quote()}"
    )
