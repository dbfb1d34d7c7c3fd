"""What sounds like the wake phrase and must not wake: found by phonetic distance, in any language espeak-ng speaks.

Two phonemes differ by their articulation (0: alike, 1: nothing in common), two texts by the cheapest way to edit one
into the other, divided by the number of phonemes of the longer one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mww_ha.schema import digest
from mww_ha.synthesize import espeak, phrases, voices

HOMOPHONE_COST = 0.25
"""Texts closer than this, in phonemes (not per phoneme), or that hold something so close, count as the phrase itself:
an accent's difference is about 0.1 to 0.2, the nearest two phonemes that tell words apart 0.25 and more."""

KINDS = ("near", "one phoneme", "rhyme", "prefix", "suffix", "swapped", "context", "contained")
_QUOTAS = {"near": 0.24, "one phoneme": 0.18, "rhyme": 0.1, "prefix": 0.08, "suffix": 0.08, "swapped": 0.04}
_QUOTAS |= {"context": 0.16, "contained": 0.12}
_NEIGHBOURS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusable:
    """A text that sounds like the phrase. ``text`` in ``[[...]]`` holds espeak-ng's phonemes, for espeak-ng only."""

    text: str
    kind: str  # one of KINDS
    distance: float  # edit cost per phoneme of the longer text; 0 to about 1


# Consonants: place (0 lips to 10 glottis), manner, voiced. Manners are near each other as their rows are.
_MANNERS = {"stop": 0.0, "affricate": 0.6, "fricative": 1.0, "nasal": 2.4, "lateral": 3.1, "trill": 3.2, "glide": 3.5}
_CONSONANTS: dict[str, tuple[float, str, bool]] = {
    **{"p": (0, "stop", False), "b": (0, "stop", True), "m": (0, "nasal", True), "ɱ": (1, "nasal", True)},
    **{"ɸ": (0, "fricative", False), "β": (0, "fricative", True), "f": (1, "fricative", False)},
    **{"v": (1, "fricative", True), "ʋ": (1, "glide", True), "w": (0.5, "glide", True), "ʍ": (0.5, "glide", False)},
    **{"θ": (2, "fricative", False), "ð": (2, "fricative", True), "t": (3, "stop", False), "d": (3, "stop", True)},
    **{"n": (3, "nasal", True), "s": (3, "fricative", False), "z": (3, "fricative", True), "l": (3, "lateral", True)},
    **{"ɫ": (3.5, "lateral", True), "ɬ": (3, "fricative", False), "ɮ": (3, "fricative", True)},
    **{"r": (3, "trill", True), "ɾ": (3, "trill", True), "ɹ": (3.5, "glide", True), "ɻ": (5, "glide", True)},
    **{"ʃ": (4, "fricative", False), "ʒ": (4, "fricative", True), "tʃ": (4, "affricate", False)},
    **{"dʒ": (4, "affricate", True), "ts": (3, "affricate", False), "dz": (3, "affricate", True)},
    **{"tɕ": (5, "affricate", False), "dʑ": (5, "affricate", True), "ɕ": (5, "fricative", False)},
    **{"ʑ": (5, "fricative", True), "ʂ": (4.5, "fricative", False), "ʐ": (4.5, "fricative", True)},
    **{"ʈ": (4.5, "stop", False), "ɖ": (4.5, "stop", True), "ɳ": (4.5, "nasal", True), "ɭ": (4.5, "lateral", True)},
    **{"pf": (0.5, "affricate", False), "c": (6, "stop", False), "ɟ": (6, "stop", True), "ɲ": (6, "nasal", True)},
    **{"ç": (6, "fricative", False), "ʝ": (6, "fricative", True), "j": (6, "glide", True), "ʎ": (6, "lateral", True)},
    **{"ɥ": (5, "glide", True), "k": (7, "stop", False), "ɡ": (7, "stop", True), "g": (7, "stop", True)},
    **{"ŋ": (7, "nasal", True), "x": (7, "fricative", False), "ɣ": (7, "fricative", True), "ɰ": (7, "glide", True)},
    **{"q": (8, "stop", False), "ɢ": (8, "stop", True), "χ": (8, "fricative", False), "ʁ": (8, "fricative", True)},
    **{"ʀ": (8, "trill", True), "ħ": (9, "fricative", False), "ʕ": (9, "fricative", True), "h": (10, "fricative", False)},
    **{"ɦ": (10, "fricative", True), "ʔ": (10, "stop", False)},
}
# Vowels: openness (0 close to 6 open), backness (0 front to 4 back), rounded.
_VOWELS: dict[str, tuple[float, float, bool]] = {
    **{"i": (0, 0, False), "y": (0, 0, True), "ɨ": (0, 2, False), "ʉ": (0, 2, True), "ɯ": (0, 4, False)},
    **{"u": (0, 4, True), "ɪ": (1, 0.6, False), "ʏ": (1, 0.6, True), "ʊ": (1, 3.4, True), "ᵻ": (1, 1.5, False)},
    **{"e": (2, 0, False), "ø": (2, 0, True), "ɘ": (2, 2, False), "ɵ": (2, 2, True), "ɤ": (2, 4, False)},
    **{"o": (2, 4, True), "ə": (3, 2, False), "ɚ": (3, 2.2, False), "ɛ": (4, 0, False), "œ": (4, 0, True)},
    **{"ɜ": (3.6, 2, False), "ɝ": (3.6, 2.2, False), "ɞ": (4, 2, True), "ʌ": (4, 3, False), "ɔ": (4, 4, True)},
    **{"æ": (5, 0, False), "ɐ": (5, 2, False), "a": (6, 0.8, False), "ɶ": (6, 0, True), "ɑ": (6, 4, False)},
    **{"ɒ": (6, 4, True)},
}
_GLIDE_VOWELS = {("j", "i"): 0.25, ("j", "ɪ"): 0.3, ("w", "u"): 0.25, ("w", "ʊ"): 0.3, ("ɹ", "ɚ"): 0.3, ("ɹ", "ɜ"): 0.5}
_WEAK = {"ʔ": 0.15, "h": 0.4, "ɦ": 0.4, "ə": 0.5, "ɪ": 0.6, "ʊ": 0.6, "j": 0.5, "w": 0.5, "ᵻ": 0.5, "ɹ": 0.6, "ɐ": 0.5}

