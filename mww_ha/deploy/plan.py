"""What was asked for, read, checked and found possible, before anything is written."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mww_ha.deploy.boards import Board, check_needs, find_board
from mww_ha.deploy.model import LONGEST_STATE, Model, Slot, check_together, level_values, read_model
from mww_ha.deploy.templates import declared_substitutions
from mww_ha.devices.known import clean_host_name
from mww_ha.errors import ConfigError, InputError, ManifestError
from mww_ha.schema import Device

LONGEST_FRIENDLY_NAME = 120
"""ESPHome's limit in bytes."""

LONGEST_CAPTURE_S = 10.0
"""Seconds of one clip, before and after its trigger together."""

SHORTEST_POST_ROLL_S = 0.1
LONGEST_URL = 256
_OURS_TO_SET = (
    *(
        "name",
        "friendly_name",
        "wake_model_file",
        "wake_model_id",
        "wake_model_version",
        "wake_levels",
        "vad_model",
        "mww_id",
    ),
    *("capture_url", "capture_token", "slot_file", "slot_id", "slot_word", "slot_kind", "slot_of", "slot_window"),
)
_MAY_BE_SET = ("wake_cutoff", "wake_window")


@dataclass(frozen=True, slots=True, kw_only=True)
class Capture:
    """Where a device sends what it heard, and how much of it."""

    url: str  # http://host:port/path
    pre_roll_s: float = 4.0  # before the trigger: the frontend is warm when the clip is scored again
    post_roll_s: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything that was asked for, read and found possible."""

    board: Board
    host: str
    shown: str
    answers: bool  # ours is the automation that starts the assistant
    models: tuple[Model, ...]
    slot: Slot | None
    vad: str  # "": off; else what ESPHome's vad: takes
    vad_model: Model | None
    capture: Capture | None
    packages: tuple[str, ...]
    values: Mapping[str, str]
    api_key: str


def make_plan(
    board: str,
    name: str,
    manifests: Sequence[Path],
    *,
    friendly_name: str | None,
    given: dict[str, str],
    vad: str,
    capture: Capture | None,
    near_miss: bool,
    canary: Path | None,
    api_key: str,
) -> Plan:
    """Reads and checks everything that ``render.render`` was asked for; raises what that does before it writes."""
    chosen = find_board(board)
    host = clean_host_name(name)
    shown = _clean_friendly_name(friendly_name if friendly_name is not None else host.replace("-", " ").capitalize())
    answers = _check_asked(chosen, given, capture=capture, near_miss=near_miss, canary=canary is not None)
    models = tuple(read_model(path) for path in manifests)
    check_together(models)
    slot = _slot(models, canary) if near_miss or canary else None
    vad_model = None
    if vad and vad != "vad":
        vad_model = read_model(Path(vad))
        vad = f"models/{vad_model.stem}.json"
    # a cutoff of the user's is meant to hold: the levels would replace it at every start
    levels = bool(models[0].levels) and "wake_cutoff" not in given
    packages = _packages(chosen, answers, levels=levels, vad=bool(vad), capture=bool(capture), slot=bool(slot))
    values = _substitutions(chosen, packages, host, shown, models, slot, vad, capture, given)
    return Plan(
        board=chosen,
        host=host,
        shown=shown,
        answers=answers,
        models=models,
        slot=slot,
        vad=vad,
        vad_model=vad_model,
        capture=capture,
        packages=packages,
        values=values,
        api_key=api_key,
    )


def check_device(device: Device) -> None:
    """Raises what keeps ``device`` from being rendered, whatever its models are: InputError, ConfigError."""
    board = find_board(device.template)
    if device.friendly_name:
        _clean_friendly_name(device.friendly_name)
    capture = Capture(url=device.capture_url) if device.capture_url else None
    given, near_miss = device.substitutions, device.near_miss
    answers = _check_asked(board, given, capture=capture, near_miss=near_miss, canary=False)
    # a model may bring levels, and so their substitutions
    packages = _packages(board, answers, levels=True, vad=bool(device.vad), capture=bool(capture), slot=near_miss)
    for key, value in given.items():
        _check_given(key, value, _settable(board, packages))


def _check_asked(
    board: Board, given: Mapping[str, str], *, capture: Capture | None, near_miss: bool, canary: bool
) -> bool:
    """Raises what cannot be made for ``board``. Returns whether ours is the automation that answers a wake word."""
    check_needs(board, given)
    answers = board.answers and "mww_id" not in given  # the user's own micro_wake_word has its own automation
    if near_miss or canary:
        _check_slot(board, answers=answers, capture=capture, near_miss=near_miss, canary=canary)
    if capture:
        _check_capture(capture)
    return answers


def _check_capture(capture: Capture) -> None:
    where = f"the address for captures {_redacted_url(capture.url)!r}"
    odd = sorted({c for c in capture.url if not "!" <= c <= "~" or c in '"$\\{}<>#`^|'})
    if odd:
        raise ConfigError(f"{where} holds {' '.join(map(repr, odd))}", hint="write such characters percent-encoded")
    try:
        parts = urlsplit(capture.url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(
            f"{where} is not one: {error}", hint="write it as http://192.168.1.10:8098/api/captures"
        ) from None
    if "@" in parts.netloc:
        raise ConfigError(f"{where} holds a password", hint="leave it out; each device has a token of its own")
    if parts.scheme != "http" or port == 0 or not _is_at_home(parts.hostname or "") or len(capture.url) > LONGEST_URL:
        raise ConfigError(
            f"{where} is not http://<IPv4 address>:<port>/<path>",
            hint="http://192.168.1.10:8098/api/captures: devices send captures inside the home network, by plain "
            "HTTP and without looking a name up",
        )
    total = capture.pre_roll_s + capture.post_roll_s
    if not (capture.pre_roll_s > 0 and capture.post_roll_s >= SHORTEST_POST_ROLL_S and total <= LONGEST_CAPTURE_S):
        raise ConfigError(
            f"a capture cannot have {capture.pre_roll_s:g} s before and {capture.post_roll_s:g} s after its trigger",
            hint=f"some before, {SHORTEST_POST_ROLL_S:g} s or more after, at most {LONGEST_CAPTURE_S:g} s together",
        )


def _is_at_home(host: str) -> bool:
    """Whether this is the IPv4 address of a machine in the home network: sound never goes out into the world."""
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return not (address.is_global or address.is_multicast or address.is_unspecified)


def _redacted_url(url: str) -> str:
    return re.sub(r"//[^/]*@", "//***@", url)


def _check_slot(board: Board, *, answers: bool, capture: Capture | None, near_miss: bool, canary: bool) -> None:
    what = "a canary" if canary else "near misses"
    if near_miss and canary:
        raise ConfigError(
            "near misses and a canary are both asked for, and there is one slot", hint="leave one of them out"
        )
    if not answers:
        raise ConfigError(
            f"{what} cannot be added to {board.title}: its own automation would answer the second slot as a wake word",
            hint="leave it out; or use the board own without mww_id on a YAML that has no micro_wake_word of its own",
        )
    if capture is None:
        raise ConfigError(
            f"{what} can only be captured, and no address for captures is set",
            hint="give the device a capture_url: http://<IP of the machine with mww-ha serve>:8098/api/captures",
        )


def _slot(models: Sequence[Model], canary: Path | None) -> Slot:
    """The second slot: ``canary``, or else the first of ``models`` with its cutoff for near misses."""
    main = models[0]
    _check_word(main)
    if canary is None:
        if main.near_miss is None:
            raise ConfigError(
                f"{main.manifest.path} has no cutoff below its levels that would only catch near misses",
                hint="leave near misses out for this model; its about.json says what was measured",
            )
        word = f"{main.manifest.wake_word} (near miss)"
        return Slot(kind="near_miss", model=main, stem=f"{main.stem}-near_miss", word=word, cutoff=main.near_miss)
    model = read_model(canary)
    _check_word(model)
    if any(model.tflite == other.tflite for other in models):
        raise ConfigError(f"{canary} is a model that the device runs already", hint="name the next one, or no canary")
    if model.manifest.step_ms != main.manifest.step_ms:
        raise ManifestError(
            f"{canary} has a step of {model.manifest.step_ms} ms, the device's model one of {main.manifest.step_ms} ms",
            hint="models on one device must share the step; train the next one with the same step",
        )
    word = f"{model.manifest.wake_word} (canary)"
    return Slot(
        kind="canary", model=model, stem=f"{model.stem}-canary", word=word, cutoff=model.manifest.probability_cutoff
    )


def _check_word(model: Model) -> None:
    """The slot's wake word stands in the YAML and in C++; elsewhere ESPHome reads it from the manifest."""
    word = model.manifest.wake_word
    odd = sorted({c for c in word if not c.isprintable() or c in '"$\\{}'})
    if odd:
        raise ManifestError(
            f"{model.manifest.path}: the wake word {word!r} holds {' '.join(map(repr, odd))}",
            hint="a slot for near misses or a canary needs a wake word of letters, digits and spaces",
        )


