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
from mww_ha.schema import Label, Origin

FIELD = str(Origin.CAPTURED)
"""Source of words that satellites captured and people judged. On the training side only shards of the kind ``field``
hold them."""


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
    running: bool = False  # the scenes are one recording: each goes on where the one before it ended


def read_index(folder: Path) -> dict[str, Any]:
    """``index.json`` of a finished feature set. Raises DataError when it is not finished or damaged."""
    try:
        index: dict[str, Any] = json.loads((folder / "index.json").read_text())
    except FileNotFoundError:
        raise DataError(f"{folder} is not finished", hint="run: mww-ha prepare") from None
    except ValueError as error:
        raise _damaged(folder / "index.json", str(error)) from None
    return index


def open_shard(folder: Path, name: str) -> Shard:
    """A finished shard. Raises DataError when a file of it is missing, cut short or damaged."""
    path, rows_path = folder / f"{name}.u16", folder / f"{name}.json"
    try:
        document = json.loads(rows_path.read_text())
        size = path.stat().st_size
        scenes = tuple(
            PreparedScene(
                name=row["name"],
                offset=row["offset"],
                frames=row["frames"],
                speech_s=row["speech_s"],
                events=tuple(_read_event(event) for event in row["events"]),
            )
            for row in document["scenes"]
        )
    except FileNotFoundError as error:
        raise _damaged(Path(error.filename), "it is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(rows_path, repr(error)) from None
    needed = 2 * CHANNELS * max((scene.offset + scene.frames for scene in scenes), default=0)
    if size < needed or size % (2 * CHANNELS):
        raise _damaged(path, f"it has {size} bytes, not {needed}")
    # As a plain array: every slice of a memmap object costs a Python call.
    flat = np.asarray(np.memmap(path, np.uint16, "r")) if size else np.zeros(0, np.uint16)
    running = document.get("family") == "real"
    return Shard(name=name, features=flat.reshape(-1, CHANNELS), scenes=scenes, running=running)


def _read_event(row: list[Any]) -> SpokenEvent:
    clip, label, source, speaker, start, end, text = row
    return SpokenEvent(
        clip=clip, label=Label(label), source=source, speaker=speaker, start_frame=start, end_frame=end, text=text
    )


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{path} is damaged: {why}", hint=f"delete the folder {path.parent} and run: mww-ha prepare")
