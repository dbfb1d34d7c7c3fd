"""What a user can set: one row each, with its default, its unit and its help.

``project.yaml`` holds the phrase, the language, the effort and overrides by dotted key
(``train: {steps: 4000}``); the command line overrides again with ``--set train.steps=4000``.
One dial, ``effort``, chooses a column of defaults.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml

from mww_ha.errors import ConfigError


class Effort(StrEnum):
    """How much time a model may cost: minutes, an hour, a night."""

    QUICK = "quick"
    GOOD = "good"
    BEST = "best"


def _row(help: str, *, quick: Any, good: Any = None, best: Any = None, unit: str = "") -> Any:
    """One setting. ``good`` and ``best`` default to the column on their left."""
    good = quick if good is None else good
    best = good if best is None else best
    columns = {Effort.QUICK: quick, Effort.GOOD: good, Effort.BEST: best}
    return field(default=good, metadata={"help": help, "unit": unit, "columns": columns})


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesizeSettings:
    """Speech nobody recorded."""

    wake_clips: int = _row("synthetic wake words", quick=1500, good=4000, best=20000, unit="clips")
    confusable_clips: int = _row("synthetic confusables", quick=1500, good=4000, best=20000, unit="clips")
    confusable_phrases: int = _row("different confusable phrases", quick=150, good=400, best=800, unit="phrases")
    confusable_distance: float = _row(
        "phonetic distance below which a confusable is how some people say it", quick=0.13
    )
    speech_hours: float = _row("synthetic general speech", quick=1.5, good=4.0, best=20.0, unit="h")
    seed: int = _row("random seed", quick=1)
    engines: tuple[str, ...] = _row("speech engines to use; none named: all that are found", quick=())
    voice_dirs: tuple[str, ...] = _row("more folders with Piper voices", quick=())
    wyoming: tuple[str, ...] = _row("speech servers, wyoming://host:port", quick=())
    system_share: float = _row("most clips from speech programs of the system together, as a share", quick=0.35)
    engine_seconds: float = _row(
        "time for each kind of slow engine: Piper, Wyoming, programs", quick=20.0, good=300.0, best=1800.0, unit="s"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSettings:
    """Who is held out."""

    validation_share: float = _row("share of speakers held out to choose weights and cutoffs", quick=0.15)
    test_share: float = _row("share of speakers held out for the report", quick=0.15)
    salt: str = _row("changes who is held out; keep it for the life of a project", quick="")
    always_train: tuple[str, ...] = _row("speakers never held out, as a list of names", quick=())


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentSettings:
    """What a scene may sound like. An effect is (probability, low, high)."""

    speed: tuple[float, ...] = _row("playing speed: tempo, pitch and formants", quick=(0.7, 0.85, 1.17), unit="factor")
    response: tuple[float, ...] = _row("microphone response, ± per band", quick=(0.6, 0.0, 8.0), unit="dB")
    saturation: tuple[float, ...] = _row("soft overload", quick=(0.1, 1.0, 4.0), unit="drive")
    clipping: tuple[float, ...] = _row("hard clipping", quick=(0.08, 0.3, 0.9), unit="of peak")
    level_dbfs: tuple[float, ...] = _row("level of the whole scene", quick=(-50.0, -15.0), unit="dBFS")
    quiet_share: float = _row("scenes in a quiet room", quick=0.25)
    noise_share: float = _row("scenes with a recorded background", quick=0.2)
    colour_share: float = _row("scenes with a synthetic background", quick=0.1)
    babble_share: float = _row("scenes with three to seven talkers", quick=0.3)
    talker_share: float = _row("scenes with one talker or music", quick=0.15)
    quiet_snr_db: tuple[float, ...] = _row("signal-to-noise ratio in a quiet room", quick=(20.0, 45.0), unit="dB")
    noise_snr_db: tuple[float, ...] = _row("signal-to-noise ratio in noise", quick=(2.0, 25.0), unit="dB")
    babble_snr_db: tuple[float, ...] = _row("signal-to-noise ratio in babble", quick=(2.0, 20.0), unit="dB")
    talker_snr_db: tuple[float, ...] = _row("signal-to-noise ratio beside a talker", quick=(2.0, 20.0), unit="dB")
    reverb_probability: float = _row("scenes in a reverberant room", quick=0.5)
    measured_rir_share: float = _row("of those, with an imported room", quick=0.4)
    run_on_share: float = _row("words that follow the one before without a pause", quick=0.3)
    recorded_share: float = _row("draws from real takes, where there are any", quick=0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSettings:
    """How much running sound is rendered."""

    scene_s: float = _row("length of a training scene", quick=20.0, unit="s")
    wake_hours: float = _row("scenes full of wake words", quick=1.8, good=4.0, best=30.0, unit="h")
    confusable_hours: float = _row("scenes full of confusables", quick=1.2, good=3.0, best=24.0, unit="h")
    speech_hours: float = _row("scenes full of other speech", quick=2.0, good=5.5, best=40.0, unit="h")
    noise_hours: float = _row("scenes without words", quick=0.5, good=1.2, best=8.0, unit="h")
    trial_wakes: int = _row("held-out wake words per condition", quick=100, good=100, best=600, unit="clips")
    ambient_hours: float = _row(
        "held-out ambient, for validation and for the test each", quick=1.0, good=4.0, best=20.0, unit="h"
    )
    processes: int = _row("child processes, 0: one per core", quick=0)
    seed: int = _row("random seed", quick=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """The network and how it learns."""

    steps: int = _row("optimizer steps", quick=1600, good=5000, best=40000, unit="steps")
    batch: int = _row("examples per step", quick=128)
    learning_rate: float = _row("peak learning rate", quick=0.004)
    weight_decay: float = _row("decoupled weight decay", quick=0.0005)
    clip_norm: float = _row("largest gradient norm", quick=5.0)
    ema_decay: float = _row("decay of the averaged weights, per step", quick=0.998, good=0.9985, best=0.999)
    wake_share: float = _row("of a batch: wake words", quick=0.3)
    confusable_share: float = _row("of a batch: confusables", quick=0.2)
    speech_share: float = _row("of a batch: other speech", quick=0.4)
    noise_share: float = _row("of a batch: no words", quick=0.1)
    hard_share: float = _row("of the negatives: the hardest found so far", quick=0.3)
    mine_every: int = _row("search hard negatives this often", quick=400, good=1000, unit="steps")
    negative_weight: float = _row("loss weight of negatives against wake words", quick=2.0)
    mask_frames: int = _row("longest time mask", quick=8, unit="frames")
    mask_channels: int = _row("widest frequency mask", quick=5, unit="channels")
    warp: bool = _row("vary tempo within words and length of the vocal tract, on features", quick=True)
    seed: int = _row("random seed", quick=1)
    stem_filters: int = _row("filters of the first convolution", quick=32)
    filters: int = _row("filters of each block", quick=64)
    kernels: tuple[int, ...] = _row("longest kernel of each block", quick=(5, 9, 13, 17), unit="steps of 30 ms")
    head_steps: int = _row("steps the dense head sees", quick=8, unit="steps of 30 ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """The model file and its operating point."""

    false_accepts_per_hour: float = _row("budget that the cutoff is chosen for", quick=0.5, unit="1/h")
    arena_margin: float = _row("factor on the measured tensor arena", quick=1.3)
    author: str = _row("author named in the manifest", quick="mww-ha user")
    website: str = _row("website named in the manifest", quick="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of a project, resolved: defaults of the effort, then project.yaml, then the command line."""

    phrase: str
    language: str = "en"
    effort: Effort = Effort.QUICK
    synthesize: SynthesizeSettings = SynthesizeSettings()
    split: SplitSettings = SplitSettings()
    augment: AugmentSettings = AugmentSettings()
    prepare: PrepareSettings = PrepareSettings()
    train: TrainSettings = TrainSettings()
    export: ExportSettings = ExportSettings()


