"""A model and a board → YAML for ESPHome, checked with ESPHome itself.

Everything lands in ``<project>/esphome/``: ``<name>.yaml``, the templates it includes, the model under a name that
carries its hash (ESPHome does not notice a changed ``.tflite`` under an old name), and ``secrets.yaml`` when there is
none. A file that somebody changed by hand is never overwritten. ESPHome runs as a child process and is never imported.
"""

from __future__ import annotations

import base64
import contextlib
import difflib
import hashlib
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import mww_ha
from mww_ha import store
from mww_ha.detector import Manifest, cutoff_of_probability, load_manifest, read_model
from mww_ha.errors import ConfigError, InputError, ManifestError, ToolError
from mww_ha.schema import Progress, ProgressSink, no_progress

TEMPLATES_MINIMUM_ESPHOME = "2026.6.0"
"""Oldest ESPHome the templates were generated with; each board's ``min_version`` says the same."""

LONGEST_NAME = 31
"""ESPHome's limit for a host name without a MAC suffix."""

LONGEST_FRIENDLY_NAME = 120
"""ESPHome's limit in bytes."""

SECRETS_FILE = "secrets.yaml"
_SECRET_NAMES = ("wifi_ssid", "wifi_password", "mww_api_encryption_key", "mww_ota_password")
_WIFI_PLACEHOLDERS = {"wifi_ssid": "your-wifi-name", "wifi_password": "your-wifi-password"}

