"""What the page API answers about captures: the queue that a person judges, its history, rates of the field, tokens."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal

from aiohttp import hdrs, web

from mww_ha import detector
from mww_ha.capture import keep, rates, review, tokens
from mww_ha.capture.exposure import is_model_id
from mww_ha.capture.score import best_scores, find_faults, find_hints
from mww_ha.errors import AudioFileError, InputError, ManifestError, ModelFileError
from mww_ha.schema import Capture, CaptureKind, CaptureScore, Exposure, Interval, Judgement, Verdict
from mww_ha.store import Project
from mww_ha.web.access import Caller
from mww_ha.web.jobs import JobStateError
from mww_ha.web.keeper import KeeperState
from mww_ha.web.link import LinkState
from mww_ha.web.openapi import Call, NotFoundError, Route
from mww_ha.web.orders import KINDS, STAGES, DeviceName, ModelId
from mww_ha.web.schedule import ScheduleState
from mww_ha.web.wire import Number, Text

CaptureId = Annotated[str, Text(pattern="[0-9a-f]{16}", longest=16)]
TokenId = Annotated[str, Text(pattern="[0-9a-f]{16}", longest=16)]
Day = Annotated[str, Text(pattern="([0-9]{4}-[0-9]{2}-[0-9]{2})?", longest=10)]
Keys = Annotated[str, Text(pattern="(device|room|model)(,(device|room|model)){0,2}", longest=20)]
PersonName = Annotated[str, Text(longest=80)]
Limit = Annotated[int, Number(least=1, most=1000)]
Offset = Annotated[int, Number(least=0, most=10**9)]
KindName = Literal["detection", "near_miss", "canary", "false_wake", "prompt"]
VerdictName = Literal["undecided", "wake", "false_accept", "missed_wake", "other", "discard"]
OrderName = Literal["newest", "oldest", "informative"]

STEP_MS = 30
"""Between two scores of a trace."""

# --- what is told ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreView:
    """What a model makes of a capture; numbers from 0 to 1, the trace from 0 to 255, one number each 30 ms."""

    model: str
    scored_at: str
    peak: float
    peak_s: float
    cutoff: float
    detections_s: tuple[float, ...]
    reproduced: bool
    problem: str
    step_ms: int
    first_s: float  # when the sound of the trace's first score ends
    window: int  # how many scores the model's detector averages; 0: the model is not at hand, or this is a list
    trace: list[int]  # empty in lists


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureView:
    """A capture with what helps to judge it."""

    capture: Capture
    score: ScoreView | None  # by the model that woke, else the newest
    hints: tuple[str, ...]
    reported: bool  # called a false wake at the satellite
    sound: str  # relative to the panel's base; empty: there is none


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureDetail:
    """All that is known of a capture."""

    capture: Capture
    scores: list[ScoreView]  # of each model that heard it; the one that woke comes first
    hints: tuple[str, ...]
    reported: bool
    faults: tuple[str, ...]  # of the sound itself
    transcript: str | None  # what speech-to-text read; null: it was not asked
    copies: list[CaptureId]  # captures of this satellite that may hold some of the same seconds
    history: list[Judgement]  # newest first
    sound: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturePage:
    """Some captures, and how many there are."""

    total: int
    captures: list[CaptureView]


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """The next capture for a person to judge, of those that wait."""

    waiting: int
    next: CaptureDetail | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What a verdict changed, and the next capture."""

    changed: list[str]
    waiting: int
    next: CaptureDetail | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Deleted:
    """What a deletion took away; models that had learned from it are marked."""

    captures: list[str]
    clips: list[str]
    models: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureCount:
    """How many captures there are of a device, a model, a kind and a verdict."""

    device: str
    model: str
    kind: CaptureKind
    verdict: Verdict
    captures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RateView:
    """A rate of the field with its interval, and in words."""

    device: str
    room: str
    model: str
    false_accepts: int
    wakes: int
    other: int
    unjudged: int
    lost: int
    missed: int
    hours: float
    per_hour: Interval | None
    worst_per_hour: float | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallView:
    """How many of somebody's prompted takes a model heard, and in words."""

    person: str
    model: str
    recall: Interval | None
    unscored: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """A satellite's token, without what opens anything."""

    id: str
    device: str
    scope: str
    made_at: str
    last_used_at: str  # to the hour; empty: never
    revoked_at: str  # empty: in force


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A new token. It is shown this once."""

    id: str
    device: str
    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What the service is busy with besides jobs, and whom it is connected with."""

    waiting: int  # captures for a person to judge
    keeper: KeeperState | None
    link: LinkState | None
    schedule: ScheduleState | None


