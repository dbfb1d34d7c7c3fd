"""A person agrees, is recorded by the page's own microphone, and is told at once what became of every take."""

from __future__ import annotations

import asyncio
import wave
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from panel_kit import DESK, PHONE, needs_chromium, opened_panel
from playwright.async_api import Page, Response
from spoken_words import RATE, VOICES, room, word
from test_panel import STATIC, TEXTS
from test_record_sessions import good_takes, one_day  # noqa: F401  the fixture

from mww_ha import audio
from mww_ha.record import people
from mww_ha.record.sessions import PLACES, Heard, add_take, begin_sitting, make_plan, next_session
from mww_ha.record.takes import Fault
from mww_ha.schema import Label, Origin
from mww_ha.store import Project, now

pytestmark = needs_chromium

SLOT_S = 3.5
SPOKEN = 6  # slots with a word
SILENT_S = 14.0  # after them nothing at all; then it begins anew


def spoken_file(path: Path) -> np.ndarray:
    """What the browser's microphone hears, over and over: the word by one voice after the other, then nothing."""
    pieces = []
    for number, voice in enumerate(VOICES[:SPOKEN]):
        slot = room(SLOT_S, number).astype(np.int32)
        spoken = word("hey kitchen", voice)
        slot[RATE : RATE + spoken.size] += spoken
        pieces.append(slot)
    samples = np.clip(np.concatenate(pieces), -32768, 32767).astype(np.int16)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(np.concatenate([samples, np.zeros(round(SILENT_S * RATE), np.int16)]).astype("<i2").tobytes())
    return samples


def microphone(path: Path) -> tuple[str, ...]:
    return (
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={path}",
    )


def likeness(part: np.ndarray, whole: np.ndarray) -> float:
    """The highest normalized correlation of ``part`` with any stretch of ``whole``."""
    part, whole = part.astype(np.float64), whole.astype(np.float64)
    size = 1 << (part.size + whole.size).bit_length()
    product = np.fft.irfft(np.fft.rfft(whole, size) * np.conj(np.fft.rfft(part, size)), size)
    energy = np.concatenate([[0.0], np.cumsum(whole**2)])
    places = whole.size - part.size
    norm = np.sqrt((energy[part.size :] - energy[: -part.size])[:places] * np.sum(part**2))
    return float(np.max(product[:places] / np.maximum(norm, 1.0)))


def test_every_fault_of_a_take_has_words_in_every_language():
    for code, groups in TEXTS.items():
        missing = [fault for fault in Fault if f"fault_{fault}" not in groups["record"] and fault is not Fault.UNUSABLE]
        assert missing == [], code


async def heard(page: Page, true: str) -> None:
    """Until the level meter says so."""
    level = "Number(document.querySelector('.meter').getAttribute('aria-valuenow'))"
    await page.wait_for_function(f"() => {{ const level = {level}; return {true} }}", timeout=60_000)


async def take_one(page: Page, key: str = " ") -> str:
    """Says it after the word that is being said now; returns what the page says of it.

    On a busy machine the key can come when the next word has begun: then that is refused, and said again.
    """
    for _ in range(4):
        await heard(page, "level > -40")
        await heard(page, "level < -50")
        await page.keyboard.press(key)
        await page.wait_for_selector(".booth.recording, .booth.count")
        await page.wait_for_selector(".booth.ready .verdict, .booth.done .verdict", timeout=60_000)
        told = " ".join((await page.inner_text(".verdict")).split())
        if told == "Good.":
            break
        key = " "
    return told


ALIKE = 0.97
"""The likeness that a take at least has with what was said."""


async def take_well(page: Page, project: Project, sound: np.ndarray, key: str = " ") -> str:
    """As ``take_one``. On a busy machine Chromium's own microphone leaves sound out: then once more."""
    known = {clip.id for clip in project.catalogue.clips()}
    told = await take_one(page, key)
    for _ in range(3):
        new = [clip for clip in project.catalogue.clips() if clip.id not in known]
        if all(likeness(audio.read_samples(project.root / clip.path), sound) > ALIKE for clip in new):
            break
        told = await take_one(page, "r")
    return told


