"""What can be set is set in the page as by hand; secrets are shown once; a project goes out and comes in as a file."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from lived_in import Household, make_household
from panel_kit import DESK, PHONE, Panel, browser, needs_chromium, opened_panel
from test_web import Site

from mww_ha.archive import write_archive
from mww_ha.store import Project, change_settings, open_project
from mww_ha.web.app import Options
from mww_ha.web.setup import open_setup

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def household(tmp_path_factory: pytest.TempPathFactory) -> Household:
    """Only to be read."""
    return make_household(tmp_path_factory.mktemp("settings") / "home", tmp_path_factory.getbasetemp(), waiting=3)


@pytest.fixture(scope="module")
def archive(household: Household, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "whistle.mww-ha.tar"
    project = open_project(household.root)
    path.write_bytes(b"".join(write_archive(project)))
    project.catalogue.close()
    return path


def field(panel: Panel, label: str):
    return panel.page.get_by_label(label, exact=False).first


@pytest.mark.parametrize(("size", "scheme", "language"), [(DESK, "light", "en-GB"), (PHONE, "dark", "de-DE")])
async def test_the_settings_of_a_household_fit_and_read_well(
    household: Household, size: dict[str, int], scheme: str, language: str
):
    async with opened_panel(household.root, size=size, scheme=scheme, language=language, new_token=True) as panel:
        await panel.go("settings")
        await panel.page.click("#settings-health button")
        await panel.settle()
        for details in await panel.page.locator("mww-settings details").all():
            await details.locator("summary").click()
        await panel.page.fill("#settings-all input[type=search]", "snr")
        await panel.check_fits()
        await panel.check_reads_well()
        await panel.picture(f"settings-{'desk' if size is DESK else 'phone'}-{scheme}")


async def test_language_and_colours_change_at_once_and_stay(project: Project):
    async with opened_panel(project.root) as panel:
        page = panel.page
        await panel.go("settings")
        await page.select_option("#settings-page select >> nth=0", "de")
        await page.wait_for_selector("h1:has-text('Einstellungen')")
        await page.select_option("#settings-page select >> nth=1", "dark")
        assert await page.get_attribute("html", "data-scheme") == "dark"
        await page.reload()
        await panel.settle()
        assert await page.inner_text("h1") == "Einstellungen"
        assert await page.get_attribute("html", "data-scheme") == "dark"
        await panel.check_reads_well()


async def test_a_setting_is_changed_undone_and_set_back_and_a_wrong_one_says_why(project: Project):
    path = project.root / "project.yaml"
    path.write_text("phrase: hey kitchen  # ours\n")
    async with opened_panel(project.root) as panel:
        panel.accepted.append("status of 422")
        page = panel.page
        await panel.go("settings/captures")
        keep = field(panel, "Keep captures")
        await keep.fill("3")
        await keep.press("Enter")
        await page.wait_for_selector(".note:has-text('capture.keep_days')")
        assert path.read_text() == "phrase: hey kitchen  # ours\ncapture:\n  keep_days: 3\n"
        await page.click(".note button:has-text('Undo')")
        await page.wait_for_function("() => document.querySelector('#settings-captures input').value === '14'")
        assert path.read_text() == "phrase: hey kitchen  # ours\n"
        await keep.fill("many")
        await keep.press("Enter")
        await page.wait_for_selector("#settings-captures .problem")
        assert "it must be a number" in await panel.text("#settings-captures .problem")
        await panel.picture("settings-wrong")
        await keep.fill("5")
        await keep.press("Enter")
        await page.wait_for_selector("#settings-captures .problem", state="detached")
        await page.get_by_role("button", name="Set capture.keep_days to its default").click()
        await page.wait_for_function("() => document.querySelector('#settings-captures input').value === '14'")
        assert path.read_text() == "phrase: hey kitchen  # ours\n"


async def test_what_somebody_else_changes_is_shown(project: Project):
    async with opened_panel(project.root) as panel:
        await panel.go("settings")
        body = {"changes": [{"key": "capture.max_mb", "value": 77}]}
        await panel.site.ask("PUT", "/api/settings", json=body)
        await panel.page.wait_for_function(
            "() => [...document.querySelectorAll('#settings-captures input')].some((one) => one.value === '77')"
        )


async def test_another_wake_word_is_asked_for_once(project: Project):
    async with opened_panel(project.root) as panel:
        page = panel.page
        await panel.go("settings")
        word = field(panel, "Wake word")
        await word.fill("hello house")
        await word.press("Enter")
        await page.click("dialog button:has-text('Cancel')")
        await page.wait_for_selector("dialog", state="detached")
        assert await word.input_value() == "hey kitchen"
        await word.fill("hello house")
        await word.press("Enter")
        await page.click("dialog button:has-text('Change it')")
        await page.wait_for_selector(".brand:has-text('hello house')")


async def test_every_setting_is_found_by_what_it_does(project: Project):
    async with opened_panel(project.root) as panel:
        page = panel.page
        await panel.go("settings/all")
        await page.fill("#settings-all input[type=search]", "learning rate")
        await page.wait_for_selector("#settings-all .setting")
        assert "train.learning_rate" in await panel.text("#settings-all")
        rate = page.get_by_role("textbox", name=re.compile(r"^train\.learning_rate"))
        await rate.fill("0.002")
        await rate.press("Enter")
        await page.wait_for_selector(".note:has-text('train.learning_rate')")
        await page.fill("#settings-all input[type=search]", "playing speed")
        speed = page.get_by_label("augment.speed")
        await speed.fill("0.5, 0.9, 1.1")
        await speed.press("Enter")
        await page.wait_for_selector(".note:has-text('augment.speed')")
        changed = open_project(project.root)
        assert (changed.settings.train.learning_rate, changed.settings.augment.speed) == (0.002, (0.5, 0.9, 1.1))
        changed.catalogue.close()
        await page.fill("#settings-all input[type=search]", "")
        await page.get_by_label("Only what stands in project.yaml").check()
        assert await page.locator("#settings-all .setting").count() == 5, "phrase, language, effort, and these two"


async def test_a_token_is_shown_once_and_revoked_after_a_question(household: Household):
    async with opened_panel(household.root, new_token=True, permissions=("clipboard-read", "clipboard-write")) as panel:
        page = panel.page
        await panel.go("settings/captures")
        await page.select_option("#settings-captures select[name=device]", "bath")
        await page.click("#settings-captures button:has-text('Make a token')")
        token = await page.inner_text(".token code")
        assert len(token) > 40
        await page.click(".token button:has-text('Copy')")
        assert await page.evaluate("navigator.clipboard.readText()") == token
        await panel.check_reads_well()
        await panel.picture("settings-token")
        await page.click(".token button:has-text('I have kept it')")
        await panel.go("home")
        await panel.go("settings/captures")
        assert token not in await page.content()
        await page.click("#settings-captures button.danger")
        assert "flashed again" in await page.inner_text("dialog")
        await page.click("dialog button.danger")
        await page.wait_for_selector("#settings-captures .tag:has-text('revoked')")
        assert (await panel.site.get("/api/tokens"))[-1]["revoked_at"]


async def test_room_voices_and_the_builder_are_told(project: Project):
    async with opened_panel(project.root) as panel:
        page = panel.page
        await panel.go("settings")
        assert "en_US-libritts_r-medium" in await panel.text("#settings-voices")
        assert re.search(r"espeak \d+ voices", await panel.text("#settings-voices .voices"))
        assert "free" in await panel.text("#settings-storage")
        assert "Training is part of this installation" in await panel.text("#settings-training")
        assert "not set up" in await panel.text("#settings-home_assistant")
        await page.click("#settings-builder button:has-text('Test the connection')")
        await page.wait_for_selector("text=this machine's own ESPHome does the work")
        await asyncio.to_thread(change_settings, project.root, {"flash.builder_url": "http://anna:geheim@127.0.0.1:9"})
        await page.click("#settings-builder button:has-text('Test the connection')")
        await page.wait_for_selector("#settings-builder .problem:has-text('nothing answers at http://127.0.0.1:9')")
        await page.reload()
        await panel.settle()
        assert "geheim" not in await page.content()
        assert "A login is part of it" in await panel.text("#settings-builder")


async def test_the_project_is_taken_home_as_a_file_and_into_a_new_one(
    household: Household, project: Project, tmp_path: Path
):
    async with opened_panel(household.root, new_token=True) as panel:
        await panel.go("settings/archive")
        assert not await panel.page.locator("#settings-archive input[type=file]").count(), "not over what is there"
        async with panel.page.expect_download() as download:
            await panel.page.click("#settings-archive a:has-text('Export the project')")
        file = tmp_path / (await download.value).suggested_filename
        await (await download.value).save_as(file)
    assert file.name.endswith(".mww-ha.tar")
    async with opened_panel(project.root) as panel:
        panel.accepted.append("status of 422")
        page = panel.page
        await panel.go("settings/archive")
        (tmp_path / "no.tar").write_bytes(b"no archive" * 1000)
        await page.set_input_files("#settings-archive input[type=file]", str(tmp_path / "no.tar"))
        await page.wait_for_selector("#settings-archive .problem:has-text('not an archive of a project')")
        await page.set_input_files("#settings-archive input[type=file]", str(file))
        await page.wait_for_selector(".brand:has-text('a rising whistle')")
        await page.wait_for_selector("a:has-text('" + household.model + "')")


async def test_a_new_house_brings_its_project_along(household: Household, archive: Path, tmp_path: Path):
    root = tmp_path / "new"
    root.mkdir()
    async with open_setup(root, Options(port=0)) as setup, browser() as chromium:
        page = await chromium.new_page(viewport=PHONE)
        made = Panel(Site.__new__(Site), page, page.context)
        await page.goto(f"http://127.0.0.1:{setup.pages[0][1]}/?token={setup.token}")
        await page.wait_for_selector("mww-setup .bring")
        await made.check_fits()
        await made.check_reads_well()
        await made.picture("setup-bring")
        await page.set_input_files(".bring input[type=file]", str(archive))
        async with asyncio.timeout(60):
            await setup.created.wait()
    brought = open_project(root)
    assert brought.catalogue.models()[0]["id"] == household.model
    brought.catalogue.close()


async def test_who_signs_out_stands_before_the_door(project: Project):
    async with opened_panel(project.root) as panel:
        panel.accepted.append("status of 401")
        await panel.go("settings/about")
        href = await panel.page.get_attribute("#settings-about a:has-text('Licences')", "href")
        answer = await panel.page.request.get(href)
        assert "BSD" in await answer.text()
        await panel.page.click("#settings-about button:has-text('Sign out')")
        await panel.page.wait_for_selector("input[name=token]")
