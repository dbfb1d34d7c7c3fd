"""Whatever is given, the answer is an error that names the file and the way out, never a traceback."""

import errno
import os
import tracemalloc

import numpy as np
import pytest

from mww_ha import audio, store
from mww_ha.errors import AudioFileError, DataError, InputError, StorageError
from mww_ha.record import files
from mww_ha.schema import Label

soundfile = pytest.importorskip("soundfile")


@pytest.fixture
def project(tmp_path):
    project = store.create_project(tmp_path / "project", "hey kitchen")
    yield project
    project.catalogue.close()


def sound(path, seconds=1.0, rate=16000, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.name.encode()))  # no two names share a sound
    soundfile.write(path, rng.normal(0, 0.1, round(seconds * rate)), rate, **kwargs)
    return path


def cut(path, keep):
    data = path.read_bytes()
    path.write_bytes(data[:keep] if keep > 0 else data[: len(data) + keep])
    return path


MAKERS = {
    "missing": (lambda d: d / "a.wav", "missing"),
    "folder": (lambda d: d, "folder"),
    "empty": (lambda d: [(d / "a.wav").write_bytes(b""), d / "a.wav"][1], "empty"),
    "text": (lambda d: [(d / "a.wav").write_text("hello\n" * 99), d / "a.wav"][1], "not a sound file"),
    "zeros called mp3": (lambda d: [(d / "a.mp3").write_bytes(bytes(9999)), d / "a.mp3"][1], "not a sound file"),
    "raw": (lambda d: [(d / "a.raw").write_bytes(bytes(9999)), d / "a.raw"][1], "no header"),
    "wav cut in its header": (lambda d: cut(sound(d / "a.wav"), 30), "not a sound file"),
    "wav cut in the middle": (lambda d: cut(sound(d / "a.wav"), 9000), "truncated"),
    "wav cut by a byte": (lambda d: cut(sound(d / "a.wav"), -1), "truncated: 1 bytes"),
    "24-bit wav cut": (lambda d: cut(sound(d / "a.wav", subtype="PCM_24"), -100), "truncated"),
    "flac cut in its header": (lambda d: cut(sound(d / "a.flac"), 30), "not a sound file"),
    "flac cut in the middle": (lambda d: cut(sound(d / "a.flac"), 9000), "damaged|truncated"),
    "flac cut near its end": (lambda d: cut(sound(d / "a.flac", seconds=30), -5), "damaged|truncated"),
    "no samples": (lambda d: sound(d / "a.wav", seconds=0), "no sound"),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", MAKERS)
def test_a_file_that_is_not_whole_sound_is_refused_with_its_name_and_a_hint(tmp_path, kind):
    make, reason = MAKERS[kind]
    path = make(tmp_path)
    with pytest.raises(AudioFileError, match=reason) as caught:
        audio.read_audio(path)
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_numbers_are_refused_with_their_place(tmp_path, value):
    floats = np.zeros(16000)
    floats[8000] = value
    soundfile.write(tmp_path / "a.wav", floats, 16000, subtype="FLOAT")
    with pytest.raises(AudioFileError, match=r"first at 0\.500 s"):
        audio.read_audio(tmp_path / "a.wav")


def test_a_float_file_with_int16_numbers_in_it_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.full(16000, 3000.0), 16000, subtype="FLOAT")
    with pytest.raises(AudioFileError, match=r"up to 3000, full scale is 1\.0"):
        audio.read_audio(tmp_path / "a.wav")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_refused(tmp_path):
    sound(tmp_path / "a.wav").chmod(0)
    with pytest.raises(AudioFileError, match="cannot be read"):
        audio.read_audio(tmp_path / "a.wav")


def test_a_wav_of_unknown_length_is_read_to_its_end(tmp_path):
    data = bytearray(sound(tmp_path / "a.wav").read_bytes())
    place = data.index(b"data") + 4
    data[place : place + 4] = b"\xff\xff\xff\xff"  # as a recorder writes it that streams
    (tmp_path / "a.wav").write_bytes(data)
    assert audio.read_audio(tmp_path / "a.wav").size == 16000


