"""Feature shards as they lie on disk: written by ``prepare``, read by ``train`` and ``evaluate``.

A shard is ``<name>.u16``, frames of 40 channels as raw little-endian uint16 (memory-mapped, never read whole), and
``<name>.json``, which says where each scene lies in it and what is said when. The JSON is written last.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mww_ha.errors import DataError
from mww_ha.frontend import CHANNELS
from mww_ha.schema import Label


@dataclass(frozen=True, slots=True, kw_only=True)
class SpokenEvent:
    """A word in a prepared scene, in frames from the scene's first."""

    clip: str
    label: Label
    source: str
    speaker: str
    start_frame: int
    end_frame: int  # frames that the frontend has given when speech ends
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedScene:
    """Where one scene lies in its shard."""

    name: str
    offset: int  # frames
    frames: int
    speech_s: float
    events: tuple[SpokenEvent, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One finished shard: ``features`` is memory-mapped uint16 [frames, 40]."""

    name: str
    features: npt.NDArray[np.uint16]
    scenes: tuple[PreparedScene, ...]


def read_index(folder: Path) -> dict[str, Any]:
    """``index.json`` of a finished feature set. Raises DataError when it is not finished."""
    try:
        index: dict[str, Any] = json.loads((folder / "index.json").read_text())
    except FileNotFoundError:
        raise DataError(f"{folder} is not finished", hint="run: mww-ha prepare") from None
    return index


def open_shard(folder: Path, name: str) -> Shard:
    """A finished shard."""
    document = json.loads((folder / f"{name}.json").read_text())
    path = folder / f"{name}.u16"
    flat = np.memmap(path, np.uint16, "r") if path.stat().st_size else np.zeros(0, np.uint16)
    scenes = tuple(
        PreparedScene(
            name=row["name"],
            offset=row["offset"],
            frames=row["frames"],
            speech_s=row["speech_s"],
            events=tuple(
                SpokenEvent(
                    clip=c, label=Label(label), source=source, speaker=speaker, start_frame=a, end_frame=b, text="".join(text)
                )
                for c, label, source, speaker, a, b, *text in row["events"]
            ),
        )
        for row in document["scenes"]
    )
    return Shard(name=name, features=flat.reshape(-1, CHANNELS), scenes=scenes)
