"""From a panel's rows to a figure of Plotly's, as plain data. No I/O.

A chart can have 20,000 points. What the browser can find out itself is therefore not there for each of them, but once
for all in the `about` of a trace, which is not Plotly's:

- `begin` and `step`: the values are those of one step after the other. Times are microseconds since 1970; the browser
  turns them into its own zone's.
- `url`: where a click leads, as explorer/links.py has it; `values`: what a point, slice, bar or row of cells fills in.
- `ranges`: what durations a row of cells stands for.
"""

import html
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from explorer import links
from explorer.links import Times
from explorer.web import duration
from queries import COLOURS, Kind, Panel

# Of durations: ten buckets from each power of ten to the next, as queries/03-request-durations.sql has them.
_BUCKETS_A_DECADE = 10
_DECADES = range(-3, 6)  # of milliseconds: from 1 µs to 100 s
_DURATIONS = ("duration_from_ms", "duration_to_ms")  # columns
# How much white, or below 0 black, is in the shades of a colour: not so much that they get lost on a background.
_SHADES = (0, 0.35, -0.3, 0.55, -0.45, 0.18, -0.15)
_SUFFIXES = {"_ms": " ms", "_percent": " %", "_per_second": "/s"}


def unit(column: str) -> str:
    """What follows a number of this column."""
    return next((text for suffix, text in _SUFFIXES.items() if column.endswith(suffix)), "")


def label(column: str) -> str:
    """A column's name for people."""
    name = next((column.removesuffix(suffix) for suffix in _SUFFIXES if column.endswith(suffix)), column)
    return name.replace("_", " ")


class Rows(NamedTuple):
    """What a statement gave, and what there is to know for showing it."""

    columns: Sequence[str]
    rows: Sequence[tuple]
    colours: Mapping[str, int]  # of services, as places in COLOURS
    shown: Times

    def column(self, name: str) -> list:
        at = self.columns.index(name)
        return [row[at] for row in self.rows]

    def texts(self) -> list[int]:
        return [number for number, value in enumerate(self.rows[0]) if isinstance(value, str)]

    def mappings(self) -> list[dict[str, object]]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def figure(panel: Panel, found: Rows) -> dict:
    """`data` and `layout`, as Plotly wants them, of a panel that is a chart; there must be rows."""
    return _FIGURES[panel.kind](panel, found)


def is_chart(panel: Panel) -> bool:
    """Whether `figure` is for it."""
    return panel.kind in _FIGURES


def shade(colour: str, number: int) -> str:
    """A colour that goes with this one: number 0 is itself, and from 7 on they come again."""
    part = _SHADES[number % len(_SHADES)]
    target = 255 if part > 0 else 0
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(each + (target - each) * abs(part)):02x}" for each in parts)


