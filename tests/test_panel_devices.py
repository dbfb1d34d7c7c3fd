"""Satellites in the panel: found, added, asked, switched, and flashed for real with every step in sight."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from functools import partial
from pathlib import Path

import pytest
from fake_api_device import satellite
from host_device import free_port
from lived_in import make_household
from panel_kit import DESK, PHONE, needs_chromium, opened_panel
from playwright.async_api import TimeoutError as PageTimeoutError
from test_devices import OURS, _registered
from test_flash_device import PASSWORD, _models, backend, built  # noqa: F401  the fixture
from test_web_devices import flashed, reached

from mww_ha.devices import network
from mww_ha.devices.known import add_device, load_devices, read_secrets, update_device
from mww_ha.schema import Device
from mww_ha.store import Project, open_project

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def household_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_household(tmp_path_factory.mktemp("lived") / "home", tmp_path_factory.getbasetemp(), waiting=6).root


@pytest.fixture
def household(household_root: Path, tmp_path: Path) -> Project:
    """A household of one's own: three satellites of which only the kitchen's answers."""
    shutil.copytree(household_root, tmp_path / "home")
    project = open_project(tmp_path / "home")
    (project.esphome_dir).mkdir(exist_ok=True)
    return project


# --- to look at ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "scheme", "language"), [(DESK, "light", "en-GB"), (PHONE, "dark", "de-AT")])
async def test_a_households_satellites_fit_and_read_well(
    household: Project, size: dict[str, int], scheme: str, language: str
):
    [model] = [model["id"] for model in household.catalogue.models()]
    flashed(household, "kitchen", model, canary="hey_next-0123abcd", esphome_version="2026.10.0")
    async with satellite(wake_model=model.replace("-", " "), canary=True) as device:
        update_device(household, "kitchen", address="127.0.0.1", port=device.port, api_key="")
        for name in ("living-room", "bath"):
            update_device(household, name, address="127.0.0.1", port=free_port(), api_key="")
        async with opened_panel(household.root, size=size, scheme=scheme, language=language) as panel:
            panel.site.service.rooms["kitchen"] = "Erdgeschoss"
            for view in ("devices", "devices/kitchen", "devices/bath", "devices?add", "devices/kitchen/edit"):
                await panel.go(view)
                await panel.page.wait_for_function("() => !/asking|wird gefragt/.test(document.body.innerText)")
                await panel.check_fits()
                await panel.check_reads_well()
                await panel.picture(f"devices-{view.replace('/', '-').replace('?', '-')}-{scheme}")


async def test_without_a_satellite_the_page_teaches_what_one_is(project: Project):
    async with opened_panel(project.root) as panel:
        await panel.go("devices")
        assert "No satellite yet" in await panel.text()
        panel.accepted.append("404")
        await panel.go("devices/nobody")
        assert "No satellite is called nobody" in await panel.text()


async def test_the_wi_fi_is_typed_into_the_page_and_never_comes_back(project: Project):
    add_device(project, Device(name="hall", template="generic-s3", address="127.0.0.1", port=1))
    async with opened_panel(project.root, size=PHONE) as panel:
        page = panel.page
        await panel.go("devices")
        panel.accepted.append("422")
        await page.fill("mww-secrets input[name=wifi_ssid]", "Zuhause")
        await page.fill("mww-secrets input[name=wifi_password]", "kurz")
        await panel.check_fits()
        await panel.picture("devices-secrets")
        await page.click("mww-secrets button.primary")
        await page.wait_for_selector("mww-secrets .problem")
        assert "4 characters" in await panel.text("mww-secrets .problem")
        assert not project.esphome_dir.exists() or "kurz" not in (project.esphome_dir / "secrets.yaml").read_text()
        await page.fill("mww-secrets input[name=wifi_password]", "lang genug")
        await page.click("mww-secrets button.primary")
        await page.wait_for_selector("mww-secrets .warning", state="detached")
        assert read_secrets(project.esphome_dir / "secrets.yaml")["wifi_password"] == "lang genug"
        await page.click("mww-secrets summary")
        assert await page.input_value("mww-secrets input[name=wifi_password]") == ""
        await panel.check_reads_well()


# --- devices.yaml ----------------------------------------------------------------------------------------------------


async def test_a_satellite_that_is_found_is_added_changed_removed_and_put_back(project: Project):
    project.devices_path.write_text("# ours\nhall:\n  template: generic-s3  # cheap\n  address: 127.0.0.1\n  port: 1\n")
    evil = "<img src=x onerror=alert(1)>"
    kitchen = f"{OURS}-kitchen"
    async with (
        _registered((kitchen, {"friendly_name": evil.encode(), "version": b"2026.10.0"})),
        opened_panel(project.root) as panel,
    ):
        page = panel.page
        panel.site.service.lookout.discover = partial(network.discover, interfaces=["127.0.0.1"])
        await panel.go("devices")
        for _ in range(6):  # an answer may reach another program, see _discover_until
            await page.click("text=Look on the network")  # as soon as the look before has ended
            with contextlib.suppress(PageTimeoutError):
                await page.wait_for_selector(f"a[aria-label='Add {kitchen}']", timeout=6_000)
                break
        assert evil in await panel.text("mww-devices"), "shown as the text it is"
        await panel.picture("devices-found")
        await page.click(f"a[aria-label='Add {kitchen}']")
        await panel.settle()
        assert await page.input_value("input[name=name]") == kitchen
        assert await page.input_value("input[name=address]") == "127.0.0.1"
        port = panel.site.opened.devices[0][1]
        assert await page.input_value("input[name=capture_url]") == f"http://127.0.0.1:{port}/api/captures"
        await page.select_option("select[name=template]", "own")
        await page.fill("input[name='need-mic_id']", "i2s_mics")
        await page.click("summary")
        await page.fill("input[name=room]", "Küche")
        panel.accepted.append("422")
        await page.fill("input[name=address]", "not an address")
        await page.click("button.primary")
        await page.wait_for_selector(".problem")
        assert "is no address" in await panel.text(".problem")
        assert await page.input_value("input[name='need-mic_id']") == "i2s_mics", "what was typed stays"
        await page.fill("input[name=address]", "127.0.0.2")
        await page.click("button.primary")
        await page.wait_for_selector("mww-device #about")
        added = (await asyncio.to_thread(load_devices, project))[kitchen]
        assert (added.template, added.address, added.substitutions) == ("own", "127.0.0.2", {"mic_id": "i2s_mics"})
        assert (added.friendly_name, added.room) == (evil, "Küche")

        await panel.go("devices/hall/edit")
        await page.select_option("select[name=template]", "generic-s3-speaker")
        await page.click("button.primary")
        await page.wait_for_selector("mww-device #about")
        assert "template: generic-s3-speaker  # cheap" in project.devices_path.read_text()

        before = await asyncio.to_thread(load_devices, project)
        await page.click("button:has-text('Remove')")
        assert "What stays" in await panel.text("dialog")
        await panel.answer("Remove")
        await page.wait_for_selector(".note button:has-text('Undo')")
        assert "hall" not in await asyncio.to_thread(load_devices, project)
        await page.click(".note button:has-text('Undo')")
        await page.wait_for_selector("mww-device-card [href='#/devices/hall']")
        assert await asyncio.to_thread(load_devices, project) == before
        assert "# ours" in project.devices_path.read_text()


# --- live ------------------------------------------------------------------------------------------------------------


async def test_capturing_is_switched_on_with_its_end_and_off(project: Project):
    async with satellite(wake_model="hey 1") as device:
        add_device(project, reached(device, capture_url="http://192.168.1.5:8098/api/captures"))
        async with opened_panel(project.root) as panel:
            page = panel.page
            await panel.go("devices/kitchen")
            await page.wait_for_selector("text=61.3")
            assert "12 detections" in await panel.text(".counts")
            await page.select_option("select[name=hours]", "72")
            await page.click("text=Switch on")
            await page.wait_for_selector("text=for 72 h more")
            assert (device.states[0].state, device.states[1].state) == (True, 72.0)
            await page.click("text=Switch off")
            await page.wait_for_selector("text=Switch on")
            assert device.states[0].state is False


async def test_a_satellite_is_asked_when_the_page_opens_and_not_on_every_draw(project: Project):
    async with satellite(wake_model="hey 1") as device:
        add_device(project, reached(device))
        async with opened_panel(project.root) as panel:
            await panel.go("devices/kitchen")
            await panel.page.wait_for_selector("text=answers")
            asked = device.connections
            for _ in range(5):
                panel.site.service.tell("devices", {"name": "kitchen"})
                await panel.page.wait_for_timeout(80)
            assert device.connections == asked == 1
            await panel.page.click("text=Ask again")
            async with asyncio.timeout(30):
                while device.connections < 2:
                    await panel.page.wait_for_timeout(20)
            await panel.page.wait_for_function("() => /asked just now/.test(document.body.innerText)")
            assert device.connections == 2
