"""The service and Home Assistant: events, notifications, outcomes of its pipelines as hints, entities by MQTT.

Off unless it is configured. Both halves, Home Assistant and broker, live in tasks of their own that come back by
themselves; what is wrong with them stands in ``state`` and disturbs nobody else. What is shown over there follows from
a picture of the catalogue that is taken anew whenever something happened, so nothing has to be remembered over a
restart of either side.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from mww_ha import __version__
from mww_ha.capture.rates import LEAST_HOURS, FieldRate, measure_field
from mww_ha.capture.review import find_waiting
from mww_ha.capture.score import find_detection, set_outcome
from mww_ha.config import Settings
from mww_ha.devices.connection import Connection
from mww_ha.devices.known import clean_host_name, find_device, load_devices
from mww_ha.errors import (
    ConfigError,
    DeviceError,
    HomeAssistantError,
    HomeAssistantRefusedError,
    InputError,
    MwwError,
)
from mww_ha.ha.client import Client, PipelineRun, Satellite
from mww_ha.ha.connection import Access, find_access
from mww_ha.ha.mqtt import Broker, Entities, SatelliteStatus, find_broker, parse_broker
from mww_ha.schema import Device, Flash
from mww_ha.store import Project, now
from mww_ha.web.jobs import Job
from mww_ha.web.orders import FlashOrder
from mww_ha.web.satellites import connect_satellite
from mww_ha.web.service import Service

CAPTURE_SWITCH = "capture_wake_audio"
"""Object id of the switch that capture.yaml gives a satellite."""

FLASH_KINDS = ("flash", "rollback", "canary")
RATE_DAYS = 7
"""What is shown a day is the mean of so many."""

_FRESH_S = 300.0  # an event that Home Assistant could not be told in this time is of no use to an automation
_MOST_EVENTS = 200
_AGAIN_S = 60.0
_REFRESH_S = 600.0
_ADMINS_S = 60.0
_LONGEST_TOKEN = 4096

logger = logging.getLogger(__name__)


# --- what is configured ----------------------------------------------------------------------------------------------


def read_access(settings: Settings, root: Path, environ: Mapping[str, str]) -> Access | None:
    """Where Home Assistant is; None: nothing is configured. Blocks. Raises ConfigError, which names no token.

    In an app an address without a token file does not count: it would keep the Supervisor from saying who is an
    administrator, and then nobody could give that file.
    """
    chosen = settings.home_assistant
    if chosen.url and (chosen.token_file or not environ.get("SUPERVISOR_TOKEN")):
        return find_access(chosen.url, _read_secret(root, chosen.token_file, "home_assistant.token_file"), environ={})
    return find_access(environ=environ) if environ.get("SUPERVISOR_TOKEN") else None


def read_broker(settings: Settings, root: Path) -> Broker | None:
    """The broker of the settings; None: none is named. Blocks. Raises ConfigError, which names no password."""
    chosen = settings.mqtt
    if not chosen.host:
        return None
    password = _read_secret(root, chosen.password_file, "mqtt.password_file") if chosen.password_file else ""
    named = {"host": chosen.host, "port": chosen.port, "username": chosen.username, "ssl": chosen.tls}
    return parse_broker({**named, "password": password, "ca_file": chosen.ca_file})


def _read_secret(root: Path, name: str, key: str) -> str:
    if not name:
        raise ConfigError(
            f"{key} is empty", hint="write the name of the file that holds it; only its owner may read it"
        )
    path = root / Path(name).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{key}: {path} cannot be read: {type(error).__name__}", hint="it holds one line") from None
    lines = text[:_LONGEST_TOKEN].split("\n")
    if not lines[0].strip() or any(line.strip() for line in lines[1:]):
        raise ConfigError(f"{key}: {path} does not hold one line", hint="write the secret into it and nothing else")
    return lines[0].strip()


# --- the picture: what over there is to be shown ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What the household's wake words are at, in a moment."""

    devices: dict[str, Device]
    waiting: dict[str, int]  # captures for a person to judge, by device
    rates: dict[str, FieldRate]  # of the last days, by device
    models: tuple[dict[str, Any], ...]  # those that are offered, newest first
    active: dict[str, str]  # device → model
    known: dict[str, frozenset[str]]  # device → every model that it ever ran
    failed: dict[str, str]  # device → why its newest flash failed
    installing: frozenset[str]