# --- captures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturesQuery:
    """Which captures."""

    state: Literal["waiting", "judged", "all"] = "waiting"
    device: DeviceName | None = None
    kind: KindName | None = None
    verdict: VerdictName | None = None  # with state: all or judged
    model: ModelId | None = None
    order: OrderName = "newest"
    limit: Limit = 50
    offset: Offset = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReviewQuery:
    """Which captures wait, and which of them comes first."""

    order: OrderName = "informative"
    device: DeviceName | None = None
    kind: KindName | None = None
    model: ModelId | None = None


async def get_captures(call: Call, query: CapturesQuery) -> CapturePage:
    """Captures, those that wait for a person first of all. Order informative is for those that wait."""
    return await call.service.ask(lambda project: list_captures(project, query))


def list_captures(project: Project, query: CapturesQuery) -> CapturePage:
    """A page of captures."""
    device, model = query.device or "", query.model or ""
    kinds = [CaptureKind(query.kind)] if query.kind else []
    if query.state == "waiting":
        total, page = review.list_waiting(
            project, order=query.order, limit=query.limit, offset=query.offset, device=device, kinds=kinds, model=model
        )
        return CapturePage(total=total, captures=[_view(w.capture, w.score, w.hints, w.reported) for w in page])
    verdicts = [verdict for verdict in Verdict if verdict is not Verdict.UNDECIDED or query.state == "all"]
    captures = project.catalogue.captures(
        verdicts=verdicts, kinds=kinds, device=device, newest_first=query.order != "oldest"
    )
    captures = [c for c in captures if model in ("", c.model) and query.verdict in (None, c.verdict)]
    chosen = captures[query.offset : query.offset + query.limit]
    scores = best_scores(project.catalogue.scores(c.id for c in chosen), chosen)
    reported, read = _reported(project), project.catalogue.transcripts(c.id for c in chosen)
    views = []
    for capture in chosen:
        said, score = (capture.device, capture.upload) in reported, scores.get(capture.id)
        views.append(_view(capture, score, tuple(find_hints(capture, score, said, read.get(capture.id))), said))
    return CapturePage(total=len(captures), captures=views)


def _reported(project: Project) -> set[tuple[str, str]]:
    remarks = project.catalogue.captures(kinds=[CaptureKind.FALSE_WAKE])
    return {(remark.device, remark.session) for remark in remarks if remark.session}


def _view(capture: Capture, score: CaptureScore | None, hints: tuple[str, ...], reported: bool) -> CaptureView:
    shown = None if score is None else _score_view(score)
    return CaptureView(capture=capture, score=shown, hints=hints, reported=reported, sound=_sound(capture))


def _score_view(score: CaptureScore, window: int | None = None) -> ScoreView:
    """``window`` None: without the trace."""
    return ScoreView(
        model=score.model,
        scored_at=score.scored_at,
        peak=score.peak,
        peak_s=score.peak_s,
        cutoff=score.cutoff,
        detections_s=score.detections_s,
        reproduced=score.reproduced,
        problem=score.problem,
        step_ms=STEP_MS,
        first_s=detector.step_time_s(0),
        window=window or 0,
        trace=[] if window is None else list(score.trace),
    )


def _window_of(project: Project, model: str) -> int:
    """How many scores a model of this project averages; 0: it is not at hand."""
    try:
        # what a satellite calls its model is a path only when it looks like one of ours
        known = is_model_id(model)
        return detector.load_manifest(project.models_dir / f"{model}.json").sliding_window if known else 0
    except (ManifestError, ModelFileError):
        return 0


def _sound(capture: Capture) -> str:
    return f"api/captures/{capture.id}/sound" if capture.path else ""


async def get_capture(call: Call, id: CaptureId) -> CaptureDetail:
    """One capture with its hints, its probability trace and its history."""
    return await call.service.ask(lambda project: read_capture(project, id))


