"""What the broker holds is what is shown, through restarts; only sensible commands come in. With a real mosquitto."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import socket
import subprocess
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import aiohttp
import aiohttp.web
import pytest
from certificates import write_certificate
from host_device import free_port
from hypothesis import given
from hypothesis import strategies as st
from real_mosquitto import PASSWORD, USER, Mosquitto, find_mosquitto

from mww_ha.errors import ConfigError, HomeAssistantRefusedError, HomeAssistantUnreachableError
from mww_ha.ha.mqtt import Broker, Entities, SatelliteStatus, find_broker, object_id, parse_broker

needs_mosquitto = pytest.mark.skipif(
    not find_mosquitto(), reason="mosquitto is not installed (Debian: apt-get install mosquitto)"
)
KITCHEN = SatelliteStatus(
    name="kitchen-1",
    friendly_name="Kitchen",
    detections_per_day=3.256,
    unreviewed=2,
    active_model="hey_kitchen-11111111",
)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker") as running:
        yield running


def login(broker: Mosquitto, **more: Any) -> Broker:
    return Broker(**{"host": "127.0.0.1", "port": broker.port, "username": USER, "password": PASSWORD, **more})


async def until(true: Callable[[], Any], limit_s: float = 30) -> None:
    deadline = time.monotonic() + limit_s
    while not true():
        assert time.monotonic() < deadline, "it did not become so"
        await asyncio.sleep(0.01)


class Listener:
    """Another client of the broker: what Home Assistant would see. An async context manager."""

    def __init__(self, broker: Mosquitto) -> None:
        self.held: dict[str, str] = {}
        self.heard: list[tuple[str, str]] = []  # all of it, in order
        self._command = ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(broker.port), "-u", USER, "-P", PASSWORD]
        self._broker = broker
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        arguments = [*self._command, "-t", "#", "-F", "%j"]
        self._process = await asyncio.create_subprocess_exec(*arguments, stdout=subprocess.PIPE)
        self._reader = asyncio.create_task(self._read())
        # It hears once its own message came back.
        while "listening" not in self.held:
            await self.say("listening", "yes")
            await asyncio.sleep(0.05)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        assert self._reader is not None
        self._process.terminate()
        await self._process.wait()
        await self._reader

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            message = json.loads(line)
            self.held[message["topic"]] = message.get("payload") or ""
            self.heard.append((message["topic"], self.held[message["topic"]]))

    async def say(self, topic: str, payload: str, *, retain: bool = False) -> None:
        arguments = [
            "mosquitto_pub",
            *self._command[1:],
            "-t",
            topic,
            "-m",
            payload,
            "-q",
            "1",
            *(["-r"] if retain else []),
        ]
        await (await asyncio.create_subprocess_exec(*arguments)).wait()

    def configs(self) -> dict[str, dict[str, Any]]:
        """Discovery messages that are not empty, by the last part that names them."""
        return {
            topic.split("/")[3]: json.loads(payload)
            for topic, payload in self.held.items()
            if topic.startswith("homeassistant/") and payload
        }

    def value(self, last: str, name: str = "kitchen-1") -> Any:
        payload = self.held.get(f"mww_ha/{name}/{last}")
        return json.loads(payload) if payload else None


@pytest.fixture
async def listener(broker: Mosquitto) -> AsyncIterator[Listener]:
    async with Listener(broker) as hearing:
        yield hearing


@needs_mosquitto
async def test_a_satellite_is_announced_with_its_values_and_we_with_a_will(
    broker: Mosquitto, listener: Listener
) -> None:
    async with Entities(login(broker), version="1.2", page_url="http://127.0.0.1:8099/") as entities:
        await entities.show(replace(KITCHEN, new_model="hey_kitchen-00000000", new_model_summary="fewer misses"))
        await until(lambda: listener.held.get("mww_ha/status") == "online" and len(listener.configs()) == 6)
        await until(lambda: listener.value("update"))  # the last that is told of it
        configs = listener.configs()
        for key, config in configs.items():
            assert config["unique_id"] == f"mww_ha_{key}"
            assert config["availability_topic"] == "mww_ha/status"
            assert config["device"] == configs["kitchen-1_capture"]["device"]
            assert config["origin"] == {"name": "mww-ha", "sw_version": "1.2"}
        assert configs["kitchen-1_capture"]["device"]["name"] == "Kitchen wake word"
        assert configs["kitchen-1_capture"]["device"]["configuration_url"] == "http://127.0.0.1:8099/"
        assert listener.value("state") == {
            "capturing": False,
            "detections_per_day": 3.26,
            "false_accepts_per_day": None,
            "unreviewed": 2,
            "active_model": "hey_kitchen-11111111",
        }
        assert listener.value("update") == {
            "installed_version": "model hey_kitchen-11111111",
            "latest_version": "model hey_kitchen-00000000",
            "release_summary": "fewer misses",
        }
        await entities.show(replace(KITCHEN, capturing=True, installing=True))
        await until(lambda: (listener.value("state") or {}).get("capturing"))
        await until(lambda: (listener.value("update") or {}).get("in_progress"))
        assert listener.value("update")["latest_version"] == "model hey_kitchen-11111111"
    await until(lambda: listener.held["mww_ha/status"] == "offline")
    assert len(listener.configs()) == 6  # gone for now, not for good


@needs_mosquitto
async def test_the_broker_tells_when_we_are_gone_without_a_word(broker: Mosquitto, listener: Listener) -> None:
    async with Entities(login(broker), patient=True) as entities:
        await entities.wait_connected(10)
        await until(lambda: listener.held.get("mww_ha/status") == "online")
        entities._client.socket().shutdown(socket.SHUT_RDWR)
        await until(lambda: len([topic for topic, _ in listener.heard if topic == "mww_ha/status"]) >= 3)
        said = [payload for topic, payload in listener.heard if topic == "mww_ha/status"]
        assert said[:3] == ["online", "offline", "online"], "and we are back"


@needs_mosquitto
async def test_the_last_word_stays_when_changes_overtake_each_other(broker: Mosquitto, listener: Listener) -> None:
    async with Entities(login(broker)) as entities:
        await asyncio.gather(*[entities.show(replace(KITCHEN, unreviewed=number)) for number in range(20)])
        await entities.show(replace(KITCHEN, unreviewed=19, capturing=True))
        await until(lambda: (listener.value("state") or {}).get("capturing"))
        await asyncio.sleep(0.2)
        assert listener.value("state")["unreviewed"] == 19


@needs_mosquitto
async def test_only_sensible_commands_come_in(broker: Mosquitto, listener: Listener) -> None:
    wishes: list[Any] = []

    async def capture(name: str, on: bool) -> None:
        wishes.append((name, on))

    async def install(name: str) -> None:
        wishes.append(name)

    await listener.say("mww_ha/kitchen-1/capture/set", "ON", retain=True)  # of another time
    async with Entities(login(broker), on_capture=capture, on_install=install) as entities:
        await entities.show(KITCHEN)
        await until(lambda: entities.ignored == 1)
        nonsense = [
            ("mww_ha/kitchen-1/capture/set", "on"),
            ("mww_ha/kitchen-1/capture/set", "ON" * 10_000),
            ("mww_ha/kitchen-1/install", ""),
            ("mww_ha/hall/capture/set", "ON"),
        ]
        for topic, payload in nonsense:
            await listener.say(topic, payload)
        await until(lambda: entities.ignored == 5)
        assert wishes == []
        for topic, payload in [("capture/set", "ON"), ("capture/set", "OFF"), ("install", "INSTALL")]:
            await listener.say(f"mww_ha/kitchen-1/{topic}", payload)
        await until(lambda: len(wishes) == 3)
        assert wishes == [("kitchen-1", True), ("kitchen-1", False), "kitchen-1"]


@needs_mosquitto
async def test_after_a_restart_of_the_broker_everything_is_told_anew(broker: Mosquitto) -> None:
    async with Entities(login(broker)) as entities:
        await entities.show(KITCHEN)
        broker.stop()
        await until(lambda: entities.state == "connecting")
        broker.forget()
        hall = SatelliteStatus(name="hall")
        await entities.show(hall)  # no connection, no error
        await entities.show(replace(KITCHEN, unreviewed=9))
        broker.start()
        await entities.wait_connected(60)
        async with Listener(broker) as listener:
            # What a broker holds comes in any order.
            await until(lambda: len(listener.configs()) == 12 and listener.held.get("mww_ha/status") == "online")
            await until(lambda: listener.value("state"))
            assert listener.value("state")["unreviewed"] == 9
            await entities.remove("hall")
            await until(lambda: len(listener.configs()) == 6 and not listener.value("state", "hall"))
            assert listener.value("state")["unreviewed"] == 9


@needs_mosquitto
async def test_satellites_of_earlier_times_go_and_strangers_stay(broker: Mosquitto, listener: Listener) -> None:
    async with Entities(login(broker)) as entities:
        await entities.show(KITCHEN)
        await entities.show(SatelliteStatus(name="hall"))
    await listener.say("homeassistant/switch/mww_ha/other/config", '{"origin": {"name": "other"}}', retain=True)
    await listener.say("homeassistant/switch/mww_ha/odd/config", "[1", retain=True)
    async with Entities(login(broker)) as entities:
        await entities.show(KITCHEN)
        await until(lambda: len(entities._found) == 12)
        await entities.remove_others()
        topics = {topic for topic, payload in listener.held.items() if topic.startswith("homeassistant/") and payload}
        await until(lambda: sum(bool(payload) for payload in listener.held.values() if "hall" in payload) == 0)
        topics = {topic for topic, payload in listener.held.items() if topic.startswith("homeassistant/") and payload}
        assert len(topics) == 6 + 2
        await entities.remove_all()
        await until(lambda: not listener.value("state") and not listener.value("update"))
        topics = {topic for topic, payload in listener.held.items() if topic.startswith("homeassistant/") and payload}
        assert topics == {"homeassistant/switch/mww_ha/other/config", "homeassistant/switch/mww_ha/odd/config"}


@needs_mosquitto
async def test_a_wrong_password_is_said_at_once_and_not_tried_again(
    broker: Mosquitto, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = login(broker, password="a wrong secret")
    with pytest.raises(HomeAssistantRefusedError, match=r"the MQTT broker at 127\.0\.0\.1") as error:
        async with Entities(wrong):
            pass
    assert "a wrong secret" not in str(error.value) + caplog.text + repr(wrong)
    async with Entities(wrong, patient=True, retry_first_s=1) as entities:
        time.sleep(2.5)  # noqa: ASYNC251  nothing of ours is at work, and the client's own thread must know it
        await until(lambda: entities.state == "refused")
        # The broker writes its log after it has answered.
        log = tmp_path / "broker" / "broker.log"
        await until(lambda: log.read_text().count("not authorised") == 2)
        await entities.show(KITCHEN)
        await asyncio.sleep(1.2)
        assert log.read_text().count("not authorised") == 2


async def test_a_broker_that_is_not_there_is_said_at_once_or_waited_for() -> None:
    nowhere = Broker(host="127.0.0.1", port=free_port())
    with pytest.raises(HomeAssistantUnreachableError, match="nothing answers"):
        async with Entities(nowhere):
            pass
    async with Entities(nowhere, patient=True) as entities:
        await entities.show(KITCHEN)
        await entities.remove("hall")
        assert entities.state == "connecting"


@needs_mosquitto
# Release 1.6 of paho leaves the socket of a failed handshake to the garbage collector, which is called below.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <ssl.SSLSocket:pytest.PytestUnraisableExceptionWarning")
async def test_an_encrypted_broker_is_believed_only_with_its_certificate(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    with Mosquitto(tmp_path / "broker", certificate=certificate, key=key) as broker:
        async with Entities(login(broker, tls=True, ca_file=str(certificate))) as entities:
            await entities.show(KITCHEN)
            assert entities.state == "connected"
        for unknown in (login(broker, tls=True), login(broker)):
            with pytest.raises(HomeAssistantUnreachableError):
                async with Entities(unknown):
                    pass
            gc.collect()
    with pytest.raises(ConfigError, match=r"nothing\.pem"):
        async with Entities(Broker(host="127.0.0.1", tls=True, ca_file=str(tmp_path / "nothing.pem"))):
            pass


@needs_mosquitto
async def test_the_client_library_goes_with_its_last_reference(broker: Mosquitto) -> None:
    """Its sockets are closed then, and only then: one that held itself would leave them to the garbage collector."""
    gc.disable()
    try:
        async with Entities(login(broker)) as entities:
            client = weakref.ref(entities._client)
        await until(lambda: client() is None)
    finally:
        gc.enable()


# Without a broker


@given(st.text(max_size=80), st.text(max_size=80))
def test_names_become_topics_of_allowed_signs_and_two_never_share_one(one: str, other: str) -> None:
    topic = object_id(one)
    assert topic
    assert len(topic) <= 57
    assert set(topic) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
    assert (topic == object_id(other)) == (one == other)


@given(
    st.builds(
        SatelliteStatus,
        name=st.text(min_size=1, max_size=300),
        friendly_name=st.text(max_size=5000),
        active_model=st.text(max_size=5000),
        new_model=st.text(max_size=5000),
        new_model_summary=st.text(max_size=5000),
        detections_per_day=st.none() | st.floats(0, 1e6),
    )
)
def test_messages_are_bounded_whatever_is_in_them(status: SatelliteStatus) -> None:
    entities = Entities(Broker(host="127.0.0.1"), version="9" * 5000)
    for topic, message in {**entities._configs(status), **entities._values(status)}.items():
        assert len(json.dumps(message).encode()) < 16 << 10
        assert "#" not in topic
        assert "+" not in topic
        assert len(topic) < 150
    assert len(entities._values(status)[f"mww_ha/{object_id(status.name)}/update"]["installed_version"]) <= 255


def test_a_broker_is_read_from_what_the_supervisor_says() -> None:
    said = {
        "host": "core-mosquitto",
        "port": 1883,
        "ssl": False,
        "username": "addons",
        "password": "p",
        "protocol": "3.1.1",
    }
    assert parse_broker(said) == Broker(host="core-mosquitto", username="addons", password="p")
    for wrong in (
        {},
        {"host": "mqtt://host"},
        {"host": "host", "port": 0},
        {"host": "host", "port": "1883"},
        {"host": "a b"},
    ):
        with pytest.raises(ConfigError):
            parse_broker(wrong)
    with pytest.raises(ConfigError, match="cannot stand in an MQTT topic"):
        Entities(Broker(host="127.0.0.1"), instance="two/parts")


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (200, {"result": "ok", "data": {"host": "core-mosquitto", "port": 1883}}, Broker(host="core-mosquitto")),
        (400, {"result": "error", "message": "Service not enabled"}, None),
        (200, ["odd"], None),
        (403, {"result": "error"}, HomeAssistantRefusedError),
        (500, None, HomeAssistantUnreachableError),
    ],
)
async def test_the_supervisor_is_asked_for_a_broker(status: int, answer: Any, expected: Any) -> None:
    async def services(request: aiohttp.web.Request) -> aiohttp.web.Response:
        assert request.headers["Authorization"] == "Bearer the-token"
        text = "not json" if answer is None else json.dumps(answer)
        return aiohttp.web.Response(status=status, text=text, content_type="application/json")

    app = aiohttp.web.Application()
    app.router.add_get("/services/mqtt", services)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with aiohttp.ClientSession() as session:
            asked = find_broker(session, "the-token", url=f"http://127.0.0.1:{port}/services/mqtt")
            if isinstance(expected, type):
                with pytest.raises(expected) as error:
                    await asked
                assert "the-token" not in str(error.value)
            else:
                assert await asked == expected
    finally:
        await runner.cleanup()
