"""A training run and its report → a model file that is vouched for, in ``models/``.

``models/<slug>-<sha8>.tflite`` and its strict manifest are what ESPHome reads; ``<slug>-<sha8>.about.json`` says
where the model came from, what was checked and how it did. Nothing is written unless every check holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mww_ha import detector, metrics, trials
from mww_ha.errors import DataError, ExportRefusedError, ManifestError
from mww_ha.export import parity
from mww_ha.export.manifest import about_path, write_about, write_manifest
from mww_ha.schema import ModelArtifact, Progress, ProgressSink, no_progress
from mww_ha.shards import read_index
from mww_ha.store import Project, atomic_write, model_file_stem, now
from mww_ha.workers import count_processes

LEVEL_NAMES = {"low": "slightly", "medium": "moderately", "high": "very"}
"""The report's sensitivities by the names a device shows."""

NEAR_MISSES_PER_HOUR = 10.0
"""False accepts that a second slot with a low cutoff may capture; ``mww_ha.deploy`` renders that slot."""

LOWEST_NEAR_MISS = 26
"""Of 255. A mean score under a tenth says nothing about the phrase, however quiet the validation sound is."""

_AMBIENT_FAMILIES = ("ambient", "varied", "real")


def run(
    project: Project, *, run: str, note: Mapping[str, Any] | None = None, report: ProgressSink = no_progress
) -> ModelArtifact:
    """Checks the run's INT8 file and writes it with its manifest and what is known about it.

    ``note`` is what the catalogue is to say of the model besides, such as ``offered``, and goes into the metadata too.
    Without one, what was said of the same file before stays.
    Raises ExportRefusedError with every reason, DataError and ModelFileError when a piece of the run is missing or
    damaged, ManifestError when ESPHome would not take a setting; then nothing is in ``models/``.
    """
    settings = project.settings
    place = project.runs_dir / run
    document = next((d for d in project.catalogue.runs() if d["id"] == run and d["outcome"] == "done"), None)
    report_path = project.reports_dir / f"{run}.json"
    if document is None or not report_path.exists():
        raise DataError(f"run {run} is not trained and evaluated", hint="run: mww-ha run")
    try:
        judged = json.loads(report_path.read_text())
    except ValueError as error:
        raise DataError(f"{report_path} is damaged: {error}", hint="run: mww-ha evaluate") from None
    levels = {level["name"]: level for level in judged["levels"]}
    medium = levels["medium"]
    model = detector.read_model(place / "candidate.tflite")
    folder = project.features_dir / document["feature_set"]
    report(Progress(stage="export", message="checking the file against the device's own arithmetic"))
    checks = parity.check(
        model,
        parity.load_net(place / "net.npz"),
        folder,
        read_index(folder),
        cutoff=int(medium["cutoff"]),
        window=int(medium["window"]),
        judged=judged,
    )
    failed = [check for check in checks if check.outcome == "failed"]
    if failed:
        raise ExportRefusedError(
            "this model is not vouched for:\n" + "\n".join(f"  - {c.name}: {c.finding}" for c in failed),
            hint="train again with another seed (--set train.seed=2) or more steps; the report is kept",
        )
    stem = model_file_stem(project.slug, model)
    model_path, manifest_path = (project.models_dir / f"{stem}{suffix}" for suffix in (".tflite", ".json"))
    known = model_path.exists()
    with atomic_write(model_path) as file:
        file.write(model)
    arena = next(c.value for c in checks if c.name == "tensor arena")
    try:
        manifest = write_manifest(
            manifest_path,
            phrase=settings.phrase,
            model_file=model_path.name,
            author=settings.export.author,
            website=settings.export.website,
            languages=[settings.language],
            probability_cutoff=float(medium["probability"]),
            sliding_window=int(medium["window"]),
            tensor_arena_bytes=round_up(int(arena * settings.export.arena_margin)),
        )
    except ManifestError:
        if not known:
            model_path.unlink()
        raise
    report(Progress(stage="export", message="choosing the cutoff for near misses"))
    near_miss = _near_miss(model, folder, judged, processes=count_processes(settings.prepare.processes))
    if note is None:
        before = next((entry for entry in project.catalogue.models() if entry["id"] == stem), {})
        fields = ModelArtifact.__dataclass_fields__
        note = {key: value for key, value in before.items() if key not in fields}
    about = {
        "phrase": settings.phrase,
        "made_at": now(),
        "run": run,
        "feature_set": document["feature_set"],
        "vouched_for": not any(c.outcome == "skipped" for c in checks),
        "checks": [asdict(check) for check in checks],
        "levels": [_level(name, levels[name]) for name in LEVEL_NAMES if name in levels],
        **near_miss,
        "report": {"path": str(report_path.relative_to(project.root)), "warnings": judged["warnings"]},
        "training": {key: document[key] for key in ("seed", "steps", "duration_s", "chosen", "metrics", "versions")},
        "config": document["config"],
        **note,
    }
    write_about(manifest_path, about)
    artifact = ModelArtifact(
        id=stem,
        slug=project.slug,
        sha256=parity.sha256(model),
        manifest_path=str(manifest_path.relative_to(project.root)),
        model_path=str(model_path.relative_to(project.root)),
        about_path=str(about_path(manifest_path).relative_to(project.root)),
        run=run,
        phrase=settings.phrase,
        probability_cutoff=float(medium["probability"]),
        sliding_window=int(medium["window"]),
        tensor_arena_bytes=manifest.tensor_arena_bytes,
        model_bytes=len(model),
    )
    project.catalogue.put_model(stem, asdict(artifact) | dict(note))
    return artifact


