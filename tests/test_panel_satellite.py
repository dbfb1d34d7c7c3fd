"""A session on a satellite is led by the service, and every page shows it as it goes on, before and after a reload."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fake_home_assistant import FakeHomeAssistant
from panel_kit import PHONE, Panel, needs_chromium, opened_panel
from spoken_words import room
from test_record_sessions import Household, good_takes
from test_web_takes import once, set_home

from mww_ha.record import people
from mww_ha.store import Project

pytestmark = needs_chromium


@pytest.fixture
async def home() -> AsyncIterator[FakeHomeAssistant]:
    async with FakeHomeAssistant() as made:
        yield made


class Door:
    """Answers of a household that come when they are let through."""

    def __init__(self, answer: Callable[[dict[str, Any]], Any]) -> None:
        self.answer = answer
        self.open = asyncio.Semaphore(0)

    async def ask(self, data: dict[str, Any]) -> Any:
        await self.open.acquire()
        return await self.answer(data)


async def choose_satellite(panel: Panel) -> None:
    """Opens Anna's page once Home Assistant is connected, and chooses the kitchen's satellite."""
    async with asyncio.timeout(60):
        while not await panel.site.get("/api/microphones"):  # noqa: ASYNC110  over HTTP
            await asyncio.sleep(0.05)
    await panel.go("record/Anna")
    await panel.page.check("input[value='home-assistant assist_satellite.kitchen']")


async def test_a_session_on_a_satellite_is_seen_as_it_goes_on_and_after_a_reload(
    project: Project, home: FakeHomeAssistant
):
    people.note_consent(project, "Anna", noted_by="Ben")
    set_home(project, home.url)
    one, two = good_takes(2)
    household = Household(home, [room(1.0), one, two])
    door = Door(household.ask)
    home.services["assist_satellite.ask_question"] = door.ask
    async with opened_panel(project.root) as panel:
        page = panel.page
        await choose_satellite(panel)
        for text in ("turned away", "from the other end"):
            await page.uncheck(f"label:has-text('{text}') input")
        await page.fill("input[name=takes]", "2")
        await page.click("button.big:has-text('Begin')")
        await page.wait_for_selector("button:has-text('I am there')")
        assert "Now: where you usually talk to it" in await panel.text(".stage")
        assert household.questions == []
        await page.click("button:has-text('I am there')")
        await page.wait_for_selector(".booth.listening")
        assert "The satellite asks; answer with: hey kitchen" in await panel.text(".stage")
        await panel.picture("record-satellite")
        door.open.release()
        await page.wait_for_selector(".verdict.bad")
        assert "No word was heard" in await panel.text(".told")
        door.open.release()
        await page.wait_for_selector("text=Now: from the door")

        await page.reload()
        await panel.settle()
        await page.wait_for_selector("text=Now: from the door")
        assert "1 of 1" in await page.get_attribute(".dots >> nth=0", "aria-label")
        rows = await page.locator(".takes li").all_inner_texts()
        assert [("Good." in row, "No word was heard" in row) for row in rows] == [(True, False), (False, True)]
        await panel.check_fits()
        await panel.check_reads_well()
        await panel.go("record")
        await page.click("text=Look")
        await page.click("button:has-text('I am there')")
        door.open.release()
        await page.wait_for_selector("h2:has-text('All 2 takes of Anna are there')")
        assert "Anna · Kitchen" in await panel.text(".booth")
        assert "2 more people" in await panel.text()
        await panel.picture("record-satellite-done")
        assert len(project.catalogue.clips()) == 2
        await page.click(".takes button[aria-label='Delete take 2']")
        await page.wait_for_selector("text=taken back")
        assert len(project.catalogue.clips()) == 1


async def test_a_session_is_ended_by_hand_and_goes_on_later(project: Project, home: FakeHomeAssistant):
    people.note_consent(project, "Anna", noted_by="Ben")
    set_home(project, home.url)
    household = Household(home, good_takes(2))
    answer = household.ask
    home.services["assist_satellite.ask_question"] = once(answer)
    async with opened_panel(project.root, size=PHONE, scheme="dark", language="de-AT") as panel:
        page = panel.page
        await choose_satellite(panel)
        await page.fill("input[name=takes]", "2")
        await panel.check_fits()
        await panel.picture("record-person-phone")
        await page.click("button.big:has-text('Anfangen')")
        await page.click("button:has-text('Ich bin da')")
        await page.wait_for_selector(".verdict.good")
        await panel.check_fits()
        await panel.check_reads_well()
        await page.click("button:has-text('Sitzung beenden')")
        await page.wait_for_selector(".tag.interrupted")
        home.services["assist_satellite.ask_question"] = answer
        await page.click("button:has-text('Weitermachen')")
        await page.click("button:has-text('Ich bin da')")
        await page.wait_for_selector("h2:has-text('Alle 2 Aufnahmen von Anna sind da')")
        await panel.picture("record-done-phone")
    assert len({session.sitting for session in project.catalogue.sessions()}) == 1
