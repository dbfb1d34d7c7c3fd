"""Measures the intake of captures: satellites that all post at once, and how long each waits for its answer.

tools/bench_captures.py                          20 satellites, 10 clips of 3 s each, through the intake itself
tools/bench_captures.py --http                   the same over HTTP on loopback, one connection per upload
tools/bench_captures.py --service                through mww-ha serve while it trains, and how long its page takes then
tools/bench_captures.py --busy 2                 with processes beside it that compute all the time, as a training does
tools/bench_captures.py --project-dir DIR        on the disk that DIR lies on (default: the system's temporary folder)
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import multiprocessing
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlunsplit

import numpy as np
import yaml

from mww_ha.capture import keep, tokens
from mww_ha.capture.receive import Intake, UploadError
from mww_ha.store import Project, create_project, open_project

if TYPE_CHECKING:
    from aiohttp import ClientSession

RATE = 16_000
LIMITS = {"uploads_per_minute": 1_000_000, "address_uploads_per_minute": 1_000_000, "uploads_at_once": 1000}
"""Nobody has to wait: what is measured is the disk, not the limits."""


TRAINING = {
    "synthesize": {"wake_clips": 300, "confusable_clips": 200, "confusable_phrases": 20, "speech_hours": 0.1},
    "prepare": {
        "wake_hours": 0.2,
        "confusable_hours": 0.1,
        "speech_hours": 0.2,
        "noise_hours": 0.1,
        "ambient_hours": 0.1,
    },
    "train": {"steps": 1_000_000, "mine_every": 1000},
}
"""Little sound, so that it trains soon; network and batches are those of effort quick. It does not end by itself."""

PAGE = ("/api/captures", "/api/review", "/api/status", "/api/jobs", "/api/rates", "/api/health")
"""What a page asks for, in turn."""

WAITS_S = 600.0
_READ_S = 0.05  # between two questions of the page


def make_wav(seed: int, seconds: float) -> bytes:
    """Noise as a satellite sends it; noise is the largest that FLAC gets."""
    import io

    import soundfile

    samples = np.random.default_rng(seed).standard_normal(round(seconds * RATE)) * 2000
    buffer = io.BytesIO()
    soundfile.write(buffer, np.rint(samples).astype(np.int16), RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()


def make_headers(token: str, name: str) -> dict[str, str]:
    """An upload's headers."""
    own = {"Protocol": "1", "Capture": name, "Kind": "detection", "Wake-Word": "hey%20kitchen", "Listening-S": "100"}
    own |= {"Model": "hey_kitchen%201a2b3c4d", "Trigger-Sample": "32000", "Age-Ms": "1000", "Dropped": "0"}
    return {
        "Authorization": f"Bearer {token}",
        "Content-Type": "audio/wav",
        **{f"X-Mww-{name}": value for name, value in own.items()},
    }


async def pieces(content: bytes) -> AsyncIterator[bytes]:
    """In pieces of 4 kB, as the component sends them."""
    for start in range(0, len(content), 4096):
        await asyncio.sleep(0)
        yield content[start : start + 4096]


async def measure(
    project: Project, wavs: list[bytes], clips: int, secrets: dict[str, str], *, http: bool
) -> tuple[list[float], float, float]:
    """Seconds of each upload, of all together, and the longest time that the event loop was held up."""
    waits: list[float] = []
    async with Intake(project) as intake:
        watch = asyncio.create_task(_longest_gap())
        started = time.perf_counter()
        if http:
            await _post_all(intake, secrets, wavs, clips, waits)
        else:

            async def satellite(name: str, wav: bytes) -> None:
                for count in range(clips):
                    begun = time.perf_counter()
                    headers = make_headers(secrets[name], f"{name}-{count}").items()
                    await intake.take(headers, pieces(wav), peer="192.0.2.7")
                    waits.append(time.perf_counter() - begun)

            await asyncio.gather(*(satellite(name, wav) for name, wav in zip(secrets, wavs, strict=True)))
        total = time.perf_counter() - started
        watch.cancel()
        gap = await watch
    return waits, total, gap


