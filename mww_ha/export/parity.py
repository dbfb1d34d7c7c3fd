"""Is this file what was trained, and will a device run it as we did? One check a line; any failure refuses it."""

from __future__ import annotations

import hashlib
import importlib.util
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mww_ha import detector, frontend, trials
from mww_ha.errors import DataError, ModelFileError
from mww_ha.export.manifest import write_manifest
from mww_ha.nn import streaming
from mww_ha.nn.streaming import FusedNet
from mww_ha.schema import Label
from mww_ha.shards import open_shard

OPERATORS_SOURCE = "ESPHome 2026.10.0 (and 2026.6.5), micro_wake_word: streaming_model.cpp, register_streaming_ops_"
OPERATORS = frozenset(
    {
        "ADD",
        "ASSIGN_VARIABLE",
        "AVERAGE_POOL_2D",
        "CALL_ONCE",
        "CONCATENATION",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "FULLY_CONNECTED",
        "LOGISTIC",
        "MAX_POOL_2D",
        "MEAN",
        "MUL",
        "PACK",
        "PAD",
        "QUANTIZE",
        "READ_VARIABLE",
        "RESHAPE",
        "SPLIT_V",
        "STRIDED_SLICE",
        "VAR_HANDLE",
    }
)
"""What the firmware can run; anything else stops the device when it loads the model."""

MOST_VARIABLES = 20
MOST_BYTES = 65_000
MOST_ARENA = 30_000

STREAM_TOLERANCE = 1e-3
"""Logits of the batch and the streaming form, in float32."""

SCORE_TOLERANCE = 0.12
"""Window means of the INT8 file and of floating point, as probabilities. A decision may differ only within it."""

TOP_SCORE, HIGH_SCORE = 250, 64
MOST_AT_TOP = 0.8
"""Share of the scores from 64 on that may be 250 or more. A sure network reaches 0.6 (measured on short words); one
whose logits are too large knows only 0 and 255, and its cutoffs differ in name alone."""

PARITY_FRAMES = 3000
"""Frames of each kind of validation sound that both forms and both runtimes hear."""

FEWEST_FRAMES = 1000

FLOAT_TRIALS = 8
"""Scenes per condition that are also scored in floating point."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """``outcome`` passed | failed | skipped; ``value`` is the number behind the finding, where there is one."""

    name: str
    outcome: str
    finding: str
    value: float = 0.0


def sha256(content: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(content).hexdigest()


def load_net(path: Path) -> FusedNet:
    """The fused network of a run's ``net.npz``. Raises ModelFileError when it is missing or damaged."""
    try:
        with path.open("rb") as file, np.load(file) as archive:
            return streaming.from_arrays({n: archive[n] for n in archive.files if not n.startswith("range.")})
    except FileNotFoundError:
        reason = "is missing"
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = f"is damaged: {error!r}"
    raise ModelFileError(f"{path} {reason}", hint=f"delete the folder {path.parent} and run: mww-ha train")


def check(
    model: bytes,
    net: FusedNet,
    folder: Path,
    index: dict[str, Any],
    *,
    cutoff: int,
    window: int,
    judged: dict[str, Any],
) -> list[Check]:
    """All checks, in order; those that cannot run on this machine are marked skipped with the reason.

    ``model`` is the file to judge, ``net`` what it was made of, ``folder`` and ``index`` the feature set with the
    validation side, ``judged`` the run's report. What a runtime could not survive is not run: after a wrong input or
    output, or an operator that ESPHome lacks, the list ends there. Raises DataError when the features are damaged.
    """
    try:
        stride = detector.StreamingModel(model).stride
    except ModelFileError as error:
        return [_verdict("input and output", False, error.message)]
    finding = f"int8 [1, {stride}, 40] at 26/255 in, uint8 [1, 1] at 1/256 out"
    if stride != net.stride:
        return [_verdict("input and output", False, f"{finding}; the network was trained with {net.stride} frames")]
    found = [_verdict("input and output", True, finding)]
    operators = detector.op_names(model)
    foreign = sorted(set(operators) - OPERATORS)
    finding = f"{sum(operators.values())} of {len(operators)} kinds, all registered by ESPHome"
    if foreign:
        finding = f"ESPHome does not register {', '.join(foreign)}"
    found.append(_verdict("operators", not foreign, finding, len(foreign)))
    variables = detector.variable_count(model)
    found.append(
        _verdict("variables", variables <= MOST_VARIABLES, f"{variables}, at most {MOST_VARIABLES}", variables)
    )
    found.append(_verdict("size", len(model) <= MOST_BYTES, f"{len(model)} bytes, at most {MOST_BYTES}", len(model)))
    if foreign:
        return found
    frames = _running_frames(folder, index)
    found.append(_compare_streams(net, frames))
    found.append(_compare_runtimes(model, frames))
    heard = _hear_trials(model, folder, index)
    found += _compare_quantization(net, heard, folder, cutoff=cutoff, window=window)
    found.append(_check_saturation(heard, judged, cutoff))
    found.append(_measure_arena(model))
    found.append(_try_elsewhere(model, folder, index, cutoff=cutoff, window=window))
    return found


