"""What is said: the wake phrase in its spellings, short utterances and sentences of everyday words."""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mww_ha.errors import MissingDependencyError, PhraseError, how_to_install

MAX_PHRASE_CHARACTERS = 40
"""Longer ones last more than 3 s, more than the network looks back."""

MIN_PHONEMES = 4
"""Below this almost any speech contains the phrase."""

_VOCABULARY = 20_000
_FUNCTION_WORDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedPhrase:
    """A wake phrase that can be said."""

    text: str
    words: tuple[tuple[str, ...], ...]  # IPA phonemes of each word, stress marks in front of vowels
    warnings: tuple[str, ...]

    @property
    def phonemes(self) -> tuple[str, ...]:
        """All of them in a row."""
        return tuple(phone for word in self.words for phone in word)


def check_phrase(phrase: str, language: str) -> CheckedPhrase:
    """The phrase in tidy form with its phonemes in ``language``. Raises PhraseError, InputError for the language."""
    from mww_ha.synthesize import espeak, voices

    text = " ".join(unicodedata.normalize("NFC", phrase).split())
    if not text:
        raise PhraseError("the phrase is empty", hint='give two or three words, for example "hey kitchen"')
    if not any(c.isalpha() for c in text):
        raise PhraseError(f"the phrase {text!r} has no letters", hint='write it as it is said, for example "hey seven"')
    if bad := sorted({c for c in text if unicodedata.category(c) in ("Cc", "So", "Cs", "Co") or c in "[]<>&{}|\\"}):
        raise PhraseError(f"the phrase {text!r} holds {' '.join(map(repr, bad))}", hint="use letters and spaces only")
    if len(text) > MAX_PHRASE_CHARACTERS:
        raise PhraseError(
            f"the phrase has {len(text)} characters, at most {MAX_PHRASE_CHARACTERS} fit into the 3 s a model hears",
            hint="two to four words work best",
        )
    _check_script(text, language)
    words = tuple(tuple(word) for word in espeak.load().phonemes([text], voices.phoneme_voice(language))[0])
    if not any(words):
        raise PhraseError(
            f"nothing is said for {text!r} in language {language!r}",
            hint="check the language, or write the phrase in that language's letters",
        )
    if any("(" in phone or ")" in phone for word in words for phone in word):
        raise PhraseError(
            f"{text!r} is not written in the letters of language {language!r}",
            hint="choose the language of the phrase with language in project.yaml",
        )
    checked = CheckedPhrase(text=text, words=words, warnings=())
    return CheckedPhrase(text=text, words=words, warnings=tuple(_phrase_warnings(checked)))


def _scripts(text: str) -> set[str]:
    """LATIN, CYRILLIC, CJK, ... of the letters."""
    return {unicodedata.name(c, "UNKNOWN").split()[0] for c in text if c.isalpha()}


def _check_script(text: str, language: str) -> None:
    """Foreign letters are not always refused by voices: some spell them out, one by one."""
    if not has_word_list(language):
        return
    counts = Counter(script for word in load_vocabulary(language).words[:2000] for script in _scripts(word))
    if foreign := sorted(script for script in _scripts(text) if counts[script] < 5):
        raise PhraseError(
            f"{text!r} is not written in the letters of language {language!r} ({', '.join(foreign).lower()})",
            hint="set language in project.yaml to that of the phrase, or write it as that language would",
        )


def _phrase_warnings(phrase: CheckedPhrase) -> list[str]:
    count, syllables = len(phrase.phonemes), count_syllables(phrase.phonemes)
    if syllables <= 1:
        return [f"{phrase.text!r} is a single syllable: expect many false wakes; three or four syllables work best"]
    if syllables == 2 or count < MIN_PHONEMES:
        return [f"{phrase.text!r} is short ({syllables} syllables): expect more false wakes than with three or four"]
    return []


_VOWELS = frozenset("aeiouyɐɑɒæɔəɘɚɛɜɝɞɤɨɪɯɵøœɶʉʊʌʏᵻ")


def count_syllables(phonemes: Sequence[str]) -> int:
    """Phonemes with a vowel in them, syllabic consonants too."""
    return sum(any(c in _VOWELS or c == "\N{COMBINING VERTICAL LINE BELOW}" for c in phone) for phone in phonemes)


