"""The synthesis child process: utterances in, clips out. ``python -m mww_ha.synthesize.worker``

Reads jobs from standard input and answers on standard output, one JSON object a line each. Engines load here and
nowhere else: a voice that crashes its engine, or a licence other than ours, stays on this side of the pipe. The end
of standard input ends the process at once, so it never outlives whoever started it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mww_ha import audio
from mww_ha.errors import AudioFileError, MwwError
from mww_ha.schema import SAMPLE_RATE_HZ, Clip, Label, Origin
from mww_ha.synthesize import espeak
from mww_ha.synthesize.voices import Delivery, Engine, Samples, Voice

NORMAL_WORDS_PER_MINUTE = 145
"""espeak-ng's reading speed of 175 is hasty: a two-word phrase takes 0.7 s where other engines take 0.9 s."""

CLIP_MARGIN_S = 0.05
"""Every synthesized clip has exactly this much around what is said: the word ends this long before the clip does."""

_CLIPPED = 32_700  # int16
_CLIPPED_SAMPLES = 12
_CEILING = 0.9  # peaks above are turned down before resampling, which can overshoot
_SILENT_PEAK = 300  # int16, -41 dBFS: the quietest voice is 15 dB above
_TAIL_S = 0.008
_LOUD_FRAMES = 6  # of 10 ms: the level of the loudest vowel, whatever pauses surround it
_RANGE_DB = 30.0
_SILENCE_DBFS = -70.0
_STATURE = 1.08  # the length of one grown-up's vocal tract against another's


def shape_clip(samples: Samples, rate_hz: int, *, min_s: float, max_s: float) -> Samples | str:
    """An engine's output as a clip: 16 kHz, trimmed to ``CLIP_MARGIN_S`` on both sides; or why it is rejected.

    Reasons: silent, clipped, truncated (loud up to the last sample, or shorter than ``min_s``), drawn out (longer
    than ``max_s``). The level stays the engine's own.
    """
    magnitudes = np.abs(samples.astype(np.int32))
    if samples.size < rate_hz // 50 or int(magnitudes.max()) < _SILENT_PEAK:
        return "silent"
    if np.count_nonzero(magnitudes >= _CLIPPED) >= _CLIPPED_SAMPLES:
        return "clipped"
    peak = int(magnitudes.max())
    tail = samples[-max(1, round(_TAIL_S * rate_hz)) :].astype(np.float64)
    if np.sqrt(np.mean(tail**2)) > 0.25 * np.sqrt(np.mean(_loudest(samples, rate_hz) ** 2)):
        return "truncated"
    if rate_hz != SAMPLE_RATE_HZ:
        import soxr

        gain = np.float32(min(1.0, _CEILING * audio.FULL_SCALE / peak))
        samples = audio.float_to_int16(soxr.resample(audio.int16_to_float(samples) * gain, rate_hz, SAMPLE_RATE_HZ))
    start, end = find_speech(samples)
    duration_s = (end - start) / SAMPLE_RATE_HZ
    if end <= start:
        return "silent"
    if duration_s < min_s:
        return "truncated"
    if duration_s > max_s:
        return "drawn out"
    margin = round(CLIP_MARGIN_S * SAMPLE_RATE_HZ)
    clip = np.zeros(end - start + 2 * margin, dtype=np.int16)
    low, high = max(0, start - margin), min(samples.size, end + margin)
    clip[margin - (start - low) : margin + (high - start)] = samples[low:high]
    return clip


def find_speech(samples: Samples) -> tuple[int, int]:
    """Start and end (exclusive) of what is said in clean speech at 16 kHz, to 10 ms; (0, 0) for silence.

    From the first to the last 20 ms that are at most 30 dB below the loud ones: an engine's clip has no background
    to adapt to, and its last sound's long decay is not part of the word that training waits for.
    """
    levels = audio.frame_levels_dbfs(samples)
    if levels.size == 0:
        return 0, 0
    count = min(_LOUD_FRAMES, levels.size)
    level = float(np.partition(levels, -count)[-count])
    if level < _SILENCE_DBFS:
        return 0, 0
    said = np.flatnonzero(levels >= level - _RANGE_DB)
    return int(said[0]) * 160, int(said[-1]) * 160 + 320


