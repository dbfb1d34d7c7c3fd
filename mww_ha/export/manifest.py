"""The wake-word manifest (version 2) as ESPHome reads it, and the metadata file beside it.

ESPHome rejects a manifest with any key it does not know, so everything else we know about a model goes to
``<slug>-<sha8>.about.json``. Reading is in ``mww_ha.detector``; this is the only place that makes a manifest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mww_ha import store
from mww_ha.detector import Manifest, cutoff_of_probability, parse_manifest
from mww_ha.errors import ManifestError

MINIMUM_ESPHOME_VERSION = "2024.7.0"
"""First release that reads version 2 manifests; the models ESPHome ships name the same."""

_RELEASE = re.compile(r"\d{4}\.\d{1,2}\.\d{1,2}", re.ASCII)


def write_manifest(
    path: Path,
    *,
    phrase: str,
    model_file: str,
    author: str,
    website: str,
    languages: Sequence[str],
    probability_cutoff: float,
    sliding_window: int,
    step_ms: int = 10,
    tensor_arena_bytes: int,
    minimum_esphome_version: str = MINIMUM_ESPHOME_VERSION,
) -> Manifest:
    """Writes a version 2 manifest with exactly the keys ESPHome accepts; an empty ``website`` is left out.

    ``model_file`` is the name of the ``.tflite`` in the same folder, ``probability_cutoff`` a share that a score can
    exceed (see ``detector.probability_of_cutoff``), ``sliding_window`` a number of scores. Returns the manifest as
    the strict reader sees it. Nothing is written when ESPHome, or a sensible user, would refuse a value:
    ManifestError names it.
    """
    document: dict[str, Any] = {
        "type": "micro",
        "wake_word": " ".join(phrase.split()),
        "author": author.strip(),
        "model": model_file,
        "trained_languages": list(languages),
        "version": 2,
        "micro": {
            "probability_cutoff": probability_cutoff,
            "feature_step_size": step_ms,
            "sliding_window_size": sliding_window,
            "tensor_arena_size": tensor_arena_bytes,
            "minimum_esphome_version": minimum_esphome_version,
        },
    }
    if website:
        document["website"] = website
    manifest = parse_manifest(document, path)
    _check_sense(manifest, model_file)
    store.write_json(path, document)
    return manifest


def _check_sense(manifest: Manifest, model_file: str) -> None:
    """What ESPHome would let pass and a device could not use."""
    plain = model_file == Path(model_file).name and "\\" not in model_file
    for key, value, holds, hint in (
        ("wake_word", manifest.wake_word, _is_text(manifest.wake_word), "it must be the spoken phrase"),
        ("author", manifest.author, _is_text(manifest.author), "set export.author in project.yaml"),
        ("model", model_file, plain and model_file.endswith(".tflite"), "name a .tflite beside the manifest"),
        ("website", manifest.website, _is_web_address(manifest.website), "use http:// or https://, or leave it empty"),
        (
            "trained_languages",
            manifest.trained_languages,
            bool(manifest.trained_languages) and all(map(_is_text, manifest.trained_languages)),
            "give codes such as en or de",
        ),
        (
            "probability_cutoff",
            manifest.probability_cutoff,
            1 <= cutoff_of_probability(manifest.probability_cutoff) <= 254,
            "a score of 0 to 255 must be able to exceed it and to stay below it",
        ),
        ("feature_step_size", manifest.step_ms, manifest.step_ms >= 1, "it must be 1 to 30 ms"),
        (
            "minimum_esphome_version",
            manifest.minimum_esphome_version,
            bool(_RELEASE.fullmatch(manifest.minimum_esphome_version)),
            f"write it like {MINIMUM_ESPHOME_VERSION}",
        ),
    ):
        if not holds:
            raise ManifestError(f"{manifest.path}: {key} would be {value!r}", hint=hint)


def _is_text(value: str) -> bool:
    return bool(value.strip()) and value.isprintable()


def _is_web_address(text: str) -> bool:
    parts = urlsplit(text)
    return not text or (parts.scheme in ("http", "https") and bool(parts.netloc) and not re.search(r"\s", text))


def about_path(manifest: Path) -> Path:
    """Where the metadata of a model lies: ``<stem>.about.json`` beside its manifest."""
    return manifest.with_suffix(".about.json")


def write_about(manifest: Path, about: Mapping[str, Any]) -> Path:
    """Writes what we know about a model and ESPHome must not see. Returns the file.

    ``about["levels"]``, if there, lists the sensitivity levels that ``mww_ha.deploy`` renders: mappings with
    ``name`` (slightly | moderately | very), ``probability_cutoff``, the measured ``recall`` and
    ``false_accepts_per_hour`` (the fields of ``schema.Interval``), and in words what they were ``measured_on``.
    """
    path = about_path(manifest)
    store.write_json(path, dict(about))
    return path
