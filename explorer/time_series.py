"""From the result of a user's statement to lines over time, which explorer/charts.py draws. No I/O."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple

from explorer.links import TimeRange
from explorer.results import QueryResult, TextResult
from queries import Unit, label, unit

MAX_CHARTS = 6
MAX_LINES = 20  # of a chart
MAX_STEPS = 1_000
_END = "time_end"  # of a step, as in the statements of queries/
_MICROSECOND = timedelta(microseconds=1)
_ID = re.compile(r"(.*_)?id")
_NO_NAMES = ("timestamptz", "uuid", "json", "jsonb")  # types of columns that do not name lines
_MOST = 1e-9, 1e18  # bounds of the greatest value of a chart, unless it is 0

Columns = Sequence[int]  # by their numbers
Names = tuple[str, ...]
Row = Sequence[str | None]


class TimeSeries(NamedTuple):
    """Numbers with one unit over time, in steps of equal length.

    `result` has the columns `time` and `time_end`, columns of texts that together name a line, if there are any, and a
    column of numbers, or else several.
    """

    title: str
    result: QueryResult
    time_range: TimeRange
    is_reduced: bool  # several rows of a line were in the same step: the greatest value is kept


def time_series(result: TextResult) -> list[TimeSeries]:
    """The numbers of a result that has one column of times, and perhaps `time_end`, and at least two times.

    Columns with negative numbers, or only with very small or very large ones, are left out. If texts name more than
    MAX_LINES lines, there is no chart.
    """
    times = [column for column, kind in enumerate(result.types) if kind == "timestamptz"]
    if len(times) == 2:
        times = [column for column in times if result.columns[column] != _END]
    numbers = [column for column, is_number in enumerate(result.numbers) if is_number and not _is_id(result, column)]
    if len(times) != 1 or not numbers:
        return []
    names = [column for column, kind in enumerate(result.types) if kind not in _NO_NAMES and not result.numbers[column]]
    try:
        rows = [(datetime.fromisoformat(time), row) for row in result.rows if (time := row[times[0]]) is not None]
        steps = _steps(sorted({time for time, _ in rows}))
    except (ValueError, OverflowError):  # infinity, before Christ, or after the year 9999
        return []
    lines = {_names(row, names) for _, row in rows}
    if steps is None or len(lines) > MAX_LINES:
        return []
    drawn = [column for column in numbers if _can_be_drawn([row[column] for _, row in rows])]
    groups = [[column] for column in drawn] if names else _by_unit(result, drawn)
    return [_series(result, rows, steps, names, group[:MAX_LINES]) for group in groups[:MAX_CHARTS]]


def _names(row: Row, columns: Columns) -> Names:
    return tuple("null" if (text := row[column]) is None else text for column in columns)


class _Steps(NamedTuple):
    begin: datetime
    length: timedelta
    end: datetime

    def start(self, time: datetime) -> datetime:
        """Of the step that a time is in."""
        return self.begin + (time - self.begin) // self.length * self.length


def _steps(times: Sequence[datetime]) -> _Steps | None:
    """As long as the shortest distance between these distinct times, which have an order, but at most MAX_STEPS."""
    if len(times) < 2:
        return None
    shortest = min(later - earlier for earlier, later in pairwise(times))
    length = max(shortest, (times[-1] - times[0]) / MAX_STEPS)
    return _Steps(times[0], length, times[-1] + length)


def _series(
    result: TextResult, rows: Sequence[tuple[datetime, Row]], steps: _Steps, names: Columns, numbers: Columns
) -> TimeSeries:
    values: dict[tuple[datetime, Names], list[float | None]] = {}
    is_reduced = False
    for time, row in rows:
        key = steps.start(time), _names(row, names)
        found = [_number(row[column]) for column in numbers]
        known = values.get(key, [None] * len(numbers))
        is_reduced |= any(None not in pair for pair in zip(known, found, strict=True))
        values[key] = [_greater(*pair) for pair in zip(known, found, strict=True)]
    columns = ["time", _END, *(result.columns[column] for column in (*names, *numbers))]
    made = [
        (start, start + steps.length, *texts, *found)
        for (start, texts), found in values.items()
        if any(value is not None for value in found)
    ]
    title = ", ".join(label(result.columns[column]) for column in numbers)
    return TimeSeries(
        title, QueryResult(columns, sorted(made, key=itemgetter(0))), (steps.begin, steps.end), is_reduced
    )


def _greater(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)


def _is_id(result: TextResult, column: int) -> bool:
    return _ID.fullmatch(result.columns[column]) is not None


def _by_unit(result: TextResult, columns: Columns) -> list[list[int]]:
    """The columns that a chart can show together; the first of those with the same label."""
    groups: defaultdict[Unit, dict[str, int]] = defaultdict(dict)
    for column in columns:
        name = result.columns[column]
        groups[unit(name)].setdefault(label(name), column)
    return [list(group.values()) for group in groups.values()]


def _number(text: str | None) -> float | None:
    """None for infinity and NaN, too."""
    value = math.nan if text is None else float(text)
    return value if math.isfinite(value) else None


def _can_be_drawn(texts: Sequence[str | None]) -> bool:
    values = [value for value in map(_number, texts) if value is not None]
    return bool(values) and min(values) >= 0 and (not any(values) or _MOST[0] <= max(values) <= _MOST[1])
