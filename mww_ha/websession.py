"""Connections to web servers that are over when their event loop is."""

from __future__ import annotations

import asyncio
import socket
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl

    from aiohttp import ClientSession

GOODBYE_S = 2.0
"""How long a server may take to end a TLS connection, in seconds."""


@asynccontextmanager
async def open_session(*, tls: ssl.SSLContext | bool = True, **options: Any) -> AsyncIterator[ClientSession]:
    """A session whose connections are closed when it ends; ``options`` are those of ``aiohttp.ClientSession``.

    aiohttp closes the connections of its pool when a session ends, and waits for them. A WebSocket, or a connection
    that a server wants closed, has left the pool by then: with TLS its end is one more exchange with the server, which
    a loop that ends at once cuts off, and the socket stays open until the garbage collector finds it.
    """
    from aiohttp import ClientSession, TCPConnector

    sockets = OpenSockets()
    try:
        async with ClientSession(connector=TCPConnector(ssl=tls, socket_factory=sockets.make), **options) as session:
            yield session
    finally:
        await sockets.wait_closed(GOODBYE_S)


class OpenSockets:
    """The sockets that an ``aiohttp.TCPConnector(socket_factory=sockets.make)`` opened."""

    def __init__(self) -> None:
        self._made: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def make(self, address: tuple[Any, ...]) -> socket.socket:
        """A socket for ``address``, as ``getaddrinfo`` describes it. Raises OSError."""
        family, kind, protocol, *_ = address
        made = socket.socket(family=family, type=kind, proto=protocol)
        self._made.add(made)
        return made

    @property
    def still_open(self) -> int:
        """How many of them are open."""
        return sum(made.fileno() >= 0 for made in self._made)

    async def wait_closed(self, timeout_s: float) -> None:
        """Returns when all are closed, or after ``timeout_s``: a server that is silent holds nothing up."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while self.still_open and loop.time() < deadline:  # noqa: ASYNC110 - a socket does not tell that it was closed
            await asyncio.sleep(0.005)
