"""The loop without hardware: what a device heard is judged, learned from, compared, and back on the device.

The device is a real ESPHome of the host platform with the capture component; its microphone is a file. No wake-word
model runs on that platform, so the device-exact detector hears the same file here and, where it fires, calls the
component's action, as the automation of the firmware would. The rest is what runs in a household: the service, a
person's verdicts, a training, a comparison, and an update over the air.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import time
import wave
from pathlib import Path

import host_device
import numpy as np
import pytest
import toy_wake
from test_capture_device import TEMPLATES, Satellite, capture_package, needs_esphome
from test_flash_device import backend
from test_retrain import exported_root  # noqa: F401  a fixture
from tiny_project import write_settings

from mww_ha import frontend, retrain, store
from mww_ha.capture import review, score, tokens
from mww_ha.deploy import flash, local
from mww_ha.deploy.render import RenderResult
from mww_ha.detector import StreamingModel, detect, load_manifest
from mww_ha.schema import Capture, Device, Verdict, no_progress
from mww_ha.shards import read_index
from mww_ha.store import Project
from mww_ha.web.app import Options, open_service

RATE = 16_000
PRE_S, POST_S = 2.0, 0.3
OTA_PASSWORD = "correct horse 8"


def write_sound(path: Path) -> np.ndarray:
    """12 s of a room in which a kettle whistles twice."""
    rng = np.random.default_rng(4)
    samples = toy_wake.noise(rng, 12.0)
    for at_s in (4.0, 8.0):
        whistle = toy_wake.whistle(rng)
        samples[int(at_s * RATE) :][: whistle.size] += whistle
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples.astype("<i2").tobytes())
    return samples


class Rendering:
    """The host device's YAML in the place of a board's; it carries the capture component and a model's name."""

    def __init__(self, *, api_port: int, http_port: int, token: str) -> None:
        self.api_port, self.http_port, self.token, self.ota_port = api_port, http_port, token, host_device.free_port()

    def __call__(self, project: Project, device: Device, *, manifest_path: Path | None = None, **_: object):
        assert manifest_path is not None
        manifest = load_manifest(manifest_path)
        stem = store.model_file_stem(store.slugify(manifest.wake_word), manifest.model_path.read_bytes())
        folder = project.esphome_dir
        (folder / "models").mkdir(parents=True, exist_ok=True)
        shutil.copy(manifest.model_path, folder / "models" / f"{stem}.tflite")
        kept = {**json.loads(manifest.path.read_text()), "model": f"{stem}.tflite"}
        (folder / "models" / f"{stem}.json").write_text(json.dumps(kept))
        (folder / "secrets.yaml").write_text(f"mww_ota_password: {OTA_PASSWORD}\n")
        (folder / "capture_host.yaml").write_text(capture_package().replace("ramp.wav", "kitchen.wav"))
        says = stem.replace("-", " ")
        path = folder / f"{device.name}.yaml"
        path.write_text(f"""
esphome: {{name: {device.name}}}
host: {{mac_address: "62:23:45:AF:B3:E7"}}
external_components:
  - source: {{type: local, path: {json.dumps(str(TEMPLATES / "components"))}}}
logger:
preferences: {{flash_write_interval: 1s}}
substitutions:
  wake_model_version: {says}
  capture_url: http://127.0.0.1:{self.http_port}/api/captures
  capture_token: {self.token}
  capture_pre_roll: {round(PRE_S * 1000)}ms
  capture_post_roll: {round(POST_S * 1000)}ms
  capture_min_interval: 0s
packages:
  capture: !include capture_host.yaml
api: {{port: {self.api_port}}}
ota: [{{platform: esphome, port: {self.ota_port}, password: !secret mww_ota_password}}]
switch:
  - {{platform: template, id: engine, name: Engine, optimistic: true, restore_mode: ALWAYS_ON}}
text_sensor:
  - {{platform: template, id: says, name: Wake model, update_interval: never}}
interval:
  - interval: 24h
    then:
      - text_sensor.template.publish: {{id: says, state: {says}}}
""")
        return RenderResult(
            yaml_path=path, checked=False, esphome_version="", messages=(), wake_model=says, models=(stem,)
        )


async def hear(satellite: Satellite, started: float, detections_s: list[float], length_s: float) -> None:
    """Calls the component's action where the model fired in the file, which the device plays over and over."""
    first = next(n for n in range(1000) if started + n * length_s > time.monotonic() + PRE_S)
    for at_s in detections_s:
        await asyncio.sleep(started + first * length_s + at_s - time.monotonic())
        await satellite.trigger("detection", "a rising whistle")


