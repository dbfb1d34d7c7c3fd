"""Measures the check of takes: how many real takes it refuses, and how many of those damaged on purpose it catches.

tools/bench_takes.py --data $MWW_DATA            three target words, and other words in rougher recordings
tools/bench_takes.py --data $MWW_DATA --refused  also names each real take that is refused
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mww_ha import audio
from mww_ha.config import RecordSettings
from mww_ha.record import takes

RATE = 16_000
Damage = Callable[[audio.Samples, np.random.Generator], audio.Samples]


def at_level(samples: audio.Samples, level_dbfs: float) -> audio.Samples:
    """The same with its speech at that level."""
    gain = 10 ** ((level_dbfs - audio.speech_level_dbfs(samples)) / 20)
    return audio.float_to_int16(audio.int16_to_float(samples) * np.float32(gain))


def in_noise(samples: audio.Samples, snr_db: float, rng: np.random.Generator, noise: audio.Samples) -> audio.Samples:
    """A stretch of ``noise`` under the take, ``snr_db`` below its speech."""
    start = int(rng.integers(0, max(1, noise.size - samples.size)))
    under = np.resize(noise[start : start + samples.size], samples.size).astype(np.float64)
    power = np.sqrt(np.mean(under**2)) or 1.0
    wanted = audio.FULL_SCALE * 10 ** ((audio.speech_level_dbfs(samples) - snr_db) / 20)
    return np.clip(samples + under * wanted / power, -32768, 32767).astype(np.int16)


def word_of(samples: audio.Samples) -> tuple[int, int]:
    """Where the word is, by the strictest threshold there is here."""
    pieces = takes.find_pieces(audio.frame_levels_dbfs(samples))
    return (round(pieces[0].start_s * RATE), round(pieces[-1].end_s * RATE)) if pieces else (0, samples.size)


def hiss(seconds: float, dbfs: float, rng: np.random.Generator) -> audio.Samples:
    """White noise."""
    return audio.float_to_int16(rng.standard_normal(round(seconds * RATE)) * 10 ** (dbfs / 20))


def damages(noise: audio.Samples) -> dict[str, Damage]:
    """Ways to spoil a take, and the one change that must not matter."""

    def cut_start(x: audio.Samples, _: np.random.Generator) -> audio.Samples:
        start, end = word_of(x)
        return x[start + 2 * (end - start) // 5 :]

    def cut_end(x: audio.Samples, _: np.random.Generator) -> audio.Samples:
        start, end = word_of(x)
        return x[: end - 2 * (end - start) // 5]

    def half_word(x: audio.Samples, rng: np.random.Generator) -> audio.Samples:
        start, end = word_of(x)
        room = hiss(0.8, -70, rng)
        return np.concatenate([room, x[max(0, start - 800) : start + 2 * (end - start) // 5], room])

    def twice(x: audio.Samples, rng: np.random.Generator) -> audio.Samples:
        return np.concatenate([x, hiss(0.2, -75, rng), x])

    def amplified(x: audio.Samples, _: np.random.Generator) -> audio.Samples:
        return audio.float_to_int16(audio.int16_to_float(x) * np.float32(10 ** ((6 - audio.speech_level_dbfs(x)) / 20)))

    def clipped_low(x: audio.Samples, _: np.random.Generator) -> audio.Samples:
        return (amplified(x, _) * 0.3).astype(np.int16)

    def as_mp3(x: audio.Samples, rng: np.random.Generator) -> audio.Samples:
        import soundfile

        start, end = word_of(x)
        piece = np.concatenate([hiss(0.5, -80, rng), x[max(0, start - 1000) : end + 1000], hiss(0.5, -80, rng)])
        buffer = io.BytesIO()
        soundfile.write(buffer, audio.int16_to_float(piece) * np.float32(0.7), RATE, format="MP3")
        buffer.seek(0)
        return audio.float_to_int16(soundfile.read(buffer, dtype="float32")[0])

    return {
        "- (room of -65 dBFS around it)": lambda x, rng: np.clip(
            np.concatenate([hiss(1, -65, rng), x, hiss(1, -65, rng)])[: x.size + 2 * RATE].astype(np.int32)
            + hiss(x.size / RATE + 2, -65, rng)[: x.size + 2 * RATE],
            -32768,
            32767,
        ).astype(np.int16),
        "- (noise 15 dB below)": lambda x, rng: in_noise(x, 15, rng, noise),
        "empty: digital silence": lambda x, _: np.zeros_like(x),
        "empty: hiss only": lambda x, rng: hiss(x.size / RATE, -50, rng),
        "quiet: speech at -60 dBFS": lambda x, _: at_level(x, -60),
        "clipped: speech at +6 dBFS": amplified,
        "clipped: the same, turned down after": clipped_low,
        "noisy: noise at 3 dB": lambda x, rng: in_noise(x, 3, rng, noise),
        "noisy: noise at 0 dB": lambda x, rng: in_noise(x, 0, rng, noise),
        "noisy: hiss at 3 dB": lambda x, rng: in_noise(x, 3, rng, hiss(10, -30, rng)),
        "cut: its first 40 % missing": cut_start,
        "cut: its last 40 % missing": cut_end,
        "short: 40 % of the word": half_word,
        "several: said twice": twice,
        "duplicate: the same file": lambda x, _: x,
        "duplicate: trimmed, softer, MP3": as_mp3,
    }


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MWW_DATA"))
    parser.add_argument("--refused", action="store_true")
    args = parser.parse_args()
    if args.data is None:
        parser.error("name the folder with --data or $MWW_DATA")
    with (Path(args.data) / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    settings = RecordSettings()

    def read(row: dict[str, str]) -> audio.Samples:
        return audio.read_audio(Path(args.data) / row["path"])

    targets = list({row["take_group"]: row for row in rows if row["role"] == "target"}.values())
    others = [row for row in rows if row["role"] == "other_wake" and row["label"]]
    for title, chosen in (("target", targets), ("other_wake", others)):
        by_label: dict[str, list[dict[str, str]]] = {}
        for row in chosen:
            by_label.setdefault(row["label"], []).append(row)
        for label, own in by_label.items():
            if len(own) < 40:
                continue
            found: Counter[str] = Counter()
            refused = 0
            for row in own:
                report = takes.check_take(read(row), phrase=label, settings=settings)
                refused += not report.good
                found.update({reason.fault for reason in report.reasons})
                if args.refused and not report.good:
                    print(f"    {row['path']}: {'; '.join(reason.text for reason in report.reasons)}")
            print(f"real {title} {label!r}: {refused} of {len(own)} refused, {dict(found)}")
    alone = [x[: 4 * RATE] for row in rows if row["role"] == "noise" and (x := read(row)).size >= RATE]
    good = sum(takes.check_take(x, phrase="hey kitchen", settings=settings).good for x in alone)
    print(f"noise alone, 4 s: {good} of {len(alone)} not refused")
    noise = np.concatenate([read(row)[: 20 * RATE] for row in rows if row["role"] == "noise"][:40])
    sounds = [
        (row["label"], x)
        for row in targets[::5]
        if takes.check_take(x := read(row), phrase=row["label"], settings=settings).good
    ]
    for name, damage in damages(noise).items():
        rng = np.random.default_rng(5)
        found = Counter()
        caught = named = 0
        started = time.perf_counter()
        for label, x in sounds:
            earlier = []
            if name.startswith("duplicate"):
                whole = takes.check_take(x, phrase=label, settings=settings)
                earlier = [("take 1", x[whole.start : whole.end])]
            report = takes.check_take(damage(x, rng), phrase=label, settings=settings, earlier=earlier)
            caught += not report.good
            faults = {str(reason.fault) for reason in report.reasons}
            named += name.partition(":")[0] in faults
            found.update(faults)
        each_ms = (time.perf_counter() - started) / len(sounds) * 1000
        print(
            f"{name}: {caught} of {len(sounds)} refused, {named} for that reason, {dict(found)}, {each_ms:.0f} ms each"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
