"""Makes the documents' pictures of the panel, from a running panel.

tools/panel_pictures.py PROJECT [--to DIR]     of a copy of a project with a model (such as quickstart makes)

What the copy gets besides is made up and only there to be seen: two satellites, what they captured (clips of the
project in noise, scored by its own model), verdicts, two speakers and listening hours.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
from bench_panel import USABLE, open_browser

from mww_ha import audio
from mww_ha.capture import review, score
from mww_ha.devices.known import add_device
from mww_ha.record.people import note_consent
from mww_ha.schema import SAMPLE_RATE_HZ, Capture, CaptureKind, Device, Exposure, Flash, Label, Verdict, digest
from mww_ha.store import Project, open_project
from mww_ha.web.app import Options, open_service

DESK, PHONE = (1280, 800), (390, 844)
PICTURES = (
    # name, view, window, scheme
    ("home", "home", DESK, "light"),
    ("review", "review", DESK, "dark"),
    ("model", "models/{model}", DESK, "light"),
    ("devices", "devices", DESK, "light"),
    ("train", "train", DESK, "dark"),
    ("record", "record", PHONE, "light"),
    ("home-phone", "home", PHONE, "dark"),
)
DEVICES = ("kitchen", "living-room")
SPEAKERS = ("speaker-a", "speaker-b")


def furnish(project: Project) -> str:
    """Makes the project look lived in. Returns the model's id."""
    model = str(project.catalogue.models()[0]["id"])
    rng = np.random.default_rng(20)
    today = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    for number, name in enumerate(DEVICES):
        add_device(
            project, Device(name=name, template="generic-s3", capture_url="http://192.168.1.5:8098/api/captures")
        )
        project.catalogue.put_flash(
            Flash(
                id=f"{number:012x}",
                device=name,
                model=model,
                wake_model=model.replace("-", " "),
                backend="esphome",
                started_at=(today - timedelta(days=21, minutes=7 * number)).isoformat(timespec="seconds"),
                duration_s=212.0,
                outcome="verified",
                step="record",
                esphome_version="2026.10.0",
            )
        )
        for day in range(21):
            for carried in ("", model):
                project.catalogue.add_exposure(
                    Exposure(
                        device=name,
                        model=carried,
                        day=(today - timedelta(days=day)).date().isoformat(),
                        listening_s=3600.0 * (9 + number),
                        lost=0,
                    )
                )
    for name in SPEAKERS:
        note_consent(project, name, noted_by=name)
    clips = {label: project.catalogue.clips(label) for label in (Label.WAKE, Label.CONFUSABLE, Label.SPEECH)}
    for number in range(40):
        label = (Label.WAKE, Label.WAKE, Label.CONFUSABLE, Label.SPEECH)[number % 4]
        clip = clips[label][int(rng.integers(len(clips[label])))]
        capture = put_capture(project, model, audio.read_samples(project.root / clip.path), number, today, rng)
        if number >= 24:
            judge(project, capture, label, SPEAKERS[number % 2])
    score.score_pending(project)
    return model


def put_capture(
    project: Project, model: str, word: audio.Samples, number: int, today: datetime, rng: np.random.Generator
) -> Capture:
    """5 s of noise with the word in it, as a satellite would send it."""
    samples = np.rint(rng.standard_normal(5 * SAMPLE_RATE_HZ) * 120).astype(np.int32)
    word = word[: 3 * SAMPLE_RATE_HZ]
    end = 4 * SAMPLE_RATE_HZ
    samples[end - len(word) : end] += (word * rng.uniform(0.3, 0.8)).astype(np.int32)
    heard = samples.clip(-32768, 32767).astype(np.int16)
    sha256 = audio.samples_digest(heard)
    at = (today - timedelta(hours=5 * number, minutes=int(rng.integers(55)))).isoformat(timespec="milliseconds")
    name = DEVICES[number % 2]
    kind = CaptureKind.NEAR_MISS if number % 5 == 4 else CaptureKind.DETECTION
    capture = Capture(
        id=digest([name, number]),
        device=name,
        upload=f"made-up-{number}",
        kind=kind,
        captured_at=at,
        received_at=at,
        wake_word=project.settings.phrase,
        model=model,
        firmware="2026.10.0",
        gain=4.0,
        trigger_s=4.0,
        path=f"captures/{sha256[:2]}/{sha256}.flac",
        sha256=sha256,
        bytes=2 * heard.size,
        duration_s=heard.size / SAMPLE_RATE_HZ,
        outcome=("ok", "stt-no-text-recognized")[number % 2] if kind is CaptureKind.DETECTION else "",
    )
    audio.write_flac(project.root / capture.path, heard, durable=False)
    project.catalogue.add_capture(capture)
    return capture


def judge(project: Project, capture: Capture, label: Label, speaker: str) -> None:
    """The verdict that is right."""
    near = capture.kind is CaptureKind.NEAR_MISS
    right = label is Label.WAKE
    verdict = (Verdict.MISSED_WAKE if near else Verdict.WAKE) if right else Verdict.FALSE_ACCEPT
    review.judge(project, [capture.id], verdict, by="owner", person=speaker if right else None)


async def take_pictures(root: Path, model: str, target: Path) -> None:
    """One file a picture."""
    async with (
        open_service(root, Options(port=0, device_port=None, new_token=True)) as opened,
        open_browser() as chromium,
    ):
        for name, view, (width, height), scheme in PICTURES:
            context = await chromium.new_context(
                viewport={"width": width, "height": height},
                color_scheme="dark" if scheme == "dark" else "light",
                locale="en-GB",
                reduced_motion="reduce",
            )
            page = await context.new_page()
            await page.goto(opened.url)
            await page.wait_for_selector("main h1")
            await page.goto(f"{opened.url.partition('?')[0]}#/{view.format(model=model)}")
            await page.wait_for_function(USABLE)
            await page.wait_for_timeout(1500)  # waveforms and curves are drawn
            await page.screenshot(path=str(target / f"{name}.png"))
            print(target / f"{name}.png")
            await context.close()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("--to", type=Path, default=Path(__file__).parent.parent / "addon" / "pictures")
    chosen = parser.parse_args()
    chosen.to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "project")
        shutil.copytree(chosen.project, root, ignore=shutil.ignore_patterns("service"))
        project = open_project(root)
        model = furnish(project)
        project.catalogue.close()
        asyncio.run(take_pictures(root, model, chosen.to))


if __name__ == "__main__":
    main()
