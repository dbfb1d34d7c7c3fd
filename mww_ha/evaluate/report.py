"""What was measured, as one document: for machines as JSON, for people as one self-contained HTML page.

No rate stands anywhere without the hours it was counted in and its interval, no share without its trials. The page
needs no network and no script; its plots are SVG drawn here.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from mww_ha import metrics, store
from mww_ha.schema import Interval

# --- The document ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class KindRate:
    """False accepts on one kind of sound, per hour and per hour of speech in it."""

    kind: str
    per_hour: Interval
    per_speech_hour: Interval | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One setting of cutoff and window, and what it gave."""

    name: str  # "low", "medium", "high"; or "manifest"
    cutoff: int  # 0 to 255, as the firmware holds it
    probability: float  # what to write into a manifest or YAML
    window: int
    recall: Interval | None
    rates: tuple[KindRate, ...]
    budget_per_hour: float | None = None  # what the cutoff was chosen for
    kept_budget: bool | None = None  # where it was chosen


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveRows:
    """Counts at each cutoff on one kind of sound; rates and intervals follow from them."""

    kind: str
    window: int
    cutoffs: tuple[int, ...]
    hits: tuple[int, ...]
    trials: int
    false_accepts: tuple[int, ...]
    hours: float
    partial_area: float | None  # mean recall over budgets of 0 to 1 per hour


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallAt:
    """The best recall of any cutoff within a budget, on one kind of sound."""

    kind: str
    budget_per_hour: float
    cutoff: int | None  # None: no cutoff keeps the budget
    recall: Interval | None
    false_accepts: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareRow:
    """A share by name: recall of a voice or in a condition, wakes by a lure."""

    name: str
    share: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """Highest window means, counted in bins of equal width over 0 to 256."""

    wake: tuple[int, ...]
    ambient: tuple[int, ...]  # pieces of ambient sound, ``piece_s`` long
    piece_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line of a training plot."""

    plot: str  # lines with the same plot share axes: "loss", "misses at the budget"
    name: str
    x: tuple[float, ...]  # training steps
    y: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """A wake word that was not heard."""

    clip: str
    voice: str
    condition: str
    peak: float  # highest window mean, 0.0 to 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseAccept:
    """A detection where nobody said the wake word."""

    kind: str
    name: str
    time_s: float  # from the start of ``name``
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """One kind of sound that was listened to."""

    kind: str
    hours: float
    speech_hours: float
    recordings: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One evaluation. Every section may be empty; the page leaves out what is."""

    phrase: str
    model: str
    made_at: str
    warnings: tuple[str, ...] = ()  # what a reader must know first
    chosen_on: str = ""  # where cutoff and window come from
    levels: tuple[Level, ...] = ()
    data: tuple[Data, ...] = ()
    wake_clips: int = 0
    wake_voices: int = 0
    hours: tuple[str, ...] = ()  # what the hours can and cannot prove
    curves: tuple[CurveRows, ...] = ()
    recall_at: tuple[RecallAt, ...] = ()
    equal_error_rate: float | None = None
    equal_error_against: str = ""
    histogram: Histogram | None = None
    voices: tuple[ShareRow, ...] = ()
    conditions: tuple[ShareRow, ...] = ()
    lures: tuple[ShareRow, ...] = ()
    lures_all: Interval | None = None
    training: tuple[Series, ...] = ()
    misses: tuple[Miss, ...] = ()
    false_accepts: tuple[FalseAccept, ...] = ()
    provenance: dict[str, str] = field(default_factory=dict)

    def level(self, name: str = "medium") -> Level | None:
        """The level of that name; the only one where there is one."""
        if len(self.levels) == 1:
            return self.levels[0]
        return next((level for level in self.levels if level.name == name), None)

    def as_json(self) -> dict[str, Any]:
        """The document in what JSON can hold."""
        return asdict(self)

    def text(self) -> str:
        """The short form for a terminal."""
        lines = [f"{self.phrase!r}, model {self.model}"]
        lines += [f"! {warning}" for warning in self.warnings]
        for level in self.levels:
            lines.append(f"{level.name}: cutoff {level.probability:g} ({level.cutoff}/255), window {level.window}")
            if level.recall:
                lines.append(f"  wakes on  {format_share(level.recall)}")
            for rate in level.rates:
                lines.append(f"  {rate.kind}: {format_rate(rate.per_hour)}")
                if rate.per_speech_hour:
                    lines.append(f"    {format_rate(rate.per_speech_hour, 'h of speech')}")
        if self.lures_all:
            lines.append(f"lures that wake it: {format_share(self.lures_all)}")
        for title, rows in (("by condition", self.conditions), ("by voice", self.voices)):
            if len(rows) > 1:
                worst = sorted(rows, key=lambda row: row.share.value)[:5]
                lines.append(f"recall {title}, lowest first:")
                lines += [f"  {row.name}: {format_share(row.share)}" for row in worst]
        lines += list(self.hours)
        return "\n".join(lines)


