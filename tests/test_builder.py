"""What another machine's ESPHome builds is what was rendered here, and its failures are told without a password."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dashboards
import host_build
import host_device
import pytest
from aiohttp import web
from certificates import write_certificate
from dashboards import Recording, serve
from hypothesis import given, settings
from hypothesis import strategies as st

from mww_ha.deploy import esphome, handoff
from mww_ha.deploy.backend import Backend, Firmware
from mww_ha.deploy.builder import Builder
from mww_ha.deploy.dashboard import Timeouts, read_url
from mww_ha.deploy.owned import write_owned
from mww_ha.devices.connection import DeviceState, read_state
from mww_ha.errors import (
    ConfigError,
    DeviceRefusedError,
    DeviceUnreachableError,
    FlashError,
    MwwError,
    OfflineError,
    ToolError,
)
from mww_ha.schema import Device, Progress, no_progress

OTA_PASSWORD = "ota-word-8c1"
SECRETS = f"wifi_ssid: home\nmww_ota_password: {OTA_PASSWORD}\nmww_api_encryption_key: not-used-here\n"
QUICK = Timeouts(connect_s=10, answer_s=30, compile_s=60, upload_s=60, reconnect_s=5)

needs_classic = pytest.mark.skipif(
    not dashboards.has_classic_dashboard(), reason="no ESPHome up to 2026.6, which has a dashboard, is installed"
)
needs_device_builder = pytest.mark.skipif(
    not dashboards.has_device_builder(), reason="esphome-device-builder, for Python 3.12 and later, is not installed"
)


# --- a satellite of this machine --------------------------------------------------------------------------------


def write_satellite(folder: Path, wake_model: str, *, api_port: int, ota_port: int) -> Path:
    """What would be rendered for a satellite, but for the host platform: a YAML, a package of ours, secrets."""
    write_owned(
        folder / "mww_ha" / "base.yaml",
        f"""\
esphome:
  name: ${{name}}
host:
  mac_address: "62:23:45:AF:B3:DD"
logger:
api:
  port: {api_port}
ota:
  - platform: esphome
    port: {ota_port}
    password: !secret mww_ota_password
text_sensor:
  - platform: template
    name: "Wake model"
    id: wake_model
    lambda: return {{"${{wake_model_version}}"}};
""",
    )
    path = folder / "kitchen.yaml"
    write_owned(
        path,
        f'substitutions:\n  name: kitchen\n  wake_model_version: "{wake_model}"\n'
        "packages:\n  base: !include mww_ha/base.yaml\n",
    )
    (folder / "secrets.yaml").write_text(SECRETS)
    return path


def firmware(yaml_path: Path, target: str = "127.0.0.1", api_key: str = "") -> Firmware:
    return Firmware(
        device=Device(name="kitchen", template="generic-s3", api_key=api_key),
        yaml_path=yaml_path,
        target=target,
        hidden=(OTA_PASSWORD,),
    )


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def rendered(tmp_path: Path) -> Path:
    return write_satellite(tmp_path / "esphome", "a 1a2b3c4d", api_port=16053, ota_port=18082)


def state_when(api_port: int, wake_model: str) -> DeviceState:
    """What the device says once it says ``wake_model``."""
    until = time.monotonic() + 60
    while True:
        try:
            state = asyncio.run(read_state("127.0.0.1", port=api_port))
        except DeviceUnreachableError:
            state = None
        if state and state.wake_model == wake_model:
            return state
        assert time.monotonic() < until, state
        time.sleep(0.2)


# --- the classic dashboard, a real one --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def classic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address (with a login) and configuration folder of a classic dashboard that cannot fetch anything."""
    home = tmp_path_factory.mktemp("classic")
    (home / "config").mkdir()
    (home / "file").write_text("where PlatformIO wants a folder")
    environment = {"PLATFORMIO_CORE_DIR": str(home / "file" / "core")}
    with dashboards.classic(home / "config", home, login="me:p%40ss-word", environment=environment) as url:
        yield url.replace("me:p%40ss-word@", ""), home / "config"


def with_login(url: str, login: str = "me:p%2540ss-word") -> str:
    return url.replace("://", f"://{login}@")