_MARK = "# Rendered by mww-ha, digest "
_LEVELS = ("slightly", "moderately", "very")
_OURS_TO_SET = ("name", "friendly_name", "wake_model_file", "wake_model_id", "wake_model_version")
_MAY_BE_SET = ("wake_cutoff", "wake_window")


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A kind of device: what to call it and the templates it is made of."""

    id: str
    title: str
    packages: tuple[str, ...]


_BOARDS = (
    Board(id="generic-s3", title="ESP32-S3 with PSRAM and an I2S microphone", packages=("generic-s3",)),
    Board(
        id="generic-s3-speaker",
        title="ESP32-S3 with PSRAM, an I2S microphone and an I2S amplifier",
        packages=("generic-s3", "generic-s3-speaker"),
    ),
    Board(id="esp32-s3-box-3", title="Espressif ESP32-S3-BOX-3 (screen unused)", packages=("esp32-s3-box-3",)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderResult:
    """What was written, whether ESPHome accepted it, and what the user still has to know or do."""

    yaml_path: Path
    checked: bool
    esphome_version: str  # empty: not installed, or not asked
    messages: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Model:
    manifest: Manifest
    slug: str
    sha8: str
    stem: str  # <slug>-<sha8>
    tflite: bytes
    levels: tuple[dict[str, Any], ...]  # none, or one per entry of _LEVELS in that order

    @property
    def id(self) -> str:
        # The prefix keeps clear of C++ words, of the names of ESPHome's components ("light", "voice_assistant",
        # "wake_on_lan") and of leading digits, all of which ESPHome refuses as ids.
        if _is_empty_slug(self.slug, self.manifest.wake_word):
            return f"model_{hashlib.sha256(self.manifest.wake_word.encode()).hexdigest()[:8]}"
        return f"model_{self.slug}"


def templates_dir() -> Path:
    """The folder of the ESPHome templates: inside the installed package, or beside it in a checkout."""
    package = Path(mww_ha.__file__).parent
    for folder in (package / "esphome_templates", package.parent / "esphome_templates"):
        if (folder / "voice_assistant.yaml").is_file():
            return folder
    raise InputError("the ESPHome templates are missing", hint="install mww-ha again")


def boards() -> list[Board]:
    """Every board that can be rendered for."""
    return list(_BOARDS)


def find_board(id: str) -> Board:
    """The board of that id. Raises InputError that names the nearest one."""
    known = {board.id: board for board in _BOARDS}
    if id in known:
        return known[id]
    close = difflib.get_close_matches(id.lower().replace("_", "-"), known, n=1, cutoff=0.3)
    hint = f"did you mean {close[0]}? " if close else ""
    raise InputError(f"no board is called {id!r}", hint=f"{hint}known boards: {', '.join(known)}")


def clean_name(name: str) -> str:
    """``name`` as an ESPHome host name: lower-case letters, digits, hyphens, at most 31. Raises InputError.

    Names become paths, so anything that looks like one is refused and not repaired.
    """
    if any(c in name for c in "/\\\0") or name.strip().startswith(".") or ".." in name:
        raise InputError(f"{name!r} is a path, not a device name", hint="use a name such as kitchen")
    slug = store.slugify(name)
    if _is_empty_slug(slug, name):
        raise InputError(f"{name!r} holds no letter or digit of a host name", hint="use a name such as kitchen")
    host = slug.replace("_", "-")
    if len(host) > LONGEST_NAME:
        raise InputError(
            f"the device name {host!r} has {len(host)} characters", hint=f"ESPHome allows {LONGEST_NAME}; shorten it"
        )
    if f"{host}.yaml" == SECRETS_FILE:
        raise InputError(f"{SECRETS_FILE} belongs to the user", hint="choose another device name")
    return host


def _is_empty_slug(slug: str, text: str) -> bool:
    """Nothing of ``text`` is left in its slug: another script, or only signs."""
    return slug == store.slugify("") and "wake" not in text.lower()


def render(
    project: store.Project | Path,
    *,
    board: str,
    name: str,
    manifest_path: Path,
    also: Sequence[Path] = (),
    friendly_name: str | None = None,
    substitutions: Mapping[str, str] | None = None,
    check: bool = True,
    force: bool = False,
    timeout_s: float = 180.0,
    find_tool: Callable[[], list[str] | None] | None = None,
    report: ProgressSink = no_progress,
) -> RenderResult:
    """Writes ``<project>/esphome/<name>.yaml`` with all it includes and has ESPHome check it.

    ``project`` may be any folder. ``also`` are manifests of further wake words on the same device. ``substitutions``
    override those the board's templates declare; ``vad_model`` among them turns voice activity detection on.
    ``force`` replaces files changed by hand, which are kept as ``*.bak``. ``timeout_s`` is per ESPHome run.

    Raises InputError, ConfigError, ManifestError or ModelFileError before anything is written, StorageError while
    writing, and ToolError when ESPHome is too old (nothing written) or refuses the result (the files stay).
    """
    chosen = find_board(board)
    host = clean_name(name)
    shown = _clean_friendly_name(friendly_name if friendly_name is not None else host.replace("-", " ").capitalize())
    models = [_read_model(path) for path in (manifest_path, *also)]
    _check_together(models)
    packages = _packages(chosen, models[0], substitutions or {})
    values = _substitutions(packages, host, shown, models, substitutions or {})
    folder = project.esphome_dir if isinstance(project, store.Project) else project / "esphome"
    secrets_path = folder / SECRETS_FILE
    if secrets_path.exists():
        _check_secrets(secrets_path)

    messages: list[str] = []
    command = (find_tool or find_esphome)() if check else None
    version = ""
    if command:
        version = _esphome_version(command, timeout_s)
        _check_version(version, models)
    elif check:
        messages.append("not checked: ESPHome is not installed here; get it with: pip install esphome")
    else:
        messages.append("not checked with ESPHome, as asked")

    yaml_path = folder / f"{host}.yaml"
    owned = {folder / "mww_ha" / f"{p}.yaml": (templates_dir() / f"{p}.yaml").read_text("utf-8") for p in packages}
    owned[yaml_path] = _document(chosen, packages, values, models)
    _refuse_changed_by_hand(owned, force)

    report(Progress(stage="render", message=f"writing {yaml_path}"))
    for model in models:
        _write_model(folder / "models", model)
    if _create_secrets(secrets_path):
        messages.append(f"made {secrets_path} with a fresh API key and OTA password; keep it to yourself")
    for path, body in owned.items():
        _write_owned(path, body)
    if unfilled := _wifi_placeholders(secrets_path):
        messages.append(f"fill in your Wi-Fi before flashing: {' and '.join(unfilled)} in {secrets_path}")
    if command:
        _check_with_esphome(command, yaml_path, secrets_path, timeout_s, report)
        messages.append(f"ESPHome {version} accepts {yaml_path.name} and generates its source; it was not compiled")
    return RenderResult(yaml_path=yaml_path, checked=bool(command), esphome_version=version, messages=tuple(messages))


# --- the model ----------------------------------------------------------------------------------------------------


def _read_model(path: Path) -> _Model:
    manifest = load_manifest(path)
    tflite = read_model(manifest.model_path)
    # the naming of export/manifest.py; a manifest from elsewhere gets a hash into its name here
    slug = store.slugify(manifest.wake_word)[:64].rstrip("_")
    sha8 = hashlib.sha256(tflite).hexdigest()[:8]
    return _Model(
        manifest=manifest,
        slug=slug,
        sha8=sha8,
        stem=f"{slug}-{sha8}",
        tflite=tflite,
        levels=_read_levels(path.with_suffix(".about.json")),
    )


def _read_levels(about: Path) -> tuple[dict[str, Any], ...]:
    """The sensitivity levels of a model's metadata, in the order of _LEVELS; empty when it has none."""
    try:
        document = json.loads(about.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise ManifestError(f"{about} cannot be read: {error}", hint="export the model again, or remove it") from None
    listed = document.get("levels") if isinstance(document, dict) else None
    if not listed:
        return ()
    by_name = {level.get("name"): level for level in listed if isinstance(level, dict)}
    for name in _LEVELS:
        cutoff = by_name.get(name, {}).get("probability_cutoff")
        if not isinstance(cutoff, int | float) or isinstance(cutoff, bool) or not 0 < cutoff < 1:
            raise ManifestError(
                f"{about}: the level {name!r} has the probability_cutoff {cutoff!r}",
                hint=f"levels are {', '.join(_LEVELS)}, each with a probability_cutoff between 0 and 1",
            )
    return tuple(by_name[name] for name in _LEVELS)


def _check_together(models: Sequence[_Model]) -> None:
    first = models[0].manifest
    for number, model in enumerate(models[1:], 1):
        manifest = model.manifest
        if manifest.step_ms != first.step_ms:
            raise ManifestError(
                f"{manifest.path} has a step of {manifest.step_ms} ms, {first.path} one of {first.step_ms} ms",
                hint="models on one device must share the step; leave one out or train it again",
            )
        for other in models[:number]:
            if model.id == other.id:
                raise ManifestError(
                    f"{manifest.path} and {other.manifest.path} are both for {manifest.wake_word!r}",
                    hint="put one model per phrase on a device",
                )


def _write_model(folder: Path, model: _Model) -> None:
    """The model and its manifest, unchanged but for the file name; the manifest comes last."""
    tflite = folder / f"{model.stem}.tflite"
    if not (tflite.is_file() and tflite.read_bytes() == model.tflite):
        with store.atomic_write(tflite) as file:
            file.write(model.tflite)
    document = json.loads(model.manifest.path.read_text(encoding="utf-8-sig"))
    store.write_json(folder / f"{model.stem}.json", {**document, "model": tflite.name})


# --- the YAML -----------------------------------------------------------------------------------------------------


def _packages(board: Board, model: _Model, given: Mapping[str, str]) -> tuple[str, ...]:
    # a cutoff of the user's is meant to hold: the levels would replace it at every start
    levels = ("sensitivity",) if model.levels and "wake_cutoff" not in given else ()
    return (*board.packages, "network", "voice_assistant", *levels, *(("vad",) if "vad_model" in given else ()))


def _substitutions(
    packages: Sequence[str], host: str, shown: str, models: Sequence[_Model], given: Mapping[str, str]
) -> dict[str, str]:
    first = models[0]
    values = {
        "name": host,
        "friendly_name": shown,
        "wake_model_file": f"models/{first.stem}.json",
        "wake_model_id": first.id,
        "wake_model_version": ", ".join(f"{m.slug} {m.sha8}" for m in models),
        # also in the manifest; here so that a change of either changes the hash ESPHome takes of the configuration
        "wake_cutoff": str(first.manifest.probability_cutoff),
        "wake_window": str(first.manifest.sliding_window),
    }
    for level in first.levels if "sensitivity" in packages else ():
        values[f"wake_cutoff_{level['name']}"] = str(cutoff_of_probability(level["probability_cutoff"]))
    declared = [*_MAY_BE_SET, *(key for package in packages for key in _declared_substitutions(package))]
    for key, value in given.items():
        if key not in declared:
            close = difflib.get_close_matches(key, [*declared, "vad_model"], n=1, cutoff=0.4)
            hint = f"did you mean {close[0]}? " if close else ""
            if key in _OURS_TO_SET:
                hint = "it follows from the device's name and the model; "
            raise ConfigError(
                f"the substitution {key!r} cannot be set", hint=f"{hint}can be set: {', '.join(declared)}, vad_model"
            )
        if not isinstance(value, str) or not value.isprintable():
            raise ConfigError(f"the substitution {key} is {value!r}", hint="give it a text of one line")
        values[key] = value
    return values


class _TemplateLoader(yaml.SafeLoader):
    """Reads a template's plain values and ignores ESPHome's tags."""


def _ignore_tag(*_: object) -> None:
    return None


_TemplateLoader.add_multi_constructor("!", _ignore_tag)


def _declared_substitutions(package: str) -> list[str]:
    text = (templates_dir() / f"{package}.yaml").read_text("utf-8")
    document = yaml.load(text, Loader=_TemplateLoader)  # noqa: S506 - a SafeLoader
    return list(document.get("substitutions") or ())


def _clean_friendly_name(text: str) -> str:
    shown = " ".join(text.split())
    bad = sorted({c for c in shown if not c.isprintable() or c in '/\\"${}<>'})
    if bad:
        raise InputError(
            f"the friendly name {text!r} holds {' '.join(map(repr, bad))}", hint="use letters, digits and spaces"
        )
    if not shown or len(shown.encode()) > LONGEST_FRIENDLY_NAME:
        raise InputError(
            f"the friendly name is {'empty' if not shown else 'too long'}",
            hint=f"use 1 to {LONGEST_FRIENDLY_NAME} bytes",
        )
    return shown


def _document(board: Board, packages: Sequence[str], values: Mapping[str, str], models: Sequence[_Model]) -> str:
    """The device's YAML without its first line. Values are quoted as JSON, which YAML reads the same."""
    lines = [
        f"# {_one_line(values['friendly_name'])}: {board.title}",
        "# Render again rather than edit: mww-ha does not overwrite a file that was changed by hand. To add or change",
        "# something, write a YAML of your own beside this one that includes it; its values win:",
        "#   packages:",
        f"#     device: !include {values['name']}.yaml",
        "#   substitutions:",
        '#     mic_gain: "8"',
        "substitutions:",
    ]
    for key, value in values.items():
        if key == f"wake_cutoff_{_LEVELS[0]}":
            lines += ['  # What the levels of the entity "Wake word sensitivity" mean, as measured for this model:']
            lines += [f"  #   {_describe_level(level)}" for level in models[0].levels]
        lines.append(f"  {key}: {json.dumps(value, ensure_ascii=False)}")
    lines += ["", "packages:", *(f"  {p.replace('-', '_')}: !include mww_ha/{p}.yaml" for p in packages)]
    if models[1:]:
        lines += ["", "# further wake words: switch between them in the device's voice settings in Home Assistant"]
        lines += ["micro_wake_word:", "  models:"]
        for model in models[1:]:
            lines += [
                f"    - model: models/{model.stem}.json",
                f"      id: {model.id}",
                f"      probability_cutoff: {model.manifest.probability_cutoff}",
                f"      sliding_window_size: {model.manifest.sliding_window}",
            ]
    return "\n".join(lines) + "\n"


def _describe_level(level: Mapping[str, Any]) -> str:
    parts = [f"{level['name']} sensitive: cutoff {cutoff_of_probability(level['probability_cutoff'])} of 255"]
    for key, words in (("recall", "recall"), ("false_accepts_per_hour", "false accepts per hour")):
        rate = level.get(key)
        try:
            if isinstance(rate, Mapping):
                value, low, high = (float(rate[k]) for k in ("value", "low", "high"))
                exposure = float(rate["exposure"])
                basis = f"{exposure:.0f} takes" if key == "recall" else f"{exposure:.1f} h"
                parts.append(f"{words} {value:.3g} ({low:.3g} to {high:.3g}, {basis})")
        except (KeyError, TypeError, ValueError):
            parts.append(f"{words} unreadable")
    if isinstance(level.get("measured_on"), str):
        parts.append(f"measured on {_one_line(level['measured_on'])}")
    return ", ".join(parts)


def _one_line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


# --- files of ours and of the user --------------------------------------------------------------------------------


def _signed(body: str) -> str:
    return f"{_MARK}{hashlib.sha256(body.encode()).hexdigest()}\n{body}"


def _is_untouched(text: str) -> bool:
    first, _, body = text.partition("\n")
    return first.startswith(_MARK) and first.removeprefix(_MARK) == hashlib.sha256(body.encode()).hexdigest()


def _refuse_changed_by_hand(files: Mapping[Path, str], force: bool) -> None:
    for path in files:
        if not path.exists():
            continue
        try:
            text = path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError):
            text = ""
        if _is_untouched(text):
            continue
        if not force:
            what = "was changed by hand" if text.startswith(_MARK) else "was not made by mww-ha"
            raise ConfigError(
                f"{path} {what} and is left as it is",
                hint="choose another --name, move the file away, or replace it with --force (it is kept as .bak)",
            )
        with store.storage_errors(path):
            shutil.copy2(path, path.with_name(f"{path.name}.bak"))


