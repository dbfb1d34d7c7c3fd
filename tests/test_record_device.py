"""Prompted takes of a real device arrive, are checked, and become clips of that person, to the sample."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import time
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import host_build
import host_device
import numpy as np
import pytest
from aiohttp import web
from blockbuster import blockbuster_ctx
from spoken_words import RATE, VOICES, room, word
from test_capture_device import capture_package, device_yaml, needs_esphome
from test_record_sessions import ask_in_threads, one_day  # noqa: F401  the fixture
from test_web import opened_site

from mww_ha import audio
from mww_ha.capture.tokens import admit_rendered
from mww_ha.deploy.owned import ensure_token
from mww_ha.devices.connection import Connection
from mww_ha.devices.known import add_device
from mww_ha.errors import DeviceError, InputError
from mww_ha.record import people, sessions
from mww_ha.record.satellite import WakeMicrophone
from mww_ha.record.sessions import Told, Wish, ask_here
from mww_ha.schema import CaptureKind, Device, Label, Origin, Verdict
from mww_ha.store import Project, create_project, open_project
from mww_ha.web import recording
from mww_ha.web.app import Options, open_service

NAME = "capture-host"
TOKEN = "0123456789abcdefghijklmnopqrstuvwxyzABCDEF_"
SLOT_S = 2.0

pytestmark = [needs_esphome, host_build.needs_compiler]


def household_sound() -> np.ndarray:
    """People who say the phrase every two seconds, each in an own voice; played over and over."""
    pieces = []
    for number, voice in enumerate(VOICES):
        slot = room(SLOT_S, number).astype(np.int32)
        spoken = word("hey kitchen", voice)
        slot[RATE // 2 : RATE // 2 + spoken.size] += spoken
        pieces.append(slot)
    return np.clip(np.concatenate(pieces), -32768, 32767).astype(np.int16)


@dataclass(frozen=True)
class Built:
    program: Path
    api_port: int
    http_port: int
    sound: np.ndarray


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The device's program with people in front of its microphone."""
    folder = tmp_path_factory.mktemp("record-device")
    sound = household_sound()
    with wave.open(str(folder / "ramp.wav"), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(sound.astype("<i2").tobytes())
    (folder / "capture_host.yaml").write_text(capture_package(), "utf-8")
    ports = host_device.free_port(), host_device.free_port()
    text, count = re.subn(r"(?m)^  capture_token: .*$", f"  capture_token: {json.dumps(TOKEN)}", device_yaml(*ports))
    assert count == 1
    return Built(host_device.make(folder, NAME, text), *ports, sound)


@pytest.fixture
def home(built: Built, tmp_path: Path) -> Iterator[Project]:
    """A project that knows the device; Anna agreed to be recorded."""
    root = tmp_path / "home"
    create_project(root, "hey kitchen").catalogue.close()
    project = open_project(root, {"record.take_s": "2.0", "record.attempts": "12"})
    url = f"http://127.0.0.1:{built.http_port}/api/captures"
    add_device(
        project,
        Device(
            name=NAME,
            template="esp32-s3-box-3",
            address="127.0.0.1",
            port=built.api_port,
            api_key="",
            capture_url=url,
        ),
    )
    folder = project.esphome_dir / "mww_ha" / "capture"
    ensure_token(folder, NAME)
    path = folder / "secrets.yaml"
    path.write_text(f'"{NAME}": "{TOKEN}"\n')
    people.note_consent(project, "Anna", noted_by="Anna")
    yield project
    project.catalogue.close()


@pytest.fixture
def device(built: Built, tmp_path: Path) -> Iterator[host_device.HostDevice]:
    """A device that was never used before, running."""
    with host_device.HostDevice(built.program, api_port=built.api_port, home=tmp_path / "device") as running:
        yield running


async def entity(built: Built, name: str) -> object:
    async with Connection("127.0.0.1", port=built.api_port) as connection:
        return (await connection.values())[name]


async def record(project: Project, takes: int, told: list[Told], **more: object) -> sessions.Outcome:
    return await recording.record(
        ask_in_threads(project),
        device=NAME,
        via="satellite",
        person="anna",
        takes=takes,
        places=["at the table"],
        tell=told.append,
        **more,
    )


@pytest.mark.usefixtures("device")
async def test_takes_of_a_satellite_become_clips_and_captures_are_off_again(built: Built, home: Project):
    told: list[Told] = []
    outcome = await record(home, 3, told)
    assert outcome.finished, told
    assert outcome.notes == ()
    clips = home.catalogue.clips()
    assert len(clips) == 3
    heard_twice = np.concatenate([built.sound, built.sound]).tobytes()
    captures = {capture.id: capture for capture in home.catalogue.captures()}
    (session,) = home.catalogue.sessions()
    assert (session.audio_path, session.taken, session.refused) == ("wake", 3, outcome.refused)
    for clip in clips:
        assert (clip.label, clip.origin, clip.speaker) == (Label.WAKE, Origin.RECORDED, "Anna")
        assert clip.session == session.id
        assert audio.read_samples(home.root / clip.path).tobytes() in heard_twice
        assert captures[clip.parent].verdict is Verdict.WAKE
    assert all(c.kind is CaptureKind.PROMPT and c.person == "Anna" for c in captures.values())
    assert all(c.session == session.id and c.duration_s == pytest.approx(2.0, abs=0.01) for c in captures.values())
    refused = [t for t in told if t.kind == "refused"]
    assert len(refused) == outcome.refused == sum(c.verdict is Verdict.DISCARD for c in captures.values())
    assert all(t.text for t in refused)
    assert await entity(built, "capture_wake_audio") is False
    with socket.socket() as probe:  # nobody listens any more
        assert probe.connect_ex(("127.0.0.1", built.http_port)) != 0
    removed = people.delete_person(home, "Anna")
    assert len(removed.captures) == len(captures)
    assert len(removed.clips) == 3
    assert list(home.root.rglob("*.flac")) == []


@pytest.mark.usefixtures("device")
async def test_a_take_that_is_refused_ends_the_session_and_it_goes_on_when_that_is_mended(built: Built, home: Project):
    told: list[Told] = []

    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=401)

    app = web.Application()
    app.router.add_post("/api/captures", refuse)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", built.http_port, reuse_address=True).start()
    try:
        with pytest.raises(DeviceError, match="token that is not known"):
            await record(home, 1, told)
    finally:
        await runner.cleanup()
    assert [t.kind for t in told] == ["place", "now"]
    assert await entity(built, "capture_wake_audio") is False
    assert home.catalogue.clips() == []
    sitting = sessions.find_open(home, "Anna")
    outcome = await record(home, 1, told, sitting=sitting)
    assert (outcome.sitting, outcome.taken) == (sitting, 1)


