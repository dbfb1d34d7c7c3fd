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
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mww_ha import __version__
from mww_ha.errors import DataError, MissingDependencyError, StorageError
from mww_ha.nn import mixednet, streaming
from mww_ha.schema import Progress, ProgressSink, TrainingRun, digest, no_progress
from mww_ha.shards import open_shard, read_index
from mww_ha.store import Project, atomic_write, now, storage_errors, write_json, write_text
from mww_ha.train.sampler import Sampler, Shares
from mww_ha.workers import count_processes

if TYPE_CHECKING:
    from mww_ha.train.checkpoint import Candidate

CANDIDATE_POINTS = {"quick": (0.8, 1.0), "good": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0), "best": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)}
"""Where in a run the averaged weights are judged; their mean is judged too."""


def run_id(project: Project, feature_set: str) -> str:
    """Digest of everything a run depends on."""
    settings = project.settings
    return digest(
        [
            feature_set,
            dataclasses.asdict(settings.train),
            CANDIDATE_POINTS[settings.effort],
            settings.export.false_accepts_per_hour,
            __version__,
        ]
    )


def run(project: Project, *, feature_set: str, report: ProgressSink = no_progress) -> TrainingRun:
    """Trains, or goes on with what was stopped, or returns what is finished.

    Raises MissingDependencyError without TensorFlow, DataError without a feature set or when training diverges,
    StorageError. What is stopped goes on later exactly as if it had not been.
    """
    try:
        metadata.version("tensorflow")
    except metadata.PackageNotFoundError:
        raise MissingDependencyError(
            "training needs TensorFlow", hint="install it: pip install 'mww-ha[train]'"
        ) from None
    folder = project.features_dir / feature_set
    index = read_index(folder)
    id = run_id(project, feature_set)
    place = project.runs_dir / id
    known = next((document for document in project.catalogue.runs() if document["id"] == id), None)
    products = (place / "net.npz", place / "candidate.tflite")
    if known is not None and known["outcome"] == "done" and all(path.exists() for path in products):
        return _run_of(known)
    with storage_errors(place):
        place.mkdir(parents=True, exist_ok=True)
    sampler = make_sampler(project, folder, index)
    if not sampler.counts()["wake"]:
        raise DataError("no wake word fits into the training scenes", hint="check the wake clips: are they too long?")

    report(Progress(stage="train", message="starting TensorFlow"))
    course = _Course(project, place, sampler)
    goes_on = course.resume()
    started_at = str(known["started_at"]) if known is not None and goes_on else now()
    document: dict[str, Any] = {
        "id": id,
        "path": str(place.relative_to(project.root)),
        "feature_set": feature_set,
        "seed": course.settings.seed,
        "steps": course.settings.steps,
        "started_at": started_at,
        "duration_s": course.spent_s(),
        "outcome": "running",
        "metrics": {},
        "config": dataclasses.asdict(project.settings),
        "data": {"hours": index["hours"], "clips": index["clips"]},
        "versions": _versions(),
    }
    project.catalogue.put_run(id, started_at, document)
    try:
        course.learn(report)
        best = course.choose(folder, index, report)
        arrays: dict[str, Any] = dict(streaming.to_arrays(best.net))
        arrays |= {f"range.{name}": np.array(limits, np.float64) for name, limits in best.ranges.items()}
        with atomic_write(place / "candidate.tflite") as file:
            file.write(best.model)
        with atomic_write(place / "net.npz") as file:
            np.savez(file, **arrays)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt)
        # A full disk must not hide what happened; the last saved state is still there.
        with suppress(StorageError):
            if stopped:
                course.save()
        with suppress(StorageError):
            document |= {"outcome": "stopped" if stopped else "failed", "duration_s": course.spent_s()}
            project.catalogue.put_run(id, started_at, document)
        raise
    document |= {
        "outcome": "done",
        "duration_s": course.spent_s(),
        "chosen": best.name,
        "metrics": {
            "misses": best.misses,
            **{f"recall_{name}": value for name, value in best.recalls.items()},
            "false_accepts_per_hour": best.per_hour,
            "ambient_hours": best.hours,
        },
    }
    project.catalogue.put_run(id, started_at, document)
    course.state_path.unlink(missing_ok=True)
    return _run_of(document)