Phones = tuple[str, ...]


def split_phones(phonemes: Iterable[str]) -> Phones:
    """Phonemes as single sounds: diphthongs apart, affricates whole, ``ː`` and nasal marks kept, stress dropped."""
    found: list[str] = []
    for phoneme in phonemes:
        at = 0
        while at < len(phoneme):
            size = 2 if phoneme[at : at + 2] in _CONSONANTS else 1
            sound = phoneme[at : at + size]
            at += size
            if sound in _CONSONANTS or sound in _VOWELS:
                found.append(sound)
            elif sound in "ː\N{COMBINING TILDE}" and found and found[-1][-1] not in "ː\N{COMBINING TILDE}":
                found[-1] += sound
    return tuple(found)


@functools.cache
def substitute_cost(a: str, b: str) -> float:
    """0 (the same sound) to 1 (nothing in common); symmetric."""
    base_a, base_b = a.rstrip("ː\N{COMBINING TILDE}"), b.rstrip("ː\N{COMBINING TILDE}")
    marks = 0.08 * (("ː" in a) != ("ː" in b)) + 0.15 * (("\N{COMBINING TILDE}" in a) != ("\N{COMBINING TILDE}" in b))
    if base_a in _VOWELS and base_b in _VOWELS:
        (open_a, back_a, round_a), (open_b, back_b, round_b) = _VOWELS[base_a], _VOWELS[base_b]
        cost = 0.12 * abs(open_a - open_b) + 0.08 * abs(back_a - back_b) + 0.1 * (round_a != round_b)
        return min(1.0, cost + marks)
    if base_a in _CONSONANTS and base_b in _CONSONANTS:
        (place_a, manner_a, voice_a), (place_b, manner_b, voice_b) = _CONSONANTS[base_a], _CONSONANTS[base_b]
        place = 0.2 + 0.03 * abs(place_a - place_b) if place_a != place_b else 0.0
        manner = 0.15 + 0.15 * abs(_MANNERS[manner_a] - _MANNERS[manner_b]) if manner_a != manner_b else 0.0
        return min(1.0, place + manner + 0.2 * (voice_a != voice_b))
    return _GLIDE_VOWELS.get((base_a, base_b), _GLIDE_VOWELS.get((base_b, base_a), 1.0))


