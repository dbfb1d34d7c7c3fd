"""Verdicts become a model that is compared with the one before on the same sound, and offered unless it is worse."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_run
import toy_wake
from hypothesis import given
from hypothesis import strategies as st
from test_capture_review import add, spoken
from toy_wake import toy
from whistle_project import add_people, make_model, write_settings

from mww_ha import audio, deploy, detector, export, metrics, pipeline, prepare, retrain, train
from mww_ha.capture import review
from mww_ha.errors import DataError
from mww_ha.evaluate import (
    AmbientTrace,
    Contender,
    Paired,
    TraceSet,
    WakeEvent,
    compare,
    pair_events,
    pair_false_accepts,
    pair_takes,
)
from mww_ha.nn import mixednet, quantize
from mww_ha.record import people
from mww_ha.schema import Capture, CaptureKind, Clip, Exposure, Flash, Label, Origin, Progress, Verdict
from mww_ha.shards import FIELD, PreparedScene, Shard, SpokenEvent, open_shard, read_index
from mww_ha.store import Project
from mww_ha.train import loop, mining
from mww_ha.train.checkpoint import Judge
from mww_ha.train.sampler import Sampler, Shares, share_field

# ---- captures in a batch --------------------------------------------------------------------------------------------

SHARES = Shares(wake=0.3, confusable=0.2, speech=0.4, noise=0.1, hard=0.5, field=0.05, field_clip=0.02)


def shard(name: str, words: list[tuple[Label, str, str, int]], scenes: int = 3) -> Shard:
    """Scenes of 1000 random frames with the same words (label, source, clip, end frame)."""
    features = np.random.default_rng(list(name.encode())).integers(1, 600, (scenes * 1000, 40)).astype(np.uint16)
    events = tuple(
        SpokenEvent(clip=clip, label=label, source=source, speaker="v", start_frame=end - 50, end_frame=end)
        for label, source, clip, end in words
    )
    rows = [
        PreparedScene(name=f"{name}/{n}", offset=n * 1000, frames=1000, speech_s=1.0, events=events)
        for n in range(scenes)
    ]
    return Shard(name=name, features=features, scenes=tuple(rows))


def make_sampler(field: list[tuple[Label, str, str, int]], **changes: Any) -> Sampler:
    shards = {
        "wake": [shard("train-wake-000", [(Label.WAKE, "espeak", "w", 400), (Label.SPEECH, "espeak", "s", 700)])],
        "confusable": [shard("train-confusable-000", [(Label.CONFUSABLE, "espeak", "c", 500)])],
        "speech": [shard("train-speech-000", [(Label.SPEECH, "espeak", "s", 500)])],
        "noise": [shard("train-noise-000", [])],
        "real": [shard("train-real-000", [(Label.SPEECH, "recorded", "r", 900)])],
    }
    if field:
        shards["field"] = [shard("train-field-000", field)]
    rows = {"receptive_frames": 60, "batch": 100, "shares": SHARES, "seed": 5}
    rows |= {"mask_frames": 0, "mask_channels": 0, "warp": False}
    return Sampler(shards, **(rows | changes))


LURES = [(Label.CONFUSABLE, FIELD, f"f{n}", 200 + 150 * n) for n in range(5)]
WAKES = [(Label.WAKE, FIELD, f"g{n}", 275 + 150 * n) for n in range(4)]


def kinds_of(own: Sampler, steps: int) -> list[Counter[str]]:
    """How many crops of each batch come from which kind of shard."""
    names = [shard.name.split("-")[1] for shard in own.shards]
    return [Counter(names[n] for n in own._compose(np.random.default_rng([1, step]))[:, 0]) for step in range(steps)]


def test_captures_never_take_more_of_a_batch_than_their_share() -> None:
    own = make_sampler([*LURES, *WAKES])
    drawn = kinds_of(own, 200)
    assert max(kinds["field"] for kinds in drawn) <= 5
    assert np.mean([kinds["field"] for kinds in drawn]) >= 4
    # What mining finds among them is part of their share, not beside it.
    number = next(n for n, shard in enumerate(own.shards) if shard.name.startswith("train-field"))
    own.hard = np.array([[number, 900], [number, 950], [0, 500]], np.int64)
    assert max(kinds["field"] for kinds in kinds_of(own, 200)) <= 5
    assert sum(len(kinds) for kinds in drawn) > 0
    assert {sum(kinds.values()) for kinds in drawn} == {100}


def test_in_a_small_batch_captures_come_now_and_then() -> None:
    drawn = [kinds["field"] for kinds in kinds_of(make_sampler(LURES, batch=10), 2000)]
    assert set(drawn) == {0, 1}
    assert np.mean(drawn) == pytest.approx(0.5, abs=0.04)


def test_a_single_capture_is_no_more_than_a_small_part() -> None:
    few = kinds_of(make_sampler(LURES[:1]), 300)
    assert max(kinds["field"] for kinds in few) == 2
    assert make_sampler(LURES[:1]).field_shares == {"lure": pytest.approx(0.02)}


def test_captured_lures_are_negatives_and_captured_wake_words_are_positives() -> None:
    lures, wakes = make_sampler(LURES), make_sampler(WAKES)
    plain = make_sampler([])
    positives = [np.mean([own.draw(step).positive.sum() for step in range(20)]) for own in (plain, lures, wakes)]
    assert positives[0] == pytest.approx(30, abs=1)
    assert positives[1] == pytest.approx(30, abs=1)  # taken off the negatives
    assert positives[2] == pytest.approx(30, abs=1)  # taken off the wake words
    number = next(n for n, shard in enumerate(lures.shards) if shard.name.startswith("train-field"))
    assert all((lures.mark(number, end + 20) == 1).all() for _, _, _, end in LURES)


def test_recordings_as_they_are_are_drawn_only_where_mining_found_something_hard() -> None:
    own = make_sampler([])
    assert not any(kinds["real"] for kinds in kinds_of(own, 50))
    number = next(n for n, shard in enumerate(own.shards) if shard.name.startswith("train-real"))
    own.hard = np.array([[number, 1500]], np.int64)
    assert all(kinds["real"] == 35 for kinds in kinds_of(own, 50))


def test_mining_searches_recordings_and_captures_and_keeps_of_these_what_still_wakes() -> None:
    shards: dict[str, list[Shard]] = {}
    for kind, words in (("wake", [(Label.WAKE, "e", "w", 400)]), ("real", []), ("field", LURES)):
        quiet = np.full((3000, 40), 10, np.uint16)
        quiet[1500:1515] = 600
        one = shard(f"train-{kind}-000", words)
        shards[kind] = [dataclasses.replace(one, features=quiet)]
    own = Sampler(
        shards, receptive_frames=60, batch=10, shares=SHARES, mask_frames=0, mask_channels=0, warp=False, seed=1
    )

    def loudness(features: np.ndarray, lower: float = 0.0) -> np.ndarray:
        return features[:, 59::3, 0] - lower

    for lower, kinds in ((5.0, {"real", "field"}), (100.0, {"real"})):
        found = mining.find_hard(
            lambda x, lower=lower: loudness(x, lower), own, train.MINED, 60, limit=50, rng=np.random.default_rng(1)
        )
        names = [own.shards[n].name.split("-")[1] for n in found[:, 0]]
        assert set(names) == kinds
        assert all(
            abs(end - 1515) < 10 for (_, end), name in zip(found.tolist(), names, strict=True) if name == "field"
        )


def test_recordings_are_searched_up_to_their_hours_in_shards_of_ten_minutes() -> None:
    def clip(number: int, minutes: float, **known: Any) -> Clip:
        values = {"label": Label.NOISE, "origin": Origin.IMPORTED} | known
        return Clip(id=f"{number:04}", path="", sha256="", duration_s=60 * minutes, **values)

    long = [clip(n, 4.0) for n in range(10)]
    others = [clip(20, 3.0, origin=Origin.SYNTHESIZED, label=Label.SPEECH), clip(21, 3.0, label=Label.WAKE)]
    plans = prepare._recordings([*long, *others], 0.5, 1)
    ids = [id for plan in plans for id in plan.clips]
    assert len(ids) == len(set(ids)) == 7  # 28 of 30 minutes
    assert set(ids) <= {one.id for one in long}
    assert [len(plan.clips) for plan in plans] == [3, 3, 1]
    assert prepare._recordings(long, 0.0, 1) == []
    assert prepare._recordings([*long, *others], 0.5, 1) == plans


@given(st.integers(0, 500), st.integers(0, 500), st.floats(0.001, 0.2), st.floats(0, 0.05))
def test_the_shares_of_captures_add_up_to_no_more_than_the_cap(wakes: int, lures: int, cap: float, one: float) -> None:
    shares = dataclasses.replace(SHARES, field=cap, field_clip=one)
    found = share_field({"wake": wakes, "lure": lures}, shares)
    assert sum(found.values()) <= cap + 1e-12
    for name, count in (("wake", wakes), ("lure", lures)):
        assert found.get(name, 0.0) <= count * one + 1e-12
    if wakes * one >= cap and lures * one >= cap > 0:
        assert found == {"wake": pytest.approx(cap / 2), "lure": pytest.approx(cap / 2)}


# ---- pairs ----------------------------------------------------------------------------------------------------------


def test_a_sign_test_is_the_binomial_of_a_fair_coin() -> None:
    assert metrics.sign_test(0, 0) == 1.0
    assert metrics.sign_test(5, 0) == pytest.approx(2 / 32)
    assert metrics.sign_test(0, 6) == pytest.approx(2 / 64)
    assert metrics.sign_test(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert metrics.sign_test(4, 4) == 1.0
    with pytest.raises(ValueError, match="no counts"):
        metrics.sign_test(-1, 2)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 40))
def test_an_interval_leaves_out_zero_exactly_where_the_test_is_sure(better: int, worse: int, more: int) -> None:
    found = metrics.paired_interval(better, worse, better + worse + more, "share")
    assert found.low <= found.value <= found.high
    assert (found.low > 0 or found.high < 0) is (metrics.sign_test(better, worse) < 0.05)


def trace(length: int, *peaks: tuple[int, int]) -> np.ndarray:
    scores = np.zeros(length, np.uint8)
    for at, height in peaks:
        scores[at : at + 8] = height
    return scores


def contender(name: str, heights: list[int], false_accepts: list[int], *, cutoff: int = 150) -> Contender:
    """A model that scores each take ``heights`` in two conditions, and wakes at these scores of ten hours."""
    wake = [
        WakeEvent(
            clip=f"take {n}",
            voice=f"person {n % 3}",
            condition=condition,
            scores=trace(300, (220, max(0, height - lower))),
            start_step=210,
            end_step=260,
        )
        for n, height in enumerate(heights)
        for condition, lower in (("quiet", 0), ("noise", 40))
    ]
    room = AmbientTrace(
        name="room", kind="real ambient", scores=trace(1_200_000, *((at, 220) for at in false_accepts)), hours=10.0,
        speech_hours=5.0,
    )  # fmt: skip
    return Contender(name=name, cutoff=cutoff, window=5, traces=TraceSet(wake=wake, ambient=[room]))


TAKES = [f"take {n}" for n in range(20)]


def judge(old: Contender, new: Contender, people: list[str] = TAKES) -> tuple[str, list[Paired], list[str]]:
    notes: list[str] = []
    takes = retrain.Takes(people=frozenset(people), synthesized=frozenset(TAKES), captured=frozenset())
    tests, _ = retrain.judge_pairs(old, new, takes, notes)
    return retrain.conclude(tests)[0], tests, notes


def test_a_model_against_itself_makes_no_difference() -> None:
    model = contender("a", [120, 160, 200, 250] * 5, [1000, 50_000, 90_000])
    outcome, tests, _ = judge(model, model)
    assert outcome == "no difference"
    assert [(paired.better, paired.worse, paired.p) for paired in tests] == [(0, 0, 1.0)] * 2
    assert [(paired.old.events, paired.new.events) for paired in tests] == [(25, 25), (3, 3)]


def test_a_better_model_is_found_better_and_a_deaf_one_worse() -> None:
    deaf, fair = contender("a", [100] * 20, []), contender("b", [160] * 12 + [100] * 8, [])
    assert judge(deaf, fair)[0] == "better"
    assert judge(fair, deaf)[0] == "worse"


def test_a_model_that_wakes_at_everything_is_worse_whatever_it_hears() -> None:
    calm = contender("a", [160] * 20, [1000])
    eager = contender("b", [160] * 20, [1010, *range(5000, 400_000, 9000)])
    outcome, tests, _ = judge(calm, eager)
    assert outcome == "worse"
    assert (tests[1].better, tests[1].worse) == (0, 44)  # the one at the same moment is no difference
    assert tests[1].difference.value == pytest.approx(-4.4)
    heard = contender("c", [250] * 20, [1010, *range(5000, 400_000, 9000)])
    assert judge(calm, heard)[0] == "worse"
    assert judge(eager, calm)[0] == "better"


def test_few_differences_are_chance() -> None:
    old, new = contender("a", [160] * 20, [1000, 9000]), contender("b", [100] * 4 + [160] * 16, [5000])
    outcome, tests, _ = judge(old, new)
    assert outcome == "no difference"
    assert (tests[0].better, tests[0].worse) == (0, 4)
    assert tests[0].difference.low < 0 < tests[0].difference.high


def test_each_model_is_judged_at_its_own_cutoff() -> None:
    heights = [120, 160, 200, 250] * 5
    low, high = contender("a", heights, [1000], cutoff=100), contender("b", heights, [1000], cutoff=210)
    assert judge(low, high)[0] == "worse"


def test_with_hardly_any_take_of_people_synthesized_voices_decide_and_that_is_said() -> None:
    deaf, fair = contender("a", [100] * 20, []), contender("b", [160] * 20, [])
    outcome, tests, notes = judge(deaf, fair, people=TAKES[:3])
    assert outcome == "better"
    assert tests[0].what == "Synthesized wake words"
    assert any("3 takes of people are held out, too few to decide" in note for note in notes)
    assert not judge(deaf, fair)[2]


def test_different_sound_is_no_pair() -> None:
    one, two = contender("a", [160] * 3, []), contender("b", [160] * 3, [])
    other = dataclasses.replace(two.traces, wake=list(reversed(two.traces.wake)))
    with pytest.raises(ValueError, match="same takes"):
        pair_takes(one, dataclasses.replace(two, traces=other), TAKES, "takes")
    ambient = [dataclasses.replace(two.traces.ambient[0], name="elsewhere")]
    moved = dataclasses.replace(two, traces=dataclasses.replace(two.traces, ambient=ambient))
    with pytest.raises(ValueError, match="same hours"):
        pair_false_accepts(one, moved, ["real ambient"], "hours")
    assert pair_takes(one, two, ["another"], "takes") is None
    assert pair_false_accepts(one, two, ["music"], "hours") is None


@given(st.lists(st.floats(0, 100), max_size=12), st.lists(st.floats(0, 100), max_size=12))
def test_shared_events_are_a_matching(one: list[float], two: list[float]) -> None:
    one, two = sorted(one), sorted(two)
    shared = compare.count_shared(one, two)
    assert shared <= min(len(one), len(two))
    assert shared == compare.count_shared(two, one)
    assert compare.count_shared(one, one) == len(one)
    near = [time for time in one if any(abs(time - other) <= compare.SAME_EVENT_S for other in two)]
    assert bool(shared) is bool(near)


def test_the_line_of_a_comparison_has_counts_intervals_and_a_plain_word() -> None:
    paired = pair_events(
        [(True, False)] * 8 + [(True, True)] * 2, "False accepts captured", "captures", should_fire=False
    )
    assert paired is not None
    assert paired.outcome == "better"
    assert paired.text() == (
        "False accepts captured: 10 of 10 (100 % [69–100]) → 2 of 10 (20 % [3–56]); captures better 8, worse 0, "
        "p = 0.0078: better, +80 % of the captures [+21 to +80]"
    )
    lost = pair_events([(True, False)] * 8, "Wake words", "captures", should_fire=True)
    assert lost is not None
    assert lost.outcome == "worse"
    assert pair_events([], "nothing", "captures", should_fire=True) is None


# ---- the way --------------------------------------------------------------------------------------------------------

NOON = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


def capture_and_judge(project: Project, model: str) -> dict[str, Verdict]:
    """Ten captures of ten days with their verdicts, one sent twice, one that nobody judged."""
    verdicts: dict[str, Verdict] = {}
    for number in range(10):
        samples, end_s = spoken(number, sound="falling" if number < 7 else "rising")
        right = number >= 7
        capture = add(
            project,
            samples,
            f"a-{number}",
            after_s=86_400 * number,
            model=model,
            trigger_s=end_s,
            kind=CaptureKind.NEAR_MISS if right else CaptureKind.CANARY if number == 6 else CaptureKind.DETECTION,
        )
        verdict = Verdict.MISSED_WAKE if right else Verdict.FALSE_ACCEPT
        review.judge(project, [capture.id], verdict, by="anna", person=f"person {number}" if 7 <= number < 9 else None)
        verdicts[capture.id] = verdict
    again, end_s = spoken(0, sound="falling")
    copy = add(project, audio.float_to_int16(audio.int16_to_float(again) * 0.5), "b-0", after_s=900_000, model=model)
    review.judge(project, [copy.id], Verdict.FALSE_ACCEPT, by="anna")
    add(project, spoken(99)[0], "c-0", after_s=990_000, model=model)
    return verdicts


@pytest.fixture(scope="session")
def exported_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project with a model that hears, and judged captures. Only to be read."""
    root = tmp_path_factory.mktemp("exported") / "project"
    made = write_settings(root)
    add_people(made)
    capture_and_judge(made, str(make_model(made)["id"]))
    made.catalogue.close()
    return root


