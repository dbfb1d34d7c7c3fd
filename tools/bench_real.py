"""Judges wake-word models on real takes that training never heard, in four kinds of running background.

    tools/bench_real.py manifest --word "smart mirror" --takes 0 --out synthetic_only.tsv
    tools/bench_real.py manifest --word "smart mirror" --takes 0.6 --out with_takes.tsv
    mww-ha --project DIR import --manifest with_takes.tsv
    ...
    tools/bench_real.py judge --word "smart mirror" --takes 0.6 --model DIR/models/smart_mirror-1a2b3c4d.json --json OUT

The data (``--data`` or $MWW_DATA, see its README) are cut once, by hash: ``manifest`` lists what may be trained on,
``judge`` uses the rest: one take per take_group of the people who are not trained on (all people with ``--takes 0``),
noises and read speech of other speakers as background, other rooms; and for false accepts the spoken orders
(``speech_validation``, never trained on), held-out read speech and noise, and other wake words as lures.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mww_ha import audio, detector, frontend, metrics
from mww_ha.config import AugmentSettings
from mww_ha.prepare import augment
from mww_ha.prepare.scenes import CONDITIONS, RIR_TAPS, Pool, SceneMaker, Word
from mww_ha.schema import SAMPLE_RATE_HZ, Label
from mww_ha.trials import REACTION_S

HELD_OUT = {"speech_train": 0.2, "noise": 0.35, "rir": 0.34}
LABELS = {"speech_train": "speech", "noise": "noise", "rir": "rir"}
COLUMNS = ("path", "label", "speaker", "session", "take", "licence", "text", "language", "source")

Row = dict[str, str]


def _share(key: str) -> float:
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) / 2**32


def read_rows(data: Path) -> list[Row]:
    """Rows of ``manifest.tsv``."""
    with (data / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def is_held_out(row: Row) -> bool:
    """Whether a background, a reader or a room belongs to the judge."""
    key = row["speaker"] if row["role"] == "speech_train" else row["path"]
    return _share(f"{row['role']}:{key}") < HELD_OUT[row["role"]]


def trained_people(rows: list[Row], share: float) -> set[str]:
    """The people whose takes may be trained on: the first ``share`` in the order of a hash."""
    people = sorted({r["speaker"] for r in rows if r["role"] == "target"}, key=lambda name: _share(f"target:{name}"))
    return set(people[: round(share * len(people))])


def write_manifest(args: argparse.Namespace) -> None:
    """The training side as a file for ``mww-ha import --manifest``."""
    rows = read_rows(args.data)
    people = trained_people(rows, args.takes)
    chosen: list[Row] = []
    for row in rows:
        if row["role"] in LABELS and not is_held_out(row):
            chosen.append({**row, "label": LABELS[row["role"]], "take": "", "speaker": row["speaker"]})
        elif row["role"] == "target" and row["speaker"] in people:
            label = "wake" if row["label"] == args.word else "confusable"
            if label == "wake" or args.other_words:
                chosen.append({**row, "label": label, "take": row["take_group"], "text": row["label"]})
    with args.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", extrasaction="ignore", restval="")
        writer.writeheader()
        for row in chosen:
            writer.writerow({**row, "path": str((args.data / row["path"]).resolve())})
    print({label: sum(r["label"] == label for r in chosen) for label in sorted({r["label"] for r in chosen})})


class _Bench:
    """The judge's side of the data, decoded."""

    def __init__(self, data: Path, word: str, takes: float) -> None:
        self.rows = read_rows(data)
        self.data = data
        people = trained_people(self.rows, takes)
        groups: dict[str, Row] = {}
        for row in self.rows:
            if row["role"] == "target" and row["label"] == word and row["speaker"] not in people:
                groups.setdefault(row["take_group"], row)
        self.takes = list(groups.values())
        self.held = [r for r in self.rows if r["role"] in HELD_OUT and is_held_out(r)]
        self.folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "pool.i16"
        words: list[Word] = []
        at = 0
        with path.open("wb") as file:
            roles = {"speech_train": Label.SPEECH, "noise": Label.NOISE, "target": Label.WAKE}
            for row in [*self.takes, *self.held]:
                if row["role"] == "rir":
                    continue
                samples = audio.read_audio(data / row["path"])
                start, end = (0, len(samples)) if row["role"] == "noise" else audio.trim_silence(samples, margin_s=0.0)
                stop = min(len(samples), end + 800)
                file.write(samples[start:stop].tobytes())
                words.append(
                    Word(
                        clip=row["path"],
                        label=roles[row["role"]],
                        source="recorded",
                        speaker=row["speaker"],
                        start=at,
                        length=stop - start,
                        spoken=end - start,
                    )
                )
                at += stop - start
        rirs = [augment.align_rir(audio.read_rir(data / r["path"]), RIR_TAPS) for r in self.held if r["role"] == "rir"]
        spoken = [w for w in words if w.label is not Label.NOISE]
        self.pool = Pool(path, spoken, [w for w in words if w.label is Label.NOISE], np.stack(rirs))

    def frames(self, condition: str) -> list[tuple[Word, np.ndarray, int, int]]:
        """(take, frames of its scene, first step, last step) of every take under a condition."""
        maker = SceneMaker(self.pool, AugmentSettings(measured_rir_share=1.0, reverb_probability=0.0), 20.0)
        rng = np.random.default_rng([7, list(CONDITIONS).index(condition)])
        wakes = [w for w in self.pool.words if w.label is Label.WAKE]
        found = []
        for first in range(0, len(wakes), 8):
            scene = maker.make_trial(wakes[first : first + 8], CONDITIONS[condition], rng, 2.0)
            frames = frontend.quantize_features(frontend.features(scene.samples))
            for event in scene.events:
                last = detector.step_of_sample(event.end + int(REACTION_S * SAMPLE_RATE_HZ))
                found.append((event.word, frames, detector.step_of_sample(event.start), last))
        return found

    def ambient(self) -> dict[str, np.ndarray]:
        """Running int8 frames of each false-accept family."""
        families = {
            "spoken orders": [r for r in self.rows if r["role"] == "speech_validation"],
            "read speech": [r for r in self.held if r["role"] == "speech_train"],
            "noise": [r for r in self.held if r["role"] == "noise"],
            "other wake words": [r for r in self.rows if r["role"] == "other_wake"],
        }
        found = {}
        for name, rows in families.items():
            stream = frontend.Frontend()
            pieces = [stream.process(audio.read_audio(self.data / r["path"])) for r in rows]
            found[name] = frontend.quantize_features(np.concatenate(pieces))
        return found


