"""A setting comes from the effort, then project.yaml, then the command line; a wrong one is named with a way out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mww_ha import config
from mww_ha.config import Effort, Settings, known_keys, resolve
from mww_ha.errors import ConfigError
from mww_ha.store import change_settings


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
    assert "--set" in caught.value.message
    assert "project.yaml" not in caught.value.message
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


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.steps=abc", "--set: train.steps is 'abc'\n  it must be a whole number, such as 1600"),
        ("train.learning_rate=1e-4", "it must be a number, such as 0.004; with an exponent it needs a point: 1.0e-4"),
        ("train.warp=1", "it must be true or false"),
        ("split.salt=5", 'such as "5"'),
        ("split.salt=no", 'such as "no"'),
        ("split.salt=2026-13-45", "not valid YAML"),
        ("split.salt=[", "--set 'split.salt=\"...\"'"),
        ("train.steps=0x" + "f" * 5000, "a number of thousands of digits"),
        ("synthesize.engines=espeak", "it must be a list: [espeak]"),
        ("synthesize.engines=[3]", "synthesize.engines, of which one is 3\n  it must be a text"),
        ("train.kernels=5", "it must be a list: [5]"),
        ("augment.speed=3", "it must be a list, such as [0.7, 0.85, 1.17]"),
        ("train=5", "--set: train is 5\n  train holds settings"),
        ("phrase.x=5", "--set: unknown key 'phrase.x'\n  did you mean phrase?"),
        ("phrase=5", "--set: phrase is 5"),
        ("effort=huge", "--set: effort is 'huge'"),
        ("language=no", 'in quotes where YAML reads it as something else: "no"'),
    ],
)
def test_a_wrong_override_is_told_as_one_with_the_way_to_write_it(override: str, says: str):
    key, _, text = override.partition("=")
    with pytest.raises(ConfigError) as caught:
        resolve({"phrase": "a b", "train": {"steps": 7}}, {key: text}, where="project.yaml")
    assert says in str(caught.value)
    assert caught.value.message.startswith("--set: ")


def test_what_is_wrong_in_the_file_is_not_blamed_on_an_override():
    for train in (7, {"steps": "abc"}):
        with pytest.raises(ConfigError, match=r"^project\.yaml: train"):
            resolve({"phrase": "a b", "train": train}, {"train.batch": "5"}, where="project.yaml")


def test_a_section_with_nothing_below_it_is_as_good_as_none(tmp_path: Path):
    path = tmp_path / "project.yaml"
    path.write_text("phrase: a b\ntrain:\n")
    assert config.load(path) == resolve({"phrase": "a b"}, where="here")
    assert config.load(path, {"train.steps": "5"}).train.steps == 5
    assert change_settings(tmp_path, {"train.steps": 6}).train.steps == 6


@pytest.mark.parametrize("text", ["phrase: a\ntrain: steps: 4\n", "phrase: 2026-13-45\n"])
def test_a_file_that_is_no_yaml_is_told_with_how_to_write_it(tmp_path: Path, text: str):
    path = tmp_path / "project.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"project\.yaml is not valid YAML") as caught:
        config.load(path)
    assert "one setting a line" in caught.value.hint


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


IMPOSSIBLE = [
    ("retrain.at_hour", 25, "0 to 23"),
    ("retrain.at_hour", -1, "0 to 23"),
    ("retrain.steps_share", 1.5, "0.001 to 1"),
    ("split.test_share", 3, "0 to 1"),
    ("split.test_share", -0.1, "0 to 1"),
    ("split.validation_share", 0.9, "below 1"),
    ("capture.longest_s", 60, "0.5 to 10"),
    ("capture.keep_days", 10**400, "finite"),
    ("capture.uploads_at_once", 0, "1 to 10000"),
    ("mqtt.port", 99999999, "1 to 65535"),
    ("mqtt.port", 0, "1 to 65535"),
    ("mqtt.host", "mqtt://broker", "mqtt.port"),
    ("mqtt.prefix", "a b", "letters"),
    ("mqtt.instance", "_x", "letters"),
    ("record.stt", "foo", "wyoming://host:port"),
    ("record.stt", "wyoming://host", "wyoming://host:port"),
    ("record.take_s", 11, "1 to 10"),
    ("synthesize.wyoming", ["wyoming://host:1", "http://host:2"], "wyoming://host:port"),
    ("synthesize.wake_clips", -1, "0 to 10000000"),
    ("home_assistant.url", "foo", "http://homeassistant.local:8123"),
    ("home_assistant.url", "http://u:p@home:8123", "token_file"),
    ("home_assistant.url", "http://home:99999", "http://homeassistant.local:8123"),
    ("flash.builder_url", "192.168.1.10:6052", "http://192.168.1.10:6052"),
    ("export.author", " ", "plain text"),
    ("export.website", "example.org", "https://example.org"),
    ("augment.speed", [2, 0.9, 1.1], "probability"),
    ("augment.speed", [0.5, 0, 1.1], "0.5 to 2"),
    ("augment.level_dbfs", [-15, -50], "lower first"),
    ("augment.quiet_snr_db", [0, 1000], "0 to 100"),
    ("train.kernels", [5, 4], "odd"),
    ("train.kernels", [], "odd"),
    ("train.steps", 0, "1 to 10000000"),
]


@pytest.mark.parametrize(("key", "value", "says"), IMPOSSIBLE)
def test_a_value_outside_of_its_range_is_refused_from_wherever_it_comes(
    tmp_path: Path, key: str, value: object, says: str
):
    section, _, name = key.partition(".")
    split = {"test_share": 0.2}  # one that the shares of the split meet
    document = {"phrase": "a b", "split": split, section: {**(split if section == "split" else {}), name: value}}
    for where, refuse in (
        ("project.yaml", lambda: resolve(document, where="project.yaml")),
        ("--set", lambda: resolve({"phrase": "a b", "split": split}, {key: json.dumps(value)}, where="project.yaml")),
    ):
        with pytest.raises(ConfigError) as caught:
            refuse()
        assert where in caught.value.message
        assert key in caught.value.message
        assert says in caught.value.hint
    if isinstance(value, int) and value > 10**9:
        return
    with pytest.raises(ConfigError, match=key.replace(".", "[.]")) as caught:
        change(tmp_path, **{"split.test_share": 0.2, key: value})
    assert says in caught.value.hint
    assert (tmp_path / "project.yaml").read_text() == FILE


@pytest.mark.parametrize(
    "document",
    [
        {"flash": {"builder_url": "anna:geheim@10.0.0.2:6052"}},
        {"flash": {"builder_url": "ftp://anna:ge/heim@10.0.0.2:6052"}},
        {"flash": {"builder_url": ["http://anna:geheim@10.0.0.2:6052"]}},
        {"home_assistant": {"url": "http://anna:geheim@10.0.0.2:8123"}},
        {"synthesize": {"wyoming": "wyoming://anna:geheim@10.0.0.2:10200"}},
    ],
)
def test_a_login_is_not_told_with_the_address_that_is_refused(document: dict[str, object]):
    with pytest.raises(ConfigError) as caught:
        resolve({"phrase": "a b", **document}, where="project.yaml")
    assert "10.0.0.2" in caught.value.message
    assert "heim" not in str(caught.value)


def test_every_default_of_every_effort_is_in_its_own_range():
    for effort in Effort:
        document: dict[str, object] = {"phrase": "a b", "effort": effort}
        for row in config.list_rows():
            head, _, tail = row.key.partition(".")
            if tail:
                value = row.columns[effort]
                document.setdefault(head, {})[tail] = list(value) if isinstance(value, tuple) else value
        assert resolve(document, where="here") == resolve({"phrase": "a b", "effort": effort}, where="here")


def test_backgrounds_that_are_all_turned_off_are_refused():
    off = {f"{name}_share": 0 for name in ("quiet", "noise", "colour", "babble", "talker")}
    with pytest.raises(ConfigError, match=r"augment\.babble_share"):
        resolve({"phrase": "a b", "augment": off}, where="here")
    resolve({"phrase": "a b", "augment": off | {"noise_share": 1}}, where="here")


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_override_whatever_its_text_ends_in_anything_but_a_config_error(key: str, text: str):
    try:
        resolve({"phrase": "a b"}, {key: text}, where="here")
    except ConfigError as error:
        assert error.message


# --- changing the file -----------------------------------------------------------------------------------------------

FILE = """\
# our project
phrase: hey kitchen  # the word
effort: good

