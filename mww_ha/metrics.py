"""Scores + labels → rates with intervals. NumPy only; all intervals are exact, none is a normal approximation.

Misses and false accepts are counted by the detector; here they become shares, rates, curves and operating points.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mww_ha.schema import Interval

CONFIDENCE = 0.95

BUDGETS_PER_HOUR = (2.0, 1.0, 0.5, 0.2)
"""False accepts per hour at which recall is reported."""

SENSITIVITY_FACTORS = {"low": 0.25, "medium": 1.0, "high": 4.0}
"""Sensitivity levels as multiples of the false-accept budget."""

HIGHEST_CUTOFF = 254
"""Sums must exceed cutoff * window and a score is at most 255, so 255 never detects."""


# --- Intervals -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _log_factorials(n: int) -> NDArray[np.float64]:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def _binomial_at_most(k: int, n: int, p: float) -> float:
    """P(X <= k) for X ~ Binomial(n, p), 0 < p < 1. Sums the shorter tail."""
    logs = _log_factorials(n)
    upper = k >= n / 2
    x = np.arange(k + 1, n + 1) if upper else np.arange(k + 1)
    terms = logs[n] - logs[x] - logs[n - x] + x * math.log(p) + (n - x) * math.log1p(-p)
    total = float(np.exp(terms).sum())
    return max(0.0, 1 - total) if upper else min(1.0, total)


def _poisson_at_most(k: int, mean: float) -> float:
    """P(X <= k) for X ~ Poisson(mean), mean > 0."""
    x = np.arange(k + 1)
    return min(1.0, float(np.exp(x * math.log(mean) - mean - _log_factorials(k)).sum()))


def _crossing(falling: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Where a falling function meets ``target`` between ``low`` and ``high``, by bisection to 1e-11 of the place."""
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high or high - low <= 1e-11 * high:
            break
        low, high = (middle, high) if falling(middle) > target else (low, middle)
    return (low + high) / 2


@lru_cache(maxsize=65536)
def _share_bounds(k: int, n: int, tail: float) -> tuple[float, float]:
    low = 0.0 if k == 0 else _crossing(lambda p: _binomial_at_most(k - 1, n, p), 1 - tail, 0.0, 1.0)
    high = 1.0 if k == n else _crossing(lambda p: _binomial_at_most(k, n, p), tail, 0.0, 1.0)
    return low, high


@lru_cache(maxsize=65536)
def _count_bounds(k: int, tail: float) -> tuple[float, float]:
    ceiling = k + 10 * math.sqrt(k + 1) + 30
    low = 0.0 if k == 0 else _crossing(lambda m: _poisson_at_most(k - 1, m), 1 - tail, 0.0, ceiling)
    return low, _crossing(lambda m: _poisson_at_most(k, m), tail, 0.0, ceiling)


def share_interval(k: int, n: int, *, confidence: float = CONFIDENCE) -> Interval:
    """``k`` of ``n`` with its two-sided Clopper-Pearson interval. ``n`` must be positive.

    At k = n (or 0) one side is fixed, yet the other keeps its half of the error: 12 of 12 gives 0.735 to 1.
    """
    if not 0 <= k <= n or n < 1:
        raise ValueError(f"{k} of {n} is no share")
    low, high = _share_bounds(int(k), int(n), (1 - confidence) / 2)
    return Interval(value=k / n, low=low, high=high, events=int(k), exposure=float(n), unit="share")


def rate_interval(events: int, hours: float, *, confidence: float = CONFIDENCE) -> Interval:
    """``events`` in ``hours`` with its two-sided exact Poisson interval. ``hours`` must be positive."""
    if events < 0 or not hours > 0:
        raise ValueError(f"{events} events in {hours} hours is no rate")
    low, high = _count_bounds(int(events), (1 - confidence) / 2)
    return Interval(
        value=events / hours,
        low=low / hours,
        high=high / hours,
        events=int(events),
        exposure=float(hours),
        unit="per hour",
    )


def rate_upper_bound(events: int, hours: float, *, confidence: float = CONFIDENCE) -> float:
    """The rate per hour that lies above the true one with ``confidence`` (one-sided): 0 events in H hours → 3.0 / H."""
    if events < 0 or not hours > 0:
        raise ValueError(f"{events} events in {hours} hours is no rate")
    return _count_bounds(int(events), 1 - confidence)[1] / hours


def hours_to_prove(rate_per_hour: float, events: int = 0, *, confidence: float = CONFIDENCE) -> float:
    """Hours in which at most ``events`` must happen to show that the true rate is below ``rate_per_hour``."""
    return rate_upper_bound(events, 1.0, confidence=confidence) / rate_per_hour


