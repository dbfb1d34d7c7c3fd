"""What the page API answers. Routes: parse (by annotation, see openapi.py), call, answer."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from aiohttp import hdrs, web

from mww_ha import __version__
from mww_ha.doctor import Item
from mww_ha.errors import MwwError
from mww_ha.schema import Label, Origin
from mww_ha.store import Project
from mww_ha.web.access import RefusedError
from mww_ha.web.archives import ARCHIVE_ROUTES
from mww_ha.web.captures import CAPTURE_ROUTES
from mww_ha.web.devices import DEVICE_ROUTES
from mww_ha.web.events import send_events
from mww_ha.web.home import HOME_ROUTES
from mww_ha.web.joblog import Line
from mww_ha.web.jobs import Job, read_order
from mww_ha.web.learning import LEARNING_ROUTES
from mww_ha.web.listening import LISTENING_ROUTES
from mww_ha.web.models import MODEL_ROUTES
from mww_ha.web.openapi import Call, NotFoundError, Route, describe
from mww_ha.web.orders import AnyOrder, ModelId
from mww_ha.web.people import PEOPLE_ROUTES
from mww_ha.web.settings import SETTINGS_ROUTES, without_passwords
from mww_ha.web.state import FINISHED
from mww_ha.web.takes import TAKE_ROUTES
from mww_ha.web.training import TRAINING_ROUTES
from mww_ha.web.wire import Number, Text

JobId = Annotated[str, Text(pattern="[0-9a-f]{12}", longest=12)]
RunId = Annotated[str, Text(pattern="[A-Za-z0-9_-]{1,80}", longest=80)]
JobState = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
Limit = Annotated[int, Number(least=1, most=1000)]
Place = Annotated[int, Number(least=0, most=10**12)]

REPORT_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'; sandbox"
)
"""A report is one file with its style inside; whatever stands in it, it runs nothing and is nobody's origin."""

# --- who, what, whether all is well ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The service answers."""

    status: Literal["ok"] = "ok"


@dataclass(frozen=True, slots=True, kw_only=True)
class Me:
    """Who asks, and whether this person may flash, delete and export."""

    way: Literal["token", "ingress", "local"]
    user_name: str
    may_change: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectSummary:
    """The project and its settings, addresses without passwords."""

    version: str  # of mww-ha
    slug: str
    phrase: str
    language: str
    effort: str
    folder: str
    settings: dict[str, Any]


async def get_health(call: Call) -> Health:  # noqa: ARG001
    """Whether the service answers. Open to everybody who may connect."""
    return Health()


async def get_me(call: Call) -> Me:
    """Who asks, and what this person may do."""
    try:
        await call.service.access.check_may_change(call.caller)
        may_change = True
    except RefusedError:
        may_change = False
    return Me(way=call.caller.way, user_name=call.caller.user_name, may_change=may_change)


async def get_project(call: Call) -> ProjectSummary:
    """The project and its settings."""
    return await call.service.ask(summarize)


def summarize(project: Project) -> ProjectSummary:
    """The project in short."""
    settings = project.settings
    return ProjectSummary(
        version=__version__,
        slug=project.slug,
        phrase=settings.phrase,
        language=settings.language,
        effort=str(settings.effort),
        folder=str(project.root),
        settings=without_passwords(dataclasses.asdict(settings)),
    )


async def get_doctor(call: Call) -> list[Item]:
    """What is installed, what is missing, and what to do."""
    from mww_ha.doctor import examine

    return await call.service.run(examine, call.service.root)


# --- the project's things --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipCount:
    """How many clips there are of one label and origin."""

    label: Label
    origin: Origin
    clips: int
    speakers: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """One stage of the pipeline. ``state``: current; out of date; never (it has not run); unknown (``message`` why)."""

    stage: str
    state: Literal["current", "out of date", "never", "unknown"]
    message: str
    result: dict[str, Any] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportEntry:
    """A report that can be read. ``page`` is relative to the panel's base."""

    run: str
    made_at: str  # ISO 8601, UTC
    page: str