@needs_classic
@host_build.needs_compiler
def test_a_classic_dashboard_uploads_what_was_written_into_its_folder(classic: tuple[str, Path], tmp_path: Path):
    url, folder = classic
    builder: Backend = Builder(with_login(url), folder=folder)
    api_port, ota_port = host_device.free_port(), host_device.free_port()
    command = esphome.find_esphome()
    assert command
    states: list[DeviceState] = []

    def build(wake_model: str) -> Firmware:
        """What the dashboard cannot do without the internet, by the system's compiler, in the dashboard's folder."""
        path = write_satellite(tmp_path / "esphome", wake_model, api_port=api_port, ota_port=ota_port)
        builder.preflight(firmware(path), no_progress)
        with pytest.raises(MwwError):
            builder.compile(firmware(path), no_progress)
        code, output = esphome.run_esphome([*command, "compile", "--only-generate", path.name], folder, 120)
        assert code == 0, output
        host_build.build(folder, "kitchen")
        return firmware(path)

    build("a 1a2b3c4d")
    program = folder / ".esphome" / "build" / "kitchen" / ".pioenvs" / "kitchen" / "program"
    first = tmp_path / "first"
    first.write_bytes(program.read_bytes())
    first.chmod(0o755)
    with host_device.HostDevice(first, api_port=api_port, home=tmp_path / "device"):
        states.append(state_when(api_port, "a 1a2b3c4d"))
        time.sleep(1.1)  # build times are told in seconds
        newer = build("a 99aabbcc")
        said: list[Progress] = []
        builder.upload(newer, said.append)
        states.append(state_when(api_port, "a 99aabbcc"))
    assert states[0].build_time != states[1].build_time
    percents = [p.done for p in said if p.unit == "%"]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert not any(OTA_PASSWORD in p.message or "ss-word" in p.message for p in said)

    (folder / "secrets.yaml").write_text(SECRETS.replace(OTA_PASSWORD, "not-the-devices"))
    (folder / ".esphome" / "storage").rename(folder / ".esphome" / "gone")  # with it goes the validated configuration
    with (
        host_device.HostDevice(first, api_port=api_port, home=tmp_path / "device"),
        pytest.raises(DeviceRefusedError, match="password"),
    ):
        builder.upload(newer, no_progress)
    with pytest.raises(DeviceUnreachableError, match="takes no update"):
        builder.upload(newer, no_progress)


@needs_classic
def test_a_classic_dashboards_failed_compilation_is_told_with_its_exit_code(
    classic: tuple[str, Path], rendered: Path, tmp_path: Path
):
    url, folder = classic
    said: list[Progress] = []
    with pytest.raises(ToolError, match=r"ESPHome dashboard at http://127\.0\.0\.1:\d+: .*exit code [12]") as failed:
        Builder(with_login(url), folder=folder).compile(firmware(rendered), said.append)
    assert "ss-word" not in str(failed.value)
    assert any("Generating C++ source" in p.message for p in said)
    assert (folder / "kitchen.yaml").read_bytes() == rendered.read_bytes()


@needs_classic
@pytest.mark.slow  # PlatformIO tries for a minute
def test_a_classic_dashboard_without_internet_says_that_something_could_not_be_fetched(rendered: Path, tmp_path: Path):
    (tmp_path / "config").mkdir()
    nowhere = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    with (
        dashboards.classic(tmp_path / "config", tmp_path / "home", environment=nowhere) as url,
        pytest.raises(OfflineError, match="could not be fetched"),
    ):
        Builder(url, folder=tmp_path / "config").compile(firmware(rendered), no_progress)


@needs_classic
def test_a_classic_dashboard_whose_folder_is_not_shared_needs_the_files_to_be_there(
    classic: tuple[str, Path], rendered: Path
):
    url, folder = classic
    for name in ("kitchen.yaml", "mww_ha", "secrets.yaml"):
        path = folder / name
        if path.exists():
            path.rename(folder.parent / f"{name}.{time.monotonic_ns()}")
    with pytest.raises(ConfigError, match="takes no models") as refused:
        Builder(with_login(url)).preflight(firmware(rendered), no_progress)
    assert "flash.handoff_dir" in refused.value.hint
    assert not (folder / "kitchen.yaml").exists()
    handoff.Handoff(folder).compile(firmware(rendered), no_progress)
    Builder(with_login(url)).preflight(firmware(rendered), no_progress)


