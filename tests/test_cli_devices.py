"""What a household types: satellites are noted, listed, flashed and published, and every refusal names the way out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import host_build
import pytest
import toy_wake
from host_device import HostDevice, free_port, make
from test_cli import Answer, Ask, ask  # noqa: F401  a fixture

from mww_ha import store
from mww_ha.deploy import esphome
from mww_ha.devices import known
from mww_ha.store import Project
from mww_ha.web.app import DEVICE_PORT

needs_esphome = pytest.mark.skipif(esphome.find_esphome() is None, reason="ESPHome is not installed")


@pytest.fixture
def home(project: Project) -> Project:
    """A project with a small model, and the folder one is in."""
    manifest = toy_wake.write_model(project.models_dir, name="whistle")
    stem = store.model_file_stem("a_rising_whistle", manifest.with_suffix(".tflite").read_bytes())
    project.catalogue.put_model(stem, {"id": stem, "manifest_path": str(manifest.relative_to(project.root))})
    return project


@pytest.fixture
def go(ask: Ask, home: Project) -> Ask:  # noqa: F811
    """A command line in that project."""

    def run(*arguments: str) -> Answer:
        return ask(*arguments, "--project", str(home.root))

    return run


@pytest.fixture
def satellite(home: Project, tmp_path: Path) -> Iterator[int]:
    """A real device called kitchen that says it runs the project's model. Gives its port."""
    [model] = home.catalogue.models()
    port, says = free_port(), str(model["id"]).replace("-", " ")
    yaml_text = f"""
esphome:
  name: kitchen
  on_boot:
    then:
      - text_sensor.template.publish: {{id: says, state: {says}}}
host:
  mac_address: "62:23:45:AF:B3:E1"
logger:
api:
  port: {port}
text_sensor:
  - platform: template
    id: says
    name: Wake model
    update_interval: never
"""
    program = make(tmp_path / "device", "kitchen", yaml_text)
    with HostDevice(program, api_port=port, home=tmp_path / "device-home"):
        yield port


@pytest.mark.parametrize(
    ("options", "names", "keys"),
    [
        (["--board", "generic-s3"], "--board", "template:"),
        (["--capture-url", "http://192.0.2.1:8098/api/captures", "--near-miss"], "--capture-url, --near-miss",
         "capture_url:, near_miss:"),
        (["--substitute", "mic_gain=4"], "--substitute", "substitutions:"),
        (["--also", "x", "--vad", "vad"], "--also, --vad", "also:, vad:"),
        (["--yaml", "", "--friendly-name", ""], "--friendly-name, --yaml", "friendly_name:, yaml:"),
    ],
)  # fmt: skip
def test_what_devices_yaml_says_of_a_device_is_not_taken_from_the_command_line(
    go: Ask, home: Project, options: list[str], names: str, keys: str
):
    assert go("devices", "add", "kitchen", "--template", "generic-s3").code == 0
    answer = go("render", "--device", "kitchen", *options)
    assert (answer.code, answer.out) == (2, "")
    assert f"{names} cannot be given with --device kitchen" in answer.err
    assert f"change {keys} in its entry there" in answer.err
    assert "--name kitchen" in answer.err
    assert not (home.esphome_dir / "kitchen.yaml").exists()
    assert go("render", "--device", "kitchen", "--no-check", "--force").code == 0


def test_a_device_is_added_once_and_a_wrong_one_is_refused_with_the_way_out(go: Ask, home: Project):
    added = go("devices", "add", "kitchen", "--template", "generic-s3", "--address", "192.0.2.7")
    assert added.code == 0
    assert added.out.splitlines() == [
        f"kitchen stands in {home.devices_path}",
        "next: mww-ha flash --device kitchen --serial /dev/ttyACM0",
        "      by cable the first time; from then on over the air, without --serial",
    ]
    to_the_service = f":{DEVICE_PORT}/api/captures"
    for arguments, words in (
        (["kitchen", "--template", "generic-s3"], ["has a device kitchen already"]),
        (["../kitchen", "--template", "generic-s3"], ["is a path", "use a name such as kitchen"]),
        (["hall", "--template", "generic-s33"], ["did you mean generic-s3?"]),
        (["hall", "--template", "generic-s3", "--address", "http://x/"], ["http://x/"]),
        (["hall", "--template", "generic-s3", "--capture-url", "http://box.local/x"], ["box.local", to_the_service]),
        (["hall", "--template", "own"], ["needs mic_id", "substitutions: {mic_id: ...}"]),
        (["hall", "--template", "generic-s3", "--substitute", "mic_gian=4"], ["did you mean mic_gain?"]),
        (["hall", "--template", "generic-s3", "--near-miss"], ["no address for captures is set", to_the_service]),
        (["hall", "--template", "voice-pe", "--near-miss"], ["its own automation would answer"]),
        (["hall", "--template", "generic-s3", "--also", "hey_moon"], ["has no model 'hey_moon'"]),
        (["hall", "--template", "generic-s3", "--vad", "vad.json"], ["vad.json is missing"]),
        (["hall", "--template", "generic-s3", "--yaml", "hall.yaml"], ["makes a YAML of its own"]),
        (["hall", "--template", "generic-s3", "--friendly-name", "a/b"], ["friendly name 'a/b'"]),
    ):
        refused = go("devices", "add", *arguments)
        assert (refused.code, refused.out) == (2, ""), arguments
        for word in words:
            assert word in refused.err
    assert home.devices_path.read_text().count("\nkitchen:") == 1


