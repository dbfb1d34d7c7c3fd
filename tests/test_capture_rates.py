"""A field rate counts what people judged over the hours that were listened to, and says beside it what is not known."""

from __future__ import annotations

import dataclasses
import re
from datetime import UTC, datetime, timedelta

import pytest

from mww_ha import metrics
from mww_ha.capture import exposure, keep, rates, review
from mww_ha.capture.rates import FieldRate, Trial, list_trials, measure_field, measure_recall, parse_day
from mww_ha.errors import InputError
from mww_ha.record import people
from mww_ha.schema import Capture, CaptureKind, CaptureScore, Exposure, Flash, Verdict, digest
from mww_ha.store import Project

A, B = "hey_kitchen-1a2b3c4d", "hey_kitchen-5e6f7a8b"
START = datetime(2026, 11, 1, tzinfo=UTC)


def add(project: Project, name: str, verdict: Verdict = Verdict.UNDECIDED, **fields: object) -> Capture:
    moment = START.isoformat(timespec="milliseconds")
    values = {"device": "kitchen", "kind": CaptureKind.DETECTION, "model": A, "captured_at": moment}
    values |= {"received_at": moment, "duration_s": 5.0} | fields
    capture = Capture(id=digest([values["device"], name]), upload=name, sha256="0" * 64, verdict=verdict, **values)
    project.catalogue.add_capture(capture)
    return capture


def listened(project: Project, hours: float, *, device: str = "kitchen", models: tuple[str, ...] = (A,)) -> None:
    for model in ("", *models):
        project.catalogue.add_exposure(
            Exposure(device=device, model=model, day="2026-11-01", listening_s=hours * 3600, lost=0)
        )


def only(found: list[FieldRate]) -> FieldRate:
    assert len(found) == 1
    return found[0]


def test_a_rate_reads_as_people_say_it(project: Project):
    listened(project, 214)
    for number in range(3):
        add(project, f"a-{number}", Verdict.FALSE_ACCEPT)
    add(project, "b", Verdict.WAKE)
    rate = only(measure_field(project))
    assert rate.text() == "3 in 214 h: 0.3 a day [0.1–1.0]"
    assert rate.per_hour == metrics.rate_interval(3, 214.0)
    assert (rate.device, rate.model, rate.wakes, rate.unjudged) == ("kitchen", A, 1, 0)


def test_no_false_accept_still_has_an_upper_end(project: Project):
    listened(project, 24)
    assert only(measure_field(project)).text() == "0 in 24 h: 0.0 a day [0.0–3.7]"


def test_what_nobody_judged_is_named_and_never_counted_as_right(project: Project):
    listened(project, 100)
    add(project, "a", Verdict.FALSE_ACCEPT)
    for number in range(4):
        add(project, f"b-{number}")
    add(project, "c", Verdict.DISCARD)
    rate = only(measure_field(project))
    assert (rate.false_accepts, rate.unjudged, rate.other, rate.wakes) == (1, 4, 1, 0)
    assert rate.worst_per_hour == metrics.rate_interval(5, 100.0).high
    assert rate.text() == "1 in 100 h: 0.2 a day [0.0061–1.3]; 4 not judged, up to 2.8 a day if all were false accepts"


def test_without_listening_hours_or_with_minutes_there_is_no_rate(project: Project):
    add(project, "a", Verdict.FALSE_ACCEPT)
    rate = only(measure_field(project))
    assert rate.per_hour is None
    assert rate.worst_per_hour is None
    assert rate.text() == "1, no listening hours known"
    listened(project, 0.4)
    add(project, "b")
    assert only(measure_field(project)).text() == "1 in 0.4 h: too little for a rate; 1 not judged"


def test_a_detection_and_the_remark_about_it_are_one_event(project: Project):
    listened(project, 10)
    add(project, "a-1", Verdict.FALSE_ACCEPT)
    add(project, "a-2", kind=CaptureKind.FALSE_WAKE, session="a-1")
    add(project, "b-1")
    add(project, "b-2", Verdict.FALSE_ACCEPT, kind=CaptureKind.FALSE_WAKE, session="b-1")
    add(project, "c-2", kind=CaptureKind.FALSE_WAKE, session="lost-on-the-way")
    rate = only(measure_field(project))
    assert (rate.false_accepts, rate.unjudged) == (2, 1)


def test_near_misses_and_prompted_takes_are_no_false_accepts(project: Project):
    listened(project, 10)
    add(project, "a", Verdict.FALSE_ACCEPT, kind=CaptureKind.NEAR_MISS)
    add(project, "b", Verdict.MISSED_WAKE, kind=CaptureKind.NEAR_MISS)
    add(project, "c", Verdict.FALSE_ACCEPT, kind=CaptureKind.PROMPT)
    add(project, "d", kind=CaptureKind.NEAR_MISS)
    rate = only(measure_field(project))
    assert (rate.false_accepts, rate.missed, rate.unjudged) == (0, 1, 0)


