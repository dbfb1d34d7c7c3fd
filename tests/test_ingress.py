"""Behind Home Assistant's two hops the panel works as it does without them, and only who comes that way is believed.

The hops are a simulation, made after what Home Assistant's core and Supervisor do with a request (their sources of
2026-08): the core adds the base path and forwarded headers, and compresses text and JSON; the Supervisor refuses
addresses that look like an attack, replaces the user's headers and reads a body whole, up to 16 MiB, unless it is a
POST of an app that asks for streams. Answers below 4,194,000 bytes are buffered. Addresses of the loopback network
stand for the machines: 127.0.0.2 for the Supervisor, 127.0.0.3 for another app.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import re
import statistics
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
import numpy as np
import pytest
import toy_wake
from aiohttp import web
from blockbuster import blockbuster_ctx
from test_capture_review import add, spoken
from yarl import URL

from mww_ha.schema import Device
from mww_ha.store import Project
from mww_ha.web import orders
from mww_ha.web.app import Options, open_service
from mww_ha.web.jobs import mww_ha_command
from mww_ha.web.openapi import Call, Route, describe
from mww_ha.web.routes import ROUTES
from mww_ha.web.service import Service

SUPERVISOR, OTHER_APP = "127.0.0.2", "127.0.0.3"
TOKEN = "x3Tq-_session"
PREFIX = f"/api/hassio_ingress/{TOKEN}"
MIB = 1 << 20
ADMIN, CHILD = "0a1b-admin", "0a1b-child"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives each of 127.0.0.0/8 to anybody")

TICKS = """
    import json, os, time
    end = time.monotonic() + 60
    while not os.path.exists("listening") and time.monotonic() < end:
        time.sleep(0.01)
    for n in range(5):
        print(json.dumps(dict(type="progress", stage="train", message=f"tick {time.time()}")), flush=True)
        time.sleep(0.3)
