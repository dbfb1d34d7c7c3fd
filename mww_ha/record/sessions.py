"""A guided session: one person, some places, so many takes at each; every take checked at once, and kept or asked for
again. It can be stopped at any moment and goes on later where it was.

``record_session`` leads a terminal or a page through it on a microphone that can be asked for a take (a satellite).
Where the page itself records (browser) or somebody has files, it calls ``begin_sitting`` and ``add_take``.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Protocol, TypeVar

from mww_ha import audio
from mww_ha.errors import AudioFileError, InputError, MwwError
from mww_ha.record.people import clean_name, delete_clips, find_person
from mww_ha.record.takes import Doubt, Earlier, Fault, Reason, TakeReport, check_take
from mww_ha.schema import SAMPLE_RATE_HZ, Clip, Label, Origin, Session
from mww_ha.store import Project, now

ASSIST, WAKE, BROWSER, FILE = "assist", "wake", "browser", "file"
AUDIO_PATHS = (ASSIST, WAKE, BROWSER, FILE)
"""What stood between voice and samples: gain, channel and processing differ, so clips carry it."""

PLACES = ("where you usually talk to it", "from the door", "from the other end of the room", "turned away from it")
"""A model that only heard people speak into the microphone does not hear them across a room."""

LICENCE = "own"
MOST_TAKES = 500
_LONGEST_PLACE = 80

T = TypeVar("T")


class Ask(Protocol):
    """Runs a function of the project where it may block: a service in a thread of its own, a terminal at once."""

    def __call__(self, function: Callable[[Project], T], /) -> Awaitable[T]:
        """What the function returns."""


# ---- the plan -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """So many takes at one place."""

    place: str
    takes: int


def make_plan(takes: int, places: Sequence[str] = PLACES) -> list[Part]:
    """``takes`` spread over the places, the first ones get what does not divide. Raises InputError."""
    if not 1 <= takes <= MOST_TAKES:
        raise InputError(f"{takes} takes", hint=f"1 to {MOST_TAKES} are possible")
    names = list(dict.fromkeys(" ".join(place.split()) for place in places)) or [""]
    for name in names:
        if len(name) > _LONGEST_PLACE or not (name.isprintable() or not name):
            raise InputError(f"{name[:_LONGEST_PLACE]!r} is no place", hint=f"at most {_LONGEST_PLACE} letters")
    each, more = divmod(takes, len(names))
    counts = [each + (index < more) for index in range(len(names))]
    return [Part(place=name, takes=count) for name, count in zip(names, counts, strict=True) if count]


def begin_sitting(project: Project, *, person: str, device: str, audio_path: str, plan: Sequence[Part]) -> str:
    """Notes what is to be recorded; returns the sitting's id. Raises InputError when nobody noted a consent."""
    if audio_path not in AUDIO_PATHS:
        raise InputError(f"audio path {audio_path!r}", hint="it is one of " + ", ".join(AUDIO_PATHS))
    if not plan:
        raise InputError("nothing is to be recorded", hint="name a number of takes")
    known = find_person(project, person)
    sitting = secrets.token_hex(6)
    with project.catalogue.transaction():
        for part in plan:
            project.catalogue.put_session(
                Session(
                    id=_new_id(),
                    sitting=sitting,
                    person=known.name,
                    device=clean_name(device, "the device"),
                    audio_path=audio_path,
                    place=part.place,
                    started_at=now(),
                    wanted=part.takes,
                )
            )
    return sitting


def _new_id() -> str:
    return f"{now()[:10]}-{secrets.token_hex(4)}"  # no name in it: it travels to satellites and back


def find_open(project: Project, person: str) -> str:
    """The newest sitting of that person that is not finished; empty: none."""
    known = find_person(project, person)
    unfinished = [s.sitting for s in project.catalogue.sessions(person=known.name) if s.taken < s.wanted]
    return unfinished[-1] if unfinished else ""