def _colours(found: Rows, keys: Collection[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Of each line or slice, by its texts: its service's colour, or where the service has several a shade of that.

    In the order of the names, so that an operation has one colour in all charts of the same operations.
    """
    names = [found.columns[number] for number in found.texts()]
    if "service_name" not in names:
        return {key: COLOURS[number % len(COLOURS)] for number, key in enumerate(keys)}
    colours, seen = {}, Counter()
    for key in sorted(keys):
        service = key[names.index("service_name")]
        colours[key] = shade(COLOURS[found.colours[service]], seen[service])
        seen[service] += 1
    return colours


def _series(panel: Panel, found: Rows) -> dict:
    """A line for each of the texts, or for each number where there are none."""
    texts, begin, step = found.texts(), *_steps(found)
    numbers = [number for number, value in enumerate(found.rows[0]) if not isinstance(value, str | datetime)]
    places = [round((links.micros(time) - begin) / step) for time in found.column("time")]
    lines: dict[tuple[str, ...], list[float | None]] = {}
    urls = {}
    for place, row in zip(places, found.rows, strict=True):
        for number in numbers:
            key = tuple(row[text] for text in texts) or (label(found.columns[number]),)
            if key not in lines:
                lines[key] = [None] * (places[-1] + 1)
                names = dict(zip(found.columns, row, strict=True))
                urls[key] = links.line_template(panel.links[0], names) if panel.links else ""
            lines[key][place] = _short(row[number])
    suffix, colours = unit(found.columns[numbers[0]]), _colours(found, lines)
    thresholds = zip(panel.thresholds or (), ("warning", "bad"), strict=False)
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "name": _exactly(" ".join(key)),
                "y": values,
                "connectgaps": True,
                "line": {"color": colours[key]},
                "hovertemplate": f"%{{y:,.3~g}}{suffix}",
                "about": {"begin": begin, "step": step, "url": urls[key]},
            }
            for key, values in sorted(lines.items())
        ],
        "layout": {
            "xaxis": {"type": "date"},
            "yaxis": {"rangemode": "tozero", "ticksuffix": suffix},
            "hovermode": "x unified",
            "showlegend": len(lines) > 1,
            "shapes": [
                {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": value, "y1": value, "name": name}
                for value, name in thresholds
            ],
        },
    }


def _pie(panel: Panel, found: Rows) -> dict:
    texts = found.texts()
    [number] = set(range(len(found.columns))) - set(texts)
    keys = [tuple(row[text] for text in texts) for row in found.rows]
    colours, suffix = _colours(found, keys), unit(found.columns[number])
    return {
        "data": [
            {
                "type": "pie",
                "labels": [_exactly(" ".join(key)) for key in keys],
                "values": [row[number] for row in found.rows],
                "marker": {"colors": [colours[key] for key in keys]},
                "hole": 0.4,
                "textinfo": "percent",
                "textposition": "inside",
                "hovertemplate": f"%{{label}}<br>%{{value:,.4~g}}{suffix}, %{{percent}}<extra></extra>",
                "sort": False,
                "about": _where(panel, found, [found.columns[text] for text in texts]),
            }
        ],
        "layout": {"showlegend": True},
    }


def _heatmap(panel: Panel, found: Rows) -> dict:
    begin, step = _steps(found)
    places = [round((links.micros(time) - begin) / step) for time in found.column("time")]
    buckets = [_bucket(from_ms) for from_ms in found.column("duration_from_ms")]
    cells = dict(zip(zip(places, buckets, strict=True), found.column("requests"), strict=True))
    y = range(min(buckets), max(buckets) + 1)
    return {
        "data": [
            {
                "type": "heatmap",
                "y": [bucket + 0.5 for bucket in y],  # cells are drawn around their middle
                "z": [[cells.get((at, bucket)) for at in range(max(places) + 1)] for bucket in y],
                "hovertemplate": "%{x|%H:%M}, %{customdata}: %{z} requests<extra></extra>",
                "hoverongaps": False,
                "zsmooth": False,
                "colorbar": {"title": {"text": "requests", "side": "right"}, "thickness": 12},
                "about": {
                    "begin": begin,
                    "step": step,
                    "ranges": [_range(bucket) for bucket in y],
                    "url": links.template(panel.links[0], _DURATIONS, None) if panel.links else "",
                    "values": [[links.quoted(end) for end in _ends(bucket)] for bucket in y],
                },
            }
        ],
        "layout": {"xaxis": {"type": "date"}, "yaxis": _duration_axis(y)},
    }


def _histogram(panel: Panel, found: Rows) -> dict:
    buckets = [_bucket(from_ms) for from_ms in found.column("duration_from_ms")]
    return {
        "data": [
            {
                "type": "bar",
                "x": [bucket + 0.5 for bucket in buckets],
                "y": found.column("requests"),
                "width": 0.9,
                "marker": {"color": COLOURS[0]},
                "customdata": [_range(bucket) for bucket in buckets],
                "hovertemplate": "%{customdata}: %{y} requests<extra></extra>",
                "about": _where(panel, found, _DURATIONS),
            }
        ],
        "layout": {"xaxis": _duration_axis(buckets), "yaxis": {"title": {"text": "requests"}}},
    }


def _where(panel: Panel, found: Rows, columns: Sequence[str]) -> dict:
    """Where a click on each row's figure leads, as `about`."""
    if not panel.links:
        return {}
    [link, *_] = panel.links
    return {
        "url": links.template(link, columns, found.shown),
        "values": [
            [links.quoted(row[column]) for column in columns] if links.path(link, row, found.shown) else None
            for row in found.mappings()
        ],
    }


def _steps(found: Rows) -> tuple[int, int]:
    """Where the first step begins and how long each is, in microseconds."""
    begin, end = (links.micros(found.column(name)[0]) for name in ("time", "time_end"))
    return begin, end - begin


def _short(value: float) -> float:
    """As many digits as a chart can show."""
    return float(f"{value:.4g}")


def _exactly(name: str) -> str:
    """A name for Plotly, which reads entities and some tags of HTML in every text."""
    return html.escape(name, quote=False)


def _bucket(from_ms: float) -> int:
    return round(_BUCKETS_A_DECADE * math.log10(from_ms))


def _ends(bucket: int) -> tuple[float, float]:
    """In milliseconds."""
    return 10 ** (bucket / _BUCKETS_A_DECADE), 10 ** ((bucket + 1) / _BUCKETS_A_DECADE)


def _range(bucket: int) -> str:
    return " to ".join(f"{end:,.3g} ms" for end in _ends(bucket))


def _duration_axis(buckets: Sequence[int]) -> dict:
    """An axis of buckets, with a tick at each power of ten, and where these are few at its double and fivefold, too."""
    first, last = min(buckets), max(buckets) + 1
    digits = (1, 2, 5) if last - first <= 2 * _BUCKETS_A_DECADE else (1,)
    ticks = [digit * 10.0**decade for decade in _DECADES for digit in digits]
    return {
        "tickvals": [_BUCKETS_A_DECADE * math.log10(tick) for tick in ticks],
        "ticktext": [duration(round(tick * 10**6)) for tick in ticks],
        "range": [first, last],
    }


_FIGURES = {
    Kind.SERIES: _series,
    Kind.PIE: _pie,
    Kind.HEATMAP: _heatmap,
    Kind.HISTOGRAM: _histogram,
}
