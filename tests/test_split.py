"""No speaker, session, take or near-duplicate is on two sides, and growth never takes anybody out of training."""

import dataclasses
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mww_ha import audio
from mww_ha.config import SplitSettings
from mww_ha.errors import DataError, SplitLeakError
from mww_ha.prepare import split
from mww_ha.schema import Clip, Label, Origin, Split

SETTINGS = SplitSettings()
ALL = set(Split)


def clip(number, speaker="", label=Label.WAKE, origin=Origin.SYNTHESIZED, **fields):
    return Clip(
        id=f"c{number}", path=f"audio/{number}.flac", sha256=f"s{number}", label=label, origin=origin,
        duration_s=1.0, speaker=speaker, **fields,
    )  # fmt: skip


def no_load(clip):
    raise AssertionError(f"{clip.id} need not be loaded")


def sides_of(clips, assignment, key=lambda c: c.speaker):
    found = defaultdict(set)
    for c in clips:
        found[key(c)].add(assignment[c.id])
    return found


def test_a_side_depends_on_the_name_and_the_salt_alone_and_keeps_the_shares():
    sides = [split.assign_split(f"speaker {n}", SETTINGS) for n in range(20_000)]
    for side, share in [(Split.TEST, 0.15), (Split.VALIDATION, 0.15), (Split.TRAIN, 0.7)]:
        assert sides.count(side) / 20_000 == pytest.approx(share, abs=0.01)
    salted = dataclasses.replace(SETTINGS, salt="other")
    moved = sum(split.assign_split(f"speaker {n}", salted) is not sides[n] for n in range(1000))
    assert 300 < moved < 700
    assert split.assign_split("ann", SETTINGS) is split.assign_split("ann", SETTINGS)


def test_hashes_do_not_change_between_versions():
    assert split.hash_share("speaker ann", "") == pytest.approx(0.0909250798, abs=1e-9)


@pytest.mark.parametrize(
    ("speaker", "keys"),
    [
        ("ann", ("ann",)),
        ("espeak:gmw/en+f2", ("espeak:+f2",)),
        ("espeak:gmw/en-US+f2", ("espeak:+f2",)),
        ("espeak-ng:roa/fr", ("espeak-ng:+",)),
        ("piper:en_US-libritts:12", ("piper:en_US-libritts:12",)),
        ("piper:en_US-libritts:3~7", ("piper:en_US-libritts:3", "piper:en_US-libritts:7")),
        ("a~b", ("a~b",)),
    ],
)
def test_a_voice_is_held_out_by_its_timbre(speaker, keys):
    assert split.voice_keys(speaker) == keys


people = st.lists(st.sampled_from([f"p{n}" for n in range(40)]), min_size=3, unique=True)


@settings(deadline=None, max_examples=60)
@given(people, people)
def test_growth_never_takes_a_speaker_out_of_training(first, more):
    clips = [clip(name, name) for name in first]
    natural = {split.assign_split(f"speaker {name}", SETTINGS) for name in first}
    before = split.split_clips(clips, SETTINGS, no_load)
    grown = clips + [clip(name, name) for name in more if name not in first]
    after = split.split_clips(grown, SETTINGS, no_load)
    assert set(before.values()) == set(after.values()) == ALL
    if Split.TRAIN in natural:  # otherwise somebody was lent to the training side
        assert all(after[id] is Split.TRAIN for id, side in before.items() if side is Split.TRAIN)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_nothing_that_belongs_together_is_on_two_sides(data):
    names = st.sampled_from(["", *(f"p{n}" for n in range(12)), "espeak:gmw/en+f1", "espeak:gmw/de+f1", "piper:v:1~2"])
    few = st.sampled_from(["", "", "", "a", "b"])
    clips = [clip(f"base{n}", f"base{n}") for n in range(5)]
    for number in range(data.draw(st.integers(1, 30))):
        parent = data.draw(st.sampled_from(["", "", "base1", *(f"c{n}" for n in range(number))]))
        label = data.draw(st.sampled_from(list(Label)))
        clips.append(clip(number, data.draw(names), label, session=data.draw(few), take=data.draw(few), parent=parent))
    assignment = split.split_clips(clips, SETTINGS, no_load)
    assert set(assignment) == {c.id for c in clips}
    assert {assignment[c.id] for c in clips if c.label is Label.WAKE} == ALL
    for c in clips:
        for other in clips:
            together = (
                (c.speaker and set(split.voice_keys(c.speaker)) & set(split.voice_keys(other.speaker)))
                or (c.take and c.take == other.take)
                or (c.session and c.session == other.session and not c.speaker and not other.speaker)
                or c.parent == other.id
            )
            assert not together or assignment[c.id] is assignment[other.id]
    shuffled = data.draw(st.permutations(clips))
    assert split.split_clips(shuffled, SETTINGS, no_load) == assignment


