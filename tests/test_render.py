"""What is rendered is what ESPHome accepts, carries the model's hash, and never costs a user a file or a secret."""

from __future__ import annotations

import base64
import json
import re
import shutil
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mww_ha import deploy, store
from mww_ha.deploy import render as r
from mww_ha.errors import (
    ConfigError,
    DataError,
    InputError,
    ManifestError,
    ModelFileError,
    MwwError,
    ToolError,
)
from mww_ha.export.manifest import model_file_stem, write_about, write_manifest
from mww_ha.schema import Progress

needs_esphome = pytest.mark.skipif(r.find_esphome() is None, reason="ESPHome is not installed")

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
        stem = model_file_stem(store.slugify(phrase), content)
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
    document = yaml.load(path.read_text(), Loader=r._TemplateLoader)
    values: dict[str, str] = document["substitutions"]
    return values


def _source(result: r.RenderResult) -> str:
    """The C++ that ESPHome generated, without the comments that repeat the YAML."""
    name = result.yaml_path.stem
    text = (result.yaml_path.parent / ".esphome" / "build" / name / "src" / "main.cpp").read_text()
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("//"))


# --- accepted by ESPHome --------------------------------------------------------------------------------------------


@needs_esphome
@pytest.mark.parametrize("board", [board.id for board in r.boards()])
def test_esphome_accepts_and_generates_every_board(tmp_path: Path, make_model: Any, board: str) -> None:
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
    assert "assistant->set_micro_wake_word(mww)" in source
    speaks = "player->state == media_player::MEDIA_PLAYER_STATE_ANNOUNCING" in source
    assert speaks == (board != "generic-s3")
    # wake word and assistant hear the same channel with the same gain
    assert len(set(re.findall(r"MicrophoneSource\(mic, 16, \d+, false\)", source))) == 1


@needs_esphome
def test_a_yaml_of_the_users_own_includes_the_rendered_one_and_wins(tmp_path: Path, make_model: Any) -> None:
    result = _render(tmp_path, make_model())
    mine = result.yaml_path.with_name("mine.yaml")
    mine.write_text('packages:\n  device: !include kitchen.yaml\nsubstitutions:\n  mic_gain: "9"\n')
    command = r.find_esphome()
    assert command is not None
    code, output = r._run([*command, "config", mine.name], mine.parent, 120)
    assert code == 0, output
    assert output.count("gain_factor: 9") == 2


@needs_esphome
def test_voice_activity_detection_takes_a_local_model(tmp_path: Path, make_model: Any) -> None:
    manifest = make_model()
    vad = make_model("vad", salt=b"\0\0")
    folder = tmp_path / "esphome" / "models"
    folder.mkdir(parents=True)
    shutil.copy(vad, folder / "vad.json")
    shutil.copy(vad.with_suffix(".tflite"), folder)
    result = _render(tmp_path, manifest, substitutions={"vad_model": "models/vad.json"})
    command = r.find_esphome()
    assert command is not None
    code, output = r._run([*command, "config", result.yaml_path.name], folder.parent, 120)
    assert code == 0, output
    assert re.search(r"vad:\s+model:\s+path: \S*models/vad.json", output)


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
        _render(tmp_path, make_model(), check=True, find_tool=lambda: tool, timeout_s=1.5)
    assert time.monotonic() - start < 20
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
    assert r.clean_name(name) == host


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
        host = r.clean_name(name)
    except InputError:
        return
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,29}[a-z0-9])?", host)
    assert r.clean_name(host) == host


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
    shown = r._redact(text, hidden)
    for value in hidden:
        if re.search(r"\w", value):
            assert f"<{value}>" not in shown


def test_keys_and_invisible_text_are_redacted_without_knowing_them() -> None:
    key = base64.b64encode(bytes(range(32))).decode()
    shown = r._redact(
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
        document = yaml.load((folder / f"{board.packages[0]}.yaml").read_text(), Loader=r._TemplateLoader)
        assert document["esphome"]["min_version"] == r.TEMPLATES_MINIMUM_ESPHOME
    named = set(re.findall(r"!secret (\w+)", (folder / "network.yaml").read_text()))
    assert named == set(r._SECRET_NAMES)


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