def read_run(root: Path) -> dict[str, Any]:
    """The only run of a project."""
    made = write_settings(root)
    (document,) = made.catalogue.runs()
    made.catalogue.close()
    return document


@pytest.fixture
def home(exported_root: Path, tmp_path: Path) -> Iterator[Project]:
    shutil.copytree(exported_root, tmp_path / "home")
    made = write_settings(tmp_path / "home")
    yield made
    made.catalogue.close()


@pytest.fixture(scope="session")
def retrained(exported_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, retrain.Proposal]:
    """The same retrained in one go. Only to be read."""
    root = tmp_path_factory.mktemp("retrained") / "project"
    shutil.copytree(exported_root, root)
    made = write_settings(root)
    proposal = retrain.retrain(made)
    made.catalogue.close()
    return root, proposal


@pytest.fixture
def after(retrained: tuple[Path, retrain.Proposal]) -> Iterator[Project]:
    made = write_settings(retrained[0])
    yield made
    made.catalogue.close()


def test_training_lowers_the_loss(exported_root: Path) -> None:
    log = exported_root / "runs" / read_run(exported_root)["id"] / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert rows[-1]["step"] == 60
    assert rows[-1]["loss"] < 0.2 * rows[0]["loss"]
    assert rows[-1]["loss"] <= min(row["loss"] for row in rows[:3])


