"""Held-out sound is scored as a device would score it, and what is damaged on disk is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_run import FEATURE_SET, RUN, WAKES, finished_run, open_run
from toy_wake import CUTOFF, WINDOW, random_net, toy

from mww_ha import detector, frontend, trials
from mww_ha.errors import DataError, ModelFileError
from mww_ha.evaluate import held_out
from mww_ha.nn import quantize
from mww_ha.schema import Label
from mww_ha.shards import SpokenEvent, open_shard, read_index
from mww_ha.trials import Trace


@pytest.fixture(scope="module")
def run_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.getbasetemp())


@pytest.fixture
def folder(run_root: Path) -> Path:
    return run_root / "features" / FEATURE_SET


@pytest.fixture
def own_folder(folder: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(folder, tmp_path / "features"))


def event(start: int, end: int, label: Label = Label.WAKE) -> SpokenEvent:
    return SpokenEvent(clip="c", label=label, source="recorded", speaker="anna", start_frame=start, end_frame=end)


def trace(scores: list[int] | np.ndarray, *events: SpokenEvent, follows: bool = False, hours: float = 1.0) -> Trace:
    values = np.asarray(scores, np.uint8)
    return Trace(name="t", scores=values, hours=hours, speech_hours=0.0, events=events, follows=follows)


# --- Scoring ---------------------------------------------------------------------------------------------------------


def test_every_scene_is_scored_from_a_fresh_state(folder):
    shard = open_shard(folder, "validation-ambient-000")
    traces = trials.score_shard(toy().model, folder, "validation-ambient-000")
    assert len(traces) == len(shard.scenes) >= 2
    for made, place in zip(traces, shard.scenes, strict=True):
        frames = shard.features[place.offset : place.offset + place.frames]
        alone = detector.StreamingModel(toy().model).scores(frontend.quantize_features(frames))
        np.testing.assert_array_equal(made.scores, alone)
        assert made.hours == pytest.approx(place.frames / 360_000)
        assert not made.follows


def test_recordings_in_a_row_are_scored_as_one(folder):
    shard = open_shard(folder, "validation-real")
    assert shard.running
    traces = trials.score_shard(toy().model, folder, "validation-real")
    assert [t.follows for t in traces] == [False, True, True]
    whole = detector.StreamingModel(toy().model).scores(frontend.quantize_features(shard.features))
    (joined,) = trials.join_running(traces)
    np.testing.assert_array_equal(joined, whole)
    assert sum(t.hours for t in traces) == pytest.approx(len(shard.features) / 360_000)


def test_shards_come_back_by_name_in_the_order_asked_for_from_one_process_or_two(folder):
    names = ["validation-quiet", "validation-real", "validation-lures"]
    one = trials.score_shards(toy().model, folder, names, processes=1)
    two = trials.score_shards(toy().model, folder, names, processes=2)
    assert list(one) == list(two) == names
    for name in names:
        for a, b in zip(one[name], two[name], strict=True):
            np.testing.assert_array_equal(a.scores, b.scores)
    grouped = trials.group_traces(one, names[1:])
    assert [t.name for t in grouped] == [t.name for name in names[1:] for t in one[name]]


def test_the_toy_wakes_on_the_whistles_of_the_quiet_room_and_on_no_lure(folder):
    quiet = trials.score_shard(toy().model, folder, "test-quiet")
    peaks = trials.wake_peaks(quiet, WINDOW)
    assert len(peaks) == WAKES
    assert trials.recall_at(peaks, CUTOFF, WINDOW) == 1.0
    lures = trials.score_shard(toy().model, folder, "test-lures")
    assert trials.recall_at(trials.wake_peaks(lures, WINDOW, Label.CONFUSABLE), CUTOFF, WINDOW) == 0.0
    assert len(trials.wake_peaks(lures, WINDOW)) == 0


def test_a_model_with_another_step_is_refused(folder):
    net = random_net(np.random.default_rng(0), stride=2)
    int8 = np.random.default_rng(0).integers(-128, 128, (300, 40)).astype(np.int8)
    model = quantize.write_tflite(net, quantize.measure_ranges(net, [int8]))
    with pytest.raises(ModelFileError, match="2 frames"):
        trials.score_shard(model, folder, "validation-quiet")


# --- Counting --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(start=st.integers(0, 3000), length=st.integers(1, 300))
def test_a_word_may_be_detected_from_its_start_until_shortly_after_its_end(start, length):
    first, stop = trials.event_steps(event(start, start + length))
    end = start + length + round(trials.REACTION_S * 100)
    # Score i has heard the frames up to 3 * (i + 1).
    assert 3 * first <= start < 3 * (first + 1)
    assert 3 * (stop - 1) <= end < 3 * stop


def test_a_peak_counts_inside_its_word_only():
    scores = np.zeros(200, np.uint8)
    spoken = event(150, 200)
    first, stop = trials.event_steps(spoken)
    for place, counts in ((first - 1, False), (first, True), (stop - 1, True), (stop, False)):
        scores[:] = 0
        scores[place] = 200
        assert (trials.event_peak(trace(scores), spoken, 1) == 200) is counts


@settings(deadline=None, max_examples=30)
@given(
    scores=st.lists(st.integers(0, 255), min_size=60, max_size=200),
    cut=st.integers(1, 59),
    window=st.integers(1, 7),
)
def test_where_a_recording_is_cut_does_not_change_its_false_accepts(scores, cut, window):
    whole, hours = trials.count_false_accepts([trace(scores, hours=2.0)], window)
    parts = [trace(scores[:cut], hours=0.5), trace(scores[cut:], follows=True, hours=1.5)]
    counts, part_hours = trials.count_false_accepts(parts, window)
    np.testing.assert_array_equal(counts, whole)
    assert hours == part_hours == 2.0
    for cutoff in (1, 100, 250):
        assert whole[cutoff] == len(detector.detect(np.array(scores, np.uint8), cutoff=cutoff, window=window))


def test_recordings_that_do_not_follow_each_other_warm_up_one_by_one():
    scores = [0] * 40 + [255] * 5  # awake after 34 scores
    assert trials.count_false_accepts([trace(scores), trace(scores)], 3)[0][128] == 2
    assert trials.count_false_accepts([trace([0] * 20 + [255] * 5), trace([0] * 20 + [255] * 5)], 3)[0][128] == 0


@settings(deadline=None, max_examples=30)
@given(
    counts=st.lists(st.integers(0, 20), min_size=255, max_size=255).map(lambda c: np.array([*c, 0])),
    hours=st.floats(0.1, 50),
    budget=st.floats(0.05, 5),
)
def test_from_the_lowest_cutoff_on_the_budget_holds(counts, hours, budget):
    cutoff = trials.lowest_cutoff(counts, hours, budget)
    assert 0 <= cutoff <= 255
    assert np.all(counts[cutoff:] <= budget * hours)
    assert cutoff == 0 or counts[cutoff - 1] > budget * hours


def test_recall_is_the_share_of_peaks_above_the_cutoff():
    peaks = np.array([500, 501, 700])
    assert trials.recall_at(peaks, 100, 5) == pytest.approx(2 / 3)
    assert np.isnan(trials.recall_at(peaks[:0], 100, 5))


# --- Shards on disk --------------------------------------------------------------------------------------------------


def test_a_shard_says_where_each_word_is(folder):
    shard = open_shard(folder, "validation-quiet")
    assert not shard.running
    assert shard.features.dtype == np.uint16
    assert sum(scene.frames for scene in shard.scenes) == len(shard.features)
    events = [e for scene in shard.scenes for e in scene.events]
    assert len(events) == WAKES
    for scene in shard.scenes:
        for spoken in scene.events:
            frames = shard.features[scene.offset :][spoken.start_frame : spoken.end_frame]
            before = shard.features[scene.offset :][spoken.start_frame - 60 : spoken.start_frame - 10]
            assert 35 <= len(frames) <= 55  # 0.4 to 0.5 s
            assert frames.max(axis=1).mean() > 1.5 * before.max(axis=1).mean()


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("validation-quiet.u16", lambda path: path.unlink()),
        ("validation-quiet.json", lambda path: path.unlink()),
        ("validation-quiet.u16", lambda path: path.write_bytes(path.read_bytes()[:-80])),
        ("validation-quiet.u16", lambda path: path.write_bytes(path.read_bytes() + b"x")),
        ("validation-quiet.u16", lambda path: path.write_bytes(b"")),
        ("validation-quiet.json", lambda path: path.write_text(path.read_text()[:-5])),
        ("validation-quiet.json", lambda path: path.write_text('{"scenes": [{}]}')),
        ("validation-quiet.json", lambda path: path.write_text("[]")),
        ("validation-quiet.json", lambda path: path.write_bytes(b"\xff\xfe")),
    ],
)
def test_a_damaged_shard_is_named_with_a_way_out(own_folder, name, damage):
    damage(own_folder / name)
    with pytest.raises(DataError, match=name.replace(".", r"\.")) as raised:
        open_shard(own_folder, "validation-quiet")
    assert "mww-ha prepare" in raised.value.hint


def test_a_shard_without_a_scene_is_empty(tmp_path):
    (tmp_path / "empty.u16").write_bytes(b"")
    (tmp_path / "empty.json").write_text('{"family": "real", "scenes": []}')
    shard = open_shard(tmp_path, "empty")
    assert shard.features.shape == (0, 40)
    assert trials.score_shard(toy().model, tmp_path, "empty") == []


def test_features_that_are_not_finished_or_damaged_are_named(tmp_path):
    with pytest.raises(DataError, match="not finished"):
        read_index(tmp_path)
    (tmp_path / "index.json").write_text('{"shards": ')
    with pytest.raises(DataError, match="damaged"):
        read_index(tmp_path)


# --- The report of a run ---------------------------------------------------------------------------------------------


def test_the_report_of_a_run_counts_what_the_traces_hold(run_root, folder):
    report = json.loads((run_root / "reports" / f"{RUN}.json").read_text())
    medium = next(level for level in report["levels"] if level["name"] == "medium")
    assert medium["recall"]["exposure"] == 4 * WAKES
    hours = {row["kind"]: row["hours"] for row in report["data"]}
    for family, kind in (("ambient-000", "synthetic ambient"), ("real", "real ambient")):
        traces = trials.score_shard(toy().model, folder, f"test-{family}")
        counts, measured = trials.count_false_accepts(traces, medium["window"])
        assert hours[kind] == pytest.approx(measured)
        rate = next(rate for rate in medium["rates"] if rate["kind"] == kind)
        assert rate["per_hour"]["events"] == counts[medium["cutoff"]]
    page = (run_root / "reports" / f"{RUN}.html").read_text()
    assert "a rising whistle" in page


@pytest.mark.parametrize(
    ("speakers", "warned"),
    [(["espeak:en:f3"], True), (["espeak:en:f3", "anna"], False), ([""], False), ([], True)],
)
def test_a_report_on_synthetic_voices_alone_says_so(run_root, tmp_path, speakers, warned):
    root = Path(shutil.copytree(run_root, tmp_path / "project"))
    path = root / "features" / FEATURE_SET / "index.json"
    index = json.loads(path.read_text())
    index["speakers"]["test"] = speakers
    # One small shard a side is enough for a warning.
    keep = ("validation/quiet", "test/quiet", "validation/real", "test/real")
    index["shards"] = {name: own for name, own in index["shards"].items() if name in keep}
    path.write_text(json.dumps(index))
    project = open_run(root)
    report = held_out.run(project, run=RUN)
    assert any("synthetic" in line and "record your family" in line for line in report.warnings) is warned
    project.catalogue.close()


def test_a_run_that_is_not_finished_has_no_report(run_root):
    project = open_run(run_root)
    with pytest.raises(DataError, match="not finished"):
        held_out.run(project, run="another")
    project.catalogue.close()