@pytest.mark.usefixtures("device")
async def test_a_take_that_does_not_arrive_is_told_with_what_the_satellite_says(built: Built, home: Project):
    wish = Wish(session="s", phrase="hey kitchen", place="", first=True, seconds=0.3)
    called: list[bool] = []
    async with Connection("127.0.0.1", port=built.api_port) as connection:
        async with WakeMicrophone(ask_here(home), connection, NAME, arrival_s=3.0) as microphone:
            assert (await connection.values())["capture_wake_audio"] is True
            with pytest.raises(
                DeviceError, match=r"did not arrive after 3 s; the satellite says: prompt [0-9a-f-]+: \w+"
            ):
                await microphone.take(wish, lambda: called.append(True))
        assert called == [True]
        assert (await connection.values())["capture_wake_audio"] is False


@pytest.mark.usefixtures("device")
async def test_a_muted_satellite_and_one_without_the_component_are_told_at_once(built: Built, home: Project):
    async with Connection("127.0.0.1", port=built.api_port) as connection:
        await connection.call("mute", muted=True)
        with pytest.raises(DeviceError, match="is muted"):
            await record(home, 1, [])
        assert (await connection.values())["capture_wake_audio"] is False
        await connection.call("mute", muted=False)
    with pytest.raises(InputError, match="no device"):
        await recording.record(ask_here(home), device="attic", via="satellite", person="Anna")


@pytest.mark.usefixtures("device")
async def test_hours_of_a_device_are_counted_also_where_nothing_woke_it(built: Built, home: Project):
    admit_rendered(home)
    async with Connection("127.0.0.1", port=built.api_port) as connection:
        began = time.monotonic()
        await connection.switch("capture_wake_audio", True)
        await asyncio.sleep(2)
        await connection.call("mute", muted=True)  # its hours are shown when something changes
        hours = await connection.wait_for("listening_hours", lambda value: isinstance(value, float) and value > 0)
        assert isinstance(hours, float)
        listened_s = time.monotonic() - began
        async with open_service(home.root, Options(port=0, device_port=None)), asyncio.timeout(60):
            while not home.catalogue.exposure():  # noqa: ASYNC110  another connection writes
                await asyncio.sleep(0.05)
        await connection.switch("capture_wake_audio", False)
    assert home.catalogue.captures() == []
    found = {row.model: row.listening_s for row in home.catalogue.exposure()}
    assert found[""] == pytest.approx(hours * 3600, abs=0.1)
    assert 1 < found[""] < listened_s + 3


@pytest.mark.usefixtures("device")
async def test_the_service_records_a_satellite_takes_its_sound_in_and_gives_a_take_back(built: Built, home: Project):
    (home.root / "project.yaml").write_text("phrase: hey kitchen\nrecord: {take_s: 2.0, attempts: 12}\n")
    admit_rendered(home)
    body = {"device": NAME, "person": "anna", "takes": 2, "places": ["at the table"], "walk_s": 0}
    with blockbuster_ctx("mww_ha.web"):
        async with opened_site(home.root, device_port=built.http_port) as site:
            (microphone,) = await site.get("/api/microphones")
            assert (microphone["device"], microphone["usable"]) == (NAME, True)
            status, begun, _ = await site.ask("POST", "/api/recordings", json=body)
            assert status == 201, begun
            seen = set()
            async with asyncio.timeout(120):
                while not (one := (await site.get("/api/recordings"))[0])["ended_at"]:
                    seen.add(one["state"])
                    await asyncio.sleep(0.05)
            assert (one["finished"], one["error"], one["notes"]) == (True, "", [])
            assert {"listening", "checking"} <= seen
            good = [take["capture"] for take in one["takes"] if take["good"]]
            assert {clip.parent for clip in home.catalogue.clips()} == set(good)
            assert len(good) == 2
            status, sitting, _ = await site.ask("DELETE", f"/api/takes/{good[0]}")
            assert (status, sitting["taken"]) == (200, 1)
            assert [clip.parent for clip in home.catalogue.clips()] == [good[1]]
            status, begun, _ = await site.ask("POST", "/api/recordings", json={**body, "sitting": sitting["sitting"]})
            assert status == 201, begun
            async with asyncio.timeout(60):
                while (await site.get("/api/recordings"))[0]["state"] != "listening":  # noqa: ASYNC110  over HTTP
                    await asyncio.sleep(0.05)
    assert await entity(built, "capture_wake_audio") is False, "the service has ended, and with it the session"
