"""What the page API answers about models: each with its report, what it missed and what woke it, and its clips."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from aiohttp import hdrs, web

from mww_ha import audio, detector, frontend, metrics
from mww_ha.errors import DataError, MwwError
from mww_ha.evaluate.report import (
    CurveRows,
    Data,
    FalseAccept,
    Histogram,
    Level,
    Miss,
    RecallAt,
    Series,
    ShareRow,
    best_cutoffs,
)
from mww_ha.prepare.again import can_render
from mww_ha.schema import SAMPLE_RATE_HZ, Clip, Interval, Label
from mww_ha.shards import open_shard
from mww_ha.store import Project
from mww_ha.web.learning import (
    ClipGroup,
    ProposalView,
    RunEntry,
    SideName,
    group_clips,
    group_key,
    list_runs,
    read_proposal,
    read_sides,
)
from mww_ha.web.openapi import Call, NotFoundError, Route
from mww_ha.web.orders import ModelId
from mww_ha.web.wire import Number, Text, read

ClipId = Annotated[str, Text(pattern="[0-9a-f]{16}", longest=16)]
GroupId = Annotated[str, Text(pattern="[0-9a-f]{12}", longest=12)]
Cutoff = Annotated[int, Number(least=0, most=metrics.HIGHEST_CUTOFF)]
Place = Annotated[int, Number(least=0, most=10**6)]
Limit = Annotated[int, Number(least=1, most=500)]

BEFORE_S, AFTER_S = 3.0, 1.0
"""What is played around a false accept: a detection comes at the end of what caused it."""

HEARD_FOLDER = "heard"
"""In a feature set: the pieces that were rendered again. They go when a clip they may be made of is deleted."""

MOST_LURES = 200

# --- the list --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DeletedMark:
    """Clips that a model has heard and that were deleted since."""

    clips: int
    trained_on: int
    at: str  # ISO 8601, UTC


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """A model that is vouched for, in short."""

    id: str
    phrase: str
    made_at: str  # ISO 8601, UTC; empty: not known
    run: str
    offered: bool  # for flashing
    newest: bool  # of those that are offered: what a flash takes that names none
    outcome: str  # of the comparison with the model before: better | no difference | worse; empty: there was none
    reason: str
    compared_with: str
    learned_from_captures: int
    deleted: list[DeletedMark]
    level: Level | None  # as it is set: medium
    devices: list[str]  # it runs on, as far as flashes were verified
    on_trial: list[str]  # devices that carry it as a canary
    in_the_field: list[str]  # what verdicts say of it as a canary
    report: bool
    model_bytes: int
    tensor_arena_bytes: int
    sha256: str


async def get_model_list(call: Call) -> list[ModelEntry]:
    """The models with what they can, newest first."""
    return await call.service.ask(list_models)


def list_models(project: Project) -> list[ModelEntry]:
    """Models, newest first."""
    documents = project.catalogue.models()
    newest = next((str(document["id"]) for document in documents if document.get("offered", True)), "")
    running: dict[str, tuple[str, str]] = {}
    for flash in project.catalogue.flashes():
        if flash.outcome == "verified":
            running.setdefault(flash.device, (flash.model, flash.canary))
    return [_entry(project, document, newest, running) for document in documents]


def _entry(
    project: Project, document: Mapping[str, Any], newest: str, running: Mapping[str, tuple[str, str]]
) -> ModelEntry:
    id, run = str(document["id"]), str(document.get("run", ""))
    compared = document.get("comparison") or {}
    tried = document.get("canary") or {}
    levels = _read_section(_report_document(project, run), "levels", tuple[Level, ...], ())
    return ModelEntry(
        id=id,
        phrase=str(document.get("phrase", "")),
        made_at=str(_about(project, id).get("made_at", "")),
        run=run,
        offered=bool(document.get("offered", True)),
        newest=id == newest,
        outcome=str(compared.get("outcome", "")),
        reason=str(compared.get("reason", "")),
        compared_with=str(document.get("compared_with", "")),
        learned_from_captures=int(document.get("learned_from_captures", 0)),
        deleted=[
            DeletedMark(clips=int(mark["clips"]), trained_on=int(mark["trained_on"]), at=str(mark["at"]))
            for mark in document.get("deleted", [])
        ],
        level=next((level for level in levels if level.name == "medium"), None),
        devices=[device for device, (model, _) in running.items() if model == id],
        on_trial=[device for device, (_, canary) in running.items() if canary == id],
        in_the_field=[str(note.get("reason", "")) for note in tried.values()] if isinstance(tried, dict) else [],
        report=bool(levels),
        model_bytes=int(document.get("model_bytes", 0)),
        tensor_arena_bytes=int(document.get("tensor_arena_bytes", 0)),
        sha256=str(document.get("sha256", "")),
    )


def _about(project: Project, id: str) -> dict[str, Any]:
    """What is known about a model besides; nothing where the file is gone or damaged."""
    return _read_object(project.models_dir / f"{id}.about.json")


def _report_document(project: Project, run: str) -> dict[str, Any]:
    return _read_object(project.reports_dir / f"{run}.json") if run else {}


def _read_object(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _read_section(document: Mapping[str, Any], name: str, kind: Any, otherwise: Any) -> Any:
    """A part of a report; ``otherwise`` where it lacks that part, as one of an earlier version may."""
    if document.get(name) is None:
        return otherwise
    try:
        return read(document[name], kind, name)
    except MwwError:
        return otherwise


# --- one model -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckView:
    """One of the checks that vouch for a model."""

    name: str
    outcome: str  # passed | failed | skipped
    finding: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveView:
    """What each cutoff gives on one kind of sound; lists are parallel, bounds are of the 95 % intervals."""

    kind: str
    window: int
    trials: int
    hours: float
    partial_area: float | None  # mean recall over budgets of 0 to 1 per hour
    cutoffs: list[int]
    probabilities: list[float]  # what stands in YAML for the cutoff
    hits: list[int]
    recall_low: list[float]
    recall_high: list[float]
    false_accepts: list[int]
    rate_low: list[float]  # per hour
    rate_high: list[float]
    best: list[int]  # places of the cutoffs that no other one beats, from few false accepts to many


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportView:
    """What was measured."""

    made_at: str
    warnings: list[str]
    chosen_on: str
    levels: list[Level]
    data: list[Data]
    wake_clips: int
    wake_voices: int
    hours: list[str]  # what the hours can and cannot prove
    curves: list[CurveView]
    recall_at: list[RecallAt]
    histogram: Histogram | None
    voices: list[ShareRow]
    conditions: list[ShareRow]
    lures: list[ShareRow]  # that woke it
    lures_all: Interval | None
    training: list[Series]
    misses: int
    false_accepts: int
    page: str  # the report by itself, relative to the panel's base; empty: it is gone
    provenance: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origins:
    """What a model was made of."""

    run: RunEntry | None  # null: forgotten
    feature_set: str
    features_kept: bool  # they are on disk; without them no sound can be rendered again
    groups: list[ClipGroup]  # of clips that are still there
    gone: int  # clips that are known to have been in it and are not there any more


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPage:
    """A model with its report and its origins."""

    model: ModelEntry
    report: ReportView | None
    checks: list[CheckView]
    origins: Origins
    proposal: ProposalView | None  # of the retraining that made it


async def get_model_page(call: Call, id: ModelId) -> ModelPage:
    """A model with its report, the checks that vouch for it and what it was made of."""
    return await call.service.ask(lambda project: read_model_page(project, id))


def read_model_page(project: Project, id: str) -> ModelPage:
    """All that is known of a model. Raises NotFoundError."""
    model = _find_model(project, id)
    checks = _read_section(_about(project, id), "checks", Any, [])
    return ModelPage(
        model=model,
        report=_read_report(project, model.run),
        checks=[
            CheckView(name=str(row["name"]), outcome=str(row["outcome"]), finding=str(row["finding"])) for row in checks
        ],
        origins=_read_origins(project, model.run),
        proposal=read_proposal(project, model.run) if model.run else None,
    )


def _find_model(project: Project, id: str) -> ModelEntry:
    for model in list_models(project):
        if model.id == id:
            return model
    raise NotFoundError(f"no model is called {id}", hint="it may have been deleted")


def _read_report(project: Project, run: str) -> ReportView | None:
    known = _report_document(project, run)
    levels = _read_section(known, "levels", list[Level], [])
    if not levels:
        return None
    lures = _read_section(known, "lures", list[ShareRow], [])
    woke = sorted((row for row in lures if row.share.events), key=lambda row: (-row.share.value, row.name))
    page = project.reports_dir / f"{run}.html"
    return ReportView(
        made_at=str(known.get("made_at", "")),
        warnings=_read_section(known, "warnings", list[str], []),
        chosen_on=str(known.get("chosen_on", "")),
        levels=levels,
        data=_read_section(known, "data", list[Data], []),
        wake_clips=int(known.get("wake_clips", 0)),
        wake_voices=int(known.get("wake_voices", 0)),
        hours=_read_section(known, "hours", list[str], []),
        curves=[view_curve(curve) for curve in _read_section(known, "curves", list[CurveRows], [])],
        recall_at=_read_section(known, "recall_at", list[RecallAt], []),
        histogram=_read_section(known, "histogram", Histogram, None),
        voices=_read_section(known, "voices", list[ShareRow], []),
        conditions=_read_section(known, "conditions", list[ShareRow], []),
        lures=woke[:MOST_LURES],
        lures_all=_read_section(known, "lures_all", Interval, None),
        training=_read_section(known, "training", list[Series], []),
        misses=len(known.get("misses", [])),
        false_accepts=len(known.get("false_accepts", [])),
        page=f"api/reports/{run}/page" if page.is_file() else "",
        provenance={str(key): str(value) for key, value in (known.get("provenance") or {}).items()},
    )


def view_curve(curve: CurveRows) -> CurveView:
    """A curve with the interval of every cutoff."""
    shares = [metrics.share_interval(hits, curve.trials) for hits in curve.hits] if curve.trials else []
    rates = [metrics.rate_interval(events, curve.hours) for events in curve.false_accepts] if curve.hours > 0 else []
    return CurveView(
        kind=curve.kind,
        window=curve.window,
        trials=curve.trials,
        hours=curve.hours,
        partial_area=curve.partial_area,
        cutoffs=list(curve.cutoffs),
        probabilities=[detector.probability_of_cutoff(cutoff) for cutoff in curve.cutoffs],
        hits=list(curve.hits),
        recall_low=[share.low for share in shares],
        recall_high=[share.high for share in shares],
        false_accepts=list(curve.false_accepts),
        rate_low=[rate.low for rate in rates],
        rate_high=[rate.high for rate in rates],
        best=best_cutoffs(curve),
    )


# --- what it was made of ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipView:
    """A clip, as a list shows it."""

    clip: Clip
    side: SideName
    sound: str  # relative to the panel's base; empty: it is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPage:
    """Some clips, and how many there are."""

    total: int
    clips: list[ClipView]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipsQuery:
    """Which of a model's clips: one of its groups, or all."""

    group: GroupId | None = None
    limit: Limit = 50
    offset: Place = 0


