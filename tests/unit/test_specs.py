"""Kernelspecs: one for each runtime, driver and pool, told apart by people and by Jupyter."""

from __future__ import annotations

import pytest

from jupyter_vsandbox.domain.errors import NotFound, Unsupported
from jupyter_vsandbox.drivers import registry
from jupyter_vsandbox.kernel import specs

OFFER = specs.Offer("python-3.11", "Python 3.11 (sandbox)", "python")


@pytest.mark.parametrize(
    ("driver", "name", "shown"),
    [
        ("qemu", "vsandbox-python-3.11", "Python 3.11 (sandbox)"),
        ("vsphere", "vsandbox-python-3.11-vsphere", "Python 3.11 (vSphere)"),
        ("vsphere:iot-pool", "vsandbox-python-3.11-vsphere-iot-pool", "Python 3.11 (vSphere, iot-pool)"),
    ],
)
def test_a_kernelspec_says_where_its_machines_are(driver, name, shown):
    assert specs.spec_name("python-3.11", driver) == name
    written = specs.kernel_json(OFFER, driver)
    assert written["display_name"] == shown
    assert written["metadata"]["kernel_provisioner"]["config"]["driver"] == driver


def test_a_driver_that_is_not_configured_is_not_in_use(settings):
    assert registry.in_use(settings) == ["qemu"]
    with pytest.raises(Unsupported, match=r"VSphere\.host"):
        registry.get("vsphere", settings)
    with pytest.raises(NotFound, match="no pools"):
        registry.get("qemu:iot-pool", settings)
    with pytest.raises(NotFound, match="installed are: qemu, vsphere"):
        registry.get("magic", settings)


def test_the_kernelspecs_of_a_runtime_go_together(tmp_path, monkeypatch):
    monkeypatch.setattr(specs.sys, "prefix", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    other = specs.Offer("python-3.1", "Python 3.1 (sandbox)", "python")
    for offer, driver in ((OFFER, "qemu"), (OFFER, "vsphere"), (OFFER, "vsphere:iot-pool"), (other, "qemu")):
        specs.install(offer, driver)
    kernels = tmp_path / "share" / "jupyter" / "kernels"
    assert len(list(kernels.iterdir())) == 4
    specs.uninstall("python-3.11")
    specs.uninstall("python-3.11")
    assert [each.name for each in kernels.iterdir()] == ["vsandbox-python-3.1"]
