"""The journal of trainings, read: in what two of them differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One entry that two trainings do not share; None where one of them lacks it."""

    key: str  # dotted: config.train.steps
    one: Any
    other: Any


def compare_runs(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Difference]:
    """In what two entries of the journal differ, by key."""
    left, right = dict(_flat(one)), dict(_flat(other))
    rows = [Difference(key=key, one=left.get(key), other=right.get(key)) for key in sorted(left.keys() | right.keys())]
    return [row for row in rows if row.one != row.other]


def _flat(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
