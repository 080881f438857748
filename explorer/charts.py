"""From a panel's rows to a chart, or to a table of shares, for the templates panel_chart.html and panel_shares.html.

No I/O.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from itertools import islice, pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

from markupsafe import Markup

from explorer import changes, links, svg
from explorer.axes import BUCKETS_PER_DECADE, milliseconds
from explorer.links import TimeRange
from explorer.results import QueryResult
from explorer.waterfall import cut
from explorer.web import clock, quantity
from queries import COLOURS, MILLISECONDS, NO_UNIT, Kind, Panel, Unit, label, unit

SHOWN_SHARES = 50
_BUCKET_COLUMNS = ("duration_from_ms", "duration_to_ms")
# Percentages of the text's colour that are mixed into a service's colour: this can only add to its contrast, in a light
# and in a dark page. Consecutive ones are far apart.
SHADES = (0, 48, 24, 72, 36, 60, 12)
_TINTS = 4  # of one hue, for lines without a service: --tint-0, the palest, to --tint-3 in static/charts.css
_THRESHOLDS = ("warning", "bad")
_UNIT_HEIGHT = 26  # pixels of a chart per unit of `Panel.height`
_NAME_LENGTH = 200  # of a line
_NAMES_IN_LABEL, _NAME_LENGTH_IN_LABEL = 5, 40

Names = tuple[str, ...]


class Screen(NamedTuple):
    """Where a chart is shown."""

    width: int  # of a panel's content, in pixels
    zone: ZoneInfo


class ChartData(NamedTuple):
    """A result with at least one row, and what is needed to draw it."""

    result: QueryResult
    colours: Mapping[str, int]  # of services, as indexes in COLOURS
    time_range: TimeRange
    screen: Screen
    changes: Sequence[svg.Change] = ()

    @property
    def times(self) -> svg.TimeAxis:
        begin, end = map(links.micros, self.time_range)
        return svg.TimeAxis(begin, end, self.screen.zone, self.changes)

    @property
    def period(self) -> str:
        return " to ".join(clock(time, self.screen.zone) for time in self.time_range)


class Chart(NamedTuple):
    plot: Markup
    legend: Sequence[tuple[str, str]] = ()  # name and colour of each line
    thresholds: Sequence[tuple[str, str]] = ()  # class and text of each horizontal line
    most: int = 0  # the largest number of a heat map's cells
    has_changes: bool = False


class Share(NamedTuple):
    """A row of a table of shares."""

    name: str
    colour: str
    value: str
    percent: float
    path: str  # of the link, "" for none


def chart(panel: Panel, data: ChartData) -> Chart:
    """The chart of a panel for which `is_chart` holds."""
    return _CHARTS[panel.kind](panel, data)


def has_time_axis(panel: Panel) -> bool:
    return panel.kind in (Kind.SERIES, Kind.HEATMAP)


def is_chart(panel: Panel) -> bool:
    return panel.kind in _CHARTS


def hint(panel: Panel) -> str:
    """What clicks and drags on a panel's figures do, as sentences."""
    click = f"Click: {panel.links[0].title}." if panel.links and panel.kind in (*_CHARTS, Kind.PIE) else ""
    return " ".join(filter(None, (click, _DRAG_HINTS.get(panel.kind))))


def shade(colour: str, number: int) -> str:
    """A shade of a colour, in CSS: number 0 is the colour itself; there are seven, and then they repeat."""
    share = SHADES[number % len(SHADES)]
    return f"color-mix(in srgb, var(--text) {share}%, {colour})" if share else colour


def shares(panel: Panel, data: ChartData) -> list[Share]:
    """The rows' shares of the total: the largest ones, and one row for all others."""
    columns, rows = data.result
    text_columns = data.result.text_columns()
    [number_column] = set(range(len(columns))) - set(text_columns)
    keys = [tuple(row[text] for text in text_columns) for row in rows]
    values, measure = [float(row[number_column]) for row in rows], unit(columns[number_column])
    colours, total = _colours(data, keys), sum(values) or 1
    shown = [
        Share(
            name=" ".join(key),
            colour=colours[key],
            value=quantity(row[number_column], measure),
            percent=100 * value / total,
            path=links.path(panel.links[0], names, data.time_range) if panel.links else "",
        )
        for key, row, value, names in islice(zip(keys, rows, values, data.result.as_dicts(), strict=True), SHOWN_SHARES)
    ]
    if others := values[SHOWN_SHARES:]:
        rest = sum(others)
        shown.append(Share(f"{len(others)} others", "var(--muted)", quantity(rest, measure), 100 * rest / total, ""))
    return shown


def _colours(data: ChartData, keys: Collection[Names]) -> dict[Names, str]:
    """The colour of each line or share, by its texts: that of its service, or a shade of it if a service has several.

    Shades are given in the order of the names, so that an operation has one colour in all charts of the same
    operations. Lines without a service, as percentiles, have tints of one hue.
    """
    names = [data.result.columns[index] for index in data.result.text_columns()]
    if "service_name" not in names:
        return {key: f"var(--tint-{_tint(number, len(keys))})" for number, key in enumerate(keys)}
    colours = {}
    lines_of_service: Counter[str] = Counter()
    for key in sorted(keys):
        service = key[names.index("service_name")]
        colours[key] = shade(COLOURS[data.colours[service]], lines_of_service[service])
        lines_of_service[service] += 1
    return colours


def _tint(number: int, count: int) -> int:
    """The tint of a line among `count`: from the palest to the strongest, and a medium one if there is no other."""
    return round((_TINTS - 1) * number / (count - 1)) if count > 1 else 1


