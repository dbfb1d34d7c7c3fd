"""Two sites from one core. ``serve`` runs them until a signal ends it; ``open_service`` is the same for tests."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import hdrs, web

from mww_ha.errors import InputError, MwwError
from mww_ha.ha.connection import find_access
from mww_ha.store import PROJECT_FILE
from mww_ha.web import pages, panel
from mww_ha.web.access import INGRESS_PEER, Access, Admins, Caller, RefusedError, peer_of, retry_after
from mww_ha.web.devices import Lookout
from mww_ha.web.events import HEARTBEAT_S
from mww_ha.web.jobs import GRACE_S, mww_ha_command
from mww_ha.web.keeper import Keeper
from mww_ha.web.link import HomeAdmins, Link, Pace
from mww_ha.web.openapi import BODY_BYTES, PIECE_TIMEOUT_S, Problem, Route, bind, status_of
from mww_ha.web.recorder import Recorder
from mww_ha.web.routes import ROUTES
from mww_ha.web.satellites import Counters
from mww_ha.web.schedule import Schedule
from mww_ha.web.service import STATE_DIR, Service, StateFolder
from mww_ha.web.sockets import Listener, make_runner
from mww_ha.web.state import State
from mww_ha.web.wire import plain

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ListenerOf = Callable[[], Listener | None]

PORT, DEVICE_PORT = 8099, 8098
_FILES = f"/{panel.STATIC}/"

_caller: ContextVar[Caller | None] = ContextVar("caller")  # of the request that this task is at
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"  # Home Assistant frames the panel from its own origin
)
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What can be set of a service."""

    host: str = "127.0.0.1"
    port: int = PORT
    device_host: str | None = None  # None: every address of this machine
    device_port: int | None = DEVICE_PORT  # None: no device site
    ingress: bool = False  # behind Home Assistant: no token, only its address comes in
    ingress_peer: str = INGRESS_PEER
    admins: tuple[str, ...] = ()  # ids of Home Assistant's users who may flash, delete and export
    host_names: tuple[str, ...] = ()  # names under which a browser may ask for the page, besides addresses
    new_token: bool = False
    state_dir: Path | None = None  # default: service/ in the project
    grace_s: float = GRACE_S
    heartbeat_s: float = HEARTBEAT_S

    def from_environment(self, environment: Mapping[str, str]) -> Options:
        """These, with what the environment says: the way an app of Home Assistant is set up."""
        changes: dict[str, Any] = {}
        if environment.get("MWW_HA_INGRESS", "") not in ("", "0"):
            changes["ingress"] = True
        if environment.get("MWW_HA_INGRESS_PEER"):
            changes["ingress_peer"] = environment["MWW_HA_INGRESS_PEER"]
        for key, name in (("admins", "MWW_HA_ADMINS"), ("host_names", "MWW_HA_HOST_NAMES")):
            if environment.get(name):
                changes[key] = tuple(filter(None, (item.strip() for item in environment[name].split(","))))
        return dataclasses.replace(self, **changes)


# --- the page site ---------------------------------------------------------------------------------------------------


def make_page_app(service: Service, listener_of: ListenerOf, routes: Sequence[Route] = ROUTES) -> web.Application:
    """The page site's application: the API's routes, the panel, and the guard before all of them."""
    app = make_guarded_app(service.access, listener_of, {route.path for route in routes if route.is_open})
    for route in routes:
        app.router.add_route(route.method, route.path, bind(route, service, _caller_of))
    app.router.add_get("/", _make_index(service))
    app.on_shutdown.append(_make_stopper(service))
    return app


