"""A real ESPHome device that runs on this machine: native API and over-the-air updates on loopback, no sound, no model.

``make(folder, name, yaml_text)`` generates and compiles, ESPHome 2026.10 by itself, an older one by the system's g++;
``HostDevice(...)`` runs the program. An update over the air replaces the process's image, as a reboot would, under the
same process id.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import host_build

from mww_ha.deploy import esphome

_FIRST_PORT, _PORTS_EACH, _WORKERS = 12_000, 1250, 16  # all below those that the system gives to who asks for any


def _own_ports() -> Iterator[int]:
    """The ports of this worker, or of this process where there are no workers; each process begins elsewhere."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    number = int(worker.removeprefix("gw")) if worker else os.getpid()
    first = _FIRST_PORT + number % _WORKERS * _PORTS_EACH
    for step in range(_PORTS_EACH):
        yield first + (os.getpid() * 97 + step) % _PORTS_EACH


_PORTS = _own_ports()


def free_port() -> int:
    """A TCP port that nothing listens on, each time another. No socket gets it by chance until it is used."""
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise AssertionError("no port is left")


def wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path, limit_s: float = 60) -> None:
    """Returns when ``process``, which writes ``log``, listens on ``port``. Raises AssertionError with what it said."""
    until = time.monotonic() + limit_s
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")[-2000:]
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    said = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise AssertionError(f"nothing listens on {port}:\n{said}")


def make(folder: Path, name: str, yaml_text: str) -> Path:
    """Writes ``<folder>/<name>.yaml``, generates its source with ESPHome and compiles it. Returns the program.

    From 2026.10 on ESPHome compiles for this machine without the internet, and tells no compiler flags before it does.
    """
    command = esphome.find_esphome()
    assert command is not None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml_text, encoding="utf-8")
    code, output = esphome.run_esphome([*command, "compile", "--only-generate", f"{name}.yaml"], folder, 120)
    assert code == 0, output
    if (folder / ".esphome" / "build" / name / "platformio.ini").is_file():
        return host_build.build(folder, name)
    code, output = esphome.run_esphome([*command, "compile", f"{name}.yaml"], folder, 600)
    assert code == 0, output
    return folder / ".esphome" / "build" / name / ".pioenvs" / name / "program"


class HostDevice:
    """The running program; a context manager. ``log()`` is what it wrote so far."""

    def __init__(self, program: Path, *, api_port: int, home: Path) -> None:
        self.program, self.api_port, self.home = program, api_port, home
        self._log = home / "device.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the device and waits until its API listens."""
        self.home.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ["stdbuf", "-oL", str(self.program)],  # its log line by line, as on a serial port
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=self.home,
                env={**os.environ, "HOME": str(self.home)},  # where it keeps its preferences
                start_new_session=True,
            )
        wait_until_listening(self._process, self.api_port, self._log)

    def stop(self) -> None:
        """Ends the device at once, as pulling the plug would."""
        process, self._process = self._process, None
        if process is not None:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def log(self) -> str:
        """What the device wrote, over all its starts."""
        return self._log.read_text(encoding="utf-8", errors="replace") if self._log.exists() else ""
