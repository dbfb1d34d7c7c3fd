"""A project that goes through every stage in seconds: espeak-ng voices only, minutes of sound, a small network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mww_ha.store import PROJECT_FILE, Project, open_project

PHRASE = "hey kitchen"

SETTINGS: dict[str, dict[str, Any]] = {
    "synthesize": {
        "engines": ["espeak"],
        "wake_clips": 60,
        "confusable_clips": 40,
        "confusable_phrases": 12,
        "speech_hours": 0.02,
    },
    "prepare": {
        "wake_hours": 0.02,
        "confusable_hours": 0.015,
        "speech_hours": 0.02,
        "noise_hours": 0.01,
        "ambient_hours": 0.02,
        "trial_wakes": 8,
        "processes": 1,
    },
    "train": {
        "steps": 40,
        "batch": 16,
        "mine_every": 15,
        "hard_share": 0.7,
        "filters": 16,
        "stem_filters": 8,
        "kernels": [3, 5],
    },
}


def write_settings(root: Path, **changes: dict[str, Any]) -> Project:
    """The project at ``root``, new or known, with SETTINGS and ``changes`` by section."""
    sections = {name: rows | changes.get(name, {}) for name, rows in SETTINGS.items()}
    sections |= {name: rows for name, rows in changes.items() if name not in SETTINGS}
    root.mkdir(parents=True, exist_ok=True)
    document = {"phrase": PHRASE, "language": "en", "effort": "quick", **sections}
    (root / PROJECT_FILE).write_text(yaml.safe_dump(document))
    return open_project(root)
