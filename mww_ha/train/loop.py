"""The training loop: batches in, averaged weights out, resumable to the bit.

Losses. Of a crop with a wake word, the scores right after its end should be high (each), and the best window mean
near it higher still; of every other crop all scores should be low, the highest window mean most of all, because
one high window is a false accept. Positives and negatives are averaged apart.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt

from mww_ha.config import TrainSettings
from mww_ha.errors import DataError
from mww_ha.nn import mixednet
from mww_ha.nn.streaming import FEATURE_STEP
from mww_ha.schema import Progress, ProgressSink
from mww_ha.store import atomic_write, storage_errors
from mww_ha.train import mining
from mww_ha.train.sampler import CORE, NEGATIVE, ZONE, Batch, Sampler

Weights = list[npt.NDArray[np.float32]]

WARMUP_SHARE = 0.05
FINAL_RATE = 0.02
HARD_LIMIT = 6000
LOG_EVERY = 20


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then a half cosine down to 2 % of ``peak``."""
    warm = max(1, int(steps * WARMUP_SHARE))
    if step < warm:
        return peak * (step + 1) / warm
    share = (step - warm) / max(1, steps - warm)
    return peak * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + float(np.cos(np.pi * share))))


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRow:
    """Means since the row before."""

    step: int
    loss: float
    wake_loss: float
    negative_loss: float
    gradient_norm: float
    learning_rate: float


