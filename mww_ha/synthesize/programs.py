"""Speech programs installed on the system: flite, festival, pico2wave, RHVoice, mbrola (through espeak-ng's own CLI).

Each utterance is one process with a time limit; the text goes in by a file or an argument, never through a shell.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mww_ha.errors import AudioFileError, ToolError

if TYPE_CHECKING:
    from mww_ha.synthesize.voices import Delivery, Voice

ENGINES = ("flite", "festival", "pico", "rhvoice", "mbrola")
TIMEOUT_S = 20.0


def find_voices(language: str) -> list[Voice]:
    """Voices for the language of every speech program found on the PATH."""
    from mww_ha.synthesize.voices import primary

    code = primary(language)
    return [*_flite(code), *_festival(code), *_pico(code), *_rhvoice(code), *_mbrola(code)]


def _ask(*command: str, stdin: str = "") -> str:
    """What a program prints; empty when it is not there or fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return done.stdout


def _voice(engine: str, name: str, language: str, licence: str = "") -> Voice:
    from mww_ha.synthesize.voices import Voice

    return Voice(engine=engine, name=name, language=language, licence=licence)


_FLITE_ALIKE = frozenset({"awb_time", "kal"})  # a clock of few words; kal16 at half the sample rate


@functools.cache
def _flite(code: str) -> list[Voice]:
    if code != "en":
        return []
    names = _ask("flite", "-lv").partition(":")[2].split()
    return [_voice("flite", name, "en") for name in sorted({*names} - _FLITE_ALIKE)]


# festival does not say which language its voices speak; these are its folders of English and those whose name says it.
_FESTIVAL_LANGUAGES = {"english": "en", "us": "en", "italian": "it", "spanish": "es", "czech": "cs", "finnish": "fi"}
_FESTIVAL_LIST = '(mapcar (lambda (v) (format t "%s %s\\n" v (cdr (assoc v voice-locations)))) (voice.list))'


@functools.cache
def _festival(code: str) -> list[Voice]:
    if shutil.which("festival") is None:
        return []
    found = []
    for line in _ask("festival", "--batch", _FESTIVAL_LIST).splitlines():
        name, _, place = line.strip().partition(" ")
        for folder, language in _FESTIVAL_LANGUAGES.items():
            if language == code and f"/voices/{folder}/" in place:
                found.append(_voice("festival", name, language))
    return sorted(found, key=lambda voice: voice.name)


_PICO_VOICES = ("en-US", "en-GB", "de-DE", "es-ES", "fr-FR", "it-IT")


@functools.cache
def _pico(code: str) -> list[Voice]:
    if shutil.which("pico2wave") is None:
        return []
    return [_voice("pico", tag, tag) for tag in _PICO_VOICES if tag.startswith(code)]


_RHVOICE_DIRS = (Path("/usr/share/RHVoice/voices"), Path("/usr/local/share/RHVoice/voices"))


@functools.cache
def _rhvoice(code: str) -> list[Voice]:
    if shutil.which("RHVoice-test") is None:
        return []
    found = []
    for folder in _RHVOICE_DIRS:
        for path in sorted(folder.glob("*/voice.info")):
            info = dict(re.findall(r"(?m)^\s*(\w+)\s*=\s*(.+?)\s*$", path.read_text("utf-8", errors="replace")))
            if info.get("language", "").lower().startswith(_RHVOICE_LANGUAGES.get(code, code + "-")):
                found.append(_voice("rhvoice", info.get("name", path.parent.name), code))
    return found


_RHVOICE_LANGUAGES = {
    "en": "english",
    "ru": "russian",
    "eo": "esperanto",
    "ka": "georgian",
    "uk": "ukrainian",
    "mk": "macedonian",
    "pt": "brazilian",
    "sq": "albanian",
    "pl": "polish",
    "cs": "czech",
    "sk": "slovak",
    "es": "spanish",
    "hr": "croatian",
    "vi": "vietnamese",
    "uz": "uzbek",
}


@functools.cache
def _mbrola(code: str) -> list[Voice]:
    if shutil.which("mbrola") is None or shutil.which("espeak-ng") is None:
        return []
    found = []
    for line in _ask("espeak-ng", "--voices=mb").splitlines()[1:]:
        columns = line.split()
        file = next((column for column in columns if column.startswith("mb/mb-")), "")
        if len(columns) >= 4 and columns[1].split("-")[0].lower() == code and file and _has_mbrola_data(file):
            found.append(_voice("mbrola", file.removeprefix("mb/mb-"), columns[1]))
    return found


def _has_mbrola_data(file: str) -> bool:
    base = file.removeprefix("mb/mb-").split("-")[0]
    return any((Path(p) / base / base).exists() or (Path(p) / base).is_file() for p in ("/usr/share/mbrola",))


class Programs:
    """The engine for all of them."""

    def __init__(self) -> None:
        self._festival = _Festival()

    def speak(self, text: str, voice: Voice, delivery: Delivery) -> tuple[NDArray[np.int16], int]:
        """int16 ``[n]`` and its rate in Hz. Raises ToolError."""
        with tempfile.TemporaryDirectory(prefix="mww-speech-") as folder:
            path = Path(folder) / "said.wav"
            if voice.engine == "festival":
                self._festival.speak(text, voice.name, delivery, path)
            else:
                _run(*_command(text, voice, delivery, path), text=text)
            if not path.exists():
                raise ToolError(f"{voice.engine} said nothing for {text!r}")
            return _read_wav(path)


