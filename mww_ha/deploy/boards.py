"""The table of boards: what a device is called, what it is made of, and whose automation answers a wake word.

A complete board becomes a YAML of its own. A package is added to a YAML that exists, the vendor's or the user's.
ESPHome appends the lists of packages to each other, so a device has exactly one automation that answers wake words:
ours on complete boards and on a user's YAML without one, else the one that is already there.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mww_ha
from mww_ha.errors import ConfigError, InputError

TEMPLATES_MINIMUM_ESPHOME = "2026.6.0"
"""Oldest ESPHome the templates were generated with; each board's ``min_version`` says the same or a newer one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """A kind of device: what to call it and the templates it is made of."""

    id: str
    title: str
    packages: tuple[str, ...] = ()  # templates that only this board has
    complete: bool = True  # False: a package for a YAML that exists
    answers: bool = True  # ours is the automation that starts the assistant; False: the existing YAML has one
    minimum_esphome: str = TEMPLATES_MINIMUM_ESPHOME
    values: Mapping[str, str] = field(default_factory=dict)  # substitutions that the board fixes
    needs: tuple[str, ...] = ()  # substitutions that the user has to give
    may_set: tuple[str, ...] = ()  # further ones that he may give
    hint: str = ""  # what the user needs to know of the YAML that exists


_OWN = Board(
    id="own",
    title="a YAML of your own with a 16 kHz microphone",
    complete=False,
    needs=("mic_id",),
    may_set=("mic_channel", "mic_gain", "mww_id"),
    values={"mic_channel": "0", "mic_gain": "1"},
    hint="name your microphone, and set mww_id to the id of your micro_wake_word if your YAML has one",
)

BOARDS = (
    Board(id="generic-s3", title="ESP32-S3 with PSRAM and an I2S microphone", packages=("generic-s3",)),
    Board(
        id="generic-s3-speaker",
        title="ESP32-S3 with PSRAM, an I2S microphone and an I2S amplifier",
        packages=("generic-s3", "generic-s3-speaker"),
    ),
    Board(id="esp32-s3-box-3", title="Espressif ESP32-S3-BOX-3 (screen unused)", packages=("esp32-s3-box-3",)),
    Board(id="atom-echo-s3r", title="M5Stack Atom EchoS3R (Atom VoiceS3R)", packages=("atom-echo-s3r",)),
    Board(
        id="atoms3r-echo-base",
        title="M5Stack AtomS3R on an Atomic Echo Base (screen unused)",
        packages=("atoms3r-echo-base",),
        # before, ESPHome wrote the ES8311's clock multiplier into the wrong bits when there is no MCLK wire
        minimum_esphome="2026.10.0",
    ),
    Board(
        id="voice-pe",
        title="Home Assistant Voice Preview Edition, added to its own YAML",
        complete=False,
        answers=False,
        values={
            "mic_id": "i2s_mics",
            "mic_channel": "1",
            "mic_gain": "4",
            "mww_id": "mww",
            "muted": "id(master_mute_switch).state",
        },
        hint="for the vendor's YAML whose microphone is i2s_mics",
    ),
    Board(
        id="satellite1",
        title="FutureProofHomes Satellite1, added to its own YAML",
        complete=False,
        answers=False,
        values={
            "mic_id": "sat1_mics",
            "mic_channel": "1",
            "mic_gain": "6",
            "mww_id": "mww",
            "muted": "id(master_mute_switch).state",
        },
        hint="for the vendor's YAML whose microphone is sat1_mics",
    ),
    _OWN,
)


def boards() -> list[Board]:
    """Every board that can be rendered for."""
    return list(BOARDS)


def find_board(id: str) -> Board:
    """The board of that id. Raises InputError that names the nearest one."""
    known = {board.id: board for board in BOARDS}
    if id in known:
        return known[id]
    close = difflib.get_close_matches(id.lower().replace("_", "-"), known, n=1, cutoff=0.3)
    hint = f"did you mean {close[0]}? " if close else ""
    raise InputError(f"no board is called {id!r}", hint=f"{hint}known boards: {', '.join(known)}")


def check_needs(board: Board, given: Mapping[str, str]) -> None:
    """Raises ConfigError for a substitution that ``board`` needs and ``given`` lacks."""
    missing = [key for key in board.needs if not given.get(key)]
    if missing:
        raise ConfigError(
            f"the board {board.id} needs {' and '.join(missing)}",
            hint=f"--substitute {missing[0]}=... (in devices.yaml: substitutions: {{{missing[0]}: ...}}); {board.hint}",
        )


def templates_dir() -> Path:
    """The folder of the ESPHome templates: inside the installed package, or beside it in a checkout."""
    package = Path(mww_ha.__file__).parent
    for folder in (package / "esphome_templates", package.parent / "esphome_templates"):
        if (folder / "voice_assistant.yaml").is_file():
            return folder
    raise InputError("the ESPHome templates are missing", hint="install mww-ha again")
