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
import re
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click
from click.core import ParameterSource

from mww_ha import __version__
from mww_ha.errors import (
    FlashError,
    InputError,
    JobStoppedError,
    MissingDependencyError,
    MwwError,
    ProjectError,
    StorageError,
    how_to_install,
)
from mww_ha.schema import CaptureKind, Label, Origin, Progress

if TYPE_CHECKING:
    from mww_ha.deploy.render import RenderResult
    from mww_ha.detector import Detection
    from mww_ha.devices import Seen
    from mww_ha.progress import View
    from mww_ha.record.people import Removed
    from mww_ha.record.sessions import Told
    from mww_ha.schema import Device, Flash
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

    def serving_root(self) -> Path:
        """The project directory; where none is found, the current folder, for a project that is still to be made."""
        from mww_ha.errors import ProjectError

        try:
            return self.find_root()
        except ProjectError:
            self.root = Path.cwd()
            return self.root

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


_LANGUAGE = click.option(
    "--language", default=None, metavar="CODE", help="Language of the phrase, such as de; default: en."
)
_EFFORT = click.option(
    "--effort",
    type=click.Choice(["quick", "good", "best"]),
    default=None,
    help="How much time a model may cost: minutes, an hour, a night.",
)
_BOARD = click.option(
    "--board", default="generic-s3", show_default=True, help="Kind of device; see: mww-ha devices templates."
)
_SUBSTITUTE = click.option(
    "--substitute", multiple=True, metavar="KEY=VALUE", help="A substitution of the board's template."
)
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
    """Start a project for PHRASE, in a folder named after it or in --project DIR. What you --set it keeps."""
    from mww_ha.store import PROJECT_FILE, create_project
    from mww_ha.synthesize.phrases import check_phrase

    root = session.new_root(phrase)
    existed = (root / PROJECT_FILE).exists()
    notes: list[str] = []
    try:
        notes += [] if existed else check_phrase(phrase, language or "en").warnings
    except (MissingDependencyError, ModuleNotFoundError) as error:
        notes.append(f"the phrase was not checked: {error.args[0]}")
    project = create_project(root, phrase, language=language, effort=effort, keep=session.overrides)
    project.catalogue.close()
    settings = project.settings
    said = f"{root}: a project for {settings.phrase!r}"
    if existed:
        said += f" exists already, with language {settings.language} and effort {settings.effort}; it stays as it is"
    lines = [said, *(f"note: {note}" for note in notes)]
    lines.append(f"next: mww-ha run --project {shlex.quote(str(root))}")
    result = {"project": root, "phrase": settings.phrase, "existed": existed, "notes": notes}
    session.show(result, "\n".join(lines))


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
    if result.completed:
        lines.append(f"{result.completed} of the known completed by what is said of them now")
    if result.skipped:
        lines.append(f"{result.skipped} files passed over: not sound by their names")
    lines += [f"rejected: {name}: {reason}" for name, reason in result.rejected]
    lines += _some(result.differing)
    lines += _some(result.relabelled, "warning: ")
    lines += _some(result.doubtful, "doubtful, but taken: ")
    lines += _remind_of_consent(session.open_project(), result.speakers)
    if result.doubtful:
        lines.append("listen to them; what is no wake word goes with: mww-ha clips, mww-ha clips delete ID")
    session.show(result, "\n".join(lines))


_DOUBTS_SHOWN = 20


def _some(reasons: Sequence[tuple[str, str]], begin: str = "") -> list[str]:
    lines = [f"{begin}{name}: {reason}" for name, reason in reasons[:_DOUBTS_SHOWN]]
    more = len(reasons) - _DOUBTS_SHOWN
    return [*lines, f"... and {more} more"] if more > 0 else lines


def _remind_of_consent(project: Project, speakers: Sequence[str]) -> list[str]:
    from mww_ha.record.people import find_unnoted

    unnoted = find_unnoted(project, speakers)
    lines = [
        f"nobody noted that {name} agreed to be recorded; if so: mww-ha people agree {name!r}"
        for name in unnoted[:_DOUBTS_SHOWN]
    ]
    more = len(unnoted) - _DOUBTS_SHOWN
    return [*lines, f"... and of {more} more; see: mww-ha people"] if more > 0 else lines


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
    """Make the model file, once it has passed all checks."""
    from mww_ha import pipeline

    session.show(pipeline.run_stage(session.open_project(), "export", report=session.report))


_FIRMWARE_OPTIONS = (
    click.option("--friendly-name", default="", help="Name shown in Home Assistant."),
    click.option("--yaml", "yaml_path", default="", metavar="FILE", help="Your own YAML that includes the package."),
    click.option("--also", multiple=True, metavar="MODEL", help="A further wake word: a model's id or its manifest."),
    click.option("--vad", default="", metavar="vad|FILE", help="Voice activity detection: ESPHome's model or yours."),
    click.option("--capture-url", default="", metavar="URL", help="Where captures go: http://<IP>:8098/api/captures."),
    click.option("--near-miss", is_flag=True, help="A second slot listens with a low cutoff (needs --capture-url)."),
    _SUBSTITUTE,
)


def _firmware_options(function: Function) -> Function:
    for option in reversed(_FIRMWARE_OPTIONS):
        function = option(function)
    return function


