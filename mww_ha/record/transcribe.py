"""Takes and captures read by a speech-to-text server that talks Wyoming, as a hint for people: ``wyoming://host:port``.

Whisper and the like read a wake word rightly often enough to notice that something else was said, and wrongly often
enough that nothing may depend on it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mww_ha import audio
from mww_ha.errors import InputError, MissingDependencyError, ToolError, how_to_install
from mww_ha.schema import SAMPLE_RATE_HZ, Capture, Progress, ProgressSink, no_progress
from mww_ha.store import Project

if TYPE_CHECKING:
    from wyoming.client import AsyncTcpClient

CONNECT_S = 5.0
ANSWER_S = 30.0
_PIECE = 2048  # samples
_LONGEST_TEXT = 300

Transcribe = Callable[[audio.Samples], Awaitable[str]]


def make_transcriber(address: str, language: str = "") -> Transcribe | None:
    """For ``record_session``; None where no address is set. Raises InputError for an impossible one."""
    if not address:
        return None
    parse_address(address)

    async def read(samples: audio.Samples) -> str:
        return await transcribe(address, samples, language=language)

    return read


def parse_address(address: str) -> tuple[str, int]:
    """Host and port. Raises InputError."""
    try:
        parts = urlsplit(address.strip())
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    plain = parts.scheme in ("wyoming", "tcp") and not parts.username and parts.path in ("", "/") and not parts.query
    if not plain or not parts.hostname or not port:
        raise InputError(f"{address!r} is not the address of a speech server", hint="write wyoming://host:10300")
    return parts.hostname, port


async def transcribe(address: str, samples: audio.Samples, *, language: str = "", timeout_s: float = ANSWER_S) -> str:
    """What the server reads in int16 samples at 16 kHz, one line, empty for nothing.

    Raises InputError (address), MissingDependencyError (the package wyoming), ToolError (no answer, or no Wyoming).
    """
    host, port = parse_address(address)
    try:
        from wyoming.client import AsyncTcpClient
    except ImportError:
        raise MissingDependencyError("the package wyoming is not installed", hint=how_to_install("tts")) from None
    client = AsyncTcpClient(host, port)
    try:
        await asyncio.wait_for(client.connect(), CONNECT_S)
        async with asyncio.timeout(timeout_s):
            text = await _talk(client, address, samples, language)
    except TimeoutError:
        raise ToolError(f"{address} does not answer", hint="is the speech-to-text server running?") from None
    except OSError as error:
        raise ToolError(f"{address} cannot be reached: {error}", hint="check host, port and firewall") from None
    except (ValueError, KeyError, TypeError, AssertionError, asyncio.IncompleteReadError) as error:
        raise ToolError(f"{address} does not speak Wyoming: {error}", hint="is it a speech-to-text server?") from None
    finally:
        with contextlib.suppress(OSError):
            await client.disconnect()
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_LONGEST_TEXT]


async def _talk(client: AsyncTcpClient, address: str, samples: audio.Samples, language: str) -> str:
    from wyoming.asr import Transcribe as TranscribeEvent
    from wyoming.asr import Transcript
    from wyoming.audio import AudioChunk, AudioStart, AudioStop
    from wyoming.error import Error

    form = {"rate": SAMPLE_RATE_HZ, "width": 2, "channels": 1}
    await client.write_event(TranscribeEvent(language=language.partition("-")[0] or None).event())
    await client.write_event(AudioStart(**form).event())
    for start in range(0, samples.size, _PIECE):
        piece = samples[start : start + _PIECE].astype("<i2").tobytes()
        await client.write_event(AudioChunk(audio=piece, **form).event())
    await client.write_event(AudioStop().event())
    while True:
        event = await client.read_event()
        if event is None:
            raise ToolError(f"{address} hung up", hint="is it a speech-to-text server?")
        if Error.is_type(event.type):
            raise ToolError(f"{address} could not read it: {Error.from_event(event).text}")
        if Transcript.is_type(event.type):
            return str(Transcript.from_event(event).text or "")


def transcribe_captures(
    project: Project, captures: Iterable[Capture], *, report: ProgressSink = no_progress
) -> dict[str, str]:
    """Reads captures with sound that were not read yet, and notes the text in the catalogue. Returns all of theirs.

    Nothing where no server is set. Raises what ``transcribe`` raises: the first error ends it.
    """
    captures = [capture for capture in captures if capture.path]
    known = project.catalogue.transcripts(capture.id for capture in captures)
    read = make_transcriber(project.settings.record.stt, project.settings.language)
    missing = [capture for capture in captures if capture.id not in known]
    if read is None:
        return known

    async def read_all() -> None:
        for number, capture in enumerate(missing, 1):
            text = await read(audio.read_samples(project.root / capture.path))
            project.catalogue.put_transcript(capture.id, text)
            known[capture.id] = text
            report(Progress(stage="transcribe", done=number, total=len(missing), unit="captures"))

    asyncio.run(read_all())
    return known
