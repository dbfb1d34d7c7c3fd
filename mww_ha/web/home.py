"""What the page API answers first: the wake words, how they do, and what to do next."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from mww_ha import retrain
from mww_ha.capture.rates import FieldRate, measure_field, measure_recall
from mww_ha.capture.review import find_waiting
from mww_ha.devices.known import load_devices
from mww_ha.errors import ConfigError, InputError
from mww_ha.schema import Device, Flash, Interval, Label, Origin
from mww_ha.store import Project
from mww_ha.train import install
from mww_ha.train.install import TrainingState
from mww_ha.web.captures import RateView, RecallView, view_rate, view_recall
from mww_ha.web.jobs import Job
from mww_ha.web.link import FLASH_KINDS
from mww_ha.web.openapi import Call, Route
from mww_ha.web.orders import KINDS, STAGES
from mww_ha.web.people import WANTED_PEOPLE
from mww_ha.web.state import FINISHED

LEAST_TAKES = 6
"""A person with fewer says too little to learn from."""

LEAST_FREE_BYTES = 2 << 30
"""A quickstart takes about 1 GB while it is at work."""

_MODEL_ID = re.compile(r"([a-z0-9_]{1,64})-[0-9a-f]{8}")
_MEDIUM = "medium"

StepKind = Literal[
    "disk_low",
    "devices_broken",
    "install_training",
    "resume",
    "failed",
    "make_model",
    "flash_failed",
    "confirm",
    "flash",
    "review",
    "learn",
    "add_device",
    "train_again",
    "record_people",
    "record_takes",
    "turn_on_captures",
    "download_voice",
    "more_effort",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeDevice:
    """A satellite that runs a wake word, as its newest verified flash says."""

    name: str
    friendly_name: str
    model: str
    flashed_at: str  # ISO 8601, UTC
    is_newest: bool  # no newer model of this word is offered
    rate: RateView | None  # of this model on this device


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeReport:
    """What the report says of the newest model at the medium sensitivity."""

    run: str
    recall: Interval | None
    rate: Interval | None
    sound: str  # what the rate was measured on: the kind with the most hours


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeWord:
    """A wake word: the project's own, one it had before, or one that a device brings along."""

    slug: str
    phrase: str
    is_current: bool  # the project's phrase
    model: str  # newest that is offered; empty: none
    made_at: str  # when its training began; ISO 8601, UTC
    models: int
    devices: list[HomeDevice]
    also_on: list[str]  # devices that carry it beside their own
    rate: RateView | None  # of the newest of its models that listened long enough
    report: HomeReport | None
    recall: list[RecallView]  # of prompted takes, by person, for the model whose rate is told


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeStep:
    """Something to do. Which of the fields say something depends on ``kind``."""

    kind: StepKind
    device: str = ""
    model: str = ""
    person: str = ""
    voice: str = ""
    job: str = ""  # the job to run again
    job_kind: str = ""
    number: int = 0
    message: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """The household at a glance; ``steps``: what to do next, the most urgent first."""

    phrase: str
    language: str
    effort: str
    words: list[WakeWord]
    steps: list[HomeStep]
    models: int  # that are offered
    devices: int
    people: int  # whose voice is in the project


async def get_home(call: Call) -> Home:
    """The wake words, how they do, and what to do next."""
    jobs = await call.service.run(lambda: call.service.jobs.list(limit=200))
    now = datetime.now(UTC)
    return await call.service.ask(
        lambda project: look_at_home(
            project, jobs=jobs, at=now, training=install.look(), free_bytes=shutil.disk_usage(project.root).free
        )
    )


