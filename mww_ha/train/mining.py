"""Hard negatives: where in the training sound the present network is most wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mww_ha import frontend
from mww_ha.nn.mixednet import STRIDE
from mww_ha.nn.streaming import real_features
from mww_ha.train.sampler import NEGATIVE, OUTPUT_STEPS, Sampler

if TYPE_CHECKING:
    from mww_ha.shards import Shard

Floats = npt.NDArray[np.float32]

WINDOW = 5
"""Scores that are averaged when a network is judged in floating point, as ESPHome's models do by default."""


def smooth(logits: Floats, window: int = WINDOW) -> Floats:
    """Running mean over the last ``window`` of logits [..., steps] → [..., steps - window + 1]."""
    return np.lib.stride_tricks.sliding_window_view(logits, window, axis=-1).mean(axis=-1, dtype=np.float32)  # type: ignore[no-any-return]


def score_shard(
    forward: Any, shard: Shard, receptive_frames: int, *, chunk: int = 6000
) -> Iterator[tuple[int, Floats]]:
    """Logits of a shard's frames as (first end frame, logits [steps]); score i ends before frame ``end + i*STRIDE``.

    ``forward`` maps real features [1, frames, 40] to logits. Chunks have one length (the last padded), so that a
    compiled function is traced once; scores across scene borders are included.
    """
    total = len(shard.features)
    hop = (chunk - receptive_frames) // STRIDE * STRIDE + STRIDE
    for start in range(0, max(1, total - receptive_frames + 1), hop):
        piece = np.asarray(shard.features[start : start + chunk])
        valid = len(piece)
        if valid < receptive_frames:
            return
        if valid < chunk:
            piece = np.concatenate([piece, np.zeros((chunk - valid, frontend.CHANNELS), np.uint16)])
        logits = np.asarray(forward(real_features(frontend.quantize_features(piece))[None]))[0]
        yield start + receptive_frames, logits[: (valid - receptive_frames) // STRIDE + 1]


def find_hard(
    forward: Any, sampler: Sampler, kinds: Sequence[str], receptive_frames: int, *, limit: int, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """(shard, end frame) of up to ``limit`` stretches with the highest scores where nobody says the wake word.

    At most one per second of sound, so that a single word does not fill the list; a random half of the shards is
    searched, which is cheaper and keeps the list changing. Captures, which are few, are all searched, and only those
    that the network takes for the wake word are hard: the others are drawn anyway.
    """
    kind_of = [shard.name.split("-")[1] for shard in sampler.shards]
    numbers = [n for n, kind in enumerate(kind_of) if kind in kinds and kind != "field"]
    chosen = [*rng.permutation(numbers)[: max(1, len(numbers) // 2)]]
    chosen += [n for n, kind in enumerate(kind_of) if kind == "field" and kind in kinds]
    found: list[npt.NDArray[np.float64]] = []
    for n in sorted(int(i) for i in chosen):
        for first, logits in score_shard(forward, sampler.shards[n], receptive_frames):
            if len(logits) < WINDOW:
                continue
            smoothed = smooth(logits)
            second = 100 // STRIDE
            for at in range(0, len(smoothed), second):
                best = at + int(np.argmax(smoothed[at : at + second]))
                end = first + (best + WINDOW - 1) * STRIDE
                if kind_of[n] == "field" and smoothed[best] <= 0:
                    continue
                found.append(np.array([smoothed[best], n, end]))
    if not found:
        return np.zeros((0, 2), np.int64)
    table = np.stack(found)
    table = table[np.argsort(-table[:, 0], kind="stable")]
    rows: list[tuple[int, int]] = []
    for _score, n, end in table.tolist():
        if end >= sampler.length and end + 30 < len(sampler.shards[int(n)].features):
            marks = sampler.mark(int(n), int(end) + 15)
            if (marks == NEGATIVE).sum() == OUTPUT_STEPS:
                rows.append((int(n), int(end)))
        if len(rows) >= limit:
            break
    return np.array(rows, np.int64).reshape(-1, 2)