async def get_clips(call: Call) -> list[ClipCount]:
    """How many clips there are, by label and origin."""
    return await call.service.ask(count_clips)


def count_clips(project: Project) -> list[ClipCount]:
    """Clips by label and origin, those there are."""
    found: dict[tuple[Label, Origin], tuple[int, set[str], float]] = {}
    for clip in project.catalogue.clips():
        count, speakers, seconds = found.get((clip.label, clip.origin), (0, set(), 0.0))
        speakers.add(clip.speaker)
        found[clip.label, clip.origin] = (count + 1, speakers, seconds + clip.duration_s)
    return [
        ClipCount(label=label, origin=origin, clips=count, speakers=len(speakers - {""}), duration_s=round(seconds, 3))
        for (label, origin), (count, speakers, seconds) in sorted(found.items())
    ]


async def get_stages(call: Call) -> list[StageState]:
    """The stages in order, and which of them are out of date."""
    return await call.service.ask_once(look_at_stages)


def look_at_stages(project: Project) -> list[StageState]:
    """What is current, as far as the stages before it are."""
    from mww_ha import pipeline

    states: list[StageState] = []
    for stage in pipeline.STAGES:
        known = project.catalogue.stage(stage)
        state: Literal["current", "out of date", "never", "unknown"] = "never"
        message = ""
        if known is not None:
            try:
                before = all(earlier.state == "current" for earlier in states)
                state = "current" if before and pipeline.is_current(project, stage) else "out of date"
            except MwwError as error:
                state, message = "unknown", error.message
        states.append(StageState(stage=stage, state=state, message=message, result=known[1] if known else None))
    return states


async def get_runs(call: Call) -> list[dict[str, Any]]:
    """The journal of trainings, newest first."""
    return await call.service.ask(lambda project: project.catalogue.runs())


async def get_run(call: Call, id: RunId) -> dict[str, Any]:
    """One training."""
    return _find(await call.service.ask(lambda project: project.catalogue.runs()), id, "training")


async def get_models(call: Call) -> list[dict[str, Any]]:
    """The models that are vouched for, newest first."""
    return await call.service.ask(lambda project: project.catalogue.models())


async def get_model(call: Call, id: ModelId) -> dict[str, Any]:
    """One model."""
    return _find(await call.service.ask(lambda project: project.catalogue.models()), id, "model")


def _find(documents: list[dict[str, Any]], id: str, what: str) -> dict[str, Any]:
    for document in documents:
        if document.get("id") == id:
            return document
    raise NotFoundError(f"no {what} is called {id}", hint="it may have been deleted")


async def get_model_file(call: Call, id: ModelId, part: Literal["manifest", "model", "about"]) -> web.StreamResponse:
    """A model's file to take away: its manifest, the model itself, or what is known about it."""
    await call.service.access.check_may_change(call.caller)  # this is export
    suffix, kind = {
        "manifest": (".json", "application/json"),
        "model": (".tflite", "application/octet-stream"),
        "about": (".about.json", "application/json"),
    }[part]

    def find(project: Project) -> Path:
        _find(project.catalogue.models(), id, "model")
        path = project.models_dir / f"{id}{suffix}"
        if not path.is_file():
            raise NotFoundError(f"{path.name} is gone", hint="make the model again with the stage export")
        return path

    path = await call.service.ask(find)
    headers = {hdrs.CONTENT_TYPE: kind, hdrs.CONTENT_DISPOSITION: f'attachment; filename="{path.name}"'}
    return web.FileResponse(path, headers=headers)


async def get_reports(call: Call) -> list[ReportEntry]:
    """The reports there are, newest first."""
    return await call.service.ask(list_reports)


