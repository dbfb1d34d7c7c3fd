"""What a model heard and nobody kept is rendered again to the sample, or not at all."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from mww_ha import frontend
from mww_ha.errors import DataError
from mww_ha.prepare import again
from mww_ha.schema import Label
from mww_ha.shards import open_shard
from mww_ha.store import Project

SHARD = "test-ambient-000"


def feature_set(project: Project) -> str:
    found = project.catalogue.stage("prepare")
    assert found is not None
    return str(found[1]["id"])


def test_a_scene_comes_out_as_it_was_heard(prepared: Project):
    id = feature_set(prepared)
    shard = open_shard(prepared.features_dir / id, SHARD)
    made = again.render_scenes(prepared, id, SHARD, [0])
    assert list(made) == [0]
    scene = shard.scenes[0]
    assert np.array_equal(frontend.Frontend().process(made[0]), shard.features[: scene.frames])
    assert not list((prepared.features_dir / id).glob(".again-*")), "nothing is left behind"


def test_what_cannot_be_the_same_is_refused_with_the_reason(prepared: Project):
    id = feature_set(prepared)
    sides = json.loads((prepared.features_dir / id / "index.json").read_text())["sides"]
    other = dataclasses.replace(
        prepared,
        settings=dataclasses.replace(
            prepared.settings, augment=dataclasses.replace(prepared.settings.augment, run_on_share=0.9)
        ),
    )
    with pytest.raises(DataError, match="changed since"):
        again.render_scenes(other, id, SHARD, [0])
    clip = next(c for c in prepared.catalogue.clips(Label.SPEECH) if sides[c.id] == "test")
    (prepared.root / clip.path).unlink()
    with pytest.raises(DataError, match=r"1 of the \d+ clips"):
        again.render_scenes(prepared, id, SHARD, [0])
