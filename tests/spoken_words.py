"""Words spoken by espeak-ng in different voices, as a microphone in a quiet room would bring them."""

from __future__ import annotations

import functools

import numpy as np
import soxr

from mww_ha import audio
from mww_ha.synthesize import espeak

RATE = 16_000
VOICES = ("m1", "f2", "m3", "f4", "m5", "f1", "m7", "f5")


@functools.cache
def word(text: str = "hey kitchen", voice: str = "m1") -> audio.Samples:
    """The word alone, int16 at 16 kHz, its speech at -20 dBFS."""
    engine = espeak.load()
    spoken = audio.int16_to_float(engine.speak(text, f"gmw/en-US+{voice}"))
    samples = audio.float_to_int16(soxr.resample(spoken, engine.rate_hz, RATE))
    start, end = audio.trim_silence(samples, margin_s=0.0)
    gain = 10 ** ((-20 - audio.speech_level_dbfs(samples)) / 20)
    return audio.float_to_int16(audio.int16_to_float(samples[start:end]) * np.float32(gain))


def room(seconds: float, seed: int = 1, dbfs: float = -65.0) -> audio.Samples:
    """Background of a quiet room."""
    rng = np.random.default_rng(seed)
    return audio.float_to_int16(rng.standard_normal(round(seconds * RATE)) * 10 ** (dbfs / 20))


def take(voice: str = "m1", *, text: str = "hey kitchen", seed: int = 1, gain: float = 1.0) -> audio.Samples:
    """The word after 0.8 s, a second of the room after it."""
    spoken = word(text, voice)
    samples = room(1.8 + spoken.size / RATE, seed).astype(np.float64)
    samples[round(0.8 * RATE) : round(0.8 * RATE) + spoken.size] += spoken * gain
    return np.clip(np.rint(samples), -32768, 32767).astype(np.int16)
