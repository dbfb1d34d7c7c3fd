"""What the page API answers about learning: what data there is, what an effort costs, trainings and their curves."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast

from mww_ha import metrics
from mww_ha.capture import review
from mww_ha.errors import DataError
from mww_ha.evaluate import Series, read_candidates, read_training
from mww_ha.evaluate.compare import SURE
from mww_ha.schema import Clip, Interval, Label, Origin, Verdict, digest
from mww_ha.shards import read_index
from mww_ha.store import PROJECT_FILE, Project
from mww_ha.train.journal import Difference, compare_runs
from mww_ha.web.openapi import Call, NotFoundError, Route
from mww_ha.web.wire import Text

RunId = Annotated[str, Text(pattern="[A-Za-z0-9_-]{1,80}", longest=80)]
EffortName = Literal["quick", "good", "best"]
SideName = Literal["train", "validation", "test", ""]
Lack = Literal["no_wake", "no_person", "no_person_held_out", "no_noise", "no_real_speech", "one_engine", "no_captures"]
"""What would make the next model better or its report worth more, most useful first."""

# --- data ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipGroup:
    """Clips of one label, origin, side and source: a person, or the engine of synthesized voices."""

    id: str
    label: Label
    origin: Origin
    source: str  # empty: unknown
    side: SideName  # empty: not decided yet; that happens when features are prepared
    clips: int
    voices: int  # different speakers
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureUse:
    """How much of what satellites heard is learned from."""

    judged: int  # as something that makes a clip
    false_accepts: int
    clips: int  # made of them so far, by a retraining
    new: int  # verdicts since the last retraining
    needed: int  # verdicts for the next one (retrain.verdicts)
    due: str  # why a retraining should begin; empty: it should not
    largest_share: float  # of what training sees (train.field_share)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataOverview:
    """What the next training would use."""

    groups: list[ClipGroup]
    feature_set: str  # that decided the sides; empty: none yet
    undecided: int  # clips without a side
    captures: CaptureUse
    lacks: list[Lack]


async def get_data(call: Call) -> DataOverview:
    """What the next training would use: by person, engine, label, origin and side, and what is missing."""
    return await call.service.ask_once(look_at_data)


def look_at_data(project: Project) -> DataOverview:
    """The project's clips by what they are and on which side they are, as far as that is decided."""
    known = project.catalogue.stage("prepare")
    feature_set = str(known[1]["id"]) if known else ""
    sides = read_sides(project, feature_set)
    clips = project.catalogue.clips()
    groups = group_clips(clips, sides)
    return DataOverview(
        groups=groups,
        feature_set=feature_set if sides else "",
        undecided=sum(group.clips for group in groups if not group.side),
        captures=_captures(project, clips),
        lacks=find_lacks(groups),
    )


def read_sides(project: Project, feature_set: str) -> dict[str, str]:
    """Clip → side of a feature set; nothing where it is gone."""
    if not feature_set:
        return {}
    try:
        sides: dict[str, str] = read_index(project.features_dir / feature_set).get("sides", {})
    except DataError:
        return {}
    return sides


def group_clips(clips: Iterable[Clip], sides: Mapping[str, str]) -> list[ClipGroup]:
    """Clips by label, origin, source and side, in that order."""
    found = defaultdict[tuple[Label, Origin, str, str], list[Clip]](list)
    for clip in clips:
        found[group_key(clip, sides)].append(clip)
    return [
        ClipGroup(
            id=digest(list(key), 12),
            label=key[0],
            origin=key[1],
            source=key[2],
            side=cast("SideName", key[3]),
            clips=len(own),
            voices=len({clip.speaker for clip in own} - {""}),
            duration_s=round(sum(clip.duration_s for clip in own), 3),
        )
        for key, own in sorted(found.items(), key=lambda item: (list(Label).index(item[0][0]), *item[0][1:]))
    ]


