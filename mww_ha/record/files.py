"""Sound files on the disk → clips: a folder with one label, or a manifest with a row per clip.

One bad file or row never stops an import: it is rejected with its reason and the rest goes on. Clips are
content-addressed, so an import that was interrupted is simply run again.
"""

from __future__ import annotations

import difflib
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mww_ha import audio
from mww_ha.errors import AudioFileError, DataError, InputError
from mww_ha.record.takes import Fault, check_take
from mww_ha.schema import SAMPLE_RATE_HZ, Clip, Label, Origin, Progress, ProgressSink, no_progress
from mww_ha.store import COMPLETED, Project

PART_S = 3600.0
"""Longer speech and noise is stored in parts of an hour, tied together by ``parent``."""

MAX_UTTERANCE_S = 30.0
"""A wake word or confusable longer than this is a recording that has to be cut first."""

MIN_CLIP_S = 0.1

UNREADABLE_SUFFIXES = frozenset({".m4a", ".aac", ".mp4", ".webm", ".wma", ".amr", ".3gp", ".mka", ".raw", ".pcm"})
"""Sound that libsndfile cannot read: named in the summary instead of being passed over."""

MANIFEST_COLUMNS = ("path", "label", "speaker", "session", "take", "licence", "text", "language", "source")

_ROWS_AT_ONCE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportResult:
    """What an import did. ``skipped``: files in the folder that are not sound by their name."""

    added: int  # clips
    known: int  # clips that were in the project already
    minutes: float  # of the added clips
    rejected: tuple[tuple[str, str], ...]  # (file or "manifest.tsv line 7", reason)
    skipped: int = 0
    doubtful: tuple[tuple[str, str], ...] = ()  # (file, reason): new wake words that a guided session would refuse
    completed: int = 0  # known clips of which something was not known yet
    differing: tuple[tuple[str, str], ...] = ()  # (file, reason): known clips of which something else is known
    relabelled: tuple[tuple[str, str], ...] = ()  # (file, reason): the same sound is there under another label
    speakers: tuple[str, ...] = ()  # who was named, sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One file to import and what is known about it."""

    path: Path
    name: str  # how messages call it
    label: Label
    speaker: str = ""
    session: str = ""
    take: str = ""
    licence: str = ""
    text: str = ""
    language: str = ""
    source: str = ""