def spell_phrase(phrase: str) -> list[tuple[str, float]]:
    """Spellings that make voices say the phrase with another melody or pause, with weights that sum to 1."""
    words = phrase.split()
    found = {phrase: 5.0, f"{phrase}.": 2.0, f"{phrase}!": 2.0, f"{phrase}?": 1.5, f"{phrase},": 1.0}
    if len(words) > 1:
        found[f"{words[0]}, {' '.join(words[1:])}"] = 0.6
        found[f"{words[0]}, {' '.join(words[1:])}!"] = 0.3
    total = sum(found.values())
    return [(text, weight / total) for text, weight in found.items()]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words of a language by falling frequency."""

    words: tuple[str, ...]
    cumulative: NDArray[np.float64]  # of their probabilities, ends at 1
    function_words: int  # that many at the head are grammar rather than content


@functools.lru_cache(maxsize=4)
def load_vocabulary(language: str, size: int = _VOCABULARY) -> Vocabulary:
    """The commonest words. A language without a word list gets the English one, read by its own voices."""
    try:
        import wordfreq
    except ImportError:
        raise MissingDependencyError("the word lists are not installed", hint=how_to_install("tts")) from None
    code = language.replace("_", "-").split("-")[0].lower()
    code = code if code in wordfreq.available_languages("small") else "en"
    words = tuple(w for w in wordfreq.top_n_list(code, size) if all(c.isalpha() or c in "'’" for c in w))
    # Flatter than speech is: the thousand rarest words should be heard too.
    weights = np.array([wordfreq.word_frequency(w, code) for w in words]) ** 0.6
    return Vocabulary(words, np.cumsum(weights) / weights.sum(), min(_FUNCTION_WORDS, len(words) // 10))


def has_word_list(language: str) -> bool:
    """Whether general speech in this language is made of its own words."""
    import wordfreq

    return language.replace("_", "-").split("-")[0].lower() in wordfreq.available_languages("small")


def _draw_word(vocabulary: Vocabulary, rng: np.random.Generator, *, content: bool) -> str:
    head = vocabulary.cumulative[vocabulary.function_words - 1] if vocabulary.function_words else 0.0
    point = rng.uniform(head, 1.0) if content else rng.uniform(0.0, head)
    return vocabulary.words[min(int(np.searchsorted(vocabulary.cumulative, point)), len(vocabulary.words) - 1)]


def draw_utterance(vocabulary: Vocabulary, rng: np.random.Generator) -> str:
    """One to four words, what stands alone after a silence."""
    count = int(rng.choice([1, 2, 3, 4], p=[0.35, 0.35, 0.2, 0.1]))
    words = [_draw_word(vocabulary, rng, content=i == count - 1 or rng.random() < 0.5) for i in range(count)]
    return " ".join(words) + str(rng.choice(["", ".", "!", "?"], p=[0.4, 0.3, 0.15, 0.15]))


def draw_sentence(vocabulary: Vocabulary, rng: np.random.Generator) -> str:
    """Three to fourteen words, a number now and then."""
    count = int(rng.integers(3, 15))
    words = []
    for i in range(count):
        if rng.random() < 0.04:
            words.append(str(int(rng.integers(1, 10 ** int(rng.integers(1, 5))))))
        else:
            words.append(_draw_word(vocabulary, rng, content=rng.random() < 0.55))
        if 2 < i < count - 2 and rng.random() < 0.12:
            words[-1] += ","
    return " ".join(words).capitalize() + str(rng.choice([".", "?", "!"], p=[0.75, 0.15, 0.1]))


def _folded(text: str) -> list[str]:
    return "".join(c if c.isalpha() or c in "'’" else " " for c in text.casefold()).split()


def contains_phrase(text: str, phrase: str) -> bool:
    """Whether the words of ``phrase`` stand in a row in ``text``, whatever the case and punctuation."""
    words, wanted = _folded(text), _folded(phrase)
    return any(words[i : i + len(wanted)] == wanted for i in range(len(words) - len(wanted) + 1))
