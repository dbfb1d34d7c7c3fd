"""espeak-ng in this process, by ctypes over the ``espeakng-loader`` wheel: phonemes and speech, no downloads.

The library keeps its state in globals, so it is initialised once per process and used by one thread at a time.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mww_ha.errors import MissingDependencyError, ToolError, how_to_install

_SYNCHRONOUS = 2  # audio is handed to the callback, espeak_Synth returns when all of it was
_UTF8 = 1
_SSML = 0x10
_PHONEMES = 0x100  # text may hold [[phonemes]]
_END_PAUSE = 0x1000  # without it the last sound is cut off
_RATE, _VOLUME, _PITCH, _RANGE, _GAP = 1, 2, 3, 4, 7
_VOLUME_PERCENT = 55  # at the default of 100 a fifth of the variants clip
_LONGEST_DATA_PATH = 150  # espeak-ng keeps the path of its data in 160 bytes and writes past them

_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)

Samples = NDArray[np.int16]


def find_data() -> Path | None:
    """Folder ``espeak-ng-data`` of the wheel; None when the wheel is not installed."""
    spec = importlib.util.find_spec("espeakng_loader")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "espeak-ng-data"
    return path if path.is_dir() else None


class Espeak:
    """The library, initialised. Get it by ``load``: there is one per process."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._pieces: list[bytes] = []
        self._callback = _CALLBACK(self._take)
        library.espeak_TextToPhonemes.restype = ctypes.c_char_p
        library.espeak_TextToPhonemes.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
        library.espeak_SetSynthCallback(self._callback)
        self.rate_hz = 0
        self.version = ""

    def _take(self, wave: int | None, count: int, events: int | None) -> int:
        del events
        if wave and count > 0:
            self._pieces.append(ctypes.string_at(wave, 2 * count))
        return 0

    def _set_voice(self, name: str) -> None:
        # Always set anew: it also resets pitch, range and the prosody left over from the last text.
        if self._library.espeak_SetVoiceByName(name.encode()) != 0:
            raise ToolError(f"espeak-ng has no voice {name!r}", hint="see: mww-ha voices list")

    def speak(
        self,
        text: str,
        voice: str,
        *,
        words_per_minute: int = 170,
        pitch: int = 50,
        pitch_range: int = 50,
        gap_ms: int = 0,
        ssml: bool = False,
    ) -> Samples:
        """int16 ``[n]`` at ``rate_hz``, ends with a pause. ``voice`` is a file name such as ``gmw/en-US+f2``.

        ``pitch`` and ``pitch_range`` 0 to 99, ``words_per_minute`` 80 to 450; ``text`` may hold ``[[phonemes]]``,
        or SSML if ``ssml``. Not repeatable to the sample: the noise generator keeps its state between calls.
        """
        encoded = text.encode()
        flags = _UTF8 | _END_PAUSE | (_SSML if ssml else _PHONEMES)
        with self._lock:
            self._set_voice(voice)
            values = ((_RATE, words_per_minute), (_VOLUME, _VOLUME_PERCENT), (_PITCH, pitch), (_RANGE, pitch_range))
            for parameter, value in (*values, (_GAP, gap_ms // 10)):
                self._library.espeak_SetParameter(parameter, value, 0)
            self._pieces.clear()
            if self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, flags, None, None) != 0:
                raise ToolError(f"espeak-ng could not say {text!r}")
            return np.frombuffer(b"".join(self._pieces), dtype=np.int16)

    def phonemes(self, texts: list[str], voice: str, *, ipa: bool = True) -> list[list[list[str]]]:
        """For each text its words, each a list of phonemes: IPA, or espeak's own mnemonics (as ``[[...]]`` takes).

        Stress marks are kept in front of their vowel. A text with nothing to say gives [].
        """
        mode = (ord("_") << 8) | (2 if ipa else 0)
        found = []
        with self._lock:
            self._set_voice(voice)
            for text in texts:
                # The library moves the pointer from clause to clause; NULL after the last.
                pointer = ctypes.c_char_p(text.encode())
                clauses = []
                while pointer.value is not None:
                    clauses.append(self._library.espeak_TextToPhonemes(ctypes.byref(pointer), _UTF8, mode) or b"")
                words = b" ".join(clauses).decode().split()
                found.append([phones for word in words if (phones := [p for p in word.split("_") if p])])
        return found


@functools.cache
def load() -> Espeak:
    """The library, initialised at the first call. Raises MissingDependencyError, ToolError."""
    data = find_data()
    if data is None:
        raise MissingDependencyError("espeak-ng is not installed", hint=how_to_install("tts"))
    import espeakng_loader

    try:
        library = ctypes.CDLL(espeakng_loader.get_library_path())
    except OSError as error:
        raise MissingDependencyError(
            f"espeak-ng does not load: {error}", hint="reinstall it: pip install --force-reinstall espeakng-loader"
        ) from None
    rate = library.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(_short_path(data)), 1 << 15)
    if rate <= 0:
        raise ToolError(f"espeak-ng does not start with {data}", hint="reinstall the package espeakng-loader")
    espeak = Espeak(library)
    espeak.rate_hz = rate
    library.espeak_Info.restype = ctypes.c_char_p
    espeak.version = (library.espeak_Info(None) or b"").decode().split()[0]
    return espeak


