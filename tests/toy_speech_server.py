"""A small Wyoming speech server that speaks with espeak-ng; prints its port. Run by the tests of the voices."""

from __future__ import annotations

import asyncio

from toy_wyoming import serve
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.info import Attribution, Describe, Info, TtsProgram, TtsVoice, TtsVoiceSpeaker
from wyoming.server import AsyncEventHandler
from wyoming.tts import Synthesize

from mww_ha.synthesize import espeak

_SOURCE = Attribution(name="toy", url="")


def _voice(name: str, language: str, speakers: list[str]) -> TtsVoice:
    return TtsVoice(
        name=name,
        attribution=_SOURCE,
        installed=True,
        description=name,
        version="1",
        languages=[language],
        speakers=[TtsVoiceSpeaker(name=speaker) for speaker in speakers] or None,
    )


_INFO = Info(
    tts=[
        TtsProgram(
            name="toy",
            attribution=_SOURCE,
            installed=True,
            description="espeak-ng",
            version="1",
            voices=[_voice("en_US-toy", "en_US", ["f2", "m3"]), _voice("de_DE-toy", "de_DE", [])],
        )
    ]
)


class Handler(AsyncEventHandler):
    """One connection."""

    async def handle_event(self, event: Event) -> bool:
        """Answers Describe and Synthesize."""
        if Describe.is_type(event.type):
            await self.write_event(_INFO.event())
        if Synthesize.is_type(event.type):
            return await self._speak(Synthesize.from_event(event))
        return True

    async def _speak(self, wanted: Synthesize) -> bool:
        if wanted.text == "HANG UP":
            return False
        if wanted.text == "FAIL":
            await self.write_event(Error(text="not today").event())
            return True
        language = "gmw/de" if wanted.voice and wanted.voice.name == "de_DE-toy" else "gmw/en-US"
        speaker = wanted.voice.speaker if wanted.voice and wanted.voice.speaker else "m1"
        engine = espeak.load()
        sound = engine.speak(wanted.text, f"{language}+{speaker}").tobytes()
        await self.write_event(AudioStart(rate=engine.rate_hz, width=2, channels=1).event())
        for start in range(0, len(sound), 4096):
            piece = sound[start : start + 4096]
            await self.write_event(AudioChunk(rate=engine.rate_hz, width=2, channels=1, audio=piece).event())
        await self.write_event(AudioStop().event())
        return True


if __name__ == "__main__":
    asyncio.run(serve(Handler))
