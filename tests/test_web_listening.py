"""What a person tries out in the page is heard as the device hears it, and nobody else can listen along."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
import soxr
import toy_wake
from blockbuster import blockbuster_ctx
from test_web import Site, opened_site
from upload_kit import wav_of

from mww_ha import audio, detector, listen
from mww_ha.store import Project, write_json
from mww_ha.web import listening, sockets

ROOT = Path(__file__).parent.parent
MODEL = "toy-0a1b2c3d"


@pytest.fixture(autouse=True)
def _nothing_blocks_the_loop() -> Iterator[None]:
    with blockbuster_ctx("mww_ha.web"):
        yield


@pytest.fixture
def home(project: Project) -> Project:
    """A project whose newest model whistles, with levels; the one before it has lost its file."""
    project.models_dir.mkdir()
    for id in ("gone-99999999", MODEL):
        manifest = toy_wake.write_model(project.models_dir, name=id)
        entry = {"id": id, "phrase": "a rising whistle", "manifest_path": f"models/{id}.json", "made_at": "2026-11-20"}
        project.catalogue.put_model(id, entry)
    (project.models_dir / "gone-99999999.tflite").unlink()
    levels = [
        {"name": name, "probability_cutoff": detector.probability_of_cutoff(cutoff)}
        for name, cutoff in (("slightly", 200), ("moderately", 150), ("very", 100))
    ]
    write_json(manifest.with_suffix(".about.json"), {"levels": levels})
    return project


@pytest.fixture
async def site(home: Project) -> AsyncIterator[Site]:
    async with opened_site(home.root) as made:
        yield made


def whistles(seed: int = 5) -> np.ndarray:
    """A scene in which something wakes and something does not."""
    return toy_wake.scene(np.random.default_rng(seed), ["rising", "falling", "rising", "high", "rising"])[0]


async def post(site: Site, query: str, content: bytes, **options: Any) -> tuple[int, Any]:
    headers = {**site.owner, "Content-Type": "application/octet-stream"}
    status, answer, _ = await site.ask(
        "POST", f"/api/listen?{query}", data=io.BytesIO(content), headers=headers, **options
    )
    return status, answer


# --- a file ----------------------------------------------------------------------------------------------------------


async def test_models_are_offered_newest_first_with_their_levels(site: Site):
    found = {model["id"]: model for model in await site.get("/api/listen/models")}
    assert found[MODEL]["levels"] == [
        {"name": "slightly", "cutoff": 200}, {"name": "moderately", "cutoff": 150}, {"name": "very", "cutoff": 100},
    ]  # fmt: skip
    assert (found[MODEL]["cutoff"], found[MODEL]["window"], found[MODEL]["problem"]) == (150, toy_wake.WINDOW, "")
    assert "gone-99999999.tflite" in found["gone-99999999"]["problem"]


@pytest.mark.parametrize("cutoff", [0, 40, 255])
async def test_a_file_gives_exactly_what_the_command_line_says(home: Project, site: Site, tmp_path: Path, cutoff: int):
    path = tmp_path / "tried.wav"
    path.write_bytes(wav_of(whistles()))
    status, heard = await post(site, f"model={MODEL}&cutoff={cutoff}", path.read_bytes())
    assert status == 200
    options = ["--cutoff", str(detector.probability_of_cutoff(cutoff))] if cutoff else []
    model = str(home.models_dir / f"{MODEL}.json")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mww_ha", "--json", "listen", str(path), "--model", model, *options,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
    )  # fmt: skip
    said, _ = await asyncio.wait_for(process.communicate(), 120)
    known = json.loads(said.splitlines()[-1])
    known = known.get("result", known)
    assert {key: heard[key] for key in known if key != "type"} == {k: v for k, v in known.items() if k != "type"}
    assert {"detections", "peak", "peak_s", "duration_s"} <= set(known)
    assert (len(heard["detections"]) >= 3) is (cutoff != 255)
    means = np.convolve(heard["scores"], np.ones(heard["window"]), "valid") / heard["window"] / 255
    assert means.max() == pytest.approx(heard["peak"]), "and its scores are those it was made of"
    place = int(np.argmax(means)) + heard["window"] - 1
    assert heard["first_s"] + place * heard["step_s"] == pytest.approx(heard["peak_s"])


async def test_any_kind_of_sound_file_is_heard_and_none_is_kept(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import soundfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    samples = soxr.resample(whistles().astype(np.float32) / 32768, 16_000, 44_100)
    found = set()
    for name, options in (("x.flac", {}), ("x.ogg", {}), ("x.mp3", {}), ("x.wav", {"subtype": "PCM_24"})):
        soundfile.write(tmp_path / name, np.stack([samples, samples], 1), 44_100, **options)
        status, heard = await post(site, f"model={MODEL}", (tmp_path / name).read_bytes())
        assert status == 200, heard
        found.add(len(heard["detections"]))
    assert found == {3}
    assert await asyncio.to_thread(lambda: list(tmp_path.glob("mww-ha-listen-*"))) == []


async def test_what_is_no_sound_or_too_long_is_refused_with_the_reason(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(listening, "LONGEST_FILE_S", 6.0)
    wav = wav_of(whistles())
    for content, status, words in (
        (b"", 422, "empty"),
        (b"<html>", 422, "the file is not a sound file"),
        (wav[:-2000], 422, "the file is truncated"),
        (wav, 422, "longer than"),
    ):
        got, answer = await post(site, f"model={MODEL}", content)
        assert (got, words in answer["message"]) == (status, True), answer
    for query, status in ((f"model={MODEL[:-1]}0", 404), ("model=x", 422), (f"model={MODEL}&cutoff=256", 422)):
        assert (await post(site, query, wav))[0] == status, query
    assert (await post(site, "model=gone-99999999", wav))[0] == 422


# --- a microphone ----------------------------------------------------------------------------------------------------


async def talk(site: Site, query: str, samples: np.ndarray, size: int = 800, **options: Any) -> list[dict[str, Any]]:
    """What is told while ``samples`` are sent."""
    told = []
    async with site.session.ws_connect(
        f"{site.base}/api/listen/live?{query}", headers=options.pop("headers", site.owner), **options
    ) as socket:
        for start in range(0, len(samples), size):
            await socket.send_bytes(samples[start : start + size].astype("<i2").tobytes())
            told.append(await socket.receive_json(timeout=30))
    return told


async def test_a_microphone_is_heard_as_a_file_is_while_it_talks(home: Project, site: Site, tmp_path: Path):
    path = tmp_path / "tried.wav"
    samples = whistles()
    path.write_bytes(wav_of(samples))
    known = await asyncio.to_thread(listen.hear_file, path, home.models_dir / f"{MODEL}.json")
    told = await talk(site, f"model={MODEL}", samples, size=777)
    found = [one for view in told for one in view["detections"]]
    assert [(d["time_s"], d["score"]) for d in found] == [(d.time_s, d.score) for d in known.detections]
    assert len(found) >= 3
    assert told[-1]["heard_s"] == pytest.approx(len(samples) / 16_000)
    for view in told:
        for one in view["detections"]:
            assert view["heard_s"] - one["time_s"] < 0.2, "told at once"
    together = [score for view in told for score in view["scores"]]
    _, whole = await post(site, f"model={MODEL}", path.read_bytes())
    assert together == whole["scores"][: len(together)]
    assert told[0]["first_s"] == whole["first_s"]
    assert site.service.listeners == 0


async def test_another_rate_and_another_cutoff_are_heard_too(site: Site):
    fast = soxr.resample(whistles(), 16_000, 48_000)
    found = [one for view in await talk(site, f"model={MODEL}&rate=48000", fast, 2400) for one in view["detections"]]
    assert len(found) == 3
    async with site.session.ws_connect(f"{site.base}/api/listen/live?model={MODEL}", headers=site.owner) as socket:
        await socket.send_json({"cutoff": 255})
        assert (await socket.receive_json())["cutoff"] == 1.0
        await socket.send_bytes(whistles().astype("<i2").tobytes()[:60_000])
        assert (await socket.receive_json())["detections"] == []


async def test_who_has_no_ticket_or_comes_from_another_page_hears_nothing(home: Project, site: Site):
    _, _, headers = await site.ask("GET", f"/?token={site.opened.token}", headers={})
    session = {"Cookie": headers["Set-Cookie"].partition(";")[0]}

    async def status(**sent: str) -> int:
        try:
            await talk(site, f"model={MODEL}", np.zeros(0, np.int16), headers=sent)
        except aiohttp.WSServerHandshakeError as error:
            return error.status
        return 101

    assert await status() == 401
    assert await status(**session, Origin="https://evil.example") == 403
    assert await status(**session, Origin=site.base, **{"Sec-Fetch-Site": "same-site"}) == 403
    assert await status(**session, Origin=site.base) == 101
    assert (await site.ask("GET", f"/api/listen/live?model={MODEL}"))[0] == 426, "without an upgrade"
    async with opened_site(home.root, ingress=True, ingress_peer="192.0.2.9", state_dir=home.root / "other") as closed:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await talk(closed, f"model={MODEL}", np.zeros(0, np.int16), headers={})


async def test_bad_messages_end_it_with_the_reason_and_only_so_many_are_heard_at_once(site: Site):
    url = f"{site.base}/api/listen/live?model={MODEL}"
    for send, words in (
        (lambda socket: socket.send_bytes(b"123"), "no 16-bit samples"),
        (lambda socket: socket.send_str("{"), "not JSON"),
        (lambda socket: socket.send_json({"cutoff": 0}), "cutoff"),
    ):
        async with site.session.ws_connect(url, headers=site.owner) as socket:
            await send(socket)
            assert words in (await socket.receive_json(timeout=30))["message"]
            assert (await socket.receive(timeout=30)).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
    open_ones = [await site.session.ws_connect(url, headers=site.owner) for _ in range(listening.MOST_LISTENERS)]
    with pytest.raises(aiohttp.WSServerHandshakeError, match="429"):
        await site.session.ws_connect(url, headers=site.owner)
    for socket in open_ones:
        await socket.close()
    async with asyncio.timeout(30):
        while site.service.listeners:  # noqa: ASYNC110  the other end of the sockets
            await asyncio.sleep(0.01)


async def test_the_end_of_the_service_ends_what_is_heard(home: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sockets, "SHUTDOWN_S", 60.0)  # what it would wait for one that stays
    async with opened_site(home.root) as site:
        socket = await site.session.ws_connect(f"{site.base}/api/listen/live?model={MODEL}", headers=site.owner)
        await socket.send_bytes(bytes(1600))
        await socket.receive_json(timeout=30)
        ending = asyncio.create_task(socket.receive(timeout=30))
        began = asyncio.get_running_loop().time()
        site.service.stopping.set()
        assert (await ending).data == aiohttp.WSCloseCode.GOING_AWAY
    assert asyncio.get_running_loop().time() - began < 30


def test_a_long_sound_is_heard_in_bounded_memory_blocks():
    blocks = (np.zeros(16_000, np.int16) for _ in range(10_000))
    with pytest.raises(audio.AudioFileError, match="10 minutes"):
        for _ in listening._bounded(blocks):
            pass
