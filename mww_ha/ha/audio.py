"""A satellite's microphone by way of Home Assistant: what it sends while Assist listens, and prompted takes.

Nothing has to be flashed for this. The audio took the *assist* path of the device (``voice_assistant``'s microphone
source), whose gain and channel may differ from what the wake-word model hears; takes carry that fact.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mww_ha.errors import HomeAssistantAnswerError, HomeAssistantError, HomeAssistantUnreachableError, InputError
from mww_ha.ha.client import Client, Satellite, outcome_near
from mww_ha.ha.connection import Stream
from mww_ha.schema import SAMPLE_RATE_HZ

Samples = NDArray[np.int16]

MOST_CAPTURE_S = 60.0  # Home Assistant refuses more
AUDIO_PATH = "assist"
_TAIL_S = 2.0  # how long the end of a capture may stay behind the answer
_POLL_S = 0.5


class Capture:
    """Audio of a satellite as it comes: an async iterator of int16 pieces, 16 kHz, mono.

    It ends with the pipeline's run, after ``timeout_s``, or when somebody else captures from the device. ``overflow``
    is true when pieces were lost on the way: then the samples have holes. Raises HomeAssistantAnswerError for audio
    in another form, HomeAssistantUnreachableError when the connection ends.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._lost = False
        self.ended = False

    @property
    def overflow(self) -> bool:
        """Whether pieces were lost, in Home Assistant or here."""
        return self._lost or self._stream.lost > 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Samples:
        while not self.ended:
            event = await anext(self._stream)
            kind = event.get("type") if isinstance(event, dict) else None
            if kind == "audio":
                return _decode(event)
            if kind == "end":
                self.ended = True
                self._lost = self._lost or bool(event.get("overflow"))
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stream.close()


