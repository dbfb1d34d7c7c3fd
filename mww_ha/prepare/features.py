"""Scenes → frames on disk: memory-mapped uint16 shards, each made once, all together one feature set.

``features/<id>/`` holds shards ``<name>.u16`` (frames of 40 channels, 10 ms apart, as the device's frontend gives
them) and ``<name>.json`` (where each scene lies in it and what is said when). A shard is finished or not there, so
interrupted work goes on with the next one. ``index.json`` comes last.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mww_ha import audio, frontend
from mww_ha.config import AugmentSettings
from mww_ha.prepare import augment
from mww_ha.prepare.scenes import CONDITIONS, LEAD_S, RIR_TAPS, Event, Pool, Scene, SceneMaker, Word
from mww_ha.schema import SAMPLE_RATE_HZ, Clip, Label, Origin, Split
from mww_ha.shards import FIELD
from mww_ha.store import atomic_write, write_json

TAIL_S = 0.05
"""Kept after the end of speech, so that a word does not end in a step."""

TRAIN_KINDS = ("wake", "confusable", "speech", "noise")

FIELD_TIMES = 12
"""How often a judged capture is heard anew: at another speed, in other sound, through another microphone."""

FIELD_WORD_S = 3.5
"""Room that a captured word takes in a scene, with the pause after it and what is said in between."""

LONGEST_WORD_S = 2.5
"""A wake or confusable clip that is longer after trimming holds something else, and is left out."""


# ---- pools: the clips of a split, decoded once -------------------------------------------------------------------


def source_of(clip: Clip) -> str:
    """What clips are drawn evenly over: the speech engine, ``recorded`` for people, FIELD for what satellites heard."""
    if clip.origin is Origin.CAPTURED:
        return FIELD
    return clip.speaker.partition(":")[0] if clip.origin is Origin.SYNTHESIZED else "recorded"


def build_pool(root: Path, clips: Sequence[Clip], path: Path) -> dict[str, Any]:
    """Decodes clips (trimmed where they are speech) into one int16 file at ``path``; returns its index.

    The index is also written beside it, last, and read again if it is there.
    """
    index_path = path.with_suffix(".json")
    if path.exists() and index_path.exists():
        index: dict[str, Any] = json.loads(index_path.read_text())
        return index
    words: list[dict[str, Any]] = []
    left_out: list[str] = []
    at = 0
    with atomic_write(path, durable=False) as file:
        for clip in clips:
            if clip.label is Label.RIR:
                continue
            samples = audio.read_samples(root / clip.path)
            start, end = 0, len(samples)
            if clip.label is not Label.NOISE:
                start, end = audio.trim_silence(samples, margin_s=0.0)
            spoken = end - start
            short = clip.label in (Label.WAKE, Label.CONFUSABLE)
            if spoken < SAMPLE_RATE_HZ // 20 or (short and spoken > LONGEST_WORD_S * SAMPLE_RATE_HZ):
                left_out.append(clip.id)
                continue
            stop = min(len(samples), end + int(TAIL_S * SAMPLE_RATE_HZ))
            file.write(samples[start:stop].astype("<i2").tobytes())
            words.append(
                {
                    "clip": clip.id,
                    "label": str(clip.label),
                    "source": source_of(clip),
                    "speaker": clip.speaker or f"clip {clip.id}",
                    "text": clip.text,
                    "start": at,
                    "length": stop - start,
                    "spoken": spoken,
                }
            )
            at += stop - start
    rirs = [clip.path for clip in clips if clip.label is Label.RIR]
    index = {"words": words, "rirs": rirs, "left_out": left_out}
    write_json(index_path, index)
    return index


def open_pool(root: Path, path: Path) -> Pool:
    """The pool that ``build_pool`` made at ``path``."""
    index = json.loads(path.with_suffix(".json").read_text())
    words = [Word(**{**row, "label": Label(row["label"])}) for row in index["words"]]
    rirs = [augment.align_rir(audio.read_rir(root / p), RIR_TAPS) for p in index["rirs"]]
    return Pool(
        path,
        [w for w in words if w.label is not Label.NOISE],
        [w for w in words if w.label is Label.NOISE],
        np.stack(rirs) if rirs else np.zeros((0, RIR_TAPS), np.float32),
    )


# ---- shards ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """What one shard will hold.

    ``family`` is a training kind, ``field`` (training scenes with the judged captures ``clips``), a condition of
    CONDITIONS, ``lures``, or what false accepts are counted on (of training recordings ``real`` is what is searched):
    ``ambient`` (synthetic voices), ``real`` (recordings, each once, as they are), ``varied`` (recorded voices again
    and again, in other rooms and at other speeds: more than nothing, less than new hours).
    """

    name: str
    split: Split
    family: str
    scenes: int
    scene_s: float = 0.0  # of rendered scenes; trials are as long as their words need
    clips: tuple[str, ...] = ()  # for trials and recordings: the clips, in order; for ``field``: those to draw
    seed: tuple[int, ...] = ()


def plan_shards(
    name: str, split: Split, family: str, hours: float, scene_s: float, seed: int, code: int
) -> list[ShardPlan]:
    """Shards of at most 40 scenes that together last ``hours``."""
    total = max(1, round(hours * 3600 / (scene_s - LEAD_S)))
    plans = []
    for number, first in enumerate(range(0, total, 40)):
        plans.append(
            ShardPlan(
                name=f"{name}-{number:03d}",
                split=split,
                family=family,
                scenes=min(40, total - first),
                scene_s=scene_s,
                seed=(seed, code, number),
            )
        )
    return plans


def plan_field(clips: Sequence[Clip], hours: float, scene_s: float, seed: int, code: int) -> list[ShardPlan]:
    """Shards in which each judged capture is heard about ``FIELD_TIMES`` times, and that last ``hours`` at the most."""
    if not clips or hours <= 0:
        return []
    needed = len(clips) * FIELD_TIMES * FIELD_WORD_S / 3600
    plans = plan_shards("train-field", Split.TRAIN, "field", min(hours, needed), scene_s, seed, code)
    return [dataclasses.replace(plan, clips=tuple(clip.id for clip in clips)) for plan in plans]


def count_frames_before(sample: int) -> int:
    """Frames that are complete when ``sample`` samples have come in since the stream's start."""
    return frontend.n_frames(sample)