def group_key(clip: Clip, sides: Mapping[str, str]) -> tuple[Label, Origin, str, str]:
    """Label, origin, source and side of a clip."""
    source = clip.speaker.partition(":")[0] if clip.origin is Origin.SYNTHESIZED else clip.speaker
    return clip.label, clip.origin, source, sides.get(clip.id, "")


def find_lacks(groups: Iterable[ClipGroup]) -> list[Lack]:
    """What is missing, most useful first."""
    wakes = [group for group in groups if group.label is Label.WAKE]
    people = [group for group in wakes if group.origin in (Origin.RECORDED, Origin.IMPORTED)]
    engines = {group.source for group in wakes if group.origin is Origin.SYNTHESIZED}
    real = (Origin.RECORDED, Origin.IMPORTED, Origin.CAPTURED)
    found: dict[Lack, bool] = {
        "no_wake": not wakes,
        "no_person": not people,
        "no_person_held_out": bool(people)
        and any(group.side for group in people)
        and not any(group.side == "test" for group in people),
        "no_noise": not any(group.label is Label.NOISE for group in groups),
        "no_real_speech": not any(group.label is Label.SPEECH and group.origin in real for group in groups),
        "one_engine": len(engines) == 1,
        "no_captures": not any(group.origin is Origin.CAPTURED for group in groups),
    }
    return [lack for lack, there in found.items() if there]


def _captures(project: Project, clips: Iterable[Clip]) -> CaptureUse:
    from mww_ha import retrain

    judged = project.catalogue.captures(verdicts=review.LABELS)
    return CaptureUse(
        judged=len(judged),
        false_accepts=sum(capture.verdict is Verdict.FALSE_ACCEPT for capture in judged),
        clips=sum(clip.origin is Origin.CAPTURED for clip in clips),
        new=retrain.count_new_verdicts(project),
        needed=max(1, project.settings.retrain.verdicts),
        due=retrain.due(project, datetime.now(UTC)),
        largest_share=project.settings.train.field_share,
    )


# --- effort ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EffortView:
    """What an effort costs and gives in this project, whose own settings go before it."""

    effort: EffortName
    chosen: bool
    wake_clips: int  # synthesized
    speech_hours: float  # synthesized
    rendered_hours: float  # of sound to learn from
    steps: int
    held_out_hours: float  # of synthetic sound that must not wake it, for the report
    least_per_hour: float  # with not one false accept in those hours the rate is below this, with 95 % confidence
    last_training_s: (
        float | None
    )  # how long the newest finished training at this effort took, without the stages around


async def get_efforts(call: Call) -> list[EffortView]:
    """What each effort costs and what it gives."""
    return await call.service.ask(list_efforts)


def list_efforts(project: Project) -> list[EffortView]:
    """The efforts, cheapest first."""
    from mww_ha import config

    took: dict[str, float] = {}
    for run in project.catalogue.runs():
        if run.get("outcome") == "done" and "start" not in run:
            took.setdefault(str(run.get("config", {}).get("effort", "")), float(run["duration_s"]))
    found = []
    for effort in config.Effort:
        settings = config.load(project.root / PROJECT_FILE, {"effort": effort})
        prepare = settings.prepare
        hours = prepare.ambient_hours
        found.append(
            EffortView(
                effort=cast("EffortName", str(effort)),
                chosen=effort is project.settings.effort,
                wake_clips=settings.synthesize.wake_clips,
                speech_hours=settings.synthesize.speech_hours,
                rendered_hours=prepare.wake_hours
                + prepare.confusable_hours
                + prepare.speech_hours
                + prepare.noise_hours,
                steps=settings.train.steps,
                held_out_hours=hours,
                least_per_hour=metrics.rate_upper_bound(0, hours) if hours > 0 else float("inf"),
                last_training_s=took.get(effort),
            )
        )
    return found


