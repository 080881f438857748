"""The demo's SQL, and the definition of the dashboards that show it: used by Grafana's builder and by the explorer.

The end of a column's name says the unit of its numbers: see `UNITS`. docs/queries.md explains the statements' rules.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import quote

import aiosql

from telemetry import services

FOLDER = Path(__file__).parent
PARAMETERS = ("time_from", "time_to", "service", "operation", "step")
SHORTEST_STEP = "1 second"  # of a series; statements choose a longer step for a long time range

# One colour per service, the same on every page. Each has a contrast of at least 3:1 with a light and with a dark
# background, as WCAG 2.1 (success criterion 1.4.11) requires of graphics. The demo's own services have the first ones.
COLOURS = (
    *("#2f7fd1", "#c2611a", "#2c8f57", "#a64fb8", "#8a7a1c", "#6a7f92"),
    *("#1c8c97", "#c14d7c", "#6a6fd0", "#6b8a22", "#a8644a", "#93683a"),
)
SERVICES = (*services.SERVICES, "load")
SERVICE_COLUMNS = ("service_name", "caller", "callee")  # the columns of statements that have names of services


class Unit(NamedTuple):
    """The unit of a column's numbers."""

    suffix: str  # of the column's name
    text: str  # follows a number on the explorer's pages
    grafana: str  # Grafana's id of the unit


MILLISECONDS = Unit(suffix="_ms", text=" ms", grafana="ms")
PERCENT = Unit(suffix="_percent", text=" %", grafana="percent")  # from 0 to 100
PER_SECOND = Unit(suffix="_per_second", text="/s", grafana="reqps")
NO_UNIT = Unit(suffix="", text="", grafana="")
UNITS = (MILLISECONDS, PERCENT, PER_SECOND)


def unit(column: str) -> Unit:
    """The unit of a column's numbers, by the end of its name; `NO_UNIT` if it has none, as a count."""
    return next((unit for unit in UNITS if column.endswith(unit.suffix)), NO_UNIT)


def label(column: str) -> str:
    """A column's name as people read it: without the unit, and with spaces."""
    return column.removesuffix(unit(column).suffix).replace("_", " ")


def colour_numbers(services: Iterable[str]) -> dict[str, int]:
    """The index in `COLOURS` of each service's colour.

    Services other than the demo's own share the remaining colours, in the order in which they are given.
    """
    others = [service for service in dict.fromkeys(services) if service not in SERVICES]
    free = len(COLOURS) - len(SERVICES)
    return {service: number for number, service in enumerate(SERVICES)} | {
        service: len(SERVICES) + number % free for number, service in enumerate(others)
    }


class Kind(StrEnum):
    """How a panel shows the rows of its statement, and which columns it needs."""

    SERIES = "series"  # lines over `time` to `time_end`: one per number column, or one per combination of text columns
    PIE = "pie"  # shares of a total, one per row: its text columns are the name, its number column is the size
    HEATMAP = "heatmap"  # cells of `time` to `time_end` and `duration_from_ms` to `duration_to_ms`, with `requests`
    HISTOGRAM = "histogram"  # one bar per row, from `duration_from_ms` to `duration_to_ms`, with `requests`
    TABLE = "table"
    # Two statements. Nodes: `id`, `service_name` and optionally `span_name`. Edges: `id`, `source`, `target` and the
    # callee's names. Both: `calls`, `errors` and `mean_ms`.
    NODE_GRAPH = "node graph"
    TRACE = "trace"  # all spans of one trace, which the user chooses from the statement's `trace_id`


@dataclass(frozen=True, kw_only=True)
class Link:
    """A link from a figure to the traces behind it: to one trace, or to a search by Jaeger's fields.

    `{column}` in a field stands for that column's value in the figure's row. A search covers the row's own time, from
    `time` to `time_end`, if the row has these columns, and otherwise the time range of the dashboard.
    """

    title: str
    trace_id: str = ""
    service: str = ""
    operation: str = ""
    failed: bool = False  # only spans with an error
    min_duration: str = ""  # of a span, in Jaeger's notation: 1.5ms
    max_duration: str = ""
    column: str = ""  # in a table: the column whose cells have this link

    def path(self, value: Callable[[str], str], start: str, end: str) -> str:
        """Path and query of the link, for Jaeger and for the explorer's pages of traces alike.

        `value` returns the URL-encoded value of a column; `start` and `end` are microseconds since 1970.
        """

        def fill(template: str) -> str:
            texts = re.split(r"\{(\w+)\}", template)  # every second text is a column's name
            return "".join(value(text) if number % 2 else quote(text, safe="") for number, text in enumerate(texts))

        if self.trace_id:
            return f"trace/{fill(self.trace_id)}"
        fields = {
            "service": fill(self.service),
            "operation": fill(self.operation),
            "tags": quote('{"error":"true"}') if self.failed else "",
            "minDuration": fill(self.min_duration),
            "maxDuration": fill(self.max_duration),
            "lookback": "custom",
            "start": start,
            "end": end,
        }
        return "search?" + "&".join(f"{name}={text}" for name, text in fields.items() if text)


@dataclass(frozen=True, kw_only=True)
class Panel:
    title: str
    description: str
    kind: Kind
    statements: tuple[str, ...]  # names in queries/*.sql
    width: int = 24  # of 24 columns; panels fill rows from left to right
    height: int = 9  # in Grafana's units of about 38 pixels
    # A number in a percent column is a warning from the first value on, and bad from the second.
    thresholds: tuple[float, float] | None = None
    # Of every row, point, slice, node and edge. A click on a chart follows the first.
    links: tuple[Link, ...] = ()
    # The traces that are compared with the others where the explorer's panel leads to what differs.
    compared: Literal["", "slow", "failed"] = ""


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The single figure that represents a dashboard on the home page, computed from one column of a statement."""

    statement: str
    column: str
    aggregate: Literal["last", "sum", "count"]  # the last row's value, the sum of all rows, or the number of rows
    caption: str  # follows the figure and its unit


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    uid: str
    slug: str
    title: str
    description: str
    headline: Headline
    panels: tuple[Panel, ...]
    # Parameters other than the time range, with their defaults. Statement `<name>s` of variables.sql has the choices.
    variables: tuple[tuple[str, str], ...] = ()


class Statement(NamedTuple):
    sql: str  # with parameters as `:name`
    description: str  # the comment above it: its first sentence says what it is for


@functools.cache
def statements() -> Mapping[str, Statement]:
    """The statements by their names."""
    # Of aiosql's adapters, sqlite3's is the one that leaves `:name` as it is.
    queries = aiosql.from_path(FOLDER, "sqlite3", kwargs_only=True)
    names = (name for name in queries.available_queries if not name.endswith("_cursor"))
    return {name: Statement(getattr(queries, name).sql, getattr(queries, name).__doc__ or "") for name in names}


def substitute(statement: str, values: Mapping[str, str]) -> str:
    """The statement with each `:parameter` replaced by a piece of SQL. Raises KeyError if a value is missing."""
    # Not preceded by a colon, which would make it a cast (`::service`), nor by a letter.
    parameter = rf"(?<![:\w]):({'|'.join(PARAMETERS)})\b"
    return re.sub(parameter, lambda match: values[match[1]], statement)
