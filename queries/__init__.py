"""The demo's SQL, and the dashboards that show it: one definition, for Grafana's builder and for the explorer.

What a column's numbers are is in its name, as docs/queries.md has it: `_ms` milliseconds, `_percent` 0 to 100,
`_per_second` a rate. What a parameter may be is in `PARAMETERS`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import quote

import aiosql

from telemetry import services

FOLDER = Path(__file__).parent
PARAMETERS = ("time_from", "time_to", "service", "operation", "step")

# Of the services, one for each, the same on every page: twelve that differ from a light and from a dark background by
# 3:1 and more, as WCAG wants of graphics. The demo's own services have the first ones.
COLOURS = (
    *("#2f7fd1", "#c2611a", "#2c8f57", "#a64fb8", "#8a7a1c", "#6a7f92"),
    *("#1c8c97", "#c14d7c", "#6a6fd0", "#6b8a22", "#a8644a", "#93683a"),
)
SERVICES = (*services.SERVICES, "load")


def colour_numbers(services: Iterable[str]) -> dict[str, int]:
    """The place in `COLOURS` of each service's colour.

    Services other than the demo's take, in the order in which they come, those that the demo's do not use.
    """
    others = [service for service in dict.fromkeys(services) if service not in SERVICES]
    free = len(COLOURS) - len(SERVICES)
    return {service: number for number, service in enumerate(SERVICES)} | {
        service: len(SERVICES) + number % free for number, service in enumerate(others)
    }


class Kind(StrEnum):
    """How a panel shows its rows."""

    SERIES = "series"  # over steps from `time` to `time_end`, a line for each number, or of one number for each text
    PIE = "pie"  # a slice for each row: its texts, its number
    HEATMAP = "heatmap"  # cells from `time` to `time_end` and `duration_from_ms` to `duration_to_ms`, and how many
    HISTOGRAM = "histogram"  # a bar for each row, from `duration_from_ms` to `duration_to_ms`
    TABLE = "table"
    # Two statements: the nodes, of `id`, `service_name` and perhaps `span_name`; the edges, of `id`, `source`, `target`
    # and the callee's names. Both have `calls`, `errors` and `mean_ms`.
    NODE_GRAPH = "node graph"
    TRACE = "trace"  # all spans of one trace, to be chosen from those in the statement's `trace_id`


@dataclass(frozen=True)
class Link:
    """From a figure to the traces behind it: to one trace, or to a search with the fields of Jaeger's.

    A `{column}` in a text is that column of the figure's row. A search is over the time of the row, from `time` to
    `time_end`, if it has these, else over all that is shown.
    """

    title: str
    trace_id: str = ""
    service: str = ""
    operation: str = ""
    failed: bool = False  # spans with an error only
    min_duration: str = ""  # of a span; Jaeger's notation, as 1.5ms
    max_duration: str = ""
    column: str = ""  # of a table: the one whose cells lead there

    def path(self, value: Callable[[str], str], start: str, end: str) -> str:
        """Path and query at Jaeger, or at the explorer's pages for traces.

        `value` gives the text to put into a URL for a column; `start` and `end` are microseconds since 1970.
        """

        def filled(template: str) -> str:
            texts = re.split(r"\{(\w+)\}", template)
            return "".join(value(text) if number % 2 else quote(text, safe="") for number, text in enumerate(texts))

        if self.trace_id:
            return f"trace/{filled(self.trace_id)}"
        fields = {
            "service": filled(self.service),
            "operation": filled(self.operation),
            "tags": quote('{"error":"true"}') if self.failed else "",
            "minDuration": filled(self.min_duration),
            "maxDuration": filled(self.max_duration),
            "lookback": "custom",
            "start": start,
            "end": end,
        }
        return "search?" + "&".join(f"{name}={text}" for name, text in fields.items() if text)


@dataclass(frozen=True)
class Panel:
    title: str
    description: str
    kind: Kind
    statements: tuple[str, ...]  # names in queries/*.sql
    width: int = 24  # of 24 columns; panels fill rows from left to right
    height: int = 9  # in Grafana's units of about 38 pixels
    # From these values on, a number in a column ending in `_percent` is a warning, and is bad.
    thresholds: tuple[float, float] | None = None
    # From each row, point, slice, node and edge. The first one is where a click in a chart leads.
    links: tuple[Link, ...] = ()


@dataclass(frozen=True)
class Headline:
    """The one figure that stands for a dashboard in a list: one column of a statement's rows."""

    statement: str
    column: str
    of: str  # "last": the last row's, "sum": of all rows, "count": how many rows there are
    words: str  # what the figure is; its unit is in the column's name


@dataclass(frozen=True)
class Dashboard:
    uid: str
    slug: str
    title: str
    description: str
    headline: Headline
    panels: tuple[Panel, ...]
    # The parameters besides the time, with their first values; the choices are statements of variables.sql.
    variables: tuple[tuple[str, str], ...] = ()


def statements() -> dict[str, str]:
    """The SQL of each statement by its name, with parameters as `:name`."""
    # The adapter for sqlite3 is the one that leaves parameters as they are written.
    queries = aiosql.from_path(FOLDER, "sqlite3", kwargs_only=True)
    return {name: getattr(queries, name).sql for name in queries.available_queries if not name.endswith("_cursor")}


def filled(statement: str, values: Mapping[str, str]) -> str:
    """The SQL of a statement with pieces of SQL in the place of its parameters; there must be one for each."""
    return re.sub(rf"(?<![:\w]):({'|'.join(PARAMETERS)})\b", lambda found: values[found[1]], statement)
