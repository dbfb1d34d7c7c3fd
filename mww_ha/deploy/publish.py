"""A model for others: in the layout of Home Assistant's ``custom_wake_words``, or as a repository to share.

Home Assistant tells every satellite of the files in ``custom_wake_words``. Firmware that cannot load them is harmed by
that, so the folder is only filled when no known device runs such firmware. As of November 2026 no release of ESPHome
loads them: 2026.10 can add a model while it runs, but what would fetch one is still under review (esphome#17928).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mww_ha import store
from mww_ha.deploy import newest_model
from mww_ha.deploy.esphome import version_key
from mww_ha.detector import Manifest, load_manifest, read_model
from mww_ha.devices.known import load_devices
from mww_ha.errors import InputError
from mww_ha.schema import Origin, Split
from mww_ha.store import Project

Layout = Literal["home-assistant", "repository"]

LOADS_SINCE = ""
"""First ESPHome release that loads what Home Assistant offers; empty: there is none yet."""

NO_ECHO_SINCE = "2026.10.0"
"""From this release on, wake words a device cannot load are no longer shown as its own (``api_connection.cpp`` of
2026.6.5 and 2026.10.0)."""

_HOME_ASSISTANT_FOLDER = "custom_wake_words"
_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What was written, and what the user still has to know or do."""

    paths: tuple[Path, ...]
    messages: tuple[str, ...]


def publish(
    project: Project,
    *,
    to: Path,
    manifest_path: Path | None = None,
    layout: Layout = "home-assistant",
    devices: Mapping[str, str] | None = None,
    id: str = "",
    force: bool = False,
    loads_since: str = LOADS_SINCE,
) -> Published:
    """Writes ``<id>.tflite`` and ``<id>.json`` into ``to``; the same files again are no change.

    ``manifest_path`` is the project's newest model when it is not given, ``id`` the wake word as a file name.
    ``devices`` says which ESPHome each satellite of the household runs ("": unknown); without it the project's records
    do. A folder with Home Assistant's ``configuration.yaml`` stands for the ``custom_wake_words`` in it.
    ``loads_since`` is the first release that can load such a file.

    Raises InputError when a device runs firmware that cannot load it, when no device is known, when another model has
    the name, or, of a repository, when somebody whose recordings it learned from did not agree that they leave the
    household, unless ``force``; DataError when the project has no model yet; ManifestError and ModelFileError on a bad
    model.
    """
    manifest = load_manifest(manifest_path or newest_model(project))
    model = read_model(manifest.model_path)
    name = _file_name(id or manifest.wake_word)
    messages: list[str] = []
    if layout == "home-assistant":
        if (to / "configuration.yaml").is_file():
            to = to / _HOME_ASSISTANT_FOLDER
        messages += _check_devices(_firmware(project) if devices is None else devices, loads_since, force=force)
        if to.name != _HOME_ASSISTANT_FOLDER:
            messages.append(f"Home Assistant reads the folder {_HOME_ASSISTANT_FOLDER} beside its configuration.yaml")
    else:
        messages += _check_voices(project, model, force=force)
    if to.exists() and not to.is_dir():
        raise InputError(f"{to} is not a folder", hint="name a folder")

    tflite, document = to / f"{name}.tflite", to / f"{name}.json"
    if not force:
        _refuse_other_model(project, document, tflite, manifest, model)
    if not (tflite.is_file() and tflite.read_bytes() == model):
        with store.atomic_write(tflite) as file:
            file.write(model)
    content = json.loads(manifest.path.read_text(encoding="utf-8-sig"))
    store.write_json(document, {**content, "model": tflite.name})
    paths = [document, tflite]
    if layout == "home-assistant":
        messages.append("restart Home Assistant: it reads the folder once, when it starts")
        messages.append("everyone in your network can download these files from Home Assistant, without a password")
    else:
        owner = _owner_and_repository(to)
        readme = to / "README.md"
        if readme.exists():
            messages.append(f"{readme} is yours and was left as it is")
        else:
            store.write_text(readme, _readme(manifest, owner, document.name))
            paths.append(readme)
        messages.append(f"push {to} to GitHub; ESPHome then takes {_shorthand(owner, document.name)}")
        messages.append("choose a licence before you share it: the voices and sounds it learnt from may bind you")
    return Published(paths=tuple(paths), messages=tuple(messages))


# --- who would hear of it -----------------------------------------------------------------------------------------


def _firmware(project: Project) -> dict[str, str]:
    """The ESPHome each known device runs by the last verified flash; "" when none was verified."""
    versions = dict.fromkeys(load_devices(project), "")
    for flash in reversed(project.catalogue.flashes()):  # oldest first
        if flash.outcome == "verified":
            versions[flash.device] = flash.esphome_version
        else:
            versions.setdefault(flash.device, "")
    return versions


def _check_devices(devices: Mapping[str, str], loads_since: str, *, force: bool) -> list[str]:
    harmed = [f"{name}: {why}" for name, version in devices.items() if (why := why_not(version, loads_since))]
    if not devices:
        harmed = ["the satellites of this household: none is known here, so nobody can say whether they load it"]
    if not harmed:
        return []
    if not force:
        raise InputError(
            f"{_HOME_ASSISTANT_FOLDER} is not filled while a device cannot load what is in it:\n"
            + "\n".join(f"  {line}" for line in harmed),
            hint="flash the model into the firmware instead (mww-ha flash); --force publishes all the same",
        )
    return [f"do not choose this wake word on {line}" for line in harmed]


