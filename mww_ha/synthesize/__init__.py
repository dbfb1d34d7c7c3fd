"""Speech nobody recorded → clips in the catalogue: the wake phrase, what sounds like it, and general speech.

Reads the settings and the voices found; writes ``audio/`` and rows of ``clips`` (labels wake, confusable, speech;
origin synthesized). Every clip has ``worker.CLIP_MARGIN_S`` of pause on both sides of what is said. Planned clips
that are there already are not made again, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mww_ha import errors
from mww_ha.errors import DataError, InputError, ToolError
from mww_ha.schema import Clip, Label, Origin, Progress, ProgressSink, digest, no_progress
from mww_ha.synthesize.plan import (
    SYSTEM_ENGINES,
    TAKE_PREFIX,
    Speed,
    Utterance,
    limit_clips,
    order_voices,
    plan_speech,
    plan_texts,
    share_engines,
    share_time,
)
from mww_ha.synthesize.voices import Voice, child_environment

if TYPE_CHECKING:
    from mww_ha.config import Settings, SynthesizeSettings
    from mww_ha.store import Project

STAGE = "synthesize"
_SPEEDS = "synthesize speeds"  # how fast the slow engines are here: kept, so that a resumed plan is the same plan
_JOB_ITEMS = {"espeak": 48}
_JOB_ITEMS_SLOW = 6
_DROP_AFTER = 8  # clips of a voice before it can be dropped
_DROP_AFTER_FAILED = 3
_DROP_SHARE = 0.5  # of rejected ones


@dataclass(frozen=True, slots=True, kw_only=True)
class SynthesizeResult:
    """What a run did and what the catalogue holds after it."""

    counts: dict[str, int]  # synthesized clips in the catalogue by label
    speech_hours: float  # of label speech
    made: int  # new in this run
    rejected: dict[str, int]  # by reason
    rejected_voices: dict[str, str]  # voices that were dropped, and why
    by_engine: dict[str, int]  # clips in the catalogue
    voices: dict[str, int]  # voices found by engine
    duration_s: float
    warnings: tuple[str, ...]


def run(project: Project, *, report: ProgressSink = no_progress) -> SynthesizeResult:
    """Makes what the settings ask for and is not there yet; forgets planned clips that are no longer asked for.

    Raises PhraseError, InputError, MissingDependencyError, ToolError, DataError, StorageError.
    """
    from mww_ha.synthesize.phrases import check_phrase

    started = time.monotonic()
    settings = project.settings
    phrase = check_phrase(settings.phrase, settings.language)
    report(Progress(stage=STAGE, message="looking for voices"))
    voices = choose_voices(project.root, settings)
    workers = max(1, os.cpu_count() or 1)
    rejected: Counter[str] = Counter()
    dropped: dict[str, str] = {}
    with _pool(min(workers, _MOST_WORKERS)) as pool:
        speeds = _engine_speeds(project, voices, pool)
        plan = make_plan(settings, voices, speeds, workers=len(pool.workers))
        known = {c.take for c in project.catalogue.clips(origin=Origin.SYNTHESIZED) if c.take.startswith(TAKE_PREFIX)}
        _forget(project, known - {utterance.take for utterance in plan})
        todo = [utterance for utterance in plan if utterance.take not in known]
        made = 0
        done = len(plan) - len(todo)
        report(Progress(stage=STAGE, message="speaking", done=done, total=len(plan), unit="clips"))
        ledger = _Ledger(dropped)
        for answer in pool.answers(_jobs(todo, project.root, dropped)):
            clips = [_clip(fields) for fields in answer["clips"]]
            made += project.catalogue.add_clips(clips)
            ledger.note_made(clip.speaker for clip in clips)
            for voice_id, reason, detail in answer["rejected"]:
                rejected[reason] += 1
                ledger.note_rejected(voice_id, reason, detail)
            done += len(clips) + len(answer["rejected"])
            report(Progress(stage=STAGE, message="speaking", done=done, total=len(plan), unit="clips"))
    return _result(project, voices, made, rejected, dropped, phrase.warnings, time.monotonic() - started)


def choose_voices(root: Path, settings: Settings) -> list[Voice]:
    """The voices that the settings allow. Raises InputError for an engine nobody knows, DataError without any."""
    from mww_ha.synthesize.voices import ENGINES, find_voices

    wanted = settings.synthesize.engines
    for engine in wanted:
        if engine not in ENGINES:
            raise InputError(f"synthesize.engines names {engine!r}", hint="known engines: " + ", ".join(ENGINES))
    dirs = [root / "voices", *(Path(d).expanduser() for d in settings.synthesize.voice_dirs)]
    found = find_voices(settings.language, dirs, settings.synthesize.wyoming)
    chosen = [voice for voice in found if not wanted or voice.engine in wanted]
    if not chosen:
        raise DataError(
            f"no voice speaks {settings.language!r}" + (f" in {', '.join(wanted)}" if wanted else ""),
            hint="see: mww-ha voices list; more voices: mww-ha voices download",
        )
    return chosen


def make_plan(
    settings: Settings, voices: Sequence[Voice], speeds: Mapping[str, Speed], *, workers: int
) -> list[Utterance]:
    """All utterances that the settings ask for. Pure: the same arguments give the same plan."""
    from mww_ha.synthesize.confusables import show_confusables
    from mww_ha.synthesize.phrases import spell_phrase

    row = settings.synthesize
    shares = share_engines(voices, system_share=row.system_share)
    ordered = order_voices(voices, row.seed)
    engine_s = _engine_times(row, shares, speeds, workers)
    limits = {
        label: {
            engine: limit_clips(engine, label, speeds, engine_s=seconds, workers=workers)
            for engine, seconds in engine_s.items()
        }
        for label in (Label.WAKE, Label.CONFUSABLE, Label.SPEECH)
    }
    spellings = spell_phrase(settings.phrase)
    plan = plan_texts(
        Label.WAKE,
        [text for text, _ in spellings],
        [weight for _, weight in spellings],
        row.wake_clips,
        ordered,
        shares,
        {engine: short for engine, (short, _) in limits[Label.WAKE].items()},
        row.seed,
    )
    if row.confusable_clips and row.confusable_phrases:
        # The nearest are accents and children's ways of saying the phrase itself ("mirra", "miwwor"): a network that
        # learns to sleep through them sleeps through people.
        listed = show_confusables(settings.phrase, settings.language, row.confusable_phrases)
        confusables = [c for c in listed if c.distance >= row.confusable_distance] or listed
        plan += plan_texts(
            Label.CONFUSABLE,
            [confusable.text for confusable in confusables],
            [_KIND_WEIGHTS.get(confusable.kind, 1.0) for confusable in confusables],
            row.confusable_clips,
            ordered,
            shares,
            {engine: short for engine, (short, _) in limits[Label.CONFUSABLE].items()},
            row.seed,
        )
    plan += plan_speech(
        settings.phrase, settings.language, row.speech_hours, ordered, shares, limits[Label.SPEECH], row.seed
    )
    return list({utterance.take: utterance for utterance in plan}.values())


_SPEECH_CLIP_S = 2.3  # of an average clip of general speech


def _engine_times(
    row: SynthesizeSettings, shares: Mapping[str, float], speeds: Mapping[str, Speed], workers: int
) -> dict[str, float]:
    """Seconds that each slow engine may take: each kind of them has ``row.engine_seconds`` together."""
    wishes: dict[str, dict[str, float]] = {}
    short, speech = row.wake_clips + row.confusable_clips, row.speech_hours * 3600 / _SPEECH_CLIP_S
    for engine, speed in speeds.items():
        if engine in shares:
            # Half as much again: the time is split by label before it is known what each label needs.
            wish_s = 1.5 * shares[engine] * (short * speed.short_s + speech * (speed.short_s + speed.long_s) / 2)
            wishes.setdefault(_time_group(engine), {})[engine] = wish_s / workers
    return {e: s for group in wishes.values() for e, s in share_time(group, row.engine_seconds).items()}


def _time_group(engine: str) -> str:
    return "system" if engine in SYSTEM_ENGINES else engine


def _engine_speeds(project: Project, voices: Sequence[Voice], pool: _Pool) -> dict[str, Speed]:
    """Measured once for a set of voices and kept, so that a resumed plan is the same. A failing one counts as slow."""
    key = digest([voice.id for voice in voices])
    known = project.catalogue.stage(_SPEEDS)
    if known is not None and known[0] == key:
        return {engine: Speed(**speed) for engine, speed in known[1].items()}
    slow = [voice for voice in voices if voice.engine != "espeak"]
    sample = [voice for i, voice in enumerate(slow) if sum(v.engine == voice.engine for v in slow[:i]) < 4]
    texts = [project.settings.phrase, " ".join([project.settings.phrase] * 4)]
    seconds: dict[str, list[list[float]]] = {}
    jobs = ({"measure": asdict(voice), "texts": texts} for voice in sample)
    for voice, answer in pool.numbered_answers(jobs, sample):
        seconds.setdefault(voice.engine, []).append(answer.get("seconds") or [20.0, 20.0])
    speeds = {
        engine: Speed(
            short_s=round(sum(s for s, _ in found) / len(found), 4),
            long_s=round(sum(s for _, s in found) / len(found), 4),
        )
        for engine, found in sorted(seconds.items())
    }
    project.catalogue.finish_stage(_SPEEDS, key, {engine: asdict(speed) for engine, speed in speeds.items()})
    return speeds


def _jobs(todo: Sequence[Utterance], root: Path, dropped: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Slow engines first, so that the workers finish together; utterances of dropped voices are passed over."""
    groups: dict[tuple[str, str], list[Utterance]] = {}
    for utterance in todo:
        groups.setdefault((utterance.voice.engine, utterance.voice.path), []).append(utterance)
    for (engine, _), utterances in sorted(groups.items(), key=lambda group: group[0][0] == "espeak"):
        size = _JOB_ITEMS.get(engine, _JOB_ITEMS_SLOW)
        for start in range(0, len(utterances), size):
            items = [u.as_item() for u in utterances[start : start + size] if u.voice.id not in dropped]
            if items:
                yield {"root": str(root), "items": items}