def next_session(project: Project, sitting: str, *, device: str = "", audio_path: str = "") -> Session | None:
    """The session that the next take belongs to; None: everything is recorded.

    On another day, or with another microphone, what is left of a place becomes a session of its own: a session is one
    day, one place, one microphone. Raises InputError for an unknown sitting.
    """
    sessions = project.catalogue.sessions(sitting=sitting)
    if not sessions:
        raise InputError(f"no sitting {sitting}", hint="begin a new one")
    session = next((s for s in sessions if s.taken < s.wanted), None)
    if session is None:
        return None
    device, audio_path = device or session.device, audio_path or session.audio_path
    today = now()[:10]
    if (session.started_at[:10], session.device, session.audio_path) == (today, device, audio_path):
        return session
    fresh = replace(
        session,
        id=_new_id(),
        device=device,
        audio_path=audio_path,
        started_at=now(),
        wanted=session.wanted - session.taken,
        taken=0,
        refused=0,
    )
    with project.catalogue.transaction():
        project.catalogue.put_session(replace(session, wanted=session.taken))
        project.catalogue.put_session(fresh)
    return fresh


# ---- one take -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a microphone brought, as it came."""

    samples: audio.Samples
    at: datetime  # UTC
    transcript: str | None = None  # what somebody's speech-to-text read; None: nobody asked
    holes: bool = False  # samples are known to be missing inside
    capture: str = ""  # id, where it is in the catalogue as a capture already


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What became of a take."""

    session: str
    report: TakeReport
    clip: str = ""  # id; empty where it was refused, or where verdicts make the clip later
    heard_s: float = 0.0

    @property
    def good(self) -> bool:
        """Whether it counts."""
        return self.report.good


class Keeper(Protocol):
    """Where takes go."""

    def settle(self, project: Project, session: Session, heard: Heard, report: TakeReport) -> str:
        """Keeps a good take, forgets a refused one. Returns the clip's id, where there is one already.

        Raises InputError for a good one that cannot be used all the same, with the reason.
        """

    def finish(self, project: Project) -> list[str]:
        """After the last take: makes what is still missing; says what could not be made."""


class ClipKeeper:
    """Good takes become clips at once; of refused ones nothing is kept."""

    def settle(self, project: Project, session: Session, heard: Heard, report: TakeReport) -> str:
        """See Keeper. Raises StorageError."""
        if not report.good:
            return ""
        where = f", {session.place}" if session.place else ""
        clip = audio.add_clip(
            project.root,
            heard.samples[report.start : report.end],
            label=Label.WAKE,
            origin=Origin.RECORDED,
            speaker=session.person,
            session=session.id,
            text=project.settings.phrase,
            language=project.settings.language,
            licence=LICENCE,
            source=f"{session.audio_path} at {session.device}{where}, {heard.at.isoformat(timespec='milliseconds')}",
        )
        with project.catalogue.transaction(durable=True):
            project.catalogue.add_clips([clip])
        return clip.id

    def finish(self, project: Project) -> list[str]:
        """Nothing is missing."""
        del project
        return []


def add_take(
    project: Project, session_id: str, heard: Heard, *, doubt: Doubt | None = None, keeper: Keeper | None = None
) -> Taken:
    """Checks a take; a good one is kept and counted, of another one only that it was refused.

    Raises InputError for an unknown session, or one whose person has withdrawn the consent; StorageError.
    """
    keeper = keeper or ClipKeeper()
    session = next(iter(project.catalogue.sessions(id=session_id)), None)
    if session is None:
        raise InputError(f"no session {session_id}", hint="begin one first")
    find_person(project, session.person)
    report = check_take(
        heard.samples,
        phrase=project.settings.phrase,
        settings=project.settings.record,
        earlier=_earlier(project, session.person),
        holes=heard.holes,
        transcript=heard.transcript,
        doubt=doubt,
    )
    if report.good and (known := _known(project, heard.samples[report.start : report.end])):
        reason = Reason(fault=Fault.DUPLICATE, text=f"this is the same recording as {known}: say it anew")
        report = replace(report, reasons=(reason,))
    # A crash in between leaves a take that does not count: one more is asked for.
    try:
        clip = keeper.settle(project, session, heard, report)
    except InputError as error:
        report = replace(report, reasons=(Reason(fault=Fault.UNUSABLE, text=error.message),))
        clip = keeper.settle(project, session, heard, report)
    project.catalogue.count_take(session.id, taken=int(report.good), refused=int(not report.good))
    return Taken(session=session.id, report=report, clip=clip, heard_s=heard.samples.size / SAMPLE_RATE_HZ)


def take_back(project: Project, clip_id: str) -> Session:
    """Deletes a take of a session; it is asked for again. Raises InputError when there is none of that id."""
    clip = project.catalogue.clips_by_id([clip_id]).get(clip_id)
    session = next(iter(project.catalogue.sessions(id=clip.session)), None) if clip and clip.session else None
    if session is None:
        raise InputError(f"no take {clip_id}", hint="it may have been deleted already")
    delete_clips(project, [clip_id])
    project.catalogue.count_take(session.id, taken=-1)
    return replace(session, taken=session.taken - 1)


def _earlier(project: Project, person: str) -> Earlier:
    """Wake clips of that person, to compare with; those that cannot be read are left to others to report."""
    found: list[tuple[str, audio.Samples]] = []
    for clip in project.catalogue.clips(Label.WAKE):
        if clip.speaker != person or clip.origin is Origin.SYNTHESIZED:
            continue
        try:
            found.append((_named(clip), audio.read_samples(project.root / clip.path)))
        except AudioFileError:
            continue
    return found


def _known(project: Project, samples: audio.Samples) -> str:
    """How a wake clip of anybody with exactly these samples is called; empty: there is none."""
    sha256 = audio.samples_digest(samples)
    return next((_named(clip) for clip in project.catalogue.clips(Label.WAKE) if clip.sha256 == sha256), "")


def _named(clip: Clip) -> str:
    return f"{clip.source or 'clip'} ({clip.id[:8]})"


# ---- the guided session ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a microphone is asked for."""

    session: str  # id
    phrase: str
    place: str
    first: bool  # at this place
    seconds: float


