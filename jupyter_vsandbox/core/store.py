"""The record of all sandboxes: one SQLite file that several processes use at once."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jupyter_vsandbox.domain.errors import (
    Conflict,
    Exhausted,
    InvalidState,
    NotFound,
    Permanent,
    Transient,
)
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
    """
    ALTER TABLE sandboxes ADD COLUMN folder TEXT NOT NULL DEFAULT '';
    """,
)
_BUSY_SECONDS = 30.0
_ASLEEP = f"state IN ('{State.HIBERNATED}', '{State.RESTORING}')"
"""Of a sandbox that is nothing but the snapshot it is at."""


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
    def _transaction(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """All of the block, seen by nobody before its end, or nothing of it; if `durable`, for good.

        Others may be lost with the host's power, the latest first.
        """
        with self._lock, _told():
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite undoes it by itself where the disk is full
                    self._db.execute("ROLLBACK")
                raise

    def add(self, sandbox: Sandbox, snapshot: Snapshot | None = None) -> None:
        """Record a new sandbox and, in the same step, the snapshot that it begins at, if it comes with one.

        Raises:
            Conflict: its id is taken.
            NotFound: the snapshot that it is to begin at is gone.
        """
        try:
            with self._transaction(durable=snapshot is not None) as db:
                _insert(db, "sandboxes", _to_row(sandbox))
                if snapshot is not None:
                    _insert(db, "snapshots", _snapshot_row(snapshot))
                _require_snapshot(db, sandbox)
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

    def version(self) -> int:
        """A number that is another one once somebody else has written, in this process or another."""
        with self._lock:
            return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def everything(self) -> tuple[list[Sandbox], list[Snapshot]]:
        """All records of one moment, oldest first."""
        with self._lock:
            self._db.execute("BEGIN")
            try:
                sandboxes = self._db.execute("SELECT * FROM sandboxes ORDER BY created, id").fetchall()
                snapshots = self._db.execute("SELECT * FROM snapshots ORDER BY created, id").fetchall()
            finally:
                self._db.execute("COMMIT")
        return [_from_row(row) for row in sandboxes], [_to_snapshot(row) for row in snapshots]

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
        try:
            with self._transaction(durable=True) as db:
                _insert(db, "snapshots", _snapshot_row(snapshot))
                return _change(db, snapshot.sandbox, None, values | {"snapshot": snapshot.id})
        except sqlite3.IntegrityError:
            raise Conflict(f"Sandbox {snapshot.sandbox} has a snapshot {snapshot.name!r} already.") from None

    def snapshot_ids(self) -> set[str]:
        """The ids of all snapshots."""
        with self._lock:
            return {row["id"] for row in self._db.execute("SELECT id FROM snapshots")}

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

    def label_snapshot(self, snapshot_id: str, **values: str) -> Snapshot:
        """Change the name or the note of a snapshot and return it as it is then.

        Raises:
            NotFound: there is none.
            Conflict: its history has another one of that name.
        """
        assignments = ", ".join(f"{column} = :{column}" for column in values)
        try:
            with self._transaction() as db:
                row = db.execute(
                    f"UPDATE snapshots SET {assignments} WHERE id = :id RETURNING *",  # noqa: S608
                    {**values, "id": snapshot_id},
                ).fetchone()
        except sqlite3.IntegrityError:
            name = values.get("name", "")
            raise Conflict(
                f"There is another snapshot {name!r} in its history; choose another name."
            ) from None
        if row is None:
            raise NotFound(f"There is no snapshot {snapshot_id}.")
        return _to_snapshot(row)

    def remove_snapshot(self, snapshot_id: str) -> str:
        """Forget a snapshot; those that followed it then follow its parent. Harmless twice.

        Returns:
            the sandbox that is hibernated at it, or on its way there: then nothing is done; else "".
        """
        with self._transaction() as db:
            asleep = db.execute(
                f"SELECT id FROM sandboxes WHERE snapshot = ? AND {_ASLEEP}",  # noqa: S608
                (snapshot_id,),
            ).fetchone()
            if asleep is not None:
                return str(asleep["id"])
            row = db.execute("DELETE FROM snapshots WHERE id = ? RETURNING parent", (snapshot_id,)).fetchone()
            if row is not None:
                for table, column in (("snapshots", "parent"), ("sandboxes", "snapshot")):
                    db.execute(
                        f"UPDATE {table} SET {column} = ? WHERE {column} = ?",  # noqa: S608
                        (row["parent"], snapshot_id),
                    )
        return ""

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

    def remove(self, sandbox_id: str) -> list[str]:
        """Forget a sandbox and its history. Harmless twice.

        A snapshot that another sandbox is hibernated at, or on its way to, becomes that one's.

        Returns:
            the ids of the snapshots that are gone.
        """
        with self._transaction() as db:
            heirs = db.execute(
                "SELECT snapshots.id, snapshots.name, min(sandboxes.id) AS heir "  # noqa: S608
                "FROM snapshots JOIN sandboxes ON sandboxes.snapshot = snapshots.id "
                f"WHERE snapshots.sandbox = :gone AND sandboxes.id != :gone AND sandboxes.{_ASLEEP} "
                "GROUP BY snapshots.id",
                {"gone": sandbox_id},
            ).fetchall()
            for row in heirs:
                taken = db.execute(
                    "SELECT 1 FROM snapshots WHERE sandbox = ? AND name = ?", (row["heir"], row["name"])
                ).fetchone()
                name = f"{row['name']}-{sandbox_id}" if taken else row["name"]
                db.execute(
                    "UPDATE snapshots SET sandbox = ?, name = ? WHERE id = ?", (row["heir"], name, row["id"])
                )
            gone = db.execute("SELECT id FROM snapshots WHERE sandbox = ?", (sandbox_id,)).fetchall()
            db.execute("DELETE FROM sandboxes WHERE id = ?", (sandbox_id,))
        return [row["id"] for row in gone]


def _insert(db: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    columns, marks = ", ".join(row), ", ".join(f":{name}" for name in row)
    db.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", row)  # noqa: S608


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
    after = Sandbox(**{**before.__dict__, **values})
    if "snapshot" in values:
        _require_snapshot(db, after)
    new = _to_row(after)
    assignments = ", ".join(f"{name} = :{name}" for name in new)
    db.execute(f"UPDATE sandboxes SET {assignments} WHERE id = :id", new)  # noqa: S608
    return _from_row(new)


def _require_snapshot(db: sqlite3.Connection, sandbox: Sandbox) -> None:
    """Nobody sets out for a snapshot that is gone: here, where nobody can remove it meanwhile."""
    found = db.execute("SELECT 1 FROM snapshots WHERE id = ?", (sandbox.snapshot,)).fetchone()
    if sandbox.snapshot and found is None:
        raise NotFound(f"There is no snapshot {sandbox.snapshot} any more.")


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Errors of SQLite that have to do with the host, in the project's words."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise Exhausted("The disk is full: the store of sandboxes cannot be written.") from error
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            raise Transient(f"The store of sandboxes was busy for {_BUSY_SECONDS:g} s; try again.") from error
        raise


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
