"""Traces → report: cutoff and window chosen on validation, judged on test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from mww_ha import detector, frontend, metrics
from mww_ha.evaluate.curve import (
    PIECE_S,
    WINDOWS,
    AmbientTrace,
    LureTrace,
    TraceSet,
    WakeEvent,
    ambient_peaks,
    build_curves,
    join_curves,
    lure_peaks,
    wake_peaks,
)
from mww_ha.evaluate.report import (
    CurveRows,
    Data,
    FalseAccept,
    Histogram,
    KindRate,
    Level,
    Miss,
    RecallAt,
    Report,
    ShareRow,
)

Event = TypeVar("Event")

BINS = 32
MOST_ROWS = 40
"""Rows in the lists of worst misses and false accepts."""

FEWEST_CUTOFFS = 3
"""Cutoffs between 0.1 and 2 false accepts per hour below which the scores count as saturated."""


def choose_levels(
    validation: TraceSet, *, budget_per_hour: float = 0.5, windows: Sequence[int] = WINDOWS
) -> dict[str, metrics.OperatingPoint]:
    """``low``, ``medium`` and ``high`` sensitivity, chosen on validation for the false-accept budget.

    ``medium`` has the window and cutoff that hear most wake words within the budget, all ambient hours together and
    the worst kind of sound alone; ``low`` has a quarter of the budget and ``high`` four times, at the same window.
    """
    joined = {window: join_curves(build_curves(validation, window), budget_per_hour) for window in windows}
    medium = metrics.choose_operating_point(list(joined.values()), budget_per_hour)
    return metrics.choose_sensitivities(joined[medium.window], medium)


def evaluate_traces(
    validation: TraceSet,
    test: TraceSet,
    *,
    phrase: str,
    model: str,
    made_at: str,
    budget_per_hour: float = 0.5,
    windows: Sequence[int] = WINDOWS,
    provenance: Mapping[str, str] | None = None,
) -> Report:
    """The report of a run: operating points chosen on ``validation``, everything else measured on ``test``."""
    levels = choose_levels(validation, budget_per_hour=budget_per_hour, windows=windows)
    medium = levels["medium"]
    joined = join_curves(build_curves(validation, medium.window), budget_per_hour)
    hours = ", ".join(f"{_hours(validation, kind):.3g} h of {kind}" for kind in validation.kinds()) or "no ambient"
    chosen_on = (
        f"Chosen on other voices and sound than those here: {len(validation.wake)} wake words and {hours}, "
        f"for at most {budget_per_hour:g} false accepts per hour."
    )
    warnings = []
    if not medium.within_budget:
        warnings.append(
            f"No cutoff keeps {budget_per_hour:g} false accepts per hour on validation; this one has the fewest."
        )
    if joined.hours > 0 and metrics.usable_cutoffs(joined) < FEWEST_CUTOFFS:
        warnings.append(
            f"Only {metrics.usable_cutoffs(joined)} cutoffs lie between 0.1 and 2 false accepts per hour on validation "
            f"({joined.hours:.3g} h): the scores pile up, or the hours are too few to tell cutoffs apart."
        )
    return _judge(
        test,
        {name: (point.cutoff, point.window) for name, point in levels.items()},
        budgets={name: (point.budget_per_hour, point.within_budget) for name, point in levels.items()},
        statement_budget=budget_per_hour,
        phrase=phrase,
        model=model,
        made_at=made_at,
        chosen_on=chosen_on,
        warnings=tuple(warnings),
        provenance=provenance,
    )


def judge_manifest(
    test: TraceSet,
    manifest: detector.Manifest,
    *,
    made_at: str,
    budget_per_hour: float = 0.5,
    warnings: tuple[str, ...] = (),
    provenance: Mapping[str, str] | None = None,
) -> Report:
    """The report of a finished model at the cutoff and window of its own manifest."""
    return _judge(
        test,
        {"manifest": (manifest.cutoff, manifest.sliding_window)},
        budgets={},
        statement_budget=budget_per_hour,
        phrase=manifest.wake_word,
        model=manifest.model_path.name,
        made_at=made_at,
        chosen_on="As the manifest says.",
        warnings=warnings,
        provenance=provenance,
    )


def _judge(
    test: TraceSet,
    settings: Mapping[str, tuple[int, int]],
    *,
    budgets: Mapping[str, tuple[float, bool]],
    statement_budget: float,
    phrase: str,
    model: str,
    made_at: str,
    chosen_on: str,
    warnings: tuple[str, ...],
    provenance: Mapping[str, str] | None,
) -> Report:
    main = "medium" if "medium" in settings else next(iter(settings))
    cutoff, window = settings[main]
    curves = build_curves(test, window)
    levels = tuple(
        _level(name, at, window, curves, test, budgets.get(name)) for name, (at, _window) in settings.items()
    )
    main_level = next(level for level in levels if level.name == main)
    heard = [_fires(test, event, cutoff, window) for event in test.wake]
    woken = [_fires(test, lure, cutoff, window) for lure in test.lures]
    equal_rate, against = _equal_error(test, window)
    return Report(
        phrase=phrase,
        model=model,
        made_at=made_at,
        warnings=warnings,
        chosen_on=chosen_on,
        levels=levels,
        data=tuple(
            Data(
                kind=kind,
                hours=_hours(test, kind),
                speech_hours=sum(t.speech_hours for t in test.ambient if t.kind == kind),
                recordings=sum(max(1, len(t.marks)) for t in test.ambient if t.kind == kind),
            )
            for kind in test.kinds()
        ),
        wake_clips=len(test.wake),
        wake_voices=len({event.voice for event in test.wake}),
        hours=tuple(
            metrics.describe_hours(rate.per_hour.events, rate.per_hour.exposure, statement_budget, rate.kind)
            for rate in main_level.rates
        ),
        curves=tuple(
            CurveRows(
                kind=kind,
                window=window,
                cutoffs=tuple(curve.cutoffs.tolist()),
                hits=tuple(curve.hits.tolist()),
                trials=curve.trials,
                false_accepts=tuple(curve.false_accepts.tolist()),
                hours=curve.hours,
                partial_area=metrics.partial_area(curve) if curve.trials and curve.hours > 0 else None,
            )
            for kind, curve in curves.items()
        ),
        recall_at=tuple(
            _recall_at(kind, curve, budget)
            for kind, curve in curves.items()
            if curve.trials and curve.hours > 0
            for budget in metrics.BUDGETS_PER_HOUR
        ),
        equal_error_rate=equal_rate,
        equal_error_against=against,
        histogram=_histogram(test, window),
        voices=_share_rows(test.wake, heard, lambda event: event.voice or "unknown"),
        conditions=_share_rows(test.wake, heard, lambda event: event.condition or "as recorded"),
        lures=_share_rows(test.lures, woken, lambda lure: lure.text or lure.name),
        lures_all=metrics.share_interval(sum(woken), len(woken)) if woken else None,
        misses=_misses(test, heard, window),
        false_accepts=_false_accepts(test, cutoff, window),
        provenance=dict(provenance or {}),
    )


def _hours(traces: TraceSet, kind: str) -> float:
    return sum(trace.hours for trace in traces.ambient if trace.kind == kind)


def _level(
    name: str,
    cutoff: int,
    window: int,
    curves: Mapping[str, metrics.Curve],
    test: TraceSet,
    budget: tuple[float, bool] | None,
) -> Level:
    rates = []
    recall = None
    for kind, curve in curves.items():
        place = curve.at(cutoff)
        if curve.trials:
            recall = metrics.share_interval(int(curve.hits[place]), curve.trials)
        if curve.hours > 0:
            events = int(curve.false_accepts[place])
            speech = sum(trace.speech_hours for trace in test.ambient if trace.kind == kind)
            rates.append(
                KindRate(
                    kind=kind,
                    per_hour=metrics.rate_interval(events, curve.hours),
                    per_speech_hour=metrics.rate_interval(events, speech) if speech > 0 else None,
                )
            )
    return Level(
        name=name,
        cutoff=cutoff,
        probability=detector.probability_of_cutoff(cutoff),
        window=window,
        recall=recall,
        rates=tuple(rates),
        budget_per_hour=budget[0] if budget else None,
        kept_budget=budget[1] if budget else None,
    )


def _fires(test: TraceSet, event: WakeEvent | LureTrace, cutoff: int, window: int) -> bool:
    end = len(event.scores) if event.end_step is None else event.end_step
    found = detector.fires_within(
        event.scores, [cutoff], window, event.start_step, end, stride=test.stride, warmup_slices=test.warmup_slices
    )
    return bool(found[0])


def _recall_at(kind: str, curve: metrics.Curve, budget: float) -> RecallAt:
    point = metrics.recall_at(curve, budget)
    return RecallAt(
        kind=kind,
        budget_per_hour=budget,
        cutoff=point.cutoff if point else None,
        recall=point.recall if point else None,
        false_accepts=point.false_accepts if point else None,
    )


def _equal_error(test: TraceSet, window: int) -> tuple[float | None, str]:
    if not test.wake:
        return None, ""
    wake = wake_peaks(test, window)
    if test.lures:
        return metrics.equal_error_rate(wake, lure_peaks(test, window)), f"{len(test.lures)} lures"
    pieces = ambient_peaks(test.ambient, window, test.stride)
    if len(pieces):
        return metrics.equal_error_rate(wake, pieces), f"{len(pieces)} pieces of {PIECE_S:g} s of ambient sound"
    return None, ""


def _histogram(test: TraceSet, window: int) -> Histogram | None:
    wake = wake_peaks(test, window)
    pieces = ambient_peaks(test.ambient, window, test.stride)
    if not len(wake) and not len(pieces):
        return None
    edges = np.linspace(0, 256, BINS + 1)
    return Histogram(
        wake=tuple(np.histogram(wake, edges)[0].tolist()),
        ambient=tuple(np.histogram(pieces, edges)[0].tolist()),
        piece_s=PIECE_S,
    )


def _share_rows(events: Sequence[Event], hits: Sequence[bool], name: Callable[[Event], str]) -> tuple[ShareRow, ...]:
    groups: dict[str, list[bool]] = defaultdict(list)
    for event, hit in zip(events, hits, strict=True):
        groups[name(event)].append(hit)
    return tuple(
        ShareRow(name=group, share=metrics.share_interval(sum(found), len(found)))
        for group, found in sorted(groups.items())
    )


def _misses(test: TraceSet, heard: Sequence[bool], window: int) -> tuple[Miss, ...]:
    peaks = wake_peaks(test, window)
    missed = sorted(
        ((int(peak), event) for peak, event, hit in zip(peaks, test.wake, heard, strict=True) if not hit),
        key=lambda item: (item[0], item[1].clip, item[1].condition),
    )
    return tuple(
        Miss(clip=event.clip, voice=event.voice, condition=event.condition, peak=peak / 255)
        for peak, event in missed[:MOST_ROWS]
    )


def _false_accepts(test: TraceSet, cutoff: int, window: int) -> tuple[FalseAccept, ...]:
    found: list[FalseAccept] = []
    for trace in test.ambient:
        (slices,) = detector.detection_slices(
            trace.scores, [cutoff], window, stride=test.stride, warmup_slices=test.warmup_slices
        )
        found += [_place_false_accept(trace, at, window, test.stride) for at in slices]
    found.sort(key=lambda item: (-item.score, item.name, item.time_s))
    return tuple(found[:MOST_ROWS])


def _place_false_accept(trace: AmbientTrace, slice: int, window: int, stride: int) -> FalseAccept:
    step = (slice + 1) // stride - 1
    score = int(trace.scores[max(0, step + 1 - window) : step + 1].sum(dtype=np.int64)) // window / 255
    start, name = 0, trace.name
    for mark, source in trace.marks:
        if mark <= step:
            start, name = mark, source
    time_s = detector.slice_time_s(slice) - start * stride * frontend.STEP_MS / 1000
    return FalseAccept(kind=trace.kind, name=name, time_s=round(time_s, 2), score=score)
