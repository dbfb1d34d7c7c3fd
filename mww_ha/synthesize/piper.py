"""Piper voices, in the synthesis child process only: the one file that imports piper-tts (GPL-3.0-or-later).

As a program: ``python -m mww_ha.synthesize.piper probe FILE...`` says which voices load and which of them can mix
speakers; ``... download NAME DIR [ADDRESS]`` fetches a voice with Piper's own downloader.
"""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mww_ha.errors import MissingDependencyError, ToolError, how_to_install

if TYPE_CHECKING:
    from mww_ha.synthesize.voices import Delivery, Samples, Voice

_KEPT_MODELS = 2  # loaded at a time: one takes 100 MB and more
_MIXES = 3  # steps between the two speakers of a pair


def mix_shares() -> list[float]:
    """Shares of the second speaker that a mixture can have."""
    return [round(float(x), 3) for x in np.linspace(0.3, 0.7, _MIXES)]


class PiperEngine:
    """Piper in this process, one core."""

    def __init__(self) -> None:
        self._models: OrderedDict[tuple[str, str], Any] = OrderedDict()

    def speak(self, text: str, voice: Voice, delivery: Delivery) -> tuple[Samples, int]:
        """See Engine. The level is the model's own, not scaled to full."""
        from piper.config import SynthesisConfig

        model, speaker_id = self._find_model(voice, delivery)
        rng = np.random.default_rng(delivery.seed)
        config = SynthesisConfig(
            speaker_id=speaker_id,
            length_scale=model.config.length_scale / delivery.speed,
            noise_scale=float(np.clip(model.config.noise_scale * rng.uniform(0.6, 1.5), 0.0, 1.0)),
            noise_w_scale=float(np.clip(model.config.noise_w_scale * rng.uniform(0.6, 1.4), 0.0, 1.2)),
            normalize_audio=False,
        )
        try:
            chunks = [chunk.audio_float_array for chunk in model.synthesize(text, config)]
        except (RuntimeError, ValueError, KeyError, IndexError) as error:
            raise ToolError(f"Piper voice {voice.name} could not say {text!r}: {_first_line(error)}") from None
        samples = np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.float32)
        peak = float(np.max(np.abs(samples), initial=0.0))
        if not np.isfinite(peak):
            raise ToolError(f"Piper voice {voice.name} said {text!r} with samples that are not numbers")
        if peak > 0.9:
            samples = samples * (0.9 / peak)
        return np.rint(samples * 32767).astype(np.int16), int(model.config.sample_rate)

    def _find_model(self, voice: Voice, delivery: Delivery) -> tuple[Any, int | None]:
        first, tilde, second = voice.speaker.partition("~")
        key = (voice.path, voice.speaker if tilde else "")
        if key not in self._models:
            while len(self._models) >= _KEPT_MODELS:
                self._models.popitem(last=False)
            pair = (int(first), int(second)) if tilde else None
            self._models[key] = load_model(Path(voice.path), pair)
        self._models.move_to_end(key)
        model = self._models[key]
        if tilde:
            nearest = int(np.argmin([abs(delivery.mix - share) for share in mix_shares()]))
            return model, int(model.config.num_speakers) + nearest
        return model, int(first) if first else None


