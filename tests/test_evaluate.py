"""A report says what the device would do on this sound, and no rate in it stands without hours and interval."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mww_ha import audio, detector
from mww_ha.errors import InputError, ManifestError, StorageError
from mww_ha.evaluate import (
    AmbientTrace,
    LureTrace,
    Report,
    Series,
    TraceSet,
    WakeEvent,
    choose_levels,
    evaluate_traces,
    folders,
)
from mww_ha.evaluate import curve as curves
from mww_ha.evaluate.report import render_report
from mww_ha.schema import Interval, Progress
from mww_ha.trials import REACTION_S

HOUR = 120_000  # scores in an hour


def _trace(length: int, *peaks: tuple[int, int], width: int = 8) -> np.ndarray:
    scores = np.zeros(length, np.uint8)
    for at, height in peaks:
        scores[at : at + width] = height
    return scores


def _wake(name: str, height: int, *, voice: str = "anna", condition: str = "quiet") -> WakeEvent:
    return WakeEvent(
        clip=name, voice=voice, condition=condition, scores=_trace(300, (220, height)), start_step=210, end_step=260
    )


def _ambient(kind: str, hours: float, *peaks: tuple[int, int], name: str = "") -> AmbientTrace:
    return AmbientTrace(
        name=name or kind,
        kind=kind,
        scores=_trace(round(hours * HOUR), *peaks),
        hours=hours,
        speech_hours=hours / 2,
        marks=((0, "a.flac"), (5000, "b.flac")),
    )


@pytest.fixture
def traces() -> TraceSet:
    return TraceSet(
        wake=[_wake(f"w{i}.flac", 100 + 15 * i, voice=("anna", "ben")[i % 2]) for i in range(10)],
        ambient=[
            _ambient("synthetic ambient", 4, (1000, 90), (6000, 150), (50_000, 200)),
            _ambient("real ambient", 1, (7000, 180)),
        ],
        lures=[
            LureTrace(name="l1", text="hey kitten", scores=_trace(300, (220, 170)), start_step=200),
            LureTrace(name="l2", text="hey kitten", scores=_trace(300, (220, 20)), start_step=200),
            LureTrace(name="l3", text="okay", scores=_trace(300), start_step=200),
        ],
    )


def _report(traces: TraceSet, **changes) -> Report:
    values = {"phrase": "hey kitchen", "model": "hey_kitchen.tflite", "made_at": "2026-11-20T10:00:00+00:00"}
    return evaluate_traces(traces, traces, **{**values, **changes})


# --- Curves ----------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.tuples(st.sampled_from([0, 2, 60, 140, 220, 255]), st.integers(1, 50)), min_size=1, max_size=10),
    st.integers(0, 200),
    st.integers(1, 120),
    st.sampled_from([1, 3, 5, 10]),
)
def test_wakes_are_found_as_the_detector_finds_them(runs, start, length, window):
    scores = np.concatenate([np.full(count, value, np.uint8) for value, count in runs])
    end = min(start + length, len(scores))
    found = curves.find_wakes(scores, window, start, start + length, stride=3, warmup_slices=100)
    for cutoff in range(0, 256, 5):
        slices = [d.slice for d in detector.detect(scores[:end], cutoff=cutoff, window=window)]
        assert found[cutoff] == any(s >= (start + 1) * 3 - 1 for s in slices), cutoff


def test_a_word_that_comes_while_the_detector_cools_off_is_missed():
    scores = _trace(300, (205, 250), (220, 250))
    hits = curves.find_wakes(scores, 5, 218, 260, stride=3, warmup_slices=100)
    assert not hits[200]  # woken too early by what came before
    assert curves.find_wakes(scores, 5, 200, 260, stride=3, warmup_slices=100)[200]


def test_kinds_of_ambient_sound_are_never_mixed(traces):
    by_kind = curves.build_curves(traces, 5)
    assert list(by_kind) == ["synthetic ambient", "real ambient"]
    assert {kind: c.hours for kind, c in by_kind.items()} == {"synthetic ambient": 4, "real ambient": 1}
    assert {kind: int(c.false_accepts[140]) for kind, c in by_kind.items()} == {
        "synthetic ambient": 2,
        "real ambient": 1,
    }


def test_to_choose_all_hours_count_and_the_worst_kind_has_a_vote_when_its_hours_allow_one(traces):
    joined = curves.join_curves(curves.build_curves(traces, 5), 0.5)
    assert (joined.hours, int(joined.false_accepts[140])) == (5, 3)
    assert joined.worst_rate is not None
    assert joined.worst_rate[140] == 2 / 4  # one real hour is too short to vote on 0.5 per hour
    assert curves.join_curves(curves.build_curves(traces, 5), 1.0).worst_rate[140] == 1.0


# --- Operating points ------------------------------------------------------------------------------------------------


def test_cutoffs_are_chosen_on_validation_and_judged_on_test(traces):
    worse = TraceSet(
        wake=[_wake("t1", 250), _wake("t2", 60)],
        ambient=[_ambient("real ambient", 2, (1000, 255), (9000, 255), (20_000, 255))],
    )
    report = evaluate_traces(
        traces, worse, phrase="hey kitchen", model="m", made_at="2026-11-20T10:00:00+00:00", windows=(5,)
    )
    chosen = choose_levels(traces, windows=(5,))
    assert {level.name: level.cutoff for level in report.levels} == {name: p.cutoff for name, p in chosen.items()}
    medium = report.level()
    assert medium is not None
    assert medium.recall is not None
    assert (medium.recall.events, medium.recall.exposure) == (1, 2)
    (rate,) = medium.rates
    assert (rate.kind, rate.per_hour.events, rate.per_hour.exposure) == ("real ambient", 3, 2)
    assert rate.per_speech_hour is not None
    assert rate.per_speech_hour.exposure == 1
    assert "4 h of synthetic ambient, 1 h of real ambient" in report.chosen_on


def test_the_three_levels_have_cutoffs_that_are_apart(traces):
    levels = choose_levels(traces)
    assert levels["low"].cutoff > levels["medium"].cutoff > levels["high"].cutoff
    assert len({point.window for point in levels.values()}) == 1


def test_the_chosen_cutoff_detects_as_its_report_says(traces):
    report = _report(traces, windows=(5,))
    medium = report.level()
    assert medium is not None
    heard = sum(
        bool(detector.detect(event.scores, cutoff=medium.cutoff, window=medium.window)) for event in traces.wake
    )
    assert medium.recall is not None
    assert medium.recall.events == heard
    assert len(report.misses) == len(traces.wake) - heard
    for rate in medium.rates:
        events = sum(
            len(detector.detect(trace.scores, cutoff=medium.cutoff, window=medium.window))
            for trace in traces.ambient
            if trace.kind == rate.kind
        )
        assert rate.per_hour.events == events
    assert detector.cutoff_of_probability(medium.probability) == medium.cutoff


def test_false_accepts_are_listed_with_file_and_time(traces):
    report = _report(traces, budget_per_hour=2.0, windows=(5,))
    found = {(item.kind, item.name) for item in report.false_accepts}
    assert ("synthetic ambient", "b.flac") in found
    item = next(i for i in report.false_accepts if i.kind == "real ambient")
    assert item.time_s == pytest.approx((7000 - 5000) * 0.03, abs=0.4)


def test_a_model_without_a_usable_cutoff_is_called_saturated():
    full = TraceSet(
        wake=[_wake("w", 255)], ambient=[_ambient("real ambient", 2, *((i * 100 + 50, 255) for i in range(60)))]
    )
    report = _report(full, windows=(3, 5))
    assert any("No cutoff keeps 0.5" in warning for warning in report.warnings)
    assert any("pile up" in warning for warning in report.warnings)


# --- The page --------------------------------------------------------------------------------------------------------


class _Page(html.parser.HTMLParser):
    """Open tags, and every address that a browser would load."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in {"src", "href", "srcset", "data"}]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def _parse(text: str) -> _Page:
    page = _Page()
    page.feed(text)
    page.close()
    assert page.open == []
    return page