@cli.command()
@click.option(
    "--device", "device_name", default=None, metavar="NAME", help="A device of devices.yaml, as it stands there."
)
@_BOARD
@click.option("--name", default=None, help="Name of the device, such as kitchen.")
@click.option("--model", type=_FILE, metavar="M.json", help="A manifest; default: the project's newest model.")
@_firmware_options
@click.option("--no-check", is_flag=True, help="Do not ask ESPHome whether it accepts the result.")
@click.option("--force", is_flag=True, help="Replace files that were changed by hand; they are kept as *.bak.")
@click.pass_context
def render(
    context: click.Context,
    /,
    device_name: str | None,
    name: str | None,
    model: Path | None,
    no_check: bool,
    force: bool,
    **firmware: Any,
) -> None:
    """Write ESPHome YAML for a device and have ESPHome check it."""
    from mww_ha import deploy

    session: Session = context.obj
    if (device_name is None) == (name is None):
        raise click.UsageError("name the device: --name NAME with its --board, or --device NAME of devices.yaml")
    options: dict[str, Any] = {"check": not no_check, "force": force, "report": session.report}
    if device_name is not None:
        from mww_ha.devices.known import find_device

        _refuse_firmware_options(context, device_name)
        project = session.open_project()
        device = find_device(project, device_name)
        result = deploy.render_device(project, device, manifest_path=_chosen_model(project, model), **options)
        _admit_captures(session, project)
    else:
        result = _render_board(session, str(name), model, options, **firmware)
    session.show(result, "\n".join([str(result.yaml_path), *result.messages]))


_KEYS = {
    "board": "template",
    "friendly_name": "friendly_name",
    "yaml_path": "yaml",
    "also": "also",
    "vad": "vad",
    "capture_url": "capture_url",
    "near_miss": "near_miss",
    "substitute": "substitutions",
}
"""Where devices.yaml has what an option says of a device that does not stand there."""


def _refuse_firmware_options(context: click.Context, device: str) -> None:
    given = [
        parameter
        for parameter in context.command.params
        if parameter.name in _KEYS and context.get_parameter_source(parameter.name) is ParameterSource.COMMANDLINE
    ]
    if given:
        names = ", ".join(parameter.opts[0] for parameter in given)
        keys = ", ".join(f"{_KEYS[str(parameter.name)]}:" for parameter in given)
        raise click.UsageError(
            f"{names} cannot be given with --device {device}, whose firmware is what devices.yaml says: change {keys} "
            f"in its entry there, or render without it by --name {device}"
        )


def _render_board(
    session: Session,
    name: str,
    model: Path | None,
    options: dict[str, Any],
    *,
    board: str,
    friendly_name: str,
    yaml_path: str,
    also: tuple[str, ...],
    vad: str,
    capture_url: str,
    near_miss: bool,
    substitute: tuple[str, ...],
) -> RenderResult:
    from mww_ha import deploy

    options |= {
        "board": board,
        "name": name,
        "friendly_name": friendly_name or None,
        "yaml": yaml_path,
        "vad": vad,
        "capture": deploy.render.Capture(url=capture_url) if capture_url else None,
        "near_miss": near_miss,
        "substitutions": _substitutions(substitute),
    }
    try:
        project = session.open_project()
    except ProjectError:
        if model is None:
            raise
        # Somebody else's model needs no project: esphome/ is made in the current folder.
        return deploy.render.render(Path.cwd(), manifest_path=model, also=[Path(path) for path in also], **options)
    return deploy.run(
        project, manifest_path=model, also=[deploy.find_model(project, entry) for entry in also], **options
    )


# --- Devices ---------------------------------------------------------------------------------------------------------

_DEVICE = click.option("--device", "device_name", required=True, metavar="NAME", help="A device of devices.yaml.")
_BACKEND = click.option(
    "--backend",
    type=click.Choice(["esphome", "builder", "handoff"]),
    default=None,
    help="Way to the device, instead of the one in devices.yaml.",
)
_SERIAL = click.option("--serial", default=None, metavar="PORT", help="Flash by cable, such as /dev/ttyACM0.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Check and render everything, compile and flash nothing.")
_FORCE_FLASH = click.option(
    "--force", is_flag=True, help="Flash although it runs there already, or although a check on the device warns."
)


@cli.group(invoke_without_command=True)
@click.option("--seconds", type=click.FloatRange(0.2, 60), default=3.0, show_default=True, help="How long to listen.")
@click.pass_context
def devices(context: click.Context, seconds: float) -> None:
    """List satellites: known ones, those on the network, and what each runs."""
    if context.invoked_subcommand is not None:
        return
    import asyncio

    from mww_ha.devices import survey

    session: Session = context.obj
    project = session.open_project()
    session.report(Progress(stage="devices", message=f"listening on the network for {seconds:g} s"))
    seen = asyncio.run(survey(project, seconds))
    session.show(seen, _devices_table(seen))


def _devices_table(seen: Sequence[Seen]) -> str:
    if not seen:
        return "no device known and none found; add one with: mww-ha devices add kitchen --template generic-s3"
    rows: list[tuple[Any, ...]] = [("name", "in project", "address", "template", "ESPHome", "wake model", "state")]
    for device in seen:
        state = (
            "reachable"
            if device.reachable
            else device.why_not or ("on the network" if device.found else "not reachable")
        )
        rows.append(
            (
                device.name,
                "yes" if device.known else "",
                device.address,
                device.template,
                device.esphome_version,
                device.wake_model,
                state,
            )
        )
    return _table(rows)