def format_share(share: Interval) -> str:
    """``93.3 % (14 of 15; 68 to 100 %)``."""
    return (
        f"{100 * share.value:.1f} % ({share.events} of {share.exposure:.0f}; "
        f"{100 * share.low:.0f} to {100 * share.high:.0f} %)"
    )


def format_rate(rate: Interval, unit: str = "h") -> str:
    """``0.17 per hour (2 in 12.0 h; 0.02 to 0.60)``."""
    per = "per hour" if unit == "h" else "per hour of speech"
    return f"{rate.value:.2f} {per} ({rate.events} in {rate.exposure:.3g} {unit}; {rate.low:.2f} to {rate.high:.2f})"


def write_report(path: Path, report: Report) -> None:
    """The HTML page at ``path``, all of it or nothing. Raises StorageError."""
    store.write_text(path, render_report(report))


# --- The page --------------------------------------------------------------------------------------------------------


def render_report(report: Report) -> str:
    """The document as one HTML page that needs nothing beside it."""
    sections = [
        _head_section(report),
        _section("What the hours prove", _paragraphs(report.hours)),
        _section("Detection error trade-off", _det_section(report)),
        _section("Scores", _histogram_section(report)),
        _section("Recall by condition", _bars(report.conditions)),
        _section("Recall by voice", _bars(report.voices, most=40)),
        _section("Lures", _lures_section(report)),
        _section("Training", _training_section(report)),
        _section("What it missed", _misses_section(report)),
        _section("What woke it wrongly", _false_accepts_section(report)),
        _section("Sound it was judged on", _data_section(report)),
        _section("Where it comes from", _provenance_section(report)),
    ]
    title = html.escape(f"{report.phrase}: wake word report")
    style = (Path(__file__).parent / "report.css").read_text(encoding="utf-8")
    body = "\n".join(part for part in sections if part)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _text(value: Any) -> str:
    return html.escape(str(value))


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{_text(title)}</h2>\n{body}\n</section>" if body else ""


def _paragraphs(lines: Iterable[str]) -> str:
    return "\n".join(f"<p>{_text(line)}</p>" for line in lines)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "") -> str:
    """Cells are HTML already; the first column is a heading, columns after it are labelled for narrow screens."""
    body = []
    for row in rows:
        first, *rest = row
        cells = "".join(
            f'<td data-label="{_text(head)}">{cell}</td>' for head, cell in zip(heads[1:], rest, strict=True)
        )
        body.append(f'<tr><th scope="row">{first}</th>{cells}</tr>')
    if not body:
        return ""
    head = "".join(f'<th scope="col">{_text(h)}</th>' for h in heads)
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _share_cell(share: Interval | None) -> str:
    if share is None:
        return '<span class="none">not tried</span>'
    return (
        f"<b>{100 * share.value:.1f} %</b> <small>{share.events} of {share.exposure:.0f}, "
        f"{100 * share.low:.0f}–{100 * share.high:.0f} %</small>"
    )


def _rate_cell(rate: Interval | None) -> str:
    if rate is None:
        return '<span class="none">no hours</span>'
    return (
        f"<b>{rate.value:.2f}/h</b> <small>{rate.events} in {rate.exposure:.3g} h, "
        f"{rate.low:.2f}–{rate.high:.2f}</small>"
    )


