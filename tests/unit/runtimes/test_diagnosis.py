"""What a build's log says is told as one error of the right kind, with what to do."""

from pathlib import Path

import pytest

from jupyter_vsandbox.domain.errors import (
    Exhausted,
    InvalidRequest,
    Permanent,
    SandboxError,
    Transient,
    Unsupported,
)
from jupyter_vsandbox.runtimes.diagnosis import diagnose
from jupyter_vsandbox.runtimes.process import Log
from jupyter_vsandbox.runtimes.recipe import Recipe


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        (["E: Unable to locate package no-such"], InvalidRequest, "bookworm has no package 'no-such'"),
        (["E: Package 'gone' has no installation candidate"], InvalidRequest, "no package 'gone'"),
        (["E: Version '9.9' for 'git' was not found"], InvalidRequest, "no version '9.9'"),
        (
            [
                "ERROR: Could not find a version that satisfies the requirement nope (from versions: none)",
                "ERROR: No matching distribution found for nope==3",
            ],
            InvalidRequest,
            "nothing that satisfies 'nope==3'",
        ),
        (
            [
                "WARNING: Retrying (Retry(total=0)) after 'NewConnectionError(...)'",
                "ERROR: No matching distribution found for numpy",
            ],
            Transient,
            "Check the network",
        ),
        (
            ["ERROR: Cannot install a and b because these package versions have conflicting dependencies."],
            InvalidRequest,
            "a and b",
        ),
        (["ERROR: Invalid requirement: 'a b'"], InvalidRequest, "does not understand 'a b'"),
        (["ERROR: Failed building wheel for pyspark"], InvalidRequest, "build-essential"),
        (["env: \u2018/a/python3\u2019: No such file or directory"], InvalidRequest, "no /a/python3."),
        (["env: '/opt/py/bin/python3': No such file or directory"], InvalidRequest, "/opt/py/bin/python3"),
        (
            ["E: Failed to fetch https://example.org/l/linux_5.deb  404  Not Found [IP: 192.0.2.1]"],
            Transient,
            "'linux_5.deb'",
        ),
        (
            ["E: The repository 'https://example.org wheezy Release' does not have a Release file."],
            InvalidRequest,
            "no release 'bookworm'",
        ),
        (["W: GPG error: x InRelease: NO_PUBKEY ABC", "E: not signed"], Permanent, "debian-archive-keyring"),
        (["Temporary failure resolving 'example.org'"], Transient, "Check the network"),
        (["tar: x: No space left on device", "E: Unable to locate package y"], Exhausted, "disk is full"),
        (["E: unshare() failed: Operation not permitted"], Unsupported, "/etc/subuid"),
        (["something unheard of"], Permanent, "the build failed"),
    ],
)
def test_the_cause_is_found(
    lines: list[str], kind: type[SandboxError], words: str, tiny: Recipe, tmp_path: Path
) -> None:
    with Log(tmp_path / "build.log") as log:
        log.write("I: something before")
        for line in lines:
            log.write(line)
    error = diagnose(tiny, log)
    assert type(error) is kind
    text = str(error)
    assert words in text
    assert "'tiny'" in text
    assert str(tmp_path / "build.log") in text
    assert lines[-1] in text
    assert "{" not in text.partition("The last lines")[0]
