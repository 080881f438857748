"""The service map: which service calls which in a time range or in the traces of a search, how often, how many calls
fail, and how long they take.

Calls are counted in summaries per minute, for whole minutes. Percentiles, and everything about a search, are those of a
sample of traces. Without the database, the map has the numbers of calls only, by Jaeger's storage API.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import aiosql
import psycopg
from flask import Blueprint, render_template, request, url_for

import queries
from explorer import graph, links
from explorer.analysis.matching import matching
from explorer.analysis.selection import Selection
from explorer.database import STATEMENT_SECONDS, Database, message
from explorer.query import read_query
from explorer.search_page import form_values
from explorer.store import Store
from explorer.waterfall import cut
from explorer.web import count, quantity
from frame import with_query
from queries import MILLISECONDS, PER_SECOND, PERCENT

MAX_TRACES = 1000  # of a sample
_MINUTE = timedelta(minutes=1)
_SEARCH = ("service", "operation", "tags", "tag", "minDuration", "maxDuration")
_STATEMENTS = aiosql.from_path(Path(__file__).with_name("service_map.sql"), "psycopg", kwargs_only=True)


class Calls(NamedTuple):
    """Calls of a callee: by one caller, or by all with the caller ""."""

    caller: str
    callee: str
    calls: int
    errors: int = 0
    p95_ms: float | None = None  # None if the sample has no such call


class Map(NamedTuple):
    """`services` has each service once, `calls` each pair of caller and callee; the most frequent calls first.

    Without `seconds`, only the numbers of calls are known.
    """

    services: list[Calls]
    calls: list[Calls]
    seconds: float = 0
    sampled: int = 0  # traces
    traces: int = 0  # of which the sample is


def service_map(store: Store, database: Database | None) -> Blueprint:
    page = Blueprint("service_map", __name__)

    @page.get("/dependencies")
    def show() -> tuple[str, int]:
        query, services = read_query(request.args), store.services()
        selection = Selection.of_query(query)
        begin, end = _whole_minutes(selection)
        problem, status = "", 200
        try:
            found = (
                read_map(database, dataclasses.replace(selection, time_from=begin, time_to=end))
                if database
                else _counted(store.dependencies(query.start, query.end))
            )
        except psycopg.errors.QueryCanceled:
            found, status = Map([], []), 504
            problem = f"The map was not ready within {STATEMENT_SECONDS} s. Choose a shorter range or fewer conditions."
        except psycopg.Error as error:
            found, problem, status = Map([], []), message(error), 503
        colours = queries.colour_numbers([*services, *(row.callee for row in found.services)])
        shown = _Shown(found, colours, (begin, end) if database else None)
        html = render_template(
            "dependencies.html",
            **form_values(store, services, query),
            with_database=database is not None,
            problem=problem,
            is_all=selection.is_all,
            found=found,
            shown=shown,
            drawing=graph.draw([shown.box(row) for row in found.services], [shown.edge(row) for row in found.calls]),
            colours=colours,
        )
        return html, status

    return page


def read_map(database: Database, selection: Selection) -> Map:
    """The map of the selection. Raises psycopg.Error."""
    # The sample of all traces is one of those whose root span starts in the time range: these are found by an index.
    matches = matching(dataclasses.replace(selection, root=selection.root or selection.is_all))
    statement = _STATEMENTS.sampled_calls.sql.replace("{matches}", matches.text)
    rows = database.run(statement, matches.parameters | {"most": MAX_TRACES}).as_dicts()
    traces = rows[0]["traces"] if rows else 0
    sampled = min(traces, MAX_TRACES)
    # Of a sample, the numbers are estimates for all traces.
    factor = traces / sampled if sampled else 1
    pairs = [
        Calls(
            row["caller"] or "",
            row["callee"],
            round(row["calls"] * factor),
            round(row["errors"] * factor),
            row["p95_ms"],
        )
        for row in rows
        if not row["of_all"]
    ]
    p95_ms = {row["callee"]: row["p95_ms"] for row in rows if row["of_all"]}
    if selection.is_all:
        known = {(row.caller, row.callee): row.p95_ms for row in pairs}
        times = {"time_from": selection.time_from, "time_to": selection.time_to}
        pairs = [
            Calls(caller or "", callee, calls, errors, known.get((caller or "", callee)))
            for caller, callee, calls, errors in database.run(_STATEMENTS.calls.sql, times).rows
        ]
    seconds = (selection.time_to - selection.time_from).total_seconds()
    return Map(*_sorted(pairs, p95_ms), seconds, sampled, traces)


def _counted(dependencies: Iterable[tuple[str, str, int]]) -> Map:
    return Map(*_sorted([Calls(*row) for row in dependencies], {}))


def _sorted(pairs: list[Calls], p95_ms: Mapping[str, float]) -> tuple[list[Calls], list[Calls]]:
    """Services and calls of a map. Pairs without a caller, as root spans, are in the sums of their callee only."""
    sums = {name: Calls("", name, 0, 0, p95_ms.get(name)) for pair in pairs for name in pair[:2] if name}
    for pair in pairs:
        known = sums[pair.callee]
        sums[pair.callee] = known._replace(calls=known.calls + pair.calls, errors=known.errors + pair.errors)
    services, calls = (
        sorted(rows, key=lambda row: (-row.calls, row.callee, row.caller))
        for rows in (sums.values(), [pair for pair in pairs if pair.caller])
    )
    return services, calls


def _whole_minutes(selection: Selection) -> links.TimeRange:
    """The minutes that the selection's range touches, up to now."""
    begin = selection.time_from.replace(second=0, microsecond=0)
    end = (selection.time_to - timedelta(microseconds=1)).replace(second=0, microsecond=0)
    with_minute = end + _MINUTE if end.year < 9999 else selection.time_to
    return begin, max(min(with_minute, datetime.now(UTC)), begin + timedelta(seconds=1), selection.time_to)


