"""Nobody is recorded without a consent on record, every take is kept or refused at once, and the deleted are gone."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from fake_home_assistant import TOKEN, FakeHomeAssistant
from host_device import free_port
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spoken_words import RATE, VOICES, room, take

from mww_ha import audio, store
from mww_ha.errors import AudioFileError, DeviceUnreachableError, HomeAssistantError, InputError, ToolError
from mww_ha.ha.connection import find_access
from mww_ha.prepare.split import split_clips
from mww_ha.record import people, sessions, transcribe, upload
from mww_ha.record.sessions import Heard, Told, Wish, add_take, ask_here, begin_sitting, make_plan, record_session
from mww_ha.record.takes import Fault
from mww_ha.schema import Capture, CaptureKind, Clip, Label, Origin, Split, Verdict, digest
from mww_ha.store import Project
from mww_ha.web import recording

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


@dataclass
class Scripted:
    """A microphone that brings what it is told to."""

    brings: list[Any]
    device: str = "kitchen"
    audio_path: str = "wake"
    wishes: list[Wish] = field(default_factory=list)

    async def take(self, wish: Wish, say_now: Callable[[], None]) -> Heard:
        self.wishes.append(wish)
        say_now()
        brought = self.brings.pop(0)
        if isinstance(brought, Exception):
            raise brought
        return Heard(samples=brought, at=NOON)


@pytest.fixture(autouse=True)
def one_day(monkeypatch: pytest.MonkeyPatch) -> None:
    """Midnight never falls into a test: it begins another session."""
    began = time.monotonic()
    monkeypatch.setattr(
        sessions, "now", lambda: (NOON + timedelta(seconds=time.monotonic() - began)).isoformat(timespec="seconds")
    )


def good_takes(count: int, seed: int = 0) -> list[audio.Samples]:
    """Takes that are no copies of each other."""
    return [take(VOICES[(seed + n) % len(VOICES)], seed=seed + n) for n in range(count)]


def agreed(project: Project, name: str = "Anna") -> None:
    people.note_consent(project, name, noted_by="Ben")


def sit(project: Project, takes: int = 3, *places: str, person: str = "Anna", audio_path: str = "wake") -> str:
    return begin_sitting(
        project, person=person, device="kitchen", audio_path=audio_path, plan=make_plan(takes, places or [""])
    )


def ask_in_threads(project: Project) -> sessions.Ask:
    """As a service asks: in a thread that opens the catalogue for itself."""

    async def ask(function: Callable[[Project], Any]) -> Any:
        def there() -> Any:
            own = store.Project(
                root=project.root, settings=project.settings, catalogue=store.Catalogue(project.catalogue.path)
            )
            try:
                return function(own)
            finally:
                own.catalogue.close()

        return await asyncio.to_thread(there)

    return ask


async def lead(
    project: Project, microphone: Scripted, sitting: str, **more: Any
) -> tuple[sessions.Outcome, list[Told]]:
    told: list[Told] = []
    outcome = await record_session(ask_here(project), microphone, sitting=sitting, tell=told.append, **more)
    return outcome, told


# ---- consent --------------------------------------------------------------------------------------------------------


def test_without_a_noted_consent_nothing_begins(project: Project):
    with pytest.raises(InputError, match="nobody noted that Anna agreed"):
        sit(project)
    person = people.note_consent(project, " anna  Maria ", noted_by="Ben", purpose="our own model", may_share=True)
    assert (person.name, person.noted_by, person.purpose, person.may_share) == (
        "anna Maria",
        "Ben",
        "our own model",
        True,
    )
    assert datetime.fromisoformat(person.consented_at).tzinfo is not None
    assert people.find_person(project, "ANNA maria") == person
    assert project.catalogue.people() == [person]
    again = people.note_consent(project, "Anna Maria", noted_by="Ben")
    assert (again.name, again.may_share) == ("anna Maria", False)
    assert project.catalogue.people() == [again]


@pytest.mark.parametrize("name", ["", "  ", "piper:en:3", "@folder", "x" * 81, "a\x00b", "a\u202eb"])
def test_what_is_no_name_is_refused(name: str, project: Project):
    with pytest.raises(InputError):
        people.note_consent(project, name, noted_by="Ben")


def test_takes_of_somebody_who_withdrew_are_not_added(project: Project):
    agreed(project)
    session = sessions.next_session(project, sit(project))
    project.catalogue.remove_person("Anna")
    with pytest.raises(InputError):
        add_take(project, session.id, Heard(samples=take(), at=NOON))
    assert project.catalogue.clips() == []


# ---- the plan -------------------------------------------------------------------------------------------------------


def test_takes_are_spread_over_the_places():
    assert [(p.place, p.takes) for p in make_plan(20, ["at the table", "from the door", "sofa"])] == [
        ("at the table", 7),
        ("from the door", 7),
        ("sofa", 6),
    ]
    assert [p.takes for p in make_plan(2)] == [1, 1]
    for takes in (0, -1, 501):
        with pytest.raises(InputError):
            make_plan(takes)
    with pytest.raises(InputError):
        make_plan(3, ["door\x07"])


# ---- a session ------------------------------------------------------------------------------------------------------


async def test_good_takes_become_clips_with_person_session_device_and_audio_path(project: Project):
    agreed(project)
    microphone = Scripted(good_takes(4))
    outcome, told = await lead(project, microphone, sit(project, 4, "at the table", "from the door"))
    assert outcome.finished
    assert (outcome.taken, outcome.wanted, outcome.refused, outcome.why) == (4, 4, 0, "")
    clips = project.catalogue.clips()
    assert len(clips) == 4
    for clip in clips:
        assert (clip.label, clip.origin, clip.speaker) == (Label.WAKE, Origin.RECORDED, "Anna")
        assert (clip.licence, clip.text, clip.language) == ("own", "hey kitchen", "en")
        assert clip.source.startswith("wake at kitchen, ")
        samples = audio.read_samples(project.root / clip.path)
        assert 0.3 < samples.size / RATE < 1.5  # trimmed
    known = {s.id: s for s in project.catalogue.sessions()}
    assert {clip.session for clip in clips} == set(known)
    assert {s.place for s in known.values()} == {"at the table", "from the door"}
    assert all((s.person, s.device, s.audio_path) == ("Anna", "kitchen", "wake") for s in known.values())
    assert [t.kind for t in told] == ["place", *["now", "taken"] * 2, "place", *["now", "taken"] * 2, "end"]
    assert [(t.number, t.total) for t in told if t.kind == "taken"] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [w.first for w in microphone.wishes] == [True, False, True, False]
    assert all("Anna" not in w.session for w in microphone.wishes)


async def test_a_refused_take_leaves_nothing_and_is_asked_for_again_with_the_reason(project: Project):
    agreed(project)
    one, two = good_takes(2)
    outcome, told = await lead(project, Scripted([np.zeros(RATE, np.int16), one, one, two]), sit(project, 2))
    assert (outcome.taken, outcome.refused) == (2, 2)
    refused = [t for t in told if t.kind == "refused"]
    assert [t.reasons[0].fault for t in refused] == [Fault.EMPTY, Fault.DUPLICATE]
    assert "muted" in refused[0].text
    files = [path for path in project.audio_dir.rglob("*") if path.is_file()]
    assert len(files) == len(project.catalogue.clips()) == 2


async def test_after_some_refusals_in_a_row_the_session_ends_and_goes_on_later(project: Project):
    agreed(project)
    silence = np.zeros(RATE, np.int16)
    sitting = sit(project, 3)
    outcome, _ = await lead(project, Scripted([good_takes(1)[0], *[silence] * 3, silence]), sitting)
    assert not outcome.finished
    assert (outcome.taken, outcome.refused) == (1, 3)
    assert "3 takes in a row" in outcome.why
    assert sessions.find_open(project, "anna") == sitting
    outcome, told = await lead(project, Scripted(good_takes(2, seed=1)), sitting)
    assert outcome.finished
    assert [t.number for t in told if t.kind == "taken"] == [2, 3]
    assert sessions.find_open(project, "Anna") == ""


async def test_a_session_can_be_stopped_and_a_lost_microphone_loses_no_take(project: Project):
    agreed(project)
    sitting = sit(project, 3)
    stopped = iter([False, True])
    outcome, _ = await lead(project, Scripted(good_takes(1)), sitting, stop=lambda: next(stopped))
    assert (outcome.taken, outcome.why) == (1, "stopped")
    with pytest.raises(DeviceUnreachableError):
        await lead(project, Scripted([good_takes(1, 1)[0], DeviceUnreachableError("gone")]), sitting)
    assert len(project.catalogue.clips()) == 2


async def test_on_another_day_or_microphone_it_is_another_session(project: Project):
    agreed(project)
    sitting = sit(project, 3)
    first = sessions.next_session(project, sitting)
    await lead(project, Scripted(good_takes(1)), sitting, stop=iter([False, True]).__next__)
    assert sessions.next_session(project, sitting).id == first.id
    import dataclasses

    old = dataclasses.replace(sessions.next_session(project, sitting), started_at="2026-11-01T10:00:00+00:00")
    project.catalogue.put_session(old)
    later = sessions.next_session(project, sitting)
    assert later.id != first.id
    assert (later.wanted, later.taken) == (2, 0)
    other = sessions.next_session(project, sitting, device="hall", audio_path="assist")
    assert other.id not in (first.id, later.id)
    assert (other.device, other.audio_path) == ("hall", "assist")
    assert sum(s.wanted for s in project.catalogue.sessions(sitting=sitting)) == 3


def test_nobody_stands_on_two_sides_of_a_split(project: Project):
    for name, voice in zip(("Anna", "Ben", "Carl", "Dora", "Emil", "Fay"), VOICES, strict=False):
        agreed(project, name)
        for seed in range(2):
            session = sessions.next_session(project, sit(project, 1, f"place {seed}", person=name))
            samples = take(voice, seed=seed, text="hey kitchen" if seed else "hey, kitchen!")
            add_take(project, session.id, Heard(samples=samples, at=NOON))
    clips = project.catalogue.clips()
    sides = split_clips(clips, project.settings.split, lambda clip: audio.read_samples(project.root / clip.path))
    by_person = {name: {sides[c.id] for c in clips if c.speaker == name} for name in {c.speaker for c in clips}}
    assert len(by_person) == 6
    assert all(len(found) == 1 for found in by_person.values())
    assert set().union(*by_person.values()) == set(Split)


def test_somebody_elses_recording_is_not_taken_under_a_new_name(project: Project):
    agreed(project)
    agreed(project, "Carl")
    samples = take()
    first = sessions.next_session(project, sit(project, 1))
    assert add_take(project, first.id, Heard(samples=samples, at=NOON)).good
    second = sessions.next_session(project, sit(project, 1, person="Carl"))
    report = add_take(project, second.id, Heard(samples=samples, at=NOON)).report
    assert [reason.fault for reason in report.reasons] == [Fault.DUPLICATE]


# ---- Home Assistant -------------------------------------------------------------------------------------------------


class Household:
    """A satellite of the fake, and a person who answers it."""

    def __init__(self, home: FakeHomeAssistant, answers: list[audio.Samples]) -> None:
        self.home, self.answers = home, answers
        self.questions: list[str] = []
        home.registry.devices.append({"id": "d1", "name": "Kitchen", "connections": []})
        home.registry.entities.append(
            {"entity_id": "assist_satellite.kitchen", "device_id": "d1", "platform": "esphome"}
        )
        home.registry.states.append(
            {"entity_id": "assist_satellite.kitchen", "state": "idle", "attributes": {"supported_features": 3}}
        )
        home.services["assist_satellite.ask_question"] = self.ask

    async def ask(self, data: dict[str, Any]) -> dict[str, Any]:
        self.questions.append(data["question"])
        samples = self.answers.pop(0)
        for start in range(0, samples.size, 1024):
            assert self.home.hear("d1", samples[start : start + 1024].astype("<i2").tobytes())
            await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(0.05, self.home.hear, "d1", None)
        return {"id": None, "sentence": "hey kitchen", "slots": {}}


async def test_a_satellite_is_recorded_by_way_of_home_assistant_without_flashing(project: Project):
    agreed(project)
    told: list[Told] = []
    takes = good_takes(3)
    async with FakeHomeAssistant() as home:
        household = Household(home, [takes[0], room(1.0), takes[1], takes[2]])
        outcome = await recording.record(
            ask_in_threads(project),
            device="kitchen",
            via="home-assistant",
            person="anna",
            takes=3,
            places=["at the table", "from the door"],
            access=find_access(home.url, TOKEN, environ={}),
            tell=told.append,
        )
    assert outcome.finished
    clips = project.catalogue.clips()
    assert len(clips) == 3
    assert all(clip.source.startswith("assist at Kitchen, ") for clip in clips)
    assert {s.audio_path for s in project.catalogue.sessions()} == {"assist"}
    record = project.settings.record
    assert household.questions == [record.question, record.again, record.again, record.question]
    assert all("kitchen" not in question.lower() for question in household.questions)  # would wake others
    cut = audio.read_samples(project.root / clips[0].path).tobytes()
    assert any(cut in samples.tobytes() for samples in takes)  # what the satellite sent, to the sample
    assert [t.hints for t in told if t.kind == "taken"] == [()] * 3


async def test_where_home_assistant_is_has_to_be_known(project: Project):
    agreed(project)
    with pytest.raises(InputError, match="where Home Assistant is"):
        await recording.record(ask_here(project), device="kitchen", via="home-assistant", person="Anna", takes=1)
    nowhere = find_access(f"http://127.0.0.1:{free_port()}", "abc", environ={})
    with pytest.raises(HomeAssistantError):
        await recording.record(
            ask_here(project), device="kitchen", via="home-assistant", person="Anna", takes=1, access=nowhere
        )
    assert project.catalogue.sessions() == []


# ---- uploads --------------------------------------------------------------------------------------------------------


def encoded(samples: audio.Samples, rate: int = RATE, **form: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, audio.int16_to_float(samples), rate, **form)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "form",
    [
        {"format": "WAV", "subtype": "PCM_16"},
        {"format": "WAV", "subtype": "FLOAT"},
        {"format": "FLAC"},
        {"format": "OGG", "subtype": "VORBIS"},
        {"format": "OGG", "subtype": "OPUS"},
        {"format": "MP3"},
    ],
    ids=str,
)
def test_an_upload_in_a_usual_form_becomes_a_clip(form: dict[str, str], project: Project):
    agreed(project)
    samples = upload.read_upload(encoded(take(), **form))
    session = sessions.next_session(project, sit(project, 1, audio_path="browser"))
    taken = add_take(project, session.id, Heard(samples=samples, at=NOON))
    assert taken.good, taken.report.reasons
    (clip,) = project.catalogue.clips()
    assert clip.id == taken.clip
    assert clip.source.startswith("browser at ")


def test_what_cannot_be_used_is_refused_by_its_bytes_and_names_no_path():
    wav = encoded(take(), format="WAV", subtype="PCM_16")
    for content, said in (
        (b"", "0 bytes"),
        (b"\x1a\x45\xdf\xa3" + b"x" * 100, "WebM"),
        (b"\0\0\0\x18ftypM4A " + b"x" * 100, "MP4"),
        (b"MZ" + bytes(1000), "not a sound file"),
        (wav[: len(wav) // 2], "truncated"),
        (encoded(room(31.0), format="FLAC"), "longer than 30 s"),
        (b"RIFF" + bytes(upload.MOST_BYTES), "larger than 16 MB"),
    ):
        with pytest.raises(AudioFileError, match=said) as error:
            upload.read_upload(content, name="../../etc/take\n1.wav")
        assert "/tmp" not in str(error.value)
        assert "\n1" not in str(error.value)
    many = io.BytesIO()
    soundfile.write(many, np.zeros((1600, 64), np.int16), RATE, format="WAV", subtype="PCM_16")
    with pytest.raises(AudioFileError, match="64 channels"):
        upload.read_upload(many.getvalue())


@given(st.binary(max_size=300), st.sampled_from(["", "WAV", "FLAC", "OGG"]), st.integers(0, 400))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_hostile_bytes_end_in_samples_or_in_an_error_of_ours(junk: bytes, format: str, place: int):
    content = encoded(room(0.2), format=format) if format else b""
    content = content[:place] + junk + content[place + len(junk) :]
    try:
        samples = upload.read_upload(content)
    except AudioFileError:
        return
    assert samples.dtype == np.int16
    assert samples.size <= upload.LONGEST_S * RATE


# ---- speech-to-text -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stt_server() -> Iterator[str]:
    """A real Wyoming server in a process of its own."""
    script = Path(__file__).with_name("toy_transcriber.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as process:
        assert process.stdout is not None
        yield f"wyoming://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


async def test_a_wyoming_server_reads_a_take_in_the_language_of_the_project(stt_server: str):
    samples = take()
    read = await transcribe.transcribe(stt_server, samples, language="de-AT")
    assert read == f"de {samples.size / RATE:.2f} Hey kitchen"


async def test_what_a_server_does_wrong_is_told_with_its_address(stt_server: str):
    with pytest.raises(ToolError, match="nothing came"):
        await transcribe.transcribe(stt_server, np.zeros(0, np.int16))
    with pytest.raises(ToolError, match="hung up"):
        await transcribe.transcribe(stt_server, np.zeros(11 * RATE, np.int16))
    nowhere = f"wyoming://127.0.0.1:{free_port()}"
    with pytest.raises(ToolError, match=nowhere):
        await transcribe.transcribe(nowhere, take())
    for address in ("127.0.0.1:10300", "http://host:1", "wyoming://host", "wyoming://host:99999", "wyoming://a@h:1"):
        with pytest.raises(InputError):
            transcribe.make_transcriber(address)
    assert transcribe.make_transcriber("") is None


async def test_transcripts_are_hints_and_a_server_that_is_away_stops_no_session(project: Project, stt_server: str):
    agreed(project)
    read = transcribe.make_transcriber(stt_server, "en")
    outcome, told = await lead(project, Scripted(good_takes(1)), sit(project, 1), transcribe=read)
    assert outcome.finished
    assert not outcome.notes
    away = transcribe.make_transcriber(f"wyoming://127.0.0.1:{free_port()}")
    outcome, told = await lead(project, Scripted(good_takes(2, 1)), sit(project, 2), transcribe=away)
    assert outcome.finished
    assert len([t for t in told if t.kind == "note"]) == 1
    assert "cannot be reached" in outcome.notes[0]

    async def other(_: audio.Samples) -> str:
        return "turn on the light"

    outcome, told = await lead(project, Scripted(good_takes(1, 4)), sit(project, 1), transcribe=other)
    assert outcome.finished
    assert [t.hints for t in told if t.kind == "taken"] == [("speech-to-text read 'turn on the light'",)]


def test_captures_are_read_once_and_forgotten_with_the_capture(tmp_path: Path, stt_server: str):
    root = tmp_path / "p"
    store.create_project(root, "hey kitchen").catalogue.close()
    project = store.open_project(root, {"record.stt": stt_server})
    capture = add_capture(project, take())
    expected = {capture.id: f"en {capture.duration_s:.2f} Hey kitchen"}
    assert transcribe.transcribe_captures(project, [capture]) == expected
    project.catalogue.put_transcript(capture.id, "kept")
    assert transcribe.transcribe_captures(project, [capture]) == {capture.id: "kept"}
    project.catalogue.remove_captures([capture])
    assert project.catalogue.transcripts() == {}
    project.catalogue.put_transcript(capture.id, "too late")
    assert project.catalogue.transcripts() == {}
    project.catalogue.close()


# ---- deletion -------------------------------------------------------------------------------------------------------


def add_capture(project: Project, samples: audio.Samples, **fields: Any) -> Capture:
    sha256 = audio.samples_digest(samples)
    values: dict[str, Any] = {
        "device": "kitchen",
        "upload": sha256[:8],
        "kind": CaptureKind.PROMPT,
        "captured_at": NOON.isoformat(timespec="milliseconds"),
        "received_at": NOON.isoformat(timespec="milliseconds"),
        "path": f"captures/{sha256[:2]}/{sha256}.flac",
        "sha256": sha256,
        "bytes": 1000,
        "duration_s": samples.size / RATE,
    }
    values |= fields
    capture = Capture(id=digest([values["device"], values["upload"]]), **values)
    audio.write_flac(project.root / capture.path, samples)
    project.catalogue.add_capture(capture)
    return capture


NAME = "Ännchen Überall"


def add_voice(project: Project, name: str, seed: int) -> list[Clip]:
    """Two takes of somebody."""
    agreed(project, name)
    session = sessions.next_session(project, sit(project, 2, person=name))
    for number in range(2):
        assert add_take(project, session.id, Heard(samples=take(VOICES[seed + number], seed=seed), at=NOON)).good
    return [clip for clip in project.catalogue.clips() if clip.speaker == name]


def add_learned(project: Project, run: str, clips: dict[str, str], names: list[str], **tables: dict[str, str]) -> None:
    """A finished run with features, model and report, as the stages leave them."""
    features = project.features_dir / f"set-{run}"
    features.mkdir(parents=True)
    index = {"id": features.name, "sides": clips, "speakers": {"train": names}, **tables}
    (features / "index.json").write_text(json.dumps(index))
    (features / "train-wake.json").write_text(json.dumps({"events": [{"speaker": names[0]}]}))
    (features / "train-wake.u16").write_bytes(bytes(100))
    (project.runs_dir / run).mkdir(parents=True)
    project.catalogue.put_run(run, store.now(), {"id": run, "feature_set": features.name})
    project.models_dir.mkdir(exist_ok=True)
    about = project.models_dir / f"m-{run}.about.json"
    about.write_text(json.dumps({"run": run}))
    project.catalogue.put_model(
        f"m-{run}", {"id": f"m-{run}", "run": run, "about_path": str(about.relative_to(project.root))}
    )
    project.reports_dir.mkdir(exist_ok=True)
    report = {"voices": [{"name": name, "recall": 0.5} for name in names]}
    (project.reports_dir / f"{run}.json").write_text(json.dumps(report, ensure_ascii=False))
    cells = "".join(f"<td>{name}</td>" for name in names)
    (project.reports_dir / f"{run}.html").write_text(f"<table><tr>{cells}</tr></table>", encoding="utf-8")


def left_of(project: Project, *needles: bytes) -> list[str]:
    """Every file of the project that holds one of them, catalogue and its log included."""
    files = [path for path in project.root.rglob("*") if path.is_file()]
    return [str(path.relative_to(project.root)) for path in files if any(n in path.read_bytes() for n in needles)]


def test_a_deleted_person_leaves_nothing_on_the_disk_and_everybody_else_stays(project: Project):
    people.note_consent(project, NAME, noted_by=NAME, purpose="a purpose that was replaced")
    hers, his = add_voice(project, NAME, 0), add_voice(project, "Ben", 3)
    session = hers[0].session
    named = add_capture(project, take("f5", seed=9), person=NAME, verdict=Verdict.WAKE)
    unnamed = add_capture(project, take("f5", seed=10), session=session, verdict=Verdict.DISCARD)
    other = add_capture(project, take("m7", seed=11), kind=CaptureKind.DETECTION)
    cut = audio.add_clip(
        project.root, take("f5", seed=12), label=Label.WAKE, origin=Origin.RECORDED, parent=named.id, speaker=NAME
    )
    project.catalogue.add_clips([cut])
    project.catalogue.put_transcript(named.id, "hey kitchen said by her")
    recording.review.judge(project, [other.id], Verdict.WAKE, by="Ben", person=NAME)
    recording.review.judge(project, [other.id], Verdict.WAKE, by="Ben", person="Ben")
    sides = {hers[0].id: "train", hers[1].id: "test", his[0].id: "train"}
    add_learned(project, "r1", sides, [NAME, "Ben"])
    add_learned(project, "r2", {his[0].id: "train"}, ["Ben"])
    unfinished = project.features_dir / "half"
    unfinished.mkdir()
    (unfinished / "pool-train.i16").write_bytes(take().tobytes())
    sounds = [clip.sha256.encode() for clip in [*hers, cut]] + [named.sha256.encode(), unnamed.sha256.encode()]
    text = [NAME.encode(), json.dumps(NAME)[1:-1].encode(), session.encode(), b"said by her", b"was replaced"]
    ids = [id.encode() for id in (named.id, unnamed.id)]
    assert left_of(project, *text)

    removed = people.delete_person(project, NAME.lower())

    assert set(removed.clips) == {clip.id for clip in hers} | {cut.id}
    assert set(removed.captures) == {named.id, unnamed.id}
    assert removed.sessions == (session,)
    assert removed.consent
    assert removed.files == 5
    assert set(removed.feature_sets) == {"set-r1", "half"}
    assert (removed.runs, removed.models) == (("r1",), ("m-r1",))
    assert set(removed.reports) == {"r1.json", "r1.html"}
    assert removed.still_named == ()
    assert left_of(project, *text, *sounds, *ids) == []
    assert not any((project.root / "audio").rglob(f"{hers[0].sha256}*"))
    by_id = {model["id"]: model for model in project.catalogue.models()}
    mark = by_id["m-r1"]["deleted"][0]
    assert (mark["clips"], mark["trained_on"]) == (2, 1)
    assert "deleted" not in by_id["m-r2"]
    assert json.loads((project.models_dir / "m-r1.about.json").read_text())["deleted"] == [mark]
    assert {clip.speaker for clip in project.catalogue.clips()} == {"Ben"}
    assert [audio.read_samples(project.root / clip.path).size > 0 for clip in project.catalogue.clips()] == [True] * 2
    assert [c.id for c in project.catalogue.captures()] == [other.id]
    assert (project.features_dir / "set-r2" / "index.json").exists()
    assert [person.name for person in project.catalogue.people()] == ["Ben"]
    assert "Ben" in (project.reports_dir / "r1.html").read_text()
    with pytest.raises(InputError, match="nobody called"):
        people.delete_person(project, NAME)


def test_the_next_person_who_goes_is_found_in_models_whose_features_went_with_the_first(project: Project):
    hers, his = add_voice(project, "Anna", 0), add_voice(project, "Ben", 3)
    add_learned(project, "r1", {hers[0].id: "train", his[0].id: "train", his[1].id: "validation"}, ["Anna", "Ben"])
    assert people.delete_person(project, "Anna").models == ("m-r1",)
    removed = people.delete_person(project, "Ben")
    assert (removed.models, removed.feature_sets) == (("m-r1",), ())
    (model,) = project.catalogue.models()
    assert [(mark["clips"], mark["trained_on"]) for mark in model["deleted"]] == [(1, 1), (2, 1)]


def test_a_model_that_was_trained_on_from_one_that_heard_somebody_is_marked_too(project: Project):
    hers, his = add_voice(project, "Anna", 0), add_voice(project, "Ben", 3)
    add_learned(project, "r1", {hers[0].id: "train", his[0].id: "test"}, ["Anna"])
    for run, start in (("r2", "r1"), ("r3", "r2")):
        add_learned(project, run, {his[0].id: "train"}, ["Ben"])
        document = {"id": run, "feature_set": f"set-{run}", "start": start}
        project.catalogue.put_run(run, store.now(), document)
    add_learned(project, "r4", {his[1].id: "train"}, ["Ben"])
    told = people.find_traces(project, "anna")
    removed = people.delete_person(project, "Anna")
    assert (removed.runs, removed.models) == (("r1", "r2", "r3"), ("m-r1", "m-r2", "m-r3"))
    assert told.models == removed.models, "what was said before"
    assert removed.feature_sets == ("set-r1",)
    marks = {run["id"]: run.get("deleted", [{}])[0].get("start") for run in project.catalogue.runs()}
    assert marks == {"r1": None, "r2": "r1", "r3": "r2", "r4": None}


def test_what_a_model_heard_is_found_also_when_the_verdict_was_taken_back_since(project: Project):
    capture = add_capture(project, take("f5", seed=9), kind=CaptureKind.DETECTION)
    recording.review.judge(project, [capture.id], Verdict.WAKE, by="Ben", person="Anna")
    recording.review.apply_verdicts(project)
    (clip,) = project.catalogue.clips()
    add_learned(project, "r1", {clip.id: "train"}, ["Anna"], parents={clip.id: capture.id}, people={clip.id: "Anna"})
    recording.review.undo(project, by="Ben")
    assert project.catalogue.clips() == []
    shutil.copytree(project.root, other := project.root.with_name("other"))
    removed = people.delete_captures(project, [capture.id])
    assert (removed.captures, removed.feature_sets, removed.models) == ((capture.id,), ("set-r1",), ("m-r1",))
    again = store.open_project(other)
    assert people.find_traces(again, "anna").models == ("m-r1",)
    removed = people.delete_person(again, "anna")
    assert (removed.feature_sets, removed.models) == (("set-r1",), ("m-r1",))
    again.catalogue.close()


def test_single_clips_can_be_deleted(project: Project):
    keep, go = add_voice(project, "Anna", 0)
    removed = people.delete_clips(project, [go.id, "unknown"])
    assert removed.clips == (go.id,)
    assert removed.files == 1
    assert not removed.consent
    assert [clip.id for clip in project.catalogue.clips()] == [keep.id]
    assert left_of(project, go.sha256.encode()) == []


def test_a_name_in_the_users_own_files_is_told(project: Project):
    add_voice(project, "Anna", 0)
    path = project.root / store.PROJECT_FILE
    path.write_text(path.read_text() + "split: {always_train: [Anna]}\n")
    assert people.delete_person(project, "Anna").still_named == (store.PROJECT_FILE,)


def test_a_deletion_that_was_interrupted_is_run_again(project: Project, monkeypatch: pytest.MonkeyPatch):
    hers = add_voice(project, "Anna", 0)
    add_learned(project, "r1", {hers[0].id: "train"}, ["Anna"])

    def pulled(_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(people, "_reports", pulled)
        people.delete_person(project, "Anna")
    assert project.catalogue.clips() != []
    removed = people.delete_person(project, "Anna")
    assert removed.clips == tuple(sorted(clip.id for clip in hers))
    assert left_of(project, b"Anna") == []
