"""A flash is proved on a real ESPHome device: sent by the real uploader, started, and asked what it runs.

The device is an ESPHome of the host platform on this machine (no wake word runs in it). Its YAML stands in for a
board's: it says which model it was rendered with, as our package does. ESPHome up to 2026.6 cannot compile for this
platform without the internet, so g++ builds its generated tree; a newer one compiles by itself.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import host_build
import pytest
import toy_wake
from host_device import HostDevice, free_port
from ota_receiver import OtaReceiver, Valve

from mww_ha import store
from mww_ha.deploy import esphome, flash, local
from mww_ha.deploy.handoff import Handoff
from mww_ha.deploy.render import RenderResult
from mww_ha.detector import load_manifest
from mww_ha.errors import DataError, DeviceRefusedError, DeviceUnreachableError, FlashError, JobStoppedError
from mww_ha.schema import Device, Flash, Progress, no_progress

pytestmark = host_build.needs_compiler

PASSWORD = "correct horse 7"
NEEDS_SEAM = esphome.version_key(esphome.esphome_version(esphome.find_esphome() or ["esphome"], 60)) < (2026, 10)


def _yaml(*, name: str, api_port: int, ota_port: int, wake_model: str, password: str, sensor: str) -> str:
    return f"""
esphome:
  name: {name}
  on_boot:
    then:
      - text_sensor.template.publish:
          id: says
          state: {json.dumps(wake_model)}
host:
  mac_address: "62:23:45:AF:B3:DD"
logger:
api:
  port: {api_port}
ota:
  - platform: esphome
    port: {ota_port}
    password: {json.dumps(password)}
text_sensor:
  - platform: template
    id: says
    name: {sensor}
    update_interval: never
"""


@dataclass
class Rendering:
    """Renders the host device's YAML in the place of ``deploy.render_device``; each knob can go wrong."""

    api_port: int
    ota_port: int
    password: str = PASSWORD
    sensor: str = "Wake model"

    def __call__(self, project, device, *, manifest_path, **_):
        manifest = load_manifest(manifest_path)
        tflite = manifest.model_path.read_bytes()
        stem = store.model_file_stem(store.slugify(manifest.wake_word), tflite)
        kept = project.esphome_dir / "models"
        kept.mkdir(parents=True, exist_ok=True)
        (kept / f"{stem}.tflite").write_bytes(tflite)
        document = json.loads(manifest.path.read_text())
        (kept / f"{stem}.json").write_text(json.dumps({**document, "model": f"{stem}.tflite"}))
        (project.esphome_dir / "secrets.yaml").write_text(f"mww_ota_password: {json.dumps(self.password)}\n")
        path = project.esphome_dir / f"{device.name}.yaml"
        wake_model = stem.replace("-", " ")
        path.write_text(
            _yaml(
                name=device.name,
                api_port=self.api_port,
                ota_port=self.ota_port,
                wake_model=wake_model,
                sensor=self.sensor,
                password=self.password,
            )
        )
        return RenderResult(
            yaml_path=path,
            checked=False,
            esphome_version="",
            messages=(),
            wake_model=wake_model,
            models=(stem,),
        )


@dataclass(frozen=True)
class Home:
    """A household: its project with two models, its device and what the device runs on."""

    project: store.Project
    device: Device
    running: HostDevice
    render: Rendering
    first: Path  # manifests
    second: Path

    def flash(self, model: Path | None = None, **options: object) -> Flash:
        given = {"manifest_path": model, "backend": backend(), "render": self.render, "return_timeout_s": 60, **options}
        return flash.flash(self.project, self.device, **given)

    def record(self, model: Path) -> Flash:
        """A row that says the device runs ``model``."""
        row = Flash(
            id=model.stem,
            device="kitchen",
            model=model.stem,
            wake_model=model.stem.replace("-", " "),
            backend="esphome",
            started_at=f"2026-01-01T00:00:0{len(self.rows())}+00:00",
            outcome="verified",
            step="record",
        )
        self.project.catalogue.put_flash(row)
        return row

    def rows(self) -> list[tuple[str, str]]:
        return [(row.outcome, row.step) for row in self.project.catalogue.flashes("kitchen")]


def backend(build: Callable[[Path, str], object] | None = None) -> local.LocalEsphome:
    """The real local ESPHome; g++ where ESPHome itself cannot compile for this machine."""
    return local.LocalEsphome(build=build or (host_build.build if NEEDS_SEAM else None))