_SECTIONS: dict[str, type[Any]] = {
    name: kind
    for name, kind in typing.get_type_hints(Settings).items()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind)
}


def resolve(document: Mapping[str, Any], overrides: Mapping[str, str] | None = None, *, where: str) -> Settings:
    """Settings from a parsed ``project.yaml`` and ``key=value`` overrides (dotted keys, text values).

    Raises ConfigError naming ``where``, the key and its nearest known one.
    """
    tree: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in document.items()}
    for key, text in (overrides or {}).items():
        head, _, tail = key.partition(".")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {key}={text}: {error}", hint="write it as it would stand in YAML") from None
        if tail:
            section = tree.setdefault(head, {})
            if not isinstance(section, dict):
                raise ConfigError(f"--set {key}: {head} is not a section", hint=_nearest(key))
            section[tail] = value
        else:
            tree[head] = value
    top = {f.name for f in dataclasses.fields(Settings)}
    for key, value in tree.items():
        if key not in top:
            inside = [f"{key}.{name}" for name in value] if isinstance(value, dict) else []
            raise ConfigError(f"{where}: unknown key {key!r}", hint=_nearest((inside or [str(key)])[0]))
    phrase = tree.get("phrase")
    if not isinstance(phrase, str) or not phrase.strip():
        raise ConfigError(f"{where}: no phrase", hint="write for example: phrase: hey kitchen")
    try:
        effort = Effort(tree.get("effort", Effort.QUICK))
    except ValueError:
        raise ConfigError(f"{where}: effort is {tree['effort']!r}", hint="use one of " + ", ".join(Effort)) from None
    language = tree.get("language", "en")
    if not isinstance(language, str):
        raise ConfigError(f"{where}: language is {language!r}", hint="use a code such as en, de or fr-FR")
    sections = {name: _section(name, cls, tree.get(name) or {}, effort, where) for name, cls in _SECTIONS.items()}
    return Settings(phrase=" ".join(phrase.split()), language=language, effort=effort, **sections)


