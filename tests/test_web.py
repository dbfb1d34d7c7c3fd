"""Nobody comes in without a ticket, nothing blocks the loop, and every answer is as it is described."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import upload_kit
from aiohttp import web
from blockbuster import blockbuster_ctx
from host_device import free_port

from mww_ha.capture.tokens import make_token
from mww_ha.devices.known import add_device
from mww_ha.errors import InputError, ProjectError
from mww_ha.schema import Clip, Device, Flash, Label, Origin
from mww_ha.store import Project, create_project
from mww_ha.web import orders
from mww_ha.web.access import FAILURES, Access, clean_base
from mww_ha.web.app import Open, Options, make_page_app, open_service
from mww_ha.web.events import Batch, Event, Ring, Signal, send_events
from mww_ha.web.jobs import GRACE_S, mww_ha_command
from mww_ha.web.openapi import describe
from mww_ha.web.routes import ROUTES
from mww_ha.web.sockets import Listener, make_runner
from mww_ha.web.state import FINISHED, State
from mww_ha.web.wire import Number, Text, plain, read, schema

ROOT = Path(__file__).parent.parent

SAY = "import json, time\ndef say(**line): print(json.dumps(line), flush=True)\n"
PROGRAMS = {
    "train": "say(type='progress', stage='train', message='at work'); time.sleep(60)",
    "prepare": """
        for step in range(4): say(type='progress', stage='prepare', done=step, total=3, unit='scenes'); time.sleep(0.1)
        say(type='result', result={'id': 'f00'})
    """,
    "synthesize": "for n in range(3000): print('line', n, 'x' * 1000)",
}


def command(order: orders.Order, project: Project) -> list[str]:
    """Some kinds of jobs as little programs, the others as they are."""
    if order.kind not in PROGRAMS:
        return mww_ha_command(order, project)
    return [sys.executable, "-I", "-S", "-c", SAY + textwrap.dedent(PROGRAMS[order.kind])]


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> Iterator[None]:
    with blockbuster_ctx("mww_ha.web"):
        yield


class Site:
    """A service that listens, and the owner's way to it."""

    def __init__(self, opened: Open, session: aiohttp.ClientSession) -> None:
        self.opened, self.session = opened, session
        self.service = opened.service
        self.base = f"http://127.0.0.1:{opened.pages[0][1]}"
        self.owner = {"Authorization": f"Bearer {opened.token}"}

    async def get(self, path: str, **options: Any) -> Any:
        status, answer, _ = await self.ask("GET", path, **options)
        assert status == 200, (status, answer)
        return answer

    async def ask(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, **options: Any
    ) -> tuple[int, Any, Any]:
        """Status, answer (parsed where it is JSON), headers."""
        headers = self.owner if headers is None else headers
        async with self.session.request(
            method, self.base + path, headers=headers, allow_redirects=False, **options
        ) as answer:
            text = await answer.text()
            return (
                answer.status,
                json.loads(text) if answer.content_type == "application/json" else text,
                answer.headers,
            )

    async def order(self, kind: str, **fields: Any) -> dict[str, Any]:
        status, job, _ = await self.ask("POST", "/api/jobs", json={"kind": kind, **fields})
        assert status == 201, job
        return dict(job)

    async def wait(self, id: str, *states: str) -> dict[str, Any]:
        async with asyncio.timeout(60):
            while (job := await self.get(f"/api/jobs/{id}"))["state"] not in (states or FINISHED):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        return dict(job)


@contextlib.asynccontextmanager
async def opened_site(root: Path, command: Any = command, **options: Any) -> AsyncIterator[Site]:
    chosen = Options(**{"port": 0, "device_host": "127.0.0.1", "device_port": 0, "grace_s": 2.0, **options})
    async with (
        open_service(root, chosen, command=command) as opened,
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
    ):
        yield Site(opened, session)


@pytest.fixture
async def site(project: Project) -> AsyncIterator[Site]:
    async with opened_site(project.root) as made:
        yield made


# --- coming in -------------------------------------------------------------------------------------------------------


async def test_without_a_ticket_there_is_only_the_door(site: Site):
    for route in ROUTES:
        if route.is_open:
            continue
        path = re.sub(r"{\w+}", "x", route.path)
        status, answer, headers = await site.ask(route.method, path, headers={})
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer"), route.path
        assert answer["error"] == "RefusedError"
    assert (await site.ask("GET", "/api/nothing", headers={}))[0] == 401
    status, page, _ = await site.ask("GET", "/", headers={})
    assert status == 401
    assert 'name="token"' in page
    assert "hey kitchen" not in page
    assert await site.get("/api/health", headers={}) == {"status": "ok"}


async def test_the_printed_address_opens_a_session_that_outlives_a_restart(project: Project):
    async with opened_site(project.root) as site:
        status, _, headers = await site.ask("GET", f"/?token={site.opened.token}", headers={})
        assert (status, headers["Location"]) == (303, "./")
        cookie = headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        session = {"Cookie": cookie.partition(";")[0]}
        assert "hey kitchen" in await site.get("/", headers=session)
        assert site.opened.url == f"{site.base}/?token={site.opened.token}"
        token = site.opened.token
    async with opened_site(project.root) as site:
        assert site.opened.token == "", "shown once"
        assert (await site.get("/api/me", headers=session))["may_change"]
        assert (await site.get("/api/me", headers={"Authorization": f"Bearer {token}"}))["way"] == "token"
        status, _, headers = await site.ask("POST", "/logout", headers={**session, "Origin": site.base})
        assert status == 303
        assert (await site.ask("GET", "/api/me", headers=session))[0] == 401
    async with opened_site(project.root, new_token=True) as site:
        assert site.opened.token not in ("", token)
        assert (await site.ask("GET", "/api/me", headers={"Authorization": f"Bearer {token}"}))[0] == 401


