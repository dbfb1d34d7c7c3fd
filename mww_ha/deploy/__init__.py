"""Deploy: the newest vouched-for model and a board → YAML that ESPHome accepts.

Reads ``models/`` through the catalogue and the templates; writes ``esphome/``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from mww_ha.deploy import accept, plan, render
from mww_ha.deploy.esphome import find_esphome
from mww_ha.deploy.model import read_model
from mww_ha.errors import DataError, InputError
from mww_ha.schema import Device, ProgressSink, no_progress
from mww_ha.store import Project


def run(
    project: Project,
    *,
    board: str,
    name: str,
    manifest_path: Path | None = None,
    also: Sequence[Path] = (),
    friendly_name: str | None = None,
    substitutions: Mapping[str, str] | None = None,
    vad: str = "",
    capture: render.Capture | None = None,
    near_miss: bool = False,
    yaml: str = "",
    check: bool = True,
    force: bool = False,
    report: ProgressSink = no_progress,
) -> render.RenderResult:
    """Renders the project's newest model (or the one of ``manifest_path``) for ``board`` as the device ``name``.

    Raises DataError when the project has no model yet, and what ``render.render`` raises.
    """
    return render.render(
        project,
        board=board,
        name=name,
        manifest_path=manifest_path or newest_model(project),
        also=also,
        friendly_name=friendly_name,
        substitutions=substitutions,
        vad=vad,
        capture=capture,
        near_miss=near_miss,
        yaml=yaml,
        check=check,
        force=force,
        find_tool=lambda: find_esphome(project.settings.flash.esphome),
        report=report,
    )


def render_device(
    project: Project,
    device: Device,
    *,
    manifest_path: Path | None = None,
    canary: Path | None = None,
    check: bool = True,
    force: bool = False,
    report: ProgressSink = no_progress,
) -> render.RenderResult:
    """Renders the entry of ``devices.yaml`` that ``device`` is, with the project's newest model or ``manifest_path``.

    ``canary`` is the manifest of the next model: it listens in a second slot, and is only counted and captured. There
    it takes the place of the near misses that ``device`` may ask for.
    Raises DataError when the project has no model yet, InputError when it has none of a name in ``device.also``, and
    what ``render.render`` raises.
    """
    vad = device.vad
    return render.render(
        project,
        board=device.template,
        name=device.name,
        manifest_path=manifest_path or newest_model(project),
        also=[find_model(project, model) for model in device.also],
        friendly_name=device.friendly_name or None,
        substitutions=device.substitutions,
        vad=str(project.root / vad) if vad not in ("", "vad") else vad,
        capture=render.Capture(url=device.capture_url) if device.capture_url else None,
        # one slot: while a canary is in it, near misses wait
        near_miss=device.near_miss and canary is None,
        canary=canary,
        yaml=device.yaml,
        api_key=device.api_key,
        check=check,
        force=force,
        find_tool=lambda: find_esphome(project.settings.flash.esphome),
        report=report,
    )


def check_device(project: Project, device: Device) -> None:
    """Raises what keeps ``device`` from being rendered and is wrong with its entry, not with the model of the day.

    InputError, ConfigError; ManifestError or ModelFileError for a voice activity model that cannot be used.
    """
    plan.check_device(device)
    accept.find_users_yaml(render.find_board(device.template), project.esphome_dir, device.yaml)
    for model in device.also:
        find_model(project, model)
    if device.vad not in ("", "vad"):
        read_model(project.root / device.vad)


def newest_model(project: Project) -> Path:
    """The manifest of the model that was exported last and is offered. Raises DataError when there is none.

    ``mww-ha retrain`` does not offer a model that is worse than the one before.
    """
    models = [model for model in project.catalogue.models() if model.get("offered", True)]
    if not models:
        raise DataError(f"{project.root} has no exported model yet", hint="make one with: mww-ha run")
    return project.root / str(models[0]["manifest_path"])


def find_model(project: Project, name: str) -> Path:
    """The manifest that ``name`` stands for: an id of the project's models, or a path relative to the project.

    Raises InputError naming the nearest id.
    """
    known = {str(model["id"]): project.root / str(model["manifest_path"]) for model in project.catalogue.models()}
    if name in known:
        return known[name]
    path = project.root / name
    if path.suffix == ".json" and path.is_file():
        return path
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.3)
    hint = f"did you mean {close[0]}? " if close else ""
    raise InputError(
        f"{project.root} has no model {name!r}",
        hint=f"{hint}name one of its models ({', '.join(known) or 'none yet'}) or the path of a manifest (.json)",
    )
