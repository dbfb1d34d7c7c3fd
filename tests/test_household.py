"""In Home Assistant's app the household's speech server is found: the option, then Piper's app, then Home Assistant.

Piper's part is played by the tests' Wyoming server, Home Assistant's by the fake one; both speak with espeak-ng.
"""

from __future__ import annotations

import asyncio
import io
import os
import socket
import subprocess
import sys
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_home_assistant import TOKEN, FakeHomeAssistant

from mww_ha.errors import (
    HomeAssistantAnswerError,
    HomeAssistantRefusedError,
    HomeAssistantUnreachableError,
    ToolError,
)
from mww_ha.ha.connection import Access
from mww_ha.synthesize import espeak, household
from mww_ha.synthesize.voices import Delivery, Voice, find_voices
from mww_ha.synthesize.worker import Worker, open_engine

# The package wyoming imports it where it still exists, before Python 3.13.
pytestmark = pytest.mark.filterwarnings("ignore:.audioop. is deprecated:DeprecationWarning")


@pytest.fixture(scope="module")
def speech_server() -> Iterator[str]:
    """A real Wyoming server that speaks with espeak-ng, in a process of its own."""
    script = Path(__file__).with_name("toy_speech_server.py")
    environment = {**os.environ, "PYTHONPATH": str(Path(espeak.__file__).parents[2])}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        yield f"wyoming://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()


@pytest.fixture
def nobody() -> str:
    """An address where nothing listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        return f"wyoming://127.0.0.1:{closed.getsockname()[1]}"


def spoken(wish: dict[str, Any], *, header_bytes: int | None = None) -> bytes:
    """What Home Assistant's converter makes: WAV in the form asked for, of which the header may not know the length."""
    engine = espeak.load()
    samples = engine.speak(wish["message"], "gmw/en-US+f2" if "amy" in str(wish["options"]) else "gmw/en-US+m3")
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(wish["options"]["preferred_sample_channels"])
        out.setsampwidth(wish["options"]["preferred_sample_bytes"])
        out.setframerate(engine.rate_hz)
        out.writeframes(samples.tobytes())
    sound = file.getvalue()
    return sound if header_bytes is None else sound[:40] + header_bytes.to_bytes(4, "little") + sound[44:]


@pytest.fixture
async def home() -> AsyncIterator[FakeHomeAssistant]:
    """Home Assistant with a Wyoming engine, and with a service elsewhere."""
    async with FakeHomeAssistant() as fake:
        fake.registry.engines = [
            {"engine_id": "tts.piper", "supported_languages": ["de_DE", "en_GB", "en_US"]},
            {"engine_id": "tts.cloud", "supported_languages": ["en-US"]},
            {"engine_id": "google_translate", "name": "Google Translate", "supported_languages": ["en"]},
        ]
        fake.registry.entities = [
            {"entity_id": "tts.piper", "platform": "wyoming"},
            {"entity_id": "tts.cloud", "platform": "cloud"},
        ]
        fake.registry.voices = {
            ("tts.piper", "en_US"): [{"voice_id": "en_US-amy-low", "name": "amy"}, {"voice_id": "en_US-joe-low"}],
            ("tts.piper", "en_GB"): None,
            ("tts.piper", "de_DE"): [{"voice_id": "de_DE-eva-low", "name": "eva"}],
        }
        fake.speak = spoken
        yield fake


def access(home: FakeHomeAssistant, token: str = TOKEN) -> Access:
    return Access(url=home.url, token=token, websocket=f"ws://127.0.0.1:{home.port}/api/websocket")


async def search(language: str, **where: Any) -> list[Voice]:
    return await asyncio.to_thread(lambda: household.search(language, **where))


async def speak(voice: Voice, text: str = "hey kitchen", token: str = TOKEN) -> tuple[np.ndarray, int]:
    engine = household.HomeAssistantEngine({"SUPERVISOR_TOKEN": token})
    return await asyncio.to_thread(engine.speak, text, voice, Delivery())


# --- the order -------------------------------------------------------------------------------------------------------


async def test_the_option_comes_first(speech_server: str, nobody: str, home: FakeHomeAssistant):
    found = await search("en", option=speech_server, access=access(home), piper_app=nobody)
    assert {voice.path for voice in found} == {speech_server}
    assert home.received == []


async def test_an_option_that_does_not_answer_is_an_error_and_not_another_server(nobody: str, speech_server: str):
    with pytest.raises(ToolError, match=nobody.rpartition(":")[2]):
        await search("en", option=nobody, access=None, piper_app=speech_server)


async def test_without_an_option_the_piper_app_is_asked(speech_server: str, home: FakeHomeAssistant):
    found = await search("en", option="", access=access(home), piper_app=speech_server)
    assert [voice.id for voice in found] == ["wyoming:toy/en_US-toy:f2", "wyoming:toy/en_US-toy:m3"]
    assert home.received == []


async def test_without_the_piper_app_home_assistant_speaks_with_what_is_in_the_house(
    nobody: str, home: FakeHomeAssistant
):
    found = await search("en-GB", option="", access=access(home), piper_app=nobody)
    assert [voice.id for voice in found] == [
        "home_assistant:tts.piper/",
        "home_assistant:tts.piper/en_US-amy-low",
        "home_assistant:tts.piper/en_US-joe-low",
    ]
    assert [voice.language for voice in found] == ["en-GB", "en-US", "en-US"]
    assert not any("cloud" in voice.id or "google" in voice.id for voice in found), "nothing leaves the house"


