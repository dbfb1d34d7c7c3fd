"""What the page API makes of sound that a person tries out: a file, or a microphone while it is heard.

The device-exact detector hears it; nothing of it is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from aiohttp import WSCloseCode, WSMsgType, web

from mww_ha import audio, detector, listen
from mww_ha.detector import Detection
from mww_ha.errors import AudioFileError, InputError, ManifestError, ModelFileError, MwwError
from mww_ha.schema import SAMPLE_RATE_HZ
from mww_ha.store import Project
from mww_ha.web.access import RefusedError
from mww_ha.web.openapi import Call, NotFoundError, Problem, Route
from mww_ha.web.orders import ModelId
from mww_ha.web.service import Service
from mww_ha.web.wire import Number, plain, read

Cutoff = Annotated[int, Number(least=1, most=255)]
CutoffOrOwn = Annotated[int, Number(least=0, most=255)]
Rate = Annotated[int, Number(least=8_000, most=192_000)]
LevelName = Literal["slightly", "moderately", "very"]

LARGEST_FILE = 64 << 20
LONGEST_FILE_S = 600.0
"""Ten minutes are 20,000 scores; for more there is ``mww-ha listen``."""

MOST_LISTENERS = 4
"""Microphones at once: each costs a few hundredths of a core."""

LONGEST_LIVE_S = 3600.0
SILENT_S = 30.0
"""A page that sends nothing for that long has gone, or its microphone has."""

_LARGEST_MESSAGE = 64 << 10
_HEARTBEAT_S = 20.0
_WRITE_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenLevel:
    """A sensitivity of a model by name, and its cutoff of 255."""

    name: LevelName
    cutoff: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenModel:
    """A model that can listen. ``problem``: why this one cannot."""

    id: str
    phrase: str
    cutoff: int  # its manifest's, of 255
    window: int
    levels: list[ListenLevel]  # none, or from slightly to very sensitive
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HeardView:
    """What a model made of a sound: scores (0 to 255), each ``step_s`` after the one before; times from its start."""

    model: str
    duration_s: float
    peak: float  # highest mean of a window, 0 to 1
    peak_s: float
    cutoff: float  # 0 to 1: what such a mean must exceed
    window: int
    first_s: float  # when the sound of the first score ends
    step_s: float
    scores: list[int]
    detections: list[Detection]


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveView:
    """What a live sound brought: as ``HeardView``, since the message before."""

    heard_s: float
    cutoff: float
    window: int
    first_s: float
    step_s: float
    scores: list[int]
    detections: list[Detection]


# --- models ----------------------------------------------------------------------------------------------------------


async def get_listen_models(call: Call) -> list[ListenModel]:
    """The models that can listen, newest first, with their levels."""
    return await call.service.ask(list_models)


def list_models(project: Project) -> list[ListenModel]:
    """What each model of the project needs to be told to listen."""
    from mww_ha.deploy.model import read_model

    found: list[ListenModel] = []
    for entry in project.catalogue.models():
        id, phrase = str(entry["id"]), str(entry.get("phrase", ""))
        try:
            model = read_model(project.models_dir / f"{id}.json")
        except (ManifestError, ModelFileError) as error:
            found.append(ListenModel(id=id, phrase=phrase, cutoff=0, window=0, levels=[], problem=error.message))
            continue
        levels = [
            ListenLevel(name=level["name"], cutoff=detector.cutoff_of_probability(level["probability_cutoff"]))
            for level in model.levels
        ]
        manifest = model.manifest
        found.append(
            ListenModel(
                id=id, phrase=phrase, cutoff=manifest.cutoff, window=manifest.sliding_window, levels=levels, problem=""
            )
        )
    return found


def _manifest_path(project: Project, model: str) -> Path:
    if all(entry["id"] != model for entry in project.catalogue.models()):
        raise NotFoundError(f"no model is called {model}", hint="it may have been deleted; load the page again")
    return project.models_dir / f"{model}.json"


def _probability(cutoff: int) -> float | None:
    return detector.probability_of_cutoff(cutoff) if cutoff else None


# --- a file ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenQuery:
    """Which model listens, with which cutoff of 255 (0: its own)."""

    model: ModelId
    cutoff: CutoffOrOwn = 0


async def listen_to_file(call: Call, query: ListenQuery) -> HeardView:
    """What a model makes of a sound file, as ``mww-ha listen`` says it, with every score.

    Any format that libsndfile reads, up to 10 minutes. Nothing of it is kept.
    """
    service = call.service
    manifest = await service.ask(lambda project: _manifest_path(project, query.model))
    folder = await service.run(lambda: tempfile.TemporaryDirectory(prefix="mww-ha-listen-"))
    try:
        path = Path(folder.name, "tried")
        await _write(service, call, path)
        async with service.hearing:  # one file at a time: it takes all of a core
            return await service.run(_hear_file, path, manifest, query)
    finally:
        await service.run(folder.cleanup)


async def _write(service: Service, call: Call, path: Path) -> None:
    def add(content: bytes) -> None:
        with path.open("ab") as file:
            file.write(content)

    held = bytearray()
    async for piece in call.pieces():
        held += piece
        if len(held) >= _WRITE_AT_ONCE:
            await service.run(add, bytes(held))
            held.clear()
    await service.run(add, bytes(held))


def _hear_file(path: Path, manifest: Path, query: ListenQuery) -> HeardView:
    if not path.stat().st_size:
        raise InputError("the body is empty", hint="send a sound file as it is, not a form")
    try:
        blocks = _bounded(audio.read_blocks(path))
        heard, trace = listen.trace_blocks(blocks, manifest, cutoff=_probability(query.cutoff))
    except AudioFileError as error:  # the name of our copy of it says nothing to anybody
        raise AudioFileError(error.message.replace(str(path), "the file"), hint=error.hint) from None
    return HeardView(
        model=query.model,
        duration_s=heard.duration_s,
        peak=heard.peak,
        peak_s=heard.peak_s,
        cutoff=trace.cutoff / 255,
        window=trace.window,
        first_s=trace.first_s,
        step_s=trace.step_s,
        scores=list(trace.scores),
        detections=list(heard.detections),
    )


def _bounded(blocks: Iterable[audio.Samples]) -> Iterator[audio.Samples]:
    total = 0
    for block in blocks:
        total += block.size
        if total > LONGEST_FILE_S * SAMPLE_RATE_HZ:
            raise AudioFileError(
                f"the file is longer than {LONGEST_FILE_S / 60:.0f} minutes", hint="mww-ha listen takes any length"
            )
        yield block


# --- a microphone ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveQuery:
    """Which model listens, with which cutoff of 255 (0: its own), and the sample rate of what is sent."""

    model: ModelId
    cutoff: CutoffOrOwn = 0
    rate: Rate = SAMPLE_RATE_HZ


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOrder:
    """Another cutoff, of 255, from now on."""

    cutoff: Cutoff


class _Ear:
    """One microphone's listener. All of it blocks."""

    def __init__(self, manifest: Path, cutoff: int, rate: int) -> None:
        self._listener = listen.Listener(detector.load_manifest(manifest), cutoff=_probability(cutoff))
        self._listener.start(listen.quiet_room(listen.LEAD_S))  # as a device that has been running
        self._resample: Any = None
        if rate != SAMPLE_RATE_HZ:
            import soxr

            stream = soxr.ResampleStream(rate, SAMPLE_RATE_HZ, 1, dtype="int16", quality="HQ")
            self._resample = stream.resample_chunk

    def hear(self, content: bytes) -> LiveView:
        """Raises InputError."""
        if len(content) % 2:
            raise InputError(f"{len(content)} bytes are no 16-bit samples", hint="send whole samples, little-endian")
        samples = np.frombuffer(content, dtype="<i2")
        if self._resample is not None:
            samples = self._resample(samples)
        first_s = self._listener.next_s
        detections = self._listener.push(samples)
        return self._tell(first_s, self._listener.scores.tolist(), detections)

    def set_cutoff(self, cutoff: int) -> LiveView:
        """Another cutoff from now on."""
        self._listener.set_cutoff(cutoff)
        return self._tell(self._listener.next_s, [], [])

    def _tell(self, first_s: float, scores: list[int], detections: list[Detection]) -> LiveView:
        return LiveView(
            heard_s=self._listener.heard(()).duration_s,
            cutoff=self._listener.cutoff / 255,
            window=self._listener.window,
            first_s=first_s,
            step_s=self._listener.step_s,
            scores=scores,
            detections=detections,
        )


