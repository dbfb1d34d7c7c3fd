"""A manifest we write is one that ESPHome and our strict reader both accept, to the bit of the cutoff."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mww_ha.detector import load_manifest, probability_of_cutoff
from mww_ha.errors import ManifestError
from mww_ha.export.manifest import about_path, write_about, write_manifest
from mww_ha.store import model_file_stem

GOOD: dict[str, Any] = {
    "phrase": "hey kitchen",
    "model_file": "hey_kitchen-1a2b3c4d.tflite",
    "author": "a household",
    "website": "",
    "languages": ["en"],
    "probability_cutoff": 0.97,
    "sliding_window": 5,
    "tensor_arena_bytes": 30_000,
}


def _write(folder: Path, **changes: Any) -> Path:
    path = folder / "model.json"
    values = {**GOOD, **changes}
    (folder / values["model_file"]).write_bytes(b"\0\0\0\0TFL3")
    write_manifest(path, **values)
    return path


def test_the_strict_reader_reads_back_what_was_written(tmp_path: Path) -> None:
    path = _write(tmp_path, phrase="  hé  Küche ", website="https://example.org/x", languages=["de", "fr-CA"])
    read = load_manifest(path)
    assert (read.wake_word, read.website) == ("hé Küche", "https://example.org/x")
    assert read.trained_languages == ("de", "fr-CA")
    assert (read.probability_cutoff, read.sliding_window, read.step_ms) == (0.97, 5, 10)
    assert (read.tensor_arena_bytes, read.minimum_esphome_version) == (30_000, "2024.7.0")
    assert read.model_path == tmp_path / GOOD["model_file"]


def test_a_manifest_has_the_keys_of_version_2_and_no_other(tmp_path: Path) -> None:
    document = json.loads(_write(tmp_path).read_text())
    assert set(document) == {"type", "wake_word", "author", "model", "trained_languages", "version", "micro"}
    assert set(document["micro"]) == {
        "probability_cutoff",
        "feature_step_size",
        "sliding_window_size",
        "tensor_arena_size",
        "minimum_esphome_version",
    }


@given(cutoff=st.integers(1, 254))
def test_every_cutoff_survives_the_text_form(tmp_path_factory: pytest.TempPathFactory, cutoff: int) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = _write(folder, probability_cutoff=probability_of_cutoff(cutoff))
    assert int(json.loads(path.read_text())["micro"]["probability_cutoff"] * 255) == cutoff


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"phrase": " \n"}, "wake_word"),
        ({"phrase": "hey\x1b[8m"}, "wake_word"),
        ({"author": ""}, "author"),
        ({"model_file": "../other.tflite"}, "model"),
        ({"model_file": "model.bin"}, "model"),
        ({"website": "example.org"}, "website"),
        ({"website": "javascript:alert(1)"}, "website"),
        ({"website": "https://exa mple.org"}, "website"),
        ({"languages": []}, "trained_languages"),
        ({"languages": ["en", ""]}, "trained_languages"),
        ({"probability_cutoff": 0.0}, "probability_cutoff"),
        ({"probability_cutoff": 1.0}, "probability_cutoff"),
        ({"probability_cutoff": 97}, "probability_cutoff"),
        ({"probability_cutoff": float("nan")}, "probability_cutoff"),
        ({"sliding_window": 0}, "sliding_window"),
        ({"sliding_window": True}, "sliding_window"),
        ({"step_ms": 0}, "step_size"),
        ({"step_ms": 31}, "step_size"),
        ({"tensor_arena_bytes": 0}, "tensor_arena_size"),
        ({"minimum_esphome_version": "soon"}, "minimum_esphome_version"),
    ],
)
def test_a_value_nobody_can_use_is_named_and_nothing_is_written(
    tmp_path: Path, change: dict[str, Any], key: str
) -> None:
    path = tmp_path / "model.json"
    with pytest.raises(ManifestError, match=key) as refusal:
        write_manifest(path, **{**GOOD, **change})
    assert refusal.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_model_file_is_named_after_its_content() -> None:
    assert model_file_stem("hey_kitchen", b"abc") == f"hey_kitchen-{hashlib.sha256(b'abc').hexdigest()[:8]}"
    assert model_file_stem("hey_kitchen", b"abd") != model_file_stem("hey_kitchen", b"abc")
    assert len(model_file_stem("a_b" * 100, b"abc")) <= 64 + 9


def test_metadata_lies_beside_the_manifest_under_the_model_name(tmp_path: Path) -> None:
    manifest = tmp_path / "hey_kitchen-1a2b3c4d.json"
    path = write_about(manifest, {"run": "r1"})
    assert path == about_path(manifest) == tmp_path / "hey_kitchen-1a2b3c4d.about.json"
    assert json.loads(path.read_text()) == {"run": "r1"}


@pytest.mark.parametrize("website", ["", "https://example.org"])
def test_esphome_itself_accepts_the_manifest(tmp_path: Path, website: str) -> None:
    pytest.importorskip("esphome")
    manifest = _write(tmp_path, phrase="höre Küche 厨房", website=website, languages=["de", "en"])
    code, output = _esphome_config(manifest)
    assert code == 0, output
    assert "Configuration is valid" in output


def test_esphome_refuses_the_manifest_with_one_more_key(tmp_path: Path) -> None:
    pytest.importorskip("esphome")
    manifest = _write(tmp_path)
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "run": "r1"}))
    code, output = _esphome_config(manifest)
    assert code != 0, output


def _esphome_config(manifest: Path) -> tuple[int, str]:
    """The smallest configuration that makes ESPHome read a manifest."""
    config = manifest.with_suffix(".yaml")
    config.write_text(
        "esphome: {name: probe}\n"
        "esp32: {variant: esp32s3, framework: {type: esp-idf}}\n"
        "i2s_audio: {i2s_lrclk_pin: GPIO5, i2s_bclk_pin: GPIO4}\n"
        "microphone: [{platform: i2s_audio, adc_type: external, i2s_din_pin: GPIO6}]\n"
        f"micro_wake_word: {{models: [{manifest.name}]}}\n"
    )
    command = [sys.executable, "-m", "esphome", "config", config.name]
    done = subprocess.run(command, check=False, cwd=manifest.parent, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr
