"""MixedNet for training, in Keras: what ``streaming.FusedNet`` is after fusion, with more to learn from.

Each depthwise convolution is trained as a sum of branches of several lengths, each with a learned gain per
channel, and an identity; each pointwise one as two matrices and an identity. The branches are linear and have no
normalisation of their own, so their sum is computed on the kernels, before the convolution: training costs no more
than one branch, and fusion before export is exact. (The idea is structural re-parameterisation done online, see
RepVGG, arXiv 2101.03697, and OREPA, arXiv 2204.00826.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mww_ha.errors import ConfigError
from mww_ha.nn.streaming import CHANNELS, Array, FusedBlock, FusedNet

STRIDE = 3
"""Frames per step: a score every 30 ms, as in ESPHome's own second-generation models."""

STEM_KERNEL = 5

_INPUT_GAIN = 0.1
"""Features of 0 to 26 come in at 0 to 2.6; folded into the stem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What decides a network's size."""

    stem_filters: int = 32
    filters: int = 64
    kernels: tuple[int, ...] = (5, 9, 13, 17)
    head_steps: int = 8

    @property
    def receptive_steps(self) -> int:
        """Steps that one score sees."""
        return sum(k - 1 for k in self.kernels) + self.head_steps

    @property
    def receptive_frames(self) -> int:
        """Frames that one score sees."""
        return (self.receptive_steps - 1) * STRIDE + STEM_KERNEL


def branch_lengths(kernel: int) -> tuple[int, ...]:
    """Odd lengths of the branches that are summed into one kernel, longest first: 13 → (13, 7, 3)."""
    half = kernel // 2 | 1
    return tuple(sorted({kernel, half, 3} - {k for k in (half, 3) if k > kernel}, reverse=True))