def test_the_page_needs_nothing_beside_it_and_is_well_formed(traces):
    lines = (
        Series(plot="loss", name="training", x=(0, 100, 200), y=(1.0, 0.5, float("nan"))),
        Series(plot="loss", name="validation", x=(0, 100), y=(1.0, 0.6)),
    )
    report = _report(traces, provenance={"run": "abc<script>"})
    report = Report(**{**_fields(report), "training": lines})
    text = render_report(report)
    page = _parse(text)
    assert page.addresses == []
    assert "script" not in page.tags
    assert "@import" not in text
    assert "url(" not in text
    assert page.tags.count("svg") == 4  # trade-off, two histograms, loss
    assert "nan" not in re.sub(r"[a-z]+nan|nan[a-z]+", "", text.lower())


def _fields(report: Report) -> dict:
    return {name: getattr(report, name) for name in Report.__dataclass_fields__}


def test_names_from_outside_cannot_become_markup(traces):
    bad = '"><img src=x onerror=alert(1)>'
    evil = TraceSet(
        wake=[_wake(bad, 60, voice=bad, condition=bad), _wake(bad, 60, voice="b", condition="c")],
        ambient=[_ambient(bad, 2, (1000, 250), name=bad)],
        lures=[LureTrace(name=bad, text=bad, scores=_trace(300, (220, 250)), start_step=200)],
    )
    text = render_report(_report(evil, phrase=bad, model=bad, provenance={bad: bad}))
    assert "img" not in _parse(text).tags


