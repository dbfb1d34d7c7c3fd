"""What is rendered is what ESPHome accepts, carries the model's hash, and never costs a user a file or a secret."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
import shutil
import stat
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mww_ha import deploy, store
from mww_ha.deploy import esphome, model, owned, templates
from mww_ha.deploy import render as r
from mww_ha.devices.known import clean_host_name
from mww_ha.errors import (
    ConfigError,
    DataError,
    InputError,
    ManifestError,
    ModelFileError,
    MwwError,
    ToolError,
)
from mww_ha.export.manifest import write_about, write_manifest
from mww_ha.schema import Device, Progress

needs_esphome = pytest.mark.skipif(esphome.find_esphome() is None, reason="ESPHome is not installed")

LEVELS = [
    {
        "name": name,
        "probability_cutoff": cutoff,
        "recall": {"value": recall, "low": recall - 0.05, "high": recall + 0.04, "events": 90, "exposure": 100},
        "false_accepts_per_hour": {"value": rate, "low": rate / 2, "high": rate * 2, "events": 5, "exposure": 10.0},
        "measured_on": "synthetic ambient",
    }
    for name, cutoff, recall, rate in (
        ("very", 0.8, 0.9, 2.0),
        ("slightly", 0.99, 0.7, 0.1),
        ("moderately", 0.95, 0.8, 0.5),
    )
]


@pytest.fixture
def tflite() -> bytes:
    """A real wake-word model: the tests' own, or one that comes with pymicro-wakeword."""
    own = sorted((Path(__file__).parent / "models").glob("*.tflite"))
    if own:
        return own[0].read_bytes()
    package = pytest.importorskip("pymicro_wakeword")
    return (Path(package.__file__).parent / "models" / "okay_nabu.tflite").read_bytes()


@pytest.fixture
def make_model(tmp_path: Path, tflite: bytes) -> Any:
    """Writes a model as export does; ``salt`` makes it another file."""

    def make(phrase: str = "hey kitchen", *, salt: bytes = b"", levels: Any = None, **changes: Any) -> Path:
        content = tflite + salt
        stem = store.model_file_stem(store.slugify(phrase), content)
        folder = tmp_path / "models"
        folder.mkdir(exist_ok=True)
        (folder / f"{stem}.tflite").write_bytes(content)
        values: dict[str, Any] = {
            "phrase": phrase,
            "model_file": f"{stem}.tflite",
            "author": "a household",
            "website": "",
            "languages": ["en"],
            "probability_cutoff": 0.97,
            "sliding_window": 5,
            "tensor_arena_bytes": 40_000,
        }
        path = folder / f"{stem}.json"
        write_manifest(path, **{**values, **changes})
        if levels is not None:
            write_about(path, {"levels": levels})
        return path

    return make


def _render(root: Path, manifest: Path, **changes: Any) -> r.RenderResult:
    given: dict[str, Any] = {"board": "generic-s3", "name": "kitchen", "manifest_path": manifest, "check": False}
    return r.render(root, **{**given, **changes})


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _values(path: Path) -> dict[str, str]:
    document = yaml.load(path.read_text(), Loader=templates.TemplateLoader)
    values: dict[str, str] = document["substitutions"]
    return values


def _source(result: r.RenderResult) -> str:
    """The C++ that ESPHome generated, without the comments that repeat the YAML."""
    name = result.yaml_path.stem
    text = (result.yaml_path.parent / ".esphome" / "build" / name / "src" / "main.cpp").read_text()
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//"))


# --- accepted by ESPHome --------------------------------------------------------------------------------------------


@needs_esphome
@pytest.mark.parametrize("board", ["generic-s3", "generic-s3-speaker"])
def test_esphome_accepts_phrases_and_names_of_all_kinds(tmp_path: Path, make_model: Any, board: str) -> None:
    manifest = make_model("höre Küche 厨房", levels=LEVELS)
    second = make_model("2go", salt=b"\0")
    heard: list[Progress] = []
    result = _render(
        tmp_path, manifest, board=board, also=[second], check=True, friendly_name="Küche + Bad", report=heard.append
    )
    assert result.checked
    assert re.fullmatch(r"\d{4}\.\d+\.\d+\S*", result.esphome_version)
    assert any("not compiled" in message for message in result.messages)
    assert heard[-1].done == heard[-1].total > 0
    source = _source(result)
    # the model by its stable id, the device's cutoff (int(0.97 * 255)), the phrase as it is spoken
    assert 'WakeWordModel("model_hore_kuche", ' in source
    assert re.search(r'WakeWordModel\("model_hore_kuche", \w+, 247, 5, "[^"]+", 40000, true, false\)', source)
    assert re.search(r'WakeWordModel\("model_2go", \w+, 247, 5, "2go", 40000, false, false\)', source)
    assert f"hore_kuche {manifest.stem[-8:]}, 2go {second.stem[-8:]}" in source
    # the three levels, least sensitive first, on the device's scale
    assert "CUTOFFS[] = {252, 242, 204}" in source
    assert "model_hore_kuche->set_probability_cutoff(CUTOFFS[i])" in source
    # the assistant knows the wake words, and does not listen to its own voice
    assert "mww_ha_assistant->set_micro_wake_word(mww)" in source
    speaks = "player->state == media_player::MEDIA_PLAYER_STATE_ANNOUNCING" in source
    assert speaks == (board != "generic-s3")
    # wake word and assistant hear the same channel with the same gain
    assert len(set(re.findall(r"MicrophoneSource\(mic, 16, \d+, false\)", source))) == 1


@needs_esphome
def test_a_yaml_of_the_users_own_includes_the_rendered_one_and_wins(tmp_path: Path, make_model: Any) -> None:
    result = _render(tmp_path, make_model())
    mine = result.yaml_path.with_name("mine.yaml")
    mine.write_text('packages:\n  device: !include kitchen.yaml\nsubstitutions:\n  mic_gain: "9"\n')
    command = esphome.find_esphome()
    assert command is not None
    code, output = esphome.run_esphome([*command, "config", mine.name], mine.parent, 120)
    assert code == 0, output
    assert output.count("gain_factor: 9") == 2


@needs_esphome
def test_voice_activity_detection_takes_a_local_model(tmp_path: Path, make_model: Any) -> None:
    vad = make_model("vad", salt=b"\0\0")
    result = _render(tmp_path, make_model(), vad=str(vad))
    folder = tmp_path / "esphome" / "models"
    assert (folder / vad.name).with_suffix(".tflite").read_bytes() == vad.with_suffix(".tflite").read_bytes()
    command = esphome.find_esphome()
    assert command is not None
    code, output = esphome.run_esphome([*command, "config", result.yaml_path.name], folder.parent, 120)
    assert code == 0, output
    assert re.search(rf"vad:\s+model:\s+path: \S*models/{vad.name}", output)


@needs_esphome
def test_a_refusal_of_esphome_is_shown_without_secrets(tmp_path: Path, make_model: Any) -> None:
    _render(tmp_path, make_model())
    secrets = {
        "wifi_ssid": '"GPIO99"',
        "wifi_password": '"short"',
        "mww_ota_password": '"otherpass"',
        "mww_api_encryption_key": "0123",
    }
    path = tmp_path / "esphome" / "secrets.yaml"
    path.write_text("".join(f"{name}: {value}\n" for name, value in secrets.items()))
    for substitutions, told in ((None, "at least 8 characters"), ({"mic_data_pin": "GPIO99"}, "Invalid pin number")):
        with pytest.raises(ToolError, match=told) as refusal:
            _render(tmp_path, make_model(), check=True, substitutions=substitutions)
        for value in secrets.values():
            assert value.strip('"') not in str(refusal.value)
        assert str(tmp_path / "esphome" / "kitchen.yaml") in refusal.value.hint


def test_without_esphome_the_yaml_is_rendered_and_called_unchecked(tmp_path: Path, make_model: Any) -> None:
    result = _render(tmp_path, make_model(), check=True, find_tool=lambda: None)
    assert (result.checked, result.esphome_version) == (False, "")
    assert any("not checked" in message and "pip install esphome" in message for message in result.messages)
    assert result.yaml_path.is_file()


def test_an_esphome_older_than_the_model_needs_is_named(tmp_path: Path, make_model: Any) -> None:
    tool = _script(tmp_path, "print('Version: 2026.9.1')")
    with pytest.raises(ToolError, match=r"2026\.9\.1 is too old.*2026\.10\.0"):
        _render(tmp_path, make_model(minimum_esphome_version="2026.10.0"), check=True, find_tool=lambda: tool)
    old = _script(tmp_path, "print('Version: 2025.12.0')")
    with pytest.raises(ToolError, match=r"2025\.12\.0 is too old.*templates"):
        _render(tmp_path, make_model(), check=True, find_tool=lambda: old)
    assert not (tmp_path / "esphome").exists()


def test_a_tool_that_hangs_is_stopped_with_its_children(tmp_path: Path, make_model: Any) -> None:
    alive = tmp_path / "alive"
    child = f"import time, pathlib\nwhile True:\n pathlib.Path({str(alive)!r}).touch(); time.sleep(0.02)"
    body = (
        "import subprocess, sys, time\n"
        "if sys.argv[1] == 'version': print('Version: 2099.1.0'); sys.exit()\n"
        f"subprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(60)"
    )
    tool = _script(tmp_path, body)
    start = time.monotonic()
    with pytest.raises(ToolError, match="did not end within"):
        _render(tmp_path, make_model(), check=True, find_tool=lambda: tool, timeout_s=5)
    assert time.monotonic() - start < 40
    assert alive.exists()
    alive.unlink()
    time.sleep(0.2)
    assert not alive.exists()


