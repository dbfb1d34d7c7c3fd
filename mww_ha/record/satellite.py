"""Satellites as microphones: by way of Home Assistant without flashing, or with our component over the native API.

The first takes the *assist* path (what speech-to-text hears), the second the *wake* path: the channel and gain of the
wake-word model itself. Where both are possible the second is better.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Self

from mww_ha import audio
from mww_ha.devices.connection import Connection, Value
from mww_ha.errors import DeviceError, DeviceRefusedError, InputError
from mww_ha.ha.audio import Prompt, record_takes
from mww_ha.ha.client import Client, Satellite
from mww_ha.record.sessions import ASSIST, WAKE, Ask, Heard, Wish
from mww_ha.schema import Capture, CaptureKind
from mww_ha.store import Project

ACTION = "mww_capture"
SWITCH = "capture_wake_audio"
STATE = "capture_state"
ARRIVAL_S = 20.0
"""How long a take may be on its way: a satellite on bad Wi-Fi tries again after 1, 2 and 4 s."""

_POLL_S = 0.1
_SAME_MOMENT_S = 1.0  # between our call and the moment that the capture says it began
_READY_S = 8.0


@dataclass(slots=True, kw_only=True)
class AssistMicrophone:
    """A satellite that Home Assistant asks and listens to."""

    client: Client
    satellite: Satellite
    question: str
    again: str
    device: str = ""
    audio_path: str = field(default=ASSIST, init=False)
    _asked: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.device = self.device or self.satellite.name

    async def take(self, wish: Wish, say_now: Callable[[], None]) -> Heard:
        """See Microphone. The satellite says when to speak; it does not say the wake word, which could wake others."""
        question = self.again if self._asked and not wish.first else self.question
        self._asked = True
        say_now()
        prompt = Prompt(text=wish.phrase, question=question, place=wish.place)
        async for take in record_takes(self.client, self.satellite, [prompt]):
            return Heard(
                samples=take.samples,
                at=take.started_at,
                transcript=take.sentence if take.heard else "",
                holes=take.overflow or take.interrupted,
            )
        raise AssertionError("one prompt gives one take")


class WakeMicrophone:
    """A satellite with our component: an async context manager.

    Captures have to be on while it records: where they are off they are turned on, visibly, and off again at the end.
    Takes arrive as captures of kind prompt in the catalogue; whoever takes uploads in puts them there.
    """

    audio_path = WAKE

    def __init__(self, ask: Ask, connection: Connection, device: str, *, arrival_s: float = ARRIVAL_S) -> None:
        self.device = device
        self._ask, self._connection, self._arrival_s = ask, connection, arrival_s
        self._turned_on = False
        self._seen: set[str] = set()

    async def __aenter__(self) -> Self:
        """Raises InputError for a satellite without the component, DeviceError when it cannot capture now."""
        actions = await self._connection.actions()
        values = await self._connection.values()
        if ACTION not in actions or SWITCH not in values:
            raise InputError(
                f"{self.device} has no {ACTION}: its firmware cannot send takes",
                hint="set capture_url in devices.yaml and flash it, or record by way of Home Assistant",
            )
        if values[SWITCH] is not True:
            await self._connection.switch(SWITCH, True)
            self._turned_on = True
        try:
            state = await self._connection.wait_for(STATE, lambda value: value not in (None, "off"), _READY_S)
            self._check(state)
        except BaseException:
            with contextlib.suppress(DeviceError):
                await self._turn_off()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._turn_off()
        except DeviceError:
            if error is None:
                raise  # otherwise why it ended says more; captures end by themselves after their time

    async def _turn_off(self) -> None:
        if self._turned_on:
            self._turned_on = False
            await self._connection.switch(SWITCH, False)
            await self._connection.wait_for(SWITCH, lambda value: value is not True, _READY_S)

    def _check(self, state: Value) -> None:
        if state == "muted":
            raise DeviceError(f"{self.device} is muted", hint="turn its microphone on")
        if state == "no memory":
            raise DeviceError(f"{self.device} has no memory for captures", hint="it needs PSRAM; restart it")
        if state == "off":
            raise DeviceError(f"captures of {self.device} were turned off", hint="somebody, or its time, ended it")
        if state == "token refused":
            raise DeviceRefusedError(
                f"{self.device} sends a token that is not known here", hint="flash it from this project again"
            )

    async def take(self, wish: Wish, say_now: Callable[[], None]) -> Heard:
        """See Microphone. Raises DeviceError when the take does not arrive, with what the satellite says."""
        begun = datetime.now(UTC)
        await self._connection.call(
            ACTION, kind=CaptureKind.PROMPT.value, wake_word=wish.phrase, ref=wish.session, seconds=wish.seconds
        )
        say_now()
        until = time.monotonic() + wish.seconds + self._arrival_s
        while True:
            found = await self._ask(
                partial(_find, device=self.device, session=wish.session, begun=begun, seen=self._seen)
            )
            if found is not None:
                capture, samples = found
                self._seen.add(capture.id)
                at = datetime.fromisoformat(capture.captured_at)
                return Heard(samples=samples, at=at, capture=capture.id)
            values = await self._connection.values()
            self._check(values.get(STATE))
            if time.monotonic() > until:
                raise DeviceError(
                    f"the take of {self.device} did not arrive after {self._arrival_s:g} s; "
                    f"the satellite says: {values.get('last_upload') or values.get(STATE)}",
                    hint="does its capture_url name this machine, and does a firewall let it in?",
                )
            await asyncio.sleep(_POLL_S)


def _find(
    project: Project, *, device: str, session: str, begun: datetime, seen: set[str]
) -> tuple[Capture, audio.Samples] | None:
    """The prompted take that was triggered at ``begun``: a late one of the call before it is not taken for it."""
    since = (begun - timedelta(seconds=_SAME_MOMENT_S)).isoformat(timespec="milliseconds")
    for capture in project.catalogue.captures(kinds=[CaptureKind.PROMPT], device=device, since=since):
        if capture.session == session and capture.path and capture.id not in seen:
            return capture, audio.read_samples(project.root / capture.path)
    return None
