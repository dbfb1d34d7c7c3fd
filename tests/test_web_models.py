"""What the page says of models and trainings is what was measured, and what they were made of is what it was."""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from blockbuster import blockbuster_ctx
from click.testing import CliRunner
from lived_in import Household, make_household
from test_web import Site, opened_site
from toy_run import FEATURE_SET, RUN, open_run

from mww_ha import audio, detector, metrics, retrain
from mww_ha.cli import cli
from mww_ha.evaluate import pair_events
from mww_ha.prepare import again
from mww_ha.record.people import delete_clips
from mww_ha.schema import Label, Origin
from mww_ha.store import Project, now, write_json
from mww_ha.web import learning, models


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> Iterator[None]:
    with blockbuster_ctx("mww_ha.web"):
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Household:
    """Only to be read: ``home`` is a copy."""
    return make_household(tmp_path_factory.mktemp("models") / "home", tmp_path_factory.getbasetemp(), waiting=1)


@pytest.fixture
def home(made: Household, tmp_path: Path) -> Household:
    shutil.copytree(made.root, tmp_path / "home")
    return dataclasses.replace(made, root=tmp_path / "home")


@pytest.fixture
async def site(home: Household) -> AsyncIterator[Site]:
    async with opened_site(home.root) as made:
        yield made


@pytest.fixture
def household(home: Household) -> Iterator[Project]:
    made = open_run(home.root)
    yield made
    made.catalogue.close()


def report_of(project: Project) -> dict[str, Any]:
    return dict(json.loads((project.reports_dir / f"{RUN}.json").read_text()))


def add_to_report(project: Project, run: str, **entry: Any) -> None:
    path = project.reports_dir / f"{run}.json"
    document = json.loads(path.read_text()) if path.exists() else {}
    write_json(path, document | {"false_accepts": [*document.get("false_accepts", []), entry]})


async def sound(site: Site, path: str, status: int = 200, **headers: str) -> tuple[bytes, Any]:
    async with site.session.get(f"{site.base}/{path}", headers={**site.owner, **headers}) as answer:
        content = await answer.read()
        assert answer.status == status, content[:300]
        return content, answer.headers


# --- what a model can ------------------------------------------------------------------------------------------------


async def test_the_list_says_what_each_model_can_and_where_it_runs(home: Household, site: Site, household: Project):
    (entry,) = await site.get("/api/models/list")
    medium = next(level for level in report_of(household)["levels"] if level["name"] == "medium")
    assert entry["level"] == medium
    assert (entry["id"], entry["run"], entry["newest"], entry["offered"]) == (home.model, RUN, True, True)
    assert sorted(entry["devices"]) == ["kitchen", "living-room"]
    note = {"offered": False, "compared_with": "x", "comparison": {"outcome": "worse", "reason": "Worse in recall."}}
    document = next(one for one in household.catalogue.models())
    household.catalogue.put_model(home.model, document | note)
    (entry,) = await site.get("/api/models/list")
    assert (entry["offered"], entry["newest"], entry["outcome"]) == (False, False, "worse")
    assert entry["reason"] == "Worse in recall."


async def test_every_cutoff_has_the_interval_that_metrics_gives(home: Household, site: Site, household: Project):
    page = await site.get(f"/api/models/{home.model}/page")
    report = report_of(household)
    assert [curve["kind"] for curve in page["report"]["curves"]] == [curve["kind"] for curve in report["curves"]]
    for shown, known in zip(page["report"]["curves"], report["curves"], strict=True):
        for place, (cutoff, hits, events) in enumerate(
            zip(known["cutoffs"], known["hits"], known["false_accepts"], strict=True)
        ):
            recall = metrics.share_interval(hits, known["trials"])
            rate = metrics.rate_interval(events, known["hours"])
            assert (shown["hits"][place], shown["false_accepts"][place]) == (hits, events)
            assert (shown["recall_low"][place], shown["recall_high"][place]) == (recall.low, recall.high)
            assert (shown["rate_low"][place], shown["rate_high"][place]) == (rate.low, rate.high)
            assert cutoff == 255 or detector.cutoff_of_probability(shown["probabilities"][place]) == cutoff
        best = shown["best"]
        for name in ("hits", "false_accepts"):
            assert all(shown[name][one] < shown[name][two] for one, two in itertools.pairwise(best)), name
    assert page["report"]["levels"] == report["levels"]
    assert {check["outcome"] for check in page["checks"]} <= {"passed", "skipped"}


