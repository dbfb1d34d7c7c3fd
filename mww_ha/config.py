"""What a user can set: one row each, with its default, its unit and its help.

``project.yaml`` holds the phrase, the language, the effort and overrides by dotted key
(``train: {steps: 4000}``); the command line overrides again with ``--set train.steps=4000``.
One dial, ``effort``, chooses a column of defaults.
"""

from __future__ import annotations

import dataclasses
import difflib
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

    wake_clips: int = _row("synthetic wake words", quick=1500, good=6000, best=20000, unit="clips")
    confusable_clips: int = _row("synthetic confusables", quick=1500, good=6000, best=20000, unit="clips")
    confusable_phrases: int = _row("different confusable phrases", quick=150, good=400, best=800, unit="phrases")
    speech_hours: float = _row("synthetic general speech", quick=1.5, good=6.0, best=20.0, unit="h")
    seed: int = _row("random seed", quick=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSettings:
    """Who is held out."""

    validation_share: float = _row("share of speakers held out to choose weights and cutoffs", quick=0.15)
    test_share: float = _row("share of speakers held out for the report", quick=0.15)
    salt: str = _row("changes who is held out; keep it for the life of a project", quick="")


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
    export: ExportSettings = ExportSettings()


_SECTIONS: dict[str, type[Any]] = {
    f.name: t
    for f in dataclasses.fields(Settings)
    if dataclasses.is_dataclass(t := typing.get_type_hints(Settings)[f.name])
}


def resolve(document: Mapping[str, Any], overrides: Mapping[str, str] | None = None, *, where: str) -> Settings:
    """Settings from a parsed ``project.yaml`` and ``key=value`` overrides (dotted keys, text values).

    Raises ConfigError naming ``where``, the key and its nearest known one.
    """
    tree: dict[str, Any] = {k: dict(v) if isinstance(v, Mapping) else v for k, v in document.items()}
    for key, text in (overrides or {}).items():
        head, _, tail = key.partition(".")
        value = yaml.safe_load(text)
        if tail:
            section = tree.setdefault(head, {})
            if not isinstance(section, dict):
                raise ConfigError(f"--set {key}: {head} is not a section", hint=_nearest(key))
            section[tail] = value
        else:
            tree[head] = value
    top = {f.name for f in dataclasses.fields(Settings)}
    for key in tree:
        if key not in top:
            raise ConfigError(f"{where}: unknown key {key!r}", hint=_nearest(key))
    phrase = tree.get("phrase")
    if not isinstance(phrase, str) or not phrase.strip():
        raise ConfigError(f"{where}: no phrase", hint="write for example: phrase: hey kitchen")
    try:
        effort = Effort(tree.get("effort", Effort.QUICK))
    except ValueError:
        raise ConfigError(
            f"{where}: effort is {tree['effort']!r}", hint="use one of " + ", ".join(Effort)
        ) from None
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
        values[key] = _coerce(f"{name}.{key}", value, hints[key], where)
    return cls(**values)


def _coerce(key: str, value: Any, wanted: Any, where: str) -> Any:
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if typing.get_origin(wanted) is tuple and isinstance(value, list | tuple):
        (item, _ellipsis) = typing.get_args(wanted)
        return tuple(_coerce(key, v, item, where) for v in value)
    if typing.get_origin(wanted) is None and isinstance(value, wanted) and not (wanted is int and value is True):
        if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
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
