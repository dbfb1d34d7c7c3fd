"""Guided sessions on satellites as the service runs them: one at a time per device, seen by every page, ended cleanly.

A session is a task of the event loop. What it is at stands in a ``RecordingView`` that is told whole with every change
(event ``recording``), so a page that comes late, or again, needs nothing else. When the service ends, so does the
session: the satellite's captures are turned off, and what was recorded stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import secrets
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from mww_ha.devices.known import find_device, load_devices
from mww_ha.errors import HomeAssistantError, InputError, MwwError
from mww_ha.ha.client import Satellite
from mww_ha.record.people import find_person
from mww_ha.record.sessions import Told, Wish, make_plan
from mww_ha.record.takes import Reason
from mww_ha.schema import Device, Verdict
from mww_ha.store import Project, now
from mww_ha.web import recording
from mww_ha.web.jobs import JobStateError
from mww_ha.web.link import name_satellites, read_access
from mww_ha.web.service import Service
from mww_ha.web.wire import plain

BREATH_S = 1.2
"""Between two takes: time to see what became of the last one. Twice that when it was refused."""

_STOP_S = 1.0  # what is being written is written to its end
_END_S = 12.0  # a satellite that does not answer holds up the service's end no longer
_ENDED_KEPT = 20
_MINE = 500  # takes of which it is known who recorded them

logger = logging.getLogger(__name__)

Obstacle = Literal["", "no_capture", "cannot_ask", "unavailable"]
RecordingState = Literal["opening", "moving", "listening", "checking", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToldTake:
    """One take of a session: kept or refused, and why."""

    number: int  # which one it was to be, from 1; a refused one is asked for again
    place: str
    good: bool
    reasons: tuple[Reason, ...]
    hints: tuple[str, ...]
    clip: str  # id, where it is a clip already
    capture: str  # id, where it came as a capture
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingView:
    """A guided session on a satellite, as it is at the moment."""

    id: str
    device: str  # as it was asked for
    name: str  # of the device, for people
    via: recording.Via
    person: str
    sitting: str  # empty: the microphone is not open yet
    state: RecordingState
    phrase: str
    place: str
    number: int  # of the take that is asked for
    total: int
    left_s: float  # until it goes on by itself (moving), or until the microphone is off (listening); 0: not known
    take_s: float
    takes: list[ToldTake]
    started_at: str
    ended_at: str
    stopping: bool
    finished: bool  # all takes are there
    why: str  # why it ended early
    error: str
    hint: str
    notes: list[str]


@dataclass(slots=True, kw_only=True)
class _Running:
    """A session with what only this module sees."""

    id: str
    key: str
    device: str
    name: str
    via: recording.Via
    person: str
    sitting: str
    phrase: str
    take_s: float
    walk_s: float
    total: int
    state: RecordingState = "opening"
    place: str = ""
    number: int = 0
    until: float = 0.0  # by the loop's clock
    takes: list[ToldTake] = field(default_factory=list)
    started_at: str = field(default_factory=now)
    ended_at: str = ""
    stopping: bool = False
    finished: bool = False
    why: str = ""
    error: str = ""
    hint: str = ""
    notes: list[str] = field(default_factory=list)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MicrophoneView:
    """A satellite that can be asked for takes, or why it cannot."""

    via: recording.Via
    device: str  # what a recording is asked for with: our name, or an entity of Home Assistant
    name: str
    area: str
    usable: bool
    problem: Obstacle  # why not


class Mine:
    """Who recorded the latest takes, so that people can take back their own. Forgotten with the service."""

    def __init__(self) -> None:
        self._by: OrderedDict[str, str] = OrderedDict()

    def note(self, take: str, who: str) -> None:
        """``who`` recorded it."""
        self._by[take] = who
        while len(self._by) > _MINE:
            self._by.popitem(last=False)

    def is_by(self, take: str, who: str) -> bool:
        """Whether ``who`` recorded it."""
        return self._by.get(take) == who


class Recorder:
    """The sessions of one service. From the event loop only."""

    def __init__(
        self, service: Service, *, environ: Mapping[str, str] = os.environ, take_uploads: bool = False
    ) -> None:
        """``take_uploads``: the service has no site for devices, so sessions take in what satellites send."""
        self._service, self._environ, self._take_uploads = service, environ, take_uploads
        self.mine = Mine()
        self._running: dict[str, _Running] = {}  # by id, oldest first; those that have ended too
        service.recorder = self

    # --- its life -----------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """Ends all sessions; satellites stop capturing."""
        tasks = [one.task for one in self._running.values() if one.task is not None and not one.task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_END_S)

    def all(self) -> list[RecordingView]:
        """What records, and what has ended lately; newest first."""
        return [self._view(one) for one in reversed(self._running.values())]

    def get(self, id: str) -> RecordingView:
        """One session. Raises InputError."""
        return self._view(self._find(id))

    async def start(
        self,
        *,
        device: str,
        via: recording.Via,
        person: str,
        takes: int,
        places: Sequence[str],
        sitting: str = "",
        walk_s: float = 20.0,
    ) -> RecordingView:
        """Begins a session; it goes on when nobody looks. ``walk_s``: time to get to a place.

        Raises InputError for what is known to be impossible, JobStateError when the device records already.
        """

        def check(project: Project) -> tuple[str, str, float, dict[str, Device]]:
            known = find_person(project, person)
            make_plan(takes, places)
            if via == "satellite":
                find_device(project, device)
            if sitting and {session.person for session in project.catalogue.sessions(sitting=sitting)} != {known.name}:
                raise InputError(f"{known.name} has no sitting {sitting}", hint="begin a new one")
            settings = project.settings
            return known.name, settings.phrase, settings.record.take_s, load_devices(project)

        name, phrase, take_s, devices = await self._service.ask(check)
        # One key for a satellite, whichever way it is asked.
        key, called = device, device
        if device in devices:
            called = devices[device].friendly_name or device
        elif satellites := await self._satellites():
            key = name_satellites(satellites, devices).get(device, device)
            called = next((each.name for each in satellites if each.entity_id == device), device)
        # Nothing is waited for from here on, or two could begin.
        busy = next((one for one in self._running.values() if one.key == key and not one.ended_at), None)
        if busy is not None:
            raise JobStateError(f"{busy.name} records {busy.person} already", hint="wait for its end, or stop it")
        one = _Running(
            id=secrets.token_hex(6),
            key=key,
            device=device,
            name=called,
            via=via,
            person=name,
            sitting=sitting,
            phrase=phrase,
            take_s=take_s,
            walk_s=walk_s,
            total=takes,
        )
        ended = [id for id, other in self._running.items() if other.ended_at]
        for id in ended[: max(0, len(ended) - _ENDED_KEPT)]:
            del self._running[id]
        self._running[one.id] = one
        one.task = asyncio.create_task(self._run(one, takes, tuple(places)), name=f"recording {one.id}")
        self._tell(one)
        return self._view(one)

    async def end(self, id: str) -> RecordingView:
        """Ends a session soon: what is being written is, what is being said is not kept. Raises InputError."""
        one = self._find(id)
        if one.task is not None and not one.ended_at and not one.stopping:
            one.stopping = True
            one.go_on.set()
            self._tell(one)
            asyncio.get_running_loop().call_later(_STOP_S, one.task.cancel)
        return self._view(one)

    def go_on(self, id: str) -> RecordingView:
        """Somebody has got to the place: do not wait any longer. Raises InputError."""
        one = self._find(id)
        one.go_on.set()
        return self._view(one)

    # --- microphones --------------------------------------------------------------------------------------------------

    async def list_microphones(self) -> list[MicrophoneView]:
        """Satellites of devices.yaml and of Home Assistant, with what keeps each from recording."""
        devices = await self._service.ask(load_devices)
        found = [
            MicrophoneView(
                via="satellite",
                device=name,
                name=device.friendly_name or name,
                area=self._service.rooms.get(name, ""),
                usable=bool(device.capture_url),
                problem="" if device.capture_url else "no_capture",
            )
            for name, device in devices.items()
        ]
        for satellite in await self._satellites():
            problem: Obstacle = ""
            if not satellite.device_id or not satellite.can_ask:
                problem = "cannot_ask"
            elif not satellite.available:
                problem = "unavailable"
            found.append(
                MicrophoneView(
                    via="home-assistant",
                    device=satellite.entity_id,
                    name=satellite.name,
                    area=satellite.area,
                    usable=not problem,
                    problem=problem,
                )
            )
        return found

    async def _satellites(self) -> list[Satellite]:
        client = self._service.link.client if self._service.link is not None else None
        if client is None:
            return []
        try:
            return await client.satellites()
        except HomeAssistantError as error:  # what cannot be asked now is not listed now
            logger.info("%s", error.message)
            return []

    # --- one session --------------------------------------------------------------------------------------------------

    async def _run(self, one: _Running, takes: int, places: Sequence[str]) -> None:
        access = None

        async def ready(wish: Wish) -> None:
            wait_s = one.walk_s if wish.first else BREATH_S * (1 if not one.takes or one.takes[-1].good else 2)
            one.go_on.clear()
            if one.stopping:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await one.go_on.wait()

        try:
            await self._service.run(_warm_up, one.via)
            if one.via == "home-assistant":
                access = await self._service.ask(
                    lambda project: read_access(project.settings, project.root, self._environ)
                )
            outcome = await recording.record(
                self._service.ask,
                device=one.device,
                via=one.via,
                person=one.person,
                takes=takes,
                places=places,
                sitting=one.sitting,
                access=access,
                take_uploads=self._take_uploads,
                tell=partial(self._hear, one),
                stop=lambda: one.stopping,
                ready=ready,
            )
            one.finished = outcome.finished
            one.why, one.notes = outcome.why, list(outcome.notes)
        except MwwError as error:
            one.error, one.hint = error.message, error.hint
        except asyncio.CancelledError:
            one.why = "stopped" if one.stopping else "the service ended"
        except Exception as error:  # the border of a piece of work: the service lives on without it
            logger.exception("a recording session broke")
            one.error = f"it broke: {type(error).__name__}"
        finally:
            one.state, one.until, one.ended_at, one.stopping = "ended", 0.0, now(), False
            self._tell(one)

    def _hear(self, one: _Running, told: Told) -> None:
        loop = asyncio.get_running_loop()
        one.sitting = told.sitting
        if told.kind in ("place", "now"):
            one.place, one.number, one.total = told.place, told.number, told.total
        if told.kind == "place":
            one.state, one.until = "moving", loop.time() + one.walk_s
        if told.kind == "now":
            one.state = "listening"
            # How long Home Assistant listens is its own business.
            one.until = loop.time() + one.take_s if one.via == "satellite" else 0.0
            if one.via == "satellite":
                loop.call_later(one.take_s, self._check, one, len(one.takes))
        elif told.kind == "note":
            one.notes.append(told.text)
        elif told.kind in ("taken", "refused"):
            one.state, one.until = "checking", 0.0
            take = ToldTake(
                number=told.number,
                place=told.place,
                good=told.kind == "taken",
                reasons=told.reasons,
                hints=told.hints,
                clip=told.clip,
                capture=told.capture,
                at=now(),
            )
            one.takes.append(take)
            if told.capture:
                verdict = Verdict.WAKE if take.good else Verdict.DISCARD
                self._service.tell("judged", {"ids": [told.capture], "verdict": verdict, "by": recording.BY})
            if take.good:
                self._service.tell("people", {"person": one.person})
        self._tell(one)

    def _check(self, one: _Running, takes: int) -> None:
        """The microphone is off; the sound is on its way."""
        if one.state == "listening" and len(one.takes) == takes:
            one.state, one.until = "checking", 0.0
            self._tell(one)

    def _find(self, id: str) -> _Running:
        if id not in self._running:
            raise InputError(f"no recording {id}", hint="the service may have been started anew; begin again")
        return self._running[id]

    def _tell(self, one: _Running) -> None:
        self._service.tell("recording", plain(self._view(one)))

    def _view(self, one: _Running) -> RecordingView:
        left_s = max(0.0, one.until - asyncio.get_running_loop().time()) if one.until else 0.0
        return RecordingView(
            id=one.id,
            device=one.device,
            name=one.name,
            via=one.via,
            person=one.person,
            sitting=one.sitting,
            state=one.state,
            phrase=one.phrase,
            place=one.place,
            number=one.number,
            total=one.total,
            left_s=round(left_s, 2),
            take_s=one.take_s,
            takes=list(one.takes),
            started_at=one.started_at,
            ended_at=one.ended_at,
            stopping=one.stopping,
            finished=one.finished,
            why=one.why,
            error=one.error,
            hint=one.hint,
            notes=list(one.notes),
        )


def _warm_up(via: recording.Via) -> None:
    """Imports what takes its time, in a thread."""
    importlib.import_module("mww_ha.record.satellite")
    importlib.import_module("aioesphomeapi" if via == "satellite" else "mww_ha.ha.client")
    with contextlib.suppress(ImportError):  # only where speech-to-text is set
        importlib.import_module("wyoming.client")
