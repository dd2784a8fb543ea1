"""Brings an image of this host to a vCenter: as a disk that ESXi reads, through a lease, with a snapshot.

See https://developer.broadcom.com/xapis/vsphere-web-services-api/latest/ on HttpNfcLease.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import ssl
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pyVmomi import vim, vmodl

from jupyter_vsandbox.domain.errors import Permanent, Transient
from jupyter_vsandbox.domain.model import MIB
from jupyter_vsandbox.drivers.vsphere import specs
from jupyter_vsandbox.drivers.vsphere.errors import LOST
from jupyter_vsandbox.files import exhausted_if_full
from jupyter_vsandbox.qcow2 import image_tool
from jupyter_vsandbox.settings import private_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_vsandbox.domain.model import Image
    from jupyter_vsandbox.drivers.base import MakeDisk, Progress
    from jupyter_vsandbox.drivers.vsphere.connection import Connection
    from jupyter_vsandbox.drivers.vsphere.marks import Marks
    from jupyter_vsandbox.settings import Settings

_CHUNK = MIB
_TELL_SECONDS = 10.0
"""How often the vCenter is told how far it is; a lease of which it hears nothing ends after minutes."""
_LEASE_SECONDS = 120


async def convert(disk: Path, folder: Path) -> Path:
    """Write a raw disk as ESXi wants it sent.

    Raises:
        Unsupported: there is no ``qemu-img``.
        Exhausted: the disk is full.
    """
    target = folder / "disk.vmdk"
    with exhausted_if_full(folder):
        options = ("-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized,adapter_type=lsilogic")
        await image_tool("convert", *options, str(disk), str(target))
    return target


async def publish(
    connection: Connection,
    settings: Settings,
    image: Image,
    make_disk: MakeDisk,
    marks: Marks,
    pool: str,
    progress: Progress,
) -> str:
    """Make a virtual machine of an image, with `marks`, and return the vCenter's id of it.

    Cancelled or failed, it may leave the machine, for whoever finds its marks.
    """
    place, pool_ref = await connection.where(pool)
    session = connection.session
    with tempfile.TemporaryDirectory(dir=private_folder(settings.home), prefix=".publish-") as folder:
        with tempfile.TemporaryDirectory(dir=folder) as work:
            raw = await make_disk(Path(work), progress)
            size = await asyncio.to_thread(lambda: raw.stat().st_size)
            progress("convert", None, f"Converting the disk of {image.id}")
            disk = await convert(raw, Path(folder))
        spec = specs.image_machine(
            f"{connection.vcenter.prefix}-{image.id}",
            image.shape,
            size,
            await connection.look("Finding the datastore", lambda: _name(connection, place.datastore)),
            await connection.look("Finding the network", lambda: _network(connection)),
            marks.options(),
        )
        lease = await session.call(
            "Beginning the upload",
            lambda: session.object(vim.ResourcePool, pool_ref).ImportVApp(
                vim.vm.VmImportSpec(configSpec=spec), session.object(vim.Folder, place.folder)
            ),
        )
        try:
            info = await connection.look("Waiting for the lease", lambda: _ready(connection, lease))
            urls = [each for each in info.deviceUrl if each.disk]
            if len(urls) != 1:
                raise Permanent(f"The vCenter asks for {len(urls)} disks of image {image.id}, which has one.")
            await asyncio.to_thread(_send, connection, lease, urls[0], disk, progress)
            await session.call("Ending the upload", lease.HttpNfcLeaseComplete)
        except BaseException:
            await session.call("Giving the upload up", lease.HttpNfcLeaseAbort, harmless=True)
            raise
    return str(info.entity._moId)


def _name(connection: Connection, datastore: str) -> str:
    read = connection.session.read(vim.Datastore, [datastore], ["name"])
    return str(read[datastore]["name"])


def _network(connection: Connection) -> Any:
    """What a network card is connected to."""
    place, session = connection.place(), connection.session
    if not place.portgroup:
        found = session.read(vim.Network, [place.network], ["name"])[place.network]
        return vim.vm.device.VirtualEthernetCard.NetworkBackingInfo(deviceName=found["name"])
    kind = vim.dvs.DistributedVirtualPortgroup
    group = session.read(kind, [place.network], ["key", "config.distributedVirtualSwitch"])[place.network]
    switch = group["config.distributedVirtualSwitch"]
    uuid = session.read(vim.DistributedVirtualSwitch, [switch._moId], ["uuid"])[switch._moId]["uuid"]
    return vim.vm.device.VirtualEthernetCard.DistributedVirtualPortBackingInfo(
        port=vim.dvs.PortConnection(portgroupKey=group["key"], switchUuid=uuid)
    )


def _ready(connection: Connection, lease: Any) -> Any:
    """The lease's information once it is ready; waits with a collector of its own."""
    session = connection.session
    spec = vmodl.query.PropertyCollector
    made = session.content.propertyCollector.CreatePropertyCollector()
    collector = spec(made._moId, session.waiting_stub(_LEASE_SECONDS))
    try:
        collector.CreateFilter(
            spec.FilterSpec(
                objectSet=[spec.ObjectSpec(obj=lease)],
                propSet=[spec.PropertySpec(type=vim.HttpNfcLease, pathSet=["state", "info", "error"])],
            ),
            True,
        )
        seen: dict[str, Any] = {}
        version, deadline = "", time.monotonic() + _LEASE_SECONDS
        while seen.get("state") not in {"ready", "error"}:
            left = int(deadline - time.monotonic())
            if left <= 0:
                raise Transient("The vCenter has not made the upload ready in time.")
            update = collector.WaitForUpdatesEx(version, spec.WaitOptions(maxWaitSeconds=min(left, 20)))
            if update is not None:
                version = update.version
                for part in update.filterSet:
                    for each in part.objectSet:
                        seen.update({change.name: change.val for change in each.changeSet})
        if seen["state"] == "error":
            raise seen["error"]
        return seen["info"]
    finally:
        collector.DestroyPropertyCollector()
        collector._stub.DropConnections()


