"""The network after fusion, as plain arrays: what is deployed, in floating point.

A fused MixedNet is a stem convolution with a stride, blocks of one depthwise and one pointwise convolution
with an optional residual, and a dense head over the last steps. Nothing here pads: a step's output depends
on the frames before it only, so running over a whole recording and running frame by frame with remembered
state are the same computation. ``score_batch`` and ``FloatStream`` are those two, and their equality is a
condition of export.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mww_ha import frontend

Array = npt.NDArray[np.float32]

CHANNELS = frontend.CHANNELS
FEATURE_STEP = frontend.INPUT_SCALE
"""Real value of one step of the int8 input."""


def real_features(quantized: npt.NDArray[np.int8]) -> Array:
    """The device's int8 input → the real feature values it stands for, 0 to 26, float32 of the same shape."""
    return (quantized.astype(np.float32) - frontend.INPUT_ZERO_POINT) * np.float32(FEATURE_STEP)


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedBlock:
    """Depthwise over time, pointwise over channels, then ``relu(y + x)`` or ``relu(y)``."""

    depthwise: Array  # [kernel, channels_in], kernel odd
    pointwise: Array  # [channels_in, channels_out]
    bias: Array  # [channels_out]
    residual: bool  # needs channels_in == channels_out

    @property
    def kernel(self) -> int:
        """Steps that one output sees."""
        return int(self.depthwise.shape[0])

    @property
    def centre(self) -> int:
        """Index of the step in the buffer that the residual takes."""
        return self.kernel // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedNet:
    """All weights of a deployed network; the input is the real feature value, 0 to 26."""

    stride: int  # frames per step
    stem: Array  # [kernel, CHANNELS, filters]
    stem_bias: Array  # [filters]
    blocks: tuple[FusedBlock, ...]
    head: Array  # [steps, channels]
    head_bias: float

    @property
    def receptive_steps(self) -> int:
        """Steps of 30 ms (stride 3) that one score sees."""
        return sum(block.kernel - 1 for block in self.blocks) + int(self.head.shape[0])

    @property
    def receptive_frames(self) -> int:
        """Frames that one score sees."""
        return (self.receptive_steps - 1) * self.stride + int(self.stem.shape[0])

    @property
    def parameters(self) -> int:
        """Weights and biases."""
        blocks = sum(b.depthwise.size + b.pointwise.size + b.bias.size for b in self.blocks)
        return int(self.stem.size + self.stem_bias.size + blocks + self.head.size + 1)

    @property
    def macs_per_step(self) -> int:
        """Multiply-accumulates for one score."""
        return int(self.stem.size + sum(b.depthwise.size + b.pointwise.size for b in self.blocks) + self.head.size)


def _windows(x: Array, size: int, hop: int = 1) -> Array:
    """View [n, channels, size] of x [time, channels]."""
    view: Array = np.lib.stride_tricks.sliding_window_view(x, size, axis=0)[::hop]
    return view


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, np.float32(0))


def run_layers(net: FusedNet, x: Array) -> dict[str, Array]:
    """Every tensor of one recording: x [frames, 40] real features → name → [steps, channels].

    Names: stem, then per block ``b<i>.dw``, ``b<i>.pw`` (before residual and ReLU) and ``b<i>``, then logit [steps].
    """
    kernel = net.stem.shape[0]
    if len(x) < net.receptive_frames:
        raise ValueError(f"{len(x)} frames are fewer than the receptive field of {net.receptive_frames}")
    tensors = {"stem": relu(np.einsum("tck,kcf->tf", _windows(x, kernel, net.stride), net.stem) + net.stem_bias)}
    y = tensors["stem"]
    for i, block in enumerate(net.blocks):
        tensors[f"b{i}.dw"] = np.einsum("tck,kc->tc", _windows(y, block.kernel), block.depthwise)
        tensors[f"b{i}.pw"] = out = tensors[f"b{i}.dw"] @ block.pointwise + block.bias
        if block.residual:
            out = out + y[block.centre : block.centre + len(out)]
        tensors[f"b{i}"] = y = relu(out)
    tensors["logit"] = np.einsum("tck,kc->t", _windows(y, net.head.shape[0]), net.head) + np.float32(net.head_bias)
    return tensors


