"""Sound that is not kept: a scene of a finished feature set, rendered once more from the clips it was made of.

A scene is a pure function of its plan, of its side's clips and of the settings of then. All three are compared with
what the feature set says of itself, and the frames of what comes out with the frames that were kept: it is that very
sound, or there is none.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Collection
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mww_ha import audio, frontend, prepare
from mww_ha.errors import DataError
from mww_ha.prepare import features
from mww_ha.prepare.scenes import SceneMaker
from mww_ha.schema import Clip, Label, Split
from mww_ha.shards import open_shard, read_index
from mww_ha.store import Project

Samples = npt.NDArray[np.int16]

_HINT = "its clips can still be heard one by one"


def render_scenes(project: Project, feature_set: str, shard: str, numbers: Collection[int]) -> dict[int, Samples]:
    """The scenes ``numbers`` of a held-out shard, sample for sample as they were. ``project``: settings as they were.

    Scenes are drawn one after the other, so all before the last one wanted are made too. Raises DataError when clips,
    settings or version are not those any more.
    """
    index = can_render(project, feature_set, shard)
    folder = project.features_dir / feature_set
    split = Split(shard.partition("-")[0])
    known = {clip.id: clip for clip in project.catalogue.clips()}
    ids = sorted(id for id, side in index["sides"].items() if side == split)
    if gone := [id for id in ids if id not in known or not (project.root / known[id].path).is_file()]:
        raise DataError(f"{len(gone)} of the {len(ids)} clips that {shard} was drawn from are gone", hint=_HINT)
    clips = [known[id] for id in ids]
    with tempfile.TemporaryDirectory(prefix=".again-", dir=folder) as scratch:
        pool = Path(scratch, "pool.i16")
        left_out = set(features.build_pool(project.root, clips, pool)["left_out"])
        by_side = defaultdict[Split, list[Clip]](list)
        by_side[split] = [clip for clip in clips if clip.id not in left_out]
        plan = next((plan for plan in prepare.plan_feature_set(project, by_side) if plan.name == shard), None)
        if plan is None or prepare.shard_keys(project, [plan], by_side)[shard] != index["keys"][shard]:
            raise DataError(f"{shard} was drawn from clips or with settings that have changed since", hint=_HINT)
        maker = SceneMaker(features.open_pool(project.root, pool), project.settings.augment)
        scenes = islice(features.render_scenes(plan, maker), max(numbers) + 1)
        made = {number: scene.samples for number, scene in enumerate(scenes) if number in numbers}
    kept = open_shard(folder, shard)
    for number, samples in made.items():
        scene = kept.scenes[number]
        frames = kept.features[scene.offset : scene.offset + scene.frames]
        if not np.array_equal(frontend.Frontend().process(samples), frames):
            raise DataError(f"scene {number} of {shard} comes out differently on this machine", hint=_HINT)
    return made


def can_render(project: Project, feature_set: str, shard: str) -> dict[str, Any]:
    """The feature set's index, as far as one can tell without looking at the clips. Raises DataError why not."""
    index = read_index(project.features_dir / feature_set)
    if index.get("version") != prepare.VERSION or shard not in index.get("keys", {}):
        raise DataError(f"{shard} was rendered by another version of mww-ha", hint=_HINT)
    return index


def read_heard(root: Path, clip: Clip) -> Samples:
    """What of a held-out recording is heard: speech without the silence around it, other sound as it is."""
    samples = audio.read_samples(root / clip.path)
    if clip.label is Label.NOISE:
        return samples
    start, end = audio.trim_silence(samples, margin_s=0.0)
    return samples[start:end]
