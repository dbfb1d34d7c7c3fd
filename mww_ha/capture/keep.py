"""How long captures are kept, how they are deleted, and whether files and rows agree.

What nobody judged is deleted after some days, and earlier where room runs out, the oldest first; what was judged stays
until somebody deletes it. A discarded capture loses its sound when it can no longer be undone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mww_ha.config import CaptureSettings
from mww_ha.errors import InputError
from mww_ha.schema import Capture, CaptureKind, Verdict
from mww_ha.store import Catalogue, Project, storage_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class Consistency:
    """What a check of files against rows found. All empty: everything agrees."""

    catalogue: tuple[str, ...] = ()  # what SQLite says is wrong
    missing: tuple[str, ...] = ()  # paths that a row names and that are not there
    stray: tuple[str, ...] = ()  # files that no row names, left by a crash before anything was promised
    unfinished: tuple[str, ...] = ()  # files that were to be deleted

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not (self.catalogue or self.missing or self.stray or self.unfinished)


def expire(project: Project, *, at: datetime | None = None) -> int:
    """Deletes what nobody judged in time, what is too much, and the sound of discarded captures. Returns how many."""
    catalogue = project.catalogue
    with catalogue.transaction(durable=True):
        number = expire_rows(catalogue, project.settings.capture, at=at or datetime.now(UTC))
    catalogue.sweep(project.root)
    return number


def expire_rows(catalogue: Catalogue, settings: CaptureSettings, *, at: datetime, needed_bytes: int = 0) -> int:
    """``expire`` without the files, for use inside a transaction; also makes room for ``needed_bytes``.

    There may still be too little room afterwards: what was judged is never deleted to make some.
    """
    number = 0
    too_late = (at - timedelta(minutes=settings.undo_minutes)).isoformat(timespec="seconds")
    most = settings.max_mb * 1e6 - needed_bytes
    crowded = catalogue.capture_bytes() > most
    for capture in catalogue.captures(verdicts=[Verdict.DISCARD]):
        if capture.path and (crowded or _judged_at(catalogue, capture) <= too_late):
            catalogue.remove_file(capture.path)
            catalogue.update_capture(capture.id, path="")
            number += 1
    too_old = (at - timedelta(days=settings.keep_days)).isoformat(timespec="milliseconds")
    excess = catalogue.capture_bytes() - most
    gone = []
    for capture in catalogue.captures(verdicts=[Verdict.UNDECIDED]):
        old = capture.received_at < too_old
        if old or (excess > 0 and capture.path):
            gone.append(capture)
            excess -= capture.bytes if capture.path else 0
    gone = _with_remarks(catalogue, gone)
    catalogue.remove_file(*(capture.path for capture in gone))
    catalogue.remove_captures(gone)
    return number + len(gone)


def _with_remarks(catalogue: Catalogue, captures: Iterable[Capture]) -> list[Capture]:
    """These and what was remarked about them."""
    found = {capture.id: capture for capture in captures}
    about = {(capture.device, capture.upload) for capture in found.values()}
    for remark in catalogue.captures(kinds=[CaptureKind.FALSE_WAKE]) if about else ():
        if (remark.device, remark.session) in about:
            found[remark.id] = remark
    return list(found.values())


def _judged_at(catalogue: Catalogue, capture: Capture) -> str:
    history = catalogue.judgements(capture.id)
    return history[0].at if history else ""


def sound_path(project: Project, id: str) -> Path:
    """Where the sound of a capture lies. Raises InputError when it is unknown or has none."""
    found = project.catalogue.captures([id])
    if not found:
        raise InputError(f"no capture {id}", hint="it may have expired or been deleted")
    if not found[0].path:
        raise InputError(f"capture {id} has no sound", hint="it was discarded, or the satellite sent none")
    return project.root / found[0].path


def check_consistency(project: Project, *, repair: bool = False) -> Consistency:
    """Files of captures against their rows, and the catalogue's own check.

    ``repair`` deletes stray files: nobody was told that they were taken, and without a row nobody could say whose they
    are. It also finishes interrupted deletions. A missing sound is only named: its row holds a verdict.
    """
    catalogue = project.catalogue
    broken = tuple(catalogue.check_integrity())
    # Inside the transaction no upload is halfway between its file and its row.
    with catalogue.transaction():
        unfinished = tuple(catalogue.files_to_remove())
        named = {capture.path for capture in catalogue.captures() if capture.path}
        there = {
            path.relative_to(project.root).as_posix() for path in project.captures_dir.rglob("*") if path.is_file()
        }
        missing = tuple(sorted(named - there))
        stray = tuple(sorted(there - named - set(unfinished)))
        for path in stray if repair else ():
            with storage_errors(project.root / path):
                (project.root / path).unlink(missing_ok=True)
    if repair:
        catalogue.sweep(project.root)
    return Consistency(catalogue=broken, missing=missing, stray=stray, unfinished=unfinished)