async def listen_live(call: Call, query: LiveQuery) -> web.StreamResponse:
    """A WebSocket that hears: samples up, scores and detections down as they come.

    Up: binary messages of 16-bit samples, mono, little-endian, at ``rate``; or a text ``{"cutoff": 150}``. Down: a
    ``LiveView`` for each message, or a ``Problem`` before it closes. At most an hour.
    """
    service, request = call.service, call.request
    socket = web.WebSocketResponse(
        heartbeat=_HEARTBEAT_S, receive_timeout=SILENT_S, max_msg_size=_LARGEST_MESSAGE, compress=False
    )
    if not socket.can_prepare(request).ok:
        raise RefusedError("this is a WebSocket", status=426, hint="open it with ws: or wss:")
    if service.listeners >= MOST_LISTENERS:
        raise RefusedError(f"{MOST_LISTENERS} microphones are heard already", status=429, hint="stop one of them")
    service.listeners += 1
    closer = None
    try:
        manifest = await service.ask(lambda project: _manifest_path(project, query.model))
        ear = await service.run(_Ear, manifest, query.cutoff, query.rate)
        await socket.prepare(request)
        closer = asyncio.create_task(_close_with(service, socket))
        with contextlib.suppress(ConnectionError, TimeoutError):  # the page has gone, or sends nothing any more
            await _converse(service, socket, ear)
        await socket.close()
    finally:
        service.listeners -= 1
        if closer is not None:
            closer.cancel()
    return socket


