"""Sound of any length → detections, through the device-exact detector, while it is heard.

A file, a microphone (``sounddevice``, else the system's ``parec`` or ``arecord``), or raw samples on standard input.
"""

from __future__ import annotations

import dataclasses
import importlib
import queue
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mww_ha import audio, detector, frontend
from mww_ha.detector import Detection
from mww_ha.errors import InputError, MissingDependencyError, ToolError
from mww_ha.schema import SAMPLE_RATE_HZ, Progress, ProgressSink, no_progress

Samples = NDArray[np.int16]

LEAD_S = 5.0
"""Before a file: the frontend settles in 4 s, the detector's warm-up ends after 1 s."""

TAIL_S = 0.5
"""After a file: time for the window to fill."""

_BLOCK_S = 10.0  # of a file
_LIVE_SAMPLES = 640  # 40 ms: a detection is printed that late at most

_RECORDERS = (
    ("parec", ["--format=s16le", f"--rate={SAMPLE_RATE_HZ}", "--channels=1", "--latency-msec=40", "--raw"]),
    ("arecord", ["-q", "-t", "raw", "-f", "S16_LE", "-r", str(SAMPLE_RATE_HZ), "-c", "1"]),
    ("rec", ["-q", "-t", "raw", "-e", "signed", "-b", "16", "-r", str(SAMPLE_RATE_HZ), "-c", "1", "-"]),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What a model made of a whole file."""

    detections: tuple[Detection, ...]
    duration_s: float
    peak: float  # highest mean of a window, 0.0 to 1.0, whether it was a detection or not
    peak_s: float  # when that window ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """Every score of a file, one byte each model step."""

    scores: bytes
    first_s: float  # when the sound of the first of them ends, from the file's start
    step_s: float
    window: int  # so many of them are averaged
    cutoff: int  # 0 to 255: what their average must exceed


class Listener:
    """Frontend, model and decision in a row; samples in, detections out."""

    def __init__(self, manifest: detector.Manifest, *, cutoff: float | None = None, window: int | None = None) -> None:
        self._model = detector.load_model(manifest)
        self._frontend = frontend.Frontend()
        self.window = manifest.sliding_window if window is None else window
        self.cutoff = manifest.cutoff if cutoff is None else detector.cutoff_of_probability(cutoff)  # 0 to 255
        self._detector = detector.Detector(cutoff=self.cutoff, window=self.window, stride=self._model.stride)
        self._recent = np.zeros(self.window, dtype=np.uint8)
        self._steps = 0
        self._samples = 0
        self._begin_s = 0.0
        self._peak_sum = 0
        self._peak_step = -1
        self.scores = np.zeros(0, dtype=np.uint8)  # of the last sound that was pushed

    @property
    def step_s(self) -> float:
        """Time between two scores."""
        return self._model.stride * frontend.STEP_MS / 1000

    @property
    def next_s(self) -> float:
        """When the sound of the next score ends."""
        return detector.step_time_s(self._steps, self._model.stride) - self._begin_s

    def set_cutoff(self, cutoff: int) -> None:
        """Another cutoff (0 to 255) from the next score on; what was heard so far counts."""
        self.cutoff = cutoff
        self._detector.set_cutoff(cutoff)

    def start(self, samples: Samples) -> None:
        """Sound that was there before: it warms up frontend, model and detector, and times count from its end."""
        self.push(samples)
        self._begin_s = self._samples / SAMPLE_RATE_HZ
        self._samples = 0
        self._peak_sum, self._peak_step = 0, -1

    def push(self, samples: Samples) -> list[Detection]:
        """The next samples, any number of them."""
        scores = self.scores = self._model.scores(frontend.quantize_features(self._frontend.process(samples)))
        self._samples += len(samples)
        if len(scores):
            line = np.concatenate([self._recent, scores])
            running = np.concatenate([[0], np.cumsum(line, dtype=np.int64)])
            sums = running[self.window + 1 :] - running[1 : len(scores) + 1]
            best = int(np.argmax(sums))
            if sums[best] > self._peak_sum:
                self._peak_sum, self._peak_step = int(sums[best]), self._steps + best
            self._recent = line[len(scores) :]
            self._steps += len(scores)
        found = self._detector.push(scores)
        begin = round(self._begin_s * 1000 / frontend.STEP_MS)
        return [dataclasses.replace(d, time_s=d.time_s - self._begin_s, slice=d.slice - begin) for d in found]

    def _peak_s(self) -> float:
        if self._peak_step < 0:
            return 0.0
        return detector.step_time_s(self._peak_step, self._model.stride) - self._begin_s

    def heard(self, detections: Iterable[Detection]) -> Heard:
        """The sum of it, given the detections so far."""
        return Heard(
            detections=tuple(detections),
            duration_s=self._samples / SAMPLE_RATE_HZ,
            peak=self._peak_sum / self.window / 255,
            peak_s=self._peak_s(),
        )


def hear_file(
    path: Path,
    manifest_path: Path,
    *,
    cutoff: float | None = None,
    window: int | None = None,
    report: ProgressSink = no_progress,
) -> Heard:
    """All detections in a sound file of any length, and its highest score.

    ``cutoff`` (0.0 to 1.0) and ``window`` replace the manifest's. The file is played to a device that has been running
    in a quiet room (``LEAD_S`` of faint noise before it, ``TAIL_S`` after it): one just switched on is deaf for a
    second, and a word that ends with the file would otherwise be cut off. Times count from the file's start.
    Raises AudioFileError, ManifestError, ModelFileError.
    """
    blocks = audio.read_blocks(path, _BLOCK_S)
    return trace_blocks(blocks, manifest_path, cutoff=cutoff, window=window, name=path.name, report=report)[0]


def trace_blocks(
    blocks: Iterable[Samples],
    manifest_path: Path,
    *,
    cutoff: float | None = None,
    window: int | None = None,
    name: str = "",
    report: ProgressSink = no_progress,
) -> tuple[Heard, Trace]:
    """What ``hear_file`` hears in blocks of sound that has an end, and every score of it."""
    listener = Listener(detector.load_manifest(manifest_path), cutoff=cutoff, window=window)
    listener.start(quiet_room(LEAD_S))
    first_s = listener.next_s
    found: list[Detection] = []
    scores: list[bytes] = []
    for block in blocks:
        found += listener.push(block)
        scores.append(listener.scores.tobytes())
        heard_s = listener.heard(()).duration_s
        report(Progress(stage="listen", message=name, done=round(heard_s, 1), total=0, unit="s"))
    duration_s = listener.heard(()).duration_s
    found += listener.push(quiet_room(TAIL_S))
    scores.append(listener.scores.tobytes())
    trace = Trace(
        scores=b"".join(scores),
        first_s=first_s,
        step_s=listener.step_s,
        window=listener.window,
        cutoff=listener.cutoff,
    )
    return dataclasses.replace(listener.heard(found), duration_s=duration_s), trace


def quiet_room(seconds: float) -> Samples:
    """Noise at -60 dBFS, the same every time: a quiet room into a microphone."""
    noise = np.random.default_rng(0).standard_normal(round(seconds * SAMPLE_RATE_HZ))
    return audio.float_to_int16(noise * 10 ** (-60 / 20))


def listen_file(
    path: Path,
    manifest_path: Path,
    *,
    cutoff: float | None = None,
    window: int | None = None,
    report: ProgressSink = no_progress,
) -> list[Detection]:
    """The detections of ``hear_file``."""
    return list(hear_file(path, manifest_path, cutoff=cutoff, window=window, report=report).detections)


def listen_blocks(
    blocks: Iterable[Samples], manifest: detector.Manifest, *, cutoff: float | None = None, window: int | None = None
) -> Iterator[Detection]:
    """Detections in int16 blocks as they come; times count from the first sample."""
    listener = Listener(manifest, cutoff=cutoff, window=window)
    for block in blocks:
        yield from listener.push(block)


def listen_stream(
    stream: IO[bytes], manifest_path: Path, *, cutoff: float | None = None, window: int | None = None
) -> Iterator[Detection]:
    """Detections in raw samples (16 kHz, mono, int16 little-endian) from a pipe, until it ends.

    Raises InputError when the stream begins like a sound file.
    """
    manifest = detector.load_manifest(manifest_path)
    yield from listen_blocks(_raw_blocks(stream), manifest, cutoff=cutoff, window=window)


def listen_microphone(
    manifest_path: Path,
    *,
    cutoff: float | None = None,
    window: int | None = None,
    report: ProgressSink = no_progress,
) -> Iterator[Detection]:
    """Detections from this computer's microphone until the caller stops or Ctrl-C.

    Raises MissingDependencyError when there is no way to record, ToolError when recording fails.
    """
    manifest = detector.load_manifest(manifest_path)
    with _microphone() as (name, blocks):
        report(Progress(stage="listen", message=f"listening with {name} for {manifest.wake_word!r}"))
        yield from listen_blocks(blocks, manifest, cutoff=cutoff, window=window)


def _raw_blocks(stream: IO[bytes]) -> Iterator[Samples]:
    rest = b""
    first = True
    read = getattr(stream, "read1", stream.read)  # what is there, without waiting for a full block
    while content := read(2 * _LIVE_SAMPLES):
        if first and content[:4] in {b"RIFF", b"fLaC", b"OggS", b"ID3\x03", b"ID3\x04"}:
            raise InputError(
                "standard input holds a sound file, not raw samples",
                hint="name the file instead, or convert: ffmpeg -i IN -f s16le -ar 16000 -ac 1 -",
            )
        first = False
        content = rest + content
        whole = len(content) // 2 * 2
        rest = content[whole:]
        yield np.frombuffer(content[:whole], dtype="<i2")


@contextmanager
def _microphone() -> Iterator[tuple[str, Iterator[Samples]]]:
    """Name and blocks of the first way to record that is there."""
    try:
        sounddevice: Any = importlib.import_module("sounddevice")
    except (ImportError, OSError):  # OSError: the package is there, the PortAudio library is not
        with _recorder() as found:
            yield found
        return
    heard: queue.Queue[bytes] = queue.Queue()

    def take(content: Any, _frames: int, _time: Any, _status: Any) -> None:
        heard.put(bytes(content))

    def blocks() -> Iterator[Samples]:
        while True:
            yield np.frombuffer(heard.get(), dtype="<i2")

    try:
        stream = sounddevice.RawInputStream(
            samplerate=SAMPLE_RATE_HZ, channels=1, dtype="int16", blocksize=_LIVE_SAMPLES, callback=take
        )
    except sounddevice.PortAudioError as error:
        raise ToolError(f"the microphone cannot be opened: {error}", hint="check that one is connected") from None
    with stream:
        yield "sounddevice", blocks()


@contextmanager
def _recorder() -> Iterator[tuple[str, Iterator[Samples]]]:
    for name, arguments in _RECORDERS:
        program = shutil.which(name)
        if program is None:
            continue
        process = subprocess.Popen([program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            yield name, _raw_blocks(process.stdout)
            if process.wait() != 0:
                detail = process.stderr.read().decode(errors="replace").strip().splitlines()
                raise ToolError(
                    f"{name} stopped: {detail[-1] if detail else 'no reason given'}",
                    hint="check that a microphone is connected and not in use",
                )
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()
            process.stderr.close()
        return
    raise MissingDependencyError(
        "no way to record from a microphone",
        hint="pip install sounddevice, or install parec (pulseaudio-utils) or arecord (alsa-utils)",
    )
