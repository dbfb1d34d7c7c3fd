"""What the page API answers about people: who agreed to be recorded, what there is of them, how they are forgotten."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated

from mww_ha.record import people
from mww_ha.record.sessions import find_open
from mww_ha.schema import Clip, Label, Origin, Person, digest
from mww_ha.store import Project
from mww_ha.web.access import RefusedError
from mww_ha.web.captures import name_of
from mww_ha.web.jobs import JobStateError
from mww_ha.web.openapi import Call, NotFoundError, Route
from mww_ha.web.orders import KINDS, STAGES
from mww_ha.web.wire import Text

WANTED_TAKES = 20
"""Good takes of one person that a page asks for; more help, from other places and days."""

WANTED_PEOPLE = 3
"""One for each side of the split: below that, a model learns real voices or is judged by them, not both."""

PersonId = Annotated[str, Text(pattern="[0-9a-f]{16}", longest=16)]
SpeakerName = Annotated[str, Text(longest=200)]

# --- what is told ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceCount:
    """How many good takes of a person there are from one place."""

    place: str
    takes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonView:
    """A person who agreed to be recorded, and how far this person's takes are."""

    id: str  # stands for the name where no text of people may stand
    person: Person
    good: int  # clips with the wake word
    other: int  # clips of any other label
    refused: int  # takes that were not kept
    wanted: int
    sittings: int
    places: list[PlaceCount]
    microphones: list[str]  # satellites, "browser", "file"
    last_at: str  # begin of the newest session; empty: none
    open_sitting: str  # what was begun and is not finished; empty: nothing
    open_left: int  # takes


@dataclass(frozen=True, slots=True, kw_only=True)
class People:
    """Everybody who agreed, and what is there in all."""

    people: list[PersonView]
    recorded: int  # people with at least one good take
    wanted_people: int
    purpose: str  # what a consent is for, unless something else is said


async def get_people(call: Call) -> People:
    """Who agreed to be recorded, and how far their takes are, by name."""
    return await call.service.ask(list_people)


def list_people(project: Project) -> People:
    """Everybody with a consent on record."""
    clips: dict[str, list[Clip]] = {}
    for origin in (Origin.RECORDED, Origin.CAPTURED, Origin.IMPORTED):
        for clip in project.catalogue.clips(origin=origin):
            clips.setdefault(clip.speaker, []).append(clip)
    views = [_view(project, person, clips.get(person.name, [])) for person in project.catalogue.people()]
    return People(
        people=views,
        recorded=sum(view.good > 0 for view in views),
        wanted_people=WANTED_PEOPLE,
        purpose=people.PURPOSE,
    )


def _view(project: Project, person: Person, clips: list[Clip]) -> PersonView:
    sessions = project.catalogue.sessions(person=person.name)
    good = [clip for clip in clips if clip.label is Label.WAKE]
    place_of = {session.id: session.place for session in sessions}
    places = Counter(place_of.get(clip.session, "") for clip in good)
    unfinished = find_open(project, person.name)
    return PersonView(
        id=digest(person.name),
        person=person,
        good=len(good),
        other=len(clips) - len(good),
        refused=sum(session.refused for session in sessions),
        wanted=WANTED_TAKES,
        sittings=len({session.sitting for session in sessions if session.taken}),
        places=[PlaceCount(place=place, takes=takes) for place, takes in places.most_common() if place],
        microphones=sorted({session.device for session in sessions if session.taken}),
        last_at=max((session.started_at for session in sessions), default=""),
        open_sitting=unfinished,
        open_left=sum(s.wanted - s.taken for s in sessions if s.sitting == unfinished) if unfinished else 0,
    )


def find_by_id(project: Project, id: str) -> Person:
    """Who agreed to be recorded. Raises NotFoundError."""
    for person in project.catalogue.people():
        if digest(person.name) == id:
            return person
    raise NotFoundError(f"nobody {id} agreed to be recorded", hint="load the list of people again")


