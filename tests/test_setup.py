"""One command sets everything up from a lock that names every file by its hash; the next start is instant."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock")
ENVIRONMENTS = [
    {**default_environment(), "python_version": version, "python_full_version": f"{version}.1", **machine}
    for version, machine in itertools.product(
        ("3.11", "3.12", "3.13"),
        (
            {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
            {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "aarch64"},
            {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
        ),
    )
]


def read_lock(name: str) -> list[tuple[Requirement, list[str]]]:
    """Each requirement with its hashes."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    found = []
    for line in filter(str.strip, text.splitlines()):
        spec, *hashes = re.split(r"\s+--hash=", line.strip())
        found.append((Requirement(spec), hashes))
    return found


def chosen(name: str, environment: dict[str, str]) -> dict[str, str]:
    """What a lock installs in an environment: version by canonical name; each name once."""
    versions: dict[str, str] = {}
    for requirement, _ in read_lock(name):
        if requirement.marker is None or requirement.marker.evaluate(environment):
            assert canonical(requirement.name) not in versions, requirement
            [specifier] = requirement.specifier
            assert specifier.operator == "=="
            versions[canonical(requirement.name)] = specifier.version
    return versions


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_names_every_file_by_its_hash_and_no_address(name: str):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert not re.search(r"https?:|file:|--index|--find-links|^\s*/", text, re.MULTILINE)
    for requirement, hashes in read_lock(name):
        assert hashes, requirement
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", value) for value in hashes), requirement


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda e: f"{e['python_version']}-{e['platform_machine']}")
def test_the_lock_has_what_the_project_asks_for_in_every_environment(environment: dict[str, str]):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = {
        "requirements.lock": ("train", "tts", "flash"),
        "requirements-dev.lock": ("train", "tts", "flash", "dev"),
    }
    for name, parts in wanted.items():
        versions = chosen(name, environment)
        for text in itertools.chain(project["dependencies"], *(extras[part] for part in parts)):
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate(environment):
                version = versions.get(canonical(requirement.name))
                assert version is not None, f"{name} has no {requirement}: run tools/lock"
                assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: run tools/lock"
    assert chosen(LOCKS[0], environment).items() <= chosen(LOCKS[1], environment).items()


def test_what_has_no_wheel_for_aarch64_is_not_asked_for_there():
    for environment in ENVIRONMENTS:
        expected = environment["sys_platform"] == "linux" and environment["platform_machine"] == "x86_64"
        assert ("tflite-micro" in chosen(LOCKS[0], environment)) is expected


def test_the_environment_of_these_tests_is_the_locked_one():
    marker = Path(sys.prefix) / "installed-requirements-dev.lock"
    if not marker.exists():
        pytest.skip("these tests do not run in the environment that tools/test makes")
    import importlib.metadata

    environment = {**default_environment(), "extra": ""}
    for name, version in chosen("requirements-dev.lock", environment).items():
        assert importlib.metadata.version(name) == version, name


# --- The scripts, in a small copy of the checkout with one small package ----------------------------------------------

_WHEEL = "parrot-1.0-py3-none-any.whl"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """tools/ beside a package ``mww_ha`` that repeats its arguments, and a lock with one package of our own."""
    root = tmp_path / "check out"
    (root / "mww_ha").mkdir(parents=True)
    (root / "tools").mkdir()
    for name in ("mww-ha", "venv.sh", "setup_venv.py"):
        shutil.copy(ROOT / "tools" / name, root / "tools" / name)
    (root / "mww_ha" / "__init__.py").touch()
    (root / "mww_ha" / "__main__.py").write_text("import sys, parrot\nprint(parrot.WORD, *sys.argv[1:])\n")
    (root / "wheels").mkdir()
    wheel = root / "wheels" / _WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("parrot.py", "WORD = 'hello'\n")
        archive.writestr("parrot-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: parrot\nVersion: 1.0\n")
        archive.writestr(
            "parrot-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("parrot-1.0.dist-info/RECORD", "parrot.py,,\nparrot-1.0.dist-info/RECORD,,\n")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (root / "requirements.lock").write_text(f"parrot==1.0 \\\n    --hash=sha256:{digest}\n")
    return root


def environment_of(root: Path, **more: str) -> dict[str, str]:
    base = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "PYTHON"))}
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": (root / "wheels").as_uri(), "PIP_CONFIG_FILE": os.devnull}
    return {**base, **pip, "MWW_HA_PYTHON": sys.executable, **more}


