"""Captures heard once more, by the device-exact detector with the model that the satellite carries.

A satellite had been running for hours when it was triggered, a capture starts somewhere: so frontend and model first
hear the capture's own background, backwards, until their memory of an empty start is gone. Between which samples the
satellite's model took its steps nobody knows: a capture is scored three times, a frame apart, and the most favourable
one counts. On a test model with a short window the places differ by up to 30 of 255.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import numpy as np

from mww_ha import audio, detector, frontend
from mww_ha.capture.exposure import is_model_id
from mww_ha.errors import AudioFileError, ManifestError, ModelFileError
from mww_ha.schema import SAMPLE_RATE_HZ, Capture, CaptureKind, CaptureScore, Progress, ProgressSink, no_progress
from mww_ha.store import Project, now

LEAD_S = 5.0
"""The frontend settles in 4 s; the models remember less than two."""

TAIL_S = 0.5
"""After the capture: time for the window to fill when the word ends with it."""

TRIGGER_S = 0.75
"""A detection this close to the trigger is the satellite's own; the loop that triggers takes its time."""

NO_SPEECH = ("stt-no-text-recognized", "stt-stream-failed", "no-speech")
"""Outcomes of a pipeline that woke and heard nobody speak: the mark of a false accept."""

PEAK_S = 1.0
"""The peak of a capture is looked for this close to the trigger; anywhere when nothing triggered it."""

_LONGEST_SHOWN = 60  # characters of a transcript
_SURE_OF_SILENCE_DBFS = -60.0
_CLIPPED_SHARE = 0.001