def test_a_broken_esphome_is_told_apart_from_a_broken_yaml(tmp_path: Path, make_model: Any) -> None:
    tool = _script(tmp_path, "raise ImportError('no module named platformio')")
    with pytest.raises(ToolError, match="does not start") as refusal:
        _render(tmp_path, make_model(), check=True, find_tool=lambda: tool)
    assert "no module named platformio" in str(refusal.value)
    with pytest.raises(ToolError, match="cannot start"):
        _render(tmp_path, make_model(), check=True, find_tool=lambda: [str(tmp_path / "none")])


def _script(folder: Path, body: str) -> list[str]:
    path = folder / "tool.py"
    path.write_text(body)
    return [sys.executable, str(path)]


# --- the model in the YAML ------------------------------------------------------------------------------------------


def test_another_model_gives_another_yaml_with_the_same_id(tmp_path: Path, make_model: Any) -> None:
    first = _values(_render(tmp_path, make_model()).yaml_path)
    second = _values(_render(tmp_path, make_model(salt=b"\0")).yaml_path)
    third = _values(_render(tmp_path, make_model(salt=b"\0", probability_cutoff=0.9)).yaml_path)
    assert first["wake_model_id"] == second["wake_model_id"] == "model_hey_kitchen"
    assert first["wake_model_file"] != second["wake_model_file"]
    assert second["wake_model_file"] == third["wake_model_file"]
    assert second["wake_cutoff"] != third["wake_cutoff"]


def test_the_model_beside_the_yaml_is_the_one_that_was_given(tmp_path: Path, make_model: Any, tflite: bytes) -> None:
    manifest = make_model()
    path = _render(tmp_path, manifest).yaml_path
    copy = path.parent / _values(path)["wake_model_file"]
    assert copy.with_suffix(".tflite").read_bytes() == tflite
    assert json.loads(copy.read_text()) == json.loads(manifest.read_text())


def test_a_manifest_from_elsewhere_gets_a_hash_into_its_name(tmp_path: Path, make_model: Any) -> None:
    manifest = make_model()
    stem = manifest.stem
    plain = tmp_path / "plain.json"
    plain.write_text(json.dumps({**json.loads(manifest.read_text()), "model": "other.tflite"}))
    shutil.copy(manifest.with_suffix(".tflite"), tmp_path / "other.tflite")
    path = _render(tmp_path, plain).yaml_path
    assert _values(path)["wake_model_file"] == f"models/{stem}.json"
    assert json.loads((path.parent / "models" / f"{stem}.json").read_text())["model"] == f"{stem}.tflite"


def test_levels_are_documented_with_what_was_measured(tmp_path: Path, make_model: Any) -> None:
    text = _render(tmp_path, make_model(levels=LEVELS)).yaml_path.read_text()
    assert "sensitivity.yaml" in text
    wanted = "moderately sensitive: cutoff 242 of 255, recall 0.8 (0.75 to 0.84, 100 takes), "
    assert wanted + "false accepts per hour 0.5 (0.25 to 1, 10.0 h), measured on synthetic ambient" in text


def test_without_levels_or_with_a_cutoff_by_hand_there_is_no_select(tmp_path: Path, make_model: Any) -> None:
    path = _render(tmp_path, make_model()).yaml_path
    assert "sensitivity.yaml" not in path.read_text()
    path = _render(tmp_path, make_model(levels=LEVELS), substitutions={"wake_cutoff": "0.5"}).yaml_path
    assert "sensitivity.yaml" not in path.read_text()
    assert _values(path)["wake_cutoff"] == "0.5"


@pytest.mark.parametrize("levels", [[{"name": "very"}], [{**LEVELS[0], "probability_cutoff": 2}, *LEVELS[1:]]])
def test_damaged_levels_are_named(tmp_path: Path, make_model: Any, levels: Any) -> None:
    with pytest.raises(ManifestError, match="level"):
        _render(tmp_path, make_model(levels=levels))


def test_models_of_different_step_or_of_one_phrase_are_refused(tmp_path: Path, make_model: Any) -> None:
    first = make_model()
    with pytest.raises(ManifestError, match="20 ms"):
        _render(tmp_path, first, also=[make_model("alexa", step_ms=20)])
    with pytest.raises(ManifestError, match="both for"):
        _render(tmp_path, first, also=[make_model(salt=b"\0")])
    assert not (tmp_path / "esphome").exists()


def test_phrases_of_another_script_keep_apart(tmp_path: Path, make_model: Any) -> None:
    text = _render(tmp_path, make_model("你好厨房"), also=[make_model("你好客厅", salt=b"\0")]).yaml_path.read_text()
    assert len(set(re.findall(r"\bmodel_[0-9a-f]{8}\b", text))) == 2


def test_a_manifest_or_model_that_cannot_be_used_is_named_before_anything_is_written(
    tmp_path: Path, make_model: Any
) -> None:
    manifest = make_model()
    document = json.loads(manifest.read_text())
    for change in ({"version": 1}, {"version": 3}, {"run": "r1"}, {"model": "none.tflite"}):
        manifest.write_text(json.dumps({**document, **change}))
        with pytest.raises(ManifestError):
            _render(tmp_path, manifest)
    manifest.write_text(json.dumps(document))
    manifest.with_suffix(".tflite").write_bytes(b"not a model")
    with pytest.raises(ModelFileError):
        _render(tmp_path, manifest)
    assert not (tmp_path / "esphome").exists()


