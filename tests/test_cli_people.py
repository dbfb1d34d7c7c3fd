"""Nobody is recorded who did not agree, everybody can be forgotten, and a new model needs verdicts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import toy_wake
from test_cli import Answer, Ask, ask  # noqa: F401  a fixture
from test_record_sessions import add_learned

from mww_ha import audio
from mww_ha.schema import Label, Origin
from mww_ha.store import Project


@pytest.fixture
def go(ask: Ask, project: Project) -> Ask:  # noqa: F811
    """A command line in that project."""

    def run(*arguments: str) -> Answer:
        return ask(*arguments, "--project", str(project.root))

    return run


def test_nobody_is_recorded_who_did_not_agree(go: Ask, project: Project):
    where = ["--address", "127.0.0.1", "--port", "1", "--api-key", ""]
    captures = ["--capture-url", "http://127.0.0.1:1/api/captures"]
    go("devices", "add", "kitchen", "--template", "generic-s3", *where, *captures)
    refused = go("record", "--device", "kitchen", "--person", "anna")
    assert (refused.code, refused.out) == (2, "")
    assert "anna has not agreed to be recorded" in refused.err
    assert "--agrees" in refused.err
    assert project.catalogue.people() == []
    silent = go("record", "--device", "kitchen", "--person", "Anna ", "--agrees")
    assert silent.code == 9  # she agreed, and the device is away
    assert [person.name for person in project.catalogue.people()] == ["Anna"]
    assert "Anna" in go("people").out


def test_a_consent_is_noted_by_itself(go: Ask, project: Project):
    told = go("people", "agree", " anna ", "--may-share")
    assert told.out.startswith("anna agreed on 20")
    [anna] = project.catalogue.people()
    assert (anna.name, anna.may_share) == ("anna", True)
    assert go("people", "agree", "piper:en:3").code == 2
    assert go("people", "agree", "Anna").code == 0, "said again it replaces what was noted"
    assert [person.may_share for person in project.catalogue.people()] == [False]


def test_an_import_reminds_of_the_consent_and_names_doubtful_takes(go: Ask, project: Project):
    folder = project.root.parent / "takes"
    folder.mkdir()
    for number in range(22):  # half a second of noise is no "hey kitchen"
        noise = np.random.default_rng(number).normal(0, 0.1, 8000)
        soundfile.write(folder / f"{number:02d}.wav", noise, 16_000)
    lines = go("import", str(folder), "--label", "wake", "--speaker", "anna").out.splitlines()
    assert lines[0].startswith("22 clips added")
    assert sum(line.startswith("doubtful, but taken: ") for line in lines) == 20
    assert "... and 2 more" in lines
    assert "nobody noted that anna agreed to be recorded; if so: mww-ha people agree 'anna'" in lines
    assert lines[-1].endswith("mww-ha clips delete ID")
    go("people", "agree", "anna")
    assert "agreed" not in go("import", str(folder), "--label", "wake", "--speaker", "anna").out


def test_everybody_who_is_imported_is_reminded_of_and_listed(go: Ask, project: Project):
    folder = project.root.parent / "voices"
    for number, name in enumerate(("anna", "Ben", "carl")):
        (folder / name).mkdir(parents=True)
        soundfile.write(folder / name / "1.wav", toy_wake.whistle(np.random.default_rng(number)), 16_000)
    go("people", "agree", "Carl")
    reminder = "nobody noted that {0} agreed to be recorded; if so: mww-ha people agree '{0}'"
    for label in ("wake", "speech"):
        told = go("import", str(folder), "--label", label, "--speaker", "@folder").out.splitlines()
        assert [line for line in told if "agreed" in line] == [reminder.format("anna"), reminder.format("Ben")]
    table = folder / "table.tsv"
    table.write_text("path\tlabel\tspeaker\nanna/1.wav\twake\tanna\ncarl/1.wav\twake\tpiper:de:3\n")
    told = go("import", "--manifest", str(table)).out.splitlines()
    assert [line for line in told if "agreed" in line] == [reminder.format("anna")]
    rows = [line.split() for line in go("people").out.splitlines()]
    assert [(row[0], row[-1]) for row in rows[1:-1]] == [("Carl", "2"), ("anna", "2"), ("Ben", "2")]
    assert [" ".join(row[1:3]) == "not noted" for row in rows[1:-1]] == [False, True, True]
    assert "mww-ha people agree NAME" in " ".join(rows[-1])
    listed = json.loads(go("people", "--json").out)["result"]
    assert [(person["name"], bool(person["consented_at"])) for person in listed] == [
        ("Carl", True),
        ("anna", False),
        ("Ben", False),
    ]
    many = project.root.parent / "many"
    for number in range(25):
        (many / f"n{number:02d}").mkdir(parents=True)
        sound = toy_wake.whistle(np.random.default_rng(100 + number))
        soundfile.write(many / f"n{number:02d}" / "1.wav", sound, 16_000)
    told = go("import", str(many), "--label", "wake", "--speaker", "@folder").out
    assert "... and of 5 more; see: mww-ha people" in told


def test_an_import_says_what_it_completed_and_what_it_left_as_it_was(go: Ask, project: Project):
    path = project.root.parent / "x.wav"
    soundfile.write(path, toy_wake.whistle(np.random.default_rng(1)), 16_000)
    go("import", str(path), "--label", "wake")
    second = go("import", str(path), "--label", "wake", "--speaker", "anna", "--licence", "CC0")
    assert second.out.splitlines()[:2] == [
        "0 clips added (0.0 min), 1 known before",
        "1 of the known completed by what is said of them now",
    ]
    third = go("import", str(path), "--label", "wake", "--speaker", "ben")
    assert f"{path}: known, but with speaker 'anna': not changed to 'ben'" in third.out
    assert go("people", "forget", "anna").out.startswith("1 sound files, 1 clips, ")
    go("import", str(path), "--label", "wake")
    assert f"warning: {path}: the same sound is here as wake too" in go("import", str(path), "--label", "speech").out


def test_somebody_is_forgotten_with_every_clip(go: Ask, project: Project):
    clip = audio.add_clip(
        project.root,
        toy_wake.whistle(np.random.default_rng(1)),
        label=Label.WAKE,
        origin=Origin.RECORDED,
        speaker="anna",
    )
    project.catalogue.add_clips([clip])
    assert (project.root / clip.path).is_file()
    add_learned(project, "r1", {clip.id: "train"}, ["anna"])
    told = go("people", "forget", "Anna")
    assert "heard them, and marked: m-r1\nnext: mww-ha run" in told.out
    assert told.code == 0
    assert told.out.startswith("1 sound files, 1 clips, 0 captures deleted")
    assert not (project.root / clip.path).exists()
    assert project.catalogue.clips() == []
    assert go("people", "forget", "anna").code == 2


def test_recordings_are_listed_and_deleted_one_by_one(go: Ask, project: Project):
    for number, (name, label) in enumerate((("anna", Label.WAKE), ("ben", Label.WAKE), ("", Label.NOISE))):
        sound = toy_wake.whistle(np.random.default_rng(number))
        clip = audio.add_clip(project.root, sound, label=label, origin=Origin.RECORDED, speaker=name, source="a file")
        project.catalogue.add_clips([clip])
    assert len(go("clips").out.splitlines()) == 4
    assert go("clips", "--limit", "2").out.endswith("... and 1 more\n")
    [row] = go("clips", "--speaker", "Anna", "--label", "wake").out.splitlines()[1:]
    id = row.split()[0]
    assert go("clips", "delete", id, "f" * 16).code == 2
    assert len(project.catalogue.clips()) == 3, "all or none"
    assert go("clips", "delete", id).out.startswith("1 sound files, 1 clips, 0 captures deleted")
    assert {clip.speaker for clip in project.catalogue.clips()} == {"ben", ""}
    assert not (project.root / row.split()[-1]).exists()


def test_home_assistant_is_asked_only_where_it_is_known(go: Ask):
    refused = go("record", "--device", "kitchen", "--person", "anna", "--agrees", "--via", "home-assistant")
    assert refused.code == 2
    assert "home_assistant.url" in refused.err


def test_without_a_model_nothing_is_trained_again(go: Ask):
    refused = go("retrain", "--json")
    assert refused.code == 3
    assert json.loads(refused.out.splitlines()[-1])["type"] == "error"
    assert "mww-ha run" in refused.err
