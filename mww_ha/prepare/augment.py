"""Effects on sound: pure functions on batches ``(clips, samples)`` of float32 in -1..1.

Every function takes its arrays from one array module (NumPy or CuPy) and gives arrays of the same one; which
is read off the first argument. What is random is decided by the caller and passed in as values per clip.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mww_ha.schema import SAMPLE_RATE_HZ

Batch: TypeAlias = Any
"""float32 [clips, samples] of NumPy or CuPy; what is per clip is [clips] of either."""

EQ_BANDS_HZ = (80.0, 200.0, 450.0, 1000.0, 2200.0, 4500.0, 7800.0)
"""Where a response curve is given; between them it is linear in decibels over log frequency."""

_EQ_TAPS = 257


def array_module(array: Any) -> Any:
    """NumPy or CuPy, whichever ``array`` belongs to."""
    if type(array).__module__.partition(".")[0] == "cupy":
        import cupy

        return cupy
    return np


def _signal_module(xp: Any) -> Any:
    if xp is np:
        from scipy import signal
    else:
        from cupyx.scipy import signal
    return signal


def decibels(ratio: Any) -> Any:
    """Amplitude ratio of a level in dB."""
    return 10.0 ** (ratio / 20.0)


def measure_level(clips: Batch, active: Any = None) -> Batch:
    """RMS [clips] over the samples where ``active`` [clips, samples] is true (default: all)."""
    xp = array_module(clips)
    if active is None:
        return xp.sqrt(xp.mean(clips * clips, axis=1) + 1e-12)
    count = xp.maximum(active.sum(axis=1), 1).astype(xp.float32)
    return xp.sqrt((clips * clips * active).sum(axis=1) / count + 1e-12)


def find_active(clips: Batch, *, below_peak_db: float = 30.0, block: int = 400) -> Any:
    """Boolean [clips, samples]: blocks (25 ms) within ``below_peak_db`` of the clip's loudest block."""
    xp = array_module(clips)
    n = clips.shape[1] // block
    power = xp.mean(clips[:, : n * block].reshape(len(clips), n, block) ** 2, axis=2)
    loud = power > power.max(axis=1, keepdims=True) * 10 ** (-below_peak_db / 10)
    active = xp.zeros(clips.shape, bool)
    active[:, : n * block] = xp.repeat(loud & (power > 1e-10), block, axis=1)
    return active


def change_gain(clips: Batch, gain_db: Any) -> Batch:
    """Each clip louder by ``gain_db`` [clips]."""
    xp = array_module(clips)
    return clips * decibels(xp.asarray(gain_db, xp.float32))[:, None]


def change_speed(clips: Batch, factors: Any) -> Batch:
    """Plays each clip ``factors`` [clips] times as fast: tempo, pitch and formants move together.

    The result is as long as the slowest needs; faster clips end in zeros. Cubic interpolation.
    """
    xp = array_module(clips)
    factors = xp.asarray(factors, xp.float64)
    length = int(np.ceil(clips.shape[1] / float(factors.min())))
    position = xp.arange(length)[None, :] * factors[:, None]
    index = position.astype(xp.int64)
    t = (position - index).astype(xp.float32)
    padded = xp.pad(clips, ((0, 0), (1, 4)))
    row = xp.arange(len(clips))[:, None] * padded.shape[1]
    flat, at = padded.ravel(), xp.minimum(index, clips.shape[1]) + row
    a, b, c, d = (flat[at + k] for k in range(4))
    out = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return (out * (position < clips.shape[1])).astype(xp.float32)


