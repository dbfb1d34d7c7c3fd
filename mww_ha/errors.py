"""Everything a user can act on, as one tree.

Each error carries a message that names the file and the value, and a hint that names the way out.
``exit_code`` is what the command line exits with; anything outside this tree is a defect of ours.
"""

from __future__ import annotations


class MwwError(Exception):
    """Base of all errors shown to a user without a traceback."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

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


class JobStoppedError(MwwError):
    """Ctrl-C or a termination signal; the work so far is kept."""

    exit_code = 130
