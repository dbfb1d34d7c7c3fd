"""Training can be switched on later: complete or not at all, from a lock with hashes, once there is room for it.

pip is the real one; what it installs is a small wheel of our own, from a folder instead of the index.
"""

from __future__ import annotations

import base64
import dataclasses
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path

import pytest
from test_cli import start

from mww_ha.errors import InputError, MissingDependencyError, OfflineError, StorageError, ToolError, how_to_install
from mww_ha.schema import Progress
from mww_ha.train import install
from mww_ha.train.install import TRAINING, Parts, TrainingState
from mww_ha.web.openapi import describe
from mww_ha.web.routes import ROUTES

ROOT = Path(__file__).resolve().parents[1]


def write_wheel(folder: Path, name: str, version: str, body: str) -> str:
    """A wheel with one module; returns its line for a lock file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": body,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = []
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(inside, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{inside},sha256={digest},{len(text)}")
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,", ""]))
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package index: a folder. pip asks nobody else."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shelf"))
    return tmp_path / "shelf"


@pytest.fixture
def parts(tmp_path: Path, shelf: Path) -> Parts:
    lock = tmp_path / "requirements.lock"
    lines = [
        write_wheel(shelf, "mwwtoytensor", "2.0", "__version__ = '2.0'\n"),
        write_wheel(shelf, "mwwtoyvoice", "1.1", "import mwwtoytensor\n"),
    ]
    lock.write_text("".join(lines))
    probe = "import mwwtoytensor, mwwtoyvoice; print(mwwtoytensor.__version__)"
    return Parts(
        lock=lock, marker="mwwtoytensor", probe=probe, download_mb=1, unpacked_mb=2, disk_bytes=1000, memory_bytes=1000
    )


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {install.VARIABLE: str(tmp_path / "data" / "training")}


@pytest.fixture(autouse=True)
def _its_own_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path file goes into an environment of the test's own."""
    site = tmp_path / "site"
    site.mkdir()
    real = install.sysconfig.get_path

    def get_path(name: str, *more: object, **others: object) -> str:
        return real(name, *more, **others) if more or others or name != "purelib" else str(site)

    monkeypatch.setattr(install.sysconfig, "get_path", get_path)
    return site


def base_of(environ: dict[str, str]) -> Path:
    return Path(environ[install.VARIABLE])


# --- what is here ----------------------------------------------------------------------------------------------------


def test_a_full_installation_says_that_training_is_there_already():
    assert install.look({}) == install.look({install.VARIABLE: "/data/x"}) == TrainingState(state="built_in")
    told: list[Progress] = []
    assert install.install({}, report=told.append).state == "built_in"
    assert told[-1].message == "up to date"