train: {steps: 4000}  # a long one
capture:
  # Anna wants it short
  keep_days: 3
  max_mb: 10
"""


def change(folder: Path, **changes: object) -> str:
    (folder / "project.yaml").write_text(FILE)
    change_settings(folder, {key.replace("__", "."): value for key, value in changes.items()})
    return (folder / "project.yaml").read_text()


def test_a_setting_is_changed_in_its_place_and_comments_stay(tmp_path: Path):
    made = change(tmp_path, train__steps=5000, capture__keep_days=7, capture__max_mb=None, export__author="yes: #1")
    for comment in ("# our project", "# the word", "# a long one", "# Anna wants it short"):
        assert comment in made
    settings = config.load(tmp_path / "project.yaml")
    assert (settings.train.steps, settings.capture.keep_days, settings.capture.max_mb) == (5000, 7.0, 500.0)
    assert settings.export.author == "yes: #1"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("split.always_train", ["wyoming://a:1", "no", "1e3", "ü"]),
        ("synthesize.wyoming", []),
        ("train.learning_rate", 1e-7),
        ("train.warp", False),
        ("train.kernels", [3, 5]),
        ("augment.speed", [0.5, 0.9, 1.1]),
        ("augment.level_dbfs", [-60.5, -1e-9]),
        ("phrase", "on"),
        ("phrase", "12:30"),
        ("language", "no"),
        ("effort", "best"),
    ],
)
def test_every_kind_of_value_is_read_back_as_it_was_written(tmp_path: Path, key: str, value: object):
    change(tmp_path, **{key: value})
    found: object = config.load(tmp_path / "project.yaml")
    for name in key.split("."):
        found = getattr(found, name)
    assert (list(found) if isinstance(found, tuple) else found) == value


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("train.stepz", 3, "train.steps"),
        ("train.steps", "many", "it must be a whole number"),
        ("train.steps", -1, "it must be 1 to 10000000"),
        ("train.steps", float("nan"), "everyday size"),
        ("capture.keep_days", float("inf"), "everyday size"),
        ("capture.keep_days", 10**400, "everyday size"),
        ("capture.keep_days", {"a": 1}, "a text, a number"),
        ("synthesize.wyoming", [["a"]], "or a list"),
        ("export.author", "a\x96b", "plain text"),
        ("export.author", "\ud800", "plain text"),
        ("export.author", "a\nb", "plain text"),
        ("train", 3, "holds settings"),
        ("phrase", None, "write for example"),
        ("phrase", " ", "write for example"),
        ("effort", "huge", "use one of"),
    ],
)
def test_a_value_that_cannot_be_leaves_the_file_as_it_is(tmp_path: Path, key: str, value: object, says: str):
    with pytest.raises(ConfigError) as caught:
        change(tmp_path, **{key: value, "capture.max_mb": 20})
    assert says in str(caught.value)
    assert (tmp_path / "project.yaml").read_text() == FILE


def test_what_is_no_yaml_is_said_with_its_line_which_may_hold_a_login_and_is_not_quoted(tmp_path: Path):
    path = tmp_path / "project.yaml"
    path.write_text("phrase: hey kitchen\nflash: {builder_url: http://anna:geheim@10.0.0.2:6052\n")
    with pytest.raises(ConfigError, match=r"project\.yaml is not valid YAML in line 3: ") as error:
        config.load(path)
    path.write_text("phrase: hey kitchen\nflash: builder_url: http://anna:geheim@10.0.0.2:6052\n")
    with pytest.raises(ConfigError, match="in line 2") as second:
        config.load(path)
    assert "geheim" not in f"{error.value} {second.value}"


def test_lists_that_name_each_other_cannot_fill_the_memory_with_a_message(tmp_path: Path):
    path = tmp_path / "project.yaml"
    lists = "".join(f"  - &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 7))  # 9 to the power of 6 texts
    path.write_text(f"phrase: hey kitchen\nlanguage:\n  - &l0 [lol]\n{lists}")
    with pytest.raises(ConfigError, match="language is ") as error:
        config.load(path)
    assert len(str(error.value)) < 10_000


def test_lists_in_lists_are_refused_however_deep_they_are(tmp_path: Path):
    path = tmp_path / "project.yaml"
    path.write_text("phrase: hey kitchen\n")
    value: list[object] = []
    for _ in range(5000):
        value = [value]
    with pytest.raises(ConfigError, match=r"synthesize\.engines is "):
        change_settings(tmp_path, {"synthesize.engines": value})
    assert path.read_text() == "phrase: hey kitchen\n"


def test_a_file_that_is_a_link_stays_one(tmp_path: Path):
    (tmp_path / "real.yaml").write_text(FILE)
    (tmp_path / "project.yaml").symlink_to("real.yaml")
    change_settings(tmp_path, {"train.steps": 9})
    assert (tmp_path / "project.yaml").is_symlink()
    assert "steps: 9" in (tmp_path / "real.yaml").read_text()


def test_every_setting_is_listed_with_its_help_and_a_default_of_its_kind():
    rows = {row.key: row for row in config.list_rows()}
    assert list(rows) == known_keys()
    assert all(row.help for row in rows.values())
    assert {row.kind for row in rows.values()} == {
        "text", "whole number", "number", "yes or no", "choice", "texts", "whole numbers", "numbers",
    }  # fmt: skip
    assert rows["train.steps"].columns[Effort.BEST] == 40000
