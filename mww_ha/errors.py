"""Everything a user can act on, as one tree.

Each error carries a message that names the file and the value, and a hint that names the way out.
``exit_code`` is what the command line exits with; anything outside this tree is a defect of ours.
"""

from __future__ import annotations

import os


class MwwError(Exception):
    """Base of all errors shown to a user without a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.parts: tuple[MwwError, ...] = ()  # of an error that tells of several

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class InputError(MwwError):
    """The user gave something that cannot be used: a file, a phrase, a value."""

    exit_code = 2


class AudioFileError(InputError):
    """A sound file that is missing, empty, truncated or not sound."""


class ConfigError(InputError):
    """An unknown key or an impossible value in ``project.yaml`` or on the command line."""


class PhraseError(InputError):
    """A phrase with nothing to say, or one no voice can speak."""


class ManifestError(InputError):
    """A wake-word manifest that ESPHome would not accept."""


class ModelFileError(InputError):
    """A ``.tflite`` that is missing, damaged, or not a wake-word model."""


class ProjectError(InputError):
    """No project here, or one made by a newer version."""


class DataError(MwwError):
    """The project's data cannot carry the next step: no clips, too few speakers."""

    exit_code = 3


class SplitLeakError(DataError):
    """A speaker or a take stands on two sides of the split."""


class MissingDependencyError(MwwError):
    """An optional part (``train``, ``tts``, ``flash``) is not installed."""

    exit_code = 4


def how_to_install(extra: str) -> str:
    """The way out where a part is not installed. In Home Assistant's app, which has no pip to type into, it differs."""
    if extra in ("train", "tts") and os.environ.get("MWW_HA_TRAINING_DIR"):
        return "turn training on in the panel's settings, or run: mww-ha training install"
    # Never by name alone: on an index of packages it could be anybody's.
    return f"install it from mww-ha's own folder: pip install '.[{extra}]', or start with tools/mww-ha"


class ExportRefusedError(MwwError):
    """A model that failed one of the checks and is not vouched for."""

    exit_code = 5


class ToolError(MwwError):
    """A child process (ESPHome, a speech engine) failed."""

    exit_code = 6


class OfflineError(MwwError):
    """Something has to be fetched and the network does not answer."""

    exit_code = 7


class StorageError(MwwError):
    """The disk is full or not writable."""

    exit_code = 8


class DeviceError(MwwError):
    """A satellite that does not answer, or answers what it should not."""

    exit_code = 9


class DeviceUnreachableError(DeviceError):
    """No address, nothing listening, or a connection that ended."""


class DeviceRefusedError(DeviceError):
    """The satellite wants another key, password or firmware."""


class FlashError(MwwError):
    """A step of flashing failed; device and records are as they were unless the message says otherwise."""

    exit_code = 10


class HomeAssistantError(MwwError):
    """Something between us and Home Assistant, or its MQTT broker."""

    exit_code = 11


class HomeAssistantUnreachableError(HomeAssistantError):
    """No address, nothing listening, no answer in time, or a connection that ended."""


class HomeAssistantRefusedError(HomeAssistantError):
    """Home Assistant or the broker does not accept the token or the password."""


class HomeAssistantAnswerError(HomeAssistantError):
    """Home Assistant answered a command with an error. ``code`` and ``key`` are its own words, as it sent them."""

    def __init__(self, message: str, *, hint: str = "", code: str = "", key: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code
        self.key = key


class JobStoppedError(MwwError):
    """Ctrl-C or a termination signal; the work so far is kept."""

    exit_code = 130
