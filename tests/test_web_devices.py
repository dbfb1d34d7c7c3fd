"""Satellites are told as they are: what stands in devices.yaml, what is on the network, what each one says just now."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import stat
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import toy_wake
from aioesphomeapi import api_pb2 as pb
from blockbuster import blockbuster_ctx
from fake_api_device import FakeDevice, satellite
from test_devices import OURS, _registered
from test_web import Site, opened_site

from mww_ha.deploy import preflight
from mww_ha.devices import known, network
from mww_ha.devices.known import add_device, load_devices, read_secrets
from mww_ha.errors import DeviceUnreachableError, InputError
from mww_ha.schema import Device, Flash
from mww_ha.store import Project
from mww_ha.web import orders
from mww_ha.web.devices import DeviceEntry, suggest_capture_urls

KEY = bytes(range(32))
MODEL, NEXT = (
    "a_rising_whistle-4567cdef",
    "a_rising_whistle-0123abcd",
)  # made in one second, the smaller id counts as newer


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> Iterator[None]:
    with blockbuster_ctx("mww_ha.web"):
        yield


@pytest.fixture
async def site(project: Project) -> AsyncIterator[Site]:
    async with opened_site(project.root) as made:
        yield made


def flashed(project: Project, device: str, model: str, outcome: str = "verified", **changes: Any) -> Flash:
    number = len(project.catalogue.flashes())
    given = {"started_at": f"2026-11-02T10:00:{number:02}+00:00", "backend": "esphome", **changes}
    wake_model = model.replace("-", " ")
    row = Flash(id=f"{number:04}", device=device, model=model, wake_model=wake_model, outcome=outcome, **given)
    project.catalogue.put_flash(row)
    return row


def reached(device: FakeDevice, name: str = "kitchen", **changes: Any) -> Device:
    return Device(
        **{
            "name": name,
            "template": "generic-s3",
            "address": "127.0.0.1",
            "port": device.port,
            "api_key": "",
            **changes,
        }
    )


# --- known -----------------------------------------------------------------------------------------------------------


async def test_a_satellite_is_told_with_what_it_runs_what_is_new_and_what_it_would_go_back_to(
    project: Project, site: Site
):
    add_device(project, Device(name="kitchen", template="generic-s3"))
    add_device(project, Device(name="hall", template="generic-s3"))
    for id, more in ((MODEL, {}), (NEXT, {}), ("worse-00000000", {"offered": False})):
        project.catalogue.put_model(id, {"id": id, **more})
    flashed(project, "kitchen", "oldest-00000000")
    flashed(project, "kitchen", MODEL)
    newest = flashed(project, "kitchen", NEXT, "running", step="upload")
    site.service.rooms["kitchen"] = "Küche"
    kitchen, hall = await site.get("/api/devices")
    assert (kitchen["room"], hall["room"]) == ("Küche", "")
    assert kitchen["verified"]["model"] == MODEL
    assert kitchen["newest"]["id"] == newest.id
    assert (kitchen["newest"]["outcome"], hall["newest"]) == ("stopped", None), "nobody runs it any more"
    assert "ended without a word during upload" in kitchen["newest"]["message"]
    assert (kitchen["earlier"], hall["earlier"]) == (MODEL, ""), "the attempt may have reached it"
    assert (kitchen["new_model"], hall["new_model"]) == (NEXT, NEXT), "what is not offered is none"


async def test_a_satellite_is_added_changed_and_removed_and_comments_stay(project: Project, site: Site):
    path = project.devices_path
    path.write_text("# ours\n\n# by the door\nhall:\n  template: generic-s3  # cheap\n  # none yet\n\n# the end\n")
    entry = {
        "template": "own", "address": "192.168.1.20", "serial": "/dev/ttyACM0", "near_miss": True,
        "substitutions": [{"name": "mic_id", "value": "i2s_mics"}],
        "capture_url": "http://192.168.1.5:8098/api/captures",
    }  # fmt: skip
    status, made, _ = await site.ask("POST", "/api/devices", json={"name": "Küche", "entry": entry})
    assert status == 201, made
    assert (made["name"], made["substitutions"]) == ("kuche", {"mic_id": "i2s_mics"})
    device = (await asyncio.to_thread(load_devices, project))["kuche"]
    assert (device.serial, device.near_miss, device.port) == ("/dev/ttyACM0", True, 6053)

    status, made, _ = await site.ask("PUT", "/api/devices/hall", json={"template": "satellite1", "backend": "handoff"})
    assert (status, made["backend"]) == (200, "handoff")
    text = path.read_text()
    assert "  template: satellite1  # cheap\n" in text

    status, was, _ = await site.ask("DELETE", "/api/devices/hall")
    assert (status, was) == (200, made)
    text = path.read_text()
    assert "hall" not in text
    for comment in ("# ours\n", "# by the door\n", "  # none yet\n", "# the end\n"):
        assert comment in text, comment
    assert list(await asyncio.to_thread(load_devices, project)) == ["kuche"]
    assert (await site.ask("DELETE", "/api/devices/hall"))[0] == 404
    assert (await site.ask("PUT", "/api/devices/hall", json={"template": "own"}))[0] == 404


@pytest.mark.parametrize(
    ("name", "entry", "says"),
    [
        ("../etc", {}, "is a path"),
        ("secrets", {}, "belongs to the user"),
        ("hall", {}, "has a device hall already"),
        ("kitchen", {"template": "generic-s4"}, "no board is called 'generic-s4'"),
        ("kitchen", {"template": "own"}, "needs mic_id"),
        ("kitchen", {"address": "http://x"}, "is no address"),
        ("kitchen", {"capture_url": "http://example.com/x"}, "is no address for captures"),
        ("kitchen", {"capture_url": "http://8.8.8.8/x"}, "is no machine in the home network"),
        ("kitchen", {"api_key": "!secret x"}, "must look like"),
        ("kitchen", {"serial": "--force"}, "must look like"),
        ("kitchen", {"friendly_name": "a\nb"}, ""),
    ],
)
async def test_what_cannot_stand_in_devices_yaml_is_refused_with_the_way_out(
    project: Project, site: Site, name: str, entry: dict[str, Any], says: str
):
    add_device(project, Device(name="hall", template="generic-s3"))
    before = project.devices_path.read_text()
    body = {"name": name, "entry": {"template": "generic-s3", **entry}}
    status, answer, _ = await site.ask("POST", "/api/devices", json=body)
    assert status == 422
    assert says in answer["message"] + answer["hint"]
    assert answer["hint"]
    assert project.devices_path.read_text() == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a: {template: x}\nb:\n  template: y\n", "b:\n  template: y\n"),
        ("b:\n  template: y\na:\n  template: x", "b:\n  template: y\n"),
        (
            "a:\r\n  template: x\r\n  also:\r\n    - q # mine\r\n# c\r\nb: {template: y}\r\n",
            "# c\r\nb: {template: y}\r\n",
        ),
        (
            "  a:\n    template: x\n    substitutions:\n      m: >-\n        1\n        2\n  b: {template: y}\n",
            "  b: {template: y}\n",
        ),
        ("a: {template: x}\n", ""),
    ],
)
def test_only_the_lines_of_a_removed_device_go(project: Project, before: str, after: str):
    project.devices_path.write_bytes(before.encode())
    was = known.remove_device(project, "a")
    assert (was.name, was.template) == ("a", "x")
    assert project.devices_path.read_bytes().decode() == after


def test_a_device_that_shares_its_line_is_left_to_the_user(project: Project):
    before = "{a: {template: x}, b: {template: y}}\n"
    project.devices_path.write_text(before)
    with pytest.raises(InputError, match="cannot be changed without rewriting it"):
        known.remove_device(project, "a")
    assert project.devices_path.read_text() == before


async def test_a_satellite_that_is_being_flashed_is_not_removed(project: Project, site: Site):
    add_device(project, Device(name="kitchen", template="generic-s3"))
    await site.wait((await site.order("train"))["id"], "running")
    job = await site.order("confirm", device="kitchen")
    rollback = await site.order("rollback", device="kitchen")
    status, answer, _ = await site.ask("DELETE", "/api/devices/kitchen")
    assert (status, answer["error"]) == (409, "JobStateError")
    await site.wait(job["id"])
    await site.ask("POST", f"/api/jobs/{rollback['id']}/cancel")
    assert (await site.ask("DELETE", "/api/devices/kitchen"))[0] == 200


# --- live ------------------------------------------------------------------------------------------------------------


async def test_a_satellite_says_what_it_runs_and_counts(project: Project, site: Site):
    async with satellite(wake_model=f"{MODEL.replace('-', ' ')}", key=KEY) as device:
        project.esphome_dir.mkdir()
        (project.esphome_dir / "secrets.yaml").write_text(f'mine: "{device.key_text}"\n')
        add_device(project, reached(device, api_key="mine"))
        live = await site.get("/api/devices/kitchen/live")
        assert live["reachable"], live
        assert (live["esphome_version"], live["wake_model"]) == ("2026.10.0", MODEL.replace("-", " "))
        assert live["capture"] == {
            "on": False, "state": "off", "hours": 24.0, "hours_left": 0.0, "detections": 12.0, "near_misses": 5.0,
            "canary_detections": 0.0, "queue": 1.0, "dropped": 2.0, "listening_hours": 61.25,
            "last_upload": "detection 00ab-3: taken",
        }  # fmt: skip
        assert device.key_text not in json.dumps(live)
        many = await asyncio.gather(*[site.get("/api/devices/kitchen/live") for _ in range(5)])
        assert all(one["reachable"] for one in many)
        assert device.connections <= 3, "one question at a time, however many ask"


async def test_a_satellite_that_cannot_be_asked_says_why(project: Project, site: Site):
    async with FakeDevice(key=KEY) as locked, FakeDevice(hangs_at=pb.HelloRequest) as silent:
        project.esphome_dir.mkdir()
        (project.esphome_dir / "secrets.yaml").write_text('mine: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="\n')
        for name, device, key, error, says in (
            ("locked", locked, "mine", "DeviceRefusedError", "refuses the API key"),
            ("plain", locked, "", "DeviceRefusedError", "wants an encrypted connection"),
            ("silent", silent, "", "DeviceUnreachableError", "does not answer"),
            ("keyless", silent, "gone", "ConfigError", "holds no secret gone"),
        ):
            add_device(project, reached(device, name, api_key=key))
            site.service.lookout._ask_s = 0.5 if name == "silent" else 30.0
            live = await site.get(f"/api/devices/{name}/live")
            assert (live["reachable"], live["error"]) == (False, error), live
            assert says in live["message"]
            assert live["hint"]
    assert (await site.ask("GET", "/api/devices/nobody/live"))[0] == 404


async def test_capturing_is_switched_on_for_a_time_and_off(project: Project, site: Site):
    async with satellite(wake_model="x 1") as device, FakeDevice(name="hall") as mute:
        add_device(project, reached(device))
        add_device(project, reached(mute, "hall"))
        status, live, _ = await site.ask("PUT", "/api/devices/kitchen/capture", json={"on": True, "hours": 48})
        assert status == 200, live
        assert (live["capture"]["on"], live["capture"]["hours"], live["capture"]["hours_left"]) == (True, 48.0, 48.0)
        wanted = [name for name in device.received if name.endswith("CommandRequest")]
        assert wanted == ["NumberCommandRequest", "SwitchCommandRequest"], "first for how long, then on"
        status, live, _ = await site.ask("PUT", "/api/devices/kitchen/capture", json={"on": False})
        assert (status, live["capture"]["on"]) == (200, False)
        assert live["capture"]["hours"] == 48.0
        status, answer, _ = await site.ask("PUT", "/api/devices/hall/capture", json={"on": True})
        assert (status, "cannot capture" in answer["message"]) == (422, True)
        assert (await site.ask("PUT", "/api/devices/kitchen/capture", json={"on": True, "hours": 337}))[0] == 422


# --- on the network --------------------------------------------------------------------------------------------------


async def test_a_look_on_the_network_tells_known_and_new_ones_and_believes_nothing(project: Project, site: Site):
    kitchen, hostile, invalid = f"{OURS}-kitchen", f"{OURS}-evil", f"{OURS} evil 2"
    add_device(project, Device(name=kitchen, template="generic-s3"))
    site.service.lookout.discover = partial(network.discover, interfaces=["127.0.0.1"])
    assert (await site.get("/api/devices/found"))["at"] == ""
    evil = {"friendly_name": b"<img src=x onerror=alert(1)>\x1b[2J\xe2\x80\xae" + b"A" * 80, "version": b"1.2.3;rm"}
    async with _registered((kitchen, {}), (hostile, evil), (invalid, {})):
        for _ in range(6):  # an answer may reach another program, see _discover_until
            status, begun, _ = await site.ask("POST", "/api/devices/found")
            assert (status, begun["scanning"]) == (202, True)
            assert (await site.ask("POST", "/api/devices/found"))[1]["scanning"], "one look, however many want it"
            async with asyncio.timeout(60):
                while (found := await site.get("/api/devices/found"))["scanning"]:  # noqa: ASYNC110  over HTTP
                    await asyncio.sleep(0.1)
            by_name = {one["name"]: one for one in found["devices"]}
            if {kitchen, hostile} <= by_name.keys():
                break
    assert invalid not in by_name
    assert (by_name[kitchen]["known"], by_name[hostile]["known"]) == (True, False)
    assert by_name[hostile]["friendly_name"].isprintable()
    assert by_name[hostile]["esphome_version"] == ""
    assert found["at"]


async def test_a_machine_without_a_network_is_told(project: Project, site: Site):
    async def discover(*_: Any, **__: Any) -> list[network.Found]:
        raise DeviceUnreachableError("the network cannot be asked for devices: no route", hint="check it")

    site.service.lookout.discover = discover
    await site.ask("POST", "/api/devices/found")
    async with asyncio.timeout(30):
        while (found := await site.get("/api/devices/found"))["scanning"]:  # noqa: ASYNC110  over HTTP
            await asyncio.sleep(0.05)
    assert "the network cannot be asked" in found["message"]
    assert found["devices"] == []


# --- what there is to choose from ------------------------------------------------------------------------------------


async def test_secrets_are_told_by_name_and_never_by_value(project: Project, site: Site):
    assert (await site.get("/api/devices/options"))["secrets"]["missing"] == [], "nobody needs one"
    add_device(project, Device(name="hall", template="generic-s3"))
    add_device(project, Device(name="bath", template="voice-pe", api_key="bath_key"))
    secrets = (await site.get("/api/devices/options"))["secrets"]
    assert (secrets["exists"], secrets["missing"]) == (
        False, ["wifi_ssid", "wifi_password", "mww_ota_password", "mww_api_encryption_key", "bath_key"],
    )  # fmt: skip
    add_device(project, Device(name="kitchen", template="generic-s3", api_key="kitchen_key"))
    project.esphome_dir.mkdir()
    path = project.esphome_dir / "secrets.yaml"
    path.write_text("wifi_ssid: your-wifi-name\nwifi_password: geheim-1\nmww_ota_password: geheim-2\n")
    options = await site.get("/api/devices/options")
    assert options["secrets"]["missing"] == ["mww_api_encryption_key", "bath_key", "kitchen_key"]
    assert options["secrets"]["unfilled"] == ["wifi_ssid"]
    assert "geheim" not in json.dumps(options)
    path.write_text("geheim-3: [\n")
    options = await site.get("/api/devices/options")
    assert "cannot be read as YAML" in options["secrets"]["message"]
    assert "geheim" not in json.dumps(options)
    status, said, _ = await site.ask("PUT", "/api/secrets", json=typed(wifi_ssid="Zuhause"))
    assert status == 422
    assert "geheim" not in json.dumps(said)
    assert path.read_text() == "geheim-3: [\n"


def typed(**values: str) -> dict[str, Any]:
    return {"secrets": [{"name": name, "value": value} for name, value in values.items()]}


async def test_the_wi_fi_can_be_typed_and_everything_else_in_the_file_stays(project: Project, site: Site):
    add_device(project, Device(name="hall", template="generic-s3"))
    path = project.esphome_dir / "secrets.yaml"
    status, left, _ = await site.ask(
        "PUT", "/api/secrets", json=typed(wifi_ssid='Zu "Hause": #1', wifi_password="8 Zeichen")
    )
    assert (status, left["missing"], left["unfilled"]) == (200, [], [])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made = read_secrets(path)
    assert (made["wifi_ssid"], made["wifi_password"]) == ('Zu "Hause": #1', "8 Zeichen")
    assert len(base64.b64decode(made["mww_api_encryption_key"])) == 32
    path.write_text(path.read_text() + "# the cellar\ncellar: !include other.yaml\nmine: 0123\n")
    status, said, _ = await site.ask("PUT", "/api/secrets", json=typed(wifi_password="another one"))
    assert status == 200
    assert "another" not in json.dumps(said)
    assert read_secrets(path) == made | {"wifi_password": "another one", "cellar": "other.yaml", "mine": "0123"}
    assert "# the cellar\ncellar: !include other.yaml\nmine: 0123\n" in path.read_text()


async def test_what_satellites_may_know_is_not_overwritten_and_what_is_missing_is_made(project: Project, site: Site):
    add_device(project, Device(name="bath", template="voice-pe", api_key="bath_key"))
    project.esphome_dir.mkdir()
    path = project.esphome_dir / "secrets.yaml"
    path.write_text('wifi_ssid: Zuhause\nmww_ota_password: "geheim-2"\n')
    before = path.read_text()
    for values, says in (
        ({"mww_ota_password": "other"}, "stands in"),
        ({"bath_key": "dG9vIHNob3J0"}, "is no API key"),
        ({"bath_key": "no base64!"}, "is no API key"),
        ({"wifi_password": "kurz"}, "has 4 characters"),
        ({"wifi_ssid": "x" * 33}, "has 33 bytes"),
        ({"wifi_ssid": "a\nb: c"}, "cannot be shown"),
        ({"a b": "geheim-9"}, "must look like"),
    ):
        status, said, _ = await site.ask("PUT", "/api/secrets", json=typed(**values))
        assert (status, says in said["message"] + said["hint"]) == (422, True), said
        assert not any(value in json.dumps(said) for value in values.values()), "no value is quoted"
        assert path.read_text() == before
    status, left, _ = await site.ask("PUT", "/api/secrets", json=typed(bath_key=""))
    assert (status, left["missing"]) == (200, [])
    assert len(base64.b64decode(read_secrets(path)["bath_key"])) == 32
    assert read_secrets(path)["mww_ota_password"] == "geheim-2"


def test_every_field_of_a_satellite_can_be_written_through_the_page():
    written = {field.name for field in dataclasses.fields(DeviceEntry)} | {"name"}
    assert written == {field.name for field in dataclasses.fields(Device)}, "what is removed is put back whole"


async def test_boards_ways_and_addresses_are_there_to_choose_from(project: Project, site: Site):
    options = await site.get("/api/devices/options")
    boards = {board["id"]: board for board in options["boards"]}
    assert boards["own"]["needs"] == ["mic_id"]
    assert (boards["voice-pe"]["complete"], boards["voice-pe"]["has_slot"]) == (False, False)
    ways = {way["name"]: way for way in options["backends"]}
    assert (ways["builder"]["ready"], "flash.builder_url is empty" in ways["builder"]["message"]) == (False, True)
    assert "flash.handoff_dir is empty" in ways["handoff"]["message"]
    port = site.opened.devices[0][1]
    assert options["capture_urls"] == [f"http://127.0.0.1:{port}/api/captures"]


@pytest.mark.parametrize(
    ("listening", "asked", "own", "urls"),
    [
        ([("0.0.0.0", 8098)], "192.168.1.5", ["172.30.33.4", "192.168.1.5"], ["192.168.1.5", "172.30.33.4"]),
        ([("0.0.0.0", 8098), ("::", 8098)], "localhost", ["192.168.1.5"], ["192.168.1.5"]),
        ([("0.0.0.0", 8098)], "mww.example.org", ["8.8.4.4"], []),
        ([("0.0.0.0", 8098)], "127.0.0.1", ["192.168.1.5"], ["192.168.1.5", "127.0.0.1"]),
        ([("192.168.1.9", 8098)], "192.168.1.5", ["192.168.1.5"], ["192.168.1.9"]),
        ([], "192.168.1.5", ["192.168.1.5"], []),
    ],
)
def test_the_address_for_captures_is_where_satellites_reach_this_service(
    listening: list[tuple[str, int]], asked: str, own: list[str], urls: list[str]
):
    made = suggest_capture_urls(listening, asked, own)
    assert made == [f"http://{host}:8098/api/captures" for host in urls]


def test_serial_ports_are_listed_with_what_the_device_calls_itself(tmp_path: Path):
    assert preflight.list_serial_ports(tmp_path) == []
    (tmp_path / "serial/by-id").mkdir(parents=True)
    for name in ("ttyUSB0", "ttyACM1", "tty0"):
        (tmp_path / name).touch()
    (tmp_path / "serial/by-id/usb-Espressif_USB_JTAG_serial_debug_unit_7C-if00").symlink_to("../../ttyACM1")
    assert preflight.list_serial_ports(tmp_path) == [
        (f"{tmp_path}/ttyACM1", "Espressif USB JTAG serial debug unit 7C"),
        (f"{tmp_path}/ttyUSB0", ""),
    ]


# --- who may ---------------------------------------------------------------------------------------------------------


async def test_behind_ingress_only_an_administrator_changes_a_satellite(project: Project):
    async with satellite(wake_model="x 1") as device:
        add_device(project, reached(device))
        before = project.devices_path.read_text()
        async with opened_site(
            project.root, ingress=True, ingress_peer="127.0.0.1", admins=("boss",), device_port=None
        ) as site:
            person = {"X-Remote-User-Id": "child", "X-Remote-User-Name": "child", "Origin": site.base}
            for method, path, sent in (
                ("POST", "/api/devices", {"name": "hall", "entry": {"template": "generic-s3"}}),
                ("PUT", "/api/devices/kitchen", {"template": "satellite1"}),
                ("DELETE", "/api/devices/kitchen", None),
                ("PUT", "/api/devices/kitchen/capture", {"on": True}),
                ("POST", "/api/jobs", {"kind": "flash", "device": "kitchen"}),
            ):
                assert (await site.ask(method, path, headers=person, json=sent))[0] == 403, path
            assert (await site.ask("GET", "/api/devices/kitchen/live", headers=person))[1]["reachable"]
            assert "SwitchCommandRequest" not in device.received
            assert project.devices_path.read_text() == before
            boss = {**person, "X-Remote-User-Id": "boss"}
            status, answer, _ = await site.ask("PUT", "/api/devices/kitchen/capture", headers=boss, json={"on": True})
            assert status == 200, answer


# --- orders ----------------------------------------------------------------------------------------------------------


def test_a_model_that_is_worse_or_marked_is_not_flashed_by_accident(project: Project):
    add_device(project, Device(name="kitchen", template="generic-s3"))
    project.models_dir.mkdir()
    manifest = toy_wake.write_model(project.models_dir, name=MODEL)
    about = {"id": MODEL, "manifest_path": f"models/{manifest.name}", "about_path": f"models/{MODEL}.about.json"}
    order = partial(orders.FlashOrder, device="kitchen", model=MODEL)
    project.catalogue.put_model(MODEL, about)
    assert f"--model={manifest.resolve()}" in order().arguments(project)
    assert order(serial="/dev/ttyACM0").arguments(project)[2] == "--serial=/dev/ttyACM0"
    assert "--serial=" in order(serial="").arguments(project), "over the air, whatever devices.yaml says"
    project.catalogue.mark_document("models", MODEL, "deleted", {"clips": 3})
    with pytest.raises(InputError, match="learned from sound that was deleted"):
        order().arguments(project)
    assert "--force" not in order(all_the_same=True).arguments(project), "what checks the device stays"
    worse = {**about, "offered": False, "comparison": {"outcome": "worse", "reason": "It misses 9 of 30."}}
    project.catalogue.put_model(MODEL, worse)
    with pytest.raises(InputError, match=r"is not offered: It misses 9 of 30\."):
        order().arguments(project)
    order(all_the_same=True).arguments(project)
    orders.CanaryOrder(device="kitchen", model=MODEL).arguments(project)
