#!/usr/bin/env python3
"""How fast frontend, model and decision are, as multiples of real time on one core.

    tools/bench_detector.py [M.json ...]      (default: the models bundled with pymicro-wakeword)

Also how far the kernels are from TFLite Micro, on the same sound. Sound: 60 s of noise with a speech-like rhythm,
so no file is needed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mww_ha import detector, frontend
from mww_ha.errors import MissingDependencyError

SECONDS = 60.0


def make_sound(seconds: float) -> np.ndarray:
    """Noise bands that open and close four times a second."""
    rng = np.random.default_rng(0)
    count = round(seconds * 16000)
    noise = np.convolve(rng.standard_normal(count), np.ones(6) / 6, mode="same")
    gate = np.interp(np.arange(count), np.arange(0, count, 4000), rng.uniform(0, 1, -(-count // 4000)) ** 2)
    return np.clip(noise * gate * 9000, -32768, 32767).astype(np.int16)


def measure(work: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """CPU seconds of the best of some runs (other work on the machine does not count), and the result."""
    best, result = float("inf"), None
    for _ in range(times):
        start = time.process_time()
        result = work()
        best = min(best, time.process_time() - start)
    return best, result


def main(paths: list[str]) -> None:
    """Prints one line per measurement."""
    if not paths:
        import pymicro_wakeword

        paths = [str(p) for p in sorted((Path(pymicro_wakeword.__file__).parent / "models").glob("*.json"))]
    samples = make_sound(SECONDS)
    spent, frames = measure(lambda: frontend.features(samples))
    print(f"frontend: {SECONDS / spent:.0f} x real time, {1e6 * spent / len(frames):.1f} us per frame")
    int8 = frontend.quantize_features(frames)
    for path in paths:
        manifest = detector.load_manifest(Path(path))
        content = detector.read_model(manifest.model_path)
        scores = {}
        for kernels in ("reference", "fast"):
            model = detector.StreamingModel(content, kernels=kernels)
            spent, scores[kernels] = measure(lambda model=model: (model.reset(), model.scores(int8))[1])
            per_score = 1e6 * spent / len(scores[kernels])
            print(f"{manifest.path.stem} {kernels}: {SECONDS / spent:.0f} x real time, {per_score:.1f} us per score")
        try:
            spent, micro = measure(lambda content=content: detector.scores_tflite_micro(content, int8), 1)
        except MissingDependencyError:
            print("  tflite-micro is not installed")
            continue
        differ = {kernels: np.count_nonzero(found != micro) for kernels, found in scores.items()}
        print(
            f"  tflite-micro: {SECONDS / spent:.0f} x real time; of {len(micro)} scores differ: "
            + ", ".join(f"{kernels} {count}" for kernels, count in differ.items())
        )
    trace = np.minimum(255, np.random.default_rng(0).gamma(0.3, 8, 1_200_000)).astype(np.uint8)
    spent, counts = measure(lambda: detector.count_detections(trace, np.arange(256), 5), 1)
    print(f"256 cutoffs on 10 h of scores: {spent:.2f} s, up to {counts.max()} detections")
    spent, found = measure(lambda: detector.detect(trace, cutoff=20, window=5), 1)
    assert len(found) == counts[20]
    print(f"one cutoff on 10 h, score by score: {spent:.2f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