def test_rates_by_device_room_and_model_share_out_the_same_events(project: Project):
    listened(project, 10)
    listened(project, 20, device="hall")
    listened(project, 30, device="bath", models=(B,))
    rooms = {"kitchen": "downstairs", "hall": "downstairs", "bath": "upstairs"}
    for number, (device, model) in enumerate([("kitchen", A), ("hall", A), ("hall", A), ("bath", B)]):
        add(project, f"a-{number}", Verdict.FALSE_ACCEPT, device=device, model=model)

    def found(*by: str) -> dict[str, tuple[int, float]]:
        measured = measure_field(project, by=by, rooms=rooms)
        return {rate.device or rate.room or rate.model: (rate.false_accepts, rate.hours) for rate in measured}

    assert found("device") == {"kitchen": (1, 10), "hall": (2, 20), "bath": (1, 30)}
    assert found("room") == {"downstairs": (3, 30), "upstairs": (1, 30)}
    assert found("model") == {A: (3, 30), B: (1, 30)}
    assert found() == {"": (4, 60)}
    with pytest.raises(InputError, match="speaker"):
        measure_field(project, by=("speaker",))


def test_a_canary_has_a_rate_of_its_own_and_adds_nothing_to_its_satellite(project: Project):
    listened(project, 10, models=(A, B))
    add(project, "a", Verdict.FALSE_ACCEPT)
    for number in range(2):
        add(project, f"b-{number}", Verdict.FALSE_ACCEPT, kind=CaptureKind.CANARY, model=B)
    assert {rate.model: rate.false_accepts for rate in measure_field(project)} == {A: 1, B: 2}
    whole = only(measure_field(project, by=("device",)))
    assert (whole.false_accepts, whole.hours) == (1, 10)


def flashed(
    project: Project, day: int, *, canary: str = "", outcome: str = "verified", device: str = "kitchen"
) -> None:
    begun = (START + timedelta(days=day)).isoformat(timespec="seconds")
    values = {"model": A, "wake_model": "", "backend": "esphome", "outcome": outcome, "canary": canary}
    project.catalogue.put_flash(Flash(id=f"{device}-{day}-{outcome}", device=device, started_at=begun, **values))


def test_what_a_canary_and_the_model_beside_it_fired_at_is_paired_event_by_event(project: Project):
    def at(seconds: float, **fields: object) -> dict[str, object]:
        moment = START + timedelta(days=1, seconds=seconds)
        return {"captured_at": moment.isoformat(timespec="milliseconds"), **fields}

    canary = {"kind": CaptureKind.CANARY, "model": B}
    flashed(project, 0)
    flashed(project, 1, canary=B)
    flashed(project, 2, canary=B, outcome="failed")
    flashed(project, 3)
    add(project, "before", Verdict.FALSE_ACCEPT, captured_at=(START + timedelta(hours=5)).isoformat())
    add(project, "after", Verdict.FALSE_ACCEPT, **at(3 * 86_400))
    add(project, "both", Verdict.WAKE, **at(100))
    add(project, "both-2", **at(101.9, **canary))
    add(project, "old", Verdict.FALSE_ACCEPT, **at(200))
    add(project, "new", Verdict.FALSE_ACCEPT, **at(202.1, **canary))
    add(project, "remarked", **at(300))
    add(project, "remark", Verdict.FALSE_ACCEPT, **at(310, kind=CaptureKind.FALSE_WAKE, session="remarked"))
    add(project, "other word", Verdict.FALSE_ACCEPT, **at(400, model="hey_hall-00000000"))
    add(project, "said both", Verdict.WAKE, **at(500))
    add(project, "ways", Verdict.FALSE_ACCEPT, **at(500.5, **canary))
    add(project, "nobody said", **at(600))
    add(project, "elsewhere", Verdict.FALSE_ACCEPT, **at(700, device="hall", **canary))
    for day, model in ((1, B), (2, B), (3, B), (9, B), (2, A)):
        row = {"device": "kitchen", "model": model, "day": f"2026-11-{1 + day:02d}", "listening_s": 36_000.0}
        project.catalogue.add_exposure(Exposure(**row, lost=0))
    (trial,) = list_trials(project)
    assert trial == Trial(
        canary=B,
        model=A,
        devices=("kitchen",),
        hours=30.0,
        events=((True, True, True), (True, False, False), (False, True, False), (True, False, False)),
        unjudged=1,
    )