async def get_model_clips(call: Call, id: ModelId, query: ClipsQuery) -> ClipPage:
    """The clips that a model was made of: trained on, chosen by or judged on."""
    return await call.service.ask(lambda project: list_model_clips(project, id, query))


def list_model_clips(project: Project, id: str, query: ClipsQuery) -> ClipPage:
    """Clips of the model's feature set in the order of their ids. Raises NotFoundError."""
    sides = _sides_of_run(project, _find_model(project, id).run)
    clips = [clip for clip in project.catalogue.clips() if clip.id in sides]
    if query.group is not None:
        wanted = {one.id for group in group_clips(clips, sides) if group.id == query.group for one in clips
                  if group_key(one, sides) == (group.label, group.origin, group.source, group.side)}  # fmt: skip
        clips = [clip for clip in clips if clip.id in wanted]
    shown = clips[query.offset : query.offset + query.limit]
    return ClipPage(total=len(clips), clips=[_view_clip(project, clip, sides) for clip in shown])


def _view_clip(project: Project, clip: Clip, sides: Mapping[str, str]) -> ClipView:
    there = (project.root / clip.path).is_file()
    side: Any = sides.get(clip.id, "")
    return ClipView(clip=clip, side=side, sound=f"api/clips/{clip.id}/sound" if there else "")


