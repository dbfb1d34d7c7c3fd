"""Listening gives the detections of the device, whatever the length of the sound and the size of its pieces."""

from __future__ import annotations

import io
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from mww_ha import audio, detector, frontend, listen
from mww_ha.errors import AudioFileError, InputError, ManifestError, MissingDependencyError, ToolError


@pytest.fixture
def manifest() -> Path:
    package = pytest.importorskip("pymicro_wakeword")
    return Path(package.__file__).parent / "models" / "alexa.json"


@pytest.fixture(scope="session")
def spoken() -> tuple[np.ndarray, list[float]]:
    """``alexa`` by two voices, other speech between; and when each word ends, in seconds."""
    pytest.importorskip("espeakng_loader")
    import soxr

    from mww_ha.synthesize import espeak

    engine = espeak.load()
    rng = np.random.default_rng(0)
    pieces = [rng.standard_normal(16000 * 3) * 30]
    ends = []
    for text, voice in (
        ("alexa", "gmw/en-US"),
        ("the trains are late again today", "gmw/en"),
        ("alexa", "gmw/en"),
        ("alexa", "gmw/en-US+f3"),
    ):
        said = soxr.resample(engine.speak(text, voice).astype(np.float32), engine.rate_hz, 16000)
        loud = np.flatnonzero(np.abs(said) > 300)
        if text == "alexa":
            ends.append((sum(map(len, pieces)) + int(loud[-1])) / 16000)
        pieces += [said, rng.standard_normal(16000 * 3) * 30]
    return np.clip(np.concatenate(pieces), -32768, 32767).astype(np.int16), ends


def test_every_word_in_a_file_is_detected_near_its_end_and_nothing_else_is(manifest, spoken, tmp_path):
    samples, ends = spoken
    path = tmp_path / "spoken.flac"
    audio.write_flac(path, samples)
    found = listen.listen_file(path, manifest)
    assert len(found) == len(ends)
    for detection, end in zip(found, ends, strict=True):
        assert -0.3 < detection.time_s - end < 0.5
        assert 0.9 <= detection.score <= 1.0


def test_listening_equals_scoring_the_whole_at_once(manifest, spoken):
    samples, _ends = spoken
    loaded = detector.load_manifest(manifest)
    scores = detector.score_samples(detector.load_model(loaded), samples)
    whole = detector.detect(scores, cutoff=loaded.cutoff, window=loaded.sliding_window)
    for size in (77, 640, 16000):
        pieces = (samples[i : i + size] for i in range(0, len(samples), size))
        assert list(listen.listen_blocks(pieces, loaded)) == whole


def test_a_word_alone_in_a_file_is_heard_as_by_a_device_that_has_been_running(manifest, spoken, tmp_path):
    samples, ends = spoken
    first = samples[16000 * 3 : round(ends[0] * 16000)]
    assert len(first) < 16000  # a device just switched on would still be deaf at its end
    path = tmp_path / "word.flac"
    audio.write_flac(path, first)
    (found,) = listen.listen_file(path, manifest)
    assert 0.3 < found.time_s < len(first) / 16000 + listen.TAIL_S
    assert list(listen.listen_blocks([first], detector.load_manifest(manifest))) == []


def test_cutoff_and_window_replace_those_of_the_manifest(manifest, spoken, tmp_path):
    path = tmp_path / "spoken.flac"
    audio.write_flac(path, spoken[0])
    assert listen.listen_file(path, manifest, cutoff=1.0) == []
    assert len(listen.listen_file(path, manifest, cutoff=0.5, window=1)) >= 3


def test_the_highest_score_is_found_also_where_nothing_is_detected(manifest, spoken, tmp_path):
    path = tmp_path / "spoken.flac"
    audio.write_flac(path, spoken[0])
    lead = listen.quiet_room(listen.LEAD_S)
    model = detector.load_model(detector.load_manifest(manifest))
    scores = detector.score_samples(model, np.concatenate([lead, spoken[0], listen.quiet_room(listen.TAIL_S)]))
    heard = listen.hear_file(path, manifest, cutoff=1.0)
    assert heard.detections == ()
    assert heard.peak == pytest.approx(detector.peak_window_sum(scores, 5) / 5 / 255)
    step = detector.step_of_sample(len(lead) + round(heard.peak_s * 16000))
    assert detector.peak_window_sum(scores, 5, step, step + 1) == round(heard.peak * 5 * 255)
    assert heard.duration_s == pytest.approx(len(spoken[0]) / 16000)


