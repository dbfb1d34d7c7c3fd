"""What the detector says of a model, a manifest and a trace is what the device would make of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mww_ha import detector, frontend
from mww_ha.errors import ManifestError, ModelFileError

BUNDLED = ("alexa", "hey_jarvis", "hey_mycroft", "okay_nabu")


def _bundled(name: str) -> Path:
    package = pytest.importorskip("pymicro_wakeword")
    return Path(package.__file__).parent / "models" / f"{name}.json"


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """Half a minute of synthetic speech with the words of the bundled models in it, over quiet noise."""
    pytest.importorskip("espeakng_loader")
    import soxr

    from mww_ha.synthesize import espeak

    voice = espeak.load()
    rng = np.random.default_rng(3)
    pieces = [rng.standard_normal(16000 * 4) * 30]
    for text in ("alexa", "hey jarvis", "the weather is fine today", "hey mycroft", "okay nabu", "alexa", "a lecture"):
        said = soxr.resample(voice.speak(text, "gmw/en-US").astype(np.float32), voice.rate_hz, 16000)
        pieces += [said, rng.standard_normal(16000 * 3) * 30]
    return np.clip(np.concatenate(pieces), -32768, 32767).astype(np.int16)


# --- The model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUNDLED)
def test_scores_equal_those_of_tflite_micro(name, speech):
    pytest.importorskip("tflite_micro")
    content = detector.load_manifest(_bundled(name)).model_path.read_bytes()
    int8 = frontend.quantize_features(frontend.features(speech))
    assert len(int8) >= 1000
    ours = detector.StreamingModel(content).scores(int8)
    micro = detector.scores_tflite_micro(content, int8)
    assert ours.max() > 0
    # These models end in FULLY_CONNECTED, whose rounding differs once in some thousand scores by one logit step.
    assert np.count_nonzero(ours != micro) <= 2


@pytest.mark.parametrize("name", BUNDLED)
def test_scores_are_close_to_those_of_pymicro_wakeword(name, speech):
    from pymicro_wakeword import MicroWakeWord

    theirs = MicroWakeWord.from_config(_bundled(name))
    frames = frontend.features(speech)
    their_scores = []
    window = theirs.sliding_window_size
    for frame in frames:
        before = len(theirs._features)
        theirs.process_streaming_prob((frame * frontend.FEATURE_SCALE).reshape(1, 1, 40))
        if before == theirs.stride - 1:
            their_scores.append(round(theirs._probabilities[-1] * 256))
    ours = detector.StreamingModel(detector.load_manifest(_bundled(name)).model_path)
    scores = ours.scores(frontend.quantize_features(frames))
    assert window == detector.load_manifest(_bundled(name)).sliding_window
    # It rounds the input instead of using the device's integer formula, and runs optimised kernels.
    assert len(scores) == len(their_scores)
    difference = np.abs(scores.astype(int) - their_scores)
    assert np.mean(difference <= 16) > 0.97


@settings(deadline=None, max_examples=15)
@given(sizes=st.lists(st.integers(0, 50), max_size=12))
def test_how_frames_are_cut_does_not_change_the_scores(sizes):
    content = detector.load_manifest(_bundled("alexa")).model_path.read_bytes()
    rng = np.random.default_rng(1)
    int8 = np.cumsum(rng.integers(-9, 10, (200, 40)), axis=0).clip(-128, 127).astype(np.int8)
    whole = detector.StreamingModel(content).scores(int8)
    model = detector.StreamingModel(content)
    at, pieces = 0, []
    for size in [*sizes, 200]:
        pieces.append(model.scores(int8[at : at + size]))
        at += size
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_a_reset_model_has_forgotten_everything(speech):
    model = detector.load_model(detector.load_manifest(_bundled("alexa")))
    int8 = frontend.quantize_features(frontend.features(speech))[:1500]
    first = model.scores(int8)
    carried = model.scores(int8)
    model.reset()
    np.testing.assert_array_equal(model.scores(int8), first)
    assert (carried[: len(first)] != first).any()


def test_the_word_is_detected_when_it_ends(speech):
    manifest = detector.load_manifest(_bundled("alexa"))
    scores = detector.score_samples(detector.load_model(manifest), speech)
    found = detector.detect(scores, cutoff=manifest.cutoff, window=manifest.sliding_window)
    loud = np.flatnonzero(np.abs(speech[16000 * 4 :].astype(int)) > 500) + 16000 * 4
    gaps = np.flatnonzero(np.diff(loud) > 16000)
    first_word_end_s = loud[gaps[0]] / 16000
    assert found
    assert abs(found[0].time_s - first_word_end_s) < 0.5
    assert len(found) == 2  # twice said, twice heard


def test_operators_variables_and_arena_of_a_known_model():
    content = detector.load_manifest(_bundled("okay_nabu")).model_path.read_bytes()
    uses = detector.op_names(content)
    assert uses["VAR_HANDLE"] == 12
    assert uses["CALL_ONCE"] == 1
    assert uses["SPLIT_V"] == 3
    assert detector.variable_count(content) == 6


def test_the_measured_arena_is_the_smallest_that_works():
    runtime = pytest.importorskip("tflite_micro").runtime
    manifest = detector.load_manifest(_bundled("hey_jarvis"))
    content = manifest.model_path.read_bytes()
    measured = detector.probe_arena(content)
    assert measured % 16 == 0
    assert measured < manifest.tensor_arena_bytes
    runtime.Interpreter.from_bytes(content, arena_size=measured).invoke()


@pytest.mark.parametrize("cut", [0, 7, 100, 5000, -100])
def test_a_file_that_is_no_model_is_named(tmp_path, cut):
    content = detector.load_manifest(_bundled("alexa")).model_path.read_bytes()[:cut]
    path = tmp_path / "broken.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"broken\.tflite"):
        detector.StreamingModel(path)


def test_text_renamed_to_tflite_is_no_model(tmp_path):
    path = tmp_path / "notes.tflite"
    path.write_text("these are notes, not a model\n" * 50)
    with pytest.raises(ModelFileError, match=r"notes\.tflite is not a TFLite model"):
        detector.StreamingModel(path)
    with pytest.raises(ModelFileError, match=r"gone\.tflite"):
        detector.StreamingModel(tmp_path / "gone.tflite")


def _altered(change) -> bytes:
    """A bundled model with its flatbuffer changed by ``change(schema, model)``."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    content = detector.load_manifest(_bundled("alexa")).model_path.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(schema, model)
    builder = flatbuffers.Builder(len(content) + 4096)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _input(model):
    return model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]]


