"""ESPHome's dashboards for the tests: the real ones as processes, and what one said as a server that says it again."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import host_device
from aiohttp import web


@contextlib.contextmanager
def running(command: Sequence[str], port: int, home: Path, environment: dict[str, str]) -> Iterator[None]:
    """The process of a dashboard, until its port listens; ended with all its children."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / "dashboard.log"
    known = {key: value for key, value in os.environ.items() if key not in ("USERNAME", "PASSWORD")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**known, "HOME": str(home), **environment},
            start_new_session=True,
        )
    try:
        host_device.wait_until_listening(process, port, log)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def has_classic_dashboard() -> bool:
    """ESPHome brought it along up to 2026.6."""
    return importlib.util.find_spec("esphome") is not None and importlib.util.find_spec("esphome.dashboard") is not None


@contextlib.contextmanager
def classic(folder: Path, home: Path, *, login: str = "", environment: dict[str, str] | None = None) -> Iterator[str]:
    """The classic dashboard on ``folder``; its address. ``login`` is ``user:password``."""
    port = host_device.free_port()
    user, _, password = login.partition(":")
    command = [sys.executable, "-P", "-m", "esphome", "dashboard", str(folder), "--address", "127.0.0.1"]
    command += ["--port", str(port), *(("--username", user, "--password", password) if login else ())]
    with running(command, port, home, environment or {}):
        yield f"http://{login}{'@' if login else ''}127.0.0.1:{port}"


def has_device_builder() -> bool:
    """It needs Python 3.12."""
    return importlib.util.find_spec("esphome_device_builder") is not None


@contextlib.contextmanager
def device_builder(folder: Path, home: Path, *, login: str = "") -> Iterator[str]:
    """The Device Builder on ``folder``; its address. It finds ESPHome beside this interpreter."""
    port, other = host_device.free_port(), host_device.free_port()
    user, _, password = login.partition(":")
    command = [sys.executable, "-P", "-m", "esphome_device_builder", str(folder), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--remote-build-port", str(other)]
    environment = {"ESPHOME_USERNAME": user, "ESPHOME_PASSWORD": password} if login else {}
    with running(command, port, home, environment):
        yield f"http://{login}{'@' if login else ''}127.0.0.1:{port}"


@contextlib.contextmanager
def serve(app: web.Application, ssl_context: object = None) -> Iterator[str]:
    """``app`` in a thread of its own; its address."""
    port = host_device.free_port()
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(app, shutdown_timeout=0.5)

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=ssl_context).start()

    async def stop() -> None:
        await runner.cleanup()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    loop.run_until_complete(start())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield f"{'https' if ssl_context else 'http'}://127.0.0.1:{port}"
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


