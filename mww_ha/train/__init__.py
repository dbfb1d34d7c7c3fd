"""A feature set → a training run. Reads ``features/<id>/``; writes ``runs/<id>/``.

``runs/<id>/`` holds ``log.jsonl`` (losses), ``state.npz`` (to go on after a stop), ``candidates.json`` (what was
judged), ``net.npz`` (the network that was chosen, with its ranges) and ``candidate.tflite`` (the same, as it would be
flashed).
"""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from mww_ha import __version__
from mww_ha.errors import DataError, MissingDependencyError
from mww_ha.nn import streaming
from mww_ha.schema import Progress, ProgressSink, TrainingRun, digest, no_progress
from mww_ha.shards import open_shard, read_index
from mww_ha.store import Project, atomic_write, now, write_json
from mww_ha.train.sampler import Sampler, Shares
from mww_ha.workers import count_processes

CANDIDATE_POINTS = {"quick": (0.8, 1.0), "good": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0), "best": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)}
"""Where in a run the averaged weights are judged; their mean is judged too."""


def run_id(project: Project, feature_set: str) -> str:
    """Digest of everything a run depends on."""
    settings = project.settings
    return digest(
        [feature_set, dataclasses.asdict(settings.train), settings.export.false_accepts_per_hour, __version__]
    )