def take_picture(project: Project, jobs: Sequence[Job] = (), *, today: datetime | None = None) -> Picture:
    """Looks at the catalogue. ``jobs``: those that wait and run. Raises ConfigError for a broken devices.yaml."""
    since = ((today or datetime.now(UTC)) - timedelta(days=RATE_DAYS)).date().isoformat()
    devices = load_devices(project)
    by_device: dict[str, list[Flash]] = {}
    for flash in project.catalogue.flashes():
        by_device.setdefault(flash.device, []).append(flash)
    verified = {name: [f.model for f in flashes if f.outcome == "verified"] for name, flashes in by_device.items()}
    newest = {name: next((f for f in flashes if f.outcome != "planned"), None) for name, flashes in by_device.items()}
    flashing = [job.order for job in jobs if job.kind in FLASH_KINDS and not job.order.get("dry_run")]
    return Picture(
        devices=devices,
        waiting=dict(Counter(capture.device for capture in find_waiting(project))),
        rates={rate.device: rate for rate in measure_field(project, by=("device",), since=since)},
        models=tuple(model for model in project.catalogue.models() if model.get("offered", True)),
        active={name: models[0] for name, models in verified.items() if models},
        known={name: frozenset(models) for name, models in verified.items()},
        failed={name: f.message for name, f in newest.items() if f and f.outcome == "failed" and name in devices},
        installing=frozenset(
            name for name in devices if any(o.get("every") or o.get("device") == name for o in flashing)
        ),
    )


def find_new_model(picture: Picture, device: str) -> dict[str, Any] | None:
    """The newest model, where the device runs another and never ran this one (it may have been taken back)."""
    newest = picture.models[0] if picture.models else None
    return None if newest is None or newest["id"] in picture.known.get(device, ()) else newest


def describe_satellites(picture: Picture, capturing: Mapping[str, bool]) -> list[SatelliteStatus]:
    """What Home Assistant shows of each satellite."""
    found = []
    for name, device in picture.devices.items():
        rate, new = picture.rates.get(name), find_new_model(picture, name)
        known = rate is not None and rate.per_hour is not None and rate.hours >= LEAST_HOURS
        woke = 0 if rate is None else rate.wakes + rate.false_accepts + rate.other + rate.unjudged
        found.append(
            SatelliteStatus(
                name=name,
                friendly_name=device.friendly_name,
                capturing=capturing.get(name, False),
                detections_per_day=24 * woke / rate.hours if known and rate is not None else None,
                false_accepts_per_day=24 * rate.false_accepts / rate.hours if known and rate is not None else None,
                unreviewed=picture.waiting.get(name, 0),
                active_model=picture.active.get(name, ""),
                new_model="" if new is None else str(new["id"]),
                new_model_summary="" if new is None else _summary(new),
                installing=name in picture.installing,
            )
        )
    return found


def _summary(model: Mapping[str, Any]) -> str:
    compared = model.get("comparison")
    return str(compared.get("reason", "")) if isinstance(compared, Mapping) else ""


Notice = tuple[str, str]
"""Title and text of a notification."""


