"""Verdicts → a new model, compared with the one there is.

    verdicts     judged captures become clips, near-duplicates once                    (``capture.review``)
    prepare      the new clips are split and rendered; held-out people stay held out
    train        from the weights of the current model, whose mistakes are the first hard negatives; or afresh
    evaluate     the new model hears what it never saw
    compare      old and new on the same takes, the same hours, the same captures, each at its own cutoff
    export       the new model is vouched for, and offered for flashing unless it is worse beyond chance

The old model stays. Each step can be stopped at any time; the same command goes on, with the same model to start from.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mww_ha import audio, detector, frontend, metrics, pipeline
from mww_ha.capture import rates, review, score
from mww_ha.errors import AudioFileError, DataError, ExportRefusedError
from mww_ha.evaluate import Contender, Paired, pair_events, pair_false_accepts, pair_takes, read_side
from mww_ha.evaluate.compare import FEWEST_PAIRS, SURE
from mww_ha.record.people import HEARD_FILE
from mww_ha.schema import Capture, CaptureKind, Clip, Origin, Progress, ProgressSink, Split, Verdict, no_progress
from mww_ha.shards import read_index
from mww_ha.store import Project, now, write_json
from mww_ha.workers import count_processes

STAGE = "retrain"
PLAN_FILE = "retrain.json"
"""In ``runs/`` while a retraining is on its way: what it started from."""

OWN_CHOICE = (
    "The current model's own false accepts are why they were captured: fewer of them is what was wanted, and no proof "
    "that the new model makes none of its own."
)

MOST_HEARD_AGAIN = 200
"""Captures that were trained on are compared up to this number, the newest: they show what was learned, no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Old and new on the same sound. ``outcome`` better | no difference | worse, beyond chance."""

    outcome: str
    reason: str
    decided_by: tuple[Paired, ...]
    also: tuple[Paired, ...]  # told, but not counted: chosen by a model, or trained on
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What a retraining came to. ``outcome`` is that of the comparison, or ``not enough``: too few verdicts."""

    outcome: str
    offer: bool
    reason: str
    missing: int = 0  # verdicts
    model: str = ""  # <slug>-<sha8> of the new model; empty: it was refused
    manifest_path: str = ""  # relative to the project
    against: str = ""  # the current model
    run: str = ""
    start: str = ""  # how training began, in words
    learned_from: int = 0  # captures
    comparison: Comparison | None = None

    def text(self) -> str:
        """For a terminal."""
        if self.comparison is None:
            return self.reason
        who = self.model or f"run {self.run}"
        lines = [f"{who}, {self.start}, has learned from {_count(self.learned_from, 'judged capture')}."]
        lines += [f"Compared with {self.against} on the same sound, each at its own cutoff:"]
        lines += [f"  {paired.text()}" for paired in self.comparison.decided_by]
        if self.comparison.also:
            lines += ["Told, but not counted:", *(f"  {paired.text()}" for paired in self.comparison.also)]
        lines += [*self.comparison.notes, "", self.reason]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """For a file or the page: everything, with the lines as text."""
        document = dataclasses.asdict(self)
        if self.comparison is not None:
            for name in ("decided_by", "also"):
                for row, paired in zip(document["comparison"][name], getattr(self.comparison, name), strict=True):
                    row |= {"p": paired.p, "outcome": paired.outcome, "text": paired.text()}
        return document | {"text": self.text()}


# ---- when -----------------------------------------------------------------------------------------------------------


def count_new_verdicts(project: Project) -> int:
    """Captures that make clips and were judged since the last retraining."""
    return len(_new_verdicts(project))


def _new_verdicts(project: Project) -> set[str]:
    last = _last(project).get("judged_until", 0)
    judged = {capture.id for capture in project.catalogue.captures(verdicts=review.LABELS)}
    entries = project.catalogue.judgements()
    return {e.capture for e in entries if e.number > last and not e.undone and not e.undoes} & judged


def _last(project: Project) -> dict[str, Any]:
    known = project.catalogue.stage(STAGE)
    return known[1] if known else {}


