""".tflite + samples → detections, exactly as the firmware makes them.

Three parts: the strict manifest reader, the streaming model on reference kernels (bit-exact with TFLite Micro),
and the firmware's decision: a window sum against a cutoff in uint8, a warm-up, a cool-off.

The decision follows ``streaming_model.cpp`` and ``micro_wake_word.cpp`` of ESPHome 2026.6 and 2026.10. A *slice* is
one spectrogram frame (10 ms); the model runs once every ``stride`` slices and its uint8 output is a *score*.
"""

from __future__ import annotations

import collections
import difflib
import json
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mww_ha import frontend
from mww_ha.errors import ManifestError, MissingDependencyError, ModelFileError, how_to_install
from mww_ha.schema import SAMPLE_RATE_HZ

Scores = NDArray[np.uint8]
Int8 = NDArray[np.int8]

WARMUP_SLICES = 100
"""Slices below the cutoff before a detection may happen, after the start and after each detection.

ESPHome 2026.6 to 2026.10 (MIN_SLICES_BEFORE_DETECTION); older releases use 74."""

OLD_WARMUP_SLICES = 74

DEFAULT_STRIDE = 3


# --- Manifest --------------------------------------------------------------------------------------------------------

_TOP_KEYS = {"type", "wake_word", "author", "model", "version", "trained_languages", "micro"}
_TOP_OPTIONAL = {"website"}
_MICRO_KEYS = {
    "probability_cutoff",
    "sliding_window_size",
    "feature_step_size",
    "tensor_arena_size",
    "minimum_esphome_version",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A v2 manifest that ESPHome accepts, and where its model lies."""

    path: Path
    model_path: Path
    wake_word: str
    author: str
    website: str
    trained_languages: tuple[str, ...]
    probability_cutoff: float
    sliding_window: int
    step_ms: int
    tensor_arena_bytes: int
    minimum_esphome_version: str

    @property
    def cutoff(self) -> int:
        """The cutoff as the firmware holds it, 0 to 255."""
        return cutoff_of_probability(self.probability_cutoff)


def load_manifest(path: Path) -> Manifest:
    """The v2 manifest at ``path``, read as strictly as ESPHome reads it, and its model found.

    Raises ManifestError naming the key (and the nearest known one), the value, or the missing ``.tflite``.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ManifestError(f"{path} is missing", hint="name the .json that lies beside the .tflite") from None
    except IsADirectoryError:
        raise ManifestError(f"{path} is a folder", hint="name the .json inside it") from None
    except UnicodeDecodeError:
        hint = "name the .json beside it" if path.suffix == ".tflite" else "it must be JSON in UTF-8"
        raise ManifestError(f"{path} is not text", hint=hint) from None
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}", hint="check its permissions") from None
    try:
        document = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ManifestError(f"{path} is not valid JSON: {error}", hint="compare it with a model of ESPHome's") from None
    manifest = parse_manifest(document, path)
    if not manifest.model_path.is_file():
        raise ManifestError(
            f"{path}: the model {manifest.model_path} is missing",
            hint="put the .tflite beside the manifest, or correct its key 'model'",
        )
    return manifest


