"""Where things lie, and the catalogue (SQLite, WAL) that knows them.

Order of every write: the file beside its place, renamed into it, the row last. A crash at any point
leaves either the old state or a file without a row, never a row without its file.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import reprlib
import shlex
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import yaml

from mww_ha import config
from mww_ha.errors import ConfigError, ProjectError, StorageError
from mww_ha.schema import (
    Capture,
    CaptureKind,
    CaptureScore,
    Clip,
    Exposure,
    Flash,
    Judgement,
    Label,
    Origin,
    Person,
    Session,
    Token,
    Verdict,
)

PROJECT_FILE = "project.yaml"
CATALOGUE_FILE = "catalogue.sqlite"
_LONGEST_SLUG = 64
_BUSY_S = 30.0  # others that write are waited for

_MIGRATIONS = (
    """
    CREATE TABLE clips (
        id TEXT PRIMARY KEY, path TEXT NOT NULL, sha256 TEXT NOT NULL, label TEXT NOT NULL, origin TEXT NOT NULL,
        duration_s REAL NOT NULL, speaker TEXT NOT NULL, session TEXT NOT NULL, take TEXT NOT NULL,
        text TEXT NOT NULL, language TEXT NOT NULL, licence TEXT NOT NULL, source TEXT NOT NULL,
        parent TEXT NOT NULL
    ) STRICT;
    CREATE INDEX clips_by_label ON clips (label, origin);
    CREATE TABLE stages (
        stage TEXT PRIMARY KEY, inputs TEXT NOT NULL, result TEXT NOT NULL, finished_at TEXT NOT NULL
    ) STRICT;
    CREATE TABLE runs (id TEXT PRIMARY KEY, started_at TEXT NOT NULL, document TEXT NOT NULL) STRICT;
    CREATE TABLE models (id TEXT PRIMARY KEY, made_at TEXT NOT NULL, document TEXT NOT NULL) STRICT;
    """,
    """
    CREATE TABLE flashes (
        id TEXT PRIMARY KEY, device TEXT NOT NULL, started_at TEXT NOT NULL, document TEXT NOT NULL
    ) STRICT;
    CREATE INDEX flashes_by_device ON flashes (device, started_at);
    """,
    """
    CREATE TABLE captures (
        id TEXT PRIMARY KEY, device TEXT NOT NULL, upload TEXT NOT NULL, kind TEXT NOT NULL, captured_at TEXT NOT NULL,
        received_at TEXT NOT NULL, wake_word TEXT NOT NULL, model TEXT NOT NULL, firmware TEXT NOT NULL,
        gain REAL NOT NULL, session TEXT NOT NULL, trigger_s REAL NOT NULL, path TEXT NOT NULL, sha256 TEXT NOT NULL,
        bytes INTEGER NOT NULL, duration_s REAL NOT NULL, verdict TEXT NOT NULL, person TEXT NOT NULL,
        outcome TEXT NOT NULL, UNIQUE (device, upload)
    ) STRICT;
    CREATE INDEX captures_by_verdict ON captures (verdict, captured_at);
    CREATE INDEX captures_by_path ON captures (path);
    CREATE TABLE capture_scores (
        capture TEXT NOT NULL, model TEXT NOT NULL, scored_at TEXT NOT NULL, peak REAL NOT NULL, peak_s REAL NOT NULL,
        cutoff REAL NOT NULL, detections_s TEXT NOT NULL, reproduced INTEGER NOT NULL, trace BLOB NOT NULL,
        problem TEXT NOT NULL, PRIMARY KEY (capture, model)
    ) STRICT;
    CREATE TABLE judgements (
        number INTEGER PRIMARY KEY AUTOINCREMENT, capture TEXT NOT NULL, batch TEXT NOT NULL, verdict TEXT NOT NULL,
        person TEXT NOT NULL, before TEXT NOT NULL, person_before TEXT NOT NULL, by TEXT NOT NULL, at TEXT NOT NULL,
        undoes INTEGER NOT NULL, undone INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX judgements_by_capture ON judgements (capture, number);
    CREATE TABLE captures_gone (
        day TEXT NOT NULL, device TEXT NOT NULL, model TEXT NOT NULL, kind TEXT NOT NULL, verdict TEXT NOT NULL,
        number INTEGER NOT NULL, PRIMARY KEY (day, device, model, kind, verdict)
    ) STRICT;
    CREATE TABLE exposure (
        device TEXT NOT NULL, model TEXT NOT NULL, day TEXT NOT NULL, listening_s REAL NOT NULL, lost INTEGER NOT NULL,
        PRIMARY KEY (device, model, day)
    ) STRICT;
    CREATE TABLE counters (
        device TEXT PRIMARY KEY, at TEXT NOT NULL, models TEXT NOT NULL, listening_s REAL NOT NULL,
        dropped INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE tokens (
        sha256 TEXT PRIMARY KEY, device TEXT NOT NULL, scope TEXT NOT NULL, made_at TEXT NOT NULL,
        last_used_at TEXT NOT NULL, revoked_at TEXT NOT NULL
    ) STRICT;
    CREATE TABLE removals (path TEXT PRIMARY KEY) STRICT;
    CREATE INDEX clips_by_path ON clips (path);
    CREATE INDEX clips_by_parent ON clips (parent);
    """,
    """
    CREATE TABLE people (
        name TEXT PRIMARY KEY, consented_at TEXT NOT NULL, noted_by TEXT NOT NULL, purpose TEXT NOT NULL,
        may_share INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE sessions (
        id TEXT PRIMARY KEY, sitting TEXT NOT NULL, person TEXT NOT NULL, device TEXT NOT NULL,
        audio_path TEXT NOT NULL, place TEXT NOT NULL, started_at TEXT NOT NULL, wanted INTEGER NOT NULL,
        taken INTEGER NOT NULL, refused INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX sessions_by_person ON sessions (person, started_at);
    CREATE TABLE transcripts (capture TEXT PRIMARY KEY, text TEXT NOT NULL, at TEXT NOT NULL) STRICT;
    CREATE INDEX clips_by_speaker ON clips (speaker);
    CREATE INDEX captures_by_session ON captures (session);
    """,
)

_CLIP_COLUMNS = tuple(f.name for f in dataclasses.fields(Clip))
COMPLETED = ("speaker", "session", "text", "language", "licence")
"""What may be said of a clip when it is there already."""

_CAPTURE_COLUMNS = tuple(f.name for f in dataclasses.fields(Capture))
_SCORE_COLUMNS = tuple(f.name for f in dataclasses.fields(CaptureScore))
_JUDGEMENT_COLUMNS = tuple(f.name for f in dataclasses.fields(Judgement))
_TOKEN_COLUMNS = tuple(f.name for f in dataclasses.fields(Token))
_PERSON_COLUMNS = tuple(f.name for f in dataclasses.fields(Person))
_SESSION_COLUMNS = tuple(f.name for f in dataclasses.fields(Session))
_EXPOSURE_COLUMNS = tuple(f.name for f in dataclasses.fields(Exposure))


def now() -> str:
    """The present moment, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns what the disk says into a StorageError that names ``path`` (see ``explain_storage``)."""
    try:
        yield
    except (OSError, sqlite3.DatabaseError) as error:
        if known := explain_storage(error, path):
            raise known from error
        raise


def explain_storage(error: Exception, path: Path) -> StorageError | None:
    """What the disk says of ``path``: it is full, not to be written, no folder can be made there, or it holds a damaged
    database. None: something else.
    """
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return StorageError(f"no space left to write {path}", hint="free some space and run it again")
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return StorageError(f"not allowed to write {path}", hint="check owner and permissions")
        if error.errno == errno.ENAMETOOLONG:
            return StorageError(f"cannot write {path}: its name is too long", hint="choose a shorter one")
        if error.errno in (errno.ENOTDIR, errno.ENOENT, errno.EEXIST) and _is_about_folders(error, path):
            return StorageError(f"cannot write {path}: {_no_folder(path)}", hint="name another place")
    if isinstance(error, sqlite3.DatabaseError):
        code = sqlite_code(error)
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return StorageError(f"{path} is damaged: {error}", hint="for the way out: mww-ha doctor")
        denied = code in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
        if denied or "disk" in str(error) or "readonly" in str(error):
            return StorageError(f"cannot write {path}: {error}", hint="free some space or check permissions")
    return None


def sqlite_code(error: sqlite3.Error) -> int:
    """SQLite's own number, without what it says besides; 0: none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _is_about_folders(error: OSError, path: Path) -> bool:
    """Whether the folder that ``path`` goes into is what is wrong, or ``path`` itself where it is to be a folder."""
    about = Path(error.filename) if isinstance(error.filename, str) else None
    return not path.parent.is_dir() or about == path


def _no_folder(path: Path) -> str:
    for folder in (path, *path.parents):
        if folder.exists():
            return f"no folder can be made in {folder}" if folder.is_dir() else f"{folder} is not a folder"
    return f"{path.parent} is not a folder"


def make_place(path: Path) -> None:
    """Makes the folder that a file at ``path`` goes into. Raises StorageError where no plain file can be there."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            # Renaming over a device would end it for the whole system.
            raise StorageError(f"{path} is there already and is no plain file", hint="name another file")


@contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A binary file beside ``path`` that is renamed into place when the block ends without an error.

    ``durable`` also waits until the bytes are on the disk; leave it off for what can be made again.
    """
    make_place(path)
    with storage_errors(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def write_text(path: Path, text: str) -> None:
    """``text`` as UTF-8, all of it or nothing."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, all of it or nothing."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def link_file(source: Path, target: Path) -> bool:
    """Makes ``target`` the same file as ``source``, or a copy where links are not possible. False: there is no source.

    For files that are replaced and never changed.
    """
    with storage_errors(target):
        target.unlink(missing_ok=True)
        try:
            target.hardlink_to(source)
        except FileNotFoundError:
            return False
        except OSError:
            with source.open("rb") as original, atomic_write(target, durable=False) as file:
                shutil.copyfileobj(original, file)
    return True


class Catalogue:
    """The rows: clips, finished stages, runs, models, captures. One per project; safe for several processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage_errors(path):
            self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
            self._use_wal()
            self._db.execute("PRAGMA synchronous=NORMAL")
            # What is deleted or replaced is overwritten: nothing of somebody who was deleted stays in free pages.
            self._db.execute("PRAGMA secure_delete=ON")
            self._migrate()

    def _use_wal(self) -> None:
        """SQLite refuses at once, whatever its timeout says, while another connection is being opened or closed."""
        deadline = time.monotonic() + _BUSY_S
        while True:
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
            time.sleep(0.01)

    def _migrate(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(_MIGRATIONS):
            raise ProjectError(
                f"{self.path} was made by a newer mww-ha (catalogue version {version})",
                hint="update mww-ha, or open the project with the version that made it",
            )
        if version == len(_MIGRATIONS):
            return
        with self.transaction():
            # Asked again inside: another process may have been faster.
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            for script in _MIGRATIONS[version:]:
                for statement in filter(str.strip, script.split(";")):
                    self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version={len(_MIGRATIONS)}")

    def close(self) -> None:
        """Closes the database."""
        self._db.close()

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """All rows of the block or none; inside another one it is part of that one.

        ``durable`` waits until the rows are on the disk: for what was promised to somebody. Without it they outlive
        this process, but a power cut may take the last ones.
        """
        if self._db.in_transaction:
            yield
            return
        with storage_errors(self.path):
            if durable:
                self._db.execute("PRAGMA synchronous=FULL")
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield
                    self._db.execute("COMMIT")
                except BaseException:
                    self._roll_back()
                    raise
            finally:
                if durable:
                    self._db.execute("PRAGMA synchronous=NORMAL")

    def _roll_back(self) -> None:
        if self._db.in_transaction:  # a full disk may have ended it already
            self._db.execute("ROLLBACK")

    def add_clips(self, clips: Iterable[Clip]) -> int:
        """Adds clips whose files are in place; those already known stay as they are. Returns how many were new."""
        marks = ",".join("?" * len(_CLIP_COLUMNS))
        rows = [tuple(getattr(clip, name) for name in _CLIP_COLUMNS) for clip in clips]
        with self.transaction():
            before = self._db.total_changes
            self._db.executemany(f"INSERT OR IGNORE INTO clips VALUES ({marks})", rows)  # noqa: S608  marks are "?,?"
            return self._db.total_changes - before

    def complete_clips(self, clips: Iterable[Clip]) -> None:
        """Writes what these clips say of themselves where the rows say nothing yet; what is known stays."""
        sets = ", ".join(f"{name} = iif({name} = '', ?, {name})" for name in COMPLETED)
        rows = [(*(getattr(clip, name) for name in COMPLETED), clip.id) for clip in clips]
        with self.transaction():
            self._db.executemany(f"UPDATE clips SET {sets} WHERE id = ?", rows)  # noqa: S608  nothing in it is a user's

    def clips(self, *labels: Label, origin: Origin | None = None) -> list[Clip]:
        """Clips in the order of their ids, which does not depend on when they were added."""
        wheres, values = [], list[str]()
        if labels:
            wheres.append(f"label IN ({','.join('?' * len(labels))})")
            values += labels
        if origin:
            wheres.append("origin = ?")
            values.append(origin)
        where = f" WHERE {' AND '.join(wheres)}" if wheres else ""
        rows = self._db.execute(f"SELECT {','.join(_CLIP_COLUMNS)} FROM clips{where} ORDER BY id", values)  # noqa: S608  nothing in it is a user\'s
        return [_clip(row) for row in rows]

    def clips_by_id(self, ids: Iterable[str]) -> dict[str, Clip]:
        """Those of these clips that are there."""
        rows = self._db.execute(
            f"SELECT {','.join(_CLIP_COLUMNS)} FROM clips WHERE id IN (SELECT value FROM json_each(?))",  # noqa: S608
            (json.dumps(list(ids)),),
        )
        return {clip.id: clip for clip in map(_clip, rows)}

    def clips_cut_from(self, parents: Iterable[str]) -> list[Clip]:
        """Clips whose parent is one of these captures (or clips)."""
        rows = self._db.execute(
            f"SELECT {','.join(_CLIP_COLUMNS)} FROM clips WHERE parent IN (SELECT value FROM json_each(?)) ORDER BY id",  # noqa: S608
            (json.dumps(list(parents)),),
        )
        return [_clip(row) for row in rows]

    def remove_clips(self, ids: Iterable[str]) -> None:
        """Forgets rows (not files)."""
        with self.transaction():
            self._db.executemany("DELETE FROM clips WHERE id = ?", [(i,) for i in ids])

    def stage(self, stage: str) -> tuple[str, dict[str, Any]] | None:
        """The inputs' digest and the result of the last finished run of ``stage``."""
        row = self._db.execute("SELECT inputs, result FROM stages WHERE stage = ?", (stage,)).fetchone()
        return (row[0], json.loads(row[1])) if row else None

    def finish_stage(self, stage: str, inputs: str, result: Mapping[str, Any]) -> None:
        """Notes that ``stage`` is done for these inputs."""
        with self.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO stages VALUES (?, ?, ?, ?)", (stage, inputs, json.dumps(result), now())
            )

    def put_run(self, id: str, started_at: str, document: Mapping[str, Any]) -> None:
        """A training run's journal entry, new or updated."""
        with self.transaction():
            self._db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?)", (id, started_at, json.dumps(document)))

    def runs(self) -> list[dict[str, Any]]:
        """Journal entries, newest first."""
        rows = self._db.execute("SELECT document FROM runs ORDER BY started_at DESC, id")
        return [json.loads(row[0]) for row in rows]

    def put_model(self, id: str, document: Mapping[str, Any]) -> None:
        """A vouched-for model's entry, new or updated."""
        with self.transaction():
            self._db.execute("INSERT OR REPLACE INTO models VALUES (?, ?, ?)", (id, now(), json.dumps(document)))

    def models(self) -> list[dict[str, Any]]:
        """Model entries, newest first."""
        return [json.loads(row[0]) for row in self._db.execute("SELECT document FROM models ORDER BY made_at DESC, id")]

    def update_model(self, id: str, **values: Any) -> None:
        """Sets values in a model's entry; its place in the order stays."""
        with self.transaction():
            for (text,) in self._db.execute("SELECT document FROM models WHERE id = ?", (id,)).fetchall():
                document = json.dumps(json.loads(text) | values)
                self._db.execute("UPDATE models SET document = ? WHERE id = ?", (document, id))

    def put_flash(self, flash: Flash) -> None:
        """An attempt to flash a device, new or updated."""
        with self.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO flashes VALUES (?, ?, ?, ?)",
                (flash.id, flash.device, flash.started_at, json.dumps(dataclasses.asdict(flash))),
            )

    def flashes(self, device: str | None = None) -> list[Flash]:
        """Attempts to flash ``device`` (or any), newest first."""
        where, values = ("", ()) if device is None else (" WHERE device = ?", (device,))
        rows = self._db.execute(f"SELECT document FROM flashes{where} ORDER BY started_at DESC, rowid DESC", values)  # noqa: S608  nothing in it is a user's
        return [Flash(**json.loads(row[0])) for row in rows]

    # ---- captures --------------------------------------------------------------------------------------------------

    def add_capture(self, capture: Capture) -> None:
        """A capture whose file is in place. ``upload`` must be new for its device."""
        with self.transaction():
            self._insert("captures", _CAPTURE_COLUMNS, capture)

    def captures(
        self,
        ids: Iterable[str] | None = None,
        *,
        verdicts: Iterable[Verdict] = (),
        kinds: Iterable[CaptureKind] = (),
        device: str = "",
        since: str = "",
        before: str = "",
        newest_first: bool = False,
        limit: int = -1,
        offset: int = 0,
    ) -> list[Capture]:
        """Captures by the moment they were triggered; each given filter narrows. ``since`` and ``before``: ISO 8601."""
        wheres, values = ["1"], list[Any]()
        for column, wanted in (
            ("id", None if ids is None else list(ids)),
            ("verdict", list(verdicts) or None),
            ("kind", list(kinds) or None),
        ):
            if wanted is not None:
                wheres.append(f"{column} IN (SELECT value FROM json_each(?))")  # noqa: S608
                values.append(json.dumps(wanted))
        for condition, value in (("device = ?", device), ("captured_at >= ?", since), ("captured_at < ?", before)):
            if value:
                wheres.append(condition)
                values.append(value)
        order = "DESC" if newest_first else "ASC"
        rows = self._db.execute(
            f"SELECT {','.join(_CAPTURE_COLUMNS)} FROM captures WHERE {' AND '.join(wheres)} "  # noqa: S608
            f"ORDER BY captured_at {order}, id {order} LIMIT ? OFFSET ?",
            [*values, limit, offset],
        )
        return [_capture(row) for row in rows]

    def find_upload(self, device: str, upload: str) -> Capture | None:
        """The capture that ``device`` calls ``upload``."""
        rows = self._db.execute(
            f"SELECT {','.join(_CAPTURE_COLUMNS)} FROM captures WHERE device = ? AND upload = ?",  # noqa: S608
            (device, upload),
        )
        return next((_capture(row) for row in rows), None)

    def update_capture(self, id: str, **values: str) -> None:
        """Sets verdict, person, outcome, path."""
        assert values.keys() <= {"verdict", "person", "outcome", "path"}
        sets = ", ".join(f"{name} = ?" for name in values)
        with self.transaction():
            self._db.execute(f"UPDATE captures SET {sets} WHERE id = ?", [*values.values(), id])  # noqa: S608  names as above

    def remove_captures(self, captures: Iterable[Capture]) -> None:
        """Forgets captures with everything that hangs on them; an anonymous count per day is left for the rates."""
        with self.transaction():
            for capture in captures:
                key = (capture.captured_at[:10], capture.device, capture.model, capture.kind, capture.verdict)
                self._db.execute(
                    "INSERT INTO captures_gone VALUES (?, ?, ?, ?, ?, 1) ON CONFLICT DO UPDATE SET number = number + 1",
                    key,
                )
                self._db.execute("DELETE FROM captures WHERE id = ?", (capture.id,))
                self._db.execute("DELETE FROM capture_scores WHERE capture = ?", (capture.id,))
                self._db.execute("DELETE FROM judgements WHERE capture = ?", (capture.id,))
                self._db.execute("DELETE FROM transcripts WHERE capture = ?", (capture.id,))

    def captures_gone(self, since: str = "") -> list[tuple[str, str, CaptureKind, Verdict, int]]:
        """(device, model, kind, verdict, number) of captures that were removed, from the day ``since`` on."""
        rows = self._db.execute(
            "SELECT device, model, kind, verdict, sum(number) FROM captures_gone WHERE day >= ? "
            "GROUP BY device, model, kind, verdict",
            (since,),
        )
        return [(device, model, CaptureKind(kind), Verdict(v), number) for device, model, kind, v, number in rows]

    def capture_bytes(self) -> int:
        """Room that the sound of all captures takes."""
        row = self._db.execute("SELECT coalesce(sum(bytes), 0) FROM captures WHERE path != ''").fetchone()
        return int(row[0])

    def put_score(self, score: CaptureScore) -> None:
        """What a model makes of a capture, new or again; nothing when the capture is gone by now."""
        document = json.dumps(score.detections_s)
        values = [document if name == "detections_s" else getattr(score, name) for name in _SCORE_COLUMNS]
        marks = ",".join("?" * len(values))
        with self.transaction():
            self._db.execute(
                f"INSERT OR REPLACE INTO capture_scores SELECT {marks} "  # noqa: S608  marks are "?,?"
                "WHERE EXISTS (SELECT 1 FROM captures WHERE id = ?)",
                [*values, score.capture],
            )

    def scores(self, captures: Iterable[str] | None = None, *, model: str = "") -> list[CaptureScore]:
        """Scores of these captures (or all), by ``model`` (or any); of one capture the newest last."""
        wheres, values = ["1"], list[str]()
        if captures is not None:
            wheres.append("capture IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(list(captures)))
        if model:
            wheres.append("model = ?")
            values.append(model)
        columns, where = ",".join(_SCORE_COLUMNS), " AND ".join(wheres)
        rows = self._db.execute(
            f"SELECT {columns} FROM capture_scores WHERE {where} ORDER BY capture, scored_at, model",  # noqa: S608
            values,
        )
        return [_score(row) for row in rows]

    def add_judgement(self, judgement: Judgement) -> int:
        """A new entry of a capture's history (its ``number`` is given here), and the verdict that it sets."""
        columns = _JUDGEMENT_COLUMNS[1:]
        with self.transaction():
            cursor = self._insert("judgements", columns, judgement)
            if judgement.undoes:
                self._db.execute("UPDATE judgements SET undone = 1 WHERE number = ?", (judgement.undoes,))
            self.update_capture(judgement.capture, verdict=judgement.verdict, person=judgement.person)
        return cursor

    def judgements(self, capture: str = "", *, by: str = "", batch: str = "") -> list[Judgement]:
        """History of one capture, one person or one batch, newest first."""
        wheres, values = ["1"], list[str]()
        for column, value in (("capture", capture), ("by", by), ("batch", batch)):
            if value:
                wheres.append(f"{column} = ?")
                values.append(value)
        columns, where = ",".join(_JUDGEMENT_COLUMNS), " AND ".join(wheres)
        rows = self._db.execute(f"SELECT {columns} FROM judgements WHERE {where} ORDER BY number DESC", values)  # noqa: S608
        return [_judgement(row) for row in rows]

    def remove_file(self, *paths: str) -> None:
        """Notes files that may go once no row names them; ``sweep`` deletes them, also after a crash."""
        with self.transaction():
            self._db.executemany("INSERT OR IGNORE INTO removals VALUES (?)", [(path,) for path in paths if path])

    def sweep(self, root: Path) -> int:
        """Deletes noted files that no clip and no capture names. Returns how many. Raises StorageError."""
        if self._db.execute("SELECT 1 FROM removals LIMIT 1").fetchone() is None:
            return 0
        number = 0
        # Inside the transaction nobody can add a row for a file that is about to go.
        with self.transaction():
            for (path,) in self._db.execute("SELECT path FROM removals").fetchall():
                if not self.names_file(path):
                    with storage_errors(root / path):
                        number += (root / path).exists()
                        (root / path).unlink(missing_ok=True)
                self._db.execute("DELETE FROM removals WHERE path = ?", (path,))
        return number

    def names_file(self, path: str) -> bool:
        """Whether a capture or a clip lies there."""
        used = self._db.execute(
            "SELECT 1 FROM captures WHERE path = ? UNION ALL SELECT 1 FROM clips WHERE path = ?", (path, path)
        )
        return used.fetchone() is not None

    def files_to_remove(self) -> list[str]:
        """Noted files that ``sweep`` has not seen to yet."""
        return [row[0] for row in self._db.execute("SELECT path FROM removals ORDER BY path")]

    def check_integrity(self) -> list[str]:
        """What SQLite finds wrong with the file; empty: nothing."""
        return [row[0] for row in self._db.execute("PRAGMA integrity_check(10)") if row[0] != "ok"]

    def put_transcript(self, capture: str, text: str) -> None:
        """What speech-to-text read in a capture, empty where it read nothing; nothing when the capture is gone."""
        with self.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO transcripts SELECT ?, ?, ? WHERE EXISTS (SELECT 1 FROM captures WHERE id = ?)",
                (capture, text, now(), capture),
            )

    def transcripts(self, captures: Iterable[str] | None = None) -> dict[str, str]:
        """What speech-to-text read, by capture: of these or of all that were transcribed."""
        if captures is None:
            rows = self._db.execute("SELECT capture, text FROM transcripts")
        else:
            rows = self._db.execute(
                "SELECT capture, text FROM transcripts WHERE capture IN (SELECT value FROM json_each(?))",
                (json.dumps(list(captures)),),
            )
        return dict(rows.fetchall())

    # ---- people ----------------------------------------------------------------------------------------------------

    def put_person(self, person: Person) -> None:
        """Who agreed to what, new or updated."""
        with self.transaction(durable=True):
            self._insert("people", _PERSON_COLUMNS, person, or_replace=True)

    def people(self) -> list[Person]:
        """Everybody who agreed to be recorded, by name."""
        rows = self._db.execute(f"SELECT {','.join(_PERSON_COLUMNS)} FROM people ORDER BY name")  # noqa: S608
        return [_person(row) for row in rows]

    def put_session(self, session: Session) -> None:
        """A sitting's session, new or updated."""
        with self.transaction():
            self._insert("sessions", _SESSION_COLUMNS, session, or_replace=True)

    def sessions(self, *, person: str = "", sitting: str = "", id: str = "") -> list[Session]:
        """Sessions in the order in which they began; each given filter narrows."""
        wheres, values = ["1"], list[str]()
        for column, value in (("person", person), ("sitting", sitting), ("id", id)):
            if value:
                wheres.append(f"{column} = ?")
                values.append(value)
        columns, where = ",".join(_SESSION_COLUMNS), " AND ".join(wheres)
        rows = self._db.execute(f"SELECT {columns} FROM sessions WHERE {where} ORDER BY started_at, rowid", values)  # noqa: S608
        return [Session(**dict(zip(_SESSION_COLUMNS, row, strict=True))) for row in rows]

    def count_take(self, session: str, *, taken: int = 0, refused: int = 0) -> None:
        """Adds to what a session has."""
        with self.transaction():
            self._db.execute(
                "UPDATE sessions SET taken = taken + ?, refused = refused + ? WHERE id = ?", (taken, refused, session)
            )

    def remove_person(self, name: str) -> list[Session]:
        """Forgets a person and this person's sessions, which are returned; clips and captures stay."""
        with self.transaction():
            gone = self.sessions(person=name)
            self._db.execute("DELETE FROM people WHERE name = ?", (name,))
            self._db.execute("DELETE FROM sessions WHERE person = ?", (name,))
        return gone

    def forget_speaker(self, name: str) -> None:
        """Takes a name out of the history of captures that are not this person's any more."""
        with self.transaction():
            self._db.execute("UPDATE judgements SET person = '' WHERE person = ?", (name,))
            self._db.execute("UPDATE judgements SET person_before = '' WHERE person_before = ?", (name,))

    def mark_document(self, table: str, id: str, mark: str, entry: Mapping[str, Any]) -> None:
        """Adds ``entry`` to the list ``mark`` of a run's or a model's document; its place in the order stays."""
        assert table in ("runs", "models")
        with self.transaction():
            for (text,) in self._db.execute(f"SELECT document FROM {table} WHERE id = ?", (id,)).fetchall():  # noqa: S608
                document = json.loads(text)
                document[mark] = [*document.get(mark, []), dict(entry)]
                self._db.execute(f"UPDATE {table} SET document = ? WHERE id = ?", (json.dumps(document), id))  # noqa: S608

    def write_copy(self, path: Path) -> None:
        """All rows of this moment as one file at ``path``, without a log beside it. Raises StorageError."""
        with storage_errors(path):
            copy = sqlite3.connect(path, isolation_level=None)
            try:
                self._db.backup(copy)
                copy.execute("PRAGMA journal_mode=DELETE")
            finally:
                copy.close()

    def is_empty(self) -> bool:
        """Whether nothing was ever written into it."""
        return not any(self._db.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in self._tables())  # noqa: S608

    def take_over(self, other: Path) -> None:
        """All rows of the catalogue at ``other``, of the same version, into this one, which has to be empty.

        Files that ``other`` wanted removed are not. Raises ProjectError.
        """
        with storage_errors(self.path):
            self._db.execute("ATTACH DATABASE ? AS other", (str(other),))
        try:
            with self.transaction(durable=True):
                if not self.is_empty():
                    raise ProjectError(
                        f"{self.path.parent} is not empty any more", hint="take it over into a new project"
                    )
                for table in self._tables():
                    if table == "removals":
                        continue
                    rows = self._db.execute(f"PRAGMA main.table_info({table})")
                    columns = ",".join(str(row[1]) for row in rows)
                    self._db.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM other.{table}")  # noqa: S608
        except (sqlite3.IntegrityError, sqlite3.OperationalError) as error:
            raise ProjectError(f"{other.name} is not a catalogue of mww-ha: {error}", hint="it is damaged") from None
        finally:
            self._db.execute("DETACH DATABASE other")

    def _tables(self) -> list[str]:
        rows = self._db.execute(
            "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
        )
        return [str(row[0]) for row in rows]

    def empty_log(self) -> bool:
        """Writes the write-ahead log back, so that nothing deleted stays in it. False: somebody reads in it."""
        with storage_errors(self.path):
            return bool(self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)

    # ---- listening time --------------------------------------------------------------------------------------------

    def counter(self, device: str) -> tuple[str, str, float, int] | None:
        """The last reading of a satellite: when, its models as text, listening seconds, dropped captures."""
        row = self._db.execute("SELECT at, models, listening_s, dropped FROM counters WHERE device = ?", (device,))
        return next(((at, models, seconds, dropped) for at, models, seconds, dropped in row), None)

    def put_counter(self, device: str, at: str, models: str, listening_s: float, dropped: int) -> None:
        """The newest reading of a satellite."""
        with self.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO counters VALUES (?, ?, ?, ?, ?)", (device, at, models, listening_s, dropped)
            )

    def add_exposure(self, exposure: Exposure) -> None:
        """Adds to what is known of that day."""
        with self.transaction():
            self._db.execute(
                "INSERT INTO exposure VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
                "listening_s = listening_s + excluded.listening_s, lost = lost + excluded.lost",
                [getattr(exposure, name) for name in _EXPOSURE_COLUMNS],
            )

    def exposure(self, since: str = "") -> list[Exposure]:
        """Listening time by device, model and day, from the day ``since`` on."""
        columns = ",".join(_EXPOSURE_COLUMNS)
        rows = self._db.execute(
            f"SELECT {columns} FROM exposure WHERE day >= ? ORDER BY device, model, day",  # noqa: S608
            (since,),
        )
        return [Exposure(**dict(zip(_EXPOSURE_COLUMNS, row, strict=True))) for row in rows]

    # ---- tokens ----------------------------------------------------------------------------------------------------

    def put_token(self, token: Token) -> None:
        """A token, new or updated."""
        with self.transaction(durable=True):
            self._insert("tokens", _TOKEN_COLUMNS, token, or_replace=True)

    def tokens(self) -> list[Token]:
        """All tokens, also revoked ones, oldest first."""
        rows = self._db.execute(f"SELECT {','.join(_TOKEN_COLUMNS)} FROM tokens ORDER BY made_at, sha256")  # noqa: S608
        return [Token(**dict(zip(_TOKEN_COLUMNS, row, strict=True))) for row in rows]

    def _insert(self, table: str, columns: tuple[str, ...], noun: Any, *, or_replace: bool = False) -> int:
        names, marks = ",".join(columns), ",".join("?" * len(columns))
        verb = "INSERT OR REPLACE" if or_replace else "INSERT"
        values = [getattr(noun, name) for name in columns]
        return int(self._db.execute(f"{verb} INTO {table} ({names}) VALUES ({marks})", values).lastrowid or 0)


def _capture(row: tuple[Any, ...]) -> Capture:
    values = dict(zip(_CAPTURE_COLUMNS, row, strict=True))
    return Capture(**{**values, "kind": CaptureKind(values["kind"]), "verdict": Verdict(values["verdict"])})


def _score(row: tuple[Any, ...]) -> CaptureScore:
    values = dict(zip(_SCORE_COLUMNS, row, strict=True))
    places = tuple(json.loads(values["detections_s"]))
    return CaptureScore(**{**values, "detections_s": places, "reproduced": bool(values["reproduced"])})


def _judgement(row: tuple[Any, ...]) -> Judgement:
    values = dict(zip(_JUDGEMENT_COLUMNS, row, strict=True))
    kinds = {
        "verdict": Verdict(values["verdict"]),
        "before": Verdict(values["before"]),
        "undone": bool(values["undone"]),
    }
    return Judgement(**{**values, **kinds})


def _person(row: tuple[Any, ...]) -> Person:
    values = dict(zip(_PERSON_COLUMNS, row, strict=True))
    return Person(**{**values, "may_share": bool(values["may_share"])})


def _clip(row: tuple[Any, ...]) -> Clip:
    values = dict(zip(_CLIP_COLUMNS, row, strict=True))
    return Clip(**{**values, "label": Label(values["label"]), "origin": Origin(values["origin"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """One household's project directory, its settings and its catalogue."""

    root: Path
    settings: config.Settings
    catalogue: Catalogue

    @property
    def slug(self) -> str:
        """The phrase as a file name: ``hey kitchen`` → ``hey_kitchen``."""
        return slugify(self.settings.phrase)

    @property
    def audio_dir(self) -> Path:
        """Content-addressed clips."""
        return self.root / "audio"

    @property
    def features_dir(self) -> Path:
        """Feature sets by id."""
        return self.root / "features"

    @property
    def runs_dir(self) -> Path:
        """Training runs by id."""
        return self.root / "runs"

    @property
    def models_dir(self) -> Path:
        """Models that are vouched for."""
        return self.root / "models"

    @property
    def reports_dir(self) -> Path:
        """Reports by run id."""
        return self.root / "reports"

    @property
    def esphome_dir(self) -> Path:
        """What is rendered for ESPHome."""
        return self.root / "esphome"

    @property
    def captures_dir(self) -> Path:
        """What satellites sent, content-addressed."""
        return self.root / "captures"

    @property
    def devices_path(self) -> Path:
        """The household's satellites, the user's to edit."""
        return self.root / "devices.yaml"


def slugify(phrase: str) -> str:
    """Lower-case ASCII letters, digits and underscores; never empty."""
    import unicodedata

    plain = unicodedata.normalize("NFKD", phrase.replace("ß", "ss")).encode("ascii", "ignore").decode()
    words = "".join(c if c.isalnum() else " " for c in plain.lower()).split()
    return "_".join(words) or "wake_word"


def model_file_stem(slug: str, tflite: bytes) -> str:
    """``<slug>-<sha8>``: the first 8 hex digits of the model's SHA-256. A very long slug is cut to 64 characters."""
    return f"{slug[:_LONGEST_SLUG].rstrip('_')}-{hashlib.sha256(tflite).hexdigest()[:8]}"


def find_project(start: Path) -> Path:
    """``start`` or its nearest parent with a ``project.yaml``. Raises ProjectError."""
    for folder in (start, *start.parents):
        with suppress(PermissionError):  # a folder that may not be looked into holds no project of ours
            if (folder / PROJECT_FILE).is_file():
                return folder
    raise ProjectError(
        f"no {PROJECT_FILE} in {start} or above it",
        hint='start one with: mww-ha new "hey kitchen", or name one with --project DIR',
    )


def open_project(root: Path, overrides: Mapping[str, str] | None = None) -> Project:
    """Opens an existing project. Raises ProjectError, ConfigError, StorageError."""
    settings = config.load(root / PROJECT_FILE, overrides)
    return Project(root=root, settings=settings, catalogue=Catalogue(root / CATALOGUE_FILE))


def create_project(
    root: Path,
    phrase: str,
    *,
    language: str | None = None,
    effort: str | None = None,
    keep: Mapping[str, str] | None = None,
) -> Project:
    """Makes a project directory; an existing project with the same phrase is opened instead, and stays as it is.

    ``keep``: settings by dotted key, as text, that a new project's file holds from the beginning.
    Raises ProjectError when the directory holds a project for another phrase, or one whose language or effort is not
    the one that was asked for, or one and there is something to ``keep``. Without one a new project gets en and quick.
    """
    path = root / PROJECT_FILE
    document = {"phrase": " ".join(phrase.split()), "language": language or "en", "effort": effort or "quick"}
    config.resolve(document, keep, where="the command line")
    written = config.lay_over(document, keep or {}, where="the command line")
    with storage_errors(path):
        known_before = path.exists()
    if known_before:
        known = config.load(path)
        if known.phrase != document["phrase"]:
            raise ProjectError(
                f"{path} is a project for {known.phrase!r}, not {document['phrase']!r}",
                hint="choose another directory with --project DIR",
            )
        for key, asked, has in (("language", language, known.language), ("effort", effort, str(known.effort))):
            if asked is not None and asked != has:
                raise ProjectError(
                    f"{path} exists already, with {key} {has}, and {asked} is asked for; nothing was changed",
                    hint=f"for once: mww-ha run --project {shlex.quote(str(root))} --set {key}={asked}; "
                    f"for good: write {key}: {asked} into that file; or choose another directory with --project DIR",
                )
        if keep:
            key, text = next(iter(keep.items()))
            raise ProjectError(
                f"{path} exists already, and {key}={text} is asked for; nothing was changed",
                hint=f"for once: mww-ha run --project {shlex.quote(str(root))} --set {shlex.quote(f'{key}={text}')}; "
                "for good: write it into that file",
            )
        return open_project(root)
    write_text(path, yaml.safe_dump(written, sort_keys=False, allow_unicode=True))
    return open_project(root)


_changing_settings = threading.Lock()


def change_settings(root: Path, changes: Mapping[str, Any]) -> config.Settings:
    """Sets dotted keys in the ``project.yaml`` of ``root``, None takes one out; all of them or none, comments stay.

    Raises ConfigError for a key or a value that the file may not hold, which then stays as it is, StorageError.
    """
    path = root / PROJECT_FILE
    with _changing_settings:
        config.load(path)
        text = path.read_text(encoding="utf-8")
        changed = change_yaml(text, changes, where=PROJECT_FILE)
        settings = config.resolve(yaml.safe_load(changed) or {}, where=path.name)
        if changed != text:
            write_text(path.resolve(), changed)  # resolved: a link stays a link
        return settings


def change_yaml(text: str, changes: Mapping[str, Any], *, where: str) -> str:
    """The YAML ``text`` with dotted keys set, None takes one out. Comments stay, but for one beside what is taken out.

    Raises ConfigError, which quotes no line of it.
    """
    import io

    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import YAMLError

    editor = YAML()
    editor.preserve_quotes = True
    editor.width = 4096
    try:
        document = editor.load(text)
    except YAMLError:
        raise ConfigError(f"{where} cannot be changed from here", hint="edit it by hand") from None
    for key, value in changes.items():
        head, _, tail = key.partition(".")
        place = document
        if tail:
            if not isinstance(document.get(head), CommentedMap):
                if value is None:
                    continue
                document[head] = CommentedMap()
            place = document[head]
        if value is None:
            place.pop(tail or head, None)
        else:
            place[tail or head] = editor.load(_yaml_text(key, value))
        if tail and not place:
            del document[head]
    written = io.StringIO()
    editor.dump(document, written)
    return written.getvalue()


def _yaml_text(key: str, value: Any) -> str:
    """``value`` as YAML 1.1 and 1.2 read alike: texts in quotes, numbers without an exponent. Raises ConfigError."""
    if isinstance(value, list | tuple) and not any(isinstance(item, list | tuple) for item in value):
        return "[" + ", ".join(_yaml_text(key, item) for item in value) + "]"
    if isinstance(value, str) and not value.isprintable():
        raise ConfigError(f"{key} has characters that cannot be shown", hint="write one line of plain text")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and not abs(value) <= _LARGEST_NUMBER:
        raise ConfigError(f"{key} is {str(value)[:20]}", hint="it must be a number of everyday size")
    if isinstance(value, float):
        return format(Decimal(repr(value)), "f")
    if isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9_-]*", value) and yaml.safe_load(value) == value:
        return value  # a plain word, but not one such as "no"
    if not isinstance(value, str | bool | int):
        raise ConfigError(
            f"{key} is {reprlib.repr(value)}", hint="it must be a text, a number, true or false, or a list"
        )
    return json.dumps(value, ensure_ascii=False)


_LARGEST_NUMBER = 10**15
