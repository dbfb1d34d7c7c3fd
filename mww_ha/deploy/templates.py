"""The ESPHome templates as text and as YAML."""

from __future__ import annotations

from typing import Any

import yaml

from mww_ha.deploy.boards import templates_dir


class TemplateLoader(yaml.SafeLoader):
    """Reads a YAML's plain values and ignores ESPHome's tags."""


def _ignore_tag(*_: object) -> None:
    return None


TemplateLoader.add_multi_constructor("!", _ignore_tag)


def declared_substitutions(package: str) -> list[str]:
    """Names of the substitutions that a template gives a default."""
    return list(load_template(package).get("substitutions") or ())


def load_template(package: str) -> dict[str, Any]:
    """A template as YAML, ESPHome's tags left out."""
    document: dict[str, Any] = yaml.load(template_text(package), Loader=TemplateLoader)  # noqa: S506 - safe
    return document


def template_text(package: str) -> str:
    """A template as it is written beside the YAML."""
    return (templates_dir() / f"{package}.yaml").read_text("utf-8")
