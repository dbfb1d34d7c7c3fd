"""Who can speak: the voices of every engine found on this machine, and how an utterance is asked of them.

A voice's ``id`` is ``engine:voice`` or ``engine:voice:speaker``; it becomes the ``speaker`` of its clips and must
never be renamed, for the split is made by it. espeak-ng's voices are ``accent file+variant``: the timbre of one
variant is much the same in all accents, so a hold-out by speaker keeps out the pair of accent and variant, not the
timbre; who wants a stricter one groups by what follows the ``+``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mww_ha.errors import InputError, MissingDependencyError, OfflineError, ToolError, how_to_install
from mww_ha.store import storage_errors
from mww_ha.synthesize import espeak

Samples = NDArray[np.int16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """Somebody who can speak."""

    engine: str  # espeak | piper | wyoming | home_assistant | flite | festival | pico | rhvoice | mbrola
    name: str  # the engine's own name for it
    language: str  # BCP 47
    speaker: str = ""  # within a voice of several: "12", a name, or "3~7" for the mixtures of two
    path: str = ""  # model file or address, for engines that need one
    licence: str = ""  # where known

    @property
    def id(self) -> str:
        """``engine:voice[:speaker]``, stable for the life of a project."""
        return f"{self.engine}:{self.name}" + (f":{self.speaker}" if self.speaker else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How something is said, in units every engine can follow as far as it goes."""

    speed: float = 1.0  # 1: the engine's normal speed; 0.5 to 1.35
    pitch: float = 0.0  # -1 (low) to 1 (high), 0: the voice's own
    liveliness: float = 0.0  # -1 (monotone) to 1 (lively), 0: the voice's own
    gap_ms: int = 0  # extra pause between words
    emphasis: int = -1  # index of the stressed word, -1: none
    stature: float = 0.0  # -1 (a smaller person: all higher and faster) to 1; made by the rate, so any engine follows
    mix: float = 0.5  # for a mixture of two speakers: share of the second
    seed: int = 0  # for engines that draw random numbers


class Engine(Protocol):
    """What makes sound of a text. Lives in a synthesis child process."""

    def speak(self, text: str, voice: Voice, delivery: Delivery) -> tuple[Samples, int]:
        """int16 ``[n]`` and its rate in Hz. Raises ToolError when the engine fails."""
        ...


def draw_delivery(rng: np.random.Generator, words: int, *, called: bool = False) -> Delivery:
    """One way to say a text of ``words`` words: wide, but what a person could do.

    What is ``called`` to a device is said more slowly than what is read: people take 0.97 s for a phrase (median of 308
    takes of "smart mirror") that engines at their reading speed say in 0.7 to 0.9 s.
    """
    middle, spread = (0.88, 0.19) if called else (1.0, 0.17)
    return Delivery(
        speed=round(float(np.clip(rng.normal(middle, spread), 0.5, 1.35)), 3),
        pitch=round(float(rng.uniform(-1, 1)), 3),
        liveliness=round(float(rng.uniform(-1, 1)), 3),
        gap_ms=int(rng.integers(1, 9)) * 10 if rng.random() < 0.2 else 0,
        emphasis=int(rng.integers(words)) if words > 0 and rng.random() < 0.4 else -1,
        stature=round(float(rng.uniform(-1, 1)), 3),
        mix=round(float(rng.uniform(0.25, 0.75)), 3),
        seed=int(rng.integers(1 << 31)),
    )


def primary(language: str) -> str:
    """``de-AT`` → ``de``."""
    return language.replace("_", "-").split("-")[0].lower()


def find_voices(language: str, search_dirs: Sequence[Path] = (), addresses: Sequence[str] = ()) -> list[Voice]:
    """All voices for the language, sorted by id; accents of the language count whatever its region.

    ``search_dirs``: folders with Piper voices (``NAME.onnx`` beside ``NAME.onnx.json``), besides the user's own
    (``user_voices_dir``). ``addresses``: ``wyoming://host:port``; none: in Home Assistant's app the household's own
    speech server is found. Raises ToolError when an address does not answer.
    """
    from mww_ha.synthesize import programs

    found = [*find_espeak_voices(language), *programs.find_voices(language)]
    found += find_piper_voices(language, [*search_dirs, user_voices_dir()])
    if addresses:
        from mww_ha.synthesize import wyoming

        for address in addresses:
            found += wyoming.find_voices(language, address)
    else:
        from mww_ha.synthesize import household

        found += household.find_voices(language)
    return sorted({voice.id: voice for voice in found}.values(), key=lambda voice: voice.id)


