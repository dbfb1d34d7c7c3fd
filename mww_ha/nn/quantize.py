"""A fused network and the ranges of its tensors → an INT8 streaming ``.tflite``, written operator by operator.

The file is written directly rather than by a converter: every scale is ours to choose, the file holds exactly
the operators below, the same network always gives the same bytes, and it takes milliseconds, so that weights
can be chosen on the file that would be flashed instead of on its floating-point relative.

Per step: input int8 [1, stride, 40] → stem → blocks → head → LOGISTIC → QUANTIZE → uint8 [1, 1]. Each layer that
sees earlier steps keeps them in a resource variable of its own (READ_VARIABLE, CONCATENATION, STRIDED_SLICE,
ASSIGN_VARIABLE); a CALL_ONCE subgraph fills the variables with the code of 0.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from mww_ha.nn.streaming import CHANNELS, FEATURE_STEP, FusedNet, real_features, run_layers

Ranges = Mapping[str, tuple[float, float]]
"""Tensor name of ``run_layers`` → smallest and largest real value."""

LOGIT_LIMIT = 6.0
"""The int8 logit spans ±this; sigmoid(6) = 0.9975 is the last code but one of the uint8 score."""

Int8 = npt.NDArray[np.int8]


def measure_ranges(net: FusedNet, recordings: Iterable[Int8], *, keep: float = 1.0) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each tensor over int8 feature recordings [frames, 40].

    ``keep`` < 1 leaves out the rarest extremes (mean over recordings of that quantile), which then clamp. Raises
    ValueError without a recording, or with one shorter than the receptive field.
    """
    lows: dict[str, list[float]] = {}
    highs: dict[str, list[float]] = {}
    for recording in recordings:
        for name, tensor in run_layers(net, real_features(recording)).items():
            low, high = np.quantile(tensor, [1 - keep, keep]) if keep < 1 else (tensor.min(), tensor.max())
            lows.setdefault(name, []).append(float(low))
            highs.setdefault(name, []).append(float(high))
    if not lows:
        raise ValueError("no recording to measure ranges on")
    if keep < 1:
        return {name: (float(np.mean(lows[name])), float(np.mean(highs[name]))) for name in lows}
    return {name: (min(lows[name]), max(highs[name])) for name in lows}


def _affine(low: float, high: float) -> tuple[float, int]:
    """Scale and zero point of an int8 tensor that spans low..high and holds 0.0 exactly."""
    low, high = min(low, 0.0), max(high, 0.0, low + 1e-6)
    scale = (high - low) / 255.0
    return float(np.float32(scale)), int(np.clip(round(-128 - low / scale), -128, 127))


