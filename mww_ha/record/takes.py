"""One take → where the word lies in it and whether it can be used, with the reason in plain words, at once.

Every limit was measured on 931 takes of three words by 68 people and on the same takes damaged on purpose
(``tools/bench_takes.py``). What a model or speech-to-text makes of a take is a hint, never a reason: a model that
misses a voice is why it is recorded. A network that tells speech from sound (pymicro-vad 2.1) was tried as a reason:
of recordings of noise alone 22 instead of 32 of 261 passed, and of real takes 15 more of 1311 did not.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mww_ha import audio
from mww_ha.config import RecordSettings
from mww_ha.schema import SAMPLE_RATE_HZ, Clip, Label, Origin
from mww_ha.similar import find_near_duplicates

MARGIN_S = 0.15
"""Kept before and after the word: whispered beginnings lie below any threshold."""

LONGEST_WORD_S = 2.5
"""A longer word cannot be trained on: ``prepare`` leaves it out."""

_HOP = 160
_BELOW_LOUD_DB = 22.0  # the loud parts of a word are within this of its loudest
_OVER_FLOOR_DB = 8.0
_SOFT_DB = 38.0  # soft beginnings and ends are within this
_SOFT_S = 0.2  # ... and no longer
_PAUSE_S = 0.3  # between two pieces; longer than any stop inside a word
_PIECE_FRAMES = 6  # 50 ms of sound fill 6 frames of 20 ms: what is shorter is a click
_EDGE_S = 0.03
_EDGE_DB = 14.0  # below the loud part: speech begins and ends softer than this
_BESIDE_DB = 12.0  # what is this much softer than the word is background
_LOUD_ROOM_DBFS = -45.0
_MUTED_DBFS = -78.0  # at most the dither of a muted microphone
_MIN_BACKGROUND_S = 0.15
_RAIL = 32_700
_FLAT_RUN = 3  # equal samples at the top of a wave that was cut off below full scale


class Fault(StrEnum):
    """Why a take cannot be used."""

    EMPTY = "empty"
    QUIET = "quiet"
    CLIPPED = "clipped"
    NOISY = "noisy"
    SHORT = "short"
    LONG = "long"
    SEVERAL = "several"
    CUT = "cut"
    HOLES = "holes"
    DUPLICATE = "duplicate"
    UNUSABLE = "unusable"  # nothing came, or it could not be stored; the text says why


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One thing that is wrong with a take: what it is, and what to do, in one sentence for a person."""

    fault: Fault
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeReport:
    """What a take is. ``start`` and ``end`` (samples, end exclusive) hold the word and a margin; 0, 0: no word."""

    start: int
    end: int
    reasons: tuple[Reason, ...] = ()
    hints: tuple[str, ...] = ()  # doubts that refuse nothing
    level_dbfs: float = audio.SILENCE_DBFS  # of the speech
    over_background_db: float = 0.0
    spoken_s: float = 0.0

    @property
    def good(self) -> bool:
        """Whether it becomes a clip."""
        return not self.reasons

    @property
    def verdict(self) -> str:
        """``good`` or ``refused``."""
        return "good" if self.good else "refused"


Earlier = Sequence[tuple[str, audio.Samples]]
"""Takes that are there already: (name, trimmed samples)."""

Doubt = Callable[[audio.Samples, int, int], str]
"""Of a take, and where its word starts and ends: half a sentence why this may not be the phrase; empty: no doubt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One stretch of sound that stands out, in seconds."""

    start_s: float
    end_s: float
    level_dbfs: float  # of its louder frames


