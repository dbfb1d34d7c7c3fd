"""Measures how well copies of one take are found: precision and recall of pairs against ``take_group``, and time.

tools/bench_duplicates.py --data $MWW_DATA          the target clips
tools/bench_duplicates.py --data $MWW_DATA --altered  each distinct take against an altered copy of itself
tools/bench_duplicates.py --data $MWW_DATA --clips 6000  time only: the clips over and over, each made different
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import itertools
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from mww_ha import audio
from mww_ha.prepare import split
from mww_ha.schema import Clip, Label, Origin


def altered(samples: audio.Samples, rng: np.random.Generator) -> audio.Samples:
    """The same take as another file: trimmed, scaled, shifted by part of a sample's frame, and through MP3."""
    import soundfile

    start, end = audio.trim_silence(samples, margin_s=float(rng.uniform(0.02, 0.3)))
    piece = np.concatenate([np.zeros(int(rng.integers(0, 4000)), np.int16), samples[start:end]])
    x = audio.int16_to_float(piece) * 10 ** (float(rng.uniform(-12, 3)) / 20)
    x += rng.standard_normal(x.size).astype(np.float32) * np.float32(1e-4)
    buffer = io.BytesIO()
    soundfile.write(buffer, x, 16000, format="MP3")
    buffer.seek(0)
    back, _ = soundfile.read(buffer, dtype="float32")
    return audio.float_to_int16(back)


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MWW_DATA"))
    parser.add_argument("--altered", action="store_true")
    parser.add_argument("--clips", type=int, default=0)
    args = parser.parse_args()
    if args.data is None:
        parser.error("name the folder with --data or $MWW_DATA")
    with (Path(args.data) / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["role"] == "target"]
    if args.altered or args.clips:
        rows = list({row["take_group"]: row for row in rows}.values())
    rng = np.random.default_rng(1)
    sounds: dict[str, audio.Samples] = {}
    take: dict[str, str] = {}
    who: dict[str, str] = {}
    for row in rows:
        samples = audio.read_audio(Path(args.data) / row["path"])
        copies = {row["path"]: samples}
        if args.altered:
            copies["altered " + row["path"]] = altered(samples, rng)
        for name, copy in copies.items():
            sounds[name], take[name], who[name] = copy, row["take_group"], row["speaker"]
    if args.clips:
        names = list(sounds)
        for number in range(len(names), args.clips):
            base = sounds[names[number % len(names)]]
            speed = 1 + 0.02 * (number // len(names))
            places = np.arange(0, base.size - 1, speed)
            sounds[f"{number}"] = np.interp(places, np.arange(base.size), base).astype(np.int16)
            take[f"{number}"] = who[f"{number}"] = f"{number}"
    blank = Clip(id="", path="", sha256="", label=Label.WAKE, origin=Origin.IMPORTED, duration_s=3.0)
    clips = [dataclasses.replace(blank, id=name, path=name, sha256=name) for name in sounds]
    started = time.monotonic()
    found = split.find_near_duplicates(clips, lambda clip: sounds[clip.id])
    print(f"{len(clips)} clips, {len(found)} groups, {time.monotonic() - started:.1f} s without reading files")
    groups = defaultdict(list)
    for name, group in take.items():
        groups[group].append(name)
    true = {pair for names in groups.values() for pair in itertools.combinations(sorted(names), 2)}
    pairs = {pair for names in found for pair in itertools.combinations(names, 2)}
    for a, b in sorted(pairs - true)[:20]:
        print(f"wrong: {a} ({who[a]}) = {b} ({who[b]})")
    for a, b in sorted(true - pairs)[:20]:
        print(f"missed: {a} = {b}")
    wrong_people = sum(who[a] != who[b] for a, b in pairs)
    right = len(pairs & true)
    print(f"pairs: {len(true)} true, {len(pairs)} found, {right} right, {wrong_people} of different speakers")
    print(f"precision {right / max(1, len(pairs)):.4f}, recall {right / max(1, len(true)):.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