def _head_section(report: Report) -> str:
    header = (
        f'<header>\n<p class="kicker">Wake word report</p>\n<h1>{_text(report.phrase)}</h1>\n'
        f'<p class="sub">{_text(report.model)} · {_text(_moment(report.made_at))}</p>\n</header>'
    )
    parts = [header]
    if report.warnings:
        parts.append('<div class="note">' + _paragraphs(report.warnings) + "</div>")
    level = report.level()
    if level is not None:
        tiles = []
        if level.recall is not None:
            tiles.append(_tile("Wakes when called", f"{100 * level.recall.value:.0f} %", _share_words(level.recall)))
        tiles += [
            _tile(f"Wakes wrongly · {rate.kind}", f"{rate.per_hour.value:.2f}/h", _rate_words(rate.per_hour))
            for rate in level.rates
        ]
        if report.lures_all is not None:
            lures = report.lures_all
            tiles.append(_tile("Lures that wake it", f"{100 * lures.value:.1f} %", _share_words(lures)))
        where = f"Cutoff {level.probability:g} ({level.cutoff} of 255), window {level.window} scores."
        parts.append(f'<div class="tiles">{"".join(tiles)}</div>\n<p>{where} {_text(report.chosen_on)}</p>')
    if len(report.levels) > 1:
        kinds = list(dict.fromkeys(rate.kind for lv in report.levels for rate in lv.rates))
        rows = []
        for lv in report.levels:
            by_kind = {rate.kind: rate.per_hour for rate in lv.rates}
            budget = "" if lv.budget_per_hour is None else f" <small>chosen for {lv.budget_per_hour:g}/h</small>"
            row = [_text(lv.name) + budget, f"{lv.probability:g} <small>{lv.cutoff}</small>", _share_cell(lv.recall)]
            rows.append(row + [_rate_cell(by_kind.get(kind)) for kind in kinds])
        heads = ["Sensitivity", "Cutoff", "Recall", *kinds]
        parts.append("<h3>Sensitivity levels</h3>\n" + _table(heads, rows, kind="stack"))
    return "\n".join(parts)


def _moment(made_at: str) -> str:
    """ISO 8601 for people: ``2026-11-20 14:00:00 UTC``."""
    return made_at.replace("T", " ").replace("+00:00", " UTC")


def _tile(label: str, value: str, detail: str) -> str:
    return f'<div class="tile"><span>{_text(label)}</span><b>{_text(value)}</b><small>{_text(detail)}</small></div>'


def _share_words(share: Interval) -> str:
    return f"{share.events} of {share.exposure:.0f}; 95 %: {100 * share.low:.0f} to {100 * share.high:.0f} %"


def _rate_words(rate: Interval) -> str:
    return f"{rate.events} in {rate.exposure:.3g} h; 95 %: {rate.low:.2f} to {rate.high:.2f}"


# --- Plots -----------------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 74, 28, 14, 48


_FEWEST_PER_HOUR, _MOST_PER_HOUR = 0.05, 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axes:
    """A frame with two scales; ``x`` and ``y`` turn values into picture coordinates."""

    x: Callable[[float], float]
    y: Callable[[float], float]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    x_title: str
    y_title: str
    height: int = _HEIGHT

    def draw(self, content: str, label: str) -> str:
        bottom, right = self.height - _BOTTOM, _WIDTH - _RIGHT
        parts = []
        for value, name in self.x_ticks:
            at = self.x(value)
            parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{bottom}"/>')
            parts.append(f'<text x="{at:.1f}" y="{bottom + 17}" text-anchor="middle">{_text(name)}</text>')
        for value, name in self.y_ticks:
            at = self.y(value)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
            parts.append(f'<text x="{_LEFT - 7}" y="{at + 4:.1f}" text-anchor="end">{_text(name)}</text>')
        middle = (_TOP + bottom) / 2
        parts.append(
            f'<text class="title" x="{(_LEFT + right) / 2}" y="{self.height - 6}" text-anchor="middle">'
            f"{_text(self.x_title)}</text>"
            f'<text class="title" x="15" y="{middle}" text-anchor="middle" transform="rotate(-90 15 {middle})">'
            f"{_text(self.y_title)}</text>"
        )
        return (
            f'<svg viewBox="0 0 {_WIDTH} {self.height}" role="img" aria-label="{_text(label)}">'
            f"{''.join(parts)}{content}</svg>"
        )


