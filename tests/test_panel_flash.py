"""A flash in the panel: every step in sight while it runs, what went wrong where, and the way back; for real."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import host_build
from fake_api_device import FakeDevice, satellite
from flash_host import command_for
from host_device import HostDevice, free_port
from ota_receiver import OtaReceiver
from panel_kit import Panel, needs_chromium, opened_panel
from test_flash_device import PASSWORD, _models, backend, built  # noqa: F401  the fixture
from test_web_devices import flashed, reached

from mww_ha.devices.known import add_device
from mww_ha.schema import Device
from mww_ha.store import Project

pytestmark = needs_chromium


def models_of(project: Project) -> tuple[str, str]:
    """Two models of one phrase in a project's catalogue; ids."""
    project.models_dir.mkdir(exist_ok=True)
    manifests = _models(project.models_dir)
    for manifest in manifests:
        about = f"models/{manifest.stem}.about.json"
        document = {"id": manifest.stem, "manifest_path": f"models/{manifest.name}", "about_path": about}
        project.catalogue.put_model(manifest.stem, document)
    return manifests[0].stem, manifests[1].stem


async def steps(panel: Panel) -> dict[str, str]:
    """The steps of the last flash by name, with their state."""
    found = await panel.page.evaluate(
        "() => [...document.querySelectorAll('.steps li')].map((one) => [one.dataset.step, one.className])"
    )
    return dict(found)


@contextlib.asynccontextmanager
async def opened_flash(project: Project, device: Device, **given: Any) -> AsyncIterator[Panel]:
    add_device(project, device)
    given = {"api_port": device.port, "password": PASSWORD, **given}
    async with opened_panel(project.root, command=command_for(**given)) as panel:
        await panel.go(f"devices/{device.name}")
        yield panel


async def test_a_wrong_password_is_shown_where_it_happened_with_what_to_do_and_stays_after_a_reload(project: Project):
    first, second = models_of(project)
    ota_port = free_port()
    async with FakeDevice() as device:
        flashed(project, "kitchen", first)
        with OtaReceiver(ota_port, password="the one that the device knows") as receiver:
            async with opened_flash(
                project, reached(device, template="host"), ota_port=ota_port, image=60_000
            ) as panel:
                page = panel.page
                await page.select_option("select[name=model]", second)
                await page.click("button:text-is('Flash')")
                await page.wait_for_selector(".steps .failed", timeout=60_000)
                await page.wait_for_selector(".job.failed .problem")
                said = await panel.text(".job .problem")
                assert "kitchen refuses the OTA password" in said
                assert "mww_ota_password" in said
                states = {"preflight": "done", "compile": "done", "upload": "failed", "verify": "waiting"}
                assert await steps(panel) == states
                assert PASSWORD not in await page.content()
                await panel.check_fits()
                await panel.check_reads_well()
                await panel.picture("devices-wrong-password")

                await page.reload()
                await panel.settle()
                await page.wait_for_selector(".steps .failed")
                assert await steps(panel) == states, "the log tells it again"
                assert "kitchen refuses the OTA password" in await panel.text(".job .problem")
                history = await panel.text("table tbody tr:first-child")
                assert "failed" in history
                assert second in history
                await panel.go("devices")
                assert "The last flash failed" in await panel.text("mww-device-card")
        assert receiver.sessions == ["wrong password"]


async def test_a_check_alone_sends_nothing_and_says_what_it_would_do(project: Project):
    models_of(project)
    async with (
        FakeDevice() as device,
        opened_flash(project, reached(device, template="host"), ota_port=free_port(), image=60_000) as panel,
    ):
        await panel.page.check("input[name=dry]")
        await panel.page.click("button:text-is('Check')")
        await panel.page.wait_for_selector(".job.done", timeout=60_000)
        await panel.page.wait_for_selector("text=would make")
        assert await steps(panel) == {
            "preflight": "done", "compile": "skipped", "upload": "skipped", "verify": "skipped",
        }  # fmt: skip
        assert "Nothing was flashed yet" in await panel.text()


async def test_all_are_checked_one_after_the_other_and_one_that_fails_is_named(project: Project):
    models_of(project)
    async with FakeDevice() as kitchen, FakeDevice(name="hall") as hall:
        add_device(project, Device(name="attic", template="host", address="127.0.0.1", port=free_port(), api_key=""))
        add_device(project, reached(hall, "hall", template="host"))
        async with opened_flash(
            project, reached(kitchen, template="host"), ota_port=free_port(), image=60_000
        ) as panel:
            await panel.go("devices")
            await panel.page.click("text=Check all")
            await panel.page.wait_for_selector(".job.failed", timeout=90_000)
            assert "1 of 3 devices failed: attic" in await panel.text(".job .problem")
            await panel.page.wait_for_selector(".attempt:nth-of-type(3) .skipped")
            found = await panel.page.evaluate(
                """() => [...document.querySelectorAll('.attempt')].map((one) => [
                    one.querySelector('h3').innerText, [...one.querySelectorAll('li')].map((li) => li.className)])"""
            )
            checked = ["done", "skipped", "skipped", "skipped"]
            assert found == [
                ["attic", ["failed", "waiting", "waiting", "waiting"]], ["hall", checked], ["kitchen", checked],
            ]  # fmt: skip
            assert "nothing listens" in await panel.text(".steps .failed")
            await panel.check_reads_well()
            await panel.picture("devices-check-all")


