"""Training switched on later: TensorFlow and the speech engines beside a light installation, in a folder of their own.

The app of Home Assistant comes without them: they are ten times as big as all the rest, and many a household trains on
another machine. ``MWW_HA_TRAINING_DIR`` names where they go, which is where updates and backups leave them alone. What
is installed stands in a lock file with hashes (``requirements.lock`` beside this module); the folder's name holds the
lock's digest and the Python version, so that a newer mww-ha never runs with an older one's packages. A path file in
the interpreter's own site-packages lets every process of this environment find the folder, and ESPHome's none.

A folder appears complete or not at all: it is filled under another name, tried, and renamed. What was downloaded
before an interruption is not downloaded again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mww_ha.errors import (
    InputError,
    MissingDependencyError,
    OfflineError,
    StorageError,
    ToolError,
    how_to_install,
)
from mww_ha.schema import Progress, ProgressSink, no_progress
from mww_ha.store import now, storage_errors, write_json
from mww_ha.workers import available_memory

STAGE = "training"
VARIABLE = "MWW_HA_TRAINING_DIR"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What is installed, and what it costs."""

    lock: Path
    marker: str  # the distribution that says that it is there
    probe: str  # Python that uses it and prints a version
    download_mb: int
    unpacked_mb: int
    disk_bytes: int  # downloaded and unpacked, side by side for a while
    memory_bytes: int  # with swap, at the peak of a quick training


TRAINING = Parts(
    lock=Path(__file__).with_name("requirements.lock"),
    marker="tensorflow",
    probe="import tensorflow, piper, espeakng_loader; print(tensorflow.__version__)",
    download_mb=790,
    unpacked_mb=2380,
    disk_bytes=3_600_000_000,
    memory_bytes=2_000_000_000,
)

_WAY_OUT = "free some, or train on another computer and use the model here"
_STAMP = "mww-ha-training.json"
_PATH_FILE = "mww_ha_training.pth"
_PROBE_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """Whether this installation can train.

    ``state``: built_in (a full installation) | installed (by us) | outdated (for another version: install it again) |
    missing | impossible (no folder is set: it has to be part of the installation).
    """

    state: Literal["built_in", "installed", "outdated", "missing", "impossible"]
    folder: str = ""
    size_mb: float = 0.0
    download_mb: float = 0.0
    needed_disk_mb: float = 0.0
    free_disk_mb: float = 0.0
    needed_memory_mb: float = 0.0
    free_memory_mb: float | None = None  # None: this system does not tell
    obstacle: str = ""  # why it cannot be installed now

    def text(self) -> str:
        """One line for a terminal."""
        sentences = {
            "built_in": "training is part of this installation",
            "installed": f"training is installed: {self.size_mb:,.0f} MB in {self.folder}",
            "outdated": "training was installed for another version: mww-ha training install renews it",
            "missing": "training is not installed: mww-ha training install fetches about "
            f"{self.download_mb:,.0f} MB and takes {self.size_mb:,.0f} MB of disk",
            "impossible": f"training is not installed; {how_to_install('train,tts')}",
        }
        return sentences[self.state] + (f"\n  not now: {self.obstacle}" if self.obstacle else "")


def look(environ: Mapping[str, str] = os.environ, *, parts: Parts = TRAINING) -> TrainingState:
    """What is here, and whether there is room for what is not. Quick; changes nothing."""
    base = _base(environ)
    folder = None if base is None else folder_of(base, parts)
    stamp = None if folder is None else _read_stamp(folder)
    if stamp is not None:
        return TrainingState(state="installed", folder=str(folder), size_mb=stamp)
    if is_built_in(folder, parts):
        return TrainingState(state="built_in")
    if base is None or folder is None:
        return TrainingState(state="impossible")
    state: Literal["outdated", "missing"] = "outdated" if any(_others(base, folder)) else "missing"
    free, memory = _measure(base)
    obstacle = _find_obstacle(parts, free, memory)
    return TrainingState(
        state=state,
        folder=str(folder),
        size_mb=parts.unpacked_mb,
        download_mb=parts.download_mb,
        needed_disk_mb=parts.disk_bytes / 1e6,
        free_disk_mb=round(free / 1e6),
        needed_memory_mb=parts.memory_bytes / 1e6,
        free_memory_mb=None if memory is None else round(memory / 1e6),
        obstacle="" if obstacle is None else obstacle.message,
    )


def _find_obstacle(parts: Parts, free_bytes: int, memory_bytes: int | None) -> StorageError | ToolError | None:
    if free_bytes < parts.disk_bytes:
        return StorageError(
            f"{free_bytes / 1e9:.1f} GB of disk are free, training needs {parts.disk_bytes / 1e9:.1f} GB", hint=_WAY_OUT
        )
    if memory_bytes is not None and memory_bytes < parts.memory_bytes:
        free, needed = f"{memory_bytes / 1e9:.1f} GB", f"{parts.memory_bytes / 1e9:.1f} GB"
        return ToolError(f"{free} of memory are free with swap, training needs {needed}", hint=_WAY_OUT)
    return None


