"""The stages in order, and which of them are out of date. Read this first.

    synthesize   voices say the phrase, what sounds like it, and sentences            → clips
    prepare      clips, split by voice, placed in running background                   → a feature set
    train        MixedNet learns; weights are chosen on the INT8 file                  → a run
    evaluate     the run's file hears voices and hours it never saw                    → a report
    export       the file is checked against the device's arithmetic                   → a model, vouched for
    render       model and board                                                       → YAML that ESPHome accepts
    flash        compiled, sent, and asked over its API what it runs                   → a satellite that answers
    capture      what the satellite heard, judged by a person                          → clips, and a rate in the field

The first five run by themselves here; ``deploy`` holds render and flash, ``capture`` what comes back. A stage is out of
date when the digest of what it reads has changed. Each reports Progress and can be stopped at any time; run again, it
goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mww_ha.config import resolve
from mww_ha.errors import DataError, ProjectError
from mww_ha.schema import Device, Label, Origin, Progress, ProgressSink, digest, no_progress
from mww_ha.store import PROJECT_FILE, Project, create_project, find_project, open_project

STAGES = ("synthesize", "prepare", "train", "evaluate", "export")


def run(project: Project, *, until: str | None = None, report: ProgressSink = no_progress) -> dict[str, Any]:
    """Runs whatever is out of date, in order, up to and with ``until``. Returns each stage's result by name."""
    last = until or STAGES[-1]
    results: dict[str, Any] = {}
    for stage in STAGES[: STAGES.index(last) + 1]:
        results[stage] = run_stage(project, stage, report=report)
    return results


def run_stage(project: Project, stage: str, *, report: ProgressSink = no_progress) -> dict[str, Any]:
    """Runs one stage if it is out of date, and returns its result. Raises DataError when an earlier one is missing."""
    inputs = digest_inputs(project, stage)
    known = project.catalogue.stage(stage)
    if known is not None and known[0] == inputs and _is_there(project, stage, known[1]):
        report(Progress(stage=stage, message="up to date", done=1, total=1))
        return known[1]
    result = _RUNNERS[stage](project, report)
    project.catalogue.finish_stage(stage, inputs, result)
    return result


def is_current(project: Project, stage: str) -> bool:
    """Whether what ``stage`` made last still follows from what it reads now, and still lies on disk."""
    known = project.catalogue.stage(stage)
    return known is not None and known[0] == digest_inputs(project, stage) and _is_there(project, stage, known[1])


def digest_inputs(project: Project, stage: str) -> str:
    """Digest of everything that decides what ``stage`` would give now."""
    settings = project.settings
    if stage == "synthesize":
        from mww_ha.synthesize import choose_voices

        voices = sorted(voice.id for voice in choose_voices(project.root, settings))
        return digest([settings.phrase, settings.language, dataclasses.asdict(settings.synthesize), voices])
    if stage == "prepare":
        from mww_ha.prepare import feature_set_id

        return feature_set_id(project, project.catalogue.clips())
    earlier = project.catalogue.stage(STAGES[STAGES.index(stage) - 1])
    before = earlier[1] if earlier else {}
    budget = settings.export.false_accepts_per_hour
    own: dict[str, list[Any]] = {
        "train": [dataclasses.asdict(settings.train), budget],
        "evaluate": [budget],
        "export": [settings.phrase, settings.language, dataclasses.asdict(settings.export)],
    }
    return digest([stage, before, own[stage]])


def _is_there(project: Project, stage: str, result: dict[str, Any]) -> bool:
    """Whether what a finished stage made still lies on disk."""
    files: dict[str, Callable[[], tuple[Path, ...]]] = {
        "prepare": lambda: (Path(result["path"], "index.json"),),
        "train": lambda: (Path(result["path"], "net.npz"), Path(result["path"], "candidate.tflite")),
        "evaluate": lambda: (Path(result["path"]), Path(result["path"]).with_suffix(".json")),
        "export": lambda: (Path(result["manifest_path"]), Path(result["model_path"]), Path(result["about_path"])),
    }
    return stage not in files or all((project.root / path).exists() for path in files[stage]())


def _newest(project: Project, stage: str) -> dict[str, Any]:
    known = project.catalogue.stage(stage)
    if known is None:
        raise DataError(f"nothing is there to go on from: {stage} has not run", hint="run: mww-ha run")
    return known[1]


def _synthesize(project: Project, report: ProgressSink) -> dict[str, Any]:
    from mww_ha import synthesize

    return dataclasses.asdict(synthesize.run(project, report=report))


