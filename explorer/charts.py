"""From a panel's rows to a Plotly figure, as plain data. No I/O.

A chart can have 20,000 points, so what the browser can compute is not sent for each of them. It is in the `about` of
a Plotly trace, a property that Plotly itself ignores and static/dashboards.js reads:

- `begin` and `step`: the times of consecutive values, in microseconds since 1970. The browser shows its own time zone.
- `url`: the link of a click, see explorer/links.py; `values`: what to fill in there for a point, slice, bar or row of
  cells.
- `ranges`: the range of durations of each row of cells.
"""

import html
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from explorer import links
from explorer.links import TimeRange
from explorer.results import QueryResult
from explorer.web import duration
from queries import COLOURS, Kind, Panel, label, unit

# Ten buckets of durations per power of ten, as in queries/03-request-durations.sql.
_BUCKETS_PER_DECADE = 10
_DECADES = range(-3, 6)  # powers of ten, in milliseconds: 1 µs to 100 s
_BUCKET_COLUMNS = ("duration_from_ms", "duration_to_ms")
# Shares of white (positive) or black (negative) that are mixed into a colour, small enough to stay visible on a white
# and on a black background.
_SHADES = (0, 0.35, -0.3, 0.55, -0.45, 0.18, -0.15)

Figure = dict[str, Any]  # `data` and `layout`: https://plotly.com/javascript/reference/


class ChartData(NamedTuple):
    """A result with at least one row, and what is needed to draw it."""

    result: QueryResult
    colours: Mapping[str, int]  # of services, as indexes in COLOURS
    time_range: TimeRange


def figure(panel: Panel, data: ChartData) -> Figure:
    """The figure of a panel for which `is_chart` holds."""
    return _FIGURES[panel.kind](panel, data)


def is_chart(panel: Panel) -> bool:
    return panel.kind in _FIGURES


def shade(colour: str, number: int) -> str:
    """A shade of a colour: number 0 is the colour itself; there are seven, and then they repeat."""
    share = _SHADES[number % len(_SHADES)]
    target = 255 if share > 0 else 0
    channels = (int(colour[index : index + 2], 16) for index in (1, 3, 5))
    return "#" + "".join(f"{round(channel + (target - channel) * abs(share)):02x}" for channel in channels)


