"""What would make a flash fail is named before anything is compiled, by its true cause and with the way out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import toy_wake

from mww_ha.deploy import esphome, local, preflight, render
from mww_ha.deploy.backend import Firmware
from mww_ha.detector import Manifest, load_manifest
from mww_ha.errors import (
    ConfigError,
    DeviceRefusedError,
    DeviceUnreachableError,
    FlashError,
    ManifestError,
    ModelFileError,
    StorageError,
    ToolError,
)
from mww_ha.schema import Device, no_progress
from mww_ha.workers import available_memory

MIB = 1 << 20


@pytest.fixture
def manifest_path(tmp_path: Path) -> Path:
    return toy_wake.write_model(tmp_path / "model")


@pytest.fixture
def manifest(manifest_path: Path) -> Manifest:
    return load_manifest(manifest_path)


def _change(path: Path, **changes: object) -> None:
    document = json.loads(path.read_text())
    for key, value in changes.items():
        place, name = (document["micro"], key[6:]) if key.startswith("micro_") else (document, key)
        if value is None:
            del place[name]
        else:
            place[name] = value
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "says", "way_out"),
    [
        ({"version": 3}, "version is 3", '"version": 2'),
        ({"version": 1}, "a version 1 manifest", "train the phrase again"),
        ({"micro_tensor_arena_size": None}, "micro.tensor_arena_size is missing", "ESPHome needs"),
        ({"trained_on": "voices"}, "unknown key trained_on", "ESPHome rejects extra keys"),
        (
            {"micro_sliding_window_average_size": 5},
            "sliding_window_average_size",
            "did you mean micro.sliding_window_size",
        ),
        ({"model": "gone.tflite"}, "gone.tflite is missing", "put the .tflite beside"),
    ],
)
def test_a_manifest_that_esphome_would_reject_is_named_by_its_fault(manifest_path, changes, says, way_out):
    _change(manifest_path, **changes)
    with pytest.raises(ManifestError) as caught:
        preflight.check_model(manifest_path)
    assert says in caught.value.message
    assert str(manifest_path) in caught.value.message
    assert way_out in caught.value.hint


def test_a_file_that_is_no_model_is_refused(manifest_path):
    manifest_path.with_suffix(".tflite").write_bytes(b"<html>not found</html>")
    with pytest.raises(ModelFileError, match="not a TFLite model"):
        preflight.check_model(manifest_path)


def test_models_with_different_steps_cannot_share_a_device(manifest):
    preflight.check_same_step([manifest, manifest])
    other = dataclasses.replace(manifest, step_ms=20)
    with pytest.raises(ManifestError, match=r"a step of 20 ms, .* one of 10 ms"):
        preflight.check_same_step([manifest, other])


def test_an_arena_that_fits_no_device_is_refused(manifest):
    most = preflight.SMALLEST_PSRAM_BYTES // preflight.ARENA_PROBES
    preflight.check_arena([dataclasses.replace(manifest, tensor_arena_bytes=most)])
    greedy = dataclasses.replace(manifest, tensor_arena_bytes=most + 1)
    with pytest.raises(ManifestError, match=f"tensor_arena_size is {most + 1}"):
        preflight.check_arena([greedy])
    with pytest.raises(ManifestError, match="with all models"):
        preflight.check_arena([dataclasses.replace(manifest, tensor_arena_bytes=most // 2 + 1)] * 2)


@pytest.mark.parametrize(("flash_size", "slot"), [("4MB", 0x1C0000), ("8MB", 0x3C0000), ("16MB", 0x7C0000)])
def test_the_slot_is_read_from_what_esphome_generates(tmp_path, flash_size, slot):
    path = tmp_path / "board.yaml"
    path.write_text(
        "esphome: {name: board}\n"
        "esp32:\n  variant: esp32s3\n  board: esp32-s3-devkitc-1\n  framework: {type: esp-idf}\n"
        f"  flash_size: {flash_size}\n"
    )
    command = esphome.find_esphome()
    assert command is not None
    code, output = esphome.run_esphome([*command, "compile", "--only-generate", path.name], tmp_path, 60)
    assert code == 0, output
    generated = local.read_project(path)
    assert generated is not None
    assert preflight.read_slot_bytes(generated.build_folder) == slot
    assert preflight.read_board(generated.build_folder) == "esp32-s3-devkitc-1"


def test_models_that_cannot_fit_the_slot_are_refused_with_the_largest_one_named(tmp_path):
    small, large = tmp_path / "small.tflite", tmp_path / "large.tflite"
    slot = 0x3C0000
    most = slot - preflight.SMALLEST_FIRMWARE_BYTES
    preflight.check_models_fit({small: 60_000, large: most - 60_000}, slot)
    with pytest.raises(ModelFileError, match=r"large.tflite alone 2.7 MiB.* slot holds 3.8 MiB"):
        preflight.check_models_fit({small: 60_001, large: most - 60_000}, slot)
    preflight.check_models_fit({large: 99 * MIB}, 0)  # nothing is known of the slot
    preflight.check_firmware_fits(slot, slot)
    with pytest.raises(FlashError, match="firmware is too large"):
        preflight.check_firmware_fits(slot + 1, slot)


def test_the_models_of_a_yaml_are_found_with_their_sizes(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "hey_kitchen-1a2b3c4d.tflite").write_bytes(bytes(1234))
    (tmp_path / "models" / "unused-1a2b3c4d.tflite").write_bytes(bytes(9))
    path = tmp_path / "kitchen.yaml"
    path.write_text(
        'substitutions:\n  wake_model_file: "models/hey_kitchen-1a2b3c4d.json"\n  x: models/gone-00000000.json\n'
    )
    assert local.models_of(path) == {tmp_path / "models" / "hey_kitchen-1a2b3c4d.tflite": 1234}


def test_disk_and_memory_are_asked_for_where_they_are_needed(tmp_path):
    asked: list[Path] = []

    def free(place: Path) -> int:
        asked.append(place)
        return 5 << 30

    preflight.check_disk(tmp_path / "not" / "yet", 4 << 30, free)
    assert asked[0] == tmp_path
    with pytest.raises(StorageError, match=r"5.0 GiB free at .*, about 6.0 GiB needed"):
        preflight.check_disk(tmp_path, 6 << 30, free)
    preflight.check_memory(None)  # a system that does not tell
    preflight.check_memory(preflight.BUILD_MEMORY_BYTES)
    with pytest.raises(ToolError, match=r"too little memory to compile: 512.0 MiB free") as caught:
        preflight.check_memory(512 * MIB)
    assert "compile_process_limit" in caught.value.hint


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="not Linux")
def test_this_machine_tells_its_memory():
    available = available_memory()
    assert available is not None
    assert available > 10 * MIB


def test_a_toolchain_is_seen_where_esphome_keeps_it(tmp_path, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "ESPHOME_ESP_IDF_PREFIX", "PLATFORMIO_CORE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    assert not preflight.has_toolchain()
    (tmp_path / "PLATFORMIO_CORE_DIR" / "packages" / "toolchain-xtensa-esp-elf").mkdir(parents=True)
    assert preflight.has_toolchain()
    monkeypatch.setenv("PLATFORMIO_CORE_DIR", "")
    assert not preflight.has_toolchain()
    (tmp_path / "ESPHOME_ESP_IDF_PREFIX" / "frameworks" / "5.5.6").mkdir(parents=True)
    assert preflight.has_toolchain()


def test_secrets_that_rendering_left_to_fill_in_stop_a_flash(tmp_path, manifest_path):
    result = render.render(tmp_path, board="generic-s3", name="kitchen", manifest_path=manifest_path, check=False)
    with pytest.raises(ConfigError, match=r"wifi_password, wifi_ssid in .*secrets.yaml are not filled in") as caught:
        preflight.check_secrets(result.yaml_path)
    assert "cut off" in caught.value.hint
    path = result.yaml_path.parent / "secrets.yaml"
    path.write_text(
        path.read_text().replace("your-wifi-name", "Hedgehog").replace("your-wifi-password", "prickly thing")
    )
    preflight.check_secrets(result.yaml_path)
    preflight.check_secrets(tmp_path / "alone.yaml")  # a YAML without secrets beside it


def test_everything_that_is_in_the_way_is_said_at_once(tmp_path):
    (tmp_path / "secrets.yaml").write_text('wifi_ssid: "your-wifi-name"\n')
    backend = local.LocalEsphome(build=lambda *_: None, free_bytes=lambda _: 1, free_memory=lambda: 2)
    firmware = Firmware(
        device=Device(name="k", template="generic-s3"), yaml_path=tmp_path / "k.yaml", target="/dev/ttyNothing1"
    )
    with pytest.raises(ConfigError, match="4 things are in the way") as caught:
        backend.preflight(firmware, no_progress)
    for part in ("wifi_ssid", "too little memory", "too little disk", "/dev/ttyNothing1 is not there"):
        assert part in caught.value.message
    with pytest.raises(ConfigError, match="5 things are in the way") as more:  # a list in a list is one list
        preflight.run_all([lambda: backend.preflight(firmware, no_progress), _refuse])
    assert more.value.parts[-1].message == "one more"
    assert more.value.message.count("things are in the way") == 1


def _refuse() -> None:
    raise ToolError("one more")


def test_a_serial_port_has_to_be_one(tmp_path):
    preflight.check_serial_port("/dev/null")  # a device one may read and write, as a port is
    plain = tmp_path / "file"
    plain.touch()
    with pytest.raises(DeviceUnreachableError, match="not a serial port"):
        preflight.check_serial_port(str(plain))
    with pytest.raises(DeviceUnreachableError, match="is not there") as caught:
        preflight.check_serial_port(str(tmp_path / "nothing"))
    assert "not only power" in caught.value.hint


@pytest.mark.parametrize(
    ("told", "same"), [("kitchen", True), ("kitchen-afb3dd", True), ("", True), ("kitchen-000000", False)]
)
def test_the_device_at_the_address_has_to_be_the_one_that_is_meant(told, same):
    if same:
        preflight.check_is_device("kitchen", told, "62:23:45:AF:B3:DD")
    else:
        with pytest.raises(DeviceRefusedError, match="'kitchen-000000', not 'kitchen'"):
            preflight.check_is_device("kitchen", told, "62:23:45:AF:B3:DD")


def test_another_device_under_the_same_name_is_noticed_by_its_mac():
    preflight.check_is_same("kitchen", "62:23:45:AF:B3:DD", "62:23:45:af:b3:dd")
    preflight.check_is_same("kitchen", "", "62:23:45:AF:B3:DD")  # the first time
    with pytest.raises(
        DeviceRefusedError, match=r"another device than before .* 62:23:45:AF:B3:DE.* 62:23:45:AF:B3:DD"
    ):
        preflight.check_is_same("kitchen", "62:23:45:AF:B3:DD", "62:23:45:AF:B3:DE")


def test_firmware_for_another_board_is_not_sent():
    preflight.check_board("kitchen", "esp32s3box", "esp32s3box")
    preflight.check_board("kitchen", "", "esp32s3box")
    with pytest.raises(
        DeviceRefusedError, match=r"for the board 'esp32s3box', but kitchen says it is 'm5stack-atoms3'"
    ):
        preflight.check_board("kitchen", "esp32s3box", "m5stack-atoms3")