def make_sampler(project: Project, folder: Path, index: dict[str, Any]) -> Sampler:
    """Batches of the training side of a feature set, as the settings compose them."""
    settings = project.settings.train
    names = {name.partition("/")[2]: own for name, own in index["shards"].items() if name.startswith("train/")}
    allow_open_files(sum(map(len, names.values())) + 512)
    return Sampler(
        {kind: [open_shard(folder, name) for name in own] for kind, own in names.items()},
        receptive_frames=mixednet.shape_of(settings).receptive_frames,
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


def allow_open_files(count: int) -> None:
    """Raises this process's limit to ``count`` open files where it may: a mapped shard holds one.

    Linux starts with 1024, macOS with 256; a hundred hours of scenes are 600 shards.
    """
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Course:
    """One run on its way: its trainer, and what the end of each stretch of steps leaves behind.

    A stretch ends where hard negatives are searched or weights are kept. ``finished`` is the last end whose work is
    done; state that is saved in the middle of that work does it again.
    """

    def __init__(self, project: Project, place: Path, sampler: Sampler) -> None:
        from mww_ha.train import loop

        self.project, self.place, self.sampler = project, place, sampler
        self.settings = project.settings.train
        self.trainer = loop.Trainer(self.settings)
        self.state_path, self.log_path = place / "state.npz", place / "log.jsonl"
        steps = self.settings.steps
        self.points = sorted({max(1, round(steps * p)) for p in CANDIDATE_POINTS[project.settings.effort]})
        self._past = _Past(finished=0, kept=(), hard=sampler.hard)
        self._saved = (-1, -1)
        self._spent_s = 0.0
        self._started = time.monotonic()

    def spent_s(self) -> float:
        """Seconds of all sittings together."""
        return round(self._spent_s + time.monotonic() - self._started, 1)

    def resume(self) -> bool:
        """Goes back to the last saved state. False: there is none, and the log is emptied."""
        from mww_ha.train import loop

        if not self.state_path.exists():
            write_text(self.log_path, "")
            return False
        arrays = loop.load_state(self.state_path)
        self.trainer.restore(arrays)
        count = len(self.trainer.twin.weights)
        self._past = _Past(
            finished=int(arrays.get("finished", arrays["step"])),
            kept=tuple([arrays[f"kept.{k}.{i}"] for i in range(count)] for k in range(int(arrays["kept"]))),
            hard=arrays["hard"],
        )
        self._saved = (self.trainer.step, self._past.finished)
        self._spent_s = float(arrays["spent_s"])
        _cut_log(self.log_path, self.trainer.step)
        return True

    def save(self) -> None:
        """Writes the state, unless nothing was learned since it was last written."""
        from mww_ha.train import loop

        past = self._past
        moment = (self.trainer.step, past.finished)
        if moment == self._saved:
            return
        arrays = self.trainer.state() | {"hard": past.hard, "kept": np.array(len(past.kept))}
        arrays |= {"finished": np.array(past.finished), "spent_s": np.array(self.spent_s())}
        for k, weights in enumerate(past.kept):
            arrays |= {f"kept.{k}.{i}": w for i, w in enumerate(weights)}
        loop.save_state(self.state_path, arrays)
        self._saved = moment

    def learn(self, report: ProgressSink) -> None:
        """All steps that are left, and the search for hard negatives between them."""
        from mww_ha.train import loop, mining

        settings = self.settings
        mine_at = set(range(settings.mine_every, settings.steps, settings.mine_every)) if settings.mine_every else set()
        for end in sorted({*self.points, *mine_at}):
            if end <= self._past.finished:
                continue
            kept, hard = self._past.kept, self._past.hard
            self.sampler.hard = hard
            loop.train_steps(self.trainer, self.sampler, end, self.log_path, report=report)
            if end in self.points:
                kept = (*kept, self.trainer.averaged_weights())
            if end in mine_at and settings.hard_share:
                report(
                    Progress(
                        stage="train", message="searching hard negatives", done=end, total=settings.steps, unit="steps"
                    )
                )
                hard = mining.find_hard(
                    self.trainer.forward,
                    self.sampler,
                    ("confusable", "speech", "noise"),
                    self.trainer.shape.receptive_frames,
                    limit=loop.HARD_LIMIT,
                    rng=np.random.default_rng([settings.seed, 10**9, end]),
                )
            self._past = _Past(finished=end, kept=kept, hard=hard)
            self.save()

    def choose(self, folder: Path, index: dict[str, Any], report: ProgressSink) -> Candidate:
        """Judges the kept weights and their means on the validation side; writes ``candidates.json``."""
        from mww_ha.train.checkpoint import Judge, average

        judge = Judge(
            folder,
            index,
            budget=self.project.settings.export.false_accepts_per_hour,
            processes=count_processes(self.project.settings.prepare.processes),
        )
        trainer, kept = self.trainer, self._past.kept
        weights = {f"step {point}": own for point, own in zip(self.points, kept, strict=True)}
        if len(kept) > 1:
            weights[f"mean of {len(kept)}"] = average(kept)
        if len(kept) > 3:
            weights["mean of 3"] = average(kept[-3:])
        judged: list[dict[str, Any]] = []
        best: Candidate | None = None
        for name, own in weights.items():
            trainer.set_averaged_weights(own)
            candidate = judge.make(name, mixednet.fuse(trainer.twin), trainer.forward)
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
            write_json(self.place / "candidates.json", judged)
            shown = ", ".join(f"{k} {v:.0%}" for k, v in candidate.recalls.items())
            report(
                Progress(
                    stage="train",
                    message=f"{name}: validation recall {shown}",
                    done=trainer.step,
                    total=self.settings.steps,
                    unit="steps",
                )
            )
            if best is None or candidate.misses <= best.misses:
                best = candidate
        assert best is not None
        return best


@dataclass(frozen=True, slots=True, kw_only=True)
class _Past:
    """What the stretches of steps so far have left behind; replaced as a whole, so that a stop finds no half of it."""

    finished: int  # step
    kept: tuple[list[npt.NDArray[np.float32]], ...]
    hard: npt.NDArray[np.int64]


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
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows if row["step"] <= step))


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