def describe_notices(picture: Picture, failures: Mapping[str, str]) -> dict[str, Notice | None]:
    """The notifications there are to be, by id; None: none. ``failures``: device → why a job failed."""
    waiting = sum(picture.waiting.values())
    where = ", ".join(f"{name}: {number}" for name, number in sorted(picture.waiting.items()))
    review = (f"{waiting} capture{'s' * (waiting != 1)} to review", f"Listen and say what they are. {where}")
    ready = [name for name in picture.devices if find_new_model(picture, name) is not None]
    nowhere = bool(ready) and len(ready) == len(picture.devices)
    failed = {**picture.failed, **failures}
    lines = [f"{name or 'all'}: {message}" for name, message in sorted(failed.items())]
    model = picture.models[0] if picture.models else {}
    return {
        "review": review if waiting else None,
        "model": ("A new wake word model is ready", f"{model['id']} can be flashed. {_summary(model)}".strip())
        if nowhere
        else None,
        "flash": (f"Flashing {', '.join(sorted(name or 'all' for name in failed))} failed", "\n".join(lines))
        if failed
        else None,
    }


# --- pipeline runs and captures --------------------------------------------------------------------------------------


def name_satellites(satellites: Sequence[Satellite], devices: Mapping[str, Device]) -> dict[str, str]:
    """Entity id → our device, by host name, else by the name that people gave it."""
    found = {}
    for satellite in satellites:
        names = [satellite.host_name]
        with contextlib.suppress(InputError):
            names.append(clean_host_name(satellite.name))
        for name in names:
            if name in devices:
                found[satellite.entity_id] = name
                break
    return found


def text_of_outcome(run: PipelineRun) -> str:
    """A run as a capture's outcome: ``ok``, Home Assistant's error code, or what else is known."""
    return run.error_code or ("ok" if run.outcome in ("handled", "heard") else run.outcome)


def join_outcomes(project: Project, runs: Sequence[tuple[str, datetime, str]]) -> list[tuple[str, str]]:
    """Notes at each detection what became of the (device, started at, outcome) next to it. Returns what changed."""
    nearest: dict[str, tuple[float, str, str]] = {}
    for device, started_at, outcome in runs:
        capture = find_detection(project, device, started_at)
        if capture is not None:
            away_s = abs((datetime.fromisoformat(capture.captured_at) - started_at).total_seconds())
            nearest[capture.id] = min(nearest.get(capture.id, (away_s, outcome, capture.outcome)),
                                      (away_s, outcome, capture.outcome))  # fmt: skip
    changed = [(id, outcome) for id, (_, outcome, before) in nearest.items() if outcome != before]
    for id, outcome in changed:
        set_outcome(project, id, outcome)
    return changed


# --- admins ----------------------------------------------------------------------------------------------------------


class HomeAdmins:
    """Those that are named, and the administrators of Home Assistant, as it says while it is connected."""

    def __init__(self, user_ids: Sequence[str] = (), *, clock: Callable[[], float] = time.monotonic) -> None:
        self._named = frozenset(user_ids)
        self.client: Client | None = None
        self._clock = clock
        self._known: frozenset[str] = frozenset()
        self._known_at = -_ADMINS_S

    async def may_change(self, user_id: str) -> bool:
        """Whether this user may. Home Assistant is asked once a minute at most; without an answer: no."""
        if user_id in self._named:
            return True
        client = self.client
        if client is None or client.state != "connected":
            return False
        if self._clock() - self._known_at >= _ADMINS_S:
            try:
                rows = await client.command("config/auth/list")
            except HomeAssistantError as error:
                logger.info("%s", error.message)
                return False
            self._known = (
                frozenset(str(row["id"]) for row in rows if _is_admin(row)) if isinstance(rows, list) else frozenset()
            )
            self._known_at = self._clock()
        return user_id in self._known


def _is_admin(row: Any) -> bool:
    if not isinstance(row, dict) or not row.get("id") or row.get("is_active") is not True:
        return False
    groups = row.get("group_ids")
    return row.get("is_owner") is True or (isinstance(groups, list) and "system-admin" in groups)


