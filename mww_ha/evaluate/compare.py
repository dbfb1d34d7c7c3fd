"""Two models over the same sound, take by take and event by event.

Recall and false accepts of two models differ less from each other than each is sure of: what one take is like counts
for both. So only what one of them hears and the other does not is counted, and whether that is more than chance is
asked of a coin. Each model has its own cutoff and window, those it would be flashed with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mww_ha import detector, frontend, metrics
from mww_ha.evaluate.curve import AmbientTrace, TraceSet, WakeEvent
from mww_ha.schema import Interval

SURE = 0.05
"""A difference that chance makes less often than this is one."""

FEWEST_PAIRS = 6
"""With fewer pairs no difference could be one: five of five that differ one way are still chance (p = 0.06)."""

SAME_EVENT_S = 2.0
"""Two detections this close are about the same sound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A model on trial: its cutoff (0 to 255) and window, and what it said of the sound."""

    name: str
    cutoff: int
    window: int
    traces: TraceSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """One comparison: how often the new model is better than the old one on the same thing, and how often worse."""

    what: str
    pairs: str  # what is paired, in the plural
    old: Interval
    new: Interval
    better: int
    worse: int
    exposure: float  # takes, captures or hours
    unit: str  # "share" or "per hour"
    voices: int = 0  # who speaks; 0: not said

    @property
    def p(self) -> float:
        """How often chance alone makes at least this difference."""
        return metrics.sign_test(self.better, self.worse)

    @property
    def difference(self) -> Interval:
        """Better minus worse, as a share of the pairs or per hour."""
        return metrics.paired_interval(self.better, self.worse, self.exposure, self.unit)

    @property
    def outcome(self) -> str:
        """Better | worse | no difference: beyond chance."""
        if self.p >= SURE:
            return "no difference"
        return "better" if self.better > self.worse else "worse"

    def text(self) -> str:
        """One line with counts, intervals and what they show."""
        if self.unit == "share":
            sides = [f"{i.events} of {i.exposure:.0f} ({_percent(i)})" for i in (self.old, self.new)]
            gap = f"% of the {self.pairs}"
            change = [
                f"{100 * x + 0.0:+.0f}" for x in (self.difference.value, self.difference.low, self.difference.high)
            ]
        else:
            sides = [f"{i.events} ({i.value:.2f} per hour [{i.low:.2f}–{i.high:.2f}])" for i in (self.old, self.new)]
            gap = "per hour"
            # Fewer is better.
            change = [f"{0.0 - x:+.2f}" for x in (self.difference.value, self.difference.high, self.difference.low)]
        by = f" by {self.voices} {'voice' if self.voices == 1 else 'voices'}" if self.voices else ""
        return (
            f"{self.what}{by}: {sides[0]} → {sides[1]}; {self.pairs} better {self.better}, worse {self.worse}, "
            f"p = {self.p:.2g}: {self.outcome}, {change[0]} {gap} [{change[1]} to {change[2]}]"
        )


def _percent(share: Interval) -> str:
    return f"{100 * share.value:.0f} % [{100 * share.low:.0f}–{100 * share.high:.0f}]"


def pair_takes(old: Contender, new: Contender, clips: Collection[str], what: str) -> Paired | None:
    """Recall on the takes ``clips``; None where none of them is there.

    A take is heard in several conditions, which are not chances of its own: a take is better where it is heard in more
    of them than before.
    """
    heard: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    voices: set[str] = set()
    for before, after in zip(old.traces.wake, new.traces.wake, strict=True):
        if (before.clip, before.condition) != (after.clip, after.condition):
            raise ValueError("the two models did not hear the same takes")
        if before.clip in clips:
            heard[before.clip].append((_fires(old, before), _fires(new, after)))
            voices.add(before.voice)
    if not heard:
        return None
    gains = [sum(after for _, after in pairs) - sum(before for before, _ in pairs) for pairs in heard.values()]
    every = [pair for pairs in heard.values() for pair in pairs]
    return Paired(
        what=what,
        pairs="takes",
        old=metrics.share_interval(sum(before for before, _ in every), len(every)),
        new=metrics.share_interval(sum(after for _, after in every), len(every)),
        better=sum(gain > 0 for gain in gains),
        worse=sum(gain < 0 for gain in gains),
        exposure=len(gains),
        unit="share",
        voices=len(voices),
    )


def _fires(contender: Contender, event: WakeEvent) -> bool:
    traces = contender.traces
    return bool(
        detector.fires_within(
            event.scores,
            [contender.cutoff],
            contender.window,
            event.start_step,
            event.end_step,
            stride=traces.stride,
            warmup_slices=traces.warmup_slices,
        )[0]
    )


def pair_false_accepts(old: Contender, new: Contender, kinds: Collection[str], what: str) -> Paired | None:
    """False accepts in the same hours of these kinds of sound; None where there are no hours.

    What wakes both is no difference. A false accept that only the old model makes is better, one of the new one worse.
    """
    hours = 0.0
    events = [0, 0]
    better = worse = 0
    for before, after in zip(old.traces.ambient, new.traces.ambient, strict=True):
        if (before.name, before.kind) != (after.name, after.kind):
            raise ValueError("the two models did not hear the same hours")
        if before.kind not in kinds:
            continue
        hours += before.hours
        times = [_detections_s(old, before), _detections_s(new, after)]
        both = count_shared(times[0], times[1])
        events = [known + len(found) for known, found in zip(events, times, strict=True)]
        better += len(times[0]) - both
        worse += len(times[1]) - both
    if hours <= 0:
        return None
    return Paired(
        what=what,
        pairs="events",
        old=metrics.rate_interval(events[0], hours),
        new=metrics.rate_interval(events[1], hours),
        better=better,
        worse=worse,
        exposure=hours,
        unit="per hour",
    )


def _detections_s(contender: Contender, trace: AmbientTrace) -> list[float]:
    traces = contender.traces
    (slices,) = detector.detection_slices(
        trace.scores,
        [contender.cutoff],
        contender.window,
        stride=traces.stride,
        warmup_slices=traces.warmup_slices,
    )
    return [slice * frontend.STEP_MS / 1000 for slice in slices]


def count_shared(one: Sequence[float], two: Sequence[float], within_s: float = SAME_EVENT_S) -> int:
    """How many of the ascending times have a partner in the other list, each one at the most."""
    shared = i = j = 0
    while i < len(one) and j < len(two):
        if abs(one[i] - two[j]) <= within_s:
            shared, i, j = shared + 1, i + 1, j + 1
        elif one[i] < two[j]:
            i += 1
        else:
            j += 1
    return shared


def pair_events(fired: Sequence[tuple[bool, bool]], what: str, pairs: str, *, should_fire: bool) -> Paired | None:
    """(old fires, new fires) on single sounds, on which a model should fire or should not; None without any."""
    if not fired:
        return None
    gained = sum(after and not before for before, after in fired)
    lost = sum(before and not after for before, after in fired)
    return Paired(
        what=what,
        pairs=pairs,
        old=metrics.share_interval(sum(before for before, _ in fired), len(fired)),
        new=metrics.share_interval(sum(after for _, after in fired), len(fired)),
        better=gained if should_fire else lost,
        worse=lost if should_fire else gained,
        exposure=len(fired),
        unit="share",
    )
