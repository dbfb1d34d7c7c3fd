"""Something that the service does by itself, over and over, beside the requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine


class Background:
    """Runs ``work``, which never ends by itself, from ``start`` to ``stop``."""

    def __init__(self, name: str, work: Callable[[], Coroutine[None, None, None]]) -> None:
        self._name, self._work = name, work
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins."""
        self._task = asyncio.create_task(self._work(), name=self._name)

    async def stop(self) -> None:
        """Ends in the middle of whatever it waits for."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
