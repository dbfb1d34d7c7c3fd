"""What the tests mend of Python for themselves."""

from __future__ import annotations

import asyncio
import gc
import socket

import pytest
from aiohttp import web


@pytest.mark.parametrize("turns", range(5))
def test_a_connection_that_comes_while_its_server_closes_is_not_left_open(turns: int) -> None:
    async def close_after(connection: socket.socket) -> None:
        runner = web.AppRunner(web.Application(), shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        connection.connect(runner.addresses[0])
        for _ in range(turns):
            await asyncio.sleep(0)
        await runner.cleanup()

    with socket.socket() as connection:
        asyncio.run(close_after(connection))
    gc.collect()  # an open one is a warning then, and so an error
