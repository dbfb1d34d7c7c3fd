"""What a user can set: one row each, with its default, its unit and its help.

``project.yaml`` holds the phrase, the language, the effort and overrides by dotted key
(``train: {steps: 4000}``); the command line overrides again with ``--set train.steps=4000``.
One dial, ``effort``, chooses a column of defaults.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import reprlib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

import yaml

from mww_ha.errors import ConfigError


class Effort(StrEnum):
    """How much time a model may cost: minutes, an hour, a night."""

    QUICK = "quick"
    GOOD = "good"
    BEST = "best"


Check = Callable[[Any], str]
"""What a value of the right kind must be; empty: it is."""

_MOST = 10_000_000
_MOST_HOURS = 10_000
_MOST_DAYS = 36_500
_DAY_S = 86_400
_YEAR_MIN = 525_600
_LARGEST_SEED = 2**32 - 1  # of NumPy's


def _row(
    help: str,
    *,
    quick: Any,
    good: Any = None,
    best: Any = None,
    unit: str = "",
    low: float = 0,
    high: float | None = None,
    check: Check | None = None,
) -> Any:
    """One setting. ``good`` and ``best`` default to the column on their left.

    A number is ``low`` to ``high``; ``check`` takes their place where that is not all, as in lists and texts.
    """
    good = quick if good is None else good
    best = good if best is None else best
    columns = {Effort.QUICK: quick, Effort.GOOD: good, Effort.BEST: best}
    return field(
        default=good,
        metadata={"help": help, "unit": unit, "columns": columns, "check": check or _range(low, high)},
    )


# --- What a value may be ---------------------------------------------------------------------------------------------


def _range(low: float, high: float | None) -> Check:
    says = f"it must be {low} or more" if high is None else f"it must be {low} to {high}"

    def check(value: Any) -> str:
        numbers = isinstance(value, int | float) and not isinstance(value, bool)
        return "" if not numbers or low <= value <= (math.inf if high is None else high) else says

    return check


def _span(low: float, high: float) -> Check:
    def check(value: Any) -> str:
        first, last = value
        return "" if low <= first <= last <= high else f"it must be two numbers from {low} to {high}, the lower first"

    return check


def _effect(low: float, high: float) -> Check:
    def check(value: Any) -> str:
        probability, first, last = value
        if 0 <= probability <= 1 and low <= first <= last <= high:
            return ""
        return f"it must be a probability from 0 to 1, then two numbers from {low} to {high}, the lower first"

    return check


def _all(one: Check) -> Check:
    def check(values: Any) -> str:
        says = next(filter(None, map(one, values)), "")
        return f"each of them: {says}" if says else ""

    return check


def _are_kernels(kernels: Any) -> str:
    right = 1 <= len(kernels) <= 16 and all(1 <= kernel <= 255 and kernel % 2 for kernel in kernels)
    return "" if right else "it must be 1 to 16 odd numbers from 1 to 255, such as [5, 9, 13, 17]"


def _is_line(text: Any) -> str:
    return "" if text.strip() and text.isprintable() else "it must be one line of plain text, and not empty"


def _fits(pattern: str, says: str) -> Check:
    return lambda text: "" if re.fullmatch(pattern, text) else says


_is_broker = _fits(r"([A-Za-z0-9._:\-]{1,253})?", "it must be a name or address alone; the port stands in mqtt.port")
_is_prefix = _fits(r"[\w\-/]{1,60}", "it must be letters, digits, _, - and /, at most 60")
_is_instance = _fits(
    r"[A-Za-z0-9-]([A-Za-z0-9_-]{0,46}[A-Za-z0-9-])?",
    "it must be letters, digits, _ and -, at most 48, no _ at its ends",
)


def _split_address(text: str, schemes: tuple[str, ...]) -> tuple[SplitResult, int] | None:
    """The parts and the port, 0 for none, of an address with a host; None: it is none of these ``schemes``."""
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in schemes or not parts.hostname or port == 0 or re.search(r"\s", parts.netloc):
        return None
    return parts, port or 0


def _has_login(parts: SplitResult) -> bool:
    return parts.username is not None or parts.password is not None


def _is_speech_server(text: Any) -> str:
    found = _split_address(text, ("wyoming", "tcp")) if text else None
    plain = found is not None and found[1] and not _has_login(found[0]) and found[0].path in ("", "/")
    return "" if not text or (plain and found and not found[0].query) else "write wyoming://host:port"


def _is_home_assistant(text: Any) -> str:
    found = _split_address(text, ("http", "https")) if text else None
    if not text or (found and not _has_login(found[0]) and not found[0].query and not found[0].fragment):
        return ""
    return "write http://homeassistant.local:8123; the token has a file of its own, home_assistant.token_file"


def _is_builder(text: Any) -> str:
    found = _split_address(text, ("http", "https")) if text else None
    if not text or (found and not found[0].query and not found[0].fragment):
        return ""
    return (
        "write http://192.168.1.10:6052, or with a login http://user:password@192.168.1.10:6052; "
        "signs in it such as / and @ as %2F and %40"
    )


def _is_website(text: Any) -> str:
    right = not text or (_split_address(text, ("http", "https")) and not re.search(r"\s", text))
    return "" if right else "write https://example.org, or leave it empty"


# --- The settings ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesizeSettings:
    """Speech nobody recorded."""

    wake_clips: int = _row("synthetic wake words", quick=1500, good=4000, best=20000, unit="clips", high=_MOST)
    confusable_clips: int = _row("synthetic confusables", quick=1500, good=4000, best=20000, unit="clips", high=_MOST)
    confusable_phrases: int = _row(
        "different confusable phrases", quick=150, good=400, best=800, unit="phrases", high=10_000
    )
    confusable_distance: float = _row(
        "phonetic distance below which a confusable is how some people say it", quick=0.13, high=1
    )
    speech_hours: float = _row("synthetic general speech", quick=1.5, good=4.0, best=20.0, unit="h", high=_MOST_HOURS)
    seed: int = _row("random seed", quick=1, high=_LARGEST_SEED)
    engines: tuple[str, ...] = _row("speech engines to use; none named: all that are found", quick=())
    voice_dirs: tuple[str, ...] = _row("more folders with Piper voices", quick=())
    wyoming: tuple[str, ...] = _row(
        "speech servers, wyoming://host:port, with all their voices", quick=(), check=_all(_is_speech_server)
    )
    system_share: float = _row("most clips from speech programs of the system together, as a share", quick=0.35, high=1)
    engine_seconds: float = _row(
        "time for each kind of slow engine: Piper, Wyoming, programs",
        quick=20.0,
        good=300.0,
        best=1800.0,
        unit="s",
        high=_DAY_S,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSettings:
    """Who is held out."""

    validation_share: float = _row("share of speakers held out to choose weights and cutoffs", quick=0.15, high=1)
    test_share: float = _row("share of speakers held out for the report", quick=0.15, high=1)
    salt: str = _row("changes who is held out; keep it for the life of a project", quick="")
    always_train: tuple[str, ...] = _row("speakers never held out, as a list of names", quick=())


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentSettings:
    """What a scene may sound like. An effect is (probability, low, high)."""

    speed: tuple[float, ...] = _row(
        "playing speed: tempo, pitch and formants", quick=(0.7, 0.85, 1.17), unit="factor", check=_effect(0.5, 2)
    )
    response: tuple[float, ...] = _row(
        "microphone response, ± per band", quick=(0.6, 0.0, 8.0), unit="dB", check=_effect(0, 40)
    )
    saturation: tuple[float, ...] = _row("soft overload", quick=(0.1, 1.0, 4.0), unit="drive", check=_effect(0, 100))
    clipping: tuple[float, ...] = _row("hard clipping", quick=(0.08, 0.3, 0.9), unit="of peak", check=_effect(0.01, 1))
    level_dbfs: tuple[float, ...] = _row(
        "level of the whole scene", quick=(-50.0, -15.0), unit="dBFS", check=_span(-100, 0)
    )
    quiet_share: float = _row("scenes in a quiet room", quick=0.25, high=1)
    noise_share: float = _row("scenes with a recorded background", quick=0.2, high=1)
    colour_share: float = _row("scenes with a synthetic background", quick=0.1, high=1)
    babble_share: float = _row("scenes with three to seven talkers", quick=0.3, high=1)
    talker_share: float = _row("scenes with one talker or music", quick=0.15, high=1)
    quiet_snr_db: tuple[float, ...] = _row(
        "signal-to-noise ratio in a quiet room", quick=(20.0, 45.0), unit="dB", check=_span(0, 100)
    )
    noise_snr_db: tuple[float, ...] = _row(
        "signal-to-noise ratio in noise", quick=(2.0, 25.0), unit="dB", check=_span(0, 100)
    )
    babble_snr_db: tuple[float, ...] = _row(
        "signal-to-noise ratio in babble", quick=(2.0, 20.0), unit="dB", check=_span(0, 100)
    )
    talker_snr_db: tuple[float, ...] = _row(
        "signal-to-noise ratio beside a talker", quick=(2.0, 20.0), unit="dB", check=_span(0, 100)
    )
    reverb_probability: float = _row("scenes in a reverberant room", quick=0.5, high=1)
    measured_rir_share: float = _row("of those, with an imported room", quick=0.4, high=1)
    run_on_share: float = _row("words that follow the one before without a pause", quick=0.3, high=1)
    recorded_share: float = _row("draws from real takes, where there are any", quick=0.5, high=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareSettings:
    """How much running sound is rendered."""

    scene_s: float = _row("length of a training scene", quick=20.0, unit="s", low=5, high=300)
    wake_hours: float = _row("scenes full of wake words", quick=1.8, good=4.0, best=30.0, unit="h", high=_MOST_HOURS)
    confusable_hours: float = _row(
        "scenes full of confusables", quick=1.2, good=3.0, best=24.0, unit="h", high=_MOST_HOURS
    )
    speech_hours: float = _row(
        "scenes full of other speech", quick=2.0, good=5.5, best=40.0, unit="h", high=_MOST_HOURS
    )
    noise_hours: float = _row("scenes without words", quick=0.5, good=1.2, best=8.0, unit="h", high=_MOST_HOURS)
    field_hours: float = _row(
        "most scenes full of judged captures", quick=0.3, good=1.0, best=4.0, unit="h", high=_MOST_HOURS
    )
    mined_hours: float = _row(
        "recorded speech and noise that is searched for hard negatives as it is",
        quick=0.5,
        good=4.0,
        best=20.0,
        unit="h",
        high=_MOST_HOURS,
    )
    trial_wakes: int = _row(
        "held-out wake words per condition", quick=100, good=100, best=600, unit="clips", low=1, high=_MOST
    )
    ambient_hours: float = _row(
        "held-out ambient, for validation and for the test each",
        quick=1.0,
        good=4.0,
        best=20.0,
        unit="h",
        low=0.005,
        high=_MOST_HOURS,
    )
    processes: int = _row("child processes, 0: one per core", quick=0, high=1024)
    seed: int = _row("random seed", quick=1, high=_LARGEST_SEED)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """The network and how it learns."""

    steps: int = _row("optimizer steps", quick=1600, good=5000, best=40000, unit="steps", low=1, high=_MOST)
    batch: int = _row("examples per step", quick=128, low=1, high=16384)
    learning_rate: float = _row("peak learning rate", quick=0.004, low=1e-9)
    weight_decay: float = _row("decoupled weight decay", quick=0.0005, high=1)
    clip_norm: float = _row("largest gradient norm", quick=5.0, low=1e-9)
    ema_decay: float = _row(
        "decay of the averaged weights, per step", quick=0.998, good=0.9985, best=0.999, high=0.99999
    )
    wake_share: float = _row("of a batch: wake words", quick=0.3, low=0.01, high=1)
    confusable_share: float = _row("of a batch: confusables", quick=0.2, high=1)
    speech_share: float = _row("of a batch: other speech", quick=0.4, high=1)
    noise_share: float = _row("of a batch: no words", quick=0.1, high=1)
    hard_share: float = _row("of the negatives: the hardest found so far", quick=0.3, high=1)
    field_share: float = _row("of a batch, at the most: judged captures", quick=0.03, high=1)
    field_clip_share: float = _row("of all examples, at the most: a single judged capture", quick=0.002, high=1)
    mine_every: int = _row("search hard negatives this often", quick=400, good=1000, unit="steps", high=_MOST)
    negative_weight: float = _row("loss weight of negatives against wake words", quick=2.0, high=1000)
    mask_frames: int = _row("longest time mask", quick=8, unit="frames", high=1000)
    mask_channels: int = _row("widest frequency mask", quick=5, unit="channels", high=40)
    warp: bool = _row("vary tempo within words and length of the vocal tract, on features", quick=True)
    seed: int = _row("random seed", quick=1, high=_LARGEST_SEED)
    stem_filters: int = _row("filters of the first convolution", quick=32, low=1, high=1024)
    filters: int = _row("filters of each block", quick=64, low=1, high=1024)
    kernels: tuple[int, ...] = _row(
        "longest kernel of each block", quick=(5, 9, 13, 17), unit="steps of 30 ms", check=_are_kernels
    )
    head_steps: int = _row("steps the dense head sees", quick=8, unit="steps of 30 ms", low=1, high=256)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSettings:
    """The model file and its operating point."""

    false_accepts_per_hour: float = _row("budget that the cutoff is chosen for", quick=0.5, unit="1/h", high=1000)
    arena_margin: float = _row("factor on the measured tensor arena", quick=1.3, low=1, high=10)
    author: str = _row("author named in the manifest", quick="mww-ha user", check=_is_line)
    website: str = _row("website named in the manifest", quick="", check=_is_website)


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashSettings:
    """How firmware gets to the satellites. What differs between them stands in ``devices.yaml``."""

    esphome: str = _row("ESPHome's program, such as one in an environment of its own; empty: it is searched", quick="")
    builder_url: str = _row(
        "Device Builder or ESPHome dashboard, http://user:password@host:6052", quick="", check=_is_builder
    )
    handoff_dir: str = _row("ESPHome's configuration folder that firmware is handed to", quick="")
    return_timeout_s: float = _row("how long a device may take to come back", quick=120.0, unit="s", low=1, high=_DAY_S)
    retries: int = _row("more attempts per device where another one can help", quick=1, unit="attempts", high=100)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureSettings:
    """What satellites may send, and how long it is kept before somebody judges it."""

    keep_days: float = _row("captures that nobody judged are deleted after", quick=14.0, unit="days", high=_MOST_DAYS)
    max_mb: float = _row(
        "most room for captures; the oldest that nobody judged go first",
        quick=500.0,
        unit="MB",
        low=0.1,
        high=100_000_000,
    )
    longest_s: float = _row("longest capture that is taken, 10 at the most", quick=10.0, unit="s", low=0.5, high=10)
    uploads_per_minute: float = _row("uploads of one satellite", quick=30.0, unit="1/min", low=0.01, high=_MOST)
    address_uploads_per_minute: float = _row(
        "uploads from one address", quick=300.0, unit="1/min", low=0.01, high=_MOST
    )
    uploads_at_once: int = _row("uploads that are read at the same time", quick=64, low=1, high=10_000)
    failures: int = _row("wrong tokens from one address before it is locked out", quick=10, low=1, high=_MOST)
    lockout_minutes: float = _row("how long an address is locked out", quick=5.0, unit="min", high=_YEAR_MIN)
    undo_minutes: float = _row(
        "how long the sound of a discarded capture is kept", quick=60.0, unit="min", high=_YEAR_MIN
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSettings:
    """How people are asked for takes, and which takes are good enough."""

    take_s: float = _row("length of a prompted take, 10 at the most", quick=4.0, unit="s", low=1, high=10)
    attempts: int = _row("how often one take is asked for", quick=3, low=1, high=100)
    question: str = _row("what a satellite says first, in the household's language", quick="Please say your wake word.")
    again: str = _row("what a satellite says before each further take", quick="Once more, please.")
    stt: str = _row(
        "speech-to-text that reads takes as a hint, wyoming://host:10300", quick="", check=_is_speech_server
    )
    quiet_dbfs: float = _row("speech below this is too quiet", quick=-50.0, unit="dBFS", low=-100, high=0)
    noise_db: float = _row("speech has to stand out from its background by", quick=6.0, unit="dB", high=100)
    clipped_share: float = _row("samples of a take that may be clipped", quick=0.01, high=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainSettings:
    """When verdicts become a new model, and how it starts from the one there is."""

    verdicts: int = _row("new verdicts that are enough for a new model", quick=20, high=_MOST)
    every_days: float = _row("after this time one new verdict is enough", quick=30.0, unit="days", high=_MOST_DAYS)
    automatic: bool = _row("the service retrains by itself when it is due; it proposes and never flashes", quick=False)
    at_hour: int = _row("hour of the day, 0 to 23 by this machine's clock, in which it does", quick=2, high=23)
    steps_share: float = _row("steps of a warm start, as a share of train.steps", quick=0.3, low=0.001, high=1)
    learning_rate_share: float = _row(
        "peak learning rate of a warm start, as a share of its own", quick=0.25, low=0.001, high=1
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeAssistantSettings:
    """Where Home Assistant is. An app of Home Assistant needs none of this: its Supervisor says it."""

    url: str = _row(
        "address of Home Assistant's pages, http://homeassistant.local:8123; empty: none",
        quick="",
        check=_is_home_assistant,
    )
    token_file: str = _row("file that holds a long-lived access token of an administrator", quick="")
    notifications: bool = _row("show notifications in Home Assistant's sidebar", quick=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """The broker through which satellites get entities in Home Assistant."""

    host: str = _row("broker; empty: the one that the Supervisor offers, if there is one", quick="", check=_is_broker)
    port: int = _row("its port", quick=1883, low=1, high=65535)
    username: str = _row("user name at the broker", quick="")
    password_file: str = _row("file that holds the password", quick="")
    tls: bool = _row("connect by TLS", quick=False)
    ca_file: str = _row("certificate of the authority that signed the broker's, PEM; empty: the system's", quick="")
    prefix: str = _row("Home Assistant's discovery prefix", quick="homeassistant", check=_is_prefix)
    instance: str = _row("tells two of us at one broker apart", quick="mww_ha", check=_is_instance)


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
    flash: FlashSettings = FlashSettings()
    capture: CaptureSettings = CaptureSettings()
    retrain: RetrainSettings = RetrainSettings()
    record: RecordSettings = RecordSettings()
    home_assistant: HomeAssistantSettings = HomeAssistantSettings()
    mqtt: MqttSettings = MqttSettings()


_SECTIONS: dict[str, type[Any]] = {
    name: kind
    for name, kind in typing.get_type_hints(Settings).items()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind)
}


_SET = "--set"


def resolve(document: Mapping[str, Any], overrides: Mapping[str, str] | None = None, *, where: str) -> Settings:
    """Settings from a parsed ``project.yaml`` and ``key=value`` overrides (dotted keys, text values).

    Raises ConfigError naming the key, the value and where it stands: ``where``, or ``--set`` for an override.
    """
    tree = lay_over(document, overrides or {}, where=where)

    def source(key: str) -> str:
        return _SET if overrides and (key in overrides or key.partition(".")[0] in overrides) else where

    top = {f.name for f in dataclasses.fields(Settings)}
    for key, value in tree.items():
        if key not in top:
            inside = [f"{key}.{name}" for name in value] if isinstance(value, dict) else []
            raise ConfigError(f"{where}: unknown key {_shown(key)}", hint=_nearest((inside or [str(key)])[0]))
    phrase = tree.get("phrase")
    if not isinstance(phrase, str) or not phrase.strip():
        said = "no phrase" if phrase is None else f"phrase is {_shown(phrase)}"
        raise ConfigError(f"{source('phrase')}: {said}", hint="write for example: phrase: hey kitchen")
    try:
        effort = Effort(tree.get("effort", Effort.QUICK))
    except ValueError:
        raise ConfigError(
            f"{source('effort')}: effort is {_shown(tree['effort'])}", hint="use one of " + ", ".join(Effort)
        ) from None
    language = tree.get("language", "en")
    if not isinstance(language, str):
        raise ConfigError(
            f"{source('language')}: language is {_shown(language)}",
            hint='use a code such as en, de or fr-FR; in quotes where YAML reads it as something else: "no"',
        )
    sections = {name: _section(name, cls, tree.get(name), effort, source) for name, cls in _SECTIONS.items()}
    settings = Settings(phrase=" ".join(phrase.split()), language=language, effort=effort, **sections)
    _check_together(settings, source)
    return settings


def lay_over(document: Mapping[str, Any], overrides: Mapping[str, str], *, where: str) -> dict[str, Any]:
    """What a ``project.yaml`` would hold with ``key=value`` overrides in it; values are for ``resolve`` to check.

    Raises ConfigError for an override that is no setting or no YAML.
    """
    tree: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in document.items()}
    top = {f.name for f in dataclasses.fields(Settings)}
    for key, text in overrides.items():
        head, _, tail = key.partition(".")
        if head not in top or (tail and head not in _SECTIONS):
            raise ConfigError(f"{_SET}: unknown key {_shown(key)}", hint=_nearest(key))
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            why = getattr(error, "problem", None) or type(error).__name__
            raise ConfigError(
                f"{_SET}: {key} is {_shown(text)}, which is not valid YAML: {why}",
                hint=f"write it as it would stand in YAML; a text with special signs in quotes: {_SET} '{key}=\"...\"'",
            ) from None
        if not tail:
            tree[head] = value
            continue
        section = tree.get(head)
        if not isinstance(section, dict | None):
            place = _SET if head in overrides else where
            raise ConfigError(f"{place}: {head} is {_shown(section)}", hint=_holds_settings(head))
        tree[head] = {**(section or {}), tail: value}
    return tree


def _holds_settings(section: str) -> str:
    key = next(iter(dataclasses.fields(_SECTIONS[section]))).name
    return f"{section} holds settings, indented below it or in braces, such as {section}: {{{key}: ...}}"


def _section(name: str, cls: type[Any], given: Any, effort: Effort, source: Callable[[str], str]) -> Any:
    if given is None:
        given = {}  # "train:" and nothing below it
    if not isinstance(given, Mapping):
        raise ConfigError(f"{source(name)}: {name} is {_shown(given)}", hint=_holds_settings(name))
    rows = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values = {k: f.metadata["columns"][effort] for k, f in rows.items()}
    for key, value in given.items():
        where = source(f"{name}.{key}")
        if key not in rows:
            raise ConfigError(f"{where}: unknown key {name}.{key}", hint=_nearest(f"{name}.{key}"))
        said = f"{where}: {name}.{key}"
        values[key] = _coerce(said, value, hints[key], default=values[key])
        if says := rows[key].metadata["check"](values[key]):
            raise ConfigError(f"{said} is {_shown(value)}", hint=says)
    return cls(**values)


def _check_together(settings: Settings, source: Callable[[str], str]) -> None:
    """Raises ConfigError for settings that are right one by one, but not beside each other."""
    held_out = settings.split.test_share + settings.split.validation_share
    if held_out >= 1:
        raise ConfigError(
            f"{_sources(source, 'split.test_share', 'split.validation_share')}: split.test_share "
            f"{settings.split.test_share:g} and split.validation_share {settings.split.validation_share:g} "
            f"are {held_out:g} together",
            hint="together they must stay below 1: training has the rest",
        )
    rooms = [f"augment.{name}_share" for name in ("quiet", "noise", "colour", "babble", "talker")]
    if not any(getattr(settings.augment, key.partition(".")[2]) for key in rooms):
        raise ConfigError(
            f"{_sources(source, *rooms)}: {', '.join(rooms)} are all 0", hint="one of them must be more than 0"
        )


def _sources(source: Callable[[str], str], *keys: str) -> str:
    return " and ".join(dict.fromkeys(map(source, keys)))


_brief = reprlib.Repr()
_brief.maxlevel = 3
_brief.maxstring = _brief.maxother = 200


def _shown(value: Any) -> str:
    """``value`` in a message, without a login that an address may hold.

    A kilobyte of YAML whose lists name each other can hold more than fits into memory.
    """
    if isinstance(value, str):
        value = re.sub(r"(?s)^.+@", "", value)
    try:
        return re.sub(r"(?<=://)\S*@", "", _brief.repr(value))
    except ValueError:  # Python writes no number of thousands of digits
        return "a number of thousands of digits"


def _coerce(said: str, value: Any, wanted: Any, *, default: Any) -> Any:
    """``value`` as the kind ``wanted``. ``said``: where it stands and its key. Raises ConfigError."""
    if typing.get_origin(wanted) is tuple:
        (item, _ellipsis) = typing.get_args(wanted)
        if not isinstance(value, list | tuple):
            raise ConfigError(f"{said} is {_shown(value)}", hint=_as_list(value, item, default))
        if item is float and len(value) != len(default):
            shown = ", ".join(map(str, default))
            raise ConfigError(
                f"{said} is {_shown(value)}", hint=f"it must be {len(default)} numbers, such as [{shown}]"
            )
        return tuple(_coerce(f"{said}, of which one", each, item, default="" if item is str else 1) for each in value)
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if isinstance(value, wanted) and isinstance(value, bool) is (wanted is bool):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{said} is {value}", hint="it must be a finite number")
        return value
    hints: dict[Any, str] = {
        int: f"it must be a whole number, such as {default}",
        float: f"it must be a number, such as {default}; with an exponent it needs a point: 1.0e-4",
        bool: "it must be true or false",
        str: f"it must be a text; in quotes where YAML reads it as something else, such as {_quoted(value)}",
    }
    raise ConfigError(f"{said} is {_shown(value)}", hint=hints[wanted])


def _quoted(value: Any) -> str:
    """How to write the text that YAML read as ``value``."""
    if isinstance(value, bool):
        return '"yes"' if value else '"no"'
    return json.dumps(_shown(value)) if isinstance(value, int | float) else '"1234"'


def _as_list(value: Any, item: type[Any], default: tuple[Any, ...]) -> str:
    """How to write the list that ``value`` was meant for."""
    if isinstance(value, item) and not isinstance(value, bool) and value != "":
        return f"it must be a list: [{_shown(value).strip(chr(39))}]"
    shown = ", ".join(map(str, default))
    return f"it must be a list, such as [{shown}]" if shown else "it must be a list, such as [one, another]; none: []"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One setting, for whoever shows them all."""

    key: str  # dotted
    kind: str  # text | whole number | number | yes or no | choice | texts | whole numbers | numbers
    help: str
    unit: str = ""
    choices: tuple[str, ...] = ()
    columns: Mapping[Effort, Any] = field(default_factory=dict)  # its default by effort; none: it has to be given


