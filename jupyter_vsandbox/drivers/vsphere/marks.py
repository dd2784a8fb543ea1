"""What says that a virtual machine is ours, and what for: entries of its ``extraConfig``.

Neither a guest nor a name decides that: a guest cannot write entries that do not begin with
``guestinfo``, and names are anybody's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jupyter_vsandbox.domain.model import LinkKeys

_PREFIX = "vsandbox."
KEYS = "guestinfo.vsandbox.link"
"""Where a guest that boots finds its first link keys, as JSON; once it has read them it overwrites them."""
MACHINE = "guestinfo.vsandbox.machine"
"""Where a guest finds which machine it is: where that changes while it runs, it is a clone."""


class Role(StrEnum):
    """What a virtual machine of ours is for."""

    IMAGE = "image"
    """A published image; everybody's."""
    PARENT = "parent"
    """Runs with a warm kernel, to be cloned."""
    DRAFT = "draft"
    """On its way to be one of these."""
    MACHINE = "machine"
    CARRIER = "carrier"
    """Was a machine, and still holds snapshots."""


@dataclass(frozen=True)
class Marks:
    """What is known of a virtual machine of ours.

    Attributes:
        role: what for, "" for one that is not ours.
        owner: which home it belongs to, "" for everybody's.
        machine: the machine's id.
        image: `Image.id` of what it was made from.
        base: the snapshot of ours that its disk builds on, "" for the image's own.
        forgotten: snapshots that may go as soon as nothing builds on them, joined with blanks.
        notices: of an image, "clones" where it finds out by itself that it was cloned while it ran.
        gpu: the vGPU profile that it was given, "" for none.
    """

    role: str = ""
    owner: str = ""
    machine: str = ""
    image: str = ""
    base: str = ""
    forgotten: str = ""
    notices: str = ""
    gpu: str = ""

    def options(self, before: Marks | None = None) -> dict[str, str]:
        """The entries to write; with `before`, only those that differ."""
        old = before or Marks()
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        found = {_PREFIX + n: str(value) for n, value in values.items() if value != getattr(old, n)}
        if before is None and self.machine:
            found[MACHINE] = self.machine
        return found

    @classmethod
    def of(cls, options: Iterable[tuple[str, object]]) -> Marks:
        """The inverse of `options`, from all entries of a virtual machine; later ones win."""
        known = {_PREFIX + f.name: f.name for f in fields(cls)}
        return cls(**{known[key]: str(value) for key, value in options if key in known})

    def forget(self, snapshot_id: str) -> Marks:
        """The same with one more snapshot forgotten."""
        return replace(self, forgotten=" ".join(sorted({*self.forgotten.split(), snapshot_id})))

    def without(self, snapshot_ids: Iterable[str]) -> Marks:
        """The same without snapshots that are gone."""
        return replace(self, forgotten=" ".join(sorted({*self.forgotten.split()} - set(snapshot_ids))))


def keys_option(keys: LinkKeys) -> Mapping[str, str]:
    """The entry that gives a guest that boots its link keys; the host's secret is not among them."""
    told = {
        "server_public": keys.server_public,
        "server_secret": keys.server_secret,
        "client_public": keys.client_public,
    }
    return {KEYS: json.dumps(told)}
