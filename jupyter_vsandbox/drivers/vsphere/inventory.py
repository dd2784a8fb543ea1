"""Where on a vCenter sandboxes are: finds what is configured, and makes folder and pools that are missing.

All functions make calls, and so are for threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from jupyter_vsandbox.domain.errors import InvalidRequest, NotFound
from jupyter_vsandbox.domain.model import MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jupyter_vsandbox.drivers.vsphere.session import Session
    from jupyter_vsandbox.settings import ResourcePool, VCenter

_UNLIMITED = -1


@dataclass(frozen=True)
class Place:
    """The vCenter's ids of what is configured.

    Attributes:
        datacenter: what all of it is in.
        folder: all that is ours is in there.
        cluster: what machines run on.
        pool: the cluster's own resource pool.
        datastore: where disks are.
        network: what machines are connected to.
        portgroup: whether that is one of a distributed switch.
    """

    datacenter: str
    folder: str
    cluster: str
    pool: str
    datastore: str
    network: str
    portgroup: bool


def find_place(session: Session, vcenter: VCenter) -> Place:
    """Find all that is configured; the folder is made where it is missing.

    Raises:
        NotFound: something is not there.
        InvalidRequest: there are several of something, and no name says which.
    """
    root = session.content.rootFolder
    centers = _inside(session, root, vim.Datacenter, ["name", "vmFolder", "hostFolder"])
    center = _pick("datacenter", vcenter.datacenter, centers, vcenter)
    hosts = _inside(
        session,
        centers[center]["hostFolder"],
        vim.ComputeResource,
        ["name", "resourcePool", "datastore", "network"],
    )
    cluster = _pick("cluster", vcenter.cluster, hosts, vcenter)
    there = hosts[cluster]
    stores = _names(session, vim.Datastore, there["datastore"])
    networks = _names(session, vim.Network, there["network"])
    network = _pick("network", vcenter.network, networks, vcenter)
    kinds = {each._moId: each for each in there["network"]}
    return Place(
        datacenter=center,
        folder=_folder(session, centers[center]["vmFolder"], vcenter.folder),
        cluster=cluster,
        pool=there["resourcePool"]._moId,
        datastore=_pick("datastore", vcenter.datastore, stores, vcenter),
        network=network,
        portgroup=isinstance(kinds[network], vim.dvs.DistributedVirtualPortgroup),
    )


def find_pool(session: Session, vcenter: VCenter, place: Place, name: str) -> str:
    """The vCenter's id of a configured pool, which is made if there is none, and else not changed.

    Raises:
        NotFound: it is not configured.
    """
    wanted = next((pool for pool in vcenter.pools if pool.name == name), None)
    if wanted is None:
        names = ", ".join(pool.name for pool in vcenter.pools) or "none"
        raise NotFound(f"There is no pool {name!r}; VSphere.pools has: {names}.")
    found = pools(session, place)
    if name in found:
        return str(found[name]["ref"])
    root = session.object(vim.ResourcePool, place.pool)
    try:
        return str(root.CreateResourcePool(name, allocation(wanted))._moId)
    except vim.fault.DuplicateName:  # another process was first
        return str(pools(session, place)[name]["ref"])


def pools(session: Session, place: Place) -> dict[str, Mapping[str, Any]]:
    """The pools of the cluster by name: ``ref``, ``config`` and ``runtime`` of each."""
    root = session.object(vim.ResourcePool, place.pool)
    found = _inside(session, root, vim.ResourcePool, ["name", "config", "runtime"])
    return {str(values["name"]): {**values, "ref": ref} for ref, values in found.items()}


def allocation(pool: ResourcePool) -> Any:
    """What a resource pool is made with; the vCenter counts memory in MiB."""
    level = {"low": "low", "normal": "normal", "high": "high"}.get(pool.shares)
    if level is None:
        raise InvalidRequest(
            f"Pool {pool.name!r} has shares {pool.shares!r}; there are low, normal and high."
        )

    def part(reservation: int, limit: int) -> Any:
        return vim.ResourceAllocationInfo(
            reservation=reservation,
            expandableReservation=True,
            limit=limit or _UNLIMITED,
            shares=vim.SharesInfo(level=level, shares=0),
        )

    return vim.ResourceConfigSpec(
        cpuAllocation=part(pool.cpu_reservation, pool.cpu_limit),
        memoryAllocation=part(pool.memory_reservation // MIB, pool.memory_limit // MIB),
    )


def _inside(session: Session, container: Any, kind: Any, paths: list[str]) -> dict[str, Mapping[str, Any]]:
    """Properties of all objects of a kind that are anywhere in a container, by id."""
    view = session.content.viewManager.CreateContainerView(container, [kind], True)
    spec = vmodl.query.PropertyCollector
    try:
        walk = spec.TraversalSpec(name="view", type=type(view), path="view", skip=False)
        filters = spec.FilterSpec(
            objectSet=[spec.ObjectSpec(obj=view, skip=True, selectSet=[walk])],
            propSet=[spec.PropertySpec(type=kind, pathSet=paths)],
        )
        return dict(session.retrieve(filters))
    finally:
        view.DestroyView()


def _names(session: Session, kind: Any, objects: Iterable[Any]) -> Mapping[str, Mapping[str, Any]]:
    refs = [each._moId for each in objects]
    return session.read_objects(kind, list(objects), ["name"]) if refs else {}


def _pick(kind: str, wanted: str, found: Mapping[str, Mapping[str, Any]], vcenter: VCenter) -> str:
    named = [ref for ref, values in found.items() if not wanted or values["name"] == wanted]
    if len(named) == 1:
        return named[0]
    names = ", ".join(sorted(str(values["name"]) for values in found.values())) or "none"
    if named:
        raise InvalidRequest(f"Say which {kind} of {vcenter.host} to use: VSphere.{kind} is one of {names}.")
    raise NotFound(
        f"{vcenter.host} has no {kind} {wanted!r} (or its user may not see it); there are: {names}."
    )


def _folder(session: Session, parent: Any, path: str) -> str:
    for name in filter(None, path.split("/")):
        for _ in range(2):
            children = _inside(session, parent, vim.Folder, ["name", "parent"])
            here = [r for r, v in children.items() if v["name"] == name and v["parent"]._moId == parent._moId]
            if here:
                parent = session.object(vim.Folder, here[0])
                break
            try:
                parent = parent.CreateFolder(name)
                break
            except vim.fault.DuplicateName:  # another process was first
                continue
    return str(parent._moId)
