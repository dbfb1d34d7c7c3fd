"""What the service does with captures by itself: scores what is new, has it read, deletes what nobody judged in time,
and lets verdicts count for canaries.

Scoring runs in one thread, a capture at a time; NumPy and the interpreter leave the loop free meanwhile (measured:
0.08 s a capture, the loop never late by more than 6 ms). Where a speech-to-text server is set it reads what waits for a
person; it may be slow or away, and holds up nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mww_ha import audio
from mww_ha.capture.keep import Consistency, check_consistency, expire
from mww_ha.capture.review import find_waiting
from mww_ha.capture.score import score_pending
from mww_ha.errors import AudioFileError, JobStoppedError, MwwError
from mww_ha.record.transcribe import Transcribe, make_transcriber
from mww_ha.schema import CaptureScore, Progress
from mww_ha.store import Project, now
from mww_ha.web.service import Service

if TYPE_CHECKING:
    from mww_ha.retrain import Weighed

EXPIRE_EVERY_S = 3600.0
SETTLE_S = 0.3
"""Captures come in bursts: satellites of one house hear the same."""

MAKES_MODELS = ("export", "run", "retrain")

READ_AGAIN_S = 300.0
"""After this time a speech-to-text server that failed is asked again; a new capture is a reason to try at once."""

_AT_ONCE = 10
_FAILURES = 2  # in a row: then it is the server and not a capture

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperState:
    """What became of captures since the service started."""

    scored: int
    expired: int
    expired_at: str  # when was looked last; ISO 8601, UTC
    problem: str  # of the last try; empty: none
    transcribed: int
    stt_problem: str  # of the speech-to-text server; empty: none, or none is set


class Keeper:
    """Works from ``start`` to ``stop``. What goes wrong is said in ``state`` and tried again."""

    def __init__(
        self,
        service: Service,
        *,
        expire_every_s: float = EXPIRE_EVERY_S,
        settle_s: float = SETTLE_S,
        read_again_s: float = READ_AGAIN_S,
    ) -> None:
        self._service = service
        self._expire_every_s, self._settle_s, self._read_again_s = expire_every_s, settle_s, read_again_s
        self._work, self._unread = asyncio.Event(), asyncio.Event()
        self._ending = False
        self._task: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[None] | None = None
        self._scored, self._expired, self._expired_at, self._problem = 0, 0, "", ""
        self._damage = ""
        self._transcribed, self._stt_problem = 0, ""
        self._judged = True  # perhaps, while no service ran
        self._weighed: dict[str, str] = {}  # canary → what was told of it
        service.listen(self._hear)
        service.keeper = self

    @property
    def state(self) -> KeeperState:
        """For the status page."""
        return KeeperState(
            scored=self._scored,
            expired=self._expired,
            expired_at=self._expired_at,
            problem=self._damage or self._problem,
            transcribed=self._transcribed,
            stt_problem=self._stt_problem,
        )

    def start(self) -> None:
        """Begins: first what was left by the last service."""
        self._task = asyncio.create_task(self._run(), name="keeper")
        self._reading = asyncio.create_task(self._read(), name="transcripts")

    async def stop(self) -> None:
        """Ends after the capture that is being scored; one that is being read is read again next time."""
        self._ending = True
        self._work.set()
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        if self._task is not None:
            await self._task

    def _hear(self, type: str, data: Any) -> None:
        made_model = type == "job" and data["state"] == "done" and data["kind"] in MAKES_MODELS
        if type == "capture" or made_model:  # a capture may wait for its model's file
            self._work.set()
        if type == "capture":
            self._unread.set()
        if type in ("judged", "deleted"):
            self._judged = True
            self._work.set()

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        expire_at = clock()
        tidy = False
        while not self._ending:
            try:
                if not tidy:
                    await self._tidy_up()
                    tidy = True
                if clock() >= expire_at:
                    expire_at = clock() + self._expire_every_s
                    await self._expire()
                await self._score()
                if self._judged:
                    self._judged = False
                    await self._weigh()
                self._problem = ""
            except (MwwError, OSError, sqlite3.Error) as error:
                self._problem = str(error)
                logger.warning("captures: %s", error)
            try:
                async with asyncio.timeout_at(expire_at):
                    await self._work.wait()
                    if not self._ending:
                        await asyncio.sleep(self._settle_s)
            except TimeoutError:
                pass
            self._work.clear()

    async def _tidy_up(self) -> None:
        """Once at the start: sound that a killed upload left behind would never expire, for no row names it."""
        found: Consistency = await self._service.ask(partial(check_consistency, repair=True))
        if found.stray:
            logger.info("%d sound files that no capture names were deleted", len(found.stray))
        if found.catalogue:
            self._damage = f"the catalogue is damaged ({found.catalogue[0]}): see mww-ha doctor"
        elif found.missing:
            number = f"{len(found.missing)} capture{'s' * (len(found.missing) != 1)}"
            self._damage = f"the sound of {number} is missing, such as {found.missing[0]}"

    async def _expire(self) -> None:
        number = await self._service.ask(expire)
        self._expired += number
        self._expired_at = now()
        if number:
            self._service.tell("expired", {"captures": number})

    async def _weigh(self) -> None:
        for weighed in await self._service.ask(_weigh_canaries):
            told = {"canary": weighed.trial.canary, "beside": weighed.trial.model, "outcome": weighed.outcome}
            known = self._weighed.get(weighed.trial.canary, "")
            if known != weighed.reason and (known or weighed.trial.events):
                self._weighed[weighed.trial.canary] = weighed.reason
                self._service.tell("canary", {**told, "reason": weighed.reason})

    async def _score(self) -> None:
        while not self._ending and (scores := await self._service.ask(self._score_some)):
            self._scored += len(scores)
            for score in scores:
                told = {"id": score.capture, "model": score.model, "peak": score.peak, "cutoff": score.cutoff}
                self._service.tell("scored", {**told, "reproduced": score.reproduced, "problem": score.problem})

    def _score_some(self, project: Project) -> list[CaptureScore]:
        try:
            return score_pending(project, limit=_AT_ONCE, report=self._check)
        except JobStoppedError:
            return []

    def _check(self, _: Progress) -> None:
        """From the thread, after each capture."""
        if self._ending:
            raise JobStoppedError("the service ends")

    # --- speech-to-text -----------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            try:
                await self._read_waiting()
            except (MwwError, OSError, sqlite3.Error) as error:
                self._stt_problem = str(error)
                logger.warning("transcripts: %s", error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._read_again_s):
                    await self._unread.wait()
            self._unread.clear()
            await asyncio.sleep(self._settle_s)

    async def _read_waiting(self) -> None:
        """The captures that wait for a person, the newest first. Ends when all are read, or the server seems away."""
        failed: set[str] = set()
        failures = 0
        while failures < _FAILURES:
            found = await self._service.ask(partial(_find_unread, failed=failed))
            if found is None:
                break
            id, samples, transcribe = found
            try:
                text = await transcribe(samples)
            except MwwError as error:
                failed.add(id)
                failures += 1
                self._stt_problem = error.message
                logger.info("capture %s was not read: %s", id, error.message)
                continue
            failures = 0
            await self._service.ask(partial(_note_transcript, id=id, text=text))
            self._transcribed += 1
            self._service.tell("transcribed", {"id": id, "text": text})
        if not failed:
            self._stt_problem = ""


def _weigh_canaries(project: Project) -> list[Weighed]:
    from mww_ha.retrain import weigh_canaries  # takes its time, and most households have no canary

    return weigh_canaries(project) if any(flash.canary for flash in project.catalogue.flashes()) else []


def _find_unread(project: Project, failed: Collection[str]) -> tuple[str, audio.Samples, Transcribe] | None:
    """The next capture for speech-to-text. None: there is none, or no server is set. Raises InputError (address)."""
    transcribe = make_transcriber(project.settings.record.stt, project.settings.language)
    if transcribe is None:
        return None
    with contextlib.suppress(ImportError):  # ``transcribe`` says what is missing
        for name in ("client", "asr", "audio", "error"):  # it takes its time, which the loop has not
            importlib.import_module(f"wyoming.{name}")
    waiting = find_waiting(project, newest_first=True)
    read = project.catalogue.transcripts(capture.id for capture in waiting)
    for capture in waiting:
        if capture.id not in read and capture.id not in failed:
            try:
                return capture.id, audio.read_samples(project.root / capture.path), transcribe
            except AudioFileError:  # the list of captures says so
                continue
    return None


def _note_transcript(project: Project, id: str, text: str) -> None:
    project.catalogue.put_transcript(id, text)
