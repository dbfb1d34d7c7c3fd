"""A real device hands over exactly what it heard: the component in an ESPHome host device, over HTTP, to a real server.

The device hears a WAV whose samples are their own positions, so a clip proves by itself where it was cut. Its YAML is
the template ``capture.yaml``, less what only an ESP32 has: the microphone and the wake-word engine.
"""

from __future__ import annotations

import asyncio
import importlib.util
import io
import json
import re
import shutil
import subprocess
import time
import wave
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import host_build
import host_device
import numpy as np
import pytest
import toy_wake
from aioesphomeapi import APIClient
from aiohttp import web

from mww_ha.deploy import esphome
from mww_ha.deploy.model import LONGEST_STATE

TEMPLATES = Path(__file__).parent.parent / "esphome_templates"
RATE = 16_000
PRE, POST = RATE, int(0.3 * RATE)  # samples; shorter than by default, so that the tests are
HOLD_S, RETRY_MAX_S = 1.5, 0.8
LATE_S = 0.1  # so late the sound may be: the thread that plays the file waits for its turn
TOKEN = "odd-._~+/=token"

needs_esphome = pytest.mark.skipif(esphome.find_esphome() is None, reason="ESPHome is not installed")


# --- the device ---------------------------------------------------------------------------------------------------


def capture_package() -> str:
    """``capture.yaml`` for the host: sound from a file, a switch in place of the engine."""
    blocks = re.split(r"(?m)^(?=[a-z_]+:$)", (TEMPLATES / "capture.yaml").read_text("utf-8"))
    kept = "".join(block for block in blocks if not block.startswith("external_components:"))
    without_microphone = re.sub(r"(?m)^  microphone:\n(?:    .*\n)+", "  source_file: ramp.wav\n", kept)
    host = without_microphone.replace("id(${mww_id}).is_running()", "id(engine).state")
    assert host.count("source_file") == host.count("id(engine)") == 1
    return host


def device_yaml(api_port: int, http_port: int) -> str:
    return f"""
esphome:
  name: capture-host
host:
  mac_address: "62:23:45:AF:B3:DE"
external_components:
  - source: {{type: local, path: {json.dumps(str(TEMPLATES / "components"))}}}
logger:
preferences:
  flash_write_interval: 1s
substitutions:
  wake_model_version: hey_kitchen 1a2b3c4d
  capture_url: http://127.0.0.1:{http_port}/api/captures
  capture_token: {TOKEN}
  capture_pre_roll: {PRE // 16}ms
  capture_post_roll: {POST // 16}ms
  capture_min_interval: 0s
packages:
  capture: !include capture_host.yaml
mww_capture:
  near_miss_hold: {int(HOLD_S * 1000)}ms
  retry_min: 200ms
  retry_max: {int(RETRY_MAX_S * 1000)}ms
  timeout: 5s
api:
  port: {api_port}
  actions:
    - action: mute
      variables:
        muted: bool
      then:
        - mww_capture.set_muted:
            muted: !lambda return muted;
switch:
  - platform: template
    id: engine
    name: Engine
    optimistic: true
    restore_mode: ALWAYS_ON
"""


def write_ramp(path: Path) -> None:
    """Sample n is n - 32768: 4.096 s that follow each other without a seam when they are played over and over."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(np.arange(-32768, 32768).astype("<i2").tobytes())


@dataclass(frozen=True)
class Built:
    source: Path
    program: Path
    api_port: int
    http_port: int


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The device's program; compiled once."""
    folder = tmp_path_factory.mktemp("capture-device")
    write_ramp(folder / "ramp.wav")
    (folder / "capture_host.yaml").write_text(capture_package(), "utf-8")
    ports = host_device.free_port(), host_device.free_port()
    program = host_device.make(folder, "capture-host", device_yaml(*ports))
    return Built(folder / ".esphome" / "build" / "capture-host" / "src", program, *ports)


