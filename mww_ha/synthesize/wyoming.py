"""Speech servers that talk Wyoming, as Home Assistant's Piper add-on does: ``wyoming://host:port``."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from mww_ha.errors import InputError, MissingDependencyError, ToolError, how_to_install

if TYPE_CHECKING:
    from wyoming.client import AsyncTcpClient

    from mww_ha.synthesize.voices import Delivery, Voice

CONNECT_S = 5.0
ANSWER_S = 60.0
_MOST_BYTES = 64 << 20  # of one answer: 24 minutes at 22.05 kHz
_T = TypeVar("_T")


def parse_address(address: str) -> tuple[str, int]:
    """``wyoming://host:port`` → host and port. Raises InputError."""
    match = re.fullmatch(r"(?:wyoming|tcp)://(\[[0-9a-fA-F:]+\]|[^:/\s]+):(\d{1,5})/?", address.strip())
    if match is None or not 0 < int(match[2]) < 65536:
        raise InputError(f"{address!r} is not the address of a speech server", hint="write wyoming://host:10200")
    return match[1].strip("[]"), int(match[2])


def find_voices(language: str, address: str) -> list[Voice]:
    """Installed voices of the server for the language, one for each speaker. Raises InputError, ToolError."""
    from mww_ha.synthesize.voices import Voice, primary

    host, port = parse_address(address)
    info = _await(_describe(host, port), address)
    found = []
    for program in info.tts:
        for voice in program.voices if program.installed else []:
            matching = [tag for tag in voice.languages if primary(tag) == primary(language)]
            if not voice.installed or not matching:
                continue
            licence = voice.attribution.name if voice.attribution else ""
            found += [
                Voice(
                    engine="wyoming",
                    name=f"{program.name}/{voice.name}",
                    language=matching[0].replace("_", "-"),
                    speaker=speaker,
                    path=address,
                    licence=f"by {licence}" if licence else "",
                )
                for speaker in [entry.name for entry in voice.speakers or []] or [""]
            ]
    return found


def _await(work: Coroutine[Any, Any, _T], address: str) -> _T:
    """Runs it; whatever the network does becomes a ToolError that names the address."""
    try:
        return asyncio.run(work)
    except TimeoutError:
        raise ToolError(f"{address} does not answer", hint="is the speech server running?") from None
    except OSError as error:
        raise ToolError(f"{address} cannot be reached: {error}", hint="check host, port and firewall") from None
    except (ValueError, KeyError, TypeError, AssertionError, asyncio.IncompleteReadError) as error:
        # What the library raises on an answer that is not Wyoming: bad JSON, missing fields.
        raise ToolError(f"{address} does not speak Wyoming: {error}", hint="is it a text-to-speech server?") from None


async def _connect(host: str, port: int) -> AsyncTcpClient:
    try:
        from wyoming.client import AsyncTcpClient
    except ImportError:
        raise MissingDependencyError("the package wyoming is not installed", hint=how_to_install("tts")) from None
    client = AsyncTcpClient(host, port)
    await asyncio.wait_for(client.connect(), CONNECT_S)
    return client


async def _describe(host: str, port: int) -> Any:
    from wyoming.info import Describe, Info

    client = await _connect(host, port)
    try:
        await client.write_event(Describe().event())
        while True:
            event = await asyncio.wait_for(client.read_event(), CONNECT_S)
            if event is None:
                raise ToolError(f"wyoming://{host}:{port} hung up", hint="is it a text-to-speech server?")
            if Info.is_type(event.type):
                return Info.from_event(event)
    finally:
        await client.disconnect()


async def _synthesize(host: str, port: int, text: str, name: str, speaker: str) -> tuple[NDArray[np.int16], int]:
    from wyoming.audio import AudioChunk, AudioStop
    from wyoming.error import Error
    from wyoming.tts import Synthesize, SynthesizeVoice

    client = await _connect(host, port)
    pieces: list[bytes] = []
    size, rate = 0, 0
    try:
        await client.write_event(
            Synthesize(text=text, voice=SynthesizeVoice(name=name, speaker=speaker or None)).event()
        )
        while True:
            event = await asyncio.wait_for(client.read_event(), ANSWER_S)
            if event is None:
                raise ToolError(f"wyoming://{host}:{port} hung up before the end of {text!r}")
            if Error.is_type(event.type):
                raise ToolError(f"wyoming://{host}:{port} could not say {text!r}: {Error.from_event(event).text}")
            if AudioStop.is_type(event.type):
                break
            if not AudioChunk.is_type(event.type):
                continue
            chunk = AudioChunk.from_event(event)
            if chunk.width != 2 or not 8000 <= chunk.rate <= 192_000 or not 1 <= chunk.channels <= 8:
                raise ToolError(
                    f"wyoming://{host}:{port} sends {chunk.width * 8} bit, {chunk.channels} channels, {chunk.rate} Hz",
                    hint="16-bit sound is needed",
                )
            mono = np.frombuffer(chunk.audio[: len(chunk.audio) // (2 * chunk.channels) * 2 * chunk.channels], "<i2")
            pieces.append(mono.reshape(-1, chunk.channels)[:, 0].tobytes())
            rate, size = chunk.rate, size + len(pieces[-1])
            if size > _MOST_BYTES:
                raise ToolError(f"wyoming://{host}:{port} does not stop talking")
    finally:
        await client.disconnect()
    return np.frombuffer(b"".join(pieces), dtype="<i2").astype(np.int16), rate or 16_000


class WyomingEngine:
    """Asks the server of each voice. Speed and pitch are the server's own: the protocol has no word for them."""

    def speak(self, text: str, voice: Voice, delivery: Delivery) -> tuple[NDArray[np.int16], int]:
        """See Engine; ``delivery`` is not heard. Raises ToolError."""
        del delivery
        host, port = parse_address(voice.path)
        name = voice.name.partition("/")[2]
        return _await(_synthesize(host, port, text, name, voice.speaker), voice.path)