def _write_owned(path: Path, body: str) -> None:
    text = _signed(body)
    if not (path.is_file() and path.read_bytes() == text.encode()):
        store.write_text(path, text)


def _create_secrets(path: Path) -> bool:
    """Makes ``secrets.yaml`` for its owner only; never touches one that is there. True when it was made."""
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    text = (
        "# Yours: mww-ha made this once and never writes it again. Do not share it.\n"
        f'wifi_ssid: "{_WIFI_PLACEHOLDERS["wifi_ssid"]}"\n'
        f'wifi_password: "{_WIFI_PLACEHOLDERS["wifi_password"]}"\n'
        "# Home Assistant asks for this key when it finds the device.\n"
        f'mww_api_encryption_key: "{key}"\n'
        f'mww_ota_password: "{secrets.token_urlsafe(18)}"\n'
    )
    if path.exists():
        return False
    with store.storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".secrets.", suffix=".part", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.link(name, path)  # unlike a rename it fails when another process was first
        except FileExistsError:
            return False
        finally:
            Path(name).unlink(missing_ok=True)
    ignored = path.with_name(".gitignore")
    if not ignored.exists():
        store.write_text(ignored, f"/{SECRETS_FILE}\n/.esphome/\n")
    return True


def _read_secrets(path: Path) -> dict[str, Any]:
    try:
        # BaseLoader: every scalar as the text it is, so 0123 stays 0123
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506 - builds no objects
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        # the parser's own message would quote the line, and with it a password
        raise ConfigError(f"{path} cannot be read as YAML", hint="write one 'name: \"value\"' per line") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds no secrets", hint=f"it needs {', '.join(_SECRET_NAMES)}")
    return document


