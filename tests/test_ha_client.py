"""The connection to Home Assistant comes back by itself, each answer finds its asker, and no token is ever told."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp.web
import numpy as np
import pytest
from fake_home_assistant import TOKEN, VERSION, FakeHomeAssistant, Refusal
from host_device import free_port
from hypothesis import given, settings
from hypothesis import strategies as st

from mww_ha.errors import (
    ConfigError,
    HomeAssistantAnswerError,
    HomeAssistantRefusedError,
    HomeAssistantUnreachableError,
    InputError,
)
from mww_ha.ha.audio import Prompt, Take, capture_audio, record_takes
from mww_ha.ha.client import Client, PipelineRun, Satellite, outcome_near, outcome_of
from mww_ha.ha.connection import CONNECT_S, Access, find_access

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
KITCHEN = Satellite(
    entity_id="assist_satellite.kitchen",
    device_id="d1",
    name="Kitchen",
    state="idle",
    integration="esphome",
    can_ask=True,
)


@pytest.fixture
async def home() -> AsyncIterator[FakeHomeAssistant]:
    async with FakeHomeAssistant() as fake:
        yield fake


@pytest.fixture
async def client(home: FakeHomeAssistant) -> AsyncIterator[Client]:
    async with quick(home) as connected:
        yield connected


def access(home: FakeHomeAssistant, token: str = TOKEN) -> Access:
    return find_access(home.url, token, environ={})


def quick(home: FakeHomeAssistant, **more: Any) -> Client:
    return Client(access(home), **{"timeout_s": 30, "retry_first_s": 0.05, "retry_most_s": 0.2, **more})


async def until(true: Callable[[], Any], limit_s: float = 30) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, "it did not become so"
        await asyncio.sleep(0.01)


# Where Home Assistant is


def test_an_address_of_pages_is_turned_into_those_of_the_interfaces() -> None:
    found = find_access("https://ha.example:8123/", " abc ", environ={"SUPERVISOR_TOKEN": "other"})
    assert (found.url, found.websocket, found.token) == (
        "https://ha.example:8123",
        "wss://ha.example:8123/api/websocket",
        "abc",
    )
    assert not found.by_supervisor
    assert "abc" not in repr(found)


def test_an_add_on_uses_its_supervisor() -> None:
    found = find_access(environ={"SUPERVISOR_TOKEN": "secret"})
    assert (found.url, found.websocket) == ("http://supervisor/core", "ws://supervisor/core/websocket")
    assert found.by_supervisor
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("url", "token"),
    [
        ("", ""),
        ("homeassistant.local:8123", "abc"),
        ("ftp://homeassistant.local", "abc"),
        ("http://", "abc"),
        ("http://host:99999", "abc"),
        ("http://user:hidden-word@host", "abc"),
        ("http://host/?access_token=hidden-word", "abc"),
        ("http://host", ""),
        ("http://host", "hidden-word\nX-Header: 1"),
        ("http://host", "hidden-wörd"),
    ],
)
def test_an_unusable_address_or_token_is_named_without_its_secrets(url: str, token: str) -> None:
    with pytest.raises(ConfigError) as error:
        find_access(url, token, environ={})
    assert "hidden-w" not in str(error.value)


# The first connection


async def test_a_refused_token_is_said_at_once_and_stands_in_no_message(
    home: FakeHomeAssistant, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(HomeAssistantRefusedError, match="refused the access token") as error:
        async with Client(access(home, "wrong.secret.token")):
            pass
    assert error.value.exit_code == 11
    assert "wrong.secret.token" not in str(error.value) + caplog.text


async def test_a_token_that_is_taken_back_ends_the_attempts(home: FakeHomeAssistant) -> None:
    async with quick(home) as client:
        events = await client.events("mww_ha_test")
        home.token = "another"
        home.cut()
        await until(lambda: client.state == "refused")
        tried = home.connections
        with pytest.raises(HomeAssistantRefusedError):
            await client.command("get_config")
        with pytest.raises(HomeAssistantRefusedError):
            await anext(events)
        await asyncio.sleep(0.3)
        assert home.connections == tried


async def test_nothing_that_listens_is_said_at_once() -> None:
    nowhere = find_access(f"http://127.0.0.1:{free_port()}", "abc", environ={})
    begun = time.monotonic()
    with pytest.raises(HomeAssistantUnreachableError, match="cannot be reached"):
        async with Client(nowhere):
            pass
    assert time.monotonic() - begun < CONNECT_S, "nobody is waited for"


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0-OpenSSH\r\n", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]
)
async def test_another_program_at_the_address_is_not_taken_for_home_assistant(answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        with pytest.raises(HomeAssistantUnreachableError):
            async with Client(find_access(f"http://127.0.0.1:{port}", "abc", environ={})):
                pass


@pytest.mark.parametrize("first", ["{}", "[]", "1", "no json", '{"type": "auth_required"}'])
async def test_a_websocket_of_something_else_is_not_taken_for_home_assistant(first: str) -> None:
    async def talk(request: aiohttp.web.Request) -> aiohttp.web.WebSocketResponse:
        socket = aiohttp.web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str(first)
        await socket.close()
        return socket

    app = aiohttp.web.Application()
    app.router.add_get("/api/websocket", talk)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        with pytest.raises(HomeAssistantUnreachableError):
            async with Client(find_access(f"http://127.0.0.1:{port}", "abc", environ={})):
                pass
    finally:
        await runner.cleanup()


# Commands


async def test_every_answer_finds_its_asker_also_when_answers_come_as_lists(
    home: FakeHomeAssistant, client: Client
) -> None:
    async def echo(data: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(data["number"] % 7 * 0.01)
        return data

    home.services["toy.echo"] = echo
    asked = [client.call_service("toy", "echo", {"number": n}, return_response=True) for n in range(200)]
    assert await asyncio.gather(*asked) == [{"number": n} for n in range(200)]
    assert home.coalesced > 20
    ids = [message["id"] for message in home.received]
    assert ids == sorted(set(ids))


async def test_an_error_of_home_assistant_keeps_its_code_and_says_the_way_out(client: Client) -> None:
    with pytest.raises(HomeAssistantAnswerError, match="Unknown command") as error:
        await client.command("assist_satellite/nonsense")
    assert error.value.code == "unknown_command"
    assert "update it" in error.value.hint


async def test_a_command_without_an_answer_ends_in_time_and_the_next_one_works(
    home: FakeHomeAssistant, client: Client
) -> None:
    home.mute.add("get_states")
    with pytest.raises(HomeAssistantUnreachableError, match=r"did not answer get_states within 0\.1 s"):
        await client.command("get_states", timeout_s=0.1)
    assert await client.version() == VERSION


async def test_a_command_cut_off_is_reported_and_never_sent_twice(home: FakeHomeAssistant, client: Client) -> None:
    home.mute.add("fire_event")
    asked = asyncio.create_task(client.fire_event("mww_ha_flash_failed"))
    await until(lambda: any(message["type"] == "fire_event" for message in home.received))
    home.cut()
    with pytest.raises(HomeAssistantUnreachableError, match="the connection ended"):
        await asked
    home.mute.clear()
    assert await client.version() == VERSION  # waits for the new connection
    assert sum(message["type"] == "fire_event" for message in home.received) == 1


async def test_a_stranger_s_messages_do_not_stop_the_reader() -> None:
    odd = ["[]", "[1, null, {}]", "7", '{"id": "x", "type": "result"}', '{"id": 99, "type": "event", "event": {}}']
    odd += ['{"id": 2, "type": "event"}', '{"id": true, "type": "result"}', '{"type": "pong"}', '{"id": 1}']

    async def talk(request: aiohttp.web.Request) -> aiohttp.web.WebSocketResponse:
        socket = aiohttp.web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"type": "auth_ok", "ha_version": "1"})
        await socket.receive()
        await socket.receive()
        await socket.send_bytes(b"\x00")
        for each in odd:
            await socket.send_str(each)
        await socket.send_str('{"id": 2, "type": "result", "success": true, "result": {"version": "here"}}')
        await socket.receive()
        return socket

    app = aiohttp.web.Application()
    app.router.add_get("/api/websocket", talk)
    runner = aiohttp.web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with Client(find_access(f"http://127.0.0.1:{port}", "abc", environ={})) as client:
            assert await client.version() == "here"
            assert client.reconnects == 0
    finally:
        await runner.cleanup()


# Coming back


async def test_a_subscription_goes_on_after_a_cut_and_after_a_restart(home: FakeHomeAssistant, client: Client) -> None:
    events = await client.events("mww_ha_test")
    for number, lose in enumerate([None, home.cut, home.stop]):
        if lose is not None:
            lost = lose()
            if lost is not None:
                await lost
                await home.start()
            await until(lambda: client.state == "connected" and events.gaps == number)  # noqa: B023  (used at once)
        await home.fire("mww_ha_test", number)
        assert (await anext(events))["data"] == number
    assert client.reconnects == 2
    await events.close()
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_a_subscription_goes_on_also_where_home_assistant_is_too_busy_to_answer_at_first(
    home: FakeHomeAssistant, client: Client
) -> None:
    async with await client.events("mww_ha_test") as events:
        client._timeout_s = 0.3
        home.mute.add("subscribe_events")
        home.cut()
        asked = len(home.received)
        await until(lambda: sum(message["type"] == "subscribe_events" for message in home.received[asked:]) >= 2)
        home.mute.clear()
        await until(lambda: events.gaps == 1)
        assert client.reconnects == 1
        await home.fire("mww_ha_test", "still here")
        assert (await anext(events))["data"] == "still here"


async def test_a_patient_client_waits_for_a_home_assistant_that_comes_later(home: FakeHomeAssistant) -> None:
    await home.stop()
    changes: list[str] = []
    async with quick(home, patient=True, on_change=changes.append) as client:
        with pytest.raises(HomeAssistantUnreachableError):
            await client.command("get_config", timeout_s=0.2)
        await home.start()
        assert await client.version() == VERSION
        assert client.reconnects == 0
    assert changes == ["connecting", "connected", "closed"]


async def test_whatever_is_cut_every_command_ends_and_every_subscription_goes_on(home: FakeHomeAssistant) -> None:
    async def echo(data: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(rng.random() * 0.01)
        return data

    async def ask(number: int) -> str:
        try:
            assert await client.call_service("toy", "echo", {"n": number}, return_response=True) == {"n": number}
            return "answered"
        except HomeAssistantUnreachableError:
            return "cut"

    async def come_and_go() -> None:
        try:
            async with await client.events("mww_ha_other") as stream:
                await asyncio.sleep(rng.random() * 0.02)
                stream.put(None)
        except HomeAssistantUnreachableError:
            pass

    rng = random.Random(4)
    home.services["toy.echo"] = echo
    async with quick(home, retry_first_s=0.005, retry_most_s=0.02) as client:
        events = await client.events("mww_ha_test")
        asked: list[asyncio.Task[str]] = []
        others: list[asyncio.Task[None]] = []
        for number in range(600):
            asked.append(asyncio.create_task(ask(number)))
            if number % 10 == 0:
                others.append(asyncio.create_task(come_and_go()))
            if number % 30 == 29:
                home.cut()
            await asyncio.sleep(rng.random() * 0.004)
        outcomes = await asyncio.gather(*asked)
        await asyncio.gather(*others)
        assert outcomes.count("answered") > 100
        assert "cut" in outcomes
        listening = lambda: [list(link.listening.values()) for link in home._open]  # noqa: E731
        await until(lambda: client.state == "connected" and not client._waiting and listening() == [["mww_ha_test"]])
        assert client.reconnects >= 10
        assert 0 < events.gaps <= client.reconnects, "a connection may be cut before it is subscribed again"
        await home.fire("mww_ha_test", "still here")
        assert (await anext(events))["data"] == "still here"
        await until(lambda: not client._waiting)
        assert list(client._streams.values()) == client._lasting == [events]
        assert listening() == [["mww_ha_test"]]


async def test_a_machine_that_hangs_is_noticed(home: FakeHomeAssistant) -> None:
    home.deaf = True
    async with quick(home, heartbeat_s=0.2) as client:
        home.deaf = False
        await until(lambda: client.reconnects == 1)
        assert await client.version() == VERSION


async def test_attempts_become_rarer_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[float] = []

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def connect() -> None:
        attempts.append(time.monotonic())  # not at the door: the HTTP library itself knocks twice where it closes
        await Client._connect(client)

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    nowhere = find_access(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "abc", environ={})
    client = Client(nowhere, patient=True, retry_first_s=0.05, retry_most_s=0.2)
    monkeypatch.setattr(client, "_connect", connect)
    async with server, client:
        await until(lambda: len(attempts) >= 10)
    gaps = np.diff(attempts)
    assert gaps[0] >= 0.03
    assert gaps[-1] >= 0.13
    assert min(gaps[4:]) < 0.5, "without the bound the fifth took more"


async def test_leaving_releases_everybody_who_waits_and_leaves_no_task(home: FakeHomeAssistant) -> None:
    before = asyncio.all_tasks()
    home.mute.add("get_config")
    async with quick(home) as client:
        asked = asyncio.create_task(client.command("get_config"))
        events = await client.events("mww_ha_test")
        waiting = asyncio.create_task(anext(events))
        await until(lambda: any(message["type"] == "get_config" for message in home.received))
    for task in (asked, waiting):
        with pytest.raises(HomeAssistantUnreachableError, match="was closed"):
            await task
    left = [task for task in asyncio.all_tasks() - before if "home-assistant" in task.get_name()]
    assert left == []


async def test_events_that_nobody_takes_are_dropped_and_counted(home: FakeHomeAssistant, client: Client) -> None:
    events = await client.events("mww_ha_test")
    for number in range(4100):
        await home.fire("mww_ha_test", number)
    await until(lambda: events.lost == 4)
    assert (await anext(events))["data"] == 4


# What is asked


def furnish(home: FakeHomeAssistant) -> None:
    def entity(id: str, **more: Any) -> dict[str, Any]:
        return {"entity_id": id, "device_id": None, "platform": "esphome", "disabled_by": None, "area_id": None, **more}

    home.registry.areas[:] = [{"area_id": "a1", "name": "Ground floor"}]
    home.registry.devices[:] = [
        {
            "id": "d1",
            "name": "kitchen-sat",
            "name_by_user": "Kitchen",
            "connections": [["mac", "aa:bb:cc:00:11:22"]],
            "identifiers": [],
            "area_id": "a1",
            "manufacturer": "Espressif",
            "model": "esp32-s3-box-3",
            "sw_version": "2026.10.0",
        },
        {"id": "d2", "name": "Phone", "name_by_user": None, "connections": [], "area_id": None},
    ]
    home.registry.entities[:] = [
        entity("assist_satellite.kitchen", device_id="d1", config_entry_id="e1"),
        entity("assist_satellite.phone", device_id="d2", platform="voip"),
        entity("assist_satellite.attic", disabled_by="user"),
        entity("light.kitchen", device_id="d1"),
    ]
    home.registry.states[:] = [
        {"entity_id": "assist_satellite.kitchen", "state": "idle", "attributes": {"supported_features": 3}},
        {"entity_id": "assist_satellite.phone", "state": "unavailable", "attributes": {"supported_features": None}},
    ]
    home.registry.diagnostics["e1"] = {
        "config": {"data": {"host": "192.0.2.7", "device_name": "kitchen-sat", "port": 6053}}
    }


async def test_satellites_are_joined_with_their_devices(home: FakeHomeAssistant, client: Client) -> None:
    furnish(home)
    kitchen, phone = await client.satellites()
    assert kitchen == Satellite(
        entity_id="assist_satellite.kitchen",
        device_id="d1",
        name="Kitchen",
        state="idle",
        integration="esphome",
        config_entry_id="e1",
        mac="AA:BB:CC:00:11:22",
        area="Ground floor",
        manufacturer="Espressif",
        model="esp32-s3-box-3",
        firmware="2026.10.0",
        can_announce=True,
        can_ask=True,
    )
    assert (phone.available, phone.can_ask, phone.mac, phone.name) == (False, False, "", "Phone")
    with_host, _ = await client.satellites(hosts=True)
    assert with_host == replace(kitchen, host="192.0.2.7", host_name="kitchen-sat")


@pytest.mark.parametrize(
    "wanted",
    ["kitchen", " KITCHEN ", "assist_satellite.kitchen", "AA:BB:CC:00:11:22", "aabbcc001122", "kitchen-sat", "d1"],
)
async def test_a_satellite_is_found_by_any_of_its_names(home: FakeHomeAssistant, client: Client, wanted: str) -> None:
    furnish(home)
    assert (await client.find_satellite(wanted)).entity_id == "assist_satellite.kitchen"


async def test_an_unknown_satellite_is_answered_with_those_there_are(home: FakeHomeAssistant, client: Client) -> None:
    furnish(home)
    with pytest.raises(InputError, match="'hall'") as error:
        await client.find_satellite("hall")
    assert "Kitchen (assist_satellite.kitchen)" in error.value.hint


async def test_events_and_notifications_carry_our_mark_and_are_bounded(home: FakeHomeAssistant, client: Client) -> None:
    await client.fire_event("mww_ha_model_ready", {"model": "hey_kitchen-1a2b3c4d"})
    assert home.fired == [("mww_ha_model_ready", {"model": "hey_kitchen-1a2b3c4d"})]
    for name in ("state_changed", "mww_ha_", "mww_ha_Ü", "mww_ha_a b"):
        with pytest.raises(ValueError, match="not a name of our events"):
            await client.fire_event(name)
    calls: list[dict[str, Any]] = []

    async def keep(data: dict[str, Any]) -> None:
        calls.append(data)

    home.services |= {"persistent_notification.create": keep, "persistent_notification.dismiss": keep}
    await client.notify("T" * 500, "m" * 9000, "Model ready! 1")
    await client.dismiss("Model ready! 1")
    assert [call["notification_id"] for call in calls] == ["mww_ha_model_ready_1"] * 2
    assert (len(calls[0]["title"]), len(calls[0]["message"])) == (200, 4000)


async def test_an_action_of_a_device_is_called_by_the_name_home_assistant_gives_it(
    home: FakeHomeAssistant, client: Client
) -> None:
    calls: list[dict[str, Any]] = []

    async def keep(data: dict[str, Any]) -> None:
        calls.append(data)

    home.services["esphome.kitchen_sat_mww_capture"] = keep
    await client.call_esphome_action("kitchen-sat", "mww_capture", {"seconds": 3})
    assert calls == [{"seconds": 3}]
    with pytest.raises(HomeAssistantAnswerError, match=r"no action esphome\.kitchen_sat_other"):
        await client.call_esphome_action("kitchen-sat", "other")


async def test_the_rest_interface_is_read_with_bounds(home: FakeHomeAssistant, client: Client) -> None:
    furnish(home)
    assert await client.check() == VERSION
    assert await client.state_of("assist_satellite.kitchen") == "idle"
    assert await client.state_of("assist_satellite.nowhere") == ""
    home.token = "another"
    with pytest.raises(HomeAssistantRefusedError) as error:
        await client.check()
    assert TOKEN not in str(error.value)
    await home.stop()
    with pytest.raises(HomeAssistantUnreachableError):
        await client.check()


@pytest.mark.parametrize(
    ("refusal", "heard"),
    [
        (None, True),
        (Refusal("home_assistant_error", "No answer received from the satellite.", translation_key="no_answer"), False),
        (Refusal("home_assistant_error", "No answer from question"), False),
    ],
)
async def test_a_question_is_answered_or_not(
    home: FakeHomeAssistant, client: Client, refusal: Refusal | None, heard: bool
) -> None:
    async def ask(data: dict[str, Any]) -> dict[str, Any]:
        assert data == {"entity_id": "assist_satellite.kitchen", "question": "Say it", "preannounce": True}
        if refusal is not None:
            raise refusal
        return {"id": None, "sentence": "hey kitchen", "slots": {}}

    home.services["assist_satellite.ask_question"] = ask
    answer = await client.ask_question("assist_satellite.kitchen", "Say it")
    assert (answer.heard, answer.sentence) == (heard, "hey kitchen" if heard else "")


async def test_a_busy_satellite_is_not_taken_for_a_silent_person(home: FakeHomeAssistant, client: Client) -> None:
    async def ask(_: dict[str, Any]) -> None:
        raise Refusal("home_assistant_error", "")

    home.services["assist_satellite.ask_question"] = ask
    with pytest.raises(HomeAssistantAnswerError):
        await client.ask_question("assist_satellite.kitchen", media="http://127.0.0.1/say.wav")


async def test_a_wake_word_is_intercepted_or_does_not_come(home: FakeHomeAssistant, client: Client) -> None:
    furnish(home)
    assert await client.intercept_wake_word("assist_satellite.kitchen", 0.1) is None
    assert home.received[-1]["type"] == "unsubscribe_events"

    async def wake(_: dict[str, Any]) -> str:
        return "hey kitchen"

    home.services["intercept"] = wake
    assert await client.intercept_wake_word("assist_satellite.kitchen", 30) == "hey kitchen"
    with pytest.raises(HomeAssistantAnswerError, match="Entity not found"):
        await client.intercept_wake_word("assist_satellite.hall", 5)

    async def busy(_: dict[str, Any]) -> str:
        raise Refusal("home_assistant_error", "Wake word interception already in progress")

    home.services["intercept"] = busy
    with pytest.raises(HomeAssistantAnswerError, match="already in progress"):
        await client.intercept_wake_word("assist_satellite.kitchen", 30)


async def test_the_states_of_satellites_are_told_as_they_change(home: FakeHomeAssistant, client: Client) -> None:
    async def two() -> list[tuple[str, str]]:
        got: list[tuple[str, str]] = []
        async for change in client.satellite_states():
            got.append(change)
            if len(got) == 2:
                return got
        return got

    watching = asyncio.create_task(two())
    await until(lambda: any("state_changed" in link.listening.values() for link in home._open))
    for id, state in [
        ("light.kitchen", "on"),
        ("assist_satellite.kitchen", "listening"),
        ("assist_satellite.hall", ""),
    ]:
        new = {"entity_id": id, "state": state} if state else None
        await home.fire("state_changed", {"entity_id": id, "old_state": None, "new_state": new})
    assert await watching == [("assist_satellite.kitchen", "listening"), ("assist_satellite.hall", "")]


# What became of a wake-up


def event(type: str, seconds: float = 0, **data: Any) -> dict[str, Any]:
    return {"type": type, "data": data or None, "timestamp": (NOON + timedelta(seconds=seconds)).isoformat()}


START = event("run-start", satellite_id="assist_satellite.kitchen", pipeline="p1")
HEARD = event("stt-end", stt_output={"text": "lights on"})
NO_SPEECH = event("error", code="stt-no-text-recognized", message="No text recognized")


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        ([START, event("stt-start"), NO_SPEECH, event("run-end")], "no_speech"),
        ([START, HEARD, event("intent-end", intent_output={}), event("run-end")], "handled"),
        ([START, HEARD, event("run-end")], "heard"),
        ([START, HEARD, event("error", code="intent-failed", message="x"), event("run-end")], "failed"),
        ([START, event("error", code="duplicate_wake_up_detected", message="x"), event("run-end")], "duplicate"),
        ([START, event("error", code="wake-word-timeout", message="x"), event("run-end")], "no_wake"),
        ([START, event("run-end")], "ended"),
        ([START, event("stt-start")], "running"),
        ([], "running"),
    ],
)
def test_the_outcome_of_a_run_is_read_from_its_events(events: list[dict[str, Any]], outcome: str) -> None:
    assert outcome_of(events)[0] == outcome


async def test_the_runs_that_home_assistant_remembers_are_read(home: FakeHomeAssistant, client: Client) -> None:
    home.pipelines = {
        "p1": {"r2": [event("run-start", 30), event("run-end")], "gone": []},
        "p2": {"r1": [START, NO_SPEECH, event("run-end")]},
    }
    runs = await client.pipeline_runs()
    assert [(run.run_id, run.outcome, run.satellite_id) for run in runs] == [
        ("r1", "no_speech", "assist_satellite.kitchen"),
        ("r2", "ended", ""),
    ]
    assert runs[0].started_at == NOON
    assert [run.run_id for run in await client.pipeline_runs("p1")] == ["r2"]
    assert await client.pipeline_runs("p3") == []


def test_a_run_is_joined_when_it_is_the_satellite_s_nearest_and_near_enough() -> None:
    def run(id: str, seconds: float, satellite: str = "s") -> PipelineRun:
        return PipelineRun(
            run_id=id, pipeline_id="p", started_at=NOON + timedelta(seconds=seconds), satellite_id=satellite
        )

    runs = [run("early", -3), run("near", 2), run("other", 0, "t")]
    assert outcome_near(runs, "s", NOON) == runs[1]
    assert outcome_near(runs, "s", NOON + timedelta(seconds=7)) == runs[1]
    assert outcome_near(runs, "s", NOON + timedelta(seconds=7.001)) is None
    assert outcome_near([], "s", NOON) is None


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "data", "code"]), inner, max_size=3)
        ),
    )
)
@settings(max_examples=200, deadline=None)
def test_no_event_of_a_run_can_upset_the_reader(value: Any) -> None:
    events = (
        [each for each in value if isinstance(each, dict)]
        if isinstance(value, list)
        else [{"type": "error", "data": value}]
    )
    assert outcome_of(events)[0]


# Audio


def sound(pieces: int, size: int = 512) -> list[np.ndarray]:
    rng = np.random.default_rng(pieces)
    return [rng.integers(-32768, 32767, size, dtype=np.int16) for _ in range(pieces)]


async def test_captured_audio_is_what_was_sent(home: FakeHomeAssistant, client: Client) -> None:
    sent = sound(50)
    async with await capture_audio(client, "d1", 30) as capture:
        for piece in sent:
            assert home.hear("d1", piece.astype("<i2").tobytes())
        home.hear("d1", None)
        got = [piece async for piece in capture]
    assert np.array_equal(np.concatenate(got), np.concatenate(sent))
    assert got[0].dtype == np.int16
    assert (capture.ended, capture.overflow) == (True, False)


async def test_lost_audio_is_flagged_and_another_s_capture_ends_ours(home: FakeHomeAssistant, client: Client) -> None:
    home.overflow = True
    async with await capture_audio(client, "d1", 5) as first, await capture_audio(client, "d1", 100) as second:
        assert [piece async for piece in first] == []
        assert (first.ended, second.ended) == (True, False)
    assert first.overflow
    asked = [message["timeout"] for message in home.received if message["type"] == "assist_pipeline/device/capture"]
    assert asked == [5, 60]  # what Home Assistant allows, not what was wished


@pytest.mark.parametrize(
    "wrong", [{"rate": 8000}, {"width": 4}, {"channels": 2}, {"audio": "?"}, {"audio": "YQ=="}, {"audio": 1}]
)
async def test_audio_in_another_form_is_refused(home: FakeHomeAssistant, client: Client, wrong: dict[str, Any]) -> None:
    async with await capture_audio(client, "d1", 30) as capture:
        form = {"type": "audio", "rate": 16000, "width": 2, "channels": 1, "audio": "AAA="}
        await home._open[0].say({"id": capture._stream.id, "type": "event", "event": form | wrong})
        with pytest.raises(HomeAssistantAnswerError, match="audio"):
            await anext(capture)


async def test_a_capture_does_not_outlive_the_connection(home: FakeHomeAssistant, client: Client) -> None:
    async with await capture_audio(client, "d1", 30) as capture:
        home.hear("d1", b"\x01\x00")
        assert (await anext(capture)).tolist() == [1]
        home.cut()
        with pytest.raises(HomeAssistantUnreachableError):
            await anext(capture)


class Room:
    """A person in front of the fake's satellite: answers each question with some audio."""

    def __init__(self, home: FakeHomeAssistant, script: list[Callable[[], Awaitable[str]]] | None = None) -> None:
        furnish(home)
        self.home, self.script, self.said = home, script or [], list[np.ndarray]()
        self.questions: list[dict[str, Any]] = []
        home.services["assist_satellite.ask_question"] = self.ask

    async def ask(self, data: dict[str, Any]) -> dict[str, Any]:
        self.questions.append(data)
        if self.script:
            sentence = await self.script.pop(0)()
        else:
            await self.speak()
            sentence = "hey kitchen"
        if not sentence:
            raise Refusal("home_assistant_error", "No answer received from the satellite.", translation_key="no_answer")
        return {"id": None, "sentence": sentence, "slots": {}}

    async def speak(self, pieces: int = 4) -> None:
        for piece in sound(pieces):
            self.said.append(piece)
            assert self.home.hear("d1", piece.tobytes())
            await asyncio.sleep(0.01)
        # The end of the run ends the capture, a moment after the sentence.
        asyncio.get_running_loop().call_later(0.05, self.home.hear, "d1", None)

    def heard(self) -> np.ndarray:
        return np.concatenate(self.said)


