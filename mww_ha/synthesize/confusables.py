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


# Consonants by manner and voice, each with its place: 0 lips to 10 glottis. These say how near manners are.
_MANNERS = {"stop": 0.0, "affricate": 0.6, "fricative": 1.0, "nasal": 2.4}
_MANNERS |= {"lateral": 3.1, "trill": 3.2, "glide": 3.5}
_CONSONANT_ROWS = """
stop voiceless p:0 t:3 ʈ:4.5 c:6 k:7 q:8 ʔ:10
stop voiced b:0 d:3 ɖ:4.5 ɟ:6 ɡ:7 g:7 ɢ:8
affricate voiceless pf:0.5 ts:3 tʃ:4 tɕ:5
affricate voiced dz:3 dʒ:4 dʑ:5
fricative voiceless ɸ:0 f:1 θ:2 s:3 ɬ:3 ʃ:4 ʂ:4.5 ɕ:5 ç:6 x:7 χ:8 ħ:9 h:10
fricative voiced β:0 v:1 ð:2 z:3 ɮ:3 ʒ:4 ʐ:4.5 ʑ:5 ʝ:6 ɣ:7 ʁ:8 ʕ:9 ɦ:10
nasal voiced ɴ:8 m:0 ɱ:1 n:3 ɳ:4.5 ɲ:6 ŋ:7
lateral voiced l:3 ɫ:3.5 ɭ:4.5 ʎ:6
trill voiced r:3 ɾ:3 ʀ:8
glide voiceless ʍ:0.5
glide voiced w:0.5 ʋ:1 ɹ:3.5 ɻ:5 ɥ:5 j:6 ɰ:7
"""
# Vowels with openness (0 close to 6 open) and backness (0 front to 4 back).
_VOWEL_ROWS = """
spread i:0,0 ɨ:0,2 ɯ:0,4 ɪ:1,0.6 ᵻ:1,1.5 e:2,0 ɘ:2,2 ɤ:2,4 ə:3,2 ɚ:3,2.2 ɛ:4,0 ɜ:3.6,2 ɝ:3.6,2.2
spread ʌ:4,3 æ:5,0 ɐ:5,2 a:6,0.8 ɑ:6,4
rounded y:0,0 ʉ:0,2 u:0,4 ʏ:1,0.6 ʊ:1,3.4 ø:2,0 ɵ:2,2 o:2,4 œ:4,0 ɞ:4,2 ɔ:4,4 ɶ:6,0 ɒ:6,4
"""


def _read_consonants() -> dict[str, tuple[float, str, bool]]:
    found = {}
    for row in _CONSONANT_ROWS.split("\n"):
        for entry in row.split()[2:]:
            sound, _, place = entry.partition(":")
            found[sound] = (float(place), row.split()[0], row.split()[1] == "voiced")
    return found


def _read_vowels() -> dict[str, tuple[float, float, bool]]:
    found = {}
    for row in _VOWEL_ROWS.split("\n"):
        for entry in row.split()[1:]:
            sound, _, position = entry.partition(":")
            openness, _, backness = position.partition(",")
            found[sound] = (float(openness), float(backness), row.split()[0] == "rounded")
    return found


_CONSONANTS = _read_consonants()
_VOWELS = _read_vowels()
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
        below = np.empty_like(above)
        below[:, 0] = above[:, 0] + insert_cost(sound)
        through = np.minimum(above[:, :-1] + substitutes, above[:, 1:] + insert_cost(sound))
        for j in range(longest):
            below[:, j + 1] = np.minimum(through[:, j], below[:, j] + inserts[:, j])
        above = below
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
    certain: bool = False  # always among the chosen


def show_confusables(phrase: str, language: str, n: int) -> list[Confusable]:
    """At most ``n`` texts that sound like the phrase, of all kinds, nearest first. Fewer only if no more are found.

    Deterministic. Never the phrase itself, a homophone, or a text that holds one. Raises PhraseError, InputError.
    """
    return list(_find_confusables(phrase, language, n))


