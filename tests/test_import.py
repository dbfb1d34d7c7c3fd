"""Every sound file or row becomes a clip with what is known about it, once, whatever interrupts the import."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from test_record_takes import take

from mww_ha import audio, store
from mww_ha.errors import DataError, InputError
from mww_ha.record import files, people
from mww_ha.schema import Label, Origin

soundfile = pytest.importorskip("soundfile")


@pytest.fixture
def project(tmp_path):
    project = store.create_project(tmp_path / "project", "hey kitchen")
    yield project
    project.catalogue.close()


def sound(path, seed, seconds=0.5, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(seed).normal(0, 0.1, round(seconds * rate)), rate)
    return path


def test_what_holds_more_sound_than_was_allowed_is_rejected_however_small_it_is(project, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PART_S", 10.0)
    path = tmp_path / "in" / "hum.flac"
    path.parent.mkdir()
    soundfile.write(path, np.full(61 * 16000, 0.25, np.float32), 16000)
    assert path.stat().st_size < 20_000
    with pytest.raises(DataError, match="longer than"):
        files.import_folder(project, path.parent, label=Label.NOISE, longest_s=60.0)
    assert project.catalogue.clips(Label.NOISE) == []
    assert files.import_folder(project, path.parent, label=Label.NOISE, longest_s=61.0).added > 0


def test_a_folder_is_searched_to_its_ends_and_speakers_are_its_folders(project, tmp_path):
    folder = tmp_path / "in"
    sound(folder / "ann" / "1.wav", 1)
    sound(folder / "ann" / "2.FLAC", 2)
    sound(folder / "bob" / "deep" / "3.ogg", 3)
    sound(folder / ".hidden" / "4.wav", 4)
    result = files.import_folder(
        project, folder, label=Label.WAKE, speaker="@folder", session="monday", licence="CC0", language="en"
    )
    assert (result.added, result.known, result.rejected) == (3, 0, ())
    assert result.minutes == pytest.approx(1.5 / 60)
    clips = project.catalogue.clips(Label.WAKE, origin=Origin.IMPORTED)
    assert sorted((c.speaker, c.source) for c in clips) == [
        ("ann", "in/ann/1.wav"),
        ("ann", "in/ann/2.FLAC"),
        ("deep", "in/bob/deep/3.ogg"),
    ]
    assert {(c.session, c.licence, c.language, c.duration_s) for c in clips} == {("monday", "CC0", "en", 0.5)}


def test_an_import_stores_the_sound_as_it_is_and_a_second_one_adds_nothing(project, tmp_path):
    path = sound(tmp_path / "in" / "a.wav", 1, seconds=1.0)
    files.import_folder(project, tmp_path / "in", label=Label.SPEECH)
    again = files.import_folder(project, tmp_path / "in", label=Label.SPEECH)
    assert (again.added, again.known, again.minutes) == (0, 1, 0)
    (clip,) = project.catalogue.clips()
    assert np.array_equal(audio.read_samples(project.root / clip.path), audio.read_audio(path))


def test_one_file_can_be_imported_by_its_name(project, tmp_path):
    path = sound(tmp_path / "in" / "a.wav", 1)
    sound(tmp_path / "in" / "b.wav", 2)
    assert files.import_folder(project, path, label=Label.NOISE).added == 1


def test_the_order_of_an_import_does_not_depend_on_the_file_system(project, tmp_path):
    for name in ("c", "a", "b"):
        sound(tmp_path / "in" / f"{name}.wav", ord(name))
    found, _ = files._find_files(tmp_path / "in")
    assert [p.name for p in found] == ["a.wav", "b.wav", "c.wav"]


def test_a_long_recording_is_stored_in_parts_that_know_their_first(project, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "PART_S", 1.0)
    path = sound(tmp_path / "in" / "a.wav", 1, seconds=2.5)
    result = files.import_folder(project, tmp_path / "in", label=Label.NOISE)
    clips = sorted(project.catalogue.clips(), key=lambda c: c.source)
    assert result.added == 3
    assert [c.source for c in clips] == ["in/a.wav", "in/a.wav part 2", "in/a.wav part 3"]
    assert [c.parent for c in clips] == ["", clips[0].id, clips[0].id]
    whole = np.concatenate([audio.read_samples(project.root / c.path) for c in clips])
    assert np.array_equal(whole, audio.read_audio(path))


def test_a_manifest_gives_each_clip_its_own_row(project, tmp_path):
    sound(tmp_path / "m" / "x" / "a.wav", 1)
    sound(tmp_path / "m" / "b.wav", 2)
    soundfile.write(tmp_path / "m" / "r.wav", np.exp(-np.arange(500) / 50), 16000, subtype="FLOAT")
    (tmp_path / "m" / "all.tsv").write_text(
        "path\tlabel\tspeaker\ttake\tlicence\ttext\n"
        'x/a.wav\twake\tann\tt1\tCC0\the said "hey" once\n'
        f"{tmp_path}/m/b.wav\tSpeech\n"
        "\n"
        "r.wav\trir\t\t\tMIT\t\n"
    )
    result = files.import_manifest(project, tmp_path / "m" / "all.tsv")
    assert (result.added, result.rejected) == (3, ())
    (wake,) = project.catalogue.clips(Label.WAKE)
    assert (wake.speaker, wake.take, wake.licence, wake.text) == ("ann", "t1", "CC0", 'he said "hey" once')
    assert wake.source == "x/a.wav"
    (rir,) = project.catalogue.clips(Label.RIR)
    assert rir.licence == "MIT"


def test_bad_rows_are_rejected_with_their_line_and_the_rest_is_imported(project, tmp_path):
    sound(tmp_path / "a.wav", 1)
    (tmp_path / "all.tsv").write_text(
        "\ufeffpath\tlabel\r\n"
        "a.wav\twake\r\n"
        "missing.wav\twake\r\n"
        "a.wav\tspech\r\n"
        "a.wav\twake\tann\tt1\r\n"
        "a.wav\r\n"
        "\twake\r\n",
        encoding="utf-8",
    )
    result = files.import_manifest(project, tmp_path / "all.tsv")
    assert result.added == 1
    reasons = dict(result.rejected)
    assert sorted(reasons) == [f"all.tsv line {n}" for n in (3, 4, 5, 6, 7)]
    assert "is missing" in reasons["all.tsv line 3"]
    assert "did you mean speech?" in reasons["all.tsv line 4"]
    assert "4 fields under 2 columns" in reasons["all.tsv line 5"]
    assert "no label" in reasons["all.tsv line 6"]
    assert "no path" in reasons["all.tsv line 7"]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "is empty", "path label"),
        ("\n \n", "is empty", "path label"),
        ("path\tlabel\n", "no rows", "line per clip"),
        ("path\tspeaker\na.wav\tann\n", "no column 'label'", "needed"),
        ("path\tlabel\tspeeker\n", "unknown column 'speeker'", "did you mean speaker?"),
        ("path\tlabel\tpath\n", "'path' is there twice", "once"),
        ("path,label\na.wav,wake\n", "unknown column 'path,label'", "separated by tabs"),
    ],
)
def test_a_manifest_that_cannot_be_understood_is_refused(project, tmp_path, text, message, hint):
    (tmp_path / "all.tsv").write_text(text)
    with pytest.raises(InputError) as caught:
        files.import_manifest(project, tmp_path / "all.tsv")
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_a_manifest_that_is_missing_or_not_text_is_refused(project, tmp_path):
    with pytest.raises(InputError, match="is missing"):
        files.import_manifest(project, tmp_path / "all.tsv")
    sound(tmp_path / "all.wav", 1)
    with pytest.raises(InputError, match="not a UTF-8 text file"):
        files.import_manifest(project, tmp_path / "all.wav")


def test_progress_ends_with_everything_done(project, tmp_path):
    for number in range(3):
        sound(tmp_path / "in" / f"{number}.wav", number)
    told = []
    files.import_folder(project, tmp_path / "in", label=Label.WAKE, report=told.append)
    assert (told[-1].done, told[-1].total, told[-1].unit) == (3, 3, "files")


def test_ctrl_c_keeps_what_was_imported(project, tmp_path):
    for number in range(5):
        sound(tmp_path / "in" / f"{number}.wav", number)

    def speaker(path):
        if path.name == "3.wav":
            raise KeyboardInterrupt
        return "ann"

    with pytest.raises(KeyboardInterrupt):
        files.import_folder(project, tmp_path / "in", label=Label.WAKE, speaker=speaker)
    assert len(project.catalogue.clips()) == 3
    assert files.import_folder(project, tmp_path / "in", label=Label.WAKE, speaker="ann").added == 2


def test_an_import_that_was_killed_is_finished_by_the_next_one(project, tmp_path):
    for number in range(150):
        sound(tmp_path / "in" / f"{number:03}.wav", number, seconds=0.2)
    script = """
        import sys, time
        from pathlib import Path
        from mww_ha import store
        from mww_ha.record import files, people
        from mww_ha.schema import Label
        project = store.open_project(Path(sys.argv[1]))
        slow = lambda path: time.sleep(0.04) or "ann"  # who kills it may be late
        files.import_folder(project, Path(sys.argv[2]), label=Label.WAKE, speaker=slow)
    """
    arguments = [sys.executable, "-c", textwrap.dedent(script), str(project.root), str(tmp_path / "in")]
    child = subprocess.Popen(arguments)
    deadline = time.monotonic() + 60
    while not project.catalogue.clips() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    before = project.catalogue.clips()
    assert 0 < len(before) < 150
    assert all((project.root / clip.path).exists() for clip in before)
    result = files.import_folder(project, tmp_path / "in", label=Label.WAKE, speaker="ann")
    assert (result.added, result.known) == (150 - len(before), len(before))


def test_wake_words_that_a_session_would_refuse_are_taken_and_named_once(project, tmp_path):
    good = take("f5", seed=1)
    start, end = audio.trim_silence(good)
    for name, samples in {
        "good": good,
        "cut tight": good[start:end],
        "clipped": np.clip(take("m7", seed=2).astype(np.int32) * 30, -32_768, 32_767).astype(np.int16),
        "long": np.concatenate([take("f5", seed=3), take("m7", seed=4)]),
    }.items():
        path = tmp_path / "in" / f"{name}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, samples, 16_000, subtype="PCM_16")
    result = files.import_folder(project, tmp_path / "in", label=Label.WAKE, speaker="anna")
    assert (result.added, result.rejected) == (4, ())
    doubts = {name.rpartition("/")[2]: reason for name, reason in result.doubtful}
    assert set(doubts) == {"clipped.wav", "long.wav"}
    assert "is cut off: step back" in doubts["clipped.wav"]
    assert "separate sounds" in doubts["long.wav"]
    assert files.import_folder(project, tmp_path / "in", label=Label.WAKE, speaker="anna").doubtful == ()
    other = files.import_folder(project, tmp_path / "in", label=Label.CONFUSABLE)
    assert (other.added, other.doubtful) == (4, ())


def test_what_was_not_known_of_a_clip_is_completed_and_what_is_known_stays(project, tmp_path):
    folder = tmp_path / "in"
    for number in range(3):
        sound(folder / f"{number}.wav", number)
    files.import_folder(project, folder, label=Label.WAKE)
    files.import_folder(project, folder / "2.wav", label=Label.WAKE, speaker="ben")
    result = files.import_folder(project, folder, label=Label.WAKE, speaker="anna", licence="CC0")
    assert (result.added, result.known, result.completed, result.speakers) == (0, 3, 3, ("anna",))
    clips = project.catalogue.clips()
    assert sorted(clip.speaker for clip in clips) == ["anna", "anna", "ben"]
    assert {clip.licence for clip in clips} == {"CC0"}
    [(name, why)] = result.differing
    assert name.endswith("2.wav")
    assert "known, but with speaker 'ben': not changed to 'anna'" in why
    [ben] = [clip for clip in clips if clip.speaker == "ben"]
    assert f"mww-ha clips delete {ben.id}" in why
    again = files.import_folder(project, folder / "0.wav", label=Label.WAKE, speaker="Anna", licence="CC0")
    assert (again.completed, again.differing, again.relabelled) == (0, (), ())
    assert len(people.delete_person(project, "anna").clips) == 2


def test_a_sound_that_is_twice_in_a_table_is_one_clip_with_the_first_speaker(project, tmp_path):
    sound(tmp_path / "a.wav", 1)
    rows = ["path\tlabel\tspeaker\tlicence", "a.wav\twake\tanna\t", "a.wav\twake\tben\tCC0"]
    (tmp_path / "t.tsv").write_text("\n".join(rows))
    result = files.import_manifest(project, tmp_path / "t.tsv")
    assert (result.added, result.known, result.completed, len(result.differing)) == (1, 1, 1, 1)
    assert result.speakers == ("anna", "ben")
    assert [(clip.speaker, clip.licence) for clip in project.catalogue.clips()] == [("anna", "CC0")]


def test_the_same_sound_under_another_label_is_warned_of(project, tmp_path):
    path = sound(tmp_path / "in" / "a.wav", 1)
    files.import_folder(project, path, label=Label.WAKE)
    [wake] = project.catalogue.clips()
    result = files.import_folder(project, path, label=Label.SPEECH)
    [(_, why)] = result.relabelled
    assert "the same sound is here as wake too" in why
    assert f"mww-ha clips delete {wake.id}" in why
    assert result.added == 1
