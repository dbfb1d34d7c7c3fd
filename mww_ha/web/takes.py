"""What the page API answers about takes: sittings at the browser's microphone, sessions on satellites, files."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import shutil
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Literal

from mww_ha import audio
from mww_ha.capture import review
from mww_ha.errors import DataError, InputError, MwwError, StorageError
from mww_ha.record import sessions
from mww_ha.record.files import import_folder
from mww_ha.record.takes import Reason, TakeReport
from mww_ha.record.transcribe import make_transcriber
from mww_ha.record.upload import MOST_BYTES, check_form, read_upload
from mww_ha.schema import SAMPLE_RATE_HZ, CaptureKind, Clip, Label, Session, Verdict
from mww_ha.store import Project, now, storage_errors
from mww_ha.web.captures import name_of
from mww_ha.web.openapi import Call, NotFoundError, Route
from mww_ha.web.people import PersonId, SpeakerName, check_stages_rest, find_by_id
from mww_ha.web.recorder import MicrophoneView, Recorder, RecordingView
from mww_ha.web.recording import find_doubt
from mww_ha.web.wire import Number, Text

SittingId = Annotated[str, Text(pattern="[0-9a-f]{12}", longest=12)]
TakeId = Annotated[str, Text(pattern="[0-9a-f]{16}", longest=16)]
RecordingId = Annotated[str, Text(pattern="[0-9a-f]{12}", longest=12)]
PlaceName = Annotated[str, Text(longest=80)]
Takes = Annotated[int, Number(least=1, most=sessions.MOST_TAKES)]
Seconds = Annotated[int, Number(least=0, most=60)]

HINT_S = 4.0
"""How long a verdict may wait for speech-to-text, which only hints."""

MOST_IMPORT_BYTES = 1 << 30
"""An hour in stereo at 48 kHz and 24 bit is just above; such a recording is cut, or imported from the command line."""

MOST_IMPORT_HOURS = 24.0
"""A file of silence can hold years."""


# --- sittings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PartView:
    """Takes at one place, on one day, with one microphone."""

    session: str
    place: str
    device: str
    wanted: int
    taken: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptView:
    """What is asked for next."""

    session: str
    place: str
    number: int  # of the take, from 1
    first: bool  # at this place


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptTake:
    """A take that is a clip."""

    clip: str
    session: str
    place: str
    duration_s: float
    sound: str  # relative to the panel's base


@dataclass(frozen=True, slots=True, kw_only=True)
class SittingView:
    """What is to be recorded, what is there of it, and what comes next. ``next`` null: all of it is there."""

    sitting: str
    person: str
    phrase: str
    take_s: float
    taken: int
    wanted: int
    refused: int
    parts: list[PartView]
    takes: list[KeptTake]  # oldest first
    next: PromptView | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeView:
    """What became of a take, and what comes next."""

    good: bool
    clip: str  # empty: it was refused, nothing of it is kept
    reasons: tuple[Reason, ...]
    hints: tuple[str, ...]  # doubts that refuse nothing
    level_dbfs: float
    over_background_db: float
    spoken_s: float
    start_s: float  # where the word lies in what was sent
    end_s: float
    heard_s: float
    sound: str  # relative to the panel's base; empty: there is none
    sitting: SittingView


@dataclass(frozen=True, slots=True, kw_only=True)
class SittingBody:
    """Who is to say it, where, and how often in all."""

    person: SpeakerName
    takes: Takes = 20
    places: list[PlaceName]
    audio_path: Literal["browser", "file"] = "browser"


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeQuery:
    """By which way a take came: the page's microphone, or a file."""

    audio_path: Literal["browser", "file"] = "browser"


async def begin_sitting(call: Call, body: SittingBody) -> SittingView:
    """Begin a guided session that the page records itself. Nobody is recorded without a consent on record."""

    def begin(project: Project) -> SittingView:
        plan = sessions.make_plan(body.takes, body.places)
        sitting = sessions.begin_sitting(
            project, person=body.person, device=body.audio_path, audio_path=body.audio_path, plan=plan
        )
        return look_at_sitting(project, sitting)

    return await call.service.ask(begin)