# --- trainings -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEntry:
    """One training of the journal."""

    id: str
    started_at: str  # ISO 8601, UTC
    outcome: str  # running | done | stopped | failed; running also where it was killed
    effort: str
    steps: int
    seed: int
    duration_s: float
    start: str  # run whose weights it began with; empty: from the beginning
    chosen: str  # which weights
    misses: float | None  # mean over conditions and budgets on the validation side, what the weights were chosen by
    recalls: dict[str, float | None]  # on the validation side, by condition, at the budget
    false_accepts: Interval | None  # on the validation side
    feature_set: str
    learned_from_captures: int
    deleted_clips: int  # it has learned from, which were deleted since
    model: str  # id of the model made of it; empty: none
    report: bool


async def get_journal(call: Call) -> list[RunEntry]:
    """The journal of trainings, newest first."""
    return await call.service.ask(list_runs)


def list_runs(project: Project) -> list[RunEntry]:
    """Trainings, newest first."""
    models = {str(model.get("run")): str(model["id"]) for model in reversed(project.catalogue.models())}
    return [_entry(project, document, models) for document in project.catalogue.runs()]


def read_run(project: Project, id: str) -> RunEntry:
    """One training of the journal. Raises NotFoundError."""
    known = find_run(project, id)["id"]
    return next(entry for entry in list_runs(project) if entry.id == known)


def find_run(project: Project, id: str) -> dict[str, Any]:
    """The journal's document of a training. Raises NotFoundError."""
    for document in project.catalogue.runs():
        if document["id"] == id:
            return document
    raise NotFoundError(f"no training is called {id}", hint="it may have been deleted; load the list again")