def _check_secrets(path: Path) -> None:
    document = _read_secrets(path)
    missing = [name for name in _SECRET_NAMES if name not in document]
    if missing and "<<" not in document:  # "<<": more secrets from another file, which ESPHome resolves
        raise ConfigError(
            f"{path} lacks {', '.join(missing)}",
            hint="it is yours, so add them yourself; a key is made by: openssl rand -base64 32",
        )


def _wifi_placeholders(path: Path) -> list[str]:
    document = _read_secrets(path)
    return [name for name, placeholder in _WIFI_PLACEHOLDERS.items() if document.get(name) == placeholder]


# --- ESPHome ------------------------------------------------------------------------------------------------------


def find_esphome() -> list[str] | None:
    """How to start ESPHome: with this interpreter, or the one on the PATH; None when there is none."""
    spec = importlib.util.find_spec("esphome")
    if spec is not None and spec.origin is not None:  # a project's own folder "esphome" is found without an origin
        return [sys.executable, "-P", "-m", "esphome"]
    found = shutil.which("esphome")
    return [found] if found else None


def _esphome_version(command: Sequence[str], timeout_s: float) -> str:
    code, output = _run([*command, "version"], Path.cwd(), timeout_s)
    match = re.search(r"Version:\s*(\S+)", output)
    if code != 0 or not match:
        raise ToolError(
            f"ESPHome does not start: {' '.join(command)} version\n{_relevant_lines(output)}",
            hint="repair it with: pip install --force-reinstall esphome; or render unchecked with --no-check",
        )
    return match.group(1)


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _check_version(version: str, models: Iterable[_Model]) -> None:
    needs = [(m.manifest.minimum_esphome_version, str(m.manifest.path)) for m in models]
    for wanted, who in [*needs, (TEMPLATES_MINIMUM_ESPHOME, "the set of templates")]:
        if _version_key(version) < _version_key(wanted):
            raise ToolError(
                f"ESPHome {version} is too old: {who} needs {wanted}",
                hint="update it with: pip install --upgrade esphome; or render unchecked with --no-check",
            )