class Trainer:
    """The network, its optimizer and its averaged twin."""

    def __init__(self, settings: TrainSettings) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import keras
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
        self.tf = tf
        self.settings = settings
        self.shape = mixednet.shape_of(settings)
        self.model = mixednet.build(self.shape, settings.seed)
        self.twin = mixednet.build(self.shape, settings.seed)
        self.optimizer = keras.optimizers.AdamW(
            settings.learning_rate, weight_decay=settings.weight_decay, beta_2=0.99, epsilon=1e-6
        )
        self.optimizer.exclude_from_weight_decay(var_names=["gain", "identity", "beta", "gamma", "bias"])
        self.optimizer.build(self.model.trainable_variables)
        self.step = 0
        self._train = tf.function(self._step, reduce_retracing=True)
        self.forward = tf.function(lambda x: self.twin(x, training=False), reduce_retracing=True)

    def _losses(self, logits: Any, marks: Any, positive: Any) -> tuple[Any, Any]:
        tf = self.tf
        window = mining.WINDOW
        marks = tf.cast(marks, tf.int32)
        means = tf.nn.avg_pool1d(logits[:, :, None], window, 1, "VALID")[:, :, 0]
        high = tf.constant(1e4, logits.dtype)
        share = tf.cast(positive, tf.float32)

        core = tf.cast(marks == CORE, tf.float32)
        each = tf.reduce_sum(tf.nn.softplus(-logits) * core, 1) / tf.maximum(tf.reduce_sum(core, 1), 1)
        in_zone = marks[:, window - 1 :] >= ZONE
        best = tf.reduce_max(tf.where(in_zone, means, -high), 1)
        wake = (0.5 * each + tf.nn.softplus(-tf.maximum(best, -high / 10))) * share
        wake = tf.reduce_sum(wake) / tf.maximum(tf.reduce_sum(share), 1)

        low = tf.cast(marks == NEGATIVE, tf.float32)
        every = tf.reduce_sum(tf.nn.softplus(logits) * low, 1) / tf.maximum(tf.reduce_sum(low, 1), 1)
        outside = tf.nn.avg_pool1d(low[:, :, None], window, 1, "VALID")[:, :, 0] > 0.99
        worst = tf.reduce_max(tf.where(outside, means, -high), 1)
        counted = tf.cast(tf.reduce_any(outside, 1), tf.float32)
        # Crops with a wake word hold few negatives, all of them just before it: they count for half.
        weight = counted * (1 - 0.5 * share)
        negative = (every + tf.nn.softplus(tf.maximum(worst, -high / 10))) * weight
        return wake, tf.reduce_sum(negative) / tf.maximum(tf.reduce_sum(weight), 1)

    def _step(self, features: Any, marks: Any, positive: Any, rate: Any, decay: Any) -> tuple[Any, Any, Any]:
        tf = self.tf
        real = (tf.cast(features, tf.float32) + 128.0) * FEATURE_STEP
        variables = self.model.trainable_variables
        with tf.GradientTape() as tape:
            wake, negative = self._losses(self.model(real, training=True), marks, positive)
            loss = wake + self.settings.negative_weight * negative
        gradients, norm = tf.clip_by_global_norm(tape.gradient(loss, variables), self.settings.clip_norm)
        self.optimizer.learning_rate.assign(rate)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        for mine, averaged in zip(self.model.weights, self.twin.weights, strict=True):
            averaged.assign(averaged.value * decay + mine.value * (1.0 - decay))
        return wake, negative, norm

    def learn(self, batch: Batch) -> tuple[Any, Any, Any]:
        """One step. Returns wake loss, negative loss and gradient norm as scalars still on the device."""
        tf = self.tf
        rate = learning_rate(self.step, self.settings.steps, self.settings.learning_rate)
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        self.step += 1
        return self._train(  # type: ignore[no-any-return]
            tf.constant(batch.features),
            tf.constant(batch.marks),
            tf.constant(batch.positive),
            tf.constant(rate, tf.float32),
            tf.constant(decay, tf.float32),
        )

    def averaged_weights(self) -> Weights:
        """The averaged network's weights."""
        return [np.asarray(w) for w in self.twin.get_weights()]

    def set_averaged_weights(self, weights: Weights) -> None:
        """Puts weights into the averaged network, for judging; training keeps its own in ``state``."""
        self.twin.set_weights(weights)

    def start_from(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Puts the averaged weights of another training's ``state`` into the network and its twin."""
        weights = [arrays[f"twin.{i}"] for i in range(len(self.twin.weights))]
        self.model.set_weights(weights)
        self.twin.set_weights(weights)

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """Everything the next step depends on, by name."""
        arrays = {f"model.{i}": np.asarray(w) for i, w in enumerate(self.model.get_weights())}
        arrays |= {f"twin.{i}": np.asarray(w) for i, w in enumerate(self.twin.get_weights())}
        arrays |= {f"optimizer.{i}": np.asarray(v) for i, v in enumerate(self.optimizer.variables)}
        return arrays | {"step": np.array(self.step)}

    def restore(self, arrays: dict[str, npt.NDArray[Any]]) -> None:
        """Goes back to a ``state``."""
        self.model.set_weights([arrays[f"model.{i}"] for i in range(len(self.model.weights))])
        self.twin.set_weights([arrays[f"twin.{i}"] for i in range(len(self.twin.weights))])
        for i, variable in enumerate(self.optimizer.variables):
            variable.assign(arrays[f"optimizer.{i}"])
        self.step = int(arrays["step"])


@contextmanager
def hold_stops() -> Iterator[Callable[[], None]]:
    """Ctrl-C and a termination signal wait until what this gives is called, so that no step is cut in half.

    They are delivered to the handlers that were there before. Outside the main thread, which gets no signals, nothing
    is held.
    """
    waiting: list[tuple[int, FrameType | None]] = []
    handlers: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def deliver() -> None:
        if waiting:
            number, frame = waiting.pop(0)
            handlers[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        for wanted in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(wanted)
            if callable(handler):
                handlers[wanted] = handler
                signal.signal(wanted, lambda number, frame: waiting.append((number, frame)))
    try:
        yield deliver
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    deliver()


@contextmanager
def draw_ahead(draw: Callable[[int], Batch], first: int, last: int) -> Iterator[Iterator[Batch]]:
    """Batches of the steps first..last-1, made in a thread while the step before runs."""
    waiting: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=4)
    stop = threading.Event()

    def hand_over(item: Batch | BaseException) -> None:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def fill() -> None:
        try:
            for step in range(first, last):
                hand_over(draw(step))
                if stop.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - handed to the consumer, which raises it
            hand_over(error)

    def batches() -> Iterator[Batch]:
        for _ in range(first, last):
            item = waiting.get()
            if isinstance(item, BaseException):
                raise item
            yield item

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    try:
        yield batches()
    finally:
        stop.set()
        thread.join()


def save_state(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Arrays as one ``.npz``, all or nothing."""
    with atomic_write(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def load_state(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Arrays of a ``.npz``."""
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}


def train_steps(
    trainer: Trainer,
    sampler: Sampler,
    until: int,
    log: Path,
    *,
    report: ProgressSink,
) -> None:
    """Steps up to ``until``; appends a LogRow every 20 to ``log`` (JSON lines).

    A stop comes between two steps. Raises DataError when the losses are no longer numbers, StorageError.
    """
    settings = trainer.settings
    pending: list[tuple[Any, Any, Any]] = []
    last = time.monotonic()
    with (
        storage_errors(log),
        hold_stops() as stop_here,
        draw_ahead(sampler.draw, trainer.step, until) as batches,
        log.open("a") as file,
    ):
        for batch in batches:
            pending.append(trainer.learn(batch))
            if trainer.step % LOG_EVERY == 0 or trainer.step == until:
                rows = np.array([[float(v) for v in row] for row in pending])
                pending.clear()
                wake, negative, norm = rows.mean(axis=0).tolist()
                if not np.isfinite(rows).all():
                    raise DataError(
                        f"training diverged before step {trainer.step}: the losses are no longer numbers",
                        hint=f"use a smaller train.learning_rate than {settings.learning_rate:g}",
                    )
                row = {
                    "step": trainer.step,
                    "loss": wake + settings.negative_weight * negative,
                    "wake_loss": wake,
                    "negative_loss": negative,
                    "gradient_norm": norm,
                    "learning_rate": learning_rate(trainer.step - 1, settings.steps, settings.learning_rate),
                }
                file.write(json.dumps(row) + "\n")
                file.flush()
            if time.monotonic() - last > 0.2 or trainer.step == until:
                last = time.monotonic()
                report(
                    Progress(stage="train", message="learning", done=trainer.step, total=settings.steps, unit="steps")
                )
            stop_here()