async def test_secrets_are_kept_as_hashes_only(project: Project, site: Site, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG):
        _, _, headers = await site.ask("GET", f"/?token={site.opened.token}", headers={})
        await site.ask("GET", "/?token=wrong-but-secret", headers={})
    cookie = headers["Set-Cookie"].partition("=")[2].partition(";")[0]
    stored = b"".join(path.read_bytes() for path in (project.root / "service").iterdir() if path.is_file())
    for secret in (site.opened.token, cookie, "wrong-but-secret"):
        assert len(secret) > 10
        assert secret.encode() not in stored
        assert secret not in caplog.text
    assert "GET / 303" in caplog.text


async def test_the_form_at_the_door_takes_the_token(site: Site):
    headers = {"Origin": site.base}
    status, page, _ = await site.ask("POST", "/login", headers=headers, data={"token": "nonsense"})
    assert status == 401
    assert "not the token" in page
    status, _, answer = await site.ask("POST", "/login", headers=headers, data={"token": site.opened.token})
    assert status == 303
    assert answer["Set-Cookie"].startswith("mww_ha_session_")
    form = aiohttp.FormData({"token": site.opened.token}, default_to_multipart=True)
    assert (await site.ask("POST", "/login", headers=headers, data=form))[0] == 415


async def test_two_services_of_one_machine_do_not_share_a_cookie(site: Site, tmp_path: Path):
    create_project(tmp_path / "other", "hey hall").catalogue.close()
    async with opened_site(tmp_path / "other") as other:
        cookies = dict[str, str]()
        for one in (site, other):
            _, _, headers = await one.ask("GET", f"/?token={one.opened.token}", headers={})
            name, _, value = headers["Set-Cookie"].partition(";")[0].partition("=")
            cookies[name] = value
        both = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
        assert [(await one.get("/api/project", headers=both))["phrase"] for one in (site, other)] == [
            "hey kitchen",
            "hey hall",
        ]


async def test_too_many_wrong_tokens_lock_the_address_out_but_nobody_who_is_in(site: Site):
    _, _, headers = await site.ask("GET", f"/?token={site.opened.token}", headers={})
    session = {"Cookie": headers["Set-Cookie"].partition(";")[0]}
    for _ in range(FAILURES):
        assert (await site.ask("GET", "/api/me", headers={"Authorization": "Bearer nonsense"}))[0] == 401
    status, answer, headers = await site.ask("GET", "/api/me")
    assert (status, answer["message"]) == (429, "too many wrong tokens")
    assert int(headers["Retry-After"]) > 200
    assert (await site.ask("GET", "/api/me", headers=session))[0] == 200


def test_the_lockout_ends(tmp_path: Path):
    now = [0.0]
    access = Access(State(tmp_path / "service.sqlite"), clock=lambda: now[0])
    access.load()
    token = access.make_token()
    assert not any(access.check_token(f"wrong {n}", "192.0.2.1") for n in range(FAILURES))
    with pytest.raises(Exception, match="too many"):
        access.check_token(token, "192.0.2.1")
    assert access.check_token(token, "192.0.2.2"), "another address"
    now[0] += 301
    assert access.check_token(token, "192.0.2.1")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8099", 200),
        ("localhost", 200),
        ("[::1]:8099", 200),
        ("192.168.1.5:8099", 200),
        ("mww.home.example:8099", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:8099", 421),
    ],
)
async def test_a_page_elsewhere_cannot_lend_us_its_name(project: Project, host: str, status: int):
    async with opened_site(project.root, host_names=("mww.home.example",)) as site:
        assert (await site.ask("GET", "/api/me", headers={**site.owner, "Host": host}))[0] == status
        assert (await site.ask("GET", "/api/health", headers={"Host": host}))[0] == status


async def test_another_page_cannot_use_our_cookie(site: Site):
    _, _, headers = await site.ask("GET", f"/?token={site.opened.token}", headers={})
    session = {"Cookie": headers["Set-Cookie"].partition(";")[0]}
    order = {"kind": "evaluate"}

    async def status(**more: str) -> int:
        return (await site.ask("POST", "/api/jobs", headers={**session, **more}, json=order))[0]

    assert await status(Origin="https://evil.example") == 403
    assert await status(Origin="null") == 403
    assert await status(Origin=site.base, **{"Sec-Fetch-Site": "same-site"}) == 403
    assert await status(**{"Sec-Fetch-Site": "cross-site"}) == 403
    assert await status() == 403, "a browser always says where it comes from"
    assert await status(Origin=site.base, **{"Sec-Fetch-Site": "same-origin"}) == 201
    assert await status(Origin=site.base) == 201


