"""The command line: one command per stage, and ``run`` and ``quickstart`` for all of them.

Results go to standard output, progress and errors to standard error; the exit code tells the class of an error.
With ``--json`` standard output carries one JSON object a line: ``progress`` lines, then one ``result`` or ``error``.
Everything heavy is imported inside the commands: ``mww-ha --help`` is instant.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from mww_ha import __version__
from mww_ha.errors import InputError, JobStoppedError, MissingDependencyError, MwwError, ProjectError, StorageError
from mww_ha.schema import Progress

if TYPE_CHECKING:
    from mww_ha.detector import Detection
    from mww_ha.progress import View
    from mww_ha.store import Project

Function = TypeVar("Function", bound=Callable[..., Any])

STOPPED = "stopped; run the same command again to go on"

_EXTRAS = {
    "esphome": "flash",
    "espeakng_loader": "tts",
    "keras": "train",
    "piper": "tts",
    "pymicro_wakeword": "train",
    "scipy": "train",
    "tensorflow": "train",
    "wordfreq": "tts",
    "wyoming": "tts",
}
"""Which extra brings a package that the light runtime does without."""


class Session:
    """What the options that every command takes add up to, before and after the command's name."""

    def __init__(self) -> None:
        self.project_dir: Path | None = None
        self.as_json = False
        self.overrides: dict[str, str] = {}
        self.root: Path | None = None  # of the project in use: where a crash leaves its log
        self._view: View | None = None

    def report(self, progress: Progress) -> None:
        """The ProgressSink of all commands; decides at the first line what it looks like."""
        if self._view is None:
            from mww_ha.progress import choose_view

            self._view = choose_view(sys.stderr, sys.stdout, as_json=self.as_json)
        self._view(progress)

    def close_view(self) -> None:
        """Leaves the terminal in order."""
        if self._view is not None:
            view, self._view = self._view, None
            view.close()

    def find_root(self) -> Path:
        """The project directory. Raises ProjectError when there is none."""
        from mww_ha.store import find_project

        self.root = self.project_dir if self.project_dir is not None else find_project(Path.cwd())
        return self.root

    def open_project(self) -> Project:
        """The project in use. Raises ProjectError, ConfigError."""
        from mww_ha.store import open_project

        return open_project(self.find_root(), self.overrides)

    def new_root(self, phrase: str) -> Path:
        """Where a new project goes: ``--project``, or a folder named after the phrase in the current one."""
        from mww_ha.store import slugify

        self.root = self.project_dir if self.project_dir is not None else Path.cwd() / slugify(phrase)
        return self.root

    def show(self, result: Any, text: str | None = None) -> None:
        """The result: one JSON line, or ``text``, or what its own ``text()`` says, or its fields one a line."""
        self.close_view()
        if text is None and hasattr(result, "text"):
            text = result.text()
        if self.as_json:
            print(json.dumps({"type": "result", "result": plain(result)}), flush=True)
        else:
            print(text if text is not None else "\n".join(_fields(plain(result))), flush=True)


def plain(value: Any) -> Any:
    """``value`` in what JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    return value.item() if hasattr(value, "item") else str(value)  # a NumPy scalar; a Path


def _fields(value: Any, indent: str = "") -> Iterator[str]:
    """``name: value`` lines; empty ones are left out."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            if isinstance(item, Mapping | list) and item:
                yield f"{indent}{name.replace('_', ' ')}:"
                yield from _fields(item, indent + "  ")
            elif item not in ("", None, [], {}):
                shown = f"{item:.4g}" if isinstance(item, float) else item
                yield f"{indent}{name.replace('_', ' ')}: {shown}"
    elif isinstance(value, list):
        for item in value:
            yield f"{indent}- {item if not isinstance(item, list) else ': '.join(map(str, item))}"
    elif value is not None:
        yield f"{indent}{value}"


# --- Options that every command takes --------------------------------------------------------------------------------


def _keep_project(context: click.Context, _option: click.Parameter, value: Path | None) -> None:
    if value is not None:
        context.ensure_object(Session).project_dir = value