def test_a_light_installation_says_what_it_would_take_and_whether_there_is_room(
    parts: Parts, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    state = install.look(environ, parts=parts)
    assert (state.state, state.obstacle) == ("missing", "")
    assert not base_of(environ).exists(), "looking changes nothing"
    greedy = dataclasses.replace(parts, disk_bytes=1 << 60)
    assert "disk are free" in install.look(environ, parts=greedy).obstacle
    hungry = dataclasses.replace(parts, memory_bytes=1 << 60)
    assert "training needs" in install.look(environ, parts=hungry).obstacle
    monkeypatch.setattr(install, "available_memory", lambda: None)
    assert install.look(environ, parts=hungry).obstacle == "", "a system that does not tell"
    assert install.look({}, parts=parts).state == "impossible"


def test_without_room_nothing_is_begun(parts: Parts, environ: dict[str, str]):
    with pytest.raises(StorageError, match="disk are free"):
        install.install(environ, parts=dataclasses.replace(parts, disk_bytes=1 << 60))
    with pytest.raises(ToolError, match="training needs"):
        install.install(environ, parts=dataclasses.replace(parts, memory_bytes=1 << 60))
    with pytest.raises(InputError, match=install.VARIABLE):
        install.install({}, parts=parts)
    assert not base_of(environ).exists()


# --- installing ------------------------------------------------------------------------------------------------------


def test_it_is_installed_once_tried_and_found_by_every_process_of_the_environment(
    parts: Parts, environ: dict[str, str], tmp_path: Path
):
    told: list[Progress] = []
    state = install.install(environ, report=told.append, parts=parts)
    folder = install.folder_of(base_of(environ), parts)
    assert (state.state, state.folder) == ("installed", str(folder))
    assert state.size_mb == pytest.approx(0.0, abs=0.1)
    assert json.loads((folder / "mww-ha-training.json").read_text())["tried"] == "2.0"
    assert {path.name for path in base_of(environ).iterdir()} == {folder.name, "lock"}, "nothing else is left"
    downloads = [item for item in told if item.unit == "packages"]
    assert [item.done for item in downloads] == sorted(item.done for item in downloads)
    assert downloads[-1].done == downloads[-1].total == 2
    assert any("mwwtoyvoice" in item.message for item in downloads)

    venv.create(tmp_path / "environment", with_pip=False)
    python = tmp_path / "environment" / "bin" / "python"
    [site] = (tmp_path / "environment" / "lib").glob("python3*/site-packages")
    install.link(environ, parts=parts, site=site)
    command = [python, "-c", "import mwwtoytensor; print(mwwtoytensor.__version__)"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "2.0\n"

    told.clear()
    before = folder.stat().st_ino
    assert install.install(environ, report=told.append, parts=parts) == state
    assert ([item.message for item in told], folder.stat().st_ino) == (["up to date"], before)
    assert install.remove(environ, parts=parts).state == "missing"
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1


def test_a_process_that_started_before_the_installation_finds_it_too(
    parts: Parts, environ: dict[str, str], tmp_path: Path
):
    install.make_room(environ, parts=parts)
    install.link(environ, parts=parts)
    site = next(tmp_path.glob("site"))
    script = (
        "import importlib.util, site, sys\n"
        f"site.addsitedir({str(site)!r})\n"
        "found = []\n"
        "for _ in range(2):\n"
        "    print(importlib.util.find_spec('mwwtoytensor') is not None, flush=True)\n"
        "    sys.stdin.readline()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as before:
        assert before.stdout is not None
        assert before.stdin is not None
        assert before.stdout.readline() == "False\n"
        install.install(environ, parts=parts)
        before.stdin.write("\n")
        before.stdin.flush()
        assert before.stdout.readline() == "True\n"
        before.communicate("\n")


def test_a_newer_version_does_not_run_with_an_older_ones_packages(parts: Parts, environ: dict[str, str], shelf: Path):
    install.install(environ, parts=parts)
    old = install.folder_of(base_of(environ), parts)
    parts.lock.write_text(write_wheel(shelf, "mwwtoytensor", "3.0", "__version__ = '3.0'\n"))
    newer = dataclasses.replace(parts, probe="import mwwtoytensor; print(mwwtoytensor.__version__)")
    assert install.look(environ, parts=newer).state == "outdated"
    install.install(environ, parts=newer)
    assert not old.exists()
    assert (install.folder_of(base_of(environ), newer) / "mwwtoytensor.py").read_text() == "__version__ = '3.0'\n"


def test_what_differs_from_the_lock_is_not_installed(parts: Parts, environ: dict[str, str], shelf: Path):
    write_wheel(shelf, "mwwtoytensor", "2.0", "__version__ = 'evil'\n")
    with pytest.raises(ToolError, match="not the one that the lock names"):
        install.install(environ, parts=parts)
    assert install.look(environ, parts=parts).state == "missing"


def test_only_wheels_are_taken_so_that_nothing_of_a_package_runs(parts: Parts, environ: dict[str, str], shelf: Path):
    [wheel] = shelf.glob("mwwtoytensor*.whl")
    wheel.rename(shelf / "mwwtoytensor-2.0.tar.gz")
    with pytest.raises(MissingDependencyError, match=r"there is no mwwtoytensor==2\.0 for"):
        install.install(environ, parts=parts)


def test_what_does_not_start_is_not_installed(parts: Parts, environ: dict[str, str]):
    with pytest.raises(ToolError, match="does not start: RuntimeError: no such thing"):
        install.install(environ, parts=dataclasses.replace(parts, probe="raise RuntimeError('no such thing')"))
    illegal = f"import os; os.kill(os.getpid(), {int(signal.SIGILL)})"
    with pytest.raises(ToolError, match="does not run on this processor"):
        install.install(environ, parts=dataclasses.replace(parts, probe=illegal))
    assert install.look(environ, parts=parts).state == "missing"


def test_without_network_the_error_says_so(
    parts: Parts, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, shelf: Path
):
    for path in shelf.iterdir():
        path.unlink()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(OfflineError, match="package index"):
        install.install(environ, parts=parts)


def test_an_interrupted_installation_leaves_nothing_half_done_and_goes_on(
    parts: Parts, environ: dict[str, str], shelf: Path
):
    class StopError(Exception):
        pass

    def stop(progress: Progress) -> None:
        if progress.message == "unpacking":
            raise StopError

    with pytest.raises(StopError):
        install.install(environ, report=stop, parts=parts)
    assert install.look(environ, parts=parts).state == "missing"
    for path in shelf.iterdir():
        path.unlink()  # what was downloaded is not downloaded again
    assert install.install(environ, parts=parts).state == "installed"


def test_two_installations_at_once_are_one(parts: Parts, environ: dict[str, str]):
    base_of(environ).mkdir(parents=True)
    with (base_of(environ) / "lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ToolError, match="installed already"):
            install.install(environ, parts=parts)
    assert install.install(environ, parts=parts).state == "installed"


def test_a_full_disk_is_said_in_words():
    assert isinstance(install._explain("OSError: [Errno 28] No space left on device"), StorageError)
    assert "pip failed: ERROR: odd" in install._explain("Collecting x\nERROR: odd").message


# --- its faces -------------------------------------------------------------------------------------------------------


def test_the_command_line_says_and_the_job_reads_it():
    for arguments in (["training"], ["training", "install"]):
        started = time.monotonic()
        with start("--json", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
        assert json.loads(out.splitlines()[-1])["result"]["state"] == "built_in"
        assert time.monotonic() - started < 30
    with start("training", "link", stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        _, err = child.communicate(timeout=60)
    assert (child.returncode, install.VARIABLE in err) == (InputError.exit_code, True)


def test_the_api_tells_it():
    document = describe(ROUTES, cookie="c")
    answer = document["paths"]["/api/training"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert "TrainingState" in str(answer)
    assert "install_training" in json.dumps(document)


def test_the_way_out_of_a_missing_part_is_the_one_there_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(install.VARIABLE, raising=False)
    assert "pip install '.[train]'" in how_to_install("train")
    monkeypatch.setenv(install.VARIABLE, "/data/expendable/training")
    assert "panel" in how_to_install("train")
    assert "pip install '.[mqtt]'" in how_to_install("mqtt")


def test_the_lock_names_what_training_needs_and_nothing_that_the_light_runtime_has():
    def names(path: Path) -> dict[str, str]:
        rows = [line.split() for line in path.read_text().splitlines() if "==" in line.split(" ")[0]]
        return {row[0].partition("==")[0]: row[0] for row in rows}

    training, everything = names(TRAINING.lock), names(ROOT / "requirements.lock")
    light = names(ROOT / "addon" / "requirements.lock")
    assert {"tensorflow", "scipy", "piper-tts", "espeakng-loader", "wordfreq"} <= set(training)
    assert not set(training) & set(light)
    assert {"aiohttp", "ai-edge-litert", "paho-mqtt", "wyoming", "numpy"} <= set(light)
    for name, pinned in {**training, **light}.items():
        assert pinned in (ROOT / "requirements.lock").read_text(), f"{name} is another version than {everything[name]}"
    assert "--hash=sha256:" in TRAINING.lock.read_text()