async def record(client: Client, prompts: list[Prompt], **more: Any) -> list[Take]:
    timing = {"pause_s": 0.01, "take_s": 30, "busy_s": 30, **more}
    return [take async for take in record_takes(client, KITCHEN, prompts, **timing)]


async def test_prompted_takes_hold_what_the_satellite_heard(home: FakeHomeAssistant, client: Client) -> None:
    room = Room(home)
    door, sofa = (
        Prompt(text="hey kitchen", question="From the door, please", place="door"),
        Prompt(text="hey kitchen", media="m"),
    )
    first, second = await record(client, [door, sofa])
    assert [(each.get("question"), each.get("question_media_id")) for each in room.questions] == [
        ("From the door, please", None),
        (None, "m"),
    ]
    assert np.array_equal(np.concatenate([first.samples, second.samples]), room.heard())
    for take, prompt in ((first, door), (second, sofa)):
        assert take.prompt == prompt
        assert (take.heard, take.sentence, take.audio_path) == (True, "hey kitchen", "assist")
        assert not take.overflow
        assert not take.interrupted


async def test_a_silent_person_still_makes_a_take(home: FakeHomeAssistant, client: Client) -> None:
    async def silent() -> str:
        await room.speak(1)
        return ""

    room = Room(home, [silent])
    (take,) = await record(client, [Prompt(text="hey kitchen")])
    assert (take.heard, take.sentence, take.samples.size) == (False, "", 512)