def parse_manifest(document: Any, path: Path) -> Manifest:
    """A manifest from parsed JSON; ``path`` says where it lies or will lie. Raises ManifestError."""
    where = str(path)
    if not isinstance(document, Mapping):
        raise ManifestError(f"{where}: not a JSON object", hint="compare it with a model of ESPHome's")
    version = document.get("version")
    if version is None:
        raise ManifestError(f"{where}: no key 'version'", hint='write "version": 2')
    if version == 1 and version is not True:
        raise ManifestError(
            f"{where}: a version 1 manifest, made for an older network with 20 ms steps",
            hint="use the model's version 2 manifest, or train the phrase again",
        )
    if version != 2 or isinstance(version, bool):
        raise ManifestError(f"{where}: version is {version!r}", hint='write "version": 2')
    _check_keys(document, _TOP_KEYS, _TOP_OPTIONAL, where, "")
    micro = document["micro"]
    if not isinstance(micro, Mapping):
        raise ManifestError(
            f"{where}: micro is {micro!r}", hint="micro holds the keys " + ", ".join(sorted(_MICRO_KEYS))
        )
    _check_keys(micro, _MICRO_KEYS, set(), where, "micro.")
    if document["type"] != "micro":
        raise ManifestError(f"{where}: type is {document['type']!r}", hint='write "type": "micro"')
    languages = document["trained_languages"]
    languages = [languages] if isinstance(languages, str) else languages
    if not isinstance(languages, list) or not all(isinstance(item, str) for item in languages):
        raise ManifestError(f"{where}: trained_languages is {languages!r}", hint='write for example ["en"]')
    website = _text(document, "website", where) if "website" in document else ""
    if website:
        parsed = urllib.parse.urlparse(website)
        if not (parsed.scheme and parsed.netloc) and parsed.scheme != "file":
            raise ManifestError(f"{where}: website is {website!r}", hint="write an address, or leave the key out")
    minimum = _text(micro, "minimum_esphome_version", where, "micro.")
    if not re.match(r"^\d+\.\d+\.\d+[-.]?\w*$", minimum):
        raise ManifestError(f"{where}: micro.minimum_esphome_version is {minimum!r}", hint="write for example 2024.7.0")
    cutoff = _number(micro, "probability_cutoff", where, 0.0, 1.0)
    model = _text(document, "model", where)
    if not model:
        raise ManifestError(f"{where}: model is empty", hint="name the .tflite beside the manifest")
    return Manifest(
        path=path,
        model_path=path.parent / model,
        wake_word=_text(document, "wake_word", where),
        author=_text(document, "author", where),
        website=website,
        trained_languages=tuple(languages),
        probability_cutoff=cutoff,
        sliding_window=_whole(micro, "sliding_window_size", where, 1, 10_000),
        step_ms=_whole(micro, "feature_step_size", where, 0, 30),
        tensor_arena_bytes=_whole(micro, "tensor_arena_size", where, 1, 1 << 30),
        minimum_esphome_version=minimum,
    )


def _check_keys(given: Mapping[str, Any], needed: set[str], optional: set[str], where: str, prefix: str) -> None:
    known = needed | optional
    missing = sorted(needed - given.keys())
    for key in given:
        if key in known:
            continue
        # A misspelt key is best explained by the one that is missing.
        close = difflib.get_close_matches(str(key), missing or sorted(known), n=1, cutoff=0.4)
        close = close or difflib.get_close_matches(str(key), sorted(known), n=1, cutoff=0.4)
        hint = f"did you mean {prefix}{close[0]}?" if close else "ESPHome accepts only: " + ", ".join(sorted(known))
        raise ManifestError(f"{where}: unknown key {prefix}{key}", hint=hint + " (ESPHome rejects extra keys)")
    if missing:
        raise ManifestError(
            f"{where}: key {prefix}{missing[0]} is missing", hint="ESPHome needs: " + ", ".join(sorted(needed))
        )


def _text(given: Mapping[str, Any], key: str, where: str, prefix: str = "") -> str:
    value = given[key]
    if not isinstance(value, str):
        raise ManifestError(f"{where}: {prefix}{key} is {value!r}", hint="it must be text in quotes")
    return value