def check_take(
    samples: audio.Samples,
    *,
    phrase: str,
    settings: RecordSettings,
    earlier: Earlier = (),
    holes: bool = False,
    transcript: str | None = None,
    doubt: Doubt | None = None,
) -> TakeReport:
    """Looks at an untrimmed take (int16, 16 kHz) in which ``phrase`` should be said once.

    ``holes``: whoever recorded it knows that samples are missing. ``transcript``: what speech-to-text read, None where
    nobody asked. With several faults only those are told that a person can do something about at once: nothing else
    about a take without a word.
    """
    levels = audio.frame_levels_dbfs(samples)
    if not levels.size or levels.max() <= _MUTED_DBFS:
        text = "nothing was heard at all: is the microphone muted?"
        return TakeReport(start=0, end=0, reasons=(Reason(fault=Fault.EMPTY, text=text),))
    wanted_s = expected_s(phrase)
    pieces = find_pieces(levels, wanted_s)
    if not pieces:
        if float(np.median(levels)) > _LOUD_ROOM_DBFS:
            reason = Reason(fault=Fault.NOISY, text="no word stands out from the background: turn off what is loud")
        else:
            reason = Reason(fault=Fault.EMPTY, text="no word was heard: speak when you are asked to, a little louder")
        return TakeReport(start=0, end=0, reasons=(reason,))
    loudest = max(piece.level_dbfs for piece in pieces)
    pieces = [piece for piece in pieces if piece.level_dbfs > loudest - _BESIDE_DB]
    first, last = pieces[0].start_s, pieces[-1].end_s
    start = max(0, round((first - MARGIN_S) * SAMPLE_RATE_HZ))
    end = min(samples.size, round((last + MARGIN_S) * SAMPLE_RATE_HZ))
    word = samples[round(first * SAMPLE_RATE_HZ) : round(last * SAMPLE_RATE_HZ)]
    level = audio.speech_level_dbfs(word)
    over = level - _background_dbfs(levels, pieces)
    spoken_s = last - first
    reasons = [
        *_check_sound(word, level, over, settings),
        *_check_edges(levels, pieces, loudest),
        *_check_length(pieces, wanted_s),
    ]
    if holes:
        reasons.append(Reason(fault=Fault.HOLES, text="sound is missing inside: the connection was too slow"))
    if not reasons and (copy := find_copy(samples[start:end], earlier)):
        text = f"this is the same recording as {copy}: say it anew"
        reasons.append(Reason(fault=Fault.DUPLICATE, text=text))
    hints = []
    if transcript is not None and (said := doubt_transcript(transcript, phrase)):
        hints.append(said)
    if doubt is not None and not reasons and (said := doubt(samples, start, end)):
        hints.append(said)
    return TakeReport(
        start=start,
        end=end,
        reasons=tuple(reasons),
        hints=tuple(hints),
        level_dbfs=round(level, 1),
        over_background_db=round(over, 1),
        spoken_s=round(spoken_s, 3),
    )


def find_pieces(levels: NDArray[np.float64], word_s: float = 0.9) -> list[Piece]:
    """Stretches that stand out, from the levels of frames of 20 ms every 10 ms; pauses below 0.3 s are inside one.

    Two thresholds: what is within 22 dB of the loud part makes a piece, what is softer and beside it (an "s", a
    breathy end) widens it by 0.2 s at most. One threshold takes the room's hum for a word that does not end. The
    background is the median of what is left when ``word_s`` are spoken.
    """
    spoken = min(0.8, word_s * 100 / levels.size)
    floor = float(np.percentile(levels, 50 * (1 - spoken)))
    above = levels[levels > floor + 6]
    if above.size < 5:
        return []
    loud = float(np.percentile(above, 90))
    if loud - floor < _OVER_FLOOR_DB:
        return []  # a noise that goes up and down
    strong = min(max(loud - _BELOW_LOUD_DB, floor + _OVER_FLOOR_DB), loud - 6)
    soft = max(loud - _SOFT_DB, floor + 6)
    pieces: list[Piece] = []
    for begin, end in _stretches(levels > strong, round(_PAUSE_S * 100)):
        reach = round(_SOFT_S * 100)
        first, last = begin, end
        while first > max(0, begin - reach) and levels[first - 1] > soft:
            first -= 1
        while last < min(levels.size, end + reach) and levels[last] > soft:
            last += 1
        level = float(np.percentile(levels[begin:end], 75))
        pieces.append(Piece(start_s=first / 100, end_s=(last + 1) / 100, level_dbfs=level))
    return pieces


