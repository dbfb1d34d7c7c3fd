"""A model file over held-out shards: score traces, and what they say at every cutoff.

Always the INT8 streaming file and the firmware's decision, and for anything that is reported the reference kernels,
so what is measured is what a device would do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mww_ha import detector, frontend
from mww_ha.errors import ModelFileError
from mww_ha.schema import Label
from mww_ha.shards import SpokenEvent, open_shard
from mww_ha.workers import run_tasks

Scores = npt.NDArray[np.uint8]

CONDITION_FAMILIES = ("quiet", "noise", "babble", "room")
"""Families of shards that hold wake words, one per condition."""

REACTION_S = 0.75
"""A detection counts for a word when it comes from the word's start to this long after its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Scores of one running recording."""

    name: str
    scores: Scores
    hours: float
    speech_hours: float
    events: tuple[SpokenEvent, ...]
    follows: bool = False  # goes on where the trace before it ended


def score_shard(model: bytes, folder: Path, name: str, kernels: str = "reference") -> list[Trace]:
    """Traces of the scenes of one shard, each from a fresh state; those of a running shard follow each other.

    ``kernels`` as for ``detector.StreamingModel``. Raises DataError, ModelFileError.
    """
    shard = open_shard(folder, name)
    streaming = detector.StreamingModel(model, kernels=kernels)
    if streaming.stride != detector.DEFAULT_STRIDE:
        raise ModelFileError(
            f"the model takes {streaming.stride} frames a step, not {detector.DEFAULT_STRIDE}",
            hint="train it again with this version",
        )
    traces: list[Trace] = []
    for number, scene in enumerate(shard.scenes):
        frames = shard.features[scene.offset : scene.offset + scene.frames]
        follows = shard.running and number > 0
        if not follows:
            streaming.reset()
        traces.append(
            Trace(
                name=scene.name,
                scores=streaming.scores(frontend.quantize_features(np.asarray(frames))),
                hours=scene.frames * frontend.STEP_MS / 3.6e6,
                speech_hours=scene.speech_s / 3600,
                events=scene.events,
                follows=follows,
            )
        )
    return traces


def score_shards(
    model: bytes, folder: Path, names: Sequence[str], *, processes: int, kernels: str = "reference"
) -> dict[str, list[Trace]]:
    """Traces by shard name, in the order of ``names``. Raises as ``score_shard``; ToolError when a worker is killed."""
    results = run_tasks(_score_named, [(model, folder, name, kernels) for name in names], processes=processes)
    found = dict(results)
    return {name: found[name] for name in names}


def _score_named(model: bytes, folder: Path, name: str, kernels: str) -> tuple[str, list[Trace]]:
    return name, score_shard(model, folder, name, kernels)


def event_steps(event: SpokenEvent) -> tuple[int, int]:
    """First and one past the last score at which a detection counts for this word."""
    stride = detector.DEFAULT_STRIDE
    reaction = int(REACTION_S * 1000) // frontend.STEP_MS
    return event.start_frame // stride, (event.end_frame + reaction) // stride + 1


def event_peak(trace: Trace, event: SpokenEvent, window: int) -> int:
    """Highest window sum while the word may be detected; it wakes at cutoffs with ``sum > cutoff * window``."""
    return detector.peak_window_sum(trace.scores, window, *event_steps(event))


def wake_peaks(traces: Sequence[Trace], window: int, label: Label = Label.WAKE) -> npt.NDArray[np.int64]:
    """Peaks of all events with ``label``."""
    return np.array([event_peak(t, e, window) for t in traces for e in t.events if e.label is label], np.int64)


def join_running(traces: Sequence[Trace]) -> list[Scores]:
    """Scores of the traces, those that follow each other as one."""
    runs: list[list[Scores]] = []
    for trace in traces:
        if trace.follows and runs:
            runs[-1].append(trace.scores)
        else:
            runs.append([trace.scores])
    return [np.concatenate(run) for run in runs]


def count_false_accepts(traces: Sequence[Trace], window: int) -> tuple[npt.NDArray[np.int64], float]:
    """Detections at each cutoff 0..255 over traces without wake words, and their hours."""
    cutoffs = np.arange(256)
    total = np.zeros(256, np.int64)
    for scores in join_running(traces):
        total += detector.count_detections(scores, cutoffs, window)
    return total, sum(t.hours for t in traces)


def lowest_cutoff(false_accepts: npt.NDArray[np.int64], hours: float, per_hour: float) -> int:
    """Smallest cutoff from which on the rate stays within ``per_hour``."""
    over = np.flatnonzero(false_accepts > per_hour * hours)
    return int(over[-1]) + 1 if len(over) else 0


def recall_at(peaks: npt.NDArray[np.int64], cutoff: int, window: int) -> float:
    """Share of events that wake at ``cutoff``."""
    return float(np.mean(peaks > cutoff * window)) if len(peaks) else float("nan")


def group_traces(traces: Mapping[str, Sequence[Trace]], names: Sequence[str]) -> list[Trace]:
    """Traces of several shards in a row."""
    return [trace for name in names for trace in traces[name]]
