"""People whose voices are in the project: what they agreed to, and how every trace of them is removed."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mww_ha.errors import InputError
from mww_ha.schema import Capture, CaptureKind, Clip, Origin, Person, Split
from mww_ha.store import PROJECT_FILE, Project, now, storage_errors, write_json, write_text

PURPOSE = "to train and judge this household's wake-word models"

NOBODY = "somebody who was deleted"
"""Stands in old reports where a name stood."""

LONGEST_NAME = 80

HEARD_FILE = "heard.json"
"""In a run's folder: clip → side, after its features were deleted."""


# ---- consent --------------------------------------------------------------------------------------------------------


def clean_name(text: str, what: str = "the person's name") -> str:
    """A name as clips carry it: one line, single spaces. Raises InputError.

    Colons are for synthetic voices (``piper:voice:3``), "@folder" for imports, so no person can be called so.
    """
    name = " ".join(text.split())
    if not name:
        raise InputError(f"{what} is not said", hint="give a name")
    if len(name) > LONGEST_NAME or not name.isprintable() or ":" in name or name.startswith("@"):
        raise InputError(
            f"{what}: {name[:LONGEST_NAME]!r} is no name", hint=f"at most {LONGEST_NAME} letters, no colon"
        )
    return name


def note_consent(
    project: Project, name: str, *, noted_by: str, purpose: str = PURPOSE, may_share: bool = False
) -> Person:
    """Notes that somebody agreed, now, to be recorded for ``purpose``; said again it replaces what was noted.

    ``noted_by``: who wrote it down, often the person. ``may_share``: clips and models may leave the household. "anna"
    and "Anna" are one person. Raises InputError.
    """
    name, noted_by = clean_name(name), clean_name(noted_by, "who notes it")
    purpose = " ".join(purpose.split())
    if not purpose or len(purpose) > 500 or not purpose.isprintable():
        raise InputError("what the recordings are for is not said", hint=f"for example: {PURPOSE}")
    known = _find(project, name)
    person = Person(
        name=known.name if known else name,
        consented_at=now(),
        noted_by=noted_by,
        purpose=purpose,
        may_share=may_share,
    )
    project.catalogue.put_person(person)
    return person


def find_person(project: Project, name: str) -> Person:
    """Who agreed to be recorded under that name, in upper or lower case. Raises InputError when nobody did."""
    name = clean_name(name)
    known = _find(project, name)
    if known is None:
        raise InputError(
            f"nobody noted that {name} agreed to be recorded",
            hint="note the consent first: who, for what, may it be shared",
        )
    return known


def find_unnoted(project: Project, names: Iterable[str] | None = None) -> list[str]:
    """People of whom nobody noted that they agreed, sorted: of these ``names``, or of all who speak in clips that no
    program made. Synthetic voices and speakers of public recordings, whose names have a colon, are none.
    """
    if names is None:
        names = {clip.speaker for clip in project.catalogue.clips() if clip.origin is not Origin.SYNTHESIZED}
    noted = {person.name.casefold() for person in project.catalogue.people()}
    unnoted = {name.casefold(): name for name in sorted(names, reverse=True) if name and ":" not in name}
    return sorted((name for key, name in unnoted.items() if key not in noted), key=str.casefold)


def _find(project: Project, name: str) -> Person | None:
    return next((person for person in project.catalogue.people() if person.name.casefold() == name.casefold()), None)


# ---- deletion -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """What a deletion took away, and what it could not."""

    clips: tuple[str, ...] = ()
    captures: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    feature_sets: tuple[str, ...] = ()  # deleted: they are made anew without these clips
    runs: tuple[str, ...] = ()  # marked: they learned from these clips or were judged by them
    models: tuple[str, ...] = ()  # marked
    reports: tuple[str, ...] = ()  # the name was taken out of them
    files: int = 0  # sound files deleted
    consent: bool = False  # a consent record was deleted
    still_named: tuple[str, ...] = ()  # files that are the user's own and hold the name
    log_is_empty: bool = True  # False: the catalogue's log still holds deleted rows until others have read it