class _Shown:
    """The texts and links of a map. Without times, there are numbers of calls and searches by service only."""

    def __init__(self, found: Map, colours: Mapping[str, int], times: links.TimeRange | None) -> None:
        self._seconds, self._colours = found.seconds, colours
        parameters = request.args.to_dict(flat=False)
        kept = _SEARCH if times else ("lookback", "start", "end")
        self._search: dict[str, Any] = {name: parameters[name] for name in kept if any(parameters.get(name, []))}
        if times:
            begin, end = links.search_times(times)
            self._search |= {"lookback": "custom", "start": begin, "end": end}
        self._exact = times is not None

    def box(self, row: Calls) -> graph.Box:
        return graph.Box(
            id=row.callee,
            name=row.callee,
            figures=self._figures(row) if row.calls and self._exact else "",
            title=f"{cut(row.callee, 200)}: {self.facts(row)}",
            colour=self._colours[row.callee],
            url=self.url(row),
            failures=self._failures(row),
        )

    def edge(self, row: Calls) -> graph.Edge:
        return graph.Edge(
            source=row.caller,
            target=row.callee,
            text=self._figures(row) if self._exact else f"{row.calls:,}",
            title=f"{cut(row.caller, 60)} calls {cut(row.callee, 60)}: {self.facts(row)}",
            url=self.url(row),
            failures=self._failures(row),
        )

    def facts(self, row: Calls) -> str:
        if not self._exact:
            return f"{row.calls:,}"
        facts = [count(row.calls, "call"), self.rate(row), f"{self.error_share(row)} failed", self.p95(row)]
        return ", ".join(filter(None, [*facts[:3], f"p95 {facts[3]}" if facts[3] else ""]))

    def rate(self, row: Calls) -> str:
        return quantity(row.calls / self._seconds, PER_SECOND)

    def error_share(self, row: Calls) -> str:
        return quantity(100 * row.errors / row.calls if row.calls else 0.0, PERCENT)

    def p95(self, row: Calls) -> str:
        return "" if row.p95_ms is None else quantity(row.p95_ms, MILLISECONDS)

    def url(self, row: Calls, *, failed: bool = False) -> str:
        """The traces with these calls, or "" if the URL would be too long."""
        call = (
            {"callee": row.callee, "caller": row.caller, "callFailed": "true" if failed else ""}
            if self._exact and row.calls
            else {"service": row.callee}
        )
        url = with_query(url_for("search.show"), self._search | {name: text for name, text in call.items() if text})
        return url if len(url) <= links.MAX_URL_LENGTH else ""

    def _figures(self, row: Calls) -> str:
        return ", ".join(filter(None, (self.rate(row), self.p95(row))))

    def _failures(self, row: Calls) -> graph.Failures | None:
        if not row.errors:
            return None
        title = f"{count(row.errors, 'failed call')}: show their traces"
        return graph.Failures(
            row.errors / row.calls, title, self.url(row, failed=True), f"{self.error_share(row)} failed"
        )