def _run(command: list[str], stdin: str, *, text: str) -> None:
    try:
        done = subprocess.run(command, input=stdin.encode(), capture_output=True, timeout=TIMEOUT_S, check=False)
    except FileNotFoundError:
        raise ToolError(f"{command[0]} is gone", hint="install it again or leave its engine out") from None
    except subprocess.TimeoutExpired:
        raise ToolError(f"{command[0]} took more than {TIMEOUT_S:.0f} s to say {text!r}") from None
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise ToolError(f"{command[0]} could not say {text!r}: {said[-1] if said else done.returncode}")


_DONE = "mww-done"
_WRONG = "SIOD ERROR"


class _Festival:
    """One festival process that stays: its start takes fifty times as long as a phrase."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def speak(self, text: str, voice: str, delivery: Delivery, path: Path) -> None:
        """Writes what is said to ``path``. Raises ToolError; the process is started anew after a failure."""
        mean, spread = 105 * 2 ** (0.3 * delivery.pitch), 14 * 2 ** (0.8 * delivery.liveliness)
        command = (
            f"(begin (require 'hts) (voice_{voice}) (Parameter.set 'Duration_Stretch {1 / delivery.speed:.3f}) "
            f"(set! int_lr_params '((target_f0_mean {mean:.1f}) (target_f0_std {spread:.1f}) "
            "(model_f0_mean 170) (model_f0_std 34))) "
            # Voices by hidden Markov models take their speed from here; what they say of pitch is not heard.
            f'(set! hts_engine_params (append hts_engine_params \'(("-r" {delivery.speed:.3f})))) '
            f"(utt.save.wave (utt.synth (Utterance Text {_quoted(text)})) {_quoted(str(path))} 'riff) "
            f'(format t "{_DONE}\\n") (fflush nil))\n'
        )
        try:
            answer = self._ask(command.encode())
        except (OSError, ToolError):
            self._stop()
            raise ToolError(f"festival did not answer within {TIMEOUT_S:.0f} s to say {text!r}") from None
        if _WRONG in answer:
            self._stop()
            raise ToolError(f"festival could not say {text!r}: {answer[answer.index(_WRONG) :].splitlines()[0]}")

    def _ask(self, command: bytes) -> str:
        if self._process is None:
            self._process = subprocess.Popen(
                ["festival", "--pipe"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command)
        self._process.stdin.flush()
        answer, until = b"", time.monotonic() + TIMEOUT_S
        while _DONE.encode() not in answer and _WRONG.encode() not in answer:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, until - time.monotonic()))
            piece = os.read(self._process.stdout.fileno(), 1 << 16) if ready else b""
            if not piece:
                raise ToolError("festival does not answer")
            answer += piece
        return answer.decode(errors="replace")

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
            self._process = None

    def __del__(self) -> None:
        self._stop()


def _quoted(text: str) -> str:
    """As a string of festival's Scheme; line ends and control characters become spaces."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _read_wav(path: Path) -> tuple[NDArray[np.int16], int]:
    import soundfile

    try:
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioFileError(f"{path} is not sound: {error}") from None
    return samples[:, 0], int(rate)


def _command(text: str, voice: Voice, delivery: Delivery, path: Path) -> tuple[list[str], str]:
    """The command line and what goes to its standard input."""
    from mww_ha.synthesize.voices import primary

    stretch = 1 / delivery.speed
    if voice.engine == "flite":
        # int_f0_target_mean shifts the pitch of diphone voices; the clustergen ones follow f0_shift.
        return [
            *("flite", "-voice", voice.name, "--setf", f"duration_stretch={stretch:.3f}"),
            *("--setf", f"f0_shift={2 ** (delivery.pitch * 0.25):.3f}"),
            *("--setf", f"int_f0_target_stddev={15 * 2**delivery.liveliness:.1f}"),
            *("-t", text, "-o", str(path)),
        ], ""
    if voice.engine == "pico":
        said = (
            f'<speed level="{round(100 * delivery.speed)}"><pitch level="{round(100 + 25 * delivery.pitch)}">'
            f"{_escaped(text)}</pitch></speed>"
        )
        return ["pico2wave", "-l", voice.name, "-w", str(path), said], ""
    if voice.engine == "rhvoice":
        pitch, speed = round(100 + 20 * delivery.pitch), round(100 * delivery.speed)
        return ["RHVoice-test", "-p", voice.name, "-r", str(speed), "-t", str(pitch), "-o", str(path)], text
    if voice.engine == "mbrola":
        speed, pitch = round(140 * delivery.speed), round(50 + 30 * delivery.pitch)
        return ["espeak-ng", "-v", f"mb/mb-{voice.name}", "-s", f"{speed}", "-p", f"{pitch}", "-w", str(path), text], ""
    raise ToolError(f"no speech program is called {voice.engine!r}, needed for {primary(voice.language)}")


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
