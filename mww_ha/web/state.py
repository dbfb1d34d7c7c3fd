"""What the service itself remembers: its queue of jobs, the hash of its token, who is signed in.

It stands beside the projects and not in a project's catalogue: there is one queue for the machine, whatever it works
on. SQLite in WAL mode, one connection behind a lock; every method may block and is called from threads only.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mww_ha.errors import ProjectError
from mww_ha.store import now, storage_errors

_MIGRATIONS = (
    """
    CREATE TABLE jobs (
        number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, project TEXT NOT NULL,
        orders TEXT NOT NULL, state TEXT NOT NULL, queued_at TEXT NOT NULL, started_at TEXT NOT NULL DEFAULT '',
        finished_at TEXT NOT NULL DEFAULT '', exit_code INTEGER, error TEXT NOT NULL DEFAULT '',
        message TEXT NOT NULL DEFAULT '', hint TEXT NOT NULL DEFAULT '', result TEXT NOT NULL DEFAULT 'null',
        asked_by TEXT NOT NULL DEFAULT '', retry_of TEXT NOT NULL DEFAULT ''
    ) STRICT;
    CREATE INDEX jobs_by_state ON jobs (state, number);
    CREATE TABLE tokens (name TEXT PRIMARY KEY, sha256 TEXT NOT NULL, made_at TEXT NOT NULL) STRICT;
    CREATE TABLE sessions (sha256 TEXT PRIMARY KEY, made_at TEXT NOT NULL) STRICT;
    """,
)

_JOB_COLUMNS = (
    "number", "id", "project", "orders", "state", "queued_at", "started_at", "finished_at", "exit_code", "error",
    "message", "hint", "result", "asked_by", "retry_of",
)  # fmt: skip

FINISHED = ("done", "failed", "cancelled", "interrupted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One job as it is kept."""

    number: int  # place in the queue
    id: str
    project: str
    orders: dict[str, Any]
    state: str  # queued | running | done | failed | cancelled | interrupted
    queued_at: str  # ISO 8601, UTC
    started_at: str
    finished_at: str
    exit_code: int | None
    error: str
    message: str
    hint: str
    result: Any
    asked_by: str
    retry_of: str


class State:
    """The service's own database."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._migrate()

    def _migrate(self) -> None:
        with self.transaction():
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > len(_MIGRATIONS):
                raise ProjectError(
                    f"{self.path} was made by a newer mww-ha (version {version})",
                    hint="update mww-ha, or start it with the version that made it",
                )
            for script in _MIGRATIONS[version:]:
                for statement in filter(str.strip, script.split(";")):
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version={len(_MIGRATIONS)}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All rows of the block or none; one thread at a time."""
        with self._lock, storage_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Closes the database."""
        with self._lock:
            self._db.close()

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def add_job(self, id: str, project: str, orders: dict[str, Any], asked_by: str, retry_of: str) -> None:
        """A new job at the end of the queue."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO jobs (id, project, orders, state, queued_at, asked_by, retry_of)"
                " VALUES (?, ?, ?, 'queued', ?, ?, ?)",
                (id, project, json.dumps(orders, sort_keys=True), now(), asked_by, retry_of),
            )

    def jobs(self, *states: str, limit: int = 1000) -> list[Row]:
        """Jobs in these states (or any), oldest first, the newest ``limit``."""
        where = f" WHERE state IN ({','.join('?' * len(states))})" if states else ""
        columns = ",".join(_JOB_COLUMNS)
        with self._lock:
            rows = self._db.execute(
                f"SELECT {columns} FROM jobs{where} ORDER BY number DESC LIMIT ?",  # noqa: S608  nothing in it is a user's
                (*states, limit),
            ).fetchall()
        return [_row(row) for row in reversed(rows)]

    def job(self, id: str) -> Row | None:
        """The job of that id."""
        with self._lock:
            row = self._db.execute(f"SELECT {','.join(_JOB_COLUMNS)} FROM jobs WHERE id = ?", (id,)).fetchone()  # noqa: S608
        return _row(row) if row else None

    def start_job(self, id: str) -> None:
        """Notes that it runs from now on."""
        with self.transaction():
            self._db.execute("UPDATE jobs SET state = 'running', started_at = ? WHERE id = ?", (now(), id))

    def finish_job(
        self,
        id: str,
        state: str,
        *,
        exit_code: int | None = None,
        error: str = "",
        message: str = "",
        hint: str = "",
        result: Any = None,
    ) -> None:
        """Notes how it ended."""
        with self.transaction():
            self._db.execute(
                "UPDATE jobs SET state = ?, finished_at = ?, exit_code = ?, error = ?, message = ?, hint = ?,"
                " result = ? WHERE id = ?",
                (state, now(), exit_code, error, message, hint, json.dumps(result), id),
            )

    def remove_jobs(self, ids: list[str]) -> None:
        """Forgets jobs (not their logs)."""
        with self.transaction():
            self._db.executemany("DELETE FROM jobs WHERE id = ?", [(id,) for id in ids])

    # --- tokens and sessions ------------------------------------------------------------------------------------------

    def token(self, name: str) -> str:
        """SHA-256 of the token of that name, "" for none."""
        with self._lock:
            row = self._db.execute("SELECT sha256 FROM tokens WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def put_token(self, name: str, sha256: str) -> None:
        """A new token; whoever signed in with the old one has to do it again."""
        with self.transaction():
            self._db.execute("INSERT OR REPLACE INTO tokens VALUES (?, ?, ?)", (name, sha256, now()))
            self._db.execute("DELETE FROM sessions")

    def sessions(self) -> dict[str, str]:
        """SHA-256 of every session's cookie, and when it was made; oldest first."""
        with self._lock:
            return dict(self._db.execute("SELECT sha256, made_at FROM sessions ORDER BY made_at, rowid").fetchall())

    def add_session(self, sha256: str, made_at: str) -> None:
        """Somebody signed in."""
        with self.transaction():
            self._db.execute("INSERT OR REPLACE INTO sessions VALUES (?, ?)", (sha256, made_at))

    def remove_sessions(self, hashes: list[str]) -> None:
        """Somebody signed out, or a session is too old."""
        with self.transaction():
            self._db.executemany("DELETE FROM sessions WHERE sha256 = ?", [(item,) for item in hashes])


def _row(row: tuple[Any, ...]) -> Row:
    values = dict(zip(_JOB_COLUMNS, row, strict=True))
    return Row(**{**values, "orders": json.loads(values["orders"]), "result": json.loads(values["result"])})