def insert_cost(sound: str) -> float:
    """What it costs to say one sound more or less."""
    base = sound.rstrip("ː\N{COMBINING TILDE}")
    return _WEAK.get(base, 0.9 if base in _VOWELS else 0.8)


def edit_costs(phrase: Phones, texts: Sequence[Phones], *, anywhere: bool = False) -> NDArray[np.float64]:
    """Edit cost ``[len(texts)]`` in phonemes between the phrase and each text.

    ``anywhere``: between the phrase and the part of the text that is nearest to it.
    """
    longest = max((len(text) for text in texts), default=0)
    sounds = sorted({sound for text in texts for sound in text})
    number = {sound: i for i, sound in enumerate(sounds)}
    codes = np.full((len(texts), longest), len(sounds), dtype=np.int32)
    for row, text in enumerate(texts):
        codes[row, : len(text)] = [number[sound] for sound in text]
    inserts = np.array([insert_cost(sound) for sound in sounds] + [0.0])[codes]
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    above = np.zeros((len(texts), longest + 1))
    if not anywhere:
        above[:, 1:] = np.cumsum(inserts, axis=1)
    for sound in phrase:
        substitutes = np.array([substitute_cost(sound, other) for other in sounds] + [9.0])[codes]
        row = np.empty_like(above)
        row[:, 0] = above[:, 0] + insert_cost(sound)
        through = np.minimum(above[:, :-1] + substitutes, above[:, 1:] + insert_cost(sound))
        for j in range(longest):
            row[:, j + 1] = np.minimum(through[:, j], row[:, j] + inserts[:, j])
        above = row
    if anywhere:
        inside = np.arange(longest + 1)[None, :] <= lengths[:, None]
        result: NDArray[np.float64] = np.where(inside, above, np.inf).min(axis=1)
        return result
    ends: NDArray[np.float64] = above[np.arange(len(texts)), lengths]
    return ends


def distance(a: Phones, b: Phones) -> float:
    """Edit cost per phoneme of the longer one."""
    return float(edit_costs(a, [b])[0]) / max(len(a), len(b), 1)


@dataclass(frozen=True, slots=True)
class _Words:
    """A vocabulary with its sounds, by falling frequency."""

    texts: tuple[str, ...]
    sounds: tuple[Phones, ...]


@functools.lru_cache(maxsize=4)
def _load_words(language: str) -> _Words:
    vocabulary = phrases.load_vocabulary(language)
    spoken = espeak.load().phonemes(list(vocabulary.words), voices.phoneme_voice(language))
    texts, sounds = [], []
    for word, said in zip(vocabulary.words, spoken, strict=True):
        found = split_phones(phone for part in said for phone in part)
        # A lone letter is spelled out, and a word in foreign letters brings its language's name in brackets.
        if found and len(word) > 1 and not any("(" in phone for part in said for phone in part):
            texts.append(word)
            sounds.append(found)
    return _Words(tuple(texts), tuple(sounds))


