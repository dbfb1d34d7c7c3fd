"""What people say of captures, and the clips that this makes.

A verdict is an entry in a history that only grows; taking one back is an entry too. Clips follow the verdicts: a false
accept becomes a lure, a wake word that was heard or missed becomes a wake clip, each cut to the word and tied to its
capture, device and day so that a split can keep together what belongs together.
"""

from __future__ import annotations

import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from mww_ha import audio
from mww_ha.capture.score import NO_SPEECH, best_scores, find_hints
from mww_ha.errors import AudioFileError, InputError
from mww_ha.schema import (
    SAMPLE_RATE_HZ,
    Capture,
    CaptureKind,
    CaptureScore,
    Clip,
    Judgement,
    Label,
    Origin,
    Progress,
    ProgressSink,
    Verdict,
    no_progress,
)
from mww_ha.store import Project, now

LABELS = {Verdict.WAKE: Label.WAKE, Verdict.MISSED_WAKE: Label.WAKE, Verdict.FALSE_ACCEPT: Label.CONFUSABLE}
"""What a judged capture is to the model; other verdicts make no clip."""

CUT_BEFORE_S = 1.8
CUT_AFTER_S = 0.35
"""Around the moment a model is surest, which is the end of the word: it holds any wake word and what woke the model
(it sees 1.5 s), and stays below the 2.5 s that a word may have."""

LONGEST_TAKE_S = 2.5

SAME_MOMENT_S = 20.0
"""Two captures of one satellite this close together may hold the same seconds."""

_PROBE_SAMPLES = 800
_LONGEST_NAME = 80

FindCopies = Callable[[Sequence[Clip], Callable[[Clip], audio.Samples]], list[list[str]]]
"""Groups of ids of clips that are one take, such as ``prepare.split.find_near_duplicates``."""


# ---- the queue ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A capture that waits for a person."""

    capture: Capture
    score: CaptureScore | None
    hints: tuple[str, ...]
    reported: bool  # somebody at the satellite called it a false wake


def list_waiting(
    project: Project,
    *,
    order: str = "newest",
    limit: int = 50,
    offset: int = 0,
    device: str = "",
    kinds: Iterable[CaptureKind] = (),
    model: str = "",
) -> tuple[int, list[Waiting]]:
    """How many undecided captures with sound there are, and a page of them; each filter narrows.

    ``order``: newest | oldest | informative. Informative first: what people reported and what nobody spoke after, then
    scores next to the cutoff. A false wake that refers to a detection is no entry of its own: the detection carries it.
    """
    if order not in ("newest", "oldest", "informative"):
        raise InputError(f"order is {order!r}", hint="it is newest, oldest or informative")
    captures = find_waiting(project, newest_first=order != "oldest", device=device, kinds=kinds)
    captures = [capture for capture in captures if model in ("", capture.model)]
    remarks = project.catalogue.captures(kinds=[CaptureKind.FALSE_WAKE])
    reported = {(remark.device, remark.session) for remark in remarks if remark.session}
    if order == "informative":
        ranks = best_scores(project.catalogue.scores(c.id for c in captures), captures)
        # stable: newest first among equals
        captures.sort(key=lambda c: _expected_use(c, ranks.get(c.id), (c.device, c.upload) in reported))
    page = captures[offset : offset + limit]
    scores = best_scores(project.catalogue.scores(c.id for c in page), page)
    read = project.catalogue.transcripts(c.id for c in page)

    def waiting(capture: Capture) -> Waiting:
        score, said = scores.get(capture.id), (capture.device, capture.upload) in reported
        hints = find_hints(capture, score, said, read.get(capture.id))
        return Waiting(capture=capture, score=score, hints=tuple(hints), reported=said)

    return len(captures), [waiting(capture) for capture in page]


def find_waiting(
    project: Project, *, newest_first: bool = False, device: str = "", kinds: Iterable[CaptureKind] = ()
) -> list[Capture]:
    """The captures of ``list_waiting`` without hints: what is to be counted."""
    captures = project.catalogue.captures(
        verdicts=[Verdict.UNDECIDED], kinds=kinds, device=device, newest_first=newest_first
    )
    return [capture for capture in captures if capture.path and not _refers(project, capture)]


def _refers(project: Project, capture: Capture) -> bool:
    """Whether it is a remark about a detection that is here."""
    if capture.kind is not CaptureKind.FALSE_WAKE or not capture.session:
        return False
    about = project.catalogue.find_upload(capture.device, capture.session)
    return about is not None and about.kind is CaptureKind.DETECTION


