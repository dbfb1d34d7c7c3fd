"""Every engine found here speaks, every voice has an id of its own, and what cannot speak says why."""

from __future__ import annotations

import dataclasses
import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from toy_piper_voice import PHONE_SAMPLES, RATE_HZ, write_voice

from mww_ha.errors import InputError, OfflineError, ToolError
from mww_ha.synthesize import espeak, piper, programs, wyoming
from mww_ha.synthesize.piper import PiperEngine
from mww_ha.synthesize.programs import Programs
from mww_ha.synthesize.voices import (
    RECOMMENDED,
    Delivery,
    Voice,
    download_voice,
    find_espeak_voices,
    find_piper_voices,
    find_voices,
    name_speakers,
    phoneme_voice,
    recommend_voice,
)
from mww_ha.synthesize.worker import EspeakEngine

PACKAGE = Path(piper.__file__).parents[1]

# The package wyoming imports it where it still exists, before Python 3.13.
pytestmark = pytest.mark.filterwarnings("ignore:.audioop. is deprecated:DeprecationWarning")


def loudest_tone_hz(samples: np.ndarray, rate_hz: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples.astype(float)))
    return float(np.argmax(spectrum) * rate_hz / samples.size)


# espeak-ng


def test_espeak_has_many_voices_of_english_and_each_id_once() -> None:
    voices = find_espeak_voices("en")
    assert len(voices) > 500
    assert len({voice.id for voice in voices}) == len(voices)
    assert "espeak:gmw/en-US+f2" in {voice.id for voice in voices}
    assert not any("Shaw" in voice.name for voice in voices)


def test_espeak_variants_with_spaces_in_their_names_speak() -> None:
    spaced = [voice for voice in find_espeak_voices("en") if " " in voice.name]
    assert spaced
    samples, rate_hz = EspeakEngine().speak("hey kitchen", spaced[0], Delivery())
    assert samples.size > 0.4 * rate_hz


def test_espeak_variants_differ_in_sound() -> None:
    voices = [v for v in find_espeak_voices("en") if v.name in ("gmw/en-US+f2", "gmw/en-US+m3", "gmw/en-US+croak")]
    said = {EspeakEngine().speak("hey kitchen", voice, Delivery())[0].tobytes()[:8000] for voice in voices}
    assert len(said) == 3


def test_variants_that_differ_in_name_only_count_once(tmp_path: Path) -> None:
    folder = tmp_path / "voices" / "!v"
    folder.mkdir(parents=True)
    (folder / "a").write_text("language variant\nname one\npitch 80 110\n")
    (folder / "b").write_text("language variant\nname two\n\npitch  80   110 // higher\n")
    (folder / "c").write_text("language variant\nname three\npitch 70 110\n")
    assert espeak.variants(tmp_path) == ["a", "c"]


def test_espeak_follows_speed_pitch_and_emphasis() -> None:
    voice = next(v for v in find_espeak_voices("en") if v.name == "gmw/en-US+m3")

    def say(**delivery: float) -> np.ndarray:
        return EspeakEngine().speak("hey kitchen", voice, dataclasses.replace(Delivery(), **delivery))[0]  # type: ignore[arg-type]

    assert say(speed=0.7).size > say().size > say(speed=1.35).size
    assert say(emphasis=0, seed=3).size != say(emphasis=0, seed=4).size