def _check_with_esphome(
    command: Sequence[str], yaml_path: Path, secrets_path: Path, timeout_s: float, report: ProgressSink
) -> None:
    steps = (("config",), ("compile", "--only-generate"))
    for number, step in enumerate(steps):
        report(Progress(stage="render", message=f"esphome {' '.join(step)}", done=number, total=len(steps)))
        code, output = _run([*command, *step, yaml_path.name], yaml_path.parent, timeout_s)
        if code == 0:
            continue
        lines = _relevant_lines(_redact(output, _scalars(_read_secrets(secrets_path))))
        hint = f"the file is kept at {yaml_path}"
        if "Not a valid model name" in lines:
            hint += "; a model that ESPHome has to download (vad_model) needs the internet"
        raise ToolError(f"esphome {' '.join(step)} refuses {yaml_path.name} (exit code {code}):\n{lines}", hint=hint)
    report(Progress(stage="render", message="accepted by ESPHome", done=len(steps), total=len(steps)))


def _run(command: Sequence[str], folder: Path, timeout_s: float) -> tuple[int, str]:
    """Exit code and output (both streams). On a timeout or an interrupt nothing of the child is left running."""
    environment = {**os.environ, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "GIT_TERMINAL_PROMPT": "0"}
    try:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # ESPHome starts children of its own; the group is stopped as one
        )
    except OSError as error:
        raise ToolError(
            f"cannot start {command[0]}: {error.strerror}", hint="repair it with: pip install --force-reinstall esphome"
        ) from None
    try:
        output, _ = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _stop_group(child)
        raise ToolError(
            f"{' '.join(command[-3:])} did not end within {timeout_s:g} s and was stopped",
            hint="ESPHome may be waiting for the network; try again, or render unchecked with --no-check",
        ) from None
    except BaseException:
        _stop_group(child)
        raise
    return child.returncode, output.decode("utf-8", "replace")