def _output(model):
    return model.subgraphs[0].tensors[model.subgraphs[0].outputs[0]]


def test_a_repacked_model_still_counts_as_one():
    detector.StreamingModel(_altered(lambda _schema, _model: None))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _s, m: setattr(_input(m).quantization, "scale", np.array([0.05], np.float32)), "input has scale 0.05"),
        (lambda _s, m: setattr(_input(m).quantization, "zeroPoint", np.array([0])), "zero point 0"),
        (lambda _s, m: setattr(_output(m).quantization, "scale", np.array([1.0], np.float32)), "output has scale 1"),
        (lambda s, m: setattr(_output(m), "type", s.TensorType.INT8), "output is int8, not uint8"),
    ],
)
def test_a_model_that_the_device_would_misread_is_refused(change, said):
    with pytest.raises(ModelFileError, match=said):
        detector.StreamingModel(_altered(change))


# --- Manifests -------------------------------------------------------------------------------------------------------

GOOD = {
    "type": "micro",
    "wake_word": "hey kitchen",
    "author": "somebody",
    "website": "https://example.org",
    "model": "hey_kitchen.tflite",
    "version": 2,
    "trained_languages": ["en"],
    "micro": {
        "probability_cutoff": 0.97,
        "sliding_window_size": 5,
        "feature_step_size": 10,
        "tensor_arena_size": 30000,
        "minimum_esphome_version": "2024.7.0",
    },
}


