"""Copies of one recording, found by their sound: encoded again, scaled, shifted, trimmed.

Alike spectrograms around two anchors that do not move with any of that make a candidate; then the waveforms decide.
"""

from __future__ import annotations

import functools
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from mww_ha import audio
from mww_ha.schema import SAMPLE_RATE_HZ, Clip, Progress, ProgressSink, no_progress

Load = Callable[[Clip], audio.Samples]
"""Reads the int16 samples of a clip."""

SAME_TAKE_CORRELATION = 0.9
"""Waveforms (150 to 4000 Hz) that correlate more than this are one take. Measured on 991 takes of three words by 68
people: copies 0.96 and more, everything else 0.72 and less (tools/bench_duplicates.py)."""

ALIKE = 0.93
"""Spectrograms that correlate less than this are not compared further: copies measured 0.97 and more."""

_MAX_FAILED_COMPARISONS = 6  # per clip, the most alike first: many alike takes must not cost a quadratic number

_WINDOW = 20_480  # samples of the fingerprint: 1.28 s, about a wake word
_FRAME, _HOP = 512, 320
_BANDS = 16
_REACH = 12_000  # samples on each side of the anchor that the waveforms are compared on


class Groups:
    """Union-find over strings."""

    __slots__ = ("_parent",)

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def root(self, item: str) -> str:
        """The name of the group that ``item`` is in."""
        parent = self._parent.setdefault(item, item)
        if parent != item:
            parent = self._parent[item] = self.root(parent)
        return parent

    def join(self, items: Iterable[str]) -> None:
        """Makes one group of all of them."""
        roots = sorted({self.root(item) for item in items})
        for other in roots[1:]:
            self._parent[other] = roots[0]


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
    groups = Groups()
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
