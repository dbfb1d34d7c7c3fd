"""A real Home Assistant core on loopback, installed from PyPI into an environment of its own."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from host_device import free_port

CLIENT_ID = "http://127.0.0.1/"
# What every core sets up by itself, and what the tests use.
INTEGRATIONS = [
    "application_credentials",
    "backup",
    "frontend",
    "hardware",
    "logger",
    "network",
    "system_health",
    "automation",
    "person",
    "scene",
    "script",
    "tag",
    "zone",
    "counter",
    "input_boolean",
    "input_button",
    "input_datetime",
    "input_number",
    "input_select",
    "input_text",
    "schedule",
    "timer",
    "mqtt",
    "onboarding",
    "analytics",
    "recorder",
    "api",
    "websocket_api",
    "config",
    "persistent_notification",
]
SATELLITE_INTEGRATIONS = [
    "assist_pipeline",
    "assist_satellite",
    "conversation",
    "stt",
    "tts",
    "media_source",
    "ffmpeg",
    "labs",
    "esphome",
    "diagnostics",
]
_READ_REQUIREMENTS = """
import json, pathlib, sys, homeassistant
root, todo, seen, wanted = pathlib.Path(homeassistant.__file__).parent / "components", sys.argv[1:], set(), set()
while todo:
    name = todo.pop()
    if name in seen or not (root / name / "manifest.json").is_file():
        continue
    seen.add(name)
    manifest = json.loads((root / name / "manifest.json").read_text())
    todo += manifest.get("dependencies", [])
    wanted |= set(manifest.get("requirements", []))
print(json.dumps([sorted(wanted), str(root.parent / "package_constraints.txt")]))
"""


def version_for_this_python() -> str:
    """The newest release that this Python can run; empty where there is none."""
    if sys.version_info >= (3, 13, 2):
        return "2026.2.3"
    return {(3, 11): "2024.3.3", (3, 12): "2025.1.4"}.get(sys.version_info[:2], "")


def has_satellites(version: str) -> bool:
    """Whether a satellite can be asked, and its audio be had, in this release."""
    return int(version.split(".", maxsplit=1)[0]) >= 2026


def find_or_install() -> tuple[Path | None, str, str]:
    """(the ``hass`` program, its version, "") or (None, "", why there is none). MWW_TEST_HASS names a program."""
    named = os.environ.get("MWW_TEST_HASS", "")
    if named:
        told = subprocess.run([named, "--version"], check=True, capture_output=True, text=True, timeout=60)
        return Path(named), told.stdout.strip(), ""
    version = version_for_this_python()
    if not version:
        return None, "", f"no release of Home Assistant is known for Python {sys.version.split()[0]}"
    program, why = install(version)
    return program, version if program else "", why


# What has changed since a release and is not bounded by it.
BOUNDS = {"2024.3.3": ["josepy<2"]}


def install(version: str) -> tuple[Path | None, str]:
    """(the ``hass`` program, "") or (None, why not). Kept between runs; two test processes wait for each other."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mww-ha-tests"
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "home-assistant.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _install(version, cache / f"home-assistant-{version}")


