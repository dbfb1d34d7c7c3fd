"""The device's side of ESPHome's over-the-air protocol: takes an update from the real uploader, or fails as asked.

Speaks protocol version 2 in plain text as ESPHome 2026.6 to 2026.10 do: magic, features, SHA-256 authentication, size,
MD5, blocks of 8 KiB that are acknowledged one by one. What it accepted lies in ``image``; until an update is complete
and its checksum right, ``image`` stays what it was, as the running partition of a device does.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import select
import socket
import threading
import time
from types import TracebackType
from typing import Self

FAILURES = (
    "closes after features",  # as firmware that takes only encrypted updates looks to an older uploader
    "requires encryption",
    "no partition space",
    "no partition",
    "cannot prepare",
    "drops in the middle",
    "write error",
    "md5",
    "cannot finish",
    "drops at the end",  # after all of it was received and committed
    "stalls",
)

_MAGIC = bytes((0x6C, 0x26, 0xF7, 0x5C, 0x45))
_BLOCK = 8192
_SAYS = {
    "cannot prepare": 0x81,
    "write error": 0x83,
    "cannot finish": 0x84,
    "no partition space": 0x89,
    "no partition": 0x8A,
    "md5": 0x8B,
    "requires encryption": 0x94,
}
_AUTH_FAILED = 0x82


class _GoneError(Exception):
    """The uploader closed the connection."""


class _Listener:
    """Takes one connection after the other on ``at`` (0: a free port) of loopback; a context manager."""

    def __init__(self, at: int = 0) -> None:
        self.at = at
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", self.at))
        self._listener.settimeout(0.05)
        self.at = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            with connection:
                self._take(connection)

    def _take(self, connection: socket.socket) -> None:
        raise NotImplementedError


class OtaReceiver(_Listener):
    """Listens on ``port`` of loopback; a context manager. ``block_delay_s`` slows it down to a real device's pace."""

    def __init__(
        self, port: int, *, password: str = "", failure: str = "", block_delay_s: float = 0.0, image: bytes = b"old"
    ) -> None:
        assert not failure or failure in FAILURES, failure
        self.port, self.password, self.failure, self.block_delay_s = port, password, failure, block_delay_s
        self.image = image
        self.sessions: list[str] = []  # how each connection ended
        self.received = 0  # bytes of the update in progress
        super().__init__(port)

    def _take(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        try:
            self.sessions.append(self._session(connection))
        except _GoneError:
            self.sessions.append(f"gone after {self.received} bytes")
        except OSError as error:
            self.sessions.append(f"lost: {error}")

    def _session(self, peer: socket.socket) -> str:
        self.received = 0
        if _read(peer, 5) != _MAGIC:
            peer.sendall(b"\x80")
            return "not an uploader"
        peer.sendall(b"\x00\x02")
        features = _read(peer, 1)[0]
        if self.failure == "closes after features":
            return self.failure
        if self.failure == "requires encryption":
            return self._refuse(peer)
        extended = bool(features & 0x04)
        peer.sendall(b"\x48\x00" if extended else b"\x40")
        if not self._authenticate(peer):
            return "wrong password"
        if extended:
            assert _read(peer, 1) == b"\x00", "only application updates"
        size = int.from_bytes(_read(peer, 4), "big")
        if self.failure in ("cannot prepare", "no partition space", "no partition"):
            return self._refuse(peer)
        peer.sendall(b"\x42")
        checksum = _read(peer, 32).decode("ascii")
        peer.sendall(b"\x43")
        update = self._receive(peer, size)
        if update is None:
            return self.failure
        peer.sendall(b"\x44")
        if self.failure in ("md5", "cannot finish"):
            return self._refuse(peer)
        assert hashlib.md5(update).hexdigest() == checksum
        self.image = update
        if self.failure == "drops at the end":
            return self.failure
        peer.sendall(b"\x45")
        assert _read(peer, 1) == b"\x00"
        return "taken"

    def _refuse(self, peer: socket.socket) -> str:
        peer.sendall(bytes((_SAYS[self.failure],)))
        peer.settimeout(0.3)
        with contextlib.suppress(_GoneError, OSError):
            _read(peer, 1)  # the uploader reads the reason before it closes; closing first could lose it
        return self.failure

    def _authenticate(self, peer: socket.socket) -> bool:
        if self.password:
            nonce = secrets.token_hex(32)
            peer.sendall(b"\x02" + nonce.encode("ascii"))
            answer_nonce, answer = _read(peer, 64).decode("ascii"), _read(peer, 64).decode("ascii")
            if answer != hashlib.sha256(f"{self.password}{nonce}{answer_nonce}".encode()).hexdigest():
                peer.sendall(bytes((_AUTH_FAILED,)))
                return False
        peer.sendall(b"\x41")
        return True

    def _receive(self, peer: socket.socket, size: int) -> bytes | None:
        update = bytearray()
        while len(update) < size:
            update += _read(peer, min(_BLOCK, size - len(update)))
            self.received = len(update)
            if len(update) > size // 2:
                if self.failure == "drops in the middle":
                    return None
                if self.failure == "write error":
                    self._refuse(peer)
                    return None
                while self.failure == "stalls":
                    if self._closing.wait(0.05) or not _is_open(peer):
                        raise _GoneError
            time.sleep(self.block_delay_s)
            peer.sendall(b"\x47")
        return bytes(update)


class Valve(_Listener):
    """A port that passes at most ``most`` bytes on to ``port``: an upload stays in its middle until the device is gone.

    A context manager; ``at`` is the port to send to. It ends a connection when the other side of it has ended.
    """

    def __init__(self, port: int, most: int) -> None:
        self.port, self.most = port, most
        super().__init__()

    def _take(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)) as device:
            self._pass_on(connection, device)

    def _pass_on(self, uploader: socket.socket, device: socket.socket) -> None:
        left = self.most
        uploader.settimeout(10)
        while not self._closing.is_set():
            readable, _, _ = select.select([device, uploader] if left else [device], [], [], 0.05)
            if device in readable:
                answer = device.recv(65_536)
                if not answer:
                    return
                uploader.sendall(answer)
            if uploader in readable:
                piece = uploader.recv(min(left, 65_536))
                if not piece:
                    return
                device.sendall(piece)
                left -= len(piece)


def _read(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = peer.recv(count - len(data))
        if not piece:
            raise _GoneError
        data += piece
    return data


def _is_open(peer: socket.socket) -> bool:
    peer.setblocking(False)
    try:
        return peer.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        peer.settimeout(10)