def due(project: Project, now: datetime) -> str:
    """Why a retraining should begin at ``now`` (with a time zone); empty: it should not.

    Enough new verdicts (``retrain.verdicts``), or any after ``retrain.every_days``, or one that was interrupted.
    """
    settings = project.settings.retrain
    if _read_plan(project):
        return "a retraining was interrupted"
    new = count_new_verdicts(project)
    if new >= max(1, settings.verdicts):
        return f"{_count(new, 'new verdict')} ({settings.verdicts} are enough)"
    since = _last(project).get("at") or _oldest_model(project)
    if new and since and now - datetime.fromisoformat(since) >= timedelta(days=settings.every_days):
        days = (now - datetime.fromisoformat(since)).days
        return f"{_count(new, 'new verdict')}, and the last training was {_count(days, 'day')} ago"
    return ""


def _oldest_model(project: Project) -> str:
    """When the current model's training began."""
    current = _current(project)
    runs = {str(run["id"]): str(run["started_at"]) for run in project.catalogue.runs()}
    return runs.get(str(current.get("run")), "") if current else ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


# ---- the way --------------------------------------------------------------------------------------------------------


def retrain(
    project: Project, *, fresh: bool | None = None, force: bool = False, report: ProgressSink = no_progress
) -> Proposal:
    """Makes a new model of what was judged since the last time, and compares it with the current one.

    ``fresh``: True trains from the beginning, False insists on a warm start, None starts warm where that is possible.
    ``force``: also with few new verdicts, and offers the model whatever the comparison says.
    Raises DataError when there is no model yet, or a warm start is insisted on and impossible, and what the stages
    raise.
    """
    from mww_ha import evaluate, export, train
    from mww_ha.similar import find_near_duplicates

    plan = _read_plan(project)
    weigh_canaries(project)
    current = _planned(project, plan) or _current(project)
    if current is None:
        raise DataError(f"{project.root} has no model to go on from", hint="make one with: mww-ha run")
    reason = due(project, datetime.now(UTC))
    if not reason and not force:
        new = count_new_verdicts(project)
        missing = max(1, project.settings.retrain.verdicts) - new
        return Proposal(
            outcome="not enough",
            offer=False,
            reason=f"{_count(new, 'new verdict')} since the last training: {missing} more are needed "
            "(retrain.verdicts), or --force",
            missing=missing,
            against=str(current["id"]),
        )
    report(Progress(stage=STAGE, message=reason or "asked for"))
    judged_until = max((entry.number for entry in project.catalogue.judgements()), default=0)
    fresh = plan.get("fresh") if fresh is None else fresh
    write_json(project.runs_dir / PLAN_FILE, {"model": current["id"], "fresh": fresh})
    applied = review.apply_verdicts(project, find_copies=find_near_duplicates, report=report)
    feature_set = str(pipeline.run_stage(project, "prepare", report=report)["id"])

    start = "" if fresh else str(current["run"])
    said = "trained from the beginning"
    if start and (obstacle := train.find_obstacle(project, start, feature_set=feature_set)):
        if fresh is False:
            (project.runs_dir / PLAN_FILE).unlink()  # it would not go on by itself
            raise DataError(f"no warm start: {obstacle}", hint="train from the beginning: mww-ha retrain --fresh")
        start, said = "", f"{said} ({obstacle})"
    elif start:
        said = f"trained on from the weights of {current['id']}"
    own = _warm(project) if start else project
    run = train.run(own, feature_set=feature_set, start=start, report=report)
    if not (project.reports_dir / f"{run.id}.json").exists():
        evaluate.run(project, run=run.id, report=report)
    comparison = compare(project, current, run.id, report=report)
    comparison = dataclasses.replace(comparison, notes=(*comparison.notes, *_describe_applied(applied)))
    worse = comparison.outcome == "worse"
    reason = comparison.reason
    if worse and force:
        reason += " It is offered because that was asked for."
    elif worse:
        reason += " It is not offered for flashing; --force offers it all the same."
    proposal = Proposal(
        outcome=comparison.outcome,
        offer=force or not worse,
        reason=reason,
        against=str(current["id"]),
        run=run.id,
        start=said,
        learned_from=len(_learned_from(project, run.id)),
        comparison=comparison,
    )
    note = {
        "offered": proposal.offer,
        "compared_with": proposal.against,
        "comparison": {"outcome": proposal.outcome, "reason": reason},
        "learned_from_captures": proposal.learned_from,
    }
    try:
        model = export.run(project, run=run.id, note=note, report=report)
        proposal = dataclasses.replace(proposal, model=model.id, manifest_path=model.manifest_path)
    except ExportRefusedError as error:
        # Neither an order nor another try makes it a model: the verdicts are kept, and the next ones bring another.
        why = " ".join(error.message.split())
        proposal = dataclasses.replace(proposal, outcome="worse", offer=False, reason=f"{why}. It was not exported.")
    write_json(project.reports_dir / f"{run.id}.comparison.json", proposal.as_json() | {"made_at": now()})
    if proposal.offer:
        _finish_stages(project, dataclasses.asdict(run), dataclasses.asdict(model))
    result = {
        "at": now(),
        "judged_until": judged_until,
        "model": proposal.model,
        "offer": proposal.offer,
        "outcome": proposal.outcome,
        "unusable": [list(row) for row in applied.unusable],
    }
    project.catalogue.finish_stage(STAGE, feature_set, result)
    (project.runs_dir / PLAN_FILE).unlink(missing_ok=True)
    report(Progress(stage=STAGE, message=f"{proposal.outcome}: {proposal.reason}", done=1, total=1))
    return proposal


