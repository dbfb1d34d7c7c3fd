"""A shard holds the device's frames of its scenes, says where words end to a frame, and is made exactly once."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tiny_project import write_settings

from mww_ha import audio, frontend, prepare
from mww_ha.errors import DataError, StorageError
from mww_ha.prepare import features
from mww_ha.prepare.features import ShardPlan, render_shard
from mww_ha.prepare.scenes import LEAD_S, SceneMaker
from mww_ha.schema import SAMPLE_RATE_HZ, Label, Origin, Split
from mww_ha.shards import open_shard, read_index
from mww_ha.store import Project, open_project

RATE = SAMPLE_RATE_HZ


@pytest.fixture(scope="session")
def maker(prepared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> SceneMaker:
    project = open_project(prepared_root)
    path = tmp_path_factory.mktemp("pool") / "pool.i16"
    features.build_pool(prepared_root, project.catalogue.clips(), path)
    project.catalogue.close()
    return SceneMaker(features.open_pool(prepared_root, path), project.settings.augment)


def feature_folder(root: Path) -> Path:
    (folder,) = (root / "features").iterdir()
    return folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".u16", ".json")}


def without_times(files: dict[str, bytes]) -> dict[str, bytes]:
    """The index says how long rendering took; nothing else may differ."""
    index = json.loads(files["index.json"])
    index.pop("render_s")
    return files | {"index.json": json.dumps(index, sort_keys=True).encode()}


# One shard


@pytest.mark.parametrize(
    ("family", "split"),
    [("wake", Split.TRAIN), ("noise", Split.TRAIN), ("ambient", Split.TEST), ("babble", Split.VALIDATION)],
)
def test_frames_are_the_frontends_of_the_scene(maker: SceneMaker, tmp_path: Path, family: str, split: Split) -> None:
    wakes = tuple(word.clip for word in maker.pool.words if word.label is Label.WAKE)[:3]
    plan = ShardPlan(name="s", split=split, family=family, scenes=2, scene_s=9.0, clips=wakes, seed=(1, 2, 3))
    duration_s = render_shard(plan, maker, tmp_path)
    shard = open_shard(tmp_path, "s")
    skip = frontend.n_frames(int(LEAD_S * RATE)) if split is Split.TRAIN else 0
    made = [scene for _, scene in features._scenes(plan, maker)]
    assert duration_s == pytest.approx(sum(len(scene.samples) for scene in made) / RATE)
    assert len(shard.scenes) == len(made)
    at = 0
    for row, scene in zip(shard.scenes, made, strict=True):
        assert row.offset == at
        at += row.frames
        np.testing.assert_array_equal(
            shard.features[row.offset : row.offset + row.frames], frontend.features(scene.samples)[skip:]
        )
    assert shard.features.shape == (at, frontend.CHANNELS)


@pytest.mark.parametrize("split", list(Split))
def test_events_are_right_to_the_frame(maker: SceneMaker, tmp_path: Path, split: Split) -> None:
    family = "wake" if split is Split.TRAIN else "quiet"
    wakes = tuple(word.clip for word in maker.pool.words if word.label is Label.WAKE)[:4]
    plan = ShardPlan(name="s", split=split, family=family, scenes=1, scene_s=14.0, clips=wakes, seed=(4,))
    render_shard(plan, maker, tmp_path)
    (row,) = open_shard(tmp_path, "s").scenes
    ((_, scene),) = features._scenes(plan, maker)
    skip = frontend.n_frames(int(LEAD_S * RATE)) if split is Split.TRAIN else 0
    assert len(row.events) == len(scene.events) > 0
    for found, event in zip(row.events, scene.events, strict=True):
        assert found.clip == event.word.clip
        assert found.label is event.word.label
        assert found.speaker == event.word.speaker
        # A device that has heard just the samples up to the end has given this many frames.
        heard = len(frontend.Frontend().process(scene.samples[: event.end])) - skip
        assert abs(found.end_frame - heard) <= 1
        heard = len(frontend.Frontend().process(scene.samples[: event.start])) - skip
        assert abs(found.start_frame - heard) <= 1
        assert 0 <= found.start_frame < found.end_frame < row.frames


def test_frames_lie_on_disk_as_uint16_and_are_mapped(prepared_root: Path) -> None:
    folder = feature_folder(prepared_root)
    for path in folder.glob("*.u16"):
        shard = open_shard(folder, path.stem)
        assert shard.features.dtype == np.uint16
        assert path.stat().st_size == shard.features.size * 2
        assert shard.features.any()
        base = shard.features
        while base is not None and not isinstance(base, np.memmap):
            base = base.base
        assert base is not None, "it was read into memory"


def test_a_shard_that_lost_its_frames_is_made_again(maker: SceneMaker, tmp_path: Path) -> None:
    plan = ShardPlan(name="s", split=Split.TRAIN, family="noise", scenes=2, scene_s=6.0, seed=(1,))
    render_shard(plan, maker, tmp_path)
    whole = (tmp_path / "s.u16").read_bytes()
    for damage in (lambda p: p.write_bytes(whole[:-80]), lambda p: p.write_bytes(b""), lambda p: p.unlink()):
        damage(tmp_path / "s.u16")
        render_shard(plan, maker, tmp_path)
        assert (tmp_path / "s.u16").read_bytes() == whole


# The whole set


def test_no_clip_of_one_side_is_heard_on_another(prepared_root: Path) -> None:
    folder = feature_folder(prepared_root)
    index = read_index(folder)
    heard: dict[str, set[str]] = {str(split): set() for split in Split}
    for name, shards in index["shards"].items():
        side = name.partition("/")[0]
        for shard in shards:
            clips = {event.clip for scene in open_shard(folder, shard).scenes for event in scene.events}
            assert {index["sides"][clip] for clip in clips} <= {side}
            heard[side] |= clips
    assert all(heard.values())


def test_every_family_is_there_and_lasts_as_long_as_asked(prepared: Project) -> None:
    index = read_index(feature_folder(prepared.root))
    settings = prepared.settings.prepare
    assert set(index["shards"]) == {f"train/{kind}" for kind in ("wake", "confusable", "speech", "noise")} | {
        f"{side}/{family}"
        for side in ("validation", "test")
        for family in ("quiet", "noise", "babble", "room", "lures", "ambient")
    }
    for side in ("validation", "test"):
        assert index["hours"][f"{side}/ambient"] == pytest.approx(settings.ambient_hours, rel=0.3)
    kept = settings.scene_s / (settings.scene_s - LEAD_S)  # training scenes lose their lead
    for kind in ("wake", "confusable", "speech", "noise"):
        assert index["hours"][f"train/{kind}"] == pytest.approx(getattr(settings, f"{kind}_hours") * kept, rel=0.3)


def test_a_second_run_touches_nothing(prepared: Project) -> None:
    folder = feature_folder(prepared.root)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    prepare.run(prepared)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")
def test_killed_work_goes_on_and_nothing_is_done_twice(prepared: Project) -> None:
    """The same frames by one process and by two, the same in one go and after a kill."""
    folder = feature_folder(prepared.root)
    known = files_of(folder)
    shutil.rmtree(prepared.features_dir)
    write_settings(prepared.root, prepare={"processes": 2}).catalogue.close()
    command = [sys.executable, "-m", "mww_ha", "--project", str(prepared.root), "prepare"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as child:
        until = time.monotonic() + 60
        while len(list(folder.glob("*-0*.json"))) < 2 and time.monotonic() < until:
            time.sleep(0.005)
        workers = [int(pid) for pid in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()]
        child.kill()
    until = time.monotonic() + 60
    while any(map(_is_running, workers)) and time.monotonic() < until:  # they follow it
        time.sleep(0.02)
    assert not any(map(_is_running, workers))
    done = {path: path.stat().st_mtime_ns for path in folder.glob("*-0*.json")}
    assert 2 <= len(done) < sum(name.endswith(".u16") for name in known)
    assert not (folder / "index.json").exists()
    done |= {path.with_suffix(".u16"): path.with_suffix(".u16").stat().st_mtime_ns for path in done}
    prepare.run(prepared)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert without_times(files_of(folder)) == without_times(known)
    assert {path.suffix for path in folder.iterdir()} == {".u16", ".json"}, "half-written files are left"
    assert not list(folder.glob("pool*"))


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """As on a full disk: no file grows beyond ``size`` bytes."""
    known = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, known[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, known)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_said_and_the_work_goes_on_when_there_is_space(prepared: Project) -> None:
    folder = feature_folder(prepared.root)
    known = files_of(folder)
    shutil.rmtree(prepared.features_dir)
    for size in (50_000, 4_000_000):  # the pool does not fit; the pool fits
        with files_at_most(size), pytest.raises(StorageError, match="no space left"):
            prepare.run(prepared) if size == 50_000 else _prepare_with_less(prepared, folder)
        assert not (folder / "index.json").exists()
    prepare.run(prepared)
    assert without_times(files_of(folder)) == without_times(known)


def _prepare_with_less(project: Project, folder: Path) -> None:
    """The pools are there already: shards are what does not fit."""
    sides = prepare.split_clips(project.catalogue.clips(), project.settings.split, lambda _clip: np.zeros(0, np.int16))
    for split in Split:
        clips = [clip for clip in project.catalogue.clips() if sides[clip.id] is split]
        features.build_pool(project.root, clips, folder / f"pool-{split}.i16")
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    prepare.run(project)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_said(prepared: Project) -> None:
    shutil.rmtree(prepared.features_dir)
    prepared.root.chmod(0o500)
    try:
        with pytest.raises(StorageError, match="not allowed"):
            prepare.run(prepared)
    finally:
        prepared.root.chmod(0o700)


# What cannot be prepared


def test_without_wake_clips_it_says_how_to_get_some(project: Project) -> None:
    with pytest.raises(DataError, match="no clip of 'hey kitchen'") as caught:
        prepare.run(project)
    assert "mww-ha synthesize" in caught.value.hint


def _remove(project: Project, *labels: Label) -> None:
    project.catalogue.remove_clips(clip.id for clip in project.catalogue.clips(*labels))


def test_without_other_speech_it_says_so(prepared: Project) -> None:
    _remove(prepared, Label.SPEECH, Label.CONFUSABLE)
    with pytest.raises(DataError, match="no speech that must not wake"):
        prepare.run(prepared)


def test_without_sound_to_count_false_accepts_on_it_says_so(prepared: Project) -> None:
    _remove(prepared, Label.SPEECH)
    with pytest.raises(DataError, match=r"side has no speech or noise to count false accepts on"):
        prepare.run(prepared)


def test_without_confusables_it_goes_on(prepared: Project) -> None:
    _remove(prepared, Label.CONFUSABLE)
    made = prepare.run(prepared)
    index = read_index(prepared.root / made.path)
    assert "train/confusable" not in index["shards"]
    assert "test/lures" not in index["shards"]


def test_too_few_speakers_are_an_error_that_names_them(prepared: Project) -> None:
    wakes = prepared.catalogue.clips(Label.WAKE)
    prepared.catalogue.remove_clips(clip.id for clip in wakes[2:])
    with pytest.raises(DataError, match=r"the wake word has \d speakers?") as caught:
        prepare.run(prepared)
    assert "--speaker" in caught.value.hint


def test_wake_clips_that_are_too_long_are_an_error_with_a_way_out(prepared: Project) -> None:
    _remove(prepared, Label.WAKE)
    rng = np.random.default_rng(1)
    for n in range(12):
        sound = (rng.standard_normal(5 * RATE) * 3000).astype(np.int16)
        clip = audio.add_clip(
            prepared.root, sound, label=Label.WAKE, origin=Origin.IMPORTED, speaker=f"p{n}", text="hey kitchen"
        )
        prepared.catalogue.add_clips([clip])
    with pytest.raises(DataError, match=r"2\.5 seconds") as caught:
        prepare.run(prepared)
    assert "cut long recordings" in caught.value.hint


def test_recordings_keep_their_names_when_a_silent_one_is_left_out(prepared: Project) -> None:
    rng = np.random.default_rng(1)
    silent = audio.add_clip(
        prepared.root, np.zeros(RATE, np.int16), label=Label.SPEECH, origin=Origin.IMPORTED, speaker="nobody"
    )
    own = [
        audio.add_clip(
            prepared.root,
            (rng.standard_normal(RATE * (n + 1)) * 2000).astype(np.int16),
            label=Label.NOISE,
            origin=Origin.IMPORTED,
            source=f"n{n}.wav",
        )
        for n in range(4)
    ]
    path = prepared.root / "pool.i16"
    features.build_pool(prepared.root, [silent, *own], path)
    maker = SceneMaker(features.open_pool(prepared.root, path), prepared.settings.augment)
    ids = (silent.id, *(clip.id for clip in own))
    plan = ShardPlan(name="r", split=Split.TEST, family="real", scenes=5, clips=ids)
    render_shard(plan, maker, prepared.root)
    rows = open_shard(prepared.root, "r").scenes
    assert [row.name for row in rows] == [clip.id for clip in own]
    assert sum(row.frames for row in rows) == frontend.n_frames(RATE * (1 + 2 + 3 + 4))
