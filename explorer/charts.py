"""From a panel's rows to a figure of Plotly's, as plain data. No I/O.

Times are milliseconds since 1970: the browser turns them into its own zone's.

Each trace of a figure says in `leads` where a click on a mark leads. `link` is a path, in which `{name}` stands for
what depends on the mark: an item of one of the lists in `columns`, quoted for a URL. `{start}` and `{end}` are those of
the mark if there is a `step`, its length in milliseconds. Without a `link`, or with a null among the items, a click
leads nowhere. (Plotly's own `meta` would make `%{x}` in a name a variable.)
"""

import html
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from urllib.parse import quote

from queries import COLOURS, Kind, Panel

# Of durations: ten buckets from each power of ten to the next, as queries/03-request-durations.sql has them.
_BUCKETS_A_DECADE = 10
_DECADES = {-3: "1 µs", -2: "10 µs", -1: "100 µs", 0: "1 ms", 1: "10 ms", 2: "100 ms", 3: "1 s", 4: "10 s", 5: "100 s"}
_SUFFIXES = {"_ms": " ms", "_percent": " %", "_per_second": "/s"}


# What would be longer is no link: a server takes no URL of any length, and a panel has up to a thousand of them.
LONGEST_LINK = 2_000


class View(NamedTuple):
    """What a figure shows besides its rows. Times are microseconds since 1970."""

    start: int
    end: int
    colours: Mapping[str, int]  # the place in COLOURS of each service's colour


def unit(column: str) -> str:
    """What follows a number of this column."""
    return next((text for suffix, text in _SUFFIXES.items() if column.endswith(suffix)), "")


def label(column: str) -> str:
    """A column's name for people."""
    name = next((column.removesuffix(suffix) for suffix in _SUFFIXES if column.endswith(suffix)), column)
    return name.replace("_", " ")


def figure(panel: Panel, columns: Sequence[str], rows: list[tuple], view: View) -> dict:
    """`data` and `layout`, as Plotly wants them, of a panel that is a chart; there must be rows."""
    return _FIGURES[panel.kind](panel, [dict(zip(columns, row, strict=True)) for row in rows], view)


def is_chart(panel: Panel) -> bool:
    """Whether `figure` is for it."""
    return panel.kind in _FIGURES


def shade(colour: str, number: int) -> str:
    """One of seven shades of a colour, written #rrggbb: itself, then in turn lighter and darker ones."""
    steps = (number % 7 + 1) // 2
    towards = 255 if number % 2 else 0
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return "#" + "".join(f"{round(part + (towards - part) * 0.17 * steps):02x}" for part in parts)


def number_text(value: float) -> str:
    """A number for a URL: never with an exponent, which no duration has."""
    return f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _texts(row: dict) -> list[str]:
    return [value for value in row.values() if isinstance(value, str)]


def _numbers(row: dict) -> list[str]:
    return [column for column, value in row.items() if not isinstance(value, (str, datetime))]


class _Colours:
    """Of lines and slices: each service's own, with shades for several of its operations; the others in order."""

    def __init__(self, services: Mapping[str, int]) -> None:
        self._services = services
        self._used = Counter()

    def next(self, row: dict) -> str:
        service = row.get("service_name")
        number = self._used[service]
        self._used[service] += 1
        if service is None:
            return COLOURS[number % len(COLOURS)]
        return shade(COLOURS[self._services[service]], number)


def _series(panel: Panel, rows: list[dict], view: View) -> dict:
    lines: dict[str, tuple[dict, list, list]] = {}
    numbers = _numbers(rows[0])
    for row in rows:
        for number in numbers:
            name = " ".join(_texts(row)) or label(number)
            _, times, values = lines.setdefault(name, (row, [], []))
            times.append(_millis(row["time"]))
            values.append(row[number])
    suffix = unit(numbers[0])
    thresholds = zip(panel.thresholds or (), ("warning", "bad"), strict=False)
    colours = _Colours(view.colours)
    step = _millis(rows[0]["time_end"]) - _millis(rows[0]["time"])
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "name": _exactly(name),
                "x": times,
                "y": values,
                "line": {"color": colours.next(row)},
                "hovertemplate": f"%{{y:,.3~g}}{suffix}",
                "leads": {"link": _link(panel, row, "{start}", "{end}"), "columns": {}, "step": step},
            }
            for name, (row, times, values) in sorted(lines.items(), key=lambda line: line[0])
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


