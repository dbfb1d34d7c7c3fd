"""What is here, what is missing, and what to do about each gap. Looks without importing anything heavy."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mww_ha import __version__
from mww_ha.errors import MwwError, how_to_install

OK, GAP, BROKEN = "ok", "gap", "broken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One line. ``state``: ok; gap (something optional is missing); broken (what is here does not work)."""

    name: str
    state: str
    found: str
    way_out: str = ""


_PACKAGES = (
    # distribution, module, what is lost without it, extra ("" = part of every installation)
    ("ai-edge-litert", "ai_edge_litert", "no model can run", ""),
    ("pymicro-features", "pymicro_features", "no features", ""),
    ("soundfile", "soundfile", "no sound can be read", ""),
    ("tensorflow", "tensorflow", "no training", "train"),
    ("tflite-micro", "tflite_micro", "models are checked on the reference kernels alone and marked so", "train"),
    ("pymicro-wakeword", "pymicro_wakeword", "models are not tried in Home Assistant's own software", "train"),
    ("espeakng-loader", "espeakng_loader", "no built-in voices", "tts"),
    ("piper-tts", "piper", "no Piper voices", "tts"),
    ("wyoming", "wyoming", "no voices from a Wyoming server", "tts"),
    ("wordfreq", "wordfreq", "no word list for confusables", "tts"),
    ("esphome", "esphome", "YAML is rendered unchecked and nothing can be flashed", "flash"),
)

_NOT_EVERYWHERE = {
    "tflite-micro": ("Linux", "x86_64"),
    "pymicro-wakeword": ("Linux", ""),
}
"""Packages without a wheel for other systems: the system and the machine they exist for ("" = all)."""

_LEAST_DISK_GB = 5.0  # a project at effort best: clips, features, a few runs
_LEAST_MEMORY_GB = 2.0  # peak of a quickstart


def examine(root: Path | None, *, wanted: bool = False) -> list[Item]:
    """All items; those of the project only when ``root`` has one. ``wanted``: without one there, that is an item."""
    here, problem = _find_project(root, wanted=wanted) if root is not None else (None, None)
    items = [*_system(), *_packages(), _gpu(), _voices(here), _disk(root or Path.cwd()), _memory()]
    if here is not None:
        for look in (_project, _service, _devices):
            try:
                items += look(here)
            except PermissionError as error:
                items.append(_denied("project", Path(error.filename or here)))
    elif problem is not None:
        items.append(problem)
    return items


def _find_project(root: Path, *, wanted: bool) -> tuple[Path | None, Item | None]:
    """``root`` where it holds a project, or what is wrong with it."""
    try:
        if (root / "project.yaml").is_file():
            return root, None
        if not wanted:
            return None, None
        found = f"no project.yaml in {root}" if root.is_dir() else f"there is no folder {root}"
    except PermissionError:
        return None, _denied("project", root)
    way_out = f'start one there with: mww-ha new "hey kitchen" --project {root}, or name another folder'
    return None, Item(name="project", state=BROKEN, found=found, way_out=way_out)


def _denied(name: str, path: Path) -> Item:
    way_out = f"run it as {_owner(path)}, or change owner or permissions"
    return Item(name=name, state=BROKEN, found=f"{path} may not be looked into", way_out=way_out)


def _owner(path: Path) -> str:
    for place in (path, *path.parents):
        try:
            return place.owner()
        except (OSError, KeyError, NotImplementedError):  # not to be seen; a user without a name
            continue
    return "its owner"


def _system() -> Iterator[Item]:
    here = "installed" if importlib.util.find_spec("mww_ha") is not None else "not on the path"
    yield Item(name="mww-ha", state=OK, found=f"{__version__}, {here} in {Path(__file__).parent}")
    version = platform.python_version()
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield Item(name="Python", state=OK, found=f"{version} ({sys.executable})")
    else:
        yield Item(name="Python", state=BROKEN, found=version, way_out="use Python 3.11, 3.12 or 3.13")
    libc = " ".join(platform.libc_ver())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.machine()} {libc}".strip()
    if platform.system() in ("Linux", "Darwin"):
        yield Item(name="system", state=OK, found=f"{system}, {cores} cores")
    else:
        yield Item(name="system", state=GAP, found=system, way_out="mww-ha is tested on Linux; on Windows use WSL 2")


