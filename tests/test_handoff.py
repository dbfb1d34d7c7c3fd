"""What is handed over is complete, and nothing of the user's is overwritten."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import toy_wake

from mww_ha.deploy import esphome, handoff, render
from mww_ha.deploy.backend import Firmware
from mww_ha.deploy.handoff import Handoff, collect_files
from mww_ha.deploy.owned import write_owned
from mww_ha.errors import ConfigError, InputError
from mww_ha.schema import Device, Progress, no_progress

SECRETS = "wifi_ssid: home\nwifi_password: hidden-word\nmww_ota_password: other-word\nunused: x\n"

KITCHEN = """\
substitutions:
  wake_model_version: a_rising_whistle 1a2b3c4d
  wake_model_file: models/toy.json
  name: kitchen
packages:
  board: !include mww_ha/board.yaml
  capture: !include {file: mww_ha/capture/capture.yaml, vars: {x: 1}}
esphome:
  name: kitchen
  comment: models
"""
BOARD = """\
external_components:
  - source: {type: local, path: mww_ha/components}
    components: [mww_capture]
wifi:
  ssid: !secret wifi_ssid
  password: !secret wifi_password
ota:
  - platform: esphome
    password: !secret mww_ota_password
micro_wake_word:
  models: [{model: "${wake_model_file}"}]