def test_what_is_next_for_a_new_device_depends_on_what_it_is(go: Ask, home: Project):
    for arguments, said in (
        (["Küche Süd", "--template", "generic-s3"], "next: mww-ha flash --device kuche-sud --serial /dev/ttyACM0"),
        (["hall", "--template", "voice-pe"], "next: mww-ha render --device hall, which says what to add"),
        (["bath", "--template", "voice-pe", "--yaml", "bath.yaml"], "next: mww-ha flash --device bath\n"),
        (["attic", "--template", "generic-s3", "--serial", "/dev/ttyUSB1"], "next: mww-ha flash --device attic\n"),
    ):
        added = go("devices", "add", *arguments)
        assert added.code == 0, added.err
        assert said in added.out
    assert known.load_devices(home)["kuche-sud"].friendly_name == "Küche Süd"  # what the host name could not keep


def test_a_row_of_the_flashes_says_what_was_in_the_way(go: Ask, home: Project):
    go("devices", "add", "kitchen", "--template", "generic-s3", "--address", "127.0.0.1", "--port", "1")
    failed = go("flash", "--device", "kitchen", "--serial", "/dev/ttyNothing7")
    assert failed.code == 2
    assert "/dev/ttyNothing7 is not there" in failed.err
    [_, row] = go("flashes").out.splitlines()
    assert "things are in the way: 1. wifi_password, wifi_ssid in " in row
    assert "/dev/ttyNothing7 is not there" in row
    assert "write your Wi-Fi" not in row  # the causes, not the ways out


def test_every_address_for_captures_that_is_written_down_is_one_the_service_listens_on():
    root = Path(__file__).parents[1]
    texts = [root / "README.md", *(root / "esphome_templates").rglob("*.md"), *(root / "mww_ha").rglob("*.py")]
    found = {
        (path, port)
        for path in texts
        for port in re.findall(r"http://[^/\n]*?:(\d+)/api/captures", path.read_text(encoding="utf-8"))
    }
    assert len(found) >= 5
    assert {port for _, port in found} == {str(DEVICE_PORT)}


def test_every_kind_of_device_is_listed(go: Ask):
    from mww_ha.deploy import boards

    shown = go("devices", "templates").out
    assert all(board.id in shown and board.title in shown for board in boards.boards())


def test_what_was_not_said_or_is_not_known_ends_before_anything_is_written(go: Ask, home: Project):
    for arguments, words in (
        (["flash"], ["--device NAME", "--all"]),
        (["flash", "--all", "--device", "kitchen"], ["--device NAME", "--all"]),
        (["flash", "--all", "--confirm"], ["--confirm asks one device"]),
        (["flash", "--device", "kitchen"], ["no device is called 'kitchen'"]),
        (["rollback", "--device", "kitchen"], ["no device is called 'kitchen'"]),
        (["render"], ["--name NAME", "--device NAME"]),
        (["canary", "--device", "kitchen"], ["--model"]),
    ):
        refused = go(*arguments)
        assert (refused.code, refused.out) == (2, ""), arguments
        for word in words:
            assert word in refused.err, arguments
    assert go("flash", "--all").code == 3  # no device at all: there is nothing to do it with
    assert not home.esphome_dir.exists()
    assert go("flashes").out == "nothing flashed yet; do it with: mww-ha flash --device NAME\n"


def test_a_model_is_named_by_its_id_or_its_manifest_and_the_nearest_one_is_told(go: Ask, home: Project, tmp_path: Path):
    [model] = home.catalogue.models()
    for number, named in enumerate((str(model["id"]), str(home.root / model["manifest_path"]), model["manifest_path"])):
        to = tmp_path / f"someone{number}"
        done = go("publish", "--layout", "repository", "--to", str(to), "--model", str(named))
        assert done.code == 0, done.err
        assert (to / "a_rising_whistle.tflite").is_file()
    go("devices", "add", "kitchen", "--template", "generic-s3", "--address", "127.0.0.1", "--port", "1")
    for command in ("flash", "canary", "render"):
        refused = go(command, "--device", "kitchen", "--model", str(model["id"])[:-1])
        assert (refused.code, refused.out) == (2, "")
        assert f"did you mean {model['id']}?" in refused.err


