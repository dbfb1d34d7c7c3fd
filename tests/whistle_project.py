"""A project that learns to hear a rising whistle from 'people' who whistle: a real training that works, in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from toy_wake import RATE, bursts, noise, whistle

from mww_ha import audio, pipeline
from mww_ha.schema import Clip, Label, Origin
from mww_ha.store import PROJECT_FILE, Project, open_project

PHRASE = "a rising whistle"
PEOPLE = 24

SETTINGS: dict[str, dict[str, Any]] = {
    "augment": {"quiet_share": 0.6, "babble_share": 0.05, "talker_share": 0.05, "run_on_share": 0.1},
    "prepare": {
        "wake_hours": 0.03,
        "confusable_hours": 0.02,
        "speech_hours": 0.02,
        "noise_hours": 0.008,
        "ambient_hours": 0.02,
        "trial_wakes": 12,
        "processes": 1,
    },
    "train": {
        "steps": 60,
        "batch": 32,
        "mine_every": 25,
        "filters": 16,
        "stem_filters": 16,
        "kernels": [5, 9],
        "ema_decay": 0.9,
    },
    "retrain": {"verdicts": 10, "steps_share": 0.4},
}


def write_settings(root: Path, **changes: dict[str, Any]) -> Project:
    """The project at ``root``, new or known, with SETTINGS and ``changes`` by section."""
    sections = {name: rows | changes.get(name, {}) for name, rows in SETTINGS.items()}
    sections |= {name: rows for name, rows in changes.items() if name not in SETTINGS}
    root.mkdir(parents=True, exist_ok=True)
    (root / PROJECT_FILE).write_text(
        yaml.safe_dump({"phrase": PHRASE, "language": "en", "effort": "quick", **sections})
    )
    return open_project(root)


def add_people(project: Project, *, lures: int = 2) -> None:
    """Whistles of many people, each with ``lures`` that fall, other sounds by them, and bursts of noise."""
    rng = np.random.default_rng(9)
    clips: list[Clip] = []
    for number in range(PEOPLE):
        said = {"speaker": f"person {number}", "session": f"sitting {number}"}
        for sound, label, count in (("rising", Label.WAKE, 3), ("falling", Label.CONFUSABLE, lures)):
            clips += [
                _add(project, whistle(rng, sound), label, text=f"a {sound} whistle", **said) for _ in range(count)
            ]
        for _ in range(2):
            pieces = [
                piece
                for sound in rng.choice(["low", "high"], 4)
                for piece in (whistle(rng, str(sound)), noise(rng, float(rng.uniform(0.1, 0.4)), 20.0))
            ]
            clips.append(_add(project, np.concatenate(pieces), Label.SPEECH, **said))
        if number % 3 == 0:
            clips.append(_add(project, bursts(rng, 12), Label.NOISE, session=f"room {number}"))
    project.catalogue.add_clips(clips)


def _add(project: Project, samples: np.ndarray, label: Label, **known: str) -> Clip:
    assert samples.size > RATE // 5
    return audio.add_clip(project.root, samples, label=label, origin=Origin.RECORDED, **known)


def make_model(project: Project) -> dict[str, Any]:
    """Every stage after the sound; the catalogue's entry of the model."""
    for stage in ("prepare", "train", "evaluate", "export"):
        pipeline.run_stage(project, stage)
    return project.catalogue.models()[0]