def _number(given: Mapping[str, Any], key: str, where: str, low: float, high: float) -> float:
    value = given[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ManifestError(f"{where}: micro.{key} is {value!r}", hint=f"it must be a number from {low:g} to {high:g}")
    return float(value)


def _whole(given: Mapping[str, Any], key: str, where: str, low: int, high: int) -> int:
    value = _number(given, key, where, low, high)
    if value != int(value):
        raise ManifestError(f"{where}: micro.{key} is {value!r}", hint="it must be a whole number")
    return int(value)


def cutoff_of_probability(probability: float) -> int:
    """A manifest's or YAML's probability as the firmware holds it: ``int(p * 255)`` (ESPHome's code generation)."""
    return int(probability * 255)


def probability_of_cutoff(cutoff: int) -> float:
    """A probability with at most three digits that ESPHome turns into exactly ``cutoff`` (0 to 255)."""
    return min(1.0, round((cutoff + 0.5) / 255, 3))


# --- The model -------------------------------------------------------------------------------------------------------


class StreamingModel:
    """A streaming INT8 model whose state is carried from call to call, as on the device.

    ``model`` is the file's bytes or its path. ``kernels="reference"`` is bit-exact with TFLite Micro but for
    FULLY_CONNECTED, which rounds once where TFLite Micro rounds twice: of a model that ends in one, about one score in
    some thousand differs by one step of the logit (ending in CONV_2D avoids it). ``kernels="fast"`` uses the optimised
    kernels: about eight times faster, single scores differ by a few steps; for ranking candidates only.
    Raises ModelFileError, MissingDependencyError.
    """

    def __init__(self, model: bytes | Path, *, kernels: str = "reference") -> None:
        self._name = "the model" if isinstance(model, bytes) else str(model)
        self._content = model if isinstance(model, bytes) else read_model(model)
        self._kernels = kernels
        self._rest = np.empty((0, frontend.CHANNELS), dtype=np.int8)
        self._load()
        self.stride: int = int(self._input["shape"][1])

    def _load(self) -> None:
        interpreter = _interpreter_module()
        if self._content[4:8] != b"TFL3":
            raise ModelFileError(f"{self._name} is not a TFLite model", hint="name a streaming INT8 .tflite")
        resolver = interpreter.OpResolverType.BUILTIN_REF
        if self._kernels == "fast":
            resolver = interpreter.OpResolverType.AUTO
        try:
            self._interpreter: Any = interpreter.Interpreter(
                model_content=self._content, experimental_op_resolver_type=resolver, num_threads=1
            )
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            detail = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
            raise ModelFileError(
                f"{self._name} is damaged or holds operations this runtime lacks: {detail}",
                hint="copy it again from where it was made",
            ) from None
        self._input = _only(self._interpreter.get_input_details(), self._name, "input")
        self._output = _only(self._interpreter.get_output_details(), self._name, "output")
        self._check()
        # Functions, not views: a held view keeps the interpreter from running.
        self._set = self._interpreter.tensor(self._input["index"])
        self._get = self._interpreter.tensor(self._output["index"])

    def _check(self) -> None:
        for tensor, dtype, scale, zero_point, shape, what in (
            (self._input, np.int8, frontend.INPUT_SCALE, frontend.INPUT_ZERO_POINT, (1, None, 40), "input"),
            (self._output, np.uint8, 1 / 256, 0, (1, 1), "output"),
        ):
            hint = f"a wake-word model's {what} is {np.dtype(dtype).name} {list(shape)} with scale {scale:.7g}"
            found = tuple(int(n) for n in tensor["shape"])
            if np.dtype(tensor["dtype"]) != np.dtype(dtype):
                found_type = np.dtype(tensor["dtype"]).name
                raise ModelFileError(f"{self._name}: its {what} is {found_type}, not {np.dtype(dtype).name}", hint=hint)
            if len(found) != len(shape) or any(w not in (None, f) for w, f in zip(shape, found, strict=True)):
                raise ModelFileError(f"{self._name}: its {what} has shape {list(found)}", hint=hint)
            given_scale, given_zero = tensor["quantization"]
            # 1/255 instead of 1/256 at the output is the same uint8 to the firmware.
            if abs(given_scale / scale - 1) > 0.005 or given_zero != zero_point:
                raise ModelFileError(
                    f"{self._name}: its {what} has scale {given_scale:.7g} and zero point {given_zero}", hint=hint
                )

    def reset(self) -> None:
        """Back to the state after loading: streaming buffers empty, no frames waiting."""
        self._rest = self._rest[:0]
        self._load()  # 0.2 ms; the runtime's own reset leaves resource variables as they are

    def scores(self, features: Int8) -> Scores:
        """``int8[n, 40]`` → ``uint8[m]``: one score per ``stride`` frames; frames left over wait for the next call."""
        frames = np.concatenate([self._rest, features]) if len(self._rest) else np.ascontiguousarray(features)
        count = len(frames) // self.stride
        self._rest = frames[count * self.stride :].copy()
        blocks = frames[: count * self.stride].reshape(count, 1, self.stride, frontend.CHANNELS)
        out = np.empty(count, dtype=np.uint8)
        write, read, invoke = self._set, self._get, self._interpreter.invoke
        try:
            for i in range(count):
                write()[...] = blocks[i]
                invoke()
                out[i] = read()[0, 0]
        except RuntimeError as error:
            raise ModelFileError(
                f"{self._name} fails while it runs: {error}", hint="copy it again from where it was made"
            ) from None
        return out


def read_model(path: Path) -> bytes:
    """The bytes of a ``.tflite``. Raises ModelFileError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror}", hint="name a .tflite file") from None
    if content[4:8] != b"TFL3":
        raise ModelFileError(f"{path} is not a TFLite model", hint="name a streaming INT8 .tflite")
    return content


def load_model(manifest: Manifest, *, kernels: str = "reference") -> StreamingModel:
    """The model of a manifest, after a check that its step is the frontend's. Raises ManifestError, ModelFileError."""
    if manifest.step_ms != frontend.STEP_MS:
        raise ManifestError(
            f"{manifest.path}: feature_step_size is {manifest.step_ms}",
            hint=f"mww-ha computes features every {frontend.STEP_MS} ms; only such models can be judged here",
        )
    return StreamingModel(manifest.model_path, kernels=kernels)


def score_samples(model: StreamingModel, samples: NDArray[np.int16]) -> Scores:
    """Scores of a signal through a fresh frontend and a reset model. Score i ends at ``step_time_s`` of its slice."""
    model.reset()
    return model.scores(frontend.quantize_features(frontend.features(samples)))


def _only(details: Sequence[Any], name: str, what: str) -> Any:
    if len(details) != 1:
        raise ModelFileError(f"{name} has {len(details)} {what}s, not one", hint="name a streaming wake-word model")
    return details[0]


def _interpreter_module() -> Any:
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise MissingDependencyError(
            f"the TFLite runtime cannot be loaded: {error}", hint="install it with: pip install ai-edge-litert"
        ) from None
    return interpreter


def _graph(model: bytes) -> Any:
    """The flatbuffer as objects, after the runtime has verified it."""
    StreamingModel(model)
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(model, 0), schema.BuiltinOperator


def op_names(model: bytes) -> dict[str, int]:
    """How often each operator occurs over all subgraphs, by its TFLite name (``CONV_2D``). Raises ModelFileError."""
    graph, operators = _graph(model)
    names = {number: name for name, number in vars(operators).items() if isinstance(number, int)}
    # Models before 2021 keep the number in the deprecated one-byte field; the larger of the two is meant.
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in graph.operatorCodes]
    uses = collections.Counter(
        names.get(codes[op.opcodeIndex], f"OPERATOR_{codes[op.opcodeIndex]}")
        for subgraph in graph.subgraphs
        for op in subgraph.operators or ()
    )
    return dict(sorted(uses.items()))


