"""Samples → spectrogram frames, exactly as the firmware makes them; its constants.

The frontend has a memory: noise estimates and gain control settle over the first three to four seconds. A device
has been running for hours when somebody speaks to it, so features of a clip are made with a lead of running audio.
"""

from __future__ import annotations

import collections
import os
import queue
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from mww_ha.errors import ToolError
from mww_ha.schema import SAMPLE_RATE_HZ

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


def warm_features(lead: Samples, samples: Samples) -> Frames:
    """Frames of ``samples`` by a frontend that has been running: ``lead`` is repeated until it has settled.

    ``lead`` must not be empty. Its end joins the samples.
    """
    wanted = round(SETTLED_S * SAMPLE_RATE_HZ)
    times = -(-wanted // len(lead))
    return features(samples, np.tile(lead, times))


def _int8_table() -> NDArray[np.int8]:
    raw = np.arange(1 << 16, dtype=np.int64)
    return np.clip((raw * 256 + 333) // 666 - 128, -128, 127).astype(np.int8)


_INT8_OF_RAW = _int8_table()


def quantize_features(frames: Frames) -> NDArray[np.int8]:
    """Raw frames → the model's int8 input, by ESPHome's integer formula: ``(v * 256 + 333) / 666 - 128``, clamped.

    Source: ``generate_features_`` in ESPHome's micro_wake_word.cpp (2026.6 and 2026.10).
    """
    return _INT8_OF_RAW[frames]


def dequantize_features(int8: NDArray[np.int8]) -> NDArray[np.float32]:
    """The model's int8 input → the float features it stands for (0.0 to 26.0)."""
    return (int8.astype(np.float32) - np.float32(INPUT_ZERO_POINT)) * np.float32(INPUT_SCALE)


def features_many(signals: Iterable[Samples], processes: int | None = None) -> Iterator[Frames]:
    """``features`` of each signal, in order, computed by ``processes`` children (default: one per CPU core).

    At most a few signals per child are in memory at once. The children need no ``__main__`` guard in the caller,
    read from a pipe and so end with this process, however it ends.
    """
    processes = os.cpu_count() or 1 if processes is None else processes
    if processes <= 1:
        for signal in signals:
            yield features(signal)
        return
    idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
    children = [_Child() for _ in range(processes)]
    for child in children:
        idle.put(child)

    def work(signal: Samples) -> Frames:
        child = idle.get()
        try:
            return child.features(signal)
        finally:
            idle.put(child)

    waiting: collections.deque[Future[Frames]] = collections.deque()
    pool = ThreadPoolExecutor(processes, thread_name_prefix="frontend")
    try:
        for signal in signals:
            waiting.append(pool.submit(work, signal))
            if len(waiting) >= 4 * processes:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for child in children:
            child.close()


class _Child:
    """A process that turns signals into frames: length (uint32) and bytes in, length and bytes out."""

    def __init__(self) -> None:
        package_parent = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(p for p in (package_parent, os.environ.get("PYTHONPATH", "")) if p)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mww_ha.frontend"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )

    def features(self, signal: Samples) -> Frames:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            _send(self._process.stdin, np.ascontiguousarray(signal, dtype="<i2").tobytes())
            answer = _receive(self._process.stdout)
        except OSError:
            answer = None
        if answer is None:
            raise ToolError("a feature process ended unexpectedly", hint="memory may have run out; use fewer processes")
        return np.frombuffer(answer, dtype="<u2").reshape(-1, CHANNELS)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def _send(pipe: IO[bytes], content: bytes) -> None:
    pipe.write(struct.pack("<I", len(content)))
    pipe.write(content)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> bytes | None:
    head = pipe.read(4)
    if len(head) < 4:
        return None
    (length,) = struct.unpack("<I", head)
    content = pipe.read(length)
    return content if len(content) == length else None


def _serve(inlet: IO[bytes], outlet: IO[bytes]) -> None:
    """A child's life: signals in, frames out, until the parent closes the pipe or is gone."""
    while (content := _receive(inlet)) is not None:
        frames = features(np.frombuffer(content, dtype="<i2"))
        try:
            _send(outlet, frames.astype("<u2").tobytes())
        except BrokenPipeError:
            os._exit(0)  # nobody is left to hear; a flush at exit would only complain


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