def test_an_empty_report_is_still_a_page():
    text = render_report(Report(phrase="hey kitchen", model="m", made_at="2026-11-20T10:00:00+00:00"))
    assert "hey kitchen" in text
    assert "svg" not in _parse(text).tags


def _intervals(value) -> list[Interval]:
    if isinstance(value, Interval):
        return [value]
    if isinstance(value, tuple | list):
        return [found for item in value for found in _intervals(item)]
    if hasattr(value, "__dataclass_fields__"):
        return [found for name in value.__dataclass_fields__ for found in _intervals(getattr(value, name))]
    return []


def test_every_rate_and_share_rests_on_something_and_lies_in_its_interval(traces):
    found = _intervals(_report(traces))
    assert len(found) > 15
    for interval in found:
        assert interval.exposure > 0
        assert interval.low <= interval.value <= interval.high
        assert interval.low < interval.high


def test_the_document_is_strict_json(traces):
    text = json.dumps(_report(traces).as_json(), allow_nan=False)
    document = json.loads(text)
    assert document["levels"][1]["recall"]["unit"] == "share"
    assert document["curves"][0]["kind"] == "synthetic ambient"


def test_the_terminal_form_names_hours_and_interval_with_every_rate(traces):
    for line in _report(traces).text().splitlines():
        if re.match(r" +[a-z]+ ambient: ", line):
            assert re.search(r"\(\d+ in [\d.]+ h; [\d.]+ to [\d.]+\)", line), line
        if "wakes on" in line:
            assert re.search(r"\(\d+ of \d+; \d+ to \d+ %\)", line), line


# --- Folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def manifest() -> Path:
    package = pytest.importorskip("pymicro_wakeword")
    return Path(package.__file__).parent / "models" / "alexa.json"