def _verdict(name: str, holds: bool, finding: str, value: float = 0.0) -> Check:
    return Check(name=name, outcome="passed" if holds else "failed", finding=finding, value=float(value))


def _running_frames(folder: Path, index: dict[str, Any]) -> npt.NDArray[np.uint16]:
    """Running sound of the validation side, at least FEWEST_FRAMES: real recordings, wake words in noise, ambient."""
    families = ("validation/real", "validation/noise", "validation/ambient")
    pieces: list[npt.NDArray[np.uint16]] = []
    for family in families:
        pieces += [open_shard(folder, name).features[:PARITY_FRAMES] for name in index["shards"].get(family, [])[:1]]
    total = sum(map(len, pieces))
    if total < FEWEST_FRAMES:
        raise DataError(
            f"{folder}: {total} frames of validation sound, too few to compare runtimes on ({FEWEST_FRAMES})",
            hint="add wake clips or recordings, then run: mww-ha run",
        )
    return np.concatenate(pieces)


def _real(frames: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    return streaming.real_features(frontend.quantize_features(frames))


def _score_aligned(net: FusedNet, real: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Logits of the batch form, step for step those of a stream.

    The batch form starts with the first whole window; leading zeros, which are what a stream remembers at its
    start, align its steps with the stream's.
    """
    start = net.stem.shape[0] - net.stride
    return streaming.score_batch(net, np.concatenate([np.zeros((start, streaming.CHANNELS), np.float32), real]))


def _score_float(net: FusedNet, frames: npt.NDArray[np.uint16]) -> npt.NDArray[np.float64]:
    """Probabilities of a recording from the start of a stream, one per step; steps before the first are 0."""
    logits = _score_aligned(net, _real(frames))
    total = len(frames) // net.stride
    out = np.zeros(total)
    out[total - len(logits) :] = 1 / (1 + np.exp(-logits.astype(np.float64)))
    return out


def _compare_streams(net: FusedNet, frames: npt.NDArray[np.uint16]) -> Check:
    real = _real(frames[:PARITY_FRAMES])
    batch = _score_aligned(net, real)
    stream = streaming.FloatStream(net)
    steps = np.array([stream.step(real[i : i + net.stride]) for i in range(0, len(real) - net.stride + 1, net.stride)])
    worst = float(np.abs(steps[len(steps) - len(batch) :] - batch).max())
    finding = f"logits differ by at most {worst:.1e} over {len(real)} frames, allowed {STREAM_TOLERANCE:g}"
    return _verdict("batch equals stream", worst <= STREAM_TOLERANCE, finding, worst)


def _compare_runtimes(model: bytes, frames: npt.NDArray[np.uint16]) -> Check:
    name = "reference kernels equal TFLite Micro"
    if importlib.util.find_spec("tflite_micro") is None:
        return Check(name=name, outcome="skipped", finding="tflite-micro is not available for this machine")
    quantized = frontend.quantize_features(frames)
    ours = detector.StreamingModel(model).scores(quantized)
    try:
        theirs = detector.scores_tflite_micro(model, quantized)
    except RuntimeError as error:
        return _verdict(name, False, f"TFLite Micro does not take the model: {error}")
    different = int(np.count_nonzero(ours != theirs))
    spread = f"scores from {ours.min()} to {ours.max()}"
    return _verdict(
        name, different == 0, f"{different} of {len(ours)} scores differ ({len(frames)} frames, {spread})", different
    )


def _trial_scenes(
    folder: Path, index: dict[str, Any], family: str
) -> Iterator[tuple[npt.NDArray[np.uint16], tuple[Any, ...]]]:
    for name in index["shards"].get(f"validation/{family}", [])[:1]:
        shard = open_shard(folder, name)
        for scene in shard.scenes[:FLOAT_TRIALS]:
            yield np.asarray(shard.features[scene.offset : scene.offset + scene.frames]), scene.events


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    """A trial scene and what the file says of it."""

    frames: npt.NDArray[np.uint16]
    events: tuple[Any, ...]
    scores: npt.NDArray[np.uint8]


def _hear_trials(model: bytes, folder: Path, index: dict[str, Any]) -> list[_Heard]:
    """Wake words of the validation side in every condition, each scene from a fresh state."""
    streaming_model = detector.StreamingModel(model)
    heard = []
    for family in trials.CONDITION_FAMILIES:
        for frames, events in _trial_scenes(folder, index, family):
            streaming_model.reset()
            scores = streaming_model.scores(frontend.quantize_features(frames))
            heard.append(_Heard(frames=frames, events=events, scores=scores))
    return heard


def _compare_quantization(
    net: FusedNet, heard: Sequence[_Heard], folder: Path, *, cutoff: int, window: int
) -> list[Check]:
    """INT8 against floating point on wake words of the validation side: score by score, and decision by decision."""
    errors: list[npt.NDArray[np.float64]] = []
    flips = far_flips = events_seen = 0
    for scene in heard:
        exact = _score_float(net, scene.frames)
        means = np.convolve(scene.scores / 256, np.ones(window) / window)[: len(scene.scores)]
        exact_means = np.convolve(exact, np.ones(window) / window)[: len(exact)]
        ready = slice(net.receptive_steps + window, None)
        errors.append(np.abs(means - exact_means)[ready])
        for event in scene.events:
            if event.label is not Label.WAKE:
                continue
            first, last = trials.event_steps(event)
            peak = float(exact_means[first:last].max())
            wakes = detector.peak_window_sum(scene.scores, window, first, last) > cutoff * window
            events_seen += 1
            if wakes != (peak * 256 > cutoff):
                flips += 1
                far_flips += abs(peak - cutoff / 256) > SCORE_TOLERANCE
    every = np.concatenate(errors) if errors else np.zeros(0)
    if not len(every) or not events_seen:
        raise DataError(f"{folder} holds no wake word of the validation side", hint="add voices, then: mww-ha run")
    near = float(np.quantile(every, 0.999))
    return [
        _verdict(
            "INT8 near floating point",
            near <= SCORE_TOLERANCE,
            f"window means differ by {every.mean():.4f} on average, 99.9 % by less than {near:.3f}, at most "
            f"{every.max():.3f}; allowed {SCORE_TOLERANCE:g} at 99.9 %",
            near,
        ),
        _verdict(
            "no decision flipped",
            far_flips == 0,
            f"{flips} of {events_seen} decisions on validation wake words differ from floating point, {far_flips} of "
            f"them by more than {SCORE_TOLERANCE:g} from the cutoff",
            far_flips,
        ),
    ]


def _check_saturation(heard: Sequence[_Heard], judged: dict[str, Any], cutoff: int) -> Check:
    """Scores that pile up at 255 leave no cutoff to choose. Measured on wake words of the validation side."""
    scores = np.concatenate([scene.scores for scene in heard])
    high = scores[scores >= HIGH_SCORE]
    top = float(np.mean(high >= TOP_SCORE)) if len(high) else 0.0
    shown = ", ".join(str(level["cutoff"]) for level in judged["levels"])
    finding = f"cutoffs {shown} of 255; {top:.0%} of the scores from {HIGH_SCORE} on are {TOP_SCORE} or more"
    return _verdict("scores do not saturate", 0 < cutoff < TOP_SCORE and top < MOST_AT_TOP, finding, top)


def _measure_arena(model: bytes) -> Check:
    name = "tensor arena"
    if importlib.util.find_spec("tflite_micro") is None:
        return Check(
            name=name,
            outcome="skipped",
            finding=f"tflite-micro is not available for this machine; {MOST_ARENA} bytes assumed",
            value=MOST_ARENA,
        )
    try:
        arena = detector.probe_arena(model)
    except ModelFileError as error:
        return _verdict(name, False, error.message)
    return _verdict(name, arena <= MOST_ARENA, f"{arena} bytes on this host, at most {MOST_ARENA}", arena)


def _try_elsewhere(model: bytes, folder: Path, index: dict[str, Any], *, cutoff: int, window: int) -> Check:
    """The model in pymicro-wakeword, a second implementation: does it hear a wake word of the validation side?"""
    import tempfile

    name = "loads and detects in pymicro-wakeword"
    if importlib.util.find_spec("pymicro_wakeword") is None:
        return Check(name=name, outcome="skipped", finding="pymicro-wakeword is not available for this machine")
    from pymicro_wakeword import MicroWakeWord

    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "model.json"
        path.with_suffix(".tflite").write_bytes(model)
        write_manifest(
            path,
            phrase="check",
            model_file="model.tflite",
            author="check",
            website="",
            languages=["en"],
            probability_cutoff=detector.probability_of_cutoff(min(254, max(1, cutoff))),
            sliding_window=window,
            tensor_arena_bytes=MOST_ARENA,
        )
        other = MicroWakeWord.from_config(path)
        heard = total = 0
        try:
            for frames, events in _trial_scenes(folder, index, "quiet"):
                total += sum(event.label is Label.WAKE for event in events)
                real = (frames.astype(np.float32) * np.float32(frontend.FEATURE_SCALE))[:, None, None, :]
                awake = [bool(other.process_streaming(frame)) for frame in real]
                for event in events:
                    first, last = (step * detector.DEFAULT_STRIDE for step in trials.event_steps(event))
                    heard += event.label is Label.WAKE and any(awake[first:last])
        finally:
            other.close()
    return _verdict(name, heard > 0, f"{heard} of {total} wake words of unheard voices in a quiet room", heard)