def look_at_home(
    project: Project, *, jobs: Sequence[Job] = (), at: datetime, training: TrainingState, free_bytes: int
) -> Home:
    """What there is and what to do at the moment ``at`` (with a time zone). ``jobs``: newest first."""
    can_train = training.state in ("built_in", "installed")
    problem: ConfigError | None = None
    devices: dict[str, Device] = {}
    try:
        devices = load_devices(project)
    except ConfigError as error:
        problem = error
    offered = [model for model in project.catalogue.models() if model.get("offered", True)]
    flashes = project.catalogue.flashes()
    words = _list_words(project, devices, offered, flashes)
    speakers = count_speakers(project)
    own = next((model for model in offered if _slug_of(model) == project.slug), None)
    steps = [
        *([HomeStep(kind="disk_low", number=free_bytes)] if free_bytes < LEAST_FREE_BYTES else []),
        *([HomeStep(kind="devices_broken", message=problem.message, hint=problem.hint)] if problem else []),
        *_steps_of_model(own, jobs, None if can_train else training),
    ]
    if own is not None:
        steps += _steps_of_devices(str(own["id"]), devices, flashes, jobs)
        steps += _steps_of_listening(project, at=at, can_train=can_train and not _at_work(jobs))
        if not devices and problem is None:
            steps.append(HomeStep(kind="add_device"))
        steps += _steps_of_people(project, own, speakers, can_train=can_train and not _at_work(jobs))
        steps += _steps_of_quality(project, devices, flashes, own, jobs)
    return Home(
        phrase=project.settings.phrase,
        language=project.settings.language,
        effort=str(project.settings.effort),
        words=words,
        steps=steps,
        models=len(offered),
        devices=len(devices),
        people=len(speakers),
    )


def count_speakers(project: Project) -> Counter[str]:
    """Takes of the wake word by everybody whose name is known."""
    found = Counter[str]()
    for origin in (Origin.RECORDED, Origin.IMPORTED, Origin.CAPTURED):
        found.update(clip.speaker for clip in project.catalogue.clips(Label.WAKE, origin=origin) if clip.speaker)
    return found


# --- the wake words --------------------------------------------------------------------------------------------------


def _slug_of(model: Mapping[str, Any]) -> str:
    return str(model.get("slug") or slug_of_name(str(model["id"])))


def slug_of_name(name: str) -> str:
    """The wake word in the name of a model, or of a manifest: ``models/hey_hall-1a2b3c4d.json`` → ``hey_hall``."""
    stem = Path(name).name.removesuffix(".json")
    match = _MODEL_ID.fullmatch(stem)
    return match[1] if match else stem


def _list_words(
    project: Project, devices: Mapping[str, Device], offered: Sequence[Mapping[str, Any]], flashes: Sequence[Flash]
) -> list[WakeWord]:
    """The project's own word first, then others, the one with the newest model first."""
    verified: dict[str, Flash] = {}
    for flash in flashes:
        if flash.outcome == "verified" and flash.device in devices:
            verified.setdefault(flash.device, flash)
    also: dict[str, list[str]] = {}
    for name, device in devices.items():
        for item in device.also:
            also.setdefault(slug_of_name(item), []).append(name)
    running = [slug_of_name(flash.model) for flash in verified.values()]
    slugs = dict.fromkeys([project.slug, *map(_slug_of, offered), *running, *also])
    rates = measure_field(project, by=("device", "model"))
    overall = {rate.model: rate for rate in measure_field(project, by=("model",))}
    recalls = measure_recall(project)
    started = {str(run["id"]): str(run["started_at"]) for run in project.catalogue.runs()}
    words = []
    for slug in slugs:
        models = [model for model in offered if _slug_of(model) == slug]
        newest = models[0] if models else None
        current = slug == project.slug
        rate = _choose_rate(models, verified, overall)
        words.append(
            WakeWord(
                slug=slug,
                phrase=project.settings.phrase if current else str((newest or {}).get("phrase") or slug_words(slug)),
                is_current=current,
                model=str(newest["id"]) if newest else "",
                made_at=started.get(str(newest["run"]), "") if newest and newest.get("run") else "",
                models=len(models),
                devices=[
                    _describe_device(device, verified[name], newest, rates)
                    for name, device in devices.items()
                    if name in verified and slug_of_name(verified[name].model) == slug
                ],
                also_on=also.get(slug, []),
                rate=None if rate is None else view_rate(rate),
                report=None if newest is None else read_report(project, str(newest.get("run", ""))),
                recall=[view_recall(recall) for recall in recalls if rate is not None and recall.model == rate.model],
            )
        )
    return words