async def get_sitting(call: Call, id: SittingId) -> SittingView:
    """A sitting with its takes, and what is asked for next."""
    return await call.service.ask(lambda project: look_at_sitting(project, id))


def look_at_sitting(project: Project, sitting: str) -> SittingView:
    """What there is of a sitting. Raises NotFoundError."""
    parts = project.catalogue.sessions(sitting=sitting)
    if not parts:
        raise NotFoundError(f"no sitting {sitting}", hint="begin a new one")
    by_id = {session.id: session for session in parts}
    taken, wanted = sum(s.taken for s in parts), sum(s.wanted for s in parts)
    upcoming = next((session for session in parts if session.taken < session.wanted), None)
    return SittingView(
        sitting=sitting,
        person=parts[0].person,
        phrase=project.settings.phrase,
        take_s=project.settings.record.take_s,
        taken=taken,
        wanted=wanted,
        refused=sum(session.refused for session in parts),
        parts=[_part(session) for session in parts if session.wanted or session.taken],
        takes=[_kept(clip, by_id[clip.session]) for clip in _clips_of(project, by_id)],
        next=None
        if upcoming is None
        else PromptView(
            session=upcoming.id, place=upcoming.place, number=min(taken + 1, wanted), first=upcoming.taken == 0
        ),
    )


def _part(session: Session) -> PartView:
    return PartView(
        session=session.id,
        place=session.place,
        device=session.device,
        wanted=session.wanted,
        taken=session.taken,
        refused=session.refused,
    )


def _clips_of(project: Project, by_id: dict[str, Session]) -> list[Clip]:
    order = list(by_id)
    clips = [clip for clip in project.catalogue.clips(Label.WAKE) if clip.session in by_id]
    # A clip knows when it was said by the end of its source only.
    return sorted(clips, key=lambda clip: (order.index(clip.session), clip.source.rpartition(", ")[2]))


def _kept(clip: Clip, session: Session) -> KeptTake:
    return KeptTake(
        clip=clip.id,
        session=clip.session,
        place=session.place,
        duration_s=clip.duration_s,
        sound=_sound(clip.id),
    )


def _sound(clip: str) -> str:
    return f"api/clips/{clip}/sound" if clip else ""


# --- one take --------------------------------------------------------------------------------------------------------


def _who(call: Call) -> str:
    return f"{call.caller.way}:{call.caller.user_id}"


async def add_take(call: Call, id: SittingId, query: TakeQuery) -> TakeView:
    """Send a take; it is checked at once and kept, or refused with the reason. WAV at 16 kHz, or another sound file.

    It belongs to the place that was asked for last.
    """
    content = b"".join([piece async for piece in call.pieces()])
    service = call.service
    samples, stt, language = await service.ask(lambda project: _read(project, content))
    transcript = await _transcribe(call, samples, stt, language)

    def add(project: Project) -> TakeView:
        if not project.catalogue.sessions(sitting=id):
            raise NotFoundError(f"no sitting {id}", hint="begin a new one")
        session = sessions.next_session(project, id, device=query.audio_path, audio_path=query.audio_path)
        if session is None:
            raise InputError("all takes of this sitting are there", hint="begin a new one")
        heard = sessions.Heard(samples=samples, at=datetime.now(UTC), transcript=transcript)
        taken = sessions.add_take(project, session.id, heard, doubt=find_doubt(project))
        return _view(taken, look_at_sitting(project, id))

    view = await service.ask(add)
    if view.clip:
        _recorder(call).mine.note(view.clip, _who(call))
        service.tell("people", {"person": view.sitting.person})
    return view


def _read(project: Project, content: bytes) -> tuple[audio.Samples, str, str]:
    settings = project.settings
    return read_upload(content, name="this take"), settings.record.stt, settings.language


async def _transcribe(call: Call, samples: audio.Samples, stt: str, language: str) -> str | None:
    """A hint that is not there in time is none."""
    try:
        read = make_transcriber(stt, language)
        if read is None:
            return None
        await call.service.run(_import_wyoming)
        async with asyncio.timeout(HINT_S):
            return await read(samples)
    except (MwwError, TimeoutError):
        return None


