"""A model and a board → YAML for ESPHome, checked with ESPHome itself.

Everything lands in ``<project>/esphome/``: for a complete board ``<name>.yaml``, for one that is added to an existing
YAML the package ``mww_ha/packages/<name>.yaml``; with it the templates it includes, the models under names that carry
their hash (ESPHome does not notice a changed ``.tflite`` under an old name), the capture component and its token, and
``secrets.yaml`` when there is none. A file that somebody changed by hand is never overwritten, and the user's own YAML
is never edited. ESPHome runs as a child process and is never imported.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mww_ha import store
from mww_ha.deploy import owned
from mww_ha.deploy.accept import check_version, check_with_esphome, find_users_yaml, refuse_replacing_merge
from mww_ha.deploy.boards import boards, find_board, templates_dir
from mww_ha.deploy.esphome import esphome_version, find_esphome
from mww_ha.deploy.model import LEVELS, describe_level, one_line, write_models
from mww_ha.deploy.plan import Capture, Plan, make_plan
from mww_ha.deploy.templates import template_text
from mww_ha.detector import cutoff_of_probability
from mww_ha.devices.known import SECRETS_FILE, secret_values
from mww_ha.schema import Progress, ProgressSink, no_progress

__all__ = ["Capture", "RenderResult", "boards", "find_board", "hidden_values", "render", "templates_dir"]

API_KEY = "mww_api_encryption_key"
"""The secret that ``network.yaml`` names."""

_COMPONENT = "mww_capture"


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderResult:
    """What was written, whether ESPHome accepted it, and what the user still has to know or do."""

    yaml_path: Path  # ours: the file ESPHome compiles, or the package that the user's file includes
    checked: bool
    esphome_version: str  # empty: not installed, or not asked
    messages: tuple[str, ...]
    wake_model: str  # exactly what the entity "Wake model" will say
    models: tuple[str, ...]  # <slug>-<sha8> of what the device listens for, the first wake word first
    canary: str = ""  # <slug>-<sha8> in the second slot


def render(
    project: store.Project | Path,
    *,
    board: str,
    name: str,
    manifest_path: Path,
    also: Sequence[Path] = (),
    friendly_name: str | None = None,
    substitutions: Mapping[str, str] | None = None,
    vad: str = "",
    capture: Capture | None = None,
    near_miss: bool = False,
    canary: Path | None = None,
    yaml: str = "",
    api_key: str = API_KEY,
    check: bool = True,
    force: bool = False,
    timeout_s: float = 180.0,
    find_tool: Callable[[], list[str] | None] | None = None,
    report: ProgressSink = no_progress,
) -> RenderResult:
    """Writes the YAML of a device, or the package for one that exists, with all it includes; ESPHome checks it.

    ``project`` may be any folder. ``also`` are manifests of further wake words on the same device. ``substitutions``
    override those the board's templates declare. ``vad`` is "" (off), "vad" (ESPHome's own model, downloaded) or the
    path of a manifest. ``capture`` adds the capture component. The second slot holds the model once more with a low
    cutoff (``near_miss``) or the next one (``canary``, a manifest); either is only captured and never answered.
    ``yaml`` is the user's file that includes the package, in the ESPHome folder; only for boards that are packages.
    ``api_key`` names the secret of the API's encryption; "" leaves it out. ``force`` replaces files changed by hand,
    which are kept as ``*.bak``. ``timeout_s`` is per ESPHome run.

    Raises InputError, ConfigError, ManifestError or ModelFileError before anything is written, StorageError while
    writing, and ToolError when ESPHome is too old (nothing written) or refuses the result (the files stay).
    """
    plan = make_plan(
        board,
        name,
        [manifest_path, *also],
        friendly_name=friendly_name,
        given=dict(substitutions or {}),
        vad=vad,
        capture=capture,
        near_miss=near_miss,
        canary=canary,
        api_key=api_key,
    )
    folder = project.esphome_dir if isinstance(project, store.Project) else project / "esphome"
    secrets_path = folder / SECRETS_FILE
    complete = plan.board.complete
    users = find_users_yaml(plan.board, folder, yaml)
    if users is not None and users.exists():
        refuse_replacing_merge(users, plan.packages)
    if complete and secrets_path.exists():
        owned.check_secrets(secrets_path, _secret_names(plan))
    tokens = folder / "mww_ha" / "capture"
    if capture:
        owned.check_tokens(tokens)

    messages: list[str] = []
    command = (find_tool or find_esphome)() if check else None
    version = ""
    if command:
        version = esphome_version(command, timeout_s)
        check_version(version, plan)
    elif check:
        messages.append("not checked: ESPHome is not installed here; get it with: pip install esphome")
    else:
        messages.append("not checked with ESPHome, as asked")

    yaml_path = folder / f"{plan.host}.yaml" if complete else folder / "mww_ha" / "packages" / f"{plan.host}.yaml"
    files = _owned_files(plan, folder, yaml_path)
    owned.refuse_changed_by_hand(files, force)

    report(Progress(stage="render", message=f"writing {yaml_path}"))
    copied = [*plan.models, *([plan.vad_model] if plan.vad_model else [])]
    write_models(folder / "models", copied, plan.slot)
    if complete and owned.create_secrets(secrets_path):
        messages.append(f"made {secrets_path} with a fresh API key and OTA password; keep it to yourself")
    if capture and owned.ensure_token(tokens, plan.host):
        messages.append(f"made a token for the captures of {plan.host} in {tokens / SECRETS_FILE}")
    for path, body in files.items():
        owned.write_owned(path, body)
    if capture:
        owned.remove_left_over(folder / "mww_ha" / "components" / _COMPONENT, files)
    if complete and (unfilled := owned.wifi_placeholders(secrets_path)):
        messages.append(f"fill in your Wi-Fi before flashing: {' and '.join(unfilled)} in {secrets_path}")

    target: Path | None = yaml_path
    if not complete:
        messages += _how_to_include(plan, users, yaml_path.relative_to(folder))
        target = users if users is not None and users.is_file() else None
    if command and target is None:
        messages.append("not checked: a package can only be checked together with the YAML that includes it")
    elif command and target is not None:
        check_with_esphome(command, target, files, hidden_values(folder), plan, timeout_s, report)
        messages.append(f"ESPHome {version} accepts {target.name} and generates its source; it was not compiled")
    return RenderResult(
        yaml_path=yaml_path,
        checked=bool(command) and target is not None,
        esphome_version=version,
        messages=tuple(messages),
        wake_model=plan.values["wake_model_version"],
        models=tuple(model.stem for model in plan.models),
        canary=plan.slot.model.stem if plan.slot and plan.slot.kind == "canary" else "",
    )


def hidden_values(folder: Path) -> tuple[str, ...]:
    """Every secret of an ESPHome folder that must not be shown: Wi-Fi, keys, passwords, capture tokens."""
    paths = (folder / SECRETS_FILE, folder / "mww_ha" / "capture" / SECRETS_FILE)
    return tuple(value for path in paths if path.is_file() for value in secret_values(path))


def _secret_names(plan: Plan) -> list[str]:
    names = [plan.api_key if name == API_KEY else name for name in owned.SECRET_NAMES]
    return [name for name in names if name]


def _how_to_include(plan: Plan, users: Path | None, package: Path) -> list[str]:
    target = str(users) if users else "the YAML of the device"
    lines = [
        f"add the last line to {target}, below what packages: already has (it is not edited):",
        "  packages:",
        f"    wake_word: !include {package.as_posix()}",
    ]
    messages = [] if users is not None and _includes(users, package) else ["\n".join(lines)]
    if users is not None and not users.exists():
        messages.append(f"{users} is not there yet; ESPHome looks for the model beside it, so it has to lie there")
    if not plan.answers:
        word = plan.models[0].manifest.wake_word
        messages.append(f"choose {word!r} in Home Assistant's voice settings of the device: it is off until then")
    return messages


def _includes(users: Path, package: Path) -> bool:
    try:
        text = users.read_text("utf-8", errors="replace")
    except OSError:
        return False
    line = rf"(?m)^[^#\n]*!include\s+(?:\{{\s*file:\s*)?[\"']?(?:\./)?{re.escape(package.as_posix())}\b"
    return re.search(line, text) is not None


# --- the YAML -----------------------------------------------------------------------------------------------------


def _owned_files(plan: Plan, folder: Path, yaml_path: Path) -> dict[Path, str]:
    """Everything of ours but models and tokens, by where it goes; the YAML comes last."""
    ours = folder / "mww_ha"
    files = {ours / f"{p}.yaml": template_text(p) for p in plan.packages}
    if plan.capture:
        source = templates_dir() / "components" / _COMPONENT
        place = ours / "components" / _COMPONENT
        files |= {place / name: text for name, text in owned.component_sources(source).items()}
        files[ours / "capture" / f"{plan.host}.yaml"] = _capture_settings(plan)
    files[yaml_path] = _document(plan)
    return files


def _capture_settings(plan: Plan) -> str:
    assert plan.capture
    return (
        "# Where this device sends captures, and its token from the secrets.yaml beside this file.\n"
        "substitutions:\n"
        f"  capture_url: {json.dumps(plan.capture.url)}\n"
        f"  capture_token: !secret {json.dumps(plan.host)}\n"
    )


def _document(plan: Plan) -> str:
    """The YAML without its first line. Values are quoted as JSON, which YAML reads the same."""
    beside = "mww_ha/" if plan.board.complete else "../"
    lines = [f"# {one_line(plan.shown)}: {plan.board.title}", *_document_head(plan), "substitutions:"]
    for key, value in plan.values.items():
        if key == f"wake_cutoff_{LEVELS[0]}":
            name = plan.values.get("wake_sensitivity_name", "Wake word sensitivity")
            lines += [f'  # What the levels of the entity "{name}" mean, as measured for this model:']
            lines += [f"  #   {describe_level(level)}" for level in plan.models[0].levels]
        lines.append(f"  {key}: {json.dumps(value, ensure_ascii=False)}")
    lines += ["", "packages:", *(f"  {p.replace('-', '_')}: !include {beside}{p}.yaml" for p in plan.packages)]
    if plan.capture:
        lines.append(f"  capture_settings: !include {beside}capture/{plan.host}.yaml")
    if plan.models[1:]:
        lines += _further_models(plan)
    if plan.board.complete and plan.api_key != API_KEY:
        key = f"{{key: !secret {json.dumps(plan.api_key)}}}" if plan.api_key else "!remove"
        lines += ["", "api:", f"  encryption: {key}"]
    return "\n".join(lines) + "\n"


def _document_head(plan: Plan) -> list[str]:
    if plan.board.complete:
        return [
            "# Render again rather than edit: mww-ha does not overwrite a file that was changed by hand. To add or",
            "# change something, write a YAML of your own beside this one that includes it; its values win:",
            "#   packages:",
            f"#     device: !include {plan.host}.yaml",
            "#   substitutions:",
            '#     mic_gain: "8"',
        ]
    return [
        "# A package: include it in the YAML of the device, below what its packages: already has. Render again rather",
        "# than edit: mww-ha does not overwrite a file that was changed by hand.",
        "#   packages:",
        f"#     wake_word: !include mww_ha/packages/{plan.host}.yaml",
    ]


def _further_models(plan: Plan) -> list[str]:
    lines = ["", "# further wake words: switch between them in the device's voice settings in Home Assistant"]
    lines += ["micro_wake_word:", "  models:"]
    for model in plan.models[1:]:
        lines += [
            f"    - model: models/{model.stem}.json",
            f"      id: {model.id}",
            f"      probability_cutoff: {model.manifest.probability_cutoff}",
            f"      sliding_window_size: {model.manifest.sliding_window}",
        ]
    measured = [model for model in plan.models[1:] if model.levels]
    if "sensitivity" in plan.packages and measured:
        lines += ["", "select:", "  - id: !extend mww_ha_sensitivity", "    on_value:"]
        for model in measured:
            cutoffs = ", ".join(str(cutoff_of_probability(level["probability_cutoff"])) for level in model.levels)
            lines += [
                f"      # {model.slug}:",
                *(f"      #   {describe_level(level)}" for level in model.levels),
                "      - lambda: |-",
                f"          static const uint8_t CUTOFFS[] = {{{cutoffs}}};",
                f"          id({model.id}).set_probability_cutoff(CUTOFFS[i]);",
            ]
    return lines