@devices.command("add")
@click.argument("name")
@click.option("--template", required=True, metavar="BOARD", help="Kind of device; see: mww-ha devices templates.")
@click.option("--address", default="", help="IP address or host name; default: NAME.local.")
@click.option("--port", type=click.IntRange(1, 65535), default=6053, show_default=True, help="Port of its native API.")
@click.option(
    "--backend",
    type=click.Choice(["esphome", "builder", "handoff"]),
    default="esphome",
    show_default=True,
    help="Who builds the firmware: ESPHome here, a Device Builder, or you in ESPHome.",
)
@click.option("--serial", default="", metavar="PORT", help="Serial port, for flashing by cable.")
@click.option("--api-key", default=None, metavar="SECRET", help="Name of its key in esphome/secrets.yaml; '': none.")
@click.option("--room", default="", metavar="NAME", help="Where it stands; rates are told by room too.")
@_firmware_options
@click.pass_obj
def devices_add(
    session: Session,
    /,
    name: str,
    template: str,
    api_key: str | None,
    yaml_path: str,
    substitute: tuple[str, ...],
    **rest: Any,
) -> None:
    """Note a satellite in devices.yaml, which is yours to edit."""
    from mww_ha import deploy
    from mww_ha.devices.known import add_device, clean_host_name
    from mww_ha.schema import Device

    project = session.open_project()
    options = dict(rest)
    if api_key is not None:
        options["api_key"] = api_key
    host = clean_host_name(name)
    if not options["friendly_name"] and "-".join(name.lower().split()) != host:
        options["friendly_name"] = name  # what the host name could not keep
    device = Device(
        name=host,
        template=template,
        yaml=yaml_path,
        substitutions=_substitutions(substitute),
        **options,
    )
    deploy.check_device(project, device)
    path = add_device(project, device)
    session.show(device, f"{device.name} stands in {path}\n{_next_for(device)}")


def _next_for(device: Device) -> str:
    from mww_ha.deploy.boards import find_board

    complete = find_board(device.template).complete
    if not complete and not device.yaml:
        return f"next: mww-ha render --device {device.name}, which says what to add to its own YAML"
    if not complete or device.serial or device.backend == "handoff":
        return f"next: mww-ha flash --device {device.name}"
    return (
        f"next: mww-ha flash --device {device.name} --serial /dev/ttyACM0\n"
        "      by cable the first time; from then on over the air, without --serial"
    )


@devices.command("templates")
@click.pass_obj
def devices_templates(session: Session) -> None:
    """List the kinds of devices."""
    from mww_ha.deploy.boards import boards

    known = boards()
    session.show(known, _table([("template", "for"), *((board.id, board.title) for board in known)]))


@cli.command()
@click.option("--device", "device_name", default=None, metavar="NAME", help="A device of devices.yaml.")
@click.option("--all", "every", is_flag=True, help="Every device of devices.yaml, one after the other.")
@click.option("--model", type=_FILE, metavar="MODEL", help="A model's id or manifest; default: the newest one.")
@_BACKEND
@_SERIAL
@_DRY_RUN
@_FORCE_FLASH
@click.option("--confirm", is_flag=True, help="Only ask the device what it runs: after a hand-off.")
@click.pass_obj
def flash(
    session: Session,
    device_name: str | None,
    every: bool,
    model: Path | None,
    backend: str | None,
    serial: str | None,
    dry_run: bool,
    force: bool,
    confirm: bool,
) -> None:
    """Flash a model onto a satellite and prove that it arrived."""
    if (device_name is None) != every:
        raise click.UsageError("name a device with --device NAME, or say --all")
    if every and confirm:
        raise click.UsageError("--confirm asks one device: name it with --device NAME")
    from mww_ha.deploy import flash as flashing

    project = session.open_project()
    options: dict[str, Any] = {"dry_run": dry_run, "force": force, "report": session.report}
    options["manifest_path"] = _chosen_model(project, model)
    if every:
        from mww_ha.devices.known import load_devices

        listed = [dataclasses.replace(d, **_change(backend, serial)) for d in load_devices(project).values()]
        results = flashing.flash_all(project, devices=listed, **options)
        _admit_captures(session, project)
        session.show(results, "\n".join(_flash_line(result) for result in results))
        bad = [result.device for result in results if result.outcome in ("failed", "stopped")]
        if bad:
            raise FlashError(
                f"{len(bad)} of {len(results)} devices failed: {', '.join(bad)}",
                hint="try one of them again with: mww-ha flash --device " + bad[0],
            )
        return
    device = _find_device(project, str(device_name), backend, serial)
    if confirm:
        result = flashing.confirm(project, device, report=session.report)
    else:
        result = flashing.flash(project, device, **options)
    _admit_captures(session, project)
    session.show(result, _flash_line(result))


@cli.command()
@_DEVICE
@_BACKEND
@_SERIAL
@_DRY_RUN
@click.pass_obj
def rollback(session: Session, device_name: str, backend: str | None, serial: str | None, dry_run: bool) -> None:
    """Take a satellite back to the model it ran before."""
    from mww_ha.deploy import flash as flashing

    project = session.open_project()
    device = _find_device(project, device_name, backend, serial)
    result = flashing.rollback(project, device, dry_run=dry_run, report=session.report)
    session.show(result, _flash_line(result))


@cli.command()
@_DEVICE
@click.option("--model", type=_FILE, required=True, metavar="NEXT", help="The model to try out: its id or manifest.")
@_BACKEND
@_SERIAL
@_DRY_RUN
@click.pass_obj
def canary(
    session: Session, device_name: str, model: Path, backend: str | None, serial: str | None, dry_run: bool
) -> None:
    """Let a satellite hear with the NEXT model too: it counts and captures, and never wakes.

    The model that wakes stays. The canary goes with the next flash.
    """
    from mww_ha.deploy import flash as flashing

    project = session.open_project()
    device = _find_device(project, device_name, backend, serial)
    running = flashing.current_flash(project, device.name)
    result = flashing.flash(
        project,
        device,
        manifest_path=flashing.find_kept_model(project, running.model) if running else None,
        canary=_chosen_model(project, model),
        dry_run=dry_run,
        report=session.report,
    )
    session.show(result, _flash_line(result))