def variable_count(model: bytes) -> int:
    """Different resource variables of the model; the firmware has room for 20. Raises ModelFileError."""
    graph, operators = _graph(model)
    names = set()
    for subgraph in graph.subgraphs:
        for op in subgraph.operators or ():
            code = graph.operatorCodes[op.opcodeIndex]
            if max(code.builtinCode, code.deprecatedBuiltinCode) == operators.VAR_HANDLE:
                names.add((op.builtinOptions.container, op.builtinOptions.sharedName))
    return len(names)


# --- TFLite Micro itself, where it is installed ----------------------------------------------------------------------


def _micro_runtime() -> Any:
    try:
        from tflite_micro import runtime
    except ImportError:
        raise MissingDependencyError(
            "tflite-micro is not installed", hint=f"{how_to_install('train')} (x86-64 Linux only)"
        ) from None
    return runtime


def scores_tflite_micro(model: bytes, features: Int8) -> Scores:
    """``int8[n, 40]`` → ``uint8[m]`` by TFLite Micro, from a fresh state. Raises MissingDependencyError."""
    runtime = _micro_runtime()
    stride = StreamingModel(model).stride
    interpreter = runtime.Interpreter.from_bytes(model)
    count = len(features) // stride
    out = np.empty(count, dtype=np.uint8)
    for i in range(count):
        interpreter.set_input(features[i * stride : (i + 1) * stride][None], 0)
        interpreter.invoke()
        out[i] = interpreter.get_output(0)[0, 0]
    return out


# Each attempt in a fork of its own: an arena that is too small can crash the runtime instead of being refused.
_PROBE = """
import os, sys
from tflite_micro import runtime
model = sys.stdin.buffer.read()
def fits(size):
    child = os.fork()
    if child == 0:
        try:
            runtime.Interpreter.from_bytes(model, arena_size=size)
        except RuntimeError:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0
low, high = 0, 4096
while not fits(high):
    low, high = high, 2 * high
    if high > 1 << 26:
        sys.exit("the model does not fit into 64 MB")
while high - low > 16:
    middle = (low + high) // 32 * 16
    low, high = (low, middle) if fits(middle) else (middle, high)
print(high)
"""