def _series(panel: Panel, data: ChartData) -> Chart:
    """One line per combination of texts, or per number column where there are no texts."""
    values, urls = _lines(panel, data)
    colours = _colours(data, values)
    lines = [
        svg.Line(cut(" ".join(key), _NAME_LENGTH), colours[key], line, urls[key])
        for key, line in sorted(values.items())
    ]
    measure = unit(data.result.columns[_number_columns(data.result)[0]])
    thresholds = dict(zip(_THRESHOLDS, panel.thresholds or (), strict=False))
    frame = _frame(panel, data, f"Lines over time, {data.period}: {_ranges(lines, measure)}")
    return Chart(
        plot=svg.lines(frame, data.times, _steps(data.result), lines, measure, thresholds),
        legend=[(line.name, line.colour) for line in lines] if len(lines) > 1 else [],
        thresholds=[(name, f"{name} from {value:g}{measure.text}") for name, value in thresholds.items()],
        has_changes=bool(data.changes),
    )


def _lines(panel: Panel, data: ChartData) -> tuple[dict[Names, list[float | None]], dict[Names, str]]:
    """The values of each line, one per step, and the template of its link; both by the texts that are its name."""
    columns, rows = data.result
    text_columns, places = data.result.text_columns(), _places(data.result)
    numbers = [(column, (label(columns[column]),)) for column in _number_columns(data.result)]
    lines: dict[Names, list[float | None]] = {}
    urls = {}
    for place, row in zip(places, rows, strict=True):
        texts = tuple(row[column] for column in text_columns)
        for column, name in numbers:
            key = texts or name
            if key not in lines:
                names = dict(zip(columns, row, strict=True))
                lines[key] = [None] * (places[-1] + 1)
                urls[key] = links.line_template(panel.links[0], names) if panel.links else ""
            lines[key][place] = row[column]
    return lines, urls


def _number_columns(result: QueryResult) -> list[int]:
    return [index for index, value in enumerate(result.rows[0]) if not isinstance(value, str | datetime)]


def _heatmap(panel: Panel, data: ChartData) -> Chart:
    buckets = [_bucket(from_ms) for from_ms in data.result.values("duration_from_ms")]
    places, requests = _places(data.result), data.result.values("requests")
    low = min(buckets)
    rows = [[0] * (max(places) + 1) for _ in range(low, max(buckets) + 1)]
    for place, bucket, number in zip(places, buckets, requests, strict=True):
        rows[bucket - low][place] = number
    cells = _cells(panel, low, len(rows), None)
    frame = _frame(panel, data, f"A heat map of durations over time, {data.period}: {_durations(low, rows)}")
    plot = svg.heatmap(frame, data.times, _steps(data.result), rows, cells)
    return Chart(plot, most=max(requests), has_changes=bool(data.changes))


def _histogram(panel: Panel, data: ChartData) -> Chart:
    low = _bucket(data.result.values("duration_from_ms")[0])
    counts = data.result.values("requests")
    cells = _cells(panel, low, len(counts), data.time_range)
    frame = _frame(panel, data, f"Bars by duration: {_durations(low, [[count] for count in counts])}")
    return Chart(plot=svg.histogram(frame, counts, cells))


def _cells(panel: Panel, low: int, count: int, time_range: TimeRange | None) -> svg.Cells:
    bounds = [links.url_text(milliseconds(bucket)) for bucket in range(low, low + count + 1)]
    url = links.template(panel.links[0], _BUCKET_COLUMNS, time_range) if panel.links else ""
    return svg.Cells(low, url, list(pairwise(bounds)))


def _frame(panel: Panel, data: ChartData, description: str) -> svg.Frame:
    words = f"{panel.title}. {description}{changes.in_words(data.times)}."
    return svg.Frame(data.screen.width, _UNIT_HEIGHT * panel.height, words)


def _ranges(lines: Sequence[svg.Line], measure: Unit) -> str:
    """The least and the greatest value of the first lines, in words."""
    texts = []
    for line in lines[:_NAMES_IN_LABEL]:
        values = [value for value in line.values if value is not None]
        least, greatest = (quantity(bound, measure) for bound in (min(values), max(values)))
        texts.append(f"{cut(line.name, _NAME_LENGTH_IN_LABEL)} from {least} to {greatest}")
    more = len(lines) - len(texts)
    return ", ".join(texts) + (f", and {more} more" if more else "")


def _durations(low: int, rows: Sequence[Sequence[int]]) -> str:
    """The number of requests and their durations in words; a row per bucket."""
    total = sum(map(sum, rows))
    fastest, slowest = (quantity(milliseconds(low + place), MILLISECONDS) for place in (0, len(rows)))
    return f"{quantity(total, NO_UNIT)} requests, which took {fastest} to {slowest}"


def _steps(result: QueryResult) -> svg.Steps:
    begin, end = (links.micros(result.values(column)[0]) for column in ("time", "time_end"))
    return svg.Steps(begin, end - begin)


def _places(result: QueryResult) -> list[int]:
    """The number of each row's step."""
    begin, step = _steps(result)
    return [round((links.micros(time) - begin) / step) for time in result.values("time")]


def _bucket(from_ms: float) -> int:
    return round(BUCKETS_PER_DECADE * math.log10(from_ms))


_CHARTS = {
    Kind.SERIES: _series,
    Kind.HEATMAP: _heatmap,
    Kind.HISTOGRAM: _histogram,
}
_DRAG_HINTS = {
    Kind.SERIES: "Drag: only this time.",
    Kind.HEATMAP: "Drag: the requests in a box, or only this time.",
    Kind.HISTOGRAM: "Drag: the requests with these durations.",
}