async def test_a_model_without_its_report_or_its_notes_is_listed_all_the_same(site: Site, household: Project):
    household.catalogue.put_model("hey_hall-0123abcd", {"id": "hey_hall-0123abcd", "run": "gone", "phrase": "hey hall"})
    (household.reports_dir / f"{RUN}.json").write_text("{broken")
    entries = await site.get("/api/models/list")
    assert [(entry["level"], entry["report"]) for entry in entries] == [(None, False), (None, False)]
    page = await site.get("/api/models/hey_hall-0123abcd/page")
    assert (page["report"], page["origins"]["run"], page["origins"]["groups"]) == (None, None, [])
    assert (await site.get("/api/models/hey_hall-0123abcd/mistakes")) == {"misses": [], "false_accepts": []}
    assert (await site.ask("GET", "/api/models/hey_bath-0123abcd/page"))[0] == 404


async def test_the_yaml_sets_the_cutoff_that_was_asked_for(home: Household, site: Site):
    for cutoff in (1, 71, 254):
        told = await site.get(f"/api/models/{home.model}/yaml?cutoff={cutoff}")
        (model,) = yaml.safe_load(told["text"])["micro_wake_word"]["models"]
        assert model["model"] == f"{home.model}.json"
        assert detector.cutoff_of_probability(model["probability_cutoff"]) == cutoff
        assert told["line"] in told["text"]
    assert (await site.ask("GET", f"/api/models/{home.model}/yaml?cutoff=255"))[0] == 422


# --- what it missed, what woke it ------------------------------------------------------------------------------------


async def test_a_miss_is_heard_as_its_clip_and_a_deleted_clip_says_so(home: Household, site: Site, household: Project):
    path = f"/api/models/{home.model}/mistakes"
    (miss,) = (await site.get(path))["misses"]
    clip = next(clip for clip in household.catalogue.clips() if clip.id == miss["clip"])
    whole, headers = await sound(site, miss["sound"])
    assert whole == (household.root / clip.path).read_bytes()
    assert headers["Content-Type"] == "audio/flac"
    part, headers = await sound(site, miss["sound"], 206, Range="bytes=10-19")
    assert (part, headers["Content-Range"]) == (whole[10:20], f"bytes 10-19/{len(whole)}")
    (household.root / clip.path).unlink()
    (miss,) = (await site.get(path))["misses"]
    assert miss["sound"] == ""
    await sound(site, f"api/clips/{clip.id}/sound", 404)
    household.catalogue.remove_clips([clip.id])
    (miss,) = (await site.get(path))["misses"]
    assert (miss["sound"], miss["text"], miss["origin"]) == ("", "", "")
    await sound(site, f"api/clips/{clip.id}/sound", 404)


async def test_a_false_accept_in_a_recording_is_cut_from_what_was_heard_of_it(
    home: Household, site: Site, household: Project
):
    clip = next(clip for clip in household.catalogue.clips(Label.NOISE))
    number = len(report_of(household)["false_accepts"])
    add_to_report(household, RUN, kind="real ambient", name=clip.id, time_s=5.0, score=0.5)
    found = (await site.get(f"/api/models/{home.model}/mistakes"))["false_accepts"][number]
    assert (found["why"], found["words"]) == ("", [])
    await sound(site, found["sound"])
    (piece,) = (household.features_dir / FEATURE_SET / models.HEARD_FOLDER).iterdir()
    heard = audio.read_samples(household.root / clip.path)
    assert np.array_equal(audio.read_samples(piece), heard[2 * 16000 : 6 * 16000])
    await sound(site, f"api/models/{home.model}/false-accepts/99/sound", 404)


async def test_a_false_accept_in_a_scene_that_cannot_be_made_again_says_why(home: Household, site: Site):
    found = (await site.get(f"/api/models/{home.model}/mistakes"))["false_accepts"][0]
    assert found["sound"] == ""
    assert "another version" in found["why"], "the toy's shards have no keys"
    status, told, _ = await site.ask("GET", f"/api/models/{home.model}/false-accepts/0/sound")
    assert (status, told["message"]) == (409, found["why"])