def _changed(**changes) -> dict:
    document = json.loads(json.dumps(GOOD))
    for key, value in changes.items():
        part, _, tail = key.partition("__")
        target, name = (document[part], tail) if tail else (document, part)
        if value is None:
            del target[name]
        else:
            target[name] = value
    return document


@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_manifests_are_read(name):
    manifest = detector.load_manifest(_bundled(name))
    assert (manifest.step_ms, manifest.sliding_window) == (10, 5)
    assert manifest.model_path.is_file()
    assert 0 < manifest.cutoff < 255


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"website": None},
        {"trained_languages": "en"},
        {"micro__probability_cutoff": 1},
        {"micro__feature_step_size": 0},
        {"micro__minimum_esphome_version": "2025.1.0-dev"},
    ],
)
def test_what_esphome_accepts_is_accepted(changes):
    assert detector.parse_manifest(_changed(**changes), Path("m.json")).wake_word == "hey kitchen"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": None}, "no key 'version'"),
        ({"version": 1}, "version 1 manifest"),
        ({"version": 3}, "version is 3"),
        ({"version": True}, "version is True"),
        ({"type": "macro"}, "type is 'macro'"),
        ({"extra": 1}, "unknown key extra"),
        ({"micro__extra": 1}, "unknown key micro.extra"),
        ({"autor": "x", "author": None}, r"did you mean author\?"),
        ({"micro__tensor_arena_size": None, "micro__tensor_arena": 3}, r"did you mean micro.tensor_arena_size\?"),
        ({"micro__tensor_arena_size": None}, "key micro.tensor_arena_size is missing"),
        ({"wake_word": None}, "key wake_word is missing"),
        ({"micro": [1]}, r"micro is \[1\]"),
        ({"micro__probability_cutoff": "0.9"}, "probability_cutoff is '0.9'"),
        ({"micro__probability_cutoff": 1.5}, "probability_cutoff is 1.5"),
        ({"micro__probability_cutoff": True}, "probability_cutoff is True"),
        ({"micro__sliding_window_size": 0}, "sliding_window_size is 0"),
        ({"micro__sliding_window_size": 2.5}, "sliding_window_size is 2.5"),
        ({"micro__feature_step_size": 31}, "feature_step_size is 31"),
        ({"micro__minimum_esphome_version": "soon"}, "minimum_esphome_version is 'soon'"),
        ({"website": "example"}, "website is 'example'"),
        ({"trained_languages": [1]}, "trained_languages is"),
        ({"model": ""}, "model is empty"),
        ({"model": 3}, "model is 3"),
    ],
)
def test_a_fault_in_a_manifest_is_named_with_its_key(changes, said):
    with pytest.raises(ManifestError, match=said) as caught:
        detector.parse_manifest(_changed(**changes), Path("m.json"))
    assert caught.value.message.startswith("m.json")
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00", b"null"])
def test_a_file_that_is_no_manifest_is_named(tmp_path, content):
    path = tmp_path / "m.json"
    path.write_bytes(content)
    with pytest.raises(ManifestError, match=r"m\.json"):
        detector.load_manifest(path)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ManifestError, match=r"none\.json is missing"):
        detector.load_manifest(tmp_path / "none.json")
    with pytest.raises(ManifestError, match="is a folder"):
        detector.load_manifest(tmp_path)
    path = tmp_path / "m.json"
    path.write_text(json.dumps(GOOD))
    with pytest.raises(ManifestError, match=r"hey_kitchen\.tflite is missing"):
        detector.load_manifest(path)


def test_a_model_with_another_step_is_refused_because_features_would_be_wrong(tmp_path):
    path = tmp_path / "m.json"
    path.write_text(json.dumps(_changed(micro__feature_step_size=20)))
    (tmp_path / "hey_kitchen.tflite").write_bytes(b"\0\0\0\0TFL3")
    with pytest.raises(ManifestError, match="feature_step_size is 20"):
        detector.load_model(detector.load_manifest(path))


