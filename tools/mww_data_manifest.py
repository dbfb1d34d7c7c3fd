r"""Writes import manifests for a folder of public audio with a ``manifest.tsv``.

Its columns are path, role, label, seconds, speaker, take_group, licence, source. Written are negatives, noise, room
responses and, for one wake word, the takes of some people:

    tools/mww_data_manifest.py --data $MWW_DATA --out all.tsv --word "smart mirror" --side train --speakers-share 0.6
    mww-ha import --manifest all.tsv
    tools/mww_data_manifest.py --data $MWW_DATA --out test.tsv --word "smart mirror" --side test --only-word \
        --links bench

Whole people go to one side: speakers are ordered by a hash and the first share of them trains. ``--links`` makes a
folder of links to the takes, one per take group, for ``mww-ha evaluate --wake``.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import os
import sys
from collections import Counter
from pathlib import Path

from mww_ha import audio
from mww_ha.prepare import split
from mww_ha.schema import Clip, Label, Origin

COLUMNS = ("path", "label", "speaker", "session", "take", "licence", "text", "language", "source")
LABEL_OF_ROLE = {"speech_train": "speech", "noise": "noise", "rir": "rir"}


def choose_speakers(speakers: set[str], share: float, salt: str) -> set[str]:
    """The first ``share`` of the speakers in the order of a hash, rounded to whole people."""
    ordered = sorted(speakers, key=lambda name: hashlib.sha256(f"{salt}:{name}".encode()).hexdigest())
    return set(ordered[: round(share * len(ordered))])


def name_copies(data: Path, rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows with one ``take_group`` for all copies of a take: those the manifest names and those heard."""
    blank = Clip(id="", path="", sha256="", label=Label.WAKE, origin=Origin.IMPORTED, duration_s=3.0)
    clips = [
        dataclasses.replace(blank, id=row["path"], path=row["path"], sha256=row["path"], take=row["take_group"])
        for row in rows
    ]
    heard = split.find_near_duplicates(clips, lambda clip: audio.read_audio(data / clip.path))
    name = {clip.id: min(c.take for c in group) for group in split.group_clips(clips, heard) for clip in group}
    return [{**row, "take_group": name[row["path"]]} for row in rows]


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("MWW_DATA"), help="default: $MWW_DATA")
    parser.add_argument("--out", type=Path, required=True, help="manifest to write")
    parser.add_argument("--word", help="add this wake word's real takes")
    parser.add_argument("--speakers-share", type=float, default=0.6, help="share of speakers on the train side")
    parser.add_argument("--side", choices=("train", "test", "all"), default="train")
    parser.add_argument("--salt", default="", help="changes who is on which side")
    parser.add_argument("--only-word", action="store_true", help="leave out speech, noise and room responses")
    parser.add_argument("--links", type=Path, help="also link the takes into this folder, one per take group")
    args = parser.parse_args()
    if args.data is None or not (Path(args.data) / "manifest.tsv").is_file():
        parser.error("no manifest.tsv: name the folder with --data or $MWW_DATA")
    data = Path(args.data).resolve()
    with (data / "manifest.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    written: list[dict[str, str]] = []
    if not args.only_word:
        written += [_row(data, row, LABEL_OF_ROLE[row["role"]]) for row in rows if row["role"] in LABEL_OF_ROLE]
    takes: list[dict[str, str]] = []
    if args.word:
        # People are chosen among the speakers of all words, so that a person keeps the side for every word.
        people = {row["speaker"] for row in rows if row["role"] == "target"}
        trained = choose_speakers(people, args.speakers_share, args.salt)
        wanted = {"train": trained, "test": people - trained, "all": people}[args.side]
        said = [row for row in rows if row["role"] == "target" and row["label"] == args.word]
        if not said:
            words = sorted({row["label"] for row in rows if row["role"] == "target"})
            parser.error(f"no takes of {args.word!r}; words: {', '.join(words)}")
        said = name_copies(data, said)
        takes = [row for row in said if row["speaker"] in wanted]
        if args.side == "test":
            # The speakers are guessed, so a copy of a training take may stand under another name.
            known = {row["take_group"] for row in said if row["speaker"] in trained}
            dropped = [row for row in takes if row["take_group"] in known]
            takes = [row for row in takes if row["take_group"] not in known]
            print(f"left out of the test side as copies of training takes: {len(dropped)}")
        written += [{**_row(data, row, "wake"), "text": args.word, "language": "en"} for row in takes]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE)
        writer.writeheader()
        writer.writerows(written)
    counts = Counter(row["label"] for row in written)
    print(f"{args.out}: " + ", ".join(f"{n} {label}" for label, n in sorted(counts.items())))
    if takes:
        groups = {row["take_group"] for row in takes}
        print(
            f"{args.word}: {len(takes)} takes ({len(groups)} distinct) of {len({r['speaker'] for r in takes})} speakers"
        )
    if args.links:
        args.links.mkdir(parents=True, exist_ok=True)
        first = {row["take_group"]: row for row in sorted(takes, key=lambda r: r["path"], reverse=True)}
        for row in first.values():
            link = args.links / row["speaker"] / Path(row["path"]).name
            link.parent.mkdir(exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(data / row["path"])
        print(f"{args.links}: {len(first)} takes, a folder per speaker")
    return 0


def _row(data: Path, row: dict[str, str], label: str) -> dict[str, str]:
    return {
        "path": str(data / row["path"]),
        "label": label,
        "speaker": row["speaker"],
        "session": "",
        "take": row["take_group"],
        "licence": row["licence"],
        "text": "",
        "language": "",
        "source": f"{row['source']} {row['path']}",
    }


if __name__ == "__main__":
    sys.exit(main())
