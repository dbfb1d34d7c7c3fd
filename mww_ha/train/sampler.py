"""Feature shards → batches, composed by class.

A batch depends on the seed and the step's number only, so a training that was stopped goes on with the batch it
would have seen. An example is a crop of frames; the classes draw it around the end of a wake word, around a
confusable or a short piece of speech, anywhere in speech or noise, or around what mining found hardest.

Judged captures are few, alike, and of one household: all crops of shards of the kind ``field`` together have a share
of their own that they never exceed, and no single capture takes more than a small part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mww_ha import frontend
from mww_ha.errors import ConfigError
from mww_ha.nn.mixednet import STRIDE
from mww_ha.schema import Label
from mww_ha.shards import FIELD

if TYPE_CHECKING:
    from mww_ha.shards import Shard

OUTPUT_STEPS = 24
"""Scores per crop: 0.72 s."""

CORE_FRAMES = (2, 18)
"""Every score that ends this long after the end of the word should be high."""

ZONE_FRAMES = (-15, 40)
"""Somewhere in here the mean over a window must be high; nothing here is a false accept."""

BEFORE_FRAMES = -28
"""Scores that end before this must be low: half a wake word is not one."""

AFTER_FRAMES = 70
"""Scores that end later than this are past the word."""

IGNORED, NEGATIVE, ZONE, CORE = 0, 1, 2, 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Parts of a batch, the first four need not add up to one; ``hard`` is the part of the negatives from mining."""

    wake: float
    confusable: float
    speech: float
    noise: float
    hard: float
    field: float = 0.0  # of the batch, at the most, out of the wake words and the negatives
    field_clip: float = 0.0  # of the batch, at the most: one capture


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """``features`` int8 [batch, frames, 40]; ``marks`` uint8 [batch, steps].

    ``positive`` bool [batch]: the crop shows the end of a wake word whole; one that is cut off is ignored.
    """

    features: npt.NDArray[np.int8]
    marks: npt.NDArray[np.uint8]
    positive: npt.NDArray[np.bool_]