async def test_a_false_accept_in_a_scene_is_the_very_sound_that_was_heard(prepared: Project):
    known = prepared.catalogue.stage("prepare")
    assert known is not None
    feature_set = str(known[1]["id"])
    run = {
        "id": "r1", "feature_set": feature_set, "started_at": now(), "outcome": "done",
        "config": json.loads(json.dumps(dataclasses.asdict(prepared.settings))),
    }  # fmt: skip
    prepared.catalogue.put_run("r1", now(), run)
    prepared.catalogue.put_model("hey_kitchen-0123abcd", {"id": "hey_kitchen-0123abcd", "run": "r1"})
    times = (20.0, 41.5)
    for time_s in times:
        add_to_report(prepared, "r1", kind="synthetic ambient", name="test-ambient-000/0", time_s=time_s, score=0.5)
    scene = again.render_scenes(prepared, feature_set, "test-ambient-000", [0])[0]
    async with opened_site(prepared.root) as site:
        accepts = (await site.get("/api/models/hey_kitchen-0123abcd/mistakes"))["false_accepts"]
        assert any(accept["words"] for accept in accepts)
        for accept in accepts:
            for word in accept["words"]:
                assert (word["start_s"] < models.AFTER_S, word["end_s"] > -models.BEFORE_S) == (True, True)
                await sound(site, word["sound"])
        await sound(site, accepts[1]["sound"])
        folder = prepared.features_dir / feature_set / models.HEARD_FOLDER
        for time_s in times:  # both were made in one go
            piece = audio.read_samples(folder / f"test-ambient-000-0-{round(1000 * time_s)}.flac")
            start = round((time_s - models.BEFORE_S) * 16000)
            assert np.array_equal(piece, scene[start : start + 4 * 16000])
        _, headers = await sound(site, accepts[0]["sound"], 206, Range="bytes=0-99")
        assert headers["Content-Range"].startswith("bytes 0-99/")
        # Settings of today are not those of then; the run's own are used.
        document = yaml.safe_load((prepared.root / "project.yaml").read_text())
        (prepared.root / "project.yaml").write_text(yaml.safe_dump({**document, "augment": {"run_on_share": 0.9}}))
        for piece_path in folder.iterdir():
            piece_path.unlink()
        await sound(site, accepts[0]["sound"])


# --- what it was made of ---------------------------------------------------------------------------------------------


async def test_the_origins_list_exactly_the_clips_of_the_feature_set(home: Household, site: Site, household: Project):
    index = json.loads((household.features_dir / FEATURE_SET / "index.json").read_text())
    origins = (await site.get(f"/api/models/{home.model}/page"))["origins"]
    assert (origins["feature_set"], origins["features_kept"], origins["gone"]) == (FEATURE_SET, True, 0)
    listed: list[str] = []
    for group in origins["groups"]:
        of_group: list[dict[str, Any]] = []
        while len(of_group) < group["clips"]:
            query = f"group={group['id']}&limit=1&offset={len(of_group)}"
            page = await site.get(f"/api/models/{home.model}/clips?{query}")
            assert page["total"] == group["clips"]
            of_group += page["clips"]
        assert {
            (one["clip"]["label"], one["clip"]["origin"], one["clip"]["speaker"], one["side"]) for one in of_group
        } == {(group["label"], group["origin"], group["source"], group["side"])}
        listed += [one["clip"]["id"] for one in of_group]
    assert sorted(listed) == sorted(index["sides"])
    everything = await site.get(f"/api/models/{home.model}/clips?limit=500")
    assert [one["clip"]["id"] for one in everything["clips"]] == sorted(index["sides"])
    assert {one["clip"]["id"]: one["side"] for one in everything["clips"]} == index["sides"]


async def test_what_was_deleted_is_marked_and_the_rest_is_still_known(home: Household, site: Site, household: Project):
    before = (await site.get(f"/api/models/{home.model}/clips?limit=500"))["clips"]
    gone = before[0]["clip"]["id"]
    delete_clips(household, [gone])
    (entry,) = await site.get("/api/models/list")
    assert [mark["clips"] for mark in entry["deleted"]] == [1]
    page = await site.get(f"/api/models/{home.model}/page")
    assert page["origins"]["features_kept"] is False
    after = (await site.get(f"/api/models/{home.model}/clips?limit=500"))["clips"]
    assert [one["clip"]["id"] for one in after] == [one["clip"]["id"] for one in before[1:]]
    status, told, _ = await site.ask("GET", f"/api/models/{home.model}/false-accepts/0/sound")
    assert (status, told["message"]) == (409, "the features of this model are gone")


