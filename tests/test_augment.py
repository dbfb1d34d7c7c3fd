"""Every effect does what its number says, nothing at its neutral value, and leaves what it was given alone."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from mww_ha.prepare import augment
from mww_ha.prepare.augment import EQ_BANDS_HZ

RATE = 16_000


def bursts(count: int = 3, samples: int = 24_000) -> np.ndarray:
    """Something like speech: noise in bursts, silence around it, each clip at a level of its own."""
    rng = np.random.default_rng(7)
    clips = rng.standard_normal((count, samples)).astype(np.float32) * 0.05
    clips[:, : samples // 4] = 0
    clips[:, samples // 2 : samples // 2 + 3000] = 0
    clips[:, -samples // 4 :] = 0
    return clips * np.linspace(0.3, 2, count, dtype=np.float32)[:, None]


def tone(frequency_hz: float, samples: int = 16_000) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency_hz * np.arange(samples) / RATE)).astype(np.float32)[None]


def level_db(clips: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.mean(np.square(clips, dtype=np.float64), axis=1))


def impulse(taps: int = 400) -> np.ndarray:
    rir = np.zeros((3, taps), np.float32)
    rir[:, 0] = 1
    return rir


NEUTRAL: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "change_gain": lambda x: augment.change_gain(x, np.zeros(3)),
    "change_speed": lambda x: augment.change_speed(x, np.ones(3)),
    "colour_response": lambda x: augment.colour_response(x, np.zeros((3, len(EQ_BANDS_HZ)))),
    "reverberate": lambda x: augment.reverberate(x, impulse()),
    "limit_peaks": lambda x: augment.limit_peaks(x, np.ones(3)),
    "saturate": lambda x: augment.saturate(x, np.zeros(3)),
    "mix_at_snr": lambda x: augment.mix_at_snr(x, np.ones_like(x), np.full(3, 120.0)),
}

STRONG: dict[str, Callable[[Any, Any], Any]] = {
    "change_gain": lambda x, xp: augment.change_gain(x, xp.asarray([-6.0, 0.0, 12.0])),
    "change_speed": lambda x, xp: augment.change_speed(x, xp.asarray([0.8, 1.0, 1.3])),
    "colour_response": lambda x, xp: augment.colour_response(x, xp.asarray(np.tile(np.arange(7.0), (3, 1)))),
    "reverberate": lambda x, xp: augment.reverberate(
        x, xp.asarray(augment.make_rirs(np.random.default_rng(1), 3, 2000))
    ),
    "limit_peaks": lambda x, xp: augment.limit_peaks(x, xp.asarray([0.3, 0.5, 0.9])),
    "saturate": lambda x, xp: augment.saturate(x, xp.asarray([1.0, 2.0, 4.0])),
    "mix_at_snr": lambda x, xp: augment.mix_at_snr(x, x[::-1], xp.asarray([0.0, 5.0, 10.0]), augment.find_active(x)),
    "measure_level": lambda x, _xp: augment.measure_level(x, augment.find_active(x)),
}


@pytest.mark.parametrize("name", NEUTRAL)
def test_an_effect_at_its_neutral_value_changes_nothing(name: str) -> None:
    clips = bursts()
    out = NEUTRAL[name](clips)
    assert out.shape == clips.shape
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, clips, atol=2e-6)


@pytest.mark.parametrize("name", STRONG)
def test_an_effect_leaves_its_input_alone_and_stays_in_float32(name: str) -> None:
    clips = bursts()
    before = clips.copy()
    out = STRONG[name](clips, np)
    np.testing.assert_array_equal(clips, before)
    assert out.dtype == np.float32
    assert len(out) == 3
    assert np.isfinite(out).all()


@pytest.mark.parametrize("name", sorted(set(STRONG) - {"measure_level"}))
def test_clips_of_a_batch_do_not_touch_each_other(name: str) -> None:
    clips = bursts()
    changed = clips.copy()
    changed[2] *= 0.5 if name != "mix_at_snr" else 1.0
    changed[2, 5000:6000] += 0.0 if name == "mix_at_snr" else 0.01
    np.testing.assert_allclose(STRONG[name](changed, np)[1], STRONG[name](clips, np)[1], atol=1e-6)


@given(st.lists(st.floats(-40, 20), min_size=3, max_size=3))
def test_a_gain_is_what_it_says(gains_db: list[float]) -> None:
    clips = bursts()
    np.testing.assert_allclose(level_db(augment.change_gain(clips, gains_db)) - level_db(clips), gains_db, atol=0.01)


@settings(max_examples=30)
@given(st.lists(st.floats(-10, 45), min_size=3, max_size=3))
def test_the_signal_to_noise_ratio_after_mixing_is_what_was_asked_for(snrs_db: list[float]) -> None:
    speech = bursts()
    noise = np.random.default_rng(3).standard_normal(speech.shape).astype(np.float32) * 0.7
    active = augment.find_active(speech)
    mixed = augment.mix_at_snr(speech, noise, snrs_db, active)
    spoken = np.array([level_db(row[on][None])[0] for row, on in zip(speech, active, strict=True)])
    added = level_db(mixed.astype(np.float64) - speech)
    np.testing.assert_allclose(spoken - added, snrs_db, atol=0.5)


def test_active_blocks_are_where_something_is_said() -> None:
    clips = bursts()
    active = augment.find_active(clips)
    said = np.abs(clips) > 0
    assert active.shape == clips.shape
    assert active[said].mean() > 0.95
    assert active[~said].mean() < 0.05
    assert not augment.find_active(np.zeros((2, 4000), np.float32)).any()


@settings(max_examples=25)
@given(st.floats(0.6, 1.6))
def test_speed_moves_pitch_and_length_together(factor: float) -> None:
    clip = tone(600, 16_000)
    out = augment.change_speed(clip, [factor])
    assert out.shape[1] == int(np.ceil(16_000 / factor))
    crossings = np.count_nonzero(np.diff(np.signbit(out[0, 50:-50])))
    frequency_hz = crossings / 2 / ((out.shape[1] - 100) / RATE)
    assert frequency_hz == pytest.approx(600 * factor, rel=0.01)
    assert level_db(out[:, 50:-50])[0] == pytest.approx(level_db(clip)[0], abs=0.5)


def test_the_slowest_clip_decides_the_length_and_faster_ones_end_in_silence() -> None:
    clips = np.concatenate([tone(600), tone(600)])
    out = augment.change_speed(clips, [0.8, 1.6])
    assert out.shape == (2, 20_000)
    assert not out[1, 10_001:].any()
    assert level_db(out[1:, :9_900])[0] == pytest.approx(level_db(clips[1:])[0], abs=0.5)


@pytest.mark.parametrize("band", range(len(EQ_BANDS_HZ) - 1))
def test_a_response_raises_a_tone_by_what_it_says(band: int) -> None:
    clip = tone(EQ_BANDS_HZ[band])
    out = augment.colour_response(clip, np.full((1, len(EQ_BANDS_HZ)), 6.0))
    assert level_db(out[:, 500:-500])[0] - level_db(clip[:, 500:-500])[0] == pytest.approx(6, abs=0.5)
    alone = np.zeros((1, len(EQ_BANDS_HZ)))
    alone[0, band] = 6.0
    if band >= 2:  # 257 taps resolve 62 Hz: the lowest bands run into each other
        out = augment.colour_response(clip, alone)
        assert level_db(out[:, 500:-500])[0] - level_db(clip[:, 500:-500])[0] == pytest.approx(6, abs=0.6)


def test_a_response_does_not_delay() -> None:
    clip = np.zeros((1, 4000), np.float32)
    clip[0, 2000] = 1
    curve = np.random.default_rng(2).uniform(-8, 8, (1, len(EQ_BANDS_HZ)))
    out = augment.colour_response(clip, curve)[0]
    assert int(np.argmax(np.abs(out))) == 2000
    np.testing.assert_allclose(out[2001:2100], out[1999:1900:-1], atol=1e-6)


def test_a_room_keeps_the_onset_and_the_length() -> None:
    clips = bursts()
    rirs = augment.make_rirs(np.random.default_rng(5), 3, 8000)
    out = augment.reverberate(clips, rirs)
    assert out.shape == clips.shape
    onset = int(np.flatnonzero(clips[0])[0])
    assert np.abs(out[:, :onset]).max() < 1e-5
    np.testing.assert_allclose(out[:, onset], clips[:, onset] * rirs[:, 0], rtol=1e-3, atol=1e-6)
    assert level_db(out[:, -4000:]).max() > -90  # it goes on when the word is over


def test_a_measured_room_begins_with_its_direct_sound() -> None:
    rng = np.random.default_rng(9)
    measured = (rng.standard_normal(9000) * np.exp(-np.arange(9000) / 1500) * 0.02).astype(np.float32)
    delayed = np.concatenate([np.zeros(700, np.float32), [0.4], measured]).astype(np.float32)
    rir = augment.align_rir(delayed, 8000)
    assert rir.shape == (8000,)
    assert int(np.argmax(np.abs(rir))) <= 8
    assert np.sqrt(np.sum(rir[:40] ** 2)) == pytest.approx(1)
    short = augment.align_rir(delayed[:750], 8000)
    assert not short[100:].any()
    assert not augment.align_rir(np.zeros(100, np.float32), 200).any()


def test_made_rooms_start_at_once_and_die_away() -> None:
    rirs = augment.make_rirs(np.random.default_rng(1), 50, 8000)
    again = augment.make_rirs(np.random.default_rng(1), 50, 8000)
    np.testing.assert_array_equal(rirs, again)
    assert rirs.shape == (50, 8000)
    assert (rirs[:, 0] == 1).all()
    tails = np.sum(rirs[:, 1:] ** 2, axis=1)
    ratios_db = -10 * np.log10(tails)
    assert ratios_db.min() >= -6.01
    assert ratios_db.max() <= 15.01
    early, late = np.sum(rirs[:, 100:2000] ** 2, axis=1), np.sum(rirs[:, 6000:] ** 2, axis=1)
    assert (early > late).all()


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 1.0, 2.0])
def test_coloured_noise_has_its_slope_and_unit_level(exponent: float) -> None:
    noise = augment.make_noise(np.random.default_rng(4), 2, 1 << 16, [exponent, exponent])
    np.testing.assert_allclose(level_db(noise), 0, atol=0.1)
    frequencies, power = signal.welch(noise[0], RATE, nperseg=2048)
    octaves = [10 * np.log10(power[(frequencies >= f) & (frequencies < 2 * f)].mean()) for f in (250, 500, 1000, 2000)]
    assert np.diff(octaves).mean() == pytest.approx(-3.01 * exponent, abs=0.5)


def test_noise_is_as_long_as_asked_for() -> None:
    for samples in (1, 65_535, 65_536, 65_537, 200_000):
        assert augment.make_noise(np.random.default_rng(4), 1, samples, [1.0]).shape == (1, samples)


@given(st.floats(0.1, 1.0))
def test_clipping_cuts_at_its_share_of_the_peak(ceiling: float) -> None:
    clips = bursts()
    out = augment.limit_peaks(clips, [ceiling] * 3)
    np.testing.assert_allclose(np.abs(out).max(axis=1), np.abs(clips).max(axis=1) * np.float32(ceiling), rtol=1e-5)
    below = np.abs(clips) < np.abs(clips).max(axis=1, keepdims=True) * ceiling * 0.999
    np.testing.assert_array_equal(out[below], clips[below])


@given(st.floats(0.5, 6.0))
def test_overload_keeps_the_peak_and_raises_the_rest(drive: float) -> None:
    clips = bursts()
    out = augment.saturate(clips, [drive] * 3)
    np.testing.assert_allclose(np.abs(out).max(axis=1), np.abs(clips).max(axis=1), rtol=1e-4)
    assert (np.abs(out) >= np.abs(clips) * 0.9999).all()
    assert (np.sign(out) == np.sign(clips)).all()


# One code for NumPy and CuPy. Where no GPU is, a stand-in refuses what CuPy refuses: NumPy's functions on its arrays,
# and NumPy's arrays in its functions and operators.


class _StrictArray(np.ndarray):
    """An array of another module; ``get`` is the only way back to NumPy."""

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        assert not any(type(x) is np.ndarray and x.ndim for x in inputs), "a NumPy array in an operation"
        plain = [x.view(np.ndarray) if isinstance(x, _StrictArray) else x for x in inputs]
        return _strict(getattr(ufunc, method)(*plain, **kwargs))

    def __array_function__(self, function: Any, kinds: Any, arguments: Any, kwargs: Any) -> Any:
        raise AssertionError(f"NumPy's {function.__name__} on another module's array")

    def get(self) -> np.ndarray:
        return np.array(self.view(np.ndarray))


_StrictArray.__module__ = "cupy.strict"


def _strict(value: Any) -> Any:
    return np.asarray(value).view(_StrictArray) if isinstance(value, np.ndarray | np.generic) else value


def _of_module(function: Any, *, from_host: bool = False) -> Any:
    def call(*arguments: Any, **kwargs: Any) -> Any:
        assert from_host or not any(type(x) is np.ndarray and x.ndim for x in arguments), "a NumPy array as an argument"
        plain = [x.view(np.ndarray) if isinstance(x, _StrictArray) else x for x in arguments]
        return _strict(function(*plain, **kwargs))

    return call


@pytest.fixture
def other_module(monkeypatch: pytest.MonkeyPatch) -> Any:
    class Strict(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            found = getattr(np, name)
            callable_ = callable(found) and not isinstance(found, type)
            return _of_module(found, from_host=name == "asarray") if callable_ else found

    module = Strict("cupy")
    convolve = types.ModuleType("cupyx.scipy.signal")
    convolve.oaconvolve = _of_module(signal.oaconvolve)  # type: ignore[attr-defined]
    scipy = types.ModuleType("cupyx.scipy")
    scipy.signal = convolve  # type: ignore[attr-defined]
    modules = {"cupy": module, "cupyx": types.ModuleType("cupyx"), "cupyx.scipy": scipy, "cupyx.scipy.signal": convolve}
    for name, found in modules.items():
        monkeypatch.setitem(sys.modules, name, found)
    return module


@pytest.mark.parametrize("name", STRONG)
def test_an_effect_gives_the_same_in_another_array_module(name: str, other_module: Any) -> None:
    clips = other_module.asarray(bursts())
    assert augment.array_module(clips) is other_module
    out = STRONG[name](clips, other_module)
    assert type(out) is _StrictArray
    np.testing.assert_allclose(out.get(), STRONG[name](bursts(), np), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["change_gain", "change_speed", "colour_response", "limit_peaks", "saturate"])
def test_values_per_clip_may_come_from_numpy(name: str, other_module: Any) -> None:
    out = STRONG[name](other_module.asarray(bursts()), np)
    np.testing.assert_allclose(out.get(), STRONG[name](bursts(), np), rtol=1e-5, atol=1e-6)


def test_the_array_module_is_read_off_the_array() -> None:
    assert augment.array_module(np.zeros(3)) is np
    assert augment.array_module([1.0]) is np