async def test_every_answer_carries_its_defences(site: Site):
    for path in ("/", "/api/me", "/api/nothing", "/api/jobs/0", "/api/openapi.json"):
        _, _, headers = await site.ask("GET", path)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Referrer-Policy"] == "same-origin"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        policy = headers["Content-Security-Policy"]
        assert "frame-ancestors 'self'" in policy
        assert "unsafe" not in policy
        assert re.search("default-src '(self|none)'", policy)
        assert headers["Server"] == "mww-ha"


# --- the project's things --------------------------------------------------------------------------------------------


async def test_the_project_is_told_without_passwords(project: Project, site: Site):
    text = "phrase: hey kitchen\nflash: {builder_url: 'http://anna:geheim@192.168.1.9:6052'}\n"
    (project.root / "project.yaml").write_text(text)
    told = await site.get("/api/project")
    assert told["phrase"] == "hey kitchen"
    assert told["settings"]["flash"]["builder_url"] == "http://192.168.1.9:6052"
    assert told["settings"]["train"]["steps"] == 1600
    assert "geheim" not in json.dumps(told)
    (project.root / "project.yaml").write_text(text.replace("geheim", "ge/h@eim"))
    status, told, _ = await site.ask("GET", "/api/project")
    assert (status, told["error"]) == (422, "ConfigError")
    assert "flash.builder_url" in told["message"]
    assert "%2F" in told["hint"]
    assert "h@eim" not in json.dumps(told)


async def test_a_broken_project_is_told_with_its_way_out(project: Project, site: Site):
    (project.root / "project.yaml").write_text("phrase: hey kitchen\ntrain: {stepz: 4}\n")
    for path in ("/api/project", "/"):
        status, answer, _ = await site.ask("GET", path)
        assert status == 422
        assert "train.steps" in (answer if isinstance(answer, str) else answer["hint"])


async def test_clips_are_counted_by_label_and_origin(project: Project, site: Site):
    rows = [("wake", "recorded", "anna"), ("wake", "recorded", "anna"), ("wake", "synthesized", "piper:x:1")]
    project.catalogue.add_clips(
        Clip(
            id=f"c{n}", path=f"audio/{n}", sha256=f"{n}", label=Label(label), origin=Origin(origin), duration_s=1.5,
            speaker=who,
        )
        for n, (label, origin, who) in enumerate(rows)
    )  # fmt: skip
    assert await site.get("/api/clips") == [
        {"label": "wake", "origin": "recorded", "clips": 2, "speakers": 1, "duration_s": 3.0},
        {"label": "wake", "origin": "synthesized", "clips": 1, "speakers": 1, "duration_s": 1.5},
    ]


async def test_stages_say_whether_they_are_out_of_date(project: Project, site: Site):
    from mww_ha import pipeline

    async def states() -> dict[str, str]:
        return {stage["stage"]: stage["state"] for stage in await site.get("/api/stages")}

    assert set((await states()).values()) == {"never"}
    inputs = await asyncio.to_thread(pipeline.digest_inputs, project, "synthesize")
    project.catalogue.finish_stage("synthesize", inputs, {"wake": 3})
    project.catalogue.finish_stage("train", "of other data", {"path": "runs/x"})
    found = await states()
    assert (found["synthesize"], found["prepare"], found["train"]) == ("current", "never", "out of date")
    (project.root / "project.yaml").write_text("phrase: hey hall\n")
    assert (await states())["synthesize"] == "out of date"


async def test_models_can_be_taken_away_in_parts(project: Project, site: Site):
    id = "hey_kitchen-0123abcd"
    project.models_dir.mkdir()
    (project.models_dir / f"{id}.tflite").write_bytes(bytes(range(256)) * 10)
    project.catalogue.put_model(id, {"id": id, "phrase": "hey kitchen"})
    assert (await site.get("/api/models"))[0]["id"] == id
    assert (await site.get(f"/api/models/{id}"))["phrase"] == "hey kitchen"
    async with site.session.get(
        f"{site.base}/api/models/{id}/model", headers={**site.owner, "Range": "bytes=10-19"}
    ) as answer:
        assert (answer.status, answer.headers["Content-Range"]) == (206, "bytes 10-19/2560")
        assert await answer.read() == bytes(range(10, 20))
        assert answer.headers["Content-Disposition"] == f'attachment; filename="{id}.tflite"'
    assert (await site.ask("GET", f"/api/models/{id}/manifest"))[0] == 404
    assert (await site.ask("GET", "/api/models/hey_hall-0123abcd/model"))[0] == 404
    for path in (f"/api/models/{id}/secrets", "/api/models/..%2f..%2fx/model", "/api/models/%2e%2e/model"):
        assert (await site.ask("GET", path))[0] == 404