def _scenes(plan: ShardPlan, maker: SceneMaker) -> Iterator[tuple[str, Scene]]:
    """Each scene with its name: of recordings the clip's id, of others the shard's name and a number."""
    if plan.family == "real":
        by_clip = maker.pool.by_clip
        for word in (by_clip[clip] for clip in plan.clips if clip in by_clip):
            sound = maker.pool.samples[word.start : word.start + word.length]
            said = (Event(word=word, start=0, end=word.spoken),) if word.label is Label.SPEECH else ()
            yield word.clip, Scene(samples=np.asarray(sound), events=said)
        return
    for number, scene in enumerate(render_scenes(plan, maker)):
        yield f"{plan.name}/{number}", scene


def render_scenes(plan: ShardPlan, maker: SceneMaker) -> Iterator[Scene]:
    """The scenes of a shard of words, one after the other from one generator."""
    rng = np.random.default_rng(plan.seed)
    maker.samples = int(plan.scene_s * SAMPLE_RATE_HZ)
    if plan.family in TRAIN_KINDS and plan.split is Split.TRAIN:
        for _ in range(plan.scenes):
            yield maker.make(plan.family, rng)
    elif plan.family == "field":
        by_clip = maker.pool.by_clip
        words = [by_clip[clip] for clip in plan.clips if clip in by_clip]
        for _ in range(plan.scenes):
            yield maker.make_field(words, rng)
    elif plan.family in ("ambient", "varied"):
        for _ in range(plan.scenes):
            kind = "noise" if rng.random() < 0.15 else "speech"
            yield maker.make(kind, rng, recorded_share=float(plan.family == "varied"))
    else:
        by_clip = maker.pool.by_clip
        words = [by_clip[clip] for clip in plan.clips if clip in by_clip]
        condition = CONDITIONS["quiet"] if plan.family == "lures" else CONDITIONS[plan.family]
        for first in range(0, len(words), 10):
            yield maker.make_trial(words[first : first + 10], condition, rng, 2.0)


def render_shard(plan: ShardPlan, maker: SceneMaker, folder: Path) -> float:
    """Makes one shard unless it is there. Returns its seconds of sound.

    Training scenes lose their lead (the frontend is cold in it); trials and ambient keep it, since the detector
    ignores its first second anyway and state should be warm.
    """
    done, path = folder / f"{plan.name}.json", folder / f"{plan.name}.u16"
    if done.exists() and path.exists():
        document = json.loads(done.read_text())
        # A power cut may leave the row and lose the frames, which are not waited for.
        if path.stat().st_size == sum(row["frames"] for row in document["scenes"]) * frontend.CHANNELS * 2:
            return float(document["duration_s"])
    rendered = plan.split is Split.TRAIN and plan.family != "real"
    skip = count_frames_before(int(LEAD_S * SAMPLE_RATE_HZ)) if rendered else 0
    rows: list[dict[str, Any]] = []
    offset, duration_s = 0, 0.0
    stream = frontend.Frontend()
    with atomic_write(path, durable=False) as file:
        for name, scene in _scenes(plan, maker):
            if plan.family != "real":
                stream = frontend.Frontend()
            frames = stream.process(scene.samples)[skip:]
            file.write(np.ascontiguousarray(frames, dtype="<u2").tobytes())
            events = []
            for event in scene.events:
                start = count_frames_before(event.start) - skip
                end = count_frames_before(event.end) - skip
                if plan.family != "real" and start >= 0 and end < len(frames):
                    word = event.word
                    # What is said matters where confusables are reported; sentences would fill the index.
                    text = word.text if word.label is Label.CONFUSABLE else ""
                    events.append([word.clip, str(word.label), word.source, word.speaker, start, end, text])
            speech_s = sum(e.end - e.start for e in scene.events) / SAMPLE_RATE_HZ
            rows.append(
                {
                    "name": name,
                    "offset": offset,
                    "frames": len(frames),
                    "speech_s": round(speech_s, 3),
                    "events": events,
                }
            )
            offset += len(frames)
            duration_s += len(scene.samples) / SAMPLE_RATE_HZ
    write_json(done, {"family": plan.family, "duration_s": duration_s, "scenes": rows})
    return duration_s


_maker: dict[Split, SceneMaker] = {}


def prepare_worker(root: Path, pools: dict[Split, Path], settings: AugmentSettings) -> None:
    """Opens the pools in a worker process."""
    for split, path in pools.items():
        _maker[split] = SceneMaker(open_pool(root, path), settings)


def render_in_worker(plan: ShardPlan, folder: Path) -> float:
    """``render_shard`` with this process's pools."""
    return render_shard(plan, _maker[plan.split], folder)


def close_pools() -> None:
    """Lets go of what ``prepare_worker`` opened, where the work was done in this very process."""
    _maker.clear()
