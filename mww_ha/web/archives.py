"""A project as one file, out of the service and into it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import hdrs, web

from mww_ha.archive import Reader, TakenOver, name_archive, write_archive
from mww_ha.errors import StorageError
from mww_ha.web.jobs import JobStateError
from mww_ha.web.openapi import Call, Route
from mww_ha.web.service import Service

MEDIA = "application/x-tar"
LARGEST_ARCHIVE = 1 << 40
"""What ends an import is the disk, which is looked at before each file."""

_AT_ONCE = 1 << 20

Run = Callable[..., Awaitable[Any]]


async def get_archive(call: Call) -> web.StreamResponse:
    """The project as one file to keep or to move, without secrets and without what can be made again."""
    await call.service.access.check_may_change(call.caller)  # this is export
    name = await call.service.ask(lambda project: name_archive(project, datetime.now(UTC).date().isoformat()))
    headers = {hdrs.CONTENT_TYPE: MEDIA, hdrs.CONTENT_DISPOSITION: f'attachment; filename="{name}"'}
    pieces = _pieces(call.service)
    loop = asyncio.get_running_loop()
    # One thread from the first piece to the last: a catalogue belongs to the thread that opened it.
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="archive")
    try:
        piece = await loop.run_in_executor(thread, next, pieces)  # what goes wrong now can still be told
        response = web.StreamResponse(headers=headers)
        await response.prepare(call.request)
        while piece:
            await response.write(piece)
            piece = await loop.run_in_executor(thread, next, pieces, b"")
        await response.write_eof()
    finally:
        thread.submit(pieces.close)
        thread.shutdown(wait=False)  # waiting would hold up the loop
    return response


def _pieces(service: Service) -> Generator[bytes, None, None]:
    """Bundles: a hop between threads for every small file would cost more than the file."""
    with service.project() as project:
        bundle = bytearray()
        for piece in write_archive(project):
            bundle += piece
            if len(bundle) >= _AT_ONCE:
                yield bytes(bundle)
                bundle.clear()
        yield bytes(bundle)


async def take_archive(call: Call) -> TakenOver:
    """Take an archive over into this project, in which nothing was done yet."""
    service = call.service
    await service.access.check_may_change(call.caller)

    def check_nothing_is_at_work() -> None:
        busy = service.jobs.list("running", "queued")
        if busy:
            raise JobStateError(f"{busy[0].kind} is at work", hint="wait until it has ended, or cancel it")

    await service.run(check_nothing_is_at_work)
    taken = await take_over(
        service.root, call.pieces(), service.run, call.request.content_length or 0, check=check_nothing_is_at_work
    )
    if service.link is not None:
        await service.link.restart()
    service.tell("settings", {"keys": []})
    return taken


async def take_over(
    root: Path, pieces: AsyncIterator[bytes], run: Run, length: int, *, check: Callable[[], None] = lambda: None
) -> TakenOver:
    """An archive of ``length`` bytes (0: not known) as it comes. ``run`` calls what blocks in a thread.

    ``check`` may refuse once all of it is there, which can be an hour after it began.
    """
    reader: Reader = await run(_open, root, length)
    try:
        bundle = bytearray()
        async for piece in pieces:
            bundle += piece
            if len(bundle) >= _AT_ONCE:
                await run(reader.take, bytes(bundle))
                bundle.clear()
        await run(reader.take, bytes(bundle))
        await run(check)
        taken: TakenOver = await run(reader.finish)
    finally:
        await run(reader.close)
    return taken


def _open(root: Path, length: int) -> Reader:
    free = shutil.disk_usage(root).free
    if length > free:
        raise StorageError(
            f"the archive has {length / 1e6:.0f} MB, and {free / 1e6:.0f} MB are free", hint="free some space"
        )
    return Reader(root)


ARCHIVE_ROUTES = (
    Route(method="GET", path="/api/project/archive", handler=get_archive, media=MEDIA),
    Route(
        method="POST",
        path="/api/project/archive",
        handler=take_archive,
        largest_body=LARGEST_ARCHIVE,
        body_media="application/octet-stream",
    ),
)
"""The routes about archives."""