def user_voices_dir() -> Path:
    """Where voices shared by all projects lie: ``$XDG_DATA_HOME/mww-ha/voices``."""
    base = os.environ.get("XDG_DATA_HOME", "")
    return (Path(base) if base else Path.home() / ".local" / "share") / "mww-ha" / "voices"


def find_espeak_voices(language: str) -> list[Voice]:
    """Native accents of the language times the variants; [] without the wheel or for a language it does not have."""
    data = espeak.find_data()
    if data is None:
        return []
    wanted = primary(language)
    accents = espeak.accents(data, wanted)
    return [
        Voice(engine="espeak", name=f"{file}+{variant}", language=tag)
        for file, tag in accents
        for variant in espeak.variants(data)
    ]


def phoneme_voice(language: str) -> str:
    """The espeak-ng voice file that says best how the language is pronounced.

    Raises InputError for a language it does not speak, MissingDependencyError without espeak-ng.
    """
    data = espeak.find_data()
    if data is None:
        raise MissingDependencyError("espeak-ng is not installed", hint=how_to_install("tts"))
    accents = espeak.accents(data, primary(language))
    tag = language.replace("_", "-").lower()
    exact = espeak.language_files(data).get("en-us" if tag == "en" else tag, [])
    if exact:
        return exact[0]
    if accents:
        return accents[0][0]
    raise InputError(
        f"no voice speaks the language {language!r}",
        hint="use a code such as en, de or fr-FR; espeak-ng knows " + ", ".join(espeak.known_languages(data)),
    )


ENGINES = ("espeak", "piper", "wyoming", "home_assistant", "flite", "festival", "pico", "rhvoice", "mbrola")
"""All engines, by the name that begins their voices' ids."""

_LEAST_TO_MIX = 6  # speakers; of fewer, each is worth more on its own


def find_piper_voices(language: str, dirs: Sequence[Path]) -> list[Voice]:
    """Every speaker of every Piper voice for the language in these folders (searched two levels deep).

    Where the graph allows it, a third of the speakers are paired and heard only as mixtures (speaker ``3~7``):
    each speaker is in one voice of ours, alone or in one pair, so a hold-out by voice stays clean. Voices that do
    not load are left out with a warning in the log. [] where piper-tts is not installed.
    """
    if importlib.util.find_spec("piper") is None:
        return []
    configs: dict[str, tuple[Path, dict[str, Any]]] = {}
    for folder in dirs:
        for path in sorted([*folder.glob("*.onnx"), *folder.glob("*/*.onnx")]):
            config = _piper_config(path)
            if config is not None and primary(_piper_language(config)) == primary(language):
                configs.setdefault(path.stem, (path, config))
    if not configs:
        return []
    probed = _probe_piper(tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p, _ in configs.values()))
    found = []
    for name, (path, config) in sorted(configs.items()):
        result = probed[str(path)]
        if "error" in result:
            logging.getLogger(__name__).warning("%s", result["error"])
            continue
        count = int(config.get("num_speakers", 1))
        voice = Voice(engine="piper", name=name, language=_piper_language(config), path=str(path))
        speakers = name_speakers(count, mixes=bool(result["mixes"]))
        found += [dataclasses.replace(voice, speaker=speaker) for speaker in speakers]
    return found