def _sides_of_run(project: Project, run: str) -> dict[str, str]:
    """Clip → side of what a run heard; also after its features were deleted, without what was deleted with them."""
    document = next((document for document in project.catalogue.runs() if document["id"] == run), {})
    kept = _read_object(project.runs_dir / run / "heard.json") if run else {}
    return read_sides(project, str(document.get("feature_set", ""))) or kept


def _read_origins(project: Project, run: str) -> Origins:
    entry = next((one for one in list_runs(project) if one.id == run), None)
    sides = _sides_of_run(project, run)
    clips = [clip for clip in project.catalogue.clips() if clip.id in sides]
    feature_set = entry.feature_set if entry else ""
    return Origins(
        run=entry,
        feature_set=feature_set,
        features_kept=bool(feature_set) and (project.features_dir / feature_set / "index.json").is_file(),
        groups=group_clips(clips, sides),
        gone=len(sides) - len(clips),
    )


async def get_clip_sound(call: Call, id: ClipId) -> web.StreamResponse:
    """A clip's sound. Answers to Range."""

    def find(project: Project) -> Path:
        clip = project.catalogue.clips_by_id([id]).get(id)
        if clip is None:
            raise NotFoundError(f"no clip is called {id}", hint="it was deleted")
        path = project.root / clip.path
        if not path.is_file():
            raise NotFoundError(f"the sound of clip {id} is gone", hint="mww-ha doctor says what else is missing")
        return path

    path = await call.service.ask(find)
    kind = "audio/wav" if path.suffix == ".wav" else "audio/flac"
    return web.FileResponse(path, headers={hdrs.CONTENT_TYPE: kind})