def _describe_applied(applied: review.Applied) -> list[str]:
    """What has to be said of the verdicts that were learned from."""
    notes = []
    if applied.duplicates:
        number = _count(len(applied.duplicates), "judged capture")
        notes.append(
            f"{number} {'is a copy' if len(applied.duplicates) == 1 else 'are copies'} of others: counted once."
        )
    if applied.unusable:
        number = _count(len(applied.unusable), "judged capture")
        notes.append(f"{number} could not be learned from; the first: {applied.unusable[0][1]}.")
    if applied.unnamed:
        number = _count(applied.unnamed, "captured wake word")
        notes.append(
            f"{number} without a name: somebody who is held out may have said it, which flatters the new model. "
            "Say who speaks: mww-ha captures judge ID --as wake --person NAME"
        )
    return notes


def _warm(project: Project) -> Project:
    """The project with the steps and the rate of a warm start."""
    settings, train = project.settings.retrain, project.settings.train
    steps = max(1, round(train.steps * settings.steps_share))
    own = dataclasses.replace(
        train,
        steps=steps,
        learning_rate=train.learning_rate * settings.learning_rate_share,
        mine_every=min(train.mine_every, max(1, steps // 3)) if train.mine_every else 0,
    )
    return dataclasses.replace(project, settings=dataclasses.replace(project.settings, train=own))


def _current(project: Project) -> dict[str, Any] | None:
    """The newest offered model."""
    return next((model for model in project.catalogue.models() if model.get("offered", True)), None)


def _planned(project: Project, plan: Mapping[str, Any]) -> dict[str, Any] | None:
    """The model that an interrupted retraining started from, if it is still there."""
    return next((model for model in project.catalogue.models() if model["id"] == plan.get("model")), None)


def _read_plan(project: Project) -> dict[str, Any]:
    try:
        plan: dict[str, Any] = json.loads((project.runs_dir / PLAN_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return plan


def _finish_stages(project: Project, run: dict[str, Any], model: dict[str, Any]) -> None:
    """Lets ``mww-ha run`` see what it would otherwise train from the beginning."""
    report_path = project.reports_dir / f"{run['id']}.json"
    results = {
        "train": run,
        "evaluate": {"run": run["id"], "path": f"reports/{run['id']}.html", "summary": _summary(report_path)},
        "export": model,
    }
    for stage, result in results.items():
        project.catalogue.finish_stage(stage, pipeline.digest_inputs(project, stage), result)


def _summary(report_path: Path) -> str:
    levels = {level["name"]: level for level in json.loads(report_path.read_text())["levels"]}
    recall = levels["medium"]["recall"]
    return "" if recall is None else f"recall {recall['events']} of {recall['exposure']:.0f} at the medium sensitivity"


def _learned_from(project: Project, run: str) -> dict[str, str]:
    """Clip → capture of what a run was trained on."""
    document = next(document for document in project.catalogue.runs() if document["id"] == run)
    captures: dict[str, str] = document["data"].get("captures", {})
    return captures


# ---- canaries -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """What a canary came to beside the model that wakes. ``outcome`` better | no difference | worse, beyond chance."""

    trial: rates.Trial
    outcome: str
    reason: str
    tests: tuple[Paired, ...]

    def text(self) -> str:
        """For a terminal or a proposal: one line for the whole, one for each comparison."""
        trial = self.trial
        left = f"; {_count(trial.unjudged, 'event')} not judged" if trial.unjudged else ""
        head = f"Canary {trial.canary} beside {trial.model} in {', '.join(trial.devices)}, {trial.hours:.0f} h{left}: "
        return "\n".join([head + self.reason, *(f"  {paired.text()}" for paired in self.tests)])


def weigh_canaries(project: Project) -> list[Weighed]:
    """What households' verdicts say of canaries beside the models that woke, on the same sound.

    It is noted at the canary's model. One that is worse beyond chance is not offered for flashing any more (it can be
    named still), until other verdicts say otherwise. A model that wakes somewhere is left alone: that was decided.
    """
    awake = {flash.model for flash in project.catalogue.flashes() if flash.outcome == "verified"}
    known = {str(model["id"]): model for model in project.catalogue.models()}
    found = []
    for trial in rates.list_trials(project):
        tests = _weigh(trial)
        outcome, reason = conclude(tests) if trial.events else ("no difference", "Nothing was judged yet.")
        weighed = Weighed(trial=trial, outcome=outcome, reason=reason, tests=tuple(tests))
        found.append(weighed)
        model = known.get(trial.canary)
        if model is None or trial.canary in awake or not (trial.events or model.get("canary")):
            continue
        note = {"beside": trial.model, "outcome": outcome, "reason": reason}
        notes = {**model.get("canary", {}), trial.model: note}
        worse = any(other["outcome"] == "worse" for other in notes.values())
        offered = bool(model.get("offered", True)) or bool(model.get("withdrawn"))  # but for canaries
        values = {"canary": notes, "withdrawn": worse and offered, "offered": offered and not worse}
        if any(model.get(key) != value for key, value in values.items()):
            project.catalogue.update_model(trial.canary, **values)
            known[trial.canary] = model | values
    return found


def _weigh(trial: rates.Trial) -> list[Paired]:
    wakes = [(woke, tried) for woke, tried, right in trial.events if right]
    wrong = [(woke, tried) for woke, tried, right in trial.events if not right]
    heard = pair_events(wakes, "Wake words in the field", "events", should_fire=True)
    false = pair_events(wrong, "False accepts in the field", "events", should_fire=False)
    if false is not None and trial.hours > 0:
        old, new = (metrics.rate_interval(side.events, trial.hours) for side in (false.old, false.new))
        false = dataclasses.replace(false, old=old, new=new, exposure=trial.hours, unit="per hour")
    return [paired for paired in (heard, false) if paired is not None]


# ---- old and new ----------------------------------------------------------------------------------------------------


def compare(
    project: Project, current: Mapping[str, Any], run: str, *, report: ProgressSink = no_progress
) -> Comparison:
    """The model ``current`` (an entry of the catalogue) and the evaluated run, on what neither was trained on.

    Raises DataError, ManifestError, ModelFileError when a piece of either is missing.
    """
    documents = {str(document["id"]): document for document in project.catalogue.runs()}
    folder = project.features_dir / documents[run]["feature_set"]
    index = read_index(folder)
    processes = count_processes(project.settings.prepare.processes)
    manifest = detector.load_manifest(project.root / str(current["manifest_path"]))
    level = next(
        level
        for level in json.loads((project.reports_dir / f"{run}.json").read_text())["levels"]
        if level["name"] == "medium"
    )
    files = [
        (str(current["id"]), detector.read_model(manifest.model_path), manifest.cutoff, manifest.sliding_window),
        (
            "the new model",
            detector.read_model(project.runs_dir / run / "candidate.tflite"),
            int(level["cutoff"]),
            int(level["window"]),
        ),
    ]
    sides = []
    for done, (name, content, cutoff, window) in enumerate(files):
        report(Progress(stage=STAGE, message=f"{name} listens to the test side", done=done, total=2, unit="models"))
        traces = read_side(content, folder, index, "test", processes)
        sides.append(Contender(name=name, cutoff=cutoff, window=window, traces=traces))
    old, new = sides
    notes: list[str] = []
    seen = _trained_on(project, documents, str(current["run"]), notes)
    decided_by, also = judge_pairs(old, new, _takes(project, index, seen, notes), notes)
    for heard in _hear_captures(project, str(current["id"]), files, index, seen, report):
        (decided_by if heard.counts else also).append(heard.paired)
        if heard.own and heard.paired.what.startswith("False accepts") and OWN_CHOICE not in notes:
            notes.append(OWN_CHOICE)
    notes += _field(project, {str(current["id"])})
    outcome, reason = conclude(decided_by)
    return Comparison(
        outcome=outcome, reason=reason, decided_by=tuple(decided_by), also=tuple(also), notes=tuple(notes)
    )


def conclude(tests: Sequence[Paired]) -> tuple[str, str]:
    """What several comparisons come to: (better | no difference | worse, a sentence). Worse in one thing is worse."""
    better = [paired.what for paired in tests if paired.outcome == "better"]
    worse = [paired.what for paired in tests if paired.outcome == "worse"]
    if worse:
        though = f", though better in {_list(better)}" if better else ""
        return "worse", f"Worse in {_list(worse)} beyond chance (p < {SURE:g}){though}."
    if better:
        return "better", f"Better in {_list(better)} beyond chance (p < {SURE:g}), worse in nothing that was counted."
    return "no difference", "No difference beyond chance: it may come out the other way next time."


def _list(items: Sequence[str]) -> str:
    return " and ".join(item[:1].lower() + item[1:] for item in items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Takes:
    """Held-out wake clips that neither model was trained on, by where they came from."""

    people: frozenset[str]
    synthesized: frozenset[str]
    captured: frozenset[str]


def judge_pairs(old: Contender, new: Contender, takes: Takes, notes: list[str]) -> tuple[list[Paired], list[Paired]]:
    """(comparisons that decide, others); what has to be said about them goes to ``notes``.

    Takes of people decide where there are enough of them for any difference to show, else synthesized voices.
    """
    people = pair_takes(old, new, takes.people, "Wake words of people")
    synthesized = pair_takes(old, new, takes.synthesized, "Synthesized wake words")
    captured = pair_takes(old, new, takes.captured, "Wake words that satellites captured, held out")
    decided_by: list[Paired] = []
    also = [captured] if captured else []
    if people is not None and people.exposure >= FEWEST_PAIRS:
        decided_by.append(people)
        also += [synthesized] if synthesized else []
    else:
        number = int(people.exposure) if people else 0
        notes.append(
            f"{_count(number, 'take')} of people {'is' if number == 1 else 'are'} held out, too few to decide "
            f"({FEWEST_PAIRS} or more could): synthesized voices stand in for them. People are harder."
        )
        also += [people] if people else []
        decided_by += [synthesized] if synthesized else []
    if captured:
        notes.append(
            "Which wake words a satellite captures depends on the model it carries: they say little about recall."
        )
    kinds = old.traces.kinds()
    every = pair_false_accepts(old, new, kinds, "False accepts in the same hours")
    decided_by += [every] if every else []
    if len(kinds) > 1:
        each = [pair_false_accepts(old, new, [kind], f"False accepts in {kind}") for kind in kinds]
        also += [paired for paired in each if paired]
    return decided_by, also


def _trained_on(project: Project, runs: Mapping[str, Mapping[str, Any]], current: str, notes: list[str]) -> set[str]:
    """Clips that the run ``current`` was trained on, and those before it whose weights it started from."""
    seen: set[str] = set()
    id: str | None = current
    while id is not None:
        known = runs.get(id)
        sides = _read_sides(project, known) if known is not None else None
        if sides is None:
            notes.append("What the current model was trained on is not known any more: it may have heard some of this.")
            return seen
        seen |= {clip for clip, side in sides.items() if side == Split.TRAIN}
        id = known.get("start") if known is not None else None
    return seen


def _read_sides(project: Project, run: Mapping[str, Any]) -> dict[str, str] | None:
    """Clip → side of a run; of one whose features were deleted with somebody's clips, what the deletion left."""
    folder = project.features_dir / str(run["feature_set"])
    if (folder / "index.json").exists():
        sides: dict[str, str] = read_index(folder).get("sides", {})
        return sides
    try:
        sides = json.loads((project.runs_dir / str(run["id"]) / HEARD_FILE).read_text())
    except (OSError, ValueError):
        return None
    return sides


def _takes(project: Project, index: Mapping[str, Any], seen: Collection[str], notes: list[str]) -> Takes:
    """Held-out clips; of somebody whom the current model was trained on there are none."""
    clips = project.catalogue.clips()
    known = {(clip.speaker, clip.origin) for clip in clips if clip.speaker and clip.id in seen}
    sides = index.get("sides", {})
    held_out = [clip for clip in clips if sides.get(clip.id) == Split.TEST]
    fair = [clip for clip in held_out if clip.id not in seen and (clip.speaker, clip.origin) not in known]
    if len(fair) < len(held_out):
        notes.append(f"{_count(len(held_out) - len(fair), 'clip')} left out that the current model was trained on.")

    def of(*origins: Origin) -> frozenset[str]:
        return frozenset(clip.id for clip in fair if clip.origin in origins)

    return Takes(
        people=of(Origin.RECORDED, Origin.IMPORTED),
        synthesized=of(Origin.SYNTHESIZED),
        captured=of(Origin.CAPTURED),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Heard:
    """Both models over one kind of judged captures."""

    paired: Paired
    own: bool  # the current model itself triggered them, as far as is known
    counts: bool


def _hear_captures(
    project: Project,
    current: str,
    files: Sequence[tuple[str, bytes, int, int]],
    index: Mapping[str, Any],
    seen: Collection[str],
    report: ProgressSink,
) -> list[_Heard]:
    """Both models over judged captures: by who chose them, those held out and those that were trained on apart.

    What was held out counts where another model triggered it, a canary for example. Of what the current model triggered
    only more false accepts count: fewer come by chance alone, and so do fewer wake words.
    """
    models = [(detector.StreamingModel(content), cutoff, window) for _, content, cutoff, window in files]
    groups: dict[tuple[bool, bool, bool, bool], list[tuple[bool, bool]]] = {}
    chosen = _choose_captures(project, index, seen)
    for number, (capture, held_out) in enumerate(chosen, 1):
        try:
            samples = audio.read_samples(project.root / capture.path)
        except AudioFileError:
            continue
        before, after = (hears(model, capture, samples, cutoff, window) for model, cutoff, window in models)
        own = capture.model in ("", current)
        key = (held_out, capture.verdict is Verdict.FALSE_ACCEPT, capture.kind is CaptureKind.CANARY, own)
        groups.setdefault(key, []).append((before, after))
        report(Progress(stage=STAGE, message="captures once more", done=number, total=len(chosen), unit="captures"))
    found: list[_Heard] = []
    for (held_out, wrong, canary, own), fired in sorted(groups.items(), reverse=True):
        what = "False accepts" if wrong else "Wake words"
        source = f"captured by {'a canary' if canary else 'satellites'}{'' if own else ' with another model'}"
        place = "held out" if held_out else "trained on"
        paired = pair_events(fired, f"{what} {source}, {place}", "captures", should_fire=not wrong)
        if paired is not None:
            counts = held_out and (not own or (wrong and paired.outcome == "worse"))
            found.append(_Heard(paired=paired, own=own, counts=counts))
    return found


def _choose_captures(project: Project, index: Mapping[str, Any], seen: Collection[str]) -> list[tuple[Capture, bool]]:
    """Judged captures with a clip of their own, and whether neither model was trained on it."""
    sides = index.get("sides", {})
    clips: dict[str, Clip] = {clip.parent: clip for clip in project.catalogue.clips() if clip.parent}
    judged = project.catalogue.captures(verdicts=review.LABELS, newest_first=True)
    rows: list[tuple[Capture, bool]] = []
    again = 0
    for capture in judged:
        clip = clips.get(capture.id)
        if clip is None or not capture.path or clip.id not in sides:
            continue
        held_out = sides[clip.id] != Split.TRAIN and clip.id not in seen
        again += not held_out
        if held_out or again <= MOST_HEARD_AGAIN:
            rows.append((capture, held_out))
    return rows


def hears(model: detector.StreamingModel, capture: Capture, samples: audio.Samples, cutoff: int, window: int) -> bool:
    """Whether a satellite with this model would have woken where this capture was triggered (anywhere in a take)."""
    for skipped in range(0, model.stride * frontend.HOP_SAMPLES, frontend.HOP_SAMPLES):
        scores = score.score_samples(model, samples[skipped:])
        rated = score.rate_scores(
            capture, "", scores, cutoff=cutoff, window=window, stride=model.stride, skipped=skipped
        )
        if rated.reproduced:
            return True
    return False


def _field(project: Project, models: Collection[str]) -> list[str]:
    """What households measured of the current model and of canaries, in lines."""
    tried = {c.model for c in project.catalogue.captures(kinds=[CaptureKind.CANARY])}
    rows = rates.measure_field(project, by=("model",))
    weighed = [line for trial in weigh_canaries(project) for line in trial.text().splitlines()]
    return weighed + [
        f"In the field, {'canary' if row.model in tried else 'model'} {row.model}: false accepts {row.text()}"
        for row in rows
        if row.model in models or row.model in tried
    ]
