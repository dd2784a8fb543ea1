"""The record of all sandboxes: one SQLite file that several processes use at once."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox.domain.errors import Conflict, InvalidState, NotFound, Permanent
from jupyter_vsandbox.domain.model import (
    Cause,
    Endpoint,
    LinkKeys,
    Sandbox,
    Shape,
    Snapshot,
    State,
    check_transition,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# One script per version; `PRAGMA user_version` says how many have run.
_MIGRATIONS = (
    """
    CREATE TABLE sandboxes (
        id TEXT PRIMARY KEY,
        runtime TEXT NOT NULL,
        image TEXT NOT NULL,
        driver TEXT NOT NULL,
        state TEXT NOT NULL,
        memory INTEGER NOT NULL,
        vcpus INTEGER NOT NULL,
        created REAL NOT NULL,
        kernel_id TEXT NOT NULL,
        notebook TEXT NOT NULL,
        owner TEXT NOT NULL,
        endpoint TEXT,
        keys TEXT
    ) STRICT;
    """,
    """
    ALTER TABLE sandboxes ADD COLUMN name TEXT NOT NULL DEFAULT '';
    ALTER TABLE sandboxes ADD COLUMN origin TEXT NOT NULL DEFAULT '';
    ALTER TABLE sandboxes ADD COLUMN snapshot TEXT NOT NULL DEFAULT '';
    CREATE TABLE snapshots (
        id TEXT PRIMARY KEY,
        sandbox TEXT NOT NULL REFERENCES sandboxes (id) ON DELETE CASCADE,
        machine TEXT NOT NULL,
        parent TEXT NOT NULL,
        name TEXT NOT NULL,
        note TEXT NOT NULL,
        cause TEXT NOT NULL,
        created REAL NOT NULL,
        memory INTEGER NOT NULL,
        cells INTEGER NOT NULL,
        size INTEGER NOT NULL,
        pause REAL NOT NULL,
        keys TEXT,
        UNIQUE (sandbox, name)
    ) STRICT;
    """,
)
_BUSY_SECONDS = 30.0


class Store:
    """Reads and writes `Sandbox` and `Snapshot` records. Only the service writes.

    Args:
        path: the database; made, readable by its owner only, if it does not exist.

    Raises:
        Permanent: the file was written by a later version of this package, or is no database.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        path.touch(mode=0o600)
        self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._db.row_factory = sqlite3.Row
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._migrate(path)
        except sqlite3.DatabaseError as error:
            raise Permanent(
                f"{path} cannot be used: {error}. Move it away to begin with a new one."
            ) from error

    def _migrate(self, path: Path) -> None:
        if self._version() == len(_MIGRATIONS):
            return
        with self._transaction():
            version = self._version()
            if version > len(_MIGRATIONS):
                raise Permanent(f"{path} is of a later version of jupyter_vsandbox; upgrade this one.")
            for script in _MIGRATIONS[version:]:
                for statement in filter(str.strip, script.split(";")):
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")

    def _version(self) -> int:
        return int(self._db.execute("PRAGMA user_version").fetchone()[0])

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block, seen by nobody before its end, or nothing of it."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def add(self, sandbox: Sandbox) -> None:
        """Record a new sandbox.

        Raises:
            Conflict: its id is taken.
        """
        row = _to_row(sandbox)
        columns = ", ".join(row)
        marks = ", ".join(f":{name}" for name in row)
        try:
            with self._transaction() as db:
                db.execute(f"INSERT INTO sandboxes ({columns}) VALUES ({marks})", row)  # noqa: S608
        except sqlite3.IntegrityError:
            raise Conflict(f"There is a sandbox {sandbox.id} already.") from None

    def get(self, sandbox_id: str) -> Sandbox:
        """The record of one sandbox.

        Raises:
            NotFound: there is none of that id.
        """
        with self._lock:
            row = self._db.execute("SELECT * FROM sandboxes WHERE id = ?", (sandbox_id,)).fetchone()
        if row is None:
            raise NotFound(f"There is no sandbox {sandbox_id}.")
        return _from_row(row)

    def all(self) -> list[Sandbox]:
        """All records, oldest first."""
        with self._lock:
            rows = self._db.execute("SELECT * FROM sandboxes ORDER BY created, id").fetchall()
        return [_from_row(row) for row in rows]

    def change(self, sandbox_id: str, expected: State | None = None, **values: Any) -> Sandbox:
        """Change fields of a record, all or none, and return it as it is then.

        Args:
            sandbox_id: which.
            expected: refuse unless this is its state.
            **values: new values of `Sandbox` fields. A state must be reachable from the old one.

        Raises:
            NotFound: there is none of that id.
            InvalidState: the state it is in forbids the change.
        """
        with self._transaction() as db:
            return _change(db, sandbox_id, expected, values)

    def claim_standby(
        self,
        driver: str,
        image: str,
        shape: Shape,
        newer_than: float,
        owner: str,
        kernel_id: str,
        notebook: str,
    ) -> Sandbox | None:
        """Give one standby to `owner`, for nobody else to get; `None` if there is none.

        Args:
            driver: name of the driver wanted.
            image: `Image.id` wanted.
            shape: size wanted.
            newer_than: leave older ones alone; seconds since the epoch.
            owner: see `Sandbox`.
            kernel_id: see `Sandbox`.
            notebook: see `Sandbox`.
        """
        with self._transaction() as db:
            row = db.execute(
                "UPDATE sandboxes SET state = ?, owner = ?, kernel_id = ?, notebook = ? WHERE id = ("
                "SELECT id FROM sandboxes WHERE state = ? AND driver = ? AND image = ? AND memory = ? "
                "AND vcpus = ? AND created > ? ORDER BY created LIMIT 1) RETURNING *",
                (
                    State.RUNNING,
                    owner,
                    kernel_id,
                    notebook,
                    State.STANDBY,
                    driver,
                    image,
                    shape.memory,
                    shape.vcpus,
                    newer_than,
                ),
            ).fetchone()
        return None if row is None else _from_row(row)

    def add_snapshot(self, snapshot: Snapshot, **values: Any) -> Sandbox:
        """Record a snapshot and, in the same step, that its sandbox is at it.

        Args:
            snapshot: the new one.
            **values: new values of the `Sandbox`, as for `change`.

        Raises:
            Conflict: its history has one of that name.
        """
        row = _snapshot_row(snapshot)
        columns, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
        try:
            with self._transaction() as db:
                db.execute(f"INSERT INTO snapshots ({columns}) VALUES ({marks})", row)  # noqa: S608
                return _change(db, snapshot.sandbox, None, values | {"snapshot": snapshot.id})
        except sqlite3.IntegrityError:
            raise Conflict(f"Sandbox {snapshot.sandbox} has a snapshot {snapshot.name!r} already.") from None

    def snapshots(self, sandbox_id: str) -> list[Snapshot]:
        """The history of a sandbox, oldest first."""
        with self._lock:
            rows = self._db.execute(
                "SELECT * FROM snapshots WHERE sandbox = ? ORDER BY created, id", (sandbox_id,)
            ).fetchall()
        return [_to_snapshot(row) for row in rows]

    def get_snapshot(self, snapshot_id: str) -> Snapshot:
        """One snapshot by its id.

        Raises:
            NotFound: there is none.
        """
        with self._lock:
            row = self._db.execute("SELECT * FROM snapshots WHERE id = ?", (snapshot_id,)).fetchone()
        if row is None:
            raise NotFound(f"There is no snapshot {snapshot_id}.")
        return _to_snapshot(row)

    def remove_snapshot(self, snapshot_id: str) -> None:
        """Forget a snapshot; those that followed it then follow its parent. Harmless twice."""
        with self._transaction() as db:
            row = db.execute("DELETE FROM snapshots WHERE id = ? RETURNING parent", (snapshot_id,)).fetchone()
            if row is not None:
                for table, column in (("snapshots", "parent"), ("sandboxes", "snapshot")):
                    db.execute(
                        f"UPDATE {table} SET {column} = ? WHERE {column} = ?",  # noqa: S608
                        (row["parent"], snapshot_id),
                    )

    def move_history(self, source: str, target: str) -> None:
        """Make the history of one sandbox part of another's; names that are taken get a suffix."""
        with self._transaction() as db:
            db.execute(
                "UPDATE snapshots SET sandbox = :target, name = CASE WHEN name IN "
                "(SELECT name FROM snapshots WHERE sandbox = :target) THEN name || '-' || :source "
                "ELSE name END WHERE sandbox = :source",
                {"source": source, "target": target},
            )

    def move_notebooks(self, old: str, new: str) -> list[Sandbox]:
        """Record that the notebook `old`, or all in the folder `old`, is at `new`; returns whose it is.

        Where `new` is "", there is no notebook any more, and sandboxes without a name get its file's.
        """
        with self._transaction() as db:
            rows = db.execute(
                "SELECT * FROM sandboxes WHERE notebook = :old OR substr(notebook, 1, length(:old) + 1) = "
                ":old || '/' ORDER BY created, id",
                {"old": old},
            ).fetchall()
            moved = []
            for sandbox in map(_from_row, rows):
                values = {"notebook": new and new + sandbox.notebook.removeprefix(old)}
                if not new and not sandbox.name:
                    values["name"] = sandbox.notebook.rpartition("/")[2]
                moved.append(_change(db, sandbox.id, None, values))
        return moved

    def remove(self, sandbox_id: str) -> None:
        """Forget a sandbox and its history. Harmless twice."""
        with self._transaction() as db:
            db.execute("DELETE FROM sandboxes WHERE id = ?", (sandbox_id,))


