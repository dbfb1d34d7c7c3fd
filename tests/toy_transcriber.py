"""A small Wyoming speech-to-text server: reads how long a take is, and says what it was told to. Prints its port."""

from __future__ import annotations

import asyncio

from toy_wyoming import serve
from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.server import AsyncEventHandler


class Handler(AsyncEventHandler):
    """One connection: Transcribe, AudioStart, chunks, AudioStop → Transcript."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self._bytes = 0
        self._language = ""

    async def handle_event(self, event: Event) -> bool:
        """Answers after AudioStop with language, seconds and the peak: what only somebody who heard it can say."""
        if Transcribe.is_type(event.type):
            self._language = Transcribe.from_event(event).language or "-"
        elif AudioStart.is_type(event.type):
            start = AudioStart.from_event(event)
            assert (start.rate, start.width, start.channels) == (16_000, 2, 1)
        elif AudioChunk.is_type(event.type):
            self._bytes += len(AudioChunk.from_event(event).audio)
        elif AudioStop.is_type(event.type):
            if self._bytes == 0:
                await self.write_event(Error(text="nothing came").event())
                return True
            if self._bytes > 320_000:
                return False  # hangs up
            await self.write_event(
                Transcript(text=f"{self._language} {self._bytes / 32_000:.2f}\nHey\tkitchen").event()
            )
        return True


if __name__ == "__main__":
    asyncio.run(serve(Handler))
