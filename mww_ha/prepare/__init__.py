"""Clips → a feature set. Reads the catalogue's clips and their sound; writes ``features/<id>/``.

Held-out people and voices stay held out: the split comes first, and every scene is made of clips of one side.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mww_ha import audio
from mww_ha.errors import DataError
from mww_ha.prepare import features
from mww_ha.prepare.features import ShardPlan
from mww_ha.prepare.scenes import CONDITIONS
from mww_ha.prepare.split import split_clips
from mww_ha.schema import Clip, FeatureSet, Label, Origin, Progress, ProgressSink, Split, digest, no_progress
from mww_ha.store import Project, link_file, storage_errors, write_json
from mww_ha.workers import count_processes, run_tasks

FALSE_ACCEPT_FAMILIES = ("ambient", "varied", "real")

VARIED_TIMES = 8
"""How often, at the most, held-out recorded speech is heard again in another room."""

MINED_SHARD_S = 600.0
"""Length of a shard of recordings that are searched for hard negatives; a search looks at half of them."""

VERSION = 3
"""Raised when the same clips and settings would give other frames."""


def feature_set_id(project: Project, clips: Sequence[Clip]) -> str:
    """Digest of everything the frames depend on."""
    settings = project.settings
    inputs = [VERSION, [(c.id, c.speaker, c.session, c.take) for c in clips]]
    rendering = dataclasses.replace(settings.prepare, processes=0)  # how many share the work changes no frame
    inputs += [dataclasses.asdict(s) for s in (settings.split, settings.augment, rendering)]
    return digest(inputs)


def run(project: Project, *, report: ProgressSink = no_progress) -> FeatureSet:
    """Renders every shard that is not there yet. Raises DataError, SplitLeakError, StorageError."""
    clips = project.catalogue.clips()
    wakes = [c for c in clips if c.label is Label.WAKE]
    if not wakes:
        raise DataError(
            f"the project has no clip of {project.settings.phrase!r}",
            hint="make some with: mww-ha synthesize, or import recordings with: mww-ha import DIR --label wake",
        )
    if not any(c.label in (Label.SPEECH, Label.CONFUSABLE) for c in clips):
        raise DataError(
            "the project has no speech that must not wake",
            hint="make some with: mww-ha synthesize, or import some with: mww-ha import DIR --label speech",
        )
    id = feature_set_id(project, clips)
    folder = project.features_dir / id
    index_path = folder / "index.json"
    if index_path.exists():
        return _feature_set(json.loads(index_path.read_text()))
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    report(Progress(stage="prepare", message="splitting by voice"))
    sides = split_clips(clips, project.settings.split, lambda clip: audio.read_samples(project.root / clip.path))
    by_side: dict[Split, list[Clip]] = defaultdict(list)
    for clip in clips:
        by_side[sides[clip.id]].append(clip)
    pools: dict[Split, Path] = {}
    for split in Split:
        report(Progress(stage="prepare", message=f"reading clips of the {split} side"))
        pools[split] = folder / f"pool-{split}.i16"
        left_out = set(features.build_pool(project.root, by_side[split], pools[split])["left_out"])
        by_side[split] = [clip for clip in by_side[split] if clip.id not in left_out]
    _check_sides(project, by_side)
    plans = plan_feature_set(project, by_side)
    settings = project.settings.prepare
    keys = shard_keys(project, plans, by_side)
    again = _link_known(project, folder, keys)
    if again:
        report(Progress(stage="prepare", message=f"{again} of {len(plans)} shards are those of an earlier feature set"))
    seconds = 0.0
    started = time.monotonic()
    processes = count_processes(settings.processes)
    results = run_tasks(
        features.render_in_worker,
        [(plan, folder) for plan in plans],
        processes=processes,
        prepare=features.prepare_worker,
        arguments=(project.root, pools, project.settings.augment),
    )
    for done, duration_s in enumerate(results, 1):
        seconds += duration_s
        hours = seconds / 3600
        report(
            Progress(
                stage="prepare", message=f"{hours:.1f} h of sound rendered", done=done, total=len(plans), unit="shards"
            )
        )
    features.close_pools()
    document = _index(id, folder, plans, sides, by_side, project.root)
    document["keys"] = keys
    document["render_s"] = round(time.monotonic() - started, 1)
    for path in pools.values():
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
    for part in folder.glob(".*.part"):
        part.unlink(missing_ok=True)  # what a killed run was writing
    write_json(index_path, document)
    return _feature_set(document)


def shard_keys(project: Project, plans: Sequence[ShardPlan], by_side: dict[Split, list[Clip]]) -> dict[str, str]:
    """Digest of all that decides a shard's content, by its name.

    Words that satellites captured are in the shards that name them and in no other: they leave the others' keys alone.
    """

    def rows(clips: Sequence[Clip]) -> list[tuple[str, ...]]:
        return [(c.id, c.label, c.origin, c.speaker, c.text) for c in clips]

    by_id = {clip.id: clip for clips in by_side.values() for clip in clips}
    pools = {
        split: digest(rows([clip for clip in clips if clip.origin is not Origin.CAPTURED]), 64)
        for split, clips in by_side.items()
    }
    effects = dataclasses.asdict(project.settings.augment)
    return {
        plan.name: digest(
            [VERSION, dataclasses.asdict(plan), pools[plan.split], rows([by_id[id] for id in plan.clips]), effects], 64
        )
        for plan in plans
    }


def _link_known(project: Project, folder: Path, keys: dict[str, str]) -> int:
    """Shards of earlier feature sets that would come out the same, linked into ``folder``. Returns how many."""
    known: dict[str, Path] = {}
    for index_path in sorted(project.features_dir.glob("*/index.json")):
        try:
            earlier = json.loads(index_path.read_text()).get("keys", {})
        except ValueError:
            continue  # damaged: its own readers say so
        known |= {key: index_path.parent / name for name, key in earlier.items()}
    linked = 0
    for name, key in keys.items():
        source = known.get(key)
        if source is None or (folder / f"{name}.json").exists():
            continue
        # Frames first: a shard is there when its rows are.
        linked += all(
            link_file(source.with_name(source.name + end), folder / (name + end)) for end in (".u16", ".json")
        )
    return linked


def _check_sides(project: Project, by_side: dict[Split, list[Clip]]) -> None:
    """Raises DataError when a side lacks what training or judging needs; ``by_side`` holds usable clips only."""
    more_speech = "make more with: mww-ha synthesize, or import more speakers with: mww-ha import DIR --label speech"
    for split in Split:
        # Captures are no basis: scenes are made of the others.
        clips = [c for c in by_side[split] if split is not Split.TRAIN or c.origin is not Origin.CAPTURED]
        labels = {clip.label for clip in clips}
        if Label.WAKE not in labels:
            raise DataError(
                f"the {split} side has no clip of {project.settings.phrase!r} that is between 0.05 and "
                f"{features.LONGEST_WORD_S:g} seconds long without its silence",
                hint="add voices (mww-ha synthesize) or people (mww-ha import DIR --label wake --speaker NAME), "
                "or cut long recordings to one wake word each",
            )
        if split is Split.TRAIN and not labels & {Label.SPEECH, Label.CONFUSABLE}:
            raise DataError("the train side has no speech that must not wake", hint=more_speech)
        if split is not Split.TRAIN and not labels & {Label.SPEECH, Label.NOISE}:
            raise DataError(f"the {split} side has no speech or noise to count false accepts on", hint=more_speech)


def plan_feature_set(project: Project, by_side: dict[Split, list[Clip]]) -> list[ShardPlan]:
    """Every shard of the feature set, the largest first so that no process waits for it at the end.

    What one side gets does not depend on the others.
    """
    settings = project.settings.prepare
    plans: list[ShardPlan] = []
    hours = {
        "wake": settings.wake_hours,
        "confusable": settings.confusable_hours,
        "speech": settings.speech_hours,
        "noise": settings.noise_hours,
    }
    field = [c for c in by_side[Split.TRAIN] if c.origin is Origin.CAPTURED]
    train_labels = {clip.label for clip in by_side[Split.TRAIN] if clip.origin is not Origin.CAPTURED}
    for code, (kind, amount) in enumerate(hours.items()):
        if kind in ("confusable", "speech") and Label(kind) not in train_labels:
            continue
        plans += features.plan_shards(f"train-{kind}", Split.TRAIN, kind, amount, settings.scene_s, settings.seed, code)
    plans += features.plan_field(field, settings.field_hours, settings.scene_s, settings.seed, len(hours))
    plans += _recordings(by_side[Split.TRAIN], settings.mined_hours, settings.seed)
    for code, split in ((10, Split.VALIDATION), (20, Split.TEST)):
        clips = by_side[split]
        wakes = _choose_trials([c for c in clips if c.label is Label.WAKE], settings.trial_wakes, settings.seed)
        for number, condition in enumerate(CONDITIONS):
            plans += _trial_shards(f"{split}-{condition}", split, condition, wakes, (settings.seed, code + number))
        lures = _choose_trials(
            [c for c in clips if c.label is Label.CONFUSABLE], 2 * settings.trial_wakes, settings.seed
        )
        plans += _trial_shards(f"{split}-lures", split, "lures", lures, (settings.seed, code + 4))
        if any(c.label is Label.SPEECH and c.origin is Origin.SYNTHESIZED for c in clips):
            plans += features.plan_shards(
                f"{split}-ambient", split, "ambient", settings.ambient_hours, 60.0, settings.seed, code + 5
            )
        real = [c for c in clips if c.label in (Label.SPEECH, Label.NOISE) and c.origin is not Origin.SYNTHESIZED]
        if real:
            unique_h = sum(c.duration_s for c in real if c.label is Label.SPEECH) / 3600
            if unique_h > 0.02:
                hours_h = min(settings.ambient_hours, VARIED_TIMES * unique_h)
                plans += features.plan_shards(
                    f"{split}-varied", split, "varied", hours_h, 60.0, settings.seed, code + 6
                )
            ids = tuple(c.id for c in real)
            plans.append(ShardPlan(name=f"{split}-real", split=split, family="real", scenes=len(ids), clips=ids))
    return sorted(plans, key=lambda plan: plan.family != "real")


def _recordings(clips: Sequence[Clip], hours: float, seed: int) -> list[ShardPlan]:
    """Recorded speech and noise of the training side as it is, long pieces first, up to ``hours``.

    Nothing is learned from it but what a network takes for the wake word.
    """
    rng = np.random.default_rng([seed, 78])
    real = [c for c in clips if c.label in (Label.SPEECH, Label.NOISE) and c.origin is not Origin.SYNTHESIZED]
    real = sorted((real[int(i)] for i in rng.permutation(len(real))), key=lambda clip: -min(clip.duration_s, 60.0))
    plans: list[ShardPlan] = []
    ids: list[str] = []
    total_s = own_s = 0.0
    for clip in real:
        if total_s + clip.duration_s > hours * 3600:
            continue
        ids.append(clip.id)
        total_s += clip.duration_s
        own_s += clip.duration_s
        if own_s >= MINED_SHARD_S:
            plans.append(_recording_shard(len(plans), ids))
            ids, own_s = [], 0.0
    return [*plans, _recording_shard(len(plans), ids)] if ids else plans


def _recording_shard(number: int, ids: Sequence[str]) -> ShardPlan:
    return ShardPlan(
        name=f"train-real-{number:03d}", split=Split.TRAIN, family="real", scenes=len(ids), clips=tuple(ids)
    )


def _trial_shards(
    name: str, split: Split, family: str, clips: Sequence[Clip], seed: tuple[int, ...]
) -> list[ShardPlan]:
    ids = [c.id for c in clips]
    return [
        ShardPlan(
            name=f"{name}-{n:03d}",
            split=split,
            family=family,
            scenes=0,
            clips=tuple(ids[first : first + 50]),
            seed=(*seed, n),
        )
        for n, first in enumerate(range(0, len(ids), 50))
    ]


def _choose_trials(clips: Sequence[Clip], limit: int, seed: int) -> list[Clip]:
    """At most ``limit`` clips, people first, one per take, voices in turn; the same choice every time."""
    rng = np.random.default_rng([seed, 77])
    turns: dict[str, list[Clip]] = defaultdict(list)
    takes: set[str] = set()
    for index in rng.permutation(len(clips)):
        clip = clips[int(index)]
        if clip.take and clip.take in takes:
            continue
        takes.add(clip.take)
        # Whoever has no name is one voice per sitting: a satellite's many captures must not be the whole trial.
        turns[clip.speaker or clip.session or clip.id].append(clip)
    real = {name for name, own in turns.items() if own[0].origin is not Origin.SYNTHESIZED}
    chosen: list[Clip] = []
    for wanted in (True, False):
        queues = [list(turns[name]) for name in sorted(turns) if (name in real) is wanted]
        while queues and len(chosen) < limit:
            queues = [queue for queue in queues if queue]
            chosen += [queue.pop() for queue in queues]
    return chosen[:limit]


def _index(
    id: str,
    folder: Path,
    plans: Sequence[ShardPlan],
    sides: dict[str, Split],
    by_side: dict[Split, list[Clip]],
    root: Path,
) -> dict[str, object]:
    names: dict[str, list[str]] = defaultdict(list)
    hours: Counter[str] = Counter()
    for plan in plans:
        names[f"{plan.split}/{plan.family}"].append(plan.name)
        hours[f"{plan.split}/{plan.family}"] += json.loads((folder / f"{plan.name}.json").read_text())["duration_s"]
    counts = {f"{split}/{label}": sum(c.label is label for c in by_side[split]) for split in Split for label in Label}
    return {
        "id": id,
        "path": str(folder.relative_to(root)),
        "version": VERSION,
        "shards": dict(names),
        "hours": {name: seconds / 3600 for name, seconds in hours.items()},
        "clips": {name: count for name, count in counts.items() if count},
        "speakers": {
            str(split): sorted({c.speaker for c in by_side[split] if c.label is Label.WAKE}) for split in Split
        },
        "sides": {id: str(side) for id, side in sides.items()},
        "captures": {c.id: c.parent for split in Split for c in by_side[split] if c.origin is Origin.CAPTURED},
        # What a deletion has to find here, whatever has become of the clips' rows by then.
        "parents": {c.id: c.parent for split in Split for c in by_side[split] if c.parent},
        "people": {
            c.id: c.speaker
            for split in Split
            for c in by_side[split]
            if c.speaker and c.origin is not Origin.SYNTHESIZED
        },
    }


def _feature_set(document: dict[str, object]) -> FeatureSet:
    hours: dict[str, float] = document["hours"]  # type: ignore[assignment]
    clips: dict[str, int] = document["clips"]  # type: ignore[assignment]
    return FeatureSet(
        id=str(document["id"]),
        path=str(document["path"]),
        train_examples=sum(n for name, n in clips.items() if name.startswith("train/")),
        train_hours=sum(h for name, h in hours.items() if name.startswith("train/")),
        validation_wakes=clips.get("validation/wake", 0),
        validation_ambient_hours=sum(hours.get(f"validation/{f}", 0.0) for f in FALSE_ACCEPT_FAMILIES),
        test_wakes=clips.get("test/wake", 0),
        test_ambient_hours=sum(hours.get(f"test/{f}", 0.0) for f in FALSE_ACCEPT_FAMILIES),
    )