def make_guarded_app(access: Access, listener_of: ListenerOf, open_paths: Collection[str]) -> web.Application:
    """A page site that has the panel's files, a door and its guard, and nothing behind it yet."""
    open_paths = {*open_paths, "/", "/login"}

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        listener = listener_of()
        if listener is not None:
            listener.note_request(request)
        try:
            caller = access.admit(request)
            if caller is None and request.path not in open_paths and not request.path.startswith(_FILES):
                raise RefusedError(
                    "no token, or a wrong one", status=401, hint="open the address that mww-ha serve printed"
                )
            _caller.set(caller)
            return await handler(request)
        except MwwError as error:
            return _answer_error(request, error)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            problem = Problem(error=type(error).__name__, message=error.reason, hint="see api/openapi.json")
            allow = {key: value for key, value in error.headers.items() if key == hdrs.ALLOW}
            return web.json_response(plain(problem), status=error.status, headers=allow)

    app = web.Application(middlewares=[guard], client_max_size=BODY_BYTES)
    app.router.add_post("/login", _make_login(access))
    app.router.add_post("/logout", _make_logout(access))
    panel.add_files(app)
    app.on_response_prepare.append(_set_headers)
    return app


def _caller_of() -> Caller:
    # Only a route that is open to everybody is reached without one.
    return _caller.get() or Caller(way="local")


def _answer_error(request: web.Request, error: MwwError) -> web.Response:
    status = status_of(error)
    if status >= 500:
        logger.warning("%s %s: %s", request.method, request.path[:200], error)
    if request.path == "/":
        page = pages.write_problem(error.message, error.hint)
        return _html(page, status=status)
    problem = Problem(error=type(error).__name__, message=error.message, hint=error.hint)
    response = web.json_response(plain(problem), status=status)
    if isinstance(error, RefusedError) and error.retry_after_s:
        response.headers[hdrs.RETRY_AFTER] = retry_after(error.retry_after_s)
    if status == 401:
        response.headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    return response


async def _set_headers(_request: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers[hdrs.SERVER] = "mww-ha"


def _make_stopper(service: Service) -> Callable[[web.Application], Awaitable[None]]:
    async def stop(_app: web.Application) -> None:
        service.stopping.set()

    return stop


def _html(text: str, status: int = 200) -> web.Response:
    headers = {"Content-Security-Policy": pages.PAGE_POLICY, hdrs.VARY: "X-Ingress-Path, Cookie"}
    return web.Response(text=text, status=status, content_type="text/html", headers=headers)


def _make_index(service: Service) -> Handler:
    async def index(request: web.Request) -> web.StreamResponse:
        """The panel; with ``?token=`` the way in."""
        door = await answer_at_door(service.access, request)
        if door is not None:
            return door
        phrase = await service.ask(lambda project: project.settings.phrase)
        return await panel.send_page(base_of_caller(), title=phrase)

    return index


async def answer_at_door(access: Access, request: web.Request) -> web.StreamResponse | None:
    """What somebody without a ticket sees, or with a token in the address; None: come in."""
    token = request.query.get("token", "")
    if token and not access.ingress:
        return await _come_in(access, request, token)
    if _caller.get() is None:
        return _html(pages.write_door(""), status=401)
    return None


async def check_may_change(access: Access) -> None:
    """For what only some may do, see ``Access.check_may_change``: of whoever this request is from."""
    await access.check_may_change(_caller_of())


def base_of_caller() -> str:
    """The path of the page as its reader sees it."""
    return _caller_of().base


def _make_login(access: Access) -> Handler:
    async def login(request: web.Request) -> web.StreamResponse:
        """The door's form."""
        if request.content_type != "application/x-www-form-urlencoded":  # files of a form would go through the disk
            raise RefusedError("this is not the door's form", status=415)
        try:
            async with asyncio.timeout(PIECE_TIMEOUT_S):
                form = await request.post()
        except TimeoutError:
            raise RefusedError("the token does not come", status=408, hint="send it again") from None
        token = form.get("token", "")
        return await _come_in(access, request, token if isinstance(token, str) else "")

    return login


async def _come_in(access: Access, request: web.Request, token: str) -> web.StreamResponse:
    if access.ingress:
        raise RefusedError("Home Assistant signs in here", status=404)
    if not access.check_token(token, peer_of(request)):
        return _html(pages.write_door("This is not the token."), status=401)
    response = web.Response(status=303, headers={hdrs.LOCATION: "./"})  # the address without the token
    await access.sign_in(response)
    return response


def _make_logout(access: Access) -> Handler:
    async def logout(request: web.Request) -> web.StreamResponse:
        """Ends this browser's session."""
        response = web.Response(status=303, headers={hdrs.LOCATION: "./"})
        await access.sign_out(request, response)
        return response

    return logout


# --- both sites, and their life --------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Open:
    """A service that listens."""

    service: Service
    pages: list[tuple[str, int]]  # addresses of the page site
    devices: list[tuple[str, int]]  # of the device site; none while nothing can be captured
    token: str  # of the page site, when it is new

    @property
    def url(self) -> str:
        """The panel's address, with the token when it is new."""
        return page_url(self.pages, self.token)


def page_url(pages: Sequence[tuple[str, int]], token: str) -> str:
    """The panel's address, with the token when it is new."""
    host, port = pages[0]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  where it can be seen from here
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}/" + (f"?token={token}" if token else "")