async def test_a_pipeline_that_cannot_work_ends_the_session_with_its_reason(
    home: FakeHomeAssistant, client: Client
) -> None:
    async def nothing() -> str:
        failed = event("error", code="stt-provider-missing", message="No speech-to-text provider")
        home.pipelines = {
            "p1": {"r1": [START | {"timestamp": datetime.now(UTC).isoformat()}, failed, event("run-end")]}
        }
        home.hear("d1", None)
        return ""

    room = Room(home, [nothing])
    with pytest.raises(HomeAssistantAnswerError, match="stt-provider-missing") as error:
        await record(client, [Prompt(text="hey kitchen")] * 3)
    assert "speech-to-text" in error.value.hint
    assert len(room.questions) == 1


async def test_a_take_with_a_gap_says_so(home: FakeHomeAssistant, client: Client) -> None:
    async def in_two_parts() -> str:
        first = home._audio["d1"]
        await room.speak(2)
        await until(lambda: home._audio.get("d1") not in (None, first))  # the first capture ends, another begins
        home.overflow = True
        await room.speak(3)
        return "hey kitchen"

    room = Room(home, [in_two_parts])
    (take,) = await record(client, [Prompt(text="hey kitchen")])
    assert take.interrupted
    assert take.overflow
    assert np.array_equal(take.samples, room.heard())