# --- the link --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerState:
    """A connection. ``state``: off (not configured) | connecting | connected | refused | failed; the last error."""

    state: Literal["off", "connecting", "connected", "refused", "failed"] = "off"
    error: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkState:
    """Home Assistant, its broker, and what could not be told."""

    home_assistant: PeerState = PeerState()
    mqtt: PeerState = PeerState()
    version: str = ""  # of Home Assistant
    events_lost: int = 0
    problem: str = ""  # with looking at our own project


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often things are looked at and told, in seconds."""

    settle_s: float = 1.0  # after something happened
    look_every_s: float = 60.0
    notice_every_s: float = 60.0  # between two changes of a notification that is shown
    join_after_s: float = 2.0  # a pipeline's run and the capture that began it end at different times
    devices_every_s: float = 300.0
    device_timeout_s: float = 8.0
    retry_first_s: float = 1.0
    retry_most_s: float = 60.0


@dataclass(slots=True)
class _Outbox:
    """Events that wait for Home Assistant, with the moment they happened."""

    events: deque[tuple[float, str, dict[str, Any]]] = field(default_factory=deque)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    lost: int = 0

    def put(self, name: str, data: dict[str, Any]) -> None:
        if len(self.events) >= _MOST_EVENTS:
            self.events.popleft()
            self.lost += 1
        self.events.append((time.monotonic(), name, {**data, "at": now()}))
        self.ready.set()


class Link:
    """Works from ``start`` to ``stop``."""

    def __init__(
        self,
        service: Service,
        admins: HomeAdmins | None = None,
        *,
        environ: Mapping[str, str] = os.environ,
        pace: Pace = Pace(),
        supervisor: str = "http://supervisor",
    ) -> None:
        self._service, self._admins, self._environ, self._pace = service, admins, environ, pace
        self._supervisor = supervisor
        self._client: Client | None = None
        self._entities: Entities | None = None
        self._failed: dict[str, PeerState] = {}
        self._problem = ""
        self._outbox = _Outbox()
        self._picture: Picture | None = None
        self._failures: dict[str, str] = {}
        self._told: deque[str] = deque(maxlen=_MOST_EVENTS)  # jobs
        self._capturing: dict[str, bool] = {}
        self._satellites: dict[str, str] = {}
        self._watching = False
        self._restarting = asyncio.Lock()
        self._look, self._join = asyncio.Event(), asyncio.Event()
        self._pictured: dict[str, asyncio.Event] = {"home": asyncio.Event(), "mqtt": asyncio.Event()}
        self._tasks: list[asyncio.Task[None]] = []
        service.link = self

    # --- its life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins."""
        halves = {"home": self._begin_home, "mqtt": self._begin_mqtt}
        self._tasks = [asyncio.create_task(self._guard(half, work), name=half) for half, work in halves.items()]

    async def stop(self) -> None:
        """Ends: entities become unavailable, notifications stay."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def restart(self) -> None:
        """Begins anew, with the settings as they are now."""
        async with self._restarting:
            await self.stop()
            self._client = self._entities = None
            self._failed.clear()
            self._picture = None
            self.start()
            if self._watching:
                self._tasks.append(asyncio.create_task(self._guard("picture", self._take_pictures), name="picture"))
                self._look.set()

    @property
    def state(self) -> LinkState:
        """For the status page."""
        return LinkState(
            home_assistant=self._state_of("home", self._client),
            mqtt=self._state_of("mqtt", self._entities),
            version=self._client.ha_version if self._client is not None else "",
            events_lost=self._outbox.lost,
            problem=self._problem,
        )

    @property
    def client(self) -> Client | None:
        """Home Assistant, while it is connected."""
        return self._client if self._client is not None and self._client.state == "connected" else None

    def _state_of(self, half: str, peer: Client | Entities | None) -> PeerState:
        if peer is None or peer.state == "closed":
            return self._failed.get(half, PeerState())
        states: dict[str, Literal["connecting", "connected", "refused"]] = {
            "connected": "connected",
            "refused": "refused",
        }
        error = peer.last_error if peer.state != "connected" else None
        message, hint = ("", "") if error is None else (error.message, error.hint)
        return PeerState(state=states.get(peer.state, "connecting"), error=message, hint=hint)

    async def _begin_home(self) -> None:
        settings, access = await self._service.ask(
            lambda project: (project.settings, read_access(project.settings, project.root, self._environ))
        )
        if access is not None:
            self._watch()
            await self._run_home(access, settings)

    async def _begin_mqtt(self) -> None:
        settings, broker = await self._service.ask(
            lambda project: (project.settings, read_broker(project.settings, project.root))
        )
        if broker is None and self._environ.get("SUPERVISOR_TOKEN"):
            broker = await self._ask_supervisor()
        if broker is not None:
            self._watch()
            await self._run_mqtt(broker, settings)

    def _watch(self) -> None:
        """What happens here is looked at once there is somebody to be told."""
        if not self._watching:
            self._watching = True
            self._service.listen(self._hear)
            self._look.set()
            self._tasks.append(asyncio.create_task(self._guard("picture", self._take_pictures), name="picture"))

    async def _guard(self, half: str, work: Callable[[], Awaitable[None]]) -> None:
        """Keeps what goes wrong in one half from everything else, says it, and begins that half again later."""
        while True:
            try:
                await work()
                self._failed.pop(half, None)
                return
            except MwwError as error:
                self._note_failure(half, error)
            except Exception as error:  # the border of a piece of work: the service lives on without it
                logger.exception("the link to Home Assistant broke (%s)", half)
                self._note_failure(half, ToldError(f"it broke: {type(error).__name__}"))
            await asyncio.sleep(_AGAIN_S)

    def _note_failure(self, half: str, error: MwwError) -> None:
        logger.warning("%s", error.message)
        refused = isinstance(error, HomeAssistantRefusedError)
        self._failed[half] = PeerState(state="refused" if refused else "failed", error=error.message, hint=error.hint)

    # --- what happens here --------------------------------------------------------------------------------------------

    def _hear(self, type: str, data: Any) -> None:
        if type == "capture":
            self._tell_home("mww_ha_capture", dict(data))
            if data["kind"] == "detection":
                self._join.set()
        if type == "job":
            if data["kind"] in FLASH_KINDS:
                self._hear_flash(data)
            if data["state"] == "running":
                return  # which it says with each step of its progress
        self._look.set()

    def _tell_home(self, name: str, data: dict[str, Any]) -> None:
        if self._client is not None:  # else only a broker is set up
            self._outbox.put(name, data)

    def _hear_flash(self, job: dict[str, Any]) -> None:
        order = job["order"]
        if order.get("dry_run") or job["state"] not in ("done", "failed") or job["id"] in self._told:
            return
        self._told.append(job["id"])
        device = str(order.get("device") or "")
        told = {"device": device, "model": str(order.get("model") or ""), "job": job["id"], "kind": job["kind"]}
        if job["state"] == "done":
            self._failures = {} if order.get("every") else {k: v for k, v in self._failures.items() if k != device}
            self._tell_home("mww_ha_flash_done", told)
        else:
            self._failures[device] = str(job["message"])
            self._tell_home("mww_ha_flash_failed", {**told, "message": str(job["message"])})

    async def _take_pictures(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pace.look_every_s):
                    await self._look.wait()
            self._look.clear()
            try:
                picture = await self._service.ask(self._take_picture)
                self._problem = ""
            except MwwError as error:
                self._problem = error.message
                await asyncio.sleep(self._pace.settle_s)
                continue
            before, self._picture = self._picture, picture
            if (
                before is not None
                and picture.models
                and picture.models[0]["id"] not in {m["id"] for m in before.models}
            ):
                model = picture.models[0]
                told = {"model": str(model["id"]), "phrase": str(model.get("phrase", "")), "summary": _summary(model)}
                self._tell_home("mww_ha_model_ready", told)
            self._wake()
            await asyncio.sleep(self._pace.settle_s)

    def _take_picture(self, project: Project) -> Picture:
        return take_picture(project, self._service.jobs.list("queued", "running"))

    def _wake(self) -> None:
        for event in self._pictured.values():
            event.set()

    # --- Home Assistant -----------------------------------------------------------------------------------------------

    async def _run_home(self, access: Access, settings: Settings) -> None:
        client = Client(
            access,
            patient=True,
            retry_first_s=self._pace.retry_first_s,
            retry_most_s=self._pace.retry_most_s,
            on_change=lambda _: self._wake(),
        )
        async with client:
            self._client = client
            if self._admins is not None:
                self._admins.client = client
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send_events(client))
                group.create_task(self._join_runs(client))
                group.create_task(self._watch_satellites(client))
                if settings.home_assistant.notifications:
                    group.create_task(self._keep_notices(client))

    async def _online(self, client: Client) -> None:
        """Returns once there is a connection; never after a refusal, which is final."""
        while client.state != "connected":
            try:
                await client.wait_connected(_AGAIN_S)
            except HomeAssistantRefusedError:
                await asyncio.Event().wait()
            except HomeAssistantError:
                await asyncio.sleep(self._pace.retry_first_s)

    async def _send_events(self, client: Client) -> None:
        outbox = self._outbox
        while True:
            await outbox.ready.wait()
            outbox.ready.clear()
            while outbox.events:
                await self._online(client)
                happened, name, data = outbox.events.popleft()
                try:
                    if time.monotonic() - happened > _FRESH_S:
                        outbox.lost += 1
                        continue
                    await client.fire_event(name, data)
                except HomeAssistantError as error:
                    outbox.lost += 1
                    logger.info("%s was not told: %s", name, error.message)

    async def _keep_notices(self, client: Client) -> None:
        shown: dict[str, Notice | None] = {}
        shown_at: dict[str, float] = {}
        connection, wait_s = -1, None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._pictured["home"].wait()
            self._pictured["home"].clear()
            wait_s = None
            await self._online(client)
            if connection != client.reconnects:  # it may have restarted, and forgotten what it showed
                connection, shown = client.reconnects, {}
            if self._picture is None:
                continue
            for id, wanted in describe_notices(self._picture, self._failures).items():
                if id in shown and shown[id] == wanted:
                    continue
                left_s = shown_at.get(id, float("-inf")) + self._pace.notice_every_s - time.monotonic()
                if wanted is not None and shown.get(id) is not None and left_s > 0:
                    wait_s = min(left_s, wait_s or left_s)
                    continue
                try:
                    await (client.dismiss(id) if wanted is None else client.notify(*wanted, id))
                except HomeAssistantError as error:
                    logger.info("notification %s: %s", id, error.message)
                    wait_s = self._pace.notice_every_s
                    continue
                shown[id], shown_at[id] = wanted, time.monotonic()

    async def _watch_satellites(self, client: Client) -> None:
        """A satellite that falls idle has just ended a run."""
        while True:
            await self._online(client)
            try:
                async for _, state in client.satellite_states():
                    if state == "idle":
                        self._join.set()
            except HomeAssistantError as error:
                logger.info("%s", error.message)
            await asyncio.sleep(self._pace.retry_most_s)

    async def _join_runs(self, client: Client) -> None:
        asked_at = float("-inf")
        self._join.set()
        while True:
            await self._join.wait()
            await asyncio.sleep(self._pace.join_after_s)
            self._join.clear()
            await self._online(client)
            try:
                if time.monotonic() - asked_at > _REFRESH_S:
                    await self._name_satellites(client)
                    asked_at = time.monotonic()
                runs = await client.pipeline_runs() if self._satellites else []
            except HomeAssistantError as error:
                logger.info("%s", error.message)
                continue
            ended = [
                (self._satellites[run.satellite_id], run.started_at, text_of_outcome(run))
                for run in runs
                if run.satellite_id in self._satellites and run.outcome != "running"
            ]
            for id, outcome in await self._service.ask(functools.partial(join_outcomes, runs=ended)):
                self._service.tell("outcome", {"id": id, "outcome": outcome})

    async def _name_satellites(self, client: Client) -> None:
        satellites = await client.satellites(hosts=True)
        devices = await self._service.ask(load_devices)
        self._satellites = name_satellites(satellites, devices)
        areas = {satellite.entity_id: satellite.area for satellite in satellites}
        self._service.rooms = {device: areas[id] for id, device in self._satellites.items() if areas[id]}

    # --- MQTT ---------------------------------------------------------------------------------------------------------

    async def _run_mqtt(self, broker: Broker, settings: Settings) -> None:
        entities = Entities(
            broker,
            on_capture=self._switch_capture,
            on_install=self._install,
            instance=settings.mqtt.instance,
            prefix=settings.mqtt.prefix,
            version=__version__,
            patient=True,
            retry_first_s=self._pace.retry_first_s,
            retry_most_s=self._pace.retry_most_s,
        )
        async with entities:
            self._entities = entities
            async with asyncio.TaskGroup() as group:
                group.create_task(self._show(entities))
                group.create_task(self._guard("devices", self._ask_devices))

    async def _ask_supervisor(self) -> Broker | None:
        from aiohttp import ClientSession

        async with ClientSession(trust_env=False) as session:
            token = self._environ.get("SUPERVISOR_TOKEN", "")
            return await find_broker(session, token, url=f"{self._supervisor}/services/mqtt")

    async def _show(self, entities: Entities) -> None:
        shown: set[str] = set()
        complete = False
        while True:
            await self._pictured["mqtt"].wait()
            self._pictured["mqtt"].clear()
            if self._picture is None:
                continue
            statuses = describe_satellites(self._picture, self._capturing)
            for status in statuses:
                await entities.show(status)
            names = {status.name for status in statuses}
            for name in shown - names:
                await entities.remove(name)
            shown = names
            if not complete:
                complete = True
                await entities.remove_others()

    async def _switch_capture(self, name: str, on: bool) -> None:
        async with await self._connect(name) as device:
            await device.switch(CAPTURE_SWITCH, on)
            self._capturing[name] = bool(await device.wait_for(CAPTURE_SWITCH, lambda value: value is on))
        self._wake()

    async def _install(self, name: str) -> None:
        def order(project: Project) -> Job | None:
            picture = self._take_picture(project)
            new = find_new_model(picture, find_device(project, name).name)
            if new is None or name in picture.installing:  # somebody pressed twice
                return None
            return self._service.jobs.add(FlashOrder(device=name, model=str(new["id"])), asked_by="Home Assistant")

        await self._service.ask(order)
        self._look.set()

    async def _ask_devices(self) -> None:
        """Whether they capture: the switch turns itself off, and can be turned elsewhere."""
        while True:
            devices = await self._service.ask(load_devices)
            for name in [name for name, device in devices.items() if device.capture_url]:
                before = self._capturing.get(name)
                try:
                    async with await self._connect(name) as device:
                        value = (await device.values()).get(CAPTURE_SWITCH)
                except (DeviceError, InputError) as error:
                    logger.info("%s", error.message)
                    continue
                # Where the switch was turned meanwhile, what was read may be of before.
                if self._capturing.get(name) is before is not (value is True):
                    self._capturing[name] = value is True
                    self._wake()
            await asyncio.sleep(self._pace.devices_every_s)

    async def _connect(self, name: str) -> Connection:
        """A connection to the device, not yet opened. Raises InputError, DeviceError."""
        return await connect_satellite(self._service, name, timeout_s=self._pace.device_timeout_s)


class ToldError(MwwError):
    """What broke, without what it was about: that may hold a secret."""