def _change(
    db: sqlite3.Connection, sandbox_id: str, expected: State | None, values: dict[str, Any]
) -> Sandbox:
    row = db.execute("SELECT * FROM sandboxes WHERE id = ?", (sandbox_id,)).fetchone()
    if row is None:
        raise NotFound(f"There is no sandbox {sandbox_id}.")
    before = _from_row(row)
    subject = f"Sandbox {sandbox_id}"
    target = values.get("state", before.state)
    if expected is not None and before.state != expected:
        raise InvalidState(subject, before.state, {expected})
    if target != before.state:
        check_transition(subject, before.state, target)
    new = _to_row(Sandbox(**{**before.__dict__, **values}))
    assignments = ", ".join(f"{name} = :{name}" for name in new)
    db.execute(f"UPDATE sandboxes SET {assignments} WHERE id = :id", new)  # noqa: S608
    return _from_row(new)


def _snapshot_row(snapshot: Snapshot) -> dict[str, Any]:
    row = dict(snapshot.__dict__, cause=str(snapshot.cause))
    row.update(memory=int(snapshot.memory), cells=int(snapshot.cells))
    row["keys"] = None if snapshot.keys is None else json.dumps(asdict(snapshot.keys))
    return row


def _to_snapshot(row: sqlite3.Row) -> Snapshot:
    values = dict(row)
    values.update(cause=Cause(values["cause"]), memory=bool(values["memory"]), cells=bool(values["cells"]))
    if values["keys"] is not None:
        values["keys"] = LinkKeys(**json.loads(values["keys"]))
    return Snapshot(**values)


def _to_row(sandbox: Sandbox) -> dict[str, Any]:
    row = dict(sandbox.__dict__)
    shape: Shape = row.pop("shape")
    row["state"] = str(sandbox.state)
    row.update(memory=shape.memory, vcpus=shape.vcpus)
    for name in ("endpoint", "keys"):
        row[name] = None if row[name] is None else json.dumps(asdict(row[name]))
    return row


def _from_row(row: sqlite3.Row | dict[str, Any]) -> Sandbox:
    values = dict(row)
    values["state"] = State(values["state"])
    values["shape"] = Shape(memory=values.pop("memory"), vcpus=values.pop("vcpus"))
    if values["endpoint"] is not None:
        values["endpoint"] = Endpoint(**json.loads(values["endpoint"]))
    if values["keys"] is not None:
        values["keys"] = LinkKeys(**json.loads(values["keys"]))
    return Sandbox(**values)