def test_without_a_model_or_enough_verdicts_nothing_is_done(project: Project, home: Project) -> None:
    with pytest.raises(DataError, match="no model") as caught:
        retrain.retrain(project)
    assert "mww-ha run" in caught.value.hint
    few = write_settings(home.root, retrain={"verdicts": 30})
    before = sorted(path for path in few.root.rglob("*"))
    proposal = retrain.retrain(few)
    assert (proposal.outcome, proposal.offer, proposal.missing) == ("not enough", False, 19)
    assert "11 new verdicts" in proposal.text()
    assert "19 more" in proposal.text()
    assert sorted(path for path in few.root.rglob("*")) == before
    few.catalogue.close()


def test_it_is_due_with_enough_verdicts_or_after_a_time_with_one(home: Project) -> None:
    assert retrain.due(home, NOON) == "11 new verdicts (10 are enough)"
    many = write_settings(home.root, retrain={"verdicts": 50, "every_days": 7.0})
    trained_at = datetime.fromisoformat(many.catalogue.runs()[0]["started_at"])
    assert retrain.due(many, trained_at + timedelta(days=6)) == ""
    assert "7 days" in retrain.due(many, trained_at + timedelta(days=7.5))
    for capture in many.catalogue.captures(verdicts=[Verdict.FALSE_ACCEPT, Verdict.MISSED_WAKE]):
        review.judge(many, [capture.id], Verdict.OTHER, by="bob")
    assert retrain.due(many, trained_at + timedelta(days=100)) == ""
    many.catalogue.close()


