"""Any sound becomes 16 kHz mono int16 with the same content, and what is not sound is refused by name."""

import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mww_ha import audio
from mww_ha.errors import AudioFileError
from mww_ha.schema import Label, Origin

soundfile = pytest.importorskip("soundfile")


def tone(rate: int, seconds: float, hz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    n = min(a.size, b.size)
    x, y = a[:n].astype(float), b[:n].astype(float)
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


@pytest.mark.parametrize(("n", "count"), [(0, 0), (479, 0), (480, 1), (481, 1), (639, 1), (640, 2), (641, 2)])
def test_frames_are_counted_at_their_boundaries(n, count):
    assert audio.frame(np.zeros(n, np.int16), 480, 160).shape == (count, 480)


def test_frame_i_starts_at_i_times_the_hop_and_nothing_is_copied():
    samples = np.arange(1000, dtype=np.int16)
    frames = audio.frame(samples, 480, 160)
    assert [int(f[0]) for f in frames] == [0, 160, 320, 480]
    assert np.shares_memory(frames, samples)


@given(hnp.arrays(np.int16, st.integers(0, 50)))
def test_int16_to_float_and_back_gives_the_same_samples(samples):
    assert np.array_equal(audio.float_to_int16(audio.int16_to_float(samples)), samples)


def test_floats_are_rounded_to_nearest_and_clipped():
    floats = np.array([1.0, 2.0, -1.0, -3.0, 1.4 / 32768, 1.6 / 32768, -1.6 / 32768, 0.5 / 32768], np.float32)
    assert audio.float_to_int16(floats).tolist() == [32767, 32767, -32768, -32768, 1, 2, -2, 0]


def read_in(path) -> int:
    """The most bytes it took at a time to read all of a file in pieces."""
    for _ in audio.read_blocks(path, block_s=1.0):  # imports, and whatever is kept for the next file
        pass
    tracemalloc.start()
    try:
        for _ in audio.read_blocks(path, block_s=1.0):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_many_channels_take_no_more_memory_than_one(tmp_path):
    one, many = tmp_path / "one.wav", tmp_path / "many.wav"
    soundfile.write(one, np.zeros(20_000 * 256, np.float32), 16000, subtype="PCM_U8")
    soundfile.write(many, np.zeros((20_000, 256), np.float32), 16000, subtype="PCM_U8")
    assert read_in(many) < 2 * read_in(one)


def test_a_header_cannot_ask_for_memory(tmp_path):
    path = tmp_path / "large.wav"
    with path.open("wb") as file:
        file.write(b"RF64\xff\xff\xff\xffWAVEds64" + (100 << 20).to_bytes(4, "little"))
        file.truncate(100 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(AudioFileError):
            audio.read_audio(path)
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_every_wav_sample_format_gives_the_same_sound(tmp_path, subtype):
    soundfile.write(tmp_path / "a.wav", tone(16000, 1), 16000, subtype=subtype)
    samples = audio.read_audio(tmp_path / "a.wav")
    tolerance = 260 if subtype == "PCM_U8" else 2
    assert np.abs(samples - tone(16000, 1) * 32768).max() < tolerance


def test_16_bit_sound_at_16_khz_is_read_bit_by_bit(tmp_path):
    samples = np.random.default_rng(1).integers(-32768, 32768, 5000).astype(np.int16)
    soundfile.write(tmp_path / "a.wav", samples, 16000)
    assert np.array_equal(audio.read_audio(tmp_path / "a.wav"), samples)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_any_format_and_rate_becomes_16_khz_mono(tmp_path, format, rate):
    stereo = np.stack([tone(rate, 2), tone(rate, 2)], axis=1)
    path = tmp_path / f"a.{format.lower()}"
    soundfile.write(path, stereo, rate, format=format)
    samples = audio.read_audio(path)
    assert abs(samples.size - 32000) <= (2500 if format == "MP3" else 2)  # MP3 pads its ends
    shift = int(np.argmax(np.correlate(samples[8000:9000].astype(float), tone(16000, 0.04), "valid")))
    assert likeness(samples[8000 + shift : 16000], tone(16000, 2)) > 0.99


def test_channels_are_averaged(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([[8000, 4000]] * 400, np.int16), 16000)
    assert set(audio.read_audio(tmp_path / "a.wav").tolist()) == {6000}


@pytest.mark.parametrize("block_s", [0.013, 0.1, 1.0, 30.0])
def test_blocks_have_their_exact_length_and_no_seams(tmp_path, block_s):
    noise = np.random.default_rng(1).normal(0, 0.1, 44100 * 3)
    soundfile.write(tmp_path / "a.wav", noise, 44100)
    blocks = list(audio.read_blocks(tmp_path / "a.wav", block_s))
    assert {b.size for b in blocks[:-1]} <= {round(block_s * 16000)}
    assert np.array_equal(np.concatenate(blocks), audio.read_audio(tmp_path / "a.wav"))


def test_a_file_over_the_limit_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(16000, 3), 16000)
    with pytest.raises(AudioFileError, match="longer than 2 s"):
        audio.read_audio(tmp_path / "a.wav", max_duration_s=2)


def test_flac_written_is_read_back_bit_by_bit(tmp_path):
    samples = np.random.default_rng(2).integers(-32768, 32768, 3000).astype(np.int16)
    audio.write_flac(tmp_path / "x" / "a.flac", samples)
    assert np.array_equal(audio.read_samples(tmp_path / "x" / "a.flac"), samples)
    assert [p.name for p in (tmp_path / "x").iterdir()] == ["a.flac"]


def test_a_clip_lies_under_the_digest_of_its_samples_and_is_written_once(tmp_path):
    samples = audio.float_to_int16(tone(16000, 0.5))
    clip = audio.add_clip(tmp_path, samples, label=Label.WAKE, origin=Origin.RECORDED, speaker="ann", take="1")
    path = tmp_path / clip.path
    assert clip.path == f"audio/{clip.sha256[:2]}/{clip.sha256}.flac"
    assert audio.samples_digest(audio.read_samples(path)) == clip.sha256
    assert clip.duration_s == 0.5
    before = path.stat().st_mtime_ns
    again = audio.add_clip(tmp_path, samples, label=Label.WAKE, origin=Origin.RECORDED, speaker="ann", take="1")
    other = audio.add_clip(tmp_path, samples, label=Label.WAKE, origin=Origin.RECORDED, take="2")
    assert path.stat().st_mtime_ns == before
    assert (again, other.id == clip.id, other.path) == (clip, False, clip.path)


def test_a_room_response_keeps_its_floats(tmp_path):
    response = (np.random.default_rng(3).normal(0, 3, 800) * np.exp(-np.arange(800) / 100)).astype(np.float32)
    clip = audio.add_clip(tmp_path, response, label=Label.RIR, origin=Origin.IMPORTED)
    assert clip.path.endswith(".wav")
    assert np.array_equal(audio.read_rir(tmp_path / clip.path), response)


def test_a_room_response_is_the_first_channel(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([[0.5, -0.5]] * 100), 16000, subtype="FLOAT")
    assert set(audio.read_rir(tmp_path / "a.wav").tolist()) == {0.5}


def word(level_db: float = -20.0, seconds: float = 0.8) -> np.ndarray:
    envelope = np.sin(np.pi * np.arange(round(seconds * 16000)) / (seconds * 16000)) ** 0.3
    return tone(16000, seconds, 300) * envelope * 2 * 10 ** (level_db / 20)


@pytest.mark.parametrize("floor_db", [None, -83.0, -60.0, -40.0])
def test_silence_is_trimmed_over_any_floor(floor_db):
    rng = np.random.default_rng(4)
    floats = np.zeros(48000) if floor_db is None else rng.normal(0, 10 ** (floor_db / 20), 48000)
    floats[16000:28800] += word()
    start, end = audio.trim_silence(audio.float_to_int16(floats), margin_s=0.1)
    assert abs(start - (16000 - 1600)) < 800
    assert abs(end - (28800 + 1600)) < 800


def test_a_click_far_from_the_word_is_ignored():
    floats = np.random.default_rng(5).normal(0, 1e-3, 48000)
    floats[16000:28800] += word()
    floats[3000:3040] = 0.9
    floats[45000:45040] = -0.9
    start, end = audio.trim_silence(audio.float_to_int16(floats), margin_s=0)
    assert 15000 < start < 17000
    assert 28000 < end < 30000


def test_two_words_with_a_pause_stay_together():
    floats = np.random.default_rng(6).normal(0, 1e-4, 64000)
    floats[10000:22800] += word()
    floats[40000:52800] += word(-26)
    start, end = audio.trim_silence(audio.float_to_int16(floats), margin_s=0)
    assert abs(start - 10000) < 500
    assert abs(end - 52800) < 500


@pytest.mark.parametrize(
    "samples", [np.zeros(16000, np.int16), np.zeros(10, np.int16), np.array([1, -1] * 8000, np.int16)]
)
def test_silence_has_nothing_in_it(samples):
    assert audio.trim_silence(samples) == (0, 0)


def test_a_steady_sound_is_kept_whole():
    assert audio.trim_silence(audio.float_to_int16(tone(16000, 1))) == (0, 16000)


@given(hnp.arrays(np.int16, st.integers(0, 3000)), st.floats(0, 0.5))
def test_the_trimmed_part_lies_inside_the_clip(samples, margin_s):
    start, end = audio.trim_silence(samples, margin_s=margin_s)
    assert 0 <= start <= end <= samples.size


def test_the_level_of_speech_does_not_depend_on_the_silence_around_it():
    x = audio.float_to_int16(tone(16000, 1))
    padded = np.concatenate([np.zeros(40000, np.int16), x, np.zeros(40000, np.int16)])
    assert audio.speech_level_dbfs(x) == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.05)
    assert audio.speech_level_dbfs(padded) == pytest.approx(audio.speech_level_dbfs(x), abs=0.3)
    assert audio.speech_level_dbfs(np.zeros(16000, np.int16)) == audio.SILENCE_DBFS
    assert audio.speech_level_dbfs(np.zeros(0, np.int16)) == audio.SILENCE_DBFS


def test_frame_levels_are_the_rms_of_each_frame():
    x = np.random.default_rng(7).integers(-32768, 32768, 4000).astype(np.int16)
    direct = [10 * np.log10(np.mean((f / 32768) ** 2)) for f in audio.frame(x, 320, 160).astype(float)]
    assert np.allclose(audio.frame_levels_dbfs(x), direct)


def test_the_digest_does_not_depend_on_the_file_format(tmp_path):
    samples = np.arange(-500, 500, dtype=np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16000, format="WAV")
    (tmp_path / "a.wav").write_bytes(buffer.getvalue())
    audio.write_flac(tmp_path / "a.flac", samples)
    digests = {audio.samples_digest(audio.read_audio(tmp_path / name)) for name in ("a.wav", "a.flac")}
    assert digests == {audio.samples_digest(samples)}