# --- what it missed, what woke it ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MissView:
    """A wake word that was not heard. The sound is the clip's; the model heard it in the condition that is named."""

    clip: str
    voice: str
    condition: str
    peak: float  # highest window mean, 0 to 1
    text: str
    origin: str  # empty: the clip is gone
    sound: str  # relative to the panel's base; empty: it is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardWord:
    """What is said around a false accept, in front of whatever talks in the background."""

    clip: str
    label: Label
    speaker: str
    text: str
    start_s: float  # from the detection; negative: before it
    end_s: float
    sound: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseAcceptView:
    """A detection where nobody said the wake word. ``sound`` is some seconds around it, as the model heard them."""

    kind: str
    name: str  # a clip's id for recordings as they are, else shard and scene
    time_s: float
    score: float
    words: list[HeardWord]
    sound: str  # relative to the panel's base; empty: it cannot be had
    why: str  # there is no sound


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistakes:
    """What a model missed and what woke it wrongly on the test side; a report keeps the worst 40 of each."""

    misses: list[MissView]
    false_accepts: list[FalseAcceptView]


async def get_mistakes(call: Call, id: ModelId) -> Mistakes:
    """What the model missed and what woke it wrongly, with the sound of both where it can be had."""
    return await call.service.ask(lambda project: read_mistakes(project, id))


def read_mistakes(project: Project, id: str) -> Mistakes:
    """Misses and false accepts of the model's report. Raises NotFoundError."""
    run = _find_model(project, id).run
    known = _report_document(project, run)
    clips = {clip.id: clip for clip in project.catalogue.clips()}
    feature_set = _feature_set_of(project, run)
    misses = [
        _view_miss(project, miss, clips.get(miss.clip)) for miss in _read_section(known, "misses", list[Miss], [])
    ]
    accepts = [
        _view_false_accept(project, id, number, found, feature_set, clips)
        for number, found in enumerate(_read_section(known, "false_accepts", list[FalseAccept], []))
    ]
    return Mistakes(misses=misses, false_accepts=accepts)