def score_batch(net: FusedNet, x: Array) -> Array:
    """Logits [steps] of a whole recording x [frames, 40]; step i has heard the first ``receptive_frames + i*stride``.

    Raises ValueError when x is shorter than ``receptive_frames``.
    """
    return run_layers(net, x)["logit"]


class FloatStream:
    """The same network, one step at a time with remembered state, as the device runs it."""

    def __init__(self, net: FusedNet) -> None:
        self.net = net
        self._stem = np.zeros((net.stem.shape[0] - net.stride, CHANNELS), np.float32)
        width = net.stem.shape[2]
        self._blocks = []
        for block in net.blocks:
            self._blocks.append(np.zeros((block.kernel - 1, width), np.float32))
            width = block.pointwise.shape[1]
        self._head = np.zeros((net.head.shape[0] - 1, width), np.float32)

    def step(self, frames: Array) -> float:
        """Logit after ``stride`` new frames [stride, 40]."""
        net = self.net
        buffer = np.concatenate([self._stem, frames])
        self._stem = buffer[net.stride :]
        y = relu(np.einsum("kc,kcf->f", buffer, net.stem) + net.stem_bias)
        for i, block in enumerate(net.blocks):
            buffer = np.concatenate([self._blocks[i], y[None]])
            self._blocks[i] = buffer[1:]
            out = np.einsum("kc,kc->c", buffer, block.depthwise) @ block.pointwise + block.bias
            if block.residual:
                out = out + buffer[block.centre]
            y = relu(out)
        buffer = np.concatenate([self._head, y[None]])
        self._head = buffer[1:]
        return float(np.sum(buffer * net.head) + net.head_bias)


def scale_logits(net: FusedNet, gain: float, offset: float) -> FusedNet:
    """The network whose logit is ``gain * logit + offset``; with a positive gain the same ranking, other cutoffs."""
    return FusedNet(
        stride=net.stride,
        stem=net.stem,
        stem_bias=net.stem_bias,
        blocks=net.blocks,
        head=(net.head * gain).astype(np.float32),
        head_bias=float(net.head_bias * gain + offset),
    )


def to_arrays(net: FusedNet) -> dict[str, Array]:
    """Flat name → array, for ``numpy.savez``."""
    arrays: dict[str, Array] = {
        "stride": np.array(net.stride, np.float32),
        "stem": net.stem,
        "stem_bias": net.stem_bias,
        "head": net.head,
        "head_bias": np.array(net.head_bias, np.float32),
    }
    for i, block in enumerate(net.blocks):
        arrays[f"b{i}.depthwise"] = block.depthwise
        arrays[f"b{i}.pointwise"] = block.pointwise
        arrays[f"b{i}.bias"] = block.bias
        arrays[f"b{i}.residual"] = np.array(block.residual, np.float32)
    return arrays


def from_arrays(arrays: dict[str, Array]) -> FusedNet:
    """The inverse of ``to_arrays``."""
    count = sum(1 for name in arrays if name.endswith(".depthwise"))
    blocks = tuple(
        FusedBlock(
            depthwise=arrays[f"b{i}.depthwise"],
            pointwise=arrays[f"b{i}.pointwise"],
            bias=arrays[f"b{i}.bias"],
            residual=bool(arrays[f"b{i}.residual"]),
        )
        for i in range(count)
    )
    return FusedNet(
        stride=int(arrays["stride"]),
        stem=arrays["stem"],
        stem_bias=arrays["stem_bias"],
        blocks=blocks,
        head=arrays["head"],
        head_bias=float(arrays["head_bias"]),
    )