def _linear(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: start + (min(max(value, low), high) - low) / span * (stop - start)


def _logarithmic(low: float, high: float, start: float, stop: float) -> Callable[[float], float]:
    scale = _linear(math.log(low), math.log(high), start, stop)
    return lambda value: scale(math.log(max(value, low)))


def _path(points: Sequence[tuple[float, float]], *, close: bool = False) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + ("Z" if close else "")


def _nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    if not high > low:
        return [low]
    raw = (high - low) / count
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * i for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    items = "".join(f'<span class="c{i % 6}"><i></i>{_text(name)}</span>' for i, name in enumerate(names))
    return f'<p class="legend">{items}</p>'


# Cached: neighbouring cutoffs often have the same counts.
@lru_cache(maxsize=4096)
def _miss_bounds(hits: int, trials: int) -> tuple[float, float]:
    share = metrics.share_interval(trials - hits, trials)
    return share.low, share.high


def _det_section(report: Report) -> str:
    curves = [c for c in report.curves if c.trials and c.hours > 0]
    if not curves:
        return ""
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    axes = _Axes(
        x=_logarithmic(_FEWEST_PER_HOUR, _MOST_PER_HOUR, _LEFT, right),
        y=_logarithmic(0.005, 1.0, bottom, _TOP),
        x_ticks=[(v, f"{v:g}") for v in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20)],
        y_ticks=[(v, f"{100 * v:g} %") for v in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)],
        x_title="false accepts per hour (left edge: 0.05 or fewer)",
        y_title="wake words missed",
    )
    marks = []
    for number, curve in enumerate(curves):
        marks.append(_det_curve(curve, axes, f"c{number % 6}"))
    for level in report.levels:
        rate = next((r for r in level.rates if r.kind == curves[0].kind), None)
        if rate is not None and level.recall is not None:
            at = (axes.x(rate.per_hour.value), axes.y(1 - level.recall.value))
            marks.append(f'<circle class="point" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="5"/>' + _mark(level.name, at))
    names = [f"{c.kind}: {c.hours:.3g} h, {c.trials} wake words, window {c.window}" for c in curves]
    caption = (
        "Each step is one cutoff of the device. Lower left is better. The band is the 95 % interval of the misses; "
        "rates left of one event per measured hours cannot be told apart from zero."
    )
    figure = axes.draw("".join(marks), "Detection error trade-off: misses against false accepts per hour")
    legend = _legend(names) or f'<p class="legend">{_text(names[0])}</p>'
    return f"<figure>{figure}{legend}<figcaption>{caption}</figcaption></figure>\n" + _recall_at_table(report)


def _mark(name: str, at: tuple[float, float]) -> str:
    """A level's name beside its point: the outer levels lean outwards, for the points may lie close together."""
    x, y, anchor = {"low": (-9, -8, "end"), "high": (9, 18, "start")}.get(name, (9, -8, "start"))
    return f'<text class="mark" x="{at[0] + x:.1f}" y="{at[1] + y:.1f}" text-anchor="{anchor}">{_text(name)}</text>'


def best_cutoffs(curve: CurveRows) -> list[int]:
    """Places in ``curve.cutoffs`` that hear more than any with as few false accepts, from few of these to many."""
    best: dict[int, int] = {}
    for place, (cutoff, events) in enumerate(zip(curve.cutoffs, curve.false_accepts, strict=True)):
        known = best.get(events)
        usable = 1 <= cutoff <= metrics.HIGHEST_CUTOFF
        if usable and (known is None or curve.hits[place] > curve.hits[known]):
            best[events] = place
    found: list[int] = []
    for _, place in sorted(best.items()):
        if not found or curve.hits[place] > curve.hits[found[-1]]:
            found.append(place)
    return found


