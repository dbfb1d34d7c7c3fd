"""Builds an ESPHome configuration for the ``host`` platform with the system's g++: a device that runs on this machine.

ESPHome up to 2026.6 cannot compile for ``host`` without the internet, but it generates the whole source tree. Objects
are kept by the hash of what the compiler sees, so a second build compiles what changed and no more.
"""

from __future__ import annotations

import concurrent.futures
import configparser
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


def cache_dir() -> Path:
    """Where objects are kept between runs: harmless to delete."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mww-ha-tests" / "objects"


def build(folder: Path, name: str) -> Path:
    """The program of device ``name``, from the tree that ``esphome compile --only-generate`` left in ``folder``.

    Raises RuntimeError with the compiler's words.
    """
    root = folder / ".esphome" / "build" / name
    ini = configparser.ConfigParser(interpolation=None)
    ini.read(root / "platformio.ini")
    flags = ini[f"env:{name}"]["build_flags"].split()
    libraries = [flag for flag in flags if flag.startswith("-l")]
    options = ["-Os", *(flag for flag in flags if not flag.startswith("-l")), f"-I{root / 'src'}"]
    sources = sorted([*(root / "src").rglob("*.cpp"), *(root / "src").rglob("*.c")])
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda source: _compile(source, options), sources))
    program = root / ".pioenvs" / name / "program"
    program.parent.mkdir(parents=True, exist_ok=True)
    _run(["g++", "-o", str(program), *map(str, objects), *libraries, "-lpthread"])
    return program


def _compile(source: Path, options: list[str]) -> Path:
    compiler = "g++"
    if source.suffix == ".c":
        compiler, options = "gcc", [o for o in options if not o.startswith("-std=") and o != "-fno-exceptions"]
    command = [compiler, *options]
    seen = _run([*command, "-E", "-P", str(source)])
    key = hashlib.sha256(b"\0".join([" ".join(o for o in command if not o.startswith("-I")).encode(), seen]))
    made = cache_dir() / f"{key.hexdigest()}.o"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(suffix=".o", dir=made.parent)
        os.close(handle)
        _run([*command, "-c", str(source), "-o", name])
        Path(name).replace(made)
    return made


def _run(command: list[str]) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:2])} ... {command[-1]}\n{done.stderr.decode(errors='replace')[-3000:]}")
    return done.stdout
