"""Learning in a real browser: a small model is trained from the page, and its curve moves while it is."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from lived_in import Household, make_household
from panel_kit import DESK, PHONE, Panel, needs_chromium, opened_panel
from playwright.async_api import Route
from tiny_project import write_settings
from toy_run import RUN, open_run

from mww_ha import retrain
from mww_ha.evaluate import pair_events
from mww_ha.store import Project, now, write_json
from mww_ha.train.install import TrainingState
from mww_ha.web.jobs import mww_ha_command
from mww_ha.web.orders import Order
from mww_ha.web.wire import plain

STEPS = 1500


@pytest.fixture
def long_training(prepared_root: Path, tmp_path: Path) -> Iterator[Project]:
    """A prepared project whose training lasts some seconds."""
    shutil.copytree(prepared_root, tmp_path / "long")
    train = yaml.safe_load((prepared_root / "project.yaml").read_text())["train"] | {"steps": STEPS, "mine_every": 1000}
    made = write_settings(tmp_path / "long", train=train)
    yield made
    made.catalogue.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Household:
    """Only to be read: ``household`` is a copy."""
    return make_household(tmp_path_factory.mktemp("panel") / "home", tmp_path_factory.getbasetemp(), waiting=1)


@pytest.fixture
def household(made: Household, tmp_path: Path) -> Household:
    shutil.copytree(made.root, tmp_path / "home")
    return dataclasses.replace(made, root=tmp_path / "home")


def add_second_run(household: Household) -> None:
    project = open_run(household.root)
    document = project.catalogue.runs()[0]
    other = document | {"id": "second", "seed": 2, "started_at": "2026-11-02T00:00:00+00:00"}
    project.catalogue.put_run("second", other["started_at"], other)
    shutil.copytree(project.runs_dir / RUN, project.runs_dir / "second")
    paired = pair_events([(True, False)] * 9 + [(True, True)], "False accepts", "captures", should_fire=False)
    assert paired is not None
    outcome, reason = retrain.conclude([paired])
    comparison = retrain.Comparison(outcome=outcome, reason=reason, decided_by=(paired,), also=(), notes=("A note.",))
    proposal = retrain.Proposal(
        outcome=outcome, offer=True, reason=reason, model=household.model, against="hey-00000000", run="second",
        start="trained from the beginning", learned_from=12, comparison=comparison,
    )  # fmt: skip
    write_json(project.reports_dir / "second.comparison.json", proposal.as_json() | {"made_at": now()})
    project.catalogue.close()


@needs_chromium
@pytest.mark.parametrize(("size", "scheme", "language"), [(DESK, "light", "en-GB"), (PHONE, "dark", "de-AT")])
async def test_what_was_learned_fits_and_reads_well(
    household: Household, size: dict[str, int], scheme: str, language: str
):
    add_second_run(household)
    async with opened_panel(household.root, size=size, scheme=scheme, language=language) as panel:
        for name, view in (("all", "train"), ("run", f"train/{RUN}"), ("two", f"train?a={RUN}&b=second")):
            await panel.go(view)
            await panel.picture(f"train-{name}-{scheme}")
            await panel.check_fits()
            await panel.check_reads_well()


@needs_chromium
async def test_two_trainings_are_picked_and_compared(household: Household):
    add_second_run(household)
    async with opened_panel(household.root) as panel:
        page = panel.page
        await panel.go("train")
        text = await panel.text("#retrainings")
        assert "better" in text
        assert "Better in false accepts beyond chance (p < 0.05)" in text
        for box in await page.locator("#journal input").all():
            await box.check()
        await page.click("#journal button")
        await page.wait_for_selector(".compared")
        rows = [" ".join(row.split()) for row in await page.locator(".compared tbody tr").all_inner_texts()]
        assert f"id {RUN} second" in rows
        assert "seed 1 2" in rows
        assert len(rows) == 1 + 3, "the rate, and what differs: id, seed, start"
        assert f"a={RUN}&b=second" in page.url, "the older one stands first"


@needs_chromium
async def test_few_verdicts_are_learned_from_only_when_somebody_is_sure(household: Household):
    async with opened_panel(household.root) as panel:
        page = panel.page
        project = open_run(household.root)
        # The last retraining saw all verdicts but two.
        last = max(entry.number for entry in project.catalogue.judgements())
        project.catalogue.finish_stage(retrain.STAGE, "x", {"at": now(), "judged_until": last - 2})
        project.catalogue.close()
        await panel.go("train")
        assert "2 of 20 new verdicts" in await panel.text("main")
        await page.click("button:has-text('Learn all the same')")
        await page.click("dialog button:has-text('Cancel')")
        assert await panel.site.get("/api/jobs") == []


@needs_chromium
async def test_the_effort_is_chosen_and_taken_back(household: Household):
    path = household.root / "project.yaml"
    async with opened_panel(household.root) as panel:
        page = panel.page
        await panel.go("train")
        before = await panel.text(".effort-facts")
        await page.check("input[value=good]")
        await page.wait_for_function("(text) => !document.querySelector('.effort-facts').innerText.includes(text)",
                                     arg="1,600 steps")  # fmt: skip
        assert "5,000 steps" in await panel.text(".effort-facts")
        assert yaml.safe_load(path.read_text())["effort"] == "good"
        await page.click(".note button:has-text('Undo')")
        await page.wait_for_function("() => document.querySelector('input[value=quick]').checked")
        assert await panel.text(".effort-facts") == before
        assert yaml.safe_load(path.read_text())["effort"] == "quick"


@needs_chromium
async def test_what_training_needs_is_offered_where_it_is_missing(household: Household):
    missing = TrainingState(
        state="missing", size_mb=1900, download_mb=620, needed_disk_mb=3000, free_disk_mb=9000, folder="/data/training"
    )
    states = [missing, dataclasses.replace(missing, obstacle="3.0 GB of disk are needed, 0.4 GB are free")]

    async def answer(route: Route) -> None:
        await route.fulfill(json=plain(states[0]))

    def nothing(order: Order, project: Project) -> list[str]:
        return [sys.executable, "-I", "-S", "-c", ""]

    async with opened_panel(household.root, command=nothing) as panel:
        page = panel.page
        await page.route("**/api/training", answer)
        await panel.go("train")
        assert "620 MB to fetch, 3 GB of disk while it is installed; 9 GB are free" in await panel.text("#install")
        await page.click("#install button")
        await page.wait_for_selector(".job.done")
        assert [job["kind"] for job in await panel.site.get("/api/jobs")] == ["install_training"]
        states.pop(0)
        await page.reload()
        await panel.settle()
        assert states[0].obstacle in await panel.text("#install")
        assert await page.is_disabled("#install button")


async def points(panel: Panel) -> int:
    chart = panel.page.locator('mww-chart[data-plot="loss"]')
    return int(await chart.get_attribute("data-points") or 0) if await chart.count() else 0


async def watch(panel: Panel, more_than: int) -> int:
    """Waits until the curve has more points than that, and says how many."""
    await panel.page.wait_for_function(
        f"""() => Number(document.querySelector('mww-chart[data-plot="loss"]')?.dataset.points ?? 0) > {more_than}""",
        timeout=60_000,
    )
    return await points(panel)


@needs_chromium
async def test_a_model_is_trained_from_the_page_watched_reloaded_cancelled_and_resumed(long_training: Project):
    async with opened_panel(long_training.root, command=mww_ha_command, grace_s=30.0) as panel:
        page = panel.page
        await panel.go("train")
        await page.click("button[aria-label='Run the stage: Train']")
        first = await watch(panel, 2)
        assert "Learning now" in await panel.text("#curve")
        await panel.picture("train-live")
        second = await watch(panel, first)
        await page.wait_for_selector('mww-chart[data-plot="misses"]', timeout=60_000)
        await page.reload()
        await panel.settle()
        third = await watch(panel, second)
        (job,) = await panel.site.get("/api/jobs")
        assert job["state"] == "running", "all this while it runs"
        await page.click(".job button:has-text('Cancel')")
        await page.wait_for_selector(".job .tag.cancelled", timeout=60_000)
        await page.wait_for_selector("#curve .tag:has-text('stopped')")
        stopped_at = await points(panel)
        assert third <= stopped_at < STEPS // 20
        await page.click(".job button:has-text('Run again')")
        await watch(panel, stopped_at)
        await page.wait_for_selector(".job .tag.done", timeout=120_000)
        await page.wait_for_selector("#curve .tag:has-text('done')")
        missed = page.locator('mww-chart[data-plot="misses"]')
        assert await missed.get_attribute("data-points") == "4"
        (run,) = await panel.site.get("/api/journal")
        log = (long_training.runs_dir / run["id"] / "log.jsonl").read_text().splitlines()
        steps = [json.loads(line)["step"] for line in log]
        assert steps == sorted(set(steps)), "it went on where it was stopped"
        assert steps[-1] == STEPS
        assert await points(panel) == len(steps)
        assert await page.locator(f"#journal a[href='#/train/{run['id']}']").count() == 1
        await panel.go(f"train/{run['id']}")
        text = await panel.text()
        assert f"step {STEPS:,}" in text
        assert "chosen" in text
        await panel.go("train")
        await page.click("button.primary:has-text('Run what is out of date')")
        await page.wait_for_selector("#journal a[href^='#/models/']", timeout=120_000)
        (model,) = await panel.site.get("/api/models/list")
        await page.click("#journal a[href^='#/models/']")
        await page.wait_for_selector("#sensitivity")
        await panel.settle()
        await panel.picture("models-trained")
        level = model["level"]
        assert f"({level['recall']['events']} of {level['recall']['exposure']:.0f};" in await panel.text("#recall")
        assert await page.locator('mww-chart[data-plot="loss"]').get_attribute("data-points") == str(len(steps))
        await panel.go(f"models/{model['id']}?tab=sounds")
        await panel.picture("models-trained-sounds")
        mistakes = await panel.site.get(f"/api/models/{model['id']}/mistakes")
        assert await page.locator("#misses .play").count() == len(mistakes["misses"])
        for number in range(len(mistakes["false_accepts"])):
            status, told, _ = await panel.site.ask(
                "GET",
                f"/api/models/{model['id']}/false-accepts/{number}/sound",
                headers={**panel.site.owner, "Range": "bytes=0-9"},
            )
            assert status == 206, told