def name_speakers(count: int, *, mixes: bool) -> list[str]:
    """Names of a voice's speakers: "" for a single one, numbers, and pairs ``a~b`` of the last third for mixtures."""
    if count < 2:
        return [""]
    alone = count - (count // 6) * 2 if mixes and count >= _LEAST_TO_MIX else count
    return [str(i) for i in range(alone)] + [f"{i}~{i + 1}" for i in range(alone, count, 2)]


def _piper_config(path: Path) -> dict[str, Any] | None:
    try:
        config = json.loads(Path(f"{path}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, dict) and "phoneme_id_map" in config else None


def _piper_language(config: dict[str, Any]) -> str:
    code = config.get("language", {}).get("code") or config.get("espeak", {}).get("voice") or ""
    return str(code).replace("_", "-")


@functools.cache
def _probe_piper(files: tuple[tuple[str, int, int], ...]) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "mww_ha.synthesize.piper", "probe", *(name for name, _, _ in files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=child_environment())
    if done.returncode != 0:
        raise ToolError(
            f"looking at the Piper voices failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}",
            hint="leave Piper out with synthesize.engines",
        )
    result: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return result


def child_environment() -> dict[str, str]:
    """The environment in which a child process of ours finds this package."""
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}


RECOMMENDED = {
    "ar": "ar_JO-kareem-medium",
    "ca": "ca_ES-upc_ona-medium",
    "cs": "cs_CZ-jirka-medium",
    "da": "da_DK-talesyntese-medium",
    "de": "de_DE-mls-medium",
    "en": "en_US-libritts_r-medium",
    "es": "es_ES-sharvard-medium",
    "fi": "fi_FI-harri-medium",
    "fr": "fr_FR-mls-medium",
    "it": "it_IT-paola-medium",
    "nl": "nl_NL-mls-medium",
    "no": "no_NO-talesyntese-medium",
    "pl": "pl_PL-mls_6892-low",
    "pt": "pt_BR-faber-medium",
    "ru": "ru_RU-irina-medium",
    "sv": "sv_SE-nst-medium",
    "tr": "tr_TR-dfki-medium",
    "uk": "uk_UA-ukrainian_tts-medium",
    "zh": "zh_CN-huayan-medium",
}
"""A Piper voice by language, the one with the most speakers where there is a choice."""


def recommend_voice(language: str) -> str:
    """The name to give to ``download_voice``. Raises InputError for a language without one."""
    name = RECOMMENDED.get(primary(language))
    if name is None:
        raise InputError(
            f"no Piper voice is recommended for {language!r}",
            hint="name one of Piper's own list, for example: mww-ha voices download en_US-libritts_r-medium",
        )
    return name


def download_voice(name: str, folder: Path, *, address: str = "") -> Path:
    """Fetches a Piper voice with Piper's own downloader and returns its ``.onnx``; one that is there stays.

    ``address``: a mirror of the voices' repository. A voice appears in ``folder`` complete or not at all. Raises
    OfflineError, InputError for an unknown name, MissingDependencyError, ToolError, StorageError.
    """
    if importlib.util.find_spec("piper") is None:
        raise MissingDependencyError("Piper is not installed", hint=how_to_install("tts"))
    name = name.strip()
    final = folder / f"{name}.onnx"
    if final.exists() and _piper_config(final) is not None:
        return final
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as place:
            command = [sys.executable, "-m", "mww_ha.synthesize.piper", "download", name, place, address]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=child_environment())
            why = (done.stderr.strip().splitlines() or ["no message"])[-1]
            if done.returncode == 4:
                raise InputError(
                    f"there is no Piper voice {name!r} ({why})",
                    hint=f"names look like {RECOMMENDED['en']}; Piper's documentation lists them",
                )
            if done.returncode == 3:
                raise OfflineError(
                    f"the Piper voice {name} could not be downloaded: {why}",
                    hint=f"connect and run it again, or copy {name}.onnx and {name}.onnx.json to {folder}",
                )
            fetched = Path(place) / final.name
            if done.returncode != 0 or not fetched.exists():
                raise ToolError(f"Piper's downloader failed for {name}: {why}")
            if (
                _piper_config(fetched) is None
                or "error" in _probe_piper(((str(fetched), 0, fetched.stat().st_size),))[str(fetched)]
            ):
                raise OfflineError(f"the download of {name} is incomplete", hint="run it again")
            Path(f"{fetched}.json").replace(f"{final}.json")
            fetched.replace(final)  # last: a voice is there when its .onnx is
    return final