def probe_arena(model: bytes) -> int:
    """Smallest tensor arena, in bytes and a multiple of 16, in which TFLite Micro on this host takes the model.

    Pointers here have 64 bits, so a 32-bit device needs less for the bookkeeping. Raises MissingDependencyError,
    ModelFileError.
    """
    _micro_runtime()
    StreamingModel(model)
    # In a child process: the runtime writes each failed attempt to standard error.
    done = subprocess.run([sys.executable, "-c", _PROBE], input=model, capture_output=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise ModelFileError(
            f"TFLite Micro does not take the model: {lines[-1] if lines else 'no reason given'}",
            hint="see which of its operators the runtime lacks",
        )
    return int(done.stdout)


# --- The firmware's decision -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Detection:
    """The moment the firmware would say the wake word."""

    time_s: float  # end of the window of the slice that tipped it, from the start of the audio
    score: float  # mean of the window, 0.0 to 1.0: the "sliding average probability" of the firmware's log
    peak: float  # highest score in the window, 0.0 to 1.0: its "max probability"
    slice: int  # number of the slice, from 0


def slice_time_s(slice: int) -> float:
    """When the audio of a slice ends, in seconds from the first sample."""
    return (slice * frontend.HOP_SAMPLES + frontend.WINDOW_SAMPLES) / SAMPLE_RATE_HZ


def step_time_s(step: int, stride: int = DEFAULT_STRIDE) -> float:
    """When the audio of score number ``step`` ends, in seconds from the first sample."""
    return slice_time_s((step + 1) * stride - 1)


def step_of_sample(sample: int, stride: int = DEFAULT_STRIDE) -> int:
    """Number of the first score whose audio reaches ``sample`` (the score may lie beyond the audio's end)."""
    slices = max(0, -(-(sample - frontend.WINDOW_SAMPLES) // frontend.HOP_SAMPLES))
    return slices // stride


class Detector:
    """The decision, score by score, state carried from call to call: a port of the firmware's per-slice loop.

    ``cutoff`` 0 to 255, ``window`` in scores. Two traits worth knowing: only slices whose latest score is below the
    cutoff count towards the end of the warm-up or cool-off, and that end may fall between two scores.
    """

    def __init__(
        self, *, cutoff: int, window: int, stride: int = DEFAULT_STRIDE, warmup_slices: int = WARMUP_SLICES
    ) -> None:
        self._cutoff = cutoff
        self._limit = cutoff * window
        self._stride = stride
        self._warmup = warmup_slices
        self._ring = [0] * window
        self._last = 0
        self._slice = 0
        self._ignore = -warmup_slices
        self._unprocessed = False

    def set_cutoff(self, cutoff: int) -> None:
        """Another cutoff from the next score on, as when its sensitivity is changed on a device that runs."""
        self._cutoff = cutoff
        self._limit = cutoff * len(self._ring)

    def push(self, scores: Scores) -> list[Detection]:
        """Detections that the next scores bring."""
        found: list[Detection] = []
        for score in scores.tolist():
            for _ in range(self._stride - 1):
                self._tick(found)
            self._last = (self._last + 1) % len(self._ring)
            self._ring[self._last] = score
            self._unprocessed = True
            self._tick(found)
        return found

    def _tick(self, found: list[Detection]) -> None:
        if self._ring[self._last] < self._cutoff:
            self._ignore = min(self._ignore + 1, 0)
        if self._unprocessed and self._ignore >= 0:
            self._unprocessed = False
            total = sum(self._ring)
            if total > self._limit:
                found.append(
                    Detection(
                        time_s=slice_time_s(self._slice),
                        score=total // len(self._ring) / 255,
                        peak=max(self._ring) / 255,
                        slice=self._slice,
                    )
                )
                self._ring = [0] * len(self._ring)
                self._ignore = -self._warmup
        self._slice += 1


def detect(
    scores: Scores, *, cutoff: int, window: int, stride: int = DEFAULT_STRIDE, warmup_slices: int = WARMUP_SLICES
) -> list[Detection]:
    """All detections in ``scores`` (uint8, from the start of a stream), as the firmware makes them."""
    return Detector(cutoff=cutoff, window=window, stride=stride, warmup_slices=warmup_slices).push(scores)


def detection_slices(
    scores: Scores,
    cutoffs: Sequence[int] | NDArray[np.integer[Any]],
    window: int,
    *,
    stride: int = DEFAULT_STRIDE,
    warmup_slices: int = WARMUP_SLICES,
) -> list[list[int]]:
    """The slices of ``detect``'s detections for each of ``cutoffs`` (ascending): the same, for long traces.

    Only places where the window sum exceeds the cutoff are visited, so hours without events cost little.
    """
    order = np.asarray(cutoffs)
    if np.any(np.diff(order) < 0):
        raise ValueError("cutoffs must ascend")
    running = np.concatenate([[0], np.cumsum(scores, dtype=np.int64)])
    places = np.arange(len(scores))
    sums = running[1:] - running[np.maximum(places + 1 - window, 0)]
    result: list[list[int]] = []
    for cutoff in order.tolist():
        # What exceeds a higher cutoff exceeds a lower one: the places only get fewer.
        keep = sums > cutoff * window
        places, sums = places[keep], sums[keep]
        result.append(_walk(scores, running, places, cutoff=cutoff, window=window, stride=stride, warmup=warmup_slices))
    return result


def _walk(
    scores: Scores,
    running: NDArray[np.int64],
    places: NDArray[np.intp],
    *,
    cutoff: int,
    window: int,
    stride: int,
    warmup: int,
) -> list[int]:
    """Slices of detections, given the ascending ``places`` where a full window exceeds the cutoff."""
    found: list[int] = []
    after = -1  # slice of the last reset
    while True:
        first = (after + 1) // stride  # scores from here on are in the ring, older ones were cleared
        armed = _armed_slice(scores, cutoff, first=first, after=after, stride=stride, warmup=warmup)
        if armed is None:
            return found
        # The latest score at the slice that arms the detector; before any score there is nothing to decide on.
        place = max(first, (armed + 1) // stride - 1)
        at = int(np.searchsorted(places, place))
        while at < len(places):
            place = int(places[at])
            if running[place + 1] - running[max(place + 1 - window, first)] > cutoff * window:
                break
            at += 1
        if at == len(places):
            return found
        after = max(armed, (place + 1) * stride - 1)
        if after >= len(scores) * stride:
            return found
        found.append(after)


def _armed_slice(scores: Scores, cutoff: int, *, first: int, after: int, stride: int, warmup: int) -> int | None:
    """First slice after ``after`` at which detections are allowed again; None if the trace ends before."""
    if warmup <= 0:
        return after + 1
    if cutoff <= 0:
        return None  # no score is below 0
    before = (first + 1) * stride - 2 - after  # slices until the next score, with a cleared ring
    if warmup <= before:
        return after + warmup
    remaining = warmup - before
    needed = -(-remaining // stride)  # scores below the cutoff, each counting for its ``stride`` slices
    start, size = first, max(64, 2 * needed)
    while start < len(scores):
        low = np.flatnonzero(scores[start : start + size] < cutoff)
        if len(low) >= needed:
            place = start + int(low[needed - 1])
            return (place + 1) * stride - 1 + (remaining - 1) % stride
        needed -= len(low)
        remaining -= len(low) * stride
        start, size = start + size, 2 * size
    return None


def count_detections(
    scores: Scores,
    cutoffs: Sequence[int] | NDArray[np.integer[Any]],
    window: int,
    *,
    stride: int = DEFAULT_STRIDE,
    warmup_slices: int = WARMUP_SLICES,
) -> NDArray[np.int64]:
    """How many detections each of the ascending ``cutoffs`` gives on ``scores``; equal to counting ``detect``."""
    slices = detection_slices(scores, cutoffs, window, stride=stride, warmup_slices=warmup_slices)
    return np.array([len(found) for found in slices], dtype=np.int64)


def peak_window_sum(scores: Scores, window: int, start: int = 0, end: int | None = None) -> int:
    """Highest sum of ``window`` scores whose last score lies in ``[start, end)``; scores before the trace are 0.

    A detector that is armed throughout detects there exactly at the cutoffs with ``sum > cutoff * window``.
    """
    end = len(scores) if end is None else min(end, len(scores))
    if start >= end:
        return 0
    running = np.concatenate([[0], np.cumsum(scores[:end], dtype=np.int64)])
    ends = np.arange(start, end) + 1
    return int((running[ends] - running[np.maximum(ends - window, 0)]).max())


def fires_within(
    scores: Scores,
    cutoffs: Sequence[int] | NDArray[np.integer[Any]],
    window: int,
    start: int,
    end: int,
    *,
    stride: int = DEFAULT_STRIDE,
    warmup_slices: int = WARMUP_SLICES,
) -> NDArray[np.bool_]:
    """For each of the ascending ``cutoffs``: does ``detect`` on ``scores[:end]`` fire at score ``start`` or later?"""
    slices = detection_slices(scores[:end], cutoffs, window, stride=stride, warmup_slices=warmup_slices)
    low = (start + 1) * stride - 1
    return np.array([any(s >= low for s in found) for found in slices], dtype=np.bool_)