def begin(root: Path, *arguments: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [root / "tools" / "mww-ha", *arguments],
        env=environment_of(root, **more),
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_the_first_start_sets_up_the_second_is_instant_and_a_moved_checkout_still_starts(checkout: Path):
    code, out, err = finish(begin(checkout, "a", "b c"))
    assert (code, out) == (0, "hello a b c\n"), err
    assert "one-time set-up" in err
    assert "environment ready after" in err

    def timed(command: list[str | Path]) -> float:
        began = time.monotonic()
        done = subprocess.run(command, env=environment_of(checkout), capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("hello a\n", "")
        return time.monotonic() - began

    bare = min(timed([checkout / ".venv/bin/python", "-P", "-m", "mww_ha", "a"]) for _ in range(5))
    through = min(timed([checkout / "tools/mww-ha", "a"]) for _ in range(5))
    assert through - bare < 0.3

    moved = checkout.rename(checkout.parent / "elsewhere")
    link = moved.parent / "a-link"
    link.symlink_to(moved / "tools" / "mww-ha")
    done = subprocess.run([link, "moved"], env=environment_of(moved), capture_output=True, text=True, check=False)
    assert done.stdout == "hello moved\n", done.stderr

    # The environment of the tests holds all that a user's does: neither renews what the other made.
    shutil.copy(moved / "requirements.lock", moved / "requirements-dev.lock")
    (moved / ".venv" / "installed-requirements.lock").rename(moved / ".venv" / "installed-requirements-dev.lock")
    assert finish(begin(moved, "again")) == (0, "hello again\n", "")


def test_an_interrupted_set_up_is_made_again_and_two_at_once_make_one(checkout: Path):
    first = begin(checkout)
    while not (checkout / ".venv" / "bin" / "python").exists():
        time.sleep(0.05)
        assert first.poll() is None
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    both = [begin(checkout, name) for name in ("one", "two")]
    answers = [finish(process) for process in both]
    assert [answer[:2] for answer in answers] == [(0, "hello one\n"), (0, "hello two\n")], answers
    said = "".join(answer[2] for answer in answers)
    assert said.count("environment ready after") == 1
    assert said.count("waiting for it") == 1
    assert "removing an unfinished environment" in said


def test_ctrl_c_in_the_set_up_says_how_to_go_on(checkout: Path):
    process = begin(checkout)
    while not (checkout / ".venv").exists():
        time.sleep(0.02)
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code in (130, -signal.SIGINT)  # the shell ends by the signal itself, which its caller sees as 130
    assert "stopped; run the same command again to go on" in err
    assert "Traceback" not in err


def test_a_file_that_is_not_the_locked_one_is_refused(checkout: Path):
    lock = checkout / "requirements.lock"
    lock.write_text(re.sub("[0-9a-f]{64}", "0" * 64, lock.read_text()))
    code, out, err = finish(begin(checkout))
    assert (code, out) == (6, "")
    assert "differs from what the lock file promises" in err
    assert not (checkout / ".venv" / "installed-requirements.lock").exists()


def test_without_a_network_it_is_said(checkout: Path):
    # A port of this machine that nobody listens on.
    offline = {"PIP_NO_INDEX": "0", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": "http://127.0.0.1:9/simple"}
    code, _, err = finish(begin(checkout, **offline, PIP_RETRIES="1"))
    assert code == 7
    assert "check the network" in err


def test_without_a_fitting_python_it_says_what_to_install(checkout: Path, tmp_path: Path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "dirname", "cmp", "readlink", "cat"):
        found = shutil.which(name)
        assert found is not None
        (tools / name).symlink_to(found)
    old = tools / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    code, _, err = finish(begin(checkout, PATH=str(tools), MWW_HA_PYTHON=""))
    assert code == 4
    assert "no Python 3.11, 3.12 or 3.13" in err
    assert "apt install" in err


def setup_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_venv", ROOT / "tools" / "setup_venv.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("log", "code", "word"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", 8, "disk is full"),
        ("WARNING: Retrying (Retry(total=0)) ... Name or service not known", 7, "no connection"),
        ("ERROR: No matching distribution found for tensorflow==2.21.0", 4, "tensorflow==2.21.0"),
        ("ERROR: something new", 6, "something new"),
    ],
)
def test_what_pip_says_is_told_in_the_users_words(log: str, code: int, word: str, capsys: pytest.CaptureFixture[str]):
    assert setup_script().explain(log) == code
    assert word in capsys.readouterr().err
