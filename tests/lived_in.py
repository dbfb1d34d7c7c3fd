"""A household after some weeks: a model that is vouched for and its report, satellites, captures, people, a rate.

Everything is what the parts themselves write: the run is real, its model was exported with all checks, captures are
scored by the device-exact detector. The wake word whistles (``toy_wake``).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import toy_wake
from test_capture_review import add, spoken
from toy_run import RUN, finished_run, open_run

from mww_ha import audio, export
from mww_ha.capture import review, score
from mww_ha.devices.known import add_device
from mww_ha.record.people import note_consent
from mww_ha.record.sessions import BROWSER, LICENCE, WAKE, begin_sitting, make_plan
from mww_ha.schema import Capture, CaptureKind, Clip, Device, Exposure, Flash, Label, Origin, Verdict
from mww_ha.store import Project

WAITING = 24
PEOPLE = ("Anna", "Jürgen")
_SOUNDS = ("rising", "rising", "falling", "high", "rising", "low", "rising")


@dataclass(frozen=True, kw_only=True)
class Household:
    """The project's folder, and what is in it."""

    root: Path
    model: str  # id; of run ``toy_run.RUN``
    waiting: tuple[str, ...]  # captures that nobody judged, oldest first
    judged: dict[str, Verdict]
    sound_of: dict[str, str]  # capture → whistle: "rising" is the wake word


def make_household(root: Path, base: Path, *, waiting: int = WAITING) -> Household:
    """A household at ``root``; ``base``: a folder for what is made once, as ``tmp_path_factory.getbasetemp()``."""
    shutil.copytree(finished_run(base), root)
    project = open_run(root)
    model = export.run(project, run=RUN).id
    add_devices(project, model)
    add_people(project)
    captures, sounds = add_captures(project, model, waiting)
    score.score_pending(project)
    judged = judge_captures(project, captures[waiting:], sounds)
    project.catalogue.close()
    return Household(
        root=root,
        model=model,
        waiting=tuple(capture.id for capture in captures[:waiting]),
        judged=judged,
        sound_of=sounds,
    )


def add_devices(project: Project, model: str) -> None:
    """Three satellites, what was flashed onto them, and 19 days of listening."""
    url = "http://192.168.1.5:8098/api/captures"
    add_device(project, Device(name="kitchen", template="generic-s3", friendly_name="Küche", capture_url=url))
    add_device(project, Device(name="living-room", template="atom-echo-s3r", capture_url=url, near_miss=True))
    add_device(project, Device(name="bath", template="generic-s3", backend="handoff"))
    began = datetime(2026, 11, 1, 18, 30, tzinfo=UTC)
    for number, (device, outcome, message) in enumerate(
        [
            ("kitchen", "failed", "the password for updates over the air is wrong"),
            ("kitchen", "verified", ""),
            ("living-room", "verified", ""),
            ("bath", "failed", "bath.local does not resolve"),
        ]
    ):
        project.catalogue.put_flash(
            Flash(
                id=f"{number:012x}",
                device=device,
                model=model,
                wake_model=model.replace("-", " "),
                backend="handoff" if device == "bath" else "esphome",
                started_at=(began + timedelta(minutes=9 * number)).isoformat(timespec="seconds"),
                duration_s=184.2,
                outcome=outcome,
                step="record" if outcome == "verified" else "upload" if device == "kitchen" else "preflight",
                message=message,
                build_time="2026-11-01T18:31:00+00:00" if outcome == "verified" else "",
                esphome_version="2026.10.0" if outcome == "verified" else "",
            )
        )
    for device, hours in (("kitchen", 9.0), ("living-room", 6.5)):
        for day in range(1, 20):
            for name in ("", model):
                project.catalogue.add_exposure(
                    Exposure(
                        device=device,
                        model=name,
                        day=f"2026-11-{day:02d}",
                        listening_s=hours * 3600,
                        lost=int(day == 7),
                    )
                )


def add_people(project: Project) -> None:
    """Anna has finished a sitting at the satellite, Jürgen has begun one in the browser."""
    rng = np.random.default_rng(77)
    clips: list[Clip] = []
    for name, path, device, takes in zip(PEOPLE, (WAKE, BROWSER), ("kitchen", "browser"), (8, 3), strict=True):
        left = takes
        note_consent(project, name, noted_by=name, may_share=name == "Anna")
        sitting = begin_sitting(project, person=name, device=device, audio_path=path, plan=make_plan(8))
        for session in project.catalogue.sessions(sitting=sitting):
            for _ in range(min(left, session.wanted)):
                clips.append(
                    audio.add_clip(
                        project.root,
                        toy_wake.whistle(rng),
                        label=Label.WAKE,
                        origin=Origin.RECORDED,
                        speaker=name,
                        session=session.id,
                        text=project.settings.phrase,
                        language="en",
                        licence=LICENCE,
                        source=f"{path} at {device}, {session.place}",
                    )
                )
                project.catalogue.count_take(session.id, taken=1)
                left -= 1
    project.catalogue.add_clips(clips)


def add_captures(project: Project, model: str, waiting: int) -> tuple[list[Capture], dict[str, str]]:
    """So many captures and twelve more, oldest first, and what each one holds."""
    captures, sounds = [], {}
    for number in range(waiting + 12):
        sound = _SOUNDS[number % len(_SOUNDS)]
        samples, end_s = spoken(500 + number, sound=sound, level=30.0 + number % 5 * 20)
        kind = (CaptureKind.DETECTION, CaptureKind.DETECTION, CaptureKind.NEAR_MISS)[number % 3]
        capture = add(
            project,
            samples,
            f"up-{number}",
            after_s=1800.0 * number,
            received_at=datetime.now(UTC).isoformat(timespec="milliseconds"),  # they would expire after two weeks
            device=("kitchen", "living-room")[number % 2],
            kind=kind,
            model=model,
            wake_word=project.settings.phrase,
            firmware="2026.10.0",
            gain=4.0,
            trigger_s=end_s,
            outcome=("ok", "stt-no-text-recognized", "")[number % 3] if kind is CaptureKind.DETECTION else "",
        )
        captures.append(capture)
        sounds[capture.id] = sound
    return captures, sounds


def judge_captures(project: Project, captures: list[Capture], sounds: dict[str, str]) -> dict[str, Verdict]:
    """Says rightly what these are."""
    judged: dict[str, Verdict] = {}
    for number, capture in enumerate(captures):
        near = capture.kind is CaptureKind.NEAR_MISS
        right = sounds[capture.id] == "rising"
        verdict = (Verdict.MISSED_WAKE if near else Verdict.WAKE) if right else Verdict.FALSE_ACCEPT
        review.judge(project, [capture.id], verdict, by="owner", person=PEOPLE[number % 2] if right else None)
        judged[capture.id] = verdict
    return judged