def _stretches(mask: NDArray[np.bool_], gap: int) -> list[tuple[int, int]]:
    """(first, end) of groups of true frames with less than ``gap`` between them and enough sound inside."""
    groups: list[list[int]] = []  # first, end, frames
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
        if groups and begin - groups[-1][1] <= gap:
            groups[-1][1] = end
            groups[-1][2] += end - begin
        else:
            groups.append([begin, end, end - begin])
    return [(begin, end) for begin, end, frames in groups if frames >= _PIECE_FRAMES]


def _background_dbfs(levels: NDArray[np.float64], pieces: Sequence[Piece]) -> float:
    """Mean power of what is not a piece; of the softest twentieth where too little is left."""
    outside = np.ones(levels.size, np.bool_)
    for piece in pieces:
        outside[max(0, round(piece.start_s * 100) - 5) : round(piece.end_s * 100) + 5] = False
    if outside.sum() < _MIN_BACKGROUND_S * 100:
        return float(np.percentile(levels, 5))
    return float(10 * np.log10(np.mean(10 ** (levels[outside] / 10))))


def _check_sound(word: audio.Samples, level: float, over: float, settings: RecordSettings) -> list[Reason]:
    reasons = []
    if level < settings.quiet_dbfs:
        text = f"too quiet ({level:.0f} dBFS): come closer or speak louder"
        reasons.append(Reason(fault=Fault.QUIET, text=text))
    share = clipped_share(word)
    if share > settings.clipped_share:
        text = f"too loud, {share:.1%} of it is cut off: step back or speak softer"
        reasons.append(Reason(fault=Fault.CLIPPED, text=text))
    if over < settings.noise_db:
        text = f"too noisy, the word is only {max(over, 0.0):.0f} dB over the background: turn off what is loud"
        reasons.append(Reason(fault=Fault.NOISY, text=text))
    return reasons


def _check_edges(levels: NDArray[np.float64], pieces: Sequence[Piece], loud_dbfs: float) -> list[Reason]:
    reasons = []
    edge = max(1, round(_EDGE_S * 100))
    if pieces[0].start_s < _EDGE_S and levels[:edge].max() > loud_dbfs - _EDGE_DB:
        reasons.append(Reason(fault=Fault.CUT, text="the beginning is cut off: wait a moment before you speak"))
    if pieces[-1].end_s > levels.size / 100 - _EDGE_S and levels[-edge:].max() > loud_dbfs - _EDGE_DB:
        reasons.append(Reason(fault=Fault.CUT, text="the end is cut off: speak sooner"))
    return reasons


def _check_length(pieces: Sequence[Piece], wanted_s: float) -> list[Reason]:
    reasons = []
    span_s = pieces[-1].end_s - pieces[0].start_s
    most_s = min(LONGEST_WORD_S, 2.0 * wanted_s)
    if len(pieces) > 1 and span_s > most_s:
        text = f"there are {len(pieces)} separate sounds in it: say only the wake word, once"
        reasons.append(Reason(fault=Fault.SEVERAL, text=text))
    elif span_s > most_s:
        text = f"too long, {span_s:.1f} s of speech where about {wanted_s:.1f} s are expected: say only the wake word"
        reasons.append(Reason(fault=Fault.LONG, text=text))
    elif span_s < 0.5 * wanted_s:
        text = f"too short, {span_s:.1f} s of speech where about {wanted_s:.1f} s are expected: say the whole wake word"
        reasons.append(Reason(fault=Fault.SHORT, text=text))
    return reasons


def clipped_share(samples: audio.Samples) -> float:
    """Share of samples (0 to 1) at full scale, or in flat tops: at least three equal samples at the highest value.

    A recording that was turned down after it was clipped has its flat tops lower.
    """
    if not samples.size:
        return 0.0
    rails = (samples >= _RAIL) | (samples <= -_RAIL)
    for extreme in (samples.max(), samples.min()):
        if abs(int(extreme)) < audio.FULL_SCALE // 16:
            continue  # quiet sound has equal samples at its top by rounding
        flat = samples == extreme
        for first, end in _stretches(flat, 0):
            rails[first:end] |= end - first >= _FLAT_RUN
    return float(np.mean(rails))