def delete_person(project: Project, name: str) -> Removed:
    """Deletes a person: sound, clips, captures, features made of them, sessions, consent; marks the models.

    What somebody says in captures that nobody put a name to cannot be found. What the person judged as a reviewer
    stays. Nothing may be prepared, trained or recorded meanwhile. Interrupted, it is simply run again: rows go last.
    Raises InputError when nobody is known by that name, StorageError.
    """
    names, _, captures, clips = _find_theirs(project, name)
    return _delete(project, clips, captures, people=names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """What there is of a person, before it is deleted."""

    name: str
    clips: int
    captures: int
    sessions: int
    duration_s: float  # of the clips
    models: tuple[str, ...]  # learned from these clips or were judged by them
    consent: bool


def find_traces(project: Project, name: str) -> Traces:
    """What ``delete_person`` would take away, and which models it would mark. Raises InputError."""
    names, sessions, captures, clips = _find_theirs(project, name)
    ids = {clip.id for clip in clips}
    ids |= {clip.id for clip in project.catalogue.clips_cut_from([*ids, *(capture.id for capture in captures)])}
    heard = ids | _find_heard(project, {*ids, *(capture.id for capture in captures)}, names)
    affected: dict[str, dict[str, Any]] = {}
    for run in project.catalogue.runs():
        sides = _read_table(project.features_dir / str(run.get("feature_set")) / "index.json", "sides")
        sides = sides or _read_table(project.runs_dir / str(run["id"]) / HEARD_FILE, "") or {}
        gone = [side for id, side in sides.items() if id in heard]
        if gone:
            affected[str(run["id"])] = {"trained_on": gone.count(Split.TRAIN)}
    _pass_on(project.catalogue.runs(), affected)
    people = {person.name for person in project.catalogue.people()}
    return Traces(
        name=min(names),
        clips=len(ids),
        captures=len(_with_remarks(project, captures)),
        sessions=len(sessions),
        duration_s=round(sum(clip.duration_s for clip in project.catalogue.clips() if clip.id in ids), 3),
        models=tuple(sorted(str(m["id"]) for m in project.catalogue.models() if m.get("run") in affected)),
        consent=not people.isdisjoint(names),
    )


def _find_theirs(project: Project, name: str) -> tuple[set[str], list[str], list[Capture], list[Clip]]:
    """A person's names (as they are written), sessions, captures and clips. Raises InputError when nobody is known."""
    name = clean_name(name)
    catalogue = project.catalogue
    known = _find(project, name)
    everybody = [clip.speaker for clip in catalogue.clips()] + [capture.person for capture in catalogue.captures()]
    for path in _indexes(project):  # whose clips went when a verdict was taken back
        everybody += (_read_table(path, "people") or {}).values()
    names = {known.name} if known else set()
    names |= {other for other in everybody if other.casefold() == name.casefold()}
    names |= {session.person for session in catalogue.sessions() if session.person.casefold() == name.casefold()}
    if not names:
        listed = sorted({person.name for person in catalogue.people()} | {n for n in everybody if n and ":" not in n})
        raise InputError(f"nobody called {name} is known here", hint=f"known: {', '.join(listed[:20]) or 'nobody'}")
    sessions = [session.id for own in names for session in catalogue.sessions(person=own)]
    captures = [c for c in catalogue.captures() if c.person in names or (c.session and c.session in sessions)]
    clips = [clip for clip in catalogue.clips() if clip.speaker in names or (clip.session and clip.session in sessions)]
    return names, sessions, captures, clips


def delete_clips(project: Project, ids: Iterable[str]) -> Removed:
    """Deletes single clips with all that was made of them, and the captures they were cut from. Ids that are not there
    are passed over. As for ``delete_person``.
    """
    wanted = set(ids)
    clips = [clip for clip in project.catalogue.clips() if clip.id in wanted]
    return _delete(project, clips, project.catalogue.captures({clip.parent for clip in clips}))


def delete_captures(project: Project, ids: Iterable[str]) -> Removed:
    """Deletes captures at once: sound, history, the clips cut from them, and what was made of those. Ids that are not
    there are passed over. As for ``delete_person``.
    """
    return _delete(project, (), project.catalogue.captures(ids))


def _delete(
    project: Project, clips: Sequence[Clip], captures: Sequence[Capture], *, people: Iterable[str] = ()
) -> Removed:
    catalogue = project.catalogue
    people = sorted(people)
    captures = _with_remarks(project, captures)
    found = {clip.id: clip for clip in clips}
    fresh: list[str] = [*found, *(capture.id for capture in captures)]
    while fresh:  # what was cut from them, and from that
        more = [clip for clip in catalogue.clips_cut_from(fresh) if clip.id not in found]
        found |= {clip.id: clip for clip in more}
        fresh = [clip.id for clip in more]
    heard = set(found) | _find_heard(project, {*found, *(capture.id for capture in captures)}, people)
    feature_sets, affected = _delete_features(project, heard)
    _pass_on(catalogue.runs(), affected)
    for run, gone in affected.items():
        catalogue.mark_document("runs", run, "deleted", gone)
    models = [model for model in catalogue.models() if model.get("run") in affected]
    for model in models:
        _mark_model(project, model, affected[str(model["run"])])
    reports = [path for path in _reports(project) if any(_take_name_out(path, name) for name in people)]
    consent = False
    paths = {*(clip.path for clip in found.values()), *(capture.path for capture in captures)} - {""}
    there = [path for path in paths if (project.root / path).exists()]
    sessions: list[str] = []
    with catalogue.transaction(durable=True):
        catalogue.remove_file(*sorted(paths))
        catalogue.remove_clips(found)
        catalogue.remove_captures(captures)
        for name in people:
            consent = consent or any(person.name == name for person in catalogue.people())
            sessions += [session.id for session in catalogue.remove_person(name)]
            catalogue.forget_speaker(name)
    catalogue.sweep(project.root)
    log_is_empty = catalogue.empty_log()
    files = sum(not (project.root / path).exists() for path in there)
    return Removed(
        clips=tuple(sorted(found)),
        captures=tuple(sorted(capture.id for capture in captures)),
        sessions=tuple(sessions),
        feature_sets=tuple(sorted(feature_sets)),
        runs=tuple(sorted(affected)),
        models=tuple(sorted(str(model["id"]) for model in models)),
        reports=tuple(path.name for path in reports),
        files=files,
        consent=consent,
        still_named=tuple(path.name for path in _own_files(project) if any(_names(path, name) for name in people)),
        log_is_empty=log_is_empty,
    )


def _with_remarks(project: Project, captures: Sequence[Capture]) -> list[Capture]:
    """These and what was remarked about them at the satellite."""
    about = {(capture.device, capture.upload) for capture in captures}
    remarks = project.catalogue.captures(kinds=[CaptureKind.FALSE_WAKE]) if about else []
    found = {capture.id: capture for capture in captures}
    return list((found | {r.id: r for r in remarks if (r.device, r.session) in about}).values())


def _indexes(project: Project) -> list[Path]:
    return sorted(project.features_dir.glob("*/index.json"))


def _find_heard(project: Project, parents: set[str], people: Collection[str]) -> set[str]:
    """Clips in feature sets that were cut from ``parents`` or spoken by ``people``: after a verdict was taken back the
    catalogue does not know them any more.
    """
    found: set[str] = set()
    for path in _indexes(project):
        for key, wanted in (("parents", parents), ("people", people)):
            found |= {id for id, of in (_read_table(path, key) or {}).items() if of in wanted}
    return found


def _delete_features(project: Project, clips: set[str]) -> tuple[set[str], dict[str, dict[str, Any]]]:
    """Deletes feature sets that hold one of ``clips``, and those that were never finished, returned by id.

    And what to mark each run with that heard one of them. Which clips a run heard besides is kept in its folder: when
    the next person goes, its features are not there any more.
    """
    if not clips:
        return set(), {}
    sets: set[str] = set()
    affected: dict[str, dict[str, Any]] = {}
    by_set: dict[str, list[str]] = {}
    for run in project.catalogue.runs():
        by_set.setdefault(str(run.get("feature_set")), []).append(str(run["id"]))
        path = project.runs_dir / str(run["id"]) / HEARD_FILE
        _note_heard(path, _read_table(path, ""), clips, affected)
    folders = (
        [path for path in project.features_dir.iterdir() if path.is_dir()] if project.features_dir.exists() else []
    )
    for folder in folders:
        sides = _read_table(folder / "index.json", "sides")
        if sides is not None and clips.isdisjoint(sides):
            continue  # without an index it is unfinished: nobody knows what is in it, sound as it is included
        for run_id in by_set.get(folder.name, []):
            _note_heard(project.runs_dir / run_id / HEARD_FILE, sides, clips, affected)
        with storage_errors(folder):
            shutil.rmtree(folder)
        sets.add(folder.name)
    return sets, affected


def _pass_on(runs: Sequence[dict[str, Any]], affected: dict[str, dict[str, Any]]) -> None:
    """Weights that were trained on from others (``start``) carry on what those were trained on."""
    starts = {str(run["id"]): str(run.get("start", "")) for run in runs}
    while True:
        heirs = {id: start for id, start in starts.items() if affected.get(start, {}).get("trained_on")}
        fresh = {id: start for id, start in heirs.items() if not affected.get(id, {}).get("trained_on")}
        if not fresh:
            return
        affected |= {id: {**affected[start], "start": start} for id, start in fresh.items()}


def _read_table(path: Path, key: str) -> dict[str, str] | None:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        table = known[key] if key else known
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return table if isinstance(table, dict) else None


def _note_heard(path: Path, sides: dict[str, str] | None, clips: set[str], affected: dict[str, dict[str, Any]]) -> None:
    if sides is None:
        return
    gone = [side for id, side in sides.items() if id in clips]
    write_json(path, {id: side for id, side in sides.items() if id not in clips})
    if gone:
        affected[path.parent.name] = {"clips": len(gone), "trained_on": gone.count(Split.TRAIN), "at": now()}


def _mark_model(project: Project, model: dict[str, Any], gone: dict[str, Any]) -> None:
    about = project.root / str(model["about_path"])
    try:
        known = json.loads(about.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = None  # deleted by hand, or never written: the catalogue's mark is what is left
    if isinstance(known, dict):
        write_json(about, known | {"deleted": [*known.get("deleted", []), gone]})
    project.catalogue.mark_document("models", str(model["id"]), "deleted", gone)


# ---- the name in reports --------------------------------------------------------------------------------------------


def _reports(project: Project) -> Iterator[Path]:
    if project.reports_dir.exists():
        yield from sorted(path for path in project.reports_dir.rglob("*") if path.suffix in (".json", ".html"))


def _take_name_out(path: Path, name: str) -> bool:
    """Whether the name stood there as a whole value (JSON) or as all the text of an element (HTML)."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".html":
        shown = html.escape(name)
        clean = re.sub(rf"(?<=>)(\s*){re.escape(shown)}(\s*)(?=<)", rf"\g<1>{NOBODY}\g<2>", text)
        if clean == text:
            return False
        write_text(path, clean)
        return True
    try:
        known = json.loads(text)
    except ValueError:
        return False
    clean_value = _without(known, name)
    if clean_value == known:
        return False
    write_json(path, clean_value)
    return True


def _without(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return {(NOBODY if key == name else key): _without(item, name) for key, item in value.items()}
    if isinstance(value, list):
        return [_without(item, name) for item in value]
    return NOBODY if value == name else value


def _own_files(project: Project) -> Iterator[Path]:
    yield from (path for path in (project.root / PROJECT_FILE, project.devices_path) if path.exists())
    yield from _reports(project)


def _names(path: Path, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", path.read_text(encoding="utf-8", errors="replace")) is not None
