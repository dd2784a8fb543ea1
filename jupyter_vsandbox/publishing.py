"""``jupyter vsandbox images publish``: an image, brought to where another driver's machines are made."""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING

from jupyter_vsandbox import render
from jupyter_vsandbox.drivers import registry
from jupyter_vsandbox.kernel import specs
from jupyter_vsandbox.runtimes import bootable, build
from jupyter_vsandbox.runtimes.catalog import Catalog

if TYPE_CHECKING:
    import argparse

    from jupyter_vsandbox.session import Session


def publish(session: Session, arguments: argparse.Namespace) -> int:
    """Publish the image of a runtime, unless it is there, and offer it in the kernel picker."""
    recipe = Catalog.standard(session.settings).get(arguments.name)
    image = build.find(recipe, session.settings)
    with render.progress(session.output.err) as progress:
        driver = registry.get(arguments.driver, session.settings)
        make_disk = functools.partial(bootable.make, image, session.settings)
        new = asyncio.run(driver.publish(image, make_disk, progress))
    drivers = [arguments.driver]
    if arguments.driver == "vsphere":
        drivers += [f"vsphere:{pool.name}" for pool in session.settings.vcenter.pools]
    for driver in drivers:
        specs.install(recipe, driver)
    offered = [specs.display_name(recipe, driver) for driver in drivers]
    done = "is published" if new else "was published already"
    session.output.answer(
        {"image": image.id, "new": new, "kernels": [specs.spec_name(recipe.name, each) for each in drivers]},
        lambda: render.plain(f"{image.id} {done}; the kernel picker has {', '.join(map(repr, offered))}."),
    )
    return 0
