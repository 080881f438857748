"""What an experiment reads from the trace database."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import aiosql
import psycopg

from experiments.indicators import Indicator, Measurements
from experiments.scoring import Ranking
from experiments.truth import Span
from promscale.database import reader_conninfo

_STATEMENTS = aiosql.from_path(Path(__file__).with_name("experiments.sql"), "psycopg")
_BASELINES = aiosql.from_path(Path(__file__).with_name("baselines.sql"), "psycopg")
BASELINES = ("self_time", "error_origins")
_FETCHED_SPANS = 10_000  # at a time


class Period(NamedTuple):
    """From a time to another one."""

    start: datetime
    end: datetime

    def parameters(self) -> dict[str, Any]:
        return {"time_from": self.start, "time_to": self.end}


class Counts(NamedTuple):
    traces: int
    spans: int
    errors: int


class Store:
    """The traces of periods: those whose root span starts and ends in it. Every method raises psycopg.Error."""

    def __init__(self, uri: str) -> None:
        conninfo = reader_conninfo(uri, "experiment", statement_timeout="5min")
        self._connection = psycopg.connect(conninfo, autocommit=True)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def version(self) -> str:
        """PostgreSQL's."""
        return self._connection.info.parameter_status("server_version") or ""

    def counts(self, period: Period) -> Counts:
        [row] = self._rows("counts", period.parameters())
        return Counts(*row)

    def operations(self, period: Period) -> list[tuple[str, str]]:
        """Services and names of spans."""
        return self._rows("operations", period.parameters())

    def measurements(self, period: Period, indicator: Indicator) -> list[Measurements]:
        """Of each trace."""
        values = {"service": indicator.service, "operation": indicator.operation}
        return [Measurements(*row) for row in self._rows("measurements", period.parameters() | values)]

    def affected(self, period: Period) -> Iterator[Span]:
        """All spans of the traces in which a fault took effect, trace by trace."""
        with self._connection.transaction(), self._connection.cursor("affected") as cursor:
            cursor.itersize = _FETCHED_SPANS
            cursor.execute(_sql("affected"), period.parameters())
            yield from map(Span._make, cursor)

    def baseline(self, name: str, before: Period, during: Period) -> Ranking:
        """The operations that a baseline suspects, the most suspicious first."""
        times = {"before_from": before.start, "before_to": before.end}
        times |= {"during_from": during.start, "during_to": during.end}
        rows = self._connection.execute(getattr(_BASELINES, name).sql, times)
        return [f"{service}/{operation}" for service, operation, _ in rows]

    def _rows(self, statement: str, values: Mapping[str, Any]) -> list[Any]:
        return self._connection.execute(_sql(statement), values).fetchall()


def _sql(statement: str) -> bytes:
    text = f"with {_STATEMENTS.spans.sql}\n{getattr(_STATEMENTS, statement).sql}"
    return text.encode()