@pytest.fixture
def device(built: Built, tmp_path: Path) -> Iterator[host_device.HostDevice]:
    """A device that was never used before, running."""
    with host_device.HostDevice(built.program, api_port=built.api_port, home=tmp_path / "home") as running:
        yield running


class Satellite:
    """The device as a user sees it: entities by their object id."""

    def __init__(self, port: int) -> None:
        self.client = APIClient("127.0.0.1", port, None)
        self.states: dict[str, Any] = {}
        self.said: list[tuple[str, Any]] = []  # all states, in their order
        self.entities: dict[str, Any] = {}

    @classmethod
    @asynccontextmanager
    async def connect(cls, port: int) -> AsyncIterator[Satellite]:
        satellite = cls(port)
        await satellite.client.connect(login=True)
        try:
            entities, services = await satellite.client.list_entities_services()
            satellite.entities = {entity.object_id: entity for entity in entities}
            satellite.services = {service.name: service for service in services}
            names = {entity.key: entity.object_id for entity in entities}
            satellite.client.subscribe_states(lambda state: satellite.hear(names[state.key], state))
            await satellite.until(lambda: "capture_state" in satellite.states)
            yield satellite
        finally:
            await satellite.client.disconnect()

    def hear(self, entity: str, state: object) -> None:
        self.states[entity] = getattr(state, "state", None)
        self.said.append((entity, self.states[entity]))

    async def until(self, true: Callable[[], bool], timeout_s: float = 30.0) -> None:
        end = time.monotonic() + timeout_s
        while not true():
            assert time.monotonic() < end, self.states
            await asyncio.sleep(0.01)

    async def shows(self, entity: str, value: object) -> None:
        await self.until(lambda: self.states.get(entity) == value)

    async def switch(self, entity: str, on: bool) -> None:
        self.client.switch_command(self.entities[entity].key, on)
        await self.shows(entity, on)

    def press(self, entity: str) -> None:
        self.client.button_command(self.entities[entity].key)

    async def trigger(self, kind: str, word: str = "hey kitchen", ref: str = "", seconds: float = 0.0) -> None:
        arguments = {"kind": kind, "wake_word": word, "ref": ref, "seconds": seconds}
        await self.client.execute_service(self.services["mww_capture"], arguments)

    async def mute(self, muted: bool) -> None:
        await self.client.execute_service(self.services["mute"], {"muted": muted})
        await self.until(lambda: (self.states["capture_state"] == "muted") == muted)

    async def start_capture(self, warm_s: float = PRE / RATE + 0.2) -> None:
        await self.switch("capture_wake_audio", on=True)
        await asyncio.sleep(warm_s)


# --- the server ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Received:
    headers: dict[str, str]
    samples: np.ndarray

    @property
    def kind(self) -> str:
        return self.headers["Kind"]

    @property
    def first(self) -> int:
        """Position in the device's WAV of the first sample; fails unless the clip is unbroken sound."""
        assert (np.diff(self.samples.astype(np.int64)) % 65536 == 1).all()
        return int(self.samples[0]) + 32768


