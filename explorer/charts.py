"""From a panel's rows to a figure of Plotly's, as plain data. No I/O.

Times are milliseconds since 1970: the browser turns them into its own zone's.
"""

import html
import math
from collections.abc import Sequence
from datetime import datetime

from queries import Kind, Panel

# Of durations: ten buckets from each power of ten to the next, as queries/03-request-durations.sql has them.
_BUCKETS_A_DECADE = 10
_DECADES = {-3: "1 µs", -2: "10 µs", -1: "100 µs", 0: "1 ms", 1: "10 ms", 2: "100 ms", 3: "1 s", 4: "10 s", 5: "100 s"}
_SUFFIXES = {"_ms": " ms", "_percent": " %", "_per_second": "/s"}


def unit(column: str) -> str:
    """What follows a number of this column."""
    return next((text for suffix, text in _SUFFIXES.items() if column.endswith(suffix)), "")


def label(column: str) -> str:
    """A column's name for people."""
    name = next((column.removesuffix(suffix) for suffix in _SUFFIXES if column.endswith(suffix)), column)
    return name.replace("_", " ")


def figure(panel: Panel, columns: Sequence[str], rows: list[tuple]) -> dict:
    """`data` and `layout`, as Plotly wants them, of a panel that is a chart; there must be rows."""
    return _FIGURES[panel.kind](panel, columns, rows)


def is_chart(panel: Panel) -> bool:
    """Whether `figure` is for it."""
    return panel.kind in _FIGURES


def _series(panel: Panel, columns: Sequence[str], rows: list[tuple]) -> dict:
    lines: dict[str, tuple[list, list]] = {}
    texts = [number for number, column in enumerate(columns) if isinstance(rows[0][number], str)]
    numbers = [number for number in range(len(columns)) if number not in texts and columns[number] != "time"]
    for row in rows:
        for number in numbers:
            name = row[texts[0]] if texts else label(columns[number])
            times, values = lines.setdefault(name, ([], []))
            times.append(_millis(row[columns.index("time")]))
            values.append(row[number])
    suffix = unit(columns[numbers[0]])
    thresholds = zip(panel.thresholds or (), ("warning", "bad"), strict=False)
    return {
        "data": [
            {
                "type": "scatter",
                "mode": "lines",
                "name": _exactly(name),
                "x": times,
                "y": values,
                "hovertemplate": f"%{{y:,.3~g}}{suffix}",
            }
            for name, (times, values) in sorted(lines.items())
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


def _pie(panel: Panel, columns: Sequence[str], rows: list[tuple]) -> dict:
    text, number = (0, 1) if isinstance(rows[0][0], str) else (1, 0)
    return {
        "data": [
            {
                "type": "pie",
                "labels": [_exactly(row[text]) for row in rows],
                "values": [row[number] for row in rows],
                "hole": 0.4,
                "textinfo": "percent",
                "textposition": "inside",
                "hovertemplate": f"%{{label}}<br>%{{value:,.4~g}}{unit(columns[number])}, %{{percent}}<extra></extra>",
                "sort": False,
            }
        ],
        "layout": {"showlegend": True},
    }


def _heatmap(panel: Panel, columns: Sequence[str], rows: list[tuple]) -> dict:
    at = {column: number for number, column in enumerate(columns)}
    cells = {(row[at["time"]], _bucket(row[at["duration_from_ms"]])): row[at["requests"]] for row in rows}
    times, buckets = [time for time, _ in cells], [bucket for _, bucket in cells]
    step = rows[0][at["time_end"]] - rows[0][at["time"]]
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
            }
        ],
        "layout": {"xaxis": {"type": "date"}, "yaxis": _durations(y)},
    }


def _histogram(panel: Panel, columns: Sequence[str], rows: list[tuple]) -> dict:
    at = {column: number for number, column in enumerate(columns)}
    buckets = [_bucket(row[at["duration_from_ms"]]) for row in rows]
    return {
        "data": [
            {
                "type": "bar",
                "x": [bucket + 0.5 for bucket in buckets],
                "y": [row[at["requests"]] for row in rows],
                "width": 0.9,
                "customdata": [_range(bucket) for bucket in buckets],
                "hovertemplate": "%{customdata}: %{y} requests<extra></extra>",
            }
        ],
        "layout": {"xaxis": _durations(buckets), "yaxis": {"title": {"text": "requests"}}},
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