@cli.command()
@click.option("--device", "device_name", default=None, metavar="NAME", help="Only of this device.")
@click.pass_obj
def flashes(session: Session, device_name: str | None) -> None:
    """List what was flashed, newest first."""
    from mww_ha.deploy.flash import settle_interrupted
    from mww_ha.progress import duration

    project = session.open_project()
    for name in {row.device for row in project.catalogue.flashes(device_name)}:
        settle_interrupted(project, name)
    found = project.catalogue.flashes(device_name)
    rows: list[tuple[Any, ...]] = [("started", "device", "model", "outcome", "step", "took", "message")]
    for one in found:
        first, *more = one.message.splitlines() or [""]
        # a list says nothing by its first line
        causes = [line.strip() for line in more if re.match(r"\s+\d+\. ", line)]
        message = " ".join([first, *causes])
        shown = f"{one.model} + canary {one.canary}" if one.canary else one.model
        rows.append((one.started_at, one.device, shown, one.outcome, one.step, duration(one.duration_s), message))
    session.show(found, _table(rows) if found else "nothing flashed yet; do it with: mww-ha flash --device NAME")


@cli.command()
@click.option("--to", type=_DIRECTORY, required=True, metavar="DIR", help="Folder to publish into.")
@click.option("--model", type=_FILE, metavar="MODEL", help="A model's id or manifest; default: the newest one.")
@click.option(
    "--layout",
    type=click.Choice(["home-assistant", "repository"]),
    default="home-assistant",
    show_default=True,
    help="Home Assistant's custom_wake_words, or a folder for a public repository.",
)
@click.option("--id", "model_id", default="", help="Id of the model, which is its file name; default: the phrase.")
@click.option(
    "--force", is_flag=True, help="Although a device cannot load it or a speaker did not agree; replaces other models."
)
@click.pass_obj
def publish(session: Session, to: Path, model: Path | None, layout: str, model_id: str, force: bool) -> None:
    """Lay a model out for Home Assistant's custom_wake_words or for sharing."""
    from mww_ha.deploy.publish import publish as lay_out

    chosen: Any = layout  # click lets nothing else through
    project = session.open_project()
    given = _chosen_model(project, model)
    result = lay_out(project, to=to, manifest_path=given, layout=chosen, id=model_id, force=force)
    session.show(result, "\n".join([*map(str, result.paths), *result.messages]))


def _admit_captures(session: Session, project: Project) -> None:
    """The service takes captures of every device whose firmware carries a token."""
    from mww_ha.capture.tokens import admit_rendered

    for error in admit_rendered(project):  # the firmware is on the device all the same
        session.report(Progress(stage="captures", message=f"captures will not be taken: {error}"))


def _chosen_model(project: Project, model: Path | None) -> Path | None:
    """The manifest that ``--model`` names by its path or by the model's id; None: the newest. Raises InputError."""
    from mww_ha.deploy import find_model

    return model if model is None or model.is_file() else find_model(project, str(model))


def _find_device(project: Project, name: str, backend: str | None, serial: str | None) -> Device:
    from mww_ha.devices.known import find_device

    return dataclasses.replace(find_device(project, name), **_change(backend, serial))


def _change(backend: str | None, serial: str | None) -> dict[str, Any]:
    """What the command line says instead of devices.yaml."""
    return {key: value for key, value in (("backend", backend), ("serial", serial)) if value is not None}


