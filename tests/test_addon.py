"""The app of Home Assistant is what its Supervisor takes, says what it is, and needs nothing beside its folder.

No Docker runs here: what the Dockerfile does is done in a Debian root of its own (slow; root and debootstrap needed).
"""

from __future__ import annotations

import base64
import copy
import re
import shutil
import struct
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from addon_rules import KEYS, Profile, find_faults, find_translation_faults, rate

from mww_ha import __version__
from mww_ha.web import app, appstart
from mww_ha.web.access import INGRESS_PEER

ROOT = Path(__file__).resolve().parents[1]
ADDON = ROOT / "addon"
sys.path.insert(0, str(ROOT / "tools"))

import build_addon  # noqa: E402
import try_addon  # noqa: E402

CONFIG: dict[str, Any] = yaml.safe_load((ADDON / "config.yaml").read_text())
DOCKERFILE = (ADDON / "Dockerfile").read_text()


def tracked(*paths: str) -> list[Path]:
    """Files of the repository, as git knows them (or will, once they are committed)."""
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z", "--", *paths]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in said.split("\0") if name and (ROOT / name).is_file()]


# --- metadata --------------------------------------------------------------------------------------------------------


def test_the_metadata_is_what_the_supervisor_and_the_linter_take():
    assert find_faults(CONFIG) == []


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(CONFIG), **changes}


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({key: value for key, value in CONFIG.items() if key != "slug"}, "slug is missing"),
        (changed(ingress_streams=True), "ingress_streams is no key"),
        (changed(panel_tittle="x"), "panel_tittle is no key"),
        (changed(startup="application"), "startup repeats its default"),
        (changed(init=True), "init repeats its default"),
        (changed(host_network=False), "host_network repeats its default"),
        (changed(ingress_port=8099), "ingress_port repeats its default"),
        (changed(arch=["amd64", "armv7"]), "arch is"),
        (changed(arch=[]), "arch is"),
        (changed(slug="mww ha"), "slug is"),
        (changed(version="latest"), "version is"),
        (changed(ports={"8098/tcp": 70000}), "ports is"),
        (changed(ports={"http": 80}), "ports is"),
        (changed(ports={"8098/tcp": None, "8097/tcp": None}), "a port without ports_description"),
        (changed(ports={}), "ports_description of a port that is none"),
        (changed(timeout=5), "timeout is 5"),
        (changed(timeout=True), "timeout is True"),
        (changed(services=["mqtt"]), "services is"),
        (changed(map=["config:rw"]), "map is"),
        (changed(map=[{"type": "share", "read_only": False}]), "map is"),
        (changed(map=["share", "share:rw"]), "map names one place twice"),
        (changed(ingress=False), "ingress repeats its default"),
        ({key: value for key, value in CONFIG.items() if key != "ingress"}, "ingress is off"),
        (changed(webui="http://[HOST]:[PORT:8099]/"), "webui beside ingress"),
        (changed(watchdog="http://[HOST]:[PORT:8099]/api/health"), "watchdog"),
        (changed(hassio_role="manager"), "hassio_role without hassio_api"),
        (changed(full_access=True), "full_access"),
        (changed(privileged=["SYS_EVERYTHING"]), "privileged is"),
        (changed(devices=["/dev/ttyUSB0:/dev/ttyUSB0:rwm"]), "devices is"),
        (changed(backup="cold", backup_pre="sync"), "a cold backup"),
        (changed(image="ghcr.io/Somebody/mww-ha:1"), "image is"),
        (changed(advanced=True), "advanced is deprecated"),
        (changed(schema={"piper": "strng?"}), "piper is of the type"),
        (changed(schema={"piper": "str"}), "the option piper must be set"),
        (changed(schema={"many": [["str"]]}), "a list of"),
        (changed(options={"other": 1}), "the option other is in no schema"),
        (changed(url="www.example"), "url is"),
        ("name: mww-ha", "not a mapping"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_be_refused_dropped_or_warned_of_is_a_fault(config: Any, said: str):
    assert any(said in fault for fault in find_faults(config)), find_faults(config)


def test_its_security_rating_is_seven_or_better():
    assert rate(CONFIG, own_profile=(ADDON / "apparmor.txt").is_file()) >= 7
    assert rate(changed(hassio_role="admin", hassio_api=True), own_profile=True) == 6
    assert rate(changed(docker_api=True), own_profile=True) == 1
    assert rate({"host_network": True, "apparmor": False}, own_profile=False) == 3


def test_there_is_one_app_and_no_other_file_is_taken_for_one():
    found = [path.relative_to(ROOT) for path in tracked() if re.fullmatch(r"config\.(json|yaml|yml)", path.name)]
    assert found == [Path("addon/config.yaml")]
    assert not (ADDON / "build.yaml").exists()
    assert set(yaml.safe_load((ROOT / "repository.yaml").read_text())) <= {"name", "url", "maintainer"}
    assert yaml.safe_load((ROOT / "repository.yaml").read_text())["name"]


def test_all_places_name_the_same_version():
    changelog = re.findall(r"^## (\S+)$", (ADDON / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert CONFIG["version"] == __version__ == changelog[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["version"]["path"] == "mww_ha/__init__.py"


def test_every_translation_tells_each_option_and_port_and_no_other():
    files = sorted((ADDON / "translations").glob("*"))
    assert [path.name for path in files] == ["de.yaml", "en.yaml"]
    for path in files:
        assert find_translation_faults(CONFIG, yaml.safe_load(path.read_text())) == [], path.name
    english = yaml.safe_load((ADDON / "translations" / "en.yaml").read_text())
    more = {"configuration": {**english["configuration"], "pipper": {"name": "x"}}, "network": {}}
    assert set(find_translation_faults(CONFIG, more)) == {
        "pipper is no option",
        "pipper has no description",
        "the port 8098/tcp is not told",
    }


@pytest.mark.parametrize(("name", "width", "height"), [("icon.png", 256, 256), ("logo.png", 500, 200)])
def test_its_pictures_have_the_size_that_is_shown(name: str, width: int, height: int):
    content = (ADDON / name).read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", content[16:24]) == (width, height)
    assert (ADDON / name).with_suffix(".svg").is_file(), "and a drawing that it was made of"


def test_options_and_constants_agree_with_the_service():
    assert set(CONFIG["schema"]) == {"piper"}
    assert CONFIG["ports"] == {f"{app.DEVICE_PORT}/tcp": None}
    assert KEYS["ingress_port"](app.PORT)
    assert "ingress_port" not in CONFIG, "the default, which the service listens on"
    assert app.PORT == 8099
    assert f"127.0.0.1:{app.PORT}/api/health" in DOCKERFILE
    assert INGRESS_PEER == "172.30.32.2"
    kept = set(CONFIG["backup_exclude"])
    environment = dict(line.split("=", 1) for line in re.findall(r"^(?:ENV|   ) (\w+=\S+)", DOCKERFILE, re.MULTILINE))
    for name in ("XDG_CACHE_HOME", "PLATFORMIO_CORE_DIR", "MWW_HA_TRAINING_DIR"):
        assert Path(environment[name]).relative_to(appstart.DATA).parts[0] in kept, f"{name} would fill every backup"
    assert environment["XDG_DATA_HOME"].startswith("/data/")
    assert environment["MWW_HA_INGRESS"] == "1"


def test_a_backup_leaves_out_what_can_be_made_again_and_nothing_else():
    """The Supervisor matches each pattern against the end of a path, and looks into no folder that matches."""

    def is_left_out(name: str) -> bool:
        paths = [Path("/data/addons/data/local_mww_ha") / part for part in [Path(name), *Path(name).parents][:-1]]
        return any(path.match(pattern) for path in paths for pattern in CONFIG["backup_exclude"])

    for name in (
        "expendable/training/0123-py3.13/tensorflow/x.so",
        "expendable/cache/esphome/idf/x",
        "share/mww-ha/corpora/x.flac",
        "project/features/0123/index.json",
        "project/esphome/.esphome/build/kitchen/firmware.bin",
    ):
        assert is_left_out(name), name
    for name in (
        "options.json",
        "project/project.yaml",
        "project/catalogue.sqlite",
        "project/audio/ab/x.flac",
        "project/captures/x.flac",
        "project/models/hey_kitchen-0123abcd.tflite",
        "project/esphome/secrets.yaml",
        "project/runs/0123/weights.npz",
        "project/service/service.sqlite",
        "share/mww-ha/voices/x.onnx",
    ):
        assert not is_left_out(name), name


# --- linters ---------------------------------------------------------------------------------------------------------


def program(name: str) -> str:
    """A tool beside this interpreter, else of the system."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_the_dockerfile_passes_hadolint():
    done = subprocess.run([program("hadolint"), str(ADDON / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_scripts_pass_shellcheck():
    scripts = [
        path
        for path in tracked("tools", ".ci", "addon")
        if path.read_bytes()[:20].startswith((b"#!/bin/sh", b"#!/usr/bin/env b"))
    ]
    assert {path.name for path in scripts} >= {"build-addon", "try-addon", "lock", "run"}
    command = [program("shellcheck"), "-x", "-P", str(ROOT / "tools"), "-e", "SC1091", *map(str, scripts)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_yaml_passes_yamllint():
    rules = "{extends: default, rules: {line-length: {max: 120}, document-start: disable}}"
    files = [*ADDON.rglob("*.yaml"), ROOT / "repository.yaml"]
    command = [program("yamllint"), "--strict", "-d", rules, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


# --- AppArmor --------------------------------------------------------------------------------------------------------

PROFILE = (ADDON / "apparmor.txt").read_text()


def parse_profile(text: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    parser = shutil.which("apparmor_parser") or shutil.which("apparmor_parser", path="/sbin:/usr/sbin")
    if parser is None:
        pytest.skip("apparmor_parser is not installed (Debian package apparmor)")
    path = tmp_path / "profile"
    path.write_text(text)
    return subprocess.run([parser, "-QKT", str(path)], capture_output=True, text=True, check=False)


def test_the_profile_is_one_that_apparmor_takes(tmp_path: Path):
    done = parse_profile(PROFILE, tmp_path)
    assert done.returncode == 0, done.stderr
    assert parse_profile(PROFILE.replace("rwkl,", "rwqz,", 1), tmp_path).returncode != 0, "or else this tests nothing"


def test_the_profile_is_the_apps_and_allows_no_file_wholesale():
    """The Supervisor puts the app's full name in the place of this one."""
    assert re.findall(r"^profile (\S+) ", PROFILE, re.MULTILINE) == [CONFIG["slug"]]
    rules = Profile(PROFILE).rules
    assert rules
    assert not [
        rule for rule in rules if rule in ("file,", "capability,", "mount,", "ptrace,") or rule.startswith("/** ")
    ]


@pytest.mark.parametrize(
    ("path", "access"),
    [
        ("/homeassistant/esphome/", "rw"),
        ("/homeassistant/esphome/kitchen.yaml", "rw"),
        ("/homeassistant/esphome/components/mww_capture/wav.h", "rw"),
        ("/homeassistant/custom_wake_words/", "rw"),
        ("/homeassistant/custom_wake_words/hey_kitchen.tflite", "rw"),
        ("/data/options.json", "r"),
        ("/data/project/catalogue.sqlite-wal", "rwk"),
        ("/data/expendable/training/0123-py3.13/tensorflow/libtensorflow.so.2", "rm"),
        ("/data/expendable/cache/esphome/idf/tools/xtensa-esp-elf/bin/gcc", "rix"),
        ("/share/mww-ha/x.zip", "rw"),
        ("/ssl/fullchain.pem", "r"),
        ("/ssl/mqtt/ca.crt", "r"),
        ("/opt/mww-ha/bin/python3.13", "rix"),
        ("/usr/bin/tini", "rix"),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", "rm"),
        ("/usr/lib/git-core/git-remote-https", "rix"),
        ("/dev/ttyUSB0", "rw"),
        ("/dev/ttyACM11", "rw"),
        ("/dev/shm/sem.mp-x", "rw"),
        ("/proc/meminfo", "r"),
        ("/tmp/x", "rw"),
    ],
)
def test_the_profile_allows_what_the_app_does(path: str, access: str):
    assert Profile(PROFILE).allows(path, access)


@pytest.mark.parametrize(
    ("path", "access"),
    [
        ("/homeassistant/configuration.yaml", "w"),
        ("/homeassistant/configuration.yaml", "r"),
        ("/homeassistant/secrets.yaml", "r"),
        ("/homeassistant/.storage/auth", "r"),
        ("/homeassistant/.storage/", "r"),
        ("/homeassistant/automations.yaml", "w"),
        ("/homeassistant/esphome.yaml", "w"),
        ("/homeassistant/custom_components/x/__init__.py", "w"),
        ("/homeassistant/www/x.js", "w"),
        ("/homeassistant/", "w"),
        ("/ssl/fullchain.pem", "w"),
        ("/ssl/privkey.pem", "r"),
        ("/ssl/mqtt/server-key.pem", "r"),
        ("/opt/mww-ha/lib/python3.13/site-packages/mww_ha/cli.py", "w"),
        ("/usr/bin/tini", "w"),
        ("/etc/passwd", "w"),
        ("/proc/sysrq-trigger", "w"),
        ("/sys/kernel/x", "w"),
        ("/dev/sda", "r"),
        ("/dev/mem", "r"),
        ("/media/x", "r"),
        ("/backup/x.tar", "r"),
    ],
)
def test_the_profile_allows_no_more(path: str, access: str):
    assert not Profile(PROFILE).allows(path, access)


# --- the folder ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The app's folder as a release carries it."""
    return build_addon.build(tmp_path_factory.mktemp("built") / "mww_ha")


def test_the_dockerfile_takes_nothing_from_outside_of_its_folder(built: Path):
    recipe = try_addon.read_recipe(DOCKERFILE)
    copied = [words.split()[:-1] for name, words in recipe.steps if name == "COPY"]
    patterns = [pattern for words in copied for pattern in words]
    assert patterns
    for pattern in patterns:
        assert ".." not in pattern
        assert not pattern.startswith("/")
        assert len(list(built.glob(pattern))) == 1, pattern
    assert recipe.base.startswith("debian:trixie")
    assert "BUILD_FROM" not in DOCKERFILE
    assert not [rest for name, rest in recipe.steps if name == "RUN" and "curl" in rest]


def test_the_folder_holds_what_the_supervisor_shows_and_builds_of(built: Path):
    names = {path.relative_to(built).as_posix() for path in built.rglob("*") if path.is_file()}
    wheel = f"mww_ha-{__version__}-py3-none-any.whl"
    assert names == {
        "CHANGELOG.md", "DOCS.md", "Dockerfile", "README.md", "apparmor.txt", "config.yaml", "icon.png", "logo.png",
        "requirements-esphome.lock", "requirements.lock", "translations/de.yaml", "translations/en.yaml", wheel,
    }  # fmt: skip
    assert find_faults(yaml.safe_load((built / "config.yaml").read_text())) == []


def test_the_documentation_carries_its_pictures(built: Path):
    """Home Assistant's Markdown keeps an image that is a data address and drops the address of a local one."""
    written = (ROOT / "addon" / "DOCS.md").read_text("utf-8")
    pictures = re.findall(r"!\[.+\]\((pictures/.+\.png)\)", written)
    assert len(pictures) >= 2
    carried = (built / "DOCS.md").read_text("utf-8")
    assert "](pictures/" not in carried
    for picture in pictures:
        name = Path(picture).stem
        assert f"][{name}]" in carried
        [found] = re.findall(rf"^\[{name}\]: data:image/png;base64,(\S+)$", carried, re.MULTILINE)
        assert base64.b64decode(found) == (ROOT / "addon" / picture).read_bytes()
    assert (built / "DOCS.md").stat().st_size < 500_000
    with pytest.raises(SystemExit, match="panel_pictures"):
        build_addon.carry_pictures("![x](pictures/no-such.png)", ROOT / "addon")


def test_the_wheel_holds_every_file_of_the_package_and_the_templates(built: Path):
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    expected = {path.relative_to(ROOT).as_posix() for path in tracked("mww_ha")}
    expected |= {f"mww_ha/{path.relative_to(ROOT).as_posix()}" for path in tracked("esphome_templates")}
    assert expected <= inside, sorted(expected - inside)
    assert {name for name in inside if ".dist-info/" not in name} <= expected, "and nothing that lay about"


def test_a_folder_with_something_else_in_it_is_left_alone(built: Path, tmp_path: Path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(SystemExit, match="holds something else"):
        build_addon.build(tmp_path)
    assert (tmp_path / "holiday.jpg").exists()
    again = tmp_path / "again"
    shutil.copytree(built, again)
    (again / "mww_ha-0.0.1-py3-none-any.whl").write_bytes(b"an older build")
    assert build_addon.is_ours(again)
    assert len(list(build_addon.build(again).glob("*.whl"))) == 1


@pytest.mark.parametrize(
    "name", ["addon/requirements.lock", "addon/requirements-esphome.lock", "mww_ha/train/requirements.lock"]
)
def test_every_package_of_the_app_is_pinned_with_its_hashes(name: str):
    blocks = re.split(r"\n(?=\S)", (ROOT / name).read_text().strip())
    assert len(blocks) > 30
    for block in blocks:
        assert re.match(r"[a-z0-9._-]+==\S+", block), block[:80]
        assert "--hash=sha256:" in block, block[:80]
        assert "://" not in block


def test_esphome_is_the_one_that_the_rest_of_the_project_uses():
    def version_of(path: Path) -> list[str]:
        return re.findall(r"^esphome==(\S+)", path.read_text(), re.MULTILINE)

    assert version_of(ADDON / "requirements-esphome.lock")[0] in version_of(ROOT / "requirements.lock")
    assert not version_of(ADDON / "requirements.lock")


# --- the steps of the image ------------------------------------------------------------------------------------------


def test_a_dockerfile_is_read_as_docker_does():
    text = "# c\nFROM debian:trixie-slim\n\nRUN a \\\n    # between\n    && b\nENV A=1 \\\n    B='x y'\n"
    recipe = try_addon.read_recipe(text + 'ENTRYPOINT ["/x"]\n')
    assert recipe.steps == [("RUN", "a     && b"), ("ENV", "A=1     B='x y'")]
    assert recipe.entrypoint == ["/x"]
    for broken in ("FROM x\nUSER y\n", "FROM a\nFROM b\n", "RUN a \\\n", "RUN\n"):
        with pytest.raises(ValueError, match=r"understood|more than one|ends within|not an instruction"):
            try_addon.read_recipe(broken)


def test_the_entry_point_and_the_health_check_are_programs_of_the_image():
    recipe = try_addon.read_recipe(DOCKERFILE)
    assert recipe.entrypoint[:2] == ["/usr/bin/tini", "--"], "something has to reap what ESPHome leaves"
    assert recipe.entrypoint[-2:] == ["-m", appstart.__name__]
    assert recipe.healthcheck[0] == "/usr/bin/python3"
    for wanted in ("tini", "python3", "git", "ca-certificates"):
        assert re.search(rf"\b{wanted}\b", recipe.steps[0][1])


@pytest.mark.slow
@pytest.mark.skipif(bool(try_addon.missing_tools()), reason=f"lacking: {', '.join(try_addon.missing_tools())}")
def test_the_image_installs_and_starts_in_a_debian_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    try_addon.try_it(tmp_path, tmp_path / "root")
    said = capfd.readouterr().out
    assert "installed: Python 3.13" in said
    assert re.search(r"ESPHome: Version: 20\d\d\.", said)
    assert "generates the source of an ESP32-S3" in said
    assert re.search(r"first start: healthy after [\d.]+ s, project made, training missing", said)
    assert re.search(r"after an update: healthy after [\d.]+ s, project kept", said)


# --- the entry point -------------------------------------------------------------------------------------------------


def start_app(data: Path, **environ: str) -> tuple[str, list[str], dict[str, str]]:
    became: list[Any] = []

    def become(program: str, command: list[str], environment: Any) -> None:
        became.extend([program, command, dict(environment)])
        raise SystemExit(0)

    with pytest.raises(SystemExit) as ended:
        appstart.main(data, environ=environ, become=become)
    assert ended.value.code == 0
    return became[0], became[1], became[2]


def test_the_entry_point_becomes_the_service_with_what_the_supervisor_gave(tmp_path: Path):
    (tmp_path / "options.json").write_text('{"piper": "wyoming://10.0.0.2:10200"}')
    training = str(tmp_path / "expendable" / "training")
    program_, command, environment = start_app(tmp_path, SUPERVISOR_TOKEN="t", MWW_HA_TRAINING_DIR=training)
    assert program_ == command[0] == sys.executable
    assert command[command.index("--project") + 1] == str(tmp_path / "project")
    assert command[command.index("serve") :] == [
        "serve", "--host", "0.0.0.0", "--port", "8099", "--device-port", "8098",
    ]  # fmt: skip
    assert environment == {
        "SUPERVISOR_TOKEN": "t",
        "MWW_HA_PIPER": "wyoming://10.0.0.2:10200",
        "MWW_HA_TRAINING_DIR": training,
    }
    assert (tmp_path / "project").is_dir()
    assert len(list(Path(training).iterdir())) == 1, "a place to install training to, which the service then finds"


@pytest.mark.parametrize("options", ["{}", '{"piper": ""}', '{"piper": null}', None])
def test_an_app_without_options_starts(tmp_path: Path, options: str | None):
    if options is not None:
        (tmp_path / "options.json").write_text(options)
    assert "MWW_HA_PIPER" not in start_app(tmp_path)[2]


@pytest.mark.parametrize(
    ("options", "said"), [("[]", "holds no options"), ("{", "holds no options"), ('{"piper": 5}', "piper is 5")]
)
def test_options_that_cannot_be_read_are_said_in_the_log(
    tmp_path: Path, options: str, said: str, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "options.json").write_text(options)
    never: Callable[..., None] = lambda *_: pytest.fail("started")  # noqa: E731
    with pytest.raises(SystemExit) as ended:
        appstart.main(tmp_path, environ={}, become=never)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_an_update_keeps_project_tokens_and_options(tmp_path: Path):
    """A new image gets the same /data: what the entry point finds there it leaves as it is."""
    start_app(tmp_path)
    kept = {"project/project.yaml": "phrase: hey kitchen\n", "project/service/service.sqlite": "x", "share/voice": "y"}
    for name, text in kept.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    start_app(tmp_path)
    assert {name: (tmp_path / name).read_text() for name in kept} == kept
