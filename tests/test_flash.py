"""A failed step names its true cause and the way out, shows no secret, and leaves device and records telling the truth.

The uploads are those of the real ``esphome upload`` against a receiver that speaks the device's side.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import toy_wake
from host_device import free_port
from ota_receiver import OtaReceiver

from mww_ha import deploy, store
from mww_ha.deploy import esphome, flash, local, preflight
from mww_ha.deploy.backend import Firmware
from mww_ha.deploy.render import RenderResult
from mww_ha.devices import network
from mww_ha.errors import (
    ConfigError,
    DataError,
    DeviceRefusedError,
    DeviceUnreachableError,
    FlashError,
    MissingDependencyError,
    MwwError,
    OfflineError,
    StorageError,
    ToolError,
)
from mww_ha.schema import Device, Flash, Progress, no_progress

COMMAND = esphome.find_esphome() or []
PASSWORD = "s3cret pass-word"
IMAGE = bytes(range(256)) * 2400
OLD = b"the firmware before"


def _write_host(folder: Path, name: str, port: int, extra: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "secrets.yaml").write_text(f"mww_ota_password: {json.dumps(PASSWORD)}\n")
    path = folder / f"{name}.yaml"
    path.write_text(
        f"""
esphome:
  name: {name}
host:
  mac_address: "62:23:45:AF:B3:DD"
