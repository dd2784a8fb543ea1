"""What the memory of a machine needs to be loaded."""

from __future__ import annotations

import pytest

from jupyter_vsandbox.domain.errors import Unsupported
from jupyter_vsandbox.drivers.qemu import fitting

CPU = "vendor_id\t: A\nmodel name\t: Fast 1\nflags\t\t: {}\nbogomips\t: {}\n"


def test_what_differs_is_named():
    here = {"QEMU version": "7.2", "accelerator": "tcg"}
    fitting.require("it", dict(here), here)
    with pytest.raises(Unsupported, match=r"QEMU version 9\.0 \(here it is 7\.2\)\..*disk only"):
        fitting.require("it", here | {"QEMU version": "9.0"}, here)
    with pytest.raises(Unsupported, match="accelerator none"):
        fitting.require("it", {"QEMU version": "7.2"}, here)
    with pytest.raises(Unsupported, match="more x"):
        fitting.require("it", here | {"more": "x"}, here)


def test_a_processor_is_known_by_what_it_can_do():
    one = fitting.processor(CPU.format("sse avx", 1) * 2)
    assert one.startswith("Fast 1 (")
    assert one == fitting.processor(CPU.format("avx sse", 2))
    assert one != fitting.processor(CPU.format("sse", 1))
    assert fitting.processor("") == fitting.processor("nothing: known")