async def listen(root: Path, render: Rendering, detections_s: list[float], length_s: float) -> None:
    """Until the service has a capture of each detection. The device has just been started."""
    started = time.monotonic()
    options = Options(port=0, device_host="127.0.0.1", device_port=render.http_port)
    project = store.open_project(root)
    async with open_service(root, options), Satellite.connect(render.api_port) as satellite:
        await satellite.switch("capture_wake_audio", on=True)
        await hear(satellite, started, detections_s, length_s)
        await wait_for_captures(project, len(detections_s))
    project.catalogue.close()


def captures_of(project: Project) -> list[Capture]:
    return [capture for capture in project.catalogue.captures() if capture.device == "kitchen-loop"]


async def wait_for_captures(project: Project, count: int) -> None:
    until = time.monotonic() + 20
    while len(found := captures_of(project)) < count:
        assert time.monotonic() < until, f"{len(found)} of {count} captures arrived"
        await asyncio.sleep(0.1)


@pytest.mark.slow
@needs_esphome
def test_what_a_device_heard_comes_back_to_it_as_a_better_model(
    exported_root: Path,  # noqa: F811
    tmp_path: Path,
):
    root = tmp_path / "home"
    shutil.copytree(exported_root, root)
    project = write_settings(root, retrain={"verdicts": 2, "steps_share": 0.5})
    project.esphome_dir.mkdir(exist_ok=True)
    samples = write_sound(project.esphome_dir / "kitchen.wav")

    # The model that the device carries at first, and where it fires in what the microphone hears.
    toy = toy_wake.write_model(tmp_path / "made")
    stem = store.model_file_stem("a_rising_whistle", toy.with_suffix(".tflite").read_bytes())
    shutil.copy(toy.with_suffix(".tflite"), project.models_dir / f"{stem}.tflite")
    (project.models_dir / f"{stem}.json").write_text(
        json.dumps({**json.loads(toy.read_text()), "model": f"{stem}.tflite"})
    )
    features = frontend.quantize_features(frontend.Frontend().process(samples))
    scores = StreamingModel(toy.with_suffix(".tflite")).scores(features)
    fired = detect(scores, cutoff=toy_wake.CUTOFF, window=toy_wake.WINDOW)
    assert [round(found.time_s) for found in fired] == [4, 8] or len(fired) == 2

    # A device that was flashed by cable once.
    token = tokens.make_token(project, "kitchen-loop")
    api_port, http_port = host_device.free_port(), host_device.free_port()
    render = Rendering(api_port=api_port, http_port=http_port, token=token)
    device = Device(name="kitchen-loop", template="host", address="127.0.0.1", port=api_port, api_key="")
    made = render(project, device, manifest_path=project.models_dir / f"{stem}.json")
    backend().compile(local.Firmware(device=device, yaml_path=made.yaml_path, target=""), no_progress)
    generated = local.read_project(made.yaml_path)
    assert generated is not None
    program = tmp_path / "program"
    shutil.copy(generated.firmware_path, program)

    with host_device.HostDevice(program, api_port=api_port, home=tmp_path / "device"):
        asyncio.run(listen(root, render, [found.time_s for found in fired], samples.size / RATE))
        captures = captures_of(project)

        # The service's copy scores as the device's model did, and a person says what it was.
        assert all(capture.model == stem and capture.duration_s > PRE_S for capture in captures)
        for capture in captures:
            assert score.score_capture(project, capture).reproduced
        kettle, anna = captures
        review.judge(project, [kettle.id], Verdict.FALSE_ACCEPT, by="bea")
        review.judge(project, [anna.id], Verdict.WAKE, by="bea", person="anna")

        # It learns from both, says so, and is compared with the model before.
        proposal = retrain.retrain(project, force=True)
        assert proposal.model, proposal.reason
        assert proposal.comparison is not None
        document = next(run for run in project.catalogue.runs() if run["id"] == proposal.run)
        index = read_index(project.features_dir / document["feature_set"])
        assert {kettle.id, anna.id} <= set(index["captures"].values())
        assert proposal.offer

        # And it is flashed over the air, and the device says that it runs it.
        new = root / proposal.manifest_path
        result = flash.flash(project, device, manifest_path=new, backend=backend(), render=render, return_timeout_s=30)
        assert (result.outcome, result.model) == ("verified", proposal.model)
        assert result.wake_model == proposal.model.replace("-", " ")
    project.catalogue.close()
