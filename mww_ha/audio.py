"""Sound files in and out; anything becomes 16 kHz, mono, int16. The one framing and the one rounding function.

Full scale is 32768 everywhere: a float sample of 1.0 is 32768, so int16 → float → int16 is exact, and a
square wave between the rails has 0 dBFS.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mww_ha import store
from mww_ha.errors import AudioFileError
from mww_ha.schema import SAMPLE_RATE_HZ, Clip, Label, Origin, digest

Samples = NDArray[np.int16]
Floats = NDArray[np.float32]

FULL_SCALE = 32768
SILENCE_DBFS = -120.0
"""What a level in dBFS is at least; stands for digital silence."""

SUFFIXES = frozenset(
    {".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64"}
)
"""Names of files that are expected to be sound when a folder is searched."""

MAX_READ_S = 2 * 3600.0
"""Longest file that ``read_audio`` takes into memory at once (230 MB of int16)."""

MAX_RIR_S = 20.0

_UNKNOWN_FRAMES = 1 << 40  # libsndfile's way of saying that the header holds no length
_LOUDEST_FLOAT = 16.0  # 24 dB over full scale: a float file with int16 numbers in it, not a hot recording
_CONVERT_HINT = "convert it to WAV or FLAC first, for example: ffmpeg -i IN -ar 16000 -ac 1 OUT.wav"


def float_to_int16(x: NDArray[Any]) -> Samples:
    """Floats in ±1 as int16: times 32768, rounded to nearest (halves to even), clipped to the range."""
    scaled = np.rint(np.asarray(x) * np.float32(FULL_SCALE))
    return np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)


def int16_to_float(samples: Samples) -> Floats:
    """int16 as float32 in [-1, 1). Exact; ``float_to_int16`` gives the same samples back."""
    return samples.astype(np.float32) / np.float32(FULL_SCALE)


def frame(samples: NDArray[Any], length: int, hop: int) -> NDArray[Any]:
    """Read-only view ``[count, length]`` on 1-D ``samples``: frame i starts at ``i * hop``.

    Only whole frames: count is 0 below ``length`` samples, else ``1 + (n - length) // hop``. Nothing is padded.
    """
    if length < 1 or hop < 1:
        raise ValueError(f"frame length {length} and hop {hop} must be positive")
    if samples.shape[0] < length:
        return np.empty((0, length), dtype=samples.dtype)
    return np.lib.stride_tricks.sliding_window_view(samples, length)[::hop]


def frame_levels_dbfs(samples: Samples, length: int = 320, hop: int = 160) -> NDArray[np.float64]:
    """RMS of each frame in dBFS, at least ``SILENCE_DBFS``. Defaults: 20 ms every 10 ms."""
    frames = frame(samples, length, hop)
    # A running sum of squares in integers is exact and does not copy the overlapping frames.
    squares = np.concatenate([[0], np.cumsum(samples.astype(np.int64) ** 2)])
    starts = np.arange(frames.shape[0]) * hop
    power = (squares[starts + length] - squares[starts]) / (length * float(FULL_SCALE) ** 2)
    levels: NDArray[np.float64] = 10 * np.log10(np.maximum(power, 10 ** (SILENCE_DBFS / 10)))
    return levels


def speech_level_dbfs(samples: Samples) -> float:
    """RMS in dBFS over the active 20 ms frames: those less than 30 dB below the loudest.

    Pauses do not count, so a word has the same level however much silence is around it: the level that a
    signal-to-noise ratio refers to. ``SILENCE_DBFS`` for digital silence. Shorter than a frame: plain RMS.
    """
    if samples.size == 0:
        return SILENCE_DBFS
    levels = frame_levels_dbfs(samples) if samples.size >= 320 else frame_levels_dbfs(samples, samples.size, 1)
    active = levels[levels > levels.max() - 30]
    return float(10 * np.log10(np.mean(10 ** (active / 10)))) if active.size else SILENCE_DBFS


def trim_silence(samples: Samples, *, margin_s: float = 0.1) -> tuple[int, int]:
    """Start and end (sample indexes, end exclusive) of what is said, with ``margin_s`` on both sides.

    The threshold adapts to the clip: 8 dB over its own floor (5th percentile of the frame levels), not more than
    38 dB and not less than 12 dB below its loud part (95th percentile), so both digital silence and a noisy room
    work. Sounds shorter than 50 ms that stand more than 150 ms apart from the rest (clicks, taps) are ignored.
    (0, 0) when there is nothing but silence; the whole clip when nothing stands out from the rest.
    """
    count = samples.size
    if count < 320:
        return (0, count) if np.any(samples) else (0, 0)
    hop = 160
    levels = frame_levels_dbfs(samples)
    if levels.max() <= -78:  # at most the dither of a muted microphone
        return (0, 0)
    # A loud word may fill a small part of a long clip: its level is taken among the frames that are not floor.
    floor = float(np.percentile(levels, 5))
    above = levels[levels > floor + 6]
    if above.size < 5:
        return (0, count)
    loud = float(np.percentile(above, 90))
    threshold = min(max(floor + 8, loud - 38), loud - 12)
    runs = _runs(levels > threshold)
    gap = 15  # frames: 150 ms, longer than the closure of a plosive
    kept: list[tuple[int, int]] = []
    for group in _grouped(runs, gap):
        if sum(end - start for start, end in group) >= 6:  # a 50 ms sound fills 6 frames of 20 ms
            kept += group
    if not kept:
        return (0, count)
    margin = round(margin_s * SAMPLE_RATE_HZ)
    start = kept[0][0] * hop + hop // 2
    end = (kept[-1][1] - 1) * hop + 320 - hop // 2
    return (max(0, start - margin), min(count, end + margin))


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _grouped(runs: list[tuple[int, int]], gap: int) -> list[list[tuple[int, int]]]:
    groups: list[list[tuple[int, int]]] = []
    for run in runs:
        if groups and run[0] - groups[-1][-1][1] <= gap:
            groups[-1].append(run)
        else:
            groups.append([run])
    return groups


def _check_file(path: Path) -> None:
    """Raises AudioFileError for what is wrong with the file itself, and for a WAV that was cut off."""
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise AudioFileError(f"{path} is a folder, not a sound file", hint="name a file inside it")
        if not path.is_file():
            raise AudioFileError(f"{path} is not a plain file", hint="name a sound file")
        if size == 0:
            raise AudioFileError(f"{path} is empty (0 bytes)", hint="record or copy it again")
        with path.open("rb") as file:
            missing = _missing_wav_bytes(file, size)
    except FileNotFoundError:
        raise AudioFileError(f"{path} is missing", hint="check the name") from None
    except PermissionError:
        raise AudioFileError(f"{path} cannot be read", hint="check owner and permissions") from None
    except OSError as error:
        raise AudioFileError(f"{path} cannot be read: {error.strerror}", hint="check the disk and the name") from None
    if missing:
        raise AudioFileError(f"{path} is truncated: {missing} bytes of sound are missing", hint="copy it again")
    if path.suffix.lower() == ".raw":
        raise AudioFileError(f"{path} has no header that says what it holds", hint=_CONVERT_HINT)


def _missing_wav_bytes(file: io.BufferedReader, size: int) -> int:
    """How many bytes the data chunk of a WAV promises beyond the end of the file; 0 for anything else."""
    head = file.read(12)
    if len(head) < 12 or head[:4] not in (b"RIFF", b"RIFX", b"RF64") or head[8:] != b"WAVE":
        return 0
    order = ">" if head[:4] == b"RIFX" else "<"
    long_size = 0
    while len(chunk := file.read(8)) == 8:
        name, length = chunk[:4], struct.unpack(order + "I", chunk[4:])[0]
        if name == b"ds64":
            body = file.read(min(length, 16))
            long_size = struct.unpack("<Q", body[8:16])[0] if len(body) >= 16 else 0
            file.seek(length - len(body), io.SEEK_CUR)
            continue
        if name == b"data":
            if length >= 0x7FFF_0000:  # written by a stream that did not know its end, or RF64
                length = long_size
            return max(0, int(length) - (size - file.tell()))
        file.seek(length + length % 2, io.SEEK_CUR)
    return 0


def _read_floats(path: Path, block: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(rate in Hz, float32 ``[n, channels]``) in blocks of at most ``block`` samples, those of all channels together.

    Raises AudioFileError, also for a file that ends before its header says so and for NaN and infinity.
    """
    import soundfile

    _check_file(path)
    try:
        file = soundfile.SoundFile(path)
    except soundfile.LibsndfileError as error:
        why = "" if "does not exist" in error.error_string else f": {error.error_string}"  # said of any bad MP3
        raise AudioFileError(f"{path} is not a sound file{why}", hint=_CONVERT_HINT) from None
    with file:
        rate = int(file.samplerate)
        if not 4000 <= rate <= 768_000:
            raise AudioFileError(f"{path} has a sample rate of {rate} Hz", hint="use 16000 Hz or more")
        promised = file.frames if file.format in ("WAV", "WAVEX", "RF64", "FLAC", "AIFF") else 0
        done = 0
        frames = max(1, block // file.channels)  # a small file can hold a thousand of them
        while True:
            try:
                piece = file.read(frames, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                at = f"{done / rate:.2f} s"
                raise AudioFileError(
                    f"{path} is damaged after {at}: {error.error_string}", hint="copy it again"
                ) from None
            if piece.shape[0] == 0:
                break
            bad = ~np.isfinite(piece)
            if bad.any():
                at_s = (done + int(np.flatnonzero(bad.any(axis=1))[0])) / rate
                share = float(bad.mean())
                raise AudioFileError(
                    f"{path} holds values that are not numbers, the first at {at_s:.3f} s ({share:.0%} of that block)",
                    hint="the program that wrote it failed; export it again as 16-bit WAV",
                )
            done += piece.shape[0]
            yield rate, piece
        if done == 0:
            raise AudioFileError(f"{path} holds no sound (0 s)", hint="record or copy it again")
        if done < promised < _UNKNOWN_FRAMES:
            raise AudioFileError(
                f"{path} is truncated: it ends after {done / rate:.2f} s of {promised / rate:.2f} s",
                hint="copy it again",
            )


def read_blocks(path: Path, block_s: float = 30.0) -> Iterator[Samples]:
    """Any sound file as 16 kHz mono int16, in pieces of exactly ``block_s`` seconds (the last one shorter).

    Memory stays bounded however long the file is. Channels are averaged, other rates resampled by soxr (HQ) without
    seams. Raises AudioFileError, possibly after some pieces: a truncated file shows itself only at its end.
    """
    import soxr

    size = max(1, round(block_s * SAMPLE_RATE_HZ))
    held: list[Samples] = []
    held_size = 0
    resampler: Any = None

    for piece, last in _with_last(_read_floats(path, block=1 << 18)):
        rate, floats = piece
        peak = float(np.abs(floats).max())
        if peak > _LOUDEST_FLOAT:
            raise AudioFileError(
                f"{path} holds float samples up to {peak:.0f}, full scale is 1.0", hint="export it as 16-bit WAV"
            )
        mono = floats[:, 0] if floats.shape[1] == 1 else floats.mean(axis=1, dtype=np.float32)
        if rate != SAMPLE_RATE_HZ:
            if resampler is None:
                resampler = soxr.ResampleStream(rate, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ")
            mono = resampler.resample_chunk(np.ascontiguousarray(mono), last=last)
        held.append(float_to_int16(mono))
        held_size += held[-1].size
        while held_size >= size:
            whole = np.concatenate(held)
            yield whole[:size]
            held, held_size = [whole[size:]], held_size - size
    if held_size:
        yield np.concatenate(held)


def _with_last(pieces: Iterator[tuple[int, Floats]]) -> Iterator[tuple[tuple[int, Floats], bool]]:
    """Each piece with whether it is the last one."""
    previous = next(pieces)
    for piece in pieces:
        yield previous, False
        previous = piece
    yield previous, True


def read_audio(path: Path, max_duration_s: float = MAX_READ_S) -> Samples:
    """Any sound file as 16 kHz mono int16 ``[n]``, n ≥ 1.

    WAV (8, 16, 24, 32 bit, float), FLAC, OGG, MP3 and whatever else libsndfile reads. Raises AudioFileError for a
    file that is missing, empty, truncated, not sound, filled with NaN, or longer than ``max_duration_s``.
    """
    limit = round(max_duration_s * SAMPLE_RATE_HZ)
    blocks: list[Samples] = []
    total = 0
    for block in read_blocks(path):
        blocks.append(block)
        total += block.size
        if total > limit:
            raise AudioFileError(
                f"{path} is longer than {max_duration_s:g} s", hint="cut it into parts, or import it as speech or noise"
            )
    if not blocks:
        raise AudioFileError(f"{path} holds no sound (0 s)", hint="record or copy it again")
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def read_rir(path: Path) -> Floats:
    """A room impulse response as float32 ``[n]`` at 16 kHz: the first channel, neither scaled nor clipped.

    Channels are not averaged: the mean of two microphones' responses is no room. Raises AudioFileError, also for
    one that is silent or longer than ``MAX_RIR_S``.
    """
    import soxr

    pieces: list[Floats] = []
    rate = SAMPLE_RATE_HZ
    for rate, piece in _read_floats(path, block=1 << 18):
        pieces.append(piece[:, 0])
        if sum(p.size for p in pieces) > MAX_RIR_S * rate:
            raise AudioFileError(
                f"{path} is longer than {MAX_RIR_S:g} s: not a room impulse response",
                hint="import recordings of rooms with --label noise",
            )
    response = np.concatenate(pieces)
    if not response.any():
        raise AudioFileError(f"{path} is silent: not a room impulse response", hint="leave it out")
    if rate != SAMPLE_RATE_HZ:
        response = soxr.resample(response, rate, SAMPLE_RATE_HZ, quality="HQ")
    return np.ascontiguousarray(response, dtype=np.float32)


def read_samples(path: Path) -> Samples:
    """A clip of the project (16 kHz mono FLAC written by ``write_flac``), without checks that only strangers need.

    Raises AudioFileError when the file is missing, damaged, or not one of ours.
    """
    import soundfile

    try:
        samples, rate = soundfile.read(path, dtype="int16")
    except (soundfile.LibsndfileError, OSError) as error:
        if not path.exists():
            raise AudioFileError(f"{path} is missing", hint="restore it from a backup or import it again") from None
        raise AudioFileError(f"{path} is damaged: {error}", hint="delete it and import it again") from None
    if rate != SAMPLE_RATE_HZ or samples.ndim != 1:
        raise AudioFileError(f"{path} is not a clip of this project", hint="add sound files with: mww-ha import")
    return np.asarray(samples, dtype=np.int16)


def write_flac(path: Path, samples: Samples, durable: bool = True) -> None:
    """Writes int16 ``[n]`` at 16 kHz as FLAC, all of it or nothing. Raises StorageError.

    ``durable`` waits for the disk: True for what cannot be made again.
    """
    _write_encoded(path, samples, "FLAC", "PCM_16", durable)


def _write_encoded(path: Path, samples: NDArray[Any], format: str, subtype: str, durable: bool) -> None:
    import soundfile

    # Encoded in memory: an error inside libsndfile's write callback would be printed and lost, a full disk with it.
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE_HZ, format=format, subtype=subtype)
    with store.atomic_write(path, durable=durable) as file:
        file.write(buffer.getvalue())


def samples_digest(samples: NDArray[Any]) -> str:
    """SHA-256 (hex) of the samples as little-endian int16 (RIRs: float32), independent of the file format."""
    kind = "<f4" if np.issubdtype(samples.dtype, np.floating) else "<i2"
    return hashlib.sha256(np.ascontiguousarray(samples, dtype=kind).tobytes()).hexdigest()


def add_clip(
    project_root: Path,
    samples: NDArray[Any],
    *,
    label: Label,
    origin: Origin,
    speaker: str = "",
    session: str = "",
    take: str = "",
    text: str = "",
    language: str = "",
    licence: str = "",
    source: str = "",
    parent: str = "",
) -> Clip:
    """Puts the samples into the project's content-addressed store and returns the Clip; adds no row.

    int16 as ``audio/<aa>/<sha256>.flac``; for label rir float32 as ``audio/<aa>/<sha256>.wav`` (FLAC holds no
    floats). A file that is there already stays. Everything but synthesized speech is written durably. Raises
    StorageError.
    """
    if samples.ndim != 1 or samples.size == 0:
        raise ValueError(f"a clip is one-dimensional and not empty, not {samples.shape}")
    wanted = np.float32 if label is Label.RIR else np.int16
    if samples.dtype != wanted:
        raise ValueError(f"a {label} clip is {np.dtype(wanted)}, not {samples.dtype}")
    sha256 = samples_digest(samples)
    relative = Path("audio") / sha256[:2] / (sha256 + (".wav" if label is Label.RIR else ".flac"))
    path = project_root / relative
    if not path.exists():
        durable = origin is not Origin.SYNTHESIZED
        if label is Label.RIR:
            _write_encoded(path, samples, "WAV", "FLOAT", durable)
        else:
            write_flac(path, samples, durable=durable)
    return Clip(
        id=digest([sha256, label, take]),
        path=relative.as_posix(),
        sha256=sha256,
        label=label,
        origin=origin,
        duration_s=round(samples.size / SAMPLE_RATE_HZ, 6),
        speaker=speaker,
        session=session,
        take=take,
        text=text,
        language=language,
        licence=licence,
        source=source,
        parent=parent,
    )