def test_a_file_at_another_rate_in_stereo_is_heard_too(manifest, spoken, tmp_path):
    import soundfile
    import soxr

    path = tmp_path / "stereo.wav"
    fast = soxr.resample(spoken[0].astype(np.float32) / 32768, 16000, 44100)
    soundfile.write(path, np.stack([fast, fast], axis=1), 44100, subtype="PCM_24")
    assert len(listen.listen_file(path, manifest)) == len(spoken[1])


def test_raw_samples_are_heard_from_a_pipe(manifest, spoken):
    found = list(listen.listen_stream(io.BytesIO(spoken[0].tobytes() + b"\x01"), manifest))
    assert len(found) == len(spoken[1])


def test_a_sound_file_on_standard_input_is_not_taken_for_samples(manifest):
    with pytest.raises(InputError, match="holds a sound file"):
        list(listen.listen_stream(io.BytesIO(b"RIFF" + bytes(1000)), manifest))


def test_bad_files_are_named(manifest, tmp_path):
    with pytest.raises(AudioFileError, match=r"gone\.wav"):
        listen.listen_file(tmp_path / "gone.wav", manifest)
    (tmp_path / "text.wav").write_text("hello")
    with pytest.raises(AudioFileError, match=r"text\.wav"):
        listen.listen_file(tmp_path / "text.wav", manifest)
    with pytest.raises(ManifestError, match=r"none\.json"):
        listen.listen_file(tmp_path / "text.wav", tmp_path / "none.json")


def _program(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def no_sounddevice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)


def test_a_recorder_of_the_system_is_used_when_there_is_no_sounddevice(
    manifest, spoken, tmp_path, monkeypatch, no_sounddevice
):
    (tmp_path / "raw").write_bytes(spoken[0].tobytes())
    _program(tmp_path, "arecord", f"import sys; sys.stdout.buffer.write(open({str(tmp_path / 'raw')!r}, 'rb').read())")
    monkeypatch.setenv("PATH", str(tmp_path))
    told = []
    found = list(listen.listen_microphone(manifest, report=told.append))
    assert len(found) == len(spoken[1])
    assert told[0].message == "listening with arecord for 'Alexa'"


def test_a_recorder_that_fails_says_why(manifest, tmp_path, monkeypatch, no_sounddevice):
    _program(tmp_path, "parec", "import sys; sys.exit('Connection refused')")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="parec stopped: Connection refused"):
        list(listen.listen_microphone(manifest))


def test_a_recorder_is_ended_when_the_listener_stops(manifest, spoken, tmp_path, monkeypatch, no_sounddevice):
    (tmp_path / "raw").write_bytes(spoken[0].tobytes())
    _program(
        tmp_path,
        "arecord",
        f"import os, sys, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n"
        f"sys.stdout.buffer.write(open({str(tmp_path / 'raw')!r}, 'rb').read())\nsys.stdout.flush()\ntime.sleep(600)",
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    live = listen.listen_microphone(manifest)
    next(live)
    live.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_without_any_way_to_record_the_way_out_is_named(manifest, tmp_path, monkeypatch, no_sounddevice):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="no way to record") as caught:
        list(listen.listen_microphone(manifest))
    assert "arecord" in caught.value.hint


def test_the_frontend_is_not_restarted_between_blocks(manifest, spoken):
    listener = listen.Listener(detector.load_manifest(manifest))
    for start in range(0, 16000 * 4, 997):
        listener.push(spoken[0][start : start + 997])
    heard = listener.heard([])
    assert heard.duration_s >= 4
    assert frontend.n_frames(round(heard.duration_s * 16000)) // 3 == listener._steps
