"""Score traces → what each cutoff gives.

A trace is what a model said over one running recording. Everything here is the firmware's decision on such traces;
nothing is averaged across kinds of sound.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mww_ha import detector, metrics

Scores = NDArray[np.uint8]

CUTOFFS = np.arange(256)

WINDOWS = (3, 5, 7, 10)
"""Windows to choose from, in scores (30 ms each at the usual stride of 3)."""

PIECE_S = 2.0
"""Ambient sound is cut into pieces of this length where single trials are needed: histograms, equal error rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeEvent:
    """One wake word in running sound. Detections count at scores ``start_step`` to ``end_step`` (exclusive)."""

    clip: str
    voice: str = ""  # speaker, or engine:voice:speaker
    condition: str = ""  # what lay under it: "quiet", "babble at 5 dB"
    scores: Scores
    start_step: int
    end_step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AmbientTrace:
    """One running recording without the wake word."""

    name: str
    kind: str  # what the rate is labelled with: "synthetic ambient", "real ambient"
    scores: Scores
    hours: float
    speech_hours: float
    marks: tuple[tuple[int, str], ...] = ()  # first step of each source file, ascending


@dataclass(frozen=True, slots=True, kw_only=True)
class LureTrace:
    """Speech that must not wake: another word, a confusable. Detections count as for a WakeEvent."""

    name: str
    text: str
    scores: Scores
    start_step: int = 0
    end_step: int | None = None  # None: the whole trace


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSet:
    """All traces of one split by one model."""

    wake: Sequence[WakeEvent] = ()
    ambient: Sequence[AmbientTrace] = ()
    lures: Sequence[LureTrace] = ()
    stride: int = detector.DEFAULT_STRIDE
    warmup_slices: int = field(default=detector.WARMUP_SLICES)

    def kinds(self) -> list[str]:
        """Kinds of ambient sound, in the order they appear."""
        return list(dict.fromkeys(trace.kind for trace in self.ambient))


def find_wakes(
    scores: Scores, window: int, start: int, end: int, *, stride: int, warmup_slices: int
) -> NDArray[np.bool_]:
    """For each cutoff 0 to 255: does the device detect at a score in ``[start, end)`` of this trace?

    Exact, cool-off and warm-up included, yet usually two sums: a detector that is armed by ``start`` and has not
    fired before detects exactly where the highest window sum exceeds cutoff * window.
    """
    end = min(end, len(scores))
    limits = CUTOFFS * window
    wakes = detector.peak_window_sum(scores, window, start, end) > limits
    below = np.searchsorted(np.sort(scores[:start]), CUTOFFS, side="left")  # scores under each cutoff in the lead
    armed = below * stride >= warmup_slices
    calm = detector.peak_window_sum(scores, window, 0, start) <= limits
    unsure = np.flatnonzero(wakes & ~(armed & calm))
    if len(unsure):
        wakes[unsure] = detector.fires_within(
            scores, unsure, window, start, end, stride=stride, warmup_slices=warmup_slices
        )
    return wakes


def count_hits(events: Iterable[WakeEvent | LureTrace], window: int, traces: TraceSet) -> tuple[NDArray[np.int64], int]:
    """For each cutoff 0 to 255 how many of the events are detected; and how many events there are."""
    hits = np.zeros(256, dtype=np.int64)
    count = 0
    for event in events:
        end = len(event.scores) if event.end_step is None else event.end_step
        hits += find_wakes(
            event.scores, window, event.start_step, end, stride=traces.stride, warmup_slices=traces.warmup_slices
        )
        count += 1
    return hits, count


def count_false_accepts(ambient: Iterable[AmbientTrace], window: int, traces: TraceSet) -> NDArray[np.int64]:
    """For each cutoff 0 to 255 how many detections the ambient traces give."""
    total = np.zeros(256, dtype=np.int64)
    for trace in ambient:
        total += detector.count_detections(
            trace.scores, CUTOFFS, window, stride=traces.stride, warmup_slices=traces.warmup_slices
        )
    return total


def build_curves(traces: TraceSet, window: int) -> dict[str, metrics.Curve]:
    """One curve per kind of ambient sound, all with the same wake words; one named "" where there is no ambient."""
    hits, trials = count_hits(traces.wake, window, traces)
    curves = {}
    for kind in traces.kinds() or [""]:
        ambient = [trace for trace in traces.ambient if trace.kind == kind]
        curves[kind] = metrics.Curve(
            window=window,
            cutoffs=CUTOFFS,
            hits=hits,
            trials=trials,
            false_accepts=count_false_accepts(ambient, window, traces),
            hours=sum(trace.hours for trace in ambient),
        )
    return curves


def join_curves(curves: dict[str, metrics.Curve], budget_per_hour: float) -> metrics.Curve:
    """The curve to choose a cutoff on: all hours counted together, and the worst kind has to keep the budget too.

    A kind whose hours are too few for one event to fit into the budget has no vote of its own: it would forbid all
    or nothing. For choosing only; a report shows the kinds one by one.
    """
    parts = list(curves.values())
    hours = sum(part.hours for part in parts)
    voters = [part.rate for part in parts if part.hours * budget_per_hour >= 1]
    return metrics.Curve(
        window=parts[0].window,
        cutoffs=CUTOFFS,
        hits=parts[0].hits,
        trials=parts[0].trials,
        false_accepts=np.sum([part.false_accepts for part in parts], axis=0),
        hours=hours,
        worst_rate=np.max(voters, axis=0) if voters else None,
    )


def wake_peaks(traces: TraceSet, window: int) -> NDArray[np.int64]:
    """Highest window mean of each wake word, 0 to 255, rounded down as the firmware logs it."""
    return np.array(
        [detector.peak_window_sum(e.scores, window, e.start_step, e.end_step) // window for e in traces.wake],
        dtype=np.int64,
    )


def lure_peaks(traces: TraceSet, window: int) -> NDArray[np.int64]:
    """Highest window mean of each lure, 0 to 255."""
    return np.array(
        [detector.peak_window_sum(e.scores, window, e.start_step, e.end_step) // window for e in traces.lures],
        dtype=np.int64,
    )


def ambient_peaks(ambient: Iterable[AmbientTrace], window: int, stride: int) -> NDArray[np.int64]:
    """Highest window mean of every piece of ``PIECE_S`` of ambient sound, 0 to 255."""
    steps = max(1, round(PIECE_S * 100 / stride))
    peaks = [np.empty(0, dtype=np.int64)]
    for trace in ambient:
        running = np.concatenate([[0], np.cumsum(trace.scores, dtype=np.int64)])
        ends = np.arange(1, len(running))
        means = (running[ends] - running[np.maximum(ends - window, 0)]) // window
        whole = len(means) // steps * steps
        peaks.append(means[:whole].reshape(-1, steps).max(axis=1))
    return np.concatenate(peaks)
