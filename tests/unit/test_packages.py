"""Which cells are held to change packages."""

from __future__ import annotations

import pytest

from jupyter_vsandbox.kernel.packages import changes_packages


@pytest.mark.parametrize(
    "code",
    [
        "%pip install pandas",
        "pip install -U pandas",
        "import sys\n!{sys.executable} -m pip uninstall -y pandas",
        "! pip3 --quiet install 'pandas<2'",
        "!pip install \\\n  pandas",
        "!uv pip install pandas",
        "%conda install -y numpy",
        "out = !apt-get -y install git",
        "!sudo apt-get update && sudo apt install -y git",
        "%%bash\nset -e\ncd /tmp\n/usr/bin/pip install .",
        "if True:\n    !pip install pandas",
    ],
)
def test_what_changes_packages(code: str) -> None:
    assert changes_packages(code)


@pytest.mark.parametrize(
    "code",
    [
        "",
        "!pip list",
        "%pip show pandas",
        "# !pip install pandas",
        "print('pip install pandas')",
        "help = 'run: !pip install pandas'",
        "pip = 1\npip == install",
        "!echo install pip",
        "%%html\n<p>pip install pandas</p>",
        "!git add install.py",
        "!ls pip/install",
    ],
)
def test_what_does_not(code: str) -> None:
    assert not changes_packages(code)