def install(
    environ: Mapping[str, str] = os.environ,
    *,
    report: ProgressSink = no_progress,
    parts: Parts = TRAINING,
) -> TrainingState:
    """Installs what the lock names, unless it is there. Needs the package index; runs none of the packages' set-ups.

    Raises InputError (nowhere to put it), StorageError (disk), ToolError (memory, pip, another installation at work,
    a processor that TensorFlow does not run on), OfflineError, MissingDependencyError (no package for this machine).
    """
    state = look(environ, parts=parts)
    if state.state in ("built_in", "installed"):
        report(Progress(stage=STAGE, message="up to date", done=1, total=1))
        return state
    base = _base(environ)
    if base is None:
        raise InputError(f"{VARIABLE} names no folder to install to", hint=how_to_install("train,tts"))
    if (obstacle := _find_obstacle(parts, *_measure(base))) is not None:
        raise obstacle
    folder = folder_of(base, parts)
    with storage_errors(base):
        base.mkdir(parents=True, exist_ok=True)
        link(environ, parts=parts)
        with _alone(base):
            part, temporary = base / "part", base / "tmp"
            for leftover in (part, temporary):
                shutil.rmtree(leftover, ignore_errors=True)
            temporary.mkdir()
            _fetch(parts.lock, base / "downloads", temporary, report)
            _unpack(parts.lock, base / "downloads", part, temporary, report)
            report(Progress(stage=STAGE, message="trying it"))
            version = _try_out(part, parts.probe)
            size_mb = round(sum(p.stat().st_size for p in part.rglob("*") if p.is_file()) / 1e6, 1)
            stamp = {"installed_at": now(), "size_mb": size_mb, "python": platform.python_version(), "tried": version}
            write_json(part / _STAMP, stamp)
            if folder.exists():
                shutil.rmtree(folder)  # empty, or what an older attempt left
            part.rename(folder)
            for other in [*_others(base, folder), base / "downloads", temporary]:
                shutil.rmtree(other, ignore_errors=True)
    report(Progress(stage=STAGE, message="installed", done=1, total=1))
    return look(environ, parts=parts)


def remove(environ: Mapping[str, str] = os.environ, *, parts: Parts = TRAINING) -> TrainingState:
    """Deletes what ``install`` put there, whatever version it is for. Raises InputError where nothing was ever put."""
    base = _base(environ)
    if base is None:
        raise InputError("training is no separate part of this installation", hint="pip uninstall tensorflow")
    if base.exists():
        with storage_errors(base), _alone(base):
            folder = folder_of(base, parts)
            for path in [folder, *_others(base, folder), base / "part", base / "downloads", base / "tmp"]:
                shutil.rmtree(path, ignore_errors=True)
    make_room(environ, parts=parts)
    return look(environ, parts=parts)


def make_room(environ: Mapping[str, str] = os.environ, *, parts: Parts = TRAINING) -> None:
    """Makes the empty folder that will hold it: a process that started before the installation then finds it too."""
    base = _base(environ)
    if base is not None:
        folder_of(base, parts).mkdir(parents=True, exist_ok=True)


def link(environ: Mapping[str, str] = os.environ, *, parts: Parts = TRAINING, site: Path | None = None) -> Path:
    """Lets every process of this environment find the folder, from its start on. Returns the path file.

    Raises InputError when no folder is set, StorageError when the environment cannot be written.
    """
    base = _base(environ)
    if base is None:
        raise InputError(f"{VARIABLE} names no folder", hint="it is set in the app of Home Assistant")
    path = (site or Path(sysconfig.get_path("purelib"))) / _PATH_FILE
    wanted = f"{folder_of(base, parts)}\n"
    with storage_errors(path):
        if not path.exists() or path.read_text(encoding="utf-8") != wanted:
            path.write_text(wanted, encoding="utf-8")
    return path


def folder_of(base: Path, parts: Parts = TRAINING) -> Path:
    """Where the packages of this very lock lie for this very Python."""
    digest = hashlib.sha256(parts.lock.read_bytes()).hexdigest()[:12]
    return base / f"{digest}-py{sys.version_info[0]}.{sys.version_info[1]}"


def is_built_in(folder: Path | None, parts: Parts = TRAINING) -> bool:
    """Whether TensorFlow is here without our doing."""
    found = (d for d in importlib.metadata.distributions(name=parts.marker))
    places = [Path(str(d.locate_file(""))).resolve() for d in found]
    return any(folder is None or place != folder.resolve() for place in places)


def _base(environ: Mapping[str, str]) -> Path | None:
    name = environ.get(VARIABLE, "").strip()
    return Path(name).expanduser().absolute() if name else None


def _measure(base: Path) -> tuple[int, int | None]:
    """Bytes of disk and of memory that are free."""
    place = next(place for place in (base, *base.parents) if place.exists())
    return shutil.disk_usage(place).free, available_memory()