def warp_time(end: int, length: int, warp: bool, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Which frame stands at each place of a crop that ends before frame ``end``, [length].

    The last 0.55 s stay as they are, so that labels near the end keep their place; before that the crop is spoken
    faster and slower (0.75 to 1.3 times) in turns of about a quarter of a second.
    """
    fixed = 55
    places = np.arange(end - length, end)
    if not warp or rng.random() < 0.4 or end < 1.35 * length:
        return places
    speeds = np.exp(rng.uniform(-0.28, 0.26, -(-(length - fixed) // 25)))
    back = np.cumsum(np.repeat(speeds, 25)[: length - fixed])[::-1]
    places[: length - fixed] = end - fixed - np.rint(back).astype(np.int64)
    return np.maximum(places, 0)


def warp_channels(crop: npt.NDArray[np.uint16], shift: float) -> npt.NDArray[np.uint16]:
    """Moves a crop's spectrum by ``shift`` channels up or down, as a shorter or longer vocal tract does."""
    low = int(np.floor(shift))
    part = np.float32(shift - low)
    channels = np.arange(frontend.CHANNELS) - low
    upper = crop[:, np.clip(channels, 0, frontend.CHANNELS - 1)].astype(np.float32)
    lower = crop[:, np.clip(channels - 1, 0, frontend.CHANNELS - 1)]
    return (upper + (lower - upper) * part + np.float32(0.5)).astype(np.uint16)


def share_field(captures: Mapping[str, int], shares: Shares) -> dict[str, float]:
    """Parts of a batch for captured wake words and lures, given how many captures there are of each.

    Together ``shares.field`` at the most; where both ask for more than half of it, each has half.
    """
    wanted = {name: min(shares.field, count * shares.field_clip) for name, count in captures.items()}
    half = shares.field / 2
    granted = {
        name: min(share, max(half, shares.field - (sum(wanted.values()) - share))) for name, share in wanted.items()
    }
    return {name: share for name, share in granted.items() if share > 0}


def _draw_rows(table: npt.NDArray[np.int64], count: int, kind: str, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """``count`` of the places, each with its crop's last frame somewhat later."""
    if not count:
        return np.zeros((0, 2), np.int64)
    chosen = table[rng.integers(len(table), size=count)].copy()
    low, high = (22, 48) if kind == "wake" else (0, 48) if kind != "hard" else (0, 30)
    chosen[:, 1] += rng.integers(low, high, size=count)
    return chosen


class Sampler:
    """Draws batches from the training shards of the four classes."""

    def __init__(
        self,
        shards: dict[str, Sequence[Shard]],
        *,
        receptive_frames: int,
        batch: int,
        shares: Shares,
        mask_frames: int,
        mask_channels: int,
        warp: bool,
        seed: int,
    ) -> None:
        if shares.wake <= 0:
            raise ConfigError("train.wake_share is 0", hint="without wake words there is nothing to learn: try 0.3")
        self.length = receptive_frames + (OUTPUT_STEPS - 1) * STRIDE
        self.batch = batch
        self.shares = shares
        self.mask_frames, self.mask_channels, self.warp, self.seed = mask_frames, mask_channels, warp, seed
        self.shards = [shard for kind in sorted(shards) for shard in shards[kind]]
        number = {id(shard): n for n, shard in enumerate(self.shards)}
        wake_ends: list[tuple[int, int]] = []
        anchors: dict[str, list[tuple[int, int]]] = {"wake": [], "confusable": [], "short": []}
        captured: dict[str, list[tuple[int, int]]] = {"wake": [], "lure": []}
        captures: dict[str, set[str]] = {"wake": set(), "lure": set()}
        spans: dict[str, list[tuple[int, int, int]]] = {"speech": [], "noise": []}
        for kind, own in shards.items():
            for shard in own:
                n = number[id(shard)]
                for scene in shard.scenes:
                    if scene.frames > self.length and kind in spans:
                        spans[kind].append((n, scene.offset + self.length, scene.offset + scene.frames))
                    for event in scene.events:
                        end = scene.offset + event.end_frame
                        room = (scene.offset + self.length, scene.offset + scene.frames - 50)
                        if event.label is Label.WAKE:
                            wake_ends.append((n, end))
                        if not room[0] <= end < room[1] or kind == "real":
                            continue  # recordings as they are: what is hard in them is found by mining
                        if kind == "field":
                            if event.source == FIELD:
                                which = "wake" if event.label is Label.WAKE else "lure"
                                captured[which].append((n, end))
                                captures[which].add(event.clip)
                            continue
                        if event.label is Label.WAKE:
                            anchors["wake"].append((n, end))
                        elif event.label is Label.CONFUSABLE:
                            anchors["confusable"].append((n, end))
                        elif kind != "speech":
                            anchors["short"].append((n, end))
        self._anchors = {name: np.array(rows, np.int64).reshape(-1, 2) for name, rows in anchors.items()}
        self._spans = {name: np.array(rows, np.int64).reshape(-1, 3) for name, rows in spans.items()}
        self._captured = {name: np.array(rows, np.int64).reshape(-1, 2) for name, rows in captured.items()}
        self._field_shards = np.array([kind == "field" for kind in sorted(shards) for _ in shards[kind]], bool)
        self.field_shares = share_field({name: len(own) for name, own in captures.items()}, shares)
        self.hard = np.zeros((0, 2), np.int64)
        self._wake_ends: list[npt.NDArray[np.int64]] = [
            np.sort(np.array([end for m, end in wake_ends if m == n], np.int64)) for n in range(len(self.shards))
        ]

    def counts(self) -> dict[str, int]:
        """Distinct anchors per class."""
        return {name: len(rows) for name, rows in self._anchors.items()}

    def _compose(self, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """(shard, last frame + 1) of each crop [batch, 2]."""
        s = self.shares
        have = {
            "wake": s.wake,
            "confusable": s.confusable if len(self._anchors["confusable"]) else 0.0,
            "short": s.speech / 2 if len(self._anchors["short"]) else 0.0,
            "speech": s.speech / 2 if len(self._spans["speech"]) else 0.0,
            "noise": s.noise if len(self._spans["noise"]) else 0.0,
        }
        total = sum(have.values())
        counts = {name: int(self.batch * share / total) for name, share in have.items()}
        hard_rows, field_rows = self._split_hard()
        if len(hard_rows):
            hard = 0
            for name in ("confusable", "short", "speech", "noise"):
                moved = int(counts[name] * s.hard)
                counts[name] -= moved
                hard += moved
            counts["hard"] = hard
        counts["wake"] += self.batch - sum(counts.values())
        rows = self._draw_field(counts, field_rows, rng)
        for name, count in counts.items():
            if name in self._spans:
                spans = self._spans[name][rng.integers(len(self._spans[name]), size=count)]
                ends = rng.integers(spans[:, 1], spans[:, 2] + 1)
                rows.append(np.stack([spans[:, 0], ends], axis=1))
                continue
            table = hard_rows if name == "hard" else self._anchors[name]
            rows.append(_draw_rows(table, count, name, rng))
        return np.concatenate(rows)

    def _split_hard(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """What mining found in ordinary shards, and among captures, which have a share of their own."""
        if not self._field_shards.any() or not len(self.hard):
            return self.hard, self.hard[:0]
        own = self._field_shards[self.hard[:, 0]]
        return self.hard[~own], self.hard[own]

    def _draw_field(
        self, counts: dict[str, int], hard: npt.NDArray[np.int64], rng: np.random.Generator
    ) -> list[npt.NDArray[np.int64]]:
        """Crops of captures, taken off ``counts``: wake words off the wake words, lures off the largest negatives.

        Half of the lures are those that the network takes for the wake word still, where mining found some.
        """
        rows: list[npt.NDArray[np.int64]] = []
        for which, share in self.field_shares.items():
            wanted = self.batch * share
            # Below one crop a batch it is one crop every few batches.
            count = int(wanted) if wanted >= 1 else int(rng.random() < wanted) if wanted > 0 else 0
            if not count:
                continue
            if which == "wake":
                counts["wake"] -= count
                rows.append(_draw_rows(self._captured["wake"], count, "wake", rng))
                continue
            for _ in range(count):
                counts[max((name for name in counts if name != "wake"), key=lambda name: counts[name])] -= 1
            mined = int(rng.binomial(count, 0.5)) if len(hard) else 0
            rows.append(_draw_rows(self._captured["lure"], count - mined, "lure", rng))
            rows.append(_draw_rows(hard, mined, "hard", rng))
        return rows

    def mark(self, shard: int, end: int) -> npt.NDArray[np.uint8]:
        """What each score of the crop that ends before frame ``end`` should be, [steps]."""
        marks = np.full(OUTPUT_STEPS, NEGATIVE, np.uint8)
        times = end - STRIDE * np.arange(OUTPUT_STEPS - 1, -1, -1)
        ends = self._wake_ends[shard]
        first, last = np.searchsorted(ends, [end - self.length - AFTER_FRAMES, end - BEFORE_FRAMES + 1])
        for word in ends[first:last]:
            after = times - word
            marks[(after >= BEFORE_FRAMES) & (after < AFTER_FRAMES) & (marks == NEGATIVE)] = IGNORED
            marks[(after >= ZONE_FRAMES[0]) & (after < ZONE_FRAMES[1])] = ZONE
            marks[(after >= CORE_FRAMES[0]) & (after < CORE_FRAMES[1])] = CORE
        return marks

    def draw(self, step: int) -> Batch:
        """The batch of one step; the same for the same seed, step and ``hard``."""
        rng = np.random.default_rng([self.seed, step])
        crops = self._compose(rng)
        features = np.empty((self.batch, self.length, frontend.CHANNELS), np.uint16)
        marks = np.empty((self.batch, OUTPUT_STEPS), np.uint8)
        for i, (shard, wanted) in enumerate(crops.tolist()):
            frames = self.shards[shard].features
            end = min(max(wanted, self.length), len(frames))
            crop = frames[warp_time(end, self.length, self.warp, rng)]
            if self.warp and rng.random() < 0.6:
                crop = warp_channels(crop, float(rng.uniform(-2.0, 2.0)))
            features[i] = crop
            marks[i] = self.mark(shard, end)
        self._mask(features, rng)
        positive = (marks == CORE).sum(axis=1) >= 5
        return Batch(features=frontend.quantize_features(features), marks=marks, positive=positive)

    def _mask(self, features: npt.NDArray[np.uint16], rng: np.random.Generator) -> None:
        """SpecAugment in place: silences one band of channels and up to two stretches of time of most crops."""
        for i in np.flatnonzero(rng.random(len(features)) < 0.6):
            if self.mask_channels:
                width = int(rng.integers(0, self.mask_channels + 1))
                at = int(rng.integers(0, frontend.CHANNELS - width + 1))
                features[i, :, at : at + width] = 0
            for _ in range(2):
                if self.mask_frames:
                    width = int(rng.integers(0, self.mask_frames + 1))
                    at = int(rng.integers(0, self.length - width + 1))
                    features[i, at : at + width] = 0