def test_the_new_model_says_which_captures_it_learned_from(
    retrained: tuple[Path, retrain.Proposal], after: Project
) -> None:
    _, proposal = retrained
    document = next(run for run in after.catalogue.runs() if run["id"] == proposal.run)
    learned: dict[str, str] = document["data"]["captures"]
    clips = {clip.id: clip for clip in after.catalogue.clips() if clip.origin is Origin.CAPTURED}
    # The copy of a take and what nobody judged are not among them.
    assert len(clips) == 10
    assert {clip.parent for clip in clips.values()} <= {c.id for c in after.catalogue.captures(verdicts=review.LABELS)}
    index = read_index(after.features_dir / document["feature_set"])
    assert learned == {id: clip.parent for id, clip in clips.items() if index["sides"][id] == "train"}
    assert proposal.learned_from == len(learned) >= 4
    assert index["captures"] == index["parents"] == {id: clip.parent for id, clip in clips.items()}
    people = {clip.id: clip.speaker for clip in after.catalogue.clips() if clip.origin is not Origin.SYNTHESIZED}
    assert index["people"] == {id: name for id, name in people.items() if name and id in index["sides"]}
    assert document["start"] != document["id"]
    model = next(m for m in after.catalogue.models() if m["id"] == proposal.model)
    assert (model["offered"], model["compared_with"]) == (proposal.offer, proposal.against)
    about = json.loads((after.root / model["about_path"]).read_text())
    assert about["learned_from_captures"] == proposal.learned_from


def test_captures_are_learned_from_in_shards_of_their_own(
    retrained: tuple[Path, retrain.Proposal], after: Project
) -> None:
    document = next(run for run in after.catalogue.runs() if run["id"] == retrained[1].run)
    folder = after.features_dir / document["feature_set"]
    index = read_index(folder)
    for kind, names in index["shards"].items():
        events = [e for name in names for scene in open_shard(folder, name).scenes for e in scene.events]
        captured = {event.clip for event in events if event.source == FIELD}
        if kind == "train/field":
            assert captured == set(document["data"]["captures"])
            assert {event.source for event in events} > {FIELD}
        elif kind.startswith("train/"):
            assert captured == set()
        else:
            side = kind.partition("/")[0]
            assert {index["sides"][clip] for clip in captured} <= {side}


def test_what_captures_do_not_change_is_not_rendered_again_and_would_come_out_the_same(
    retrained: tuple[Path, retrain.Proposal], after: Project, exported_root: Path, tmp_path: Path
) -> None:
    document = next(run for run in after.catalogue.runs() if run["id"] == retrained[1].run)
    folder = after.features_dir / document["feature_set"]
    before = exported_root / "features" / read_run(exported_root)["feature_set"]
    keys, known = read_index(folder)["keys"], read_index(before)["keys"]
    same = {name for name, key in keys.items() if known.get(name) == key}
    assert {name.rpartition("-")[0] for name in same} >= {
        "train-wake",
        "train-confusable",
        "train-speech",
        "train-noise",
    }
    assert not any(name.startswith("train-field") for name in same)
    assert all((folder / f"{name}.u16").stat().st_nlink > 1 for name in same)
    # Rendered without the earlier feature set it has the same bytes throughout.
    shutil.copytree(retrained[0], tmp_path / "anew", ignore=shutil.ignore_patterns("features"))
    anew = write_settings(tmp_path / "anew")
    prepare.run(anew)
    for name in keys:
        for end in ("u16", "json"):
            one, two = (place / f"{name}.{end}" for place in (folder, anew.features_dir / folder.name))
            assert one.read_bytes() == two.read_bytes(), name
    anew.catalogue.close()


def test_in_real_batches_captures_stay_within_their_share(
    retrained: tuple[Path, retrain.Proposal], after: Project
) -> None:
    document = next(run for run in after.catalogue.runs() if run["id"] == retrained[1].run)
    folder = after.features_dir / document["feature_set"]
    for batch, share in ((128, 0.03), (400, 0.05)):
        settings = dataclasses.replace(after.settings.train, batch=batch, field_share=share)
        own = dataclasses.replace(after, settings=dataclasses.replace(after.settings, train=settings))
        sampler = train.make_sampler(own, folder, read_index(folder))
        counts = [kinds["field"] for kinds in kinds_of(sampler, 100)]
        assert 0 < np.mean(counts) <= share * batch
        assert max(counts) <= max(2, share * batch)
        allowed = min(share, 0.002 * len(document["data"]["captures"]))
        assert np.mean(counts) / batch == pytest.approx(allowed, abs=1.1 / batch)