async def test_somebody_agrees_once_and_is_recorded_by_the_page(project: Project, tmp_path: Path):
    (project.root / "project.yaml").write_text("phrase: hey kitchen\nrecord: {take_s: 6.0}\n")
    sound = spoken_file(tmp_path / "speech.wav")
    flags = microphone(tmp_path / "speech.wav")
    async with opened_panel(project.root, flags=flags, permissions=["microphone"]) as panel:
        page = panel.page
        await panel.go("record")
        assert "Nobody has been recorded yet" in await panel.text()
        await page.fill("input[name=name]", "Ännchen & Co")
        await page.click("button.primary:has-text('Note it')")
        assert project.catalogue.people() == [], "without the tick nothing is noted"
        await page.check("input[name=agrees]")
        await page.check("input[name=may_share]")
        await page.click("button.primary:has-text('Note it')")
        await page.wait_for_selector("h2:has-text('Record Ännchen & Co')")
        (person,) = project.catalogue.people()
        assert (person.name, person.may_share, person.noted_by) == ("Ännchen & Co", True, "owner")
        assert page.url.endswith("#/record/%C3%84nnchen%20%26%20Co")

        await page.check("input[name=way][value=browser]")
        for text in ("turned away", "from the other end"):
            await page.uncheck(f"label:has-text('{text}') input")
        await page.fill("input[name=takes]", "3")
        await panel.picture("record-person")
        await page.click("button.big:has-text('Begin')")
        await page.wait_for_selector(".booth.ready")
        assert await take_well(page, project, sound) == "Good."
        assert "Speech at" in await panel.text(".told")
        first = project.catalogue.clips()
        assert len(first) == 1
        kept = audio.read_samples(project.root / first[0].path)
        assert likeness(kept, sound) > ALIKE, "what was said is what was kept"
        assert likeness(kept[: kept.size // 2], room(4.0)) < 0.5, "which a room is not"
        await panel.picture("record-verdict")
        await page.set_viewport_size(PHONE)
        await page.emulate_media(color_scheme="dark")
        await panel.check_fits()
        await panel.check_reads_well()
        await panel.picture("record-verdict-phone")
        await page.set_viewport_size(DESK)
        await page.emulate_media(color_scheme="light")

        assert await take_well(page, project, sound, "r") == "Good."
        second = project.catalogue.clips()
        assert [clip.id for clip in second] != [clip.id for clip in first]
        assert len(second) == 1, "the first was taken back"
        assert await take_well(page, project, sound, "n") == "Good."
        assert "Now: from the door" in await panel.text(".stage")
        await heard(page, "level === -120")
        await page.keyboard.press(" ")
        await page.wait_for_selector(".booth.recording")
        await panel.picture("record-recording")
        await page.wait_for_selector(".booth.ready .verdict.bad", timeout=60_000)
        assert "No word was heard" in await panel.text(".told")
        (session,) = [s for s in project.catalogue.sessions() if s.place == "from the door"]
        assert (session.taken, session.refused) == (0, 1)
        await panel.check_fits()
        await panel.check_reads_well()
        clips = project.catalogue.clips()
        assert {(c.label, c.origin, c.speaker, c.text) for c in clips} == {
            (Label.WAKE, Origin.RECORDED, "Ännchen & Co", "hey kitchen")
        }
        assert all(likeness(audio.read_samples(project.root / clip.path), sound) > ALIKE for clip in clips)

        await page.reload()
        await panel.settle()
        await page.set_viewport_size(PHONE)
        await page.emulate_media(color_scheme="dark")
        await panel.check_fits()
        await panel.picture("record-closed-phone")
        await page.set_viewport_size(DESK)
        assert "2 of 2" in await page.get_attribute(".dots >> nth=0", "aria-label")
        await page.click("summary")
        await page.click("button[aria-label='Delete take 1']")
        await page.wait_for_function("() => document.querySelectorAll('.takes li').length === 1")
        assert len(project.catalogue.clips()) == 1
        await panel.go("record")
        assert "Ännchen & Co" in await panel.text(".cards")
        assert await page.locator("input[name=agrees]").count() == 1, "asked for the next person only"


async def record_two_through_a_lost_connection(project: Project, speech: Path) -> list[dict[str, Any]]:
    """Two takes of Anna that go on by themselves; returns what the service says of each that is sent."""
    sent: list[dict[str, Any]] = []

    async def refuse_rates(page: Page) -> None:
        await page.add_init_script(
            "const Own = AudioContext; window.AudioContext = class extends Own { constructor(options = {}) {"
            " if (options.sampleRate) throw new DOMException('another rate', 'NotSupportedError');"
            " super(options); window.rate = this.sampleRate; } };"
        )

    async def note(answer: Response) -> None:
        if answer.url.endswith("/takes"):
            sent.append(await answer.json())

    options = {"flags": microphone(speech), "permissions": ["microphone"], "prepare": refuse_rates, "new_token": True}
    async with opened_panel(project.root, **options) as panel:
        panel.accepted.append("ERR_INTERNET_DISCONNECTED")
        page = panel.page
        page.on("response", note)
        await panel.go("record/anna")
        await page.check("input[name=way][value=browser]")
        await page.fill("input[name=takes]", "2")
        await page.click("button.big:has-text('Begin')")
        await page.wait_for_selector(".booth.ready")
        assert await page.evaluate("window.rate") in (44_100, 48_000)
        await heard(page, "level > -40")
        await heard(page, "level < -50")
        await page.keyboard.press(" ")
        await page.wait_for_selector(".booth.recording")
        await panel.context.set_offline(True)
        await page.wait_for_selector(".told .problem:has-text('The service does not answer')", timeout=60_000)
        await panel.context.set_offline(False)
        await page.check("label:has-text('Go on by itself') input")
        await page.click(".told .problem button")
        await page.wait_for_selector("h2:has-text('All 2 takes of Anna are there')", timeout=120_000)
        assert await page.evaluate("document.querySelector('.told')") is None
        async with asyncio.timeout(30):
            while sum(take["good"] for take in sent) < 2:  # noqa: ASYNC110  what was said of the last is still read
                await asyncio.sleep(0.05)
    return sent


async def test_takes_go_on_by_themselves_at_the_browsers_own_rate_and_a_lost_connection_loses_none(
    project: Project, tmp_path: Path
):
    """Firefox connects a microphone to no other rate than its own; Chromium is made to do the same."""
    (project.root / "project.yaml").write_text("phrase: hey kitchen\nrecord: {take_s: 6.0}\n")
    sound = spoken_file(tmp_path / "speech.wav")
    for _ in range(4):  # as take_well
        people.note_consent(project, "Anna", noted_by="Ben")
        sent = await record_two_through_a_lost_connection(project, tmp_path / "speech.wav")
        kept = [likeness(audio.read_samples(project.root / clip.path), sound) for clip in project.catalogue.clips()]
        if min(kept) > ALIKE:
            break
        people.delete_person(project, "Anna")
    good = [take for take in sent if take["good"]]
    assert len(good) == len(kept) == 2
    assert all(take["heard_s"] < 6.0 for take in good), "they end with the word, not after 6.5 s"
    assert min(kept) > ALIKE


async def test_what_lies_above_the_models_band_does_not_fold_into_it(project: Project, tmp_path: Path):
    """The meter hears what is recorded: a tone at 1 kHz, and nothing of one as loud at 10 kHz."""
    people.note_consent(project, "Anna", noted_by="Ben")
    seconds = np.arange(2 * 48_000) / 48_000
    tones = [0.5 * np.sin(2 * np.pi * hertz * seconds) for hertz in (1000, 10_000)]
    soundfile.write(tmp_path / "tones.wav", np.concatenate(tones), 48_000)
    flags = microphone(tmp_path / "tones.wav")
    plan = make_plan(1, ["here"])
    sitting = begin_sitting(project, person="Anna", device="browser", audio_path="browser", plan=plan)
    async with opened_panel(project.root, flags=flags, permissions=["microphone"]) as panel:
        await panel.go(f"record/Anna?sitting={sitting}")
        await panel.page.wait_for_selector(".meter, button:has-text('Turn the microphone on')")
        if not await panel.page.locator(".meter").count():  # this browser wants a click on the page first
            await panel.page.click("button:has-text('Turn the microphone on')")
        await heard(panel.page, "level > -12")
        await heard(panel.page, "level > -120 && level < -50")


async def test_a_page_without_https_says_why_there_is_no_microphone_and_what_else_there_is(project: Project):
    people.note_consent(project, "Anna", noted_by="Ben")

    async def take_away(page: Page) -> None:
        await page.add_init_script(
            "Object.defineProperty(navigator, 'mediaDevices', {value: undefined});"
            "Object.defineProperty(window, 'isSecureContext', {value: false});"
        )

    async with opened_panel(project.root, prepare=take_away) as panel:
        await panel.go("record/anna")
        text = await panel.text()
        assert (
            "The browser gives no microphone to this page. Browsers allow it only on pages that come by HTTPS" in text
        )
        assert await panel.page.is_disabled("input[name=way][value=browser]")
        assert await panel.page.is_checked("input[name=way][value=files]")
        await panel.check_reads_well()


async def test_files_become_clips_of_a_person_and_what_is_none_is_named(project: Project, tmp_path: Path):
    people.note_consent(project, "Anna", noted_by="Ben")
    paths = []
    for number, samples in enumerate(good_takes(2)):
        paths.append(tmp_path / f"take {number}.wav")
        with wave.open(str(paths[-1]), "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            file.writeframes(samples.astype("<i2").tobytes())
    (tmp_path / "notes.wav").write_text("no sound at all")
    async with opened_panel(project.root, size=PHONE) as panel:
        page = panel.page
        await panel.go("record/Anna")
        await page.check("input[name=way][value=files]")
        await page.set_input_files("input[name=files]", [*paths, tmp_path / "notes.wav"])
        await page.click("button:has-text('Send the files')")
        await page.wait_for_selector("text=2 of 3 files are in the project.")
        assert "not a sound file" in await panel.text(".takes li:nth-child(3)")
        await panel.check_fits()
        await panel.check_reads_well()
        await panel.picture("record-files")
        await page.wait_for_selector(".tag:has-text('2 of 20')")
    assert [(c.speaker, c.origin) for c in project.catalogue.clips()] == [("Anna", Origin.IMPORTED)] * 2


# --- being forgotten -------------------------------------------------------------------------------------------------


async def test_a_person_is_forgotten_after_the_page_has_said_what_goes(project: Project):
    people.note_consent(project, "Anna", noted_by="Ben")
    people.note_consent(
        project, "Jürgen-Maximilian von und zu Hohenlohe-Schillingsfürst", noted_by="Ben", may_share=True
    )
    plan = make_plan(2, ["from the door"])
    sitting = begin_sitting(project, person="Anna", device="browser", audio_path="browser", plan=plan)
    for samples in good_takes(2):
        session = next_session(project, sitting)
        assert session is not None
        assert add_take(project, session.id, Heard(samples=samples, at=datetime.now(UTC))).good
    async with opened_panel(project.root) as panel:
        page = panel.page
        for size, scheme in (((1280, 860), "light"), ((360, 740), "dark")):
            await page.set_viewport_size({"width": size[0], "height": size[1]})
            await page.emulate_media(color_scheme=scheme)
            for address in ("record", "record/Anna"):
                await panel.go(address)
                await panel.check_fits()
                await panel.check_reads_well()
                await panel.picture(f"record-{address.partition('/')[2] or 'people'}-{scheme}")
        await panel.go("record")
        await page.click("button[aria-label='Delete Anna']")
        await page.wait_for_selector("dialog")
        assert "2 recordings" in await panel.text("dialog")
        await page.click("dialog button:has-text('Cancel')")
        assert len(project.catalogue.clips()) == 2
        await page.click("button[aria-label='Delete Anna']")
        await page.click("dialog button.danger")
        await page.wait_for_selector("article[aria-label=Anna]", state="detached")
        assert project.catalogue.clips() == []
        assert now()[:4] in project.catalogue.people()[0].consented_at


async def test_somebody_unknown_is_not_recorded(project: Project):
    async with opened_panel(project.root) as panel:
        await panel.go("record/Nobody%20here")
        assert "Nobody here has not agreed to be recorded" in await panel.text()
        assert await panel.page.locator("button:has-text('Begin')").count() == 0


def test_the_page_calls_the_usual_places_as_the_command_line_does():
    text = (STATIC / "views" / "record_parts.js").read_text()
    assert [place for place in PLACES if f'"{place}"' in text] == list(PLACES)