def _det_curve(curve: CurveRows, axes: _Axes, colour: str) -> str:
    """The staircase of the best cutoffs, with its band; from many false accepts to few."""
    middle: list[tuple[float, float]] = []
    low: list[tuple[float, float]] = []
    high: list[tuple[float, float]] = []
    for place in best_cutoffs(curve):
        rate, hits = curve.false_accepts[place] / curve.hours, curve.hits[place]
        if middle and rate > _MOST_PER_HOUR:
            break
        at = axes.x(rate)
        if middle:  # a staircase: the former cutoff serves until this rate
            for line in (middle, low, high):
                line.append((at, line[-1][1]))
        bounds = _miss_bounds(hits, curve.trials)
        middle.append((at, axes.y(1 - hits / curve.trials)))
        low.append((at, axes.y(bounds[0])))
        high.append((at, axes.y(bounds[1])))
    for line in (middle, low, high):
        line.append((_WIDTH - _RIGHT, line[-1][1]))
    band = _path([*low, *reversed(high)], close=True)
    return f'<path class="band {colour}" d="{band}"/><path class="line {colour}" d="{_path(middle)}"/>'


def _recall_at_table(report: Report) -> str:
    rows = []
    for row in report.recall_at:
        name = f"{row.budget_per_hour:g}/h <small>{_text(row.kind)}</small>"
        if row.cutoff is None:
            rows.append([name, "–", '<span class="none">no cutoff keeps it</span>', "–"])
        else:
            rows.append([name, str(row.cutoff), _share_cell(row.recall), _rate_cell(row.false_accepts)])
    table = _table(["Budget", "Cutoff", "Recall", "False accepts"], rows, kind="stack")
    if not table:
        return ""
    foot = []
    for curve in report.curves:
        if curve.partial_area is not None:
            area = f"{100 * curve.partial_area:.1f} %"
            foot.append(f"Mean recall over budgets of 0 to 1 per hour ({curve.kind}, {curve.hours:.3g} h): {area}.")
    if report.equal_error_rate is not None:
        rate = f"{100 * report.equal_error_rate:.1f} %"
        foot.append(f"Equal error rate against {report.equal_error_against}: {rate} (a threshold nobody would use).")
    notes = "".join(f"<p><small>{_text(line)}</small></p>" for line in foot)
    text = "<p>The best cutoff on this very data: what is reachable, not what was chosen.</p>"
    return f"<h3>Recall within a budget</h3>{text}\n{table}\n{notes}"


def _histogram_section(report: Report) -> str:
    histogram = report.histogram
    if histogram is None:
        return ""
    parts = []
    level = report.level()
    panels = (
        ("Wake words", histogram.wake, "c0", "wake words"),
        (f"Ambient, pieces of {histogram.piece_s:g} s", histogram.ambient, "c1", "pieces"),
    )
    for title, counts, colour, unit in panels:
        total = sum(counts)
        if not total:
            continue
        height = 190
        most = max(counts)
        powers = [10**i for i in range(math.ceil(math.log10(most)) + 1)] if most > 1 else [1]
        axes = _Axes(
            x=_linear(0, 256, _LEFT, _WIDTH - _RIGHT),
            y=_logarithmic(0.5, max(2, powers[-1]), height - _BOTTOM, _TOP),
            x_ticks=[(v, str(v)) for v in (0, 64, 128, 192, 255)],
            y_ticks=[(v, f"{v // 1000}k" if v >= 1000 else str(v)) for v in powers],
            x_title="highest window mean, 0 to 255",
            y_title=unit,
            height=height,
        )
        step = 256 / len(counts)
        floor = height - _BOTTOM
        bars = []
        for i, count in enumerate(counts):
            if count:
                left, top = axes.x(i * step), axes.y(count)
                width = axes.x((i + 1) * step) - left - 1
                label = f"{i * step:.0f} to {(i + 1) * step - 1:.0f}: {count:,}"
                bars.append(
                    f'<rect class="bar {colour}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
                    f'height="{floor - top:.1f}"><title>{label}</title></rect>'
                )
        if level is not None:
            at = axes.x(level.cutoff)
            bars.append(f'<line class="cut" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{floor}"/>')
        parts.append(
            f"<h3>{_text(title)} <small>{total:,}</small></h3><figure>{axes.draw(''.join(bars), title)}</figure>"
        )
    if not parts:
        return ""
    caption = "Counts on a logarithmic scale. The dashed line is the cutoff."
    return "\n".join(parts) + f"<p><small>{caption}</small></p>"