async def _longest_gap() -> float:
    longest, last = 0.0, time.perf_counter()
    try:
        while True:
            await asyncio.sleep(0.005)
            longest, last = max(longest, time.perf_counter() - last - 0.005), time.perf_counter()
    except asyncio.CancelledError:
        return longest


async def _post_all(intake: Intake, secrets: dict[str, str], wavs: list[bytes], clips: int, waits: list[float]) -> None:
    from aiohttp import ClientSession, TCPConnector, web

    async def take(request: web.Request) -> web.Response:
        try:
            receipt = await intake.take(request.headers.items(), request.content.iter_any(), peer=request.remote or "")
        except UploadError as error:
            return web.json_response({"error": error.message}, status=error.status)
        return web.json_response({"id": receipt.id}, status=receipt.status)

    application = web.Application()
    application.router.add_post("/api/captures", take)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    url = urlunsplit(("http", f"{host}:{port}", "/api/captures", "", ""))

    async def satellite(name: str, wav: bytes) -> None:
        async with ClientSession(connector=TCPConnector(force_close=True)) as session:
            for count in range(clips):
                begun = time.perf_counter()
                headers = make_headers(secrets[name], f"{name}-{count}")
                async with session.post(url, data=wav, headers=headers) as answer:
                    if answer.status != 201:
                        raise SystemExit(f"{answer.status} {await answer.text()}")
                waits.append(time.perf_counter() - begun)

    await asyncio.gather(*(satellite(name, wav) for name, wav in zip(secrets, wavs, strict=True)))
    await runner.cleanup()


# ---- the whole service ----------------------------------------------------------------------------------------------


async def measure_service(root: Path, wavs: list[bytes], clips: int, secrets: dict[str, str]) -> dict[str, Any]:
    """Seconds of each upload, of all together and of each answer of the page, while a training runs as a job."""
    from aiohttp import ClientSession, DummyCookieJar, TCPConnector

    command = ["-m", "mww_ha", f"--project={root}", "serve", "--port=0", "--device-port=0", "--device-host=127.0.0.1"]
    service = await asyncio.create_subprocess_exec(sys.executable, *command, stderr=asyncio.subprocess.PIPE)
    try:
        page, token, devices = await _read_addresses(service)
        async with ClientSession(
            page, headers={"Authorization": f"Bearer {token}"}, cookie_jar=DummyCookieJar()
        ) as ask:
            job = await _begin_training(ask)
            waits: list[float] = []
            answers: list[float] = []
            started = time.perf_counter()
            reading = asyncio.create_task(_read_page(ask, answers))

            async def satellite(name: str, wav: bytes) -> None:
                async with ClientSession(connector=TCPConnector(force_close=True)) as session:
                    for count in range(clips):
                        begun = time.perf_counter()
                        headers = make_headers(secrets[name], f"{name}-{count}")
                        async with session.post(f"{devices}/api/captures", data=wav, headers=headers) as answer:
                            if answer.status != 201:
                                raise SystemExit(f"{answer.status} {await answer.text()}")
                        waits.append(time.perf_counter() - begun)

            await asyncio.gather(*(satellite(name, wav) for name, wav in zip(secrets, wavs, strict=True)))
            total = time.perf_counter() - started
            reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reading
            async with ask.get(f"/api/jobs/{job}") as answer:
                if (state := (await answer.json())["state"]) != "running":
                    raise SystemExit(f"the training is {state}")
    finally:
        if service.returncode is None:
            service.send_signal(signal.SIGINT)
        await service.wait()
    return {"waits": waits, "total": total, "answers": answers}


async def _read_addresses(service: asyncio.subprocess.Process) -> tuple[str, str, str]:
    """Address of the page, its token, address for satellites, from what the service says; goes on reading."""
    assert service.stderr is not None
    said = ""
    while not (found := re.search(r"(http://\S+)/\?token=(\S+).*send to port (\d+)", said, re.DOTALL)):
        line = await service.stderr.readline()
        if not line:
            raise SystemExit(said)
        said += line.decode()
    stderr = service.stderr

    async def drain() -> None:
        while await stderr.readline():
            pass

    asyncio.create_task(drain()).add_done_callback(lambda _: None)  # it ends with the service
    return found[1], found[2], urlunsplit(("http", f"127.0.0.1:{found[3]}", "", "", ""))


