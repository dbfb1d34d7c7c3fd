"""Who trains, who chooses the weights, who judges: no speaker, session, take or near-duplicate on two sides.

Every speaker has a number in [0, 1) from a hash of its name: below ``test_share`` it is TEST, then VALIDATION, the
rest TRAIN. What belongs together is grouped, and a group has the largest number of its members. So as a project grows:

- a group never leaves TRAIN; when two groups turn out to belong together, one of them may move towards TRAIN;
- the exceptions are small: where a side would stay empty (see ``split_clips``) the group with the smallest number is
  lent to it, and goes back when the hash brings somebody else.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mww_ha import audio
from mww_ha.config import SplitSettings
from mww_ha.errors import DataError, SplitLeakError
from mww_ha.schema import SAMPLE_RATE_HZ, Clip, Label, Origin, Progress, ProgressSink, Split, no_progress

Load = Callable[[Clip], audio.Samples]
"""Reads the int16 samples of a clip."""

MIN_GROUPS = 3
"""One speaker for each side."""

MAX_COMPARED_S = 60.0
"""Longer clips are not compared by their sound: recordings of rooms and streets, not takes."""

SAME_TAKE_CORRELATION = 0.9
"""Waveforms (150 to 4000 Hz) that correlate more than this are one take. Measured on 991 takes of three words by 68
people: copies 0.96 and more, everything else 0.72 and less (tools/bench_duplicates.py)."""

ALIKE = 0.93
"""Spectrograms that correlate less than this are not compared further: copies measured 0.97 and more."""

_MAX_FAILED_COMPARISONS = 6  # per clip, the most alike first: many alike takes must not cost a quadratic number


def hash_share(key: str, salt: str) -> float:
    """A number in [0, 1) that depends on nothing but ``key`` and ``salt``."""
    value = hashlib.sha256(f"{salt}\n{key}".encode()).digest()
    return int.from_bytes(value[:7], "big") / (1 << 56)


def assign_split(group_key: str, settings: SplitSettings) -> Split:
    """The side of somebody called ``group_key``: a pure function of the name, whoever else is there."""
    return _side(hash_share(group_key, settings.salt), settings)


def _side(share: float, settings: SplitSettings) -> Split:
    if share < settings.test_share:
        return Split.TEST
    return Split.VALIDATION if share < settings.test_share + settings.validation_share else Split.TRAIN


def voice_keys(speaker: str) -> tuple[str, ...]:
    """The names by which a speaker is held out; several when a voice is a mixture.

    - espeak-ng's ``espeak-ng:gmw/en+f2``: the variant (``espeak-ng:+f2``), which sounds the same in every accent;
    - a mixture ``piper:voice:3~7``: both ``piper:voice:3`` and ``piper:voice:7``;
    - anybody else: the name as it is.
    """
    engine, _, rest = speaker.partition(":")
    if engine in ("espeak", "espeak-ng") and rest:
        return (f"{engine}:+{rest.partition('+')[2]}",)
    head, _, last = speaker.rpartition(":")
    if "~" in last and head:
        return tuple(dict.fromkeys(f"{head}:{part}" for part in last.split("~")))
    return (speaker,)


def engine_of(clip: Clip) -> str:
    """The synthesizer that spoke a clip; empty for people and for sounds."""
    return clip.speaker.partition(":")[0] if clip.origin is Origin.SYNTHESIZED else ""


def _identities(clip: Clip) -> list[str]:
    """Who a clip counts as, for the hash: its speaker; unknown: its session, its take, or its own sound."""
    if clip.speaker:
        return [f"speaker {key}" for key in voice_keys(clip.speaker)]
    if clip.session:
        return [f"session {clip.session}"]
    return [f"take {clip.take}" if clip.take else f"sound {clip.sha256}"]


def _ties(clip: Clip) -> Iterator[str]:
    """Everything that a clip may share with clips on its own side only."""
    yield from _identities(clip)
    yield f"clip {clip.id}"
    yield f"sound {clip.sha256}"
    if clip.take:
        yield f"take {clip.take}"
    if clip.parent:
        yield f"clip {clip.parent}"


class _Groups:
    """Union-find over strings."""

    __slots__ = ("_parent",)

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, item: str) -> str:
        parent = self._parent.setdefault(item, item)
        if parent != item:
            parent = self._parent[item] = self.root(parent)
        return parent

    def join(self, items: Iterable[str]) -> None:
        roots = sorted({self.root(item) for item in items})
        for other in roots[1:]:
            self._parent[other] = roots[0]


def group_clips(clips: Sequence[Clip], duplicates: Iterable[Sequence[str]] = ()) -> list[list[Clip]]:
    """Clips that must stay together: by speaker (voice), session of unknown speakers, take, parent, and
    ``duplicates`` (groups of clip ids). Every clip is in exactly one group.
    """
    groups = _Groups()
    for clip in clips:
        groups.join(_ties(clip))
    for ids in duplicates:
        groups.join(f"clip {id}" for id in ids)
    found: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        found[groups.root(f"clip {clip.id}")].append(clip)
    return list(found.values())


def split_clips(
    clips: Sequence[Clip], settings: SplitSettings, load: Load, *, report: ProgressSink = no_progress
) -> dict[str, Split]:
    """The side of every clip, by clip id.

    Near-duplicates among recorded and imported clips are found by their sound (``load``) and kept together. Where the
    hash leaves a side empty it is filled, so that each side has at least one group of wake words, and also of every
    other label and every synthesizer that has at least ``MIN_GROUPS``.

    Raises DataError when the wake words come from fewer than ``MIN_GROUPS`` groups of speakers.
    """
    heard = [clip for clip in clips if _is_compared(clip)]
    duplicates = find_near_duplicates(heard, load, report=report)
    groups = group_clips(clips, duplicates)
    wake = sum(any(clip.label is Label.WAKE for clip in group) for group in groups)
    if wake < MIN_GROUPS:
        known = sorted({clip.speaker for clip in clips if clip.label is Label.WAKE and clip.speaker})
        names = f" ({', '.join(known[:5])})" if known else ""
        raise DataError(
            f"the wake word has {wake} {'speaker' if wake == 1 else 'speakers'}{names}; a split needs {MIN_GROUPS}",
            hint="synthesize more voices (mww-ha synthesize), or import more people with --speaker NAME",
        )
    sides = _assign(groups, settings)
    assignment = {clip.id: side for group, side in zip(groups, sides, strict=True) for clip in group}
    check_no_leak(assignment, clips, duplicates)
    return assignment


def _is_compared(clip: Clip) -> bool:
    """Synthesized clips are unique by plan; impulse responses are not takes."""
    return clip.origin is not Origin.SYNTHESIZED and clip.label is not Label.RIR and clip.duration_s <= MAX_COMPARED_S


def _assign(groups: list[list[Clip]], settings: SplitSettings) -> list[Split]:
    shares = [_group_share(group, settings) for group in groups]
    sides = [_side(share, settings) for share in shares]
    strata: dict[tuple[int, str], set[int]] = defaultdict(set)
    order = list(Label)
    for index, group in enumerate(groups):
        for clip in group:
            strata[order.index(clip.label), ""].add(index)
            strata[order.index(clip.label), engine_of(clip) or "people"].add(index)
    # The wake word first, all speakers together, then engine by engine; what one stratum got, the next leaves it.
    guarded: list[list[int]] = []
    for _, members in sorted(strata.items()):
        if len(members) < MIN_GROUPS:
            continue
        guarded.append(sorted(members, key=lambda index: (shares[index], groups[index][0].id)))
        _fill_sides(guarded, sides)
    return sides


def _group_share(group: list[Clip], settings: SplitSettings) -> float:
    if any(clip.speaker in settings.always_train for clip in group if clip.speaker):
        return 1.0
    return max(hash_share(name, settings.salt) for clip in group for name in _identities(clip))


def _fill_sides(guarded: list[list[int]], sides: list[Split]) -> None:
    """Gives each side a member of the last stratum, taking none that another side of any stratum lives on.

    TEST and VALIDATION borrow the smallest number, TRAIN the largest: growth can only replace a borrowed group.
    """
    members = guarded[-1]
    for side in (Split.TEST, Split.VALIDATION, Split.TRAIN):
        if any(sides[index] is side for index in members):
            continue
        candidates = members if side is not Split.TRAIN else members[::-1]
        for index in candidates:
            alone = any(
                index in stratum and sum(sides[other] is sides[index] for other in stratum) < 2 for stratum in guarded
            )
            if not alone:
                sides[index] = side
                break


def check_no_leak(
    assignment: Mapping[str, Split], clips: Iterable[Clip], duplicates: Iterable[Sequence[str]] = ()
) -> None:
    """Raises SplitLeakError when a speaker, session, take, sound or near-duplicate stands on two sides, naming it and a
    clip on either side; DataError when a clip has no side.
    """
    seen: dict[str, Clip] = {}
    by_id: dict[str, Clip] = {}

    def place(tie: str, clip: Clip) -> None:
        other = seen.setdefault(tie, clip)
        if assignment[other.id] is not assignment[clip.id]:
            raise SplitLeakError(
                f"{tie} is on two sides: clip {other.id} ({_named(other)}) in {assignment[other.id]}, "
                f"clip {clip.id} ({_named(clip)}) in {assignment[clip.id]}",
                hint="run mww-ha prepare again; if it stays, this is a defect worth reporting",
            )

    for clip in clips:
        if clip.id not in assignment:
            raise DataError(f"clip {clip.id} ({_named(clip)}) has no side", hint="run mww-ha prepare again")
        by_id[clip.id] = clip
        for tie in _ties(clip):
            place(tie, clip)
    for ids in duplicates:
        for id in ids:
            if id in by_id:
                place(f"near-duplicate of {ids[0]}", by_id[id])


def _named(clip: Clip) -> str:
    return ", ".join(part for part in (clip.speaker, clip.source) if part) or clip.path


# Near-duplicates: alike spectrograms around two anchors that do not move when a clip is trimmed, scaled or encoded
# again; then the waveforms decide.

_WINDOW = 20_480  # samples of the fingerprint: 1.28 s, about a wake word
_FRAME, _HOP = 512, 320
_BANDS = 16
_REACH = 12_000  # samples on each side of the anchor that the waveforms are compared on


def find_near_duplicates(clips: Sequence[Clip], load: Load, *, report: ProgressSink = no_progress) -> list[list[str]]:
    """Groups (two or more clip ids, sorted) of copies of one take: encoded again, scaled, shifted, trimmed.

    Two clips are copies when they are ``ALIKE`` and their waveforms correlate by ``SAME_TAKE_CORRELATION``; copies of
    copies join. Clips that hold nothing but silence are never copies. About 2 ms per clip on one core.
    """
    if len(clips) < 2:
        return []
    prints = np.zeros((2, len(clips), (_WINDOW - _FRAME) // _HOP * _BANDS + _BANDS), np.float32)
    told = 0.0
    for index, clip in enumerate(clips):
        samples = load(clip)
        for number, anchor in enumerate(_anchors(samples)):
            prints[number, index] = _fingerprint(samples, anchor)
        if time.monotonic() - told > 0.1:
            told = time.monotonic()
            report(Progress(stage="split", message="comparing takes", done=index + 1, total=len(clips), unit="clips"))
    groups = _Groups()
    failed = [0] * len(clips)

    @functools.lru_cache(maxsize=1024)  # 100 MB
    def spectrum(index: int, number: int) -> NDArray[np.complex64]:
        samples = load(clips[index])
        return _spectrum(_around(samples, _anchors(samples)[number], _REACH))

    for _, a, b, number in sorted(_alike_pairs(prints), reverse=True):
        if groups.root(clips[a].id) == groups.root(clips[b].id):
            continue
        if failed[a] >= _MAX_FAILED_COMPARISONS or failed[b] >= _MAX_FAILED_COMPARISONS:
            continue
        if _correlation(spectrum(a, number), spectrum(b, number)) >= SAME_TAKE_CORRELATION:
            groups.join((clips[a].id, clips[b].id))
        else:
            failed[a] += 1
            failed[b] += 1
    found: dict[str, list[str]] = defaultdict(list)
    for id in sorted(clip.id for clip in clips):
        found[groups.root(id)].append(id)
    return sorted(ids for ids in found.values() if len(ids) > 1)


def _anchors(samples: audio.Samples) -> tuple[int, int]:
    """Two places that belong to the sound and not to the file: its centre of energy and its loudest 100 ms."""
    step = 16  # samples: 1 ms is fine enough
    centred = samples[: samples.size // step * step].astype(np.float32)
    centred -= samples.mean(dtype=np.float64)
    power = np.square(centred, out=centred).reshape(-1, step).sum(axis=1, dtype=np.float64)
    total = np.concatenate([[0.0], np.cumsum(power)])
    if total[-1] <= 0:
        return (0, 0)
    centre = float(np.dot(power, np.arange(power.size)) / total[-1])
    span = min(1600 // step, power.size)
    loudest = int(np.argmax(total[span:] - total[:-span])) + span // 2
    return (round(centre * step), loudest * step)


def _around(samples: audio.Samples, anchor: int, reach: int) -> NDArray[np.float32]:
    """float32 ``[2 * reach]`` around ``anchor``, zeros beyond the ends."""
    piece = np.zeros(2 * reach, np.float32)
    start = max(0, anchor - reach)
    stop = min(samples.size, anchor + reach)
    piece[start - anchor + reach : stop - anchor + reach] = samples[start:stop]
    return piece


@functools.cache
def _analysis() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A Hann window and a 0/1 matrix ``[bins, bands]`` of bands evenly wide on the mel scale, 94 to 4000 Hz."""
    mel = np.linspace(2595 * np.log10(1 + 94 / 700), 2595 * np.log10(1 + 4000 / 700), _BANDS + 1)
    edges = np.round(700 * (10 ** (mel / 2595) - 1) * _FRAME / SAMPLE_RATE_HZ).astype(int)
    matrix = np.zeros((_FRAME // 2 + 1, _BANDS), np.float32)
    for band, (low, high) in enumerate(itertools.pairwise(edges)):
        matrix[low : max(high, low + 1), band] = 1
    return np.hanning(_FRAME).astype(np.float32), matrix


def _fingerprint(samples: audio.Samples, anchor: int) -> NDArray[np.float32]:
    """Unit vector: log band energies around ``anchor`` without their mean, nothing more than 50 dB below the loudest.

    All zeros for silence.
    """
    from scipy import fft

    window, bands = _analysis()
    frames = audio.frame(_around(samples, anchor, _WINDOW // 2), _FRAME, _HOP)
    power = np.abs(fft.rfft(frames * window)) ** 2 @ bands
    top = float(power.max())
    if top <= 0:
        return np.zeros(power.size, np.float32)
    levels = np.log(np.maximum(power, top * 1e-5)).ravel()
    levels -= levels.mean()
    norm = float(np.linalg.norm(levels))
    unit: NDArray[np.float32] = (levels / norm if norm > 0 else levels).astype(np.float32)
    return unit


def _alike_pairs(prints: NDArray[np.float32]) -> list[tuple[float, int, int, int]]:
    """(likeness, a, b, which anchor) of all pairs a < b that are ``ALIKE``, blockwise: memory stays small."""
    pairs: list[tuple[float, int, int, int]] = []
    count = prints.shape[1]
    for number, start in itertools.product(range(prints.shape[0]), range(0, count, 1024)):
        block = prints[number, start : start + 1024] @ prints[number, start:].T
        rows, columns = np.nonzero(np.triu(block >= ALIKE, k=1))
        pairs += [
            (float(block[r, c]), int(r) + start, int(c) + start, number) for r, c in zip(rows, columns, strict=True)
        ]
    return pairs


def _spectrum(piece: NDArray[np.float32]) -> NDArray[np.complex64]:
    """Zero-padded spectrum of unit energy, 150 to 4000 Hz only: no hum, no offset, no hiss of an encoder."""
    from scipy import fft

    size = 2 * piece.size
    spectrum: NDArray[np.complex64] = fft.rfft(piece, size)[: size // 4]
    spectrum[: round(150 * size / SAMPLE_RATE_HZ)] = 0
    norm = float(np.linalg.norm(spectrum))
    return spectrum / np.float32(norm) if norm > 0 else spectrum


def _correlation(a: NDArray[np.complex64], b: NDArray[np.complex64]) -> float:
    """Largest absolute correlation of two signals over all shifts, 0 to 1, from their ``_spectrum``s."""
    from scipy import fft

    # The spectra end at 4 kHz: the transform back is at 8 kHz, half the work.
    shifts = fft.irfft(np.conj(a) * b, 2 * a.size) * a.size
    return float(np.abs(shifts).max())
