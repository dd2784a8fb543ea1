"""What makes a Binder of the notebooks names what they and the project need."""

import re
from pathlib import Path

import nbformat
import pytest
from traitlets.config.loader import PyFileConfigLoader

from jupyter_vsandbox.config import load_settings
from jupyter_vsandbox.core import capacity
from jupyter_vsandbox.domain.model import GIB
from jupyter_vsandbox.runtimes.catalog import Catalog
from jupyter_vsandbox.settings import Settings

ROOT = Path(__file__).parents[2]
BINDER = ROOT / "binder"
DOCKERFILE = re.sub(r"\\\n", " ", (BINDER / "Dockerfile").read_text())
BUILT = set(re.search(r'^ARG RUNTIMES="(.*)"$', DOCKERFILE, re.MULTILINE)[1].split())


def test_what_make_setup_installs_is_installed():
    wanted = re.search(r"^setup_PACKAGES := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    installed = re.search(r"apt-get install -y --no-install-recommends(.*?)&&", DOCKERFILE)[1].split()
    assert set(wanted) <= set(installed)


@pytest.mark.parametrize("path", sorted(BINDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_what_a_notebook_runs_in_is_built(path):
    notebook = nbformat.read(path, as_version=4)
    named = set(re.findall(r"python-3\.\d+", "".join(cell.source for cell in notebook.cells)))
    assert named | {notebook.metadata.kernelspec.name.removeprefix("vsandbox-")} <= BUILT


def test_a_comparison_of_all_runtimes_fits_into_two_gigabytes():
    config = PyFileConfigLoader("jupyter_vsandbox_config.py", path=str(BINDER)).load_config()
    settings = load_settings(config)
    assert settings.accelerator == "tcg"
    assert settings.standby == 0
    assert settings.memory_budget < 2 * GIB
    catalog = Catalog.standard(Settings())
    shapes = [catalog.get(name).machine.shape for name in BUILT]
    # Those of both notebooks, a fork, and those of the comparison.
    capacity.require(shapes[0], [shapes[0], shapes[0], *shapes], 0, settings)
