"""Retraining on a schedule: where ``retrain.automatic`` is on, one that is due is queued in its hour of the day.

It is a job like any other; what comes of it is proposed, and nothing is flashed.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from mww_ha.errors import MwwError
from mww_ha.store import Project
from mww_ha.web.background import Background
from mww_ha.web.jobs import Job
from mww_ha.web.orders import RetrainOrder
from mww_ha.web.service import Service

LOOK_EVERY_S = 300.0
ONCE_IN = timedelta(hours=20)
"""A retraining that failed, was cancelled or asked for by hand counts for that day."""

BY = "schedule"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleState:
    """Whether retraining is on a schedule, and what keeps it from being; empty: nothing."""

    automatic: bool = False
    problem: str = ""


class Schedule:
    """Works from ``start`` to ``stop``. ``clock`` gives the time of day with its zone."""

    def __init__(
        self,
        service: Service,
        *,
        look_every_s: float = LOOK_EVERY_S,
        clock: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        self._service, self._look_every_s, self._clock = service, look_every_s, clock
        background = Background("schedule", self._run)
        self.start, self.stop = background.start, background.stop  # what was queued stays
        self.state = ScheduleState()
        service.schedule = self

    async def _run(self) -> None:
        while True:
            try:
                automatic = await self._service.ask(self._look)
                self.state = ScheduleState(automatic=automatic)
            except (MwwError, OSError, sqlite3.Error) as error:
                if self.state.problem != str(error):
                    logger.warning("schedule: %s", error)
                self.state = ScheduleState(problem=str(error))
            await asyncio.sleep(self._look_every_s)

    def _look(self, project: Project) -> bool:
        """Queues a retraining if it is time. Whether there is a schedule. Raises what adding raises."""
        settings = project.settings.retrain
        if not settings.automatic:
            return False
        now = self._clock()
        if now.hour != settings.at_hour or any(_counts(job, now) for job in self._service.jobs.list(limit=1000)):
            return True
        from mww_ha.retrain import due

        if reason := due(project, now):
            logger.info("retraining: %s", reason)
            self._service.jobs.add(RetrainOrder(), asked_by=BY)
        return True


def _counts(job: Job, now: datetime) -> bool:
    """Whether it is a retraining that stands for today's."""
    if job.kind != "retrain":
        return False
    return job.state in ("queued", "running") or now - datetime.fromisoformat(job.queued_at) < ONCE_IN
