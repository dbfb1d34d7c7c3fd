"""Server-sent events with replay: whoever reads has a place in a numbered record and reads on from there.

Nothing is queued per reader. The record (a ring in memory, a job's log on disk) is the buffer: a slow reader is only
late, and one that is too late is told so by an event ``reset``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

HEARTBEAT_S = 15.0
WRITE_TIMEOUT_S = 60.0
RETRY_MS = 2000
RING_EVENTS = 1000
_BETWEEN_READS_S = 0.05


class Signal:
    """Wakes everybody who waits. Take ``waiter()`` before looking, so that nothing is missed in between."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def waiter(self) -> asyncio.Event:
        """Set at the next ``wake``."""
        return self._event

    def wake(self) -> None:
        """Wakes all present waiters."""
        event, self._event = self._event, asyncio.Event()
        event.set()


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event. ``id`` empty: the reader keeps its place."""

    id: str
    type: str
    data: Any

    def encode(self) -> bytes:
        """In the form of the event stream; JSON has no line breaks."""
        place = f"id: {self.id}\n" if self.id else ""
        return f"{place}event: {self.type}\ndata: {json.dumps(self.data)}\n\n".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What there is to send now; ``ended``: nothing will follow it."""

    events: list[Event]
    ended: bool = False


class Ring:
    """The last events of this service. Its ids begin with a mark of this start: a number alone would fool a reader."""

    def __init__(self, size: int = RING_EVENTS) -> None:
        self.signal = Signal()
        self._mark = secrets.token_hex(4)
        self._events: deque[tuple[int, Event]] = deque(maxlen=size)
        self._last = 0

    def append(self, type: str, data: Any) -> None:
        """Adds an event and wakes the readers. From the event loop only."""
        self._last += 1
        self._events.append((self._last, Event(id=f"{self._mark}-{self._last}", type=type, data=data)))
        self.signal.wake()

    def reader(self, last_id: str) -> Callable[[], Awaitable[Batch]]:
        """Reads from behind the event ``last_id`` on; from now on when that is empty."""
        place, lost = self._place(last_id)

        async def read() -> Batch:
            nonlocal place, lost
            oldest = self._events[0][0] if self._events else self._last + 1
            if lost or place < oldest - 1:
                place, lost = self._last, False
                return Batch(events=[Event(id=f"{self._mark}-{place}", type="reset", data={})])
            found = [(number, event) for number, event in self._events if number > place]
            if found:
                place = found[-1][0]
            return Batch(events=[event for _, event in found])

        return read

    def _place(self, last_id: str) -> tuple[int, bool]:
        if not last_id:
            return self._last, False
        mark, _, number = last_id.partition("-")
        known = mark == self._mark and number.isascii() and number.isdigit() and int(number) <= self._last
        return (int(number), False) if known else (self._last, True)


async def send_events(
    request: web.Request,
    read: Callable[[], Awaitable[Batch]],
    signal: Signal,
    stopping: asyncio.Event,
    *,
    heartbeat_s: float = HEARTBEAT_S,
) -> web.StreamResponse:
    """Answers with what ``read`` gives, now and whenever ``signal`` wakes, until it, the reader or the service ends."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
    with contextlib.suppress(ConnectionError, TimeoutError):  # the reader has gone, or takes nothing any more
        await response.prepare(request)
        await _write(response, f"retry: {RETRY_MS}\n\n".encode())
        while not stopping.is_set():
            waiter = signal.waiter()
            batch = await read()
            if batch.events:
                await _write(response, b"".join(event.encode() for event in batch.events))
            if batch.ended:
                await _write(response, b"event: end\ndata: {}\n\n")
                break
            if batch.events:
                await asyncio.sleep(_BETWEEN_READS_S)  # a flood is sent in bundles
            elif not await _wait(waiter, stopping, heartbeat_s):
                await _write(response, b": still here\n\n")
        await response.write_eof()
    return response


async def _write(response: web.StreamResponse, data: bytes) -> None:
    async with asyncio.timeout(WRITE_TIMEOUT_S):
        await response.write(data)


async def _wait(waiter: asyncio.Event, stopping: asyncio.Event, timeout_s: float) -> bool:
    """Until one of the two is set. Returns False when neither was."""
    tasks = [asyncio.ensure_future(event.wait()) for event in (waiter, stopping)]
    try:
        done, _ = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    return bool(done)