@dataclass
class Server:
    """A service that takes captures, on the one port the device knows."""

    port: int
    status: Callable[[Received], int] = lambda _: 201
    received: list[Received] = field(default_factory=list)
    _runner: web.AppRunner | None = None

    async def up(self) -> None:
        app = web.Application()
        app.router.add_post("/api/captures", self._take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def down(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _take(self, request: web.Request) -> web.Response:
        if request.headers["Authorization"] != f"Bearer {TOKEN}":
            return web.Response(status=401)
        assert request.headers["Content-Type"] == "audio/wav"
        with wave.open(io.BytesIO(await request.read()), "rb") as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
            samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        headers = {k.removeprefix("X-Mww-"): unquote(v) for k, v in request.headers.items() if k.startswith("X-Mww-")}
        received = Received(headers, samples)
        self.received.append(received)
        return web.Response(status=self.status(received))

    async def has(self, count: int, timeout_s: float = 30.0) -> list[Received]:
        end = time.monotonic() + timeout_s
        while len(self.received) < count:
            assert time.monotonic() < end, f"{len(self.received)} of {count} captures arrived"
            await asyncio.sleep(0.01)
        return self.received


@pytest.fixture
async def server(built: Built) -> AsyncIterator[Server]:
    """A server that is up and takes everything."""
    made = Server(built.http_port)
    await made.up()
    yield made
    await made.down()


@pytest.fixture
async def satellite(built: Built, device: host_device.HostDevice) -> AsyncIterator[Satellite]:
    """A connection to a device that was never used before."""
    async with Satellite.connect(built.api_port) as connected:
        yield connected


def check_window(clip: Received, pre: int = PRE, post: int = POST) -> None:
    """A clip with exactly that many samples before and after its trigger, unbroken."""
    assert len(clip.samples) == pre + post
    assert int(clip.headers["Trigger-Sample"]) == pre
    assert clip.first >= 0


def check_nothing_before(clip: Received, begin: float) -> None:
    """An unbroken clip with no sample from before that moment, and with the whole post-roll."""
    before = int(clip.headers["Trigger-Sample"])
    arrived = time.monotonic()
    assert 0 < before <= PRE
    assert before + POST <= (arrived - begin + LATE_S) * RATE
    check_window(clip, before)


@asynccontextmanager
async def bare_server(port: int, reads_s: float | None) -> AsyncIterator[BareServer]:
    """A server that never answers, and reads 512 bytes each ``reads_s`` seconds, or nothing (None)."""
    bare = BareServer(reads_s)
    listening = await asyncio.start_server(bare.serve, "127.0.0.1", port, limit=512)
    try:
        yield bare
    finally:
        listening.close()
        for writer in bare.writers:
            writer.transport.abort()
        await asyncio.sleep(0.05)  # the transports close themselves


class BareServer:
    def __init__(self, reads_s: float | None) -> None:
        self.reads_s = reads_s
        self.got = bytearray()
        self.writers: list[asyncio.StreamWriter] = []
        self.connected, self.closed = asyncio.Event(), asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.connected.set()
        if self.reads_s is None:
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            return
        while data := await reader.read(512):
            self.got.extend(data)
            await asyncio.sleep(self.reads_s)
        self.closed.set()


# --- end to end ---------------------------------------------------------------------------------------------------

on_a_device = [needs_esphome, host_build.needs_compiler]


@pytest.mark.usefixtures("device")
class TestOnADevice:
    """Everything here runs on the one compiled device."""

    pytestmark = on_a_device

    async def test_the_entities_of_the_template_are_there_and_capture_is_off_by_default(self, satellite, server):
        assert {
            "capture_wake_audio",
            "capture_for",
            "that_was_a_false_wake",
            "detections",
            "near_misses",
            "canary_detections",
            "capture_queue",
            "captures_dropped",
            "last_upload",
            "capture_state",
            "listening_hours",
            "capture_time_left",
        } <= set(satellite.entities)
        await satellite.shows("capture_wake_audio", False)
        await satellite.shows("capture_state", "off")
        await satellite.trigger("detection")
        await satellite.trigger("near_miss")
        await asyncio.sleep(0.5)
        assert satellite.states["detections"] == 0
        await satellite.trigger("prompt", seconds=0.5)  # whoever asks for a take is told
        await satellite.shows("last_upload", "prompt: capture is off")
        assert server.received == []

    async def test_a_detection_arrives_with_its_pre_roll_and_post_roll_to_the_sample(self, satellite, server):
        await satellite.start_capture()
        begin = time.monotonic()
        await satellite.trigger("detection", 'schöne "Küche"', ref="a/b c")
        (clip,) = await server.has(1)
        took_s = time.monotonic() - begin
        check_window(clip)
        assert clip.headers["Protocol"] == "1"
        assert clip.kind == "detection"
        assert clip.headers["Wake-Word"] == 'schöne "Küche"'
        assert clip.headers["Session"] == "a/b c"
        assert clip.headers["Model"] == "hey_kitchen 1a2b3c4d"
        assert re.fullmatch(r"ESPHome \d+\.\d+\.\d+\S*, built \d{4}-\d\d-\d\d .+", clip.headers["Firmware"])
        assert re.fullmatch(r"[0-9a-f]{16}-1", clip.headers["Capture"])
        # at least the post-roll, less a block of the microphone
        assert 250 <= int(clip.headers["Age-Ms"]) <= took_s * 1000 + 1
        assert clip.headers["Gain"] == "1"
        assert clip.headers["Dropped"] == "0"
        await satellite.shows("last_upload", f"detection {clip.headers['Capture']}: taken (201)")
        await satellite.shows("capture_state", "idle")
        await satellite.shows("detections", 1)

    async def test_the_cut_is_where_the_trigger_was_also_for_two_triggers_in_a_row(self, satellite, server):
        await satellite.start_capture()
        for pairs in range(1, 5):  # where the machine stood still for a while, the sound was later than LATE_S
            times = []
            for word in ("one", "two"):
                times.append(time.monotonic())
                await satellite.trigger("detection", word)
                await satellite.client.device_info()  # answered after the trigger
                times.append(time.monotonic())
                await asyncio.sleep(0.15)
            one, two = (await server.has(2 * pairs))[-2:]
            assert (one.headers["Wake-Word"], two.headers["Wake-Word"]) == ("one", "two")
            check_window(one)
            check_window(two)
            assert one.headers["Capture"] != two.headers["Capture"]
            await satellite.shows("detections", 2 * pairs)
            apart_s = (two.first - one.first) % 65536 / RATE
            least_s, most_s = times[2] - times[1] - LATE_S, times[3] - times[0] + LATE_S
            if least_s < apart_s < most_s:
                break
        assert least_s < apart_s < most_s

    async def test_a_prompted_take_has_exactly_the_seconds_that_were_asked_for(self, satellite, server):
        await satellite.start_capture(0.3)
        await satellite.trigger("prompt", "hey kitchen", "session1-03", 1.5)
        await satellite.until(lambda: ("capture_state", "recording") in satellite.said)
        (take,) = await server.has(1)
        check_window(take, 0, int(1.5 * RATE))
        assert (take.kind, take.headers["Session"]) == ("prompt", "session1-03")
        for seconds in (0.0, 10.1, float("nan"), -1.0):
            await satellite.trigger("prompt", seconds=seconds)
        await satellite.shows("last_upload", "prompt: a prompted take lasts 0.1 to 10 seconds")
        await satellite.trigger("no such kind")
        assert len(server.received) == 1

    async def test_a_near_miss_is_sent_unless_a_detection_follows_within_its_hold(self, satellite, server):
        await satellite.start_capture()
        await satellite.trigger("near_miss", "hey kitchen (near miss)")
        await asyncio.sleep(HOLD_S / 5)
        await satellite.trigger("detection")
        await server.has(1)
        await asyncio.sleep(HOLD_S * 1.5)
        assert [clip.kind for clip in server.received] == ["detection"]
        assert satellite.states["near_misses"] == 0
        await satellite.trigger("near_miss", "hey kitchen (near miss)")
        clips = await server.has(2)
        check_window(clips[1])
        assert clips[1].kind == "near_miss"
        assert int(clips[1].headers["Age-Ms"]) >= HOLD_S * 1000
        await satellite.shows("near_misses", 1)
        await satellite.shows("detections", 1)
        assert satellite.states["captures_dropped"] == 0

    async def test_a_canary_counts_and_captures(self, satellite, server):
        await satellite.start_capture(0.3)
        await satellite.trigger("canary", "hey hall")
        (clip,) = await server.has(1)
        assert clip.kind == "canary"
        await satellite.shows("canary_detections", 1)
        assert satellite.states["detections"] == 0

    async def test_the_button_for_a_false_wake_names_the_detection(self, satellite, server):
        await satellite.start_capture(0.3)
        satellite.press("that_was_a_false_wake")
        await satellite.shows("last_upload", "false_wake: no detection to refer to")
        await satellite.trigger("detection")
        await server.has(1)
        satellite.press("that_was_a_false_wake")
        detection, remark = await server.has(2)
        assert (remark.kind, len(remark.samples)) == ("false_wake", 0)
        assert remark.headers["Session"] == detection.headers["Capture"]
        assert remark.headers["Wake-Word"] == "hey kitchen"

    async def test_a_refused_token_is_shown_and_the_clip_is_kept(self, satellite, server):
        server.status = lambda _: 401
        await satellite.start_capture()
        await satellite.trigger("detection")
        await satellite.shows("capture_state", "token refused")
        server.status = lambda _: 403
        await server.has(2)
        await satellite.until(lambda: satellite.states["last_upload"].endswith("token refused (403)"))
        server.status = lambda _: 201
        clips = await server.has(3)
        assert {clip.headers["Capture"] for clip in clips} == {clips[0].headers["Capture"]}
        await satellite.shows("capture_state", "idle")

    async def test_a_clip_outlasts_a_server_that_is_down_under_the_same_id(self, satellite, server):
        await server.down()
        await satellite.start_capture()
        await satellite.trigger("detection")
        await satellite.shows("capture_state", "waiting to retry")
        await satellite.shows("capture_queue", 1)
        await satellite.until(lambda: satellite.states["last_upload"].endswith("not sent yet (no connection)"))
        shown = satellite.states["last_upload"]
        server.status = lambda _: 503 if len(server.received) < 3 else 201
        await server.up()
        clips = await server.has(3)
        assert {clip.headers["Capture"] for clip in clips} == {shown.split()[1].rstrip(":")}
        check_window(clips[2])
        assert np.array_equal(clips[0].samples, clips[2].samples)
        assert int(clips[2].headers["Age-Ms"]) > int(clips[0].headers["Age-Ms"])
        await satellite.shows("capture_state", "idle")
        await satellite.shows("capture_queue", 0)

    async def test_a_clip_the_server_will_never_take_is_dropped_and_counted(self, satellite, server):
        server.status = lambda clip: 413 if clip.kind == "detection" else 201
        await satellite.start_capture(0.3)
        await satellite.trigger("detection")
        await satellite.shows("captures_dropped", 1)
        await satellite.trigger("canary")
        clips = await server.has(2)
        assert clips[1].headers["Dropped"] == "1"
        assert len(server.received) == 2

    async def test_nothing_is_cut_or_sent_while_muted(self, satellite, server):
        await satellite.start_capture()
        await satellite.trigger("detection")  # in the middle of its post-roll
        await satellite.mute(True)
        await satellite.trigger("detection")
        await satellite.trigger("prompt", seconds=0.3)
        await satellite.shows("last_upload", "prompt: muted")
        await satellite.shows("detections", 1)
        await asyncio.sleep(1.0)
        assert server.received == []
        assert satellite.states["detections"] == 1
        begin = time.monotonic()
        await satellite.mute(False)
        await asyncio.sleep(0.2)
        await satellite.trigger("detection")
        (clip,) = await server.has(1)
        check_nothing_before(clip, begin)

    async def test_switched_off_it_forgets_what_it_heard_and_what_waits(self, satellite, server):
        await server.down()
        await satellite.start_capture()
        await satellite.trigger("detection")
        await satellite.shows("capture_state", "waiting to retry")
        await satellite.trigger("detection")
        await satellite.switch("capture_wake_audio", on=False)
        await satellite.shows("capture_queue", 0)
        await satellite.shows("capture_state", "off")
        await server.up()
        await asyncio.sleep(2 * RETRY_MAX_S)
        assert server.received == []
        begin = time.monotonic()
        await satellite.start_capture(0.2)
        await satellite.trigger("detection")
        (clip,) = await server.has(1)
        check_nothing_before(clip, begin)
        assert clip.headers["Dropped"] == "2"

    async def test_switched_off_in_the_middle_of_sending_it_hangs_up(self, satellite, built, server):
        await server.down()
        async with bare_server(built.http_port, 0.02) as bare:
            await satellite.start_capture(0.2)
            await satellite.trigger("prompt", seconds=2.0)
            await satellite.shows("capture_state", "sending")
            await satellite.switch("capture_wake_audio", on=False)
            await satellite.shows("capture_state", "off")
            bare.reads_s = 0
            await asyncio.wait_for(bare.closed.wait(), 30)
            assert bare.got.startswith(b"POST /api/captures HTTP/1.1\r\n")
        await satellite.shows("captures_dropped", 1)

    async def test_a_full_queue_drops_the_least_wanted_and_counts_it(self, satellite, server):
        await server.down()
        await satellite.start_capture(0.3)
        for number in range(4):
            await satellite.trigger("detection", str(number))
        await satellite.shows("captures_dropped", 1)
        await satellite.shows("capture_queue", 3)
        await satellite.trigger("prompt", "take", seconds=0.5)
        await satellite.shows("captures_dropped", 2)
        await satellite.until(lambda: satellite.states["last_upload"].startswith("prompt"))  # complete, and tried
        await server.up()
        clips = await server.has(3)
        assert [clip.headers["Wake-Word"] for clip in clips] == ["take", "1", "2"]
        await satellite.shows("detections", 4)

    async def test_switch_end_and_counts_outlive_a_pulled_plug(self, device, built, server):
        async with Satellite.connect(built.api_port) as satellite:
            satellite.client.number_command(satellite.entities["capture_for"].key, 7)
            await satellite.shows("capture_for", 7)
            await satellite.start_capture(0.5)
            await satellite.shows("capture_time_left", pytest.approx(7, abs=0.01))
        device.stop()
        device.start()
        async with Satellite.connect(built.api_port) as satellite:
            await satellite.shows("capture_wake_audio", True)
            await satellite.shows("capture_time_left", pytest.approx(7, abs=0.01))
            await satellite.trigger("detection")
            (clip,) = await server.has(1)
            check_window(clip, int(clip.headers["Trigger-Sample"]))
            await asyncio.sleep(0.5)
            await satellite.switch("capture_wake_audio", on=False)
            await satellite.shows("capture_time_left", 0)  # told after the hours
            hours = satellite.states["listening_hours"]
        device.stop()
        device.start()
        async with Satellite.connect(built.api_port) as satellite:
            await satellite.shows("capture_wake_audio", False)
            await satellite.shows("detections", 1)
            await satellite.shows("listening_hours", pytest.approx(hours, abs=0.001))

    async def test_only_the_time_in_which_a_wake_word_could_be_heard_is_exposure(self, satellite, server):
        await satellite.switch("engine", on=False)
        await satellite.start_capture(1.5)
        await satellite.trigger("detection")
        assert (await server.has(1))[0].headers["Listening-S"] == "0"
        times = [time.monotonic()]
        await satellite.switch("engine", on=True)
        times.append(time.monotonic())
        await asyncio.sleep(2.2)
        times.append(time.monotonic())
        await satellite.trigger("detection")
        listened_s = int((await server.has(2))[1].headers["Listening-S"])
        times.append(time.monotonic())
        assert int(times[2] - times[1]) <= listened_s <= times[3] - times[0]

    async def test_the_main_loop_is_not_held_up_by_a_server_that_does_not_read(self, device, built):
        for _ in range(5):  # a busy machine holds it up too, but not each time
            device.stop()
            device.start()  # ESPHome warns of each part once, and then of what takes longer
            began_at, slowest_s = len(device.log()), 0.0
            async with bare_server(built.http_port, None) as bare, Satellite.connect(built.api_port) as satellite:
                await satellite.start_capture(0.2)
                await satellite.trigger("prompt", seconds=2.0)
                await asyncio.wait_for(bare.connected.wait(), 30)
                while not satellite.states["last_upload"].endswith("not sent yet (no answer)"):
                    begin = time.monotonic()
                    await satellite.client.device_info()  # there and back, through the main loop
                    slowest_s = max(slowest_s, time.monotonic() - begin)
            warnings = re.findall(r"mww_capture.*took a long time.*", device.log()[began_at:])
            if slowest_s < 1.5 and not warnings:
                break
        assert slowest_s < 1.5  # about 0.02 on an idle machine, and the 5 s of the time limit were it held up
        assert warnings == []


@needs_esphome
@host_build.needs_compiler
@pytest.mark.skipif(importlib.util.find_spec("esphome") is None, reason="ESPHome is in another environment")
@pytest.mark.parametrize("sound_from", ["a file", "a microphone"])
def test_the_component_compiles_without_a_warning(sound_from, built):
    # The microphone's few lines run on an ESP32 only; here the compiler at least checks them against ESPHome's headers.
    spec = importlib.util.find_spec("esphome")
    assert spec is not None
    assert spec.origin is not None
    headers = Path(spec.origin).parent.parent
    source = built.source / "esphome" / "components" / "mww_capture" / "mww_capture.cpp"
    options = ["-std=gnu++20", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-DUSE_HOST"]
    options += ["-DUSE_MICROPHONE"] if sound_from == "a microphone" else []
    includes = [f"-I{source.parent}", "-isystem", str(built.source), "-isystem", str(headers)]
    command = ["g++", *options, *includes, str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- the schema, and the ESP32-S3 ---------------------------------------------------------------------------------

SATELLITE = """
substitutions:
  name: kitchen
  friendly_name: Kitchen
  mic_channel: "0"
  mic_gain: "4"
  wake_model_version: toy 1a2b3c4d
  capture_url: {url}
  capture_token: {token}
  slot_file: models/slot.json
  slot_id: wake_slot
  slot_word: 'a "rising" whistle (near miss)'
  slot_kind: near_miss
  slot_cutoff: "0.4"
  slot_window: "3"
esphome:
  name: ${{name}}
  min_version: 2026.6.0
esp32:
  variant: esp32s3
  flash_size: 8MB
  framework: {{type: esp-idf}}
{psram}
logger:
wifi: {{ssid: home, password: password}}
i2s_audio: {{i2s_bclk_pin: GPIO4, i2s_lrclk_pin: GPIO5}}
microphone:
  - {{platform: i2s_audio, id: mic, i2s_din_pin: GPIO6, adc_type: external, sample_rate: 16000}}
voice_assistant: {{id: mww_ha_assistant, microphone: mic, micro_wake_word: mww}}
packages:
  engine: !include engine.yaml
  capture: !include mww_ha/capture.yaml
  wake: !include mww_ha/wake_capture.yaml
  slot: !include mww_ha/slot.yaml
{more}
"""
ENGINE = """
micro_wake_word:
  id: mww
  microphone: {microphone: mic, channels: "0", gain_factor: 4}
  models: [{model: models/toy.json, id: model_toy}]
"""


def run_on_a_satellite(folder: Path, *step: str, **parts: str) -> tuple[int, str]:
    """``esphome <step>`` on an ESP32-S3 with capture and a slot."""
    shutil.copytree(TEMPLATES, folder / "mww_ha", dirs_exist_ok=True)
    manifest = toy_wake.write_model(folder / "models")
    slot = json.loads(manifest.read_text("utf-8")) | {"wake_word": 'a "rising" whistle (near miss)'}
    (folder / "models" / "slot.json").write_text(json.dumps(slot), "utf-8")
    (folder / "engine.yaml").write_text(ENGINE, "utf-8")
    defaults = {"url": "http://192.168.1.10:8765/api/captures", "token": "abc", "psram": "psram: {mode: octal}"}
    text = SATELLITE.format(**(defaults | {"more": ""} | parts))
    (folder / "kitchen.yaml").write_text(text, "utf-8")
    command = esphome.find_esphome()
    assert command is not None
    return esphome.run_esphome([*command, *step, "kitchen.yaml"], folder, 120)


@needs_esphome
def test_capture_and_slot_generate_for_an_esp32_s3_with_one_automation_and_the_slot_behind_the_model(tmp_path):
    code, output = run_on_a_satellite(tmp_path, "compile", "--only-generate")
    assert code == 0, output
    source = (tmp_path / ".esphome" / "build" / "kitchen" / "src" / "main.cpp").read_text("utf-8")
    made = re.sub(r"(?m)^\s*//.*\n", "", source)
    assert made.count("get_wake_word_detected_trigger()") == 1
    assert made.index("add_wake_word_model(model_toy)") < made.index("add_wake_word_model(wake_slot)")
    assert "set_stop_after_detection(false)" in made
    assert re.search(r"capture->set_busy\(\[=?\]\(\) -> bool \{[^}]*return mww_ha_assistant->is_running\(\);", made)
    assert 'return wake_word == R"mww(a "rising" whistle (near miss))mww";' in made
    assert re.search(r"capture->set_microphone\(\w+, mic, 4\)", made)
    assert re.search(r"MicrophoneSource\(mic, 16, 4, true\)", made)  # passive: it never starts the microphone


@needs_esphome
def test_as_many_wake_words_as_home_assistant_can_show_go_with_a_clip(tmp_path):
    longest = "a" * LONGEST_STATE
    code, output = run_on_a_satellite(tmp_path, "config", more=f"mww_capture: {{model: {longest}}}")
    assert code == 0, output
    code, output = run_on_a_satellite(tmp_path, "config", more=f"mww_capture: {{model: {longest}a}}")
    assert code != 0
    assert "255" in output


@needs_esphome
@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"url": "http://homeassistant.local:8765/x"}, "is not an IPv4 address. A name does not work here"),
        ({"url": "https://192.168.1.10/x"}, "has to begin with http://"),
        ({"url": "http://me:secret@192.168.1.10/x"}, "without a user"),
        ({"url": "http://198.41.0.4/x"}, "198.41.0.4 is no computer in your own network"),
        ({"url": "http://224.0.0.1/x"}, "224.0.0.1 is no computer in your own network"),
        ({"url": "http://0.0.0.0/x"}, "0.0.0.0 is no computer in your own network"),
        ({"url": '"http://192.168.1.10/a b"'}, "no spaces"),
        ({"url": '"http://192.168.1.10/a\\r\\nX: y"'}, "no spaces"),
        ({"url": "http://192.168.1.10:99999/x"}, "is not a url"),
        ({"token": '"a b"'}, "the token has to be"),
        ({"token": '"a\\nb"'}, "the token has to be"),
        ({"token": '"schlüssel"'}, "the token has to be"),
        ({"psram": ""}, "no psram: block"),
        ({"more": "mww_capture: {pre_roll: 9s, post_roll: 2s}"}, "together may last 10 s at most"),
        ({"more": "mww_capture: {microphone: {gain_factor: 2}}"}, "the clips would not be what the model heard"),
        ({"more": "mww_capture: {retry_min: 10min}"}, "retry_min is longer than retry_max"),
    ],
)
def test_what_cannot_work_is_refused_with_a_reason_before_it_is_compiled(parts, said, tmp_path):
    code, output = run_on_a_satellite(tmp_path, "config", **parts)
    assert code != 0
    assert said in " ".join(output.split())
