"""What will be said by whom: the whole plan of utterances, a pure function of settings, voices and speeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mww_ha.schema import Label, digest
from mww_ha.synthesize import phrases
from mww_ha.synthesize.voices import Delivery, Voice, draw_delivery

TAKE_PREFIX = "syn-"
"""Takes of planned utterances begin with it, so that a plan can tell its own clips from all others."""

SHORT_SHARE = 0.5
"""Share of general speech, by clips, that is one to four words: what wakes a model that only knows sentences."""

SYSTEM_ENGINES = ("flite", "festival", "pico", "rhvoice", "mbrola")
_LABEL_TIME = {Label.WAKE: 0.45, Label.CONFUSABLE: 0.3, Label.SPEECH: 0.25}  # of the time a slow engine may take


@dataclass(frozen=True, slots=True, kw_only=True)
class Utterance:
    """One clip to be made. ``take`` is a digest of all the rest."""

    take: str
    label: Label
    text: str
    voice: Voice
    delivery: Delivery
    min_s: float  # shorter cannot be all of the text
    max_s: float

    def as_item(self) -> dict[str, object]:
        """What the worker gets, JSON all through."""
        return asdict(self)


def make_utterance(label: Label, text: str, voice: Voice, delivery: Delivery) -> Utterance:
    """With its take and the durations it may plausibly have."""
    weight = count_letters(text)
    take = TAKE_PREFIX + digest([label, text, voice.id, asdict(delivery)], 24)
    return Utterance(
        take=take,
        label=label,
        text=text,
        voice=voice,
        delivery=delivery,
        min_s=round(0.08 + 0.02 * weight, 3),
        max_s=round(2.0 + 0.4 * weight, 3),
    )


def count_letters(text: str) -> float:
    """How much there is to say, in letters of an alphabet; digits and syllabic or Chinese characters count more."""
    return sum((4.0 if c.isdigit() else 1.0 if ord(c) < 0x2E80 else 3.0) for c in text if c.isalnum())


def estimate_duration_s(text: str, speed: float) -> float:
    """About how long a voice takes to say it."""
    return (0.25 + 0.066 * count_letters(text)) / speed


def share_engines(voices: Sequence[Voice], *, system_share: float) -> dict[str, float]:
    """Share of the clips of each engine, summing to 1.

    By the square root of its voices, 64 at most: an engine of one voice still counts and one of a thousand does not
    drown the rest. Engines of the system together get at most ``system_share`` as long as there are others.
    """
    counts: dict[str, int] = {}
    for voice in voices:
        counts[voice.engine] = counts.get(voice.engine, 0) + 1
    weights = {engine: math.sqrt(min(count, 64)) for engine, count in sorted(counts.items())}
    system = sum(w for e, w in weights.items() if e in SYSTEM_ENGINES)
    others = sum(weights.values()) - system
    if system and others:
        factor = min(1.0, system_share * others / ((1 - system_share) * system)) if system_share < 1 else 1.0
        weights = {e: w * (factor if e in SYSTEM_ENGINES else 1.0) for e, w in weights.items()}
    total = sum(weights.values())
    return {engine: weight / total for engine, weight in weights.items() if weight > 0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What one clip of an engine costs, in seconds of one core."""

    short_s: float
    long_s: float


def share_time(wishes_s: Mapping[str, float], budget_s: float) -> dict[str, float]:
    """Seconds for each engine of a group: what it wishes where that is little, equal parts of the rest otherwise."""
    given: dict[str, float] = {}
    left = budget_s
    for number, (engine, wish_s) in enumerate(sorted(wishes_s.items(), key=lambda item: (item[1], item[0]))):
        given[engine] = min(wish_s, left / (len(wishes_s) - number))
        left -= given[engine]
    return given


def limit_clips(
    engine: str, label: Label, speeds: Mapping[str, Speed], *, engine_s: float, workers: int
) -> tuple[int, int]:
    """(short, long) clips of the label that a slow engine can make within its time; engines without a speed: all.

    ``engine_s``: seconds of wall clock that this engine may take.
    """
    speed = speeds.get(engine)
    if speed is None:
        return 1 << 40, 1 << 40
    time_s = engine_s * workers * _LABEL_TIME[label]
    if label is Label.SPEECH:
        return int(time_s / 2 / speed.short_s), int(time_s / 2 / speed.long_s)
    return int(time_s / speed.short_s), 0