def describe_hours(events: int, hours: float, budget_per_hour: float, kind: str) -> str:
    """One plain sentence on what these hours of ``kind`` show about the budget, and what they cannot."""
    bound = rate_upper_bound(events, hours)
    measured = f"{events} false accept{'' if events == 1 else 's'} in {hours:.1f} h of {kind}"
    if bound <= budget_per_hour:
        return f"{measured}: with 95 % confidence fewer than {bound:.2g} per hour of such sound."
    least = _count_bounds(int(events), 1 - CONFIDENCE)[0] / hours
    if least > budget_per_hour:
        return (
            f"{measured}: with 95 % confidence more than {least:.2g} per hour of such sound; "
            f"the budget of {budget_per_hour:g} per hour is exceeded."
        )
    needed = hours_to_prove(budget_per_hour)
    return (
        f"{measured}: with 95 % confidence fewer than {bound:.2g} per hour of such sound, which does not prove the "
        f"budget of {budget_per_hour:g} per hour; that takes {needed:.1f} h without any."
    )


# --- Pairs -----------------------------------------------------------------------------------------------------------


def sign_test(better: int, worse: int) -> float:
    """Exact two-sided p: how likely a fair coin falls at least as unevenly as ``better`` to ``worse``.

    The exact form of McNemar's test; pairs without a difference do not count. 1.0 where there is no difference.
    """
    if better < 0 or worse < 0:
        raise ValueError(f"{better} better and {worse} worse are no counts")
    differ = better + worse
    return min(1.0, 2 * _binomial_at_most(min(better, worse), differ, 0.5)) if differ else 1.0


def paired_interval(better: int, worse: int, exposure: float, unit: str) -> Interval:
    """``(better - worse) / exposure`` with an interval that leaves out 0 exactly where ``sign_test`` is below 5 %.

    Given how many pairs differ; that number's own chance is not in it. Where none differs it is what so few pairs (unit
    share) or hours (unit per hour) could hide, either way.
    """
    differ = better + worse
    if not differ:
        none = share_interval(0, round(exposure)) if unit == "share" else rate_interval(0, exposure)
        return Interval(value=0.0, low=-none.high, high=none.high, events=0, exposure=float(exposure), unit=unit)
    share = share_interval(better, differ)
    value, low, high = (differ * (2 * part - 1) / exposure for part in (share.value, share.low, share.high))
    return Interval(value=value, low=low, high=high, events=differ, exposure=float(exposure), unit=unit)


# --- Curves ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """What each cutoff gives at one window: how many of ``trials`` are heard, how often ``hours`` of sound wake it."""

    window: int
    cutoffs: NDArray[np.int64]  # ascending
    hits: NDArray[np.int64]
    trials: int
    false_accepts: NDArray[np.int64]
    hours: float
    worst_rate: NDArray[np.float64] | None = None  # per hour of the kind of sound that wakes it most often

    @property
    def recall(self) -> NDArray[np.float64]:
        """Share of wake words heard, per cutoff."""
        return self.hits / max(1, self.trials)

    @property
    def rate(self) -> NDArray[np.float64]:
        """False accepts per hour, per cutoff; infinite where there were no hours to count in."""
        if self.hours <= 0:
            return np.full(len(self.cutoffs), np.inf)
        return self.false_accepts / self.hours

    @property
    def budget_rate(self) -> NDArray[np.float64]:
        """The rate that must keep a budget: that of the worst kind of sound, where kinds are told apart."""
        return self.rate if self.worst_rate is None else np.maximum(self.rate, self.worst_rate)

    def at(self, cutoff: int) -> int:
        """Index of ``cutoff``; KeyError where the curve does not have it."""
        place = int(np.searchsorted(self.cutoffs, cutoff))
        if place == len(self.cutoffs) or self.cutoffs[place] != cutoff:
            raise KeyError(cutoff)
        return place


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """A cutoff and a window, with what they gave where they were chosen or judged."""

    cutoff: int
    window: int
    recall: Interval | None  # None: no wake word was tried
    false_accepts: Interval | None  # None: no hours were listened to
    margin: int  # cutoff steps up or down that leave hits and false accepts as they are
    budget_per_hour: float
    within_budget: bool


def recall_at(curve: Curve, budget_per_hour: float) -> OperatingPoint | None:
    """The best that a real cutoff of this curve reaches within the budget; None if none keeps it.

    No interpolation: a device can only be set to one of these cutoffs.
    """
    point = choose_operating_point([curve], budget_per_hour)
    return point if point.within_budget else None


def partial_area(curve: Curve, most_per_hour: float = 1.0) -> float:
    """Mean recall over all budgets from 0 to ``most_per_hour`` (the normalised partial area under the curve).

    Recall within a budget is a staircase: the best cutoff whose rate does not exceed it. 0.0 to 1.0.
    """
    order = np.argsort(curve.rate, kind="stable")
    rates = curve.rate[order]
    best = np.maximum.accumulate(curve.recall[order]) if len(order) else np.empty(0)
    inside = rates < most_per_hour
    rates, best = rates[inside], best[inside]
    if len(rates) == 0:
        return 0.0
    widths = np.diff(np.append(rates, most_per_hour))
    return float((widths * best).sum() / most_per_hour)


