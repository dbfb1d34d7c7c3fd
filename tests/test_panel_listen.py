"""What a person tries out in the page is heard as mww_ha.listen hears it: live from a microphone, and from a file."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import numpy as np
import pytest
from panel_kit import DESK, PHONE, Panel, needs_chromium, opened_panel
from playwright.async_api import TimeoutError as PageTimeoutError
from test_web_listening import MODEL, home, whistles  # noqa: F401  home is a fixture
from upload_kit import wav_of

from mww_ha import detector, listen
from mww_ha.store import Project

pytestmark = needs_chromium

FAKE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


async def detections(panel: Panel, section: str) -> list[tuple[float, float]]:
    """Times and scores that a section of the page lists, oldest first."""
    found = await panel.page.eval_on_selector_all(
        f"{section} .detections li", "all => all.map(one => [Number(one.dataset.time), Number(one.dataset.score)])"
    )
    return sorted((time_s, score) for time_s, score in found)


@pytest.mark.parametrize(("size", "scheme", "language"), [(DESK, "light", "en-GB"), (PHONE, "dark", "de-AT")])
async def test_a_file_is_heard_exactly_as_the_command_line_hears_it(
    home: Project, tmp_path: Path, size: dict[str, int], scheme: str, language: str  # noqa: F811
):  # fmt: skip
    path = tmp_path / "tried.wav"
    path.write_bytes(wav_of(whistles()))
    manifest = home.models_dir / f"{MODEL}.json"
    async with opened_panel(home.root, size=size, scheme=scheme, language=language) as panel:
        page = panel.page
        await panel.go(f"listen?model={MODEL}")
        await page.set_input_files("input[type=file]", str(path))
        await page.wait_for_selector("mww-sound .sound-play:not(:disabled)")
        known = await asyncio.to_thread(listen.hear_file, path, manifest)
        assert await detections(panel, "mww-listen") == [(d.time_s, d.score) for d in known.detections]
        assert len(known.detections) >= 3
        await panel.picture(f"listen-file-{scheme}")
        await panel.check_fits()
        await panel.check_reads_well()
        level = {"en": "slightly", "de": "wenig"}[language[:2]]
        async with page.expect_response(lambda answer: "api/listen?" in answer.url):
            await page.click(f"button:text-is('{level}')")
        await panel.settle()
        shown = await asyncio.to_thread(listen.hear_file, path, manifest, cutoff=detector.probability_of_cutoff(200))
        assert await detections(panel, "mww-listen") == [(d.time_s, d.score) for d in shown.detections]


async def hear_live(root: Path, path: Path, wanted: int) -> list[float]:
    """When the page hears something in the file that its microphone plays once; ends with the ``wanted``-th."""
    lit = False
    flags = (*FAKE, f"--use-file-for-fake-audio-capture={path}%noloop")
    async with opened_panel(root, flags=flags, permissions=["microphone"], new_token=True) as panel:
        page = panel.page
        await panel.go(f"listen?model={MODEL}")
        await page.click("button.big")
        # Both are seen while it plays: the lamp goes out, and after the file there is nothing but silence.
        await page.wait_for_function(
            "() => { const { value } = document.querySelector('meter'); return value > 0 && value < 1; }"
        )
        with contextlib.suppress(PageTimeoutError):
            await page.wait_for_selector(".lamp.on", timeout=20_000)
            lit = True
            for count in range(1, wanted + 1):
                await page.wait_for_function(
                    "count => document.querySelectorAll('.live .detections li').length >= count",
                    arg=count,
                    timeout=20_000,
                )
        await panel.picture("listen-live-light")
        await panel.check_fits()
        await panel.check_reads_well()
        found = await detections(panel, ".live")
        assert lit or not found, "the lamp goes on"
        await page.click("button.big")
        await page.wait_for_selector("button.big.primary")
        async with asyncio.timeout(30):
            while panel.site.service.listeners:  # noqa: ASYNC110  the service notices
                await asyncio.sleep(0.02)
    return [time_s for time_s, _ in found]


async def test_a_microphone_is_heard_at_the_same_times_as_the_file_that_it_plays(home: Project, tmp_path: Path):  # noqa: F811
    path = tmp_path / "said.wav"
    path.write_bytes(wav_of(whistles()))
    known = await asyncio.to_thread(listen.hear_file, path, home.models_dir / f"{MODEL}.json")
    wanted = np.array([d.time_s for d in known.detections])
    for _ in range(4):  # on a busy machine Chromium's own microphone leaves sound out: then once more
        found = await hear_live(home.root, path, wanted.size)
        late = np.array(found) - wanted if len(found) == wanted.size else np.array([np.nan])
        if np.ptp(late) <= 0.15 and -1.5 < late.mean() < 0.3:
            break
    assert len(found) == wanted.size
    assert np.ptp(late) <= 0.15, f"the same distances: {late}"
    assert -1.5 < late.mean() < 0.3, f"what came before the microphone was open is missing: {late}"


async def test_without_a_microphone_the_page_says_what_to_do(home: Project):  # noqa: F811
    async with opened_panel(home.root) as panel:
        await panel.go("listen")
        await panel.page.evaluate("Object.defineProperty(navigator.mediaDevices, 'getUserMedia', { value: undefined })")
        await panel.page.click("button.big")
        assert "finds no microphone" in await panel.text(".live .warning")