class Microphone(Protocol):
    """Something that can be asked for a take. Raises MwwError when there is none to be had."""

    device: str
    audio_path: str

    async def take(self, wish: Wish, say_now: Callable[[], None]) -> Heard:
        """One take; ``say_now`` is called when the person shall speak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a session says while it goes on. ``kind``: place (go there) | now (speak) | taken | refused | note | end."""

    kind: str
    text: str  # for a person
    place: str = ""
    number: int = 0  # of the take, from 1
    total: int = 0
    reasons: tuple[Reason, ...] = ()
    hints: tuple[str, ...] = ()
    sitting: str = ""
    clip: str = ""  # of a good take, where there is one already
    capture: str = ""  # of a take that arrived as one


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a session ended. What is left goes on with ``sitting``."""

    sitting: str
    person: str
    taken: int  # in the whole sitting
    wanted: int
    refused: int
    why: str = ""  # why it ended early
    notes: tuple[str, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether everything is recorded."""
        return self.taken >= self.wanted


def ask_here(project: Project) -> Ask:
    """For a terminal, which has nothing else to do meanwhile."""

    async def ask(function: Callable[[Project], T]) -> T:
        return function(project)

    return ask


async def record_session(
    ask: Ask,
    microphone: Microphone,
    *,
    sitting: str,
    tell: Callable[[Told], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
    transcribe: Callable[[audio.Samples], Awaitable[str]] | None = None,
    doubt: Doubt | None = None,
    keeper: Keeper | None = None,
    ready: Callable[[Wish], Awaitable[None]] | None = None,
) -> Outcome:
    """Asks for take after take until the sitting has all it wants, ``stop`` says so, or a take was refused too often.

    ``sitting``: of ``begin_sitting``, or one to go on with. A take is asked for ``record.attempts`` times; then the
    session ends with the reason, because another try without a change would be refused again. ``ready`` is waited for
    before each take: somebody has to walk to the door. What is recorded stays when it ends in any way; MwwError of the
    microphone is raised on after that.
    """
    keeper = keeper or ClipKeeper()

    def say(told: Told) -> None:
        tell(replace(told, sitting=sitting))

    settings, phrase = await ask(lambda project: (project.settings.record, project.settings.phrase))
    why = ""
    notes: list[str] = []
    last_place: str | None = None
    failed = 0
    try:
        while True:
            session = await ask(
                partial(next_session, sitting=sitting, device=microphone.device, audio_path=microphone.audio_path)
            )
            if session is None or stop():
                why = "" if session is None else "stopped"
                break
            done, total = await ask(partial(_progress, sitting=sitting))
            first = session.place != last_place
            if first:
                told = f"{session.wanted - session.taken} takes {session.place}".strip()
                say(Told(kind="place", text=told, place=session.place, number=done + 1, total=total))
                last_place = session.place
            prompt = Told(kind="now", text=f"say: {phrase}", place=session.place, number=done + 1, total=total)
            wish = Wish(session=session.id, phrase=phrase, place=session.place, first=first, seconds=settings.take_s)
            if ready is not None:
                await ready(wish)
                if stop():
                    continue
            heard = await microphone.take(wish, partial(say, prompt))
            if transcribe is not None and heard.transcript is None and heard.samples.size:
                heard = replace(heard, transcript=await _transcribe(transcribe, heard.samples, notes, say))
            taken = await ask(partial(add_take, session_id=session.id, heard=heard, doubt=doubt, keeper=keeper))
            say(replace(_told(taken, session, done + 1, total), clip=taken.clip, capture=heard.capture))
            failed = 0 if taken.good else failed + 1
            if failed >= settings.attempts:
                why = f"{failed} takes in a row could not be used: {taken.report.reasons[0].text}"
                break
    finally:
        notes += await ask(keeper.finish)
    outcome = await ask(partial(_outcome, sitting=sitting, why=why, notes=notes))
    text = f"{outcome.taken} of {outcome.wanted} takes" + (f": {why}" if why else "")
    say(Told(kind="end", text=text, number=outcome.taken, total=outcome.wanted, hints=outcome.notes))
    return outcome


async def _transcribe(
    transcribe: Callable[[audio.Samples], Awaitable[str]],
    samples: audio.Samples,
    notes: list[str],
    tell: Callable[[Told], None],
) -> str | None:
    """A hint is not worth a session: without an answer it goes on, and says so once."""
    try:
        return await transcribe(samples)
    except MwwError as error:
        if error.message not in notes:
            notes.append(error.message)
            tell(Told(kind="note", text=error.message))
        return None


def _told(taken: Taken, session: Session, number: int, total: int) -> Told:
    text = "good" if taken.good else "; ".join(reason.text for reason in taken.report.reasons)
    return Told(
        kind="taken" if taken.good else "refused",
        text=text,
        place=session.place,
        number=number,
        total=total,
        reasons=taken.report.reasons,
        hints=taken.report.hints,
    )


def _progress(project: Project, sitting: str) -> tuple[int, int]:
    sessions = project.catalogue.sessions(sitting=sitting)
    return sum(s.taken for s in sessions), sum(s.wanted for s in sessions)


def _outcome(project: Project, sitting: str, why: str, notes: Sequence[str]) -> Outcome:
    sessions = project.catalogue.sessions(sitting=sitting)
    taken, wanted = _progress(project, sitting)
    return Outcome(
        sitting=sitting,
        person=sessions[0].person,
        taken=taken,
        wanted=wanted,
        refused=sum(s.refused for s in sessions),
        why=why,
        notes=tuple(notes),
    )