"""
CAPTURE = "mww_capture:\n  token: !secret kitchen\n"


@pytest.fixture
def yaml_path(tmp_path: Path) -> Path:
    """A rendered device among files of another one."""
    folder = tmp_path / "esphome"
    write_owned(folder / "kitchen.yaml", KITCHEN)
    write_owned(folder / "mww_ha" / "board.yaml", BOARD)
    write_owned(folder / "mww_ha" / "capture" / "capture.yaml", CAPTURE)
    (folder / "mww_ha" / "capture" / "secrets.yaml").write_text("kitchen: token-of-kitchen\n")
    write_owned(folder / "mww_ha" / "components" / "mww_capture" / "__init__.py", "CONFIG_SCHEMA = {}\n")
    write_owned(folder / "mww_ha" / "components" / "mww_capture" / "ring.h", "#pragma once\n")
    (folder / "mww_ha" / "components" / "mww_capture" / "__pycache__").mkdir()
    (folder / "mww_ha" / "components" / "mww_capture" / "__pycache__" / "x.pyc").write_bytes(b"\0")
    toy_wake.write_model(folder / "models")
    toy_wake.write_model(folder / "models", name="older")
    write_owned(folder / "hall.yaml", "esphome: {name: hall}\n")
    (folder / "secrets.yaml").write_text(SECRETS)
    (folder / ".esphome").mkdir()
    (folder / ".esphome" / "x.json").write_text("{}")
    return folder / "kitchen.yaml"


NEEDED = {
    "kitchen.yaml",
    "mww_ha/board.yaml",
    "mww_ha/capture/capture.yaml",
    "mww_ha/capture/secrets.yaml",
    "mww_ha/components/mww_capture/__init__.py",
    "mww_ha/components/mww_capture/ring.h",
    "models/toy.json",
    "models/toy.tflite",
}


def firmware(yaml_path: Path, **fields: str) -> Firmware:
    return Firmware(device=Device(name="kitchen", template="generic-s3", **fields), yaml_path=yaml_path, target="")


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.mkdir()
    return path


def test_a_device_needs_what_its_yaml_names_and_nothing_of_another_device(yaml_path: Path):
    files = collect_files(yaml_path)
    assert set(files.contents) == NEEDED
    assert list(files.contents)[-1] == "kitchen.yaml"  # ESPHome never sees a YAML whose parts are not there
    assert files.secrets == ("mww_ota_password", "wifi_password", "wifi_ssid")
    assert files.private == {"mww_ha/capture/secrets.yaml"}
    assert files.ours
    assert files.wake_model == "a_rising_whistle 1a2b3c4d"


def test_all_of_it_arrives_and_secrets_are_for_the_owner_only(yaml_path: Path, folder: Path):
    Handoff(folder).compile(firmware(yaml_path), no_progress)
    made = tree(folder)
    assert {name: made[name] for name in NEEDED} == {n: (yaml_path.parent / n).read_bytes() for n in NEEDED}
    assert set(made) == NEEDED | {handoff.RECORD_FILE, "secrets.yaml"}
    assert b"unused" not in made["secrets.yaml"]
    for name in ("secrets.yaml", "mww_ha/capture/secrets.yaml"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_handing_over_again_touches_no_file(yaml_path: Path, folder: Path):
    Handoff(folder).compile(firmware(yaml_path), no_progress)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    Handoff(folder).compile(firmware(yaml_path), no_progress)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_next_model_replaces_what_was_handed_over(yaml_path: Path, folder: Path):
    Handoff(folder).compile(firmware(yaml_path), no_progress)
    write_owned(yaml_path, KITCHEN.replace("toy", "older"))
    (yaml_path.parent / "mww_ha" / "components" / "mww_capture" / "ring.h").write_text("// without a digest\n")
    Handoff(folder).compile(firmware(yaml_path), no_progress)
    assert (folder / "kitchen.yaml").read_bytes() == yaml_path.read_bytes()
    assert (folder / "models" / "older.tflite").is_file()
    (yaml_path.parent / "mww_ha" / "components" / "mww_capture" / "ring.h").write_text("// another one\n")
    Handoff(folder).compile(firmware(yaml_path), no_progress)  # the record knows the one without a digest
    assert (folder / "mww_ha" / "components" / "mww_capture" / "ring.h").read_text() == "// another one\n"


@pytest.mark.parametrize("name", ["kitchen.yaml", "mww_ha/board.yaml", "models/toy.tflite", "models/toy.json"])
def test_a_file_that_is_not_ours_or_was_changed_stops_it_before_anything_is_written(
    yaml_path: Path, folder: Path, name: str
):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"esphome: {name: mine}\n")
    before = tree(folder)
    for step in ("preflight", "compile"):
        with pytest.raises(ConfigError, match=name):
            getattr(Handoff(folder), step)(firmware(yaml_path), no_progress)
    assert tree(folder) == before
    Handoff(folder, force=True).compile(firmware(yaml_path), no_progress)
    assert (folder / f"{name}.bak").read_bytes() == b"esphome: {name: mine}\n"
    assert (folder / name).read_bytes() == (yaml_path.parent / name).read_bytes()


def test_a_file_changed_by_hand_after_it_was_handed_over_is_kept(yaml_path: Path, folder: Path):
    Handoff(folder).compile(firmware(yaml_path), no_progress)
    with (folder / "mww_ha" / "board.yaml").open("a") as file:
        file.write("logger:\n")
    write_owned(yaml_path.parent / "mww_ha" / "board.yaml", BOARD + "# newer\n")
    with pytest.raises(ConfigError, match=r"mww_ha/board\.yaml was changed by hand"):
        Handoff(folder).compile(firmware(yaml_path), no_progress)


def test_a_secrets_file_of_the_users_stays_and_missing_names_are_told(yaml_path: Path, folder: Path):
    (folder / "secrets.yaml").write_text("wifi_ssid: other\n")
    said: list[Progress] = []
    Handoff(folder).compile(firmware(yaml_path), said.append)
    assert (folder / "secrets.yaml").read_text() == "wifi_ssid: other\n"
    told = [p.message for p in said if "mww_ota_password" in p.message]
    assert len(told) == 1
    assert "wifi_password" in told[0]
    assert "wifi_ssid" not in told[0]
    assert not any("hidden-word" in p.message or "other-word" in p.message for p in said)


def test_names_that_another_file_may_bring_in_are_not_called_missing(yaml_path: Path, folder: Path):
    (folder / "secrets.yaml").write_text("<<: !include ../secrets.yaml\n")
    said: list[Progress] = []
    Handoff(folder).compile(firmware(yaml_path), said.append)
    assert not any("add to" in p.message for p in said)


def test_what_nobody_filled_in_yet_is_missing_and_not_handed_over(yaml_path: Path, folder: Path):
    (yaml_path.parent / "secrets.yaml").write_text(SECRETS.replace("hidden-word", "your-wifi-password"))
    said: list[Progress] = []
    Handoff(folder).compile(firmware(yaml_path), said.append)
    assert "your-wifi-password" not in (folder / "secrets.yaml").read_text()
    assert any("add to" in p.message and "wifi_password" in p.message for p in said)


def test_tokens_of_other_devices_stay(yaml_path: Path, folder: Path):
    (folder / "mww_ha" / "capture").mkdir(parents=True)
    (folder / "mww_ha" / "capture" / "secrets.yaml").write_text("hall: token-of-hall\nkitchen: an-old-one\n")
    Handoff(folder).compile(firmware(yaml_path), no_progress)
    text = (folder / "mww_ha" / "capture" / "secrets.yaml").read_text()
    assert "token-of-hall" in text
    assert "token-of-kitchen" in text
    assert "an-old-one" not in text


def test_what_broke_off_half_way_is_finished_the_next_time(yaml_path: Path, folder: Path, monkeypatch):
    ring = yaml_path.parent / "mww_ha" / "components" / "mww_capture" / "ring.h"
    ring.write_text("// 1\n")
    Handoff(folder).compile(firmware(yaml_path), no_progress)
    ring.write_text("// 2\n")
    write_owned(yaml_path, KITCHEN + "# 2\n")

    def stop(progress: Progress) -> None:
        if progress.message == "writing kitchen.yaml":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Handoff(folder).compile(firmware(yaml_path), stop)
    assert (folder / "mww_ha" / "components" / "mww_capture" / "ring.h").read_text() == "// 2\n"
    ring.write_text("// 3\n")
    Handoff(folder).compile(firmware(yaml_path), no_progress)
    assert (folder / "mww_ha" / "components" / "mww_capture" / "ring.h").read_text() == "// 3\n"
    assert not list(folder.rglob("*.part"))


def test_the_users_own_yaml_is_taken_along_once_and_then_left_alone(yaml_path: Path, folder: Path):
    mine = yaml_path.with_name("mine.yaml")
    mine.write_text("packages:\n  mww: !include kitchen.yaml\n")
    assert not collect_files(mine).ours
    assert collect_files(mine).wake_model == "a_rising_whistle 1a2b3c4d"
    Handoff(folder).compile(firmware(mine), no_progress)
    assert (folder / "mine.yaml").read_text() == mine.read_text()
    (folder / "mine.yaml").write_text("packages:\n  mww: !include kitchen.yaml\nlogger:\n")
    said: list[Progress] = []
    Handoff(folder, force=True).compile(firmware(mine), said.append)
    assert (folder / "mine.yaml").read_text().endswith("logger:\n")
    assert any("left as it is" in p.message for p in said)


def test_a_yaml_that_lies_in_the_folder_already_is_not_copied_onto_itself(yaml_path: Path):
    before = tree(yaml_path.parent)
    Handoff(yaml_path.parent).preflight(firmware(yaml_path), no_progress)
    Handoff(yaml_path.parent).compile(firmware(yaml_path), no_progress)
    assert tree(yaml_path.parent) == before


def test_it_says_which_button_to_press_and_how_to_have_it_checked(yaml_path: Path, folder: Path):
    for fields, way in (({}, "Wirelessly"), ({"serial": "/dev/ttyUSB0"}, "/dev/ttyUSB0")):
        said: list[Progress] = []
        made = Firmware(
            device=Device(name="kitchen", template="x", **fields), yaml_path=yaml_path, target=fields.get("serial", "")
        )
        Handoff(folder).upload(made, said.append)
        assert "Install" in said[-1].message
        assert "kitchen.yaml" in said[-1].message
        assert way in said[-1].message
        assert said[-1].message.endswith("mww-ha flash --device kitchen --confirm")
    assert not Handoff.delivers


@pytest.mark.parametrize(
    "text", ["a: !include ../outside.yaml\n", "a: /etc/hosts.yaml\n", "a: {path: ../.., source: ..}\n"]
)
def test_nothing_from_outside_the_folder_is_taken_along(yaml_path: Path, text: str):
    (yaml_path.parent.parent / "outside.yaml").write_text("a: 1\n")
    (yaml_path.parent.parent / "outside.txt").write_text("a")
    yaml_path.write_text(text)
    try:
        assert set(collect_files(yaml_path).contents) == {"kitchen.yaml"}
    except ConfigError as error:
        assert "outside" in error.message


def test_what_cannot_be_read_is_named_without_its_content(yaml_path: Path, folder: Path):
    (yaml_path.parent / "mww_ha" / "board.yaml").unlink()
    with pytest.raises(InputError, match=r"board\.yaml"):
        Handoff(folder).preflight(firmware(yaml_path), no_progress)
    (yaml_path.parent / "mww_ha" / "board.yaml").write_text("wifi: {password: hidden-word\n")
    with pytest.raises(ConfigError, match=r"board\.yaml") as broken:
        Handoff(folder).preflight(firmware(yaml_path), no_progress)
    assert "hidden-word" not in str(broken.value)


def test_a_folder_that_is_none_and_one_that_cannot_be_written_are_refused(yaml_path: Path, folder: Path):
    with pytest.raises(ConfigError, match="not a folder"):
        Handoff(folder / "nothing").preflight(firmware(yaml_path), no_progress)
    (folder / "mww_ha").write_text("a file where a folder has to be")
    with pytest.raises(ConfigError, match="mww_ha is a file"):
        Handoff(folder).compile(firmware(yaml_path), no_progress)
    assert (folder / "mww_ha").read_text() == "a file where a folder has to be"


def test_anchors_and_a_yaml_that_includes_itself_come_to_an_end(yaml_path: Path):
    yaml_path.write_text("a: &x [1, {b: 2}]\nb: *x\nc: !include kitchen.yaml\n")
    assert set(collect_files(yaml_path).contents) == {"kitchen.yaml"}


def test_esphome_finds_everything_in_the_folder_it_was_handed(tmp_path: Path, folder: Path):
    command = esphome.find_esphome()
    if command is None:
        pytest.skip("ESPHome is not installed")
    source = tmp_path / "rendered"
    write_owned(source / "device.yaml", "packages:\n  a: !include mww_ha/a.yaml\nesphome: {name: device}\n")
    write_owned(
        source / "mww_ha" / "a.yaml",
        "substitutions: {wake_model_file: models/toy.json}\n"
        "esp32: {board: esp32-s3-devkitc-1, framework: {type: esp-idf}}\n"
        "external_components: [{source: {type: local, path: mww_ha/components}}]\n"
        "toy_part:\n"
        "wifi: {ssid: !secret wifi_ssid, password: !secret wifi_password}\n"
        "psram: {mode: octal}\n"
        "i2s_audio: {i2s_lrclk_pin: GPIO3, i2s_bclk_pin: GPIO2}\n"
        "microphone:\n  - {platform: i2s_audio, id: mic, adc_type: external, i2s_din_pin: GPIO4}\n"
        'micro_wake_word: {models: [{model: "${wake_model_file}"}]}\n',
    )
    write_owned(
        source / "mww_ha" / "components" / "toy_part" / "__init__.py",
        "import esphome.config_validation as cv\nCONFIG_SCHEMA = cv.Schema({})\nasync def to_code(config):\n    pass\n",
    )
    toy_wake.write_model(source / "models")
    (source / "secrets.yaml").write_text(SECRETS)
    Handoff(folder).compile(firmware(source / "device.yaml"), no_progress)
    code, output = esphome.run_esphome([*command, "config", "device.yaml"], folder, 120)
    assert code == 0, output


def test_a_device_as_it_is_really_rendered_can_be_built_from_the_folder(tmp_path: Path, folder: Path):
    command = esphome.find_esphome()
    if command is None:
        pytest.skip("ESPHome is not installed")
    result = render.render(
        tmp_path / "project",
        board="generic-s3",
        name="kitchen",
        manifest_path=toy_wake.write_model(tmp_path / "made"),
        capture=render.Capture(url="http://192.168.1.10:8765/api/captures"),
        check=False,
    )
    (result.yaml_path.parent / "secrets.yaml").write_text(
        (result.yaml_path.parent / "secrets.yaml").read_text().replace("your-wifi", "my-wifi")
    )
    files = collect_files(result.yaml_path)
    assert files.ours
    assert files.wake_model == result.wake_model
    assert files.private == {"mww_ha/capture/secrets.yaml"}
    assert any(path.endswith("mww_capture.cpp") for path in files.contents)
    Handoff(folder).compile(firmware(result.yaml_path), no_progress)
    code, output = esphome.run_esphome([*command, "compile", "--only-generate", "kitchen.yaml"], folder, 120)
    assert code == 0, output