async def test_a_piper_app_without_the_language_leaves_it_to_home_assistant(
    speech_server: str, home: FakeHomeAssistant
):
    home.registry.engines[0]["supported_languages"].append("fr_FR")
    found = await search("fr", option="", access=access(home), piper_app=speech_server)
    assert [voice.id for voice in found] == ["home_assistant:tts.piper/"]


async def test_where_nobody_speaks_nothing_is_found_and_nothing_breaks(nobody: str, home: FakeHomeAssistant):
    assert await search("en", option="", access=None, piper_app=nobody) == []
    assert await search("en", option="", access=access(home, "wrong"), piper_app=nobody) == []
    gone = Access(url="http://127.0.0.1:9", token=TOKEN, websocket="ws://127.0.0.1:9/api/websocket")
    assert await search("en", option="", access=gone, piper_app=nobody) == []


def test_outside_of_the_app_nobody_is_asked():
    assert household.find_voices("en", {}) == []


def test_the_search_is_part_of_finding_voices_unless_servers_are_named(
    speech_server: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(household.OPTION, speech_server)
    assert [voice.id for voice in find_voices("de") if voice.engine == "wyoming"] == ["wyoming:toy/de_DE-toy"]
    monkeypatch.setenv(household.OPTION, "wyoming://127.0.0.1:1")
    assert any(voice.path == speech_server for voice in find_voices("de", addresses=[speech_server]))


def test_of_a_catalogue_only_the_recommended_voice_is_taken_with_all_its_speakers():
    """Piper's server lists what it could fetch; asking each voice would have it fetch them all."""
    names = ["en_GB-alan-low", "en_US-amy-low", "en_US-libritts_r-medium", "en_US-ryan-high"]
    listed = [
        Voice(engine="wyoming", name=f"piper/{name}", language="en-US", speaker=speaker)
        for name in names
        for speaker in (["3", "4"] if "libritts" in name else [""])
    ]
    chosen = household.choose_voices("en", listed)
    assert [voice.id for voice in chosen] == [
        "wyoming:piper/en_US-libritts_r-medium:3",
        "wyoming:piper/en_US-libritts_r-medium:4",
    ]
    few = [voice for voice in listed if "libritts" not in voice.name]
    assert household.choose_voices("en", few) == few
    others = [Voice(engine="wyoming", name=f"x/{number}", language="tlh") for number in range(4)]
    assert household.choose_voices("tlh", others) == others[:1]


# --- speaking by way of Home Assistant -------------------------------------------------------------------------------


async def test_home_assistant_says_it_in_the_voice_asked_for(nobody: str, home: FakeHomeAssistant):
    found = await search("en-US", option="", access=access(home), piper_app=nobody)
    amy, joe = [await speak(voice) for voice in found if voice.name != "tts.piper/"]
    assert amy[1] == joe[1] == espeak.load().rate_hz
    assert [samples.tobytes() for samples, _ in (amy, joe)] == [sound[44:] for sound in home.sent]
    assert amy[0].size != joe[0].size
    wish = home.wishes[0]
    assert (wish["engine_id"], wish["message"], wish["language"]) == ("tts.piper", "hey kitchen", "en_US")
    assert wish["cache"] is False, "thousands of takes would fill its cache"
    assert wish["options"] == {
        "voice": "en_US-amy-low",
        "preferred_format": "wav",
        "preferred_sample_rate": 16000,
        "preferred_sample_channels": 1,
        "preferred_sample_bytes": 2,
    }


async def test_a_sound_whose_length_was_not_known_when_its_header_was_written_is_whole(
    nobody: str, home: FakeHomeAssistant
):
    found = await search("de", option="", access=access(home), piper_app=nobody)
    home.speak = lambda wish: spoken(wish, header_bytes=0xFFFFFFFF)
    samples, _ = await speak(found[0])
    assert samples.tobytes() == home.sent[0][44:]


async def test_what_goes_wrong_on_the_way_is_an_error_that_says_what(nobody: str, home: FakeHomeAssistant):
    [voice] = await search("de", option="", access=access(home), piper_app=nobody)
    with pytest.raises(HomeAssistantRefusedError, match="401"):
        await speak(voice, token="wrong")
    for sound, said in ((None, "HTTP status 500"), (b"<html>", "no WAV"), (b"", "no WAV")):
        home.speak = lambda _wish, sound=sound: sound
        with pytest.raises(HomeAssistantAnswerError, match=said):
            await speak(voice)
    home.registry.engines = []
    with pytest.raises(HomeAssistantAnswerError, match="cannot say 'hey kitchen'"):
        await speak(voice)
    await home.stop()
    with pytest.raises(HomeAssistantUnreachableError):
        await speak(voice)
    with pytest.raises(ToolError, match="for its app alone"):
        await speak(voice, token="")


async def test_a_synthesis_worker_speaks_through_home_assistant(
    nobody: str, home: FakeHomeAssistant, monkeypatch: pytest.MonkeyPatch
):
    [voice] = await search("de", option="", access=access(home), piper_app=nobody)
    monkeypatch.setenv("SUPERVISOR_TOKEN", TOKEN)
    assert isinstance(open_engine("home_assistant"), household.HomeAssistantEngine)
    samples, rate_hz = await asyncio.to_thread(Worker().speak, "hey kitchen", voice, Delivery())
    assert samples.size > 0.4 * rate_hz
