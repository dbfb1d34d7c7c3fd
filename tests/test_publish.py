"""A model is published under a name of its own, and never to firmware that it would deafen."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import toy_wake

from mww_ha.deploy import esphome, publish
from mww_ha.detector import load_manifest
from mww_ha.errors import DataError, InputError, StorageError
from mww_ha.schema import Flash, Person
from mww_ha.store import Project, model_file_stem, now

LOADS = {"devices": {"kitchen": "2027.2.0"}, "loads_since": "2027.2.0"}
"""A household whose firmware can load what is published."""


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    return toy_wake.write_model(tmp_path / "made", name="a_rising_whistle-12345678")


def flashed(project: Project, device: str, version: str, outcome: str = "verified", at: str = "2026-11-01") -> None:
    project.catalogue.put_flash(
        Flash(
            id=f"{device}-{at}-{outcome}",
            device=device,
            model="m-00000000",
            wake_model="m 00000000",
            backend="esphome",
            started_at=f"{at}T00:00:00+00:00",
            outcome=outcome,
            esphome_version=version,
        )
    )


def test_the_files_are_named_alike_and_the_manifest_names_its_model(project: Project, manifest: Path, tmp_path: Path):
    folder = tmp_path / "custom_wake_words"
    result = publish.publish(project, to=folder, manifest_path=manifest, **LOADS)
    assert sorted(p.name for p in folder.iterdir()) == ["a_rising_whistle.json", "a_rising_whistle.tflite"]
    assert set(result.paths) == set(folder.iterdir())
    assert (folder / "a_rising_whistle.tflite").read_bytes() == toy_wake.toy().model
    made, before = load_manifest(folder / "a_rising_whistle.json"), load_manifest(manifest)
    assert made.model_path == folder / "a_rising_whistle.tflite"
    assert dataclasses.replace(made, path=before.path, model_path=before.model_path) == before
    assert any("restart Home Assistant" in message for message in result.messages)


def test_home_assistants_own_folder_stands_for_the_folder_in_it(project: Project, manifest: Path, tmp_path: Path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "configuration.yaml").write_text("default_config:\n")
    result = publish.publish(project, to=tmp_path / "config", manifest_path=manifest, **LOADS)
    assert {path.parent for path in result.paths} == {tmp_path / "config" / "custom_wake_words"}


def test_where_no_folder_can_be_that_is_said(project: Project, manifest: Path):
    with pytest.raises(StorageError, match="/dev/null is not a folder"):
        publish.publish(project, to=Path("/dev/null/x"), manifest_path=manifest, force=True)


def test_publishing_again_changes_nothing(project: Project, manifest: Path, tmp_path: Path):
    folder = tmp_path / "custom_wake_words"
    for _ in range(2):
        publish.publish(project, to=folder, manifest_path=manifest, **LOADS)
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("version", ["2026.6.5", "2026.9.1", "2026.10.0", "2027.1.0", "", "dev"])
def test_no_firmware_of_today_lets_the_folder_be_filled(project: Project, manifest: Path, tmp_path: Path, version: str):
    folder = tmp_path / "custom_wake_words"
    with pytest.raises(InputError, match="kitchen") as refused:
        publish.publish(project, to=folder, manifest_path=manifest, devices={"kitchen": version})
    assert "--force" in refused.value.hint
    assert not folder.exists()


def test_where_no_satellite_is_known_the_folder_is_not_filled_either(project: Project, manifest: Path, tmp_path: Path):
    folder = tmp_path / "custom_wake_words"
    with pytest.raises(InputError, match="none is known here") as refused:
        publish.publish(project, to=folder, manifest_path=manifest)
    assert "--force" in refused.value.hint
    assert not folder.exists()


def test_only_firmware_that_shows_what_it_cannot_load_goes_deaf():
    assert "listens to none" in publish.why_not("2026.6.5")
    assert "listens to none" not in publish.why_not("2026.10.0")
    assert "unknown" in publish.why_not("")


def test_firmware_that_loads_it_lets_the_folder_be_filled(project: Project, manifest: Path, tmp_path: Path):
    folder = tmp_path / "custom_wake_words"
    one, other = {"kitchen": "2027.2.0"}, {"kitchen": "2027.2.0", "hall": "2027.1.9"}
    assert publish.publish(project, to=folder, manifest_path=manifest, devices=one, loads_since="2027.2.0").paths
    with pytest.raises(InputError, match="hall") as refused:
        publish.publish(project, to=folder, manifest_path=manifest, devices=other, loads_since="2027.2.0")
    assert "kitchen" not in refused.value.message


def test_the_records_say_what_a_device_runs(project: Project, manifest: Path, tmp_path: Path):
    flashed(project, "kitchen", "2027.3.0", at="2026-11-01")
    flashed(project, "kitchen", "", outcome="failed", at="2026-11-02")
    folder = tmp_path / "custom_wake_words"
    assert publish.publish(project, to=folder, manifest_path=manifest, loads_since="2027.2.0").paths
    flashed(project, "kitchen", "2027.1.0", at="2026-11-03")
    with pytest.raises(InputError, match=r"2027\.1\.0"):
        publish.publish(project, to=folder, manifest_path=manifest, loads_since="2027.2.0")


def test_a_device_that_was_never_flashed_from_here_counts_as_unknown(project: Project, manifest: Path, tmp_path: Path):
    project.devices_path.write_text("hall:\n  template: generic-s3\n")
    with pytest.raises(InputError, match="hall: its firmware is unknown"):
        publish.publish(project, to=tmp_path / "custom_wake_words", manifest_path=manifest)


def test_force_publishes_and_says_which_device_must_not_choose_it(project: Project, manifest: Path, tmp_path: Path):
    result = publish.publish(
        project, to=tmp_path / "c", manifest_path=manifest, devices={"kitchen": "2026.6.5"}, force=True
    )
    assert any("kitchen" in message for message in result.messages)
    assert (tmp_path / "c" / "a_rising_whistle.json").is_file()


def test_a_repository_is_not_held_back_by_devices_and_can_be_included(project: Project, manifest: Path, tmp_path: Path):
    flashed(project, "kitchen", "2026.6.5")
    folder = tmp_path / "someone" / "wake-words"
    result = publish.publish(project, to=folder, manifest_path=manifest, layout="repository")
    shorthand = "github://someone/wake-words/a_rising_whistle.json@main"
    assert shorthand in (folder / "README.md").read_text()
    assert any(shorthand in message for message in result.messages)


def test_esphome_accepts_a_published_manifest(project: Project, manifest: Path, tmp_path: Path):
    command = esphome.find_esphome()
    if command is None:
        pytest.skip("ESPHome is not installed")
    folder = tmp_path / "someone" / "wake-words"
    publish.publish(project, to=folder, manifest_path=manifest, layout="repository")
    (folder / "device.yaml").write_text(
        "esphome: {name: device}\n"
        "esp32: {board: esp32-s3-devkitc-1, framework: {type: esp-idf}}\n"
        "psram: {mode: octal}\n"
        "i2s_audio: {i2s_lrclk_pin: GPIO3, i2s_bclk_pin: GPIO2}\n"
        "microphone:\n  - {platform: i2s_audio, id: mic, adc_type: external, i2s_din_pin: GPIO4}\n"
        "micro_wake_word:\n  models: [{model: a_rising_whistle.json}]\n"
    )
    code, output = esphome.run_esphome([*command, "config", "device.yaml"], folder, 120)
    assert code == 0, output


def test_a_readme_of_the_users_is_left_alone(project: Project, manifest: Path, tmp_path: Path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "README.md").write_text("mine\n")
    publish.publish(project, to=tmp_path / "r", manifest_path=manifest, layout="repository")
    assert (tmp_path / "r" / "README.md").read_text() == "mine\n"


@pytest.mark.parametrize("other", ["tflite", "json", "broken", "word"])
def test_another_models_name_is_not_taken_without_force(project: Project, manifest: Path, tmp_path: Path, other: str):
    folder = tmp_path / "r"
    folder.mkdir()
    if other in ("tflite", "word"):
        (folder / "a_rising_whistle.tflite").write_bytes(b"another" if other == "tflite" else toy_wake.toy().model)
    if other != "tflite":
        text = "{" if other == "broken" else json.dumps({"wake_word": "another"})
        (folder / "a_rising_whistle.json").write_text(text)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match="another model"):
        publish.publish(project, to=folder, manifest_path=manifest, layout="repository")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    publish.publish(project, to=folder, manifest_path=manifest, layout="repository", force=True)
    assert load_manifest(folder / "a_rising_whistle.json").wake_word == "a rising whistle"


def test_an_older_model_of_the_project_is_replaced(project: Project, manifest: Path, tmp_path: Path):
    folder = tmp_path / "r"
    publish.publish(project, to=folder, manifest_path=manifest, layout="repository")
    (folder / "a_rising_whistle.tflite").write_bytes(b"the older one")
    stem = model_file_stem("a_rising_whistle", b"the older one")
    with pytest.raises(InputError):
        publish.publish(project, to=folder, manifest_path=manifest, layout="repository")
    project.catalogue.put_model(stem, {"id": stem, "manifest_path": "models/x.json"})
    publish.publish(project, to=folder, manifest_path=manifest, layout="repository")
    assert (folder / "a_rising_whistle.tflite").read_bytes() == toy_wake.toy().model


@pytest.mark.parametrize("id", ["../../etc/passwd", "A b/C", "", "..", "x" * 300])
def test_a_name_never_leaves_the_folder(project: Project, manifest: Path, tmp_path: Path, id: str):
    result = publish.publish(project, to=tmp_path / "r", manifest_path=manifest, layout="repository", id=id)
    assert {path.parent for path in result.paths} == {tmp_path / "r"}
    assert all(len(path.name) < 90 for path in result.paths)


def test_wake_words_in_another_script_get_names_that_do_not_meet(project: Project, tmp_path: Path):
    names = set()
    for word in ("キッチン", "寝室"):
        path = toy_wake.write_model(tmp_path / word)
        path.write_text(json.dumps({**json.loads(path.read_text()), "wake_word": word}))
        names |= {
            p.name for p in publish.publish(project, to=tmp_path / "r", manifest_path=path, layout="repository").paths
        }
    assert len([name for name in names if name.endswith(".tflite")]) == 2


def test_a_project_without_a_model_and_a_file_in_place_of_a_folder_are_refused(
    project: Project, manifest: Path, tmp_path: Path
):
    with pytest.raises(DataError):
        publish.publish(project, to=tmp_path / "r", layout="repository")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="not a folder"):
        publish.publish(project, to=tmp_path / "file", manifest_path=manifest, layout="repository")


def learned(project: Project, run: str, voices: dict[str, str], start: str = "") -> None:
    """A run on features of these clips; clip → voice, in training but for those called held out."""
    folder = project.features_dir / f"set-{run}"
    folder.mkdir(parents=True)
    sides = {clip: "test" if clip.startswith("held out") else "train" for clip in voices}
    (folder / "index.json").write_text(json.dumps({"sides": sides, "people": voices}))
    project.catalogue.put_run(run, now(), {"id": run, "feature_set": folder.name, "start": start})


def test_a_model_that_learned_from_somebody_who_does_not_share_stays_in_the_household(
    project: Project, manifest: Path, tmp_path: Path
):
    for name, may_share in (("Anna", True), ("Ben", False), ("Carl", False)):
        person = Person(name=name, consented_at=now(), noted_by="x", purpose="y", may_share=may_share)
        project.catalogue.put_person(person)
    learned(project, "r1", {"1": "Ben", "2": "common-voice-17"})
    learned(project, "r2", {"3": "Anna", "held out 1": "Carl"}, start="r1")
    stem = model_file_stem("a_rising_whistle", load_manifest(manifest).model_path.read_bytes())
    project.catalogue.put_model(stem, {"id": stem, "run": "r2"})

    def share(**options: bool) -> publish.Published:
        return publish.publish(project, to=tmp_path / "r", manifest_path=manifest, layout="repository", **options)

    with pytest.raises(InputError, match=r"not to leave the household: Ben\n") as refused:
        share()
    assert "--may-share" in refused.value.hint
    assert not (tmp_path / "r").exists()
    assert "it learned from Ben, who did not agree that this leaves the household" in share(force=True).messages
    # At home it may be used; and what was deleted since is not known.
    folder = tmp_path / "custom_wake_words"
    publish.publish(project, to=folder, manifest_path=manifest, **LOADS)
    (project.features_dir / "set-r1" / "index.json").unlink()
    assert "whose recordings it learned from is not known any more: ask them" in share().messages
    project.catalogue.put_run("r2", now(), {"id": "r2", "feature_set": "set-r2"})
    assert not any("learned from" in message for message in share().messages), "Anna agreed, Carl only judged"