async def test_a_take_that_a_restart_cut_off_is_asked_for_again(home: FakeHomeAssistant, client: Client) -> None:
    async def restart() -> str:
        asyncio.get_running_loop().call_soon(lambda: restarts.append(asyncio.create_task(again())))
        await asyncio.sleep(3)
        return "never told"

    async def again() -> None:
        await home.stop()
        await asyncio.sleep(0.3)
        await home.start()

    restarts: list[asyncio.Task[None]] = []
    room = Room(home, [restart])
    (take,) = await record(client, [Prompt(text="hey kitchen")])
    assert len(room.questions) == 2
    assert np.array_equal(take.samples, room.heard())
    assert client.reconnects >= 1


async def test_a_satellite_in_use_is_waited_for_but_not_for_ever(home: FakeHomeAssistant, client: Client) -> None:
    room = Room(home)
    home.registry.states[0]["state"] = "responding"
    with pytest.raises(HomeAssistantAnswerError, match="Kitchen is responding since") as error:
        await record(client, [Prompt(text="hey kitchen")], busy_s=0.1)
    assert error.value.code == "not_idle"
    asyncio.get_running_loop().call_later(0.2, home.registry.states[0].__setitem__, "state", "idle")
    (take,) = await record(client, [Prompt(text="hey kitchen")])
    assert take.heard
    assert len(room.questions) == 1


async def test_a_satellite_that_cannot_be_asked_is_refused_before_anybody_waits(client: Client) -> None:
    for cannot in (replace(KITCHEN, can_ask=False), replace(KITCHEN, device_id="")):
        with pytest.raises(InputError, match="cannot be made to listen"):
            await anext(record_takes(client, cannot, [Prompt(text="hey kitchen")]))
    with pytest.raises(InputError, match="a take of 61 s"):
        await anext(record_takes(client, KITCHEN, [Prompt(text="hey kitchen")], take_s=61))


def test_nothing_heavy_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, mww_ha.ha.client, mww_ha.ha.mqtt; print(sorted({'aiohttp', 'paho', 'numpy'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(told.stdout.replace("'", '"')) == []
