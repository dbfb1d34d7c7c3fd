"""A real mosquitto on loopback: with a password, stoppable, on a port of its own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from host_device import free_port, wait_until_listening

USER, PASSWORD = "mww", "a password of a test"


def find_mosquitto() -> str:
    """The program, or "": Debian puts it where only root's PATH looks."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin") or ""


class Mosquitto:
    """The running broker; a context manager. ``stop`` and ``start`` play a restart."""

    def __init__(self, folder: Path, *, certificate: Path | None = None, key: Path | None = None) -> None:
        self.port = free_port()
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        passwords = folder / "passwords"
        passwords.touch(mode=0o600)
        tool = shutil.which("mosquitto_passwd") or "/usr/bin/mosquitto_passwd"
        subprocess.run([tool, "-b", passwords, USER, PASSWORD], check=True, capture_output=True)
        lines = [
            f"listener {self.port} 127.0.0.1",
            "allow_anonymous false",
            f"password_file {passwords}",
            "persistence true",
            "autosave_interval 1",
            "autosave_on_changes true",
            f"persistence_location {folder}/",
            "user root",
        ]
        if certificate and key:
            lines[1:1] = [f"certfile {certificate}", f"keyfile {key}"]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        with (self._folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                [find_mosquitto(), "-c", self._folder / "mosquitto.conf"], stdout=log, stderr=log
            )
        wait_until_listening(self._process, self.port, self._folder / "broker.log", 30)

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(60)
            self._process = None

    def forget(self) -> None:
        """What it held is gone, as in a broker without persistence. Only while it is stopped."""
        for kept in self._folder.glob("*.db"):
            kept.unlink()
