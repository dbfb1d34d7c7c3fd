"""A finished training run → its report, on the voices and the sound it never saw."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mww_ha import detector, trials
from mww_ha.errors import DataError
from mww_ha.evaluate.curve import AmbientTrace, LureTrace, TraceSet, WakeEvent
from mww_ha.evaluate.judge import evaluate_traces
from mww_ha.evaluate.report import Report, Series, write_report
from mww_ha.schema import Label, Progress, ProgressSink, no_progress
from mww_ha.shards import FIELD, read_index
from mww_ha.store import Project, now, write_json
from mww_ha.trials import Trace
from mww_ha.workers import count_processes

CONDITION_NAMES = {
    "quiet": "quiet room, 25 dB",
    "noise": "noise, 10 dB",
    "babble": "four-talker babble, 5 dB",
    "room": "reverberant room and noise, 15 dB",
}
KIND_NAMES = {
    "ambient": "synthetic ambient",
    "varied": "recorded speech, rendered anew",
    "real": "real ambient",
}
CAPTURED = "judged false accepts of satellites"


def run(project: Project, *, run: str, report: ProgressSink = no_progress) -> Report:
    """Scores validation and test sides with the run's INT8 file; writes ``reports/<run>.json`` and ``.html``.

    Raises DataError when the run is not finished.
    """
    place = project.runs_dir / run
    document = next((d for d in project.catalogue.runs() if d["id"] == run), None)
    if document is None or document["outcome"] != "done":
        raise DataError(f"training run {run} is not finished", hint="run: mww-ha train")
    model = detector.read_model(place / "candidate.tflite")
    folder = project.features_dir / document["feature_set"]
    index = read_index(folder)
    processes = count_processes(project.settings.prepare.processes)
    sides: dict[str, TraceSet] = {}
    for done, side in enumerate(("validation", "test")):
        report(Progress(stage="evaluate", message=f"listening to the {side} side", done=done, total=2, unit="sides"))
        sides[side] = read_side(model, folder, index, side, processes)
    budget = project.settings.export.false_accepts_per_hour
    result = evaluate_traces(
        sides["validation"],
        sides["test"],
        phrase=project.settings.phrase,
        model=f"run {run}",
        made_at=now(),
        budget_per_hour=budget,
        provenance=_provenance(document, index),
    )
    warnings = list(result.warnings)
    if all(map(_is_synthetic, index["speakers"]["test"])):
        warnings.append(
            "All wake words here are synthetic. People are harder: record your family and evaluate again before you "
            "trust the recall."
        )
    result = replace(result, warnings=tuple(warnings), training=read_training(place))
    report(Progress(stage="evaluate", message="writing the report", done=2, total=2, unit="sides"))
    write_json(project.reports_dir / f"{run}.json", result.as_json())
    write_report(project.reports_dir / f"{run}.html", result)
    return result


def _is_synthetic(voice: str) -> bool:
    """Whether a speaker is ``engine:voice:speaker``; recordings of nobody in particular have an empty speaker."""
    return ":" in voice


def read_side(model: bytes, folder: Path, index: dict[str, Any], side: str, processes: int) -> TraceSet:
    """All traces of one side of a feature set by one model."""
    families = {name.partition("/")[2]: own for name, own in index["shards"].items() if name.startswith(f"{side}/")}
    names = [name for own in families.values() for name in own]
    traces = trials.score_shards(model, folder, names, processes=processes)
    wake: list[WakeEvent] = []
    lures: list[LureTrace] = []
    ambient: list[AmbientTrace] = []
    for family, own in families.items():
        for trace in trials.group_traces(traces, own):
            if family in KIND_NAMES:
                continue
            for event in trace.events:
                first, last = trials.event_steps(event)
                if event.label is Label.WAKE and family in CONDITION_NAMES:
                    wake.append(
                        WakeEvent(
                            clip=event.clip,
                            voice=event.speaker,
                            condition=CONDITION_NAMES[family],
                            scores=trace.scores,
                            start_step=first,
                            end_step=last,
                        )
                    )
                elif family == "lures":
                    lures.append(
                        LureTrace(
                            name=event.clip,
                            text=event.text or (CAPTURED if event.source == FIELD else event.clip),
                            scores=trace.scores,
                            start_step=first,
                            end_step=last,
                        )
                    )
        if family in ("ambient", "varied"):
            ambient += [_ambient(trace, KIND_NAMES[family]) for trace in trials.group_traces(traces, own)]
        elif family == "real" and any(traces[name] for name in own):
            ambient += [_joined(trials.group_traces(traces, own), KIND_NAMES[family])]
    return TraceSet(wake=wake, ambient=ambient, lures=lures)


def _ambient(trace: Trace, kind: str) -> AmbientTrace:
    return AmbientTrace(
        name=trace.name, kind=kind, scores=trace.scores, hours=trace.hours, speech_hours=trace.speech_hours
    )


def _joined(traces: Sequence[Trace], kind: str) -> AmbientTrace:
    """Recordings in a row as one running recording; where each begins is kept as a mark."""
    import numpy as np

    marks: list[tuple[int, str]] = []
    at = 0
    for trace in traces:
        marks.append((at, trace.name))
        at += len(trace.scores)
    return AmbientTrace(
        name=kind,
        kind=kind,
        scores=np.concatenate([t.scores for t in traces]),
        hours=sum(t.hours for t in traces),
        speech_hours=sum(t.speech_hours for t in traces),
        marks=tuple(marks),
    )


def read_training(place: Path) -> tuple[Series, ...]:
    """Curves of a run: losses by step, and what the judged weights missed. Of one on its way what there is so far."""
    log = place / "log.jsonl"
    text = log.read_text() if log.exists() else ""
    rows = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    steps = tuple(float(row["step"]) for row in rows)
    found = [
        Series(plot="loss", name=name, x=steps, y=tuple(float(row[key]) for row in rows))
        for name, key in (("wake words", "wake_loss"), ("everything else", "negative_loss"))
        if rows
    ]
    judged = [row for row in read_candidates(place) if row["name"].startswith("step ")]
    if judged:
        x = tuple(float(row["name"].removeprefix("step ")) for row in judged)
        for condition in judged[0]["recalls"]:
            y = tuple(1.0 - float(row["recalls"][condition]) for row in judged)
            found.append(Series(plot="misses at the budget, validation", name=condition, x=x, y=y))
    return tuple(found)


def read_candidates(place: Path) -> list[dict[str, Any]]:
    """What a run has judged so far on the validation side; rows that are not ``kept`` only for the curve."""
    path = place / "candidates.json"
    judged: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return judged


def _provenance(document: dict[str, Any], index: dict[str, Any]) -> dict[str, str]:
    clips: dict[str, int] = index["clips"]
    rows = {
        "training run": document["id"],
        "feature set": document["feature_set"],
        "weights": document.get("chosen", ""),
        "steps": str(document["steps"]),
        "seed": str(document["seed"]),
        "training time": f"{document['duration_s']:.0f} s",
        "effort": str(document["config"]["effort"]),
        "rendered for training": f"{sum(h for n, h in index['hours'].items() if n.startswith('train/')):.1f} h",
    }
    for side in ("train", "validation", "test"):
        counts = ", ".join(f"{n} {name.partition('/')[2]}" for name, n in clips.items() if name.startswith(f"{side}/"))
        rows[f"{side} clips"] = counts
    return rows | {f"version of {name}": version for name, version in document["versions"].items()}