class _Ledger:
    """Counts what becomes of each voice's clips and fills ``dropped`` with the voices to be given up."""

    def __init__(self, dropped: dict[str, str]) -> None:
        self._dropped = dropped
        self._tried: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()

    def note_made(self, voice_ids: Iterable[str]) -> None:
        """Clips that are good."""
        self._tried.update(voice_ids)

    def note_rejected(self, voice_id: str, reason: str, detail: str) -> None:
        """One that is not. A voice whose engine fails is given up sooner: each failure may cost a timeout."""
        self._tried[voice_id] += 1
        self._rejected[voice_id] += 1
        tried, count = self._tried[voice_id], self._rejected[voice_id]
        if count > _DROP_SHARE * tried and tried >= (_DROP_AFTER_FAILED if reason == "failed" else _DROP_AFTER):
            why = f"{count} of {tried} clips rejected, the last as {reason}"
            self._dropped.setdefault(voice_id, f"{why}: {detail}" if detail else why)


def _clip(fields: Mapping[str, Any]) -> Clip:
    return Clip(**{**fields, "label": Label(fields["label"]), "origin": Origin(fields["origin"])})


def _forget(project: Project, takes: set[str]) -> None:
    """Rows of planned clips that the plan no longer holds, and their files where no other clip needs them."""
    if not takes:
        return
    clips = project.catalogue.clips()
    stale = [clip for clip in clips if clip.origin is Origin.SYNTHESIZED and clip.take in takes]
    needed = {clip.path for clip in clips} - {clip.path for clip in stale}
    needed |= {clip.path for clip in clips if clip.take not in takes}
    project.catalogue.remove_clips(clip.id for clip in stale)
    for clip in stale:
        if clip.path not in needed:
            (project.root / clip.path).unlink(missing_ok=True)


