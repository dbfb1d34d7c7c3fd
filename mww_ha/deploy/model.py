"""A wake-word model on its way to a device: its names, its levels in words, the second slot, its files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mww_ha import store
from mww_ha.detector import Manifest, cutoff_of_probability, load_manifest, probability_of_cutoff
from mww_ha.detector import read_model as read_tflite
from mww_ha.errors import ManifestError

LONGEST_STATE = 255
"""Bytes of a text sensor that Home Assistant takes."""

NEAR_MISS_SHARE = 0.5
"""Cutoff of the near-miss slot as a share of the model's own, for models of which nothing was measured."""

LEVELS = ("slightly", "moderately", "very")


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A manifest with its model and what was measured, as it goes to a device."""

    manifest: Manifest
    slug: str
    sha8: str
    stem: str  # <slug>-<sha8>
    tflite: bytes
    levels: tuple[dict[str, Any], ...]  # none, or one per entry of LEVELS in that order
    near_miss: float | None  # probability cutoff; None: no cutoff below the levels is of use

    @property
    def id(self) -> str:
        """The model's name in ESPHome, the same after the phrase is trained again."""
        # The prefix keeps clear of C++ words, of the names of ESPHome's components ("light", "voice_assistant",
        # "wake_on_lan") and of leading digits, all of which ESPHome refuses as ids.
        if _is_empty_slug(self.slug, self.manifest.wake_word):
            return f"model_{hashlib.sha256(self.manifest.wake_word.encode()).hexdigest()[:8]}"
        return f"model_{self.slug}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """The second, internal place for a model: the same one with a low cutoff, or the next one."""

    kind: str  # near_miss | canary
    model: Model
    stem: str  # of its manifest
    word: str  # what its manifest calls the wake word, so that the automation can tell it apart
    cutoff: float


def read_model(path: Path) -> Model:
    """The model of a manifest and of the metadata beside it. Raises ManifestError, ModelFileError."""
    manifest = load_manifest(path)
    tflite = read_tflite(manifest.model_path)
    # a manifest from elsewhere gets a hash into its name here
    stem = store.model_file_stem(store.slugify(manifest.wake_word), tflite)
    slug, _, sha8 = stem.rpartition("-")
    about_path = path.with_suffix(".about.json")
    about = _read_about(about_path)
    levels = _levels(about, about_path)
    return Model(
        manifest=manifest,
        slug=slug,
        sha8=sha8,
        stem=stem,
        tflite=tflite,
        levels=levels,
        near_miss=_near_miss_cutoff(about, about_path, manifest, levels),
    )


def _is_empty_slug(slug: str, text: str) -> bool:
    """Nothing of ``text`` is left in its slug: another script, or only signs."""
    return slug == store.slugify("") and "wake" not in text.lower()


def _read_about(path: Path) -> Mapping[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path} cannot be read: {error}", hint="export the model again, or remove it") from None
    return document if isinstance(document, dict) else {}


def _levels(about: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], ...]:
    """The sensitivity levels of a model's metadata, in the order of LEVELS; empty when it has none."""
    listed = about.get("levels")
    if not listed:
        return ()
    by_name = {level.get("name"): level for level in listed if isinstance(level, dict)}
    for name in LEVELS:
        cutoff = by_name.get(name, {}).get("probability_cutoff")
        if not _is_probability(cutoff):
            raise ManifestError(
                f"{path}: the level {name!r} has the probability_cutoff {cutoff!r}",
                hint=f"levels are {', '.join(LEVELS)}, each with a probability_cutoff between 0 and 1",
            )
    return tuple(by_name[name] for name in LEVELS)


def _near_miss_cutoff(
    about: Mapping[str, Any], path: Path, manifest: Manifest, levels: Sequence[Mapping[str, Any]]
) -> float | None:
    """The measured cutoff of the near-miss slot; half of the model's own where nothing was measured; None: no use."""
    if "near_miss" not in about:
        lowest = min([manifest.cutoff, *(cutoff_of_probability(level["probability_cutoff"]) for level in levels)])
        cutoff = int(lowest * NEAR_MISS_SHARE)
        return probability_of_cutoff(cutoff) if 1 <= cutoff < lowest else None
    entry = about["near_miss"]
    if entry is None:
        return None
    measured: Any = entry.get("probability_cutoff") if isinstance(entry, dict) else entry
    if not _is_probability(measured):
        raise ManifestError(
            f"{path}: near_miss has the probability_cutoff {measured!r}",
            hint="it is a share between 0 and 1; export the model again",
        )
    return float(measured)