def _substitutions(items: Sequence[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals:
            raise click.UsageError(f"--substitute {item!r} is not key=value")
        values[key] = value
    return values


def _next_with_devices(project: Project) -> str:
    from mww_ha.devices.known import load_devices

    names = list(load_devices(project))
    if not names:
        return "mww-ha devices add kitchen --template generic-s3, then mww-ha flash --device kitchen"
    return f"mww-ha flash --device {names[0]}" if len(names) == 1 else "mww-ha flash --all"


def _flash_line(flash: Flash) -> str:
    from mww_ha.progress import duration

    what = f"{flash.model} + canary {flash.canary}" if flash.canary else flash.model
    took = f" in {duration(flash.duration_s)}" if flash.duration_s else ""
    line = f"{flash.device}: {what}: {flash.outcome}{took}"
    return f"{line}\n  {flash.message}" if flash.message else line


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
        steps = (pipeline.way_into(project.root), _next_with_devices(project))
        lines.append("next: " + ", then ".join(filter(None, steps)))
    session.show(results, "\n".join(lines) if lines else None)


@cli.command()
@click.argument("phrase")
@_LANGUAGE
@_EFFORT
@_BOARD
@click.option("--name", default=None, help="Name of the device; default: made from the folder's name.")
@_SUBSTITUTE
@click.pass_obj
def quickstart(
    session: Session,
    phrase: str,
    language: str | None,
    effort: str | None,
    board: str,
    name: str | None,
    substitute: tuple[str, ...],
) -> None:
    """From PHRASE to model, report and ESPHome YAML in one go."""
    from mww_ha import pipeline

    root = session.new_root(phrase)
    summary = pipeline.quickstart(
        root,
        phrase,
        language=language,
        effort=effort,
        board=board,
        name=_device_name(root) if name is None else name,
        substitutions=_substitutions(substitute),
        overrides=session.overrides,
        report=session.report,
    )
    session.show(summary)


def _device_name(root: Path) -> str:
    """A host name for the satellite of the project at ``root``, whatever its folder is called."""
    from mww_ha.devices.known import LONGEST_NAME
    from mww_ha.store import slugify

    return slugify(root.resolve().name)[:LONGEST_NAME].strip("_").replace("_", "-")


# --- People ----------------------------------------------------------------------------------------------------------


@cli.command()
@click.option(
    "--device", "device_name", required=True, metavar="NAME", help="A satellite: of devices.yaml, or an entity."
)
@click.option("--person", required=True, metavar="NAME", help="Who speaks.")
@click.option("--takes", type=click.IntRange(1, 500), default=20, show_default=True, help="How often to say it.")
@click.option(
    "--via",
    type=click.Choice(["satellite", "home-assistant"]),
    default="satellite",
    show_default=True,
    help="Our firmware, which hears as the model does; or any satellite, through Home Assistant.",
)
@click.option("--agrees", is_flag=True, help="The person agrees to be recorded; without it that is asked.")
@click.option("--may-share", is_flag=True, help="The recordings may leave the household.")
@click.pass_obj
def record(
    session: Session, device_name: str, person: str, takes: int, via: str, agrees: bool, may_share: bool
) -> None:
    """Record a person at a satellite, take by take; what is wrong with one is said at once."""
    import asyncio

    from mww_ha.record import sessions
    from mww_ha.web.link import read_access
    from mww_ha.web.recording import record as record_takes

    project = session.open_project()
    access = read_access(project.settings, project.root, os.environ) if via == "home-assistant" else None
    name = _agree(project, person, agrees=agrees, may_share=may_share)
    sitting = sessions.find_open(project, name)
    if sitting:
        session.report(Progress(stage="record", message="going on with what was begun"))

    def tell(told: Told) -> None:
        count = f"{told.number}/{told.total} " if told.number else ""
        session.report(Progress(stage="record", message=f"{count}{told.text}"))

    chosen: Any = via  # click lets nothing else through
    outcome = asyncio.run(
        record_takes(
            sessions.ask_here(project),
            device=device_name,
            via=chosen,
            person=name,
            takes=takes,
            sitting=sitting,
            access=access,
            tell=tell,
        )
    )
    lines = [f"{outcome.taken} of {outcome.wanted} takes of {outcome.person}, {outcome.refused} refused"]
    lines += [outcome.why] if outcome.why else []
    lines += [*outcome.notes, "next: mww-ha run" if outcome.finished else "the same command goes on"]
    session.show(outcome, "\n".join(lines))


def _agree(project: Project, person: str, *, agrees: bool, may_share: bool) -> str:
    """The person's name as it was noted, after their consent. Raises InputError without it."""
    from mww_ha.record import people

    with contextlib.suppress(InputError):
        return people.find_person(project, person).name
    name = people.clean_name(person)
    if not agrees:
        question = f"Does {name} agree to be recorded, {people.PURPOSE}?"
        if not (sys.stdin.isatty() and click.confirm(question, err=True)):
            raise InputError(f"{name} has not agreed to be recorded", hint="ask, and say so with --agrees")
    return people.note_consent(project, name, noted_by=_login(), may_share=may_share).name


@cli.group(invoke_without_command=True)
@click.pass_context
def people(context: click.Context) -> None:
    """List who agreed to be recorded, and how much there is of whom."""
    if context.invoked_subcommand is not None:
        return
    session: Session = context.obj
    project = session.open_project()
    from collections import Counter

    from mww_ha.record.people import find_unnoted
    from mww_ha.schema import Person

    rows: list[tuple[Any, ...]] = [("name", "agreed", "noted by", "may be shared", "clips")]
    clips = Counter(clip.speaker.casefold() for clip in project.catalogue.clips())
    known = project.catalogue.people()
    unnoted = find_unnoted(project)
    for person in known:
        shared = "yes" if person.may_share else "no"
        rows.append((person.name, person.consented_at, person.noted_by, shared, clips[person.name.casefold()]))
    rows += [(name, "not noted", "", "no", clips[name.casefold()]) for name in unnoted]
    text = _table(rows) if len(rows) > 1 else "nobody yet; record somebody with: mww-ha record --person NAME ..."
    if unnoted:
        text += "\nnote who agreed with: mww-ha people agree NAME; or: mww-ha people forget NAME"
    others = [Person(name=name, consented_at="", noted_by="", purpose="", may_share=False) for name in unnoted]
    session.show([*known, *others], text)


@people.command("agree")
@click.argument("name")
@click.option("--may-share", is_flag=True, help="The recordings may leave the household.")
@click.pass_obj
def people_agree(session: Session, name: str, may_share: bool) -> None:
    """Note that a person agreed to be recorded: before a session in the browser, or an import of their voice."""
    from mww_ha.record.people import note_consent

    person = note_consent(session.open_project(), name, noted_by=_login(), may_share=may_share)
    session.show(person, f"{person.name} agreed on {person.consented_at[:10]}: {person.purpose}")


@people.command("forget")
@click.argument("name")
@click.pass_obj
def people_forget(session: Session, name: str) -> None:
    """Delete everything of a person: sound, features, sessions; models that heard it are marked."""
    from mww_ha.record.people import delete_person

    _show_removed(session, delete_person(session.open_project(), name))


def _show_removed(session: Session, removed: Removed) -> None:
    lines = [f"{removed.files} sound files, {len(removed.clips)} clips, {len(removed.captures)} captures deleted"]
    if removed.models:
        lines.append(f"heard them, and marked: {', '.join(removed.models)}")
        lines.append("next: mww-ha run, which makes a model that never did")
    lines += [f"still named in {path}, which is yours" for path in removed.still_named]
    session.show(removed, "\n".join(lines))


@cli.group(invoke_without_command=True)
@click.option("--speaker", default=None, metavar="NAME", help="Only of this person.")
@click.option("--label", type=click.Choice([str(label) for label in Label]), default=None, help="Only these.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Length of the list.")
@click.pass_context
def clips(context: click.Context, speaker: str | None, label: str | None, limit: int) -> None:
    """List recordings: takes, imports and judged captures; not what synthesizers said."""
    if context.invoked_subcommand is not None:
        return
    session: Session = context.obj
    project = session.open_project()
    wanted = [Label(label)] if label else []
    found = [clip for clip in project.catalogue.clips(*wanted) if clip.origin is not Origin.SYNTHESIZED]
    found = [clip for clip in found if speaker is None or clip.speaker.casefold() == speaker.casefold()]
    rows: list[tuple[Any, ...]] = [("id", "label", "origin", "speaker", "seconds", "source", "sound")]
    for clip in found[:limit]:
        sound = project.root / clip.path
        rows.append((clip.id, clip.label, clip.origin, clip.speaker, f"{clip.duration_s:.2f}", clip.source, sound))
    text = _table(rows) if found else "no recordings; see: mww-ha record, mww-ha import"
    session.show(found[:limit], f"{text}\n... and {len(found) - limit} more" if len(found) > limit else text)


@clips.command("delete")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.pass_obj
def clips_delete(session: Session, ids: tuple[str, ...]) -> None:
    """Delete clips: sound, features, and the captures they were cut from; models that heard them are marked."""
    from mww_ha.record.people import delete_clips

    project = session.open_project()
    known = {clip.id for clip in project.catalogue.clips()}
    if missing := [id for id in ids if id not in known]:
        raise InputError(f"no clip {missing[0]}", hint="see: mww-ha clips")
    _show_removed(session, delete_clips(project, ids))


@cli.command()
@click.option("--force", is_flag=True, help="Also with few new verdicts, and offer the model whatever comes out.")
@click.option(
    "--fresh/--warm", default=None, help="From the beginning, or from the current model; default: as it fits."
)
@click.pass_obj
def retrain(session: Session, force: bool, fresh: bool | None) -> None:
    """Learn from what was judged, compare with the current model, and offer what is not worse."""
    from mww_ha.retrain import retrain as train_again

    proposal = train_again(session.open_project(), fresh=fresh, force=force, report=session.report)
    lines = [proposal.text()]
    if proposal.model:
        lines.append(
            "next: mww-ha flash --all, or try it first: mww-ha canary --device NAME --model " + proposal.manifest_path
            if proposal.offer
            else f"not offered; flash it all the same with: mww-ha flash --device NAME --model {proposal.manifest_path}"
        )
    session.show(proposal.as_json(), "\n".join(lines))


# --- Captures --------------------------------------------------------------------------------------------------------


@cli.group(invoke_without_command=True)
@click.option(
    "--order",
    type=click.Choice(["newest", "oldest", "informative"]),
    default="informative",
    show_default=True,
    help="What comes first.",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="Length of the list.")
@click.pass_context
def captures(context: click.Context, order: str, limit: int) -> None:
    """List what satellites sent and nobody has judged yet."""
    if context.invoked_subcommand is not None:
        return
    from mww_ha.capture.review import list_waiting
    from mww_ha.capture.score import score_pending

    session: Session = context.obj
    project = session.open_project()
    score_pending(project, report=session.report)
    total, waiting = list_waiting(project, order=order, limit=limit)
    if project.settings.record.stt:
        from mww_ha.record.transcribe import transcribe_captures

        try:
            transcribe_captures(project, [item.capture for item in waiting], report=session.report)
        except MwwError as error:  # a hint less
            session.report(Progress(stage="captures", message=str(error)))
        total, waiting = list_waiting(project, order=order, limit=limit)
    rows: list[tuple[Any, ...]] = [("id", "when", "device", "kind", "score", "cutoff", "hints", "sound")]
    for item in waiting:
        capture, score = item.capture, item.score
        peak, cutoff = (f"{score.peak:.2f}", f"{score.cutoff:.2f}") if score and not score.problem else ("", "")
        hints = [*(["called a false wake"] if item.reported else []), *item.hints]
        when = capture.captured_at[:16].replace("T", " ")
        sound = project.root / capture.path
        rows.append((capture.id, when, capture.device, capture.kind, peak, cutoff, "; ".join(hints), sound))
    known = [{**plain(item), "score": {**plain(item.score), "trace": None}} if item.score else item for item in waiting]
    text = _table(rows) if waiting else "nothing waits to be judged"
    session.show(known, f"{text}\n... and {total - len(waiting)} more" if total > len(waiting) else text)


@captures.command("judge")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option(
    "--as",
    "verdict",
    type=click.Choice(["wake", "false_accept", "missed_wake", "other", "discard", "undecided"]),
    required=True,
    help="What they are; missed_wake: a near miss that should have woken.",
)
@click.option("--person", default=None, help="Who speaks.")
@click.option("--by", default=None, help="Who judges; default: you, by your login.")
@click.pass_obj
def captures_judge(session: Session, ids: tuple[str, ...], verdict: str, person: str | None, by: str | None) -> None:
    """Say what captures are. Nothing is learned from what nobody judged."""
    from mww_ha.capture.review import judge
    from mww_ha.schema import Verdict

    project = session.open_project()
    changed = judge(project, ids, Verdict(verdict), by=by or _login(), person=person)
    _weigh_canaries(session, project)
    session.show(changed, f"{len(changed)} judged as {verdict}, {len(ids) - len(changed)} were so before")


@captures.command("undo")
@click.option("--by", default=None, help="Who judged; default: you, by your login.")
@click.pass_obj
def captures_undo(session: Session, by: str | None) -> None:
    """Take back what you judged last."""
    from mww_ha.capture.review import undo

    project = session.open_project()
    changed = undo(project, by=by or _login())
    _weigh_canaries(session, project)
    session.show(changed, "\n".join(changed))


def _weigh_canaries(session: Session, project: Project) -> None:
    """Verdicts count in a canary's offer at once; that is told where they decide something."""
    if not project.catalogue.captures(kinds=[CaptureKind.CANARY], limit=1):
        return
    from mww_ha.retrain import weigh_canaries

    for weighed in weigh_canaries(project):
        if weighed.outcome != "no difference":
            session.report(Progress(stage="canary", message=weighed.text().splitlines()[0]))


@captures.command("delete")
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.pass_obj
def captures_delete(session: Session, ids: tuple[str, ...]) -> None:
    """Delete captures at once: sound, history, clips and features; models that learned from them are marked."""
    from mww_ha.record.people import delete_captures

    project = session.open_project()
    known = {capture.id for capture in project.catalogue.captures(ids)}
    if missing := [id for id in ids if id not in known]:
        raise InputError(f"no capture {missing[0]}", hint="it may have expired or been deleted; see: mww-ha captures")
    _show_removed(session, delete_captures(project, ids))


@captures.command("rates")
@click.option(
    "--by", "keys", multiple=True, type=click.Choice(["device", "room", "model"]), help="Default: device and model."
)
@click.option("--since", default="", metavar="DAY", help="From this day (UTC) on, such as 2026-11-01.")
@click.pass_obj
def captures_rates(session: Session, keys: tuple[str, ...], since: str) -> None:
    """Tell how often satellites woke wrongly in the field, and how often they heard whom."""
    from mww_ha.capture.rates import measure_field, measure_recall
    from mww_ha.devices.known import rooms_of
    from mww_ha.retrain import weigh_canaries

    project = session.open_project()
    field = measure_field(project, by=keys or ("device", "model"), rooms=rooms_of(project), since=since)
    recall = measure_recall(project, since=since)
    lines = [
        f"{' '.join(filter(None, (rate.device, rate.room, rate.model))) or 'elsewhere'}: {rate.text()}"
        for rate in field
    ]
    lines += [f"{row.person or 'somebody'}, {row.model}: {row.text()}" for row in recall]
    canaries = weigh_canaries(project)
    lines += [weighed.text() for weighed in canaries]
    told = {"field": field, "recall": recall, "canaries": canaries}
    session.show(told, "\n".join(lines) or "no listening hours yet")


@cli.group(invoke_without_command=True)
@click.pass_context
def tokens(context: click.Context) -> None:
    """List which satellites may send captures, and when each did last."""
    if context.invoked_subcommand is not None:
        return
    from mww_ha.capture.tokens import list_tokens

    session: Session = context.obj
    known = list_tokens(session.open_project())
    rows: list[tuple[Any, ...]] = [("device", "made", "last used", "state")]
    for token in known:
        state = f"revoked {token.revoked_at}" if token.revoked_at else "in force"
        rows.append((token.device, token.made_at, token.last_used_at or "never", state))
    told = [{**plain(token), "sha256": token.sha256[:16]} for token in known]
    session.show(told, _table(rows) if known else "none; a satellite with a capture_url gets one when it is flashed")


@tokens.command("make")
@click.argument("device")
@click.pass_obj
def tokens_make(session: Session, device: str) -> None:
    """Make a token for a satellite whose firmware is not made here. It is shown this once."""
    from mww_ha.capture.tokens import make_token
    from mww_ha.devices.known import find_device

    project = session.open_project()
    name = find_device(project, device).name
    token = make_token(project, name)
    session.show({"device": name, "token": token}, f"{token}\n  lets {name} add captures; it is not shown again")


@tokens.command("revoke")
@click.argument("device")
@click.pass_obj
def tokens_revoke(session: Session, device: str) -> None:
    """End every token of a satellite: nothing that it sends is taken any more."""
    from mww_ha.capture.tokens import list_tokens, revoke_tokens

    project = session.open_project()
    number = revoke_tokens(project, device)
    if not number:
        names = sorted({token.device for token in list_tokens(project) if not token.revoked_at})
        raise InputError(f"no token of {device!r} is in force", hint=f"in force: {', '.join(names) or 'none'}")
    session.show({"revoked": number}, f"{number} ended; a flash does not renew it before its line is deleted in "
                 "esphome/mww_ha/capture/secrets.yaml")  # fmt: skip


def _login() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without an entry, as in some containers
        return "cli"


# --- The service -----------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of the page.")
@click.option("--port", type=click.IntRange(0, 65535), default=8099, show_default=True, help="Port of the page.")
@click.option("--device-host", default=None, help="Address for the satellites; default: every one of this computer.")
@click.option("--device-port", type=click.IntRange(0, 65535), default=8098, show_default=True, help="Port for them.")
@click.option("--no-devices", is_flag=True, help="Take no captures from satellites.")
@click.option(
    "--ingress", is_flag=True, help="Behind Home Assistant: let in its ingress instead of asking for a token."
)
@click.option("--admin", "admins", multiple=True, metavar="ID", help="A user of Home Assistant who may change things.")
@click.option("--host-name", "host_names", multiple=True, metavar="NAME", help="A further name of this computer.")
@click.option("--new-token", is_flag=True, help="Make a new token for the page; the old one ends.")
@click.pass_obj
def serve(session: Session, /, port: int, device_port: int, no_devices: bool, **options: Any) -> None:
    """Run the service: the panel and its API, jobs, and the place that satellites send captures to.

    Where there is no project yet, the panel asks for a phrase and makes one.
    """
    from mww_ha.store import PROJECT_FILE
    from mww_ha.web.app import serve as run_service

    root = session.serving_root()
    if (root / PROJECT_FILE).exists():
        project = session.open_project()
        _admit_captures(session, project)
        project.catalogue.close()
    session.close_view()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    run_service(root, port=port, device_port=None if no_devices else device_port, say=say, **options)


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
    from mww_ha.train.journal import compare_runs

    documents = session.open_project().catalogue.runs()
    left, right = (_find_run(documents, id) for id in (a, b))
    rows = compare_runs(left, right)
    found = {row.key: [row.one, row.other] for row in rows}
    table = [(row.key, row.one, row.other) for row in rows]
    session.show(found, _table([("", str(left["id"]), str(right["id"])), *table]))


def _find_run(documents: Sequence[Mapping[str, Any]], id: str) -> Mapping[str, Any]:
    found = [d for d in documents if str(d.get("id", "")).startswith(id)]
    if len(found) != 1:
        reason = "no training is" if not found else f"{len(found)} trainings are"
        raise InputError(f"{reason} called {id!r}", hint="see: mww-ha runs")
    return found[0]


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
@click.option(
    "--language", default=None, metavar="CODE", help="Language of the recommended voice; default: the project's, or en."
)
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


@cli.group(invoke_without_command=True)
@click.pass_context
def training(context: click.Context) -> None:
    """What training needs, where it is not part of the installation: whether it is here, install, remove."""
    if context.invoked_subcommand is None:
        from mww_ha.train.install import look

        context.obj.show(look())


@training.command("install")
@click.pass_obj
def training_install(session: Session) -> None:
    """Fetch TensorFlow and the speech engines, once there is disk and memory for them."""
    from mww_ha.train.install import install

    session.show(install(report=session.report))


@training.command("remove")
@click.pass_obj
def training_remove(session: Session) -> None:
    """Delete them again."""
    from mww_ha.train.install import remove

    session.show(remove())


@training.command("link", hidden=True)
@click.pass_obj
def training_link(session: Session) -> None:
    """Let this environment find what ``install`` will put there; the app's image is built with it."""
    from mww_ha.train.install import link

    session.show({"path_file": link()})


@cli.command("export-project")
@click.argument("file", type=_FILE)
@click.pass_obj
def export_project(session: Session, file: Path) -> None:
    """Write the project into FILE: all that could not be made again, and no secrets."""
    from mww_ha.archive import check_target, write_archive
    from mww_ha.store import atomic_write

    project = session.open_project()
    check_target(project, file)
    size = 0
    with atomic_write(file.resolve()) as out:
        for piece in write_archive(project):
            out.write(piece)
            size += len(piece)
            session.report(Progress(stage="export-project", done=round(size / 1e6, 1), unit="MB"))
    lines = [f"{file}: {size / 1e6:.1f} MB", f"elsewhere: mww-ha import-project {file.name} --project DIR"]
    session.show({"file": file, "bytes": size}, "\n".join(lines))


@cli.command("import-project")
@click.argument("file", type=_FILE)
@click.pass_obj
def import_project(session: Session, file: Path) -> None:
    """Take the project in FILE over into --project DIR, or a new folder here that is named after FILE."""
    from mww_ha.archive import SUFFIX, read_archive

    name = file.name.removesuffix(SUFFIX) if file.name.endswith(SUFFIX) else file.stem
    root = session.project_dir if session.project_dir is not None else Path.cwd() / name
    total = file.stat().st_size if file.is_file() else 0

    def tell(done: int) -> None:
        session.report(
            Progress(stage="import-project", done=round(done / 1e6, 1), total=round(total / 1e6, 1), unit="MB")
        )

    taken = read_archive(file, root, check=tell)
    lines = [
        f"{root}: {taken.phrase!r} with {taken.clips} clips, {taken.captures} captures, {taken.models} models",
        *([f"{taken.missing} sounds were gone when the archive was made"] if taken.missing else []),
        *(f"set it again, it named something of the other machine: {key}" for key in taken.left_out),
        "not in an archive: esphome/secrets.yaml with Wi-Fi and API keys; copy it, or mww-ha render makes a new one",
    ]
    session.show(taken, "\n".join(lines))


@cli.command()
@click.pass_context
def doctor(context: click.Context) -> None:
    """Say what is installed, what is missing, and what to do."""
    from mww_ha.doctor import examine

    session: Session = context.obj
    root: Path | None = None
    with contextlib.suppress(InputError):
        root = session.find_root()
    items = examine(root, wanted=session.project_dir is not None)
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
        hint = how_to_install(_EXTRAS[package])
        return _fail(session, MissingDependencyError(f"{package} is not installed", hint=hint))
    except MemoryError:
        hint = "close other programs, or ask for less with --set, such as prepare.processes=1"
        return _fail(session, StorageError("the memory is full", hint=hint))
    except Exception as error:  # noqa: BLE001  the job border: nobody else can tell the user
        known = _explain(session, error)
        return _fail(session, known) if known else _crash(session, error)
    else:
        return 0
    finally:
        with contextlib.suppress(OSError):
            session.close_view()


def _explain(session: Session, error: Exception) -> MwwError | None:
    """What the system or SQLite says, where it is the user's to mend; None: it is a defect of ours."""
    if isinstance(error, OSError):
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" to write {error.filename}" if error.filename else ""
            return StorageError(f"no space left{where}", hint="free some space and run it again")
        if error.filename and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG):
            said = f"cannot use {error.filename}: {error.strerror}"
            return StorageError(said, hint="check owner and permissions, or name another place")
    if session.root is not None and type(error).__module__ == "sqlite3":
        from mww_ha.store import CATALOGUE_FILE, explain_storage

        return explain_storage(error, session.root / CATALOGUE_FILE)
    return None


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