def _loudest(samples: Samples, rate_hz: int) -> NDArray[np.float64]:
    """The loudest 20 ms."""
    frames = audio.frame(samples, rate_hz // 50, rate_hz // 50).astype(np.float64)
    loudest: NDArray[np.float64] = frames[int(np.argmax(np.mean(frames**2, axis=1)))]
    return loudest


class EspeakEngine:
    """espeak-ng in this process."""

    def speak(self, text: str, voice: Voice, delivery: Delivery) -> tuple[Samples, int]:
        """See Engine."""
        engine = espeak.load()
        ssml = delivery.emphasis >= 0 and "[[" not in text
        samples = engine.speak(
            _emphasised(text, delivery) if ssml else text,
            voice.name,
            words_per_minute=round(NORMAL_WORDS_PER_MINUTE * delivery.speed),
            pitch=round(52.5 + 32.5 * delivery.pitch),
            pitch_range=round(50 + 30 * delivery.liveliness),
            gap_ms=delivery.gap_ms,
            ssml=ssml,
        )
        return samples, engine.rate_hz


def _emphasised(text: str, delivery: Delivery) -> str:
    """SSML with one word said slower or faster, higher or lower than the rest."""
    words = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").split(" ")
    at = delivery.emphasis % len(words)
    rng = np.random.default_rng(delivery.seed)
    pitch, rate = rng.uniform(-30, 45), rng.uniform(75, 120)
    words[at] = f'<prosody pitch="{pitch:+.0f}%" rate="{rate:.0f}%">{words[at]}</prosody>'
    return "<speak>" + " ".join(words) + "</speak>"


def open_engine(name: str) -> Engine:
    """The engine by the name its voices carry. Raises MissingDependencyError."""
    if name == "espeak":
        return EspeakEngine()
    if name == "piper":
        from mww_ha.synthesize.piper import PiperEngine

        return PiperEngine()
    if name == "wyoming":
        from mww_ha.synthesize.wyoming import WyomingEngine

        return WyomingEngine()
    if name == "home_assistant":
        from mww_ha.synthesize.household import HomeAssistantEngine

        return HomeAssistantEngine()
    from mww_ha.synthesize.programs import Programs

    return Programs()


class Worker:
    """Keeps the engines it has opened."""

    def __init__(self) -> None:
        self._engines: dict[str, Engine] = {}

    def speak(self, text: str, voice: Voice, delivery: Delivery) -> tuple[Samples, int]:
        """By whatever engine the voice belongs to."""
        if voice.engine not in self._engines:
            self._engines[voice.engine] = open_engine(voice.engine)
        return self._engines[voice.engine].speak(text, voice, delivery)

    def make_clip(self, project_root: Path, item: dict[str, Any]) -> Clip | tuple[str, str]:
        """A clip whose file is in place, or the reason why not and its details."""
        voice, delivery = Voice(**item["voice"]), Delivery(**item["delivery"])
        try:
            samples, rate_hz = self.speak(item["text"], voice, delivery)
        except (MwwError, AudioFileError) as error:
            return "failed", str(error)
        rate_hz = round(rate_hz * _STATURE**-delivery.stature)
        shaped = shape_clip(samples, rate_hz, min_s=item["min_s"], max_s=item["max_s"])
        if isinstance(shaped, str):
            return shaped, ""
        return audio.add_clip(
            project_root,
            shaped,
            label=Label(item["label"]),
            origin=Origin.SYNTHESIZED,
            speaker=voice.id,
            take=item["take"],
            text=item["text"],
            language=voice.language,
            licence=voice.licence,
            source=f"synthesized by {voice.engine}, voice {voice.name}",
        )

    def work(self, job: dict[str, Any]) -> dict[str, Any]:
        """Answers one job: ``{"root", "items"}`` makes clips, ``{"measure", ...}`` takes the time of a voice."""
        if "measure" in job:
            return self._measure(Voice(**job["measure"]), job["texts"])
        clips, rejected = [], []
        for item in job["items"]:
            made = self.make_clip(Path(job["root"]), item)
            if isinstance(made, Clip):
                clips.append(dataclasses.asdict(made))
            else:
                rejected.append([Voice(**item["voice"]).id, *made])
        return {"clips": clips, "rejected": rejected}

    def _measure(self, voice: Voice, texts: list[str]) -> dict[str, Any]:
        seconds = []
        try:
            self.speak(texts[0], voice, Delivery())  # loading does not count
            for text in texts:
                started = time.perf_counter()
                self.speak(text, voice, Delivery())
                seconds.append(time.perf_counter() - started)
        except (MwwError, AudioFileError) as error:
            return {"failed": str(error)}
        return {"seconds": seconds}


def main() -> None:
    """Serves until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent; it closes our input
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what an engine prints must not get between the answers
    jobs: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            jobs.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    worker = Worker()
    while True:
        job = json.loads(jobs.get())
        try:
            answer = worker.work(job)
        except MwwError as error:
            answer = {"error": [type(error).__name__, error.message, error.hint]}
        try:
            answers.write(json.dumps(answer) + "\n")
            answers.flush()
        except BrokenPipeError:
            os._exit(0)


if __name__ == "__main__":
    main()
