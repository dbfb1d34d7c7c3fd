"""The household's own speech server, found without being asked for: in Home Assistant's app only.

In this order: the address that the app's option ``piper`` names; the Piper app under the name that the Supervisor
gives it; the Wyoming engines that Home Assistant speaks with. The first that has a voice for the language is used.
A Piper server lists every voice it could fetch, so only the one recommended for the language is taken of a long list;
``synthesize.wyoming`` in project.yaml takes all of a server instead, and this search is left out then.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import time
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mww_ha.errors import HomeAssistantError, MissingDependencyError, ToolError
from mww_ha.ha.client import Client
from mww_ha.ha.connection import Access, find_access
from mww_ha.ha.speech import HomeVoice, find_home_voices, say
from mww_ha.synthesize.voices import RECOMMENDED, Delivery, Voice, primary

OPTION = "MWW_HA_PIPER"
PIPER_APP = "wyoming://core-piper:10200"
"""Home Assistant's official Piper app, by its name in the apps' own network."""

_MOST_VOICES = 3  # a longer list is a catalogue
_REMEMBERED_S = 60.0

logger = logging.getLogger(__name__)


def find_voices(language: str, environ: Mapping[str, str] = os.environ) -> list[Voice]:
    """Voices of the household's speech server; [] outside of Home Assistant's app and where there is none.

    Asked once a minute at most. Raises InputError, ToolError for the address that the option names.
    """
    option, token = environ.get(OPTION, ""), environ.get("SUPERVISOR_TOKEN", "")
    if not (option or token):
        return []
    minute = int(time.monotonic() // _REMEMBERED_S)
    return list(_find(minute, primary(language), option, token))


@functools.lru_cache(maxsize=8)
def _find(_minute: int, language: str, option: str, token: str) -> tuple[Voice, ...]:
    access = find_access(environ={"SUPERVISOR_TOKEN": token}) if token else None
    return tuple(search(language, option=option, access=access))


def search(language: str, *, option: str, access: Access | None, piper_app: str = PIPER_APP) -> list[Voice]:
    """The search itself. ``access``: Home Assistant, None where it cannot be asked."""
    from mww_ha.synthesize import wyoming

    if option:
        return choose_voices(language, wyoming.find_voices(language, option))
    if access is None:
        return []
    try:
        found = choose_voices(language, wyoming.find_voices(language, piper_app))
    except (ToolError, MissingDependencyError) as error:
        logger.info("no Piper app: %s", error.message)
        found = []
    if found:
        return found
    try:
        spoken = asyncio.run(_ask_home(access, language))
    except HomeAssistantError as error:
        logger.info("no voices from Home Assistant: %s", error.message)
        return []
    return choose_voices(language, [_voice(each, access) for each in spoken])


def choose_voices(language: str, found: list[Voice]) -> list[Voice]:
    """All of a short list, else every speaker of the voice recommended for the language, else of the first."""
    names = list(dict.fromkeys(voice.name for voice in found))
    if len(names) <= _MOST_VOICES:
        return found
    wanted = RECOMMENDED.get(primary(language), "")
    chosen = next((name for name in names if name.rpartition("/")[2] == wanted), names[0])
    return [voice for voice in found if voice.name == chosen]


async def _ask_home(access: Access, language: str) -> list[HomeVoice]:
    async with Client(access) as client:
        return await find_home_voices(client, language)


def _voice(spoken: HomeVoice, access: Access) -> Voice:
    return Voice(
        engine="home_assistant",
        name=f"{spoken.engine}/{spoken.voice}",
        language=spoken.language.replace("_", "-"),
        path=f"{access.url}#{spoken.language}",  # as the engine writes it
    )


class HomeAssistantEngine:
    """Lets Home Assistant say it. Speed and pitch are the engine's own."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._token = environ.get("SUPERVISOR_TOKEN", "")

    def speak(self, text: str, voice: Voice, delivery: Delivery) -> tuple[NDArray[np.int16], int]:
        """See Engine; ``delivery`` is not heard. Raises HomeAssistantError, ToolError without the app's token."""
        del delivery
        if not self._token:
            raise ToolError("Home Assistant speaks for its app alone", hint="leave it out with synthesize.engines")
        engine, _, name = voice.name.partition("/")
        url, _, language = voice.path.partition("#")
        access = Access(url=url, token=self._token, websocket="")
        return asyncio.run(say(access, HomeVoice(engine=engine, voice=name, language=language), text))