def _result(
    project: Project,
    voices: Sequence[Voice],
    made: int,
    rejected: Counter[str],
    dropped: dict[str, str],
    warnings: tuple[str, ...],
    duration_s: float,
) -> SynthesizeResult:
    clips = [c for c in project.catalogue.clips(origin=Origin.SYNTHESIZED) if c.take.startswith(TAKE_PREFIX)]
    return SynthesizeResult(
        counts=dict(sorted(Counter(str(clip.label) for clip in clips).items())),
        speech_hours=round(sum(clip.duration_s for clip in clips if clip.label is Label.SPEECH) / 3600, 4),
        made=made,
        rejected=dict(sorted(rejected.items())),
        rejected_voices=dict(sorted(dropped.items())),
        by_engine=dict(sorted(Counter(clip.speaker.partition(":")[0] for clip in clips).items())),
        voices=dict(sorted(Counter(voice.engine for voice in voices).items())),
        duration_s=round(duration_s, 3),
        warnings=warnings,
    )


_MOST_WORKERS = 16
_KIND_WEIGHTS = {"prefix": 2.0, "suffix": 2.0, "swapped": 3.0}  # few texts that must not be heard too seldom


class _Pool:
    """Synthesis child processes and a thread for each that carries jobs and answers over its pipes."""

    def __init__(self, count: int) -> None:
        self.workers = [
            subprocess.Popen(
                [sys.executable, "-m", "mww_ha.synthesize.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=child_environment(),
                text=True,
                encoding="utf-8",
            )
            for _ in range(count)
        ]

    def close(self) -> None:
        """Ends the processes, whatever they are doing."""
        for worker in self.workers:
            worker.kill()
        for worker in self.workers:
            worker.wait()
            for pipe in (worker.stdin, worker.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):
                        pipe.close()

    def answers(self, jobs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Answers as they come. Raises what a worker raised; ToolError when one died."""
        for _, answer in self.numbered_answers(jobs, None):
            yield answer

    def numbered_answers(
        self, jobs: Iterable[dict[str, Any]], tags: Sequence[Any] | None
    ) -> Iterator[tuple[Any, dict[str, Any]]]:
        """Answers as they come, each with the tag of its job."""
        lock = threading.Lock()
        source = iter(enumerate(jobs))
        answers: queue.SimpleQueue[tuple[Any, dict[str, Any]] | None] = queue.SimpleQueue()

        def serve(worker: subprocess.Popen[str]) -> None:
            assert worker.stdin is not None
            assert worker.stdout is not None
            while True:
                with lock:
                    number, job = next(source, (-1, None))
                if job is None:
                    break
                try:
                    worker.stdin.write(json.dumps(job) + "\n")
                    worker.stdin.flush()
                    line = worker.stdout.readline()
                except (BrokenPipeError, ValueError, OSError):
                    line = ""
                if not line:
                    answers.put((number, {"error": ["ToolError", "a speech process ended unexpectedly", _died(job)]}))
                    break
                answers.put((number, json.loads(line)))
            answers.put(None)

        threads = [threading.Thread(target=serve, args=(worker,), daemon=True) for worker in self.workers]
        for thread in threads:
            thread.start()
        running = len(threads)
        while running:
            item = answers.get()
            if item is None:
                running -= 1
                continue
            number, answer = item
            if "error" in answer:
                kind, message, hint = answer["error"]
                raise getattr(errors, kind, ToolError)(message, hint=hint)
            yield (tags[number] if tags is not None else None), answer


def _died(job: Mapping[str, Any]) -> str:
    engines = {item["voice"]["engine"] for item in job.get("items", [])} or {job.get("measure", {}).get("engine", "")}
    return f"it was using {', '.join(sorted(engines))}; leave that engine out with synthesize.engines"


@contextmanager
def _pool(count: int) -> Iterator[_Pool]:
    pool = _Pool(count)
    try:
        yield pool
    finally:
        pool.close()