def slug_words(slug: str) -> str:
    """A slug as it may have been said."""
    return slug.replace("_", " ")


def _choose_rate(
    models: Sequence[Mapping[str, Any]], verified: Mapping[str, Flash], overall: Mapping[str, FieldRate]
) -> FieldRate | None:
    """Of the newest model that runs somewhere and has listened; else of the newest one that ever has."""
    running = {flash.model for flash in verified.values()}
    ids = [str(model["id"]) for model in models]
    for id in sorted(ids, key=lambda name: name not in running):
        rate = overall.get(id)
        if rate is not None and rate.per_hour is not None:
            return rate
    return None


def _describe_device(
    device: Device, flash: Flash, newest: Mapping[str, Any] | None, rates: Sequence[FieldRate]
) -> HomeDevice:
    rate = next((r for r in rates if (r.device, r.model) == (device.name, flash.model)), None)
    return HomeDevice(
        name=device.name,
        friendly_name=device.friendly_name,
        model=flash.model,
        flashed_at=flash.started_at,
        is_newest=newest is None or newest["id"] == flash.model,
        rate=None if rate is None else view_rate(rate),
    )


def read_report(project: Project, run: str) -> HomeReport | None:
    """The figures of a run's report at the medium sensitivity; None where there is none to read."""
    try:
        document = json.loads((project.reports_dir / f"{run}.json").read_text(encoding="utf-8"))
        level = next(level for level in document["levels"] if level["name"] == _MEDIUM)
        rates = sorted(level["rates"], key=lambda rate: float(rate["per_hour"]["exposure"]), reverse=True)
        return HomeReport(
            run=run,
            recall=None if level["recall"] is None else Interval(**level["recall"]),
            rate=Interval(**rates[0]["per_hour"]) if rates else None,
            sound=str(rates[0]["kind"]) if rates else "",
        )
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return None


# --- what to do next -------------------------------------------------------------------------------------------------


def _at_work(jobs: Sequence[Job]) -> bool:
    """Whether a model is on its way."""
    return any(job.state not in FINISHED and KINDS[job.kind].touches == STAGES for job in jobs if job.kind in KINDS)


def _steps_of_model(
    own: Mapping[str, Any] | None, jobs: Sequence[Job], missing: TrainingState | None
) -> list[HomeStep]:
    """To the first model, or on with the newest work on one. ``missing``: what there is instead of training."""
    if _at_work(jobs):
        return []
    last = next((job for job in jobs if job.kind in KINDS and KINDS[job.kind].touches == STAGES), None)
    if last is not None and last.state in ("interrupted", "failed"):
        failed = last.state == "failed"
        return [
            HomeStep(
                kind="failed" if failed else "resume",
                job=last.id,
                job_kind=last.kind,
                message=last.message if failed else "",
                hint=last.hint if failed else "",
            )
        ]
    if own is not None and (missing is None or missing.state != "outdated"):
        return []  # with a model, another computer may be the one that trains; an update takes away what was here
    if missing is not None:
        possible = missing.state != "impossible" and not missing.obstacle
        kind = "install_training" if possible else ""
        return [
            HomeStep(
                kind="install_training", job_kind=kind, number=round(missing.download_mb), message=missing.obstacle
            )
        ]
    return [HomeStep(kind="make_model")]