"""


def command(order: orders.Order, project: Project) -> list[str]:
    arguments = mww_ha_command(order, project)  # what it names must be there
    if order.kind in ("train", "flash"):
        return [sys.executable, "-I", "-S", "-c", textwrap.dedent(TICKS)]
    return arguments


# --- the two hops ----------------------------------------------------------------------------------------------------

_LOOKS_LIKE_AN_ATTACK = re.compile(r"\.\./|<[^>]*script[^>]*>|union.*select.*\(|concat.*\(", re.IGNORECASE)
_NOT_PASSED = {"content-length", "content-encoding", "transfer-encoding"}
_BUFFERED_BYTES = 4_194_000


class Hop:
    """One proxy: where it sends to, what it adds, and whether it lets a body through as it comes."""

    def __init__(self, target: str, *, strip: str, source: str = "", streams: bool = True) -> None:
        self.target, self.strip, self.source, self.streams = target, strip, source, streams
        self.compresses = self.filters = False
        self.drops: set[str] = set()
        self.adds: dict[str, str] = {}
        self.port = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.filters and _LOOKS_LIKE_AN_ATTACK.search(unquote(unquote(request.raw_path))):
            raise web.HTTPBadRequest
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in _NOT_PASSED and not name.lower().startswith(tuple(self.drops) or ("\0",))
        }
        path = request.rel_url.raw_path.removeprefix(self.strip)
        query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
        if request.headers.get("Upgrade", "").lower() == "websocket":
            own = {name: v for name, v in headers.items() if not name.lower().startswith("sec-websocket-")}
            return await self.relay(request, f"{self.target}{path}{query}", {**own, **self.adds})
        data: Any = None
        if request.body_exists:
            data = request.content if self.streams and request.method == "POST" else io.BytesIO(await request.read())
        async with self.client.request(
            request.method, f"{self.target}{path}{query}", headers={**headers, **self.adds}, data=data,
            allow_redirects=False,
        ) as got:  # fmt: skip
            kept = {k: v for k, v in got.headers.items() if k.lower() not in {*_NOT_PASSED, "connection"}}
            length = got.headers.get("Content-Length")
            if length is not None and int(length) < _BUFFERED_BYTES and request.method != "HEAD":
                whole = web.Response(status=got.status, headers=kept, body=await got.read())
                if self.compresses and "Content-Encoding" not in got.headers and _is_text(got.content_type):
                    whole.enable_compression()
                return whole
            out = web.StreamResponse(status=got.status, headers=kept)
            if self.compresses and "Content-Encoding" not in got.headers and _is_text(got.content_type):
                out.enable_compression()
            await out.prepare(request)
            async for piece, _ in got.content.iter_chunks():
                await out.write(piece)
            return out

    async def relay(self, request: web.Request, url: str, headers: dict[str, str]) -> web.StreamResponse:
        """A WebSocket on either side, as long as both are open; the one behind is opened last."""
        near = web.WebSocketResponse(autoping=False, max_msg_size=16 * MIB)
        await near.prepare(request)
        try:
            async with self.client.ws_connect(url, headers=headers, autoping=False, max_msg_size=16 * MIB) as far:
                ways = [asyncio.create_task(_pass_on(near, far)), asyncio.create_task(_pass_on(far, near))]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
        except aiohttp.WSServerHandshakeError:
            pass  # the browser is told no more than that it is closed
        await near.close()
        return near

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator[str]:
        app = web.Application(client_max_size=16 * MIB)
        app.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(app, auto_decompress=False, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        connector = aiohttp.TCPConnector(local_addr=(self.source, 0)) if self.source else None
        self.client = aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        )
        try:
            yield f"http://127.0.0.1:{self.port}"
        finally:
            await self.client.close()
            await runner.cleanup()


def _is_text(kind: str) -> bool:
    """What the core compresses: not sound, and not a stream of events, which would be held back."""
    return kind != "text/event-stream" and (kind.startswith("text/") or kind == "application/json")


async def _pass_on(source: Any, target: Any) -> None:
    async for message in source:
        if message.type is aiohttp.WSMsgType.TEXT:
            await target.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await target.send_bytes(message.data)
        elif message.type is aiohttp.WSMsgType.PING:
            await target.ping(message.data)
        elif message.type is aiohttp.WSMsgType.PONG:
            await target.pong(message.data)


class House:
    """The service as Home Assistant's app, and a browser on the other side of the hops."""

    def __init__(
        self, service: Service, direct: str, core: Hop, supervisor: Hop, browser: aiohttp.ClientSession
    ) -> None:
        self.service, self.direct = service, direct
        self.core, self.supervisor, self.browser = core, supervisor, browser

    def be(self, user: str) -> None:
        """Who is signed in to Home Assistant."""
        self.supervisor.adds = {"X-Remote-User-Id": user, "X-Remote-User-Display-Name": "Somebody"} if user else {}

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any, Any]:
        url = f"http://127.0.0.1:{self.core.port}{PREFIX}{path}"
        async with self.browser.request(method, url, allow_redirects=False, **options) as answer:
            raw = await answer.read()
            return answer.status, json.loads(raw) if answer.content_type == "application/json" else raw, answer.headers

    async def ask_from(self, source: str, method: str, path: str, **options: Any) -> tuple[int, Any]:
        """Straight to the service, from another machine."""
        connector = aiohttp.TCPConnector(local_addr=(source, 0))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(method, self.direct + path, **options) as answer,
        ):
            raw = await answer.read()
            return answer.status, json.loads(raw) if answer.content_type == "application/json" else raw


async def take_sound(call: Call) -> dict[str, int]:
    """Take a long body and count it."""
    return {"bytes": sum([len(piece) async for piece in call.pieces()])}


LONG = Route(
    method="POST", path="/api/long", handler=take_sound, largest_body=25 * MIB, body_media="application/octet-stream"
)


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> Iterator[None]:
    with blockbuster_ctx("mww_ha.web"):
        yield


@contextlib.asynccontextmanager
async def built(root: Path, *, streams: bool = True) -> AsyncIterator[House]:
    options = Options(port=0, device_port=None, ingress=True, ingress_peer=SUPERVISOR, admins=(ADMIN,), grace_s=2.0)
    async with open_service(root, options, command=command, routes=[*ROUTES, LONG]) as opened:
        direct = f"http://127.0.0.1:{opened.pages[0][1]}"
        supervisor = Hop(direct, strip=f"/ingress/{TOKEN}", source=SUPERVISOR, streams=streams)
        supervisor.drops, supervisor.filters = {"x-remote-user-"}, True
        async with supervisor.run() as supervisor_url:
            core = Hop(f"{supervisor_url}/ingress/{TOKEN}", strip=PREFIX)
            core.compresses = True
            core.drops = {"x-ingress-path", "x-forwarded-", "x-hass-source"}
            core.adds = {
                "X-Ingress-Path": PREFIX,
                "X-Forwarded-Host": "ha.example:8123",
                "X-Hass-Source": "core.ingress",
            }
            async with core.run(), aiohttp.ClientSession(headers={"Host": "ha.example:8123"}) as browser:
                house = House(opened.service, direct, core, supervisor, browser)
                house.be(ADMIN)
                yield house


