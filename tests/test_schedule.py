"""A retraining that is due is queued once a day in its hour, and only where somebody turned that on."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime, timedelta, timezone
from typing import Any

from test_capture_review import add, spoken
from test_web import Site, opened_site

from mww_ha.capture import review
from mww_ha.schema import Verdict
from mww_ha.store import PROJECT_FILE, Project
from mww_ha.web.orders import Order
from mww_ha.web.schedule import BY, Schedule

HERE = timezone(timedelta(hours=1))


class Clock:
    """The household's time of day."""

    def __init__(self, hour: int) -> None:
        self.now = (datetime.now(HERE) + timedelta(days=1)).replace(hour=hour, minute=5)

    def __call__(self) -> datetime:
        return self.now


def set_up(project: Project, **retrain: Any) -> None:
    """A project with two verdicts and these settings."""
    rows = ", ".join(f"{key}: {str(value).lower()}" for key, value in {"verdicts": 2, **retrain}.items())
    with (project.root / PROJECT_FILE).open("a", encoding="utf-8") as file:
        file.write(f"retrain: {{{rows}}}\n")
    for number in range(2):
        capture = add(project, spoken(number)[0], f"a-{number}")
        review.judge(project, [capture.id], Verdict.FALSE_ACCEPT, by="anna")


def lasting(order: Order, project: Project) -> list[str]:
    """A job that does not end by itself: the clock is far ahead of what has ended."""
    order.arguments(project)
    return [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]


async def look(site: Site, clock: Clock) -> list[dict[str, Any]]:
    """Lets a schedule look again and again for a moment; the retrainings there are then."""
    schedule = Schedule(site.opened.service, look_every_s=0.01, clock=clock)
    schedule.start()
    async with asyncio.timeout(60):
        while schedule.state == type(schedule.state)():  # noqa: ASYNC110  it has looked once
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
    await schedule.stop()
    return [job for job in await site.get("/api/jobs") if job["kind"] == "retrain"]


async def test_a_retraining_that_is_due_is_queued_once_in_its_hour(project: Project):
    # Half a day from now: far from the hour in which the service's own schedule looks, and less than a day after jobs
    # that are queued now, whatever time it is.
    begin = datetime.now().astimezone() + timedelta(hours=11)
    set_up(project, automatic=True, at_hour=(begin + timedelta(hours=1)).hour)
    clock = Clock(0)
    clock.now = begin
    async with opened_site(project.root, command=lasting) as site:
        assert await look(site, clock) == []
        clock.now += timedelta(hours=1)
        [job] = await look(site, clock)
        assert (job["asked_by"], job["order"]) == (BY, {"kind": "retrain", "force": False, "fresh": None})
        await site.ask("POST", f"/api/jobs/{job['id']}/cancel")
        await site.wait(job["id"])
        assert len(await look(site, clock)) == 1, "that was today's"
        clock.now += timedelta(days=1)
        assert len(await look(site, clock)) == 2
        assert (await site.get("/api/status"))["schedule"] == {"automatic": True, "problem": ""}


async def test_what_is_not_due_queues_nothing(project: Project):
    set_up(project, automatic=True, verdicts=3)
    async with opened_site(project.root) as site:
        assert await look(site, Clock(2)) == []
        assert (await site.get("/api/status"))["schedule"]["problem"] == ""


async def test_an_hour_that_no_day_has_is_told(project: Project):
    async with opened_site(project.root) as site:
        set_up(project, automatic=True, at_hour=24)
        schedule = Schedule(site.opened.service, look_every_s=0.01, clock=Clock(2))
        schedule.start()
        async with asyncio.timeout(60):
            while not schedule.state.problem:  # noqa: ASYNC110  it has looked once
                await asyncio.sleep(0.01)
        await schedule.stop()
        assert "retrain.at_hour is 24\n  it must be 0 to 23" in schedule.state.problem


async def test_nothing_is_trained_by_itself_unless_that_was_turned_on(project: Project):
    set_up(project)
    async with opened_site(project.root) as site:
        schedule = Schedule(site.opened.service, look_every_s=0.01, clock=Clock(2))
        schedule.start()
        await asyncio.sleep(0.3)
        await schedule.stop()
        assert await site.get("/api/jobs") == []