# --- names and values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("Kitchen", "kitchen"),
        ("Küche  Süd", "kuche-sud"),
        ("living_room.2", "living-room-2"),
        ("Wake Word", "wake-word"),
    ],
)
def test_a_device_name_becomes_a_host_name(name: str, host: str) -> None:
    assert clean_host_name(name) == host


@pytest.mark.parametrize(
    "name",
    ["", " ", "厨房", "--", "../kitchen", "a/b", "a\\b", "/etc/passwd", "..", ".hidden", "a\0b", "x" * 32, "Secrets"],
)
def test_a_name_that_is_a_path_or_no_host_name_is_refused(tmp_path: Path, make_model: Any, name: str) -> None:
    manifest = make_model()
    before = _files(tmp_path)
    with pytest.raises(InputError) as refusal:
        _render(tmp_path, manifest, name=name)
    assert refusal.value.hint
    assert _files(tmp_path) == before


@settings(max_examples=60)
@given(st.text(max_size=40))
def test_a_name_is_a_host_name_or_an_error(name: str) -> None:
    try:
        host = clean_host_name(name)
    except InputError:
        return
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,29}[a-z0-9])?", host)
    assert clean_host_name(host) == host


def test_an_unknown_board_names_the_nearest() -> None:
    with pytest.raises(InputError, match="esp32-s3-box-3"):
        r.find_board("esp32_s3_box")
    with pytest.raises(InputError, match="did you mean generic-s3"):
        r.find_board("generic")


@pytest.mark.parametrize("shown", ["", "${evil}", "a/b", 'a"b', "x" * 121, "a\x07b"])
def test_a_friendly_name_esphome_would_misread_is_refused(tmp_path: Path, make_model: Any, shown: str) -> None:
    with pytest.raises(InputError, match="friendly name"):
        _render(tmp_path, make_model(), friendly_name=shown)


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({"mic_gian": "8"}, "mic_gain"),
        ({"wake_model_file": "x.json"}, "follows from"),
        ({"speaker_data_pin": "GPIO1"}, "can be set"),  # this board has no speaker
        ({"mic_gain": "8\nwifi:"}, "one line"),
    ],
)
def test_a_substitution_the_board_does_not_have_is_refused(
    tmp_path: Path, make_model: Any, given_: dict[str, str], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        _render(tmp_path, make_model(), substitutions=given_)


# --- files of the user ---------------------------------------------------------------------------------------------


def test_rendering_again_changes_nothing(tmp_path: Path, make_model: Any) -> None:
    manifest = make_model(levels=LEVELS)
    _render(tmp_path, manifest)
    before = _files(tmp_path)
    _render(tmp_path, manifest)
    assert _files(tmp_path) == before


@pytest.mark.parametrize("edited", ["kitchen.yaml", "mww_ha/generic-s3.yaml"])
def test_a_file_changed_by_hand_is_kept(tmp_path: Path, make_model: Any, edited: str) -> None:
    _render(tmp_path, make_model())
    path = tmp_path / "esphome" / edited
    path.write_text(path.read_text() + "# mine\n")
    new = make_model(salt=b"\0")
    before = _files(tmp_path / "esphome")
    with pytest.raises(ConfigError, match="changed by hand") as refusal:
        _render(tmp_path, new)
    assert "--force" in refusal.value.hint
    assert _files(tmp_path / "esphome") == before
    _render(tmp_path, new, force=True)
    assert path.with_name(f"{path.name}.bak").read_text().endswith("# mine\n")
    assert not path.read_text().endswith("# mine\n")


def test_a_yaml_that_was_never_ours_is_kept(tmp_path: Path, make_model: Any) -> None:
    path = tmp_path / "esphome" / "kitchen.yaml"
    path.parent.mkdir()
    path.write_bytes(b"esphome:\n  name: \xff\n")
    with pytest.raises(ConfigError, match="not made by mww-ha"):
        _render(tmp_path, make_model())
    assert path.read_bytes() == b"esphome:\n  name: \xff\n"


def test_secrets_are_fresh_private_and_never_written_again(tmp_path: Path, make_model: Any) -> None:
    result = _render(tmp_path, make_model())
    path = tmp_path / "esphome" / "secrets.yaml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    values = yaml.safe_load(path.read_text())
    assert len(base64.b64decode(values["mww_api_encryption_key"], validate=True)) == 32
    assert len(values["mww_ota_password"]) >= 20
    told = " ".join(result.messages)
    assert "wifi_ssid" in told
    assert "wifi_password" in told
    assert values["mww_api_encryption_key"] not in told + repr(result)
    assert values["mww_ota_password"] not in told + repr(result)
    assert "/secrets.yaml" in (path.parent / ".gitignore").read_text().splitlines()

    other = tmp_path / "other"
    _render(other, make_model())
    assert yaml.safe_load((other / "esphome" / "secrets.yaml").read_text()) != values

    filled = path.read_text().replace("your-wifi-name", "home").replace("your-wifi-password", "long enough")
    path.write_text(filled)
    again = _render(tmp_path, make_model(salt=b"\0"), force=True)
    assert path.read_text() == filled
    assert not any("Wi-Fi" in message for message in again.messages)


def test_a_secrets_file_without_our_names_is_left_alone_and_told(tmp_path: Path, make_model: Any) -> None:
    path = tmp_path / "esphome" / "secrets.yaml"
    path.parent.mkdir()
    path.write_text("wifi_ssid: home\nwifi_password: very secret\n")
    with pytest.raises(ConfigError, match="mww_api_encryption_key, mww_ota_password") as refusal:
        _render(tmp_path, make_model())
    assert "very secret" not in str(refusal.value)
    for text in ("wifi_ssid: [very secret\n", "- a\n", "\tx: very secret"):
        path.write_text(text)
        with pytest.raises(ConfigError) as refusal:
            _render(tmp_path, make_model())
        assert "very secret" not in str(refusal.value)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


@given(
    hidden=st.lists(st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1), min_size=1),
    around=st.text(st.characters(codec="ascii", categories=["Zs", "P"]), min_size=1),
)
def test_no_secret_word_survives_redaction(hidden: list[str], around: str) -> None:
    text = around + " " + " ".join(f"<{value}>" for value in hidden)
    shown = esphome.redact(text, hidden)
    for value in hidden:
        if re.search(r"\w", value):
            assert f"<{value}>" not in shown