async def capture_audio(client: Client, device_id: str, timeout_s: float) -> Capture:
    """Starts to listen in on a device; audio comes only while a pipeline runs. Home Assistant's logbook notes it.

    ``timeout_s`` is cut to the 60 s that Home Assistant allows. A capture that somebody else holds ends.
    """
    limit_s = min(max(timeout_s, 0.1), MOST_CAPTURE_S)
    stream = await client.subscribe(
        "assist_pipeline/device/capture", device_id=device_id, timeout=limit_s, lasting=False
    )
    return Capture(stream)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a person is asked for."""

    text: str  # what the person shall say
    question: str = ""  # what the satellite says before it listens
    media: str = ""  # played instead of a question: an address or media-source id
    place: str = ""  # "the door", "the sofa": goes into the take


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    """What came back, untrimmed and unchecked."""

    prompt: Prompt
    samples: Samples  # int16, 16 kHz; may be empty
    heard: bool  # speech-to-text read something
    sentence: str  # what it read: a hint, not a verdict
    overflow: bool  # samples are missing inside
    interrupted: bool  # put together from several captures: there is a gap
    started_at: datetime  # UTC, when the microphone was asked for
    entity_id: str
    audio_path: str = AUDIO_PATH


async def record_takes(
    client: Client,
    satellite: Satellite,
    prompts: Iterable[Prompt],
    *,
    take_s: float = 30.0,
    pause_s: float = 1.0,
    busy_s: float = 60.0,
    come_back_s: float = 180.0,
    attempts: int = 2,
) -> AsyncIterator[Take]:
    """One take for each prompt: the satellite asks, and its microphone is kept until Home Assistant has heard enough.

    ``take_s`` bounds prompt and answer together, ``busy_s`` how long a satellite may be in use by others,
    ``come_back_s`` how long Home Assistant may be away; a take that a restart cut off is asked for again, ``attempts``
    times in all. Raises InputError for a satellite that cannot do this, HomeAssistantError otherwise.
    """
    if not satellite.device_id or not satellite.can_ask:
        raise InputError(
            f"{satellite.name} ({satellite.entity_id}) cannot be made to listen",
            hint="use a satellite whose firmware can start conversations, or record with the browser or files",
        )
    if not 0 < take_s <= MOST_CAPTURE_S:
        raise InputError(f"a take of {take_s:g} s", hint=f"at most {MOST_CAPTURE_S:g} s are possible")
    first = True
    for prompt in prompts:
        if not first:
            await asyncio.sleep(pause_s)
        first = False
        left = attempts
        while True:
            left -= 1
            try:
                await _wait_idle(client, satellite, busy_s)
                take = await _record_one(client, satellite, prompt, take_s)
                break
            except HomeAssistantUnreachableError:
                if left <= 0:
                    raise
                await client.wait_connected(come_back_s)
            except HomeAssistantAnswerError as error:
                # Somebody may have woken it just before; Home Assistant says so without a code of its own.
                if left <= 0 or error.code != "home_assistant_error":
                    raise
        yield take


async def _wait_idle(client: Client, satellite: Satellite, limit_s: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit_s
    while True:
        state = await client.state_of(satellite.entity_id)
        if state == "idle":
            return
        if loop.time() >= deadline:
            raise HomeAssistantAnswerError(
                f"{satellite.name} is {state or 'gone'} since {limit_s:g} s",
                hint="look at it in Home Assistant: is it switched on, is it muted, does it answer?",
                code="not_idle",
            )
        await asyncio.sleep(min(_POLL_S, max(deadline - loop.time(), 0.01)))


class _Tape:
    """Collects captures one after another, as long as it is wanted."""

    def __init__(self, client: Client, device_id: str) -> None:
        self._client, self._device_id = client, device_id
        self._pieces: list[Samples] = []
        self.overflow = False
        self._with_audio = 0
        self.started = asyncio.Event()
        self.stop = False

    @property
    def samples(self) -> Samples:
        return np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.int16)

    @property
    def interrupted(self) -> bool:
        return self._with_audio > 1

    async def run(self, limit_s: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        # A run that was still going when we began ends our capture too: begin again until the question is answered.
        while not self.stop and deadline - loop.time() > 0.1:
            async with await capture_audio(self._client, self._device_id, deadline - loop.time()) as capture:
                self.started.set()
                any_audio = False
                try:
                    async for piece in capture:
                        self._with_audio += not any_audio
                        any_audio = True
                        self._pieces.append(piece)
                finally:
                    self.overflow = self.overflow or capture.overflow
            if not self.stop:
                await asyncio.sleep(0.02)


async def _record_one(client: Client, satellite: Satellite, prompt: Prompt, take_s: float) -> Take:
    tape = _Tape(client, satellite.device_id)
    started_at = datetime.now(UTC)
    taping = asyncio.create_task(tape.run(take_s))
    try:
        begun = asyncio.create_task(tape.started.wait())
        await asyncio.wait({taping, begun}, return_when=asyncio.FIRST_COMPLETED)
        begun.cancel()
        if taping.done():
            taping.result()  # it could not begin
        answer = await client.ask_question(
            satellite.entity_id,
            "" if prompt.media else prompt.question or prompt.text,
            media=prompt.media,
            preannounce=False,
            timeout_s=take_s,
        )
        tape.stop = True
        await asyncio.wait({taping}, timeout=_TAIL_S)
        if taping.done():
            taping.result()
    finally:
        tape.stop = True
        taping.cancel()
        with contextlib.suppress(asyncio.CancelledError, HomeAssistantError):
            await taping
    if not answer.heard and not tape.samples.size:
        await _raise_what_failed(client, satellite, started_at, take_s)
    return Take(
        prompt=prompt,
        samples=tape.samples,
        heard=answer.heard,
        sentence=answer.sentence,
        overflow=tape.overflow,
        interrupted=tape.interrupted,
        started_at=started_at,
        entity_id=satellite.entity_id,
    )


async def _raise_what_failed(client: Client, satellite: Satellite, at: datetime, within_s: float) -> None:
    """No audio at all may mean that the pipeline could not even begin; then every further take is in vain."""
    run = outcome_near(await client.pipeline_runs(), satellite.entity_id, at, within_s=within_s)
    if run is not None and run.outcome == "failed":
        raise HomeAssistantAnswerError(
            f"{satellite.name} listened, but its Assist pipeline failed: {run.error_code}",
            hint="set up speech-to-text in Home Assistant: Settings, Voice assistants",
            code=run.error_code,
        )


def _decode(event: dict[str, Any]) -> Samples:
    form = (event.get("rate"), event.get("width"), event.get("channels"))
    if form != (SAMPLE_RATE_HZ, 2, 1):
        raise HomeAssistantAnswerError(
            "Home Assistant sent audio with rate, width and channels {}, {}, {}".format(*form),
            hint=f"only {SAMPLE_RATE_HZ} Hz, 2 bytes, 1 channel can be used",
            code="audio_form",
        )
    try:
        raw = base64.b64decode(event.get("audio", ""), validate=True)
        if len(raw) % 2:
            raise ValueError
        return np.frombuffer(raw, "<i2").astype(np.int16)
    except (binascii.Error, ValueError, TypeError):
        raise HomeAssistantAnswerError("Home Assistant sent audio that cannot be decoded", code="audio_form") from None