def _expected_use(capture: Capture, score: CaptureScore | None, reported: bool) -> tuple[float, float]:
    suspicious = reported or capture.kind is CaptureKind.FALSE_WAKE or capture.outcome in NO_SPEECH
    distance = abs(score.peak - score.cutoff) if score is not None and not score.problem else 1.0
    return (0.0 if suspicious else 1.0, distance)


# ---- verdicts -------------------------------------------------------------------------------------------------------


def judge(project: Project, ids: Iterable[str], verdict: Verdict, *, by: str, person: str | None = None) -> list[str]:
    """Notes what ``by`` says these captures are, all of them or none. Returns the ids for which that is news.

    ``person``: who speaks (None: as it was). Said again it changes nothing. Clips of the old verdict go at once; those
    of the new one come with ``apply_verdicts``. Raises InputError for an unknown id, or one whose sound is gone.
    """
    ids = list(dict.fromkeys(ids))
    by = _name(by, "who judges")
    person = None if person is None else _name(person, "who speaks", may_be_empty=True)
    batch = secrets.token_hex(8)
    changed: list[str] = []
    with project.catalogue.transaction(durable=True):
        found = {capture.id: capture for capture in project.catalogue.captures(ids)}
        for id in ids:
            if id not in found:
                raise InputError(f"no capture {id}", hint="it may have expired or been deleted; load the list again")
        for capture in (found[id] for id in ids):
            speaker = capture.person if person is None else person
            if (capture.verdict, capture.person) == (verdict, speaker):
                continue
            _check_sound(capture, verdict)
            _change(project, capture, verdict, speaker, by=by, batch=batch)
            changed.append(capture.id)
    project.catalogue.sweep(project.root)
    return changed


def undo(project: Project, *, by: str) -> list[str]:
    """Takes back what ``by`` judged last in one go; again: the one before it. Returns the ids that changed.

    Captures that somebody has judged anew since stay as they are. Raises InputError when nothing is left to take back
    or the sound of all of it is gone.
    """
    by = _name(by, "who judges")
    batch = secrets.token_hex(8)
    gone = ""
    changed: list[str] = []
    with project.catalogue.transaction(durable=True):
        entries = [entry for entry in project.catalogue.judgements(by=by) if not entry.undone and not entry.undoes]
        for batch_before in dict.fromkeys(entry.batch for entry in entries):
            for entry in (e for e in reversed(entries) if e.batch == batch_before):
                if _newest(project, entry.capture) != entry.number:
                    continue
                capture = project.catalogue.captures([entry.capture])[0]
                if _lost_sound(capture, entry.before):
                    gone = capture.id
                    continue
                _change(project, capture, entry.before, entry.person_before, by=by, batch=batch, undoes=entry.number)
                changed.append(capture.id)
            if changed:
                break
    if not changed:
        if gone:
            raise InputError(f"the sound of capture {gone} has been deleted", hint="a discarded sound stays an hour")
        raise InputError(f"{by} has nothing to take back", hint="judge something first")
    project.catalogue.sweep(project.root)
    return changed


def _newest(project: Project, capture: str) -> int:
    """Number of the entry that made the capture's verdict; 0: none."""
    history = project.catalogue.judgements(capture)
    return next((entry.number for entry in history if not entry.undone and not entry.undoes), 0)


def list_history(project: Project, id: str) -> list[Judgement]:
    """Who said what of a capture, newest first."""
    return project.catalogue.judgements(id)


def _change(
    project: Project, capture: Capture, verdict: Verdict, person: str, *, by: str, batch: str, undoes: int = 0
) -> None:
    entry = Judgement(
        number=0,
        capture=capture.id,
        batch=batch,
        verdict=verdict,
        person=person,
        before=capture.verdict,
        person_before=capture.person,
        by=by,
        at=now(),
        undoes=undoes,
    )
    project.catalogue.add_judgement(entry)
    _remove_clips(project, project.catalogue.clips_cut_from([capture.id]))


def _remove_clips(project: Project, clips: Sequence[Clip]) -> None:
    project.catalogue.remove_file(*(clip.path for clip in clips))
    project.catalogue.remove_clips(clip.id for clip in clips)


def _lost_sound(capture: Capture, verdict: Verdict) -> bool:
    """Whether this verdict is about sound that was there once and is not any more."""
    return not capture.path and capture.duration_s > 0 and verdict is not Verdict.DISCARD


def _check_sound(capture: Capture, verdict: Verdict) -> None:
    if _lost_sound(capture, verdict):
        raise InputError(f"the sound of capture {capture.id} has been deleted", hint="it was discarded")


