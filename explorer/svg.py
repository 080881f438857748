"""Charts as SVG: plain functions from numbers to markup. No I/O.

A chart is one <svg class="plot">. static/charts.js adds the cursor, the tooltip, selections and links; it reads

- `data-plot` of the <svg>: the plot area in pixels, the values at its borders, and the steps of the horizontal axis;
- of each mark with a `data-url`: the template of its link (explorer/links.py) and its `data-name`; of cells and bars
  the `data-values`, and as `data-bounds` what the template's {0} and {1} stand for in each row of cells or bar. The
  values of a line are in its path, whose coordinates are steps and values; a transformation makes them pixels.

Colours are presentation attributes or classes of static/charts.css, so that a Content-Security-Policy without inline
styles suffices.
"""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import tzinfo
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from explorer.axes import Scale, Tick, duration_ticks, number_ticks, time_ticks
from queries import NO_UNIT, Unit

LEVELS = 8  # of the colour of a heat map's cells
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 8, 24  # pixels around the plot area
_TIME_GAP, _NUMBER_GAP, _DURATION_GAPS = 64, 45, (44, 26)  # the least distance of ticks, in pixels
_CHARACTER = 7  # pixels, of the widest digits


class Frame(NamedTuple):
    """A chart's size in pixels, and what it shows in words, for those who do not see it."""

    width: int
    height: int
    label: str

    @property
    def inner(self) -> tuple[int, int]:
        """Width and height of the plot area."""
        return self.width - _LEFT - _RIGHT, self.height - _TOP - _BOTTOM

    def x(self, low: float, high: float) -> Scale:
        return Scale(low, high, _LEFT, self.width - _RIGHT)

    def y(self, low: float, high: float) -> Scale:
        return Scale(low, high, self.height - _BOTTOM, _TOP)


class Change(NamedTuple):
    """A vertical mark: at `time`, in microseconds since 1970, something was changed, as `text` says."""

    time: int
    label: str  # is left out where there is no room for it
    text: str


class TimeAxis(NamedTuple):
    """What all charts of a page share: a time range, in microseconds since 1970, the zone of its texts, and changes in
    the order of time."""

    begin: int
    end: int
    zone: tzinfo
    changes: Sequence[Change] = ()

    @property
    def shown(self) -> list[Change]:
        """The changes in the time range."""
        return [change for change in self.changes if self.begin <= change.time <= self.end]


class Steps(NamedTuple):
    """The times of consecutive values, in microseconds: the first begins at `begin`, and each lasts for `step`."""

    begin: int
    step: int


class Line(NamedTuple):
    name: str
    colour: str  # as a presentation attribute
    values: Sequence[float | None]  # one per step
    url: str


class Cells(NamedTuple):
    """Numbers of requests by duration, in buckets: see explorer/axes.py."""

    low: int  # the first bucket
    url: str
    bounds: Sequence[tuple[str, str]]  # of each bucket's durations in milliseconds, as texts for a URL


