"""Sockets: how they listen, how long a silent one is kept, and what the log says of requests."""

from __future__ import annotations

import asyncio
import logging

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from mww_ha.web.access import peer_of

HEADERS_TIMEOUT_S = 10.0
KEEPALIVE_S = 75.0
CONNECTIONS = 128
SHUTDOWN_S = 5.0
_MADE_S = 0.01  # a connection that is accepted has its transport by then

logger = logging.getLogger("mww_ha.web.requests")


class RequestLog(AbstractAccessLogger):
    """One line a request: who, what, how it ended. No query, which may hold a token, and no header."""

    def log(self, request: web.BaseRequest, response: web.StreamResponse, time: float) -> None:
        """Writes the line."""
        path = request.rel_url.raw_path[:200]  # raw: still percent-encoded, so one line stays one line
        self.logger.info(
            "%s %s %s %d %d %.0f ms",
            peer_of(request), request.method, path, response.status, response.body_length, time * 1000,
        )  # fmt: skip


def make_runner(app: web.Application) -> web.AppRunner:
    """What runs ``app``, with our log and bounds."""
    return web.AppRunner(
        app,
        access_log=logger,
        access_log_class=RequestLog,
        keepalive_timeout=KEEPALIVE_S,
        shutdown_timeout=SHUTDOWN_S,
    )


class Listener:
    """A listening socket with a bound on connections, and on how long one may be silent before its first request."""

    def __init__(
        self, runner: web.AppRunner, *, most: int = CONNECTIONS, patience_s: float = HEADERS_TIMEOUT_S
    ) -> None:
        self._runner = runner
        self._most = most
        self._patience_s = patience_s
        self._silent: set[asyncio.BaseProtocol] = set()  # those without a whole request yet
        self._server: asyncio.Server | None = None

    def note_request(self, request: web.BaseRequest) -> None:
        """The connection of ``request`` has got as far as a whole request."""
        self._silent.discard(request.protocol)

    async def open(self, host: str | None, port: int) -> list[tuple[str, int]]:
        """Listens; returns the addresses. ``host`` None: on every address of this machine. Raises OSError."""
        loop = asyncio.get_running_loop()
        server = self._runner.server
        assert server is not None

        def accept() -> asyncio.BaseProtocol:
            protocol = server()
            self._silent.add(protocol)
            loop.call_later(self._patience_s, self._drop_silent, protocol)
            if len(server.connections) >= self._most:
                loop.call_later(_MADE_S, self._drop, protocol)
            return protocol

        self._server = await loop.create_server(accept, host, port, reuse_address=True, backlog=64)
        return [socket.getsockname()[:2] for socket in self._server.sockets]

    def _drop_silent(self, protocol: web.RequestHandler) -> None:
        if protocol in self._silent:
            self._drop(protocol)

    def _drop(self, protocol: web.RequestHandler) -> None:
        self._silent.discard(protocol)
        if protocol.transport is not None:
            protocol.transport.abort()

    async def close(self) -> None:
        """Takes no more connections."""
        if self._server is not None:
            self._server.close()
