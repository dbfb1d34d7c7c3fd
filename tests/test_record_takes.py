"""A take of the phrase is taken, a spoiled one is refused for the right reason, and doubts are only hints."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import toy_wake
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from spoken_words import RATE, VOICES, room, take, word

from mww_ha import audio
from mww_ha.config import RecordSettings
from mww_ha.record import takes
from mww_ha.record.takes import Fault, check_take

DEFAULTS = RecordSettings()


def check(samples: audio.Samples, **more):
    return check_take(samples, **{"phrase": "hey kitchen", "settings": DEFAULTS, **more})


def faults(samples: audio.Samples, **more) -> set[Fault]:
    return {reason.fault for reason in check(samples, **more).reasons}


@pytest.mark.parametrize("voice", VOICES)
def test_a_good_take_is_cut_to_its_word_with_a_margin(voice):
    report = check(take(voice))
    assert report.good, report.reasons
    assert report.verdict == "good"
    size = word(voice=voice).size
    start, end = round(0.8 * RATE), round(0.8 * RATE) + size
    assert start - 0.2 * RATE <= report.start <= start
    assert end <= report.end <= end + 0.3 * RATE
    assert report.level_dbfs == pytest.approx(-20, abs=1.5)
    assert report.over_background_db == pytest.approx(45, abs=3)


def test_silence_and_hiss_hold_no_word():
    assert faults(np.zeros(RATE, np.int16)) == {Fault.EMPTY}
    assert faults(np.zeros(0, np.int16)) == {Fault.EMPTY}
    assert faults(room(2.0)) == {Fault.EMPTY}
    assert faults(room(2.0, dbfs=-30)) == {Fault.NOISY}


def test_what_is_too_quiet_is_told_with_its_level():
    report = check((take().astype(float) * 0.02).astype(np.int16))
    assert Fault.QUIET in {reason.fault for reason in report.reasons}
    assert "dBFS" in report.reasons[0].text
    assert "closer" in report.reasons[0].text


def test_clipping_is_found_also_when_it_was_turned_down_afterwards():
    loud = take(gain=12.0)
    assert faults(loud) == {Fault.CLIPPED}
    assert faults((loud * 0.3).astype(np.int16)) == {Fault.CLIPPED}


def test_a_word_in_noise_of_its_own_level_is_refused():
    noisy = take().astype(np.int32) + room(take().size / RATE, 5, -22)
    assert Fault.NOISY in faults(noisy.astype(np.int16))


def test_half_a_word_a_long_sentence_and_two_words_are_refused():
    spoken, quiet = word(), room(0.8)
    assert faults(np.concatenate([quiet, spoken[: spoken.size // 3], quiet])) == {Fault.SHORT}
    sentence = word("hey kitchen turn on the light above the table please and close the blinds")
    assert Fault.LONG in faults(np.concatenate([quiet, sentence, quiet]))
    assert Fault.SEVERAL in faults(np.concatenate([take("m1"), take("f2")]))


def test_a_word_that_begins_or_ends_outside_is_refused():
    spoken, quiet = word("hello kitchen"), room(0.8)
    third = spoken.size // 3
    assert Fault.CUT in faults(np.concatenate([spoken[third:], quiet]))
    report = check(np.concatenate([quiet, spoken[:-third]]))
    assert Fault.CUT in {reason.fault for reason in report.reasons}
    assert any("end is cut" in reason.text for reason in report.reasons)


def test_a_soft_sound_beside_the_word_is_background_and_not_a_second_word():
    spoken = word()
    click = (word("tock", "f2") * 0.1).astype(np.int16)
    samples = np.concatenate([room(0.5), click, room(0.9), spoken, room(0.8)])
    report = check(samples)
    assert report.good, report.reasons
    assert report.start > (0.5 + 0.5) * RATE


def test_samples_that_are_known_to_be_missing_refuse_a_take():
    assert faults(take(), holes=True) == {Fault.HOLES}


def test_the_same_recording_is_refused_by_name_in_whatever_form_it_comes_again():
    first = take()
    report = check(first)
    earlier = [("Monday", first[report.start : report.end])]
    again = check(first, earlier=earlier)
    assert {reason.fault for reason in again.reasons} == {Fault.DUPLICATE}
    assert "Monday" in again.reasons[0].text
    buffer = io.BytesIO()
    soundfile.write(buffer, audio.int16_to_float(first[4000:-4000]) * 0.5, RATE, format="MP3")
    buffer.seek(0)
    as_mp3 = audio.float_to_int16(soundfile.read(buffer, dtype="float32")[0])
    assert faults(as_mp3, earlier=earlier) == {Fault.DUPLICATE}
    assert check(take("f2"), earlier=earlier).good


def test_another_word_is_no_reason_but_a_hint():
    assert check(take(), transcript="Hey, kitchen!").hints == ()
    assert check(take(), transcript="hey kitschen").hints == ()
    report = check(take(), transcript="what a lovely day")
    assert report.good
    assert report.hints == ("speech-to-text read 'what a lovely day'",)
    assert check(take(), transcript="").hints == ("speech-to-text read nothing",)


def test_a_model_that_hears_nothing_makes_a_hint_and_one_that_wakes_makes_none(tmp_path):
    doubt = takes.make_doubt(toy_wake.write_model(tmp_path))
    rng = np.random.default_rng(7)

    def whistled(sound: str) -> takes.TakeReport:
        quiet = toy_wake.noise(rng, 0.8, 40.0)
        samples = np.concatenate([quiet, toy_wake.whistle(rng, sound), quiet])
        return check(samples, phrase="fiu", doubt=doubt)

    heard = [whistled("rising") for _ in range(3)]
    unheard = [check(take(voice), doubt=doubt) for voice in VOICES[:3]]
    assert all(report.good for report in heard + unheard)
    assert [report.hints for report in heard] == [()] * 3
    assert all("the present model hears no wake word" in report.hints[0] for report in unheard)


@pytest.mark.parametrize(
    ("phrase", "syllables"),
    [("snowboy", 2), ("Hey Küche", 3), ("привет кухня", 4), ("你好小智", 4), ("שלום", 2), ("hmm", 1), ("!", 1)],
)
def test_syllables_are_counted_in_any_script(phrase, syllables):
    assert takes.count_syllables(phrase) == syllables


@given(st_numpy.arrays(np.int16, st.integers(0, 8000)), st.text(max_size=8))
@settings(max_examples=60, deadline=None)
def test_whatever_comes_gets_a_verdict_inside_its_bounds(samples, phrase):
    report = check(samples, phrase=phrase)
    assert 0 <= report.start <= report.end <= samples.size
    assert report.good == (not report.reasons)
    assert all(reason.text for reason in report.reasons)


def test_limits_are_settings():
    quiet = (take().astype(float) * 0.02).astype(np.int16)
    assert Fault.QUIET not in faults(quiet, settings=replace(DEFAULTS, quiet_dbfs=-70.0))