@functools.lru_cache(maxsize=4)
def _load_inventory(language: str) -> dict[str, str]:
    """espeak-ng's mnemonics of the language's phonemes → IPA, without stress marks, commonest first."""
    words = list(phrases.load_vocabulary(language).words[:3000])
    voice = voices.phoneme_voice(language)
    found: dict[str, dict[str, int]] = {}
    engine = espeak.load()
    for plain, ipa in zip(engine.phonemes(words, voice, ipa=False), engine.phonemes(words, voice), strict=True):
        for word_plain, word_ipa in zip(plain, ipa, strict=False):
            if len(word_plain) == len(word_ipa):
                for mnemonic, sound in zip(word_plain, word_ipa, strict=True):
                    sounds = found.setdefault(mnemonic.lstrip("',%="), {})
                    sounds[sound.lstrip("ˈˌ")] = sounds.get(sound.lstrip("ˈˌ"), 0) + 1
    # Seen at least five times: names in foreign letters bring single odd ones.
    return {m: max(s, key=lambda k: (s[k], k)) for m, s in found.items() if m and m[0] != "(" and sum(s.values()) >= 5}


@dataclass(frozen=True, slots=True)
class _Candidate:
    text: str
    kind: str
    sounds: Phones


def show_confusables(phrase: str, language: str, n: int) -> list[Confusable]:
    """At most ``n`` texts that sound like the phrase, of all kinds, nearest first. Fewer only if no more are found.

    Deterministic. Never the phrase itself, a homophone, or a text that holds one. Raises PhraseError, InputError.
    """
    checked = phrases.check_phrase(phrase, language)
    target = split_phones(checked.phonemes)
    words = _load_words(language)
    rng = np.random.default_rng(int(digest([phrase, language, "confusables"]), 16))
    said = espeak.load().phonemes(checked.text.split(), voices.phoneme_voice(language))
    parts = [(text, split_phones(p for w in word for p in w)) for text, word in zip(checked.text.split(), said, strict=True)]
    parts = [(text.strip(".,;:!?"), sounds) for text, sounds in parts if sounds]
    drafts = [
        *_near(target, parts, words),
        *_one_phoneme(checked, language),
        *_rhymes(parts, words),
        *_cuts(checked, parts, words, language),
        *_swapped(parts),
        *_contexts(parts, words, rng, 3 * n),
        *_contained(parts, words, rng, 3 * n),
    ]
    candidates = _without_phrase(checked.text, target, drafts)
    costs = edit_costs(target, [c.sounds for c in candidates])
    found = [
        Confusable(text=c.text, kind=c.kind, distance=round(float(cost) / max(len(target), len(c.sounds)), 4))
        for c, cost in zip(candidates, costs, strict=True)
    ]
    return _pick(found, n)


def _without_phrase(phrase: str, target: Phones, drafts: Sequence[_Candidate]) -> list[_Candidate]:
    unique: dict[str, _Candidate] = {}
    for draft in drafts:
        if draft.sounds and not phrases.contains_phrase(draft.text, phrase):
            unique.setdefault(draft.text, draft)
    candidates = list(unique.values())
    # One length at a time would be a little faster; thousands of short texts do not need it.
    nearest = edit_costs(target, [c.sounds for c in candidates], anywhere=True)
    return [c for c, cost in zip(candidates, nearest, strict=True) if cost >= HOMOPHONE_COST - 1e-9]


def _pick(found: Sequence[Confusable], n: int) -> list[Confusable]:
    """The nearest of each kind by its quota, then the nearest of what is left."""
    ranked = sorted(found, key=lambda c: (c.distance, c.text))
    chosen: dict[str, Confusable] = {}
    for kind, quota in _QUOTAS.items():
        for confusable in [c for c in ranked if c.kind == kind][: max(1, round(quota * n))]:
            chosen[confusable.text] = confusable
    for confusable in ranked:
        if len(chosen) >= n:
            break
        chosen.setdefault(confusable.text, confusable)
    # Rounding can give a few too many: the farthest go.
    return sorted(chosen.values(), key=lambda c: (c.distance, c.text))[:n]


def _neighbours(sounds: Phones, words: _Words, count: int) -> list[tuple[str, Phones]]:
    """Words that sound nearest to ``sounds``, themselves and homophones left out."""
    costs = edit_costs(sounds, words.sounds)
    order = np.lexsort((np.arange(costs.size), costs))
    return [(words.texts[i], words.sounds[i]) for i in order[: count * 3] if costs[i] >= HOMOPHONE_COST][:count]