async def test_a_report_runs_nothing_and_is_nobodys_origin(project: Project, site: Site):
    project.reports_dir.mkdir()
    (project.reports_dir / "abc123.html").write_text("<script>alert(1)</script>")
    (project.reports_dir / "abc123.json").write_text('{"phrase": "hey kitchen"}')
    (project.root / "secret.html").write_text("secret")
    assert [(r["run"], r["page"]) for r in await site.get("/api/reports")] == [("abc123", "api/reports/abc123/page")]
    status, text, headers = await site.ask("GET", "/api/reports/abc123/page")
    assert (status, text, headers["Content-Type"]) == (200, "<script>alert(1)</script>", "text/html; charset=utf-8")
    policy = headers["Content-Security-Policy"]
    assert "sandbox" in policy
    assert "default-src 'none'" in policy
    assert "script" not in policy
    assert await site.get("/api/reports/abc123/numbers") == {"phrase": "hey kitchen"}
    for name in ("nothing", "..%2fsecret", "%2e%2e%2fsecret", "abc123.html"):
        assert (await site.ask("GET", f"/api/reports/{name}/page"))[0] == 404


async def test_devices_are_told_with_what_they_run(project: Project, site: Site):
    add_device(project, Device(name="kitchen", template="generic-s3", friendly_name="Küche"))
    add_device(project, Device(name="hall", template="generic-s3"))
    common = {"device": "kitchen", "wake_model": "", "backend": "esphome"}
    for id, model, outcome, at in (
        ("1", "a-1", "verified", "01"),
        ("2", "b-2", "verified", "02"),
        ("3", "c-3", "failed", "03"),
    ):
        project.catalogue.put_flash(Flash(id=id, model=model, outcome=outcome, started_at=f"2026-01-{at}", **common))
    devices = await site.get("/api/devices")
    assert [(d["device"]["name"], d["verified"] and d["verified"]["model"]) for d in devices] == [
        ("kitchen", "b-2"),
        ("hall", None),
    ]
    assert [flash["model"] for flash in await site.get("/api/flashes?device=kitchen&limit=2")] == ["c-3", "b-2"]
    assert await site.get("/api/flashes?device=hall") == []
    assert (await site.ask("GET", "/api/flashes?device=--all"))[0] == 422
    assert (await site.ask("GET", "/api/flashes?limit=0"))[0] == 422


async def test_the_page_escapes_the_phrase_and_runs_only_its_own_script(project: Project, site: Site):
    (project.root / "project.yaml").write_text("phrase: hey <b>kitchen</b> & co\n")
    status, page, headers = await site.ask("GET", "/")
    assert status == 200
    assert "<title>hey &lt;b&gt;kitchen&lt;/b&gt; &amp; co" in page
    assert (
        re.findall(r"<script[^>]*>", page) == re.findall(r'<script type="module" src="static/\w+/main.js">', page) != []
    )
    assert '<base href="/">' in page
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'; style-src 'self' 'nonce-" in policy
    assert "unsafe" not in policy
    nonces = {(await site.ask("GET", "/"))[2]["Content-Security-Policy"] for _ in range(3)}
    assert len(nonces) == 3, "each page has its own"


# --- jobs ------------------------------------------------------------------------------------------------------------


async def test_a_job_is_asked_for_watched_and_stopped(site: Site):
    job = await site.order("train", seed=3)
    assert (job["kind"], job["order"], job["heavy"]) == ("train", {"kind": "train", "seed": 3}, True)
    await site.wait(job["id"], "running")
    assert [j["id"] for j in await site.get("/api/jobs?state=running")] == [job["id"]]
    status, answer, _ = await site.ask("POST", f"/api/jobs/{job['id']}/retry")
    assert status == 409
    status, answer, _ = await site.ask("DELETE", f"/api/jobs/{job['id']}")
    assert (status, answer["hint"]) == (409, "cancel it first")
    status, answer, _ = await site.ask("POST", f"/api/jobs/{job['id']}/cancel")
    assert (status, answer["stopping"]) == (200, True)
    assert (await site.wait(job["id"]))["state"] == "cancelled"
    assert (await site.ask("DELETE", f"/api/jobs/{job['id']}"))[0] == 204
    assert (await site.ask("GET", f"/api/jobs/{job['id']}"))[0] == 404


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ("{", 400, "not JSON"),
        ("[" * 100_000, 413, "longer"),
        ("[" * 50_000, 400, "not JSON"),
        ("[]", 422, "no object"),
        ('{"kind": "rm"}', 422, "kind is 'rm'"),
        ('{"kind": "train", "seed": "1"}', 422, "seed"),
        ('{"kind": "train", "seed": true}', 422, "seed"),
        ('{"kind": "train", "seed": -1}', 422, "seed"),
        ('{"kind": "train", "sead": 1}', 422, "unknown key"),
        ('{"kind": "confirm"}', 422, "lacks device"),
        ('{"kind": "confirm", "device": "--all"}', 422, "device"),
        ('{"kind": "confirm", "device": "nowhere"}', 422, "no device is called"),
        ('{"kind": "render", "name": "kitchen", "board": "../x"}', 422, "board"),
    ],
)
async def test_an_order_is_read_strictly(site: Site, body: str, status: int, says: str):
    headers = {**site.owner, "Content-Type": "application/json"}
    got, answer, _ = await site.ask("POST", "/api/jobs", headers=headers, data=body)
    assert (got, says in answer["message"]) == (status, True), answer
    assert await site.get("/api/jobs") == []


async def test_a_body_that_is_not_json_by_its_type_is_refused(site: Site):
    assert (await site.ask("POST", "/api/jobs", data={"kind": "train"}))[0] == 415