def _packages(board: Board, answers: bool, *, levels: bool, vad: bool, capture: bool, slot: bool) -> tuple[str, ...]:
    if answers:
        network = ["network"] if board.complete else []
        voice = [*network, "voice_assistant", *(["capture", "wake_capture"] if capture else ["wake"])]
    else:
        voice = ["add_wake_word", *(["capture", "capture_only"] if capture else [])]
    return (
        *board.packages,
        *voice,
        "wake_model",
        *(["sensitivity"] if levels else []),
        *(["vad"] if vad else []),
        *(["slot"] if slot else []),
    )


def _substitutions(
    board: Board,
    packages: Sequence[str],
    host: str,
    shown: str,
    models: Sequence[Model],
    slot: Slot | None,
    vad: str,
    capture: Capture | None,
    given: Mapping[str, str],
) -> dict[str, str]:
    first = models[0]
    values = {"name": host, "friendly_name": shown} if board.complete else {}
    values |= board.values if capture or "voice_assistant" in packages else {}
    values |= {
        "wake_model_file": f"models/{first.stem}.json",
        "wake_model_id": first.id,
        "wake_model_version": _wake_model_text(models, slot),
        # also in the manifest; here so that a change of either changes the hash ESPHome takes of the configuration
        "wake_cutoff": str(first.manifest.probability_cutoff),
        "wake_window": str(first.manifest.sliding_window),
    }
    if "sensitivity" in packages:
        if not board.complete:  # the YAML that is there may have entities of these names
            phrase = first.slug.replace("_", " ").capitalize()
            values |= {"wake_sensitivity_name": f"{phrase} sensitivity", "wake_levels_name": f"{phrase} levels"}
        values |= level_values(first)
    if vad:
        values["vad_model"] = vad
    if capture:
        values |= {
            "capture_pre_roll": f"{round(capture.pre_roll_s * 1000)}ms",
            "capture_post_roll": f"{round(capture.post_roll_s * 1000)}ms",
        }
    if slot:
        values |= {
            "slot_file": f"models/{slot.stem}.json",
            "slot_id": "wake_slot",
            "slot_kind": slot.kind,
            "slot_word": slot.word,
            "slot_of": first.id,
            "slot_cutoff": str(slot.cutoff),
            "slot_window": str(slot.model.manifest.sliding_window),
        }
    declared = _settable(board, packages)
    for key, value in given.items():
        _check_given(key, value, declared)
        values[key] = value
    if capture and "mic_id" in values:
        values["capture_microphone"] = values["mic_id"]
    return values


