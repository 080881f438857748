"""Links from a panel's figures to the traces behind them, as paths on the pages of port 16686, and the time range of a
page as the parameters of another. No I/O.

The query of a path to a search is also that of an analysis (explorer/analysis_pages.py) of the same traces.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from explorer.query import DEFAULT_LOOKBACK, MAX_MICROS, Parameters, read_range
from queries import Link

# Servers limit the length of a URL, and a panel can have thousands of links: one that would be longer is left out.
MAX_URL_LENGTH = 2_000
_BROWSERS_TIMES = ("{start}", "{end}")
_AGO = r"(\d{1,4}[smhd])"  # what both dashboards and searches take as the length of a time range that ends now
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

TimeRange = tuple[datetime, datetime]  # from the first time (included) to the second (excluded)


def path(link: Link, row: Mapping[str, Any], time_range: TimeRange) -> str:
    """The path of a row's link, or "" if it would be too long. Rows without times of their own have `time_range`."""
    times = (row["time"], row["time_end"]) if "time_end" in row else time_range
    return _limited(link.path(lambda column: url_text(row[column]), *search_times(times)))


def line_template(link: Link, row: Mapping[str, Any]) -> str:
    """The link of all points of a line, whose names are in `row`: the browser fills in {start} and {end}."""
    return _limited(link.path(lambda column: url_text(row[column]), *_BROWSERS_TIMES))


def template(link: Link, columns: Sequence[str], time_range: TimeRange | None) -> str:
    """The link of all figures of a chart: for {0} the browser fills in the `url_text` of the first of `columns`, etc.

    Without `time_range`, the browser also fills in {start} and {end}.
    """
    times = search_times(time_range) if time_range else _BROWSERS_TIMES
    return link.path(lambda column: f"{{{columns.index(column)}}}", *times)


def url_text(value: object) -> str:
    """A value as it is written in a URL.

    Numbers have no exponent, which Jaeger's durations cannot have (Go's time.ParseDuration), and six decimals at most.
    """
    return quote(f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value), safe="")


def micros(time: datetime) -> int:
    """Microseconds since 1970."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def time(micros: int) -> datetime:
    """The time so many microseconds after 1970."""
    return _EPOCH + timedelta(microseconds=micros)


def _limited(path: str) -> str:
    return path if len(path) <= MAX_URL_LENGTH else ""


def search_times(times: TimeRange) -> tuple[str, str]:
    """Start and end of a search in microseconds since 1970. A search includes its end, and has a last time."""
    begin, end = (min(max(micros(time), 0), MAX_MICROS) for time in times)
    return str(begin), str(max(end - 1, begin))


def search_range(begin: str, end: str, time_range: TimeRange) -> dict[str, str]:
    """The parameters of a search for a dashboard's `from` and `to`, which are `time_range`.

    A time range that ends now still does when the link is followed.
    """
    if end == "now" and (ago := re.fullmatch(f"now-{_AGO}", begin)):
        return {"lookback": ago[1]}
    first, last = search_times(time_range)
    return {"lookback": "custom", "start": first, "end": last}


def dashboard_range(parameters: Parameters) -> dict[str, str]:
    """The parameters `from` and `to` of a dashboard for the time range of a search. Raises BadRequest."""
    lookback = parameters.get("lookback") or DEFAULT_LOOKBACK
    if not (parameters.get("start") or parameters.get("end")) and re.fullmatch(_AGO, lookback):
        return {"from": f"now-{lookback}", "to": "now"}
    begin, end = read_range(parameters)
    return {"from": str(begin // 10**6), "to": str(-(-end // 10**6))}
