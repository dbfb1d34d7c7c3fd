"""How long work looks to who waits for it: a live bar, plain lines, or JSON lines.

A terminal gets a bar with rate and time left. A log file gets one line where a stage starts, one where it ends
and one every ten seconds between. With ``--json`` standard output gets one JSON object a line, for a program
that started this one as its child.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import IO, Any, Protocol

from mww_ha.schema import Progress

PLAIN_EVERY_S = 10.0


class View(Protocol):
    """A ProgressSink that has to be closed."""

    def __call__(self, progress: Progress) -> None:
        """Shows one line of news."""

    def close(self) -> None:
        """Leaves the terminal as it was; what was shown stays."""


def choose_view(errors: IO[str], results: IO[str], *, as_json: bool) -> View:
    """JSON lines on ``results``, or a bar or plain lines on ``errors``, whichever it can show."""
    if as_json:
        return JsonView(results)
    return LiveView(errors) if errors.isatty() else PlainView(errors)


class JsonView:
    """One JSON object a line: ``{"type": "progress", "stage": ..., "done": ..., "total": ..., ...}``."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def __call__(self, progress: Progress) -> None:
        """Writes and flushes one line."""
        self._stream.write(json.dumps({"type": "progress", **asdict(progress)}) + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Nothing to put back."""


class _Passes:
    """Tells where one pass over a stage's work ends and the next begins: stages may count several times."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.last: Progress | None = None
        self.started = 0.0
        self.from_done = 0.0

    def begins(self, progress: Progress) -> bool:
        """Whether ``progress`` opens a pass."""
        last, self.last = self.last, progress
        new = (
            last is None
            or (last.stage, last.total, last.unit) != (progress.stage, progress.total, progress.unit)
            or progress.done < last.done
        )
        if new:
            self.started, self.from_done = self.clock(), progress.done
        return new

    def rate(self, progress: Progress) -> float:
        """Units per second since the pass began; work found done already does not count. 0: not known yet."""
        seconds = self.clock() - self.started
        return (progress.done - self.from_done) / seconds if seconds > 0 else 0.0


def is_note(progress: Progress) -> bool:
    """A message without a count."""
    return not (progress.total or progress.done or progress.unit)


class PlainView:
    """Lines for a log: where a pass starts, where it ends, every ten seconds between; notes as they come."""

    def __init__(self, stream: IO[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._passes = _Passes(clock)
        self._said_at = 0.0
        self._unsaid: Progress | None = None
        self._notes = ""

    def __call__(self, progress: Progress) -> None:
        """Writes a line if one is due."""
        if is_note(progress):
            if progress.message and progress.message != self._notes:
                self._notes = progress.message
                self._write(f"{progress.stage}: {progress.message}")
            return
        if self._passes.last is not None and self._unsaid is not None and self._starts_another(progress):
            self._say(self._unsaid)
        new = self._passes.begins(progress)
        ended = bool(progress.total) and progress.done >= progress.total
        if new or ended or self._passes.clock() - self._said_at >= PLAIN_EVERY_S:
            self._say(progress, ended=ended)
        else:
            self._unsaid = progress

    def _starts_another(self, progress: Progress) -> bool:
        last = self._passes.last
        return last is not None and (last.stage != progress.stage or progress.done < last.done)

    def _say(self, progress: Progress, *, ended: bool = False) -> None:
        self._unsaid = None
        self._said_at = self._passes.clock()
        parts = [count(progress)]
        if progress.total and not ended:
            parts[0] += f" ({100 * progress.done / progress.total:.0f} %)"
        rate = self._passes.rate(progress)
        if rate > 0:
            parts.append(f"{number(rate)} {progress.unit or 'steps'}/s")
            if progress.total and not ended:
                parts.append(f"{duration((progress.total - progress.done) / rate)} left")
        if ended:
            parts.append(f"done in {duration(self._passes.clock() - self._passes.started)}")
        if progress.message:
            parts.append(progress.message)
        self._write(f"{progress.stage}: {', '.join(parts)}")

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    def close(self) -> None:
        """Says the last count, if it was not said yet."""
        if self._unsaid is not None:
            self._say(self._unsaid)


class LiveView:
    """A bar a pass: stage, share, count, rate, time left, message."""

    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, ProgressColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars
        from rich.text import Text

        passes = _Passes(time.monotonic)

        class Pace(ProgressColumn):
            max_refresh = 0.5

            def render(self, task: Any) -> Text:
                last = passes.last
                if last is None or task.finished or task.id != task.fields["view"].task:
                    return Text("")
                rate = passes.rate(last)
                if rate <= 0:
                    return Text("")
                left = f", {duration((last.total - last.done) / rate)} left" if last.total else ""
                return Text(f"{number(rate)} {last.unit or 'steps'}/s{left}", style="cyan")

        self._passes = passes
        self._bars = Bars(
            TextColumn("{task.description:<11}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}"),
            Pace(),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[message]}"),
            console=Console(file=stream),
            refresh_per_second=5,
        )
        self.task: Any = None
        self._started = False
        self._note = ""

    def __call__(self, progress: Progress) -> None:
        """Moves the bar, opens the next one, or prints a note above them."""
        if not self._started:
            self._bars.start()
            self._started = True
        if is_note(progress):
            if progress.message and progress.message != self._note:
                self._note = progress.message
                self._bars.console.print(f"{progress.stage}: {progress.message}", markup=False, highlight=False)
            return
        fields: dict[str, Any] = {"count": count(progress), "message": progress.message.replace("[", r"\[")}
        if self._passes.begins(progress):
            self._end_task()
            self.task = self._bars.add_task(progress.stage, total=progress.total or None, view=self, **fields)
        self._bars.update(self.task, completed=progress.done, **fields)

    def _end_task(self) -> None:
        """A pass of unknown length is over when the next begins."""
        for task in self._bars.tasks:
            if task.id == self.task and task.total is None:
                self._bars.update(task.id, total=task.completed or 1, completed=task.completed or 1)
            if task.id == self.task:
                self._bars.stop_task(task.id)

    def close(self) -> None:
        """Stops drawing."""
        if self._started:
            self._bars.stop()
            self._started = False


def count(progress: Progress) -> str:
    """``1,200/4,000 steps``."""
    of = f"/{number(progress.total)}" if progress.total else ""
    return f"{number(progress.done)}{of} {progress.unit}".rstrip()


def number(value: float) -> str:
    """Three digits that matter, thousands apart: ``0.52``, ``33.1``, ``1,200``."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def duration(seconds: float) -> str:
    """``75`` → ``1 min 15 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
