"""What the fakes promise holds for a real Home Assistant core and a real broker.

Takes minutes the first time: the core is installed from PyPI. MWW_TEST_HASS names an installed ``hass`` program.
From 2026 on (Python 3.13.2) the core has satellites that can be asked; then the recorder is tested too, on a satellite
whose microphone is a file.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_device import HostDevice, free_port, make
from real_home_assistant import HomeAssistant, find_or_install, has_satellites
from real_mosquitto import PASSWORD, USER, Mosquitto, find_mosquitto

from mww_ha.deploy import esphome
from mww_ha.errors import HomeAssistantAnswerError, HomeAssistantRefusedError, HomeAssistantUnreachableError
from mww_ha.ha.audio import Prompt, record_takes
from mww_ha.ha.client import Client, Satellite, outcome_near
from mww_ha.ha.connection import Access, find_access
from mww_ha.ha.mqtt import Broker, Entities, SatelliteStatus

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def core() -> tuple[Path, str]:
    program, version, why = find_or_install()
    if program is None:
        pytest.skip(why)
    return program, version


def access(home: HomeAssistant) -> Access:
    return find_access(home.url, home.token, environ={})


async def until(true: Callable[[], Awaitable[Any]], limit_s: float = 60) -> Any:
    deadline = time.monotonic() + limit_s
    while not (value := await true()):
        assert time.monotonic() < deadline, "it did not become so"
        await asyncio.sleep(0.1)
    return value


async def test_the_client_speaks_with_a_real_core_and_comes_back_after_its_restart(
    core: tuple[Path, str], tmp_path: Path
) -> None:
    program, version = core
    async with HomeAssistant(program, tmp_path / "ha") as home:
        with pytest.raises(HomeAssistantRefusedError) as refused:
            async with Client(Access(url=home.url, token="not.a.token", websocket=access(home).websocket)):
                pass
        assert "not.a.token" not in str(refused.value)
        async with Client(access(home), retry_first_s=0.2, retry_most_s=1) as client:
            assert client.ha_version == await client.version() == await client.check() == version

            events = await client.events("mww_ha_test")
            await client.fire_event("mww_ha_test", {"device": "kitchen"})
            assert (await anext(events))["data"] == {"device": "kitchen"}

            async def shown() -> list[tuple[str, str]]:
                every = await client.command("persistent_notification/get")
                # Home Assistant itself tells of the refused token.
                return [(n["notification_id"], n["title"]) for n in every if n["notification_id"] != "http-login"]

            await client.notify("Model ready", "hey kitchen is trained", "model_ready")
            assert await shown() == [("mww_ha_model_ready", "Model ready")]
            await client.dismiss("model_ready")
            assert await shown() == []

            # A hundred answers at once come as lists of messages, and each finds its asker.
            states = await asyncio.gather(*[client.command("get_states") for _ in range(100)])
            assert all(len(each) == len(states[0]) > 0 for each in states)

            assert await client.satellites() == []
            with pytest.raises(HomeAssistantAnswerError, match=r"esphome\.kitchen_1_mww_record") as unknown:
                await client.call_esphome_action("kitchen-1", "mww_record")
            assert unknown.value.code == "not_found"
            with pytest.raises(HomeAssistantAnswerError) as wrong:
                await client.call_service("persistent_notification", "create", {"nonsense": 1})
            assert wrong.value.code == "invalid_format"

            await asyncio.to_thread(home.stop)
            with pytest.raises(HomeAssistantUnreachableError):
                await client.command("get_config", timeout_s=1)
            home.start()
            await client.wait_connected(120)
            await home.wait_running()
            assert client.reconnects >= 1  # while it ends it may let somebody in once more
            await client.fire_event("mww_ha_test", {"device": "hall"})
            assert (await anext(events))["data"] == {"device": "hall"}


@pytest.mark.skipif(not find_mosquitto(), reason="mosquitto is not installed (Debian: apt-get install mosquitto)")
async def test_satellites_appear_change_obey_and_go_in_a_real_core(core: tuple[Path, str], tmp_path: Path) -> None:
    wishes: list[tuple[str, bool | str]] = []

    async def capture(name: str, on: bool) -> None:
        wishes.append((name, on))
        await entities.show(SatelliteStatus(name=name, friendly_name="Kitchen", capturing=on))

    async def install(name: str) -> None:
        wishes.append((name, "install"))

    with Mosquitto(tmp_path / "broker") as broker:
        async with HomeAssistant(core[0], tmp_path / "ha") as home:
            data = {"broker": "127.0.0.1", "port": broker.port, "username": USER, "password": PASSWORD}
            await home.add_integration("mqtt", data)
            login = Broker(host="127.0.0.1", port=broker.port, username=USER, password=PASSWORD)
            async with Client(access(home)) as client:

                async def states() -> dict[str, str]:
                    every = await client.command("get_states")
                    return {s["entity_id"]: s["state"] for s in every if "kitchen_wake_word" in s["entity_id"]}

                async def becomes(**wanted: str) -> None:
                    async def so() -> bool:
                        now = {id.partition("kitchen_wake_word_")[2]: state for id, state in (await states()).items()}
                        return now == wanted

                    await until(so)

                async with Entities(login, on_capture=capture, on_install=install, version="1") as entities:
                    # Digests alone would be ordered as versions: 0…0 after 1…1 is new all the same.
                    ready = SatelliteStatus(
                        name="kitchen-1",
                        friendly_name="Kitchen",
                        active_model="hey_kitchen-11111111",
                        new_model="hey_kitchen-00000000",
                        new_model_summary="1 of 40 takes missed instead of 3",
                        detections_per_day=3.25,
                        unreviewed=7,
                    )
                    await entities.show(ready)
                    await becomes(
                        capture="off",
                        detections_per_day="3.25",
                        false_accepts_per_day="unknown",
                        captures_to_review="7",
                        active_model="hey_kitchen-11111111",
                        new_model="on",
                    )
                    switch, update = "switch.kitchen_wake_word_capture", "update.kitchen_wake_word_new_model"
                    await client.call_service("update", "install", target={"entity_id": update})
                    await until(lambda: _true(wishes == [("kitchen-1", "install")]))
                    await client.call_service("switch", "turn_on", target={"entity_id": switch})
                    await becomes(
                        capture="on",
                        detections_per_day="unknown",
                        false_accepts_per_day="unknown",
                        captures_to_review="0",
                        active_model="unknown",
                        new_model="off",
                    )
                    assert wishes[1:] == [("kitchen-1", True)]

                    await entities.remove("kitchen-1")
                    await becomes()
                    await entities.show(ready)
                    await until(lambda: _true_of(states, 6))
                await until(lambda: _all_unavailable(states))
        complaints = [line for line in home.log().splitlines() if "template" in line or "Invalid" in line]
        assert complaints == []


async def _true(value: bool) -> bool:
    return value


async def _true_of(states: Callable[[], Awaitable[dict[str, str]]], count: int) -> bool:
    now = await states()
    return len(now) == count and "unavailable" not in now.values()


async def _all_unavailable(states: Callable[[], Awaitable[dict[str, str]]]) -> bool:
    return set((await states()).values()) == {"unavailable"}


ACTION_YAML = """
esphome:
  name: kitchen-sat
  friendly_name: Kitchen