def make_access(state: State, options: Options, admins: Admins) -> Access:
    """The doorkeeper that ``options`` ask for."""
    return Access(
        state,
        ingress=options.ingress,
        ingress_peer=options.ingress_peer,
        admins=admins,
        host_names=[*options.host_names, socket.gethostname()],
    )


@contextlib.asynccontextmanager
async def open_service(
    root: Path,
    options: Options,
    *,
    admins: Admins | None = None,
    routes: Sequence[Route] = ROUTES,
    command: Callable[..., list[str]] = mww_ha_command,
    pace: Pace | None = None,
    environ: Mapping[str, str] = os.environ,
) -> AsyncIterator[Open]:
    """Both sites for as long as the block runs. Raises ProjectError, ConfigError, StorageError, InputError (ports).

    The end of the block ends streams of events first, then requests, then jobs, which are marked interrupted.
    """
    folder = StateFolder(options.state_dir or root / STATE_DIR)
    home_admins = HomeAdmins(options.admins)
    state = await asyncio.to_thread(folder.open)
    try:
        access = make_access(state, options, admins or home_admins)
        await asyncio.to_thread(access.load)
        service = Service(
            root, state, access, command=command, grace_s=options.grace_s, heartbeat_s=options.heartbeat_s
        )
        await service.ask(lambda project: project.slug)  # a project that does not open is said now
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(service.stop)
            listener: Listener | None = None
            app = make_page_app(service, lambda: listener, routes)
            listener, page_addresses = await listen(stack, app, options.host, options.port)
            device_addresses = await _open_devices(stack, service, options)
            token = await asyncio.to_thread(access.make_token, anew=options.new_token)
            await service.start()
            stack.push_async_callback(Lookout(service, device_addresses).stop)
            keeper, link = Keeper(service), Link(service, home_admins, environ=environ, pace=pace or Pace())
            for part in (keeper, link, Schedule(service), Counters(service)):
                stack.push_async_callback(part.stop)
                part.start()
            recorder = Recorder(service, environ=environ, take_uploads=not device_addresses)
            stack.push_async_callback(recorder.stop)
            yield Open(service=service, pages=page_addresses, devices=device_addresses, token=token)
    finally:
        await asyncio.to_thread(folder.close)


async def listen(
    stack: contextlib.AsyncExitStack, app: web.Application, host: str | None, port: int
) -> tuple[Listener, list[tuple[str, int]]]:
    """Serves ``app`` until ``stack`` ends. Returns the addresses too. Raises InputError."""
    runner = make_runner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    listener = Listener(runner)
    stack.push_async_callback(listener.close)
    try:
        return listener, await listener.open(host, port)
    except OSError as error:
        where = f"{host or 'every address'}, port {port}"
        hint = "choose another --port" if error.errno in {errno.EADDRINUSE, errno.EACCES} else ""
        hint = hint or "choose another --host: an address of this computer, or 0.0.0.0 for all of them"
        raise InputError(f"cannot listen on {where}: {error.strerror}", hint=hint) from None