# ---- what the phrase should be like ---------------------------------------------------------------------------------


def expected_s(phrase: str) -> float:
    """About how long people take to say it: 0.45 s and 0.15 s for each syllable.

    Measured medians: "snowboy" 0.77 s, "smart mirror" 0.91 s, "hey chatterbox" 1.07 s; nine of ten lie between 0.7 and
    1.5 times that.
    """
    return 0.45 + 0.15 * count_syllables(phrase)


def count_syllables(phrase: str) -> int:
    """Roughly, in any script: groups of vowels; signs of Chinese, Japanese and Korean; else two letters each."""
    count, others, in_vowel = 0, 0, False
    for sign in phrase.lower():
        base = unicodedata.normalize("NFD", sign)[0]
        name = unicodedata.name(base, "")
        if not base.isalpha():
            in_vowel = False
        elif name.startswith(("LATIN", "GREEK", "CYRILLIC")):
            vowel = base in "aeiouyæœøıαεηιουωаеиоуыэюяєії"
            count += vowel and not in_vowel
            in_vowel = vowel
        elif name.startswith(("CJK", "HIRAGANA", "KATAKANA", "HANGUL")):
            count += 1
        else:
            others += 1
    return max(1, count + -(-others // 2))


def doubt_transcript(transcript: str, phrase: str) -> str:
    """A hint when speech-to-text read something else; empty when it read about the phrase. It often errs a little."""
    import difflib

    read, wanted = _plain(transcript), _plain(phrase)
    if not read:
        return "speech-to-text read nothing"
    if wanted in read or difflib.SequenceMatcher(None, read, wanted).ratio() >= 0.6:
        return ""
    return f"speech-to-text read {' '.join(transcript.split())[:60]!r}"


def _plain(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFKD", text).casefold() if c.isalnum())


def make_doubt(manifest_path: Path) -> Doubt:
    """The doubt of a model that hears nothing: its peak, as on the device, is below half its cutoff.

    The frontend hears the take's own background for 5 s first. Raises ManifestError, ModelFileError.
    """
    from mww_ha import detector

    manifest = detector.load_manifest(manifest_path)
    model = detector.load_model(manifest)
    lead_size = 5 * SAMPLE_RATE_HZ // (model.stride * _HOP) * model.stride * _HOP

    def doubt(samples: audio.Samples, start: int, end: int) -> str:
        before = samples[: max(start, _HOP)]
        there_and_back = np.concatenate([before[::-1], before])  # ends where the word begins, without a step
        lead = np.tile(there_and_back, -(-lead_size // there_and_back.size))[-lead_size:]
        after = samples[end : end + SAMPLE_RATE_HZ // 2]
        tail = np.resize(after if after.size else before, SAMPLE_RATE_HZ // 2)
        scores = detector.score_samples(model, np.concatenate([lead, samples[start:end], tail]))
        window = manifest.sliding_window
        peak = detector.peak_window_sum(scores, window, lead_size // (model.stride * _HOP)) / window
        if peak >= manifest.cutoff / 2:
            return ""
        return (
            f"the present model hears no wake word in it ({peak / 255:.2f}, it wakes above {manifest.cutoff / 255:.2f})"
        )

    return doubt


# ---- copies ---------------------------------------------------------------------------------------------------------


def find_copy(samples: audio.Samples, earlier: Earlier) -> str:
    """Name of an earlier take that is the same recording, exactly or encoded, scaled and trimmed anew; empty: none."""
    if not earlier:
        return ""
    digest = audio.samples_digest(samples)
    for name, known in earlier:
        if audio.samples_digest(known) == digest:
            return name
    sounds: dict[str, Any] = {"": samples, **dict(earlier)}
    for ids in find_near_duplicates([_stand_in(name) for name in sounds], lambda clip: sounds[clip.id]):
        if "" in ids:
            return next(id for id in ids if id)
    return ""


def _stand_in(name: str) -> Clip:
    return Clip(id=name, path="", sha256=name, label=Label.WAKE, origin=Origin.RECORDED, duration_s=0.0)
