"""The nouns: what the stages hand to each other.

Frozen, slotted, keyword-only and flat; linked by id. A digest of its inputs is a thing's id, so the same
input gives the same id and no second run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

SAMPLE_RATE_HZ = 16_000
"""Every sample inside the project is at this rate; it is the rate of the device's frontend."""


class Label(StrEnum):
    """What a clip is to the model."""

    WAKE = "wake"
    CONFUSABLE = "confusable"
    SPEECH = "speech"
    NOISE = "noise"
    RIR = "rir"


class Origin(StrEnum):
    """Where a clip came from."""

    RECORDED = "recorded"
    SYNTHESIZED = "synthesized"
    CAPTURED = "captured"
    IMPORTED = "imported"


class Split(StrEnum):
    """The three sides no speaker, take or source file may straddle."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


def digest(value: Any, length: int = 16) -> str:
    """Hex digest of anything JSON can hold, independent of key order. 4 bits per character of ``length``."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """One sound file in the project, at 16 kHz, mono, int16 (RIRs: float32)."""

    id: str  # digest of sha256, label and take
    path: str  # relative to the project directory
    sha256: str  # of the stored samples
    label: Label
    origin: Origin
    duration_s: float
    speaker: str = ""  # a person, or "engine:voice:speaker"; empty: unknown, the clip is its own speaker
    session: str = ""  # one sitting: same day, place and microphone
    take: str = ""  # copies and near-duplicates of one utterance share it
    text: str = ""  # what is said, where known
    language: str = ""  # BCP 47, "en", "de-AT"
    licence: str = ""
    source: str = ""  # file name or address it came from
    parent: str = ""  # id of the clip it was cut or derived from


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureSet:
    """Spectrogram frames of all splits, ready for training: ``features/<id>/``."""

    id: str
    path: str
    train_examples: int
    train_hours: float
    validation_wakes: int
    validation_ambient_hours: float
    test_wakes: int
    test_ambient_hours: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """One training: ``runs/<id>/``. ``outcome`` is running | done | stopped | failed."""

    id: str
    path: str
    feature_set: str
    seed: int
    steps: int
    started_at: str  # ISO 8601, UTC
    duration_s: float
    outcome: str
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A rate or a share never travels without what it rests on."""

    value: float
    low: float
    high: float
    events: int  # numerator
    exposure: float  # denominator: trials, or hours
    unit: str  # "share" or "per hour"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelArtifact:
    """A model file that is vouched for: ``models/<slug>-<sha8>.{json,tflite,about.json}``."""

    id: str  # <slug>-<sha8>
    slug: str
    sha256: str  # of the .tflite
    manifest_path: str
    model_path: str
    about_path: str
    run: str
    phrase: str
    probability_cutoff: float
    sliding_window: int
    tensor_arena_bytes: int
    model_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """An ESPHome satellite."""

    name: str
    address: str = ""
    board: str = ""
    esphome_version: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One line of what long work says. ``done``/``total`` in ``unit``; ``total`` 0 means unknown."""

    stage: str
    message: str = ""
    done: float = 0
    total: float = 0
    unit: str = ""

    def as_json(self) -> str:
        """One JSON object on one line."""
        return json.dumps(asdict(self), sort_keys=True)


ProgressSink = Callable[[Progress], None]
"""Where a stage sends its Progress; must be cheap and never raise."""


def no_progress(progress: Progress) -> None:
    """A sink for callers that do not want to hear."""