logger:
api:
ota:
  - platform: esphome
    port: {port}
    password: !secret mww_ota_password
{extra}"""
    )
    return path


def _put_image(folder: Path, name: str) -> None:
    """A build step for an upload whose firmware nobody starts."""
    place = folder / ".esphome" / "build" / name / ".pioenvs" / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "program").write_bytes(IMAGE)


@dataclass(frozen=True)
class Sender:
    """A compiled device, what sends its firmware, and where it goes."""

    backend: local.LocalEsphome
    firmware: Firmware
    port: int

    def send(self, failure: str = "", *, password: str = PASSWORD) -> tuple[list[Progress], OtaReceiver]:
        heard: list[Progress] = []
        with OtaReceiver(self.port, password=password, failure=failure, image=OLD) as receiver:
            self.backend.upload(self.firmware, heard.append)
        return heard, receiver


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Sender:
    port = free_port()
    path = _write_host(tmp_path_factory.mktemp("sender"), "kitchen", port)
    firmware = Firmware(
        device=Device(name="kitchen", template="host"), yaml_path=path, target="127.0.0.1", hidden=(PASSWORD,)
    )
    backend = local.LocalEsphome(build=_put_image)
    build = backend.compile(firmware, no_progress)
    assert build.firmware_bytes == len(IMAGE)
    assert build.build_time[:2] == "20"
    assert build.esphome_version == esphome.esphome_version(backend.command, 60)
    return Sender(backend, firmware, port)


# --- sending ------------------------------------------------------------------------------------------------------


def test_an_upload_that_works_shows_its_progress(sender):
    heard, receiver = sender.send()
    assert receiver.sessions == ["taken"]
    assert receiver.image == IMAGE
    shares = [p.done for p in heard]
    assert shares == sorted(shares)
    assert len(shares) > 20
    assert shares[-1] == 100
    assert PASSWORD not in str(heard)


@pytest.mark.parametrize(
    ("failure", "error", "message", "way_out"),
    [
        ("no partition space", FlashError, "does not fit into the partition", "flash once by cable"),
        ("no partition", FlashError, "does not fit into the partition", "flash once by cable"),
        ("cannot prepare", FlashError, "cannot make room", "restart the device"),
        ("md5", FlashError, "arrived damaged", "try again"),
        ("write error", FlashError, "could not write", "restart the device"),
        ("cannot finish", FlashError, "refuses to start", "another chip or board"),
        ("drops in the middle", DeviceUnreachableError, r"dropped while sending, at [1-9]\d %", "access point"),
        ("closes after features", DeviceUnreachableError, "before it asked for the password", "ESPHome 2026.9"),
    ],
)
def test_each_failure_of_an_upload_says_what_happened_and_what_to_do(sender, failure, error, message, way_out):
    with pytest.raises(error, match=message) as caught:
        sender.send(failure)
    assert type(caught.value) is error
    assert way_out in caught.value.hint
    assert "kitchen" in caught.value.message
    assert PASSWORD not in str(caught.value)


def test_a_device_that_takes_only_encrypted_updates_is_told_from_a_bad_connection(sender):
    with pytest.raises((DeviceRefusedError, DeviceUnreachableError)) as caught:
        sender.send("requires encryption")
    knows = esphome.version_key(esphome.esphome_version(sender.backend.command, 60)) >= (2026, 9)
    assert ("takes only encrypted updates" in caught.value.message) is knows
    assert "encrypted" in str(caught.value)


def test_a_wrong_password_is_named_and_not_shown(sender):
    with pytest.raises(DeviceRefusedError, match="refuses the OTA password") as caught:
        sender.send(password="the one that the device knows")
    assert "mww_ota_password" in caught.value.hint
    assert PASSWORD not in str(caught.value)


def test_a_connection_that_ends_when_all_was_sent_leaves_the_verdict_to_the_verification(sender):
    heard, receiver = sender.send("drops at the end")
    assert receiver.image == IMAGE
    assert "ended after the device had all of it" in heard[-1].message


def test_nothing_listening_is_said_with_address_and_port(sender):
    with pytest.raises(DeviceUnreachableError, match=f"takes no update at 127.0.0.1 port {sender.port}"):
        sender.backend.upload(sender.firmware, no_progress)


def test_an_upload_that_stands_still_is_given_up(sender):
    for limit_s in (8, 24, 72):  # ESPHome may need that long to start
        impatient = dataclasses.replace(sender, backend=local.LocalEsphome(upload_timeout_s=limit_s))
        began = time.monotonic()
        with pytest.raises(DeviceUnreachableError, match=r"stood still at \d+ %") as caught:
            impatient.send("stalls")
        assert time.monotonic() - began < limit_s + 20
        if "stood still at 0 %" not in caught.value.message:
            break
    assert re.search(r"stood still at [1-9]\d %", caught.value.message)


def test_a_serial_port_that_is_not_there_is_seen_before_and_by_the_uploader(sender):
    firmware = dataclasses.replace(sender.firmware, target="/dev/ttyNothing7")
    with pytest.raises(DeviceUnreachableError, match="/dev/ttyNothing7 is not there"):
        sender.backend.preflight(firmware, no_progress)
    with pytest.raises(DeviceUnreachableError, match="serial port is not there"):
        sender.backend.upload(firmware, no_progress)


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        (
            "A fatal error occurred: This chip is ESP32, not ESP32-S3. Wrong chip argument?",
            DeviceRefusedError,
            "an ESP32,",
        ),
        ("Failed to connect to ESP32-S3: No serial data received.", DeviceUnreachableError, "does not answer"),
        ("Could not open /dev/ttyACM0, the port is busy or doesn't exist.", DeviceUnreachableError, "another program"),
        (
            "ERROR Device rejected the handshake; is the OTA encryption key correct?",
            DeviceRefusedError,
            "encryption key",
        ),
        (
            "ERROR Error resolving IP address of ['x.local']. Is it connected to WiFi?",
            DeviceUnreachableError,
            "resolved",
        ),
        ("Package download failed: (host='github.com', port=443): Max retries exceeded", OfflineError, "be fetched"),
        ("ERROR something new", FlashError, "something new"),
    ],
)
def test_what_needs_a_cable_or_a_key_to_fail_is_recognised_by_its_words(sender, said, error, message):
    caught = local.failure_of_upload(f"INFO ESPHome\n{said}\n", sender.firmware, 0)
    assert type(caught) is error
    assert message in caught.message
    assert caught.hint


# --- compiling ----------------------------------------------------------------------------------------------------


def _compile(path: Path, backend: local.LocalEsphome | None = None) -> None:
    firmware = Firmware(device=Device(name=path.stem, template="host"), yaml_path=path, target="", hidden=(PASSWORD,))
    (backend or local.LocalEsphome(build=_put_image)).compile(firmware, no_progress)


def test_an_id_of_the_users_that_is_also_ours_is_named_with_file_and_line(tmp_path):
    (tmp_path / "mww_ha").mkdir()
    (tmp_path / "mww_ha" / "ours.yaml").write_text(
        "text_sensor:\n  - {platform: template, id: wake_model, name: Wake model, update_interval: never}\n"
    )
    path = _write_host(
        tmp_path,
        "mine",
        8266,
        "packages:\n  ours: !include mww_ha/ours.yaml\n"
        "switch:\n  - platform: template\n    id: wake_model\n    name: Mine\n    optimistic: true\n",
    )
    line = path.read_text().splitlines().index("  - platform: template") + 1
    with pytest.raises(ConfigError, match="'wake_model' is used twice") as caught:
        _compile(path)
    assert f"mine.yaml line {line} (switch.template)" in caught.value.message
    assert "text_sensor" in caught.value.message
    assert "another id" in caught.value.hint


def test_a_secret_that_is_missing_is_named(tmp_path):
    path = _write_host(
        tmp_path, "kitchen", 8266, "web_server:\n  auth: {username: a, password: !secret web_password}\n"
    )
    with pytest.raises(ConfigError, match="has no web_password"):
        _compile(path)


def test_a_disk_that_is_full_is_said_by_name(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "none", str(small)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs a file system of its own")
    try:
        with pytest.raises(StorageError, match="disk is full") as caught:
            _compile(_write_host(small, "kitchen", 8266))
        assert "not touched" in caught.value.hint
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_file_that_may_not_grow_is_a_full_disk_too(tmp_path):
    command = ["bash", "-c", 'ulimit -f 16; exec "$@"', "bash", *(esphome.find_esphome() or [])]
    with pytest.raises(StorageError, match="disk is full"):
        _compile(_write_host(tmp_path, "kitchen", 8266), local.LocalEsphome(command, build=_put_image))


def test_too_little_disk_is_said_before_anything_is_compiled(sender):
    backend = local.LocalEsphome(build=_put_image, free_bytes=lambda _: 100_000_000)
    with pytest.raises(StorageError, match=r"95.4 MiB free .* about 700.0 MiB needed"):
        backend.preflight(sender.firmware, no_progress)


def test_a_compiler_that_is_killed_points_at_memory(tmp_path):
    path = _write_host(tmp_path, "kitchen", 8266)
    with pytest.raises(ToolError, match="ended from outside") as caught:
        _compile(path, local.LocalEsphome(["bash", "-c", "kill -9 $$"]))
    assert "out of memory" in caught.value.hint


def test_a_compilation_that_takes_too_long_is_stopped_with_its_children(tmp_path):
    path = _write_host(tmp_path, "kitchen", 8266)
    command = ["bash", "-c", f"sleep 600 & echo $! > {tmp_path}/pid; wait"]
    with pytest.raises(ToolError, match=r"did not end within 3 s"):
        _compile(path, local.LocalEsphome(command, compile_timeout_s=3))
    pid = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 30
    while _is_alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    assert not _is_alive(pid)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("said", "error", "message"),
    [
        (
            "ERROR Failed to download from all mirrors:\n  https://github.com/x\n    no",
            OfflineError,
            "could not be fetched: https://github.com/x",
        ),
        (
            "At http://a.b\nHTTPSConnectionPool(host='github.com', port=443): Max retries exceeded with url: /x/y.zip",
            OfflineError,
            "could not be fetched: https://github.com/x/y.zip",
        ),
        ("Read https://bit.ly/help\nFailed to download https://a.b/c.", OfflineError, "fetched: https://a.b/c"),
        ("HTTPClientError: Temporary failure in name resolution", OfflineError, "could not be fetched"),
        ("xtensa-g++: fatal error: Killed signal terminated program cc1plus", ToolError, "out of memory"),
        ("collect2: fatal error: ld terminated with signal 9 [Killed]", ToolError, "out of memory"),
        ("cc1plus: error: /x.o: No space left on device", StorageError, "disk is full"),
        (
            "Error: The program size (9000000 bytes) is greater than maximum allowed (8126464 bytes)",
            FlashError,
            "9000000 bytes, its slot in the flash memory holds 8126464",
        ),
        ("Error: Detected a whitespace character in project paths.", ConfigError, "a blank in the path"),
        ("/bin/sh: 1: g++: not found", MissingDependencyError, "g++"),
        ("INFO Reading\nERROR something new", ToolError, "something new"),
    ],
)
def test_what_only_a_real_toolchain_says_is_recognised_by_its_words(sender, said, error, message):
    caught = local.failure_of_compile(said, 1, sender.firmware)
    assert type(caught) is error
    assert message in caught.message
    assert caught.hint


def test_without_esphome_the_other_ways_are_named(sender):
    with pytest.raises(MissingDependencyError, match="not installed") as caught:
        local.LocalEsphome([], build=_put_image).preflight(sender.firmware, no_progress)
    assert "pip install esphome" in caught.value.hint
    assert "builder" in caught.value.hint


S3 = "esp32: {variant: esp32s3, framework: {type: esp-idf}}"


def _look_at(sender: Sender, folder: Path, board: str, is_reachable: Callable[[str], bool]) -> None:
    """What the preflight says of a generated device, on a machine with room enough."""
    folder.mkdir(exist_ok=True)
    path = folder / "one.yaml"
    path.write_text(f"esphome: {{name: one}}\n{board}\n")
    code, output = esphome.run_esphome([*COMMAND, "compile", "--only-generate", path.name], folder, 60)
    assert code == 0, output
    firmware = dataclasses.replace(sender.firmware, yaml_path=path)
    plenty = {"free_bytes": lambda _: 9 << 30, "free_memory": lambda: None}
    local.LocalEsphome(is_reachable=is_reachable, **plenty).preflight(firmware, no_progress)


def test_a_path_with_a_blank_is_refused_where_platformio_builds(sender, tmp_path):
    folder = tmp_path / "my house"
    by_platformio = esphome.version_key(esphome.esphome_version(COMMAND, 60)) < (2026, 10)
    refused = pytest.raises(ConfigError, match="a blank in the path") if by_platformio else contextlib.nullcontext()
    with refused:
        _look_at(sender, folder, S3, lambda _: True)
    _look_at(sender, folder, "host:", lambda _: True)


def test_a_first_compilation_without_internet_is_refused_before_it_begins(sender, tmp_path, monkeypatch):
    for name in ("HOME", "XDG_CACHE_HOME", "ESPHOME_ESP_IDF_PREFIX", "PLATFORMIO_CORE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    asked: list[str] = []

    def nobody(host: str) -> bool:
        asked.append(host)
        return False

    with pytest.raises(OfflineError, match=r"no ESP32 toolchain is here, and github\.com, .* does not answer"):
        _look_at(sender, tmp_path, S3, nobody)
    _look_at(sender, tmp_path, S3, lambda _: True)
    _look_at(sender, tmp_path, "host:", nobody)
    (tmp_path / "PLATFORMIO_CORE_DIR" / "packages" / "toolchain-xtensa-esp-elf").mkdir(parents=True)
    _look_at(sender, tmp_path, S3, nobody)
    assert asked == ["github.com"]


def test_of_a_long_dump_of_a_refused_yaml_the_complaint_is_shown(tmp_path):
    many = "\n".join(f"      - offset: {n}" for n in range(40))
    path = _write_host(
        tmp_path,
        "kitchen",
        8266,
        f"sensor:\n  - platform: template\n    name: One\n    filters:\n{many}\n    update_interval: soon\n",
    )
    code, output = esphome.run_esphome([*COMMAND, "config", path.name], tmp_path, 60)
    assert code != 0
    assert len(output.splitlines()) > 30
    shown = esphome.relevant_lines(output).splitlines()
    assert any("soon" in line for line in shown)
    assert any(line.startswith("  sensor.template: [source kitchen.yaml:") for line in shown)
    assert len(shown) < 20
    told = esphome.relevant_lines("\n".join(f"line {n}" for n in range(40))).splitlines()
    assert told == [f"  line {n}" for n in range(30)]  # no dump: as it comes


def test_a_host_that_does_not_answer_is_given_up_soon_and_a_proxy_is_not_judged(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    began = time.monotonic()
    assert not preflight.answers_soon("mwwtest-nobody.invalid", 1.0)
    assert not preflight.answers_soon("192.0.2.1", 1.0)  # nobody has this address
    assert time.monotonic() - began < 10  # a system's own limits are minutes
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert preflight.answers_soon("mwwtest-nobody.invalid", 1.0)


# --- ESPHome as a child -------------------------------------------------------------------------------------------


def test_a_secret_that_comes_in_two_pieces_is_not_shown(tmp_path):
    script = (
        "import sys, time\n"
        "for piece in ('key is s3cr', 'et pass-', 'word now\\n', 'half \\xe2\\x82', '\\xac\\r',"
        " 'Uploading: [= ] 40% \\r'):\n"
        "    sys.stdout.buffer.write(piece.encode('latin-1')); sys.stdout.flush(); time.sleep(0.05)\n"
    )
    lines: list[str] = []
    code, output = esphome.run_esphome(
        [sys.executable, "-c", script], tmp_path, 20, on_line=lines.append, hidden=(PASSWORD,)
    )
    assert code == 0
    assert lines == ["key is *** now", "half €", "Uploading: [= ] 40% "]
    assert PASSWORD in output  # what is returned is for the caller to look through


def test_what_opens_home_assistant_is_not_handed_to_esphome(tmp_path, monkeypatch):
    monkeypatch.setenv("SUPERVISOR_TOKEN", "a-token-of-the-supervisor")
    command = [sys.executable, "-c", "import os; print(dict(os.environ))"]
    code, output = esphome.run_esphome(command, tmp_path, 20)
    assert code == 0
    assert "PYTHONUTF8" in output
    assert "a-token-of-the-supervisor" not in output


@pytest.mark.parametrize("secret", ['pa"ss\\word', "grüße an alle", "with space & %", "two'quotes''x"])
def test_a_secret_is_hidden_however_it_is_quoted(secret):
    forms = {
        secret,
        json.dumps(secret),
        repr(secret),
        "'" + secret.replace("'", "''") + "'",
        "".join(f"\\{b:03o}" if b > 126 or chr(b) in '"\\' else chr(b) for b in secret.encode()),
    }
    for form in forms:
        shown = esphome.redact(f"before {form} after", [secret])
        assert "***" in shown, form
        assert "before " in shown
        assert " after" in shown
        assert secret not in shown
        assert form.strip("'\"") not in shown


@pytest.mark.parametrize(
    ("line", "done", "total", "message"),
    [
        ("Uploading: [=====     ] 98% ", 98, 100, "sending"),
        ("Writing at 0x00010000... (3 %)", 3, 100, "sending"),
        ("Writing at 0x00010000 [====>   ]  45.5% 100/200 bytes...", 45.5, 100, "sending"),
        ("[123/456] Building CXX object main.o", 123, 456, "Building CXX object main.o"),
        ("Compiling .pioenvs/k/src/main.cpp.o", 0, 0, "compiling main.cpp.o"),
        ("Tool Manager: Downloading toolchain 40%", 0, 0, "Downloading toolchain 40%"),
    ],
)
def test_progress_is_read_from_what_the_tools_write(line, done, total, message):
    progress = esphome.read_progress(line, "upload")
    assert progress is not None
    assert (progress.done, progress.total, progress.message) == (done, total, message)
    assert esphome.read_progress("INFO Reading configuration 98%", "upload") is None


def test_a_configured_esphome_comes_first_and_is_refused_when_it_is_none(tmp_path):
    program = tmp_path / "env" / "bin" / "esphome"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\necho Version: 2031.1.0\n")
    with pytest.raises(ConfigError, match="cannot be started"):
        esphome.find_esphome(str(program))
    program.chmod(0o755)
    for given in (program, tmp_path / "env"):
        command = esphome.find_esphome(str(given))
        assert command == [str(program)]
        assert esphome.esphome_version(command, 20) == "2031.1.0"
    with pytest.raises(ConfigError, match="is not there"):
        esphome.find_esphome(str(tmp_path / "nothing"))


# --- the whole way ------------------------------------------------------------------------------------------------


def render_host(project, device, *, manifest_path, ota_port, **_):
    """Renders as ``deploy.render_device`` would, for a device that nobody asks."""
    stem = manifest_path.stem
    said = json.dumps(stem.replace("-", " "))
    sensor = f"text_sensor:\n  - {{platform: template, name: Wake model, lambda: 'return {{{said}}};'}}\n"
    path = _write_host(project.esphome_dir, device.name, ota_port, sensor)
    return RenderResult(
        yaml_path=path,
        checked=False,
        esphome_version="",
        messages=(),
        wake_model=stem.replace("-", " "),
        models=(stem,),
    )


def flash_here(root: str, ota_port: int, **options: object) -> Flash:
    """Flashes the device ``kitchen`` of a project, whose API nobody answers; also what the child processes do."""
    project = store.open_project(Path(root))
    device = Device(name="kitchen", template="host", address="127.0.0.1", port=1, api_key="")
    model = next(iter(project.models_dir.glob("*.json")))
    return flash.flash(
        project,
        device,
        manifest_path=model,
        backend=local.LocalEsphome(build=_put_image),
        force=True,
        render=lambda *a, **k: render_host(*a, **{**k, "ota_port": ota_port}),
        return_timeout_s=0.5,
        **options,
    )


@pytest.fixture
def household(project: store.Project) -> store.Project:
    made = toy_wake.write_model(project.root / "made")
    stem = store.model_file_stem("hey_kitchen", made.with_suffix(".tflite").read_bytes())
    project.models_dir.mkdir()
    shutil.copy(made.with_suffix(".tflite"), project.models_dir / f"{stem}.tflite")
    document = {**json.loads(made.read_text()), "model": f"{stem}.tflite", "wake_word": "hey kitchen"}
    (project.models_dir / f"{stem}.json").write_text(json.dumps(document))
    return project


@pytest.fixture
def sending(household: store.Project) -> Iterator[tuple[subprocess.Popen[str], OtaReceiver]]:
    """A child process in the middle of sending to a device that takes its time."""
    port = free_port()
    with OtaReceiver(port, password=PASSWORD, image=OLD, block_delay_s=0.2) as receiver:
        code = f"import test_flash; test_flash.flash_here({str(household.root)!r}, {port})"
        path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
        child = subprocess.Popen(
            [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        until = time.monotonic() + 120
        while receiver.received < 100_000 and time.monotonic() < until and child.poll() is None:
            time.sleep(0.02)
        assert receiver.received >= 100_000, child.communicate()[1]
        yield child, receiver
        child.kill()
        child.wait()
        assert child.stderr is not None
        child.stderr.close()


def test_an_interrupt_in_the_middle_of_an_upload_leaves_the_old_firmware_and_a_true_record(household, sending):
    child, receiver = sending
    with pytest.raises(FlashError, match=f"being flashed already, by process {child.pid} since 20"):
        flash_here(str(household.root), receiver.port)
    assert [row.outcome for row in household.catalogue.flashes("kitchen")] == ["running"]

    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode != 0
    assert "JobStoppedError: stopped while sending to kitchen, at " in said
    assert "stays bootable" in said
    until = time.monotonic() + 30
    while not receiver.sessions and time.monotonic() < until:
        time.sleep(0.02)
    assert receiver.sessions[0].startswith("gone after")
    assert receiver.image == OLD
    (row,) = household.catalogue.flashes("kitchen")
    assert (row.outcome, row.step) == ("stopped", "upload")
    assert "stays bootable" in row.message
    assert flash.current_flash(household, "kitchen") is None


def test_a_program_that_is_killed_leaves_a_row_that_the_next_one_understands(household, sending):
    child, _ = sending
    child.kill()
    child.wait()
    (row,) = household.catalogue.flashes("kitchen")
    assert (row.outcome, row.step) == ("running", "upload")
    flash.settle_interrupted(household, "kitchen")
    (row,) = household.catalogue.flashes("kitchen")
    assert (row.outcome, row.step) == ("stopped", "upload")
    assert "without a word during upload" in row.message
    assert "keeps running" in row.message


@pytest.fixture
def with_wifi(household: store.Project) -> store.Project:
    """A project whose secrets were made by rendering, and its Wi-Fi filled in."""
    model = next(iter(household.models_dir.glob("*.json")))
    deploy.render_device(household, Device(name="kitchen", template="generic-s3"), manifest_path=model, check=False)
    path = household.esphome_dir / "secrets.yaml"
    filled = path.read_text().replace("your-wifi-name", "Hedgehog").replace("your-wifi-password", "prickly-thing")
    path.write_text(filled)
    return household


def test_a_real_board_is_rendered_generated_and_found_to_carry_its_model(with_wifi):
    port = free_port()
    device = Device(name="kitchen", template="generic-s3", address="127.0.0.1", port=port)
    model = next(iter(with_wifi.models_dir.glob("*.json")))
    given = {"manifest_path": model, "backend": local.LocalEsphome(build=_put_s3_image)}
    with pytest.raises(DeviceUnreachableError, match="kitchen cannot be asked what it runs"):
        flash.flash(with_wifi, device, **given)
    assert flash.flash(with_wifi, device, **given, dry_run=True, force=True).outcome == "planned"
    with pytest.raises(DeviceUnreachableError, match=r"takes no update at 127\.0\.0\.1 port 3232"):
        flash.flash(with_wifi, device, **given, force=True)
    rows = with_wifi.catalogue.flashes("kitchen")
    assert [(row.outcome, row.step) for row in rows] == [("failed", "upload"), ("failed", "preflight")]
    assert rows[0].wake_model == model.stem.replace("-", " ")
    assert "prickly-thing" not in str(rows)


def _put_s3_image(folder: Path, name: str) -> None:
    generated = local.read_project(folder / f"{name}.yaml")
    assert generated is not None
    generated.firmware_path.parent.mkdir(parents=True, exist_ok=True)
    generated.firmware_path.write_bytes(IMAGE)
    if generated.firmware_path.parent.name == name:  # PlatformIO's layout
        (generated.firmware_path.parent / "firmware.ota.bin").write_bytes(IMAGE)


def test_a_board_is_not_flashed_while_its_wifi_is_not_filled_in(household):
    device = Device(name="kitchen", template="generic-s3", address="127.0.0.1", port=1)
    model = next(iter(household.models_dir.glob("*.json")))
    backend = local.LocalEsphome(build=_put_s3_image)
    with pytest.raises(ConfigError, match="wifi_password, wifi_ssid"):
        flash.flash(household, device, manifest_path=model, backend=backend, force=True)


def test_an_esphome_that_is_too_old_for_the_model_is_named_before_anything_is_written(household):
    device = Device(name="kitchen", template="generic-s3", address="127.0.0.1", port=1)
    model = next(iter(household.models_dir.glob("*.json")))
    document = json.loads(model.read_text())
    document["micro"]["minimum_esphome_version"] = "2099.1.0"
    model.write_text(json.dumps(document))
    with pytest.raises(ToolError, match=r"too old: .* needs 2099\.1\.0"):
        flash.flash(household, device, manifest_path=model, backend=local.LocalEsphome(build=_put_s3_image))
    assert not household.esphome_dir.exists()


def test_a_package_needs_the_yaml_that_includes_it(with_wifi):
    device = Device(
        name="hall", template="own", address="127.0.0.1", port=1, api_key="", substitutions={"mic_id": "mic"}
    )
    model = next(iter(with_wifi.models_dir.glob("*.json")))
    given = {"manifest_path": model, "backend": local.LocalEsphome(build=_put_image), "force": True}
    with pytest.raises(ConfigError, match=r"devices\.yaml names none for hall") as caught:
        flash.flash(with_wifi, device, **given)
    assert "mww_ha/packages/hall.yaml" in caught.value.hint
    with pytest.raises(ConfigError, match=r"mine.yaml is missing"):
        flash.flash(with_wifi, dataclasses.replace(device, yaml="mine.yaml"), **given)


def test_a_yaml_that_leaves_our_package_out_is_not_sent(household):
    def render(project, device, *, manifest_path, **_):
        result = render_host(project, device, manifest_path=manifest_path, ota_port=8266)
        return dataclasses.replace(result, wake_model="hey_kitchen 99999999")

    device = Device(name="kitchen", template="host", address="127.0.0.1", port=1, api_key="")
    model = next(iter(household.models_dir.glob("*.json")))
    with pytest.raises(ConfigError, match="does not bring hey_kitchen 99999999 along"):
        flash.flash(
            household,
            device,
            manifest_path=model,
            backend=local.LocalEsphome(build=_put_image),
            force=True,
            render=render,
        )


def test_a_name_that_nobody_answers_to_costs_seconds_and_says_what_to_write(household):
    device = Device(name="kitchen", template="host", api_key="")
    model = next(iter(household.models_dir.glob("*.json")))
    began = time.monotonic()
    with pytest.raises(DeviceUnreachableError, match=r"kitchen\.local"):
        flash.flash(household, device, manifest_path=model, backend=local.LocalEsphome(build=_put_image))
    assert time.monotonic() - began < 15
    (row,) = household.catalogue.flashes("kitchen")
    assert (row.outcome, row.step) == ("failed", "preflight")


def test_a_dry_run_tells_everything_that_is_in_the_way_at_once(household):
    device = Device(name="mwwtest-nobody", template="generic-s3")
    model = next(iter(household.models_dir.glob("*.json")))
    backend = local.LocalEsphome(build=_put_s3_image)
    with pytest.raises(ConfigError, match="2 things are in the way") as caught:
        flash.flash(household, device, manifest_path=model, backend=backend, dry_run=True)
    for part in ("wifi_password, wifi_ssid", "mwwtest-nobody.local", "by cable first: --serial"):
        assert part in caught.value.message
    assert household.catalogue.flashes() == []


def _announced(address: str, mac: str) -> network.Found:
    told = {field.name: "" for field in dataclasses.fields(network.Found)}
    return network.Found(**{**told, "name": "kitchen", "address": address, "mac": mac, "port": 6053})


def test_which_of_two_devices_of_one_name_is_meant_has_to_be_said():
    one, other = _announced("10.0.0.8", "AA:BB:CC:DD:EE:01"), _announced("10.0.0.9", "AA:BB:CC:DD:EE:02")
    device = Device(name="kitchen", template="generic-s3")
    with pytest.raises(
        DeviceRefusedError, match=r"called kitchen: 10\.0\.0\.8 .*01\) and 10\.0\.0\.9 .*02\)"
    ) as caught:
        flash._find(device, lambda _: "10.0.0.8", lambda _: [one, other])
    assert "devices.yaml" in caught.value.hint
    assert flash._find(device, lambda _: "10.0.0.8", lambda _: [one]) == "10.0.0.8"
    meant = dataclasses.replace(device, address="10.0.0.9")
    assert flash._find(meant, lambda address: address, lambda _: [one, other]) == "10.0.0.9"


def test_a_device_that_is_flashed_by_cable_need_not_have_a_name_yet(with_wifi):
    device = Device(name="kitchen", template="generic-s3", serial="/dev/ttyNothing7")
    model = next(iter(with_wifi.models_dir.glob("*.json")))
    with pytest.raises(DeviceUnreachableError, match="the serial port /dev/ttyNothing7 is not there"):
        flash.flash(with_wifi, device, manifest_path=model, backend=local.LocalEsphome(build=_put_s3_image))
    rows = with_wifi.catalogue.flashes("kitchen")
    assert [(row.outcome, row.step) for row in rows] == [("failed", "preflight")]


def test_a_failed_attempt_leaves_what_was_verified_before_as_the_present_model(household):
    before = _row(household, "hey_kitchen-00000001", "verified", "record", 1)
    with pytest.raises(DeviceUnreachableError, match="takes no update"):
        flash_here(str(household.root), free_port())
    rows = household.catalogue.flashes("kitchen")
    assert [(row.outcome, row.step) for row in rows] == [("failed", "upload"), ("verified", "record")]
    assert flash.current_flash(household, "kitchen") == before
    assert rows[0].model == next(iter(household.models_dir.glob("*.json"))).stem
    assert rows[0].duration_s > 0


def test_a_model_that_is_none_is_refused_before_anything_is_touched(household, tmp_path):
    broken = tmp_path / "broken.json"
    broken.write_text('{"type": "micro", "version": 3}')
    with pytest.raises(MwwError, match="version is 3"):
        flash.flash(household, Device(name="kitchen", template="host"), manifest_path=broken)
    assert household.catalogue.flashes() == []
    assert not household.esphome_dir.exists()


def test_a_project_without_devices_or_models_says_what_to_do(project):
    with pytest.raises(DataError, match="names no device"):
        flash.flash_all(project)
    with pytest.raises(DataError, match="no exported model yet"):
        flash.flash_all(project, devices=[Device(name="kitchen", template="host")])


def _row(project: store.Project, model: str, outcome: str, step: str, second: int) -> Flash:
    row = Flash(
        id=f"{model}-{second}",
        device="kitchen",
        model=model,
        wake_model=model.replace("-", " "),
        backend="esphome",
        started_at=f"2026-01-01T00:00:{second:02}+00:00",
        outcome=outcome,
        step=step,
    )
    project.catalogue.put_flash(row)
    return row


def test_the_model_before_is_the_last_verified_one_that_is_not_the_present_one(project):
    with pytest.raises(DataError, match="nothing was flashed"):
        flash.earlier_flash(project, "kitchen")
    _row(project, "hey-aaaaaaaa", "verified", "record", 1)
    with pytest.raises(DataError, match="hey-aaaaaaaa is the first"):
        flash.earlier_flash(project, "kitchen")
    _row(project, "hey-bbbbbbbb", "verified", "record", 2)
    _row(project, "hey-bbbbbbbb", "verified", "record", 3)
    assert flash.earlier_flash(project, "kitchen").model == "hey-aaaaaaaa"
    _row(project, "hey-cccccccc", "failed", "upload", 4)  # it kept what it had
    assert flash.earlier_flash(project, "kitchen").model == "hey-aaaaaaaa"
    _row(project, "hey-cccccccc", "failed", "return", 5)  # it may run that one now
    assert flash.earlier_flash(project, "kitchen").model == "hey-bbbbbbbb"
    assert project.catalogue.flashes("other") == []


def test_each_backend_is_made_from_the_settings_and_says_which_one_is_missing(project, tmp_path):
    device = Device(name="kitchen", template="host")
    assert flash.backend_of(project, device).name == "esphome"
    for name, key in (("builder", "flash.builder_url"), ("handoff", "flash.handoff_dir")):
        with pytest.raises(ConfigError, match=f"{key} is empty"):
            flash.backend_of(project, dataclasses.replace(device, backend=name))
    with pytest.raises(ConfigError, match="'pigeon'"):
        flash.backend_of(project, dataclasses.replace(device, backend="pigeon"))
    settings = {"flash.builder_url": "http://127.0.0.1:6052", "flash.handoff_dir": str(tmp_path)}
    other = store.open_project(project.root, settings)
    assert flash.backend_of(other, dataclasses.replace(device, backend="builder")).delivers
    handoff = flash.backend_of(other, dataclasses.replace(device, backend="handoff"))
    assert (handoff.name, handoff.delivers) == ("handoff", False)
    other.catalogue.close()