@functools.lru_cache(maxsize=8)
def _find_confusables(phrase: str, language: str, n: int) -> tuple[Confusable, ...]:
    checked = phrases.check_phrase(phrase, language)
    target = split_phones(checked.phonemes)
    words = _load_words(language)
    rng = np.random.default_rng(int(digest([phrase, language, "confusables"]), 16))
    said = espeak.load().phonemes(checked.text.split(), voices.phoneme_voice(language))
    parts = [
        (text, split_phones(p for w in word for p in w)) for text, word in zip(checked.text.split(), said, strict=True)
    ]
    parts = [(text.strip(".,;:!?"), sounds) for text, sounds in parts if sounds]
    drafts = [
        *_swapped(parts),
        *_cuts(checked, parts, words, language),
        *_rhymes(parts, words),
        *_near(target, parts, words),
        *_one_phoneme(checked, language),
        *_contexts(parts, words, rng, 3 * n),
        *_contained(parts, words, rng, 3 * n),
    ]
    candidates = _without_phrase(checked.text, target, drafts)
    costs = edit_costs(target, [c.sounds for c in candidates])
    found = [
        Confusable(text=c.text, kind=c.kind, distance=round(float(cost) / max(len(target), len(c.sounds)), 4))
        for c, cost in zip(candidates, costs, strict=True)
    ]
    return tuple(_pick(found, {c.text for c in candidates if c.certain}, n))


def _without_phrase(phrase: str, target: Phones, drafts: Sequence[_Candidate]) -> list[_Candidate]:
    unique: dict[str, _Candidate] = {}
    for draft in drafts:
        if draft.sounds and not phrases.contains_phrase(draft.text, phrase):
            unique.setdefault(draft.text, draft)
    candidates = list(unique.values())
    # One length at a time would be a little faster; thousands of short texts do not need it.
    nearest = edit_costs(target, [c.sounds for c in candidates], anywhere=True)
    return [c for c, cost in zip(candidates, nearest, strict=True) if cost >= HOMOPHONE_COST - 1e-9]


_AS_DRAWN = ("context", "contained")  # drawn at random: the nearest of them would all be two words long


def _pick(found: Sequence[Confusable], certain: set[str], n: int) -> list[Confusable]:
    """The certain ones, then of each kind its quota, then the nearest of what is left."""
    ranked = sorted(found, key=lambda c: (c.distance, c.text))
    chosen = {c.text: c for c in ranked if c.text in certain}
    for kind, quota in _QUOTAS.items():
        of_kind = [c for c in (found if kind in _AS_DRAWN else ranked) if c.kind == kind]
        for confusable in of_kind[: max(1, round(quota * n))]:
            if len(chosen) < n:
                chosen.setdefault(confusable.text, confusable)
    for confusable in ranked:
        if len(chosen) >= n:
            break
        if confusable.kind not in _AS_DRAWN:
            chosen.setdefault(confusable.text, confusable)
    for confusable in found:
        if len(chosen) >= n:
            break
        chosen.setdefault(confusable.text, confusable)
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


def _joined(kind: str, parts: Iterable[tuple[str, Phones]], *, certain: bool = False) -> _Candidate:
    parts = list(parts)
    sounds = tuple(sound for _, said in parts for sound in said)
    return _Candidate(" ".join(text for text, _ in parts), kind, sounds, certain)


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
    if len(tail) < 2:
        return []
    longer = [(t, s) for t, s in zip(words.texts, words.sounds, strict=True) if len(s) >= len(tail)]
    costs = edit_costs(tail, [sounds[-len(tail) :] for _, sounds in longer])
    same_end = [word for word, cost in zip(longer, costs, strict=True) if cost <= 0.3]
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
        found += [_joined("prefix", parts[:i], certain=True), _joined("suffix", parts[i:], certain=True)]
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
        for kind, piece in (("prefix", flat[:cut]), ("suffix", flat[cut:])):
            respelled = _respelled(kind, _regroup(piece), inventory)
            if len(respelled.sounds) > 2 and phrases.count_syllables(respelled.sounds):
                found.append(respelled)
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
    found = [_joined("swapped", [parts[i] for i in order], certain=n < 4) for n, order in enumerate(orders)]
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
        before, after = _common(words, rng, int(rng.integers(0, 4))), _common(words, rng, int(rng.integers(2, 5)))
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
