"""Devices are what devices.yaml says, what the network announces is only believed once cleaned, and nobody is harmed.

``devices.yaml`` is read strictly and changed without touching what stands there. The connection is tried on a real
ESPHome device on this machine and, where that cannot be brought to it, on a server of ours that speaks its protocol.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import concurrent.futures
import contextlib
import dataclasses
import logging
import os
import re
import socket
import threading
import time
import unicodedata
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import host_build
import host_device
import pytest
from aioesphomeapi import api_pb2 as pb
from fake_api_device import FakeDevice
from hypothesis import given, settings
from hypothesis import strategies as st

from mww_ha import devices
from mww_ha.deploy import esphome
from mww_ha.devices import connection as c
from mww_ha.devices import known, network
from mww_ha.errors import (
    ConfigError,
    DeviceError,
    DeviceRefusedError,
    DeviceUnreachableError,
    InputError,
    MwwError,
)
from mww_ha.schema import Device, Progress
from mww_ha.store import Project, create_project

KEY = bytes(range(32))
KEY_TEXT = base64.b64encode(KEY).decode()

needs_device = pytest.mark.skipif(esphome.find_esphome() is None, reason="ESPHome is not installed")


# --- devices.yaml -------------------------------------------------------------------------------------------------


def _write(project: Project, text: str) -> None:
    project.devices_path.write_bytes(text.encode())


def _refusal(project: Project, text: str) -> ConfigError:
    _write(project, text)
    with pytest.raises(ConfigError) as refusal:
        known.load_devices(project)
    assert str(project.devices_path) in refusal.value.message
    assert refusal.value.hint
    return refusal.value


def test_without_a_file_there_are_no_devices(project: Project) -> None:
    assert known.load_devices(project) == {}
    with pytest.raises(InputError, match="knows none"):
        known.find_device(project, "kitchen")


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "---\n", "\ufeff"])
def test_an_empty_file_holds_no_devices_and_takes_one(project: Project, text: str) -> None:
    _write(project, text)
    assert known.load_devices(project) == {}
    known.add_device(project, Device(name="kitchen", template="generic-s3"))
    assert list(known.load_devices(project)) == ["kitchen"]


def test_an_entry_is_a_device_with_its_values_as_they_are_written(project: Project) -> None:
    _write(
        project,
        "Küche Süd:\n"
        "  template: generic-s3-speaker\n"
        "  address: 192.168.1.20\n"
        "  port: 6054\n"
        "  backend: builder\n"
        "  serial: /dev/ttyUSB0\n"
        "  api_key: !secret kitchen_key\n"
        "  substitutions: {mic_gain: 4, i2s_pin: GPIO05, code: 007, yes_word: 'yes'}\n"
        "  also: [hey_hall-1a2b3c4d]\n"
        "  vad: true\n"
        "  capture_url: http://192.168.1.10:8765/api/captures\n"
        "  near_miss: yes\n"
        "  room: Ground floor\n"
        "hall: {template: generic-s3, api_key: ''}\n",
    )
    assert known.load_devices(project) == {
        "kuche-sud": Device(
            name="kuche-sud",
            template="generic-s3-speaker",
            address="192.168.1.20",
            port=6054,
            backend="builder",
            serial="/dev/ttyUSB0",
            api_key="kitchen_key",
            friendly_name="Küche Süd",
            substitutions={"mic_gain": "4", "i2s_pin": "GPIO05", "code": "007", "yes_word": "yes"},
            also=("hey_hall-1a2b3c4d",),
            vad="vad",
            capture_url="http://192.168.1.10:8765/api/captures",
            near_miss=True,
            room="Ground floor",
        ),
        "hall": Device(name="hall", template="generic-s3", api_key=""),
    }
    assert known.rooms_of(project) == {"kuche-sud": "Ground floor"}
    assert known.find_device(project, "Küche Süd").name == "kuche-sud"
    with pytest.raises(InputError, match="did you mean hall"):
        known.find_device(project, "hal")
    with pytest.raises(InputError, match="known devices"):
        known.find_device(project, "../hall")


def test_two_devices_of_one_name_are_refused(project: Project) -> None:
    error = _refusal(project, "hall: {template: a}\nkitchen:\n  template: a\nhall:\n  template: b\n")
    assert "line 4" in error.message
    assert "hall" in error.message
    assert "'Kitchen'" in _refusal(project, "Kitchen: {template: a}\nkitchen: {template: a}\n").message


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("  templat: a\n", ("templat", "did you mean template", "line 2")),
        ("  address: 10.0.0.1\n", ("no template",)),
        ("  template: a\n  template: b\n", ("template twice", "line 3")),
        ("  template: [a]\n", ("template is not a text",)),
        ("  template: ../a\n", ("'../a'",)),
        ("  template:\n", ("template is not a text",)),
        ("  template: a\n  backend: esphom\n", ("did you mean esphome",)),
        ("  template: a\n  port: 0\n", ("port '0'", "65535")),
        ("  template: a\n  port: 65536\n", ("port '65536'",)),
        ("  template: a\n  port: 0x10\n", ("port '0x10'",)),
        ("  template: a\n  port: api\n", ("port 'api'",)),
        ("  template: a\n  near_miss: maybe\n", ("near_miss 'maybe'",)),
        ("  template: a\n  serial: ttyUSB0; reboot\n", ("serial",)),
        ("  template: a\n  serial: --help\n", ("serial",)),
        ("  template: a\n  yaml: kitchen.txt\n", ("yaml 'kitchen.txt'",)),
        ("  template: a\n  also: hey\n", ("also 'hey' is no list",)),
        ("  template: a\n  also: [{a: b}]\n", ("also",)),
        ("  template: a\n  vad: silero\n", ("vad 'silero'",)),
        ("  template: a\n  substitutions: [a]\n", ("substitutions",)),
        ("  template: a\n  substitutions: {a: [b]}\n", ("gives a no text",)),
        ("  template: a\n  substitutions: {a: x, a: y}\n", ("a twice",)),
        ("  template: a\n  substitutions: {'a b': y}\n", ("'a b'",)),
        ("  template: !!python/name:os.system a\n", ("template is not a text",)),
        ("  template: a\n  friendly_name: !secret x\n", ("friendly_name is not a text",)),
        ("  template: a\n  friendly_name: " + "é" * 61 + "\n", ("122 bytes",)),
        ('  template: a\n  friendly_name: "a\\nb"\n', ("friendly_name",)),
        ("  template: a\n  ? [a, b]\n  : c\n", ("''",)),
    ],
)
def test_a_bad_entry_names_line_device_key_and_value(project: Project, entry: str, words: tuple[str, ...]) -> None:
    error = _refusal(project, f"kitchen:\n{entry}")
    assert "kitchen" in error.message
    assert all(word in str(error) for word in words), str(error)


@pytest.mark.parametrize(
    "address",
    [
        "http://192.168.1.20", "192.168.1.20:6053", "192.168.1.256", "1.2.3", "0x7f000001", "2130706433", "a b",
        "$(reboot)", "a;b", "-oProxyCommand", "a..b", "a/b", "kitchen.local\\n", "fe80::1%$(x)", "кухня.local",
        "a" * 64,
        "a." * 130, "\\u202ekitchen", "user@host",
    ],
)  # fmt: skip
def test_an_address_is_an_address_and_nothing_else(project: Project, address: str) -> None:
    error = _refusal(project, f'kitchen:\n  template: a\n  address: "{address}"\n')
    assert "address" in error.message


@pytest.mark.parametrize(
    "address",
    ["192.168.1.20", "kitchen", "kitchen.local", "Kitchen-2.lan.", "fe80::1", "fe80::1%eth0", "::1", "esp_1.lan"],
)
def test_an_address_may_be_a_number_or_a_name(project: Project, address: str) -> None:
    _write(project, f'kitchen:\n  template: a\n  address: "{address}"\n')
    assert known.load_devices(project)["kitchen"].address == address


@pytest.mark.parametrize(
    "url",
    [
        "https://192.168.1.10/x", "http://host/x", "http://192.168.1.10", "http://192.168.1.10:0/x",
        "http://192.168.1.10:70000/x", "http://1.2.3/x", "http://192.168.1.10/a?b=c", "http://u:p@192.168.1.10/x",
        "http://0.0.0.0/x", "http://8.8.8.8/x", "http://224.0.0.1/x", "http://192.168.1.10/a b", "http://192.168.1.10/${x}",
    ],
)  # fmt: skip
def test_captures_go_to_a_number_in_this_network(project: Project, url: str) -> None:
    assert "capture_url" in _refusal(project, f'kitchen:\n  template: a\n  capture_url: "{url}"\n').message


@pytest.mark.parametrize(
    "value",
    [
        f'"{KEY_TEXT}"',
        KEY_TEXT,
        f"!secret {KEY_TEXT}",
        f"[{KEY_TEXT}]",
        f"!secret {KEY_TEXT[:43]}",
        f"{{a: {KEY_TEXT}}}",
    ],
)
def test_a_key_in_devices_yaml_is_refused_and_never_quoted(project: Project, value: str) -> None:
    error = _refusal(project, f"kitchen:\n  template: a\n  api_key: {value}\n")
    assert "!secret" in error.hint
    assert KEY_TEXT[:8] not in str(error)


@pytest.mark.parametrize(
    "text",
    [
        "- kitchen\n", "kitchen\n", "kitchen:\n", "kitchen: generic-s3\n", "a: *b\n", "a: {template: x\n",
        "a:\n\ttemplate: x\n",
        "../x: {template: a}\n", "厨房: {template: a}\n", "secrets: {template: a}\n", "? [a]\n: {template: a}\n",
        "a: {template: x}\n---\nb: {template: x}\n", "\x00", "[" * 1200, "a: &x {template: *x}\n", "a: &x\n  <<: *x\n",
    ],
)  # fmt: skip
def test_what_is_no_list_of_devices_is_refused(project: Project, text: str) -> None:
    _refusal(project, text)


def test_a_file_that_is_not_text_or_too_large_is_refused(project: Project) -> None:
    project.devices_path.write_bytes(b"kitchen: \xff\xfe\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        known.load_devices(project)
    project.devices_path.write_bytes(b"#" * (1 << 20) + b"\n\n")
    with pytest.raises(ConfigError, match="1 MB"):
        known.load_devices(project)
    project.devices_path.unlink()
    project.devices_path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        known.load_devices(project)


def test_a_fault_in_yaml_does_not_quote_the_line(project: Project) -> None:
    error = _refusal(project, f'kitchen:\n  api_key: "{KEY_TEXT}" x\n')
    assert "line 2" in error.message
    assert KEY_TEXT not in str(error)


def test_adding_keeps_every_character_that_stood_there(project: Project) -> None:
    before = "# mine\nkitchen:   # the old one\n  template: a  # cheap\n\n\n  # address: later"
    _write(project, before)
    path = known.add_device(project, Device(name="hall", template="generic-s3", address="10.0.0.7", api_key=""))
    assert path == project.devices_path
    assert path.read_text(encoding="utf-8") == (
        f'{before}\n\nhall:\n  template: generic-s3\n  address: 10.0.0.7\n  api_key: ""\n'
    )
    assert list(known.load_devices(project)) == ["kitchen", "hall"]


def test_the_first_device_makes_the_file_and_says_what_it_is(project: Project) -> None:
    known.add_device(project, Device(name="kitchen", template="generic-s3"))
    assert project.devices_path.read_text(encoding="utf-8").startswith("# ")
    assert known.load_devices(project) == {"kitchen": Device(name="kitchen", template="generic-s3")}


def test_changes_at_the_same_time_are_all_kept(project: Project) -> None:
    together = threading.Barrier(8)

    def add(number: int) -> None:
        together.wait()
        known.add_device(project, Device(name=f"room{number}", template="generic-s3"))
        known.update_device(project, f"room{number}", room=f"room {number}")

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(8)))
    rooms = {name: device.room for name, device in known.load_devices(project).items()}
    assert rooms == {f"room{number}": f"room {number}" for number in range(8)}


@pytest.mark.parametrize("before", ["  kitchen:\r\n    template: a\r\n", "kitchen:\n  template: >-\n    a\n"])
def test_adding_keeps_indentation_and_line_ends(project: Project, before: str) -> None:
    _write(project, before)
    known.add_device(project, Device(name="hall", template="b"))
    made = project.devices_path.read_bytes().decode()
    assert made.startswith(before)
    assert ("\r\n" in made) == ("\r\n" in before)
    assert list(known.load_devices(project)) == ["kitchen", "hall"]


@pytest.mark.parametrize(
    ("before", "device"),
    [
        ("hall: {template: a}\n", Device(name="hall", template="b")),
        ("Hall: {template: a}\n", Device(name="hall", template="b")),
        ("{hall: {template: a}}\n", Device(name="kitchen", template="b")),
        ("hall: {template: a}\n...\n", Device(name="kitchen", template="b")),
        ("hall: {templat: a}\n", Device(name="kitchen", template="b")),
        ("", Device(name="../kitchen", template="b")),
        ("", Device(name="Kitchen", template="b")),
        ("", Device(name="kitchen", template="b", address="a b")),
        ("", Device(name="kitchen", template="b", address='x"\nhall: {template: a}\n#')),
        ("", Device(name="kitchen", template="b", api_key=KEY_TEXT)),
        ("", Device(name="kitchen", template="b\n  port: 1")),
        ("", Device(name="kitchen", template="b", substitutions={"a: b, c": "d"})),
        ("", Device(name="kitchen", template="b", port=0)),
    ],
)
def test_what_cannot_be_added_changes_nothing(project: Project, before: str, device: Device) -> None:
    _write(project, before)
    with pytest.raises(InputError) as refusal:
        known.add_device(project, device)
    assert refusal.value.hint
    assert KEY_TEXT not in str(refusal.value)
    assert project.devices_path.read_text(encoding="utf-8") == before
    assert [path.name for path in project.root.iterdir() if path.name.startswith(".dev")] == []


def test_changing_a_device_keeps_the_rest_of_its_entry(project: Project) -> None:
    _write(
        project, "# all\nkitchen:\n  template: a  # cheap\n  address: 10.0.0.1 # by the router\nhall: {template: b}\n"
    )
    made = known.update_device(project, "Kitchen", address="10.0.0.2", template="c", near_miss=True)
    assert made == Device(name="kitchen", template="c", address="10.0.0.2", near_miss=True)
    assert known.load_devices(project)["kitchen"] == made
    assert project.devices_path.read_text(encoding="utf-8") == (
        "# all\nkitchen:\n  near_miss: true\n  template: c  # cheap\n  address: 10.0.0.2 # by the router\n"
        "hall: {template: b}\n"
    )


@pytest.mark.parametrize(
    ("before", "changes"),
    [
        ("kitchen: {template: a}\n", {"template": "b"}),
        ("kitchen:\n  template: a\n  also:\n    - x # mine\n", {"also": ("y",)}),
        ("kitchen:\n  template: a\n", {"address": "a b"}),
    ],
)
def test_a_change_that_would_rewrite_the_users_text_is_refused(
    project: Project, before: str, changes: dict[str, Any]
) -> None:
    _write(project, before)
    with pytest.raises(ConfigError):
        known.update_device(project, "kitchen", **changes)
    assert project.devices_path.read_text(encoding="utf-8") == before


_words = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=30).filter(
    str.isprintable
)
_devices = st.builds(
    Device,
    name=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).filter(
        lambda name: "--" not in name and name != "secrets"
    ),
    template=st.sampled_from(["generic-s3", "on", "1e3", "null"]).filter(lambda t: t not in ("on", "null")),
    address=st.sampled_from(["", "10.0.0.1", "fe80::1%eth0", "kitchen.lan"]),
    port=st.integers(1, 65535),
    backend=st.sampled_from(known.BACKENDS),
    serial=st.sampled_from(["", "COM3", "/dev/serial/by-path/pci-0000:00:14.0-usb-0:1:1.0-port0"]),
    api_key=st.sampled_from(["", "mww_api_encryption_key", "no", "key_2"]),
    friendly_name=_words.filter(lambda text: len(text.encode()) <= 120),
    yaml=st.sampled_from(["", "kitchen.yaml", "../my devices/kitchen #1.yml"]),
    substitutions=st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}", fullmatch=True), _words, max_size=3),
    also=st.lists(_words.filter(lambda t: bool(t) and not t.startswith("-")), max_size=3).map(tuple),
    vad=st.sampled_from(["", "vad", "models/vad.json"]),
    capture_url=st.sampled_from(["", "http://10.0.0.2:8765/api/captures"]),
    near_miss=st.booleans(),
    room=_words,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_devices, max_size=3, unique_by=lambda device: device.name))
def test_what_is_added_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, wanted: list[Device]) -> None:
    path = tmp_path_factory.mktemp("devices")
    project = dataclasses.replace(_shared_project(tmp_path_factory), root=path)
    for device in wanted:
        known.add_device(project, device)
    assert list(known.load_devices(project).values()) == wanted


_project: list[Project] = []


def _shared_project(factory: pytest.TempPathFactory) -> Project:
    """One catalogue for all examples; only the folder is another."""
    if not _project:
        _project.append(create_project(factory.mktemp("project"), "hey kitchen"))
        _project[0].catalogue.close()
    return _project[0]


@settings(max_examples=150, deadline=None)
@given(
    st.text(max_size=80) | st.from_regex(r"(a|b): ?(\{|\n  )(template|port|api_key): [^\n]{0,20}\}?\n", fullmatch=True)
)
def test_any_text_is_devices_or_an_error_of_ours(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    project = _shared_project(tmp_path_factory)
    project.devices_path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found = known.load_devices(project)
    except ConfigError as error:
        assert error.hint
    else:
        assert all(device.name == name == known.clean_host_name(name) for name, device in found.items())


def test_the_key_of_a_device_is_the_secret_it_names(project: Project) -> None:
    device = Device(name="kitchen", template="a", api_key="kitchen_key")
    assert known.api_key_of(project, dataclasses.replace(device, api_key="")) == ""
    with pytest.raises(ConfigError, match="kitchen_key"):
        known.api_key_of(project, device)
    path = project.esphome_dir / "secrets.yaml"
    path.parent.mkdir()
    path.write_text(f'kitchen_key: "{KEY_TEXT}"\nshort: "aGVsbG8="\nbroken: hunter2\nlist: [{KEY_TEXT}]\n')
    assert known.api_key_of(project, device) == KEY_TEXT
    for name in ("short", "broken", "list", "missing"):
        with pytest.raises(ConfigError) as refusal:
            known.api_key_of(project, dataclasses.replace(device, api_key=name))
        assert name in refusal.value.message
        assert not re.search(f"aGVs|hunter2|{re.escape(KEY_TEXT)}", str(refusal.value))
    path.write_text(f"{KEY_TEXT} [\n")
    with pytest.raises(ConfigError) as refusal:
        known.api_key_of(project, device)
    assert KEY_TEXT not in str(refusal.value)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=40))
def test_a_host_name_is_clean_and_stays_as_it_is(name: str) -> None:
    try:
        host = known.clean_host_name(name)
    except InputError as error:
        assert error.hint
        return
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,29}[a-z0-9])?", host)
    assert known.clean_host_name(host) == host


# --- the network --------------------------------------------------------------------------------------------------


def _announced(txt: dict[bytes, bytes | None], **changes: Any) -> network.Found | None:
    given = {"instance": f"kitchen.{network.SERVICE}", "addresses": ["192.168.1.20"], "port": 6053, **changes}
    return network.clean_announcement(given["instance"], given["addresses"], given["port"], txt)


def test_an_announcement_says_what_the_device_is() -> None:
    txt = {
        b"friendly_name": "Küche".encode(), b"version": b"2026.10.0", b"mac": b"aabbccddeeff", b"platform": b"ESP32",
        b"board": b"esp32-s3-devkitc-1", b"network": b"wifi", b"api_encryption": b"Noise_NNpsk0",
        b"project_name": b"acme.satellite", b"project_version": b"1.0", b"config_hash": b"AB12cd34",
    }  # fmt: skip
    assert _announced(txt) == network.Found(
        name="kitchen", friendly_name="Küche", address="192.168.1.20", port=6053, esphome_version="2026.10.0",
        mac="AA:BB:CC:DD:EE:FF", platform="ESP32", board="esp32-s3-devkitc-1", network="wifi", encrypted=True,
        project_name="acme.satellite", project_version="1.0", config_hash="ab12cd34",
    )  # fmt: skip
    keyless = _announced({b"api_encryption_supported": b"Noise_NNpsk0_25519_ChaChaPoly_SHA256"})
    assert keyless is not None
    assert not keyless.encrypted


@pytest.mark.parametrize(
    "name",
    ["..", ".", "../etc", "a/b", "a\\b", "-rf", "a b", "кухня", "a\0b", "a\nb", "", "x" * 64, "$(reboot)", "a.b", "_x"],
)
def test_a_name_that_could_be_a_path_or_an_option_is_dropped(name: str) -> None:
    assert _announced({}, instance=f"{name}.{network.SERVICE}") is None


@pytest.mark.parametrize("addresses", [[], ["0.0.0.0"], ["224.0.0.251"], ["::"], ["kitchen"], ["fe80::1%$(x)"]])
def test_an_announcement_without_an_address_is_dropped(addresses: list[str]) -> None:
    assert _announced({}, addresses=addresses) is None
    assert _announced({}, port=0) is None
    found = _announced({}, addresses=[*addresses, "fe80::1%eth0", "10.0.0.2"])
    assert found is not None
    assert found.address == "10.0.0.2"


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([f.name.encode() for f in dataclasses.fields(network.Found)] + [b"version", b"api_encryption"])
        | st.binary(max_size=9),
        st.none() | st.binary(max_size=600) | st.text(max_size=300).map(lambda t: t.encode("utf-8", "surrogatepass")),
        max_size=8,
    )
)
def test_no_announcement_can_move_a_cursor_or_fill_a_screen(txt: dict[bytes, bytes | None]) -> None:
    found = _announced(txt)
    assert found is not None
    for value in dataclasses.asdict(found).values():
        if isinstance(value, str):
            assert len(value) <= network.LONGEST_TEXT
            assert value.isprintable()
            assert not any(unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") for char in value)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200) | st.binary(max_size=200))
def test_cleaning_text_twice_changes_nothing(value: str | bytes) -> None:
    clean = network.clean_text(value)
    assert network.clean_text(clean) == clean
    assert network.clean_text(clean.encode()) == clean


@pytest.mark.parametrize(
    "text", ["hey_kitchen 1a2b3c4d, canary hey_kitchen 5e6f7a8b", "Küche (Süd)", "厨房", "日本 – x", ""]
)
def test_cleaning_keeps_clean_text(text: str) -> None:
    assert network.clean_text(text) == text


OURS = f"mwwtest-{os.getpid()}"  # other workers announce devices on the same port at the same time


@contextlib.asynccontextmanager
async def _registered(*services: tuple[str, dict[str, Any]], address: str = "127.0.0.1") -> AsyncIterator[None]:
    from zeroconf import ServiceInfo
    from zeroconf.asyncio import AsyncZeroconf

    multicast = AsyncZeroconf(interfaces=["127.0.0.1"])
    try:
        for name, properties in services:
            info = ServiceInfo(
                network.SERVICE,
                f"{name}.{network.SERVICE}",
                addresses=[socket.inet_aton(address)],
                port=6053,
                properties=properties,
                server=f"{name}.local.",
            )
            # not announced again and again: the test asks by itself
            multicast.zeroconf.registry.async_add(info)
        yield
    finally:
        await multicast.async_close()


async def _discover_until(*names: str, **options: Any) -> list[network.Found]:
    """Several programs share the port on loopback, and an answer to one of them may reach another: so ask again."""
    found: list[network.Found] = []
    for timeout_s in (1.5, 3.0, 6.0, 12.0):
        found = await network.discover(timeout_s, interfaces=["127.0.0.1"], **options)
        if {*names} <= {device.name for device in found} and len(found) > 1:
            break
    return found


async def test_devices_announce_themselves_and_hostile_ones_are_cleaned_or_dropped() -> None:
    hostile = {
        "friendly_name": "\x1b[31mred\u202e\u200bx\n" + "y" * 150,
        "version": "1; reboot",
        "mac": b"\xff\xfe",
        "board": "a" * 61,
    }
    services = (
        (f"{OURS}-kitchen", {"friendly_name": "Küche", "version": "2026.6.5", "mac": "aabbccddeeff"}),
        (f"{OURS}-hall", hostile),
        (f"{OURS} evil/$(x)", {}),  # nothing with two dots: that would be an empty label, and a packet nobody can read
    )
    async with _registered(*services):
        found = await _discover_until(f"{OURS}-kitchen", f"{OURS}-hall")
        assert all(re.fullmatch(r"[a-z0-9_-]+", device.name) for device in found)
        by_name = {device.name: device for device in found}
        assert by_name[f"{OURS}-kitchen"].friendly_name == "Küche"
        assert by_name[f"{OURS}-kitchen"].mac == "AA:BB:CC:DD:EE:FF"
        hall = by_name[f"{OURS}-hall"]
        assert hall.friendly_name.startswith("[31mredx y")
        assert len(hall.friendly_name) == network.LONGEST_TEXT
        assert (hall.esphome_version, hall.mac, hall.board) == ("", "", "")
        assert not any(OURS in name and "evil" in name for name in by_name)

        answer = await asyncio.to_thread(
            network.resolve,
            f"{OURS}-kitchen",
            10.0,
            lookup=_no_answer,
            ask=lambda name, timeout_s: network.ask_network(name, timeout_s, interfaces=["127.0.0.1"]),
        )
        assert answer == "127.0.0.1"


async def test_a_flood_of_announcements_is_cut_off_and_does_not_hide_a_known_device() -> None:
    flood = tuple((f"{OURS}-flood-{number}", {}) for number in range(24))
    async with _registered(*flood, (f"{OURS}-known", {})):
        found = await _discover_until(f"{OURS}-known", wanted=[f"{OURS}-known", f"{OURS}-absent"], most=8)
    names = [device.name for device in found]
    assert names.count(f"{OURS}-known") == 1
    assert 1 < len(names) <= 9


@pytest.mark.parametrize("wanted", [[], [f"{OURS}-twin"]])
async def test_two_devices_of_one_name_are_found_and_told_apart_by_their_mac(wanted: list[str]) -> None:
    def twin(number: int) -> tuple[str, dict[str, Any]]:
        return f"{OURS}-twin", {"mac": f"aabbccddee0{number}"}

    async with _registered(twin(1), address="127.0.0.1"), _registered(twin(2), address="127.0.0.2"):
        found: list[network.Found] = []
        for timeout_s in (1.5, 3.0, 6.0, 12.0):
            found = await network.discover(timeout_s, wanted=wanted, interfaces=["127.0.0.1"])
            if len(found := [device for device in found if device.name == f"{OURS}-twin"]) > 1:
                break
        assert [(device.address, device.mac) for device in found] == [
            ("127.0.0.1", "AA:BB:CC:DD:EE:01"),
            ("127.0.0.2", "AA:BB:CC:DD:EE:02"),
        ]
    async with _registered(twin(1)):
        names = [device.name for device in await _discover_until(f"{OURS}-twin", wanted=wanted)]
        assert names.count(f"{OURS}-twin") == 1


@given(st.binary(max_size=300))
def test_any_bytes_of_a_txt_record_are_read_to_their_end(data: bytes) -> None:
    texts = network._read_txt(data)
    assert sum(len(key) for key in texts) <= len(data)


def test_a_txt_record_is_keys_with_their_values() -> None:
    data = b"\x10mac=aabbccddeeff\x04flag\x03a==\x00\x05mac=b"
    assert network._read_txt(data) == {b"mac": b"aabbccddeeff", b"flag": None, b"a": b"=", b"": None}


def _no_answer(name: str, timeout_s: float = 0) -> list[str]:
    return []


def test_an_address_resolves_to_itself_and_asks_nobody() -> None:
    def nobody(name: str, timeout_s: float = 0) -> list[str]:
        raise AssertionError(name)

    for address in ("127.0.0.1", "fe80::1%eth0"):
        assert network.resolve(address, lookup=nobody, ask=nobody) == address


def test_a_name_resolves_by_the_system_or_by_the_network_and_prefers_ipv4() -> None:
    both = ["fe80::2", "10.0.0.9", "not an address"]
    assert network.resolve("kitchen.lan", lookup=lambda _: both, ask=_no_answer) == "10.0.0.9"
    asked: list[str] = []
    assert network.resolve("kitchen", lookup=_no_answer, ask=lambda n, _: asked.append(n) or ["10.0.0.8"]) == "10.0.0.8"
    assert network.resolve("kitchen.local.", lookup=_no_answer, ask=lambda n, _: asked.append(n) or ["10.0.0.8"])
    assert asked == ["kitchen.local", "kitchen.local"]
    assert network.resolve("localhost") == "127.0.0.1"


def test_a_name_nobody_answers_to_is_given_up_in_time_even_where_the_system_hangs() -> None:
    released = threading.Event()
    started = time.monotonic()
    with pytest.raises(DeviceUnreachableError) as failure:
        network.resolve("kitchen.local", 0.3, lookup=lambda _: [str(released.wait(20))], ask=_no_answer)
    assert time.monotonic() - started < 6
    released.set()
    assert "kitchen.local" in failure.value.message
    assert "address: 192.168.1.20" in failure.value.hint


@pytest.mark.parametrize("host", ["", "http://kitchen", "kitchen:6053", "a b", "$(x)", "1.2.3"])
def test_what_is_no_address_is_not_resolved(host: str) -> None:
    with pytest.raises(InputError):
        network.resolve(host, lookup=lambda _: ["10.0.0.1"])


def test_a_port_is_listened_on_or_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert network.is_listening("127.0.0.1", port)
    assert not network.is_listening("127.0.0.1", port)


# --- the connection, to a server that speaks the protocol -----------------------------------------------------------


WAKE_MODEL = pb.ListEntitiesTextSensorResponse(object_id="wake_model", key=1, name="Wake model")


def _says(state: str) -> pb.TextSensorStateResponse:
    return pb.TextSensorStateResponse(key=1, state=state)


async def _failure(device: FakeDevice, **changes: Any) -> tuple[MwwError, float]:
    started = time.monotonic()
    with pytest.raises(DeviceError) as failure:
        await c.read_state(device.address, **{"port": device.port, "timeout_s": 20.0, **changes})
    assert failure.value.hint
    return failure.value, time.monotonic() - started


async def test_a_device_with_encryption_talks_to_who_has_its_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with FakeDevice(key=KEY, entities=[WAKE_MODEL], states=[_says("hey_kitchen 1a2b3c4d")]) as device:
        state = await c.read_state(device.address, port=device.port, api_key=device.key_text)
        assert (state.name, state.wake_model, state.build_time) == ("kitchen", "hey_kitchen 1a2b3c4d", "build 1")
        connection = c.Connection(device.address, port=device.port, api_key=device.key_text)
        assert KEY_TEXT not in repr(connection)
    assert caplog.text  # the library did log
    assert KEY_TEXT not in caplog.text
    assert KEY.hex() not in caplog.text
    assert repr(KEY)[2:20] not in caplog.text


async def test_the_wrong_key_no_key_and_a_needless_key_are_refused_by_name(caplog: pytest.LogCaptureFixture) -> None:
    other = base64.b64encode(bytes(32)).decode()
    async with FakeDevice(key=KEY) as device:
        error, took_s = await _failure(device, api_key=other, timeout_s=30.0)
        assert isinstance(error, DeviceRefusedError)
        assert "refuses the API key" in error.message
        assert "secrets.yaml" in error.hint
        assert other not in str(error)
        assert took_s < 8
        error, _ = await _failure(device)
        assert isinstance(error, DeviceRefusedError)
        assert "wants an encrypted connection" in error.message
        assert "!secret" in error.hint
    async with FakeDevice() as device:
        error, _ = await _failure(device, api_key=KEY_TEXT)
        assert isinstance(error, DeviceRefusedError)
        assert "no encryption" in error.message
        assert 'api_key: ""' in error.hint
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("key", ["hunter2", "aGVsbG8=", KEY_TEXT[:-4], f"{KEY_TEXT}\n"])
def test_a_malformed_key_is_refused_unquoted(key: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        c.Connection("127.0.0.1", api_key=key)
    assert key.strip() not in str(refusal.value)


async def test_where_nothing_listens_hangs_or_speaks_something_else() -> None:
    device = FakeDevice()
    device.port = host_device.free_port()
    error, took_s = await _failure(device, timeout_s=30.0)
    assert isinstance(error, DeviceUnreachableError)
    assert "nothing listens" in error.message
    assert str(device.port) in error.message
    assert took_s < 6
    for message in (pb.HelloRequest, pb.DeviceInfoRequest, pb.ListEntitiesRequest):
        async with FakeDevice(hangs_at=message) as device:
            error, took_s = await _failure(device, timeout_s=0.5)
            assert isinstance(error, DeviceUnreachableError)
            assert "does not answer" in error.message
            assert took_s < 8
    async with FakeDevice(says=b"HTTP/1.1 400 Bad Request\r\n\r\n") as device:
        error, _ = await _failure(device)
        assert "does not speak ESPHome's API" in error.message
    with pytest.raises(DeviceUnreachableError, match=r"nobody\.invalid"):
        await c.read_state("nobody.invalid", timeout_s=2.0)


async def test_what_cannot_be_decoded_is_an_error_and_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    class Babbling(FakeDevice):
        async def _answer(self, line: Any, number: int, body: bytes) -> bool:
            if number == 9:
                line.write(10, b"\xff" * 40)
                return True
            return await super()._answer(line, number, body)

    for key in (b"", KEY):
        async with Babbling(key=key) as device:
            error, _ = await _failure(device, api_key=device.key_text)
            assert "does not speak ESPHome's API" in error.message
    assert "Traceback" not in capfd.readouterr().err


async def test_several_tasks_may_share_a_connection() -> None:
    async with (
        FakeDevice(entities=[WAKE_MODEL, ACTION, BUTTON], states=[_says("a 1")]) as device,
        c.Connection(device.address, port=device.port) as connection,
    ):
        asked = [connection.values(), connection.state(), connection.press("false_wake"), connection.values()]
        values, state, _, again = await asyncio.gather(*asked)
        assert values == again == {"wake_model": state.wake_model}
        assert device.connections == 1
        assert device.received.count("SubscribeStatesRequest") == 1


async def test_a_question_is_asked_again_when_the_connection_ends_in_the_middle() -> None:
    async with FakeDevice(drops_at=pb.ListEntitiesRequest, entities=[WAKE_MODEL], states=[_says("a 1")]) as device:
        state = await c.read_state(device.address, port=device.port)
        assert state.wake_model == "a 1"
        assert device.connections == 2
    async with FakeDevice(drops_at=pb.DeviceInfoRequest, drops=99) as device:
        error, took_s = await _failure(device, timeout_s=4.0)
        assert isinstance(error, DeviceUnreachableError)
        assert "ended" in error.message
        assert took_s < 15
        assert 2 <= device.connections <= 8


ACTION = pb.ListEntitiesServicesResponse(
    name="prompted_take",
    key=77,
    args=[
        pb.ListEntitiesServicesArgument(name="phrase", type=pb.SERVICE_ARG_TYPE_STRING),
        pb.ListEntitiesServicesArgument(name="seconds", type=pb.SERVICE_ARG_TYPE_INT),
    ],
)
SWITCH = pb.ListEntitiesSwitchResponse(object_id="capture", key=5, name="Capture")
BUTTON = pb.ListEntitiesButtonResponse(object_id="false_wake", key=6, name="False wake")


async def test_an_order_is_sent_once_at_most() -> None:
    async with FakeDevice(drops_at=pb.ExecuteServiceRequest, entities=[ACTION]) as device:
        async with c.Connection(device.address, port=device.port, timeout_s=3.0) as connection:
            with pytest.raises(DeviceUnreachableError, match="ended"):
                await connection.call("prompted_take", phrase="hey", seconds=3)
            assert device.received.count("ExecuteServiceRequest") == 1
            await connection.call("prompted_take", phrase="hey", seconds=3)
        sent = [message for message in device.messages if isinstance(message, pb.ExecuteServiceRequest)]
        assert [(argument.string_, argument.int_) for argument in sent[-1].args] == [("hey", 0), ("", 3)]


@pytest.mark.parametrize(
    ("action", "arguments", "words"),
    [
        ("prompted_tak", {}, "prompted_take"),
        ("prompted_take", {"phrase": "hey"}, "seconds"),
        ("prompted_take", {"phrase": "hey", "second": 3}, "did you mean seconds"),
        ("prompted_take", {"phrase": 3, "seconds": 3}, "string"),
        ("prompted_take", {"phrase": "a\0b", "seconds": 3}, "string"),
        ("prompted_take", {"phrase": "\ud800", "seconds": 3}, "string"),
        ("prompted_take", {"phrase": "x" * 5000, "seconds": 3}, "string"),
        ("prompted_take", {"phrase": "hey", "seconds": "3"}, "int"),
        ("prompted_take", {"phrase": "hey", "seconds": True}, "int"),
        ("prompted_take", {"phrase": "hey", "seconds": 1 << 31}, "int"),
    ],
)
async def test_what_the_device_does_not_offer_is_not_sent(action: str, arguments: dict[str, Any], words: str) -> None:
    async with FakeDevice(entities=[ACTION]) as device:
        async with c.Connection(device.address, port=device.port) as connection:
            with pytest.raises(InputError) as refusal:
                await connection.call(action, **arguments)
        assert words in str(refusal.value)
        assert len(str(refusal.value)) < 400
        assert "ExecuteServiceRequest" not in device.received


async def test_an_action_that_answers_gives_its_answer_or_its_failure() -> None:
    service = pb.ListEntitiesServicesResponse(name="status", key=8, supports_response=pb.SUPPORTS_RESPONSE_ONLY)
    answers = [b'{"queue": 2}', b"[1]", b"{" * 9000, None]

    def answer(message: Any) -> Any:
        if not isinstance(message, pb.ExecuteServiceRequest):
            return None
        data = answers.pop(0)
        told = (
            {"success": True, "response_data": data} if data else {"success": False, "error_message": "no\x1b[0m mic"}
        )
        return pb.ExecuteServiceResponse(call_id=message.call_id, **told)

    async with (
        FakeDevice(entities=[service], answer=answer) as device,
        c.Connection(device.address, port=device.port) as connection,
    ):
        assert await connection.call("status") == {"queue": 2}
        for words in ("no JSON", "no JSON", r"failed: no\[0m mic"):
            with pytest.raises(DeviceError, match=words):
                await connection.call("status")


async def test_a_switch_and_a_button_are_found_by_kind_and_object_id() -> None:
    async with FakeDevice(entities=[SWITCH, BUTTON]) as device:
        async with c.Connection(device.address, port=device.port) as connection:
            await connection.switch("capture", on=True)
            await connection.press("false_wake")
            for order, words in (
                (connection.press("capture"), "false_wake"),
                (connection.switch("captur", on=True), "capture"),
            ):
                with pytest.raises(InputError, match=words):
                    await order
        orders = [m for m in device.messages if isinstance(m, pb.SwitchCommandRequest | pb.ButtonCommandRequest)]
        assert [(type(order).__name__, order.key) for order in orders] == [
            ("SwitchCommandRequest", 5),
            ("ButtonCommandRequest", 6),
        ]
        assert orders[0].state


async def test_what_a_device_says_is_cleaned_and_bounded() -> None:
    bad = "\x1b[2J\u202e" + "x" * 5000
    entities = [
        pb.ListEntitiesTextSensorResponse(object_id="wake_model", key=1, name=bad),
        pb.ListEntitiesSensorResponse(object_id="wake_model", key=2, name="the same id", unit_of_measurement=bad),
        pb.ListEntitiesSensorResponse(object_id=bad, key=3, name="b"),
        pb.ListEntitiesSelectResponse(object_id="level", key=4, name="c", options=[bad, "very"]),
        *(pb.ListEntitiesBinarySensorResponse(object_id=f"b{n}", key=100 + n, name="n") for n in range(1500)),
    ]
    states = [
        pb.TextSensorStateResponse(key=1, state=bad),
        pb.SensorStateResponse(key=2, state=float("nan")),
        pb.SensorStateResponse(key=3, state=float("inf")),
        pb.SensorStateResponse(key=999_999, state=1.0),
        pb.SelectStateResponse(key=4, state=bad),
    ]
    info = {"friendly_name": bad, "mac_address": bad, "project_name": bad, "esphome_version": bad}
    async with (
        FakeDevice(name="../" + bad[:60], entities=entities, states=states, info=info) as device,
        c.Connection(device.address, port=device.port) as connection,
    ):
        told = dataclasses.asdict(await connection.state())
        values = await connection.values()
        listed = await connection.entities()
    assert len(listed) == 1000
    assert listed[3].options[1] == "very"
    assert values["wake_model"] == told["wake_model"]
    assert values["sensor.wake_model"] is None
    texts = [*told.values(), *(v for v in values.values() if isinstance(v, str)), *values]
    texts += [text for entity in listed for text in (entity.object_id, entity.name, entity.unit, *entity.options)]
    assert all(isinstance(text, str) and text.isprintable() and len(text) <= 255 for text in texts)


NO_MODEL_YET = pb.TextSensorStateResponse(key=1, missing_state=True)


async def test_a_model_that_is_told_late_is_waited_for_and_one_that_is_not_told_is_empty(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with FakeDevice(entities=[WAKE_MODEL], states=[NO_MODEL_YET], late=(0.4, _says("a 1"))) as device:
        assert (await c.read_state(device.address, port=device.port)).wake_model == "a 1"
    monkeypatch.setattr(c, "_FIRST_STATE_S", 0.7)
    async with FakeDevice(entities=[WAKE_MODEL], states=[NO_MODEL_YET]) as device:
        started = time.monotonic()
        assert (await c.read_state(device.address, port=device.port)).wake_model == ""
        assert 0.5 < time.monotonic() - started < 8
    async with FakeDevice(entities=[WAKE_MODEL], states=[NO_MODEL_YET]) as device:  # who has less time waits less
        monkeypatch.setattr(c, "_FIRST_STATE_S", 60.0)
        assert (await c.read_state(device.address, port=device.port, timeout_s=6.0)).wake_model == ""
    async with FakeDevice() as device:
        assert (await c.read_state(device.address, port=device.port)).wake_model == ""


async def test_a_state_is_waited_for_and_a_wrong_one_is_told() -> None:
    async with (
        FakeDevice(entities=[WAKE_MODEL], states=[_says("a 1")], late=(0.3, _says("b 2"))) as device,
        c.Connection(device.address, port=device.port) as connection,
    ):
        assert await connection.wait_for("wake_model", lambda value: value == "b 2", 30.0) == "b 2"
        with pytest.raises(DeviceError, match=r"'b 2' after 0\.2 s"):
            await connection.wait_for("wake_model", lambda value: value == "c 3", 0.2)
        with pytest.raises(InputError, match="did you mean wake_model"):
            await connection.wait_for("wake_modle", bool)


async def test_nobody_takes_the_part_of_the_voice_assistant() -> None:
    for path in Path(devices.__file__).parent.glob("*.py"):
        names = {node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)}
        assert not [name for name in names if "voice_assistant" in name]
    async with FakeDevice(entities=[WAKE_MODEL, ACTION, SWITCH, BUTTON], states=[_says("a 1")]) as device:
        async with c.Connection(device.address, port=device.port) as connection:
            await connection.state()
            await connection.values()
            await connection.call("prompted_take", phrase="hey", seconds=1)
            await connection.press("false_wake")
            await connection.switch("capture", on=False)
        assert set(device.received) - {"DisconnectRequest"} == {  # a goodbye that takes a second is left out
            "HelloRequest", "DeviceInfoRequest", "ListEntitiesRequest", "SubscribeStatesRequest",
            "ExecuteServiceRequest", "ButtonCommandRequest", "SwitchCommandRequest",
        }  # fmt: skip


async def test_a_device_that_restarts_is_back_when_it_answers_again() -> None:
    async with FakeDevice(entities=[WAKE_MODEL], states=[_says("a 1")]) as device:
        was = await c.read_state(device.address, port=device.port)
        seen: list[Progress] = []

        async def restart(build: str) -> None:
            await asyncio.sleep(0.3)
            await device.stop()
            await asyncio.sleep(0.5)
            device.info, device.states = {"compilation_time": build}, [_says("b 2")]
            await device.start()

        for build in ("build 2", "build 1"):  # the second time it comes back with what it had
            restarting = asyncio.create_task(restart(build))
            state = await c.wait_until_back(
                device.address, port=device.port, timeout_s=30.0, was=was, report=seen.append
            )
            await restarting
            assert (state.build_time, state.wake_model) == (build, "b 2")
            was = state
        assert seen[-1].message.endswith("is back")
        assert all(0 <= step.done <= step.total == 30.0 and step.unit == "s" for step in seen)


async def test_a_device_that_was_never_there_is_back_as_soon_as_it_answers() -> None:
    async with FakeDevice() as device:
        assert (await c.wait_until_back(device.address, port=device.port, timeout_s=30.0)).name == "kitchen"


async def test_a_device_that_stays_up_is_looked_at_after_a_while() -> None:
    async with FakeDevice() as device:
        was = await c.read_state(device.address, port=device.port)
        started = time.monotonic()
        state = await c.wait_until_back(device.address, port=device.port, timeout_s=30.0, was=was, settle_s=0.6)
        assert state == was
        assert 0.5 < time.monotonic() - started < 8


async def test_a_device_that_does_not_come_back_is_given_up() -> None:
    device = FakeDevice()
    device.port = host_device.free_port()
    started = time.monotonic()
    with pytest.raises(DeviceUnreachableError, match="did not come back within 1 s"):
        await c.wait_until_back(device.address, port=device.port, timeout_s=1.0)
    assert time.monotonic() - started < 12
    async with FakeDevice(key=KEY) as device:
        with pytest.raises(DeviceRefusedError):
            await c.wait_until_back(device.address, port=device.port, timeout_s=5.0, settle_s=0.5)


# --- what is known, joined with what is there ------------------------------------------------------------------------


def _found(name: str, **changes: Any) -> network.Found:
    told = {field.name: "" for field in dataclasses.fields(network.Found)}
    return network.Found(**{**told, "name": name, "address": "10.0.0.9", "port": 6053, "encrypted": False, **changes})


async def test_a_survey_joins_what_is_known_announced_and_said(project: Project) -> None:
    async with (
        FakeDevice(name="kitchen", entities=[WAKE_MODEL], states=[_says("hey_kitchen 1a2b3c4d")]) as kitchen,
        FakeDevice(name="hall", hangs_at=pb.HelloRequest) as hall,
        FakeDevice(name="attic") as attic,
    ):
        silent = {"template": "a", "address": "127.0.0.1", "api_key": ""}
        for device in (
            Device(name="kitchen", port=kitchen.port, friendly_name="Our kitchen", **silent),
            Device(name="hall", port=hall.port, **silent),
            Device(name="bath", template="a", address="127.0.0.1", api_key="no_such_secret"),
            Device(name="cellar", port=attic.port, **silent),
            Device(name="shed", port=host_device.free_port(), **silent),
        ):
            known.add_device(project, device)

        async def discover() -> list[network.Found]:
            return [
                _found("kitchen", esphome_version="2026.6.5", mac="AA"),
                _found("shed"),
                _found("porch", friendly_name="Porch", encrypted=True),
                _found("porch", address="10.0.0.10"),
            ]

        started = time.monotonic()
        rows = {row.name: row for row in await devices.survey(project, ask_s=4.0, discover=discover)}
        assert time.monotonic() - started < 15
    assert list(rows) == ["kitchen", "hall", "bath", "cellar", "shed", "porch"]
    first = rows["kitchen"]
    assert (first.known, first.found, first.reachable, first.why_not) == (True, True, True, "")
    assert (first.wake_model, first.esphome_version, first.friendly_name) == (
        "hey_kitchen 1a2b3c4d",
        "2026.10.0",
        "Our kitchen",
    )
    assert "does not answer" in rows["hall"].why_not
    assert "no_such_secret" in rows["bath"].why_not or "secrets.yaml" in rows["bath"].why_not
    assert "attic" in rows["cellar"].why_not
    assert "10.0.0.9" in rows["shed"].why_not
    assert not any(rows[name].reachable for name in ("hall", "bath", "shed", "porch"))
    porch = rows["porch"]
    assert (porch.known, porch.found, porch.address, porch.encrypted) == (False, True, "10.0.0.9", True)
    assert "several" in porch.why_not


async def test_a_survey_asks_a_device_without_an_address_where_it_announces_itself(project: Project) -> None:
    async def discover() -> list[network.Found]:
        await asyncio.sleep(0.2)
        return [_found("kitchen", address="127.0.0.1")]

    async with FakeDevice() as device:
        known.add_device(project, Device(name="kitchen", template="a", port=device.port, api_key=""))
        known.add_device(project, Device(name="mwwtest-nobody", template="a", api_key=""))
        kitchen, nobody = await devices.survey(project, ask_s=4.0, discover=discover)
    assert (kitchen.reachable, kitchen.address) == (True, "127.0.0.1")
    assert not nobody.reachable
    assert "mwwtest-nobody.local" in nobody.why_not


async def test_a_survey_without_multicast_still_asks_the_known(project: Project) -> None:
    async def discover() -> list[network.Found]:
        raise DeviceUnreachableError("no network")

    async with FakeDevice() as device:
        known.add_device(
            project, Device(name="kitchen", template="a", address="127.0.0.1", port=device.port, api_key="")
        )
        assert [row.reachable for row in await devices.survey(project, ask_s=20.0, discover=discover)] == [True]


# --- the connection, to a real device --------------------------------------------------------------------------------

REAL_DEVICE = """
esphome:
  name: kitchen
  friendly_name: Kitchen Satellite
  project: {{name: mww.test, version: "1.2"}}