def _name(text: str, what: str, *, may_be_empty: bool = False) -> str:
    text = " ".join(text.split())
    if not text and not may_be_empty:
        raise InputError(f"{what} is not said", hint="give a name")
    if len(text) > _LONGEST_NAME or not text.isprintable():
        raise InputError(f"{what}: {text[:_LONGEST_NAME]!r} is no name", hint=f"at most {_LONGEST_NAME} letters")
    return text


# ---- clips ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What verdicts made of the clips."""

    added: int
    removed: int
    kept: int
    duplicates: tuple[tuple[str, str], ...]  # (capture, the one whose clip stands for both)
    unusable: tuple[tuple[str, str], ...]  # (capture, reason)
    unnamed: int  # wake clips of nobody in particular: their speaker may be held out under a name


@dataclass(frozen=True, slots=True, kw_only=True)
class _Piece:
    """What a judged capture gives: the cut for the clip, and all of its sound to compare with."""

    capture: Capture
    label: Label
    cut: audio.Samples
    sha256: str  # of the cut
    whole: audio.Samples
    known: dict[str, str]  # what the clip says of itself


def apply_verdicts(
    project: Project, *, find_copies: FindCopies | None = None, report: ProgressSink = no_progress
) -> Applied:
    """Makes the clips agree with the verdicts: adds what is missing, removes what is no longer meant.

    Seconds that two captures of one satellite share count once, and with ``find_copies`` other copies of one take too:
    the oldest capture has the clip. Where one of them was judged a wake word and another a false accept, none has.
    Can be stopped at any moment and run again. Raises StorageError.
    """
    pieces, unusable, unreadable = _cut_all(project, report)
    chosen: dict[str, _Piece] = {}
    duplicates: list[tuple[str, str]] = []
    for group in _group(pieces, find_copies):
        if len({piece.label for piece in group}) > 1:
            unusable += [(piece.capture.id, "another capture of this sound was judged otherwise") for piece in group]
            continue
        chosen[group[0].capture.id] = group[0]
        duplicates += [(piece.capture.id, group[0].capture.id) for piece in group[1:]]
    clips = project.catalogue.clips_cut_from(capture.id for capture in project.catalogue.captures())
    kept = {clip.parent for clip in clips if clip.parent in chosen and _is_clip_of(clip, chosen[clip.parent])}
    stale = [clip for clip in clips if clip.parent not in kept and clip.parent not in unreadable]
    with project.catalogue.transaction():
        _remove_clips(project, stale)
    fresh = [piece for id, piece in chosen.items() if id not in kept]
    for piece in fresh:
        # Inside the transaction the file cannot be swept away between its writing and its row.
        with project.catalogue.transaction():
            project.catalogue.add_clips([_add_clip(project, piece)])
    project.catalogue.sweep(project.root)
    return Applied(
        added=len(fresh),
        removed=len(stale),
        kept=len(kept),
        duplicates=tuple(duplicates),
        unusable=tuple(unusable),
        unnamed=sum(piece.label is Label.WAKE and not piece.capture.person for piece in chosen.values()),
    )


def _cut_all(project: Project, report: ProgressSink) -> tuple[list[_Piece], list[tuple[str, str]], set[str]]:
    """Pieces of all captures with a verdict that makes a clip, the oldest first; (capture, reason) of those without
    one; and those of them whose file cannot be read, which is no reason to give up a clip made before.
    """
    judged = project.catalogue.captures(verdicts=LABELS)
    scores = best_scores(project.catalogue.scores(c.id for c in judged), judged)
    pieces: list[_Piece] = []
    unusable: list[tuple[str, str]] = []
    unreadable: set[str] = set()
    for number, capture in enumerate(judged, 1):
        try:
            pieces.append(_cut(project, capture, scores.get(capture.id)))
        except InputError as error:
            unusable.append((capture.id, error.message))
            if isinstance(error, AudioFileError):
                unreadable.add(capture.id)
        report(Progress(stage="verdicts", done=number, total=len(judged), unit="captures"))
    return pieces, unusable, unreadable


def _cut(project: Project, capture: Capture, score: CaptureScore | None) -> _Piece:
    """Raises InputError for a capture without a word, AudioFileError for one that cannot be read."""
    if not capture.path:
        raise InputError("it has no sound")
    whole = audio.read_samples(project.root / capture.path)
    cut = cut_word(whole, _word_end_s(capture, score))
    sitting = capture.session if capture.kind is CaptureKind.PROMPT else ""
    label = LABELS[capture.verdict]
    known = {
        "origin": Origin.RECORDED if capture.kind is CaptureKind.PROMPT else Origin.CAPTURED,
        "speaker": capture.person,
        "session": sitting or f"{capture.device} {capture.captured_at[:10]}",
        "take": capture.id,
        "text": project.settings.phrase if label is Label.WAKE else "",
        "language": project.settings.language if label is Label.WAKE else "",
        "source": f"{capture.kind} at {capture.device}, {capture.captured_at}",
        "parent": capture.id,
    }
    return _Piece(capture=capture, label=label, cut=cut, sha256=audio.samples_digest(cut), whole=whole, known=known)