@pytest.mark.slow
def test_esphome_agrees_on_every_manifest_above():
    """The schema of the installed ESPHome and the reader here accept the same (a version is not compared here)."""
    micro_wake_word = pytest.importorskip("esphome.components.micro_wake_word")
    import esphome.config_validation as cv

    for changes, accepted in (
        ({}, True),
        ({"website": None}, True),
        ({"trained_languages": "en"}, True),
        ({"extra": 1}, False),
        ({"micro__extra": 1}, False),
        ({"micro__tensor_arena_size": None}, False),
        ({"version": 3}, False),
        ({"micro__feature_step_size": 31}, False),
        ({"website": "example"}, False),
    ):
        document = _changed(**changes)
        try:
            micro_wake_word._validate_manifest_version(document)
            theirs = True
        except cv.Invalid:
            theirs = False
        try:
            detector.parse_manifest(document, Path("m.json"))
            ours = True
        except ManifestError:
            ours = False
        assert (theirs, ours) == (accepted, accepted), changes


def test_every_cutoff_survives_the_way_through_a_manifest():
    for cutoff in range(256):
        probability = detector.probability_of_cutoff(cutoff)
        assert 0 <= probability <= 1
        assert len(f"{probability}") <= 5
        assert detector.cutoff_of_probability(probability) == cutoff
    assert detector.cutoff_of_probability(0.97) == 247  # int(0.97 * 255), rounded down


# --- The decision ----------------------------------------------------------------------------------------------------


def _scores(*runs: tuple[int, int]) -> np.ndarray:
    return np.concatenate([np.full(count, value, np.uint8) for value, count in runs])


def _firmware(scores, *, cutoff, window, stride, warmup):
    """streaming_model.cpp and micro_wake_word.cpp line by line, one pass per slice; returns slices."""
    recent = [0] * window
    last_n_index = 0
    ignore_windows = -warmup
    unprocessed = False
    current_stride_step = 0
    found = []
    inputs = iter(scores.tolist())
    for slice_number in range(len(scores) * stride):
        current_stride_step = current_stride_step % stride
        current_stride_step += 1
        if current_stride_step >= stride:
            last_n_index += 1
            if last_n_index == window:
                last_n_index = 0
            recent[last_n_index] = next(inputs)
            unprocessed = True
        if recent[last_n_index] < cutoff:
            ignore_windows = min(ignore_windows + 1, 0)
        if unprocessed:
            if ignore_windows < 0:
                continue
            total = sum(recent)
            unprocessed = False
            if total > cutoff * window:
                found.append(slice_number)
                recent = [0] * window
                ignore_windows = -warmup
    return found


TRACES = st.one_of(
    st.lists(st.integers(0, 255), max_size=250),
    st.lists(st.sampled_from([0, 0, 0, 0, 3, 200, 255]), max_size=250),
    st.lists(st.tuples(st.sampled_from([0, 1, 90, 180, 255]), st.integers(1, 60)), max_size=12).map(
        lambda runs: [value for value, count in runs for _ in range(count)]
    ),
)


@settings(deadline=None, max_examples=300)
@given(
    trace=TRACES,
    window=st.sampled_from([1, 2, 3, 5, 10, 50]),
    stride=st.sampled_from([1, 2, 3, 4]),
    warmup=st.sampled_from([0, 1, 7, 74, 100]),
    cutoffs=st.lists(st.integers(0, 255), min_size=1, max_size=4).map(sorted),
)
def test_detections_are_those_of_the_firmware_slice_by_slice(trace, window, stride, warmup, cutoffs):
    scores = np.array(trace, np.uint8)
    expected = [_firmware(scores, cutoff=c, window=window, stride=stride, warmup=warmup) for c in cutoffs]
    one_by_one = [
        [d.slice for d in detector.detect(scores, cutoff=c, window=window, stride=stride, warmup_slices=warmup)]
        for c in cutoffs
    ]
    assert one_by_one == expected
    fast = detector.detection_slices(scores, cutoffs, window, stride=stride, warmup_slices=warmup)
    assert fast == expected
    counts = detector.count_detections(scores, cutoffs, window, stride=stride, warmup_slices=warmup)
    assert counts.tolist() == [len(found) for found in expected]