@needs_classic
def test_a_folder_that_is_not_the_dashboards_is_noticed_before_it_compiles(
    classic: tuple[str, Path], rendered: Path, tmp_path: Path
):
    url, _ = classic
    path = rendered.with_name("elsewhere.yaml")
    path.write_bytes(rendered.read_bytes())
    (tmp_path / "another").mkdir()
    with pytest.raises(ConfigError, match=r"does not see elsewhere\.yaml"):
        Builder(with_login(url), folder=tmp_path / "another").compile(firmware(path), no_progress)


@needs_classic
def test_a_dashboard_that_would_build_another_model_or_refuses_the_yaml_is_stopped(
    classic: tuple[str, Path], rendered: Path
):
    url, folder = classic
    mine = rendered.with_name("mine.yaml")
    mine.write_text("packages:\n  mww: !include kitchen.yaml\n")
    builder = Builder(with_login(url), folder=folder)
    (folder / "mine.yaml").write_text(
        "packages:\n  mww: !include kitchen.yaml\nsubstitutions:\n  wake_model_version: an older one\n"
    )
    with pytest.raises(FlashError, match="would build the wake model 'an older one'"):
        builder.compile(firmware(mine), no_progress)
    (folder / "mine.yaml").write_text("packages:\n  mww: !include kitchen.yaml\nfoo:\n")
    with pytest.raises(FlashError, match=r"refuses mine\.yaml"):
        builder.compile(firmware(mine), no_progress)


@needs_classic
def test_secrets_that_are_missing_there_are_named_before_it_compiles(classic: tuple[str, Path], rendered: Path):
    url, folder = classic
    (folder / "secrets.yaml").write_text("other: 1\n")
    with pytest.raises(ConfigError, match="lacks mww_ota_password") as refused:
        Builder(with_login(url), folder=folder).preflight(firmware(rendered), no_progress)
    assert OTA_PASSWORD not in str(refused.value)
    (folder / "secrets.yaml").unlink()


@needs_classic
@pytest.mark.parametrize("login", ["", "me:wrong-word", "you:p%2540ss-word"])
def test_a_wrong_login_is_told_without_it(classic: tuple[str, Path], rendered: Path, login: str):
    url, folder = classic
    address = with_login(url, login) if login else url
    with pytest.raises(ConfigError, match="user and") as refused:
        Builder(address, folder=folder).preflight(firmware(rendered), no_progress)
    assert "ss-word" not in str(refused.value)
    assert "wrong-word" not in str(refused.value)


@needs_classic
def test_a_serial_port_has_to_be_one_of_the_dashboards_machine(classic: tuple[str, Path], rendered: Path):
    url, folder = classic
    with pytest.raises(ConfigError, match="no serial port /dev/ttyUSB99"):
        Builder(with_login(url), folder=folder).preflight(firmware(rendered, "/dev/ttyUSB99"), no_progress)


# --- the Device Builder, a real one -----------------------------------------------------------------------------


@needs_device_builder
@host_build.needs_compiler
def test_a_device_builder_takes_the_files_compiles_them_and_uploads(tmp_path: Path):
    (tmp_path / "config").mkdir()
    api_port, ota_port = host_device.free_port(), host_device.free_port()

    def write(wake_model: str) -> Firmware:
        return firmware(
            write_satellite(tmp_path / "esphome", wake_model, api_port=api_port, ota_port=ota_port),
        )

    with dashboards.device_builder(tmp_path / "config", tmp_path / "home", login="me:p%40ss-word") as url:
        builder: Backend = Builder(url.replace("p%40", "p%2540"))
        older = write("a 1a2b3c4d")
        builder.preflight(older, no_progress)
        assert not (tmp_path / "config" / "kitchen.yaml").exists()
        said: list[Progress] = []
        build = builder.compile(older, said.append)
        assert build.esphome_version
        assert [p.total for p in said if p.unit == "steps"]
        program = tmp_path / "config" / ".esphome" / "build" / "kitchen" / ".pioenvs" / "kitchen" / "program"
        first = tmp_path / "first"
        first.write_bytes(program.read_bytes())
        first.chmod(0o755)
        with host_device.HostDevice(first, api_port=api_port, home=tmp_path / "device"):
            assert state_when(api_port, "a 1a2b3c4d").build_time == build.build_time
            time.sleep(1.1)
            newer = write("a 99aabbcc")
            build = builder.compile(newer, said.append)
            builder.upload(newer, said.append)
            assert state_when(api_port, "a 99aabbcc").build_time == build.build_time
        assert [p.done for p in said if p.unit == "%"][-1] == 100
        assert not any(OTA_PASSWORD in p.message or "ss-word" in p.message for p in said)
        with pytest.raises(DeviceUnreachableError):
            builder.upload(newer, no_progress)

        with (tmp_path / "config" / "mww_ha" / "base.yaml").open("a") as file:
            file.write("# by hand\n")
        with pytest.raises(ConfigError, match=r"mww_ha/base\.yaml"):
            builder.preflight(newer, no_progress)
        with pytest.raises(ConfigError, match="refuses user and password"):
            Builder(url.replace("p%40", "")).preflight(newer, no_progress)


