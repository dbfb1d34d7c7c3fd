"""Nobody is recorded through the page without a consent; takes are judged at once, and satellites need no page."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from blockbuster import blockbuster_ctx
from fake_home_assistant import TOKEN, FakeHomeAssistant
from spoken_words import RATE, room, take
from test_record_sessions import Household, add_learned, good_takes, one_day  # noqa: F401  the fixture
from test_web import Site, opened_site, read_events

from mww_ha import audio
from mww_ha.devices.known import add_device
from mww_ha.record import people
from mww_ha.schema import Device, Label, Origin
from mww_ha.store import Project
from mww_ha.web import takes
from mww_ha.web.people import PEOPLE_ROUTES
from mww_ha.web.takes import TAKE_ROUTES


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> Iterator[None]:
    with blockbuster_ctx("mww_ha.web"):
        yield


@pytest.fixture
async def site(project: Project) -> AsyncIterator[Site]:
    async with opened_site(project.root) as made:
        yield made


async def post(site: Site, path: str, status: int = 200, headers: dict[str, str] | None = None, **body: Any) -> Any:
    got, answer, _ = await site.ask("POST", path, headers=headers, json=body)
    assert got == status, answer
    return answer


async def agree(site: Site, name: str = "Anna", **more: Any) -> Any:
    return await post(site, "/api/people", 201, name=name, agrees=True, **more)


async def sit(site: Site, takes: int = 2, *places: str, person: str = "Anna") -> Any:
    return await post(site, "/api/sittings", 201, person=person, takes=takes, places=list(places or ["at the table"]))


def encoded(samples: np.ndarray, rate: int = RATE, **form: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, audio.int16_to_float(samples), rate, **(form or {"format": "WAV", "subtype": "PCM_16"}))
    return buffer.getvalue()


async def send(
    site: Site, sitting: str, content: bytes, status: int = 201, headers: dict[str, str] | None = None, **more: Any
) -> Any:
    got, answer, _ = await site.ask(
        "POST", f"/api/sittings/{sitting}/takes", data=io.BytesIO(content), headers=headers or site.owner, **more
    )
    assert got == status, answer
    return answer


# --- people ----------------------------------------------------------------------------------------------------------


async def test_a_consent_is_noted_once_with_who_when_and_what_for(site: Site, project: Project):
    assert await site.get("/api/people") == {
        "people": [], "recorded": 0, "wanted_people": 3, "purpose": people.PURPOSE,
    }  # fmt: skip
    view = await agree(site, " Ännchen  Überall ", may_share=True)
    person = view["person"]
    assert (person["name"], person["noted_by"], person["may_share"]) == ("Ännchen Überall", "owner", True)
    assert (view["good"], view["wanted"], view["open_sitting"]) == (0, 20, "")
    again = await post(site, "/api/people", 409, name="ännchen überall", agrees=True)
    assert "agreed already" in again["message"]
    changed = await agree(site, "ännchen überall", replace=True)
    assert (changed["person"]["name"], changed["person"]["may_share"]) == ("Ännchen Überall", False)
    refused = await post(site, "/api/people", 409, name="Ben", agrees=False)
    assert "without a consent" in refused["message"]
    for name in ("", "piper:en:3", "@folder", "x" * 81, "a\u202eb"):
        await post(site, "/api/people", 422, name=name, agrees=True)
    assert [p.name for p in project.catalogue.people()] == ["Ännchen Überall"]


async def test_without_a_consent_nothing_begins_and_after_its_withdrawal_nothing_goes_on(site: Site):
    got, answer, _ = await site.ask("POST", "/api/sittings", json={"person": "Anna", "places": ["here"]})
    assert (got, "nobody noted that Anna agreed" in answer["message"]) == (422, True)
    for body in ({"device": "kitchen"}, {"device": "assist_satellite.x", "via": "home-assistant"}):
        await post(site, "/api/recordings", 422, person="Anna", places=["here"], **body)
    await agree(site)
    sitting = (await sit(site))["sitting"]
    await post(site, "/api/people/forget", name="anna")
    await send(site, sitting, encoded(take()), 404)


async def test_a_person_is_forgotten_with_sound_and_features_and_the_page_says_before_what_goes(
    site: Site, project: Project
):
    for name in ("Anna", "Ben"):
        await agree(site, name)
    first, second = good_takes(2)
    for name, samples in (("Anna", first), ("Ben", second)):
        sitting = await sit(site, 1, person=name)
        assert (await send(site, sitting["sitting"], encoded(samples)))["good"]
    clips = {clip.speaker: clip for clip in project.catalogue.clips()}
    add_learned(project, "run1", {clip.id: "train" for clip in clips.values()}, ["Anna", "Ben"])
    add_learned(project, "run2", {clips["Ben"].id: "train"}, ["Ben"])
    traces = await post(site, "/api/people/look", name="ANNA")
    assert (traces["name"], traces["clips"], traces["models"], traces["consent"]) == ("Anna", 1, ["m-run1"], True)
    assert 0.3 < traces["duration_s"] < 1.5
    forgotten = await post(site, "/api/people/forget", name="anna")
    assert (forgotten["clips"], forgotten["files"], forgotten["models"], forgotten["feature_sets"]) == (
        1, 1, ["m-run1"], 1,
    )  # fmt: skip
    assert [view["person"]["name"] for view in (await site.get("/api/people"))["people"]] == ["Ben"]
    assert [clip.speaker for clip in project.catalogue.clips()] == ["Ben"]
    await post(site, "/api/people/look", 422, name="Anna")


async def test_behind_ingress_people_record_and_take_back_their_own_and_only_administrators_delete(project: Project):
    people.note_consent(project, "Anna", noted_by="Ben")
    async with opened_site(project.root, ingress=True, ingress_peer="127.0.0.1", admins=("boss",)) as site:
        anna, ben, boss = (
            {"X-Remote-User-Id": id, "X-Remote-User-Display-Name": id.title(), "Origin": site.base}
            for id in ("anna", "ben", "boss")
        )
        noted = await post(site, "/api/people", 201, anna, name="Carl", agrees=True)
        assert noted["person"]["noted_by"] == "Anna"
        sitting = await post(site, "/api/sittings", 201, anna, person="Anna", takes=2, places=["here"])
        one, two = [
            (await send(site, sitting["sitting"], encoded(samples), headers=anna))["clip"] for samples in good_takes(2)
        ]
        assert (await site.ask("DELETE", f"/api/takes/{one}", headers=ben))[0] == 403
        assert (await site.ask("DELETE", f"/api/takes/{one}", headers=anna))[0] == 200
        assert (await site.ask("DELETE", f"/api/takes/{two}", headers=boss))[0] == 200
        await post(site, "/api/people/forget", 403, anna, name="Anna")
        await post(site, "/api/people", 403, anna, name="Carl", agrees=True, may_share=True, replace=True)
        await post(site, "/api/people/forget", 200, boss, name="Anna")


async def test_a_running_stage_keeps_its_clips(site: Site, project: Project):
    await agree(site)
    view = await send(site, (await sit(site))["sitting"], encoded(take()))
    job = await site.order("train")
    await site.wait(job["id"], "running")
    status, answer, _ = await site.ask("DELETE", f"/api/takes/{view['clip']}")
    assert (status, "train is at work" in answer["message"]) == (409, True)
    await post(site, "/api/people/forget", 409, name="Anna")
    await site.ask("POST", f"/api/jobs/{job['id']}/cancel")
    await site.wait(job["id"])
    assert (await site.ask("DELETE", f"/api/takes/{view['clip']}"))[0] == 200
    assert project.catalogue.clips() == []


# --- takes of the page -----------------------------------------------------------------------------------------------


async def test_a_take_is_judged_at_once_kept_heard_again_and_taken_back(site: Site, project: Project):
    await agree(site)
    sitting = await sit(site, 3, "at the table", "from the door")
    assert [(part["place"], part["wanted"]) for part in sitting["parts"]] == [("at the table", 2), ("from the door", 1)]
    assert (sitting["next"]["number"], sitting["next"]["place"], sitting["next"]["first"]) == (1, "at the table", True)
    samples = take()
    async with site.session.get(f"{site.base}/api/events", headers=site.owner) as events:
        view = await send(site, sitting["sitting"], encoded(samples))
        assert (await read_events(events, until="people"))[-1][2] == {"person": "Anna"}
    assert (view["good"], view["reasons"], view["hints"]) == (True, [], [])
    assert view["heard_s"] == pytest.approx(samples.size / RATE)
    assert -26 < view["level_dbfs"] < -16
    (clip,) = project.catalogue.clips()
    assert (clip.id, clip.label, clip.origin, clip.speaker) == (view["clip"], Label.WAKE, Origin.RECORDED, "Anna")
    assert clip.source.startswith("browser at browser, at the table")
    kept = audio.read_samples(project.root / clip.path)
    start = round(view["start_s"] * RATE)
    assert np.array_equal(kept, samples[start : start + kept.size]), "what was sent, to the sample"
    status, _, headers = await site.ask("GET", f"/{view['sound']}", headers={**site.owner, "Range": "bytes=0-3"})
    assert (status, headers["Content-Type"], headers["Content-Range"][:9]) == (206, "audio/flac", "bytes 0-3")

    silent = await send(site, sitting["sitting"], encoded(room(2.0)))
    assert (silent["good"], silent["clip"], silent["sound"]) == (False, "", "")
    assert [reason["fault"] for reason in silent["reasons"]] == ["empty"]
    again = await send(site, sitting["sitting"], encoded(samples))
    assert [reason["fault"] for reason in again["reasons"]] == ["duplicate"]
    assert (again["sitting"]["taken"], again["sitting"]["refused"]) == (1, 2)
    assert len(list(project.audio_dir.rglob("*.flac"))) == 1

    status, back, _ = await site.ask("DELETE", f"/api/takes/{view['clip']}")
    assert (status, back["taken"], back["next"]["number"]) == (200, 0, 1)
    assert list(project.audio_dir.rglob("*.flac")) == []
    assert (await site.ask("GET", f"/{view['sound']}"))[0] == 404
    assert (await site.ask("DELETE", f"/api/takes/{view['clip']}"))[0] == 404
    last = None
    for samples in good_takes(3, 2):
        last = await send(site, sitting["sitting"], encoded(samples))
        assert last["good"]
    assert last is not None
    assert last["sitting"]["next"] is None
    assert [(t["place"], t["clip"] != "") for t in last["sitting"]["takes"]] == [
        ("at the table", True), ("at the table", True), ("from the door", True),
    ]  # fmt: skip
    await send(site, sitting["sitting"], encoded(take(seed=9)), 422)
    (anna,) = (await site.get("/api/people"))["people"]
    assert (anna["good"], anna["refused"], anna["microphones"], anna["open_sitting"]) == (3, 2, ["browser"], "")
    assert anna["places"] == [{"place": "at the table", "takes": 2}, {"place": "from the door", "takes": 1}]


async def test_a_file_is_a_take_too_whatever_it_calls_itself_and_a_large_one_is_none(site: Site, project: Project):
    await agree(site)
    sitting = (await sit(site, 2))["sitting"]
    stereo = np.repeat(take("f2")[:, None], 2, axis=1)
    assert (await send(site, sitting, encoded(stereo, 48_000 // 3, format="FLAC"), params={"audio_path": "file"}))[
        "good"
    ]
    (clip,) = project.catalogue.clips()
    assert clip.source.startswith("file at file")
    for content, said in (
        (b"", "0 bytes"),
        (b"\x1a\x45\xdf\xa3" + bytes(100), "WebM"),
        (bytes(100), "not a sound file"),
    ):
        refused = await send(site, sitting, content, 422)
        assert said in refused["message"]
        assert "/" not in refused["message"]
    await send(site, sitting, bytes((16 << 20) + 1), 413)
    assert (await site.get(f"/api/sittings/{sitting}"))["taken"] == 1


async def test_speech_to_text_hints_and_a_server_that_is_away_costs_no_take(project: Project):
    (project.root / "project.yaml").write_text("phrase: hey kitchen\nrecord: {stt: 'wyoming://127.0.0.1:1'}\n")
    async with opened_site(project.root) as site:
        await agree(site)
        began = time.monotonic()
        view = await send(site, (await sit(site))["sitting"], encoded(take()))
        assert (view["good"], view["hints"]) == (True, [])
        assert time.monotonic() - began < 16


# --- files -----------------------------------------------------------------------------------------------------------


async def test_a_small_file_cannot_hold_sound_for_years(site: Site, project: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(takes, "MOST_IMPORT_HOURS", 0.01)
    hum = encoded(np.full(40 * 16000, 5000, np.int16), format="FLAC")
    status, answer, _ = await site.ask("POST", "/api/imports", data=io.BytesIO(hum), params={"label": "noise"})
    assert (status, answer["added"]) == (201, 0)
    assert "longer than 0.01 hours" in answer["rejected"]
    assert "/" not in answer["rejected"]


async def test_files_are_imported_under_names_of_ours_with_label_and_person(site: Site, project: Project):
    person = (await agree(site))["id"]

    async def add(content: bytes, **query: str) -> Any:
        status, answer, _ = await site.ask("POST", "/api/imports", data=io.BytesIO(content), params=query)
        assert status == 201, answer
        return answer

    wake = encoded(take(), format="OGG", subtype="VORBIS")
    first = await add(wake, label="wake", person=person)
    assert (first["added"], first["known"], first["rejected"]) == (1, 0, "")
    assert (await add(wake, label="wake", person=person))["known"] == 1
    assert (await add(encoded(room(40.0, dbfs=-30)), label="noise"))["duration_s"] == pytest.approx(40)
    for content, said in (
        (b"MZ" + bytes(200), "not a sound file"),
        (b"", "0 bytes"),
        (b"\0\0\0\x18ftypM4A " + bytes(99), "MP4"),
        (encoded(room(40.0)), "longer than 30 s"),
    ):
        rejected = (await add(content, label="confusable"))["rejected"]
        assert said in rejected
        assert "/" not in rejected
    clips = {clip.label: clip for clip in project.catalogue.clips()}
    assert {label: (clip.speaker, clip.origin) for label, clip in clips.items()} == {
        Label.WAKE: ("Anna", Origin.IMPORTED), Label.NOISE: ("", Origin.IMPORTED),
    }  # fmt: skip
    assert all(clip.source.startswith("upload ") for clip in clips.values())
    doubted = await add(encoded(take("f2", gain=0.001)), label="wake")
    assert (doubted["added"], "no word was heard" in doubted["doubt"]) == (1, True)
    assert list((project.root / "service").glob("upload-*")) == []
    for query in ({"label": "rir"}, {"label": "wake", "person": "Anna"}, {"label": "wake", "person": "0" * 16}):
        assert (await site.ask("POST", "/api/imports", data=io.BytesIO(wake), params=query))[0] in (404, 422), query
    sound = f"{site.base}/api/clips/{clips[Label.WAKE].id}/sound"
    async with site.session.get(sound, headers=site.owner) as answer:
        heard, rate = soundfile.read(io.BytesIO(await answer.read()), dtype="int16")
    assert (rate, heard.size / rate) == (RATE, pytest.approx(take().size / RATE, abs=0.1))


@pytest.mark.parametrize("told", [True, False])
async def test_a_file_never_fills_the_disk(site: Site, project: Project, monkeypatch: pytest.MonkeyPatch, told: bool):
    """Where its length is told nothing of it is kept, else no more than leaves room for the clip that it becomes."""
    content = encoded(room(20.0, dbfs=-30))
    folder = project.root / "service"
    most = 0

    def usage(_: Path) -> SimpleNamespace:
        nonlocal most
        there = sum(path.stat().st_size for path in folder.glob("upload-*"))
        most = max(most, there)
        return SimpleNamespace(free=1.5 * len(content) - there)

    monkeypatch.setattr("mww_ha.web.takes.shutil", SimpleNamespace(disk_usage=usage))

    async def pieces() -> AsyncIterator[bytes]:
        for begin in range(0, len(content), 32_768):
            yield content[begin : begin + 32_768]

    data = io.BytesIO(content) if told else pieces()
    status, answer, _ = await site.ask("POST", "/api/imports", data=data, params={"label": "noise"})
    assert (status, "MB are free" in answer["message"]) == (507, True), answer
    assert most <= (0 if told else 0.75 * len(content))
    assert list(folder.glob("upload-*")) == []
    assert project.catalogue.clips() == []


# --- satellites ------------------------------------------------------------------------------------------------------


def set_home(project: Project, url: str) -> None:
    (project.root / "token").write_text(TOKEN)
    (project.root / "project.yaml").write_text(
        f"phrase: hey kitchen\nhome_assistant: {{url: '{url}', token_file: token, notifications: false}}\n"
    )


async def until(site: Site, true: Callable[[Any], Any]) -> Any:
    """The newest recording, as soon as it is so."""
    async with asyncio.timeout(60):
        while not true((await site.get("/api/recordings"))[0]):  # noqa: ASYNC110  over HTTP
            await asyncio.sleep(0.05)
    return (await site.get("/api/recordings"))[0]


KITCHEN = {"device": "assist_satellite.kitchen", "via": "home-assistant", "person": "Anna", "walk_s": 0}


async def test_a_session_on_a_satellite_runs_without_a_page_and_tells_all_it_does(project: Project):
    for name in ("Anna", "Ben"):
        people.note_consent(project, name, noted_by=name)
    takes = good_takes(3)
    async with FakeHomeAssistant() as home:
        set_home(project, home.url)
        household = Household(home, [takes[0], room(1.0), takes[1], takes[2]])
        async with opened_site(project.root) as site:
            async with asyncio.timeout(30):
                while not (found := await site.get("/api/microphones")):  # noqa: ASYNC110  until it is connected
                    await asyncio.sleep(0.05)
            assert [(one["device"], one["usable"], one["problem"]) for one in found] == [
                ("assist_satellite.kitchen", True, "")
            ]
            async with site.session.get(f"{site.base}/api/events", headers=site.owner) as events:
                begun = await post(site, "/api/recordings", 201, takes=3, places=["table", "door"], **KITCHEN)
                assert (begun["state"], begun["person"], begun["total"]) == ("opening", "Anna", 3)
                await post(site, "/api/recordings", 409, takes=3, places=["table"], **KITCHEN)
                told = []
                while not told or told[-1][1] != "recording" or not told[-1][2]["ended_at"]:
                    told += await read_events(events, until="recording")
            last = told[-1][2]
            assert (last["finished"], last["error"], last["why"]) == (True, "", "")
            assert [(t["number"], t["place"], t["good"]) for t in last["takes"]] == [
                (1, "table", True), (2, "table", False), (2, "table", True), (3, "door", True),
            ]  # fmt: skip
            assert last["takes"][1]["reasons"][0]["fault"] == "empty"
            assert [data["state"] for _, type, data in told if type == "recording"][:4] == [
                "opening", "moving", "listening", "checking",
            ]  # fmt: skip
            assert (await site.get("/api/recordings"))[0] == last
            sitting = await site.get(f"/api/sittings/{last['sitting']}")
            assert [t["clip"] for t in sitting["takes"]] == [t["clip"] for t in last["takes"] if t["good"]]
            status, back, _ = await site.ask("DELETE", f"/api/takes/{last['takes'][3]['clip']}")
            assert (status, back["taken"], back["next"]["place"]) == (200, 2, "door")
            body = {**KITCHEN, "person": "Ben"}
            await post(site, "/api/recordings", 422, takes=1, places=["x"], sitting=last["sitting"], **body)
            household.answers.append(good_takes(1, 5)[0])
            await post(site, "/api/recordings", 201, takes=3, places=["x"], sitting=last["sitting"], **KITCHEN)
            assert (await until(site, lambda one: one["ended_at"]))["finished"]
    assert [clip.speaker for clip in project.catalogue.clips()] == ["Anna"] * 3


async def test_a_session_waits_until_one_is_at_the_place_and_stops_at_once(project: Project):
    people.note_consent(project, "Anna", noted_by="Anna")
    async with FakeHomeAssistant() as home:
        set_home(project, home.url)
        household = Household(home, good_takes(2))
        async with opened_site(project.root) as site:
            body = {**KITCHEN, "walk_s": 60}
            begun = await post(site, "/api/recordings", 201, takes=2, places=["table", "door"], **body)
            moving = await until(site, lambda one: one["state"] == "moving")
            assert 50 < moving["left_s"] <= 60
            assert household.questions == []
            await post(site, f"/api/recordings/{begun['id']}/go-on")
            door = await until(site, lambda one: one["place"] == "door")
            assert (door["state"], len(door["takes"])) == ("moving", 1)
            began = time.monotonic()
            assert (await post(site, f"/api/recordings/{begun['id']}/stop"))["stopping"]
            ended = await until(site, lambda one: one["ended_at"])
            assert time.monotonic() - began < 12
            assert (ended["why"], ended["finished"], ended["state"]) == ("stopped", False, "ended")
            (anna,) = (await site.get("/api/people"))["people"]
            assert (anna["good"], anna["open_sitting"], anna["open_left"]) == (1, ended["sitting"], 1)
    assert len(household.questions) == 1


async def test_a_session_ends_with_the_service_and_what_is_recorded_stays(project: Project):
    people.note_consent(project, "Anna", noted_by="Anna")
    async with FakeHomeAssistant() as home:
        set_home(project, home.url)
        Household(home, good_takes(1))
        home.services["assist_satellite.ask_question"] = once(home.services["assist_satellite.ask_question"])
        async with opened_site(project.root) as site:
            await post(site, "/api/recordings", 201, takes=2, places=["table"], **KITCHEN)
            await until(site, lambda one: one["takes"] and one["state"] == "listening")
            began = time.monotonic()
        assert time.monotonic() - began < 20
    assert len(project.catalogue.clips()) == 1


async def wait_for_ever(_: dict[str, Any]) -> Any:
    await asyncio.Event().wait()


def once(answer: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """Answers one question; nobody is there for the next."""
    answers = [answer, wait_for_ever, wait_for_ever]

    async def ask(data: dict[str, Any]) -> Any:
        return await answers.pop(0)(data)

    return ask


async def test_what_keeps_a_satellite_from_recording_is_said(project: Project):
    people.note_consent(project, "Anna", noted_by="Anna")
    add_device(project, Device(name="hall", template="generic-s3", api_key=""))
    async with FakeHomeAssistant() as home:
        set_home(project, home.url)
        Household(home, [])
        home.registry.states[0]["state"] = "unavailable"
        async with opened_site(project.root) as site:
            async with asyncio.timeout(30):
                while len(found := await site.get("/api/microphones")) < 2:  # noqa: ASYNC110  until it is connected
                    await asyncio.sleep(0.05)
            assert {one["device"]: (one["usable"], one["problem"]) for one in found} == {
                "hall": (False, "no_capture"), "assist_satellite.kitchen": (False, "unavailable"),
            }  # fmt: skip
            await post(site, "/api/recordings", 201, device="hall", person="Anna", places=["here"])
            ended = await until(site, lambda one: one["ended_at"])
            assert "no capture_url" in ended["error"]
            assert "flash" in ended["hint"]
            await post(site, "/api/recordings", 422, device="attic", person="Anna", places=["here"])
            assert (await site.ask("POST", "/api/recordings/" + "0" * 12 + "/stop"))[0] == 404


def test_every_route_about_people_and_takes_has_an_answer_of_its_own():
    routes = (*PEOPLE_ROUTES, *TAKE_ROUTES)
    assert len({route.handler.__name__ for route in routes}) == len(routes)