def load_model(path: Path, pair: tuple[int, int] | None = None) -> Any:
    """A ``piper.PiperVoice`` on one core, with mixtures of ``pair`` as further speakers. Raises ToolError."""
    try:
        import onnxruntime
        import piper
        from piper.config import PiperConfig
    except ImportError as error:
        raise MissingDependencyError(
            f"Piper is not installed ({error.name} is missing)",
            hint=how_to_install("tts"),
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # several processes share the cores
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        config = PiperConfig.from_dict(json.loads(Path(f"{path}.json").read_text(encoding="utf-8")))
        graph: str | bytes = mix_speakers(path, pair) if pair else str(path)
        session = onnxruntime.InferenceSession(graph, sess_options=options, providers=["CPUExecutionProvider"])
    except ToolError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _damaged(path, error) from None
    except Exception as error:  # onnxruntime's own errors have no common base but Exception
        if type(error).__module__.startswith("onnxruntime"):
            raise _damaged(path, error) from None
        raise
    return piper.PiperVoice(session=session, config=config)


def _damaged(path: Path, error: BaseException) -> ToolError:
    return ToolError(f"Piper voice {path} does not load: {_first_line(error)}", hint="download it again")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def mix_speakers(path: Path, pair: tuple[int, int]) -> bytes:
    """The voice's graph with mixtures of two speakers appended to its table of speakers.

    The mixtures become speakers n, n+1, ... after the n of the voice; everything else stays. Raises ToolError for a
    graph that does not look its speakers up in one table.
    """
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(path))
    table = _speaker_table(model)
    if table is None:
        raise ToolError(f"Piper voice {path} cannot mix speakers")
    rows = numpy_helper.to_array(table)
    first, second = rows[pair[0]], rows[pair[1]]
    mixed = np.stack([_between(first, second, share) for share in mix_shares()]).astype(rows.dtype)
    table.CopyFrom(numpy_helper.from_array(np.concatenate([rows, mixed]), table.name))
    serialized: bytes = model.SerializeToString()
    return serialized


def _between(first: Any, second: Any, share: float) -> Any:
    """On the way from one speaker to the other, with a length in between: a plain mean is shorter than both."""
    mean = (1 - share) * first + share * second
    length = float(np.linalg.norm(mean))
    wanted = (1 - share) * float(np.linalg.norm(first)) + share * float(np.linalg.norm(second))
    return mean * (wanted / length) if length > 0.2 * wanted else mean


def _speaker_table(model: Any) -> Any:
    """The initializer ``[speakers, width]`` from which the input ``sid`` picks a row; None when there is no such."""
    if not any(entry.name == "sid" for entry in model.graph.input):
        return None
    tables = {initializer.name: initializer for initializer in model.graph.initializer}
    users = [node for node in model.graph.node if "sid" in node.input]
    if len(users) != 1 or users[0].op_type != "Gather" or users[0].input[0] not in tables:
        return None
    if any(attribute.name == "axis" and attribute.i != 0 for attribute in users[0].attribute):
        return None
    table = tables[users[0].input[0]]
    shared = sum(table.name in node.input for node in model.graph.node)
    return table if len(table.dims) == 2 and shared == 1 else None


def probe(path: Path) -> dict[str, Any]:
    """``{"error"}`` or ``{"mixes": bool}`` for one voice file."""
    import importlib.util

    try:
        model = load_model(path)
    except ToolError as error:
        return {"error": error.message}
    if model.config.num_speakers < 2 or importlib.util.find_spec("onnx") is None:
        return {"mixes": False}
    import onnx

    return {"mixes": _speaker_table(onnx.load(str(path))) is not None}


def download(name: str, folder: Path, address: str) -> None:
    """Fetches NAME.onnx and NAME.onnx.json into ``folder``; ``address`` replaces the host of Piper's own list."""
    import piper.download_voices as downloader

    if address:
        _, slash, rest = downloader.URL_FORMAT.partition("/resolve/main/")
        downloader.URL_FORMAT = address.rstrip("/") + slash + rest
    downloader.download_voice(name, folder)


def main(arguments: list[str]) -> int:
    """The program; exit code 3 means that the network did not answer, 4 that there is no such voice."""
    import urllib.error

    if arguments[0] == "probe":
        sys.stdout.write(json.dumps({name: probe(Path(name)) for name in arguments[1:]}) + "\n")
        return 0
    try:
        download(arguments[1], Path(arguments[2]), arguments[3] if len(arguments) > 3 else "")
    except urllib.error.HTTPError as error:
        sys.stderr.write(f"HTTP status {error.code}\n")
        return 4 if error.code in (401, 403, 404) else 3
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 4
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
