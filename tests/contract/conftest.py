"""The simulated vCenter, here as well."""

from tests.vsphere.conftest import authority, simulators

__all__ = ["authority", "simulators"]