def score_samples(model: detector.StreamingModel, samples: audio.Samples) -> detector.Scores:
    """Scores of a capture (and half a second of its background after it), as a running device would have had them.

    Score i ends at ``detector.step_time_s(i)`` of the capture, give or take a step.
    """
    block = model.stride * frontend.HOP_SAMPLES
    lead = _background(samples, round(LEAD_S * SAMPLE_RATE_HZ) // block * block)
    tail = _background(samples[::-1], round(TAIL_S * SAMPLE_RATE_HZ))[::-1]
    model.reset()
    scores = model.scores(frontend.quantize_features(frontend.features(np.concatenate([lead, samples, tail]))))
    return scores[len(lead) // block :]


def _background(samples: audio.Samples, count: int) -> audio.Samples:
    """``count`` samples that lead into ``samples`` without a step: its first second mirrored, again and again."""
    piece = samples[: min(samples.size, SAMPLE_RATE_HZ)]
    there_and_back = np.concatenate([piece, piece[::-1]])
    return np.resize(there_and_back, -(-count // there_and_back.size) * there_and_back.size)[-count:]


def score_capture(project: Project, capture: Capture, *, model: str = "") -> CaptureScore:
    """Scores a capture by ``model`` (``<slug>-<sha8>``; empty: the one that woke) and stores the result.

    What is missing or damaged is said in ``problem``, not raised: the next captures are scored all the same.
    """
    score = _score(project, capture, model or capture.model)
    project.catalogue.put_score(score)
    return score


def score_pending(project: Project, *, limit: int = 0, report: ProgressSink = no_progress) -> list[CaptureScore]:
    """Scores every capture that has sound and no score by its model yet, the newest first, at most ``limit`` (0: all).

    Captures whose model was missing are tried again once its file is there; what failed otherwise is not.
    """
    known = {(score.capture, score.model): score for score in project.catalogue.scores()}
    pending: list[Capture] = []
    for capture in project.catalogue.captures(newest_first=True):
        score = known.get((capture.id, capture.model))
        lacked_model = score is not None and score.problem == _missing(capture.model)
        if capture.path and (score is None or (lacked_model and _has_model(project, capture.model))):
            pending.append(capture)
    pending = pending[:limit] if limit else pending
    scored: list[CaptureScore] = []
    for capture in pending:
        scored.append(score_capture(project, capture))
        report(Progress(stage="score", done=len(scored), total=len(pending), unit="captures"))
    return scored


def _has_model(project: Project, model: str) -> bool:
    return is_model_id(model) and (project.models_dir / f"{model}.json").is_file()


def _missing(model: str) -> str:
    return f"{model} is not in models/"


def _score(project: Project, capture: Capture, model: str) -> CaptureScore:
    def failed(why: str) -> CaptureScore:
        return CaptureScore(capture=capture.id, model=model, scored_at=now(), problem=why)

    if not model:
        return failed("the satellite did not say which model it carries")
    if not _has_model(project, model):
        # the name came from a satellite: only a plain one becomes a path
        return failed(_missing(model))
    try:
        manifest = detector.load_manifest(project.models_dir / f"{model}.json")
        streaming = detector.load_model(manifest)
        samples = audio.read_samples(project.root / capture.path)
    except (ManifestError, ModelFileError, AudioFileError) as error:
        return failed(error.message)
    rated = [
        rate_scores(
            capture,
            model,
            score_samples(streaming, samples[skipped:]),
            cutoff=manifest.cutoff,
            window=manifest.sliding_window,
            stride=streaming.stride,
            skipped=skipped,
        )
        for skipped in range(0, streaming.stride * frontend.HOP_SAMPLES, frontend.HOP_SAMPLES)
    ]
    return max(rated, key=lambda score: (score.reproduced, score.peak))


def rate_scores(
    capture: Capture,
    model: str,
    scores: detector.Scores,
    *,
    cutoff: int,
    window: int,
    stride: int = detector.DEFAULT_STRIDE,
    skipped: int = 0,
) -> CaptureScore:
    """What the firmware would have decided on ``scores`` at this cutoff (0 to 255), the warm-up over.

    ``skipped``: samples of the capture before the first one that was scored.
    """
    begin_s = skipped / SAMPLE_RATE_HZ
    # The detector has been armed for hours: quiet scores in front stand for that.
    quiet = -(-2 * detector.WARMUP_SLICES // stride)
    found = detector.detect(
        np.concatenate([np.zeros(quiet, np.uint8), scores]), cutoff=cutoff, window=window, stride=stride
    )
    offset_s = quiet * stride * frontend.STEP_MS / 1000
    times = tuple(round(d.time_s - offset_s + begin_s, 3) for d in found)
    running = np.concatenate([np.zeros(window, np.int64), np.cumsum(scores, dtype=np.int64)])
    sums = running[window:] - running[:-window]
    anywhere = capture.kind is CaptureKind.PROMPT or capture.trigger_s < 0
    if not anywhere:
        # The seconds before may hold another word, which triggered another capture.
        ends_s = np.array([begin_s + detector.step_time_s(step, stride) for step in range(len(sums))])
        sums = np.where(np.abs(ends_s - capture.trigger_s) <= PEAK_S, sums, 0)
    best = int(np.argmax(sums)) if len(sums) else 0
    return CaptureScore(
        capture=capture.id,
        model=model,
        scored_at=now(),
        peak=round(float(sums[best]) / window / 255, 4) if len(sums) else 0.0,
        peak_s=round(begin_s + detector.step_time_s(best, stride), 3),
        cutoff=round(cutoff / 255, 4),
        detections_s=times,
        reproduced=any(anywhere or abs(time_s - capture.trigger_s) <= TRIGGER_S for time_s in times),
        trace=scores.tobytes(),
    )


def set_outcome(project: Project, id: str, outcome: str) -> None:
    """Notes what Home Assistant's pipeline made of it: ``ok``, or its error code such as ``stt-no-text-recognized``."""
    project.catalogue.update_capture(id, outcome=outcome[:80])


def find_detection(project: Project, device: str, at: datetime, *, within_s: float = 5.0) -> Capture | None:
    """The detection of ``device`` nearest to ``at``, to join a pipeline run with; None when there is none that near."""
    span = timedelta(seconds=within_s)
    near = project.catalogue.captures(
        kinds=[CaptureKind.DETECTION], device=device, since=_moment(at - span), before=_moment(at + span)
    )
    return min(near, key=lambda capture: abs(datetime.fromisoformat(capture.captured_at) - at), default=None)


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds")


def find_hints(
    capture: Capture, score: CaptureScore | None, reported: bool = False, transcript: str | None = None
) -> list[str]:
    """Short sentences that help a person to judge, none of them a verdict.

    ``reported``: called a false wake there. ``transcript``: what speech-to-text read; None: it was not asked.
    """
    hints: list[str] = []
    if reported or capture.kind is CaptureKind.FALSE_WAKE:
        hints.append("called a false wake at the satellite")
    if capture.outcome in NO_SPEECH:
        hints.append("nothing was said after it")
    elif capture.outcome == "ok":
        hints.append("an order was understood after it")
    elif capture.outcome == "duplicate_wake_up_detected":
        hints.append("another satellite answered")
    if transcript is not None:
        hints.append(
            f"speech-to-text read {transcript[:_LONGEST_SHOWN]!r}" if transcript else "speech-to-text read nothing"
        )
    if score is None:
        return hints
    if score.problem:
        return [*hints, f"not scored: {score.problem}"]
    level = f"peak {score.peak:.2f}, cutoff {score.cutoff:.2f}"
    if capture.kind in (CaptureKind.DETECTION, CaptureKind.CANARY):
        hints.append(f"{level}: heard here too" if score.reproduced else f"{level}: not heard here")
    elif capture.kind is CaptureKind.NEAR_MISS:
        hints.append(f"{level}: hardly the phrase" if score.peak < score.cutoff / 2 else level)
    else:
        hints.append(f"{level}: heard" if score.reproduced else f"{level}: not heard")
    return hints


def find_faults(samples: audio.Samples) -> list[str]:
    """What is wrong with the sound itself: nearly silent, clipped."""
    faults: list[str] = []
    level = audio.speech_level_dbfs(samples)
    if level < _SURE_OF_SILENCE_DBFS:
        faults.append(f"nearly silent ({level:.0f} dBFS)")
    rails = np.count_nonzero((samples >= 32_767) | (samples <= -32_768)) if samples.size else 0
    if rails > _CLIPPED_SHARE * samples.size:
        faults.append(f"clipped ({100 * rails / samples.size:.1f} % of the samples)")
    return faults


def best_scores(scores: Iterable[CaptureScore], captures: Iterable[Capture]) -> dict[str, CaptureScore]:
    """For each capture the score by the model that woke, else the newest one."""
    models = {capture.id: capture.model for capture in captures}
    best: dict[str, CaptureScore] = {}
    for score in scores:
        known = best.get(score.capture)
        if known is None or known.model != models.get(score.capture):
            best[score.capture] = score
    return best
