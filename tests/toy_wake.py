"""A wake word that whistles: a small real network that hears a rising chirp, made in about a second without TensorFlow.

Stem and block are random projections, the head is fitted by logistic regression on features of the device's frontend.
``toy()`` gives the network, its ranges and its INT8 file; ``write_model`` puts that file and a manifest into a folder.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mww_ha import detector, frontend
from mww_ha.export.manifest import write_manifest
from mww_ha.nn import quantize, streaming
from mww_ha.nn.streaming import FusedBlock, FusedNet

RATE = 16_000
CUTOFF, WINDOW = 150, 3
SOUNDS = ("rising", "falling", "low", "high")
"""Only the first wakes."""


@dataclass(frozen=True, kw_only=True)
class Toy:
    """A network that detects, as training would leave it."""

    net: FusedNet
    ranges: dict[str, tuple[float, float]]
    model: bytes


def whistle(rng: np.random.Generator, sound: str = "rising") -> np.ndarray:
    """int16 samples of one whistle, 0.4 to 0.5 s, by a 'speaker' with a pitch, a speed and a level of its own."""
    duration_s = rng.uniform(0.4, 0.5)
    time_s = np.arange(int(duration_s * RATE)) / RATE
    low, high = 500 * rng.uniform(0.9, 1.1), 3000 * rng.uniform(0.9, 1.1)
    start, end = {"rising": (low, high), "falling": (high, low), "low": (low, low), "high": (high, high)}[sound]
    octaves = np.log2(end / start) * time_s / duration_s
    phase = 2 * np.pi * np.cumsum(start * 2**octaves) / RATE
    shape = np.minimum(1, 40 * np.minimum(time_s, time_s[::-1]))
    return np.rint(np.sin(phase) * shape * rng.uniform(2000, 9000)).astype(np.int16)


def noise(rng: np.random.Generator, seconds: float, level: float = 60.0) -> np.ndarray:
    """int16 samples of a quiet room."""
    return np.rint(rng.standard_normal(int(seconds * RATE)) * level).astype(np.int16)


def scene(rng: np.random.Generator, sounds: list[str], level: float = 60.0) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Whistles about 2 s apart in running noise, the first after 4 s; and each one's first and last sample."""
    pieces, places = [noise(rng, 4.0, level)], []
    at = len(pieces[0])
    for sound in sounds:
        pieces += [whistle(rng, sound), noise(rng, rng.uniform(1.6, 2.4), level)]
        places.append((at, at + len(pieces[-2])))
        at += len(pieces[-2]) + len(pieces[-1])
    samples = np.concatenate(pieces).astype(np.int32)
    for start, end in places:
        samples[start:end] += noise(rng, 1.0, level)[: end - start]
    return samples.clip(-32768, 32767).astype(np.int16), places


def bursts(rng: np.random.Generator, count: int) -> np.ndarray:
    """int16 samples of noise whose level jumps ``count`` times, each level held for 0.1 to 1 s."""
    return np.concatenate([noise(rng, rng.uniform(0.1, 1), 10 ** rng.uniform(1.2, 3.7)) for _ in range(count)])


def random_net(
    rng: np.random.Generator,
    *,
    stem_filters: int = 16,
    filters: int = 16,
    kernels: tuple[int, ...] = (5, 9),
    head_steps: int = 8,
    stem_kernel: int = 5,
    stride: int = 3,
) -> FusedNet:
    """A network of the given shape with random weights; a block keeps its input where the widths allow it."""
    blocks = []
    width = stem_filters
    for kernel in kernels:
        blocks.append(
            FusedBlock(
                depthwise=_normal(rng, kernel, width, size=1 / np.sqrt(kernel)),
                pointwise=_normal(rng, width, filters, size=1 / np.sqrt(width)),
                bias=_normal(rng, filters, size=0.1),
                residual=width == filters,
            )
        )
        width = filters
    return FusedNet(
        stride=stride,
        stem=_normal(rng, stem_kernel, 40, stem_filters, size=0.1 / np.sqrt(5)),
        stem_bias=_normal(rng, stem_filters, size=0.1),
        blocks=tuple(blocks),
        head=_normal(rng, head_steps, width, size=1 / np.sqrt(head_steps * width)),
        head_bias=0.0,
    )


