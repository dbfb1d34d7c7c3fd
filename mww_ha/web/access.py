"""Who may come in to the page site, and who may change devices.

Two ways in, never both. Standalone: a token, shown once, that becomes a session's cookie or stands in
``Authorization``. Behind Home Assistant's ingress: the peer's address, taken from the socket, is the ticket; Home
Assistant has checked the person and says who it is. What a peer says of itself in headers counts only from there.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import math
import re
import secrets
import time
import urllib.parse
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol

from aiohttp import hdrs, web

from mww_ha.errors import MwwError
from mww_ha.web.state import State

INGRESS_PEER = "172.30.32.2"
"""The address Home Assistant's ingress comes from (developer documentation, "Presentation")."""

TOKEN_BYTES = 32
SESSION_DAYS = 30
MOST_SESSIONS = 100
FAILURES, LOCKOUT_S = 10, 300.0
_PEERS_REMEMBERED = 1024
_SAFE = ("GET", "HEAD", "OPTIONS")
_LOOPBACK = ("127.0.0.1", "::1")
_PAGE_TOKEN = "page"  # noqa: S105  a name, not a token


class RefusedError(MwwError):
    """A request that is not let in; ``status`` is the HTTP answer."""

    def __init__(self, message: str, *, status: int = 403, hint: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks. ``way``: token (the owner) | ingress (a person of Home Assistant) | local (this machine, to look)."""

    way: Literal["token", "ingress", "local"]
    user_id: str = ""
    user_name: str = ""
    base: str = "/"  # the path of the page as its reader sees it, with a slash at both ends


class Admins(Protocol):
    """Who of Home Assistant's users may flash, delete and export."""

    async def may_change(self, user_id: str) -> bool:
        """Whether this user may. Must not raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AllowedUsers:
    """Those that are named."""

    user_ids: frozenset[str]

    async def may_change(self, user_id: str) -> bool:
        """Whether this user is named."""
        return user_id in self.user_ids


class Access:
    """The doorkeeper of one service. ``load`` comes first; everything else is for the event loop."""

    def __init__(
        self,
        state: State,
        *,
        ingress: bool = False,
        ingress_peer: str = INGRESS_PEER,
        admins: Admins | None = None,
        host_names: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ingress = ingress
        self.cookie = "mww_ha_session"
        self._state = state
        self._ingress_peer = ingress_peer
        self._admins = admins or AllowedUsers(user_ids=frozenset())
        self._host_names = frozenset(name.lower().rstrip(".") for name in ("localhost", *host_names))
        self._clock = clock
        self._token = ""
        self._sessions: dict[str, str] = {}
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def load(self) -> None:
        """Reads token and sessions. Blocks."""
        self._token = self._state.token(_PAGE_TOKEN)
        self._sessions = self._state.sessions()
        # Browsers keep cookies by machine, not by port: two services of one machine must not share a name.
        self.cookie = f"mww_ha_session_{_hash(str(self._state.path.resolve()))[:8]}"

    def make_token(self, *, anew: bool = False) -> str:
        """A token where there is none, or ``anew``. Returns it when it was made, else "". Blocks.

        Once the page is open: a token that nobody got to see would lock everybody out.
        """
        if self.ingress or (self._token and not anew):
            return ""
        made = secrets.token_urlsafe(TOKEN_BYTES)
        self._state.put_token(_PAGE_TOKEN, _hash(made))
        self._token = _hash(made)
        self._sessions = self._state.sessions()
        return made

    # --- coming in ----------------------------------------------------------------------------------------------------

    def admit(self, request: web.Request) -> Caller | None:
        """Who asks; None for somebody without a ticket, who may only see the door. Raises RefusedError."""
        peer = peer_of(request)
        if self.ingress:
            return self._admit_behind_ingress(request, peer)
        self._check_host(request)
        self._check_origin(request, request.host)
        if request.headers.get(hdrs.AUTHORIZATION):
            scheme, _, token = request.headers[hdrs.AUTHORIZATION].partition(" ")
            if scheme.lower() == "bearer" and self.check_token(token.strip(), peer):
                return Caller(way="token")
            return None
        return Caller(way="token") if self._find_session(request) else None

    def _admit_behind_ingress(self, request: web.Request, peer: str) -> Caller:
        if peer == self._ingress_peer:
            # The host name is the one the household uses, and no browser can be made to come from this address.
            self._check_origin(request, request.headers.get("X-Forwarded-Host", request.host))
            return Caller(
                way="ingress",
                user_id=request.headers.get("X-Remote-User-Id", ""),
                user_name=request.headers.get("X-Remote-User-Display-Name", "")[:100],
                base=clean_base(request.headers.get("X-Ingress-Path", "")),
            )
        is_look = request.method in _SAFE and not _is_upgrade(request)
        if peer in _LOOPBACK and is_look:  # the container's health check
            self._check_host(request)
            return Caller(way="local")
        raise RefusedError("this door is for Home Assistant only", status=403, hint="open the panel in Home Assistant")

    def _check_host(self, request: web.Request) -> None:
        """A page elsewhere can point its own name at this address; an address itself cannot be made to do that."""
        name = _host_name(request.host)
        if name in self._host_names or _is_address(name):
            return
        raise RefusedError(
            f"this service is not called {name[:80]!a}",
            status=421,
            hint="use its IP address, or start it with mww-ha serve --host-name NAME",
        )

    def _check_origin(self, request: web.Request, host: str) -> None:
        """What changes something comes from our own page, or from no page at all with a token in its hand.

        So does a WebSocket: it begins as a GET, and no browser asks before a page elsewhere opens one.
        """
        if request.method in _SAFE and not _is_upgrade(request):
            return
        site = request.headers.get("Sec-Fetch-Site", "")
        origin = request.headers.get(hdrs.ORIGIN, "")
        if not site and not origin:
            # No browser of today: a token in a header will do, or none at all, but not a cookie.
            is_ours = self.ingress or hdrs.AUTHORIZATION in request.headers or hdrs.COOKIE not in request.headers
        else:
            is_ours = site in ("", "same-origin")
            is_ours = is_ours and (not origin or urllib.parse.urlsplit(origin).netloc.lower() == host.lower())
        if is_ours:
            return
        raise RefusedError("this came from another page", status=403, hint="use the panel's own page")

    # --- tokens and sessions ------------------------------------------------------------------------------------------

    def check_token(self, token: str, peer: str) -> bool:
        """Whether it is the token. Raises RefusedError for a peer that was wrong too often."""
        now = self._clock()
        recent = [moment for moment in self._failures.pop(peer, []) if now - moment < LOCKOUT_S]
        if recent:
            self._failures[peer] = recent
        if len(recent) >= FAILURES:
            wait_s = LOCKOUT_S - (now - recent[0])
            raise RefusedError(
                "too many wrong tokens", status=429, hint=f"try again in {wait_s:.0f} s", retry_after_s=wait_s
            )
        if self._token and hmac.compare_digest(_hash(token), self._token):
            self._failures.pop(peer, None)
            return True
        self._failures[peer] = [*recent, now]
        while len(self._failures) > _PEERS_REMEMBERED:
            self._failures.popitem(last=False)
        return False

    async def sign_in(self, response: web.Response) -> None:
        """Makes a session and puts its cookie into ``response``."""
        secret = secrets.token_urlsafe(TOKEN_BYTES)
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        old = list(self._sessions)[: max(0, len(self._sessions) - MOST_SESSIONS + 1)]
        await asyncio.to_thread(self._state.add_session, _hash(secret), made_at)
        await asyncio.to_thread(self._state.remove_sessions, old)
        for item in old:
            self._sessions.pop(item, None)
        self._sessions[_hash(secret)] = made_at
        response.set_cookie(
            self.cookie, secret, max_age=SESSION_DAYS * 86_400, httponly=True, samesite="Strict", path="/"
        )

    async def sign_out(self, request: web.Request, response: web.Response) -> None:
        """Ends the session of ``request``."""
        sha256 = _hash(request.cookies.get(self.cookie, ""))
        if self._sessions.pop(sha256, None) is not None:
            await asyncio.to_thread(self._state.remove_sessions, [sha256])
        response.del_cookie(self.cookie, path="/", httponly=True, samesite="Strict")

    def _find_session(self, request: web.Request) -> bool:
        made_at = self._sessions.get(_hash(request.cookies.get(self.cookie, "")))
        if made_at is None:
            return False
        return datetime.now(UTC) - datetime.fromisoformat(made_at) < timedelta(days=SESSION_DAYS)

    # --- what a caller may do -----------------------------------------------------------------------------------------

    async def check_may_change(self, caller: Caller) -> None:
        """For flash, delete and export. Raises RefusedError."""
        if caller.way == "token":
            return
        if caller.way == "ingress" and caller.user_id and await self._admins.may_change(caller.user_id):
            return
        raise RefusedError(
            "you may look, not flash, delete or export",
            status=403,
            hint="an administrator of Home Assistant may; who that is stands in the options of mww-ha",
        )


def peer_of(request: web.BaseRequest) -> str:
    """The address at the other end of the socket, whatever headers say."""
    name = request.transport.get_extra_info("peername") if request.transport is not None else None
    address = str(name[0]) if name else ""
    return address.removeprefix("::ffff:")


def clean_base(path: str) -> str:
    """The base path with one slash at both ends; ``/`` for anything that does not look like one."""
    inner = path.strip("/")
    # "//elsewhere" would be another machine, "a:b" another scheme
    if not re.fullmatch(r"[A-Za-z0-9._~-]+(/[A-Za-z0-9._~-]+)*", inner, re.ASCII) or ".." in inner.split("/"):
        return "/"
    return f"/{inner}/"


def retry_after(seconds: float) -> str:
    """The value of ``Retry-After``."""
    return str(max(1, math.ceil(seconds)))


def _hash(secret: str) -> str:
    """No salt: what is hashed is 256 random bits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _is_upgrade(request: web.Request) -> bool:
    return "upgrade" in request.headers.get(hdrs.CONNECTION, "").lower() or hdrs.UPGRADE in request.headers


def _host_name(host: str) -> str:
    """``Host`` without its port, lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