def _send(connection: Connection, lease: Any, url: Any, disk: Path, progress: Progress) -> None:
    """Send a file to where a lease wants it, in a thread."""
    target = urlsplit(url.url)
    host = connection.vcenter.host if target.hostname in {None, "*"} else str(target.hostname)
    port = target.port or (connection.vcenter.port if target.hostname in {None, "*"} else 443)
    size, sent, told = disk.stat().st_size, 0, time.monotonic()
    line = http.client.HTTPSConnection(
        host, port, context=_context(connection, url.sslThumbprint), timeout=connection.vcenter.call_seconds
    )
    try:
        line.connect()
        _check_thumbprint(line, str(url.sslThumbprint or ""), host)
        line.putrequest("POST", target.path)
        line.putheader("Content-Type", "application/x-vnd.vmware-streamVmdk")
        line.putheader("Content-Length", str(size))
        line.putheader("Overwrite", "t")
        line.endheaders()
        with open(disk, "rb") as file:
            while chunk := file.read(_CHUNK):
                line.send(chunk)
                sent += len(chunk)
                progress("upload", sent / size, f"Sending {size // MIB} MiB to {host}")
                if time.monotonic() > told + _TELL_SECONDS:
                    told = time.monotonic()
                    lease.HttpNfcLeaseProgress(int(100 * sent / size))
        answer = line.getresponse()
        answer.read()
    except LOST as error:
        raise Transient(
            f"The upload to {host} broke after {sent // MIB} of {size // MIB} MiB: {error}"
        ) from error
    finally:
        line.close()
    if answer.status not in {200, 201}:
        raise Permanent(f"{host} refuses the upload: {answer.status} {answer.reason}")


def _context(connection: Connection, thumbprint: str | None) -> ssl.SSLContext:
    """Trust the authority of the vCenter; a thumbprint that the vCenter itself tells is checked instead."""
    context = connection.session.trust()
    if thumbprint:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _check_thumbprint(line: Any, thumbprint: str, host: str) -> None:
    if not thumbprint:
        return
    digits = thumbprint.replace(":", "").lower()
    kinds: dict[int, Callable[..., Any]] = {40: hashlib.sha1, 64: hashlib.sha256}
    kind = kinds.get(len(digits))
    if kind is None or kind(line.sock.getpeercert(binary_form=True)).hexdigest() != digits:
        raise Permanent(
            f"{host} does not have the certificate that the vCenter says it has: nothing was sent."
        )