def read_capture(project: Project, id: str) -> CaptureDetail:
    """All that is known of a capture. Raises NotFoundError."""
    capture = _find(project, id)
    scores = project.catalogue.scores([id])
    best = best_scores(scores, [capture]).get(id)
    reported = (capture.device, capture.upload) in _reported(project)
    transcript = project.catalogue.transcripts([id]).get(id)
    return CaptureDetail(
        capture=capture,
        scores=[
            _score_view(score, _window_of(project, score.model))
            for score in sorted(scores, key=lambda score: score is not best)
        ],
        hints=tuple(find_hints(capture, best, reported, transcript)),
        reported=reported,
        faults=tuple(_faults(project, capture)),
        transcript=transcript,
        copies=_find_copies(project, capture),
        history=review.list_history(project, id),
        sound=_sound(capture),
    )


def _find(project: Project, id: str) -> Capture:
    found = project.catalogue.captures([id])
    if not found:
        raise NotFoundError(f"no capture {id}", hint="it may have expired or been deleted; load the list again")
    return found[0]


def _find_copies(project: Project, capture: Capture) -> list[str]:
    at, span = datetime.fromisoformat(capture.captured_at), timedelta(seconds=review.SAME_MOMENT_S)
    since, before = ((at + way * span).isoformat(timespec="milliseconds") for way in (-1, 1))
    near = project.catalogue.captures(device=capture.device, since=since, before=before)
    return [other.id for other in near if other.id != capture.id and other.path]


def _faults(project: Project, capture: Capture) -> list[str]:
    from mww_ha import audio

    if not capture.path:
        return []
    try:
        return find_faults(audio.read_samples(project.root / capture.path))
    except AudioFileError as error:
        return [error.message]


async def get_capture_sound(call: Call, id: CaptureId) -> web.StreamResponse:
    """A capture's sound, FLAC, as the satellite sent it. Answers to Range."""

    def find(project: Project) -> tuple[str, bool]:
        try:
            path = keep.sound_path(project, id)
        except InputError as error:
            raise NotFoundError(error.message, hint=error.hint) from None
        return str(path), path.is_file()

    path, there = await call.service.ask(find)
    if not there:
        raise NotFoundError(f"the sound of capture {id} is gone", hint="mww-ha doctor says what else is missing")
    return web.FileResponse(path, headers={hdrs.CONTENT_TYPE: "audio/flac"})


async def get_capture_history(call: Call, id: CaptureId) -> list[Judgement]:
    """Who said what of a capture, newest first."""

    def look(project: Project) -> list[Judgement]:
        _find(project, id)
        return review.list_history(project, id)

    return await call.service.ask(look)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteBody:
    """Which captures to delete; those that are not there are passed over."""

    ids: list[CaptureId]


async def delete_captures(call: Call, body: DeleteBody) -> Deleted:
    """Delete captures at once: sound, history, the clips cut from them, and features made of those."""
    return await _delete(call, body.ids)


async def delete_capture(call: Call, id: CaptureId) -> Deleted:
    """Delete a capture at once: sound, history, the clips cut from it, and features made of those."""
    await call.service.access.check_may_change(call.caller)
    await call.service.ask(lambda project: _find(project, id))
    return await _delete(call, [id])


async def _delete(call: Call, ids: list[str]) -> Deleted:
    await call.service.access.check_may_change(call.caller)

    def delete(project: Project) -> Deleted:
        from mww_ha.record.people import delete_captures

        clips = project.catalogue.clips_cut_from(ids)
        busy = [job for job in call.service.jobs.list("running") if KINDS[job.kind].touches == STAGES]
        if clips and busy:
            raise JobStateError(
                f"{busy[0].kind} is at work with clips of these captures", hint="wait until it has ended, or cancel it"
            )
        there = {capture.id for capture in project.catalogue.captures(ids)}
        removed = delete_captures(project, ids)
        return Deleted(captures=sorted(there), clips=list(removed.clips), models=list(removed.models))

    deleted = await call.service.ask(delete)
    if deleted.captures:
        call.service.tell("deleted", {"ids": deleted.captures})
    return deleted


# --- review ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeBody:
    """A verdict on one capture or several; ``order``, ``device``, ``kind`` and ``model`` choose the next one."""

    ids: list[CaptureId]
    verdict: VerdictName
    person: PersonName | None = None  # who speaks; null: as it was
    order: OrderName = "informative"
    device: DeviceName | None = None
    kind: KindName | None = None
    model: ModelId | None = None


async def get_review(call: Call, query: ReviewQuery) -> Review:
    """The next capture to judge."""
    return await call.service.ask(lambda project: _next(project, query))