def _layers() -> Any:
    """The Keras layers, defined at the first use because importing Keras takes seconds."""
    import keras
    from keras import ops

    class Depthwise(keras.layers.Layer):  # type: ignore[misc]
        """Sum of depthwise branches and an identity, computed as one kernel. [b, t, c] → [b, t - kernel + 1, c]."""

        def __init__(self, kernel: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.lengths = branch_lengths(kernel)
            self.kernel_size = kernel

        def build(self, shape: Any) -> None:
            channels = shape[-1]
            share = 1.0 / np.sqrt(len(self.lengths))
            self.branches = []
            for length in self.lengths:
                limit = keras.initializers.RandomNormal(stddev=1.0 / np.sqrt(length))
                weight = self.add_weight(shape=(length, channels), initializer=limit, name=f"kernel_{length}")
                gain = self.add_weight(
                    shape=(channels,), initializer=keras.initializers.Constant(share), name=f"gain_{length}"
                )
                self.branches.append((length, weight, gain))
            self.identity = self.add_weight(shape=(channels,), initializer="ones", name="identity")

        def fused(self) -> Any:
            """Kernel [kernel, channels]."""
            total = 0.0
            for length, weight, gain in (*self.branches, (1, self.identity[None], 1.0)):
                side = (self.kernel_size - length) // 2
                total = total + ops.pad(weight * gain, ((side, side), (0, 0)))
            return total

        def call(self, x: Any) -> Any:
            return ops.depthwise_conv(x, self.fused()[:, :, None], strides=1, padding="valid")

    class Pointwise(keras.layers.Layer):  # type: ignore[misc]
        """Two matrices with gains, and an identity where the widths allow it, computed as one."""

        def __init__(self, filters: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.filters = filters

        def build(self, shape: Any) -> None:
            width = shape[-1]
            self.matrices = []
            for i in range(2):
                weight = self.add_weight(shape=(width, self.filters), initializer="he_normal", name=f"matrix_{i}")
                gain = self.add_weight(
                    shape=(self.filters,), initializer=keras.initializers.Constant(0.7), name=f"gain_{i}"
                )
                self.matrices.append((weight, gain))
            self.identity = None
            if width == self.filters:
                self.identity = self.add_weight(shape=(width,), initializer="zeros", name="identity")

        def fused(self) -> Any:
            """Matrix [channels in, filters]."""
            total = sum(weight * gain for weight, gain in self.matrices)
            if self.identity is not None:
                total = total + ops.diag(self.identity)
            return total

        def call(self, x: Any) -> Any:
            return ops.matmul(x, self.fused())

    return Depthwise, Pointwise


def build(shape: Shape, seed: int) -> Any:
    """A Keras model: real features [batch, frames, 40] → logits [batch, steps], no padding anywhere.

    Raises ValueError for an even kernel.
    """
    import keras

    keras.utils.set_random_seed(seed)
    depthwise, pointwise = _layers()
    inputs = keras.Input((None, CHANNELS))
    x = keras.layers.Rescaling(_INPUT_GAIN)(inputs)
    x = keras.layers.Conv1D(
        shape.stem_filters, STEM_KERNEL, strides=STRIDE, use_bias=False, kernel_initializer="he_normal", name="stem"
    )(x)
    x = _normalise("stem_norm")(x)
    x = keras.layers.ReLU()(x)
    width = shape.stem_filters
    for i, kernel in enumerate(shape.kernels):
        if kernel % 2 == 0:
            raise ValueError(f"kernel {kernel} is even: it has no centre for the residual")
        y = depthwise(kernel, name=f"b{i}_depthwise")(x)
        y = pointwise(shape.filters, name=f"b{i}_pointwise")(y)
        y = _normalise(f"b{i}_norm")(y)
        if width == shape.filters:
            side = kernel // 2
            y = keras.layers.Add()([y, keras.layers.Cropping1D((side, side))(x)])
        x = keras.layers.ReLU()(y)
        width = shape.filters
    head = keras.layers.Conv1D(1, shape.head_steps, name="head", kernel_initializer="glorot_normal")(x)
    return keras.Model(inputs, keras.layers.Reshape((-1,))(head), name="mixednet")


def _normalise(name: str) -> Any:
    import keras

    return keras.layers.BatchNormalization(momentum=0.98, epsilon=1e-3, name=name)


def fuse(model: Any) -> FusedNet:
    """Folds branches, normalisation and the input gain of a model made by ``build``. Exact up to rounding."""
    kernel = np.asarray(model.get_layer("stem").kernel, np.float64) * _INPUT_GAIN
    gain, bias = _affine(model.get_layer("stem_norm"))
    blocks: list[FusedBlock] = []
    width = kernel.shape[2]
    while (name := f"b{len(blocks)}") and any(layer.name == f"{name}_depthwise" for layer in model.layers):
        scale, offset = _affine(model.get_layer(f"{name}_norm"))
        matrix = np.asarray(model.get_layer(f"{name}_pointwise").fused(), np.float64) * scale
        blocks.append(
            FusedBlock(
                depthwise=_single(model.get_layer(f"{name}_depthwise").fused()),
                pointwise=_single(matrix),
                bias=_single(offset),
                residual=width == matrix.shape[1],
            )
        )
        width = matrix.shape[1]
    head = model.get_layer("head")
    return FusedNet(
        stride=STRIDE,
        stem=_single(kernel * gain),
        stem_bias=_single(bias),
        blocks=tuple(blocks),
        head=_single(head.kernel)[:, :, 0],
        head_bias=float(np.asarray(head.bias)[0]),
    )


def _single(values: Any) -> Array:
    return np.ascontiguousarray(np.asarray(values, np.float32))


def _affine(norm: Any) -> tuple[Any, Any]:
    """A batch normalisation as gain and offset per channel, float64."""
    mean, variance = (np.asarray(v, np.float64) for v in (norm.moving_mean, norm.moving_variance))
    gain = np.asarray(norm.gamma, np.float64) / np.sqrt(variance + norm.epsilon)
    return gain, np.asarray(norm.beta, np.float64) - mean * gain


def shape_of(settings: Any) -> Shape:
    """The network that the training settings describe. Raises ConfigError when no network has that shape."""
    kernels: Sequence[int] = settings.kernels
    for kernel in kernels:
        if kernel < 1 or kernel % 2 == 0:
            raise ConfigError(f"train.kernels has {kernel}", hint="each must be odd, such as 5, 9 or 13")
    for name in ("stem_filters", "filters", "head_steps"):
        if getattr(settings, name) < 1:
            raise ConfigError(f"train.{name} is {getattr(settings, name)}", hint="it must be at least 1")
    return Shape(
        stem_filters=settings.stem_filters,
        filters=settings.filters,
        kernels=tuple(kernels),
        head_steps=settings.head_steps,
    )
