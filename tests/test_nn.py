"""What is trained, what streams in floating point and what is flashed are one network."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_wake import CUTOFF, SOUNDS, WINDOW, bursts, noise, random_net, real_features, scene, toy, whistle, write_model

from mww_ha import audio, detector, frontend, listen
from mww_ha.config import TrainSettings
from mww_ha.errors import ConfigError, MissingDependencyError
from mww_ha.export.parity import MOST_ARENA, MOST_BYTES, MOST_VARIABLES, OPERATORS
from mww_ha.nn import mixednet, quantize, streaming

DEFAULT = {"stem_filters": 32, "filters": 64, "kernels": (5, 9, 13, 17), "head_steps": 8}


@functools.cache
def heard() -> np.ndarray:
    """uint16 features of 25 s: whistles, bursts of noise of all levels, and speech where espeak-ng is installed."""
    rng = np.random.default_rng(5)
    pieces = [scene(rng, list(SOUNDS))[0]]
    for level in (30, 300, 3000, 9000):
        pieces += [noise(rng, 0.7, level), noise(rng, 0.4, 20)]
    import soxr

    from mww_ha.synthesize import espeak

    try:
        voice = espeak.load()
    except MissingDependencyError:
        pieces.append(scene(rng, list(SOUNDS))[0])
    else:
        for text in ("turn the lights on in the kitchen", "she sells sea shells", "hey kitchen"):
            said = soxr.resample(voice.speak(text, "gmw/en-US").astype(np.float32), voice.rate_hz, 16000)
            pieces += [said.astype(np.int16), noise(rng, 1.0, 30)]
    frames = frontend.features(np.concatenate(pieces))
    assert len(frames) >= 1500
    return frames


def realistic(net: streaming.FusedNet) -> streaming.FusedNet:
    """The network with logits as a trained one has them: most low, some high."""
    logits = streaming.score_batch(net, real_features(heard()))
    gain = 2.5 / float(logits.std())
    return streaming.scale_logits(net, gain, -1.0 - gain * float(logits.mean()))


def stream_logits(net: streaming.FusedNet, frames: np.ndarray) -> np.ndarray:
    """Logits of every step from the start of a stream."""
    stream, real = streaming.FloatStream(net), real_features(frames)
    return np.array([stream.step(real[i : i + net.stride]) for i in range(0, len(real) - net.stride + 1, net.stride)])


def probability(logits: np.ndarray) -> np.ndarray:
    """What a score stands for: the file clamps logits to ±6."""
    return 1 / (1 + np.exp(-logits.clip(-quantize.LOGIT_LIMIT, quantize.LOGIT_LIMIT)))


def write(net: streaming.FusedNet) -> bytes:
    return quantize.write_tflite(net, quantize.measure_ranges(net, [frontend.quantize_features(heard())]))


# --- Batch and stream ------------------------------------------------------------------------------------------------

shapes = st.fixed_dictionaries(
    {
        "stem_filters": st.integers(1, 6),
        "filters": st.integers(1, 6),
        "kernels": st.lists(st.sampled_from([1, 3, 5, 7]), max_size=3).map(tuple),
        "head_steps": st.integers(1, 5),
        "stride": st.integers(1, 4),
        "stem_kernel": st.integers(4, 6),
    }
)


@settings(deadline=None, max_examples=60)
@given(shape=shapes, seed=st.integers(0, 99), extra=st.integers(0, 14))
def test_a_stream_gives_the_scores_of_the_whole_recording(shape, seed, extra):
    rng = np.random.default_rng(seed)
    net = random_net(rng, **shape)
    x = rng.uniform(0, 26, (net.receptive_frames + extra, 40)).astype(np.float32)
    batch = streaming.score_batch(net, x)
    assert len(batch) == extra // net.stride + 1
    stream = streaming.FloatStream(net)
    # The stem remembers `kernel - stride` frames: with that many fed before, steps end where the batch's do.
    lead = -(net.stem.shape[0] - net.stride) % net.stride
    fed = np.concatenate([np.zeros((lead, 40), np.float32), x])
    steps = [stream.step(fed[i : i + net.stride]) for i in range(0, len(fed) - net.stride + 1, net.stride)]
    np.testing.assert_allclose(steps[len(steps) - len(batch) :], batch, rtol=1e-4, atol=1e-4)


def test_a_score_depends_on_its_receptive_field_and_on_nothing_else():
    net = random_net(np.random.default_rng(1))
    x = np.random.default_rng(2).uniform(0, 26, (net.receptive_frames + 1, 40)).astype(np.float32)
    before, first, last = x.copy(), x.copy(), x.copy()
    before[0] += 9  # one frame too early for the score of x[1:]
    first[1] += 9
    last[-1] += 9
    score = streaming.score_batch(net, x[1:])
    assert len(score) == 1
    assert streaming.score_batch(net, before[1:]) == score
    assert streaming.score_batch(net, first[1:]) != score
    assert streaming.score_batch(net, last[1:]) != score


def test_a_recording_shorter_than_the_receptive_field_is_refused():
    net = random_net(np.random.default_rng(1))
    with pytest.raises(ValueError, match="receptive field"):
        streaming.score_batch(net, np.zeros((net.receptive_frames - 1, 40), np.float32))
    assert len(streaming.score_batch(net, np.zeros((net.receptive_frames, 40), np.float32))) == 1


@settings(deadline=None, max_examples=30)
@given(gain=st.floats(0.05, 20), offset=st.floats(-5, 5))
def test_scaled_logits_are_the_same_ranking(gain, offset):
    net = random_net(np.random.default_rng(3))
    x = real_features(heard()[:400])
    logits = streaming.score_batch(net, x)
    scaled = streaming.score_batch(streaming.scale_logits(net, gain, offset), x)
    np.testing.assert_allclose(scaled, gain * logits + offset, rtol=1e-3, atol=1e-3)
    order = np.argsort(logits, kind="stable")
    assert np.all(np.diff(scaled[order]) > -1e-3 * gain)


@settings(deadline=None, max_examples=20)
@given(shape=shapes, seed=st.integers(0, 99))
def test_a_network_survives_being_stored(shape, seed):
    net = random_net(np.random.default_rng(seed), **shape)
    file = io.BytesIO()
    np.savez(file, **streaming.to_arrays(net))
    file.seek(0)
    with np.load(file) as archive:
        again = streaming.from_arrays(dict(archive))
    x = np.random.default_rng(0).uniform(0, 26, (net.receptive_frames + 5, 40)).astype(np.float32)
    np.testing.assert_array_equal(streaming.score_batch(again, x), streaming.score_batch(net, x))
    assert [b.residual for b in again.blocks] == [b.residual for b in net.blocks]
    assert (again.stride, again.parameters, again.macs_per_step) == (net.stride, net.parameters, net.macs_per_step)


# --- The INT8 file ---------------------------------------------------------------------------------------------------


def test_ranges_hold_every_value_that_the_recordings_give():
    net = random_net(np.random.default_rng(4))
    int8 = frontend.quantize_features(heard())
    ranges = quantize.measure_ranges(net, [int8[:700], int8[700:]])
    parts = [quantize.measure_ranges(net, [part]) for part in (int8[:700], int8[700:])]
    tensors = streaming.run_layers(net, real_features(heard()[:700]))
    assert set(ranges) == set(tensors)
    for name, (low, high) in ranges.items():
        assert low <= tensors[name].min() <= tensors[name].max() <= high
        assert (low, high) == (min(p[name][0] for p in parts), max(p[name][1] for p in parts))
    kept = quantize.measure_ranges(net, [int8], keep=0.99)
    assert all(low <= kept[name][0] <= kept[name][1] <= high for name, (low, high) in ranges.items())
    assert kept["b0.pw"][1] < ranges["b0.pw"][1]
    with pytest.raises(ValueError, match="no recording"):
        quantize.measure_ranges(net, [])


def test_the_same_network_gives_the_same_bytes_also_in_another_process(tmp_path: Path):
    net, ranges = toy().net, toy().ranges
    assert quantize.write_tflite(streaming.from_arrays(streaming.to_arrays(net)), dict(ranges)) == toy().model
    np.savez(tmp_path / "net.npz", **streaming.to_arrays(net))
    code = (
        "import sys, hashlib, numpy as np; from mww_ha.nn import quantize, streaming\n"
        f"net = streaming.from_arrays(dict(np.load({str(tmp_path / 'net.npz')!r})))\n"
        f"print(hashlib.sha256(quantize.write_tflite(net, {ranges!r})).hexdigest())"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashlib.sha256(toy().model).hexdigest()
    assert quantize.write_tflite(streaming.scale_logits(net, 1.1, 0), ranges) != toy().model


def test_the_default_network_fits_a_device():
    model = write(random_net(np.random.default_rng(0), **DEFAULT))
    assert len(model) <= MOST_BYTES
    assert set(detector.op_names(model)) <= OPERATORS
    assert detector.variable_count(model) == len(DEFAULT["kernels"]) + 2 <= MOST_VARIABLES
    pytest.importorskip("tflite_micro")
    assert detector.probe_arena(model) <= MOST_ARENA


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "shape",
    [
        {},
        DEFAULT,
        {"kernels": (3,), "head_steps": 1},
        {"kernels": (), "stem_filters": 7},
        {"stem_kernel": 3},
        {"filters": 40, "stem_filters": 20, "kernels": (7, 11, 15), "head_steps": 20},
    ],
    ids=str,
)
def test_reference_kernels_and_tflite_micro_agree_to_the_bit(shape, seed):
    pytest.importorskip("tflite_micro")
    model = write(realistic(random_net(np.random.default_rng(seed), **shape)))
    int8 = frontend.quantize_features(heard())
    ours = detector.StreamingModel(model).scores(int8)
    assert len(np.unique(ours)) > 30
    np.testing.assert_array_equal(ours, detector.scores_tflite_micro(model, int8))


@pytest.mark.parametrize("seed", range(3))
def test_the_file_scores_as_the_network_does_from_the_first_step_on(seed):
    net = realistic(random_net(np.random.default_rng(seed), **DEFAULT))
    scores = detector.StreamingModel(write(net)).scores(frontend.quantize_features(heard()))
    difference = np.abs(scores / 256 - probability(stream_logits(net, heard())))
    assert np.mean(difference) < 0.03
    # At its start the file remembers 0.0, as the stream does: no worse there than later.
    assert np.mean(difference[: net.receptive_steps]) < 0.03
    assert difference[:5].max() < 0.05


def test_the_file_of_a_fitted_network_scores_as_it_does():
    scores = detector.StreamingModel(toy().model).scores(frontend.quantize_features(heard()))
    difference = np.abs(scores / 256 - probability(stream_logits(toy().net, heard())))
    assert scores.max() > 200
    assert np.quantile(difference, 0.99) < 0.05


def test_silence_has_the_score_that_its_features_have():
    net = toy().net
    model = detector.StreamingModel(toy().model)
    scores = model.scores(np.full((600, 40), -128, np.int8))
    settled = scores[net.receptive_steps :]
    assert np.all(settled == settled[0])
    exact = streaming.score_batch(net, np.zeros((net.receptive_frames, 40), np.float32))[0]
    assert abs(int(settled[0]) / 256 - 1 / (1 + np.exp(-exact))) < 0.05
    # The variables hold the code of 0.0, so the network is as settled after the start as ever.
    assert np.all(scores == settled[0])


def test_logits_beyond_the_scale_clamp_instead_of_wrapping():
    net = streaming.scale_logits(realistic(random_net(np.random.default_rng(0))), 40.0, 0.0)
    scores = detector.StreamingModel(write(net)).scores(frontend.quantize_features(heard()))
    logits = stream_logits(net, heard())
    assert np.all(scores[logits > 30] == 255)
    assert np.all(scores[logits < -30] <= 1)
    assert np.any(logits > 30)


@pytest.mark.parametrize("dead", ["stem", "depthwise", "pointwise", "head"])
def test_a_layer_that_died_does_no_harm(dead):
    net = random_net(np.random.default_rng(0))
    if dead == "stem":
        net = dataclasses.replace(net, stem=net.stem * 0, stem_bias=net.stem_bias * 0)
    elif dead == "head":
        net = dataclasses.replace(net, head=net.head * 0, head_bias=0.0)
    else:
        block = dataclasses.replace(net.blocks[0], **{dead: getattr(net.blocks[0], dead) * 0})
        net = dataclasses.replace(net, blocks=(block, *net.blocks[1:]))
    scores = detector.StreamingModel(write(net)).scores(frontend.quantize_features(heard()))
    if dead == "head":
        assert np.all(scores == 128)
    else:
        assert np.mean(np.abs(scores / 256 - probability(stream_logits(net, heard())))) < 0.05


# --- The toy wake word -----------------------------------------------------------------------------------------------


def test_the_toy_wakes_on_its_whistle_in_a_file_and_sleeps_on_the_others(tmp_path: Path):
    rng = np.random.default_rng(2026)
    sounds = [SOUNDS[i] for i in rng.integers(0, 4, 24)]
    samples, places = scene(rng, sounds, level=70)
    audio.write_flac(tmp_path / "room.flac", samples)
    found = listen.listen_file(tmp_path / "room.flac", write_model(tmp_path))
    ends = [end / 16000 for sound, (_, end) in zip(sounds, places, strict=True) if sound == "rising"]
    assert 3 <= len(found) == len(ends) <= 21
    for detection, end in zip(found, ends, strict=True):
        assert -0.1 < detection.time_s - end < 0.5


def test_the_toy_sleeps_on_noise_that_jumps():
    model = detector.StreamingModel(toy().model)
    rng = np.random.default_rng(7)
    room = np.concatenate([noise(rng, 20, 60), noise(rng, 20, 1500), bursts(rng, 40), noise(rng, 20, 200)])
    scores = detector.score_samples(model, room)
    assert detector.detect(scores, cutoff=CUTOFF, window=WINDOW) == []


def test_the_toy_model_is_one_that_ships():
    assert len(toy().model) < 20_000
    assert set(detector.op_names(toy().model)) <= OPERATORS
    assert len(whistle(np.random.default_rng(0))) < 0.6 * 16000


# --- Keras -----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(kernel=st.integers(0, 40).map(lambda n: 2 * n + 1))
def test_branches_are_odd_different_and_no_longer_than_the_kernel(kernel):
    lengths = mixednet.branch_lengths(kernel)
    assert lengths[0] == kernel
    assert list(lengths) == sorted(set(lengths), reverse=True)
    assert all(length % 2 for length in lengths)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"kernels": (5, 8)}, "train.kernels"),
        ({"kernels": (0,)}, "train.kernels"),
        ({"kernels": (-3,)}, "train.kernels"),
        ({"filters": 0}, "train.filters"),
        ({"head_steps": 0}, "train.head_steps"),
    ],
)
def test_a_shape_that_no_network_has_is_named(changes, named):
    with pytest.raises(ConfigError, match=named) as raised:
        mixednet.shape_of(dataclasses.replace(TrainSettings(), **changes))
    assert raised.value.hint


def test_the_settings_of_a_project_describe_the_default_network():
    assert dataclasses.asdict(mixednet.shape_of(TrainSettings())) == DEFAULT
    shape = mixednet.shape_of(SimpleNamespace(stem_filters=4, filters=6, kernels=[3, 5], head_steps=2))
    net = random_net(np.random.default_rng(0), stem_filters=4, filters=6, kernels=(3, 5), head_steps=2)
    assert (shape.receptive_steps, shape.receptive_frames) == (net.receptive_steps, net.receptive_frames)


def _shake(model, rng) -> None:
    """Weights and statistics as after training: nothing at its initial value."""
    for weight in model.weights:
        value = np.asarray(weight)
        if weight.path.endswith("moving_variance"):
            weight.assign(rng.uniform(0.2, 3, value.shape))
        elif weight.path.endswith("gamma"):
            weight.assign(rng.uniform(0.5, 1.5, value.shape))
        else:
            weight.assign(value + rng.standard_normal(value.shape) * 0.1)


def test_the_fused_network_is_the_keras_model():
    pytest.importorskip("tensorflow")
    shape = mixednet.Shape(stem_filters=6, filters=8, kernels=(5, 3), head_steps=3)
    model = mixednet.build(shape, seed=3)
    rng = np.random.default_rng(0)
    _shake(model, rng)
    net = mixednet.fuse(model)
    assert [block.residual for block in net.blocks] == [False, True]
    assert (net.stride, net.receptive_frames) == (mixednet.STRIDE, shape.receptive_frames)
    x = rng.uniform(0, 26, (2, shape.receptive_frames + 31, 40)).astype(np.float32)
    logits = np.asarray(model(x, training=False))
    for one, expected in zip(x, logits, strict=True):
        np.testing.assert_allclose(streaming.score_batch(net, one), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape",
    [mixednet.Shape(), mixednet.Shape(stem_filters=8, filters=8, kernels=(1, 3, 21), head_steps=1)],
    ids=["default", "odd"],
)
def test_the_fused_network_is_the_keras_model_after_training_steps(shape):
    pytest.importorskip("tensorflow")
    import keras

    model = mixednet.build(shape, seed=1)
    again = mixednet.build(shape, seed=1)
    for one, two in zip(model.weights, again.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two))
    real = real_features(heard())
    starts = np.arange(0, len(real) - shape.receptive_frames, 40)
    x = np.stack([real[s : s + shape.receptive_frames] for s in starts])
    y = (np.arange(len(x)) % 3 == 0).astype(np.float32)[:, None]
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.003), loss=loss)
    model.fit(x, y, epochs=5, batch_size=16, verbose=0)
    net = mixednet.fuse(model)
    expected = np.asarray(model(real[None], training=False))[0]
    assert expected.std() > 0
    np.testing.assert_allclose(streaming.score_batch(net, real), expected, rtol=2e-4, atol=2e-4)
    with pytest.raises(ValueError, match="even"):
        mixednet.build(dataclasses.replace(shape, kernels=(4,)), seed=1)