def _models(folder: Path) -> tuple[Path, Path]:
    """Two models of one phrase that differ in a byte nobody reads, under the names the project gives them."""
    made = toy_wake.write_model(folder / "made")
    manifests = []
    for tail in (b"", b"\0"):
        tflite = made.with_suffix(".tflite").read_bytes() + tail
        stem = store.model_file_stem(store.slugify(load_manifest(made).wake_word), tflite)
        (folder / f"{stem}.tflite").write_bytes(tflite)
        document = {**json.loads(made.read_text()), "model": f"{stem}.tflite"}
        (folder / f"{stem}.json").write_text(json.dumps(document))
        manifests.append(folder / f"{stem}.json")
    return manifests[0], manifests[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, int]:
    """The firmware with the first model as it left the factory, and the two ports it listens on. Compiled once."""
    root = tmp_path_factory.mktemp("factory")
    project = store.create_project(root / "project", "a rising whistle")
    project.models_dir.mkdir()
    first, _ = _models(project.models_dir)
    render = Rendering(api_port=free_port(), ota_port=free_port())
    device = Device(name="kitchen", template="host", address="127.0.0.1", port=render.api_port, api_key="")
    result = render(project, device, manifest_path=first)
    made = backend()
    made.compile(local.Firmware(device=device, yaml_path=result.yaml_path, target=""), no_progress)
    generated = local.read_project(result.yaml_path)
    assert generated is not None
    shutil.copy(generated.firmware_path, root / "program")
    shutil.copy(generated.build_folder / "build_info.json", root)
    project.catalogue.close()
    return root / "program", render.api_port, render.ota_port


@pytest.fixture
def home(built: tuple[Path, int, int], tmp_path: Path) -> Iterator[Home]:
    program, api_port, ota_port = built
    project = store.create_project(tmp_path / "project", "a rising whistle")
    project.models_dir.mkdir()
    first, second = _models(project.models_dir)
    device = Device(name="kitchen", template="host", address="127.0.0.1", port=api_port, api_key="")
    (tmp_path / "device").mkdir()
    own = shutil.copy(program, tmp_path / "device" / "program")  # an update replaces it
    with HostDevice(Path(own), api_port=api_port, home=tmp_path / "device") as running:
        yield Home(project, device, running, Rendering(api_port, ota_port), first, second)
    project.catalogue.close()


def _prebuilt(built: tuple[Path, int, int], *, told: bool = False, padding: int = 0) -> Callable[[Path, str], object]:
    """A build step that saves the compilation: the firmware from the factory, with its true build time if ``told``."""

    def build(folder: Path, name: str) -> None:
        place = folder / ".esphome" / "build" / name
        (place / ".pioenvs" / name).mkdir(parents=True, exist_ok=True)
        program = place / ".pioenvs" / name / "program"
        program.write_bytes(built[0].read_bytes() + os.urandom(padding))
        if told:
            shutil.copy(built[0].with_name("build_info.json"), place)

    return build


def test_a_new_model_is_flashed_verified_left_alone_when_it_is_there_and_rolled_back(home):
    heard: list[Progress] = []
    first = home.record(home.first)  # what it came with
    second = home.flash(home.second, report=heard.append)
    assert second.outcome == "verified"
    assert second.model == home.second.stem
    assert second.wake_model == home.second.stem.replace("-", " ")
    assert second.build_time
    assert second.esphome_version
    assert second.mac == "62:23:45:AF:B3:DD"
    assert flash.current_flash(home.project, "kitchen") == second
    assert home.running.log().count("will re-exec") == 1
    shares = [p.done for p in heard if p.stage == "upload"]
    assert any(0 < share < 100 for share in shares)
    assert max(shares) == 100

    again = home.flash(home.second)
    assert again.message == "it already ran this firmware"
    assert again.outcome == "verified"
    assert home.running.log().count("will re-exec") == 1

    back = flash.rollback(
        home.project, home.device, backend=backend(), render=home.render, return_timeout_s=60, report=heard.append
    )
    assert (back.outcome, back.model) == ("verified", first.model)
    assert back.build_time != second.build_time
    assert home.running.log().count("will re-exec") == 2
    state = flash._ask(home.project, home.device, "127.0.0.1")
    assert (state.name, state.board) == ("kitchen", "host")
    assert state.wake_model == first.wake_model
    assert state.build_time == back.build_time
    # and from there it is the second one that came before
    assert flash.earlier_flash(home.project, "kitchen").model == second.model


def test_rollback_finds_the_kept_copy_and_says_when_it_is_gone_too(home):
    for model in (home.first, home.second):
        home.render(home.project, home.device, manifest_path=model)
        home.record(model)
    home.first.unlink()
    kept = flash.find_kept_model(home.project, home.first.stem)
    assert kept == home.project.esphome_dir / "models" / home.first.name
    kept.with_suffix(".tflite").write_bytes(b"\0\0\0\0TFL3 another model")
    with pytest.raises(DataError, match="gone or changed"):
        flash.rollback(home.project, home.device, backend=backend(), render=home.render)
    assert len(home.rows()) == 2