host:
  mac_address: "02:00:00:00:00:07"
logger:
api:
  port: {port}
  actions:
    - action: mww_capture
      variables:
        seconds: float
      then:
        - logger.log:
            format: "asked for %.1f s"
            args: [seconds]
"""


async def test_an_action_of_a_real_device_is_called_through_a_real_core_which_tells_where_the_device_is(
    core: tuple[Path, str], tmp_path: Path
) -> None:
    if not has_satellites(core[1]):
        pytest.skip(f"the ESPHome integration of Home Assistant {core[1]} is older than the device's API")
    if esphome.find_esphome() is None or shutil.which("g++") is None:
        pytest.skip("ESPHome and g++ are needed to make the device")
    port = free_port()
    program = await asyncio.to_thread(make, tmp_path / "device", "kitchen-sat", ACTION_YAML.format(port=port))
    with HostDevice(program, api_port=port, home=tmp_path / "home") as device:
        async with HomeAssistant(core[0], tmp_path / "ha", extra_yaml="diagnostics:\n") as home:
            await home.add_integration("esphome", {"host": "127.0.0.1", "port": port})
            async with Client(access(home)) as client:

                async def called() -> bool:
                    try:
                        await client.call_esphome_action("kitchen-sat", "mww_capture", {"seconds": 3})
                    except HomeAssistantAnswerError as error:
                        assert error.code == "not_found"  # not connected yet
                        return False
                    return True

                await until(called)
                await until(lambda: _true("asked for 3.0 s" in device.log()))
                (entry,) = await client.command("config_entries/get", domain="esphome")
                somewhere = Satellite(
                    entity_id="assist_satellite.kitchen",
                    device_id="",
                    name="Kitchen",
                    state="idle",
                    integration="esphome",
                    config_entry_id=entry["entry_id"],
                )
                found = await client._with_host(somewhere)
                assert (found.host, found.host_name) == ("127.0.0.1", "kitchen-sat")


async def test_a_real_core_records_prompted_takes_from_a_satellite_and_tells_which_wakes_had_no_speech(
    core: tuple[Path, str], tmp_path: Path
) -> None:
    program, version = core
    if not has_satellites(version):
        pytest.skip(f"Home Assistant {version} has no satellites that can be asked; 2026 needs Python 3.13.2")
    folder = tmp_path / "ha"
    shutil.copytree(Path(__file__).parent / "toy_satellite", folder / "custom_components" / "toy_satellite")
    rng = np.random.default_rng(4)
    said = (rng.normal(0, 4000, 24_000) * np.repeat([0, 1, 0], 8000)).clip(-32768, 32767).astype("<i2")
    (folder / "microphone.raw").write_bytes(said.tobytes())
    async with HomeAssistant(program, folder, extra_yaml="assist_pipeline:\n") as home:
        await home.add_integration("toy_satellite")
        async with Client(access(home), timeout_s=20) as client:
            pipeline = await client.command(
                "assist_pipeline/pipeline/create",
                name="Toy",
                language="en",
                conversation_engine="conversation.home_assistant",
                conversation_language="en",
                stt_engine="stt.toy_ear",
                stt_language="en",
                **dict.fromkeys(["tts_engine", "tts_language", "tts_voice", "wake_word_entity", "wake_word_id"]),
            )
            await client.command("assist_pipeline/pipeline/set_preferred", pipeline_id=pipeline["id"])

            satellite = await client.find_satellite("toy kitchen")
            assert (satellite.mac, satellite.model, satellite.firmware) == ("02:00:00:00:00:01", "Toy", "1.2.3")
            assert satellite == await client.find_satellite("02:00:00:00:00:01")
            assert satellite.available
            assert satellite.can_ask

            prompts = [
                Prompt(text="hey kitchen", media="http://127.0.0.1/say.wav", place=place) for place in ("door", "sofa")
            ]
            takes = [take async for take in record_takes(client, satellite, prompts, pause_s=0.1)]
            assert [take.prompt.place for take in takes] == ["door", "sofa"]
            for take in takes:
                assert (take.heard, take.sentence) == (True, "hey kitchen")
                assert not take.overflow
                assert not take.interrupted
                # Home Assistant stops listening a while after speech; what it took is what the microphone gave.
                assert take.samples.size >= 16_000
                assert np.array_equal(take.samples, said[: take.samples.size])

            intercepted = asyncio.create_task(client.intercept_wake_word(satellite.entity_id, 20))
            await asyncio.sleep(0.5)
            await client.call_service("toy_satellite", "wake", {"phrase": "hey kitchen"})
            assert await intercepted == "hey kitchen"

            (folder / "microphone.raw").write_bytes(bytes(64_000))
            at = datetime.now(UTC)
            await client.call_service("toy_satellite", "wake", {"phrase": "hey kitchen"})

            async def judged() -> Any:
                run = outcome_near(await client.pipeline_runs(), satellite.entity_id, at)
                return run if run is not None and run.outcome != "running" else None

            run = await until(judged)
            assert (run.outcome, run.error_code) == ("no_speech", "stt-no-text-recognized")
            assert outcome_near(await client.pipeline_runs(), satellite.entity_id, at + timedelta(minutes=5)) is None
            assert [each.outcome for each in await client.pipeline_runs()][:2] == ["heard", "heard"]

            takes = [take async for take in record_takes(client, satellite, prompts[:1])]
            assert not takes[0].heard
            assert takes[0].samples.size > 0
            assert not takes[0].samples.any()