async def _close_with(service: Service, socket: web.WebSocketResponse) -> None:
    await service.stopping.wait()
    await socket.close(code=WSCloseCode.GOING_AWAY)


async def _converse(service: Service, socket: web.WebSocketResponse, ear: _Ear) -> None:
    async for message in socket:
        try:
            if message.type is WSMsgType.BINARY:
                view = await service.run(ear.hear, message.data)
            elif message.type is not WSMsgType.TEXT:
                return  # too long, or not a WebSocket's
            else:
                view = await service.run(ear.set_cutoff, _read_order(message.data).cutoff)
            if view.heard_s > LONGEST_LIVE_S:
                raise InputError(f"heard for {LONGEST_LIVE_S / 60:.0f} minutes", hint="start again")
        except MwwError as error:
            problem = Problem(error=type(error).__name__, message=error.message, hint=error.hint)
            await socket.send_json(plain(problem))
            await socket.close(code=WSCloseCode.POLICY_VIOLATION)
            return
        await socket.send_json(plain(view))


def _read_order(text: str) -> LiveOrder:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise InputError("the message is not JSON", hint='send {"cutoff": 150}, or samples') from None
    order: LiveOrder = read(document, LiveOrder, "the message")
    return order


LISTENING_ROUTES = (
    Route(method="GET", path="/api/listen/models", handler=get_listen_models),
    Route(
        method="POST",
        path="/api/listen",
        handler=listen_to_file,
        largest_body=LARGEST_FILE,
        body_media="application/octet-stream",
    ),
    Route(method="GET", path="/api/listen/live", handler=listen_live, status=101),
)
"""The routes that hear."""
