"""However a signal is cut into calls, its frames are those that pymicro-features gives, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mww_ha import frontend


def _speechlike(seconds: float, seed: int = 0) -> np.ndarray:
    """Bursts of noise and tones between the rails and silence, to reach all of the frontend's range."""
    rng = np.random.default_rng(seed)
    count = round(16000 * seconds)
    time = np.arange(count) / 16000
    tone = np.sin(2 * np.pi * (200 + 1500 * np.sin(2 * np.pi * 0.7 * time)) * time)
    gate = np.sin(2 * np.pi * 1.3 * time) > 0.2
    signal = (25000 * tone + 4000 * rng.standard_normal(count)) * gate + 10 * rng.standard_normal(count)
    return np.clip(signal, -32768, 32767).astype(np.int16)


def _reference(samples: np.ndarray) -> np.ndarray:
    from pymicro_features import MicroFrontend

    stream = MicroFrontend()
    values: list[float] = []
    for start in range(0, len(samples) // 160 * 160, 160):
        values += stream.process_samples(samples[start : start + 160].tobytes()).features
    return np.array(values).reshape(-1, 40)


@pytest.mark.parametrize("samples", [_speechlike(3), np.zeros(16000, np.int16), np.full(16000, -32768, np.int16)])
def test_frames_times_the_scale_are_the_reference_floats_exactly(samples):
    frames = frontend.features(samples)
    assert frames.dtype == np.uint16
    np.testing.assert_array_equal(frames * frontend.FEATURE_SCALE, _reference(samples))


def test_loud_sound_reaches_values_that_must_be_clamped():
    assert frontend.features(_speechlike(3)).max() > 640


@pytest.mark.parametrize(
    ("samples", "frames"), [(0, 0), (479, 0), (480, 1), (639, 1), (640, 2), (16000, 98), (16159, 98), (16160, 99)]
)
def test_the_number_of_frames_follows_from_the_number_of_samples(samples, frames):
    assert frontend.n_frames(samples) == frames
    assert frontend.features(np.zeros(samples, np.int16)).shape == (frames, 40)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 1300), max_size=20), st.integers(0, 3))
def test_how_a_signal_is_cut_does_not_change_its_frames(sizes, seed):
    samples = _speechlike(0.8, seed)
    stream = frontend.Frontend()
    pieces, at = [], 0
    for size in [*sizes, len(samples)]:
        pieces.append(stream.process(samples[at : at + size]))
        at += size
    np.testing.assert_array_equal(np.concatenate(pieces), frontend.features(samples))


@pytest.mark.parametrize("lead", [1, 160, 479, 16000, 70001])
def test_a_lead_is_audio_that_ran_before(lead):
    samples = _speechlike(6)
    whole = frontend.features(samples)
    np.testing.assert_array_equal(frontend.features(samples[lead:], samples[:lead]), whole[frontend.n_frames(lead) :])


def test_a_frontend_has_forgotten_its_start_after_the_settling_time():
    samples = _speechlike(7)
    warm = frontend.features(samples, lead=_speechlike(5, seed=9))
    cold = frontend.features(samples)
    settled = round(frontend.SETTLED_S * 100)
    difference = np.abs(warm[-len(cold) :].astype(int) - cold)
    assert difference[:100].mean() > 1  # the start does matter
    assert difference[settled:].max() <= 4  # in raw steps of some 670


def test_other_byte_orders_and_strides_are_understood():
    samples = _speechlike(1)
    np.testing.assert_array_equal(frontend.features(samples.astype(">i2")), frontend.features(samples))
    np.testing.assert_array_equal(frontend.features(np.repeat(samples, 2)[::2]), frontend.features(samples))


@pytest.mark.parametrize(
    ("raw", "int8"),
    # (v * 256 + 333) / 666 - 128 in C: worked by hand at the ends and at both sides of steps
    [
        (0, -128),
        (1, -128),
        (2, -127),
        (3, -127),
        (4, -126),
        (332, 0),
        (331, -1),
        (664, 127),
        (665, 127),
        (666, 127),
        (700, 127),
        (65535, 127),
    ],
)
def test_raw_values_become_int8_by_the_formula_of_esphome(raw, int8):
    assert frontend.quantize_features(np.array([[raw]], np.uint16))[0, 0] == int8


def test_all_raw_values_follow_the_formula_and_the_clamp():
    raw = np.arange(1 << 16, dtype=np.uint16)
    expected = [max(-128, min(127, (v * 256 + 333) // 666 - 128)) for v in range(1 << 16)]
    assert frontend.quantize_features(raw).tolist() == expected
