"""Who trains, who chooses the weights, who judges: no speaker, session, take or near-duplicate on two sides.

Every speaker has a number in [0, 1) from a hash of its name: below ``test_share`` it is TEST, then VALIDATION, the
rest TRAIN. What belongs together is grouped, and a group has the largest number of its members. So as a project grows:

- a group never leaves TRAIN; when two groups turn out to belong together, one of them may move towards TRAIN;
- the exceptions are small: where a side would stay empty (see ``split_clips``) the group with the smallest number is
  lent to it, and goes back when the hash brings somebody else.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from mww_ha.config import SplitSettings
from mww_ha.errors import DataError, SplitLeakError
from mww_ha.schema import Clip, Label, Origin, ProgressSink, Split, no_progress
from mww_ha.similar import Groups, Load, find_near_duplicates

MIN_GROUPS = 3
"""One speaker for each side."""

MAX_COMPARED_S = 60.0
"""Longer clips are not compared by their sound: recordings of rooms and streets, not takes."""


def hash_share(key: str, salt: str) -> float:
    """A number in [0, 1) that depends on nothing but ``key`` and ``salt``."""
    value = hashlib.sha256(f"{salt}\n{key}".encode()).digest()
    return int.from_bytes(value[:7], "big") / (1 << 56)


def assign_split(group_key: str, settings: SplitSettings) -> Split:
    """The side of somebody called ``group_key``: a pure function of the name, whoever else is there."""
    return _side(hash_share(group_key, settings.salt), settings)


def _side(share: float, settings: SplitSettings) -> Split:
    if share < settings.test_share:
        return Split.TEST
    return Split.VALIDATION if share < settings.test_share + settings.validation_share else Split.TRAIN


def voice_keys(speaker: str) -> tuple[str, ...]:
    """The names by which a speaker is held out; several when a voice is a mixture.

    - espeak-ng's ``espeak-ng:gmw/en+f2``: the variant (``espeak-ng:+f2``), which sounds the same in every accent;
    - a mixture ``piper:voice:3~7``: both ``piper:voice:3`` and ``piper:voice:7``;
    - anybody else: the name as it is.
    """
    engine, _, rest = speaker.partition(":")
    if engine in ("espeak", "espeak-ng") and rest:
        return (f"{engine}:+{rest.partition('+')[2]}",)
    head, _, last = speaker.rpartition(":")
    if "~" in last and head:
        return tuple(dict.fromkeys(f"{head}:{part}" for part in last.split("~")))
    return (speaker,)


def engine_of(clip: Clip) -> str:
    """The synthesizer that spoke a clip; empty for people and for sounds."""
    return clip.speaker.partition(":")[0] if clip.origin is Origin.SYNTHESIZED else ""


def _identities(clip: Clip) -> list[str]:
    """Who a clip counts as, for the hash: its speaker; unknown: its session, its take, or its own sound."""
    if clip.speaker:
        return [f"speaker {key}" for key in voice_keys(clip.speaker)]
    if clip.session:
        return [f"session {clip.session}"]
    return [f"take {clip.take}" if clip.take else f"sound {clip.sha256}"]


def _ties(clip: Clip) -> Iterator[str]:
    """Everything that a clip may share with clips on its own side only."""
    yield from _identities(clip)
    yield f"clip {clip.id}"
    yield f"sound {clip.sha256}"
    if clip.take:
        yield f"take {clip.take}"
    if clip.parent:
        yield f"clip {clip.parent}"


def group_clips(clips: Sequence[Clip], duplicates: Iterable[Sequence[str]] = ()) -> list[list[Clip]]:
    """Clips that must stay together: by speaker (voice), session of unknown speakers, take, parent, and
    ``duplicates`` (groups of clip ids). Every clip is in exactly one group.
    """
    groups = Groups()
    for clip in clips:
        groups.join(_ties(clip))
    for ids in duplicates:
        groups.join(f"clip {id}" for id in ids)
    found: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        found[groups.root(f"clip {clip.id}")].append(clip)
    return list(found.values())


def split_clips(
    clips: Sequence[Clip], settings: SplitSettings, load: Load, *, report: ProgressSink = no_progress
) -> dict[str, Split]:
    """The side of every clip, by clip id.

    Near-duplicates among recorded and imported clips are found by their sound (``load``) and kept together. Where the
    hash leaves a side empty it is filled, so that each side has at least one group of wake words, and also of every
    other label and every synthesizer that has at least ``MIN_GROUPS``.

    Raises DataError when the wake words come from fewer than ``MIN_GROUPS`` groups of speakers.
    """
    heard = [clip for clip in clips if _is_compared(clip)]
    duplicates = find_near_duplicates(heard, load, report=report)
    groups = group_clips(clips, duplicates)
    wake = sum(any(clip.label is Label.WAKE for clip in group) for group in groups)
    if wake < MIN_GROUPS:
        known = sorted({clip.speaker for clip in clips if clip.label is Label.WAKE and clip.speaker})
        names = f" ({', '.join(known[:5])})" if known else ""
        raise DataError(
            f"the wake word has {wake} {'speaker' if wake == 1 else 'speakers'}{names}; a split needs {MIN_GROUPS}",
            hint="synthesize more voices (mww-ha synthesize), or import more people with --speaker NAME",
        )
    sides = _assign(groups, settings)
    assignment = {clip.id: side for group, side in zip(groups, sides, strict=True) for clip in group}
    check_no_leak(assignment, clips, duplicates)
    return assignment


def _is_compared(clip: Clip) -> bool:
    """Synthesized clips are unique by plan; impulse responses are not takes."""
    return clip.origin is not Origin.SYNTHESIZED and clip.label is not Label.RIR and clip.duration_s <= MAX_COMPARED_S


def _assign(groups: list[list[Clip]], settings: SplitSettings) -> list[Split]:
    shares = [_group_share(group, settings) for group in groups]
    sides = [_side(share, settings) for share in shares]
    strata: dict[tuple[int, str], set[int]] = defaultdict(set)
    order = list(Label)
    for index, group in enumerate(groups):
        for clip in group:
            strata[order.index(clip.label), ""].add(index)
            strata[order.index(clip.label), engine_of(clip) or "people"].add(index)
    # The wake word first, all speakers together, then engine by engine; what one stratum got, the next leaves it.
    guarded: list[list[int]] = []
    for _, members in sorted(strata.items()):
        if len(members) < MIN_GROUPS:
            continue
        guarded.append(sorted(members, key=lambda index: (shares[index], groups[index][0].id)))
        _fill_sides(guarded, sides)
    return sides


def _group_share(group: list[Clip], settings: SplitSettings) -> float:
    if any(clip.speaker in settings.always_train for clip in group if clip.speaker):
        return 1.0
    return max(hash_share(name, settings.salt) for clip in group for name in _identities(clip))


def _fill_sides(guarded: list[list[int]], sides: list[Split]) -> None:
    """Gives each side a member of the last stratum, taking none that another side of any stratum lives on.

    TEST and VALIDATION borrow the smallest number, TRAIN the largest: growth can only replace a borrowed group.
    """
    members = guarded[-1]
    for side in (Split.TEST, Split.VALIDATION, Split.TRAIN):
        if any(sides[index] is side for index in members):
            continue
        candidates = members if side is not Split.TRAIN else members[::-1]
        for index in candidates:
            alone = any(
                index in stratum and sum(sides[other] is sides[index] for other in stratum) < 2 for stratum in guarded
            )
            if not alone:
                sides[index] = side
                break


def check_no_leak(
    assignment: Mapping[str, Split], clips: Iterable[Clip], duplicates: Iterable[Sequence[str]] = ()
) -> None:
    """Raises SplitLeakError when a speaker, session, take, sound or near-duplicate stands on two sides, naming it and a
    clip on either side; DataError when a clip has no side.
    """
    seen: dict[str, Clip] = {}
    by_id: dict[str, Clip] = {}

    def place(tie: str, clip: Clip) -> None:
        other = seen.setdefault(tie, clip)
        if assignment[other.id] is not assignment[clip.id]:
            raise SplitLeakError(
                f"{tie} is on two sides: clip {other.id} ({_named(other)}) in {assignment[other.id]}, "
                f"clip {clip.id} ({_named(clip)}) in {assignment[clip.id]}",
                hint="run mww-ha prepare again; if it stays, this is a defect worth reporting",
            )

    for clip in clips:
        if clip.id not in assignment:
            raise DataError(f"clip {clip.id} ({_named(clip)}) has no side", hint="run mww-ha prepare again")
        by_id[clip.id] = clip
        for tie in _ties(clip):
            place(tie, clip)
    for ids in duplicates:
        for id in ids:
            if id in by_id:
                place(f"near-duplicate of {ids[0]}", by_id[id])


def _named(clip: Clip) -> str:
    return ", ".join(part for part in (clip.speaker, clip.source) if part) or clip.path
