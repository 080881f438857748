"""The demo's SQL, and the dashboards that show it: one definition, for Grafana's builder and for the explorer.

What a column's numbers are is in its name, as docs/queries.md has it: `_ms` milliseconds, `_percent` 0 to 100,
`_per_second` a rate. What a parameter may be is in `PARAMETERS`.
"""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import aiosql

FOLDER = Path(__file__).parent
PARAMETERS = ("time_from", "time_to", "service", "operation")


class Kind(StrEnum):
    """How a panel shows its rows."""

    SERIES = "series"  # lines over `time`: a line for each number, or for each value of the one text column
    PIE = "pie"  # a slice for each row: its text, its number
    HEATMAP = "heatmap"  # cells from `time` to `time_end` and `duration_from_ms` to `duration_to_ms`, and how many
    HISTOGRAM = "histogram"  # a bar for each row, from `duration_from_ms` to `duration_to_ms`
    TABLE = "table"  # a `trace_id` is a link to its trace
    NODE_GRAPH = "node graph"  # two statements: the nodes and the edges, with the columns of Grafana's node graph


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
