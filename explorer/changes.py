"""When faults were switched: the marks of a time axis, and their words for those who do not see it."""

from itertools import groupby

import psycopg

from explorer import links, svg
from explorer.database import Database
from explorer.links import TimeRange
from explorer.results import QueryResult
from explorer.waterfall import cut
from explorer.web import clock

_LABEL_LENGTH, _TEXT_LENGTH = 32, 200
_CHANGES_IN_WORDS = 3


def read(database: Database, time_range: TimeRange) -> list[svg.Change]:
    """The marks of a time range; none in a store of other traces, where nothing records them. Raises psycopg.Error."""
    begin, end = time_range
    try:
        return of_result(database.query("fault_changes", {"time_from": begin, "time_to": end}))
    except psycopg.errors.UndefinedTable:
        return []


def of_result(result: QueryResult) -> list[svg.Change]:
    """The marks of the rows of the statement `fault_changes`: one for all that was switched at the same time."""
    rows = sorted(result.as_dicts(), key=lambda row: (row["time"], row["flag"]))
    marks = []
    for time, group in groupby(rows, key=lambda row: row["time"]):
        switched = list(group)
        first = f"{switched[0]['flag']} {switched[0]['to_variant']}"
        label = first if len(switched) == 1 else f"{len(switched)} flags"
        words = [f"{row['flag']} from {row['from_variant']} to {row['to_variant']}" for row in switched]
        marks.append(svg.Change(links.micros(time), cut(label, _LABEL_LENGTH), ", ".join(words)))
    return marks


def in_words(times: svg.TimeAxis) -> str:
    """The latest marks, as the end of a chart's description; "" if there are none."""
    if not times.changes:
        return ""
    latest = times.changes[-_CHANGES_IN_WORDS:]
    words = [f"{clock(links.time(change.time), times.zone)} {cut(change.text, _TEXT_LENGTH)}" for change in latest]
    more = len(times.changes) - len(latest)
    return ". Switched: " + "; ".join(words) + (f", and {more} times before" if more else "")