def test_known_speakers_of_one_session_may_be_parted():
    clips = [clip(n, f"p{n}", session="party") for n in range(30)]
    assert set(split.split_clips(clips, SETTINGS, no_load).values()) == ALL


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_speakers_is_an_error_that_counts_them(count):
    clips = [clip(f"{n}-{take}", f"p{n}") for n in range(count) for take in range(10)]
    clips += [clip(f"n{n}", label=Label.NOISE) for n in range(10)]
    with pytest.raises(DataError, match=f"has {count} speaker") as caught:
        split.split_clips(clips, SETTINGS, no_load)
    assert "--speaker" in caught.value.hint


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_every_label_and_every_engine_with_three_voices_is_on_every_side(salt):
    clips = [clip(f"e{n}", f"espeak:gmw/en+m{n}") for n in range(8)]
    clips += [clip(f"f{n}", f"flite:{n}") for n in range(3)]
    clips += [clip(f"p{n}", f"piper:v:{n}") for n in range(4)]
    clips += [clip(f"q{n}", f"piper:v:{n}", Label.CONFUSABLE) for n in range(4)]
    clips += [clip(f"r{n}", label=Label.RIR) for n in range(4)]
    clips += [clip(f"n{n}", label=Label.NOISE) for n in range(3)]
    clips += [clip(f"s{n}", f"lone:{n}") for n in range(2)]
    assignment = split.split_clips(clips, dataclasses.replace(SETTINGS, salt=str(salt)), no_load)
    for prefix in "efpqrn":
        assert {assignment[c.id] for c in clips if c.id.startswith(f"c{prefix}")} == ALL, prefix


def test_speakers_named_in_always_train_are_never_held_out():
    clips = [clip(n, f"p{n}") for n in range(60)]
    held = [c.speaker for c in clips if split.assign_split(f"speaker {c.speaker}", SETTINGS) is not Split.TRAIN]
    chosen = dataclasses.replace(SETTINGS, always_train=tuple(held[:3]))
    assignment = split.split_clips(clips, chosen, no_load)
    assert {assignment[c.id] for c in clips if c.speaker in held[:3]} == {Split.TRAIN}


def test_a_leak_is_an_error_that_names_speaker_and_clips():
    a, b = clip(1, "ann"), clip(2, "ann")
    with pytest.raises(SplitLeakError, match=r"speaker ann is on two sides: clip c1 .* train, clip c2 .* test"):
        split.check_no_leak({"c1": Split.TRAIN, "c2": Split.TEST}, [a, b])
    split.check_no_leak({"c1": Split.TEST, "c2": Split.TEST}, [a, b])


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"speaker": "espeak:gmw/en+f1"}, {"speaker": "espeak:gmw/de+f1"}),
        ({"speaker": "a", "take": "t"}, {"speaker": "b", "take": "t"}),
        ({"session": "s"}, {"session": "s"}),
        ({}, {"parent": "c1"}),
    ],
)
def test_every_kind_of_leak_is_found(one, two):
    with pytest.raises(SplitLeakError):
        split.check_no_leak({"c1": Split.TRAIN, "c2": Split.VALIDATION}, [clip(1, **one), clip(2, **two)])


def test_a_near_duplicate_on_two_sides_is_a_leak_and_a_clip_without_a_side_an_error():
    with pytest.raises(SplitLeakError, match="near-duplicate of c1"):
        split.check_no_leak({"c1": Split.TRAIN, "c2": Split.TEST}, [clip(1, "a"), clip(2, "b")], [["c1", "c2"]])
    with pytest.raises(DataError, match=r"c2 .* has no side"):
        split.check_no_leak({"c1": Split.TRAIN}, [clip(1, "a"), clip(2, "b")])


