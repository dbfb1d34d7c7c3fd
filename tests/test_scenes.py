"""A scene is sound that never stops, words in it lie where it says, and the same generator gives the same scene."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from mww_ha.config import AugmentSettings
from mww_ha.prepare import augment, features
from mww_ha.prepare.scenes import CONDITIONS, Condition, Pool, Scene, SceneMaker, Word
from mww_ha.schema import SAMPLE_RATE_HZ, Label, Origin
from mww_ha.store import open_project

RATE = SAMPLE_RATE_HZ
PLAIN = AugmentSettings(
    response=(0.0, 0.0, 8.0), saturation=(0.0, 1.0, 4.0), clipping=(0.0, 0.3, 0.9), reverb_probability=0.0,
    quiet_share=1.0, noise_share=0.0, colour_share=0.0, babble_share=0.0, talker_share=0.0, run_on_share=0.0,
)  # fmt: skip
"""No room and no microphone: what is left can be measured."""


@pytest.fixture(scope="session")
def pool(prepared_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Pool:
    project = open_project(prepared_root)
    path = tmp_path_factory.mktemp("pool") / "pool.i16"
    features.build_pool(prepared_root, project.catalogue.clips(), path)
    project.catalogue.close()
    return features.open_pool(prepared_root, path)


@pytest.fixture(scope="session")
def maker(pool: Pool) -> SceneMaker:
    return SceneMaker(pool, AugmentSettings(), scene_s=12.0)


@pytest.fixture(scope="session")
def plain(pool: Pool) -> SceneMaker:
    return SceneMaker(pool, PLAIN, scene_s=20.0)


def longest_silence(samples: np.ndarray) -> int:
    """Longest run of samples that are exactly zero."""
    return max((len(list(run)) for zero, run in itertools.groupby((samples == 0).tolist()) if zero), default=0)


def scenes(maker: SceneMaker, kind: str, count: int) -> list[Scene]:
    return [maker.make(kind, np.random.default_rng([3, n])) for n in range(count)]


@pytest.mark.parametrize("kind", ["wake", "confusable", "speech", "noise"])
def test_a_scene_is_running_sound_of_its_length(maker: SceneMaker, kind: str) -> None:
    for scene in scenes(maker, kind, 6):
        assert scene.samples.dtype == np.int16
        assert len(scene.samples) == 12 * RATE
        assert longest_silence(scene.samples) < 60  # 4 ms
        blocks = scene.samples[: 12 * RATE // 1600 * 1600].reshape(-1, 1600)
        assert (np.abs(blocks).max(axis=1) > 0).all()


@pytest.mark.parametrize("kind", ["wake", "confusable"])
def test_the_first_word_comes_after_four_seconds_of_background(maker: SceneMaker, kind: str) -> None:
    for scene in scenes(maker, kind, 6):
        assert scene.events
        assert min(event.start for event in scene.events) >= 4 * RATE


def test_a_noise_scene_says_nothing(maker: SceneMaker) -> None:
    assert all(not scene.events for scene in scenes(maker, "noise", 3))


def test_the_mix_of_labels_is_that_of_the_kind(plain: SceneMaker) -> None:
    labels = {kind: {e.word.label for s in scenes(plain, kind, 8) for e in s.events} for kind in ("wake", "confusable")}
    assert labels["wake"] == {Label.WAKE, Label.CONFUSABLE, Label.SPEECH}
    assert labels["confusable"] == {Label.CONFUSABLE, Label.SPEECH}
    assert {e.word.label for s in scenes(plain, "speech", 4) for e in s.events} == {Label.SPEECH}


def test_the_same_generator_gives_the_same_scene(maker: SceneMaker) -> None:
    for kind in ("wake", "speech", "noise"):
        one, same, other = (maker.make(kind, np.random.default_rng(seed)) for seed in (4, 4, 5))
        np.testing.assert_array_equal(one.samples, same.samples)
        assert one.events == same.events
        assert (one.samples != other.samples).any()


def test_sound_is_where_words_are(plain: SceneMaker) -> None:
    ends = []
    for scene in scenes(plain, "wake", 5):
        said = np.zeros(len(scene.samples), bool)
        for event in scene.events:
            assert 0 < event.end - event.start <= len(scene.samples)
            said[event.start : event.end + RATE // 10] = True
        power = np.square(scene.samples.astype(np.float64))
        background = np.sqrt(power[~said].mean())
        for event in scene.events:
            assert np.sqrt(power[event.start : event.end].mean()) > 3 * background
            # It ends where it says: what follows within the pause is background again.
            after = power[event.end + RATE // 10 : event.end + RATE // 5]
            assert np.sqrt(after.mean()) < 3 * background
            ends.append(np.sqrt(power[event.end - RATE * 6 // 100 : event.end].mean()) / background)
    # The last 60 ms are still something said, if often quietly.
    assert np.mean(np.array(ends) > 1.5) > 0.8


def test_words_do_not_overlap_and_end_within_the_scene(maker: SceneMaker) -> None:
    for kind in ("wake", "speech"):
        for scene in scenes(maker, kind, 6):
            spans = [(event.start, event.end) for event in scene.events]
            assert spans == sorted(spans)
            assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
            assert spans[-1][1] < len(scene.samples)


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_trial_says_each_word_once_in_its_condition(plain: SceneMaker, pool: Pool, name: str) -> None:
    words = [word for word in pool.words if word.label is Label.WAKE][:5]
    before = plain.samples
    scene = plain.make_trial(words, CONDITIONS[name], np.random.default_rng(2), 2.0)
    assert plain.samples == before
    assert [event.word for event in scene.events] == words
    assert scene.events[0].start >= 4 * RATE
    assert longest_silence(scene.samples) < 60
    for one, two in itertools.pairwise(scene.events):
        assert two.start - one.end >= 2 * RATE
    for event, word in zip(scene.events, words, strict=True):
        assert event.end - event.start == word.spoken


@pytest.mark.parametrize("snr_db", [5.0, 15.0, 25.0])
def test_a_scene_has_the_signal_to_noise_ratio_of_its_condition(plain: SceneMaker, pool: Pool, snr_db: float) -> None:
    words = [word for word in pool.words if word.label is Label.WAKE][:10]
    condition = Condition(background="babble", snr_db=snr_db, reverb=False)
    scene = plain.make_trial(words, condition, np.random.default_rng(2), 2.0)
    sound = scene.samples.astype(np.float64)
    said = np.zeros(len(sound), bool)
    for event in scene.events:
        said[event.start : event.end + RATE // 10] = True
    noise = np.mean(sound[~said] ** 2)
    active = np.concatenate(
        [
            augment.find_active(pool.load(word)[None, : word.spoken])[0]
            * np.square(sound[event.start : event.start + word.spoken])
            for word, event in zip(words, scene.events, strict=True)
        ]
    )
    found_db = 10 * np.log10((active[active > 0].mean() - noise) / noise)
    assert found_db == pytest.approx(snr_db, abs=1.5)  # babble is not equally loud everywhere


def test_the_level_of_a_scene_is_in_its_range(pool: Pool) -> None:
    loud = SceneMaker(pool, AugmentSettings(level_dbfs=(-30.0, -29.0)), scene_s=8.0)
    for scene in scenes(loud, "wake", 4):
        level_dbfs = 10 * np.log10(np.mean(np.square(scene.samples / 32768)))
        assert -30.2 < level_dbfs < -28.8


def test_a_pool_holds_the_clips_without_their_silence(pool: Pool, prepared_root: Path) -> None:
    project = open_project(prepared_root)
    clips = {clip.id: clip for clip in project.catalogue.clips()}
    project.catalogue.close()
    assert {word.clip for word in pool.words} <= set(clips)
    assert len(pool.words) >= 0.95 * len(clips)
    for word in pool.words:
        assert 0.05 * RATE <= word.spoken <= word.length <= clips[word.clip].duration_s * RATE + 1
        assert word.label is clips[word.clip].label
        assert word.speaker == clips[word.clip].speaker
        assert word.source == "espeak"
    assert {clip.origin for clip in clips.values()} == {Origin.SYNTHESIZED}


def test_no_numerous_voice_drowns_the_others() -> None:
    def word(source: str, speaker: str, n: int) -> Word:
        return Word(
            clip=f"{speaker}{n}", label=Label.WAKE, source=source, speaker=speaker, start=0, length=10, spoken=10
        )

    words = (
        [word("a", "a1", n) for n in range(90)] + [word("a", "a2", 0)] + [word("recorded", "ada", n) for n in (1, 2)]
    )
    pool = Pool(Path("/dev/null"), words, [], np.zeros((0, 8000), np.float32))
    rng = np.random.default_rng(1)
    drawn = [pool.draw(Label.WAKE, rng, 0.5) for _ in range(4000)]
    share = {name: sum(w.speaker == name for w in drawn) / 4000 for name in ("a1", "a2", "ada")}
    assert share["ada"] == pytest.approx(0.5, abs=0.04)
    assert share["a1"] == pytest.approx(0.25, abs=0.04)
    assert share["a2"] == pytest.approx(0.25, abs=0.04)
    assert {w.source for w in (pool.draw(Label.WAKE, rng, 0.0) for _ in range(200))} == {"a"}
    assert {w.source for w in (pool.draw(Label.WAKE, rng, 1.0) for _ in range(200))} == {"recorded"}


@pytest.mark.parametrize("name", ["quiet", "noise", "babble", "talker", "colour"])
@pytest.mark.parametrize("seed", range(8))
def test_every_background_fills_its_scene(maker: SceneMaker, name: str, seed: int) -> None:
    sound = maker.make_background(name, np.random.default_rng(seed))
    assert sound.shape == (12 * RATE,)
    assert np.isfinite(sound).all()
    levels = np.sqrt(np.mean(sound[: 12 * RATE].reshape(12, RATE) ** 2, axis=1))
    assert levels.min() > 0


def test_talk_has_no_second_of_silence_wherever_its_last_word_ended(maker: SceneMaker) -> None:
    for seed in range(60):
        sound = maker.talk(1, np.random.default_rng(seed))
        assert sound.shape == (12 * RATE,)
        heard = np.flatnonzero(sound)
        assert len(heard), "somebody talks"
        gaps = np.diff(np.append(heard, heard[0] + len(sound)))
        assert gaps.max() < RATE, f"seed {seed}: {gaps.max() / RATE:.2f} s of silence"


def test_a_short_recorded_background_runs_on_without_a_step(pool: Pool) -> None:
    slow = (np.sin(np.arange(3 * RATE) / RATE * 2 * np.pi * 5) * 8000).astype(np.int16)
    noise = Word(clip="n", label=Label.NOISE, source="recorded", speaker="n", start=0, length=3 * RATE, spoken=3 * RATE)
    own = Pool(Path("/dev/null"), [], [noise], np.zeros((0, 8000), np.float32))
    own.samples = slow
    loop = SceneMaker(own, AugmentSettings(), scene_s=12.0).make_background("noise", np.random.default_rng(0))
    assert loop.shape == (12 * RATE,)
    steepest = np.abs(np.diff(slow / 32768)).max()
    assert np.abs(np.diff(loop)).max() < 3 * steepest