def _bars(rows: Sequence[ShareRow], *, most: int = 60, colour: str = "c0") -> str:
    """Shares with their intervals, lowest first."""
    if not rows:
        return ""
    ordered = sorted(rows, key=lambda row: (row.share.value, row.name))
    items = []
    for row in ordered[:most]:
        share = row.share
        left, width = 100 * share.low, 100 * (share.high - share.low)
        items.append(
            f'<li><span class="name">{_text(row.name)}</span><span class="track {colour}">'
            f'<i class="fill" style="width:{100 * share.value:.1f}%"></i>'
            f'<i class="whisker" style="left:{left:.1f}%;width:{width:.1f}%"></i></span>'
            f'<span class="value">{100 * share.value:.0f} % <small>{share.events} of {share.exposure:.0f}, '
            f"{100 * share.low:.0f}–{100 * share.high:.0f} %</small></span></li>"
        )
    rest = f"<p><small>{len(ordered) - most} more, all higher.</small></p>" if len(ordered) > most else ""
    return f'<ul class="bars">{"".join(items)}</ul>{rest}'


def _lures_section(report: Report) -> str:
    if report.lures_all is None:
        return ""
    woke = sorted((r for r in report.lures if r.share.events), key=lambda r: -r.share.value)
    head = f"<p>Speech that must not wake: {_share_cell(report.lures_all)}</p>"
    if not woke:
        return head
    items = _table(["Said", "Woke it"], [[_text(r.name), _share_cell(r.share)] for r in woke[:40]])
    return head + items


def _training_section(report: Report) -> str:
    plots = list(dict.fromkeys(series.plot for series in report.training if series.x))
    return "\n".join(_line_plot(plot, [s for s in report.training if s.plot == plot and s.x]) for plot in plots)


def _line_plot(title: str, lines: Sequence[Series]) -> str:
    height = 240
    xs = [x for line in lines for x in line.x]
    ys = [y for line in lines for y in line.y if math.isfinite(y)]
    if not ys:
        return ""
    low, high = min(0.0, *ys), max(ys)
    high = high if high > low else low + 1
    axes = _Axes(
        x=_linear(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT),
        y=_linear(low, high, height - _BOTTOM, _TOP),
        x_ticks=[(v, f"{v:,.0f}") for v in _nice_ticks(min(xs), max(xs))],
        y_ticks=[(v, f"{v:.3g}") for v in _nice_ticks(low, high)],
        x_title="training step",
        y_title=title,
        height=height,
    )
    paths = []
    for number, line in enumerate(lines):
        points = [(axes.x(x), axes.y(y)) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
        paths.append(f'<path class="line c{number % 6}" d="{_path(points)}"/>')
        if len(points) < 40:
            paths += [f'<circle class="dot c{number % 6}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points]
    return f"<figure>{axes.draw(''.join(paths), title)}{_legend([line.name for line in lines])}</figure>"


def _misses_section(report: Report) -> str:
    rows = [
        [_text(miss.clip), _text(miss.voice or "–"), _text(miss.condition or "–"), f"{miss.peak:.2f}"]
        for miss in report.misses
    ]
    return _table(["Clip", "Voice", "Condition", "Highest mean"], rows, kind="stack")


def _false_accepts_section(report: Report) -> str:
    rows = [
        [_text(found.name), _text(found.kind), _clock(found.time_s), f"{found.score:.2f}"]
        for found in report.false_accepts
    ]
    return _table(["Recording", "Kind", "At", "Mean"], rows, kind="stack")


def _clock(time_s: float) -> str:
    minutes, seconds = divmod(time_s, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{seconds:04.1f}" if hours else f"{minutes}:{seconds:04.1f}"


def _data_section(report: Report) -> str:
    rows = [
        [_text(item.kind), f"{item.hours:.2f} h", f"{item.speech_hours:.2f} h", str(item.recordings)]
        for item in report.data
    ]
    text = ""
    if report.wake_clips:
        voices = "1 voice" if report.wake_voices == 1 else f"{report.wake_voices} voices"
        text = f"<p>{report.wake_clips} wake words by {voices}.</p>"
    return text + _table(["Ambient", "Hours", "With speech", "Recordings"], rows, kind="stack")


def _provenance_section(report: Report) -> str:
    rows = [[_text(key), f"<code>{_text(value)}</code>"] for key, value in report.provenance.items()]
    return _table(["", ""], rows, kind="plain")