def test_publishing_is_refused_while_a_device_would_be_deafened_by_it(go: Ask, tmp_path: Path):
    go("devices", "add", "kitchen", "--template", "generic-s3")
    refused = go("publish", "--to", str(tmp_path / "custom_wake_words"))
    assert (refused.code, refused.out) == (2, "")
    assert "kitchen: its firmware is unknown" in refused.err
    assert not (tmp_path / "custom_wake_words").exists()
    done = go("publish", "--to", str(tmp_path / "custom_wake_words"), "--force", "--id", "whistle")
    assert done.code == 0
    assert sorted(path.name for path in (tmp_path / "custom_wake_words").iterdir()) == [
        "whistle.json",
        "whistle.tflite",
    ]


@needs_esphome
@host_build.needs_compiler
def test_a_model_is_handed_over_and_confirmed_by_the_device_itself(
    go: Ask, home: Project, satellite: int, tmp_path: Path
):
    [model] = home.catalogue.models()
    (tmp_path / "esphome").mkdir()
    to = ["--set", f"flash.handoff_dir={tmp_path / 'esphome'}"]
    loopback = ["--address", "127.0.0.1", "--port", str(satellite), "--api-key", ""]
    go("devices", "add", "kitchen", "--template", "generic-s3", "--backend", "handoff", *loopback)

    capture_url = "http://192.0.2.9:8098/api/captures"
    home.devices_path.write_text(f"{home.devices_path.read_text()}  capture_url: {capture_url}\n")
    assert go("render", "--device", "kitchen").code == 0
    [token] = home.catalogue.tokens()  # the service will take what this firmware sends
    assert token.device == "kitchen"
    secrets = home.esphome_dir / "secrets.yaml"
    secrets.write_text(
        secrets.read_text().replace("your-wifi-name", "lan").replace("your-wifi-password", "long pass 7")
    )

    planned = go("flash", "--device", "kitchen", "--dry-run", *to)
    assert planned.code == 0
    assert "planned" in planned.out
    assert not list((tmp_path / "esphome").iterdir())

    handed = go("flash", "--device", "kitchen", *to)
    assert handed.code == 0, handed.err
    assert "handed over" in handed.out
    assert 'press Install and choose "Wirelessly"' in handed.out
    assert (tmp_path / "esphome" / "kitchen.yaml").is_file()
    assert "long pass 7" not in handed.out + handed.err

    confirmed = go("flash", "--device", "kitchen", "--confirm", "--json")
    assert confirmed.code == 0
    result = json.loads(confirmed.out.splitlines()[-1])["result"]
    assert (result["outcome"], result["model"]) == ("verified", model["id"])

    assert "verified" in go("flashes").out
    listed = go("devices", "--seconds", "0.2")
    [row] = [line for line in listed.out.splitlines() if line.startswith("kitchen")]
    assert str(model["id"]).replace("-", " ") in row
    assert row.endswith("reachable")
    back = go("rollback", "--device", "kitchen")
    assert (back.code, back.out) == (3, "")
    assert "no earlier model of kitchen is recorded" in back.err

    # the next model listens along; it is not what the satellite wakes with
    following = toy_wake.write_model(tmp_path / "next")
    tflite = following.with_suffix(".tflite")
    tflite.write_bytes(tflite.read_bytes() + b"\0")
    heard = go("canary", "--device", "kitchen", "--model", str(following), *to)
    assert heard.code == 0, heard.err
    sha8 = hashlib.sha256(tflite.read_bytes()).hexdigest()[:8]
    assert f"{model['id']} + canary a_rising_whistle-{sha8}: handed over" in heard.out
    assert "a rising whistle (canary)" in (tmp_path / "esphome" / "kitchen.yaml").read_text()
    refused = go("flash", "--device", "kitchen", "--confirm")
    assert refused.code == 10  # nobody installed it yet
    assert "canary" in refused.err

    # the same satellite over the air: it is a program on this machine and no ESP32-S3, so nothing is sent to it
    wrong = go("flash", "--device", "kitchen", "--backend", "esphome", "--dry-run")
    assert wrong.code != 0
    assert "esp32s3" in wrong.err.replace("-", "").lower()
    assert [row.outcome for row in home.catalogue.flashes()] == ["handed over", "verified"]
