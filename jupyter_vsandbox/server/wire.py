"""Records as the JSON of openapi.yaml.

Every field is named here: a record that grows a secret does not send it by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain import errors
from jupyter_vsandbox.kernel.specs import spec_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jupyter_vsandbox.domain.model import Accelerator, Image, Sandbox, Shape, Snapshot, Usage
    from jupyter_vsandbox.domain.pool import Pool, Share
    from jupyter_vsandbox.runtimes.catalog import Broken
    from jupyter_vsandbox.runtimes.recipe import Recipe
    from jupyter_vsandbox.server.operations import Operation, Progress

    Json = Mapping[str, object]

_STATUS: Mapping[type[errors.SandboxError], HTTPStatus] = {
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.InvalidState: HTTPStatus.CONFLICT,
    errors.InvalidRequest: HTTPStatus.BAD_REQUEST,
    errors.Unsupported: HTTPStatus.NOT_IMPLEMENTED,
    errors.Exhausted: HTTPStatus.INSUFFICIENT_STORAGE,
    errors.Transient: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.Permanent: HTTPStatus.INTERNAL_SERVER_ERROR,
    errors.OutcomeUnknown: HTTPStatus.INTERNAL_SERVER_ERROR,
}


@dataclass(frozen=True)
class Gauge:
    """What a machine takes.

    Attributes:
        usage: right now.
        cpu: processors that it kept busy since it was looked at before, `None` the first time.
    """

    usage: Usage
    cpu: float | None


@dataclass(frozen=True)
class Facts:
    """What is told of a sandbox beyond its record.

    Attributes:
        gauge: what it takes.
        accelerator: how its driver runs guests, `None` where that is not known.
        in_use: whether a living process uses it.
        snapshots: how many it has.
        bytes: what those take.
        warning: what people are to be warned of at them, "" for nothing.
        memory_anywhere: whether a fork of a snapshot can have its memory, `None` where that is not known.
        notebook: its notebook for the contents API, `None` where that has no path there.
    """

    gauge: Gauge
    accelerator: Accelerator | None
    in_use: bool
    snapshots: int
    bytes: int
    warning: str
    memory_anywhere: bool | None
    notebook: str | None


def status(error: errors.SandboxError) -> HTTPStatus:
    """The HTTP status that says what `error` says."""
    known = (_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    return next(known, HTTPStatus.INTERNAL_SERVER_ERROR)


def problem(error: errors.SandboxError) -> Json:
    """An error."""
    field = error.field if isinstance(error, errors.InvalidRequest) else ""
    return {"message": str(error), "kind": type(error).__name__, "field": field or None}


def sandbox(record: Sandbox, facts: Facts) -> Json:
    """A sandbox; how its agent is reached, and with what keys, stays here."""
    accelerator = facts.accelerator
    return {
        "id": record.id,
        "name": record.name,
        "runtime": record.runtime,
        "image": record.image,
        "driver": record.driver,
        "accelerator": None if accelerator is None else accelerator.name,
        "emulated": None if accelerator is None else accelerator.emulated,
        "state": record.state.value,
        "shape": _shape(record.shape),
        "created": record.created,
        "kernel": spec_name(record.runtime, record.driver),
        "kernel_id": record.kernel_id,
        "notebook": record.notebook,
        "notebook_path": facts.notebook,
        "in_use": facts.in_use,
        "origin": record.origin,
        "snapshot": record.snapshot,
        "history": {"count": facts.snapshots, "bytes": facts.bytes, "warning": facts.warning or None},
        "memory_anywhere": facts.memory_anywhere,
        "usage": gauge(facts.gauge),
    }


def gauge(found: Gauge) -> Json:
    """What a machine takes."""
    return {
        "memory": found.usage.memory,
        "disk": found.usage.disk,
        "cpu_seconds": found.usage.cpu,
        "cpu": found.cpu,
    }


def snapshot(record: Snapshot, warning: str) -> Json:
    """A snapshot, and what people are to be warned of; its keys stay here."""
    return {
        "id": record.id,
        "sandbox": record.sandbox,
        "parent": record.parent,
        "name": record.name,
        "note": record.note,
        "cause": record.cause.value,
        "created": record.created,
        "memory": record.memory,
        "cells": record.cells,
        "size": record.size,
        "pause": record.pause,
        "warning": warning or None,
    }


def prunable(records: Iterable[Snapshot]) -> Json:
    """Snapshots that may go, or went."""
    records = list(records)  # nobody is warned of what nobody asked for
    return {
        "snapshots": [snapshot(each, "") for each in records],
        "bytes": sum(each.size for each in records),
    }


def operation(record: Operation, *, whole: bool) -> Json:
    """An operation.

    Args:
        record: the operation.
        whole: with its result and its log.
    """
    found = {
        "id": record.id,
        "verb": record.verb,
        "sandbox": record.sandbox or None,
        "runtime": record.runtime or None,
        "state": record.phase.value,
        "cancellable": record.cancellable,
        "began": record.began,
        "ended": record.ended,
        "progress": None if record.progress is None else _progress(record.progress),
        "error": None if record.error is None else problem(record.error),
    }
    return found | {"result": record.result, "log": list(record.log)} if whole else found


def runtime(recipe: Recipe, image_: Image | None, *, own: bool) -> Json:
    """A runtime, with the image of its recipe as it is now.

    Args:
        recipe: of the runtime.
        image_: `None` where that is not built.
        own: whether the recipe is one of the user's own.
    """
    return {
        "name": recipe.name,
        "display_name": recipe.display_name,
        "language": recipe.language,
        "summary": recipe.summary,
        "shape": _shape(recipe.machine.shape),
        "kernel": spec_name(recipe.name),
        "own": own,
        "image": None if image_ is None else image(image_),
    }


def broken(recipe: Broken) -> Json:
    """A recipe file that cannot be used."""
    return {"path": str(recipe.path), "message": str(recipe.error)}


def image(record: Image) -> Json:
    """An image."""
    return {
        "id": record.id,
        "runtime": record.runtime,
        "digest": record.digest,
        "size": record.size,
        "created": record.created,
    }


def pool(record: Pool) -> Json:
    """A pool."""
    return {
        "name": record.name,
        "driver": record.driver,
        "memory": {**_share(record.memory), "promised": record.promised},
        "cpu": None if record.cpu is None else _share(record.cpu),
        "vcpus": {"host": record.cpus, "promised": record.vcpus},
        "sandboxes": list(record.sandboxes),
    }


def _share(share: Share) -> Json:
    return {
        "limit": share.limit,
        "reservation": share.reservation,
        "used": share.used,
        "free": share.free,
    }


def _progress(record: Progress) -> Json:
    return {"stage": record.stage, "fraction": record.fraction, "message": record.message}


def _shape(shape: Shape) -> Json:
    return {"memory": shape.memory, "vcpus": shape.vcpus}
