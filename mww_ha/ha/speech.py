"""Home Assistant's text-to-speech, as far as it stays in the house: engines of its Wyoming integration.

Home Assistant knows where the speech servers are that its user set up, and tells no app; but it speaks for one. Its
other engines are left alone: most are services elsewhere, and nothing leaves the house.
"""

from __future__ import annotations

import asyncio
import io
import re
import wave
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mww_ha.errors import HomeAssistantAnswerError, HomeAssistantRefusedError, HomeAssistantUnreachableError
from mww_ha.ha.client import Client
from mww_ha.ha.connection import Access
from mww_ha.schema import SAMPLE_RATE_HZ
from mww_ha.websession import open_session

ANSWER_S = 60.0
LOCAL_PLATFORM = "wyoming"
_MOST_BYTES = 16 << 20  # of one answer: 8 minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class HomeVoice:
    """A voice of one engine. ``voice`` is empty for an engine that names none: it speaks with its own."""

    engine: str  # entity id, such as tts.piper
    voice: str
    language: str  # as the engine writes it, such as en_US


async def find_home_voices(client: Client, language: str) -> list[HomeVoice]:
    """Voices for ``language`` (its first part counts: en). Raises HomeAssistantError."""
    wanted = _primary(language)
    listed, entities = await asyncio.gather(
        client.command("tts/engine/list"), client.command("config/entity_registry/list")
    )
    local = {str(row.get("entity_id")) for row in _rows(entities) if row.get("platform") == LOCAL_PLATFORM}
    found: list[HomeVoice] = []
    for provider in _rows(listed.get("providers") if isinstance(listed, dict) else None):
        engine, languages = str(provider.get("engine_id", "")), provider.get("supported_languages")
        if engine not in local or not isinstance(languages, list):
            continue
        for tag in sorted({str(each) for each in languages if _primary(str(each)) == wanted}):
            told = await client.command("tts/engine/voices", engine_id=engine, language=tag)
            names = [str(row["voice_id"]) for row in _rows(told.get("voices")) if row.get("voice_id")]
            found += [HomeVoice(engine=engine, voice=name, language=tag) for name in names or [""]]
    return found


async def say(access: Access, voice: HomeVoice, text: str) -> tuple[NDArray[np.int16], int]:
    """int16 ``[n]`` and its rate in Hz. Nothing of it stays in Home Assistant's cache on disk.

    Raises HomeAssistantRefusedError, HomeAssistantUnreachableError, HomeAssistantAnswerError.
    """
    from aiohttp import ClientError, ClientTimeout

    options: dict[str, Any] = {
        "preferred_format": "wav",
        "preferred_sample_rate": SAMPLE_RATE_HZ,
        "preferred_sample_channels": 1,
        "preferred_sample_bytes": 2,
    }
    if voice.voice:
        options["voice"] = voice.voice
    wish = {"engine_id": voice.engine, "message": text, "language": voice.language, "options": options, "cache": False}
    headers = {"Authorization": f"Bearer {access.token}"}
    try:
        async with open_session(timeout=ClientTimeout(total=ANSWER_S), headers=headers) as session:
            async with session.post(f"{access.url}/api/tts_get_url", json=wish, allow_redirects=False) as answer:
                if answer.status in {401, 403}:
                    raise HomeAssistantRefusedError(f"Home Assistant answered with HTTP status {answer.status}")
                told = await answer.json(content_type=None) if answer.status == 200 else {}
            path = str(told.get("path", "")) if isinstance(told, dict) else ""
            if not re.fullmatch(r"/api/tts_proxy/[A-Za-z0-9._-]{1,200}", path):
                raise HomeAssistantAnswerError(
                    f"{voice.engine} cannot say {text!r}", hint="try the engine in Home Assistant's media settings"
                )
            sound = bytearray()
            async with session.get(f"{access.url}{path}", allow_redirects=False) as answer:
                async for piece in answer.content.iter_any():
                    sound += piece
                    if len(sound) > _MOST_BYTES:
                        raise HomeAssistantAnswerError(f"{voice.engine} does not stop talking")
                status = answer.status
    except (OSError, TimeoutError, ClientError, ValueError) as error:
        raise HomeAssistantUnreachableError(
            f"Home Assistant did not say {text!r}: {type(error).__name__}", hint="is it starting anew?"
        ) from error
    if status != 200:
        raise HomeAssistantAnswerError(f"{voice.engine} said nothing: HTTP status {status}", hint="see its own log")
    return _read_wav(bytes(sound), voice.engine)


def _read_wav(content: bytes, engine: str) -> tuple[NDArray[np.int16], int]:
    """16-bit mono, whatever the header says of its length: it was written before the length was known."""
    try:
        with wave.open(io.BytesIO(content)) as file:
            form = (file.getnchannels(), file.getsampwidth())
            raw, rate = file.readframes(file.getnframes()), file.getframerate()
    except (wave.Error, EOFError) as error:
        raise HomeAssistantAnswerError(f"{engine} sends no WAV: {error}", hint="see Home Assistant's log") from None
    if form != (1, 2) or not 8000 <= rate <= 192_000:
        raise HomeAssistantAnswerError(f"{engine} sends {form[0]} channels of {form[1] * 8} bit at {rate} Hz")
    return np.frombuffer(raw[: len(raw) // 2 * 2], dtype="<i2").astype(np.int16), rate


def _primary(language: str) -> str:
    return language.replace("_", "-").split("-")[0].lower()


def _rows(value: Any) -> list[dict[str, Any]]:
    return [row for row in value if isinstance(row, dict)] if isinstance(value, list) else []
