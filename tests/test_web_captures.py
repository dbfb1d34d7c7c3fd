"""What is captured is scored, judged and counted through the page; what was acknowledged survives every kill."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import toy_wake
import upload_kit
from blockbuster import blockbuster_ctx
from host_device import free_port
from test_capture_review import MODEL, add, spoken
from test_web import SERVE, Site, opened_site, read_events, upload

from mww_ha import audio, metrics
from mww_ha.capture import keep, review
from mww_ha.capture.review import apply_verdicts
from mww_ha.capture.tokens import make_token
from mww_ha.devices.known import add_device, update_device
from mww_ha.record.people import note_consent
from mww_ha.schema import CaptureKind, Device, Exposure, Flash, Verdict
from mww_ha.store import PROJECT_FILE, Project
from mww_ha.web.access import Caller
from mww_ha.web.captures import CAPTURE_ROUTES, name_of

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> Iterator[None]:
    with blockbuster_ctx("mww_ha.web"):
        yield


@pytest.fixture
def home(project: Project) -> Project:
    """A project with the toy model, which one satellite carries."""
    project.models_dir.mkdir()
    toy_wake.write_model(project.models_dir, name=MODEL)
    add_device(project, Device(name="kitchen", template="generic-s3"))
    return project


@pytest.fixture
async def site(home: Project) -> AsyncIterator[Site]:
    async with opened_site(home.root) as made:
        yield made


async def until(site: Site, path: str, true: Any) -> Any:
    """The answer as soon as it is so."""
    async with asyncio.timeout(120):  # a busy machine scores a capture a second
        while not true(answer := await site.get(path)):  # noqa: ASYNC110  over HTTP
            await asyncio.sleep(0.03)
    return answer


async def post(site: Site, path: str, status: int = 200, **body: Any) -> Any:
    got, answer, _ = await site.ask("POST", path, json=body)
    assert got == status, answer
    return answer


def model_text() -> str:
    return MODEL.replace("-", "%20")


# --- the queue -------------------------------------------------------------------------------------------------------


async def test_a_new_capture_is_scored_soon_and_all_who_watch_are_told(home: Project, site: Site):
    token = make_token(home, "kitchen")
    samples, end_s = spoken(1)
    async with site.session.get(f"{site.base}/api/events", headers=site.owner) as events:
        trigger = str(round(end_s * 16_000))
        status, text, _ = await upload(
            site, token, upload_kit.wav_of(samples), model=model_text(), trigger_sample=trigger
        )
        assert status == 201
        told = await read_events(events, until="scored")
    id = json.loads(text)["id"]
    assert [type for _, type, _ in told] == ["capture", "scored"]
    assert told[1][2]["id"] == id
    assert told[1][2]["reproduced"] is True
    detail = await site.get(f"/api/captures/{id}")
    assert detail["scores"][0]["model"] == MODEL
    assert max(detail["scores"][0]["trace"]) > 150
    assert len(detail["scores"][0]["trace"]) == pytest.approx(5.5 / 0.03, abs=2), "and what follows it"
    assert any("heard here too" in hint for hint in detail["hints"])
    assert (detail["faults"], detail["transcript"], detail["history"]) == ([], None, [])
    assert (await site.get("/api/status"))["keeper"]["scored"] == 1


async def test_a_capture_waits_for_its_model_and_a_broken_sound_holds_up_nobody(home: Project):
    samples, _ = spoken(2)
    broken = add(home, samples, "a-1")
    (home.root / broken.path).write_bytes(b"fLaC but not really")
    other = add(home, spoken(3)[0], "a-2")
    async with opened_site(home.root) as site:
        page = await until(site, "/api/captures", lambda page: all(c["score"] is not None for c in page["captures"]))
        scored = {c["capture"]["id"]: c["score"] for c in page["captures"]}
        assert scored[broken.id]["problem"]
        assert scored[other.id]["problem"] == ""
        status = await until(site, "/api/status", lambda status: status["keeper"]["scored"] >= 2)
        assert status["keeper"] | {"expired_at": ""} == {
            "scored": 2, "expired": 0, "expired_at": "", "problem": "", "transcribed": 0, "stt_problem": "",
        }  # fmt: skip
        await asyncio.sleep(0.2)
        assert (await site.get("/api/status"))["keeper"]["scored"] == 2, "not again and again"


async def test_the_service_ends_at_once_and_scores_the_rest_next_time(home: Project):
    samples, _ = spoken(4)
    for number in range(40):
        add(home, samples, f"a-{number}")
    async with opened_site(home.root) as site:
        async with asyncio.timeout(60):
            while not home.catalogue.scores():  # noqa: ASYNC110  it writes them one by one
                await asyncio.sleep(0.01)
        began = time.monotonic()
    assert time.monotonic() - began < 15
    assert 0 < len(home.catalogue.scores()) < 40, "the rest would have taken longer"
    async with opened_site(home.root, new_token=True) as site:
        await until(site, "/api/status", lambda _: len(home.catalogue.scores()) == 40)


async def test_what_speech_to_text_reads_in_a_capture_is_a_hint_and_a_server_that_is_away_holds_up_nobody(
    home: Project,
):
    port = free_port()
    with (home.root / PROJECT_FILE).open("a", encoding="utf-8") as file:
        file.write(f"record: {{stt: 'wyoming://127.0.0.1:{port}'}}\n")
    waits, judged = add(home, spoken(2)[0], "a-1"), add(home, spoken(3)[0], "a-2")
    review.judge(home, [judged.id], Verdict.OTHER, by="bea")
    async with opened_site(home.root) as site:
        status = await until(site, "/api/status", lambda status: status["keeper"]["stt_problem"])
        assert "cannot be reached" in status["keeper"]["stt_problem"]
        await until(site, f"/api/captures/{waits.id}", lambda detail: detail["scores"])
        process = await asyncio.create_subprocess_exec(
            sys.executable, ROOT / "tests" / "toy_transcriber.py", str(port), stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            assert int(await process.stdout.readline()) == port
            token = make_token(home, "kitchen")
            async with site.session.get(f"{site.base}/api/events", headers=site.owner) as events:
                await upload(site, token, upload_kit.wav_of(spoken(4)[0]), model=model_text())
                told = await read_events(events, until="transcribed")
            assert told[-1][2]["text"] == "en 5.00 Hey kitchen", "the newest first"
            detail = await until(site, f"/api/captures/{waits.id}", lambda detail: detail["transcript"])
            assert "speech-to-text read 'en 5.00 Hey kitchen'" in detail["hints"]
            page = await site.get("/api/captures")
            assert all(any("speech-to-text" in hint for hint in c["hints"]) for c in page["captures"])
            status = await until(site, "/api/status", lambda status: not status["keeper"]["stt_problem"])
            assert status["keeper"]["transcribed"] == 2
            assert (await site.get(f"/api/captures/{judged.id}"))["transcript"] is None, "it is judged already"
        finally:
            process.terminate()
            await process.wait()


async def test_captures_are_listed_by_what_they_are(home: Project, site: Site):
    for number, (device, kind, model) in enumerate(
        [("kitchen", "detection", MODEL), ("hall", "near_miss", MODEL), ("kitchen", "canary", "toy-99999999")]
    ):
        samples, _ = spoken(number)
        add(home, samples, f"a-{number}", after_s=number, device=device, kind=CaptureKind(kind), model=model)

    async def uploads(query: str) -> list[str]:
        page = await site.get(f"/api/captures?{query}")
        assert page["total"] >= len(page["captures"])
        return [entry["capture"]["upload"] for entry in page["captures"]]

    assert await uploads("") == ["a-2", "a-1", "a-0"]
    assert await uploads("order=oldest&limit=2") == ["a-0", "a-1"]
    assert await uploads("order=oldest&limit=2&offset=2") == ["a-2"]
    assert await uploads("device=kitchen") == ["a-2", "a-0"]
    assert await uploads("kind=near_miss") == ["a-1"]
    assert await uploads(f"model={MODEL}") == ["a-1", "a-0"]
    assert await uploads("state=judged") == []
    first = (await site.get("/api/captures?order=oldest"))["captures"][0]["capture"]["id"]
    await post(site, "/api/review", ids=[first], verdict="other")
    assert await uploads("") == ["a-2", "a-1"]
    assert await uploads("state=judged") == ["a-0"]
    assert await uploads("state=all&verdict=other") == ["a-0"]
    assert await uploads("state=all&verdict=wake") == []
    for query in ("state=some", "limit=0", "kind=gossip", "device=..", "order=random"):
        assert (await site.ask("GET", f"/api/captures?{query}"))[0] == 422, query
    counts = await site.get("/api/review/counts")
    assert {(c["device"], c["kind"], c["verdict"]): c["captures"] for c in counts} == {
        ("hall", "near_miss", "undecided"): 1,
        ("kitchen", "canary", "undecided"): 1,
        ("kitchen", "detection", "other"): 1,
    }


async def test_the_next_capture_to_judge_is_one_of_the_chosen_model(home: Project, site: Site):
    other = "toy-99999999"
    for number in range(4):
        add(home, spoken(number)[0], f"a-{number}", after_s=number, model=(MODEL, other)[number % 2])
    first = await site.get(f"/api/review?order=oldest&model={other}")
    assert (first["waiting"], first["next"]["capture"]["upload"]) == (2, "a-1")
    judged = await post(
        site, "/api/review", ids=[first["next"]["capture"]["id"]], verdict="other", order="oldest", model=other
    )
    assert (judged["waiting"], judged["next"]["capture"]["upload"]) == (1, "a-3")
    undone = await post(site, f"/api/review/undo?order=oldest&model={other}")
    assert undone["waiting"] == 2
    counts = {(c["model"], c["verdict"]): c["captures"] for c in await site.get("/api/review/counts")}
    assert counts == {(MODEL, "undecided"): 2, (other, "undecided"): 2}


async def test_a_capture_tells_what_its_trace_means_and_who_else_may_hold_the_same_seconds(home: Project, site: Site):
    samples, end_s = spoken(1)
    one = add(home, samples, "a-1", trigger_s=end_s)
    two = add(home, spoken(2)[0], "a-2", after_s=15)
    add(home, spoken(3)[0], "a-3", after_s=40)
    add(home, spoken(4)[0], "a-4", after_s=5, device="hall")
    site.service.hear_capture(one)
    detail = await until(site, f"/api/captures/{one.id}", lambda detail: detail["scores"])
    (score,) = detail["scores"]
    means = np.convolve(score["trace"], np.ones(score["window"]), "valid") / score["window"] / 255
    place = int(np.argmax(means)) + score["window"] - 1
    assert score["peak"] == pytest.approx(means.max(), abs=1e-4)
    # the score is of the best of three places where the model's steps may have lain
    assert score["first_s"] + place * score["step_ms"] / 1000 == pytest.approx(score["peak_s"], abs=0.021)
    assert detail["copies"] == [two.id]
    listed = (await site.get("/api/captures"))["captures"]
    assert {(c["score"] or score)["window"] for c in listed} <= {0, score["window"]}


async def test_who_may_speak_is_whoever_agreed_or_was_named(home: Project, site: Site):
    note_consent(home, "Jürgen", noted_by="Jürgen")
    capture = add(home, spoken(1)[0])
    add(home, spoken(2)[0], "a-2")
    await post(site, "/api/review", ids=[capture.id], verdict="wake", person="anna")
    assert await site.get("/api/review/speakers") == ["anna", "Jürgen"]


async def test_a_verdict_brings_the_next_capture_and_can_be_taken_back(home: Project, site: Site):
    ids = [add(home, spoken(number)[0], f"a-{number}", after_s=number).id for number in range(3)]
    first = await site.get("/api/review?order=oldest")
    assert (first["waiting"], first["next"]["capture"]["id"]) == (3, ids[0])
    async with site.session.get(f"{site.base}/api/events", headers=site.owner) as events:
        judged = await post(site, "/api/review", ids=[ids[0]], verdict="false_accept", person="Anna", order="oldest")
        told = (await read_events(events, until="judged"))[-1]
    assert (judged["changed"], judged["waiting"], judged["next"]["capture"]["id"]) == ([ids[0]], 2, ids[1])
    assert told[2] == {"ids": [ids[0]], "verdict": "false_accept", "by": "owner"}
    again = await post(site, "/api/review", ids=[ids[0]], verdict="false_accept", order="oldest")
    assert again["changed"] == []
    last = await post(site, "/api/review", ids=ids[1:], verdict="wake", order="oldest")
    assert (last["changed"], last["waiting"], last["next"]) == (ids[1:], 0, None)
    undone = await post(site, "/api/review/undo")
    assert (sorted(undone["changed"]), undone["waiting"]) == (sorted(ids[1:]), 2)
    assert undone["next"]["capture"]["id"] in ids[1:], "what was taken back is shown again"
    history = await site.get(f"/api/captures/{ids[1]}/history")
    assert [(entry["verdict"], entry["by"], entry["undoes"] > 0) for entry in history] == [
        ("undecided", "owner", True),
        ("wake", "owner", False),
    ]
    await post(site, "/api/review/undo")
    status, answer, _ = await site.ask("POST", "/api/review/undo")
    assert (status, answer["hint"]) == (422, "judge something first")


async def test_verdicts_count_for_a_canary_at_once(home: Project, site: Site):
    home.catalogue.put_model("canary-22222222", {"id": "canary-22222222", "run": "r2"})
    flash = {"model": MODEL, "canary": "canary-22222222", "wake_model": "", "backend": "esphome"}
    home.catalogue.put_flash(
        Flash(id="f", device="kitchen", started_at="2026-11-01T00:00:00+00:00", outcome="verified", **flash)
    )
    samples, _ = spoken(1)
    canary = {"kind": CaptureKind.CANARY, "model": "canary-22222222"}
    captures = [add(home, samples, f"a-{number}", after_s=100.0 * number, **canary) for number in range(6)]
    async with site.session.get(f"{site.base}/api/events", headers=site.owner) as events:
        await post(site, "/api/review", ids=[capture.id for capture in captures], verdict="false_accept")
        told = await read_events(events, until="canary")
    assert told[-1][2]["canary"] == "canary-22222222"
    assert told[-1][2]["outcome"] == "worse"
    assert (await site.get("/api/models/canary-22222222"))["offered"] is False
    await post(site, "/api/review/undo")
    await until(site, "/api/models/canary-22222222", lambda model: model["offered"])


async def test_a_batch_is_judged_as_a_whole_or_not_at_all(home: Project, site: Site):
    ids = [add(home, spoken(number)[0], f"a-{number}").id for number in range(2)]
    status, _, _ = await site.ask("POST", "/api/review", json={"ids": [*ids, "0" * 16], "verdict": "wake"})
    assert status == 422
    assert (await site.get("/api/review"))["waiting"] == 2
    for body in ({"ids": ["../x"], "verdict": "wake"}, {"ids": ids, "verdict": "maybe"}, {"ids": ids}):
        assert (await site.ask("POST", "/api/review", json=body))[0] == 422
    assert (await site.get("/api/review"))["waiting"] == 2


async def test_a_sound_is_sent_in_parts_and_kept_by_no_browser(home: Project, site: Site):
    capture = add(home, spoken(1)[0])
    content = (home.root / capture.path).read_bytes()
    path = (await site.get(f"/api/captures/{capture.id}"))["sound"]
    async with site.session.get(f"{site.base}/{path}", headers=site.owner) as answer:
        assert (answer.content_type, answer.headers["Cache-Control"]) == ("audio/flac", "no-store")
        assert await answer.read() == content
    async with site.session.get(f"{site.base}/{path}", headers={**site.owner, "Range": "bytes=100-199"}) as answer:
        assert (answer.status, await answer.read()) == (206, content[100:200])
        assert answer.headers["Cache-Control"] == "no-store"
    assert (await site.ask("GET", f"/{path}", headers={}))[0] == 401
    (home.root / capture.path).unlink()
    assert (await site.ask("GET", f"/{path}"))[0] == 404
    silent = add(home, np.zeros(0, np.int16), "a-9", kind=CaptureKind.FALSE_WAKE, session="a-1")
    assert (await site.get(f"/api/captures/{silent.id}"))["sound"] == ""
    assert (await site.ask("GET", f"/api/captures/{silent.id}/sound"))[0] == 404
    for id in ("0" * 16, "..%2f..%2fproject.yaml", "x"):
        assert (await site.ask("GET", f"/api/captures/{id}/sound"))[0] == 404


async def test_what_is_deleted_is_gone_with_its_clips(home: Project, site: Site):
    captures = [add(home, spoken(number)[0], f"a-{number}") for number in range(3)]
    await post(site, "/api/review", ids=[captures[0].id], verdict="wake", person="Anna")
    assert apply_verdicts(home).added == 1
    deleted = await post(site, "/api/captures/delete", ids=[captures[0].id, captures[1].id, "0" * 16])
    assert deleted["captures"] == sorted(c.id for c in captures[:2])
    assert len(deleted["clips"]) == 1
    assert home.catalogue.clips() == []
    assert not (home.root / captures[0].path).exists()
    assert (await site.ask("GET", f"/api/captures/{captures[0].id}"))[0] == 404
    status, answer, _ = await site.ask("DELETE", f"/api/captures/{captures[2].id}")
    assert (status, answer["captures"]) == (200, [captures[2].id])
    assert (await site.ask("DELETE", f"/api/captures/{captures[2].id}"))[0] == 404
    assert keep.check_consistency(home).ok


async def test_clips_that_a_running_job_learns_from_are_not_deleted_under_it(home: Project, site: Site):
    capture = add(home, spoken(1)[0])
    await post(site, "/api/review", ids=[capture.id], verdict="wake")
    apply_verdicts(home)
    job = await site.order("train")
    await site.wait(job["id"], "running")
    status, answer, _ = await site.ask("DELETE", f"/api/captures/{capture.id}")
    assert (status, "train is at work" in answer["message"]) == (409, True)
    await site.ask("POST", f"/api/jobs/{job['id']}/cancel")
    await site.wait(job["id"])
    assert (await site.ask("DELETE", f"/api/captures/{capture.id}"))[0] == 200


async def test_behind_ingress_everybody_judges_and_only_an_administrator_deletes_and_makes_tokens(home: Project):
    capture = add(home, spoken(1)[0])
    async with opened_site(home.root, ingress=True, ingress_peer="127.0.0.1", admins=("boss",)) as site:
        person = {"X-Remote-User-Id": "guest", "X-Remote-User-Display-Name": "Berta", "Origin": site.base}
        body = {"ids": [capture.id], "verdict": "other"}
        assert (await site.ask("POST", "/api/review", headers=person, json=body))[0] == 200
        assert (await site.get(f"/api/captures/{capture.id}/history", headers=person))[0]["by"] == "Berta"
        for method, path, sent in (
            ("DELETE", f"/api/captures/{capture.id}", None),
            ("POST", "/api/captures/delete", {"ids": [capture.id]}),
            ("POST", "/api/tokens", {"device": "kitchen"}),
            ("DELETE", "/api/tokens/" + "0" * 16, None),
        ):
            assert (await site.ask(method, path, headers=person, json=sent))[0] == 403, path
        boss = {**person, "X-Remote-User-Id": "boss"}
        assert (await site.ask("DELETE", f"/api/captures/{capture.id}", headers=boss))[0] == 200


def test_whoever_judges_has_a_name():
    assert name_of(Caller(way="token")) == "owner"
    assert name_of(Caller(way="ingress", user_id="u1")) == "u1"
    assert name_of(Caller(way="ingress", user_id="u1", user_name=" A\u202en\nna " + "x" * 100)) == ("Anna " + "x" * 75)


async def test_what_nobody_judged_in_time_goes_when_the_service_starts_and_then_again(home: Project):
    long_ago = (datetime.now(UTC) - timedelta(days=20)).isoformat(timespec="milliseconds")
    old = add(home, spoken(1)[0], "a-1", received_at=long_ago)
    judged = add(home, spoken(2)[0], "a-2", received_at=long_ago, verdict=Verdict.WAKE)
    async with opened_site(home.root) as site:
        status = await until(site, "/api/status", lambda status: status["keeper"]["expired_at"])
        assert (status["keeper"]["expired"], status["waiting"]) == (1, 0)
    assert not (home.root / old.path).exists()
    assert (home.root / judged.path).exists()


# --- the field -------------------------------------------------------------------------------------------------------


async def test_what_a_killed_upload_left_goes_when_the_service_starts_and_what_is_missing_is_told(home: Project):
    kept, lost = add(home, spoken(1)[0], "a-1"), add(home, spoken(2)[0], "a-2")
    stray = home.captures_dir / "00" / f"{'0' * 64}.flac"
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"fLaC of an upload that nobody acknowledged")
    (home.root / lost.path).unlink()
    async with opened_site(home.root) as site:
        status = await until(site, "/api/status", lambda status: status["keeper"]["problem"])
        assert status["keeper"]["problem"] == f"the sound of 1 capture is missing, such as {lost.path}"
        assert not stray.exists()
        assert (home.root / kept.path).exists()
        assert len(home.catalogue.captures()) == 2, "its row holds what was said of it"


async def test_rates_come_with_hours_intervals_and_words(home: Project, site: Site):
    for number in range(3):
        add(home, spoken(number)[0], f"a-{number}", after_s=60 * number, verdict=Verdict.FALSE_ACCEPT)
    for model in ("", MODEL):
        home.catalogue.add_exposure(
            Exposure(device="kitchen", model=model, day="2026-11-20", listening_s=214 * 3600.0, lost=1)
        )
    (rate,) = await site.get("/api/rates")
    assert (rate["device"], rate["model"], rate["hours"], rate["lost"]) == ("kitchen", MODEL, 214.0, 1)
    known = metrics.rate_interval(3, 214.0)
    assert rate["per_hour"] | {} == {"value": known.value, "low": known.low, "high": known.high, "events": 3,
                                     "exposure": 214.0, "unit": known.unit}  # fmt: skip
    assert rate["text"].startswith("3 in 214 h: 0.3 a day [")
    site.service.rooms = {"kitchen": "Ground floor"}
    assert [r["room"] for r in await site.get("/api/rates?by=room")] == ["Ground floor"]
    update_device(home, "kitchen", room="Kitchen")
    assert [r["room"] for r in await site.get("/api/rates?by=room")] == ["Kitchen"], "the user's own word counts"
    assert await site.get("/api/rates?by=device&since=2026-11-21") == []
    assert (await site.ask("GET", "/api/rates?by=colour"))[0] == 422
    for day in ("yesterday", "2026-13-45"):
        for what in ("rates", "recall", "exposure"):
            assert (await site.ask("GET", f"/api/{what}?since={day}"))[0] == 422
    exposure = await site.get("/api/exposure")
    assert [(e["model"], e["listening_s"]) for e in exposure] == [("", 214 * 3600.0), (MODEL, 214 * 3600.0)]


async def test_recall_is_told_by_person(home: Project, site: Site):
    for number in range(4):
        sound = "rising" if number else "low"
        samples, _ = spoken(number, sound=sound)
        add(home, samples, f"a-{number}", kind=CaptureKind.PROMPT, verdict=Verdict.WAKE, person="Anna")
    site.service.hear_capture(home.catalogue.captures()[0])
    (recall,) = await until(site, "/api/recall", lambda found: found and not found[0]["unscored"])
    assert (recall["person"], recall["model"], recall["recall"]["exposure"]) == ("Anna", MODEL, 4)
    assert re.fullmatch(r"\d of 4: \d+ % \[\d+–\d+\]", recall["text"])


# --- tokens ----------------------------------------------------------------------------------------------------------


async def test_a_token_is_shown_once_works_says_when_and_ends(home: Project, site: Site):
    made = await post(site, "/api/tokens", 201, device="kitchen")
    content = upload_kit.wav_of(upload_kit.noise(1))
    (entry,) = await site.get("/api/tokens")
    assert entry == {"id": made["id"], "device": "kitchen", "scope": "device:kitchen:append",
                     "made_at": entry["made_at"], "last_used_at": "", "revoked_at": ""}  # fmt: skip
    assert (await upload(site, made["token"], content))[0] == 201
    listed = json.dumps(await site.get("/api/tokens"))
    assert made["token"] not in listed
    assert home.catalogue.tokens()[0].sha256 not in listed
    assert json.loads(listed)[0]["last_used_at"]
    assert (await site.ask("DELETE", f"/api/tokens/{made['id']}"))[0] == 204
    assert (await upload(site, made["token"], content, capture="b-2"))[0] == 403
    assert (await site.get("/api/tokens"))[0]["revoked_at"]
    assert (await site.ask("DELETE", "/api/tokens/" + "0" * 16))[0] == 404
    status, answer, _ = await site.ask("POST", "/api/tokens", json={"device": "kitchn"})
    assert (status, "kitchen" in answer["hint"]) == (422, True)


# --- kill -9 ---------------------------------------------------------------------------------------------------------


async def kill_under_load(project: Project, kills: int, seed: int) -> int:
    """Uploads and verdicts at a service that is killed again and again. Returns how many were acknowledged."""
    (project.root / "project.yaml").write_text(
        "phrase: hey kitchen\ncapture: {uploads_per_minute: 1000000, address_uploads_per_minute: 1000000}\n"
    )
    token, rng = make_token(project, "kitchen"), random.Random(seed)
    bodies = [upload_kit.wav_of(upload_kit.noise(n, 0.3)) for n in range(20)]
    taken: dict[str, str] = {}  # id → what was said of it last
    unsure: set[str] = set()
    page, door = free_port(), free_port()
    owner: dict[str, str] = {}
    for kill in range(kills):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVE, str(project.root), str(page), str(door),
            env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert process.stderr is not None
        said = b""
        while b"satellites send" not in said:
            line = await asyncio.wait_for(process.stderr.readline(), 60)
            assert line, said
            said += line
        if found := re.search(rb"token=([\w-]+)", said):
            owner["Authorization"] = f"Bearer {found[1].decode()}"
        dead = asyncio.Event()
        before = len(taken)
        async with aiohttp.ClientSession() as session:

            async def satellite(number: int, session: aiohttp.ClientSession = session, kill: int = kill,
                                dead: asyncio.Event = dead) -> None:  # fmt: skip
                for count in range(100_000):
                    headers = upload_kit.headers_of(token, capture=f"{kill}-{number}-{count}", age_ms="0")
                    with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                        async with session.post(
                            f"http://127.0.0.1:{door}/api/captures",
                            data=bodies[(count + number) % 20],
                            headers=headers[1:],
                        ) as answer:
                            assert answer.status == 201, await answer.text()
                            taken[(await answer.json())["id"]] = "undecided"
                            continue
                    assert dead.is_set()
                    return

            async def person(session: aiohttp.ClientSession = session, dead: asyncio.Event = dead) -> None:
                for count in range(100_000):
                    await asyncio.sleep(0.01)
                    if not taken:
                        continue
                    id, verdict = rng.choice(list(taken)), ("wake", "false_accept", "other")[count % 3]
                    unsure.add(id)
                    with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                        async with session.post(
                            f"http://127.0.0.1:{page}/api/review",
                            json={"ids": [id], "verdict": verdict, "order": "newest"},
                            headers=owner,
                        ) as answer:
                            assert answer.status == 200, await answer.text()
                            await answer.read()
                            taken[id] = verdict
                            unsure.discard(id)
                            continue
                    assert dead.is_set()
                    return

            workers = [asyncio.create_task(satellite(number)) for number in range(6)] + [asyncio.create_task(person())]
            async with asyncio.timeout(60):
                while len(taken) < before + 10 and not any(w.done() for w in workers):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await asyncio.sleep(rng.uniform(0.0, 0.4))
            dead.set()
            process.kill()
            await asyncio.wait_for(process.wait(), 30)
            await asyncio.gather(*workers)
    assert process.returncode == -signal.SIGKILL
    there = {capture.id: capture for capture in project.catalogue.captures()}
    assert set(taken) <= set(there), "every acknowledged capture is there"
    for id, verdict in taken.items():
        assert id in unsure or there[id].verdict == verdict, "and so is every acknowledged verdict"
        assert audio.read_samples(project.root / there[id].path).size == 4800
    found = keep.check_consistency(project, repair=True)
    assert (found.catalogue, found.missing) == ((), ())
    return len(taken)


async def test_a_kill_of_the_whole_service_loses_nothing_that_was_acknowledged(project: Project):
    assert await kill_under_load(project, 5, 1) >= 50


@pytest.mark.slow
async def test_fifty_kills_of_the_whole_service_lose_nothing_that_was_acknowledged(project: Project):
    assert await kill_under_load(project, 50, 2) >= 500


def test_every_route_about_captures_has_an_answer_of_its_own():
    assert len({route.handler.__name__ for route in CAPTURE_ROUTES}) == len(CAPTURE_ROUTES)
