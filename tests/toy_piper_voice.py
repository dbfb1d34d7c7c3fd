"""A small valid Piper voice, made with onnx: every phoneme is a tone of its own, every speaker shifts them.

The graph has Piper's inputs (``input``, ``input_lengths``, ``scales``, and ``sid`` for several speakers) and its output
(``output`` float [1, 1, samples]), so the real engine runs it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RATE_HZ = 16_000
PHONE_SAMPLES = 900  # of one id at length scale 1; ids come with a pad after each
_SYMBOLS = (
    "_^$ !'(),-.:;?abcdefhijklmnopqrstuvwxyzæçð"
    "øħŋœɐɑɒɓɔɕɖɗɘəɚɛɜɞɟɠɡɢɣɤɥɦɧɨɪɫɬɭɮɯɰɱɲɳɴɵɶɸɹɺɻɽɾʀʁʂʃʄʈʉʊʋʌʍʎʏʐʑʒʔʕʘʙʛʜʝʟʡʢˈˌːˑ˞"
)


def write_voice(
    folder: Path,
    name: str,
    *,
    speakers: int = 1,
    espeak_voice: str = "en-us",
    silent: bool = False,
    by_table: bool = True,
) -> Path:
    """Writes NAME.onnx and NAME.onnx.json; returns the former. ``by_table`` False: speakers without a table."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.onnx"
    onnx.save(_model(speakers, silent=silent, by_table=by_table), str(path))
    config = {
        "audio": {"sample_rate": RATE_HZ, "quality": "toy"},
        "espeak": {"voice": espeak_voice},
        "inference": {"noise_scale": 0.667, "length_scale": 1.0, "noise_w": 0.8},
        "phoneme_type": "espeak",
        "phoneme_id_map": {symbol: [i] for i, symbol in enumerate(_SYMBOLS)},
        "num_symbols": len(_SYMBOLS),
        "num_speakers": speakers,
        "speaker_id_map": {f"s{i}": i for i in range(speakers)} if speakers > 1 else {},
    }
    Path(f"{path}.json").write_text(json.dumps(config), encoding="utf-8")
    return path


def _model(speakers: int, *, silent: bool, by_table: bool) -> onnx.ModelProto:
    pitches = (np.linspace(0.75, 1.5, max(speakers, 2))[:, None] * np.ones((1, 4))).astype(np.float32)
    # Audible: all but pad, start, end, space and punctuation (ids 0 to 13).
    loud = np.array([0.0] * 14 + [0.0 if silent else 0.3] * (len(_SYMBOLS) - 14), dtype=np.float32)
    tones = (200 + 37 * np.arange(len(_SYMBOLS))).astype(np.float32)
    constants = {
        "loud": loud,
        "tones": tones,
        "pitches": pitches,
        "samples": np.float32(PHONE_SAMPLES),
        "one_index": np.array([1], dtype=np.int64),
        "zero": np.float32(0),
        "one": np.float32(1),
        "step": np.float32(2 * np.pi / RATE_HZ),
        "half_turn": np.float32(np.pi),
        "columns": np.array([-1, 1], dtype=np.int64),
        "flat": np.array([1, 1, -1], dtype=np.int64),
        "ids_shape": np.array([-1], dtype=np.int64),
        "scalar": np.array([], dtype=np.int64),
        "small": np.float32(0.0005),
        "first": np.array([0], dtype=np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Reshape", ["input", "ids_shape"], ["ids"]),
        node("Gather", ["scales", "one_index"], ["length_1"]),
        node("Reshape", ["length_1", "scalar"], ["length"]),
        node("Mul", ["samples", "length"], ["count_raw"]),
        node("Floor", ["count_raw"], ["count"]),
        node("Range", ["zero", "count", "one"], ["time"]),
        node("Gather", ["tones", "ids"], ["tone"]),
        node("Gather", ["loud", "ids"], ["level"]),
    ]
    if speakers > 1:
        if by_table:
            nodes.append(node("Gather", ["pitches", "sid"], ["row"]))
        else:
            nodes += [
                node("Cast", ["sid"], ["sid_float"], to=TensorProto.FLOAT),
                node("Add", ["sid_float", "one"], ["row_1"]),
                node("Reshape", ["row_1", "columns"], ["row"]),
            ]
        nodes += [
            node("ReduceMean", ["row"], ["shift"], keepdims=0),
            node("Mul", ["tone", "shift"], ["pitched"]),
        ]
    nodes += [
        node("Mul", ["pitched" if speakers > 1 else "tone", "step"], ["speed"]),
        node("Reshape", ["speed", "columns"], ["speed_column"]),
        node("Mul", ["speed_column", "time"], ["phase"]),
        node("Sin", ["phase"], ["wave"]),
        node("Div", ["time", "count"], ["progress"]),
        node("Mul", ["progress", "half_turn"], ["arc"]),
        node("Sin", ["arc"], ["envelope"]),
        node("Reshape", ["level", "columns"], ["level_column"]),
        node("Mul", ["wave", "envelope"], ["shaped"]),
        node("Mul", ["shaped", "level_column"], ["said"]),
        node("Gather", ["scales", "first"], ["noise_scale"]),
        node("RandomNormalLike", ["said"], ["hiss_1"]),
        node("Mul", ["hiss_1", "noise_scale"], ["hiss_2"]),
        node("Mul", ["hiss_2", "zero" if silent else "small"], ["hiss"]),
        node("Add", ["said", "hiss"], ["sound"]),
        node("Reshape", ["sound", "flat"], ["output"]),
    ]
    used = {name for entry in nodes for name in entry.input}
    inputs = [
        helper.make_tensor_value_info("input", TensorProto.INT64, ["batch", "phonemes"]),
        helper.make_tensor_value_info("input_lengths", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("scales", TensorProto.FLOAT, [3]),
    ]
    if speakers > 1:
        inputs.append(helper.make_tensor_value_info("sid", TensorProto.INT64, ["batch"]))
    graph = helper.make_graph(
        nodes,
        "toy_voice",
        inputs,
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1, "samples"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="toy")
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model