def test_people_and_days_that_were_held_out_stay_so(retrained: tuple[Path, retrain.Proposal], after: Project) -> None:
    document = next(run for run in after.catalogue.runs() if run["id"] == retrained[1].run)
    sides = read_index(after.features_dir / document["feature_set"])["sides"]
    for key in ("speaker", "session"):
        placed: dict[str, set[str]] = {}
        for clip in after.catalogue.clips():
            if getattr(clip, key) and (key == "speaker" or not clip.speaker):
                placed.setdefault(getattr(clip, key), set()).add(sides[clip.id])
        assert placed
        assert all(len(found) == 1 for found in placed.values())


def test_the_comparison_and_the_stages_are_on_record(retrained: tuple[Path, retrain.Proposal], after: Project) -> None:
    _, proposal = retrained
    assert proposal.outcome in ("better", "no difference", "worse")
    assert proposal.offer is (proposal.outcome != "worse")
    assert proposal.comparison is not None
    assert {paired.what for paired in proposal.comparison.decided_by} >= {
        "Wake words of people",
        "False accepts in the same hours",
    }
    text = proposal.text()
    for said in (proposal.model, proposal.against, "trained on from the weights", "p = "):
        assert said in text
    assert "1 judged capture is a copy of others: counted once." in text
    assert "1 captured wake word without a name: somebody who is held out may have said it" in text
    assert any("canary" in paired.what for paired in (*proposal.comparison.also, *proposal.comparison.decided_by))
    record = json.loads((after.reports_dir / f"{proposal.run}.comparison.json").read_text())
    assert record["text"] == text
    assert retrain.count_new_verdicts(after) == 0
    assert retrain.due(after, datetime.now(UTC) + timedelta(days=400)) == ""
    assert not (after.runs_dir / retrain.PLAN_FILE).exists()
    newest = deploy.newest_model(after).stem
    assert newest == (proposal.model if proposal.offer else proposal.against)
    assert (after.models_dir / f"{proposal.against}.tflite").exists()
    assert pipeline.is_current(after, "train") is proposal.offer


def test_a_warm_start_begins_as_the_old_model(home: Project) -> None:
    known = home.catalogue.runs()[0]
    place = home.runs_dir / known["id"]
    own = retrain._warm(home)
    assert own.settings.train.steps == 24
    assert own.settings.train.learning_rate == pytest.approx(0.001)
    trainer = loop.Trainer(dataclasses.replace(own.settings.train, seed=7))
    trainer.start_from(loop.load_state(place / "weights.npz"))
    for mine, averaged in zip(trainer.model.get_weights(), trainer.twin.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, averaged)
    folder = home.features_dir / known["feature_set"]
    judge = Judge(folder, read_index(folder), budget=0.5, processes=1)
    candidate = judge.make("start", mixednet.fuse(trainer.twin), trainer.forward)
    assert candidate.model == (place / "candidate.tflite").read_bytes()
    assert candidate.misses == pytest.approx(known["metrics"]["misses"])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"filters": 24}, "train.filters was 16 and is 24"),
        ({"kernels": [3, 7]}, "train.kernels"),
        ({}, "kept no weights"),
    ],
)
def test_what_does_not_fit_is_trained_from_the_beginning_and_that_is_said(
    home: Project, change: dict[str, Any], why: str
) -> None:
    known = home.catalogue.runs()[0]
    own = write_settings(home.root, train=change)
    if not change:
        (own.runs_dir / known["id"] / "weights.npz").unlink()
    found = train.find_obstacle(own, known["id"], feature_set=known["feature_set"])
    assert why in found
    with pytest.raises(DataError, match="cannot start from run"):
        train.run(own, feature_set=known["feature_set"], start=known["id"])
    assert train.find_obstacle(own, "unknown", feature_set=known["feature_set"]) != ""
    own.catalogue.close()


def test_weights_that_heard_what_was_deleted_since_are_not_gone_on_from(home: Project) -> None:
    known = home.catalogue.runs()[0]
    index = read_index(home.features_dir / known["feature_set"])
    trained = next(c for c in home.catalogue.clips(Label.WAKE) if index["sides"].get(c.id) == "train" and c.speaker)
    held_out = next(c for c in home.catalogue.clips(Label.WAKE) if index["sides"].get(c.id) == "test" and c.speaker)
    index_path = home.features_dir / "again" / "index.json"
    for clip, obstacle in ((held_out, ""), (trained, "it was trained on a clip that was deleted since")):
        people.delete_clips(home, [clip.id])
        index_path.parent.mkdir(exist_ok=True)
        index_path.write_text(json.dumps(index | {"sides": {}}))
        assert train.find_obstacle(home, known["id"], feature_set="again") == obstacle


def test_a_warm_start_that_is_insisted_on_and_impossible_is_refused(home: Project) -> None:
    known = home.catalogue.runs()[0]
    (home.runs_dir / known["id"] / "weights.npz").unlink()
    with pytest.raises(DataError, match=r"no warm start: .* kept no weights") as caught:
        retrain.retrain(home, fresh=False)
    assert "--fresh" in caught.value.hint
    assert retrain.due(home, NOON) == "11 new verdicts (10 are enough)"


@pytest.mark.slow
def test_where_no_warm_start_is_possible_training_begins_afresh_and_says_why(home: Project) -> None:
    quick = write_settings(home.root, train={"filters": 24})
    proposal = retrain.retrain(quick)
    assert "trained from the beginning (the network is another one: train.filters was 16 and is 24)" in proposal.text()
    assert next(run for run in quick.catalogue.runs() if run["id"] == proposal.run).get("start") is None
    quick.catalogue.close()


def results(project: Project, proposal: retrain.Proposal) -> tuple[bytes, str]:
    return (project.runs_dir / proposal.run / "candidate.tflite").read_bytes(), proposal.text()