# --- the same, as recorded ---------------------------------------------------------------------------------------


@pytest.fixture
def recording() -> Recording:
    return Recording(resolved={"substitutions": {"wake_model_version": "a 1a2b3c4d"}})


def test_all_files_reach_a_device_builder_and_only_what_changed_the_next_time(recording: Recording, rendered: Path):
    (rendered.parent / "models").mkdir()
    (rendered.parent / "models" / "a-1a2b3c4d.tflite").write_bytes(bytes(range(256)))
    (rendered.parent / "models" / "a-1a2b3c4d.json").write_text('{"model": "a-1a2b3c4d.tflite"}')
    with (rendered.parent / "mww_ha" / "base.yaml").open() as file:
        base = file.read().partition("\n")[2]
    write_owned(rendered.parent / "mww_ha" / "base.yaml", f"{base}x:\n  file: models/a-1a2b3c4d.json\n")
    with serve(recording.app) as url:
        builder = Builder(url, timeouts=QUICK)
        builder.preflight(firmware(rendered), no_progress)
        assert recording.files == {}
        assert "devices/import_bundle_token" not in recording.asked
        builder.compile(firmware(rendered), no_progress)
        expected = {n: d for n, d in tree(rendered.parent).items() if n != "secrets.yaml"}
        assert {n: d for n, d in recording.files.items() if n != handoff.RECORD_FILE} == expected
        assert recording.secrets == {"mww_ota_password": OTA_PASSWORD}  # what the YAML needs, no more
        recording.asked.clear()
        builder.compile(firmware(rendered), no_progress)
        assert "devices/import_bundle_token" not in recording.asked
        write_owned(rendered.parent / "mww_ha" / "base.yaml", base + "# newer\n")
        builder.compile(firmware(rendered), no_progress)
        assert recording.files["mww_ha/base.yaml"].endswith(b"# newer\n")


@pytest.mark.parametrize("name", ["kitchen.yaml", "mww_ha/base.yaml"])
def test_a_file_of_somebody_elses_on_a_device_builder_is_not_overwritten(
    recording: Recording, rendered: Path, name: str
):
    recording.files[name] = b"esphome: {name: mine}\n"
    before = dict(recording.files)
    with serve(recording.app) as url:
        for step in ("preflight", "compile"):
            with pytest.raises(ConfigError, match=name):
                getattr(Builder(url, timeouts=QUICK), step)(firmware(rendered), no_progress)
        assert recording.files == before
        Builder(url, timeouts=QUICK, force=True).compile(firmware(rendered), no_progress)
    assert recording.files[name] == tree(rendered.parent)[name]


def test_lines_of_a_job_become_progress_and_the_build_is_read_from_them(recording: Recording, rendered: Path):
    said: list[Progress] = []
    with serve(recording.app) as url:
        build = Builder(url, timeouts=QUICK).compile(firmware(rendered), said.append)
        Builder(url, timeouts=QUICK).upload(firmware(rendered), said.append)
    assert build.esphome_version == "2026.10.0"
    assert build.build_time == "2026-11-20 16:42:47 +0000"
    assert [(p.done, p.total) for p in said if p.unit == "steps"] == [(1, 3), (2, 3), (3, 3)]
    assert [p.done for p in said if p.unit == "%"] == [3, 71, 100]
    assert not any("033" in p.message or "\x1b" in p.message for p in said)