def _section(name: str, cls: type[Any], given: Any, effort: Effort, where: str) -> Any:
    if not isinstance(given, Mapping):
        raise ConfigError(f"{where}: {name} is {given!r}", hint=f"{name} holds settings, one per line")
    rows = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values = {k: f.metadata["columns"][effort] for k, f in rows.items()}
    for key, value in given.items():
        if key not in rows:
            raise ConfigError(f"{where}: unknown key {name}.{key}", hint=_nearest(f"{name}.{key}"))
        values[key] = _coerce(f"{name}.{key}", value, hints[key], where, default=values[key])
    return cls(**values)


def _is_negative(default: Any) -> bool:
    """Whether a setting may be below zero: those whose default is, in dB for example."""
    if isinstance(default, tuple):
        return any(_is_negative(item) for item in default)
    return isinstance(default, int | float) and default < 0


def _coerce(key: str, value: Any, wanted: Any, where: str, *, default: Any) -> Any:
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if typing.get_origin(wanted) is tuple and isinstance(value, list | tuple):
        (item, _ellipsis) = typing.get_args(wanted)
        if item is float and len(value) != len(default):
            shown = ", ".join(map(str, default))
            raise ConfigError(
                f"{where}: {key} is {value!r}", hint=f"it must be {len(default)} numbers, such as [{shown}]"
            )
        return tuple(_coerce(key, v, item, where, default=default) for v in value)
    if typing.get_origin(wanted) is None and isinstance(value, wanted) and isinstance(value, bool) is (wanted is bool):
        if isinstance(value, int | float) and not math.isfinite(value):
            raise ConfigError(f"{where}: {key} is {value}", hint="it must be a finite number")
        if isinstance(value, int | float) and value < 0 and not _is_negative(default):
            raise ConfigError(f"{where}: {key} is {value}", hint="it must not be negative")
        return value
    kind = getattr(wanted, "__name__", str(wanted))
    raise ConfigError(f"{where}: {key} is {value!r}", hint=f"it must be a {kind}")


def known_keys() -> list[str]:
    """Every key a user can set, dotted."""
    keys = [f.name for f in dataclasses.fields(Settings) if f.name not in _SECTIONS]
    return keys + [f"{name}.{f.name}" for name, cls in _SECTIONS.items() for f in dataclasses.fields(cls)]


def _nearest(key: str) -> str:
    tails = {k.rpartition(".")[2]: k for k in known_keys()}
    close = difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.5)
    tail = difflib.get_close_matches(key.rpartition(".")[2], list(tails), n=1, cutoff=0.5)
    if close or tail:
        return f"did you mean {close[0] if close else tails[tail[0]]}?"
    return "known keys: " + ", ".join(known_keys())


def load(path: Path, overrides: Mapping[str, str] | None = None) -> Settings:
    """Settings of the ``project.yaml`` at ``path``. Raises ConfigError."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing", hint='start one with: mww-ha new "hey kitchen"') from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}", hint="compare it with the README's example") from None
    if not isinstance(document, Mapping):
        raise ConfigError(f"{path} holds no settings", hint="write for example: phrase: hey kitchen")
    return resolve(document, overrides, where=str(path))
