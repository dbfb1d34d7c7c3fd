"""Folders of sound and any ESPHome v2 manifest → traces and report, without a project."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mww_ha import audio, detector, frontend, store
from mww_ha.errors import AudioFileError, InputError
from mww_ha.evaluate.curve import AmbientTrace, LureTrace, TraceSet, WakeEvent
from mww_ha.evaluate.judge import judge_manifest
from mww_ha.evaluate.report import Report, write_report
from mww_ha.schema import SAMPLE_RATE_HZ, Progress, ProgressSink, digest, no_progress
from mww_ha.trials import REACTION_S
from mww_ha.workers import count_processes, run_tasks

Samples = NDArray[np.int16]

LEAD_S = 6.0
"""Running sound before a clip: the frontend settles (4 s) and the detector's warm-up ends (1 s below the cutoff)."""

BED_DBFS = -60.0
"""Level of the quiet noise that runs where no background is given: a quiet room into a microphone."""

LONGEST_CLIP_S = 30.0
_STREAM_BYTES = 30_000_000  # of files that run as one stream: about half an hour; streams run in parallel
_CLIPS_A_TASK = 32
_BLOCK_S = 2.0


def evaluate_model(
    manifest_path: Path,
    wake: Path | None = None,
    ambient: Path | None = None,
    lures: Path | None = None,
    *,
    background: Path | None = None,
    snr_db: float = 10.0,
    budget_per_hour: float = 0.5,
    json_out: Path | None = None,
    html_out: Path | None = None,
    processes: int = 0,
    report: ProgressSink = no_progress,
) -> Report:
    """Judges any ESPHome v2 manifest on folders of sound, at its own cutoff and window.

    Every clip in ``wake`` and ``lures`` is placed in running sound (quiet noise, or ``background`` at ``snr_db``
    under the clip's speech level); files in ``ambient`` run as continuous streams. First-level subfolders of
    ``wake`` are speakers, those of ``lures`` what is said. Files that cannot be used are named in the warnings.
    Raises ManifestError, ModelFileError, AudioFileError, InputError, StorageError.
    """
    manifest = detector.load_manifest(manifest_path)
    stride = detector.load_model(manifest).stride
    content = detector.read_model(manifest.model_path)
    if wake is None and ambient is None and lures is None:
        raise InputError("nothing to judge the model on", hint="name --wake DIR, --ambient DIR or --lures DIR")
    for out in filter(None, (json_out, html_out)):
        store.make_place(out)  # told before what may take an hour
    workers = count_processes(processes)
    beds = find_sound(background) if background is not None else []
    condition = f"{background.name} at {snr_db:g} dB" if background is not None else "quiet"
    warnings: list[str] = []

    def score_clips(folder: Path, what: str) -> list[tuple[Path, detector.Scores, int, int]]:
        paths = find_sound(folder)
        chunks = [paths[i : i + _CLIPS_A_TASK] for i in range(0, len(paths), _CLIPS_A_TASK)]
        tasks = [(number, content, chunk, beds, snr_db, stride) for number, chunk in enumerate(chunks)]
        results: dict[int, list[tuple[Path, detector.Scores, int, int]]] = {}
        faults: list[str] = []
        done = 0
        report(Progress(stage="evaluate", message=what, done=0, total=len(paths), unit="clips"))
        for number, found, bad in run_tasks(_score_clips, tasks, processes=workers):
            results[number] = found
            faults += bad
            done += len(chunks[number])
            report(Progress(stage="evaluate", message=what, done=done, total=len(paths), unit="clips"))
        found = [item for number in sorted(results) for item in results[number]]
        _note_faults(warnings, faults, folder, len(paths))
        return found

    events = [
        WakeEvent(
            clip=_name(path, wake),
            voice=_subfolder(path, wake),
            condition=condition,
            scores=scores,
            start_step=start,
            end_step=end,
        )
        for path, scores, start, end in (score_clips(wake, "wake words") if wake is not None else ())
        if wake is not None
    ]
    others = [
        LureTrace(
            name=_name(path, lures),
            text=_subfolder(path, lures),
            scores=scores,
            start_step=start,
            end_step=end,
        )
        for path, scores, start, end in (score_clips(lures, "lures") if lures is not None else ())
        if lures is not None
    ]
    traces: list[AmbientTrace] = []
    if ambient is not None:
        paths = find_sound(ambient)
        streams = list(_streams(paths))
        faults: list[str] = []
        found: dict[int, AmbientTrace] = {}
        report(Progress(stage="evaluate", message="ambient", done=0, total=len(paths), unit="files"))
        done = 0
        tasks = [(number, content, ambient, stream) for number, stream in enumerate(streams)]
        for number, trace, bad in run_tasks(_score_stream, tasks, processes=workers):
            found[number] = trace
            faults += bad
            done += len(streams[number])
            report(Progress(stage="evaluate", message="ambient", done=done, total=len(paths), unit="files"))
        traces = [found[number] for number in sorted(found) if found[number].hours > 0]
        _note_faults(warnings, faults, ambient, len(paths))
    result = judge_manifest(
        TraceSet(wake=events, ambient=traces, lures=others, stride=stride),
        manifest,
        made_at=store.now(),
        budget_per_hour=budget_per_hour,
        warnings=tuple(warnings),
        provenance=_provenance(manifest, content, wake, ambient, lures, condition),
    )
    if json_out is not None:
        store.write_json(json_out, result.as_json())
    if html_out is not None:
        write_report(html_out, result)
    return result