# --- learning --------------------------------------------------------------------------------------------------------


async def test_the_data_is_told_by_source_and_side_and_what_is_missing(site: Site, household: Project):
    data = await site.get("/api/data")
    clips = household.catalogue.clips()
    assert sum(group["clips"] for group in data["groups"]) == len(clips) == data["undecided"]
    anna = [group for group in data["groups"] if group["source"] == "Anna"]
    assert [(group["label"], group["origin"], group["clips"], group["side"]) for group in anna] == [
        ("wake", "recorded", 8, "")
    ]
    assert data["captures"]["judged"] == data["captures"]["new"] == 12
    assert data["lacks"] == ["no_real_speech", "no_captures"]


async def test_the_sides_of_the_newest_features_are_told(prepared: Project):
    async with opened_site(prepared.root) as site:
        data = await site.get("/api/data")
    known = prepared.catalogue.stage("prepare")
    assert known is not None
    index = json.loads((prepared.root / known[1]["path"] / "index.json").read_text())
    assert data["feature_set"] == index["id"]
    assert data["undecided"] == 0
    for name, count in index["clips"].items():
        side, _, label = name.partition("/")
        own = [group["clips"] for group in data["groups"] if (group["side"], group["label"]) == (side, label)]
        assert sum(own) >= count, "what is too long for a scene has a side too"
    assert data["lacks"] == ["no_person", "no_noise", "no_real_speech", "one_engine", "no_captures"]


def group(**fields: Any) -> learning.ClipGroup:
    known = {"id": "0", "source": "", "side": "train", "clips": 1, "voices": 1, "duration_s": 1.0}
    return learning.ClipGroup(**{**known, **fields})


@pytest.mark.parametrize(
    ("groups", "lacks"),
    [
        ([], "no_wake"),
        ([group(label=Label.WAKE, origin=Origin.SYNTHESIZED, source="espeak")], "no_person"),
        ([group(label=Label.WAKE, origin=Origin.RECORDED, source="Anna")], "no_person_held_out"),
        ([group(label=Label.WAKE, origin=Origin.SYNTHESIZED, source="espeak")], "one_engine"),
    ],
)
def test_what_is_missing_is_named(groups: list[learning.ClipGroup], lacks: str):
    assert lacks in learning.find_lacks(groups)


def test_people_on_the_test_side_and_two_engines_lack_nothing_of_that():
    groups = [
        group(label=Label.WAKE, origin=Origin.RECORDED, source="Anna", side="test"),
        group(label=Label.WAKE, origin=Origin.SYNTHESIZED, source="espeak"),
        group(label=Label.WAKE, origin=Origin.SYNTHESIZED, source="piper"),
    ]
    lacks = learning.find_lacks(groups)
    assert set(lacks) == {"no_noise", "no_real_speech", "no_captures"}


async def test_an_effort_says_what_it_costs_and_what_its_hours_can_show(site: Site, household: Project):
    (household.root / "project.yaml").write_text(
        "phrase: a rising whistle\neffort: good\ntrain: {steps: 77}  # short\n", encoding="utf-8"
    )
    quick, good, best = await site.get("/api/efforts")
    assert [one["chosen"] for one in (quick, good, best)] == [False, True, False]
    assert quick["wake_clips"] < good["wake_clips"] < best["wake_clips"]
    assert {one["steps"] for one in (quick, good, best)} == {77}, "the project's own settings go before the effort"
    for one in (quick, good, best):
        assert one["least_per_hour"] == metrics.rate_upper_bound(0, one["held_out_hours"])
    assert (quick["last_training_s"], good["last_training_s"]) == (2.0, None)


