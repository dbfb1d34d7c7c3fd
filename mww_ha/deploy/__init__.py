"""Deploy: the newest vouched-for model and a board → YAML that ESPHome accepts.

Reads ``models/`` through the catalogue and the templates; writes ``esphome/``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mww_ha.deploy import render
from mww_ha.errors import DataError
from mww_ha.schema import ProgressSink, no_progress
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
    check: bool = True,
    force: bool = False,
    report: ProgressSink = no_progress,
) -> render.RenderResult:
    """Renders the project's newest model (or the one of ``manifest_path``) for ``board`` as the device ``name``.

    Raises DataError when the project has no model yet, and what ``render.render`` raises.
    """
    if manifest_path is None:
        models = project.catalogue.models()
        if not models:
            raise DataError(f"{project.root} has no exported model yet", hint="make one with: mww-ha run")
        manifest_path = project.root / models[0]["manifest_path"]
    return render.render(
        project,
        board=board,
        name=name,
        manifest_path=manifest_path,
        also=also,
        friendly_name=friendly_name,
        substitutions=substitutions,
        check=check,
        force=force,
        report=report,
    )