def list_reports(project: Project) -> list[ReportEntry]:
    """Reports with a page, newest first."""
    found = []
    for path in project.reports_dir.glob("*.html"):
        if re.fullmatch(r"[A-Za-z0-9_-]{1,80}", path.stem, re.ASCII):
            made = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
            found.append(ReportEntry(run=path.stem, made_at=made, page=f"api/reports/{path.stem}/page"))
    return sorted(found, key=lambda entry: (entry.made_at, entry.run), reverse=True)


async def get_report_page(call: Call, run: RunId) -> web.StreamResponse:
    """A report as the page it was made as; it runs no script and is no part of the panel's origin."""
    return await _report(call, run, ".html", "text/html; charset=utf-8")


async def get_report_numbers(call: Call, run: RunId) -> web.StreamResponse:
    """A report as numbers."""
    return await _report(call, run, ".json", "application/json")


async def _report(call: Call, run: str, suffix: str, kind: str) -> web.StreamResponse:
    def find(project: Project) -> Path:
        path = project.reports_dir / f"{run}{suffix}"
        if not path.is_file():
            raise NotFoundError(f"no report on {run}", hint="make one with the stage evaluate")
        return path

    headers = {hdrs.CONTENT_TYPE: kind, "Content-Security-Policy": REPORT_POLICY}
    return web.FileResponse(await call.service.ask(find), headers=headers)


# --- jobs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsQuery:
    """Which jobs."""

    state: JobState | None = None
    limit: Limit = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class LogQuery:
    """Which part of a log: up to ``limit`` lines behind line ``after``."""

    after: Place = 0
    limit: Limit = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class AfterQuery:
    """Where to read on, for a reader that cannot send ``Last-Event-ID``."""

    after: Place = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPage:
    """Some lines of a job's log; ask again with ``after`` = ``last``."""

    lines: list[Line]
    last: int


async def get_jobs(call: Call, query: JobsQuery) -> list[Job]:
    """What runs, waits and has ended, newest first."""
    states = () if query.state is None else (query.state,)
    return await call.service.run(lambda: call.service.jobs.list(*states, limit=query.limit))


async def add_job(call: Call, body: AnyOrder) -> Job:
    """Queue a stage or a command."""
    if body.guarded:
        await call.service.access.check_may_change(call.caller)
    return await call.service.run(lambda: call.service.jobs.add(body, asked_by=_name(call)))


async def get_job(call: Call, id: JobId) -> Job:
    """One job."""
    return await call.service.run(call.service.jobs.get, id)


async def cancel_job(call: Call, id: JobId) -> Job:
    """Take a job out of the queue, or tell it to end."""
    await _check_guarded(call, id)
    return await call.service.run(call.service.jobs.cancel, id)


async def retry_job(call: Call, id: JobId) -> Job:
    """Queue again what has ended; stages go on where they stopped."""
    await _check_guarded(call, id)
    return await call.service.run(lambda: call.service.jobs.retry(id, asked_by=_name(call)))


async def remove_job(call: Call, id: JobId) -> None:
    """Forget a job that has ended, with its log."""
    await call.service.access.check_may_change(call.caller)
    await call.service.run(call.service.jobs.remove, id)


async def get_job_log(call: Call, id: JobId, query: LogQuery) -> LogPage:
    """Lines of a job's log. The log is bounded: of a long one the oldest lines are gone."""

    def look() -> list[Line]:
        return call.service.jobs.reader(id, query.after).read(query.limit)

    lines = await call.service.run(look)
    return LogPage(lines=lines, last=lines[-1].id if lines else query.after)


async def get_job_events(call: Call, id: JobId, query: AfterQuery) -> web.StreamResponse:
    """A job's log as it grows, as server-sent events: state, progress, log, result, error; gap; end.

    ``Last-Event-ID`` reads on behind that line. A reader that has all of a job that has ended gets 204.
    """
    text = call.request.headers.get("Last-Event-ID", "")
    after = int(text) if re.fullmatch(r"[0-9]{1,12}", text, re.ASCII) else query.after
    signal = call.service.job_signal(id)
    job = await get_job(call, id)
    if job.state in FINISHED and after and not (await get_job_log(call, id, LogQuery(after=after, limit=1))).lines:
        return web.Response(status=204)
    read = await call.service.read_job_events(id, after)
    return await send_events(call.request, read, signal, call.service.stopping, heartbeat_s=call.service.heartbeat_s)


