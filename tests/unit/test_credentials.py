"""Where the password of a vCenter comes from, and where it never is."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from jupyter_vsandbox.domain.errors import Permanent
from jupyter_vsandbox.drivers.vsphere.connection import find_credentials
from jupyter_vsandbox.settings import VCenter

VCENTER = VCenter(host="vcenter.example", user="me")


@pytest.fixture(autouse=True)
def nothing_in_the_environment(monkeypatch):
    for name in ("USER", "PASSWORD"):
        monkeypatch.delenv(f"JUPYTER_VSANDBOX_VSPHERE_{name}", raising=False)


@pytest.fixture
def keyring(monkeypatch):
    """A keyring with one entry."""
    module = ModuleType("keyring")
    kept = {("jupyter_vsandbox vcenter.example", "me"): "from the keyring"}
    module.get_password = lambda service, user: kept.get((service, user))
    module.errors = SimpleNamespace(KeyringError=RuntimeError)
    monkeypatch.setitem(sys.modules, "keyring", module)


def test_the_password_comes_from_file_environment_and_keyring_in_this_order(keyring, tmp_path, monkeypatch):
    assert find_credentials(VCENTER).password == "from the keyring"
    monkeypatch.setenv("JUPYTER_VSANDBOX_VSPHERE_PASSWORD", "from the environment")
    assert find_credentials(VCENTER).password == "from the environment"
    (tmp_path / "password").write_text("from the file\n")
    found = find_credentials(VCenter(VCENTER.host, user="me", password_file=str(tmp_path / "password")))
    assert found.password == "from the file"
    assert "from" not in repr(found)


def test_without_user_or_password_it_is_said_how_to_give_them(keyring):
    with pytest.raises(Permanent, match=r"There is no user for vcenter\.example"):
        find_credentials(VCenter(host="vcenter.example"))
    with pytest.raises(Permanent, match=r"There is no password .*keyring set"):
        find_credentials(VCenter(host="other.example", user="me"))