def test_a_secret_in_a_line_is_not_shown_even_when_it_comes_in_two_pieces(recording: Recording, rendered: Path):
    recording.says["compile"] = (("the word is ota-wo", f"rd-8c1 and {OTA_PASSWORD}\n", "ERROR it\n"), 1)
    said: list[Progress] = []
    with serve(recording.app) as url, pytest.raises(ToolError) as failed:
        Builder(url, timeouts=QUICK).compile(firmware(rendered), said.append)
    assert any("the word is ***" in p.message for p in said)
    assert OTA_PASSWORD not in "".join(p.message for p in said) + str(failed.value)


def test_a_job_goes_on_when_the_connection_ends_and_no_line_is_told_twice(recording: Recording, rendered: Path):
    recording.breaks_after = [2, 5]
    said: list[Progress] = []
    with serve(recording.app) as url:
        Builder(url, timeouts=QUICK).upload(firmware(rendered), said.append)
    assert [p.done for p in said if p.unit == "%"] == [3, 71, 100]
    assert sum("Connected to" in p.message for p in said) == 1
    assert recording.asked.count("firmware/upload") == 1


def test_a_builder_that_stays_away_in_the_middle_of_a_job_is_told(recording: Recording, rendered: Path):
    recording.breaks_after = [1] * 1000
    impatient = dataclasses.replace(QUICK, reconnect_s=1)
    with serve(recording.app) as url, pytest.raises(FlashError, match="was lost") as lost:
        Builder(url, timeouts=impatient).upload(firmware(rendered), no_progress)
    assert "bootable" in lost.value.hint


def test_how_long_a_builder_may_be_gone_is_counted_anew_each_time(recording: Recording, rendered: Path):
    recording.breaks_after = [2, 4, 6]
    pause_s = 0.3

    def slowly(progress: Progress) -> None:
        if progress.message:
            time.sleep(pause_s)  # each break comes longer after the first than a builder may be gone

    with serve(recording.app) as url:
        Builder(url, timeouts=dataclasses.replace(QUICK, reconnect_s=1)).upload(firmware(rendered), slowly)
    assert recording.asked.count("firmware/follow_job") == 4


def test_a_job_that_never_ends_is_cancelled_there(recording: Recording, rendered: Path):
    recording.stands_still = True
    with serve(recording.app) as url, pytest.raises(FlashError, match="did not finish the upload within 1 s"):
        Builder(url, timeouts=Timeouts(answer_s=30, upload_s=1)).upload(firmware(rendered), no_progress)
    assert recording.asked[-1] == "firmware/cancel"


