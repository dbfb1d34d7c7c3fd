"""A confusable sounds like the wake phrase, by a distance that is a distance, and never is the phrase."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mww_ha.errors import InputError, PhraseError
from mww_ha.synthesize import confusables, espeak, phrases, voices
from mww_ha.synthesize.confusables import (
    HOMOPHONE_COST,
    KINDS,
    distance,
    edit_costs,
    show_confusables,
    split_phones,
    substitute_cost,
)

PHRASES = [("hey kitchen", "en"), ("hallo küche", "de"), ("dis maison", "fr"), ("hoi keuken", "nl"), ("snowboy", "en")]
_SOUNDS = st.sampled_from(sorted([*confusables._CONSONANTS, *confusables._VOWELS, "iː", "ɑː", "ɔ̃"]))
_TEXTS = st.lists(_SOUNDS, min_size=1, max_size=9).map(tuple)


def sounds_of(text: str, language: str) -> tuple[str, ...]:
    plain = text.removeprefix("[[").removesuffix("]]")
    assert plain == text, "respelled texts have no plain sounds"
    said = espeak.load().phonemes([text], voices.phoneme_voice(language))[0]
    return split_phones(phone for word in said for phone in word)


@given(_SOUNDS, _SOUNDS)
def test_two_sounds_are_as_far_apart_one_way_as_the_other(a: str, b: str) -> None:
    assert substitute_cost(a, b) == substitute_cost(b, a)
    assert 0 <= substitute_cost(a, b) <= 1
    assert substitute_cost(a, a) == 0


@given(_TEXTS, _TEXTS)
@settings(max_examples=60, deadline=None)
def test_distance_is_symmetric_and_nothing_only_for_the_same(a: tuple[str, ...], b: tuple[str, ...]) -> None:
    assert distance(a, b) == pytest.approx(distance(b, a))
    assert distance(a, a) == 0
    assert distance(a, b) >= 0


@given(_TEXTS, st.lists(_TEXTS, min_size=1, max_size=6))
@settings(max_examples=60, deadline=None)
def test_costs_of_many_texts_at_once_are_those_of_each_alone(
    phrase: tuple[str, ...], texts: list[tuple[str, ...]]
) -> None:
    together = edit_costs(phrase, texts)
    assert together == pytest.approx([edit_costs(phrase, [text])[0] for text in texts])


@given(_TEXTS, _TEXTS, _TEXTS)
@settings(max_examples=60, deadline=None)
def test_a_phrase_inside_a_longer_text_is_found(
    before: tuple[str, ...], phrase: tuple[str, ...], after: tuple[str, ...]
) -> None:
    assert edit_costs(phrase, [before + phrase + after], anywhere=True)[0] == pytest.approx(0)


def test_sounds_that_people_mix_up_are_nearer_than_others() -> None:
    assert substitute_cost("p", "b") < substitute_cost("p", "m") < substitute_cost("p", "ɑ")
    assert substitute_cost("s", "ʃ") < substitute_cost("s", "ɡ")
    assert substitute_cost("i", "ɪ") < substitute_cost("i", "ɑ")


def test_words_of_known_nearness_come_in_the_right_order() -> None:
    kitchen = sounds_of("hey kitchen", "en")
    order = ["hey kitten", "hey chicken", "good morning everyone"]
    distances = [distance(kitchen, sounds_of(text, "en")) for text in order]
    assert distances == sorted(distances)
    assert distances[0] < 0.2 < 0.4 < distances[2]


def test_diphthongs_come_apart_and_affricates_stay() -> None:
    assert split_phones(["h", "ˈeɪ", "tʃ", "iː", "ɔ̃"]) == ("h", "e", "ɪ", "tʃ", "iː", "ɔ̃")


@pytest.mark.parametrize(("phrase", "language"), PHRASES)
def test_the_phrase_and_its_homophones_are_never_among_them(phrase: str, language: str) -> None:
    target = sounds_of(phrase, language)
    found = show_confusables(phrase, language, 120)
    assert len(found) == 120
    assert len({c.text for c in found}) == 120
    for confusable in found:
        assert not phrases.contains_phrase(confusable.text, phrase)
        assert confusable.distance > 0
        if "[[" not in confusable.text and " " not in confusable.text:
            assert edit_costs(target, [sounds_of(confusable.text, language)], anywhere=True)[0] >= HOMOPHONE_COST - 1e-6


@pytest.mark.parametrize(("phrase", "language"), PHRASES)
def test_all_kinds_are_there(phrase: str, language: str) -> None:
    kinds = {confusable.kind for confusable in show_confusables(phrase, language, 150)}
    expected = set(KINDS) - ({"swapped"} if " " not in phrase else set())
    assert kinds == expected


def test_they_are_the_same_every_time_and_sorted_by_distance() -> None:
    first = show_confusables("hey kitchen", "en", 80)
    assert first == show_confusables("hey kitchen", "en", 80)
    assert [c.distance for c in first] == sorted(c.distance for c in first)


def test_the_words_alone_and_in_the_wrong_order_are_always_there() -> None:
    texts = {confusable.text for confusable in show_confusables("hey kitchen", "en", 40)}
    assert {"hey", "kitchen", "kitchen hey"} <= texts


def test_words_that_everybody_would_name_are_found() -> None:
    texts = {confusable.text for confusable in show_confusables("hey kitchen", "en", 400)}
    assert texts & {"hey kitten", "hey chicken", "hey kitchener", "a kitchen", "the kitchen"}


@pytest.mark.parametrize("phrase", ["", "  ", "!!!", "12", "hey <b>kitchen</b>", "a" * 41, "hey\x00kitchen", "hey 🙂"])
def test_a_phrase_with_nothing_to_say_is_refused_with_a_way_out(phrase: str) -> None:
    with pytest.raises(PhraseError) as error:
        show_confusables(phrase, "en", 10)
    assert error.value.hint


def test_a_phrase_in_foreign_letters_is_refused() -> None:
    with pytest.raises(PhraseError, match="letters"):
        phrases.check_phrase("привет кухня", "en")


def test_a_language_nobody_speaks_is_refused_with_those_that_are() -> None:
    with pytest.raises(InputError) as error:
        phrases.check_phrase("hey kitchen", "xx")
    assert "en" in error.value.hint


def test_a_short_phrase_is_allowed_and_warned_of() -> None:
    assert "single syllable" in phrases.check_phrase("hey", "en").warnings[0]
    assert phrases.check_phrase("hey kitchen", "en").warnings == ()
    assert phrases.check_phrase("hey kitchen", "en").phonemes == ("h", "ˈeɪ", "k", "ˈɪ", "tʃ", "ə", "n")