def _packages() -> Iterator[Item]:
    for name, module, loss, extra in _PACKAGES:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        if version and importlib.util.find_spec(module) is not None:
            yield Item(name=name, state=OK, found=version)
        elif version:
            again = f"pip install --force-reinstall {name}"
            yield Item(name=name, state=BROKEN, found=f"{version}, but its files are gone", way_out=again)
        elif not extra:
            yield Item(name=name, state=BROKEN, found=f"missing: {loss}", way_out=f"pip install {name}")
        elif not _exists_here(name):
            system = f"{platform.system()} {platform.machine()}"
            yield Item(name=name, state=GAP, found=f"missing: {loss}", way_out=f"there is none for {system}")
        elif name == "esphome" and (program := shutil.which(name)):
            yield Item(name=name, state=OK, found=f"{program}, in an environment of its own")
        else:
            yield Item(name=name, state=GAP, found=f"missing: {loss}", way_out=how_to_install(extra))


def _exists_here(name: str) -> bool:
    system, machine = _NOT_EVERYWHERE.get(name, ("", ""))
    return system in ("", platform.system()) and machine in ("", platform.machine())


def _gpu() -> Item:
    none = "none: everything runs on the processor, which is what the defaults are made for"
    command = shutil.which("nvidia-smi")
    if command is None:
        return Item(name="GPU", state=OK, found=none)
    query = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Item(name="GPU", state=GAP, found=f"nvidia-smi does not answer: {error}", way_out="check its driver")
    if answer.returncode != 0:
        said = (answer.stderr or answer.stdout).strip().splitlines()
        why = said[0] if said else f"exit code {answer.returncode}"
        return Item(name="GPU", state=GAP, found=f"nvidia-smi fails: {why}", way_out="install or update its driver")
    found = "; ".join(line.strip() for line in answer.stdout.splitlines() if line.strip())
    if not found:
        return Item(name="GPU", state=OK, found=none)
    if not any(importlib.util.find_spec(module) for module in ("cupy", "cupy_backends")):
        return Item(name="GPU", state=GAP, found=f"{found}; unused", way_out=how_to_install("gpu"))
    return Item(name="GPU", state=OK, found=found)


def _voices(root: Path | None) -> Item:
    from mww_ha.synthesize.voices import find_voices

    language, dirs = "en", list[Path]()
    addresses: tuple[str, ...] = ()
    if root is not None and (root / "project.yaml").is_file():
        from mww_ha import config

        try:
            settings = config.load(root / "project.yaml")
        except MwwError as error:
            return Item(name="voices", state=BROKEN, found=error.message, way_out=error.hint)
        language, addresses = settings.language, tuple(settings.synthesize.wyoming)
        dirs = [root / "voices", *(Path(d).expanduser() for d in settings.synthesize.voice_dirs)]
    try:
        found = find_voices(language, dirs, addresses)
    except MwwError as error:
        return Item(name="voices", state=GAP, found=error.message, way_out=error.hint)
    engines = Counter(voice.engine for voice in found)
    if not engines:
        return Item(name="voices", state=GAP, found=f"nobody speaks {language}", way_out=how_to_install("tts"))
    counted = f"for {language}: " + ", ".join(f"{count} {engine}" for engine, count in sorted(engines.items()))
    if not {"piper", "wyoming", "home_assistant"} & set(engines):
        better = "more natural ones make better models: mww-ha voices download"
        return Item(name="voices", state=GAP, found=counted, way_out=better)
    return Item(name="voices", state=OK, found=counted)


def _disk(folder: Path) -> Item:
    while not folder.exists():
        folder = folder.parent
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < _LEAST_DISK_GB:
        way_out = f"free some: a project at --effort best takes up to {_LEAST_DISK_GB:.0f} GB"
        return Item(name="disk", state=GAP, found=f"{free_gb:.1f} GB free for {folder}", way_out=way_out)
    return Item(name="disk", state=OK, found=f"{free_gb:.1f} GB free for {folder}")