def test_a_retraining_that_is_stopped_again_and_again_comes_to_the_same(
    home: Project, retrained: tuple[Path, retrain.Proposal]
) -> None:
    moments: list[Callable[[Progress], bool]] = [
        lambda p: p.stage == "train" and p.message == "learning" and p.done >= 5,
        lambda p: p.stage == "retrain" and "listens" in p.message,
        lambda p: p.stage == "export",
    ]
    for wanted in moments:
        pressed: list[bool] = []

        def stop(
            progress: Progress, wanted: Callable[[Progress], bool] = wanted, pressed: list[bool] = pressed
        ) -> None:
            if not pressed and wanted(progress):
                pressed.append(True)
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            retrain.retrain(home, report=stop)
        assert retrain.due(home, NOON) == "a retraining was interrupted"
        assert len(home.catalogue.models()) == 1
    proposal = retrain.retrain(home)
    model, text = (retrained[0] / "runs" / proposal.run / "candidate.tflite").read_bytes(), retrained[1].text()
    assert results(home, proposal) == (model, text)


# ---- real models on real sound --------------------------------------------------------------------------------------


@pytest.fixture
def whistles(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, dict[str, Any]]]:
    """The whistle project with its model, exported, and a second run of a network that is deaf."""
    root = tmp_path / "whistles"
    shutil.copytree(toy_run.finished_run(tmp_path_factory.getbasetemp()), root)
    project = toy_run.open_run(root)
    index_path = project.features_dir / toy_run.FEATURE_SET / "index.json"
    sides = {clip.id: clip.speaker.partition(" ")[0] for clip in project.catalogue.clips()}
    index_path.write_text(json.dumps(json.loads(index_path.read_text()) | {"sides": sides}))
    export.run(project, run=toy_run.RUN)
    deaf = dataclasses.replace(toy().net, head=np.zeros_like(toy().net.head), head_bias=-4.0)
    add_run(project, "deaf", quantize.write_tflite(deaf, toy().ranges))
    yield project, project.catalogue.models()[0]
    project.catalogue.close()


def add_run(project: Project, name: str, model: bytes) -> None:
    """A run with this file and the report of the whistles' run."""
    document = next(run for run in project.catalogue.runs() if run["id"] == toy_run.RUN)
    (project.runs_dir / name).mkdir()
    (project.runs_dir / name / "candidate.tflite").write_bytes(model)
    shutil.copyfile(project.reports_dir / f"{toy_run.RUN}.json", project.reports_dir / f"{name}.json")
    project.catalogue.put_run(name, document["started_at"], document | {"id": name})


def test_on_real_sound_a_model_against_itself_makes_no_difference(whistles: tuple[Project, dict[str, Any]]) -> None:
    project, entry = whistles
    found = retrain.compare(project, entry, toy_run.RUN)
    assert found.outcome == "no difference"
    assert all((paired.better, paired.worse) == (0, 0) for paired in (*found.decided_by, *found.also))
    takes = found.decided_by[0]
    assert (takes.what, takes.exposure, takes.voices) == ("Wake words of people", 6, 3)
    assert takes.old.events == takes.new.events > 12


def test_on_real_sound_a_deaf_model_is_worse_and_one_that_hears_better(
    whistles: tuple[Project, dict[str, Any]],
) -> None:
    project, entry = whistles
    found = retrain.compare(project, entry, "deaf")
    assert (found.outcome, found.decided_by[0].new.events) == ("worse", 0)
    assert "wake words of people beyond chance" in found.reason
    # The other way round: the deaf one is the current model.
    hearing = (project.root / entry["model_path"]).read_bytes()
    (project.root / entry["model_path"]).write_bytes((project.runs_dir / "deaf" / "candidate.tflite").read_bytes())
    add_run(project, "hearing", hearing)
    found = retrain.compare(project, entry | {"run": "deaf"}, "hearing")
    assert (found.decided_by[0].outcome, found.decided_by[0].worse) == ("better", 0)


def test_what_the_model_before_the_current_one_was_trained_on_is_no_held_out_take(
    whistles: tuple[Project, dict[str, Any]],
) -> None:
    project, entry = whistles
    documents = {document["id"]: document for document in project.catalogue.runs()}
    index = read_index(project.features_dir / toy_run.FEATURE_SET)
    people = [clip for clip in project.catalogue.clips(Label.WAKE) if index["sides"][clip.id] == "test"]
    older = project.features_dir / "older"
    older.mkdir()
    sides = dict.fromkeys([people[0].id], "train")
    (older / "index.json").write_text(json.dumps({"id": "older", "sides": sides}))
    document = documents[toy_run.RUN]
    project.catalogue.put_run("older", document["started_at"], document | {"id": "older", "feature_set": "older"})
    project.catalogue.put_run(toy_run.RUN, document["started_at"], document | {"start": "older"})
    heard = sum(clip.speaker == people[0].speaker for clip in people)
    for where in ("features", "what a deletion left", "nothing"):
        found = retrain.compare(project, entry, toy_run.RUN)
        exposure = next(p.exposure for p in (*found.decided_by, *found.also) if p.what == "Wake words of people")
        forgotten = any("is not known any more" in note for note in found.notes)
        assert (exposure, forgotten) == ((6, True) if where == "nothing" else (6 - heard, False)), where
        if where == "features":
            (older / "index.json").unlink()
            (project.runs_dir / "older").mkdir()
            (project.runs_dir / "older" / "heard.json").write_text(json.dumps(sides))
        else:
            (project.runs_dir / "older" / "heard.json").unlink(missing_ok=True)


