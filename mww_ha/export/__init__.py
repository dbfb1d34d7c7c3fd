"""A training run and its report → a model file that is vouched for, in ``models/``.

``models/<slug>-<sha8>.tflite`` and its strict manifest are what ESPHome reads; ``<slug>-<sha8>.about.json`` says
where the model came from, what was checked and how it did. Nothing is written unless every check holds.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from mww_ha import detector
from mww_ha.errors import DataError, ExportRefusedError, ManifestError
from mww_ha.export import parity
from mww_ha.export.manifest import about_path, model_file_stem, write_about, write_manifest
from mww_ha.schema import ModelArtifact, Progress, ProgressSink, no_progress
from mww_ha.shards import read_index
from mww_ha.store import Project, atomic_write, now

LEVEL_NAMES = {"low": "slightly", "medium": "moderately", "high": "very"}
"""The report's sensitivities by the names a device shows."""


def run(project: Project, *, run: str, report: ProgressSink = no_progress) -> ModelArtifact:
    """Checks the run's INT8 file and writes it with its manifest and what is known about it.

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
    about = {
        "phrase": settings.phrase,
        "made_at": now(),
        "run": run,
        "feature_set": document["feature_set"],
        "vouched_for": not any(c.outcome == "skipped" for c in checks),
        "checks": [asdict(check) for check in checks],
        "levels": [_level(name, levels[name]) for name in LEVEL_NAMES if name in levels],
        "report": {"path": str(report_path.relative_to(project.root)), "warnings": judged["warnings"]},
        "training": {key: document[key] for key in ("seed", "steps", "duration_s", "chosen", "metrics", "versions")},
        "config": document["config"],
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
    project.catalogue.put_model(stem, asdict(artifact))
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