def test_keys_and_invisible_text_are_redacted_without_knowing_them() -> None:
    key = base64.b64encode(bytes(range(32))).decode()
    shown = esphome.redact(
        f"a {key} b\n  key: \x1b[8mhidden\x1b[28m\n  wifi_password: open\n  ssid: !secret wifi_ssid\n", []
    )
    assert key not in shown
    assert "hidden" not in shown
    assert "open" not in shown
    assert "!secret wifi_ssid" in shown


# --- the stage -----------------------------------------------------------------------------------------------------


def test_run_takes_the_newest_model_of_the_project(tmp_path: Path, make_model: Any) -> None:
    project = store.create_project(tmp_path, "hey kitchen")
    with pytest.raises(DataError, match="no exported model"):
        deploy.run(project, board="generic-s3", name="kitchen", check=False)
    manifest = make_model()
    project.catalogue.put_model(manifest.stem, {"manifest_path": str(manifest.relative_to(tmp_path))})
    result = deploy.run(project, board="generic-s3", name="kitchen", check=False)
    assert result.yaml_path == project.esphome_dir / "kitchen.yaml"
    assert _values(result.yaml_path)["wake_model_file"] == f"models/{manifest.name}"
    project.catalogue.close()


def test_templates_and_renderer_agree_on_the_oldest_esphome_and_on_the_secrets() -> None:
    folder = r.templates_dir()
    for board in r.boards():
        if not board.complete:
            continue
        document = yaml.load((folder / f"{board.packages[0]}.yaml").read_text(), Loader=templates.TemplateLoader)
        assert document["esphome"]["min_version"] == board.minimum_esphome
        assert r.find_board(board.id) == board
    named = set(re.findall(r"!secret (\w+)", (folder / "network.yaml").read_text()))
    assert named == set(owned.SECRET_NAMES)


def test_every_template_says_how_to_use_it_and_the_readme_lists_it() -> None:
    folder = r.templates_dir()
    readme = (folder / "README.md").read_text()
    for path in folder.glob("*.yaml"):
        head = re.match(r"(#.*\n)+", path.read_text())
        assert head is not None
        assert "How to use" in head.group()
        assert f"`{path.name}`" in readme
    for board in r.boards():
        assert f"`{board.id}`" in readme


def test_an_error_of_the_stage_always_names_a_way_out(tmp_path: Path, make_model: Any) -> None:
    attempts: list[dict[str, Any]] = [
        {"board": "atom"},
        {"name": "../x"},
        {"substitutions": {"x": "y"}},
        {"manifest_path": tmp_path / "none.json"},
    ]
    for attempt in attempts:
        with pytest.raises(MwwError) as refusal:
            _render(tmp_path, make_model(), **attempt)
        assert refusal.value.hint


# --- captures and the second slot ------------------------------------------------------------------------------------

CAPTURE = r.Capture(url="http://192.168.1.10:8765/api/captures")


def _tokens(root: Path) -> Path:
    return root / "esphome" / "mww_ha" / "capture" / "secrets.yaml"