def why_not(esphome_version: str, loads_since: str = LOADS_SINCE) -> str:
    """What happens on a device with that firmware when Home Assistant offers it a wake word; "" when it loads it."""
    key = version_key(esphome_version)
    if not key:
        return (
            "its firmware is unknown, and no release of ESPHome is known to load it"
            if not loads_since
            else (f"its firmware is unknown; ESPHome loads it from {loads_since} on")
        )
    if loads_since and key >= version_key(loads_since):
        return ""
    if key >= version_key(NO_ECHO_SINCE):
        return f"ESPHome {esphome_version} cannot load it and leaves it out of the device's wake words"
    return (
        f"ESPHome {esphome_version} cannot load it but shows it as one of the device's wake words; "
        "once it is chosen there, the device listens to none at all"
    )


# --- whose voices it learned from ---------------------------------------------------------------------------------


def _check_voices(project: Project, model: bytes, *, force: bool) -> list[str]:
    """Raises InputError when somebody who was recorded here did not agree to share, unless ``force``."""
    voices, known = _find_voices(project, model)
    agreed = {person.name for person in project.catalogue.people() if person.may_share}
    against = sorted(voices - agreed)
    if against and not force:
        raise InputError(
            f"the model learned from recordings that are not to leave the household: {', '.join(against)}",
            hint="ask, and note it with: mww-ha people agree NAME --may-share; --force publishes all the same",
        )
    messages = [f"it learned from {name}, who did not agree that this leaves the household" for name in against]
    return messages if known else [*messages, "whose recordings it learned from is not known any more: ask them"]


def _find_voices(project: Project, model: bytes) -> tuple[set[str], bool]:
    """People recorded in this household whom a model of the project was trained on, and whether that is all known."""
    digest = hashlib.sha256(model).hexdigest()[:8]
    entry = next((known for known in project.catalogue.models() if str(known["id"]).endswith(f"-{digest}")), None)
    if entry is None:
        return set(), True  # made elsewhere
    runs = {str(run["id"]): run for run in project.catalogue.runs()}
    here = {clip.speaker for clip in project.catalogue.clips() if clip.origin in (Origin.RECORDED, Origin.CAPTURED)}
    here |= {person.name for person in project.catalogue.people()}
    voices: set[str] = set()
    id = str(entry.get("run", ""))
    while id:  # and the runs whose weights it started from
        run = runs.get(id, {})
        path = project.features_dir / str(run.get("feature_set", "")) / "index.json"
        if not path.is_file():
            return voices & here - {""}, False
        index = json.loads(path.read_text(encoding="utf-8"))
        people = index.get("people", {})
        voices |= {people[clip] for clip, side in index["sides"].items() if side == Split.TRAIN and clip in people}
        if "people" not in index:  # made before it was written down
            voices |= set(index["speakers"][Split.TRAIN])
        id = str(run.get("start", ""))
    return voices & here - {""}, True


# --- files --------------------------------------------------------------------------------------------------------


def _file_name(text: str) -> str:
    """``hey kitchen`` → ``hey_kitchen``; of a text in another script a digest, so that two do not meet."""
    slug = store.slugify(text)
    if slug == store.slugify("") and "wake" not in text.lower():
        return f"{slug}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return slug[:_LONGEST_NAME].rstrip("_")


def _refuse_other_model(project: Project, document: Path, tflite: Path, manifest: Manifest, model: bytes) -> None:
    """Raises InputError when the names are taken by a model that is neither this one nor an older one of ours."""
    if not document.exists() and not tflite.exists():
        return
    taken = InputError(
        f"{document if document.exists() else tflite} belongs to another model",
        hint="publish into another folder, or replace the other model with --force",
    )
    if tflite.exists():
        found = tflite.read_bytes()
        known = {str(entry["id"]) for entry in project.catalogue.models()}
        if found != model and store.model_file_stem(store.slugify(manifest.wake_word), found) not in known:
            raise taken
    if document.exists() and _wake_word(document) != manifest.wake_word:
        raise taken
    if document.exists() and not tflite.exists():
        raise taken


def _wake_word(document: Path) -> str:
    try:
        content: Any = json.loads(document.read_text(encoding="utf-8-sig"))
        return str(content["wake_word"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _owner_and_repository(to: Path) -> str:
    """``<owner>/<repo>`` as the folder is called, or words in their place."""
    place = to.resolve()
    owner, repository = place.parent.name, place.name
    plain = all(part and all(c.isascii() and (c.isalnum() or c in "-_.") for c in part) for part in (owner, repository))
    return f"{owner}/{repository}" if plain else "OWNER/REPOSITORY"


def _shorthand(owner: str, file: str) -> str:
    return f"github://{owner}/{file}@main"


def _readme(manifest: Manifest, owner: str, file: str) -> str:
    words = "".join(c if c.isalnum() or c in " -'," else " " for c in manifest.wake_word)
    return (
        f"# {words}\n\n"
        "A wake word for ESPHome's `micro_wake_word`. Owner and repository below are called as the folder is;\n"
        "change them when they have other names.\n\n"
        "```yaml\n"
        "micro_wake_word:\n"
        "  models:\n"
        f"    - model: {_shorthand(owner, file)}\n"
        "```\n\n"
        f"Languages: {', '.join(manifest.trained_languages)}. A score above {manifest.cutoff} of 255 on average "
        f"over {manifest.sliding_window} scores, wakes. ESPHome {manifest.minimum_esphome_version} or newer.\n"
    )
