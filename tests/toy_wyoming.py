"""Runs a Wyoming server on a port of this machine (a free one, or its first argument) until it is killed; prints it."""

from __future__ import annotations

import asyncio
import socket
import sys

from wyoming.server import AsyncEventHandler, AsyncTcpServer


async def serve(handler: type[AsyncEventHandler]) -> None:
    """One ``handler`` for each connection."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0))
        port = free.getsockname()[1]
    server = AsyncTcpServer("127.0.0.1", port)
    await server.start(handler)
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()
