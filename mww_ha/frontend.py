"""Samples → spectrogram frames, exactly as the firmware makes them; its constants.

The frontend has a memory: noise estimates and gain control settle over the first three to four seconds. A device
has been running for hours when somebody speaks to it, so features of a clip are made with a lead of running audio.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.int16]
Frames = NDArray[np.uint16]

CHANNELS = 40
HOP_SAMPLES = 160
WINDOW_SAMPLES = 480
STEP_MS = 10
WINDOW_MS = 30

FEATURE_SCALE = 10 / 256
"""One raw step of the frontend in the floats that training code calls features (raw / 25.6). Exact in float32."""

INPUT_SCALE = 26 / 255
INPUT_ZERO_POINT = -128
"""How a model's int8 input stands for features: feature = (int8 - zero point) * scale; 0.0 to 26.0 fills the range."""

SETTLED_S = 4.0
"""Running audio after which a frontend's output no longer depends on how it was started (measured: 3.7 s)."""


def n_frames(n_samples: int) -> int:
    """Frames that a fresh frontend makes of ``n_samples``: none below a window, then one per hop."""
    return max(0, (n_samples - WINDOW_SAMPLES) // HOP_SAMPLES + 1)


class Frontend:
    """The streaming frontend of the device. Not for use by two threads at once."""

    def __init__(self) -> None:
        from pymicro_features import MicroFrontend

        self._frontend = MicroFrontend()
        self._rest = b""

    def process(self, samples: Samples) -> Frames:
        """Next samples (any number) → ``uint16[m, 40]``, the frames they complete.

        Fewer than a hop of samples are kept for the next call, so how a signal is cut into calls does not
        change its frames.
        """
        audio = self._rest + np.ascontiguousarray(samples, dtype="<i2").tobytes()
        step = 2 * HOP_SAMPLES
        whole = len(audio) // step * step
        process = self._frontend.process_samples  # takes one hop a call
        values: list[float] = []
        for start in range(0, whole, step):
            values += process(audio[start : start + step]).features
        self._rest = audio[whole:]
        # raw = value / (10/256) is a whole number below 2**16: rint only removes the binary dust.
        raw = np.rint(np.array(values, dtype=np.float64) * (1 / FEATURE_SCALE))
        return raw.astype(np.uint16).reshape(-1, CHANNELS)


def features(samples: Samples, lead: Samples | None = None) -> Frames:
    """Frames ``uint16[m, 40]`` of ``samples``, the frontend started on ``lead`` (running audio before it).

    With a lead, m counts the frames that end inside ``samples``: the first ones still overlap the lead, as they do
    on a device. Without one the frontend starts cold.
    """
    if lead is None or len(lead) == 0:
        return Frontend().process(samples)
    return Frontend().process(np.concatenate([lead, samples]))[n_frames(len(lead)) :]


def _int8_table() -> NDArray[np.int8]:
    raw = np.arange(1 << 16, dtype=np.int64)
    return np.clip((raw * 256 + 333) // 666 - 128, -128, 127).astype(np.int8)


_INT8_OF_RAW = _int8_table()


def quantize_features(frames: Frames) -> NDArray[np.int8]:
    """Raw frames → the model's int8 input, by ESPHome's integer formula: ``(v * 256 + 333) / 666 - 128``, clamped.

    Source: ``generate_features_`` in ESPHome's micro_wake_word.cpp (2026.6 and 2026.10).
    """
    return _INT8_OF_RAW[frames]
