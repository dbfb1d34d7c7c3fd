"""A feature set → a training run. Reads ``features/<id>/``; writes ``runs/<id>/``.

``runs/<id>/`` holds ``log.jsonl`` (losses), ``state.npz`` (to go on after a stop), ``candidates.json`` (what was
judged), ``weights.npz`` (what was chosen, as a later run may start from it), ``net.npz`` (the same as a network, with
its ranges) and ``candidate.tflite`` (the same, as it would be flashed).
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
from mww_ha.errors import DataError, MissingDependencyError, StorageError, how_to_install
from mww_ha.nn import mixednet, streaming
from mww_ha.schema import Progress, ProgressSink, Split, TrainingRun, digest, no_progress
from mww_ha.shards import open_shard, read_index
from mww_ha.store import Project, atomic_write, now, storage_errors, write_json, write_text
from mww_ha.train.sampler import Sampler, Shares
from mww_ha.workers import count_processes

if TYPE_CHECKING:
    from mww_ha.train.checkpoint import Candidate, Judge

CANDIDATE_POINTS = {"quick": (0.8, 1.0), "good": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0), "best": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)}
"""Where in a run the averaged weights are kept and judged; their mean is judged too."""

WATCHED_POINTS = {"quick": (0.25, 0.5), "good": (0.15, 0.3), "best": (0.15, 0.3)}
"""Where they are judged as well, so that whoever watches sees whether it learns; they are not kept."""

MINED = ("confusable", "speech", "noise", "real", "field")
"""Kinds of training sound that are searched for hard negatives."""


def run_id(project: Project, feature_set: str, start: str = "") -> str:
    """Digest of everything a run depends on; ``start`` is the run whose weights it starts from."""
    settings = project.settings
    inputs: list[Any] = [
        feature_set,
        dataclasses.asdict(settings.train),
        CANDIDATE_POINTS[settings.effort],
        settings.export.false_accepts_per_hour,
        __version__,
    ]
    return digest([*inputs, start] if start else inputs)


def find_obstacle(project: Project, start: str, *, feature_set: str) -> str:
    """Why a run on ``feature_set`` cannot start from the weights of the run ``start``; empty: it can."""
    document = next((document for document in project.catalogue.runs() if document["id"] == start), None)
    if document is None or document["outcome"] != "done":
        return f"training run {start or 'of the current model'} is not known here"
    if gone := sum(mark["trained_on"] for mark in document.get("deleted", [])):
        # Whoever had their voice deleted does not live on in the next model.
        what = "a clip that was" if gone == 1 else f"{gone} clips that were"
        return f"it was trained on {what} deleted since"
    if not (project.runs_dir / start / "weights.npz").exists():
        return f"training run {start} kept no weights to start from"
    settings, known = dataclasses.asdict(project.settings.train), document["config"]["train"]
    for name in ("stem_filters", "filters", "kernels", "head_steps"):
        if list(np.ravel(settings[name])) != list(np.ravel(known[name])):
            return f"the network is another one: train.{name} was {known[name]} and is {settings[name]}"
    version = read_index(project.features_dir / feature_set).get("version")
    if document["data"].get("version", version) != version:
        return "features are made in another way since"
    return ""


def run(project: Project, *, feature_set: str, start: str = "", report: ProgressSink = no_progress) -> TrainingRun:
    """Trains, or goes on with what was stopped, or returns what is finished.

    ``start``: the run whose weights this one starts from, and which chooses its first hard negatives.
    Raises MissingDependencyError without TensorFlow, DataError without a feature set, when ``start`` does not fit
    (see ``find_obstacle``) or when training diverges, StorageError. What is stopped goes on later exactly as if it had
    not been.
    """
    try:
        metadata.version("tensorflow")
    except metadata.PackageNotFoundError:
        raise MissingDependencyError("training needs TensorFlow", hint=how_to_install("train")) from None
    folder = project.features_dir / feature_set
    index = read_index(folder)
    if start and (obstacle := find_obstacle(project, start, feature_set=feature_set)):
        raise DataError(f"training cannot start from run {start}: {obstacle}", hint="train from the beginning instead")
    id = run_id(project, feature_set, start)
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

    from mww_ha.train import loop

    report(Progress(stage="train", message="starting TensorFlow"))
    course = _Course(project, place, sampler, folder, index)
    goes_on = course.resume()
    if start and not goes_on:
        course.start_from(project.runs_dir / start)
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
        "data": {
            "hours": index["hours"],
            "clips": index["clips"],
            "version": index["version"],
            # Which captures this run has learned from: clip → capture.
            "captures": {
                clip: capture
                for clip, capture in index.get("captures", {}).items()
                if index["sides"][clip] == Split.TRAIN
            },
            "field_shares": sampler.field_shares,
        },
        "versions": _versions(),
    }
    if start:
        document["start"] = start
    project.catalogue.put_run(id, started_at, document)
    try:
        course.learn(report)
        best, weights = course.choose(report)
        arrays: dict[str, Any] = dict(streaming.to_arrays(best.net))
        arrays |= {f"range.{name}": np.array(limits, np.float64) for name, limits in best.ranges.items()}
        loop.save_state(place / "weights.npz", {f"twin.{i}": w for i, w in enumerate(weights)})
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
            field=settings.field_share,
            field_clip=settings.field_clip_share,
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

    A stretch ends where hard negatives are searched or weights are kept or judged. ``finished`` is the last end whose
    work is done; state that is saved in the middle of that work does it again.
    """

    def __init__(
        self, project: Project, place: Path, sampler: Sampler, feature_folder: Path, index: dict[str, Any]
    ) -> None:
        from mww_ha.train import loop

        self.project, self.place, self.sampler = project, place, sampler
        self.settings = project.settings.train
        self.trainer = loop.Trainer(self.settings)
        self.state_path, self.log_path = place / "state.npz", place / "log.jsonl"
        self.judged_path = place / "candidates.json"
        steps = self.settings.steps
        self.points = sorted({max(1, round(steps * p)) for p in CANDIDATE_POINTS[project.settings.effort]})
        self.watched = {max(1, round(steps * p)) for p in WATCHED_POINTS[project.settings.effort]}
        self._features = feature_folder, index
        self._judge: Judge | None = None
        self._judged: list[dict[str, Any]] = []  # rows of candidates.json
        self._candidates: dict[str, Candidate] = {}  # of this sitting
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
            write_json(self.judged_path, [])
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
        self._judged = _read_judged(self.judged_path, self._past.finished)
        return True

    def start_from(self, place: Path) -> None:
        """Begins with the weights of the finished run at ``place``, whose mistakes are the first hard negatives."""
        from mww_ha.train import loop

        self.trainer.start_from(loop.load_state(place / "weights.npz"))
        if self.settings.hard_share:
            self._past = dataclasses.replace(self._past, hard=self._mine(0))

    def _mine(self, step: int) -> npt.NDArray[np.int64]:
        """Where the averaged network is most wrong."""
        from mww_ha.train import loop, mining

        return mining.find_hard(
            self.trainer.forward,
            self.sampler,
            MINED,
            self.trainer.shape.receptive_frames,
            limit=loop.HARD_LIMIT,
            rng=np.random.default_rng([self.settings.seed, 10**9, step]),
        )

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
        from mww_ha.train import loop

        settings = self.settings
        mine_at = set(range(settings.mine_every, settings.steps, settings.mine_every)) if settings.mine_every else set()
        judge_at = {*self.points, *self.watched}
        for end in sorted(judge_at | mine_at):
            if end > self._past.finished:
                kept, hard = self._past.kept, self._past.hard
                self.sampler.hard = hard
                loop.train_steps(self.trainer, self.sampler, end, self.log_path, report=report)
                if end in self.points:
                    kept = (*kept, self.trainer.averaged_weights())
                if end in mine_at and settings.hard_share:
                    report(self._progress("searching hard negatives"))
                    hard = self._mine(end)
                self._past = _Past(finished=end, kept=kept, hard=hard)
                self.save()
            if end == self.trainer.step and end in judge_at:
                # After a stop in the middle of it too: the weights are still those of this step.
                self._judge_weights(f"step {end}", self.trainer.averaged_weights(), end in self.points, report)

    def choose(self, report: ProgressSink) -> tuple[Candidate, list[npt.NDArray[np.float32]]]:
        """Judges the means of the kept weights on the validation side, and kept weights that were not judged yet.

        Returns the best as it would be flashed, and its weights.
        """
        from mww_ha.train.checkpoint import average

        kept = self._past.kept
        weights = {f"step {point}": own for point, own in zip(self.points, kept, strict=True)}
        if len(kept) > 1:
            weights[f"mean of {len(kept)}"] = average(kept)
        if len(kept) > 3:
            weights["mean of 3"] = average(kept[-3:])
        rows = {name: self._judge_weights(name, own, True, report) for name, own in weights.items()}
        # Of equals the later one: means come last.
        best = min(reversed(rows), key=lambda name: rows[name]["misses"])
        return self._candidates.get(best) or self._make(best, weights[best]), weights[best]

    def _judge_weights(
        self, name: str, weights: list[npt.NDArray[np.float32]], kept: bool, report: ProgressSink
    ) -> dict[str, Any]:
        """What averaged weights miss on the validation side, as the file that would be flashed.

        A row of ``candidates.json``, where it is put unless it stands there. ``kept``: they may be chosen.
        """
        for row in self._judged:
            if row["name"] == name:
                return row
        report(self._progress(f"judging {name}"))
        candidate = self._make(name, weights)
        if kept:
            self._candidates[name] = candidate
        row = {
            "name": name,
            "kept": kept,
            "misses": candidate.misses,
            "recalls": candidate.recalls,
            "cutoff": candidate.cutoff,
            "per_hour": candidate.per_hour,
            "hours": candidate.hours,
        }
        self._judged.append(row)
        write_json(self.judged_path, self._judged)
        shown = ", ".join(f"{condition} {recall:.0%}" for condition, recall in candidate.recalls.items())
        report(self._progress(f"{name}: validation recall {shown}"))
        return row

    def _progress(self, message: str) -> Progress:
        return Progress(stage="train", message=message, done=self.trainer.step, total=self.settings.steps, unit="steps")

    def _make(self, name: str, weights: list[npt.NDArray[np.float32]]) -> Candidate:
        from mww_ha.train.checkpoint import Judge

        if self._judge is None:
            settings = self.project.settings
            budget, processes = settings.export.false_accepts_per_hour, count_processes(settings.prepare.processes)
            self._judge = Judge(*self._features, budget=budget, processes=processes)
        self.trainer.set_averaged_weights(weights)
        return self._judge.make(name, mixednet.fuse(self.trainer.twin), self.trainer.forward)


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


def _read_judged(path: Path, finished: int) -> list[dict[str, Any]]:
    """Rows of weights up to the step ``finished``; what cannot be read is judged again."""
    try:
        rows: list[dict[str, Any]] = json.loads(path.read_text())
        return [row for row in rows if row["name"].startswith("step ") and int(row["name"][5:]) <= finished]
    except (OSError, ValueError, KeyError, TypeError):
        return []


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