def utterance(seed, phrase=0):
    """A second of something like speech: a buzz through moving resonances; the phrase sets the envelope, the seed the
    pitch, the timing and the voice.
    """
    rng, words = np.random.default_rng(seed), np.random.default_rng(1000 + phrase)
    n = 16000
    t = np.arange(n) / 16000
    pitch = rng.uniform(90, 250) * (1 + 0.1 * np.interp(t, np.linspace(0, 1, 6), rng.normal(0, 1, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / 16000
    knots = np.linspace(0, 1, 9) + np.concatenate([[0], rng.normal(0, 0.01, 7), [0]])
    level = np.interp(t, knots, np.concatenate([[0], words.uniform(0.1, 1, 7), [0]]))
    resonance = np.interp(t, knots, words.uniform(300, 2500, 9)) * rng.uniform(0.9, 1.1)
    buzz = sum(np.sin(k * phase) * np.exp(-(((k * pitch - resonance) / 400) ** 2)) for k in range(1, 30))
    return audio.float_to_int16(0.2 * level * buzz + rng.normal(0, 1e-4, n))


def padded(samples, before, after):
    return np.concatenate([np.zeros(before, np.int16), samples, np.zeros(after, np.int16)])


def as_mp3(samples):
    import io

    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, samples, 16000, format="MP3")
    buffer.seek(0)
    return soundfile.read(buffer, dtype="int16")[0]


ALTERED = {
    "the same": lambda x: x,
    "quieter": lambda x: (x * 0.2).astype(np.int16),
    "turned over": lambda x: (-x.astype(np.int32)).clip(-32768, 32767).astype(np.int16),
    "later by part of a frame": lambda x: padded(x, 237, 0),
    "with silence around": lambda x: padded(x, 16000, 9000),
    "in noise": lambda x: audio.float_to_int16(x / 32768 + np.random.default_rng(9).normal(0, 0.003, x.size)),
    "with an offset": lambda x: (x.astype(np.int32) + 800).clip(-32768, 32767).astype(np.int16),
    "through an encoder": as_mp3,
}


@pytest.mark.parametrize("how", ALTERED)
def test_a_copy_is_found_however_it_was_altered(how):
    sounds = {f"c{seed}": utterance(seed) for seed in range(12)}
    sounds["ccopy"] = ALTERED[how](sounds["c4"])
    clips = [clip(id[1:], origin=Origin.IMPORTED) for id in sounds]
    assert split.find_near_duplicates(clips, lambda c: sounds[c.id]) == [["c4", "ccopy"]]


def test_different_people_who_say_the_same_are_not_copies():
    sounds = {f"c{seed}": utterance(seed, phrase=seed % 3) for seed in range(90)}
    clips = [clip(id[1:], origin=Origin.IMPORTED) for id in sounds]
    assert split.find_near_duplicates(clips, lambda c: sounds[c.id]) == []


def test_silence_is_not_a_copy_of_silence():
    clips = [clip(n, origin=Origin.IMPORTED) for n in range(3)]
    assert split.find_near_duplicates(clips, lambda _: np.zeros(16000, np.int16)) == []


@pytest.mark.parametrize("size", [1, 15, 16, 17, 511, 512, 513, 1600])
def test_very_short_clips_can_be_compared(size):
    sounds = {"c1": utterance(1)[4000 : 4000 + size], "c2": utterance(2)[4000 : 4000 + size]}
    split.find_near_duplicates([clip(1), clip(2)], lambda c: sounds[c.id])


def test_copies_among_different_speakers_go_to_one_side():
    sounds = {f"c{n}": utterance(n % 10) for n in range(40)}
    clips = [clip(n, f"p{n}", origin=Origin.RECORDED) for n in range(40)]
    assignment = split.split_clips(clips, SETTINGS, lambda c: sounds[c.id])
    for base in range(10):
        assert len({assignment[f"c{n}"] for n in range(base, 40, 10)}) == 1
    assert set(assignment.values()) == ALL
