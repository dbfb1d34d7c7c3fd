"""A setting comes from the effort, then project.yaml, then the command line; a wrong one is named with a way out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mww_ha import config
from mww_ha.config import Effort, Settings, known_keys, resolve
from mww_ha.errors import ConfigError


def test_the_effort_chooses_the_column_of_defaults():
    counts = [resolve({"phrase": "a b", "effort": e}, where="here").synthesize.wake_clips for e in Effort]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_the_command_line_overrides_the_file_and_the_file_the_effort():
    document = {"phrase": "hey kitchen", "effort": "quick", "synthesize": {"wake_clips": 77}}
    assert resolve(document, where="here").synthesize.wake_clips == 77
    overrides = {"synthesize.wake_clips": "78", "language": "de"}
    settings = resolve(document, overrides, where="here")
    assert (settings.synthesize.wake_clips, settings.language) == (78, "de")


def test_overriding_does_not_change_the_document():
    document = {"phrase": "hey kitchen", "synthesize": {"wake_clips": 77}}
    resolve(document, {"synthesize.wake_clips": "78"}, where="here")
    assert document == {"phrase": "hey kitchen", "synthesize": {"wake_clips": 77}}


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("synthesize.wake_clip", "synthesize.wake_clips"),
        ("synthesise.wake_clips", "synthesize.wake_clips"),
        ("wake_clips", "synthesize.wake_clips"),
        ("langage", "language"),
        ("split.testshare", "split.test_share"),
    ],
)
def test_an_unknown_key_names_its_nearest_known_one(key: str, nearest: str):
    with pytest.raises(ConfigError) as caught:
        resolve({"phrase": "a b"}, {key: "1"}, where="project.yaml")
    assert nearest in caught.value.hint
    assert "project.yaml" in caught.value.message
    assert key.partition(".")[0] in caught.value.message


@pytest.mark.parametrize(
    ("document", "word"),
    [
        ({}, "phrase"),
        ({"phrase": "   "}, "phrase"),
        ({"phrase": 7}, "phrase"),
        ({"phrase": "a", "effort": "huge"}, "huge"),
        ({"phrase": "a", "language": 7}, "language"),
        ({"phrase": "a", "synthesize": 7}, "synthesize"),
        ({"phrase": "a", "synthesize": {"wake_clips": "many"}}, "many"),
        ({"phrase": "a", "synthesize": {"wake_clips": True}}, "wake_clips"),
        ({"phrase": "a", "synthesize": {"wake_clips": 1.5}}, "wake_clips"),
        ({"phrase": "a", "synthesize": {"wake_clips": -1}}, "wake_clips"),
        ({"phrase": "a", "synthesize": {"wake_clips": False}}, "wake_clips"),
        ({"phrase": "a", "split": {"test_share": float("nan")}}, "test_share"),
        ({"phrase": "a", "split": {"test_share": float("inf")}}, "test_share"),
        ({"phrase": "a", 7: 8}, "7"),
    ],
)
def test_an_impossible_value_is_named_with_its_place(document: dict[str, object], word: str):
    with pytest.raises(ConfigError) as caught:
        resolve(document, where="project.yaml")
    assert "project.yaml" in caught.value.message
    assert word in str(caught.value)
    assert caught.value.hint


def test_a_whole_number_does_where_a_fraction_is_wanted():
    settings = resolve({"phrase": "a", "export": {"false_accepts_per_hour": 2}}, where="here")
    assert settings.export.false_accepts_per_hour == 2.0
    assert isinstance(settings.export.false_accepts_per_hour, float)


def test_a_range_keeps_its_length_and_may_be_negative_where_its_default_is():
    settings = resolve({"phrase": "a", "augment": {"level_dbfs": [-40, -20]}}, where="here")
    assert settings.augment.level_dbfs == (-40.0, -20.0)
    with pytest.raises(ConfigError, match="level_dbfs"):
        resolve({"phrase": "a", "augment": {"level_dbfs": [-40]}}, where="here")


@pytest.mark.parametrize("text", ["phrase: [", "- a list", "", "\x00"])
def test_a_file_that_holds_no_settings_is_an_error_that_names_it(tmp_path: Path, text: str):
    path = tmp_path / "project.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"project\.yaml"):
        config.load(path)


def test_a_missing_file_and_one_that_is_not_text_are_errors_that_name_it(tmp_path: Path):
    path = tmp_path / "project.yaml"
    with pytest.raises(ConfigError, match="missing"):
        config.load(path)
    path.write_bytes(b"\xff\xfe\x00phrase")
    with pytest.raises(ConfigError, match=r"project\.yaml"):
        config.load(path)


def test_every_setting_has_a_help_and_a_value_for_each_effort():
    for field in dataclasses.fields(Settings):
        if dataclasses.is_dataclass(field.default):
            for row in dataclasses.fields(field.default):
                assert row.metadata["help"], row.name
                assert set(row.metadata["columns"]) == set(Effort), row.name


def test_every_known_key_can_be_set_to_its_own_default():
    plain = resolve({"phrase": "a b"}, where="here")
    document: dict[str, object] = {"phrase": "a b"}
    for key in known_keys():
        head, _, tail = key.partition(".")
        if tail:
            value = getattr(getattr(plain, head), tail)
            document.setdefault(head, {})[tail] = list(value) if isinstance(value, tuple) else value
    assert resolve(document, where="here") == plain


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_override_whatever_its_text_ends_in_anything_but_a_config_error(key: str, text: str):
    try:
        resolve({"phrase": "a b"}, {key: text}, where="here")
    except ConfigError as error:
        assert error.message
