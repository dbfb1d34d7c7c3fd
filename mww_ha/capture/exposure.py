"""A satellite's counters → hours that each model listened, and captures that never came.

A satellite counts, over restarts, the seconds in which its wake words listened and captures were on. The difference
between two readings is exposure. What cannot be known is not counted, so the hours are at most too few and the rates
at most too high:

- a difference larger than the time between the readings is cut to that time;
- a counter that goes back a little is a restart that lost its last minutes: nothing counts;
- one that goes back further was erased: what it shows now counts;
- when the models changed in between, time is divided at the flash in our records; without one the models that
  came or went get nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from mww_ha.schema import CaptureKind, Exposure
from mww_ha.store import Catalogue, slugify

SAVE_GAP_S = 900.0
"""A satellite writes its counters every ten minutes; a restart loses at most that and a little."""

WHOLE_DEVICE = ""
"""Stands for the model in the rows of a satellite itself: its models listen at once, their hours do not add up."""

_SAFE_MODEL = re.compile(r"[a-z0-9_]{1,64}-[0-9a-f]{8}", re.ASCII)
_MODEL = re.compile(r"(canary )?([a-z0-9_]{1,64})[ -]([0-9a-f]{8})", re.ASCII)
_LONGEST_SLUG = 64
_SHOWN_EVERY_S = 120.0  # every minute, and a little
_MOST_HOURS, _MOST_DROPPED = 1e6, 1e9  # nothing lives that long: such a value is no count


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a satellite says of itself with every upload."""

    device: str
    models: tuple[str, ...]  # <slug>-<sha8>
    listening_s: float
    dropped: int
    at: datetime


def parse_models(text: str) -> list[tuple[bool, str]]:
    """(is it a canary, ``<slug>-<sha8>``) for each model in a satellite's own words.

    They look like ``hey_hall 1a2b3c4d, canary hey_hall 99aabbcc``, as its text sensor "Wake model" says them. What
    does not look like that is left out.
    """
    found = (_MODEL.fullmatch(part.strip()) for part in text.split(","))
    return [(bool(m[1]), f"{m[2]}-{m[3]}") for m in found if m]


def choose_model(text: str, kind: CaptureKind, wake_word: str) -> str:
    """The model that woke, of those a satellite carries; empty when it named none.

    A canary's own for kind canary; else the one whose name is the wake word without a remark in brackets, else the
    first.
    """
    models = parse_models(text)
    wanted = [id for canary, id in models if canary == (kind is CaptureKind.CANARY)] or [id for _, id in models]
    slug = slugify(wake_word.partition("(")[0])[:_LONGEST_SLUG].rstrip("_")
    named = [id for id in wanted if id.rpartition("-")[0] == slug]
    return (named or wanted or [""])[0]


def is_model_id(text: str) -> bool:
    """Whether it is ``<slug>-<sha8>`` and so a safe file name."""
    return _SAFE_MODEL.fullmatch(text) is not None


def read_entities(catalogue: Catalogue, device: str, values: Mapping[str, object], at: datetime) -> Reading | None:
    """What a satellite's entities (by object id, see ``capture.yaml``) say of it; None: no hours, or older than known.

    They are shown once a minute, an upload tells the moment. Without "Wake model" the models are those of the last
    reading.
    """
    hours, dropped, models = (values.get(name) for name in ("listening_hours", "captures_dropped", "wake_model"))
    if not isinstance(hours, int | float) or isinstance(hours, bool) or not 0 <= hours < _MOST_HOURS:
        return None
    last = catalogue.counter(device)
    listening_s = hours * 3600.0
    if last is not None and 0 <= last[2] - listening_s <= _SHOWN_EVERY_S:
        return None
    known = tuple(last[1].split(",")) if last is not None and last[1] else ()
    named = tuple(dict.fromkeys(id for _, id in parse_models(models))) if isinstance(models, str) else known
    count = last[3] if last is not None else 0
    if isinstance(dropped, int | float) and 0 <= dropped < _MOST_DROPPED:
        count = int(dropped)
    return Reading(device=device, models=named, listening_s=listening_s, dropped=count, at=at)


def note_reading(catalogue: Catalogue, reading: Reading, *, known_since: datetime) -> None:
    """Turns a reading into exposure. ``known_since``: when the satellite was let in; before that nothing counts."""
    with catalogue.transaction():
        last = catalogue.counter(reading.device)
        flashed = _last_flash(catalogue, reading.device)
        if last is None:
            begin = max([known_since, *([flashed] if flashed else [])])
            before_models: Sequence[str] = reading.models
            before_s, before_dropped = 0.0, 0
        else:
            begin = datetime.fromisoformat(last[0])
            before_models = last[1].split(",") if last[1] else ()
            before_s, before_dropped = last[2], last[3]
        elapsed_s = (reading.at - begin).total_seconds()
        gained_s, lost = _gains(before_s, before_dropped, reading)
        gained_s = max(0.0, min(gained_s, elapsed_s))
        for model, start, end in _shares(before_models, reading, begin, flashed):
            share = (end - start).total_seconds() / elapsed_s if elapsed_s > 0 else 0.0
            for day, part in _days(start, end):
                seconds = gained_s * share * part
                if seconds > 0:
                    _add(catalogue, reading.device, model, day, seconds, 0)
        for model in (WHOLE_DEVICE, *reading.models) if lost else ():
            _add(catalogue, reading.device, model, _day(reading.at), 0.0, lost)
        models = ",".join(reading.models)
        catalogue.put_counter(reading.device, reading.at.isoformat(), models, reading.listening_s, reading.dropped)


def _gains(before_s: float, before_dropped: int, reading: Reading) -> tuple[float, int]:
    """Seconds and lost captures since the last reading, as the counters say."""
    back_s = before_s - reading.listening_s
    if back_s > SAVE_GAP_S:
        return reading.listening_s, reading.dropped
    return max(0.0, -back_s), max(0, reading.dropped - before_dropped)


def _shares(
    before: Sequence[str], reading: Reading, begin: datetime, flashed: datetime | None
) -> Iterator[tuple[str, datetime, datetime]]:
    """Which model listened from when to when between the readings; the satellite as a whole did all the time."""
    yield WHOLE_DEVICE, begin, reading.at
    for model in sorted({*before, *reading.models}):
        if model in before and model in reading.models:
            yield model, begin, reading.at
        elif flashed is not None and begin <= flashed <= reading.at:
            yield (model, flashed, reading.at) if model in reading.models else (model, begin, flashed)


def _last_flash(catalogue: Catalogue, device: str) -> datetime | None:
    done = [f for f in catalogue.flashes(device) if f.outcome in ("verified", "handed over")]
    return datetime.fromisoformat(done[0].started_at) if done else None


def _days(start: datetime, end: datetime) -> Iterator[tuple[str, float]]:
    """Each day between the two with its share of the time."""
    total_s = (end - start).total_seconds()
    while start < end:
        midnight = start.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        stop = min(midnight, end)
        yield _day(start), (stop - start).total_seconds() / total_s
        start = stop


def _day(moment: datetime) -> str:
    return moment.date().isoformat()


def _add(catalogue: Catalogue, device: str, model: str, day: str, seconds: float, lost: int) -> None:
    catalogue.add_exposure(Exposure(device=device, model=model, day=day, listening_s=seconds, lost=lost))
