"""The nouns: what the stages hand to each other.

Frozen, slotted, keyword-only and flat; linked by id. A digest of its inputs is a thing's id, so the same
input gives the same id and no second run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
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


class CaptureKind(StrEnum):
    """Why a satellite sent a sound."""

    DETECTION = "detection"
    NEAR_MISS = "near_miss"  # the slot with the low cutoff woke, the model did not
    CANARY = "canary"  # a model on trial in the second slot woke
    FALSE_WAKE = "false_wake"  # somebody said so about a detection, by button or action; often without sound
    PROMPT = "prompt"  # somebody was asked to say the phrase


class Verdict(StrEnum):
    """What a person says a capture is. Nothing is trained on that is undecided."""

    UNDECIDED = "undecided"
    WAKE = "wake"
    FALSE_ACCEPT = "false_accept"
    MISSED_WAKE = "missed_wake"  # a near miss that should have woken
    OTHER = "other"  # neither; kept, not trained on
    DISCARD = "discard"  # its sound is deleted when it can no longer be undone


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
    """An ESPHome satellite of the household: one entry of ``devices.yaml``."""

    name: str  # ESPHome host name
    template: str  # id of a board of ``deploy.boards``
    address: str = ""  # IP address or host name; empty: <name>.local
    port: int = 6053  # native API
    backend: str = "esphome"  # esphome | builder | handoff
    serial: str = ""  # serial port for flashing by cable; empty: over the air
    api_key: str = "mww_api_encryption_key"  # name of a secret in esphome/secrets.yaml; empty: API without encryption
    friendly_name: str = ""
    yaml: str = ""  # the user's own YAML that includes our package; only for templates that are packages
    substitutions: Mapping[str, str] = field(default_factory=dict)
    also: tuple[str, ...] = ()  # further wake words: ids of the project's models, or manifests
    vad: str = ""  # "": off; "vad": ESPHome's own model; else the path of a manifest
    capture_url: str = ""  # where the device sends captures; empty: the firmware cannot capture
    near_miss: bool = False  # a second slot listens with a low cutoff
    room: str = ""  # where it stands; empty: as Home Assistant says, where that is asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Flash:
    """One attempt to put a model on a device; the newest verified one says what the device runs."""

    id: str
    device: str
    model: str  # <slug>-<sha8>
    wake_model: str  # what the entity "Wake model" says afterwards
    backend: str
    started_at: str  # ISO 8601, UTC
    duration_s: float = 0.0
    outcome: str = "running"  # running | verified | handed over | planned (dry run) | failed | stopped
    step: str = ""  # where it ended: preflight | compile | upload | return | verify | record
    message: str = ""
    canary: str = ""  # model in the second slot
    build_time: str = ""  # as the device tells it
    esphome_version: str = ""
    mac: str = ""  # of the device that was verified


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """A sound that a satellite sent, as it came: 16 kHz, mono, int16, unchanged."""

    id: str  # digest of device and upload
    device: str  # as its token says
    upload: str  # the satellite's own name for it, the same on each retry
    kind: CaptureKind
    captured_at: str  # ISO 8601, UTC, milliseconds: when it was triggered
    received_at: str
    wake_word: str = ""
    model: str = ""  # <slug>-<sha8> of the model that woke, as far as the satellite said
    firmware: str = ""
    gain: float = 0.0  # 0: not said
    session: str = ""  # prompted takes: their sitting; a false wake: the detection's ``upload``
    trigger_s: float = -1.0  # where in the sound it was triggered; -1: not said
    path: str = ""  # relative to the project directory; empty: no sound was sent, or it was deleted
    sha256: str = ""  # of the samples
    bytes: int = 0  # of the file
    duration_s: float = 0.0
    verdict: Verdict = Verdict.UNDECIDED
    person: str = ""  # who speaks, where somebody said so
    outcome: str = ""  # what Home Assistant's pipeline made of it; empty: not known


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureScore:
    """What a model makes of a capture, by the device-exact detector."""

    capture: str
    model: str  # <slug>-<sha8>
    scored_at: str
    peak: float = 0.0  # highest mean of a window near the trigger, 0.0 to 1.0
    peak_s: float = 0.0  # when that window ended
    cutoff: float = 0.0
    detections_s: tuple[float, ...] = ()
    reproduced: bool = False  # a detection where the satellite was triggered
    trace: bytes = b""  # uint8 scores, one per 30 ms
    problem: str = ""  # why there is no score


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """One entry of a capture's history: who said what, and what it was before."""

    number: int
    capture: str
    batch: str  # what was judged in one go
    verdict: Verdict
    person: str
    before: Verdict
    person_before: str
    by: str
    at: str
    undoes: int = 0  # number of the entry that this one takes back
    undone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """How long a model listened on a satellite with captures on, on one day."""

    device: str
    model: str  # empty: the satellite, whatever it carried
    day: str  # UTC, 2026-11-20
    listening_s: float
    lost: int  # captures of any kind that the satellite could not send


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A secret that lets one satellite add captures, by its hash."""

    sha256: str
    device: str
    scope: str  # device:<name>:append
    made_at: str
    last_used_at: str = ""  # to the hour
    revoked_at: str = ""  # empty: in force


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody whose voice is recorded, and what this person agreed to."""

    name: str  # what clips call their speaker
    consented_at: str  # ISO 8601, UTC
    noted_by: str  # who wrote it down
    purpose: str
    may_share: bool = False  # models or clips may leave the household


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """Takes of one person at one place with one microphone on one day: a clip's ``session``."""

    id: str
    sitting: str  # what belongs to one plan; it may go on another day, in sessions of their own
    person: str
    device: str  # a satellite's name, or "browser", "file"
    audio_path: str  # assist | wake | browser | file: what stood between voice and samples
    place: str  # "from the door"; empty: not said
    started_at: str  # ISO 8601, UTC
    wanted: int  # takes
    taken: int = 0
    refused: int = 0


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
