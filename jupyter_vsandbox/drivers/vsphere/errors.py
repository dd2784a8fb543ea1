"""What a vCenter and the way to it may answer, in the project's own words."""

from __future__ import annotations

import re
import ssl
from http.client import HTTPException
from typing import TYPE_CHECKING
from xml.parsers.expat import ExpatError

from pyVmomi import vim, vmodl

from jupyter_vsandbox.domain.errors import (
    Conflict,
    Exhausted,
    InvalidState,
    NotFound,
    Permanent,
    SandboxError,
    Transient,
    Unsupported,
)

if TYPE_CHECKING:
    from collections.abc import Callable

LOST = (OSError, HTTPException, ExpatError)
"""What a call raises whose connection broke; it may have been carried out."""
UNSENT = (ConnectionRefusedError,)
"""Of these, what says that it was not."""

_KINDS: tuple[tuple[tuple[type[Exception], ...], Callable[[str], SandboxError]], ...] = (
    ((vmodl.fault.ManagedObjectNotFound, vim.fault.NotFound), NotFound),
    ((vim.fault.DuplicateName, vim.fault.AlreadyExists, vim.fault.FileAlreadyExists), Conflict),
    (
        (
            vim.fault.NoDiskSpace,
            vim.fault.InsufficientStorageSpace,
            vim.fault.InsufficientResourcesFault,
        ),
        Exhausted,
    ),
    ((vmodl.fault.MethodNotFound, vmodl.fault.NotSupported, vmodl.fault.NotImplemented), Unsupported),
    (
        (
            vim.fault.NotAuthenticated,
            vim.fault.TaskInProgress,
            vim.fault.ConcurrentAccess,
            vim.fault.Timedout,
            vim.fault.HostConnectFault,
            vim.fault.GenericVmConfigFault,
            vmodl.fault.HostCommunication,
            vmodl.fault.RequestCanceled,
        ),
        Transient,
    ),
)


def translate(fault: BaseException, what: str) -> SandboxError:
    """The error to raise for a vCenter's fault.

    Args:
        fault: what it answered.
        what: what was asked for, as in "<what> failed".
    """
    if isinstance(fault, vim.fault.InvalidPowerState):
        return InvalidState(
            f"The virtual machine ({what})", str(fault.existingState), {str(fault.requestedState)}
        )
    for kinds, make in _KINDS:
        if isinstance(fault, kinds):
            return make(f"{what} failed: {describe(fault)}")
    if isinstance(fault, vim.fault.NoPermission):
        return Permanent(
            f"{what} failed: the vCenter's user lacks the privilege {fault.privilegeId} on "
            f"{_name(fault.object)}. `jupyter vsandbox doctor --driver vsphere` lists all that are missing."
        )
    return Permanent(f"{what} failed: {describe(fault)}")


def describe(fault: BaseException) -> str:
    """What a fault says, in a line: the vCenter's words where it has some, else the fault's name in words."""
    if not isinstance(fault, vmodl.MethodFault):
        return f"{fault}" or type(fault).__name__
    name = type(fault).__name__.rpartition(".")[2]
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize()
    said = str(fault.msg or "").strip()
    return f"{words}: {said}" if said and name not in said else words


def untrusted(error: BaseException) -> bool:
    """Whether the certificate is what is wrong."""
    return isinstance(error, ssl.SSLCertVerificationError)


def _name(entity: object) -> str:
    return getattr(entity, "_moId", "") or "the vCenter"
