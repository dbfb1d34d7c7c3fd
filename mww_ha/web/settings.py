"""What the page API answers about settings, voices, room on the disk, and the ESPHome that is elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from mww_ha import config
from mww_ha.config import Row, Settings
from mww_ha.errors import InputError, MwwError
from mww_ha.store import PROJECT_FILE, Project, change_settings
from mww_ha.web.openapi import Call, Route
from mww_ha.web.wire import Text

KindName = Literal[
    "text", "whole number", "number", "yes or no", "choice", "texts", "whole numbers", "numbers"
]  # of config.Row
Key = Annotated[str, Text(pattern="[a-z_]{1,40}([.][a-z_0-9]{1,60})?", longest=101)]

_LONGEST_PHRASE = 100
_MOST_NAMES = 12

# --- settings --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingView:
    """One setting as it is. A login in an address is not shown."""

    key: str  # dotted
    kind: KindName
    value: Any
    default: Any  # at the project's effort; null: it has to be given
    unit: str
    help: str
    choices: tuple[str, ...]
    is_set: bool  # it stands in project.yaml
    hides_login: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingChange:
    """What a setting shall be; null: its default."""

    key: Key
    value: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsBody:
    """Settings to change, all of them or none."""

    changes: list[SettingChange]


async def get_settings(call: Call) -> list[SettingView]:
    """Everything that can be set, with its value, its default and its help."""
    return await call.service.ask(list_settings)


def list_settings(project: Project) -> list[SettingView]:
    """All settings in their order."""
    document = yaml.safe_load((project.root / PROJECT_FILE).read_text(encoding="utf-8"))
    return [_view(row, project.settings, document) for row in config.list_rows()]


def _view(row: Row, settings: Settings, document: dict[str, Any]) -> SettingView:
    section, _, name = row.key.partition(".")
    value: Any = getattr(getattr(settings, section), name) if name else getattr(settings, section)
    shown = without_passwords(value)
    given = document.get(section)
    return SettingView(
        key=row.key,
        kind=row.kind,  # type: ignore[arg-type]
        value=shown,
        default=row.columns.get(settings.effort),
        unit=row.unit,
        help=row.help,
        choices=row.choices,
        is_set=name in (given or {}) if name else given is not None,
        hides_login=isinstance(value, str) and shown != value,
    )


def without_passwords(value: Any) -> Any:
    """Addresses such as http://user:password@host without what stands before the host."""
    if isinstance(value, dict):
        return {key: without_passwords(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_passwords(item) for item in value]
    if isinstance(value, str) and "@" in value:
        return re.sub(r"(?<=://)\S*@", "", value)
    return value


async def put_settings(call: Call, body: SettingsBody) -> list[SettingView]:
    """Change settings in project.yaml, whose comments stay. What runs keeps those it began with."""
    service = call.service
    await service.access.check_may_change(call.caller)
    changes = {change.key: change.value for change in body.changes}
    phrase = changes.get("phrase")
    if isinstance(phrase, str) and len(phrase) > _LONGEST_PHRASE:
        raise InputError(f"the phrase has {len(phrase)} characters", hint=f"at most {_LONGEST_PHRASE}")
    settings = await service.run(change_settings, service.root, changes)
    if service.intake is not None:
        service.intake.use(settings.capture)
    if service.link is not None and any(key.startswith(("home_assistant.", "mqtt.")) for key in changes):
        await service.link.restart()
    service.tell("settings", {"keys": sorted(changes)})
    return await service.ask(list_settings)


# --- voices ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineVoices:
    """The voices of one engine."""

    engine: str
    voices: int
    names: tuple[str, ...]  # the first few
    used: bool  # synthesize.engines names it, or names none


@dataclass(frozen=True, slots=True, kw_only=True)
class VoicesView:
    """Who can speak the project's language."""

    language: str
    engines: list[EngineVoices]
    recommended: str  # Piper's name of the voice to fetch; empty: none is known for the language
    has_recommended: bool
    can_download: bool  # Piper is installed
    problem: str  # with a speech server
    hint: str


async def get_voices(call: Call) -> VoicesView:
    """Who can speak the project's language, by engine."""
    return await call.service.ask_once(list_voices)


def list_voices(project: Project) -> VoicesView:
    """Voices by engine. A speech server that does not answer is a problem that is told; the others are there."""
    from mww_ha.synthesize.voices import find_voices, recommend_voice

    settings = project.settings
    dirs = [project.root / "voices", *(Path(d).expanduser() for d in settings.synthesize.voice_dirs)]
    problem = hint = recommended = ""
    try:
        found = find_voices(settings.language, dirs, settings.synthesize.wyoming)
    except MwwError as error:
        problem, hint = error.message, error.hint
        found = find_voices(settings.language, dirs)
    with contextlib.suppress(InputError):  # not every language has one
        recommended = recommend_voice(settings.language)
    names: dict[str, set[str]] = defaultdict(set)
    count: dict[str, int] = defaultdict(int)
    for voice in found:
        names[voice.engine].add(voice.name)
        count[voice.engine] += 1
    wanted = settings.synthesize.engines
    return VoicesView(
        language=settings.language,
        engines=[
            EngineVoices(
                engine=engine,
                voices=count[engine],
                names=tuple(sorted(names[engine])[:_MOST_NAMES]),
                used=not wanted or engine in wanted,
            )
            for engine in sorted(count)
        ],
        recommended=recommended,
        has_recommended=recommended in names["piper"],
        can_download=importlib.util.find_spec("piper") is not None,
        problem=problem,
        hint=hint,
    )


# --- room ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageView:
    """Room on the disk by kind, in bytes."""

    audio: int  # clips
    captures: int
    features: int
    runs: int
    models: int  # with their reports
    esphome: int  # what is rendered, and ESPHome's own builds
    rest: int  # the catalogue, the service's own, and what else lies there
    free: int
    total: int  # of the disk


_KINDS = {
    "audio": "audio",
    "captures": "captures",
    "features": "features",
    "runs": "runs",
    "models": "models",
    "reports": "models",
    "esphome": "esphome",
}


async def get_storage(call: Call) -> StorageView:
    """How much room the project takes, and how much is left."""
    return await call.service.ask_once(measure_storage)


def measure_storage(project: Project) -> StorageView:
    """Bytes by kind; a file that has two names, as features may, counts once."""
    sizes = dict.fromkeys([*_KINDS.values(), "rest"], 0)
    seen = set[tuple[int, int]]()
    for path in project.root.iterdir():
        kind = _KINDS.get(path.name, "rest")
        for status in _files_below(path):
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                sizes[kind] += status.st_size
    disk = shutil.disk_usage(project.root)
    return StorageView(**sizes, free=disk.free, total=disk.total)


def _files_below(path: Path) -> Iterator[os.stat_result]:
    if path.is_file():
        yield path.stat()
        return
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                yield os.stat(os.path.join(folder, name), follow_symlinks=False)  # noqa: PTH116, PTH118  100,000 of them
            except FileNotFoundError:
                continue  # something else is at work here


# --- ESPHome elsewhere -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BuilderView:
    """Whether the ESPHome that is elsewhere can be reached. ``state``: off (not set) | ok | failed."""

    builder: Literal["off", "ok", "failed"]
    title: str  # "Device Builder", "ESPHome dashboard"
    esphome_version: str
    folder: Literal["off", "ok", "failed"]
    error: str
    hint: str


async def check_builder(call: Call) -> BuilderView:
    """Ask the Device Builder or dashboard who it is, and look at the folder that firmware is handed to."""
    await call.service.access.check_may_change(call.caller)  # it sends the login that is in the address
    return await call.service.ask(look_at_builder)


def look_at_builder(project: Project) -> BuilderView:
    """What ``flash.builder_url`` and ``flash.handoff_dir`` are worth now. Blocks for some seconds at the most."""
    from mww_ha.deploy.dashboard import Timeouts, greet

    settings = project.settings.flash
    view = BuilderView(builder="off", title="", esphome_version="", folder="off", error="", hint="")
    if settings.handoff_dir:
        folder = project.root / Path(settings.handoff_dir).expanduser()
        if folder.is_dir() and os.access(folder, os.W_OK):
            view = dataclasses.replace(view, folder="ok")
        else:
            error, hint = f"{folder} is no folder that can be written to", "set flash.handoff_dir to ESPHome's own"
            view = dataclasses.replace(view, folder="failed", error=error, hint=hint)
    if settings.builder_url:
        try:
            title, version = greet(settings.builder_url, Timeouts(connect_s=3.0, answer_s=5.0))
            view = dataclasses.replace(view, builder="ok", title=title, esphome_version=version)
        except MwwError as problem:
            view = dataclasses.replace(view, builder="failed", error=problem.message, hint=problem.hint)
    return view


SETTINGS_ROUTES = (
    Route(method="GET", path="/api/settings", handler=get_settings),
    Route(method="PUT", path="/api/settings", handler=put_settings),
    Route(method="GET", path="/api/voices", handler=get_voices),
    Route(method="GET", path="/api/storage", handler=get_storage),
    Route(method="POST", path="/api/builder/check", handler=check_builder),
)
"""The routes about settings and what they name."""
