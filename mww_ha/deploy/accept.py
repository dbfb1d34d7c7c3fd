"""Whether ESPHome takes what was rendered, alone or together with the user's YAML, and the true cause when not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from mww_ha.deploy.boards import Board
from mww_ha.deploy.esphome import redact, relevant_lines, run_esphome, version_key
from mww_ha.deploy.plan import Plan
from mww_ha.deploy.templates import TemplateLoader, load_template
from mww_ha.devices.known import SECRETS_FILE
from mww_ha.errors import ConfigError, ToolError
from mww_ha.schema import Progress, ProgressSink


def find_users_yaml(board: Board, folder: Path, name: str) -> Path | None:
    """The user's file that includes the package; None when none is named. Raises ConfigError."""
    if not name:
        return None
    if board.complete:
        raise ConfigError(
            f"the board {board.id} makes a YAML of its own, and {name!r} is named as well",
            hint="leave the YAML out; a package for a YAML of yours is made with voice-pe, satellite1 or own",
        )
    path = folder / name
    inside = path.parent.resolve() == folder.resolve()
    if not inside or path.suffix not in (".yaml", ".yml") or path.name == SECRETS_FILE:
        raise ConfigError(
            f"{name!r} cannot be the YAML that includes the package",
            hint=f"it has to be a .yaml file in {folder}: ESPHome looks for models beside it; copy or link it there",
        )
    return path


def refuse_replacing_merge(users: Path, packages: Sequence[str]) -> None:
    """Raises ConfigError where ESPHome would replace, not append: a list of ours against a mapping of the user's."""
    try:
        document = yaml.load(users.read_text("utf-8"), Loader=TemplateLoader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return  # ESPHome says what is wrong with it
    if not isinstance(document, dict):
        return
    for package in packages:
        for path in _lists(load_template(package)):
            here: Any = document
            for key in path:
                here = here.get(key) if isinstance(here, dict) else None
            if isinstance(here, dict):
                raise ConfigError(
                    f"{users}: {': '.join(path)} is a mapping; the package adds to a list, and ESPHome would drop one",
                    hint="write it as a list there: put '- ' before its first key and indent the others",
                )


def _lists(tree: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where ``tree`` holds lists, not looking into them."""
    if isinstance(tree, list):
        return [path]
    if not isinstance(tree, dict):
        return []
    return [found for key, value in tree.items() if key != "packages" for found in _lists(value, (*path, str(key)))]


def check_version(version: str, plan: Plan) -> None:
    """Raises ToolError when ``version`` is older than a model, the slot or the board needs."""
    needs = [(m.manifest.minimum_esphome_version, str(m.manifest.path)) for m in plan.models]
    if plan.slot:
        manifest = plan.slot.model.manifest
        needs.append((manifest.minimum_esphome_version, str(manifest.path)))
    for wanted, who in [*needs, (plan.board.minimum_esphome, f"the set of templates for {plan.board.id}")]:
        if version_key(version) < version_key(wanted):
            raise ToolError(
                f"ESPHome {version} is too old: {who} needs {wanted}",
                hint="update it with: pip install --upgrade esphome (newer than 2026.6 needs Python 3.12), or name a "
                "newer one in the setting flash.esphome; mww-ha render --no-check asks none",
            )


def check_with_esphome(
    command: Sequence[str],
    target: Path,
    files: Iterable[Path],
    hidden: Sequence[str],
    plan: Plan,
    timeout_s: float,
    report: ProgressSink,
) -> None:
    """Lets ESPHome validate ``target`` and generate its source; nothing is compiled.

    ``files`` are those of ours that it includes, ``hidden`` what must not be shown. Raises ToolError.
    """
    steps = (("config",), ("compile", "--only-generate"))
    for number, step in enumerate(steps):
        report(Progress(stage="render", message=f"esphome {' '.join(step)}", done=number, total=len(steps)))
        code, output = run_esphome([*command, *step, target.name], target.parent, timeout_s)
        if code != 0:
            _refused(step, code, output, target, files, hidden, plan)
        if step == ("config",) and not plan.board.complete:
            _check_merged(output, target, plan)
    report(Progress(stage="render", message="accepted by ESPHome", done=len(steps), total=len(steps)))


def _refused(
    step: Sequence[str],
    code: int,
    output: str,
    target: Path,
    files: Iterable[Path],
    hidden: Sequence[str],
    plan: Plan,
) -> None:
    """Raises ToolError with what ESPHome said, and with the true cause where its words hide it."""
    lines = relevant_lines(redact(output, hidden))
    if (twice := re.search(r"ID (\w+) redefined", lines)) and (places := _places(twice.group(1), [target, *files])):
        raise ToolError(
            f"esphome {' '.join(step)} refuses {target.name}: the id {twice.group(1)} is given twice, in "
            + " and in ".join(places),
            hint="rename yours; the ids of what mww-ha renders stay as they are",
        )
    hint = f"the file is kept at {target}"
    if "Not a valid model name" in lines:
        hint += "; a model that ESPHome has to download (vad) needs the internet"
    if "Couldn't find ID" in lines and not plan.board.complete:
        hint += f"; {plan.board.id} is {plan.board.hint or plan.board.title}"
    raise ToolError(f"esphome {' '.join(step)} refuses {target.name} (exit code {code}):\n{lines}", hint=hint)


def _places(id: str, paths: Iterable[Path]) -> list[str]:
    """``file line 12`` for every line that gives something this ``id``."""
    pattern = re.compile(rf"^\s*(?:-\s+)?id:\s*[\"']?{re.escape(id)}[\"']?\s*(?:#.*)?$")
    found = []
    for path in dict.fromkeys(paths):
        if path.suffix in (".yaml", ".yml") and path.is_file():
            text = path.read_text("utf-8", errors="replace")
            found += [f"{path} line {n}" for n, line in enumerate(text.splitlines(), 1) if pattern.match(line)]
    return found


def _check_merged(output: str, target: Path, plan: Plan) -> None:
    """Raises ToolError when the merged YAML lacks what the package adds, or answers a wake word twice."""
    text = "\n".join(line for line in output.splitlines() if not re.match(r"(INFO|WARNING|DEBUG|ERROR) ", line))
    try:
        merged = yaml.load(text, Loader=TemplateLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError:
        return  # printed for people; what it says is not promised
    if not isinstance(merged, dict):
        return
    engine = merged.get("micro_wake_word") or {}
    ids = {model.get("id") for model in engine.get("models") or ()}
    missing = [model.id for model in plan.models if model.id not in ids]
    if missing:
        raise ToolError(
            f"{target} does not take in the wake word {missing[0]}",
            hint=f"include the package below what packages: already has: !include mww_ha/packages/{plan.host}.yaml",
        )
    starts = json.dumps(engine.get("on_wake_word_detected"), default=str).count('"voice_assistant.start"')
    if plan.answers and starts > 1:
        raise ToolError(
            f"{target} answers a wake word itself, and the package does so as well: the assistant would start twice",
            hint="set mww_id, the id of your micro_wake_word: then the package leaves the answer to your automation",
        )