@pytest.mark.parametrize(
    ("path", "kind"), [("/api/jobs", "application/json"), ("/login", "application/x-www-form-urlencoded")]
)
async def test_a_body_that_does_not_come_is_not_waited_for(
    site: Site, monkeypatch: pytest.MonkeyPatch, path: str, kind: str
):
    monkeypatch.setattr("mww_ha.web.openapi.PIECE_TIMEOUT_S", 0.2)
    monkeypatch.setattr("mww_ha.web.app.PIECE_TIMEOUT_S", 0.2)
    reader, writer = await asyncio.open_connection("127.0.0.1", site.opened.pages[0][1])
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {site.owner['Authorization']}\r\n"
    writer.write(f"{head}Content-Type: {kind}\r\nContent-Length: 500\r\n\r\n{{".encode())
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_what_is_not_there_and_what_is_not_done_are_told_in_json(site: Site):
    status, answer, _ = await site.ask("GET", "/api/nothing")
    assert (status, answer["error"]) == (404, "HTTPNotFound")
    status, answer, headers = await site.ask("PUT", "/api/jobs")
    assert status == 405
    assert {"GET", "POST"} <= set(headers["Allow"].split(","))


# --- events ----------------------------------------------------------------------------------------------------------


async def read_events(answer: aiohttp.ClientResponse, until: str = "end") -> list[tuple[str, str, Any]]:
    """Events as (id, type, data), up to and with the first of type ``until``, or the end."""
    async with asyncio.timeout(60):
        return await _read_events(answer, until)


async def _read_events(answer: aiohttp.ClientResponse, until: str) -> list[tuple[str, str, Any]]:
    found: list[tuple[str, str, Any]] = []
    fields: dict[str, str] = {}
    async for raw in answer.content:
        line = raw.decode().rstrip("\n")
        name, _, value = line.partition(": ")
        if line:
            fields[name] = value
        elif "event" in fields:
            found.append((fields.get("id", ""), fields["event"], json.loads(fields["data"])))
            if fields["event"] == until:
                break
            fields = {}
        else:
            fields = {}
    return found


async def test_a_jobs_events_come_live_and_replay_without_gap_or_copy(site: Site):
    job = await site.order("prepare")
    url = f"{site.base}/api/jobs/{job['id']}/events"
    async with site.session.get(url, headers=site.owner) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        all = await read_events(answer)
    ids = [int(id) for id, type, _ in all if type != "end"]
    assert ids == list(range(1, len(ids) + 1))
    assert all[0][1] == "state"
    assert [data["state"] for _, type, data in all if type == "state"] == ["running", "done"]
    assert [data["result"] for _, type, data in all if type == "result"] == [{"id": "f00"}]
    async with site.session.get(url, headers={**site.owner, "Last-Event-ID": "2"}) as answer:
        again = await read_events(answer)
    assert again == all[2:]
    async with site.session.get(f"{url}?after=3", headers=site.owner) as answer:
        assert await read_events(answer) == all[3:]
    async with site.session.get(url, headers={**site.owner, "Last-Event-ID": str(ids[-1])}) as answer:
        assert answer.status == 204, "nothing will follow: do not ask again"
    page = await site.get(f"/api/jobs/{job['id']}/log?after=1&limit=2")
    assert ([line["id"] for line in page["lines"]], page["last"]) == ([2, 3], 3)


async def test_a_reader_that_comes_back_in_the_middle_misses_nothing(site: Site):
    job = await site.order("prepare")
    url, last, seen = f"{site.base}/api/jobs/{job['id']}/events", "", list[str]()
    for _ in range(50):
        headers = {**site.owner, **({"Last-Event-ID": last} if last else {})}
        async with site.session.get(url, headers=headers) as answer:
            if answer.status == 204:
                break
            for id, type, _ in await read_events(answer, until="progress"):
                seen += [id] if type != "end" else []
        last = seen[-1]
    assert seen == [str(n) for n in range(1, len(seen) + 1)]
    assert len(seen) >= 5


async def test_every_change_of_every_job_is_told_to_all_who_watch(site: Site):
    async with site.session.get(f"{site.base}/api/events", headers=site.owner) as answer:
        job = await site.order("prepare")
        found = []
        while not found or found[-1][2]["state"] != "done":
            found += await read_events(answer, until="job")
    assert {data["id"] for _, _, data in found} == {job["id"]}
    states = [data["state"] for _, _, data in found]
    assert states[0] == "queued"
    assert "running" in states
    async with site.session.get(
        f"{site.base}/api/events", headers={**site.owner, "Last-Event-ID": found[0][0]}
    ) as answer:
        again = list[Any]()
        while len(again) < len(found) - 1:
            again += await read_events(answer, until="job")
    assert again == found[1:]
    async with site.session.get(
        f"{site.base}/api/events", headers={**site.owner, "Last-Event-ID": "of another start-5"}
    ) as answer:
        assert (await read_events(answer, until="reset"))[-1][1] == "reset"


async def test_a_reader_that_falls_behind_the_ring_is_told_to_look_again():
    ring = Ring(size=3)
    look = ring.reader("")
    for n in range(5):
        ring.append("job", n)
    assert [event.type for event in (await look()).events] == ["reset"]
    ring.append("job", 5)
    batch = await look()
    assert [event.data for event in batch.events] == [5]
    assert (await look()).events == []
    assert [e.data for e in (await ring.reader(batch.events[0].id.replace("-6", "-4"))()).events] == [4, 5]