def find_sound(folder: Path) -> list[Path]:
    """Sound files in ``folder`` and below, sorted; a single file is itself. Raises InputError when there are none."""
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise InputError(f"{folder} is missing", hint="name a folder of sound files")
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in audio.SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    if not found:
        raise InputError(f"{folder} holds no sound files", hint="expected files such as *.wav or *.flac")
    return found


def place_clip(
    samples: Samples, bed: Samples | None, snr_db: float, rng: np.random.Generator
) -> tuple[Samples, int, int]:
    """A clip in running sound: ``LEAD_S`` before it and enough after it for the detector to react.

    ``bed`` is looped and laid ``snr_db`` under the clip's speech level; without one the sound is noise at
    ``BED_DBFS``. Returns the samples and where speech starts and ends in them.
    """
    start, end = audio.trim_silence(samples)
    lead = round(LEAD_S * SAMPLE_RATE_HZ)
    total = lead + len(samples) + round((REACTION_S + 0.25) * SAMPLE_RATE_HZ)
    if bed is None:
        under = rng.standard_normal(total) * 10 ** (BED_DBFS / 20)
    else:
        first = int(rng.integers(0, len(bed)))
        under = audio.int16_to_float(np.resize(np.roll(bed, -first), total)).astype(np.float64)
        power = float(np.mean(under**2))
        if power > 0:
            under *= 10 ** ((audio.speech_level_dbfs(samples) - snr_db) / 20) / np.sqrt(power)
    under[lead : lead + len(samples)] += audio.int16_to_float(samples)
    return audio.float_to_int16(under), lead + start, lead + end


def speech_seconds(samples: Samples) -> float:
    """Seconds that sound like speech, by a simple measure: half-second blocks that are loud enough and modulated.

    Louder than -50 dBFS at their loudest 20 ms and at least 10 dB between their loud and their soft parts (steady
    noise has less). Music with pauses counts too: an upper estimate.
    """
    levels = audio.frame(audio.frame_levels_dbfs(samples), 50, 50)
    if not len(levels):
        return 0.0
    loud = levels.max(axis=1)
    modulated = np.percentile(levels, 90, axis=1) - np.percentile(levels, 10, axis=1)
    return float(np.count_nonzero((loud > -50) & (modulated > 10))) * 0.5