def colour_response(clips: Batch, curves_db: Any) -> Batch:
    """A microphone's or a room's response: gains ``curves_db`` [clips, len(EQ_BANDS_HZ)], linear phase, no delay."""
    xp = array_module(clips)
    curves = np.asarray(curves_db if array_module(curves_db) is np else curves_db.get(), np.float64)
    grid = np.linspace(0, SAMPLE_RATE_HZ / 2, _EQ_TAPS // 2 + 1)
    position = np.log(np.maximum(grid, 20.0))
    bands = np.log(np.array(EQ_BANDS_HZ))
    window = np.hanning(_EQ_TAPS)
    taps = np.empty((len(curves), _EQ_TAPS))
    for i, curve in enumerate(curves):
        response = decibels(np.interp(position, bands, curve))
        taps[i] = np.roll(np.fft.irfft(response, _EQ_TAPS), _EQ_TAPS // 2) * window
    signal = _signal_module(xp)
    return signal.oaconvolve(clips, xp.asarray(taps, xp.float32), mode="same", axes=1).astype(xp.float32)


def reverberate(clips: Batch, rirs: Batch) -> Batch:
    """Each clip in a room: ``rirs`` [clips, taps] whose direct sound is at tap 0. Same length, same onset."""
    xp = array_module(clips)
    wet = _signal_module(xp).oaconvolve(clips, rirs, mode="full", axes=1)
    return wet[:, : clips.shape[1]].astype(xp.float32)


def align_rir(rir: npt.NDArray[np.float32], taps: int) -> npt.NDArray[np.float32]:
    """A measured response [n], cut or padded to ``taps`` so that its peak is at most half a millisecond (8 taps) in.

    The direct sound, the first 2.5 ms, has unit energy.
    """
    peak = int(np.argmax(np.abs(rir)))
    cut = rir[max(0, peak - 8) :][:taps].astype(np.float32)
    direct = float(np.sqrt(np.sum(cut[: SAMPLE_RATE_HZ // 400] ** 2))) or 1.0
    out = np.zeros(taps, np.float32)
    out[: len(cut)] = cut / direct
    return out


def make_rirs(rng: np.random.Generator, count: int, taps: int) -> Batch:
    """Rooms nobody measured, [count, taps]: direct sound, sparse early reflections, a decaying diffuse tail.

    Reverberation time 0.1 to 0.9 s, direct-to-reverberant ratio -6 to 15 dB, high frequencies die first.
    """
    import scipy.signal

    time_s = np.arange(taps) / SAMPLE_RATE_HZ
    out = np.zeros((count, taps), np.float32)
    for row in out:
        rt60_s = rng.uniform(0.1, 0.9)
        ratio_db = rng.uniform(-6, 15)
        tail = rng.standard_normal(taps) * 10 ** (-3 * time_s / rt60_s)
        start = int(rng.uniform(0.004, 0.02) * SAMPLE_RATE_HZ)
        tail[:start] = 0
        for _ in range(int(rng.integers(3, 10))):
            at = int(rng.uniform(0.001, 0.03) * SAMPLE_RATE_HZ)
            tail[at] += rng.choice([-1, 1]) * rng.uniform(1, 6)
        corner = rng.uniform(1500, 7000)
        b, a = scipy.signal.butter(1, corner / (SAMPLE_RATE_HZ / 2))
        tail = scipy.signal.lfilter(b, a, tail)
        tail *= decibels(-ratio_db) / (np.sqrt(np.sum(tail**2)) or 1.0)
        row[:] = tail
        row[0] += 1.0
    return out


def make_noise(rng: np.random.Generator, count: int, samples: int, exponents: Any) -> Batch:
    """Coloured noise [count, samples] of unit RMS over a turn of 4.1 s, then the same again.

    Power falls with frequency to the ``exponents`` [count] (0 white, 1 pink). NumPy only.
    """
    size = 1 << 16
    spectrum = rng.standard_normal((count, size // 2 + 1)) + 1j * rng.standard_normal((count, size // 2 + 1))
    frequency = np.maximum(np.arange(size // 2 + 1), 1.0)
    spectrum *= frequency[None, :] ** (-np.asarray(exponents)[:, None] / 2)
    spectrum[:, :80] *= (np.arange(80) / 80.0) ** 2  # nothing below 20 Hz
    loop = np.fft.irfft(spectrum, size, axis=1)
    loop /= np.sqrt(np.mean(loop**2, axis=1, keepdims=True))
    out: Batch = np.tile(loop, (1, -(-samples // size)))[:, :samples].astype(np.float32)
    return out


def mix_at_snr(speech: Batch, background: Batch, snr_db: Any, active: Any = None) -> Batch:
    """``speech`` unchanged plus ``background`` at ``snr_db`` [clips] below its level over ``active``."""
    xp = array_module(speech)
    gain = measure_level(speech, active) / (measure_level(background) * decibels(xp.asarray(snr_db, xp.float32)))
    return speech + background * gain[:, None]


def limit_peaks(clips: Batch, ceilings: Any) -> Batch:
    """Hard clipping at ``ceilings`` [clips] times the clip's own peak (1: untouched)."""
    xp = array_module(clips)
    peak = xp.abs(clips).max(axis=1) * xp.asarray(ceilings, xp.float32)
    return xp.clip(clips, -peak[:, None], peak[:, None])


def saturate(clips: Batch, drives: Any) -> Batch:
    """Soft overload: tanh with a drive of ``drives`` [clips] times full scale at the clip's peak (0: untouched)."""
    xp = array_module(clips)
    drive = xp.maximum(xp.asarray(drives, xp.float32), 1e-3)[:, None]
    peak = xp.maximum(xp.abs(clips).max(axis=1), 1e-9)[:, None]
    return (xp.tanh(clips / peak * drive) / xp.tanh(drive) * peak).astype(xp.float32)