async def test_silence_is_filled_so_that_nobody_takes_the_line_for_dead(project: Project):
    async with (
        opened_site(project.root, heartbeat_s=0.05) as site,
        site.session.get(f"{site.base}/api/events", headers=site.owner) as answer,
    ):
        text = b""
        while text.count(b": still here\n\n") < 3:
            text += await answer.content.readany()
        assert text.startswith(b"retry: 2000\n\n")


async def test_a_slow_reader_holds_up_nobody():
    """A reader that takes nothing: its connection's buffers fill, and others read on."""
    ring, stopping = Ring(), asyncio.Event()
    sent = dict[str, int](slow=0, quick=0)

    async def answer(request: web.Request) -> web.StreamResponse:
        who, look = request.query["who"], ring.reader("")

        async def counted() -> Batch:
            batch = await look()
            sent[who] += len(batch.events)
            return batch

        return await send_events(request, counted, ring.signal, stopping)

    app = web.Application()
    app.router.add_get("/", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    _, slow = await asyncio.open_connection("127.0.0.1", port, limit=1024)
    slow.write(b"GET /?who=slow HTTP/1.1\r\nHost: x\r\n\r\n")
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/?who=quick") as quick:
        await asyncio.sleep(0.1)
        taken = 0
        for n in range(60):
            ring.append("job", {"n": n, "padding": "x" * 400_000})
            while taken <= n:
                taken += (await quick.content.readline()).startswith(b"data: ")
    assert sent["slow"] < 60
    slow.close()
    stopping.set()
    await runner.cleanup()


async def test_a_log_whose_beginning_is_gone_says_so(site: Site):
    job = await site.order("synthesize")
    await site.wait(job["id"])
    async with site.session.get(f"{site.base}/api/jobs/{job['id']}/events", headers=site.owner) as answer:
        events = await read_events(answer)
    assert events[0][1] == "gap"
    assert events[0][2] == {"from": 1, "to": int(events[1][0]) - 1}
    assert events[-2][2]["state"] == "done"


# --- the device site -------------------------------------------------------------------------------------------------


async def upload(site: Site, token: str, content: Any, **named: str) -> tuple[int, str, Any]:
    """Status, text and headers of the answer to a capture."""
    port = site.opened.devices[0][1]
    url = f"http://127.0.0.1:{port}/api/captures"
    async with site.session.post(url, headers=upload_kit.headers_of(token, **named), data=content) as answer:
        return answer.status, await answer.text(), answer.headers


async def test_a_satellites_capture_is_taken_once_and_told_to_all_who_watch(project: Project, site: Site):
    token, content = make_token(project, "kitchen"), upload_kit.wav_of(upload_kit.noise(1))
    async with site.session.get(f"{site.base}/api/events", headers=site.owner) as answer:
        first = await upload(site, token, content)
        again = await upload(site, token, content)
        event = (await read_events(answer, until="capture"))[-1]
    assert first[0] == again[0] == 201
    assert json.loads(first[1]) == json.loads(again[1])
    assert event[2] == {"id": json.loads(first[1])["id"], "device": "kitchen", "kind": "detection"}
    assert len(list((project.root / "captures").rglob("*.flac"))) == 1


async def test_the_device_site_answers_nothing_else(site: Site):
    base = f"http://127.0.0.1:{site.opened.devices[0][1]}"
    for method, path in (
        ("GET", "/"),
        ("GET", "/api/captures"),
        ("PUT", "/api/captures"),
        ("POST", "/api/captures/"),
        ("GET", "/api/health"),
        ("GET", "/api/jobs"),
        ("POST", "/api/jobs"),
        ("GET", f"/?token={site.opened.token}"),
    ):
        async with site.session.request(method, base + path, headers=site.owner) as answer:
            assert (answer.status, await answer.text()) == (404, ""), path
            assert "Allow" not in answer.headers
    assert (await site.ask("POST", "/api/captures"))[0] == 405, "nor does the page site take captures"


async def test_a_capture_that_is_not_taken_says_how_to_go_on(
    project: Project, site: Site, caplog: pytest.LogCaptureFixture
):
    token, content = make_token(project, "kitchen"), upload_kit.wav_of(upload_kit.noise(1))
    with caplog.at_level(logging.DEBUG):
        assert (await upload(site, "nonsense" * 6, content))[0] == 401
        assert (await upload(site, token, content, kind="gossip"))[0] == 400
        assert (await upload(site, token, b"RIFF"))[0] == 415
        assert (await upload(site, token, io.BytesIO(bytes(600_000))))[0] == 413
        assert (await upload(site, token, upload_kit.pieces(bytes(400_000))))[0] == 413, "no length was promised"
    assert token not in caplog.text
    assert "nonsense" not in caplog.text
    assert not list((project.root / "captures").rglob("*.flac"))


async def test_a_satellite_that_floods_is_asked_to_wait(project: Project):
    (project.root / "project.yaml").write_text("phrase: hey kitchen\ncapture: {uploads_per_minute: 2}\n")
    token, content = make_token(project, "kitchen"), upload_kit.wav_of(upload_kit.noise(1))
    async with opened_site(project.root) as site:
        answers = [await upload(site, token, content, capture=f"{n:016x}-1") for n in range(4)]
    assert [answer[0] for answer in answers[:2]] == [201, 201]
    assert answers[3][0] == 429
    assert int(answers[3][2]["Retry-After"]) > 0


# --- its life --------------------------------------------------------------------------------------------------------

SERVE = """
import sys
from pathlib import Path
from mww_ha.web.app import serve
serve(Path(sys.argv[1]), port=int(sys.argv[2]), device_port=int(sys.argv[3]), device_host="127.0.0.1")
"""


async def test_a_termination_ends_streams_and_leaves_jobs_in_order(project: Project):
    (project.root / "project.yaml").write_text(
        "phrase: hey kitchen\nsynthesize: {engines: [espeak], wake_clips: 99999}\n"
    )
    port, device_port = free_port(), free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVE, str(project.root), str(port), str(device_port),
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    line = (await process.stderr.readline()).decode()
    token = re.search(r"token=([\w-]+)", line)
    assert token, line
    headers = {"Authorization": f"Bearer {token[1]}"}
    base = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.post(f"{base}/api/jobs", json={"kind": "synthesize"}) as answer:
            job = await answer.json()
        async with session.post(f"{base}/api/jobs", json={"kind": "evaluate"}) as answer:
            assert answer.status == 201
        async with session.get(f"{base}/api/jobs/{job['id']}/events") as stream:
            await read_events(stream, until="progress")
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            await read_events(stream, until="never")
        assert await process.wait() == 0
        assert time.monotonic() - began < GRACE_S, "nothing had to be killed"
    state = await asyncio.to_thread(State, project.root / "service" / "service.sqlite")
    rows = await asyncio.to_thread(state.jobs)
    assert [(row.orders["kind"], row.state) for row in rows] == [("synthesize", "interrupted"), ("evaluate", "queued")]
    state.close()


async def test_two_services_of_one_folder_do_not_start(project: Project, site: Site):
    with pytest.raises(ProjectError, match="in use"):
        async with opened_site(project.root):
            pass
    assert await site.get("/api/health") == {"status": "ok"}


async def test_a_port_that_is_taken_is_told(project: Project, tmp_path: Path, site: Site):
    port = site.opened.pages[0][1]
    with pytest.raises(InputError, match=f"port {port}"):
        async with opened_site(project.root, port=port, state_dir=tmp_path / "other"):
            pass


@pytest.fixture
async def listening(request: pytest.FixtureRequest) -> AsyncIterator[int]:
    """A port where three connections fit, and one that says nothing has as long as the test says."""

    async def answer(request: web.Request) -> web.Response:
        listener.note_request(request)
        return web.Response(text="hello")

    app = web.Application()
    app.router.add_get("/", answer)
    runner = make_runner(app)
    await runner.setup()
    listener = Listener(runner, most=3, patience_s=request.param)
    yield (await listener.open("127.0.0.1", 0))[0][1]
    await listener.close()
    await runner.cleanup()


async def is_closed(reader: asyncio.StreamReader, within_s: float) -> bool:
    try:
        return await asyncio.wait_for(reader.read(1), within_s) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


@pytest.mark.parametrize("listening", [1.0], indirect=True)
async def test_a_connection_that_says_nothing_is_closed_and_one_that_asked_is_kept(listening: int):
    silent, writer = await asyncio.open_connection("127.0.0.1", listening)
    writer.write(b"GET / HTTP/1.1\r\nX-Slow: ")
    asking, other = await asyncio.open_connection("127.0.0.1", listening)
    other.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await asking.readuntil(b"hello")).startswith(b"HTTP/1.1 200 ")
    assert await is_closed(silent, 20)
    assert not await is_closed(asking, 0.5)
    writer.close()
    other.close()