def cut_word(samples: audio.Samples, end_s: float) -> audio.Samples:
    """What is said up to ``end_s``, with 0.1 s around it; all that is said when ``end_s`` is negative.

    Raises InputError for silence, and for more than ``LONGEST_TAKE_S`` where nobody knows which of it is the word.
    """
    if end_s >= 0:
        start = max(0, round((end_s - CUT_BEFORE_S) * SAMPLE_RATE_HZ))
        samples = samples[start : max(start, round((end_s + CUT_AFTER_S) * SAMPLE_RATE_HZ))]
    first, last = audio.trim_silence(samples, margin_s=0.1)
    if last <= first:
        raise InputError("it holds nothing but silence")
    if last - first > LONGEST_TAKE_S * SAMPLE_RATE_HZ:
        raise InputError(f"{(last - first) / SAMPLE_RATE_HZ:.1f} s are spoken, and where the word is nobody knows")
    return samples[first:last]


def _word_end_s(capture: Capture, score: CaptureScore | None) -> float:
    """When the word has ended, as far as anybody knows; -1: nobody does."""
    if score is not None and not score.problem and score.peak >= score.cutoff / 2:
        return score.peak_s
    return capture.trigger_s


def _is_clip_of(clip: Clip, piece: _Piece) -> bool:
    same = all(getattr(clip, name) == value for name, value in piece.known.items())
    return same and clip.sha256 == piece.sha256 and clip.label is piece.label


def _add_clip(project: Project, piece: _Piece) -> Clip:
    known = {name: value for name, value in piece.known.items() if name != "origin"}
    return audio.add_clip(project.root, piece.cut, label=piece.label, origin=Origin(piece.known["origin"]), **known)


def _group(pieces: Sequence[_Piece], find_copies: FindCopies | None) -> Iterator[list[_Piece]]:
    """Pieces that are one take together, the oldest first in each group."""
    group_of = list(range(len(pieces)))

    def join(a: int, b: int) -> None:
        low, high = sorted((group_of[a], group_of[b]))
        if low != high:
            group_of[:] = [low if g == high else g for g in group_of]

    first: dict[str, int] = {}
    for index, piece in enumerate(pieces):
        join(first.setdefault(piece.sha256, index), index)
    by_device: dict[str, list[int]] = defaultdict(list)
    for index, piece in enumerate(pieces):
        recent = by_device[piece.capture.device]
        moment = datetime.fromisoformat(piece.capture.captured_at)
        for other in reversed(recent):
            before = datetime.fromisoformat(pieces[other].capture.captured_at)
            if (moment - before).total_seconds() > SAME_MOMENT_S:
                break
            if _shares_sound(pieces[other], piece):
                join(other, index)
        recent.append(index)
    if find_copies is not None and len(pieces) > 1:
        place = {piece.capture.id: index for index, piece in enumerate(pieces)}
        for ids in find_copies([_stand_in(piece) for piece in pieces], lambda clip: pieces[place[clip.id]].cut):
            for id in ids[1:]:
                join(place[ids[0]], place[id])
    groups: dict[int, list[_Piece]] = defaultdict(list)
    for index, piece in enumerate(pieces):
        groups[group_of[index]].append(piece)
    yield from groups.values()


def _shares_sound(a: _Piece, b: _Piece) -> bool:
    """Whether the loudest moment of ``a``'s cut is in ``b``, sample by sample: one microphone, the same seconds."""
    power = np.convolve(a.cut.astype(np.float64) ** 2, np.ones(_PROBE_SAMPLES), "valid")
    if power.size == 0 or power.max() <= 0:
        return False
    start = int(np.argmax(power))
    probe = a.cut[start : start + _PROBE_SAMPLES].tobytes()
    where = (whole := b.whole.tobytes()).find(probe)
    while where % 2 == 1 and where >= 0:
        where = whole.find(probe, where + 1)
    return where >= 0


def _stand_in(piece: _Piece) -> Clip:
    """A clip to compare, called by its capture's id."""
    return Clip(
        id=piece.capture.id,
        path="",
        sha256=piece.sha256,
        label=piece.label,
        origin=Origin(piece.known["origin"]),
        duration_s=piece.cut.size / SAMPLE_RATE_HZ,
    )