def _import_wyoming() -> None:
    with contextlib.suppress(ImportError):
        importlib.import_module("wyoming.client")


def _view(taken: sessions.Taken, sitting: SittingView) -> TakeView:
    report: TakeReport = taken.report
    return TakeView(
        good=report.good,
        clip=taken.clip,
        reasons=report.reasons,
        hints=report.hints,
        level_dbfs=report.level_dbfs,
        over_background_db=report.over_background_db,
        spoken_s=report.spoken_s,
        start_s=report.start / SAMPLE_RATE_HZ,
        end_s=report.end / SAMPLE_RATE_HZ,
        heard_s=taken.heard_s,
        sound=_sound(taken.clip),
        sitting=sitting,
    )


async def take_back(call: Call, id: TakeId) -> SittingView:
    """Delete a take; it is asked for again. Whoever recorded it may, and whoever may delete."""
    if not _recorder(call).mine.is_by(id, _who(call)):
        await call.service.access.check_may_change(call.caller)
    by = name_of(call.caller)

    def remove(project: Project) -> SittingView:
        check_stages_rest(call)
        return look_at_sitting(project, _take_back(project, id, by).sitting)

    sitting = await call.service.ask(remove)
    call.service.tell("people", {"person": sitting.person})
    return sitting


def _take_back(project: Project, id: str, by: str) -> Session:
    """Of a clip, or of a prompted capture, whose clip may be made already. Raises NotFoundError."""
    found = project.catalogue.captures([id])
    try:
        if not found:
            return sessions.take_back(project, id)
        cut = project.catalogue.clips_cut_from([id])
        if cut:
            return sessions.take_back(project, cut[0].id)
    except InputError as error:
        raise NotFoundError(error.message, hint=error.hint) from None
    session = next(iter(project.catalogue.sessions(id=found[0].session)), None) if found[0].session else None
    if session is None or found[0].kind is not CaptureKind.PROMPT or found[0].verdict is not Verdict.WAKE:
        raise NotFoundError(f"no take {id}", hint="it may have been deleted already")
    review.judge(project, [id], Verdict.DISCARD, by=by)
    project.catalogue.count_take(session.id, taken=-1)
    return replace(session, taken=session.taken - 1)


# --- satellites ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingBody:
    """Whom a satellite shall ask, from where, and how often in all. ``sitting``: one to go on with."""

    device: Annotated[str, Text(longest=255)]
    via: Literal["satellite", "home-assistant"] = "satellite"
    person: SpeakerName
    takes: Takes = 20
    places: list[PlaceName]
    sitting: SittingId | None = None
    walk_s: Seconds = 20  # time to get to each place


async def get_microphones(call: Call) -> list[MicrophoneView]:
    """Satellites that can be asked for takes, and those that cannot, with the reason."""
    return await _recorder(call).list_microphones()


async def get_recordings(call: Call) -> list[RecordingView]:
    """Guided sessions on satellites: what runs, and what has ended since the service started; newest first."""
    return _recorder(call).all()


async def start_recording(call: Call, body: RecordingBody) -> RecordingView:
    """Begin a guided session on a satellite. It goes on when the page is closed."""
    return await _recorder(call).start(
        device=body.device,
        via=body.via,
        person=body.person,
        takes=body.takes,
        places=body.places,
        sitting=body.sitting or "",
        walk_s=float(body.walk_s),
    )


async def stop_recording(call: Call, id: RecordingId) -> RecordingView:
    """End a session; what is recorded stays, and what is left can go on later."""
    try:
        return await _recorder(call).end(id)
    except InputError as error:
        raise NotFoundError(error.message, hint=error.hint) from None


async def go_on_recording(call: Call, id: RecordingId) -> RecordingView:
    """Say that one is at the place: the session does not wait any longer."""
    try:
        return _recorder(call).go_on(id)
    except InputError as error:
        raise NotFoundError(error.message, hint=error.hint) from None


def _recorder(call: Call) -> Recorder:
    recorder = call.service.recorder
    if recorder is None:
        raise InputError("this service records nothing", hint="start it with mww-ha serve")
    return recorder