async def test_a_model_is_put_on_trial_and_a_name_that_is_not_found_is_said_with_what_to_do(project: Project):
    first, second = models_of(project)
    url = "http://192.168.1.5:8098/api/captures"
    add_device(
        project, Device(name="kitchen", template="generic-s3", address="mwwtest.invalid", api_key="", capture_url=url)
    )
    flashed(project, "kitchen", first)
    async with opened_panel(project.root) as panel:
        page = panel.page
        await panel.go("devices/kitchen")
        options = await page.eval_on_selector_all("select[name=trial] option", "all => all.map((one) => one.value)")
        assert options == [second], "not the one that wakes"
        for model in (first, second):
            await panel.go(f"devices/kitchen?model={model}")
            await page.wait_for_function("(id) => document.querySelector('select[name=model]').value === id", arg=model)
        await page.wait_for_function("() => document.querySelector('#flash').getBoundingClientRect().top > 0")
        await page.click("text=Put it on trial")
        await page.wait_for_selector(".job.failed .problem", timeout=60_000)
        said = await panel.text(".job .problem")
        assert "no device answers to the name mwwtest.invalid" in said
        assert "192.168.1.20" in said
        assert (await steps(panel))["preflight"] == "failed"
        [job] = await panel.site.get("/api/jobs")
        assert (job["kind"], job["order"]["model"]) == ("canary", second)


async def test_a_model_that_is_worse_comes_last_and_needs_a_second_yes(project: Project):
    first, second = models_of(project)
    document = project.catalogue.models()[0]
    worse = document["id"]
    project.catalogue.put_model(worse, {**document, "offered": False, "comparison": {"reason": "It misses 9 of 30."}})
    async with (
        FakeDevice() as device,
        opened_flash(project, reached(device, template="host"), ota_port=free_port(), image=60_000) as panel,
    ):
        page = panel.page
        options = await page.eval_on_selector_all("select[name=model] option", "all => all.map((one) => one.value)")
        assert options == [*({first, second} - {worse}), worse]
        await page.select_option("select[name=model]", worse)
        assert "It misses 9 of 30." in await panel.text("form .warning")
        assert await page.is_disabled("button:text-is('Flash')")
        await page.check("input[name=sure]")
        await page.check("input[name=dry]")
        await page.click("button:text-is('Check')")
        await page.wait_for_selector(".job.done", timeout=60_000)


async def test_after_a_hand_over_the_page_says_which_button_and_then_asks_the_satellite(project: Project):
    first, _ = models_of(project)
    message = "in ESPHome press Install for kitchen.yaml, then come back"
    async with satellite(wake_model=first.replace("-", " ")) as device:
        add_device(project, reached(device, backend="handoff"))
        flashed(project, "kitchen", first, "handed over", message=message, step="upload")
        async with opened_panel(project.root) as panel:
            await panel.go("devices/kitchen")
            assert message in await panel.text("section.card .warning")
            assert "flash.handoff_dir is empty" in await panel.text()
            await panel.page.click("text=Ask what it runs now")
            await panel.page.wait_for_selector("p.good:has-text('It runs')", timeout=30_000)
            assert (await steps(panel))["verify"] == "done"
            [row] = project.catalogue.flashes("kitchen")
            assert row.outcome == "verified"


@host_build.needs_compiler
async def test_a_real_satellite_is_flashed_step_by_step_verified_and_taken_back(
    project: Project,
    built: tuple[Path, int, int],  # noqa: F811
    tmp_path: Path,
):
    program, api_port, ota_port = built
    first, second = models_of(project)
    flashed(project, "kitchen", first)
    (tmp_path / "device").mkdir()
    own = Path(shutil.copy(program, tmp_path / "device" / "program"))
    device = Device(name="kitchen", template="host", address="127.0.0.1", port=api_port, api_key="")
    seen: list[str] = []

    def saw(step: str) -> None:
        seen.append(step)

    with HostDevice(own, api_port=api_port, home=tmp_path / "device") as running:
        async with opened_flash(project, device, ota_port=ota_port) as panel:
            page = panel.page
            await page.expose_function("saw", saw)
            await page.evaluate(
                """() => new MutationObserver(() => {
                    const one = document.querySelector('.steps .running');
                    if (one) window.saw(one.dataset.step);
                }).observe(document.querySelector('mww-devices'), {subtree: true, childList: true, attributes: true})"""
            )
            await page.wait_for_selector(f"dd:has-text('{first.replace('-', ' ')}')")
            await page.select_option("select[name=model]", second)
            await page.click("button:text-is('Flash')")
            await page.wait_for_selector(".steps [data-step=compile].running", timeout=60_000)
            await panel.picture("devices-flashing")
            await page.wait_for_selector(f"p.good:has-text('It runs {second}')", timeout=120_000)
            assert list(dict.fromkeys(seen)) == ["preflight", "compile", "upload", "verify"]
            assert set((await steps(panel)).values()) == {"done"}
            await page.wait_for_selector(f"dd:has-text('{second.replace('-', ' ')}')")
            assert running.log().count("will re-exec") == 1
            await panel.picture("devices-flashed")

            await page.click("button:text-is('Go back')")
            assert first in await panel.text("dialog")
            await panel.answer("Go back")
            await page.wait_for_selector(f"p.good:has-text('It runs {first}')", timeout=120_000)
            await page.wait_for_selector(f"dd:has-text('{first.replace('-', ' ')}')")
            assert running.log().count("will re-exec") == 2
            await panel.check_reads_well()
    rows = project.catalogue.flashes("kitchen")
    assert [(row.outcome, row.model) for row in rows] == [
        ("verified", first),
        ("verified", second),
        ("verified", first),
    ]