def _memory() -> Item:
    try:
        total_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError):
        return Item(name="memory", state=OK, found="unknown")
    if total_gb < _LEAST_MEMORY_GB:
        way_out = f"training needs {_LEAST_MEMORY_GB:.0f} GB: train on another computer, use the model here"
        return Item(name="memory", state=GAP, found=f"{total_gb:.1f} GB", way_out=way_out)
    return Item(name="memory", state=OK, found=f"{total_gb:.1f} GB")


def _project(root: Path) -> Iterator[Item]:
    """The catalogue's own check, and its rows against the files beside it. Opens it read-only."""
    path = root / "catalogue.sqlite"
    if not path.exists():
        yield Item(name="catalogue", state=OK, found="none yet")
        return
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10)
        try:
            verdict = [row[0] for row in database.execute("PRAGMA integrity_check(3)")]
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
            paths = [row[0] for row in database.execute("SELECT DISTINCT path FROM clips")]
            if "captures" in tables:  # a project of an older version has none yet
                paths += [row[0] for row in database.execute("SELECT path FROM captures WHERE path != ''")]
        finally:
            database.close()
    except sqlite3.Error as error:
        yield _explain("catalogue", path, error, _RESCUE)
        return
    if verdict != ["ok"]:
        yield Item(name="catalogue", state=BROKEN, found=f"{path}: {'; '.join(verdict)}", way_out=_RESCUE)
        return
    yield Item(name="catalogue", state=OK, found=f"{path}, {len(paths)} sound files")
    missing = [name for name in paths if not (root / name).is_file()]
    if missing:
        found = f"{len(missing)} of {len(paths)} are missing, such as {missing[0]}"
        way_out = "put them back from a backup; synthesized ones are made again by: mww-ha synthesize"
        yield Item(name="sound files", state=BROKEN, found=found, way_out=way_out)
    known = set(paths)
    files = [p for folder in ("audio", "captures") for p in (root / folder).rglob("*") if p.is_file()]
    stray = [p for p in files if p.relative_to(root).as_posix() not in known]
    if stray:
        found = f"{len(stray)} files without a row in the catalogue, such as {stray[0].relative_to(root)}"
        way_out = "left by an interrupted run; harmless, import them or delete them"
        yield Item(name="stray files", state=GAP, found=found, way_out=way_out)


def _service(root: Path) -> Iterator[Item]:
    """The service's own database: its queue, and who is signed in."""
    path = root / "service" / "service.sqlite"
    if not path.exists():
        return
    try:
        database = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=10)
        try:
            verdict = [row[0] for row in database.execute("PRAGMA integrity_check(3)")]
        finally:
            database.close()
    except sqlite3.Error as error:
        yield _explain("service", path, error, _SERVICE_RESCUE.format(path))
        return
    if verdict == ["ok"]:
        yield Item(name="service", state=OK, found=str(path))
    else:
        found = f"{path}: {'; '.join(verdict)}"
        yield Item(name="service", state=BROKEN, found=found, way_out=_SERVICE_RESCUE.format(path))


def _explain(name: str, path: Path, error: sqlite3.Error, rescue: str) -> Item:
    """What SQLite says of a database: only a damaged one is to be rescued."""
    from mww_ha.store import sqlite_code

    code = sqlite_code(error)
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM) and path.is_file():
        # SQLite writes beside a database also to read it.
        found = f"{path} was not looked at: this user may not read it and write beside it"
        way_out = f"nothing is known to be damaged; run it as {_owner(path)}, or change owner or permissions"
    elif code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        found = f"{path} was not looked at: another program is at work in it"
        way_out = "wait until that is done, then try again"
    else:
        found, way_out = f"{path}: {error}", rescue
    return Item(name=name, state=BROKEN, found=found, way_out=way_out)


def _devices(root: Path) -> Iterator[Item]:
    from mww_ha.devices.known import read_devices

    path = root / "devices.yaml"
    if not path.exists():
        return
    try:
        names = ", ".join(read_devices(path))
    except MwwError as error:
        yield Item(name="devices", state=BROKEN, found=error.message, way_out=error.hint)
    else:
        yield Item(name="devices", state=OK, found=f"{path}: {names or 'none yet'}")


_SERVICE_RESCUE = "move {} away: the queue of jobs is lost, and mww-ha serve makes a new token for its page"
_RESCUE = "keep a copy, then try: sqlite3 catalogue.sqlite '.recover' | sqlite3 new.sqlite"
