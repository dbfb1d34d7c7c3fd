"""A finished run of the toy wake word: real clips, real shards, a real network and its report, in a few seconds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from toy_wake import bursts, toy, whistle

from mww_ha import audio
from mww_ha.evaluate import held_out
from mww_ha.nn import streaming
from mww_ha.nn.streaming import FusedNet
from mww_ha.prepare import features
from mww_ha.prepare.features import ShardPlan
from mww_ha.prepare.scenes import CONDITIONS, SceneMaker
from mww_ha.schema import Clip, Label, Origin, Split
from mww_ha.store import Project, create_project, open_project, write_json

RUN, FEATURE_SET = "run-of-the-toy", "whistles"
WAKES = 6


def open_run(root: Path, **overrides: str) -> Project:
    """The project at ``root``, one process, ``overrides`` with ``__`` for the dot."""
    values = {key.replace("__", "."): value for key, value in overrides.items()}
    return open_project(root, {"prepare.processes": "1", **values})


def finished_run(base: Path) -> Path:
    """The project of ``make_run`` below ``base``, made once. Only to be read, or copied."""
    root = base / "toy-run" / "project"
    if not root.exists():
        make_run(root)
    return root


def make_run(root: Path) -> None:
    """A project whose run ``RUN`` is prepared, trained and evaluated."""
    create_project(root, "a rising whistle").catalogue.close()
    project = open_run(root)
    folder = project.features_dir / FEATURE_SET
    folder.mkdir(parents=True)
    shards: dict[str, list[str]] = {}
    hours: dict[str, float] = {}
    speakers: dict[str, list[str]] = {"train": []}
    sides: dict[str, str] = {}
    for split, seed in ((Split.VALIDATION, 1), (Split.TEST, 2)):
        clips = _make_clips(project, split, seed)
        features.build_pool(project.root, clips, folder / f"pool-{split}.i16")
        maker = SceneMaker(features.open_pool(project.root, folder / f"pool-{split}.i16"), project.settings.augment)
        for plan in _plan(split, clips, seed):
            seconds = features.render_shard(plan, maker, folder)
            shards.setdefault(f"{split}/{plan.family}", []).append(plan.name)
            hours[f"{split}/{plan.family}"] = seconds / 3600
        sides |= {clip.id: str(split) for clip in clips}
        speakers[str(split)] = sorted({clip.speaker for clip in clips if clip.label is Label.WAKE})
    counts = {"test/wake": WAKES}
    index = {"shards": shards, "hours": hours, "clips": counts, "speakers": speakers, "sides": sides}
    write_json(folder / "index.json", index)
    put_candidate(project, toy().net, toy().model)
    place = project.runs_dir / RUN
    losses = [{"step": step, "wake_loss": 1 / step, "negative_loss": 0.5 / step} for step in (10, 20)]
    (place / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in losses))
    write_json(place / "candidates.json", [])
    document: dict[str, Any] = {
        "id": RUN,
        "path": f"runs/{RUN}",
        "feature_set": FEATURE_SET,
        "seed": 1,
        "steps": 20,
        "started_at": "2026-01-01T00:00:00+00:00",
        "duration_s": 2.0,
        "outcome": "done",
        "metrics": {},
        "chosen": "step 20",
        "config": dataclasses.asdict(project.settings),
        "versions": {},
    }
    project.catalogue.put_run(RUN, document["started_at"], document)
    held_out.run(project, run=RUN)
    project.catalogue.close()


def _make_clips(project: Project, split: Split, seed: int) -> list[Clip]:
    """Rising and falling whistles by three people, and bursts of noise."""
    rng = np.random.default_rng(seed)
    clips = []
    sounds = [("rising", Label.WAKE)] * WAKES + [("falling", Label.CONFUSABLE)] * 4 + [("bursts", Label.NOISE)] * 3
    for number, (sound, label) in enumerate(sounds):
        samples = bursts(rng, 14) if label is Label.NOISE else whistle(rng, sound)
        fields = {} if label is Label.NOISE else {"speaker": f"{split} {number % 3}", "text": f"a {sound} whistle"}
        clip = audio.add_clip(project.root, samples, label=label, origin=Origin.RECORDED, **fields)
        clips.append(clip)
    project.catalogue.add_clips(clips)
    return clips


def _plan(split: Split, clips: list[Clip], seed: int) -> list[ShardPlan]:
    def trial(family: str, label: Label, code: int) -> ShardPlan:
        ids = tuple(clip.id for clip in clips if clip.label is label)
        name = f"{split}-{family}"
        return ShardPlan(name=name, split=split, family=family, scenes=len(ids), clips=ids, seed=(seed, code))

    plans = [trial(condition, Label.WAKE, code) for code, condition in enumerate(CONDITIONS)]
    plans += [trial("lures", Label.CONFUSABLE, 4), trial("real", Label.NOISE, 5)]
    return [*plans, *features.plan_shards(f"{split}-ambient", split, "ambient", 0.02, 30.0, seed, 6)]


def put_candidate(project: Project, net: FusedNet, model: bytes) -> None:
    """Makes these the run's network and file."""
    place = project.runs_dir / RUN
    place.mkdir(parents=True, exist_ok=True)
    np.savez(place / "net.npz", **streaming.to_arrays(net))
    (place / "candidate.tflite").write_bytes(model)