class Recording:
    """A Device Builder 1.26.0 with ESPHome 2026.10.0, as recorded over ``/ws``: hello, results, events, error codes.

    What it answers was taken down from the real one, addresses and paths shortened. It keeps texts and bundles, and can
    be told to break off in the middle of a job. ``asked`` are the commands in their order.
    """

    HELLO: Mapping[str, object] = {
        "server_version": "1.26.0",
        "esphome_version": "2026.10.0",
        "port": 6052,
        "ha_addon": False,
        "friendly_name": "",
        "ha_ingress": False,
        "requires_auth": False,
        "desktop_version": "",
        "desktop_update_capable": False,
        "in_docker": False,
    }
    COMPILE = (
        "\\033[32mINFO ESPHome 2026.10.0\\033[0m\n",
        "\\033[32mINFO Reading configuration /config/kitchen.yaml...\\033[0m\n",
        "\\033[32mINFO Generating C++ source...\\033[0m\n",
        "\\033[32mINFO Compiling app... Build path: /config/.esphome/build/kitchen\\033[0m\n",
        "[1/3] CXX obj/src/esphome/core/build_info_data.cpp.o\n",
        "[2/3] CXX obj/src/main.cpp.o\n",
        "[3/3] LINK program\n",
        "\\033[32mINFO Build Info: config_hash=0xfe2205a4 build_time_str=2026-11-20 16:42:47 +0000\\033[0m\n",
        "\\033[32mINFO Successfully compiled program to path '/config/.esphome/build/kitchen/program'\\033[0m\n",
    )
    UPLOAD = (
        "\\033[32mINFO Connecting to 127.0.0.1 port 18367...\\033[0m\n",
        "\\033[32mINFO Connected to 127.0.0.1\\033[0m\n",
        "\\033[32mINFO Uploading /config/.esphome/build/kitchen/program (665352 bytes)\\033[0m\n",
        "\r",
        "Uploading: [==                                                          ] 3% \r",
        "Uploading: [===========================================                 ] 71% \r",
        "Uploading: [============================================================] 100% Done...\r\n",
        "\\033[32mINFO OTA successful\\033[0m\n",
        "\\033[32mINFO Successfully uploaded program.\\033[0m\n",
    )
    REFUSED_UPLOAD = (
        "\\033[32mINFO Connecting to 127.0.0.1 port 18369...\\033[0m\n",
        "\\033[33mWARNING Connecting to 127.0.0.1 port 18369 failed: [Errno 111] Connection refused\\033[0m\n",
        "\\033[31mERROR Upload failed after 3 attempts: connecting to 127.0.0.1 failed: [Errno 111] refused\\033[0m\n",
        "\\033[33mWARNING Failed to upload to ['127.0.0.1']\\033[0m\n",
    )

    def __init__(self, *, login: tuple[str, str] | None = None, resolved: dict[str, object] | None = None) -> None:
        self.login = login
        self.resolved = {"substitutions": {}} if resolved is None else resolved
        self.files: dict[str, bytes] = {}
        self.secrets: dict[str, str] = {}
        self.asked: list[str] = []
        self.jobs: dict[str, tuple[tuple[str, ...], dict[str, object]]] = {}
        self.says: dict[str, tuple[tuple[str, ...], int]] = {"compile": (self.COMPILE, 0), "upload": (self.UPLOAD, 0)}
        self.breaks_after: list[int] = []  # lines of the next followings, after which the connection ends
        self.refuses: dict[str, tuple[str, str]] = {}
        self.hello: dict[str, object] = {**self.HELLO, "requires_auth": login is not None}
        self.result: dict[str, object] = {}
        self.stands_still = False
        self.app = web.Application()
        self.app.router.add_get("/ws", self._socket)
        self.app.router.add_get("/json-config", self._json_config)
        self.app.router.add_post("/api/devices/import_bundle", self._import)

    async def _json_config(self, request: web.Request) -> web.Response:
        if request.query["configuration"] not in self.files:
            return web.json_response({"error": "Not found"}, status=404)
        if not self.resolved:
            return web.json_response({"error": "Configuration is invalid"}, status=422)
        return web.json_response(self.resolved)

    async def _import(self, request: web.Request) -> web.Response:
        import io
        import tarfile

        if request.query.get("token") != "token-once":
            raise web.HTTPNotFound
        allowed = request.query.getall("overwrite", [])
        written, kept = [], []
        with tarfile.open(fileobj=io.BytesIO(await request.read()), mode="r:gz") as archive:
            for member in archive.getmembers():
                if member.name == "manifest.json":
                    continue
                if member.name in self.files and member.name not in allowed:
                    kept.append(member.name)
                    continue
                file = archive.extractfile(member)
                assert file is not None
                self.files[member.name] = file.read()
                written.append(member.name)
        return web.json_response({"status": "imported", "conflicts": [], "written": written, "kept": kept})

    async def _socket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json(self.hello)
        allowed = self.login is None
        async for message in socket:
            command = message.json()
            name, id, arguments = command["command"], command["message_id"], command["args"]
            self.asked.append(name)
            answer: dict[str, object] = {"message_id": id}
            if name == "auth/login":
                allowed = (arguments["username"], arguments["password"]) == self.login
                answer |= {"result": {"token": "t", "expires_at": 1.0}} if allowed else self._error("not_authenticated")
            elif not allowed:
                answer |= self._error("not_authenticated")
            elif name in self.refuses:
                answer |= self._error(*self.refuses[name])
            elif name == "firmware/follow_job":
                if await self._follow(socket, id, arguments["job_id"]):
                    break
                if self.stands_still:
                    continue
                answer["result"] = None
            else:
                answer |= self._answer(name, arguments)
            await socket.send_json(answer)
        return socket

    @staticmethod
    def _error(code: str, details: str = "Authentication required") -> dict[str, object]:
        return {"error_code": code, "details": details}

    def _answer(self, name: str, arguments: dict[str, str]) -> dict[str, object]:
        if name == "devices/get_config":
            path = arguments["configuration"]
            if path not in self.files:
                return self._error("not_found", f"Device '{path.rpartition('.')[0]}' not found")
            return {"result": self.files[path].decode()}
        if name in ("firmware/compile", "firmware/upload"):
            lines, code = self.says[name.rpartition("/")[2]]
            id = f"job{len(self.jobs)}"
            status = "completed" if code == 0 else "failed"
            end: dict[str, object] = {"status": status, "exit_code": code, "error": None, "queued_update_armed": False}
            self.jobs[id] = (lines, {**end, **self.result})
            return {"result": {"job_id": id, "status": "running", "port": arguments.get("port", "")}}
        if name == "config/set_secret":
            self.secrets.setdefault(arguments["key"], arguments["value"])
            return {"result": {"created": True}}
        answers: dict[str, object] = {
            "config/get_secrets": sorted(self.secrets),
            "config/serial_ports": [{"port": "/dev/ttyUSB7", "desc": "USB"}],
            "devices/import_bundle_token": {"token": "token-once"},
            "firmware/cancel": None,
            "auth/logout": {"logged_out": True},
            "editor/validate_yaml": {
                "yaml_errors": [],
                "validation_errors": [{"range": {"start_line": 3}, "message": "Component not found: foo."}],
            },
        }
        if name not in answers:
            return self._error("unknown_command", f"Unknown command: {name}")
        return {"result": answers[name]}

    async def _follow(self, socket: web.WebSocketResponse, id: str, job: str) -> bool:
        """Tells a job from its start; True when the connection was ended in the middle."""
        lines, end = self.jobs[job]
        breaks = self.breaks_after.pop(0) if self.breaks_after else None
        for number, line in enumerate(lines):
            if number == breaks:
                await socket.close()
                return True
            await socket.send_json({"message_id": id, "event": "output", "data": line})
        if not self.stands_still:
            await socket.send_json({"message_id": id, "event": "result", "data": end})
        return False