def _stop_group(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.communicate()


def _scalars(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _scalars(item)]
    if isinstance(value, list):
        return [text for item in value for text in _scalars(item)]
    return [value] if isinstance(value, str) and value else []


def _redact(text: str, hidden: Iterable[str]) -> str:
    """``text`` without the values in ``hidden``, without keys, and without what ESPHome only paints invisible."""
    text = re.sub(r"(?:\x1b|\\033)\[8m.*?(?:\x1b|\\033)\[28m", "***", text, flags=re.DOTALL)
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
    for value in sorted(set(hidden), key=len, reverse=True):
        # a short value only as a word of its own, or it would eat the message
        pattern = re.escape(value) if len(value) >= 6 else rf"(?<!\w){re.escape(value)}(?!\w)"
        text = re.sub(pattern, "***", text)
    text = re.sub(r"[A-Za-z0-9+/]{43}=", "***", text)
    return re.sub(r"(?im)^(\s*-?\s*\w*(?:password|ssid|psk|key):)(?![ \t]*(?:!secret\b|$)).*$", r"\1 ***", text)


def _relevant_lines(output: str, limit: int = 30) -> str:
    lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    traceback = next((i for i, line in enumerate(lines) if line.startswith("Traceback (most recent")), None)
    if traceback is not None:
        lines = [*lines[:traceback], lines[-1]]
    told = [line for line in lines if not line.startswith(("INFO ", "DEBUG "))]
    return "\n".join(f"  {line}" for line in told[:limit]) or "  (it said nothing)"