async def _begin_training(ask: ClientSession) -> str:
    """The id of a job that is learning now."""
    async with ask.post("/api/jobs", json={"kind": "run", "until": "train"}) as answer:
        job = await answer.json()
    until = time.monotonic() + WAITS_S
    while True:
        async with ask.get(f"/api/jobs/{job['id']}") as answer:
            known = await answer.json()
        progress = known["progress"] or {}
        if progress.get("stage") == "train" and progress.get("done", 0) > 0:
            return str(job["id"])
        if known["state"] not in ("queued", "running") or time.monotonic() > until:
            raise SystemExit(f"no training: {known['state']} {known['message']}")
        await asyncio.sleep(0.5)


async def _read_page(ask: ClientSession, answers: list[float]) -> None:
    for path in itertools.cycle(PAGE):
        begun = time.perf_counter()
        async with ask.get(path) as answer:
            if answer.status != 200:
                raise SystemExit(f"{path}: {answer.status} {await answer.text()}")
            await answer.read()
        answers.append(time.perf_counter() - begun)
        await asyncio.sleep(_READ_S)


def keep_busy() -> None:
    """Computes until it is ended."""
    matrix = np.random.default_rng(0).standard_normal((400, 400))
    while True:
        matrix = np.tanh(matrix @ matrix * 0.01)


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--satellites", type=int, default=20)
    parser.add_argument("--clips", type=int, default=10, help="from each satellite, one after the other")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--http", action="store_true")
    parser.add_argument("--service", action="store_true", help="the whole service, with a training as a job")
    parser.add_argument("--busy", type=int, default=0, help="processes that compute beside it")
    parser.add_argument("--project-dir", type=Path, default=None)
    args = parser.parse_args()
    busy = [multiprocessing.Process(target=keep_busy, daemon=True) for _ in range(args.busy)]
    for process in busy:
        process.start()
    answers: list[float] = []
    gap: float | None = None
    with tempfile.TemporaryDirectory(dir=args.project_dir) as folder:
        root = Path(folder) / "bench"
        create_project(root, "hey kitchen").catalogue.close()
        document = {"phrase": "hey kitchen", "effort": "quick", "capture": LIMITS, **TRAINING}
        (root / "project.yaml").write_text(yaml.safe_dump(document))
        project = open_project(root)
        wavs = [make_wav(seed, args.seconds) for seed in range(args.satellites)]
        names = [f"satellite-{number:02d}" for number in range(len(wavs))]
        secrets = {name: tokens.make_token(project, name) for name in names}
        if args.service:
            found = asyncio.run(measure_service(root, wavs, args.clips, secrets))
            waits, total, answers = found["waits"], found["total"], found["answers"]
        else:
            waits, total, gap = asyncio.run(measure(project, wavs, args.clips, secrets, http=args.http))
        count = args.satellites * args.clips
        stored = len(project.catalogue.captures())
        consistent = keep.check_consistency(project).ok
        project.catalogue.close()
    for process in busy:
        process.terminate()
    print(f"{count} uploads of {args.seconds:g} s in {total:.2f} s: {count / total:.0f} a second, {stored} stored")
    print(f"answer after {describe(waits)}; files and rows agree: {consistent}")
    if gap is not None:
        print(f"the event loop was held up for at most {gap * 1000:.0f} ms")
    if args.service:
        print(f"the page's {len(answers)} questions, beside a training: answer after {describe(answers)}")
    return 0 if stored == count and consistent else 1


def describe(seconds: list[float]) -> str:
    """Quantiles in milliseconds."""
    low, middle, high = np.percentile(seconds, [50, 95, 99]) * 1000
    return f"{low:.0f} ms (median), {middle:.0f} ms (95 %), {high:.0f} ms (99 %), {max(seconds) * 1000:.0f} ms at most"


if __name__ == "__main__":
    sys.exit(main())
