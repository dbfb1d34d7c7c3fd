"""A verdict is remembered with who said it, clips follow the verdicts, and what is deleted is gone everywhere."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import toy_wake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cli import Ask, ask  # noqa: F401  a fixture
from upload_kit import noise

from mww_ha import audio, detector
from mww_ha.capture import keep, review, score, tokens
from mww_ha.devices.known import add_device
from mww_ha.errors import InputError
from mww_ha.prepare import split
from mww_ha.prepare.features import LONGEST_WORD_S
from mww_ha.record import people
from mww_ha.schema import Capture, CaptureKind, CaptureScore, Device, Label, Origin, Verdict, digest
from mww_ha.store import Project, create_project

MODEL = "toy-0a1b2c3d"
RATE = 16_000
NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def add(project: Project, samples: np.ndarray, name: str = "a-1", *, after_s: float = 0.0, **fields: object) -> Capture:
    """A capture as the intake would have stored it now, made ``after_s`` seconds after noon of a day."""
    sha256 = audio.samples_digest(samples)
    # What nobody judged expires two weeks after it was received.
    made, received = (
        (start + timedelta(seconds=after_s)).isoformat(timespec="milliseconds") for start in (NOON, datetime.now(UTC))
    )
    values: dict[str, object] = {
        "device": "kitchen",
        "upload": name,
        "kind": CaptureKind.DETECTION,
        "captured_at": made,
        "received_at": received,
        "model": MODEL,
        "path": f"captures/{sha256[:2]}/{sha256}.flac" if samples.size else "",
        "sha256": sha256,
        "bytes": 2 * samples.size,
        "duration_s": samples.size / RATE,
    }
    values |= fields
    capture = Capture(id=digest([values["device"], name]), **values)
    # One transaction, as the intake: a service that starts deletes sound that no row names.
    with project.catalogue.transaction():
        if samples.size:
            audio.write_flac(project.root / capture.path, samples, durable=False)
        project.catalogue.add_capture(capture)
    return capture


def spoken(seed: int, *, sound: str = "rising", level: float = 40.0) -> tuple[np.ndarray, float]:
    """5 s of a room with one whistle, and when it ends; triggered captures look like this."""
    rng = np.random.default_rng(seed)
    whistle = toy_wake.whistle(rng, sound)
    samples = toy_wake.noise(rng, 5.0, level)
    end = int(rng.uniform(3.5, 4.0) * RATE)
    samples[end - whistle.size : end] += whistle
    return samples, end / RATE


@pytest.fixture(scope="session")
def toy_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy-models")
    toy_wake.write_model(folder, name=MODEL)
    return folder


@pytest.fixture
def home(tmp_path: Path, toy_models: Path) -> Iterator[Project]:
    """A project whose satellites carry the toy model."""
    project = create_project(tmp_path / "home", "a rising whistle")
    shutil.copytree(toy_models, project.models_dir)
    yield project
    project.catalogue.close()


def state(project: Project) -> list[tuple[str, Label, str]]:
    return [(clip.parent, clip.label, clip.speaker) for clip in project.catalogue.clips()]


# ---- scores ---------------------------------------------------------------------------------------------------------


def test_a_capture_is_scored_as_the_running_device_scored_it(home: Project):
    rng = np.random.default_rng(3)
    manifest = detector.load_manifest(home.models_dir / f"{MODEL}.json")
    model = detector.load_model(manifest)
    samples, _ = toy_wake.scene(rng, ["rising", "falling", "rising", "rising"], 40.0)
    running = detector.score_samples(model, samples)
    found = detector.detect(running, cutoff=manifest.cutoff, window=manifest.sliding_window)
    assert len(found) >= 3
    for number, detection in enumerate(found[1:]):
        trigger = round(detection.time_s * RATE)
        start = trigger - 4 * RATE
        cut = samples[start : trigger + RATE]
        heard = add(home, cut, f"a-{number}", trigger_s=4.0, after_s=60.0 * number)
        result = score.score_capture(home, heard)
        assert result.reproduced
        assert any(abs(time_s - 4.0) <= 0.09 for time_s in result.detections_s)
        first, last = (detector.step_of_sample(trigger + round(s * RATE)) for s in (-score.PEAK_S, score.PEAK_S))
        there = detector.peak_window_sum(running, manifest.sliding_window, first, last) / manifest.sliding_window
        assert abs(result.peak * 255 - there) <= 32  # the device's steps lay elsewhere
        assert abs(result.peak_s - 4.0) <= 0.5


def test_where_the_steps_of_the_device_are_known_its_scores_come_back(home: Project):
    rng = np.random.default_rng(4)
    manifest = detector.load_manifest(home.models_dir / f"{MODEL}.json")
    model = detector.load_model(manifest)
    samples, _ = toy_wake.scene(rng, ["rising", "falling", "low", "rising", "high", "rising"], 60.0)
    running = detector.score_samples(model, samples)
    for start in range(0, len(samples) - 5 * RATE, 4800 * 7):
        assert start % 480 == 0
        here = score.score_samples(model, samples[start : start + 5 * RATE])
        there = running[start // 480 :]
        settled = slice(3 * RATE // 480, 5 * RATE // 480 - 2)
        assert np.abs(here[settled].astype(int) - there[settled].astype(int)).max() <= 12
        assert np.abs(here[settled].astype(int) - there[settled].astype(int)).mean() <= 1


def test_what_did_not_trigger_has_a_low_peak_and_is_not_reproduced(home: Project):
    samples, end_s = spoken(1, sound="falling")
    result = score.score_capture(home, add(home, samples, trigger_s=end_s))
    assert not result.reproduced
    assert result.detections_s == ()
    assert result.peak < result.cutoff
    assert len(result.trace) == pytest.approx(5.5 / 0.03, abs=4)


def test_a_word_at_the_very_end_of_a_capture_is_still_heard(home: Project):
    samples, end_s = spoken(2)
    result = score.score_capture(home, add(home, samples[: round(end_s * RATE) + 800], kind=CaptureKind.PROMPT))
    assert result.reproduced


@given(st.lists(st.integers(0, 255), max_size=60), st.integers(1, 254), st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_an_armed_detector_fires_where_a_window_sum_exceeds_the_cutoff(trace: list[int], cutoff: int, window: int):
    capture = Capture(id="x", device="d", upload="u", kind=CaptureKind.PROMPT, captured_at="", received_at="")
    scores = np.array(trace, np.uint8)
    found = score.rate_scores(capture, MODEL, scores, cutoff=cutoff, window=window)
    assert found.peak == pytest.approx(detector.peak_window_sum(scores, window) / window / 255, abs=1e-4)
    assert bool(found.detections_s) is (detector.peak_window_sum(scores, window) > cutoff * window)


def test_a_missing_or_unknown_model_is_said_and_tried_again_when_it_is_there(home: Project, toy_models: Path):
    samples, end_s = spoken(4)
    add(home, samples, "a-1", model="other-99999999", trigger_s=end_s)
    add(home, samples, "a-2", model="", after_s=60)
    # a name from a satellite must not leave models/
    add(home, samples, "a-3", model="../models/toy-0a1b2c3d", after_s=120)
    assert len(score.score_pending(home)) == 3
    problems = sorted(row.problem for row in home.catalogue.scores())
    assert problems == [
        "../models/toy-0a1b2c3d is not in models/",
        "other-99999999 is not in models/",
        "the satellite did not say which model it carries",
    ]
    assert score.score_pending(home) == []
    for suffix in ("json", "tflite"):
        text = (toy_models / f"{MODEL}.{suffix}").read_bytes().replace(MODEL.encode(), b"other-99999999")
        (home.models_dir / f"other-99999999.{suffix}").write_bytes(text)
    [again] = score.score_pending(home)
    assert (again.problem, again.reproduced) == ("", True)


def test_a_damaged_model_or_sound_stops_no_other(home: Project):
    (home.models_dir / "bad-00000000.json").write_text("{")
    samples, end_s = spoken(5)
    add(home, samples, "a-1", model="bad-00000000")
    broken = add(home, noise(1), "a-2")
    (home.root / broken.path).write_bytes(b"no sound")
    add(home, samples, "a-3", trigger_s=end_s)
    results = score.score_pending(home)
    assert sorted(bool(row.problem) for row in results) == [False, True, True]


def test_hints_say_what_is_known_and_no_verdict(home: Project):
    samples, end_s = spoken(6)
    heard = add(home, samples, "a-1", trigger_s=end_s)
    score.score_pending(home)
    score.set_outcome(home, heard.id, "stt-no-text-recognized")
    [waiting] = review.list_waiting(home)[1]
    assert "nothing was said after it" in waiting.hints
    assert any("heard here too" in hint for hint in waiting.hints)
    assert waiting.capture.verdict is Verdict.UNDECIDED
    assert score.find_faults(np.zeros(RATE, np.int16))[0].startswith("nearly silent")
    assert score.find_faults(np.full(RATE, 32767, np.int16))[0].startswith("clipped")
    assert score.find_faults(samples) == []


def test_a_pipeline_run_is_joined_with_the_nearest_detection_of_its_satellite(home: Project):
    for number, after_s in enumerate((0.0, 3.0, 60.0)):
        add(home, noise(number, 0.1), f"a-{number}", after_s=after_s)
    add(home, noise(9, 0.1), "b", after_s=2.1, device="hall")
    found = score.find_detection(home, "kitchen", NOON + timedelta(seconds=2))
    assert found is not None
    assert found.upload == "a-1"
    assert score.find_detection(home, "kitchen", NOON + timedelta(seconds=30)) is None


# ---- verdicts -------------------------------------------------------------------------------------------------------


def test_a_verdict_is_news_once_and_keeps_who_said_it(home: Project):
    ids = [add(home, noise(n), f"a-{n}", after_s=n).id for n in range(3)]
    assert review.judge(home, ids[:2], Verdict.WAKE, by="anna") == ids[:2]
    assert review.judge(home, ids, Verdict.WAKE, by="bob") == ids[2:]
    assert review.judge(home, ids, Verdict.WAKE, by="bob") == []
    assert review.judge(home, ids[:1], Verdict.WAKE, by="bob", person="carl") == ids[:1]
    history = review.list_history(home, ids[0])
    assert [(e.by, e.verdict, e.person, e.before) for e in history] == [
        ("bob", Verdict.WAKE, "carl", Verdict.WAKE),
        ("anna", Verdict.WAKE, "", Verdict.UNDECIDED),
    ]


def test_an_unknown_capture_stops_the_whole_batch(home: Project):
    known = add(home, noise(1)).id
    with pytest.raises(InputError, match="no capture nope"):
        review.judge(home, [known, "nope"], Verdict.WAKE, by="anna")
    assert home.catalogue.captures()[0].verdict is Verdict.UNDECIDED
    for by in ("", " ", "x" * 81, "a\x00b"):
        with pytest.raises(InputError):
            review.judge(home, [known], Verdict.WAKE, by=by)


def test_undo_goes_back_batch_by_batch_and_leaves_what_others_said_since(home: Project):
    ids = [add(home, noise(n), f"a-{n}", after_s=n).id for n in range(3)]
    review.judge(home, ids, Verdict.FALSE_ACCEPT, by="anna")
    review.judge(home, ids[:2], Verdict.WAKE, by="anna", person="carl")
    review.judge(home, ids[:1], Verdict.OTHER, by="bob")

    def verdicts() -> list[tuple[Verdict, str]]:
        return [(c.verdict, c.person) for c in home.catalogue.captures(ids)]

    assert review.undo(home, by="anna") == ids[1:2]
    assert verdicts() == [(Verdict.OTHER, "carl"), (Verdict.FALSE_ACCEPT, ""), (Verdict.FALSE_ACCEPT, "")]
    assert review.undo(home, by="anna") == ids[1:]
    assert verdicts()[1:] == [(Verdict.UNDECIDED, ""), (Verdict.UNDECIDED, "")]
    with pytest.raises(InputError, match="nothing to take back"):
        review.undo(home, by="anna")
    assert review.undo(home, by="bob") == ids[:1]
    assert verdicts()[0] == (Verdict.WAKE, "carl")


@given(
    st.lists(
        st.tuples(st.sampled_from(["anna", "bob"]), st.sets(st.integers(0, 2), min_size=1), st.sampled_from(Verdict)),
        max_size=6,
    )
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_undoing_everything_gives_back_the_start_and_forgets_no_entry(
    project: Project, steps: list[tuple[str, set[int], Verdict]]
):
    people.delete_captures(project, [c.id for c in project.catalogue.captures()])
    ids = [add(project, noise(n, 0.1), f"a-{n}").id for n in range(3)]
    for by, places, verdict in steps:
        review.judge(project, [ids[n] for n in places], verdict, by=by)
    made = sum(len(review.list_history(project, id)) for id in ids)
    for _ in range(4 * len(steps) + 1):
        for by in ("anna", "bob"):
            try:
                review.undo(project, by=by)
            except InputError:
                continue
    assert all(c.verdict is Verdict.UNDECIDED for c in project.catalogue.captures())
    assert sum(len(review.list_history(project, id)) for id in ids) == 2 * made


# ---- the queue ------------------------------------------------------------------------------------------------------


def test_the_queue_shows_what_is_undecided_in_the_order_that_was_asked_for(home: Project):
    ids = {}
    for number, (name, peak, outcome) in enumerate(
        [("sure", 0.99, "ok"), ("near", 0.62, "ok"), ("silent", 0.98, "stt-no-text-recognized"), ("far", 0.1, "")]
    ):
        made = add(home, noise(number), name, after_s=number, outcome=outcome)
        ids[made.id] = name
        home.catalogue.put_score(CaptureScore(capture=made.id, model=MODEL, scored_at="2026", peak=peak, cutoff=0.6))
    judged = add(home, noise(9), "judged", after_s=99)
    review.judge(home, [judged.id], Verdict.WAKE, by="anna")

    def names(**how: object) -> list[str]:
        return [ids[waiting.capture.id] for waiting in review.list_waiting(home, **how)[1]]

    assert names() == ["far", "silent", "near", "sure"]
    assert names(order="oldest", limit=2) == ["sure", "near"]
    assert names(order="informative") == ["silent", "near", "sure", "far"]
    assert names(order="informative", limit=1, offset=1) == ["near"]
    with pytest.raises(InputError, match="order"):
        review.list_waiting(home, order="loudest")


def test_a_false_wake_is_shown_with_its_detection_and_alone_when_that_never_came(home: Project):
    add(home, noise(1), "a-1")
    remark = {"kind": CaptureKind.FALSE_WAKE, "after_s": 5}
    add(home, np.zeros(0, np.int16), "a-2", session="a-1", **remark)
    add(home, noise(2), "a-4", session="a-3", **remark)
    waiting = {w.capture.upload: w for w in review.list_waiting(home)[1]}
    assert waiting.keys() == {"a-1", "a-4"}
    assert waiting["a-1"].reported
    assert all("called a false wake at the satellite" in w.hints for w in waiting.values())


# ---- clips ----------------------------------------------------------------------------------------------------------


def judged(project: Project, name: str, verdict: Verdict, seed: int, after_s: float = 0.0, **fields: object) -> Capture:
    samples, end_s = spoken(seed)
    person = fields.pop("person", None)
    capture = add(project, samples, name, after_s=after_s, trigger_s=end_s, **fields)
    review.judge(project, [capture.id], verdict, by="anna", person=person)
    return capture


def test_verdicts_become_clips_cut_to_the_word_with_their_provenance(home: Project):
    wrong = judged(home, "a-1", Verdict.FALSE_ACCEPT, 1)
    missed = judged(home, "a-2", Verdict.MISSED_WAKE, 2, 3600, kind=CaptureKind.NEAR_MISS, person="anna")
    right = judged(home, "a-3", Verdict.WAKE, 3, 7200)
    for number, verdict in enumerate((Verdict.OTHER, Verdict.DISCARD, Verdict.UNDECIDED)):
        judged(home, f"b-{number}", verdict, 4 + number, 10_000 + 3600 * number)
    done = review.apply_verdicts(home)
    assert (done.added, done.removed, done.duplicates, done.unusable, done.unnamed) == (3, 0, (), (), 1)
    assert sorted(state(home)) == sorted(
        [(wrong.id, Label.CONFUSABLE, ""), (missed.id, Label.WAKE, "anna"), (right.id, Label.WAKE, "")]
    )
    for clip in home.catalogue.clips():
        samples = audio.read_samples(home.root / clip.path)
        assert 0.4 <= samples.size / RATE <= LONGEST_WORD_S
        # the whistle is in it whole: nothing loud was cut off
        start, end = audio.trim_silence(samples, margin_s=0.0)
        assert 0.35 <= (end - start) / RATE <= 0.75
        assert clip.origin is Origin.CAPTURED
        assert clip.session == "kitchen 2026-11-20"
        assert clip.text == ("a rising whistle" if clip.label is Label.WAKE else "")
    assert review.apply_verdicts(home) == dataclasses.replace(done, added=0, kept=3)


def test_the_clip_goes_with_the_verdict_and_comes_back_with_it(home: Project):
    capture = judged(home, "a-1", Verdict.FALSE_ACCEPT, 1)
    review.apply_verdicts(home)
    [clip] = home.catalogue.clips()
    review.judge(home, [capture.id], Verdict.WAKE, by="bob", person="carl")
    assert home.catalogue.clips() == []  # at once, not with the next training
    assert not (home.root / clip.path).exists()
    review.apply_verdicts(home)
    assert state(home) == [(capture.id, Label.WAKE, "carl")]
    review.undo(home, by="bob")
    assert home.catalogue.clips() == []
    review.apply_verdicts(home)
    assert home.catalogue.clips() == [clip]
    review.undo(home, by="anna")
    assert home.catalogue.clips() == []
    assert review.apply_verdicts(home).added == 0
    assert list(home.audio_dir.rglob("*.flac")) == []
    assert keep.sound_path(home, capture.id).exists()


def test_the_same_seconds_count_once_and_the_copy_stands_in_when_the_first_goes(home: Project):
    samples, end_s = spoken(1)
    first = add(home, samples, "a-1", trigger_s=end_s)
    second = add(home, samples[4879:], "a-2", trigger_s=end_s - 0.3, after_s=0.3, kind=CaptureKind.CANARY)
    elsewhere = add(home, spoken(2)[0], "a-3", trigger_s=3.8, after_s=1.0, device="hall")
    review.judge(home, [first.id, second.id, elsewhere.id], Verdict.FALSE_ACCEPT, by="anna")
    done = review.apply_verdicts(home)
    assert done.duplicates == ((second.id, first.id),)
    assert {clip.parent for clip in home.catalogue.clips()} == {first.id, elsewhere.id}
    review.judge(home, [first.id], Verdict.OTHER, by="anna")
    review.apply_verdicts(home)
    assert {clip.parent for clip in home.catalogue.clips()} == {second.id, elsewhere.id}


def test_copies_that_another_search_finds_count_once_too(home: Project):
    samples, end_s = spoken(1)
    first = add(home, samples, "a-1", trigger_s=end_s)
    louder = audio.float_to_int16(audio.int16_to_float(samples) * 1.7)
    copy = add(home, louder, "a-2", trigger_s=end_s, after_s=86_400)
    other = add(home, spoken(2)[0], "a-3", trigger_s=3.8, after_s=90_000)
    review.judge(home, [first.id, copy.id, other.id], Verdict.FALSE_ACCEPT, by="anna")
    assert review.apply_verdicts(home).added == 3
    done = review.apply_verdicts(home, find_copies=split.find_near_duplicates)
    assert (done.removed, done.kept, done.duplicates) == (1, 2, ((copy.id, first.id),))


def test_sound_that_was_judged_both_ways_is_not_trained_on(home: Project):
    samples, end_s = spoken(1)
    one = add(home, samples, "a-1", trigger_s=end_s)
    two = add(home, samples, "a-2", trigger_s=end_s, after_s=86_400)
    review.judge(home, [one.id], Verdict.FALSE_ACCEPT, by="anna")
    review.judge(home, [two.id], Verdict.WAKE, by="anna")
    done = review.apply_verdicts(home)
    assert home.catalogue.clips() == []
    assert {id for id, _ in done.unusable} == {one.id, two.id}


def test_what_has_no_word_in_it_makes_no_clip_and_says_why(home: Project):
    silent = add(home, np.zeros(3 * RATE, np.int16), "a-1", trigger_s=2.0)
    remark = add(home, np.zeros(0, np.int16), "a-2", kind=CaptureKind.FALSE_WAKE, session="a-0", after_s=60)
    rng = np.random.default_rng(1)
    talk = np.concatenate([toy_wake.whistle(rng, "high") for _ in range(12)])
    long = add(home, np.concatenate([noise(1, 0.3) // 100, talk]), "a-3", kind=CaptureKind.PROMPT, after_s=120)
    review.judge(home, [silent.id, remark.id, long.id], Verdict.FALSE_ACCEPT, by="anna")
    reasons = dict(review.apply_verdicts(home).unusable)
    assert reasons[silent.id] == "it holds nothing but silence"
    assert reasons[remark.id] == "it has no sound"
    assert "nobody knows" in reasons[long.id]
    assert home.catalogue.clips() == []


def test_a_capture_that_cannot_be_read_keeps_the_clip_that_was_made_of_it(home: Project):
    capture = judged(home, "a-1", Verdict.WAKE, 1)
    review.apply_verdicts(home)
    before = home.catalogue.clips()
    (home.root / capture.path).unlink()
    done = review.apply_verdicts(home)
    assert (done.removed, len(done.unusable)) == (0, 1)
    assert home.catalogue.clips() == before


def test_a_prompted_take_becomes_a_recorded_clip_of_its_person_and_sitting(home: Project):
    samples, _ = spoken(1)
    take = add(home, samples, "a-1", kind=CaptureKind.PROMPT, session="sofa, 20 November")
    review.judge(home, [take.id], Verdict.WAKE, by="mww-ha record", person="anna")
    review.apply_verdicts(home)
    [clip] = home.catalogue.clips()
    assert (clip.origin, clip.speaker, clip.session) == (Origin.RECORDED, "anna", "sofa, 20 November")


def test_captures_of_one_device_and_day_stay_on_one_side_and_people_on_theirs(home: Project):
    for number in range(12):
        day = 86_400 * (number // 2)
        judged(home, f"f-{number}", Verdict.FALSE_ACCEPT, number, day + 600 * (number % 2))
    for number, person in enumerate(("anna", "anna", "bob", "carl", "dora", "eve", "fred")):
        judged(home, f"w-{number}", Verdict.WAKE, 50 + number, 86_400 * number + 7200, person=person)
    review.apply_verdicts(home)
    clips = home.catalogue.clips()
    sides = split.split_clips(clips, home.settings.split, lambda clip: audio.read_samples(home.root / clip.path))
    for key in ("session", "speaker"):
        placed: dict[str, set[str]] = {}
        for clip in clips:
            if clip.speaker if key == "speaker" else not clip.speaker:
                placed.setdefault(getattr(clip, key), set()).add(sides[clip.id])
        assert len(placed) == 6
        assert all(len(found) == 1 for found in placed.values())


# ---- deleting -------------------------------------------------------------------------------------------------------


def test_deleting_a_capture_deletes_sound_rows_history_remarks_and_clips(home: Project):
    capture = judged(home, "a-1", Verdict.FALSE_ACCEPT, 1)
    other = judged(home, "a-9", Verdict.FALSE_ACCEPT, 2, 3600)
    add(home, np.zeros(0, np.int16), "a-2", kind=CaptureKind.FALSE_WAKE, session="a-1")
    score.score_pending(home)
    review.apply_verdicts(home)
    mine = [clip.id for clip in home.catalogue.clips_cut_from([capture.id])]
    assert list(people.delete_captures(home, [capture.id]).clips) == mine
    assert people.delete_captures(home, [capture.id, "unknown"]) == people.Removed()
    assert [c.id for c in home.catalogue.captures()] == [other.id]
    assert review.list_history(home, capture.id) == []
    assert {row.capture for row in home.catalogue.scores()} == {other.id}
    assert len(list(home.captures_dir.rglob("*.flac"))) == len(list(home.audio_dir.rglob("*.flac"))) == 1
    assert keep.check_consistency(home).ok


def test_a_discarded_sound_can_be_had_back_for_an_hour_and_is_gone_then(home: Project):
    capture = judged(home, "a-1", Verdict.DISCARD, 1)
    keep.expire(home, at=datetime.now(UTC) + timedelta(minutes=59))
    assert keep.sound_path(home, capture.id).exists()
    review.undo(home, by="anna")
    review.judge(home, [capture.id], Verdict.DISCARD, by="anna")
    keep.expire(home, at=datetime.now(UTC) + timedelta(minutes=61))
    assert list(home.captures_dir.rglob("*.flac")) == []
    with pytest.raises(InputError, match="deleted"):
        review.undo(home, by="anna")
    with pytest.raises(InputError, match="deleted"):
        review.judge(home, [capture.id], Verdict.WAKE, by="anna")
    [row] = home.catalogue.captures()
    assert (row.verdict, row.path) == (Verdict.DISCARD, "")


def test_a_household_judges_and_takes_back_from_the_command_line(home: Project, ask: Ask):  # noqa: F811
    def run(*arguments: str) -> str:
        answer = ask(*arguments, "--project", str(home.root))
        assert answer.code == 0, answer.err
        return answer.out

    samples, _ = spoken(3)
    capture = add(home, samples, trigger_s=4.0)
    [row] = run("captures").splitlines()[1:]
    assert row.split()[0] == capture.id
    assert row.endswith(capture.path)
    assert home.catalogue.scores([capture.id])  # listing scores what came in

    assert run("captures", "judge", capture.id, "--as", "false_accept", "--by", "anna") == (
        "1 judged as false_accept, 0 were so before\n"
    )
    assert run("captures") == "nothing waits to be judged\n"
    assert "1, no listening hours known" in run("captures", "rates")
    add_device(home, Device(name="kitchen", template="generic-s3", room="Ground floor"))
    assert run("captures", "rates", "--by", "room") == "Ground floor: 1, no listening hours known\n"
    assert run("captures", "undo", "--by", "anna") == f"{capture.id}\n"
    assert capture.id in run("captures")

    unknown = ask("captures", "delete", capture.id, "0" * 16, "--project", str(home.root))
    assert (unknown.code, home.catalogue.captures()) == (2, [capture])
    assert run("captures", "delete", capture.id) == "1 sound files, 0 clips, 1 captures deleted\n"
    assert list(home.captures_dir.rglob("*.flac")) == []


def test_tokens_are_made_shown_once_listed_and_ended_from_the_command_line(home: Project, ask: Ask):  # noqa: F811
    def run(*arguments: str, code: int = 0) -> str:
        answer = ask("tokens", *arguments, "--project", str(home.root))
        assert answer.code == code, answer.err
        return answer.out + answer.err

    assert "gets one when it is flashed" in run()
    assert "no device is called" in run("make", "kitchen", code=2)
    add_device(home, Device(name="kitchen", template="generic-s3"))
    token = run("make", "kitchen").splitlines()[0]
    assert tokens.find_token(home.catalogue, token) is not None
    tokens.note_use(home.catalogue, home.catalogue.tokens()[0], datetime(2026, 11, 20, 12, 34, tzinfo=UTC))
    listed = run()
    assert "2026-11-20T12:00:00+00:00  in force" in listed
    assert token not in listed
    assert "1 ended" in run("revoke", "kitchen")
    assert "revoked 20" in run()
    assert "in force: none" in run("revoke", "kitchen", code=2)