def test_espeak_ends_with_a_pause_so_that_the_last_sound_is_whole() -> None:
    voice = next(v for v in find_espeak_voices("en") if v.name == "gmw/en-US+f2")
    samples, rate_hz = EspeakEngine().speak("hey kitchen", voice, Delivery())
    assert np.abs(samples[-rate_hz // 20 :].astype(int)).max() < 0.02 * np.abs(samples.astype(int)).max()


def test_an_espeak_voice_that_is_not_there_is_an_error_and_not_another_voice() -> None:
    with pytest.raises(ToolError, match="no voice"):
        espeak.load().speak("hey", "en-gb+nobody")


def test_a_data_path_too_long_for_espeak_gets_a_short_name(tmp_path: Path) -> None:
    data = tmp_path / ("x" * 120) / ("y" * 60) / "espeak-ng-data"
    data.mkdir(parents=True)
    short = espeak._short_path(data)
    assert len(str(short)) <= 150
    assert short.resolve() == data.resolve()


@pytest.mark.parametrize("language", ["en", "de", "fr", "nl", "ko", "zh", "de-AT", "en_GB"])
def test_languages_have_a_voice_for_their_phonemes(language: str) -> None:
    assert phoneme_voice(language)


def test_a_second_start_of_espeak_is_the_first() -> None:
    assert espeak.load() is espeak.load()


# Programs of the system

INSTALLED = [voice for voice in programs.find_voices("en") if voice.engine in ("flite", "festival", "pico", "rhvoice")]


def test_programs_that_are_installed_are_found() -> None:
    engines = {voice.engine for voice in INSTALLED}
    assert ("flite" in engines) == (shutil.which("flite") is not None)
    if shutil.which("festival") is None:
        assert "festival" not in engines


@pytest.mark.parametrize("voice", INSTALLED, ids=lambda voice: voice.id)
def test_each_voice_of_each_program_speaks_and_follows_the_speed(voice: Voice) -> None:
    engine = Programs()
    slow, rate_hz = engine.speak('hey kitchen, it\'s "me" & you', voice, Delivery(speed=0.75))
    fast, _ = engine.speak('hey kitchen, it\'s "me" & you', voice, Delivery(speed=1.3))
    assert rate_hz >= 8000
    assert np.abs(fast.astype(int)).max() > 1000
    assert slow.size > 1.15 * fast.size


@pytest.mark.skipif(shutil.which("festival") is None, reason="festival is not installed")
def test_festival_goes_on_after_a_voice_that_is_not_there() -> None:
    engine = Programs()
    with pytest.raises(ToolError, match="festival"):
        engine.speak("hey", Voice(engine="festival", name="nobody", language="en"), Delivery())
    known = next(voice for voice in INSTALLED if voice.engine == "festival")
    assert engine.speak("hey", known, Delivery())[0].size > 0


def test_a_program_that_is_gone_is_an_error() -> None:
    with pytest.raises(ToolError):
        programs._run(["mww-no-such-program"], "", text="hey")


def test_a_program_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "TIMEOUT_S", 0.2)
    with pytest.raises(ToolError, match="more than"):
        programs._run([sys.executable, "-c", "import time; time.sleep(30)"], "", text="hey")


# Piper


@pytest.fixture(scope="module")
def piper_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("piper")
    write_voice(folder, "en_US-toy-low")
    write_voice(folder / "deeper", "en_GB-many-low", speakers=9)
    write_voice(folder, "en_US-odd-low", speakers=8, by_table=False)
    write_voice(folder, "de_DE-toy-low", espeak_voice="de")
    (folder / "en_US-broken-low.onnx").write_bytes(b"not a model")
    shutil.copy(folder / "en_US-toy-low.onnx.json", folder / "en_US-broken-low.onnx.json")
    (folder / "en_US-lonely-low.onnx").write_bytes(b"a model without its description")
    return folder


def test_piper_voices_of_the_language_are_found_with_their_speakers(piper_dir: Path) -> None:
    found = find_piper_voices("en", [piper_dir])
    names = [voice.id for voice in found]
    assert "piper:en_US-toy-low" in names
    assert sum(name.startswith("piper:en_GB-many-low:") for name in names) == 8
    assert "piper:en_GB-many-low:7~8" in names
    assert sum(name.startswith("piper:en_US-odd-low:") for name in names) == 8
    assert not any("~" in name for name in names if "odd" in name)
    assert not any("broken" in name or "lonely" in name or "de_DE" in name for name in names)
    assert [voice.id for voice in find_piper_voices("de", [piper_dir])] == ["piper:de_DE-toy-low"]


def test_a_broken_piper_voice_is_named_in_the_log(piper_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    find_piper_voices("en", [piper_dir])
    assert "en_US-broken-low" in caplog.text


def test_each_speaker_is_heard_alone_or_in_one_mixture() -> None:
    for count in range(1, 40):
        names = name_speakers(count, mixes=True)
        alone = [part for name in names for part in name.split("~") if part]
        assert sorted(alone, key=int) == ([str(i) for i in range(count)] if count > 1 else [])


def test_the_real_piper_says_what_the_phonemes_are(piper_dir: Path) -> None:
    voice = find_piper_voices("en", [piper_dir])[-1]
    assert voice.id == "piper:en_US-toy-low"
    engine = PiperEngine()
    one, rate_hz = engine.speak("kitchen", voice, Delivery())
    other, _ = engine.speak("hey kitchen everyone", voice, Delivery())
    assert rate_hz == RATE_HZ
    assert one.size % PHONE_SAMPLES == 0
    assert other.size > one.size
    assert 2000 < np.abs(one.astype(int)).max() <= 30_000


def test_piper_follows_the_speed(piper_dir: Path) -> None:
    voice = find_piper_voices("en", [piper_dir])[-1]
    slow, fast = (PiperEngine().speak("hey kitchen", voice, Delivery(speed=s))[0].size for s in (0.8, 1.25))
    assert slow / fast == pytest.approx(1.25 / 0.8, rel=0.02)


def test_piper_speakers_differ_and_a_mixture_lies_between_its_two(piper_dir: Path) -> None:
    voices = {v.speaker: v for v in find_piper_voices("en", [piper_dir]) if "many" in v.name}
    engine = PiperEngine()

    def tone(speaker: str, mix: float = 0.5) -> float:
        voice = dataclasses.replace(voices["0"], speaker=speaker)
        samples, rate_hz = engine.speak("[[a]]", voice, Delivery(mix=mix))
        return loudest_tone_hz(samples, rate_hz)

    low, high = tone("0"), tone("8")
    assert high > 1.5 * low
    a, b = tone("7"), tone("8")
    shares = [tone("7~8", mix) for mix in piper.mix_shares()]
    assert a < shares[0] < shares[1] < shares[2] < b


def test_a_graph_without_a_table_of_speakers_cannot_mix(piper_dir: Path) -> None:
    with pytest.raises(ToolError, match="cannot mix"):
        piper.mix_speakers(piper_dir / "en_US-odd-low.onnx", (0, 1))


def test_piper_is_imported_in_one_file_only() -> None:
    importing = [
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if any(line.strip().startswith(("import piper", "from piper")) for line in path.read_text("utf-8").splitlines())
    ]
    assert importing == ["synthesize/piper.py"]


# Downloads


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    root = tmp_path / "mirror"
    place = root / "resolve" / "main" / "en" / "en_US" / "toy" / "low"
    write_voice(place, "en_US-toy-low")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(root))  # type: ignore[arg-type]

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", place
        server.shutdown()
        thread.join()


def test_a_voice_is_downloaded_whole_and_then_found(mirror: tuple[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "voices"
    path = download_voice("en_US-toy-low", folder, address=mirror[0])
    assert path == folder / "en_US-toy-low.onnx"
    assert [voice.id for voice in find_piper_voices("en", [folder])] == ["piper:en_US-toy-low"]
    assert sorted(entry.name for entry in folder.iterdir()) == ["en_US-toy-low.onnx", "en_US-toy-low.onnx.json"]
    shutil.rmtree(mirror[1])
    assert download_voice("en_US-toy-low", folder, address=mirror[0]) == path  # not fetched again


def test_a_cut_off_download_leaves_nothing(mirror: tuple[str, Path], tmp_path: Path) -> None:
    served = mirror[1] / "en_US-toy-low.onnx"
    served.write_bytes(served.read_bytes()[:500])
    with pytest.raises(OfflineError, match="incomplete"):
        download_voice("en_US-toy-low", tmp_path / "voices", address=mirror[0])
    assert list((tmp_path / "voices").iterdir()) == []


@pytest.mark.parametrize("name", ["en_US-nobody-low", "nonsense", "../../x"])
def test_a_voice_that_does_not_exist_is_an_error(mirror: tuple[str, Path], tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no Piper voice"):
        download_voice(name, tmp_path / "voices", address=mirror[0])


def test_without_network_the_error_says_so_and_names_the_other_way(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(OfflineError) as error:
        download_voice("en_US-toy-low", tmp_path / "voices", address=f"http://127.0.0.1:{port}")
    assert "en_US-toy-low.onnx.json" in error.value.hint
    assert list((tmp_path / "voices").iterdir()) == []


def test_a_voice_is_recommended_where_piper_has_one() -> None:
    assert recommend_voice("en-GB") == RECOMMENDED["en"] == "en_US-libritts_r-medium"
    with pytest.raises(InputError):
        recommend_voice("tlh")


# Wyoming


@pytest.fixture(scope="module")
def speech_server() -> Iterator[str]:
    """A real Wyoming server that speaks with espeak-ng, in a process of its own."""
    script = Path(__file__).with_name("toy_speech_server.py")
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        yield f"wyoming://127.0.0.1:{port}"
        process.kill()


def test_a_wyoming_server_tells_its_voices_and_speakers(speech_server: str) -> None:
    assert [voice.id for voice in wyoming.find_voices("en-US", speech_server)] == [
        "wyoming:toy/en_US-toy:f2",
        "wyoming:toy/en_US-toy:m3",
    ]
    assert [voice.id for voice in wyoming.find_voices("de", speech_server)] == ["wyoming:toy/de_DE-toy"]
    assert wyoming.find_voices("fr", speech_server) == []


def test_a_wyoming_server_speaks_with_the_speaker_asked_for(speech_server: str) -> None:
    engine = wyoming.WyomingEngine()
    said = [engine.speak("hey kitchen", voice, Delivery()) for voice in wyoming.find_voices("en", speech_server)]
    assert all(rate_hz == 22050 and samples.size > 0.4 * rate_hz for samples, rate_hz in said)
    assert said[0][0].tobytes() != said[1][0].tobytes()


def test_an_error_of_a_wyoming_server_arrives(speech_server: str) -> None:
    voice = wyoming.find_voices("de", speech_server)[0]
    with pytest.raises(ToolError, match="not today"):
        wyoming.WyomingEngine().speak("FAIL", voice, Delivery())
    with pytest.raises(ToolError, match="hung up"):
        wyoming.WyomingEngine().speak("HANG UP", voice, Delivery())


def test_a_server_that_is_not_there_is_named() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(ToolError, match=str(port)):
        find_voices("en", addresses=[f"wyoming://127.0.0.1:{port}"])


def test_a_server_that_does_not_speak_wyoming_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(ToolError, match=r"speech server|Wyoming"):
            wyoming.find_voices("en", f"wyoming://127.0.0.1:{server.getsockname()[1]}")
        thread.join()


@pytest.mark.parametrize(
    "address", ["", "piper", "http://x:10200", "wyoming://x", "wyoming://x:0", "wyoming://x:99999"]
)
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="address"):
        wyoming.find_voices("en", address)