def _near(target: Phones, parts: Sequence[tuple[str, Phones]], words: _Words) -> list[_Candidate]:
    """Single words near all of the phrase, and the phrase with one or all of its words replaced by near ones."""
    found = [_Candidate(text, "near", sounds) for text, sounds in _neighbours(target, words, _NEIGHBOURS)]
    if len(parts) < 2:
        return found
    near = [_neighbours(sounds, words, _NEIGHBOURS) for _, sounds in parts]
    for i in range(len(parts)):
        found += [_joined("near", [*parts[:i], word, *parts[i + 1 :]]) for word in near[i]]
    for rank in range(_NEIGHBOURS):
        for shift in (0, 3, 7):
            picked = [n[(rank + shift * i) % len(n)] for i, n in enumerate(near) if n]
            found.append(_joined("near", picked))
    return found


def _joined(kind: str, parts: Iterable[tuple[str, Phones]]) -> _Candidate:
    parts = list(parts)
    return _Candidate(" ".join(text for text, _ in parts), kind, tuple(s for _, sounds in parts for s in sounds))


def _one_phoneme(checked: phrases.CheckedPhrase, language: str) -> list[_Candidate]:
    """The phrase with one phoneme exchanged, left out, or two neighbours swapped, as espeak-ng's phonemes."""
    inventory = _load_inventory(language)
    plain = espeak.load().phonemes([checked.text], voices.phoneme_voice(language), ipa=False)[0]
    found = []
    for w, word in enumerate(plain):
        for p, phoneme in enumerate(word):
            mark = phoneme[: len(phoneme) - len(phoneme.lstrip("',%="))]
            own = split_phones([inventory.get(phoneme[len(mark) :], "")])
            if not own:
                continue
            ranked = sorted(
                (cost, other)
                for other, ipa in inventory.items()
                if (new := split_phones([ipa]))
                and (new[0].rstrip("ː") in _VOWELS) == (own[0].rstrip("ː") in _VOWELS)
                and (cost := float(edit_costs(own, [new])[0])) >= HOMOPHONE_COST
            )
            for _, other in ranked[:4]:
                changed = [list(said) for said in plain]
                changed[w][p] = mark + other
                found.append(_respelled("one phoneme", changed, inventory))
    return found


def _respelled(kind: str, words: Sequence[Sequence[str]], inventory: dict[str, str]) -> _Candidate:
    sounds = split_phones(inventory.get(p.lstrip("',%="), "") for word in words for p in word)
    return _Candidate("[[" + " ".join("".join(word) for word in words) + "]]", kind, sounds)


def _rhymes(parts: Sequence[tuple[str, Phones]], words: _Words) -> list[_Candidate]:
    """Words that end as the phrase does, alone and in the place of its last word."""
    last = parts[-1][1]
    vowels = [i for i, sound in enumerate(last) if sound.rstrip("ː\N{COMBINING TILDE}") in _VOWELS]
    if not vowels:
        return []
    start = vowels[0] if len(vowels) < 3 else vowels[-2]
    tail = last[start:]
    same_end = [
        (text, sounds)
        for text, sounds in zip(words.texts, words.sounds, strict=True)
        if len(sounds) >= len(tail) and edit_costs(tail, [sounds[-len(tail) :]])[0] <= 0.3
    ] if len(tail) > 1 else []
    found = []
    for word in same_end[:60]:
        found.append(_joined("rhyme", [word]))
        if len(parts) > 1:
            found.append(_joined("rhyme", [*parts[:-1], word]))
    return found


