"""Speaks Home Assistant's WebSocket and REST API on loopback, word for word as its core does.

Checked against the core's source of 2024.3, 2026.2 and 2026.11: phases of authentication and their texts, ids that
have to rise, results with ``success``, error codes, events with the id of their subscription, messages that come as a
list once ``coalesce_messages`` was asked for, ``pong``. What tests steer is public: ``registry``, ``runs``, ``on``.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import WSMsgType, web
from host_device import free_port

TOKEN = "an.access.token-of-the-fake"
VERSION = "2026.11.0"
Say = Callable[[Any], Awaitable[None]]


@dataclass
class Registry:
    """What the list commands answer."""

    entities: list[dict[str, Any]] = field(default_factory=list)
    devices: list[dict[str, Any]] = field(default_factory=list)
    areas: list[dict[str, Any]] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    users: list[dict[str, Any]] = field(default_factory=list)
    diagnostics: dict[str, dict[str, Any]] = field(default_factory=dict)  # by config entry id
    engines: list[dict[str, Any]] = field(default_factory=list)  # of text-to-speech
    voices: dict[tuple[str, str], list[dict[str, str]] | None] = field(default_factory=dict)  # by engine and language


class Refusal(Exception):  # noqa: N818  (its core calls it an error message)
    """An error result."""

    def __init__(self, code: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.told = {"code": code, "message": message, **more}


class FakeHomeAssistant:
    """The server; an async context manager. ``stop`` and ``start`` play a restart, ``cut`` a lost connection."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.registry = Registry()
        self.token = TOKEN
        self.received: list[dict[str, Any]] = []  # commands, of all connections
        self.fired: list[tuple[str, Any]] = []
        self.services: dict[str, Callable[[dict[str, Any]], Awaitable[Any]]] = {}
        self.pipelines: dict[str, dict[str, list[dict[str, Any]]]] = {}  # pipeline → run → events
        self.speak: Callable[[dict[str, Any]], bytes | None] | None = None  # a wish → a sound file
        self.wishes: list[dict[str, Any]] = []
        self.sent: list[bytes] = []
        self.mute: set[str] = set()  # commands that get no answer
        self.connections = 0
        self.coalesced = 0  # messages sent as part of a list
        self._audio: dict[str, asyncio.Queue[bytes | None]] = {}
        self.overflow = False
        self.deaf = False  # takes nothing in and answers no ping, as a machine that hangs
        self._open: list[_Link] = []
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/api/websocket", self._websocket)
        app.router.add_get("/api/config", self._config)
        app.router.add_get("/api/states/{entity_id}", self._state)
        app.router.add_get("/api/diagnostics/config_entry/{id}", self._diagnostics)
        app.router.add_post("/api/tts_get_url", self._tts_get_url)
        app.router.add_get("/api/tts_proxy/{name}", self._tts_proxy)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await self._site.start()

    async def stop(self) -> None:
        if self._site is not None:  # first: who is thrown out comes back at once
            await self._site.stop()
            self._site = None
        for link in list(self._open):
            await link.end()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def cut(self) -> None:
        """Every connection ends as when a cable is pulled: no close message."""
        for link in list(self._open):
            assert link.socket._req is not None
            transport = link.socket._req.transport
            assert transport is not None
            transport.abort()

    def hear(self, device_id: str, audio: bytes | None) -> bool:
        """Gives a capture of the device some audio, or its end. Whether somebody captures."""
        queue = self._audio.get(device_id)
        if queue is not None:
            queue.put_nowait(audio)
        return queue is not None

    async def fire(self, type: str, data: Any) -> None:
        """An event of the bus, to all who subscribed."""
        event = {"event_type": type, "data": data, "origin": "LOCAL", "time_fired": "2026-11-20T12:00:00+00:00"}
        for link in list(self._open):
            for id, wanted in list(link.listening.items()):
                if wanted in {type, "*"}:
                    await link.say({"id": id, "type": "event", "event": event})

    # REST

    def _check(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            raise web.HTTPUnauthorized(text="401: Unauthorized")

    async def _config(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.json_response({"version": VERSION, "state": "RUNNING"})

    async def _state(self, request: web.Request) -> web.Response:
        self._check(request)
        for state in self.registry.states:
            if state["entity_id"] == request.match_info["entity_id"]:
                return web.json_response(state)
        return web.json_response({"message": "Entity not found."}, status=404)

    async def _diagnostics(self, request: web.Request) -> web.Response:
        self._check(request)
        data = self.registry.diagnostics.get(request.match_info["id"])
        if data is None:
            raise web.HTTPNotFound
        return web.json_response({"home_assistant": {}, "data": data})

    async def _tts_get_url(self, request: web.Request) -> web.Response:
        self._check(request)
        wish = await request.json()
        known = {engine["engine_id"] for engine in self.registry.engines}
        if not wish.get("engine_id") or not wish.get("message"):
            return web.json_response({"message": "Must specify platform and message"}, status=400)
        if wish["engine_id"] not in known:
            return web.json_response({"error": f"Provider {wish['engine_id']} not found"}, status=400)
        self.wishes.append(wish)
        path = f"/api/tts_proxy/{len(self.wishes) - 1}.wav"
        return web.json_response({"url": f"{self.url}{path}", "path": path})

    async def _tts_proxy(self, request: web.Request) -> web.Response:
        """Open to everybody who knows the name, as its core's is."""
        assert self.speak is not None
        sound = self.speak(self.wishes[int(request.match_info["name"].removesuffix(".wav"))])
        self.sent.append(sound or b"")
        return web.Response(status=500) if sound is None else web.Response(body=sound, content_type="audio/wav")

    # WebSocket

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(heartbeat=None if self.deaf else 55, autoping=not self.deaf)
        await socket.prepare(request)
        await socket.send_json({"type": "auth_required", "ha_version": VERSION})
        first = await socket.receive(10)
        if first.type is not WSMsgType.TEXT:
            return socket
        told = json.loads(first.data)
        if told.get("type") != "auth" or told.get("access_token") != self.token:
            await socket.send_json({"type": "auth_invalid", "message": "Invalid access token or password"})
            await socket.close()
            return socket
        await socket.send_json({"type": "auth_ok", "ha_version": VERSION})
        self.connections += 1
        link = _Link(self, socket)
        self._open.append(link)
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    for each in _as_list(json.loads(message.data)):
                        await link.handle(each)
        finally:
            self._open.remove(link)
            await link.end()
        return socket


class _Link:
    """One authenticated connection."""

    def __init__(self, home: FakeHomeAssistant, socket: web.WebSocketResponse) -> None:
        self.home, self.socket = home, socket
        self.listening: dict[int, str] = {}
        self._last_id = 0
        self._coalesce = False
        self._queue: list[dict[str, Any]] = []
        self._writer: asyncio.Task[None] | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def end(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        with contextlib.suppress(OSError, RuntimeError):
            await self.socket.close()

    async def say(self, message: dict[str, Any]) -> None:
        self._queue.append(message)
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while self._queue:
            batch, self._queue = (self._queue, []) if self._coalesce else (self._queue[:1], self._queue[1:])
            self.home.coalesced += len(batch) if len(batch) > 1 else 0
            with contextlib.suppress(ConnectionError, RuntimeError):
                await self.socket.send_str(json.dumps(batch if len(batch) > 1 else batch[0]))

    async def handle(self, message: dict[str, Any]) -> None:
        id, type = message.get("id"), message.get("type")
        self.home.received.append(message)
        if not isinstance(id, int) or id <= 0 or not isinstance(type, str):
            await self._refuse(0, Refusal("invalid_format", "Message incorrectly formatted."))
            return
        if id <= self._last_id:
            await self._refuse(id, Refusal("id_reuse", "Identifier values have to increase."))
            return
        self._last_id = id
        if type in self.home.mute:
            return
        self._tasks[id] = asyncio.create_task(self._answer(id, type, message))

    async def _answer(self, id: int, type: str, message: dict[str, Any]) -> None:
        commands: dict[str, Callable[[int, dict[str, Any]], Awaitable[Any]]] = {
            "supported_features": self._features,
            "get_config": self._get_config,
            "fire_event": self._fire_event,
            "call_service": self._call_service,
            "subscribe_events": self._subscribe,
            "unsubscribe_events": self._unsubscribe,
            "tts/engine/list": self._engines,
            "tts/engine/voices": self._voices,
            "assist_pipeline/device/capture": self._capture,
            "assist_satellite/intercept_wake_word": self._intercept,
            "assist_pipeline/pipeline/list": self._pipelines,
            "assist_pipeline/pipeline_debug/list": self._runs,
            "assist_pipeline/pipeline_debug/get": self._run,
        }
        lists = {
            "config/entity_registry/list": self.home.registry.entities,
            "config/device_registry/list": self.home.registry.devices,
            "config/area_registry/list": self.home.registry.areas,
            "get_states": self.home.registry.states,
            "config/auth/list": self.home.registry.users,
        }
        try:
            if type == "ping":
                await self.say({"id": id, "type": "pong"})
            elif type in lists:
                await self._result(id, lists[type])
            elif type in commands:
                await commands[type](id, message)
            else:
                raise Refusal("unknown_command", "Unknown command.")
        except Refusal as refusal:
            await self._refuse(id, refusal)

    async def _result(self, id: int, result: Any = None) -> None:
        await self.say({"id": id, "type": "result", "success": True, "result": result})

    async def _refuse(self, id: int, refusal: Refusal) -> None:
        await self.say({"id": id, "type": "result", "success": False, "error": refusal.told})

    async def _event(self, id: int, event: Any) -> None:
        await self.say({"id": id, "type": "event", "event": event})

    async def _features(self, id: int, message: dict[str, Any]) -> None:
        self._coalesce = "coalesce_messages" in message["features"]
        await self._result(id)

    async def _get_config(self, id: int, _: dict[str, Any]) -> None:
        await self._result(id, {"version": VERSION, "state": "RUNNING"})

    async def _fire_event(self, id: int, message: dict[str, Any]) -> None:
        self.home.fired.append((message["event_type"], message.get("event_data")))
        await self._result(id, {"context": {"id": "1", "parent_id": None, "user_id": "2"}})
        await self.home.fire(message["event_type"], message.get("event_data") or {})

    async def _subscribe(self, id: int, message: dict[str, Any]) -> None:
        self.listening[id] = message.get("event_type", "*")
        await self._result(id)

    async def _unsubscribe(self, id: int, message: dict[str, Any]) -> None:
        wanted = message["subscription"]
        task = self._tasks.get(wanted)
        if self.listening.pop(wanted, None) is None and (task is None or task.done()):
            raise Refusal("not_found", "Subscription not found.")
        if task is not None:
            task.cancel()
        await self._result(id)

    async def _call_service(self, id: int, message: dict[str, Any]) -> None:
        name = f"{message['domain']}.{message['service']}"
        if name not in self.home.services:
            more = {"translation_key": "service_not_found", "translation_domain": "homeassistant"}
            raise Refusal("not_found", f"Service {name} not found.", **more)
        response = await self.home.services[name](message.get("service_data") or {})
        result: dict[str, Any] = {"context": {"id": "1", "parent_id": None, "user_id": "2"}}
        if message.get("return_response"):
            result["response"] = response
        await self._result(id, result)

    async def _capture(self, id: int, message: dict[str, Any]) -> None:
        limit_s = float(message["timeout"])
        if not 0 < limit_s <= 60:
            raise Refusal("invalid_format", "value must be at most 60.0 for dictionary value @ data['timeout']")
        device, mine = message["device_id"], asyncio.Queue[bytes | None]()
        old = self.home._audio.get(device)
        if old is not None:
            old.put_nowait(None)  # a new capture takes over
        self.home._audio[device] = mine
        await self._result(id)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit_s):
                    while (audio := await mine.get()) is not None:
                        text = base64.b64encode(audio).decode()
                        form = {"type": "audio", "rate": 16000, "width": 2, "channels": 1, "audio": text}
                        await self._event(id, form)
            await self._event(id, {"type": "end", "overflow": self.home.overflow})
        finally:
            if self.home._audio.get(device) is mine:
                del self.home._audio[device]

    async def _intercept(self, id: int, message: dict[str, Any]) -> None:
        if not any(each["entity_id"] == message["entity_id"] for each in self.home.registry.entities):
            raise Refusal("not_found", "Entity not found")
        await self._result(id)
        wake = self.home.services.get("intercept")
        if wake is not None:
            try:
                await self._event(id, {"wake_word_phrase": await wake({})})
            except Refusal as refusal:
                await self._refuse(id, refusal)
        else:
            await asyncio.Event().wait()

    async def _engines(self, id: int, _: dict[str, Any]) -> None:
        await self._result(id, {"providers": self.home.registry.engines})

    async def _voices(self, id: int, message: dict[str, Any]) -> None:
        if all(each["engine_id"] != message["engine_id"] for each in self.home.registry.engines):
            raise Refusal("not_found", f"tts engine {message['engine_id']} not found")
        voices = self.home.registry.voices.get((message["engine_id"], message["language"]))
        await self._result(id, {"voices": voices})

    async def _pipelines(self, id: int, _: dict[str, Any]) -> None:
        pipelines = [{"id": each, "name": each} for each in self.home.pipelines]
        await self._result(id, {"pipelines": pipelines, "preferred_pipeline": next(iter(self.home.pipelines), None)})

    async def _runs(self, id: int, message: dict[str, Any]) -> None:
        runs = self.home.pipelines.get(message["pipeline_id"], {})
        listed = [
            {"pipeline_run_id": run, "timestamp": events[0]["timestamp"] if events else "2026-11-20T12:00:00+00:00"}
            for run, events in runs.items()
        ]
        await self._result(id, {"pipeline_runs": listed})

    async def _run(self, id: int, message: dict[str, Any]) -> None:
        run = self.home.pipelines.get(message["pipeline_id"], {}).get(message["pipeline_run_id"])
        if not run:
            raise Refusal("not_found", f"pipeline_run_id {message['pipeline_run_id']} not found")
        await self._result(id, {"events": run})


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
