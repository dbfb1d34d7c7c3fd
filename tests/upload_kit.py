"""Uploads as a satellite makes them; run as a program, a service under load that is killed again and again.

``upload_kit.py PROJECT PROMISED TOKEN KILLS SEED``: forks a child that takes uploads and verdicts as fast as it can and
writes a line to PROMISED after each one that is acknowledged; kills it (SIGKILL) after a random time; and again.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import struct
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np

RATE = 16_000


def wav_of(samples: np.ndarray) -> bytes:
    """The 44-byte header and the samples."""
    content = samples.astype("<i2").tobytes()
    size = len(content)
    head = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + size, b"WAVE", b"fmt ", 16, 1, 1, RATE, 2 * RATE, 2, 16,
                       b"data", size)  # fmt: skip
    return head + content


def noise(seed: int, seconds: float = 1.0) -> np.ndarray:
    """int16 noise, another one for each seed."""
    return np.rint(np.random.default_rng(seed).standard_normal(round(seconds * RATE)) * 3000).astype(np.int16)


def headers_of(token: str, **named: str) -> list[tuple[str, str]]:
    """An upload's headers; names as in ``X-Mww-Wake-Word`` → ``wake_word``."""
    known = {"protocol": "1", "capture": "0123456789abcdef-1", "kind": "detection", "wake_word": "hey%20kitchen"}
    known |= {"model": "hey_kitchen%201a2b3c4d", "firmware": "2026.10.0", "gain": "1", "session": "", "age_ms": "120"}
    known |= named
    content_type = known.pop("content_type", "audio/wav")
    own = [(f"X-Mww-{name.replace('_', '-').title()}", value) for name, value in known.items()]
    return [("Host", "here"), ("Authorization", f"Bearer {token}"), ("Content-Type", content_type), *own]


async def pieces(content: bytes, size: int = 4096) -> AsyncIterator[bytes]:
    """The body in pieces, the loop free between them."""
    for start in range(0, len(content), size):
        await asyncio.sleep(0)
        yield content[start : start + size]


async def _serve_until_killed(root: Path, promised: int, token: str, seed: int) -> None:
    from mww_ha.capture import review
    from mww_ha.capture.receive import Intake
    from mww_ha.schema import Verdict
    from mww_ha.store import open_project

    project = open_project(
        root, {"capture.uploads_per_minute": "1000000", "capture.address_uploads_per_minute": "1000000"}
    )
    bodies = [wav_of(noise(seed * 100 + n, 0.2)) for n in range(30)]
    taken: list[str] = []

    async def satellite(number: int) -> None:
        for count in range(100_000):
            headers = headers_of(token, capture=f"{seed}-{number}-{count}")
            receipt = await intake.take(headers, pieces(bodies[(number + count) % len(bodies)]), peer="192.0.2.7")
            os.write(promised, f"taken {receipt.id} -\n".encode())
            taken.append(receipt.id)

    async def person() -> None:
        verdicts = (Verdict.WAKE, Verdict.FALSE_ACCEPT, Verdict.OTHER)
        for count in range(100_000):
            await asyncio.sleep(0.002)
            if taken:
                id, verdict = taken[count % len(taken)], verdicts[count % 3]
                if review.judge(project, [id], verdict, by="anna"):
                    os.write(promised, f"judged {id} {verdict}\n".encode())

    async with Intake(project) as intake:
        await asyncio.gather(person(), *(satellite(number) for number in range(6)))


def _kill_again_and_again(root: Path, promised: Path, token: str, kills: int, seed: int) -> None:
    # Imported once, before the forks: a child is at work after milliseconds.
    import soundfile  # noqa: F401

    import mww_ha.capture.receive
    import mww_ha.capture.review  # noqa: F401

    rng = random.Random(seed)
    for number in range(kills):
        # The time a child takes to begin is not part of the load: wait for its first promises.
        size = promised.stat().st_size
        child = os.fork()
        if child == 0:
            handle = os.open(promised, os.O_WRONLY | os.O_APPEND)
            asyncio.run(_serve_until_killed(root, handle, token, seed * 1000 + number))
            os._exit(1)
        deadline = time.monotonic() + 60
        while b"judged" not in promised.read_bytes()[size:] and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(rng.uniform(0.0, 0.25))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(f"child {number} ended by itself with status {status}")
        if promised.stat().st_size == size:
            sys.exit(f"child {number} promised nothing")


if __name__ == "__main__":
    _kill_again_and_again(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