def _is_probability(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1


def check_together(models: Sequence[Model]) -> None:
    """Raises ManifestError when the models cannot run on one device: another step, or a phrase twice."""
    first = models[0].manifest
    for number, model in enumerate(models[1:], 1):
        manifest = model.manifest
        if manifest.step_ms != first.step_ms:
            raise ManifestError(
                f"{manifest.path} has a step of {manifest.step_ms} ms, {first.path} one of {first.step_ms} ms",
                hint="models on one device must share the step; leave one out or train it again",
            )
        for other in models[:number]:
            if model.id == other.id:
                raise ManifestError(
                    f"{manifest.path} and {other.manifest.path} are both for {manifest.wake_word!r}",
                    hint="put one model per phrase on a device",
                )


def write_models(folder: Path, models: Sequence[Model], slot: Slot | None) -> None:
    """Copies of the models with their manifests, and the slot's manifest beside its model's."""
    for model in models:
        _write_model(folder, model, model.stem, {})
    if slot:
        micro = {**_document_of(slot.model)["micro"], "probability_cutoff": slot.cutoff}
        _write_model(folder, slot.model, slot.stem, {"wake_word": slot.word, "micro": micro})


def _write_model(folder: Path, model: Model, stem: str, changes: Mapping[str, Any]) -> None:
    """The model and its manifest, unchanged but for the file name and ``changes``; the manifest comes last."""
    tflite = folder / f"{model.stem}.tflite"
    if not (tflite.is_file() and tflite.read_bytes() == model.tflite):
        with store.atomic_write(tflite) as file:
            file.write(model.tflite)
    store.write_json(folder / f"{stem}.json", {**_document_of(model), **changes, "model": tflite.name})


def _document_of(model: Model) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(model.manifest.path.read_text(encoding="utf-8-sig"))
    return document


def level_values(model: Model) -> dict[str, str]:
    """The substitutions of ``sensitivity.yaml``."""
    values = {
        f"wake_cutoff_{level['name']}": str(cutoff_of_probability(level["probability_cutoff"]))
        for level in model.levels
    }
    return {**values, "wake_levels": levels_text(model.levels)}


def describe_level(level: Mapping[str, Any]) -> str:
    """One line: cutoff, recall and false accepts with their intervals, and what they were measured on."""
    parts = [f"{level['name']} sensitive: cutoff {cutoff_of_probability(level['probability_cutoff'])} of 255"]
    for key, words in (("recall", "recall"), ("false_accepts_per_hour", "false accepts per hour")):
        rate = level.get(key)
        if not isinstance(rate, Mapping):
            continue
        if (read := _rate(rate)) is None:
            parts.append(f"{words} unreadable")
            continue
        value, low, high, exposure = read
        basis = f"{exposure:.0f} takes" if key == "recall" else f"{exposure:.1f} h"
        parts.append(f"{words} {value:.3g} ({low:.3g} to {high:.3g}, {basis})")
    if isinstance(level.get("measured_on"), str):
        parts.append(f"measured on {one_line(level['measured_on'])}")
    return ", ".join(parts)


def levels_text(levels: Sequence[Mapping[str, Any]]) -> str:
    """What the levels mean, for the entity "Wake word levels": each rate with its interval, in at most 255 bytes.

    Such as ``slightly: 70% heard (65-74), 0.1/h false (0.05-0.2); …; of 100 takes and 10 h synthetic ambient``.
    """
    parts, basis = [], ""
    for level in levels:
        heard, false = (_rate(level.get(key)) for key in ("recall", "false_accepts_per_hour"))
        told = []
        if heard:
            told.append(f"{heard[0]:.0%} heard ({heard[1] * 100:.0f}-{heard[2] * 100:.0f})")
        if false:
            told.append(f"{false[0]:.2g}/h false ({false[1]:.2g}-{false[2]:.2g})")
        parts.append(f"{level['name']}: {', '.join(told) or 'not measured'}")
        exposures = [f"{heard[3]:.0f} takes" if heard else "", f"{false[3]:.3g} h" if false else ""]
        on = level.get("measured_on")
        on = re.sub(r"[^\w ,.:()-]", "", on) if isinstance(on, str) else ""
        basis = f"; of {' and '.join(filter(None, exposures))} {on}".rstrip() if any(exposures) else ""
    text = "; ".join(parts)
    return (text + basis).encode()[:LONGEST_STATE].decode("utf-8", "ignore")


def _rate(rate: Any) -> tuple[float, float, float, float] | None:
    """Value, low, high and exposure of an interval of a model's metadata; None when it is not one."""
    try:
        value, low, high, exposure = (float(rate[key]) for key in ("value", "low", "high", "exposure"))
    except (KeyError, TypeError, ValueError):
        return None
    return value, low, high, exposure


def one_line(text: str) -> str:
    """``text`` without what would end a line or hide in it."""
    return "".join(c if c.isprintable() else " " for c in text)
