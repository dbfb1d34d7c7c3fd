"""A project as one file to keep or to move: all that a household cannot make again, and no secret.

An archive is a plain tar: nothing in it is compressed, so what comes out of it is never more than what was sent, and
it is checked entry by entry while it comes. It begins with what it is and ends with the digest of everything before. In
it: ``project.yaml``, ``devices.yaml``, the catalogue (tokens of satellites as hashes, which they go on working with),
sound, captures, models, reports, and the weights of each training. Not in it: features, ``esphome/`` with its
``secrets.yaml``, logins, and the service's own token and sessions.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import sqlite3
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

from mww_ha import __version__, config
from mww_ha.devices.known import read_devices
from mww_ha.errors import DataError, InputError, ProjectError, StorageError
from mww_ha.store import (
    CATALOGUE_FILE,
    PROJECT_FILE,
    Catalogue,
    Project,
    change_settings,
    now,
    open_project,
    storage_errors,
)

FORMAT = 1
SUFFIX = ".mww-ha.tar"

_HEAD, _END, _DEVICES = "mww-ha.json", "end.json", "devices.yaml"
_FOLDERS = ("audio", "captures", "models", "reports", "runs")
_RUN_FILES = ("net.npz", "weights.npz", "candidate.tflite", "candidates.json", "log.jsonl")
"""What a retraining starts from, and what the journal shows. The state of a training that was stopped is not kept."""

_NAME = re.compile(rf"({'|'.join(_FOLDERS)})(/[A-Za-z0-9_][A-Za-z0-9_.-]*){{1,4}}", re.ASCII)
_LONGEST_NAME = 200
_MOST_FILES = 1_000_000
_MOST_TEXT = 1 << 20
_BLOCK = tarfile.BLOCKSIZE
_PIECE = 1 << 18
_LEAST_FREE = 200 << 20  # bytes that have to stay free while something is taken over
_ASIDE = ".import-"
_OLD_S = 86_400.0  # what an interrupted one left behind

_OF_THIS_MACHINE = (
    "flash.esphome",
    "flash.builder_url",
    "flash.handoff_dir",
    "home_assistant.url",
    "home_assistant.token_file",
    "mqtt.host",
    "mqtt.password_file",
    "mqtt.ca_file",
    "synthesize.voice_dirs",
)
"""Programs, files and peers of a machine. An archive from elsewhere must not choose which of ours are run and read, nor
which Home Assistant says who may change what and which broker may ask for a flash: without its token and password they
would be no good either, and keep those out that the Supervisor offers.
"""

_ID = re.compile(r"[A-Za-z0-9_-]{0,100}", re.ASCII)
"""What a run, a model and a set of features may be called: their names become names of files."""

_putting_into_place = threading.Lock()
"""Held from the last look whether the project is empty until it is not: of two archives at once one gets in."""

_DAMAGED = "copy it again, or make another one"


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver:
    """What came out of an archive."""

    phrase: str
    made_at: str  # when the archive was made; ISO 8601, UTC
    files: int
    size: int  # bytes of the whole archive
    clips: int
    captures: int
    models: int
    missing: int  # sounds that were gone when the archive was made
    left_out: tuple[str, ...]  # settings that name something of the other machine, to be set again


def name_archive(project: Project, day: str) -> str:
    """A file name for an archive made on ``day``."""
    return f"{project.slug[:60]}-{day}{SUFFIX}"


# ---- out ------------------------------------------------------------------------------------------------------------

_OWNED_FOLDERS = (*_FOLDERS, "features", "esphome", "service", "voices", ".locks")
_OWNED_FILES = (PROJECT_FILE, _DEVICES, CATALOGUE_FILE)


def check_target(project: Project, file: Path) -> None:
    """Whether an archive may be written to ``file``: it replaces nothing but another archive.

    Raises InputError, StorageError.
    """
    hint = "name another file, such as " + name_archive(project, now()[:10])
    path, root = file.resolve(), project.root.resolve()
    if path.is_relative_to(root):
        first = (*path.relative_to(root).parts, "")[0]
        if first in _OWNED_FOLDERS or first in _OWNED_FILES or first.startswith(CATALOGUE_FILE):
            raise InputError(f"{file} is where the project keeps its own files", hint=hint)
    with storage_errors(file):
        there = path.exists()
    if there and not _is_archive(path):
        raise InputError(f"{file} is there already and is no archive of a project: it stays as it is", hint=hint)
    if not path.parent.is_dir():
        raise InputError(f"{file} cannot be written: there is no folder {file.parent}", hint="make it, or " + hint)


def _is_archive(path: Path) -> bool:
    """Whether a file begins as one of ours does."""
    if not path.is_file():
        return False  # a device, a pipe
    try:
        with path.open("rb") as file:
            info = tarfile.TarInfo.frombuf(file.read(_BLOCK), "utf-8", "strict")
    except (OSError, tarfile.HeaderError, ValueError):
        return False
    return info.name == _HEAD


def write_archive(project: Project) -> Iterator[bytes]:
    """The archive, piece by piece; the project may be worked with meanwhile. Raises StorageError."""
    whole = hashlib.sha256()
    files = 0
    for name, content in _entries(project):
        packed = False
        for piece in _pack(name, content):
            whole.update(piece)
            yield piece
            packed = True
        files += packed
    end = {"files": files, "sha256": whole.hexdigest()}
    yield from _pack(_END, json.dumps(end).encode())
    yield bytes(2 * _BLOCK)


def _entries(project: Project) -> Iterator[tuple[str, bytes | Path]]:
    with tempfile.TemporaryDirectory(prefix=".export-", dir=project.root) as place:
        # First the rows, then the files they name: what is added meanwhile is in the next archive.
        copy = Path(place, CATALOGUE_FILE)
        project.catalogue.write_copy(copy)
        head = {"format": FORMAT, "mww_ha": __version__, "phrase": project.settings.phrase, "made_at": now()}
        yield _HEAD, json.dumps(head).encode()
        yield PROJECT_FILE, _without_logins(project).encode()
        if project.devices_path.is_file():
            yield _DEVICES, project.devices_path.read_bytes()
        yield CATALOGUE_FILE, copy
        for name in _named_files(copy):
            yield name, project.root / name
        for folder in (project.models_dir, project.reports_dir):
            yield from _files_in(project.root, sorted(folder.glob("*")))
        for run in sorted(project.runs_dir.glob("*")):
            yield from _files_in(project.root, [run / name for name in _RUN_FILES])


def _without_logins(project: Project) -> str:
    """The settings, without an address that holds a password."""
    path = project.root / PROJECT_FILE
    if "@" not in project.settings.flash.builder_url:
        return path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as place:
        shutil.copyfile(path, Path(place, PROJECT_FILE))
        change_settings(Path(place), {"flash.builder_url": None})
        return Path(place, PROJECT_FILE).read_text(encoding="utf-8")


def _named_files(catalogue: Path) -> list[str]:
    with _opened(catalogue) as rows:
        paths = {clip.path for clip in rows.clips()} | {capture.path for capture in rows.captures()}
    return sorted(filter(None, paths))


def _files_in(root: Path, paths: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    for path in paths:
        name = path.relative_to(root).as_posix()
        if path.is_file() and _NAME.fullmatch(name):
            yield name, path


def _pack(name: str, content: bytes | Path) -> Iterator[bytes]:
    """One entry: header, content, padding; nothing for a file that has just gone."""
    if isinstance(content, bytes):
        yield _header(name, len(content)) + content + bytes(-len(content) % _BLOCK)
        return
    with contextlib.ExitStack() as stack:
        try:
            file: IO[bytes] = stack.enter_context(content.open("rb"))
        except FileNotFoundError:
            return  # a capture may expire while the archive is made; ``read_archive`` looks for what is missing
        # Files are replaced and never changed: what is open stays as it is.
        size = file.seek(0, 2)
        file.seek(0)
        yield _header(name, size)
        while piece := file.read(_PIECE):
            yield piece
        yield bytes(-size % _BLOCK)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mtime, info.mode = size, int(time.time()), 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


# ---- in -------------------------------------------------------------------------------------------------------------


def check_empty(root: Path) -> None:
    """Whether ``root`` can take over an archive: there is nothing yet, or a project in which nothing was done.

    Raises DataError.
    """
    full = f"{root} holds a project already"
    hint = "take the archive over into a new project: mww-ha import-project FILE --project DIR"
    if (root / CATALOGUE_FILE).exists():
        with _opened(root / CATALOGUE_FILE) as rows:
            if not rows.is_empty():
                raise DataError(full, hint=hint)
    devices = root / _DEVICES
    if devices.is_file() and read_devices(devices):
        raise DataError(full, hint=hint)


class Reader:
    """Takes an archive in pieces as they come and lays it out beside a project; ``finish`` puts it into place.

    Use it as a context manager: what was not finished is gone afterwards. Every method blocks. Each raises
    ProjectError for an archive that is damaged, cut off, too new, or holds what no archive of ours holds, and
    StorageError; then nothing of the project was touched.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        check_empty(root)
        with storage_errors(root):
            root.mkdir(parents=True, exist_ok=True)
            for old in root.glob(f"{_ASIDE}*"):
                if time.time() - old.stat().st_mtime > _OLD_S:
                    shutil.rmtree(old, ignore_errors=True)
            self._aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=root))
        self._buffer = bytearray()
        self._size = 0
        self._names: set[str] = set()
        self._head: dict[str, Any] = {}
        self._ended = False
        self._steps = self._read()
        self._wanted = next(self._steps)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leaves nothing beside the project."""
        self._steps.close()
        shutil.rmtree(self._aside, ignore_errors=True)

    def take(self, piece: bytes) -> None:
        """The next bytes of the archive."""
        self._size += len(piece)
        self._buffer += piece
        place = 0
        with storage_errors(self._aside):
            while len(self._buffer) - place >= self._wanted:
                if self._ended:
                    break
                part = bytes(self._buffer[place : place + self._wanted])
                place += self._wanted
                try:
                    self._wanted = self._steps.send(part)
                except StopIteration:
                    self._ended = True
        del self._buffer[:place]
        if self._ended and any(self._buffer):
            raise ProjectError("something follows the archive's end", hint=_DAMAGED)

    def finish(self) -> TakenOver:
        """Checks all of it and puts it into place: files first, rows last."""
        if not self._ended:
            raise ProjectError("the archive is cut off: its end is missing", hint=_DAMAGED)
        left_out = self._check_settings()
        missing = self._check_catalogue()
        with _putting_into_place:
            check_empty(self._root)
            with storage_errors(self._root):
                for folder in _FOLDERS:
                    if (self._aside / folder).is_dir():
                        _move_into(self._aside / folder, self._root / folder)
                for name in (_DEVICES, PROJECT_FILE):
                    if (self._aside / name).exists():
                        (self._aside / name).replace(self._root / name)
            project = open_project(self._root)
            try:
                project.catalogue.take_over(self._aside / CATALOGUE_FILE)
                clips, captures = len(project.catalogue.clips()), len(project.catalogue.captures())
                models = len(project.catalogue.models())
            finally:
                project.catalogue.close()
        return TakenOver(
            phrase=project.settings.phrase,
            made_at=str(self._head.get("made_at", "")),
            files=len(self._names) - 2,
            size=self._size,
            clips=clips,
            captures=captures,
            models=models,
            missing=missing,
            left_out=left_out,
        )

    # --- entry by entry -------------------------------------------------------------------------------------------

    def _read(self) -> Generator[int, bytes, None]:
        """Says how many bytes it wants next, and gets them; ends with the archive."""
        whole = hashlib.sha256()
        while True:
            raw = yield _BLOCK
            if not any(raw):
                raise ProjectError("the archive ends too early", hint=_DAMAGED)
            name, size = self._admit(raw)
            before = whole.hexdigest()
            whole.update(raw)
            if name in (_HEAD, _END):
                content = (yield size) if size else b""
                whole.update(content)
                document = _parse(content, name)
                if name == _HEAD:
                    self._check_head(document)
                # The head is counted, the end is not.
                elif document.get("files") != len(self._names) - 1 or document.get("sha256") != before:
                    raise ProjectError("the archive is damaged: its digest does not match", hint=_DAMAGED)
            else:
                with self._create(name) as file:
                    left = size
                    while left:
                        piece = yield min(left, _PIECE)
                        file.write(piece)
                        whole.update(piece)
                        left -= len(piece)
            padding = -size % _BLOCK
            if padding:
                whole.update((yield padding))
            if name == _END:
                if any((yield 2 * _BLOCK)):
                    raise ProjectError("the archive does not end where it says", hint=_DAMAGED)
                return

    def _create(self, name: str) -> IO[bytes]:
        path = self._aside / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("xb")
        except (FileExistsError, NotADirectoryError):
            raise ProjectError(f"{name[:80]!a} in the archive is a file and a folder", hint=_DAMAGED) from None

    def _admit(self, raw: bytes) -> tuple[str, int]:
        """Name and size of the next entry."""
        strange = "this is not an archive of a project"
        hint = "choose a file that the panel or mww-ha export-project made"
        try:
            info = tarfile.TarInfo.frombuf(raw, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError, ValueError):
            raise ProjectError(strange if not self._names else "the archive is damaged", hint=hint) from None
        name, size = info.name, info.size
        shown = ascii(name[:80])
        if not self._names and name != _HEAD:
            raise ProjectError(strange, hint=hint)
        if info.type != tarfile.REGTYPE:
            raise ProjectError(f"{shown} in the archive is not a plain file", hint=hint)
        plain = name in (_HEAD, PROJECT_FILE, _DEVICES, CATALOGUE_FILE, _END)
        if len(name) > _LONGEST_NAME or not (plain or _NAME.fullmatch(name)):
            raise ProjectError(f"{shown} does not belong into an archive of a project", hint=hint)
        if name.casefold() in self._names:
            raise ProjectError(f"{shown} is in the archive twice", hint=hint)
        most = _MOST_TEXT if plain and name != CATALOGUE_FILE else 1 << 40
        if not 0 <= size <= most or len(self._names) >= _MOST_FILES:
            raise ProjectError(f"{shown} in the archive is too large", hint=hint)
        free = shutil.disk_usage(self._root).free
        if size + _LEAST_FREE > free:
            raise StorageError(
                f"no space left for {shown}: {size / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free",
                hint="free some space and try again",
            )
        self._names.add(name.casefold())
        return name, size

    def _check_head(self, document: dict[str, Any]) -> None:
        made = document.get("format")
        if not isinstance(made, int) or made < 1:
            raise ProjectError("the archive does not say what it is", hint=_DAMAGED)
        if made > FORMAT:
            raise ProjectError(
                f"the archive was made by a newer mww-ha ({str(document.get('mww_ha'))[:20]!a})", hint="update mww-ha"
            )
        self._head = document

    # --- as a whole -----------------------------------------------------------------------------------------------

    def _check_settings(self) -> tuple[str, ...]:
        for name in (PROJECT_FILE, CATALOGUE_FILE):
            if name not in self._names:
                raise ProjectError(f"the archive holds no {name}", hint=_DAMAGED)
        try:
            settings = config.load(self._aside / PROJECT_FILE)
            given = {key for key in _OF_THIS_MACHINE if _stands_in(settings, key)}
            change_settings(self._aside, dict.fromkeys(given))
            if _DEVICES in self._names:
                read_devices(self._aside / _DEVICES)
        except InputError as error:
            # its own words name the folder beside the project, which nobody can look into
            message = error.message.replace(f"{self._aside}/", "")
            raise ProjectError(f"in the archive: {message}", hint=error.hint) from None
        return tuple(sorted(given))

    def _check_catalogue(self) -> int:
        """Brings the rows to this version, reads each as what it is, and looks for the sound it names.

        Returns how many sounds are missing: a clip goes with its sound, a capture stays without.
        """
        path = self._aside / CATALOGUE_FILE
        try:
            _check_schema(path)
            with _opened(path) as rows:
                if wrong := rows.check_integrity():
                    raise ProjectError(f"the archive's catalogue is damaged: {wrong[0][:200]}", hint=_DAMAGED)
                _read_rows(rows)
                gone = [clip for clip in rows.clips() if not (self._aside / clip.path).is_file()]
                silent = [c for c in rows.captures() if c.path and not (self._aside / c.path).is_file()]
                rows.remove_clips(clip.id for clip in gone)
                for capture in silent:
                    rows.update_capture(capture.id, path="")
                return len(gone) + len(silent)
        except sqlite3.Error as error:
            raise _damaged_catalogue(error) from None


def read_archive(path: Path, root: Path, *, check: Callable[[int], None] = lambda _: None) -> TakenOver:
    """Takes the archive at ``path`` over into ``root``; ``check`` hears of the bytes so far. Raises as ``Reader``."""
    done = 0
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="name an archive of a project") from None
    with file, Reader(root) as reader:
        while piece := file.read(_PIECE):
            reader.take(piece)
            done += len(piece)
            check(done)
        return reader.finish()


def _parse(content: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ProjectError(f"{name} in the archive is no JSON", hint=_DAMAGED)
    return document


def _stands_in(settings: config.Settings, key: str) -> bool:
    section, _, name = key.partition(".")
    return bool(getattr(getattr(settings, section), name))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Catalogue]:
    catalogue = Catalogue(path)
    try:
        yield catalogue
    finally:
        catalogue.close()


def _check_schema(path: Path) -> None:
    """Tables and their indexes, nothing that runs by itself. Raises ProjectError, sqlite3.Error."""
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        database.execute("PRAGMA trusted_schema=OFF")
        rows = database.execute(
            "SELECT iif(type = 'table', 'virtual table', type), name FROM sqlite_schema"
            " WHERE type NOT IN ('table', 'index') OR rootpage = 0"
        )
        for kind, name in rows:
            raise ProjectError(f"the archive's catalogue holds a {kind}, {str(name)[:40]!a}", hint=_DAMAGED)


def _damaged_catalogue(error: Exception) -> ProjectError:
    said = f"{type(error).__name__}: {str(error)[:200]}"
    return ProjectError(f"the archive's catalogue is damaged: {said}", hint=_DAMAGED)


def _read_rows(rows: Catalogue) -> None:
    """As ``_read_all``; a row that cannot be read is damage, which a mistake of ours elsewhere is not."""
    try:
        _read_all(rows)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _damaged_catalogue(error) from None


def _read_all(rows: Catalogue) -> None:
    """Reads every row as its noun, and sees to it that none names a file outside. Raises ProjectError, ValueError."""
    paths = [clip.path for clip in rows.clips()] + [capture.path for capture in rows.captures() if capture.path]
    documents: list[Any] = [*rows.runs(), *rows.models()]
    for stage in ("synthesize", "prepare", "train", "evaluate", "export", "retrain"):
        known = rows.stage(stage)
        documents += [known[1]] if known else []
    paths += [path for document in documents for path in _paths_in(document)]
    for document in documents:
        for key in ("id", "run", "feature_set", "start"):
            if not _ID.fullmatch(str(document.get(key) or "")):
                raise ProjectError(
                    f"the archive's catalogue has the {key} {str(document[key])[:80]!a}, which is none", hint=_DAMAGED
                )
    for path in paths:
        parts = PurePosixPath(path).parts
        if not path or path.startswith("/") or ".." in parts or "\\" in path or not path.isprintable():
            raise ProjectError(f"the archive's catalogue names {path[:80]!a}, which is no file of it", hint=_DAMAGED)
    for read in (rows.flashes, rows.people, rows.sessions, rows.judgements, rows.tokens, rows.exposure, rows.scores):
        read()


def _paths_in(value: Any, key: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _paths_in(item, str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _paths_in(item, key)
    elif isinstance(value, str) and (key == "path" or key.endswith("_path")):
        yield value


def _move_into(source: Path, target: Path) -> None:
    """Moves a folder to where there may be one already; what lies there by the same name is replaced."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_dir():
            _move_into(path, target / path.name)
        else:
            shutil.move(path, target / path.name)  # a folder may be a link to another disk