# --- files -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportQuery:
    """What the file holds, and who speaks in it; without a person: nobody that is known."""

    label: Literal["wake", "confusable", "speech", "noise"]
    person: PersonId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileImported:
    """What became of a file. ``rejected`` says why there is nothing of it; empty: there is."""

    added: int  # clips
    known: int  # clips that were there already
    duration_s: float
    rejected: str
    doubt: str  # why a guided session would have refused this wake word; it is there all the same


async def import_file(call: Call, query: ImportQuery) -> FileImported:
    """Send one sound file, as it is. It is kept under a name of ours, whatever it was called.

    A person's files need a consent on record.
    """
    service, id = call.service, query.person
    person = "" if id is None else (await service.ask(lambda project: find_by_id(project, id))).name
    file = await service.run(_make_file, service.jobs.folder.parent, call.request.content_length or 0)
    try:
        async for piece in call.pieces():
            await service.run(_write, file, piece)
        async with service.lock(import_file):  # others are not kept from the service's threads
            imported = await service.ask(lambda project: _import(project, file, Label(query.label), person))
    finally:
        await service.run(file.close)
    if imported.added:
        service.tell("people", {"person": person})
    return imported


def _make_file(folder: Path, length: int) -> IO[bytes]:
    _check_room(folder, 2 * length)
    # libsndfile wants a file; a suffix of our own, so that no name of a stranger chooses how it is read. An hour of
    # sound is too much for a /tmp that is memory.
    with storage_errors(folder):
        return tempfile.NamedTemporaryFile(prefix="upload-", suffix=".sound", dir=folder)


def _write(file: IO[bytes], piece: bytes) -> None:
    path = Path(file.name)
    with storage_errors(path):
        _check_room(path.parent, 2 * len(piece) + file.tell())  # of an unknown length
        file.write(piece)


def _check_room(folder: Path, needed: int) -> None:
    """Raises StorageError: a file and its clip take no more than what is free, so that uploads never fill a disk."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"this file needs {needed / 1e6:.0f} MB until it is taken in, and {free / 1e6:.0f} MB are free",
            hint="free some space, or delete what is no longer needed",
        )


def _import(project: Project, file: IO[bytes], label: Label, person: str) -> FileImported:
    path = Path(file.name)
    try:
        with storage_errors(path):
            file.flush()
            with path.open("rb") as content:
                beginning = content.read(16)
        check_form(beginning, "this file")
        done = import_folder(
            project,
            path,
            label=label,
            speaker=person,
            source=f"upload {now()}",
            longest_s=MOST_IMPORT_HOURS * 3600,
        )
    except (InputError, DataError) as error:
        why = error.message.rpartition(f"{path}: ")[2].replace(str(path), "this file")
        return FileImported(added=0, known=0, duration_s=0.0, rejected=why, doubt="")
    return FileImported(
        added=done.added,
        known=done.known,
        duration_s=round(done.minutes * 60, 3),
        rejected="",
        doubt="; ".join(why for _, why in (*done.doubtful, *done.differing, *done.relabelled)),
    )


TAKE_ROUTES = (
    Route(method="POST", path="/api/sittings", handler=begin_sitting, status=201),
    Route(method="GET", path="/api/sittings/{id}", handler=get_sitting),
    Route(
        method="POST",
        path="/api/sittings/{id}/takes",
        handler=add_take,
        status=201,
        largest_body=MOST_BYTES,
        body_media="application/octet-stream",
    ),
    Route(method="DELETE", path="/api/takes/{id}", handler=take_back),
    Route(method="GET", path="/api/microphones", handler=get_microphones),
    Route(method="GET", path="/api/recordings", handler=get_recordings),
    Route(method="POST", path="/api/recordings", handler=start_recording, status=201),
    Route(method="POST", path="/api/recordings/{id}/stop", handler=stop_recording),
    Route(method="POST", path="/api/recordings/{id}/go-on", handler=go_on_recording),
    Route(
        method="POST",
        path="/api/imports",
        handler=import_file,
        status=201,
        largest_body=MOST_IMPORT_BYTES,
        body_media="application/octet-stream",
    ),
)
"""The routes about takes, satellites that are asked for them, and files."""