def _next(project: Project, query: ReviewQuery) -> Review:
    kinds = [CaptureKind(query.kind)] if query.kind else []
    device, model = query.device or "", query.model or ""
    total, first = review.list_waiting(project, order=query.order, limit=1, device=device, kinds=kinds, model=model)
    return Review(waiting=total, next=read_capture(project, first[0].capture.id) if first else None)


async def judge_captures(call: Call, body: JudgeBody) -> Judged:
    """Say what captures are, all of them or none, and get the next one.

    Said again it changes nothing. Verdicts become clips when a new model is made.
    """
    then = ReviewQuery(order=body.order, device=body.device, kind=body.kind, model=body.model)

    def judge(project: Project) -> Judged:
        verdict = Verdict(body.verdict)
        changed = review.judge(project, body.ids, verdict, by=name_of(call.caller), person=body.person)
        return _judged(changed, _next(project, then))

    judged = await call.service.ask(judge)
    _tell_judged(call, judged, body.verdict)
    return judged


async def undo_judgement(call: Call, query: ReviewQuery) -> Judged:
    """Take back what this caller judged last; again: the one before it."""

    def undo(project: Project) -> Judged:
        changed = review.undo(project, by=name_of(call.caller))
        rest = _next(project, query)
        return _judged(changed, Review(waiting=rest.waiting, next=read_capture(project, changed[0])))

    judged = await call.service.ask(undo)
    _tell_judged(call, judged, "")
    return judged


def _judged(changed: list[str], rest: Review) -> Judged:
    return Judged(changed=changed, waiting=rest.waiting, next=rest.next)


def _tell_judged(call: Call, judged: Judged, verdict: str) -> None:
    if judged.changed:
        told = {"ids": judged.changed, "verdict": verdict, "by": name_of(call.caller)}
        call.service.tell("judged", told)


def name_of(caller: Caller) -> str:
    """Who judges: the person's name as Home Assistant says it, or ``owner``."""
    name = "".join(sign for sign in caller.user_name if sign.isprintable()).strip()
    return name[:80].strip() or caller.user_id[:80] or "owner"


async def get_capture_counts(call: Call) -> list[CaptureCount]:
    """How many captures there are, by device, model, kind and verdict."""
    return await call.service.ask(count_captures)


def count_captures(project: Project) -> list[CaptureCount]:
    """Captures by device, model, kind and verdict."""
    found = Counter((c.device, c.model, c.kind, c.verdict) for c in project.catalogue.captures())
    return [
        CaptureCount(device=device, model=model, kind=kind, verdict=verdict, captures=number)
        for (device, model, kind, verdict), number in sorted(found.items())
    ]


async def get_speakers(call: Call) -> list[str]:
    """Who may speak in a capture: whoever agreed to be recorded or was named in one, by name."""
    return await call.service.ask(list_speakers)


def list_speakers(project: Project) -> list[str]:
    """Names of people, as a person who judges may choose from them."""
    named = {capture.person for capture in project.catalogue.captures()}
    agreed = {person.name for person in project.catalogue.people()}
    return sorted((named | agreed) - {""}, key=str.casefold)


# --- the field -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RatesQuery:
    """Rates of what, from which day on (UTC)."""

    by: Keys = "device,model"
    since: Day = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SinceQuery:
    """From which day on (UTC)."""

    since: Day = ""


async def get_rates(call: Call, query: RatesQuery) -> list[RateView]:
    """False accepts of the field with their hours and intervals, by device, room or model."""
    keys, rooms = query.by.split(","), dict(call.service.rooms)

    def measure(project: Project) -> list[rates.FieldRate]:
        from mww_ha.devices.known import rooms_of

        return rates.measure_field(project, by=keys, rooms=rooms | rooms_of(project), since=query.since)

    return [view_rate(rate) for rate in await call.service.ask(measure)]


def view_rate(rate: rates.FieldRate) -> RateView:
    """A rate, also in words."""
    return RateView(
        device=rate.device,
        room=rate.room,
        model=rate.model,
        false_accepts=rate.false_accepts,
        wakes=rate.wakes,
        other=rate.other,
        unjudged=rate.unjudged,
        lost=rate.lost,
        missed=rate.missed,
        hours=rate.hours,
        per_hour=rate.per_hour,
        worst_per_hour=rate.worst_per_hour,
        text=rate.text(),
    )