# --- consent ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentBody:
    """Somebody agreed, now. ``replace``: instead of what was noted before."""

    name: SpeakerName
    agrees: bool
    may_share: bool = False  # recordings and models may leave the household
    noted_by: SpeakerName | None = None  # null: whoever asks
    purpose: Annotated[str, Text(longest=500)] | None = None
    replace: bool = False


async def note_consent(call: Call, body: ConsentBody) -> PersonView:
    """Note once that somebody agreed to be recorded. What was noted before is replaced only when that is asked for."""
    if not body.agrees:
        raise RefusedError(
            "without a consent nobody is recorded", status=409, hint="ask the person, and say that they agreed"
        )

    def note(project: Project) -> PersonView:
        name = people.clean_name(body.name)
        known = [person for person in project.catalogue.people() if person.name.casefold() == name.casefold()]
        if known and not body.replace:
            raise RefusedError(
                f"{known[0].name} agreed already, on {known[0].consented_at[:10]}",
                status=409,
                hint="choose this person from the list; another one needs another name",
            )
        person = people.note_consent(
            project,
            name,
            noted_by=body.noted_by or name_of(call.caller),
            purpose=body.purpose or people.PURPOSE,
            may_share=body.may_share,
        )
        return next(view for view in list_people(project).people if view.person == person)

    if body.replace:
        await call.service.access.check_may_change(call.caller)
    view = await call.service.ask(note)
    call.service.tell("people", {"person": view.person.name})
    return view


# --- being forgotten -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonBody:
    """Who."""

    name: SpeakerName


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgotten:
    """What a deletion took away, and what it could not."""

    clips: int
    captures: int
    files: int
    models: tuple[str, ...]  # marked: they learned from these clips or were judged by them
    feature_sets: int  # deleted, and made anew for the next training
    still_named: tuple[str, ...]  # files of the user's own that hold the name
    log_is_empty: bool


async def look_for_person(call: Call, body: PersonBody) -> people.Traces:
    """What there is of a person, and which models learned from it: what would go if it were forgotten."""
    return await call.service.ask(lambda project: people.find_traces(project, body.name))


async def forget_person(call: Call, body: PersonBody) -> Forgotten:
    """Delete all that there is of a person: sound, features, sessions, consent. Models that heard it are marked."""
    await call.service.access.check_may_change(call.caller)
    recorder = call.service.recorder
    for one in recorder.all() if recorder is not None else []:
        if not one.ended_at and one.person.casefold() == " ".join(body.name.split()).casefold():
            raise JobStateError(f"{one.person} is being recorded on {one.name}", hint="end that session first")

    def forget(project: Project) -> tuple[Forgotten, tuple[str, ...]]:
        check_stages_rest(call)
        removed = people.delete_person(project, body.name)
        return Forgotten(
            clips=len(removed.clips),
            captures=len(removed.captures),
            files=removed.files,
            models=removed.models,
            feature_sets=len(removed.feature_sets),
            still_named=removed.still_named,
            log_is_empty=removed.log_is_empty,
        ), removed.captures

    forgotten, captures = await call.service.ask(forget)
    if captures:
        call.service.tell("deleted", {"ids": list(captures)})
    call.service.tell("people", {"person": body.name})
    return forgotten


def check_stages_rest(call: Call) -> None:
    """Clips are not deleted under a stage that reads them. Blocks. Raises JobStateError."""
    busy = [job for job in call.service.jobs.list("running") if KINDS[job.kind].touches == STAGES]
    if busy:
        raise JobStateError(f"{busy[0].kind} is at work with these clips", hint="wait until it has ended, or cancel it")


PEOPLE_ROUTES = (
    Route(method="GET", path="/api/people", handler=get_people),
    Route(method="POST", path="/api/people", handler=note_consent, status=201),
    Route(method="POST", path="/api/people/look", handler=look_for_person),
    Route(method="POST", path="/api/people/forget", handler=forget_person),
)
"""The routes about people."""
