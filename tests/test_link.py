"""Home Assistant and its broker are told what there is, and whatever they do disturbs the service in nothing."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import upload_kit
from aioesphomeapi import api_pb2 as pb
from aiohttp import web
from blockbuster import blockbuster_ctx
from fake_api_device import FakeDevice
from fake_home_assistant import TOKEN, FakeHomeAssistant
from host_device import free_port
from real_home_assistant import HomeAssistant, find_or_install
from real_mosquitto import PASSWORD, USER, Mosquitto
from test_capture_review import add, spoken
from test_mqtt import Listener, needs_mosquitto
from test_web import Site, upload

from mww_ha.capture.tokens import make_token
from mww_ha.config import HomeAssistantSettings, MqttSettings, Settings
from mww_ha.devices.known import add_device, update_device
from mww_ha.errors import ConfigError
from mww_ha.ha.client import Client, PipelineRun, Satellite
from mww_ha.ha.connection import find_access
from mww_ha.schema import Capture, CaptureKind, Device, Exposure, Flash, Verdict
from mww_ha.store import Project
from mww_ha.web.app import Options, open_service
from mww_ha.web.link import (
    CAPTURE_SWITCH,
    Link,
    Pace,
    describe_notices,
    describe_satellites,
    find_new_model,
    join_outcomes,
    name_satellites,
    read_access,
    read_broker,
    take_picture,
    text_of_outcome,
)

PACE = Pace(
    settle_s=0.05,
    look_every_s=0.3,
    notice_every_s=0.1,
    join_after_s=0.1,
    devices_every_s=0.3,
    device_timeout_s=20.0,
    retry_first_s=0.05,
    retry_most_s=0.2,
)
NEW = "hey_kitchen-22222222"


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> Iterator[None]:
    with blockbuster_ctx("mww_ha.web"):
        yield


def command(order: Any, project: Project) -> list[str]:
    """A flash fails with --force, else it is done at once or, of the device hall, in a minute."""
    order.arguments(project)
    text = "import sys, time; " + ("sys.exit(7)" if order.force else f"time.sleep({60 * (order.device == 'hall')})")
    return [sys.executable, "-I", "-S", "-c", text]


@contextlib.asynccontextmanager
async def linked(
    root: Path, *, environ: Mapping[str, str] | None = None, pace: Pace = PACE, **options: Any
) -> AsyncIterator[Site]:
    chosen = Options(**{"port": 0, "device_host": "127.0.0.1", "device_port": 0, "grace_s": 1.0, **options})
    async with (
        open_service(root, chosen, command=command, pace=pace, environ=environ or {}) as opened,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
    ):
        yield Site(opened, session)


class Notifications:
    """The notifications that a Home Assistant shows, and how often it was told."""

    def __init__(self, home: FakeHomeAssistant) -> None:
        self.shown: dict[str, tuple[str, str]] = {}
        self.told: list[str] = []
        home.services["persistent_notification.create"] = self._create
        home.services["persistent_notification.dismiss"] = self._dismiss

    async def _create(self, data: dict[str, Any]) -> None:
        self.told.append(data["title"])
        self.shown[data["notification_id"]] = (data["title"], data["message"])

    async def _dismiss(self, data: dict[str, Any]) -> None:
        self.shown.pop(data["notification_id"], None)


@pytest.fixture
async def home() -> AsyncIterator[FakeHomeAssistant]:
    async with FakeHomeAssistant() as running:
        yield running


@pytest.fixture
def notifications(home: FakeHomeAssistant) -> Notifications:
    return Notifications(home)


@pytest.fixture
def household(project: Project) -> Project:
    """A project with two satellites and a model that one of them runs."""
    for name in ("kitchen", "hall"):
        add_device(project, Device(name=name, template="generic-s3", api_key=""))
    put_model(project, "hey_kitchen-11111111")
    with contextlib.closing(sqlite3.connect(project.catalogue.path)) as catalogue:
        catalogue.execute("UPDATE models SET made_at = '2026-11-01T00:00:00+00:00'")  # not the second of the next
        catalogue.commit()
    put_flash(project, "kitchen", "hey_kitchen-11111111", at="2026-11-01")
    return project


def put_model(project: Project, id: str, **more: Any) -> None:
    project.models_dir.mkdir(exist_ok=True)
    (project.models_dir / f"{id}.json").write_text("{}")
    project.catalogue.put_model(id, {"id": id, "phrase": "hey kitchen", **more})


def put_flash(project: Project, device: str, model: str, *, at: str, outcome: str = "verified", why: str = "") -> None:
    project.catalogue.put_flash(
        Flash(id=f"{device} {at}", device=device, model=model, wake_model="", backend="esphome", started_at=at,
              outcome=outcome, message=why)
    )  # fmt: skip


def configure(project: Project, home: FakeHomeAssistant | None = None, broker: Mosquitto | None = None) -> None:
    """Writes what a user would."""
    lines = ["phrase: hey kitchen"]
    if home is not None:
        (project.root / "token").write_text(TOKEN + "\n")
        lines.append(f"home_assistant: {{url: '{home.url}', token_file: token}}")
    if broker is not None:
        (project.root / "password").write_text(PASSWORD)
        lines.append(f"mqtt: {{host: 127.0.0.1, port: {broker.port}, username: {USER}, password_file: password}}")
    (project.root / "project.yaml").write_text("\n".join(lines) + "\n")


async def until(true: Callable[[], Any], limit_s: float = 30) -> Any:
    deadline = time.monotonic() + limit_s
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not become so"
        await asyncio.sleep(0.02)
    return found


async def state_of(site: Site, half: str, *states: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while (found := (await site.get("/api/status"))["link"][half])["state"] not in states:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return dict(found)


async def capture(site: Site, project: Project, device: str = "kitchen", name: str = "a-1", **named: str) -> str:
    token = make_token(project, device)
    content = upload_kit.wav_of(upload_kit.noise(abs(hash((device, name))) % 1000, 0.5))
    status, text, _ = await upload(site, token, content, capture=name, **named)
    assert status == 201
    return str(json.loads(text)["id"])


# --- not configured, wrong, gone -------------------------------------------------------------------------------------


async def test_without_settings_nothing_is_contacted(household: Project):
    async with linked(household.root) as site:
        await capture(site, household)
        link = (await site.get("/api/status"))["link"]
        off = {"state": "off", "error": "", "hint": ""}
        assert link == {"home_assistant": off, "mqtt": off, "version": "", "events_lost": 0, "problem": ""}


async def test_a_refused_token_is_told_and_everything_else_goes_on(
    household: Project, home: FakeHomeAssistant, caplog: pytest.LogCaptureFixture
):
    configure(household, home)
    (household.root / "token").write_text("a-wrong-token-that-is-secret")
    with caplog.at_level(logging.DEBUG):
        async with linked(household.root) as site:
            told = await state_of(site, "home_assistant", "refused")
            assert "refused the access token" in told["error"]
            await capture(site, household)
            assert "secret" not in json.dumps([await site.get("/api/status"), await site.get("/api/project")])
    assert "wrong-token-that" not in caplog.text


@pytest.mark.parametrize("content", [None, "", "two\nlines\n"])
async def test_a_file_without_a_token_is_told_with_the_way_out(
    household: Project, home: FakeHomeAssistant, content: str | None
):
    configure(household, home)
    (household.root / "token").unlink()
    if content is not None:
        (household.root / "token").write_text(content)
    async with linked(household.root) as site:
        told = await state_of(site, "home_assistant", "failed")
        assert "home_assistant.token_file" in told["error"]
        assert told["hint"]
        assert "lines" not in told["error"].replace("one line", "")


async def test_one_half_that_is_set_up_wrong_leaves_the_other_alone(household: Project, home: FakeHomeAssistant):
    configure(household, home)
    path = household.root / "project.yaml"
    path.write_text(path.read_text() + "mqtt: {host: 127.0.0.1, password_file: nowhere}\n")
    async with linked(household.root) as site:
        await state_of(site, "home_assistant", "connected")
        assert "mqtt.password_file" in (await state_of(site, "mqtt", "failed"))["error"]


async def test_home_assistant_may_come_late_go_and_come_back(
    household: Project, home: FakeHomeAssistant, notifications: Notifications
):
    configure(household, home)
    await home.stop()
    async with linked(household.root) as site:
        told = await state_of(site, "home_assistant", "connecting")
        await until(lambda: site.service.link and site.service.link.state.home_assistant.error)
        await capture(site, household)
        assert told["state"] == "connecting"
        await home.start()
        await state_of(site, "home_assistant", "connected")
        await until(lambda: "mww_ha_review" in notifications.shown and home.fired)
        assert [name for name, _ in home.fired] == ["mww_ha_capture"], "told as soon as somebody listened"
        await home.stop()
        notifications.shown.clear()
        await state_of(site, "home_assistant", "connecting")
        assert (await site.get("/api/health"))["status"] == "ok"
        await home.start()
        await until(lambda: "mww_ha_review" in notifications.shown), "a restart forgets them"
        assert (await site.get("/api/status"))["link"]["version"] == "2026.11.0"


# --- events and notifications ----------------------------------------------------------------------------------------


async def test_captures_are_one_notification_that_goes_when_they_are_judged(
    household: Project, home: FakeHomeAssistant, notifications: Notifications
):
    configure(household, home)
    async with linked(household.root, pace=dataclasses.replace(PACE, notice_every_s=1.0)) as site:
        began = time.monotonic()
        ids = [await capture(site, household)]
        await until(lambda: notifications.shown.get("mww_ha_review", ("",))[0] == "1 capture to review")
        for number in range(11):
            device = "hall" if number % 2 else "kitchen"
            ids += [await capture(site, household, device, f"b-{number}")]
        title, text = await until(
            lambda: (shown := notifications.shown.get("mww_ha_review", ("",)))[0].startswith("12 ") and shown
        )
        assert title == "12 captures to review"
        assert "hall: 5, kitchen: 7" in text
        assert len(notifications.told) <= 1 + (time.monotonic() - began), "not one for each: one a second"
        await until(lambda: len(home.fired) >= 12)
        assert [(name, data["device"], data["kind"]) for name, data in home.fired][:1] == [
            ("mww_ha_capture", "kitchen", "detection")
        ]
        assert {data["id"] for name, data in home.fired if name == "mww_ha_capture"} == set(ids)
        await site.ask("POST", "/api/review", json={"ids": ids, "verdict": "other"})
        await until(lambda: "mww_ha_review" not in notifications.shown)


async def test_a_new_model_is_told_until_it_is_flashed(
    household: Project, home: FakeHomeAssistant, notifications: Notifications
):
    configure(household, home)
    async with linked(household.root) as site:
        await state_of(site, "home_assistant", "connected")
        await until(lambda: site.service.link and site.service.link._picture)
        assert "mww_ha_model" not in notifications.shown, "one satellite runs it already"
        put_model(household, "hey_kitchen-33333333", offered=False)
        put_model(household, NEW, comparison={"reason": "It hears more."})
        title, text = await until(lambda: notifications.shown.get("mww_ha_model"))
        assert title == "A new wake word model is ready"
        assert text == f"{NEW} can be flashed. It hears more."
        await until(lambda: home.fired)
        (event,) = [data for name, data in home.fired if name == "mww_ha_model_ready"]
        assert (event["model"], event["phrase"]) == (NEW, "hey kitchen")
        put_flash(household, "hall", NEW, at="2026-11-20")
        await until(lambda: "mww_ha_model" not in notifications.shown)


async def test_a_failed_flash_is_told_until_one_succeeds(
    household: Project, home: FakeHomeAssistant, notifications: Notifications
):
    configure(household, home)
    async with linked(household.root) as site:
        await state_of(site, "home_assistant", "connected")
        await site.wait((await site.order("flash", device="kitchen", force=True))["id"])
        title, _ = await until(lambda: notifications.shown.get("mww_ha_flash"))
        assert title == "Flashing kitchen failed"
        await site.wait((await site.order("flash", device="kitchen", dry_run=True))["id"])
        await site.wait((await site.order("flash", device="kitchen"))["id"])
        await until(lambda: "mww_ha_flash" not in notifications.shown and "mww_ha_flash_done" in dict(home.fired))
        fired = [(name, data["device"], data["kind"]) for name, data in home.fired if "flash" in name]
        assert fired == [("mww_ha_flash_failed", "kitchen", "flash"), ("mww_ha_flash_done", "kitchen", "flash")]


async def test_notifications_can_be_turned_off(
    household: Project, home: FakeHomeAssistant, notifications: Notifications
):
    configure(household, home)
    path = household.root / "project.yaml"
    path.write_text(path.read_text().replace("token_file: token", "token_file: token, notifications: false"))
    async with linked(household.root) as site:
        await capture(site, household)
        await until(lambda: home.fired)
        await asyncio.sleep(0.3)
        assert notifications.told == []


# --- outcomes --------------------------------------------------------------------------------------------------------


def run_events(started_at: datetime, satellite: str, *, code: str = "") -> list[dict[str, Any]]:
    at = started_at.isoformat()
    rest = {"type": "error", "data": {"code": code, "message": ""}} if code else {"type": "intent-end", "data": {}}
    return [
        {"type": "run-start", "data": {"satellite_id": satellite}, "timestamp": at},
        {**rest, "timestamp": at},
        {"type": "run-end", "data": None, "timestamp": at},
    ]


async def test_what_became_of_a_wake_up_is_a_hint_at_its_capture(household: Project, home: FakeHomeAssistant):
    configure(household, home)
    satellite = "assist_satellite.kitchen_assist"
    home.registry.entities += [{"entity_id": satellite, "device_id": "d1", "platform": "wyoming", "area_id": "a1"}]
    home.registry.devices += [{"id": "d1", "name": "Kitchen"}]
    home.registry.areas += [{"area_id": "a1", "name": "Ground floor"}]
    home.pipelines["p1"] = {}
    async with linked(household.root) as site:
        await state_of(site, "home_assistant", "connected")
        id = await capture(site, household, age_ms="0")
        captured = (await site.get(f"/api/captures/{id}"))["capture"]["captured_at"]
        started = datetime.fromisoformat(captured) - timedelta(seconds=1)
        home.pipelines["p1"]["r1"] = run_events(started, satellite, code="stt-no-text-recognized")
        home.pipelines["p1"]["r2"] = run_events(started - timedelta(seconds=30), satellite)
        new_state = {"data": {"entity_id": satellite, "new_state": {"state": "idle"}}}["data"]
        async with asyncio.timeout(30):
            while not (detail := await site.get(f"/api/captures/{id}"))["capture"]["outcome"]:
                await home.fire("state_changed", new_state)
                await asyncio.sleep(0.1)
        assert detail["capture"]["outcome"] == "stt-no-text-recognized"
        assert "nothing was said after it" in detail["hints"]
        assert detail["capture"]["verdict"] == "undecided", "a hint is no verdict"
        assert site.service.rooms == {"kitchen": "Ground floor"}


def test_a_run_belongs_to_the_detection_next_to_it(project: Project):
    def woke(name: str, after_s: float, **more: Any) -> Capture:
        return add(project, spoken(1)[0][:1600], name, after_s=after_s, **more)

    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    near, far = woke("a-1", 0), woke("a-2", 60)
    woke("a-3", 1, kind=CaptureKind.NEAR_MISS)
    runs = [
        ("kitchen", noon + timedelta(seconds=3), "ok"),
        ("kitchen", noon + timedelta(seconds=1), "stt-no-text-recognized"),
        ("kitchen", noon + timedelta(seconds=30), "ok"),
        ("hall", noon, "ok"),
    ]
    assert join_outcomes(project, runs) == [(near.id, "stt-no-text-recognized")]
    assert join_outcomes(project, runs) == [], "nothing new"
    assert project.catalogue.captures([far.id])[0].outcome == ""


def test_outcomes_are_told_in_words_that_hints_know():
    def run(outcome: str, code: str = "") -> str:
        return text_of_outcome(
            PipelineRun(run_id="1", pipeline_id="p", started_at=datetime.now(UTC), outcome=outcome, error_code=code)
        )

    assert [run("handled"), run("heard"), run("no_speech", "stt-no-text-recognized"), run("ended")] == [
        "ok", "ok", "stt-no-text-recognized", "ended",
    ]  # fmt: skip


def test_satellites_are_known_by_host_name_and_else_by_their_name():
    def satellite(id: str, name: str, host_name: str = "") -> Satellite:
        return Satellite(
            entity_id=id, device_id="", name=name, state="idle", integration="esphome", host_name=host_name
        )

    devices = {name: Device(name=name, template="x") for name in ("kitchen", "hall-2")}
    found = name_satellites(
        [satellite("s.1", "Somewhere", "kitchen"), satellite("s.2", "Hall 2"), satellite("s.3", "../.."),
         satellite("s.4", "Attic")], devices,
    )  # fmt: skip
    assert found == {"s.1": "kitchen", "s.2": "hall-2"}


# --- administrators --------------------------------------------------------------------------------------------------


async def test_home_assistant_s_administrators_may_delete_and_nobody_else(household: Project, home: FakeHomeAssistant):
    configure(household, home)
    home.registry.users += [
        {"id": "anna", "is_owner": True, "is_active": True, "group_ids": ["system-admin"]},
        {"id": "berta", "is_owner": False, "is_active": True, "group_ids": ["system-admin"]},
        {"id": "guest", "is_owner": False, "is_active": True, "group_ids": ["system-users"]},
        {"id": "gone", "is_owner": False, "is_active": False, "group_ids": ["system-admin"]},
    ]
    async with linked(household.root, ingress=True, ingress_peer="127.0.0.1", admins=("named",)) as site:

        async def may(user: str) -> bool:
            return bool((await site.get("/api/me", headers={"X-Remote-User-Id": user}))["may_change"])

        async with asyncio.timeout(30):
            while not await may("anna"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert [await may(user) for user in ("berta", "guest", "gone", "nobody", "named")] == [
            True, False, False, False, True,
        ]  # fmt: skip
        asked = [message for message in home.received if message["type"] == "config/auth/list"]
        assert len(asked) == 1, "once a minute"
        await home.stop()
        async with asyncio.timeout(30):
            while await may("anna"):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await may("named"), "who is named needs nobody's word"


# --- MQTT ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as running:
        yield running


@pytest.fixture
async def listener(broker: Mosquitto) -> AsyncIterator[Listener]:
    async with Listener(broker) as hearing:
        yield hearing


@needs_mosquitto
async def test_satellites_have_entities_and_a_model_is_installed_from_there(
    household: Project, broker: Mosquitto, listener: Listener
):
    configure(household, broker=broker)
    put_model(household, NEW)
    household.catalogue.add_exposure(
        Exposure(device="kitchen", model="", day=datetime.now(UTC).date().isoformat(), listening_s=48 * 3600.0, lost=0)
    )
    moment = datetime.now(UTC).isoformat(timespec="milliseconds")
    add(household, spoken(1)[0][:8000], "x-1", captured_at=moment, received_at=moment, verdict=Verdict.FALSE_ACCEPT)
    async with linked(household.root) as site:
        await capture(site, household)
        await until(lambda: (listener.value("state", "kitchen") or {}).get("unreviewed") == 1)
        assert listener.value("state", "kitchen") == {
            "capturing": False,
            "detections_per_day": 1.0,
            "false_accepts_per_day": 0.5,
            "unreviewed": 1,
            "active_model": "hey_kitchen-11111111",
        }
        await until(lambda: listener.value("update", "hall"))
        assert listener.value("update", "kitchen")["latest_version"] == f"model {NEW}"
        assert listener.value("state", "hall")["false_accepts_per_day"] is None
        await listener.say("mww_ha/hall/install", "INSTALL")
        await until(lambda: listener.value("update", "hall").get("in_progress"))
        (job,) = await site.get("/api/jobs")
        assert (job["kind"], job["order"]["device"], job["order"]["model"], job["asked_by"]) == (
            "flash", "hall", NEW, "Home Assistant",
        )  # fmt: skip
        await listener.say("mww_ha/hall/install", "INSTALL")
        await listener.say("mww_ha/nowhere/install", "INSTALL")
        await asyncio.sleep(0.3)
        assert len(await site.get("/api/jobs")) == 1, "pressed twice is installed once"
        await site.ask("POST", f"/api/jobs/{job['id']}/cancel")
        await until(lambda: "in_progress" not in listener.value("update", "hall"))
        assert (await state_of(site, "mqtt", "connected"))["error"] == ""
        link = (await site.get("/api/status"))["link"]
        assert (link["home_assistant"]["state"], link["events_lost"]) == ("off", 0)
    await until(lambda: listener.held["mww_ha/status"] == "offline")


@needs_mosquitto
async def test_the_switch_turns_captures_on_at_the_satellite_itself(
    household: Project, broker: Mosquitto, listener: Listener
):
    configure(household, broker=broker)
    switch = pb.ListEntitiesSwitchResponse(object_id="capture_wake_audio", key=5, name="Capture wake audio")
    captures = [False]

    def answer(message: Any) -> Any:
        if isinstance(message, pb.SwitchCommandRequest):
            captures[0] = message.state
            return pb.SwitchStateResponse(key=5, state=message.state)
        if isinstance(message, pb.SubscribeStatesRequest):
            return pb.SwitchStateResponse(key=5, state=captures[0])
        return None

    key = bytes(range(32))
    async with FakeDevice(name="attic", key=key, entities=[switch], answer=answer) as device:
        (household.esphome_dir).mkdir(exist_ok=True)
        (household.esphome_dir / "secrets.yaml").write_text(f'attic_key: "{device.key_text}"\n')
        add_device(
            household,
            Device(name="attic", template="generic-s3", address="127.0.0.1", port=device.port, api_key="attic_key",
                   capture_url="http://192.0.2.1:8098/api/captures"),
        )  # fmt: skip
        async with linked(household.root) as site:
            await until(lambda: (listener.value("state", "attic") or {}).get("capturing") is False)
            await listener.say("mww_ha/attic/capture/set", "ON")
            await until(lambda: listener.value("state", "attic")["capturing"])
            assert captures == [True]
            captures[0] = False
            await until(lambda: listener.value("state", "attic")["capturing"] is False), "it turns itself off"
            await listener.say("mww_ha/hall/capture/set", "ON")
            assert (await site.get("/api/health"))["status"] == "ok"
            assert device.key_text not in json.dumps(await site.get("/api/status"))


async def test_what_was_read_before_the_switch_was_turned_does_not_turn_it_back(household: Project):
    update_device(household, "kitchen", capture_url="http://192.0.2.1:8098/api/captures")
    asked: list[str] = []

    class Slow(contextlib.AsyncExitStack):
        async def values(self) -> dict[str, bool]:
            link._capturing["kitchen"] = True  # while the answer is on its way
            return {CAPTURE_SWITCH: False}

    async def connect(name: str) -> Slow:
        asked.append(name)
        return Slow()

    async with linked(household.root) as site:
        link = Link(site.service, environ={}, pace=dataclasses.replace(PACE, devices_every_s=60.0))
        link._connect = connect  # type: ignore[method-assign, assignment]
        asking = asyncio.create_task(link._ask_devices())
        await until(lambda: link._capturing)
        await asyncio.sleep(0.1)
        asking.cancel()
        assert (asked, link._capturing) == (["kitchen"], {"kitchen": True})


@needs_mosquitto
async def test_a_satellite_that_is_no_more_has_no_entities(household: Project, broker: Mosquitto, listener: Listener):
    configure(household, broker=broker)
    async with linked(household.root):
        await until(lambda: len(listener.configs()) == 12)
        path = household.devices_path
        path.write_text(path.read_text().replace("hall:", "attic:"))
        await until(lambda: {key.partition("_")[0] for key in listener.configs()} == {"kitchen", "attic"})
        path.write_text("kitchen: [")
        await asyncio.sleep(0.5)
        assert len(listener.configs()) == 12, "a broken file takes nothing away"


@needs_mosquitto
async def test_a_broker_may_refuse_go_and_come_back(household: Project, broker: Mosquitto):
    configure(household, broker=broker)
    async with linked(household.root) as site:
        await state_of(site, "mqtt", "connected")
        await asyncio.to_thread(broker.stop)
        told = await state_of(site, "mqtt", "connecting")
        assert str(broker.port) in told["error"]
        await capture(site, household)
        await asyncio.to_thread(broker.start)
        await state_of(site, "mqtt", "connected")
    (household.root / "password").write_text("a wrong password")
    async with linked(household.root, new_token=True) as site:
        told = await state_of(site, "mqtt", "refused")
        assert "wrong password" not in json.dumps(told)
        await capture(site, household, name="a-2")


@needs_mosquitto
async def test_the_supervisor_s_broker_is_used_where_none_is_named(
    household: Project, broker: Mosquitto, listener: Listener
):
    async def services(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer of-the-supervisor"
        data = {"host": "127.0.0.1", "port": broker.port, "username": USER, "password": PASSWORD, "ssl": False}
        return web.json_response({"result": "ok", "data": data})

    app, port = web.Application(), free_port()
    app.router.add_get("/services/mqtt", services)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    async with linked(household.root) as site:
        environ = {"SUPERVISOR_TOKEN": "of-the-supervisor"}
        link = Link(site.service, environ=environ, pace=PACE, supervisor=f"http://127.0.0.1:{port}")
        link.start()
        await until(lambda: len(listener.configs()) == 12)
        assert link.state.home_assistant.state == "connecting", "there is no host called supervisor here"
        await link.stop()
    await runner.cleanup()


# --- what is shown, as functions -------------------------------------------------------------------------------------


def test_a_model_that_was_taken_back_is_not_offered_again(household: Project):
    put_model(household, NEW)
    put_flash(household, "kitchen", NEW, at="2026-11-02")
    put_flash(household, "kitchen", "hey_kitchen-11111111", at="2026-11-03")
    picture = take_picture(household)
    assert picture.active == {"kitchen": "hey_kitchen-11111111"}
    assert find_new_model(picture, "kitchen") is None
    assert (find_new_model(picture, "hall") or {})["id"] == NEW
    assert [status.new_model for status in describe_satellites(picture, {})] == ["", NEW]


def test_the_newest_flash_says_whether_it_failed(household: Project):
    put_flash(household, "kitchen", NEW, at="2026-11-02", outcome="failed", why="it did not come back")
    put_flash(household, "kitchen", NEW, at="2026-11-03", outcome="planned")
    put_flash(household, "stranger", NEW, at="2026-11-03", outcome="failed")
    notice = describe_notices(take_picture(household), {})["flash"]
    assert notice == ("Flashing kitchen failed", "kitchen: it did not come back")
    put_flash(household, "kitchen", NEW, at="2026-11-04")
    assert describe_notices(take_picture(household), {})["flash"] is None
    assert describe_notices(take_picture(household), {"": "no model"})["flash"] == (
        "Flashing all failed", "all: no model",
    )  # fmt: skip


def test_what_is_configured_is_read_and_no_secret_is_told(tmp_path: Path):
    (tmp_path / "token").write_text("the-secret-token\n")

    def settings(**sections: Any) -> Settings:
        return Settings(phrase="hey kitchen", **sections)

    assert read_access(settings(), tmp_path, {}) is None
    assert read_broker(settings(), tmp_path) is None
    supervised = read_access(settings(), tmp_path, {"SUPERVISOR_TOKEN": "s"})
    assert supervised is not None
    assert supervised.by_supervisor
    chosen = HomeAssistantSettings(url="http://home.example:8123", token_file="token")
    access = read_access(settings(home_assistant=chosen), tmp_path, {"SUPERVISOR_TOKEN": "s"})
    assert access is not None
    assert (access.url, access.token) == ("http://home.example:8123", "the-secret-token")
    half = HomeAssistantSettings(url="http://home.example:8123")
    assert read_access(settings(home_assistant=half), tmp_path, {"SUPERVISOR_TOKEN": "s"}) == supervised
    mqtt = MqttSettings(host="mq.example", username="u", password_file="token", tls=True)
    broker = read_broker(settings(mqtt=mqtt), tmp_path)
    assert broker is not None
    assert (broker.host, broker.password, broker.tls) == ("mq.example", "the-secret-token", True)
    assert "secret-token" not in repr((access, broker))
    for wrong in (
        HomeAssistantSettings(url="http://home.example"),
        HomeAssistantSettings(url="nonsense", token_file="token"),
    ):
        with pytest.raises(ConfigError) as error:
            read_access(settings(home_assistant=wrong), tmp_path, {})
        assert "secret-token" not in str(error.value)


@pytest.mark.slow
@needs_mosquitto
async def test_a_real_home_assistant_shows_what_is_told(household: Project, broker: Mosquitto, tmp_path: Path):
    """Its notifications, its events, its administrators, its entities; and all of it again after its restart."""
    program, _, why = await asyncio.to_thread(find_or_install)
    if program is None:
        pytest.skip(why)
    put_model(household, NEW)
    async with HomeAssistant(program, tmp_path / "ha") as core:
        await core.add_integration(
            "mqtt", {"broker": "127.0.0.1", "port": broker.port, "username": USER, "password": PASSWORD}
        )
        configure(household, broker=broker)
        (household.root / "token").write_text(core.token)
        with (household.root / "project.yaml").open("a") as settings:
            settings.write(f"home_assistant: {{url: '{core.url}', token_file: token}}\n")
        access = find_access(core.url, core.token, environ={})
        async with (
            linked(household.root, ingress=True, ingress_peer="127.0.0.1") as site,
            Client(access, retry_first_s=0.2, retry_most_s=1) as asker,
        ):
            site.owner = {"X-Remote-User-Id": "nobody"}
            await state_of(site, "home_assistant", "connected")
            ready = "A new wake word model is ready"
            events = await asker.events("mww_ha_capture")
            id = await capture(site, household)
            async with asyncio.timeout(20):
                assert (await anext(events))["data"]["id"] == id

            async def titles() -> set[str]:
                every = await asker.command("persistent_notification/get")
                return {n["title"] for n in every if n["notification_id"].startswith("mww_ha_")}

            async def become(asked: Callable[[], Any], wanted: Any, limit_s: float = 60) -> None:
                deadline = time.monotonic() + limit_s
                while (found := await asked()) != wanted:
                    assert time.monotonic() < deadline, found
                    await asyncio.sleep(0.2)

            await become(titles, {"1 capture to review", ready})
            users = await asker.command("config/auth/list")
            owner = next(user["id"] for user in users if user["is_owner"])
            system = [user["id"] for user in users if user["system_generated"]]

            async def may(user: str) -> bool:
                return bool((await site.get("/api/me", headers={"X-Remote-User-Id": user}))["may_change"])

            assert [await may(user) for user in (owner, "nobody", *system)] == [True, False, *[False] * len(system)]

            async def state(entity: str) -> str:
                return await asker.state_of(entity)

            await become(lambda: state("sensor.kitchen_wake_word_captures_to_review"), "1")
            await become(lambda: state("sensor.kitchen_wake_word_active_model"), "hey_kitchen-11111111")
            await become(lambda: state("update.hall_wake_word_new_model"), "on")
            await asker.call_service("update", "install", {"entity_id": "update.hall_wake_word_new_model"})

            async def asked_for() -> list[tuple[str, str, str]]:
                jobs = await site.get("/api/jobs")
                return [(job["kind"], job["order"]["device"], job["order"]["model"]) for job in jobs]

            await become(asked_for, [("flash", "hall", NEW)])

            await asyncio.to_thread(core.stop)
            await state_of(site, "home_assistant", "connecting")
            await asyncio.to_thread(core.start)
            await core.wait_running()
            await become(titles, {"1 capture to review", ready})
            headers = {"X-Remote-User-Id": owner, "Origin": site.base}
            body = {"ids": [id], "verdict": "other"}
            assert (await site.ask("POST", "/api/review", headers=headers, json=body))[0] == 200
            await become(titles, {ready})