def _score_clips(
    number: int, content: bytes, paths: Sequence[Path], beds: Sequence[Path], snr_db: float, stride: int
) -> tuple[int, list[tuple[Path, detector.Scores, int, int]], list[str]]:
    """Scores of clips in running sound with their first and last counting step; and what could not be used."""
    model = detector.StreamingModel(content)
    found, faults = [], []
    for path in paths:
        # By name and not by order: adding files changes nothing for the others.
        rng = np.random.default_rng(int(digest(path.name), 16))
        try:
            samples = audio.read_audio(path, LONGEST_CLIP_S)
        except AudioFileError as error:
            faults.append(error.message)
            continue
        start, end = audio.trim_silence(samples)
        if end <= start:
            faults.append(f"{path} is silent")
            continue
        bed = audio.read_audio(beds[int(rng.integers(len(beds)))]) if beds else None
        mixed, start, end = place_clip(samples, bed, snr_db, rng)
        scores = detector.score_samples(model, mixed)
        last = detector.step_of_sample(end + round(REACTION_S * SAMPLE_RATE_HZ), stride) + 1
        found.append((path, scores, detector.step_of_sample(start, stride), min(last, len(scores))))
    return number, found, faults


def _score_stream(
    number: int, content: bytes, root: Path, paths: Sequence[Path]
) -> tuple[int, AmbientTrace, list[str]]:
    """One running stream of files, cut nowhere between them."""
    model = detector.StreamingModel(content)
    stream = frontend.Frontend()
    scores: list[detector.Scores] = []
    marks: list[tuple[int, str]] = []
    faults: list[str] = []
    steps = samples = 0
    speech_s = 0.0
    for path in paths:
        marks.append((steps, _name(path, root)))
        try:
            for block in audio.read_blocks(path, _BLOCK_S):
                piece = model.scores(frontend.quantize_features(stream.process(block)))
                scores.append(piece)
                steps += len(piece)
                samples += len(block)
                speech_s += speech_seconds(block)
        except AudioFileError as error:
            faults.append(error.message)
            if marks[-1][0] == steps:
                marks.pop()
    trace = AmbientTrace(
        name=marks[0][1] if marks else "",
        kind=root.name,
        scores=np.concatenate(scores) if scores else np.empty(0, dtype=np.uint8),
        hours=samples / SAMPLE_RATE_HZ / 3600,
        speech_hours=speech_s / 3600,
        marks=tuple(marks),
    )
    return number, trace, faults


def _streams(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Files in a row, in groups that do not depend on the machine."""
    group: list[Path] = []
    size = 0
    for path in paths:
        group.append(path)
        size += path.stat().st_size
        if size >= _STREAM_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _name(path: Path, root: Path) -> str:
    return path.name if path == root else str(path.relative_to(root))


def _subfolder(path: Path, root: Path) -> str:
    parts = path.relative_to(root).parts if path != root else ()
    return parts[0] if len(parts) > 1 else ""


def _note_faults(warnings: list[str], faults: Sequence[str], folder: Path, count: int) -> None:
    if not faults:
        return
    if len(faults) >= count:
        raise InputError(
            f"none of the {count} files in {folder} can be used; {faults[0]}", hint="convert or replace them"
        )
    more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
    warnings.append(f"left out {len(faults)} of {count} files in {folder}: {faults[0]}{more}")


def _provenance(
    manifest: detector.Manifest,
    content: bytes,
    wake: Path | None,
    ambient: Path | None,
    lures: Path | None,
    condition: str,
) -> dict[str, str]:
    rows = {
        "manifest": manifest.path.name,
        "model": f"{manifest.model_path.name}, {len(content):,} bytes",
        "model SHA-256": hashlib.sha256(content).hexdigest(),
        "wake words": f"{wake.name}, placed in running sound: {condition}" if wake else "",
        "ambient": f"{ambient.name}, as continuous streams" if ambient else "",
        "lures": lures.name if lures else "",
        "kernels": "TFLite reference",
        "warm-up": f"{detector.WARMUP_SLICES} slices",
    }
    return {key: value for key, value in rows.items() if value}