def _colours(data: ChartData, keys: Collection[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """The colour of each line or slice, by its texts: that of its service, or a shade of it if a service has several.

    Shades are given in the order of the names, so that an operation has one colour in all charts of the same
    operations.
    """
    names = [data.result.columns[index] for index in data.result.text_columns()]
    if "service_name" not in names:
        return {key: COLOURS[number % len(COLOURS)] for number, key in enumerate(keys)}
    colours = {}
    lines_of_service: Counter[str] = Counter()
    for key in sorted(keys):
        service = key[names.index("service_name")]
        colours[key] = shade(COLOURS[data.colours[service]], lines_of_service[service])
        lines_of_service[service] += 1
    return colours


def _series(panel: Panel, data: ChartData) -> Figure:
    """One line per combination of texts, or per number column where there are no texts."""
    columns, rows = data.result
    text_columns = data.result.text_columns()
    number_columns = [index for index, value in enumerate(rows[0]) if not isinstance(value, str | datetime)]
    begin, step = _steps(data.result)
    places = [round((links.micros(time) - begin) / step) for time in data.result.values("time")]
    lines: dict[tuple[str, ...], list[float | None]] = {}
    urls = {}
    for place, row in zip(places, rows, strict=True):
        for column in number_columns:
            key = tuple(row[text] for text in text_columns) or (label(columns[column]),)
            if key not in lines:
                lines[key] = [None] * (places[-1] + 1)
                names = dict(zip(columns, row, strict=True))
                urls[key] = links.line_template(panel.links[0], names) if panel.links else ""
            lines[key][place] = _rounded(row[column])
    suffix, colours = unit(columns[number_columns[0]]).text, _colours(data, lines)
    thresholds = zip(panel.thresholds or (), ("warning", "bad"), strict=False)
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "name": _escaped(" ".join(key)),
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


def _pie(panel: Panel, data: ChartData) -> Figure:
    columns, rows = data.result
    text_columns = data.result.text_columns()
    [number_column] = set(range(len(columns))) - set(text_columns)
    keys = [tuple(row[text] for text in text_columns) for row in rows]
    colours, suffix = _colours(data, keys), unit(columns[number_column]).text
    return {
        "data": [
            {
                "type": "pie",
                "labels": [_escaped(" ".join(key)) for key in keys],
                "values": [row[number_column] for row in rows],
                "marker": {"colors": [colours[key] for key in keys]},
                "hole": 0.4,
                "textinfo": "percent",
                "textposition": "inside",
                "hovertemplate": f"%{{label}}<br>%{{value:,.4~g}}{suffix}, %{{percent}}<extra></extra>",
                "sort": False,
                "about": _row_links(panel, data, [columns[text] for text in text_columns]),
            }
        ],
        "layout": {"showlegend": True},
    }


def _heatmap(panel: Panel, data: ChartData) -> Figure:
    begin, step = _steps(data.result)
    places = [round((links.micros(time) - begin) / step) for time in data.result.values("time")]
    buckets = [_bucket(from_ms) for from_ms in data.result.values("duration_from_ms")]
    cells = dict(zip(zip(places, buckets, strict=True), data.result.values("requests"), strict=True))
    y = range(min(buckets), max(buckets) + 1)
    return {
        "data": [
            {
                "type": "heatmap",
                "y": [bucket + 0.5 for bucket in y],  # the centres of the cells
                "z": [[cells.get((place, bucket)) for place in range(max(places) + 1)] for bucket in y],
                "hovertemplate": "%{x|%H:%M}, %{customdata}: %{z} requests<extra></extra>",
                "hoverongaps": False,
                "zsmooth": False,
                "colorbar": {"title": {"text": "requests", "side": "right"}, "thickness": 12},
                "about": {
                    "begin": begin,
                    "step": step,
                    "ranges": [_bucket_label(bucket) for bucket in y],
                    "url": links.template(panel.links[0], _BUCKET_COLUMNS, None) if panel.links else "",
                    "values": [[links.url_text(bound) for bound in _bounds(bucket)] for bucket in y],
                },
            }
        ],
        "layout": {"xaxis": {"type": "date"}, "yaxis": _duration_axis(y)},
    }


def _histogram(panel: Panel, data: ChartData) -> Figure:
    buckets = [_bucket(from_ms) for from_ms in data.result.values("duration_from_ms")]
    return {
        "data": [
            {
                "type": "bar",
                "x": [bucket + 0.5 for bucket in buckets],
                "y": data.result.values("requests"),
                "width": 0.9,
                "marker": {"color": COLOURS[0]},
                "customdata": [_bucket_label(bucket) for bucket in buckets],
                "hovertemplate": "%{customdata}: %{y} requests<extra></extra>",
                "about": _row_links(panel, data, _BUCKET_COLUMNS),
            }
        ],
        "layout": {"xaxis": _duration_axis(buckets), "yaxis": {"title": {"text": "requests"}}},
    }


def _row_links(panel: Panel, data: ChartData, columns: Sequence[str]) -> dict[str, Any]:
    """The links of figures that stand for one row each, as `about`: `columns` are those that the link needs."""
    if not panel.links:
        return {}
    [link, *_] = panel.links
    return {
        "url": links.template(link, columns, data.time_range),
        "values": [
            [links.url_text(row[column]) for column in columns] if links.path(link, row, data.time_range) else None
            for row in data.result.as_dicts()
        ],
    }


def _steps(result: QueryResult) -> tuple[int, int]:
    """Begin and length of the first step, in microseconds."""
    begin, end = (links.micros(result.values(column)[0]) for column in ("time", "time_end"))
    return begin, end - begin


def _rounded(value: float) -> float:
    """Four digits: more cannot be seen in a chart, and would make the answer larger."""
    return float(f"{value:.4g}")


def _escaped(name: str) -> str:
    """A name for Plotly, which interprets HTML entities and some tags in every text."""
    return html.escape(name, quote=False)


def _bucket(from_ms: float) -> int:
    return round(_BUCKETS_PER_DECADE * math.log10(from_ms))


def _bounds(bucket: int) -> tuple[float, float]:
    """Lower and upper bound of a bucket, in milliseconds."""
    return 10 ** (bucket / _BUCKETS_PER_DECADE), 10 ** ((bucket + 1) / _BUCKETS_PER_DECADE)


def _bucket_label(bucket: int) -> str:
    return " to ".join(f"{bound:,.3g} ms" for bound in _bounds(bucket))


def _duration_axis(buckets: Sequence[int]) -> dict[str, Any]:
    """A logarithmic axis with a tick at each power of ten, and up to two decades also at twice and five times it."""
    first, last = min(buckets), max(buckets) + 1
    digits = (1, 2, 5) if last - first <= 2 * _BUCKETS_PER_DECADE else (1,)
    ticks = [digit * 10.0**decade for decade in _DECADES for digit in digits]
    return {
        "tickvals": [_BUCKETS_PER_DECADE * math.log10(tick) for tick in ticks],
        "ticktext": [duration(round(tick * 10**6)) for tick in ticks],
        "range": [first, last],
    }


_FIGURES = {
    Kind.SERIES: _series,
    Kind.PIE: _pie,
    Kind.HEATMAP: _heatmap,
    Kind.HISTOGRAM: _histogram,
}