def _short_path(data: Path) -> Path:
    """``data``, or a link to it where its own path is too long for espeak-ng."""
    if len(os.fsencode(data)) <= _LONGEST_DATA_PATH:
        return data
    link = Path(tempfile.mkdtemp(prefix="mww-espeak-")) / "espeak-ng-data"
    link.symlink_to(data)
    return link


def language_files(data: Path) -> dict[str, list[str]]:
    """Voice files (``gmw/en-US``) by every language tag they declare, in the order of their names."""
    found: dict[str, list[str]] = {}
    folder = data / "lang"
    for path in sorted(path for path in (*folder.glob("*"), *folder.glob("*/*")) if path.is_file()):
        name = path.relative_to(folder).as_posix()
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            words = line.split()
            if len(words) >= 2 and words[0] == "language":
                found.setdefault(words[1].lower(), []).append(name)
    return found


_SILENT_LINES = ("name", "language", "//", "gender", "maintainer", "status")


def variants(data: Path) -> list[str]:
    """Names of the variants (``f2``, ``Mr serious``) that differ in sound, in the order of their names.

    Of variants whose files differ only in what is not heard (name, comments), the first stays.
    """
    found: dict[str, str] = {}
    for path in sorted((data / "voices" / "!v").iterdir()):
        if not path.is_file():
            continue
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        heard = [" ".join(line.split("//")[0].split()) for line in lines]
        key = "\n".join(sorted(line for line in heard if line and not line.startswith(_SILENT_LINES)))
        found.setdefault(key, path.name)
    return sorted(found.values())


def accents(data: Path, language: str) -> list[tuple[str, str]]:
    """(voice file, its language tag) of all accents of a primary language (``en``), in the order of their names.

    Without those for another script (``en-Shaw``, ``fa-Latn``): they read the same text differently.
    """
    found: dict[str, str] = {}
    for tag, files in language_files(data).items():
        parts = tag.split("-")
        if parts[0] == language and not any(len(part) == 4 and part.isalpha() and part in _SCRIPTS for part in parts):
            for file in files:
                found.setdefault(file, _file_tag(file))
    return sorted(found.items())


_SCRIPTS = ("latn", "shaw", "cyrl", "arab")


def _file_tag(file: str) -> str:
    return file.rpartition("/")[2]


def known_languages(data: Path) -> list[str]:
    """Primary language tags, sorted."""
    return sorted({tag.split("-")[0] for tag in language_files(data)})