async def test_the_curve_of_a_training_on_its_way_is_told_without_its_unfinished_line(site: Site, household: Project):
    place = household.runs_dir / "r2"
    place.mkdir()
    started = {"id": "r2", "started_at": "2026-12-01T00:00:00+00:00", "outcome": "running", "steps": 100}
    household.catalogue.put_run("r2", started["started_at"], started)
    curve = await site.get("/api/runs/r2/curve")
    assert (curve["step"], curve["series"], curve["candidates"]) == (0, [], [])
    row = json.dumps({"step": 20, "wake_loss": 1.5, "negative_loss": 0.5})
    (place / "log.jsonl").write_text(row + "\n" + row.replace("20", "40")[:20])
    curve = await site.get("/api/runs/r2/curve")
    assert curve["step"] == 20
    assert [(line["plot"], line["name"], line["x"], line["y"]) for line in curve["series"]] == [
        ("loss", "wake words", [20.0], [1.5]),
        ("loss", "everything else", [20.0], [0.5]),
    ]
    candidate = {
        "name": "step 80", "step": 100, "misses": 0.25, "recalls": {"quiet": 0.75}, "cutoff": 99, "per_hour": 2.0,
        "hours": 1.5,
    }  # fmt: skip
    write_json(place / "candidates.json", [candidate, candidate | {"name": "mean of 2"}])
    curve = await site.get("/api/runs/r2/curve")
    assert curve["series"][-1]["y"] == [0.25]
    assert [one["name"] for one in curve["candidates"]] == ["step 80", "mean of 2"]
    assert curve["candidates"][0]["false_accepts"] == dataclasses.asdict(metrics.rate_interval(3, 1.5))
    assert (await site.ask("GET", "/api/runs/r3/curve"))[0] == 404


async def test_two_trainings_differ_in_the_page_as_on_the_command_line(site: Site, household: Project):
    document = household.catalogue.runs()[0]
    other = document | {"id": "r2", "seed": 2, "metrics": {"misses": 0.125}}
    household.catalogue.put_run("r2", other["started_at"], other)
    told = await site.get(f"/api/runs/{RUN}/compare/r2")
    shown = CliRunner().invoke(cli, ["--project", str(household.root), "--json", "runs", "compare", RUN, "r2"])
    printed = json.loads(shown.output)
    assert {row["key"]: [row["one"], row["other"]] for row in told["differences"]} == printed.get("result", printed)
    assert {row["key"] for row in told["differences"]} == {"id", "seed", "metrics.misses"}
    assert (told["one"]["id"], told["other"]["misses"]) == (RUN, 0.125)
    assert (await site.ask("GET", f"/api/runs/{RUN}/compare/r9"))[0] == 404


async def test_what_a_retraining_came_to_is_told_with_its_pairs(home: Household, site: Site, household: Project):
    assert await site.get("/api/retrainings") == []
    paired = pair_events([(True, False)] * 9 + [(True, True)], "False accepts", "captures", should_fire=False)
    assert paired is not None
    outcome, reason = retrain.conclude([paired])
    comparison = retrain.Comparison(
        outcome=outcome, reason=reason, decided_by=(paired,), also=(), notes=("Few people are held out.",)
    )
    proposal = retrain.Proposal(
        outcome=outcome, offer=True, reason=reason, model=home.model, against="hey-00000000", run=RUN,
        start="trained from the beginning", learned_from=12, comparison=comparison,
    )  # fmt: skip
    write_json(household.reports_dir / f"{RUN}.comparison.json", proposal.as_json() | {"made_at": now()})
    (household.reports_dir / "other.comparison.json").write_text("{broken")
    (told,) = await site.get("/api/retrainings")
    assert (told["outcome"], told["model"], told["offered"]) == ("better", home.model, True)
    (row,) = told["decided_by"]
    assert (row["better"], row["worse"], row["p"], row["text"]) == (9, 0, paired.p, paired.text())
    assert row["old"] == dataclasses.asdict(paired.old)
    page = await site.get(f"/api/models/{home.model}/page")
    assert page["proposal"] == told


async def test_a_new_project_has_nothing_to_tell_and_says_so(project: Project):
    async with opened_site(project.root) as site:
        for path in ("/api/models/list", "/api/journal", "/api/retrainings"):
            assert await site.get(path) == []
        data = await site.get("/api/data")
        assert (data["groups"], data["feature_set"], data["lacks"][0]) == ([], "", "no_wake")
        for path in ("/api/runs/r1/curve", "/api/runs/r1/compare/r1", "/api/clips/0123456789abcdef/sound"):
            assert (await site.ask("GET", path))[0] == 404
