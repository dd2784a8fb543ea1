"""Records as the JSON of openapi.yaml.

Every field is named here: a record that grows a secret does not send it by itself.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from jupyter_vsandbox.domain import errors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jupyter_vsandbox.domain.model import Image, Sandbox, Shape
    from jupyter_vsandbox.runtimes.catalog import Broken
    from jupyter_vsandbox.runtimes.recipe import Recipe

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


def status(error: errors.SandboxError) -> HTTPStatus:
    """The HTTP status that says what `error` says."""
    known = (_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS)
    return next(known, HTTPStatus.INTERNAL_SERVER_ERROR)


def problem(error: errors.SandboxError) -> Json:
    """An error."""
    return {"message": str(error), "kind": type(error).__name__}


def sandbox(record: Sandbox, emulated: bool | None) -> Json:
    """A sandbox; how its agent is reached, and with what keys, stays here.

    Args:
        record: the sandbox.
        emulated: whether its code is translated in software, `None` where that is not known.
    """
    return {
        "id": record.id,
        "runtime": record.runtime,
        "image": record.image,
        "driver": record.driver,
        "state": record.state.value,
        "shape": _shape(record.shape),
        "created": record.created,
        "kernel_id": record.kernel_id,
        "notebook": record.notebook,
        "emulated": emulated,
    }


def runtime(recipe: Recipe, image: Image | None) -> Json:
    """A runtime, with the image of its recipe as it is now."""
    return {
        "name": recipe.name,
        "display_name": recipe.display_name,
        "language": recipe.language,
        "summary": recipe.summary,
        "shape": _shape(recipe.machine.shape),
        "image": None if image is None else _image(image),
    }


def broken(recipe: Broken) -> Json:
    """A recipe file that cannot be used."""
    return {"path": str(recipe.path), "message": str(recipe.error)}


def _image(image: Image) -> Json:
    return {"id": image.id, "digest": image.digest, "size": image.size, "created": image.created}


def _shape(shape: Shape) -> Json:
    return {"memory": shape.memory, "vcpus": shape.vcpus}