def _entry(project: Project, document: Mapping[str, Any], models: Mapping[str, str]) -> RunEntry:
    id, known = str(document["id"]), document.get("metrics") or {}
    hours = float(known.get("ambient_hours") or 0.0)
    rate = known.get("false_accepts_per_hour")
    prefix = "recall_"
    return RunEntry(
        id=id,
        started_at=str(document.get("started_at", "")),
        outcome=str(document.get("outcome", "")),
        effort=str(document.get("config", {}).get("effort", "")),
        steps=int(document.get("steps", 0)),
        seed=int(document.get("seed", 0)),
        duration_s=float(document.get("duration_s", 0.0)),
        start=str(document.get("start", "")),
        chosen=str(document.get("chosen", "")),
        misses=known.get("misses"),
        recalls={name.removeprefix(prefix): value for name, value in known.items() if name.startswith(prefix)},
        false_accepts=metrics.rate_interval(round(rate * hours), hours) if rate is not None and hours > 0 else None,
        feature_set=str(document.get("feature_set", "")),
        learned_from_captures=len(document.get("data", {}).get("captures", {})),
        deleted_clips=sum(int(mark["trained_on"]) for mark in document.get("deleted", [])),
        model=models.get(id, ""),
        report=(project.reports_dir / f"{id}.json").is_file(),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateView:
    """Weights that were judged as the file that would be flashed, on the validation side."""

    name: str  # "step 1600", "mean of 6"
    misses: float | None  # mean over conditions and budgets; the fewest are chosen
    recalls: dict[str, float | None]  # by condition, at the budget
    cutoff: int
    false_accepts: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCurve:
    """A training's curves, as far as it has come."""

    run: RunEntry
    step: int  # of the last point; 0: none yet
    series: list[Series]
    candidates: list[CandidateView]


async def get_curve(call: Call, id: RunId) -> RunCurve:
    """A training's losses and judged candidates so far; of one on its way too."""
    return await call.service.ask(lambda project: read_curve(project, id))


def read_curve(project: Project, id: str) -> RunCurve:
    """The curves of a run. Raises NotFoundError."""
    entry = read_run(project, id)
    place = project.runs_dir / id
    series = list(read_training(place))
    return RunCurve(
        run=entry,
        step=round(max((line.x[-1] for line in series), default=0.0)),
        series=series,
        candidates=[
            CandidateView(
                name=str(row["name"]),
                misses=row["misses"],
                recalls=row["recalls"],
                cutoff=int(row["cutoff"]),
                false_accepts=metrics.rate_interval(round(row["per_hour"] * row["hours"]), row["hours"])
                if row["hours"] > 0
                else None,
            )
            for row in read_candidates(place)
            if row.get("kept", True)
        ],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """Two trainings beside each other."""

    one: RunEntry
    other: RunEntry
    differences: list[Difference]


async def compare_two_runs(call: Call, id: RunId, other: RunId) -> RunComparison:
    """In what two trainings differ: settings, data, metrics."""

    def compare(project: Project) -> RunComparison:
        differences = compare_runs(find_run(project, id), find_run(project, other))
        return RunComparison(one=read_run(project, id), other=read_run(project, other), differences=differences)

    return await call.service.ask(compare)


# --- retraining ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedView:
    """Old and new on the same things."""

    what: str
    pairs: str
    old: Interval
    new: Interval
    better: int
    worse: int
    voices: int  # 0: not said
    p: float
    outcome: str  # better | no difference | worse, beyond chance
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalView:
    """What a retraining came to."""

    run: str
    made_at: str
    model: str  # empty: it was refused
    against: str
    outcome: str  # better | no difference | worse
    offered: bool
    reason: str
    start: str
    learned_from: int  # captures
    decided_by: list[PairedView]
    also: list[PairedView]  # told, but not counted
    notes: list[str]
    text: str
    sure: float  # a difference that chance makes less often than this is one


async def get_retrainings(call: Call) -> list[ProposalView]:
    """What retrainings came to, newest first."""
    return await call.service.ask(list_proposals)


def list_proposals(project: Project) -> list[ProposalView]:
    """The comparisons that lie beside the reports, newest first; one that cannot be read is left out."""
    found = [
        read_proposal(project, path.name.partition(".")[0]) for path in project.reports_dir.glob("*.comparison.json")
    ]
    return sorted((one for one in found if one), key=lambda one: one.made_at, reverse=True)


def read_proposal(project: Project, run: str) -> ProposalView | None:
    """What the retraining that made ``run`` came to; None: it was none, or the file is damaged."""
    try:
        known = json.loads((project.reports_dir / f"{run}.comparison.json").read_text())
        compared = known["comparison"]
        return ProposalView(
            run=str(known["run"]),
            made_at=str(known["made_at"]),
            model=str(known["model"]),
            against=str(known["against"]),
            outcome=str(known["outcome"]),
            offered=bool(known["offer"]),
            reason=str(known["reason"]),
            start=str(known["start"]),
            learned_from=int(known["learned_from"]),
            decided_by=[_paired(row) for row in compared["decided_by"]],
            also=[_paired(row) for row in compared["also"]],
            notes=[str(note) for note in compared["notes"]],
            text=str(known["text"]),
            sure=SURE,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _paired(row: Mapping[str, Any]) -> PairedView:
    return PairedView(
        what=str(row["what"]),
        pairs=str(row["pairs"]),
        old=Interval(**row["old"]),
        new=Interval(**row["new"]),
        better=int(row["better"]),
        worse=int(row["worse"]),
        voices=int(row["voices"]),
        p=float(row["p"]),
        outcome=str(row["outcome"]),
        text=str(row["text"]),
    )


LEARNING_ROUTES = (
    Route(method="GET", path="/api/data", handler=get_data),
    Route(method="GET", path="/api/efforts", handler=get_efforts),
    Route(method="GET", path="/api/journal", handler=get_journal),
    Route(method="GET", path="/api/runs/{id}/curve", handler=get_curve),
    Route(method="GET", path="/api/runs/{id}/compare/{other}", handler=compare_two_runs),
    Route(method="GET", path="/api/retrainings", handler=get_retrainings),
)
"""The routes about learning."""