def test_rollback_without_anything_earlier_is_refused(home):
    with pytest.raises(DataError, match="nothing was flashed to kitchen yet"):
        flash.rollback(home.project, home.device, backend=backend(), render=home.render)


def test_a_device_that_is_switched_off_in_the_middle_of_an_upload_keeps_its_model(home, built):
    def pull_the_plug(progress: Progress) -> None:
        if progress.stage == "upload" and progress.done > 0:
            home.running.stop()

    with (
        Valve(home.render.ota_port, 4_000_000) as valve,  # or all of it would be there before the plug is pulled
        pytest.raises(DeviceUnreachableError, match=r"dropped while sending, at [1-9]\d? %") as caught,
    ):
        home.flash(
            home.second,
            backend=backend(_prebuilt(built, padding=8_000_000)),
            render=dataclasses.replace(home.render, ota_port=valve.at),
            report=pull_the_plug,
        )
    assert "keeps running the firmware it has" in caught.value.hint
    assert home.rows() == [("failed", "upload")]
    home.running.start()
    state = flash._ask(home.project, home.device, "127.0.0.1")
    assert state.wake_model == home.first.stem.replace("-", " ")
    assert flash.current_flash(home.project, "kitchen") is None


def test_a_device_that_does_not_come_back_is_reported_as_that(home, built):
    def pull_the_plug(progress: Progress) -> None:
        if progress.stage == "upload" and progress.message == "the device has it":
            home.running.stop()

    with pytest.raises(DeviceUnreachableError, match="did not come back within 3 s") as caught:
        home.flash(home.second, backend=backend(_prebuilt(built)), return_timeout_s=3, report=pull_the_plug)
    assert "power" in caught.value.hint
    assert "mww-ha rollback --device kitchen" in caught.value.hint
    assert home.rows() == [("failed", "return")]
    # one that was flashed by cable for the first time is mostly held up by its Wi-Fi
    cabled = dataclasses.replace(home.device, serial="/dev/ttyACM0")
    with pytest.raises(DeviceUnreachableError, match="did not come back") as caught:
        flash._wait(home.project, cabled, "127.0.0.1", None, flash.Options(return_timeout_s=1))
    assert "compare the Wi-Fi" in caught.value.hint
    assert "mww-ha flash --device kitchen --confirm" in caught.value.hint


def test_a_device_that_comes_back_with_the_old_model_is_not_taken_for_the_new_one(home, built):
    home.running.stop()
    # its own update service is away and another takes the update, so that it never gets to the device
    elsewhere = dataclasses.replace(home.render, ota_port=free_port())
    home.running.start()
    with (
        OtaReceiver(elsewhere.ota_port, password=PASSWORD) as receiver,
        pytest.raises(FlashError, match="came back with the old model") as caught,
    ):
        home.flash(home.second, backend=backend(_prebuilt(built)), render=elsewhere, settle_s=1.0)
    assert receiver.sessions == ["taken"]
    assert home.first.stem.replace("-", " ") in caught.value.message
    assert home.rows() == [("failed", "verify")]


def test_a_wrong_password_is_named_and_never_shown(home, built):
    wrong = dataclasses.replace(home.render, password="not-the-right-one")
    with pytest.raises(DeviceRefusedError, match="refuses the OTA password") as caught:
        home.flash(home.second, backend=backend(_prebuilt(built)), render=wrong)
    shown = str(caught.value) + str(home.project.catalogue.flashes())
    assert "mww_ota_password" in shown
    assert "not-the-right-one" not in shown
    assert home.rows() == [("failed", "upload")]


def test_firmware_that_does_not_say_its_model_is_not_verified(home, monkeypatch):
    monkeypatch.setattr(flash, "SENSOR_WAIT_S", 1.0)
    silent = dataclasses.replace(home.render, sensor="Model")
    with pytest.raises(FlashError, match="no entity 'Wake model'"):
        home.flash(home.second, render=silent)
    assert home.rows() == [("failed", "verify")]
    with pytest.raises(FlashError, match="no model it tells of"):
        flash.confirm(home.project, home.device)


def test_a_device_with_another_name_is_not_flashed_unless_forced(home, built):
    misled = dataclasses.replace(home, device=dataclasses.replace(home.device, name="bathroom"))
    with pytest.raises(DeviceRefusedError, match="the device that answers is 'kitchen', not 'bathroom'"):
        misled.flash(home.second, backend=backend(_prebuilt(built)))
    planned = misled.flash(home.second, backend=backend(_prebuilt(built)), dry_run=True, force=True)
    assert planned.outcome == "planned"