_KINDS: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "yes or no"}


def list_rows() -> list[Row]:
    """Every setting, in the order of this file."""
    rows = [
        Row(key="phrase", kind="text", help="the wake word"),
        Row(key="language", kind="text", help="the language it is spoken in", columns=dict.fromkeys(Effort, "en")),
        Row(
            key="effort",
            kind="choice",
            help="how much time a model may cost: minutes, an hour, a night",
            choices=tuple(Effort),
            columns=dict.fromkeys(Effort, Effort.QUICK),
        ),
    ]
    for name, cls in _SECTIONS.items():
        hints = typing.get_type_hints(cls)
        for one in dataclasses.fields(cls):
            many = typing.get_origin(hints[one.name]) is tuple
            kind = _KINDS[typing.get_args(hints[one.name])[0] if many else hints[one.name]] + "s" * many
            said = one.metadata
            rows.append(
                Row(key=f"{name}.{one.name}", kind=kind, help=said["help"], unit=said["unit"], columns=said["columns"])
            )
    return rows


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


_HOW_TO_WRITE = (
    "write one setting a line, key: value, those of a section indented below its name, such as train: and in the next "
    "line two blanks and steps: 4000; texts with special signs stand in quotes"
)


def load(path: Path, overrides: Mapping[str, str] | None = None) -> Settings:
    """Settings of the ``project.yaml`` at ``path``. Raises ConfigError."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing", hint='start one with: mww-ha new "hey kitchen"') from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", hint="check owner and permissions") from None
    except yaml.MarkedYAMLError as error:
        # the parser's own message would quote the line, and with it perhaps a login
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path} is not valid YAML{line}: {error.problem}", hint=_HOW_TO_WRITE) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not text in UTF-8", hint="save it as UTF-8") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {type(error).__name__}", hint=_HOW_TO_WRITE) from None
    if not isinstance(document, Mapping):
        raise ConfigError(f"{path} holds no settings", hint="write for example: phrase: hey kitchen")
    return resolve(document, overrides, where=str(path))