def equal_error_rate(wake_peaks: NDArray[np.integer], other_peaks: NDArray[np.integer]) -> float:
    """Where the share of wake words missed equals the share of other sounds accepted, by threshold on the peaks.

    A footnote: it lies at a threshold that nobody would use. Both arrays must hold something.
    """
    if len(wake_peaks) == 0 or len(other_peaks) == 0:
        raise ValueError("an equal error rate needs both wake words and other sounds")
    thresholds = np.unique(np.concatenate([wake_peaks, other_peaks]))
    thresholds = np.concatenate([[thresholds[0] - 1], thresholds])
    misses = np.searchsorted(np.sort(wake_peaks), thresholds, side="right") / len(wake_peaks)
    accepts = 1 - np.searchsorted(np.sort(other_peaks), thresholds, side="right") / len(other_peaks)
    place = int(np.argmin(np.abs(misses - accepts)))
    return float((misses[place] + accepts[place]) / 2)


# --- Operating points ------------------------------------------------------------------------------------------------


def choose_operating_point(curves: Sequence[Curve], budget_per_hour: float) -> OperatingPoint:
    """The cutoff and window with the most wake words heard within the budget.

    Ties: fewer false accepts, then the wider margin (the middle of a plateau), then the smaller window. Where no
    cutoff keeps the budget, the one with the fewest false accepts, with ``within_budget`` False. Choose on
    validation, judge on test.
    """
    best: tuple[tuple[float, ...], Curve, int, int] | None = None
    key: tuple[float, ...]
    for curve in curves:
        usable = np.flatnonzero((curve.cutoffs >= 1) & (curve.cutoffs <= HIGHEST_CUTOFF))
        inside = usable[curve.budget_rate[usable] <= budget_per_hour]
        margins = _margins(curve)
        for place in inside if len(inside) else usable:
            hits, events = int(curve.hits[place]), int(curve.false_accepts[place])
            margin = int(margins[place])
            if len(inside):
                key = (1.0, float(hits), -float(events), float(margin), -float(curve.window))
            else:
                key = (0.0, -float(events), float(hits), float(margin), -float(curve.window))
            if best is None or key > best[0]:
                best = (key, curve, int(place), margin)
    if best is None:
        raise ValueError("no curve has a usable cutoff")
    key, curve, place, margin = best
    return _point(curve, place, margin, budget_per_hour)


def point_at(curve: Curve, cutoff: int, budget_per_hour: float) -> OperatingPoint:
    """What a given cutoff gives on this curve, for example a cutoff chosen on validation on the test's curve."""
    place = curve.at(cutoff)
    return _point(curve, place, int(_margins(curve)[place]), budget_per_hour)


def _point(curve: Curve, place: int, margin: int, budget_per_hour: float) -> OperatingPoint:
    return OperatingPoint(
        cutoff=int(curve.cutoffs[place]),
        window=curve.window,
        recall=share_interval(int(curve.hits[place]), curve.trials) if curve.trials else None,
        false_accepts=rate_interval(int(curve.false_accepts[place]), curve.hours) if curve.hours > 0 else None,
        margin=margin,
        budget_per_hour=budget_per_hour,
        within_budget=bool(curve.budget_rate[place] <= budget_per_hour),
    )


def _margins(curve: Curve) -> NDArray[np.int64]:
    """Per cutoff: how many steps up and down leave hits and false accepts unchanged (the smaller of both)."""
    count = len(curve.cutoffs)
    if count == 0:
        return np.empty(0, dtype=np.int64)
    changes = np.flatnonzero((np.diff(curve.hits) != 0) | (np.diff(curve.false_accepts) != 0))
    starts = np.concatenate([[0], changes + 1])
    ends = np.concatenate([changes, [count - 1]])
    group = np.searchsorted(starts, np.arange(count), side="right") - 1
    below = curve.cutoffs - curve.cutoffs[starts[group]]
    above = curve.cutoffs[ends[group]] - curve.cutoffs
    margins: NDArray[np.int64] = np.minimum(below, above)
    return margins


def choose_sensitivities(curve: Curve, medium: OperatingPoint) -> dict[str, OperatingPoint]:
    """Three levels at ``medium``'s window: ``low`` a quarter of its budget, ``high`` four times.

    The window is the same because a running device can change its cutoff but not its window. The cutoffs are apart:
    where the data would give two levels the same one, the outer level moves by one step; at the end of the scale
    (254 or 1) that is impossible and two levels stay equal.
    """
    levels = {}
    for name, factor in SENSITIVITY_FACTORS.items():
        budget = medium.budget_per_hour * factor
        cutoff = medium.cutoff if name == "medium" else choose_operating_point([curve], budget).cutoff
        if name == "low":
            cutoff = min(HIGHEST_CUTOFF, max(cutoff, medium.cutoff + 1))
        elif name == "high":
            cutoff = max(1, min(cutoff, medium.cutoff - 1))
        levels[name] = point_at(curve, cutoff, budget)
    return levels


def usable_cutoffs(curve: Curve, low_per_hour: float = 0.1, high_per_hour: float = 2.0) -> int:
    """Different cutoffs whose rate lies between the two: how finely the useful range is resolved.

    0 or 1 means that the scores pile up and the budget cannot be chosen. With few hours the rates themselves are
    coarse: one event in H hours is 1 / H.
    """
    return int(np.count_nonzero((curve.rate >= low_per_hour) & (curve.rate <= high_per_hour)))