def judge(args: argparse.Namespace) -> None:
    """Prints the table and writes all numbers."""
    bench = _Bench(args.data, args.word, args.takes)
    cache: dict[str, list[tuple[Word, np.ndarray, int, int]]] = {c: bench.frames(c) for c in CONDITIONS}
    ambient = bench.ambient()
    results = []
    for path in args.model:
        if path.suffix == ".json":
            manifest = detector.load_manifest(path)
            model, window, cutoff = manifest.model_path, manifest.sliding_window, manifest.cutoff
        else:
            model, window, cutoff = path, 5, 128
        results.append(_judge_model(path.stem, model, window, args.cutoff or cutoff, cache, ambient))
        _print(results[-1], args.word, len(bench.takes))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))


def _judge_model(
    name: str, model: Path, window: int, cutoff: int, cache: dict[str, Any], ambient: dict[str, np.ndarray]
) -> dict[str, Any]:
    result: dict[str, Any] = {"model": name, "window": window, "cutoff": cutoff, "peaks": {}, "ambient": {}}
    streaming = detector.StreamingModel(model)
    for condition, trials in cache.items():
        peaks = []
        scored: dict[int, np.ndarray] = {}
        for _word, frames, first, last in trials:
            if id(frames) not in scored:
                streaming.reset()
                scored = {id(frames): streaming.scores(frames)}
            peaks.append(detector.peak_window_sum(scored[id(frames)], window, first, last))
        result["peaks"][condition] = peaks
    for family, frames in ambient.items():
        streaming.reset()
        counts = detector.count_detections(streaming.scores(frames), np.arange(256), window)
        result["ambient"][family] = {"hours": len(frames) / 360_000, "counts": counts.tolist()}
    return result


def _print(result: dict[str, Any], word: str, takes: int) -> None:
    window = result["window"]
    families = result["ambient"]
    speech = [f for f in families if f != "other wake words"]
    hours = sum(families[f]["hours"] for f in speech)
    counts = np.sum([families[f]["counts"] for f in speech], axis=0)
    print(f"\n{result['model']}: {word!r}, {takes} takes, window {window}")
    print("cutoff        mean  " + "".join(f"{c:>22}" for c in CONDITIONS) + "   false accepts")
    rows = [("chosen", result["cutoff"])]
    for allowed in (0, 1, 2, 4):
        over = np.flatnonzero(counts > allowed)
        rows.append((f"{allowed} real", int(over[-1]) + 1 if len(over) else 0))
    for label, cutoff in rows:
        shares = []
        for condition in CONDITIONS:
            peaks = np.array(result["peaks"][condition])
            shares.append(metrics.share_interval(int((peaks > cutoff * window).sum()), len(peaks)))
        mean = np.mean([s.value for s in shares])
        cells = "".join(f"   {s.value:6.1%} [{s.low:4.0%}-{s.high:4.0%}]" for s in shares)
        told = ", ".join(f"{f} {families[f]['counts'][min(cutoff, 255)]}/{families[f]['hours']:.2f}h" for f in families)
        together = f"all but lures {counts[min(cutoff, 255)]}/{hours:.2f}h"
        print(f"{label:>7} {cutoff:4d}  {mean:6.1%}{cells}   {told}; {together}")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MWW_DATA"), help="default: $MWW_DATA")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("manifest", "judge"):
        sub = commands.add_parser(name)
        sub.add_argument("--word", required=True)
        sub.add_argument("--takes", type=float, default=0.0, help="share of people whose takes are trained on")
        if name == "manifest":
            sub.add_argument("--out", type=Path, required=True)
            sub.add_argument("--other-words", action="store_true", help="their other words as confusables")
        else:
            sub.add_argument("--model", type=Path, nargs="+", required=True, help="manifests or bare .tflite files")
            sub.add_argument("--cutoff", type=int, help="instead of the manifest's, 0 to 255")
            sub.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.data is None or not (Path(args.data) / "manifest.tsv").is_file():
        parser.error("no manifest.tsv: name the folder with --data or $MWW_DATA")
    args.data = Path(args.data)
    (write_manifest if args.command == "manifest" else judge)(args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
