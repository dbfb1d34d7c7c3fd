"""What a job said, on disk: one JSON object a line, numbered from 1, at most two segments of 1 MiB.

The log is also the buffer of everybody who reads it live: a slow reader holds up nobody, it only reads later.
One writer (the thread of the running job), any number of readers.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mww_ha.store import now, storage_errors

SEGMENT_BYTES = 1 << 20
SEGMENTS = 2
LONGEST_LINE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One entry. ``type``: state | progress | log | result | error."""

    id: int
    at: str  # ISO 8601, UTC
    type: str
    data: dict[str, Any]


class JobLog:
    """The writer. The file is made with the first line; a torn line of a killed writer is passed over by readers."""

    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._handle = -1
        self._size = 0
        self._last = -1

    def append(self, type: str, data: dict[str, Any]) -> Line:
        """Adds a line. Raises StorageError."""
        with self._lock, storage_errors(self.folder):
            if self._last < 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._last = last_id(self.folder)
            line = Line(id=self._last + 1, at=now(), type=type, data=data)
            text = json.dumps({"id": line.id, "at": line.at, "type": type, "data": data})
            if len(text) > LONGEST_LINE_BYTES:
                short = {"message": f"{text[:1000]} ... ({len(text)} characters)", "cut": True}
                text = json.dumps({"id": line.id, "at": line.at, "type": type, "data": short})
            if self._handle < 0 or self._size + len(text) > self._segment_bytes:
                self._start_segment(line.id)
            written = os.write(self._handle, text.encode() + b"\n")
            self._size += written
            self._last = line.id
            return line

    def _start_segment(self, first: int) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        path = self.folder / f"{first:010}.jsonl"
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = 0
        for old in segments(self.folder)[:-SEGMENTS]:
            old.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the file; another line would open it again."""
        with self._lock:
            if self._handle >= 0:
                os.close(self._handle)
            self._handle, self._last = -1, -1


def segments(folder: Path) -> list[Path]:
    """The files of a log, oldest first; each is named after its first line's id."""
    return sorted(folder.glob("[0-9]*.jsonl"))


def last_id(folder: Path) -> int:
    """Id of the last whole line, 0 for none."""
    found = segments(folder)
    if not found:
        return 0
    lines = _parse(found[-1].read_bytes())
    return lines[-1].id if lines else int(found[-1].stem) - 1


class Reader:
    """Reads on from where it was; not for several threads at a time."""

    def __init__(self, folder: Path, after: int = 0) -> None:
        self.folder = folder
        self.after = after
        self._segment: Path | None = None
        self._offset = 0

    def read(self, limit: int = 200) -> list[Line]:
        """Up to ``limit`` lines with ids above ``after``, oldest first; an empty list when there is no more yet."""
        found: list[Line] = []
        while len(found) < limit:
            if self._segment is None or not self._segment.exists():
                self._segment, self._offset = self._find_segment(), 0
            if self._segment is None:
                break
            # Looked for first: once there is a later one, nothing is added to this one any more.
            later = [path for path in segments(self.folder) if path > self._segment]
            lines, self._offset = self._read_segment(self._segment, limit - len(found))
            found += lines
            if found:
                self.after = found[-1].id
            if len(found) < limit:
                if not later:
                    break
                self._segment, self._offset = later[0], 0
        return found

    def _find_segment(self) -> Path | None:
        all = segments(self.folder)
        fitting = [path for path in all if int(path.stem) <= self.after + 1]
        return (fitting or all)[-1 if fitting else 0] if all else None

    def _read_segment(self, path: Path, limit: int) -> tuple[list[Line], int]:
        """Lines from the offset on, and the offset behind the last one taken."""
        try:
            with path.open("rb") as file:
                file.seek(self._offset)
                content = file.read()
        except FileNotFoundError:  # the writer has moved on
            return [], 0
        taken, offset = list[Line](), self._offset
        for raw in content.splitlines(keepends=True):
            if not raw.endswith(b"\n") or len(taken) >= limit:
                break
            offset += len(raw)
            taken += [line for line in _parse(raw) if line.id > self.after]
        return taken, offset


def _parse(content: bytes) -> list[Line]:
    lines = []
    for raw in content.split(b"\n"):
        try:
            value = json.loads(raw)
            lines.append(Line(id=value["id"], at=value["at"], type=value["type"], data=value["data"]))
        except (ValueError, KeyError, TypeError):  # empty, or torn by a kill
            continue
    return lines
