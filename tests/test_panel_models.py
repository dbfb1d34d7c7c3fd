"""Models in a real browser: what the page shows is what was measured, its sounds sound and its files are the files."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from lived_in import Household, make_household
from panel_kit import DESK, PHONE, Panel, needs_chromium, opened_panel
from playwright.async_api import Response, Route
from toy_run import FEATURE_SET, RUN, open_run

from mww_ha import metrics

TABS = ("report", "sounds", "origins", "files")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Household:
    """Only to be read: ``household`` is a copy."""
    return make_household(tmp_path_factory.mktemp("panel") / "home", tmp_path_factory.getbasetemp(), waiting=1)


@pytest.fixture
def household(made: Household, tmp_path: Path) -> Household:
    shutil.copytree(made.root, tmp_path / "home")
    return dataclasses.replace(made, root=tmp_path / "home")


def report_of(household: Household) -> dict[str, Any]:
    return dict(json.loads((household.root / "reports" / f"{RUN}.json").read_text()))


def few(value: float) -> str:
    """A rate as the page writes it in English."""
    text = f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 10 else f"{value:,.2f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@needs_chromium
@pytest.mark.parametrize(("size", "scheme", "language"), [(DESK, "light", "en-GB"), (PHONE, "dark", "de-AT")])
async def test_a_model_fits_and_reads_well(household: Household, size: dict[str, int], scheme: str, language: str):
    async with opened_panel(household.root, size=size, scheme=scheme, language=language) as panel:
        for view in ("models", *(f"models/{household.model}?tab={tab}" for tab in TABS)):
            await panel.go(view)
            await panel.picture(f"models-{view.partition('=')[2] or 'list'}-{scheme}")
            await panel.check_fits()
            await panel.check_reads_well()


@needs_chromium
async def test_the_slider_shows_what_each_cutoff_gave_and_the_line_for_yaml(household: Household):
    report = report_of(household)
    async with opened_panel(household.root) as panel:
        page = panel.page
        await panel.go(f"models/{household.model}")
        seen = set()
        for cutoff in (254, 120, next(level["cutoff"] for level in report["levels"] if level["name"] == "high"), 1):
            await page.locator("#cutoff").fill(str(255 - cutoff))
            recall = None
            for curve in report["curves"]:
                place = curve["cutoffs"].index(cutoff)
                recall = metrics.share_interval(curve["hits"][place], curve["trials"])
                rate = metrics.rate_interval(curve["false_accepts"][place], curve["hours"])
                shown = await panel.text(f'[data-kind="{curve["kind"]}"]')
                assert shown.startswith(f"{few(24 * rate.value)} per day ({rate.events} in "), shown
                assert f"; {few(24 * rate.low)}–{few(24 * rate.high)})" in shown
            assert recall is not None
            told = await panel.text("#recall")
            assert told == (
                f"{100 * recall.value:.0f}% ({recall.events} of {recall.exposure:.0f}; "
                f"{100 * recall.low:.0f}–{100 * recall.high:.0f}%)"
            )
            line = await panel.text("#yaml-line")
            assert int(float(line.removeprefix("probability_cutoff: ")) * 255) == cutoff
            assert told in str(await page.get_attribute("#cutoff", "aria-valuetext"))
            seen.add(told)
        assert len(seen) > 1
        await page.click('[data-level="low"]')
        low = next(level for level in report["levels"] if level["name"] == "low")
        assert await page.input_value("#cutoff") == str(255 - low["cutoff"])
        assert "Slightly sensitive" in await panel.text("#sensitivity .outcome")
        await page.focus("#cutoff")
        await page.keyboard.press("ArrowRight")
        assert await page.input_value("#cutoff") == str(256 - low["cutoff"])
        await page.reload()
        await panel.settle()
        assert await page.input_value("#cutoff") == str(256 - low["cutoff"]), "the address keeps it"
        line = await panel.text("#yaml-line")
        await page.click(".tabs a:has-text('Files')")
        await page.wait_for_selector("#yaml")
        assert line in await panel.text("#yaml")


@needs_chromium
async def test_a_chart_says_in_a_table_what_it_draws_and_follows_the_scheme(household: Household):
    report = report_of(household)
    curve = report["curves"][0]
    async with opened_panel(household.root) as panel:
        page = panel.page
        await panel.go(f"models/{household.model}")
        await page.click("#roc summary")
        rows = await page.locator("#roc tbody tr").all_inner_texts()
        best = max(curve["hits"])
        assert any(f"({best} of {curve['trials']};" in row for row in rows)
        canvas = "document.querySelector('#roc canvas')"
        ink = f"() => {canvas}.getContext('2d').getImageData(0, 0, 60, 60).data.join()"
        before = await page.evaluate(ink)
        await page.emulate_media(color_scheme="dark")
        await page.wait_for_timeout(200)
        assert await page.evaluate(ink) != before
        at_desk = await page.evaluate(f"{canvas}.clientWidth")
        await page.set_viewport_size(PHONE)
        await page.wait_for_function(f"() => {canvas}.clientWidth < {at_desk}")
        await panel.check_fits()


async def delete_sound(panel: Panel, household: Household, clip: str) -> None:
    clips = (await panel.site.get(f"/api/models/{household.model}/clips?limit=500"))["clips"]
    path = next(one["clip"]["path"] for one in clips if one["clip"]["id"] == clip)
    await asyncio.to_thread((household.root / path).unlink)


@needs_chromium
async def test_a_miss_sounds_by_ranges_and_a_deleted_one_says_so(household: Household):
    async with opened_panel(household.root) as panel:
        page = panel.page
        answers: list[Response] = []
        page.on("response", lambda answer: "/sound" in answer.url and answers.append(answer))
        await panel.go(f"models/{household.model}?tab=sounds")
        await page.click("#misses .play")
        audio = "document.querySelector('#misses audio')"
        await page.wait_for_function(f"() => {audio}.currentTime > 0 || {audio}.ended")
        assert await page.evaluate(f"{audio}.duration") > 0.2
        assert {answer.status for answer in answers} == {206}
        assert "another version" in await panel.text("#false-accepts"), "the toy's scenes cannot be made again"
        assert await page.locator("#false-accepts .play").count() == 0
        clip = report_of(household)["misses"][0]["clip"]
        await delete_sound(panel, household, clip)
        await page.reload()
        await panel.settle()
        assert "the clip was deleted" in await panel.text("#misses")
        assert await page.locator("#misses .play").count() == 0


@needs_chromium
async def test_what_cannot_be_played_says_why(household: Household):
    async with opened_panel(household.root) as panel:
        page = panel.page
        panel.accepted = ["404 (Not Found)"]
        await panel.go(f"models/{household.model}?tab=sounds")
        clip = report_of(household)["misses"][0]["clip"]
        await delete_sound(panel, household, clip)
        await page.click("#misses .play")
        await page.wait_for_selector(".note.bad")
        assert f"the sound of clip {clip} is gone" in await panel.text(".note.bad")


async def listed(panel: Panel) -> list[str]:
    await panel.settle()
    return [str(await one.get_attribute("data-clip")) for one in await panel.page.locator("[data-clip]").all()]


@needs_chromium
async def test_the_origins_lead_to_exactly_the_clips_it_was_made_of(household: Household):
    index = json.loads((household.root / "features" / FEATURE_SET / "index.json").read_text())
    async with opened_panel(household.root) as panel:
        page = panel.page
        await panel.go(f"models/{household.model}?tab=origins")
        assert f"from {len(index['sides'])} clips" in await panel.text(".chain")
        found: list[str] = []
        for link in await page.locator("tbody a").all():
            await link.click()
            await page.wait_for_selector("[data-clip]")
            await page.wait_for_function("() => !document.querySelector('main .loading')")
            group = page.url.partition("group=")[2]
            row = page.locator(f"tr[aria-current='true']:has(a[href$='{group}'])")
            await row.wait_for()
            count = int(await row.locator("td.number").first.inner_text())
            await page.wait_for_function(f"() => document.querySelectorAll('[data-clip]').length === {count}")
            found += await listed(panel)
        assert sorted(set(found)) == sorted(index["sides"])
        await page.click("thead a")
        await page.wait_for_function(f"() => document.querySelectorAll('[data-clip]').length === {len(index['sides'])}")
        assert await listed(panel) == sorted(index["sides"])


@needs_chromium
async def test_the_files_to_take_away_are_the_files(household: Household):
    async with opened_panel(household.root) as panel:
        page = panel.page
        await panel.go(f"models/{household.model}?tab=files")
        for part, suffix in (("model", ".tflite"), ("manifest", ".json"), ("about", ".about.json")):
            async with page.expect_download() as waiting:
                await page.click(f'[data-part="{part}"]')
            taken = await waiting.value
            name = f"{household.model}{suffix}"
            assert taken.suggested_filename == name
            content = await asyncio.to_thread(Path(str(await taken.path())).read_bytes)
            assert content == (household.root / "models" / name).read_bytes()
        async with page.expect_download() as waiting:
            await page.click("button:has-text('Save')")
        taken = await waiting.value
        text = await asyncio.to_thread(Path(str(await taken.path())).read_text)
        assert text.strip() == (await page.inner_text("#yaml")).strip()
        assert f"model: {household.model}.json" in text


@needs_chromium
async def test_whoever_may_not_export_is_told_so(household: Household):
    async def answer(route: Route) -> None:
        await route.fulfill(json={"way": "ingress", "user_name": "Anna", "may_change": False})

    async with opened_panel(household.root) as panel:
        await panel.page.route("**/api/me", answer)
        await panel.go(f"models/{household.model}?tab=files")
        await panel.page.wait_for_selector("text=Only an administrator")
        assert not await panel.page.is_visible("[data-part=model]")


@needs_chromium
async def test_many_voices_are_sorted_folded_and_found(household: Household):
    path = household.root / "reports" / f"{RUN}.json"
    report = report_of(household)
    voices = [
        {
            "name": f"piper:voice:{number}",
            "share": dataclasses.asdict(metrics.share_interval(number % 9, 8 + number % 9)),
        }
        for number in range(300)
    ]
    path.write_text(json.dumps(report | {"voices": voices}))
    async with opened_panel(household.root) as panel:
        page = panel.page
        await panel.go(f"models/{household.model}")
        rows = page.locator("#voices .bars li")
        assert await rows.count() == 12
        assert "0% (0 of 8" in await rows.first.inner_text(), "the lowest first"
        await page.click("#voices button:has-text('Show all 300')")
        assert await rows.count() == 300
        assert "50% (8 of 16" in await rows.last.inner_text()
        await page.fill("#voices input[type=search]", "VOICE:217")
        assert await rows.count() == 1
        assert "piper:voice:217" in await rows.inner_text()


@needs_chromium
async def test_a_model_leads_to_the_satellite_that_shall_have_it(household: Household):
    project = open_run(household.root)
    newest = project.catalogue.models()[0]
    other = "a_rising_whistle-00000000"
    project.catalogue.put_model(other, newest | {"id": other})
    chosen = next(model["id"] for model in reversed(project.catalogue.models()))
    project.catalogue.close()
    async with opened_panel(household.root) as panel:
        page = panel.page
        await panel.go(f"models/{chosen}")
        await page.click(f"a.button[href='#/devices/bath?model={chosen}']")
        await page.wait_for_selector("select[name=model]")
        assert await page.input_value("select[name=model]") == chosen
        assert await page.inner_text("h1") == "Devices"
