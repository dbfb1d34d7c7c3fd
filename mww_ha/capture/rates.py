"""Judged captures and listening hours → rates of the field, each with its interval and with what is not known.

Counted are events: a detection and the remark that it was a false wake are one, and so are captures whose sound was
deleted (a count per day is left of them). What nobody judged is named beside the rate, never counted as right.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mww_ha import metrics
from mww_ha.capture.score import best_scores
from mww_ha.errors import InputError
from mww_ha.schema import Capture, CaptureKind, Flash, Interval, Verdict
from mww_ha.store import Project

WAKE_KINDS = (CaptureKind.DETECTION, CaptureKind.CANARY, CaptureKind.FALSE_WAKE)
"""Kinds that mean a model woke; a near miss or a prompted take is no false accept whatever was said."""

LEAST_HOURS = 1.0
"""With less than that a rate a day would be a number without meaning."""

KEYS = ("device", "room", "model")


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldRate:
    """False accepts of one device, room or model, or of what they have in common."""

    device: str = ""  # empty: all
    room: str = ""
    model: str = ""
    false_accepts: int
    wakes: int  # detections that were the wake word
    other: int  # judged neither: other, discarded
    unjudged: int  # nobody said yet, or it was deleted before somebody did
    lost: int  # captures of any kind that never arrived
    missed: int  # near misses that should have woken; there may be many more that nothing heard
    hours: float
    per_hour: Interval | None  # None: no listening time is known

    @property
    def worst_per_hour(self) -> float | None:
        """Upper end of the interval if all that nobody judged were false accepts."""
        if self.per_hour is None:
            return None
        return metrics.rate_interval(self.false_accepts + self.unjudged, self.hours).high

    def text(self) -> str:
        """``3 in 214 h: 0.3 a day [0.1–1.0]``, and what is not known."""
        if self.per_hour is None:
            said = f"{self.false_accepts}, no listening hours known"
        elif self.hours < LEAST_HOURS:
            said = f"{self.false_accepts} in {self.hours:.1f} h: too little for a rate"
        else:
            shown = [_short(24 * x) for x in (self.per_hour.value, self.per_hour.low, self.per_hour.high)]
            said = f"{self.false_accepts} in {_hours(self.hours)} h: {shown[0]} a day [{shown[1]}–{shown[2]}]"
        if self.unjudged:
            worst = self.worst_per_hour if self.hours >= LEAST_HOURS else None
            upto = "" if worst is None else f", up to {_short(24 * worst)} a day if all were false accepts"
            said += f"; {self.unjudged} not judged{upto}"
        if self.lost:
            said += f"; {self.lost} lost"
        return said


def _short(value: float) -> str:
    """Two digits where it is small, none after the point where it is large."""
    if value >= 10:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 0.05 or value == 0 else f"{value:.2g}"


def _hours(hours: float) -> str:
    return f"{hours:.0f}" if hours >= 10 else f"{hours:.1f}"


def parse_day(text: str) -> str:
    """The day (UTC, ISO) of a date or a moment; empty stays empty. Without a zone a moment is in UTC.

    Listening time is known by the day, so nothing finer can be a rate's beginning. Raises InputError.
    """
    if not text:
        return ""
    try:
        moment = datetime.fromisoformat(text.strip())
        return (moment.astimezone(UTC) if moment.tzinfo else moment).date().isoformat()
    except (ValueError, OverflowError):
        hint = "write a day such as 2026-11-01, or a moment such as 2026-11-01T18:30"
        raise InputError(f"since {text[:40]!r} is no day", hint=hint) from None


def measure_field(
    project: Project,
    *,
    by: Sequence[str] = ("device", "model"),
    rooms: Mapping[str, str] | None = None,
    since: str = "",
) -> list[FieldRate]:
    """Rates by any of ``KEYS`` (none: one rate over all), from ``since`` on (see ``parse_day``).

    By model each has its own hours, and a canary's false accepts are its own. Otherwise hours are those of the
    satellites, and canaries, which wake nobody, do not count. ``rooms``: device → room; a device that is not in it has
    room ``""``. Raises InputError for another key and for what is no day.
    """
    since = parse_day(since)
    if wrong := [key for key in by if key not in KEYS]:
        raise InputError(f"rates by {wrong[0]!r}", hint="by any of " + ", ".join(KEYS))
    rooms = rooms or {}
    by_model = "model" in by

    def place_of(device: str, model: str) -> tuple[str, str, str]:
        room = rooms.get(device, "") if "room" in by else ""
        return device if "device" in by else "", room, model if by_model else ""

    counts: dict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for capture, verdict in _list_events(project.catalogue.captures(since=since)):
        if by_model or capture.kind is not CaptureKind.CANARY:
            counts[place_of(capture.device, capture.model)][_meaning(capture.kind, verdict)] += 1
    for device, model, kind, verdict, number in project.catalogue.captures_gone(since):
        # A remark goes with its detection, which is counted.
        if kind is not CaptureKind.FALSE_WAKE and (by_model or kind is not CaptureKind.CANARY):
            counts[place_of(device, model)][_meaning(kind, verdict)] += number
    seconds: dict[tuple[str, str, str], float] = defaultdict(float)
    for exposed in project.catalogue.exposure(since):
        if bool(exposed.model) is by_model:  # a row without a model is the satellite itself
            place = place_of(exposed.device, exposed.model)
            seconds[place] += exposed.listening_s
            counts[place]["lost"] += exposed.lost
    return [
        _rate(place, count, seconds[place] / 3600)
        for place, count in sorted(counts.items())
        if seconds[place] > 0 or any(number for what, number in count.items() if what)
    ]


def _rate(place: tuple[str, str, str], count: Counter[str], hours: float) -> FieldRate:
    return FieldRate(
        device=place[0],
        room=place[1],
        model=place[2],
        false_accepts=count["false accept"],
        wakes=count["wake"],
        other=count["other"],
        unjudged=count["unjudged"],
        lost=count["lost"],
        missed=count["missed"],
        hours=hours,
        per_hour=metrics.rate_interval(count["false accept"], hours) if hours > 0 else None,
    )


def _list_events(captures: Sequence[Capture]) -> list[tuple[Capture, Verdict]]:
    """Each event once with what was said of it: a detection, together with a remark about it."""
    detections = {(c.device, c.upload) for c in captures if c.kind is CaptureKind.DETECTION}
    remarks: dict[tuple[str, str], Verdict] = {}
    for capture in captures:
        if capture.kind is CaptureKind.FALSE_WAKE:
            remarks[capture.device, capture.session] = capture.verdict
    events: list[tuple[Capture, Verdict]] = []
    for capture in captures:
        if capture.kind is CaptureKind.FALSE_WAKE and (capture.device, capture.session) in detections:
            continue
        verdict = capture.verdict
        if verdict is Verdict.UNDECIDED and capture.kind is CaptureKind.DETECTION:
            verdict = remarks.get((capture.device, capture.upload), verdict)
        events.append((capture, verdict))
    return events


def _meaning(kind: CaptureKind, verdict: Verdict) -> str:
    """What an event counts as; empty: nothing."""
    heard = verdict in (Verdict.WAKE, Verdict.MISSED_WAKE)
    if kind is CaptureKind.NEAR_MISS:
        return "missed" if heard else ""
    if kind not in WAKE_KINDS:
        return ""
    if verdict is Verdict.UNDECIDED:
        return "unjudged"
    if verdict is Verdict.FALSE_ACCEPT:
        return "false accept"
    return "wake" if heard else "other"


# ---- a canary beside the model that wakes ---------------------------------------------------------------------------

SAME_EVENT_S = 2.0
"""Two models on one satellite that fire this close together heard the same sound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A canary beside the model that woke: the same satellites, the same hours, the same microphone."""

    canary: str
    model: str
    devices: tuple[str, ...]
    hours: float
    events: tuple[tuple[bool, bool, bool], ...]  # judged: (the model fired, the canary fired, it was the wake word)
    unjudged: int


def list_trials(project: Project) -> list[Trial]:
    """What canaries and the models beside them fired at, by pair of models, from the flashes on record."""
    found: dict[tuple[str, str], list[Trial]] = defaultdict(list)
    for device, model, canary, since, until in _list_spans(project.catalogue.flashes()):
        events: list[tuple[bool, bool, bool]] = []
        unjudged = 0
        captures = _list_events(project.catalogue.captures(device=device, since=since, before=until))
        for woke, tried, meaning in _pair_up(captures, model, canary):
            if meaning in ("wake", "false accept"):
                events.append((woke, tried, meaning == "wake"))
            unjudged += meaning == "unjudged"
        seconds = sum(
            row.listening_s
            for row in project.catalogue.exposure(since[:10])
            if (row.device, row.model) == (device, canary) and (not until or row.day <= until[:10])
        )
        found[canary, model].append(
            Trial(
                canary=canary,
                model=model,
                devices=(device,),
                hours=seconds / 3600,
                events=tuple(events),
                unjudged=unjudged,
            )
        )
    return [
        Trial(
            canary=canary,
            model=model,
            devices=tuple(sorted({name for trial in trials for name in trial.devices})),
            hours=sum(trial.hours for trial in trials),
            events=tuple(event for trial in trials for event in trial.events),
            unjudged=sum(trial.unjudged for trial in trials),
        )
        for (canary, model), trials in sorted(found.items())
    ]


def _list_spans(flashes: Sequence[Flash]) -> Iterator[tuple[str, str, str, str, str]]:
    """(device, model, canary, from, until) of each time that a satellite carried a canary; until empty: to this day."""
    until: dict[str, str] = {}
    for flash in flashes:  # newest first
        if flash.outcome not in ("verified", "handed over"):
            continue
        if flash.canary:
            yield flash.device, flash.model, flash.canary, flash.started_at, until.get(flash.device, "")
        until[flash.device] = flash.started_at


def _pair_up(captures: Sequence[tuple[Capture, Verdict]], model: str, canary: str) -> Iterator[tuple[bool, bool, str]]:
    """(the model fired, the canary fired, what it was) for each event, oldest first.

    A false wake without its detection is left out: when it happened nobody knows well enough.
    """
    events: list[tuple[datetime, bool, str]] = []
    for capture, verdict in captures:
        ours = {CaptureKind.DETECTION: model, CaptureKind.CANARY: canary}.get(capture.kind)
        if ours and capture.model in ("", ours):
            moment = datetime.fromisoformat(capture.captured_at)
            events.append((moment, capture.kind is CaptureKind.CANARY, _meaning(capture.kind, verdict)))
    events.sort(key=lambda event: event[:2])
    at = 0
    while at < len(events):
        moment, tried, meaning = events[at]
        at += 1
        if at < len(events):
            after, other, more = events[at]
            if other is not tried and (after - moment).total_seconds() <= SAME_EVENT_S:
                at += 1
                said = {meaning, more} - {"unjudged"}
                yield True, True, said.pop() if len(said) == 1 else "other" if said else "unjudged"
                continue
        yield not tried, tried, meaning


# ---- recall ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonRecall:
    """How many of somebody's prompted takes the model heard that the satellite carried when they were said.

    That model cannot have been trained on them; a later one may have been, so it is not judged by them here.
    """

    person: str
    model: str
    recall: Interval | None  # None: nothing is scored yet
    unscored: int  # takes whose model is not at hand

    def text(self) -> str:
        """``18 of 20: 90 % [68–99]``."""
        if self.recall is None:
            return f"{self.unscored} takes, not scored"
        low, high = 100 * self.recall.low, 100 * self.recall.high
        heard = f"{self.recall.events} of {self.recall.exposure:.0f}: {100 * self.recall.value:.0f} %"
        rest = f"; {self.unscored} not scored" if self.unscored else ""
        return f"{heard} [{low:.0f}–{high:.0f}]{rest}"


def measure_recall(project: Project, *, since: str = "") -> list[PersonRecall]:
    """Recall by person and model over prompted takes that somebody confirmed to be the phrase (verdict wake).

    ``since`` is as for ``measure_field``. Raises InputError.
    """
    since = parse_day(since)
    takes = project.catalogue.captures(kinds=[CaptureKind.PROMPT], verdicts=[Verdict.WAKE], since=since)
    scores = best_scores(project.catalogue.scores(take.id for take in takes), takes)
    heard: dict[tuple[str, str], list[bool | None]] = defaultdict(list)
    for take in takes:
        score = scores.get(take.id)
        own = score is not None and score.model == take.model and not score.problem
        heard[take.person, take.model].append(score.reproduced if own and score is not None else None)
    return [
        PersonRecall(
            person=person,
            model=model,
            recall=metrics.share_interval(outcomes.count(True), scored)
            if (scored := len(outcomes) - outcomes.count(None))
            else None,
            unscored=outcomes.count(None),
        )
        for (person, model), outcomes in sorted(heard.items())
    ]