def run(project: Project, *, feature_set: str, report: ProgressSink = no_progress) -> TrainingRun:
    """Trains, or goes on with what was stopped, or returns what is finished.

    Raises MissingDependencyError without TensorFlow, DataError without a feature set.
    """
    try:
        metadata.version("tensorflow")
    except metadata.PackageNotFoundError:
        raise MissingDependencyError(
            "training needs TensorFlow", hint="install it: pip install 'mww-ha[train]'"
        ) from None
    from mww_ha.train import loop, mining
    from mww_ha.train.checkpoint import Candidate, Judge, average

    settings = project.settings.train
    folder = project.features_dir / feature_set
    index = read_index(folder)
    id = run_id(project, feature_set)
    place = project.runs_dir / id
    place.mkdir(parents=True, exist_ok=True)
    for document in project.catalogue.runs():
        if document["id"] == id and document["outcome"] == "done" and (place / "net.npz").exists():
            return _run_of(document)
    names = {name.partition("/")[2]: own for name, own in index["shards"].items() if name.startswith("train/")}
    receptive = loop.mixednet.shape_of(settings).receptive_frames
    sampler = Sampler(
        {kind: [open_shard(folder, name) for name in own] for kind, own in names.items()},
        receptive_frames=receptive,
        batch=settings.batch,
        shares=Shares(
            wake=settings.wake_share,
            confusable=settings.confusable_share,
            speech=settings.speech_share,
            noise=settings.noise_share,
            hard=settings.hard_share,
        ),
        mask_frames=settings.mask_frames,
        mask_channels=settings.mask_channels,
        warp=settings.warp,
        seed=settings.seed,
    )
    if not sampler.counts()["wake"]:
        raise DataError("no wake word fits into the training scenes", hint="check the wake clips: are they too long?")

    report(Progress(stage="train", message="starting TensorFlow"))
    trainer = loop.Trainer(settings)
    judge = Judge(
        folder,
        index,
        budget=project.settings.export.false_accepts_per_hour,
        processes=count_processes(project.settings.prepare.processes),
    )
    state_path, log_path = place / "state.npz", place / "log.jsonl"
    points = sorted({max(1, round(settings.steps * p)) for p in CANDIDATE_POINTS[project.settings.effort]})
    kept: list[loop.Weights] = []
    judged: list[dict[str, Any]] = []
    best: Candidate | None = None
    spent_s = 0.0
    if state_path.exists():
        arrays = loop.load_state(state_path)
        trainer.restore(arrays)
        sampler.hard = arrays["hard"]
        spent_s = float(arrays["spent_s"])
        count = len(trainer.twin.weights)
        kept = [[arrays[f"kept.{k}.{i}"] for i in range(count)] for k in range(int(arrays["kept"]))]
        judged = json.loads((place / "candidates.json").read_text()) if (place / "candidates.json").exists() else []
        judged = [row for row in judged if row["step"] <= trainer.step]
        _cut_log(log_path, trainer.step)
    else:
        log_path.write_text("")
    started_at = now()
    started = time.monotonic()
    document: dict[str, Any] = {
        "id": id,
        "path": str(place.relative_to(project.root)),
        "feature_set": feature_set,
        "seed": settings.seed,
        "steps": settings.steps,
        "started_at": started_at,
        "duration_s": 0.0,
        "outcome": "running",
        "metrics": {},
        "config": dataclasses.asdict(project.settings),
        "data": {"hours": index["hours"], "clips": index["clips"]},
        "versions": _versions(),
    }
    project.catalogue.put_run(id, started_at, document)

    def save() -> None:
        arrays = trainer.state() | {"hard": sampler.hard, "kept": np.array(len(kept))}
        arrays["spent_s"] = np.array(spent_s + time.monotonic() - started)
        for k, weights in enumerate(kept):
            arrays |= {f"kept.{k}.{i}": w for i, w in enumerate(weights)}
        loop.save_state(state_path, arrays)

    def judge_weights(name: str, weights: loop.Weights) -> Candidate:
        mine = trainer.averaged_weights()
        trainer.set_averaged_weights(weights)
        candidate = judge.make(name, loop.mixednet.fuse(trainer.twin), trainer.forward)
        trainer.set_averaged_weights(mine)
        row = {
            "name": name,
            "step": trainer.step,
            "misses": candidate.misses,
            "recalls": candidate.recalls,
            "cutoff": candidate.cutoff,
            "per_hour": candidate.per_hour,
            "hours": candidate.hours,
        }
        judged.append(row)
        write_json(place / "candidates.json", judged)
        shown = ", ".join(f"{k} {v:.0%}" for k, v in candidate.recalls.items())
        report(
            Progress(
                stage="train",
                message=f"{name}: validation recall {shown}",
                done=trainer.step,
                total=settings.steps,
                unit="steps",
            )
        )
        return candidate

    stops = sorted({*points, *range(settings.mine_every, settings.steps, settings.mine_every)})
    try:
        for stop in stops:
            if stop <= trainer.step:
                continue
            loop.train_steps(trainer, sampler, stop, log_path, report=report)
            if stop in points:
                kept.append(trainer.averaged_weights())
            if stop % settings.mine_every == 0 and stop < settings.steps and settings.hard_share:
                report(
                    Progress(
                        stage="train", message="searching hard negatives", done=stop, total=settings.steps, unit="steps"
                    )
                )
                sampler.hard = mining.find_hard(
                    trainer.forward,
                    sampler,
                    ("confusable", "speech", "noise"),
                    receptive,
                    limit=loop.HARD_LIMIT,
                    rng=np.random.default_rng([settings.seed, 10**9, stop]),
                )
            save()
        names_of = [f"step {p}" for p in points[: len(kept)]]
        candidates = list(zip(names_of, kept, strict=True))
        if len(kept) > 1:
            candidates.append((f"mean of {len(kept)}", average(kept)))
            if len(kept) > 3:
                candidates.append(("mean of 3", average(kept[-3:])))
        judged.clear()
        for name, weights in candidates:
            candidate = judge_weights(name, weights)
            if best is None or candidate.misses <= best.misses:
                best = candidate
    except BaseException as error:
        save()
        stopped = isinstance(error, KeyboardInterrupt)
        document |= {"outcome": "stopped" if stopped else "failed", "duration_s": spent_s + time.monotonic() - started}
        project.catalogue.put_run(id, started_at, document)
        raise
    assert best is not None
    arrays: dict[str, Any] = dict(streaming.to_arrays(best.net))
    arrays |= {f"range.{name}": np.array(limits, np.float64) for name, limits in best.ranges.items()}
    loop.save_state(place / "net.npz", arrays)
    with atomic_write(place / "candidate.tflite") as file:
        file.write(best.model)
    document |= {
        "outcome": "done",
        "duration_s": round(spent_s + time.monotonic() - started, 1),
        "chosen": best.name,
        "metrics": {
            "misses": best.misses,
            **{f"recall_{name}": value for name, value in best.recalls.items()},
            "false_accepts_per_hour": best.per_hour,
            "ambient_hours": best.hours,
        },
    }
    project.catalogue.put_run(id, started_at, document)
    state_path.unlink(missing_ok=True)
    return _run_of(document)


def load_net(place: Path) -> tuple[streaming.FusedNet, dict[str, tuple[float, float]]]:
    """The chosen network of a finished run and the ranges of its tensors."""
    with np.load(place / "net.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    ranges = {
        name.removeprefix("range."): (float(v[0]), float(v[1]))
        for name, v in arrays.items()
        if name.startswith("range.")
    }
    return streaming.from_arrays({n: v for n, v in arrays.items() if not n.startswith("range.")}), ranges


def _cut_log(path: Path, step: int) -> None:
    """Forgets rows that a killed run wrote after its last saved state."""
    rows = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))


def _versions() -> dict[str, str]:
    found = {"mww-ha": __version__, "python": platform.python_version(), "machine": platform.machine()}
    for name in ("tensorflow", "keras", "numpy", "pymicro-features", "ai-edge-litert"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _run_of(document: dict[str, Any]) -> TrainingRun:
    return TrainingRun(**{field.name: document[field.name] for field in dataclasses.fields(TrainingRun)})