def _feature_set_of(project: Project, run: str) -> str:
    document = next((document for document in project.catalogue.runs() if document["id"] == run), {})
    return str(document.get("feature_set", ""))


def _view_miss(project: Project, miss: Miss, clip: Clip | None) -> MissView:
    there = clip is not None and (project.root / clip.path).is_file()
    return MissView(
        clip=miss.clip,
        voice=miss.voice,
        condition=miss.condition,
        peak=miss.peak,
        text=clip.text if clip else "",
        origin=str(clip.origin) if clip else "",
        sound=f"api/clips/{miss.clip}/sound" if there else "",
    )


def _view_false_accept(
    project: Project, id: str, number: int, found: FalseAccept, feature_set: str, clips: Mapping[str, Clip]
) -> FalseAcceptView:
    recording = clips.get(found.name)
    words: list[HeardWord] = []
    why = ""
    if recording is not None:
        if not (project.root / recording.path).is_file():
            why = "the recording is gone"
    elif "/" not in found.name:
        why = "the recording was deleted"
    else:
        try:
            words = _words_around(project, feature_set, found, clips)
            can_render(project, feature_set, found.name.rpartition("/")[0])
        except DataError as error:
            why = error.message
    return FalseAcceptView(
        kind=found.kind,
        name=found.name,
        time_s=found.time_s,
        score=found.score,
        words=words,
        sound="" if why else f"api/models/{id}/false-accepts/{number}/sound",
        why=why,
    )


def _words_around(project: Project, feature_set: str, found: FalseAccept, clips: Mapping[str, Clip]) -> list[HeardWord]:
    """Words of a rendered scene that sound in what is played. Raises DataError where the features are gone."""
    shard, _, number = found.name.rpartition("/")
    scene = open_shard(project.features_dir / feature_set, shard).scenes[int(number)]
    words = []
    for event in scene.events:
        start_s, end_s = (
            frame * frontend.STEP_MS / 1000 - found.time_s for frame in (event.start_frame, event.end_frame)
        )
        if start_s < AFTER_S and end_s > -BEFORE_S:
            clip = clips.get(event.clip)
            words.append(
                HeardWord(
                    clip=event.clip,
                    label=event.label,
                    speaker=event.speaker if clip is None or clip.speaker else "",
                    text=clip.text if clip else event.text,
                    start_s=round(start_s, 2),
                    end_s=round(end_s, 2),
                    sound=f"api/clips/{event.clip}/sound" if clip else "",
                )
            )
    return words


async def get_false_accept_sound(call: Call, id: ModelId, number: Place) -> web.StreamResponse:
    """The seconds around a false accept as the model heard them, FLAC. Answers to Range.

    Rendered scenes are not kept: the first of a shard is made again in some seconds, compared with what was heard.
    """
    async with call.service.lock(find_false_accept_sound):  # it takes a core
        path = await call.service.ask(lambda project: find_false_accept_sound(project, id, number))
    return web.FileResponse(path, headers={hdrs.CONTENT_TYPE: "audio/flac"})


