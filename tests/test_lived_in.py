"""The household that other tests live in is one that the parts themselves could have made."""

from __future__ import annotations

from pathlib import Path

import pytest
from lived_in import PEOPLE, WAITING, make_household

from mww_ha.capture.rates import measure_field
from mww_ha.doctor import examine
from mww_ha.schema import Verdict
from mww_ha.store import open_project


def test_it_is_whole_and_its_rate_is_of_the_field(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory):
    household = make_household(tmp_path / "house", tmp_path_factory.getbasetemp())
    project = open_project(household.root)
    assert project.catalogue.check_integrity() == []
    assert [model["id"] for model in project.catalogue.models()] == [household.model]
    assert len(household.waiting) == WAITING
    assert all(score.trace and not score.problem for score in project.catalogue.scores())
    assert set(household.judged.values()) == {Verdict.WAKE, Verdict.FALSE_ACCEPT, Verdict.MISSED_WAKE}
    assert {clip.speaker for clip in project.catalogue.clips()} >= set(PEOPLE)
    rates = {rate.device: rate for rate in measure_field(project, by=("device",))}
    assert (rates["kitchen"].hours, rates["living-room"].hours) == (171.0, 123.5)
    assert rates["kitchen"].false_accepts + rates["living-room"].false_accepts > 0
    project.catalogue.close()
    assert [item.found for item in examine(household.root) if item.name == "catalogue" and item.state != "ok"] == []