def lines(
    frame: Frame, times: TimeAxis, steps: Steps, series: Sequence[Line], unit: Unit, thresholds: Mapping[str, float]
) -> Markup:
    """Lines over time: each value is in the middle of its step, and a missing one is bridged.

    `thresholds` are horizontal lines, by their class.
    """
    highest = max((value for line in series for value in line.values if value is not None), default=0)
    ticks = number_ticks(highest, frame.inner[1] // _NUMBER_GAP, unit)
    x, y = frame.x(times.begin, times.end), frame.y(0, ticks[-1].value)
    paths = [
        f'<path d="{_line(line.values)}" stroke="{line.colour}" {_data(name=line.name, url=line.url)}/>'
        for line in series
    ]
    marks = [f"<g{_transform(x, y, steps.begin + steps.step / 2, steps.step)}>", *paths, "</g>"]
    marks += [
        f'<path class="{name}" d="M{_LEFT} {y(value):.1f}H{frame.width - _RIGHT}"/>'
        for name, value in thresholds.items()
        if value <= y.high
    ]
    return _time_plot(frame, "lines", times, steps, y, _y_axis(frame, y, ticks) + _marks(frame, marks), unit)


def _line(values: Sequence[float | None]) -> str:
    """A path through a step's number and its value; a lone value is a line of no length, which has round ends.

    Values have four digits: more cannot be seen in a chart.
    """
    points = [f"{number} {value:.4g}" for number, value in enumerate(values) if value is not None]
    return "M" + " ".join(points * 2 if len(points) == 1 else points)


def heatmap(frame: Frame, times: TimeAxis, steps: Steps, rows: Sequence[Sequence[int]], cells: Cells) -> Markup:
    """Cells over time: a row per bucket of durations, from the shortest up. The stronger, the larger the number."""
    x, y = frame.x(times.begin, times.end), frame.y(cells.low, cells.low + len(rows))
    top = max(map(max, rows))
    levels = [[math.ceil(LEVELS * cell / top) for cell in row] for row in rows]
    shown = sorted({level for row in levels for level in row if level})
    paths = [f'<path fill-opacity="{opacity(level)}" d="{_runs(levels, level)}"/>' for level in shown]
    data = _data(url=cells.url, values=rows, bounds=cells.bounds)
    marks = [f'<g class="cells" {data}{_transform(x, y, steps.begin, steps.step, cells.low)}>', *paths, "</g>"]
    ticks = duration_ticks(cells.low, cells.low + len(rows), frame.inner[1], _DURATION_GAPS[1])
    return _time_plot(frame, "heatmap", times, steps, y, _y_axis(frame, y, ticks) + _marks(frame, marks))


def opacity(level: int) -> float:
    """Of a cell's colour; levels are from 1 to LEVELS."""
    return round(0.16 + 0.84 * level / LEVELS, 2)


def _runs(levels: Sequence[Sequence[int]], level: int) -> str:
    """A path of the cells with a level; neighbours in a row are one rectangle."""
    path = ""
    for number, row in enumerate(levels):
        place = 0
        while level in row[place:]:
            begin = row.index(level, place)
            place = next((end for end in range(begin, len(row)) if row[end] != level), len(row))
            path += f"M{begin} {number}h{place - begin}v1h{begin - place}z"
    return path


def histogram(frame: Frame, counts: Sequence[int], cells: Cells) -> Markup:
    """A bar per bucket of durations, from the shortest on."""
    ticks = number_ticks(max(counts), frame.inner[1] // _NUMBER_GAP, NO_UNIT, smallest_step=1)
    x, y = frame.x(cells.low, cells.low + len(counts)), frame.y(0, ticks[-1].value)
    path = "".join(f"M{number}.05 0V{count}h.9V0z" for number, count in enumerate(counts) if count)
    data = _data(url=cells.url, values=counts, bounds=cells.bounds)
    marks = [f'<path class="bars" d="{path}" {data}{_transform(x, y, cells.low, 1)}/>']
    durations = duration_ticks(cells.low, cells.low + len(counts), frame.inner[0], _DURATION_GAPS[0])
    axes = _x_axis(frame, x, durations, _DURATION_GAPS[0]) + _y_axis(frame, y, ticks)
    return _plot(frame, "histogram", x, y, axes + _marks(frame, marks), begin=cells.low, step=1)


def _time_plot(
    frame: Frame, kind: str, times: TimeAxis, steps: Steps, y: Scale, content: str, unit: Unit = NO_UNIT
) -> Markup:
    x = frame.x(times.begin, times.end)
    axis = _x_axis(frame, x, time_ticks(times.begin, times.end, frame.inner[0] // _TIME_GAP, times.zone), _TIME_GAP)
    marks = changes(times, frame.inner[0])
    content = axis + content + (_inner(frame, marks) if marks else "")
    return _plot(frame, kind, x, y, content, unit=unit.text, zone=str(times.zone), **time_data(times, steps))


def time_data(times: TimeAxis, steps: Steps) -> dict[str, Any]:
    """What charts.js needs of a time axis, besides its place."""
    marks = [(change.time, change.text) for change in times.shown]
    return {"start": times.begin, "end": times.end, **steps._asdict(), "changes": marks}


def changes(times: TimeAxis, width: float) -> Markup:
    """Vertical lines, with their labels to the right, or to the left before the right border, unless they overlap.

    Places are percentages of the enclosing <svg>, the plot area, which has at least `width` pixels.
    """
    x = Scale(times.begin, times.end, 0, 100)
    lines = [f'<line x1="{x(change.time):.2f}%" x2="{x(change.time):.2f}%" y2="100%"/>' for change in times.shown]
    labels = []
    free_from = 0.0
    for change in times.shown:
        place, length = x(change.time), 100 * len(change.label) * _CHARACTER / width
        is_left = place + length > 100
        if place - length * is_left < free_from:
            continue
        free_from = place + length * (not is_left)
        side = 'dx="-4" class="left"' if is_left else 'dx="4"'
        labels.append(f'<text x="{place:.2f}%" y="10" {side}>{escape(change.label)}</text>')
    return Markup(_group("changes", [*lines, *labels]) if lines else "")


def _plot(frame: Frame, kind: str, x: Scale, y: Scale, content: str, **data: Any) -> Markup:
    """`data` is what charts.js needs besides the scales."""
    area = {"left": x.start, "right": x.end, "top": y.end, "bottom": y.start, "low": y.low, "high": y.high}
    plot = {"kind": kind, "width": frame.width, **area, "start": x.low, "end": x.high, **data}
    return Markup(
        f'<svg class="plot {kind}" viewBox="0 0 {frame.width} {frame.height}" role="img" tabindex="0"'
        f' aria-label="{escape(frame.label)}" {_data(plot=plot)}>{content}'
        '<path class="cursor"/><path class="spot"/><path class="selection"/></svg>'
    )


def _x_axis(frame: Frame, x: Scale, ticks: Sequence[Tick], gap: int) -> str:
    """An axis whose ticks have at least `gap` pixels between them."""
    bottom = frame.height - _BOTTOM
    grid = [f'<path d="M{x(value):.1f} {_TOP}V{bottom}"/>' for value, _ in ticks]
    texts = []
    for value, text in ticks:
        width = len(text) * _CHARACTER
        beyond = max(x(value) + width / 2 - frame.width, 0)
        if width + beyond <= gap:  # moved to the left, it does not reach its neighbour
            texts.append(f'<text x="{x(value) - beyond:.1f}" y="{frame.height - 7}">{escape(text)}</text>')
    return _group("grid", grid) + _group("x", texts)


def _y_axis(frame: Frame, y: Scale, ticks: Sequence[Tick]) -> str:
    grid = [f'<path d="M{_LEFT} {y(value):.1f}H{frame.width - _RIGHT}"/>' for value, _ in ticks]
    texts = [f'<text x="{_LEFT - 6}" y="{y(value) + 4:.1f}">{escape(text)}</text>' for value, text in ticks]
    return _group("grid", grid) + _group("y", texts)


def _group(name: str, elements: Sequence[str]) -> str:
    return f'<g class="{name}">{"".join(elements)}</g>'


def _marks(frame: Frame, marks: Sequence[str]) -> str:
    """The marks, cut at the borders of the plot area."""
    width, height = frame.inner
    return _inner(frame, "".join(marks), f' class="marks" viewBox="{_LEFT} {_TOP} {width} {height}"')


def _inner(frame: Frame, content: str, attributes: str = "") -> str:
    """An <svg> that is the plot area."""
    width, height = frame.inner
    return f'<svg x="{_LEFT}" y="{_TOP}" width="{width}" height="{height}"{attributes}>{content}</svg>'


def _transform(x: Scale, y: Scale, begin: float, step: float, low: float = 0) -> str:
    """From coordinates in steps after `begin` and in values above `low` to pixels."""
    numbers = (x.per_unit * step, 0, 0, y.per_unit, x(begin), y(low))
    return f' transform="matrix({" ".join(f"{number:.7g}" for number in numbers)})"'


def _data(**values: Any) -> str:
    """Data attributes: texts as they are, all else as JSON."""
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        for name, value in values.items()
    }
    return " ".join(f'data-{name}="{escape(text)}"' for name, text in texts.items())