def _others(base: Path, folder: Path) -> Iterator[Path]:
    """Folders of other locks or Pythons that hold something."""
    for path in base.glob("*-py3.*"):
        if path.is_dir() and path != folder and any(path.iterdir()):
            yield path


def _read_stamp(folder: Path) -> float | None:
    """The size in MB of what lies there, None where it is not complete."""
    try:
        return float(json.loads((folder / _STAMP).read_text(encoding="utf-8"))["size_mb"])
    except (OSError, ValueError, TypeError, KeyError):
        return None


@contextlib.contextmanager
def _alone(base: Path) -> Iterator[None]:
    """One installation at a time. Raises ToolError."""
    with (base / "lock").open("ab") as lock_file:
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ToolError("training is being installed already", hint="wait until that has ended") from None
        yield


# --- pip -------------------------------------------------------------------------------------------------------------


def _fetch(lock: Path, folder: Path, temporary: Path, report: ProgressSink) -> None:
    """Downloads every package of the lock; those that are there already are only checked."""
    total = lock.read_text(encoding="utf-8").count("==")
    seen = 0
    report(Progress(stage=STAGE, message="downloading", done=0, total=total, unit="packages"))
    folder.mkdir(exist_ok=True)
    place = ["--dest", str(folder), "--find-links", str(folder)]
    arguments = ["download", *place, "--require-hashes", "--requirement", str(lock)]
    for line in _run_pip(arguments, temporary):
        if match := re.match(r"Collecting ([\w.-]+)|Processing (?:\S*/)?([^/\s-]+)-[^/\s]+\.whl", line):
            seen += 1
            message = f"downloading {match[1] or match[2]}"
            report(Progress(stage=STAGE, message=message, done=seen - 1, total=total, unit="packages"))
    report(Progress(stage=STAGE, message="downloaded", done=total, total=total, unit="packages"))


def _unpack(lock: Path, downloads: Path, target: Path, temporary: Path, report: ProgressSink) -> None:
    """Installs what was downloaded, and nothing else."""
    report(Progress(stage=STAGE, message="unpacking"))
    arguments = ["install", "--target", str(target), "--no-compile", "--no-index", "--find-links", str(downloads)]
    for _ in _run_pip([*arguments, "--require-hashes", "--requirement", str(lock)], temporary):
        pass


_PIP = ("--no-input", "--disable-pip-version-check", "--progress-bar", "off", "--no-cache-dir", "--no-deps")


def _run_pip(arguments: Sequence[str], temporary: Path) -> Iterator[str]:
    """Lines of pip's output as they come. Only wheels are taken, so nothing of a package runs. Raises by its reason.

    ``temporary`` lies on the same disk, so that what pip makes there is moved into place without being copied.
    """
    command, *rest = arguments
    full = [sys.executable, "-P", "-m", "pip", command, *_PIP, "--only-binary", ":all:", *rest]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    last: list[str] = []
    with subprocess.Popen(
        full, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as pip:
        assert pip.stdout is not None
        try:
            for line in pip.stdout:
                last = [*last[-200:], line.strip()]
                yield line.strip()
        except BaseException:
            pip.kill()
            raise
    if pip.returncode:
        raise _explain("\n".join(last))


def _explain(said: str) -> StorageError | OfflineError | ToolError | MissingDependencyError:
    """What pip's failure means to the user."""
    again = "run it again: it goes on where it stopped"
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return StorageError("no space left to install training", hint="free some space and run it again")
    if "DO NOT MATCH THE HASHES" in said:
        return ToolError(
            "a downloaded package is not the one that the lock names", hint="do not use this mirror of the index"
        )
    offline = r"Retrying \(|Failed to establish a new connection|Name or service not known|Temporary failure|Timeout"
    if re.search(offline, said, re.IGNORECASE):
        return OfflineError("no connection to the package index", hint=f"check the network, then {again}")
    if missing := re.search(r"No matching distribution found for (\S+)", said):
        machine = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
        return MissingDependencyError(
            f"there is no {missing[1]} for {machine}", hint="train on another computer and use the model here"
        )
    errors = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines()[-1:] or ["nothing"]
    return ToolError(f"pip failed: {errors[-1]}", hint=again)


def _try_out(folder: Path, probe: str) -> str:
    """Imports it once, in a process of its own: what the processor cannot run shows now and not at a training."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-P", "-c", probe]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=_PROBE_S)
    except subprocess.TimeoutExpired:
        raise ToolError(f"TensorFlow does not start within {_PROBE_S:g} s", hint=_WAY_OUT) from None
    if done.returncode < 0:
        raise ToolError(
            "TensorFlow does not run on this processor: it ended with a signal "
            f"({-done.returncode}; 4 means that the processor lacks AVX)",
            hint="train on another computer and use the model here",
        )
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ToolError(f"what was installed does not start: {why}", hint="run it again")
    return (done.stdout.strip().splitlines() or [""])[-1]
