"""A server that speaks ESPHome's native API on loopback, in plain text or encrypted, and misbehaves when told to.

Only what a real device cannot be brought to do: a key, a silence, a connection that ends in the middle, hostile values.
``received`` is every message that came, by name; ``connections`` counts those that were opened.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from aioesphomeapi import api_pb2 as pb
from aioesphomeapi.core import MESSAGE_TYPE_TO_PROTO
from cryptography.exceptions import InvalidTag
from google.protobuf.message import Message
from noise.backends.default import noise_backend
from noise.connection import NoiseConnection

NUMBERS = {cls: number for number, cls in MESSAGE_TYPE_TO_PROTO.items()}


class FakeDevice:
    """An async context manager; ``address`` and ``port`` say where it listens."""

    address = "127.0.0.1"

    def __init__(
        self,
        *,
        name: str = "kitchen",
        key: bytes = b"",
        entities: Iterable[Message] = (),
        states: Iterable[Message] = (),
        late: tuple[float, Message] | None = None,
        info: dict[str, Any] | None = None,
        hangs_at: type[Message] | None = None,
        drops_at: type[Message] | None = None,
        drops: int = 1,
        says: bytes = b"",
        answer: Callable[[Message], Message | None] | None = None,
    ) -> None:
        self.name, self.key, self.info = name, key, info or {}
        self.entities, self.states = list(entities), list(states)
        self.hangs_at, self.drops_at, self.drops = hangs_at, drops_at, drops
        self.says, self.answer, self.late = says, answer, late
        self.received: list[str] = []
        self.messages: list[Message] = []
        self.connections = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def key_text(self) -> str:
        """The key as it stands in ``secrets.yaml``."""
        return base64.b64encode(self.key).decode()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens, on the port it had before if there was one."""
        self._server = await asyncio.start_server(self._serve, self.address, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Ends every connection and listens no more."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            if self.says:
                writer.write(self.says)
            line = await _Encrypted.open(reader, writer, self.name, self.key) if self.key else _Plain(reader, writer)
            while line is not None and await self._answer(line, *await line.read()):
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()

    async def _answer(self, line: _Plain | _Encrypted, number: int, body: bytes) -> bool:
        message = MESSAGE_TYPE_TO_PROTO[number].FromString(body)
        self.received.append(type(message).__name__)
        self.messages.append(message)
        if self.drops_at is type(message) and self.drops > 0:
            self.drops -= 1
            return False
        if self.hangs_at is type(message):
            await asyncio.sleep(3600)
        for answer in self._answers(message):
            line.write(NUMBERS[type(answer)], answer.SerializeToString())
        if self.late and isinstance(message, pb.SubscribeStatesRequest):
            later = self.late[1]
            asyncio.get_running_loop().call_later(
                self.late[0], lambda: line.write(NUMBERS[type(later)], later.SerializeToString())
            )
        return not isinstance(message, pb.DisconnectRequest)

    def _answers(self, message: Message) -> list[Message]:
        own = self.answer(message) if self.answer else None
        if own is not None:
            return [own]
        if isinstance(message, pb.HelloRequest):
            return [pb.HelloResponse(api_version_major=1, api_version_minor=10, server_info="fake", name=self.name)]
        if isinstance(message, pb.DisconnectRequest):
            return [pb.DisconnectResponse()]
        if isinstance(message, pb.PingRequest):
            return [pb.PingResponse()]
        if isinstance(message, pb.DeviceInfoRequest):
            given = {"name": self.name, "compilation_time": "build 1", "esphome_version": "2026.10.0", **self.info}
            return [pb.DeviceInfoResponse(**given)]
        if isinstance(message, pb.ListEntitiesRequest):
            return [*self.entities, pb.ListEntitiesDoneResponse()]
        if isinstance(message, pb.SubscribeStatesRequest):
            return self.states
        return []


class _Plain:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def read(self) -> tuple[int, bytes]:
        if await self._reader.readexactly(1) != b"\0":
            # what firmware without encryption says to a client that begins with it
            self._writer.write(b"\0Bad indicator byte")
            await self._writer.drain()
            raise ConnectionError
        length, number = await self._read_varint(), await self._read_varint()
        return number, await self._reader.readexactly(length)

    async def _read_varint(self) -> int:
        value = shift = 0
        while True:
            byte = (await self._reader.readexactly(1))[0]
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    def write(self, number: int, body: bytes) -> None:
        self._writer.write(b"\0" + _varint(len(body)) + _varint(number) + body)


class _Encrypted:
    """Noise_NNpsk0_25519_ChaChaPoly_SHA256, the device's side."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, noise: NoiseConnection) -> None:
        self._reader, self._writer, self._noise = reader, writer, noise

    @classmethod
    async def open(
        cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str, key: bytes
    ) -> _Encrypted | None:
        """The line after the handshake; None when the client speaks plain text or has another key."""
        noise = NoiseConnection.from_name(b"Noise_NNpsk0_25519_ChaChaPoly_SHA256", backend=noise_backend)
        noise.set_as_responder()
        noise.set_psks(key)
        noise.set_prologue(b"NoiseAPIInit\x00\x00")
        noise.start_handshake()
        self = cls(reader, writer, noise)
        try:
            await self._read_frame()
            shake = await self._read_frame()
        except ValueError:
            self._write_frame(b"\x01Bad indicator byte")
            return None
        self._write_frame(b"\x01" + name.encode() + b"\0" + b"AABBCCDDEEFF\0")
        try:
            noise.read_message(shake[1:])
        except InvalidTag:
            self._write_frame(b"\x01Handshake MAC failure")
            return None
        self._write_frame(b"\0" + bytes(noise.write_message()))
        return self

    async def read(self) -> tuple[int, bytes]:
        body = bytes(self._noise.decrypt(await self._read_frame()))
        return int.from_bytes(body[:2], "big"), body[4:]

    def write(self, number: int, body: bytes) -> None:
        head = number.to_bytes(2, "big") + len(body).to_bytes(2, "big")
        self._write_frame(bytes(self._noise.encrypt(head + body)))

    async def _read_frame(self) -> bytes:
        head = await self._reader.readexactly(1)
        if head != b"\x01":
            raise ValueError
        return await self._reader.readexactly(int.from_bytes(await self._reader.readexactly(2), "big"))

    def _write_frame(self, body: bytes) -> None:
        self._writer.write(b"\x01" + len(body).to_bytes(2, "big") + body)


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*made, value])


def satellite(*, wake_model: str, canary: bool = False, **options: Any) -> FakeDevice:
    """A device with the entities of wake_model.yaml and capture.yaml, whose switch and number do what they should."""
    sensors = {"detections": 12.0, "near_misses": 5.0, "capture_queue": 1.0, "listening_hours": 61.25}
    sensors |= {"canary_detections": 7.0 if canary else 0.0, "captures_dropped": 2.0, "capture_time_left": 0.0}
    texts = {"wake_model": wake_model, "capture_state": "off", "last_upload": "detection 00ab-3: taken"}
    entities: list[Message] = [
        pb.ListEntitiesSwitchResponse(object_id="capture_wake_audio", key=1, name="Capture wake audio"),
        pb.ListEntitiesNumberResponse(object_id="capture_for", key=2, name="Capture for", min_value=1, max_value=336),
    ]
    switch, number = pb.SwitchStateResponse(key=1, state=False), pb.NumberStateResponse(key=2, state=24.0)
    states: list[Message] = [switch, number]
    left = pb.SensorStateResponse()
    for key, (name, value) in enumerate(sensors.items(), 10):
        entities.append(pb.ListEntitiesSensorResponse(object_id=name, key=key, name=name))
        states.append(pb.SensorStateResponse(key=key, state=value))
        left = states[-1] if name == "capture_time_left" else left
    for key, (name, text) in enumerate(texts.items(), 30):
        entities.append(pb.ListEntitiesTextSensorResponse(object_id=name, key=key, name=name))
        states.append(pb.TextSensorStateResponse(key=key, state=text))
    state = states[-2]

    def obey(message: Message) -> Message | None:
        if isinstance(message, pb.SwitchCommandRequest):
            switch.state = message.state
            left.state = number.state if message.state else 0.0
            state.state = "idle" if message.state else "off"
            return switch
        if isinstance(message, pb.NumberCommandRequest):
            number.state = message.state
            return number
        return None

    return FakeDevice(entities=entities, states=states, answer=obey, **options)