def _pie(panel: Panel, rows: list[dict], view: View) -> dict:
    [number] = _numbers(rows[0])
    texts = [column for column in rows[0] if column != number]
    colours = _Colours(view.colours)
    return {
        "data": [
            {
                "type": "pie",
                "labels": [_exactly(" ".join(_texts(row))) for row in rows],
                "values": [row[number] for row in rows],
                "marker": {"colors": [colours.next(row) for row in rows]},
                "hole": 0.4,
                "textinfo": "percent",
                "textposition": "inside",
                "hovertemplate": f"%{{label}}<br>%{{value:,.4~g}}{unit(number)}, %{{percent}}<extra></extra>",
                "sort": False,
                "leads": {
                    "link": _link(panel, {}, str(view.start), str(view.end)),
                    "columns": {text: [_quoted(row[text]) for row in rows] for text in texts},
                },
            }
        ],
        "layout": {"showlegend": True},
    }


def _heatmap(panel: Panel, rows: list[dict], view: View) -> dict:
    cells = {(row["time"], _bucket(row["duration_from_ms"])): row["requests"] for row in rows}
    times, buckets = [time for time, _ in cells], [bucket for _, bucket in cells]
    step = rows[0]["time_end"] - rows[0]["time"]
    x = [min(times) + number * step for number in range((max(times) - min(times)) // step + 1)]
    y = list(range(min(buckets), max(buckets) + 1))
    return {
        "data": [
            {
                "type": "heatmap",
                "x": [_millis(time + step / 2) for time in x],  # cells are drawn around their middle
                "y": [bucket + 0.5 for bucket in y],
                "z": [[cells.get((time, bucket)) for time in x] for bucket in y],
                "customdata": [[_range(bucket)] * len(x) for bucket in y],
                "hovertemplate": "%{x|%H:%M}, %{customdata}: %{z} requests<extra></extra>",
                "hoverongaps": False,
                "zsmooth": False,
                "colorbar": {"title": {"text": "requests", "side": "right"}, "thickness": 12},
                "leads": {
                    "link": _link(panel, {}, "{start}", "{end}"),
                    "columns": _bounds(y),
                    "step": step.total_seconds() * 1000,
                },
            }
        ],
        "layout": {"xaxis": {"type": "date"}, "yaxis": _durations(y)},
    }


def _histogram(panel: Panel, rows: list[dict], view: View) -> dict:
    buckets = [_bucket(row["duration_from_ms"]) for row in rows]
    return {
        "data": [
            {
                "type": "bar",
                "x": [bucket + 0.5 for bucket in buckets],
                "y": [row["requests"] for row in rows],
                "width": 0.9,
                "marker": {"color": COLOURS[0]},
                "customdata": [_range(bucket) for bucket in buckets],
                "hovertemplate": "%{customdata}: %{y} requests<extra></extra>",
                "leads": {
                    "link": _link(panel, {}, str(view.start), str(view.end)),
                    "columns": _bounds(buckets),
                },
            }
        ],
        "layout": {"xaxis": _durations(buckets), "yaxis": {"title": {"text": "requests"}}},
    }


def _link(panel: Panel, row: dict, start: str, end: str) -> str:
    """Where a click on a mark leads; what the row does not say is for the browser to fill in."""

    def value(column: str) -> str:
        return quote(row[column], safe="") if column in row else f"{{{column}}}"

    link = panel.links[0].path(value, start, end)
    return link if len(link) <= LONGEST_LINK else ""


def _quoted(text: str) -> str | None:
    quoted = quote(text, safe="")
    return quoted if len(quoted) <= LONGEST_LINK // 2 else None


def _bounds(buckets: Sequence[int]) -> dict[str, list[str]]:
    return {
        column: [number_text(10 ** ((bucket + more) / _BUCKETS_A_DECADE)) for bucket in buckets]
        for more, column in enumerate(("duration_from_ms", "duration_to_ms"))
    }


def _exactly(name: str) -> str:
    """A name for Plotly, which reads entities and some tags of HTML in every text."""
    return html.escape(name, quote=False)


def _bucket(from_ms: float) -> int:
    return round(_BUCKETS_A_DECADE * math.log10(from_ms))


def _range(bucket: int) -> str:
    return " to ".join(f"{10 ** (end / _BUCKETS_A_DECADE):,.3g} ms" for end in (bucket, bucket + 1))


def _durations(buckets: Sequence[int]) -> dict:
    """An axis of buckets, with a tick at each power of ten."""
    return {
        "tickvals": [decade * _BUCKETS_A_DECADE for decade in _DECADES],
        "ticktext": list(_DECADES.values()),
        "range": [min(buckets), max(buckets) + 1],
    }


def _millis(time: datetime) -> float:
    return time.timestamp() * 1000


_FIGURES = {
    Kind.SERIES: _series,
    Kind.PIE: _pie,
    Kind.HEATMAP: _heatmap,
    Kind.HISTOGRAM: _histogram,
}