def _rng(*key: object) -> np.random.Generator:
    return np.random.default_rng(int(digest(list(key)), 16))


def order_voices(voices: Sequence[Voice], seed: int) -> dict[str, list[Voice]]:
    """The voices of each engine in an order that looks random and is the same in every run."""
    found: dict[str, list[Voice]] = {}
    for voice in sorted(voices, key=lambda voice: digest([seed, voice.id])):
        found.setdefault(voice.engine, []).append(voice)
    return dict(sorted(found.items()))


def _can_say(engine: str, text: str) -> bool:
    return engine == "espeak" or "[[" not in text


def plan_texts(
    label: Label,
    texts: Sequence[str],
    weights: Sequence[float],
    count: int,
    voices: Mapping[str, Sequence[Voice]],
    shares: Mapping[str, float],
    limits: Mapping[str, int],
    seed: int,
) -> list[Utterance]:
    """``count`` utterances of the given texts: voices in turn, texts drawn by weight.

    Utterance k of an engine depends on k alone: a plan for more clips begins with the clips of the smaller one.
    """
    found = []
    for engine, number in _numbers(count, shares, limits).items():
        usable = [(t, w) for t, w in zip(texts, weights, strict=True) if _can_say(engine, t)]
        if not usable:
            continue
        odds = np.cumsum([w for _, w in usable])
        for k in range(number):
            rng = _rng(seed, label, engine, k)
            text = usable[min(int(np.searchsorted(odds, rng.uniform(0, odds[-1]))), len(usable) - 1)][0]
            voice = voices[engine][k % len(voices[engine])]
            found.append(make_utterance(label, text, voice, draw_delivery(rng, len(text.split()), called=True)))
    return found


def _numbers(count: int, shares: Mapping[str, float], limits: Mapping[str, int]) -> dict[str, int]:
    """Clips of each engine; what slow engines cannot make is left to those without a limit."""
    numbers = {engine: min(int(count * share), limits.get(engine, count)) for engine, share in shares.items()}
    free = {e: s for e, s in shares.items() if limits.get(e, count) >= count} or dict(shares)
    missing, total = count - sum(numbers.values()), sum(free.values())
    for engine, share in free.items():
        numbers[engine] += int(missing * share / total)
    first = max(free, key=lambda engine: free[engine])
    numbers[first] += count - sum(numbers.values())
    return numbers


def plan_speech(
    phrase: str,
    language: str,
    hours: float,
    voices: Mapping[str, Sequence[Voice]],
    shares: Mapping[str, float],
    limits: Mapping[str, tuple[int, int]],
    seed: int,
) -> list[Utterance]:
    """General speech of about ``hours`` (of speech, pauses not counted) that never holds the phrase."""
    vocabulary = phrases.load_vocabulary(language)
    open_share = sum(share for engine, share in shares.items() if engine not in limits) or 1.0
    found: list[Utterance] = []
    owed_s = 0.0
    for engine in sorted(shares, key=lambda engine: engine not in limits):  # limited ones first
        wanted_s = hours * 3600 * shares[engine]
        if engine not in limits:
            wanted_s += owed_s * shares[engine] / open_share
        made_s = 0.0
        for utterance in _speech_of(engine, voices[engine], vocabulary, phrase, limits.get(engine), seed):
            if made_s >= wanted_s:
                break
            found.append(utterance)
            made_s += estimate_duration_s(utterance.text, utterance.delivery.speed)
        owed_s += max(0.0, wanted_s - made_s) if engine in limits else 0.0
    return found


def _speech_of(
    engine: str,
    voices: Sequence[Voice],
    vocabulary: phrases.Vocabulary,
    phrase: str,
    limit: tuple[int, int] | None,
    seed: int,
) -> Iterator[Utterance]:
    left = list(limit or (1 << 40, 1 << 40))
    k = 0
    while any(left):
        rng = _rng(seed, Label.SPEECH, engine, k)
        long = bool(rng.random() >= SHORT_SHARE)
        text = phrases.draw_sentence(vocabulary, rng) if long else phrases.draw_utterance(vocabulary, rng)
        voice = voices[k % len(voices)]
        k += 1
        if left[long] and not phrases.contains_phrase(text, phrase):
            left[long] -= 1
            yield make_utterance(Label.SPEECH, text, voice, draw_delivery(rng, len(text.split())))
