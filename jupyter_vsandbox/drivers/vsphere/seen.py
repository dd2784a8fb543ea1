"""A virtual machine as a vCenter tells it: which properties are asked for, and what they come to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pyVmomi import vim, vmodl

from jupyter_vsandbox.domain.model import MIB
from jupyter_vsandbox.drivers.vsphere.marks import Marks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

MEMORY, DISK = "jupyter_vsandbox: memory and disk", "jupyter_vsandbox: disk"
"""The descriptions of our snapshots: the vCenter tells whether a machine ran, not whether memory was kept."""
ON, OFF, SUSPENDED = "poweredOn", "poweredOff", "suspended"
PATHS = (
    "name",
    "config.extraConfig",
    "runtime.powerState",
    "runtime.question",
    "runtime.maxCpuUsage",
    "guest.ipAddress",
    "guest.toolsRunningStatus",
    "resourcePool",
    "snapshot",
    "summary.config.memorySizeMB",
    "summary.config.numCpu",
    "summary.quickStats.hostMemoryUsage",
    "summary.quickStats.overallCpuUsage",
    "summary.storage.committed",
)


@dataclass(frozen=True)
class Point:
    """A snapshot of a virtual machine.

    Attributes:
        id: its name, which for one of ours is our id of it.
        ref: the vCenter's id.
        memory: whether it holds memory.
    """

    id: str
    ref: str
    memory: bool


@dataclass(frozen=True)
class Vm:
    """A virtual machine in our folder, ours or not.

    Attributes:
        ref: the vCenter's id.
        name: what people see.
        marks: what makes it ours.
        power: ``poweredOn``, ``poweredOff`` or ``suspended``.
        address: the guest's address, "" while no VMware Tools tell it.
        question: what it stands still for until somebody answers, "" for nothing.
        pool: the vCenter's id of its resource pool.
        points: its snapshots.
        memory_size: bytes of guest memory.
        memory: bytes of host memory in use.
        disk: bytes on datastores.
        cpu: seconds of processor time since this process saw it.
    """

    ref: str
    name: str = ""
    marks: Marks = field(default_factory=Marks)
    power: str = OFF
    address: str = ""
    question: str = ""
    pool: str = ""
    points: tuple[Point, ...] = ()
    memory_size: int = 0
    memory: int = 0
    disk: int = 0
    cpu: float = 0.0

    def point(self, snapshot_id: str) -> Point | None:
        """One of its snapshots by our id."""
        return next((point for point in self.points if point.id == snapshot_id), None)


def vm_of(ref: str, raw: Mapping[str, Any], cpu: float) -> Vm:
    """What properties come to; `cpu` is the processor time so far, if it runs."""
    power = str(raw.get("runtime.powerState", OFF))
    tools = raw.get("guest.toolsRunningStatus") == "guestToolsRunning"
    pool = raw.get("resourcePool")
    question = raw.get("runtime.question")
    snapshot = raw.get("snapshot")
    return Vm(
        ref=ref,
        name=str(raw.get("name", "")),
        marks=Marks.of((each.key, each.value) for each in raw.get("config.extraConfig") or ()),
        power=power,
        address=str(raw.get("guest.ipAddress") or "") if tools and power == ON else "",
        question=str(question.text) if question is not None else "",
        pool=pool._moId if pool is not None else "",
        points=tuple(points_of(snapshot.rootSnapshotList)) if snapshot is not None else (),
        memory_size=int(raw.get("summary.config.memorySizeMB") or 0) * MIB,
        memory=int(raw.get("summary.quickStats.hostMemoryUsage") or 0) * MIB if power == ON else 0,
        disk=int(raw.get("summary.storage.committed") or 0),
        cpu=cpu if power == ON else 0.0,
    )


def busy_cores(raw: Mapping[str, Any]) -> float:
    """How many processors it keeps busy: the vCenter tells MHz."""
    most, cores = float(raw.get("runtime.maxCpuUsage") or 0), int(raw.get("summary.config.numCpu") or 1)
    return float(raw.get("summary.quickStats.overallCpuUsage") or 0) * cores / most if most else 0.0


def filter_of(view: Any, kind: Any, paths: Collection[str]) -> Any:
    """What a collector is told to look at: all of a kind that is in a view."""
    spec = vmodl.query.PropertyCollector
    walk = spec.TraversalSpec(name="view", type=type(view), path="view", skip=False)
    return spec.FilterSpec(
        objectSet=[spec.ObjectSpec(obj=view, skip=True, selectSet=[walk])],
        propSet=[spec.PropertySpec(type=kind, pathSet=list(paths))],
    )


def changes_of(update: Any) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """What an update says: the object, whether it is a task, enters, leaves or changes, and the values."""
    for part in update.filterSet:
        for each in part.objectSet:
            for missing in each.missingSet:
                if isinstance(missing.fault, vim.fault.NotAuthenticated):
                    raise missing.fault
            values = {change.name: change.val for change in each.changeSet if change.op != "remove"}
            values |= {change.name: None for change in each.changeSet if change.op == "remove"}
            yield each.obj._moId, "task" if isinstance(each.obj, vim.Task) else str(each.kind), values


def points_of(trees: Any) -> Iterator[Point]:
    for tree in trees:
        yield Point(tree.name, tree.snapshot._moId, tree.description == MEMORY)
        yield from points_of(tree.childSnapshotList)