def _cuts(
    checked: phrases.CheckedPhrase, parts: Sequence[tuple[str, Phones]], words: _Words, language: str
) -> list[_Candidate]:
    """The beginning only and the end only: whole words, words that begin or end alike, and cuts inside a word."""
    found = []
    for i in range(1, len(parts)):
        found += [_joined("prefix", parts[:i]), _joined("suffix", parts[i:])]
    first, last = parts[0][1], parts[-1][1]
    for text, sounds in zip(words.texts, words.sounds, strict=True):
        half_first, half_last = max(2, len(first) // 2), max(2, len(last) // 2)
        if len(parts) == 1 and sounds[:half_first] == first[:half_first]:
            found.append(_Candidate(text, "prefix", sounds))
        if sounds[-half_last:] == last[-half_last:] and len(sounds) <= len(last) + 2 and len(parts) == 1:
            found.append(_Candidate(text, "suffix", sounds))
        if len(parts) > 1 and len(last) > 3 and sounds[:half_last] == last[:half_last] and len(sounds) <= len(last):
            found.append(_joined("prefix", [*parts[:-1], (text, sounds)]))
    inventory = _load_inventory(language)
    plain = espeak.load().phonemes([checked.text], voices.phoneme_voice(language), ipa=False)[0]
    flat = [(w, phoneme) for w, word in enumerate(plain) for phoneme in word]
    for cut in range(2, len(flat) - 1):
        found.append(_respelled("prefix", _regroup(flat[:cut]), inventory))
        found.append(_respelled("suffix", _regroup(flat[cut:]), inventory))
    return found


def _regroup(flat: Sequence[tuple[int, str]]) -> list[list[str]]:
    groups: dict[int, list[str]] = {}
    for word, phoneme in flat:
        groups.setdefault(word, []).append(phoneme)
    return list(groups.values())


def _swapped(parts: Sequence[tuple[str, Phones]]) -> list[_Candidate]:
    """The words in another order, and one of them twice."""
    import itertools

    if len(parts) < 2:
        return []
    orders = list(itertools.islice(itertools.permutations(range(len(parts))), 24))
    found = [_joined("swapped", [parts[i] for i in order]) for order in orders]
    return found + [_joined("swapped", [part, part]) for part in parts]


def _common(words: _Words, rng: np.random.Generator, count: int) -> list[tuple[str, Phones]]:
    """Words drawn from the common ones, the commonest most often."""
    picks = (rng.random(count) ** 2 * min(2000, len(words.texts))).astype(int)
    return [(words.texts[i], words.sounds[i]) for i in picks]


def _contexts(
    parts: Sequence[tuple[str, Phones]], words: _Words, rng: np.random.Generator, count: int
) -> list[_Candidate]:
    """Each word of the phrase with something else before or after it; for a single word, words near it."""
    kept = [[part] for part in parts] if len(parts) > 1 else [[w] for w in _neighbours(parts[0][1], words, 10)]
    if len(parts) > 2:
        kept += [list(parts[i : i + 2]) for i in range(len(parts) - 1)]
    found = []
    for i in range(count if kept else 0):
        middle, (other,) = kept[i % len(kept)], _common(words, rng, 1)
        found.append(_joined("context", [other, *middle] if rng.random() < 0.5 else [*middle, other]))
    return found


def _contained(
    parts: Sequence[tuple[str, Phones]], words: _Words, rng: np.random.Generator, count: int
) -> list[_Candidate]:
    """Longer texts with parts of the phrase in them, also all of its words with others in between."""
    near = _neighbours(parts[0][1], words, 10) if len(parts) == 1 else []
    found = []
    for _ in range(count):
        before, after = _common(words, rng, int(rng.integers(0, 4))), _common(words, rng, int(rng.integers(1, 4)))
        if len(parts) > 1 and rng.random() < 0.35:
            at = int(rng.integers(1, len(parts)))
            middle = [*parts[:at], *_common(words, rng, int(rng.integers(1, 3))), *parts[at:]]
        elif len(parts) > 1:
            at, end = sorted(rng.choice(len(parts) + 1, size=2, replace=False))
            middle = list(parts[at:end])
        else:
            middle = [near[int(rng.integers(len(near)))]] if near else []
        found.append(_joined("contained", [*before, *middle, *after]))
    return found