async def _open_devices(stack: contextlib.AsyncExitStack, service: Service, options: Options) -> list[tuple[str, int]]:
    if options.device_port is None:
        return []
    from mww_ha.capture.receive import Intake
    from mww_ha.web.intake import make_device_app

    intake = await service.ask(lambda project: Intake(project, taken=service.hear_capture))
    receiver = service.intake = await stack.enter_async_context(intake)
    _, addresses = await listen(stack, make_device_app(receiver), options.device_host, options.device_port)
    return addresses


def serve(
    project_root: Path,
    host: str = "127.0.0.1",
    port: int = PORT,
    device_port: int | None = DEVICE_PORT,
    *,
    device_host: str | None = None,
    ingress: bool = False,
    admins: Collection[str] = (),
    host_names: Collection[str] = (),
    new_token: bool = False,
    say: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),  # noqa: T201
) -> None:
    """Serves until SIGINT or SIGTERM. Blocks. Raises what ``open_service`` raises.

    The environment can say the same as the arguments, see ``Options.from_environment``.
    """
    options = Options(
        host=host,
        port=port,
        device_host=device_host,
        device_port=device_port,
        ingress=ingress,
        admins=tuple(admins),
        host_names=tuple(host_names),
        new_token=new_token,
    ).from_environment(os.environ)
    asyncio.run(_serve(project_root, options, say))


async def _serve(root: Path, options: Options, say: Callable[[str], None]) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    try:
        if not await asyncio.to_thread((root / PROJECT_FILE).exists):
            if not await _set_up(root, options, ended, say):
                return
            options = dataclasses.replace(options, new_token=False)  # it was made on the way
        async with open_service(root, options) as opened:
            _say_where(opened.url, opened.token, options, say)
            if opened.devices:
                say(f"mww-ha: satellites send to port {opened.devices[0][1]}")
            await ended.wait()
            say("mww-ha: ending; what runs is interrupted and can be queued again")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _set_up(root: Path, options: Options, ended: asyncio.Event, say: Callable[[str], None]) -> bool:
    """Waits on the panel for a project. Returns whether there is one now."""
    from mww_ha.web.setup import open_setup

    home = find_access(environ=os.environ) if options.ingress and os.environ.get("SUPERVISOR_TOKEN") else None
    async with open_setup(root, options, home=home) as setup:
        say(f"mww-ha: there is no project in {root} yet; the panel asks what it shall listen for")
        _say_where(page_url(setup.pages, setup.token), setup.token, options, say)
        waiting = [asyncio.create_task(event.wait()) for event in (setup.created, ended)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        return setup.created.is_set()


def _say_where(url: str, token: str, options: Options, say: Callable[[str], None]) -> None:
    if options.ingress:
        say("mww-ha: the panel is open for Home Assistant")
    elif token:
        say(f"mww-ha: the panel is at {url}")
        _say_others(url, options, say)
        say("  the token is shown this once; mww-ha serve --new-token makes another")
    else:
        say(f"mww-ha: the panel is at {url}")
        _say_others(url, options, say)
        say("  with the token that was shown at its first start; mww-ha serve --new-token makes another")


def _say_others(url: str, options: Options, say: Callable[[str], None]) -> None:
    """Where other devices of the house find the panel, when it listens on every address."""
    from mww_ha.web.devices import list_own_addresses

    if options.host in {"", "0.0.0.0", "::"}:  # noqa: S104  compared, not bound
        parts = urlsplit(url)
        for address in list_own_addresses()[:3]:
            say(f"  from another device: {parts._replace(netloc=f'{address}:{parts.port}').geturl()}")