@pytest.fixture(scope="session")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``wake``, ``lures`` and ``ambient`` spoken by espeak-ng, and a folder of noise."""
    pytest.importorskip("espeakng_loader")
    import soxr

    from mww_ha.synthesize import espeak

    root = tmp_path_factory.mktemp("sounds")
    engine = espeak.load()

    def say(path: str, text: str, voice: str) -> None:
        said = soxr.resample(engine.speak(text, voice).astype(np.float32) / 32768, engine.rate_hz, 16000)
        audio.write_flac(root / path, audio.float_to_int16(said))

    for voice in ("en-US", "en", "en-US+f3"):
        say(f"wake/{voice}/0.flac", "alexa", f"gmw/{voice}")
        say(f"lures/good morning/{voice}.flac", "good morning", f"gmw/{voice}")
        say(f"ambient/{voice}.flac", "Today it rains in the north and the trains are late. " * 3, f"gmw/{voice}")
    noise = np.random.default_rng(0).standard_normal(16000 * 8) * 0.01
    audio.write_flac(root / "noise" / "hiss.flac", audio.float_to_int16(noise))
    return root


def test_any_manifest_is_judged_on_folders_without_a_project(manifest, sounds, tmp_path):
    heard: list[Progress] = []
    report = folders.evaluate_model(
        manifest,
        sounds / "wake",
        sounds / "ambient",
        sounds / "lures",
        json_out=tmp_path / "out.json",
        html_out=tmp_path / "out.html",
        processes=1,
        report=heard.append,
    )
    (level,) = report.levels
    assert (level.name, level.cutoff, level.window) == ("manifest", 229, 5)
    assert level.recall is not None
    assert (level.recall.events, level.recall.exposure) == (3, 3)
    (rate,) = level.rates
    seconds = sum(len(audio.read_audio(path)) for path in (sounds / "ambient").iterdir()) / 16000
    assert rate.per_hour.exposure == pytest.approx(seconds / 3600)
    assert {row.name for row in report.voices} == {"en", "en-US", "en-US+f3"}
    assert report.lures_all is not None
    assert (report.lures_all.events, report.lures_all.exposure) == (0, 3)
    assert json.loads((tmp_path / "out.json").read_text())["phrase"] == "Alexa"
    assert "Alexa" in (tmp_path / "out.html").read_text()
    assert {p.unit for p in heard} == {"clips", "files"}
    assert all(p.done <= p.total for p in heard)


def test_processes_do_not_change_what_is_measured(manifest, sounds, monkeypatch):
    where = (manifest, sounds / "wake", sounds / "ambient")
    one = folders.evaluate_model(*where, background=sounds / "noise", processes=1)
    monkeypatch.setattr(folders, "_CLIPS_A_TASK", 1)
    two = folders.evaluate_model(*where, background=sounds / "noise", processes=2)
    assert one.curves == two.curves
    assert one.histogram == two.histogram


def test_a_clip_stands_in_running_sound_at_the_stated_distance():
    rng = np.random.default_rng(0)
    clip = audio.float_to_int16(np.concatenate([np.zeros(8000), 0.3 * np.sin(np.arange(16000) * 0.3), np.zeros(8000)]))
    bed = audio.float_to_int16(rng.standard_normal(50_000) * 0.002)
    mixed, start, end = folders.place_clip(clip, bed, 20.0, rng)
    lead = round(folders.LEAD_S * 16000)
    assert lead >= 16000 * 4
    word = 0.3**2 / 2
    under = np.mean(audio.int16_to_float(mixed[:lead]).astype(float) ** 2)
    assert 10 * np.log10(word / under) == pytest.approx(20, abs=0.5)
    assert lead + 5000 < start < lead + 8000 + 200
    assert lead + 24000 - 200 < end < lead + 27000
    assert len(mixed) >= end + REACTION_S * 16000


def test_speech_counts_as_speech_and_steady_noise_does_not(sounds):
    speech = audio.read_audio(sounds / "ambient" / "en.flac")
    noise = audio.read_audio(sounds / "noise" / "hiss.flac")
    assert folders.speech_seconds(speech) > 0.6 * len(speech) / 16000
    assert folders.speech_seconds(noise) == 0.0
    assert folders.speech_seconds(noise[:100]) == 0.0


def test_files_that_cannot_be_used_are_named_and_the_rest_is_judged(manifest, sounds, tmp_path):
    folder = tmp_path / "wake"
    for name in ("a.wav", "b.flac"):
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"this is no sound")
    audio.write_flac(folder / "silent.flac", np.zeros(16000, np.int16))
    audio.write_flac(folder / "good.flac", audio.read_audio(sounds / "wake" / "en" / "0.flac"))
    report = folders.evaluate_model(manifest, folder, processes=1)
    assert report.wake_clips == 1
    (warning,) = report.warnings
    assert warning.startswith(f"left out 3 of 4 files in {folder}")


@pytest.mark.parametrize("part", ["wake", "ambient", "lures"])
def test_a_folder_without_usable_sound_is_an_error(manifest, tmp_path, part):
    empty = tmp_path / "empty"
    with pytest.raises(InputError, match="is missing"):
        folders.evaluate_model(manifest, **{part: empty})
    empty.mkdir()
    with pytest.raises(InputError, match="holds no sound files"):
        folders.evaluate_model(manifest, **{part: empty})
    (empty / "a.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError, match="none of the 1 files"):
        folders.evaluate_model(manifest, **{part: empty}, processes=1)


@pytest.mark.parametrize("out", ["json_out", "html_out"])
def test_a_report_that_could_not_be_written_is_refused_before_the_work(manifest, tmp_path, out):
    with pytest.raises(StorageError, match="/dev/null is not a folder"):
        folders.evaluate_model(manifest, tmp_path / "no sounds", **{out: Path("/dev/null/x")})


def test_nothing_to_judge_on_and_no_model_are_errors(manifest, tmp_path):
    with pytest.raises(InputError, match="nothing to judge"):
        folders.evaluate_model(manifest)
    with pytest.raises(ManifestError, match="is missing"):
        folders.evaluate_model(tmp_path / "none.json", tmp_path)