def _steps_of_devices(
    model: str, devices: Mapping[str, Device], flashes: Sequence[Flash], jobs: Sequence[Job]
) -> list[HomeStep]:
    """What failed, what was only handed over, and where a newer model could go."""
    flashing = [job.order for job in jobs if job.kind in FLASH_KINDS and job.state not in FINISHED]
    steps = []
    for name in devices:
        if any(order.get("every") or order.get("device") == name for order in flashing):
            continue
        own = [flash for flash in flashes if flash.device == name and flash.outcome != "planned"]
        newest = own[0] if own else None
        if newest is not None and newest.outcome in ("failed", "stopped"):
            step = HomeStep(kind="flash_failed", device=name, model=newest.model, message=newest.message)
        elif newest is not None and newest.outcome == "handed over":
            step = HomeStep(kind="confirm", device=name, model=newest.model)
        elif not any(flash.model == model and flash.outcome == "verified" for flash in own):
            # A device that ran it once was taken back from it: somebody knew why.
            step = HomeStep(kind="flash", device=name, model=model)
        else:
            continue
        steps.append(step)
    order = ("flash_failed", "confirm", "flash")
    return sorted(steps, key=lambda step: order.index(step.kind))


def _steps_of_listening(project: Project, *, at: datetime, can_train: bool) -> list[HomeStep]:
    steps = []
    waiting = len(find_waiting(project))
    if waiting:
        steps.append(HomeStep(kind="review", number=waiting))
    why = retrain.due(project, at) if can_train else ""
    if why:
        steps.append(HomeStep(kind="learn", number=retrain.count_new_verdicts(project), message=why))
    return steps


def _steps_of_people(
    project: Project, own: Mapping[str, Any], speakers: Mapping[str, int], *, can_train: bool
) -> list[HomeStep]:
    steps = []
    started = next((run["started_at"] for run in project.catalogue.runs() if run["id"] == own.get("run")), "")
    new = sum(session.taken for session in project.catalogue.sessions() if started and session.started_at > started)
    if can_train and new >= LEAST_TAKES:
        steps.append(HomeStep(kind="train_again", number=new))
    if len(speakers) < WANTED_PEOPLE:
        steps.append(HomeStep(kind="record_people", number=WANTED_PEOPLE - len(speakers)))
    # Those who agreed to be recorded here; speakers of an imported corpus are not asked for more.
    steps += [
        HomeStep(kind="record_takes", person=person.name, number=LEAST_TAKES - speakers.get(person.name, 0))
        for person in project.catalogue.people()
        if speakers.get(person.name, 0) < LEAST_TAKES
    ]
    return steps


def _steps_of_quality(
    project: Project,
    devices: Mapping[str, Device],
    flashes: Sequence[Flash],
    own: Mapping[str, Any],
    jobs: Sequence[Job],
) -> list[HomeStep]:
    """What makes the next model better."""
    verified = {flash.device for flash in flashes if flash.outcome == "verified"}
    steps = [
        HomeStep(kind="turn_on_captures", device=name)
        for name, device in devices.items()
        if not device.capture_url and name in verified
    ]
    made = project.catalogue.stage("synthesize")
    spoke = {name.partition(":")[0] for name in made[1].get("voices", ())} if made else set()
    fetching = any(job.kind == "download_voice" and job.state not in FINISHED for job in jobs)
    if made and not spoke & {"piper", "wyoming"} and not fetching:
        voice = _recommend(project)
        if voice:
            steps.append(HomeStep(kind="download_voice", voice=voice))
    run = next((run for run in project.catalogue.runs() if run["id"] == own.get("run")), {})
    if str(run.get("config", {}).get("effort", "")) == "quick":
        steps.append(HomeStep(kind="more_effort"))
    return steps


def _recommend(project: Project) -> str:
    from mww_ha.synthesize.voices import find_piper_voices, recommend_voice, user_voices_dir

    settings = project.settings
    try:
        voice = recommend_voice(settings.language)
    except InputError:
        return ""
    dirs = [project.root / "voices", *(Path(d).expanduser() for d in settings.synthesize.voice_dirs)]
    return "" if find_piper_voices(settings.language, [*dirs, user_voices_dir()]) else voice


HOME_ROUTES = (Route(method="GET", path="/api/home", handler=get_home),)
"""The first view's one route."""