def parse_label(text: str) -> Label:
    """The Label called ``text``. Raises InputError with the nearest one."""
    try:
        return Label(text.strip().lower())
    except ValueError:
        near = difflib.get_close_matches(text.strip().lower(), list(Label), n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else "use one of " + ", ".join(Label)
        raise InputError(f"unknown label {text!r}", hint=hint) from None


def import_folder(
    project: Project,
    folder: Path,
    *,
    label: Label,
    speaker: str | Callable[[Path], str] = "",
    session: str = "",
    licence: str = "",
    language: str = "",
    source: str = "",
    longest_s: float = math.inf,
    report: ProgressSink = no_progress,
) -> ImportResult:
    """Imports every sound file in ``folder`` and below it, in the order of their names; one file works too.

    ``speaker``: empty (unknown: each file is its own speaker), a name, ``@folder`` (the name of the folder that a
    file lies in), or a function of the path. ``source`` goes before the path that is noted as a clip's source.
    ``longest_s``: a file with more sound is rejected; the size of what is compressed says nothing of its length.

    Raises InputError when there is nothing to import, DataError when every file was rejected, StorageError.
    """
    if not folder.exists():
        raise InputError(f"{folder} is missing", hint="name a folder with sound files")
    files, skipped = _find_files(folder)
    base = folder if folder.is_dir() else folder.parent
    if not files:
        raise InputError(
            f"no sound files in {folder}" + (f" ({skipped} other files)" if skipped else ""),
            hint="sound files end in " + ", ".join(sorted(audio.SUFFIXES)),
        )

    def entries() -> Iterator[_Entry]:
        for path in files:
            relative = path.relative_to(base)
            noted = Path(source or base.resolve().name) / relative
            yield _Entry(
                path=path,
                name=str(path),
                label=label,
                speaker=_speaker(path, speaker, base),
                session=session,
                licence=licence,
                language=language,
                source=noted.as_posix(),
            )

    result = _import(project, entries(), total=len(files), rejected=[], longest_s=longest_s, report=report)
    return replace(result, skipped=skipped)


def _find_files(folder: Path) -> tuple[list[Path], int]:
    """Files that should be sound, sorted, and how many others there are. Hidden files do not count."""
    if not folder.is_dir():
        return [folder], 0
    files: list[Path] = []
    skipped = 0
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.startswith("."):
                continue
            if Path(name).suffix.lower() in audio.SUFFIXES | UNREADABLE_SUFFIXES:
                files.append(Path(root, name))
            else:
                skipped += 1
    return sorted(files), skipped


def _speaker(path: Path, speaker: str | Callable[[Path], str], base: Path) -> str:
    if callable(speaker):
        return speaker(path)
    if speaker == "@folder":
        return path.resolve().parent.name if path.parent == base else path.parent.name
    return speaker


def import_manifest(project: Project, tsv_path: Path, *, report: ProgressSink = no_progress) -> ImportResult:
    """Imports the clips named in a tab-separated file whose first line names its columns.

    ``path`` and ``label`` are required, the other ``MANIFEST_COLUMNS`` optional. Paths are relative to the file. Fields
    are taken as they stand (quotation marks mean nothing), so a row is a line and nothing can swallow the next one.

    Raises InputError for a header that cannot be understood or a file without rows, DataError when every row was
    rejected, StorageError.
    """
    columns, lines = _read_manifest(tsv_path)
    rejected: list[tuple[str, str]] = []

    def entries() -> Iterator[_Entry]:
        for number, line in lines:
            where = f"{tsv_path.name} line {number}"
            fields = [field.strip() for field in line.split("\t")]
            if len(fields) > len(columns):
                rejected.append((where, f"{len(fields)} fields under {len(columns)} columns"))
                continue
            row = dict(zip(columns, fields, strict=False))
            if not row.get("path") or not row.get("label"):
                rejected.append((where, "no path" if not row.get("path") else f"no label for {row['path']}"))
                continue
            try:
                label = parse_label(row["label"])
            except InputError as error:
                rejected.append((where, f"{row['path']}: {error.message}, {error.hint}"))
                continue
            source = row.get("source") or row["path"]
            known = {k: row[k] for k in ("speaker", "session", "take", "licence", "text", "language") if k in row}
            yield _Entry(path=tsv_path.parent / row["path"], name=where, label=label, source=source, **known)

    return _import(project, entries(), total=len(lines), rejected=rejected, report=report)


def _read_manifest(path: Path) -> tuple[list[str], list[tuple[int, str]]]:
    """Column names, and (line number, line) of each row that is not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path} is missing", hint="name a tab-separated file") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not a UTF-8 text file", hint="save it as tab-separated text, UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint="name a tab-separated file") from None
    lines = [(n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if not lines:
        raise InputError(f"{path} is empty", hint="its first line names the columns: " + " ".join(MANIFEST_COLUMNS))
    columns = [name.strip().lower() for name in lines[0][1].split("\t")]
    for name in columns:
        if name not in MANIFEST_COLUMNS:
            near = difflib.get_close_matches(name, MANIFEST_COLUMNS, n=1, cutoff=0.4)
            known = "known columns, separated by tabs: " + ", ".join(MANIFEST_COLUMNS)
            raise InputError(
                f"{path}: unknown column {name!r}", hint=f"did you mean {near[0]}? {known}" if near else known
            )
        if columns.count(name) > 1:
            raise InputError(f"{path}: column {name!r} is there twice", hint="name each column once")
    for name in ("path", "label"):
        if name not in columns:
            raise InputError(f"{path}: no column {name!r}", hint="path and label are needed")
    if len(lines) == 1:
        raise InputError(f"{path} has a header but no rows", hint="add a line per clip: its path and its label")
    return columns, lines[1:]


def _import(
    project: Project,
    entries: Iterable[_Entry],
    *,
    total: int,
    rejected: list[tuple[str, str]],
    longest_s: float = math.inf,
    report: ProgressSink,
) -> ImportResult:
    """Files first, their rows after them in small groups; what is done stays done when it is interrupted."""
    fresh: list[Clip] = []
    doubtful: list[tuple[str, str]] = []
    speakers: set[str] = set()
    added = handled = 0
    seconds = 0.0
    told = 0.0
    before = _Known(project.catalogue.clips())

    def add_rows() -> None:
        nonlocal added, seconds
        with project.catalogue.transaction():
            project.catalogue.add_clips(fresh)
            project.catalogue.complete_clips(before.fuller.values())
        added += len(fresh)
        seconds += sum(clip.duration_s for clip in fresh)
        fresh.clear()
        before.fuller.clear()

    try:
        for entry in entries:
            try:
                made = _import_file(project.root, entry, longest_s)
                if entry.label is Label.WAKE and made[0].id not in before and (doubt := _find_doubt(project, made[0])):
                    doubtful.append((entry.name, doubt))
                fresh += [clip for clip in made if before.is_new(entry.name, clip)]
                handled += len(made)
                speakers.add(entry.speaker)
            except AudioFileError as error:
                reason = error.message if entry.name == str(entry.path) else f"{entry.path.name}: {error.message}"
                rejected.append((entry.name, f"{reason}; {error.hint}"))
            if len(fresh) + len(before.fuller) >= _ROWS_AT_ONCE:
                add_rows()
            if time.monotonic() - told > 0.1:
                told = time.monotonic()
                done = handled + len(rejected)
                report(Progress(stage="import", done=min(done, total), total=total, unit="files"))
    finally:
        add_rows()
    report(Progress(stage="import", message=f"{added} clips added", done=total, total=total, unit="files"))
    if not handled:
        first = "; ".join(f"{name}: {reason}" for name, reason in rejected[:3])
        raise DataError(
            f"nothing imported, {len(rejected)} rejected: {first}", hint="mend these files and run it again"
        )
    return ImportResult(
        added=added,
        known=handled - added,
        minutes=seconds / 60,
        rejected=tuple(rejected),
        doubtful=tuple(doubtful),
        completed=len(before.completed),
        differing=tuple(before.differing),
        relabelled=tuple(before.relabelled),
        speakers=tuple(sorted(speakers - {""})),
    )


class _Known:
    """The clips that are there, and what an import says of them besides."""

    def __init__(self, clips: Iterable[Clip]) -> None:
        self._clips: dict[str, Clip] = {}
        self._labels: dict[str, dict[Label, str]] = defaultdict(dict)  # by sound: label → clip
        self.fuller: dict[str, Clip] = {}  # by id: known clips of which more is known than the catalogue says
        self.completed: set[str] = set()
        self.differing: list[tuple[str, str]] = []
        self.relabelled: list[tuple[str, str]] = []
        for clip in clips:
            self._keep(clip)

    def __contains__(self, id: str) -> bool:
        return id in self._clips

    def _keep(self, clip: Clip) -> None:
        self._clips[clip.id] = clip
        self._labels[clip.sha256].setdefault(clip.label, clip.id)

    def is_new(self, name: str, clip: Clip) -> bool:
        """Whether the clip is to be added; one that is there is completed by what ``clip`` says of it."""
        for label, id in self._labels[clip.sha256].items():
            if label is not clip.label:
                why = f"the same sound is here as {label} too; delete what is wrong: mww-ha clips delete {id}"
                self.relabelled.append((name, f"{why} (or {clip.id}, which is {clip.label})"))
        known = self._clips.get(clip.id)
        if known is None:
            self._keep(clip)
            return True
        said = {key: getattr(clip, key) for key in COMPLETED if getattr(clip, key)}
        missing = {key: value for key, value in said.items() if not getattr(known, key)}
        for key, value in said.items():
            if key not in missing and value.casefold() != getattr(known, key).casefold():
                why = f"known, but with {key} {getattr(known, key)!r}: not changed to {value!r}"
                self.differing.append((name, f"{why}; if that is wrong: mww-ha clips delete {clip.id}, import again"))
        if missing:
            self._keep(replace(known, **missing))
            self.fuller[clip.id] = self._clips[clip.id]
            self.completed.add(clip.id)
        return False


def _find_doubt(project: Project, clip: Clip) -> str:
    """What is wrong with a wake word as stored, in words; empty: nothing. Files are often cut tight, which passes."""
    settings = project.settings
    report = check_take(audio.read_samples(project.root / clip.path), phrase=settings.phrase, settings=settings.record)
    return "; ".join(reason.text for reason in report.reasons if reason.fault is not Fault.CUT)


def _import_file(root: Path, entry: _Entry, longest_s: float) -> list[Clip]:
    """Stores one file as one clip, or as several when it is longer than ``PART_S``. Raises AudioFileError."""
    fields = {k: getattr(entry, k) for k in ("speaker", "session", "take", "licence", "text", "language")}
    if entry.label is Label.RIR:
        response = audio.read_rir(entry.path)
        clip = audio.add_clip(root, response, label=entry.label, origin=Origin.IMPORTED, source=entry.source, **fields)
        return [clip]
    if entry.label in (Label.WAKE, Label.CONFUSABLE):
        parts: Iterable[audio.Samples] = [audio.read_audio(entry.path, max_duration_s=MAX_UTTERANCE_S)]
    else:
        parts = _bounded(audio.read_blocks(entry.path, block_s=PART_S), entry.path, longest_s)
    clips: list[Clip] = []
    # A file that turns out truncated after its first hour leaves that hour's audio behind, without a row.
    for number, samples in enumerate(parts, start=1):
        if number == 1 and samples.size < MIN_CLIP_S * SAMPLE_RATE_HZ:
            length_s = samples.size / SAMPLE_RATE_HZ
            raise AudioFileError(f"{entry.path} is only {length_s:.3f} s long", hint="record it again")
        if not samples.any():
            continue
        source = entry.source if number == 1 else f"{entry.source} part {number}"
        parent = clips[0].id if clips else ""
        clips.append(
            audio.add_clip(
                root, samples, label=entry.label, origin=Origin.IMPORTED, source=source, parent=parent, **fields
            )
        )
    if not clips:
        raise AudioFileError(f"{entry.path} is silent from start to end", hint="check the microphone")
    return clips


def _bounded(parts: Iterable[audio.Samples], path: Path, longest_s: float) -> Iterator[audio.Samples]:
    total = 0
    for samples in parts:
        total += samples.size
        if total > longest_s * SAMPLE_RATE_HZ:
            raise AudioFileError(f"{path} is longer than {longest_s / 3600:g} hours", hint="cut it into parts")
        yield samples