@pytest.mark.parametrize("listening", [60.0], indirect=True)
async def test_more_connections_than_fit_are_closed(listening: int):
    crowd = [await asyncio.open_connection("127.0.0.1", listening) for _ in range(6)]
    for _, writer in crowd[:3]:
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    closed = [await is_closed(reader, 20) for reader, _ in crowd]
    assert closed == [False] * 3 + [True] * 3
    for _, writer in crowd:
        writer.close()


def test_what_the_environment_says_is_taken():
    said = {"MWW_HA_INGRESS": "1", "MWW_HA_ADMINS": "a1, b2,", "MWW_HA_INGRESS_PEER": "10.0.0.1"}
    options = Options().from_environment(said)
    assert (options.ingress, options.admins, options.ingress_peer) == (True, ("a1", "b2"), "10.0.0.1")
    assert Options().from_environment({"MWW_HA_INGRESS": "0"}) == Options()


# --- the description -------------------------------------------------------------------------------------------------


async def test_every_route_is_described_and_nothing_else(site: Site):
    document = await site.get("/api/openapi.json")
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    app = make_page_app(site.service, lambda: None)
    real = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.method != "HEAD" and route.resource.canonical.startswith("/api/")
    }
    assert described == real
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["summary"], path
            assert len(operation["responses"]) >= 2
    ids = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))