host:
  mac_address: "62:23:45:AF:B3:DD"
logger:
api:
  port: {port}
  reboot_timeout: 0s
  actions:
    - action: prompted_take
      variables: {{phrase: string, seconds: int, loud: bool, level: float, names: "string[]"}}
      then:
        - text_sensor.template.publish:
            id: said
            state: !lambda |-
              return phrase + " " + to_string(seconds) + (loud ? " loud " : " soft ") + to_string(int(level * 100)) +
                " " + to_string(names.size());
text_sensor:
  - {{platform: template, name: Wake model, id: wake_model_text, update_interval: never}}
  - {{platform: template, name: Said, id: said}}
interval:
  - interval: 24h
    then:
      - text_sensor.template.publish:
          id: wake_model_text
          state: hey_kitchen 1a2b3c4d, canary hey_hall 99aabbcc
sensor:
  - {{platform: template, name: Listening, lambda: "return 2.5;", update_interval: 1s, unit_of_measurement: h}}
  - {{platform: template, name: Nothing yet}}
switch:
  - {{platform: template, name: Capture wake audio, optimistic: true}}
button:
  - platform: template
    name: False wake
    on_press: [{{text_sensor.template.publish: {{id: said, state: pressed}}}}]
select:
  - {{platform: template, name: Sensitivity, options: [slightly, very], optimistic: true, initial_option: very}}