async def get_recall(call: Call, query: SinceQuery) -> list[RecallView]:
    """How many prompted takes of each person the model heard that was on the satellite then."""
    measured = await call.service.ask(lambda project: rates.measure_recall(project, since=query.since))
    return [view_recall(recall) for recall in measured]


def view_recall(r: rates.PersonRecall) -> RecallView:
    """A recall, also in words."""
    return RecallView(person=r.person, model=r.model, recall=r.recall, unscored=r.unscored, text=r.text())


async def get_exposure(call: Call, query: SinceQuery) -> list[Exposure]:
    """Listening time by device, model and day; a row without a model is the satellite itself."""
    day = rates.parse_day(query.since)
    return await call.service.ask(lambda project: project.catalogue.exposure(day))


# --- tokens ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBody:
    """For which satellite of devices.yaml."""

    device: DeviceName


async def get_tokens(call: Call) -> list[TokenView]:
    """Who may send captures, oldest first, also what was revoked."""
    return await call.service.ask(list_tokens)


def list_tokens(project: Project) -> list[TokenView]:
    """Tokens without their hashes."""
    return [
        TokenView(
            id=token.sha256[:16],
            device=token.device,
            scope=token.scope,
            made_at=token.made_at,
            last_used_at=token.last_used_at,
            revoked_at=token.revoked_at,
        )
        for token in tokens.list_tokens(project)
    ]


async def make_token(call: Call, body: TokenBody) -> NewToken:
    """A further token for a satellite whose firmware is not made here; what is flashed here brings its own."""
    await call.service.access.check_may_change(call.caller)

    def make(project: Project) -> NewToken:
        from mww_ha.devices.known import find_device

        device = find_device(project, body.device).name
        token = tokens.make_token(project, device)
        return NewToken(id=tokens.hash_token(token)[:16], device=device, token=token)

    return await call.service.ask(make)


async def revoke_token(call: Call, id: TokenId) -> None:
    """End a token: nothing that comes with it is taken any more."""
    await call.service.access.check_may_change(call.caller)

    def revoke(project: Project) -> None:
        found = [token for token in tokens.list_tokens(project) if token.sha256.startswith(id)]
        if not found:
            raise NotFoundError(f"no token {id}", hint="load the list again")
        for token in found:
            tokens.revoke_tokens(project, token.device, sha256=token.sha256)

    await call.service.ask(revoke)


# --- the service itself ----------------------------------------------------------------------------------------------


async def get_status(call: Call) -> Status:
    """What the service does by itself, and whether Home Assistant and its broker are connected."""
    service = call.service
    waiting = await service.ask(lambda project: len(review.find_waiting(project)))
    keeper = None if service.keeper is None else service.keeper.state
    link = None if service.link is None else service.link.state
    schedule = None if service.schedule is None else service.schedule.state
    return Status(waiting=waiting, keeper=keeper, link=link, schedule=schedule)


CAPTURE_ROUTES = (
    Route(method="GET", path="/api/status", handler=get_status),
    Route(method="GET", path="/api/captures", handler=get_captures),
    Route(method="POST", path="/api/captures/delete", handler=delete_captures),
    Route(method="GET", path="/api/captures/{id}", handler=get_capture),
    Route(method="DELETE", path="/api/captures/{id}", handler=delete_capture),
    Route(method="GET", path="/api/captures/{id}/sound", handler=get_capture_sound, media="audio/flac"),
    Route(method="GET", path="/api/captures/{id}/history", handler=get_capture_history),
    Route(method="GET", path="/api/review", handler=get_review),
    Route(method="POST", path="/api/review", handler=judge_captures),
    Route(method="POST", path="/api/review/undo", handler=undo_judgement),
    Route(method="GET", path="/api/review/counts", handler=get_capture_counts),
    Route(method="GET", path="/api/review/speakers", handler=get_speakers),
    Route(method="GET", path="/api/rates", handler=get_rates),
    Route(method="GET", path="/api/recall", handler=get_recall),
    Route(method="GET", path="/api/exposure", handler=get_exposure),
    Route(method="GET", path="/api/tokens", handler=get_tokens),
    Route(method="POST", path="/api/tokens", handler=make_token, status=201),
    Route(method="DELETE", path="/api/tokens/{id}", handler=revoke_token, status=204),
)
"""The routes about captures."""