def test_each_device_has_a_token_of_its_own_that_stays(tmp_path: Path, make_model: Any) -> None:
    manifest = make_model()
    result = _render(tmp_path, manifest, capture=CAPTURE)
    path = _tokens(tmp_path)
    first = yaml.safe_load(path.read_text())
    assert list(first) == ["kitchen"]
    assert re.fullmatch(r"[\w-]{43}", first["kitchen"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "/secrets.yaml" in (path.parent / ".gitignore").read_text().splitlines()
    assert first["kitchen"] not in repr(result)

    path.write_text(path.read_text() + "# mine\nstudy: a-token-of-the-users_own.~+/=\n")
    path.chmod(0o644)
    _render(tmp_path, manifest, capture=CAPTURE, name="2 go")
    _render(tmp_path, make_model(salt=b"\0"), capture=CAPTURE)
    tokens = yaml.safe_load(path.read_text())
    assert {name: tokens[name] for name in ("kitchen", "study")} == {**first, "study": "a-token-of-the-users_own.~+/="}
    assert len(set(tokens.values())) == 3
    assert "# mine" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # only the name stands in what is included, and no token in what is not for its owner alone
    for other in (tmp_path / "esphome").rglob("*"):
        if other.is_file() and other != path:
            assert not any(token.encode() in other.read_bytes() for token in tokens.values())
    assert set(r.hidden_values(tmp_path / "esphome")) >= set(tokens.values())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('kitchen: "short"\n', "token of kitchen"),
        ('study: "twenty characters and spaces"\n', "token of study"),
        ('study: "line\\r\\nX-Injected: 12345678"\n', "token of study"),
        ("study: [a, b]\n", "token of study"),
        ("- a\n", "holds no secrets"),
        ('study: "unclosed\n', "cannot be read as YAML"),
    ],
)
def test_tokens_that_cannot_be_used_are_named_and_never_shown(
    tmp_path: Path, make_model: Any, text: str, told: str
) -> None:
    path = _tokens(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as refusal:
        _render(tmp_path, make_model(), capture=CAPTURE)
    for word in ("short", "twenty", "Injected", "unclosed"):
        assert word not in str(refusal.value)
    assert path.read_text() == text
    assert list((tmp_path / "esphome").iterdir()) == [tmp_path / "esphome" / "mww_ha"]


@pytest.mark.parametrize("link", ["secrets.yaml", "."])
def test_tokens_are_not_written_through_a_link(tmp_path: Path, make_model: Any, link: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "secrets.yaml").write_text("")
    path = _tokens(tmp_path)
    if link == ".":
        path.parent.parent.mkdir(parents=True)
        path.parent.symlink_to(elsewhere)
    else:
        path.parent.mkdir(parents=True)
        path.symlink_to(elsewhere / "secrets.yaml")
    with pytest.raises(ConfigError, match="is a link"):
        _render(tmp_path, make_model(), capture=CAPTURE)
    assert (elsewhere / "secrets.yaml").read_text() == ""


def test_tokens_made_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    names = [f"room-{number}" for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(lambda name: owned.ensure_token(tmp_path, name), names))
    assert sorted(owned.check_tokens(tmp_path)) == sorted(names)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "192.168.1.10:8765",
        "https://192.168.1.10/x",
        "http://8.8.8.8/x",
        "http://home.local/x",
        "http://user:hidden1@192.168.1.10/x",
        "http://192.168.1.10:0/x",
        "http://192.168.1.10:x/",
        "http://192.168.1.10:99999/",
        "http://192.168.1.10/a b",
        "http://192.168.1.10/${wifi}",
        "http://192.168.1.10/'\"\n",
        "http://192.168.1.10/küche",
        "http://192.168.1.10/#x",
        "http://192.168.1.10/" + "x" * 256,
        "http://[::1]/x",
    ],
)
def test_an_address_that_no_device_can_send_to_is_refused(tmp_path: Path, make_model: Any, url: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        _render(tmp_path, make_model(), capture=r.Capture(url=url))
    assert refusal.value.hint
    assert "hidden1" not in str(refusal.value)
    assert not (tmp_path / "esphome").exists()


@pytest.mark.parametrize(("before", "after"), [(0, 1), (4, 0), (-1, 2), (9.5, 0.6), (float("nan"), 1)])
def test_a_capture_longer_than_the_device_keeps_is_refused(
    tmp_path: Path, make_model: Any, before: float, after: float
) -> None:
    with pytest.raises(ConfigError, match="before and"):
        _render(tmp_path, make_model(), capture=r.Capture(url=CAPTURE.url, pre_roll_s=before, post_roll_s=after))


def test_the_component_is_copied_and_what_an_older_version_left_is_taken_away(tmp_path: Path, make_model: Any) -> None:
    manifest = make_model()
    _render(tmp_path, manifest, capture=CAPTURE)
    place = tmp_path / "esphome" / "mww_ha" / "components" / "mww_capture"
    source = r.templates_dir() / "components" / "mww_capture"
    for path in source.glob("*.*"):
        if path.suffix in (".py", ".h", ".cpp"):
            copied = (place / path.name).read_text()
            assert copied.partition("\n")[2] == path.read_text()
            assert copied.startswith("# " if path.suffix == ".py" else "// ")
    assert sorted(p.suffix for p in place.iterdir() if p.suffix not in (".py", ".h", ".cpp")) == []
    before = _files(tmp_path)
    _render(tmp_path, manifest, capture=CAPTURE)
    assert _files(tmp_path) == before

    owned.write_owned(place / "older.cpp", "int older;\n")
    (place / "mine.cpp").write_text("int mine;\n")
    _render(tmp_path, manifest, capture=CAPTURE)
    assert not (place / "older.cpp").exists()
    assert (place / "mine.cpp").exists()

    changed = next(place.glob("*.h"))
    changed.write_text(changed.read_text() + "// mine\n")
    with pytest.raises(ConfigError, match="changed by hand"):
        _render(tmp_path, manifest, capture=CAPTURE)
    _render(tmp_path, manifest, capture=CAPTURE, force=True)
    assert changed.with_name(f"{changed.name}.bak").read_text().endswith("// mine\n")
    assert not changed.read_text().endswith("// mine\n")


def _slot_manifest(root: Path, stem: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((root / "esphome" / "models" / f"{stem}.json").read_text())
    return document


def test_near_misses_are_the_same_model_under_a_manifest_of_its_own(tmp_path: Path, make_model: Any) -> None:
    manifest = make_model(levels=LEVELS)
    write_about(manifest, {"levels": LEVELS, "near_miss": {"probability_cutoff": 0.37}})
    result = _render(tmp_path, manifest, capture=CAPTURE, near_miss=True)
    main, slot = (_slot_manifest(tmp_path, stem) for stem in (manifest.stem, f"{manifest.stem}-near_miss"))
    assert slot["micro"].pop("probability_cutoff") == 0.37
    assert main["micro"].pop("probability_cutoff") == 0.97
    assert slot.pop("wake_word") == "hey kitchen (near miss)"
    assert main.pop("wake_word") == "hey kitchen"
    assert slot == main  # the very same .tflite, window, arena and step
    values = _values(result.yaml_path)
    assert values["slot_word"] == "hey kitchen (near miss)"
    assert (values["slot_cutoff"], values["slot_kind"], values["slot_of"]) == ("0.37", "near_miss", "model_hey_kitchen")
    assert result.wake_model == f"hey_kitchen {manifest.stem[-8:]}"
    assert (result.models, result.canary) == ((manifest.stem,), "")


def test_without_a_measured_cutoff_near_misses_begin_at_half_of_the_lowest_one(tmp_path: Path, make_model: Any) -> None:
    plain = _render(tmp_path, make_model(), capture=CAPTURE, near_miss=True)
    assert int(float(_values(plain.yaml_path)["slot_cutoff"]) * 255) == int(0.97 * 255) // 2
    by_hand = _render(tmp_path, make_model(), capture=CAPTURE, near_miss=True, substitutions={"slot_cutoff": "0.3"})
    assert _values(by_hand.yaml_path)["slot_cutoff"] == "0.3"
    levels = _render(tmp_path, make_model(levels=LEVELS), capture=CAPTURE, near_miss=True)
    assert int(float(_values(levels.yaml_path)["slot_cutoff"]) * 255) == int(0.8 * 255) // 2


@pytest.mark.parametrize("entry", [None, {"probability_cutoff": 2}, {"probability_cutoff": "0.4"}, {}, 7, "x"])
def test_a_model_without_a_use_for_near_misses_says_so(tmp_path: Path, make_model: Any, entry: Any) -> None:
    manifest = make_model(levels=LEVELS)
    write_about(manifest, {"levels": LEVELS, "near_miss": entry})
    with pytest.raises(ConfigError if entry is None else ManifestError):
        _render(tmp_path, manifest, capture=CAPTURE, near_miss=True)


def test_a_canary_is_the_next_model_and_the_device_names_both(tmp_path: Path, make_model: Any) -> None:
    manifest, following = make_model(), make_model(salt=b"\0", sliding_window=7)
    result = _render(tmp_path, manifest, also=[make_model("2go")], capture=CAPTURE, canary=following)
    slot = _slot_manifest(tmp_path, f"{following.stem}-canary")
    assert slot["wake_word"] == "hey kitchen (canary)"
    assert slot["model"] == f"{following.stem}.tflite"
    assert (tmp_path / "esphome" / "models" / slot["model"]).read_bytes() == following.with_suffix(
        ".tflite"
    ).read_bytes()
    values = _values(result.yaml_path)
    assert (values["slot_window"], values["slot_kind"], values["slot_id"]) == ("7", "canary", "wake_slot")
    second = result.models[1]
    assert result.models == (manifest.stem, second)
    assert result.canary == following.stem
    assert result.wake_model == values["wake_model_version"]
    assert result.wake_model == (
        f"hey_kitchen {manifest.stem[-8:]}, 2go {second[-8:]}, canary hey_kitchen {following.stem[-8:]}"
    )


def test_what_cannot_stand_in_the_slot_is_refused_before_anything_is_written(tmp_path: Path, make_model: Any) -> None:
    manifest, following = make_model(), make_model(salt=b"\0")
    for asked, told in (
        ({"near_miss": True}, "no address for captures"),
        ({"canary": following}, "no address for captures"),
        ({"near_miss": True, "canary": following, "capture": CAPTURE}, "one slot"),
        ({"canary": manifest, "capture": CAPTURE}, "runs already"),
        ({"canary": make_model(salt=b"\1", step_ms=20), "capture": CAPTURE}, "20 ms"),
        ({"canary": tmp_path / "none.json", "capture": CAPTURE}, "missing"),
        ({"canary": make_model("hey ${kitchen}", salt=b"\2"), "capture": CAPTURE}, "letters, digits and spaces"),
    ):
        with pytest.raises(MwwError, match=told):
            _render(tmp_path, manifest, **asked)
    assert not (tmp_path / "esphome").exists()


# --- entities and keys -----------------------------------------------------------------------------------------------


def test_home_assistant_shows_what_the_levels_mean_in_a_state_it_takes() -> None:
    text = model.levels_text(sorted(LEVELS, key=lambda level: -float(str(level["probability_cutoff"]))))
    assert text.startswith("slightly: 70% heard (65-74), 0.1/h false (0.05-0.2); moderately: ")
    assert text.endswith("; of 100 takes and 10 h synthetic ambient")
    assert len(text.encode()) <= 255


@given(
    measured_on=st.one_of(st.none(), st.text(max_size=400)),
    rate=st.one_of(st.none(), st.just({"value": "x"}), st.floats(), st.just(LEVELS[0]["recall"])),
)
def test_no_metadata_breaks_the_entity_of_the_levels(measured_on: Any, rate: Any) -> None:
    level = {"name": "very", "probability_cutoff": 0.5, "recall": rate, "measured_on": measured_on}
    text = model.levels_text([level, level, level])
    assert len(text.encode()) <= 255
    assert not set('"\\${}\n') & set(text)


def test_more_models_than_home_assistant_can_show_are_refused(tmp_path: Path, make_model: Any) -> None:
    long = [make_model(f"{number} {'wake ' * 12}", salt=bytes([number])) for number in range(5)]
    with pytest.raises(ConfigError, match="Home Assistant takes 255"):
        _render(tmp_path, long[0], also=long[1:])


@needs_esphome
@pytest.mark.parametrize(("api_key", "noise"), [("study_key", True), ("", False)])
def test_the_key_of_the_api_is_the_one_the_device_names_or_none(
    tmp_path: Path, make_model: Any, api_key: str, noise: bool
) -> None:
    key = base64.b64encode(bytes(range(32))).decode()
    _render(tmp_path, make_model())
    path = tmp_path / "esphome" / "secrets.yaml"
    if api_key:
        with pytest.raises(ConfigError, match="lacks study_key"):
            _render(tmp_path, make_model(), api_key=api_key)
        path.write_text(f'{path.read_text()}study_key: "{key}"\n')
    result = _render(tmp_path, make_model(), api_key=api_key, check=True)
    assert ("set_noise_psk" in _source(result)) == noise
    assert key not in result.yaml_path.read_text()


def test_a_device_is_rendered_with_all_that_its_entry_says(tmp_path: Path, make_model: Any) -> None:
    project = store.create_project(tmp_path, "hey kitchen")
    manifest, second, vad = make_model(), make_model("2go", salt=b"\1"), make_model("vad", salt=b"\2")
    for path in (second, manifest):
        project.catalogue.put_model(path.stem, {"id": path.stem, "manifest_path": str(path.relative_to(tmp_path))})
    device = Device(
        name="kitchen",
        template="generic-s3",
        friendly_name="Küche",
        substitutions={"mic_gain": "8", "capture_post_roll": "2s"},
        also=(second.stem,),
        vad=str(vad.relative_to(tmp_path)),
        capture_url=CAPTURE.url,
        near_miss=True,
        api_key="",
    )
    result = deploy.render_device(project, device, manifest_path=manifest, check=False)
    values = _values(result.yaml_path)
    assert result.models == (manifest.stem, second.stem)
    assert (values["friendly_name"], values["mic_gain"], values["capture_post_roll"]) == ("Küche", "8", "2s")
    assert values["vad_model"] == f"models/{vad.name}"
    assert values["slot_kind"] == "near_miss"
    text = result.yaml_path.read_text()
    assert "encryption: !remove" in text
    assert "capture_settings: !include mww_ha/capture/kitchen.yaml" in text

    following = make_model(salt=b"\3")
    result = deploy.render_device(project, device, manifest_path=manifest, canary=following, check=False)
    assert _values(result.yaml_path)["slot_kind"] == "canary"

    with pytest.raises(InputError, match="no model '2go'") as refusal:
        deploy.render_device(project, dataclasses.replace(device, also=("2go",)), check=False)
    assert f"did you mean {second.stem}" in refusal.value.hint
    with pytest.raises(InputError, match="no board is called 'generic'"):
        deploy.render_device(project, dataclasses.replace(device, template="generic"), check=False)
    project.catalogue.close()