def _normal(rng: np.random.Generator, *shape: int, size: float) -> np.ndarray:
    return (rng.standard_normal(shape) * size).astype(np.float32)


def real_features(frames: np.ndarray) -> np.ndarray:
    """Raw frames → the real values the device's int8 input stands for."""
    return (frontend.quantize_features(frames).astype(np.float32) + 128) * np.float32(streaming.FEATURE_STEP)


@functools.cache
def toy() -> Toy:
    """The network, fitted; the same every time."""
    rng = np.random.default_rng(11)
    net = random_net(rng, filters=24, stem_filters=24, head_steps=12)
    rows, targets, recordings = [], [], []
    for level in (0.0, 20.0, 40.0, 80.0, 120.0, 160.0, 200.0):
        sounds = [SOUNDS[i] for i in rng.choice(4, 30 if level else 0, p=(0.4, 0.2, 0.2, 0.2))]
        samples, places = scene(rng, sounds, level) if level else (bursts(rng, 90), [])
        frames = frontend.features(samples)
        recordings.append(frontend.quantize_features(frames))
        states = streaming.run_layers(net, real_features(frames))[f"b{len(net.blocks) - 1}"]
        windows = np.lib.stride_tricks.sliding_window_view(states, net.head.shape[0], axis=0).transpose(0, 2, 1)
        ends = (np.arange(len(windows)) * net.stride + net.receptive_frames) * frontend.HOP_SAMPLES
        wanted = np.zeros(len(windows))
        known = ends > RATE
        for sound, (start, end) in zip(sounds, places, strict=True):
            late = ends - end
            if sound == "rising":
                wanted[(late >= 0) & (late < 0.2 * RATE)] = 1
                known &= (ends < start + 0.2 * RATE) | ((late >= 0) & (late < 0.2 * RATE)) | (late > 0.5 * RATE)
        known &= (wanted > 0) | (np.arange(len(windows)) % 3 == 0)
        rows.append(windows[known].reshape(known.sum(), -1))
        targets.append(wanted[known])
    weights, bias = _fit_logistic(np.concatenate(rows), np.concatenate(targets))
    head = weights.reshape(net.head.shape).astype(np.float32)
    net = streaming.scale_logits(dataclasses.replace(net, head=head, head_bias=bias), 0.35, -0.5)
    ranges = quantize.measure_ranges(net, recordings)
    return Toy(net=net, ranges=ranges, model=quantize.write_tflite(net, ranges))


def _fit_logistic(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and bias of a logistic regression by Newton's method, kept small so that scores do not pile up."""
    x = np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1)
    cost = np.where(y > 0, (y == 0).sum() / max(1, (y > 0).sum()) / 4, 1.0).astype(x.dtype)
    keep = np.full(x.shape[1], 10.0, x.dtype)
    keep[-1] = 0.01
    weights = np.zeros(x.shape[1], x.dtype)
    for _ in range(6):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        slope = x.T @ (cost * (p - y).astype(x.dtype)) + keep * weights
        curve = (x * (cost * p * (1 - p))[:, None]).T @ x + np.diag(keep)
        weights -= np.linalg.solve(curve, slope)
    return weights[:-1], float(weights[-1])


def write_model(folder: Path, *, name: str = "toy") -> Path:
    """Writes ``<name>.tflite`` and its manifest into ``folder``; returns the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.tflite").write_bytes(toy().model)
    path = folder / f"{name}.json"
    write_manifest(
        path,
        phrase="a rising whistle",
        model_file=f"{name}.tflite",
        author="the tests",
        website="",
        languages=["en"],
        probability_cutoff=detector.probability_of_cutoff(CUTOFF),
        sliding_window=WINDOW,
        tensor_arena_bytes=30_000,
    )
    return path