@pytest.fixture
async def house(project: Project) -> AsyncIterator[House]:
    async with built(project.root) as made:
        yield made


# --- the panel works -------------------------------------------------------------------------------------------------


async def test_the_page_finds_itself_under_its_base_path(project: Project, house: House):
    project.reports_dir.mkdir()
    (project.reports_dir / "abc123.html").write_text("<p>the report")
    status, page, headers = await house.ask("GET", "/")
    text = page.decode()
    assert status == 200
    assert f'<base href="{PREFIX}/">' in text
    assert "X-Ingress-Path" in headers["Vary"]
    assert 'href="/' not in text.replace(f'<base href="{PREFIX}/">', "")
    assert 'action="/' not in text
    script = re.search(r'<script type="module" src="([^"]+)"', text)[1]
    status, module, headers = await house.ask("GET", f"/{script}")
    assert (status, headers["Content-Type"]) == (200, "text/javascript; charset=utf-8")
    assert b"mww-app" in (gzip.decompress(module) if module[:2] == b"\x1f\x8b" else module)
    status, page, headers = await house.ask("GET", "/api/reports/abc123/page")
    assert (status, page) == (200, b"<p>the report")
    assert "sandbox" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'self'" in (await house.ask("GET", "/"))[2]["Content-Security-Policy"]


async def test_events_arrive_when_they_happen_through_both_hops(project: Project, house: House):
    _, job, _ = await house.ask("POST", "/api/jobs", json={"kind": "train"})
    url = f"http://127.0.0.1:{house.core.port}{PREFIX}/api/jobs/{job['id']}/events"
    async with house.browser.get(url) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        assert "Content-Encoding" not in answer.headers
        (project.root / "listening").touch()
        ticks = [
            (float(json.loads(raw[6:])["message"].partition(" ")[2]), time.time())
            async for raw in answer.content
            if raw.startswith(b"data: ") and json.loads(raw[6:]).get("message", "").startswith("tick")
        ]
    assert len(ticks) == 5
    # Said over 1.2 s. Were they held back until the end, they would all come together, the first of them late.
    assert ticks[-1][1] - ticks[0][1] > 0.8
    assert statistics.median(came - said for said, came in ticks) < 3.0


async def test_a_part_of_a_file_can_be_asked_for_through_both_hops(project: Project, house: House):
    id = "hey_kitchen-0123abcd"
    project.models_dir.mkdir()
    content = bytes(range(256)) * 20_000  # more than the hops buffer
    (project.models_dir / f"{id}.tflite").write_bytes(content)
    project.catalogue.put_model(id, {"id": id})
    path = f"/api/models/{id}/model"
    status, got, headers = await house.ask("GET", path, headers={"Range": "bytes=1000-1999"})
    assert (status, headers["Content-Range"], got) == (206, f"bytes 1000-1999/{len(content)}", content[1000:2000])
    status, got, _ = await house.ask("GET", path, headers={"Range": "bytes=-5"})
    assert (status, got) == (206, content[-5:])
    assert (await house.ask("GET", path))[:2] == (200, content)
    assert (await house.ask("GET", path, headers={"Range": f"bytes={len(content)}-"}))[0] == 416