def find_false_accept_sound(project: Project, id: str, number: int) -> Path:
    """The file with the sound around a false accept, made where it is not there. Raises NotFoundError, DataError."""
    model = _find_model(project, id)
    every = _read_section(_report_document(project, model.run), "false_accepts", list[FalseAccept], [])
    if number >= len(every):
        raise NotFoundError(f"the report on {id} has no false accept {number}", hint="load the page again")
    found = every[number]
    feature_set = _feature_set_of(project, model.run)
    folder = project.features_dir / feature_set
    if not feature_set or not (folder / "index.json").is_file():
        raise DataError("the features of this model are gone", hint="they were deleted with a clip that was in them")
    path = _piece_path(folder, found)
    if path.is_file():
        return path
    from mww_ha.prepare import again

    recording = project.catalogue.clips_by_id([found.name]).get(found.name)
    if recording is not None:
        _write_piece(path, again.read_heard(project.root, recording), found.time_s)
        return path
    shard, slash, _ = found.name.rpartition("/")
    if not slash:
        raise NotFoundError(f"the recording {found.name} was deleted", hint="its sound is gone with it")
    # All of that shard at once: its scenes are drawn one after the other anyway.
    wanted = [one for one in every if one.name.rpartition("/")[0] == shard]
    then = _as_it_was(project, model.run)
    scenes = again.render_scenes(then, feature_set, shard, {int(one.name.rpartition("/")[2]) for one in wanted})
    for one in wanted:
        _write_piece(_piece_path(folder, one), scenes[int(one.name.rpartition("/")[2])], one.time_s)
    return path


def _piece_path(folder: Path, found: FalseAccept) -> Path:
    return folder / HEARD_FOLDER / f"{found.name.replace('/', '-')}-{round(found.time_s * 1000)}.flac"


def _write_piece(path: Path, samples: Any, time_s: float) -> None:
    start = max(0, round((time_s - BEFORE_S) * SAMPLE_RATE_HZ))
    piece = samples[start : round((time_s + AFTER_S) * SAMPLE_RATE_HZ)]
    if not len(piece):
        raise DataError("the recording is shorter than it was", hint="mww-ha doctor says what else is wrong")
    audio.write_flac(path, piece, durable=False)


def _as_it_was(project: Project, run: str) -> Project:
    """The project with the settings that a run was made with."""
    from mww_ha import config

    document = next(document for document in project.catalogue.runs() if document["id"] == run)
    settings = config.resolve(document["config"], where=f"training run {run}")
    return dataclasses.replace(project, settings=settings)


# --- to take away ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class YamlQuery:
    """At which cutoff; 0: as the manifest says."""

    cutoff: Cutoff = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class YamlView:
    """Lines for a YAML of one's own."""

    line: str  # the cutoff alone
    text: str


async def get_model_yaml(call: Call, id: ModelId, query: YamlQuery) -> YamlView:
    """The lines with which a YAML of one's own takes the model, at its own cutoff or another."""
    return await call.service.ask(lambda project: write_yaml(project, id, query.cutoff))


def write_yaml(project: Project, id: str, cutoff: int) -> YamlView:
    """ESPHome's lines for the model beside the YAML. Raises NotFoundError."""
    document = next((one for one in project.catalogue.models() if one["id"] == id), None)
    if document is None:
        raise NotFoundError(f"no model is called {id}", hint="it may have been deleted")
    own = float(document.get("probability_cutoff", math.nan))
    probability = detector.probability_of_cutoff(cutoff) if cutoff else own
    line = f"probability_cutoff: {probability:g}"
    lines = [
        f"# {id}.json and {id}.tflite lie beside this file",
        "micro_wake_word:",
        "  models:",
        f"    - model: {id}.json",
        *([f"      {line}"] if math.isfinite(probability) else []),
    ]
    return YamlView(line=line, text="\n".join(lines) + "\n")


MODEL_ROUTES = (
    Route(method="GET", path="/api/models/list", handler=get_model_list),
    Route(method="GET", path="/api/models/{id}/page", handler=get_model_page),
    Route(method="GET", path="/api/models/{id}/clips", handler=get_model_clips),
    Route(method="GET", path="/api/models/{id}/mistakes", handler=get_mistakes),
    Route(method="GET", path="/api/models/{id}/yaml", handler=get_model_yaml),
    Route(
        method="GET",
        path="/api/models/{id}/false-accepts/{number}/sound",
        handler=get_false_accept_sound,
        media="audio/flac",
    ),
    Route(method="GET", path="/api/clips/{id}/sound", handler=get_clip_sound, media="audio/flac"),
)
"""The routes about models. They come before those that take any part of a model."""
