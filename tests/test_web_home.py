"""What is told first follows from the project alone: the wake words, how they do, and the one thing to do next."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from lived_in import Household, make_household
from test_web import (
    Site,
    _nothing_blocks_the_loop,  # noqa: F401  here too
    opened_site,
)

from mww_ha.devices.known import add_device
from mww_ha.schema import Clip, Device, Exposure, Flash, Label, Origin, Person, Session
from mww_ha.store import Project, change_settings, open_project
from mww_ha.train.install import TrainingState
from mww_ha.web.home import LEAST_FREE_BYTES, Home, look_at_home, slug_of_name
from mww_ha.web.jobs import Job

HERE = TrainingState(state="built_in")
MISSING = TrainingState(state="missing", download_mb=700.0)
NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
MODEL, NEXT = "hey_kitchen-4567cdef", "hey_kitchen-0123abcd"  # of two of one second the smaller is the newer
URL = "http://192.168.1.5:8098/api/captures"


@pytest.fixture(scope="module")
def household(tmp_path_factory: pytest.TempPathFactory) -> Household:
    """Only to be read."""
    return make_household(tmp_path_factory.mktemp("home") / "home", tmp_path_factory.getbasetemp(), waiting=5)


def look(project: Project, **options: Any) -> Home:
    return look_at_home(project, **{"at": NOW, "training": HERE, "free_bytes": 10**11, **options})


def kinds(project: Project, **options: Any) -> list[str]:
    return [step.kind for step in look(project, **options).steps]


def add_model(project: Project, id: str = MODEL, *, run: str = "r1", effort: str = "good", **more: Any) -> None:
    project.catalogue.put_run(run, "2026-11-01T00:00:00+00:00", {
        "id": run, "started_at": "2026-11-01T00:00:00+00:00", "config": {"effort": effort}, "data": {},
    })  # fmt: skip
    slug = slug_of_name(id)
    project.catalogue.put_model(id, {"id": id, "slug": slug, "phrase": slug.replace("_", " "), "run": run, **more})


def add_takes(project: Project, person: str, takes: int, *, at: str = "2026-10-01T00:00:00+00:00") -> None:
    session = Session(
        id=f"s-{person}-{at}", sitting=f"t-{person}", person=person, device="browser", audio_path="browser", place="",
        started_at=at, wanted=takes, taken=takes,
    )  # fmt: skip
    project.catalogue.put_session(session)
    project.catalogue.put_person(Person(name=person, consented_at=at, noted_by=person, purpose="wake word"))
    project.catalogue.add_clips(
        Clip(
            id=f"{person}{at}{n}", path=f"audio/{person}{n}", sha256=f"{n}", label=Label.WAKE, origin=Origin.RECORDED,
            duration_s=1.0, speaker=person, session=session.id,
        )
        for n in range(takes)
    )  # fmt: skip


def flash(project: Project, device: str, model: str, outcome: str, at: int, message: str = "") -> None:
    project.catalogue.put_flash(
        Flash(id=f"{device}{at}", device=device, model=model, wake_model="", backend="esphome", outcome=outcome,
              started_at=f"2026-11-{at:02d}T00:00:00+00:00", message=message)
    )  # fmt: skip


def job(kind: str, state: str, **more: Any) -> Job:
    values = {field.name: "" for field in dataclasses.fields(Job)}
    values |= {"kind": kind, "state": state, "id": "0123456789ab", "order": {"kind": kind}, "progress": None}
    return Job(**{**values, **more})


# --- what to do next -------------------------------------------------------------------------------------------------


def test_a_new_project_has_one_thing_to_do(project: Project):
    home = look(project)
    assert [step.kind for step in home.steps] == ["make_model"]
    assert [(word.phrase, word.model, word.is_current) for word in home.words] == [("hey kitchen", "", True)]
    for training, job_kind in (
        (MISSING, "install_training"),
        (dataclasses.replace(MISSING, obstacle="2 GB are free"), ""),
        (TrainingState(state="impossible"), ""),
    ):
        (step,) = look(project, training=training).steps
        assert (step.kind, step.job_kind, step.message) == ("install_training", job_kind, training.obstacle)
    assert kinds(project, free_bytes=LEAST_FREE_BYTES - 1) == ["disk_low", "make_model"]


def test_a_household_that_trained_is_asked_to_renew_what_an_update_made_useless(project: Project):
    add_model(project)
    assert "install_training" not in kinds(project, training=MISSING), "another computer may train for it"
    outdated = dataclasses.replace(MISSING, state="outdated")
    assert kinds(project, training=outdated)[0] == "install_training"
    assert "install_training" not in kinds(project, training=outdated, jobs=[job("run", "running")])


def test_while_a_model_is_on_its_way_nobody_is_asked_to_begin_one(project: Project):
    assert kinds(project, jobs=[job("run", "running")]) == []
    assert kinds(project, jobs=[job("train", "queued")]) == []
    assert kinds(project, jobs=[job("flash", "running")]) == ["make_model"]


@pytest.mark.parametrize(("state", "kind"), [("interrupted", "resume"), ("failed", "failed")])
def test_what_stopped_half_way_is_offered_again(project: Project, state: str, kind: str):
    stopped = job("run", state, message="no space left", hint="free some")
    step = look(project, jobs=[job("flash", "failed"), stopped]).steps[0]
    assert (step.kind, step.job, step.job_kind) == (kind, stopped.id, "run")
    assert (step.message, step.hint) == (("no space left", "free some") if state == "failed" else ("", ""))
    assert kinds(project, jobs=[job("run", "done"), stopped]) == ["make_model"], "something newer went well"


def test_a_model_wants_a_device_and_people(project: Project):
    add_model(project)
    home = look(project)
    assert [(s.kind, s.number) for s in home.steps] == [("add_device", 0), ("record_people", 3)]
    add_takes(project, "Anna", 8)
    add_takes(project, "Ben", 6)
    add_takes(project, "Jürgen", 3)
    home = look(project)
    assert [(s.kind, s.person, s.number) for s in home.steps] == [("add_device", "", 0), ("record_takes", "Jürgen", 3)]
    assert home.people == 3


def test_takes_that_are_newer_than_the_model_are_worth_another_one(project: Project):
    add_model(project)
    add_takes(project, "Anna", 8)
    assert "train_again" not in kinds(project)
    add_takes(project, "Zoe", 7, at="2026-11-20T00:00:00+00:00")
    step = next(step for step in look(project).steps if step.kind == "train_again")
    assert step.number == 7
    assert "train_again" not in kinds(project, jobs=[job("run", "running")])
    assert "train_again" not in kinds(project, training=MISSING)


def test_a_device_gets_the_newest_model_unless_it_was_taken_back_from_it(project: Project):
    add_model(project)
    add_device(project, Device(name="kitchen", template="generic-s3", capture_url=URL))

    def steps() -> list[tuple[str, str, str]]:
        return [(s.kind, s.device, s.model) for s in look(project).steps if s.device]

    assert steps() == [("flash", "kitchen", MODEL)], "the first time"
    flash(project, "kitchen", MODEL, "verified", 2)
    assert steps() == []
    add_model(project, NEXT, run="r2")
    assert steps() == [("flash", "kitchen", NEXT)]
    assert [s.kind for s in look(project, jobs=[job("flash", "queued", order={"device": "kitchen"})]).steps] == [
        "record_people"
    ]
    assert "flash" not in kinds(project, jobs=[job("flash", "running", order={"every": True})])
    flash(project, "kitchen", NEXT, "verified", 3)
    flash(project, "kitchen", MODEL, "verified", 4)
    assert steps() == [], "rolled back: not again by itself"
    add_model(project, "hey_kitchen-89abcdef", run="r3", offered=False)
    assert steps() == [], "what is worse is not offered"


def test_a_flash_that_failed_is_told_with_its_reason_and_comes_before_others(project: Project):
    add_model(project)
    for name in ("bath", "hall", "kitchen"):
        add_device(project, Device(name=name, template="generic-s3", capture_url=URL))
    flash(project, "kitchen", MODEL, "failed", 2, "the password is wrong")
    flash(project, "hall", MODEL, "handed over", 2)
    found = [(s.kind, s.device, s.message) for s in look(project).steps if s.device]
    assert found == [
        ("flash_failed", "kitchen", "the password is wrong"),
        ("confirm", "hall", ""),
        ("flash", "bath", ""),
    ]
    flash(project, "kitchen", MODEL, "verified", 3)
    assert "flash_failed" not in kinds(project)


def test_a_device_that_hands_nothing_back_is_named_once_it_runs_a_model(project: Project):
    add_model(project)
    add_device(project, Device(name="kitchen", template="generic-s3"))
    assert "turn_on_captures" not in kinds(project)
    flash(project, "kitchen", MODEL, "verified", 2)
    assert "turn_on_captures" in kinds(project)


def test_a_broken_devices_file_is_told_and_hides_nothing_else(project: Project):
    add_model(project)
    project.devices_path.write_text("kitchen: {templ: generic-s3}\n")
    step = look(project).steps[0]
    assert (step.kind, "templ" in step.message, "template" in step.hint) == ("devices_broken", True, True)
    assert "record_people" in kinds(project)
    assert "add_device" not in kinds(project)


def test_what_would_make_the_next_model_better_comes_last(project: Project):
    add_model(project, effort="quick")
    project.catalogue.finish_stage("synthesize", "x", {"voices": {"espeak": 900}})
    steps = look(project).steps
    assert [s.kind for s in steps[-2:]] == ["download_voice", "more_effort"]
    assert steps[-2].voice == "en_US-libritts_r-medium"
    assert "download_voice" not in kinds(project, jobs=[job("download_voice", "running")])
    project.catalogue.finish_stage("synthesize", "x", {"voices": {"espeak": 900, "piper": 900}})
    assert "download_voice" not in kinds(project)


def test_captures_wait_for_a_verdict_and_verdicts_for_a_training(household: Household):
    project = open_project(household.root)
    found = {step.kind: step for step in look(project).steps}
    assert found["review"].number == 5
    assert (found["learn"].number, "the last training was 330 days ago" in found["learn"].message) == (12, True)
    change_settings(project.root, {"retrain.every_days": 1000})
    assert "learn" not in kinds(open_project(household.root)), "twelve verdicts are not twenty"
    assert [(s.kind, s.device) for s in look(project).steps][:2] == [("flash_failed", "bath"), ("review", "")]
    change_settings(project.root, {"retrain.verdicts": 10})
    found = {step.kind: step for step in look(open_project(household.root)).steps}
    assert (found["learn"].number, "are enough" in found["learn"].message) == (12, True)
    change_settings(project.root, {"retrain.verdicts": None, "retrain.every_days": None})
    assert found["train_again"].number == 11, "Anna's and Jürgen's, who spoke after it was trained"
    project.catalogue.close()


# --- the wake words --------------------------------------------------------------------------------------------------


def test_a_wake_word_is_told_with_its_rate_its_report_and_where_it_runs(household: Household):
    project = open_project(household.root)
    (word,) = look(project).words
    assert (word.phrase, word.model, word.models) == ("a rising whistle", household.model, 1)
    assert [(d.name, d.friendly_name, d.is_newest) for d in word.devices] == [
        ("kitchen", "Küche", True),
        ("living-room", "", True),
    ]
    assert word.rate is not None
    assert round(word.rate.hours) == round(19 * 15.5)
    assert word.rate.text.startswith(f"{word.rate.false_accepts} in 294 h: ")
    assert sum(d.rate.false_accepts for d in word.devices if d.rate) == word.rate.false_accepts
    assert word.report is not None
    assert (word.report.recall.exposure, word.report.sound) == (24, "synthetic ambient")
    project.catalogue.close()


def test_the_old_word_and_the_words_of_others_are_wake_words_too(project: Project):
    add_model(project)
    add_device(project, Device(name="kitchen", template="generic-s3", also=("models/hey_hall-1a2b3c4d.json",)))
    add_device(project, Device(name="bath", template="generic-s3", also=("okay_nabu.json",)))
    flash(project, "kitchen", MODEL, "verified", 2)
    change_settings(project.root, {"phrase": "hello house"})
    changed = open_project(project.root)
    home = look(changed)
    assert [(w.slug, w.phrase, w.is_current, bool(w.model)) for w in home.words] == [
        ("hello_house", "hello house", True, False),
        ("hey_kitchen", "hey kitchen", False, True),
        ("hey_hall", "hey hall", False, False),
        ("okay_nabu", "okay nabu", False, False),
    ]
    by_slug = {word.slug: word for word in home.words}
    assert [device.name for device in by_slug["hey_kitchen"].devices] == ["kitchen"]
    assert by_slug["hey_hall"].also_on == ["kitchen"]
    assert [step.kind for step in home.steps] == ["make_model"], "the new word has no model yet"
    changed.catalogue.close()


def test_the_rate_is_that_of_the_model_that_runs(project: Project):
    add_model(project)
    add_model(project, NEXT, run="r2")
    add_device(project, Device(name="kitchen", template="generic-s3", capture_url=URL))
    flash(project, "kitchen", MODEL, "verified", 2)
    for model, hours in ((MODEL, 50), (NEXT, 3)):
        project.catalogue.add_exposure(
            Exposure(device="kitchen", model=model, day="2026-11-20", listening_s=3600 * hours, lost=0)
        )
    (word,) = look(project).words
    assert (word.model, word.rate.model, word.rate.hours) == (NEXT, MODEL, 50)
    assert [(d.model, d.is_newest) for d in word.devices] == [(MODEL, False)]


def test_a_damaged_report_is_as_good_as_none(project: Project):
    add_model(project)
    project.reports_dir.mkdir()
    for text in ("", "{}", '{"levels": [{"name": "medium", "rates": [{"x": 1}], "recall": null}]}'):
        (project.reports_dir / "r1.json").write_text(text)
        assert look(project).words[0].report is None


# --- as it is asked for ----------------------------------------------------------------------------------------------


@pytest.fixture
async def site(project: Project) -> AsyncIterator[Site]:
    async with opened_site(project.root) as made:
        yield made


async def test_the_page_is_told_and_what_stopped_can_be_run_again_from_it(site: Site):
    assert [step["kind"] for step in (await site.get("/api/home"))["steps"]] == ["make_model"]
    asked = await site.order("train")
    await site.wait(asked["id"], "running")
    assert (await site.get("/api/home"))["steps"] == []
    await site.ask("POST", f"/api/jobs/{asked['id']}/cancel")
    assert (await site.wait(asked["id"]))["state"] == "cancelled"
    assert [step["kind"] for step in (await site.get("/api/home"))["steps"]] == ["make_model"]


async def test_a_household_is_told_in_one_answer(household: Household):
    async with opened_site(household.root, new_token=True) as site:
        told = await site.get("/api/home")
        assert (told["models"], told["devices"], told["people"]) == (1, 3, 8), "with the six whom the toy was made of"
        assert told["words"][0]["rate"]["per_hour"]["unit"] == "per hour"
