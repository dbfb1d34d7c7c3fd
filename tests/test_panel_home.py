"""Home carries a newcomer by the hand, and later says in a glance how the house does and what to do next."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from lived_in import Household, make_household
from panel_kit import DESK, PHONE, needs_chromium, opened_panel

from mww_ha.schema import Flash
from mww_ha.store import Project, open_project

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def household(tmp_path_factory: pytest.TempPathFactory) -> Household:
    """Only to be read."""
    return make_household(tmp_path_factory.mktemp("home") / "home", tmp_path_factory.getbasetemp(), waiting=12)


async def test_a_newcomer_sees_one_big_step_and_begins_it(project: Project):
    async with opened_panel(project.root, size=PHONE) as panel:
        page = panel.page
        assert await page.locator("main .next button.primary").count() == 1
        assert "About five minutes" in await panel.text(".next")
        assert await page.locator(".road li").count() == 4
        assert await page.get_attribute(".road li:first-child", "aria-current") == "step"
        await panel.check_fits()
        await panel.check_reads_well()
        await panel.picture("home-new-phone")
        await page.click("button.primary")
        await page.wait_for_selector("mww-job .job")
        await page.wait_for_selector("text=Your first model is being made")
        assert await page.locator("button.primary").count() == 0, "nobody begins it twice"
        jobs = await panel.site.get("/api/jobs")
        assert [(job["kind"], job["state"]) for job in jobs] == [("run", "running")]
        await panel.check_reads_well()
        await panel.picture("home-first-model-phone")
        await page.click("mww-job button:has-text('Cancel')")
        await page.wait_for_selector("button.primary")


async def test_what_was_interrupted_goes_on_from_the_page(project: Project):
    async with opened_panel(project.root) as panel:
        job = await panel.site.order("train")
        await panel.site.wait(job["id"], "running")
    async with opened_panel(project.root, new_token=True) as panel:
        await panel.page.wait_for_selector("text=“Train” was interrupted")
        await panel.picture("home-interrupted")
        await panel.page.click("main .next button:has-text('Go on')")
        await panel.page.wait_for_selector("mww-job .job")
        assert (await panel.site.get("/api/jobs"))[0]["retry_of"] == job["id"]


@pytest.mark.parametrize(
    ("size", "scheme", "language"),
    [(DESK, "light", "en-GB"), (PHONE, "dark", "de-DE"), (DESK, "dark", "de-DE"), (PHONE, "light", "en-GB")],
)
async def test_a_household_at_a_glance(household: Household, size: dict[str, int], scheme: str, language: str):
    async with opened_panel(household.root, size=size, scheme=scheme, language=language, new_token=True) as panel:
        await panel.check_fits()
        await panel.check_reads_well()
        shown = await panel.text()
        german = language.startswith("de")
        assert ("in 295 h; zwischen" if german else "in 295 h; between") in shown
        assert ("96 %" if german else "96%") in shown, "recall"
        assert "bath.local does not resolve" in shown
        assert await panel.page.get_attribute(".places li:first-child a", "href") == "#/devices/kitchen"
        await panel.picture(f"home-lived-in-{'desk' if size is DESK else 'phone'}-{scheme}")


async def test_what_is_judged_elsewhere_is_counted_here_at_once(household: Household, tmp_path: Path):
    async with opened_panel(household.root, new_token=True) as panel:
        await panel.page.wait_for_selector("text=12 captures to review")
        body = {"ids": [household.waiting[0]], "verdict": "other"}
        await panel.site.ask("POST", "/api/review", json=body)
        await panel.page.wait_for_selector("text=11 captures to review")
        await panel.site.ask("POST", "/api/review/undo")
        await panel.page.wait_for_selector("text=12 captures to review")


async def test_each_step_leads_to_the_view_that_does_it(household: Household):
    async with opened_panel(household.root, new_token=True) as panel:
        page = panel.page
        await page.click(".steps a:has-text('Review')")
        await panel.settle()
        assert "#/review" in page.url
        await panel.go("home")
        await page.click(".next .first a.primary")
        await panel.settle()
        assert page.url.endswith("#/devices/bath")


async def test_the_keyboard_begins_the_step_and_is_not_lost(project: Project):
    async with opened_panel(project.root) as panel:
        page = panel.page
        await page.focus("main .next button.primary")
        await page.keyboard.press("Enter")
        await page.wait_for_selector("mww-job .job")
        await page.wait_for_function("() => document.activeElement?.id === 'main'")


async def test_a_rolled_out_model_leaves_nothing_to_do(project: Project):
    def finish(root: Path) -> None:
        from test_web_home import MODEL, URL, add_device, add_model, add_takes
        from test_web_home import Device as Satellite

        opened = open_project(root)
        add_model(opened)
        add_device(opened, Satellite(name="kitchen", template="generic-s3", capture_url=URL))
        opened.catalogue.put_flash(
            Flash(id="1", device="kitchen", model=MODEL, wake_model="", backend="esphome", outcome="verified",
                  started_at="2026-11-02T00:00:00+00:00")
        )  # fmt: skip
        for name in ("Anna", "Ben", "Zoe"):
            add_takes(opened, name, 8)
        opened.catalogue.close()

    await asyncio.to_thread(finish, project.root)
    async with opened_panel(project.root) as panel:
        assert await panel.page.is_visible("text=Nothing to do")
        assert "not measured yet" in await panel.text(".word")
        await panel.check_reads_well()
        await panel.picture("home-nothing-to-do")