async def get_events(call: Call) -> web.StreamResponse:
    """What happens, as it happens, as server-sent events; reset: read the lists again.

    Of jobs: job. Of captures: capture (new), scored, transcribed, judged, outcome, deleted, expired. Of models: canary.
    Of voices: recording (a session on a satellite), people (somebody's takes or consent changed). Of satellites:
    devices (devices.yaml has changed), found (a look on the network has begun or ended).
    ``Last-Event-ID`` reads on behind that event.
    """
    service = call.service
    read = service.ring.reader(call.request.headers.get("Last-Event-ID", ""))
    return await send_events(call.request, read, service.ring.signal, service.stopping, heartbeat_s=service.heartbeat_s)


async def get_openapi(call: Call) -> dict[str, Any]:
    """This description."""
    return describe(ROUTES, cookie=call.service.access.cookie)


def _name(call: Call) -> str:
    return call.caller.user_name or call.caller.user_id


async def _check_guarded(call: Call, id: str) -> None:
    """Who may not start a job may not stop it either."""
    job = await get_job(call, id)
    if read_order(job.order).guarded:
        await call.service.access.check_may_change(call.caller)


ROUTES = (
    Route(method="GET", path="/api/health", handler=get_health, is_open=True),
    Route(method="GET", path="/api/openapi.json", handler=get_openapi),
    Route(method="GET", path="/api/me", handler=get_me),
    Route(method="GET", path="/api/project", handler=get_project),
    Route(method="GET", path="/api/doctor", handler=get_doctor),
    Route(method="GET", path="/api/clips", handler=get_clips),
    Route(method="GET", path="/api/stages", handler=get_stages),
    Route(method="GET", path="/api/runs", handler=get_runs),
    Route(method="GET", path="/api/runs/{id}", handler=get_run),
    *LEARNING_ROUTES,
    *MODEL_ROUTES,
    Route(method="GET", path="/api/models", handler=get_models),
    Route(method="GET", path="/api/models/{id}", handler=get_model),
    Route(method="GET", path="/api/models/{id}/{part}", handler=get_model_file, media="*/*"),
    Route(method="GET", path="/api/reports", handler=get_reports),
    Route(method="GET", path="/api/reports/{run}/page", handler=get_report_page, media="text/html"),
    Route(method="GET", path="/api/reports/{run}/numbers", handler=get_report_numbers, media="*/*"),
    Route(method="GET", path="/api/jobs", handler=get_jobs),
    Route(method="POST", path="/api/jobs", handler=add_job, status=201),
    Route(method="GET", path="/api/jobs/{id}", handler=get_job),
    Route(method="DELETE", path="/api/jobs/{id}", handler=remove_job, status=204),
    Route(method="POST", path="/api/jobs/{id}/cancel", handler=cancel_job),
    Route(method="POST", path="/api/jobs/{id}/retry", handler=retry_job, status=201),
    Route(method="GET", path="/api/jobs/{id}/log", handler=get_job_log),
    Route(method="GET", path="/api/jobs/{id}/events", handler=get_job_events, media="text/event-stream"),
    Route(method="GET", path="/api/events", handler=get_events, media="text/event-stream"),
    *CAPTURE_ROUTES,
    *TRAINING_ROUTES,
    *PEOPLE_ROUTES,
    *TAKE_ROUTES,
    *HOME_ROUTES,
    *SETTINGS_ROUTES,
    *ARCHIVE_ROUTES,
    *DEVICE_ROUTES,
    *LISTENING_ROUTES,
)
"""Every route of the page API."""