def test_ctrl_c_in_the_middle_of_an_upload_cancels_it_there(recording: Recording, rendered: Path):
    recording.stands_still = True
    program = (
        "import sys; from pathlib import Path\n"
        "from mww_ha.deploy.backend import Firmware; from mww_ha.deploy.builder import Builder\n"
        "from mww_ha.schema import Device\n"
        "device = Device(name='kitchen', template='generic-s3')\n"
        "Builder(sys.argv[1]).upload(\n"
        "    Firmware(device=device, yaml_path=Path(sys.argv[2]), target='127.0.0.1'),\n"
        "    lambda progress: print(progress.message, flush=True),\n"
        ")\n"
    )
    with serve(recording.app) as url:
        child = subprocess.Popen(
            [sys.executable, "-c", program, url, str(rendered)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert child.stdout is not None
        for line in child.stdout:
            if "OTA successful" in line or "Successfully uploaded" in line:
                break
        child.send_signal(signal.SIGINT)
        _, said = child.communicate(timeout=60)
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert recording.asked[-1] == "firmware/cancel"


def test_a_failed_upload_says_why(recording: Recording, rendered: Path):
    recording.says["upload"] = (Recording.REFUSED_UPLOAD, 1)
    with serve(recording.app) as url, pytest.raises(DeviceUnreachableError, match=r"Device Builder 1\.26\.0 at") as why:
        Builder(url, timeouts=QUICK).upload(firmware(rendered), no_progress)
    assert "Connection refused" in why.value.message
    assert "machine of the dashboard" in why.value.hint


def test_a_sleeping_device_was_not_flashed(recording: Recording, rendered: Path):
    recording.result = {"queued_update_armed": True, "exit_code": 0}
    with serve(recording.app) as url, pytest.raises(DeviceUnreachableError, match="wakes up"):
        Builder(url, timeouts=QUICK).upload(firmware(rendered), no_progress)


@pytest.mark.parametrize(("code", "expected"), [(0, None), (1, FlashError), (None, None)])
def test_the_exit_code_decides_and_the_status_where_there_is_none(
    recording: Recording, rendered: Path, code: int | None, expected: type[MwwError] | None
):
    recording.result = {"exit_code": code}
    with serve(recording.app) as url:
        if expected is None:
            Builder(url, timeouts=QUICK).upload(firmware(rendered), no_progress)
        else:
            with pytest.raises(expected):
                Builder(url, timeouts=QUICK).upload(firmware(rendered), no_progress)


def test_what_it_would_build_is_compared_before_it_builds(recording: Recording, rendered: Path):
    with serve(recording.app) as url:
        recording.resolved = {"substitutions": {"wake_model_version": "older"}}
        with pytest.raises(FlashError, match="would build the wake model 'older', not 'a 1a2b3c4d'"):
            Builder(url, timeouts=QUICK).compile(firmware(rendered), no_progress)
        recording.resolved = {}
        with pytest.raises(FlashError, match="Component not found: foo"):
            Builder(url, timeouts=QUICK).compile(firmware(rendered), no_progress)
        recording.resolved = {
            "substitutions": {"wake_model_version": "a 1a2b3c4d"},
            "api": {"encryption": {"key": "the-key-of-there"}},
        }
        with pytest.raises(ConfigError, match="mww_api_encryption_key") as refused:
            Builder(url, timeouts=QUICK).compile(firmware(rendered, api_key="mww_api_encryption_key"), no_progress)
    assert "the-key-of-there" not in str(refused.value)
    assert "not-used-here" not in str(refused.value)
    assert "firmware/compile" not in recording.asked


def test_a_login_is_used_and_ended(recording: Recording, rendered: Path):
    protected = Recording(login=("me", "p@ss/word"), resolved=recording.resolved)
    with serve(protected.app) as url:
        Builder(with_login(url, "me:p%40ss%2Fword"), timeouts=QUICK).preflight(firmware(rendered), no_progress)
        assert protected.asked[0] == "auth/login"
        assert protected.asked[-1] == "auth/logout"
        for login, message in (("me:wrong-word", "refuses user and password"), ("", "wants a user and a password")):
            address = with_login(url, login) if login else url
            with pytest.raises(ConfigError, match=message) as refused:
                Builder(address, timeouts=QUICK).preflight(firmware(rendered), no_progress)
            assert "wrong-word" not in str(refused.value)


def test_a_version_without_a_command_and_one_that_is_too_old_are_told(recording: Recording, rendered: Path):
    recording.refuses = {"devices/import_bundle_token": ("unknown_command", "Unknown command: x")}
    with serve(recording.app) as url:
        with pytest.raises(FlashError, match="refuses devices/import_bundle_token") as refused:
            Builder(url, timeouts=QUICK).compile(firmware(rendered), no_progress)
        assert "flash.handoff_dir" in refused.value.hint
        recording.hello["esphome_version"] = "2025.12.0"
        with pytest.raises(ToolError, match=r"ESPHome 2025\.12\.0, which is too old"):
            Builder(url, timeouts=QUICK).preflight(firmware(rendered), no_progress)


def test_a_port_of_the_builders_machine_may_be_chosen(recording: Recording, rendered: Path):
    with serve(recording.app) as url:
        Builder(url, timeouts=QUICK).preflight(firmware(rendered, "/dev/ttyUSB7"), no_progress)
        with pytest.raises(ConfigError, match="ttyUSB0") as refused:
            Builder(url, timeouts=QUICK).preflight(firmware(rendered, "/dev/ttyUSB0"), no_progress)
    assert "/dev/ttyUSB7" in refused.value.hint


# --- what is no dashboard ----------------------------------------------------------------------------------------


def answering(status: int, text: str, content_type: str = "text/html") -> web.Application:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=status, text=text, content_type=content_type)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return app


@pytest.mark.parametrize(
    ("status", "text", "error", "message"),
    [
        (200, "<html>Home Assistant</html>", FlashError, "is no ESPHome dashboard"),
        (404, "<html>404</html>", FlashError, "is no ESPHome dashboard"),
        (500, "", FlashError, "is no ESPHome dashboard"),
        (200, "[]", FlashError, "is no ESPHome dashboard"),
        (200, '{"version": 3}', FlashError, "is no ESPHome dashboard"),
        (200, '{"version": "2.1"}', FlashError, "is no ESPHome dashboard"),
        (200, '{"version": "2023.12.0"}', ToolError, "too old"),
        (401, "", ConfigError, "wants a user and a password"),
        (403, "", FlashError, "nobody but Home Assistant"),
    ],
)
def test_another_server_is_recognized(rendered: Path, status: int, text: str, error: type[MwwError], message: str):
    with serve(answering(status, text)) as url, pytest.raises(error, match=message):
        Builder(url, timeouts=QUICK).preflight(firmware(rendered), no_progress)


@pytest.mark.parametrize("hello", ["{}", "[]", "hello", '{"esphome_version": 1, "server_version": 2}'])
def test_another_websocket_is_recognized(rendered: Path, hello: str):
    async def socket(request: web.Request) -> web.WebSocketResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        await response.send_str(hello)
        return response

    app = web.Application()
    app.router.add_get("/ws", socket)
    with serve(app) as url, pytest.raises(FlashError, match="is no ESPHome dashboard"):
        Builder(url, timeouts=QUICK).preflight(firmware(rendered), no_progress)


def test_nothing_there_and_a_server_that_is_silent_are_told(rendered: Path):
    port = host_device.free_port()
    with pytest.raises(FlashError, match=f"nothing answers at http://127.0.0.1:{port}"):
        Builder(f"http://127.0.0.1:{port}", timeouts=QUICK).preflight(firmware(rendered), no_progress)

    async def wait(request: web.Request) -> web.Response:
        await asyncio.sleep(5)
        return web.Response()

    app = web.Application()
    app.router.add_get("/ws", wait)
    with serve(app) as url, pytest.raises(FlashError, match="does not answer in time"):
        Builder(url, timeouts=Timeouts(answer_s=0.3)).preflight(firmware(rendered), no_progress)


def test_a_certificate_nobody_trusts_and_no_tls_at_all_are_told(
    recording: Recording, rendered: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    certificate, key = write_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serve(recording.app, context) as url:
        with pytest.raises(FlashError, match="is not trusted") as refused:
            Builder(url, timeouts=QUICK).preflight(firmware(rendered), no_progress)
        assert "SSL_CERT_FILE" in refused.value.hint
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        Builder(url, timeouts=QUICK).preflight(firmware(rendered), no_progress)
    with serve(Recording().app) as url, pytest.raises(FlashError, match="TLS"):
        Builder(url.replace("http:", "https:"), timeouts=QUICK).preflight(firmware(rendered), no_progress)


# --- addresses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "",
        "192.168.1.10:6052",
        "ftp://host",
        "http://",
        "http://host:port",
        "http://host:99999",
        "http://user:secret-word@",
        "http://user:secret-word@host:x",
        "http://user:secret-word/@host",
        "http://host/?a=1",
        "http://[::1",
    ],
)
def test_what_is_no_address_is_refused_without_its_password(url: str):
    with pytest.raises(ConfigError) as refused:
        Builder(url)
    assert "secret-word" not in str(refused.value)


@settings(deadline=None)
@given(user=st.text(max_size=20), password=st.text(max_size=20))
def test_every_user_and_password_can_be_written_and_none_is_shown(user: str, password: str):
    from urllib.parse import quote

    # a lone surrogate is in no address
    user, password = (text.encode("utf-8", "replace").decode() for text in (user, password))
    address = read_url(f"http://{quote(user, safe='')}:{quote(password, safe='')}@host:6052/esphome/")
    assert (address.user, address.password) == (user, password)
    assert address.shown == "http://host:6052/esphome"
    assert repr(address) == "Address(http://host:6052/esphome)"
