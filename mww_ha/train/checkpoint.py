"""Which weights are kept: candidates are judged as the file that would be flashed, on voices training never saw.

A candidate is fused, its logits are scaled so that its decisions fall where uint8 scores are finest, its ranges are
measured, it becomes an INT8 file, and that file hears the validation side. Fewest misses within the false-accept
budget win.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mww_ha import frontend, trials
from mww_ha.nn import quantize
from mww_ha.nn.streaming import FusedNet, scale_logits
from mww_ha.schema import Label
from mww_ha.shards import open_shard
from mww_ha.train.mining import WINDOW, score_shard, smooth

AMBIENT_FAMILIES = ("ambient", "varied", "real")

JUDGED_BUDGETS = (0.5, 1.0, 2.0, 4.0)
"""Misses are averaged over these multiples of the budget: at one alone, one event decides between two networks."""

RATE_LOW, RATE_HIGH = 0.1, 2.0
"""False accepts per hour between which cutoffs must be apart."""

CENTRE, SPREAD = 0.6, 1.6
"""Logit where the middle of that range is put, and how wide it becomes: probabilities of about 0.45 to 0.8."""

CALIBRATION_FRAMES = 1500
KEEP = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A network as it would be flashed, and how it did on the validation side."""

    name: str
    net: FusedNet
    ranges: dict[str, tuple[float, float]]
    model: bytes
    misses: float  # mean over conditions and JUDGED_BUDGETS
    recalls: dict[str, float]
    cutoff: int
    per_hour: float
    hours: float


class Judge:
    """The validation side of a feature set."""

    def __init__(self, folder: Path, index: Mapping[str, Any], *, budget: float, processes: int) -> None:
        self.folder, self.budget, self.processes = folder, budget, processes
        shards: dict[str, list[str]] = index["shards"]
        self.families = {
            name.partition("/")[2]: names for name, names in shards.items() if name.startswith("validation/")
        }
        train = [n for name, names in sorted(shards.items()) if name.startswith("train/") for n in names[:2]]
        self._calibration = [open_shard(folder, name) for name in train]

    def recordings(self) -> list[npt.NDArray[np.int8]]:
        """int8 training sound to measure ranges on."""
        pieces = []
        for shard in self._calibration:
            step = max(CALIBRATION_FRAMES, len(shard.features) // 6)
            starts = range(0, max(1, len(shard.features) - CALIBRATION_FRAMES), step)
            pieces += [np.asarray(shard.features[start : start + CALIBRATION_FRAMES]) for start in starts]
        return [frontend.quantize_features(piece) for piece in pieces]

    def find_scale(self, forward: Any, receptive_frames: int) -> tuple[float, float]:
        """Gain and offset of the logit so that the cutoffs for 0.1 to 2 false accepts per hour are apart.

        From the floating-point network over ambient sound: its highest smoothed logit in each second, sorted.
        """
        peaks: list[npt.NDArray[np.float32]] = []
        seconds = 0.0
        for family in AMBIENT_FAMILIES:
            for name in self.families.get(family, []):
                shard = open_shard(self.folder, name)
                seconds += len(shard.features) * frontend.STEP_MS / 1000
                for _, logits in score_shard(forward, shard, receptive_frames):
                    if len(logits) >= WINDOW:
                        runs = smooth(logits)
                        edges = np.arange(0, len(runs), 66)  # two seconds: about one decision
                        peaks.append(np.maximum.reduceat(runs, edges))
        ranked = np.sort(np.concatenate(peaks))[::-1] if peaks else np.zeros(1, np.float32)
        hours = max(seconds / 3600, 1e-9)
        high = float(ranked[min(len(ranked) - 1, int(RATE_LOW * hours))])
        low = float(ranked[min(len(ranked) - 1, max(int(RATE_HIGH * hours), 3))])
        gain = float(np.clip(SPREAD / max(high - low, 1e-3), 0.1, 1.0))
        return gain, CENTRE - gain * (high + low) / 2

    def make(self, name: str, net: FusedNet, forward: Any) -> Candidate:
        """Scales, quantizes and judges one network; ``forward`` is the same network in floating point."""
        gain, offset = self.find_scale(forward, net.receptive_frames)
        scaled = scale_logits(net, gain, offset)
        ranges = quantize.measure_ranges(scaled, self.recordings(), keep=KEEP)
        model = quantize.write_tflite(scaled, ranges)
        names = [n for family in (*trials.CONDITION_FAMILIES, *AMBIENT_FAMILIES) for n in self.families.get(family, [])]
        # Optimised kernels rank as well as the reference ones and are five times as fast; what is chosen here is
        # measured again, exactly, by ``evaluate``.
        traces = trials.score_shards(model, self.folder, names, processes=self.processes, kernels="fast")
        ambient = [t for family in AMBIENT_FAMILIES for t in self._of(traces, family)]
        counts, hours = trials.count_false_accepts(ambient, WINDOW)
        peaks = {
            family: trials.wake_peaks(self._of(traces, family), WINDOW, Label.WAKE)
            for family in trials.CONDITION_FAMILIES
        }
        cutoffs = [trials.lowest_cutoff(counts, hours, self.budget * times) for times in JUDGED_BUDGETS]
        cutoff = trials.lowest_cutoff(counts, hours, self.budget)
        every = [trials.recall_at(own, c, WINDOW) for own in peaks.values() for c in cutoffs]
        return Candidate(
            name=name,
            net=scaled,
            ranges=ranges,
            model=model,
            misses=1.0 - float(np.mean(every)),
            recalls={family: trials.recall_at(own, cutoff, WINDOW) for family, own in peaks.items()},
            cutoff=cutoff,
            per_hour=float(counts[min(cutoff, 255)] / hours) if hours else 0.0,
            hours=hours,
        )

    def _of(self, traces: Mapping[str, Sequence[trials.Trace]], family: str) -> list[trials.Trace]:
        return trials.group_traces(traces, self.families.get(family, []))


def average(weights: Sequence[Sequence[npt.NDArray[np.float32]]]) -> list[npt.NDArray[np.float32]]:
    """Mean of several networks' weights, tensor by tensor."""
    return [
        np.asarray(np.mean(np.stack(group), axis=0, dtype=np.float64), np.float32)
        for group in zip(*weights, strict=True)
    ]