class _Writer:
    """Collects tensors, buffers and operators of one model."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema: Any = schema
        self.model = schema.ModelT()
        self.model.version = 3
        self.model.description = "streaming wake word"
        self.model.buffers = [schema.BufferT()]
        self.model.operatorCodes = []
        self.model.subgraphs = []
        self._codes: dict[int, int] = {}
        self._buffers: dict[bytes, int] = {}
        self.graph = self.new_graph("main")

    def new_graph(self, name: str) -> Any:
        """A new, empty subgraph, which further calls of ``tensor`` and ``op`` may name."""
        graph = self.schema.SubGraphT()
        graph.name = name
        graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
        self.model.subgraphs.append(graph)
        return graph

    def tensor(
        self,
        name: str,
        shape: Iterable[int],
        kind: str,
        *,
        data: npt.NDArray[Any] | None = None,
        scale: float | npt.NDArray[np.float32] | None = None,
        zero: int | None = None,
        axis: int = 0,
        graph: Any = None,
    ) -> int:
        """Adds a tensor and returns its index in its graph."""
        graph = graph or self.graph
        tensor = self.schema.TensorT()
        tensor.name = name
        tensor.shape = [int(s) for s in shape]
        tensor.type = getattr(self.schema.TensorType, kind)
        tensor.buffer = 0
        if data is not None:
            tensor.buffer = self._buffer(np.ascontiguousarray(data).tobytes())
        if scale is not None:
            quantization = self.schema.QuantizationParametersT()
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            quantization.scale = scales.tolist()
            quantization.zeroPoint = [int(zero or 0)] * len(scales)
            quantization.quantizedDimension = axis
            tensor.quantization = quantization
        graph.tensors.append(tensor)
        return len(graph.tensors) - 1

    def _buffer(self, content: bytes) -> int:
        """Index of a buffer with this content; equal contents share one."""
        if content not in self._buffers:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(content, np.uint8)
            self._buffers[content] = len(self.model.buffers)
            self.model.buffers.append(buffer)
        return self._buffers[content]

    def op(
        self, name: str, inputs: list[int], outputs: list[int], options: str = "", graph: Any = None, **values: Any
    ) -> None:
        """Adds an operator; ``options`` names its option table, ``values`` its fields."""
        code = getattr(self.schema.BuiltinOperator, name)
        if code not in self._codes:
            entry = self.schema.OperatorCodeT()
            entry.builtinCode = code
            entry.deprecatedBuiltinCode = min(code, 127)
            entry.version = _VERSIONS.get(name, 1)
            self._codes[code] = len(self.model.operatorCodes)
            self.model.operatorCodes.append(entry)
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self._codes[code]
        operator.inputs, operator.outputs = inputs, outputs
        if options:
            table = getattr(self.schema, options + "T")()
            for key, value in values.items():
                if not hasattr(table, key):
                    raise AttributeError(f"{options} has no {key}")
                setattr(table, key, value)
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            operator.builtinOptions = table
        (graph or self.graph).operators.append(operator)

    def pack(self) -> bytes:
        """The finished flatbuffer."""
        import flatbuffers

        builder = flatbuffers.Builder(64 * 1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


_VERSIONS = {
    "CONV_2D": 3,
    "DEPTHWISE_CONV_2D": 3,
    "CONCATENATION": 2,
    "STRIDED_SLICE": 2,
    "ADD": 2,
    "LOGISTIC": 2,
    "QUANTIZE": 1,
}
"""Operator versions whose kernels take int8."""


class _Model:
    """Builds the streaming graph layer by layer."""

    def __init__(self, net: FusedNet, ranges: Ranges) -> None:
        self.net = net
        self.w = _Writer()
        self.init = self.w.new_graph("initialise")
        self.constants: dict[tuple[int, ...], int] = {}
        self.scales = {name: _affine(*limits) for name, limits in ranges.items()}
        self.scales["input"] = (float(np.float32(FEATURE_STEP)), -128)
        self.scales["logit"] = _affine(-LOGIT_LIMIT, LOGIT_LIMIT)
        for i, block in enumerate(net.blocks):
            self.scales[f"b{i}"] = _affine(0.0, ranges[f"b{i}"][1])
            if not block.residual:
                self.scales[f"b{i}.pw"] = self.scales[f"b{i}"]
        self.scales["stem"] = _affine(0.0, ranges["stem"][1])

    def _activation(self, name: str, source: str, shape: tuple[int, ...]) -> int:
        scale, zero = self.scales[source]
        return self.w.tensor(name, shape, "INT8", scale=scale, zero=zero)

    def _ints(self, *values: int) -> int:
        """Constant int32 vector; equal vectors share one tensor."""
        if values not in self.constants:
            data = np.array(values, np.int32)
            self.constants[values] = self.w.tensor("ints", [len(values)], "INT32", data=data)
        return self.constants[values]

    def _slice(self, tensor: int, name: str, source: str, start: int, stop: int, width: int) -> int:
        """Steps start..stop of a [1, steps, 1, width] tensor."""
        out = self._activation(name, source, (1, stop - start, 1, width))
        begin, end, ones = self._ints(0, start, 0, 0), self._ints(0, stop, 0, 0), self._ints(1, 1, 1, 1)
        masks = {"beginMask": 0b1101, "endMask": 0b1101}
        self.w.op("STRIDED_SLICE", [tensor, begin, end, ones], [out], "StridedSliceOptions", **masks)
        return out

    def _remember(self, new: int, layer: str, source: str, kept: int, fresh: int, width: int) -> int:
        """``kept`` earlier steps and ``fresh`` new ones as one tensor; the variable then keeps the last ``kept``."""
        if kept == 0:
            return new
        scale, zero = self.scales[source]
        shape = (1, kept, 1, width)
        handle = self._handle(layer, self.w.graph)
        old = self._activation(f"{layer}.old", source, shape)
        self.w.op("READ_VARIABLE", [handle], [old], "ReadVariableOptions")
        both = self._activation(f"{layer}.window", source, (1, kept + fresh, 1, width))
        self.w.op("CONCATENATION", [old, new], [both], "ConcatenationOptions", axis=1)
        tail = self._slice(both, f"{layer}.tail", source, fresh, fresh + kept, width)
        self.w.op("ASSIGN_VARIABLE", [handle, tail], [], "AssignVariableOptions")
        first = self._handle(layer, self.init)
        zeros = np.full(shape, zero, np.int8)
        silence = self.w.tensor(f"{layer}.zero", shape, "INT8", data=zeros, scale=scale, zero=zero, graph=self.init)
        self.w.op("ASSIGN_VARIABLE", [first, silence], [], "AssignVariableOptions", graph=self.init)
        return both

    def _handle(self, layer: str, graph: Any) -> int:
        handle = self.w.tensor(f"{layer}.state", [], "RESOURCE", graph=graph)
        names = {"container": "", "sharedName": layer}
        self.w.op("VAR_HANDLE", [], [handle], "VarHandleOptions", graph=graph, **names)
        return handle

    def _weights(
        self, layer: str, values: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], source: str, axis: int
    ) -> tuple[int, int]:
        """Symmetric int8 weights, a scale per output channel (``axis``), and the int32 bias that fits them."""
        others = tuple(i for i in range(values.ndim) if i != axis)
        scale = (np.maximum(np.abs(values).max(axis=others), 1e-8) / 127.0).astype(np.float32)
        shape = [1] * values.ndim
        shape[axis] = -1
        codes = np.clip(np.rint(values / scale.reshape(shape)), -127, 127).astype(np.int8)
        kernel = self.w.tensor(f"{layer}.weights", values.shape, "INT8", data=codes, scale=scale, zero=0, axis=axis)
        bias_scale = (np.float64(self.scales[source][0]) * scale.astype(np.float64)).astype(np.float32)
        limit = 2**30
        bias_codes = np.clip(np.rint(bias.astype(np.float64) / bias_scale), -limit, limit).astype(np.int32)
        # Stored without its scale: the kernels derive that from input and weights, and the file is 6 kB smaller.
        offset = self.w.tensor(f"{layer}.bias", bias.shape, "INT32", data=bias_codes)
        return kernel, offset

    def build(self) -> bytes:
        """The whole file."""
        w, net, schema = self.w, self.net, self.w.schema
        relu = schema.ActivationFunctionType.RELU
        valid = schema.Padding.VALID
        frames = w.tensor(
            "features", (1, net.stride, CHANNELS), "INT8", scale=self.scales["input"][0], zero=self.scales["input"][1]
        )
        w.graph.inputs = [frames]
        w.op("CALL_ONCE", [], [], "CallOnceOptions", initSubgraphIndex=1)
        fresh = self._activation("input", "input", (1, net.stride, 1, CHANNELS))
        shape = self._ints(1, net.stride, 1, CHANNELS)
        w.op("RESHAPE", [frames, shape], [fresh], "ReshapeOptions", newShape=[1, net.stride, 1, CHANNELS])

        kernel, _, width = net.stem.shape
        window = self._remember(fresh, "stem", "input", kernel - net.stride, net.stride, CHANNELS)
        weights = np.ascontiguousarray(net.stem.transpose(2, 0, 1)[:, :, None, :])  # OHWI
        parameters = self._weights("stem", weights, net.stem_bias, "input", 0)
        y = self._activation("stem", "stem", (1, 1, 1, width))
        conv = {"padding": valid, "strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
        w.op("CONV_2D", [window, *parameters], [y], "Conv2DOptions", fusedActivationFunction=relu, **conv)

        source = "stem"
        for i, block in enumerate(net.blocks):
            name = f"b{i}"
            window = self._remember(y, name, source, block.kernel - 1, 1, width)
            parameters = self._weights(
                f"{name}.dw", block.depthwise[None, :, None, :], np.zeros(width, np.float32), source, 3
            )
            mixed = self._activation(f"{name}.dw", f"{name}.dw", (1, 1, 1, width))
            w.op(
                "DEPTHWISE_CONV_2D",
                [window, *parameters],
                [mixed],
                "DepthwiseConv2DOptions",
                depthMultiplier=1,
                **conv,
            )
            out_width = block.pointwise.shape[1]
            weights = np.ascontiguousarray(block.pointwise.T[:, None, None, :])
            parameters = self._weights(f"{name}.pw", weights, block.bias, f"{name}.dw", 0)
            out = self._activation(f"{name}.pw", f"{name}.pw", (1, 1, 1, out_width))
            fused = {} if block.residual else {"fusedActivationFunction": relu}
            w.op("CONV_2D", [mixed, *parameters], [out], "Conv2DOptions", **fused, **conv)
            if block.residual:
                centre = self._slice(window, f"{name}.skip", source, block.centre, block.centre + 1, width)
                added = self._activation(name, name, (1, 1, 1, out_width))
                w.op("ADD", [out, centre], [added], "AddOptions", fusedActivationFunction=relu)
                out = added
            y, source, width = out, name, out_width

        # A convolution over all remembered steps, not FULLY_CONNECTED: that kernel rounds twice in TFLite Micro and
        # once in the reference kernels (36 of 13,332 scores differed), CONV_2D rounds alike in both.
        steps = net.head.shape[0]
        window = self._remember(y, "head", source, steps - 1, 1, width)
        weights = np.ascontiguousarray(net.head[None, :, None, :])
        parameters = self._weights("head", weights, np.array([net.head_bias], np.float32), source, 0)
        tall = self._activation("logit.tall", "logit", (1, 1, 1, 1))
        w.op("CONV_2D", [window, *parameters], [tall], "Conv2DOptions", **conv)
        logit = self._activation("logit", "logit", (1, 1))
        w.op("RESHAPE", [tall, self._ints(1, 1)], [logit], "ReshapeOptions", newShape=[1, 1])
        share = w.tensor("probability", (1, 1), "INT8", scale=1 / 256, zero=-128)
        w.op("LOGISTIC", [logit], [share])
        score = w.tensor("score", (1, 1), "UINT8", scale=1 / 256, zero=0)
        w.op("QUANTIZE", [share], [score], "QuantizeOptions")
        w.graph.outputs = [score]
        return w.pack()


def write_tflite(net: FusedNet, ranges: Ranges) -> bytes:
    """The INT8 streaming model of ``net``. Deterministic: the same arrays and ranges give the same bytes."""
    return _Model(net, ranges).build()