def test_a_sum_equal_to_the_limit_does_not_detect():
    lead = (0, 50)
    assert not detector.detect(_scores(lead, (200, 5), (0, 20)), cutoff=200, window=5)
    above = np.concatenate([_scores(lead, (200, 4)), np.array([201], np.uint8), _scores((0, 20))])
    (found,) = detector.detect(above, cutoff=200, window=5)
    assert (found.score, found.peak) == (200 / 255, 201 / 255)


def test_nothing_is_detected_during_the_warm_up():
    # 2 slices before the first score, then 3 for each: 95 are too few, 101 are enough.
    assert not detector.detect(_scores((0, 31), (255, 5), (0, 40)), cutoff=200, window=5)
    assert detector.detect(_scores((0, 33), (255, 5), (0, 40)), cutoff=200, window=5)
    old = detector.OLD_WARMUP_SLICES
    assert detector.detect(_scores((0, 25), (255, 5), (0, 40)), cutoff=200, window=5, warmup_slices=old)


def test_the_cool_off_counts_only_below_the_cutoff():
    # A score that stays up is one detection; the next needs a second of quiet first.
    assert len(detector.detect(_scores((0, 50), (255, 500)), cutoff=200, window=5)) == 1
    assert len(detector.detect(_scores((0, 50), (255, 50), (0, 20), (255, 50)), cutoff=200, window=5)) == 1
    assert len(detector.detect(_scores((0, 50), (255, 50), (0, 40), (255, 50)), cutoff=200, window=5)) == 2


def test_a_cutoff_of_255_never_detects():
    assert not detector.detect(_scores((0, 60), (255, 60)), cutoff=255, window=3)
    assert len(detector.detect(_scores((0, 60), (255, 60)), cutoff=254, window=3)) == 1


def test_a_detection_is_timed_at_the_end_of_the_audio_that_tipped_it():
    # 60 scores of 3 slices, then the third high one (3 * 255 > 5 * 150, 2 * 255 is not) comes with slice 188.
    (found,) = detector.detect(_scores((0, 60), (255, 10)), cutoff=150, window=5)
    assert found.slice == 63 * 3 - 1
    assert found.time_s == pytest.approx((188 * 160 + 480) / 16000)


def test_times_and_steps_fit_together():
    for sample in (0, 480, 481, 799, 800, 801, 16000, 123457):
        step = detector.step_of_sample(sample)
        assert detector.step_time_s(step) * 16000 >= sample
        assert step == 0 or detector.step_time_s(step - 1) * 16000 < sample


def test_state_is_carried_from_push_to_push():
    scores = np.random.default_rng(0).choice([0, 0, 0, 250], 4000).astype(np.uint8)
    whole = detector.detect(scores, cutoff=60, window=5)
    live = detector.Detector(cutoff=60, window=5)
    pieces = [found for start in range(0, 4000, 7) for found in live.push(scores[start : start + 7])]
    assert pieces == whole
    assert whole


@settings(deadline=None)
@given(TRACES, st.sampled_from([1, 3, 10]), st.integers(0, 100), st.integers(0, 200))
def test_the_peak_is_the_highest_window_sum_that_ends_in_the_range(trace, window, start, length):
    scores = np.array(trace, np.uint8)
    ends = range(start, min(start + length, len(scores)))
    expected = max((sum(trace[max(0, end + 1 - window) : end + 1]) for end in ends), default=0)
    assert detector.peak_window_sum(scores, window, start, start + length) == expected