# The service runs in this process too, and looking for satellites (zeroconf) draws from Python's own random numbers.
@pytest.mark.filterwarnings("ignore:Do not use the .random. module:hypothesis.errors.HypothesisDeprecationWarning")
async def test_the_service_answers_as_described(project: Project):
    """Schemathesis: what is described and what is not, against the running service. Every order does nothing here."""
    project.reports_dir.mkdir()
    (project.reports_dir / "abc123.html").write_text("<p>")
    project.catalogue.put_model("hey_kitchen-0123abcd", {"id": "hey_kitchen-0123abcd", "run": "abc123"})
    add_device(project, Device(name="kitchen", template="generic-s3"))

    def nothing(order: orders.Order, project: Project) -> list[str]:
        order.arguments(project)
        return [sys.executable, "-I", "-S", "-c", ""]

    async with opened_site(project.root, command=nothing) as site:
        await site.wait((await site.order("prepare"))["id"])
        document = await site.get("/api/openapi.json")
        for path in [path for path in document["paths"] if path.endswith("/events")]:
            del document["paths"][path]  # they do not end
        tried = await asyncio.to_thread(attack, document, site.base, site.owner)
    assert len(tried) >= 30, tried


def attack(document: dict[str, Any], base: str, headers: dict[str, str]) -> list[str]:
    """Asks for everything in ``document``; raises when an answer is not as described. Returns what was asked."""
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.checks import CHECKS, load_all_checks

    load_all_checks()
    names = ("not_a_server_error", "status_code_conformance", "content_type_conformance")
    judged = [CHECKS.get_one(name) for name in (*names, "response_schema_conformance", "negative_data_rejection")]
    tried = list[str]()
    for found in schemathesis.openapi.from_dict(document).get_all_operations():
        operation = found.ok()
        modes = [schemathesis.GenerationMode.POSITIVE]
        if operation.definition.raw["parameters"] or "requestBody" in operation.definition.raw:
            modes.append(schemathesis.GenerationMode.NEGATIVE)
        for mode in modes:

            @settings(
                max_examples=5,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def ask(case: Any) -> None:
                case.call_and_validate(base_url=base, headers=headers, checks=judged)

            ask()
            tried.append(f"{operation.label} {mode}")
    return tried


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Inner:
    """Something inside."""

    name: str


def test_half_a_character_is_no_text():
    """JSON can say it and no file can hold it."""
    assert read(json.loads('"\\ud83d\\ude00"'), str, "it") == "\N{GRINNING FACE}"
    with pytest.raises(InputError, match=r"it is '.ud83d'"):
        read(json.loads('"\\ud83d"'), str, "it")


def test_types_are_read_and_described_alike():
    from typing import Annotated, Literal

    cases: list[tuple[Any, Any, Any]] = [
        (Annotated[str, Text(pattern="[a-z]+", longest=3)], "abc", "abcd"),
        (Annotated[str, Text(pattern="[a-z]+")], "abc", "abc\n"),
        (Annotated[int, Number(least=1, most=3)], 3, 4),
        (int, 3, 3.0),
        (int, 3, True),
        (bool, True, 1),
        (str | None, None, 3),
        (list[int], [1, 2], [1, "2"]),
        (Literal["a", "b"], "a", "c"),
        (_Inner, {"name": "x"}, {"name": "x", "more": 1}),
        (_Inner, {"name": "x"}, {}),
    ]
    import jsonschema_rs

    for kind, good, bad in cases:
        assert plain(read(good, kind, "it")) == good
        with pytest.raises(InputError):
            read(bad, kind, "it")
        components: dict[str, Any] = {}
        described = schema(kind, components)
        whole = {**described, "components": {"schemas": components}}
        assert jsonschema_rs.is_valid(whole, good)
        if bad != 3.0 and bad != "abc\n":  # JSON does not tell 3.0 from 3; its patterns, in Python, pass a last newline
            assert not jsonschema_rs.is_valid(whole, bad), (kind, bad)


def test_a_number_that_json_cannot_hold_becomes_null():
    assert plain({"loss": float("nan"), "deep": [float("inf"), 1.5]}) == {"loss": None, "deep": [None, 1.5]}


def test_two_types_of_one_name_are_noticed():
    other = dataclasses.make_dataclass("_Inner", [("x", int)])
    components: dict[str, Any] = {}
    schema(_Inner, components)
    with pytest.raises(TypeError, match="_Inner"):
        schema(other, components)
    assert describe(ROUTES, cookie="c")["openapi"] == "3.1.0"


@pytest.mark.parametrize(
    ("path", "base"),
    [
        ("", "/"),
        ("/api/hassio_ingress/T0k_en-x", "/api/hassio_ingress/T0k_en-x/"),
        ("//evil.example", "/evil.example/"),
        ("/a//b", "/"),
        ("/a/../b", "/"),
        ('/"><script>', "/"),
        ("https://evil.example/", "/"),
        ("/a b", "/"),
    ],
)
def test_the_base_path_is_a_path_and_nothing_else(path: str, base: str):
    assert clean_base(path) == base


def test_an_event_is_one_event_whatever_it_holds():
    encoded = Event(id="7", type="log", data={"text": "a\n\nevent: x\r\ndata: y"}).encode()
    assert encoded.count(b"\n") == 4
    assert encoded.endswith(b"\n\n")
    assert Signal().waiter().is_set() is False