def _install(version: str, folder: Path) -> tuple[Path | None, str]:
    program = folder / "bin" / "hass"
    if (folder / "complete").is_file():
        return program, ""
    python = folder / "bin" / "python"
    names = [*INTEGRATIONS, *(SATELLITE_INTEGRATIONS if has_satellites(version) else ())]
    try:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True, timeout=120)
        pip = [python, "-m", "pip", "install", "-q"]
        subprocess.run([*pip, f"homeassistant=={version}"], check=True, capture_output=True, timeout=1500)
        read = subprocess.run([python, "-c", _READ_REQUIREMENTS, *names], check=True, capture_output=True, timeout=60)
        wanted, constraints = json.loads(read.stdout)
        subprocess.run(
            [*pip, "-c", constraints, *wanted, *BOUNDS.get(version, [])], check=True, capture_output=True, timeout=1500
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", b"") or b"").decode(errors="replace").strip().splitlines()
        return None, f"homeassistant=={version} could not be installed: {said[-1] if said else error}"
    (folder / "complete").write_text("", encoding="utf-8")
    return program, ""


class HomeAssistant:
    """The running program; an async context manager. After entering, ``token`` is an administrator's."""

    def __init__(self, program: Path, folder: Path, *, extra_yaml: str = "") -> None:
        self.program, self.folder, self.port = program, folder, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.token = ""
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        text = f"homeassistant:\n  name: Test\nhttp:\n  server_host: 127.0.0.1\n  server_port: {self.port}\n"
        (folder / "configuration.yaml").write_text(f"{text}api:\nconfig:\n{extra_yaml}", encoding="utf-8")

    async def __aenter__(self) -> Self:
        self.start()
        try:
            await self.wait_running(without_token=True)
            await self._onboard()
            await self.wait_running()
        except BaseException:
            self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def start(self) -> None:
        with (self.folder / "output.txt").open("ab") as output:
            self._process = subprocess.Popen(
                [self.program, "-c", self.folder, "--skip-pip"],
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": "", "PYTHONWARNINGS": "ignore"},
            )

    def stop(self) -> None:
        process = self._process
        if process is None:
            return
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._process = None

    def log(self) -> str:
        return (self.folder / "output.txt").read_text(encoding="utf-8", errors="replace")

    async def wait_running(self, *, without_token: bool = False, limit_s: float = 180) -> None:
        """Until the pages answer, or with a token until the core says that it runs."""
        deadline = time.monotonic() + limit_s
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < deadline:
                assert self._process is not None
                assert self._process.poll() is None, self.log()[-3000:]
                try:
                    if without_token:
                        async with session.get(f"{self.url}/api/onboarding") as answer:
                            if answer.status == 200:
                                return
                    else:
                        headers = {"Authorization": f"Bearer {self.token}"}
                        async with session.get(f"{self.url}/api/config", headers=headers) as answer:
                            if answer.status == 200 and (await answer.json())["state"] == "RUNNING":
                                return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.5)
        raise AssertionError(f"Home Assistant did not start:\n{self.log()[-3000:]}")

    async def _onboard(self) -> None:
        user = {
            "name": "Owner",
            "username": "owner",
            "password": "owner-of-a-test",
            "client_id": CLIENT_ID,
            "language": "en",
        }
        async with aiohttp.ClientSession() as session:
            code = (await self._post(session, "/api/onboarding/users", json=user))["auth_code"]
            grant = {"grant_type": "authorization_code", "code": code, "client_id": CLIENT_ID}
            self.token = (await self._post(session, "/auth/token", data=grant))["access_token"]
            async with session.ws_connect(f"{self.url}/api/websocket") as socket:
                await socket.receive_json()
                await socket.send_json({"type": "auth", "access_token": self.token})
                await socket.receive_json()
                wish = {"id": 1, "type": "auth/long_lived_access_token", "client_name": "mww-ha", "lifespan": 1}
                await socket.send_json(wish)
                self.token = (await socket.receive_json())["result"]

    async def _post(self, session: aiohttp.ClientSession, path: str, **body: Any) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        async with session.post(f"{self.url}{path}", headers=headers, **body) as answer:
            assert answer.status == 200, (path, answer.status, await answer.text())
            return await answer.json()

    async def add_integration(self, handler: str, data: dict[str, Any] | None = None) -> None:
        """Sets an integration up, as its page does."""
        async with aiohttp.ClientSession() as session:
            flow = await self._post(session, "/api/config/config_entries/flow", json={"handler": handler})
            if data is not None:
                flow = await self._post(session, f"/api/config/config_entries/flow/{flow['flow_id']}", json=data)
            assert flow["type"] == "create_entry", flow