def test_captures_are_heard_again_by_both_and_those_held_out_apart(whistles: tuple[Project, dict[str, Any]]) -> None:
    project, entry = whistles
    model = str(entry["id"])
    sides = {}
    for number in range(12):
        samples, end_s = spoken(number)  # the whistle that wakes, called a false accept: what a deaf model gets right
        kind = CaptureKind.CANARY if number < 4 else CaptureKind.DETECTION
        capture = add(project, samples, f"a-{number}", after_s=86_400 * number, trigger_s=end_s, model=model, kind=kind)
        review.judge(project, [capture.id], Verdict.FALSE_ACCEPT, by="anna")
    review.apply_verdicts(project)
    for number, clip in enumerate(project.catalogue.clips(origin=Origin.CAPTURED)):
        sides[clip.id] = "test" if number % 2 else "train"
    index_path = project.features_dir / toy_run.FEATURE_SET / "index.json"
    index = json.loads(index_path.read_text())
    index_path.write_text(json.dumps(index | {"sides": index["sides"] | sides}))
    found = {paired.what: paired for paired in retrain.compare(project, entry, "deaf").also}
    captured = {what: paired for what, paired in found.items() if "captured" in what}
    assert {what.rpartition(", ")[2] for what in captured} == {"held out", "trained on"}
    assert any("by a canary" in what for what in captured)
    assert not any("another model" in what for what in captured)
    assert sum(paired.exposure for paired in captured.values()) == 12
    assert sum(paired.old.events for paired in captured.values()) >= 11
    assert all(paired.new.events == 0 and paired.worse == 0 for paired in captured.values())
    # Now the current model is the deaf one, and what it would not have done counts against the new one.
    hearing = (project.root / entry["model_path"]).read_bytes()
    (project.root / entry["model_path"]).write_bytes((project.runs_dir / "deaf" / "candidate.tflite").read_bytes())
    add_run(project, "hearing", hearing)
    (index_path).write_text(json.dumps(index | {"sides": index["sides"] | dict.fromkeys(sides, "test")}))
    worse = retrain.compare(project, entry | {"run": "deaf"}, "hearing")
    assert "False accepts captured by satellites, held out" in {paired.what for paired in worse.decided_by}
    assert worse.outcome == "worse"
    assert worse.reason.startswith("Worse in")
    assert "better in wake words of people" in worse.reason


def test_what_another_model_triggered_counts_either_way(whistles: tuple[Project, dict[str, Any]]) -> None:
    project, entry = whistles
    for number in range(8):
        samples, end_s = spoken(number)
        capture = add(
            project,
            samples,
            f"a-{number}",
            after_s=86_400 * number,
            trigger_s=end_s,
            model="another-0a0b0c0d",
            kind=CaptureKind.CANARY,
        )
        review.judge(project, [capture.id], Verdict.FALSE_ACCEPT, by="anna")
    review.apply_verdicts(project)
    index_path = project.features_dir / toy_run.FEATURE_SET / "index.json"
    index = json.loads(index_path.read_text())
    sides = index["sides"] | {clip.id: "test" for clip in project.catalogue.clips(origin=Origin.CAPTURED)}
    index_path.write_text(json.dumps(index | {"sides": sides}))
    found = retrain.compare(project, entry, "deaf")
    canary = next(paired for paired in found.decided_by if "captured by a canary with another model" in paired.what)
    assert (canary.outcome, canary.exposure, canary.new.events) == ("better", 8, 0)
    assert found.outcome == "worse"  # it hears nobody


def add_trial(project: Project, wakes: list[tuple[bool, bool]], wrong: list[tuple[bool, bool]]) -> None:
    """A canary beside the current model for a day: (the model fired, the canary fired) with what people said."""
    begun = datetime(2026, 11, 1, tzinfo=UTC)
    flash = {"model": "old-11111111", "canary": "new-22222222", "wake_model": "", "backend": "esphome"}
    project.catalogue.put_flash(
        Flash(id="f", device="kitchen", started_at=begun.isoformat(), outcome="verified", **flash)
    )
    row = {"device": "kitchen", "model": "new-22222222", "day": "2026-11-01", "listening_s": 72_000.0}
    project.catalogue.add_exposure(Exposure(**row, lost=0))
    for number, (fired, verdict) in enumerate(
        [*((pair, Verdict.WAKE) for pair in wakes), *((pair, Verdict.FALSE_ACCEPT) for pair in wrong)]
    ):
        at = (begun + timedelta(minutes=number)).isoformat(timespec="milliseconds")
        for which, (kind, model) in enumerate(
            ((CaptureKind.DETECTION, "old-11111111"), (CaptureKind.CANARY, "new-22222222"))
        ):
            if fired[which]:
                upload = f"{kind}-{number}"
                values = {"device": "kitchen", "captured_at": at, "received_at": at, "kind": kind, "model": model}
                capture = Capture(id=f"{which}{number:015d}", upload=upload, duration_s=5.0, path="x.flac", **values)
                project.catalogue.add_capture(capture)
                review.judge(project, [capture.id], verdict, by="anna")


def put_two_models(project: Project) -> None:
    project.catalogue.put_model("old-11111111", {"id": "old-11111111", "run": "r1"})
    project.catalogue.put_model("new-22222222", {"id": "new-22222222", "run": "r2", "offered": True})


def entry_of(project: Project, id: str) -> dict[str, Any]:
    return next(model for model in project.catalogue.models() if model["id"] == id)


def test_a_canary_that_is_worse_in_the_field_is_not_offered_until_verdicts_say_otherwise(project: Project) -> None:
    put_two_models(project)
    add_trial(project, wakes=[(True, True)] * 9, wrong=[(True, True)] + [(False, True)] * 6)
    (weighed,) = retrain.weigh_canaries(project)
    assert weighed.outcome == "worse"
    assert "Worse in false accepts in the field beyond chance" in weighed.reason
    assert "1 (0.05 per hour" in weighed.text()
    assert "→ 7 (0.35 per hour" in weighed.text()
    new = entry_of(project, "new-22222222")
    assert (new["offered"], new["withdrawn"]) == (False, True)
    assert new["canary"]["old-11111111"]["outcome"] == "worse"
    assert retrain._current(project) == entry_of(project, "old-11111111"), "what retraining goes on from"
    assert [model["id"] for model in project.catalogue.models()] == ["new-22222222", "old-11111111"], "in its place"
    # Somebody listens again: it was the wake word, which the old model missed.
    for capture in project.catalogue.captures(kinds=[CaptureKind.CANARY], verdicts=[Verdict.FALSE_ACCEPT]):
        review.judge(project, [capture.id], Verdict.WAKE, by="bea")
    (weighed,) = retrain.weigh_canaries(project)
    assert weighed.outcome == "better"
    new = entry_of(project, "new-22222222")
    assert (new["offered"], new["withdrawn"]) == (True, False)


def test_a_canary_that_hears_fewer_wake_words_is_worse_and_few_events_are_chance(project: Project) -> None:
    put_two_models(project)
    add_trial(project, wakes=[(True, False)] * 5, wrong=[])
    assert [weighed.outcome for weighed in retrain.weigh_canaries(project)] == ["no difference"]
    assert entry_of(project, "new-22222222")["offered"]
    project.catalogue.remove_captures(project.catalogue.captures())
    add_trial(project, wakes=[(True, False)] * 6, wrong=[])
    (weighed,) = retrain.weigh_canaries(project)
    assert "Worse in wake words in the field" in weighed.reason
    assert not entry_of(project, "new-22222222")["offered"]