def test_an_hour_is_read_in_blocks_with_bounded_memory(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.resize(np.arange(-999, 999, dtype=np.int16), 8000 * 3600), 8000)
    tracemalloc.start()
    seconds = sum(block.size for block in audio.read_blocks(tmp_path / "a.wav", 30)) / 16000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds == 3600
    assert peak < 20e6


def test_a_long_room_recording_is_not_an_impulse_response(tmp_path):
    sound(tmp_path / "a.wav", seconds=25)
    with pytest.raises(AudioFileError, match="not a room impulse response"):
        audio.read_rir(tmp_path / "a.wav")


def test_a_silent_impulse_response_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(1000), 16000)
    with pytest.raises(AudioFileError, match="silent"):
        audio.read_rir(tmp_path / "a.wav")


def test_a_damaged_clip_of_the_project_is_named(tmp_path):
    audio.write_flac(tmp_path / "a.flac", np.arange(9000, dtype=np.int16))
    cut(tmp_path / "a.flac", 50)
    with pytest.raises(AudioFileError, match=r"a\.flac is damaged"):
        audio.read_samples(tmp_path / "a.flac")
    with pytest.raises(AudioFileError, match=r"b\.flac is missing"):
        audio.read_samples(tmp_path / "b.flac")


def test_bad_files_are_rejected_with_their_reason_and_the_rest_is_imported(project, tmp_path):
    folder = tmp_path / "in"
    sound(folder / "good.wav")
    cut(sound(folder / "short.wav"), 5000)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "talk.m4a").write_bytes(b"not read")
    (folder / "readme.txt").write_text("hello")
    soundfile.write(folder / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(folder / "blip.wav", np.ones(100), 16000)
    sound(folder / "long.wav", seconds=31)
    result = files.import_folder(project, folder, label=Label.WAKE)
    assert (result.added, result.skipped) == (1, 1)
    reasons = {path.rpartition("/")[2]: reason for path, reason in result.rejected}
    assert set(reasons) == {"short.wav", "empty.wav", "talk.m4a", "silent.wav", "blip.wav", "long.wav"}
    for name, part in [
        ("short.wav", "truncated"),
        ("empty.wav", "empty"),
        ("talk.m4a", "ffmpeg"),
        ("silent.wav", "silent"),
    ]:
        assert part in reasons[name]


def test_an_import_of_nothing_but_bad_files_is_an_error(project, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").write_bytes(b"")
    with pytest.raises(DataError, match=r"nothing imported, 1 rejected.*a\.wav"):
        files.import_folder(project, tmp_path / "in", label=Label.WAKE)


def test_an_import_without_any_sound_file_is_an_error(project, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="no sound files"):
        files.import_folder(project, tmp_path / "in", label=Label.WAKE)
    with pytest.raises(InputError, match="is missing"):
        files.import_folder(project, tmp_path / "nowhere", label=Label.WAKE)


class _FullDisk:
    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.file.close()

    def write(self, _):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_a_storage_error_and_keeps_what_is_there(project, tmp_path, monkeypatch):
    folder = tmp_path / "in"
    for name in "abc":
        sound(folder / f"{name}.wav")
    real, opened = os.fdopen, []

    def fdopen(handle, *args, **kwargs):
        opened.append(handle)
        file = real(handle, *args, **kwargs)
        return _FullDisk(file) if len(opened) == 3 else file

    monkeypatch.setattr(os, "fdopen", fdopen)
    with pytest.raises(StorageError, match="no space left"):
        files.import_folder(project, folder, label=Label.WAKE)
    monkeypatch.undo()
    clips = project.catalogue.clips()
    assert len(clips) == 2
    assert all(audio.read_samples(project.root / clip.path).size == 16000 for clip in clips)
    assert not list(project.root.rglob("*.part"))
    again = files.import_folder(project, folder, label=Label.WAKE)
    assert (again.added, again.known) == (1, 2)
