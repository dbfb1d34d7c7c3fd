"""A connection with TLS is over when the loop that opened it ends, however slowly the server says goodbye."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from certificates import write_certificate

from mww_ha import websession
from mww_ha.deploy.dashboard import Timeouts, greet
from mww_ha.errors import FlashError, HomeAssistantUnreachableError
from mww_ha.ha.connection import Connection, find_access
from mww_ha.websession import OpenSockets

ANSWER = b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@contextlib.contextmanager
def slow_goodbye(folder: Path, delay_s: float) -> Iterator[tuple[str, Path]]:
    """A server that answers 404 and ends its side of the connection later; its address and its certificate."""
    certificate, key = write_certificate(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def answer() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:  # the test is over
                return
            with plain, context.wrap_socket(plain, server_side=True) as client:
                client.recv(65536)
                client.sendall(ANSWER)
                time.sleep(delay_s)
                with contextlib.suppress(OSError):  # the other side has gone
                    client.unwrap()

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}", certificate
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the garbage collector complains about; a server that is slow is waited for, on a busy machine too."""
    monkeypatch.setattr(websession, "GOODBYE_S", 60.0)
    gc.collect()
    said: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: said.append(what.exc_value))
    return said


def test_asking_a_dashboard_leaves_no_socket_behind(
    tmp_path: Path, unraisable: list[object], monkeypatch: pytest.MonkeyPatch
):
    with slow_goodbye(tmp_path, 0.3) as (url, certificate):
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with pytest.raises(FlashError, match="is no ESPHome dashboard"):
            greet(url, Timeouts())
        gc.collect()
    assert unraisable == []


def test_asking_home_assistant_leaves_no_socket_behind(tmp_path: Path, unraisable: list[object]):
    async def ask(url: str, certificate: Path) -> None:
        access = find_access(url, "t", environ={})
        async with Connection(access, tls=ssl.create_default_context(cafile=certificate)):
            pass

    with slow_goodbye(tmp_path, 0.3) as (url, certificate):
        with pytest.raises(HomeAssistantUnreachableError):
            asyncio.run(ask(url, certificate))
        gc.collect()
    assert unraisable == []


async def test_a_server_that_never_says_goodbye_is_not_waited_for():
    sockets = OpenSockets()
    with sockets.make((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))) as made:
        await asyncio.wait_for(sockets.wait_closed(0.1), 30)
        assert sockets.still_open == 1
        made.close()
        assert sockets.still_open == 0
        await asyncio.wait_for(sockets.wait_closed(60), 30)
