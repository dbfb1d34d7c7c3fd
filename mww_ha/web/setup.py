"""The service before there is a project: the panel asks what shall be listened for, and makes one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from aiohttp import web

from mww_ha.ha.client import Client
from mww_ha.ha.connection import Access as HomeAccess
from mww_ha.store import create_project
from mww_ha.web import app as site
from mww_ha.web import panel
from mww_ha.web.access import Access
from mww_ha.web.archives import LARGEST_ARCHIVE, take_over
from mww_ha.web.link import HomeAdmins
from mww_ha.web.openapi import read_body, read_pieces
from mww_ha.web.service import STATE_DIR, StateFolder
from mww_ha.web.sockets import Listener
from mww_ha.web.wire import Text, plain

Phrase = Annotated[str, Text(longest=100)]
Language = Annotated[str, Text(pattern="[A-Za-z]{2,3}([-_][A-Za-z0-9]{2,8}){0,2}", longest=20)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupBody:
    """What a new project listens for."""

    phrase: Phrase
    language: Language = "en"
    effort: Literal["quick", "good", "best"] = "quick"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A project that was made. The whole service answers at the same address in a moment."""

    phrase: str


@dataclass(slots=True, kw_only=True)
class Setup:
    """A page site that waits for a project."""

    pages: list[tuple[str, int]]
    token: str  # when it is new
    created: asyncio.Event


@contextlib.asynccontextmanager
async def open_setup(root: Path, options: site.Options, *, home: HomeAccess | None = None) -> AsyncIterator[Setup]:
    """The page site without a project at ``root``, for as long as the block runs.

    ``created`` is set once the answer to whoever made one is on its way. ``home``: the Home Assistant whose
    administrators may, behind its ingress. Raises StorageError, InputError (ports).
    """
    folder = StateFolder(options.state_dir or root / STATE_DIR)
    admins = HomeAdmins(options.admins)
    state = await asyncio.to_thread(folder.open)
    try:
        access = site.make_access(state, options, admins)
        await asyncio.to_thread(access.load)
        created = asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            if home is not None:
                admins.client = await stack.enter_async_context(Client(home, patient=True))
            listener: Listener | None = None
            app = _make_app(root, access, created, lambda: listener)
            listener, addresses = await site.listen(stack, app, options.host, options.port)
            token = await asyncio.to_thread(access.make_token, anew=options.new_token)
            yield Setup(pages=addresses, token=token, created=created)
    finally:
        await asyncio.to_thread(state.close)
        await asyncio.to_thread(folder.close)


def _make_app(root: Path, access: Access, created: asyncio.Event, listener_of: site.ListenerOf) -> web.Application:
    async def index(request: web.Request) -> web.StreamResponse:
        door = await site.answer_at_door(access, request)
        return door or await panel.send_page(site.base_of_caller(), title="mww-ha", setup=True)

    async def health(_request: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok"})

    async def make(request: web.Request) -> web.StreamResponse:
        await site.check_may_change(access)
        body: SetupBody = await read_body(request, SetupBody)

        def create() -> str:
            project = create_project(root, body.phrase, language=body.language, effort=body.effort)
            project.catalogue.close()
            return project.settings.phrase

        phrase = await asyncio.to_thread(create)
        asyncio.get_running_loop().call_later(0.2, created.set)  # after the answer
        return web.json_response(plain(Made(phrase=phrase)), status=201)

    async def bring(request: web.Request) -> web.StreamResponse:
        await site.check_may_change(access)
        pieces = read_pieces(request, LARGEST_ARCHIVE)
        taken = await take_over(root, pieces, asyncio.to_thread, request.content_length or 0)
        asyncio.get_running_loop().call_later(0.2, created.set)
        return web.json_response(plain(taken), status=201)

    app = site.make_guarded_app(access, listener_of, {"/api/health"})
    app.router.add_get("/", index)
    app.router.add_get("/api/health", health)
    app.router.add_post("/api/setup", make)
    app.router.add_post("/api/setup/archive", bring)
    return app
