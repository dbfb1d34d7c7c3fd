"""From a phrase to a model and its YAML; whatever is up to date is left alone, whatever is not is made again."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_wake
from tiny_project import write_settings

from mww_ha import audio, detector, frontend, pipeline
from mww_ha.deploy import esphome
from mww_ha.errors import DataError, ProjectError
from mww_ha.schema import Label, Origin, Progress
from mww_ha.shards import read_index
from mww_ha.store import Project, open_project


@pytest.fixture
def trained(trained_root: Path, tmp_path: Path) -> Project:
    shutil.copytree(trained_root, tmp_path / "trained")
    return write_settings(tmp_path / "trained")


def times_of(root: Path) -> dict[str, int]:
    """When each file was last written; the catalogue, which is opened again and again, left out."""
    return {
        str(path.relative_to(root)): path.stat().st_mtime_ns
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(("catalogue", "project.yaml"))
    }


def test_a_second_run_does_nothing_and_says_so(trained: Project) -> None:
    before = times_of(trained.root)
    said: list[Progress] = []
    began = time.process_time()
    results = pipeline.run(trained, until="train", report=said.append)
    assert time.process_time() - began < 5
    assert times_of(trained.root) == before
    assert [(p.stage, p.message) for p in said] == [(s, "up to date") for s in ("synthesize", "prepare", "train")]
    assert list(results) == ["synthesize", "prepare", "train"]
    assert results["train"]["outcome"] == "done"


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"synthesize": {"wake_clips": 70}}, {"synthesize"}),
        ({"augment": {"reverb_probability": 0.1}}, {"prepare"}),
        ({"prepare": {"wake_hours": 0.03}}, {"prepare"}),
        ({"prepare": {"processes": 2}}, set()),
        ({"split": {"salt": "x"}}, {"prepare"}),
        ({"train": {"steps": 41}}, {"train"}),
        ({"export": {"false_accepts_per_hour": 1.0}}, {"train", "evaluate", "export"}),
        ({"export": {"author": "ada"}}, {"export"}),
    ],
)
def test_a_changed_setting_puts_out_of_date_what_reads_it(
    prepared: Project, change: dict[str, Any], stages: set[str]
) -> None:
    """What follows such a stage is put out of date by its result."""
    changed = write_settings(prepared.root, **change)
    found = {
        stage
        for stage in pipeline.STAGES
        if pipeline.digest_inputs(changed, stage) != pipeline.digest_inputs(prepared, stage)
    }
    changed.catalogue.close()
    assert found == stages


def test_only_what_depends_on_a_change_runs_again(trained: Project) -> None:
    before = times_of(trained.root)
    changed = write_settings(trained.root, train={"steps": 20})
    said: list[Progress] = []
    results = pipeline.run(changed, until="train", report=said.append)
    assert {p.stage for p in said if p.message == "up to date"} == {"synthesize", "prepare"}
    after = times_of(trained.root)
    assert {path: after[path] for path in before} == before
    assert {path.split("/")[0] for path in set(after) - set(before)} == {"runs"}
    assert sorted(row["steps"] for row in changed.catalogue.runs()) == [20, 40]
    assert results["train"]["steps"] == 20
    # And back again: the first run is still there.
    back = write_settings(trained.root)
    began = time.process_time()
    assert pipeline.run(back, until="train")["train"]["steps"] == 40
    assert time.process_time() - began < 5
    assert times_of(trained.root) == after


def test_a_product_that_is_gone_is_made_again(trained: Project) -> None:
    (place,) = trained.runs_dir.iterdir()
    model = (place / "candidate.tflite").read_bytes()
    (place / "candidate.tflite").unlink()
    pipeline.run(trained, until="train")
    assert (place / "candidate.tflite").read_bytes() == model


def test_a_run_ends_where_it_is_told_to(prepared: Project) -> None:
    results = pipeline.run(prepared, until="prepare")
    assert list(results) == ["synthesize", "prepare"]
    assert not prepared.runs_dir.exists()
    assert results["prepare"]["train_hours"] > 0


@pytest.mark.parametrize(("stage", "missing"), [("train", "prepare"), ("evaluate", "train"), ("export", "evaluate")])
def test_a_stage_without_the_one_before_says_what_to_run(project: Project, stage: str, missing: str) -> None:
    with pytest.raises(DataError, match=f"{missing} has not run") as caught:
        pipeline.run_stage(project, stage)
    assert "mww-ha run" in caught.value.hint


def test_new_clips_put_the_features_out_of_date(prepared: Project) -> None:
    before = pipeline.digest_inputs(prepared, "prepare")
    clip = prepared.catalogue.clips(Label.SPEECH)[0]
    prepared.catalogue.remove_clips([clip.id])
    assert pipeline.digest_inputs(prepared, "prepare") != before
    prepared.catalogue.add_clips([clip])
    assert pipeline.digest_inputs(prepared, "prepare") == before


def test_quickstart_leaves_the_project_of_another_phrase_alone(prepared: Project) -> None:
    before = times_of(prepared.root)
    with pytest.raises(ProjectError, match="hey kitchen"):
        pipeline.quickstart(prepared.root, "computer")
    assert times_of(prepared.root) == before


def ended(**changes: object) -> pipeline.Summary:
    known = {field.name: "" for field in dataclasses.fields(pipeline.Summary)}
    rest = {"duration_s": 60.0, "peak_memory_mb": 100.0, "board": "generic-s3", "device": "hall", "substitutions": {}}
    return pipeline.Summary(**{**known, **rest, **changes})  # type: ignore[arg-type]


def test_what_is_to_do_next_begins_with_the_way_into_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "my hall"
    (root / "esphome").mkdir(parents=True)
    (root / "project.yaml").write_text("phrase: hey hall\n")
    other = tmp_path / "other"
    other.mkdir()
    (other / "project.yaml").write_text("phrase: hey other\n")
    for here, way in (
        (tmp_path, "cd 'my hall'"),
        (other, f"cd '{root}'"),
        (root, ""),
        (root / "esphome", ""),
    ):
        monkeypatch.chdir(here)
        assert pipeline.way_into(root) == way
        for board in ("generic-s3", "voice-pe"):
            lines = ended(project=str(root), board=board).text().splitlines()
            added = next(place for place, line in enumerate(lines) if "mww-ha devices add hall" in line)
            assert (lines[added - 1] == f"  {way}") is bool(way)
    monkeypatch.chdir(tmp_path)
    assert pipeline.way_into(Path("my hall")) == "cd 'my hall'"


def test_what_would_help_begins_with_people_and_stands_under_a_heading(project: Project) -> None:
    heading, *first = pipeline._advise(project)
    assert heading.startswith("This model has heard synthesized voices only")
    assert first[0].endswith("mww-ha serve")
    clip = audio.add_clip(
        project.root, toy_wake.whistle(np.random.default_rng(1)), label=Label.WAKE, origin=Origin.RECORDED
    )
    project.catalogue.add_clips([clip])
    heading, *then = pipeline._advise(project)
    assert heading == "What would help, in this order:"
    assert then == first[2:]


def test_the_end_of_a_quickstart_names_the_device_and_the_board_that_it_was_made_for() -> None:
    told = ended(board="atom-echo-s3r").text()
    assert "mww-ha devices add hall --template atom-echo-s3r   (others: mww-ha devices templates)" in told
    assert "mww-ha flash --device hall --serial /dev/ttyACM0" in told
    own = ended(board="own", substitutions={"mic_id": "my mic"}).text()
    assert "mww-ha devices add hall --template own --substitute 'mic_id=my mic'" in own
    assert "mww-ha render --device hall " in own
    assert "mww-ha flash" not in own


def test_quickstart_does_not_drop_what_the_existing_project_has_not(prepared: Project) -> None:
    before = times_of(prepared.root)
    with pytest.raises(ProjectError, match="effort quick, and best"):
        pipeline.quickstart(prepared.root, "hey kitchen", effort="best")
    with pytest.raises(ProjectError, match="language en, and de"):
        pipeline.quickstart(prepared.root, "hey kitchen", language="de")
    assert times_of(prepared.root) == before


SMALL = {
    "synthesize.engines": "[espeak]",
    "synthesize.wake_clips": "300",
    "synthesize.confusable_clips": "150",
    "synthesize.confusable_phrases": "40",
    "synthesize.speech_hours": "0.15",
    "prepare.wake_hours": "0.3",
    "prepare.confusable_hours": "0.12",
    "prepare.speech_hours": "0.2",
    "prepare.noise_hours": "0.06",
    "prepare.ambient_hours": "0.1",
    "prepare.trial_wakes": "20",
    "train.steps": "400",
    "train.batch": "64",
    "train.mine_every": "150",
}
"""A quickstart of a minute on two cores, which still learns to hear unknown voices."""


@pytest.mark.slow
def test_quickstart_goes_from_a_phrase_to_a_model_that_wakes_and_yaml_that_esphome_takes(tmp_path: Path) -> None:
    root = tmp_path / "kitchen"
    summary = pipeline.quickstart(root, "hey kitchen", overrides=SMALL, name="kitchen")

    manifest = detector.load_manifest(Path(summary.manifest))
    assert manifest.wake_word == "hey kitchen"
    assert 0 < manifest.probability_cutoff < 1
    model_path = Path(summary.manifest).with_suffix(".tflite")
    assert model_path.stat().st_size < 65_000
    assert summary.model == model_path.stem
    about = json.loads(Path(summary.manifest).with_suffix(".about.json").read_text())
    assert {check["outcome"] for check in about["checks"]} <= {"passed", "skipped"}
    assert about["vouched_for"] is not any(check["outcome"] == "skipped" for check in about["checks"])

    page = Path(summary.report).read_text()
    assert page.startswith("<!doctype html>") or page.lower().startswith("<!doctype html")
    assert "hey kitchen" in page
    judged = json.loads(Path(summary.report).with_suffix(".json").read_text())
    assert {level["name"] for level in judged["levels"]} == {"low", "medium", "high"}

    yaml = Path(summary.yaml).read_text()
    assert model_path.stem in yaml
    assert summary.yaml_checked is (esphome.find_esphome() is not None)

    text = summary.text()
    for said in ("voices that training never heard", "it is a start", "record your family", "minutes", "MB"):
        assert said in text
    assert any("'hey kitchen" in line for line in summary.trial)
    assert all(line.startswith(("woke", "slept")) for line in summary.trial)
    assert len(summary.trial) >= 2

    # Its own words are not taken for it: unknown voices are heard here once more, through the detector alone.
    project = open_project(root, SMALL)
    known = project.catalogue.stage("prepare")
    assert known is not None
    sides = read_index(root / known[1]["path"])["sides"]
    streaming = detector.load_model(manifest)
    room = (np.random.default_rng(1).standard_normal(5 * 16_000) * 20).astype(np.int16)
    woke = []
    for clip in [c for c in project.catalogue.clips(Label.WAKE) if sides[c.id] == "test"][:20]:
        sound = np.concatenate([room, audio.read_samples(root / clip.path), room[:16_000]])
        streaming.reset()
        scores = streaming.scores(frontend.quantize_features(frontend.features(sound)))
        woke.append(bool(detector.detect(scores, cutoff=manifest.cutoff, window=manifest.sliding_window)))
    assert np.mean(woke) > 0.4
    streaming.reset()
    quiet = streaming.scores(frontend.quantize_features(frontend.features(np.tile(room, 4))))
    assert detector.detect(quiet, cutoff=manifest.cutoff, window=manifest.sliding_window) == []
    project.catalogue.close()

    # Once more: everything is up to date; only the YAML is checked again.
    before = times_of(root)
    again = pipeline.quickstart(root, "hey kitchen", overrides=SMALL, name="kitchen")
    assert again.model == summary.model
    after = times_of(root)
    assert {path: at for path, at in after.items() if not path.startswith("esphome/")} == {
        path: at for path, at in before.items() if not path.startswith("esphome/")
    }
    assert again.duration_s < 0.5 * summary.duration_s