def test_a_canary_on_several_satellites_is_one_trial_and_goes_on_until_the_next_flash(project: Project):
    for device in ("kitchen", "hall"):
        flashed(project, 0, canary=B, device=device)
        add(project, "a", Verdict.WAKE, device=device, captured_at=(START + timedelta(days=40)).isoformat())
    (trial,) = list_trials(project)
    assert (trial.devices, trial.events, trial.hours) == (("hall", "kitchen"), ((True, False, True),) * 2, 0.0)


def test_deleting_or_expiring_captures_does_not_make_a_model_look_better(project: Project):
    listened(project, 100)
    false = [add(project, f"a-{n}", Verdict.FALSE_ACCEPT) for n in range(3)]
    for number in range(2):
        add(project, f"b-{number}")
    add(project, "b-9", kind=CaptureKind.FALSE_WAKE, session="b-0")
    before = only(measure_field(project))
    people.delete_captures(project, [false[0].id])
    keep.expire(project, at=START + timedelta(days=30))
    assert len(project.catalogue.captures()) == 2
    assert only(measure_field(project)) == before


def test_only_the_days_asked_for_count(project: Project):
    listened(project, 100)
    add(project, "old", Verdict.FALSE_ACCEPT)
    later = (START + timedelta(days=9)).isoformat(timespec="milliseconds")
    add(project, "new", Verdict.FALSE_ACCEPT, captured_at=later)
    project.catalogue.add_exposure(Exposure(device="kitchen", model=A, day="2026-11-10", listening_s=36_000, lost=1))
    rate = only(measure_field(project, since="2026-11-05"))
    assert (rate.false_accepts, rate.hours, rate.lost) == (1, 10, 1)
    assert rate.text().endswith("; 1 lost")


def test_readings_of_a_satellite_give_the_hours_of_its_rate(project: Project):
    for hours in (0, 107, 214):
        reading = exposure.Reading(
            device="kitchen", models=(A,), listening_s=hours * 3600.0, dropped=0, at=START + timedelta(hours=hours)
        )
        exposure.note_reading(project.catalogue, reading, known_since=START)
    for number in range(3):
        add(project, f"a-{number}", Verdict.FALSE_ACCEPT)
    for by in (("device",), ("model",), ("device", "model"), ()):
        assert only(measure_field(project, by=by)).text() == "3 in 214 h: 0.3 a day [0.1–1.0]"


def test_recall_is_of_prompted_takes_that_were_heard_by_the_model_of_their_day(project: Project):
    def take(name: str, heard: bool | None, *, model: str = A, person: str = "anna", by: str = A) -> None:
        capture = add(project, name, kind=CaptureKind.PROMPT, model=model, path="captures/00/x.flac")
        review.judge(project, [capture.id], Verdict.WAKE, by="anna", person=person)
        if heard is not None:
            project.catalogue.put_score(CaptureScore(capture=capture.id, model=by, scored_at="1", reproduced=heard))

    for number in range(10):
        take(f"a-{number}", heard=number != 0)
    take("late", True, by=B)  # another model, which may know the take from its training
    take("unscored", None)
    take("bob", True, person="bob")
    add(project, "nobody judged this", kind=CaptureKind.PROMPT)
    found = {row.person: row for row in measure_recall(project)}
    assert found.keys() == {"anna", "bob"}
    assert found["anna"].recall == metrics.share_interval(9, 10)
    assert found["anna"].text() == "9 of 10: 90 % [55–100]; 2 not scored"
    assert found["bob"].text() == "1 of 1: 100 % [2–100]"


def test_large_and_small_rates_are_written_with_sensible_digits():
    shown = {0.0: "0.0", 0.013: "0.013", 0.26: "0.3", 3.21: "3.2", 44.4: "44"}
    assert {value: rates._short(value) for value in shown} == shown
    one = FieldRate(
        false_accepts=0, wakes=0, other=0, unjudged=0, lost=0, missed=0, hours=2.04,
        per_hour=metrics.rate_interval(0, 2.04),
    )  # fmt: skip
    assert one.text().startswith("0 in 2.0 h")
    assert dataclasses.replace(one, unjudged=1).text().endswith("if all were false accepts")


@pytest.mark.parametrize(
    ("said", "day"),
    [
        ("", ""),
        ("2026-11-05", "2026-11-05"),
        (" 2026-11-05T18:30", "2026-11-05"),
        ("2026-11-05T00:30+01:00", "2026-11-04"),
    ],
)
def test_a_day_may_be_said_as_a_moment(said: str, day: str):
    assert parse_day(said) == day


@pytest.mark.parametrize("said", ["foo", "2026-13-45", "05.11.2026", "0001-01-01T00:00+14:00", "7"])
def test_what_is_no_day_is_refused_with_an_example(project: Project, said: str):
    for measure in (measure_field, measure_recall):
        with pytest.raises(InputError, match=f"since {re.escape(repr(said))} is no day") as refused:
            measure(project, since=said)
        assert "2026-11-01" in refused.value.hint