def _keep_json(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(Session).as_json = True


def _keep_overrides(context: click.Context, _option: click.Parameter, value: tuple[str, ...]) -> None:
    for item in value:
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise click.BadParameter(f"{item!r} is not key=value, such as train.steps=4000", ctx=context)
        context.ensure_object(Session).overrides[key.strip()] = text


def _common_options(*, with_json: bool = True) -> list[click.Option]:
    options = [
        click.Option(
            ["--project"],
            type=click.Path(path_type=Path, file_okay=False),
            callback=_keep_project,
            expose_value=False,
            metavar="DIR",
            help="Project directory; default: the current folder or the nearest one above it with a project.yaml.",
        ),
        click.Option(
            ["--set"],
            multiple=True,
            callback=_keep_overrides,
            expose_value=False,
            metavar="KEY=VALUE",
            help="Override a setting of project.yaml, such as train.steps=4000; may be given several times.",
        ),
    ]
    if with_json:
        options.append(
            click.Option(
                ["--json"],
                is_flag=True,
                callback=_keep_json,
                expose_value=False,
                help="Progress and result as JSON, one object a line.",
            )
        )
    return options


class _Command(click.Command):
    """A command that takes the common options too; its own option of the same name goes before."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        has_json = any("--json" in parameter.opts for parameter in self.params)
        self.params += _common_options(with_json=not has_json)


class _Group(click.Group):
    """A group whose commands and which itself take the common options."""

    command_class = _Command
    group_class = type

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += _common_options()

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        """In the order of the work, not of the alphabet."""
        return list(self.commands)


_LANGUAGE = click.option("--language", default=None, metavar="CODE", help="Language of the phrase, such as de; en.")
_EFFORT = click.option(
    "--effort",
    type=click.Choice(["quick", "good", "best"]),
    default=None,
    help="How much time a model may cost: minutes, an hour, a night.",
)
_BOARD = click.option("--board", default="generic-s3", show_default=True, help="Kind of device.")
_DIRECTORY = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="mww-ha")
def cli() -> None:
    """Your own wake word on your own ESP32-S3 satellites.

    Start with: mww-ha quickstart "hey kitchen"
    """


# --- A project and its clips -----------------------------------------------------------------------------------------


@cli.command()
@click.argument("phrase")
@_LANGUAGE
@_EFFORT
@click.pass_obj
def new(session: Session, phrase: str, language: str | None, effort: str | None) -> None:
    """Start a project for PHRASE, in a folder named after it or in --project DIR."""
    from mww_ha.store import create_project
    from mww_ha.synthesize.phrases import check_phrase

    notes: list[str] = []
    try:
        notes += check_phrase(phrase, language or "en").warnings
    except (MissingDependencyError, ModuleNotFoundError) as error:
        notes.append(f"the phrase was not checked: {error.args[0]}")
    project = create_project(session.new_root(phrase), phrase, language=language or "en", effort=effort or "quick")
    project.catalogue.close()
    lines = [f"{project.root}: a project for {project.settings.phrase!r}", *(f"note: {note}" for note in notes)]
    lines.append(f"next: mww-ha run --project {project.root}")
    session.show({"project": project.root, "phrase": project.settings.phrase, "notes": notes}, "\n".join(lines))


@cli.command("import")
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--manifest", type=_FILE, metavar="FILE.tsv", help="A table: path, label, speaker, session, take, ...")
@click.option("--label", metavar="LABEL", help="wake, confusable, speech, noise or rir.")
@click.option("--speaker", default="", help="Who speaks, or @folder: each folder is named after its speaker.")
@click.option("--session", "sitting", default="", help="Clips of one day, place and microphone share it.")
@click.option("--licence", default="", help="Licence of the clips, kept in the catalogue.")
@click.option("--language", default="", metavar="CODE", help="Language that is spoken.")
@click.pass_obj
def import_(
    session: Session,
    folder: Path | None,
    manifest: Path | None,
    label: str | None,
    speaker: str,
    sitting: str,
    licence: str,
    language: str,
) -> None:
    """Take in sound files: a FOLDER under one label, or what a table names."""
    from mww_ha.record.files import import_folder, import_manifest, parse_label

    if folder is not None and manifest is not None:
        raise click.UsageError("name a folder or a table, not both")
    if manifest is not None:
        result = import_manifest(session.open_project(), manifest, report=session.report)
    elif folder is None:
        raise click.UsageError("name a folder, or a table with --manifest FILE.tsv")
    elif label is None:
        raise click.UsageError("say what the clips are: --label wake, confusable, speech, noise or rir")
    else:
        result = import_folder(
            session.open_project(),
            folder,
            label=parse_label(label),
            speaker=speaker,
            session=sitting,
            licence=licence,
            language=language,
            report=session.report,
        )
    lines = [f"{result.added} clips added ({result.minutes:.1f} min), {result.known} known before"]
    if result.skipped:
        lines.append(f"{result.skipped} files passed over: not sound by their names")
    lines += [f"rejected: {name}: {reason}" for name, reason in result.rejected]
    session.show(result, "\n".join(lines))


# --- The stages ------------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--show-confusables", is_flag=True, help="List what sounds like the phrase, with its distance; no more.")
@click.option("--limit", default=None, type=click.IntRange(min=1), help="Length of that list.")
@click.pass_obj
def synthesize(session: Session, show_confusables: bool, limit: int | None) -> None:
    """Make speech: the phrase, what sounds like it, sentences."""
    project = session.open_project()
    if not show_confusables:
        from mww_ha import pipeline

        session.show(pipeline.run_stage(project, "synthesize", report=session.report))
        return
    from mww_ha.synthesize.confusables import show_confusables as list_confusables

    settings = project.settings
    count = limit or settings.synthesize.confusable_phrases
    found = list_confusables(settings.phrase, settings.language, count)
    session.show(found, "\n".join(f"{c.distance:5.2f}  {c.kind:<9}  {c.text}" for c in found))


@cli.command()
@click.pass_obj
def prepare(session: Session) -> None:
    """Split by voice, place in running background, compute features."""
    from mww_ha import pipeline

    session.show(pipeline.run_stage(session.open_project(), "prepare", report=session.report))


@cli.command()
@click.option("--seed", type=int, default=None, help="Random seed; the same as --set train.seed=N.")
@click.pass_obj
def train(session: Session, seed: int | None) -> None:
    """Train on the newest features. An interrupted training goes on where it stopped."""
    from mww_ha import pipeline

    if seed is not None:
        session.overrides["train.seed"] = str(seed)
    session.show(pipeline.run_stage(session.open_project(), "train", report=session.report))


@cli.command()
@click.option("--model", type=_FILE, metavar="M.json", help="Any ESPHome v2 manifest; needs no project.")
@click.option("--wake", type=_DIRECTORY, help="Folder of clips with the wake word (with --model).")
@click.option("--ambient", type=_DIRECTORY, help="Folder of long sound without it (with --model).")
@click.option("--lures", type=_DIRECTORY, help="Folder of clips with other words (with --model).")
@click.option("--background", type=_DIRECTORY, help="Folder of noise to put under the clips (with --model).")
@click.option("--snr-db", type=float, default=10.0, show_default=True, help="Speech above that noise.")
@click.option("--json", "json_out", is_flag=False, flag_value="-", default=None, metavar="[OUT]", help="Write JSON.")
@click.option("--html", type=_FILE, metavar="OUT", help="Write a page with plots (with --model).")
@click.pass_obj
def evaluate(
    session: Session,
    model: Path | None,
    wake: Path | None,
    ambient: Path | None,
    lures: Path | None,
    background: Path | None,
    snr_db: float,
    json_out: str | None,
    html: Path | None,
) -> None:
    """Measure how often a model wakes, rightly and wrongly.

    Without --model: the newest training of the project. --json alone gives JSON lines on standard output,
    --json OUT writes the report to that file.
    """
    session.as_json = session.as_json or json_out == "-"
    out = Path(json_out) if json_out not in (None, "-") else None
    if model is None:
        if wake or ambient or lures or background or html:
            raise click.UsageError("--wake, --ambient, --lures, --background and --html go with --model M.json")
        from mww_ha import pipeline
        from mww_ha.store import write_text

        project = session.open_project()
        result = pipeline.run_stage(project, "evaluate", report=session.report)
        page = project.root / result["path"]
        if out is not None:
            write_text(out, page.with_suffix(".json").read_text(encoding="utf-8"))
        session.show(result, f"{result['summary']}\n\nreport: {page}")
        return
    from mww_ha.evaluate.folders import evaluate_model

    session.show(
        evaluate_model(
            model,
            wake,
            ambient,
            lures,
            background=background,
            snr_db=snr_db,
            json_out=out,
            html_out=html,
            report=session.report,
        )
    )


@cli.command()
@click.pass_obj
def export(session: Session) -> None:
    """Make the model file, once all checks vouch for it."""
    from mww_ha import pipeline

    session.show(pipeline.run_stage(session.open_project(), "export", report=session.report))


@cli.command()
@_BOARD
@click.option("--name", required=True, help="Name of the device, such as kitchen.")
@click.option("--model", type=_FILE, metavar="M.json", help="A manifest; default: the project's newest model.")
@click.option("--also", type=_FILE, multiple=True, metavar="M.json", help="A further wake word on the same device.")
@click.option("--friendly-name", default=None, help="Name shown in Home Assistant.")
@click.option("--substitute", multiple=True, metavar="KEY=VALUE", help="A substitution of the board's template.")
@click.option("--no-check", is_flag=True, help="Do not ask ESPHome whether it accepts the result.")
@click.option("--force", is_flag=True, help="Replace files that were changed by hand; they are kept as *.bak.")
@click.pass_obj
def render(
    session: Session,
    board: str,
    name: str,
    model: Path | None,
    also: tuple[Path, ...],
    friendly_name: str | None,
    substitute: tuple[str, ...],
    no_check: bool,
    force: bool,
) -> None:
    """Write ESPHome YAML for a device and have ESPHome check it."""
    import mww_ha.deploy

    substitutions: dict[str, str] = {}
    for item in substitute:
        key, equals, value = item.partition("=")
        if not equals:
            raise click.UsageError(f"--substitute {item!r} is not key=value")
        substitutions[key] = value
    options: dict[str, Any] = {
        "board": board,
        "name": name,
        "also": also,
        "friendly_name": friendly_name,
        "substitutions": substitutions,
        "check": not no_check,
        "force": force,
        "report": session.report,
    }
    try:
        project = session.open_project()
    except ProjectError:
        if model is None:
            raise
        # Somebody else's model needs no project: esphome/ is made in the current folder.
        result = mww_ha.deploy.render.render(Path.cwd(), manifest_path=model, **options)
    else:
        result = mww_ha.deploy.run(project, manifest_path=model, **options)
    session.show(result, "\n".join([str(result.yaml_path), *result.messages]))


# --- The whole way ---------------------------------------------------------------------------------------------------

_STAGES = ("synthesize", "prepare", "train", "evaluate", "export")


@cli.command()
@click.option("--until", type=click.Choice(_STAGES), default=None, help="Last stage to run.")
@click.pass_obj
def run(session: Session, until: str | None) -> None:
    """Run whatever is out of date, in order."""
    from mww_ha import pipeline

    project = session.open_project()
    results = pipeline.run(project, until=until, report=session.report)
    lines: list[str] = []
    if "evaluate" in results:
        lines += [results["evaluate"]["summary"], "", f"report: {project.root / results['evaluate']['path']}"]
    if "export" in results:
        lines.append(f"model: {project.root / results['export']['manifest_path']}")
        lines.append("next: mww-ha render --board generic-s3 --name kitchen")
    session.show(results, "\n".join(lines) if lines else None)


@cli.command()
@click.argument("phrase")
@_LANGUAGE
@_EFFORT
@_BOARD
@click.option("--name", default=None, help="Name of the device; default: made from the phrase.")
@click.pass_obj
def quickstart(
    session: Session, phrase: str, language: str | None, effort: str | None, board: str, name: str | None
) -> None:
    """From PHRASE to model, report and ESPHome YAML in one go."""
    from mww_ha import pipeline

    root = session.new_root(phrase)
    summary = pipeline.quickstart(
        root,
        phrase,
        language=language or "en",
        effort=effort or "quick",
        board=board,
        name=name or root.name.replace("_", "-"),
        overrides=session.overrides,
        report=session.report,
    )
    session.show(summary)


# --- Looking at things -----------------------------------------------------------------------------------------------


@cli.group(invoke_without_command=True)
@click.pass_context
def runs(context: click.Context) -> None:
    """List the journal of trainings, newest first."""
    if context.invoked_subcommand is not None:
        return
    session: Session = context.obj
    documents = session.open_project().catalogue.runs()
    session.show(documents, _runs_table(documents))


@runs.command()
@click.argument("a")
@click.argument("b")
@click.pass_obj
def compare(session: Session, a: str, b: str) -> None:
    """Show in what two trainings differ. A and B: ids or their beginnings."""
    documents = session.open_project().catalogue.runs()
    left, right = (_find_run(documents, id) for id in (a, b))
    one, two = dict(_flat(left)), dict(_flat(right))
    rows = [(key, one.get(key), two.get(key)) for key in sorted(one.keys() | two.keys())]
    rows = [row for row in rows if row[1] != row[2]]
    found = {key: [left_value, right_value] for key, left_value, right_value in rows}
    session.show(found, _table([("", str(left["id"]), str(right["id"])), *rows]))


def _find_run(documents: Sequence[Mapping[str, Any]], id: str) -> Mapping[str, Any]:
    found = [d for d in documents if str(d.get("id", "")).startswith(id)]
    if len(found) != 1:
        reason = "no training is" if not found else f"{len(found)} trainings are"
        raise InputError(f"{reason} called {id!r}", hint="see: mww-ha runs")
    return found[0]


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _runs_table(documents: Sequence[Mapping[str, Any]]) -> str:
    from mww_ha.progress import duration

    if not documents:
        return "no training yet; start one with: mww-ha run"
    rows: list[tuple[Any, ...]] = [("id", "started", "outcome", "steps", "seed", "took", "metrics")]
    for document in documents:
        metrics = document.get("metrics") or {}
        numbers = [(k, v) for k, v in metrics.items() if isinstance(v, int | float)]
        rows.append(
            (
                document.get("id", ""),
                document.get("started_at", ""),
                document.get("outcome", ""),
                document.get("steps", ""),
                document.get("seed", ""),
                duration(document.get("duration_s") or 0.0),
                ", ".join(f"{name} {value:.4g}" for name, value in numbers[:4]),
            )
        )
    return _table(rows)


def _table(rows: Sequence[tuple[Any, ...]]) -> str:
    texts = [[f"{c:.6g}" if isinstance(c, float) else "-" if c is None else str(c) for c in row] for row in rows]
    widths = [max(len(row[i]) for row in texts) for i in range(len(texts[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in texts)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), required=False)
@click.option("--microphone", is_flag=True, help="Listen to this computer's microphone instead of a file.")
@click.option("--model", type=_FILE, required=True, metavar="M.json", help="Any ESPHome v2 manifest.")
@click.option("--cutoff", type=click.FloatRange(0, 1), default=None, help="Instead of the manifest's.")
@click.option("--window", type=click.IntRange(1, 255), default=None, help="Instead of the manifest's.")
@click.pass_obj
def listen(
    session: Session, file: Path | None, microphone: bool, model: Path, cutoff: float | None, window: int | None
) -> None:
    """Print detections in FILE, exactly as the device makes them.

    FILE - reads raw samples (16 kHz, mono, int16) from standard input as they come.
    """
    if (file is None) != microphone:
        raise click.UsageError("name a file, or --microphone")
    from mww_ha import listen as listening

    if file is not None and file != Path("-"):
        heard = listening.hear_file(file, model, cutoff=cutoff, window=window, report=session.report)
        lines = [_detection_line(found) for found in heard.detections]
        if not lines:
            lines = [
                f"no detection in {heard.duration_s:.1f} s; highest score {heard.peak:.3f} at {heard.peak_s:.2f} s"
            ]
        session.show(heard, "\n".join(lines))
        return
    if microphone:
        detections = listening.listen_microphone(model, cutoff=cutoff, window=window, report=session.report)
    else:
        detections = listening.listen_stream(sys.stdin.buffer, model, cutoff=cutoff, window=window)
    for found in detections:
        session.close_view()
        json_line = json.dumps({"type": "detection", **plain(found)})
        print(json_line if session.as_json else _detection_line(found), flush=True)


def _detection_line(found: Detection) -> str:
    return f"{found.time_s:9.2f} s  score {found.score:.3f}"


@cli.group()
def voices() -> None:
    """Voices that can speak the phrase."""


@voices.command("list")
@click.option("--language", default=None, metavar="CODE", help="Default: the project's, or en.")
@click.pass_obj
def voices_list(session: Session, language: str | None) -> None:
    """List the voices found, by engine."""
    from collections import Counter

    from mww_ha.synthesize.voices import find_voices

    dirs: list[Path] = []
    addresses: Sequence[str] = ()
    with contextlib.suppress(InputError):  # voices can be listed outside of a project too
        project = session.open_project()
        row = project.settings.synthesize
        dirs = [project.root / "voices", *(Path(d).expanduser() for d in row.voice_dirs)]
        addresses = row.wyoming
        language = language or project.settings.language
    found = find_voices(language or "en", dirs, addresses)
    lines = []
    for engine, count in sorted(Counter(voice.engine for voice in found).items()):
        names = sorted({voice.name for voice in found if voice.engine == engine})
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        lines.append(f"{engine}: {count} voices: {shown}")
    session.show(found, "\n".join(lines or [f"no voice speaks {language or 'en'}"]))


@voices.command("download")
@click.argument("name", required=False)
@click.option("--language", default=None, metavar="CODE", help="Language of the recommended voice; en.")
@click.pass_obj
def voices_download(session: Session, name: str | None, language: str | None) -> None:
    """Fetch a Piper voice: NAME, or the one recommended for the language."""
    from mww_ha.synthesize.voices import download_voice, recommend_voice, user_voices_dir

    if language is None:
        language = "en"
        with contextlib.suppress(InputError):  # voices are shared by all projects, but one may be open
            language = session.open_project().settings.language
    chosen = name or recommend_voice(language)
    session.report(Progress(stage="voices", message=f"downloading {chosen}"))
    path = download_voice(chosen, user_voices_dir())
    session.show({"voice": path}, f"{path}: used by every project from now on")


@cli.group()
def corpora() -> None:
    """Public recordings: backgrounds, speech, rooms."""


@corpora.command("list")
@click.pass_obj
def corpora_list(session: Session) -> None:
    """List what can be downloaded, with size and licence."""
    from mww_ha.record.corpora import CORPORA, read_ledger

    here = read_ledger(_corpora_dir())
    rows: list[tuple[Any, ...]] = [("name", "MB", "here", "licence", "what")]
    rows += [(c.name, f"{c.megabytes:,}", "yes" if c.name in here else "", c.licence, c.what) for c in CORPORA]
    session.show([{**plain(c), "here": c.name in here} for c in CORPORA], _table(rows))


@corpora.command("download")
@click.argument("name")
@click.pass_obj
def corpora_download(session: Session, name: str) -> None:
    """Download a corpus, once for all projects, and take it into this one."""
    from mww_ha.record.corpora import find_corpus, import_corpus

    corpus = find_corpus(name)
    session.show(import_corpus(session.open_project(), corpus, _corpora_dir(), report=session.report))


def _corpora_dir() -> Path:
    from mww_ha.synthesize.voices import user_voices_dir

    return user_voices_dir().parent / "corpora"


@cli.command()
@click.pass_context
def doctor(context: click.Context) -> None:
    """Say what is installed, what is missing, and what to do."""
    from mww_ha.doctor import examine

    session: Session = context.obj
    root: Path | None = None
    with contextlib.suppress(InputError):
        root = session.find_root()
    items = examine(root)
    lines = [f"{item.state:<6} {item.name}: {item.found}" + (f"\n       {item.way_out}" if item.way_out else "")
             for item in items]  # fmt: skip
    session.show(items, "\n".join(lines))
    if any(item.state == "broken" for item in items):
        context.exit(1)


# --- The border ------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one command and exits: 0, 1 for a defect of ours, or the exit code of the error's class."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's greetings are not errors
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    code = _run(Session(), list(sys.argv[1:] if arguments is None else arguments))
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    sys.exit(code)


def _stop(_number: int, _frame: object) -> None:
    """Ends worker processes at once: what they were at is made again, and nobody waits for half a minute."""
    if "multiprocessing" in sys.modules:
        for child in sys.modules["multiprocessing"].active_children():
            child.kill()
    raise KeyboardInterrupt


def _run(session: Session, arguments: list[str]) -> int:
    try:
        # Not cli.main(): it would answer some of the errors below in its own way.
        with cli.make_context("mww-ha", list(arguments), obj=session) as context:
            cli.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as end:
        return end.exit_code
    except (KeyboardInterrupt, click.Abort):
        return _fail(session, JobStoppedError(STOPPED))
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        return InputError.exit_code
    except click.ClickException as error:
        session.as_json = session.as_json or "--json" in arguments  # it may stand behind what is wrong
        usage = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else "mww-ha"
        return _fail(session, InputError(error.format_message(), hint=f"see: {usage} --help"))
    except MwwError as error:
        return _fail(session, error)
    except BrokenPipeError:
        # Whoever read us has gone, as `mww-ha runs | head` does. Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _EXTRAS:
            return _crash(session, error)
        hint = f"install it with: pip install 'mww-ha[{_EXTRAS[package]}]', or start with tools/mww-ha"
        return _fail(session, MissingDependencyError(f"{package} is not installed", hint=hint))
    except MemoryError:
        hint = "close other programs, or ask for less with --set, such as prepare.processes=1"
        return _fail(session, StorageError("the memory is full", hint=hint))
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return _crash(session, error)
        where = f" to write {error.filename}" if error.filename else ""
        return _fail(session, StorageError(f"no space left{where}", hint="free some space and run it again"))
    except Exception as error:  # noqa: BLE001  the job border: nobody else can tell the user
        return _crash(session, error)
    else:
        return 0
    finally:
        with contextlib.suppress(OSError):
            session.close_view()


def _fail(session: Session, error: MwwError) -> int:
    """Shows an error that the user can act on."""
    text = f"mww-ha: {error.message}" + (f"\n  {error.hint}" if error.hint else "")
    with contextlib.suppress(OSError):
        session.close_view()
        print(text, file=sys.stderr, flush=True)
    if session.as_json:
        kind = type(error).__name__
        line = {"type": "error", "error": kind, "message": error.message, "hint": error.hint}
        with contextlib.suppress(OSError):
            print(json.dumps({**line, "exit_code": error.exit_code}), flush=True)
    return error.exit_code


def _crash(session: Session, error: Exception) -> int:
    """A defect of ours: one line for the user, the traceback in a file."""
    name = f"mww-ha-crash-{time.strftime('%Y%m%d-%H%M%S')}.log"
    story = f"mww-ha {__version__}, Python {sys.version}\n{sys.argv}\n\n{''.join(traceback.format_exception(error))}"
    where = ""
    for folder in (session.root, Path(tempfile.gettempdir())):
        if folder is not None and folder.is_dir():
            with contextlib.suppress(OSError):
                (folder / name).write_text(story, encoding="utf-8")
                where = str(folder / name)
                break
    hint = f"this is a defect of mww-ha; please report it with {where}" if where else story
    return _fail(session, MwwError(f"unexpected {type(error).__name__}: {error}", hint=hint))