def _settable(board: Board, packages: Sequence[str]) -> list[str]:
    """The substitutions that a user may give a value of his own."""
    declared = [
        *_MAY_BE_SET,
        *(["slot_cutoff"] if "slot" in packages else []),
        *(key for package in packages for key in declared_substitutions(package)),
    ]
    return [*(key for key in declared if key not in _OURS_TO_SET), *board.needs, *board.may_set]


def _check_given(key: str, value: Any, declared: Sequence[str]) -> None:
    if key not in declared:
        close = difflib.get_close_matches(key, declared, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}? " if close else ""
        if key in _OURS_TO_SET:
            hint = "it follows from the device's name and the model; "
        raise ConfigError(
            f"the substitution {key!r} cannot be set for this board",
            hint=f"{hint}can be set: {', '.join(dict.fromkeys(declared))}",
        )
    if not isinstance(value, str) or not value.isprintable():
        raise ConfigError(f"the substitution {key} is {value!r}", hint="give it a text of one line")


def _wake_model_text(models: Sequence[Model], slot: Slot | None) -> str:
    listed = [f"{m.slug} {m.sha8}" for m in models]
    if slot and slot.kind == "canary":
        listed.append(f"canary {slot.model.slug} {slot.model.sha8}")
    text = ", ".join(listed)
    if len(text) > LONGEST_STATE:
        raise ConfigError(
            f"the names of {len(listed)} models have {len(text)} characters; Home Assistant takes {LONGEST_STATE}",
            hint="put fewer wake words on one device",
        )
    return text


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