def _prepare(project: Project, report: ProgressSink) -> dict[str, Any]:
    from mww_ha import prepare

    return dataclasses.asdict(prepare.run(project, report=report))


def _train(project: Project, report: ProgressSink) -> dict[str, Any]:
    from mww_ha import train

    feature_set = _newest(project, "prepare")["id"]
    return dataclasses.asdict(train.run(project, feature_set=feature_set, report=report))


def _evaluate(project: Project, report: ProgressSink) -> dict[str, Any]:
    from mww_ha import evaluate

    id = _newest(project, "train")["id"]
    judged = evaluate.run(project, run=id, report=report)
    return {"run": id, "path": f"reports/{id}.html", "summary": judged.text()}


def _export(project: Project, report: ProgressSink) -> dict[str, Any]:
    from mww_ha import export

    return dataclasses.asdict(export.run(project, run=_newest(project, "evaluate")["run"], report=report))


_RUNNERS: dict[str, Callable[[Project, ProgressSink], dict[str, Any]]] = {
    "synthesize": _synthesize,
    "prepare": _prepare,
    "train": _train,
    "evaluate": _evaluate,
    "export": _export,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What ``quickstart`` made, and what to do next."""

    phrase: str
    project: str  # its folder
    model: str
    manifest: str
    report: str
    yaml: str
    yaml_checked: bool
    device: str  # its host name
    board: str
    substitutions: Mapping[str, str]
    rates: str
    trial: tuple[str, ...]
    advice: tuple[str, ...]
    duration_s: float
    peak_memory_mb: float

    def text(self) -> str:
        """The end of the quickstart on a terminal."""
        lines = [
            "",
            self.rates,
            "",
            "Tried on voices that training never heard:",
            *(f"  {line}" for line in self.trial),
        ]
        checked = "accepted by ESPHome" if self.yaml_checked else "not checked: ESPHome is not installed"
        lines += [
            "",
            f"  model     {self.manifest}",
            f"  report    {self.report}",
            f"  ESPHome   {self.yaml} ({checked})",
        ]
        lines += ["", *self._next(), "", *self.advice]
        lines += ["", f"{self.duration_s / 60:.1f} minutes, {self.peak_memory_mb:.0f} MB of memory at the most"]
        return "\n".join(lines)

    def _next(self) -> list[str]:
        from mww_ha.deploy.boards import find_board

        given = "".join(f" --substitute {shlex.quote(f'{key}={value}')}" for key, value in self.substitutions.items())
        add = f"  mww-ha devices add {self.device} --template {self.board}{given}   (others: mww-ha devices templates)"
        way = way_into(Path(self.project))
        first = [f"  {way}", add] if way else [add]
        if not find_board(self.board).complete:
            return [
                "Onto your satellite, whose own YAML includes the one above:",
                *first,
                f"  mww-ha render --device {self.device}   (says what to add to its own YAML)",
            ]
        flash = f"  mww-ha flash --device {self.device}"
        return [
            "Onto your satellite, once your Wi-Fi stands in the secrets.yaml beside it:",
            *first,
            f"{flash} --serial /dev/ttyACM0   (by cable the first time, then without --serial)",
        ]


def quickstart(
    root: Path,
    phrase: str,
    *,
    language: str | None = None,
    effort: str | None = None,
    board: str = "generic-s3",
    name: str = "satellite",
    substitutions: Mapping[str, str] | None = None,
    overrides: Mapping[str, str] | None = None,
    report: ProgressSink = no_progress,
) -> Summary:
    """From a phrase to a model, a report and YAML; then lets the model hear an unknown voice and a confusable.

    Raises what is wrong with the device or a setting before anything is made: InputError, ConfigError.
    """
    from mww_ha import deploy
    from mww_ha.devices.known import clean_host_name

    started = time.monotonic()
    given = dict(substitutions or {})
    device = clean_host_name(name)
    deploy.plan.check_device(Device(name=device, template=board, substitutions=given))
    existed = (root / PROJECT_FILE).exists()
    if not existed:  # a wrong setting leaves no project behind
        resolve({"phrase": phrase}, overrides, where="the command line")
    create_project(root, phrase, language=language, effort=effort).catalogue.close()
    if existed:
        report(Progress(stage="quickstart", message=f"{root} is a project for it already: going on with that one"))
    project = open_project(root, overrides)
    results = run(project, report=report)
    model = results["export"]
    manifest_path = project.root / model["manifest_path"]
    rendered = deploy.run(
        project, board=board, name=device, substitutions=given, manifest_path=manifest_path, report=report
    )
    return Summary(
        phrase=project.settings.phrase,
        project=str(project.root.resolve()),
        model=model["id"],
        manifest=str(manifest_path),
        report=str(project.root / results["evaluate"]["path"]),
        yaml=str(rendered.yaml_path),
        yaml_checked=rendered.checked,
        device=device,
        board=board,
        substitutions=given,
        rates=results["evaluate"]["summary"],
        trial=try_out(project, model),
        advice=_advise(project),
        duration_s=time.monotonic() - started,
        peak_memory_mb=_peak_memory_mb(),
    )


def way_into(root: Path) -> str:
    """The ``cd`` after which commands find the project at ``root`` by themselves; empty: they do already."""
    here, folder = Path.cwd(), root.resolve()
    with contextlib.suppress(ProjectError):
        if find_project(here).resolve() == folder:
            return ""
    return f"cd {shlex.quote(str(folder.relative_to(here) if folder.is_relative_to(here) else folder))}"


TRIED = 4
"""Clips with the wake word, and as many confusables, that the end of a quickstart plays."""


def try_out(project: Project, model: dict[str, Any]) -> tuple[str, ...]:
    """Lets the model listen to clips of the test side, each after seconds of quiet room, and says what it did."""
    import numpy as np

    from mww_ha import audio, detector, frontend
    from mww_ha.schema import SAMPLE_RATE_HZ
    from mww_ha.shards import read_index

    manifest = detector.load_manifest(project.root / model["manifest_path"])
    streaming = detector.load_model(manifest)
    sides = read_index(project.root / _newest(project, "prepare")["path"])["sides"]
    rng = np.random.default_rng(5)
    room = (rng.standard_normal(5 * SAMPLE_RATE_HZ) * 20).astype(np.int16)
    lines: list[str] = []
    for label in (Label.WAKE, Label.CONFUSABLE):
        clips = [c for c in project.catalogue.clips(label) if sides.get(c.id) == "test"]
        clips = [clips[int(i)] for i in rng.permutation(len(clips))]
        voices = {clip.speaker: clip for clip in clips}
        engines = {clip.speaker.partition(":")[0]: clip for clip in voices.values()}
        # One of each engine first, then other voices.
        chosen = {clip.id: clip for clip in (*engines.values(), *voices.values())}
        for clip in list(chosen.values())[:TRIED]:
            sound = np.concatenate([room, audio.read_samples(project.root / clip.path), room[:SAMPLE_RATE_HZ]])
            streaming.reset()
            scores = streaming.scores(frontend.quantize_features(frontend.features(sound)))
            found = detector.detect(scores, cutoff=manifest.cutoff, window=manifest.sliding_window)
            said = f"{clip.text!r} by {clip.speaker}"
            if found:
                lines.append(f"woke at score {found[0].score:.2f} on {said}")
            else:
                peak = detector.peak_window_sum(scores, manifest.sliding_window) / manifest.sliding_window
                lines.append(f"slept (highest score {peak / 255:.2f} of {manifest.cutoff / 255:.2f}) on {said}")
    return tuple(lines)


def _advise(project: Project) -> tuple[str, ...]:
    """What would make this model better, most useful first."""
    clips = project.catalogue.clips()
    lines: list[str] = []
    heading = "What would help, in this order:"
    if not any(c.label is Label.WAKE and c.origin is not Origin.SYNTHESIZED for c in clips):
        heading = f"This model has heard synthesized voices only: it is a start. {heading}"
        lines.append("  record your family saying it:  mww-ha serve")
        lines.append("  (or files of it:  mww-ha import FOLDER --label wake --speaker NAME)")
    engines = {c.speaker.partition(":")[0] for c in clips if c.label is Label.WAKE and c.origin is Origin.SYNTHESIZED}
    if not {"piper", "wyoming", "home_assistant"} & engines:
        lines.append("  a natural voice with many speakers:  mww-ha voices download")
    if not any(c.label is Label.NOISE for c in clips):
        lines.append("  real backgrounds (all of these are synthesized):  mww-ha corpora list")
    if project.settings.effort == "quick":
        lines.append("  more time:  mww-ha run --set effort=good")
    return (heading, *lines) if lines else ()


def _peak_memory_mb() -> float:
    """Largest resident size of this process and of any child so far. Children add up; the figure is the larger one."""
    import resource
    import sys

    unit = 1e6 if sys.platform == "darwin" else 1e3
    sizes = (resource.getrusage(who).ru_maxrss / unit for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(sizes)