def round_up(size: int, to: int = 16) -> int:
    """``size`` as a multiple of ``to``, as the firmware allocates it."""
    return -(-size // to) * to


def _level(name: str, level: dict[str, Any]) -> dict[str, Any]:
    """A sensitivity as the renderer documents it: the kind of sound with the most hours stands for the rate."""
    rates = sorted(level["rates"], key=lambda rate: -rate["per_hour"]["exposure"])
    return {
        "name": LEVEL_NAMES[name],
        "probability_cutoff": level["probability"],
        "recall": level["recall"],
        "false_accepts_per_hour": rates[0]["per_hour"] if rates else None,
        "measured_on": rates[0]["kind"] if rates else "",
    }


def _near_miss(
    model: bytes, folder: Path, judged: Mapping[str, Any], *, processes: int, per_hour: float = NEAR_MISSES_PER_HOUR
) -> dict[str, Any]:
    """The entry ``near_miss`` of a model's metadata: a cutoff chosen on validation sound, measured on the test side.

    Its value is None where no cutoff below the levels keeps ``per_hour``. There is no entry where the validation sound
    is too short for one event to fit into it, or the report has no curve to measure with.
    """
    window = int(judged["levels"][0]["window"])
    shards = read_index(folder)["shards"]
    families = {name: shards.get(f"validation/{name}") or [] for name in _AMBIENT_FAMILIES}
    traces = trials.score_shards(model, folder, [n for own in families.values() for n in own], processes=processes)
    counted = [trials.count_false_accepts(trials.group_traces(traces, own), window) for own in families.values() if own]
    curves = [curve for curve in judged["curves"] if curve["trials"] and curve["window"] == window]
    if not curves or sum(hours for _, hours in counted) * per_hour < 1:
        return {}
    below = min(int(level["cutoff"]) for level in judged["levels"])
    cutoff = choose_near_miss(counted, below=below, per_hour=per_hour)
    if cutoff is None:
        return {"near_miss": None}
    curve = max(curves, key=lambda curve: curve["hours"])
    place = curve["cutoffs"].index(cutoff)
    medium = curve["cutoffs"].index(next(int(v["cutoff"]) for v in judged["levels"] if v["name"] == "medium"))
    heard, missed = curve["hits"][place], curve["trials"] - curve["hits"][medium]
    caught = metrics.share_interval(heard - curve["hits"][medium], missed) if missed else None
    rate = metrics.rate_interval(curve["false_accepts"][place], curve["hours"]) if curve["hours"] > 0 else None
    entry = {
        "probability_cutoff": detector.probability_of_cutoff(cutoff),
        "chosen_for": f"at most {per_hour:g} false accepts per hour on validation",
        "recall": asdict(metrics.share_interval(heard, curve["trials"])),
        "misses_caught": asdict(caught) if caught else None,  # of what the moderate level misses
        "false_accepts_per_hour": asdict(rate) if rate else None,
        "measured_on": curve["kind"],
    }
    return {"near_miss": entry}


def choose_near_miss(
    counted: Sequence[tuple[npt.NDArray[np.int64], float]], *, below: int, per_hour: float = NEAR_MISSES_PER_HOUR
) -> int | None:
    """The lowest cutoff of 255 from which on ``per_hour`` is kept; None when that is not under ``below``.

    ``counted`` has, per kind of sound, the false accepts at each cutoff 0 to 255 and the hours. All hours count
    together, and each kind that is long enough for one event to fit into the budget has to keep it alone.
    """
    total = np.sum([events for events, _ in counted], axis=0)
    limits = [trials.lowest_cutoff(total, sum(hours for _, hours in counted), per_hour)]
    limits += [trials.lowest_cutoff(events, hours, per_hour) for events, hours in counted if hours * per_hour >= 1]
    cutoff = max(LOWEST_NEAR_MISS, *limits)
    return cutoff if cutoff < below else None