"""


@needs_device
@host_build.needs_compiler
async def test_a_real_device_is_read_told_what_to_do_and_there_again_after_a_restart(tmp_path: Path) -> None:
    # one test, so that one worker builds it
    port = host_device.free_port()
    program = await asyncio.to_thread(host_device.make, tmp_path, "kitchen", REAL_DEVICE.format(port=port))
    with host_device.HostDevice(program, api_port=port, home=tmp_path / "home") as device:
        await _tells_its_state_and_does_what_it_is_told(device)
        await _is_there_again_after_a_restart(device)
        await _is_told_from_one_with_a_key(device)


async def _tells_its_state_and_does_what_it_is_told(real_device: host_device.HostDevice) -> None:
    async with c.Connection("127.0.0.1", port=real_device.api_port) as connection:
        state = await connection.state()
        assert (state.name, state.friendly_name, state.mac) == ("kitchen", "Kitchen Satellite", "62:23:45:AF:B3:DD")
        assert (state.project_name, state.project_version) == ("mww.test", "1.2")
        assert state.wake_model == "hey_kitchen 1a2b3c4d, canary hey_hall 99aabbcc"
        assert re.match(r"20\d\d\.\d+\.\d+", state.esphome_version)
        assert state.build_time
        entities = {entity.object_id: entity for entity in await connection.entities()}
        assert entities["listening"] == c.Entity(object_id="listening", name="Listening", kind="sensor", unit="h")
        assert entities["sensitivity"].options == ("slightly", "very")
        assert {entities[name].kind for name in ("capture_wake_audio", "false_wake", "wake_model")} == {
            "switch", "button", "text_sensor",
        }  # fmt: skip
        values = await connection.values()
        assert values["sensitivity"] == "very"
        assert values["capture_wake_audio"] is False
        assert values["nothing_yet"] is None
        assert await connection.wait_for("listening", lambda value: value is not None) == 2.5

        assert await connection.actions() == {
            "prompted_take": {
                "phrase": "string", "seconds": "int", "loud": "bool", "level": "float", "names": "string_array",
            }
        }  # fmt: skip
        await connection.call("prompted_take", phrase="hey küche", seconds=-3, loud=True, level=0.5, names=["a", "b"])
        assert await connection.wait_for("said", bool) == "hey küche -3 loud 50 2"
        await connection.press("false_wake")
        await connection.wait_for("said", lambda value: value == "pressed")
        await connection.switch("capture_wake_audio", on=True)
        await connection.wait_for("capture_wake_audio", lambda value: value is True)
        with pytest.raises(InputError, match="string_array"):
            await connection.call("prompted_take", phrase="a", seconds=1, loud=True, level=1, names=[1])


async def _is_there_again_after_a_restart(real_device: host_device.HostDevice) -> None:
    async with c.Connection("127.0.0.1", port=real_device.api_port) as connection:
        was = await connection.state()
        waiting = asyncio.create_task(
            c.wait_until_back("127.0.0.1", port=real_device.api_port, timeout_s=60.0, was=was, settle_s=60.0)
        )
        await asyncio.sleep(1.0)
        await asyncio.to_thread(real_device.stop)
        with pytest.raises(DeviceUnreachableError):
            await c.read_state("127.0.0.1", port=real_device.api_port, timeout_s=1.0)
        await asyncio.to_thread(real_device.start)
        assert await waiting == was
        assert await connection.state() == was
        await connection.press("false_wake")
        await connection.wait_for("said", lambda value: value == "pressed")


async def _is_told_from_one_with_a_key(real_device: host_device.HostDevice) -> None:
    with pytest.raises(DeviceRefusedError, match="no encryption"):
        await c.read_state("127.0.0.1", port=real_device.api_port, api_key=KEY_TEXT)
