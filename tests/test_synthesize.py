"""What the settings ask for is spoken once, by many voices, and every clip is whole, trimmed and accounted for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_piper_voice import write_voice

from mww_ha import audio, config, store, synthesize
from mww_ha.errors import DataError, InputError, PhraseError
from mww_ha.schema import SAMPLE_RATE_HZ, Clip, Label, Origin, Progress
from mww_ha.store import Project
from mww_ha.synthesize import espeak, make_plan, phrases, voices, worker
from mww_ha.synthesize.plan import Speed, count_letters, limit_clips, plan_texts, share_engines, share_time
from mww_ha.synthesize.voices import Voice
from mww_ha.synthesize.worker import CLIP_MARGIN_S, shape_clip

SMALL = {
    "synthesize.wake_clips": "40",
    "synthesize.confusable_clips": "30",
    "synthesize.confusable_phrases": "20",
    "synthesize.speech_hours": "0.02",
    "synthesize.engines": "[espeak]",
}
MARGIN = round(CLIP_MARGIN_S * SAMPLE_RATE_HZ)


def open_small(root: Path, **overrides: str) -> Project:
    return store.open_project(root, SMALL | {f"synthesize.{key}": value for key, value in overrides.items()})


@pytest.fixture
def small(project: Project) -> Project:
    return open_small(project.root)


def small_settings(**overrides: str) -> config.Settings:
    given_rows = SMALL | {f"synthesize.{key}": value for key, value in overrides.items()}
    return config.resolve({"phrase": "hey kitchen"}, given_rows, where="the test")


def spoken(project: Project) -> list[Clip]:
    return project.catalogue.clips(origin=Origin.SYNTHESIZED)


# The run


def test_a_run_makes_what_the_settings_ask_for(small: Project) -> None:
    seen: list[Progress] = []
    result = synthesize.run(small, report=seen.append)
    assert result.counts["wake"] == 40 - sum(result.rejected.values()) or result.counts["wake"] >= 38
    assert result.counts["confusable"] >= 28
    assert 0.014 < result.speech_hours < 0.026
    assert result.by_engine == {"espeak": result.made}
    assert result.made + sum(result.rejected.values()) == seen[-1].done == seen[-1].total
    clips = spoken(small)
    assert len(clips) == result.made == len({clip.take for clip in clips})
    assert len({clip.speaker for clip in clips if clip.label is Label.WAKE}) >= 38
    for clip in clips:
        assert clip.language.startswith("en")
        assert clip.speaker.startswith("espeak:gmw/en")
        assert clip.text
    assert {clip.text.casefold().strip(".!?,").replace(",", "") for clip in clips if clip.label is Label.WAKE} == {
        "hey kitchen"
    }
    assert not any(phrases.contains_phrase(clip.text, "hey kitchen") for clip in clips if clip.label is not Label.WAKE)


def test_every_clip_has_the_same_margin_around_what_is_said(small: Project) -> None:
    synthesize.run(small)
    for clip in spoken(small):
        samples = audio.read_samples(small.root / clip.path)
        assert samples.size == round(clip.duration_s * SAMPLE_RATE_HZ)
        start, end = worker.find_speech(samples)
        # Found a second time, on another grid of frames, each end may move by a frame of 10 ms.
        assert abs(start - MARGIN) <= 160
        assert abs(samples.size - MARGIN - end) <= 160


def test_a_second_run_makes_nothing(small: Project) -> None:
    first = synthesize.run(small)
    ids = [clip.id for clip in spoken(small)]
    second = synthesize.run(small)
    assert second.made == 0
    assert second.counts == first.counts
    assert [clip.id for clip in spoken(small)] == ids


def test_more_clips_are_added_to_those_that_are_there(small: Project) -> None:
    synthesize.run(small)
    before = {clip.id for clip in spoken(small)}
    larger = open_small(small.root, wake_clips="60")
    result = synthesize.run(larger)
    larger.catalogue.close()
    assert 18 <= result.made <= 22
    assert before <= {clip.id for clip in spoken(small)}


def test_clips_of_another_phrase_are_forgotten_and_recordings_stay(small: Project) -> None:
    synthesize.run(small)
    tone = (3000 * np.sin(np.arange(16_000) / 5)).astype(np.int16)
    recorded = audio.add_clip(small.root, tone, label=Label.WAKE, origin=Origin.RECORDED, speaker="anna")
    other = audio.add_clip(
        small.root, -tone, label=Label.SPEECH, origin=Origin.SYNTHESIZED, speaker="somebody", take="x"
    )
    small.catalogue.add_clips([recorded, other])
    stale = [clip for clip in spoken(small) if clip.label is Label.WAKE]
    text = (small.root / store.PROJECT_FILE).read_text("utf-8").replace("hey kitchen", "hello garden")
    store.write_text(small.root / store.PROJECT_FILE, text)
    changed = open_small(small.root)
    synthesize.run(changed)
    changed.catalogue.close()
    clips = small.catalogue.clips()
    assert {recorded.id, other.id} <= {clip.id for clip in clips}
    assert not {clip.id for clip in stale} & {clip.id for clip in clips}
    assert not any((small.root / clip.path).exists() for clip in stale)
    assert all((small.root / clip.path).exists() for clip in clips)


def _start_run(root: Path) -> subprocess.Popen[str]:
    script = (
        "import sys; from pathlib import Path; from mww_ha import store, synthesize\n"
        "project = store.open_project(Path(sys.argv[1]), dict(a.split('=', 1) for a in sys.argv[2:]))\n"
        "synthesize.run(project, report=lambda p: print(p.done, flush=True))\n"
    )
    overrides = SMALL | {"synthesize.wake_clips": "1200"}
    return subprocess.Popen(
        [sys.executable, "-c", script, str(root), *(f"{key}={value}" for key, value in overrides.items())],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=voices.child_environment(),
        start_new_session=True,
    )


def _children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks into /proc")
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_leaves_no_process_and_goes_on_where_it_stopped(project: Project, signal_number: int) -> None:
    with _start_run(project.root) as process:
        assert process.stdout is not None
        while float(process.stdout.readline() or "1000000") < 60:
            pass
        children = _children(process.pid)
        assert children
        if signal_number == signal.SIGINT:
            os.killpg(process.pid, signal_number)  # as a terminal does: to the workers too
        else:
            process.kill()
        process.communicate()
    until = time.monotonic() + 60
    while any(map(_is_running, children)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not any(map(_is_running, children))
    kept = {clip.take for clip in spoken(project)}
    assert len(kept) >= 50
    assert all((project.root / clip.path).exists() for clip in spoken(project))
    smaller = open_small(project.root, wake_clips="100")
    result = synthesize.run(smaller)
    smaller.catalogue.close()
    clips = spoken(project)
    assert len(clips) == len({clip.take for clip in clips})
    assert result.made < len(clips)


def test_a_silent_voice_is_given_up_and_named(project: Project) -> None:
    folder = project.root / "voices"
    write_voice(folder, "en_US-mute-low", silent=True)
    write_voice(folder, "en_US-toy-low")
    mixed = open_small(project.root, engines="[piper]", wake_clips="60")
    result = synthesize.run(mixed)
    mixed.catalogue.close()
    assert list(result.rejected_voices) == ["piper:en_US-mute-low"]
    assert result.rejected["silent"] >= 8
    assert result.by_engine["piper"] > 0
    assert not any(clip.speaker == "piper:en_US-mute-low" for clip in spoken(project))


def test_a_speech_server_speaks_in_a_run(project: Project) -> None:
    script = Path(__file__).with_name("toy_speech_server.py")
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=voices.child_environment()
    ) as server:
        assert server.stdout is not None
        address = f"wyoming://127.0.0.1:{server.stdout.readline().strip()}"
        served = open_small(project.root, engines="[wyoming]", wyoming=f"['{address}']", wake_clips="10")
        result = synthesize.run(served)
        served.catalogue.close()
        server.kill()
    assert set(result.by_engine) == {"wyoming"}
    assert {clip.speaker for clip in spoken(project)} == {"wyoming:toy/en_US-toy:f2", "wyoming:toy/en_US-toy:m3"}


test_a_speech_server_speaks_in_a_run = pytest.mark.filterwarnings(
    "ignore:.audioop. is deprecated:DeprecationWarning"  # by the package wyoming, before Python 3.13
)(test_a_speech_server_speaks_in_a_run)


@pytest.mark.parametrize(("phrase", "language"), [("hallo küche", "de"), ("dis maison", "fr"), ("hoi keuken", "nl")])
def test_other_languages_are_spoken_by_their_own_voices(tmp_path: Path, phrase: str, language: str) -> None:
    made = store.create_project(tmp_path / language, phrase, language=language)
    made.catalogue.close()
    other = open_small(made.root, wake_clips="12", confusable_clips="12", speech_hours="0.005")
    result = synthesize.run(other)
    other.catalogue.close()
    assert result.counts["wake"] >= 11
    assert all(clip.language.startswith(language) for clip in spoken(open_small(made.root)))


def test_an_engine_nobody_knows_is_refused(project: Project) -> None:
    odd = open_small(project.root, engines="[espeke]")
    with pytest.raises(InputError, match="espeke"):
        synthesize.run(odd)
    odd.catalogue.close()


def test_without_a_voice_the_error_says_where_to_get_one(project: Project) -> None:
    none = open_small(project.root, engines="[piper]")
    with pytest.raises(DataError) as error:
        synthesize.run(none)
    none.catalogue.close()
    assert "voices download" in error.value.hint


def test_a_phrase_that_cannot_be_said_stops_the_run_before_any_work(tmp_path: Path) -> None:
    made = store.create_project(tmp_path / "p", "...")
    with pytest.raises(PhraseError):
        synthesize.run(made)
    made.catalogue.close()


# The plan


def test_the_same_settings_give_the_same_plan_and_another_seed_another() -> None:
    found = voices.find_espeak_voices("en")
    first = make_plan(small_settings(), found, {}, workers=2)
    assert first == make_plan(small_settings(), found[::-1], {}, workers=2)
    assert {u.take for u in first} != {u.take for u in make_plan(small_settings(seed="2"), found, {}, workers=2)}


def test_a_larger_plan_holds_the_smaller_one() -> None:
    found = voices.find_espeak_voices("en")
    small_plan = make_plan(small_settings(), found, {}, workers=2)
    larger = make_plan(small_settings(wake_clips="90", speech_hours="0.05"), found, {}, workers=2)
    assert {u.take for u in small_plan} <= {u.take for u in larger}


def test_general_speech_has_short_utterances_and_sentences() -> None:
    found = voices.find_espeak_voices("en")
    plan = make_plan(small_settings(speech_hours="0.3", wake_clips="0"), found, {}, workers=2)
    lengths = [len(u.text.split()) for u in plan if u.label is Label.SPEECH]
    assert 0.4 < np.mean(np.array(lengths) <= 4) < 0.7
    assert max(lengths) >= 12


def test_speech_never_holds_a_common_word_that_is_the_phrase() -> None:
    found = voices.find_espeak_voices("en")
    row = {"phrase": "because"}
    plan = make_plan(config.resolve(row, SMALL | {"synthesize.speech_hours": "0.5"}, where="x"), found, {}, workers=2)
    assert not any(phrases.contains_phrase(u.text, "because") for u in plan if u.label is not Label.WAKE)


def _voices(**counts: int) -> list[Voice]:
    return [Voice(engine=e, name=str(i), language="en") for e, count in counts.items() for i in range(count)]


@given(st.dictionaries(st.sampled_from(voices.ENGINES), st.integers(1, 300), min_size=1), st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_shares_sum_to_one_and_keep_the_programs_in_bounds(counts: dict[str, int], share: float) -> None:
    shares = share_engines(_voices(**counts), system_share=share)
    assert sum(shares.values()) == pytest.approx(1)
    system = sum(s for e, s in shares.items() if e in ("flite", "festival", "pico", "rhvoice", "mbrola"))
    if any(e in ("espeak", "piper", "wyoming") for e in counts):
        assert system <= share + 1e-9


def test_an_engine_of_few_voices_is_heard_beside_one_of_hundreds() -> None:
    shares = share_engines(_voices(espeak=800, piper=1, flite=4), system_share=0.35)
    assert shares["espeak"] > shares["flite"] > shares["piper"] > 0.05


@given(st.integers(0, 200), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_what_a_slow_engine_cannot_make_in_time_others_make(count: int, limit: int) -> None:
    by_engine = {"espeak": _voices(espeak=3), "flite": _voices(flite=2)}
    plan = plan_texts(Label.WAKE, ["hi"], [1.0], count, by_engine, {"espeak": 0.5, "flite": 0.5}, {"flite": limit}, 1)
    made = Counter(u.voice.engine for u in plan)
    assert sum(made.values()) == count
    assert made["flite"] <= limit


@given(st.dictionaries(st.sampled_from(voices.ENGINES), st.floats(0, 1000), min_size=1), st.floats(0, 100))
def test_time_is_shared_without_waste(wishes: dict[str, float], budget_s: float) -> None:
    given_s = share_time(wishes, budget_s)
    assert sum(given_s.values()) == pytest.approx(min(budget_s, sum(wishes.values())), abs=1e-6)
    assert all(given_s[engine] <= wish + 1e-9 for engine, wish in wishes.items())
    fewest = min(given_s.values())
    assert all(given_s[e] == pytest.approx(wishes[e]) for e in wishes if given_s[e] < max(given_s.values()) - 1e-6)
    assert fewest >= 0


def test_a_slow_engine_gets_no_more_clips_than_its_time_allows() -> None:
    speeds = {"festival": Speed(short_s=0.5, long_s=2.0)}
    numbers = [limit_clips("festival", label, speeds, engine_s=20, workers=2) for label in Label if label in _SPOKEN]
    assert 15 < sum(short * 0.5 + long * 2.0 for short, long in numbers) <= 40


_SPOKEN = (Label.WAKE, Label.CONFUSABLE, Label.SPEECH)


def test_every_voice_is_heard_before_one_is_heard_twice_more_than_another() -> None:
    found = voices.find_espeak_voices("de")
    plan = make_plan(small_settings(wake_clips=str(3 * len(found))), found, {}, workers=2)
    heard = Counter(u.voice.id for u in plan if u.label is Label.WAKE)
    assert set(heard.values()) == {3}


def test_respelled_texts_go_to_espeak_only() -> None:
    found = [*voices.find_espeak_voices("en")[:20], *_voices(flite=4)]
    plan = make_plan(small_settings(confusable_clips="300"), found, {}, workers=2)
    assert any("[[" in u.text for u in plan)
    assert not any("[[" in u.text and u.voice.engine != "espeak" for u in plan)


@given(st.integers(0, 1 << 30))
@settings(max_examples=50, deadline=None)
def test_sentences_have_three_to_fourteen_words(seed: int) -> None:
    vocabulary = phrases.load_vocabulary("en")
    rng = np.random.default_rng(seed)
    assert 3 <= len(phrases.draw_sentence(vocabulary, rng).split()) <= 14
    assert 1 <= len(phrases.draw_utterance(vocabulary, rng).split()) <= 4


def test_spellings_say_the_phrase_and_their_weights_sum_to_one() -> None:
    spellings = phrases.spell_phrase("hey kitchen")
    assert sum(weight for _, weight in spellings) == pytest.approx(1)
    engine, voice = espeak.load(), voices.phoneme_voice("en")
    said = {tuple(p for w in engine.phonemes([t], voice)[0] for p in w if p) for t, _ in spellings}
    assert len(said) == 1


# The clip


def _word(duration_s: float = 0.6, level: float = 0.3, rate_hz: int = 22_050, tail_s: float = 0.3) -> np.ndarray:
    time_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    word = level * np.sin(2 * np.pi * 300 * time_s) * np.sin(np.pi * time_s / duration_s) ** 0.3
    return audio.float_to_int16(np.concatenate([np.zeros(rate_hz // 10), word, np.zeros(round(tail_s * rate_hz))]))


def _shape(samples: np.ndarray, rate_hz: int = 22_050) -> np.ndarray | str:
    return shape_clip(samples, rate_hz, min_s=0.2, max_s=3.0)


def test_a_good_clip_keeps_its_level_and_gets_its_margins() -> None:
    clip = _shape(_word())
    assert not isinstance(clip, str)
    assert clip.size == pytest.approx(0.6 * SAMPLE_RATE_HZ + 2 * MARGIN, abs=640)
    assert np.abs(clip).max() == pytest.approx(0.3 * 32768, rel=0.03)
    assert np.abs(clip[: MARGIN // 2]).max() < 300
    assert np.abs(clip[-MARGIN // 2 :]).max() < 300


@given(st.floats(0.25, 2.5), st.floats(0.02, 0.9), st.sampled_from([8000, 16_000, 22_050, 24_000, 48_000]))
@settings(max_examples=40, deadline=None)
def test_margins_are_exact_at_every_rate_and_level(duration_s: float, level: float, rate_hz: int) -> None:
    clip = _shape(_word(duration_s, level, rate_hz), rate_hz)
    assert not isinstance(clip, str)
    assert clip.dtype == np.int16
    start, end = worker.find_speech(clip)
    assert abs(start - MARGIN) <= 160
    assert abs(clip.size - MARGIN - end) <= 160


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(0, np.int16), "silent"),
        (np.zeros(22_050, np.int16), "silent"),
        (np.full(22_050, 3, np.int16), "silent"),
        (audio.float_to_int16(np.clip(audio.int16_to_float(_word()) * 8, -1, 1)), "clipped"),
        (_word(tail_s=0.0)[: round(0.4 * 22_050)], "truncated"),
        (_word(0.1), "truncated"),
        (_word(4.0), "drawn out"),
    ],
    ids=["empty", "zeros", "almost zeros", "clipped", "cut off", "too short", "too long"],
)
def test_a_bad_clip_is_rejected_with_its_reason(samples: np.ndarray, reason: str) -> None:
    assert _shape(samples) == reason


def test_more_text_takes_longer_in_every_script() -> None:
    assert count_letters("hey kitchen") == 10
    assert count_letters("12") == count_letters("abcdefgh")
    assert count_letters("你好") == 6


def test_the_worker_rejects_instead_of_failing_when_an_engine_fails(tmp_path: Path) -> None:
    item = make_plan(small_settings(), voices.find_espeak_voices("en")[:1], {}, workers=2)[0].as_item()
    item["voice"] = {**item["voice"], "name": "gmw/nobody"}  # type: ignore[dict-item]
    made = worker.Worker().make_clip(tmp_path, item)
    assert isinstance(made, tuple)
    assert made[0] == "failed"
    assert "nobody" in made[1]
