"""Where things lie, and the catalogue (SQLite, WAL) that knows them.

Order of every write: the file beside its place, renamed into it, the row last. A crash at any point
leaves either the old state or a file without a row, never a row without its file.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import yaml

from mww_ha import config
from mww_ha.errors import ProjectError, StorageError
from mww_ha.schema import Clip, Label, Origin

PROJECT_FILE = "project.yaml"
CATALOGUE_FILE = "catalogue.sqlite"

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
)

_CLIP_COLUMNS = tuple(f.name for f in dataclasses.fields(Clip))


def now() -> str:
    """The present moment, ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns a full disk or a missing permission into a StorageError that names ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(f"no space left to write {path}", hint="free some space and run it again") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(f"not allowed to write {path}", hint="check owner and permissions") from error
        raise
    except sqlite3.OperationalError as error:
        if "disk" in str(error) or "readonly" in str(error):
            raise StorageError(f"cannot write {path}: {error}", hint="free some space or check permissions") from error
        raise


@contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """A binary file beside ``path`` that is renamed into place when the block ends without an error.

    ``durable`` also waits until the bytes are on the disk; leave it off for what can be made again.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
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


class Catalogue:
    """The rows: clips, finished stages, runs, models. One per project; safe for several processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage_errors(path):
            self._db = sqlite3.connect(path, timeout=30, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._migrate()

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
    def transaction(self) -> Iterator[None]:
        """All rows of the block or none."""
        with storage_errors(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def add_clips(self, clips: Iterable[Clip]) -> int:
        """Adds clips whose files are in place; those already known stay as they are. Returns how many were new."""
        marks = ",".join("?" * len(_CLIP_COLUMNS))
        rows = [tuple(getattr(clip, name) for name in _CLIP_COLUMNS) for clip in clips]
        with self.transaction():
            before = self._db.total_changes
            self._db.executemany(f"INSERT OR IGNORE INTO clips VALUES ({marks})", rows)  # noqa: S608  marks are "?,?"
            return self._db.total_changes - before

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


def slugify(phrase: str) -> str:
    """Lower-case ASCII letters, digits and underscores; never empty."""
    import unicodedata

    plain = unicodedata.normalize("NFKD", phrase.replace("ß", "ss")).encode("ascii", "ignore").decode()
    words = "".join(c if c.isalnum() else " " for c in plain.lower()).split()
    return "_".join(words) or "wake_word"


def find_project(start: Path) -> Path:
    """``start`` or its nearest parent with a ``project.yaml``. Raises ProjectError."""
    for folder in (start, *start.parents):
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


def create_project(root: Path, phrase: str, *, language: str = "en", effort: str = "quick") -> Project:
    """Makes a project directory; an existing project with the same phrase is opened instead.

    Raises ProjectError when the directory holds a project for another phrase.
    """
    path = root / PROJECT_FILE
    document = {"phrase": " ".join(phrase.split()), "language": language, "effort": effort}
    config.resolve(document, where="the command line")
    if path.exists():
        known = config.load(path)
        if known.phrase != document["phrase"]:
            raise ProjectError(
                f"{path} is a project for {known.phrase!r}, not {document['phrase']!r}",
                hint="choose another directory with --project DIR",
            )
        return open_project(root)
    write_text(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True))
    return open_project(root)