def test_another_device_that_took_the_name_is_not_flashed_unless_forced(home, built):
    before = home.record(home.first)
    home.project.catalogue.put_flash(dataclasses.replace(before, mac="62:23:45:00:00:01"))
    with pytest.raises(DeviceRefusedError, match="another device than before answers as kitchen"):
        home.flash(home.second, backend=backend(_prebuilt(built)))
    planned = home.flash(home.second, backend=backend(_prebuilt(built)), dry_run=True, force=True)
    assert planned.outcome == "planned"


def test_a_dry_run_says_what_it_would_do_and_touches_neither_device_nor_records(home):
    planned = home.flash(home.second, dry_run=True)
    assert planned.outcome == "planned"
    assert "127.0.0.1" in planned.message
    assert home.first.stem.replace("-", " ") in planned.message
    assert home.rows() == []
    assert not (home.project.esphome_dir / ".esphome" / "build" / "kitchen" / ".pioenvs").exists()


def _confirm_once_it_is_back(home: Home) -> Flash:
    until = time.monotonic() + 60
    while True:
        try:
            return flash.confirm(home.project, home.device)
        except DeviceUnreachableError:  # it starts the firmware that it was given
            assert time.monotonic() < until
            time.sleep(0.2)


def test_a_stop_after_the_upload_says_so_and_can_be_confirmed_later(home, built):
    def interrupt(progress: Progress) -> None:
        if progress.stage == "flash" and "waiting for" in progress.message:
            raise KeyboardInterrupt

    with pytest.raises(JobStoppedError, match="stopped during return") as caught:
        home.flash(home.first, backend=backend(_prebuilt(built)), report=interrupt)
    assert "has the new firmware" in caught.value.hint
    assert home.rows() == [("stopped", "return")]
    assert _confirm_once_it_is_back(home).outcome == "verified"
    assert home.rows() == [("verified", "record")]


def test_firmware_that_was_handed_over_is_verified_once_a_person_installed_it(home, tmp_path):
    (tmp_path / "config").mkdir()
    given = {"backend": Handoff(tmp_path / "config"), "report": no_progress}
    handed = home.flash(home.second, **given)
    assert (handed.outcome, handed.step) == ("handed over", "upload")
    assert "press Install" in handed.message
    assert (tmp_path / "config" / "kitchen.yaml").is_file()
    with pytest.raises(FlashError, match=r"kitchen runs .*, not"):  # nobody did yet
        flash.confirm(home.project, home.device)
    assert flash.current_flash(home.project, "kitchen") is None
    home.flash(home.first, **given)  # which is what the device has
    assert flash.confirm(home.project, home.device).outcome == "verified"
    current = flash.current_flash(home.project, "kitchen")
    assert current is not None
    assert current.model == home.first.stem
    assert current.build_time


def test_all_devices_are_flashed_one_failure_does_not_stop_the_others_and_a_retry_helps(home, built):
    port = free_port()
    gone = Device(name="attic", template="host", address="127.0.0.1", port=port, api_key="")
    nowhere = dataclasses.replace(home.render, ota_port=free_port())
    device_of: list[str] = []  # whose turn it was
    times = 0

    def render(project, device, **given):
        device_of.append(device.name)
        return (nowhere if device is gone else home.render)(project, device, **given)

    def unplug_until_it_is_tried_again(progress: Progress) -> None:
        nonlocal times
        if (
            progress.stage == "upload"
            and progress.message == "to 127.0.0.1"
            and device_of[-1] == "kitchen"
            and not times
        ):
            times += 1
            home.running.stop()
        if times == 1 and "trying again" in progress.message:
            times += 1
            home.running.start()

    outcomes = flash.flash_all(
        home.project,
        devices=[gone, home.device],
        manifest_path=home.first,
        backend=backend(_prebuilt(built, told=True)),
        force=True,
        render=render,
        return_timeout_s=60,
        settle_s=1.0,
        retries=1,
        retry_pause_s=0.1,
        report=unplug_until_it_is_tried_again,
    )
    assert (outcomes[0].device, outcomes[0].outcome) == ("attic", "failed")
    assert outcomes[0].step == "upload"  # forced, so nobody asked it first
    assert outcomes[1].outcome == "verified", outcomes[1].message
    assert home.rows() == [("verified", "record"), ("failed", "upload")]
    attic = [(row.outcome, row.step) for row in home.project.catalogue.flashes("attic")]
    assert attic == [("failed", "upload")] * 2
