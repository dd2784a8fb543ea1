"""What runs in a guest, or in its kernel, is written for Python 3.6."""

import ast
import sys
from pathlib import Path

import pytest
import vermin

import jupyter_vsandbox

PACKAGE = Path(jupyter_vsandbox.__file__).parent
CONFIG = PACKAGE / "runtimes" / "assets" / "rootfs" / "etc" / "ipython" / "ipython_config.py"
MODULES = [*sorted((PACKAGE / "guest").glob("*.py")), CONFIG]
# The agent has an environment of its own; the rest is what IPython brings, or is gone without.
MORE = {
    "agent": {"zmq"},
    "door": {"zmq"},
    "kernel": {"zmq"},
    "magics": {"IPython"},
    "panel": {"ipywidgets"},
    "serving": {"zmq"},
    "workspace": {"zmq"},
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_guest_of_python_36_understands_it(path):
    source = path.read_text()
    ast.parse(source, feature_version=(3, 6))
    config = vermin.Config()
    config.set_eval_annotations(False)
    _, newest = vermin.detect(source, config)
    assert newest is not None
    assert newest <= (3, 6), "vermin says which line: vermin -vvv PATH"


@pytest.mark.parametrize(
    "newer", ["x = (y := 1)\n", "import dataclasses\n", "import subprocess as s\ns.run('a', text=True)\n"]
)
def test_what_a_guest_of_python_36_does_not_understand_is_found(newer):
    try:
        ast.parse(newer, feature_version=(3, 6))
    except SyntaxError:
        return
    _, newest = vermin.detect(newer, vermin.Config())
    assert newest > (3, 6)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_users_kernel_has_all_that_it_imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        roots = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
        assert roots <= MORE.get(path.stem, set()), f"{path.name} line {node.lineno}"