def test_a_canary_does_not_bring_back_what_was_never_offered_nor_withdraw_what_wakes_already(project: Project) -> None:
    put_two_models(project)
    project.catalogue.update_model("new-22222222", offered=False)
    add_trial(project, wakes=[(False, True)] * 12, wrong=[(True, False)] * 2)
    assert retrain.weigh_canaries(project)[0].outcome == "better"
    assert not entry_of(project, "new-22222222")["offered"]
    project.catalogue.update_model("new-22222222", offered=True)
    add_worse = [capture.id for capture in project.catalogue.captures(kinds=[CaptureKind.CANARY])]
    review.judge(project, add_worse, Verdict.FALSE_ACCEPT, by="bea")
    flash = {"model": "new-22222222", "wake_model": "", "backend": "esphome", "outcome": "verified"}
    project.catalogue.put_flash(Flash(id="g", device="hall", started_at="2026-11-05T00:00:00+00:00", **flash))
    assert retrain.weigh_canaries(project)[0].outcome == "worse"
    assert entry_of(project, "new-22222222")["offered"], "it was flashed all the same"


def test_what_is_not_offered_is_not_flashed_unless_it_is_named_and_stays_so(
    whistles: tuple[Project, dict[str, Any]],
) -> None:
    project, entry = whistles
    assert deploy.newest_model(project).stem == entry["id"]
    export.run(project, run=toy_run.RUN, note={"offered": False, "compared_with": "another"})
    with pytest.raises(DataError, match="no exported model"):
        deploy.newest_model(project)
    assert deploy.find_model(project, str(entry["id"])).stem == entry["id"]
    export.run(project, run=toy_run.RUN)  # as mww-ha run does
    (known,) = project.catalogue.models()
    assert (known["offered"], known["compared_with"]) == (False, "another")
    export.run(project, run=toy_run.RUN, note={"offered": True})
    assert deploy.newest_model(project).stem == entry["id"]
    # The newest of those that are offered.
    project.catalogue.put_model("a-worse-00000000", entry | {"id": "a-worse-00000000", "offered": False})
    assert deploy.newest_model(project).stem == entry["id"]


@pytest.mark.slow
def test_false_accepts_that_people_judged_are_unlearned_and_wake_words_are_not(tmp_path: Path) -> None:
    """A model that never heard falling whistles wakes at them; a fortnight of captures, and it does not."""
    project = write_settings(tmp_path / "home", train={"steps": 150, "batch": 96}, retrain={"steps_share": 1.0})
    add_people(project, lures=0)
    entry = make_model(project)
    manifest = detector.load_manifest(project.root / entry["manifest_path"])
    model = detector.load_model(manifest)
    rng = np.random.default_rng(77)
    for number in range(60):
        whistle = toy_wake.whistle(rng, "falling")
        samples = toy_wake.noise(rng, 4.8, 40.0)
        samples[60_800 - whistle.size : 60_800] += whistle
        found = detector.detect(
            detector.score_samples(model, samples), cutoff=manifest.cutoff, window=manifest.sliding_window
        )
        if found and found[0].time_s > 3.2:  # as the satellite would be triggered
            moment = {"after_s": 86_400 * (number // 3) + 600 * (number % 3), "trigger_s": found[0].time_s}
            capture = add(project, samples, f"a-{number}", model=str(entry["id"]), **moment)
            review.judge(project, [capture.id], Verdict.FALSE_ACCEPT, by="anna")
    assert len(project.catalogue.captures()) >= 30
    proposal = retrain.retrain(project)
    assert proposal.offer
    assert proposal.comparison is not None
    lines = {paired.what: paired for paired in (*proposal.comparison.decided_by, *proposal.comparison.also)}
    held_out, known = (lines[f"False accepts captured by satellites, {place}"] for place in ("held out", "trained on"))
    assert held_out.old.value > 0.9 < known.old.value
    assert known.new.value < 0.3
    assert held_out.new.value < 0.5  # of days that it never heard
    assert held_out.exposure >= 4
    people = lines["Wake words of people"]
    assert people.new.value > 0.9 * people.old.value > 0.7
    assert retrain.OWN_CHOICE in proposal.text()
    assert deploy.newest_model(project).stem == proposal.model != entry["id"]
    project.catalogue.close()


@pytest.mark.slow
def test_wrong_verdicts_make_a_model_that_is_not_offered(tmp_path: Path) -> None:
    """Somebody calls the wake word itself a false accept, again and again, and captures may fill half a batch."""
    reckless = {"steps": 150, "batch": 96, "field_share": 0.5, "field_clip_share": 0.05}
    project = write_settings(
        tmp_path / "home",
        train=reckless,
        split={"test_share": 0.35},
        prepare={"trial_wakes": 40},
        retrain={"steps_share": 1.0, "learning_rate_share": 1.0},
    )
    add_people(project)
    entry = make_model(project)
    for number in range(30):
        samples, end_s = spoken(number)
        capture = add(project, samples, f"a-{number}", after_s=7200.0 * number, model=str(entry["id"]), trigger_s=end_s)
        review.judge(project, [capture.id], Verdict.FALSE_ACCEPT, by="anna")
    proposal = retrain.retrain(project)
    assert (proposal.outcome, proposal.offer) == ("worse", False)
    assert deploy.newest_model(project).stem == entry["id"]
    assert retrain.count_new_verdicts(project) == 0
    assert retrain.due(project, datetime.now(UTC)) == ""
    assert not pipeline.is_current(project, "train")
    assert (project.root / entry["model_path"]).exists()
    assert "not offered" in proposal.text() or "not exported" in proposal.text()
    # Asked for once more, the same run is found worse again; nothing is trained twice.
    began = time.monotonic()
    forced = retrain.retrain(project, force=True)
    assert time.monotonic() - began < 30
    assert (forced.run, forced.outcome) == (proposal.run, "worse")
    assert forced.offer is bool(forced.model)
    if forced.offer:
        assert deploy.newest_model(project).stem == forced.model
    project.catalogue.close()