async def test_a_sound_is_played_from_anywhere_in_it(project: Project, house: House):
    """A browser asks for a part of it, Safari before anything else; text is compressed on the way, sound is not."""
    capture = add(project, spoken(1)[0])
    content = (project.root / capture.path).read_bytes()
    _, told, headers = await house.ask("GET", f"/api/captures/{capture.id}")
    assert headers["Content-Encoding"] in ("deflate", "gzip")
    path = f"/{told['sound']}"
    accepts = {"Accept-Encoding": "gzip, deflate"}
    status, got, headers = await house.ask("GET", path, headers={"Range": "bytes=0-1", **accepts})
    assert (status, got, headers["Content-Range"]) == (206, content[:2], f"bytes 0-1/{len(content)}")
    assert (headers["Content-Type"], headers["Accept-Ranges"]) == ("audio/flac", "bytes")
    assert "Content-Encoding" not in headers
    status, got, headers = await house.ask("GET", path, headers={"Range": f"bytes={len(content) // 2}-", **accepts})
    assert (status, got) == (206, content[len(content) // 2 :])
    status, got, headers = await house.ask("GET", path, headers=accepts)
    assert (status, got, headers["Cache-Control"]) == (200, content, "no-store")


def test_nothing_that_a_user_writes_travels_in_an_address():
    """The Supervisor answers 400 for an address with ``../``, a script or a bit of SQL in it: that may be a phrase."""
    looks = ("a../b", "<script>", "union select (", "concat(", "%3Cscript%3E")
    for path, methods in describe(ROUTES, cookie="c")["paths"].items():
        for method, operation in methods.items():
            for parameter in operation.get("parameters", []):
                schema = parameter["schema"]
                where = f"{method} {path} {parameter['name']}"
                if schema.get("type") == "string" and "enum" not in schema:
                    assert not any(re.search(schema["pattern"], text) for text in looks), where
                else:
                    assert schema.get("type") in ("integer", "number", "boolean") or "enum" in schema, where


async def test_what_the_supervisor_takes_for_an_attack_never_arrives(house: House):
    for path in ("/api/flashes?device=..%2F..%2Fx", "/api/%2e%2e%2fx", "/api/jobs?state=<script>"):
        url = URL(f"http://127.0.0.1:{house.core.port}{PREFIX}{path}", encoded=True)
        async with house.browser.get(url) as answer:
            assert answer.status == 400, path
    status, job, _ = await house.ask("POST", "/api/jobs", json={"kind": "train", "phrase": "<script>../concat("})
    assert (status, "phrase" in str(job)) == (422, True), "in a body it does, and is judged here"


@pytest.mark.parametrize(
    ("streams", "mib", "status"),
    [(True, 10, 200), (True, 20, 200), (True, 26, 413), (False, 10, 200), (False, 20, 413)],
)
async def test_long_bodies_go_where_they_are_meant_to(project: Project, streams: bool, mib: int, status: int):
    """26 MiB is more than our route takes; 20 MiB without ``ingress_stream`` more than the Supervisor takes."""
    async with built(project.root, streams=streams) as house:
        got, answer, _ = await house.ask("POST", "/api/long", data=io.BytesIO(bytes(mib * MIB)))
        assert got == status
        if status == 200:
            assert answer == {"bytes": mib * MIB}


@pytest.mark.parametrize("mib", [1, 10, 20])
async def test_long_bodies_where_none_belongs_are_refused(house: House, mib: int):
    status, answer, _ = await house.ask(
        "POST", "/api/jobs", data=io.BytesIO(bytes(mib * MIB)), headers={"Content-Type": "application/json"}
    )
    assert status == 413
    assert "longer than 65536 bytes" in answer["message"]
    assert (await house.ask("GET", "/api/jobs"))[1] == []


# --- who is believed -------------------------------------------------------------------------------------------------

FORGED = {
    "X-Remote-User-Id": ADMIN,
    "X-Ingress-Path": PREFIX,
    "X-Hass-Source": "core.ingress",
    "X-Forwarded-For": SUPERVISOR,
    "X-Real-Ip": SUPERVISOR,
    "Forwarded": f"for={SUPERVISOR}",
}


async def test_whoever_does_not_come_through_home_assistant_is_refused_whatever_it_says(house: House):
    for method, path in (
        ("GET", "/"),
        ("GET", "/api/me"),
        ("GET", "/api/health"),
        ("POST", "/api/jobs"),
        ("GET", "/x"),
    ):
        status, answer = await house.ask_from(OTHER_APP, method, path, headers=FORGED)
        assert status == 403, path
        assert b"hey kitchen" not in (answer if isinstance(answer, bytes) else b"")
    assert (await house.ask_from(SUPERVISOR, "GET", "/api/me"))[0] == 200


async def test_this_machine_may_look_and_nothing_more(house: House):
    assert await house.ask_from("127.0.0.1", "GET", "/api/health") == (200, {"status": "ok"})
    status, me = await house.ask_from("127.0.0.1", "GET", "/api/me", headers=FORGED)
    assert (status, me["way"], me["may_change"]) == (200, "local", False)
    assert (await house.ask_from("127.0.0.1", "POST", "/api/jobs", headers=FORGED, json={"kind": "train"}))[0] == 403
    _, page = await house.ask_from("127.0.0.1", "GET", "/", headers=FORGED)
    assert b'<base href="/">' in page, "nor does it choose the base path"
    assert (await house.ask_from("127.0.0.1", "GET", "/api/me", headers={"Host": "evil.example"}))[0] == 421


async def test_a_peer_is_the_socket_and_no_header(house: House):
    """Each header by itself that some proxy is believed for, from another app and with a body."""
    for name, value in (*FORGED.items(), ("X-Forwarded-Host", "ha.example:8123"), ("Host", SUPERVISOR)):
        for method in ("GET", "POST", "DELETE"):
            status, answer = await house.ask_from(OTHER_APP, method, "/api/jobs", headers={name: value}, data=b"{}")
            assert (status, answer["error"]) == (403, "RefusedError"), (name, method)


async def test_what_a_browser_says_of_its_user_is_replaced(house: House):
    house.be(CHILD)
    _, me, _ = await house.ask(
        "GET", "/api/me", headers={"X-Remote-User-Id": ADMIN, "X-Ingress-Path": "//evil.example"}
    )
    assert me == {"way": "ingress", "user_name": "Somebody", "may_change": False}


async def test_only_those_who_are_named_flash_delete_and_export(project: Project, house: House):
    from mww_ha.devices.known import add_device

    add_device(project, Device(name="kitchen", template="generic-s3"))
    id = "hey_kitchen-0123abcd"
    project.models_dir.mkdir()
    (project.models_dir / f"{id}.json").write_text("{}")
    project.catalogue.put_model(id, {"id": id})
    flash = {"kind": "flash", "device": "kitchen"}
    guarded = [
        flash,
        {"kind": "rollback", "device": "kitchen"},
        {"kind": "canary", "device": "kitchen", "model": id},
        {"kind": "confirm", "device": "kitchen"},
        {"kind": "export"},
        {"kind": "run"},
        {"kind": "run", "until": "export"},
        {"kind": "render", "name": "kitchen"},
    ]
    for user in (CHILD, ""):
        house.be(user)
        for order in guarded:
            assert (await house.ask("POST", "/api/jobs", json=order))[0] == 403, order
        assert (await house.ask("GET", f"/api/models/{id}/manifest"))[0] == 403
        assert (await house.ask("GET", "/api/models"))[0] == 200
    house.be(ADMIN)
    assert (await house.ask("GET", f"/api/models/{id}/manifest"))[0] == 200
    status, job, _ = await house.ask("POST", "/api/jobs", json=flash)
    assert (status, job["asked_by"]) == (201, "Somebody")
    house.be(CHILD)
    assert (await house.ask("POST", f"/api/jobs/{job['id']}/cancel"))[0] == 403
    assert (await house.ask("POST", f"/api/jobs/{job['id']}/retry"))[0] == 403
    assert (await house.ask("DELETE", f"/api/jobs/{job['id']}"))[0] == 403
    status, mine, _ = await house.ask("POST", "/api/jobs", json={"kind": "train"})
    assert status == 201
    assert (await house.ask("POST", f"/api/jobs/{mine['id']}/cancel"))[0] == 200
    house.be(ADMIN)
    assert (await house.ask("POST", f"/api/jobs/{job['id']}/cancel"))[0] == 200


async def test_a_page_elsewhere_cannot_act_through_home_assistant(house: House):
    async def status(**headers: str) -> int:
        return (await house.ask("POST", "/api/jobs", json={"kind": "evaluate"}, headers=headers))[0]

    assert await status(Origin="https://evil.example") == 403
    assert await status(**{"Sec-Fetch-Site": "cross-site"}) == 403
    assert await status(Origin="https://ha.example:8123", **{"Sec-Fetch-Site": "same-origin"}) == 201


async def test_live_sound_is_heard_through_both_hops_and_only_from_our_own_page(project: Project, house: House):
    model = "toy-0a1b2c3d"
    toy_wake.write_model(project.models_dir, name=model)
    project.catalogue.put_model(model, {"id": model})
    samples, _ = toy_wake.scene(np.random.default_rng(5), ["rising", "falling", "rising"])
    url = f"http://127.0.0.1:{house.core.port}{PREFIX}/api/listen/live?model={model}"
    found = []
    async with house.browser.ws_connect(url, headers={"Origin": "https://ha.example:8123"}) as socket:
        for start in range(0, len(samples), 1600):
            await socket.send_bytes(samples[start : start + 1600].astype("<i2").tobytes())
            found += (await socket.receive_json(timeout=30))["detections"]
    assert len(found) == 2
    async with house.browser.ws_connect(url, headers={"Origin": "https://evil.example"}) as socket:
        assert (await socket.receive(timeout=30)).type is aiohttp.WSMsgType.CLOSE
    async with asyncio.timeout(30):
        while house.service.listeners:  # noqa: ASYNC110  the end of the sockets goes through both hops
            await asyncio.sleep(0.01)


async def test_there_is_no_token_and_no_session_behind_home_assistant(project: Project, house: House):
    status, _, headers = await house.ask("GET", "/?token=anything")
    assert status == 200
    assert "Set-Cookie" not in headers
    assert (await house.ask("POST", "/login", data={"token": ""}))[0] == 404
    assert house.service.access._token == ""
    status, _ = await house.ask_from(OTHER_APP, "GET", "/api/me", headers={"Authorization": "Bearer "})
    assert status == 403
